"""Ledgers in a file: they survive a restart, and all processes of one machine may share them.

Time in the file never steps back, and never runs ahead of the machine's uptime: each step adds what has passed since
the last one, by the uptime or by the wall clock, whichever says less; or by the uptime alone, if the wall clock was set
back. So setting it, forward or back, frees no slot. After a reboot only the wall clock knows how long it took.

What was taken is written before its request leaves, so it survives the death of the process. It is forced to the disk
within a second, so a power cut may take with it what was spent in the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import sqlite3
import stat
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import unquote, urlsplit

from attrs import define

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput
from twdm_async.quota.ledger import Usage, usage_of, window
from twdm_async.quota.store.batched import BatchedQuotaStore, refused
from twdm_async.quota.store.contract import assumed
from twdm_async.quota.store.steps import GiveBack, Hold, Look, Looked, Settle, Step, Take, Taken, Tighten

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from twdm_async.quota.spec import Quota
    from twdm_async.quota.store.contract import Bucket, Claim

T = TypeVar("T")

_APPLICATION: Final = 0x7477_646D  # "twdm", so that no other program's file is taken for one of ours
_BUSY: Final = 5.0  # seconds to wait for another process
_SYNC_WITHIN: Final = 1.0  # seconds
_MIGRATIONS: Final = (
    """
    CREATE TABLE clock (now REAL NOT NULL, uptime REAL NOT NULL, wall REAL NOT NULL);
    CREATE TABLE bucket (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, held_until REAL NOT NULL, longest REAL NOT NULL,
        slots INTEGER NOT NULL
    );
    CREATE TABLE slot (
        bucket INTEGER NOT NULL, name TEXT NOT NULL, seen REAL NOT NULL, in_flight INTEGER NOT NULL,
        PRIMARY KEY (bucket, name)
    ) WITHOUT ROWID;
    CREATE INDEX slot_by_outcome ON slot (bucket, seen, in_flight);
    CREATE TABLE spent_by_others (
        bucket INTEGER NOT NULL, per REAL NOT NULL, slots INTEGER NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (bucket, per)
    ) WITHOUT ROWID;
    INSERT INTO clock VALUES (0, 0, 0);
    """,
)
"""What makes each version of the file out of the one before; the first of them makes it out of nothing."""

_left_behind: list[sqlite3.Connection] = []  # of a process that this one was forked off; to close them would harm it


class SQLiteQuotaStore(BatchedQuotaStore, schemes=("sqlite",)):
    """Serves the processes of one machine, and survives restarts. The file is readable by its owner alone.

    It must lie on a disk of this machine: locks do not hold on network file systems.

    Args:
        path: of the file. It is made if it is not there; its folder must be.
        clock: where time comes from; the machine's own if not given.
        assume_spent: what to believe of a quota that the file does not know yet; see :class:`QuotaStore`.

    Raises:
        InvalidInput: `path` is no path.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None, assume_spent: float = 0.0) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in os.fspath(path):
            raise InvalidInput(parameter="path", problem="must be the path of a file")
        self._path = Path(path).absolute()
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._thread: _Thread | None = None
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

    async def close(self) -> None:
        await super().close()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        if self._thread is not None:
            await self._thread.run(self._disconnect)
            self._thread.end()
            self._thread = None

    def _move_in(self, *, was_forked: bool, is_new: bool) -> None:
        super()._move_in(was_forked=was_forked, is_new=is_new)
        self._sync_timer = None
        if was_forked:
            if self._db is not None:
                _left_behind.append(self._db)
            self._db, self._thread = None, None  # no thread comes along

    async def _run(self, steps: Sequence[Step]) -> list[Looked | Taken | None]:
        if self._thread is None:
            self._thread = _Thread()
        if self._sync_timer is None:
            self._sync_timer = asyncio.get_running_loop().call_later(_SYNC_WITHIN, self._sync_soon)
        return await self._thread.run(lambda: self._work(steps))

    def _sync_soon(self) -> None:
        self._sync_timer = None
        if self._thread is not None:
            self._thread.put(self._sync)

    # ---- what follows runs in the store's own thread ----

    def _work(self, steps: Sequence[Step]) -> list[Looked | Taken | None]:
        try:
            db = self._connected()
            with _transaction(db):
                page = _Page(db, self._clock, self.assume_spent)
                answers = [page.do(step) for step in steps]
                page.write()
        except sqlite3.Error as error:
            self._disconnect()
            raise refused(self, _advice(error)) from None
        except OSError as error:
            raise refused(
                self, f"{error.strerror or error}; see that the folder exists and can be written to"
            ) from None
        return answers

    def _sync(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):  # whoever takes a slot next will hear of it
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            if not self._path.exists():
                self._create()
            self._db = self._open(self._path)
            self._inode = self._path.stat().st_ino
        elif _inode_if_not_empty(self._path) != self._inode:
            raise refused(
                self,
                "the file was removed, replaced or emptied while it was in use, so what was spent is not known; "
                "put it back, or begin anew with another process",
            )
        return self._db

    def _create(self) -> None:
        """Make the file whole before it has its name, so that an empty one is never taken for a new one."""
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}.new")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                _migrate(db)
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(draft, self._path)
        finally:
            draft.unlink()

    def _open(self, path: Path) -> sqlite3.Connection:
        details = path.stat()
        if not stat.S_ISREG(details.st_mode) or details.st_size == 0:
            raise refused(
                self, f"it is {'empty' if stat.S_ISREG(details.st_mode) else 'no file'}; {_NOT_TO_BE_TRUSTED}"
            )
        if details.st_mode & 0o077 and details.st_uid == os.geteuid():
            path.chmod(0o600)
        db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA synchronous = NORMAL")
        (application,), (version,) = db.execute("PRAGMA application_id").fetchone(), _version(db)
        if application != _APPLICATION:
            raise refused(self, f"it is no quota store of this library; {_NOT_TO_BE_TRUSTED}")
        if version > len(_MIGRATIONS):
            raise refused(self, f"a newer version of this library made it (schema {version}); use that one, or later")
        if version < len(_MIGRATIONS):
            _migrate(db)

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


_NOT_TO_BE_TRUSTED: Final = (
    "move it away, and if you do not know what was spent in the last window, "
    "begin with a store that has assume_spent set"
)


def _inode_if_not_empty(path: Path) -> int | None:
    try:
        details = path.stat()
    except FileNotFoundError:
        return None
    return details.st_ino if details.st_size else None


def _version(db: sqlite3.Connection) -> tuple[int]:
    version: tuple[int] = db.execute("PRAGMA user_version").fetchone()
    return version


def _migrate(db: sqlite3.Connection) -> None:
    with _transaction(db):
        (version,) = _version(db)
        for script in _MIGRATIONS[version:]:
            for statement in script.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Generator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _advice(error: sqlite3.Error) -> str:
    advice = {
        sqlite3.SQLITE_FULL: "the disk is full; make room",
        sqlite3.SQLITE_IOERR: "the disk cannot be written to or read; see whether it is full or failing",
        sqlite3.SQLITE_READONLY: "it cannot be written to; give this user the right to",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened; see that the folder exists and that this user may write there",
        sqlite3.SQLITE_NOTADB: f"it is no quota store, or it is damaged; {_NOT_TO_BE_TRUSTED}",
        sqlite3.SQLITE_CORRUPT: f"it is damaged; {_NOT_TO_BE_TRUSTED}",
        sqlite3.SQLITE_BUSY: f"another process has not let go of it for {_BUSY:g} s; see what that process does",
    }
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return advice.get(code, f"SQLite says: {error}")


class _Thread:
    """Does one thing after the other, off the loop. Ends with the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="twdm_async quota store", daemon=True).start()

    async def run(self, job: Callable[[], T]) -> T:
        """What `job` returns or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                outcome: Callable[[], None] = partial(answer.set_exception, error)
            else:
                outcome = partial(answer.set_result, result)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(lambda: None if answer.done() else outcome())

        self._jobs.put(work)
        return await answer

    def put(self, job: Callable[[], None]) -> None:
        """Do `job` some time; it must not raise."""
        self._jobs.put(job)

    def end(self) -> None:
        """After what was put so far, do nothing more."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


@define
class _Row:
    """One bucket, as the file has it and as it will."""

    id: int
    held_until: float
    longest: float  # the longest window that was ever asked for; older outcomes are forgotten
    slots: int
    spent_by_others: dict[float, tuple[int, float]]


class _Page:
    """The file within one transaction."""

    def __init__(self, db: sqlite3.Connection, clock: Clock, assume_spent: float) -> None:
        self._db = db
        self._assume_spent = assume_spent
        self._rows: dict[str, _Row] = {}
        self._now = self._advance(clock.uptime(), clock.wall())

    def do(self, step: Step) -> Looked | Taken | None:
        match step:
            case Take():
                return self._take(step)
            case Look():
                return self._look(step.claims)
            case Settle():
                self._settle(step)
            case GiveBack():
                for bucket in step.buckets:
                    row = self._row(bucket)
                    names = [(row.id, name) for name in step.names]
                    row.slots -= self._db.executemany("DELETE FROM slot WHERE bucket = ? AND name = ?", names).rowcount
            case Hold():
                row = self._row(step.bucket)
                row.held_until = max(row.held_until, self._now + step.seconds)
            case Tighten():
                self._tighten(step)
        return None

    def write(self) -> None:
        """Put down what has changed in the buckets."""
        self._db.executemany(
            "UPDATE bucket SET held_until = ?, longest = ?, slots = ? WHERE id = ?",
            [(row.held_until, row.longest, row.slots, row.id) for row in self._rows.values()],
        )

    def _advance(self, uptime: float, wall: float) -> float:
        found = self._db.execute("SELECT now, uptime, wall FROM clock").fetchone()
        if found is None:
            raise sqlite3.DatabaseError("the clock is missing")
        now, last_uptime, last_wall = found
        by_uptime, by_wall = uptime - last_uptime, wall - last_wall
        if by_uptime < 0:  # the machine was started anew
            now += max(0.0, by_wall)
        elif by_wall < 0:  # the wall clock was set back
            now += by_uptime
        else:
            now += min(by_uptime, by_wall)
        self._db.execute("UPDATE clock SET now = ?, uptime = ?, wall = ?", (now, uptime, wall))
        return float(now)

    def _take(self, step: Take) -> Looked | Taken:
        rows = [self._row(claim.bucket, claim.quotas) for claim in step.claims]
        count = len(step.names)
        used: list[int] = []
        for claim, row in zip(step.claims, rows, strict=True):
            for quota in claim.quotas:
                used.append(self._used(row, quota))
                count = min(count, 0 if row.held_until > self._now else quota.limit - used[-1])
        if count <= 0:
            return self._look(step.claims)
        for row in rows:
            self._db.executemany(
                "INSERT INTO slot VALUES (?, ?, ?, 1)",
                [(row.id, name, self._now + step.lifetime) for name in step.names[:count]],
            )
            row.slots += count
        then = self._look(step.claims) if count < len(step.names) else None
        return Taken(count, tuple([before + count for before in used]), then)

    def _look(self, claims: tuple[Claim, ...]) -> Looked:
        return Looked(
            tuple(
                self._usage(self._row(claim.bucket, claim.quotas), quota) for claim in claims for quota in claim.quotas
            )
        )

    def _settle(self, step: Settle) -> None:
        for bucket in step.buckets:
            row = self._row(bucket)
            for name in step.names:
                # It is not there if it lived longer than was thought possible.
                known = self._db.execute(
                    "UPDATE slot SET seen = ?, in_flight = 0 WHERE bucket = ? AND name = ?",
                    (self._now + step.grace, row.id, name),
                ).rowcount
                if not known:
                    self._db.execute("INSERT INTO slot VALUES (?, ?, ?, 0)", (row.id, name, self._now + step.grace))
                    row.slots += 1

    def _tighten(self, step: Tighten) -> None:
        row = self._row(step.bucket, (step.quota,))
        missing = step.quota.limit - self._used(row, step.quota) - step.remaining
        if missing > 0:
            count, until = self._spent_by_others(row, step.quota)
            self._note_others(row, step.quota, count + missing, max(until, self._now + step.seconds))

    def _row(self, bucket: Bucket, quotas: tuple[Quota, ...] = ()) -> _Row:
        name = f"{bucket.app} {bucket.name}"
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._load(name) or self._begin(name)
        for quota in quotas:
            if window(quota) > row.longest:
                row.longest = window(quota)
                if spent := assumed(quota, self._assume_spent):  # nothing is known of a window that was never kept
                    self._note_others(row, quota, spent, self._now + window(quota))
        return row

    def _load(self, name: str) -> _Row | None:
        found = self._db.execute("SELECT id, held_until, longest, slots FROM bucket WHERE name = ?", (name,)).fetchone()
        if found is None:
            return None
        number, held_until, longest, slots = found
        others = self._db.execute("SELECT per, slots, until FROM spent_by_others WHERE bucket = ?", (number,))
        row = _Row(number, held_until, longest, slots, {per: (count, until) for per, count, until in others})
        old = self._db.execute("DELETE FROM slot WHERE bucket = ? AND seen <= ?", (row.id, self._now - row.longest))
        row.slots -= old.rowcount
        return row

    def _begin(self, name: str) -> _Row:
        never = -1e12
        new = self._db.execute(
            "INSERT INTO bucket (name, held_until, longest, slots) VALUES (?, ?, 0, 0)", (name, never)
        )
        return _Row(int(new.lastrowid or 0), never, 0.0, 0, {})

    def _used(self, row: _Row, quota: Quota) -> int:
        count = row.slots
        if window(quota) < row.longest:
            query = "SELECT count(*) FROM slot WHERE bucket = ? AND seen > ?"
            (count,) = self._db.execute(query, (row.id, self._now - window(quota))).fetchone()
        return count + self._spent_by_others(row, quota)[0]

    def _usage(self, row: _Row, quota: Quota) -> Usage:
        query = "SELECT seen, in_flight FROM slot WHERE bucket = ? AND seen > ? ORDER BY seen"
        slots = self._db.execute(query, (row.id, self._now - window(quota))).fetchall()
        seen = [moment for moment, in_flight in slots if not in_flight]
        return usage_of(
            quota,
            self._now,
            seen,
            in_flight=len(slots) - len(seen),
            foreign=self._spent_by_others(row, quota),
            held_until=row.held_until,
        )

    def _spent_by_others(self, row: _Row, quota: Quota) -> tuple[int, float]:
        count, until = row.spent_by_others.get(quota.per, (0, self._now))
        return (count, until) if until > self._now else (0, self._now)

    def _note_others(self, row: _Row, quota: Quota, count: int, until: float) -> None:
        row.spent_by_others[quota.per] = (count, until)
        self._db.execute(
            "INSERT OR REPLACE INTO spent_by_others VALUES (?, ?, ?, ?)", (row.id, quota.per, count, until)
        )
