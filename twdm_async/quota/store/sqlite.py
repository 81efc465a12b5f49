"""The book in a file: it survives a restart, and all processes of one machine may share it.

Time in the file never steps back, and never runs ahead of the machine's uptime: each transaction adds what has passed
since the last one, by the uptime or by the wall clock, whichever says less; or by the uptime alone, if the wall clock
was set back. So setting it, forward or back, frees no slot. After a reboot only the wall clock knows how long it took.

What was taken is written before its request leaves, so it survives the death of the process. It is forced to the disk
within a second, so a power cut may take with it what was spent in the last one; what was taken for a message of an
outbox in the same file is forced there at once, together with the message's new state.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.book import Book
from twdm_async.quota.ledger import Ledger, window
from twdm_async.quota.operations import GiveBack, Granted, Take
from twdm_async.quota.store.transactional import TransactionalQuotaStore
from twdm_async.state_file import FileTrouble, Schema, StateFile, checked_path

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from twdm_async.quota.operations import Answer, Note
    from twdm_async.quota.store.transactional import Batch

_SYNC_WITHIN: Final = 1.0  # seconds
_LONG_AGO: Final = -1e12
_IF_BAD: Final = (
    "move it away, and if you do not know what was spent in the last window, "
    "begin with a store that has assume_spent set"
)


def _make_book(db: sqlite3.Connection) -> None:
    """Make the tables, and take into them what the tables of slots have that earlier versions made."""
    earlier = db.execute("SELECT 1 FROM sqlite_master WHERE name IN ('clock', 'bucket', 'slot')").fetchone()
    db.execute("CREATE TABLE book (now REAL NOT NULL, uptime REAL NOT NULL, wall REAL NOT NULL, since REAL NOT NULL)")
    db.execute(
        "CREATE TABLE page (app TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (app, name)) "
        "WITHOUT ROWID"
    )
    if earlier is None:
        db.execute("INSERT INTO book VALUES (0, 0, 0, CAST(strftime('%s', 'now') AS REAL))")
        return
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
SCHEMA: Final = Schema("quota", ("", "", "", _make_book), earlier=(1, 1, 2, 2))


class SQLiteQuotaStore(TransactionalQuotaStore, schemes=("sqlite",)):
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
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self._path = checked_path(path)
        self._file = StateFile(self._path, SCHEMA, "what was spent", _IF_BAD)
        self._sync_timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        return f"sqlite:///{self._path}"

    @classmethod
    def _at(cls, url: str, assume_spent: float) -> Self:
        parts = urlsplit(url)
        if parts.netloc or parts.query or parts.fragment or len(parts.path) <= 1:
            raise InvalidInput(
                parameter="url", problem="must be sqlite:///relative/path or sqlite:////absolute/path and nothing else"
            )
        return cls(unquote(parts.path.removeprefix("/")), assume_spent=assume_spent)

    def shares(self, path: Path) -> bool:
        return path.resolve() == self._path.resolve()

    async def close(self) -> None:
        await super().close()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        await self._file.close()

    def _begin_in_loop(self, *, is_new_process: bool) -> None:
        super()._begin_in_loop(is_new_process=is_new_process)
        self._sync_timer = None
        if is_new_process:
            self._file.leave_behind()

    async def commit(self, batch: Batch) -> None:
        if self._sync_timer is None:
            self._sync_timer = asyncio.get_running_loop().call_later(_SYNC_WITHIN, self._sync_soon)
        batch.is_unsure = True  # whoever waits here may be cancelled, and the file's thread goes on
        batch.outcome = self._file.submit(lambda: self._transact(batch))
        try:
            now, book = await asyncio.shield(batch.outcome)
        except FileTrouble as trouble:
            batch.is_unsure = False
            raise QuotaStoreFailed(store=self.address, problem=trouble.problem) from None
        except Exception:
            batch.is_unsure = False
            raise
        batch.is_unsure = False
        self._show(batch.app, now, book)

    async def was_committed(self, batch: Batch) -> bool:
        try:
            await asyncio.shield(batch.outcome)
        except Exception:  # noqa: BLE001 - whatever it was, it was rolled back
            return False
        return True

    def _sync_soon(self) -> None:
        self._sync_timer = None
        self._file.sync_soon()

    def _transact(self, batch: Batch) -> tuple[float, Book]:
        """Apply the operations of `batch` in one transaction. To be called in the file's own thread."""
        is_durable = any(isinstance(operation, Take) and operation.intent for operation in batch.operations)
        return self._file.transact(lambda db: self._apply(db, batch), is_durable=is_durable)

    def _apply(self, db: sqlite3.Connection, batch: Batch) -> tuple[float, Book]:
        found = db.execute("SELECT now, uptime, wall, since FROM book").fetchone()
        if found is None:
            raise sqlite3.DatabaseError("the book's clock is missing")
        *clocks, since = found
        uptime, wall = self.clock.uptime(), self.clock.wall()
        now = advanced(*clocks, uptime=uptime, wall=wall)
        book, query = Book(since, self.assume_spent), "SELECT content FROM page WHERE app = ? AND name = ?"
        rows = {name: db.execute(query, (batch.app, name)).fetchone() for name in batch.pages}
        book.load({name: row[0] for name, row in rows.items() if row})
        batch.answers = [_applied(db, book, operation, now) for operation in batch.operations]
        pages = [(batch.app, name, text) for name, text in book.changes().items()]
        db.executemany("INSERT OR REPLACE INTO page VALUES (?, ?, ?)", pages)
        db.execute("UPDATE book SET now = ?, uptime = ?, wall = ?", (now, uptime, wall))
        return now, book


def advanced(now: float, last_uptime: float, last_wall: float, *, uptime: float, wall: float) -> float:
    """Return what the file's clock, which showed `now` at the last uptime and wall time, shows at these."""
    by_uptime, by_wall = uptime - last_uptime, wall - last_wall
    if by_uptime < 0:  # the machine was started anew
        return now + max(0.0, by_wall)
    if by_wall < 0:  # the wall clock was set back
        return now + by_uptime
    return now + min(by_uptime, by_wall)


def _applied(db: sqlite3.Connection, book: Book, operation: Take | Note, now: float) -> Answer:
    """Apply `operation`, and write or withdraw what goes with its slot."""
    answer = book.apply(operation, now)
    if isinstance(operation, Take) and operation.intent is not None and isinstance(answer, Granted):
        if operation.intent.write(db):
            answer.slot.intent = operation.intent
    elif isinstance(operation, GiveBack) and operation.about.intent is not None:
        operation.about.intent.withdraw(db)
    return answer
