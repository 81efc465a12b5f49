"""The ledger of one bucket: how many requests count, and until when.

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

**Two corrections.** Where no outcome was seen (a timeout, a reset, a caller that gave up), the server may still count
the request *after* we stopped looking; such a slot counts for a grace on top. And the server's clock may run slower
than ours; so a window is taken to be one part in ten thousand longer.

**A ledger is a histogram.** Only *how many* slots end *when* matters, so slots have no names. A moment is rounded up to
the next tick, a 512th of the window; that is on the safe side, and costs at most 0.2 % of a window. A request under way
stands at the end of its lease (see :mod:`twdm_async.quota.lifetime`). To settle it is to move one from there to the
moment in which the outcome was seen; to give it back is to remove one. A process that died never moves its own, so they
count for the lease and a window, and nobody has to clean up after it. A step takes constant time, amortized, and a
window has at most some hundred pairs, whatever the limit.

**Clients with different quotas may share a bucket.** There is one histogram for each window that any of them counts by,
and one for the longest window in the tables of all of them. A window that is new to a ledger begins with what is known
of the longer ones.

A hold (the server said 429) and what the server says is left can only close the ledger further, never open it.

Everything is pure: time comes in as an argument, in seconds of a clock that never steps back.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from twdm_async.quota.spec import Quota

_CLOCK_DRIFT = 1.0001
_TICKS = 512  # to a window
_MOST_TICKS = 4 * _TICKS  # that are kept until it is seen which of them have ended
_LEASE_TICK = 0.25  # seconds; the same for all windows, so that a slot under way is found in each of them


def window(per: float) -> float:
    """Seconds that a slot counts after its outcome was seen, in a quota of so many in `per` seconds."""
    return per * _CLOCK_DRIFT


@frozen
class Usage:
    """How far a quota is used, at one moment.

    Args:
        used: slots that count, those under way included.
        in_flight: slots of requests under way.
        held_for: seconds in which nothing may leave, since the server said so.
        freeing: how many slots will have come free in how many seconds, in order. Slots under way are not among them.
        per: seconds a slot counts after its outcome was seen.
    """

    used: int
    in_flight: int
    held_for: float
    freeing: tuple[tuple[int, float], ...]
    per: float

    def free_in(self, limit: float, count: int = 1) -> float:
        """Return the seconds until `count` more requests, one after the other, can have had a slot if there are
        `limit`. It is at least that: outcomes may be late.
        """
        needed = count - (limit - self.used)  # so many must come free
        if needed <= 0:
            return self.held_for
        # They come free in this order: those whose outcome is known, then those under way; then the round begins anew.
        rounds, place = divmod(int(needed) - 1, max(int(limit), self.used))
        first = next((seconds for number, seconds in self.freeing if number > place), self.per)
        return max(self.held_for, first + rounds * self.per)


class Window:
    """The histogram for one length of window: `total` slots count until `next_end`, and :meth:`expire` is due then."""

    __slots__ = (
        "began", "is_counted", "next_end", "per", "seen", "tick", "total", "under_way", "window",
    )  # fmt: skip

    def __init__(self, per: float, began: float = 0.0) -> None:
        self.per = per
        self.began = began  # what ended before is not known
        self.is_counted = False  # by any quota so far; else it is only kept
        self.window = window(per)
        self.tick = per / _TICKS
        self.under_way: dict[int, int] = {}  # tick of the end of the lease to slots; these ticks are _LEASE_TICK long
        self.seen: dict[int, int] = {}  # tick of the outcome to slots
        self.total = 0  # of both
        self.next_end = math.inf  # nothing ends before this

    def used(self, now: float) -> int:
        """Count the slots that count."""
        if now >= self.next_end:
            self.expire(now)
        return self.total

    def room(self, limit: int, count: int, now: float) -> int:
        """Tell whether there is room for `count` more slots, by how many there is room for, at the least. Who is far
        from `limit` need not know what has ended.
        """
        return count if self.total + count <= limit else limit - self.used(now)

    def note_seen(self, at: float, count: int = 1) -> None:
        """Let so many slots count whose outcome was seen then."""
        tick = int(at // self.tick) + 1
        self.seen[tick] = self.seen.get(tick, 0) + count
        self.total += count
        self.next_end = min(self.next_end, tick * self.tick + self.window)

    def in_flight(self, now: float) -> int:
        return sum(count for at, count in self.under_way.items() if at * _LEASE_TICK > now)

    def freeing(self, now: float) -> tuple[tuple[int, float], ...]:
        over = [(at * self.tick + self.window - now, count) for at, count in self.seen.items()]
        over += [
            (at * _LEASE_TICK + self.window - now, n) for at, n in self.under_way.items() if at * _LEASE_TICK <= now
        ]
        over.sort()
        number = 0
        return tuple([(number := number + count, seconds) for seconds, count in over])

    def copy_from(self, other: Window, now: float) -> None:
        """Begin with what `other` knows."""
        self.began = max(other.began, now - other.window) if other.per < self.per else other.began
        self.under_way = dict(other.under_way)
        self.total = sum(self.under_way.values())
        self.next_end = -math.inf  # to be found
        for at, count in other.seen.items():
            self.note_seen(at * other.tick, count)

    def expire(self, now: float) -> None:
        """Forget the slots that do not count any more."""
        for slots, tick in ((self.under_way, _LEASE_TICK), (self.seen, self.tick)):
            for at in [at for at in slots if at * tick + self.window <= now]:
                self.total -= slots.pop(at)
        self.next_end = self._first_end()

    def _first_end(self) -> float:
        """Return when the first of all slots ends, if none is settled before."""
        first = min(min(self.under_way, default=math.inf) * _LEASE_TICK, min(self.seen, default=math.inf) * self.tick)
        return first + self.window

    def as_json(self) -> list[Any]:
        flat = [list(chain.from_iterable(slots.items())) for slots in (self.under_way, self.seen)]
        return [self.per, self.began, self.is_counted, *flat]

    @classmethod
    def from_json(cls, kept: list[Any]) -> Window:
        per, began, is_counted, under_way, seen = kept
        self = cls(per, began)
        self.is_counted = is_counted
        self.under_way = dict(zip(under_way[::2], under_way[1::2], strict=True))
        self.seen = dict(zip(seen[::2], seen[1::2], strict=True))
        self.total = sum(self.under_way.values()) + sum(self.seen.values())
        self.next_end = -math.inf
        return self


class Ledger:
    """The slots of one bucket."""

    __slots__ = ("_windows", "held_until", "is_changed")

    def __init__(self) -> None:
        self.held_until = -math.inf
        self.is_changed = False  # since it was loaded
        self._windows: dict[float, Window] = {}

    def keep(self, per: float, now: float) -> Window:
        """Keep slots for windows of `per` seconds, too. Begin with what is known of the next longer ones, or else of
        the longest.
        """
        kept = self._windows.get(per)
        if kept is None:
            kept = Window(per, now)
            if self._windows:
                longer = [other for other in self._windows if other > per] or [max(self._windows)]
                kept.copy_from(self._windows[min(longer)], now)
            self._windows[per] = kept
            self.is_changed = True
        return kept

    def count_by(self, quota: Quota, now: float, assume_spent: float = 0.0) -> float:
        """Count by `quota` from now on, if that was not done before.

        Args:
            quota: the quota.
            now: the present moment.
            assume_spent: the part of it that is taken as spent by others if not all of its window is known.

        Returns:
            The seconds of its window of which nothing is known; 0 if all is, or the ledger was begun for `quota`.
        """
        kept = self.keep(quota.per, now)
        if kept.is_counted:
            return 0.0
        kept.is_counted = self.is_changed = True
        unknown = max(0.0, kept.window - (now - kept.began))
        if unknown and assume_spent:
            kept.note_seen(now, math.ceil(quota.limit * assume_spent - 1e-9))
        return unknown if kept.began > min(one.began for one in self._windows.values()) else 0.0

    def window_of(self, quota: Quota) -> tuple[Window, int]:
        """Return the histogram that is kept for `quota`, and its limit."""
        return self._windows[quota.per], quota.limit

    def used(self, now: float, quota: Quota) -> int:
        """Count the slots that count in a window that is kept."""
        return self._windows[quota.per].used(now)

    def take(self, lease_end: float, count: int = 1, now: float = -math.inf) -> None:
        """Let so many requests leave `now`, which are over by `lease_end`."""
        self.is_changed = True
        at = int(lease_end / _LEASE_TICK) + 1
        for kept in self._windows.values():
            kept.total += count
            there = kept.under_way.get(at)
            if there is None:
                if len(kept.seen) > _MOST_TICKS:  # nobody has asked for long how many of them still count
                    kept.expire(now)
                kept.under_way[at] = count
                kept.next_end = min(kept.next_end, at * _LEASE_TICK + kept.window)
            else:
                kept.under_way[at] = there + count

    def give_back(self, lease_end: float, count: int = 1) -> None:
        """Remove slots whose requests never left."""
        self.is_changed = True
        at = int(lease_end / _LEASE_TICK) + 1
        for kept in self._windows.values():
            there = kept.under_way.pop(at, 0)
            kept.total -= min(there, count)
            if there > count:
                kept.under_way[at] = there - count

    def settle(self, lease_end: float, seen: float) -> None:
        """Let a slot count from the moment `seen`, in which the outcome was seen, or will have been at the latest. One
        that is not under way any more lived longer than its lease, and counts again.
        """
        self.is_changed = True
        lease = int(lease_end / _LEASE_TICK) + 1
        for kept in self._windows.values():
            tick, under_way = kept.tick, kept.under_way
            count = under_way.get(lease)
            if count is None:
                kept.total += 1
            elif count == 1:
                del under_way[lease]
            else:
                under_way[lease] = count - 1
            at = int(seen / tick) + 1
            there = kept.seen.get(at)
            if there is None:
                kept.seen[at] = 1
                kept.next_end = min(kept.next_end, at * tick + kept.window)
            else:
                kept.seen[at] = there + 1

    def hold(self, until: float) -> None:
        """Let nothing leave before `until`. Holds join to the later one."""
        self.is_changed = True
        self.held_until = max(self.held_until, until)

    def tighten(self, now: float, quota: Quota, remaining: int, until: float) -> None:
        """Take in that the server has `remaining` left in its window, which ends at `until`.

        What is missing was spent by somebody else, and counts in this window until then. Requests under way, which the
        server may or may not have counted already, are all taken as counted, so that this finds only what others
        certainly spent.
        """
        kept = self._windows[quota.per]
        missing = quota.limit - kept.used(now) - remaining
        if missing > 0:
            self.is_changed = True
            kept.note_seen(until - kept.window, missing)

    def usage(self, now: float, quota: Quota | None) -> Usage:
        """Tell how far `quota` is used; ``None`` asks only whether the bucket is held."""
        kept = (self._windows.get(quota.per) if quota else None) or Window(1.0)
        return Usage(
            used=kept.used(now),
            in_flight=kept.in_flight(now),
            held_for=max(0.0, self.held_until - now),
            freeing=kept.freeing(now),
            per=kept.window,
        )

    @property
    def longest(self) -> float:
        """Seconds of the longest window that is kept."""
        return max((window.per for window in self._windows.values()), default=0.0)

    def as_json(self) -> list[Any]:
        """Return what a store keeps."""
        held_until = self.held_until if math.isfinite(self.held_until) else None
        return [held_until, *(window.as_json() for window in self._windows.values())]

    @classmethod
    def from_json(cls, kept: list[Any]) -> Ledger:
        """Restore what :meth:`as_json` returned."""
        self = cls()
        held_until, *windows = kept
        self.held_until = -math.inf if held_until is None else held_until
        self._windows = {window[0]: Window.from_json(window) for window in windows}
        return self
