"""What a webhook survives: shapes that are not documented, silence, bodies that cost, bad rows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import threading
import time
from datetime import UTC, datetime
from inspect import signature
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests import samples_family as samples
from tests.receiving import (
    ACCOUNT,
    ENVELOPES,
    FLAT,
    HEADER,
    KEYS,
    PERSON,
    SECRET,
    changed,
    listening,
    mutated,
    nobody,
    post,
    warnings,
)
from tests.scripted import serving
from tests.support import HANGS
from tests.virtual_time import run
from twdm_async import Inbox, InvalidInput, LoopClock
from twdm_async.resources.inbox import Received
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks import Event, MessageEvent, ReadEvent, TypingEvent, Webhook, read_events
from twdm_async.webhooks.events import parse_delivery, shape_of
from twdm_async.webhooks.signature import _signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twdm_async.storage.places import Place

# ---- shapes ----


def test_fault_92_a_flat_message_of_x_activity_is_read() -> None:
    (event,) = read_events(json.dumps(FLAT))
    assert isinstance(event, MessageEvent)
    assert (event.for_user_id, event.key, event.person_id) == (ACCOUNT, "2089000000000000001", PERSON)
    assert (event.is_echo, event.message.recipient_id) == (False, ACCOUNT)
    assert event.message.text == "SENTINEL tea & cups"
    assert event.message.created_at == datetime(2026, 11, 26, 10, 20, 30, 456_000, UTC)
    assert event.sender is not None
    assert event.sender.screen_name == "tea_drinker"
    assert event.message.extra["event_type"] == "MessageCreate", "nothing is dropped"
    assert read_events(json.dumps(changed(FLAT, "data.event_type", "DM.received"))) == (event,)
    sent = changed(changed(FLAT, "data.event_type", "dm.sent"), "data.payload.sender_id", ACCOUNT)
    (echo,) = read_events(json.dumps(sent))
    assert isinstance(echo, MessageEvent)
    assert (echo.is_echo, echo.person_id) == (True, PERSON)
    for kind, cls in (("dm.indicate_typing", TypingEvent), ("dm.read", ReadEvent)):
        flat = changed(changed(FLAT, "data.event_type", kind), "data.payload.last_read_event_id", 5)
        (other,) = read_events(json.dumps(flat))
        assert isinstance(other, cls)
        assert other.person_id == PERSON


def test_fault_92_ids_may_be_numbers_anywhere() -> None:
    def numbered(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: numbered(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [numbered(inner, key) for inner in value]
        is_id = key == "id" or key.endswith(("_id", "_timestamp"))
        return int(value) if is_id and isinstance(value, str) and value.isdigit() else value

    for envelope in (*ENVELOPES, FLAT):
        (event,), (other,) = read_events(json.dumps(numbered(envelope))), read_events(json.dumps(envelope))
        assert (event.for_user_id, event.key, event.person_id) == (other.for_user_id, other.key, other.person_id)
        assert event.users.keys() == other.users.keys() != set()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("document", "shape"),
    [
        (changed(FLAT, "data.payload.dm_conversation_id", "1585000000000000000"), "dm_conversation_id"),
        (changed(FLAT, "data.payload", {"SENTINEL x": 1, "id": "5"}), "payload{?, id}"),
        (changed(FLAT, "data.event_type", "dm.deleted"), "data{event_uuid, event_type"),
        (changed(FLAT, "data.filter", {}), "filter{}, payload{"),
        (changed(samples.WEBHOOK_MESSAGE_RECEIVED, "for_user_id", "SENTINEL"), "for_user_id"),
        (changed(samples.WEBHOOK_MESSAGE_RECEIVED, "direct_message_events", 5), "direct_message_events[]"),
        (changed(FLAT, "data.event_type", "message.received"), "event_type"),
        (changed(FLAT, "data.event_type", "dms.received"), "event_type"),
        (changed(FLAT, "data.event_type", "dm.received2"), "event_type"),
        (changed(FLAT, "data.event_type", "dm.message-created"), "event_type"),
        (changed(FLAT, "data.event_type", 5), "dm_conversation_id"),
        ({"for_user_id": "5", "dm_events": [{"text": "SENTINEL"}]}, "dm_events[{text}]"),
        ({"for_user_id": "5", "dm_events": [{"text": "SENTINEL"}], "tweet_create_events": []}, "dm_events[{text}]"),
        ({"for_user_id": "5", "direct_message_reaction_events": [{"emoji": "SENTINEL"}]}, "direct_message_reaction_events[{emoji}]"),
    ],
)  # fmt: skip
async def test_fault_92_what_is_about_messages_and_not_understood_is_named_and_kept(
    document: dict[str, Any], shape: str, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with Inbox(place) as inbox, Webhook(KEYS, nobody, inbox=inbox) as webhook:
        for _ in range(2):  # X sends it again
            assert await post(webhook, document) == 200
        (unread,) = await inbox.unread()
        assert await inbox.failed() == ()
    assert shape in unread.problem
    assert any("not understood; it is kept" in words and shape in words for words in warnings(caplog))
    assert "SENTINEL" not in caplog.text
    assert "SENTINEL" not in repr(unread)


async def test_fault_92_what_an_earlier_version_could_not_read_is_handled_when_it_is_retried(place: Place) -> None:
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    async with Inbox(place) as inbox:
        await inbox.keep([Received("", "unread 1", json.dumps(FLAT), "data{...}")])  # as an earlier version would
        assert await inbox.take_over() == []
        assert await inbox.retry("unread 1", "nothing") == 1
        async with Webhook(KEYS, handle, inbox=inbox) as webhook:
            await webhook.settled()
            assert await post(webhook, FLAT) == 200
            await webhook.settled()
        assert await inbox.unread() == ()
    assert seen == list(read_events(json.dumps(FLAT)))


async def test_fault_92_encrypted_conversations_are_named_once(
    sandbox: Sandbox, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with Inbox(place) as inbox:
        webhook = Webhook(sandbox.credentials, nobody, inbox=inbox)
        async with listening(webhook) as url:
            await sandbox.subscribe(url, envelope="x_activity")
            for _ in range(3):
                sandbox.person(5).chats()
            await sandbox.delivered()
        assert [delivery.statuses for delivery in sandbox.deliveries] == [(200,)] * 3
        assert set(await inbox.heard()) == {"check", "delivery", "chat.received"}
    assert sum("chat.received" in words for words in warnings(caplog)) == 1


async def test_fault_92_the_sandbox_sends_every_shape(sandbox: Sandbox) -> None:
    texts: list[str | None] = []

    async def handle(event: Event) -> None:
        assert isinstance(event, MessageEvent)
        texts.append(event.message.text)

    webhook = Webhook(sandbox.credentials, handle)
    async with listening(webhook) as url:
        for envelope in ("account_activity", "x_activity", "x_activity_flat"):
            await sandbox.subscribe(url, envelope=envelope)
        sandbox.person(5).writes("5 < 6")
        await sandbox.delivered()
        await webhook.settled()
    assert [delivery.statuses for delivery in sandbox.deliveries] == [(200,)] * 3
    assert texts == ["5 < 6"], "it is one event, in three shapes"
    shapes = {shape_of(json.loads(delivery.body)) for delivery in sandbox.deliveries}
    assert len(shapes) == 3
    assert any("payload{id, event_type, sender_id, dm_conversation_id, text, created_at}" in shape for shape in shapes)


async def test_what_is_not_about_messages_is_left_out_and_what_nobody_knows_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = [
        {"for_user_id": "5", "tweet_create_events": [{}]},
        {"for_user_id": "5", "follow_events": []},
        {"user_event": {"revoke": {}}},
        {"data": {"event_type": "post.create", "filter": {}, "payload": {"id": "5"}}},
    ]
    unknown = [{}, {"data": 5}, {"SENTINEL text": 5, "hello": {}}]
    async with Webhook(KEYS, nobody) as webhook:
        for document in known:
            assert await post(webhook, document) == 200
        assert warnings(caplog) == []
        for document in unknown:
            assert await post(webhook, document) == 200
    assert [words.rpartition(": ")[2] for words in warnings(caplog)] == ["{}", "{data}", "{?, hello{}}"]


def test_a_shape_has_no_values_and_an_end() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"a": deep, "98120034": "x", "SENTINEL text": 1}
    assert shape_of(deep).count("a") < 10
    assert "98120034" not in shape_of(deep)
    assert len(shape_of({f"field_{number}": 1 for number in range(1000)})) < 300


# ---- refusals ----


async def test_fault_93_refusals_leave_a_trace_without_a_body_or_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"text": "SENTINEL"}'
    cases: Sequence[tuple[str, str, dict[str, str], bytes, str]] = [
        ("POST", "", {}, body, "403: it has no signature"),
        ("POST", "", {HEADER: _signature(SECRET, b"{}")}, body, "403: its signature is wrong"),
        (
            "POST",
            "",
            {HEADER: _signature(SECRET, b"SENTINEL")},
            b"SENTINEL",
            "400: it is signed, but not a JSON object",
        ),
        ("POST", "", {}, b"x" * 2000, "413: it has more than 1000 bytes"),
        ("PUT", "", {}, body, "405: its method"),
        ("GET", "crc_token=SENTINEL&crc_token=b", {}, b"", "400: a check needs exactly one valid crc_token"),
    ]
    async with Webhook(KEYS, nobody, largest_body=1000) as webhook:
        for method, query, headers, sent, problem in cases:
            caplog.clear()
            reply = await webhook.receive(method, query, headers, sent)
            (words,) = warnings(caplog)
            assert f"{reply.status}: " in words
            assert problem in words
            assert "SENTINEL" not in caplog.text
            assert SECRET not in caplog.text


# ---- checks, silence ----


async def test_fault_95_a_handler_that_blocks_does_not_keep_a_check_waiting(sandbox: Sandbox) -> None:
    """X waits for three seconds, and so does the sandbox."""
    may_end, begun = threading.Event(), threading.Event()
    threads: set[int] = set()

    def handle(_: Event) -> None:
        threads.add(threading.get_ident())
        begun.set()
        may_end.wait(HANGS)

    webhook = Webhook(sandbox.credentials, handle)
    async with listening(webhook) as url:
        await sandbox.subscribe(url)
        sandbox.person(5).writes("hello")
        await sandbox.delivered()
        while not begun.is_set():
            await asyncio.sleep(0.01)
        await sandbox.subscribe(url)
        may_end.set()
        await webhook.settled()
    assert threads != {threading.get_ident()}
    assert [delivery.statuses for delivery in sandbox.deliveries] == [(200,)]


async def test_fault_95_the_sandbox_waits_no_longer_than_x_does() -> None:
    assert signature(Sandbox).parameters["webhook_timeout"].default == 3.0

    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(HANGS)

    async with serving(silent) as server, Sandbox(webhook_timeout=0.2) as sandbox:
        with pytest.raises(InvalidInput, match="did not pass the check"):
            await sandbox.subscribe(server.url)


@pytest.mark.slow
def test_fault_96_silence_is_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        clock = LoopClock()
        inbox = Inbox(clock=clock)
        async with Webhook(KEYS, nobody, inbox=inbox, silent_after=3600) as webhook:
            await post(webhook, FLAT)
            await asyncio.sleep(3000)
            query = "crc_token=abc&nonce=def"
            signed = {HEADER: _signature(SECRET, query.encode())}
            assert (await webhook.receive("GET", query, signed, b"")).status == 200
            await asyncio.sleep(3000)
            assert (await webhook.receive("GET", query, {}, b"")).status == 200  # anybody's, who says nothing of X
            assert warnings(caplog) == []
            await asyncio.sleep(20_000)
            (words,) = warnings(caplog)
            assert "nothing has come for 1.0 hours" in words
            await post(webhook, FLAT)
            await asyncio.sleep(20_000)
            assert len(warnings(caplog)) == 2
        await inbox.close()
        async with Webhook(KEYS, nobody, silent_after=None):
            await asyncio.sleep(10**5)
        assert len(warnings(caplog)) == 2

    run(main())


async def test_a_check_is_answered_whatever_hangs_on_it() -> None:
    async with listening(Webhook(KEYS, nobody)) as url, aiohttp.ClientSession() as session:
        headers = {"Content-Length": "5"}
        async with session.get(f"{url}?crc_token=a%2Bb", headers=headers) as response:
            assert response.status == 200
    async with Webhook(KEYS, nobody) as webhook:
        plus, escaped = [(await webhook.receive("GET", f"crc_token={one}", {}, b"")).body for one in ("a+b", "a%2Bb")]
        assert plus == escaped


# ---- bad rows ----


async def test_fault_97_a_number_without_end_stops_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """It can be read once, and what is written of it cannot be read again."""
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED).encode()
    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    bad = body.replace(b'"message_create", "id"', b'"message_create", "weight": 1e400, "id"').replace(
        event["id"].encode(), b"77"
    )
    assert bad.count(b"1e400") == 1
    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        assert await post(webhook, bad) == 200
        assert await post(webhook, body) == 200
        await webhook.settled()
        assert len(await inbox.unread()) == 1
    assert "not understood; it is kept" in caplog.text
    assert [one.key for one in seen] == [event["id"]]
    async with Inbox(place) as inbox, Webhook(KEYS, handle, inbox=inbox):
        assert len(await inbox.unread()) == 1


@pytest.mark.parametrize("content", ["{", '{"a": Infinity}', "[]", '{"for_user_id": "5"}', "[" * 3000])
async def test_fault_97_a_row_that_cannot_be_read_stops_neither_a_start_nor_another_process(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED)
    (event,) = read_events(good)
    seen: list[str] = []

    async def handle(one: Event) -> None:
        seen.append(one.key)

    for bad_first in (True, False):
        path = tmp_path / f"{bad_first}.db"
        async with Inbox(path) as dying:
            rows = [
                Received(event.for_user_id, "0" if bad_first else "9" * 20, content),
                Received(event.for_user_id, event.key, good),
            ]
            await dying.keep(rows)
        async with Inbox(path) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
            await webhook.settled()
            assert len(await inbox.unread()) == 1
        assert "was kept, and cannot be read" in caplog.text
    assert seen == [event.key] * 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE event SET body = CAST(x'7bff' AS TEXT) WHERE id = '0'",
        "UPDATE event SET owner = 'a' || char(0) || 'b' WHERE id = '0'",
        "UPDATE event SET owner = '" + "x" * 300 + "' WHERE id = '0'",
        "UPDATE event SET owner = '' WHERE id = '0'",
        "UPDATE event SET kept_at = 1e300 WHERE id = '0'",
        "UPDATE heard SET at = 'abc'",
        "UPDATE heard SET at = 1e300",
    ],
)
async def test_fault_97_an_odd_value_hides_no_other(damage: str, tmp_path: Path) -> None:
    good = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED)
    (event,) = read_events(good)
    seen: list[str] = []

    async def handle(one: Event) -> None:
        seen.append(one.key)

    path = tmp_path / "inbox.db"
    async with Inbox(path) as inbox:
        await inbox.keep([Received("5", "0", "{"), Received(event.for_user_id, event.key, good)], heard=["delivery"])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(damage)
        db.commit()
    async with Inbox(path) as inbox, Webhook(KEYS, handle, inbox=inbox) as webhook:
        await webhook.settled()
        assert len(await inbox.unread()) == 1
        await inbox.heard()
    assert seen == [event.key]


# ---- cost ----


def large(events: int, users: int) -> bytes:
    event = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]
    user = next(iter(samples.WEBHOOK_MESSAGE_RECEIVED["users"].values()))
    document = samples.WEBHOOK_MESSAGE_RECEIVED | {
        "direct_message_events": [event | {"id": str(number)} for number in range(events)],
        "users": {str(number): user | {"id": str(number)} for number in range(users)},
    }
    return json.dumps(document).encode()


def test_fault_98_what_a_body_costs_is_linear_in_its_length() -> None:
    """Counted in calls and in characters kept, which do not depend on the machine."""

    def cost(events: int, users: int) -> tuple[int, int]:
        import cProfile  # noqa: PLC0415 - only here

        profile, body = cProfile.Profile(), large(events, users)
        told = profile.runcall(parse_delivery, body)
        assert len(told.events) == events
        return sum(entry.callcount for entry in profile.getstats()), sum(len(kept) for _, kept in told.events)

    few, many = cost(100, 100), cost(400, 400)
    assert many[0] < 5 * few[0]
    assert many[1] < 5 * few[1]
    person = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]["message_create"]["sender_id"]
    talkative = json.loads(large(400, 0))
    talkative["users"] = {person: {"id": person, "name": "Tea Drinker", "description": "x" * 100_000}}
    told = parse_delivery(json.dumps(talkative))
    assert all(event.users[person].name == "Tea Drinker" for event, _ in told.events)
    assert sum(len(kept) for _, kept in told.events) < 400_000, "what all share is not kept with each"


@pytest.mark.slow
async def test_fault_98_a_million_users_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"for_user_id":"5","direct_message_events":[],"users":{' + b",".join(
        b'"%d":{"id":"%d"}' % (number, number) for number in range(1_000_000)
    ) + b"}}"  # fmt: skip
    async with Webhook(KEYS, nobody) as webhook:
        assert await post(webhook, body) == 413
    assert "413" in caplog.text


async def test_fault_98_slow_bodies_are_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("twdm_async.webhooks.webhook._SLOWEST_BODY", 0.3)
    async with listening(Webhook(KEYS, nobody)) as url, aiohttp.ClientSession() as session:

        async def drip() -> Any:
            for _ in range(1000):
                yield b"x"
                await asyncio.sleep(0.05)

        statuses: list[int] = []
        with contextlib.suppress(aiohttp.ClientError):  # it may be closed while the body is still on its way
            async with session.post(url, data=drip()) as response:
                statuses.append(response.status)
        assert statuses in ([408], [])
    assert "408: its body had not come after 0.3 s" in caplog.text


# ---- nothing vanishes ----


KINDS = ("direct_message_events", "direct_message_indicate_typing_events", "direct_message_mark_read_events")


def document_is_empty(document: dict[str, Any], kind: str) -> bool:
    """Whether nothing of this kind is told."""
    data = document.get("data")
    payload = data.get("payload") if isinstance(data, dict) else None
    return not any(isinstance(one, dict) and one.get(kind, []) for one in (document, payload))


async def fuzz(count: int, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of every signed body about messages there is a trace: it is handled, kept as unread, or named in the log."""
    chance = random.Random(seed)
    bodies = [json.dumps(envelope).encode() for envelope in (*ENVELOPES, FLAT)]

    async def handle(_: Event) -> None: ...

    traced = before = 0
    async with Webhook(KEYS, handle, with_echoes=True, inbox=(inbox := Inbox())) as webhook:
        for _ in range(count):
            body = mutated(chance.choice(bodies), chance)
            caplog.clear()
            status = await post(webhook, body)
            assert status in {200, 400}
            known = [event.key for event, _ in parse_delivery(body).events] if status == 200 else []
            unread = inbox._storage._db.execute("SELECT count(*) FROM event WHERE is_unread").fetchone()[0]  # type: ignore[attr-defined]
            if not known and unread == before and "is kept" not in caplog.text and warnings(caplog) == []:
                assert status == 200
                assert all(document_is_empty(json.loads(body), kind) for kind in KINDS), body
            before = unread
            traced += bool(known)
        await webhook.settled()
        assert await inbox.failed() == ()
        assert len(await inbox.unread()) > 10
    await inbox.close()
    assert traced > count / 4


@pytest.mark.soak
async def test_fault_92_of_mutated_bodies_nothing_vanishes(caplog: pytest.LogCaptureFixture) -> None:
    await fuzz(2_000, 1, caplog)


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_fault_92_of_a_hundred_thousand_mutated_bodies_nothing_vanishes(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    await fuzz(100_000, 2, caplog)
    print(f"100 000 bodies in {time.monotonic() - began:.0f} s")  # noqa: T201 - what was measured
