"""What a limiter asks of the place where the book is kept: operations on it, each all or nothing.

A store may be shared by several clients, processes or hosts; what they share is then one count. A
:class:`~twdm_async.quota.operations.Take` is answered. Notes, which are all the others, are not awaited: a store that
has to talk to something keeps them in order, and if one is lost, the slot it was about counts until its lease and a
window are over.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from twdm_async._forks import forks
from twdm_async._numbers import checked_part
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.operations import Settle

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async._clock import Clock
    from twdm_async.quota.operations import Answer, Note, Recipient, Slot, Take, Terms
    from twdm_async.quota.standing import Standing
    from twdm_async.storage.postgres.database import PostgresDatabase


class QuotaStore(ABC):
    """Keeps the book of any number of apps.

    Share one among all clients that spend the same quotas: :class:`MemoryQuotaStore` serves one process,
    :class:`SQLiteQuotaStore` one host, :class:`RedisQuotaStore` and :class:`PostgresQuotaStore` many. To write another,
    subclass :class:`~twdm_async.quota.store.transactional.TransactionalQuotaStore`.

    A store belongs to one event loop at a time. Loops that run side by side, in threads, need one each.

    Args:
        clock: where time comes from.
        assume_spent: at the first start nothing is known of what was spent before, by whomever. This part of each
            quota, 0 to less than 1, is then taken as spent until its window is over, rounded up. 0 trusts that nothing
            was.

    Raises:
        InvalidInput: `assume_spent` is not such a part.
    """

    is_shared: ClassVar = True
    """Whether other processes may give slots back, too."""
    place: Path | PostgresDatabase | None = None
    """Where its tables are, if it has some. What is written for an outbox there goes along with the slots."""
    _schemes: ClassVar[dict[str, type[QuotaStore]]] = {}

    def __init_subclass__(cls, *, schemes: tuple[str, ...] = ()) -> None:
        super().__init_subclass__()
        QuotaStore._schemes |= dict.fromkeys(schemes, cls)

    def __init__(self, *, clock: Clock, assume_spent: float = 0.0) -> None:
        self.clock = clock
        self.assume_spent = checked_part(assume_spent, "assume_spent")
        self.dispatchers: dict[tuple[str, str, Any], Any] = {}
        """The wait queues of this loop, by app, endpoint family and quotas of the app."""
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that uses it
        self._forks: int | None = None  # None until it is used
        self.is_closed = False
        """Whether it cannot be used any more."""

    def bind_loop(self) -> None:
        """Bind the store to the running loop, and to this process. To be called before each use.

        Raises:
            QuotaStoreFailed: the store is closed, or another loop uses it.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._forks == forks():
            return
        is_new_process, problem = self._forks != forks(), None
        if self.is_closed:
            problem = "it is closed; close it after the clients that use it"
        elif is_new_process and self._forks is not None and not self.is_shared:
            problem = (
                "it was used before this process was forked, and two processes cannot count together in memory; make "
                "the client after the fork, or share a SQLiteQuotaStore"
            )
        elif not is_new_process and self._loop is not None and self._loop.is_running():
            problem = (
                "it is in use in another event loop; make one for each loop (those of one SQLite file or one Redis "
                "still count together)"
            )
        if problem is not None:
            raise QuotaStoreFailed(store=self.address, problem=problem)
        self._begin_in_loop(is_new_process=is_new_process)
        self._loop, self._forks, self.dispatchers = loop, forks(), {}

    def _begin_in_loop(self, *, is_new_process: bool) -> None:  # noqa: B027 - a store may have nothing of the kind
        """Drop what belongs to the loop, and maybe to the process, that used the store before."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Which store it is, for errors and logs; never with a password."""

    @staticmethod
    def from_url(url: str, *, assume_spent: float = 0.0, clock: Clock | None = None) -> QuotaStore:
        """Open the store at `url`.

        Args:
            url: ``memory://``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``,
                ``postgresql://user@host:port/database``, ``redis://host:port/db``, ``rediss://...``, ``unix://...``,
                ``redis+cluster://...`` or ``rediss+cluster://...``.
            assume_spent: what to believe at the first start; see :class:`QuotaStore`.
            clock: where time comes from; the machine's own if not given.

        Raises:
            InvalidInput: there is no store of this kind, or it needs an extra that is not installed.
        """
        for name in ("memory", "tables", "redis"):  # each names its schemes when it is imported
            importlib.import_module(f"twdm_async.quota.store.{name}")
        scheme = url.partition("://")[0] if isinstance(url, str) else ""
        store = QuotaStore._schemes.get(scheme)
        if store is None:
            kinds = ", ".join(QuotaStore._schemes)
            problem = f"must be like sqlite:///quota.db, and begin with one of {kinds}"
            raise InvalidInput(parameter="url", problem=problem)
        return store._at(url, assume_spent, clock)  # noqa: SLF001 - of its own kind

    @classmethod
    def _at(cls, url: str, assume_spent: float, clock: Clock | None) -> Self:
        """Open the store at `url`, whose scheme is one of its own."""
        raise NotImplementedError

    # fmt: off
    def take_one(self, terms: Terms, recipient: Recipient | None, loop: asyncio.AbstractEventLoop) -> Slot | None:  # noqa: ARG002
        """Take one slot, for a message to `recipient` or for something else, if that can be done at once in the running
        `loop`; else return None, and :meth:`ask` must be used, as of most stores.
        """
        return None
    # fmt: on

    @abstractmethod
    def ask(self, take: Take) -> Answer | asyncio.Future[Answer]:
        """Answer `take`, at once or by a future that has the answer or an exception. A future may not be cancelled.

        Raises:
            QuotaStoreFailed: it cannot be known what is spent, or not be kept.
        """

    @abstractmethod
    def note(self, note: Note) -> None:
        """Keep `note`, some time."""

    def settle(self, slot: Slot, grace: float, made: float | None = None, message_id: str | None = None) -> None:
        """Note what :class:`~twdm_async.quota.operations.Settle` says."""
        self.note(Settle(slot, grace, made, message_id))

    @abstractmethod
    def standings(self, terms: Terms) -> list[Standing]:
        """Tell how each quota stands for requests on these terms, as this process last knew."""

    @abstractmethod
    async def flush(self) -> None:
        """Wait until everything that was noted is kept, or cannot be."""

    async def close(self) -> None:
        """Let go of files and connections. What was noted is kept first. A closed store cannot be used again."""
        await self.flush()
        self.is_closed, self._loop = True, None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
