"""Requests through aiohttp's session: files, uploads, proxies, traces, and all others that cannot be sent directly."""

from __future__ import annotations

import asyncio
import contextlib
import io
import select
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from attrs import define
from yarl import URL

from twdm_async.errors import InvalidInput, MediaFailed
from twdm_async.transport.wire import JSON, LARGEST_REPLY, Fault, File, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twdm_async.transport.attempt import Attempt
    from twdm_async.transport.wire import Request, Sink

_PIECE: Final = 256 * 1024  # bytes of a file that are written at once
_USER_AGENT: Final = "twdm_async"
_TURNS: Final = 10  # turns of the loop; more than it takes to read a reply that has come
MOST_STALE: Final = 200
"""How many connections in a row to try on which unrequested bytes have come; more than a connection pool keeps."""

_current: ContextVar[tuple[Attempt, Callable[[], None]]] = ContextVar("twdm_async_attempt")


class _Unasked(aiohttp.ClientError):
    """A connection has received bytes that no request asked for, or was closed. Nothing was sent over it."""


class _Nobody:
    """Takes the place of aiohttp's parser while no reply is awaited: any byte that comes ends the connection."""

    def feed_data(self, data: bytes) -> tuple[tuple[()], bool, bytes]:
        if data:
            raise _Unasked
        return (), False, b""

    def feed_eof(self) -> None:
        pass


NOBODY: Final = _Nobody()


class Mark:
    """What is known about a connection. It is stored on aiohttp's protocol object, and ends with that.

    Args:
        transport: the connection.
    """

    __slots__ = ("_begins_with_tls", "_has_bytes", "is_judged")

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self.is_judged: bool = True
        """Whether the last reply was found to answer its request. Until then, no other request uses the connection."""
        self._begins_with_tls = transport is not None and transport.get_extra_info("ssl_object") is not None
        self._has_bytes = _watch(transport)

    @classmethod
    def of(cls, protocol: Any) -> Mark:
        """Return the mark of a connection."""
        try:
            mark: Mark = protocol.twdm_async
        except AttributeError:
            mark = protocol.twdm_async = cls(protocol.transport)
        return mark

    def is_clean(self, protocol: Any) -> bool:
        """Return whether a request may use the connection: it is open, and has received no unrequested bytes."""
        if protocol.transport is None or protocol.should_close or not self.is_judged:
            return False
        if self._begins_with_tls:  # the first bytes belong to TLS
            self._begins_with_tls = False
            return True
        return not self._has_bytes()


@define(eq=False)
class _Lent:
    """A connection that aiohttp's session lends to the next request as soon as the reply over it is complete.

    Args:
        protocol: aiohttp's protocol object.
        parser: the parser of the reply. If the protocol has another one, another request has the connection already.
    """

    protocol: Any
    parser: object

    def release(self) -> None:
        self.protocol.twdm_async.is_judged = True
        if self.protocol._parser is self.parser:  # noqa: SLF001 - aiohttp has no public way
            self.protocol._parser = NOBODY  # noqa: SLF001 - so that bytes after the reply are noticed

    def close(self) -> None:
        if self.protocol._parser is self.parser:  # noqa: SLF001 - as above
            self.protocol.close()


class TrackedRequest(aiohttp.ClientRequest):
    """A request that tells its attempt when bytes leave, and uses no connection with unrequested bytes.

    aiohttp creates it in the task that makes the request, so the context variable holds the right attempt.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol: Any = conn.protocol
        mark = Mark.of(protocol)
        if not mark.is_judged:
            await _wait_until_judged(mark, protocol)
        if not mark.is_clean(protocol):
            raise _Unasked  # and aiohttp closes the connection
        attempt, extend = _current.get()
        # Set only now, because aiohttp may have set this header from .netrc, and refuses a request that has both.
        self.headers["Authorization"] = attempt.authorization
        attempt.begin(_Lent(protocol, protocol._parser))  # noqa: SLF001 - aiohttp has no public way
        extend()
        mark.is_judged = False
        return await super().send(conn)


async def _wait_until_judged(mark: Mark, protocol: Any) -> None:
    """Wait some turns of the loop, until the task that waits for the previous reply has judged it.

    aiohttp has set up the parser for our reply already. Bytes that come meanwhile are not for it, and end the
    connection.
    """
    parser, protocol._parser = protocol._parser, NOBODY  # noqa: SLF001 - aiohttp has no public way
    for _ in range(_TURNS):
        if mark.is_judged:
            break
        await asyncio.sleep(0)
    protocol._parser = parser  # noqa: SLF001 - as above


def _watch(transport: asyncio.BaseTransport | None) -> Callable[[], object]:
    """Return a function that tells whether the socket has something to read, be it only the end of the connection: the
    event loop may not have noticed yet.
    """
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None:
        return lambda: False
    if not hasattr(select, "poll"):  # on Windows, where select() takes descriptors of any number
        return lambda: select.select([connected.fileno()], [], [], 0)[0]
    watch = select.poll()
    watch.register(connected.fileno(), select.POLLIN)
    return partial(watch.poll, 0)


def open_session(
    connector: aiohttp.BaseConnector, trace_configs: Sequence[aiohttp.TraceConfig], *, is_ours: bool, trust_env: bool
) -> aiohttp.ClientSession:
    """Make a session that adds no headers or cookies of its own, except the user agent and the accepted encoding.

    Args:
        connector: has the connections.
        trace_configs: see every request.
        is_ours: whether closing the session closes the connections.
        trust_env: whether proxies are taken from the environment.
    """
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=is_ours,
        trust_env=trust_env,
        trace_configs=list(trace_configs),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the transport has timeouts for all of it
        headers={"Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
        auto_decompress=False,
        request_class=TrackedRequest,
    )


async def exchange(
    session: aiohttp.ClientSession,
    request: Request,
    attempt: Attempt,
    extend: Callable[[], None],
    *,
    proxy: str | None,
) -> Reply | Fault:
    """Send `request` through `session`, and read the reply. Redirects are not followed.

    Args:
        session: a session made by :func:`open_session`.
        request: the request.
        attempt: records whether bytes left.
        extend: called to restart the timeout of the attempt.
        proxy: the address of the proxy that the request goes through.

    Raises:
        ClientError: no reply came, or all connections in the pool have unrequested bytes.
        MediaFailed, InvalidInput: a file is too large, or cannot be written.
    """
    _current.set((attempt, extend))
    for _ in range(MOST_STALE):
        with contextlib.suppress(_Unasked):
            return await _exchange(session, request, attempt, extend, proxy)
    raise aiohttp.ServerDisconnectedError


async def _exchange(
    session: aiohttp.ClientSession, request: Request, attempt: Attempt, extend: Callable[[], None], proxy: str | None
) -> Reply | Fault:
    async with session.request(
        request.endpoint.method,
        URL(request.target, encoded=True),
        data=_body(request.body),
        headers={"Content-Type": request.content_type} if request.content_type is not None else None,
        allow_redirects=False,
        proxy=proxy,
        trace_request_ctx=request.endpoint.name,
    ) as response:
        if not attempt.sent:  # a reply, but send() was not called: aiohttp behaves otherwise than in the check
            attempt.sent = True
            return Fault("this version of aiohttp does not tell when a request leaves", sent=True, lasting=True)
        if request.sink is not None and response.status == 200 and response.content_type != JSON:
            body: bytes | None = await _save(response, request.sink, extend)
        else:
            body = await _read(response)
    if body is None:
        return Fault("the reply is longer than any reply may be", sent=True, lasting=True)
    return Reply(response.status, response.headers, body)


async def _save(response: aiohttp.ClientResponse, sink: Sink, extend: Callable[[], None]) -> bytes:
    """Write the body of a reply to `sink`, and return an empty body. Every piece restarts the timeout.

    Raises:
        MediaFailed: the file is larger than the sink allows.
        InvalidInput: the file cannot be written.
    """
    sink.begin()
    async for piece in response.content.iter_chunked(_PIECE):
        extend()
        writing = asyncio.ensure_future(asyncio.to_thread(sink.write, piece))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # no other attempt may write meanwhile
            raise
        except MediaFailed:
            response.close()
            raise
        except OSError as error:  # an error of the disk, not of the network
            response.close()
            raise InvalidInput(parameter="path", problem=f"cannot be written: {error.strerror}") from None
    sink.is_whole = True
    return b""


def _body(body: bytes | Mapping[str, str | File]) -> bytes | aiohttp.FormData | None:
    if isinstance(body, bytes):
        return body or None
    form = aiohttp.FormData()
    for name, value in body.items():
        if isinstance(value, File):
            form.add_field(name, io.BytesIO(value.content), filename="media", content_type=value.content_type)
        else:
            form.add_field(name, value)
    return form


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body of a reply; ``None`` if it is too long."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_REPLY:
            response.close()
            return None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
