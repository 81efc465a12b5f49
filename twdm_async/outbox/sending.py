"""Sending the messages of an outbox: one dispatcher for each priority, one task for each message that was taken up."""

from __future__ import annotations

import asyncio
import json
import math
import random
from typing import TYPE_CHECKING, Any, Final, assert_never

from attrs import define

from twdm_async import errors
from twdm_async._log import quiet_logger
from twdm_async._quiet import mistake
from twdm_async.outbox.entry import State
from twdm_async.outbox.messages import Messages, woken
from twdm_async.outbox.rows import Rows, SlotIntent
from twdm_async.outbox.verdicts import Ended, Judge, Sent, Stop, TryLater, Unknown, Verdict
from twdm_async.quota.lanes import Lane
from twdm_async.quota.spec import Priority
from twdm_async.resources.direct_messages import DirectMessages, Outgoing, from_create
from twdm_async.transport import retry
from twdm_async.transport.call import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from twdm_async._clock import Clock
    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.outbox.rows import TakenUp
    from twdm_async.outbox.settling import Settling
    from twdm_async.quota.operations import Intent
    from twdm_async.resources.reconcile import Reconciler

_log = quiet_logger(__name__)

_LOOK_EVERY, _WAKE_EVERY = 0.25, 5.0  # seconds
_RECLAIM_EVERY: Final = 1.0  # seconds
_LONGEST_PAUSE: Final = 60.0  # seconds between two tries to reach the API


@define(kw_only=True, slots=False, eq=False, str=False)
class _Expired(errors.TwdmError):
    """A message expired at the moment at which it would have left."""


@define(kw_only=True, slots=False, eq=False, str=False)
class _NotOurs(errors.TwdmError):
    """A message was let go, or taken over by another process, at the moment at which it would have left."""


class _Run:
    """The tasks of one run, which last until `stop` is set, and the error that ended the run."""

    def __init__(self, stop: asyncio.Event, messages: Messages) -> None:
        self.stop = stop
        self.error: errors.TwdmError | None = None
        self._messages = messages
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that does `work`. If it fails, the whole run ends."""
        task = asyncio.create_task(work, name="twdm_async outbox")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: Exception) -> None:
        """End the run with `error`, unless it has failed before."""
        self.error = self.error or mistake(error)
        self.stop.set()
        self._messages.tell()

    async def end(self) -> None:
        """Cancel the tasks that are left, and wait for them."""
        self.stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.fail(error)


class Sending:
    """Sends messages, and writes down how far each of them came.

    Args:
        messages: the outbox's messages.
        direct_messages: sends them.
        settling: settles messages that got no answer.
        clock: the source of time.
        settle_after: seconds; the pauses before a failed message is tried again are in proportion to it.
        has_slots: whether the quota store is in the same file or database.
    """

    def __init__(
        self,
        messages: Messages,
        direct_messages: DirectMessages,
        settling: Settling,
        clock: Clock,
        *,
        settle_after: float,
        has_slots: bool,
    ) -> None:
        self.messages = messages
        self.clock = clock
        self.has_slots = has_slots
        self.reconciler: Reconciler = direct_messages.reconciler
        self.judge: Judge = Judge(settle_after, _LONGEST_PAUSE, random.random)
        self.under_way: set[_Attempts] = set()
        self.unwritten: dict[int, Callable[[Rows], object]] = {}
        """By row, the functions that write outcomes which could not be written yet. They are called before anything
        else is sent.
        """
        self._direct_messages = direct_messages
        self._settling = settling
        self._last_lane = dict.fromkeys(Priority, "")
        self._in_hand: dict[int, Priority] = {}  # rows that a task of this process works on
        self._stops: set[asyncio.Event] = set()

    async def run(self, workers: int, stop: asyncio.Event, *, is_draining: bool) -> None:
        """Send until `stop` is set; or, when draining, until it is known what became of every message.

        Raises:
            TwdmError: the next message would fail for the same reason.
        """
        await self.messages.stay_alive()
        await self.messages.sweep()
        await self.write_what_is_left()
        if not self._stops:
            self.judge.begin()
            # An earlier run may have left messages claimed, because the file or database failed when it ended.
            await self.messages.do(lambda rows: rows.give_up(self.messages.owner))
        self._stops.add(stop)
        try:
            await self._run(workers, stop, is_draining=is_draining)
        finally:
            self._stops.discard(stop)
            if not self._stops:  # messages that were taken up, but not given to a task before the run ended
                await self.messages.do(lambda rows: rows.give_up(self.messages.owner))
            self.messages.tell()

    def wait(self) -> float:
        """Return for how many seconds sending pauses; 0 if it does not pause, or if no run is going on."""
        return self.judge.wait(self.clock.monotonic()) if self._stops else 0.0

    async def end(self) -> None:
        """End all runs, and wait until nothing is on the wire."""
        while self._stops or self.under_way:
            for stop in self._stops:
                stop.set()
            self.messages.tell()
            await woken(self.messages.news, _LOOK_EVERY)

    async def _run(self, workers: int, stop: asyncio.Event, *, is_draining: bool) -> None:
        await self._reclaim()
        self._settling.begin()
        run = _Run(stop, self.messages)
        for priority in Priority:
            run.begin(self._dispatch(run, priority, workers))
        for work in (self._settling.run(stop), self._reclaim_often(), self.messages.watch(_LOOK_EVERY, _WAKE_EVERY)):
            run.begin(work)
        try:
            await self._wait_for_the_end(stop, is_draining=is_draining)
            stop.set()
            while self.under_way and run.error is None:
                await woken(self.messages.news, _LOOK_EVERY)
        finally:
            await run.end()
        if run.error is not None:
            raise run.error.with_traceback(None)

    async def _wait_for_the_end(self, stop: asyncio.Event, *, is_draining: bool) -> None:
        while not stop.is_set():
            news = self.messages.news
            if is_draining and not self._in_hand:
                is_left, unknown = await self.messages.do(
                    lambda rows: (rows.left_to_send(), [one.id for one in rows.unknown()]), only_reads=True
                )
                if not is_left and self._settling.undecided.issuperset(unknown):
                    return
            await woken(news, _WAKE_EVERY)

    async def write_what_is_left(self) -> None:
        """Write the outcomes that could not be written before."""
        steps = dict(self.unwritten)
        if steps:
            await self.messages.do(lambda rows: [step(rows) for step in steps.values()], is_durable=True)
            for row, step in steps.items():
                if self.unwritten.get(row) is step:
                    del self.unwritten[row]
            self.messages.tell()

    async def _reclaim_often(self) -> None:
        while True:
            await asyncio.sleep(_RECLAIM_EVERY)
            await self.messages.stay_alive()
            await self.write_what_is_left()
            await self._reclaim()

    async def _reclaim(self) -> None:
        """Take over the messages of processes that ended, and of tasks of this process that were broken off."""
        lost, has_ended = await self.messages.do(
            lambda rows: rows.reclaim(self.messages.storage.is_dead, self.messages.owner, self._rows_in_hand),
            is_durable=True,
        )
        if lost:
            _log.warning("outbox: %d messages of a process that ended may or may not have arrived", lost)
        if lost or has_ended:
            self.messages.tell()

    def _rows_in_hand(self) -> set[int]:
        """Return the rows that must not be reclaimed. It may be called in any thread."""
        under_way = [attempts.row for attempts in list(self.under_way)]
        return {*list(self._in_hand), *under_way, *list(self.unwritten)}

    async def _dispatch(self, run: _Run, priority: Priority, workers: int) -> None:
        while not run.stop.is_set():
            news, more = self.messages.news, self.messages.more
            wait, is_probe = self.judge.wait(self.clock.monotonic()), self.judge.is_troubled
            busy = sum(1 for of in self._in_hand.values() if of is priority)
            room = (1 if is_probe else workers) - busy
            if wait or room <= 0:
                await woken(news, min(wait, _WAKE_EVERY) or _WAKE_EVERY)
                continue
            taking = asyncio.ensure_future(self._take_up(priority, room, is_probe=is_probe))
            try:
                taken, due = await asyncio.shield(taking)
            except asyncio.CancelledError:
                taking.add_done_callback(self._let_go_all)  # the storage's thread may still take them up
                raise
            if run.stop.is_set():
                self._let_go_all(taking)
            elif taken:
                for one in taken:
                    self._put_to_work(run, one, priority)
            else:
                await woken(more, _WAKE_EVERY if due is None else min(due, _WAKE_EVERY))

    async def _take_up(self, priority: Priority, most: int, *, is_probe: bool) -> tuple[list[TakenUp], float | None]:
        """Take up at most `most` messages. If there are none, also return in how many seconds the next retry is due."""
        owner, after, avoided = self.messages.owner, self._last_lane[priority], self.judge.suspects

        def take_up(rows: Rows) -> tuple[list[TakenUp], float | None]:
            taken = rows.take_up(owner, priority, after, most, avoided=avoided, is_probe=is_probe)
            return taken, None if taken else rows.next_due(priority)

        taken, due = await self.messages.do(take_up)
        if taken:
            self._last_lane[priority] = taken[-1].lane
        return taken, due

    def _put_to_work(self, run: _Run, taken: TakenUp, priority: Priority) -> None:
        attempts = _Attempts(self, taken)

        def ended(_: asyncio.Task[None]) -> None:
            del self._in_hand[taken.id]
            if not attempts.is_abandoned:  # the task was cancelled before its first step
                self._let_go([taken.id])
            self.messages.tell(is_more=not attempts.has_arrived)

        self.unwritten.pop(taken.id, None)  # the outcome was written, or the row could not have been taken up
        self._in_hand[taken.id] = priority
        run.begin(self._send(run, attempts, taken, priority)).add_done_callback(ended)

    def _let_go_all(self, taking: asyncio.Task[tuple[list[TakenUp], float | None]]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._let_go([one.id for one in taking.result()[0]])

    def _let_go(self, rows: Sequence[int]) -> None:
        """Release messages that were taken up and not begun, so that others can take them up."""

        def let_go(messages: Rows) -> None:
            for row in rows:
                messages.let_go(row, self.messages.owner)

        self.messages.do_soon(let_go, lambda: None)
        self.messages.tell()

    async def _send(self, run: _Run, attempts: _Attempts, taken: TakenUp, priority: Priority) -> None:
        lane = Lane(taken.lane, priority=priority)
        max_wait = math.inf if taken.not_after is None else max(0.0, taken.not_after - self.clock.wall())
        try:
            await self._direct_messages.deliver(_outgoing(taken), lane=lane, max_wait=max_wait, journal=attempts)
        except errors.TwdmError as error:
            if await attempts.is_last(error):
                run.fail(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await self.write_what_is_left()  # only the client's task that made the attempt was cancelled
        finally:
            await attempts.abandon()


class _Attempts(Journal):
    """The journal of one message: writes down how far it came."""

    def __init__(self, sending: Sending, taken: TakenUp) -> None:
        self.row = taken.id
        self._sending = sending
        self._taken = taken
        self._signed_at = 0.0
        self.is_abandoned = False
        self._is_open = False  # whether it may have left, and no outcome is written down yet
        self._is_let_go = False  # whether its outcome is written down, so that it has no owner any more
        self._ended_in: retry.Outcome[DirectMessage] | None = None  # the outcome that was judged last
        self._verdict: Verdict | None = None

    @property
    def has_arrived(self) -> bool:
        """Whether the message was sent, so that nothing is left to do about it."""
        return isinstance(self._verdict, Sent)

    @property
    def intent(self) -> Intent | None:
        if not self._sending.has_slots:
            return None
        sending = self._sending
        return SlotIntent(self.row, sending.messages.owner, sending.reconciler.server_time)

    async def leaving(self, signed_at: float, *, is_written: bool) -> None:
        self._sending.under_way.add(self)
        self._is_open = True
        self._signed_at = signed_at
        if self._taken.not_after is not None and self._sending.clock.wall() >= self._taken.not_after:
            raise _Expired
        if not is_written:
            row, owner = self.row, self._sending.messages.owner
            written = await self._sending.messages.do(lambda rows: rows.leave(row, owner, signed_at), is_durable=True)
            if written.rowcount <= 0:  # a negative count means that the connection broke, and it is not known
                raise _NotOurs

    async def ended(self, outcome: retry.Outcome[DirectMessage]) -> None:
        self._ended_in = outcome
        await self._write(self._step(outcome))
        self._is_open = False
        self._is_let_go = isinstance(self._verdict, Sent | Ended | Unknown)

    def cut_off(self, outcome: retry.Outcome[DirectMessage]) -> None:
        self._ended_in = outcome
        step = self._step(outcome)
        if step is not None:
            self._sending.unwritten[self.row] = step  # until it is written
            self._sending.messages.do_soon(step, lambda: self._sending.unwritten.pop(self.row, None))

    def over(self) -> None:
        self._sending.under_way.discard(self)
        self._sending.messages.tell(is_more=False)

    async def is_last(self, error: errors.TwdmError) -> bool:
        """Record that sending ended with `error`. Return whether the next message would fail for the same reason."""
        if self._ended_in is None or isinstance(self._ended_in, retry.Retry):
            await self.ended(retry.Failed(error))  # `error` came before an attempt, or before another one
        return isinstance(self._verdict, Stop) or isinstance(error, errors.OutboxFailed)

    async def abandon(self) -> None:
        """Release the message, since its task ends. If it may have left, its row stays as it is, until it is known what
        became of it.
        """
        self.is_abandoned = True
        if not (self._is_open or self._is_let_go):
            await self._sending.messages.do(lambda rows: rows.let_go(self.row, self._sending.messages.owner))

    async def _write(self, step: Callable[[Rows], object] | None) -> None:
        """Write an outcome down now; if that fails, leave it to be written later, and raise."""
        if step is None:
            return
        try:
            await self._sending.messages.do(step, is_durable=True)
        except BaseException:
            self._sending.unwritten[self.row] = step  # it may or may not have been written, so it is written again
            raise

    def _step(self, outcome: retry.Outcome[DirectMessage]) -> Callable[[Rows], object] | None:
        """Return the function that writes `outcome`, if `owner` still holds the row; ``None`` if there is nothing to
        write.
        """
        step = self._unguarded_step(outcome)
        row, owner = self.row, self._sending.messages.owner
        if step is None or isinstance(self._verdict, Sent):  # `arrived` checks the owner itself
            return step
        return lambda rows: step(rows) if rows.is_owned(row, owner) else None

    def _unguarded_step(self, outcome: retry.Outcome[DirectMessage]) -> Callable[[Rows], object] | None:
        row, owner, clock = self.row, self._sending.messages.owner, self._sending.clock
        error = outcome.error if isinstance(outcome, retry.Failed) else None
        if isinstance(error, _NotOurs):
            return None
        if isinstance(error, _Expired):
            verdict: Verdict = Ended(State.EXPIRED)
        else:
            taken = self._taken
            verdict = self._sending.judge.decide(
                row, taken.recipient_id, taken.tries, outcome, clock.monotonic(), had_others=taken.had_others
            )
        self._verdict = verdict
        match verdict:
            case Sent(message_id=message_id):
                return lambda rows: rows.arrived(row, owner, message_id, self._signed_at)
            case Ended(state=state, error=words):
                return lambda rows: rows.end(row, state, error=words)
            case Unknown(error=doubt):
                return lambda rows: rows.mark_unknown(row, doubt, self._signed_at)
            case TryLater() as later:
                if later.error is not None:
                    pause = f" in {later.after:.0f} s or later" if later.after >= 1 else ""
                    _log.warning("outbox: a message is tried again%s: %s", pause, later.error)
                return lambda rows: self._put_back(rows, later)
            case Stop(error=reason):
                return lambda rows: self._put_back(rows, TryLater(tries=self._taken.tries, error=str(reason)))
            case _:
                assert_never(verdict)

    def _put_back(self, rows: Rows, later: TryLater) -> None:
        if later.tries > self._taken.tries and rows.is_given_up(self.row, later.tries):
            error = f"{later.error} (in {later.tries} tries, while others got through)"
            rows.end(self.row, State.FAILED, error=error)
        else:
            rows.put_back(self.row, None if self.is_abandoned else self._sending.messages.owner, later)


def _outgoing(taken: TakenUp) -> Outgoing:
    return from_create(json.loads(taken.payload))
