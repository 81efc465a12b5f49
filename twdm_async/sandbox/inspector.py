"""The page at ``/`` and the JSON API under ``/_sandbox/``, to look into the sandbox, write as a person or move time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

from aiohttp import web
from attrs import frozen

from twdm_async._json import is_object
from twdm_async.errors import InvalidInput, OutboxFailed
from twdm_async.sandbox import guard, shown
from twdm_async.sandbox.deliveries import Envelope
from twdm_async.sandbox.faults import KINDS, Fault
from twdm_async.sandbox.openapi import OPERATIONS, described
from twdm_async.sandbox.state import Event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from twdm_async.credentials import Credentials
    from twdm_async.sandbox.call import Json
    from twdm_async.sandbox.clock import SandboxClock
    from twdm_async.sandbox.deliveries import Deliveries
    from twdm_async.sandbox.gate import Gate
    from twdm_async.sandbox.journal import Entry
    from twdm_async.sandbox.people import Person
    from twdm_async.sandbox.records import Received, StoredAccount
    from twdm_async.sandbox.state import State
    from twdm_async.sandbox.windows import Windows

_PAGE: Final = Path(__file__).with_name("page")
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/_sandbox/icon.svg": ("icon.svg", "image/svg+xml"),
    "/_sandbox/page.css": ("page.css", "text/css"),
    "/_sandbox/page.js": ("page.js", "text/javascript"),
}
_LONGEST_WAIT: Final = 300.0  # seconds
_BEAT: Final = 15.0  # seconds between two keep-alive comments in a stream of events
_BETWEEN_LOOKS: Final = 0.02  # seconds
_MOST: Final = 1000  # entries that are listed at once
_LARGEST_BODY: Final = 100_000  # bytes
_LONGEST_NUMBER: Final = 20  # digits


@frozen
class _Missing(Exception):
    """Raised if what a request asks for does not exist; it is answered with 404."""

    problem: str


class ReviewedOutbox(Protocol):
    """The part of :class:`twdm_async.outbox.Outbox` that the inspector uses."""

    async def held(self) -> Sequence[shown.HeldLike]: ...

    def approve(self, key: str, *, by: str) -> Awaitable[Any]: ...

    def reject(self, key: str, *, why: str, by: str | None = None) -> Awaitable[Any]: ...


class Inspected(Protocol):
    """The part of :class:`twdm_async.sandbox.Sandbox` that the inspector uses."""

    time: SandboxClock
    environment: dict[str, str]
    host: str
    credentials: Credentials
    faults: list[Fault]
    requests: list[Received]
    outbox: ReviewedOutbox | None

    def person(self, user_id: str | int, account: Credentials | None = None) -> Person: ...
    async def subscribe(
        self, target: str, account: Credentials | None = None, *, envelope: Envelope = "account_activity"
    ) -> None: ...
    def unsubscribe(self, target: str) -> None: ...
    def clear(self) -> None: ...


class Inspector:
    """Answers requests to the page and its API.

    Args:
        sandbox: the sandbox to show.
        state: the sandbox's state.
        windows: its quota windows.
        gate: the gate, which knows its accounts.
        deliveries: its webhook deliveries.
    """

    def __init__(self, sandbox: Inspected, state: State, windows: Windows, gate: Gate, deliveries: Deliveries) -> None:
        self._sandbox = sandbox
        self._state = state
        self._windows = windows
        self._gate = gate
        self._deliveries = deliveries
        self._journal = state.journal
        self._waiting: set[asyncio.Task[Any]] = set()

    def add_to(self, app: web.Application) -> None:
        """Add to `app` the routes of the page, of the API and of uploaded files."""
        for path, (name, content_type) in _FILES.items():
            app.router.add_get(path, self._guarded(self._file(name, content_type)))
        app.router.add_get(r"/media/{id:\d+}", self._guarded(self._media))
        app.router.add_get("/_sandbox/events", self._guarded(self._events), allow_head=False)
        for operation in OPERATIONS:
            if operation.path != "/_sandbox/events":
                handler = getattr(self, f"_{operation.name}")
                app.router.add_route(operation.method, operation.path, self._guarded(self._answering(handler)))
        app.on_shutdown.append(self._end_waiting)

    async def _end_waiting(self, _: web.Application) -> None:
        for task in self._waiting:
            task.cancel()

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            problem = guard.why_refused(request.method, request.headers, self._sandbox.host)
            if problem is not None:
                return _json({"error": problem}, 403)
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - each request is handled in a task
            self._waiting.add(task)
            try:
                return await handler(request)
            finally:
                self._waiting.discard(task)

        return handle

    def _answering(
        self, handler: Callable[[web.Request], Awaitable[Json]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                return _json(await handler(request))
            except InvalidInput as error:
                return _json({"error": str(error)}, 400)
            except _Missing as error:
                return _json({"error": error.problem}, 404)
            except OutboxFailed as error:
                return _json({"error": str(error)}, 503)

        return handle

    def _file(self, name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(_: web.Request) -> web.Response:
            body = (_PAGE / name).read_bytes()
            return web.Response(body=body, content_type=content_type, charset="utf-8", headers=guard.HEADERS)

        return serve

    async def _media(self, request: web.Request) -> web.Response:
        media = self._state.media.get(request.match_info["id"])
        if media is None:
            raise web.HTTPNotFound
        return web.Response(body=media.content, content_type=media.content_type, headers=guard.FILE_HEADERS)

    # ---- reading ----

    async def _describe(self, _: web.Request) -> Json:
        return described()

    async def _show_state(self, _: web.Request) -> Json:
        return {
            "last_event_id": self._journal.last,
            "time": shown.time(self._sandbox.time),
            "accounts": [shown.account(one, self._state) for one in self._accounts.values()],
            "quotas": self._quotas(),
            "faults": self._faults(),
            "fault_kinds": list(KINDS),
            "shows_held": self._sandbox.outbox is not None,
            "webhooks": self._webhooks(),
            "problems": self._state.problems[-20:],
            "counts": {
                "messages": len(self._state.events),
                "requests": len(self._sandbox.requests),
                "breaches": len(self._windows.breaches),
            },
        }

    async def _show_environment(self, _: web.Request) -> Json:
        return {"environment": self._sandbox.environment}

    async def _list_people(self, _: web.Request) -> Json:
        latest: dict[tuple[str, str], Json] = {}
        for event in self._state.events.values():
            one = shown.message(event)
            key = one["account"], one["person"]
            count = latest[key]["messages"] + 1 if key in latest else 1
            latest[key] = {"id": one["person"], "account": one["account"], "messages": count, "latest": one}
        return {"people": sorted(latest.values(), key=lambda person: -int(person["latest"]["id"]))}

    async def _list_messages(self, request: web.Request) -> Json:
        count, most = _number(request, "count", 1, _MOST), _number(request, "most", 50, _MOST, 1)
        found = await self._wait_for(request, lambda: self._messages(request, max(count, most)), count)
        return {"messages": [shown.message(event) for event in found[-most:]]}

    async def _latest_message(self, request: web.Request) -> Json:
        found = await self._wait_for(request, lambda: self._messages(request, 1), 1)
        if not found:
            raise _Missing("there is no such message")
        return shown.message(found[-1])

    def _messages(self, request: web.Request, most: int) -> list[Event]:
        """Return the latest messages that match the query, at most `most`, the oldest first."""
        query, found = request.query, list[Event]()
        after, before = _number(request, "after", 0), _number(request, "before", 2**63)
        for event_id, event in reversed(self._state.events.items()):
            if int(event_id) <= after or len(found) == most:
                break
            one = shown.message(event)
            if (
                int(event_id) < before
                and query.get("text", "") in one["text"]
                and all(query[name] == one[name] for name in ("account", "person", "from") if name in query)
                and ("profile" not in query or query["profile"] == (event.profile and event.profile.id))
            ):
                found.append(event)
        return found[::-1]

    async def _list_requests(self, request: web.Request) -> Json:
        def found() -> list[Any]:
            after, only_refused = _number(request, "after", 0), request.query.get("refused") == "true"
            return [one for one in self._sandbox.requests[after:] if one.reason or one.fault or not only_refused]

        requests = await self._wait_for(request, found, 1)
        most = _number(request, "most", 50, _MOST, 1)
        return {"requests": [shown.request(one, self._sandbox.time) for one in requests[-most:]]}

    async def _wait_for(self, request: web.Request, find: Callable[[], Sequence[Any]], count: int) -> Sequence[Any]:
        """Call `find` until it returns at least `count` items, or the query's ``wait`` seconds have passed. Return the
        last result.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _seconds(request, "wait")
        while True:
            last, found = self._journal.last, find()
            left = deadline - loop.time()
            if len(found) >= count or left <= 0 or not await self._journal.wait(last, within=left):
                return found
            await asyncio.sleep(_BETWEEN_LOOKS)

    async def _show_quotas(self, _: web.Request) -> Json:
        return {"quotas": self._quotas()}

    async def _show_faults(self, _: web.Request) -> Json:
        return {"faults": self._faults(), "kinds": list(KINDS)}

    async def _list_held(self, _: web.Request) -> Json:
        outbox = self._sandbox.outbox
        held: Sequence[shown.HeldLike] = () if outbox is None else await outbox.held()
        return {"held": [shown.held(one, self._state.profiles) for one in held]}

    async def _show_time(self, _: web.Request) -> Json:
        return shown.time(self._sandbox.time)

    async def _show_webhooks(self, _: web.Request) -> Json:
        return {"webhooks": self._webhooks()}

    # ---- changing ----

    async def _write(self, request: web.Request) -> Json:
        body = await _body(request)
        text = body.get("text")
        if not isinstance(text, str) or not 1 <= len(text) <= 10_000:
            raise InvalidInput(parameter="text", problem="must be a string of 1 to 10000 characters")
        return {"id": self._person(request, body).writes(text)}

    async def _tap(self, request: web.Request) -> Json:
        body = await _body(request)
        return {"id": self._person(request, body).taps(str(body.get("label")))}

    async def _type(self, request: web.Request) -> Json:
        self._person(request, await _body(request)).types()
        return {}

    async def _read(self, request: web.Request) -> Json:
        self._person(request, await _body(request)).reads()
        return {}

    async def _add_fault(self, request: web.Request) -> Json:
        body = await _body(request)
        try:
            one = Fault(**body)
        except TypeError:
            raise InvalidInput(parameter="body", problem="must have kinds, and only arguments of Fault") from None
        self._sandbox.faults.append(one)
        self._journal.add("faults")
        return shown.fault(len(self._sandbox.faults), one)

    async def _remove_faults(self, request: web.Request) -> Json:
        kind = request.query.get("kind")
        self._sandbox.faults[:] = [one for one in self._sandbox.faults if kind is not None and kind not in one.kinds]
        self._journal.add("faults")
        return {"faults": self._faults()}

    async def _advance_time(self, request: web.Request) -> Json:
        duration = (await _body(request)).get("advance")
        if not isinstance(duration, (str, int, float)):
            raise InvalidInput(parameter="advance", problem="must be seconds, or text such as 90s, 15min, 24h or 2d")
        await self._state.quiet()
        self._sandbox.time.advance(duration)
        return shown.time(self._sandbox.time)

    async def _approve(self, request: web.Request) -> Json:
        body = await _body(request)
        return shown.reviewed(await self._outbox().approve(_text(body, "key"), by=_text(body, "by", "the page")))

    async def _reject(self, request: web.Request) -> Json:
        body = await _body(request)
        key, why, by = _text(body, "key"), _text(body, "why"), _text(body, "by", "the page")
        return shown.reviewed(await self._outbox().reject(key, why=why, by=by))

    def _outbox(self) -> ReviewedOutbox:
        if self._sandbox.outbox is None:
            raise _Missing("the sandbox shows no outbox")
        return self._sandbox.outbox

    async def _subscribe(self, request: web.Request) -> Json:
        body = await _body(request)
        url, envelope = body.get("url"), body.get("envelope", "account_activity")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInput(parameter="url", problem="must be an http or https URL")
        if envelope not in get_args(Envelope):
            raise InvalidInput(parameter="envelope", problem="must be account_activity, x_activity or x_activity_flat")
        await self._sandbox.subscribe(url, self._account(body), envelope=envelope)
        return {"webhooks": self._webhooks()}

    async def _unsubscribe(self, request: web.Request) -> Json:
        self._sandbox.unsubscribe(request.query.get("url", ""))
        return {"webhooks": self._webhooks()}

    async def _clear(self, _: web.Request) -> Json:
        self._sandbox.clear()
        return {}

    # ---- the stream ----

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send what happens, as server-sent events. If ``Last-Event-ID`` is given, begin after the event of this id."""
        response = web.StreamResponse(headers=guard.HEADERS | {"Content-Type": "text/event-stream"})
        given = request.headers.get("Last-Event-ID", request.query.get("after", ""))
        is_number = given.isascii() and given.isdigit() and len(given) < _LONGEST_NUMBER
        last = int(given) if is_number else self._journal.last
        with contextlib.suppress(ConnectionError):  # the client has closed the connection
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            await self._stream(response, last)
        return response

    async def _stream(self, response: web.StreamResponse, last: int) -> None:
        while True:
            entries = self._journal.since(last)
            last = self._journal.last
            if entries is None:
                await response.write(f"id: {last}\nevent: reset\ndata: {{}}\n\n".encode())
            elif entries:
                await response.write("".join(map(self._written, entries)).encode())
            if not await self._journal.wait(last, within=_BEAT):
                await response.write(b": still here\n\n")

    def _written(self, entry: Entry) -> str:
        return f"id: {entry.id}\nevent: {entry.kind}\ndata: {json.dumps(self._data(entry))}\n\n"

    def _data(self, entry: Entry) -> Json:
        match entry.kind:
            case "message":
                return shown.message(entry.what)
            case "request":
                return shown.request(entry.what, self._sandbox.time)
            case "typing" | "read":
                return shown.sign(entry.what, self._accounts)
            case "problem":
                return {"problem": entry.what}
            case _:
                return {}

    # ---- shared helpers ----

    @property
    def _accounts(self) -> dict[str, StoredAccount]:
        return {one.id: one for one in self._gate.accounts.values()}

    def _quotas(self) -> list[Json]:
        current = self._windows.current(self._sandbox.time.monotonic())
        return [shown.quota(window, self._sandbox.time) for window in current]

    def _faults(self) -> list[Json]:
        return [shown.fault(number, one) for number, one in enumerate(self._sandbox.faults, 1)]

    def _webhooks(self) -> list[Json]:
        return [shown.webhook(one) for one in self._deliveries.subscriptions]

    def _account(self, body: Json) -> Credentials:
        if "account" not in body:
            return self._sandbox.credentials
        found = self._accounts.get(str(body["account"]))
        if found is None:
            raise _Missing("there is no such account")
        return found.credentials

    def _person(self, request: web.Request, body: Json) -> Person:
        return self._sandbox.person(request.match_info["id"], self._account(body))


def _json(body: Json, status: int = 200) -> web.Response:
    text = json.dumps(body, ensure_ascii=False)
    return web.Response(text=text, status=status, content_type="application/json", headers=guard.HEADERS)


async def _body(request: web.Request) -> Json:
    if request.content_length is not None and request.content_length > _LARGEST_BODY:
        raise InvalidInput(parameter="body", problem=f"must have at most {_LARGEST_BODY} bytes")
    try:
        body = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not is_object(body):
        raise InvalidInput(parameter="body", problem="must be a JSON object")
    return body


def _text(body: Json, name: str, otherwise: str | None = None) -> str:
    text = body.get(name, otherwise)
    if not isinstance(text, str):
        raise InvalidInput(parameter=name, problem="must be a string")
    return text


def _number(request: web.Request, name: str, otherwise: int, most: int = 2**63, least: int = 0) -> int:
    text = request.query.get(name)
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdigit() or len(text) >= _LONGEST_NUMBER or not least <= int(text) <= most:
        raise InvalidInput(parameter=name, problem=f"must be a whole number from {least} to {most}")
    return int(text)


def _seconds(request: web.Request, name: str) -> float:
    text = request.query.get(name, "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise InvalidInput(parameter=name, problem=f"must be a number of seconds from 0 to {_LONGEST_WAIT:g}")
    return seconds
