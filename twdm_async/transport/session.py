"""The request that aiohttp's session makes: files, uploads, proxies, traces, and whatever else cannot go directly."""

from __future__ import annotations

import asyncio
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
_TURNS: Final = 10  # of the loop

_current: ContextVar[Attempt] = ContextVar("twdm_async_attempt")


class _Unasked(aiohttp.ClientError):
    """A kept connection holds bytes that nobody asked for, or was closed. Nothing was sent over it."""


class Mark:
    """What is known of a connection; it is kept on aiohttp's end of it, and ends with it.

    Args:
        transport: the connection.
    """

    __slots__ = ("_has_bytes", "_is_new", "is_judged")

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self.is_judged = True
        """Whether somebody has said that what came over it last was the answer. Else nothing follows."""
        self._is_new = True
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
        """Tell whether a request may go over the connection: nothing came, so far, that nobody asked for."""
        if protocol.transport is None:
            return False
        if self._is_new:  # what comes first may belong to TLS
            self._is_new = False
            return True
        return self.is_judged and not protocol.should_close and not self._has_bytes()


@define(eq=False)
class _Lent:
    """A connection that aiohttp's session gives back by itself.

    Args:
        protocol: aiohttp's end of it.
    """

    protocol: Any

    def release(self) -> None:
        self.protocol._parser = None  # noqa: SLF001 - so that whatever comes now is found where nobody asked for it
        self.protocol.twdm_async.is_judged = True

    def close(self) -> None:
        self.protocol.close()


class TrackedRequest(aiohttp.ClientRequest):
    """Tells the attempt when its bytes leave, and uses no connection on which something came that nobody asked for.

    aiohttp makes one where the request is made, so the context is the attempt's.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        mark = Mark.of(conn.protocol)
        if not mark.is_judged:  # the answer before ours is there, and whoever waited for it is about to read it
            await _judged(mark, conn.protocol)
        if not mark.is_clean(conn.protocol):
            raise _Unasked  # and aiohttp closes the connection
        attempt = _current.get()
        # Only now, so that aiohttp finds no reason to refuse what it took from .netrc; that is replaced here.
        self.headers["Authorization"] = attempt.authorization
        attempt.begin(_Lent(conn.protocol))
        mark.is_judged = False
        return await super().send(conn)


async def _judged(mark: Mark, protocol: Any) -> None:
    """Wait for some turns of the loop until `mark` is judged. What comes meanwhile is no part of the answer to the next
    request, for which aiohttp has set up the parser already.
    """
    parser, protocol._parser = protocol._parser, None  # noqa: SLF001 - so that it is found where nobody asked for it
    for _ in range(_TURNS):
        if not mark.is_judged:
            await asyncio.sleep(0)
    protocol._parser = parser  # noqa: SLF001 - as above


def _watch(transport: asyncio.BaseTransport | None) -> Callable[[], object]:
    """Return what tells whether something waits to be read, be it the end of the connection: the loop may not have
    looked yet.
    """
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None:
        return lambda: False
    if not hasattr(select, "poll"):  # on Windows, where descriptors may have any number
        return lambda: select.select([connected.fileno()], [], [], 0)[0]
    watch = select.poll()
    watch.register(connected.fileno(), select.POLLIN)
    return partial(watch.poll, 0)


def open_session(
    connector: aiohttp.BaseConnector, trace_configs: Sequence[aiohttp.TraceConfig], *, is_ours: bool, trust_env: bool
) -> aiohttp.ClientSession:
    """Make a session that adds nothing of its own to requests.

    Args:
        connector: has the connections.
        trace_configs: are told of every request.
        is_ours: whether closing the session closes the connections.
        trust_env: whether proxies are taken from the environment.
    """
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=is_ours,
        trust_env=trust_env,
        trace_configs=list(trace_configs),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # all of it is bounded elsewhere
        headers={"Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
        auto_decompress=False,
        request_class=TrackedRequest,
    )


async def exchange(
    session: aiohttp.ClientSession, request: Request, attempt: Attempt, extend: Callable[[], None]
) -> Reply | Fault:
    """Have `session` send `request`, and read the reply. Redirects are not followed.

    Args:
        session: made by :func:`open_session`.
        request: what to send.
        attempt: learns whether bytes left.
        extend: is called when the time of the attempt begins anew.
    """
    _current.set(attempt)
    while True:
        try:
            return await _exchange(session, request, attempt, extend)
        except _Unasked:
            continue


async def _exchange(
    session: aiohttp.ClientSession, request: Request, attempt: Attempt, extend: Callable[[], None]
) -> Reply | Fault:
    async with session.request(
        request.endpoint.method,
        URL(request.target, encoded=True),
        data=_body(request.body),
        headers=_headers(request),
        allow_redirects=False,
        trace_request_ctx=request.endpoint.name,
    ) as response:
        if not attempt.sent:  # a reply without a request: what aiohttp does is not what it did in the check
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
    """Let the body go where it should. Nothing of it is kept. As long as it comes, there is time."""
    sink.begin()
    async for piece in response.content.iter_chunked(_PIECE):
        extend()
        writing = asyncio.ensure_future(asyncio.to_thread(sink.write, piece))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # nobody else may write meanwhile
            raise
        except MediaFailed:
            response.close()
            raise
        except OSError as error:  # of the disk, not of the network
            response.close()
            raise InvalidInput(parameter="path", problem=f"cannot be written: {error.strerror}") from None
    sink.is_whole = True
    return b""


def _headers(request: Request) -> dict[str, str] | None:
    return None if request.content_type is None else {"Content-Type": request.content_type}


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
    """The body, or ``None`` if it is too long."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_REPLY:
            response.close()
            return None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
