"""Where the ledgers live: the contract of a quota store, and the store in memory."""

from twdm_async.quota.store.contract import Bucket, QuotaStore, Slot, Usage, Wait
from twdm_async.quota.store.memory import MemoryQuotaStore

__all__ = ["Bucket", "MemoryQuotaStore", "QuotaStore", "Slot", "Usage", "Wait"]
