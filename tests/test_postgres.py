"""PostgreSQL under an outbox, an inbox and quotas: a real server that crashes, drops connections and fails over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import psycopg_pool
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from tests.drainer import table
from tests.postgres_server import PostgresServer
from tests.receiving import FLAT, KEYS, changed, post
from tests.redis_server import free_port
from tests.support import HANGS
from twdm_async import (
    Client,
    DatabaseFailed,
    Inbox,
    InboxFailed,
    InvalidInput,
    OutboxFailed,
    PostgresDatabase,
    PostgresQuotaStore,
    QuotaStore,
    QuotaStoreFailed,
)
from twdm_async._clock import Clock
from twdm_async.database import check, install, install_sql, resume
from twdm_async.outbox import Entry, Outbox, State
from twdm_async.outbox.rows import SCHEMA, NewMessage, Rows
from twdm_async.quota.spec import Priority
from twdm_async.resources.inbox import Received
from twdm_async.storage.contract import StorageTrouble, Transaction
from twdm_async.storage.postgres import connections
from twdm_async.storage.postgres import storage as storage_module
from twdm_async.storage.postgres.connections import Session
from twdm_async.storage.postgres.dialect import in_postgres
from twdm_async.storage.postgres.storage import PostgresStorage
from twdm_async.webhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from twdm_async.outbox import Insertion
    from twdm_async.sandbox import Sandbox
    from twdm_async.webhooks import Event

TEXT = "SENTINEL text"


@contextlib.asynccontextmanager
async def box(sandbox: Sandbox, database: PostgresDatabase, **options: Any) -> AsyncIterator[Outbox]:
    """An outbox whose slots are in the same database."""
    async with (
        PostgresQuotaStore(database) as store,
        Client(
            sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table(), quota_store=store
        ) as client,
        Outbox(client, database, **options) as outbox,
    ):
        yield outbox


@pytest.fixture(autouse=True)
def all_is_closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop()._connections.drop()


_opened: list[PostgresStorage] = []


def storage_of(database: PostgresDatabase) -> PostgresStorage:
    storage = PostgresStorage(database, SCHEMA, Clock(), turn="5")
    _opened.append(storage)
    return storage


def count_up(transaction: Transaction) -> int:
    """A change that shows how often it was made."""
    query = "INSERT INTO outcome VALUES ('test', 1) ON CONFLICT (account) DO UPDATE SET last = outcome.last + 1"
    transaction.execute(query)
    return int(transaction.execute("SELECT last FROM outcome WHERE account = ?", ("test",)).fetchone()[0])


# ---- the tables ----


async def test_what_is_not_there_is_made_and_checked(postgres: PostgresServer, sandbox: Sandbox) -> None:
    database = PostgresDatabase(postgres.url, schema="fresh")
    with pytest.raises(DatabaseFailed, match="twdm database install"):
        await check(database)
    with pytest.raises(OutboxFailed, match="twdm database install"):
        async with Client(sandbox.credentials) as client, Outbox(client, database):
            pass
    await asyncio.gather(*(install(database) for _ in range(3)))
    assert await check(database) == ()
    async with box(sandbox, database) as outbox:
        await outbox.put("5", TEXT)
        users = await check(database)
    assert {(user.package, user.is_alive) for user in users} >= {("outbox", True)}
    assert await check(database) == (), "whoever has ended is not shown"


def test_the_statements_of_a_migration_need_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg", "psycopg.conninfo"):
        monkeypatch.setitem(sys.modules, name, None)
    assert install_sql("mine").startswith('CREATE SCHEMA "mine"')
    with pytest.raises(InvalidInput, match="lower-case letters"):
        install_sql('"; DROP')


async def test_the_statements_of_a_migration_make_the_same(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url) as db:
        db.execute(install_sql("by_hand"))
    database = PostgresDatabase(f"{postgres.url}?twdm_schema=by_hand")
    assert database.schema == "by_hand"
    assert await check(database) == ()
    await install(database)
    async with Inbox(database) as inbox:
        assert [one.id for one in await inbox.keep([Received("5", "1", "{}")])] == ["1"]


async def test_tables_of_another_version_are_refused(database: PostgresDatabase, postgres: PostgresServer) -> None:
    for version, words in ((99, "newer version"), (1, "upgrade")):
        with psycopg.connect(postgres.url) as db:
            db.execute(f"UPDATE {database.schema}.schema SET version = {version} WHERE package = 'outbox'")  # noqa: S608 - of the test
        with pytest.raises(StorageTrouble, match=words):
            storage_of(database).transact(count_up)
        with pytest.raises(DatabaseFailed, match="version"):
            await check(database)


async def test_a_user_with_few_rights_can_send(
    database: PostgresDatabase, postgres: PostgresServer, sandbox: Sandbox
) -> None:
    schema = database.schema
    with psycopg.connect(postgres.url) as db:
        db.execute(f"CREATE ROLE {schema} LOGIN")
    restricted = PostgresDatabase(postgres.url.replace("twdm@", f"{schema}@"), schema=schema, lease=3.0)
    with pytest.raises(StorageTrouble, match=r"may not use the tables|not there"):
        storage_of(restricted).transact(count_up)
    with psycopg.connect(postgres.url) as db:
        db.execute(f"GRANT USAGE ON SCHEMA {schema} TO {schema}")
        db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {schema}")
    async with box(sandbox, restricted) as outbox:
        await outbox.put("5", TEXT)
        assert (await outbox.drain())[State.SENT] == 1


async def test_an_application_that_only_inserts_needs_fewer_rights(
    database: PostgresDatabase, postgres: PostgresServer, sandbox: Sandbox
) -> None:
    schema = database.schema
    with psycopg.connect(postgres.url) as db:
        db.execute(f"CREATE ROLE {schema} LOGIN")
        db.execute(f"GRANT USAGE ON SCHEMA {schema} TO {schema}")
        db.execute(f"GRANT SELECT, INSERT ON {schema}.message TO {schema}")
    async with box(sandbox, database) as outbox:
        insertion = outbox.insertion("5", TEXT, key="order 7")
        with psycopg.connect(postgres.url.replace("twdm@", f"{schema}@")) as db:
            for _ in range(2):
                db.execute(*insertion.psycopg)
        assert (await outbox.drain())[State.SENT] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"url": None},
        {"url": "postgresql://localhost:port/x"},
        {"url": "postgresql://anna:pass@word@localhost/x"},
        {"url": "postgresql://localhost/x?colour=red"},
        {"url": "postgresql://localhost/x", "schema": "Robert'); DROP TABLE"},
        {"url": "postgresql://localhost/x", "schema": ""},
        {"url": "postgresql://localhost/x", "lease": 0.5},
        {"url": "postgresql://localhost/x", "lease": "long"},
    ],
)
def test_databases_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        PostgresDatabase(**options)


def test_a_password_is_not_shown() -> None:
    database = PostgresDatabase("postgresql://anna:SENTINEL@localhost:5433/brand")
    assert "SENTINEL" not in f"{database!r} {database.address}"
    store = QuotaStore.from_url("postgresql://anna:SENTINEL@localhost:5433/brand")
    assert store.address == "postgresql://localhost:5433/brand"


@pytest.mark.soak
async def test_a_server_that_is_not_there_is_told_at_once(sandbox: Sandbox) -> None:
    database = PostgresDatabase("postgresql://anna:SENTINEL@127.0.0.1:1/brand")
    with pytest.raises(OutboxFailed, match="reachable"):
        async with asyncio.timeout(HANGS):
            async with Client(sandbox.credentials) as client, Outbox(client, database):
                pass


def test_statements_are_the_same_in_both_dialects_but_for_some_words() -> None:
    assert in_postgres("SELECT 1 FROM message INDEXED BY some WHERE +account = ? AND key = ?") == (
        "SELECT 1 FROM message  WHERE account = %s AND key = %s"
    )
    assert in_postgres("id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL") == (
        "id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at DOUBLE PRECISION"
    )


async def test_texts_that_the_database_does_not_take(database: PostgresDatabase) -> None:
    async with Inbox(database) as inbox:
        event = Received("5", "1", "{}")
        await inbox.keep([event])
        await inbox.set_aside(event, "a null \0 and half a pair \ud83d")
        (failed,) = await inbox.failed()
        assert failed.problem.startswith("a null \ufffd and half a pair")


class Explained(Transaction):
    """A transaction that notes the plan of each of its statements."""

    wall = uptime = 2e9

    def __init__(self, db: psycopg.Connection[Any]) -> None:
        self._db = db
        self.scans: list[str] = []

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        translated = in_postgres(query)
        for (line,) in self._db.execute(f"EXPLAIN {translated}", list(values)).fetchall():
            if "Seq Scan on message" in line or "Seq Scan on event" in line:
                self.scans.append(f"{line.strip()}: {query}")
        return self._db.execute(translated, list(values))


def many_rows(db: psycopg.Connection[Any], count: int) -> None:
    """Nearly all of them are done: five in a thousand wait, and as many are unknown."""
    db.execute(
        "INSERT INTO message (account, key, digest, recipient_id, fingerprint, payload, priority, lane, put_at, state, "
        "attempts, sent_at, sent_uptime, ended_at, ended_uptime, message_id, change, changed_at) "
        "SELECT '5', n::text, '', (n %% 5000)::text, '', '{}', %s, (n / 200 %% 3)::text, 1e9, "
        "CASE n %% 200 WHEN 0 THEN 'queued' WHEN 1 THEN 'unknown' ELSE 'sent' END, 1, 1e9, 1, 1e9, 1, "
        "CASE WHEN n %% 200 > 1 THEN n::text END, n, 1e9 FROM generate_series(1, %s) n",
        (int(Priority.BULK), count),
    )
    db.execute(
        "INSERT INTO event (account, id, kept_at, body, problem) SELECT '5', n::text, 1e9, "
        "CASE n %% 200 WHEN 0 THEN '{}' END, CASE n %% 400 WHEN 0 THEN 'bad' END FROM generate_series(1, %s) n",
        (count,),
    )
    db.execute("ANALYZE message")
    db.execute("ANALYZE event")


@pytest.mark.slow
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.thorough])])
def test_fault_106_no_query_goes_through_what_is_done(
    database: PostgresDatabase, postgres: PostgresServer, count: int
) -> None:
    """But for those that tell of it: counts and selections by state."""
    with psycopg.connect(postgres.url) as db:
        db.execute("SELECT set_config('search_path', %s, false)", (database.schema,))
        many_rows(db, count)
        transaction = Explained(db)
        rows = Rows(transaction, "5")
        assert rows.left_to_send()
        (taken, *_) = rows.take_up("me", Priority.BULK, "", 3, avoided=["7", "8"])
        assert rows.leave(taken.id, "me", 2e9).rowcount
        rows.take_up("me", Priority.BULK, "", 1, is_probe=True, avoided=["7"])
        rows.put(NewMessage("new", "", "5", None, "", "", "{}", Priority.BULK, None))
        rows.next_try()
        rows.arrived(taken.id, "me", "id", 2e9)
        rows.let_go(taken.id, "me")
        rows.give_up("me")
        rows.reclaim(lambda *_: True, "me", set)
        rows.nameless()
        assert len(rows.unknown()) == count // 200
        rows.outcomes(0)
        rows.is_known("7")
        rows.purge(1.0, 0)
        rows.purge(1.0, count // 2)
        rows.get("7")
        rows.withdraw("200")
        rows.retry("201")
        assert transaction.scans == []


# ---- connections ----


def test_fault_109_a_connection_that_is_ended_is_made_anew(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    storage = storage_of(database)
    assert storage.transact(count_up) == 1
    with psycopg.connect(postgres.url, autocommit=True) as db:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'twdm_async'"
        for number in range(2, 5):
            db.execute(end)
            assert storage.transact(count_up) == number


def test_fault_109_a_server_that_crashes_between_two_transactions(postgres_programs: Path) -> None:
    with PostgresServer(postgres_programs) as server:
        database = PostgresDatabase(server.url)
        asyncio.run(install(database))
        storage = storage_of(database)
        assert storage.transact(count_up) == 1
        server.crash()
        server.start()
        assert storage.transact(count_up) == 2


class Cut(Exception):
    """The connection is cut here."""


@pytest.mark.parametrize("is_committed", [False, True])
def test_fault_110_a_connection_that_is_cut_at_the_commit(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, *, is_committed: bool
) -> None:
    """Whoever asks again is told whether it was committed; what was not is done once more."""
    storage, execute, cuts = storage_of(database), Session.execute, 0
    assert storage.transact(count_up) == 1

    def cutting(session: Session, query: str, values: Any = ()) -> Any:
        nonlocal cuts
        if query == "COMMIT" and not cuts:
            cuts += 1
            if is_committed:
                execute(session, query)
                session.catch_up()
            session.connection.close()
            raise psycopg.OperationalError("the connection is lost")
        return execute(session, query, values)

    monkeypatch.setattr(Session, "execute", cutting)
    made: list[int] = []

    def noted(transaction: Transaction) -> int:
        made.append(1)
        return count_up(transaction)

    assert storage.transact(noted) == 2
    assert len(made) == (1 if is_committed else 2)
    assert storage.transact(count_up) == 3


@pytest.mark.slow
async def test_who_waits_for_an_application_keeps_no_other_up_for_good(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    """Of two messages that are put together, an open transaction puts one, too."""
    monkeypatch.setattr(connections, "LONGEST_TURN", 0.05)
    monkeypatch.setattr(storage_module, "_PATIENCE", 0.3)
    async with box(sandbox, database) as outbox:
        with psycopg.connect(postgres.url) as db:
            db.execute(*outbox.insertion("5", TEXT, key="theirs").psycopg)
            puts = [outbox.put("5", TEXT, key=key) for key in ("first", "theirs", "ours")]
            first, theirs, ours = await asyncio.gather(*puts, return_exceptions=True)
            db.rollback()
        assert isinstance(first, Entry)
        assert isinstance(theirs, OutboxFailed)
        assert isinstance(ours, Entry)


def out_of_reach(patch: pytest.MonkeyPatch) -> list[int]:
    """Let nobody connect any more, and wait for that not for long. Returns what grows with each try."""
    tries: list[int] = []

    def gone(_: PostgresDatabase) -> Any:
        tries.append(1)
        raise psycopg.OperationalError("nobody is there")

    patch.setattr(storage_module, "_PATIENCE", 0.1)
    patch.setattr(PostgresDatabase, "connect", gone)
    return tries


async def test_a_server_that_is_gone_is_waited_for_once_by_all(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    """And not by one after the other."""
    async with box(sandbox, database) as outbox:
        await outbox.counts()
        with monkeypatch.context() as patch:
            tries = out_of_reach(patch)
            await outbox._storage.submit(outbox._storage._connections.drop)  # type: ignore[attr-defined]
            puts = [outbox.put("5", f"{TEXT} {number}") for number in range(50)]
            failed = await asyncio.gather(*puts, return_exceptions=True)
        assert {type(one) for one in failed} == {OutboxFailed}
        assert len(tries) < 50, "as many as there would be with one try for each"


def test_a_turn_that_is_gone_is_a_loss(database: PostgresDatabase, postgres: PostgresServer) -> None:
    storage = storage_of(database)
    assert storage.transact(count_up) == 1
    assert storage.transact(count_up) == 2
    with psycopg.connect(postgres.url) as db:
        db.execute(f"DELETE FROM {database.schema}.turn")  # noqa: S608 - of the test
    with pytest.raises(StorageTrouble, match="gone back"):
        storage.transact(count_up)
    asyncio.run(resume(database, is_complete=True))
    assert storage.transact(count_up) == 3


async def test_fault_110_a_commit_of_which_nobody_knows_is_told(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    """The server is gone for longer than anybody waits: the error says that it may be there. It is put once."""
    execute = Session.execute

    def cutting(session: Session, query: str, values: Any = ()) -> Any:
        if query != "COMMIT":
            return execute(session, query, values)
        execute(session, query)
        session.catch_up()
        session.connection.close()
        raise psycopg.OperationalError("the connection is lost")

    async with box(sandbox, database) as outbox:
        await outbox.counts()
        with monkeypatch.context() as patch:
            out_of_reach(patch)
            patch.setattr(Session, "execute", cutting)
            with pytest.raises(OutboxFailed, match="may be there") as caught:
                await outbox.put("5", TEXT, key="order 7")
            assert caught.value.is_unsure
            with pytest.raises(OutboxFailed) as caught:
                await outbox.put("5", TEXT, key="order 8")
            assert not caught.value.is_unsure
        assert (await outbox.put("5", TEXT, key="order 7")).state is State.QUEUED
        assert (await outbox.counts())[State.QUEUED] == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_lock_of_somebody_else_is_waited_for_and_then_told(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, *, is_waited_for: bool
) -> None:
    """Also where the lock is only noticed at the commit, which was not made then."""
    monkeypatch.setattr(connections, "LONGEST_TURN", 0.05)
    monkeypatch.setattr(storage_module, "_PATIENCE", 0.3)
    storage = storage_of(database)
    assert storage.transact(count_up) == 1

    def change(transaction: Transaction) -> None:
        cursor = transaction.execute("UPDATE outcome SET last = last + 1")
        if is_waited_for:
            assert cursor.rowcount == 1

    with psycopg.connect(postgres.url) as db:
        db.execute(f"SELECT 1 FROM {database.schema}.outcome FOR UPDATE")  # noqa: S608 - of the test
        with pytest.raises(StorageTrouble, match="keeps a lock") as caught:
            storage.transact(change)
        assert not caught.value.is_unsure
    assert storage.transact(count_up) == 2


@pytest.mark.parametrize("is_in_pipeline", [False, True])
def test_fault_111_a_process_that_is_suspended_within_a_transaction_keeps_nobody_up(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, *, is_in_pipeline: bool
) -> None:
    monkeypatch.setattr(storage_module, "MOST_IDLE", 0.2)
    monkeypatch.setattr(connections, "MOST_IDLE", 0.2)
    monkeypatch.setattr(connections, "LONGEST_TURN", 0.1)
    suspended, other = storage_of(database), storage_of(database)
    tries: list[int] = []
    others: list[int] = []

    def long(transaction: Transaction) -> int:
        tries.append(count_up(transaction))
        if not others:
            if is_in_pipeline:
                transaction.execute("UPDATE outcome SET last = last")  # and nobody asks for its outcome
            others.append(other.transact(count_up))
        return tries[-1]

    assert suspended.transact(long) == 2
    assert others == [1], "the server ended the transaction, and others went on"
    assert set(tries) == {1, 2}


@pytest.mark.slow
async def test_whoever_is_silent_is_taken_for_dead(postgres: PostgresServer, database: PostgresDatabase) -> None:
    short = PostgresDatabase(postgres.url, schema=database.schema, lease=1.0)
    silent, other, lively = storage_of(short), storage_of(short), storage_of(short)
    silent.transact(count_up)
    await lively.change(count_up)  # in a thread, which gives signs of life

    def is_dead(storage: PostgresStorage) -> bool:
        return other.transact(lambda transaction: other.is_dead(transaction, storage.owner))

    assert not is_dead(silent)
    async with asyncio.timeout(HANGS):
        while not is_dead(silent):
            await asyncio.sleep(0.05)
    assert not is_dead(lively)
    await lively.close()
    assert is_dead(lively)


@pytest.mark.slow
async def test_fault_111_events_that_others_took_over_are_left_to_them(
    postgres: PostgresServer,
    database: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A process is suspended while it handles the first of three events, looks dead, and resumes."""
    monkeypatch.setattr(PostgresStorage, "beat", lambda _: None)
    handled: list[tuple[str, str]] = []
    begun, resumes = asyncio.Event(), asyncio.Event()

    async def first(event: Event) -> None:
        begun.set()
        await resumes.wait()
        handled.append(("first", event.key))

    async def second(event: Event) -> None:
        handled.append(("second", event.key))

    async with Inbox(database) as one, Webhook(KEYS, first, inbox=one) as suspended, asyncio.timeout(HANGS):
        for number in "123":
            assert await post(suspended, changed(FLAT, "data.payload.id", number)) == 200
        await begun.wait()
        with psycopg.connect(postgres.url) as db:
            db.execute(f'DELETE FROM "{database.schema}".lease')  # noqa: S608 - a name of our own
        async with Inbox(database) as other, Webhook(KEYS, second, inbox=other):
            while len(handled) < 3:
                await asyncio.sleep(0.01)
            resumes.set()
            while caplog.text.count("is left to another process") < 2:
                await asyncio.sleep(0.01)
    assert handled == [("second", "1"), ("second", "2"), ("second", "3"), ("first", "1")]


@pytest.mark.slow
async def test_fault_111_an_event_that_another_took_over_is_not_set_aside(
    postgres: PostgresServer, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresStorage, "beat", lambda _: None)
    async with Inbox(database) as suspended, Inbox(database) as other:
        [event] = await suspended.keep([Received("1", "2", "{}")])
        assert await suspended.begin(event) == 0
        with psycopg.connect(postgres.url) as db:
            db.execute(f'DELETE FROM "{database.schema}".lease')  # noqa: S608 - a name of our own
        assert await other.take_over() == [event]
        await suspended.not_begun(event)
        await suspended.set_aside(event, "its handler failed")
        assert await other.failed() == ()
        assert await other.begin(event) == 1


async def test_one_at_a_time_has_a_turn(database: PostgresDatabase) -> None:
    one, other = storage_of(database), storage_of(database)

    def take(storage: PostgresStorage) -> bool:
        return storage.transact(lambda transaction: storage.take_turn(transaction, "settling"))

    assert take(one)
    assert take(one)
    assert not take(other)
    one.end_turn("settling")
    await one.close()
    assert take(other)


async def test_one_that_waits_for_its_turn_keeps_no_other_of_its_process_up(
    postgres: PostgresServer, database: PostgresDatabase, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12, functools.cached_property holds one lock for all objects of a class while it computes."""
    monkeypatch.setattr(connections, "LONGEST_TURN", HANGS)
    async with box(sandbox, database) as outbox, Inbox(database) as inbox:
        await outbox.put("5", TEXT)
        with contextlib.closing(psycopg.connect(postgres.url)) as other:
            turns = f"SELECT FROM {database.schema}.turn WHERE name LIKE 'outbox%' FOR UPDATE"
            assert len(other.execute(turns).fetchall()) == 1
            putting = asyncio.create_task(outbox.put("6", TEXT))
            is_waited_for = "SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            async with asyncio.timeout(HANGS / 2):
                while not other.execute(is_waited_for).fetchall():
                    await asyncio.sleep(0.01)
                assert await inbox.failed() == ()
            assert not putting.done()
        assert (await putting).state is State.QUEUED


# ---- losses ----


@pytest.mark.soak
@pytest.mark.parametrize("is_complete", [True, False])
async def test_fault_112_a_standby_that_takes_over_is_noticed_until_a_person_says_what_to_do(
    postgres_programs: Path, sandbox: Sandbox, *, is_complete: bool
) -> None:
    with PostgresServer(postgres_programs) as server, PostgresServer(postgres_programs) as standby:
        standby.crash()
        database = PostgresDatabase(server.url)
        await install(database)
        async with box(sandbox, database) as outbox:
            await outbox.put("5", TEXT, key="before")
            await outbox.drain()
            await outbox.put("5", TEXT, key="waiting")
        shutil.rmtree(standby.data)
        server.copy_to(standby)
        (standby.data / "standby.signal").touch()
        standby.start()
        server.crash()
        other = PostgresDatabase(standby.url)
        with pytest.raises(StorageTrouble, match="standby"):
            storage_of(other).transact(count_up)
        standby.promote()
        with pytest.raises((OutboxFailed, QuotaStoreFailed), match="twdm database resume"):
            async with box(sandbox, other):
                pass
        with pytest.raises(DatabaseFailed, match="resume"):
            await check(other)
        await resume(other, is_complete=is_complete)
        async with box(sandbox, other) as outbox:
            counts = await outbox.drain()
            assert counts[State.SENT] == (2 if is_complete else 1)
            assert counts[State.FAILED] == (0 if is_complete else 1)
            if not is_complete:
                (failed,) = await outbox.select(State.FAILED)
                assert "may have been sent" in str(failed.error)


def test_what_is_rolled_back_does_not_look_like_a_loss(database: PostgresDatabase) -> None:
    storage = storage_of(database)
    assert storage.transact(count_up) == 1

    def fails(transaction: Transaction) -> None:
        count_up(transaction)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage.transact(fails)
    query = "SELECT last FROM outcome"
    assert storage.transact(lambda db: db.execute(query).fetchone(), only_reads=True) == (1,)


async def test_fault_112_after_a_loss_nothing_is_sent_on_what_is_not_known(
    database: PostgresDatabase, sandbox: Sandbox
) -> None:
    """Also where no page was kept, and of a backup that is old."""
    await resume(database, is_complete=False)
    async with box(sandbox, database) as outbox:
        await outbox.put("5", TEXT, key="k", not_after=datetime.now(UTC) + timedelta(seconds=5))
        assert (await outbox.drain())[State.EXPIRED] == 1
    assert not sandbox.messages


async def test_fault_112_a_database_that_went_back_is_noticed_by_those_who_run(
    database: PostgresDatabase, postgres: PostgresServer
) -> None:
    storage = storage_of(database)
    for _ in range(3):
        storage.transact(count_up)
    with psycopg.connect(postgres.url) as db:
        db.execute(f"UPDATE {database.schema}.turn SET number = 1")  # noqa: S608 - of the test
    with pytest.raises(StorageTrouble, match="gone back"):
        storage.transact(count_up)
    await resume(database, is_complete=True)
    assert storage.transact(count_up) == 4


# ---- the application's own transactions ----


async def by_psycopg(url: str, insertion: Insertion, *, commits: bool) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(*insertion.psycopg)
        if not commits:
            await connection.rollback()


async def by_asyncpg(url: str, insertion: Insertion, *, commits: bool) -> None:
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(*insertion.asyncpg)
        await (transaction.commit() if commits else transaction.rollback())
    finally:
        await connection.close()


async def by_sqlalchemy(url: str, insertion: Insertion, *, commits: bool) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    statement, values = insertion.sqlalchemy
    try:
        async with engine.connect() as connection:
            await connection.execute(sqlalchemy.text(statement), values)
            await (connection.commit() if commits else connection.rollback())
    finally:
        await engine.dispose()


@pytest.mark.parametrize("execute", [by_psycopg, by_asyncpg, by_sqlalchemy])
async def test_a_message_is_put_in_a_transaction_of_the_application(
    execute: Callable[..., Any], database: PostgresDatabase, postgres: PostgresServer, sandbox: Sandbox
) -> None:
    async with box(sandbox, database) as outbox:
        insertion = outbox.insertion("5", TEXT, key="order 7", custom_profile_id=None)
        assert "SENTINEL" not in repr(insertion)
        await execute(postgres.url, insertion, commits=False)
        assert (await outbox.counts())[State.QUEUED] == 0
        async with outbox.running():
            for _ in range(2):  # the same message under the same key is one
                await execute(postgres.url, insertion, commits=True)
            entry = await asyncio.wait_for(outbox.outcome("order 7"), HANGS)
        assert entry.state is State.SENT
        assert [message.text for message in sandbox.messages] == [TEXT]
        assert (await outbox.put("5", TEXT, key="order 7")).state is State.SENT, "and one with a message that is put"
        with pytest.raises(Exception, match="order 7") as caught:
            await execute(postgres.url, outbox.insertion("6", "other", key="order 7"), commits=True)
        assert "23505" in f"{getattr(caught.value, 'sqlstate', '')}{getattr(caught.value, 'orig', '')!r}" or (
            "UniqueViolation" in repr(caught.value)
        )


async def test_fault_117_a_message_that_is_withdrawn_while_it_is_inserted_again_is_inserted(
    database: PostgresDatabase, postgres: PostgresServer, sandbox: Sandbox
) -> None:
    """It is withdrawn after the database found its key, and before it looks whether it is the same message."""
    async with box(sandbox, database) as outbox:
        insertion = outbox.insertion("5", TEXT, key="order 7")
        await by_psycopg(postgres.url, insertion, commits=True)
        with psycopg.connect(postgres.url) as db:
            db.execute(f"""
                SET search_path TO "{database.schema}";
                CREATE TABLE first AS SELECT id FROM message;
                CREATE FUNCTION withdraw() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    DELETE FROM "{database.schema}".message WHERE id IN (SELECT id FROM "{database.schema}".first);
                    RETURN NULL;
                END $$;
                CREATE TRIGGER meanwhile AFTER INSERT ON message FOR EACH STATEMENT EXECUTE FUNCTION withdraw()
            """)  # noqa: S608 - a name of our own
        await by_psycopg(postgres.url, insertion, commits=True)
        assert (await outbox.counts())[State.QUEUED] == 1


async def test_what_cannot_be_inserted(database: PostgresDatabase, tmp_path: Path, sandbox: Sandbox) -> None:
    async with box(sandbox, database) as outbox:
        for recipient, text, key in (("none", TEXT, "k"), ("5", "", "k"), ("5", TEXT, ""), ("5", "x" * 10_001, "k")):
            with pytest.raises(InvalidInput):
                outbox.insertion(recipient, text, key=key)
    async with Client(sandbox.credentials) as client, Outbox(client, tmp_path / "outbox.db") as outbox:
        with pytest.raises(InvalidInput, match="PostgreSQL"):
            outbox.insertion("5", TEXT, key="k")


# ---- between us and the server ----


@contextlib.contextmanager
def bouncer(server: PostgresServer, folder: Path) -> Iterator[str]:
    """PgBouncer in transaction mode, with fewer connections to the server than it has clients; the URL over it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer on PATH")
    port = free_port()
    (folder / "users").write_text('"twdm" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
        "default_pool_size = 3\nunix_socket_dir =\n"
    )
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    for path in (folder, *folder.parents[:3]) if user else ():
        path.chmod(0o755)
    process = subprocess.Popen([program, str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL, **user)  # type: ignore[call-overload]  # noqa: S603 - a program that was just found
    try:
        url = server.url.replace(str(server.port), str(port))
        while True:
            assert process.poll() is None, "it ended"
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(url).close()
                break
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
async def test_behind_pgbouncer_in_transaction_mode(
    postgres: PostgresServer, database: PostgresDatabase, sandbox: Sandbox, tmp_path: Path
) -> None:
    with bouncer(postgres, tmp_path) as url:
        there = PostgresDatabase(url, schema=database.schema)

        async def work(number: int) -> None:
            async with box(sandbox, there) as outbox, Inbox(there) as inbox:
                await asyncio.gather(*(outbox.put("5", f"{TEXT} {number} {one}") for one in range(20)))
                await outbox.drain()
                assert await inbox.failed() == ()

        await asyncio.gather(*(work(number) for number in range(3)))
    assert len({message.text for message in sandbox.messages}) == len(sandbox.messages) == 60


# ---- lent pools ----


@pytest.mark.slow
async def test_a_pool_of_the_application_is_used(
    database: PostgresDatabase, postgres: PostgresServer, sandbox: Sandbox
) -> None:
    async with psycopg_pool.AsyncConnectionPool(postgres.url, min_size=4, open=False) as pool:
        lent = PostgresDatabase(pool=pool, schema=database.schema, lease=3.0)
        assert lent == database
        async with box(sandbox, lent) as outbox, Inbox(lent) as inbox:
            await asyncio.gather(*(outbox.put("5", f"{TEXT} {number}") for number in range(20)))
            assert (await outbox.drain())[State.SENT] == 20
            assert await inbox.failed() == ()
        async with pool.connection() as connection:
            assert not connection.autocommit, "they come back as they were"
            assert (await (await connection.execute("SELECT 1")).fetchone()) == (1,)
    with psycopg_pool.ConnectionPool(postgres.url, min_size=4, open=True) as threads:
        async with box(sandbox, PostgresDatabase(pool=threads, schema=database.schema, lease=3.0)) as outbox:
            await outbox.put("6", TEXT)
            assert (await outbox.drain())[State.SENT] == 21


@pytest.mark.slow
async def test_a_pool_without_a_free_connection_is_named(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_POOL_PATIENCE", 0.1)
    async with (
        psycopg_pool.AsyncConnectionPool(postgres.url, min_size=1, max_size=1, open=False) as pool,
        Inbox(PostgresDatabase(pool=pool, schema=database.schema)) as inbox,
    ):
        async with pool.connection():
            with pytest.raises(InboxFailed, match="the pool that was lent has no free connection"):
                await inbox.heard()
        await pool.close()
        with pytest.raises(InboxFailed, match="or is closed"):
            await inbox.heard()
