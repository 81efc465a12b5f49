"""Webhooks: who may send them, what they tell, and that each event is handled once."""

from __future__ import annotations

import asyncio
import io
import json
import random
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests import samples_family as samples
from tests.receiving import ENVELOPES, HEADER, KEYS, SECRET, listening, mutated, nobody
from tests.support import HANGS
from tests.virtual_time import virtual_time
from twdm_async import Client, DeliveryUnknown, DirectMessage, Inbox, InboxFailed, InvalidInput, LoopClock
from twdm_async.outbox import Outbox, State
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.webhooks import (
    Event,
    MessageEvent,
    ReadEvent,
    TypingEvent,
    Webhook,
    crc_response,
    is_signed,
    read_events,
)
from twdm_async.webhooks.signature import _signature

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.storage.places import Place

# ---- who may send them ----


@pytest.mark.parametrize(
    ("token", "answer"),
    [("foo", "KGwPHQJPaVoxk5RWMCZXvu7ppQqe20ugPzzV9ed1O3o="), ("challenge_string", "nlBfoc+sYi739ivT57rTKKl7OQM8PcJSNybJqfjoBUk=")],
)  # fmt: skip
def test_the_answer_to_a_check(token: str, answer: str) -> None:
    assert crc_response(SECRET, token) == {"response_token": f"sha256={answer}"}


@pytest.mark.parametrize("token", ["", '{"for_user_id":"1"}', "a b", "a\n", "x" * 513, "é", None, 5])
def test_no_token_is_answered_that_could_be_a_body(token: Any) -> None:
    with pytest.raises(InvalidInput):
        crc_response(SECRET, token)


def test_signatures() -> None:
    good = _signature(SECRET, b"{}")
    assert is_signed(SECRET, b"{}", good)
    for bad in (
        None,
        "",
        good[:-1],
        good + " ",
        good.replace("sha256=", ""),
        good.replace("sha256", "sha1"),
        "é",
        "\udc80",
    ):
        assert not is_signed(SECRET, b"{}", bad)
    assert not is_signed(SECRET, b"{} ", good)
    assert not is_signed(SECRET + "x", b"{}", good)


@pytest.mark.parametrize(
    ("method", "query", "body", "status"),
    [("GET", "", b"", 400), ("GET", "crc_token=", b"", 400), ("GET", "crc_token=a&crc_token=b", b"", 400),
     ("GET", "crc_token=%7B%7D", b"", 400), ("GET", "&".join(["a=1"] * 50), b"", 400), ("PUT", "", b"{}", 405),
     ("POST", "", b"x" * 2000, 413), ("POST", "", b"not json", 400), ("POST", "", b"[]", 400), ("POST", "", b"\xff", 400),
     ("POST", "", b"[" * 900, 400), ("POST", "", b"{}", 200), ("POST", "", b'{"for_user_id":5}', 200),
     ("GET", "crc_token=abc&nonce=x", b"", 200)],
)  # fmt: skip
async def test_bad_requests_are_answered_and_nothing_is_kept(method: str, query: str, body: bytes, status: int) -> None:
    async with Webhook(KEYS, nobody, largest_body=1000) as webhook:
        reply = await webhook.receive(method, query, {HEADER: _signature(SECRET, body)}, body)
        assert reply.status == status


async def test_without_a_signature_nothing_is_handled() -> None:
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    async with Webhook(KEYS, handle) as webhook:
        for headers in ({}, {HEADER: "sha256=AAAA"}, {HEADER: _signature(SECRET, body + b" ")}):
            assert (await webhook.receive("POST", "", headers, body)).status == 403
        assert (await webhook.receive("POST", "", {HEADER.lower(): _signature(SECRET, body)}, body)).status == 200
        await webhook.settled()
    assert len(seen) == 1


# ---- what they tell ----


@pytest.mark.parametrize("envelope", ENVELOPES, ids=range(len(ENVELOPES)))
def test_every_envelope_is_read(envelope: dict[str, Any]) -> None:
    (event,) = read_events(json.dumps(envelope))
    assert event.for_user_id.isdigit()
    assert event.key
    assert event.person_id not in {None, event.for_user_id} or isinstance(event, TypingEvent)
    assert event.users
    assert all(user.screen_name for user in event.users.values())
    if isinstance(event, MessageEvent):
        assert event.message.created_at is not None
        assert event.is_echo == (event.message.sender_id == event.for_user_id)


def test_messages_typing_and_reading() -> None:
    (answer,) = read_events(json.dumps(samples.WEBHOOK_QUICK_REPLY_ANSWER))
    assert isinstance(answer, MessageEvent)
    assert answer.message.quick_reply_response is not None
    assert answer.message.quick_reply_response.metadata is not None
    (sent,) = read_events(json.dumps(samples.WEBHOOK_MESSAGE_SENT))
    assert isinstance(sent, MessageEvent)
    assert sent.is_echo
    assert sent.message.source_app is not None
    (typing,) = read_events(json.dumps(samples.WEBHOOK_TYPING))
    assert isinstance(typing, TypingEvent)
    (read,) = read_events(json.dumps(samples.WEBHOOK_READ))
    assert isinstance(read, ReadEvent)
    assert read.last_read_event_id.isdigit()
    (newer,) = read_events(json.dumps(samples.XAA_RECEIVED))
    assert isinstance(newer, MessageEvent)
    assert newer.sender is not None
    assert not newer.is_echo


def test_what_cannot_be_read_does_not_cost_the_rest() -> None:
    envelope = json.loads(json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED))
    envelope["direct_message_events"] += [5, {}, {"id": "x"}, None]
    envelope["direct_message_mark_read_events"] = [{"sender_id": "5"}]
    envelope["users"]["7"] = []
    assert len(read_events(json.dumps(envelope))) == 1


async def fuzz(count: int, seed: int) -> tuple[int, int]:
    """How many mutated bodies were refused, and how many events came of those with a right signature."""
    chance = random.Random(seed)
    bodies = [json.dumps(envelope).encode() for envelope in ENVELOPES]
    right = [_signature(SECRET, body) for body in bodies]
    seen: list[Event] = []
    refused = 0

    async def handle(event: Event) -> None:
        seen.append(event)

    async with Webhook(KEYS, handle, with_echoes=True) as webhook:
        for _ in range(count):
            number = chance.randrange(len(bodies))
            body = mutated(bodies[number], chance)
            forged = chance.random() < 0.5
            await webhook.settled()
            before = len(seen)
            signature = right[number] if forged else _signature(SECRET, body)
            reply = await webhook.receive("POST", "", {HEADER: signature}, body)
            assert reply.status in {200, 400, 403}
            if forged and body != bodies[number]:
                assert reply.status == 403
                await webhook.settled()
                assert len(seen) == before
                refused += 1
            elif not forged:
                assert reply.status != 403
        await webhook.settled()
    return refused, len(seen)


@pytest.mark.soak
async def test_mutated_bodies() -> None:
    refused, handled = await fuzz(3_000, 1)
    assert refused > 1000
    assert handled > 10, "most are of the same few events"


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(300)
async def test_a_hundred_thousand_mutated_bodies() -> None:
    refused, handled = await fuzz(100_000, 2)
    assert refused > 40_000
    assert handled > 10


# ---- each event once ----


async def test_an_event_is_handled_once_in_order_and_over_restarts(tmp_path: Path, sandbox: Sandbox) -> None:
    texts: list[str | None] = []

    async def handle(event: Event) -> None:
        assert isinstance(event, MessageEvent)
        texts.append(event.message.text)
        await asyncio.sleep(0.01)

    async with Inbox(tmp_path / "inbox.db") as inbox:
        webhook = Webhook(sandbox.credentials, handle, inbox=inbox)
        async with listening(webhook) as url:
            await sandbox.subscribe(url)
            for number in range(5):
                sandbox.person(844385345234).writes(f"{number} & more")
                await sandbox.delivered()  # those that are under way together may overtake each other
            await webhook.settled()
    assert [delivery.statuses for delivery in sandbox.deliveries] == [(200,)] * 5
    assert texts == [f"{number} & more" for number in range(5)]
    async with Inbox(tmp_path / "inbox.db") as inbox, Webhook(sandbox.credentials, handle, inbox=inbox) as webhook:
        for delivery in sandbox.deliveries:  # replayed
            signature = _signature(sandbox.credentials.consumer_secret, delivery.body)
            assert (await webhook.receive("POST", "", {HEADER: signature}, delivery.body)).status == 200
        await webhook.settled()
    assert len(texts) == 5
    assert b"& more" not in (tmp_path / "inbox.db").read_bytes().replace(b"\\u0026", b"&")[-100:]


async def test_one_person_s_events_go_one_after_the_other_and_people_do_not_wait_for_each_other() -> None:
    under_way: dict[str, int] = {}
    most_people, most_of_one, order = 0, 0, list[str]()
    all_at_once = asyncio.Event()

    async def handle(event: Event) -> None:
        nonlocal most_people, most_of_one
        under_way[event.person_id] = under_way.get(event.person_id, 0) + 1
        most_of_one = max(most_of_one, under_way[event.person_id])
        most_people = max(most_people, sum(under_way.values()))
        if most_people == 5:
            all_at_once.set()
        await all_at_once.wait()
        await asyncio.sleep(0.005)
        under_way[event.person_id] -= 1
        order.append(event.key)

    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    create = event["message_create"]
    async with Webhook(KEYS, handle, at_once=5) as webhook:
        for number in range(40):
            one = event | {"id": str(number), "message_create": create | {"sender_id": str(900 + number % 8)}}
            body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [one]}).encode()
            assert (await webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body)).status == 200
        await webhook.settled()
    assert (most_people, most_of_one) == (5, 1)
    for person in range(8):
        assert [int(key) for key in order if int(key) % 8 == person] == list(range(person, 40, 8))


async def test_what_was_not_handled_is_handled_by_the_next_process(place: Place) -> None:
    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    seen: list[Event] = []

    async def never(_: Event) -> None:
        await asyncio.sleep(1000)

    async def handle(event: Event) -> None:
        seen.append(event)

    async with Inbox(place) as inbox:
        webhook = Webhook(KEYS, never, inbox=inbox)
        async with webhook:
            assert (await webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body)).status == 200
            await webhook.close(timeout=0.05)
    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        await webhook.settled()
    assert seen == list(read_events(body))


@pytest.mark.parametrize("error", [RuntimeError("no"), asyncio.CancelledError()])
async def test_a_handler_that_fails_is_not_called_again_and_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """What it sent before it failed would be sent twice."""
    calls: list[str] = []

    async def handle(event: Event) -> None:
        calls.append(event.key)
        if event.key == "1":
            raise error

    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    async with Webhook(KEYS, handle) as webhook:
        for message_id in ("1", "2"):
            envelope = samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [event | {"id": message_id}]}
            body = json.dumps(envelope).encode()
            await webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body)
        await webhook.settled()
    assert calls == ["1", "2"]
    assert "the handler" in caplog.text


async def test_who_hangs_up_while_an_event_is_kept_loses_nothing(place: Place) -> None:
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        request = asyncio.ensure_future(webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await webhook.settled()
    assert len(seen) == 1


async def test_restarts_do_not_use_an_event_up_but_deaths_do(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    calls = 0

    async def never(_: Event) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1000)

    for number in range(1, 6):
        async with Inbox(place) as inbox:
            webhook = Webhook(KEYS, never, inbox=inbox)
            async with webhook:
                await webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body)
                while calls < number:
                    await asyncio.sleep(0.01)
                await webhook.close(timeout=0.01)
    assert calls == 5
    async with Inbox(place) as inbox:
        (received,) = await inbox.take_over()
        for _ in range(3):
            await inbox.begin(received)  # and then the process dies
    async with Inbox(place) as inbox, Webhook(KEYS, never, inbox=inbox) as webhook:
        await webhook.settled()
    assert calls == 5
    assert "3 processes ended" in caplog.text


async def test_an_inbox_that_fails_afterwards_is_told_again_and_nothing_is_handled_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twdm_async.webhooks.webhook._PAUSE", 0.01)
    seen: list[Event] = []
    done, failures = Inbox.done, 3

    async def handle(event: Event) -> None:
        seen.append(event)

    async def failing(self: Inbox, event: Any) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise InboxFailed(path="x", problem="the disk is full")
        await done(self, event)

    monkeypatch.setattr(Inbox, "done", failing)
    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        await webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body)
        await webhook.settled()
    assert (len(seen), failures) == (1, -1)


async def test_a_process_takes_over_from_another_that_dies(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.webhooks.webhook._TAKE_OVER_EVERY", 0.05)
    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    seen = asyncio.Event()

    async def never(_: Event) -> None:
        await asyncio.sleep(1000)

    async def handle(_: Event) -> None:
        seen.set()

    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox):
        async with Inbox(place) as other:
            webhook = Webhook(KEYS, never, inbox=other)
            async with webhook:
                await webhook.receive("POST", "", {HEADER: _signature(SECRET, body)}, body)
                await asyncio.sleep(0.2)
                assert not seen.is_set(), "it is alive"
                await webhook.close(timeout=0.01)
        async with asyncio.timeout(HANGS):
            await seen.wait()


async def test_an_inbox_that_fails_lets_the_sender_try_again(tmp_path: Path, sandbox: Sandbox) -> None:
    inbox = Inbox(tmp_path / "none" / "inbox.db")
    webhook = Webhook(sandbox.credentials, nobody, inbox=inbox)
    body = (
        b'{"for_user_id":"1","direct_message_events":[%s]}'
        % json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]).encode()
    )
    signature = _signature(sandbox.credentials.consumer_secret, body)
    assert (await webhook.receive("POST", "", {HEADER: signature}, body)).status == 503
    await webhook.close()
    await inbox.close()


async def test_a_listener_without_the_secret_does_not_pass_the_check(sandbox: Sandbox) -> None:
    async with listening(Webhook(KEYS, nobody)) as url:
        with pytest.raises(InvalidInput, match="did not pass"):
            await sandbox.subscribe(url)


async def test_what_is_not_answered_is_sent_again() -> None:
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    async with Sandbox(time_scale=1000.0) as sandbox:
        webhook = Webhook(sandbox.credentials, handle)
        async with listening(webhook) as url, aiohttp.ClientSession() as session:
            await sandbox.subscribe(url)
            await sandbox.subscribe(url, envelope="x_activity")
            real, failures = webhook.receive, 3

            async def failing(*arguments: Any) -> Any:
                nonlocal failures
                failures -= 1
                if failures > 0:
                    raise RuntimeError("no")
                return await real(*arguments)

            webhook.receive = failing  # type: ignore[assignment,method-assign]  # it breaks down twice
            sandbox.person(5).writes("hello")
            await sandbox.delivered()
            await webhook.settled()
            async with session.post(url, data=io.BytesIO(b"x" * 2_000_000)) as response:
                assert response.status == 413
    assert len(seen) == 1, "it came in both envelopes"
    assert sorted(len(delivery.statuses) for delivery in sandbox.deliveries) in ([1, 3], [2, 2])


# ---- own echoes ----


async def test_an_echo_is_proof_of_delivery_to_reconcile(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.append(Fault("reset", endpoint="direct_messages.send"))
    handled: list[Event] = []

    async def handle(event: Event) -> None:
        handled.append(event)

    webhook = Webhook(sandbox.credentials, handle, clients=[client])
    async with listening(webhook) as url:
        await sandbox.subscribe(url)
        with pytest.raises(DeliveryUnknown) as caught:
            await client.direct_messages.send(5, "hello SENTINEL & more")
        await sandbox.delivered()
        async with asyncio.timeout(HANGS):
            (settled,) = await client.direct_messages.reconcile(caught.value)
    assert settled.delivered == "yes"
    assert settled.message is not None
    assert settled.message.id == sandbox.messages[0].id
    assert not [request for request in sandbox.requests if "list" in request.path], "the list was not asked"
    assert handled == []


async def test_an_echo_that_comes_later_wakes_who_waits(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("reset", endpoint="direct_messages.send"))
    sandbox.list_lag = (600.0, 600.0)
    with pytest.raises(DeliveryUnknown) as caught:
        await client.direct_messages.send(5, "hello")
    waiting = asyncio.ensure_future(client.direct_messages.reconcile(caught.value))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    event = sandbox.person(5)._state.events[sandbox.messages[0].id].shown
    (echo,) = read_events(json.dumps({"for_user_id": sandbox.messages[0].sender_id, "direct_message_events": [event]}))
    assert isinstance(echo, MessageEvent)
    client.direct_messages.note_event(echo.message)
    async with asyncio.timeout(HANGS):
        assert (await waiting)[0].delivered == "yes"


@virtual_time
async def test_the_echo_of_a_message_that_is_under_way_proves_nothing_about_another() -> None:
    """The first never arrived; the second says the same, and its echo comes before its answer."""
    clock = LoopClock()
    fault = Fault("reset", endpoint="direct_messages.send", nth=1, processed=False)
    async with (
        Sandbox(clock=clock, faults=[fault]) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=clock) as client,
    ):
        with pytest.raises(DeliveryUnknown) as caught:
            await client.direct_messages.send(5, "hello")
        sandbox._latency = (0.2, 0.2)
        second = asyncio.ensure_future(client.direct_messages.send(5, "hello"))
        while not sandbox.messages:
            await asyncio.sleep(0.01)
        event = sandbox._state.events[sandbox.messages[0].id].shown
        account_id = sandbox.messages[0].sender_id
        (echo,) = read_events(json.dumps({"for_user_id": account_id, "direct_message_events": [event]}))
        assert isinstance(echo, MessageEvent)
        client.direct_messages.note_event(echo.message)
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert settled.delivered == "no"
        assert (await second).id == sandbox.messages[0].id


async def test_an_echo_is_proof_of_delivery_to_an_outbox(tmp_path: Path, sandbox: Sandbox, client: Client) -> None:
    sandbox.list_lag = (600.0, 600.0)
    sandbox.faults.append(Fault("reset", endpoint="direct_messages.send", nth=1))
    webhook = Webhook(sandbox.credentials, nobody, clients=[client])
    async with listening(webhook) as url, Outbox(client, tmp_path / "outbox.db") as outbox:
        await sandbox.subscribe(url)
        await outbox.put(5, "hello", key="k")
        async with asyncio.timeout(HANGS), outbox.running():
            assert (await outbox.outcome("k")).state is State.SENT
    assert len(sandbox.messages) == 1


def test_a_message_that_is_no_whole_one_is_not_noted(client: Client) -> None:
    client.direct_messages.note_event(DirectMessage(id="5"))
    assert client.direct_messages.reconciler.echo_count == 0
