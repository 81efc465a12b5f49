"""The ledger: arithmetic of slots, and the promise itself against every window there can be."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twdm_async import InvalidInput, Pace, Quota, QuotaTable, Scope
from twdm_async.quota.ledger import Ledger

PER = 900.0
DRIFT = 1.0001
TICK = PER / 512
NEVER = 1e6  # the end of a lease


def counting(*quotas: Quota) -> Ledger:
    ledger = Ledger()
    for quota in quotas:
        ledger.count_by(quota, 0.0, 0)
    return ledger


def spend(ledger: Ledger, now: float, count: int = 1, grace: float = 0.0) -> None:
    ledger.take(NEVER, count)
    for _ in range(count):
        ledger.settle(NEVER, now + grace)


def is_open(ledger: Ledger, now: float, quota: Quota) -> bool:
    used = ledger.used(now, quota)
    return used < quota.limit and ledger.held_until <= now


def free_in(ledger: Ledger, now: float, quota: Quota, count: int = 1) -> float:
    return ledger.usage(now, quota).free_in(quota.limit, count)


def test_a_slot_counts_until_its_outcome_and_a_window_on_top() -> None:
    quota = Quota(1, PER)
    ledger = counting(quota)
    assert is_open(ledger, 0, quota)
    ledger.take(NEVER)
    assert not is_open(ledger, 5000, quota)
    assert ledger.usage(5000, quota).in_flight == 1
    ledger.settle(NEVER, 5000)
    assert ledger.usage(5000, quota).in_flight == 0
    assert not is_open(ledger, 5000 + PER, quota)
    assert PER * DRIFT <= free_in(ledger, 5000, quota) <= PER * DRIFT + TICK
    assert is_open(ledger, 5000 + PER * DRIFT + TICK, quota)


def test_a_window_is_a_little_longer_since_clocks_drift() -> None:
    quota, seen = Quota(1, PER), 100 * TICK - 1e-6
    ledger = counting(quota)
    spend(ledger, seen)
    assert not is_open(ledger, seen + PER + 0.08, quota)
    assert is_open(ledger, seen + PER + 0.1, quota)


def test_a_slot_that_nobody_settles_counts_until_its_lease_and_a_window_are_over() -> None:
    quota = Quota(1, PER)
    ledger = counting(quota)
    ledger.take(120.0)
    assert not is_open(ledger, 120 + PER * DRIFT - 0.001, quota)
    assert ledger.usage(120 + TICK, quota).in_flight == 0
    assert is_open(ledger, 120 + PER * DRIFT + TICK, quota)
    ledger.settle(120.0, 5000)  # it lived longer than was thought possible
    assert not is_open(ledger, 5000 + PER, quota)


def test_a_slot_without_outcome_counts_for_a_grace_longer() -> None:
    quota = Quota(2, PER)
    ledger = counting(quota)
    spend(ledger, 10, grace=30)
    spend(ledger, 20)  # it stops counting before the other does
    assert ledger.used(20, quota) == 2
    assert ledger.used(20 + PER * DRIFT + TICK, quota) == 1
    assert ledger.used(40 + PER * DRIFT + TICK, quota) == 0


def test_a_slot_is_given_back_if_nothing_left() -> None:
    quota = Quota(1, PER)
    ledger = counting(quota)
    ledger.take(NEVER)
    ledger.give_back(NEVER)
    assert is_open(ledger, 0, quota)


def test_holds_join_to_the_later_one() -> None:
    quota = Quota(5, PER)
    ledger = counting(quota)
    ledger.hold(100)
    ledger.hold(50)
    assert not is_open(ledger, 99, quota)
    assert free_in(ledger, 40, quota) == 60
    assert is_open(ledger, 100, quota)


def test_free_in_counts_rounds() -> None:
    quota = Quota(2, 100.0)
    ledger = counting(quota)
    for now in (0, 10):
        spend(ledger, now)
    window = 100 * DRIFT
    waits = [free_in(ledger, 20, quota, count) for count in (1, 2, 3, 4, 5)]
    expected = [window - 20, window - 10, 2 * window - 20, 2 * window - 10, 3 * window - 20]
    assert waits == pytest.approx(expected, abs=100 / 512)


def test_who_shares_a_ledger_counts_by_its_own_quota() -> None:
    day, quarter, tighter = Quota(10, 86_400.0), Quota(3, 900.0), Quota(4, 86_400.0)
    ledger = counting(day, quarter)
    for now in (0, 1000, 2000, 2500):
        spend(ledger, now)
    assert [ledger.used(2600, quota) for quota in (day, quarter, tighter)] == [4, 2, 4]
    assert free_in(ledger, 2600, quarter, 2) == pytest.approx(2000 + 900 * DRIFT - 2600, abs=TICK)


def test_fault_89_a_longer_window_finds_what_was_kept_for_it() -> None:
    """A client, or its next version, counts by a longer window than anybody before."""
    quarter, day = Quota(20, 900.0), Quota(10, 86_400.0)
    ledger = counting(quarter)
    ledger.keep(day.per, 0.0)  # as the longest window in the table of a client
    for now in range(0, 10_000, 500):
        spend(ledger, now)
    assert ledger.count_by(day, 100_000.0, 0) == 0, "all of it is known"
    ledger = counting(quarter)
    ledger.keep(day.per, 0.0)
    for now in range(0, 10_000, 500):
        spend(ledger, now)
    assert ledger.count_by(day, 10_000.0, 0.5) == 0, "nothing is lost; but the ledger is not that old"
    assert ledger.used(10_000.0, day) == 20 + 5
    week = Quota(30, 7 * 86_400.0)
    assert ledger.count_by(week, 200_000.0, 0) > 400_000, "a day of it is known"


@pytest.mark.parametrize("first", [900.0, 3600.0])
def test_a_window_that_is_new_begins_with_what_is_known(first: float) -> None:
    known, new = Quota(50, first), Quota(50, 1800.0)
    ledger = counting(known)
    ledger.take(5000.0, 2)  # under way
    for now in (100, 2900, 3000):
        spend(ledger, now)
    ledger.count_by(new, 3000, 0)
    assert ledger.used(3000, new) == 4
    assert ledger.usage(3000, new).in_flight == 2
    ledger.settle(5000.0, 3100)
    assert 2 <= ledger.used(3000 + 1800 * DRIFT + 20, new) <= 3
    assert ledger.used(5000 + 1800 * DRIFT + 30, new) == 0


def test_the_server_s_count_can_only_tighten() -> None:
    quota = Quota(180, PER)
    ledger = counting(quota, Quota(1000, per=86_400.0))
    ledger.take(NEVER, 10)
    ledger.tighten(0, quota, remaining=170, until=500)
    assert ledger.used(0, quota) == 10  # nobody else has spent any
    ledger.tighten(0, quota, remaining=150, until=500)
    assert ledger.used(0, quota) == 30
    ledger.tighten(0, quota, remaining=150, until=500)
    ledger.tighten(0, quota, remaining=179, until=500)  # an older reply, or a lie
    assert ledger.used(0, quota) == 30
    assert ledger.used(500, quota) == 30
    assert ledger.used(500 + TICK, quota) == 10
    assert ledger.used(0, Quota(1000, per=86_400.0)) == 10  # of another window nothing was said


def test_what_others_spent_comes_free_at_its_time() -> None:
    quota = Quota(6, 100.0)
    ledger = counting(quota)
    for now in (0, 10, 90):
        spend(ledger, now)
    ledger.tighten(90, quota, remaining=0, until=120)  # three more
    assert ledger.used(95, quota) == 6
    waits = [free_in(ledger, 95, quota, count) for count in range(1, 7)]
    assert waits == pytest.approx([5.01, 15.01, 25, 25, 25, 95.01], abs=0.2)


@pytest.mark.soak
def test_a_ledger_stays_small_and_exact_over_a_store() -> None:
    quota, generator = Quota(10**6, PER), random.Random(1)
    ledger = counting(quota)
    ledger.keep(86_400.0, 0.0)
    for now in range(5000):
        leases = [now + generator.uniform(10, 90) for _ in range(5)]
        for lease in leases:
            ledger.take(lease)
        for lease in leases[1:]:
            ledger.settle(lease, now + generator.choice([0.0, 60.0]))
        ledger.give_back(leases[0])
    text = json.dumps(ledger.as_json())
    assert len(text) < 30_000
    assert ledger.used(4999, quota) == pytest.approx(4 * 900 + 120, abs=60)
    again = Ledger.from_json(json.loads(text))
    for later in (4999, 5300, 5800, 5900):
        assert again.used(later, quota) == ledger.used(later, quota)
        assert again.usage(later, quota) == ledger.usage(later, quota)
    assert again.used(6000, quota) == 0


# ---- the promise, as the proof has it: any window, any latency ----

REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 40),  # seconds after the last wish that the next one comes
        st.floats(0, 5),  # until the server counts it
        st.floats(0, 25),  # after that, until its outcome is seen
        st.booleans(),  # whether it is seen at all
        st.booleans(),  # whether it leaves at all
        st.booleans(),  # whether its process dies before it has told
    ),
    max_size=60,
)


@given(REQUESTS, st.integers(1, 5), st.floats(1, 60))
def test_no_window_ever_holds_more_than_the_limit(
    requests: list[tuple[float, float, float, bool, bool, bool]], limit: int, per: float
) -> None:
    grace, lease = 5.0, 35.0
    quota = Quota(limit, per)
    ledger = counting(quota)
    counted: list[float] = []
    under_way: list[tuple[float, float, bool, bool]] = []  # (when it is over, its lease, seen, left)
    now = 0.0

    def settle_until(moment: float) -> None:
        under_way.sort()
        while under_way and under_way[0][0] <= moment:
            over, lease_end, seen, left = under_way.pop(0)
            if not left:
                ledger.give_back(lease_end)
            else:
                ledger.settle(lease_end, over if seen else over + grace)

    for gap, inward, outward, seen, leaves, dies in requests:
        now += gap
        settle_until(now)
        if not is_open(ledger, now, quota):
            continue
        ledger.take(now + lease)
        over = now + inward + outward if seen else now + outward
        if dies:
            counted.append(now + inward)
        elif not leaves:
            under_way.append((now + inward, now + lease, False, False))
        elif seen:
            counted.append(now + inward)
            under_way.append((over, now + lease, True, True))
        else:  # we stop looking, and the server counts it afterwards
            counted.append(over + min(inward, grace))
            under_way.append((over, now + lease, False, True))
        ledger = Ledger.from_json(json.loads(json.dumps(ledger.as_json())))
    counted.sort()
    # A window of `per`, wherever it begins, holds more than the limit only if limit + 1 in a row lie closer than that.
    for first, last in zip(counted, counted[limit:], strict=False):
        assert last - first >= per


# ---- what a quota is ----


@pytest.mark.parametrize("limit", [0, -1, 1.5, math.nan, math.inf, True, "5", None, 10**400])
def test_limits_that_are_none(limit: object) -> None:
    with pytest.raises(InvalidInput):
        Quota(limit, per=1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Pace(limit, per=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("per", [0, -1, math.nan, math.inf, True, "5", None, 1e300, 10**400])
def test_windows_that_are_none(per: object) -> None:
    with pytest.raises(InvalidInput):
        Quota(5, per=per)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Pace(5, per=per)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        QuotaTable.default().scaled(per)  # type: ignore[arg-type]


def test_what_is_no_quota() -> None:
    with pytest.raises(InvalidInput, match="scope"):
        Quota(1, per=1.0, scope="everybody")
    for quotas, pace in (((5,), None), (([Quota(1, per=1.0)],), None), ((), 5)):
        with pytest.raises(InvalidInput):
            QuotaTable.default().replace("direct_messages.send", *quotas, pace=pace)  # type: ignore[arg-type]


def test_the_documented_quotas() -> None:
    table = QuotaTable.default()
    assert table["direct_messages.send"].quotas == (
        Quota(1000, per=86_400.0), Quota(15_000, per=86_400.0, scope=Scope.APP)
    )  # fmt: skip
    assert table["custom_profiles.create"].quotas == (Quota(1000, per=86_400.0),)
    assert table["custom_profiles.get"].quotas == (Quota(180, per=900.0),)


def test_a_table_is_a_value() -> None:
    table = QuotaTable.default()
    pace = Pace(burst=15, per=2.0)
    replaced = table.replace("direct_messages.send", Quota(15, per=2.0, scope=Scope.USER), pace=pace)
    assert replaced["direct_messages.send"].quotas == (Quota(15, per=2.0),)
    assert replaced["direct_messages.send"].pace == pace
    assert table == QuotaTable.default() != replaced
    assert table.scaled(100)["custom_profiles.get"].quotas == (Quota(180, per=9.0),)
    with pytest.raises(InvalidInput, match=r"direct_messages\.send"):
        table.replace("direct_message.send", Quota(1, per=1.0))


def test_what_does_not_count_any_more_cannot_be_given_back() -> None:
    quota = Quota(6, PER)
    ledger = counting(quota)
    ledger.take(10.0, 3)
    ledger.take(2 * PER, 2)
    later = 10.0 + PER * DRIFT + 1.0
    assert ledger.used(later, quota) == 2
    ledger.give_back(10.0, 3)
    assert ledger.used(later, quota) == 2
    ledger.give_back(2 * PER, 3)
    assert ledger.used(later, quota) == 0


@pytest.mark.parametrize("per", [1.0, 900.0])
def test_a_ledger_that_is_far_from_its_limit_is_bounded_and_forgets_nothing_that_counts(per: float) -> None:
    """Nobody asks how much is used, so nobody finds out what has ended."""
    ledger, quota = Ledger(), Quota(10**9, per=per)
    ledger.count_by(quota, 0.0)
    kept, _ = ledger.window_of(quota)
    seen: list[float] = []
    scans = 0
    for number in range(20_000):
        now = number * per / 450
        before = len(kept.seen)
        ledger.take(now + per, 1, now)
        scans += len(kept.seen) < before
        seen.append(now + per / 1000)
        ledger.settle(now + per, seen[-1])
        assert len(kept.seen) <= 4 * 512 + 1
        assert kept.total >= min(number + 1, 450), "what ended within the window counts"
    assert 5 <= scans <= 20, "it looks once for many, and not each time"
    counting = sum(1 for at in seen if at + per > now)
    assert counting <= ledger.used(now, quota) <= counting + 3
