"""Signals that stop a command. On Windows, event loops cannot handle them, and Ctrl-C ends a command at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def on_signal(number: int, act: Callable[[], object]) -> None:
    """Let the running event loop call `act` when the process gets this signal."""
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(number, act)


def leave_signal(number: int) -> None:
    """Undo :func:`on_signal`."""
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().remove_signal_handler(number)
