"""Ledgers in this process' memory. What was spent is forgotten when the process ends."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Self

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.credit import Conversation
from twdm_async.quota.ledger import Ledger, Usage, window
from twdm_async.quota.store.contract import (
    Bucket,
    Claim,
    Intent,
    Lifetime,
    Partner,
    QuotaStore,
    Reply,
    Slot,
    Wait,
    assumed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twdm_async.quota.spec import Quota, ReplyCredit


class MemoryQuotaStore(QuotaStore, schemes=("memory",)):
    """Serves the clients of one process, and remembers nothing after it.

    Args:
        clock: where time comes from; the machine's own if not given.
        assume_spent: what to believe at the start; see :class:`QuotaStore`. Every start of a process is a first one.
    """

    def __init__(self, *, clock: Clock | None = None, assume_spent: float = 0.0) -> None:
        super().__init__(assume_spent=assume_spent)
        self._clock = clock or Clock()
        self._ledgers: dict[Bucket, Ledger] = {}
        self._conversations: OrderedDict[Partner, Conversation] = OrderedDict()  # the one touched last comes last
        self._since = math.floor(self._clock.wall())  # what was sent before is not known
        self._names = itertools.count()

    @property
    def address(self) -> str:
        return "memory://"

    @classmethod
    def _at(cls, url: str, assume_spent: float) -> Self:
        if url != "memory://":
            raise InvalidInput(parameter="url", problem="must be memory:// and nothing else")
        return cls(assume_spent=assume_spent)

    async def take(
        self,
        claims: tuple[Claim, ...],
        lifetime: Lifetime,  # noqa: ARG002 - nobody dies here without everybody
        most: int = 1,
        intent: Intent | None = None,  # noqa: ARG002 - there is no file to write it to
    ) -> list[Slot] | Wait:
        self._settle_in()
        now = self._clock.monotonic()
        count = most
        ledgers: list[Ledger] = []
        for claim in claims:
            ledger = self._ledgers.get(claim.bucket)
            if ledger is None or self.assume_spent:
                ledger = self._ledger(claim)
            room = ledger.room(now, claim.quotas)
            if room < count:
                if room <= 0:
                    return self._longest_wait(claims)
                count = room
            ledgers.append(ledger)
        for ledger in ledgers:
            ledger.in_flight += count
        return [Slot(claims)] if count == 1 else [Slot(claims) for _ in range(count)]

    def settle(self, slot: Slot, grace: float = 0.0) -> None:
        now = self._clock.monotonic()
        for claim in slot.claims:
            self._ledgers[claim.bucket].settle(now, grace)

    def give_back(self, slot: Slot) -> None:
        for claim in slot.claims:
            self._ledgers[claim.bucket].give_back()
        for claim in slot.claims:
            self.parking.wake_next(claim.bucket)

    def hold(self, bucket: Bucket, seconds: float) -> None:
        self._ledgers.setdefault(bucket, Ledger()).hold(self._clock.monotonic() + seconds)

    def tighten(self, bucket: Bucket, quota: Quota, remaining: int, seconds: float) -> None:
        now = self._clock.monotonic()
        self._ledger(Claim(bucket, (quota,))).tighten(now, quota, remaining, now + seconds)

    async def reply(self, partner: Partner, now: float, credit: ReplyCredit) -> Reply:
        self._settle_in()
        conversation = self._conversation(partner)
        name = f"{next(self._names):x}"
        freedom = conversation.begin(name, now, credit)
        while next(iter(self._conversations.values())).is_over(now, credit):
            self._conversations.popitem(last=False)
        return Reply(partner, name, freedom.is_free, freedom.is_open)

    def sent(self, reply: Reply, made: float | None) -> None:
        self._conversation(reply.partner).end(reply.name, made)

    def unsent(self, reply: Reply) -> None:
        self._conversation(reply.partner).withdraw(reply.name)

    def heard(self, partner: Partner, at: float) -> None:
        if at >= self._since:
            self._conversation(partner).hear(at)

    def usage(self, bucket: Bucket, quota: Quota) -> Usage:
        return self._ledger(Claim(bucket, (quota,))).usage(self._clock.monotonic(), quota)

    async def look(self, claims: Iterable[Claim]) -> None:
        pass  # nobody else changes it

    async def flush(self) -> None:
        pass

    def _move_in(self, *, was_forked: bool, is_new: bool) -> None:  # noqa: ARG002 - nothing here belongs to a loop
        if was_forked:
            problem = (
                "it was used before this process was forked, and two processes cannot count together in memory; make "
                "the client after the fork, or share a SQLiteQuotaStore"
            )
            raise QuotaStoreFailed(store=self.address, problem=problem)

    def _conversation(self, partner: Partner) -> Conversation:
        conversation = self._conversations.get(partner)
        if conversation is None:
            conversation = self._conversations[partner] = Conversation()
        else:
            self._conversations.move_to_end(partner)
        return conversation

    def _ledger(self, claim: Claim) -> Ledger:
        ledger = self._ledgers.get(claim.bucket)
        if ledger is None:
            ledger = self._ledgers[claim.bucket] = Ledger()
        if self.assume_spent:
            now = self._clock.monotonic()
            for quota in claim.quotas:
                if not ledger.remembers(quota):
                    unspent = quota.limit - assumed(quota, self.assume_spent)
                    ledger.tighten(now, quota, unspent, now + window(quota))
        return ledger

    def _longest_wait(self, claims: tuple[Claim, ...]) -> Wait:
        return max(
            (
                Wait(claim.bucket, self.usage(claim.bucket, quota).free_in(quota.limit))
                for claim in claims
                for quota in claim.quotas
            ),
            key=lambda wait: wait.seconds,
        )
