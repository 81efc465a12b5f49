"""The usual end of a program: all tasks are cancelled, wherever they are, then everything is closed. Nothing hangs."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.stores import address_of, server_url
from tests.support import HANGS
from twdm_async import (
    Lane,
    MemoryQuotaStore,
    Pace,
    PostgresQuotaStore,
    Quota,
    QuotaStore,
    QuotaTable,
    RedisQuotaStore,
    SQLiteQuotaStore,
)
from twdm_async._clock import Clock
from twdm_async.quota.limiter import QuotaLimiter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEND = "direct_messages.send"
EAGER: Any = getattr(asyncio, "eager_task_factory", None)


async def cancelled_at_random(store: QuotaStore, generator: random.Random) -> None:
    """Let agents send, cancel all at some moment, and close."""
    pace = generator.choice([None, Pace(burst=2, per=0.01)])
    table = QuotaTable.default().replace(SEND, Quota(generator.choice([2, 1000]), per=0.05), pace=pace)
    limiter = QuotaLimiter(table, store, account="a", app="b", clock=Clock(), timeout=0.1)

    async def agent(number: int) -> None:
        while True:
            slot = await limiter.admit(SEND, Lane(str(number)), generator.choice([None, 0.02, 5.0]))
            try:
                await asyncio.sleep(0)
            finally:
                limiter.settle(slot, seen=True)

    tasks = [asyncio.create_task(agent(number)) for number in range(5)]
    if generator.random() < 0.5:
        for _ in range(generator.randrange(30)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(generator.random() * 0.02)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    limiter.close()
    async with asyncio.timeout(HANGS):
        await store.flush()
        await limiter.look()
        if generator.random() < 0.3:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        await store.close()


def moments(make: Callable[[int], QuotaStore], count: int, factory: Any) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        for seed in range(count):
            await cancelled_at_random(make(seed), random.Random(seed))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@pytest.mark.soak
@pytest.mark.parametrize("factory", [None, pytest.param(EAGER, marks=pytest.mark.skipif(not EAGER, reason="3.12"))])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "postgres"])
@pytest.mark.parametrize("count", [25, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.thorough])])
def test_fault_88_all_tasks_are_cancelled_and_then_all_is_closed(
    count: int, kind: str, factory: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = server_url(kind, request)
    addresses = [address_of(kind, tmp_path, url) for _ in range(7)] if kind == "postgres" else []

    def make(seed: int) -> QuotaStore:
        if kind == "memory":
            return MemoryQuotaStore()
        if kind == "sqlite":
            return SQLiteQuotaStore(tmp_path / f"{seed % 7}.db")
        if kind == "postgres":
            return PostgresQuotaStore(addresses[seed % 7])
        return RedisQuotaStore(f"{url}/5", prefix=f"shutdown{seed % 7}")

    moments(make, count, factory)
