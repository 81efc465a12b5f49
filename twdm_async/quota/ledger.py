"""The ledger of one bucket: which requests are under way, and when the outcomes of the others were seen.

**Promise.** The server never counts more than `limit` of our requests in any of its windows of `per` seconds, wherever
its windows begin and end, whatever the latency.

**Rule.** A request takes a slot before its first byte leaves. The slot counts while the request is under way, and for
`per` seconds after its outcome was seen. Only if no byte left the machine is the slot given back at once. No request
leaves while `limit` slots count.

**Why that is enough.** Suppose the server counts limit + 1 of our requests in one window, from s to s + per. Look at
the one that left last, at the moment t. The server counts a request at some moment between its first byte and its
outcome, so that one was counted after t, and therefore s + per > t. Every other one of them was counted at s or later,
so its outcome was seen at s or later, so its slot counted until s + per or later, which is after t. So `limit` slots
counted at t, and the rule would not have let it leave. Nothing in this depends on where the windows lie, so it holds
for windows that slide, too.

**Two honest corrections.** Where no outcome was seen (a timeout, a reset, a caller that gave up), the server may still
count the request *after* we stopped looking; such a slot counts for a grace on top. And the server's clock may run
slower than ours; so a window is taken to be one part in ten thousand longer.

**What it costs.** A window begins anew for us when the slots of the last one run out, one latency later than for a
client that knew the server's clock. Nothing else is lost: as long as somebody waits, every slot is used the moment it
is free.

A hold (the server said 429) and what the server says is left can only close the ledger further, never open it.

A ledger keeps when outcomes were seen, and not until when they count. So clients that share one may be told different
quotas: each counts by its own, and none overlooks what another spent. (Outcomes are kept for the longest window that
was asked for so far.) A store that outlives this process keeps the
same facts, and a slot whose owner died counts as if its outcome had been seen when its request could have lived no
longer.

The ledger is pure: time comes in as an argument, in seconds of a clock that never steps back.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.quota.spec import Quota

_CLOCK_DRIFT = 1.0001
_MILESTONES = 8
_ANY = 10**12


def window(quota: Quota) -> float:
    """Seconds that a slot of `quota` counts after its outcome was seen."""
    return quota.per * _CLOCK_DRIFT


@frozen
class Usage:
    """How far a quota is used, at one moment.

    Args:
        used: slots that count, those under way included.
        in_flight: slots of requests under way.
        held_for: seconds in which nothing may leave, since the server said so.
        freeing: milestones, each a number of slots and in how many seconds so many will have come free. The first one
            is that of the first slot. Slots under way are not among them.
        per: seconds a slot counts after its outcome was seen.
    """

    used: int
    in_flight: int
    held_for: float
    freeing: tuple[tuple[int, float], ...]
    per: float

    def free_in(self, limit: int, count: int = 1) -> float:
        """Seconds until `count` more requests, one after the other, can have had a slot if there are `limit`.

        It is at least that: outcomes may be late, and between milestones the earlier one is taken.
        """
        needed = count - (limit - self.used)  # so many must come free
        if needed <= 0:
            return self.held_for
        # They come free in this order: those whose outcome is known, then those under way; then the round begins anew.
        rounds, place = divmod(needed - 1, max(limit, self.used))
        if place < self.used - self.in_flight:
            first = next((seconds for number, seconds in reversed(self.freeing) if number <= place + 1), 0.0)
        else:
            first = self.per
        return max(self.held_for, first + rounds * self.per)


def usage_of(
    quota: Quota, now: float, seen: Sequence[float], *, in_flight: int, foreign: tuple[int, float], held_until: float
) -> Usage:
    """How far `quota` is used, from what a ledger has.

    Args:
        quota: the quota.
        now: the present moment.
        seen: when the outcomes were seen that count, the oldest first.
        in_flight: slots of requests under way.
        foreign: how many others spent, and until when that counts.
        held_until: when the last hold ends.
    """
    per = window(quota)
    count, until = foreign
    total = len(seen) + count
    before = bisect_right(seen, until - per)  # so many come free before those of the others do
    freeing: list[tuple[int, float]] = []
    for number in (
        sorted({1, *(-(-total * part // _MILESTONES) for part in range(1, _MILESTONES + 1))}) if total else ()
    ):
        place = number - 1
        if before <= place < before + count:
            freeing.append((number, until - now))
        else:
            freeing.append((number, seen[place if place < before else place - count] + per - now))
    return Usage(
        used=in_flight + total,
        in_flight=in_flight,
        held_for=max(0.0, held_until - now),
        freeing=tuple(freeing),
        per=per,
    )


class Ledger:
    """The slots of one bucket."""

    __slots__ = ("_foreign", "_held_until", "_longest", "_outcomes", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._outcomes: deque[float] = deque()  # when each was seen, the oldest first
        self._longest = 0.0  # the longest window that was ever asked for; older outcomes are forgotten
        self._foreign: dict[float, tuple[int, float]] = {}  # window to what others spent in it, and until when
        self._held_until = -math.inf

    def remembers(self, quota: Quota) -> bool:
        """Whether outcomes were kept for as long as `quota` counts them."""
        return window(quota) <= self._longest

    def used(self, now: float, quota: Quota) -> int:
        """How many slots count."""
        used = self.in_flight + self._settled(now, quota.per * _CLOCK_DRIFT)
        if self._foreign:
            used += self._spent_by_others(now, quota)[0]
        return used

    def room(self, now: float, quotas: Sequence[Quota]) -> int:
        """How many requests may take a slot; 0 or less if none may."""
        if self._held_until > now:
            return 0
        room = _ANY
        for quota in quotas:
            left = quota.limit - self.used(now, quota)
            room = min(room, left)
        return room

    def take(self, count: int = 1) -> None:
        """So many requests are about to leave."""
        self.in_flight += count

    def give_back(self) -> None:
        """One of them never left."""
        self.in_flight -= 1

    def settle(self, now: float, grace: float = 0.0) -> None:
        """An outcome was seen now, or, with a `grace` in seconds, we stopped looking for it now."""
        self.in_flight -= 1
        seen = now + grace
        if not self._outcomes or self._outcomes[-1] <= seen:
            self._outcomes.append(seen)
        else:
            insort(self._outcomes, seen)

    def hold(self, until: float) -> None:
        """Nothing leaves before `until`. Holds join to the later one."""
        self._held_until = max(self._held_until, until)

    def tighten(self, now: float, quota: Quota, remaining: int, until: float) -> None:
        """The server says that `remaining` are left in its window, which ends at `until`.

        What is missing was spent by somebody else, and counts until then. Requests under way, which the server may or
        may not have counted already, are all taken as counted, so that this finds only what others certainly spent.
        """
        missing = quota.limit - self.used(now, quota) - remaining
        if missing > 0:
            count, known_until = self._spent_by_others(now, quota)
            self._foreign[quota.per] = (count + missing, max(until, known_until))

    def usage(self, now: float, quota: Quota) -> Usage:
        """How far `quota` is used."""
        settled = self._settled(now, window(quota))
        first = len(self._outcomes) - settled
        return usage_of(
            quota,
            now,
            list(islice(self._outcomes, first, None)),
            in_flight=self.in_flight,
            foreign=self._spent_by_others(now, quota),
            held_until=self._held_until,
        )

    def _settled(self, now: float, per: float) -> int:
        """How many outcomes were seen in the last `per` seconds."""
        outcomes = self._outcomes
        if per >= self._longest:
            self._longest = per
            while outcomes and outcomes[0] + per <= now:
                outcomes.popleft()
            return len(outcomes)
        count = 0
        for seen in reversed(outcomes):
            if seen + per <= now:
                break
            count += 1
        return count

    def _spent_by_others(self, now: float, quota: Quota) -> tuple[int, float]:
        count, until = self._foreign.get(quota.per, (0, now))
        return (count, until) if until > now else (0, now)
