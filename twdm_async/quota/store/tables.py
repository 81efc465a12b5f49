"""Quota stores in database tables: the book survives a restart, and all processes that use the same tables share it.

The tables are in a SQLite file on this machine (:class:`SQLiteQuotaStore`), or in a PostgreSQL database that many hosts
use (:class:`PostgresQuotaStore`). Both carry out the same transactions.

The time in the book never steps back, and never runs ahead of the uptime: each transaction adds the time since the last
one, by the uptime or by the wall clock, whichever is less; or by the uptime alone if the wall clock was set back. So
setting a clock, forward or back, frees no slot. After a reboot, only the wall clock tells how much time has passed.

A slot is written before its request leaves, so it survives the death of the process. In a file, it is forced to the
disk within a second, so a power cut may lose what was spent in the last second. A slot for a message of an outbox in
the same file is forced to the disk at once, together with the message's new state.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.book import Book
from twdm_async.quota.ledger import Ledger, window
from twdm_async.quota.operations import GiveBack, Granted, Take
from twdm_async.quota.store.transactional import TransactionalQuotaStore
from twdm_async.storage.contract import Schema, StorageTrouble, passed
from twdm_async.storage.places import checked_place, open_storage
from twdm_async.storage.postgres.database import PostgresDatabase
from twdm_async.storage.sqlite import checked_path

if TYPE_CHECKING:
    import os
    import sqlite3
    from pathlib import Path

    from twdm_async.quota.operations import Intent, Slot
    from twdm_async.quota.store.transactional import Batch
    from twdm_async.storage.contract import Cursor, Transaction

HELD: Final = ("", "held")
"""The key of the page, which belongs to no app, that says until when buckets without a page are held: after the
database lost what was committed last, nothing is known of them."""

_SYNC_WITHIN: Final = 1.0  # seconds
_LONG_AGO: Final = -1e12
_SAVE: Final = "INSERT INTO page VALUES (?, ?, ?) ON CONFLICT (app, name) DO UPDATE SET content = excluded.content"


def _take_in_slots(db: sqlite3.Connection) -> None:
    """Move into the book what earlier versions kept in their tables of slots."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name IN ('clock', 'bucket', 'slot')").fetchone() is None:
        return
    db.execute("DELETE FROM book")
    # Which replies were sent is forgotten, so messages that people wrote until now open no credit. The 600 seconds are
    # for a clock of this machine that is slow.
    db.execute("INSERT INTO book SELECT now, uptime, wall, strftime('%s', 'now') + 600.0 FROM clock")
    for number, full_name, held_until, longest in db.execute("SELECT id, name, held_until, longest FROM bucket"):
        ledger, (app, _, name) = Ledger(), full_name.partition(" ")
        if longest > 0:
            ledger.keep(round(longest / window(1.0), 6), _LONG_AGO)
        for seen, in_flight in db.execute("SELECT seen, in_flight FROM slot WHERE bucket = ?", (number,)):
            ledger.take(seen)
            if not in_flight:
                ledger.settle(seen, seen)
        others = db.execute("SELECT slots, until - per FROM spent_by_others WHERE bucket = ?", (number,)).fetchall()
        for slots, seen in others:
            ledger.take(seen, slots)
        ledger.hold(held_until)
        db.execute("INSERT INTO page VALUES (?, ?, ?)", (app, name, json.dumps(ledger.as_json())))
    for table in ("clock", "bucket", "slot", "spent_by_others", "conversation", "noted_since"):
        db.execute(f"DROP TABLE IF EXISTS {table}")


# Versions 1 and 2 had tables of slots; version 3 was never released.
SCHEMA: Final = Schema(
    "quota",
    (
        "",
        "",
        "",
        """
        CREATE TABLE book (now REAL NOT NULL, uptime REAL NOT NULL, wall REAL NOT NULL, since REAL NOT NULL);
        CREATE TABLE page (
            app TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (app, name)
        ) WITHOUT ROWID;
        INSERT INTO book VALUES (0, 0, 0, CAST(strftime('%s', 'now') AS REAL))
        """,
    ),
    content="what was spent",
    advice="move it away, and if you do not know what was spent in the last window, begin with a store that has "
    "assume_spent set",
    earlier=(1, 1, 2, 2),
    upgrades={3: _take_in_slots},
)


class _TablesQuotaStore(TransactionalQuotaStore):
    """A quota store in tables.

    Args:
        place: the file or database of the tables.
        clock: the source of time; the machine's clock by default.
        assume_spent: the part of a quota that counts as spent if the tables do not know the quota yet; see
            :class:`QuotaStore`.
    """

    def __init__(self, place: Path | PostgresDatabase, clock: Clock | None, assume_spent: float) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self.place: Path | PostgresDatabase | None = place
        self._storage = open_storage(place, SCHEMA, self.clock)
        self._sync_timer: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        await super().close()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        await self._storage.close()
        self._storage.release()

    def _begin_in_loop(self, *, is_new_process: bool) -> None:
        super()._begin_in_loop(is_new_process=is_new_process)
        self._sync_timer = None
        if is_new_process:
            self._storage.leave_behind()

    async def commit(self, batch: Batch) -> None:
        if self._sync_timer is None:
            self._sync_timer = asyncio.get_running_loop().call_later(_SYNC_WITHIN, self._sync_soon)
        batch.is_unsure = True  # this task may be cancelled while it waits, and the storage's thread goes on
        batch.outcome = self._storage.submit(lambda: self._transact(batch))
        try:
            now, book = await asyncio.shield(batch.outcome)
        except StorageTrouble as trouble:
            batch.is_unsure = trouble.is_unsure
            raise QuotaStoreFailed(store=self.address, problem=trouble.problem) from None
        except Exception:
            batch.is_unsure = False
            raise
        batch.is_unsure = False
        self._show(batch.app, now, book)

    async def was_committed(self, batch: Batch) -> bool | None:
        try:
            await asyncio.shield(batch.outcome)
        except StorageTrouble as trouble:
            return None if trouble.is_unsure else False
        except Exception:  # noqa: BLE001 - whatever the error is, the transaction was rolled back
            return False
        return True

    def _sync_soon(self) -> None:
        self._sync_timer = None
        self._storage.sync_soon()

    def _transact(self, batch: Batch) -> tuple[float, Book]:
        """Apply the operations of `batch` in one transaction. Call this in the storage's own thread."""
        is_durable = any(isinstance(operation, Take) and operation.intent for operation in batch.operations)
        written: list[tuple[Slot, Intent, Cursor]] = []

        def work(transaction: Transaction) -> tuple[float, Book]:
            written.clear()
            return self._apply(transaction, batch, written)

        outcome = self._storage.transact(work, is_durable=is_durable)
        for slot, intent, cursor in written:  # only now, to wait for the server once and not after each statement
            slot.intent = intent if cursor.rowcount > 0 else None  # below 0: how many rows changed is not known
        return outcome

    def _apply(
        self, transaction: Transaction, batch: Batch, written: list[tuple[Slot, Intent, Cursor]]
    ) -> tuple[float, Book]:
        places = ", ".join("?" * len(batch.pages))
        query = f"SELECT name, content FROM page WHERE app = ? AND name IN ({places}) OR app = ? AND name = ?"  # noqa: S608 - question marks
        clock = transaction.execute("SELECT now, uptime, wall, since FROM book")
        pages = transaction.execute(query, (batch.app, *batch.pages, *HELD))
        found = clock.fetchone()
        if found is None:
            raise StorageTrouble(f"the book's clock is missing; {SCHEMA.advice}")
        now, last_uptime, last_wall, since = found
        uptime, wall = transaction.uptime, transaction.wall
        now += passed(last_wall, last_uptime, wall, uptime)
        book = Book(since, self.assume_spent)
        found_pages = dict(pages.fetchall())
        held_until = float(found_pages.pop(HELD[1], 0.0))
        book.load(found_pages)
        if held_until > now:
            book.hold_unknown(batch.pages, held_until)
        batch.answers = []
        for operation in batch.operations:
            # The note has waited for this transaction, too, by a clock that a file's transaction shares with it. A
            # remote database has another clock.
            if not self._storage.is_remote and not isinstance(operation, Take):
                operation.age = uptime - operation.noted_at
            answer = book.apply(operation, now)
            batch.answers.append(answer)
            if isinstance(operation, Take) and operation.intent is not None and isinstance(answer, Granted):
                written.append((answer.slot, operation.intent, operation.intent.write(transaction)))
            elif isinstance(operation, GiveBack) and operation.about.intent is not None:
                operation.about.intent.withdraw(transaction)
        transaction.executemany(_SAVE, [(batch.app, name, text) for name, text in book.changes().items()])
        transaction.execute("UPDATE book SET now = ?, uptime = ?, wall = ?", (now, uptime, wall))
        return now, book


class SQLiteQuotaStore(_TablesQuotaStore, schemes=("sqlite",)):
    """A quota store in a SQLite file, for the processes of one machine. It survives restarts.

    The file must lie on a disk of this machine: locks do not hold on network file systems. Only its owner can read it.

    Args:
        path: the path of the file. The file is created if it is missing; its folder must exist. The file may hold an
            outbox, too.
        clock: the source of time; the machine's clock by default.
        assume_spent: the part of a quota that counts as spent if the file does not know the quota yet; see
            :class:`QuotaStore`.

    Raises:
        InvalidInput: `path` is not the path of a file, or `assume_spent` is not a number from 0 to less than 1.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None, assume_spent: float = 0.0) -> None:
        self._path = checked_path(path)
        super().__init__(self._path, clock, assume_spent)

    @property
    def address(self) -> str:
        return f"sqlite:///{self._path}"

    @classmethod
    def _at(cls, url: str, assume_spent: float, clock: Clock | None) -> Self:
        parts = urlsplit(url)
        if parts.netloc or parts.query or parts.fragment or len(parts.path) <= 1:
            raise InvalidInput(
                parameter="url", problem="must be sqlite:///relative/path or sqlite:////absolute/path and nothing else"
            )
        return cls(unquote(parts.path.removeprefix("/")), assume_spent=assume_spent, clock=clock)


class PostgresQuotaStore(_TablesQuotaStore, schemes=("postgresql", "postgres")):
    """A quota store in a PostgreSQL database, for many hosts. It survives the restart of all of them. Needs the extra
    ``postgres``.

    If an outbox uses the same database, a message's new state is written in the transaction in which its slot is taken.

    Args:
        database: a :class:`~twdm_async.PostgresDatabase`, or the URL of a database.
        clock: this machine's clock, which measures durations; the database tells the time of day.
        assume_spent: the part of a quota that counts as spent if the database does not know the quota yet; see
            :class:`QuotaStore`.

    Raises:
        InvalidInput: `database` is neither, its URL is wrong, `assume_spent` is not a number from 0 to less than 1, or
            the extra is not installed.
    """

    def __init__(
        self, database: str | PostgresDatabase, *, clock: Clock | None = None, assume_spent: float = 0.0
    ) -> None:
        place = checked_place(database)
        if not isinstance(place, PostgresDatabase):
            raise InvalidInput(parameter="database", problem="must be a PostgresDatabase, or its URL")
        super().__init__(place, clock, assume_spent)

    @property
    def address(self) -> str:
        return self._storage.address

    @classmethod
    def _at(cls, url: str, assume_spent: float, clock: Clock | None) -> Self:
        return cls(url, assume_spent=assume_spent, clock=clock)
