"""The sandbox as a server: receive, let in, count, do, answer, keep the record."""

from __future__ import annotations

import asyncio
import json
import math
import random
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web
from attrs import evolve

from twdm_async._clock import Clock
from twdm_async._numbers import checked_seconds
from twdm_async.credentials import Credentials
from twdm_async.models.checks import checked_id
from twdm_async.quota.spec import QuotaTable, Scope
from twdm_async.sandbox.call import Answer, Call, Upload
from twdm_async.sandbox.deliveries import Deliveries, Envelope, Subscription
from twdm_async.sandbox.faults import REPEATS, Fault, Reply, commit, repeat_soon
from twdm_async.sandbox.gate import Gate
from twdm_async.sandbox.messages import recipient_of
from twdm_async.sandbox.people import Person
from twdm_async.sandbox.records import (
    Breach,
    Delivery,
    Reading,
    Received,
    StoredAccount,
    StoredMedia,
    StoredMessage,
    StoredProfile,
    Typing,
    Window,
)
from twdm_async.sandbox.refusal import Refusal, no_such_page
from twdm_async.sandbox.routes import ROUTES, Route
from twdm_async.sandbox.state import State
from twdm_async.sandbox.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_LARGEST_BODY: Final = 20 * 1024 * 1024
_LIMIT_EXCEEDED: Final = Answer({"errors": [{"code": 88, "message": "Rate limit exceeded"}]}, 429)
_FORM: Final = "application/x-www-form-urlencoded"

# Not a secret: the sandbox listens on this machine alone, and `twdm sandbox` prints them.
_CREDENTIALS: Final = Credentials(
    consumer_key="sandbox-consumer-key",
    consumer_secret="sandbox-consumer-secret",  # noqa: S106 - as above
    access_token="2244994945-sandbox-access-token",  # noqa: S106 - as above
    access_token_secret="sandbox-access-token-secret",  # noqa: S106 - as above
)


class Sandbox:
    """A local double of the API. Use it as ``async with Sandbox() as sandbox``.

    It checks signatures, refuses replayed nonces and old timestamps, counts quotas in fixed windows from the first
    request, escapes text and refuses what the API refuses. It listens on 127.0.0.1 alone.

    Args:
        quotas: what it allows; the documented quotas if not given.
        time_scale: how many times as fast its windows pass; with 86 400 a day takes a second.
        port: 0 takes a free one.
        latency: seconds, at least and at most, that a request takes on the way in, and again on the way out.
        list_lag: seconds, at least and at most, after which a new message appears in the list of messages; each has its
            own. The API's has been seen to take three minutes.
        webhook_timeout: seconds that a webhook may take to answer, before the same is sent again.
        faults: what is to go wrong: a :class:`Fault` each, or just its kind.
        clock: where time comes from; for tests.
        seed: for the latencies and the faults.

    Raises:
        InvalidInput: `time_scale` or `webhook_timeout` is not a positive number.
    """

    def __init__(
        self,
        *,
        quotas: QuotaTable | None = None,
        time_scale: float = 1.0,
        port: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        list_lag: float | tuple[float, float] = 0.0,
        webhook_timeout: float = 3.0,
        faults: Sequence[Fault | str] = (),
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self.quotas = (quotas or QuotaTable.default()).scaled(time_scale)
        """What it allows, with windows as short as they are here. Give it to the client."""
        self._clock = clock or Clock()
        self._port = port
        self._latency = latency
        self._random = random.Random(seed)
        self.faults = [Fault(fault) if isinstance(fault, str) else fault for fault in faults]
        """What is to go wrong. Change it as you like."""
        self._gate = Gate(self._clock)
        self._windows = Windows(self.quotas)
        self.list_lag = list_lag if isinstance(list_lag, tuple) else (list_lag, list_lag)
        """How late the list is, in seconds, at least and at most. Change it as you like."""
        self._state = State(
            self._clock,
            self._windows,
            self.quotas["direct_messages.send"].credit,
            lambda: self._random.uniform(*self.list_lag),
        )
        self._deliveries = Deliveries(self._clock, time_scale, checked_seconds(webhook_timeout, "webhook_timeout"))
        self._state.on_event = self._deliveries.tell
        self._runner: web.AppRunner | None = None
        self.requests: list[Received] = []
        """Every request, in the order it was answered."""
        self.credentials = self.add_account(credentials=_CREDENTIALS)
        """Keys of an account that is verified and on the allow-list."""

    @property
    def url(self) -> str:
        """Scheme and host, for both ``api_url`` and ``upload_url``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def messages(self) -> Sequence[StoredMessage]:
        """Every message that was accepted, in order."""
        return self._state.messages

    @property
    def profiles(self) -> Mapping[str, StoredProfile]:
        """The custom profiles there are, by id."""
        return self._state.profiles

    @property
    def breaches(self) -> Sequence[Breach]:
        """Every request that came although its quota was spent."""
        return self._windows.breaches

    @property
    def windows(self) -> Sequence[Window]:
        """Every window of every quota that was ever begun, in order."""
        return self._windows.history

    @property
    def unreachable(self) -> set[str]:
        """User ids that nobody can write to (403, code 349). Add to it as you like."""
        return self._state.unreachable

    @property
    def media(self) -> Mapping[str, StoredMedia]:
        """The uploaded files there are, by id."""
        return self._state.media

    @property
    def typing(self) -> Sequence[Typing]:
        """Every time an account let a person see that it types, in order."""
        return self._state.typing

    @property
    def reading(self) -> Sequence[Reading]:
        """Every time an account let a person see what it has read, in order."""
        return self._state.reading

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """Every webhook whose delivery has come to an end, in order."""
        return self._deliveries.done

    @property
    def one_rule_only(self) -> bool:
        """Whether a second welcome message rule is refused; the API's documents say both."""
        return self._state.one_rule_only

    @one_rule_only.setter
    def one_rule_only(self, value: bool) -> None:
        self._state.one_rule_only = value

    def person(self, user_id: str | int, account: Credentials | None = None) -> Person:
        """Somebody who has a conversation with `account`, the first one if not given.

        Raises:
            InvalidInput: the id is none.
        """
        account_id = self._gate.accounts[(account or self.credentials).access_token].id
        return Person(checked_id(user_id, "user_id"), account_id, self._state, self.url, self._deliveries.tell_of_chat)

    async def subscribe(
        self, url: str, account: Credentials | None = None, *, envelope: Envelope = "account_activity"
    ) -> None:
        """Send the events of `account`, the first one if not given, to `url`, after a check that whoever listens knows
        the consumer secret. What is not answered with 200 in three seconds is sent again after 3, 27 and 242 seconds.

        Args:
            url: of the webhook.
            account: whose events.
            envelope: how they are wrapped: as Account Activity does it, or as X Activity does it in either of its two
                shapes.

        Raises:
            InvalidInput: the check was not answered as it should be.
        """
        account = account or self.credentials
        account_id = self._gate.accounts[account.access_token].id
        await self._deliveries.subscribe(Subscription(account_id, url, account.consumer_secret, envelope))

    def unsubscribe(self, url: str) -> None:
        """Send no events to `url` any more, and tell nobody, as X has been seen to do.

        Args:
            url: of the webhook.
        """
        self._deliveries.unsubscribe(url)

    async def delivered(self) -> None:
        """Wait until no webhook is on its way any more."""
        await self._deliveries.settled()

    def add_account(
        self,
        *,
        credentials: Credentials | None = None,
        verified: bool = True,
        allowlisted: bool = True,
        permission: str = "read-write-directmessages",
        legacy_access: bool = True,
    ) -> Credentials:
        """Another account of the same app.

        Args:
            credentials: its keys; made up if not given.
            verified: whether it carries a badge.
            allowlisted: whether it is on the allow-list for custom profiles.
            permission: what its token was issued with; anything else than this may not use messages (code 93).
            legacy_access: whether it may use version 1.1 of the API for more than uploads (code 453).
        """
        user_id = (credentials and credentials.user_id) or self._state.new_id()
        if credentials is None:
            token, secret = f"{user_id}-sandbox-access-token", f"sandbox-access-token-secret-{user_id}"
            credentials = evolve(_CREDENTIALS, access_token=token, access_token_secret=secret)
        user = _user(user_id, verified=verified)
        self._gate.accounts[credentials.access_token] = StoredAccount(
            credentials, user, allowlisted, permission, legacy_access
        )
        return credentials

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._handler(route))
        app.router.add_get(r"/media/{id:\d+}", self._serve_media)
        app.router.add_route("*", "/{rest:.*}", self._nothing_here)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        except OSError:
            await self.close()
            raise
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening. The records stay."""
        await self._deliveries.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            await self._travel()
            account, window = None, None
            family, kind = route.family, None
            try:
                body = await _body(request)
                if family == "media.upload":  # which call it is stands in its body
                    family = route.family_of(body.fields.get("command"))
                kind, processed = self._draw(family, _recipient(body))
                if kind is not None and not processed:
                    self._record(request, None, 0, family, kind)
                    return await self._go_wrong(kind, request, Answer({}), None)
                account = self._let_in(request, body)
                _check_access(account, family)
                call = _call(request, body, account, self.url)
                let_in, window = self._count(family, call)
                answer = route.handler(self._state, call) if let_in else _LIMIT_EXCEEDED
            except Refusal as refusal:
                answer = Answer(refusal.body, refusal.status)
            except ConnectionError:  # the client is gone before it has said what it wants
                return web.Response()
            self._record(request, account, answer.status, family, kind)
            window = window if route.tells_limits else None
            await self._travel()
            if kind is not None:
                return await self._go_wrong(kind, request, answer, window)
            return self._response(answer, window, account)

        return handle

    def _count(self, family: str, call: Call) -> tuple[bool, Window | None]:
        """Whether its quota lets it in."""
        if family == "direct_messages.send" and self._is_free(call):
            return True, None
        owners = {Scope.USER: call.account.id, Scope.APP: call.account.credentials.app}
        return self._windows.count(family, owners, self._clock.monotonic())

    def _is_free(self, call: Call) -> bool:
        try:
            return self._state.has_credit(call.account.id, recipient_of(call))
        except Refusal:  # its handler will say so, and it counts
            return False

    def _draw(self, family: str, recipient_id: str | None) -> tuple[str | None, bool]:
        """What goes wrong with the next request, and whether it is carried out first."""
        # Each counts every request.
        drawn = [fault.draw(family, self._random, recipient_id) for fault in self.faults]
        return next((fate for fate in drawn if fate is not None), (None, True))

    async def _go_wrong(self, kind: str, request: web.Request, answer: Answer, window: Window | None) -> web.Response:
        response = self._response(answer, window)
        body = response.body if isinstance(response.body, bytes) else b""
        transport: Any = request.transport  # of whatever loop; uvloop's have no class of asyncio
        if transport is not None:
            reply = Reply(response.status, dict(response.headers), body, self._random, dict(request.headers))
            if kind in REPEATS:
                repeat_soon(kind, reply, transport)
            else:
                await commit(kind, reply, transport)
        return response  # nobody gets it if the connection has ended

    def _let_in(self, request: web.Request, body: _Body) -> StoredAccount:
        # What was signed is what was sent: the raw path, not what it means once it is decoded.
        url = f"{request.scheme}://{request.host}{request.raw_path}"
        return self._gate.admit(request.method, url, body.form, request.headers)

    def _response(self, answer: Answer, window: Window | None, account: StoredAccount | None = None) -> web.Response:
        headers = {
            "Date": formatdate(self._clock.wall(), usegmt=True),
            "x-access-level": account.permission if account else "read-write-directmessages",
        }
        if window is not None:
            ends = self._clock.wall() + window.ends - self._clock.monotonic()
            headers["x-rate-limit-limit"] = str(window.limit)
            headers["x-rate-limit-remaining"] = str(window.limit - window.count)
            headers["x-rate-limit-reset"] = str(math.ceil(ends))
        if answer.body is None:
            return web.Response(
                status=answer.status, headers=headers, content_type="text/html", charset="utf-8", body=b""
            )
        if isinstance(answer.body, bytes):
            return web.Response(headers=headers, content_type=answer.content_type, body=answer.body)
        text = json.dumps(answer.body, ensure_ascii=False, separators=(",", ":"))
        return web.Response(
            status=answer.status, headers=headers, content_type="application/json", charset="utf-8", text=text
        )

    async def _serve_media(self, request: web.Request) -> web.Response:
        media = self._state.media.get(request.match_info["id"])
        if media is None:
            raise web.HTTPNotFound
        return web.Response(body=media.content, content_type=media.content_type)

    async def _nothing_here(self, request: web.Request) -> web.Response:
        refusal = no_such_page()
        self._record(request, None, refusal.status, "")
        return self._response(Answer(refusal.body, refusal.status), None)

    def _record(
        self, request: web.Request, account: StoredAccount | None, status: int, endpoint: str, fault: str | None = None
    ) -> None:
        now = self._clock.monotonic()
        account_id = account.id if account else None
        self.requests.append(Received(now, account_id, request.method, request.raw_path, status, fault, endpoint))

    async def _travel(self) -> None:
        least, most = self._latency
        if most > 0:
            await asyncio.sleep(self._random.uniform(least, most))


def _check_access(account: StoredAccount, family: str) -> None:
    if not account.legacy_access and not family.startswith("media"):
        problem = "You currently have access to a subset of X API V2 endpoints and limited v1.1 endpoints only."
        raise Refusal(403, 453, problem)
    is_about_messages = family.startswith(("direct_messages.", "welcome_message"))
    if is_about_messages and account.permission != "read-write-directmessages":
        raise Refusal(403, 93, "This application is not allowed to access or delete your direct messages.")


class _Body:
    """A request's body: `form` as it was signed, and what it holds."""

    def __init__(self) -> None:
        self.form = ""
        self.raw = b""
        self.fields: dict[str, str] = {}
        self.files: dict[str, Upload] = {}


async def _body(request: web.Request) -> _Body:
    try:
        return await _read_body(request)
    except ValueError:  # no boundary between the parts, or bytes that are not UTF-8
        raise Refusal(400, 214, "Could not parse the request.") from None


async def _read_body(request: web.Request) -> _Body:
    body = _Body()
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise Refusal(400, 214, "Could not parse the request.")
            content = bytes(await part.read())
            if len(content) > _LARGEST_BODY:
                raise Refusal(413, 324, "File size exceeds the maximum.")
            text = None if part.filename is not None else _text(content)
            if text is not None:
                body.fields[part.name] = text
            else:
                content_type = part.headers.get("Content-Type", "application/octet-stream")
                body.files[part.name] = Upload(content, content_type)
        return body
    body.raw = await request.read()
    if request.content_type == _FORM:
        body.form = body.raw.decode("latin-1")
        body.fields = dict(parse_qsl(body.raw.decode(), keep_blank_values=True))
    return body


def _recipient(body: _Body) -> str | None:
    """Whom a request is about, if it says so."""
    if body.raw and not body.form:
        try:
            return str(json.loads(body.raw)["event"]["message_create"]["target"]["recipient_id"])
        except (ValueError, RecursionError, TypeError, KeyError):
            return None
    return body.fields.get("recipient_id")


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:  # a part without a file name that is not text
        return None


def _call(request: web.Request, body: _Body, account: StoredAccount, url: str) -> Call:
    document: Any = None
    if body.raw and not body.form:
        try:
            document = json.loads(body.raw)
        except (ValueError, RecursionError):
            raise Refusal(400, 214, "Could not parse the request as JSON.") from None
    fields = {**request.query, **body.fields}
    return Call(account, url, request.match_info, fields, document, body.files)


def _user(user_id: str, *, verified: bool) -> dict[str, Any]:
    return {
        "id": int(user_id),
        "id_str": user_id,
        "name": "Sandbox Brand",
        "screen_name": "sandbox_brand",
        "location": "",
        "description": "A brand with many agents.",
        "url": None,
        "entities": {"description": {"urls": []}},
        "protected": False,
        "followers_count": 1000,
        "friends_count": 10,
        "created_at": "Mon Nov 29 21:18:15 +0000 2010",
        "utc_offset": None,
        "time_zone": None,
        "verified": verified,
        "statuses_count": 1,
        "lang": None,
        "profile_image_url_https": "https://pbs.twimg.com/profile_images/1/sandbox_normal.png",
    }
