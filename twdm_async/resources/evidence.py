"""Whether the list of messages can be believed when it does not show one (page *GET direct_messages/events/list*).

The list is no proof. Users of several clients report that messages appear in it two to three minutes late, that it came
empty although there were messages, and that what was deleted stayed in it for days. So a message that the list shows
was delivered, and that is said at once; but one that it does not show is called absent only if all of this holds:

1. *Time.* The attempt was given up at least `settle_after` seconds ago: ten minutes by default, three times the longest
   delay that was reported. Before that, no list is believed, whatever else it shows: a list that shows newer messages
   may still lack an older one.
2. *A whole reading.* It was read back to before the moment at which the message can have been made, or to its end. One
   old message at its top, or some, are no end, and neither are old ones in another order. A list whose cursors repeat,
   or whose pages bring nothing new, is not whole.
3. *Evidence.* The list shows what is known to be there: messages whose ids the API has answered, that came by a
   webhook, or that an earlier reading showed. As long as one of them is missing, the list lags, by the age of the
   oldest that is missing; and it proves nothing about messages that are not at least twice as old as that. For
   example, if a message of 90 seconds ago is missing, no message younger than 180 seconds is called absent. (Messages
   that were deleted are no evidence. Whoever deletes one elsewhere does not tell; so what is missing for six times
   `settle_after`, from a list that shows something at least as new, is taken for deleted.)
4. *Twice.* It was missing from two such readings, one some time after the other.

Why that is enough: to be called absent, a message that was delivered would have to be hidden from two lists, for longer
than any delay that was ever reported and for twice as long as any that can be seen. If nothing else is known to exist,
only time protects: with a `settle_after` shorter than the list's delay, messages would be sent twice. Why not less: a
list that shows something newer may still lack something older, as users report; so evidence alone proves nothing. And
why not that all must be there: where messages leave all the time, the latest are always missing, and nothing would ever
be settled.

If no list could be believed or read for an hour and a half (nine times `settle_after`), nobody can tell what became of
the message. Whoever asks again starts a new reading.

Few lists may be read (15 in 15 minutes). So all who search share a reading, one is made at once, and the next ones ever
later: see :class:`Search`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from attrs import define, field

from twdm_async._numbers import checked_seconds
from twdm_async.errors import InvalidInput, MalformedResponse
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.quota.lifetime import RequestLifetime

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from twdm_async.resources.listing import Page


SETTLE_AFTER: Final = 600.0
"""Seconds until a message that is not in the list is believed not to have arrived."""

_READINGS: Final = 2
_TWICE: Final = 2.0
_LOOKS: Final = (0.2, 0.5, 1.0)  # parts of `settle_after` at which a message is looked for, after the first time
_MORE_RARELY: Final = 0.15  # of the time since lists could last be believed is the pause until the next one
_LONGEST_PAUSE: Final = 90.0  # seconds between two readings: ten in 15 minutes, which leaves some to others
_PAUSE: Final = 0.15  # the same, as a part of `settle_after`
_LASTING: Final = 6.0  # times `settle_after`: whatever lasts so long is no delay
_ENOUGH_OLD: Final = 10  # old messages in a row are the end; fewer may stand at the top of a list that is not in order
_MOST_BARREN: Final = 3  # pages in a row that bring nothing new


def checked_settle_after(settle_after: float | None, timeout: float, lease: float = 0.0) -> float:
    """`settle_after` in seconds, or what it is if not given.

    Args:
        settle_after: seconds, or ``None``.
        timeout: seconds that an attempt may take.
        lease: seconds after which whoever made it may be taken for dead, although it lives.

    Raises:
        InvalidInput: it is no time, or one in which a message can still be on its way.
    """
    shortest = RequestLifetime.from_timeout(timeout).whole + lease
    if settle_after is None:
        return max(SETTLE_AFTER, shortest)
    if checked_seconds(settle_after, "settle_after") < shortest:
        leased = f" and a lease of {lease:g} s" if lease else ""
        problem = (
            f"must be {shortest:g} seconds or more: with a timeout of {timeout:g} s{leased}, a message that was given "
            "up may still arrive until then"
        )
        raise InvalidInput(parameter="settle_after", problem=problem)
    return settle_after


@define(eq=False)
class Reading:
    """What the list showed when it was read once.

    Args:
        since: how far back it was to be read.
        known: the ids of messages that existed before it was read, and when they were made, at the latest.
        messages: what it showed, in its order.
        ids: of those that have one.
        is_whole: whether all that it has since then was read.
    """

    since: datetime
    known: Mapping[str, datetime] = field(factory=dict[str, datetime], repr=False)
    messages: list[DirectMessage] = field(factory=list[DirectMessage], repr=False)
    ids: set[str] = field(factory=set[str], repr=False)
    is_whole: bool = False
    _old_in_a_row: int = 0
    _last: datetime = field(factory=lambda: datetime.max.replace(tzinfo=UTC))
    _missing: list[datetime] | None = None  # when those were made that it does not show
    _newest: datetime = field(factory=lambda: datetime.min.replace(tzinfo=UTC))  # of those that it shows

    def take(self, page: Sequence[DirectMessage]) -> bool:
        """Take in the next page. Return whether it brought anything new."""
        before = len(self.messages)
        for message in page:
            if message.id is not None and message.id in self.ids:
                continue
            if message.id is not None:
                self.ids.add(message.id)
            self.messages.append(message)
            at = message.created_at
            is_in_order = at is not None and at <= self._last
            is_old = at is not None and at < self.since
            self._old_in_a_row = (self._old_in_a_row if is_in_order else 0) + 1 if is_old else 0
            self._last = at or self._last
            self.is_whole = self.is_whole or self._old_in_a_row >= _ENOUGH_OLD
        return len(self.messages) > before

    def speaks_for(self, sent_at: datetime, age: float, settle_after: float, now: datetime) -> bool:
        """Whether a message that it does not show may be absent.

        Args:
            sent_at: when the message was sent, by the server's clock.
            age: seconds since it was given up. What the clocks here were set to meanwhile makes no difference.
            settle_after: seconds until a list is believed.
            now: by the server's clock, as far as it is known. If it is set back, the message's age tells.
        """
        now = max(now, sent_at + timedelta(seconds=age))
        return self.is_whole and timedelta(seconds=age) >= _TWICE * self.lag(now, settle_after)

    def lag(self, now: datetime, settle_after: float) -> timedelta:
        """How old the oldest message is at that time that is known to exist, and that it does not show; but for those
        that were deleted.
        """
        if self._missing is None:
            self._missing = [at for key, at in self.known.items() if at >= self.since and key not in self.ids]
            self._newest = max((at for key, at in self.known.items() if key in self.ids), default=self._newest)
        lasting = timedelta(seconds=_LASTING * settle_after)
        return now - min((at for at in self._missing if at > self._newest or now - at <= lasting), default=now)


async def read_back(
    pages: AsyncGenerator[Page[DirectMessage]], since: datetime, known: Mapping[str, datetime] | None = None
) -> Reading:
    """Read the list, the newest first, back to `since`.

    Args:
        pages: of the list.
        since: how far back.
        known: see :class:`Reading`.

    Raises:
        TwdmError: it could not be read.
    """
    reading = Reading(since, known or {})
    barren = 0
    async with contextlib.aclosing(pages):
        try:
            async for page in pages:
                barren = 0 if reading.take(page.items) else barren + 1
                if reading.is_whole or barren == _MOST_BARREN:
                    return reading
        except MalformedResponse:
            if not reading.messages:
                raise
            return reading  # what was shown so far is there
    reading.is_whole = True
    return reading


@define(eq=False)
class Search:
    """How far the search for one message has come: at once, at a fifth, at a half and at the whole of `settle_after`,
    once more to be sure, and then ever more rarely.

    All moments are ages of the message: seconds since its attempt was given up.

    Args:
        settle_after: seconds until a list is believed.
        looked_at: when it was last looked for.
        since: when it was first looked for, or when a reading could last be believed: since then, none could.
        misses: readings that could be believed, and did not show it.
        is_renewed: whether it is to be looked for at once, since somebody asks anew.
    """

    settle_after: float
    looked_at: float | None = None
    since: float = 0.0
    misses: int = 0
    is_renewed: bool = False

    @property
    def due(self) -> float:
        """When it should be looked for next."""
        if self.looked_at is None or self.is_renewed:
            return 0.0
        if not self.misses:
            for part in _LOOKS:
                if self.looked_at < part * self.settle_after:
                    return part * self.settle_after
        return self.looked_at + max(_MORE_RARELY * (self.looked_at - self.since), pause(self.settle_after))

    def look(self, age: float, *, is_believed: bool) -> bool:
        """Note a reading that was begun at `age`. Return whether the message is absent if that reading does not show it
        either.
        """
        if self.looked_at is None or is_believed:
            self.since = age
        self.looked_at, self.is_renewed = age, False
        if is_believed and age >= self.settle_after:
            self.misses += 1
        return is_believed and self.misses >= _READINGS

    @property
    def is_hopeless(self) -> bool:
        """Whether no list could be believed for so long that none will be soon."""
        return self.looked_at is not None and self.looked_at - self.since >= patience(self.settle_after)


def patience(settle_after: float) -> float:
    """Seconds after which a list that cannot be believed, or not be read, is not waited for any longer: time enough for
    what was deleted to be known as such.
    """
    return 1.5 * _LASTING * settle_after


def pause(settle_after: float) -> float:
    """Seconds between two readings, at the least."""
    return min(_LONGEST_PAUSE, _PAUSE * settle_after)
