"""The sandbox's clock, which can be moved: a day passes when a test says so."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

from twdm_async._clock import Clock
from twdm_async._numbers import MOST, checked_number
from twdm_async.errors import InvalidInput

_UNITS: Final = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MARGIN: Final = 1.005
_IDLE: Final = 0.01  # seconds
_FURTHEST: Final = 1000 * 365 * 86_400.0  # seconds
_LATELY: Final = 60.0  # seconds


def seconds_of(duration: float | str, parameter: str = "duration") -> float:
    """Return the seconds that `duration` says: a number, or text such as ``"90s"``, ``"15min"``, ``"24h"`` or ``"2d"``.

    Raises:
        InvalidInput: `duration` is neither, or is negative.
    """
    if isinstance(duration, str):
        found = re.fullmatch(r"\+?(\d+(?:\.\d+)?) ?(s|min|m|h|d)", duration.strip())
        if found is None:
            raise InvalidInput(parameter=parameter, problem="must be seconds, or text such as 90s, 15min, 24h or 2d")
        duration = float(found[1]) * _UNITS[found[2]]
    return checked_number(duration, parameter, 0, MOST, "number of seconds")


@define(eq=False)
class _Timer:
    """A call that is due at a moment of the sandbox's clock."""

    clock: SandboxClock
    when: float
    callback: Callable[..., object]
    args: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop = field(factory=asyncio.get_running_loop)
    handle: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Set the loop's timer, anew if the clock was moved."""
        if self.handle is not None:
            self.handle.cancel()
        if self in self.clock.timers:
            self.handle = self.loop.call_later(max(0.0, self.when - self.clock.monotonic()), self._ring)

    def cancel(self) -> None:
        self.clock.timers.discard(self)
        if self.handle is not None:
            self.handle.cancel()

    def _ring(self) -> None:
        self.clock.timers.discard(self)
        self.callback(*self.args)


class SandboxClock(Clock):
    """Shows the time in the sandbox. Give it to whoever must agree with it: ``Client(..., clock=sandbox.time)`` and
    ``SQLiteQuotaStore(path, clock=sandbox.time)``; :meth:`Sandbox.client <twdm_async.sandbox.Sandbox.client>` does so
    by itself.

    Args:
        base: the clock that it runs with.
        scale: how many times as fast time passes for quotas and webhooks.
    """

    longest_block = longest_shared_block = math.inf

    def __init__(self, base: Clock, scale: float) -> None:
        self._base = base
        self.scale = checked_number(scale, "time_scale")
        """How many times as fast time passes for quotas and webhooks."""
        self.ahead = 0.0
        """Seconds by which this clock is ahead of the one that it runs with."""
        self.timers: set[_Timer] = set()
        self._works: dict[object, asyncio.AbstractEventLoop] = {}  # in which loop each is under way
        self._moves: deque[tuple[float, float]] = deque()  # when it was moved, and how far
        self.on_move: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self._base.monotonic() + self.ahead

    def uptime(self) -> float:
        return self._base.uptime() + self.ahead

    def wall(self) -> float:
        return self._base.wall() + self.ahead

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Timer:
        timer = _Timer(self, when, callback, args)
        self.timers.add(timer)
        timer.arm()
        return timer

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            await self.wait(asyncio.Event(), seconds)

    def advance(self, duration: float | str) -> None:
        """Move this clock forward. What its clients, the quotas and the webhooks wait for until then is due at once;
        pauses of a webhook between two calls of its handler, and timeouts of requests, are not.

        The clock goes half a percent further than `duration`: the client counts a request a little longer than the
        server's window lasts, so that clocks may drift, and after a day's quota it should be able to send.

        Args:
            duration: seconds, or text such as ``"90s"``, ``"15min"``, ``"24h"`` or ``"2d"``. It is divided by the
                scale, as the windows of the quotas are.

        Raises:
            InvalidInput: `duration` is not a duration, or the clock would be ahead by more than a thousand years.
        """
        seconds = seconds_of(duration) * _MARGIN / self.scale
        if self.ahead + seconds > _FURTHEST:
            raise InvalidInput(parameter="duration", problem="would put the clock ahead by more than a thousand years")
        self._move(seconds)

    def begin_work(self, work: object) -> None:
        self._works[work] = asyncio.get_running_loop()

    def end_work(self, work: object) -> None:
        self._works.pop(work, None)

    def under_way(self) -> set[object]:
        """Return what is under way that takes real time: requests, until they are answered and, where the client shares
        this clock, until the answer is read; and transactions of stores.
        """
        return {work for work, loop in list(self._works.items()) if not loop.is_closed()}

    def moved_lately(self) -> float:
        """Return the seconds by which it was moved within the last minute of the clock that it runs with: a request may
        have been signed before.
        """
        now = self._base.monotonic()
        while self._moves and self._moves[0][0] < now - _LATELY:
            self._moves.popleft()
        return sum(seconds for _, seconds in self._moves)

    def _move(self, seconds: float) -> None:
        self.ahead += seconds
        self._moves.append((self._base.monotonic(), seconds))
        for timer in list(self.timers):
            try:
                timer.loop.call_soon_threadsafe(timer.arm)
            except RuntimeError:  # its loop is closed
                self.timers.discard(timer)
        self.on_move()

    async def jump_when_idle(self, activity: Callable[[], object]) -> None:
        """Move to the next timer, for ever, whenever nothing has happened for a hundredth of a second.

        Args:
            activity: returns something else after something has happened, and ``None`` while something is under way.
        """
        while True:
            before = activity()
            await asyncio.sleep(_IDLE)
            if before is not None and before == activity() and self.timers and not self.under_way():
                self._move(max(0.0, min(timer.when for timer in self.timers) - self.monotonic()))
