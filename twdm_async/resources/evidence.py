"""Whether the list of messages can be believed when it does not show one (page *GET direct_messages/events/list*).

The list is no proof. Users of several clients report that messages appear in it two to three minutes late, that it came
empty although there were messages, and that deleted messages stayed in it for days. So a message that the list shows
was delivered, and is reported at once; but a message that it does not show is called absent only if all of this holds:

1. *Time.* The attempt was given up at least `settle_after` seconds ago: ten minutes by default, three times the longest
   delay that was reported. Before that, no list is believed, whatever else it shows: a list that shows newer messages
   may still lack an older one.
2. *A whole reading.* The list was read to its end, or back to before the time at which the message can have been
   created. A few old messages at the top of the list do not show that it was read back so far: it takes ten in a row,
   in order. A list whose cursors repeat, or whose pages bring nothing new, is not whole.
3. *Evidence.* The list shows the messages that are known to exist: messages whose ids the API has answered, that came
   by a webhook, or that an earlier reading showed. As long as one of them is missing, the list lags by the age of the
   oldest missing message, and it proves nothing about messages that are not at least twice as old as that. For
   example, if a message of 90 seconds ago is missing, no message younger than 180 seconds is called absent. (Deleted
   messages are no evidence, and the library does not learn of those that are deleted elsewhere. So a message that is
   missing and older than six times `settle_after` is taken for deleted if the list shows one at least as new.)
4. *Twice.* The message was missing from two such readings, one some time after the other.

Why that is enough: to be called absent, a message that was delivered would have to be hidden from two lists, for longer
than any delay that was ever reported and for twice as long as any that can be seen. If no other message is known to
exist, only time protects: with a `settle_after` shorter than the list's delay, messages would be sent twice. Why
evidence alone is not enough: a list that shows a newer message may still lack an older one, as users report. Why not
all known messages must be there: where messages leave all the time, the latest are always missing, and no message would
ever be settled.

If no list could be believed or read for an hour and a half (nine times `settle_after`), the library gives up, and what
became of the message stays unknown. Asking again starts a new search.

The list may be read only 15 times in 15 minutes. So all searches share a reading. The first reading is made at once,
and the next ones at ever longer intervals: see :class:`Search`.
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
_LOOKS: Final = (0.2, 0.5, 1.0)  # fractions of `settle_after` at which a message is looked for, after the first time
_MORE_RARELY: Final = 0.15  # the pause until the next reading, as a fraction of the time since one could be believed
_LONGEST_PAUSE: Final = 90.0  # seconds between two readings: ten in 15 minutes, which leaves some to others
_PAUSE: Final = 0.15  # the same, as a fraction of `settle_after`
_LASTING: Final = 6.0  # times `settle_after`: a message that is missing for so long is not merely late
_ENOUGH_OLD: Final = 10  # old messages in a row that count as the end; fewer may be at the top of an unordered list
_MOST_BARREN: Final = 3  # pages in a row that bring nothing new


def checked_settle_after(settle_after: float | None, timeout: float, lease: float = 0.0) -> float:
    """Return `settle_after`, or its default if it is ``None``.

    Args:
        settle_after: seconds, or ``None``.
        timeout: seconds that an attempt may take.
        lease: seconds after which the process that made the attempt may be taken for dead although it is alive.

    Raises:
        InvalidInput: `settle_after` is not a number of seconds, or is so short that a message may still be on its way.
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
        since: the time back to which the list was to be read.
        known: the ids of messages that existed before it was read, and when they were created, at the latest.
        messages: the messages that it showed, in its order.
        ids: the ids of these messages, as far as they have one.
        is_whole: whether all messages since `since` were read.
    """

    since: datetime
    known: Mapping[str, datetime] = field(factory=dict[str, datetime], repr=False)
    messages: list[DirectMessage] = field(factory=list[DirectMessage], repr=False)
    ids: set[str] = field(factory=set[str], repr=False)
    is_whole: bool = False
    _old_in_a_row: int = 0
    _last: datetime = field(factory=lambda: datetime.max.replace(tzinfo=UTC))
    _missing: list[datetime] | None = None  # when the known messages that it does not show were created
    _newest: datetime = field(factory=lambda: datetime.min.replace(tzinfo=UTC))  # of the known ones that it shows

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
        """Return whether this reading is evidence about a message that it does not show.

        Args:
            sent_at: when the message was sent, by the server's clock.
            age: seconds since its attempt was given up. Setting the clocks here makes no difference to it.
            settle_after: seconds until a list is believed.
            now: the time by the server's clock, as far as it is known. If that is set back, `age` counts.
        """
        now = max(now, sent_at + timedelta(seconds=age))
        return self.is_whole and timedelta(seconds=age) >= _TWICE * self.lag(now, settle_after)

    def lag(self, now: datetime, settle_after: float) -> timedelta:
        """Return the age of the oldest message that is known to exist and that the reading does not show, except for
        messages that are taken for deleted.

        Args:
            now: the time at which the age is taken.
            settle_after: seconds until a list is believed.
        """
        if self._missing is None:
            self._missing = [at for key, at in self.known.items() if at >= self.since and key not in self.ids]
            self._newest = max((at for key, at in self.known.items() if key in self.ids), default=self._newest)
        lasting = timedelta(seconds=_LASTING * settle_after)
        return now - min((at for at in self._missing if at > self._newest or now - at <= lasting), default=now)


async def read_back(
    pages: AsyncGenerator[Page[DirectMessage]], since: datetime, known: Mapping[str, datetime] | None = None
) -> Reading:
    """Read the list, newest first, back to `since`.

    Args:
        pages: the pages of the list.
        since: the time back to which to read.
        known: see :class:`Reading`.

    Raises:
        TwdmError: the list could not be read.
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
            return reading  # the messages read so far exist all the same
    reading.is_whole = True
    return reading


@define(eq=False)
class Search:
    """The state of the search for one message. It is looked for at once, at a fifth, at a half and at the whole of
    `settle_after`, once more to be sure, and then ever more rarely.

    All times are ages of the message: seconds since its attempt was given up.

    Args:
        settle_after: seconds until a list is believed.
        looked_at: when it was last looked for; ``None`` if it never was.
        since: when a reading could last be believed; if none could, when it was first looked for.
        misses: how many readings could be believed, after `settle_after`, and did not show it.
        is_renewed: whether it is to be looked for at once, since a caller asks anew.
    """

    settle_after: float
    looked_at: float | None = None
    since: float = 0.0
    misses: int = 0
    is_renewed: bool = False

    @property
    def due(self) -> float:
        """The age at which the message should be looked for next."""
        if self.looked_at is None or self.is_renewed:
            return 0.0
        if not self.misses:
            for part in _LOOKS:
                if self.looked_at < part * self.settle_after:
                    return part * self.settle_after
        return self.looked_at + max(_MORE_RARELY * (self.looked_at - self.since), pause(self.settle_after))

    def look(self, age: float, *, is_believed: bool) -> bool:
        """Note a reading that was begun at `age`, and whether it `is_believed`. Return whether the message is absent if
        this reading does not show it either.
        """
        if self.looked_at is None or is_believed:
            self.since = age
        self.looked_at, self.is_renewed = age, False
        if is_believed and age >= self.settle_after:
            self.misses += 1
        return is_believed and self.misses >= _READINGS

    @property
    def is_hopeless(self) -> bool:
        """Whether no reading could be believed for so long that the search is given up."""
        return self.looked_at is not None and self.looked_at - self.since >= patience(self.settle_after)


def patience(settle_after: float) -> float:
    """Return the seconds after which a search is given up if no list can be believed or read. In that time, deleted
    messages become known as such.
    """
    return 1.5 * _LASTING * settle_after


def pause(settle_after: float) -> float:
    """Return the seconds between two readings, at least."""
    return min(_LONGEST_PAUSE, _PAUSE * settle_after)
