"""Where the ledgers live: the contract of a quota store, and the store in memory."""

from twdm_async.quota.store.contract import Bucket, Claim, Lifetime, QuotaStore, Slot, Wait
from twdm_async.quota.store.memory import MemoryQuotaStore

__all__ = ["Bucket", "Claim", "Lifetime", "MemoryQuotaStore", "QuotaStore", "Slot", "Wait"]
