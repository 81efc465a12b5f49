"""Stores where they are easily got wrong: found by attacks, each of them once a breach, a hang or a loss."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
from attrs import evolve

from tests.engine import BUCKET, CREDIT, DAY, LIFETIME, SEND, SHARED, NotedIntent, claims, limiter, store_of
from tests.stores import (
    HandClock,
    TimedPostgresStore,
    TimedRedisStore,
    ask,
    give_back,
    look,
    make,
    server_url,
    settle,
    take,
    usage,
)
from tests.support import HANGS
from tests.virtual_time import VirtualTimeLoop, run
from twdm_async import (
    Lane,
    LoopClock,
    MemoryQuotaStore,
    Priority,
    Quota,
    QuotaStore,
    QuotaStoreFailed,
    QuotaWaitTooLong,
    RedisQuotaStore,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.quota.limiter import QuotaLimiter
from twdm_async.quota.operations import (
    Bucket,
    Conversant,
    Granted,
    Heard,
    Hold,
    Intent,
    ReplyTicket,
    Take,
    Terms,
    Wait,
)
from twdm_async.quota.store.trust import Memory, Meta, State

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.quota.operations import Slot
    from twdm_async.quota.store.transactional import Batch
    from twdm_async.storage.contract import Cursor, Transaction


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str | None:
    kind = request.node.callspec.params.get("kind") if hasattr(request.node, "callspec") else "redis"
    return server_url(kind, request)


# ---- stores ----


@pytest.mark.parametrize("kind", SHARED)
async def test_more_people_than_stay_loaded(kind: str, tmp_path: Path, url: str | None) -> None:
    """A batch about pages that are loaded may not forget the others."""
    clock = HandClock()
    async with make(kind, clock, tmp_path, url) as store:
        terms = Terms(claims(1500), LIFETIME, credit=CREDIT)
        slots: list[Slot] = []
        for start in range(0, 1100, 100):
            tickets = [ReplyTicket(Conversant("brand", "anna", str(n)), str(n), 0.0) for n in range(start, start + 100)]
            answers = await asyncio.gather(*(ask(store, Take(terms, ticket=ticket)) for ticket in tickets))
            slots += [answer.slot for answer in answers if isinstance(answer, Granted)]
        for slot in slots[-3:]:
            settle(store, slot)
            await store.flush()
        await look(store, claims(1500), LIFETIME)
        assert usage(store, BUCKET, Quota(1500, per=DAY)).used == len(slots) == 1100


async def test_a_commit_that_arrives_late_is_not_done_twice(redis_url: str) -> None:
    """Its answer was lost, it was asked what became of it, and only then it arrives."""

    class Late(RedisQuotaStore):
        holds, held = False, None

        async def _call(self, *arguments: Any, **options: Any) -> Any:
            if arguments[1] == "commit" and self.holds:
                self.holds, self.held = False, arguments
                raise QuotaStoreFailed(store=self.address, problem="no answer")
            answer = await super()._call(*arguments, **options)
            if arguments[1] == "read" and self.held:
                held, self.held = self.held, None
                assert await super()._call(*held) is None, "it is committed"
            return answer

    async with Late(redis_url, prefix="late") as store:
        slots = await take(store, claims(10), LIFETIME, 10)
        assert isinstance(slots, list)
        store.holds = True
        give_back(store, slots[0])
        await store.flush()
        more = [await take(store, claims(10), LIFETIME) for _ in range(3)]
        assert [isinstance(answer, Wait) for answer in more] == [False, True, True]


@pytest.mark.slow
async def test_while_it_is_another_client_s_turn_nothing_is_committed_and_nothing_forgotten(redis_url: str) -> None:
    async with RedisQuotaStore(redis_url, prefix="turn") as store:
        for wanted in (3, 1):
            slots = await take(store, claims(5), LIFETIME, wanted)
            assert isinstance(slots, list)
            await store.flush()
            assert usage(store, BUCKET, Quota(5, per=DAY)).used == (3 if wanted == 3 else 4)
            with redis.Redis.from_url(redis_url) as server:
                seconds, microseconds = server.time()
                until = seconds * 1000 + microseconds // 1000 + 300
                server.hset("turn:{brand}:pages", "turn", f"client another {until}")
        last = await take(store, claims(5), LIFETIME, 5)
        assert isinstance(last, list)
        assert len(last) == 1
        with redis.Redis.from_url(redis_url) as server:
            seconds, microseconds = server.time()
        assert seconds * 1000 + microseconds // 1000 >= until, "not before the other's turn was over"


class Lossy(RedisQuotaStore):
    """Loses what it is told to, of one commit after the other; with all of the client, others have been so many since
    that the book does not know this one any more.
    """

    losses: list[str] | tuple[()] = ()

    async def _call(self, *arguments: Any, **options: Any) -> Any:
        loss, *self.losses = self.losses if arguments[1] == "commit" and self.losses else ("", *self.losses)
        answer = None if loss == "request" else await super()._call(*arguments, **options)
        if loss == "answer, and all of the client":
            key = f"{self._prefix}:{{brand}}:pages"
            with redis.Redis.from_url(self._url) as server:
                meta = json.loads(server.hget(key, "meta"))
                server.hset(key, "meta", json.dumps({**meta, "batches": {}}))
        if loss:
            raise QuotaStoreFailed(store=self.address, problem="no answer")
        return answer


async def test_a_note_whose_commit_did_not_arrive_is_carried_out_again(redis_url: str) -> None:
    async with Lossy(redis_url, prefix="refusing") as store:
        slots = await take(store, claims(3), LIFETIME, 3)
        assert isinstance(slots, list)
        store.losses = ["request"]
        give_back(store, slots[0])
        await store.flush()
        assert isinstance(await take(store, claims(3), LIFETIME), list)
        assert isinstance(await take(store, claims(3), LIFETIME), Wait)


async def test_what_became_of_a_batch_is_not_known_any_more(redis_url: str) -> None:
    """So nothing is given back twice; but a hold holds, and the store goes on."""
    async with Lossy(redis_url, prefix="deaf") as store:
        slots = await take(store, claims(10), LIFETIME, 10)
        assert isinstance(slots, list)
        store.losses = ["answer, and all of the client"]
        give_back(store, slots[0])
        await store.flush()
        more = [await take(store, claims(10), LIFETIME) for _ in range(2)]
        assert [isinstance(answer, Wait) for answer in more] == [False, True]
        store.losses = ["answer, and all of the client"]
        give_back(store, slots[1])
        store.note(Hold(BUCKET, 1000.0))
        await store.flush()
        await look(store, claims(10), LIFETIME)
        assert usage(store, BUCKET, Quota(10, per=DAY)).held_for > 990


async def test_a_batch_that_is_not_known_any_more_stays_so(redis_url: str) -> None:
    """The answer to finding out is lost as well."""
    async with Lossy(redis_url, prefix="deafer") as store:
        slots = await take(store, claims(10), LIFETIME, 10)
        assert isinstance(slots, list)
        store.losses = ["answer, and all of the client", "answer"]
        give_back(store, slots[0])
        await store.flush()
        await store.flush()
        more = [await take(store, claims(10), LIFETIME) for _ in range(2)]
        assert [isinstance(answer, Wait) for answer in more] == [False, True]


async def test_a_commit_that_is_sent_twice_is_one(redis_url: str) -> None:
    """As clients of a cluster do, whose answer was lost."""

    class Twice(RedisQuotaStore):
        async def _call(self, *arguments: Any, **options: Any) -> Any:
            if arguments[1] == "commit":
                await super()._call(*arguments, **options)
            return await super()._call(*arguments, **options)

    async with Twice(redis_url, prefix="twice") as store:
        slots = [await take(store, claims(10), LIFETIME) for _ in range(5)]
        assert all(isinstance(one, list) for one in slots)
        assert usage(store, BUCKET, Quota(10, per=DAY)).used == 5
        give_back(store, slots[0][0])  # type: ignore[index]  # it is a list
        await look(store, claims(10), LIFETIME)
        assert usage(store, BUCKET, Quota(10, per=DAY)).used == 4


def test_what_a_loop_left_under_way_is_no_other_loop_s(redis_url: str) -> None:
    """It ends while a commit is under way, which arrives; the first of the next loop does not."""
    clock = HandClock()

    class Unlucky(TimedRedisStore):
        happens = ""

        async def _call(self, *arguments: Any, **options: Any) -> Any:
            if arguments[1] == "commit" and self.happens == "it is lost":
                self.happens = ""
                raise QuotaStoreFailed(store=self.address, problem="no answer")
            answer = await super()._call(*arguments, **options)
            if arguments[1] == "commit" and self.happens == "the loop ends":
                self.happens = "it is lost"
                arrived.set()
                await asyncio.Event().wait()
            return answer

    store, arrived = Unlucky(redis_url, clock, prefix="left"), asyncio.Event()

    async def first() -> None:
        assert isinstance(await take(store, claims(5), LIFETIME), list)
        store.happens = "the loop ends"
        asking = asyncio.ensure_future(take(store, claims(5), LIFETIME))
        await arrived.wait()
        asking.cancel()
        await store._redis.aclose()

    async def second() -> None:
        async with TimedRedisStore(redis_url, clock, prefix="left") as other, store:
            slots = await take(other, claims(5), LIFETIME)
            assert isinstance(slots, list)
            with pytest.raises(QuotaStoreFailed):
                await take(store, claims(6), LIFETIME)
            await store.flush()
            await look(other, claims(5), LIFETIME)
            assert usage(other, BUCKET, Quota(5, per=DAY)).used == 3

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("is_abandoned", [False, True])
def test_a_limiter_in_one_loop_after_the_other(is_abandoned: bool) -> None:
    """Somebody waits when the first ends, or gave up before; or nobody could say so."""
    clock, gates, left = LoopClock(), list[QuotaLimiter](), list[Any]()

    async def first() -> None:
        gates.append(limiter(Quota(1, per=100.0), store=MemoryQuotaStore(clock=clock)))
        gates[0].settle(await gates[0].admit(SEND, Lane()), seen=True)
        left.append(asyncio.ensure_future(gates[0].admit(SEND, Lane())))
        await asyncio.sleep(1)
        if not is_abandoned:
            left[0].cancel()

    async def second() -> None:
        async with asyncio.timeout(1000):
            await gates[0].admit(SEND, Lane())
        assert [one.waiting for one in gates[0].state() if one.endpoint == SEND] == [0]

    if is_abandoned:
        loop = VirtualTimeLoop()
        loop.run_until_complete(first())
        loop.close()
    else:
        run(first())
    run(second())
    left[0].get_coro().close()


def test_the_worker_of_a_loop_that_is_gone_does_nothing_to_the_next_one(tmp_path: Path) -> None:
    """It is collected late, while the next one asks."""
    began, goes_on = asyncio.Event(), asyncio.Event()

    class Stuck(SQLiteQuotaStore):
        async def commit(self, batch: Batch) -> None:
            began.set()
            await goes_on.wait()
            self._show(batch.app, *self._transact(batch))

    store = Stuck(tmp_path / "quota.db", clock=HandClock())
    left: list[Any] = []

    async def first() -> None:
        nonlocal began, goes_on
        began, goes_on = asyncio.Event(), asyncio.Event()
        left.append(asyncio.ensure_future(take(store, claims(5), LIFETIME)))
        await began.wait()
        left.append(store._queues["brand"].worker)

    async def second() -> None:
        nonlocal began, goes_on
        began, goes_on = asyncio.Event(), asyncio.Event()
        asking = asyncio.ensure_future(take(store, claims(5), LIFETIME))
        await began.wait()
        for task in left:
            with contextlib.suppress(RuntimeError):  # that its loop is closed
                task.get_coro().close()
        goes_on.set()
        assert isinstance(await asking, list)
        assert usage(store, BUCKET, Quota(5, per=DAY)).used == 1
        await store.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    loop.close()
    asyncio.run(second())


async def test_a_take_waits_for_what_was_noted_before_and_not_for_what_comes_later(tmp_path: Path) -> None:
    class Busy(SQLiteQuotaStore):
        async def commit(self, batch: Batch) -> None:
            self.note(Hold(Bucket(SEND, Scope.USER, "somebody", "brand"), 1.0))
            await super().commit(batch)

    async with asyncio.timeout(HANGS), Busy(tmp_path / "quota.db") as store:
        store.note(Hold(BUCKET, 1000.0))
        assert isinstance(await take(store, claims(3), LIFETIME), Wait)
        await store.flush()
        Busy.commit = SQLiteQuotaStore.commit  # type: ignore[method-assign]


async def test_a_forgotten_client_goes_on_while_others_commit(redis_url: str) -> None:
    class Slow(Lossy):
        others_commit = 0

        async def _call(self, *arguments: Any, **options: Any) -> Any:
            if arguments[1] == "commit" and self.others_commit:
                self.others_commit -= 1
                await look(other, claims(10), LIFETIME)
            return await super()._call(*arguments, **options)

    async with Slow(redis_url, prefix="forgotten") as store, RedisQuotaStore(redis_url, prefix="forgotten") as other:
        slots = await take(store, claims(10), LIFETIME, 10)
        assert isinstance(slots, list)
        store.losses = ["answer, and all of the client"]
        settle(store, slots[0])
        await store.flush()
        store.others_commit = 3
        assert isinstance(await take(store, claims(10), LIFETIME), Wait)
        assert store.others_commit == 0


@pytest.mark.parametrize("kind", SHARED)
async def test_a_hold_behind_many_notes_stops_a_take_that_came_after_it(
    kind: str, tmp_path: Path, url: str | None
) -> None:
    async with make(kind, HandClock(), tmp_path, url) as store:
        slots = await take(store, claims(2000), LIFETIME, 1500)
        assert isinstance(slots, list)
        for slot in slots:
            settle(store, slot)
        store.note(Hold(BUCKET, 1000.0))
        assert isinstance(await take(store, claims(2000), LIFETIME), Wait)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["memory", *SHARED])
@pytest.mark.parametrize("they_write", [True, False])
async def test_conversations_that_are_over_are_forgotten(
    kind: str, they_write: bool, tmp_path: Path, url: str | None
) -> None:
    """Also of people who only write, and of those who never do."""
    clock = HandClock()
    async with make(kind, clock, tmp_path, url) as store:
        page, people = of_one_page()
        for person in people:
            clock.now += DAY / 16
            conversant = Conversant("brand", "anna", person)
            if they_write:
                store.note(Heard(conversant, clock.wall(), CREDIT))
            else:
                terms = Terms(claims(1000), LIFETIME, credit=CREDIT)
                await ask(store, Take(terms, ticket=ReplyTicket(conversant, person, clock.wall())))
        await store.flush()
        assert 100 < len(people) < 300
        assert len(await known_on(store, page, tmp_path)) < 100


@functools.cache
def of_one_page() -> tuple[str, list[str]]:
    """A page, and people who are on it."""
    page = Conversant("brand", "anna", "0").page
    return page, [str(n) for n in range(200_000) if Conversant("brand", "anna", str(n)).page == page]


async def known_on(store: QuotaStore, page: str, folder: Path) -> Any:
    if isinstance(store, MemoryQuotaStore):
        return store._books["brand"].conversations[page].people
    if isinstance(store, TimedRedisStore):
        return json.loads(store.server.hget(f"{store._prefix}:{{brand}}:pages", page))  # type: ignore[arg-type]  # sync
    if isinstance(store, TimedPostgresStore):
        query = f"SELECT content FROM {store.schema}.page WHERE name = %s"  # noqa: S608 - of the test
        found = store.hand.execute(query, (page,)).fetchone()
        return json.loads(found[0])  # type: ignore[index]
    (path,) = folder.glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        return json.loads(db.execute("SELECT content FROM page WHERE name = ?", (page,)).fetchone()[0])


class BadIntent(Intent):
    def write(self, db: Transaction) -> Cursor:
        return db.execute("UPDATE nowhere SET x = 1")

    def withdraw(self, db: Transaction) -> None: ...


async def test_an_intent_is_withdrawn_with_its_slot(tmp_path: Path) -> None:
    async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
        intent, terms = NotedIntent(), Terms(claims(1), LIFETIME)
        answer = await ask(store, Take(terms, intent=intent))
        assert isinstance(answer, Granted)
        assert isinstance(await ask(store, Take(terms, intent=NotedIntent())), Wait)
        give_back(store, answer.slot)
        await store.flush()
        assert intent.noted == ["written", "withdrawn"]


async def test_an_intent_that_cannot_be_written_takes_no_slot(tmp_path: Path) -> None:
    async with SQLiteQuotaStore(tmp_path / "quota.db") as store:
        terms = Terms(claims(3), LIFETIME)
        await ask(store, Take(terms))
        answers = await asyncio.gather(
            ask(store, Take(terms)), ask(store, Take(terms, intent=BadIntent())), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [QuotaStoreFailed] * 2
        rest = await take(store, claims(3), LIFETIME, 3)
        assert isinstance(rest, list)
        assert len(rest) == 2


async def test_a_transaction_that_is_rolled_back_leaves_nothing_in_memory(tmp_path: Path) -> None:
    class Full(SQLiteQuotaStore):
        is_full = False

        def _apply(self, transaction: Transaction, batch: Batch, written: list[Any]) -> Any:
            done = super()._apply(transaction, batch, written)
            if self.is_full:
                raise OSError(28, "No space left on device")
            return done

    async with Full(tmp_path / "quota.db") as store:
        assert isinstance(await take(store, claims(3), LIFETIME), list)
        store.is_full = True
        with pytest.raises(QuotaStoreFailed, match="No space"):
            await take(store, claims(3), LIFETIME)
        store.is_full = False
        rest = await take(store, claims(3), LIFETIME, 3)
        assert isinstance(rest, list)
        assert len(rest) == 2


def test_a_client_with_a_longer_window_finds_what_the_others_spent() -> None:
    """Nobody has counted by an hour so far, but a day was kept."""

    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        quick = limiter(Quota(20, per=900.0), store=store)
        for _ in range(20):
            quick.settle(await quick.admit(SEND, Lane()), seen=True)
        await asyncio.sleep(1000)
        quick.settle(await quick.admit(SEND, Lane()), seen=True)  # the others do not count any more, for that one
        await asyncio.sleep(1000)
        slow = limiter(Quota(10, per=3600.0), store=store)
        with pytest.raises(QuotaWaitTooLong):
            await slow.admit(SEND, Lane(), max_wait=1000)
        await slow.admit(SEND, Lane(), max_wait=2000)

    run(main())


def test_the_last_slots_are_kept_for_live_calls() -> None:
    async def main() -> None:
        gate = limiter(Quota(100, per=900.0), store=MemoryQuotaStore(clock=LoopClock()), reserve=1 / 3)
        for _ in range(97):
            await gate.admit(SEND, Lane())
        with pytest.raises(QuotaWaitTooLong):
            await gate.admit(SEND, Lane(priority=Priority.BULK), max_wait=1.0)
        await gate.admit(SEND, Lane(), max_wait=0.0)

    run(main())


def test_a_slot_that_is_granted_when_nobody_waits_any_more_is_given_back(tmp_path: Path) -> None:
    async def main() -> int:
        gate = limiter(Quota(1, per=600.0), store=store_of("slow", tmp_path))
        slot = await gate.admit(SEND, Lane())
        waiting = asyncio.ensure_future(gate.admit(SEND, Lane()))
        await asyncio.sleep(5)
        gate.give_back(slot)
        await asyncio.sleep(0.02)  # it is asked for
        waiting.cancel()
        await asyncio.sleep(5)
        await gate.look()
        return next(one.used for one in gate.state() if one.endpoint == SEND)

    assert run(main()) == 0


async def test_what_is_wrong_with_one_app_is_no_other_app_s_trouble(redis_url: str) -> None:
    clock = HandClock()
    async with TimedRedisStore(redis_url, clock, prefix="apps") as store:
        for app in ("one", "two"):
            assert isinstance(await take(store, claims(5, app=app), LIFETIME), list)
        store.server.delete("apps:{one}:pages")
        one, two = (ask(store, Take(Terms(claims(5, app=app), LIFETIME))) for app in ("one", "two"))
        answers = await asyncio.gather(one, two, return_exceptions=True)
        assert [type(answer) for answer in answers] == [QuotaStoreFailed, Granted]


async def test_a_note_counts_from_when_it_was_made(tmp_path: Path) -> None:
    path, clock = tmp_path / "quota.db", HandClock()
    async with SQLiteQuotaStore(path, clock=clock) as store:
        slots = await take(store, claims(3, 100.0), LIFETIME, 3)
        assert isinstance(slots, list)
        path.rename(tmp_path / "away")
        for slot in slots:
            settle(store, slot)
        await store.flush()
        clock.now += 90
        (tmp_path / "away").rename(path)
        assert isinstance(await take(store, claims(3, 100.0), LIFETIME), Wait)
        clock.now += 11
        assert isinstance(await take(store, claims(3, 100.0), LIFETIME), list)


@pytest.mark.slow
async def test_a_store_that_fails_is_not_asked_all_the_time(tmp_path: Path) -> None:
    asked = 0

    class Counting(SQLiteQuotaStore):
        async def commit(self, batch: Batch) -> None:
            nonlocal asked
            asked += 1
            await super().commit(batch)

    async with Counting(tmp_path / "quota.db") as store:
        slots = await take(store, claims(3), LIFETIME)
        assert isinstance(slots, list)
        (tmp_path / "quota.db").rename(tmp_path / "away")
        asked = 0
        settle(store, slots[0])
        await asyncio.sleep(1.0)
        assert 1 <= asked < 6
        (tmp_path / "away").rename(tmp_path / "quota.db")


async def test_a_transaction_that_fails_oddly_while_nobody_waits_for_it(tmp_path: Path) -> None:
    began, may_fail = threading.Event(), threading.Event()

    class Odd(SQLiteQuotaStore):
        is_odd = False

        def _apply(self, transaction: Transaction, batch: Batch, written: list[Any]) -> Any:
            if self.is_odd:
                began.set()
                may_fail.wait(10)
                raise ValueError("nobody foresaw it")
            return super()._apply(transaction, batch, written)

    store = Odd(tmp_path / "quota.db")
    assert isinstance(await take(store, claims(3), LIFETIME), list)
    store.is_odd = True
    asking = asyncio.ensure_future(take(store, claims(3), LIFETIME))
    while not began.is_set():
        await asyncio.sleep(0.001)
    worker = next(iter(store._queues.values())).worker
    assert worker is not None
    worker.cancel()
    asyncio.get_running_loop().call_later(0.01, may_fail.set)
    with pytest.raises(QuotaStoreFailed, match="cancelled"):
        await asking
    store.is_odd = False
    async with asyncio.timeout(HANGS):
        assert isinstance(await take(store, claims(3), LIFETIME), list)
        await store.close()


# ---- whether a server can be believed ----


def read(meta: Meta | None, *, at: float, sent_at: float | None = None, identity: str = "s") -> State:
    return State("", meta, at, identity, has_earlier=False, sent_at=at if sent_at is None else sent_at, pages={})


def judged(memory: Memory, state: State, *, assumes: bool = False) -> Meta | None:
    meta = memory.judge(state, "x", assumes=assumes, longest=DAY)
    if meta is not None:
        memory.remember(meta, memory.batch + 1, state.sent_at)
    return meta


def test_after_a_book_is_begun_anew_time_goes_on_for_all() -> None:
    """Also for a client that knew the time of the book before, by a server whose clock was wrong."""
    first, second = Memory(), Memory()
    old = judged(first, read(None, at=1000.0, sent_at=50.0))
    judged(second, read(old, at=1001.0, sent_at=51.0))
    lost = judged(first, read(None, at=500_000.0, sent_at=60.0))
    assert lost is not None
    later = read(lost, at=500_000.0 + 2 * DAY, sent_at=60.0 + 2 * DAY)
    goes_on = judged(second, later)
    assert goes_on is not None
    assert goes_on.lost_until < goes_on.now == later.time


def test_who_was_not_told_what_to_believe_waits_until_nothing_is_unknown() -> None:
    client, told = Memory(), Memory()
    judged(client, read(None, at=0.0))
    lost = judged(client, read(None, at=10.0))
    assert lost is not None
    assert judged(Memory(), read(lost, at=20.0)) is None
    anew = judged(told, read(lost, at=20.0), assumes=True)
    assert anew is not None
    assert anew.epoch != lost.epoch
    assert judged(client, read(anew, at=30.0)) is None
    assert judged(client, read(anew, at=21.0 + DAY)) is not None


def test_a_book_that_nobody_used_for_longer_than_anything_counts_is_no_loss() -> None:
    client = Memory()
    judged(client, read(None, at=0.0))
    meta = judged(client, read(None, at=100 * DAY))
    assert meta is not None
    assert not meta.lost_until


@pytest.mark.parametrize("changed", ["identity", "number", "epoch", "batch"])
def test_what_tells_that_data_was_lost(changed: str) -> None:
    client = Memory()
    meta = None
    for second in range(3):
        meta = judged(client, read(meta, at=float(second)))
    assert meta is not None
    assert not meta.lost_until
    state = read(meta, at=4.0, identity="other" if changed == "identity" else "s")
    if changed == "number":
        state.meta = evolve(meta, number=1)
    elif changed == "epoch":
        state.meta = evolve(meta, epoch="another")
    elif changed == "batch":
        state.meta = meta.with_batch("x", 1)
    lost = client.judge(state, "x", assumes=False, longest=DAY)
    assert lost is not None
    assert lost.lost_until >= 4.0 + DAY
    assert meta.epoch in lost.before


def test_a_book_knows_the_latest_clients() -> None:
    meta = judged(Memory(), read(None, at=0.0))
    assert meta is not None
    meta = meta.with_batch("early", 1)
    for number in range(100):
        meta = evolve(meta, now=meta.now + 1.0).with_batch(f"client {number}", number)
    assert (meta.of("early"), meta.of("client 30"), meta.of("client 40"), meta.of("client 99")) == (None, None, 40, 99)
    later = evolve(meta, now=meta.now + DAY - 50.0).with_batch("late", 5)
    assert (later.of("client 40"), later.of("client 60"), later.of("late")) == (None, 60, 5)
