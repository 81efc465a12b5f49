"""The messages known to have been sent lately, so that none of them is mistaken for one that may have arrived."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, field, frozen

from twdm_async.credentials import Credentials

if TYPE_CHECKING:
    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.transport.wire import Message

T = TypeVar("T")
V = TypeVar("V")

_MOST: Final = 20_000  # more than an app may send in a day


@frozen
class Sought:
    """The facts by which a message is looked for.

    Args:
        recipient_id: the recipient's user id.
        custom_profile_id: the profile it was sent under.
        fingerprint: the fingerprint of its text; see
            :meth:`Credentials.fingerprint <twdm_async.Credentials.fingerprint>`.
        sent_at: when the attempt was made (UTC), as in its signature. No two attempts of a client have the same time.
        content: the fingerprint of whatever else tells it from messages with the same wording; empty if nothing does.
    """

    recipient_id: str
    custom_profile_id: str | None
    fingerprint: str
    sent_at: datetime
    content: str = ""


@define
class SentMessages:
    """What is known of the account's messages. If there are too many of a kind, the oldest are forgotten. An id is *in*
    this object if it is that of a message that was sent and is known not to be an unknown one.

    Args:
        credentials: make the fingerprints of texts.
        found: the ids of other messages that were sent: unknown ones that were found, and deleted ones.
        nameless: the messages that were sent and whose replies told no id.
        others: the ids of messages that were seen elsewhere than in an answer, and when they were created.
        deleted: the ids of messages that were deleted, so that the list need not show them.
        given_up: when the attempts at unknown messages ended, by the monotonic clock; the keys are when they were sent.
        unknown: the unknown messages of which it is not known yet what became of them, and which no journal keeps.
    """

    credentials: Credentials
    found: OrderedDict[str, None] = field(factory=OrderedDict[str, None], repr=False)
    nameless: OrderedDict[Sought, None] = field(factory=OrderedDict[Sought, None], repr=False)
    others: OrderedDict[str, datetime] = field(factory=OrderedDict[str, datetime], repr=False)
    deleted: OrderedDict[str, None] = field(factory=OrderedDict[str, None], repr=False)
    given_up: OrderedDict[datetime, float] = field(factory=OrderedDict[datetime, float], repr=False)
    unknown: OrderedDict[Sought, None] = field(factory=OrderedDict[Sought, None], repr=False)
    # The ids that the API has answered, and when these messages were created or about to leave. Half of them are
    # forgotten at once, since to forget them one by one would cost each send more than to note them.
    _answered: dict[str, datetime] = field(factory=dict[str, datetime], init=False, repr=False)
    _answered_before: dict[str, datetime] = field(factory=dict[str, datetime], init=False, repr=False)

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._answered or message_id in self._answered_before or message_id in self.found

    def listable(self, since: datetime) -> dict[str, datetime]:
        """Return the ids of messages that the list must show from `since` on, whoever sent them, and when they were
        created or about to leave. If several times are known of a message, the earliest counts, since clocks differ.
        """
        listable: dict[str, datetime] = {}
        for known in (self._answered_before, self._answered, self.others):
            for message_id, at in known.items():
                listable[message_id] = min(at, listable.get(message_id, at))
        return {key: at for key, at in listable.items() if at >= since and key not in self.deleted}

    def note_answer(self, message: Message, answer: DirectMessage, sent_at: datetime) -> None:
        """Note that `message` was sent, by an attempt that was made at `sent_at`, and got `answer`."""
        if answer.id is not None:
            self._answered[answer.id] = min(answer.created_at or sent_at, sent_at)
            if len(self._answered) >= _MOST:
                self._answered, self._answered_before = {}, self._answered
        elif message.recipient_id is not None:
            self.note(self._sought(message, message.recipient_id, sent_at))

    def note_doubtful(self, message: Message, sent_at: datetime, *, is_kept: bool) -> str:
        """Note that `message`, of an attempt that was made at `sent_at`, may or may not have arrived. Return the
        fingerprint by which it can be looked for. If `is_kept`, the caller's journal keeps the message, and it is not
        kept here.
        """
        sought = self._sought(message, message.recipient_id or "", sent_at)
        if not is_kept and message.recipient_id is not None:
            self.note_unknown(sought)
        return f"{sought.fingerprint} {sought.content}" if sought.content else sought.fingerprint

    def _sought(self, message: Message, recipient_id: str, sent_at: datetime) -> Sought:
        fingerprint, content = self.credentials.fingerprints(message.text, message.content)
        return Sought(recipient_id, message.custom_profile_id, fingerprint, sent_at, content)

    def note(self, message: str | Sought) -> None:
        """Note that a message was sent.

        Args:
            message: its id, or the facts by which it is looked for if its reply told no id.
        """
        if isinstance(message, str):
            _keep(self.found, message, None)
        else:
            _keep(self.nameless, message, None)

    def note_listable(self, message_id: str, at: datetime) -> None:
        """Note that a message exists, so that the list must show it."""
        if message_id not in self.deleted:
            _keep(self.others, message_id, min(at, self.others.get(message_id, at)))

    def note_given_up(self, sent_at: datetime, ended: float) -> None:
        """Note that the attempt that was made at `sent_at` ended without an answer."""
        _keep(self.given_up, sent_at, ended)

    def note_unknown(self, message: Sought) -> None:
        """Note that a message may or may not have arrived."""
        _keep(self.unknown, message, None)

    def note_settled(self, message: Sought) -> None:
        """Note that it is known what became of a message."""
        self.unknown.pop(message, None)

    def note_deleted(self, message_id: str) -> None:
        """Note that a message was deleted, so that the list need not show it."""
        self.others.pop(message_id, None)
        for answered in (self._answered, self._answered_before):
            if answered.pop(message_id, None) is not None:
                _keep(self.found, message_id, None)
        _keep(self.deleted, message_id, None)


def _keep(kept: OrderedDict[T, V], item: T, value: V) -> None:
    kept[item] = value
    if len(kept) > _MOST:
        kept.popitem(last=False)
