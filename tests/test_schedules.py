"""Thousands of random days in virtual time: whatever happens, no window of the server holds more of ours than the
limit.

Limits, windows, latencies up to the timeout and beyond, priorities, cancellations, spenders of whom we know nothing,
processes that die with requests under way and start again on the same file: all drawn from the seed, so that a seed
which fails is a test to keep.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.stores import TimedRedisStore
from tests.virtual_time import run
from twdm_async import (
    Lane,
    LoopClock,
    MemoryQuotaStore,
    Pace,
    Priority,
    Quota,
    QuotaStore,
    QuotaStoreFailed,
    QuotaTable,
    QuotaWaitTooLong,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.quota.limiter import QuotaLimiter

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.quota.operations import Slot
    from twdm_async.quota.store.transactional import Batch

SEND = "direct_messages.send"


class InlineStore(SQLiteQuotaStore):
    """Works in the loop's own thread, so that a seed says what happens. Once dead, it tells nobody anything."""

    is_dead = False

    async def commit(self, batch: Batch) -> None:
        if self.is_dead:
            await asyncio.Event().wait()
        self._show(batch.app, *self._transact(batch))


class Schedule:
    """One of them."""

    def __init__(self, seed: int, path: Path | None, redis_url: str | None = None) -> None:
        self.random = generator = random.Random(seed)
        self.path = path
        self.redis_url = redis_url
        self.prefix = f"schedule{seed}"
        self.limit, self.per = generator.randint(1, 6), generator.choice([2.0, 10.0, 60.0, 900.0])
        self.app_limit = generator.choice([None, self.limit, self.limit + 2])
        self.accounts = [f"account {number}" for number in range(generator.randint(1, 3))]
        self.timeout = generator.choice([0.5, 3.0, 30.0])
        quotas = [Quota(self.limit, per=self.per)]
        if self.app_limit is not None:
            quotas.append(Quota(self.app_limit, per=self.per, scope=Scope.APP))
        pace = generator.choice([None, Pace(burst=2, per=0.5)])
        self.table = QuotaTable.default().replace(SEND, *quotas, pace=pace)
        self.counted: list[tuple[float, str]] = []
        self.clock = LoopClock()
        self.store = self.open_store()
        self.limiters = self.open_limiters()

    def open_store(self) -> QuotaStore:
        if self.redis_url is not None:
            return TimedRedisStore(self.redis_url, self.clock, prefix=self.prefix)
        if self.path is None:
            return MemoryQuotaStore(clock=self.clock)
        return InlineStore(self.path, clock=self.clock)

    def open_limiters(self) -> dict[str, QuotaLimiter]:
        return {
            account: QuotaLimiter(
                self.table, self.store, account=account, app="app", clock=self.clock, timeout=self.timeout
            )
            for account in self.accounts
        }

    async def request(self, account: str, lane: Lane, max_wait: float | None) -> None:
        """One request, and the server's side of it."""
        limiter = self.limiters[account]
        slot = await limiter.admit(SEND, lane, max_wait)
        left = False
        seen = False
        try:
            if self.clock.uptime() > slot.send_by or self.random.random() < 0.05:
                return  # too late, or there was no connection
            left = True
            latency = self.random.choice([0.01, self.timeout * self.random.random(), 2 * self.timeout])
            counted_after = self.random.random() * min(latency, 2 * self.timeout)
            asyncio.get_running_loop().call_later(counted_after, self.count, account)
            if latency > self.timeout:
                await asyncio.sleep(self.timeout)  # and then we look for it no longer
                return
            await asyncio.sleep(latency)
            seen = True
            self.hear(limiter)
        finally:
            self.finish(limiter, slot, left=left, seen=seen)

    def count(self, account: str) -> None:
        self.counted.append((self.clock.monotonic(), account))

    def hear(self, limiter: QuotaLimiter) -> None:
        """What the reply says: mostly nothing, sometimes what is left, or that somebody else spent it all."""
        chance = self.random.random()
        reset = str(int(self.clock.wall() + self.random.random() * self.per))
        if chance < 0.1:
            limiter.learn(SEND, 429, self.random.choice([{}, {"x-rate-limit-reset": reset}, {"Retry-After": "1"}]))
        elif chance < 0.3:
            remaining = str(self.random.randint(-1, self.limit + 3))
            limiter.learn(SEND, 200, {"x-rate-limit-remaining": remaining, "x-rate-limit-reset": reset})

    def finish(self, limiter: QuotaLimiter, slot: Slot, *, left: bool, seen: bool) -> None:
        if limiter is not self.limiters.get(limiter._owners[Scope.USER]):
            return  # its process has died
        if left:
            limiter.settle(slot, seen=seen)
        else:
            limiter.give_back(slot)

    async def life(self) -> None:
        """A caller: comes some time, asks, may lose patience."""
        await asyncio.sleep(self.random.random() * 3 * self.per)
        account = self.random.choice(self.accounts)
        priority = self.random.choice([Priority.INTERACTIVE, Priority.INTERACTIVE, Priority.BULK])
        lane = Lane(str(self.random.randint(0, 3)), self.random.choice([1.0, 3.0]), priority)
        max_wait = self.random.choice([None, None, 0.0, self.per])
        work = asyncio.ensure_future(self.request(account, lane, max_wait))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear of it
        if self.random.random() < 0.2:
            asyncio.get_running_loop().call_later(self.random.random() * 2 * self.per, work.cancel)
        await asyncio.wait([work])
        if not work.cancelled() and work.exception() is not None:
            assert isinstance(work.exception(), (QuotaWaitTooLong, QuotaStoreFailed))

    async def crash(self) -> None:
        """The process dies; another one begins with the same file."""
        await asyncio.sleep(self.random.random() * 4 * self.per)
        assert isinstance(self.store, InlineStore)
        self.store.is_dead = True
        self.limiters = {}
        self.store._storage.disconnect()
        for task in self.callers:
            if self.random.random() < 0.5:  # the others belong to the next process and come later
                task.cancel()
        self.store = self.open_store()
        self.limiters = self.open_limiters()

    async def main(self) -> None:
        self.callers = [asyncio.ensure_future(self.life()) for _ in range(self.random.randint(5, 40))]
        crashes = [asyncio.ensure_future(self.crash()) for _ in range(self.random.randint(1, 3) if self.path else 0)]
        if crashes:
            # Those who wait in a process that has died wait for ever; nobody may keep the test waiting.
            await asyncio.wait(self.callers, timeout=60 * (self.per + self.timeout))
            for task in self.callers:
                task.cancel()
        await asyncio.gather(*self.callers, *crashes, return_exceptions=bool(crashes))
        await asyncio.sleep(20 * self.timeout)
        for limiter in self.limiters.values():
            limiter.close()
        if isinstance(self.store, InlineStore):
            await self.store.flush()
            self.store._storage.disconnect()
        elif isinstance(self.store, TimedRedisStore):
            await self.store.close()
        else:
            assert all(s.in_flight == s.waiting == 0 for li in self.limiters.values() for s in li.state())
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert crashes or not others, "somebody still runs"

    def breaches(self) -> list[str]:
        found: list[str] = []
        for name, limit in [*((account, self.limit) for account in self.accounts), ("app", self.app_limit)]:
            moments = sorted(at for at, account in self.counted if name in {account, "app"})
            if limit is not None:
                pairs = zip(moments, moments[limit:], strict=False)
                found += [
                    f"{name}: {limit + 1} in {last - first} s" for first, last in pairs if last - first < self.per
                ]
        return found


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR", logger="twdm_async")  # thousands of refusals


def check(seed: int, path: Path | None, redis_url: str | None = None) -> int:
    made: list[Schedule] = []

    async def main() -> None:
        made.append(Schedule(seed, path, redis_url))
        async with asyncio.timeout(1e7):
            await made[0].main()

    run(main())
    assert made[0].breaches() == [], f"seed {seed}"
    return len(made[0].counted)


def many(first: int, long: int, last: int) -> list[object]:
    """The `first` in every run, as many as `long` in a long one, and all up to `last` in a thorough one."""
    parts = [range(start, min(start + 50, last)) for start in range(first, last, 50)]
    marks = [[pytest.mark.soak, *([pytest.mark.thorough] if part.start >= long else [])] for part in parts]
    return [range(first), *(pytest.param(part, marks=marked) for part, marked in zip(parts, marks, strict=True))]


@pytest.mark.parametrize("seeds", many(25, 525, 9025), ids=str)
@pytest.mark.timeout(300)
def test_no_schedule_breaches(seeds: range) -> None:
    assert sum(check(seed, None) for seed in seeds) > 5 * len(seeds)


@pytest.mark.soak
@pytest.mark.parametrize("seeds", many(10, 60, 1160), ids=str)
@pytest.mark.timeout(300)
def test_no_schedule_breaches_over_crashes_and_restarts(seeds: range, tmp_path: Path) -> None:
    assert sum(check(seed, tmp_path / f"{seed}.db") for seed in seeds) > 5 * len(seeds)


@pytest.mark.soak
@pytest.mark.parametrize("seeds", [range(5)], ids=str)
@pytest.mark.timeout(300)
def test_no_schedule_breaches_over_redis(seeds: range, redis_url: str) -> None:
    assert sum(check(seed, None, redis_url) for seed in seeds) > 5 * len(seeds)


def test_seed_260_a_request_that_is_cancelled_early_may_be_counted_late() -> None:
    assert check(260, None) > 0


def test_the_check_finds_what_a_careless_ledger_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    careful = MemoryQuotaStore.settle

    def careless(self: MemoryQuotaStore, slot: Slot, grace: float) -> None:  # noqa: ARG001 - it forgets the grace
        careful(self, slot, 0.0)

    monkeypatch.setattr(MemoryQuotaStore, "settle", careless)
    failed = 0
    for seed in range(60):
        try:
            check(seed, None)
        except AssertionError:
            failed += 1
    assert failed > 2
