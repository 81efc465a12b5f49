"""What the stores have in common that must talk to something: everything of one turn of the loop goes in one call.

So a thousand calls that are admitted at once cost one transaction, or one round trip. Calls go one after the other;
what is told meanwhile makes up the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from attrs import define

from twdm_async.errors import QuotaStoreFailed
from twdm_async.quota.ledger import Usage, window
from twdm_async.quota.store.contract import Intent, Lifetime, Partner, QuotaStore, Reply, Slot, Wait
from twdm_async.quota.store.steps import (
    Answer,
    Asked,
    BeginReply,
    Begun,
    EndReply,
    GiveBack,
    Hear,
    Hold,
    Look,
    Looked,
    Settle,
    Step,
    Take,
    Taken,
    Tighten,
    Told,
    WithdrawReply,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from twdm_async._clock import Clock
    from twdm_async.quota.spec import Quota, ReplyCredit
    from twdm_async.quota.store.contract import Bucket, Claim

_LARGEST_CALL: Final = 500  # steps
_MOST_UNTOLD: Final = 100_000  # steps kept for a store that fails
_LOOK_EVERY: Final = 1.0  # seconds, so that what is known here is hardly older
_MAY_WAIT: Final = 0.005  # seconds that what is told waits for something that is asked, to go along with it
_MOST_RARELY, _MOST_OFTEN = 30.0, 0.02  # seconds between two looks at whether others gave something back


@define(eq=False)
class _Question:
    step: Asked
    answer: asyncio.Future[Looked | Taken | Begun]


@define(eq=False)
class _Known:
    """How far a quota was used at a moment of this process' clock."""

    then: float
    used: int = 0
    in_flight: int = 0
    held_until: float = 0.0
    freeing: tuple[tuple[int, float], ...] = ()

    def pass_to(self, now: float) -> None:
        """Let time pass: some have come free."""
        passed = now - self.then
        freed = max((number for number, seconds in self.freeing if seconds <= passed), default=0)
        self.then = now
        self.used = max(0, self.used - freed)
        self.freeing = tuple((number - freed, seconds - passed) for number, seconds in self.freeing if number > freed)


class BatchedQuotaStore(QuotaStore):
    """A store that carries out the steps of one turn of the loop together.

    Args:
        clock: where this process' time comes from.
        assume_spent: what to believe at the first start; see :class:`QuotaStore`.
    """

    def __init__(self, *, clock: Clock, assume_spent: float) -> None:
        super().__init__(assume_spent=assume_spent)
        self._clock = clock
        self._told: list[Told] = []
        self._asked: list[_Question] = []
        self._call: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._flushes: list[asyncio.Future[None]] = []
        self._changed: dict[tuple[Claim, ...], None] = {}  # what slots were taken of since the last look
        self._looked_at = -math.inf
        self._known: dict[Bucket, dict[float, _Known]] = {}  # by window
        self._names = itertools.count()
        self._owner = ""

    @abstractmethod
    async def _run(self, steps: Sequence[Step]) -> list[Answer]:
        """Carry out `steps`, in order, and answer each; nothing is asked while this runs.

        Raises:
            QuotaStoreFailed: it could not be done, or it is not known whether it was.
        """

    def _move_in(self, *, was_forked: bool, is_new: bool) -> None:
        self._asked.clear()  # whoever asked is gone with its loop
        self._flushes.clear()
        if was_forked or is_new:
            self._owner = f"{secrets.token_hex(6)}:"  # names must differ from those of every other process
            self._told.clear()  # the process that this one was forked off will see to it
            self._known.clear()
        self._call, self._later = None, None

    async def take(
        self, claims: tuple[Claim, ...], lifetime: Lifetime, most: int = 1, intent: Intent | None = None
    ) -> list[Slot] | Wait:
        self._settle_in()
        asked_at = self._clock.monotonic()
        names = tuple([f"{self._owner}{next(self._names):x}" for _ in range(most)])
        intents = {names[0]: intent} if intent else {}
        answer = await self._ask(Take(claims, names, lifetime.to_send + lifetime.to_settle, intents))
        if not isinstance(answer, Taken):
            return self._wait(claims)
        send_by = asked_at + lifetime.to_send
        return [Slot(claims, name, send_by, intended=name in answer.written) for name in names[: answer.count]]

    async def reply(self, partner: Partner, now: float, credit: ReplyCredit) -> Reply:
        self._settle_in()
        name = f"{self._owner}{next(self._names):x}"
        answer = await self._ask(BeginReply(partner, name, now, credit))
        return (
            Reply(partner, name, answer.is_free, answer.is_open) if isinstance(answer, Begun) else Reply(partner, name)
        )

    def sent(self, reply: Reply, made: float | None) -> None:
        self._tell(EndReply(reply.partner, reply.name, made))

    def unsent(self, reply: Reply) -> None:
        self._tell(WithdrawReply(reply.partner, reply.name))

    def heard(self, partner: Partner, at: float) -> None:
        self._tell(Hear(partner, at))

    async def close(self) -> None:
        await super().close()
        self._cancel_later()

    async def look(self, claims: Iterable[Claim]) -> None:
        await self._ask(Look(tuple(claims)))

    def settle(self, slot: Slot, grace: float = 0.0) -> None:
        if slot.claims:
            self._adjust(slot.claims, used=0, in_flight=-1)
            self._tell(Settle(_buckets(slot.claims), (slot.name,), grace))

    def give_back(self, slot: Slot) -> None:
        if slot.claims:
            self._adjust(slot.claims, used=-1, in_flight=-1)
            self._tell(GiveBack(_buckets(slot.claims), (slot.name,)))
            for claim in slot.claims:
                self.parking.wake_next(claim.bucket)

    def hold(self, bucket: Bucket, seconds: float) -> None:
        for known in self._known.get(bucket, {}).values():
            known.held_until = max(known.held_until, self._clock.monotonic() + seconds)
        self._tell(Hold(bucket, seconds))

    def tighten(self, bucket: Bucket, quota: Quota, remaining: int, seconds: float) -> None:
        self._tell(Tighten(bucket, quota, remaining, seconds))

    def usage(self, bucket: Bucket, quota: Quota) -> Usage:
        known, now = self._known_of(bucket, quota), self._clock.monotonic()
        known.pass_to(now)
        return Usage(
            used=known.used,
            in_flight=known.in_flight,
            held_for=max(0.0, known.held_until - now),
            freeing=known.freeing,
            per=window(quota),
        )

    async def flush(self) -> None:
        if self._is_closed or not (self._told or self._call):
            return
        self._settle_in()
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(flushed)
        self._start_call()
        await flushed

    async def _ask(self, step: Asked) -> Looked | Taken | Begun:
        self._settle_in()
        question = _Question(step, asyncio.get_running_loop().create_future())
        self._asked.append(question)
        self._start_call()
        try:
            return await question.answer
        except asyncio.CancelledError:
            # It may have been answered in this very turn of the loop.
            if question.answer.done() and not question.answer.cancelled() and question.answer.exception() is None:
                self._undo(question, question.answer.result())
            raise

    def _tell(self, step: Told) -> None:
        if self._is_closed:
            return  # nobody can be told any more; the slot will count as long as its request could live
        self._settle_in()
        self._told.append(step)
        if self._call is None:
            self._call_later(_MAY_WAIT)

    def _call_later(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._later is None or self._later.when() > loop.time() + seconds:
            self._cancel_later()
            self._later = loop.call_later(seconds, self._start_call)

    def _cancel_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _start_call(self) -> None:
        self._cancel_later()
        if self._call is None:
            self._call = asyncio.create_task(self._make_calls(), name="twdm_async quota store")

    async def _make_calls(self) -> None:
        told: list[Told] = []
        asked: list[_Question] = []
        flushes: list[asyncio.Future[None]] = []
        try:
            while self._told or self._asked or self._flushes or self._is_look_due():
                # What is told goes first: it can only free slots, or close a bucket that must be closed.
                told, self._told = self._told, []
                asked, self._asked = self._asked[:_LARGEST_CALL], self._asked[_LARGEST_CALL:]
                flushes, self._flushes = self._flushes, []
                asked = [question for question in asked if not question.answer.cancelled()]
                groups = _alike(asked) or self._looks_that_are_due()
                steps = [*_joined(told), *groups]
                if steps:
                    answers = await self._run(steps)
                    for step, answer in zip(groups, answers[len(answers) - len(groups) :], strict=True):
                        if answer is not None:
                            self._deliver(step, groups[step], answer)
                _done(flushes)
                told, asked, flushes = [], [], []
        except Exception as error:  # noqa: BLE001 - whatever it is, those who asked must hear of it
            self._fail(told, asked, error)
            _done([*flushes, *self._flushes])
            self._flushes = []
        finally:
            self._call = None
        if self._changed:  # so that what is known here is right in the end, when nobody asks any more
            self._call_later(_LOOK_EVERY)

    def _is_look_due(self) -> bool:
        return bool(self._changed) and self._clock.monotonic() >= self._looked_at + _LOOK_EVERY

    def _looks_that_are_due(self) -> dict[Asked, list[_Question]]:
        """While nobody asks: how far those quotas are used of which slots were taken since the last look."""
        if not self._is_look_due():
            return {}
        self._looked_at = self._clock.monotonic()
        looks: dict[Asked, list[_Question]] = {Look(claims): [] for claims in self._changed}
        self._changed.clear()
        return looks

    def _deliver(self, step: Asked, questions: Sequence[_Question], answer: Looked | Taken | Begun) -> None:
        """Share what was taken among those who asked for the same."""
        if isinstance(step, BeginReply) or isinstance(answer, Begun):
            for question in questions:
                if question.answer.cancelled():
                    self._undo(question, answer)
                else:
                    question.answer.set_result(answer)
            return
        self._note(step, answer)
        if isinstance(answer, Taken):
            self._changed[step.claims] = None
        left = answer.count if isinstance(answer, Taken) else 0
        for question in questions:
            share: Looked | Taken | None = answer
            if isinstance(answer, Taken) and isinstance(question.step, Take):
                count = min(left, len(question.step.names))
                left -= count
                share = Taken(count, answer.used, None, answer.written) if count else answer.then
            if question.answer.cancelled():
                self._undo(question, share)
            else:
                question.answer.set_result(share or Looked(()))

    def _note(self, step: Take | Look, answer: Looked | Taken) -> None:
        now = self._clock.monotonic()
        all_known = [self._known_of(claim.bucket, quota) for claim in step.claims for quota in claim.quotas]
        looked = answer if isinstance(answer, Looked) else answer.then
        if looked is not None:
            for known, usage in zip(all_known, looked.usages, strict=True):
                known.then, known.used, known.in_flight = now, usage.used, usage.in_flight
                known.held_until, known.freeing = now + usage.held_for, usage.freeing
        elif isinstance(answer, Taken):
            for known, used in zip(all_known, answer.used, strict=True):
                known.pass_to(now)
                known.used = used
                known.in_flight += answer.count

    def _undo(self, question: _Question, answer: Looked | Taken | Begun | None) -> None:
        """Who asked is gone."""
        if isinstance(question.step, BeginReply):
            self._tell(WithdrawReply(question.step.partner, question.step.name))
        if isinstance(question.step, Take) and isinstance(answer, Taken):
            for name in question.step.names[: answer.count]:
                self.give_back(Slot(question.step.claims, name))

    def _fail(self, told: Sequence[Told], asked: Sequence[_Question], error: Exception) -> None:
        """Nobody gets a slot. What was told is kept until the store can be told again."""
        self._changed.clear()
        if not isinstance(error, QuotaStoreFailed):
            told = ()  # whatever is wrong may be wrong with that
        # A slot may have been taken nevertheless.
        taken = [question.step for question in asked if isinstance(question.step, Take)]
        undone: list[Told] = [GiveBack(_buckets(step.claims), step.names) for step in taken]
        begun = [question.step for question in asked if isinstance(question.step, BeginReply)]
        undone += [WithdrawReply(step.partner, step.name) for step in begun]
        self._told = [*told, *undone, *self._told][-_MOST_UNTOLD:]
        unanswered, self._asked = [*asked, *self._asked], []
        for question in unanswered:
            if not question.answer.done():
                question.answer.set_exception(error)

    def _wait(self, claims: tuple[Claim, ...]) -> Wait:
        longest = Wait(claims[0].bucket, 0.0)
        for claim in claims:
            for quota in claim.quotas:
                usage = self.usage(claim.bucket, quota)
                seconds = usage.free_in(quota.limit)
                if seconds >= longest.seconds:
                    # Others may give a slot back, or settle it sooner than can be known here.
                    often = _MOST_RARELY if usage.held_for else max(_MOST_OFTEN, min(quota.per / 100, _MOST_RARELY))
                    longest = Wait(claim.bucket, min(seconds, often))
        return longest

    def _known_of(self, bucket: Bucket, quota: Quota) -> _Known:
        windows = self._known.setdefault(bucket, {})
        known = windows.get(quota.per)
        if known is None:
            known = windows[quota.per] = _Known(self._clock.monotonic())
        return known

    def _adjust(self, claims: tuple[Claim, ...], *, used: int, in_flight: int) -> None:
        for claim in claims:
            for quota in claim.quotas:
                known = self._known_of(claim.bucket, quota)
                known.used = max(0, known.used + used)
                known.in_flight = max(0, known.in_flight + in_flight)


def _buckets(claims: tuple[Claim, ...]) -> tuple[Bucket, ...]:
    return tuple([claim.bucket for claim in claims])


def _done(flushes: Sequence[asyncio.Future[None]]) -> None:
    for flushed in flushes:
        if not flushed.done():
            flushed.set_result(None)


def _alike(questions: Sequence[_Question]) -> dict[Asked, list[_Question]]:
    """Each thing that is asked for, once, and who asks for it."""
    groups: dict[tuple[tuple[Claim, ...], float | None], list[_Question]] = {}
    alike: dict[Asked, list[_Question]] = {}
    for question in questions:
        if isinstance(question.step, BeginReply):
            alike[question.step] = [question]
        else:
            lifetime = question.step.lifetime if isinstance(question.step, Take) else None
            groups.setdefault((question.step.claims, lifetime), []).append(question)
    for (claims, lifetime), group in groups.items():
        if lifetime is None:
            alike[Look(claims)] = group
        else:
            takes = [question.step for question in group if isinstance(question.step, Take)]
            names = tuple([name for take in takes for name in take.names])
            intents = {name: intent for take in takes for name, intent in take.intents.items()}
            alike[Take(claims, names, lifetime, intents)] = group
    return alike


def _joined(told: Sequence[Told]) -> list[Told]:
    """The same, with settlements that are alike made one."""
    settled: dict[tuple[tuple[Bucket, ...], float], list[str]] = {}
    others: list[Told] = []
    for step in told:
        if isinstance(step, Settle):
            settled.setdefault((step.buckets, step.grace), []).extend(step.names)
        else:
            others.append(step)
    return [*(Settle(buckets, tuple(names), grace) for (buckets, grace), names in settled.items()), *others]


def refused(store: QuotaStore, problem: str) -> QuotaStoreFailed:
    """The error of a store that could not be asked or is not to be trusted."""
    return QuotaStoreFailed(store=store.address, problem=problem)
