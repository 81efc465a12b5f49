"""Replies that do not count: a message from a person opens a day in which five messages to that person are free.

**Rule** (page *Send a Direct Message*, *Rate limits*). Each message that the account gets from a person opens a new
window of 24 hours. The first five messages to that person in the window do not count against the quota of messages. The
sixth and later ones do, and so does every message outside a window.

**Promise.** A message leaves without a slot only if the server is certain not to count it. So every assumption made
here errs on the safe side:

- A person from whom no message is known has opened no window.
- Every message to a person is noted *before* its first byte leaves, whether it takes a slot or not: messages that were
  sent before the person's message became known here may have been replies to it.
- What others send as the same account, by hand in the app for instance, is noted when a webhook or a list shows it. It
  is noted by its id, and so are the answers to our own sends, so each message counts once.
- Whether a message was created before or after the person's message is decided only by the server's own times, which
  both carry. A message whose time is not known counts as created after.
- Messages to one person may overtake each other, so the server may count a message that was free here in place of one
  with a slot. Such a slot counts for as long as any of these messages could have been on its way.
- What a person wrote before the book was begun opens no window.
- The window is taken to be ten minutes shorter: five by which the clock here may be wrong (with a larger error, the
  server refuses the signature), and five for a request to arrive.

Everything is pure: times come in as arguments, in seconds since 1970 by the server's clock.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from attrs import define, field

from twdm_async._json import Json, is_object
from twdm_async.quota.lifetime import LONGEST_UNDER_WAY

if TYPE_CHECKING:
    from twdm_async.quota.spec import ReplyCredit

_SHORTER: Final = 600.0  # seconds
_TIDY: Final = 16  # with fewer messages to a person than this, none is forgotten


class Freedom(NamedTuple):
    """Whether the server will count a message.

    Args:
        is_free: whether the server is certain not to count the message.
        is_open: whether other messages to the same person may be free.
    """

    is_free: bool = False
    is_open: bool = False


_COUNTED: Final = Freedom()


@define
class Send:
    """A message to the person.

    Args:
        begun: when it was about to leave; infinity if this book did not see it leave.
        made: when the server created it, if that is known.
        is_over: whether its request has ended.
    """

    begun: float
    made: float | None = None
    is_over: bool = False

    def was_before(self, opened: float) -> bool:
        """Tell whether the server certainly created the message before the moment `opened`."""
        return (self.made is not None and self.made < opened) or self.begun + LONGEST_UNDER_WAY < opened


@define
class Conversation:
    """The messages that are known between one person and one account.

    Args:
        opened: when the person's latest message was created; minus infinity if none is known.
        sends: messages to that person, by name.
        touched: the latest moment of anything that was noted.
    """

    opened: float = -math.inf
    sends: dict[str, Send] = field(factory=dict[str, Send])
    touched: float = -math.inf
    _tidy_at: int = field(default=_TIDY, init=False, repr=False, eq=False)

    def hear(self, at: float) -> None:
        """Take in that the person wrote at the moment `at`."""
        self.touched = max(self.touched, at)
        if at > self.opened:
            self.opened = at
            self.sends = {name: send for name, send in self.sends.items() if not send.was_before(at)}

    def freedom(self, now: float, credit: ReplyCredit) -> Freedom:
        """Tell whether the server would count a message that left now."""
        if not self.opened - _SHORTER < now < self.opened + credit.per + LONGEST_UNDER_WAY:
            return _COUNTED
        later = (send for send in self.sends.values() if not send.was_before(self.opened))
        replies = sum(1 for _ in islice(later, credit.replies))
        is_free = now < self.opened + credit.per - _SHORTER and replies < credit.replies
        return Freedom(is_free=is_free, is_open=True)

    def begin(self, name: str, now: float, credit: ReplyCredit) -> Freedom:
        """Note a message called `name` that is about to leave, and tell whether the server will count it."""
        self.touched = max(self.touched, now)
        freedom = _COUNTED
        if self.opened > -math.inf or len(self.sends) >= self._tidy_at:
            self._forget(now - credit.per - LONGEST_UNDER_WAY, credit.replies)
            freedom = self.freedom(now, credit)
        self.sends[name] = Send(now)
        return freedom

    def end(self, name: str, made: float | None) -> None:
        """Note that a message's request has ended; the server created the message at `made`, if that is known. The
        message need not have been noted by :meth:`begin`.
        """
        send = self.sends.get(name)
        if send is None:
            self.sends[name] = Send(math.inf, made, is_over=True)
        else:
            send.made, send.is_over = made, True
        if made is not None and made > self.touched:
            self.touched = made

    def withdraw(self, name: str) -> None:
        """Forget a message that never left."""
        self.sends.pop(name, None)

    def is_over(self, now: float, credit: ReplyCredit) -> bool:
        """Tell whether nothing in the conversation matters any longer."""
        return self.touched + credit.per + LONGEST_UNDER_WAY < now

    def _forget(self, before: float, enough: int) -> None:
        """Forget what happened before the moment `before`: both the person's message and the messages sent, so that
        setting a clock forward and back again opens no window. Of the messages whose requests have ended, keep the
        latest `enough`: more are not needed to tell that the credit is used up.
        """
        if self.opened < before:
            self.opened = -math.inf
        if len(self.sends) < self._tidy_at:
            return
        left = {name: send for name, send in self.sends.items() if send.begun >= before}
        over = sorted((name for name in left if left[name].is_over), key=lambda name: _moment(left[name]))
        for name in over[: max(0, len(over) - enough)]:
            del left[name]
        self.sends = left
        self._tidy_at = 2 * len(left) + _TIDY

    def as_json(self) -> Json:
        """Return the conversation as a store keeps it."""
        sends = {name: [_finite(send.begun), send.made, send.is_over] for name, send in self.sends.items()}
        return {"opened": _finite(self.opened), "sends": sends, "touched": self.touched}

    @classmethod
    def from_json(cls, kept: Json) -> Conversation:
        """Restore what :meth:`as_json` returned."""
        if not is_object(kept):
            return cls()
        sends = {
            name: Send(math.inf if begun is None else begun, made, is_over)
            for name, (begun, made, is_over) in kept["sends"].items()
        }
        return cls(-math.inf if kept["opened"] is None else kept["opened"], sends, kept["touched"])


@define
class Conversations:
    """The conversations of one account with some of the people it writes to, by user id."""

    people: dict[str, Conversation] = field(factory=dict[str, Conversation])
    forgotten: float = -math.inf
    """The latest moment in any forgotten conversation. Messages from before it, if heard once more, open no window."""
    is_changed: bool = field(default=False, init=False)
    """Whether this has changed since it was loaded."""
    _tidy_at: int = field(default=0, init=False)

    def of(self, person: str) -> Conversation:
        """Return the conversation with a person, which the caller may change."""
        self.is_changed = True
        one = self.people.get(person)
        if one is None:
            one = self.people[person] = Conversation()
        return one

    def begin(self, person: str, name: str, now: float, credit: ReplyCredit) -> Freedom:
        """Note a message to a person as :meth:`Conversation.begin` does. If the person is new, forget what is over."""
        if person not in self.people:
            self.forget(now, credit)
        return self.of(person).begin(name, now, credit)

    def forget(self, now: float, credit: ReplyCredit) -> None:
        """Forget conversations in which nothing matters any longer. Most calls do nothing, to save time."""
        if len(self.people) >= self._tidy_at:
            over = [person for person, one in self.people.items() if one.is_over(now, credit)]
            self.forgotten = max([self.forgotten, *(self.people.pop(person).touched for person in over)])
            self._tidy_at = 2 * len(self.people) + _TIDY

    def as_json(self) -> Json:
        """Return the conversations as a store keeps them."""
        people = {person: conversation.as_json() for person, conversation in self.people.items()}
        return {"people": people, "forgotten": _finite(self.forgotten)}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Conversations:
        """Restore what :meth:`as_json` returned."""
        people = {person: Conversation.from_json(one) for person, one in kept["people"].items()}
        return cls(people, -math.inf if kept["forgotten"] is None else kept["forgotten"])


def _moment(send: Send) -> float:
    return send.begun + LONGEST_UNDER_WAY if send.made is None else send.made


def _finite(moment: float) -> float | None:
    return moment if math.isfinite(moment) else None
