"""Where an outbox keeps its messages, for all its parts: transactions over rows, and a bell for those who wait."""

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
    from twdm_async.storage.contract import Storage, Transaction

T = TypeVar("T")


class Messages:
    """The messages of `account`.

    Args:
        storage: where they are.
        account: whose messages.
        clock: this machine's.
    """

    def __init__(self, storage: Storage, account: str, clock: Clock) -> None:
        self.storage = storage
        self._account = account
        self._clock = clock
        self._is_closed = False
        self._version = 0
        self.news = asyncio.Event()
        """Set, and replaced by another one, when something has changed."""
        self.more = asyncio.Event()
        """The same for changes after which there may be more to send."""

    @property
    def owner(self) -> str:
        """The name under which this process works on messages."""
        return self.storage.owner

    async def do(self, work: Callable[[Rows], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        """Do `work` in one transaction.

        Args:
            work: gets the rows.
            is_durable: whether it must be on the disk when this returns.
            only_reads: whether it changes nothing.

        Raises:
            OutboxFailed: nothing was changed, unless it says so.
        """
        if only_reads:
            return await self._told(lambda: self.storage.read(self._with_rows(work)))
        return await self._told(lambda: self.storage.change(self._with_rows(work), is_durable=is_durable))

    async def put(self, new: NewMessage) -> Entry | InvalidInput:
        """Keep a message, together with all that is put at this moment.

        Raises:
            OutboxFailed: it was not kept, unless it says so.
        """
        work = self._with_rows(lambda rows: rows.put(new))
        entry = await self._told(lambda: self.storage.change_together(work, is_durable=True))
        self.tell()
        return entry

    async def _told(self, doing: Callable[[], Awaitable[T]]) -> T:
        """Tell what went wrong in the outbox' words."""
        if self._is_closed:
            raise OutboxFailed(path=self.storage.address, problem="it is closed")
        try:
            return await doing()
        except StorageTrouble as trouble:
            problem: TwdmError = OutboxFailed(
                path=self.storage.address, problem=trouble.problem, is_unsure=trouble.is_unsure
            )
        except Exception as error:  # noqa: BLE001 - nobody could have expected it
            problem = mistake(error)
        raise problem

    def do_soon(self, work: Callable[[Rows], object], then: Callable[[], object]) -> None:
        """Do `work` in one transaction without waiting for it, and `then` if it was done. Both run in the storage's
        thread, also if the loop ends.
        """

        def job() -> None:
            with contextlib.suppress(Exception):  # who needs it does it again
                self.storage.transact(self._with_rows(work), is_durable=True)
                then()

        self.storage.put(job)

    async def stay_alive(self) -> None:
        """See that the others know that this process lives.

        Raises:
            OutboxFailed: they cannot know it.
        """
        await self.do(lambda rows: self.storage.stay_alive(rows.transaction))

    async def take_turn(self, name: str) -> bool:
        """Be the only one of all processes who does what is called `name`, if nobody else does it now."""
        return await self.do(lambda rows: self.storage.take_turn(rows.transaction, name))

    async def sweep(self) -> None:
        """Remove what processes left behind that have ended."""
        await self.do(lambda rows: self.storage.sweep(rows.transaction))

    def _with_rows(self, work: Callable[[Rows], T]) -> Callable[[Transaction], T]:
        return lambda transaction: work(Rows(transaction, self._account))

    def tell(self, *, is_more: bool = True) -> None:
        """Something has changed: wake those who wait for news.

        Args:
            is_more: whether there may be more to send than before.
        """
        self.news.set()
        self.news = asyncio.Event()
        if is_more:
            self.more.set()
            self.more = asyncio.Event()

    async def watch(self, every: float, at_least_every: float) -> None:
        """Tell, for ever, what other processes change, or that time passes.

        Args:
            every: seconds between two looks.
            at_least_every: seconds after which those who wait are woken whatever happened.
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
        """Let go of them."""
        self._is_closed = True
        self.tell()
        await self.storage.close()


async def woken(news: asyncio.Event, within: float) -> None:
    """Wait until there is news, for so many seconds at the most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await news.wait()
