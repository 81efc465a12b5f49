"""The outbox's access to its storage: transactions over rows, and events that wake waiting tasks."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from twdm_async._quiet import mistake
from twdm_async.errors import InvalidInput, OutboxFailed, TwdmError
from twdm_async.outbox.rows import Rows
from twdm_async.storage.contract import StorageTrouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from twdm_async._clock import Clock
    from twdm_async.outbox.entry import Entry
    from twdm_async.outbox.rows import NewMessage
    from twdm_async.quota.spec import Quota
    from twdm_async.storage.contract import Storage, Transaction

T = TypeVar("T")


class Messages:
    """The messages of one account.

    Args:
        storage: where the messages are.
        account: the account.
        clock: the source of time.
    """

    def __init__(self, storage: Storage, account: str, clock: Clock) -> None:
        self.storage = storage
        self._account = account
        self._clock = clock
        self._is_closed = False
        self._version = 0
        self.news: asyncio.Event = asyncio.Event()
        """Set, and replaced by a new event, when something has changed."""
        self.more: asyncio.Event = asyncio.Event()
        """The same, only for changes after which there may be more to send."""

    @property
    def owner(self) -> str:
        """The name under which this process works on messages."""
        return self.storage.owner

    async def do(self, work: Callable[[Rows], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        """Do `work` in one transaction, and return its result.

        Args:
            work: is called with the rows.
            is_durable: whether the change must be on the disk when this returns.
            only_reads: whether `work` changes nothing.

        Raises:
            OutboxFailed: the transaction failed. Nothing was changed, unless the error's `is_unsure` is true.
        """
        if only_reads:
            return await self._told(lambda: self.storage.read(self._with_rows(work)))
        return await self._told(lambda: self.storage.change(self._with_rows(work), is_durable=is_durable))

    async def put(self, new: NewMessage, limit: Quota | None) -> Entry | InvalidInput:
        """Insert a message as :meth:`Rows.put <twdm_async.outbox.rows.Rows.put>` does, in one transaction with all
        messages that are put at the same moment.

        Raises:
            OutboxFailed: the transaction failed. Nothing was inserted, unless the error's `is_unsure` is true.
        """
        work = self._with_rows(lambda rows: rows.put(new, limit))
        entry = await self._told(lambda: self.storage.change_together(work, is_durable=True))
        self.tell()
        return entry

    async def _told(self, doing: Callable[[], Awaitable[T]]) -> T:
        """Await `doing`, and convert its errors to those of an outbox."""
        if self._is_closed:
            raise OutboxFailed(path=self.storage.address, problem="it is closed")
        try:
            return await doing()
        except StorageTrouble as trouble:
            problem: TwdmError = OutboxFailed(
                path=self.storage.address, problem=trouble.problem, is_unsure=trouble.is_unsure
            )
        except Exception as error:  # noqa: BLE001 - an unexpected error is a bug, and reported as one
            problem = mistake(error)
        raise problem

    def do_soon(self, work: Callable[[Rows], object], then: Callable[[], object]) -> None:
        """Do `work` in one transaction without waiting for it; call `then` if it succeeded. Both run in the storage's
        thread, even if the event loop ends.
        """

        def job() -> None:
            with contextlib.suppress(Exception):  # callers do the work again if it must not be lost
                self.storage.transact(self._with_rows(work), is_durable=True)
                then()

        self.storage.put(job)

    async def stay_alive(self) -> None:
        """Record that this process is alive, for other processes to see.

        Raises:
            OutboxFailed: the file or database could not be written.
        """
        await self.do(lambda rows: self.storage.stay_alive(rows.transaction))

    async def take_turn(self, name: str) -> bool:
        """Take the turn called `name`, which one process at a time can have; return whether this process has it."""
        return await self.do(lambda rows: self.storage.take_turn(rows.transaction, name))

    async def sweep(self) -> None:
        """Remove what ended processes have left behind."""
        await self.do(lambda rows: self.storage.sweep(rows.transaction))

    def _with_rows(self, work: Callable[[Rows], T]) -> Callable[[Transaction], T]:
        return lambda transaction: work(Rows(transaction, self._account))

    def tell(self, *, is_more: bool = True) -> None:
        """Wake the tasks that wait for news, since something has changed.

        Args:
            is_more: whether there may be more to send than before.
        """
        self.news.set()
        self.news = asyncio.Event()
        if is_more:
            self.more.set()
            self.more = asyncio.Event()

    async def watch(self, every: float, at_least_every: float) -> None:
        """Call :meth:`tell` when another process has changed something, and now and then; do not return.

        Args:
            every: seconds between two looks.
            at_least_every: seconds after which waiting tasks are woken even if nothing has changed.
        """
        told_at, stop_listening = self._clock.monotonic(), self.storage.listen(self.tell)
        try:
            while True:
                await asyncio.sleep(every)
                version = await self.storage.submit(self.storage.version)
                if version != self._version or self._clock.monotonic() - told_at >= at_least_every:
                    self._version, told_at = version, self._clock.monotonic()
                    self.tell()
        finally:
            stop_listening()

    async def close(self) -> None:
        """Wake all waiting tasks, and close the storage."""
        self._is_closed = True
        self.tell()
        await self.storage.close()


async def woken(news: asyncio.Event, within: float) -> None:
    """Wait until `news` is set, for at most `within` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await news.wait()
