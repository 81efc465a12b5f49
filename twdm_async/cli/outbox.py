"""The commands about the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from twdm_async.cli.connect import (
    DEFAULT_API_URL,
    ApiUrl,
    OutboxFile,
    QuotaStoreUrl,
    SettleAfter,
    Username,
    open_client,
    open_outbox,
    run,
)
from twdm_async.cli.send_many import PriorityName
from twdm_async.cli.signals import on_signal
from twdm_async.cli.terminal import show, shown
from twdm_async.errors import InvalidInput
from twdm_async.outbox import Outbox, State
from twdm_async.resources.evidence import SETTLE_AFTER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

outbox = typer.Typer(
    help="Messages that wait in a file and are sent once, whatever happens to the process.", no_args_is_help=True
)


@contextlib.asynccontextmanager
async def _opened(
    api_url: str, username: str | None, quota_store: str | None, path: str | None, settle_after: float = SETTLE_AFTER
) -> AsyncGenerator[Outbox]:
    async with (
        open_client(api_url, None, username, quota_store) as client,
        open_outbox(client, path, settle_after) as box,
    ):
        yield box


@outbox.command("put")
def put_message(
    recipient: Annotated[str, typer.Argument(help="The person's user id.")],
    text: Annotated[str, typer.Argument(help="What to write.")],
    profile: Annotated[str | None, typer.Option(help="The custom profile's id.")] = None,
    key: Annotated[
        str | None, typer.Option(help="A name for the message: the same under the same name is sent once.")
    ] = None,
    priority: Annotated[PriorityName, typer.Option(help="Interactive messages go before bulk ones.")] = (
        PriorityName.INTERACTIVE
    ),
    not_after: Annotated[
        datetime | None, typer.Option(help="When it is too late to send it, in your local time.")
    ] = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    outbox_file: OutboxFile = None,
) -> None:
    """Keep a message. `twdm outbox run` sends it."""

    async def main() -> None:
        async with _opened(api_url, username, quota_store, outbox_file) as box:
            entry = await box.put(
                recipient,
                text,
                custom_profile_id=profile,
                key=key,
                priority=priority.priority,
                not_after=not_after.astimezone(UTC) if not_after else None,
            )
            show(entry)

    run(main())


@outbox.command("run")
def run_outbox(
    forever: Annotated[bool, typer.Option("--forever", help="Go on with whatever is put, until Ctrl-C.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="How many messages may be under way at a time.")] = 16,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    outbox_file: OutboxFile = None,
    settle_after: SettleAfter = SETTLE_AFTER,
) -> None:
    """Send everything, and end when it is known what became of every message. Several may run at a time.

    Ends with 1 if this time a message was rejected, has failed or has expired, or if of one it cannot be told what
    became of it.
    """

    async def main() -> int:
        async with _opened(api_url, username, quota_store, outbox_file, settle_after) as box:
            before = await box.counts()
            counts = await _run(box, workers, forever=forever)
            show({state: count for state, count in counts.items() if count})
            is_worse = any(counts[state] > before[state] for state in (State.REJECTED, State.FAILED, State.EXPIRED))
            return 1 if is_worse or counts[State.UNKNOWN] else 0

    raise typer.Exit(run(main()))


async def _run(box: Outbox, workers: int, *, forever: bool) -> dict[State, int]:
    """Send until it is done, or until Ctrl-C."""
    stop = asyncio.Event()
    on_signal(signal.SIGINT, stop.set)
    on_signal(signal.SIGTERM, stop.set)

    async def serve() -> None:
        async with box.running(workers=workers):
            await stop.wait()

    async def finish() -> None:
        await box.drain(workers=workers)

    sending = asyncio.create_task(serve() if forever else finish())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not forever and not sending.done():
        sending.cancel()
    await asyncio.wait([sending])
    if not sending.cancelled() and (error := sending.exception()) is not None:
        raise error
    await box.idle()
    return await box.counts()


@outbox.command("status")
def status(
    key: Annotated[str | None, typer.Argument(help="Of one message. If not given, all are counted.")] = None,
    state: Annotated[State | None, typer.Option(help="Show all messages in this state.")] = None,
    processes: Annotated[
        bool, typer.Option("--processes", help="Show who works on messages, on which hosts, and since when.")
    ] = False,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    outbox_file: OutboxFile = None,
) -> None:
    """Show what became of the messages."""

    async def main() -> None:
        async with _opened(api_url, username, quota_store, outbox_file) as box:
            if key is not None:
                entry = await box.get(key)
                if entry is None:
                    raise InvalidInput(parameter="key", problem="there is no message of this key")
                show(entry)
            elif state is not None:
                show([shown(entry) for entry in await box.select(state)])
            elif processes:
                show([shown(process) for process in await box.processes()])
            else:
                show(await box.counts())

    run(main())


@outbox.command("retry")
def retry(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Of messages that were rejected, have failed or have expired.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    outbox_file: OutboxFile = None,
) -> None:
    """Let messages that were rejected, have failed or have expired be sent again, by the next run."""

    async def main() -> None:
        if bool(keys) == everything:
            raise InvalidInput(parameter="keys", problem="give some, or --all")
        async with _opened(api_url, username, quota_store, outbox_file) as box:
            chosen = keys or [entry.key for entry in await box.select(State.REJECTED, State.FAILED, State.EXPIRED)]
            show({"queued": await box.retry(*chosen)})

    run(main())


@outbox.command("purge")
def purge(
    older_than: Annotated[float, typer.Option(min=0, help="Days since their outcome.")] = 30.0,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    outbox_file: OutboxFile = None,
) -> None:
    """Forget messages that were sent or rejected, have failed or have expired, with their keys."""

    async def main() -> None:
        async with _opened(api_url, username, quota_store, outbox_file) as box:
            show({"forgotten": await box.purge(older_than=86_400 * older_than)})

    run(main())
