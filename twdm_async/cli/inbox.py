"""``twdm inbox``: events that were received, and not handled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twdm_async.cli.connect import InboxFile, QuotaStoreUrl, inbox_place, run
from twdm_async.cli.terminal import show, shown
from twdm_async.errors import InvalidInput
from twdm_async.resources.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Sequence

inbox = typer.Typer(
    help="Events that a webhook received, and that its program failed to handle, or that could not be read.",
    no_args_is_help=True,
)

Ids = Annotated[list[str] | None, typer.Argument(help="Of events, as `failed` and `unread` show them.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them.")]


def _inbox(inbox_file: str | None, quota_store: str | None) -> Inbox:
    place = inbox_place(inbox_file, quota_store)
    if isinstance(place, Path) and not place.exists():
        raise InvalidInput(parameter="inbox", problem=f"there is none at {place}; name it with --inbox")
    return Inbox(place)


@inbox.command()
def failed(inbox_file: InboxFile = None, quota_store: QuotaStoreUrl = None) -> None:
    """Show the events whose handler has failed, and its error, which may repeat a text."""

    async def main() -> None:
        async with _inbox(inbox_file, quota_store) as box:
            show([shown(one) | {"problem": one.problem} for one in await box.failed()])

    run(main())


@inbox.command()
def unread(inbox_file: InboxFile = None, quota_store: QuotaStoreUrl = None) -> None:
    """Show what X has told of messages and could not be read, by the names of its fields."""

    async def main() -> None:
        async with _inbox(inbox_file, quota_store) as box:
            show([shown(one) | {"problem": one.problem} for one in await box.unread()])

    run(main())


@inbox.command()
def retry(
    ids: Ids = None, everything: Everything = False, inbox_file: InboxFile = None, quota_store: QuotaStoreUrl = None
) -> None:
    """Let events be handled again, by the program whose webhook uses this inbox, within half a minute."""

    async def main() -> None:
        async with _inbox(inbox_file, quota_store) as box:
            show({"to be handled": await box.retry(*await _chosen(box, ids, everything=everything))})

    run(main())


@inbox.command()
def forget(
    ids: Ids = None, everything: Everything = False, inbox_file: InboxFile = None, quota_store: QuotaStoreUrl = None
) -> None:
    """Let events be, and forget their content."""

    async def main() -> None:
        async with _inbox(inbox_file, quota_store) as box:
            show({"forgotten": await box.forget(*await _chosen(box, ids, everything=everything))})

    run(main())


async def _chosen(box: Inbox, ids: Sequence[str] | None, *, everything: bool) -> Sequence[str]:
    if bool(ids) == everything:
        raise InvalidInput(parameter="ids", problem="give some, or --all")
    return ids or [one.id for one in (*await box.failed(), *await box.unread())]
