"""The sandbox's HTTP server: it reads each request, authenticates it, counts it, carries it out, answers and records
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from aiohttp import web
from attrs import asdict, evolve

from twdm_async._clock import Clock
from twdm_async._numbers import checked_seconds
from twdm_async.client import Client, ClientOptions
from twdm_async.credentials import Credentials
from twdm_async.models.checks import checked_id
from twdm_async.quota.spec import QuotaTable, Scope
from twdm_async.sandbox.accounts import account_json
from twdm_async.sandbox.body import LARGEST_BODY, Body, call_of, read_body, recipient_named
from twdm_async.sandbox.call import Answer, Call
from twdm_async.sandbox.clock import SandboxClock
from twdm_async.sandbox.deliveries import Deliveries, Envelope, Subscription
from twdm_async.sandbox.faults import REPEATS, Fault, Reply, commit, repeat_soon
from twdm_async.sandbox.gate import Gate
from twdm_async.sandbox.guard import why_foreign
from twdm_async.sandbox.inspector import Inspector, ReviewedOutbox
from twdm_async.sandbox.listeners import AsgiApp, Listeners, WebhookLike
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

_ALL_ADDRESSES: Final = {"", "0.0.0.0"}  # noqa: S104 - only if the caller asks for it
_LIMIT_EXCEEDED: Final = Answer({"errors": [{"code": 88, "message": "Rate limit exceeded"}]}, 429)

# These are not secret: they open nothing but a sandbox, and `twdm sandbox` prints them.
_CREDENTIALS: Final = Credentials(
    consumer_key="sandbox-consumer-key",
    consumer_secret="sandbox-consumer-secret",  # noqa: S106 - as above
    access_token="2244994945-sandbox-access-token",  # noqa: S106 - as above
    access_token_secret="sandbox-access-token-secret",  # noqa: S106 - as above
)


class Sandbox:
    """A local double of the API. Use it as ``async with Sandbox() as sandbox``.

    It checks signatures, refuses replayed nonces and old timestamps, counts quotas in fixed windows that begin with the
    first request, escapes text, and refuses what the API refuses. At :attr:`url` it serves a page on which a person can
    follow what happens and write messages; see :doc:`sandbox`. Only this machine can reach it, unless `host` says
    otherwise.

    Args:
        quotas: the quotas that it enforces; the documented quotas if not given.
        time_scale: the factor by which quota windows, and the pauses before a webhook is sent again, are shortened.
            With 86 400, a day's window takes a second.
        port: the port to listen on; 0 takes a free one.
        host: an address to listen on besides 127.0.0.1; ``"0.0.0.0"`` means all addresses of this machine. Whoever can
            reach it can read and change everything in the sandbox.
        latency: minimum and maximum of the seconds by which a request is delayed before it is handled, and its answer
            again before it is sent.
        list_lag: seconds after which a new message appears in the list of messages: a number, or minimum and maximum,
            between which a lag is drawn for each message. The real API has been seen to take three minutes.
        webhook_timeout: seconds within which a webhook must answer. If it does not, the event is sent again.
        faults: the faults to inject: each a :class:`Fault`, or the name of its kind.
        autojump: whether the clock jumps to the next moment that a client waits for, whenever nothing has happened for
            a hundredth of a second. Clients must use :attr:`time` as their clock, as those of :meth:`client` do.
        clock: the clock on which the sandbox's own clock is based; for tests.
        seed: seeds the random choice of latencies, list lags and faults.

    Raises:
        InvalidInput: `time_scale` is not a positive number, `webhook_timeout` is not a number of seconds, or `faults`
            names an unknown kind.
    """

    def __init__(
        self,
        *,
        quotas: QuotaTable | None = None,
        time_scale: float = 1.0,
        port: int = 0,
        host: str = "127.0.0.1",
        latency: tuple[float, float] = (0.0, 0.0),
        list_lag: float | tuple[float, float] = 0.0,
        webhook_timeout: float = 3.0,
        faults: Sequence[Fault | str] = (),
        autojump: bool = False,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self.quotas: QuotaTable = (quotas or QuotaTable.default()).scaled(time_scale)
        """The quotas that it enforces, with their windows shortened by `time_scale`. Give it to the client."""
        self.time: SandboxClock = SandboxClock(clock or Clock(), time_scale)
        """The sandbox's clock. ``time.advance("24h")`` moves it forward."""
        self._port = port
        self.host = host
        """The address that it listens on."""
        self._autojump = autojump
        self._latency = latency
        self._random = random.Random(seed)
        self.faults: list[Fault] = [Fault(fault) if isinstance(fault, str) else fault for fault in faults]
        """The faults to inject. Change the list as you like."""
        self._gate = Gate(self.time)
        self._windows = Windows(self.quotas)
        self.list_lag: tuple[float, float] = list_lag if isinstance(list_lag, tuple) else (list_lag, list_lag)
        """Minimum and maximum of the seconds after which a new message appears in the list of messages. Change it as
        you like."""
        self._state = State(
            self.time,
            self._windows,
            self.quotas["direct_messages.send"].credit,
            lambda: self._random.uniform(*self.list_lag),
        )
        self._deliveries = Deliveries(self.time, self._state.complain, lambda: self._state.journal.add("webhook"))
        self._state.on_event = self._deliveries.tell
        self.time.on_move = lambda: self._state.journal.add("time")
        self._listeners = Listeners(checked_seconds(webhook_timeout, "webhook_timeout"), self._state.complain)
        self._jumping: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self.outbox: ReviewedOutbox | None = None
        """The :class:`twdm_async.Outbox` whose held messages the page shows, so that people can approve or reject them.
        Set it as you like; it must be open."""
        self.requests: list[Received] = []
        """Every request, in the order in which they were answered."""
        self.environment: dict[str, str] = {}
        """The environment variables with which :meth:`twdm_async.Client.from_env` and ``twdm`` use this sandbox. Filled
        when the sandbox starts."""
        self.credentials: Credentials = self.add_account(credentials=_CREDENTIALS)
        """The keys of the first account, which is verified and on the allow-list."""

    @property
    def url(self) -> str:
        """Scheme, host and port, for both ``api_url`` and ``upload_url``; it is also the address of the page."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def messages(self) -> Sequence[StoredMessage]:
        """Every message that was accepted, in order."""
        return self._state.messages

    @property
    def profiles(self) -> Mapping[str, StoredProfile]:
        """The custom profiles that exist, by id."""
        return self._state.profiles

    @property
    def breaches(self) -> Sequence[Breach]:
        """Every request that was refused because its quota was spent."""
        return self._windows.breaches

    @property
    def windows(self) -> Sequence[Window]:
        """Every quota window that has begun, in order."""
        return self._windows.history

    @property
    def unreachable(self) -> set[str]:
        """User ids that no account can write to (403, code 349). Change the set as you like."""
        return self._state.unreachable

    @property
    def handles(self) -> dict[str, str]:
        """The user ids of people, by handle. Each person is also called ``person_ID``. Change the dict as you like."""
        return self._state.handles

    @property
    def media(self) -> Mapping[str, StoredMedia]:
        """The uploaded files, by id."""
        return self._state.media

    @property
    def typing(self) -> Sequence[Typing]:
        """The typing indicators that accounts have sent, in order."""
        return self._state.typing

    @property
    def reading(self) -> Sequence[Reading]:
        """The read receipts that accounts have sent, in order."""
        return self._state.reading

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """Every webhook delivery that has ended, in order: answered with 200, or given up."""
        return self._deliveries.done

    @property
    def problems(self) -> list[str]:
        """What webhooks have done wrong, as text for people: each answer to an event other than 200, and each exception
        that an application raised after its answer. The pytest plugin adds each event whose handler failed. Clear the
        list as you like.
        """
        return self._state.problems

    @property
    def one_rule_only(self) -> bool:
        """Whether a second welcome message rule is refused. The API's documents contradict each other on this."""
        return self._state.one_rule_only

    @one_rule_only.setter
    def one_rule_only(self, value: bool) -> None:
        self._state.one_rule_only = value

    def person(self, user_id: str | int, account: Credentials | None = None) -> Person:
        """Return the person with this user id, in conversation with `account` (the first account if not given).

        Raises:
            InvalidInput: `user_id` is not a numeric id.
        """
        account_id = self._gate.accounts[(account or self.credentials).access_token].id
        user_id = checked_id(user_id, "user_id")
        return Person(user_id, account_id, self._state, self.url, self._deliveries.tell_of_chat, self._story)

    def client(self, credentials: Credentials | None = None, **options: Unpack[ClientOptions]) -> Client:
        """Return a client of this sandbox, with the sandbox's keys, address, quotas and clock.

        Args:
            credentials: the keys of another account; those of the first account if not given.
            options: further arguments of :class:`twdm_async.Client`; they override these.
        """
        own: ClientOptions = {"api_url": self.url, "quotas": self.quotas, "clock": self.time}
        both: ClientOptions = {**own, **options}
        return Client(credentials or self.credentials, **both)

    async def subscribe(
        self,
        target: str | WebhookLike | AsgiApp | web.Application,
        account: Credentials | None = None,
        *,
        path: str = "/webhook",
        envelope: Envelope = "account_activity",
    ) -> None:
        """Send the events of `account` to `target` from now on. First a challenge checks that the target knows the
        consumer secret. An event that is not answered with 200 within `webhook_timeout` is sent again after 3, 27 and
        242 seconds.

        Args:
            target: the URL of a webhook; or a :class:`twdm_async.webhooks.Webhook`, an ASGI application or an
                ``aiohttp.web.Application`` in this process, which then needs no server. If it has not been started, the
                sandbox starts it, and stops it when the sandbox is closed.
            account: the account whose events are sent; the first account if not given.
            path: the path of the webhook within an application.
            envelope: the format of the events: that of Account Activity, or one of the two of X Activity.

        Raises:
            InvalidInput: the target answered the challenge wrongly (the error says how), it is none of the accepted
                types, or it did not start.
        """
        account = account or self.credentials
        account_id = self._gate.accounts[account.access_token].id
        url, listener = await self._listeners.of(target, path)
        subscription = Subscription(account_id, url, target, listener, account.consumer_secret, envelope)
        await self._deliveries.subscribe(subscription)
        self._state.journal.add("webhook")

    def unsubscribe(self, target: str | WebhookLike | AsgiApp | web.Application) -> None:
        """Send no more events to `target`. The target is not notified: X has been seen to do the same.

        Args:
            target: what was passed to :meth:`subscribe`.
        """
        self._deliveries.unsubscribe(target)
        self._state.journal.add("webhook")

    async def delivered(self) -> None:
        """Wait until every event is delivered or given up, and until each subscribed webhook or ASGI application in
        this process has handled the events that it received.
        """
        await self._deliveries.handled()

    def complain(self, problem: str) -> None:
        """Add to :attr:`problems`. A call of :meth:`Person.receives <twdm_async.sandbox.Person.receives>` that is
        waiting then raises.

        Args:
            problem: what went wrong, as text for people.
        """
        self._state.complain(problem)

    def clear(self) -> None:
        """Forget all messages, requests, deliveries, problems and quota windows. Accounts, profiles, files, welcome
        messages, webhooks and faults stay.
        """
        self._state.clear()
        self._windows.clear()
        self.requests.clear()
        self._deliveries.done.clear()
        self._state.journal.add("cleared")

    def add_account(
        self,
        *,
        credentials: Credentials | None = None,
        verified: bool = True,
        allowlisted: bool = True,
        permission: str = "read-write-directmessages",
        legacy_access: bool = True,
    ) -> Credentials:
        """Add another account, and return its keys.

        Args:
            credentials: its keys; if not given, they are made up, with the same app's consumer key.
            verified: whether the account is verified.
            allowlisted: whether it is on the allow-list for custom profiles.
            permission: the permission of its access token. With any other than the default, calls about messages are
                refused (code 93).
            legacy_access: whether it may use version 1.1 of the API for more than uploads. If not, such calls are
                refused (code 453).
        """
        user_id = (credentials and credentials.user_id) or self._state.new_id()
        if credentials is None:
            token, secret = f"{user_id}-sandbox-access-token", f"sandbox-access-token-secret-{user_id}"
            credentials = evolve(_CREDENTIALS, access_token=token, access_token_secret=secret)
        user = account_json(user_id, name="Sandbox Brand", screen_name="sandbox_brand", verified=verified)
        user["description"] = "A brand with many agents."
        self._gate.accounts[credentials.access_token] = StoredAccount(
            credentials, user, allowlisted, permission, legacy_access
        )
        return credentials

    async def start(self) -> None:
        """Start to listen.

        Raises:
            OSError: the address or the port cannot be used.
        """
        app = web.Application(client_max_size=LARGEST_BODY)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._handler(route))
        Inspector(self, self._state, self._windows, self._gate, self._deliveries).add_to(app)
        app.router.add_route("*", "/{rest:.*}", self._nothing_here)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            for host in dict.fromkeys([self.host] if self.host in _ALL_ADDRESSES else ["127.0.0.1", self.host]):
                await web.TCPSite(self._runner, host, self._port).start()
                self._port = self._runner.addresses[0][1]
        except OSError:
            await self.close()
            raise
        keys = {f"TWDM_{name.upper()}": value for name, value in asdict(self.credentials).items()}
        self.environment |= {"TWDM_API_URL": self.url, "TWDM_SANDBOX": self.url, **keys}
        if self._autojump:
            self._jumping = asyncio.create_task(
                self.time.jump_when_idle(self._activity), name="twdm_async sandbox time"
            )

    async def close(self) -> None:
        """Stop listening, and stop the webhooks that the sandbox has started. The records stay."""
        async with contextlib.AsyncExitStack() as closing:  # close each part, even if another one raises
            if self._runner is not None:
                closing.push_async_callback(self._runner.cleanup)
            closing.push_async_callback(self._listeners.close)
            closing.push_async_callback(self._deliveries.close)
            if self._jumping is not None:
                self._jumping.cancel()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            problem = why_foreign(request.headers, self.host)
            if problem is not None:  # the sandbox's keys are public, so a signature proves nothing
                return web.Response(status=403, text=problem)
            work = object()
            self.time.begin_work(work)
            try:
                return await answer_to(request)
            finally:
                self.time.end_work(work)

        async def answer_to(request: web.Request) -> web.Response:
            await self._travel()
            account, window, hint = None, None, ""
            family, kind = route.family, None
            try:
                body = await read_body(request)
                if family == "media.upload":  # the command that tells the calls apart is in the body
                    family = route.family_of(body.fields.get("command"))
                kind, processed = self._draw(family, recipient_named(body))
                if kind is not None and not processed:
                    self._record(request, None, Answer(None, 0), family, kind)
                    return await self._go_wrong(kind, request, Answer({}), None)
                account = self._let_in(request, body)
                _check_access(account, family)
                call = call_of(request, body, account, self.url)
                let_in, window = self._count(family, call)
                answer = route.handler(self._state, call) if let_in else _LIMIT_EXCEEDED
                hint = "" if let_in else self._spent(family)
            except Refusal as refusal:
                answer, hint = Answer(refusal.body, refusal.status), refusal.hint
            except ConnectionError:  # the client has closed the connection before it sent the whole request
                return web.Response()
            self._record(request, account, answer, family, kind, hint)
            window = window if route.tells_limits else None
            await self._travel()
            if kind is not None:
                return await self._go_wrong(kind, request, answer, window)
            return self._response(answer, window, account)

        return handle

    def _count(self, family: str, call: Call) -> tuple[bool, Window | None]:
        """Count a call against its quotas, unless it is a free reply.

        Returns:
            Whether the call is let in, and the quota window that the reply's headers report, if there is one.
        """
        if family == "direct_messages.send" and self._is_free(call):
            return True, None
        owners = {Scope.USER: call.account.id, Scope.APP: call.account.credentials.app}
        return self._windows.count(family, owners, self.time.monotonic())

    def _is_free(self, call: Call) -> bool:
        try:
            return self._state.has_credit(call.account.id, recipient_of(call))
        except Refusal:  # the call counts, and its handler refuses it
            return False

    def _draw(self, family: str, recipient_id: str | None) -> tuple[str | None, bool]:
        """Draw the fault of this request, if any. Return its kind, and whether the request is carried out first."""
        # Every fault is asked, even after one has applied, since each counts its own requests.
        drawn = [fault.draw(family, self._random, recipient_id) for fault in self.faults]
        return next((fate for fate in drawn if fate is not None), (None, True))

    async def _go_wrong(self, kind: str, request: web.Request, answer: Answer, window: Window | None) -> web.Response:
        response = self._response(answer, window)
        body = response.body if isinstance(response.body, bytes) else b""
        transport: Any = request.transport  # untyped, since uvloop's transports are not asyncio's classes
        if transport is not None:
            reply = Reply(response.status, dict(response.headers), body, self._random, dict(request.headers))
            if kind in REPEATS:
                repeat_soon(kind, reply, transport)
            else:
                await commit(kind, reply, transport)
        return response  # it reaches nobody if the fault has closed the connection

    def _let_in(self, request: web.Request, body: Body) -> StoredAccount:
        # The client has signed the raw path, as it was sent, not the decoded one.
        url = f"{request.scheme}://{request.host}{request.raw_path}"
        return self._gate.admit(request.method, url, body.form, request.headers)

    def _response(self, answer: Answer, window: Window | None, account: StoredAccount | None = None) -> web.Response:
        headers = {
            "Date": formatdate(self.time.wall(), usegmt=True),
            "x-access-level": account.permission if account else "read-write-directmessages",
        }
        if window is not None:
            ends = self.time.wall() + window.ends - self.time.monotonic()
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

    async def _nothing_here(self, request: web.Request) -> web.Response:
        refusal = no_such_page()
        answer = Answer(refusal.body, refusal.status)
        self._record(request, None, answer, "")
        return self._response(answer, None)

    def _record(
        self,
        request: web.Request,
        account: StoredAccount | None,
        answer: Answer,
        endpoint: str,
        fault: str | None = None,
        hint: str = "",
    ) -> None:
        now = self.time.monotonic()
        account_id = account.id if account else None
        status, reason = answer.status, _reason(answer, hint)
        number = len(self.requests) + 1
        received = Received(now, account_id, request.method, request.raw_path, status, fault, endpoint, reason, number)
        self.requests.append(received)
        self._state.journal.add("request", received)

    def _spent(self, family: str) -> str:
        """Return a text for people that says which quota has just refused a request."""
        breach = self._windows.breaches[-1]
        for window in self._windows.current(self.time.monotonic()):
            if (window.family, window.scope, window.owner) == (family, breach.scope, breach.owner):
                ends = self.time.utc(window.ends - self.time.monotonic())
                return f"{window.count} of {window.limit} of this {window.scope} are spent until {ends:%H:%M:%S} UTC"
        return ""

    def _activity(self) -> object:
        """Return a value that changes whenever something happens; ``None`` while a webhook request is under way."""
        return None if self._deliveries.trying else self._state.journal.last

    def _story(self) -> list[str]:
        """Return lines that explain why an awaited message may not have come: problems, webhooks, spent quotas and the
        latest requests.
        """
        lines = [f"- {problem}" for problem in self.problems]
        if not self._deliveries.subscriptions:
            lines.append("- Nobody listens to webhooks: see Sandbox.subscribe().")
        else:
            lines += [f"- webhook {one.url}: {one.last}" for one in self._deliveries.subscriptions]
        lines += [
            f"- {window.family}: {window.count} of {window.limit} of this {window.scope} are spent"
            for window in self._windows.current(self.time.monotonic())
            if window.count >= window.limit
        ]
        latest = [f"- {one.method} {one.path}: {one.status} {one.reason}".rstrip() for one in self.requests[-5:]]
        return [*lines, *(["The latest requests:", *latest] if latest else ["- There was no request to the API."])]

    async def _travel(self) -> None:
        least, most = self._latency
        if most > 0:
            await asyncio.sleep(self._random.uniform(least, most))


def _reason(answer: Answer, hint: str) -> str:
    """Return a text for people that says why a request was refused; empty if it was not."""
    if answer.status < 400 or not isinstance(answer.body, dict):
        return ""
    errors = "; ".join(f"{error['message']} (code {error['code']})" for error in answer.body["errors"])
    return f"{errors} {hint}".rstrip()


def _check_access(account: StoredAccount, family: str) -> None:
    if not account.legacy_access and not family.startswith("media"):
        problem = "You currently have access to a subset of X API V2 endpoints and limited v1.1 endpoints only."
        raise Refusal(403, 453, problem)
    is_about_messages = family.startswith(("direct_messages.", "welcome_message"))
    if is_about_messages and account.permission != "read-write-directmessages":
        raise Refusal(403, 93, "This application is not allowed to access or delete your direct messages.")
