"""What is known to have been sent lately, so that it is not mistaken for a message that may or may not have arrived."""

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
    """What a message is looked for by.

    Args:
        recipient_id: whom it was for.
        custom_profile_id: the profile it was sent under.
        fingerprint: of its text; see :meth:`Credentials.fingerprint <twdm_async.Credentials.fingerprint>`.
        sent_at: when the attempt was made (UTC), as its signature said. No two of a client have the same.
        content: of everything that hangs on it, by a fingerprint as well.
    """

    recipient_id: str
    custom_profile_id: str | None
    fingerprint: str
    sent_at: datetime
    content: str = ""


@define
class SentMessages:
    """What is known of the account's messages. Of each kind, the oldest are forgotten.

    Args:
        credentials: make the fingerprints of texts.
        ids: of messages that were sent, and are known whose they are.
        nameless: what those without an id can be found by.
        listable: messages that the list must show, whoever sent them, and when they were made or about to leave.
        deleted: ids of those that it shows no longer.
        given_up: when the attempts at unknown messages ended, by the monotonic clock; by when they were sent.
        unknown: those of which it is not known yet what became of them, and that nobody else keeps.
    """

    credentials: Credentials
    ids: OrderedDict[str | None, None] = field(factory=OrderedDict[str | None, None], repr=False)
    nameless: OrderedDict[Sought, None] = field(factory=OrderedDict[Sought, None], repr=False)
    listable: OrderedDict[str, datetime] = field(factory=OrderedDict[str, datetime], repr=False)
    deleted: OrderedDict[str, None] = field(factory=OrderedDict[str, None], repr=False)
    given_up: OrderedDict[datetime, float] = field(factory=OrderedDict[datetime, float], repr=False)
    unknown: OrderedDict[Sought, None] = field(factory=OrderedDict[Sought, None], repr=False)

    def note_answer(self, message: Message, answer: DirectMessage, sent_at: datetime) -> None:
        """`message`, of an attempt that was made at `sent_at`, was sent."""
        if answer.id is not None:
            self.note(answer.id)
            self.note_listable(answer.id, min(answer.created_at or sent_at, sent_at))
        elif message.recipient_id is not None:
            self.note(self._sought(message, message.recipient_id, sent_at))

    def note_doubtful(self, message: Message, sent_at: datetime, *, is_kept: bool) -> str:
        """`message`, of an attempt that was made at `sent_at`, may or may not have arrived. Somebody else keeps it, or
        it is kept here. Returns the fingerprint that it can be looked for by.
        """
        sought = self._sought(message, message.recipient_id or "", sent_at)
        if not is_kept and message.recipient_id is not None:
            self.note_unknown(sought)
        return f"{sought.fingerprint} {sought.content}" if sought.content else sought.fingerprint

    def _sought(self, message: Message, recipient_id: str, sent_at: datetime) -> Sought:
        fingerprint, content = self.credentials.fingerprints(message.text, message.content)
        return Sought(recipient_id, message.custom_profile_id, fingerprint, sent_at, content)

    def note(self, message: str | Sought) -> None:
        """A message was sent: its id, or what is known of one whose reply did not tell it."""
        if isinstance(message, str):
            _keep(self.ids, message, None)
        else:
            _keep(self.nameless, message, None)

    def note_listable(self, message_id: str, at: datetime) -> None:
        """A message exists, so the list must show it. Of several times, the earliest counts: clocks differ."""
        if message_id not in self.deleted:
            _keep(self.listable, message_id, min(at, self.listable.get(message_id, at)))

    def note_given_up(self, sent_at: datetime, ended: float) -> None:
        """The attempt that was made at `sent_at` ended without an answer."""
        _keep(self.given_up, sent_at, ended)

    def note_unknown(self, message: Sought) -> None:
        """A message may or may not have arrived."""
        _keep(self.unknown, message, None)

    def note_settled(self, message: Sought) -> None:
        """It is known what became of it."""
        self.unknown.pop(message, None)

    def note_deleted(self, message_id: str) -> None:
        """A message was deleted, so the list need not show it."""
        self.listable.pop(message_id, None)
        _keep(self.deleted, message_id, None)


def _keep(kept: OrderedDict[T, V], item: T, value: V) -> None:
    kept[item] = value
    if len(kept) > _MOST:
        kept.popitem(last=False)
