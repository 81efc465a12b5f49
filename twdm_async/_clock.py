"""Time, as everything here receives it, so that a test can hand in its own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial

_UPTIME = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
_uptime = time.monotonic if _UPTIME is None else partial(time.clock_gettime, _UPTIME)  # Windows has one clock only
_END_OF_TIME = 253_402_300_799.0  # of datetime's: the last second of the year 9999


class Clock:
    """The machine's clocks. Durations are seconds.

    A subclass that counts differently must agree with the running loop's ``time()``, since timers are the loop's.
    """

    def monotonic(self) -> float:
        """Seconds since some moment; never steps back. All quota arithmetic uses this one."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC, as far as this machine knows. Used for signing and for telling people."""
        return time.time()

    def uptime(self) -> float:
        """Seconds since this machine was started, its sleep included. All processes of a machine agree on it."""
        return _uptime()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)

    def utc(self, after: float = 0.0) -> datetime:
        """The wall time in `after` seconds from now, as an aware datetime in UTC."""
        return datetime.fromtimestamp(min(self.wall() + after, _END_OF_TIME), UTC)
