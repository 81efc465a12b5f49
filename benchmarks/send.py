"""The CPU time of a send in this process, compared with a bare aiohttp POST of the same body and with other clients.

All clients talk to one server (:mod:`benchmarks.server`) and take turns, so that a drift of the machine's speed affects
all of them alike. The results are the median time over all rounds, and the median of the ratios of all rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.contenders import CONTENDERS, installed, ours
from benchmarks.report import Figure, median, memory, middle_ratio, ratio
from benchmarks.server import KEYS, TEXT, WIDE, answering
from twdm_async import Client
from twdm_async.transport import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.contenders import Contender, Send

BARE, OURS = tuple(CONTENDERS)[:2]
_ROUNDS: Final = 9
_AT_ONCE: Final = (1, 16, 64, 256)
_LENGTHS: Final = (1000, 10_000, 100_000, 1_000_000)


async def cpu_per_send(send: Send, at_once: int, sends: int) -> float:
    """Return the seconds of CPU of this process for each of `sends` sends, `at_once` of them at a time."""
    left = iter(range(sends))

    async def worker() -> None:
        for _ in left:
            await send()

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return (time.process_time() - began) / sends


async def in_turns(
    contenders: dict[str, Contender], url: str, at_once: int, rounds: int = _ROUNDS, sends: int = 1000
) -> dict[str, list[float]]:
    """Return the seconds of CPU that a send took in each round, by contender."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    async with contextlib.AsyncExitStack() as open_ones:
        clients = {name: await open_ones.enter_async_context(one(url, at_once)) for name, one in contenders.items()}
        for send in clients.values():
            await cpu_per_send(send, at_once, max(at_once, sends // 4))
        for turn in range(rounds):
            order = list(clients.items())
            for name, send in order[turn % len(order) :] + order[: turn % len(order)]:  # so that each comes after each
                gc.collect()  # nobody pays for what the one before left behind
                taken[name].append(await cpu_per_send(send, at_once, sends))
    return taken


async def clients() -> AsyncIterator[Figure]:
    """Measure all clients on the running event loop."""
    loop = _loop()
    with answering() as url:
        for number in _AT_ONCE:
            taken = await in_turns(installed(), url, number)
            for name, times in taken.items():
                beside = "" if name == BARE else f": {ratio(times, taken[BARE])} x bare"
                behind = "" if name in (BARE, OURS) else f", {ratio(times, taken[OURS])} x ours"
                is_drawn = number == 64 and loop == "asyncio"
                relative = middle_ratio(times, taken[BARE]) if is_drawn else None
                yield Figure(f"{loop}, {number} at once: {name}", f"{median(times)}{beside}{behind}", relative)


def _loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


async def json_libraries() -> AsyncIterator[Figure]:
    """Measure a send, at 64 at once, with the standard library's json, and with orjson if it is installed."""
    module: Any = wire
    orjson = module._orjson  # noqa: SLF001 - what is installed decides; there is no switch for users
    choices = {"the standard library's json": None, **({"orjson": orjson} if orjson else {})}
    try:
        with answering() as url:
            for name, choice in choices.items():
                module._orjson = choice  # noqa: SLF001 - as above
                taken = await in_turns({BARE: installed()[BARE], OURS: ours}, url, 64, sends=2000, rounds=15)
                beside = ratio(taken[OURS], taken[BARE])
                yield Figure(f"{_loop()}, 64 at once, {name}", f"{median(taken[OURS])}: {beside} x bare")
    finally:
        module._orjson = orjson  # noqa: SLF001 - as above


async def many() -> AsyncIterator[Figure]:
    """Measure throughput and memory of one client that sends a thousand to a million messages to a thousand people."""
    people = itertools.cycle([str(10**11 + number) for number in range(1000)])
    with answering() as url:
        async with Client(KEYS, api_url=url, upload_url=url, quotas=WIDE) as client:

            async def send() -> None:
                await client.direct_messages.send(next(people), TEXT)

            await cpu_per_send(send, 64, 1000)
            done, before = 0, memory()
            for length in _LENGTHS:
                began, sends = time.perf_counter(), length - done
                cpu = await cpu_per_send(send, 64, sends)
                rate = sends / (time.perf_counter() - began)
                gc.collect()
                more = (memory() - before) / 2**20
                result = f"{rate:.0f}/s, {cpu * 1e6:.1f} µs of CPU each; {more:.1f} MB more than after the first 1000"
                yield Figure(f"64 at once, sends {done} to {length}", result)
                done = length
