"""Whether this process was forked off another one: sockets, files and threads of that one must not be used here."""

from __future__ import annotations

import os


class _Forks:
    count = 0


def _note_fork() -> None:
    _Forks.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def forks() -> int:
    """How often this process was forked off another one since the package was imported. What differs, has forked."""
    return _Forks.count
