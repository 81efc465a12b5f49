"""``twdm media``: upload pictures, animations and films."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from twdm_async._log import printable
from twdm_async.cli.connect import open_client
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import show, standard_input
from twdm_async.endpoints import MediaApi
from twdm_async.models.media import MediaCategory

if TYPE_CHECKING:
    from twdm_async.resources.media import UploadProgress


@click.group()
def media() -> None:
    """Upload pictures, animations and films."""


@command(media, "upload", ACCOUNT)
@click.argument("file")
@click.option(
    "--category",
    type=click.Choice(get_args(MediaCategory)),
    help="What it is for. Messages need dm_image, dm_gif or dm_video.",
)
@click.option("--shared", is_flag=True, help="Let the file be used in several messages, or in a welcome message.")
@click.option(
    "--media-api",
    envvar="TWDM_MEDIA_API",
    type=click.Choice(get_args(MediaApi)),
    default="v1.1",
    show_default=True,
    help="Which of the API's two ways to upload to use.",
)
async def upload(
    options: Options, file: str, category: MediaCategory | None, shared: bool, media_api: MediaApi
) -> None:
    """Upload a FILE, wait until it can be used, and show its media id.

    FILE is a PNG, JPEG, WEBP, GIF, MP4 or MOV; - reads it from standard input.
    """
    name = printable(Path(file).name)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(name, total=None)

        def tell(progress: UploadProgress) -> None:
            words = name if progress.processed is None else f"{name}, processed {progress.processed} %"
            bars.update(bar, description=words, total=progress.total, completed=progress.sent)

        async with open_client(options, media_api=media_api) as client:
            source = standard_input() if file == "-" else file
            uploaded = await client.media.upload(source, category=category, shared=shared, progress=tell)
    show(options, uploaded)
