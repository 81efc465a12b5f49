"""The cost of admission, compared with a bare ``AsyncLimiter`` in turns, and in each store.

Redis is measured if ``redis-server`` or ``valkey-server`` is on PATH or beside this Python.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from aiolimiter import AsyncLimiter

from benchmarks.report import Figure, median, ratio
from tests import redis_server
from twdm_async import Lane, MemoryQuotaStore, Pace, Quota, QuotaTable, RedisQuotaStore, Scope, SQLiteQuotaStore
from twdm_async._clock import Clock
from twdm_async.quota.limiter import QuotaLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twdm_async import QuotaStore
    from twdm_async.quota.operations import Slot

SEND: Final = "direct_messages.send"
LANE: Final = Lane("agent")
DAY: Final = 86_400.0
_TICK: Final = 0.001  # seconds


def make(*quotas: Quota, pace: Pace | None = None, store: QuotaStore | None = None) -> QuotaLimiter:
    clock = Clock()
    table = QuotaTable.default().replace(SEND, *quotas, pace=pace)
    return QuotaLimiter(
        table, store or MemoryQuotaStore(clock=clock), account="account", app="app", clock=clock, timeout=30.0
    )


async def uncontended(rounds: int = 15, admits: int = 5000) -> AsyncIterator[Figure]:
    """Measure admission while no call waits, and settlement, in turns with ``AsyncLimiter.acquire()``."""
    taken: list[tuple[float, float, float]] = []
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
        taken.append(((acquired - began) / admits, (admitted - acquired) / admits, (settled - acquired) / admits))
    acquire, admission, both = zip(*taken, strict=True)
    beside = f"{ratio(both, acquire)} x AsyncLimiter.acquire(), without settle {ratio(admission, acquire)} x"
    yield Figure("in memory, nobody waits: admit and settle", f"{median(both)}: {beside}")


async def granted_to(waiting: int) -> float:
    """Return the seconds for each grant if `waiting` calls wait and the quota comes free for all of them at once."""
    limiter = make(Quota(waiting, per=max(2.0, waiting / 5000)))  # all of them wait before the first may leave
    for slot in [await limiter.admit(SEND, LANE) for _ in range(waiting)]:
        limiter.settle(slot, seen=True)
    granted: list[float] = []

    async def agent(number: int) -> None:
        slot = await limiter.admit(SEND, Lane(str(number)))
        granted.append(time.perf_counter())
        limiter.settle(slot, seen=True)

    tasks = [asyncio.ensure_future(agent(number)) for number in range(waiting)]
    await asyncio.sleep(0)
    assert not granted
    gc.collect()
    await asyncio.gather(*tasks)
    return (granted[-1] - granted[0]) / (waiting - 1)


async def futures_done(waiting: int) -> float:
    """Return the seconds for each of `waiting` tasks that await a future each. The futures are set one by one."""
    futures: deque[asyncio.Future[None]] = deque()
    done: list[float] = []

    async def agent() -> None:
        futures.append(asyncio.get_running_loop().create_future())
        await futures[-1]
        done.append(time.perf_counter())

    tasks = [asyncio.ensure_future(agent()) for _ in range(waiting)]
    await asyncio.sleep(0)
    gc.collect()
    began = time.perf_counter()
    while futures:
        futures.popleft().set_result(None)
    await asyncio.gather(*tasks)
    return (done[-1] - began) / waiting


async def grants(most: int = 100_000) -> AsyncIterator[Figure]:
    """Measure grants: many at once, compared with plain futures; and one at a time, compared with a timer."""
    for waiting in (one for one in (1000, 10_000, 100_000) if one <= most):
        pairs = [(await granted_to(waiting), await futures_done(waiting)) for _ in range(3)]
        grant, future = zip(*pairs, strict=True)
        yield Figure(
            f"{waiting} wait, and all may leave at once", f"{median(grant)} a grant: {ratio(grant, future)} x a future"
        )
    pairs = [(await paced(500), await timed(500)) for _ in range(9)]
    grant, timer = zip(*pairs, strict=True)
    yield Figure(
        "500 wait, and one may leave every millisecond",
        f"{median(grant)} of CPU a grant: {ratio(grant, timer)} x a timer that wakes a task",
    )


async def paced(waiting: int) -> float:
    """Return the seconds of CPU for each of `waiting` grants that a pace spaces a millisecond apart."""
    limiter = make(Quota(10**6, per=DAY), pace=Pace(burst=1, per=_TICK))

    async def agent(number: int) -> None:
        limiter.settle(await limiter.admit(SEND, Lane(str(number))), seen=True)

    tasks = [asyncio.ensure_future(agent(number)) for number in range(waiting)]
    await asyncio.sleep(0)
    began = time.process_time()
    await asyncio.gather(*tasks)
    return (time.process_time() - began) / waiting


async def timed(waiting: int) -> float:
    """Return the seconds of CPU for each of `waiting` tasks, of which a timer wakes one every millisecond."""
    loop = asyncio.get_running_loop()
    futures: deque[asyncio.Future[None]] = deque()

    async def agent() -> None:
        futures.append(loop.create_future())
        await futures[-1]

    def ring() -> None:
        futures.popleft().set_result(None)
        if futures:
            loop.call_later(_TICK, ring)

    tasks = [asyncio.ensure_future(agent()) for _ in range(waiting)]
    await asyncio.sleep(0)
    began = time.process_time()
    loop.call_later(_TICK, ring)
    await asyncio.gather(*tasks)
    return (time.process_time() - began) / waiting


async def many_accounts() -> AsyncIterator[Figure]:
    """Measure admission while no call waits, spread over 1 to 1000 accounts of an app, in turns."""
    costs: dict[int, list[float]] = {1: [], 10: [], 100: [], 1000: []}
    for _ in range(7):
        for accounts, taken in costs.items():
            clock = Clock()
            store = MemoryQuotaStore(clock=clock)
            table = QuotaTable.default().replace(SEND, Quota(10**6, per=DAY), Quota(10**8, per=DAY, scope=Scope.APP))
            limiters = [
                QuotaLimiter(table, store, account=str(number), app="app", clock=clock, timeout=30.0)
                for number in range(accounts)
            ]
            for limiter in limiters:
                limiter.settle(await limiter.admit(SEND, LANE), seen=True)
            began = time.perf_counter()
            for number in range(10_000):
                limiter = limiters[number % accounts]
                limiter.settle(await limiter.admit(SEND, LANE), seen=True)
            taken.append((time.perf_counter() - began) / 10_000)
    for accounts, taken in costs.items():
        result = f"{median(taken)}: {ratio(taken, costs[1])} x one account"
        yield Figure(f"quotas of account and app, {accounts} accounts: admit and settle", result)


async def drained() -> AsyncIterator[Figure]:
    """Measure the time from the first to the last grant, compared with the ideal, when ten thousand agents share a
    thousand slots a second.
    """
    yield await _drained("a quota of 1000/s", make(Quota(1000, per=1.0)), 9.0)
    yield await _drained("a pace of 1000/s", make(Quota(10**6, per=DAY), pace=Pace(burst=10, per=0.01)), 9.99)


async def _drained(name: str, limiter: QuotaLimiter, ideal: float, agents: int = 10_000) -> Figure:
    granted: list[float] = []

    async def agent(number: int) -> None:
        slot = await limiter.admit(SEND, Lane(str(number)))
        granted.append(time.perf_counter())
        limiter.settle(slot, seen=True)

    await asyncio.gather(*(agent(number) for number in range(agents)))
    return Figure(
        f"{agents} agents share {name}", f"{(granted[-1] - granted[0]) / ideal:.3f} x the ideal of {ideal:g} s"
    )


async def sqlite(admits: int = 2000) -> AsyncIterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteQuotaStore(f"{folder}/quota.db") as store:
            limiter = make(Quota(10**6, per=DAY), Quota(10**6, per=DAY, scope=Scope.APP), store=store)
            took: list[float] = []
            for _ in range(admits):
                began = time.perf_counter()
                limiter.settle(await limiter.admit(SEND, LANE), seen=True)
                took.append(time.perf_counter() - began)
    yield Figure("SQLite: admit and settle, one after the other", f"{statistics.median(took) * 1e3:.2f} ms")


async def redis(concurrency: int = 64, each: int = 500) -> AsyncIterator[Figure]:
    program = redis_server.find()
    if program is None:
        yield Figure("Redis", "not measured: there is no server on PATH")
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
    yield Figure(f"Redis, {concurrency} at once", f"{rates[0]:.0f} slots/s; with settlements {rates[1]:.0f}/s")


_CLIENT = """
import asyncio, sys, time
from benchmarks.quota import LANE, SEND, make, DAY
from twdm_async import Quota, RedisQuotaStore, Scope
async def main():
    async with RedisQuotaStore(sys.argv[1], prefix="shared") as store:
        limiter = make(Quota(10**6, per=DAY), Quota(10**6, per=DAY, scope=Scope.APP), store=store)
        admitted = 0
        async def agent():
            nonlocal admitted
            while True:
                limiter.settle(await limiter.admit(SEND, LANE), seen=True)
                admitted += time.time() > begin
        begin = float(sys.argv[2])
        agents = [asyncio.ensure_future(agent()) for _ in range(16)]
        await asyncio.sleep(begin + 3 - time.time())
        for one in agents: one.cancel()
        print(admitted)
asyncio.run(main())
"""


async def four_clients() -> AsyncIterator[Figure]:
    """Measure the slots a second of four processes that share a Redis server, and how evenly they share them."""
    program = redis_server.find()
    if program is None:
        return
    with redis_server.RedisServer(program) as server:
        begin = str(time.time() + 3.0)
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", _CLIENT, server.url, begin, stdout=asyncio.subprocess.PIPE
            )
            for _ in range(4)
        ]
        counts = [int((await process.communicate())[0]) for process in processes]
    shares = ", ".join(f"{count * 4 / sum(counts):.2f}" for count in sorted(counts))
    yield Figure("Redis, four processes", f"{sum(counts) / 3:.0f} slots/s; beside an equal share they got {shares}")
