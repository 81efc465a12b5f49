"""``twdm media``: pictures, animations and films."""

from __future__ import annotations

import enum
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from twdm_async.cli.connect import (
    DEFAULT_API_URL,
    ApiUrl,
    QuotaStoreUrl,
    UploadUrl,
    Username,
    open_client,
    run,
)
from twdm_async.cli.terminal import printable, show
from twdm_async.models.media import MediaCategory

if TYPE_CHECKING:
    from twdm_async.resources.media import UploadProgress

media = typer.Typer(help="Upload pictures, animations and films.", no_args_is_help=True)


class CategoryName(enum.StrEnum):
    """What a file is for."""

    TWEET_IMAGE = "tweet_image"
    TWEET_GIF = "tweet_gif"
    TWEET_VIDEO = "tweet_video"
    DM_IMAGE = "dm_image"
    DM_GIF = "dm_gif"
    DM_VIDEO = "dm_video"


class MediaApiName(enum.StrEnum):
    """Which of the API's two ways to upload is taken."""

    V1_1 = "v1.1"
    V2 = "v2"


@media.callback()
def group() -> None:
    """Upload pictures, animations and films."""


@media.command()
def upload(
    file: Annotated[Path, typer.Argument(help="PNG, JPEG, WEBP, GIF, MP4 or MOV.")],
    category: Annotated[
        CategoryName | None, typer.Option(help="What it is for; messages need one that begins with dm_.")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="So that it can be used in several messages, or in a welcome message.")
    ] = False,
    media_api: Annotated[
        MediaApiName, typer.Option(envvar="TWDM_MEDIA_API", help="The API's version.")
    ] = MediaApiName.V1_1,
    api_url: ApiUrl = DEFAULT_API_URL,
    upload_url: UploadUrl = None,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Upload a file, and wait until it can be used. Its media id is shown."""

    async def main() -> None:
        chosen = next((one for one in get_args(MediaCategory) if one == category), None)
        name = printable(file.name)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task(name, total=None)

            def tell(progress: UploadProgress) -> None:
                words = name if progress.processed is None else f"{name}, processed {progress.processed} %"
                bars.update(bar, description=words, total=progress.total, completed=progress.sent)

            async with open_client(api_url, upload_url, username, quota_store, media_api=media_api.value) as client:
                uploaded = await client.media.upload(file, category=chosen, shared=shared, progress=tell)
        show(uploaded)

    run(main())
