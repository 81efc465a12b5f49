"""The book in tables: it survives a restart, and all who use the same tables share it.

The tables are in a file of this machine (:class:`SQLiteQuotaStore`), or in a PostgreSQL database of many
(:class:`PostgresQuotaStore`); what is done in a transaction is the same.

Time in the book never steps back, and never runs ahead of the uptime: each transaction adds what has passed since the
last one, by the uptime or by the wall clock, whichever says less; or by the uptime alone, if the wall clock was set
back. So setting a clock, forward or back, frees no slot. After a reboot only the wall clock knows how long it took.

What was taken is written before its request leaves, so it survives the death of the process. In a file, it is forced to
the disk within a second, so a power cut may take with it what was spent in the last one; what was taken for a message
of an outbox in the same file is forced there at once, together with the message's new state.
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
"""The page, of no app, that says until when nothing is known of what has no page, since the database went back."""

_SYNC_WITHIN: Final = 1.0  # seconds
_LONG_AGO: Final = -1e12
_SAVE: Final = "INSERT INTO page VALUES (?, ?, ?) ON CONFLICT (app, name) DO UPDATE SET content = excluded.content"
_IF_BAD: Final = (
    "move it away, and if you do not know what was spent in the last window, "
    "begin with a store that has assume_spent set"
)


def _take_in_slots(db: sqlite3.Connection) -> None:
    """Take into the book what the tables of slots have that earlier versions made."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name IN ('clock', 'bucket', 'slot')").fetchone() is None:
        return
    db.execute("DELETE FROM book")
    # Of what people wrote just now, the answers are forgotten; and this machine's clock may be behind.
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


# Versions 1 and 2 had tables of slots; the third was never released.
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
    earlier=(1, 1, 2, 2),
    upgrades={3: _take_in_slots},
)


class _TablesQuotaStore(TransactionalQuotaStore):
    """A store in tables.

    Args:
        place: of the tables.
        clock: where time comes from; the machine's own if not given.
        assume_spent: what to believe of a quota that the tables do not know yet; see :class:`QuotaStore`.
    """

    def __init__(self, place: Path | PostgresDatabase, clock: Clock | None, assume_spent: float) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self.place = place
        self._storage = open_storage(place, SCHEMA, "what was spent", _IF_BAD, self.clock)
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
        batch.is_unsure = True  # whoever waits here may be cancelled, and the storage's thread goes on
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
        except Exception:  # noqa: BLE001 - whatever it was, it was rolled back
            return False
        return True

    def _sync_soon(self) -> None:
        self._sync_timer = None
        self._storage.sync_soon()

    def _transact(self, batch: Batch) -> tuple[float, Book]:
        """Apply the operations of `batch` in one transaction. To be called in the storage's own thread."""
        is_durable = any(isinstance(operation, Take) and operation.intent for operation in batch.operations)
        written: list[tuple[Slot, Intent, Cursor]] = []

        def work(transaction: Transaction) -> tuple[float, Book]:
            written.clear()
            return self._apply(transaction, batch, written)

        outcome = self._storage.transact(work, is_durable=is_durable)
        for slot, intent, cursor in written:  # only now, so that a server is not waited for after each
            slot.intent = intent if cursor.rowcount > 0 else None  # below 0, that is not known
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
            raise StorageTrouble(f"the book's clock is missing; {_IF_BAD}")
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
            # It has waited for this transaction, too; but the clock of a database is another one.
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
    """Serves the processes of one machine, and survives restarts. The file is readable by its owner alone.

    It must lie on a disk of this machine: locks do not hold on network file systems.

    Args:
        path: of the file. It is made if it is not there; its folder must be. An outbox may live in it, too.
        clock: where time comes from; the machine's own if not given.
        assume_spent: what to believe of a quota that the file does not know yet; see :class:`QuotaStore`.

    Raises:
        InvalidInput: `path` is not a path.
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
    """Serves many hosts, and survives the restart of all of them. Needs the extra ``postgres``.

    An outbox in the same database writes a message's new state in the transaction in which its slot is taken.

    Args:
        database: its URL, or a :class:`~twdm_async.PostgresDatabase`.
        clock: this machine's; what time it is, the database tells.
        assume_spent: what to believe of a quota that the database does not know yet; see :class:`QuotaStore`.

    Raises:
        InvalidInput: the URL is wrong, or the extra is not installed.
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
