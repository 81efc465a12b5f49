"""Receiving by reading the list: within its quota, nothing missed, nothing twice, over restarts."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import HANGS
from tests.virtual_time import run
from twdm_async import (
    Client,
    DeliveryUnknown,
    DirectMessage,
    Forbidden,
    Inbox,
    InboxFailed,
    InvalidInput,
    LoopClock,
    MemoryQuotaStore,
)
from twdm_async.quota.operations import Conversant
from twdm_async.resources.inbox import Received
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path


def polling(
    test: Callable[[Client, Sandbox], Coroutine[Any, Any, None]], wrong_by: float = 0.0, **options: Any
) -> None:
    """Run `test` in virtual time: rounds are a minute apart. The client's clock is wrong."""

    async def main() -> None:
        clock = LoopClock(wrong_by=wrong_by)
        async with (
            Sandbox(clock=LoopClock()) as sandbox,
            Client(
                sandbox.credentials,
                api_url=sandbox.url,
                upload_url=sandbox.url,
                clock=clock,
                quota_store=MemoryQuotaStore(clock=clock),
                **options,
            ) as client,
        ):
            await test(client, sandbox)
            assert sandbox.breaches == []

    run(main())


@contextlib.asynccontextmanager
async def collecting(
    client: Client, inbox: Inbox | None, into: list[str | None], **options: Any
) -> AsyncIterator[None]:
    """Texts come into `into` as long as the block lasts."""

    async def collect() -> None:
        async for message in client.direct_messages.poll(inbox, **options):
            into.append(message.text)  # noqa: PERF401 - a list that is extended has nothing before it ends

    task = asyncio.ensure_future(collect())
    await asyncio.sleep(1)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.soak
def test_what_people_write_comes_once_and_in_order() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        sandbox.person(5).writes("before it began")
        await asyncio.sleep(1)
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            for number in range(130):  # more than two pages, and an echo among them
                sandbox.person(5 + number % 7).writes(f"{number} <3")
                if number == 77:
                    await client.direct_messages.send(5, "an echo")
                await asyncio.sleep(11)
            await asyncio.sleep(4000)
        assert seen == [f"{number} <3" for number in range(130)]

    polling(main)


def test_echoes_if_wanted_and_from_when() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        sandbox.person(5).writes("long ago")
        await asyncio.sleep(100)
        since = datetime.fromtimestamp(client.clock.wall(), UTC)
        sandbox.person(5).writes("lately")
        seen: list[str | None] = []
        async with collecting(client, None, seen, sent=True, since=since):
            await client.direct_messages.send(5, "an echo")
            await asyncio.sleep(200)
        assert seen == ["lately", "an echo"]

    polling(main)


@pytest.mark.parametrize("wrong_by", [-3600.0, -240.0, 240.0, 3600.0])
@pytest.mark.parametrize("before", [0, 1])
def test_fault_34_a_clock_that_is_wrong_when_an_account_is_first_polled(wrong_by: float, before: int) -> None:
    """By less than the API notices, or by so much that it refuses the first request."""

    async def main(client: Client, sandbox: Sandbox) -> None:
        for _ in range(before):
            sandbox.person(6).writes("before it began")
        await asyncio.sleep(60)
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            for number in range(10):
                await asyncio.sleep(30)
                sandbox.person(5).writes(f"{number}")
            await asyncio.sleep(4000)
        assert seen == [f"{number}" for number in range(10)]

    polling(main, wrong_by)


@pytest.mark.parametrize("wrong_by", [-240.0, 0.0, 60.0, 240.0])
def test_fault_34_nothing_is_missed_if_the_first_read_fails_for_a_while(wrong_by: float) -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        unreadable = Fault("503", endpoint="direct_messages.list")
        sandbox.faults.append(unreadable)
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            await asyncio.sleep(50)
            sandbox.person(5).writes("before it could read")
            await asyncio.sleep(50)
            sandbox.faults.remove(unreadable)
            await asyncio.sleep(200)
            sandbox.person(5).writes("afterwards")
            await asyncio.sleep(200)
        assert seen == ["before it could read", "afterwards"]

    polling(main, wrong_by)


def test_what_was_written_just_before_the_first_poll_is_not_new() -> None:
    """Replies tell the server's time in whole seconds."""

    async def main(client: Client, sandbox: Sandbox) -> None:
        now = client.clock.wall()
        await asyncio.sleep(math.ceil(now) - now + 0.5)
        sandbox.person(5).writes("before it began")
        await asyncio.sleep(0.3)
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            sandbox.person(5).writes("afterwards")
            await asyncio.sleep(200)
        assert seen == ["afterwards"]

    polling(main)


def test_a_reply_whose_date_is_wrong_by_an_hour_is_not_believed() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        sandbox.faults.append(Fault("date_ahead", endpoint="direct_messages.list"))
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            for number in range(5):
                await asyncio.sleep(60)
                sandbox.person(5).writes(f"{number}")
            await asyncio.sleep(200)
        assert seen == [f"{number}" for number in range(5)]

    polling(main)


def test_a_message_of_the_future_moves_no_first_poll() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        event = sandbox.person(6).writes("dated wrongly")
        shown = sandbox._state.events[event].shown
        shown["created_timestamp"] = str(int(shown["created_timestamp"]) + 3_600_000)
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            for number in range(5):
                sandbox.person(5).writes(f"{number}")
                await asyncio.sleep(60)
        assert [text for text in seen if text != "dated wrongly"] == [f"{number}" for number in range(5)]

    polling(main, 240.0)


def test_a_poll_that_ends_during_its_first_messages_begins_there_again() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        inbox = Inbox()
        unreadable = Fault("503", endpoint="direct_messages.list")
        sandbox.faults.append(unreadable)
        first = client.direct_messages.poll(inbox)
        coming = asyncio.ensure_future(anext(first))
        await asyncio.sleep(10)
        for number in range(3):
            sandbox.person(5).writes(f"{number}")
        sandbox.faults.remove(unreadable)
        assert (await coming).text == "0"
        await first.aclose()  # type: ignore[attr-defined]  # it is a generator
        seen: list[str | None] = []
        async with collecting(client, inbox, seen):
            await asyncio.sleep(200)
        assert seen == ["0", "1", "2"]
        await inbox.close()

    polling(main)


def test_a_backlog_that_takes_more_than_one_window_is_read_to_its_end() -> None:
    """Also by a client that does not want to wait for quota."""

    async def main(client: Client, sandbox: Sandbox) -> None:
        since = datetime.fromtimestamp(client.clock.wall(), UTC)
        for number in range(800):
            sandbox.person(5 + number % 400).writes(f"{number}")
        seen: list[str | None] = []
        async with collecting(client, None, seen, since=since):
            await asyncio.sleep(3600)
        assert len(seen) == len(set(seen)) == 800

    polling(main, max_wait=1.0)


@pytest.mark.soak
def test_over_restarts_nothing_is_missed_and_nothing_comes_twice() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        number = 0

        def write(count: int) -> None:
            nonlocal number
            for _ in range(count):
                sandbox.person(5 + number % 3).writes(str(number))
                number += 1

        inbox = Inbox()  # its file's thread does not live in virtual time
        messages = client.direct_messages
        first = messages.poll(inbox)
        beginning = asyncio.ensure_future(anext(first))
        await asyncio.sleep(5)
        for restart in range(12):
            write(restart * 7)
            await asyncio.sleep(400)
            taken = 0
            if restart == 0:
                write(1)
                seen.append((await beginning).text)
                await inbox.handled(await beginning)
                await first.aclose()  # type: ignore[attr-defined]  # it is a generator
                continue
            async for message in messages.poll(inbox):
                seen.append(message.text)
                taken += 1
                if taken == restart * 5:
                    await inbox.handled(message)
                    break
        async with collecting(client, inbox, seen):
            await asyncio.sleep(4000)
        assert Counter(seen) == Counter(str(one) for one in range(number))
        await inbox.close()

    polling(main)


@pytest.mark.slow
async def test_the_inbox_remembers_over_restarts_in_its_file(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    seen: list[str | None] = []
    for restart in range(3):
        async with Inbox(tmp_path / "state.db") as inbox, asyncio.timeout(HANGS):
            poll = client.direct_messages.poll(inbox, every=1.0)
            beginning = asyncio.ensure_future(anext(poll))
            if restart == 0:
                while not [request for request in sandbox.requests if "list" in request.path]:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
            sandbox.person(5).writes(f"{restart}a")
            sandbox.person(6).writes(f"{restart}b")
            seen += [(await beginning).text, (last := await anext(poll)).text]
            await inbox.handled(last)
            await poll.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert seen == ["0a", "0b", "1a", "1b", "2a", "2b"]


async def test_only_a_received_message_can_be_handled() -> None:
    async with Inbox() as inbox:
        with pytest.raises(InvalidInput):
            await inbox.handled(DirectMessage())


def test_who_breaks_off_gets_the_last_one_again() -> None:
    """By an exception, say: it was not handled."""

    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        inbox = Inbox()
        began = datetime.fromtimestamp(client.clock.wall(), UTC)
        for number in range(3):
            sandbox.person(5).writes(str(number))
            await asyncio.sleep(1)
        for _ in range(2):
            with contextlib.suppress(RuntimeError):
                async for message in client.direct_messages.poll(inbox, since=began):
                    seen.append(message.text)
                    if len(seen) == 2:
                        raise RuntimeError
                    if message.text == "2":
                        break
        assert seen == ["0", "1", "1", "2"]
        await inbox.close()

    polling(main)


def test_a_first_read_that_fails_and_what_comes_before_it() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        sandbox.faults.append(Fault("503", endpoint="direct_messages.list"))
        async with collecting(client, None, seen):
            await asyncio.sleep(100)
            sandbox.person(5).writes("after it began, before it could read")
            sandbox.faults.clear()
            await asyncio.sleep(200)
        assert seen == ["after it began, before it could read"]

    polling(main)


@pytest.mark.soak
def test_what_a_webhook_has_told_is_not_read_for_ever() -> None:
    """Each round ends a little before the newest message, whoever has it known."""

    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        inbox = Inbox()
        async with collecting(client, inbox, seen):
            for _ in range(100):
                event_id = sandbox.person(5).writes("told by a webhook")
                await inbox.keep([Received(sandbox.credentials.user_id or "", event_id)])
                await asyncio.sleep(60)
            before = len(sandbox.requests)
            await asyncio.sleep(600)
        assert len(sandbox.requests) - before <= 11
        assert seen == []
        await inbox.close()

    polling(main)


def test_one_that_was_killed_while_it_was_handled_comes_again() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        inbox = Inbox()
        killed = client.direct_messages.poll(inbox)
        coming = asyncio.ensure_future(anext(killed))
        await asyncio.sleep(5)
        sandbox.person(5).writes("handle me")
        assert (await coming).text == "handle me"  # and now nothing more is ever asked of it
        seen: list[str | None] = []
        async with collecting(client, inbox, seen):
            await asyncio.sleep(100)
        assert seen == ["handle me"]
        await killed.aclose()  # type: ignore[attr-defined]  # it is a generator
        await inbox.close()

    polling(main)


def test_a_list_that_fails_is_read_again_and_what_cannot_help_is_told() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            sandbox.faults.append(Fault("503", endpoint="direct_messages.list"))
            sandbox.person(5).writes("hello")
            await asyncio.sleep(300)
            sandbox.faults.clear()
            await asyncio.sleep(1500)
        assert seen == ["hello"]
        keys = sandbox.add_account(permission="read")
        async with Client(keys, api_url=sandbox.url, clock=client.clock) as other:
            with pytest.raises(Forbidden):
                await anext(other.direct_messages.poll())

    polling(main)


def test_a_message_that_appears_late_and_out_of_order_is_not_missed() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            late = sandbox.person(5).writes("late")
            event = sandbox._state.events.pop(late)
            await asyncio.sleep(30)
            sandbox.person(6).writes("prompt")
            await asyncio.sleep(100)
            assert seen == ["prompt"]
            sandbox._state.events = {late: event, **sandbox._state.events}
            await asyncio.sleep(100)
        assert seen == ["prompt", "late"]

    polling(main)


@pytest.mark.soak
def test_it_lives_within_fifteen_reads_in_fifteen_minutes() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        async with collecting(client, None, seen, every=1.0):
            for number in range(40):
                sandbox.person(5).writes(str(number))
                await asyncio.sleep(100)
            await asyncio.sleep(1000)
        assert seen == [str(number) for number in range(40)]

    polling(main)


def test_it_feeds_the_credit_and_reconcile() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        seen: list[str | None] = []
        async with collecting(client, None, seen):
            sandbox.person(5).writes("hello")
            sandbox.faults.append(Fault("reset", endpoint="direct_messages.send"))
            with pytest.raises(DeliveryUnknown) as caught:
                await client.direct_messages.send(6, "into the dark")
            sandbox.faults.clear()
            await asyncio.sleep(100)
            for _ in range(6):
                await client.direct_messages.send(5, "an answer")
            reads = len(sandbox.requests)
            (settled,) = await client.direct_messages.reconcile(caught.value)
            assert settled.delivered == "yes"
            assert len(sandbox.requests) == reads, "it was known already"
        assert [message.is_counted for message in sandbox.messages[1:]] == [False] * 5 + [True]
        (used,) = {one.used for one in client.quota_state() if one.endpoint == "direct_messages.send"}
        assert used == 2, "the one into the dark, and the sixth answer"
        app, user = client._limiter._owners["app"], client._limiter._owners["user"]  # type: ignore[index]
        book = client.quota_store._books[app]  # type: ignore[attr-defined]
        assert len(book.conversations[Conversant(app, user, "5").page].people["5"].sends) == 6

    polling(main)


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": "x"}, {"every": 1e9}, {"since": datetime(2027, 1, 1)}, {"inbox": "path"}]  # noqa: DTZ001 - that is what is tested
)  # fmt: skip
async def test_bad_arguments(client: Client, sandbox: Sandbox, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await anext(client.direct_messages.poll(**options))
    assert not sandbox.requests


async def test_an_inbox_that_cannot_be_had(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        Inbox(":memory:")
    (tmp_path / "bad.db").write_bytes(b"no database at all, but a text")
    for path, problem in (("none/x.db", "folder"), ("bad.db", "damaged")):
        inbox = Inbox(tmp_path / path)
        with pytest.raises(InboxFailed, match=problem):
            await anext(client.direct_messages.poll(inbox, since=datetime.now(UTC) - timedelta(days=1)))
        with pytest.raises(InboxFailed, match=problem):
            await inbox.__aenter__()
        with pytest.raises(InboxFailed, match="closed"):
            await anext(client.direct_messages.poll(inbox))
