"""A day in a moment: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

Sockets work in it. Both ends of a loopback connection live in the same loop, so whatever is on its way has arrived by
the time the selector is asked; still it is given two milliseconds of real time before the clock jumps.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

_GRACE = 0.002
# Every turn of the loop takes a moment, as it does in life. If time stood still between timers, whoever computes a
# deadline a rounding error too early (as aiolimiter does) would wake up at once, find that it is still too early, and
# so on for ever.
_TICK = 1e-7


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += _TICK
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        only_the_loop_itself = len(self.get_map()) <= 1
        events = super().select(0 if only_the_loop_itself else min(timeout, _GRACE))
        if not events:
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - it is real time
        await super().shutdown_default_executor()


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return in_virtual_time


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
