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
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from twdm_async._forks import forks
from twdm_async.storage.contract import Cursor, Schema, Storage, StorageTrouble, Transaction, User
from twdm_async.storage.postgres.connections import MOST_IDLE, Connections, Listener, Retry, Session
from twdm_async.storage.postgres.dialect import advice, in_postgres, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from twdm_async._clock import Clock
    from twdm_async.storage.postgres.database import PostgresDatabase

T = TypeVar("T")

_PATIENCE: Final = 30.0  # seconds in which a connection that was lost must come back
_FIRST_PATIENCE: Final = 3.0  # seconds, of who was never connected: the address may be wrong
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries to connect
_FORGOTTEN_AFTER: Final = 86_400.0  # seconds after its end, a lease is removed
_HOST: Final = socket.gethostname()
_LOCKED: Final = "55P03"
_ROLLED_BACK: Final = {"40001", "40P01", _LOCKED}  # and another try is worth it

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
# The server's own limit for idle transactions does not see those that were in the middle of a pipeline.
_END_THE_SUSPENDED: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity JOIN pg_locks USING (pid) "
    "WHERE usename = current_user AND wait_event = 'ClientRead' AND now() - query_start > CAST(%s AS interval) "
    "AND relation = to_regclass(%s) AND mode = 'RowExclusiveLock' AND granted"
)


class _Turn(NamedTuple):
    """A transaction's turn.

    Args:
        number: of the turn.
        wall: what the database's clock shows.
        uptime: see :mod:`twdm_async.storage.postgres.storage`.
        epoch: of the database.
    """

    number: int
    wall: float
    uptime: float
    epoch: str


class _CutOff(Exception):
    """The connection broke at the commit of a transaction.

    Args:
        turn: the transaction's.
        done: what its work returned.
    """

    def __init__(self, turn: _Turn, done: Any) -> None:
        super().__init__()
        self.turn = turn
        self.done = done


class _ServerTransaction(Transaction):
    """A transaction in the database.

    Args:
        session: within the transaction.
        begun: waits for its turn, and returns what it is then. Statements may be sent before that.
    """

    def __init__(self, session: Session, begun: Callable[[], _Turn]) -> None:
        self._session = session
        self._begun = begun
        self._turn: _Turn | None = None
        self._has_told = False

    @property
    def turn(self) -> _Turn:
        # Not functools.cached_property: before Python 3.12, it holds one lock for all objects of the class while it
        # computes, and this waits for the database.
        if self._turn is None:
            self._turn = self._begun()
        return self._turn

    @property
    def wall(self) -> float:
        return self.turn.wall

    @property
    def uptime(self) -> float:
        return self.turn.uptime

    def tell(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._session.execute("SELECT pg_notify(current_schema(), '')")

    def execute(self, query: str, values: Sequence[Any] = ()) -> Cursor:
        return self._session.execute(in_postgres(query), [storable(value) for value in values])


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

    is_remote = True

    def __init__(
        self, database: PostgresDatabase, schema: Schema, content: str, advice: str, clock: Clock, *, turn: str = ""
    ) -> None:
        super().__init__(schema, content, advice, clock)
        self._database = database
        self._connections = Connections(database, (COMMON, schema))
        self._turn = f"{schema.package} {turn}".strip()
        self._take_turn, self._look = _TAKE_TURN.format(now=database.now), _LOOK.format(now=database.now)
        self.error = database.library.Error
        self._begin_anew()
        self._ahead: float | None = None  # of this machine's uptime, the database's clock was when it was first asked
        self._seen: tuple[str, int] = ("", 0)  # the epoch, and the greatest number of a turn
        self._own_turns = 0
        self.beats_every = database.lease / 3

    def _begin_anew(self) -> None:
        self._name = secrets.token_hex(8)
        self._forks = forks()
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
        if self._forks != forks():  # what is open is the parent's, and so is the name
            self._begin_anew()

    # ---- transactions ----

    def _connected(self) -> AbstractContextManager[Session]:
        self._notice_fork()
        return self._connections.one()

    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:  # noqa: ARG002
        patience = _PATIENCE if self._connections.was_open else _FIRST_PATIENCE
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
        while True:
            try:
                with self._connected() as session:
                    return self._try(session, work, only_reads=only_reads)
            except _CutOff as cut_off:  # a pool may have no other connection than that one
                if self._was_committed(cut_off.turn):
                    self._note_commit(cut_off.turn)
                    return cut_off.done  # type: ignore[no-any-return]
                error = cut_off.__cause__
            except Retry as retry:
                error = retry.__cause__
            except self.error as other:
                raise StorageTrouble(advice(other)) from None
            if time.monotonic() > deadline:
                raise StorageTrouble(advice(error), is_general=_state_of(error) != _LOCKED) from None
            self._end_whoever_is_suspended(error)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _end_whoever_is_suspended(self, error: BaseException | None) -> None:
        """If `error` is that others have not ended their turn for long, end the connections of those to blame."""
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
        """Roll back, or let go of a connection that is broken. Return whether another try is worth it."""
        connection = session.connection
        if not connection.closed:
            with suppress(self.error):
                session.execute("ROLLBACK")
                if isinstance(error, self.error):
                    self._connections.drop()  # what it believes to be prepared may not be
                return _state_of(error) in _ROLLED_BACK
        self._connections.drop()
        return isinstance(error, self.error)

    def _begin(self, session: Session, *, only_reads: bool) -> _ServerTransaction:
        execute, level = session.execute, "REPEATABLE READ READ ONLY" if only_reads else "READ COMMITTED READ WRITE"
        session.begin(self._database.schema, f"ISOLATION LEVEL {level}")
        if not (only_reads or self._has_lease):  # it is the first
            execute("INSERT INTO turn VALUES (%s, 0) ON CONFLICT DO NOTHING", (self._turn,))
        asked_at, facts = self._clock.uptime(), self._facts if not only_reads else {"turn": self._turn}
        found = execute(self._look if only_reads else self._take_turn, facts)

        def begun() -> _Turn:
            row = found.fetchone()
            if row is None and self._has_lease and not only_reads:
                self._has_lease = False  # the row of its turn is gone: it is made anew, and seen to have gone back
                raise Retry
            if row is None:
                problem = f"its tables are damaged: a row of `turn` or `server` is missing; {self._if_bad}"
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

    def _was_committed(self, turn: _Turn) -> bool:
        """Find out whether a transaction was committed whose connection broke meanwhile.

        Raises:
            StorageTrouble: that cannot be known.
        """
        deadline, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        while True:
            try:
                with self._connected() as session:
                    return self._ask_whether_committed(session, turn)
            except (Retry, self.error) as error:
                self._connections.drop()
                self._end_whoever_is_suspended(error)
            if time.monotonic() > deadline:
                problem = (
                    "the connection broke when this was committed, and does not come back; it may be there: try again"
                )
                raise StorageTrouble(problem, is_unsure=True)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask_whether_committed(self, session: Session, turn: _Turn) -> bool:
        execute = session.execute
        session.begin(self._database.schema)
        try:
            # Once it is this connection's turn, the earlier one has come to its end.
            execute("SELECT 1 FROM turn WHERE name = %s FOR UPDATE", (self._turn,))
            identity, known_as, epoch = execute(f"SELECT {IDENTITY}, identity, epoch FROM server").fetchone()  # noqa: S608 - constants
            found = execute("SELECT number FROM lease WHERE name = %s", (self._name,)).fetchone()
        finally:
            execute("ROLLBACK")
        if identity != known_as or epoch != turn.epoch:
            raise StorageTrouble("another server took over when this was committed, so it may be there", is_unsure=True)
        return found is not None and found[0] == turn.number

    # ---- news, and who is alive ----

    def version(self) -> int:
        latest = self._schema.latest.replace("FROM ", f'FROM "{self._database.schema}".')
        query = f'SELECT number, ({latest}) FROM "{self._database.schema}".turn WHERE name = %s'  # noqa: S608 - checked
        found = self._try_once(query, (self._turn,))
        return hash((found[0] - self._own_turns, found[1])) if found else 0

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        if self._database.pool is not None:
            return super().listen(heard)  # it is not ours to keep one of its connections
        listener = Listener(self._database, asyncio.get_running_loop(), heard)
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
                self._connections.drop()
                raise
        return None

    def is_dead(self, transaction: Transaction, /, owner: str) -> bool:
        # Nobody could give a sign of life while the server was down.
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
        self._connections.drop()

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        self._connections.use_running_loop()
        return super().submit(job)

    def leave_behind(self) -> None:
        super().leave_behind()
        self._begin_anew()


def _state_of(error: BaseException | None) -> str:
    """Return the server's code for what went wrong; empty if the error is not the server's."""
    return getattr(error, "sqlstate", None) or ""
