"""Storage in a PostgreSQL database, which processes on many hosts share.

*Turns.* Transactions that change the tables of one package (and in an outbox, of one account) take turns: each begins
by incrementing its row in the table ``turn``, which locks the row until the transaction ends. So code that is written
for a file, where all transactions run one after the other, works here, too. An application that inserts a message by
:meth:`Outbox.insertion <twdm_async.outbox.Outbox.insertion>` takes no turn, and never waits for one.

*Who is alive.* Each user of the tables has a row in ``lease`` with a moment, by the database's clock, until which it is
believed to be alive. Each of its transactions moves that moment on, and so does its thread when it is idle. A process
that was suspended for longer is taken for dead. When it resumes, its quota slots keep it from sending: the first byte
of a request must leave within a limited time after its slot was taken.

*Commits.* Each transaction writes the number of its turn into its user's lease. So if the connection breaks during a
commit, the next connection can tell whether the transaction was committed.

*Losses.* A standby that becomes the primary may lack the last commits, and so may a restored backup. Then it is not
known what was sent meanwhile. So the identity of the database (its system, its timeline) is stored in a table, and it
is an error if the actual identity differs, until a person says what to do: ``twdm database resume``. It is an error,
too, if the number of a turn is less than one that a running process has seen.

*Clocks.* ``wall`` is the database's clock. ``uptime`` is this machine's uptime, which does not step, plus an offset
with which both agreed when the database was first asked.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from twdm_async._forks import this_process
from twdm_async.storage.contract import Cursor, Schema, Storage, StorageTrouble, Transaction, User
from twdm_async.storage.postgres.connections import MOST_IDLE, Connections, Listener, Retry, Session
from twdm_async.storage.postgres.dialect import advice, in_postgres, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from twdm_async._clock import Clock
    from twdm_async.storage.postgres.database import PostgresDatabase

T = TypeVar("T")

_PATIENCE: Final = 30.0  # seconds in which a lost connection must come back
_FIRST_PATIENCE: Final = 3.0  # seconds for a process that was never connected, since its address may be wrong
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries
_FORGOTTEN_AFTER: Final = 86_400.0  # seconds after which a lease that has ended is removed
_HOST: Final = socket.gethostname()
_LOCKED: Final = "55P03"
_ROLLED_BACK: Final = {"40001", "40P01", _LOCKED}  # errors after which another try is worth it

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
"""The identity of the database, in SQL: its system, its timeline (a new one begins when a standby takes over), and its
number within the system.
"""

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
# The server's own limit for idle transactions does not apply to processes that were suspended within a pipeline.
_END_THE_SUSPENDED: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity JOIN pg_locks USING (pid) "
    "WHERE usename = current_user AND wait_event = 'ClientRead' AND now() - query_start > CAST(%s AS interval) "
    "AND relation = to_regclass(%s) AND mode = 'RowExclusiveLock' AND granted"
)


class _Turn(NamedTuple):
    """A transaction's turn.

    Args:
        number: the number of the turn.
        wall: the time by the database's clock, in seconds since 1970.
        uptime: see :mod:`twdm_async.storage.postgres.storage`.
        epoch: the epoch of the database; ``twdm database resume`` begins a new one.
    """

    number: int
    wall: float
    uptime: float
    epoch: str


class _CutOff(Exception):
    """The connection broke during the commit of a transaction.

    Args:
        turn: the transaction's turn.
        done: what its work returned.
    """

    def __init__(self, turn: _Turn, done: Any) -> None:
        super().__init__()
        self.turn = turn
        self.done = done


class _ServerTransaction(Transaction):
    """A transaction in the database.

    Args:
        session: the session, within the transaction.
        begun: waits for the turn, and returns it. Statements may be sent before it is called.
    """

    def __init__(self, session: Session, begun: Callable[[], _Turn]) -> None:
        self._session = session
        self._begun = begun
        self._turn: _Turn | None = None
        self._has_told = False

    @property
    def turn(self) -> _Turn:
        # Not functools.cached_property: before Python 3.12, it holds a lock that all objects of the class share, and
        # this waits for the database.
        if self._turn is None:
            self._turn = self._begun()
        return self._turn

    @property
    def wall(self) -> float:
        return self.turn.wall

    @property
    def uptime(self) -> float:
        return self.turn.uptime

    def await_turn(self) -> None:
        _ = self.turn

    def tell(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._session.execute("SELECT pg_notify(current_schema(), '')")

    def execute(self, query: str, values: Sequence[Any] = ()) -> Cursor:
        return self._session.execute(in_postgres(query), [storable(value) for value in values])


class PostgresStorage(Storage):
    """The tables of one package in a database.

    Args:
        database: the database.
        schema: the tables.
        clock: this machine's clock.
        turn: transactions of the same package and turn run one after the other.
    """

    is_remote = True

    def __init__(self, database: PostgresDatabase, schema: Schema, clock: Clock, *, turn: str = "") -> None:
        super().__init__(schema, clock)
        self._database = database
        self._connections = Connections(database, (COMMON, schema))
        self._turn = f"{schema.package} {turn}".strip()
        self._take_turn, self._look = _TAKE_TURN.format(now=database.now), _LOOK.format(now=database.now)
        self.error: Any = database.library.Error
        self._begin_anew()
        self._ahead: float | None = None  # seconds, when first asked: the database's clock less this machine's uptime
        self._seen: tuple[str, int] = ("", 0)  # the epoch, and the number of the last turn in it
        self._own_turns = 0
        self.beats_every: float | None = database.lease / 3

    def _begin_anew(self) -> None:
        self._name = secrets.token_hex(8)
        self._forks = this_process.forks
        self._connections.begin_anew()
        self._has_lease = False

    @property
    def address(self) -> str:
        return self._database.address

    @property
    def owner(self) -> str:
        self._notice_fork()
        return self._name

    def _notice_fork(self) -> None:
        if self._forks != this_process.forks:  # the connection and the name belong to the parent process
            self._begin_anew()

    # ---- transactions ----

    def _connected(self) -> AbstractContextManager[Session]:
        self._notice_fork()
        return self._connections.one()

    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:  # noqa: ARG002
        error: BaseException | None = None
        for _ in _tries(_PATIENCE if self._connections.was_open else _FIRST_PATIENCE):
            try:
                with self._connected() as session:
                    return self._try(session, work, only_reads=only_reads)
            except _CutOff as cut_off:  # outside the with block, since the pool may have no other connection
                if self._was_committed(cut_off.turn):
                    self._note_commit(cut_off.turn)
                    return cut_off.done  # type: ignore[no-any-return]
                error = cut_off.__cause__
            except Retry as retry:
                error = retry.__cause__
            except self.error as other:
                raise StorageTrouble(advice(other)) from None
            self._end_whoever_is_suspended(error)
        raise StorageTrouble(advice(error), is_general=_state_of(error) != _LOCKED)

    def _end_whoever_is_suspended(self, error: BaseException | None) -> None:
        """If `error` says that others have not ended their turn for long, end the connections that are suspended."""
        if _state_of(error) == _LOCKED:
            self._try_once(_END_THE_SUSPENDED, (f"{MOST_IDLE:g}s", f'"{self._database.schema}".turn'))

    def _try(self, session: Session, work: Callable[[Transaction], T], *, only_reads: bool) -> T:
        committing: list[tuple[_Turn, T]] = []
        try:
            with session.pipelined():
                transaction = self._begin(session, only_reads=only_reads)
                done = work(transaction)
                committing.append((transaction.turn, done))
                session.execute("COMMIT")
        except BaseException as error:
            if not self._is_over(session, error):
                raise
            if only_reads or not committing or _state_of(error) in _ROLLED_BACK:
                raise Retry from error
            raise _CutOff(*committing[0]) from error
        turn, done = committing[0]
        if only_reads:
            self._seen = turn.epoch, turn.number
        else:
            self._note_commit(turn)
        return done

    def _note_commit(self, turn: _Turn) -> None:
        self._seen = turn.epoch, turn.number
        self._own_turns += 1
        self._has_lease = True

    def _is_over(self, session: Session, error: BaseException) -> bool:
        """Roll back, or drop a broken connection. Return whether another try is worth it."""
        connection = session.connection
        if not connection.closed:
            with suppress(self.error):
                session.execute("ROLLBACK")
                if isinstance(error, self.error):
                    self._connections.drop()  # the statements that psycopg believes to be prepared may not be
                return _state_of(error) in _ROLLED_BACK
        self._connections.drop()
        return isinstance(error, self.error)

    def _begin(self, session: Session, *, only_reads: bool) -> _ServerTransaction:
        execute, level = session.execute, "REPEATABLE READ READ ONLY" if only_reads else "READ COMMITTED READ WRITE"
        session.begin(self._database.schema, f"ISOLATION LEVEL {level}")
        if not (only_reads or self._has_lease):  # the first change by this process
            execute("INSERT INTO turn VALUES (%s, 0) ON CONFLICT DO NOTHING", (self._turn,))
        asked_at, facts = self._clock.uptime(), self._facts if not only_reads else {"turn": self._turn}
        found = execute(self._look if only_reads else self._take_turn, facts)

        def begun() -> _Turn:
            row = found.fetchone()
            if row is None and self._has_lease and not only_reads:
                self._has_lease = False  # the turn's row is gone: the next try creates it, and detects the loss
                raise Retry
            if row is None:
                problem = f"its tables are damaged: a row of `turn` or `server` is missing; {self._schema.advice}"
                raise StorageTrouble(problem)
            number, wall, identity, known_as, epoch = row
            self._check_nothing_is_lost(number if only_reads else number - 1, identity, known_as, epoch)
            ahead = self._ahead = wall - asked_at if self._ahead is None else self._ahead
            return _Turn(number, wall, self._clock.uptime() + ahead, epoch)

        return _ServerTransaction(session, begun)

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
                f"committed last may be missing, so {self._schema.content} is not known. End all processes that use "
                "the tables, and say what to do: `twdm database resume`"
            )
            raise StorageTrouble(problem)
        if epoch == last_epoch and number < last_number:
            problem = (
                f"it has gone back to an earlier state, so {self._schema.content} is not known. Say what to do: "
                "`twdm database resume`"
            )
            raise StorageTrouble(problem)

    def _was_committed(self, turn: _Turn) -> bool:
        """Find out whether a transaction was committed whose connection broke during the commit.

        Raises:
            StorageTrouble: the database could not be reached again in time, or another server has taken over.
        """
        for _ in _tries(_PATIENCE):
            try:
                with self._connected() as session:
                    return self._ask_whether_committed(session, turn)
            except (Retry, self.error) as error:
                self._connections.drop()
                self._end_whoever_is_suspended(error)
        problem = "the connection broke during the commit and does not come back; the change may be there: try again"
        raise StorageTrouble(problem, is_unsure=True)

    def _ask_whether_committed(self, session: Session, turn: _Turn) -> bool:
        execute = session.execute
        session.begin(self._database.schema)
        try:
            # Once it is this connection's turn, the earlier transaction has ended.
            execute("SELECT 1 FROM turn WHERE name = %s FOR UPDATE", (self._turn,))
            identity, known_as, epoch = execute(f"SELECT {IDENTITY}, identity, epoch FROM server").fetchone()  # noqa: S608 - constants
            found = execute("SELECT number FROM lease WHERE name = %s", (self._name,)).fetchone()
        finally:
            execute("ROLLBACK")
        if identity != known_as or epoch != turn.epoch:
            raise StorageTrouble("another server took over during the commit: the change may be there", is_unsure=True)
        return found is not None and found[0] == turn.number

    # ---- news, and who is alive ----

    def version(self) -> int:
        latest = self._schema.latest.replace("FROM ", f'FROM "{self._database.schema}".')
        query = f'SELECT number, ({latest}) FROM "{self._database.schema}".turn WHERE name = %s'  # noqa: S608 - checked
        found = self._try_once(query, (self._turn,))
        return hash((found[0] - self._own_turns, found[1])) if found else 0

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        if self._database.pool is not None:
            return super().listen(heard)  # the pool belongs to the application, so we may not keep a connection of it
        listener = Listener(self._database, asyncio.get_running_loop(), heard)
        return listener.stop

    def stay_alive(self, _: Transaction, /) -> None:
        """Do nothing, since each transaction that changes something is a sign of life."""

    def beat(self) -> None:
        """Give a sign of life while there is nothing else to do. Call this in the storage's thread."""
        if not self._has_lease:
            return
        lease = f'"{self._database.schema}".lease'
        query = f"UPDATE {lease} SET until = {self._database.now} + %s WHERE holder = %s RETURNING 1"  # noqa: S608 - checked
        self._try_once(query, (self._database.lease, self._name))

    def _try_once(self, query: str, values: Sequence[Any]) -> Any:
        """Return the first row; ``None`` if there is none or the query fails. The next transaction will raise that."""
        with suppress(Exception), self._connected() as session:
            try:
                return session.execute(query, values).fetchone()
            except self.error:
                self._connections.drop()
                raise
        return None

    def is_dead(self, transaction: Transaction, /, owner: str) -> bool:
        # While the server was down, no process could give a sign of life.
        query = "SELECT greatest(until, extract(epoch FROM pg_postmaster_start_time()) + ?) FROM lease WHERE name = ?"
        found = transaction.execute(query, (self._database.lease, owner)).fetchone()
        return found is None or found[0] < transaction.wall

    def users(self, transaction: Transaction, /) -> list[User]:
        query = (
            "SELECT name, host, pid, since, until >= ? FROM lease WHERE package = ? AND name = holder AND name != ? "
            "ORDER BY since"
        )
        found = transaction.execute(query, (transaction.wall, self._schema.package, self.owner))
        return [User(*row) for row in found]

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
        facts = (self._full(name), self.owner, name, _HOST, os.getpid(), now, now + self._database.lease)
        return transaction.execute(query, facts).rowcount == 1

    def end_turn(self, name: str) -> None:
        query = "DELETE FROM lease WHERE name = ? AND holder = ?"
        self.change_soon(lambda transaction: transaction.execute(query, (self._full(name), self.owner)))

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
        self._connections.drop()

    def use_running_loop(self) -> None:
        self._connections.use_running_loop()

    def leave_behind(self) -> None:
        super().leave_behind()
        self._begin_anew()


def _tries(patience: float) -> Iterator[None]:
    """Yield once, and again after growing pauses until `patience` seconds have passed."""
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    yield
    while time.monotonic() <= deadline:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        yield


def _state_of(error: BaseException | None) -> str:
    """Return the server's code for what went wrong; empty if the error is not the server's."""
    return getattr(error, "sqlstate", None) or ""
