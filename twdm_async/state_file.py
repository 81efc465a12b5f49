"""One file on this machine that remembers: what was spent, what is to be sent, or both. Its processes share it.

It is a SQLite database with a write-ahead log, for its owner alone, and made whole before it has its name. It is never
begun anew where it was damaged, emptied, replaced, or made by a newer version: that is an error. All that waits for the
disk runs in a thread of its own.
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
from typing import TYPE_CHECKING, Final, TypeVar

from twdm_async.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")

_APPLICATION: Final = 0x7477_646D  # "twdm", so that no other program's file is taken for one of ours
_BUSY: Final = 5.0  # seconds to wait for another process
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
    """
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL,
        recipient_id TEXT NOT NULL, custom_profile_id TEXT, fingerprint TEXT NOT NULL, payload TEXT NOT NULL,
        priority INTEGER NOT NULL, lane TEXT NOT NULL, put_at REAL NOT NULL, not_after REAL,
        state TEXT NOT NULL, owner TEXT, slot TEXT, attempts INTEGER NOT NULL DEFAULT 0,
        sent_at REAL, sent_uptime REAL, ended_at REAL, ended_uptime REAL, content TEXT NOT NULL DEFAULT '',
        message_id TEXT, error TEXT, change INTEGER NOT NULL DEFAULT 0, changed_at REAL NOT NULL,
        UNIQUE (account, key)
    );
    CREATE INDEX message_to_send ON message (account, priority, lane, id)
        WHERE owner IS NULL AND state IN ('queued', 'absent');
    CREATE INDEX message_by_state ON message (account, state);
    CREATE TABLE outcome (account TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX message_by_slot ON message (slot) WHERE slot IS NOT NULL;
    CREATE INDEX message_by_owner ON message (owner) WHERE owner IS NOT NULL;
    CREATE INDEX message_by_change ON message (account, change);
    CREATE INDEX message_by_message_id ON message (account, message_id) WHERE message_id IS NOT NULL;
    """,
    """
    CREATE TABLE conversation (name TEXT PRIMARY KEY, touched REAL NOT NULL, content TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX conversation_by_age ON conversation (touched);
    CREATE TABLE noted_since (at REAL NOT NULL);
    INSERT INTO noted_since VALUES (CAST(strftime('%s', 'now') AS REAL));
    CREATE TABLE event (
        account TEXT NOT NULL, id TEXT NOT NULL, body TEXT, kept_at REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
        owner TEXT, PRIMARY KEY (account, id)
    ) WITHOUT ROWID;
    CREATE INDEX event_to_handle ON event (owner) WHERE body IS NOT NULL;
    CREATE INDEX event_by_age ON event (kept_at);
    CREATE TABLE polled (account TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE message ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
    """,
)
"""What makes each version of the file out of the one before; the first of them makes it out of nothing."""

_left_behind: list[sqlite3.Connection] = []  # of a process that this one was forked off; to close them would harm it


class FileTrouble(Exception):
    """The file could not be read or written, or is not to be trusted.

    Args:
        problem: what is wrong, and what to do about it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def checked_path(path: str | os.PathLike[str]) -> Path:
    """`path`, absolute.

    Raises:
        InvalidInput: it is no path.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in os.fspath(path):
        raise InvalidInput(parameter="path", problem="must be the path of a file")
    if os.fspath(path) == ":memory:":
        raise InvalidInput(
            parameter="path", problem="must be the path of a file; memory forgets what must be remembered"
        )
    return Path(path).absolute()


class StateFile:
    """The file at `path`. It is made when it is first used; its folder must be there.

    Args:
        path: absolute.
        content: what it keeps, in words.
        advice: what to do if it cannot be read any more.
    """

    def __init__(self, path: Path, content: str, advice: str) -> None:
        self._path = path
        self._content = content
        self._if_bad = advice
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._thread: _Thread | None = None

    async def run(self, job: Callable[[], T]) -> T:
        """What `job` returns or raises, done in the file's thread, after all that was asked for before."""
        if self._thread is None:
            self._thread = _Thread()
        return await self._thread.run(job)

    def put(self, job: Callable[[], None]) -> None:
        """Do `job` in the file's thread, some time; it must not raise."""
        if self._thread is None:
            self._thread = _Thread()
        self._thread.put(job)

    def transact(
        self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = False, only_reads: bool = False
    ) -> T:
        """Do `work` in one transaction. To be called in the file's thread.

        Args:
            work: gets the database.
            is_durable: whether it must be on the disk when this returns, and not only safe from a crash of processes.
            only_reads: whether it changes nothing.

        Raises:
            FileTrouble: nothing was changed.
        """
        try:
            db = self._connected()
            db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            with _transaction(db, "DEFERRED" if only_reads else "IMMEDIATE"):
                return work(db)
        except sqlite3.Error as error:
            self.disconnect()
            raise FileTrouble(self._advice(error)) from None
        except OSError as error:
            problem = f"{error.strerror or error}; see that the folder exists and can be written to"
            raise FileTrouble(problem) from None

    def version(self) -> int:
        """A number that differs from that of the last time if another connection has changed something. To be called in
        the file's thread.
        """
        if self._db is None:
            return 0
        try:
            version: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:  # whoever uses it next will hear of it
            return 0
        return version

    def sync_soon(self) -> None:
        """Have what was written forced to the disk."""
        if self._thread is not None:
            self._thread.put(self._sync)

    def leave_behind(self) -> None:
        """This process was forked off the one that opened it: begin anew, and leave what was opened to that one."""
        if self._db is not None:
            _left_behind.append(self._db)
        self._db, self._thread = None, None  # no thread comes along

    async def close(self) -> None:
        """Let go of it, after all that was asked for before."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await thread.run(self.disconnect)
            thread.end()

    def disconnect(self) -> None:
        """Close the connection; the next use opens another one."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _sync(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):  # whoever writes next will hear of it
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            if not self._path.exists():
                self._create()
            self._db = self._open()
            self._inode = self._path.stat().st_ino
        elif _inode_if_not_empty(self._path) != self._inode:
            raise FileTrouble(
                f"the file was removed, replaced or emptied while it was in use, so {self._content} is not known; "
                "put it back, or begin anew with another process"
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

    def _open(self) -> sqlite3.Connection:
        details = self._path.stat()
        if not stat.S_ISREG(details.st_mode) or details.st_size == 0:
            raise FileTrouble(
                f"it is {'empty' if stat.S_ISREG(details.st_mode) else 'no file'}; {self._not_to_be_trusted}"
            )
        if details.st_mode & 0o077 and details.st_uid == os.geteuid():
            self._path.chmod(0o600)
        db = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        (application,), (version,) = db.execute("PRAGMA application_id").fetchone(), _version(db)
        if application != _APPLICATION:
            raise FileTrouble(f"it is no file of this library; {self._not_to_be_trusted}")
        if version > len(_MIGRATIONS):
            raise FileTrouble(f"a newer version of this library made it (schema {version}); use that one, or later")
        if version < len(_MIGRATIONS):
            _migrate(db)

    @property
    def _not_to_be_trusted(self) -> str:
        return f"{self._content} is not known: {self._if_bad}"

    def _advice(self, error: sqlite3.Error) -> str:
        advice = {
            sqlite3.SQLITE_FULL: "the disk is full; make room",
            sqlite3.SQLITE_IOERR: "the disk cannot be written to or read; see whether it is full or failing",
            sqlite3.SQLITE_READONLY: "it cannot be written to; give this user the right to",
            sqlite3.SQLITE_CANTOPEN: (
                "it cannot be opened; see that the folder exists and that this user may write there"
            ),
            sqlite3.SQLITE_NOTADB: f"it is no file of this library, or it is damaged; {self._not_to_be_trusted}",
            sqlite3.SQLITE_CORRUPT: f"it is damaged; {self._not_to_be_trusted}",
            sqlite3.SQLITE_BUSY: f"another process has not let go of it for {_BUSY:g} s; see what that process does",
        }
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return advice.get(code, f"SQLite says: {error}")


def in_memory() -> sqlite3.Connection:
    """A database like the file's, that is forgotten when it is closed."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _migrate(db)
    return db


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
    with _transaction(db, "IMMEDIATE"):
        (version,) = _version(db)
        for script in _MIGRATIONS[version:]:
            for statement in script.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Generator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


class _Thread:
    """Does one thing after the other, off the loop. Ends with the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="twdm_async state file", daemon=True).start()

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
