"""The request that aiohttp's session makes: files, uploads, proxies, traces, and whatever else cannot go directly."""

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
_TURNS: Final = 10  # of the loop: more than it takes to read a reply that is there
MOST_STALE: Final = 200
"""Connections in a row over which something came that nobody asked for; more than a pool keeps."""

_current: ContextVar[tuple[Attempt, Callable[[], None]]] = ContextVar("twdm_async_attempt")


class _Unasked(aiohttp.ClientError):
    """A connection holds bytes that nobody asked for, or was closed. Nothing was sent over it."""


class _Nobody:
    """In place of aiohttp's parser, as long as nobody has asked for a reply: what comes ends the connection."""

    def feed_data(self, data: bytes) -> tuple[tuple[()], bool, bytes]:
        if data:
            raise _Unasked
        return (), False, b""

    def feed_eof(self) -> None:
        pass


NOBODY: Final = _Nobody()


class Mark:
    """What is known of a connection; it is kept on aiohttp's end of it, and ends with it.

    Args:
        transport: the connection.
    """

    __slots__ = ("_begins_with_tls", "_has_bytes", "is_judged")

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self.is_judged = True
        """Whether what came over it last was found to be the answer that was asked for. Until then, nothing follows."""
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
        """Tell whether a request may go over the connection: nothing came, so far, that nobody asked for."""
        if protocol.transport is None or protocol.should_close or not self.is_judged:
            return False
        if self._begins_with_tls:  # what comes first belongs to that
            self._begins_with_tls = False
            return True
        return not self._has_bytes()


@define(eq=False)
class _Lent:
    """A connection that aiohttp's session gives on by itself, as soon as the reply over it is whole.

    Args:
        protocol: aiohttp's end of it.
        parser: of the reply. If there is another one, somebody else has the connection already.
    """

    protocol: Any
    parser: object

    def release(self) -> None:
        self.protocol.twdm_async.is_judged = True
        if self.protocol._parser is self.parser:  # noqa: SLF001 - nobody else tells
            self.protocol._parser = NOBODY  # noqa: SLF001 - so that whatever comes now is found out

    def close(self) -> None:
        if self.protocol._parser is self.parser:  # noqa: SLF001 - as above
            self.protocol.close()


class TrackedRequest(aiohttp.ClientRequest):
    """Tells the attempt when its bytes leave, and uses no connection on which something came that nobody asked for.

    aiohttp makes one where the request is made, so the context is the attempt's.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol: Any = conn.protocol
        mark = Mark.of(protocol)
        if not mark.is_judged:
            await _wait_until_judged(mark, protocol)
        if not mark.is_clean(protocol):
            raise _Unasked  # and aiohttp closes the connection
        attempt, extend = _current.get()
        # Only now, so that aiohttp finds no reason to refuse what it took from .netrc; that is replaced here.
        self.headers["Authorization"] = attempt.authorization
        attempt.begin(_Lent(protocol, protocol._parser))  # noqa: SLF001 - nobody else tells
        extend()
        mark.is_judged = False
        return await super().send(conn)


async def _wait_until_judged(mark: Mark, protocol: Any) -> None:
    """Wait some turns of the loop, until whoever waited for the answer before ours has read it.

    aiohttp has set up the parser of our reply already. What comes meanwhile is not for it, and ends the connection.
    """
    parser, protocol._parser = protocol._parser, NOBODY  # noqa: SLF001 - nobody else tells
    for _ in range(_TURNS):
        if mark.is_judged:
            break
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
    session: aiohttp.ClientSession,
    request: Request,
    attempt: Attempt,
    extend: Callable[[], None],
    *,
    proxy: str | None,
) -> Reply | Fault:
    """Have `session` send `request`, and read the reply. Redirects are not followed.

    Args:
        session: made by :func:`open_session`.
        request: what to send.
        attempt: learns whether bytes left.
        extend: is called when the time of the attempt begins anew.
        proxy: the proxy that the request goes through.
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
        headers=_headers(request),
        allow_redirects=False,
        proxy=proxy,
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
