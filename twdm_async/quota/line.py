"""A call that waits for a slot (a waiter), and all waiting calls of one account (a line)."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any

from attrs import define, field

from twdm_async._clock import Clock
from twdm_async.errors import QuotaWaitTooLong
from twdm_async.quota.lanes import Lane, LaneQueue
from twdm_async.quota.operations import Intent, ReplyTicket, Slot, Terms
from twdm_async.quota.pacer import Pacer
from twdm_async.quota.spec import Pace, Priority, Quota, Scope
from twdm_async.quota.store.contract import QuotaStore


class Waiter(asyncio.Future[Slot]):
    """A call that needs a slot, as a future of that slot.

    Args:
        line: the line in which it waits.
        lane: the lane in which it takes turns.
        deadline: when it gives up, by the ``monotonic()`` of the store's clock; ``None`` for never.
        recipient: the user id of the recipient of its message, if free replies are accounted for.
        intent: what is written together with its slot.
        loop: the running event loop.
    """

    __slots__ = (
        "after", "asked_at", "before", "deadline", "intent", "is_logged", "is_plain", "is_unasked", "lane", "line",
        "queue", "recipient",
    )  # fmt: skip

    def __init__(
        self,
        line: Line,
        lane: Lane,
        deadline: float | None,
        recipient: str | None,
        intent: Intent | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.line: Line = line
        self.lane: Lane = lane
        self.queue: Any = None  # its place in the line's queue
        self.before: Any = None
        self.after: Any = None
        self.deadline: float | None = deadline
        self.recipient: str | None = recipient
        self.intent: Intent | None = intent
        self.is_plain: bool = recipient is None and intent is None  # it can use any slot
        self.is_logged: bool = False  # whether its wait is in the log
        self.is_unasked: bool = False  # the store is still to be asked whether this is a free reply
        self.asked_at: float | None = None  # when the store was asked for its slot, until the store has answered

    def grant(self, slot: Slot) -> None:
        """End the wait with a slot."""
        self.line.remove(self)
        self.set_result(slot)

    def refuse(self, error: BaseException) -> None:
        """End the wait with `error`, unless it has ended already."""
        if not self.done():
            self.line.remove(self)
            self.set_exception(error)

    def cancel(self, msg: object = None) -> bool:
        """Give up, and leave the line to the others."""
        if not self.done():
            self.line.remove(self)
        return super().cancel(msg)

    def unused(self) -> Slot | None:
        """Leave the line. Return the slot if this call was granted one all the same."""
        if not self.done():
            self.line.remove(self)
            return None
        return None if self.cancelled() or self.exception() is not None else self.result()

    def make_ticket(self) -> ReplyTicket | None:
        """Make a ticket for the message, for one attempt to get a slot; return ``None`` without a recipient."""
        return None if self.recipient is None else self.line.terms[0].ticket(self.recipient)


@define(eq=False)
class Line:
    """The waiting calls of one account for one endpoint family.

    Args:
        terms: the limits that bind the calls, by priority.
        pacer: gives permits.
        store: the store that is asked for slots.
        clock: the source of time.
        max_waiting: how many calls may wait.
    """

    terms: tuple[Terms, ...]
    pacer: Pacer
    store: QuotaStore
    clock: Clock
    max_waiting: int
    waiters: LaneQueue[Waiter] = field(factory=LaneQueue[Waiter])
    unasked: int = 0
    """How many waiters the store is still to be asked about whether they are free replies."""
    asked: set[Waiter] = field(factory=set[Waiter])  # the store was asked for their slots and has not answered yet
    asking: int = 0  # how many slots the store was asked for and has not answered, for these and for plain calls
    asked_since: float = math.inf
    held_until: float = 0.0  # before that, not even a free reply may leave
    blocked: list[float] = field(factory=lambda: [0.0 for _ in Priority])  # until when, by priority
    family: str = field(init=False)
    account: str = field(init=False)
    turns: tuple[Lane, ...] = field(init=False)  # its lanes among the accounts at the dispatcher, by priority
    lane: Lane = field(init=False)  # the one of them in which it waits for its turn, if it does
    turn: Lane | None = None  # the one in which it has its turn, while the store has not answered yet
    queue: Any = None  # its place in that lane
    before: Any = None
    after: Any = None
    alarm_at: float = math.inf
    is_closed: bool = False
    by_person: dict[str, Waiter | dict[Waiter, None]] = field(factory=dict[str, "Waiter | dict[Waiter, None]"])
    _to_ask: deque[Waiter] = field(factory=deque[Waiter])  # the unasked waiters, and some that were asked for since

    def __attrs_post_init__(self) -> None:
        bucket = self.terms[0].claims[0].bucket
        self.family, self.account = bucket.family, bucket.owner
        self.turns = tuple([Lane(self.account, priority=priority) for priority in Priority])
        self.lane = self.turns[0]

    def join(self, waiter: Waiter) -> None:
        """Note the person to whom `waiter` would write."""
        if waiter.recipient is not None:
            person = waiter.recipient
            others = self.by_person.get(person)
            if others is None:  # the usual case; a dict is made only for several waiters
                self.by_person[person] = waiter
            elif isinstance(others, Waiter):
                self.by_person[person] = {others: None, waiter: None}
            else:
                others[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Forget `waiter`, whose wait has ended."""
        self.waiters.discard(waiter)
        self.note_asked(waiter)
        if waiter.recipient is not None:
            person = waiter.recipient
            others = self.by_person.get(person)
            if isinstance(others, dict):
                others.pop(waiter, None)
            if not others or others is waiter:
                self.by_person.pop(person, None)

    def waiting_for(self, person: str) -> list[Waiter]:
        """Return the waiters that would write to a person, in the order in which they came."""
        others = self.by_person.get(person)
        return [] if others is None else [others] if isinstance(others, Waiter) else list(others)

    def note_unasked(self, waiter: Waiter) -> None:
        """Note that the store is to be asked whether `waiter` is a free reply."""
        if not waiter.is_unasked:
            waiter.is_unasked = True
            self.unasked += 1
            self._to_ask.append(waiter)
            if len(self._to_ask) > 2 * self.unasked + 64:
                self._to_ask = deque(one for one in self._to_ask if one.is_unasked)

    def note_asked(self, waiter: Waiter) -> None:
        """Note that the store was asked about `waiter`, or need not be asked."""
        if waiter.is_unasked:
            waiter.is_unasked = False
            self.unasked -= 1

    def next_unasked(self) -> Waiter | None:
        """Return the next waiter that the store is to be asked about; ``None`` if there is none."""
        while self._to_ask and not self._to_ask[0].is_unasked:
            self._to_ask.popleft()
        return self._to_ask[0] if self._to_ask else None

    def too_long(self, waiter: Waiter, behind: int | None, max_wait: float) -> QuotaWaitTooLong | None:
        """Return an error if `waiter` is known to wait for longer than `max_wait` seconds, else ``None``. `behind` is
        how many calls wait before it, at most; ``None`` if only the pace is known to make it wait.
        """
        priority = waiter.lane.priority
        if behind is None:
            ahead = self.unasked - 1
            if self.pacer.free_in(ahead + 1) > max_wait:
                ahead = min(ahead, self.waiters.ahead_of(waiter.lane))
            return self.estimate(priority, ahead) if self.pacer.free_in(ahead + 1) > max_wait else None
        if self.estimate(priority, behind).wait <= max_wait:
            return None  # even the last call in the line would be in time, so its exact place does not matter
        item = waiter if waiter.queue is not None else None
        too_long = self.estimate(priority, self.waiters.ahead_of(waiter.lane, item) if behind else 0)
        return too_long if too_long.wait > max_wait else None

    def estimate(self, priority: Priority, ahead: int) -> QuotaWaitTooLong:
        """Return the error of a call with `ahead` calls before it. It tells how long the call would wait, at least."""
        bulk_ahead = max(0, ahead - self.waiters.waiting(Priority.INTERACTIVE))
        waits: list[tuple[float, Scope, Quota | Pace | None]] = [
            (self.pacer.free_in(max(ahead, self.asking) + 1), Scope.USER, self.pacer.pace),
            *(
                (standing.free_in(ahead, bulk_ahead), standing.bucket.scope, standing.quota)
                for standing in self.store.standings(self.terms[priority])
            ),
        ]
        seconds, scope, binding = max(waits, key=lambda wait: wait[0])
        return QuotaWaitTooLong(
            endpoint=self.family,
            scope=scope.value,
            wait=seconds,
            retry_at=self.clock.utc(seconds),
            limit=binding.burst if isinstance(binding, Pace) else binding.limit if binding else math.inf,
            per=binding.per if binding else 0.0,
        )
