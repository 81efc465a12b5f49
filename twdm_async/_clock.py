"""The clock from which the whole package takes the time, so that a test can pass its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_UPTIME = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
_uptime = time.monotonic if _UPTIME is None else partial(time.clock_gettime, _UPTIME)  # Windows has one clock only
_END_OF_TIME = 253_402_300_799.0  # of datetime's: the last second of the year 9999
_LOOP_EPOCH = 1_800_000_000.0  # an arbitrary moment in 2027, at which the wall clock of a LoopClock begins


class Timer(Protocol):
    """A planned callback that can be cancelled until it is called."""

    def cancel(self) -> None: ...


class Clock:
    """The machine's clocks. All durations are in seconds.

    If :meth:`monotonic` of a subclass does not advance like the running loop's ``time()``, the subclass must override
    :meth:`call_at` and :meth:`sleep`.
    """

    longest_block: float = 60.0
    """Seconds after which a wait looks at the clock again: while the machine sleeps, ``monotonic`` stands still and
    ``uptime`` goes on."""
    longest_shared_block: float = 30.0
    """Seconds after which a call that waits for a shared quota asks the store again: another process may have given a
    slot back."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Return the seconds since some arbitrary moment. They never step back. Waits and deadlines use them."""
    wall: Callable[[], float] = staticmethod(time.time)
    """Return the seconds since 1970-01-01 UTC, as far as this machine knows. Signatures and times for people use
    them."""
    uptime: Callable[[], float] = staticmethod(_uptime)
    """Return the seconds since this machine was started, including its sleep. All its processes agree on them."""

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` in the running loop when ``monotonic()`` shows `when`."""
        return asyncio.get_running_loop().call_later(when - self.monotonic(), callback, *args)

    def begin_work(self, work: object) -> None:
        """Note that `work` begins, which takes real time: a request or a transaction. Until it has ended, the sandbox's
        clock does not jump.
        """

    def end_work(self, work: object) -> None:
        """Note that `work` has ended."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, within: float) -> None:
        """Wait until `event` is set, but at most for `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                timer = self.call_at(self.monotonic() + within, timeout.reschedule, 0.0)
                try:
                    await event.wait()
                finally:
                    timer.cancel()

    def utc(self, after: float = 0.0) -> datetime:
        """Return the wall time `after` seconds from now, as an aware datetime in UTC."""
        return datetime.fromtimestamp(min(self.wall() + after, _END_OF_TIME), UTC)


class LoopClock(Clock):
    """The clock of the running event loop, for tests in a loop with virtual time, such as looptime's.

    Args:
        wrong_by: seconds by which the wall clock is wrong.
    """

    longest_block: float = math.inf

    def __init__(self, *, wrong_by: float = 0.0) -> None:
        self.wrong_by = wrong_by
        self._loop: asyncio.AbstractEventLoop | None = None

    def monotonic(self) -> float:
        self._loop = asyncio._get_running_loop() or self._loop  # noqa: SLF001 - else it raises in a thread
        return (self._loop or asyncio.get_running_loop()).time()

    def uptime(self) -> float:
        return self.monotonic()

    def wall(self) -> float:
        return _LOOP_EPOCH + self.monotonic() + self.wrong_by
