"""The wait queue where it is easily got wrong: found by attacks, each of them once a hang or a wrong turn."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine import CREDIT, DAY, LIFETIME, SEND, NotedIntent, SlowStore, claims, limiter, store_of
from tests.lined_up import Line
from tests.virtual_time import run
from twdm_async import (
    Lane,
    LoopClock,
    MemoryQuotaStore,
    Pace,
    Priority,
    Quota,
    QuotaWaitTooLong,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.quota.book import Book
from twdm_async.quota.credit import Conversation
from twdm_async.quota.ledger import Ledger
from twdm_async.quota.operations import (
    Conversant,
    Granted,
    Heard,
    ReplyTicket,
    Settle,
    Take,
    Terms,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twdm_async.quota.limiter import QuotaLimiter
    from twdm_async.quota.store.transactional import Batch

# ---- who waits ----


@pytest.mark.parametrize("kind", ["memory", "slow"])
@pytest.mark.parametrize("reserve", [0.0, 0.3])
def test_bulk_is_served_with_and_without_a_reserve(kind: str, reserve: float, tmp_path: Path) -> None:
    async def main() -> list[float]:
        gate = limiter(Quota(10, per=10.0), store=store_of(kind, tmp_path), reserve=reserve)

        async def one() -> float:
            gate.settle(await gate.admit(SEND, Lane(priority=Priority.BULK)), seen=True)
            return asyncio.get_running_loop().time()

        return sorted(await asyncio.gather(*(one() for _ in range(30))))

    times = run(main())
    assert times[-1] < (25 if reserve == 0 else 60)


def test_many_that_expire_in_the_moment_in_which_slots_come_free(caplog: pytest.LogCaptureFixture) -> None:
    """The process was suspended, and all comes at once."""

    async def main() -> None:
        clock = LoopClock()
        gate = limiter(Quota(1500, per=1.0), store=MemoryQuotaStore(clock=clock))
        for slot in [await gate.admit(SEND, Lane()) for _ in range(1500)]:
            gate.settle(slot, seen=True)
        waiting = [
            asyncio.ensure_future(gate.admit(SEND, Lane(), 1.5, recipient=str(number))) for number in range(1400)
        ]
        await asyncio.sleep(0.1)
        asyncio.get_running_loop()._jumping.now += 2.5  # type: ignore[attr-defined]  # it is a virtual one
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, QuotaWaitTooLong) or not isinstance(result, Exception) for result in results)
        async with asyncio.timeout(10):
            await gate.admit(SEND, Lane())

    run(main())
    assert "RecursionError" not in caplog.text


@pytest.mark.parametrize("kind", ["memory", "slow"])
@pytest.mark.parametrize("has_recipients", [False, True])
def test_a_lane_is_first_in_first_out_and_lanes_take_turns(kind: str, has_recipients: bool, tmp_path: Path) -> None:
    async def main() -> list[str]:
        gate = limiter(Quota(2, per=5.0), store=store_of(kind, tmp_path))
        served: list[str] = []

        async def one(name: str) -> None:
            recipient = name if has_recipients else None
            slot = await gate.admit(SEND, Lane(name[0]), recipient=recipient)
            served.append(name)
            gate.settle(slot, seen=True)

        first = [asyncio.ensure_future(one(f"a{number:02}")) for number in range(20)]
        await asyncio.sleep(1)
        await asyncio.gather(*first, one("b"))
        return served

    served = run(main())
    assert [name for name in served if name != "b"] == [f"a{number:02}" for number in range(20)]
    assert served.index("b") <= 4


def test_an_app_quota_that_binds_one_client_does_not_stop_one_with_a_larger_one() -> None:
    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        small = limiter(Quota(100, per=60.0), Quota(2, per=60.0, scope=Scope.APP), store=store, account="small")
        large = limiter(Quota(100, per=60.0), Quota(50, per=60.0, scope=Scope.APP), store=store, account="large")
        for _ in range(2):
            await small.admit(SEND, Lane())
        waiting = asyncio.ensure_future(small.admit(SEND, Lane()))
        await asyncio.sleep(1)
        for _ in range(5):
            await large.admit(SEND, Lane(), max_wait=0.5)
        assert not waiting.done()
        waiting.cancel()

    run(main())


# ---- free replies that wait ----


def heard(gate: QuotaLimiter, clock: LoopClock, person: str = "5") -> None:
    gate.note_inbound(person, datetime.fromtimestamp(clock.wall(), UTC))


def when_free(
    tmp_path: Path, scene: Callable[[QuotaLimiter, LoopClock], Any], pace: Pace | None = None, kind: str = "slow"
) -> Any:
    async def main() -> Any:
        clock = LoopClock()
        gate = limiter(Quota(1, per=1000.0), store=store_of(kind, tmp_path), pace=pace, credit=CREDIT)
        await gate.admit(SEND, Lane())
        return await scene(gate, clock)

    return run(main())


def test_a_person_writes_while_the_store_is_asked(tmp_path: Path) -> None:
    async def scene(gate: QuotaLimiter, clock: LoopClock) -> float:
        waiting = asyncio.ensure_future(gate.admit(SEND, Lane(), recipient="5"))
        await asyncio.sleep(0.02)  # the store answers after 0.05
        heard(gate, clock)
        assert (await waiting).buckets == ()
        return clock.monotonic()

    assert when_free(tmp_path, scene) < 1


def test_a_free_reply_does_not_wait_behind_one_that_is_not(tmp_path: Path) -> None:
    async def scene(gate: QuotaLimiter, clock: LoopClock) -> float:
        heard(gate, clock)
        await asyncio.sleep(61)  # one permit is there
        counted = asyncio.ensure_future(gate.admit(SEND, Lane(), recipient="6"))
        began = clock.monotonic()
        assert (await gate.admit(SEND, Lane(), recipient="5")).buckets == ()
        counted.cancel()
        return clock.monotonic() - began

    assert when_free(tmp_path, scene, Pace(1, per=60.0)) < 1


def test_replies_become_free_in_their_order(tmp_path: Path) -> None:
    async def scene(gate: QuotaLimiter, clock: LoopClock) -> list[int]:
        waiting = [asyncio.ensure_future(gate.admit(SEND, Lane(), recipient="5")) for _ in range(10)]
        await asyncio.sleep(2)
        heard(gate, clock)
        await asyncio.sleep(2)
        free = [number for number, one in enumerate(waiting) if one.done()]
        for one in waiting:
            one.cancel()
        return free

    assert when_free(tmp_path, scene) == [0, 1, 2, 3, 4]


def test_a_free_reply_that_waits_for_the_pace_is_not_told_of_the_quota(tmp_path: Path) -> None:
    async def scene(gate: QuotaLimiter, clock: LoopClock) -> int:
        for person in range(30):
            heard(gate, clock, str(person))
        slots = await asyncio.gather(*(gate.admit(SEND, Lane(), 5.0, recipient=str(person)) for person in range(30)))
        return sum(slot.buckets == () for slot in slots)

    assert when_free(tmp_path, scene, Pace(20, per=1.0), kind="memory") == 30


def test_free_replies_leave_at_their_pace_while_another_account_has_spent_the_app_s_quota() -> None:
    async def main() -> list[float]:
        clock = LoopClock()
        store = MemoryQuotaStore(clock=clock)
        quotas = (Quota(100, per=1000.0), Quota(10, per=1000.0, scope=Scope.APP))
        anna = limiter(*quotas, store=store, pace=Pace(2, per=1.0))
        bob = limiter(*quotas, store=store, account="bob")
        for person in range(20):
            heard(anna, clock, str(person))
        await asyncio.sleep(1)
        for _ in range(10):
            bob.settle(await bob.admit(SEND, Lane()), seen=True)
        waiting = [asyncio.ensure_future(bob.admit(SEND, Lane())) for _ in range(5)]
        times: list[float] = []

        async def reply(person: int) -> None:
            slot = await anna.admit(SEND, Lane(), recipient=str(person))
            assert slot.buckets == ()
            times.append(clock.monotonic() - began)

        began = clock.monotonic()
        await asyncio.gather(*(reply(person) for person in range(20)))
        for one in waiting:
            one.cancel()
        return times

    expected = [0.0, *(number / 2 for number in range(19))]
    assert run(main()) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("is_spent", [False, True])
def test_free_replies_that_wait_for_the_pace_are_in_order(is_spent: bool) -> None:
    """Those of one lane as they came; and lanes take turns, if it is only the pace that they wait for."""

    async def main() -> list[str]:
        clock = LoopClock()
        quota = Quota(1 if is_spent else 1000, per=DAY)
        gate = limiter(quota, store=MemoryQuotaStore(clock=clock), pace=Pace(2, per=1.0))
        gate.settle(await gate.admit(SEND, Lane()), seen=True)
        for person in range(40):
            heard(gate, clock, str(person))
        await asyncio.sleep(10)
        order: list[str] = []

        async def reply(name: str, lane: str, person: int) -> None:
            slot = await gate.admit(SEND, Lane(lane), recipient=str(person))
            assert slot.buckets == ()
            order.append(name)

        calls = [asyncio.ensure_future(reply(f"a{n}", "a", n)) for n in range(8)]
        await asyncio.sleep(0)
        calls += [asyncio.ensure_future(reply(f"b{n}", "b", 20 + n)) for n in range(4)]
        for number in range(8, 14):
            await asyncio.sleep(0.07)
            calls.append(asyncio.ensure_future(reply(f"a{number}", "a", number)))
        began = clock.monotonic()
        await asyncio.gather(*calls)
        assert clock.monotonic() - began < 10, "18 at two a second"
        return order

    order = run(main())
    for lane in "ab":
        assert [name for name in order if name[0] == lane] == sorted(
            (name for name in order if name[0] == lane), key=lambda name: int(name[1:])
        )
    if not is_spent:
        assert order[2:10] in (
            ["b0", "a2", "b1", "a3", "b2", "a4", "b3", "a5"],
            [*["a2", "b0", "a3", "b1", "a4", "b2", "a5", "b3"]],
        )


def test_lanes_take_turns_while_live_calls_come_between(tmp_path: Path) -> None:
    """They come while the store is asked for the first of the bulk calls."""

    class Slower(SQLiteQuotaStore):
        async def commit(self, batch: Batch) -> None:
            await asyncio.sleep(0.15)
            self._show(batch.app, *self._transact(batch))

    async def main() -> dict[str, int]:
        clock = LoopClock()
        store = Slower(tmp_path / "quota.db", clock=clock)
        gate = limiter(Quota(10**5, per=DAY), store=store, pace=Pace(1, per=0.2), reserve=0.0)
        left = {"a": 0, "b": 0, "live": 0}

        async def send(key: str, lane: Lane, pause: float) -> None:
            while True:
                gate.settle(await gate.admit(SEND, lane, recipient=key), seen=True)
                left[key] += 1
                await asyncio.sleep(pause)

        calls = [asyncio.ensure_future(send("live", Lane("live"), 0.25))]
        for key in "ab":
            lane = Lane(key, priority=Priority.BULK)
            calls += [asyncio.ensure_future(send(key, lane, 0.0)) for _ in range(20)]
        await asyncio.sleep(60)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return left

    left = run(main())
    assert min(left.values()) > 30
    assert abs(left["a"] - left["b"]) <= 2


def test_a_free_reply_that_comes_during_a_hold_leaves_when_it_ends(tmp_path: Path) -> None:
    async def scene(gate: QuotaLimiter, clock: LoopClock) -> float:
        heard(gate, clock)
        waiting = asyncio.ensure_future(gate.admit(SEND, Lane()))
        gate.refused(SEND, {"Retry-After": "5"})
        began = clock.monotonic()
        assert (await gate.admit(SEND, Lane(), recipient="5")).buckets == ()
        waiting.cancel()
        return clock.monotonic() - began

    for kind in ("memory", "slow"):
        assert 5 <= when_free(tmp_path, scene, kind=kind) < 7


def test_a_free_reply_that_is_given_back_lets_the_next_one_leave(tmp_path: Path) -> None:
    async def scene(gate: QuotaLimiter, clock: LoopClock) -> float:
        heard(gate, clock)
        recipient = "5"
        slots = [await gate.admit(SEND, Lane(), recipient=recipient) for _ in range(5)]
        sixth = asyncio.ensure_future(gate.admit(SEND, Lane(), recipient=recipient))
        await asyncio.sleep(1)
        assert not sixth.done()
        gate.give_back(slots[0])
        assert (await sixth).buckets == ()
        return clock.monotonic()

    for kind in ("memory", "slow"):
        assert when_free(tmp_path, scene, kind=kind) < 3


@pytest.mark.parametrize("has_recipient", [False, True])
def test_who_goes_first_is_not_refused_for_those_who_wait_for_the_pace(has_recipient: bool) -> None:
    async def main() -> float:
        clock = LoopClock()
        gate = limiter(Quota(1000, per=DAY), store=MemoryQuotaStore(clock=clock), pace=Pace(1, per=1.0))
        bulk = Lane("bulk", priority=Priority.BULK)
        waiting = [asyncio.ensure_future(gate.admit(SEND, bulk, recipient=str(number))) for number in range(30)]
        await asyncio.sleep(0.01)
        began = clock.monotonic()
        await gate.admit(SEND, Lane(), 5.0, recipient="x" if has_recipient else None)
        for one in waiting:
            one.cancel()
        return clock.monotonic() - began

    assert run(main()) < 1.1


def test_a_call_that_is_being_asked_for_is_counted_once(tmp_path: Path) -> None:
    """The store is asked for one; the next one is in time, and is told so."""

    async def main() -> float:
        clock = LoopClock()
        store = SlowStore(tmp_path / "quota.db", clock=clock)
        gate = limiter(Quota(1000, per=DAY), store=store, pace=Pace(1, per=1.0))
        waiting = [asyncio.ensure_future(gate.admit(SEND, Lane("a"), intent=NotedIntent())) for _ in range(2)]
        await asyncio.sleep(1.08)  # the first permit was spent after 0.05
        assert gate._lines[SEND][0].asking == 1
        began = clock.monotonic()
        await gate.admit(SEND, Lane("b"), 1.5, intent=NotedIntent())
        await asyncio.gather(*waiting)
        return clock.monotonic() - began

    assert run(main()) < 1.5


def test_a_lane_that_is_served_out_of_turn_moves_no_other() -> None:
    queue = Line[str]()
    heavy, many, new = Lane("heavy", weight=0.01), Lane("many"), Lane("new")
    for number in range(3):
        queue.push(f"heavy {number}", heavy)
    for number in range(3):
        queue.discard(f"heavy {number}", is_served=True)
        if number == 0:
            for other in range(50):
                queue.push(f"many {other}", many)
    queue.push("new", new)
    order = [queue.pop() for _ in range(3)]
    assert "new" in order


def test_who_comes_late_has_saved_nothing_up() -> None:
    """Also if the others were served one by one, and not as the first of all."""
    queue = Line[str]()
    old, new = Lane("old"), Lane("new")
    for number in range(100):
        queue.push(f"old {number}", old)
    for number in range(50):
        queue.discard(f"old {number}", is_served=True)
    for number in range(10):
        queue.push(f"new {number}", new)
    order = [queue.pop() for _ in range(10)]
    assert 4 <= sum(item.startswith("new") for item in order) <= 6


def test_what_was_forgotten_opens_nothing_when_it_is_heard_again() -> None:
    book = Book(0.0)
    anna = Conversant("brand", "anna", "5")
    terms = Terms(claims(100), LIFETIME, credit=CREDIT)
    at = 1e6

    def free(now: float) -> bool:
        book.apply(Heard(anna, at, CREDIT), 0.0)
        answer = book.take(Take(terms, ticket=ReplyTicket(anna, str(now), now)), 0.0)
        assert isinstance(answer, Granted)
        book.apply(Settle(answer.slot, made=now), 0.0)
        return answer.slot.buckets == ()

    assert [free(at + number) for number in range(6)] == [True] * 5 + [False]
    book.load(book.changes())  # as another process would
    page = book.conversations[anna.page]
    page.forget(at + 3 * DAY, CREDIT)  # by a clock that was wrong
    assert not page.people
    assert not free(at + 100)


def test_a_message_far_back_is_refused_at_once_though_it_waited_for_the_pace() -> None:
    async def main() -> list[float]:
        clock = LoopClock()
        gate = limiter(Quota(10, per=1000.0), store=MemoryQuotaStore(clock=clock), pace=Pace(2, per=10.0))
        times: list[float] = []

        async def send(number: int) -> None:
            try:
                lane = Lane(str(number % 3))
                gate.settle(await gate.admit(SEND, lane, 1500.0, recipient=str(number)), seen=True)
            except QuotaWaitTooLong as error:
                assert error.wait > 1500
                times.append(clock.monotonic() - began)

        began = clock.monotonic()
        await asyncio.gather(*(send(number) for number in range(60)))
        assert clock.monotonic() - began < 1500
        return times

    times = run(main())
    assert 30 <= len(times) <= 41, "twenty leave within 1500 s, and who comes next might"
    assert max(times) < 400


def test_who_waits_for_a_slow_pace_wakes_nobody() -> None:
    async def main() -> int:
        clock, rings = LoopClock(), 0
        gate = limiter(Quota(1000, per=DAY), store=MemoryQuotaStore(clock=clock), pace=Pace(1, per=60.0))
        dispatcher = gate._line(SEND)[1]
        ring = dispatcher._alarms._ring

        def counted(*arguments: Any) -> None:
            nonlocal rings
            rings += 1
            ring(*arguments)

        sends = [asyncio.ensure_future(gate.admit(SEND, Lane(), recipient=str(number))) for number in range(4)]
        await asyncio.sleep(0)
        dispatcher._alarms._ring = counted
        await asyncio.gather(*sends)
        return rings

    assert run(main()) < 20


def test_bulk_free_at_respects_the_reserve() -> None:
    async def main() -> None:
        clock = LoopClock()
        gate = limiter(Quota(100, per=1000.0), store=MemoryQuotaStore(clock=clock), reserve=0.3)
        for _ in range(97):
            gate.settle(await gate.admit(SEND, Lane()), seen=True)
        (state,) = [one for one in gate.state() if one.endpoint == SEND]
        assert state.reserved >= 3
        assert state.free_at <= clock.utc(0.1)
        assert state.bulk_free_at > clock.utc(900)

    run(main())


def test_sends_of_an_unknown_time_do_not_push_out_later_ones() -> None:
    conversation, now = Conversation(), 1e9
    for number in range(5):
        conversation.begin(f"unknown {number}", now + number, CREDIT)
        conversation.end(f"unknown {number}", None)
    for number in range(12):
        conversation.begin(str(number), now + 7200 + 10 * number, CREDIT)
        conversation.end(str(number), now + 7200 + 10 * number + 1)
    conversation.hear(now + 7200 + 5)  # heard of late: eleven have left since
    assert not conversation.begin("x", now + 7400, CREDIT).is_free


def test_a_quota_that_does_not_bind_is_no_reason_to_ask_often() -> None:
    async def main() -> int:
        asked = 0

        class Counting(MemoryQuotaStore):
            def ask(self, question: Any) -> Any:
                nonlocal asked
                asked += 1
                return super().ask(question)

        gate = limiter(Quota(5, per=1.0), Quota(20, per=DAY), store=Counting(clock=LoopClock()))
        for _ in range(20):
            gate.settle(await gate.admit(SEND, Lane()), seen=True)
        waiting = asyncio.ensure_future(gate.admit(SEND, Lane(priority=Priority.BULK)))
        await asyncio.sleep(3600)
        waiting.cancel()
        return asked

    assert run(main()) < 200


def test_a_lease_is_found_in_every_window() -> None:
    """Slots that were under way when a shorter window joined are given back in it, too."""
    ledger, day, quarter = Ledger(), Quota(100, per=DAY), Quota(100, per=900.0)
    ledger.count_by(day, 0.0, 0)
    leases = [1000.0 + number / 7 for number in range(20)]
    for lease in leases:
        ledger.take(lease)
    ledger.count_by(quarter, 900.0)
    assert ledger.used(900.0, quarter) == 20
    for lease in leases[:10]:
        ledger.give_back(lease)
    for lease in leases[10:]:
        ledger.settle(lease, 905.0)
    assert ledger.used(910.0, quarter) == 10
    assert math.isclose(ledger.usage(910.0, quarter).free_in(10), 900 * 1.0001, abs_tol=12)
