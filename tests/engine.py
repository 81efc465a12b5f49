"""Limiters and stores for tests of the engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from twdm_async import (
    LoopClock,
    MemoryQuotaStore,
    Quota,
    QuotaStore,
    QuotaTable,
    ReplyCredit,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.quota.limiter import QuotaLimiter
from twdm_async.quota.operations import (
    Bucket,
    Claim,
    Intent,
)

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.quota.store.transactional import Batch
    from twdm_async.storage.contract import Cursor, Transaction

SEND = "direct_messages.send"
DAY = 86_400.0
CREDIT = ReplyCredit(5, per=DAY)
LIFETIME = RequestLifetime.from_timeout(30.0)
BUCKET = Bucket(SEND, Scope.USER, "anna", "brand")
SHARED = ["sqlite", "redis", "postgres"]


def claims(limit: int, per: float = DAY, app: str = "brand") -> tuple[Claim, ...]:
    return (Claim(Bucket(SEND, Scope.USER, "anna", app), (Quota(limit, per=per),)),)


def limiter(*quotas: Quota, store: QuotaStore, account: str = "anna", **options: Any) -> QuotaLimiter:
    table = QuotaTable.default().replace(SEND, *quotas, **options)
    return QuotaLimiter(table, store, account=account, app="brand", clock=LoopClock(), timeout=30.0)


class SlowStore(SQLiteQuotaStore):
    """Works in the loop's own thread, and takes 50 ms."""

    async def commit(self, batch: Batch) -> None:
        await asyncio.sleep(0.05)
        self._show(batch.app, *self._transact(batch))


def store_of(kind: str, folder: Path) -> QuotaStore:
    clock = LoopClock()
    return MemoryQuotaStore(clock=clock) if kind == "memory" else SlowStore(folder / "quota.db", clock=clock)


class NotedIntent(Intent):
    """Notes what becomes of it."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def write(self, transaction: Transaction) -> Cursor:
        self.noted.append("written")
        return transaction.execute("UPDATE book SET now = now")

    def withdraw(self, _: Transaction) -> None:
        self.noted.append("withdrawn")
