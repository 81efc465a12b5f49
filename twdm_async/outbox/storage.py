"""An outbox' file, as all parts of an outbox use it: one transaction at a time, and a bell for those who wait."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from twdm_async._quiet import mistake
from twdm_async.errors import OutboxFailed, TwdmError
from twdm_async.outbox.rows import SCHEMA, Rows
from twdm_async.state_file import FileTrouble, StateFile

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from twdm_async._clock import Clock

T = TypeVar("T")


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

        def with_rows(db: sqlite3.Connection) -> T:
            return work(Rows(db, self._account, self._clock.wall()))

        try:
            if only_reads:
                return await self._file.run(partial(self._file.transact, with_rows, only_reads=True))
            return await self._file.change(with_rows, is_durable=is_durable)
        except FileTrouble as trouble:
            problem: TwdmError = OutboxFailed(path=str(self.path), problem=trouble.problem)
        except Exception as error:  # noqa: BLE001 - nobody could have expected it
            problem = mistake(error)
        raise problem

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


async def woken(news: asyncio.Event, within: float) -> None:
    """Wait until there is news, for so many seconds at the most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await news.wait()
