"""Owners: which of the processes that use a state file are alive. Each process locks a lock file of its own; the system
releases the lock when the process ends, however it ends.

A process that finds a lock file that no process holds removes it. So a file may be removed after its owner has opened
it and before its owner locks it; the lock would then be on a file that no other process can see. Therefore the owner
compares the file it has locked with the file at the path, and starts again if they differ.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from twdm_async._forks import this_process
from twdm_async.storage.contract import StorageTrouble, User

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_fcntl: Any = None
with contextlib.suppress(ModuleNotFoundError):  # Windows has none; Lock.take raises there
    import fcntl

    _fcntl = fcntl

_NAME: Final = re.compile(r"[0-9a-f]{16}")
_TRIES, _PAUSE = 50, 0.01  # tries, and seconds between them, to lock one's own file while others test that lock

_held: set[int] = set()  # file descriptors of held locks; a forked process must not keep them


def _let_go() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Lock:
    """An exclusive lock on the file `path`. Locks within one process exclude each other, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._forks = this_process.forks

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def take(self, *, is_made: bool = True) -> bool:
        """Take the lock and return True; return False if it is held elsewhere.

        Args:
            is_made: whether to create a missing file.

        Raises:
            FileNotFoundError: the file is missing, and `is_made` is false.
            StorageTrouble: this system has no ``flock()``.
        """
        if _fcntl is None:
            raise StorageTrouble("outboxes and inboxes in files need flock(), which this system does not have")
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | (os.O_CREAT if is_made else 0), 0o600)
            try:
                is_locked = _lock(descriptor)
                if is_locked and _is_at(self.path, descriptor):
                    _held.add(descriptor)
                    self._descriptor, self._forks = descriptor, this_process.forks
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
            if not is_locked:
                return False
        return True

    def is_in_place(self) -> bool:
        """Return whether the lock is held, and on the file that others find at its path."""
        return self._descriptor is not None and _is_at(self.path, self._descriptor)

    def is_exclusive(self) -> bool:
        """Try to take the held lock a second time; return whether that failed, as it should."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            return not _lock(descriptor)
        finally:
            os.close(descriptor)

    def release(self, *, remove: bool) -> None:
        """Release the lock; if `remove` is true, remove the file, too."""
        if self._descriptor is None:
            return
        if self._forks != this_process.forks:  # the lock belongs to the parent process
            self._descriptor = None
            return
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        _held.discard(self._descriptor)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = None


class Owner:
    """A user of the state file at `path`: a name that is alive until its process ends or the owner is released.

    Args:
        path: the path of the state file.
        package: the package whose tables it uses.
    """

    def __init__(self, path: Path, package: str) -> None:
        self._path = path
        self._package = package
        self._begin()

    def acquire(self) -> None:
        """Hold the lock, so that nobody takes over this owner's work; after a fork, under a new name.

        Raises:
            StorageTrouble: files cannot be created or locked in the folder, or the lock's file was removed.
        """
        try:
            if self._forks != this_process.forks:  # the lock and the name belong to the parent process
                self._begin()
            if self._lock.is_held:
                self._check_place()
            else:
                self._take()
        except OSError as error:
            advice = "see that its folder exists, and that files can be made and locked there"
            raise StorageTrouble(f"{error.strerror or error}; {advice}") from None

    def _begin(self) -> None:
        self.name: str = secrets.token_hex(8)
        self._lock = Lock(self._lock_of(self.name))
        self._forks = this_process.forks

    def _check_place(self) -> None:
        if not self._lock.is_in_place():
            raise StorageTrouble(
                f"{self._lock.path.name} beside it was removed while it was in use, so others may have taken over what "
                "this process does; start it anew, and let nothing clean up there"
            )

    def _take(self) -> None:
        for _ in range(_TRIES):
            if self._lock.take():
                break
            time.sleep(_PAUSE)  # another process is just testing whether it is held
        else:
            raise StorageTrouble(f"another process has held {self._lock.path.name} beside it for {_TRIES * _PAUSE:g} s")
        if not self._lock.is_exclusive():
            self._lock.release(remove=True)
            raise StorageTrouble(
                "locks do not hold in its folder, as in some that are shared over a network or between containers; "
                "move it to a disk of this machine"
            )
        with contextlib.suppress(OSError):  # the text is only informative
            self._lock.path.write_text(f"{self._package} {os.getpid()}", encoding="ascii")

    def release(self) -> None:
        """Release the lock: others may take over this owner's work."""
        self._lock.release(remove=True)

    @property
    def is_held(self) -> bool:
        """Whether this owner holds its lock."""
        return self._lock.is_held

    def sweep(self) -> None:
        """Remove the lock files of owners whose process has ended."""
        for name, _ in self._files():
            if name != self.name:
                self.is_dead(name)

    def others(self) -> list[User]:
        """Return the owners that use the same package of the file, and are alive."""
        found: list[User] = []
        for name, path in self._files():
            with contextlib.suppress(OSError, ValueError):  # the owner has just ended or begun
                package, _, pid = path.read_text(encoding="ascii", errors="replace").partition(" ")
                since = path.stat().st_mtime
                if package == self._package and name != self.name and not self.is_dead(name):
                    found.append(User(name, socket.gethostname(), int(pid), since, is_alive=True))
        return found

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in self._path.parent.glob(f"{glob.escape(self._path.name)}.*.lock"):
            name = path.name.removeprefix(f"{self._path.name}.").removesuffix(".lock")
            if _NAME.fullmatch(name):
                yield name, path

    def is_dead(self, name: str) -> bool:
        """Return whether the process of the owner `name` has ended. Do not call this with this owner's own name."""
        if not _NAME.fullmatch(name):
            return True  # no owner has such a name
        lock = Lock(self._lock_of(name))
        try:
            if not lock.take(is_made=False):
                return False
        except FileNotFoundError:
            return True
        lock.release(remove=True)
        return True

    def _lock_of(self, name: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{name}.lock")


def _lock(descriptor: int) -> bool:
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether `descriptor` is open on the file at `path`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
