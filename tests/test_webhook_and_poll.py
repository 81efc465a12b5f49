"""A webhook and a poll on one inbox: together they miss nothing, and hand out nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.receiving import listening, post
from tests.virtual_time import run
from twdm_async import Client, DirectMessage, Inbox, LoopClock, MemoryQuotaStore
from twdm_async._clock import Clock
from twdm_async.resources.inbox import Received
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks import Event, MessageEvent, Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from twdm_async.storage.places import Place


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[tuple[Sandbox, Client, Inbox]]:
    """A sandbox, a client and an inbox in virtual time."""
    clock = LoopClock()
    async with (
        Sandbox(clock=clock) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=clock) as client,
        Inbox(clock=clock) as inbox,
    ):
        yield sandbox, client, inbox


def as_told(sandbox: Sandbox, event: str) -> dict[str, Any]:
    """What a webhook is told of an event."""
    shown = sandbox._state.events[event].shown
    return {"for_user_id": sandbox.credentials.user_id, "direct_message_events": [shown]}


@pytest.mark.soak
def test_fault_96_a_webhook_and_a_poll_on_one_inbox_miss_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the webhook is told of is handled once; then X drops it, and the poll finds the rest, and says so."""
    handled: list[str | None] = []

    async def main() -> None:
        clock = LoopClock()
        async with (
            Sandbox(clock=clock, list_lag=(0.0, 150.0), seed=3) as sandbox,
            Client(
                sandbox.credentials,
                api_url=sandbox.url,
                upload_url=sandbox.url,
                clock=clock,
                quota_store=MemoryQuotaStore(clock=clock),
            ) as client,
            Inbox(clock=clock) as inbox,
        ):

            async def handle(event: Event) -> None:
                assert isinstance(event, MessageEvent)
                await asyncio.sleep(30)
                handled.append(event.message.text)

            async def poll() -> None:
                async for message in client.direct_messages.poll(inbox):
                    await asyncio.sleep(30)
                    handled.append(message.text)

            webhook = Webhook(sandbox.credentials, handle, inbox=inbox, clients=[client])
            async with listening(webhook) as url:
                await sandbox.subscribe(url)
                polling = asyncio.create_task(poll())
                await asyncio.sleep(1)
                for number in range(60):
                    sandbox.person(5 + number % 7).writes(f"{number}")
                    await asyncio.sleep(47)
                    if number == 30:
                        assert "no webhook tells" not in caplog.text
                        sandbox.unsubscribe(url)
                await asyncio.sleep(3000)
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)

    run(main())
    assert sorted(handled, key=str) == sorted(map(str, range(60)), key=str)
    assert "no webhook tells" in caplog.text


def test_what_a_poll_had_in_hand_when_it_ended_a_webhook_handles() -> None:
    seen: list[str] = []

    async def main() -> None:
        async with place() as (sandbox, client, inbox):

            async def handle(event: Event) -> None:
                seen.append(event.key)

            async def poll_one() -> None:
                async for _ in client.direct_messages.poll(inbox):
                    break

            polling = asyncio.create_task(poll_one())
            await asyncio.sleep(1)
            event = sandbox.person(5).writes("hello")
            await polling
            await asyncio.sleep(1)
            told = as_told(sandbox, event)
            async with Webhook(sandbox.credentials, handle, inbox=inbox) as webhook:
                assert await post(webhook, told, sandbox.credentials.consumer_secret) == 200
                await webhook.settled()
            assert seen == [event]

    run(main())


async def test_what_a_poll_has_in_hand_a_webhook_leaves_alone_until_its_process_ends(place: Place) -> None:
    event = Received("5", "1", "{}")
    async with Inbox(place) as webhook:
        async with Inbox(place) as poll:
            assert await poll.keep([Received("5", "1")]) == [Received("5", "1")]
            assert await webhook.keep([event]) == []
            assert await webhook.known("5", ["1", "2"]) == {"1"}
        assert await webhook.known("5", ["1"]) == set(), "whoever had it in hand has ended"
        assert await webhook.keep([event]) == [event]
        await webhook.done(event)
        assert await webhook.known("5", ["1"]) == {"1"}


def test_a_first_poll_leaves_to_the_webhook_what_was_written_before_it_began() -> None:
    seen: list[str] = []

    async def main() -> None:
        async with place() as (sandbox, client, inbox):

            async def handle(event: Event) -> None:
                seen.append(event.key)

            async def poll() -> None:
                async for message in client.direct_messages.poll(inbox):
                    seen.append(f"polled {message.id}")  # noqa: PERF401 - as it comes

            event = sandbox.person(5).writes("hello")
            await asyncio.sleep(1)
            polling = asyncio.create_task(poll())
            await asyncio.sleep(100)
            told = as_told(sandbox, event)
            async with Webhook(sandbox.credentials, handle, inbox=inbox) as webhook:
                await post(webhook, told, sandbox.credentials.consumer_secret)
                await webhook.settled()
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            assert seen == [event]

    run(main())


@pytest.mark.parametrize("sent", [False, True])
def test_the_account_s_own_messages_reach_whoever_wants_them(sent: bool) -> None:
    """The one who does not want them takes them from nobody."""
    seen: list[str] = []

    async def main() -> None:
        async with place() as (sandbox, client, inbox):

            async def handle(event: Event) -> None:
                seen.append(f"told {event.key}")

            async def poll() -> None:
                async for message in client.direct_messages.poll(inbox, sent=sent):
                    seen.append(f"polled {message.id}")  # noqa: PERF401 - as it comes

            webhook = Webhook(sandbox.credentials, handle, inbox=inbox, with_echoes=not sent)
            polling = asyncio.create_task(poll())
            await asyncio.sleep(1)
            async with webhook:
                message = await client.direct_messages.send(5, "hello")
                told = as_told(sandbox, str(message.id))
                if not sent:
                    await asyncio.sleep(100)
                await post(webhook, told, sandbox.credentials.consumer_secret)
                await asyncio.sleep(200)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            assert seen == [f"polled {message.id}" if sent else f"told {message.id}"]

    run(main())


async def test_what_one_hands_over_to_the_other_keeps_its_content(tmp_path: Path) -> None:
    """A poll has it in hand, the webhook is told of it, and the poll's process dies; or the other way round."""
    path, event = tmp_path / "inbox.db", Received("5", "1", "{}")
    async with Inbox(path) as webhook:
        async with Inbox(path) as poll:
            await poll.keep([Received("5", "1")])
            assert await webhook.keep([event]) == []
        assert await webhook.take_over() == [event]
    async with Inbox(path) as poll:
        assert await poll.keep([Received("5", "1")]) == [Received("5", "1")], "whoever had it has ended"
    async with Inbox(path) as webhook:
        assert await webhook.take_over() == [event]


def test_a_list_is_read_no_further_than_to_what_somebody_has_in_hand() -> None:
    async def main() -> None:
        clock = LoopClock()
        async with Inbox(clock=clock) as inbox:
            await inbox.keep([Received("5", "1")])
            kept = clock.wall()
            await asyncio.sleep(5000)
            await inbox.set_polled("5", clock.wall(), 7.0)
            assert await inbox.polled("5") == pytest.approx((kept, 7.0), abs=1)
            await inbox.done(Received("5", "1"))
            await inbox.set_polled("5", clock.wall(), 7.0)
            assert await inbox.polled("5") == pytest.approx((kept + 5000, 7.0), abs=1)

    run(main())


@pytest.mark.soak
def test_a_message_of_next_year_does_not_end_a_poll() -> None:
    texts: list[str | None] = []

    async def main() -> None:
        clock = LoopClock()
        async with (
            Sandbox(clock=clock) as sandbox,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=clock) as client,
        ):

            async def poll() -> None:
                async for message in client.direct_messages.poll():
                    texts.append(message.text)  # noqa: PERF401 - as it comes

            polling = asyncio.create_task(poll())
            await asyncio.sleep(1)
            far = sandbox._state.events[sandbox.person(5).writes("far")].shown
            far["created_timestamp"] = str(int(far["created_timestamp"]) + 365 * 86_400_000)
            for number in range(3):
                await asyncio.sleep(2000)
                sandbox.person(6).writes(f"{number}")
            await asyncio.sleep(200)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)

    run(main())
    assert texts == ["far", "0", "1", "2"]


async def test_a_message_that_was_handled_and_sent_by_the_account_is_known(place: Place) -> None:
    async with Inbox(place) as inbox:
        await inbox.keep([Received("5", "1", "{}")])
        await inbox.set_aside(Received("5", "1"), "it failed")
        await inbox.handled(DirectMessage(id="1", sender_id="5", recipient_id="6"))
        assert await inbox.known("5", ["1"]) == await inbox.known("6", ["1"]) == {"1"}
        assert await inbox.failed() == ()


class Ahead(Clock):
    """A clock that is some days ahead."""

    days = 0.0

    def wall(self) -> float:
        return time.time() + self.days * 86_400.0


async def test_events_are_remembered_for_four_hundred_days(tmp_path: Path) -> None:
    clock = Ahead()
    async with Inbox(tmp_path / "inbox.db", clock=clock) as inbox:
        for clock.days in (0, 1, 200, 399, 402):
            event = Received("5", f"{clock.days}", "{}")
            assert await inbox.keep([event]) == [event]
            await inbox.done(event)
        assert await inbox.known("5", ["0", "1", "200", "402"]) == {"200", "402"}


async def test_fault_52_a_clock_that_is_far_ahead_for_a_while_makes_an_inbox_forget_nothing(tmp_path: Path) -> None:
    clock = Ahead()
    async with Inbox(tmp_path / "inbox.db", clock=clock) as inbox:
        for number, clock.days in enumerate((0, 500, 500.01, 0, 500.02)):
            event = Received("5", f"{number}", "{}")
            assert await inbox.keep([event]) == [event]
            await inbox.done(event)
        assert await inbox.keep([Received("5", "0", "{}")]) == []
