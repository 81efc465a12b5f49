"""Direct messages (pages *Send a Direct Message with custom profile*, *List messages*, *Typing indicator*, *Read
receipt*).
"""

from __future__ import annotations

import contextlib
import json
import math
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
from twdm_async.transport.wire import Message, encode_json, encode_text

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
_LARGEST_FILE: Final = 512 * 1024 * 1024  # bytes; the API takes no larger film


@frozen
class Outgoing:
    """A message that was checked and can be sent.

    Args:
        message: its recipient, custom profile and content.
        data: its ``message_data`` object, in the API's form; ``None`` if it has a text and nothing else.
    """

    message: Message
    data: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    @property
    def create(self) -> dict[str, Any]:
        """Its ``message_create`` object, in the API's form."""
        create: dict[str, Any] = json.loads(self.body())["event"]["message_create"]
        return create

    def body(self) -> bytes:
        """Return the body of the request that sends the message."""
        message = self.message
        data = f'{{"text":{encode_text(message.text or "")}}}' if self.data is None else encode_json(self.data)
        profile = "" if message.custom_profile_id is None else f',"custom_profile_id":"{message.custom_profile_id}"'
        create = f'{{"target":{{"recipient_id":"{message.recipient_id}"}},"message_data":{data}{profile}}}'
        return f'{{"event":{{"type":"message_create","message_create":{create}}}}}'.encode()


def outgoing(
    recipient_id: str | int,
    text: str | None = None,
    custom_profile_id: CustomProfile | str | int | None = None,
    quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
    ctas: Sequence[CallToAction] | None = None,
    attachment: Attachable | None = None,
) -> Outgoing:
    """Check arguments of :meth:`DirectMessages.send`, and return the message.

    Raises:
        InvalidInput: an argument is wrong; see :meth:`DirectMessages.send`.
    """
    # Without leading zeros, as the API returns ids, so that the message can be found by them.
    recipient_id = checked_id(recipient_id, "recipient_id").lstrip("0") or "0"
    if custom_profile_id is not None:
        custom_profile_id = checked_profile_id(custom_profile_id, "custom_profile_id").lstrip("0") or "0"
    data, content = None, ""
    if text is None or quick_replies is not None or ctas is not None or attachment is not None:
        from twdm_async.resources.message_data import message_data  # noqa: PLC0415 - imported only if it is used

        data = message_data(text, limit=_LONGEST_TEXT, quick_replies=quick_replies, ctas=ctas, attachment=attachment)
        content = _content(data)
    else:
        checked_length(text, "text", _LONGEST_TEXT)
    return Outgoing(Message(recipient_id, custom_profile_id, text, content), data)


def _content(data: Mapping[str, Any]) -> str:
    """Return what is attached to a message besides its text, as JSON that can be compared."""
    hangs_on_it = {name: value for name, value in data.items() if name != "text"}
    return json.dumps(hangs_on_it, sort_keys=True) if hangs_on_it else ""


def from_create(create: Mapping[str, Any]) -> Outgoing:
    """Return the message that has this ``message_create`` object."""
    data = create["message_data"]
    message = Message(
        create["target"]["recipient_id"], create.get("custom_profile_id"), data.get("text"), _content(data)
    )
    return Outgoing(message, data if message.content else None)


_lane = lru_cache(maxsize=4096)(Lane)


async def send_message(
    caller: Caller,
    recipient_id: str | int,
    text: str | None,
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
    message = outgoing(recipient_id, text, custom_profile_id, quick_replies, ctas, attachment)
    if lane is None:
        lane = _lane(message.message.custom_profile_id or "")
    elif not isinstance(lane, Lane):
        lane = Lane(lane)
    if priority is not None:
        lane = evolve(lane, priority=priority)
    # A message that waits costs two frames and one future. The rest of the call is made when it has a slot.
    began = caller.clock.monotonic()
    entered = caller.enter(_SEND, lane, max_wait, message.message.recipient_id)
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
        message.message,
        lane,
        max_wait,
        timeout,
        slot,
        caller.clock.monotonic() - began,
    )


class DirectMessages:
    """Calls about direct messages."""

    def __init__(
        self, caller: Caller, credentials: Credentials, timeout: float, origin: DirectMessages | None = None
    ) -> None:
        self._caller = caller
        self._credentials = credentials
        self._timeout = timeout
        self._origin = origin  # of another client with the same messages: Client.with_options() made this one

    @cached_property
    def reconciler(self) -> Reconciler:
        """The reconciler, which finds out what became of messages."""
        if self._origin is not None:
            return self._origin.reconciler
        from twdm_async.resources.reconcile import Reconciler  # noqa: PLC0415 - imported only if it is used

        return Reconciler(self._caller, self._credentials, self._timeout)

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

        The message first waits for quota: 1000 messages in 24 hours for the account, 15 000 for the app. The first five
        messages to a person within 24 hours of each message that the person is known to have sent do not count. The
        library never repeats a request that may have arrived. If the caller is cancelled while the message waits,
        nothing is sent. If it is cancelled later, the request goes on, and the client's observers get its outcome.

        Args:
            recipient_id: the person's user id.
            text: at most 10 000 characters; may be left out if there is an attachment.
            custom_profile_id: the custom profile to send under, or its id; the account's own name and picture if not
                given.
            quick_replies: 1 to 20 answers to tap; or a :class:`TextInput` or :class:`LocationRequest`.
            ctas: 1 to 3 buttons.
            attachment: a file that was uploaded with a category such as ``"dm_image"``, or its media id; or a
                :class:`SharedCoordinate` or :class:`SharedPlace`.
            priority: :attr:`Priority.BULK` lets every interactive call go first. If not given, the priority of the
                lane, which is :attr:`Priority.INTERACTIVE` unless `lane` has another one.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.
            lane: the lane to wait in, or its key. Lanes share the quota fairly. If not given, each custom profile has
                a lane.

        Returns:
            The message that the API created.

        Raises:
            InvalidInput: an id is not numeric; the text is missing, blank, too long or contains a character that cannot
                be sent; there are too many quick replies or buttons; or another argument has the wrong type or range.
                Nothing was sent, and no quota was spent.
            QuotaWaitTooLong: the message would wait for quota longer than `max_wait`. Nothing was sent.
            DeliveryUnknown: the request left, and no readable answer came; :meth:`reconcile` finds out whether the
                message arrived.
            NotAllowlisted: the account may not use custom profiles.
            RecipientUnreachable: this person cannot be sent messages.
            LooksAutomated: the API's spam filter stopped the message.
            ResponseError: the API refused the message for another reason.
            ConnectFailed: no connection could be made; nothing was sent.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        return send_message(
            self._caller,
            recipient_id,
            text,
            custom_profile_id,
            quick_replies,
            ctas,
            attachment,
            priority,
            max_wait,
            timeout,
            lane,
        )

    async def send_many(self, drafts: Iterable[Draft], *, at_once: int = 64) -> AsyncGenerator[SendOutcome]:
        """Send any number of messages, each as :meth:`send` does, and yield the outcome of each as soon as it is known.

        A draft is taken from `drafts` only when its turn comes, so memory is bounded whatever their number. If the
        caller leaves the loop early, drafts that wait for quota are given up, and requests that are under way go on to
        their end. ``contextlib.aclosing`` has this done as soon as the loop is left.

        An error that every later message would meet, too, stops the sending: no further draft is taken, and the error
        is raised after the outcomes of all drafts that were taken. Those may still wait for quota; give them a
        `max_wait` if that would take too long. Any other error of a message is in its outcome.

        Args:
            drafts: the messages; a generator will do.
            at_once: how many messages may wait for quota or be under way at a time, from 1 to 10 000.

        Raises:
            InvalidInput: `at_once` is not a whole number from 1 to 10 000, or one of `drafts` is not a :class:`Draft`.
            Unauthorized, NotAllowlisted, ResponseError: the API refused a message because of the account, its keys or
                the app, so that it would refuse every later message, too.
            QuotaStoreFailed: the quota store could not be read or written.
            ClientClosed, WrongEventLoop, IncompatibleAiohttp: the client can send nothing; see
                :class:`~twdm_async.Client`.
            Exception: any exception that iterating over `drafts` raises.
        """
        checked_count(at_once, "at_once", 1, _MOST_AT_ONCE)
        from twdm_async.resources.send_many import Sending  # noqa: PLC0415 - as above

        sending = Sending(self.send, drafts, at_once)
        del drafts  # so that a traceback that shows local variables does not show a message
        async with contextlib.aclosing(sending.outcomes()) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def deliver(self, outgoing: Outgoing, *, lane: Lane, max_wait: float, journal: Journal) -> DirectMessage:
        """Send a checked message, and record the progress of its attempts in `journal`. Errors are those of
        :meth:`send`.
        """
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
        """List the messages of the last 30 days, sent and received, newest first (page *GET
        direct_messages/events/list*; 15 pages of 50 in 15 minutes).

        Nothing is sent, and no error is raised, before the list is read. A page may be empty and still not be the last.
        New messages appear in the list minutes late.

        Args:
            max_wait: seconds to wait for quota, for each page; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: a page would wait for quota longer than `max_wait`.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: a page cannot be read, or names a cursor for the second time.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        return _listing(self._caller, max_wait=max_wait, timeout=timeout)

    async def get(
        self, message_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> DirectMessage:
        """Look up a message of the last 30 days, sent or received (page *GET direct_messages/events/show*; 15 in 15
        minutes).

        Args:
            message_id: the message's id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `message_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such message, or it is too old.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a message.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"id": checked_id(message_id, "message_id")}
        return await self._caller.call(
            "direct_messages.get", arguments, DirectMessage, max_wait=max_wait, timeout=timeout
        )

    async def delete(
        self, message_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> None:
        """Hide a message of the last 30 days from this account (page *DELETE direct_messages/events/destroy*). The
        other person still sees it.

        Args:
            message_id: the message's id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `message_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such message, or it is too old.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"id": checked_id(message_id, "message_id")}
        await self._caller.call("direct_messages.delete", arguments, type(None), max_wait=max_wait, timeout=timeout)
        self._caller.sent.note_deleted(arguments["id"])

    async def indicate_typing(
        self, recipient_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> None:
        """Show a person for three seconds that somebody is typing (page *POST direct_messages/indicate_typing*; 1000 in
        15 minutes).

        Args:
            recipient_id: the person's user id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `recipient_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
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
        """Show a person that their messages were read (page *POST direct_messages/mark_read*; 1000 in 15 minutes).

        Args:
            recipient_id: the user id of the person who wrote the messages.
            last_read_event_id: the id of the last message that was read; all messages before it count as read, too.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: an id is not numeric; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {
            "last_read_event_id": checked_id(last_read_event_id, "last_read_event_id"),
            "recipient_id": checked_id(recipient_id, "recipient_id"),
        }
        await self._caller.call("direct_messages.mark_read", arguments, type(None), max_wait=max_wait, timeout=timeout)

    async def poll(
        self, inbox: Inbox | None = None, *, every: float = 60.0, since: datetime | None = None, sent: bool = False
    ) -> AsyncIterator[DirectMessage]:
        """Yield messages as they come, without end and without webhooks (page *GET direct_messages/events/list*; 15
        reads in 15 minutes, a quota that :meth:`list` and :meth:`reconcile` spend, too).

        Each message is yielded once, the oldest first. It counts as handled when the caller asks for the next one. With
        a file or a database as the inbox, this holds across restarts, and messages that came meanwhile are yielded
        then. A caller that stops while it handles a message, by an exception, a ``break`` or a ``kill``, gets that
        message again, unless it has called :meth:`Inbox.handled`. A read that fails is logged and tried again, if that
        can help. A read waits for quota as long as it takes, whatever the client's ``max_wait``.

        Args:
            inbox: remembers which messages were handled; if not given, this is forgotten when the iteration ends. Let
                only one poll of an account use an inbox at a time.
            every: seconds between two reads, from 1 to 86 400.
            since: where to begin the first time (an aware ``datetime``), at most 30 days back; now, if not given.
            sent: whether to yield also the messages that the account itself sent, by whatever program.

        Raises:
            InvalidInput: `inbox` is not an Inbox, `every` is not a number in its range, or `since` is not an aware
                ``datetime``.
            InboxFailed: the inbox could not be read or written.
            ResponseError: the API refused the request, and would refuse it again.
            ConnectFailed: no connection can be made, because the server's certificate is not accepted.
            TwdmError: the account's user id was looked up, because its token does not begin with it, and that failed;
                or an error that every call can raise; see :class:`~twdm_async.Client`.
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
            self._credentials.app,
            known,
            lambda: _listing(caller, max_wait=math.inf).pages(),  # else a long list would be begun anew for ever
            lambda message: self.note_event(message, account),
            self._caller.server_time,
            self._caller.clock,
        )
        caller = self._caller.with_options(timeout=None, max_wait=None, observers=[poll.note_reply])
        try:
            async with contextlib.aclosing(poll.messages(every, since, sent=sent)) as messages:
                async for message in messages:
                    yield message
        finally:
            if inbox is None:
                await known.close()

    def note_event(self, message: DirectMessage, account_id: str | None = None) -> None:
        """Note that a message exists, however the program got to know it. :meth:`poll` and webhooks call this
        themselves.

        If a person sent the message, replies to it may be free (:mod:`twdm_async.quota.credit`). If the account sent
        it, the message proves to :meth:`reconcile` and to outboxes that it was delivered; and if it was not sent by
        this client but, for example, by hand in the X app, it may have used up one of the free replies.

        Args:
            message: the message. Without an id, a time, a sender and a recipient, it is ignored.
            account_id: the account's user id; needed only if the account's token does not begin with it.

        Raises:
            InvalidInput: `message` is not a :class:`DirectMessage`.
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
        """Save a file that is attached to a message (page *Message attachments*, *Downloading media*).

        The file is first written under another name, so `path` never holds a part of a file. Only its owner can read
        it. The URL of a film is that of its first picture: the film itself is elsewhere (``video_info``), and X has not
        documented who may read it there.

        Args:
            media: the attachment of a message, or its URL. The URL must be on ``ton.twitter.com`` or ``ton.x.com``:
                requests are signed for no other host.
            path: the path to save the file at. A file that is there is replaced.
            most: the largest size in bytes that the file may have.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Returns:
            The file's size in bytes.

        Raises:
            InvalidInput: `media` has no URL, or the URL is not that of a message's file on one of these hosts; `path`
                cannot be written; or `most`, `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            MediaFailed: the file is larger than `most` bytes.
            NotFound: the file does not exist.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or the file did not come completely.
            MalformedResponse: the answer is not a file.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        from twdm_async.resources.download import download  # noqa: PLC0415 - as above

        address = media.url if isinstance(media, MessageMedia) else media
        return await download(self._caller, address, Path(path), most, max_wait, timeout)

    @quiet
    async def reconcile(self, *unknowns: DeliveryUnknown, settle_after: float | None = None) -> tuple[Reconciled, ...]:
        """Find out whether messages arrived that left and got no readable answer, by looking for them in the list of
        messages (page *GET direct_messages/events/list*; 15 pages in 15 minutes, so pass as many errors as you can in
        one call).

        A message that is in the list is found at once. A message that is not in it is called absent only after
        `settle_after`, since the list lags: see :mod:`twdm_async.resources.evidence`.

        If several messages to a person have the same text, the ones that this client knows to have been sent are not
        taken for the lost one. A message in the very same words that another program sent within five minutes cannot be
        told from it.

        Args:
            unknowns: the errors that :meth:`send` raised.
            settle_after: seconds from the attempt's end after which a message that is not in the list may be called
                absent; at least five times the client's ``timeout``. By default ten minutes, or that minimum if it is
                more.

        Returns:
            A :class:`Reconciled` for each of `unknowns`, in the same order.

        Raises:
            InvalidInput: one of `unknowns` is not the error of a direct message, or was raised under other keys; or
                `settle_after` is too short.
            QuotaWaitTooLong: reading the list would wait for quota longer than the client's ``max_wait``.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the list cannot be read.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        return await self.reconciler.reconcile(unknowns, settle_after)


def _listing(caller: Caller, *, max_wait: float | None, timeout: float | None = None) -> Listing[DirectMessage]:
    return Listing(caller, "direct_messages.list", DirectMessagePage, _with_apps, max_wait=max_wait, timeout=timeout)


def _with_apps(page: DirectMessagePage) -> Sequence[DirectMessage]:
    """Return the messages of a page, each with what the page says about the app that sent it."""
    return [_with_app(message, page.apps) for message in page.events]


def _with_app(message: DirectMessage, apps: Mapping[str, Any] | None) -> DirectMessage:
    told = {app_id: app for app_id, app in (apps or {}).items() if app_id == message.source_app_id}
    return evolve(message, apps=told) if told else message
