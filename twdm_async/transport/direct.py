"""The usual request, written directly to a connection of the session's connector. This costs half as much as a
request by the session.

aiohttp's connector (its pool, DNS and TLS) and its parser of replies are used; only :class:`aiohttp.ClientSession` is
left out. This module does not know how aiohttp writes a request to a host and reads the reply, but learns it:
:func:`learn` has a session make a request on paper (a dry run, without a network), copies how it was made, makes the
same request directly, and compares the two.

Reading a reply may be cancelled and continued by another task: aiohttp's readers lose nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

from twdm_async._log import quiet_logger
from twdm_async.endpoints import ENDPOINTS
from twdm_async.errors import IncompatibleAiohttp
from twdm_async.transport.attempt import Attempt, Connection
from twdm_async.transport.session import MOST_STALE, NOBODY, Mark, exchange, open_session
from twdm_async.transport.wire import LARGEST_REPLY, Fault, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_log = quiet_logger(__name__)

_BODY: Final = b'{"on":"paper"}'
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nX-On: paper\r\n\r\n" + _BODY
_LONGEST_TRY: Final = 10.0  # seconds; nothing of it leaves the process
_OF_ONE_REQUEST: Final = ("content-length:", "content-type:", "authorization:")

_Tried = tuple[tuple[str, list[str], bytes], tuple[int, dict[str, str], bytes]]
"""The request line, header lines and body that were written; status, headers and body that were read."""


class _Leased:
    """A connection of the connector, which the next request may take over without asking the connector: it is given
    back at the end of the loop's turn, if no request has taken it.
    """

    __slots__ = ("_connection", "_direct", "protocol")

    def __init__(self, direct: Direct, connection: Connection) -> None:
        self.protocol: Any = connection.protocol
        self._connection = connection
        self._direct = direct

    def release(self) -> None:
        self._direct.keep(self)

    def give_back(self) -> None:
        self.protocol = None
        self._connection.release()

    def close(self) -> None:
        self.protocol = None
        self._connection.close()


class Direct:
    """Sends requests to one host.

    Args:
        connector: makes and keeps the connections.
        is_ours: whether nobody else uses the connector.
        pattern: the request for which the connector is asked to connect.
        parameters: aiohttp's parameters for reading replies.
        head: the header lines that all requests have in common.
    """

    def __init__(
        self,
        connector: aiohttp.BaseConnector,
        is_ours: bool,
        pattern: aiohttp.ClientRequest,
        parameters: Mapping[str, Any],
        head: str,
    ) -> None:
        self._connector = connector
        self._keeps = is_ours
        self._kept: list[_Leased] = []  # until the end of the loop's turn
        self._is_turn_noted = False
        self._pattern = pattern
        self._parameters = parameters
        self._head = head
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=None)  # the caller has timeouts for all of it

    async def start(self, request: Request, attempt: Attempt) -> None:
        """Send `request` on a connection on which nothing has come unasked; close any others."""
        data = self._composed(request, attempt.authorization)
        for _ in range(MOST_STALE):
            connection = self._kept.pop() if self._kept else await self._connect()
            protocol: Any = connection.protocol
            if Mark.of(protocol).is_clean(protocol):
                break
            connection.close()
            await asyncio.sleep(0)
        else:
            raise aiohttp.ServerDisconnectedError
        try:
            attempt.begin(connection)
        except aiohttp.ClientError:
            connection.release()
            raise
        protocol.set_response_params(**self._parameters)
        protocol.transport.write(data)

    async def _connect(self) -> Connection:
        connection = await self._connector.connect(self._pattern, [], self._timeout)
        return _Leased(self, connection) if self._keeps else connection

    def keep(self, leased: _Leased) -> None:
        """Keep a connection for the next request, until the end of the loop's turn."""
        self._kept.append(leased)
        if not self._is_turn_noted:
            self._is_turn_noted = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_turn_noted = False
        while self._kept:
            self._kept.pop().give_back()

    def _composed(self, request: Request, authorization: str) -> bytes:
        """Return the bytes to send."""
        method, body = request.endpoint.method, request.body if isinstance(request.body, bytes) else b""
        content_type = f"Content-Type: {request.content_type}\r\n" if request.content_type else ""
        length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
        own = f"{content_type}{length}Authorization: {authorization}\r\n\r\n"
        return f"{method} {request.origin_form} HTTP/1.1\r\n{self._head}{own}".encode("ascii") + body


async def finish(attempt: Attempt) -> Reply | Fault:
    """Read the reply to a request that was started, or continue reading it."""
    protocol = attempt.protocol
    while attempt.payload is None:
        message, payload = await protocol.read()
        if not 100 <= message.code < 200 or message.code == 101:
            attempt.message, attempt.payload = message, payload
    payload, chunks = attempt.payload, attempt.chunks
    size = sum(map(len, chunks))
    while not payload.is_eof():
        chunks.append(await payload.readany())
        size += len(chunks[-1])
        if size > LARGEST_REPLY:
            attempt.distrust()
            return Fault("the reply is longer than any reply may be", sent=True, lasting=True)
    if payload.total_bytes and payload.exception() is None:
        chunks.extend(payload._buffer)  # noqa: SLF001 - reading it would resume the connection, which costs much
        payload._buffer.clear()  # noqa: SLF001 - so that the connection does not keep the text
    else:
        chunks.append(payload.read_nowait(-1))
    protocol._parser = NOBODY  # noqa: SLF001 - so that bytes after the reply are noticed; aiohttp has no public way
    return Reply(attempt.message.code, attempt.message.headers, b"".join(chunks))


class _Paper(asyncio.Transport):
    """A transport that records what is written to it, and answers when the body is complete."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = b""
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        if self.written.endswith(_BODY):
            asyncio.get_running_loop().call_soon(self._protocol.data_received, _ANSWER)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class _NotedHandler(ResponseHandler):
    parameters: Mapping[str, Any]

    def set_response_params(self, **parameters: Any) -> None:
        self.parameters = parameters
        super().set_response_params(**parameters)


class _OnPaper(aiohttp.BaseConnector):
    """A connector whose connections go nowhere, and whose latest connection can be inspected."""

    paper: _Paper
    handler: _NotedHandler
    request: aiohttp.ClientRequest

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: Any, **__: Any) -> ResponseHandler:
        self.request = req
        self.handler = _NotedHandler(asyncio.get_running_loop())
        self.paper = _Paper(self.handler)
        self.handler.connection_made(self.paper)
        return self.handler


async def learn(
    connector: aiohttp.BaseConnector, host: str, *, is_ours: bool, trust_env: bool, proxy: str | None
) -> Direct | None:
    """Find out how aiohttp makes a request to `host`, from a request on paper. Nothing leaves the machine.

    Args:
        connector: will make and keep the connections.
        host: scheme and host.
        is_ours: whether nobody else uses the connector.
        trust_env: whether aiohttp takes proxies from the environment.
        proxy: the proxy that all requests go through.

    Returns:
        An object that sends requests directly; ``None`` if requests must go through the session, either since there is
        a proxy, or since aiohttp does not do what the direct way needs. The latter is logged.

    Raises:
        IncompatibleAiohttp: aiohttp does not tell when bytes leave, so it would not be known whether a message left.
    """
    request = Request(ENDPOINTS["direct_messages.send"], host, "/on/paper", "a=1", body=_BODY, content_type="on/paper")
    on_paper = _OnPaper(force_close=connector.force_close)
    async with open_session(on_paper, (), is_ours=True, trust_env=trust_env) as session:
        by_session: _Tried | None = None
        with contextlib.suppress(Exception):  # any error means that aiohttp does not tell
            by_session = await _tried(
                lambda attempt: exchange(session, request, attempt, lambda: None, proxy=proxy), on_paper
            )
        if by_session is None:
            raise IncompatibleAiohttp(problem=f"aiohttp {aiohttp.__version__} does not tell when a request leaves")
        if on_paper.request.proxy is not None:
            return None
        (_, lines, _), _ = by_session
        common = "".join(f"{line}\r\n" for line in lines if not line.lower().startswith(_OF_ONE_REQUEST))
        how = on_paper.request, on_paper.handler.parameters, common
        with contextlib.suppress(Exception):  # any error means that something needed is missing
            if await _tried(partial(_directly, Direct(on_paper, is_ours, *how), request), on_paper) == by_session:
                return Direct(connector, is_ours, *how)
    _say_so(aiohttp.__version__)
    return None


@cache
def _say_so(version: str) -> None:
    """Log a warning, once, however many hosts and clients there are."""
    _log.warning("aiohttp %s does not work as expected: requests go through its session, and cost more", version)


async def _directly(direct: Direct, request: Request, attempt: Attempt) -> Reply | Fault:
    await direct.start(request, attempt)
    return await finish(attempt)


async def _tried(send: Callable[[Attempt], Awaitable[Reply | Fault]], on_paper: _OnPaper) -> _Tried | None:
    """Send a request on paper, and return what was written and what was read; ``None`` if the attempt was not told that
    the request left, or no reply was read.
    """
    attempt = Attempt(_LONGEST_TRY)
    attempt.authorization = "OAuth"
    try:
        async with asyncio.timeout(_LONGEST_TRY):
            reply = await send(attempt)
        if not attempt.sent or isinstance(reply, Fault):
            return None
        attempt.trust()
    finally:
        attempt.distrust()  # so that nothing is left behind if this is cancelled
    head, _, body = on_paper.paper.written.partition(b"\r\n\r\n")
    on_paper.paper.written = b""
    line, *lines = head.decode("ascii").split("\r\n")
    return (line, sorted(lines), body), (reply.status, dict(reply.headers), reply.body)
