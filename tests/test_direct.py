"""The request that goes straight over a connection: it is the one that aiohttp's session would make, or the session's."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from tests.scripted import http, read_request, serving
from tests.support import HANGS
from tests.test_http import KEYS, PROFILE, SENT, TEXT, by_session, connected, in_flight, send, silence, used
from tests.virtual_time import run
from twdm_async import Client, ClientClosed, ConnectFailed, DeliveryUnknown, DirectMessage, LoopClock
from twdm_async.transport import direct
from twdm_async.transport import http as transport
from twdm_async.transport.attempt import Attempt
from twdm_async.transport.wire import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twdm_async import AttemptReport


@pytest.fixture(autouse=True)
def nobody_has_warned() -> Iterator[None]:
    direct._say_so.cache_clear()
    yield
    direct._say_so.cache_clear()


def parts(request: bytes) -> tuple[str, list[str], bytes]:
    """Request line, header lines without what no two requests have in common, and body."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    return line, sorted(one for one in lines if not one.lower().startswith(("authorization", "host"))), body


async def every_kind(client: Client) -> None:
    """JSON, a query, a form, an id in the path, and a call without a body."""
    await send(client)
    await client.custom_profiles.get("1")
    await anext(client.custom_profiles.list(), None)
    await client.direct_messages.indicate_typing("5")
    await client.direct_messages.delete("7")
    await client.account.update_profile(name="Anna & Bob", location="über")


async def test_it_is_what_aiohttp_would_send(monkeypatch: pytest.MonkeyPatch) -> None:
    page = http(b'{"custom_profiles": []}')
    nothing = http(b"", "204 No Content")
    replies = [SENT, PROFILE, page, nothing, nothing, http(b'{"id_str": "1"}')]
    seen: list[list[tuple[str, list[str], bytes]]] = []
    for way in ("directly", "by session"):
        if way == "by session":
            monkeypatch.setattr(transport, "learn", by_session)

        async def one_after_the_other(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(replies[len(server.requests) - 1])
            await writer.drain()

        async with serving(one_after_the_other) as server, connected(server.url) as client:
            await every_kind(client)
            assert (client._http._direct[server.url] is None) == (way == "by session")
            seen.append([parts(request) for request in server.requests])
    assert len(seen[0]) == 6
    assert seen[0] == seen[1]


def write_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = direct.Direct._composed

    def with_another_header(self: direct.Direct, *arguments: Any) -> bytes:
        return composed(self, *arguments).replace(b"Accept: */*", b"Accept: text/html")

    monkeypatch.setattr(direct.Direct, "_composed", with_another_header)


def read_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreadable(_: Any) -> None:
        raise AttributeError

    monkeypatch.setattr(direct, "finish", unreadable)


def connect_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = aiohttp.BaseConnector.connect

    async def with_more(self: Any, req: Any, *, traces: Any, timeout: Any) -> Any:
        assert traces is not None or timeout
        if isinstance(self, direct._OnPaper) and hasattr(self, "request"):
            raise TypeError
        return await connect(self, req, traces=traces, timeout=timeout)

    monkeypatch.setattr(aiohttp.BaseConnector, "connect", with_more)


@pytest.mark.parametrize("changed", [write_otherwise, read_otherwise, connect_otherwise])
async def test_an_aiohttp_that_is_not_what_was_expected_is_used_by_its_session(
    changed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changed(monkeypatch)
    async with serving(SENT) as server, connected(server.url) as one, connected(server.url) as another:
        for client in (one, another):
            assert isinstance(await send(client), DirectMessage)
            assert client._http._direct == {server.url: None}
        assert len(server.requests) == 2
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [aiohttp.__version__ in record.getMessage() for record in warnings] == [True], (
        "once, and not for each client"
    )


async def test_nothing_of_a_message_is_kept_to_learn_from() -> None:
    async with serving(SENT) as server, connected(server.url) as client:
        await send(client)
        learned = client._http._direct[server.url]
        assert learned is not None
        assert TEXT not in f"{learned._head} {vars(learned._pattern)}"
        assert "SENTINEL" not in f"{learned._head} {learned._pattern.headers} {learned._parameters}"


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_interim_replies_are_read_over(interim: bytes, in_pieces: bool) -> None:
    async def interim_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = interim + interim + SENT
        while True:
            for piece in [said[place : place + 7] for place in range(0, len(said), 7)] if in_pieces else [said]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            server.requests.append(await read_request(reader))

    async with serving(interim_first) as server, connected(server.url) as client:
        for _ in range(3):
            assert isinstance(await send(client), DirectMessage)
        assert (len(server.requests), server.connections, used(client)) == (3, 1, 3)


async def test_a_kept_connection_that_the_server_closes_costs_nobody_an_attempt() -> None:
    is_closed = asyncio.Event()

    async def and_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        is_closed.set()

    async with serving(and_close) as server, connected(server.url) as client:
        for _ in range(5):
            assert isinstance(await send(client), DirectMessage)
            await is_closed.wait()
            is_closed.clear()
        assert (len(server.requests), server.connections, used(client)) == (5, 5, 5)


async def test_two_replies_to_one_request_end_the_connection() -> None:
    async with serving(SENT + SENT, SENT) as server, connected(server.url) as client:
        assert isinstance(await send(client), DirectMessage)
        assert isinstance(await send(client), DirectMessage)
        assert (len(server.requests), server.connections) == (2, 2)


async def test_who_is_cancelled_while_the_reply_comes_loses_nothing_of_it() -> None:
    """The head and half of the body have come; a task of the client's reads the rest."""
    told: list[Any] = []
    go_on = asyncio.Event()

    async def halting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT[:-40])
        await writer.drain()
        await go_on.wait()
        writer.write(SENT[-40:])

    async with serving(halting) as server, connected(server.url, observers=[told.append]) as client:
        sending = asyncio.create_task(send(client))
        while not any(call.attempt and call.attempt.chunks for call in client._caller._under_way):
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert told == []
        go_on.set()
        while not told:
            await asyncio.sleep(0.01)
        assert isinstance(told[0].outcome, DirectMessage)
        assert told[0].is_abandoned
        assert (used(client), len(server.requests)) == (1, 1)


def test_a_reply_that_never_ends_is_a_fault_in_time() -> None:
    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1\r\n \r\n")
            await writer.drain()
            await asyncio.sleep(0.2)

    async def main() -> None:
        async with serving(dripping) as server, connected(server.url, timeout=5.0, clock=LoopClock()) as client:
            with pytest.raises(DeliveryUnknown, match="no reply in time"):
                await send(client)
            assert client._http._under_way == set()

    run(main())


class Pausable(direct._Paper):
    """A transport that can be paused. It is a connection, too."""

    is_paused = False

    @property
    def protocol(self) -> Any:
        return self._protocol

    def release(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


async def test_a_connection_that_was_paused_when_its_reply_ended_reads_on() -> None:
    handler = ResponseHandler(asyncio.get_running_loop())
    paper = Pausable(handler)
    handler.connection_made(paper)
    handler.set_response_params()
    attempt = Attempt(5.0)
    attempt.begin(paper)
    handler.data_received(http(b"x" * 2_000_000))  # this pauses it, or did so until the end was seen
    reply = await direct.finish(attempt)
    assert isinstance(reply, Reply)
    assert (len(reply.body), paper.is_paused) == (2_000_000, False)


def test_what_it_leans_on_is_there() -> None:
    """Named here, so that a new aiohttp which has none of it is noticed before a user's log tells."""
    assert {"set_response_params", "read", "should_close", "data_received"} <= set(dir(ResponseHandler))


# ---- callers, clients and tasks that end in the wrong moment ----


@pytest.mark.parametrize("turns", range(1, 12))
async def test_nothing_leaves_after_the_client_was_closed(turns: int) -> None:
    """Closed while it learns, connects or sends; the session, and its connections, are somebody else's and stay open."""
    async with serving(silence) as server, aiohttp.ClientSession() as session:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, session=session)
        sending = asyncio.create_task(send(client))
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close(timeout=0)
        async with asyncio.timeout(HANGS):
            await asyncio.wait([sending])
        assert isinstance(sending.exception(), (ClientClosed, ConnectFailed, DeliveryUnknown))
        before = len(server.requests)
        await asyncio.sleep(0.05)
        assert len(server.requests) == before <= 1
        assert in_flight(client) == 0


@pytest.mark.parametrize("turns", range(8))
async def test_who_is_cancelled_while_the_client_is_closed_keeps_nobody_waiting(turns: int) -> None:
    told: list[AttemptReport] = []
    async with serving(silence) as server, aiohttp.ClientSession() as session:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, session=session, observers=[told.append])
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(client.close(timeout=0))
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        async with asyncio.timeout(HANGS):
            await closing
        await asyncio.gather(sending, return_exceptions=True)
        assert [type(report.outcome) for report in told] == [DeliveryUnknown]
        assert (used(client), in_flight(client)) == (1, 0)


async def test_the_client_s_task_may_be_cancelled_before_its_first_step() -> None:
    told: list[AttemptReport] = []
    async with serving(silence) as server, connected(server.url, observers=[told.append]) as client:
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if task.get_name() == "twdm_async attempt":
                task.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        while not told:
            await asyncio.sleep(0.01)
        assert [(type(report.outcome), report.is_abandoned) for report in told] == [(DeliveryUnknown, True)]
        assert (used(client), in_flight(client), client._caller.places.free) == (1, 0, client._http.most)


def test_who_goes_on_has_no_more_time_than_who_began() -> None:
    told: list[AttemptReport] = []

    async def main() -> None:
        clock = LoopClock()
        async with (
            serving(silence) as server,
            connected(server.url, observers=[told.append], timeout=10.0, clock=clock) as client,
        ):
            sending = asyncio.create_task(send(client))
            while not server.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(8.0)
            sending.cancel()
            await asyncio.sleep(4.0)

    run(main())
    assert 10.0 <= told[0].took < 10.5


async def test_a_part_of_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    """It has been read already when the next request comes, and would be taken for the beginning of its answer."""
    has_come, is_dirty = asyncio.Event(), asyncio.Event()

    async def dirty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT)
        await writer.drain()
        await has_come.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nX-Sta")
        await writer.drain()
        is_dirty.set()
        await reader.read()

    async with serving(dirty, SENT) as server, connected(server.url) as client:
        await send(client)
        has_come.set()
        await is_dirty.wait()
        await asyncio.sleep(0.05)  # if it is not read by then, it is seen where it lies
        assert isinstance(await send(client), DirectMessage)
        assert (len(server.requests), server.connections) == (2, 2)


async def test_an_observer_that_is_cancelled_cancels_nobody() -> None:
    told: list[AttemptReport] = []

    def cancelled(report: AttemptReport) -> None:
        told.append(report)
        raise asyncio.CancelledError

    async with serving(SENT) as server, connected(server.url, observers=[cancelled]) as client:
        assert isinstance(await send(client), DirectMessage)
        assert [report.is_abandoned for report in told] == [False]
        assert client._caller.places.free == client._http.most


@pytest.mark.parametrize("is_lent", [False, True])
async def test_only_connections_of_our_own_go_from_call_to_call_and_no_longer_than_a_turn(
    monkeypatch: pytest.MonkeyPatch, is_lent: bool
) -> None:
    asked = 0
    connect = aiohttp.TCPConnector.connect

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await connect(*arguments)

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:  # the first request has been read
            writer.write(PROFILE)
            server.requests.append(await read_request(reader))

    async with (
        serving(answering) as server,
        aiohttp.ClientSession() as lender,
        connected(server.url, session=lender if is_lent else None) as client,
    ):
        await client.custom_profiles.get("1")
        monkeypatch.setattr(aiohttp.TCPConnector, "connect", counted)
        for _ in range(5):
            await client.custom_profiles.get("1")
        assert asked == (5 if is_lent else 0)  # the lender's own requests may wait for it
        for _ in range(2):
            await asyncio.sleep(0)
        await client.custom_profiles.get("1")
        assert asked == (6 if is_lent else 1)
        assert (len(server.requests), server.connections) == (7, 1)
