"""How much of a quota bulk calls may use, so that interactive calls always find slots left. This module does no I/O.

Fairness alone does not protect interactive calls: once bulk calls have used up the day's quota, there is nothing left
to share fairly. So a part of each quota is the *reserve*. It is the number of interactive calls that are expected in
any window, and a bulk call leaves only if all of these can still leave without waiting, whenever they come.

* What interactive calls have used of the reserve is no longer kept.
* The reserve shrinks as the demand for which it is kept becomes impossible: before the next slots come free by
  themselves, only so many interactive calls can still come. They are assumed to come at most `_RUSH` times as fast as
  if the whole reserve were spread over a window; in addition, a tenth of the reserve may come all at once, so that
  tenth is always kept.
* What is left to bulk calls is spread over the window: half of it may leave at once, the other half leaves evenly. So
  even if the reserve was set too small, something is left to interactive calls, which go before bulk calls wherever
  both wait.

The numbers come from the ledger, so all clients that share a store share one reserve and one spread.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from twdm_async.quota.ledger import Usage
    from twdm_async.quota.spec import Quota

_RUSH = 4.0
_AT_ONCE = 0.5
_ROUNDING = 1e-9


@frozen
class BulkShare:
    """What bulk calls may use of one quota now.

    Args:
        kept: slots that must be left to interactive calls.
        capacity: slots that bulk calls may use once they are spread over the whole window.
        part: the part of `capacity`, up to 1, that bulk calls may use now.
        spread: seconds over which bulk calls are spread.
    """

    kept: int
    capacity: int
    part: float
    spread: float

    @property
    def allowed(self) -> int:
        """The number of slots that may count for bulk calls now, at least one."""
        return max(1, int(self.capacity * self.part + _ROUNDING))

    def allowed_in(self, count: int) -> float:
        """Return the seconds until `count` slots may count for bulk calls; if `count` is more than the capacity, the
        seconds until the whole capacity may.
        """
        if count <= self.allowed:
            return 0.0
        return max(0.0, min(1.0, count / self.capacity) - self.part) / (1 - _AT_ONCE) * self.spread


def bulk_share(quota: Quota, reserve: float, everyone: Usage, bulk: Usage) -> BulkShare:
    """Return what bulk calls may use of `quota`.

    Args:
        quota: the quota.
        reserve: the part of the quota that is kept for interactive calls.
        everyone: the usage by all calls.
        bulk: the usage by bulk calls.
    """
    whole = int(quota.limit * reserve)
    if whole == 0:
        return BulkShare(kept=0, capacity=quota.limit, part=1.0, spread=0.0)
    interactive = max(0, everyone.used - bulk.used)
    kept = _kept(whole, interactive, everyone)
    capacity = max(1, quota.limit - interactive - kept)
    age = everyone.per - bulk.freeing[0][1] if bulk.freeing else 0.0
    part = min(1.0, _AT_ONCE + (1 - _AT_ONCE) * max(0.0, age) / everyone.per)
    return BulkShare(kept=kept, capacity=capacity, part=part, spread=everyone.per)


def _kept(whole: int, interactive: int, everyone: Usage) -> int:
    """Return how many slots must be free now, so that interactive calls find a slot whenever they come."""
    burst = math.ceil(whole / 10)
    most = max(burst, whole - interactive)  # interactive calls that can still come before the window is over

    def come_within(seconds: float) -> int:
        return min(most, burst + math.ceil(_RUSH * whole * seconds / everyone.per))

    kept, freed = burst, 0
    for number, seconds in (*everyone.freeing, (everyone.used, everyone.per)):
        kept = max(kept, come_within(seconds) - freed)  # just before these come free
        freed = number
    return kept
