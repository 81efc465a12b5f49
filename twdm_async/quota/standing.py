"""How one quota stands at one moment: how many requests may leave, and when more may. This module does no I/O.

The book decides by it, the wait queue estimates by it how long calls wait, and users see it as the state of quotas.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Final

from attrs import define

from twdm_async.quota.ledger import Ledger
from twdm_async.quota.operations import Bucket
from twdm_async.quota.reserve import BulkShare, bulk_share
from twdm_async.quota.spec import Quota

if TYPE_CHECKING:
    from twdm_async.quota.ledger import Usage

_SHORTEST_RECHECK: Final = 0.001  # seconds
_ANY: Final = 10**12


@define(slots=False, eq=False)  # cached_property needs a __dict__
class Standing:
    """The standing of a quota for interactive requests, or for bulk requests.

    Args:
        bucket: the bucket in which the requests count.
        quota: the quota; ``None`` if the bucket has none, and can only be held.
        ledger: the ledger of all requests.
        bulk: the ledger of bulk requests, if this is the standing for bulk requests with a reserve; else ``None``.
        reserve: the part of the quota that bulk requests leave to others.
        now: the present moment, by the book's clock.
    """

    bucket: Bucket
    quota: Quota | None
    _ledger: Ledger
    _bulk: Ledger | None
    _reserve: float
    _now: float

    @cached_property
    def usage(self) -> Usage:
        return self._ledger.usage(self._now, self.quota)

    @cached_property
    def share(self) -> tuple[BulkShare, Usage] | None:
        """What bulk requests may use, and what they use; ``None`` if this is not a standing for bulk requests."""
        if self._bulk is None or self.quota is None:
            return None
        by_bulk = self._bulk.usage(self._now, self.quota)
        return bulk_share(self.quota, self._reserve, self.usage, by_bulk), by_bulk

    def room(self) -> int:
        """Return how many bulk requests may leave now."""
        if self.quota is None or self.share is None:
            return _ANY
        share, by_bulk = self.share
        return min(self.quota.limit - self.usage.used - share.kept, share.allowed - by_bulk.used)

    def wait(self) -> float:
        """Return the seconds until it is worth asking again: until the next request may leave, at least."""
        if self.quota is None or self.share is None:
            return self.free_in()
        share, by_bulk = self.share
        recheck_in = max(_SHORTEST_RECHECK, share.allowed_in(by_bulk.used + 1) or self.quota.per / 50)
        free_in = self.usage.free_in(self.quota.limit - share.kept)
        return max(self.usage.held_for, min(max(free_in, by_bulk.free_in(share.allowed)), recheck_in))

    def free_in(self, ahead: int = 0, bulk_ahead: int = 0) -> float:
        """Return the seconds until a request may leave that has `ahead` requests before it, `bulk_ahead` of them bulk
        requests. This is a lower bound, because outcomes may be late.
        """
        if self.quota is None or self.share is None:
            return self.usage.free_in(self.quota.limit if self.quota else math.inf, ahead + 1)
        share, by_bulk = self.share
        free_in = self.usage.free_in(self.quota.limit - share.kept, ahead + 1)
        return max(free_in, share.allowed_in(by_bulk.used + bulk_ahead + 1))
