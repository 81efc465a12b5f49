"""How one quota stands at one moment: how many requests may leave, and when more may. Pure.

The book decides by it, callers who wait are told by it how long that takes, and users see it as the state of quotas.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Final

from twdm_async.quota.reserve import BulkShare, bulk_share

if TYPE_CHECKING:
    from twdm_async.quota.ledger import Ledger, Usage
    from twdm_async.quota.operations import Bucket
    from twdm_async.quota.spec import Quota

_SHORTEST_RECHECK: Final = 0.001  # seconds
_ANY: Final = 10**12


class Standing:
    """How a quota stands for interactive requests, or for bulk ones.

    Args:
        bucket: what it counts.
        quota: ``None`` if the bucket has none; then it can only be held.
        ledger: all requests.
        bulk: bulk requests, if it is these that ask, and they are held back.
        reserve: the part of the quota that they leave to the others.
        now: the moment, by the book's clock.
    """

    def __init__(
        self, bucket: Bucket, quota: Quota | None, ledger: Ledger, bulk: Ledger | None, reserve: float, now: float
    ) -> None:
        self.bucket = bucket
        self.quota = quota
        self._ledger = ledger
        self._bulk = bulk
        self._reserve = reserve
        self._now = now

    @cached_property
    def usage(self) -> Usage:
        return self._ledger.usage(self._now, self.quota)

    @cached_property
    def share(self) -> tuple[BulkShare, int] | None:
        """What bulk requests may use, and what they do."""
        if self._bulk is None or self.quota is None:
            return None
        by_bulk = self._bulk.usage(self._now, self.quota)
        return bulk_share(self.quota, self._reserve, self.usage, by_bulk), by_bulk.used

    def room(self) -> int:
        """Count the requests that may leave now."""
        if self.quota is None:
            return _ANY
        left = self.quota.limit - self._ledger.used(self._now, self.quota)
        if self._bulk is None or self.share is None:
            return left
        share, by_bulk = self.share
        return min(left - share.kept, share.allowed - by_bulk)

    def wait(self) -> float:
        """Return the seconds until one may leave, at the least: outcomes of requests under way may come now."""
        held, quota = max(0.0, self._ledger.held_until - self._now), self.quota
        if quota is None:
            return held
        if self._bulk is None or self.share is None:
            return max(held, self._ledger.free_in(self._now, quota, quota.limit))
        share, by_bulk = self.share
        free_in = self._ledger.free_in(self._now, quota, quota.limit - share.kept)
        by_bulk_in = self._bulk.free_in(self._now, quota, share.allowed)
        recheck_in = max(_SHORTEST_RECHECK, share.allowed_in(by_bulk + 1) or quota.per / 50)
        return max(held, min(max(by_bulk_in, free_in), recheck_in))

    def free_in(self, ahead: int = 0, bulk_ahead: int = 0) -> float:
        """Return the seconds until one may leave that has so many before it, all of them or bulk ones, if outcomes take
        as long as they may.
        """
        seconds = self.usage.free_in(self.quota.limit if self.quota else math.inf, ahead + 1)
        if self.share is None:
            return seconds
        share, by_bulk = self.share
        return max(seconds, share.allowed_in(by_bulk + bulk_ahead + 1))
