"""Handlers that fail, and handlers that a webhook's end interrupts: no event is lost, and none blocks the next ones."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from tests import samples_family as samples
from tests.receiving import KEYS, post
from tests.support import HANGS
from tests.virtual_time import run
from twdm_async import Inbox, InvalidInput, LoopClock
from twdm_async.resources.inbox import Received
from twdm_async.storage.sqlite import StateFile
from twdm_async.webhooks import Event, Webhook, read_events

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.storage.places import Place


class Unspeakable(Exception):
    """What it says cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("error", [ValueError("\ud800"), Unspeakable(), StopIteration(), KeyError("x" * 5000)])
async def test_fault_94_whatever_a_handler_raises_the_person_s_next_message_is_handled(
    error: Exception, plain: bool, place: Place
) -> None:
    handled: list[str] = []

    def handle(event: Event) -> None:
        if event.key == "1":
            raise error
        handled.append(event.key)

    async def handle_too(event: Event) -> None:
        if event.key == "1" and isinstance(error, StopIteration):
            raise RuntimeError  # as Python makes of it
        handle(event)

    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    async with (
        Inbox(place) as inbox,
        Webhook(KEYS, handle if plain else handle_too, inbox=inbox) as webhook,
    ):
        logging.disable()  # what shows the log of a test run cannot show all of these
        try:
            for key in ("1", "2"):
                envelope = samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [event | {"id": key}]}
                assert await post(webhook, envelope) == 200
            async with asyncio.timeout(HANGS):
                await webhook.settled()
        finally:
            logging.disable(logging.NOTSET)
        (failed,) = await inbox.failed()
    assert (failed.id, handled) == ("1", ["2"])
    assert failed.problem.startswith(
        ("ValueError: ?", "Unspeakable: (it cannot", "StopIteration", "RuntimeError", "KeyError")
    )


async def test_fault_94_a_plain_handler_that_goes_on_when_it_is_closed_is_not_called_again(place: Place) -> None:
    may_end, calls = threading.Event(), 0

    def handle(_: Event) -> None:
        nonlocal calls
        calls += 1
        may_end.wait(HANGS)

    async with Inbox(place) as inbox:
        webhook = Webhook(KEYS, handle, inbox=inbox)
        async with webhook:
            await post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED)
            while not calls:
                await asyncio.sleep(0.01)
            await webhook.close(timeout=0.01)
        async with Webhook(KEYS, handle, inbox=inbox) as webhook:
            await webhook.settled()
        may_end.set()
        (failed,) = await inbox.failed()
    assert (calls, "still being handled" in failed.problem) == (1, True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidInput(parameter="label", problem="is too long"), "failed: InvalidInput: label: is too long\n"),
        (ValueError("SENTINEL"), "failed: ValueError\n"),
    ],
)
async def test_the_log_says_why_where_the_words_are_our_own(
    error: Exception, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(_: Event) -> None:
        raise error

    async with Inbox(tmp_path / "inbox.db") as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        await post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED)
        await webhook.settled()
    assert words in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("no \x1b[31m"), asyncio.CancelledError()])
async def test_fault_94_what_failed_is_kept_and_can_be_retried(place: Place, error: BaseException) -> None:
    calls: list[str] = []
    fails = True

    async def handle(event: Event) -> None:
        calls.append(event.key)
        if fails:
            raise error

    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    (event,) = read_events(body)
    async with Inbox(place) as inbox:
        async with Webhook(KEYS, handle, inbox=inbox) as webhook:
            for _ in range(2):
                assert await post(webhook, body) == 200
                await webhook.settled()
            assert calls == [event.key], "to call it again could send a message twice"
            (failed,) = await inbox.failed()
            assert (failed.id, failed.account) == (event.key, event.for_user_id)
            assert failed.problem.startswith(type(error).__name__ if isinstance(error, RuntimeError) else "the handler")
            assert read_events(failed.body) == (event,)
        async with Inbox(place) as other, Webhook(KEYS, handle, inbox=other) as webhook:
            await webhook.settled()
            assert len(calls) == 1, "a restart alone retries nothing"
            fails = False
            assert await inbox.retry(failed.id) == 1
            await webhook._take_over()
            await webhook.settled()
            assert calls == [event.key] * 2
            assert await other.failed() == ()
            assert await post(webhook, body) == 200
            await webhook.settled()
            assert len(calls) == 2


async def test_fault_94_what_failed_can_be_forgotten(tmp_path: Path) -> None:
    async with Inbox(tmp_path / "inbox.db") as inbox:
        await inbox.keep([Received("5", "1", "SENTINEL"), Received("5", "2", "SENTINEL", "a shape")])
        await inbox.set_aside(Received("5", "1"), "it failed")
        assert (len(await inbox.failed()), len(await inbox.unread())) == (1, 1)
        assert await inbox.forget("1", "2", "3") == 2
        assert (len(await inbox.failed()), len(await inbox.unread())) == (0, 0)
        assert await inbox.keep([Received("5", "1", "x"), Received("5", "2", "x")]) == [], "they are known"
        with pytest.raises(InvalidInput):
            await inbox.retry(5)  # type: ignore[arg-type]  # that is what is tested
    with sqlite3.connect(tmp_path / "inbox.db") as db:
        assert db.execute("SELECT body FROM event").fetchall() == [(None,), (None,)]
    db.close()


def test_fault_94_a_handler_that_is_safe_to_repeat_is_called_again_after_pauses() -> None:
    """The person's other events wait; those of others do not."""
    calls: list[tuple[float, str]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left = {"1": 3, "3": 99}

        async def handle(event: Event) -> None:
            calls.append((loop.time(), event.key))
            if left.get(event.key, 0) > 0:
                left[event.key] -= 1
                raise RuntimeError("no")

        event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
        create = event["message_create"]
        inbox = Inbox(clock=LoopClock())
        async with Webhook(KEYS, handle, inbox=inbox, retries=4) as webhook:
            for key, sender in (("1", "901"), ("2", "901"), ("3", "902"), ("4", "903")):
                one = event | {"id": key, "message_create": create | {"sender_id": sender}}
                await post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [one]})
            await webhook.settled()
        assert [failed.id for failed in await inbox.failed()] == ["3"]
        await inbox.close()

    run(main())
    assert [round(at) for at, key in calls if key == "1"] == [0, 1, 3, 7]
    assert [round(at) for at, key in calls if key == "2"] == [7]
    assert [round(at) for at, key in calls if key == "3"] == [0, 1, 3, 7, 15]
    assert [round(at) for at, key in calls if key == "4"] == [0]


class Stop(BaseException):
    """As some frameworks end what they call."""


@pytest.mark.parametrize("way", ["base exception", "cancels its task"])
async def test_fault_94_however_a_handler_ends_the_person_s_next_message_is_handled(way: str, place: Place) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        if event.key == "1" and way == "base exception":
            raise Stop
        if event.key == "1":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        handled.append(event.key)

    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        for key in ("1", "2"):
            await post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [event | {"id": key}]})
        await webhook.settled()
        (failed,) = await inbox.failed()
    assert (failed.id, handled) == ("1", ["2"])


async def test_fault_94_what_only_waited_for_its_turn_is_not_blamed_for_deaths(tmp_path: Path) -> None:
    begun: list[str] = []

    async def hang(event: Event) -> None:
        begun.append(event.key)
        await asyncio.sleep(HANGS)

    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    create = event["message_create"]
    async with Inbox(tmp_path / "inbox.db") as inbox:
        webhook = Webhook(KEYS, hang, inbox=inbox, at_once=1)
        async with webhook:
            for number in range(3):
                one = event | {"id": str(number), "message_create": create | {"sender_id": str(900 + number)}}
                await post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [one]})
            while not begun:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert isinstance(inbox._storage, StateFile)
            db = inbox._storage._db
            assert db is not None
            assert dict(db.execute("SELECT id, tries FROM event")) == {"0": 1, "1": 0, "2": 0}
            await webhook.close(timeout=0.01)


async def test_what_a_closed_webhook_has_not_handled_is_for_the_next_one_on_the_same_inbox(place: Place) -> None:
    async def hang(_: Event) -> None:
        await asyncio.sleep(HANGS)

    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.key)

    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    async with Inbox(place) as inbox:
        webhook = Webhook(KEYS, hang, inbox=inbox)
        async with webhook:
            for key in ("1", "2"):
                await post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [event | {"id": key}]})
            await webhook.close(timeout=0.01)
        async with Webhook(KEYS, handle, inbox=inbox) as webhook:
            await webhook.settled()
    assert handled == ["1", "2"]


async def test_what_a_webhook_was_keeping_when_it_was_closed_is_for_the_next_one(place: Place) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.key)

    async with Inbox(place) as inbox:
        webhook = Webhook(KEYS, handle, inbox=inbox)
        await webhook.__aenter__()
        receiving = asyncio.create_task(post(webhook, samples.WEBHOOK_MESSAGE_RECEIVED))
        while not webhook._in_hand:
            await asyncio.sleep(0)
        await webhook.close(timeout=0.0)
        assert await receiving in {200, 503}
        async with Webhook(KEYS, handle, inbox=inbox) as webhook:
            await webhook.settled()
    assert len(handled) == 1
