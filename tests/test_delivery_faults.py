"""Faults of delivery, each called after its number on the page *What it survives*."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import twdm_async
from tests.drainer import table
from tests.scripted import http, read_request, serving
from tests.support import keep_files_in_the_loop, place
from tests.test_http import SENT, TEXT, connected, send, used
from tests.virtual_time import run, virtual_time
from twdm_async import (
    Client,
    DeliveryUnknown,
    DirectMessage,
    Forbidden,
    LoopClock,
    MalformedResponse,
    NotFound,
    QuotaWaitTooLong,
    RecipientUnreachable,
    ResponseError,
    TwdmError,
)
from twdm_async.outbox import Outbox, State
from twdm_async.outbox.verdicts import Ended, Judge, Sent, Stop, TryLater, backoff, most_tries
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.transport.retry import Answered, Failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SEND, LIST = "direct_messages.send", "direct_messages.list"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keep_files_in_the_loop(monkeypatch)
    return tmp_path / "outbox.db"


@contextlib.asynccontextmanager
async def asking(sandbox: Sandbox, **options: Any) -> AsyncIterator[Client]:
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, **options) as client:
        yield client


# ---- the list of messages ----


def test_fault_56_a_list_that_is_two_minutes_late_doubles_nothing(path: Path) -> None:
    """Answers of five of twelve sends are lost; the list shows a message two and a half minutes late."""

    async def main() -> None:
        faults = [Fault("reset", endpoint=SEND, nth=number) for number in (2, 4, 6, 8, 10)]
        async with place(path, faults=faults, list_lag=150.0) as here:
            for number in range(12):
                await here.outbox.put("5", f"{TEXT} {number}")
            assert (await here.outbox.drain())[State.SENT] == 12
            assert len(here.sandbox.messages) == 12
            assert here.readings <= 5

    run(main())


def test_fault_56_a_list_that_takes_more_than_one_window_is_read_to_its_end(path: Path) -> None:
    """Also for a client that does not want to wait for quota: its outbox must find out what became of a message."""

    async def main() -> None:
        fault = Fault("reset", endpoint=SEND, nth=1, processed=False)
        async with place(path, faults=[fault], max_wait=1.0) as here:
            await here.outbox.put("5", TEXT)
            draining = asyncio.ensure_future(here.outbox.drain())
            await asyncio.sleep(2)
            for number in range(800):
                here.sandbox.person(1000 + number % 400).writes(f"{number}")
            async with asyncio.timeout(3 * 3600):
                assert (await draining)[State.SENT] == 1
            assert len(here.sandbox.messages) == 1

    run(main())


@virtual_time
async def test_fault_56_what_arrived_is_found_at_once_where_the_list_is_not_late() -> None:
    clock = LoopClock()
    async with (
        Sandbox(clock=clock, faults=[Fault("reset", endpoint=SEND)]) as sandbox,
        asking(sandbox, clock=clock) as client,
    ):
        with pytest.raises(DeliveryUnknown) as caught:
            await send(client)
        began = clock.monotonic()
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert settled.delivered == "yes"
        assert clock.monotonic() - began < 1


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["list_empty", "list_holes", "list_old_head", "list_reversed"])
def test_fault_57_to_59_a_list_that_is_wrong_for_a_while_doubles_nothing(kind: str, path: Path) -> None:
    async def main() -> None:
        lost = [Fault("reset", endpoint=SEND, nth=2), Fault("reset", endpoint=SEND, nth=3, processed=False)]
        async with place(path, faults=[*lost, Fault(kind, endpoint=LIST)], seed=2) as here:
            for number in range(5):
                await here.outbox.put("5", f"{TEXT} {number}")
            draining = asyncio.create_task(here.outbox.drain())
            await asyncio.sleep(2000)
            here.sandbox.faults[2:] = []
            assert (await draining)[State.SENT] == len(here.sandbox.messages) == 5

    run(main())


@virtual_time
async def test_fault_60_a_cursor_that_repeats() -> None:
    clock = LoopClock()
    faults = [Fault("cursor_repeats", endpoint=LIST), Fault("reset", endpoint=SEND, nth=2, processed=False)]
    async with Sandbox(clock=clock, faults=faults) as sandbox, asking(sandbox, clock=clock) as client:
        await send(client)
        found: list[DirectMessage] = []
        with pytest.raises(MalformedResponse, match="a cursor for the second time"):
            async for message in client.direct_messages.list():
                found.append(message)  # noqa: PERF401 - what came before the error counts
        assert len(found) == 1
        assert len(sandbox.requests) == 3
        with pytest.raises(DeliveryUnknown) as caught:
            await send(client)
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert settled.delivered == "unknown", "a list that goes in circles cannot be believed"
        assert 5400 <= clock.monotonic() <= 8000


def test_a_message_that_was_deleted_holds_nobody_up(path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("reset", endpoint=SEND, nth=1, processed=False)]) as here:
            await here.outbox.put("5", TEXT, key="lost")
            draining = asyncio.create_task(here.outbox.drain())
            await asyncio.sleep(20)
            other = await here.client.direct_messages.send("6", "to be deleted")
            await here.client.direct_messages.delete(other.id or "")
            assert (await draining)[State.SENT] == 1
            assert here.clock.monotonic() < 800

    run(main())


# ---- answers ----


@virtual_time
async def test_fault_62_you_already_said_that_may_be_about_the_very_message() -> None:
    clock = LoopClock()
    async with (
        Sandbox(clock=clock, faults=[Fault("already_said", endpoint=SEND)]) as sandbox,
        asking(sandbox, clock=clock) as client,
    ):
        with pytest.raises(DeliveryUnknown, match="has this message already") as caught:
            await send(client)
        assert (caught.value.status, caught.value.codes) == (403, (151,))
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert settled.message is not None
        assert settled.message.id == sandbox.messages[0].id


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(403, 151, "There was an error sending your message: quick_reply.options.label is too long."),
     (403, 151, "There was an error sending your message: Field description is not valid."),
     (403, 151, "There was an error sending your message: quick_reply.options contains a duplicate label."),
     (403, 150, "You already said that.")],
)  # fmt: skip
async def test_fault_62_a_label_that_is_refused_is_refused(status: int, code: int, words: str) -> None:
    refusal = http(json.dumps({"errors": [{"code": code, "message": words}]}).encode(), f"{status} Forbidden")
    async with serving(refusal) as server, connected(server.url) as client:
        with pytest.raises(Forbidden) as caught:
            await send(client)
        assert (caught.value.delivered, caught.value.subject) == ("no", "message")


async def test_fault_62_a_duplicate_needs_no_words() -> None:
    refusal = http(json.dumps({"errors": [{"code": 187, "message": ""}]}).encode(), "403 Forbidden")
    async with serving(refusal) as server, connected(server.url) as client:
        with pytest.raises(DeliveryUnknown):
            await send(client)


@pytest.mark.parametrize(("code", "is_known"), [(29, False), (0, False), (None, False), (349, True), (32, True)])
async def test_fault_63_an_error_with_a_200_is_a_no_only_if_it_is_known_to_mean_no(
    code: int | None, is_known: bool
) -> None:
    body = {"errors": [{"code": code, "message": "Timeout: Unspecified"}]}
    async with serving(http(json.dumps(body).encode())) as server, connected(server.url) as client:
        with pytest.raises(ResponseError if is_known else DeliveryUnknown):
            await send(client)
        assert used(client) == 1


@pytest.mark.parametrize("body", [{"event": {}}, {"event": {"id": "7"}}, {"event": {"message_create": {}}}])
async def test_fault_63_a_200_without_an_event_is_no_proof(body: Any) -> None:
    async with serving(http(json.dumps(body).encode())) as server, connected(server.url) as client:
        with pytest.raises(DeliveryUnknown):
            await send(client)
        assert used(client) == 1


def answer(recipient_id: str = "5", text: str = TEXT, number: str | None = None, **data: Any) -> bytes:
    create = {"target": {"recipient_id": recipient_id}, "sender_id": "1", "message_data": {"text": text, **data}}
    event = {"type": "message_create", "message_create": create} | ({"id": number} if number else {})
    return http(json.dumps({"event": event}).encode())


URL = {"urls": [{"url": "https://t.co/x", "expanded_url": "https://example.com/a"}]}


@pytest.mark.parametrize(
    ("sent", "answered", "is_taken"),
    [
        (TEXT, answer(), True),
        (TEXT, answer("6"), False),
        (TEXT, answer(text="something else"), False),
        (TEXT, answer(text="SENTINEL text!"), True),  # the letters are the same
        ("A & B <3", answer(text="A &amp; B &lt;3"), True),
        ("see https://example.com/a", answer(text="see https://t.co/x", entities=URL), True),
        ("see example.com", answer(text="see https://t.co/x"), True),  # what became a link cannot be compared
        ("look", answer(text="look https://t.co/x", entities=URL), True),
        ("\U0001f600", answer(text="\U0001f601"), True),  # there is no letter in it
        ("Stra\u00dfe \ufb01", answer(text="strasse fi"), True),
    ],
)
async def test_fault_72_an_answer_to_another_message(sent: str, answered: bytes, is_taken: bool) -> None:
    async with serving(answered) as server, connected(server.url) as client:
        if is_taken:
            assert isinstance(await client.direct_messages.send("5", sent), DirectMessage)
            return
        with pytest.raises(DeliveryUnknown, match="no answer to this message"):
            await client.direct_messages.send("5", sent)
        assert used(client) == 1


async def test_fault_72_an_id_that_is_known_already() -> None:
    async with serving(answer(number="77")) as server, connected(server.url) as client:
        assert (await send(client)).id == "77"
        with pytest.raises(DeliveryUnknown, match="the answer to an earlier request"):
            await send(client)
        assert server.connections == 1
        with pytest.raises(DeliveryUnknown):
            await send(client)
        assert server.connections == 2, "a connection over which that came is not used again"


async def test_fault_72_an_id_that_another_process_knows(path: Path) -> None:
    """Two outboxes on one file: the answer of one comes once more to the other."""
    async with serving(answer(number="77")) as server, contextlib.AsyncExitStack() as stack:
        boxes: list[Outbox] = []
        for _ in range(2):
            client = await stack.enter_async_context(connected(server.url, quotas=table()))
            boxes.append(await stack.enter_async_context(Outbox(client, path)))
        await boxes[0].put("5", TEXT, key="a")
        await boxes[0].drain()
        await boxes[1].put("5", TEXT, key="b")
        async with boxes[1].running():
            async for entry in boxes[1].events(after=0):
                if entry.key == "b":
                    assert entry.state is State.UNKNOWN
                    break


@pytest.mark.parametrize("kind", ["repeated", "half_repeated"])
async def test_fault_71_a_reply_that_comes_once_more_after_it_was_read(kind: str) -> None:
    """Else B's refusal would be lost, B count as sent, and every later answer be the one before."""
    async with (
        Sandbox(faults=[Fault(kind, endpoint=SEND, nth=1)]) as sandbox,
        asking(sandbox, quotas=table()) as client,
    ):
        sandbox.unreachable.add("6")
        first = await client.direct_messages.send("5", TEXT)
        await asyncio.sleep(0.1)
        with pytest.raises(RecipientUnreachable):
            await client.direct_messages.send("6", TEXT)
        for number in range(3):
            assert (await client.direct_messages.send("5", f"{TEXT} {number}")).id == sandbox.messages[-1].id
        assert [message.id for message in sandbox.messages].count(first.id or "") == 1


REFUSED = json.dumps({"errors": [{"code": 349, "message": "no"}]}).encode()
FIRST = {
    "a refusal": http(REFUSED, "403 Forbidden"),
    "a refusal with a 200": http(REFUSED),
    "no answer at all": http(b"{}"),
    "the answer to a read": http(b'{"id_str": "1", "id": 1, "screen_name": "a", "name": "a"}'),
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("slow_traces", [False, True])
async def test_fault_71_an_answer_that_comes_once_more_while_the_next_request_is_under_way(
    first: str, slow_traces: bool
) -> None:
    """A proxy repeats the first answer of every connection. A refusal names nobody: taken for the answer to the next
    request, it would make a message that arrives a rejected one.
    """
    made = (str(number) for number in itertools.count(100))

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = server.requests[-1]
        for turn in itertools.count():
            if b'"recipient_id":"5"' in request:
                reply = answer("5", number=next(made))
            else:
                reply = http(REFUSED, "403 Forbidden") if server.requests[1:] else FIRST[first]
            await asyncio.sleep(0.03)
            writer.write(reply)
            if turn == 0:
                asyncio.get_running_loop().call_later(0.02, writer.write, reply)
            request = await read_request(reader)
            server.requests.append(request)

    async def sleep(*_: object) -> None:
        await asyncio.sleep(0.02)

    trace = aiohttp.TraceConfig()
    if slow_traces:
        trace.on_request_end.append(sleep)
    async with serving(script) as server, connected(server.url, quotas=table(), trace_configs=[trace]) as client:
        is_read = first == "the answer to a read"
        asking: asyncio.Task[object] = asyncio.ensure_future(
            client.account.verify_credentials() if is_read else client.direct_messages.send("6", TEXT)
        )
        await (asyncio.sleep(0.04) if slow_traces else asyncio.wait([asking]))  # the answer is there, and being traced
        for who in ("5", "6", "5", "6", "5"):
            try:
                assert (await client.direct_messages.send(who, TEXT)).recipient_id == who == "5"
            except TwdmError as error:
                assert who == "6" or (is_read and isinstance(error, DeliveryUnknown)), "after a good answer, it may be"
        await asyncio.gather(asking, return_exceptions=True)


async def test_fault_71_bytes_that_the_loop_has_not_read_yet() -> None:
    """They lie in the socket when the next request is about to leave."""
    replies = iter([answer(number="1") + answer(number="1"), answer(number="2"), answer(number="3")])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                reply = next(replies)
                writer.write(reply[: len(reply) // 2] if reply.count(b"HTTP/1.1") == 2 else reply)
                if reply.count(b"HTTP/1.1") == 2:
                    await writer.drain()
                    late.append((writer, reply[len(reply) // 2 :]))
                server.requests.append(await read_request(reader))

    late: list[tuple[asyncio.StreamWriter, bytes]] = []
    async with serving(script) as server, connected(server.url) as client:
        assert (await send(client)).id == "1"
        ((writer, rest),) = late
        writer.transport.get_extra_info("socket")  # it is there
        writer.write(rest)  # at once, by the kernel: our own loop has not run since
        assert (await send(client)).id == "2"
        assert server.connections == 2


async def test_fault_71_a_connection_that_was_closed_meanwhile_is_not_tried() -> None:
    """What would have been unknown is sent over another connection."""

    async def once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT)
        await writer.drain()

    async with serving(once) as server, connected(server.url) as client:
        for _ in range(5):
            await send(client)
            await asyncio.sleep(0.01)
        assert server.connections == used(client) == 5


# ---- who is refused, and who goes on ----


@pytest.mark.parametrize(
    ("kind", "subject", "cls"),
    [("not_following", "message", RecipientUnreachable), ("verified_only", "message", RecipientUnreachable),
     ("automated", "message", twdm_async.LooksAutomated), ("no_such_user", "message", NotFound),
     ("locked", "account", Forbidden), ("401_token", "account", twdm_async.Unauthorized),
     ("404_page", "unclear", NotFound), ("unknown_code", "unclear", Forbidden),
     ("proxy_403", "intermediary", Forbidden), ("proxy_policy", "intermediary", Forbidden),
     ("proxy_101", "intermediary", ResponseError), ("proxy_451", "intermediary", twdm_async.BadRequest),
     ("redirect", "intermediary", ResponseError)],
)  # fmt: skip
async def test_faults_64_to_68_what_a_refusal_is_about(kind: str, subject: str, cls: type[ResponseError]) -> None:
    async with Sandbox(faults=[Fault(kind, endpoint=SEND)]) as sandbox, asking(sandbox) as client:
        with pytest.raises(cls) as caught:
            await send(client)
        assert (caught.value.subject, caught.value.delivered) == (subject, "no")
        assert caught.value.safe_to_retry == (subject == "intermediary")


@pytest.mark.parametrize("kind", ["not_following", "verified_only", "automated", "no_such_user"])
def test_fault_64_a_refusal_about_one_person_stops_nobody_else(kind: str, path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault(kind, endpoint=SEND, recipient_id="5")]) as here:
            for person in ("5", "6", "5", "7"):
                await here.outbox.put(person, TEXT)
            counts = await here.outbox.drain(workers=1)
            assert (counts[State.REJECTED], counts[State.SENT]) == (2, 2)
            assert here.sends == 4, "each once"

    run(main())


@pytest.mark.parametrize("kind", ["locked", "401_token", "401_signature"])
def test_fault_65_a_refusal_of_the_account_stops_with_the_reason(kind: str, path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault(kind, endpoint=SEND)]) as here:
            for number in range(20):
                await here.outbox.put("5", f"{TEXT} {number}")
            with pytest.raises((Forbidden, twdm_async.Unauthorized), match=r"HTTP 40[13], code"):
                await here.outbox.drain(workers=1)
            assert (await here.outbox.counts())[State.QUEUED] == 20
            assert here.sends == 1
            here.sandbox.faults.clear()
            assert (await here.outbox.drain())[State.SENT] == 20

    run(main())


@pytest.mark.parametrize("kind", ["404_page", "unknown_code"])
def test_fault_66_one_unclear_refusal_in_a_working_run_is_a_hiccup(kind: str, path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault(kind, endpoint=SEND, nth=3)]) as here:
            for number in range(10):
                await here.outbox.put("5", f"{TEXT} {number}")
            assert (await here.outbox.drain(workers=1))[State.SENT] == len(here.sandbox.messages) == 10
            assert here.clock.monotonic() < 60

    run(main())


@pytest.mark.parametrize("messages", [1, 20])
def test_fault_66_where_every_message_is_refused_for_the_same_it_stops(messages: int, path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("404_page", endpoint=SEND)]) as here:
            for number in range(messages):
                await here.outbox.put("5", f"{TEXT} {number}")
            with pytest.raises(NotFound, match="code 34"):
                await here.outbox.drain()
            assert (await here.outbox.counts())[State.QUEUED] == messages
            assert 3 < here.clock.monotonic() < 60
            assert here.sends <= 16 + 4

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["500", "reset"])
def test_fault_67_a_message_that_never_arrives_is_given_up(kind: str, path: Path) -> None:
    async def main() -> None:
        fault = Fault(kind, endpoint=SEND, recipient_id="5", processed=False)
        async with place(path, faults=[fault]) as here:
            await here.outbox.put("5", TEXT, key="poisoned")
            for number in range(100):
                await here.outbox.put("6", f"{TEXT} {number}")
            counts = await here.outbox.drain()
            assert (counts[State.FAILED], counts[State.SENT]) == (1, 100)
            entry = await here.outbox.get("poisoned")
            assert entry is not None
            assert (entry.state.is_final, entry.attempts) == (True, 3)
            assert "did not arrive in 3 attempts; the last one ended so: " in (entry.error or "")
            assert here.clock.monotonic() > 3 * 690 + 600, "between the tries lie ever longer pauses"
            here.sandbox.faults.clear()
            assert await here.outbox.retry("poisoned") == 1
            assert (await here.outbox.drain())[State.SENT] == 101

    run(main())


INTERMEDIARIES = ["proxy_403", "proxy_413", "proxy_418", "proxy_421", "proxy_425", "proxy_431", "proxy_451", "proxy_101",
                  "proxy_407", "proxy_policy", "redirect_elsewhere", "errors_texts", "no_errors"]  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("kind", INTERMEDIARIES)
def test_fault_68_no_from_somebody_who_is_not_the_api_is_not_final(kind: str, path: Path) -> None:
    """Twenty messages meet a second and a half of it."""

    async def main() -> None:
        async with place(path, faults=[Fault(kind, endpoint=SEND)]) as here:
            for number in range(20):
                await here.outbox.put("5", f"{TEXT} {number}")
            draining = asyncio.create_task(here.outbox.drain())
            await asyncio.sleep(1.5)
            here.sandbox.faults.clear()
            assert (await draining)[State.SENT] == len(here.sandbox.messages) == 20
            assert here.clock.monotonic() < 30

    run(main())


@pytest.mark.soak
def test_fault_68_an_outage_of_hours_gives_nothing_up_and_is_hardly_asked(path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("proxy_403", endpoint=SEND)]) as here:
            for number in range(20):
                await here.outbox.put("5", f"{TEXT} {number}", key=str(number))
            draining = asyncio.create_task(here.outbox.drain())
            await asyncio.sleep(3 * 3600)
            assert here.sends < 80, "else an outage would use up the quota"
            entry = await here.outbox.get("0")
            assert entry is not None
            assert entry.error is not None, "it says why it waits"
            here.sandbox.faults.clear()
            assert (await draining)[State.SENT] == 20
            assert here.clock.monotonic() < 3 * 3600 + 700

    run(main())


@pytest.mark.soak
def test_fault_69_an_intermediary_that_refuses_one_message_is_not_asked_for_ever(path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("proxy_policy", endpoint=SEND, recipient_id="5")]) as here:
            await here.outbox.put("5", TEXT, key="poisoned")
            for number in range(100):
                await here.outbox.put("6", f"{TEXT} {number}")
            counts = await here.outbox.drain(workers=1)
            assert (counts[State.FAILED], counts[State.SENT]) == (1, 100)
            entry = await here.outbox.get("poisoned")
            assert entry is not None
            assert "HTTP 403 (no error code of the API" in (entry.error or "")
            assert "in 3 tries, while others got through" in (entry.error or "")
            assert "policy" not in (entry.error or ""), "who inspects messages may repeat them"
            assert here.sends <= 104

    run(main())


@virtual_time
async def test_fault_70_after_a_420_nothing_of_the_account_leaves() -> None:
    clock = LoopClock()
    fault = Fault("420", endpoint=SEND, nth=1)
    async with Sandbox(clock=clock, faults=[fault]) as sandbox, asking(sandbox, clock=clock) as client:
        other = sandbox.add_account()
        async with asking(sandbox, clock=clock, quota_store=client.quota_store) as same:
            with pytest.raises(twdm_async.RateLimited):
                await client.direct_messages.send("5", TEXT, max_wait=1)
            for one in (client, same):
                for call in (one.account.verify_credentials(max_wait=1), one.custom_profiles.get("1", max_wait=1)):
                    with pytest.raises(QuotaWaitTooLong):
                        await call
        async with Client(
            other, api_url=sandbox.url, upload_url=sandbox.url, clock=clock, quota_store=client.quota_store
        ) as another:
            await another.account.verify_credentials(max_wait=1)
        await asyncio.sleep(70)
        await client.account.verify_credentials(max_wait=1)
        sandbox.faults.append(Fault("429", endpoint=SEND, nth=1))
        with pytest.raises(twdm_async.RateLimited):
            await client.direct_messages.send("5", TEXT, max_wait=1)
        await client.account.verify_credentials(max_wait=1)


# ---- the judge, without a server ----


def refusal(code: int | None = 34, status: int = 404) -> ResponseError:
    return ResponseError(endpoint=SEND, status=status, codes=() if code is None else (code,))


MESSAGE = DirectMessage(id="1", recipient_id="5")


def judge() -> Judge:
    return Judge(600.0, 60.0, lambda: 1.0)


def decided(one: Judge, row: int, to: str, tries: int, came: DirectMessage | TwdmError, now: float, **more: Any) -> Any:
    return one.decide(row, to, tries, Answered(came) if isinstance(came, DirectMessage) else Failed(came), now, **more)


def test_what_is_decided_when() -> None:
    one = judge()
    assert decided(one, 1, "5", 0, MESSAGE, 0.0) == Sent("1")
    assert decided(one, 1, "5", 0, refusal(349, 403), 0.0) == Ended(State.REJECTED, f"{SEND}: HTTP 403, code 349")
    assert isinstance(decided(one, 1, "5", 0, refusal(32, 401), 0.0), Stop)
    assert isinstance(decided(one, 1, "5", 0, refusal(326, 403), 0.0), TryLater), "it does not say which"
    assert isinstance(decided(one, 1, "5", 0, TwdmError(), 0.0), Stop)


def test_while_nothing_gets_through_nobody_is_a_suspect() -> None:
    one, now = judge(), 0.0
    for turn in range(30):
        now += one.wait(now)
        assert decided(one, turn % 3, "5", 0, refusal(None, 403), now) == TryLater(
            min(2.0 ** (turn // 3), 60.0), 0, str(refusal(None, 403))
        )
    assert one.is_troubled
    assert one.wait(now) == 300.0
    assert decided(one, 9, "5", 0, MESSAGE, now) == Sent("1")
    assert (one.is_troubled, one.wait(now)) == (False, 0.0)


@pytest.mark.parametrize(("had_others", "stops_at"), [(False, 4), (True, 8)])
def test_an_unclear_refusal_stops_nobody_as_long_as_there_are_others_to_try(had_others: bool, stops_at: int) -> None:
    one, now = judge(), 0.0
    for row in range(stops_at):
        assert isinstance(decided(one, row, str(row), 0, refusal(), now, had_others=had_others and row > 0), TryLater)
        now += one.wait(now)
    assert isinstance(decided(one, stops_at, str(stops_at), 0, refusal(), now, had_others=had_others), Stop)


def test_many_that_fail_together_are_one_failure() -> None:
    one = judge()
    for row in range(16):
        decided(one, row, "5", 0, refusal(None, 403), 0.0)
    assert one.wait(0.0) == 1.0
    decided(one, 20, "5", 0, refusal(None, 403), 1.0)
    assert one.wait(1.0) == 2.0


def test_who_fails_while_others_get_through_is_tried_ever_more_rarely() -> None:
    one = judge()
    pauses, tries = [], 0
    for _ in range(6):
        verdict = decided(one, 1, "5", tries, refusal(), 0.0)
        assert isinstance(verdict, TryLater)
        pauses.append(verdict.after)
        tries = verdict.tries
        decided(one, 2, "5", 0, MESSAGE, 0.0)
    assert tries == 6
    assert pauses == [1.0, 600.0, 1200.0, 2400.0, 4800.0, 9600.0]
    assert backoff(1, 600.0) == 0.0
    assert backoff(30, 600.0) == 6 * 3600


def test_how_many_tries_chance_explains() -> None:
    assert most_tries(failed=0, tried=100_000) == 3
    assert most_tries(failed=50, tried=1000) == 4
    assert most_tries(failed=1, tried=1) == 7
    assert most_tries(failed=1000, tried=1000) == most_tries(failed=10**6, tried=0) == 8
    for failed in (0, 10, 100, 300):
        share = (failed + 1) / 1010
        assert share ** most_tries(failed, 1000) <= 1e-5 or most_tries(failed, 1000) == 8


def test_attempts_in_a_row_without_an_answer_make_a_pause() -> None:
    one = judge()
    unknown = DeliveryUnknown(endpoint=SEND, problem="silence", sent_at=datetime.now(UTC))
    for row in range(7):
        decided(one, row, "5", 0, unknown, 0.0)
        assert one.wait(0.0) == 0.0
    decided(one, 7, "5", 0, unknown, 0.0)
    assert one.wait(0.0) == 1.0
