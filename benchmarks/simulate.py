"""Simulates days in seconds: the real limiter runs in virtual time against servers that count requests, and is compared
with other kinds of clients.

``python -m benchmarks simulate [--plot FILE]`` prints three tables; with ``--plot`` it also draws a case of the first.
"""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from aiolimiter import AsyncLimiter
from attrs import define, field, frozen

from tests.virtual_time import run
from twdm_async import Lane, LoopClock, MemoryQuotaStore, Priority, Quota, QuotaTable, Scope
from twdm_async.quota.limiter import QuotaLimiter

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async import QuotaStore

SEND: Final = "direct_messages.send"
DAY: Final = 86_400.0
LATENCY: Final = (0.05, 2.0)  # seconds


# ---- servers ----


@define
class Server(ABC):
    """Counts requests when they arrive, and refuses those over the limit."""

    quota: Quota
    phase: float = 0.0
    arrivals: list[float] = field(factory=list[float])
    moments: list[float] = field(factory=list[float])
    """When the requests that were let in arrived."""
    breaches: int = 0

    @abstractmethod
    def window_began(self, now: float) -> float:
        """Return when the window that is open at `now` began."""

    def window_ends(self, now: float) -> float:
        return self.window_began(now) + self.quota.per

    def count(self) -> bool:
        """Count a request that arrives now. Return whether it is let in."""
        now = asyncio.get_running_loop().time()
        self.arrivals.append(now)
        used = len(self.moments) - bisect_right(self.moments, self.window_began(now) - 1e-9)
        if used >= self.quota.limit:
            self.breaches += 1
            return False
        self.moments.append(now)
        return True


class FromTheFirstRequest(Server):
    """Fixed windows, each of which begins with the first request after the previous one has ended, as in the API."""

    began: float = -1e12

    def window_began(self, now: float) -> float:
        if now >= self.began + self.quota.per:
            self.began = now
        return self.began


class FixedWindows(Server):
    """Fixed windows whose boundaries do not depend on the requests. Here the first boundary comes soon after the client
    starts, which is the worst case.
    """

    def window_began(self, now: float) -> float:
        return now - (now - self.phase) % self.quota.per


class SlidingWindow(Server):
    """A sliding window: the limit holds for every period of this length."""

    def window_began(self, now: float) -> float:
        return now - self.quota.per + 1e-6

    def window_ends(self, now: float) -> float:
        return max(now, self.moments[-self.quota.limit] + self.quota.per)


SERVERS: Final = (FromTheFirstRequest, FixedWindows, SlidingWindow)


# ---- clients: each sends so many, and asks its way of waiting before each ----


def travel(generator: random.Random) -> tuple[float, float]:
    """Return the seconds that a request travels to the server, and that its reply travels back."""
    latency = generator.uniform(*LATENCY)
    inward = latency * generator.random()
    return inward, latency - inward


async def ours(server: Server, sends: int, generator: random.Random) -> None:
    clock = LoopClock()
    table = QuotaTable.default().replace(SEND, server.quota)
    store = MemoryQuotaStore(clock=clock)
    limiter = QuotaLimiter(table, store, account="account", app="app", clock=clock, timeout=30.0)

    async def one(number: int) -> None:
        slot = await limiter.admit(SEND, Lane(str(number % 20)))
        inward, outward = travel(generator)
        await asyncio.sleep(inward)
        server.count()
        await asyncio.sleep(outward)
        limiter.settle(slot, seen=True)

    await asyncio.gather(*(one(number) for number in range(sends)))


async def bare_limiter(server: Server, sends: int, generator: random.Random) -> None:
    """Send with nothing but ``AsyncLimiter(limit, per)``. Refused messages are lost."""
    limiter = AsyncLimiter(server.quota.limit, server.quota.per)

    async def one() -> None:
        async with limiter:
            inward, outward = travel(generator)
            await asyncio.sleep(inward)
            server.count()
            await asyncio.sleep(outward)

    await asyncio.gather(*(one() for _ in range(sends)))


async def follows_headers(server: Server, sends: int, generator: random.Random) -> None:
    """Send until a reply with 429 says how long to wait. Replies to sent messages carry no rate limit headers, so the
    client does not learn earlier that the quota is spent.
    """
    loop = asyncio.get_running_loop()
    wait_until = 0.0

    async def one() -> None:
        nonlocal wait_until
        while True:
            await asyncio.sleep(max(0.0, wait_until - loop.time()))
            inward, outward = travel(generator)
            await asyncio.sleep(inward)
            let_in = server.count()
            await asyncio.sleep(outward)
            if let_in:
                return
            wait_until = max(wait_until, server.window_ends(loop.time()))

    waiting = iter(range(sends))

    async def worker() -> None:
        for _ in waiting:
            await one()

    await asyncio.gather(*(worker() for _ in range(20)))


Sender = Callable[[Server, int, random.Random], Awaitable[None]]
CLIENTS: Final[dict[str, Sender]] = {
    "twdm_async": ours,
    "bare AsyncLimiter": bare_limiter,
    "follows headers": follows_headers,
}


# ---- first table: do quotas hold, and what does that cost ----


@frozen
class Run:
    """What the server saw of a client, and the ideal duration in seconds."""

    breaches: int
    arrivals: tuple[float, ...]
    moments: tuple[float, ...]
    ideal: float

    @property
    def over_ideal(self) -> float:
        return self.arrivals[-1] / self.ideal


def send(client: Sender, server_kind: type[Server], quota: Quota, sends: int, seed: int = 0) -> Run:
    """Let `client` send `sends` messages in virtual time. Return what the server counted."""

    async def main() -> Server:
        server = server_kind(quota, quota.per * 0.02)
        await client(server, sends, random.Random(seed))
        return server

    server = run(main())
    ideal = (-(-sends // quota.limit) - 1) * quota.per
    return Run(server.breaches, tuple(server.arrivals), tuple(server.moments), ideal)


CASES: Final = ((60, Quota(15, per=900.0)), (700, Quota(200, per=900.0)), (3000, Quota(1000, per=DAY)))


def print_quotas() -> None:
    print("Requests over the limit, and how long it took beside the ideal, by the server's windows")
    print("(latency 0.05 to 2 s; a window may begin with the first request, at any other time, or slide)\n")
    print(f"{'':24}{'':20}{'first request':>16}{'any time':>16}{'sliding':>16}")
    for sends, quota in CASES:
        for name, client in CLIENTS.items():
            runs = [send(client, server, quota, sends) for server in SERVERS]
            told = "".join(f"{f'{one.breaches} | {one.over_ideal:.4f}':>16}" for one in runs)
            print(f"{f'{sends} at {quota.limit}/{quota.per:g} s':24}{name:20}{told}")


# ---- second table: a day of live agents and a bulk job ----


@frozen
class DayReport:
    """The messages of the first day: how many live ones there were, how many of these were sent within five minutes,
    and how many bulk ones were sent.
    """

    live: int
    in_time: int
    bulk: int


def day(reserve: float, *, priority: Priority, seed: int = 0) -> DayReport:
    """Simulate a day with a quota of 1000 a day, 5000 bulk messages at its beginning, and 304 live messages that 20
    agents write over the day.

    Args:
        reserve: the part of the quota that is kept for live messages.
        priority: the priority of the bulk messages. If it is that of the live messages, all share one lane, first in,
            first out.
        seed: seeds the times of the live messages.
    """
    generator = random.Random(seed)
    waits: list[float] = []
    bulk_sent: list[float] = []

    async def main() -> None:
        clock = LoopClock()
        table = QuotaTable.default().replace(SEND, Quota(1000, per=DAY), reserve=reserve)
        store = MemoryQuotaStore(clock=clock)
        limiter = QuotaLimiter(table, store, account="account", app="app", clock=clock, timeout=30.0)

        async def one(lane: Lane) -> None:
            slot = await limiter.admit(SEND, lane)
            await asyncio.sleep(sum(travel(generator)))
            limiter.settle(slot, seen=True)

        async def live(agent: int, at: float) -> None:
            await asyncio.sleep(at)
            await one(Lane(f"agent {agent}") if priority is Priority.BULK else Lane("everybody"))
            waits.append(clock.monotonic() - at)

        async def bulk() -> None:
            await one(Lane("newsletter" if priority is Priority.BULK else "everybody", priority=priority))
            bulk_sent.append(clock.monotonic())

        tasks = [asyncio.ensure_future(bulk()) for _ in range(5000)]
        tasks += [asyncio.ensure_future(live(number % 20, generator.uniform(0, DAY))) for number in range(304)]
        await asyncio.sleep(DAY)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    return DayReport(304, sum(wait <= 300 for wait in waits), len(bulk_sent))


def print_day() -> None:
    print("\nA day: 1000 in 24 h, 5000 bulk messages at its beginning, 304 live ones over it\n")
    print(f"{'':24}{'live within 5 min':>20}{'bulk sent':>12}")
    default = QuotaTable.default()[SEND].reserve
    for name, report in {
        "reserve, spread": day(default, priority=Priority.BULK),
        "priority alone": day(0.0, priority=Priority.BULK),
        "first in, first out": day(0.0, priority=Priority.INTERACTIVE),
    }.items():
        print(f"{name:24}{f'{report.in_time} of {report.live}':>20}{report.bulk:>12}")


# ---- third table: many accounts of one app ----


@frozen
class Scale:
    """The cost of an admission.

    Args:
        microseconds: CPU time for each admission and settlement.
        kilobytes: memory for each call that waits.
    """

    microseconds: float
    kilobytes: float


def scale(accounts: int, admits: int = 50_000) -> Scale:
    """Measure `accounts` accounts with 50 agents each, which want ten times what the app's quota allows at once."""
    return Scale(admit_all(accounts, admits) * 1e6, waiting_kilobytes(accounts))


def admit_all(accounts: int, admits: int) -> float:
    """Return the seconds of CPU for each of `admits` admissions, but at least one for each agent; see :func:`scale`."""
    agents = accounts * 50
    each = max(1, admits // agents)

    async def main() -> float:
        clock = LoopClock()
        quotas = Quota(1_000_000, per=1.0), Quota(max(5, agents // 10), per=1.0, scope=Scope.APP)
        table = QuotaTable.default().replace(SEND, *quotas)
        store: QuotaStore = MemoryQuotaStore(clock=clock)
        limiters = [
            QuotaLimiter(table, store, account=f"account {n}", app="app", clock=clock, timeout=1.0)
            for n in range(accounts)
        ]

        async def agent(limiter: QuotaLimiter, lane: Lane) -> None:
            for _ in range(each):
                limiter.settle(await limiter.admit(SEND, lane), seen=True)

        began = time.process_time()
        await asyncio.gather(*(agent(limiter, Lane(str(n))) for limiter in limiters for n in range(50)))
        return time.process_time() - began

    return run(main()) / (agents * each)


def waiting_kilobytes(accounts: int) -> float:
    """Return the kilobytes of memory for each waiting call, with 50 calls for each of `accounts` accounts."""

    async def main() -> float:
        clock = LoopClock()
        quotas = Quota(1, per=1e6), Quota(1, per=1e6, scope=Scope.APP)
        table = QuotaTable.default().replace(SEND, *quotas)
        store = MemoryQuotaStore(clock=clock)
        limiters = [
            QuotaLimiter(table, store, account=f"account {n}", app="app", clock=clock, timeout=1.0)
            for n in range(accounts)
        ]
        await limiters[0].admit(SEND, Lane())
        await asyncio.sleep(0)
        tracemalloc.start()
        calls = [asyncio.ensure_future(limiter.admit(SEND, Lane(str(n)))) for limiter in limiters for n in range(50)]
        await asyncio.sleep(0.1)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for limiter in limiters:
            limiter.close()
        await asyncio.gather(*calls, return_exceptions=True)
        return used / len(calls) / 1024

    return run(main())


def print_scale() -> None:
    print("\nMany accounts under one app's quota, 50 agents each\n")
    print(f"{'accounts':>10}{'us per admit':>16}{'kB per waiting call':>24}")
    for accounts in (1, 10, 100, 1000):
        cost = scale(accounts)
        print(f"{accounts:>10}{cost.microseconds:>16.1f}{cost.kilobytes:>24.2f}")


# ---- the picture ----


def draw(file: Path) -> None:
    """Draw the requests over time, compared with the limit, into `file`."""
    mpl: Any = import_module("matplotlib")  # only needed here, and its types are not strict
    mpl.use("svg")
    plt: Any = import_module("matplotlib.pyplot")
    mpl.rcParams.update({"svg.hashsalt": "twdm_async", "font.size": 10})
    sends, quota = CASES[0]
    figure, axes = plt.subplots(figsize=(9, 4.2))
    colours = {"twdm_async": "#0a7d4f", "bare AsyncLimiter": "#c2410c", "follows headers": "#7c3aed"}
    for name, client in CLIENTS.items():
        result = send(client, FromTheFirstRequest, quota, sends)
        minutes = [moment / 60 for moment in result.arrivals]
        label = f"{name}: {result.breaches} over the limit"
        axes.step(minutes, range(1, len(minutes) + 1), where="post", label=label, color=colours[name], linewidth=1.8)
    steps = [number // quota.limit * quota.per / 60 for number in range(sends)]
    axes.step(
        steps, range(1, sends + 1), where="post", label="ideal: the limit", color="#222", linestyle=":", linewidth=1.6
    )
    axes.set(xlabel="minutes", ylabel="requests sent", title=f"{sends} requests at {quota.limit} in 15 minutes")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main(plot: Path | None = None) -> None:
    print_quotas()
    print_day()
    print_scale()
    if plot is not None:
        draw(plot)
        print(f"\nThe picture is in {plot}.")
