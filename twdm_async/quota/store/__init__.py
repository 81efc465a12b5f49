"""Quota stores, which keep the ledgers: their contract, and the kinds there are."""

from typing import TYPE_CHECKING

from twdm_async._lazy import lazily

if TYPE_CHECKING:
    from twdm_async.quota.store.contract import QuotaStore
    from twdm_async.quota.store.memory import MemoryQuotaStore
    from twdm_async.quota.store.redis import RedisQuotaStore
    from twdm_async.quota.store.tables import PostgresQuotaStore, SQLiteQuotaStore
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "contract": ["QuotaStore"],
            "memory": ["MemoryQuotaStore"],
            "redis": ["RedisQuotaStore"],
            "tables": ["PostgresQuotaStore", "SQLiteQuotaStore"],
        },
    )

__all__ = ["MemoryQuotaStore", "PostgresQuotaStore", "QuotaStore", "RedisQuotaStore", "SQLiteQuotaStore"]
