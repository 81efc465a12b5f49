"""Connections that are used more than once: each request gets its own answer, whoever had the connection before."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.scripted import http, read_request, serving
from tests.test_http import CREATE, connected, send, used, way
from twdm_async import ClientClosed, ConnectFailed, RecipientUnreachable
from twdm_async.endpoints import ENDPOINTS
from twdm_async.transport import direct, retry, session, wire
from twdm_async.transport.attempt import Attempt
from twdm_async.transport.http import HttpTransport

__all__ = ["way"]  # the fixture: what follows must be true of both ways

REFUSED = http(b'{"errors":[{"code":349,"message":"You cannot send messages to this user."}]}', "403 Forbidden")


def sent(number: int) -> bytes:
    """The answer to what is sent, with an id of its own."""
    event = {"type": "message_create", "id": str(10**18 + number), "message_create": CREATE}
    return http(json.dumps({"event": event}).encode())


async def test_a_connection_that_aiohttp_hands_on_before_its_answer_is_judged_carries_the_next_one() -> None:
    first_is_read, second_has_connection = asyncio.Event(), asyncio.Event()

    async def request_end(*_: Any) -> None:  # the whole reply is there, and aiohttp has given the connection back
        if not first_is_read.is_set():
            first_is_read.set()
            await second_has_connection.wait()

    async def connection_reused(*_: Any) -> None:
        second_has_connection.set()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(request_end)
    trace.on_connection_reuseconn.append(connection_reused)

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in itertools.count():  # the first request has been read
            writer.write(sent(number))
            server.requests.append(await read_request(reader))

    async with serving(answering) as server, connected(server.url, trace_configs=[trace]) as client:
        first = asyncio.create_task(send(client))
        await first_is_read.wait()
        second = asyncio.create_task(send(client))
        assert {(await first).id, (await second).id} == {str(10**18), str(10**18 + 1)}
        assert (len(server.requests), server.connections) == (2, 1)


async def test_fault_71_half_a_reply_that_nobody_asked_for_is_not_the_beginning_of_the_next_answer() -> None:
    first_is_read, half_is_written = asyncio.Event(), asyncio.Event()

    async def half_behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent(0))
        await first_is_read.wait()
        writer.write(REFUSED[:30])
        half_is_written.set()
        server.requests.append(await read_request(reader))
        writer.write(REFUSED[30:] + sent(1))

    async def answering(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent(2))

    async with serving(half_behind, answering) as server, connected(server.url) as client:
        await send(client)
        first_is_read.set()
        await half_is_written.wait()
        await asyncio.sleep(0.05)  # until the client's loop has read it
        assert (await send(client)).id == str(10**18 + 2)
        assert (len(server.requests), server.connections) == (2, 2)


async def test_fault_71_a_reply_that_waits_on_a_connection_of_the_lender_s_is_nobody_s_answer() -> None:
    first_is_read, stale_is_written = asyncio.Event(), asyncio.Event()

    async def lenders(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"the lender's"))
        await first_is_read.wait()
        writer.write(REFUSED)
        stale_is_written.set()
        server.requests.append(await read_request(reader))

    async def answering(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent(0))

    async with (
        serving(lenders, answering) as server,
        aiohttp.ClientSession() as lender,
        connected(server.url, session=lender) as client,
    ):
        async with lender.get(f"{server.url}/lenders") as response:
            assert await response.read() == b"the lender's"
        first_is_read.set()
        await stale_is_written.wait()
        assert (await send(client)).id == str(10**18)
        assert (len(server.requests), used(client)) == (2, 1)


@pytest.mark.parametrize("reply", [sent(0), REFUSED])
async def test_a_request_of_the_lender_s_over_a_connection_that_we_used_gets_its_answer(reply: bytes) -> None:
    reply_is_there, lender_has_connection = asyncio.Event(), asyncio.Event()

    async def request_end(*_: Any) -> None:
        reply_is_there.set()
        await lender_has_connection.wait()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(request_end)

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        server.requests.append(await read_request(reader))
        lender_has_connection.set()
        await sending
        writer.write(http(b"the lender's"))

    async with (
        serving(answering) as server,
        aiohttp.ClientSession() as lender,
        connected(server.url, session=lender, trace_configs=[trace]) as client,
    ):
        sending = asyncio.ensure_future(asyncio.wait([asyncio.ensure_future(send(client))]))
        await reply_is_there.wait()
        async with lender.patch(f"{server.url}/lenders") as response:
            assert await response.read() == b"the lender's"
        (done, _) = await sending
        error = done.pop().exception()
        assert error is None if reply != REFUSED else isinstance(error, RecipientUnreachable)
        assert server.connections == 1


@pytest.mark.soak
async def test_fault_107_a_reply_that_came_in_time_is_read_though_the_loop_was_busy_until_later() -> None:
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent(0))
        server.requests.append(await read_request(reader))
        writer.write(sent(1))
        time.sleep(1.7)  # noqa: ASYNC251 - the reply has come, and the loop does not look

    async with serving(answering) as server, connected(server.url, timeout=1.5) as client:
        await send(client)
        assert (await send(client)).id == str(10**18 + 1)


@pytest.mark.soak
async def test_the_time_runs_from_the_connection_where_two_clients_share_a_pool_of_one() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in itertools.count():
            await asyncio.sleep(0.9)
            writer.write(sent(number))
            server.requests.append(await read_request(reader))

    async with (
        serving(slow) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as lender,
        connected(server.url, session=lender, timeout=1.4) as one,
        connected(server.url, session=lender, timeout=1.4) as other,
    ):
        assert len({message.id for message in await asyncio.gather(send(one), send(other))}) == 2


async def test_fault_108_a_server_that_always_speaks_first_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_BACKOFF", 0.0)
    monkeypatch.setattr(session, "MOST_STALE", 20)
    monkeypatch.setattr(direct, "MOST_STALE", 20)
    greeted = created = ended = 0

    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted, ended
        writer.write(sent(0))
        greeted += 1
        with contextlib.suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        ended += 1

    async def until_greeted(*_: Any) -> None:
        nonlocal created
        created += 1
        while greeted < created:
            await asyncio.sleep(0)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(until_greeted)
    server = await asyncio.start_server(greeting, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with connected(url, trace_configs=[trace]) as client:
        with pytest.raises(ConnectFailed):
            await send(client)
        assert used(client) == 0
    while ended < greeted:
        await asyncio.sleep(0.01)
    server.close()
    assert created == 3 * 20, "so many connections in each of three tries"


async def test_a_closed_transport_opens_nothing() -> None:
    closed = HttpTransport(None)
    await closed.close()
    request = wire.Request(ENDPOINTS["direct_messages.send"], "http://127.0.0.1:9", "/", body=b"{}")
    with pytest.raises(ClientClosed):
        await closed.exchange(request, Attempt(5.0))
    assert not closed.is_open


@pytest.mark.parametrize("size", [100_000, 400_000, 2_000_000])
async def test_after_a_long_reply_the_connection_reads_on(size: int) -> None:
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in itertools.count():  # the first request has been read
            event = {"type": "message_create", "id": str(10**18 + number), "message_create": CREATE, "more": "x" * size}
            writer.write(http(json.dumps({"event": event}).encode()))
            server.requests.append(await read_request(reader))

    async with serving(answering) as server, connected(server.url) as client:
        for number in range(5):
            message = await send(client)
            assert (message.id, len(message.extra["more"])) == (str(10**18 + number), size)
        assert server.connections == 1
