"""The wait queue: which call gets the next slot of an endpoint family, and when the store is asked for that slot.

If no other call waits, a call asks the store for its slot at once. Else it joins the queue of its account, which has a
lane for each agent (:mod:`twdm_async.quota.lanes`). All accounts of an app that use one store share a dispatcher. The
dispatcher asks for slots for an account while its pace has permits left and its buckets are not known to be full;
accounts take turns. A slot goes to the call whose turn it is when the slot comes. So an interactive call that comes
late still goes before bulk calls that came early, and a call whose caller gave up is passed over.

A message to a person may be a free reply. So the dispatcher asks the store for each message separately when it comes,
and again when the person writes, even while no other call of the account may leave. A call that has a recipient or an
intent keeps its place in the queue while the store is asked for its slot. A *plain* call, which has neither, can use
any slot.

All of this runs in callbacks of the event loop; granting a slot starts no task. One timer serves all deadlines, and
all moments in which it makes sense to ask again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from twdm_async._log import quiet_logger
from twdm_async.errors import ClientClosed, QuotaQueueFull, QuotaStoreFailed
from twdm_async.quota.alarms import Alarms
from twdm_async.quota.lanes import LaneQueue
from twdm_async.quota.line import Line, Waiter
from twdm_async.quota.operations import GiveBack, Granted, Take, Wait
from twdm_async.quota.spec import Priority, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twdm_async.errors import QuotaWaitTooLong
    from twdm_async.quota.operations import Answer, Slot, Terms
    from twdm_async.quota.store.contract import QuotaStore

_LARGEST_BATCH: Final = 64  # slots that are asked for in one question to the store
_LARGEST_TURN: Final = 128  # slots that are asked for in one turn of the event loop
_MOST_PENDING: Final = 64  # questions to the store that have no answer yet
_STORE_PATIENCE: Final = 1.0  # seconds a store may take to answer, even for a call that does not want to wait
_SHORTEST_BLOCK: Final = 0.001  # seconds
_RECHECK: Final = 0.05  # seconds until the dispatcher tries again to ask whether a message is a free reply
_SHORTEST_SHARED_BLOCK: Final = 0.02  # seconds
_LONG_WAIT: Final = 1.0  # seconds; a call that waits for longer is logged

_log = quiet_logger(__name__)


class Dispatcher:
    """The wait queue of one endpoint family and app, before one store, in the running loop."""

    def __init__(self, store: QuotaStore) -> None:
        self._store = store
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._now = store.clock.monotonic
        self._lines: dict[str, WeakSet[Line]] = {}  # by account
        self._ready: LaneQueue[Line] = LaneQueue()  # lines for which it may make sense to ask
        self._blocked = [0.0 for _ in Priority]  # until when the app's bucket is full, by priority
        self._pending = 0  # questions to the store that have no answer yet
        self._is_dispatching = False
        self._longest_block = store.clock.longest_block
        self._alarms = Alarms[Line | Waiter](
            store.clock, self._ring, lambda whose: isinstance(whose, Waiter) and whose.done()
        )

    def add(self, line: Line) -> None:
        """Accept calls of `line`."""
        self._lines.setdefault(line.account, WeakSet()).add(line)

    def remove(self, line: Line) -> None:
        """Refuse all waiting calls of `line`, and accept no more."""
        line.is_closed = True
        self._lines[line.account].discard(line)
        if not self.loop.is_closed():
            self._fail(line, ClientClosed(endpoint=line.family))
        if self.loop.is_running():
            self._dispatch()

    def is_idle(self, line: Line) -> bool:
        """Tell whether no call waits that might go before a call of `line`."""
        return not line.waiters.length and not self._ready.length

    def is_first(self, line: Line, priority: Priority) -> bool:
        """Tell whether no call waits that goes before a new call of this priority."""
        return not line.waiters.has_waiting(priority) and not self._ready.has_waiting(priority)

    def unblock(self, account: str) -> None:
        """Ask again for the calls of `account`, and for all calls that wait for the app's quota: a slot has come
        free.
        """
        self._blocked = [0.0 for _ in Priority]
        for line in self._lines.get(account, ()):
            line.blocked = [0.0 for _ in Priority]
            self._touch(line)
        self._dispatch()

    def hear(self, account: str, person: str) -> None:
        """Ask again for the messages of `account` to a person, because they may be free replies now."""
        for line in self._lines.get(account, ()):
            for waiter in line.waiting_for(person):
                line.note_unasked(waiter)
            self._touch(line)
        self._dispatch()

    def join(self, waiter: Waiter) -> None:
        """Take in a new call: ask for its slot at once, or let it wait for its turn."""
        line = waiter.line
        line.join(waiter)
        priority, is_message = waiter.lane.priority, waiter.recipient is not None
        is_first = self.is_first(line, priority)
        if (not line.unasked if is_message else is_first) and line.pacer.allows(line.asking + 1):
            self._ask_for(waiter, may_spend=is_first)
        else:
            if is_message:
                line.note_unasked(waiter)
            self._enqueue(waiter, None if is_message else len(line.waiters))
        if waiter.deadline is not None and not waiter.done():
            self._alarms.set(waiter.deadline, waiter)
        self._dispatch()

    def _enqueue(self, waiter: Waiter, behind: int | None) -> None:
        """Put a call into the queue, or refuse it. `behind` is how many calls wait before it; ``None`` if only the pace
        is known to make it wait.
        """
        line, is_new = waiter.line, waiter.queue is None
        if is_new and line.is_closed:
            waiter.refuse(ClientClosed(endpoint=line.family))
        elif is_new and len(line.waiters) >= line.max_waiting:
            waiter.refuse(QuotaQueueFull(endpoint=line.family, waiting=len(line.waiters)))
        elif waiter.deadline is not None:
            too_long = line.too_long(waiter, behind, waiter.deadline - self._now())
            if too_long is not None:
                waiter.refuse(too_long)
        if is_new and not waiter.done():
            line.waiters.push(waiter)
            self._touch(line)
        if not waiter.done():
            self._log_waits(line, [waiter])

    def _expire(self, waiter: Waiter, now: float) -> None:
        """Refuse a call whose deadline has come, or give the store a moment more to answer."""
        line = waiter.line
        if waiter.asked_at is not None and now < waiter.asked_at + _STORE_PATIENCE:
            self._alarms.set(waiter.asked_at + _STORE_PATIENCE, waiter)
        elif now >= line.asked_since + _STORE_PATIENCE:
            problem = "it did not answer in time; see that it is reachable, and that no other process locks it"
            waiter.refuse(QuotaStoreFailed(store=self._store.address, problem=problem))
        else:
            waiter.refuse(line.estimate(waiter.lane.priority, 0))

    def _ask_unasked(self, line: Line) -> None:
        """Ask, as the pace allows, for messages that may be free replies, while no other call of the line may leave."""
        while (waiter := line.next_unasked()) is not None:
            if line.held_until > self._now():
                self._wake(line, line.held_until)
                return
            priority = waiter.lane.priority
            is_blocked = max(self._blocked[priority], line.blocked[priority]) > self._now()
            if is_blocked and waiter.asked_at is None and line.pacer.allows(line.asking + 1):
                self._ask_for(waiter, may_spend=False)
            else:
                if waiter.asked_at is None:
                    seconds = line.pacer.free_in(line.asking + 1) or _RECHECK  # the app's quota may be spent by then
                    self._wake(line, self._now() + max(_SHORTEST_BLOCK, seconds))
                return

    def _ask_next(self, line: Line) -> int:
        """Ask for the call whose turn it is in `line`; or for several plain calls at once, if no other account waits.
        Return for how many.
        """
        head, priority = line.waiters.peek(), line.waiters.next_priority()
        most = 1 if self._ready or not head.is_plain else min(line.waiters.waiting(priority), _LARGEST_BATCH)
        while most and not line.pacer.allows(line.asking + most):
            most //= 2
        if most and head.is_plain:
            self._ask(line, Take(line.terms[priority], most), priority, None)
        elif most:
            self._ask_for(head)
        return most

    def _ask_for(self, waiter: Waiter, *, may_spend: bool = True) -> None:
        """Ask for the slot of one call."""
        line = waiter.line
        waiter.asked_at = self._now()
        line.asked.add(waiter)
        line.note_asked(waiter)
        priority = waiter.lane.priority
        take = Take(line.terms[priority], 1, waiter.make_ticket(), may_spend, waiter.intent)
        self._ask(line, take, priority, waiter)

    def _ask(self, line: Line, take: Take, priority: Priority, waiter: Waiter | None) -> None:
        """Ask for a slot for `waiter`; or if it is None, for slots for the plain calls whose turn it is when the answer
        comes.
        """
        line.asking += take.count
        try:
            answer = self._store.ask(take)
        except Exception as error:  # noqa: BLE001 - whatever the store raises, the waiting calls must get it
            line.asking -= take.count
            self._fail(line, error)
            return
        if isinstance(answer, asyncio.Future):
            self._pending += 1
            line.asked_since = min(line.asked_since, self._now())
            answer.add_done_callback(partial(self._receive, line, take, priority, waiter))
        else:
            self._take_in(line, take, priority, waiter, answer)

    def _receive(
        self, line: Line, take: Take, priority: Priority, waiter: Waiter | None, answer: asyncio.Future[Answer]
    ) -> None:
        self._pending -= 1
        line.asked_since = math.inf
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        if error is not None:
            self._fail(line, error)
        self._take_in(line, take, priority, waiter, None if error else answer.result())
        self._touch(line)
        self._dispatch()

    def _take_in(self, line: Line, take: Take, priority: Priority, waiter: Waiter | None, answer: Answer) -> None:
        line.asking -= take.count
        if take.may_spend:
            self._end_turn(line, priority, answer)
        if waiter is not None:
            waiter.asked_at = None
            line.asked.discard(waiter)
            if not isinstance(answer, Granted):
                if isinstance(answer, Wait) and answer.held_for and waiter.recipient is not None:
                    line.held_until = self._now() + max(_SHORTEST_BLOCK, min(answer.held_for, self._longest_block))
                    line.note_unasked(waiter)
                if not waiter.done():
                    is_next = bool(line.waiters) and line.waiters.peek() is waiter
                    self._enqueue(waiter, 0 if is_next else len(line.waiters))
            elif waiter.done():
                give_back(self._store, answer.slot)
            else:
                line.pacer.spend()
                line.waiters.discard(waiter, is_served=take.may_spend)
                waiter.grant(answer.slot)
        elif isinstance(answer, Granted):
            for _ in range(answer.count):
                self._hand_over(line, answer.slot, priority)

    def _end_turn(self, line: Line, priority: Priority, answer: Answer) -> None:
        """Charge `line` for its turn if it was granted a slot; else note until when it need not ask again."""
        if isinstance(answer, Wait):
            self._block(line, priority, answer)
        if line.turn is not None and isinstance(answer, Granted):
            self._ready.charge(line.turn)
        line.turn = None

    def _hand_over(self, line: Line, slot: Slot, priority: Priority) -> None:
        """Give a slot that was taken for plain calls of this priority to the call whose turn it is, if it is plain."""
        if line.waiters and line.waiters.next_priority() <= priority and line.waiters.peek().is_plain:
            line.pacer.spend()
            line.waiters.pop().set_result(slot)
        else:
            give_back(self._store, slot)

    def _fail(self, line: Line, error: BaseException) -> None:
        """Refuse all waiting calls of `line` with `error`."""
        for waiter in line.asked:
            waiter.refuse(error)
        line.asked.clear()
        while line.waiters:
            line.waiters.peek().refuse(error)

    def _block(self, line: Line, priority: Priority, wait: Wait) -> None:
        longest = self._longest_block
        longest_shared = self._store.clock.longest_shared_block
        if self._store.is_shared and longest_shared < math.inf:
            longest = max(_SHORTEST_SHARED_BLOCK, min(wait.seconds / 20, longest_shared))
        until = self._now() + max(_SHORTEST_BLOCK, min(wait.seconds, longest))
        blocked = self._blocked if wait.scope is Scope.APP else line.blocked
        for rank in Priority:
            if rank >= priority:
                blocked[rank] = max(blocked[rank], until)
        self._log_waits(line, line.waiters)

    def _log_waits(self, line: Line, waiters: Iterable[Waiter]) -> None:
        """Log which of these calls wait, and until when at the earliest, once for each, unless that is soon. Calls that
        wait before them are not counted: that would cost much where many wait.
        """
        if not _log.isEnabledFor(logging.INFO):
            return
        estimates: dict[Priority, QuotaWaitTooLong] = {}
        for waiter in waiters:
            if not waiter.is_logged:
                priority = waiter.lane.priority
                wait = estimates.get(priority) or estimates.setdefault(priority, line.estimate(priority, 0))
                if wait.wait > _LONG_WAIT:
                    waiter.is_logged = True
                    _log_wait(wait)

    def _touch(self, line: Line) -> None:
        """Queue `line` for its turn if it may make sense to ask for its calls; else set an alarm for when it will."""
        self._ask_unasked(line)
        if not line.waiters or line.asking:
            return
        priority = line.waiters.next_priority()
        if line.blocked[priority] > self._now():
            self._wake(line, line.blocked[priority])
        elif not line.pacer.allows(1):
            seconds = line.pacer.free_in(1)
            self._wake(line, self._now() + max(_SHORTEST_BLOCK / 10, min(seconds, self._longest_block)))
        elif line.queue is None or line.lane.priority > priority:
            self._ready.discard(line)
            line.lane = line.turns[priority]
            self._ready.push(line)

    def _dispatch(self) -> None:
        """Ask for the calls whose turn it is, for as long as that makes sense."""
        if self._is_dispatching:  # a slot was given back during a dispatch, whose loop will take it into account
            return
        self._is_dispatching, asked = True, 0
        try:
            while self._ready and self._pending < _MOST_PENDING and asked < _LARGEST_TURN:
                if self._blocked[self._ready.next_priority()] > self._now():
                    break
                line = self._ready.peek()
                self._ready.discard(line)  # the line is charged for its turn when it is granted a slot
                if line.waiters and not line.asking:
                    line.turn = line.lane
                    asked += self._ask_next(line)
                    if not line.asking:
                        line.turn = None
                    self._touch(line)
        finally:
            self._is_dispatching = False
            self._arm()

    def _wake(self, line: Line, at: float) -> None:
        if at < line.alarm_at:
            line.alarm_at = at
            self._alarms.set(at, line)

    def _arm(self) -> None:
        """Set the timer for the next moment in which there is something to do."""
        at = math.inf
        if self._ready and self._pending < _MOST_PENDING:
            at = max(self._blocked[self._ready.next_priority()], self._now())
        self._alarms.arm(at)

    def _ring(self, now: float, due: list[tuple[float, Line | Waiter]]) -> None:
        for at, whose in due:
            if isinstance(whose, Waiter):
                if not whose.done():
                    self._expire(whose, now)
            elif at >= whose.alarm_at:
                whose.alarm_at = math.inf
                self._touch(whose)
        self._dispatch()


def give_back(store: QuotaStore, slot: Slot) -> None:
    """Give back a slot, and offer it to waiting calls."""
    store.note(GiveBack(slot))
    account = slot.terms.claims[0].bucket.owner
    for (app, family, _), dispatcher in store.dispatchers.items():
        if (app, family) == (slot.terms.app, slot.terms.family) and dispatcher.loop.is_running():
            if slot.buckets:
                dispatcher.unblock(account)
            elif slot.ticket is not None:
                dispatcher.hear(account, slot.ticket.conversant.person)


def dispatcher_of(store: QuotaStore, terms: Terms) -> Dispatcher:
    """Return the dispatcher for these terms in the running loop. Clients that use `store` share a dispatcher if they
    have the same app, endpoint family and app quotas.
    """
    store.bind_loop()
    key = (terms.app, terms.family, tuple([claim.quotas for claim in terms.claims[1:]]))
    if key not in store.dispatchers:
        store.dispatchers[key] = Dispatcher(store)
    dispatcher: Dispatcher = store.dispatchers[key]
    return dispatcher


def _log_wait(wait: QuotaWaitTooLong) -> None:
    why = f"for the {wait.scope} quota ({wait.limit:g} in {wait.per:g} s)" if wait.per else "as the server asked"
    until = wait.retry_at.isoformat(timespec="seconds")
    extra = {"twdm_endpoint": wait.endpoint, "twdm_wait": wait.wait, "twdm_scope": wait.scope}
    _log.info("%s: waits until %s or longer %s", wait.endpoint, until, why, extra=extra)
