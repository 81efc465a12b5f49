"""``twdm outbox``: queue messages on the disk, and send them."""

from __future__ import annotations

import asyncio
import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from twdm_async.cli.connect import open_client_and_outbox
from twdm_async.cli.content import ATTACHMENT, BUTTONS, CHOICES, attachment, checked_message
from twdm_async.cli.options import ACCOUNT, OUTBOX, PRIORITY, Options, command
from twdm_async.cli.progress import Progress, show_waits
from twdm_async.cli.signals import told_to_stop
from twdm_async.cli.terminal import code_for, message_fields, show
from twdm_async.errors import InvalidInput
from twdm_async.models.attachments import attachment_json
from twdm_async.outbox import Outbox, Review, State
from twdm_async.quota.spec import Priority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.client import Client
    from twdm_async.outbox import Entry, HeldMessage

_FAILED = (State.REJECTED, State.FAILED, State.EXPIRED)


@click.group()
def outbox() -> None:
    """Queue messages on the disk, and send each of them once.

    They wait in a file or a database, so this holds whatever happens to the process.
    """


@command(outbox, "put", ACCOUNT, OUTBOX)
@click.argument("recipient")
@click.argument("text")
@click.option("--profile", metavar="ID", help="The custom profile's id.")
@click.option("--key", help="A name for the message. If it is put again under the same name, it is still sent once.")
@PRIORITY("interactive", "Interactive messages are sent before bulk ones.")
@click.option("--not-after", type=click.DateTime(), help="Do not send the message after this time (your local time).")
@click.option("--hold", is_flag=True, help="Hold the message until a person approves it: `twdm outbox approve`.")
@CHOICES
@BUTTONS
@ATTACHMENT
async def put(
    options: Options,
    recipient: str,
    text: str,
    profile: str | None,
    key: str | None,
    priority: str,
    not_after: datetime | None,
    hold: bool,
    choice: Sequence[str],
    button: Sequence[str],
    attach: str | None,
) -> None:
    """Put a message into the outbox. `twdm outbox run` sends it.

    RECIPIENT is the person's user id. TEXT has at most 10 000 characters; - reads it from standard input.
    """
    message = checked_message(recipient, text, profile, choice, button, attach)
    async with open_client_and_outbox(options) as (client, box):
        entry = await box.put(
            recipient,
            **message,
            key=key,
            priority=Priority[priority.upper()],
            not_after=not_after.astimezone(UTC) if not_after else None,
            hold=hold,
            attachment=await attachment(client, attach),
        )
        show(options, entry)


@command(outbox, "run", ACCOUNT, OUTBOX)
@click.option("--forever", is_flag=True, help="Also send messages that are put later, until Ctrl-C.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="How many messages may be under way at a time.",
)
async def run(options: Options, forever: bool, workers: int) -> int:
    """Send all messages, and end when each has an outcome.

    Show how many messages are then in each state. While the API cannot be reached, this goes on trying. Several of
    these commands may run at the same time. The exit code is 1 if a message was rejected, failed or expired
    during this run, or if it is not known whether a message arrived; and 3 if messages would wait for quota longer than
    --max-wait allows. Those stay in the outbox.
    """
    async with open_client_and_outbox(options) as (client, box):
        before = await box.counts()
        counts = await _run(options, client, box, workers, forever=forever)
        if counts is None:
            return 130
        show(options, {state: count for state, count in counts.items() if count})
        is_worse = any(counts[state] > before[state] for state in _FAILED)
        return 1 if is_worse or counts[State.UNKNOWN] else 0


async def _run(
    options: Options, client: Client, box: Outbox, workers: int, *, forever: bool
) -> dict[State, int] | None:
    """Send until all messages have an outcome, or until messages would have to wait for too long. Return how many
    messages are in each state; ``None`` if the process was told to stop before.
    """
    words = "stopping: what is under way is finished; a second Ctrl-C ends it at once"
    with told_to_stop(words) as stop, Progress(Console(stderr=True), None) as progress:

        async def finish() -> None:
            await box.drain(workers=workers)

        async def serve() -> None:
            async with box.running(workers=workers):
                await stop.wait()

        sending = asyncio.create_task(serve() if forever else finish())
        watching = asyncio.create_task(show_waits(progress, client, box, max_wait=options.max_wait, counted=True))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([sending, watching, stopping], return_when=asyncio.FIRST_COMPLETED)
        is_stopped = stop.is_set() and not forever
        ended = [task for task in (sending, watching) if task.done()]
        stop.set()  # so that serve() ends in order
        for task in (watching, stopping, *([] if forever else [sending])):
            task.cancel()
        await asyncio.wait([sending, watching, stopping])
        await box.idle()
    for task in [*ended, *([sending] if forever else [])]:
        task.result()
    return None if is_stopped else await box.counts()


@command(outbox, "status", ACCOUNT, OUTBOX)
@click.argument("key", required=False)
@click.option("--state", type=click.Choice([one.value for one in State]), help="Show all messages in this state.")
@click.option(
    "--processes", is_flag=True, help="Show the processes that use the outbox, with their hosts and start times."
)
async def status(options: Options, key: str | None, state: str | None, processes: bool) -> None:
    """Show how many messages are in each state.

    With KEY, show what became of the message with this key.
    """
    async with open_client_and_outbox(options) as (_, box):
        if key is not None:
            entry = await box.get(key)
            if entry is None:
                raise InvalidInput(parameter="key", problem="there is no message of this key")
            show(options, entry)
        elif state is not None:
            show(options, await box.select(State(state)))
        elif processes:
            show(options, await box.processes())
        else:
            show(options, await box.counts())


@command(outbox, "held", ACCOUNT, OUTBOX)
async def held(options: Options) -> None:
    """Show the messages that wait for a person's approval, with their texts."""
    async with open_client_and_outbox(options) as (_, box):
        found = await box.held()
        show(options, [_shown(one) for one in found])


def _shown(one: HeldMessage) -> dict[str, Any]:
    attached = None if one.message.attachment is None else attachment_json(one.message.attachment)
    more = {"attachment": attached, "put_at": one.entry.put_at, "not_after": one.entry.not_after}
    shown = {name: value for name, value in more.items() if value is not None}
    return {"key": one.entry.key} | message_fields(one.message) | shown


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return ""


_BY = click.option("--by", metavar="NAME", default=_user, show_default="your user name", help="Who decides.")


@command(outbox, "approve", ACCOUNT, OUTBOX)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@_BY
async def approve(options: Options, keys: Sequence[str], by: str) -> int:
    """Let held messages be sent.

    KEYs are those that `twdm outbox held` shows. The exit code is 1 if the time of a message is over.
    """
    entries: list[Entry] = []
    async with open_client_and_outbox(options) as (_, box):
        try:
            for key in keys:
                entries.append(await box.approve(key, by=by))  # noqa: PERF401 - those before an error are shown, too
        finally:
            show(options, entries)
    return 1 if any(entry.review is Review.WANTED for entry in entries) else 0


@command(outbox, "reject", ACCOUNT, OUTBOX)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("--why", metavar="TEXT", required=True, help="The reason, which is kept with the message.")
@_BY
async def reject(options: Options, keys: Sequence[str], why: str, by: str) -> None:
    """Reject held messages: they are never sent."""
    entries: list[Entry] = []
    async with open_client_and_outbox(options) as (_, box):
        try:
            for key in keys:
                entries.append(await box.reject(key, why=why, by=by))  # noqa: PERF401 - as for `approve`
        finally:
            show(options, entries)


@command(outbox, "withdraw", ACCOUNT, OUTBOX)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
async def withdraw(options: Options, keys: Sequence[str]) -> int:
    """Delete messages that have not left, and their keys.

    The exit code is 1 if a message has left, or does not exist.
    """
    async with open_client_and_outbox(options) as (_, box):
        count = await box.withdraw(*keys)
        show(options, {"withdrawn": count})
    return code_for(count, keys, "have left, are about to leave, or do not exist; see `twdm outbox status KEY`")


@command(outbox, "retry", ACCOUNT, OUTBOX)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All messages that were rejected, have failed or have expired.")
async def retry(options: Options, keys: Sequence[str], everything: bool) -> int:
    """Queue messages again that were rejected, failed or expired.

    `twdm outbox run` then sends them. The exit code is 1 if a KEY is not the key of such a message.
    """
    if bool(keys) == everything:
        raise InvalidInput(parameter="keys", problem="give the keys of messages, or --all")
    async with open_client_and_outbox(options) as (_, box):
        chosen = keys or [entry.key for entry in await box.select(*_FAILED)]
        count = await box.retry(*chosen)
        show(options, {"queued": count})
    return code_for(count, keys, "are in another state, or do not exist; see `twdm outbox status KEY`")


@command(outbox, "purge", ACCOUNT, OUTBOX)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="How many days ago a message must have got its outcome.",
)
async def purge(options: Options, older_than: float) -> None:
    """Forget old messages that have an outcome, and their keys.

    These are messages that were sent or rejected, have failed or have expired.
    """
    async with open_client_and_outbox(options) as (_, box):
        show(options, {"forgotten": await box.purge(older_than=86_400 * older_than)})
