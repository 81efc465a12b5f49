"""The sandbox's clock, which can be moved forward: a test can let a day pass at once."""

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
    """Return `duration` in seconds. It is a number, or text such as ``"90s"``, ``"15min"``, ``"24h"`` or ``"2d"``.

    Raises:
        InvalidInput: `duration` is neither, is negative, or exceeds a billion seconds. The error names `parameter`.
    """
    if isinstance(duration, str):
        found = re.fullmatch(r"\+?(\d+(?:\.\d+)?) ?(s|min|m|h|d)", duration.strip())
        if found is None:
            raise InvalidInput(parameter=parameter, problem="must be seconds, or text such as 90s, 15min, 24h or 2d")
        duration = float(found[1]) * _UNITS[found[2]]
    return checked_number(duration, parameter, 0, MOST, "number of seconds")


@define(eq=False)
class _Timer:
    """A callback that is due at a moment of the sandbox's clock."""

    clock: SandboxClock
    when: float
    callback: Callable[..., object]
    args: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop = field(factory=asyncio.get_running_loop)
    handle: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Set the event loop's timer; if the clock was moved, set it again."""
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
    """The clock of a sandbox. Give it to everything that must agree with it: ``Client(..., clock=sandbox.time)`` and
    ``SQLiteQuotaStore(path, clock=sandbox.time)``; :meth:`Sandbox.client <twdm_async.sandbox.Sandbox.client>` does so
    by itself.

    Args:
        base: the clock on which it is based.
        scale: the factor by which quota windows, and the pauses before a webhook is sent again, are shortened.
    """

    longest_block: float = math.inf
    longest_shared_block: float = math.inf

    def __init__(self, base: Clock, scale: float) -> None:
        self._base = base
        self.scale: float = checked_number(scale, "time_scale")
        """The factor by which quota windows, and the pauses before a webhook is sent again, are shortened."""
        self.ahead: float = 0.0
        """Seconds by which this clock is ahead of the one on which it is based."""
        self.timers: set[_Timer] = set()
        self._works: dict[object, asyncio.AbstractEventLoop] = {}  # work under way, and its event loop
        self._moves: deque[tuple[float, float]] = deque()  # when the clock was moved, and by how many seconds
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
        """Move this clock forward. Clients that wait for a quota, and webhooks that wait to be sent again, go on at
        once if their wait ends by then. A webhook's pauses between two calls of its handler, and the timeouts of
        requests, pass in real time and are not shortened.

        The clock moves half a percent further than `duration`. To allow for clock drift, the client counts a request
        for a little longer than the server's window lasts; after ``advance("24h")``, a client that has spent a day's
        quota should be able to send.

        Args:
            duration: seconds, or text such as ``"90s"``, ``"15min"``, ``"24h"`` or ``"2d"``. It is divided by
                :attr:`scale`, as the quota windows are.

        Raises:
            InvalidInput: `duration` is not a duration, or would put the clock ahead by more than a thousand years.
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
        """Return the work under way that takes real time: requests, until they are answered (and, if the client shares
        this clock, until the client has read the answer); and transactions of stores.
        """
        return {work for work, loop in list(self._works.items()) if not loop.is_closed()}

    def moved_lately(self) -> float:
        """Return the seconds by which this clock was moved in the last minute of its base clock. A request that arrives
        now may have been signed before the move.
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
        """Run for ever: whenever nothing has happened for a hundredth of a second, move the clock to the next timer.

        Args:
            activity: returns a value that changes whenever something happens, and ``None`` while something is under
                way.
        """
        while True:
            before = activity()
            await asyncio.sleep(_IDLE)
            if before is not None and before == activity() and self.timers and not self.under_way():
                self._move(max(0.0, min(timer.when for timer in self.timers) - self.monotonic()))
