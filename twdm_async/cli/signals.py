"""What a command does when it is told to stop. Windows cannot be asked: there, Ctrl-C ends a command at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Final

from twdm_async.cli.terminal import note

if TYPE_CHECKING:
    from collections.abc import Generator

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def told_to_stop(words: str | None = None) -> Generator[asyncio.Event]:
    """Return an event that the first SIGINT or SIGTERM sets; the second one ends the process at once.

    Args:
        words: what to say then, for people.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def leave() -> None:
        for number in _SIGNALS:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)

    def on_signal() -> None:
        leave()
        stop.set()
        if words is not None:
            note(words)

    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        leave()
