"""Admission: the one gate every request passes before it is signed.

A line is everyone of one account who waits for one endpoint family. While the line is empty, a call takes its slot and
goes. Else it joins the line, and one task a line takes slots as they come free and hands each to whoever's turn it is
*then*; so an interactive call that comes late still goes before bulk calls that came early, and a caller that gave up
is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from twdm_async.errors import ClientClosed, QuotaWaitTooLong
from twdm_async.quota.headers import LONGEST_WAIT, Limits, read_limits
from twdm_async.quota.lanes import Lane, LaneQueue
from twdm_async.quota.pacer import Pacer
from twdm_async.quota.spec import Pace, Quota, QuotaTable, Scope
from twdm_async.quota.store.contract import Bucket, QuotaStore, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twdm_async._clock import Clock

_log = logging.getLogger("twdm_async")

_FIRST_HOLD: Final = 60.0  # seconds; doubled with every 429 in a row that does not say how long
_LONGEST_HOLD: Final = 4 * 3600.0


@frozen(kw_only=True)
class QuotaState:
    """How far one quota is used.

    Args:
        endpoint: the endpoint family.
        scope: whose requests it counts.
        limit: requests in `per` seconds.
        per: the window in seconds.
        used: slots that count, those under way included.
        in_flight: requests under way.
        waiting: calls of this client that wait for a slot.
        free_at: when a slot is free (UTC); a time that has passed if one is free now.
    """

    endpoint: str
    scope: Scope
    limit: int
    per: float
    used: int
    in_flight: int
    waiting: int
    free_at: datetime


@define(eq=False)
class _Line:
    family: str
    buckets: tuple[Bucket, ...]
    pacer: Pacer
    queue: LaneQueue[asyncio.Future[Slot]] = field(factory=LaneQueue[asyncio.Future[Slot]])
    changed: asyncio.Event = field(factory=asyncio.Event)
    usher: asyncio.Task[None] | None = None
    in_hand: int = 0  # slots that the usher has taken and not handed over yet
    refusals: int = 0  # holds in a row
    held_until: float = -math.inf


class QuotaLimiter:
    """The quotas of one account.

    Args:
        table: what binds each endpoint family.
        store: where the ledgers live.
        account: a name for the account.
        app: a name for the app.
        clock: where time comes from.
        grace: seconds within which the server counts a request whose outcome was not seen.
    """

    def __init__(
        self, table: QuotaTable, store: QuotaStore, *, account: str, app: str, clock: Clock, grace: float
    ) -> None:
        self._table = table
        self._store = store
        self._owners = {Scope.USER: account, Scope.APP: app}
        self._clock = clock
        self._grace = grace
        self._lines: dict[str, _Line] = {}
        self._stop_listening = store.on_freed(self._on_freed)
        self._is_closed = False

    async def admit(self, family: str, lane: Lane, max_wait: float | None = None) -> Slot:
        """Wait for a slot in every quota of `family`. Each slot must be settled or given back.

        Args:
            family: the endpoint family.
            lane: the line to wait in.
            max_wait: seconds; ``None`` waits as long as it takes.

        Raises:
            QuotaWaitTooLong: it would take longer than `max_wait`. Raised at once if that is known.
            ClientClosed: the limiter is closed, or was while this call waited.
        """
        if self._is_closed:
            raise ClientClosed(endpoint=family)
        line = self._line(family)
        if not line.queue and line.pacer.is_ready():
            taken = await self._store.take(line.buckets)
            if isinstance(taken, Slot):
                # Does not wait, unless another call took the last of the burst while a shared store was asked.
                await self._pass_pacer(line, taken)
                return taken
        if max_wait is not None:
            self._refuse_if_too_long(line, lane, max_wait)
        return await self._wait_in_line(line, lane, max_wait)

    def settle(self, slot: Slot, *, seen: bool) -> None:
        """The slot's request is over. `seen`: a reply came, so the server has counted it by now."""
        self._store.settle(slot, 0.0 if seen else self._grace)

    def give_back(self, slot: Slot) -> None:
        """No byte of the slot's request left the machine."""
        self._store.give_back(slot)

    def learn(self, slot: Slot, status: int, headers: Mapping[str, str]) -> None:
        """Take from a reply, good or bad, what it says about quotas. It can only tighten them."""
        line = self._line(slot.buckets[0].family)
        limits = read_limits(headers, self._clock.wall())
        own = slot.buckets[0]
        if limits.remaining is not None and limits.reset_in and own.quota is not None and own.scope is Scope.USER:
            # The server's window cannot end later than its length from now.
            self._store.tighten(own, limits.remaining, min(limits.reset_in, own.quota.per))
        if status in {420, 429}:
            self.refused(slot, headers)
        elif line.held_until <= self._clock.monotonic():
            line.refusals = 0

    def refused(self, slot: Slot, headers: Mapping[str, str]) -> None:
        """The server refused the slot's request for quota: send nothing for a while."""
        line = self._line(slot.buckets[0].family)
        now = self._clock.monotonic()
        is_held = line.held_until > now
        # Of many that were under way together, the first refusal is the news; the others are the same one again.
        refusals = line.refusals - is_held
        seconds = self._hold_for(line, read_limits(headers, self._clock.wall()), refusals)
        line.refusals = refusals + 1
        if not is_held:
            _log.warning("%s: the server refused for quota; nothing is sent for %.0f s", line.family, seconds)
        line.held_until = max(line.held_until, now + seconds)
        for bucket in line.buckets:
            if bucket.scope is Scope.USER:
                self._store.hold(bucket, seconds)

    def state(self) -> tuple[QuotaState, ...]:
        """Every documented quota and how far it is used."""
        states: list[QuotaState] = []
        for family in self._table:
            line = self._line(family)
            for bucket in line.buckets:
                if bucket.quota is not None:
                    usage = self._store.usage(bucket)
                    states.append(
                        QuotaState(
                            endpoint=family,
                            scope=bucket.scope,
                            limit=bucket.quota.limit,
                            per=bucket.quota.per,
                            used=usage.used,
                            in_flight=usage.in_flight,
                            waiting=len(line.queue),
                            free_at=self._clock.utc(usage.free_in),
                        )
                    )
        return tuple(states)

    def close(self) -> None:
        """Admit nobody any more, and end the waiting of all who wait."""
        self._is_closed = True
        self._stop_listening()
        for line in self._lines.values():
            if line.usher is not None:
                line.usher.cancel()
            while line.queue:
                _refuse(line.queue.pop(), ClientClosed(endpoint=line.family))

    def _line(self, family: str) -> _Line:
        line = self._lines.get(family)
        if line is None:
            row = self._table[family]
            quotas = [(quota.scope, quota) for quota in row.quotas]
            if not any(scope is Scope.USER for scope, _ in quotas):
                line_quotas = [(Scope.USER, None), *quotas]
            else:
                line_quotas = sorted(quotas, key=lambda pair: pair[0] is not Scope.USER)
            buckets = tuple(Bucket(family, scope, self._owners[scope], quota) for scope, quota in line_quotas)
            line = self._lines[family] = _Line(family, buckets, Pacer(row.pace))
        return line

    def _refuse_if_too_long(self, line: _Line, lane: Lane, max_wait: float) -> None:
        """Raise if it is known that one who joined `lane` now would wait longer than `max_wait`."""
        if self._wait(line, len(line.queue)).wait <= max_wait:
            return  # even the last in line would be in time, so there is no need to look for the place
        too_long = self._wait(line, line.queue.ahead_of(lane))
        if too_long.wait > max_wait:
            raise too_long

    def _wait(self, line: _Line, ahead: int) -> QuotaWaitTooLong:
        """How long one would wait, at the least, who has so many before it."""
        waits: list[tuple[float, Scope, Quota | Pace | None]] = [
            (self._store.free_in(bucket, ahead + 1 - line.in_hand), bucket.scope, bucket.quota)
            for bucket in line.buckets
        ]
        waits.append((line.pacer.free_in(ahead + 1), Scope.USER, line.pacer.pace))
        seconds, scope, binding = max(waits, key=lambda wait: wait[0])
        limit = binding.burst if isinstance(binding, Pace) else binding.limit if binding else math.inf
        return QuotaWaitTooLong(
            endpoint=line.family,
            scope=scope.value,
            wait=seconds,
            retry_at=self._clock.utc(seconds),
            limit=limit,
            per=binding.per if binding else 0.0,
        )

    async def _wait_in_line(self, line: _Line, lane: Lane, max_wait: float | None) -> Slot:
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        line.queue.push(turn, lane)
        if line.usher is None:
            line.usher = asyncio.create_task(self._usher(line), name=f"twdm_async quota {line.family}")
        try:
            async with asyncio.timeout(max_wait):
                return await turn
        except TimeoutError:
            if _has_slot(turn):  # both came in one turn of the loop
                return turn.result()
        except BaseException:
            if _has_slot(turn):
                self._store.give_back(turn.result())
            raise
        finally:
            line.queue.discard(turn, lane)
            if not line.queue:
                line.changed.set()
        raise self._wait(line, 0)

    async def _usher(self, line: _Line) -> None:
        """Hand slots to those who wait, until nobody does."""
        try:
            while line.queue:
                line.changed.clear()  # before it looks, so that a change while it looks is not missed
                taken = await self._store.take(line.buckets)
                if isinstance(taken, Slot):
                    line.in_hand = 1
                    await self._pass_pacer(line, taken)
                    self._hand_over(line, taken)
                    line.in_hand = 0
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(taken.seconds):
                            await line.changed.wait()
        except Exception as error:  # noqa: BLE001 - whatever the store raises, those who wait must hear of it
            while line.queue:
                _refuse(line.queue.pop(), error)
        finally:
            line.usher, line.in_hand = None, 0

    def _hand_over(self, line: _Line, slot: Slot) -> None:
        while line.queue:
            turn = line.queue.pop()
            if not turn.done():
                turn.set_result(slot)
                return
        self._store.give_back(slot)

    async def _pass_pacer(self, line: _Line, slot: Slot) -> None:
        try:
            await line.pacer.pass_through()
        except BaseException:
            self._store.give_back(slot)
            raise

    def _on_freed(self, bucket: Bucket) -> None:
        line = self._lines.get(bucket.family)
        if line is not None:
            line.changed.set()

    def _hold_for(self, line: _Line, limits: Limits, refusals: int) -> float:
        """Seconds to stay away after a 429 that came after so many others in a row."""
        said = max((s for s in (limits.retry_after, limits.reset_in) if s is not None), default=None)
        if said is None:
            longest_window = max((bucket.quota.per for bucket in line.buckets if bucket.quota), default=_LONGEST_HOLD)
            seconds = min(_FIRST_HOLD * 2.0 ** min(refusals, 12), _LONGEST_HOLD, longest_window)
        else:
            if said > LONGEST_WAIT:
                _log.warning("%s: the server asked to wait for %.0f s, which no window lasts", line.family, said)
            # A time that has passed means now; but if that is refused as well, it means less and less.
            seconds = min(said if said >= 1 else 2.0 ** min(refusals, 12), LONGEST_WAIT)
        # Some jitter, so that clients which were refused together do not come back together.
        return max(seconds, 1.0) * random.uniform(1.0, 1.1)


def _has_slot(turn: asyncio.Future[Slot]) -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None


def _refuse(turn: asyncio.Future[Slot], error: Exception) -> None:
    if not turn.done():
        turn.set_exception(error)
