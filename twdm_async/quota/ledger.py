"""The ledger of one quota: who holds a slot, and until when.

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
The ledger is pure: time comes in as an argument, in seconds of a clock that never steps back.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque

_CLOCK_DRIFT = 1.0001
_MOST_FOREIGN = 100_000  # slots at once: a header must not be able to fill the memory


class Ledger:
    """The slots of one quota.

    Args:
        limit: slots; ``math.inf`` if nothing is documented, so that only a hold can close it.
        per: seconds a slot counts after its outcome was seen.
    """

    __slots__ = ("_expiries", "_held_until", "in_flight", "limit", "per")

    def __init__(self, limit: float, per: float) -> None:
        self.limit = limit
        self.per = per * _CLOCK_DRIFT
        self.in_flight = 0
        self._expiries: deque[float] = deque()  # of the slots whose outcome is known, soonest first
        self._held_until = -math.inf

    def used(self, now: float) -> int:
        """How many slots count."""
        expiries = self._expiries
        while expiries and expiries[0] <= now:
            expiries.popleft()
        return self.in_flight + len(expiries)

    def is_open(self, now: float) -> bool:
        """Whether a request may take a slot."""
        return self._held_until <= now and self.used(now) < self.limit

    def free_in(self, now: float, count: int = 1) -> float:
        """Seconds until `count` requests, one after the other, can have had a slot. At least that, if outcomes are
        late.
        """
        held = max(0.0, self._held_until - now)
        free = self.limit - self.used(now)
        if count <= free:
            return held
        # The slots come free in this order: those with a known expiry, then those under way; then the round begins
        # anew.
        rounds, place = divmod(count - max(int(free), 0) - 1, int(self.limit))
        first = self._expiries[place] - now if place < len(self._expiries) else self.per
        return max(held, first + rounds * self.per)

    def take(self) -> None:
        """A request is about to leave."""
        self.in_flight += 1

    def give_back(self) -> None:
        """It never left."""
        self.in_flight -= 1

    def settle(self, now: float, grace: float = 0.0) -> None:
        """Its outcome was seen now, or, with a `grace` in seconds, we stopped looking for it now."""
        self.in_flight -= 1
        if self.limit < math.inf:
            self._count_until(now + grace + self.per)

    def hold(self, until: float) -> None:
        """Nothing leaves before `until`. Holds join to the later one."""
        self._held_until = max(self._held_until, until)

    def tighten(self, now: float, remaining: int, until: float) -> None:
        """The server says that `remaining` are left in its window, which ends at `until`.

        What is missing was spent by somebody else, and counts until then. Requests under way, which the server may or
        may not have counted already, are all taken as counted, so that this finds only what others certainly spent.
        """
        if self.limit < math.inf:
            missing = int(self.limit) - self.used(now) - remaining
            for _ in range(min(missing, _MOST_FOREIGN)):
                self._count_until(until)

    def _count_until(self, expiry: float) -> None:
        if not self._expiries or self._expiries[-1] <= expiry:
            self._expiries.append(expiry)
        else:
            insort(self._expiries, expiry)
