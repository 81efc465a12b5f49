"""The ledger of one bucket: how many requests count, and until when.

**Promise.** The server never counts more than `limit` of our requests in any of its windows of `per` seconds, wherever
its windows begin and end, whatever the latency.

**Rule.** A request takes a slot before its first byte leaves. The slot counts while the request is in flight, and for
`per` seconds after its outcome was seen. Only if no byte left the machine is the slot given back at once. No request
leaves while `limit` slots count.

**Why that is enough.** Suppose the server counts limit + 1 of our requests in one window, from s to s + per. Take the
request that left last, at the moment t. The server counts a request at some moment between its first byte and its
outcome, so it counted this last request after t, and therefore s + per > t. It counted each of the other requests at s
or later, so the outcome of each was seen at s or later, and the slot of each counted until s + per or later, which is
after t. So `limit` slots counted at t, and the rule would not have let the last request leave. Nothing in this depends
on where the windows lie, so it also holds for sliding windows.

**Two corrections.** If no outcome was seen (a timeout, a reset, a caller that gave up), the server may still count the
request *after* we stopped waiting, so its slot counts for an additional grace period. And the server's clock may run
slower than ours, so a window is taken to be longer by one part in ten thousand.

**A ledger is a histogram.** All that matters is *how many* slots end *when*, so slots have no names. A moment is
rounded up to the next tick, a 512th of the window, which errs on the safe side and costs at most 0.2 % of a window. The
slot of a request in flight is entered at the end of its lease (see :mod:`twdm_async.quota.lifetime`). Settling the slot
moves it from there to the moment in which the outcome was seen; giving it back removes it. If a process dies, it never
settles its slots, so they count for the lease and a window, and no other process has to clean up. Each operation takes
constant time, amortized, and a window typically has a few hundred entries, whatever the limit.

**Clients with different quotas may share a bucket.** The ledger has a histogram for each window that any of their
quotas has, and for the longest window in any of their tables. A window that is new to a ledger begins with what is
known from the longer windows.

A hold (after a 429), and what the server says is left, can only close the ledger further, never open it.

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
_TICKS = 512  # in a window
_MOST_TICKS = 4 * _TICKS  # with more entries than that, a window removes those that have ended
_LEASE_TICK = 0.25  # seconds; the same in all windows, so that the slot of a request in flight is found in each


def window(per: float) -> float:
    """Return the seconds for which a slot counts after its outcome was seen, if the quota's window is `per` seconds."""
    return per * _CLOCK_DRIFT


@frozen
class Usage:
    """The usage of a quota, at one moment.

    Args:
        used: slots that count, including those of requests in flight.
        in_flight: slots of requests in flight.
        held_for: seconds for which no request may leave, because the server said so.
        freeing: pairs of a number of slots, and the seconds until so many will have come free; in order. Slots of
            requests in flight are not included.
        per: seconds for which a slot counts after its outcome was seen.
    """

    used: int
    in_flight: int
    held_for: float
    freeing: tuple[tuple[int, float], ...]
    per: float

    def free_in(self, limit: float, count: int = 1) -> float:
        """Return the seconds until `count` more requests, one after the other, can have had one of `limit` slots. This
        is a lower bound, because outcomes may be late.
        """
        needed = count - (limit - self.used)  # so many must come free
        if needed <= 0:
            return self.held_for
        # Slots whose outcome is known come free first, then those of requests in flight; then the same slots again.
        rounds, place = divmod(int(needed) - 1, max(int(limit), self.used))
        first = next((seconds for number, seconds in self.freeing if number > place), self.per)
        return max(self.held_for, first + rounds * self.per)


class Window:
    """The histogram for one length of window. All of its `total` slots count until `next_end`; then :meth:`expire` is
    due.
    """

    __slots__ = (
        "began", "is_counted", "next_end", "per", "seen", "tick", "total", "under_way", "window",
    )  # fmt: skip

    def __init__(self, per: float, began: float = 0.0) -> None:
        self.per: float = per
        self.began: float = began  # slots that ended before are not known
        self.is_counted: bool = False  # whether a quota has this window; else it is only kept for later
        self.window: float = window(per)
        self.tick: float = per / _TICKS
        self.under_way: dict[int, int] = {}  # number of slots by the tick (of _LEASE_TICK) in which their lease ends
        self.seen: dict[int, int] = {}  # number of slots by the tick of their outcome
        self.total: int = 0  # slots in both
        self.next_end: float = math.inf  # no slot ends before this

    def used(self, now: float) -> int:
        """Return how many slots count at the moment `now`."""
        if now >= self.next_end:
            self.expire(now)
        return self.total

    def room(self, limit: int, count: int, now: float) -> int:
        """Return for how many more slots there is room, at least; if that is `count` or more, it may stop looking. Far
        from the `limit`, it need not find out which slots have ended.
        """
        return count if self.total + count <= limit else limit - self.used(now)

    def note_seen(self, at: float, count: int = 1) -> None:
        """Add `count` slots whose outcome was seen at the moment `at`."""
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
        """Copy into this new window what `other` knows."""
        self.began = max(other.began, now - other.window) if other.per < self.per else other.began
        self.under_way = dict(other.under_way)
        self.total = sum(self.under_way.values())
        self.next_end = -math.inf  # to be found
        for at, count in other.seen.items():
            self.note_seen(at * other.tick, count)

    def expire(self, now: float) -> None:
        """Forget the slots that no longer count."""
        for slots, tick in ((self.under_way, _LEASE_TICK), (self.seen, self.tick)):
            for at in [at for at in slots if at * tick + self.window <= now]:
                self.total -= slots.pop(at)
        self.next_end = self._first_end()

    def _first_end(self) -> float:
        """Return when the first slot ends, if no slot is settled before that."""
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
        self.held_until: float = -math.inf
        self.is_changed: bool = False  # since it was loaded
        self._windows: dict[float, Window] = {}

    def keep(self, per: float, now: float) -> Window:
        """Keep a histogram for windows of `per` seconds, too, and return it. A new one begins with what is known from
        the next longer window, or without one, from the longest window.
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
        """Count by `quota` from now on, if the ledger does not do so yet.

        Args:
            quota: the quota.
            now: the present moment.
            assume_spent: the part of the quota that counts as spent if not all of its window is known.

        Returns:
            The seconds of its window of which nothing is known; 0 if all of it is known, if the ledger counted by
            `quota` before, or if no other window of the ledger goes back further.
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
        """Return the histogram for `quota`, and the quota's limit."""
        return self._windows[quota.per], quota.limit

    def used(self, now: float, quota: Quota) -> int:
        """Return how many slots count in the window of `quota`, which must be kept already."""
        return self._windows[quota.per].used(now)

    def take(self, lease_end: float, count: int = 1, now: float = -math.inf) -> None:
        """Take `count` slots at the moment `now`, for requests that are over by `lease_end`."""
        self.is_changed = True
        at = int(lease_end / _LEASE_TICK) + 1
        for kept in self._windows.values():
            kept.total += count
            there = kept.under_way.get(at)
            if there is None:
                if len(kept.seen) > _MOST_TICKS:  # no call has asked for long how many of these still count
                    kept.expire(now)
                kept.under_way[at] = count
                kept.next_end = min(kept.next_end, at * _LEASE_TICK + kept.window)
            else:
                kept.under_way[at] = there + count

    def give_back(self, lease_end: float, count: int = 1) -> None:
        """Remove `count` slots whose requests never left."""
        self.is_changed = True
        at = int(lease_end / _LEASE_TICK) + 1
        for kept in self._windows.values():
            there = kept.under_way.pop(at, 0)
            kept.total -= min(there, count)
            if there > count:
                kept.under_way[at] = there - count

    def settle(self, lease_end: float, seen: float) -> None:
        """Let a slot count from the moment `seen`, in which the outcome was seen, or will have been seen at the latest.
        If the ledger no longer has the slot in flight, its request outlived the lease, and the slot counts anew.
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
        """Let no request leave before `until`, or before the end of an earlier hold if that is later."""
        self.is_changed = True
        self.held_until = max(self.held_until, until)

    def tighten(self, now: float, quota: Quota, remaining: int, until: float) -> None:
        """Take in that the server has `remaining` requests left in its window, which ends at `until`.

        Any difference was spent by others, and counts in this window until then. The server may or may not have counted
        the requests in flight; all of them are assumed to be counted, so that only what others certainly spent is
        added.
        """
        kept = self._windows[quota.per]
        missing = quota.limit - kept.used(now) - remaining
        if missing > 0:
            self.is_changed = True
            kept.note_seen(until - kept.window, missing)

    def usage(self, now: float, quota: Quota | None) -> Usage:
        """Return the usage of `quota`; with ``None``, only whether the bucket is held."""
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
        """The longest window that is kept, in seconds."""
        return max((window.per for window in self._windows.values()), default=0.0)

    def as_json(self) -> list[Any]:
        """Return the ledger as a store keeps it."""
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
