"""The pace: how fast a burst leaves when the quota would let it leave at once.

A token bucket alone cannot enforce a quota: it lets a full bucket pass and then refills, which allows up to twice the
limit less one in one window. So the ledger enforces the quota, and the pace only keeps what the ledger allows from
arriving at the server all at once. A permit is spent when a request gets its slot and at no other time, so a pace as
large as the quota never binds.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

    from twdm_async.quota.spec import Pace

_HALVINGS = 24


class Pacer:
    """A token bucket.

    Args:
        pace: how many requests may leave at once, and how fast after that; ``None`` lets everything pass.
    """

    __slots__ = ("_bucket", "pace")

    def __init__(self, pace: Pace | None) -> None:
        self.pace: Pace | None = pace
        self._bucket: AsyncLimiter | None = None
        if pace is not None:
            from aiolimiter import AsyncLimiter  # noqa: PLC0415 - imported only if there is a pace

            self._bucket = AsyncLimiter(pace.burst, pace.per)

    def allows(self, count: int = 1) -> bool:
        """Tell whether `count` permits are available now."""
        return self._bucket is None or self._bucket.has_capacity(count)

    def spend(self) -> None:
        """Spend a permit, which must be available now."""
        if self._bucket is not None:
            with suppress(StopIteration):
                self._bucket.acquire().send(None)  # with a permit available it does not wait, so this runs to its end

    def free_in(self, count: int) -> float:
        """Return the seconds until `count` more permits will have become available, one after the other."""
        if self.pace is None or self._bucket is None:
            return 0.0
        if count <= self.pace.burst and self._bucket.has_capacity(count):
            return 0.0
        # The bucket does not tell how much is left in it, only whether a given amount is. So search for the amount.
        least, most = 0.0, float(self.pace.burst)
        for _ in range(_HALVINGS):
            middle = (least + most) / 2
            if self._bucket.has_capacity(middle):
                least = middle
            else:
                most = middle
        return max(0.0, count - least) * self.pace.per / self.pace.burst
