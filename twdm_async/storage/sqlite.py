"""State in one file on this machine, which its processes share: what was spent, what is to be sent, or both.

The file is a SQLite database with a write-ahead log. Only its owner can read it, and it gets its name only once it is
complete. A file that was damaged, emptied, replaced, or made by a newer version is an error; it is never silently
created anew. It is an error, too, if the log was removed while a process used the file, since the log holds what was
written last.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from twdm_async.errors import InvalidInput
from twdm_async.storage.contract import Schema, Storage, StorageTrouble, Transaction, User
from twdm_async.storage.owners import Lock, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from twdm_async._clock import Clock

T = TypeVar("T")

_APPLICATION: Final = 0x7477_646D  # "twdm", so that no other program's file is taken for one of ours
_BUSY: Final = 30.0  # seconds to wait for another process' lock
_OLDEST_SQLITE: Final = (3, 35, 0)  # which brought RETURNING
_LARGEST_LOG: Final = 4 * 1024 * 1024  # bytes of the write-ahead log, above which it is truncated
_LOOK_EVERY: Final = 0.01  # seconds
_PATIENCE: Final = 0.1  # seconds to wait for readers that keep a log of that size from being truncated
_MOST_PATIENCE: Final = 5.0  # seconds to wait at most, if the log has grown much larger
_NEXT_TRY: Final = 1.0  # seconds until the next try to truncate the log
_FORMAT: Final = 5  # of the file; up to format 4, the packages that share a file had one common version


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return `path` as an absolute path without symbolic links.

    Raises:
        InvalidInput: `path` is not the path of a file.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in os.fspath(path):
        raise InvalidInput(parameter="path", problem="must be the path of a file")
    if os.fspath(path) == ":memory:":
        raise InvalidInput(
            parameter="path", problem="must be the path of a file; memory forgets what must be remembered"
        )
    return Path(path).resolve()  # SQLite's log lies beside the file and not beside a link, and so must lock files


class _FileTransaction(Transaction):
    """A transaction in a file.

    Args:
        db: the connection, within the transaction.
        clock: this machine's clock, since all processes that use the file run on this machine.
    """

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db = db
        self._wall, self._uptime = clock.wall(), clock.uptime()

    @property
    def wall(self) -> float:
        return self._wall

    @property
    def uptime(self) -> float:
        return self._uptime

    def execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(query, values)

    def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        self._db.executemany(query, rows)


class StateFile(Storage):
    """The file at `path`. It is created when it is first used; its folder must exist.

    Args:
        path: the absolute path of the file.
        schema: the tables that are used in it.
        clock: this machine's clock.
    """

    def __init__(self, path: Path, schema: Schema, clock: Clock) -> None:
        super().__init__(schema, clock)
        self._path = path
        self._owner = Owner(path, schema.package)
        self._turns: dict[str, Lock] = {}
        self._db: sqlite3.Connection | None = None
        self._inodes: tuple[int | None, ...] = ()
        self._log_tried_at = -_NEXT_TRY
        self._in_use = threading.Lock()  # held while the database is in use
        _files.add(self)

    @property
    def address(self) -> str:
        return str(self._path)

    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        with self._in_use:
            return self._transact(work, is_durable=is_durable, only_reads=only_reads)

    def _transact(self, work: Callable[[Transaction], T], *, is_durable: bool, only_reads: bool) -> T:
        try:
            db = self._connected()
            db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            with _transaction(db, "DEFERRED" if only_reads else "IMMEDIATE"):
                done = work(_FileTransaction(db, self._clock))
            if not only_reads:
                self._bound_log(db)
        except sqlite3.Error as error:
            self._disconnect()
            is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            raise StorageTrouble(self._advice(error), is_general=is_busy) from None
        except OSError as error:
            problem = f"{error.strerror or error}; see that the folder exists and can be written to"
            raise StorageTrouble(problem) from None
        return done

    def version(self) -> int:
        with self._in_use, contextlib.suppress(sqlite3.Error):  # the next transaction will raise it
            if self._db is not None:
                return int(self._db.execute("PRAGMA data_version").fetchone()[0])
        return 0

    @property
    def owner(self) -> str:
        return self._owner.name

    def stay_alive(self, _: Transaction, /) -> None:
        self._owner.acquire()

    def is_dead(self, _: Transaction, /, owner: str) -> bool:
        return self._owner.is_dead(owner)

    def users(self, _: Transaction, /) -> list[User]:
        return self._owner.others()

    def sweep(self, _: Transaction, /) -> None:
        self._owner.sweep()

    def take_turn(self, _: Transaction, /, name: str) -> bool:
        if name not in self._turns:
            self._turns[name] = Lock(self._path.with_name(f"{self._path.name}.{name}.lock"))
        return self._turns[name].take()

    def end_turn(self, name: str) -> None:
        def end() -> None:
            if name in self._turns:
                self._turns[name].release(remove=False)

        self.change_soon(lambda _: end(), if_it_fails=end)

    @property
    def is_alive(self) -> bool:
        return self._owner.is_held

    def release(self) -> None:
        self._owner.release()

    def pause(self) -> None:
        """Close the database, and let no thread use it until :meth:`go_on`."""
        self._in_use.acquire()
        self._disconnect()

    def go_on(self) -> None:
        """End a pause."""
        self._in_use.release()

    def disconnect(self) -> None:
        with self._in_use:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def sync(self) -> None:
        with self._in_use, contextlib.suppress(sqlite3.Error):  # the next transaction will raise it
            if self._db is not None:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            if not self._path.exists():
                self._check_beside()
                self._create()
            self._db = self._open()
            self._inodes = self._found()
        elif self._found() != self._inodes:
            raise StorageTrouble(
                "it, or its -wal or -shm, was removed, replaced or emptied while it was in use, so "
                f"{self._schema.content} is not known; end the processes that use it, and put it back"
            )
        return self._db

    def _found(self) -> tuple[int | None, ...]:
        """Return the identities of the present files, so that it is noticed if one of them is replaced."""
        file, *log = self._parts
        return _inode_if_not_empty(file), *map(_inode_if_any, log)

    @cached_property
    def _parts(self) -> tuple[Path, Path, Path]:
        """The paths of the file, its write-ahead log, and the log's shared index. All three exist while a process uses
        the file.
        """
        return (
            self._path,
            self._path.with_name(f"{self._path.name}-wal"),
            self._path.with_name(f"{self._path.name}-shm"),
        )

    def _bound_log(self, db: sqlite3.Connection) -> None:
        """Truncate the log if it has grown long. If readers are in the way, wait for them, longer the longer it is."""
        with contextlib.suppress(OSError, sqlite3.Error):  # the work is committed; the next transaction will raise it
            log = self._parts[1].stat().st_size
            if log <= _LARGEST_LOG or time.monotonic() - self._log_tried_at < _NEXT_TRY:
                return
            self._log_tried_at = time.monotonic()
            patience = min(_PATIENCE * log / _LARGEST_LOG, _MOST_PATIENCE)
            db.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
            with contextlib.suppress(sqlite3.OperationalError):  # another process reads for longer
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute(f"PRAGMA busy_timeout = {round(_BUSY * 1000)}")

    def _check_beside(self) -> None:
        """Raise if the file is missing, but its log or its log's index is still there."""
        left = [part.name for part in self._parts[1:] if part.exists()]
        if left and not self._path.exists():  # else another process has just created it
            raise StorageTrouble(f"{' and '.join(left)} lie there without it, so {self._not_to_be_trusted}")

    def _create(self) -> None:
        """Complete the file before it gets its name, so that an empty file is never taken for a new one."""
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}.new")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                _prepare_new(db, self._schema)
            self._name(draft)
        finally:
            draft.unlink()

    def _name(self, draft: Path) -> None:
        with contextlib.suppress(FileExistsError):  # another process was faster
            try:
                os.link(draft, self._path)
            except FileExistsError:
                raise
            except OSError as error:
                problem = (
                    f"its folder has no hard links ({error.strerror}), as some that are shared over a network; "
                    "move it to a disk of this machine"
                )
                raise StorageTrouble(problem) from None

    def _open(self) -> sqlite3.Connection:
        details = self._path.stat()
        if not stat.S_ISREG(details.st_mode) or details.st_size == 0:
            raise StorageTrouble(
                f"it is {'empty' if stat.S_ISREG(details.st_mode) else 'no file'}; {self._not_to_be_trusted}"
            )
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            needed = ".".join(map(str, _OLDEST_SQLITE))
            raise StorageTrouble(f"this Python comes with SQLite {sqlite3.sqlite_version}, and {needed} is needed")
        self._check_is_ours()
        if details.st_mode & 0o077 and details.st_uid == _user():
            self._path.chmod(0o600)
        self._check_log()
        db = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY, check_same_thread=False)
        if self._schema.is_lenient:
            db.text_factory = _lenient
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_is_ours(self) -> None:
        """Check that the file is one of ours, without changing it: the user may have named another file by mistake."""
        address = f"{self._path.as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
            # The log is not read, so the end of the file may seem to be missing. This setting ignores that.
            db.execute("PRAGMA writable_schema = ON")
            (application,) = db.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION:
            raise StorageTrouble(f"it is no file of this library; {self._not_to_be_trusted}")

    def _check_log(self) -> None:
        """Check that the log exists if a process uses the file, since what was written last is in the log."""
        deadline = time.monotonic() + _BUSY
        while None in map(_inode_if_any, self._parts) and not self._is_unused():
            if time.monotonic() > deadline:
                raise StorageTrouble(
                    f"its -wal or -shm was removed while others use it, so {self._schema.content} is not known; "
                    "end those processes first"
                )
            time.sleep(_LOOK_EVERY)  # a process may just be opening or closing it
        _, log, shared = self._parts
        # A process that closes the file removes the log last, so the index is never left alone.
        first = _inode_if_any(shared)
        if first is not None and _inode_if_any(log) is None and _inode_if_any(shared) == first:
            raise StorageTrouble(f"its -wal was removed, so {self._not_to_be_trusted}")

    def _is_unused(self) -> bool:
        """Return whether no process uses the file. A process that does has a lock on it, which excludes an exclusive
        one.
        """
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None, timeout=0)) as db:
            try:
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
                db.execute("PRAGMA user_version").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    return False
                raise
        return True

    def _prepare(self, db: sqlite3.Connection) -> None:
        if _format(db) < _FORMAT:
            with _transaction(db, "IMMEDIATE"):
                _bring_up_to_date(db)
        schema, version = self._schema, _version(db, self._schema) if _format(db) == _FORMAT else -1
        if not 0 <= version <= len(schema.steps):
            made = f"format {_format(db)}, {schema.package} {version}" if version >= 0 else f"format {_format(db)}"
            raise StorageTrouble(f"a newer version of this library made it ({made}); use that version or a later one")
        if version < len(schema.steps):
            with _transaction(db, "IMMEDIATE"):
                _migrate(db, schema)

    @property
    def _not_to_be_trusted(self) -> str:
        return f"{self._schema.content} is not known: {self._schema.advice}"

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
        return advice.get(code, f"SQLite says {getattr(error, 'sqlite_errorname', type(error).__name__)}")


_files: WeakSet[StateFile] = WeakSet()
_closed_for_fork: list[StateFile] = []


def _close_all() -> None:
    """Close every database before a fork, because SQLite would take the parent's locks for the child's, too. Parent and
    child open the databases again when they need them.
    """
    for file in list(_files):
        file.pause()
        _closed_for_fork.append(file)


def _go_on() -> None:
    while _closed_for_fork:
        _closed_for_fork.pop().go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all, after_in_parent=_go_on, after_in_child=_go_on)


class InMemory(Storage):
    """Tables like those of a file, but in this process' memory. They are forgotten when the storage is closed. Nothing
    here waits for a disk, so everything is done at once, in the event loop.
    """

    def __init__(self, schema: Schema, clock: Clock) -> None:
        super().__init__(schema, clock)
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _prepare_new(self._db, schema)

    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:  # noqa: ARG002
        with _transaction(self._db, "IMMEDIATE"):
            return work(_FileTransaction(self._db, self._clock))

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return self.transact(work)

    async def change_together(
        self,
        work: Callable[[Transaction], Callable[[], T]],
        *,
        is_durable: bool = False,  # noqa: ARG002
    ) -> T:
        return self.transact(lambda transaction: work(transaction)())

    @property
    def address(self) -> str:
        return "(memory)"

    @property
    def owner(self) -> str:
        return "this process"

    async def close(self) -> None:
        self._db.close()


def _lenient(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def _inode_if_any(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _inode_if_not_empty(path: Path) -> int | None:
    try:
        details = path.stat()
    except FileNotFoundError:
        return None
    return details.st_ino if details.st_size else None


def _format(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _prepare_new(db: sqlite3.Connection, schema: Schema) -> None:
    with _transaction(db, "IMMEDIATE"):
        _bring_up_to_date(db)
        _migrate(db, schema)


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Bring the file to the present format, in which each package has its own version. Call within a transaction."""
    before = _format(db)
    if before < _FORMAT:
        db.execute("CREATE TABLE schema (package TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID")
        if before:
            db.execute("INSERT INTO schema VALUES ('file', ?)", (before,))
        db.execute(f"PRAGMA user_version = {_FORMAT}")


def _version(db: sqlite3.Connection, schema: Schema) -> int:
    """Return the version of the package's tables in the file; 0 if there are none."""
    found = db.execute("SELECT version FROM schema WHERE package = ?", (schema.package,)).fetchone()
    if found is not None:
        return int(found[0])
    earlier = db.execute("SELECT version FROM schema WHERE package = 'file'").fetchone()
    return schema.earlier[int(earlier[0]) - 1] if earlier else 0


def _migrate(db: sqlite3.Connection, schema: Schema) -> None:
    """Bring the package's tables up to date. Call within a transaction."""
    for number in range(_version(db, schema), len(schema.steps)):
        for statement in schema.steps[number].split(";"):
            db.execute(statement)
        if number in schema.upgrades:
            schema.upgrades[number](db)
    db.execute("INSERT OR REPLACE INTO schema VALUES (?, ?)", (schema.package, len(schema.steps)))


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
