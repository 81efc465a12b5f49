"""State files and owners: locks that are swept away, logs that are removed, folders that cannot hold them, and what a
file costs when much is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stores import spend, taken
from tests.support import HANGS
from twdm_async import Client, Inbox, InboxFailed, OutboxFailed, Quota, QuotaStoreFailed, QuotaTable, SQLiteQuotaStore
from twdm_async._clock import Clock
from twdm_async.outbox import Outbox, State
from twdm_async.outbox.rows import SCHEMA as OUTBOX
from twdm_async.outbox.rows import Rows
from twdm_async.resources.inbox import Received
from twdm_async.sandbox import Sandbox
from twdm_async.storage import owners as owners_module
from twdm_async.storage import sqlite as state_file_module
from twdm_async.storage.owners import Lock, Owner

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


# ---- owners ----


def test_fault_99_a_lock_that_is_swept_away_before_it_is_held_is_taken_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody finds the file between its making and its locking, takes it for a dead one's, and removes it."""
    me, other = Owner(path, "outbox"), Owner(path, "outbox")
    lock, swept = owners_module._lock, 0

    def swept_before(descriptor: int) -> bool:
        nonlocal swept
        if swept < 3:
            swept += 1
            monkeypatch.setattr(owners_module, "_lock", lock)
            assert other.is_dead(me.name)
            monkeypatch.setattr(owners_module, "_lock", swept_before)
        return lock(descriptor)

    monkeypatch.setattr(owners_module, "_lock", swept_before)
    me.acquire()
    assert swept == 3
    assert not other.is_dead(me.name), "others see that it lives"
    me.release()
    assert other.is_dead(me.name)
    assert list(path.parent.iterdir()) == []


def test_fault_99_who_only_looks_does_not_keep_an_owner_from_its_lock(path: Path) -> None:
    """What locking returns is heeded: another one holds the lock for a moment, to see whether anybody does."""
    me = Owner(path, "outbox")
    looking = Lock(me._lock_of(me.name))
    assert looking.take()
    tries = 0

    def sleep(_: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            looking.release(remove=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twdm_async.storage.owners.time.sleep", sleep)
        me.acquire()
    assert (tries, me._lock.is_in_place()) == (3, True)
    me.release()


async def test_fault_99_a_lock_file_that_is_removed_while_it_is_held_is_noticed(path: Path) -> None:
    async with Inbox(path) as inbox:
        await inbox.keep([Received("5", "1", "{}")])
        (lock,) = path.parent.glob("*.lock")
        lock.unlink()
        with pytest.raises(InboxFailed, match="was removed while it was in use"):
            await inbox.keep([Received("5", "2", "{}")])


async def test_fault_49_an_inbox_that_was_used_before_a_fork_lives_on_in_both(path: Path) -> None:
    script = """
import asyncio, os, signal, sys, time
from twdm_async import Inbox
from twdm_async.resources.inbox import Received

def kept(*ids):
    async def main():
        new = await inbox.keep([Received("5", one, "{}") for one in ids])
        print(*[one.id for one in new], flush=True)
    asyncio.run(main())

inbox = Inbox(sys.argv[1])
kept("1")
child = os.fork()
if child == 0:
    kept("1", "2")
    time.sleep(600)
sys.stdin.readline()
kept("1", "2", "3")
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(path), cwd=Path(__file__).parents[1],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(HANGS):
        assert [(await process.stdout.readline()).split() for _ in range(2)] == [[b"1"], [b"2"]]
        process.stdin.write(b"\n")
        assert (await process.stdout.readline()).split() == [b"3"], "each has in hand what it kept"
        _, err = await process.communicate()
    assert err == b""


@pytest.mark.parametrize("kind", ["locks", "hard links", "SQLite"])
async def test_fault_99_a_folder_or_a_library_that_will_not_do_is_told_at_the_start(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    advice = {"locks": "locks do not hold", "hard links": "has no hard links", "SQLite": "3.35.0 is needed"}[kind]
    if kind == "locks":
        monkeypatch.setattr(owners_module, "_lock", lambda _: True)  # as where everybody gets it
    elif kind == "hard links":
        monkeypatch.setattr(os, "link", no_links)
    else:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(InboxFailed, match=advice):
        async with Inbox(path):
            pass
    async with Sandbox() as sandbox, Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        with pytest.raises(OutboxFailed, match=advice):
            async with Outbox(client, path):
                pass
    if kind != "locks":
        async with SQLiteQuotaStore(path) as store:
            with pytest.raises(QuotaStoreFailed, match=advice):
                await taken(store)


async def starts(path: Path, processes: int, each: int) -> None:
    command = [sys.executable, "-m", "tests.starter", str(path), str(each)]
    running = [
        await asyncio.create_subprocess_exec(
            *command, str(seed), cwd=Path(__file__).parents[1], stderr=asyncio.subprocess.PIPE
        )
        for seed in range(processes)
    ]
    said = await asyncio.gather(*(process.communicate() for process in running))
    assert [process.returncode for process in running] == [0] * processes, b"".join(err for _, err in said).decode()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM event").fetchone()[0] > 10


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it is told there which processes live")
async def test_fault_99_no_event_is_in_the_hands_of_two(path: Path) -> None:
    await starts(path, 4, 20)


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="as above")
async def test_fault_99_in_five_thousand_starts_of_eight_processes_no_event_is_in_the_hands_of_two(path: Path) -> None:
    began = time.monotonic()
    await starts(path, 8, 625)
    print(f"5000 starts in {time.monotonic() - began:.0f} s")  # noqa: T201 - what was measured


# ---- the log ----


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("-wal",), ("-shm",), ("-wal", "-shm")])
async def test_fault_106_a_log_that_is_removed_while_it_is_in_use_is_noticed(
    parts: tuple[str, ...], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who uses it, and by who begins to: what was spent last is not known, so nothing is sent."""
    monkeypatch.setattr(state_file_module, "_BUSY", 0.2)
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 2)
        for part in parts:
            path.with_name(path.name + part).unlink()
        async with SQLiteQuotaStore(path) as other:
            with pytest.raises(QuotaStoreFailed, match="was removed while others use it"):
                await taken(other)
        with pytest.raises(QuotaStoreFailed, match="removed, replaced or emptied while it was in use"):
            await taken(store)
    async with SQLiteQuotaStore(path) as store:  # whoever used it last has brought the log into the file
        assert len(await taken(store, 3)) == 1


async def test_fault_106_what_a_killed_process_left_is_opened_as_before(path: Path, tmp_path: Path) -> None:
    """Its log is there, and nobody uses it; and what lies there is as it was when the machine was switched off."""
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 2)
        left = tmp_path / "left.db"
        for part in ("", "-wal"):  # the -shm is not kept over a restart of the machine
            shutil.copy(path.with_name(path.name + part), left.with_name(left.name + part))
    async with SQLiteQuotaStore(left) as store:
        assert len(await taken(store, 3)) == 1


@pytest.mark.soak
async def test_fault_106_the_log_does_not_grow_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while others read, one after the other, nor for ever because of one who reads for long."""
    monkeypatch.setattr(state_file_module, "_LARGEST_LOG", 100_000)
    monkeypatch.setattr(state_file_module, "_NEXT_TRY", 0.0)
    monkeypatch.setattr(state_file_module, "_PATIENCE", 0.001)
    log = path.with_name(f"{path.name}-wal")
    async with Inbox(path) as inbox:
        await inbox.keep([Received("5", "first", "x")])
        readers = [sqlite3.connect(path, isolation_level=None) for _ in range(2)]
        largest = 0
        for number in range(60):
            reader = readers[number % 2]  # the next one begins before the last one ends
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event").fetchone()
            if readers[1 - number % 2].in_transaction:
                readers[1 - number % 2].execute("COMMIT")
            await inbox.keep([Received("5", f"{number} {one}", "x" * 1000) for one in range(20)])
            largest = max(largest, log.stat().st_size)
        for reader in readers:
            reader.close()
        await inbox.keep([Received("5", "last", "x")])
        assert log.stat().st_size < 200_000
    assert largest > 100_000


@pytest.mark.slow
async def test_fault_106_a_lock_that_is_held_for_seconds_is_waited_for(path: Path) -> None:
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 1)
        assert state_file_module._BUSY > 8.0
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asking = asyncio.create_task(taken(store))
            await asyncio.sleep(0.5)
            assert not asking.done()
            other.execute("COMMIT")
            assert len(await asyncio.wait_for(asking, HANGS)) == 1


async def test_fault_104_a_link_to_a_state_file_is_that_file(path: Path) -> None:
    """Its log and its locks lie beside the file, whatever it is called."""
    link = path.with_name("link.db")
    link.symlink_to(path)
    event = Received("5", "1", "{}")
    async with Inbox(path) as inbox, Inbox(link) as linked:
        assert await linked.keep([event]) == [event]
        assert await inbox.keep([event]) == [], "it is in the hands of one who lives"
        assert await inbox.take_over() == []


async def test_fault_106_a_checkpoint_that_was_cut_off_is_no_damage(path: Path) -> None:
    """The first page names more pages than the file has yet; the others are in the log."""
    async with Inbox(path) as inbox:
        await inbox.keep([Received("5", str(number), "x" * 1000) for number in range(200)])
        left = path.with_name("left.db")
        shutil.copy(path, left)
        shutil.copy(path.with_name(f"{path.name}-wal"), left.with_name(f"{left.name}-wal"))
    log = left.with_name(f"{left.name}-wal").read_bytes()
    size = int.from_bytes(log[8:12])
    frames = [log[start : start + 24 + size] for start in range(32, len(log) - size, 24 + size)]
    first = [frame[24:] for frame in frames if int.from_bytes(frame[:4]) == 1][-1]
    with left.open("r+b") as file:
        file.write(first)
    assert int.from_bytes(first[28:32]) * size > left.stat().st_size
    async with Inbox(left) as inbox:
        assert len(await inbox.take_over()) == 200


@pytest.mark.parametrize("lost", ["log", "file"])
async def test_fault_106_what_lost_its_log_or_its_file_is_not_begun_anew(lost: str, path: Path, tmp_path: Path) -> None:
    """Whoever used it was killed, and what it left was cleaned up by halves."""
    left = tmp_path / "left.db"
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 2)
        for part in ("", "-shm") if lost == "log" else ("-wal", "-shm"):
            shutil.copy(path.with_name(path.name + part), left.with_name(left.name + part))
    async with SQLiteQuotaStore(left) as store:
        with pytest.raises(QuotaStoreFailed, match="was removed" if lost == "log" else "lie there without it"):
            await taken(store)


@pytest.mark.soak
async def test_fault_49_a_store_that_is_open_at_a_fork_counts_for_both(path: Path) -> None:
    """SQLite takes locks that the parent holds for the child's, too; so none is held when a process is forked off."""
    script = """
import asyncio, os, sys
from pathlib import Path
from tests.stores import spend
from twdm_async import SQLiteQuotaStore
from tests import stores
from twdm_async import Quota

async def use(store, times):
    claims = (stores.Claim(stores.BUCKET, (Quota(1000, per=1000.0),)),)
    for _ in range(times):
        for slot in await stores.take(store, claims, stores.LIFETIME, 1):
            stores.settle(store, slot)
        await store.flush()

store = SQLiteQuotaStore(sys.argv[1])
asyncio.run(use(store, 3))
child = os.fork()
if child == 0:
    asyncio.run(use(store, 20))
    os._exit(0)

async def parent():
    await use(store, 2)
    await store.close()

asyncio.run(parent())
_, status = os.waitpid(child, 0)
async def after():
    async with SQLiteQuotaStore(sys.argv[1]) as store:
        await use(store, 1)
        print(status, stores.usage(store, stores.BUCKET, Quota(1000, per=1000.0)).used)
asyncio.run(after())
"""
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(path), cwd=Path(__file__).parents[1],
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), HANGS)
        assert out.split() == [b"0", b"26"], err
        path.unlink()


# ---- foreign files ----


def text(path: Path) -> None:
    path.write_text("no database at all")


def foreign_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (x)")


@pytest.mark.parametrize("make", [text, foreign_database])
async def test_fault_104_a_foreign_file_named_by_mistake_is_left_as_it_is(
    make: Callable[[Path], None], path: Path
) -> None:
    make(path)
    path.chmod(0o644)
    before = path.read_bytes()
    async with SQLiteQuotaStore(path) as store:
        with pytest.raises(QuotaStoreFailed, match="no file of this library"):
            await taken(store)
    with pytest.raises(InboxFailed, match="no file of this library"):
        async with Inbox(path) as inbox:
            await inbox.heard()
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o644
    assert {one.name for one in path.parent.iterdir() if not one.name.endswith(".lock")} == {path.name}


# ---- what it costs ----


@pytest.mark.soak
async def test_fault_106_what_a_message_costs_does_not_grow_with_what_is_done(path: Path) -> None:
    """Counted in steps of SQLite's machine, which do not depend on the computer."""
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(10**6, per=60.0))

    async def steps(done: int) -> int:
        file = path.with_name(f"{done}.db")
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        async with (
            Sandbox(quotas=quotas) as sandbox,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=quotas) as client,
            Outbox(client, file) as outbox,
        ):
            await outbox.put("5", "SENTINEL", key="first")
            await outbox.drain()
            with contextlib.closing(sqlite3.connect(file)) as db:
                _repeat_last_row(db, done)
            await asyncio.gather(*(outbox.put("5", f"SENTINEL {number}", key=str(number)) for number in range(50)))
            connection = outbox._storage._db  # type: ignore[attr-defined]
            assert connection is not None
            connection.set_progress_handler(count, 100)
            async with outbox.running():
                await asyncio.gather(*(outbox.outcome(str(number)) for number in range(50)))
            connection.set_progress_handler(None, 0)
            assert (await outbox.counts())[State.SENT] == 51 + done
        return counted

    few, many = await steps(0), await steps(20_000)
    assert many < 2 * few + 100, (few, many)


def _repeat_last_row(db: sqlite3.Connection, times: int) -> None:
    columns = [row[1] for row in db.execute("PRAGMA table_info(message)")]
    last = dict(zip(columns, db.execute("SELECT * FROM message").fetchone(), strict=True))
    rows = ({**last, "id": n, "key": f"done {n}", "message_id": f"9{n}", "change": n} for n in range(2, times + 2))
    places = ", ".join(f":{column}" for column in columns)
    db.executemany(f"INSERT INTO message VALUES ({places})", rows)  # noqa: S608 - names of columns
    db.execute("UPDATE outcome SET last = ?", (times + 2,))
    db.commit()


def test_fault_106_no_query_of_the_outbox_goes_through_what_is_done() -> None:
    """But for those that tell of it: counts and selections by state."""
    with contextlib.closing(state_file_module.InMemory(OUTBOX, Clock())._db) as db:
        plans: list[str] = []

        class Explained:
            wall = uptime = 1.0

            def execute(self, query: str, facts: Any = ()) -> Any:
                plans.extend(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", facts))
                return db.execute(query, facts)

        rows: Any = Rows(Explained(), "5")  # type: ignore[arg-type]  # all that is used of it
        rows.left_to_send()
        rows.take_up("me", 1, "")
        rows.give_up("me")
        rows.reclaim(lambda *_: True, "me", set)
        rows.nameless()
        rows.unknown()
        rows.outcomes(0)
    whole = ("message_by_change (account=?)", "SCAN message")
    assert plans
    assert not [plan for plan in plans if plan.endswith(whole)], plans
    assert any("message_nameless" in plan for plan in plans), "not all that were ever sent"
