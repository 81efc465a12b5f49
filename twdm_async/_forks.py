"""Whether this process was forked off another one: sockets, files and threads of that one must not be used here."""

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
    """How often this process was forked off another one since the package was imported. What differs, has forked."""
    return _Process.forks


def unique_name() -> str:
    """A name that nobody else has, in this process or in another."""
    return f"{_Process.name}{next(_numbers):x}"
