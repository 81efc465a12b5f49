"""Admission in virtual time: who waits, how long, and that no slot is ever lost or made up."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.virtual_time import run
from twdm_async import (
    ClientClosed,
    Lane,
    LoopClock,
    MemoryQuotaStore,
    Pace,
    Priority,
    Quota,
    QuotaQueueFull,
    QuotaTable,
    QuotaWaitTooLong,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.quota.limiter import QuotaLimiter, QuotaState

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.quota.operations import Answer, Slot, Take
    from twdm_async.quota.store import QuotaStore
    from twdm_async.quota.store.transactional import Batch

SEND = "direct_messages.send"
NUMBERS = itertools.count()
PER = 900.0
DRIFT = 1.0001
TICK = 1 / 512  # of a window: moments are rounded up by so much


def make(
    *quotas: Quota,
    pace: Pace | None = None,
    store: QuotaStore | None = None,
    account: str = "account",
    max_waiting: int = 1000_000,
) -> QuotaLimiter:
    clock = LoopClock()
    store = store or MemoryQuotaStore(clock=clock)
    table = QuotaTable.default().replace(SEND, *quotas, pace=pace)
    return QuotaLimiter(table, store, account=account, app="app", clock=clock, timeout=30.0, max_waiting=max_waiting)


def state(limiter: QuotaLimiter, scope: Scope = Scope.USER) -> QuotaState:
    return next(one for one in limiter.state() if one.endpoint == SEND and one.scope is scope)


async def take_and_settle(limiter: QuotaLimiter, latency: float = 0.0, lane: Lane = Lane()) -> float:  # noqa: B008 - frozen
    """When it was admitted."""
    slot = await limiter.admit(SEND, lane)
    admitted = asyncio.get_running_loop().time()
    await asyncio.sleep(latency)
    limiter.settle(slot, seen=True)
    return admitted


@pytest.mark.parametrize(("limit", "per", "sends"), [(15, 900.0, 60), (200, 900.0, 700), (1000, 86_400.0, 3000)])
def test_sends_take_at_most_one_percent_longer_than_the_ideal(limit: int, per: float, sends: int) -> None:
    generator = random.Random(limit)

    async def main() -> float:
        limiter = make(Quota(limit, per=per))
        times = await asyncio.gather(*(take_and_settle(limiter, generator.uniform(0.05, 2.0)) for _ in range(sends)))
        return max(times)

    ideal = (-(-sends // limit) - 1) * per
    assert ideal <= run(main()) <= 1.01 * ideal


def test_user_and_app_are_taken_together_or_not_at_all() -> None:
    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        quotas = Quota(5, per=PER), Quota(7, per=PER, scope=Scope.APP)
        first = make(*quotas, store=store, account="first")
        second = make(*quotas, store=store, account="second")
        for _ in range(5):
            await first.admit(SEND, Lane())
        for _ in range(2):
            await second.admit(SEND, Lane())
        with pytest.raises(QuotaWaitTooLong) as caught:
            await second.admit(SEND, Lane(), max_wait=1.0)
        assert (caught.value.scope, caught.value.limit, caught.value.per) == ("app", 7, PER)
        assert state(second).used == 2
        assert state(second, Scope.APP).used == state(first, Scope.APP).used == 7

    run(main())


def test_an_account_that_is_exhausted_does_not_delay_another() -> None:
    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        quotas = Quota(2, per=PER), Quota(100, per=PER, scope=Scope.APP)
        first = make(*quotas, store=store, account="first")
        second = make(*quotas, store=store, account="second")
        waiting = [asyncio.ensure_future(take_and_settle(first)) for _ in range(10)]
        await asyncio.sleep(1)
        assert await take_and_settle(second) == pytest.approx(1.0, abs=1e-3)
        await asyncio.gather(*waiting)

    run(main())


def test_a_wait_that_is_known_to_be_too_long_is_refused_at_once() -> None:
    async def main() -> None:
        limiter = make(Quota(2, per=PER))
        for _ in range(2):
            await take_and_settle(limiter)
        before = asyncio.get_running_loop().time()
        with pytest.raises(QuotaWaitTooLong) as caught:
            await limiter.admit(SEND, Lane(), max_wait=60.0)
        assert asyncio.get_running_loop().time() == pytest.approx(before, abs=1e-3)
        assert PER * DRIFT <= caught.value.wait <= PER * (DRIFT + TICK)
        assert (caught.value.retry_at - LoopClock().utc()).total_seconds() == pytest.approx(caught.value.wait, abs=1e-3)
        waiters = [asyncio.ensure_future(take_and_settle(limiter)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaWaitTooLong) as caught:  # the third in line has to wait for the window after that
            await limiter.admit(SEND, Lane(), max_wait=PER * 1.5)
        assert 2 * PER * DRIFT <= caught.value.wait <= PER * (2 * DRIFT + TICK)
        await asyncio.gather(*waiters)
        assert state(limiter).used == 2

    run(main())


def test_many_agents_with_one_message_each_are_all_counted() -> None:
    async def main() -> None:
        limiter = make(Quota(5, per=PER))
        for _ in range(5):
            await take_and_settle(limiter)
        waiting = [asyncio.ensure_future(take_and_settle(limiter, lane=Lane(str(number)))) for number in range(60)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaWaitTooLong) as caught:
            await limiter.admit(SEND, Lane("61"), max_wait=PER * 12)
        assert 13 * PER * DRIFT <= caught.value.wait <= PER * (13 * DRIFT + TICK)
        await asyncio.gather(*waiting)

    run(main())


def test_a_wait_that_turns_out_too_long_is_refused_when_it_does() -> None:
    async def main() -> None:
        limiter = make(Quota(1, per=10.0))
        await limiter.admit(SEND, Lane())  # under way, and never heard of again
        with pytest.raises(QuotaWaitTooLong):
            await limiter.admit(SEND, Lane(), max_wait=25.0)
        assert asyncio.get_running_loop().time() == pytest.approx(25.0, abs=1e-3)
        assert state(limiter).waiting == 0

    run(main())


def test_interactive_overtakes_bulk_that_waits() -> None:
    async def main() -> None:
        limiter = make(Quota(1, per=10.0))
        await take_and_settle(limiter)
        bulk = [asyncio.ensure_future(take_and_settle(limiter, lane=Lane(priority=Priority.BULK))) for _ in range(3)]
        await asyncio.sleep(5)
        live = await take_and_settle(limiter)
        assert 10 * DRIFT <= live <= 10 * (DRIFT + TICK) + 1e-3
        assert min(await asyncio.gather(*bulk)) > live

    run(main())


def test_a_burst_leaves_at_its_pace() -> None:
    async def main() -> None:
        limiter = make(Quota(100, per=PER), pace=Pace(burst=10, per=1.0))
        times = sorted(await asyncio.gather(*(take_and_settle(limiter) for _ in range(30))))
        assert times[9] == pytest.approx(0, abs=1e-3)
        assert times[10] == pytest.approx(0.1, abs=1e-3)
        assert times[29] == pytest.approx(2.0, abs=1e-3)

    run(main())


def allowed_by_both(quota: Quota, pace: Pace, sends: int) -> float:
    """When the last of so many leaves, if each does as soon as quota and pace allow it, and takes no time."""
    moments: list[float] = []
    level, filled_at = float(pace.burst), 0.0
    for number in range(sends):
        at = max(
            moments[-1] if moments else 0.0, moments[number - quota.limit] + quota.per if number >= quota.limit else 0.0
        )
        level = min(pace.burst, level + (at - filled_at) * pace.burst / pace.per)
        if level < 1:
            at += (1 - level) * pace.per / pace.burst
            level = 1.0
        level, filled_at = level - 1, at
        moments.append(at)
    return moments[-1]


@pytest.mark.soak
@pytest.mark.parametrize("burst", [10, 39, 40, 41, 80])
@pytest.mark.parametrize("shared", [False, True])
def test_a_pace_loses_nothing_that_it_granted(burst: int, shared: bool, tmp_path: Path) -> None:
    quota, pace = Quota(40, per=5.0), Pace(burst, per=5.0)

    async def main() -> float:
        clock = LoopClock()
        store = InlineStore(tmp_path / "quota.db", clock=clock) if shared else None
        limiter = make(quota, pace=pace, store=store)
        times = await asyncio.gather(*(take_and_settle(limiter, 0.01) for _ in range(200)))
        if store is not None:
            store._storage.disconnect()
        return max(times)

    assert run(main()) <= 1.02 * allowed_by_both(quota, pace, 200)


def test_a_slot_that_waits_for_the_pace_is_not_counted_twice() -> None:
    async def main() -> None:
        limiter = make(Quota(3, per=PER), pace=Pace(burst=1, per=1.0))
        await take_and_settle(limiter)
        waiting = asyncio.ensure_future(take_and_settle(limiter))
        await asyncio.sleep(0.5)
        slot = await limiter.admit(SEND, Lane(), max_wait=10)
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=1e-3)
        limiter.give_back(slot)
        await waiting

    run(main())


def test_a_wait_for_the_pace_is_known_beforehand() -> None:
    async def main() -> None:
        limiter = make(Quota(1000, per=PER), pace=Pace(burst=1, per=10.0))
        await take_and_settle(limiter)
        waiting = [asyncio.ensure_future(take_and_settle(limiter)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaWaitTooLong) as caught:
            await limiter.admit(SEND, Lane(), max_wait=30)
        assert asyncio.get_running_loop().time() < 0.1
        assert caught.value.wait == pytest.approx(60, rel=0.01)
        assert (caught.value.limit, caught.value.per) == (1, 10.0)
        await asyncio.gather(*waiting)

    run(main())


@pytest.mark.soak
def test_ten_thousand_wait_and_all_are_served() -> None:
    async def main() -> None:
        limiter = make(Quota(1000, per=1.0))
        times = await asyncio.gather(
            *(take_and_settle(limiter, lane=Lane(str(number % 100))) for number in range(10_000))
        )
        assert max(times) == pytest.approx(9.0, rel=0.01)
        assert state(limiter).waiting == 0

    run(main())


def test_the_state_tells_everything() -> None:
    async def main() -> None:
        limiter = make(Quota(3, per=PER))
        await take_and_settle(limiter)
        slots = [await limiter.admit(SEND, Lane()) for _ in range(2)]
        waiting = asyncio.ensure_future(limiter.admit(SEND, Lane()))
        await asyncio.sleep(1)
        now = state(limiter)
        assert (now.limit, now.per, now.used, now.in_flight, now.waiting) == (3, PER, 3, 2, 1)
        assert PER * DRIFT - 1.001 <= (now.free_at - LoopClock().utc()).total_seconds() <= PER * (DRIFT + TICK)
        limiter.give_back(slots[0])
        await waiting
        assert state(limiter).waiting == 0
        assert asyncio.get_running_loop().time() == pytest.approx(1.0, abs=1e-3)

    run(main())


def test_a_slot_given_back_reaches_another_client_of_the_store() -> None:
    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        first, second = make(Quota(1, per=PER), store=store), make(Quota(1, per=PER), store=store)
        slot = await first.admit(SEND, Lane())
        waiting = asyncio.ensure_future(second.admit(SEND, Lane()))
        await asyncio.sleep(5)
        first.give_back(slot)
        await waiting
        assert asyncio.get_running_loop().time() == pytest.approx(5.0, abs=1e-3)

    run(main())


def test_closing_ends_the_waiting() -> None:
    async def main() -> None:
        limiter = make(Quota(1, per=PER))
        await limiter.admit(SEND, Lane())
        waiting = [asyncio.ensure_future(limiter.admit(SEND, Lane())) for _ in range(3)]
        await asyncio.sleep(1)
        limiter.close()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, ClientClosed)
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_store_that_fails_tells_everyone_who_waits() -> None:
    class Broken(MemoryQuotaStore):
        fails = False

        def ask(self, take: Take) -> Answer:
            if self.fails:
                raise OSError("the disk is gone")
            return super().ask(take)

    async def main() -> None:
        store = Broken(clock=LoopClock())
        limiter = make(Quota(1, per=10.0), store=store)
        await take_and_settle(limiter)
        waiting = [asyncio.ensure_future(limiter.admit(SEND, Lane())) for _ in range(3)]
        await asyncio.sleep(1)
        store.fails = True
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, OSError)
        store.fails = False
        await limiter.admit(SEND, Lane())

    run(main())


def test_no_more_than_so_many_may_wait() -> None:
    async def main() -> None:
        limiter = make(Quota(1, per=PER), max_waiting=3)
        await take_and_settle(limiter)
        waiting = [asyncio.ensure_future(take_and_settle(limiter)) for _ in range(3)]
        await asyncio.sleep(1)
        with pytest.raises(QuotaQueueFull, match="3 calls wait") as caught:
            await limiter.admit(SEND, Lane())
        assert (caught.value.waiting, caught.value.delivered, caught.value.safe_to_retry) == (3, "no", True)
        waiting[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(take_and_settle(limiter)))  # a place has come free
        await asyncio.gather(*waiting[1:])

    run(main())


def test_an_interactive_call_need_not_wait_behind_bulk_that_waits_for_its_share() -> None:
    async def main() -> None:
        limiter = make(Quota(100, per=PER))
        bulk = [asyncio.ensure_future(take_and_settle(limiter, lane=Lane(priority=Priority.BULK))) for _ in range(90)]
        await asyncio.sleep(1)
        assert state(limiter).waiting > 0
        before = asyncio.get_running_loop().time()
        assert [await take_and_settle(limiter) for _ in range(33)] == pytest.approx([before] * 33, abs=1e-3)
        for task in bulk:
            task.cancel()
        await asyncio.gather(*bulk, return_exceptions=True)

    run(main())


class CountingStore(MemoryQuotaStore):
    """Counts how often it is asked."""

    asked = 0

    def ask(self, take: Take) -> Answer:
        self.asked += 1
        return super().ask(take)


def test_accounts_share_the_app_s_quota_fairly_and_one_wakes_for_each_slot() -> None:
    async def main() -> None:
        clock = LoopClock()
        store = CountingStore(clock=clock)
        quotas = Quota(1000, per=PER), Quota(10, per=PER, scope=Scope.APP)
        limiters = [make(*quotas, store=store, account=f"account {number}") for number in range(50)]
        served: list[int] = []

        async def one(number: int) -> None:
            await take_and_settle(limiters[number])
            served.append(number)

        waiting = [asyncio.ensure_future(one(number)) for number in range(50) for _ in range(4)]
        for window in range(20):
            await asyncio.sleep(PER * (DRIFT + TICK) * window + 1 - clock.monotonic())
            assert len(served) == 10 * (window + 1)
            # The first ones came before anybody waited. Then, in five windows, each of the accounts has its turn.
            if window == 5:
                assert len(set(served)) == 50
        await asyncio.gather(*waiting)
        assert store.asked < 4 * 200

    run(main())


def test_whoever_holds_the_turn_and_gives_up_passes_it_on() -> None:
    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        quotas = Quota(1000, per=PER), Quota(2, per=PER, scope=Scope.APP)
        limiters = [make(*quotas, store=store, account=f"account {number}") for number in range(5)]
        for _ in range(2):
            await take_and_settle(limiters[0])
        waiting = [asyncio.ensure_future(take_and_settle(limiter)) for limiter in limiters]
        await asyncio.sleep(PER / 2)
        for task in waiting[:2]:
            task.cancel()
        limiters[2].close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[3:] == pytest.approx([PER * DRIFT] * 2, abs=PER * TICK + 0.01)
        assert [type(result) for result in results[:3]] == [asyncio.CancelledError] * 2 + [ClientClosed]

    run(main())


def test_the_turn_is_passed_on_by_one_that_gives_up_in_the_moment_it_gets_it() -> None:
    async def main() -> None:
        store = MemoryQuotaStore(clock=LoopClock())
        quotas = Quota(1000, per=PER), Quota(1, per=PER, scope=Scope.APP)
        limiters = [make(*quotas, store=store, account=f"account {number}") for number in range(3)]
        slot = await limiters[0].admit(SEND, Lane())
        first, second = (asyncio.ensure_future(take_and_settle(limiter)) for limiter in limiters[1:])
        await asyncio.sleep(5)
        limiters[0].give_back(slot)  # it is the first one's turn
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == pytest.approx(5, abs=1e-3)

    run(main())


def test_a_bulk_call_is_told_how_long_its_share_takes() -> None:
    async def main() -> None:
        limiter = make(Quota(100, per=PER))
        bulk = Lane("b", priority=Priority.BULK)
        for _ in range(33):
            await take_and_settle(limiter, lane=bulk)
        with pytest.raises(QuotaWaitTooLong) as caught:
            await limiter.admit(SEND, bulk, max_wait=10)
        assert 10 < caught.value.wait < 60
        assert state(limiter).reserved == 33

    run(main())


@pytest.mark.parametrize("quotas", [(), (Quota(50, per=PER, scope=Scope.APP),)])
def test_bulk_that_waits_where_no_quota_of_the_account_binds_does_not_ask_all_the_time(
    quotas: tuple[Quota, ...],
) -> None:
    async def main() -> int:
        store = CountingStore(clock=LoopClock())
        limiter = make(*quotas, store=store)
        slot = await limiter.admit(SEND, Lane())
        limiter.settle(slot, seen=True)
        limiter.learn(SEND, 429, {"Retry-After": "500"})
        waiting = asyncio.ensure_future(limiter.admit(SEND, Lane(priority=Priority.BULK)))
        await asyncio.sleep(100)
        waiting.cancel()
        return store.asked

    assert run(main()) < 30


def test_a_request_that_is_cancelled_early_may_still_be_counted_late() -> None:
    async def main() -> None:
        limiter = make(Quota(1, per=PER))
        limiter.settle(await limiter.admit(SEND, Lane()), seen=False)
        await limiter.admit(SEND, Lane())
        assert PER * DRIFT + 60 <= asyncio.get_running_loop().time() <= PER * (DRIFT + TICK) + 60

    run(main())


# ---- what replies say ----


def test_fault_26_a_429_without_headers_holds_longer_each_time() -> None:
    async def main() -> None:
        limiter = make(Quota(1000, per=86_400.0))
        waits: list[float] = []
        for _ in range(9):
            slot = await limiter.admit(SEND, Lane())
            limiter.learn(SEND, 429, {})
            limiter.settle(slot, seen=True)
            before = asyncio.get_running_loop().time()
            slot = await limiter.admit(SEND, Lane())
            limiter.give_back(slot)
            waits.append(asyncio.get_running_loop().time() - before)
        assert 60 <= waits[0] <= 66
        assert 120 <= waits[1] <= 132
        assert 4 * 3600 <= waits[-1] <= 4.4 * 3600
        slot = await limiter.admit(SEND, Lane())
        limiter.learn(SEND, 200, {})
        limiter.learn(SEND, 429, {})
        assert state(limiter).free_at.timestamp() - LoopClock().wall() <= 66

    run(main())


@pytest.mark.parametrize(("headers", "least", "most"), [({}, 60, 66), ({"Retry-After": "2"}, 2, 2.2)])
def test_many_that_were_refused_together_are_one_refusal(headers: dict[str, str], least: float, most: float) -> None:
    async def main() -> None:
        limiter = make(Quota(1000, per=86_400.0))
        for slot in [await limiter.admit(SEND, Lane()) for _ in range(20)]:
            limiter.learn(SEND, 429, headers)
            limiter.settle(slot, seen=True)
        assert least <= state(limiter).free_at.timestamp() - LoopClock().wall() <= most

    run(main())


def test_fault_27_and_28_a_reset_in_the_past_or_in_the_far_future() -> None:
    async def main() -> None:
        for reset, least, most in ((-500, 1, 1.1), (300, 300, 330), (10**15, 25 * 3600, 27.5 * 3600)):
            limiter = make(Quota(1000, per=86_400.0))
            slot = await limiter.admit(SEND, Lane())
            limiter.learn(SEND, 429, {"x-rate-limit-reset": str(int(LoopClock().wall()) + reset)})
            limiter.settle(slot, seen=True)
            held = state(limiter).free_at.timestamp() - LoopClock().wall()
            assert least - 1 <= held <= most

    run(main())


def test_fault_30_headers_never_raise_the_budget() -> None:
    async def main() -> None:
        limiter = make(Quota(5, per=PER))
        for _ in range(5):
            await limiter.admit(SEND, Lane())
        reset = str(int(LoopClock().wall() + 100))
        limiter.learn(SEND, 200, {"x-rate-limit-remaining": "500", "x-rate-limit-reset": reset})
        assert state(limiter).used == 5
        with pytest.raises(QuotaWaitTooLong):
            await limiter.admit(SEND, Lane(), max_wait=1)

    run(main())


def test_fault_31_replies_out_of_order() -> None:
    async def main() -> None:
        limiter = make(Quota(100, per=PER))
        slots = [await limiter.admit(SEND, Lane()) for _ in range(10)]
        reset = str(int(LoopClock().wall() + 100))
        for slot, remaining in zip(slots, [60, 65, 61, 69, 62, 64, 63, 68, 66, 67], strict=True):
            limiter.learn(SEND, 200, {"x-rate-limit-remaining": str(remaining), "x-rate-limit-reset": reset})
            limiter.settle(slot, seen=True)
        assert state(limiter).used == 40  # ten of ours, thirty of somebody else's
        await asyncio.sleep(101)
        assert state(limiter).used == 10

    run(main())


def test_bulk_that_comes_first_of_all_to_a_quota_that_is_held() -> None:
    async def main() -> None:
        limiter = make(Quota(10, per=PER))
        limiter.learn(SEND, 429, {"Retry-After": "5"})
        slot = await limiter.admit(SEND, Lane(priority=Priority.BULK))
        assert 5 <= asyncio.get_running_loop().time() <= 6
        limiter.give_back(slot)

    run(main())


# ---- whatever is cancelled, wherever ----


def test_fault_45_cancelled_in_the_very_turn_in_which_the_slot_is_handed_over() -> None:
    async def main(turns: int) -> bool:
        limiter = make(Quota(1, per=PER))
        slot = await limiter.admit(SEND, Lane())
        waiting = asyncio.ensure_future(limiter.admit(SEND, Lane()))
        await asyncio.sleep(1)
        limiter.give_back(slot)
        for _ in range(turns):
            await asyncio.sleep(0)
        handed_over = state(limiter).in_flight == 1 and not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(1)
        assert state(limiter).in_flight == (0 if waiting.cancelled() else 1)
        return handed_over

    met = [run(main(turns)) for turns in range(12)]
    assert any(met), "none of the turns was the one that this is about"


AGENTS = st.lists(
    st.tuples(
        st.floats(0, 3),  # when it comes
        st.floats(0, 2),  # until the server counts it
        st.floats(0, 2),  # until the outcome is seen
        st.none() | st.floats(0, 6),  # when it is cancelled, after it came
        st.none() | st.floats(0, 6),  # how long it is willing to wait
        st.integers(0, 2),  # its lane
    ),
    max_size=40,
)


@given(AGENTS, st.integers(1, 4), st.booleans())
def test_fault_45_cancelled_anywhere_slots_stay_exact(
    agents: list[tuple[float, float, float, float | None, float | None, int]], limit: int, paced: bool
) -> None:
    per = 5.0
    counted: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pace = Pace(burst=2, per=0.5) if paced else None
        limiter = make(Quota(limit, per=per), Quota(limit + 1, per=per, scope=Scope.APP), pace=pace)

        async def agent(inward: float, outward: float, patience: float | None, lane: int) -> None:
            slot: Slot = await limiter.admit(SEND, Lane(str(lane), priority=Priority(lane % 2)), patience)
            reached_server = seen = False
            try:
                await asyncio.sleep(inward)
                counted.append(loop.time())
                reached_server = True
                await asyncio.sleep(outward)
                seen = True
            finally:
                # Cancelled on the way: the test's server drops what was cancelled before it arrived.
                if reached_server:
                    limiter.settle(slot, seen=seen)
                else:
                    limiter.give_back(slot)

        async def life(
            start: float, inward: float, outward: float, cancel: float | None, patience: float | None, lane: int
        ) -> None:
            await asyncio.sleep(start)
            task = asyncio.ensure_future(agent(inward, outward, patience, lane))
            if cancel is not None:
                loop.call_later(cancel, task.cancel)
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            assert result is None or isinstance(result, (asyncio.CancelledError, QuotaWaitTooLong))

        async with asyncio.timeout(10_000):
            await asyncio.gather(*(life(*one) for one in agents))
        now = state(limiter)
        assert (now.in_flight, now.waiting) == (0, 0)
        await asyncio.sleep(10)  # an usher whose last caller gave up ends when its turn at the pace comes
        assert len(asyncio.all_tasks()) == 1, "somebody still runs"
        await asyncio.sleep(per + 61)
        assert state(limiter).used == state(limiter, Scope.APP).used == 0
        for _ in range(limit):  # every slot is there again
            await limiter.admit(SEND, Lane(), max_wait=0 if not paced else 5)

    run(main())
    counted.sort()
    for first, last in zip(counted, counted[limit:], strict=False):
        assert last - first >= per


class InlineStore(SQLiteQuotaStore):
    """Works in the loop's own thread, so that virtual time does not run away from it."""

    async def commit(self, batch: Batch) -> None:
        self._show(batch.app, *self._transact(batch))


class SlowStore(SQLiteQuotaStore):
    """Takes its time before and after it does what it is asked."""

    async def commit(self, batch: Batch) -> None:
        await asyncio.sleep(0.3)
        batch.is_unsure = True
        batch.outcome = asyncio.get_running_loop().create_future()
        batch.outcome.set_result(self._transact(batch))
        await asyncio.sleep(0.3)
        self._show(batch.app, *batch.outcome.result())
        batch.is_unsure = False


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(0, 3), st.none() | st.floats(0, 4), st.booleans()), min_size=1, max_size=25),
    st.booleans(),
)
def test_fault_45_cancelled_at_any_await_the_ledger_is_what_the_server_counts(
    tmp_path: Path, callers: list[tuple[float, float | None, bool]], shared: bool
) -> None:
    async def main() -> tuple[int, int]:
        clock = LoopClock()
        path = tmp_path / f"{next(NUMBERS)}.db"
        store = SlowStore(path, clock=clock) if shared else MemoryQuotaStore(clock=clock)
        # The window outlives the test, so every slot that was ever used still counts.
        limiter = make(Quota(1000, per=1e6), pace=Pace(burst=3, per=1.0), store=store)
        counted = 0

        async def caller(start: float, fails: bool) -> None:
            nonlocal counted
            await asyncio.sleep(start)
            slot = await limiter.admit(SEND, Lane(str(start)))
            try:
                await asyncio.sleep(0.2)  # until the first byte
            except asyncio.CancelledError:
                limiter.give_back(slot)
                raise
            if fails:
                limiter.give_back(slot)
                return
            counted += 1
            seen = False
            try:
                await asyncio.sleep(0.4)
                seen = True
            finally:
                limiter.settle(slot, seen=seen)

        tasks = [asyncio.ensure_future(caller(start, fails)) for start, _, fails in callers]
        for task, (_, cancel, _) in zip(tasks, callers, strict=True):
            if cancel is not None:
                asyncio.get_running_loop().call_later(cancel, task.cancel)
        async with asyncio.timeout(1000):
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(5)  # the store answers those who gave up, too
            await store.flush()
            await limiter.look()
        used = state(limiter)
        assert (used.in_flight, used.waiting) == (0, 0)
        if isinstance(store, SlowStore):
            store._storage.disconnect()
        return used.used, counted

    used, counted = run(main())
    assert used == counted
