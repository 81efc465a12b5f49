"""The cost of waiting calls: memory, garbage collection, CPU while idle, cancellation."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks.report import Figure, memory
from benchmarks.server import KEYS, TEXT
from twdm_async import Client, MemoryQuotaStore, Quota, QuotaTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NUMBERS: Final = (1000, 10_000, 100_000)
_IDLE: Final = 5.0  # seconds


async def waiting() -> AsyncIterator[Figure]:
    """Measure agents that wait for quota, each with its own lane and person; each measurement has its own process."""
    for number in _NUMBERS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield await asyncio.get_running_loop().run_in_executor(pool, _measured, number)


def _measured(number: int) -> Figure:
    return asyncio.run(_wait(number))


async def _wait(number: int) -> Figure:
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(1, per=86_400.0))
    nowhere = "http://127.0.0.1:9"
    store = MemoryQuotaStore(assume_spent=0.9)
    async with Client(KEYS, api_url=nowhere, upload_url=nowhere, quotas=quotas, quota_store=store) as client:
        agents = [client.agent(10**6 + one) for one in range(number)]
        people = [str(10**9 + one) for one in range(number)]
        gc.collect()
        before, began = memory(), time.process_time()
        tasks = [asyncio.ensure_future(agent.send(person, TEXT)) for agent, person in zip(agents, people, strict=True)]
        await asyncio.sleep(0)
        enqueued, more = time.process_time() - began, memory() - before
        began = time.perf_counter()
        gc.collect()
        collected, began = time.perf_counter() - began, time.process_time()
        await asyncio.sleep(_IDLE)
        idle, began = (time.process_time() - began) / _IDLE, time.perf_counter()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        given_up = time.perf_counter() - began
    return Figure(
        f"{number} wait, a lane and a person each",
        f"{more / number:.0f} bytes each; {enqueued / number * 1e6:.0f} µs to begin; a full collection "
        f"{collected:.2f} s; idle {idle:.3%} of a core; all cancelled in {given_up:.2f} s",
    )
