"""Who waits for which bucket in this process: one timer for each bucket, and one woken at a time.

Several accounts of an app wait for the app's bucket, each with a line of its own behind it. If every line had a timer,
all would wake for one free slot. So the lines wait *here*, in order: a timer, or a slot given back, wakes the first of
them. Whoever was woken holds the turn: it must wake the next one, unless it comes back because there was nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attrs import define, field

from twdm_async.quota.lanes import LaneQueue

if TYPE_CHECKING:
    from collections.abc import Hashable

    from twdm_async.quota.lanes import Lane
    from twdm_async.quota.spec import Priority

Turn = asyncio.Future[None]


@define(eq=False)
class _Lot:
    queue: LaneQueue[Turn] = field(factory=LaneQueue[Turn])
    timer: asyncio.TimerHandle | None = None


class Parking:
    """Where lines wait until a bucket may have a slot. It belongs to one store, and to the loop that uses it."""

    def __init__(self) -> None:
        self._lots: dict[Hashable, _Lot] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._lots

    def is_waited_for(self, bucket: Hashable, priority: Priority) -> bool:
        """Whether somebody waits for `bucket` who goes before a newcomer of this priority."""
        lot = self._lots.get(bucket)
        return lot is not None and lot.queue.has_waiting(priority)

    def enter(self, bucket: Hashable, lane: Lane, turn: Turn, seconds: float | None) -> None:
        """Wait until `turn` is done.

        Args:
            bucket: what to wait for.
            lane: whose it is; accounts take turns.
            turn: gets a result when it is worth asking for a slot.
            seconds: when the bucket may have a slot; ``None`` if somebody else sees to it.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # those who waited in another one are gone with it
            self._lots.clear()
            self._loop = loop
        lot = self._lots.setdefault(bucket, _Lot())
        lot.queue.push(turn, lane)
        if seconds is not None and (lot.timer is None or lot.timer.when() > loop.time() + seconds):
            self._disarm(lot)
            lot.timer = loop.call_later(seconds, self._ring, bucket, lot)

    def leave(self, bucket: Hashable, lane: Lane, turn: Turn) -> None:
        """Wait no longer. To be called however the waiting ended."""
        lot = self._lots.get(bucket)
        if lot is not None:
            lot.queue.discard(turn, lane)
            if not lot.queue:
                self._disarm(lot)
                del self._lots[bucket]

    def wake_next(self, bucket: Hashable) -> None:
        """Somebody may find a slot in `bucket` now: give the turn to whoever is first."""
        lot = self._lots.get(bucket)
        while lot is not None and lot.queue:
            turn = lot.queue.pop()
            if not turn.done():
                turn.set_result(None)
                return

    def _ring(self, bucket: Hashable, lot: _Lot) -> None:
        lot.timer = None
        if self._lots.get(bucket) is lot:
            self.wake_next(bucket)

    @staticmethod
    def _disarm(lot: _Lot) -> None:
        if lot.timer is not None:
            lot.timer.cancel()
            lot.timer = None
