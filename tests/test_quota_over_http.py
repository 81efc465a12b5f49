"""Two hundred agents, real HTTP, a quota that binds, and the server's word on whether it held. In virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from aiolimiter import AsyncLimiter

from tests.pictures import PNG
from tests.virtual_time import run
from twdm_async import Client, LoopClock, MemoryQuotaStore, Quota, QuotaTable, Scope
from twdm_async.quota.operations import Granted, Slot
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from twdm_async.quota.operations import Answer, Note, Take
    from twdm_async.quota.store import QuotaStore

_LIMIT, _PER = 100, 900.0
_AGENTS, _EACH = 200, 3


class BareLimiterStore(MemoryQuotaStore):
    """The same engine with ``AsyncLimiter(limit, per)`` where the ledger was."""

    def __init__(self) -> None:
        super().__init__(clock=LoopClock())
        self._limiters: dict[str, AsyncLimiter] = {}

    def ask(self, take: Take) -> Any:
        return asyncio.ensure_future(self._grant(take))

    async def _grant(self, take: Take) -> Answer:
        for claim in take.about.claims:
            for quota in claim.quotas:
                limiter = self._limiters.setdefault(claim.bucket.name, AsyncLimiter(quota.limit, quota.per))
                await limiter.acquire()
        return Granted(Slot(take.about, take.about.pages), 1)

    def note(self, note: Note) -> None:
        pass


async def many_agents(store: QuotaStore, seed: int, each: int = _EACH) -> Sandbox:
    """What the server knows once all have sent all."""
    clock = LoopClock()
    table = QuotaTable.default().replace("direct_messages.send", Quota(_LIMIT, _PER), Quota(250, _PER, scope=Scope.APP))
    generator = random.Random(seed)
    async with (
        Sandbox(quotas=table, latency=(0.02, 8.0), clock=clock, seed=seed) as sandbox,
        Client(
            sandbox.credentials,
            api_url=sandbox.url,
            upload_url=sandbox.url,
            quotas=table,
            quota_store=store,
            clock=clock,
        ) as client,
    ):
        profile = await client.custom_profiles.create("Anna", PNG)

        async def work(number: int) -> None:
            agent = client.agent(profile)
            for count in range(each):
                await asyncio.sleep(generator.uniform(0, 60))
                await agent.send(1000 + number, f"{number}: {count}")

        await asyncio.gather(*(work(number) for number in range(_AGENTS)))
    return sandbox


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_no_quota_is_breached_nothing_is_lost_nothing_is_doubled(seed: int) -> None:
    async def main() -> Sandbox:
        return await many_agents(MemoryQuotaStore(clock=LoopClock()), seed)

    sandbox = run(main())
    assert sandbox.breaches == []
    texts = [message.text for message in sandbox.messages]
    assert sorted(texts) == sorted(f"{number}: {count}" for number in range(_AGENTS) for count in range(_EACH))
    counts = [w.count for w in sandbox.windows if w.family == "direct_messages.send" and w.scope is Scope.USER]
    assert len(counts) >= _AGENTS * _EACH // _LIMIT
    assert counts.count(_LIMIT) >= len(counts) - 2, "no window but the last lies idle"


@pytest.mark.soak
def test_the_same_with_a_bare_limiter_breaches_it() -> None:
    async def main() -> Sandbox:
        return await many_agents(BareLimiterStore(), 0, each=1)

    assert len(run(main()).breaches) > 10
