"""Admission: the one gate every request passes before it is signed.

The limiter of an account knows its quotas. The dispatcher (:mod:`twdm_async.quota.dispatcher`) decides who waits and
whose turn it is; the store counts what is spent. The limiter also takes in what the API's replies say about quotas,
which can only tighten them.
"""

from __future__ import annotations

import asyncio
import math
import random
from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

from twdm_async._log import quiet_logger
from twdm_async.errors import ClientClosed
from twdm_async.headers import LONGEST_WAIT, Limits, read_limits
from twdm_async.quota.dispatcher import Dispatcher, dispatcher_of, give_back
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.quota.line import Line, Waiter
from twdm_async.quota.operations import Bucket, Claim, Conversant, Heard, Hold, Slot, Take, Terms, Tighten
from twdm_async.quota.pacer import Pacer
from twdm_async.quota.spec import Priority, Quota, QuotaTable, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twdm_async._clock import Clock
    from twdm_async.quota.lanes import Lane
    from twdm_async.quota.operations import Intent
    from twdm_async.quota.store.contract import QuotaStore

_log = quiet_logger(__name__)

_FIRST_HOLD: Final = 60.0  # seconds; doubled with every 429 in a row that does not say how long to wait
_LONGEST_HOLD: Final = 4 * 3600.0


@frozen(kw_only=True)
class QuotaState:
    """The usage of one quota.

    Args:
        endpoint: the endpoint family.
        account: the name of the account, or with the scope ``"app"`` of the app, whose quota it is. The name reveals
            no key.
        scope: whose requests the quota counts.
        limit: requests in `per` seconds.
        per: the window in seconds.
        used: slots that count, including those of requests in flight.
        in_flight: requests in flight.
        reserved: slots that bulk calls may not take now, because they are kept for interactive calls.
        waiting: calls of this client that wait for a slot.
        free_at: when a slot is free (UTC); not in the future if a slot is free now.
        bulk_free_at: when a slot is free for bulk calls (UTC); not in the future if one is free now.
    """

    endpoint: str
    account: str
    scope: Scope
    limit: int
    per: float
    used: int
    in_flight: int
    reserved: int
    waiting: int
    free_at: datetime
    bulk_free_at: datetime


class QuotaLimiter:
    """The quotas of one account.

    Args:
        table: the quotas of each endpoint family.
        store: keeps the ledgers.
        account: a name for the account.
        app: a name for the app.
        clock: the source of time.
        timeout: seconds an attempt may take. If the outcome of a request was not seen, the server counts the request
            within twice that time, or never.
        max_waiting: how many calls may wait for one endpoint family.
        server_time: returns the seconds since 1970 by the server's clock, as far as it is known; the `clock`'s wall
            time by default.
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
        server_time: Callable[[], float] | None = None,
    ) -> None:
        self._table = table
        self._store = store
        self._owners = {Scope.USER: account, Scope.APP: app}
        self._clock = clock
        self._server_time = server_time or clock.wall
        self._lifetime = RequestLifetime.from_timeout(timeout)
        self._max_waiting = max_waiting
        rows = [table[family] for family in table]
        self._keep = max((quota.per for row in rows for quota in row.quotas), default=0.0)
        self._credit = max((row.credit for row in rows if row.credit), key=lambda credit: credit.per, default=None)
        self._terms: dict[str, tuple[Terms, Terms]] = {}  # by family; for interactive calls and for bulk calls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lines: dict[str, tuple[Line, Dispatcher]] = {}  # by family, in this loop
        self._refusals: dict[str, tuple[int, float]] = {}  # by family: holds in a row, and when the last one ends
        self.is_closed: bool = False

    async def admit(
        self,
        family: str,
        lane: Lane,
        max_wait: float | None = None,
        intent: Intent | None = None,
        recipient: str | None = None,
    ) -> Slot:
        """Wait for a slot that counts in every quota of `family`. The caller must settle it or give it back.

        Args:
            family: the endpoint family.
            lane: the lane to wait in.
            max_wait: seconds; ``None`` waits as long as it takes.
            intent: what the store writes together with the slot.
            recipient: the recipient's user id, if the request sends a message. A free reply gets a slot that counts
                nowhere.

        Raises:
            QuotaWaitTooLong: the call would wait for longer than `max_wait`. Raised at once if that is known.
            QuotaQueueFull: the call would have to wait, and `max_waiting` calls wait already.
            QuotaStoreFailed: the store cannot tell what is spent, or cannot record it.
            ClientClosed: the limiter was closed before this call got a slot.
        """
        waiter = self.enter(family, lane, max_wait, intent, recipient)
        if isinstance(waiter, Slot):
            return waiter
        try:
            return await waiter
        except BaseException:
            self.leave(waiter)
            raise

    def enter(
        self,
        family: str,
        lane: Lane,
        max_wait: float | None = None,
        intent: Intent | None = None,
        recipient: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Slot | Waiter:
        """Take a slot as :meth:`admit` does if one is free now; else return a future of it. If awaiting the future
        raises, call :meth:`leave`. Pass the running `loop` if it is known: looking it up costs a system call.
        """
        if self.is_closed:
            raise ClientClosed(endpoint=family)
        loop = loop or asyncio.get_running_loop()
        if loop is not self._loop:  # calls that waited in another loop ended with it
            self._loop, self._lines = loop, {}
        line, dispatcher = self._lines.get(family) or self._line(family)
        terms = line.terms[lane.priority]
        if terms.credit is None:
            recipient = None
        pacer = line.pacer  # it is asked only if there is a pace, because every send passes here
        if intent is None and not line.asking and dispatcher.is_idle(line) and (pacer.pace is None or pacer.allows()):
            slot = self._store.take_one(terms, recipient, loop)
            if slot is not None:
                if pacer.pace is not None:
                    pacer.spend()
                return slot
        deadline = None if max_wait is None else self._store.clock.monotonic() + max_wait
        waiter = Waiter(line, lane, deadline, recipient, intent, loop)
        dispatcher.join(waiter)
        return waiter.result() if waiter.done() else waiter

    def leave(self, waiter: Waiter) -> None:
        """Give up the place of `waiter` in the wait queue, and its slot if it was granted one."""
        slot = waiter.unused()
        if slot is not None:
            self.give_back(slot)

    def note_inbound(self, person: str, at: datetime) -> None:
        """Note that a person has written to the account, so that replies may be free; see
        :mod:`twdm_async.quota.credit`.

        Args:
            person: the person's user id.
            at: when the person wrote, by the server's clock.
        """
        if self._credit is not None:
            self._store.note(Heard(self._conversant(person), at.timestamp(), self._credit))
            for _, dispatcher in self._lines.values():
                if dispatcher.loop.is_running():
                    dispatcher.hear(self._owners[Scope.USER], person)

    def note_outbound(self, person: str, message_id: str, at: datetime) -> None:
        """Note a message from the account to a person that this client did not send: it may have used a free reply.

        Args:
            person: the person's user id.
            message_id: the message's id. A message counts once, however often it is noted and by whichever client.
            at: when the message was created, by the server's clock.
        """
        if self._credit is not None:
            self._store.note(Heard(self._conversant(person), at.timestamp(), self._credit, message_id))

    def settle(self, slot: Slot, seen: bool, made: datetime | None = None, message_id: str | None = None) -> None:
        """Settle a slot whose request has ended.

        Args:
            slot: the slot.
            seen: whether a reply came, so that the server has counted the request by now.
            made: when the server created the message that the request sent, if the reply says so.
            message_id: the id of that message, if the reply says so.
        """
        grace = 0.0 if seen else self._lifetime.grace
        if slot.is_open:
            # Of two messages to one person, this one and one that was free here, the server may count the free one in
            # place of this one, depending on which arrives first; and the free one may still be on its way.
            grace = max(grace, self._lifetime.lease)
        self._store.settle(slot, grace, made.timestamp() if made else None, message_id)

    def give_back(self, slot: Slot) -> None:
        """Give back a slot, because no byte of its request left the machine."""
        give_back(self._store, slot)

    def learn(self, family: str, status: int, headers: Mapping[str, str]) -> None:
        """Take in what a reply of any status says about quotas. It can only tighten them."""
        limits = read_limits(headers, self._clock.wall())
        if limits.remaining is not None and limits.reset_in:
            self._tighten(family, limits.remaining, limits.reset_in)
        if status in {420, 429}:
            self.refused(family, headers, is_for_all=status == 420)
        elif family in self._refusals and self._refusals[family][1] <= self._clock.monotonic():
            del self._refusals[family]

    def learn_status(self, family: str, remaining: int, reset_at: float) -> None:
        """Take in what the API's own listing of quotas says about the account.

        Args:
            family: the endpoint family.
            remaining: requests left in the server's window.
            reset_at: when that window ends, in seconds since 1970.
        """
        quotas = self._own_claim(family).quotas
        if quotas:
            longest, seconds = quotas[-1].per, reset_at - self._clock.wall()
            # A time outside the window means that the clocks do not agree; then the window may have just begun.
            self._tighten(family, remaining, seconds if 0 < seconds <= longest else longest)

    def refused(self, family: str, headers: Mapping[str, str], *, is_for_all: bool = False) -> None:
        """Let no request leave for a while, because the server refused one for quota.

        Args:
            family: the endpoint family of the refused request.
            headers: the headers of the reply.
            is_for_all: whether no call of the account may leave meanwhile. After a status 420 the API has refused
                every call for a day.
        """
        now = self._clock.monotonic()
        in_a_row, held_until = self._refusals.get(family, (0, -math.inf))
        # If requests that were in flight together are refused, only the first refusal counts; the others repeat it.
        is_held = held_until > now
        in_a_row -= is_held
        seconds = self._hold_for(family, read_limits(headers, self._clock.wall()), in_a_row)
        if not is_held:
            what = "no call of this account leaves" if is_for_all else "nothing is sent"
            _log.warning("%s: the server refused for quota; %s for %.0f s", family, what, seconds)
        for held in self._table if is_for_all else (family,):
            before, until = self._refusals.get(held, (0, -math.inf))
            self._refusals[held] = (max(before, in_a_row + 1), max(until, now + seconds))
            self._store.note(Hold(self._own_claim(held).bucket, seconds))

    def state(self) -> tuple[QuotaState, ...]:
        """Return the state of every documented quota, as far as this process knows it."""
        states: list[QuotaState] = []
        for family in self._table:
            waiting = len(self._lines[family][0].waiters) if family in self._lines else 0
            for live, bulk in zip(*map(self._store.standings, self._terms_of(family)), strict=True):
                if live.quota is not None:
                    state = QuotaState(
                        endpoint=family,
                        account=live.bucket.owner,
                        scope=live.quota.scope,
                        limit=live.quota.limit,
                        per=live.quota.per,
                        used=live.usage.used,
                        in_flight=live.usage.in_flight,
                        reserved=bulk.share[0].kept if bulk.share else 0,
                        waiting=waiting,
                        free_at=self._clock.utc(live.free_in()),
                        bulk_free_at=self._clock.utc(bulk.free_in()),
                    )
                    states.append(state)
        return tuple(states)

    async def look(self) -> None:
        """Ask the store how far every quota is used; :meth:`state` tells it then.

        Raises:
            QuotaStoreFailed: the store cannot tell.
        """
        questions = [self._store.ask(Take(self._terms_of(family)[Priority.BULK], 0)) for family in self._table]
        await asyncio.gather(*(answer for answer in questions if isinstance(answer, asyncio.Future)))

    def close(self) -> None:
        """Admit no more calls, and refuse all calls that wait."""
        self.is_closed = True
        for line, dispatcher in self._lines.values():
            dispatcher.remove(line)

    def _line(self, family: str) -> tuple[Line, Dispatcher]:
        terms, pacer = self._terms_of(family), Pacer(self._table[family].pace)
        line = Line(terms, pacer, self._store, self._clock, self._max_waiting)
        dispatcher = dispatcher_of(self._store, terms[0])
        dispatcher.add(line)
        self._lines[family] = line, dispatcher
        return line, dispatcher

    def _terms_of(self, family: str) -> tuple[Terms, Terms]:
        found = self._terms.get(family)
        if found is None:
            row = self._table[family]
            claims = self._claims(family, row.quotas)
            live = Terms(claims, self._lifetime, self._keep, 0.0, row.credit, self._server_time)
            found = self._terms[family] = live, evolve(live, reserve=row.reserve)
        return found

    def _own_claim(self, family: str) -> Claim:
        """Return the claim on the account's own bucket."""
        return self._terms_of(family)[Priority.INTERACTIVE].claims[0]

    def _claims(self, family: str, quotas: tuple[Quota, ...]) -> tuple[Claim, ...]:
        """Return a claim for each scope that has quotas. The account's comes first, and is there even without quotas,
        since its bucket can be held.
        """
        claims: list[Claim] = []
        for scope, owner in self._owners.items():
            own = tuple(sorted((quota for quota in quotas if quota.scope is scope), key=lambda quota: quota.per))
            if own or scope is Scope.USER:
                claims.append(Claim(Bucket(family, scope, owner, self._owners[Scope.APP]), own))
        return tuple(claims)

    def _conversant(self, person: str) -> Conversant:
        return Conversant(self._owners[Scope.APP], self._owners[Scope.USER], person)

    def _tighten(self, family: str, remaining: int, seconds: float) -> None:
        """Take in what the server said of one of its windows. It does not say of which one, so assume the shortest one
        that can last for so many `seconds`.
        """
        claim = self._own_claim(family)
        if claim.quotas:
            quota = next((quota for quota in claim.quotas if quota.per >= seconds), claim.quotas[-1])
            # The server's window cannot end later than its length from now.
            self._store.note(Tighten(claim.bucket, quota, remaining, min(seconds, quota.per)))

    def _hold_for(self, family: str, limits: Limits, refusals: int) -> float:
        """Return how many seconds to send nothing after a 429 that followed `refusals` others in a row."""
        said = max((s for s in (limits.retry_after, limits.reset_in) if s is not None), default=None)
        if said is None:
            longest = min(
                max((quota.per for quota in self._table[family].quotas), default=_LONGEST_HOLD), _LONGEST_HOLD
            )
            seconds = min(_FIRST_HOLD * 2.0 ** min(refusals, 12), longest)
        else:
            if said > LONGEST_WAIT:
                _log.warning("%s: the server asked for a wait of %.0f s, longer than any window lasts", family, said)
            # A time in the past means that the next request may leave now; but with each such refusal, trust that less.
            seconds = min(said if said >= 1 else 2.0 ** min(refusals, 12), LONGEST_WAIT)
        # Some jitter, so that clients which were refused together do not all retry at the same time.
        return max(seconds, 1.0) * random.uniform(1.0, 1.1)
