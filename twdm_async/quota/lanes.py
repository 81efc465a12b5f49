"""Which of the waiting calls goes next: start-time fair queueing, as a pure data structure.

Each agent has a lane. Within a lane, calls are served first in, first out. Among lanes, each grant costs a lane
``1 / weight`` of virtual time, and the lane whose next grant starts earliest in virtual time goes first. A lane that
was idle starts at the present virtual time, so idling neither costs a lane its share nor saves one up. Lanes of a
higher priority go before all others.

Joining, leaving and being served take time logarithmic in the number of lanes. A lane in which no call waits costs
nothing and is forgotten.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from attrs import Attribute, define, field, frozen

from twdm_async._numbers import checked_number, valid
from twdm_async.errors import InvalidInput
from twdm_async.quota.spec import Priority

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """A lane of the wait queue. Its calls, such as those of one agent, take turns with the calls of other lanes.

    Args:
        key: identifies the lane among those of its priority.
        weight: its share, compared with lanes of weight 1; from a millionth to a billion.
        priority: its priority; calls of a higher priority all go first.

    Raises:
        InvalidInput: `key` is not a string, `weight` is not a number in its range, or `priority` is not a Priority.
    """

    key: str = field(default="", validator=_text)
    weight: float = field(default=1.0, validator=valid(checked_number))
    priority: Priority = field(default=Priority.INTERACTIVE, converter=_priority)


class Queued(Protocol):
    """An item that can wait in a queue. It stores its own place in the linked list of its lane.

    Args:
        lane: the lane in which it waits.
        queue: the linked list of its lane while it waits, else None. `before` and `after` are its neighbours in it.
    """

    lane: Any
    queue: Any
    before: Any
    after: Any


T = TypeVar("T", bound=Queued)


@define(eq=False)
class _Queue(Generic[T]):
    """The waiting items of one lane, as a linked list from `first` to `last`."""

    key: str
    start: float  # virtual time at which the grant of the first item starts
    least: float  # the least weight of its items so far, and the greatest: agents may share a lane
    most: float
    first: Any = None
    last: Any = None
    length: int = 0
    ticket: int = 0  # the number of its entry among the heads


class LaneQueue(Generic[T]):
    """All items that wait for the same thing, in all lanes."""

    def __init__(self) -> None:
        self._queues = tuple([dict[str, _Queue[T]]() for _ in _PRIORITIES])  # by priority and key
        # (priority, start, arrival number, queue): entries whose queue has moved on or gone are skipped
        self._heads: list[tuple[int, float, int, _Queue[T]]] = []
        self._arrivals = itertools.count(1)
        # The virtual time at which a lane that ran empty would start again, kept for as long as that is ahead of the
        # present. Without it, a lane that never has more than one item would start anew each time, and starve lanes
        # that have several.
        self._finished = tuple([dict[str, float]() for _ in _PRIORITIES])
        self._finishes: list[tuple[int, float, str]] = []
        self._virtual_time = [0.0 for _ in _PRIORITIES]
        self._lengths = [0 for _ in _PRIORITIES]
        self.length: int = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        for queues in self._queues:
            for queue in queues.values():
                item = queue.first
                while item is not None:
                    yield item
                    item = item.after

    def has_waiting(self, priority: Priority) -> bool:
        """Tell whether an item of this priority or a higher one waits."""
        return any(self._lengths[: priority + 1])

    def next_priority(self) -> Priority:
        """Return the priority of the item whose turn it is. Meaningless if none waits."""
        return Priority.INTERACTIVE if self._lengths[Priority.INTERACTIVE] else Priority.BULK

    def waiting(self, priority: Priority) -> int:
        """Return how many items of this priority wait."""
        return self._lengths[priority]

    def push(self, item: T) -> None:
        """Add `item` to the end of its lane."""
        lane = item.lane
        rank = int(lane.priority)
        queue = self._queues[rank].get(lane.key)
        if queue is None:
            now = self._virtual_time[rank]
            start = max(now, self._finished[rank].get(lane.key, now))
            queue = _Queue[T](lane.key, start, lane.weight, lane.weight)
            self._queues[rank][lane.key] = queue
            self._announce(rank, queue)
        elif not queue.least <= lane.weight <= queue.most:
            queue.least, queue.most = min(queue.least, lane.weight), max(queue.most, lane.weight)
        item.queue, item.before, item.after = queue, queue.last, None
        if queue.last is None:
            queue.first = item
        else:
            queue.last.after = item
        queue.last = item
        queue.length += 1
        self._lengths[rank] += 1
        self.length += 1

    def peek(self) -> T:
        """Return the item whose turn it is.

        Raises:
            IndexError: no item waits.
        """
        first: T = self._head()[3].first  # an empty lane has no head
        return first

    def pop(self) -> T:
        """Remove the item whose turn it is, and return it.

        Raises:
            IndexError: no item waits.
        """
        item = self.peek()
        rank, start, _, queue = heapq.heappop(self._heads)
        self._unlink(item)
        self._serve(rank, start, queue, item)
        return item

    def charge(self, lane: Lane) -> None:
        """Charge `lane` for a turn of an item that was discarded before it was known to be served."""
        if self.length == 0:
            return  # no other item waits that could have had the turn
        rank = int(lane.priority)
        queue, now = self._queues[rank].get(lane.key), self._virtual_time[rank]
        start = max(now, self._finished[rank].get(lane.key, now)) if queue is None else queue.start
        self._advance(rank, start)
        if queue is None:
            self._finish(rank, lane.key, start + 1.0 / lane.weight)
        else:
            queue.start = start + 1.0 / lane.weight
            self._announce(rank, queue)

    def discard(self, item: T, *, is_served: bool = False) -> None:
        """Remove `item`, wherever it stands, and charge its lane if it was served. Do nothing if it does not wait."""
        queue, rank = item.queue, int(item.lane.priority)
        if queue is None:
            return
        self._unlink(item)
        if is_served:
            first_rank, start, *_ = self._head()
            self._serve(rank, start if first_rank == rank else -math.inf, queue, item)
        elif queue.first is None:
            self._retire(rank, queue)

    def _unlink(self, item: T) -> None:
        """Take `item` out of its lane."""
        queue, rank, before, after = item.queue, int(item.lane.priority), item.before, item.after
        if before is None:
            queue.first = after
        else:
            before.after = after
        if after is None:
            queue.last = before
        else:
            after.before = before
        item.queue = item.before = item.after = None
        queue.length -= 1
        self._lengths[rank] -= 1
        self.length -= 1

    def _serve(self, rank: int, now: float, queue: _Queue[T], item: T) -> None:
        """Charge the lane of `item`, which was served at the virtual time `now`."""
        self._advance(rank, now)
        queue.start += 1.0 / item.lane.weight
        if queue.first is None:
            self._retire(rank, queue)
        else:
            self._announce(rank, queue)

    def ahead_of(self, lane: Lane, item: T | None = None) -> int:
        """Return how many of the waiting items would certainly be served before `item`, which waits in `lane`. Without
        `item`, return it for a newcomer to `lane`.

        If two items would start at the same virtual time, the one that came to the head of its lane first goes first;
        if that is not known yet, the other item is not counted.
        """
        rank = int(lane.priority)
        now = self._virtual_time[rank]
        own = self._queues[rank].get(lane.key)
        place = 0 if own is None else own.length
        while item is not None:
            item, place = item.after, place - 1
        start = self._finished[rank].get(lane.key, now) if own is None else own.start + place / own.most
        ahead = place + sum(self._lengths[:rank])
        for queue in self._queues[rank].values():
            if queue is not own and queue.first is not None:
                starting_before = math.ceil((start - queue.start) * queue.least - _ROUNDING)
                if own is None and queue.start <= start:  # the newcomer comes to the head of its lane last of all
                    starting_before = max(1, starting_before)
                ahead += min(queue.length, max(0, starting_before))
        return ahead

    def _announce(self, rank: int, queue: _Queue[T]) -> None:
        """Queue a lane for its turn by the start of its next grant; among equals, behind the others."""
        queue.ticket = next(self._arrivals)
        heapq.heappush(self._heads, (rank, queue.start, queue.ticket, queue))
        if len(self._heads) > 2 * sum(map(len, self._queues)) + 64:  # most entries are outdated
            self._heads = [entry for entry in self._heads if entry[3].ticket == entry[2]]
            heapq.heapify(self._heads)

    def _head(self) -> tuple[int, float, int, _Queue[T]]:
        while self._heads[0][3].ticket != self._heads[0][2]:
            heapq.heappop(self._heads)
        return self._heads[0]

    def _retire(self, rank: int, queue: _Queue[T]) -> None:
        del self._queues[rank][queue.key]
        queue.ticket = 0
        if not any(self._queues):
            self._heads.clear()
            self._finishes.clear()
            self._virtual_time = [0.0 for _ in _PRIORITIES]
            for finished in self._finished:
                finished.clear()
        elif queue.start > self._virtual_time[rank] and self._finished[rank].get(queue.key) != queue.start:
            self._finish(rank, queue.key, queue.start)

    def _finish(self, rank: int, key: str, start: float) -> None:
        """Note the virtual time at which a lane that ran empty would start again."""
        self._finished[rank][key] = start
        heapq.heappush(self._finishes, (rank, start, key))

    def _advance(self, rank: int, now: float) -> None:
        """Advance the virtual time to `now`, and forget empty lanes that would not start later than that."""
        self._virtual_time[rank] = now = max(now, self._virtual_time[rank])
        while self._finishes and self._finishes[0][0] <= rank and self._finishes[0][1] <= now:
            of, finish, key = heapq.heappop(self._finishes)
            if self._finished[of].get(key) == finish:
                del self._finished[of][key]
