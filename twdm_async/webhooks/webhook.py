"""A webhook: what comes is checked, kept, answered, and then handled.

X wants an answer within seconds, and sends what was not answered only a few times more. So an event is answered when it
is on the disk, and handled afterwards, by whom and for as long as it takes; what was not handled when the process ended
is handled by the next one.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Self, TypeVar
from urllib.parse import parse_qs

from aiohttp import web
from attrs import frozen

from twdm_async._numbers import checked_count
from twdm_async.client import Client
from twdm_async.credentials import Credentials
from twdm_async.errors import InboxFailed, InvalidInput, TwdmError
from twdm_async.resources.inbox import Inbox, Received, checked_inbox
from twdm_async.webhooks.events import Event, MessageEvent, read_events, read_with_content
from twdm_async.webhooks.signature import crc_response, is_signed

T = TypeVar("T")

Handler = Callable[[Event], Awaitable[None] | None]

SIGNATURE_HEADER: Final = "x-twitter-webhooks-signature"
_LARGEST_BODY: Final = 1024 * 1024  # bytes
_MOST_DEATHS: Final = 3
_PAUSE: Final = 5.0  # seconds before an inbox that failed is asked again
_TAKE_OVER_EVERY: Final = 30.0  # seconds

_log = logging.getLogger(__name__)


@frozen
class WebhookReply:
    """What to answer.

    Args:
        status: the HTTP status.
        body: what goes with it.
        content_type: of `body`.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


class Webhook:
    """Receives the events of one app's accounts. Use it as ``async with Webhook(...) as webhook``, around whatever
    serves HTTP.

    Events of one person are handled one after the other, in the order in which they came; those of different people at
    the same time. Each event is handled once, however often it is sent; with a file as the inbox, also over restarts.

    If `handle` raises, that is logged, and the event is done: to call it again could send a message twice. If the
    process ends while an event is handled, the next one handles it again (unless processes have died of it three
    times). So what must be sent just once for an event goes into an outbox, with the event's key.

    Args:
        credentials: of the app; the consumer secret is what X signs with.
        handle: is called for each event but the account's own messages, and awaited if it is a coroutine function.
        inbox: remembers events; if not given, all is forgotten when the process ends. It is yours to close.
        clients: of the accounts, with tokens that begin with the account's user id, as X' do. They learn of every
            message: replies to people who wrote may be free, and the account's own messages are proof of delivery.
        with_echoes: whether `handle` gets the account's own messages, too.
        at_once: how many events are handled at the same time.
        largest_body: bytes that a webhook may have.

    Raises:
        InvalidInput: something of this is not what it should be.
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
    ) -> None:
        if not isinstance(credentials, Credentials):
            raise InvalidInput(parameter="credentials", problem="must be Credentials")
        if not callable(handle):
            raise InvalidInput(parameter="handle", problem="must be a function that is called with an event")
        for name, value in {"at_once": at_once, "largest_body": largest_body}.items():
            checked_count(value, name)
        if not isinstance(clients, (list, tuple)) or not all(isinstance(client, Client) for client in clients):
            raise InvalidInput(parameter="clients", problem="must be a list of Client")
        self._credentials = credentials
        self._handle = handle
        self._inbox = checked_inbox(inbox) or Inbox()
        self._owns_inbox = inbox is None
        self._clients = tuple(clients)
        self._with_echoes = with_echoes
        self._places = asyncio.Semaphore(at_once)
        self._largest_body = largest_body
        self._waiting: dict[tuple[str, str], deque[tuple[Event, Received]]] = {}  # for each person, in order
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False

    async def receive(self, method: str, query: str, headers: Mapping[str, str], body: bytes) -> WebhookReply:
        """Take in one request, from whatever serves HTTP. It never raises for what is sent. What else X tells, of posts
        or followers say, is answered with 200 and left out.

        Args:
            method: ``GET`` for a check, ``POST`` for events.
            query: the raw query, without ``?``.
            headers: by name, in any case.
            body: the raw bytes.

        Returns:
            What to answer: 200; 400 for what cannot be read; 403 if the signature is wrong; 405 for another method; 413
            for a body that is too large; 503 if the events could not be kept, so that they are sent again.

        Raises:
            InvalidInput: `body` is not bytes.
        """
        if not isinstance(body, bytes):
            raise InvalidInput(parameter="body", problem="must be the raw bytes, since they are what is signed")
        if method == "GET":
            return self._check(query)
        if method != "POST":
            return WebhookReply(405)
        if len(body) > self._largest_body:
            return WebhookReply(413)
        signature = next((value for name, value in headers.items() if name.lower() == SIGNATURE_HEADER), None)
        if not is_signed(self._credentials.consumer_secret, body, signature):
            return WebhookReply(403)
        try:
            events = read_with_content(body)
        except InvalidInput:
            return WebhookReply(400)
        taking_in = asyncio.create_task(self._take_in(events), name="twdm_async webhook")
        self._tasks.add(taking_in)
        taking_in.add_done_callback(self._ended)
        try:
            await asyncio.shield(taking_in)  # who hangs up does not stop it halfway
        except InboxFailed as error:
            _log.error("webhook: %s", error)
            return WebhookReply(503)
        return WebhookReply(200)

    async def serve(self, request: web.Request) -> web.Response:
        """The same, as a handler of ``aiohttp.web``: ``app.router.add_route("*", "/webhook", webhook.serve)``."""
        if request.content_length is not None and request.content_length > self._largest_body:
            reply = WebhookReply(413)
        else:
            body = bytearray()
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > self._largest_body:
                    break
            reply = await self.receive(request.method, request.rel_url.raw_query_string, request.headers, bytes(body))
        return web.Response(status=reply.status, body=reply.body, content_type=reply.content_type)

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        """This webhook's life within that of an ``aiohttp.web`` application:
        ``app.cleanup_ctx.append(webhook.lifespan)`` takes the place of ``async with webhook``.
        """
        async with self:
            yield

    async def settled(self) -> None:
        """Wait until everything that was received so far is handled."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, timeout: float = 5.0) -> None:
        """Take in nothing any more.

        Args:
            timeout: seconds to wait for what is being handled. What is not handled by then is for the next process.
        """
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._owns_inbox:
            await self._inbox.close()

    async def __aenter__(self) -> Self:
        await self._take_over()
        self._keeper = asyncio.create_task(self._take_over_often(), name="twdm_async webhook")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _take_over(self) -> None:
        """Handle what processes left that have ended."""
        for received in await self._inbox.take_over():
            for event in read_events(received.body or "{}"):
                self._put(event, received)

    async def _take_over_often(self) -> None:
        while True:
            await asyncio.sleep(_TAKE_OVER_EVERY)
            try:
                await self._take_over()
            except InboxFailed as error:
                _log.error("webhook: %s", error)

    def _check(self, query: str) -> WebhookReply:
        try:
            tokens = parse_qs(query, max_num_fields=10).get("crc_token", [])
            answer = crc_response(self._credentials.consumer_secret, tokens[0] if len(tokens) == 1 else "")
        except (InvalidInput, ValueError):
            return WebhookReply(400)
        return WebhookReply(200, json.dumps(answer).encode(), "application/json")

    async def _take_in(self, events: Sequence[tuple[Event, str]]) -> None:
        """Keep what is new, and have it handled."""
        if self._is_closed:
            raise InboxFailed(path="(closed)", problem="the webhook is closed")
        by_key = {(event.for_user_id, event.key): (event, content) for event, content in events}
        kept = [Received(account, key, content) for (account, key), (_, content) in by_key.items()]
        new = await self._inbox.keep(kept) if kept else []
        for received in new:
            event, _ = by_key[received.account, received.id]
            self._put(event, received)

    def _put(self, event: Event, received: Received) -> None:
        if isinstance(event, MessageEvent):
            for client in self._clients:
                if client.credentials.user_id == event.for_user_id:
                    try:
                        client.direct_messages.note_event(event.message)
                    except TwdmError as error:  # that is no reason not to handle it
                        _log.warning("webhook: a client could not be told of a message: %s", error)
        person = (event.for_user_id, event.person_id)
        line = self._waiting.get(person)
        if line is not None:
            line.append((event, received))
            return
        line = self._waiting[person] = deque([(event, received)])
        task = asyncio.create_task(self._work(person, line), name="twdm_async webhook")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it; perhaps nobody did

    async def _work(self, person: tuple[str, str], line: deque[tuple[Event, Received]]) -> None:
        """Handle what one person does, until nothing is left."""
        try:
            while line and not self._is_closed:
                event, received = line[0]
                async with self._places:
                    if self._is_wanted(event):
                        await self._handle_once(event, received)
                await self._surely(partial(self._inbox.done, received))
                line.popleft()
        finally:
            self._waiting.pop(person, None)

    def _is_wanted(self, event: Event) -> bool:
        return self._with_echoes or not (isinstance(event, MessageEvent) and event.is_echo)

    async def _handle_once(self, event: Event, received: Received) -> None:
        deaths = await self._surely(partial(self._inbox.begin, received))
        if deaths >= _MOST_DEATHS:
            _log.error("webhook: event %s is given up: %d processes ended while they handled it", event.key, deaths)
            return
        try:
            handling = self._handle(event)
            if inspect.isawaitable(handling):
                await handling
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # it is closed; that is not the event's fault
                await self._inbox.not_begun(received)
                raise
            _log.exception("webhook: the handler cancelled itself")
        except Exception:  # noqa: BLE001 - whatever it is, the others are to be handled
            _log.exception("webhook: the handler failed")

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the inbox answers, as soon as it can."""
        while True:
            try:
                return await ask()
            except InboxFailed as error:
                _log.error("webhook: %s", error)
                await asyncio.sleep(_PAUSE)
