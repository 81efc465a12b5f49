"""Which processes that use a state file are alive. Each holds a lock on a file of its own, which ends with it, however
it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = re.compile(r"[0-9a-f]{16}")

_held: set[int] = set()  # file descriptors of locks; a process that is forked off must not keep them


def _let_go() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class Lock:
    """A lock on the file `path`, which is made if need be. Locks of one process exclude each other, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this one has it."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it, if nobody else has it."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        _held.add(descriptor)
        self._descriptor = descriptor
        return True

    def release(self, *, remove: bool) -> None:
        """Let go of it; `remove` the file as well."""
        if self._descriptor is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        _held.discard(self._descriptor)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = None


class Owner:
    """One user of the file at `path`: a name that is alive as long as its process is, or until it is released."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = secrets.token_hex(8)
        self._lock = Lock(self._lock_of(self.name))

    def bind_loop(self) -> None:
        """Be alive."""
        self._lock.take()

    def release(self) -> None:
        """Be alive no longer."""
        self._lock.release(remove=True)

    @property
    def is_held(self) -> bool:
        """Whether it is alive."""
        return self._lock.is_held

    def sweep(self) -> None:
        """Remove what owners left behind that died."""
        for path in self._path.parent.glob(f"{glob.escape(self._path.name)}.*.lock"):
            name = path.name.removeprefix(f"{self._path.name}.").removesuffix(".lock")
            if _NAME.fullmatch(name) and name != self.name:
                self.is_dead(name)

    def is_dead(self, name: str) -> bool:
        """Whether the owner called `name` has ended. It is not asked of oneself."""
        path = self._lock_of(name)
        if not path.exists():
            return True
        lock = Lock(path)
        if not lock.take():
            return False
        lock.release(remove=True)
        return True

    def _lock_of(self, name: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{name}.lock")
