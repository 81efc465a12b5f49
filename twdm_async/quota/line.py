"""A call that waits for a slot, and all calls of one account that do."""

from __future__ import annotations

import asyncio
import math
import secrets

from attrs import define, field

from twdm_async._clock import Clock
from twdm_async.errors import QuotaWaitTooLong
from twdm_async.quota.lanes import Lane, LaneQueue
from twdm_async.quota.operations import Conversant, Intent, Recipient, ReplyTicket, Slot, Terms
from twdm_async.quota.pacer import Pacer
from twdm_async.quota.spec import Pace, Priority, Quota, Scope
from twdm_async.quota.store.contract import QuotaStore


class Waiter(asyncio.Future[Slot]):
    """A call that wants a slot.

    Args:
        line: where it waits.
        lane: whose turn it takes.
        deadline: by the loop's clock, when it gives up.
        recipient: of the message it is for, if free replies are accounted for.
        intent: what is written together with its slot.
    """

    __slots__ = ("asked_at", "deadline", "intent", "is_plain", "is_queued", "lane", "line", "recipient")

    def __init__(
        self, line: Line, lane: Lane, deadline: float | None, recipient: Recipient | None, intent: Intent | None
    ) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.line = line
        self.lane = lane
        self.deadline = deadline
        self.recipient = recipient
        self.intent = intent
        self.is_plain = recipient is None and intent is None  # any slot will do
        self.is_queued = False  # it waits in the line's queue
        self.asked_at: float | None = None  # when the store was asked for it, if it has not answered yet

    def refuse(self, error: BaseException) -> None:
        """End the waiting with `error`, unless it has ended."""
        if not self.done():
            self.set_exception(error)

    def make_ticket(self) -> ReplyTicket | None:
        """Make a ticket of the message, for one attempt to get a slot."""
        if self.recipient is None:
            return None
        conversant = Conversant(self.line.app, self.line.account, self.recipient.person)
        return ReplyTicket(conversant, secrets.token_hex(8), self.recipient.server_time())


@define(eq=False)
class Line:
    """All calls of one account for one endpoint family.

    Args:
        terms: what they have to respect, by priority.
        pacer: gives permits.
        store: is asked for slots.
        clock: where time comes from.
        max_waiting: how many calls may wait.
    """

    terms: tuple[Terms, ...]
    pacer: Pacer
    store: QuotaStore
    clock: Clock
    max_waiting: int
    queue: LaneQueue[Waiter] = field(factory=LaneQueue[Waiter])
    unasked: dict[Waiter, None] = field(factory=dict[Waiter, None])  # it is not known whether these are free replies
    asked: set[Waiter] = field(factory=set[Waiter])  # the store was asked for these and has not answered yet
    asking: int = 0  # how many slots it was asked for, for these or for whoever's turn it is then
    asked_since: float = math.inf
    by_person: dict[str, dict[Waiter, None]] = field(factory=dict[str, "dict[Waiter, None]"])  # in order
    held_until: float = 0.0  # not even a free reply may leave before
    blocked: list[float] = field(factory=lambda: [0.0 for _ in Priority])  # until when, by priority
    family: str = field(init=False)
    app: str = field(init=False)
    account: str = field(init=False)
    turns: tuple[Lane, ...] = field(init=False)  # as which it may wait for its turn among the accounts, by priority
    turn: Lane | None = None  # as which it does
    alarm_at: float = math.inf
    is_closed: bool = False
    waiting: int = 0
    """How many calls wait."""

    def __attrs_post_init__(self) -> None:
        bucket = self.terms[0].claims[0].bucket
        self.family, self.app, self.account = bucket.family, bucket.app, bucket.owner
        self.turns = tuple([Lane(self.account, priority=priority) for priority in Priority])

    def too_long(self, waiter: Waiter, behind: int | None, max_wait: float) -> QuotaWaitTooLong | None:
        """Return the error of a call that is known to wait for longer than `max_wait`. `behind` is how many wait before
        it, at most; ``None`` if only the pace is known to make it wait.
        """
        priority = waiter.lane.priority
        if behind is None:
            ahead = len(self.unasked) - 1
            if self.pacer.free_in(ahead + 1) > max_wait:
                ahead = min(ahead, self.queue.ahead_of(waiter.lane))
            return self.estimate(priority, ahead) if self.pacer.free_in(ahead + 1) > max_wait else None
        if self.estimate(priority, behind).wait <= max_wait:
            return None  # even the last in line would be in time, so there is no need to look for the place
        item = waiter if waiter.is_queued else None
        too_long = self.estimate(priority, self.queue.ahead_of(waiter.lane, item) if behind else 0)
        return too_long if too_long.wait > max_wait else None

    def estimate(self, priority: Priority, ahead: int) -> QuotaWaitTooLong:
        """Tell how long one would wait, at the least, who has so many before it."""
        bulk_ahead = max(0, ahead - self.queue.waiting(Priority.INTERACTIVE))
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
