"""The contract of a quota store: it carries out a limiter's operations on the book, each of them all or nothing.

If several clients, processes or hosts share a store, their requests are counted together. The store answers each
:class:`~twdm_async.quota.operations.Take`. All other operations are notes, and nobody waits for them: a store that
talks to a disk or a server carries them out in order, and if a note is lost, its slot counts until its lease and a
window are over.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from twdm_async._forks import this_process
from twdm_async._numbers import checked_part
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.operations import Settle

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async._clock import Clock
    from twdm_async.quota.operations import Answer, Note, Slot, Take, Terms
    from twdm_async.quota.standing import Standing
    from twdm_async.storage.postgres.database import PostgresDatabase


class QuotaStore(ABC):
    """A place that keeps the books of any number of apps: it remembers what was spent.

    All clients that spend the same quotas must share a store: :class:`MemoryQuotaStore` serves one process,
    :class:`SQLiteQuotaStore` one host, :class:`RedisQuotaStore` and :class:`PostgresQuotaStore` many hosts. To write
    another kind of store, subclass :class:`~twdm_async.quota.store.transactional.TransactionalQuotaStore`.

    A store belongs to one event loop at a time. Event loops that run side by side, in threads, need a store each.

    Args:
        clock: the source of time.
        assume_spent: the part of each quota, 0 to less than 1 and rounded up to whole requests, that counts as spent
            until the quota's window is over when the store is used for the first time. What was spent before then is
            not known; 0 assumes that nothing was.

    Raises:
        InvalidInput: `assume_spent` is not a number from 0 to less than 1.
    """

    is_shared: ClassVar[bool] = True
    """Whether several processes can count together in this store."""
    place: Path | PostgresDatabase | None = None
    """The file or database of its tables, if it has tables. The changes of an outbox in the same place are committed
    together with the slots."""
    _schemes: ClassVar[dict[str, type[QuotaStore]]] = {}

    def __init_subclass__(cls, *, schemes: tuple[str, ...] = ()) -> None:
        super().__init_subclass__()
        QuotaStore._schemes |= dict.fromkeys(schemes, cls)

    def __init__(self, *, clock: Clock, assume_spent: float = 0.0) -> None:
        self.clock = clock
        self.assume_spent: float = checked_part(assume_spent, "assume_spent")
        self.dispatchers: dict[tuple[str, str, Any], Any] = {}
        """The wait queues of this loop, by app, endpoint family and the app's quotas."""
        self._loop: asyncio.AbstractEventLoop | None = None  # the loop that uses the store
        self._forks: int | None = None  # None until the store is used
        self.is_closed: bool = False
        """Whether the store is closed and cannot be used any more."""

    def bind_loop(self) -> None:
        """Bind the store to the running event loop and to this process. Call this before each use of the store.

        Raises:
            QuotaStoreFailed: the store is closed, another running event loop uses it, or it keeps its book in memory
                and was used before this process was forked.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._forks == this_process.forks:
            return
        is_new_process, problem = self._forks != this_process.forks, None
        if self.is_closed:
            problem = "it is closed; close it after the clients that use it"
        elif is_new_process and self._forks is not None and not self.is_shared:
            problem = (
                "it was used before this process was forked, and two processes cannot count together in memory; create "
                "the client after the fork, or share a SQLiteQuotaStore"
            )
        elif not is_new_process and self._loop is not None and self._loop.is_running():
            problem = (
                "it is in use in another event loop; create a store for each loop (stores on one SQLite file, Redis "
                "server or PostgreSQL database still count together)"
            )
        if problem is not None:
            raise QuotaStoreFailed(store=self.address, problem=problem)
        self._begin_in_loop(is_new_process=is_new_process)
        self._loop, self._forks, self.dispatchers = loop, this_process.forks, {}

    def _begin_in_loop(self, *, is_new_process: bool) -> None:  # noqa: B027 - a store may have nothing to drop
        """Drop what belongs to the event loop that used the store before; after a fork, also what belongs to the parent
        process.
        """

    @property
    @abstractmethod
    def address(self) -> str:
        """The address of the store, for errors and logs; never with a password."""

    @staticmethod
    def from_url(url: str, *, assume_spent: float = 0.0, clock: Clock | None = None) -> QuotaStore:
        """Open the store at `url`.

        Args:
            url: ``memory://``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``,
                ``postgresql://user@host:port/database``, ``redis://host:port/db``, ``rediss://...``, ``unix://...``,
                ``redis+cluster://...`` or ``rediss+cluster://...``.
            assume_spent: the part of each quota that counts as spent at the first use; see :class:`QuotaStore`.
            clock: the source of time; the machine's clock by default.

        Raises:
            InvalidInput: `url` has none of these forms, or the store needs an extra that is not installed.
        """
        for name in ("memory", "tables", "redis"):  # each registers its schemes when it is imported
            importlib.import_module(f"twdm_async.quota.store.{name}")
        scheme = url.partition("://")[0] if isinstance(url, str) else ""
        store = QuotaStore._schemes.get(scheme)
        if store is None:
            kinds = ", ".join(QuotaStore._schemes)
            problem = f"must be like sqlite:///quota.db, and begin with one of {kinds}"
            raise InvalidInput(parameter="url", problem=problem)
        return store._at(url, assume_spent, clock)  # noqa: SLF001 - a method of a subclass

    @classmethod
    def _at(cls, url: str, assume_spent: float, clock: Clock | None) -> Self:
        """Open the store at `url`, whose scheme is one of this class's."""
        raise NotImplementedError

    # fmt: off
    def take_one(self, terms: Terms, recipient: str | None, loop: asyncio.AbstractEventLoop) -> Slot | None:  # noqa: ARG002
        """Take one slot, for a message to `recipient` if there is one, if that can be done at once in the running
        `loop`. Otherwise return None, as most stores always do; the caller must use :meth:`ask` then.
        """
        return None
    # fmt: on

    @abstractmethod
    def ask(self, take: Take) -> Answer | asyncio.Future[Answer]:
        """Answer `take`, at once or by a future that gets the answer or an exception. The caller must not cancel the
        future.

        Raises:
            QuotaStoreFailed: the store cannot tell what is spent, or cannot record it.
        """

    @abstractmethod
    def note(self, note: Note) -> None:
        """Record `note`, now or later."""

    def settle(self, slot: Slot, grace: float, made: float | None = None, message_id: str | None = None) -> None:
        """Record a :class:`~twdm_async.quota.operations.Settle` of `slot` with these values."""
        self.note(Settle(slot, grace, made, message_id))

    @abstractmethod
    def standings(self, terms: Terms) -> list[Standing]:
        """Tell how each quota stands for requests on these terms, as far as this process knows."""

    @abstractmethod
    async def flush(self) -> None:
        """Wait until every note is recorded, or has failed to be."""

    async def close(self) -> None:
        """Record all notes, then close files and connections. A closed store cannot be used again."""
        await self.flush()
        self.is_closed, self._loop = True, None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
