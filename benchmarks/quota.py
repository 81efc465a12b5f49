"""What admission costs: beside a bare ``AsyncLimiter`` in turns, and in each store.

Redis is measured if ``redis-server`` or ``valkey-server`` is on PATH or beside this Python.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Final

from aiolimiter import AsyncLimiter

from tests import redis_server
from twdm_async import Lane, MemoryQuotaStore, Pace, Quota, QuotaTable, RedisQuotaStore, Scope, SQLiteQuotaStore
from twdm_async._clock import Clock
from twdm_async.quota.limiter import QuotaLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from twdm_async import QuotaStore
    from twdm_async.quota.operations import Slot

SEND: Final = "direct_messages.send"
LANE: Final = Lane("agent")
DAY: Final = 86_400.0


def make(*quotas: Quota, pace: Pace | None = None, store: QuotaStore | None = None) -> QuotaLimiter:
    clock = Clock()
    table = QuotaTable.default().replace(SEND, *quotas, pace=pace)
    return QuotaLimiter(
        table, store or MemoryQuotaStore(clock=clock), account="account", app="app", clock=clock, timeout=30.0
    )


async def uncontended(rounds: int = 15, admits: int = 5000) -> None:
    """Admission while nobody waits, and settlement, beside ``acquire()``, in turns."""
    ratios: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        bare = AsyncLimiter(10**9, DAY)
        limiter = make(Quota(10**9, per=DAY))
        began = time.perf_counter()
        for _ in range(admits):
            await bare.acquire()
        acquired = time.perf_counter()
        slots = [await limiter.admit(SEND, LANE) for _ in range(admits)]
        admitted = time.perf_counter()
        for slot in slots:
            limiter.settle(slot, seen=True)
        settled = time.perf_counter()
        one = acquired - began
        ratios.append((one / admits * 1e6, (admitted - acquired) / one, (settled - acquired) / one))
    microseconds, admission, both = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(
        f"in memory, nobody waits: admit {admission:.2f} x acquire() of {microseconds:.2f} us; with settle {both:.2f} x"
    )


async def ten_thousand_wait(agents: int = 10_000) -> None:
    """The quota comes free for all of them at once: what does a grant cost?"""
    limiter = make(Quota(agents, per=3.0))
    for slot in [await limiter.admit(SEND, LANE) for _ in range(agents)]:
        limiter.settle(slot, seen=True)
    granted: list[float] = []

    async def agent(number: int) -> None:
        slot = await limiter.admit(SEND, Lane(str(number)))
        granted.append(time.perf_counter())
        limiter.settle(slot, seen=True)

    await asyncio.gather(*(agent(number) for number in range(agents)))
    print(f"{agents} agents wait: {(granted[-1] - granted[0]) / (agents - 1) * 1e6:.1f} us for each grant")


async def drained(name: str, limiter: QuotaLimiter, ideal: float, agents: int = 10_000) -> None:
    """A quota of 1000 a second, shared by ten thousand: how long, from the first to the last, beside the ideal?"""
    granted: list[float] = []

    async def agent(number: int) -> None:
        slot = await limiter.admit(SEND, Lane(str(number)))
        granted.append(time.perf_counter())
        limiter.settle(slot, seen=True)

    await asyncio.gather(*(agent(number) for number in range(agents)))
    print(f"{agents} agents share {name}: {(granted[-1] - granted[0]) / ideal:.3f} x the ideal of {ideal:g} s")


async def sqlite(admits: int = 2000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteQuotaStore(f"{folder}/quota.db") as store:
            limiter = make(Quota(10**6, per=DAY), Quota(10**6, per=DAY, scope=Scope.APP), store=store)
            took: list[float] = []
            for _ in range(admits):
                began = time.perf_counter()
                limiter.settle(await limiter.admit(SEND, LANE), seen=True)
                took.append(time.perf_counter() - began)
    print(f"SQLite: admit and settle {statistics.median(took) * 1e3:.2f} ms (median of {admits}, one after the other)")


async def redis(concurrency: int = 64, each: int = 500) -> None:
    program = redis_server.find()
    if program is None:
        print("Redis: not measured, there is no server on PATH")
        return
    with redis_server.RedisServer(program) as server:
        async with RedisQuotaStore(server.url) as store:
            limiter = make(Quota(10**6, per=DAY), Quota(10**6, per=DAY, scope=Scope.APP), store=store)
            slots: list[Slot] = []

            async def agent(number: int) -> None:
                lane = Lane(str(number))
                for _ in range(each):
                    slots.append(await limiter.admit(SEND, lane))  # noqa: PERF401 - others append meanwhile

            async def thrifty_agent(number: int) -> None:
                lane = Lane(str(number))
                for _ in range(each):
                    limiter.settle(await limiter.admit(SEND, lane), seen=True)

            rates: list[float] = []
            for work in (agent, thrifty_agent):
                began = time.perf_counter()
                await asyncio.gather(*(work(number) for number in range(concurrency)))
                rates.append(concurrency * each / (time.perf_counter() - began))
    print(f"Redis: {rates[0]:.0f} admits a second at concurrency {concurrency}; with settlements {rates[1]:.0f}")


def main() -> None:
    quota, pace = Quota(1000, per=1.0), Pace(burst=10, per=0.01)
    benchmarks: list[Callable[[], Coroutine[None, None, None]]] = [
        uncontended,
        ten_thousand_wait,
        lambda: drained("a quota of 1000/s", make(quota), 9.0),
        lambda: drained("a pace of 1000/s", make(Quota(10**6, per=DAY), pace=pace), 9.99),
        sqlite,
        redis,
    ]
    for benchmark in benchmarks:
        asyncio.run(benchmark())
