"""The contract of a quota store, against all of them; Redis and PostgreSQL are real servers."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule, run_state_machine_as_test

from tests.stores import HandClock, give_back, look, make, server_url, settle, take, usage
from tests.support import HANGS
from twdm_async import Quota, Scope
from twdm_async.quota.ledger import window
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.quota.operations import Bucket, Claim, Hold, Slot, Tighten

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ["memory", "sqlite", "redis", "postgres"]
SHARED = ["sqlite", "redis", "postgres"]
USER = Bucket("direct_messages.send", Scope.USER, "anna", "brand")
OTHER = Bucket("direct_messages.send", Scope.USER, "bob", "brand")
APP = Bucket("direct_messages.send", Scope.APP, "brand", "brand")
BULK = Bucket("direct_messages.send", Scope.USER, "anna, once more", "brand")
QUOTAS = {
    USER: (Quota(4, per=100.0), Quota(7, per=400.0)),
    OTHER: (Quota(3, per=100.0),),
    APP: (Quota(6, per=300.0, scope=Scope.APP),),
    BULK: (Quota(2, per=100.0),),
}
FOR_EVER = RequestLifetime(to_send=1e8, lease=2e8, grace=0.0, whole=2e8)
TICK = 1.0  # more than any of these windows has


@define(eq=False)
class ModelSlot:
    buckets: tuple[Bucket, ...]
    seen: float | None = None


@define(eq=False)
class Model:
    """What a store should know, in the plainest way there is."""

    slots: list[ModelSlot] = field(factory=list)
    held: dict[Bucket, float] = field(factory=dict)
    others: dict[tuple[Bucket, Quota], list[float]] = field(factory=dict)  # until when each of them counts

    def ends(self, now: float, bucket: Bucket, quota: Quota) -> list[float]:
        """When each slot that counts will no longer count; infinity for those under way."""
        own = [
            math.inf if slot.seen is None else slot.seen + window(quota.per)
            for slot in self.slots
            if bucket in slot.buckets
        ]
        return sorted(end for end in [*own, *self.others.get((bucket, quota), [])] if end > now)

    def room(self, now: float, bucket: Bucket) -> int:
        if self.held.get(bucket, 0) > now:
            return 0
        return min(quota.limit - len(self.ends(now, bucket, quota)) for quota in QUOTAS[bucket])


CLAIMS = st.sampled_from([(USER,), (USER, APP), (OTHER, APP), (OTHER,), (USER, BULK, APP)])


class StoreMachine(RuleBasedStateMachine):
    """Does the same to a store and to the model, and compares what they say."""

    kind: str
    folder: Path
    url: str | None

    slots: Bundle[tuple[Slot, ModelSlot]] = Bundle("slots")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = HandClock()
        self.store = make(self.kind, self.clock, self.folder, self.url)
        self.model = Model()
        self.look()

    def look(self) -> None:
        claims = tuple([Claim(bucket, quotas) for bucket, quotas in QUOTAS.items()])
        self.run(look(self.store, claims, FOR_EVER))

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, HANGS))

    def tell(self, method: Any, *arguments: Any) -> None:
        async def told() -> None:
            method(*arguments)
            await self.store.flush()

        self.run(told())

    @rule(target=slots, buckets=CLAIMS, most=st.integers(1, 3))
    def take(self, buckets: tuple[Bucket, ...], most: int) -> Any:
        claims = tuple(Claim(bucket, QUOTAS[bucket]) for bucket in buckets)
        room = min(self.model.room(self.clock.now, bucket) for bucket in buckets)
        taken = self.run(take(self.store, claims, FOR_EVER, most))
        if not isinstance(taken, list):
            assert room <= 0
            return []
        assert len(taken) == min(most, room)
        both = [(slot, ModelSlot(buckets)) for slot in taken]
        self.model.slots += [slot for _, slot in both]
        return both

    @rule(both=consumes(slots), grace=st.sampled_from([0.0, 0.0, 30.0]), index=st.integers(0, 2))
    def settle(self, both: list[tuple[Slot, ModelSlot]], grace: float, index: int) -> None:
        for slot, known in both[index:]:
            self.tell(settle, self.store, slot, grace)
            known.seen = self.clock.now + grace
        for slot, known in both[:index]:
            self.tell(give_back, self.store, slot)
            self.model.slots.remove(known)

    @rule(bucket=st.sampled_from([USER, OTHER, APP]), seconds=st.integers(1, 200))
    def hold(self, bucket: Bucket, seconds: int) -> None:
        self.tell(self.store.note, Hold(bucket, seconds))
        self.model.held[bucket] = max(self.model.held.get(bucket, 0), self.clock.now + seconds)

    @rule(bucket=st.sampled_from([USER, APP]), remaining=st.integers(0, 6), seconds=st.integers(1, 90))
    def tighten(self, bucket: Bucket, remaining: int, seconds: int) -> None:
        quota = QUOTAS[bucket][0]
        missing = quota.limit - len(self.model.ends(self.clock.now, bucket, quota)) - remaining
        self.tell(self.store.note, Tighten(bucket, quota, remaining, seconds))
        if missing > 0:
            until = self.clock.now + seconds + 0.001  # it is rounded up to a tick
            self.model.others.setdefault((bucket, quota), []).extend([until] * missing)

    @rule(seconds=st.integers(1, 150))
    def pass_time(self, seconds: int) -> None:
        self.compare()
        self.clock.now += seconds

    def compare(self) -> None:
        self.look()
        now = self.clock.now
        for bucket, quotas in QUOTAS.items():
            for quota in quotas:
                used = usage(self.store, bucket, quota)
                ends = self.model.ends(now, bucket, quota)
                assert used.used == len(ends)
                assert used.in_flight == sum(end == math.inf for end in ends)
                assert used.held_for == pytest.approx(max(0.0, self.model.held.get(bucket, 0) - now), abs=1e-4)
                for count in range(1, 5):
                    at = count - 1 - (quota.limit - len(ends))
                    if at >= 0 and at < len(ends) and ends[at] < math.inf:
                        expected = max(ends[at] - now, used.held_for)
                        assert expected - 1e-3 <= used.free_in(quota.limit, count) <= expected + TICK

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.compare()
            self.run(self.store.close())
            self.loop.close()


@pytest.mark.hypothesis
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_conformance(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    class Machine(StoreMachine):
        pass

    Machine.kind, Machine.folder = kind, tmp_path
    Machine.url = server_url(kind, request)
    run_state_machine_as_test(
        Machine,
        # Each example has forty steps, so fewer will do; in PostgreSQL, each makes its tables as well.
        settings=settings(
            max_examples=settings().max_examples // (5 if kind == "postgres" else 2), stateful_step_count=40
        ),
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_many_steps_of_one_turn_of_the_loop(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = server_url(kind, request)
    clock = HandClock()
    quota = Quota(30, per=100.0)
    claims = (Claim(USER, (quota,)),)
    async with make(kind, clock, tmp_path, url) as store:
        answers = await asyncio.gather(*(take(store, claims, FOR_EVER, 1 + number % 3) for number in range(60)))
        slots = [slot for answer in answers if isinstance(answer, list) for slot in answer]
        assert len(slots) == 30
        # In one turn: some are settled, some given back, some asked for, and some who ask give up.
        for slot in slots[:10]:
            settle(store, slot)
        for slot in slots[10:15]:
            give_back(store, slot)
        asking = [asyncio.ensure_future(take(store, claims, FOR_EVER)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in asking[::2]:
            task.cancel()
        results = await asyncio.gather(*asking, return_exceptions=True)
        taken = [result for result in results if isinstance(result, list)]
        await store.flush()
        await look(store, claims, FOR_EVER)
        assert usage(store, USER, quota).used == 25 + len(taken)
        assert 0 < len(taken) <= 5
        clock.now += 101
        await look(store, claims, FOR_EVER)
        assert usage(store, USER, quota).used == 15 + len(taken)
