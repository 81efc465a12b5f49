"""What stores survive: restarts, clocks that are set, files that are damaged, servers that go away, forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.redis_server import RedisServer, free_port
from tests.stores import (
    BUCKET,
    CLAIMS,
    LIFETIME,
    QUOTA,
    SEND,
    HandClock,
    address_of,
    again,
    give_back,
    look,
    make,
    server_url,
    settle,
    spend,
    take,
    taken,
    usage,
)
from tests.support import HANGS, keep_files_in_the_loop
from tests.virtual_time import run
from twdm_async import (
    Client,
    Credentials,
    InvalidInput,
    Lane,
    LoopClock,
    MemoryQuotaStore,
    Pace,
    Quota,
    QuotaQueueFull,
    QuotaState,
    QuotaStore,
    QuotaStoreFailed,
    QuotaTable,
    RedisQuotaStore,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.outbox.rows import SCHEMA as OUTBOX_SCHEMA
from twdm_async.quota.limiter import QuotaLimiter
from twdm_async.quota.operations import Bucket, Claim, Hold, Wait

if TYPE_CHECKING:
    from twdm_async.quota.store.transactional import Batch
    from twdm_async.sandbox import Sandbox

SHARED = ["sqlite", "redis", "postgres"]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str | None:
    kind = request.node.callspec.params.get("kind")
    return server_url(kind, request)


# ---- remembered ----


@pytest.mark.parametrize("kind", SHARED)
async def test_what_was_spent_survives_a_restart(kind: str, tmp_path: Path, url: str | None) -> None:
    clock = HandClock()
    first = make(kind, clock, tmp_path, url)
    await spend(first, 2)
    first.note(Hold(BUCKET, 20))
    await first.close()
    async with again(first, clock) as second:
        await look(second, CLAIMS, LIFETIME)
        used = usage(second, BUCKET, QUOTA)
        assert (used.used, used.in_flight) == (2, 0)
        assert used.held_for == pytest.approx(20, abs=1e-4)
        clock.now += 21
        assert len(await taken(second, 3)) == 1
        clock.now += 80
        assert len(await taken(second, 3)) == 2


@pytest.mark.parametrize("kind", SHARED)
async def test_a_slot_whose_owner_died_counts_as_long_as_its_request_could_have_lived(
    kind: str, tmp_path: Path, url: str | None
) -> None:
    clock = HandClock()
    first = make(kind, clock, tmp_path, url)
    assert len(await taken(first, 3)) == 3  # and then it is killed: nothing is settled
    async with again(first, clock) as second:
        clock.now += 90 + 100.005
        assert await taken(second) == []
        clock.now += 0.26
        assert len(await taken(second, 5)) == 3
    await first.close()


@pytest.mark.parametrize("kind", SHARED)
async def test_a_slot_that_lived_longer_than_was_thought_is_counted_when_it_is_settled(
    kind: str, tmp_path: Path, url: str | None
) -> None:
    clock = HandClock()
    async with make(kind, clock, tmp_path, url) as store:
        slots = await taken(store, 3)
        clock.now += 1000  # the process was stopped and goes on
        for slot in slots:
            settle(store, slot)
        assert await taken(store) == []


@pytest.mark.parametrize("kind", ["memory", *SHARED])
async def test_at_the_first_start_a_part_may_be_taken_as_spent(kind: str, tmp_path: Path, url: str | None) -> None:
    clock = HandClock()
    async with make(kind, clock, tmp_path, url, assume_spent=0.5) as store:
        bucket = Bucket(SEND, Scope.USER, "new", "brand")
        claims = (Claim(bucket, (Quota(10, per=100.0),)),)
        assert len(await take(store, claims, LIFETIME, 64)) == 5  # type: ignore[arg-type]
        await look(store, claims, LIFETIME)
        assert usage(store, bucket, claims[0].quotas[0]).used == 10
    if kind != "memory":
        async with again(store, clock) as second:  # it is known now
            clock.now += 101
            assert len(await take(second, claims, LIFETIME, 64)) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SHARED)
async def test_clients_with_different_limits_share_one_count(kind: str, tmp_path: Path, url: str | None) -> None:
    clock = HandClock()
    first = make(kind, clock, tmp_path, url)
    second = again(first, clock)
    await spend(first, 3)
    wider, other_window = Claim(BUCKET, (Quota(5, per=100.0),)), Claim(BUCKET, (Quota(4, per=50.0),))
    assert len(await take(second, (wider,), LIFETIME, 9)) == 2  # type: ignore[arg-type]
    assert isinstance(await take(second, (other_window,), LIFETIME, 9), Wait)
    await first.close()
    await second.close()


# ---- clocks ----


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("step", [-3600.0, 3600.0, 1e8])
async def test_fault_52_the_clock_is_set(kind: str, step: float, tmp_path: Path, url: str | None) -> None:
    clock = HandClock()
    async with make(kind, clock, tmp_path, url) as store:
        await spend(store, 3)
        clock.now += 10
        clock.wrong_by += step  # for SQLite the wall clock of this machine, for Redis that of the server
        assert await taken(store) == [], "a clock that is set frees nothing"
        clock.now += 80
        assert await taken(store) == []
        # Nor is it shut for longer; but Redis knows no other clock, so there the time is lost in which it was set back.
        clock.now += 15 if kind == "sqlite" or step > 0 else 25
        assert len(await taken(store, 3)) == 3


async def test_after_a_reboot_the_wall_clock_tells_how_long_it_took(tmp_path: Path) -> None:
    clock = HandClock(now=1_000_000.0)
    store = SQLiteQuotaStore(tmp_path / "quota.db", clock=clock)
    await spend(store, 3)
    await store.close()
    clock.now, clock.wrong_by = 5.0, 1_000_000.0 + 60.0 - 5.0  # the uptime begins anew; a minute has passed
    async with again(store, clock) as second:
        assert await taken(second) == []
        clock.now += 41
        assert len(await taken(second, 3)) == 3


# ---- SQLite: the file ----


_EARLIER_TABLES = """
CREATE TABLE clock (now REAL NOT NULL, uptime REAL NOT NULL, wall REAL NOT NULL);
CREATE TABLE bucket (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, held_until REAL NOT NULL, longest REAL NOT NULL,
    slots INTEGER NOT NULL
);
CREATE TABLE slot (
    bucket INTEGER NOT NULL, name TEXT NOT NULL, seen REAL NOT NULL, in_flight INTEGER NOT NULL,
    PRIMARY KEY (bucket, name)
) WITHOUT ROWID;
CREATE TABLE spent_by_others (
    bucket INTEGER NOT NULL, per REAL NOT NULL, slots INTEGER NOT NULL, until REAL NOT NULL, PRIMARY KEY (bucket, per)
) WITHOUT ROWID;
INSERT INTO clock VALUES (0, 0, 0);
CREATE TABLE conversation (name TEXT PRIMARY KEY, touched REAL NOT NULL, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE noted_since (at REAL NOT NULL);
"""


async def test_fault_90_a_file_of_an_earlier_version_keeps_what_was_spent(tmp_path: Path) -> None:
    path, clock = tmp_path / "quota.db", HandClock()
    with contextlib.closing(sqlite3.connect(path)) as db:  # as the first version left it, in format 4
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA application_id = 1953981549; PRAGMA user_version = 4")
        db.executescript("".join([_EARLIER_TABLES, *(str(step) for step in OUTBOX_SCHEMA.steps)]))
        now, longest = clock.now, QUOTA.per * 1.0001
        db.execute("UPDATE clock SET now = ?, uptime = ?, wall = ?", (now, now, clock.wall()))
        db.execute("INSERT INTO bucket VALUES (1, ?, ?, ?, 2)", (f"brand {BUCKET.name}", now + 5, longest))
        db.execute("INSERT INTO slot VALUES (1, 'a', ?, 0)", (now - 40,))
        db.execute("INSERT INTO slot VALUES (1, 'b', ?, 1)", (now + 30,))
        db.execute("INSERT INTO spent_by_others VALUES (1, ?, 1, ?)", (QUOTA.per, now + 20))
        db.commit()
    async with SQLiteQuotaStore(path, clock=clock) as store:
        await look(store, CLAIMS, LIFETIME)
        used = usage(store, BUCKET, QUOTA)
        assert (used.used, used.in_flight, used.held_for) == (3, 1, 5)
        assert await taken(store) == []
        clock.now += 20 + 0.3  # what others spent does not count any more
        assert len(await taken(store)) == 1
        clock.now += 40
        assert len(await taken(store)) == 1
        clock.now += 70 + 0.3
        assert len(await taken(store)) == 1


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
            await spend(store, 1)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"quota.db": 0o600, "quota.db-wal": 0o600, "quota.db-shm": 0o600}
    (tmp_path / "quota.db").chmod(0o644)
    async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
        await spend(store, 1)
    assert stat.S_IMODE((tmp_path / "quota.db").stat().st_mode) == 0o600


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database" + path.read_bytes()[14:])


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 4] = os.urandom(4096 * 3)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_header, "damaged"),
        (damage_pages, "damaged"),
        (truncate, "it is empty"),
        (newer, "newer version"),
        (foreign, "no file of this library"),
        (folder, "no file"),
    ],
)
async def test_fault_50_a_file_that_is_not_to_be_trusted_is_an_error_and_left_as_it_is(
    harm: Any, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "quota.db"
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 1)
    harm(path)
    before = path.read_bytes() if path.is_file() else b""
    store = SQLiteQuotaStore(path)
    for _ in range(2):
        with pytest.raises(QuotaStoreFailed, match=words) as caught:
            await taken(store)
        assert str(path) in str(caught.value)
        assert caught.value.delivered == "no"
    await store.close()
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_fault_50_a_file_that_is_removed_or_replaced_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "quota.db"
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 1)
        path.rename(tmp_path / "away")
        with pytest.raises(QuotaStoreFailed, match="removed, replaced or emptied"):
            await taken(store)
        (tmp_path / "away").rename(path)
        assert len(await taken(store, 3)) == 2
        path.write_bytes(b"")
        with pytest.raises(QuotaStoreFailed, match="emptied"):
            await taken(store)


async def test_several_stores_make_the_same_file_at_once(tmp_path: Path) -> None:
    for number in range(10):
        stores = [SQLiteQuotaStore(tmp_path / f"{number}.db") for _ in range(4)]
        assert sorted([len(slots) for slots in await asyncio.gather(*(taken(store) for store in stores))]) == [
            0,
            1,
            1,
            1,
        ]
        for store in stores:
            await store.close()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    store = SQLiteQuotaStore(tmp_path / "nowhere" / "quota.db")
    with pytest.raises(QuotaStoreFailed, match="folder"):
        await taken(store)
    await store.close()


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command, root = [sys.executable, *arguments], Path(__file__).parents[1]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANGS, cwd=root)  # noqa: S603 - this Python


_TAKE_ONE = """
import asyncio, os, resource, signal, sys
from tests.stores import taken
from twdm_async import SQLiteQuotaStore
async def main():
    store = SQLiteQuotaStore(sys.argv[1])
    {before}
    try:
        for _ in range(int(sys.argv[2])):
            print("taken", len(await taken(store, 3)))
    except Exception as error:
        print(type(error).__name__, error)
    await store.close()
{setup}
asyncio.run(main())
"""


def in_a_process(path: Path, takes: int = 1, *, before: str = "", setup: str = "") -> str:
    script = _TAKE_ONE.format(before=before, setup=setup)
    return python("-c", script, str(path), str(takes)).stdout


@pytest.mark.soak
async def test_fault_50_a_file_that_cannot_be_written_to(tmp_path: Path) -> None:
    async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
        await spend(store, 1)
    (tmp_path / "quota.db").chmod(0o444)
    tmp_path.chmod(0o555)
    # Nothing is forbidden to root, so it must be somebody else.
    setup = "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    out = in_a_process(tmp_path / "quota.db", setup=setup)
    tmp_path.chmod(0o755)
    assert "QuotaStoreFailed" in out
    assert "cannot be" in out


@pytest.mark.soak
async def test_fault_50_a_disk_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "quota.db"
    async with SQLiteQuotaStore(path) as store:
        await spend(store, 1)
    # No file of that process may grow any more.
    limit = path.stat().st_size
    before = f"await taken(store); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    assert resource.RLIMIT_FSIZE is not None
    out = in_a_process(path, 500, before=before)
    assert "QuotaStoreFailed" in out
    assert "full" in out
    async with SQLiteQuotaStore(path) as store:  # what was there before is still there
        await look(store, CLAIMS, LIFETIME)
        assert usage(store, BUCKET, QUOTA).used >= 2


async def test_another_process_that_does_not_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.storage.sqlite._BUSY", 0.1)
    async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
        await spend(store, 1)
        with contextlib.closing(sqlite3.connect(tmp_path / "quota.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store._storage.disconnect()  # so that the short patience counts
            with pytest.raises(QuotaStoreFailed, match="another process"):
                await taken(store)
        assert len(await taken(store, 3)) == 2


async def test_an_outcome_that_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    path = tmp_path / "quota.db"
    clock = HandClock()
    async with SQLiteQuotaStore(path, clock=clock) as store:
        slots = await taken(store, 3)
        path.rename(tmp_path / "away")
        settle(store, slots[0])
        give_back(store, slots[1])
        await store.flush()
        with pytest.raises(QuotaStoreFailed):
            await taken(store)
        (tmp_path / "away").rename(path)
        assert len(await taken(store, 3)) == 1, "the one that was given back"
        clock.now += 101
        assert len(await taken(store, 3)) == 1, "the one that was settled"


# ---- addresses and arguments ----


@pytest.mark.parametrize(
    "url",
    [
        "",
        "quota.db",
        "mysql://x",
        "memory://x",
        "sqlite://",
        "sqlite:///",
        "sqlite://host/x",
        "sqlite:///x?mode=ro",
        None,
    ],
)
def test_addresses_that_are_none(url: Any) -> None:
    with pytest.raises(InvalidInput, match="url"):
        QuotaStore.from_url(url)


@pytest.mark.parametrize(
    "url",
    ["redis://localhost:port", "http://localhost", "redis://host?colour=red", "redis://[::1", "unix://", "redis://"],
)
def test_addresses_that_are_none_of_redis(url: str) -> None:
    with pytest.raises(InvalidInput, match="url"):
        RedisQuotaStore(url)


async def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stores = [
        QuotaStore.from_url("memory://"),
        QuotaStore.from_url("sqlite:///here.db"),
        QuotaStore.from_url(f"sqlite:///{tmp_path}/a%20b.db", assume_spent=0.5),
        QuotaStore.from_url("redis://:pass@localhost:6379/1"),
    ]
    assert [type(store) for store in stores] == [MemoryQuotaStore, SQLiteQuotaStore, SQLiteQuotaStore, RedisQuotaStore]
    for store in stores[:3]:
        await taken(store)
        await store.close()
    assert (tmp_path / "here.db").exists()
    assert (tmp_path / "a b.db").exists()
    assert stores[2].assume_spent == 0.5
    assert "pass" not in stores[3].address


@pytest.mark.parametrize("part", [-0.1, 1, 1.5, "half", None, True, float("nan")])
def test_what_is_no_part(part: Any) -> None:
    with pytest.raises(InvalidInput, match="assume_spent"):
        MemoryQuotaStore(assume_spent=part)
    with pytest.raises(InvalidInput, match="reserve"):
        QuotaTable.default().replace(SEND, Quota(1, per=1.0), reserve=part)


@pytest.mark.parametrize("path", ["", None, 5, "a\0b"])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(InvalidInput, match="path"):
        SQLiteQuotaStore(path)


# ---- another process, another loop ----


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a loop that ends takes its connections with it
def test_fault_48_a_store_may_be_used_in_one_loop_after_another(tmp_path: Path, redis_url: str) -> None:
    for store in (
        MemoryQuotaStore(),
        SQLiteQuotaStore(tmp_path / "quota.db"),
        RedisQuotaStore(redis_url, prefix="loops"),
    ):
        asyncio.run(spend(store, 1))
        asyncio.run(spend(store, 1))

        async def rest(store: QuotaStore = store) -> int:
            count = len(await taken(store, 3))
            await store.close()
            return count

        assert asyncio.run(rest()) == 1
    gc.collect()


@pytest.mark.parametrize("kind", ["memory", *SHARED])
async def test_a_store_that_is_closed_stays_closed(
    kind: str, tmp_path: Path, url: str | None, sandbox: Sandbox
) -> None:
    address = address_of(kind, tmp_path, url, 4)
    store = QuotaStore.from_url(address)
    client = Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store)
    await client.direct_messages.send(5, "hi")
    [slot] = await taken(store)
    await store.close()
    await store.close()
    settle(store, slot)
    with pytest.raises(QuotaStoreFailed, match="it is closed"):
        await client.direct_messages.send(5, "hi")
    await client.close()


@pytest.mark.parametrize("kind", ["memory", *SHARED])
async def test_a_store_serves_one_running_loop(kind: str, tmp_path: Path, url: str | None) -> None:
    async with make(kind, HandClock(), tmp_path, url) as store:
        await spend(store, 1)
        with pytest.raises(QuotaStoreFailed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, taken(store))
        assert len(await taken(store, 3)) == 2


async def test_a_wrong_password_and_a_cluster_that_is_none_are_told(redis_program: str) -> None:
    with RedisServer(redis_program, "--requirepass", "right") as server:
        for address, words in (
            (server.url, "password"),
            (server.url.replace("redis://", "redis://:wrong-one@"), "password"),
            (server.url.replace("redis://", "redis+cluster://"), "cannot be asked"),
        ):
            store = RedisQuotaStore(address)
            with pytest.raises(QuotaStoreFailed, match=words) as caught:
                await taken(store)
            assert "wrong-one" not in str(caught.value)
            await store.close()


async def test_what_may_have_been_taken_when_the_answer_was_lost_is_given_back(tmp_path: Path) -> None:
    class Unlucky(SQLiteQuotaStore):
        loses = True

        async def commit(self, batch: Batch) -> None:
            await super().commit(batch)
            if self.loses:
                batch.is_unsure = True
                raise QuotaStoreFailed(store=self.address, problem="the answer was lost")

    async with Unlucky(tmp_path / "quota.db") as store:
        with pytest.raises(QuotaStoreFailed, match="lost"):
            await taken(store, 3)
        store.loses = False
        assert len(await taken(store, 3)) == 3


async def test_flush_ends_while_others_use_the_store(tmp_path: Path) -> None:
    async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
        wide = (Claim(BUCKET, (Quota(10**6, per=100.0),)),)

        async def use() -> None:
            while True:
                slots = await take(store, wide, LIFETIME)
                assert isinstance(slots, list)
                settle(store, slots[0])

        users = [asyncio.ensure_future(use()) for _ in range(8)]
        for _ in range(20):
            async with asyncio.timeout(HANGS):
                await store.flush()
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)


def shown(client: Client) -> QuotaState:
    return next(state for state in client.quota_state() if state.endpoint == SEND)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["memory", *SHARED])
async def test_what_is_shown_becomes_right_when_nobody_asks_any_more(
    kind: str, tmp_path: Path, url: str | None, sandbox: Sandbox
) -> None:
    address = address_of(kind, tmp_path, url, 6)
    quotas = QuotaTable.default().replace(SEND, Quota(3, per=2.5))
    async with (
        QuotaStore.from_url(address) as store,
        Client(
            sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=quotas, quota_store=store
        ) as client,
    ):
        for _ in range(3):
            await client.direct_messages.send(5, "hi")
        sent = time.time()
        async with asyncio.timeout(HANGS):
            while (state := shown(client)).used:
                assert state.used <= 3
                assert state.in_flight or state.free_at.timestamp() < sent + 2.6
                await asyncio.sleep(0.1)
        assert time.time() - sent > 2.0, "they counted until then"


def test_on_a_slow_store_lanes_take_turns_and_the_pace_is_kept(tmp_path: Path) -> None:
    class SlowStore(SQLiteQuotaStore):
        async def commit(self, batch: Batch) -> None:
            await asyncio.sleep(0.01)
            self._show(batch.app, *self._transact(batch))

    async def main() -> tuple[list[str], list[float]]:
        clock = LoopClock()
        store = SlowStore(tmp_path / "quota.db", clock=clock)
        table = QuotaTable.default().replace(SEND, Quota(1000, per=1e5), pace=Pace(burst=20, per=1.0))
        limiter = QuotaLimiter(table, store, account="a", app="b", clock=clock, timeout=30.0, max_waiting=90)
        granted: list[str] = []
        times: list[float] = []

        async def one(lane: str) -> None:
            slot = await limiter.admit(SEND, Lane(lane))
            granted.append(lane)
            times.append(clock.monotonic())
            limiter.settle(slot, seen=True)

        first = [asyncio.ensure_future(one("A")) for _ in range(100)]
        await asyncio.sleep(0)
        then = [asyncio.ensure_future(one("B")) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaQueueFull):
            await asyncio.gather(*(one("C") for _ in range(100)))
        await asyncio.gather(*first, *then)
        store._storage.disconnect()
        return granted, times

    granted, times = run(main())
    waited = [lane for lane in granted if lane != "C"][20:]  # of the burst
    assert waited.index("B") <= 2
    assert max(place for place, lane in enumerate(waited) if lane == "B") <= 11
    assert all(later - earlier > 0.9 for earlier, later in zip(times, times[41:], strict=False)), "20 and 20 a second"


_FORK = """
import asyncio, os, sys
from tests.test_store_faults import QuotaStore, QuotaStoreFailed, spend, taken
def say(line):
    os.write(1, f"{line}\\n".encode())
store = QuotaStore.from_url(sys.argv[1])
asyncio.run(spend(store, 1))
child = os.fork()
async def rest():
    try:
        say(f"{'child' if child == 0 else 'parent'} {len(await taken(store))}")
    except QuotaStoreFailed as error:
        say(f"child failed: {error}")
    await store.flush()
asyncio.run(rest())
if child:
    os.waitpid(child, 0)
    say(f"left {len(asyncio.run(taken(store, 3)))}")
os._exit(0)
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["memory", *SHARED])
def test_fault_49_forked_after_use(kind: str, tmp_path: Path, url: str | None) -> None:
    address = address_of(kind, tmp_path, url, 3)
    done = python("-c", _FORK, address)
    lines = done.stdout.splitlines()
    assert "parent 1" in lines, done.stderr
    if kind == "memory":
        assert any("child failed" in line and "forked" in line for line in lines)
        assert "left 1" in lines
    else:
        assert "child 1" in lines
        assert "left 0" in lines, "three were spent, by two processes"


# ---- the client ----


async def test_sends_fail_closed_and_reads_only_by_choice(sandbox: Sandbox) -> None:
    def client(**options: Any) -> Client:
        store = RedisQuotaStore(f"redis://127.0.0.1:{free_port()}")
        return Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store, **options)

    with pytest.raises(QuotaStoreFailed):
        async with client():
            pass
    async with client(uncounted_reads=True) as lenient:
        assert (await lenient.account.verify_credentials()).verified
        with pytest.raises(QuotaStoreFailed, match="nothing was sent") as caught:
            await lenient.direct_messages.send("5", "hi")
        assert caught.value.delivered == "no"
        with pytest.raises(QuotaStoreFailed):
            await lenient.account.update_profile(name="x")
    strict = client()
    with pytest.raises(QuotaStoreFailed):
        await strict.account.verify_credentials()
    await strict.close()
    assert [request.path for request in sandbox.requests] == ["/1.1/account/verify_credentials.json"]


async def test_the_state_is_known_after_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    def state(client: Client) -> tuple[int, int]:
        known = next(state for state in client.quota_state() if (state.endpoint, state.scope) == (SEND, Scope.USER))
        return known.used, known.reserved

    for before in (0, 3):
        async with (
            SQLiteQuotaStore(tmp_path / "quota.db") as store,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as client,
        ):
            assert state(client) == (before, 333 - before)
            for _ in range(3):
                await client.direct_messages.send("5", "hi")
            assert state(client)[0] == before + 3


async def test_quotas_are_seeded_from_the_api_s_own_listing(sandbox: Sandbox) -> None:
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as before:
        for _ in range(4):
            await before.account.verify_credentials()
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        await client.seed_quotas()
        used = {state.endpoint: state.used for state in client.quota_state()}
        assert used["account.verify_credentials"] == 4
        assert used["custom_profiles.get"] == 0
        assert used["direct_messages.send"] == 0


@pytest.mark.parametrize("options", [{"max_waiting": -1}, {"max_waiting": 1.5}, {"quota_store": "sqlite:///x"}])
def test_client_options_that_are_none(options: dict[str, Any]) -> None:
    keys = Credentials(consumer_key="a", consumer_secret="b", access_token="c", access_token_secret="d")
    with pytest.raises(InvalidInput, match=next(iter(options))):
        Client(keys, **options)


@pytest.mark.slow
def test_a_limiter_in_virtual_time_over_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_files_in_the_loop(monkeypatch)

    async def main() -> float:
        clock = LoopClock()
        async with SQLiteQuotaStore(tmp_path / "quota.db", clock=clock) as store:
            table = QuotaTable.default().replace(SEND, Quota(10, per=900.0))
            limiter = QuotaLimiter(table, store, account="a", app="b", clock=clock, timeout=30.0)

            async def one() -> None:
                limiter.settle(await limiter.admit(SEND, Lane()), seen=True)

            await asyncio.gather(*(one() for _ in range(35)))
            return clock.monotonic()

    assert 2700 <= run(main()) <= 2727
