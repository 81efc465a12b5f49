"""A webhook checks each request's signature, writes its events to the disk, answers, and then handles the events.

X expects an answer within three seconds, and repeats an unanswered request only a few times. So a request is answered
as soon as its events are on the disk, and a handler may take its time; events that are not handled when the process
ends are handled by the next one.

Nothing that X has signed is dropped in silence. An event whose handler fails is set aside with the error, for
:meth:`Inbox.failed <twdm_async.Inbox.failed>` and :meth:`Inbox.retry <twdm_async.Inbox.retry>`. An event about messages
that cannot be read is set aside, too (:meth:`Inbox.unread <twdm_async.Inbox.unread>`), and logged by the names of its
fields. A refused request is logged with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import inspect
import json
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import parse_qs

from aiohttp import web
from attrs import Factory, field, frozen

from twdm_async._log import quiet_logger
from twdm_async._numbers import checked_count, checked_seconds
from twdm_async._quiet import mistake
from twdm_async.client import Client
from twdm_async.credentials import Credentials
from twdm_async.errors import InboxFailed, InvalidInput, TwdmError
from twdm_async.resources.inbox import Inbox, Received, checked_inbox
from twdm_async.webhooks.events import Delivery, Event, MessageEvent, Unread, parse_delivery
from twdm_async.webhooks.signature import crc_response, is_signed

if TYPE_CHECKING:
    from datetime import datetime

    from twdm_async._clock import Clock

T = TypeVar("T")

Handler = Callable[[Event], Awaitable[None] | None]

SIGNATURE_HEADER: Final = "x-twitter-webhooks-signature"
_LARGEST_BODY: Final = 1024 * 1024  # bytes
_MOST_DEATHS: Final = 3
_PAUSE: Final = 5.0  # seconds before an inbox that failed is asked again
_TAKE_OVER_EVERY: Final = 30.0  # seconds
SILENCE: Final = 93_600.0
"""Seconds, 26 hours: X checks a webhook at least once a day."""
_SLOWEST_BODY: Final = 5.0  # seconds in which a body must have come
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0  # seconds before a handler is called again
_LONGEST_CANCEL: Final = 1.0  # seconds that a cancelled handler gets to end, at least
_LONGEST_PROBLEM: Final = 500  # characters
_NOTE_EVERY: Final = 60.0  # seconds between two records that X was heard of, if there is nothing else to write

_log = quiet_logger(__name__)

failure_observers: list[Callable[[str], object]] = []
"""Functions that are called for each event that is set aside because its handler failed: for tests."""


@frozen
class WebhookReply:
    """The HTTP response to send.

    Args:
        status: the HTTP status.
        body: the response's body.
        content_type: of `body`.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


class Webhook:
    """Receives the events of one app's accounts. Use it as ``async with Webhook(...) as webhook``, around whatever
    serves HTTP.

    One person's events are handled one after the other, in the order in which they arrived; different people's events
    are handled at the same time. Each event is handled once, however often X sends it; with a file as the inbox, also
    across restarts.

    If `handle` raises, the error is logged and the event is set aside, since a second call could send a message twice.
    If the process ends while it handles an event, the next process handles the event again; after three such deaths the
    event is set aside. So if an event must cause exactly one message, put that message into an outbox under the event's
    key; then `retries` do no harm either.

    Args:
        credentials: of the app; X signs with the consumer secret.
        handle: called for each event except the account's own messages. A coroutine function is awaited. A plain
            function runs in a thread, where it may block and where there is no event loop; it cannot be cancelled, so
            an event that it still handles when the webhook is closed is set aside.
        inbox: remembers events; if not given, they are forgotten when the process ends. The caller closes it.
        clients: of the accounts, with access tokens that begin with the account's user id, as X issues them. They are
            told of every message: a reply to a person who wrote may be free, and the account's own messages prove
            that they were delivered.
        with_echoes: whether `handle` is called for the account's own messages, too.
        at_once: how many events are handled at the same time.
        largest_body: the largest request body in bytes. Reading a megabyte takes up to half a second of the event loop.
        retries: how many times `handle` is called again for an event if it raises, after 1, 2, 4 and more seconds, at
            most 60. The person's other events wait meanwhile.
        silent_after: seconds without events and checks after which a warning is logged, since X removes webhooks
            without notice. X checks a webhook at least once a day. ``None`` for no warning.

    Raises:
        InvalidInput: an argument has a wrong type or is out of its range.
    """

    def __init__(
        self,
        credentials: Credentials,
        handle: Handler,
        *,
        inbox: Inbox | None = None,
        clients: Sequence[Client] = (),
        with_echoes: bool = False,
        at_once: int = 100,
        largest_body: int = _LARGEST_BODY,
        retries: int = 0,
        silent_after: float | None = SILENCE,
    ) -> None:
        if not isinstance(credentials, Credentials):
            raise InvalidInput(parameter="credentials", problem="must be Credentials")
        if not callable(handle):
            raise InvalidInput(parameter="handle", problem="must be a function that is called with an event")
        for name, value in {"at_once": at_once, "largest_body": largest_body}.items():
            checked_count(value, name)
        if retries != 0:
            checked_count(retries, "retries")
        if silent_after is not None:
            checked_seconds(silent_after, "silent_after")
        if not isinstance(clients, (list, tuple)) or not all(isinstance(client, Client) for client in clients):
            raise InvalidInput(parameter="clients", problem="must be a list of Client")
        self._credentials = credentials
        self._handle = handle
        self._inbox = checked_inbox(inbox) or Inbox()
        self._owns_inbox = inbox is None
        self._clients = tuple(clients)
        self._accounts = {one.credentials.user_id for one in clients if one.credentials.user_id}  # as far as known
        self._with_echoes = with_echoes
        self._places = asyncio.Semaphore(at_once)
        self._largest_body = largest_body
        self._retries = int(retries)
        self._silence = _Silence(silent_after, self._inbox.clock)
        self._threads = None if _is_coroutine_function(handle) else ThreadPoolExecutor(at_once, "twdm_async handler")
        self._named: set[str] = set()  # types of encrypted events that were logged already
        self._waiting: dict[tuple[str, str], deque[tuple[Event, Received]]] = {}  # for each person, in order
        self._in_hand: dict[tuple[str, str], Received] = {}  # events that wait to be handled, or are being handled
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether the webhook is open: ``async with`` and ``lifespan`` open and close it."""
        return self._keeper is not None and not self._is_closed

    async def receive(self, method: str, query: str, headers: Mapping[str, str], body: bytes) -> WebhookReply:
        """Receive one request from any HTTP server. No request makes it raise. Events about other things than messages,
        such as posts or followers, are answered with 200 and ignored.

        Args:
            method: ``GET`` for a check, ``POST`` for events.
            query: the raw query string, without ``?``.
            headers: values by name, in any case.
            body: the raw bytes.

        Returns:
            The response to send: 200; 400 if the body is not a JSON object, or the check's query is wrong; 403 if the
            signature is wrong; 405 for another method; 413 if the body is too large; 503 if the events could not be
            written to the disk, so that X sends them again.

        Raises:
            InvalidInput: `body` is not bytes.
        """
        if not isinstance(body, bytes):
            raise InvalidInput(parameter="body", problem="must be the raw bytes, since they are what is signed")
        signature = next((value for name, value in headers.items() if name.lower() == SIGNATURE_HEADER), None)
        if method == "GET":
            return await self._check(query, signature)
        if method != "POST":
            return _refused(405, "its method is neither GET nor POST")
        if len(body) > self._largest_body:
            return _refused(413, f"it has more than {self._largest_body} bytes")
        if not is_signed(self._credentials.consumer_secret, body, signature):
            problem = "it has no signature" if signature is None else "its signature is wrong"
            return _refused(403, f"{problem}; only X, which knows the consumer secret, can sign")
        try:
            delivery = parse_delivery(body)
        except InvalidInput:
            return _refused(400, "it is signed, but not a JSON object")
        self._log_delivery(delivery)
        heard = ["delivery"] if delivery.encrypted is None else ["delivery", delivery.encrypted]
        taking_in = self._start(self._take_in(delivery, heard))
        try:
            await asyncio.shield(taking_in)  # a client that hangs up must not stop it halfway
        except InboxFailed as error:
            _log.error("webhook: %s", error)
            return WebhookReply(503)
        except asyncio.CancelledError:
            if not taking_in.cancelled():
                raise
            return WebhookReply(503)  # the webhook was closed meanwhile
        return WebhookReply(200)

    async def serve(self, request: web.Request) -> web.Response:
        """Receive one request from ``aiohttp.web``: ``app.router.add_route("*", "/webhook", webhook.serve)``."""
        if request.content_length is not None and request.content_length > self._largest_body:
            reply = _refused(413, f"it has more than {self._largest_body} bytes")
        else:
            body = bytearray()
            try:
                async with asyncio.timeout(_SLOWEST_BODY):
                    while request.method != "GET" and (piece := await request.content.readany()):
                        body += piece
                        if len(body) > self._largest_body:
                            break
            except ConnectionError:
                reply = _refused(400, "its connection broke")
            except TimeoutError:
                reply = _refused(408, f"its body had not come after {_SLOWEST_BODY:g} s")
            else:
                query = request.rel_url.raw_query_string
                reply = await self.receive(request.method, query, request.headers, bytes(body))
        response = web.Response(status=reply.status, body=reply.body, content_type=reply.content_type)
        if reply.status in {400, 408, 413}:
            response.force_close()
        return response

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        """Open and close the webhook with an ``aiohttp.web`` application: ``app.cleanup_ctx.append(webhook.lifespan)``
        replaces ``async with webhook``.
        """
        async with self:
            yield

    async def settled(self) -> None:
        """Wait until all events received so far are handled."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, timeout: float = 5.0) -> None:
        """Stop receiving events.

        Args:
            timeout: seconds to wait for handlers that are running. The next process handles what is not handled by
                then.
        """
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(timeout, _LONGEST_CANCEL))  # a handler may resist
        if self._in_hand:
            with contextlib.suppress(InboxFailed):
                await self._inbox.give_back([*self._in_hand.values()])
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._owns_inbox:
            await self._inbox.close()

    async def __aenter__(self) -> Self:
        await self._take_over()
        self._keeper = asyncio.create_task(self._look_around(), name="twdm_async webhook")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _take_over(self) -> None:
        """Handle the events that no running process handles: those whose process has ended, and those to retry."""
        odd: list[tuple[Received, Delivery]] = []
        for received in await self._inbox.take_over(self._credentials.app, tuple(self._accounts)):
            delivery = _read_again(received)
            if [event.key for event, _ in delivery.events] == [received.id]:
                self._put(delivery.events[0][0], received)
            else:
                odd.append((received, delivery))
        for received, delivery in odd:
            self._start(self._surely(partial(self._sort_out, received, delivery)))

    async def _sort_out(self, received: Received, delivery: Delivery) -> None:
        """Handle an event that could not be read when it came, if this version can read it; else set it aside again."""
        await self._take_in(delivery)
        if delivery.events and received.id not in {_kept_unread(unread).id for unread in delivery.unread}:
            await self._inbox.done(received)
            return
        _log.error("webhook: event %s was kept, and cannot be read; inbox.unread() shows it", received.id)
        await self._inbox.set_aside(received, "it cannot be read", is_unread=True)

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(_TAKE_OVER_EVERY)
            try:
                await self._take_over()
                self._silence.look(await self._inbox.heard(self._credentials.app))
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                _log.error("webhook: %s", mistake(error))

    async def _check(self, query: str, signature: str | None) -> WebhookReply:
        try:
            tokens = parse_qs(query.replace("+", "%2B"), max_num_fields=10).get("crc_token", [])  # base64 has a plus
            answer = crc_response(self._credentials.consumer_secret, tokens[0] if len(tokens) == 1 else "")
        except (InvalidInput, ValueError):
            return _refused(400, "a check needs exactly one valid crc_token")
        if is_signed(self._credentials.consumer_secret, query.encode(), signature):
            self._note("check")
        return WebhookReply(200, json.dumps(answer).encode(), "application/json")

    def _note(self, kind: str) -> None:
        """Record that X was heard of without waiting for the disk: a check must be answered in time."""
        if not self._is_closed and self._silence.is_due(kind):  # if this fails, the next check is recorded
            self._start(self._inbox.keep((), app=self._credentials.app, heard=(kind,)))

    def _log_delivery(self, delivery: Delivery) -> None:
        for unread in delivery.unread:
            _log.warning("webhook: signed, about messages, and not understood; it is kept: %s", unread.shape)
        if delivery.unknown is not None:
            _log.warning("webhook: signed, but not understood: %s", delivery.unknown)
        if delivery.encrypted is not None and delivery.encrypted not in self._named:
            self._named.add(delivery.encrypted)
            _log.warning(
                "webhook: X tells of %s: an encrypted conversation, which this API cannot read", delivery.encrypted
            )

    async def _take_in(self, delivery: Delivery, heard: Sequence[str] = ()) -> None:
        """Write the new events to the disk and start handling them."""
        if self._is_closed:
            raise InboxFailed(path="(closed)", problem="the webhook is closed")
        by_key: dict[tuple[str, str], tuple[Event, str]] = {}
        for event, content in delivery.events:
            self._accounts.add(event.for_user_id)
            if self._is_wanted(event):
                by_key[event.for_user_id, event.key] = event, content
            else:
                self._note_message(event)  # it is not kept, so that a poll that wants it can hand it out
        kept = [Received(account, key, content) for (account, key), (_, content) in by_key.items()]
        kept += map(_kept_unread, delivery.unread)
        due = [kind for kind in heard if self._silence.is_due(kind)]
        new = await self._keep(kept, heard) if kept or due else []
        for received in new:
            if received.unread is None:
                event, _ = by_key[received.account, received.id]
                self._put(event, received)

    async def _keep(self, received: Sequence[Received], heard: Sequence[str]) -> list[Received]:
        """Write events to the disk, return the new ones. If the webhook is closed meanwhile, `close` releases them."""
        entering = [one for one in received if one.unread is None and (one.account, one.id) not in self._in_hand]
        self._in_hand |= {(one.account, one.id): one for one in entering}
        new: list[Received] = []
        try:
            new = await self._inbox.keep(received, app=self._credentials.app, heard=heard)
        finally:
            if not self._is_closed:
                fresh = {(one.account, one.id) for one in new}
                for one in entering:
                    if (one.account, one.id) not in fresh:
                        self._in_hand.pop((one.account, one.id), None)
        return new

    def _note_message(self, event: Event) -> None:
        """Tell the clients of a message."""
        for client in self._clients:
            if isinstance(event, MessageEvent) and client.credentials.user_id == event.for_user_id:
                try:
                    client.direct_messages.note_event(event.message)
                except TwdmError as error:  # the event is handled all the same
                    _log.warning("webhook: a client could not be told of a message: %s", error)

    def _put(self, event: Event, received: Received) -> None:
        self._note_message(event)
        self._in_hand[received.account, received.id] = received
        person = (event.for_user_id, event.person_id)
        line = self._waiting.get(person)
        if line is not None:
            line.append((event, received))
            return
        line = self._waiting[person] = deque([(event, received)])
        self._start(self._work(person, line))

    def _start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work, name="twdm_async webhook")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it: a caller may have it already

    async def _work(self, person: tuple[str, str], line: deque[tuple[Event, Received]]) -> None:
        """Handle one person's events, one after the other, until none is left."""
        try:
            while line and not self._is_closed:
                event, received = line[0]
                try:
                    failure = await self._handle_surely(event, received) if self._is_wanted(event) else None
                except _TakenOver:
                    _log.warning("webhook: event %s is left to another process, which has taken it over", event.key)
                else:
                    await self._end(event, received, failure)
                self._in_hand.pop((received.account, received.id), None)
                line.popleft()
        finally:
            self._waiting.pop(person, None)

    async def _end(self, event: Event, received: Received, failure: _Failure | None) -> None:
        """Record that an event was handled, or set it aside."""
        if failure is None:
            await self._surely(partial(self._inbox.done, received))
            return
        for observer in failure_observers:
            observer(f"the handler of event {event.key} failed: {failure.shown}")
        await self._surely(partial(self._inbox.set_aside, received, failure.problem))
        _log.error("webhook: event %s is set aside; inbox.retry() lets it be handled", received.id)

    def _is_wanted(self, event: Event) -> bool:
        return self._with_echoes or not (isinstance(event, MessageEvent) and event.is_echo)

    async def _handle_surely(self, event: Event, received: Received) -> _Failure | None:
        """Handle an event, with retries. Return why it could not be handled, or ``None``.

        Raises:
            _TakenOver: another process handles it, or has handled it.
        """
        retries = 0
        while True:
            async with self._places:
                deaths = await self._surely(partial(self._inbox.begin, received))
                if deaths is None:
                    raise _TakenOver
                if deaths >= _MOST_DEATHS:
                    _log.error("webhook: event %s: %d processes ended while they handled it", event.key, deaths)
                    return _Failure(f"{deaths} processes ended while they handled it")
                try:
                    failure = await self._handle_once(event)
                except _StillRunning:
                    return _Failure("it was still being handled, in a thread, when the webhook was closed")
                except asyncio.CancelledError:  # the webhook is closed, which is not the event's fault
                    await self._inbox.not_begun(received)
                    raise
            if failure is None or retries == self._retries:
                return failure
            await self._surely(partial(self._inbox.not_begun, received))
            await asyncio.sleep(min(_FIRST_RETRY * 2**retries, _LONGEST_RETRY))
            retries += 1

    async def _handle_once(self, event: Event) -> _Failure | None:
        """Call the handler. Return what it raised, or ``None``."""
        try:
            handling = self._handle(event) if self._threads is None else await self._in_thread(event)
            if inspect.isawaitable(handling):
                await handling
        except (_StillRunning, KeyboardInterrupt, SystemExit):
            raise
        except asyncio.CancelledError:
            if self._is_closed:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            _log.error("webhook: the handler of event %s cancelled itself", event.key)
            return _Failure("the handler cancelled itself")
        except BaseException as error:  # noqa: BLE001 - the other events must be handled
            # Our own errors say why. Another error's words may quote a message's text, so they are not logged.
            why = f": {error}" if isinstance(error, TwdmError) else ""
            frames = "".join(traceback.format_tb(error.__traceback__))
            shown = f"{type(error).__name__}{why}\n{frames}"
            _log.error("webhook: the handler of event %s failed: %s", event.key, shown)
            return _Failure(_words_of(error), shown)
        return None

    async def _in_thread(self, event: Event) -> Awaitable[None] | None:
        """Call the handler in a thread.

        Raises:
            _StillRunning: the webhook was closed while the handler ran; a thread cannot be cancelled.
        """
        context, loop = contextvars.copy_context(), asyncio.get_running_loop()

        def call() -> tuple[Awaitable[None] | None, BaseException | None]:
            try:
                return context.run(self._handle, event), None
            except BaseException as error:  # noqa: BLE001 - a future cannot hold every BaseException
                return None, error

        assert self._threads is not None  # noqa: S101 - only called for plain functions
        job = self._threads.submit(call)
        try:
            handling, error = await asyncio.wrap_future(job, loop=loop)
        except asyncio.CancelledError:
            if not job.cancel() and not job.cancelled():
                raise _StillRunning from None
            raise
        if error is not None:
            raise error
        return handling

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an inbox operation; repeat the operation until the inbox works."""
        while True:
            try:
                return await ask()
            except InboxFailed as error:
                _log.error("webhook: %s", error)
                await asyncio.sleep(_PAUSE)


@frozen
class _Failure:
    """Why an event could not be handled.

    Args:
        problem: the reason that is kept with the event.
        shown: the reason that may be logged, without the error's words.
    """

    problem: str
    shown: str = field(default=Factory(lambda self: self.problem, takes_self=True))


class _TakenOver(Exception):
    """This process no longer holds the event; another one has taken it over."""


class _StillRunning(Exception):
    """The handler is still running in its thread."""


class _Silence:
    """Notices when X has sent nothing for a long time.

    Args:
        seconds: how long without traffic until a warning is logged; ``None`` for never.
        clock: the source of time.
    """

    def __init__(self, seconds: float | None, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._began = clock.wall()
        self._noted: dict[str, float] = {}  # when each kind was last recorded
        self._is_said = False

    def is_due(self, kind: str) -> bool:
        """Return whether it is time to record that X was heard of; if so, count it as recorded."""
        now = self._clock.monotonic()
        if now - self._noted.get(kind, -_NOTE_EVERY) < _NOTE_EVERY:
            return False
        self._noted[kind] = now
        return True

    def look(self, heard: Mapping[str, datetime]) -> None:
        """Log a warning, once, if X has been silent for too long."""
        silence = self._clock.wall() - max((at.timestamp() for at in heard.values()), default=self._began)
        is_silent = self._seconds is not None and silence > self._seconds
        if is_silent and not self._is_said:
            _log.warning(
                "webhook: nothing has come for %.1f hours, not even a check; X may have dropped it: check that it is "
                "registered; poll() on the same inbox misses nothing",
                silence / 3600,
            )
        self._is_said = is_silent


def _words_of(error: BaseException) -> str:
    """Return an error's class and words, cut and cleaned so that any file can hold them."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - whose __str__ fails, too: only the name is known
        words = "(it cannot be shown)"
    return f"{type(error).__name__}: {words}"[:_LONGEST_PROBLEM].encode("utf-8", "replace").decode()


def _refused(status: int, problem: str) -> WebhookReply:
    _log.warning("webhook: a request is refused with %d: %s", status, problem)
    return WebhookReply(status)


def _kept_unread(unread: Unread) -> Received:
    name = hashlib.sha256(unread.content.encode()).hexdigest()[:16]
    return Received(unread.account, f"unread {name}", unread.content, unread.shape)


def _read_again(received: Received) -> Delivery:
    try:
        return parse_delivery(received.body or "{}")
    except InvalidInput:
        return Delivery()


def _is_coroutine_function(handle: Handler) -> bool:
    return inspect.iscoroutinefunction(handle) or inspect.iscoroutinefunction(type(handle).__call__)
