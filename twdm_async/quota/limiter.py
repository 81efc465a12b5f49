"""Admission: the one gate every request passes before it is signed.

A line is everyone of one account who waits for one endpoint family. While nobody waits, a call takes its slot and
goes. Else it joins the line, and one task a line, its usher, takes slots as they come free and hands each to whoever's
turn it is *then*; so an interactive call that comes late still goes before bulk calls that came early, and a caller
that gave up is passed over. Ushers whose bucket has no slot wait for it in the store's parking, where there is one
timer for each bucket.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field, frozen

from twdm_async.errors import ClientClosed, QuotaQueueFull, QuotaStoreFailed, QuotaWaitTooLong
from twdm_async.quota.headers import LONGEST_WAIT, Limits, read_limits
from twdm_async.quota.lanes import Lane, LaneQueue
from twdm_async.quota.pacer import Pacer
from twdm_async.quota.reserve import BulkShare, bulk_share
from twdm_async.quota.spec import Pace, Priority, Quota, QuotaTable, ReplyCredit, Scope
from twdm_async.quota.store.contract import (
    UNLIMITED,
    Answering,
    Bucket,
    Claim,
    Intent,
    Lifetime,
    Partner,
    QuotaStore,
    Reply,
    Slot,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twdm_async._clock import Clock

_log = logging.getLogger("twdm_async")

_FIRST_HOLD: Final = 60.0  # seconds; doubled with every 429 in a row that does not say how long
_LONGEST_HOLD: Final = 4 * 3600.0
_BATCH: Final = 64  # slots taken at once for those who wait
_SHORTEST_RECHECK: Final = 0.001  # seconds
_STORE_PATIENCE: Final = 1.0  # seconds a store may take to answer, even for a call that does not want to wait


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
        reserved: slots that bulk calls may not take now, since they are kept for interactive ones.
        waiting: calls of this client that wait for a slot.
        free_at: when a slot is free (UTC); a time that has passed if one is free now.
        bulk_free_at: when bulk calls may take one (UTC), likewise.
    """

    endpoint: str
    scope: Scope
    limit: int
    per: float
    used: int
    in_flight: int
    reserved: int
    waiting: int
    free_at: datetime
    bulk_free_at: datetime


@define(eq=False)
class _Line:
    family: str
    claims: tuple[Claim, ...]
    bulk_claims: tuple[Claim, ...]  # on the buckets in which bulk calls are counted once more
    reserve: float
    pacer: Pacer
    credit: ReplyCredit | None
    free_turn: asyncio.Lock = field(factory=asyncio.Lock)  # of those who need no slot, one at a time waits for the pace
    queue: LaneQueue[asyncio.Future[Slot]] = field(factory=LaneQueue[asyncio.Future[Slot]])
    answering: dict[str, set[asyncio.Future[Slot]]] = field(factory=dict[str, "set[asyncio.Future[Slot]]"])  # by person
    intents: dict[asyncio.Future[Slot], Intent] = field(factory=dict["asyncio.Future[Slot]", Intent])
    usher: asyncio.Task[None] | None = None
    parked: asyncio.Future[None] | None = None  # what the usher waits for
    parked_for: Priority = Priority.INTERACTIVE  # on whose behalf
    asking_since: float = math.inf  # when the usher asked the store that has not answered yet
    polite: int = 0  # how many may leave by the pacer and have no slot yet
    refusals: int = 0  # holds in a row
    held_until: float = -math.inf

    def answering_discard(self, person: str | None, turn: asyncio.Future[Slot]) -> None:
        """It waits no longer."""
        turns = self.answering.get(person or "", set())
        turns.discard(turn)
        if not turns:
            self.answering.pop(person or "", None)

    def unpark(self) -> None:
        """Those who wait have changed: the usher should look again."""
        if self.parked is not None and not self.parked.done():
            self.parked.set_result(None)


class _PersonWrote(Exception):
    """The person wrote to whom a message waits to leave."""


class QuotaLimiter:
    """The quotas of one account.

    Args:
        table: what binds each endpoint family.
        store: where the ledgers live.
        account: a name for the account.
        app: a name for the app.
        clock: where time comes from.
        timeout: seconds an attempt may take. A request whose outcome was not seen is counted by the server within twice
            that, or never.
        max_waiting: how many calls may wait for one endpoint family.
    """

    def __init__(
        self,
        table: QuotaTable,
        store: QuotaStore,
        *,
        account: str,
        app: str,
        clock: Clock,
        timeout: float,
        max_waiting: int = 100_000,
    ) -> None:
        self._table = table
        self._store = store
        self._owners = {Scope.USER: account, Scope.APP: app}
        self._clock = clock
        self._lifetime = Lifetime.from_timeout(timeout)
        self._max_waiting = max_waiting
        # Accounts take turns where they wait for the same bucket.
        self._parking_lanes = {priority: Lane(account, priority=priority) for priority in Priority}
        self._lines: dict[str, _Line] = {}
        self._is_closed = False

    async def admit(
        self,
        family: str,
        lane: Lane,
        max_wait: float | None = None,
        intent: Intent | None = None,
        answering: Answering | None = None,
    ) -> Slot:
        """Wait for a slot in every quota of `family`. Each slot must be settled or given back.

        Args:
            family: the endpoint family.
            lane: the line to wait in.
            max_wait: seconds; ``None`` waits as long as it takes.
            intent: what the store writes down together with the slot.
            answering: whom the message is for, if it is one. A free reply gets a slot that counts nowhere.

        Raises:
            QuotaWaitTooLong: it would take longer than `max_wait`. Raised at once if that is known.
            QuotaQueueFull: it would have to wait, and as many as may wait already.
            QuotaStoreFailed: it cannot be known what is spent.
            ClientClosed: the limiter is closed, or was while this call waited.
        """
        if self._is_closed:
            raise ClientClosed(endpoint=family)
        line = self._lines.get(family) or self._line(family)
        deadline = None if max_wait is None else self._clock.monotonic() + max_wait
        if answering is None or line.credit is None:
            slot = await self._admit_at_once(line, lane, deadline, intent)
            return slot or await self._admit_in_turn(line, lane, deadline, intent)
        partner = Partner(self._owners[Scope.APP], self._owners[Scope.USER], answering.person)
        while True:
            slot = await self._admit_reply(line, lane, deadline, intent, (partner, answering))
            if slot is not None:
                return slot
            try:
                slot = await self._admit_in_turn(line, lane, deadline, intent, answering.person)
            except _PersonWrote:
                continue  # so it may be free now
            try:
                slot.reply = await self._note_reply(line, deadline, partner, answering)
            except BaseException:
                self._store.give_back(slot)
                raise
            return slot

    async def _admit_reply(
        self,
        line: _Line,
        lane: Lane,
        deadline: float | None,
        intent: Intent | None,
        whom: tuple[Partner, Answering],
    ) -> Slot | None:
        """A slot for a message that can leave now: one that counts nowhere, if it is free."""
        reply = await self._note_reply(line, deadline, *whom)
        slot: Slot | None = None
        try:
            if reply.is_free and not self._is_held(line) and not line.pacer.is_ready():
                # It needs no slot, but has manners; and when it is its turn, it may be free no longer.
                self._store.unsent(reply)
                await self._wait_for_manners(line, deadline)
                reply = await self._note_reply(line, deadline, *whom)
                line.polite += 1
            if reply.is_free and not self._is_held(line):
                await self._is_polite(line)
                slot = Slot((), send_by=self._clock.monotonic() + self._lifetime.to_send)
            else:
                slot = await self._admit_at_once(line, lane, deadline, intent)
        finally:
            if slot is None:  # what waits is not on its way; and the person may write meanwhile
                self._store.unsent(reply)
        if slot is not None:
            slot.reply = reply
        return slot

    async def _admit_at_once(
        self, line: _Line, lane: Lane, deadline: float | None, intent: Intent | None
    ) -> Slot | None:
        """A slot, if there is one now and nobody waits who goes first."""
        if not self._is_first(line, lane.priority) or not (line.pacer.pace is None or await self._is_polite(line)):
            return None
        taken: list[Slot] | Wait | None = None
        try:
            taken = await self._take_at_once(line, lane.priority, deadline, intent)
        finally:
            if not isinstance(taken, list):
                line.polite += 1
        return taken[0] if isinstance(taken, list) else None

    async def _admit_in_turn(
        self, line: _Line, lane: Lane, deadline: float | None, intent: Intent | None, person: str | None = None
    ) -> Slot:
        if len(line.queue) >= self._max_waiting:
            raise QuotaQueueFull(endpoint=line.family, waiting=len(line.queue))
        if deadline is not None:
            self._refuse_if_too_long(line, lane, deadline)
        return await self._wait_in_line(line, lane, deadline, intent, person)

    async def _wait_for_manners(self, line: _Line, deadline: float | None) -> None:
        try:
            async with asyncio.timeout_at(deadline), line.free_turn:
                await line.pacer.pass_through()
        except TimeoutError:
            raise self._wait(line, Priority.INTERACTIVE, 0) from None
        if self._is_closed:
            raise ClientClosed(endpoint=line.family)

    async def _note_reply(self, line: _Line, deadline: float | None, partner: Partner, answering: Answering) -> Reply:
        """Note a message that is about to leave."""
        if line.credit is None:
            return Reply(partner)
        if deadline is None:
            return await self._store.reply(partner, answering.server_time(), line.credit)
        try:
            async with asyncio.timeout_at(max(deadline, self._clock.monotonic() + _STORE_PATIENCE)):
                return await self._store.reply(partner, answering.server_time(), line.credit)
        except TimeoutError:
            raise _no_answer(self._store) from None

    def _is_held(self, line: _Line) -> bool:
        """Whether the server said that nothing may leave."""
        return any(self._store.usage(claim.bucket, claim.quotas[0]).held_for > 0 for claim in line.claims)

    def note_inbound(self, person: str, at: datetime) -> None:
        """A person has written to the account, so that replies may be free; see :mod:`twdm_async.quota.credit`.

        Args:
            person: the user id.
            at: when that was, by the server's clock.
        """
        if any(self._table[family].credit for family in self._table):
            partner = Partner(self._owners[Scope.APP], self._owners[Scope.USER], person)
            self._store.heard(partner, at.timestamp())
            for line in self._lines.values():
                for turn in line.answering.pop(person, ()):
                    _refuse(turn, _PersonWrote())

    def note_outbound(self, person: str, message_id: str, at: datetime) -> None:
        """Note a message of the account to a person that this client did not send: it may have used a free reply.

        Args:
            person: the user id.
            message_id: the message's id. However often it is noted, by whomever, it is one message.
            at: when it was made, by the server's clock.
        """
        if any(self._table[family].credit for family in self._table):
            partner = Partner(self._owners[Scope.APP], self._owners[Scope.USER], person)
            self._store.sent(Reply(partner, _by_id(message_id)), at.timestamp())

    def settle(self, slot: Slot, *, seen: bool, made: datetime | None = None, message_id: str | None = None) -> None:
        """The slot's request is over.

        Args:
            slot: its slot.
            seen: whether a reply came, so that the server has counted it by now.
            made: when the message was made that it sent, if the reply said so.
            message_id: its id, likewise.
        """
        grace = 0.0 if seen else self._lifetime.grace
        if slot.reply is not None and slot.reply.is_open:
            # Of two messages to one person, a free one and one with this slot, the server may have counted the other
            # one, when it came; and that one may still be on its way.
            grace = max(grace, self._lifetime.to_send + self._lifetime.to_settle)
        self._store.settle(slot, grace)
        if slot.reply is not None:
            told_at = made.timestamp() if made else None
            if slot.reply.is_open and message_id is not None:
                # From now on it has the name under which others hear of it, so that it counts once.
                self._store.sent(evolve(slot.reply, name=_by_id(message_id)), told_at)
                self._store.unsent(slot.reply)
            else:
                self._store.sent(slot.reply, told_at)

    def give_back(self, slot: Slot) -> None:
        """No byte of the slot's request left the machine."""
        self._store.give_back(slot)
        if slot.reply is not None:
            self._store.unsent(slot.reply)

    def learn(self, family: str, status: int, headers: Mapping[str, str]) -> None:
        """Take from a reply, good or bad, what it says about quotas. It can only tighten them."""
        line = self._line(family)
        limits = read_limits(headers, self._clock.wall())
        if limits.remaining is not None and limits.reset_in:
            self._tighten(line, limits.remaining, limits.reset_in)
        if status in {420, 429}:
            self.refused(family, headers, is_for_all=status == 420)
        elif line.held_until <= self._clock.monotonic():
            line.refusals = 0

    def learn_status(self, family: str, remaining: int, reset_at: float) -> None:
        """Take in what the API's own listing of quotas says about the account.

        Args:
            family: the endpoint family.
            remaining: requests left in the server's window.
            reset_at: when that ends, in seconds since 1970.
        """
        line = self._line(family)
        longest = line.claims[0].quotas[-1].per
        seconds = reset_at - self._clock.wall()
        # If the clocks do not agree, the window may have just begun.
        self._tighten(line, remaining, seconds if 0 < seconds <= longest else longest)

    def refused(self, family: str, headers: Mapping[str, str], *, is_for_all: bool = False) -> None:
        """Send nothing for a while: the server refused a request for quota.

        Args:
            family: the endpoint family of the request.
            headers: of the reply.
            is_for_all: whether no call of the account may leave meanwhile. After a status 420 the API has refused
                every call for a day.
        """
        line = self._line(family)
        now = self._clock.monotonic()
        is_held = line.held_until > now
        # Of many that were under way together, the first refusal is the news; the others are the same one again.
        refusals = line.refusals - is_held
        seconds = self._hold_for(line, read_limits(headers, self._clock.wall()), refusals)
        if not is_held:
            what = "no call of this account leaves" if is_for_all else "nothing is sent"
            _log.warning("%s: the server refused for quota; %s for %.0f s", line.family, what, seconds)
        for held in map(self._line, self._table) if is_for_all else (line,):
            held.held_until = max(held.held_until, now + seconds)
            held.refusals = max(held.refusals, refusals + 1)
            for claim in held.claims:
                if claim.bucket.scope is Scope.USER:
                    self._store.hold(claim.bucket, seconds)

    def state(self) -> tuple[QuotaState, ...]:
        """Every documented quota and how far it is used, as this process last knew."""
        states: list[QuotaState] = []
        for family in self._table:
            line = self._line(family)
            for claim, bulk_claim in zip(line.claims, line.bulk_claims, strict=True):
                for quota in claim.quotas:
                    if quota is not UNLIMITED:
                        usage = self._store.usage(claim.bucket, quota)
                        share, by_bulk = self._bulk_share(line, claim, bulk_claim, quota)
                        free_in = usage.free_in(quota.limit)
                        states.append(
                            QuotaState(
                                endpoint=family,
                                scope=quota.scope,
                                limit=quota.limit,
                                per=quota.per,
                                used=usage.used,
                                in_flight=usage.in_flight,
                                reserved=share.kept,
                                waiting=len(line.queue),
                                free_at=self._clock.utc(free_in),
                                bulk_free_at=self._clock.utc(max(free_in, share.allowed_in(by_bulk + 1))),
                            )
                        )
        return tuple(states)

    async def look(self) -> None:
        """Find out how far every quota is used.

        Raises:
            QuotaStoreFailed: it cannot be known.
        """
        lines = [self._line(family) for family in self._table]
        await self._store.look([claim for line in lines for claim in (*line.claims, *line.bulk_claims)])

    def close(self) -> None:
        """Admit nobody any more, and end the waiting of all who wait."""
        self._is_closed = True
        for line in self._lines.values():
            if line.usher is not None:
                line.usher.cancel()
            while line.queue:
                _refuse(line.queue.pop(), ClientClosed(endpoint=line.family))

    def _line(self, family: str) -> _Line:
        line = self._lines.get(family)
        if line is None:
            row = self._table[family]
            claims = self._claims(family, row.quotas, None)
            bulk_claims = self._claims(family, row.quotas, Priority.BULK)
            line = self._lines[family] = _Line(family, claims, bulk_claims, row.reserve, Pacer(row.pace), row.credit)
        return line

    def _claims(self, family: str, quotas: tuple[Quota, ...], share: Priority | None) -> tuple[Claim, ...]:
        """One for each scope; that of the account comes first, and there always is one, to be held by."""
        claims: list[Claim] = []
        for scope, owner in self._owners.items():
            own = tuple(sorted((quota for quota in quotas if quota.scope is scope), key=lambda quota: quota.per))
            if own or scope is Scope.USER:
                bucket = Bucket(family, scope, owner, self._owners[Scope.APP], share)
                claims.append(Claim(bucket, own or (UNLIMITED,)))
        return tuple(claims)

    def _is_first(self, line: _Line, priority: Priority) -> bool:
        """Whether nobody waits who goes before a newcomer of this priority."""
        if line.queue and line.queue.has_waiting(priority):
            return False
        parking = self._store.parking
        if parking.is_empty:
            return True
        return not any(parking.is_waited_for(claim.bucket, priority) for claim in line.claims)

    async def _is_polite(self, line: _Line) -> bool:
        """Whether one may leave now by the pacer. If so, that is used up."""
        if line.polite:
            line.polite -= 1
            return True
        if line.pacer.is_ready():
            await line.pacer.pass_through()  # does not wait
            return True
        return False

    async def _take_at_once(
        self, line: _Line, priority: Priority, deadline: float | None, intent: Intent | None
    ) -> list[Slot] | Wait:
        if deadline is None:
            return await self._take(line, priority, 1, intent)
        try:
            async with asyncio.timeout_at(max(deadline, self._clock.monotonic() + _STORE_PATIENCE)):
                return await self._take(line, priority, 1, intent)
        except TimeoutError:
            raise _no_answer(self._store) from None

    async def _take(self, line: _Line, priority: Priority, most: int, intent: Intent | None) -> list[Slot] | Wait:
        if priority is Priority.INTERACTIVE or not line.reserve:
            return await self._store.take(line.claims, self._lifetime, most, intent)
        await self._store.look((*line.claims, *line.bulk_claims))
        claims: list[Claim] = []
        worth_asking_in = math.inf
        for claim, bulk_claim in zip(line.claims, line.bulk_claims, strict=True):
            left: list[Quota] = []
            spread: list[Quota] = []
            for quota in claim.quotas:
                share, used = self._bulk_share(line, claim, bulk_claim, quota)
                left.append(evolve(quota, limit=quota.limit - share.kept))
                spread.append(evolve(quota, limit=share.allowed))
                if quota is not UNLIMITED:
                    worth_asking_in = min(worth_asking_in, share.allowed_in(used + 1) or quota.per / 50)
            claims += (Claim(claim.bucket, tuple(left)), Claim(bulk_claim.bucket, tuple(spread)))
        taken = await self._store.take(tuple(claims), self._lifetime, most, intent)
        if isinstance(taken, Wait):
            return Wait(taken.bucket, min(taken.seconds, max(worth_asking_in, _SHORTEST_RECHECK)))
        return taken

    def _bulk_share(self, line: _Line, claim: Claim, bulk_claim: Claim, quota: Quota) -> tuple[BulkShare, int]:
        """What bulk calls may use of `quota`, and how much they do."""
        bulk = self._store.usage(bulk_claim.bucket, quota)
        return bulk_share(quota, line.reserve, self._store.usage(claim.bucket, quota), bulk), bulk.used

    def _refuse_if_too_long(self, line: _Line, lane: Lane, deadline: float) -> None:
        """Raise if it is known that one who joined `lane` now would wait beyond `deadline`."""
        max_wait = deadline - self._clock.monotonic()
        if self._wait(line, lane.priority, len(line.queue)).wait <= max_wait:
            return  # even the last in line would be in time, so there is no need to look for the place
        too_long = self._wait(line, lane.priority, line.queue.ahead_of(lane))
        if too_long.wait > max_wait:
            raise too_long

    def _wait(self, line: _Line, priority: Priority, ahead: int) -> QuotaWaitTooLong:
        """How long one would wait, at the least, who has so many before it."""
        waits: list[tuple[float, Scope, Quota | Pace | None]] = [
            (line.pacer.free_in(max(0, ahead + 1 - line.polite)), Scope.USER, line.pacer.pace)
        ]
        for claim, bulk_claim in zip(line.claims, line.bulk_claims, strict=True):
            for quota in claim.quotas:
                seconds = self._store.usage(claim.bucket, quota).free_in(quota.limit, ahead + 1)
                if priority is Priority.BULK and line.reserve:
                    share, used = self._bulk_share(line, claim, bulk_claim, quota)
                    bulk_ahead = max(0, ahead - line.queue.waiting(Priority.INTERACTIVE))
                    seconds = max(seconds, share.allowed_in(used + bulk_ahead + 1))
                waits.append((seconds, quota.scope, quota))
        seconds, scope, binding = max(waits, key=lambda wait: wait[0])
        binding = None if binding is UNLIMITED else binding  # then it is the server that said so
        limit = binding.burst if isinstance(binding, Pace) else binding.limit if binding else math.inf
        return QuotaWaitTooLong(
            endpoint=line.family,
            scope=scope.value,
            wait=seconds,
            retry_at=self._clock.utc(seconds),
            limit=limit,
            per=binding.per if binding else 0.0,
        )

    async def _wait_in_line(  # noqa: C901 - one way in, and every way out
        self, line: _Line, lane: Lane, deadline: float | None, intent: Intent | None, person: str | None
    ) -> Slot:
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        line.queue.push(turn, lane)
        if person is not None:
            line.answering.setdefault(person, set()).add(turn)
        if intent is not None:
            line.intents[turn] = intent
        if line.usher is None:
            line.usher = asyncio.create_task(self._usher(line), name=f"twdm_async quota {line.family}")
        elif lane.priority < line.parked_for:
            line.unpark()  # the usher waits on behalf of somebody who goes after this one
        try:
            async with asyncio.timeout_at(deadline):
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
            line.intents.pop(turn, None)
            line.answering_discard(person, turn)
            if not line.queue:
                line.unpark()
        if self._clock.monotonic() - line.asking_since > _STORE_PATIENCE:
            raise _no_answer(self._store)
        raise self._wait(line, lane.priority, 0)

    async def _usher(self, line: _Line) -> None:
        """Hand slots to those who wait, until nobody does."""
        turn_for: Bucket | None = None  # this line was woken to ask it; it must pass the turn on
        try:
            while line.queue:
                if not line.polite:
                    turn_for = await self._wait_for_pace(line, turn_for)
                    continue  # whoever waited may have gone meanwhile
                priority = line.queue.next_priority()
                one = line.queue.peek() if line.intents else None  # a slot is then taken for this one alone
                most = 1 if turn_for or one else min(line.polite, line.queue.waiting(priority), _BATCH)
                taken = await self._take_for_those_who_wait(
                    line, priority, most, line.intents.get(one) if one else None
                )
                if isinstance(taken, Wait):
                    line.polite = min(line.polite, 1)  # else there would be two bursts after the wait
                    if turn_for != taken.bucket:
                        self._pass_on(turn_for)
                        turn_for = None
                    # If somebody came meanwhile who goes before, the store must be asked for that one.
                    if line.queue and line.queue.next_priority() >= priority:
                        turn_for = await self._park(line, taken.bucket, taken.seconds)
                    continue
                for slot in taken:
                    self._hand_over(line, slot, priority, one)
                if turn_for and line.queue and self._store.parking.is_waited_for(turn_for, line.queue.next_priority()):
                    turn_for = await self._park(line, turn_for, None)
        except Exception as error:  # noqa: BLE001 - whatever the store raises, those who wait must hear of it
            while line.queue:
                _refuse(line.queue.pop(), error)
        finally:
            line.usher = None
            self._pass_on(turn_for)

    async def _wait_for_pace(self, line: _Line, turn_for: Bucket | None) -> Bucket | None:
        """Let some be polite. Returns for which bucket the line still holds the turn."""
        if not line.pacer.is_ready():
            self._pass_on(turn_for)  # the others need not wait for this one's manners
            turn_for = None
        try:
            line.polite += await line.pacer.pass_through(min(len(line.queue), _BATCH))
        except BaseException:
            self._pass_on(turn_for)
            raise
        return turn_for

    async def _take_for_those_who_wait(
        self, line: _Line, priority: Priority, most: int, intent: Intent | None
    ) -> list[Slot] | Wait:
        line.polite -= most
        line.asking_since = self._clock.monotonic()
        used = 0
        try:
            taken = await self._take(line, priority, most, intent)
            if isinstance(taken, list):
                used = len(taken)
        finally:
            line.asking_since = math.inf
            line.polite += most - used
        return taken

    def _pass_on(self, turn_for: Bucket | None) -> None:
        """Let the next one ask `turn_for`."""
        if turn_for is not None:
            self._store.parking.wake_next(turn_for)

    async def _park(self, line: _Line, bucket: Bucket, seconds: float | None) -> Bucket:
        """Wait until it is worth asking `bucket` again: in so many seconds; or, with ``None``, after the others who
        wait for it. Whoever returns from here holds the turn for it.
        """
        parking = self._store.parking
        line.parked = turn = asyncio.get_running_loop().create_future()
        line.parked_for = line.queue.next_priority()
        lane = self._parking_lanes[line.parked_for]
        parking.enter(bucket, lane, turn, seconds)
        if seconds is None:
            parking.wake_next(bucket)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():
                parking.wake_next(bucket)
            raise
        finally:
            line.parked, line.parked_for = None, Priority.INTERACTIVE
            parking.leave(bucket, lane, turn)
        return bucket

    def _hand_over(self, line: _Line, slot: Slot, priority: Priority, one: asyncio.Future[Slot] | None) -> None:
        """Give `slot`, which was taken for one of this priority, to whoever's turn it is now; or to nobody, if it was
        taken for `one` whose turn it is no longer.
        """
        while line.queue and line.queue.next_priority() <= priority:  # what is kept for some is not for the others
            if one is not None and line.queue.peek() is not one:
                break
            turn = line.queue.pop()
            if not turn.done():
                turn.set_result(slot)
                return
        self._store.give_back(slot)

    def _tighten(self, line: _Line, remaining: int, seconds: float) -> None:
        """The server told of one of its windows, but not which: take the shortest that can last so long."""
        claim = line.claims[0]
        quota = next((quota for quota in claim.quotas if quota.per >= seconds), claim.quotas[-1])
        if quota is not UNLIMITED:
            # The server's window cannot end later than its length from now.
            self._store.tighten(claim.bucket, quota, remaining, min(seconds, quota.per))

    def _hold_for(self, line: _Line, limits: Limits, refusals: int) -> float:
        """Seconds to stay away after a 429 that came after so many others in a row."""
        said = max((s for s in (limits.retry_after, limits.reset_in) if s is not None), default=None)
        if said is None:
            longest_window = max(quota.per for claim in line.claims for quota in claim.quotas)
            longest = _LONGEST_HOLD if longest_window == UNLIMITED.per else min(longest_window, _LONGEST_HOLD)
            seconds = min(_FIRST_HOLD * 2.0 ** min(refusals, 12), longest)
        else:
            if said > LONGEST_WAIT:
                _log.warning("%s: the server asked to wait for %.0f s, which no window lasts", line.family, said)
            # A time that has passed means now; but if that is refused as well, it means less and less.
            seconds = min(said if said >= 1 else 2.0 ** min(refusals, 12), LONGEST_WAIT)
        # Some jitter, so that clients which were refused together do not come back together.
        return max(seconds, 1.0) * random.uniform(1.0, 1.1)


def _by_id(message_id: str) -> str:
    return f"id {message_id}"


def _has_slot(turn: asyncio.Future[Slot]) -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None


def _refuse(turn: asyncio.Future[Slot], error: Exception) -> None:
    if not turn.done():
        turn.set_exception(error)


def _no_answer(store: QuotaStore) -> QuotaStoreFailed:
    return QuotaStoreFailed(
        store=store.address,
        problem="it did not answer in time; see that it is reachable, and that nobody else holds it",
    )
