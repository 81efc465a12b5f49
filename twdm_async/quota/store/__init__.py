"""Where the ledgers live: the contract of a quota store, and the stores."""

from twdm_async.quota.store.contract import QuotaStore
from twdm_async.quota.store.memory import MemoryQuotaStore
from twdm_async.quota.store.redis import RedisQuotaStore
from twdm_async.quota.store.sqlite import SQLiteQuotaStore

__all__ = ["MemoryQuotaStore", "QuotaStore", "RedisQuotaStore", "SQLiteQuotaStore"]
