"""The listeners that receive webhooks: at a URL, or in this process, without a server."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable
from urllib.parse import unquote

from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, web
from attrs import frozen

from twdm_async.errors import InvalidInput

if TYPE_CHECKING:
    from types import TracebackType

AsgiMessage = MutableMapping[str, Any]
AsgiApp = Callable[
    [AsgiMessage, Callable[[], Awaitable[AsgiMessage]], Callable[[AsgiMessage], Awaitable[None]]], Awaitable[None]
]
"""An ASGI application, such as one made with FastAPI or Starlette."""


@runtime_checkable
class WebhookLike(Protocol):
    """The interface of :class:`twdm_async.webhooks.Webhook`. If a webhook is not open, the sandbox opens it, and
    closes it again.
    """

    @property
    def is_open(self) -> bool: ...
    async def receive(self, method: str, query: str, headers: Mapping[str, str], body: bytes) -> Any: ...
    async def settled(self) -> None: ...
    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@frozen
class Response:
    """The answer of a listener.

    Args:
        status: the HTTP status; 0 if there was no answer.
        body: the body.
        problem: why there was no answer, or what the application raised; empty otherwise.
    """

    status: int
    body: bytes = b""
    problem: str = ""


class Listener(Protocol):
    """The receiver of a webhook's requests."""

    async def request(self, method: str, query: str, headers: dict[str, str], body: bytes) -> Response:
        """Pass a request to the listener, and return its answer."""
        ...

    async def settled(self) -> None:
        """Wait until the requests are handled, as far as that can be known."""
        ...

    async def close(self) -> None:
        """Close the listener, or the connection to it."""
        ...


class Remote:
    """A listener at `url`. It must answer within `timeout` seconds."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._session: ClientSession | None = None

    async def request(self, method: str, query: str, headers: dict[str, str], body: bytes) -> Response:
        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout))
        url = f"{self._url}?{query}" if query else self._url
        try:
            async with self._session.request(
                method, url, data=body or None, headers=headers, allow_redirects=False
            ) as response:
                return Response(response.status, await response.read())
        except TimeoutError:
            return Response(0, problem=f"no answer within {self._timeout:g} s")
        except (InvalidURL, ValueError):
            return Response(0, problem="it is not a valid URL")
        except (ClientError, OSError) as error:
            return Response(0, problem=str(error) or type(error).__name__)

    async def settled(self) -> None: ...

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class Local:
    """A listener that is a :class:`twdm_async.webhooks.Webhook` in this process."""

    def __init__(self, webhook: WebhookLike) -> None:
        self._webhook = webhook
        self._is_ours = False

    async def start(self) -> None:
        """Open the webhook, if it is not open."""
        if not self._webhook.is_open:
            await self._webhook.__aenter__()
            self._is_ours = True

    async def request(self, method: str, query: str, headers: dict[str, str], body: bytes) -> Response:
        reply = await self._webhook.receive(method, query, headers, body)
        return Response(reply.status, reply.body)

    async def settled(self) -> None:
        await self._webhook.settled()

    async def close(self) -> None:
        if self._is_ours:
            await self._webhook.__aexit__(None, None, None)


class Asgi:
    """A listener that is an ASGI application in this process.

    Args:
        app: the application.
        path: the path of the webhook.
        timeout: seconds within which it must start, and answer each request.
        complain: called with a text for people when the application raises an exception after its answer.
    """

    def __init__(self, app: AsgiApp, path: str, timeout: float, complain: Callable[[str], None]) -> None:
        self._app = app
        self._path = path
        self._timeout = timeout
        self._complain = complain
        self._running: set[asyncio.Task[None]] = set()
        self._state: dict[str, Any] = {}
        self._stop = asyncio.Event()
        self._lifespan: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application by the ASGI lifespan protocol.

        Raises:
            InvalidInput: the application reported that its startup failed, or did not start within `timeout`.
        """
        is_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._lifespan = asyncio.create_task(self._live(is_up), name="twdm_async sandbox application")
        try:
            async with asyncio.timeout(self._timeout):
                problem = await is_up
        except TimeoutError:
            problem = f"the application did not start within {self._timeout:g} s"
        if problem:
            raise InvalidInput(parameter="target", problem=problem)

    async def _live(self, is_up: asyncio.Future[str]) -> None:
        """Run the application's lifespan until the listener is closed. Set `is_up` to why it did not start, or to an
        empty string.
        """
        is_asked = False

        async def receive() -> AsgiMessage:
            nonlocal is_asked
            if is_asked:
                await self._stop.wait()
                return {"type": "lifespan.shutdown"}
            is_asked = True
            return {"type": "lifespan.startup"}

        async def send(message: AsgiMessage) -> None:
            if not is_up.done():
                is_failed = message["type"] == "lifespan.startup.failed"
                is_up.set_result(f"the application did not start: {message.get('message', '')}" if is_failed else "")

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, receive, send)
        except Exception:
            if is_up.done():
                raise
        finally:
            if not is_up.done():  # by the specification, the application does not support lifespans
                is_up.set_result("")

    async def request(self, method: str, query: str, headers: dict[str, str], body: bytes) -> Response:
        scope: AsgiMessage = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": unquote(self._path),
            "raw_path": self._path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"host", b"bot.test"),
                (b"content-length", str(len(body)).encode()),
                *((name.lower().encode(), value.encode()) for name, value in headers.items()),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("bot.test", 443),
            "state": dict(self._state),
        }
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._answer(scope, body, answer), name="twdm_async sandbox request")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(answer)
        except TimeoutError:
            return Response(0, problem=f"no answer within {self._timeout:g} s")

    async def _answer(self, scope: AsgiMessage, body: bytes, answer: asyncio.Future[Response]) -> None:
        """Call the application with a request. It may still run after it has answered."""
        status, parts, is_read = 0, list[bytes](), False

        async def receive() -> AsgiMessage:
            nonlocal is_read
            if is_read:
                await asyncio.wait([answer])
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: AsgiMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not answer.done():
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    answer.set_result(Response(status, b"".join(parts)))

        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a server would answer any exception with 500
            if answer.done():
                self._complain(f"({type(self._app).__name__}): after its answer, it raised {described(error)}")
            else:
                answer.set_result(Response(500, problem=f"it raised {described(error)}"))
        if not answer.done():
            answer.set_result(Response(0, problem="it ended without an answer"))

    async def settled(self) -> None:
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._stop.set()
        if self._lifespan is not None:
            await asyncio.wait([self._lifespan], timeout=self._timeout)
            self._lifespan.cancel()
            await asyncio.gather(self._lifespan, return_exceptions=True)


class Listeners:
    """Makes listeners of targets, starts those that are not running, and stops these again.

    Args:
        timeout: seconds within which a listener must answer.
        complain: called with a text for people when a listener does something wrong.
    """

    def __init__(self, timeout: float, complain: Callable[[str], None]) -> None:
        self._timeout = timeout
        self._complain = complain
        self._known: dict[tuple[object, str], tuple[str, Listener]] = {}
        self._closing = AsyncExitStack()

    async def of(self, target: Any, path: str) -> tuple[str, Listener]:
        """Return a name for the listener, and the listener.

        Args:
            target: a URL, a webhook or an application.
            path: the path of the webhook within an application.

        Raises:
            InvalidInput: `target` is neither a URL, nor a webhook, nor an application, or the application did not
                start.
        """
        key = (target if isinstance(target, str) else id(target), path)
        if key not in self._known:
            self._known[key] = await self._start(target, path)
        return self._known[key]

    async def close(self) -> None:
        """Stop the listeners that were started here."""
        self._known.clear()
        await self._closing.aclose()

    async def _start(self, target: Any, path: str) -> tuple[str, Listener]:
        if isinstance(target, str):
            if not re.fullmatch(r"https?://[!-~]+", target):
                raise InvalidInput(parameter="target", problem="must be an http or https URL")
            remote = Remote(target, self._timeout)
            self._closing.push_async_callback(remote.close)
            return target, remote
        if isinstance(target, web.Application):
            runner = web.AppRunner(target, access_log=None, shutdown_timeout=1.0)
            self._closing.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await self.of(f"http://127.0.0.1:{runner.addresses[0][1]}{path}", "")
        if isinstance(target, WebhookLike):
            local = Local(target)
            self._closing.push_async_callback(local.close)
            await local.start()
            return f"({type(target).__name__})", local
        if callable(target):
            app = Asgi(cast("AsgiApp", target), path, self._timeout, self._complain)
            self._closing.push_async_callback(app.close)
            await app.start()
            return f"({type(target).__name__} {path})", app
        raise InvalidInput(parameter="target", problem="must be a URL, a Webhook, or an ASGI or aiohttp application")


def described(error: BaseException) -> str:
    """Return the type of `error` and its traceback, but not its text, which may repeat the text of a message."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{frames}".rstrip()
