"""Connections to a PostgreSQL database: those of a storage's thread, and one that listens for notifications."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from twdm_async.storage.contract import StorageTrouble
from twdm_async.storage.postgres.dialect import is_lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from twdm_async.storage.contract import Schema
    from twdm_async.storage.postgres.database import PostgresDatabase

_OLDEST: Final = 130_000  # the server's version number: PostgreSQL 13
_POOL_PATIENCE: Final = 30.0  # seconds to wait for a connection from a pool
_PAUSE: Final = 1.0  # seconds between a listener's checks whether it is to stop, and before it reconnects
_PREPARED_AFTER: Final = 3  # executions of a statement
_SETTINGS: Final = (
    "SELECT set_config('search_path', %s, {local}), set_config('idle_in_transaction_session_timeout', %s, {local}), "
    "set_config('lock_timeout', %s, {local}), set_config('synchronous_commit', "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, "
    "{local})"
)
MOST_IDLE: Final = 10.0
"""Seconds that a transaction may be idle. Then its process is suspended, so the server ends the transaction."""
LONGEST_TURN: Final = 5.0
"""Seconds to wait for the turns of others, before those among them that are suspended are ended."""


class Retry(Exception):
    """Nothing was changed, and the next try may succeed."""


class Session:
    """A connection, as the storage's thread uses it. A connection of an asynchronous pool is used in its event loop.

    Args:
        connection: an idle connection in autocommit mode.
        loop: the event loop of the connection, if it is an asynchronous one; else ``None``.
    """

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.connection = connection
        library = import_module("psycopg")
        # Not the connection's own cursor_factory, which the owner of a pool may have set.
        self._cursor_class = library.Cursor if loop is None else library.AsyncCursor
        self._tuples = library.rows.tuple_row
        self._loop = loop
        self._pipeline: Any = None
        self._is_set_up = False  # whether the settings are made for the whole session

    def run(self, outcome: Any) -> Any:
        """Return the result of a call on the connection; if that is asynchronous, wait for the result."""
        if self._loop is None:
            return outcome
        return asyncio.run_coroutine_threadsafe(outcome, self._loop).result()

    def execute(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> Found:
        """Execute `query`. Within :meth:`pipelined`, only asking for the outcome waits for it."""
        cursor = self._cursor_class(self.connection, row_factory=self._tuples)
        self.run(cursor.execute(query, values or None))
        return Found(cursor, self)

    def set_up(self, schema: str) -> None:
        """Make the settings for the whole session, so that each transaction finds the tables in `schema`. Behind
        PgBouncer, do nothing, since each transaction may have another session there.
        """
        (pid,) = self.execute("SELECT pg_backend_pid()").fetchone()
        if pid == self.connection.info.backend_pid:
            self._set(schema, "false")
            self.connection.prepare_threshold = _PREPARED_AFTER
            self._is_set_up = True

    def begin(self, schema: str, how: str = "") -> None:
        """Begin a transaction that finds the tables in `schema`."""
        self.execute(f"BEGIN {how}")
        if not self._is_set_up:
            self._set(schema, "true")

    def _set(self, schema: str, is_local: str) -> None:
        values = (f'"{schema}", pg_temp', f"{MOST_IDLE:g}s", f"{LONGEST_TURN:g}s")
        self.execute(_SETTINGS.format(local=is_local), values)

    @contextmanager
    def pipelined(self) -> Generator[None]:
        """Send statements without waiting for the outcome of each."""
        pipeline = self.connection.pipeline()
        self._pipeline = self.run(pipeline.__enter__() if self._loop is None else pipeline.__aenter__())
        leave = pipeline.__exit__ if self._loop is None else pipeline.__aexit__
        try:
            yield
        except BaseException:
            for end in (self.catch_up, lambda: self.run(leave(None, None, None))):
                with suppress(Exception):  # any further error has the same cause
                    end()
            self._pipeline = None
            raise
        self._pipeline = None
        self.run(leave(None, None, None))

    def catch_up(self) -> None:
        """Wait for the outcomes of all statements that were sent."""
        if self._pipeline is not None:
            self.run(self._pipeline.sync())


class Found:
    """The outcome of a statement, which may not have come yet."""

    def __init__(self, cursor: Any, session: Session) -> None:
        self._cursor = cursor
        self._session = session

    @property
    def rowcount(self) -> int:
        self._wait()
        return int(self._cursor.rowcount)

    def fetchone(self) -> Any:
        self._wait()
        return self._session.run(self._cursor.fetchone())

    def fetchall(self) -> list[Any]:
        self._wait()
        rows: list[Any] = self._session.run(self._cursor.fetchall())
        return rows

    def _wait(self) -> None:
        """Wait for the outcome by a sync of the pipeline. After that, the server knows that it waits for the client;
        only then does it end the transaction of a suspended process.
        """
        if self._cursor.pgresult is None:
            self._session.catch_up()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class Connections:
    """The connections of a storage's thread: a single one that stays open, or one from the pool for each use.

    Args:
        database: the database.
        schemas: the tables that must exist there.
    """

    def __init__(self, database: PostgresDatabase, schemas: Sequence[Schema]) -> None:
        self._database = database
        self._schemas = schemas
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop of an asynchronous pool
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the open connection; after a fork, it belongs to the parent process."""
        self._own: Session | None = None
        self.was_open: bool = False
        """Whether the tables were reached before, and have the right version."""

    def use_running_loop(self) -> None:
        """Use connections of an asynchronous pool, if there is one, in the running event loop."""
        pool = self._database.pool
        if pool is not None and inspect.iscoroutinefunction(pool.getconn):
            self._loop = asyncio.get_running_loop()

    @contextmanager
    def one(self) -> Generator[Session]:
        """Provide a connection for the ``with`` block.

        Raises:
            Retry: no connection could be opened, or it broke at once; another try may succeed.
            StorageTrouble: the tables were made by another version of this library, or the server is too old.
            psycopg.Error: no connection could be opened, or got from the pool, and another try would fail, too; or the
                tables could not be read.
        """
        if self._database.pool is not None:
            with self._from_pool() as session:
                yield session
        else:
            yield self._own or self._open()

    def drop(self) -> None:
        """Close the thread's own connection, which is broken or no longer needed."""
        if self._own is not None:
            with suppress(Exception):
                self._own.connection.close()
            self._own = None

    def _open(self) -> Session:
        error_class = self._database.library.Error
        try:
            session = self._own = Session(self._database.connect())
        except error_class as error:
            if is_lasting(error):
                raise
            raise Retry from error
        try:
            session.set_up(self._database.schema)
            self._check_version(session)
        except BaseException as error:
            is_lost = session.connection.closed and isinstance(error, error_class)
            self.drop()
            if is_lost:
                raise Retry from error
            raise
        return session

    @contextmanager
    def _from_pool(self) -> Generator[Session]:
        pool, loop = self._database.pool, self._loop
        got = pool.getconn(timeout=_POOL_PATIENCE)
        session = Session(got if loop is None else asyncio.run_coroutine_threadsafe(got, loop).result(), loop)
        connection = session.connection
        was_autocommit, threshold = connection.autocommit, connection.prepare_threshold
        try:
            session.run(connection.set_autocommit(True))
            connection.prepare_threshold = None
            self._check_version(session)
            yield session
        finally:
            if not connection.closed:
                with suppress(self._database.library.Error):
                    connection.prepare_threshold = threshold
                    session.run(connection.set_autocommit(was_autocommit))
            session.run(pool.putconn(connection))

    def _check_version(self, session: Session) -> None:
        if self.was_open:
            return
        if session.connection.info.server_version < _OLDEST:
            raise StorageTrouble("it is older than PostgreSQL 13")
        query = f'SELECT package, version FROM "{self._database.schema}".schema'  # noqa: S608 - checked
        check_versions(dict(session.execute(query).fetchall()), self._schemas)
        self.was_open = True


def check_versions(versions: Mapping[str, int], schemas: Sequence[Schema], *, may_be_old: bool = False) -> None:
    """Check that the tables of all packages have the versions that this library knows.

    Raises:
        StorageTrouble: some tables are newer; or they are older, unless they may be.
    """
    for schema in schemas:
        version, known = versions.get(schema.package, 0), len(schema.steps)
        if version > known:
            problem = f"a newer version of this library made its tables ({schema.package} {version}); use that one"
            raise StorageTrouble(problem)
        if version < known and not may_be_old:
            raise StorageTrouble("its tables are of an earlier version of this library; run `twdm database upgrade`")


class Listener:
    """Listens for notifications of a database, over its own connection and in its own thread. Where none arrive, as
    behind PgBouncer, changes are still found by regular polling, only later.
    """

    def __init__(self, database: PostgresDatabase, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        self._database = database
        self._loop = loop
        self._heard = heard
        self._is_stopped = threading.Event()
        threading.Thread(target=self._work, name="twdm_async listener", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._is_stopped.set()

    def _work(self) -> None:
        while not self._is_stopped.is_set():
            try:
                self._listen()
            except self._database.library.Error:
                self._is_stopped.wait(_PAUSE)
            except RuntimeError:  # the event loop is closed
                return

    def _listen(self) -> None:
        with closing(self._database.connect()) as connection:
            connection.execute(f'LISTEN "{self._database.schema}"')
            while not self._is_stopped.is_set():
                for _ in connection.notifies(timeout=_PAUSE, stop_after=1):
                    self._loop.call_soon_threadsafe(self._heard)
