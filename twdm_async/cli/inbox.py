"""``twdm inbox``: show, retry or forget events that were received but not handled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twdm_async.cli.connect import inbox_place
from twdm_async.cli.options import INBOX, STORE, Options, command
from twdm_async.cli.terminal import code_for, fields, show
from twdm_async.errors import InvalidInput
from twdm_async.resources.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def inbox() -> None:
    """Show, retry or forget events that were not handled.

    These are events that a webhook received, and that its program failed to handle or that could not be read.
    """


_EVENTS = click.argument("events", metavar="[EVENT]...", nargs=-1)
_NOT_THERE: Final = "are not there; see `twdm inbox failed` and `twdm inbox unread`"
_ALL = click.option("--all", "everything", is_flag=True, help="All events that were not handled.")
_ACCOUNT = click.option("--account", metavar="ID", help="Only events that the account with this user id has received.")


def _open(options: Options) -> Inbox:
    place = inbox_place(options)
    if isinstance(place, Path) and not place.exists():
        raise InvalidInput(parameter="inbox", problem=f"there is no inbox at {place}")
    return Inbox(place)


@command(inbox, "failed", INBOX, STORE)
async def failed(options: Options) -> None:
    """Show the events whose handler has failed.

    Each is shown with the handler's error, which may repeat a message's text.
    """
    async with _open(options) as box:
        show(options, [fields(one) | {"problem": one.problem} for one in await box.failed()])


@command(inbox, "unread", INBOX, STORE)
async def unread(options: Options) -> None:
    """Show the events about messages that could not be read.

    Of each, the names of its fields are shown.
    """
    async with _open(options) as box:
        show(options, [fields(one) | {"problem": one.problem} for one in await box.unread()])


@command(inbox, "retry", INBOX, STORE)
@_EVENTS
@_ALL
@_ACCOUNT
async def retry(options: Options, events: Sequence[str], everything: bool, account: str | None) -> int:
    """Let the webhook's program handle events again.

    The program whose webhook uses this inbox does so within half a minute, or when it starts. The exit code is 1 if
    neither `failed` nor `unread` shows one of the EVENTs.
    """
    _check_choice(events, everything=everything)
    async with _open(options) as box:
        count = await box.retry(*await _chosen(box, events), account=account)
        show(options, {"to be handled": count})
    return code_for(count, events, _NOT_THERE)


@command(inbox, "forget", INBOX, STORE)
@_EVENTS
@_ALL
@_ACCOUNT
async def forget(options: Options, events: Sequence[str], everything: bool, account: str | None) -> int:
    """Give up on events, and delete their content.

    The exit code is 1 if neither `failed` nor `unread` shows one of the EVENTs.
    """
    _check_choice(events, everything=everything)
    async with _open(options) as box:
        count = await box.forget(*await _chosen(box, events), account=account)
        show(options, {"forgotten": count})
    return code_for(count, events, _NOT_THERE)


def _check_choice(events: Sequence[str], *, everything: bool) -> None:
    if bool(events) == everything:
        raise InvalidInput(parameter="events", problem="give the ids of events, or --all")


async def _chosen(box: Inbox, events: Sequence[str]) -> Sequence[str]:
    return events or [one.id for one in (*await box.failed(), *await box.unread())]
