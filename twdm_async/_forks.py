"""Detection of forks: a forked process must not use the sockets, files and threads of its parent."""

from __future__ import annotations

import itertools
import os
import secrets
from typing import Final


class _Process:
    forks: int = 0
    """How often this process was forked since the package was imported. If the number differs from an earlier one, the
    process has been forked since."""
    name: str = secrets.token_hex(8)


this_process: Final = _Process()
_numbers = itertools.count()


def _note_fork() -> None:
    this_process.forks += 1
    this_process.name = secrets.token_hex(8)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def unique_name() -> str:
    """Return a name that was never returned before, in this process or in any other."""
    return f"{this_process.name}{next(_numbers):x}"
