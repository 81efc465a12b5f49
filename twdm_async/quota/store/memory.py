"""Ledgers in this process' memory. What was spent is forgotten when the process ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from twdm_async._clock import Clock
from twdm_async.quota.ledger import Ledger
from twdm_async.quota.store.contract import Bucket, Slot, Usage, Wait

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryQuotaStore:
    """The default store. Share one among clients of the same app, so that they share the app's quotas.

    Args:
        clock: where time comes from; the machine's own if not given.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._ledgers: dict[Bucket, Ledger] = {}
        self._listeners: list[Callable[[Bucket], None]] = []

    async def take(self, buckets: tuple[Bucket, ...]) -> Slot | Wait:
        now = self._clock.monotonic()
        ledgers = [self._ledger(bucket) for bucket in buckets]
        for ledger in ledgers:
            if not ledger.is_open(now):
                return self._longest_wait(buckets, now)
        for ledger in ledgers:
            ledger.take()
        return Slot(buckets)

    def settle(self, slot: Slot, grace: float = 0.0) -> None:
        now = self._clock.monotonic()
        for bucket in slot.buckets:
            self._ledger(bucket).settle(now, grace)

    def give_back(self, slot: Slot) -> None:
        for bucket in slot.buckets:
            self._ledger(bucket).give_back()
        for bucket in slot.buckets:
            for listener in self._listeners:
                listener(bucket)

    def hold(self, bucket: Bucket, seconds: float) -> None:
        self._ledger(bucket).hold(self._clock.monotonic() + seconds)

    def tighten(self, bucket: Bucket, remaining: int, seconds: float) -> None:
        now = self._clock.monotonic()
        self._ledger(bucket).tighten(now, remaining, now + seconds)

    def free_in(self, bucket: Bucket, count: int) -> float:
        return self._ledger(bucket).free_in(self._clock.monotonic(), count)

    def usage(self, bucket: Bucket) -> Usage:
        now = self._clock.monotonic()
        ledger = self._ledger(bucket)
        return Usage(used=ledger.used(now), in_flight=ledger.in_flight, free_in=ledger.free_in(now))

    def on_freed(self, listener: Callable[[Bucket], None]) -> Callable[[], None]:
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return end

    def _ledger(self, bucket: Bucket) -> Ledger:
        ledger = self._ledgers.get(bucket)
        if ledger is None:
            quota = bucket.quota
            ledger = Ledger(quota.limit, quota.per) if quota else Ledger(float("inf"), 0.0)
            self._ledgers[bucket] = ledger
        return ledger

    def _longest_wait(self, buckets: tuple[Bucket, ...], now: float) -> Wait:
        seconds, bucket = max(
            ((self._ledger(bucket).free_in(now), bucket) for bucket in buckets), key=lambda pair: pair[0]
        )
        return Wait(bucket, seconds)
