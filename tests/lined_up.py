"""A line in which values wait that do not know their place."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from attrs import define

from twdm_async import Lane
from twdm_async.quota.lanes import LaneQueue

T = TypeVar("T")


@define(eq=False)
class Standing(Generic[T]):
    """One of them."""

    value: T
    lane: Lane
    queue: Any = None
    before: Any = None
    after: Any = None


class Line(Generic[T]):
    """A :class:`LaneQueue` of values that are told apart by equality."""

    def __init__(self) -> None:
        self.queue = LaneQueue[Standing[T]]()
        self._standing: dict[T, Standing[T]] = {}

    def __len__(self) -> int:
        return len(self.queue)

    def push(self, value: T, lane: Lane) -> None:
        self._standing[value] = Standing(value, lane)
        self.queue.push(self._standing[value])

    def pop(self) -> T:
        return self.queue.pop().value

    def take_first(self) -> tuple[T, Lane]:
        """Remove the one whose turn it is; its lane may be charged later."""
        first = self.queue.peek()
        self.queue.discard(first)
        return first.value, first.lane

    def discard(self, value: T, *, is_served: bool = False) -> None:
        """Nothing happens if it was never there, or is there no more."""
        if value in self._standing:
            self.queue.discard(self._standing[value], is_served=is_served)

    def ahead_of(self, lane: Lane, value: T | None = None) -> int:
        return self.queue.ahead_of(lane, None if value is None else self._standing[value])
