"""The transport against servers that misbehave: what is known afterwards is what is true."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import html
import json
import logging
import math
import socket
import struct
import traceback
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.samples import CUSTOM_PROFILE, SENT_WITH_PROFILE
from tests.scripted import OK_HEAD, http, serving
from tests.virtual_time import run
from twdm_async import (
    Client,
    ClientClosed,
    ConnectFailed,
    Credentials,
    DeliveryUnknown,
    InvalidInput,
    LoopClock,
    MalformedResponse,
    QuickReply,
    Quota,
    QuotaTable,
    QuotaWaitTooLong,
    RateLimited,
    ResponseError,
    ServerError,
    TwdmError,
)
from twdm_async.endpoints import ENDPOINTS, Host
from twdm_async.transport import http as transport
from twdm_async.transport import wire
from twdm_async.transport.attempt import Attempt
from twdm_async.transport.http import HttpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.scripted import Script

KEYS = Credentials(
    consumer_key="SENTINELck", consumer_secret="SENTINELcs", access_token="SENTINELat", access_token_secret="SENTINELas"
)
TEXT = "SENTINEL" + "text"
CREATE = SENT_WITH_PROFILE["event"]["message_create"] | {
    "target": {"recipient_id": "5"}, "message_data": {"text": TEXT},
}  # fmt: skip
SENT = http(json.dumps({"event": {"type": "message_create", "message_create": CREATE}}).encode())
"""The answer to what :func:`send` sends, as the page prints it."""
PROFILE = http(json.dumps(CUSTOM_PROFILE).encode())


async def by_session(*_: Any, **__: Any) -> None:
    """Instead of learning how a host is reached directly."""


@pytest.fixture(params=["directly", "by session"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way through the transport: what is known afterwards must be true of both."""
    if request.param == "by session":
        monkeypatch.setattr(transport, "learn", by_session)
    return str(request.param)


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Client]:
    async with Client(KEYS, api_url=url, upload_url=url, **options) as client:
        yield client


def used(client: Client, endpoint: str = "direct_messages.send") -> int:
    return next(state.used for state in client.quota_state() if state.endpoint == endpoint)


def in_flight(client: Client) -> int:
    return next(state.in_flight for state in client.quota_state() if state.endpoint == "direct_messages.send")


async def send(client: Client) -> Any:
    return await client.direct_messages.send("5", TEXT)


def test_fault_1_and_2_refused_or_not_found_is_tried_again_and_spends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with connected(url) as client:
            with pytest.raises(ConnectFailed, match="refused") as caught:
                await send(client)
            assert (caught.value.delivered, caught.value.safe_to_retry) == ("no", True)
            assert used(client) == 0

    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)
    asyncio.run(main())


async def test_fault_1_a_server_that_comes_up_late_gets_the_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 4.0)
    monkeypatch.setattr("random.random", lambda: 0.05)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.read(65_536))
        writer.write(SENT)
        await writer.drain()
        writer.close()

    async with connected(f"http://127.0.0.1:{port}") as client:
        sending = asyncio.create_task(send(client))
        await asyncio.sleep(0.1)
        async with await asyncio.start_server(answer, "127.0.0.1", port):
            assert (await sending).custom_profile_id == "100001"
        assert len(requests) == used(client) == 1


async def test_fault_3_plain_text_where_tls_is_spoken_is_not_tried_again() -> None:
    connections = 0

    async def plain_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1)
        writer.write(http(b"", "400 Bad Request"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain_text, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connected(url) as client:
            with pytest.raises(ConnectFailed, match="TLS") as caught:
                await send(client)
            assert not caught.value.safe_to_retry
            assert used(client) == 0
    assert connections == 1


async def close_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def one_byte_a_moment(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in SENT:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def cut_short(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK_HEAD + b'Content-Length: 500\r\n\r\n{"event":')
    await writer.drain()
    await reset(_, writer)


def saying(reply: bytes) -> Script:
    """The connection ends behind the reply, and the reply says so."""
    reply = reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) if reply.startswith(b"HTTP/1.1") else reply

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    return script


WITHOUT_ANSWER: dict[str, Script] = {
    "fault_5_closed": close_at_once,
    "fault_6_reset": reset,
    "fault_8_silence": silence,
    "fault_9_slow": one_byte_a_moment,
    "fault_10_cut_short": cut_short,
    "fault_11_not_http": saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "fault_12_long_header": saying(OK_HEAD + b"X: " + b"y" * 20_000 + b"\r\n\r\n"),
    "fault_12_many_headers": saying(OK_HEAD + b"".join(b"X%d: y\r\n" % n for n in range(100_000)) + b"\r\n"),
    "fault_12_two_lengths": saying(OK_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "fault_13_too_long": saying(http(b" " * 9 * 1024 * 1024)),
    "fault_13_bomb": saying(http(gzip.compress(b" " * 20 * 1024 * 1024), "200 OK", "Content-Encoding: gzip")),
    "fault_14_broken_gzip": saying(http(b"no gzip", "200 OK", "Content-Encoding: gzip")),
    "fault_16_garbage_chunks": saying(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "fault_17_503_html": saying(http(b"<html>503</html>", "503 Service Unavailable", "Content-Type: text/html")),
    "fault_19_html": saying(http(b"<html></html>", "200 OK", "Content-Type: application/json")),
    "fault_20_empty": saying(http(b"")),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", WITHOUT_ANSWER)
async def test_a_send_without_answer_is_unknown_and_was_sent_once(name: str) -> None:
    async with serving(WITHOUT_ANSWER[name]) as server, connected(server.url, timeout=0.4) as client:
        with pytest.raises(DeliveryUnknown) as caught:
            await send(client)
        assert caught.value.recipient_id == "5"
        assert len(server.requests) == 1
        assert used(client) == 1, "the slot stays counted"
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None
        shown = repr(caught.value) + "".join(traceback.format_exception(caught.value))
        assert "SENTINEL" not in shown
        assert "OAuth" not in shown


@pytest.mark.soak
@pytest.mark.parametrize("name", WITHOUT_ANSWER)
async def test_a_read_without_answer_is_read_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)
    async with serving(WITHOUT_ANSWER[name], PROFILE) as server, connected(server.url, timeout=1.0) as client:
        if name == "fault_13_too_long":  # it would only be as long again
            with pytest.raises(ConnectFailed):
                await client.custom_profiles.get("1")
            return
        assert (await client.custom_profiles.get("1")).id == "100001"
        assert used(client, "custom_profiles.get") == len(server.requests) == 2
        first, second = (request.split(b'oauth_nonce="')[1].split(b'"')[0] for request in server.requests)
        assert first != second


async def test_a_read_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)
    cases: list[tuple[Script, type[TwdmError]]] = [
        (close_at_once, ConnectFailed),
        (saying(http(b"", "503 Service Unavailable")), ServerError),
        (saying(http(b"{}")), MalformedResponse),
    ]
    for script, cls in cases:
        async with serving(script) as server, connected(server.url) as client:
            with pytest.raises(cls) as caught:
                await client.custom_profiles.get("1")
            assert caught.value.safe_to_retry
            assert len(server.requests) == 3


async def test_fault_7_a_kept_connection_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)

    async def answer_once_then_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PROFILE)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with serving(answer_once_then_die) as server, connected(server.url) as client:
        await client.custom_profiles.get("1")
        # aiohttp would repeat this GET by itself, with the same nonce and no slot; we do it, with both anew.
        await client.custom_profiles.get("1")
        nonces = {request.split(b'oauth_nonce="')[1].split(b'"')[0] for request in server.requests}
        assert len(nonces) == len(server.requests) == 2
        assert used(client, "custom_profiles.get") == 3, "each request on the wire has a slot of its own"
    async with serving(answer_once_then_die) as server, connected(server.url) as client:
        await client.custom_profiles.get("1")
        with pytest.raises(DeliveryUnknown):
            await send(client)
        assert server.connections == 1


@pytest.mark.parametrize("where", ["/1.1/elsewhere.json", "http://localhost:1/", "https://evil.example/", ""])
async def test_fault_25_redirects_are_not_followed(where: str) -> None:
    async with serving(http(b"", "302 Found", f"Location: {where}")) as server, connected(server.url) as client:
        for call in (send(client), client.custom_profiles.get("1")):
            with pytest.raises(ResponseError) as caught:
                await call
            assert (caught.value.status, caught.value.delivered) == (302, "no")
        assert len(server.requests) == 2


async def test_fault_15_a_proxy_in_between() -> None:
    async with serving(http(b"<html>", "407 Proxy Authentication Required")) as server, connected(server.url) as client:
        with pytest.raises(ResponseError) as caught:
            await send(client)
        assert (caught.value.status, caught.value.delivered) == (407, "no")


async def test_fault_16_http_1_0() -> None:
    body = SENT.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with serving(saying(body)) as server, connected(server.url) as client:
        assert (await send(client)).custom_profile_id == "100001"


@pytest.mark.slow
async def test_an_attempt_that_left_is_not_forgotten_when_a_later_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.5)
    monkeypatch.setattr("random.random", lambda: 0.99)
    async with serving(close_at_once) as server, connected(server.url) as client:
        updating = asyncio.create_task(client.account.update_profile(name="x"))
        while not server.requests:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(ClientClosed) as caught:
            await updating
        assert caught.value.delivered == "unknown"


async def test_words_that_repeat_the_text_are_cut_off() -> None:
    body = json.dumps({"errors": [{"code": 1, "message": f"bad text: {TEXT}"}]}).encode()
    async with serving(http(body, "403 Forbidden")) as server, connected(server.url) as client:
        with pytest.raises(ResponseError) as caught:
            await send(client)
        assert caught.value.messages == ("bad text: …",)
        assert "SENTINEL" not in repr(caught.value) + str(caught.value)


LONG = "Dear SENTINEL,\nyour new card's number is 4711 & it is valid from tomorrow on. " * 3
REPEATS: dict[str, Callable[[str], str]] = {
    "all": str,
    "its beginning": lambda text: text[:60],
    "its middle": lambda text: text[40:90],
    "folded": lambda text: " ".join(text.split()),
    "in lower case": str.lower,
    "as JSON": lambda text: json.dumps(text)[1:-1],
    "as HTML": html.escape,
    "percent-encoded": quote,
}


@pytest.mark.parametrize("how", REPEATS)
async def test_words_that_repeat_a_part_of_the_text_in_any_form_are_cut_off(how: str) -> None:
    body = json.dumps({"errors": [{"code": 354, "message": f"Bad text: {REPEATS[how](LONG)}"}]}).encode()
    async with serving(http(body, "403 Forbidden")) as server, connected(server.url) as client:
        with pytest.raises(ResponseError) as caught:
            await client.direct_messages.send("5", LONG)
        (said,) = caught.value.messages
        assert said.rstrip("… ") in {"Bad text:", ""}


async def test_words_that_repeat_a_label_or_a_signature_are_cut_off() -> None:
    body = json.dumps(
        {"errors": [{"code": 32, "message": f"bad label {TEXT}"}, {"code": 32, "message": 'OAuth oauth_signature="x"'}]}
    )
    async with serving(http(body.encode(), "401 Unauthorized")) as server, connected(server.url) as client:
        with pytest.raises(ResponseError) as caught:
            await client.direct_messages.send("5", "choose", quick_replies=[QuickReply(TEXT[:36])])
        assert caught.value.messages == ("bad label …", "…")


async def test_words_that_repeat_nothing_stay() -> None:
    words = "You are sending a Direct Message to users that do not follow you."
    body = json.dumps({"errors": [{"code": 326, "message": words}]}).encode()
    async with serving(http(body, "403 Forbidden")) as server, connected(server.url) as client:
        with pytest.raises(ResponseError) as caught:
            await client.direct_messages.send("5", "I follow you now. Send me the direct numbers of your users.")
        assert (caught.value.messages, caught.value.subject) == ((words,), "message")


async def test_a_code_that_says_the_quota_is_spent_holds_whatever_the_status() -> None:
    body = b'{"errors":[{"code":88,"message":"Rate limit exceeded"}]}'
    async with serving(http(body, "403 Forbidden")) as server, connected(server.url, max_wait=1) as client:
        for _ in range(2):
            with pytest.raises((RateLimited, QuotaWaitTooLong)):
                await send(client)
        assert len(server.requests) == 1


async def test_an_error_in_a_reply_that_should_be_empty() -> None:
    body = b'{"errors":[{"code":34,"message":"Sorry, that page does not exist."}]}'
    async with serving(http(body)) as server, connected(server.url) as client:
        with pytest.raises(ResponseError) as caught:
            await client.custom_profiles.delete("5")
        assert caught.value.codes == (34,)


def test_a_429_is_waited_for_and_sent_again() -> None:
    refused = http(b'{"errors":[{"code":88,"message":"Rate limit exceeded"}]}', "429 Too Many", "Retry-After: 300")

    async def main() -> None:
        clock = LoopClock()
        async with serving(saying(refused), SENT) as server, connected(server.url, clock=clock) as client:
            before = clock.monotonic()
            assert (await send(client)).custom_profile_id == "100001"
            assert 300 <= clock.monotonic() - before <= 331
            assert len(server.requests) == used(client) == 2
        async with serving(refused) as server, connected(server.url, clock=clock, max_wait=60) as client:
            with pytest.raises(RateLimited) as caught:
                await send(client)
            assert caught.value.retry_at is not None
            assert caught.value.codes == (88,)
            assert len(server.requests) == 1

    run(main())


async def test_fault_34_a_wrong_clock_is_set_right_once() -> None:
    refused = http(
        b'{"errors":[{"code":135,"message":"Timestamp out of bounds."}]}',
        "401 Unauthorized",
        "Date: Fri, 15 Jan 2027 08:00:00 GMT",
    )
    async with serving(saying(refused), SENT) as server, connected(server.url) as client:
        await send(client)
        await send(client)
        stamps = [int(request.split(b'oauth_timestamp="')[1].split(b'"')[0]) for request in server.requests]
        assert len(stamps) == 3
        assert stamps[1] - 1_800_000_000 in range(-1, 5)
        assert stamps[2] - 1_800_000_000 in range(-1, 5)


async def test_fault_45_cancelled_on_the_wire_the_slot_stays_counted() -> None:
    async with serving(silence) as server, connected(server.url) as client:
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert used(client) == in_flight(client) == 1
        await client.close(timeout=0.1)
        assert (used(client), in_flight(client)) == (1, 0)


async def test_fault_45_cancelled_before_the_wire_the_slot_comes_back() -> None:
    async with serving(silence) as server, connected(server.url) as client:
        client._caller.places.free = 0
        sending = asyncio.create_task(send(client))
        await asyncio.sleep(0.05)
        assert used(client) == 1
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert used(client) == 0
        assert server.connections == 0


@pytest.mark.soak
async def test_the_time_runs_from_the_connection_not_from_the_pool() -> None:
    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        writer.write(SENT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await writer.drain()

    async with (
        serving(slow) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        connected(server.url, session=session, timeout=1.2) as client,
    ):
        # The last of five waits 1.6 s for the pool's one connection, and then has all its time.
        assert len(await asyncio.gather(*(send(client) for _ in range(5)))) == 5


async def test_a_borrowed_session_is_used_and_left_open() -> None:
    seen: list[str] = []

    async def on_request_start(_: Any, __: Any, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.method)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(on_request_start)
    headers = {"Authorization": "Bearer somebody-else", "X-Other": "yes"}
    async with serving(SENT) as server, aiohttp.ClientSession(trace_configs=[trace], headers=headers) as session:
        async with connected(server.url, session=session) as client:
            await send(client)
        assert not session.closed
        assert seen == ["POST"]
        assert b"somebody-else" not in server.requests[0]
        assert b"X-Other" not in server.requests[0]
    async with serving(SENT) as server, connected(server.url, session=session) as client:
        with pytest.raises(InvalidInput, match="session: was given"):
            await send(client)
        assert used(client) == 0


@pytest.mark.parametrize("timeout", [-1, math.nan, "1", True])
async def test_a_wrong_timeout_closes_nothing(timeout: Any) -> None:
    async with serving(saying(SENT)) as server, connected(server.url) as client:
        with pytest.raises(InvalidInput, match="timeout"):
            await client.close(timeout)
        assert (await send(client)).text == TEXT
        await client.close(timeout=None)


async def test_fault_47_closed_while_sending_twice_and_used_afterwards() -> None:
    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(SENT)
        await writer.drain()

    table = QuotaTable.default().replace("direct_messages.send", Quota(2, per=100.0))
    async with serving(slow) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, quotas=table)
        sending = [asyncio.create_task(send(client)) for _ in range(4)]
        await asyncio.sleep(0.1)
        await client.close()
        await client.close()
        results = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(result).__name__ for result in results] == [
            "DirectMessage",
            "DirectMessage",
            "ClientClosed",
            "ClientClosed",
        ]
        with pytest.raises(ClientClosed):
            await send(client)
        assert len(server.requests) == 2


async def test_fault_47_what_waits_for_a_place_on_the_wire_is_not_sent() -> None:
    async with serving(SENT) as server, connected(server.url) as client:
        client._caller.places.free = 0
        sending = asyncio.create_task(send(client))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(ClientClosed) as caught:
            await sending
        assert caught.value.delivered == "no"
        assert used(client) == 0
        assert server.connections == 0


async def test_fault_47_what_is_still_under_way_when_time_is_up_is_unknown() -> None:
    async with serving(silence) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url)
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        await client.close(timeout=0.1)
        with pytest.raises(DeliveryUnknown):
            await sending


async def test_closing_ends_what_is_under_way_on_a_borrowed_session_too() -> None:
    async with serving(silence) as server, aiohttp.ClientSession() as session:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, session=session)
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        await client.close(timeout=0.1)
        with pytest.raises(DeliveryUnknown):
            await sending
        assert asyncio.get_running_loop().time() - began < 25, "not when its own time is up"
        assert not session.closed


async def test_what_waits_for_a_borrowed_pool_is_not_signed_yet() -> None:
    connector = aiohttp.TCPConnector(limit=3)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        connected("http://127.0.0.1:1", session=session) as client,
    ):
        assert client._caller.places.free == 3


async def test_fault_2_a_name_that_is_not_found() -> None:
    transport = HttpTransport(None)
    hosts = {Host.API: "http://no-such-name.invalid", Host.UPLOAD: ""}
    request = wire.encode(ENDPOINTS["direct_messages.send"], hosts, {})
    fault = await transport.exchange(request, Attempt(5.0))
    await transport.close()
    assert isinstance(fault, wire.Fault)
    assert not fault.sent
    assert "Unknown error" not in fault.problem


def test_fault_48_built_outside_a_loop() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    client = Client(KEYS, api_url=f"http://127.0.0.1:{port}", upload_url=f"http://127.0.0.1:{port}")

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SENT)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", port), client:
            await send(client)

    asyncio.run(main())


async def test_fault_54_a_client_that_was_not_closed_says_so() -> None:
    async with serving(SENT) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url)
        await send(client)
        session = client._http._session
        assert session is not None
        with pytest.warns(ResourceWarning, match="unclosed <twdm_async"):
            del client
        await session.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client(KEYS)  # never used, so there is nothing to close


async def test_nothing_secret_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(close_at_once, SENT) as server, connected(server.url) as client:
        with pytest.raises(DeliveryUnknown):
            await send(client)
        await send(client)
    assert "SENTINEL" not in caplog.text
    assert b"SENTINELck" in server.requests[0], "the server sees it, so the test could fail"
