"""The exchange with the server, through aiohttp: a signed request goes out; a reply comes back, or a fault that says
whether bytes left.

There are two ways to send. An ordinary request is written directly to a connection
(:mod:`twdm_async.transport.direct`). Files, uploads, proxies and traces go through aiohttp's session
(:mod:`twdm_async.transport.session`); so do all requests if this version of aiohttp does not behave as the direct way
needs.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from twdm_async.errors import ClientClosed, InvalidInput
from twdm_async.transport.direct import Direct, finish, learn
from twdm_async.transport.session import exchange, open_session
from twdm_async.transport.wire import Fault, Reply

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from twdm_async.transport.attempt import Attempt
    from twdm_async.transport.wire import Request

_MOST_UNDER_WAY: Final = 100


class HttpTransport:
    """Sends requests.

    Args:
        borrowed: a session whose connections are used, and which is never closed here; ``None`` makes a session.
        trace_configs: aiohttp's trace configs, which see every request with its signature.
        proxy: the address of a proxy that all requests go through.
        ca_file: the path of a file of certificates in PEM format, to trust besides the system's own.

    Raises:
        InvalidInput: `proxy` is not the address of an HTTP proxy; or `ca_file` cannot be read, has no certificate, or
            is given together with a session.
    """

    def __init__(
        self,
        borrowed: aiohttp.ClientSession | None,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        *,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if borrowed is not None and not isinstance(borrowed, aiohttp.ClientSession):
            raise InvalidInput(parameter="session", problem="must be an aiohttp.ClientSession")
        self._borrowed = borrowed
        self._proxy = None if proxy is None else _checked_proxy(proxy)
        if borrowed is not None and ca_file is not None:
            problem = "belongs to the connector of the session that was given to the client"
            raise InvalidInput(parameter="ca_file", problem=problem)
        self._tls = None if ca_file is None else _trusting(ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the loop of the connections
        self._direct: dict[str, Direct | None] = {}  # by host; None if all requests go through the session
        self._learning = asyncio.Lock()
        self._under_way: set[Attempt] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf  # when the timer fires; not every loop's TimerHandle tells it
        self._idle = asyncio.Event()
        self._is_closed = False
        connector = borrowed.connector if borrowed else None
        pool = [connector.limit, connector.limit_per_host] if connector else []
        self._trace_configs = [*(borrowed.trace_configs if borrowed else []), *trace_configs]
        self.most: int = min([_MOST_UNDER_WAY, *(limit for limit in pool if limit)])
        """How many requests may be under way, so that none waits in the connection pool while its timeout runs."""

    @property
    def is_open(self) -> bool:
        """Whether there is a session that :meth:`close` would close."""
        return self._session is not None and not self._session.closed

    def exchange(self, request: Request, attempt: Attempt) -> Coroutine[Any, Any, Reply | Fault]:
        """Send `request` and read the reply. Redirects are not followed.

        If the caller is cancelled after bytes have left, this can be called again, in any task, to read the reply.

        Args:
            request: the request.
            attempt: has the signature, and records whether bytes left. Each request needs a new one.

        Raises:
            ClientClosed: the transport was closed.
            IncompatibleAiohttp: this version of aiohttp does not tell when bytes leave.
            MediaFailed: a file is larger than its sink allows.
            InvalidInput: a file cannot be written, or the borrowed session is closed.
        """
        if attempt.work is None:
            direct = self._direct.get(request.host)
            if attempt.sent or (direct is not None and request.sink is None and type(request.body) is bytes):
                return self._bounded(direct, request, attempt)
            if request.host not in self._direct:
                return self._first_exchange(request, attempt)
        return self._in_task(request, attempt)

    async def _first_exchange(self, request: Request, attempt: Attempt) -> Reply | Fault:
        """Find out how to send requests to the host, then send `request`."""
        if self._is_closed:
            raise ClientClosed(endpoint=request.endpoint.name)
        await self._learn(request.host)
        return await self.exchange(request, attempt)

    async def _in_task(self, request: Request, attempt: Attempt) -> Reply | Fault:
        """Send `request` through the session, in a task of its own, because aiohttp aborts a request whose caller is
        cancelled.
        """
        if attempt.work is None:
            attempt.work = asyncio.create_task(self._bounded(None, request, attempt), name="twdm_async request")
        try:
            return await asyncio.shield(attempt.work)
        except asyncio.CancelledError:
            attempt.withdraw()
            raise

    async def close(self) -> None:
        """Send no more requests, end those under way, then close the session that this transport made."""
        self._is_closed = True
        if self._under_way:
            self._idle.clear()
            for attempt in self._under_way:
                attempt.expire()
            await self._idle.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._rings_at = None, math.inf
        if self._session is not None:
            await self._session.close()

    async def _bounded(self, direct: Direct | None, request: Request, attempt: Attempt) -> Reply | Fault:
        """Send `request` directly or through the session, or continue reading the reply to it, until its timeout ends.
        An exception of aiohttp becomes a fault.
        """
        if self._is_closed and not attempt.sent:
            raise ClientClosed(endpoint=request.endpoint.name)
        loop = self._loop = self._loop or asyncio.get_running_loop()
        attempt.run_in(asyncio.current_task(loop))
        self._under_way.add(attempt)
        try:
            if not attempt.sent:  # a task that continues the attempt gets no more time than the one that began it
                attempt.due = loop.time() + attempt.timeout
            if attempt.due < self._rings_at or self._is_closed:  # this spares most sends the call
                self._watch(attempt, loop)
            if attempt.sent:
                return await finish(attempt)
            if direct is None:
                extend = partial(self._extend, attempt, loop)
                return await exchange(self._session or self._open(), request, attempt, extend, proxy=self._proxy)
            await direct.start(request, attempt)
            attempt.due = loop.time() + attempt.timeout  # the timer fires earlier, and is then set to this
            return await finish(attempt)
        except asyncio.CancelledError:
            if not attempt.has_expired():
                raise
            fault = self._fault(TimeoutError(), attempt.sent)
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            # The exception is not passed on, because its repr shows the Authorization header.
            fault = self._fault(error, attempt.sent)
        finally:
            self._under_way.discard(attempt)
            if not self._under_way:
                self._idle.set()
        attempt.distrust()
        return fault

    def _fault(self, error: aiohttp.ClientError | HttpProcessingError | TimeoutError | OSError, sent: bool) -> Fault:
        if self._is_closed and isinstance(error, TimeoutError):
            return Fault("the client was closed before a reply came", sent=sent, lasting=False)
        fault = _fault(error, sent)
        if self._proxy is None or sent:
            return fault
        proxy = urlsplit(self._proxy)
        return Fault(f"{fault.problem} (by the proxy {proxy.hostname}:{proxy.port})", sent=sent, lasting=fault.lasting)

    def _extend(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        """Restart the timeout of an attempt."""
        if not self._is_closed:
            attempt.due = loop.time() + attempt.timeout
            self._watch(attempt, loop)

    def _watch(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer earlier, if it would fire after the timeout of an attempt has ended. In a closed transport, all
        timeouts have ended.
        """
        if self._is_closed:
            loop.call_soon(attempt.expire)
        elif attempt.due < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = attempt.due
            self._timer = loop.call_at(attempt.due, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the attempts whose timeout has ended, and set the timer for the next one."""
        self._timer, self._rings_at, now = None, math.inf, loop.time()
        for attempt in self._under_way:
            if attempt.due <= now:
                loop.call_soon(self._end, attempt, loop)
            else:
                self._watch(attempt, loop)

    def _end(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        """End an attempt whose timeout has ended. This runs one turn of the loop after that was noticed, since a busy
        loop may have received the reply in the same turn.
        """
        if attempt in self._under_way and attempt.due <= loop.time():
            attempt.expire()

    async def _learn(self, host: str) -> None:
        """Find out how to send requests to `host`. This is done once for each host.

        Raises:
            InvalidInput: the borrowed session is closed.
        """
        async with self._learning:
            if host not in self._direct:
                session = self._session or self._open()
                if session.connector is None:
                    raise InvalidInput(parameter="session", problem="was given to the client, and is closed")
                learning = learn(
                    session.connector,
                    host,
                    is_ours=session.connector_owner,
                    trust_env=session.trust_env,
                    proxy=self._proxy,
                )
                # In a task, so that it does not change the caller's context.
                direct = await asyncio.create_task(learning, name="twdm_async learn")
                self._direct[host] = None if self._trace_configs else direct

    def _open(self) -> aiohttp.ClientSession:
        lender = self._borrowed
        if lender is not None and lender.connector is None:
            raise InvalidInput(parameter="session", problem="was given to the client, and is closed")
        # Use the borrowed session's connections, trust_env and traces, but not its headers, cookies or base URL.
        connector = lender.connector if lender is not None else None
        self._session = open_session(
            connector or aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
            self._trace_configs,
            is_ours=connector is None,
            trust_env=lender.trust_env if lender is not None else False,
        )
        return self._session


def _checked_proxy(proxy: str) -> str:
    try:
        parts = urlsplit(proxy)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and proxy.isascii()
    except (ValueError, TypeError, AttributeError):
        is_right = False
    if not is_right:
        problem = (
            "must be the address of an HTTP proxy, such as http://proxy.example.com:3128"  # it may contain a password
        )
        raise InvalidInput(parameter="proxy", problem=problem)
    return proxy


def _trusting(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    """Make a TLS context that trusts the system's certificates and those in the file."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError:
        problem = f"{os.fspath(ca_file)} holds no certificate in PEM format"
    except OSError as error:
        problem = f"{os.fspath(ca_file)} cannot be read: {error.strerror}"
    except (TypeError, ValueError):
        problem = "must be the path of a file"
    else:
        return context
    raise InvalidInput(parameter="ca_file", problem=problem)


def _fault(error: aiohttp.ClientError | HttpProcessingError | TimeoutError | OSError, sent: bool) -> Fault:
    lasting = isinstance(error, (aiohttp.ClientSSLError, aiohttp.InvalidURL))
    if isinstance(error, TimeoutError):
        problem = "no reply in time" if sent else "no connection in time"
    elif isinstance(error, aiohttp.ClientSSLError):
        problem = "the server's certificate was not accepted, or it does not speak TLS"
    elif isinstance(error, OSError) and error.errno:
        # A host name that is not found has a negative error number, of another kind.
        words = os.strerror(error.errno) if error.errno > 0 else error.strerror
        problem = f"{'the connection broke' if sent else 'no connection'}: {words}"
    elif isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        problem = "the reply was not HTTP"
    else:
        problem = "the connection was closed before the reply was whole" if sent else "no connection"
    return Fault(problem, sent=sent, lasting=lasting)
