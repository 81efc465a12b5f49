"""Replies that do not count: who writes opens a day in which five messages to that person are free.

**Rule** (page *Send a Direct Message*, *Rate limits*). Each message that the account gets from a person opens 24 hours
anew; the first five messages to that person in it do not count against the quota of messages. The sixth, and all
outside, do.

**Promise.** A message leaves without a slot only if the server is certain not to count it. So what is believed here may
only err on the safe side:

- Nothing is assumed of people of whom nothing was heard.
- Every message to a person is noted *before* its first byte leaves, whether it takes a slot or not; for those that were
  sent before the person's message became known here were replies to it, too.
- Whether a message was made before or after the person's, only the server's own times tell, which both carry. One whose
  time is not known counts as made after.
- The day is taken to be ten minutes shorter: five by which the clock here may be wrong (else the server refuses what is
  signed with it), and five for a request to arrive.

Everything is pure: times come in as arguments, in seconds since 1970 by the server's clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import define, field

from twdm_async._json import Json, is_object

if TYPE_CHECKING:
    from twdm_async.quota.spec import ReplyCredit

_SHORTER: Final = 600.0  # seconds
_UNDER_WAY: Final = 3600.0  # seconds: no request is so long on its way


@define
class Conversation:
    """What is known of one person and one account.

    Args:
        opened: when the person's latest message was made.
        sends: messages to that person: when each was begun, and made, which is infinity until it is known.
        touched: when something was last noted.
    """

    opened: float = -math.inf
    sends: dict[str, tuple[float, float]] = field(factory=dict[str, tuple[float, float]])
    touched: float = -math.inf

    def hear(self, at: float) -> None:
        """The person wrote at that time."""
        self.touched = max(self.touched, at)
        if at > self.opened:
            self.opened = at
            self.sends = {name: send for name, send in self.sends.items() if not self._was_before(*send)}

    def begin(self, name: str, now: float, credit: ReplyCredit) -> bool:
        """A message called `name` is about to leave; whether it is free."""
        self.touched = max(self.touched, now)
        self._forget(now - credit.per - _UNDER_WAY)
        replies = sum(not self._was_before(*send) for send in self.sends.values())
        is_open = self.opened - _SHORTER < now < self.opened + credit.per - _SHORTER
        self.sends[name] = (now, math.inf)
        return is_open and replies < credit.replies

    def end(self, name: str, made: float | None) -> None:
        """It may have arrived. `made` is when, if that is known."""
        begun, _ = self.sends.get(name, (math.inf, math.inf))
        self.sends[name] = (begun, math.inf if made is None else made)

    def withdraw(self, name: str) -> None:
        """It never left."""
        self.sends.pop(name, None)

    def is_over(self, now: float, credit: ReplyCredit) -> bool:
        """Whether nothing of it matters any more."""
        return self.touched + credit.per + _UNDER_WAY < now

    def _forget(self, before: float) -> None:
        """What is so old does not matter: neither the person's message, nor what was sent then. Both are forgotten
        together, so that a clock that is set forward and back again opens nothing.
        """
        if self.opened < before:
            self.opened = -math.inf
        self.sends = {name: send for name, send in self.sends.items() if send[0] >= before}

    def _was_before(self, begun: float, made: float) -> bool:
        return made < self.opened or begun + _UNDER_WAY < self.opened

    def as_json(self) -> Json:
        """For a store."""
        sends = {name: [begun, None if made == math.inf else made] for name, (begun, made) in self.sends.items()}
        return {"opened": None if self.opened == -math.inf else self.opened, "sends": sends, "touched": self.touched}

    @classmethod
    def from_json(cls, kept: Json) -> Conversation:
        """What :meth:`as_json` made."""
        if not is_object(kept):
            return cls()
        sends = {name: (begun, math.inf if made is None else made) for name, (begun, made) in kept["sends"].items()}
        return cls(-math.inf if kept["opened"] is None else kept["opened"], sends, kept["touched"])
