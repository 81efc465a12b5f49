"""Tables in a PostgreSQL database, which processes on many hosts share.

*Turns.* All that changes the tables of one package (and, of an outbox, of one account) takes its turn: each transaction
begins by counting up a row of the table ``turn``, which locks it until the end. So what is written for a file, where
all transactions come one after the other, holds here, too. An application that puts a message by
:meth:`Outbox.insertion <twdm_async.outbox.Outbox.insertion>` takes no turn, and waits for nobody.

*Who is alive.* Each user of the tables has a row in ``lease`` with a moment, by the database's clock, until which it is
believed to live; each of its transactions moves that on, and so does its thread when there is nothing to do. A process
that was suspended for longer is taken for dead. The check that it sends nothing then is the quota slot's: a slot has to
be used within the time to send it.

*Commits.* With each transaction, the number of its turn is written into its user's lease. So if the connection breaks
when it commits, the next connection tells whether it was committed.

*Losses.* A standby that becomes the primary may lack what was committed last, and so may what is restored from a
backup. Nobody could tell what was sent meanwhile. So the database's identity (which system, which timeline) is written
down, and it is an error if that is another one, until a person says what to do: ``twdm database resume``. It is an
error, too, if the number of a turn is less than one that a running process has seen.

What the clocks are: ``wall`` is the database's; ``uptime`` is this machine's, which does not step, put ahead so that
both agreed in the moment in which the database was first asked.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import secrets
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from twdm_async._forks import forks
from twdm_async._numbers import checked_seconds
from twdm_async.errors import InvalidInput
from twdm_async.storage.contract import Cursor, Schema, Storage, StorageTrouble, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from twdm_async._clock import Clock

T = TypeVar("T")

_OLDEST: Final = 130_000  # the server's version number: PostgreSQL 13
_PATIENCE: Final = 30.0  # seconds in which a connection that was lost must come back
_FIRST_PATIENCE: Final = 3.0  # seconds, of who was never connected: the address may be wrong
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries to connect
_LEASE: Final = 15.0  # seconds
_MOST_IDLE: Final = 10.0  # seconds within a transaction, after which the server ends it: its process is suspended
_LONGEST_TURN: Final = 5.0  # seconds to wait for others, before it is seen to whether these are suspended
_FORGOTTEN_AFTER: Final = 86_400.0  # seconds after its end, a lease is removed
# A host that is cut off is noticed within half a minute.
_CONNECTING: Final = {
    "connect_timeout": 5, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 25_000, "application_name": "twdm_async",
}  # fmt: skip

COMMON: Final = Schema(
    "database",
    (
        """
        CREATE TABLE server (identity TEXT NOT NULL, epoch TEXT NOT NULL);
        CREATE TABLE turn (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
        CREATE TABLE lease (
            name TEXT PRIMARY KEY, holder TEXT NOT NULL, package TEXT NOT NULL, host TEXT NOT NULL,
            pid INTEGER NOT NULL, since REAL NOT NULL, until REAL NOT NULL, number INTEGER NOT NULL
        );
        CREATE INDEX lease_by_holder ON lease (holder)
        """,
    ),
)
"""The tables that all packages share."""

IDENTITY: Final = (
    "(SELECT system_identifier FROM pg_control_system()) || ' ' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) "
    "|| ' ' || (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""Which system the database belongs to, on which of its timelines (another one begins when a standby takes over), and
which database it is.
"""

_SETTINGS: Final = (
    "SELECT set_config('search_path', %s, {local}), set_config('idle_in_transaction_session_timeout', %s, {local}), "
    "set_config('lock_timeout', %s, {local}), set_config('synchronous_commit', "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, "
    "{local})"
)
_TAKE_TURN: Final = f"""
WITH mine AS (UPDATE turn SET number = number + 1 WHERE name = %(turn)s RETURNING number, {{now}} AS at),
sign_of_life AS (
    INSERT INTO lease (name, holder, package, host, pid, since, until, number)
    SELECT %(owner)s, %(owner)s, %(package)s, %(host)s, %(pid)s, at, at + %(lease)s, number FROM mine
    ON CONFLICT (name) DO UPDATE SET until = excluded.until, number = excluded.number
)
SELECT mine.number, at, {IDENTITY}, identity, epoch FROM mine, server
"""  # noqa: S608 - constants
_LOOK: Final = (
    f"SELECT coalesce((SELECT number FROM turn WHERE name = %(turn)s), 0), {{now}}, {IDENTITY}, identity, epoch "  # noqa: S608 - constants
    "FROM server"
)
_PREPARED_AFTER: Final = 3  # times that a statement was executed
_HOST: Final = socket.gethostname()
_LOCKED: Final = "55P03"
# The server's own limit for idle transactions does not see those that were in the middle of a pipeline.
_END_THE_SUSPENDED: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity JOIN pg_locks USING (pid) "
    "WHERE usename = current_user AND wait_event = 'ClientRead' AND now() - query_start > CAST(%s AS interval) "
    "AND relation = to_regclass(%s) AND mode = 'RowExclusiveLock' AND granted"
)
_PHRASES: Final = (
    (r"\bstrftime\('%s', 'now'\)", "floor(extract(epoch FROM clock_timestamp()))"),
    (r"\bINTEGER PRIMARY KEY AUTOINCREMENT\b", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    (r"\bWITHOUT ROWID\b", ""),
    (r"\bINDEXED BY \w+|\+(?=account\b)", ""),  # its planner knows how many rows there are of what
    (r"\?", "%s"),
)
_ADVICE: Final = {
    "3F000|42P01|42703": "the tables are not there, or older; run `twdm database install`, or `upgrade`",
    "42[^5]": "this library made a mistake; please report it",
    "42501": "this user may not use the tables; grant it what `twdm database sql` says",
    "53": "the server is out of room, memory or connections; see its log",
    "55P03": f"another process has not ended its turn for {_PATIENCE:g} s; see what that process does",
    "57014": "it was broken off; see whether this user has a statement_timeout",
    "25006|55000|0A000": "it is a standby, which cannot be written to; see that the address leads to the primary",
    "28": "see that user and password are right, and that the server lets this user in",
    "password|pg_hba|role .* does not": "see that user and password are right, and that the server lets this user in",
    "database .* does not exist": "there is no such database; make it first",
    "": "see that it runs and is reachable",
}
_LASTING: Final = re.compile(
    r"password|pg_hba|(role|database) .* does not exist|does not support SSL|certificate|no encryption"
)


@lru_cache(maxsize=512)
def in_postgres(query: str) -> str:
    """Return `query`, which is written for SQLite, in PostgreSQL's words."""
    for pattern, words in _PHRASES:
        query = re.sub(pattern, words, query)
    return query


class PostgresDatabase:
    """A PostgreSQL database (13 or later), for quotas, outboxes and inboxes. Needs the extra ``postgres``.

    Its tables are made by ``twdm database install``, in a schema of their own. It may be reached through PgBouncer, in
    transaction mode, too.

    Args:
        url: ``postgresql://user:password@host:port/database``, with any parameter that libpq knows, and with
            ``twdm_schema`` in place of `schema`.
        pool: in place of `url`, a pool of the application's own, a ``psycopg_pool.ConnectionPool`` or an
            ``AsyncConnectionPool``. It is not closed. A store, an outbox and an inbox need one connection each.
        schema: of the tables.
        lease: seconds without a sign of life after which a process is taken for dead, and others take over its work.

    Raises:
        InvalidInput: an argument is wrong, or the extra is not installed.
    """

    now: ClassVar = "extract(epoch FROM clock_timestamp())::float8"
    """What time it is, in SQL."""

    def __init__(
        self, url: str | None = None, *, pool: Any = None, schema: str = "twdm", lease: float = _LEASE
    ) -> None:
        self.library = _library()
        if (url is None) == (pool is None):
            raise InvalidInput(parameter="url", problem="give either the database's URL or a pool")
        conninfo: Any = pool.conninfo if url is None else url
        if url is None and not isinstance(conninfo, str):
            conninfo = f"dbname=pool-{id(pool):x}"  # only it knows
        try:
            if url is not None:
                conninfo, schema = _without_schema(url, schema)
            facts = self.library.conninfo.conninfo_to_dict(conninfo)
            for port in str(facts.get("port", "")).split(","):
                int(port or 0)
        except (self.library.ProgrammingError, ValueError, TypeError):
            problem = "must be like postgresql://user@host:5432/database"
            raise InvalidInput(parameter="url", problem=problem) from None
        if not isinstance(schema, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise InvalidInput(parameter="schema", problem="must be a name of lower-case letters, digits and _")
        self.schema = schema
        self.lease = checked_seconds(lease, "lease")
        if self.lease < 1.0:
            raise InvalidInput(parameter="lease", problem="must be 1 second or more")
        self.pool = pool
        self._facts = facts
        where = str(facts.get("host") or facts.get("hostaddr") or "")
        if "@" in where:
            problem = "names a host with an @; write one in a password as %40"
            raise InvalidInput(parameter="url", problem=problem)
        port = f":{facts['port']}" if "port" in facts else ""
        self.address = f"postgresql://{where}{port}/{facts.get('dbname') or facts.get('user') or ''}"
        """Which database it is, for errors and logs; without user and password."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostgresDatabase) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.address!r}, schema={self.schema!r})"

    @property
    def _key(self) -> tuple[str, str]:
        return self.address, self.schema

    def connect(self) -> Any:
        """Open a connection, outside of any pool.

        Raises:
            psycopg.Error: it cannot be reached, or does not let us in.
        """
        options = {**_CONNECTING, **self._facts}
        return self.library.connect(autocommit=True, prepare_threshold=None, **options)


def _without_schema(url: str, schema: str) -> tuple[str, str]:
    """Return `url` without the parameter that is ours, and its value."""
    address, _, query = url.partition("?")
    words = query.split("&")
    for word in [word for word in words if word.startswith("twdm_schema=")]:
        words.remove(word)
        schema = word.partition("=")[2]
    return "?".join(filter(None, (address, "&".join(words)))), schema


def _library() -> Any:
    try:
        import_module("psycopg.conninfo")
        return import_module("psycopg")
    except ImportError:
        problem = "PostgreSQL needs an extra: pip install 'twdm_async[postgres]'"
        raise InvalidInput(parameter="url", problem=problem) from None


class _Session:
    """A connection, as the storage's thread uses it. That of an application's asynchronous pool is used in its loop.

    Args:
        connection: idle; in a mode in which each statement is committed by itself.
        loop: of the connection, if it is an asynchronous one.
    """

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.connection = connection
        library = import_module("psycopg")
        self._cursor_class = library.Cursor if loop is None else library.AsyncCursor  # whatever a pool's owner uses
        self._tuples = library.rows.tuple_row
        self._loop = loop
        self._pipeline: Any = None
        self.is_set_up = False
        """Whether the settings of its transactions are those of the session."""

    def run(self, outcome: Any) -> Any:
        """Return what a call on the connection returned; of an asynchronous one, what comes of it."""
        if self._loop is None:
            return outcome
        return asyncio.run_coroutine_threadsafe(outcome, self._loop).result()

    def execute(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> _Found:
        """Execute `query`. Within :meth:`pipelined`, whoever asks for the outcome waits for it."""
        cursor = self._cursor_class(self.connection, row_factory=self._tuples)
        self.run(cursor.execute(query, values or None))
        return _Found(cursor, self)

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
                with suppress(Exception):  # what else goes wrong, goes wrong for the same
                    end()
            self._pipeline = None
            raise
        self._pipeline = None
        self.run(leave(None, None, None))

    def catch_up(self) -> None:
        """Wait for the outcome of all that was sent."""
        if self._pipeline is not None:
            self.run(self._pipeline.sync())


class _Found:
    """What a statement has found or done."""

    def __init__(self, cursor: Any, session: _Session) -> None:
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
        """Wait for the outcome in a way after which the server knows that it is our turn to say something: only then it
        ends the transaction of a process that is suspended.
        """
        if self._cursor.pgresult is None:
            self._session.catch_up()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class _ServerTransaction(Transaction):
    """A transaction in the database.

    Args:
        session: within the transaction.
        number: of its turn.
        wall: what the database's clock shows.
        uptime: see :mod:`twdm_async.storage.postgres`.
        epoch: of the database.
    """

    def __init__(self, session: _Session, number: int, wall: float, uptime: float, epoch: str) -> None:
        self._session = session
        self.number = number
        self.wall = wall
        self.uptime = uptime
        self.epoch = epoch
        self._has_told = False

    def tell(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._session.execute("SELECT pg_notify(current_schema(), '')")

    def execute(self, query: str, values: Sequence[Any] = ()) -> Cursor:
        return self._session.execute(in_postgres(query), [_storable(value) for value in values])


def _storable(value: Any) -> Any:
    """Return `value` as the database takes it: a text there has no null character, and nothing that is not UTF-8."""
    if not isinstance(value, str):
        return value
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def advice(error: BaseException | None) -> str:
    """Say what is wrong, and what to do about it. The server's own words are not repeated: they may have parts of a
    message.
    """
    state = getattr(error, "sqlstate", None) or ""
    for pattern, words in _ADVICE.items():
        if re.match(pattern, state) if pattern[:1].isdigit() else re.search(pattern, str(error)):
            return f"{words} ({state or type(error).__name__})"
    raise AssertionError  # the last one fits all


class _Listener:
    """Hears what is told in a database, over a connection and in a thread of its own. Where nothing can be heard, as
    behind PgBouncer, all that is missing is what comes between two looks.
    """

    def __init__(self, database: PostgresDatabase, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        self._database = database
        self._loop = loop
        self._heard = heard
        self._is_stopped = threading.Event()
        threading.Thread(target=self._work, name="twdm_async listener", daemon=True).start()

    def stop(self) -> None:
        """Hear nothing more."""
        self._is_stopped.set()

    def _work(self) -> None:
        while not self._is_stopped.is_set():
            try:
                self._listen()
            except self._database.library.Error:
                self._is_stopped.wait(_LONGEST_PAUSE)
            except RuntimeError:  # the loop is closed
                return

    def _listen(self) -> None:
        with closing(self._database.connect()) as connection:
            connection.execute(f'LISTEN "{self._database.schema}"')
            while not self._is_stopped.is_set():
                for _ in connection.notifies(timeout=_LONGEST_PAUSE, stop_after=1):
                    self._loop.call_soon_threadsafe(self._heard)


class _Retry(Exception):
    """Nothing was changed, and the next try may succeed."""


class _CutOff(Exception):
    """The connection broke when `transaction` was committed, which has `done` this."""

    def __init__(self, transaction: _ServerTransaction, done: Any) -> None:
        super().__init__()
        self.transaction = transaction
        self.done = done


class PostgresStorage(Storage):
    """The tables of one package in a database.

    Args:
        database: where they are.
        schema: the tables.
        content: what these keep, in words.
        advice: what to do if it cannot be read any more.
        clock: this machine's.
        turn: transactions of the same package and turn come one after the other.
    """

    def __init__(
        self, database: PostgresDatabase, schema: Schema, content: str, advice: str, clock: Clock, *, turn: str = ""
    ) -> None:
        super().__init__(schema, content, advice, clock)
        self._database = database
        self._turn = f"{schema.package} {turn}".strip()
        self._take_turn, self._look = _TAKE_TURN.format(now=database.now), _LOOK.format(now=database.now)
        self.error = database.library.Error
        self._begin_anew()
        self._loop: asyncio.AbstractEventLoop | None = None  # of an application's asynchronous pool
        self._ahead: float | None = None  # of this machine's uptime, the database's clock was when it was first asked
        self._seen: tuple[str, int] = ("", 0)  # the epoch, and the greatest number of a turn
        self._own_turns = 0
        self.beats_every = database.lease / 3

    def _begin_anew(self) -> None:
        self._name = secrets.token_hex(8)
        self._forks = forks()
        self._session: _Session | None = None
        self._has_lease = self._is_checked = False
        self._was_connected = False

    @property
    def address(self) -> str:
        return self._database.address

    @property
    def owner(self) -> str:
        if self._forks != forks():
            self._begin_anew()
        return self._name

    # ---- transactions ----

    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:  # noqa: ARG002
        patience = _PATIENCE if self._was_connected else _FIRST_PATIENCE
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
        while True:
            try:
                with self._connected() as session:
                    return self._try(session, work, only_reads=only_reads)
            except _CutOff as cut_off:  # a pool may have no other connection than that one
                if self._was_committed(cut_off.transaction):
                    self._note_commit(cut_off.transaction)
                    return cut_off.done  # type: ignore[no-any-return]
            except _Retry as retry:
                error = retry.__cause__
                if time.monotonic() > deadline:
                    raise StorageTrouble(advice(error)) from None
                self._end_whoever_is_suspended(error)
            except self.error as other:
                raise StorageTrouble(advice(other)) from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _end_whoever_is_suspended(self, error: BaseException | None) -> None:
        """If `error` is that others have not ended their turn for long, end the connections of those to blame."""
        if getattr(error, "sqlstate", None) == _LOCKED:
            self._try_once(_END_THE_SUSPENDED, (f"{_MOST_IDLE:g}s", f'"{self._database.schema}".turn'))

    def _try(self, session: _Session, work: Callable[[Transaction], T], *, only_reads: bool) -> T:
        committing: list[tuple[_ServerTransaction, T]] = []
        try:
            with session.pipelined():
                transaction = self._begin(session, only_reads=only_reads)
                committing.append((transaction, work(transaction)))
                session.execute("COMMIT")
        except BaseException as error:
            if not self._is_over(session, error):
                raise
            if only_reads or not committing:
                raise _Retry from error
            raise _CutOff(*committing[0]) from error
        transaction, done = committing[0]
        self._seen = transaction.epoch, transaction.number
        if not only_reads:
            self._note_commit(transaction)
        return done

    def _note_commit(self, transaction: _ServerTransaction) -> None:
        self._seen = transaction.epoch, transaction.number
        self._own_turns += 1
        self._has_lease = True

    def _is_over(self, session: _Session, error: BaseException) -> bool:
        """Roll back, or let go of a connection that is broken. Return whether another try is worth it."""
        connection = session.connection
        if not connection.closed:
            with suppress(self.error):
                session.execute("ROLLBACK")
                if isinstance(error, self.error):
                    self._drop()  # what it believes to be prepared may not be
                return getattr(error, "sqlstate", None) in {"40001", "40P01", _LOCKED}
        self._drop()
        return isinstance(error, self.error)

    def _begin(self, session: _Session, *, only_reads: bool) -> _ServerTransaction:
        execute = session.execute
        execute(f"BEGIN ISOLATION LEVEL {'REPEATABLE READ READ ONLY' if only_reads else 'READ COMMITTED READ WRITE'}")
        if not session.is_set_up:
            execute(_SETTINGS.format(local="true"), self._settings)
        query, asked_at = self._look if only_reads else self._take_turn, self._clock.uptime()
        facts = self._facts if not only_reads else {"turn": self._turn}
        found = execute(query, facts).fetchone()
        if found is None and not only_reads:
            execute("INSERT INTO turn VALUES (%s, 0) ON CONFLICT DO NOTHING", (self._turn,))
            found = execute(query, facts).fetchone()
        if found is None:
            raise StorageTrouble(f"its tables are damaged: it is not known which server they are of; {self._if_bad}")
        number, wall, identity, known_as, epoch = found
        self._check_nothing_is_lost(number if only_reads else number - 1, identity, known_as, epoch)
        ahead = self._ahead = wall - asked_at if self._ahead is None else self._ahead
        return _ServerTransaction(session, number, wall, self._clock.uptime() + ahead, epoch)

    @property
    def _settings(self) -> tuple[str, str, str]:
        return f'"{self._database.schema}", pg_temp', f"{_MOST_IDLE:g}s", f"{_LONGEST_TURN:g}s"

    @property
    def _facts(self) -> dict[str, Any]:
        return {
            "turn": self._turn, "owner": self.owner, "package": self._schema.package, "host": _HOST,
            "pid": os.getpid(), "lease": self._database.lease,
        }  # fmt: skip

    def _check_nothing_is_lost(self, number: int, identity: str, known_as: str, epoch: str) -> None:
        last_epoch, last_number = self._seen
        if identity != known_as:
            problem = (
                "it is another server than before: a standby that took over, or a copy that was restored. What was "
                f"committed last may be missing, so {self._content} is not known. End what is wrong, and say what to "
                "do: `twdm database resume`"
            )
            raise StorageTrouble(problem)
        if epoch == last_epoch and number < last_number:
            problem = (
                f"it has gone back to an earlier state, so {self._content} is not known. Say what to do: "
                "`twdm database resume`"
            )
            raise StorageTrouble(problem)

    def _was_committed(self, transaction: _ServerTransaction) -> bool:
        """Find out whether a transaction was committed whose connection broke meanwhile.

        Raises:
            StorageTrouble: that cannot be known.
        """
        deadline, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        while True:
            try:
                with self._connected() as session:
                    return self._ask_whether_committed(session, transaction)
            except (_Retry, self.error) as error:
                self._drop()
                self._end_whoever_is_suspended(error)
            if time.monotonic() > deadline:
                problem = (
                    "the connection broke when this was committed, and does not come back; it may be there: try again"
                )
                raise StorageTrouble(problem, is_unsure=True)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask_whether_committed(self, session: _Session, transaction: _ServerTransaction) -> bool:
        execute, schema = session.execute, self._database.schema
        execute("BEGIN")
        try:
            execute(_SETTINGS.format(local="true"), self._settings)
            # Once it is this connection's turn, the earlier one has come to its end.
            execute(f'SELECT 1 FROM "{schema}".turn WHERE name = %s FOR UPDATE', (self._turn,))  # noqa: S608 - checked
            query = f'SELECT {IDENTITY}, identity, epoch FROM "{schema}".server'  # noqa: S608 - checked
            identity, known_as, epoch = execute(query).fetchone()
            query = f'SELECT number FROM "{schema}".lease WHERE name = %s'  # noqa: S608 - checked
            found = execute(query, (self._name,)).fetchone()
        finally:
            execute("ROLLBACK")
        if identity != known_as or epoch != transaction.epoch:
            raise StorageTrouble("another server took over when this was committed, so it may be there", is_unsure=True)
        return found is not None and found[0] == transaction.number

    # ---- connections ----

    @contextmanager
    def _connected(self) -> Generator[_Session]:
        """Have a connection; it stays open, unless it is a pool's.

        Raises:
            _Retry: it cannot be had at the moment.
        """
        if self._database.pool is not None:
            with self._from_pool() as session:
                yield session
            return
        if self.owner and self._session is None:  # after a fork, it has a name and a connection of its own
            try:
                connection = self._database.connect()
            except self.error as error:
                if _LASTING.search(str(error)):
                    raise
                raise _Retry from error
            self._session = _Session(connection)
            try:
                self._set_up(self._session)
                self._check_version(self._session)
            except BaseException as error:
                is_lost = connection.closed and isinstance(error, self.error)
                self._drop()
                if is_lost:
                    raise _Retry from error
                raise
        assert self._session is not None  # noqa: S101 - it was just made
        yield self._session

    def _set_up(self, session: _Session) -> None:
        """Do once what else each transaction does, if this is a session of the server's: behind PgBouncer, each
        transaction may have another one.
        """
        connection = session.connection
        (pid,) = session.execute("SELECT pg_backend_pid()").fetchone()
        if pid == connection.info.backend_pid:
            session.execute(_SETTINGS.format(local="false"), self._settings)
            connection.prepare_threshold = _PREPARED_AFTER
            session.is_set_up = True

    @contextmanager
    def _from_pool(self) -> Generator[_Session]:
        pool, loop = self._database.pool, self._loop
        wait = pool.getconn(timeout=_PATIENCE) if loop is None else None
        if loop is not None:
            wait = asyncio.run_coroutine_threadsafe(pool.getconn(timeout=_PATIENCE), loop).result()
        session = _Session(wait, loop)
        connection = session.connection
        was_autocommit, threshold = connection.autocommit, connection.prepare_threshold
        try:
            session.run(connection.set_autocommit(True))
            connection.prepare_threshold = None
            self._check_version(session)
            yield session
        finally:
            if not connection.closed:
                with suppress(self.error):
                    connection.prepare_threshold = threshold
                    session.run(connection.set_autocommit(was_autocommit))
            session.run(pool.putconn(connection))

    def _check_version(self, session: _Session) -> None:
        if self._is_checked:
            return
        if session.connection.info.server_version < _OLDEST:
            raise StorageTrouble("it is older than PostgreSQL 13")
        query = f'SELECT package, version FROM "{self._database.schema}".schema'  # noqa: S608 - checked
        versions = dict(session.execute(query).fetchall())
        for schema in (COMMON, self._schema):
            version, known = versions.get(schema.package, 0), len(schema.steps)
            if version > known:
                problem = f"a newer version of this library made its tables ({schema.package} {version}); use that one"
                raise StorageTrouble(problem)
            if version < known:
                raise StorageTrouble(
                    "its tables are of an earlier version of this library; run `twdm database upgrade`"
                )
        self._is_checked = self._was_connected = True

    def _drop(self) -> None:
        """Let go of a connection that is broken."""
        if self._session is not None:
            with suppress(Exception):
                self._session.connection.close()
            self._session = None

    # ---- news, and who is alive ----

    def version(self) -> int:
        latest = self._schema.latest.replace("FROM ", f'FROM "{self._database.schema}".')
        query = f'SELECT number, ({latest}) FROM "{self._database.schema}".turn WHERE name = %s'  # noqa: S608 - checked
        found = self._try_once(query, (self._turn,))
        return hash((found[0] - self._own_turns, found[1])) if found else 0

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        if self._database.pool is not None:
            return super().listen(heard)  # it is not ours to keep one of its connections
        listener = _Listener(self._database, asyncio.get_running_loop(), heard)
        return listener.stop

    def stay_alive(self, _: Transaction, /) -> None:
        """Each transaction that changes something is a sign of life."""

    def beat(self) -> None:
        """Give a sign of life while there is nothing to do. To be called in the storage's thread."""
        if not self._has_lease:
            return
        lease = f'"{self._database.schema}".lease'
        query = f"UPDATE {lease} SET until = {self._database.now} + %s WHERE holder = %s RETURNING 1"  # noqa: S608 - checked
        self._try_once(query, (self._database.lease, self._name))

    def _try_once(self, query: str, values: Sequence[Any]) -> Any:
        """Return the first row, or ``None`` if there is none or it cannot be had; whoever is next will hear of that."""
        with suppress(Exception), self._connected() as session:
            try:
                return session.execute(query, values).fetchone()
            except self.error:
                self._drop()
                raise
        return None

    def is_dead(self, transaction: Transaction, /, owner: str) -> bool:
        # Nobody could give a sign of life while the server was down.
        query = "SELECT greatest(until, extract(epoch FROM pg_postmaster_start_time()) + ?) FROM lease WHERE name = ?"
        found = transaction.execute(query, (self._database.lease, owner)).fetchone()
        return found is None or found[0] < transaction.wall

    def sweep(self, transaction: Transaction, /) -> None:
        transaction.execute("DELETE FROM lease WHERE until < ?", (transaction.wall - _FORGOTTEN_AFTER,))

    def take_turn(self, transaction: Transaction, /, name: str) -> bool:
        query = (
            "INSERT INTO lease (name, holder, package, host, pid, since, until, number) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
            "until = excluded.until, since = excluded.since, host = excluded.host, pid = excluded.pid "
            "WHERE lease.holder = excluded.holder OR lease.until < excluded.since"
        )
        now = transaction.wall
        facts = (self._full(name), self.owner, name, socket.gethostname(), os.getpid(), now, now + self._database.lease)
        return transaction.execute(query, facts).rowcount == 1

    def end_turn(self, name: str) -> None:
        def end() -> None:
            query = "DELETE FROM lease WHERE name = ? AND holder = ?"
            with suppress(StorageTrouble):
                self.transact(lambda transaction: transaction.execute(query, (self._full(name), self.owner)))

        self.put(end)

    def _full(self, name: str) -> str:
        return f"{name} of {self._turn}"

    @property
    def is_alive(self) -> bool:
        return self._has_lease

    def release(self) -> None:
        self._has_lease = False

    def disconnect(self) -> None:
        if self._has_lease:
            query = "DELETE FROM lease WHERE holder = ?"
            with suppress(StorageTrouble):
                self.transact(lambda transaction: transaction.execute(query, (self.owner,)))
            self._has_lease = False
        self._drop()

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        pool = self._database.pool
        if pool is not None and inspect.iscoroutinefunction(pool.getconn):
            self._loop = asyncio.get_running_loop()
        return super().submit(job)

    def leave_behind(self) -> None:
        super().leave_behind()
        self._begin_anew()
