"""Sending what an outbox holds: one dispatcher for each priority, one task for each message that was taken up."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from twdm_async import errors
from twdm_async.outbox.entry import State
from twdm_async.outbox.storage import Storage, woken
from twdm_async.quota.lanes import Lane
from twdm_async.quota.spec import Priority
from twdm_async.quota.store.contract import Intent
from twdm_async.resources.direct_messages import DirectMessages, Outgoing, as_message
from twdm_async.transport.call import Journal
from twdm_async.transport.retry import Again

if TYPE_CHECKING:
    from collections.abc import Callable

    from twdm_async._clock import Clock
    from twdm_async.outbox.rows import Rows, TakenUp
    from twdm_async.outbox.settling import Settling
    from twdm_async.owners import Owner

_log = logging.getLogger("twdm_async")

_LOOK_EVERY, _WAKE_EVERY = 0.25, 5.0  # seconds
_BURY_EVERY: Final = 1.0  # seconds
_LONGEST_PAUSE: Final = 60.0  # seconds between two tries to reach the API
_WOULD_ALL_FAIL: Final = (
    errors.Unauthorized,
    errors.NotAllowlisted,
    errors.LooksAutomated,
    errors.QuotaStoreFailed,
    errors.OutboxFailed,
    errors.ClientClosed,
    errors.WrongEventLoop,
)
_ABOUT_THE_ACCOUNT: Final = frozenset({64, 87, 93, 220, 261, 326, 416, 453})
"""Codes that say that this account or app may not send, whatever it sends."""


@define(kw_only=True, slots=False, eq=False, str=False)
class _Expired(errors.TwdmError):
    """A message's time was over in the moment in which it would have left."""


@define(kw_only=True, slots=False, eq=False, str=False)
class _NotOurs(errors.TwdmError):
    """A message was given up, or taken over by somebody else, in the moment in which it would have left."""


class Sending:
    """Sends messages, and writes down how far each of them came.

    Args:
        storage: where they are.
        direct_messages: send them.
        owner: who has taken up those that are sent here.
        settling: settles those whose answer did not come.
        clock: where time comes from.
        has_slots: whether the quota store lives in the same file.
    """

    def __init__(
        self,
        storage: Storage,
        direct_messages: DirectMessages,
        owner: Owner,
        settling: Settling,
        clock: Clock,
        *,
        has_slots: bool,
    ) -> None:
        self.storage = storage
        self.owner = owner
        self.clock = clock
        self.has_slots = has_slots
        self.reconciler = direct_messages.reconciler
        self.under_way: set[object] = set()
        self.unwritten: list[Callable[[Rows], None]] = []
        """Outcomes that the file could not take. They are written before anything else is sent."""
        self._direct_messages = direct_messages
        self._settling = settling
        self._last_lane = dict.fromkeys(Priority, "")
        self._pause = 0.0
        self._stops: set[asyncio.Event] = set()

    async def run(self, workers: int, stop: asyncio.Event, *, is_draining: bool) -> None:
        """Send until `stop`; or, when draining, until it is known what became of everything.

        Raises:
            TwdmError: the next message would be refused for the same.
        """
        self.owner.settle_in()
        self.owner.sweep()
        await self.write_what_is_left()
        self._stops.add(stop)
        try:
            await self._run(workers, stop, is_draining=is_draining)
        finally:
            self._stops.discard(stop)
            if not self._stops:  # what was taken up, and came to nobody's hands since all was ended
                await self.storage.do(lambda rows: rows.give_up(self.owner.name))
            self.storage.tell()

    async def end(self) -> None:
        """End all runs, and wait until nothing is on the wire."""
        while self._stops or self.under_way:
            for stop in self._stops:
                stop.set()
            self.storage.tell()
            await woken(self.storage.news, _LOOK_EVERY)

    async def _run(self, workers: int, stop: asyncio.Event, *, is_draining: bool) -> None:
        await self._bury()
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tasks: set[asyncio.Task[None]] = set()

        def begin(work: Any) -> None:
            task = asyncio.create_task(work, name="twdm_async outbox")
            tasks.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not failure.done():
                failure.set_exception(error)
            if not stop.is_set() and failure.done():
                stop.set()
                self.storage.tell()

        for priority in Priority:
            begin(self._dispatch(priority, workers, stop, begin))
        for work in (self._settling.run(stop), self._bury_often(), self.storage.watch(_LOOK_EVERY, _WAKE_EVERY)):
            begin(work)
        try:
            await self._wait_for_the_end(stop, is_draining=is_draining)
            stop.set()
            while self.under_way and not failure.done():
                await woken(self.storage.news, _LOOK_EVERY)
        finally:
            stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            error = failure.exception() if failure.done() else None
        if error is not None:
            raise error.with_traceback(None)

    async def _wait_for_the_end(self, stop: asyncio.Event, *, is_draining: bool) -> None:
        while not stop.is_set():
            news = self.storage.news
            if is_draining:
                counts = await self.storage.do(lambda rows: rows.counts(), only_reads=True)
                unknown = await self.storage.do(lambda rows: [one.id for one in rows.unknown()], only_reads=True)
                to_do = counts[State.QUEUED] + counts[State.SENDING] + counts[State.ABSENT]
                if not to_do and self._settling.undecided.issuperset(unknown):
                    return
            await woken(news, _WAKE_EVERY)

    async def write_what_is_left(self) -> None:
        """Write down what the file could not take before."""
        steps = list(self.unwritten)
        if steps:
            await self.storage.do(lambda rows: [step(rows) for step in steps], is_durable=True)
            del self.unwritten[: len(steps)]

    async def _bury_often(self) -> None:
        while True:
            await asyncio.sleep(_BURY_EVERY)
            await self._bury()

    async def _bury(self) -> None:
        """Take over from processes that ended."""
        lost = await self.storage.do(
            lambda rows: rows.bury(self.owner.is_dead, self.owner.name, self.clock.uptime()), is_durable=True
        )
        if lost:
            _log.warning("outbox: %d messages of a process that ended may or may not have arrived", lost)
            self.storage.tell()

    async def _dispatch(
        self, priority: Priority, workers: int, stop: asyncio.Event, begin: Callable[[Any], None]
    ) -> None:
        places = asyncio.Semaphore(workers)
        while not stop.is_set():
            await places.acquire()
            news = self.storage.news
            taken = await self.storage.do(
                lambda rows: rows.take_up(self.owner.name, priority, self._last_lane[priority])
            )
            if taken is None:
                places.release()
                await news.wait()
            else:
                self._last_lane[priority] = taken.lane
                begin(self._send(taken, priority, places))

    async def _send(self, taken: TakenUp, priority: Priority, places: asyncio.Semaphore) -> None:
        attempts = _Attempts(self, taken)
        lane = Lane(taken.lane, priority=priority)
        max_wait = math.inf if taken.not_after is None else max(0.0, taken.not_after - self.clock.wall())
        try:
            await self._direct_messages.deliver(_outgoing(taken), lane=lane, max_wait=max_wait, journal=attempts)
        except (errors.QuotaWaitTooLong, errors.RateLimited):
            await attempts.write(lambda rows: rows.end(taken.id, State.EXPIRED, error="its quota is free too late"))
        except (errors.QuotaQueueFull, errors.ConnectFailed) as error:
            if not error.safe_to_retry:
                raise
            await self._rest(error)
        except errors.TwdmError as error:  # it was written down
            if would_all_fail(error):
                raise
            if _is_from_between(error):
                await self._rest(error)
        else:
            self._pause = 0.0
        finally:
            await attempts.abandon()
        places.release()  # not if the next one would fail as well

    async def _rest(self, error: errors.TwdmError) -> None:
        """Nothing reaches the API now: wait, longer each time."""
        _log.warning("outbox: nothing can be sent now: %s", error)
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause or 1.0)
        await self.clock.sleep(self._pause * random.uniform(0.5, 1.0))


def would_all_fail(error: errors.TwdmError) -> bool:
    """Whether the next message would be refused for the same: sending ends, and the message stays where it is."""
    if not isinstance(error, errors.ResponseError):
        return isinstance(error, _WOULD_ALL_FAIL)
    is_no_page = isinstance(error, errors.NotFound) and (not error.codes or 34 in error.codes)
    is_about_the_account = bool(_ABOUT_THE_ACCOUNT.intersection(error.codes))
    return isinstance(error, _WOULD_ALL_FAIL) or is_no_page or is_about_the_account


def _is_from_between(error: errors.TwdmError) -> bool:
    """Whether it was not the API that refused, but something on the way: a proxy, or a network that wants a login."""
    if not isinstance(error, errors.ResponseError) or error.codes:
        return False
    return error.status == 407 or 300 <= error.status < 400


class _Attempts(Journal):
    """Writes down how far one message came."""

    def __init__(self, sending: Sending, taken: TakenUp) -> None:
        self._sending = sending
        self._taken = taken
        self._signed_at = 0.0
        self._is_abandoned = False
        self._is_open = False  # it may have left, and no outcome is written down yet

    @property
    def intent(self) -> Intent | None:
        if not self._sending.has_slots:
            return None
        return Intent(self._taken.id, self._sending.owner.name, self._sending.reconciler.server_time)

    async def leaving(self, signed_at: float, *, is_written: bool) -> None:
        self._sending.under_way.add(self)
        self._is_open = True
        self._signed_at = signed_at
        if self._taken.not_after is not None and self._sending.clock.wall() >= self._taken.not_after:
            raise _Expired
        if not is_written:
            row, owner, uptime = self._taken.id, self._sending.owner.name, self._sending.clock.uptime()
            if not await self._sending.storage.do(
                lambda rows: rows.leave(row, owner, signed_at, uptime), is_durable=True
            ):
                raise _NotOurs

    async def ended(self, outcome: Any) -> None:
        if not isinstance(outcome, _NotOurs):
            await self.write(self._step(outcome))
        self._is_open = False

    def over(self) -> None:
        self._sending.under_way.discard(self)
        self._sending.storage.tell()

    async def write(self, step: Callable[[Rows], None]) -> None:
        """Write an outcome down, now or as soon as the file can take it."""
        try:
            await self._sending.storage.do(step, is_durable=True)
        except errors.OutboxFailed:
            self._sending.unwritten.append(step)
            raise

    async def abandon(self) -> None:
        """Nobody here works on it any more. If it may have left, it stays as it is, for whoever finds out."""
        self._is_abandoned = True
        if not self._is_open:
            await self._sending.storage.do(lambda rows: rows.let_go(self._taken.id, self._sending.owner.name))

    def _step(self, outcome: Any) -> Callable[[Rows], None]:
        row, uptime = self._taken.id, self._sending.clock.uptime()
        match outcome:
            case _Expired():
                return lambda rows: rows.end(row, State.EXPIRED)
            case errors.DeliveryUnknown():
                return lambda rows: rows.lose_sight(row, str(outcome), uptime, self._signed_at)
            case errors.ResponseError() if not would_all_fail(outcome) and not _is_from_between(outcome):
                return lambda rows: rows.end(row, State.REJECTED, error=str(outcome))
            case errors.TwdmError() | Again():
                owner = None if self._is_abandoned else self._sending.owner.name
                return lambda rows: rows.put_back(row, owner)
            case _:
                return lambda rows: rows.end(row, State.SENT, message_id=outcome.id)


def _outgoing(taken: TakenUp) -> Outgoing:
    create = json.loads(taken.payload)
    return Outgoing(as_message(create), create)
