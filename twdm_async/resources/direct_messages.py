"""Direct messages (pages *Send a Direct Message with custom profile*, *List messages*, *Typing indicator*, *Read
receipt*).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, field, frozen

from twdm_async._numbers import checked_count
from twdm_async._quiet import quiet
from twdm_async.errors import InvalidInput
from twdm_async.models.attachments import MessageMedia
from twdm_async.models.checks import checked_id, checked_length, is_id
from twdm_async.models.custom_profiles import checked_profile_id
from twdm_async.models.direct_messages import DirectMessage, DirectMessagePage
from twdm_async.quota.lanes import Lane
from twdm_async.quota.operations import Slot
from twdm_async.resources.listing import Listing
from twdm_async.transport.wire import Message, encode_json

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
    from datetime import datetime

    from twdm_async.credentials import Credentials
    from twdm_async.errors import DeliveryUnknown
    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput
    from twdm_async.quota.spec import Priority
    from twdm_async.resources.inbox import Inbox
    from twdm_async.resources.message_data import Attachable
    from twdm_async.resources.reconcile import Reconciled, Reconciler
    from twdm_async.resources.send_many import Draft, SendOutcome
    from twdm_async.transport.call import Caller, Journal

_SEND: Final = "direct_messages.send"
_LONGEST_TEXT: Final = 10_000
_MOST_AT_ONCE: Final = 10_000
_LARGEST_FILE: Final = 512 * 1024 * 1024  # bytes: no film may be larger


@frozen
class Outgoing:
    """A message that was checked and can be sent.

    Args:
        message: what is known of it.
        data: its ``message_data`` object, as the API wants it; ``None`` if it has a text and nothing else.
    """

    message: Message
    data: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    @property
    def create(self) -> dict[str, Any]:
        """Its ``message_create`` object, as the API wants it."""
        message = self.message
        data = {"text": message.text} if self.data is None else self.data
        create: dict[str, Any] = {"target": {"recipient_id": message.recipient_id}, "message_data": data}
        if message.custom_profile_id is not None:
            create["custom_profile_id"] = message.custom_profile_id
        return create

    def body(self) -> bytes:
        """The body of the request that sends it."""
        message = self.message
        data = f'{{"text":{encode_json(message.text or "")}}}' if self.data is None else encode_json(self.data)
        profile = "" if message.custom_profile_id is None else f',"custom_profile_id":"{message.custom_profile_id}"'
        create = f'{{"target":{{"recipient_id":"{message.recipient_id}"}},"message_data":{data}{profile}}}'
        return f'{{"event":{{"type":"message_create","message_create":{create}}}}}'.encode()


def outgoing(
    recipient_id: str | int,
    text: str | None = None,
    *,
    custom_profile_id: CustomProfile | str | int | None = None,
    quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
    ctas: Sequence[CallToAction] | None = None,
    attachment: Attachable | None = None,
) -> Outgoing:
    """The message that these arguments of :meth:`DirectMessages.send` stand for.

    Raises:
        InvalidInput: something is wrong with them.
    """
    recipient_id = _plain(checked_id(recipient_id, "recipient_id"))
    if custom_profile_id is not None:
        custom_profile_id = _plain(checked_profile_id(custom_profile_id, "custom_profile_id"))
    data, content = None, ""
    if text is None or quick_replies is not None or ctas is not None or attachment is not None:
        from twdm_async.resources.message_data import message_data  # noqa: PLC0415 - paid for by who needs it

        data = message_data(text, limit=_LONGEST_TEXT, quick_replies=quick_replies, ctas=ctas, attachment=attachment)
        content = _content(data)
    else:
        checked_length(text, "text", _LONGEST_TEXT)
    return Outgoing(Message(recipient_id, custom_profile_id, text, content), data)


def _plain(number: str) -> str:
    """An id as the API tells it, without leading zeros, so that the message can be found by it."""
    return number.lstrip("0") or "0"


def _content(data: Mapping[str, Any]) -> str:
    """What hangs on a message, as a text that can be compared."""
    hangs_on_it = {name: value for name, value in data.items() if name != "text"}
    return json.dumps(hangs_on_it, sort_keys=True) if hangs_on_it else ""


def from_create(create: Mapping[str, Any]) -> Outgoing:
    """Return the message that has this ``message_create`` object."""
    data = create["message_data"]
    message = Message(
        create["target"]["recipient_id"], create.get("custom_profile_id"), data.get("text"), _content(data)
    )
    return Outgoing(message, data if message.content else None)


@lru_cache(maxsize=4096)
def _lane(key: str) -> Lane:
    return Lane(key)


async def send_message(
    caller: Caller,
    recipient_id: str | int,
    text: str | None,
    *,
    custom_profile_id: CustomProfile | str | int | None,
    quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None,
    ctas: Sequence[CallToAction] | None,
    attachment: Attachable | None,
    priority: Priority | None,
    max_wait: float | None,
    timeout: float | None,
    lane: str | Lane | None,
) -> DirectMessage:
    """Send one message. Arguments and errors are those of :meth:`DirectMessages.send`."""
    message = outgoing(
        recipient_id,
        text,
        custom_profile_id=custom_profile_id,
        quick_replies=quick_replies,
        ctas=ctas,
        attachment=attachment,
    )
    if lane is None:
        lane = _lane(message.message.custom_profile_id or "")
    elif not isinstance(lane, Lane):
        lane = Lane(lane)
    if priority is not None:
        lane = evolve(lane, priority=priority)
    # While it waits, there are two frames and one future of it. What it needs to leave is made afterwards.
    began = caller.clock.monotonic()
    entered = caller.enter(_SEND, lane, max_wait, message.message.recipient_id or "")
    if isinstance(entered, Slot):
        slot = entered
    else:
        try:
            slot = await entered
        except BaseException:
            caller.leave(entered)
            raise
    return await caller.call(
        _SEND,
        message.body(),
        DirectMessage,
        message=message.message,
        lane=lane,
        max_wait=max_wait,
        timeout=timeout,
        slot=slot,
        waited=caller.clock.monotonic() - began,
    )


class DirectMessages:
    """Calls on direct messages."""

    def __init__(
        self, caller: Caller, credentials: Credentials, timeout: float, origin: DirectMessages | None = None
    ) -> None:
        self._caller = caller
        self._credentials = credentials
        self._timeout = timeout
        self._origin = origin  # whose messages these are, too

    @cached_property
    def reconciler(self) -> Reconciler:
        """What finds out what became of messages."""
        if self._origin is not None:
            return self._origin.reconciler
        from twdm_async.resources.reconcile import Reconciler  # noqa: PLC0415 - paid for by who needs it

        return Reconciler(self._caller, self._credentials, self._caller.clock, self._timeout)

    @quiet
    def send(
        self,
        recipient_id: str | int,
        text: str | None = None,
        *,
        custom_profile_id: CustomProfile | str | int | None = None,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
        priority: Priority | None = None,
        max_wait: float | None = None,
        timeout: float | None = None,
        lane: str | Lane | None = None,
    ) -> Coroutine[Any, Any, DirectMessage]:
        """Send one message (page *Send a Direct Message with custom profile*: POST direct_messages/events/new).

        It waits for quota: 1000 in 24 hours for the account, 15 000 for the app; unless it is one of five replies to a
        message that the person is known to have sent in the last 24 hours. It is never sent twice by itself. Who
        is cancelled while it waits has sent nothing; who is cancelled later leaves the request to go on, and its
        outcome is told to the client's observers.

        Args:
            recipient_id: the person's user id.
            text: at most 10 000 characters; may be left out if there is an attachment.
            custom_profile_id: the custom profile it shows under, or its id; the account's own name and picture if not
                given.
            quick_replies: 1 to 20 answers to tap; or a :class:`TextInput` or :class:`LocationRequest`.
            ctas: 1 to 3 buttons.
            attachment: a file that was uploaded with a category such as ``"dm_image"``, or its media id; or a
                :class:`SharedCoordinate` or :class:`SharedPlace`.
            priority: which waiting calls go first; :attr:`Priority.INTERACTIVE` if not given.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.
            lane: the line to wait in, which shares fairly with the others; one for each profile if not given.

        Raises:
            InvalidInput: something is wrong with the arguments; nothing was sent or spent.
            QuotaWaitTooLong: it would wait longer than `max_wait`.
            DeliveryUnknown: it left, and no readable answer came; :meth:`reconcile` finds out what became of it.
            NotAllowlisted, RecipientUnreachable, LooksAutomated, ResponseError: the API refused it.
            ConnectFailed: no byte left the machine.
        """
        return send_message(
            self._caller,
            recipient_id,
            text,
            custom_profile_id=custom_profile_id,
            quick_replies=quick_replies,
            ctas=ctas,
            attachment=attachment,
            priority=priority,
            max_wait=max_wait,
            timeout=timeout,
            lane=lane,
        )

    async def send_many(self, drafts: Iterable[Draft], *, at_once: int = 64) -> AsyncGenerator[SendOutcome]:
        """Send any number of messages, each as :meth:`send` does, and yield what came of each as soon as it is known.

        A draft is taken from `drafts` when its turn comes, so memory is bounded whatever their number. Whoever leaves
        the loop early has sent what was under way, and nothing of what still waited; use ``contextlib.aclosing``, or
        exhaust the iterator, to know when that is over.

        Args:
            drafts: the messages; a generator will do.
            at_once: how many of them wait for quota, or are under way, at a time.

        What stops it is raised after the outcomes of all drafts that were taken, and no further one is taken. Those may
        still wait for quota then: give them a `max_wait`, if that is too long.

        Raises:
            InvalidInput: `at_once` is not a number from 1 to 10 000, or one of `drafts` is not a :class:`Draft`.
            Unauthorized, NotAllowlisted, ResponseError, QuotaStoreFailed, ClientClosed: every later message would fail
                for the same reason.
            Exception: whatever `drafts` raises.
        """
        checked_count(at_once, "at_once", 1, _MOST_AT_ONCE)
        from twdm_async.resources.send_many import Sending  # noqa: PLC0415 - as above

        sending = Sending(self.send, drafts, at_once)
        del drafts  # a traceback that shows what its frames hold is not to show a message
        async with contextlib.aclosing(sending.outcomes()) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def deliver(self, outgoing: Outgoing, *, lane: Lane, max_wait: float, journal: Journal) -> DirectMessage:
        """Send what was checked before, and write down how far it came. Errors are those of `send`."""
        return await self._caller.call(
            _SEND,
            outgoing.body(),
            DirectMessage,
            message=outgoing.message,
            lane=lane,
            max_wait=max_wait,
            journal=journal,
        )

    def list(self, *, max_wait: float | None = None, timeout: float | None = None) -> Listing[DirectMessage]:
        """Go through the messages of the last 30 days, sent and received, the newest first (page *GET
        direct_messages/events/list*; 15 pages of 50 in 15 minutes).

        A page may be empty and still not be the last. New messages appear in the list minutes late.

        Args:
            max_wait: seconds to wait for quota, for each page; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            ResponseError, ConnectFailed: the API refused the request, or could not be reached.
            MalformedResponse: a page is none, or the list goes in circles.
        """
        return Listing(
            self._caller, "direct_messages.list", DirectMessagePage, _with_apps, max_wait=max_wait, timeout=timeout
        )

    async def get(
        self, message_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> DirectMessage:
        """Look up a message of the last 30 days, sent or received (page *GET direct_messages/events/show*; 15 in 15
        minutes).

        Args:
            message_id: its id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: the id is none.
            NotFound: there is no such message, or it is too old.
            ResponseError, ConnectFailed, MalformedResponse: it could not be had.
        """
        arguments = {"id": checked_id(message_id, "message_id")}
        return await self._caller.call(
            "direct_messages.get", arguments, DirectMessage, max_wait=max_wait, timeout=timeout
        )

    async def delete(
        self, message_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> None:
        """Hide a message of the last 30 days from this account (page *DELETE direct_messages/events/destroy*). The
        other one goes on seeing it.

        Args:
            message_id: its id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: the id is none.
            NotFound: there is no such message, or none any more.
            ResponseError, ConnectFailed: it could not be done.
        """
        arguments = {"id": checked_id(message_id, "message_id")}
        await self._caller.call("direct_messages.delete", arguments, type(None), max_wait=max_wait, timeout=timeout)
        self._caller.sent.note_deleted(arguments["id"])

    async def indicate_typing(
        self, recipient_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> None:
        """Let a person see for three seconds that somebody is typing (page *POST direct_messages/indicate_typing*;
        1000 in 15 minutes).

        Args:
            recipient_id: the person's user id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: the id is none.
            ResponseError, ConnectFailed: it could not be done.
        """
        arguments = {"recipient_id": checked_id(recipient_id, "recipient_id")}
        await self._caller.call(
            "direct_messages.indicate_typing", arguments, type(None), max_wait=max_wait, timeout=timeout
        )

    async def mark_read(
        self,
        recipient_id: str | int,
        last_read_event_id: str | int,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """Let a person see that their messages were read (page *POST direct_messages/mark_read*; 1000 in 15 minutes).

        Args:
            recipient_id: the user id of the person who wrote.
            last_read_event_id: the id of the last message that was read; those before it are read, too.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: an id is none.
            ResponseError, ConnectFailed: it could not be done.
        """
        arguments = {
            "last_read_event_id": checked_id(last_read_event_id, "last_read_event_id"),
            "recipient_id": checked_id(recipient_id, "recipient_id"),
        }
        await self._caller.call("direct_messages.mark_read", arguments, type(None), max_wait=max_wait, timeout=timeout)

    async def poll(
        self, inbox: Inbox | None = None, *, every: float = 60.0, since: datetime | None = None, sent: bool = False
    ) -> AsyncIterator[DirectMessage]:
        """Go through messages as they come, without end and without webhooks (page *GET direct_messages/events/list*;
        15 reads in 15 minutes, which :meth:`list` and :meth:`reconcile` take from, too).

        Each message is handed out once, the oldest first. When the next one is asked for, it is known; with a file as
        the inbox, also after a restart, and what came meanwhile is handed out then. Who stops in the middle of one, by
        an exception, a ``break`` or a ``kill``, gets that one again, unless :meth:`Inbox.handled` was told. Reads that
        fail are logged and done again, if that can help.

        Args:
            inbox: what is known; if not given, all is forgotten when the process ends. One reader for each account.
            every: seconds between two reads.
            since: where to begin the first time, at most 30 days back; now, if not given.
            sent: whether messages are handed out, too, that the account itself sent, by whatever program.

        Raises:
            InvalidInput: one of the arguments is wrong.
            InboxFailed: what is known cannot be read or kept.
            ResponseError, MalformedResponse: the list cannot be had, and asking again would not help.
        """
        from twdm_async.resources.inbox import Inbox, checked_inbox  # noqa: PLC0415 - as above
        from twdm_async.resources.polling import Poll, checked_times  # noqa: PLC0415 - as above

        checked_times(every, since)
        known = checked_inbox(inbox) or Inbox()
        account = self._credentials.user_id
        if account is None:
            from twdm_async.models.users import User  # noqa: PLC0415 - as above

            account = (await self._caller.call("account.verify_credentials", {}, User)).id
        poll = Poll(
            account,
            known,
            lambda: self.list().pages(),
            lambda message: self.note_event(message, account),
            self._caller.server_time,
            self._caller.clock,
        )
        try:
            async with contextlib.aclosing(poll.messages(every, since, sent=sent)) as messages:
                async for message in messages:
                    yield message
        finally:
            if inbox is None:
                await known.close()

    def note_event(self, message: DirectMessage, account_id: str | None = None) -> None:
        """Take in that a message exists, however it became known. :meth:`poll` and webhooks do so by themselves.

        If a person sent it, replies to it may be free (:mod:`twdm_async.quota.credit`). If the account itself did, it
        proves to :meth:`reconcile` and to outboxes that it was delivered; and if it was not sent by this client, but by
        somebody in the app, say, it has used up one of the free replies.

        Args:
            message: with its id, its time and both who wrote it and who got it.
            account_id: the account's user id, if its token does not begin with it.

        Raises:
            InvalidInput: it is no message.
        """
        if not isinstance(message, DirectMessage):
            raise InvalidInput(parameter="message", problem="must be a DirectMessage")
        me = account_id or self._credentials.user_id
        sender, recipient, at = message.sender_id, message.recipient_id, message.created_at
        if me is None or message.id is None or at is None or sender is None or recipient is None:
            return
        if me not in {sender, recipient} or not (is_id(message.id) and is_id(sender) and is_id(recipient)):
            return
        self._caller.sent.note_listable(message.id, at)
        if sender == me:
            self.reconciler.hear(message)
            self._caller.note_outbound(recipient, message.id, at)
        else:
            self._caller.note_inbound(sender, at)

    async def download(
        self,
        media: MessageMedia | str,
        path: str | os.PathLike[str],
        *,
        most: int = _LARGEST_FILE,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """Save a file that hangs on a message (page *Message attachments*, *Downloading media*).

        It is written to another name first, so what is at `path` is always a whole file; for its owner alone. Of a
        film, the address is that of its first picture: the film itself is elsewhere (``video_info``), and X has not
        documented who may read it there.

        Args:
            media: the attachment of a message, or its address. It must be on ``ton.twitter.com`` or ``ton.x.com``:
                requests are signed for no other host.
            path: where it goes. What is there is replaced.
            most: bytes that it may have.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Returns:
            Its size in bytes.

        Raises:
            InvalidInput: it has no address, or one elsewhere, or `path` cannot be written.
            MediaFailed: it is larger than `most`.
            ResponseError, ConnectFailed: it could not be had.
        """
        from twdm_async.resources.download import download  # noqa: PLC0415 - as above

        address = media.url if isinstance(media, MessageMedia) else media
        return await download(self._caller, address, Path(path), most, max_wait, timeout)

    @quiet
    async def reconcile(self, *unknowns: DeliveryUnknown, settle_after: float | None = None) -> tuple[Reconciled, ...]:
        """Find out what became of messages that left and got no readable answer, by looking for them in the list of
        messages (15 pages in 15 minutes: settle as many as you can in one call).

        What is there is found at once. What is not is called absent late, since the list lags: see
        :mod:`twdm_async.resources.evidence`.

        Two messages that say the same to the same person are told apart by those which this client knows to have been
        sent. What other programs sent within five minutes of it in the very same words cannot be told apart.

        Args:
            unknowns: the errors that `send` raised.
            settle_after: seconds from the attempt's end until a message that is not in the list may be said to be
                absent: ten minutes, or five times the client's timeout if that is more. Less than that is refused.

        Returns:
            For each of `unknowns`, in their order, what became of it: :class:`Reconciled`.

        Raises:
            InvalidInput: one of them is not about a direct message that was sent by this account, or `settle_after` is
                too short.
            ResponseError, ConnectFailed, MalformedResponse, QuotaWaitTooLong: the list could not be read.
        """
        return await self.reconciler.reconcile(unknowns, settle_after)


def _with_apps(page: DirectMessagePage) -> Sequence[DirectMessage]:
    """Return the page's messages, each with what the page says of the app that sent it."""
    return [_with_app(message, page.apps) for message in page.events]


def _with_app(message: DirectMessage, apps: Mapping[str, Any] | None) -> DirectMessage:
    told = {app_id: app for app_id, app in (apps or {}).items() if app_id == message.source_app_id}
    return evolve(message, apps=told) if told else message
