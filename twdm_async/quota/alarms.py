"""Alarms: moments in which something is to be done, in one heap, with one timer for the earliest of them."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from twdm_async._clock import Clock, Timer

T = TypeVar("T")


class Alarms(Generic[T]):
    """Alarms that call back when their moment has come.

    Args:
        clock: the clock; moments are those of its ``monotonic()``.
        ring: the callback. It gets the present moment, and for each item that is due, its moment and the item.
        is_over: tells whether an item needs no alarm any longer.
    """

    def __init__(
        self, clock: Clock, ring: Callable[[float, list[tuple[float, T]]], None], is_over: Callable[[T], bool]
    ) -> None:
        self._clock = clock
        self._ring = ring
        self._is_over = is_over
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()
        self._tidy_at = 256  # items
        self._timer: Timer | None = None
        self._rings_at = math.inf  # the timer's moment, since a Timer does not tell it

    def set(self, at: float, item: T) -> None:
        """Set an alarm for `item` at the moment `at`. Call :meth:`arm` afterwards."""
        heapq.heappush(self._heap, (at, next(self._numbers), item))
        if len(self._heap) > self._tidy_at:
            self._heap = [one for one in self._heap if not self._is_over(one[2])]
            heapq.heapify(self._heap)
            self._tidy_at = 2 * len(self._heap) + 256

    def arm(self, at: float = math.inf) -> None:
        """Set the timer for the earliest alarm, or for `at` if that is earlier."""
        while self._heap and self._is_over(self._heap[0][2]):
            heapq.heappop(self._heap)
        at = min(at, self._heap[0][0]) if self._heap else at
        if at < self._rings_at or at == math.inf:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if at == math.inf else self._clock.call_at(at, self._come)
            self._rings_at = at

    def _come(self) -> None:
        self._timer = None
        self._rings_at = math.inf
        now = self._clock.monotonic()
        due: list[tuple[float, T]] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, item = heapq.heappop(self._heap)
            due.append((at, item))
        self._ring(now, due)
