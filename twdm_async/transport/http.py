"""The one place that touches aiohttp: a signed request goes out; a reply comes back, or a fault that knows if bytes
left.

There are two ways through it. The everyday request is written directly to a connection
(:mod:`twdm_async.transport.direct`); files, uploads, proxies and traces go through aiohttp's session
(:mod:`twdm_async.transport.session`), as all do if aiohttp is not what the direct way leans on.
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
        borrowed: a session whose connections are used, and which is never closed; ``None`` makes one.
        trace_configs: aiohttp's, which see every request, its signature included.
        proxy: the address of a proxy that all requests go through.
        ca_file: certificates to trust, in PEM format, besides those that the system trusts.

    Raises:
        InvalidInput: `proxy` is not such an address, `ca_file` cannot be read, or a borrowed session is to trust it.
    """

    def __init__(
        self,
        borrowed: aiohttp.ClientSession | None,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        *,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._borrowed = borrowed
        self._proxy = None if proxy is None else _checked_proxy(proxy)
        if borrowed is not None and ca_file is not None:
            problem = "belongs to the connector of the session that was given to the client"
            raise InvalidInput(parameter="ca_file", problem=problem)
        self._tls = None if ca_file is None else _trusting(ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that has the connections
        self._direct: dict[str, Direct | None] = {}  # by host; None where all go through the session
        self._learning = asyncio.Lock()
        self._under_way: set[Attempt] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf  # its moment; not every loop's handle tells it
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

    def exchange(self, request: Request, attempt: Attempt) -> Coroutine[Any, Any, Reply | Fault]:
        """Send `request` and read the reply. Redirects are not followed.

        Who is cancelled when bytes have left may call this again, in any task, and gets what comes.

        Args:
            request: what to send.
            attempt: has its signature, and learns whether bytes left; a new one for each request.

        Raises:
            ClientClosed: it was closed.
            IncompatibleAiohttp: it cannot be told when bytes leave.
            MediaFailed, InvalidInput: a file is too large, or cannot be written.
        """
        if attempt.work is None:
            direct = self._direct.get(request.host)
            if attempt.sent or (direct is not None and request.sink is None and type(request.body) is bytes):
                return self._bounded(direct, request, attempt)
            if request.host not in self._direct:
                return self._first_exchange(request, attempt)
        return self._in_task(request, attempt)

    async def _first_exchange(self, request: Request, attempt: Attempt) -> Reply | Fault:
        """Find out how the host is reached, then send `request`."""
        if self._is_closed:
            raise ClientClosed(endpoint=request.endpoint.name)
        await self._learn(request.host)
        return await self.exchange(request, attempt)

    async def _in_task(self, request: Request, attempt: Attempt) -> Reply | Fault:
        """Send `request` by the session, in a task of its own: aiohttp ends a request whose caller is cancelled."""
        if attempt.work is None:
            attempt.work = asyncio.create_task(self._bounded(None, request, attempt), name="twdm_async request")
        try:
            return await asyncio.shield(attempt.work)
        except asyncio.CancelledError:
            attempt.withdraw()
            raise

    async def close(self) -> None:
        """Send nothing any more, end what is under way, then end our connections."""
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
        """Send `request` directly or by the session, or go on reading the reply to it, for as long as there is time.
        What aiohttp raises becomes a fault.
        """
        if self._is_closed and not attempt.sent:
            raise ClientClosed(endpoint=request.endpoint.name)
        loop = self._loop = self._loop or asyncio.get_running_loop()
        attempt.run_in(asyncio.current_task(loop))
        self._under_way.add(attempt)
        try:
            if self._is_closed:
                loop.call_soon(attempt.expire)  # it had its time
            elif attempt.sent:  # who goes on with it has no more time than who began
                self._watch(attempt, loop)
            else:
                self._extend(attempt, loop)
            if attempt.sent:
                return await finish(attempt)
            if direct is None:
                extend = partial(self._extend, attempt, loop)
                return await exchange(self._session or self._open(), request, attempt, extend, proxy=self._proxy)
            await direct.start(request, attempt)
            attempt.due = loop.time() + attempt.timeout  # the timer still rings earlier, and is then set to this
            return await finish(attempt)
        except asyncio.CancelledError:
            if not attempt.has_expired():
                raise
            fault = _fault(TimeoutError(), attempt.sent)
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            # What aiohttp raises is not passed on: its repr shows the Authorization header.
            fault = _fault(error, attempt.sent)
        finally:
            self._under_way.discard(attempt)
            if not self._under_way:
                self._idle.set()
        attempt.distrust()
        return fault

    def _extend(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        """Let the time of an attempt begin anew."""
        if not self._is_closed:
            attempt.due = loop.time() + attempt.timeout
            self._watch(attempt, loop)

    def _watch(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        """See that the timer does not ring later than the time of an attempt is over."""
        if attempt.due < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = attempt.due
            self._timer = loop.call_at(attempt.due, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End those whose time is over, and look again when the next one's may be."""
        self._timer, self._rings_at, now = None, math.inf, loop.time()
        for attempt in self._under_way:
            if attempt.due <= now:
                loop.call_soon(self._end, attempt, loop)
            else:
                self._watch(attempt, loop)

    def _end(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        """End an attempt whose time is over, one turn of the loop after that was found out. A loop that was busy may
        have got the reply in the same turn.
        """
        if attempt in self._under_way and attempt.due <= loop.time():
            attempt.expire()

    async def _learn(self, host: str) -> None:
        """Find out how `host` is reached. To be done once for each."""
        async with self._learning:
            if host not in self._direct:
                session = self._session or self._open()
                if session.connector is None:
                    raise InvalidInput(parameter="session", problem="was given to the client, and is closed")
                learning = learn(session.connector, host, trust_env=session.trust_env, proxy=self._proxy)
                # In a task, so that nothing of it is left in the caller's context.
                direct = await asyncio.create_task(learning, name="twdm_async learn")
                self._direct[host] = None if self._trace_configs else direct

    def _open(self) -> aiohttp.ClientSession:
        lender = self._borrowed
        if lender is not None and lender.connector is None:
            raise InvalidInput(parameter="session", problem="was given to the client, and is closed")
        # The lender's connections, proxies from the environment and traces, but not its headers, cookies or base URL.
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
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        is_right = False
    if not is_right:
        problem = (
            "must be the address of an HTTP proxy, such as http://proxy.example.com:3128"  # it may hold a password
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
        # A name that is not found has an error number of another kind, below zero.
        words = os.strerror(error.errno) if error.errno > 0 else error.strerror
        problem = f"{'the connection broke' if sent else 'no connection'}: {words}"
    elif isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        problem = "the reply was not HTTP"
    else:
        problem = "the connection was closed before the reply was whole" if sent else "no connection"
    return Fault(problem, sent=sent, lasting=lasting)
