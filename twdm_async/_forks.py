"""Detection of forks: a forked process must not use the sockets, files and threads of its parent."""

from __future__ import annotations

import itertools
import os
import secrets


class _Process:
    forks = 0
    name = secrets.token_hex(8)


_numbers = itertools.count()


def _note_fork() -> None:
    _Process.forks += 1
    _Process.name = secrets.token_hex(8)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def forks() -> int:
    """Return how often this process was forked since the package was imported. If the number differs from an earlier
    one, the process has been forked since.
    """
    return _Process.forks


def unique_name() -> str:
    """Return a name that was never returned before, in this process or in any other."""
    return f"{_Process.name}{next(_numbers):x}"
