"""Who goes next among those who wait: start-time fair queueing, as a pure data structure.

Each agent is a lane. Inside a lane it is first in, first out. Among lanes, each grant costs a lane ``1 / weight`` of
virtual time, and the lane whose next grant starts earliest in virtual time goes first. A lane that was idle starts at
the present virtual time, so it neither pays for having been away nor saves anything up. Lanes of a higher priority go
before all others.

Joining, leaving and being served take time logarithmic in the number of lanes. A lane in which nobody waits costs
nothing and is forgotten.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from typing import Generic, TypeVar

from attrs import Attribute, define, field, frozen

from twdm_async._numbers import checked_number, valid
from twdm_async.errors import InvalidInput
from twdm_async.quota.spec import Priority

T = TypeVar("T")
_Key = tuple[int, str]  # an int, since an enum's hash is slow
_PRIORITIES = tuple(Priority)
_ROUNDING = 1e-9


def _text(_: object, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str):
        raise InvalidInput(parameter=attribute.name, problem="must be a str")


def _priority(value: Priority) -> Priority:
    try:
        return Priority(value)
    except ValueError:
        raise InvalidInput(parameter="priority", problem="must be a Priority") from None


@frozen
class Lane:
    """A place in the wait queue for calls that take turns with those of other lanes, such as one agent's.

    Args:
        key: what tells it from other lanes.
        weight: its share beside lanes of weight 1.
        priority: lanes of a higher priority all go first.

    Raises:
        InvalidInput: `key` is not a string, `weight` is not a positive number, or `priority` is not a Priority.
    """

    key: str = field(default="", validator=_text)
    weight: float = field(default=1.0, validator=valid(checked_number))
    priority: Priority = field(default=Priority.INTERACTIVE, converter=_priority)


@define(eq=False)
class _Queue(Generic[T]):
    waiting: OrderedDict[T, float]  # in order of arrival; the value is 1 / weight
    start: float  # virtual time at which the first one's grant starts
    ticket: int = 0  # the number of its entry among the heads


class LaneQueue(Generic[T]):
    """Everyone who waits for one thing. Items are told apart by hash and equality."""

    def __init__(self) -> None:
        self._queues: dict[_Key, _Queue[T]] = {}
        # (priority, start, arrival number, key): entries whose queue has moved on or gone are skipped
        self._heads: list[tuple[int, float, int, _Key]] = []
        self._arrivals = itertools.count(1)
        # Where a lane that ran empty would start again, kept for as long as that is ahead of the present virtual time;
        # else a lane that only ever has one waiting would start afresh each time and starve the lanes that queue.
        self._finished: dict[_Key, float] = {}
        self._finishes: list[tuple[int, float, _Key]] = []
        self._virtual_time = [0.0 for _ in _PRIORITIES]
        self._lengths = [0 for _ in _PRIORITIES]

    def __len__(self) -> int:
        return sum(self._lengths)

    def __bool__(self) -> bool:
        return bool(self._queues)

    def has_waiting(self, priority: Priority) -> bool:
        """Tell whether somebody waits who has this priority or a higher one."""
        return any(self._lengths[: priority + 1])

    def next_priority(self) -> Priority:
        """Return the priority of the one whose turn it is, if somebody waits."""
        return Priority.INTERACTIVE if self._lengths[Priority.INTERACTIVE] else Priority.BULK

    def waiting(self, priority: Priority) -> int:
        """Return how many of this priority wait."""
        return self._lengths[priority]

    def push(self, item: T, lane: Lane) -> None:
        """Let `item` join the end of its lane."""
        key = _key(lane)
        queue = self._queues.get(key)
        if queue is None:
            now = self._virtual_time[lane.priority]
            queue = self._queues[key] = _Queue(OrderedDict(), max(now, self._finished.get(key, now)))
            self._announce(key, queue)
        queue.waiting[item] = 1.0 / lane.weight
        self._lengths[lane.priority] += 1

    def peek(self) -> T:
        """Return the item whose turn it is.

        Raises:
            IndexError: nobody waits.
        """
        return next(iter(self._queues[self._head()[3]].waiting))

    def pop(self) -> T:
        """Remove the item whose turn it is, and return it.

        Raises:
            IndexError: nobody waits.
        """
        while True:
            priority, start, ticket, key = heapq.heappop(self._heads)
            queue = self._queues.get(key)
            if queue is not None and queue.ticket == ticket:
                break
        item, cost = queue.waiting.popitem(last=False)
        self._lengths[priority] -= 1
        self._advance(priority, start)
        queue.start = start + cost
        if queue.waiting:
            self._announce(key, queue)
        else:
            self._retire(key, queue)
        return item

    def discard(self, item: T, lane: Lane, *, is_served: bool = False) -> None:
        """Remove `item`, wherever it stands; its lane pays if it was served. Nothing happens if it is not there."""
        key = _key(lane)
        queue = self._queues.get(key)
        cost = queue.waiting.pop(item, None) if queue is not None else None
        if queue is None or cost is None:
            return
        self._lengths[lane.priority] -= 1
        if is_served:
            priority, start, *_ = self._head()
            if priority == lane.priority:
                self._advance(priority, start)
            queue.start += cost
            self._announce(key, queue)
        if not queue.waiting:
            self._retire(key, queue)

    def ahead_of(self, lane: Lane, item: T | None = None) -> int:
        """Return how many of those who wait now would certainly be granted before `item`, which waits in `lane`; or
        without one, before one who joined it now.

        Where two would start at the same virtual time, whichever came to the head of its lane first goes first; where
        that is not known yet, the other one is not counted.
        """
        key = _key(lane)
        now = self._virtual_time[lane.priority]
        own = self._queues.get(key)
        place = 0 if own is None else len(own.waiting) if item is None else list(own.waiting).index(item)
        start = self._finished.get(key, now) if own is None else own.start + place / lane.weight
        ahead = 0
        for (priority, _), queue in self._queues.items():
            if priority < lane.priority or queue is own:
                ahead += place if queue is own else len(queue.waiting)
            elif priority == lane.priority:
                cost = next(iter(queue.waiting.values()))
                starting_before = math.ceil((start - queue.start) / cost - _ROUNDING)
                if own is None and queue.start <= start:  # the newcomer comes to the head of its lane last of all
                    starting_before = max(1, starting_before)
                ahead += min(len(queue.waiting), max(0, starting_before))
        return ahead

    def _announce(self, key: _Key, queue: _Queue[T]) -> None:
        """Let a lane take its turn by when its next grant starts; among equals, after the others."""
        queue.ticket = next(self._arrivals)
        heapq.heappush(self._heads, (key[0], queue.start, queue.ticket, key))
        if len(self._heads) > 2 * len(self._queues) + 64:  # mostly of lanes that gave up
            self._heads = [entry for entry in self._heads if self._is_current(entry)]
            heapq.heapify(self._heads)

    def _head(self) -> tuple[int, float, int, _Key]:
        while not self._is_current(self._heads[0]):
            heapq.heappop(self._heads)
        return self._heads[0]

    def _is_current(self, entry: tuple[int, float, int, _Key]) -> bool:
        queue = self._queues.get(entry[3])
        return queue is not None and queue.ticket == entry[2]

    def _retire(self, key: _Key, queue: _Queue[T]) -> None:
        del self._queues[key]
        if not self._queues:
            self._heads.clear()
            self._finished.clear()
            self._finishes.clear()
            self._virtual_time = [0.0 for _ in _PRIORITIES]
        elif queue.start > self._virtual_time[key[0]] and self._finished.get(key) != queue.start:
            self._finished[key] = queue.start
            heapq.heappush(self._finishes, (key[0], queue.start, key))

    def _advance(self, priority: int, now: float) -> None:
        """Let the virtual time go on to `now`, and forget the lanes that would not start later."""
        self._virtual_time[priority] = now = max(now, self._virtual_time[priority])
        while self._finishes and self._finishes[0][0] <= priority and self._finishes[0][1] <= now:
            _, finish, key = heapq.heappop(self._finishes)
            if self._finished.get(key) == finish:
                del self._finished[key]


def _key(lane: Lane) -> _Key:
    return (int(lane.priority), lane.key)
