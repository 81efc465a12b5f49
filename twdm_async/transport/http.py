"""The one place that touches aiohttp: a signed request goes out; a reply comes back, or a fault that knows if bytes
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import os
import select
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from twdm_async.errors import ClientClosed, IncompatibleAiohttp, InvalidInput, MediaFailed
from twdm_async.transport.wire import LARGEST_REPLY, Fault, File, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twdm_async.transport.wire import Request, Sink

_MOST_UNDER_WAY: Final = 100
_JSON: Final = "application/json"
_PIECE: Final = 256 * 1024  # bytes of a file that are written at once
_USER_AGENT: Final = "twdm_async"
_TURNS: Final = 10  # of the loop


class Attempt:
    """One request on its way. Whoever holds it can tell, also after a cancellation, whether bytes left.

    Args:
        send_by: by the machine's uptime, when its first byte must have left, since its slot may not count any more
            afterwards.
        uptime: tells that.
    """

    __slots__ = ("_connection", "_deadline", "_send_by", "_uptime", "authorization", "is_late", "sent")

    def __init__(self, send_by: float = math.inf, uptime: Callable[[], float] = time.monotonic) -> None:
        self.sent = False
        self.is_late = False
        self._send_by = send_by
        self._uptime = uptime
        self.authorization = ""  # its signature
        self._deadline: tuple[asyncio.Timeout, float] | None = None
        self._connection: Any = None  # aiohttp's, by its protocol

    def expire(self, scope: asyncio.Timeout, seconds: float) -> None:
        """Let `scope` end `seconds` after the first byte."""
        self._deadline = (scope, seconds)

    def begin(self, connection: Any) -> None:
        """The connection is there, and the first byte is about to leave."""
        if self.sent:
            # aiohttp repeats an idempotent request by itself if a kept connection turns out to be dead. Every request
            # on the wire needs a slot, a nonce and a timestamp of its own; so the attempt ends here, and the next one
            # is ours.
            raise _Repeated("the connection was lost")
        if self._uptime() > self._send_by:
            # The process was suspended, or something answered late that had to be asked before.
            self.is_late = True
            raise _Late("its time was over before it left")
        self.sent = True
        self._connection = connection
        _unjudged.add(connection)
        self.extend()

    def extend(self) -> None:
        """Its time begins anew."""
        if self._deadline is not None:
            scope, seconds = self._deadline
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time() + seconds)

    def trust(self) -> None:
        """What came over the connection is the answer to this request, so other requests may follow over it."""
        _unjudged.discard(self._connection)

    def distrust(self) -> None:
        """Close the connection: what came over it may be the answer to another request. A refusal, for example, names
        neither person nor message, so nobody could tell that it is not an earlier one which a proxy repeats.
        """
        if self._connection is not None:
            self._connection.close()


class _Repeated(aiohttp.ClientError):
    pass


class _Late(aiohttp.ClientError):
    pass


class _Unasked(aiohttp.ClientError):
    """A kept connection holds bytes that nobody asked for, or was closed. Nothing was sent over it."""


_current: ContextVar[Attempt] = ContextVar("twdm_async_attempt")
_used: WeakSet[Any] = WeakSet()
"""Connections that have carried a request."""
_unjudged: WeakSet[Any] = WeakSet()
"""Connections of which nobody has said yet that what came over them last was the answer. Nothing follows over them."""
_checked: set[str] = set()
"""Versions of aiohttp of which :func:`check_hook` knows that they are good."""


class _TrackedRequest(aiohttp.ClientRequest):
    """Tells the attempt when its bytes leave, and uses no connection on which something came that nobody asked for.

    aiohttp makes one where the request is made, so the context is the attempt's.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if protocol is not None and protocol in _used:
            for _ in range(_TURNS):
                if protocol not in _unjudged:
                    break
                await asyncio.sleep(0)  # the answer is there, and whoever waited for it is about to read it
            transport = protocol.transport
            if protocol in _unjudged or protocol.should_close or transport is None or _has_bytes(transport):
                raise _Unasked  # and aiohttp closes the connection
        if protocol is not None:
            _used.add(protocol)
        attempt = _current.get()
        # Only now, so that aiohttp finds no reason to refuse what it took from .netrc; that is replaced here.
        self.headers["Authorization"] = attempt.authorization
        attempt.begin(protocol)
        return await super().send(conn)


def _has_bytes(transport: asyncio.BaseTransport) -> bool:
    """Whether something waits to be read, be it the end of the connection. So far, the loop may not have looked."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return False
    if not hasattr(select, "poll"):  # on Windows, where descriptors may have any number
        return bool(select.select([connected.fileno()], [], [], 0)[0])
    watch = select.poll()
    watch.register(connected.fileno(), select.POLLIN)
    return bool(watch.poll(0))


class _NoConnection:
    """Stands in for a connection where aiohttp is only to come as far as sending."""

    protocol: Any = None

    def __init__(self) -> None:
        self.protocol = self
        self.transport = None

    def set_response_params(self, **_: Any) -> None: ...

    def close(self) -> None: ...


class _Nowhere(aiohttp.BaseConnector):
    async def connect(self, *_: Any, **__: Any) -> Any:
        return _NoConnection()


async def check_hook() -> None:
    """Have aiohttp send a request to nowhere, to see that it tells when the first byte is about to leave.

    Raises:
        IncompatibleAiohttp: it does not, so it could not be told whether a message left.
    """
    if aiohttp.__version__ in _checked:
        return
    attempt = Attempt()
    _current.set(attempt)
    async with aiohttp.ClientSession(connector=_Nowhere(), request_class=_TrackedRequest) as session:
        with contextlib.suppress(Exception):  # there is nothing to send it with
            await session.get("http://127.0.0.1/")
    if not attempt.sent or not isinstance(getattr(ResponseHandler, "should_close", None), property):
        raise IncompatibleAiohttp(problem=f"aiohttp {aiohttp.__version__} does not tell when a request leaves")
    _checked.add(aiohttp.__version__)


class HttpTransport:
    """Sends requests.

    Args:
        borrowed: a session whose connections are used, and which is never closed; ``None`` makes one.
        timeout: seconds one attempt may take, from the connection on; having one may take as long again, the wait for
            a place in a borrowed session's pool included.
        trace_configs: aiohttp's, which see every request, its signature included.
    """

    def __init__(
        self, borrowed: aiohttp.ClientSession | None, timeout: float, trace_configs: Sequence[aiohttp.TraceConfig] = ()
    ) -> None:
        self._borrowed = borrowed
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._under_way: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._is_closed = False
        connector = borrowed.connector if borrowed else None
        pool = [connector.limit, connector.limit_per_host] if connector else []
        self._trace_configs = [*(borrowed.trace_configs if borrowed else []), *trace_configs]
        self.most = min([_MOST_UNDER_WAY, *(limit for limit in pool if limit)])
        """How many requests may be under way, so that none has to wait in the pool while its time runs."""

    @property
    def is_open(self) -> bool:
        """Whether there are connections that :meth:`close` would end."""
        return self._session is not None and not self._session.closed

    async def exchange(self, request: Request, authorization: str, attempt: Attempt) -> Reply | Fault:
        """Send `request` and read the reply. Redirects are not followed.

        Args:
            request: what to send.
            authorization: its signature.
            attempt: learns whether bytes left; a new one for each call.

        Raises:
            ClientClosed: it was closed.
            IncompatibleAiohttp: it cannot be told when bytes leave.
            MediaFailed, InvalidInput: a file is too large, or cannot be written.
        """
        if self._session is None:
            await check_hook()
        if self._is_closed:
            raise ClientClosed(endpoint=request.endpoint.name)
        session = self._session or self._open()
        _current.set(attempt)
        attempt.authorization = authorization
        scope = asyncio.timeout(self._timeout)  # until there is a connection; then it begins anew
        self._under_way.add(scope)
        try:
            async with scope:
                attempt.expire(scope, self._timeout)
                while True:
                    with contextlib.suppress(_Unasked):
                        return await self._exchange(session, request, attempt)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # What aiohttp raises is not passed on: its repr shows the Authorization header.
            return _fault(error, attempt.sent)
        finally:
            self._under_way.discard(scope)
            if not self._under_way:
                self._idle.set()

    async def _exchange(self, session: aiohttp.ClientSession, request: Request, attempt: Attempt) -> Reply | Fault:
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
            if request.sink is not None and response.status == 200 and response.content_type != _JSON:
                body: bytes | None = await self._save(response, request.sink, attempt)
            else:
                body = await _read(response)
        if body is None:
            return Fault("the reply is longer than any reply may be", sent=True, lasting=True)
        return Reply(response.status, response.headers, body)

    async def _save(self, response: aiohttp.ClientResponse, sink: Sink, attempt: Attempt) -> bytes:
        """Let the body go where it should. Nothing of it is kept. As long as it comes, there is time."""
        sink.begin()
        async for piece in response.content.iter_chunked(_PIECE):
            if not self._is_closed:
                attempt.extend()
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

    async def close(self, timeout: float) -> None:
        """Send nothing any more, wait up to `timeout` seconds for what is under way, then end our connections."""
        self._is_closed = True
        if self._under_way:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
            for scope in self._under_way:
                if not scope.expired():
                    scope.reschedule(0)  # their time is up, and that is how they end
            await self._idle.wait()
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        lender = self._borrowed
        if lender is not None and lender.connector is None:
            raise InvalidInput(parameter="session", problem="was given to the client, and is closed")
        # The lender's connections, proxies from the environment and traces, but not its headers, cookies or base URL.
        self._session = aiohttp.ClientSession(
            connector=lender.connector if lender else aiohttp.TCPConnector(limit=0),
            connector_owner=lender is None,
            trust_env=lender.trust_env if lender else False,
            trace_configs=self._trace_configs,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # all of it is bounded here
            headers={"Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
            auto_decompress=False,
            request_class=_TrackedRequest,
        )
        return self._session


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


def _fault(error: aiohttp.ClientError | TimeoutError | OSError, sent: bool) -> Fault:
    lasting = isinstance(error, (aiohttp.ClientSSLError, aiohttp.InvalidURL))
    if isinstance(error, TimeoutError):
        problem = "no reply in time" if sent else "no connection in time"
    elif isinstance(error, aiohttp.ClientSSLError):
        problem = "the server's certificate was not accepted, or it does not speak TLS"
    elif isinstance(error, OSError) and error.errno:
        # A name that is not found has an error number of another kind, below zero.
        words = os.strerror(error.errno) if error.errno > 0 else error.strerror
        problem = f"{'the connection broke' if sent else 'no connection'}: {words}"
    elif isinstance(error, aiohttp.ClientResponseError):
        problem = "the reply was not HTTP"
    else:
        problem = "the connection was closed before the reply was whole" if sent else "no connection"
    return Fault(problem, sent=sent, lasting=lasting)
