"""An outbox' file, as all parts of an outbox use it: one transaction at a time, and a bell for those who wait.

What is to be changed while a transaction runs is changed in the next one, all together: a disk takes some hundred
transactions a second, and each of them takes any number of changes. Each change succeeds or fails by itself. If the
transaction fails (the disk is full, say), none is kept, and each is tried once more in one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twdm_async._quiet import mistake
from twdm_async.errors import OutboxFailed, TwdmError
from twdm_async.outbox.rows import SCHEMA, Rows
from twdm_async.state_file import FileTrouble, StateFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twdm_async._clock import Clock

T = TypeVar("T")


class _Change(Generic[T]):
    """What is to be done in a transaction, and what came of it.

    Args:
        work: gets the database. It may be done more than once, and counts once.
        is_durable: whether it must be on the disk then.
    """

    def __init__(self, work: Callable[[sqlite3.Connection], T], is_durable: bool) -> None:
        self.work = work
        self.is_durable = is_durable
        self.is_made = False
        self.result: Any = None
        self.error: Exception | None = None

    def make(self, db: sqlite3.Connection) -> None:
        """Make it, within a transaction that others share. If it fails, nothing of it is kept."""
        db.execute("SAVEPOINT change")
        try:
            self.result, self.error = self.work(db), None
        except sqlite3.Error:  # of the file, so of all
            raise
        except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
            self.error = error
            db.execute("ROLLBACK TO change")
        db.execute("RELEASE change")
        self.is_made = True


class Storage:
    """The messages of `account` in the file at `path`.

    Args:
        path: absolute.
        account: whose messages.
        clock: where time comes from.
    """

    def __init__(self, path: Path, account: str, clock: Clock) -> None:
        self.path = path
        self._account = account
        self._clock = clock
        self._file = StateFile(
            path, SCHEMA, "what is to be sent", "put it back, or move it away and put the messages again"
        )
        self._changes: deque[_Change[Any]] = deque()
        self._is_closed = False
        self._version = 0
        self.news = asyncio.Event()
        """Set, and replaced by another one, when something has changed."""

    async def do(self, work: Callable[[Rows], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        """Do `work` in one transaction.

        Args:
            work: gets the rows.
            is_durable: whether it must be on the disk when this returns.
            only_reads: whether it changes nothing.

        Raises:
            OutboxFailed: nothing was changed.
        """
        if self._is_closed:
            raise OutboxFailed(path=str(self.path), problem="it is closed")

        change = _Change(lambda db: work(Rows(db, self._account, self._clock.wall())), is_durable)
        if not only_reads:
            self._changes.append(change)
        try:
            return await self._file.run(partial(self._read if only_reads else self._change, change))
        except FileTrouble as trouble:
            problem: TwdmError = OutboxFailed(path=str(self.path), problem=trouble.problem)
        except Exception as error:  # noqa: BLE001 - nobody could have expected it
            problem = mistake(error)
        raise problem

    def _read(self, change: _Change[T]) -> T:
        return self._file.transact(change.work, only_reads=True)

    def _change(self, change: _Change[T]) -> T:
        """Make all changes that are to be made now, and return what came of this one. Runs in the file's thread."""
        if not change.is_made:
            together: list[_Change[Any]] = []
            with contextlib.suppress(IndexError):
                while True:
                    together.append(self._changes.popleft())
            self._make(together)
        if change.error is not None:
            raise change.error
        result: T = change.result
        return result

    def _make(self, together: Sequence[_Change[Any]]) -> None:
        is_durable = any(change.is_durable for change in together)
        try:
            self._file.transact(partial(_make_all, together), is_durable=is_durable)
        except FileTrouble as trouble:
            if len(together) == 1:
                together[0].is_made, together[0].error = True, trouble
            else:
                for change in together:
                    self._make([change])

    def do_soon(self, work: Callable[[Rows], object], then: Callable[[], object]) -> None:
        """Do `work` in one transaction without waiting for it, and `then` if it was done. Both run in the file's
        thread, also if the loop ends.
        """

        def job() -> None:
            with contextlib.suppress(Exception):  # who needs it does it again
                self._file.transact(lambda db: work(Rows(db, self._account, self._clock.wall())), is_durable=True)
                then()

        self._file.put(job)

    def tell(self) -> None:
        """Something has changed: wake those who wait for news."""
        self.news.set()
        self.news = asyncio.Event()

    async def watch(self, every: float, at_least_every: float) -> None:
        """Tell, for ever, what other processes change, or that time passes.

        Args:
            every: seconds between two looks.
            at_least_every: seconds after which those who wait are woken whatever happened.
        """
        told_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(every)
            version = await self._file.run(self._file.version)
            if version != self._version or self._clock.monotonic() - told_at >= at_least_every:
                self._version, told_at = version, self._clock.monotonic()
                self.tell()

    async def close(self) -> None:
        """Let go of the file."""
        self._is_closed = True
        self.tell()
        await self._file.close()


def _make_all(together: Sequence[_Change[Any]], db: sqlite3.Connection) -> None:
    for change in together:
        change.make(db)


async def woken(news: asyncio.Event, within: float) -> None:
    """Wait until there is news, for so many seconds at the most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await news.wait()
