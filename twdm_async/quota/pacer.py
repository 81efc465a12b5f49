"""Manners: how fast a burst leaves when the quota would let it leave at once.

A token bucket alone is no wall: it lets a full bucket pass and then drips, up to twice the limit less one in one
window. The ledger is the wall; this keeps what the ledger lets pass from arriving at the server in one blow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from twdm_async.quota.spec import Pace


class Pacer:
    """A token bucket; ``None`` as the pace lets everything pass.

    Only one caller may wait on it at a time: it would make a timer for each.
    """

    __slots__ = ("_bucket", "pace")

    def __init__(self, pace: Pace | None) -> None:
        self.pace = pace
        self._bucket = AsyncLimiter(pace.burst, pace.per) if pace else None

    def is_ready(self) -> bool:
        """Whether :meth:`pass_through` would not wait."""
        return self._bucket is None or self._bucket.has_capacity()

    def free_in(self, count: int) -> float:
        """Seconds until `count` have passed, one after the other."""
        if self.pace is None or self._bucket is None:
            return 0.0
        # The bucket does not say how much is left in it, only whether so much is.
        least, most = 0.0, float(self.pace.burst)
        for _ in range(20):
            middle = (least + most) / 2
            if self._bucket.has_capacity(middle):
                least = middle
            else:
                most = middle
        return max(0.0, count - most) * self.pace.per / self.pace.burst

    async def pass_through(self, most: int = 1) -> int:
        """Wait until it is polite to go. Returns how many may: at least one, and at most `most`."""
        if self._bucket is None:
            return most
        await self._bucket.acquire()
        passed = 1
        while passed < most and self._bucket.has_capacity():
            await self._bucket.acquire()  # does not wait
            passed += 1
        return passed
