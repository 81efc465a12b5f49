"""What bulk calls may use of a quota, so that live ones always find something left. Pure.

Fairness alone does not save the live agents: once bulk has eaten the day, there is nothing left to be fair with. So a
part of each quota is the *reserve*: up to so many interactive calls are expected in any window, and a bulk call leaves
only if those can still all go, at once whenever they come.

* What interactive calls have used of their reserve need not be kept any longer.
* The reserve shrinks as the demand it is kept for becomes impossible: before the next slots come free by themselves,
  only so many can still arrive. They are taken to come at most `_RUSH` times as fast as the whole reserve in a window,
  and a tenth of the reserve may come all at once; that tenth is always kept.
* What is left to bulk is spread over the window: half of it may leave at once, the other half goes evenly. So if the
  reserve was set too small, there is still something left to interactive calls, which go before bulk ones wherever
  both wait.

The numbers are taken from the ledger, so all who share a store keep one reserve and one spread.
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
        capacity: slots that may count for bulk once it is spread over the whole window.
        part: of its capacity that it may use now.
        spread: seconds over which it is spread.
    """

    kept: int
    capacity: int
    part: float
    spread: float

    @property
    def allowed(self) -> int:
        """Slots that may count for bulk now, at least one."""
        return max(1, int(self.capacity * self.part + _ROUNDING))

    def allowed_in(self, count: int) -> float:
        """Seconds until so many slots may count for bulk; or, if it will never be so many, until the most may."""
        if count <= self.allowed:
            return 0.0
        return max(0.0, min(1.0, count / self.capacity) - self.part) / (1 - _AT_ONCE) * self.spread


def bulk_share(quota: Quota, reserve: float, everyone: Usage, bulk: Usage) -> BulkShare:
    """Tell what bulk calls may use of `quota`.

    Args:
        quota: the quota.
        reserve: the part of it that is kept.
        everyone: how far it is used.
        bulk: how far it is used by bulk calls.
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
    """Slots that must be free now, so that interactive calls find one whenever they come."""
    burst = math.ceil(whole / 10)
    most = max(burst, whole - interactive)  # that can come before the window is over

    def come_within(seconds: float) -> int:
        return min(most, burst + math.ceil(_RUSH * whole * seconds / everyone.per))

    kept, freed = burst, 0
    for number, seconds in (*everyone.freeing, (everyone.used, everyone.per)):
        kept = max(kept, come_within(seconds) - freed)  # just before these come free
        freed = number
    return kept
