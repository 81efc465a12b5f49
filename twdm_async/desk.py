"""Sending for programs that a model controls: under allowed names, once for each call, with answers that are data.

A model's tool call may be repeated: a run is resumed from a saved state, or a protocol tries again. So each message has
a key that depends on the call alone, and the outbox sends it once. Nothing that a model can get wrong raises an error:
the answer is a :class:`Receipt`, which says what has happened and whether to send again.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import json
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from attrs import frozen

from twdm_async._log import quiet_logger
from twdm_async._numbers import checked_number, checked_seconds
from twdm_async._quiet import quiet
from twdm_async.client import Client
from twdm_async.errors import InvalidInput, OutboxFailed
from twdm_async.models.checks import checked_characters, checked_id
from twdm_async.models.custom_profiles import checked_profile_id
from twdm_async.models.quick_replies import LocationRequest, QuickReply, TextInput
from twdm_async.outbox import Outbox, Review, State
from twdm_async.outbox.entry import LOST, OF_DESK, TOO_MANY
from twdm_async.outbox.outbox import checked_limit
from twdm_async.quota.spec import Priority, Quota
from twdm_async.resources.direct_messages import outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.models.quick_replies import CallToAction
    from twdm_async.outbox import Entry
    from twdm_async.resources.message_data import Attachable

_log = quiet_logger(__name__)

_LONGEST_KEY: Final = 400
_SEND: Final = "direct_messages.send"


class Status(enum.StrEnum):
    """What has become of a message, as far as a model must know."""

    SENT = "sent"
    """It arrived."""
    QUEUED = "queued"
    """It is sent later, by itself."""
    HELD = "held"
    """It waits for a person's approval."""
    REFUSED = "refused"
    """It was not sent, and will not be."""
    UNKNOWN = "unknown"
    """It may have arrived."""

    @property
    def advice(self) -> str:
        """What a model is to do next, in a sentence."""
        return _ADVICE[self]


_ADVICE: Final = {
    Status.SENT: "The message arrived. Do not send it again.",
    Status.QUEUED: "The message is sent later, by itself. Do not send it again.",
    Status.HELD: "The message waits for a person's approval. Do not send it again.",
    Status.REFUSED: "The message was not sent. Send another one only if you can mend the reason.",
    Status.UNKNOWN: "The message may have arrived, and this is looked into. Do not send it again.",
}


@frozen(kw_only=True)
class Receipt:
    """What has become of a message.

    Args:
        status: what has become of it.
        key: its key in the outbox; ``None`` if it was refused before it was put there.
        message_id: the API's id, once it is sent and if the reply told it.
        until: when a queued message leaves, at the earliest (UTC); ``None`` if it is not known.
        reason: why it was refused, or what it waits for, in words.
    """

    status: Status
    key: str | None = None
    message_id: str | None = None
    until: datetime | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, str]:
        """Return the receipt as JSON that a model understands: `status`, `advice`, and the fields that have a value."""
        until = None if self.until is None else self.until.isoformat(timespec="seconds")
        named = {"key": self.key, "message_id": self.message_id, "until": until, "reason": self.reason}
        told = {name: value for name, value in named.items() if value is not None}
        return {"status": self.status.value, "advice": self.status.advice, **told}


class Desk:
    """Sends messages under names that are mapped to custom profiles, through an outbox.

    It neither opens nor closes the client and the outbox. Messages leave while the outbox runs (:meth:`Outbox.running
    <twdm_async.outbox.Outbox.running>`, or ``twdm outbox run --forever`` in another process).

    Args:
        client: the client of the outbox.
        outbox: the outbox that sends the messages.
        profiles: the allowed names. Each is mapped to a custom profile or its id; ``None`` stands for the account's own
            name and picture.
        recipients: the user ids to which messages may be sent; ``None`` allows everybody.
        hold: whether messages wait for a person's approval in the outbox; or a function of name, recipient's user id
            and text that tells. If it fails, the message is held.
        limit: how many messages desks may send to one person; ``None`` for no limit. It stops a model that repeats
            itself. It counts what is in the outbox, so it survives restarts, and holds for all processes together.
        wait: seconds to wait for the outcome of a message, before it is called queued.

    Raises:
        InvalidInput: an argument is wrong.
    """

    def __init__(
        self,
        client: Client,
        outbox: Outbox,
        profiles: Mapping[str, CustomProfile | str | int | None],
        *,
        recipients: Collection[str | int] | None = None,
        hold: bool | Callable[[str, str, str], bool] = False,
        limit: Quota | None = Quota(20, per=3600.0),  # noqa: B008 - it cannot be changed
        wait: float = 5.0,
    ) -> None:
        if not isinstance(client, Client):
            raise InvalidInput(parameter="client", problem="must be a Client")
        if not isinstance(outbox, Outbox) or outbox.account != client.credentials.account:
            raise InvalidInput(parameter="outbox", problem="must be an Outbox of the client's account")
        if not profiles or not all(isinstance(name, str) and name.strip() and name.isprintable() for name in profiles):
            raise InvalidInput(parameter="profiles", problem="must have at least one name, and no unprintable one")
        if isinstance(recipients, str):
            raise InvalidInput(parameter="recipients", problem="must be a list of user ids")
        if not isinstance(hold, bool) and (not callable(hold) or iscoroutinefunction(hold)):
            raise InvalidInput(parameter="hold", problem="must be true, false, or a function that is not async")
        self.client: Client = client
        """The client of the outbox."""
        self.outbox: Outbox = outbox
        """The outbox that sends the messages."""
        self._profiles = {
            name: None if profile is None else checked_profile_id(profile, "profiles")
            for name, profile in profiles.items()
        }
        self._recipients = None if recipients is None else {checked_id(one, "recipients") for one in recipients}
        self._hold = hold
        self._limit = checked_limit(limit)
        self._wait = checked_seconds(wait, "wait")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which messages can be sent."""
        return tuple(self._profiles)

    @quiet
    async def say(
        self,
        who: str,
        recipient: str | int,
        text: str | None = None,
        *,
        key: str | None = None,
        within: timedelta | float = 600.0,
        hold: bool | None = None,
        priority: Priority = Priority.INTERACTIVE,
        not_after: datetime | None = None,
        quick_replies: Sequence[QuickReply | str] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
    ) -> Receipt:
        """Send a message under a name. If it was sent under the same key before, return what has become of it.

        Args:
            who: one of the allowed names.
            recipient: the person's user id.
            text: at most 10 000 characters; may be left out if there is an attachment.
            key: what identifies the call that sends the message, and nothing else: a framework's id of a tool call. If
                not given, the same content to the same person counts as repeated `within` some time.
            within: this time, in seconds or as a ``timedelta``.
            hold: whether a person must approve the message; what the desk says if not given.
            priority: which waiting messages are sent first.
            not_after: the time after which the message is not sent (an aware ``datetime``).
            quick_replies: at most 20 answers to tap, or their labels; or a :class:`TextInput` or
                :class:`LocationRequest`.
            ctas: 1 to 3 buttons.
            attachment: a file that was uploaded, or its media id; or a place.

        Returns:
            What has become of the message. It is ``refused``, with the reason, if an argument is wrong, the name or the
            person is not allowed, `key` was used for another message, the limit is reached, or the outbox cannot be
            written.

        Raises:
            WrongEventLoop: the client was used in another event loop or another process.
        """
        name = None
        try:
            content, create = self._checked(
                who, recipient, text, quick_replies=quick_replies, ctas=ctas, attachment=attachment
            )
            person = create["target"]["recipient_id"]
            async with self._locks.setdefault(person, asyncio.Lock()):
                name = await self._key_of_content(create, within) if key is None else _key_of_call(key)
                entry = await self.outbox.put(
                    person,
                    text,
                    key=name,
                    hold=self._must_be_held(who, person, text or "") if hold is None else hold,
                    priority=priority,
                    not_after=not_after,
                    limit=self._limit,
                    **content,
                )
        except InvalidInput as error:
            return _refusal_of(error)
        except OutboxFailed as error:
            _log.warning("desk: a message could not be put into the outbox: %s", error)
            if error.is_unsure:
                reason = "it is not known whether the message was queued; repeat the call with this key"
                return Receipt(status=Status.UNKNOWN, key=name, reason=reason)
            return _refused("the outbox cannot be written just now")
        try:
            return await self._receipt(await self._after_a_while(entry))
        except InvalidInput:
            return _refused("it was withdrawn", name)

    @quiet
    async def check(
        self,
        who: str,
        recipient: str | int,
        text: str | None = None,
        *,
        key: str | None = None,
        within: timedelta | float = 600.0,
        quick_replies: Sequence[QuickReply | str] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
    ) -> Receipt | None:
        """Return what :meth:`say` would answer if that is known before anything is sent: that it refuses the arguments,
        or what has become of the message that was sent under the same key before. Return ``None`` if it would send a
        message. Use this before you ask a person for approval. The arguments are those of :meth:`say`.

        Raises:
            OutboxFailed: the outbox cannot be read.
        """
        try:
            _, create = self._checked(
                who, recipient, text, quick_replies=quick_replies, ctas=ctas, attachment=attachment
            )
            name = await self._key_of_content(create, within) if key is None else _key_of_call(key)
        except InvalidInput as error:
            return _refusal_of(error)
        receipt = await self.receipt(name)
        person = create["target"]["recipient_id"]
        if receipt is None and self._limit is not None and await self.outbox.is_limit_reached(person, self._limit):
            return _refused(TOO_MANY)
        return receipt

    def _checked(
        self, who: str, recipient: str | int, text: str | None, *, quick_replies: Any, **content: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check the arguments of a message. Return its content, with its profile, and its ``message_create`` object.

        Raises:
            InvalidInput: an argument is wrong, or the name or the person is not allowed.
        """
        if not isinstance(who, str) or who not in self._profiles:
            problem = f"{str(who)[:50]!r} is not allowed; use one of: {', '.join(self._profiles)}"
            raise InvalidInput(parameter="who", problem=problem)
        content |= {"custom_profile_id": self._profiles[who], "quick_replies": _quick_replies(quick_replies)}
        create = outgoing(recipient, text, **content).create
        if self._recipients is not None and create["target"]["recipient_id"] not in self._recipients:
            raise InvalidInput(parameter="recipient", problem="messages to this person are not allowed")
        return content, create

    async def receipt(self, key: str) -> Receipt | None:
        """Return what has become of a message by now; ``None`` if no desk has put a message under this key.

        Args:
            key: the key that was given to :meth:`say`, or that of an earlier :class:`Receipt`.

        Raises:
            InvalidInput: `key` is empty or not a string, or contains a control character other than tab and newline, or
                half of a surrogate pair.
            OutboxFailed: the outbox cannot be read.
        """
        entry = await self.outbox.get(_key_of_call(key))
        return None if entry is None else await self._receipt(entry)

    async def _after_a_while(self, entry: Entry) -> Entry:
        """Return the message's entry when its outcome is known, or as it is after `wait` seconds.

        Raises:
            InvalidInput: the message was withdrawn meanwhile.
        """
        if entry.state.is_final or entry.state is State.HELD or not self._wait:
            return entry
        try:
            async with asyncio.timeout(self._wait):
                return await self.outbox.outcome(entry.key)
        except TimeoutError:
            with contextlib.suppress(OutboxFailed):
                return await self.outbox.get(entry.key) or entry
        except OutboxFailed:
            pass
        return entry

    def _must_be_held(self, who: str, person: str, text: str) -> bool:
        if isinstance(self._hold, bool):
            return self._hold
        try:
            return bool(self._hold(who, person, text))
        except Exception as error:  # noqa: BLE001 - a function of somebody else's
            _log.warning("desk: a message is held, since the function that tells whether it must be has failed: %s",
                         type(error).__name__)  # fmt: skip
            return True

    async def _key_of_content(self, create: Mapping[str, Any], within: timedelta | float) -> str:
        """Return the key of a message that no call identifies: that of the same message within this time, if there is
        one, else a new one.
        """
        seconds = within.total_seconds() if isinstance(within, timedelta) else within
        checked_number(seconds, "within", 1.0, kind="number of seconds")
        digest = hashlib.sha256(json.dumps(create, sort_keys=True).encode("utf-8", "replace")).hexdigest()[:40]
        now = self.client.clock.utc()
        period = int(now.timestamp() // seconds)
        for other in (period - 1, period + 1):  # the next one, if the clock was set back
            entry = await self.outbox.get(f"{OF_DESK}content {digest} {other}")
            if entry is not None and abs(entry.put_at - now).total_seconds() < seconds:
                return entry.key
        return f"{OF_DESK}content {digest} {period}"

    async def _receipt(self, entry: Entry) -> Receipt:
        match entry.state:
            case State.SENT:
                return Receipt(status=Status.SENT, key=entry.key, message_id=entry.message_id)
            case State.HELD:
                return Receipt(status=Status.HELD, key=entry.key)
            case State.UNKNOWN:
                return Receipt(status=Status.UNKNOWN, key=entry.key)
            case State.QUEUED | State.SENDING | State.ABSENT:
                return Receipt(
                    status=Status.QUEUED, key=entry.key, until=await self._free_at(entry.priority), reason=entry.error
                )
            case State.REJECTED if entry.review is Review.REJECTED:
                return _refused(f"a person did not approve it: {entry.error or 'no reason given'}", entry.key)
            case State.FAILED if entry.error == LOST:
                return Receipt(status=Status.UNKNOWN, key=entry.key)
            case State.REJECTED | State.FAILED | State.EXPIRED:
                return _refused(entry.error or f"it has {entry.state}", entry.key)

    async def _free_at(self, priority: Priority) -> datetime | None:
        """Return when the next message of this priority can leave; ``None`` if it can leave now."""
        with contextlib.suppress(OutboxFailed):
            if (later := await self.outbox.next_try()) is not None:
                return later
        states = [state for state in self.client.quota_state() if state.endpoint == _SEND]
        times = [state.bulk_free_at if priority is Priority.BULK else state.free_at for state in states]
        now = self.client.clock.utc()
        return max((time for time in times if time > now), default=None)


def _quick_replies(
    given: Sequence[QuickReply | str] | TextInput | LocationRequest | None,
) -> Sequence[QuickReply] | TextInput | LocationRequest | None:
    if given is None or isinstance(given, TextInput | LocationRequest):
        return given
    if not isinstance(given, (list, tuple)):
        raise InvalidInput(parameter="quick_replies", problem="must be a list")
    return [QuickReply(one) if isinstance(one, str) else one for one in given] or None


def _refused(reason: str, key: str | None = None) -> Receipt:
    return Receipt(status=Status.REFUSED, key=key, reason=reason)


def _refusal_of(error: InvalidInput) -> Receipt:
    if error.problem == TOO_MANY:
        return _refused(TOO_MANY)
    parameter = {"recipient_id": "recipient"}.get(error.parameter, error.parameter)
    return _refused(f"{parameter}: {error.problem}")


def _key_of_call(key: str) -> str:
    checked_characters(key, "key")
    key = key.removeprefix(OF_DESK)  # of an earlier receipt
    if not key.strip():
        raise InvalidInput(parameter="key", problem="must not be empty or blank")
    return OF_DESK + (key if len(key) <= _LONGEST_KEY else hashlib.sha256(key.encode()).hexdigest())
