"""The ledger: arithmetic of slots, and the promise itself against every window there can be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twdm_async import InvalidInput, Pace, Quota, QuotaTable, Scope
from twdm_async.quota.ledger import Ledger
from twdm_async.quota.store.contract import UNLIMITED

PER = 900.0
DRIFT = 1.0001


def is_open(ledger: Ledger, now: float, quota: Quota) -> bool:
    return ledger.room(now, (quota,)) > 0


def free_in(ledger: Ledger, now: float, quota: Quota, count: int = 1) -> float:
    return ledger.usage(now, quota).free_in(quota.limit, count)


def test_a_slot_counts_until_its_outcome_and_a_window_on_top() -> None:
    ledger, quota = Ledger(), Quota(1, PER)
    assert is_open(ledger, 0, quota)
    ledger.take()
    assert not is_open(ledger, 5000, quota)  # under way for ever so long
    ledger.settle(5000)
    assert not is_open(ledger, 5000 + PER, quota)
    assert free_in(ledger, 5000, quota) == pytest.approx(PER * DRIFT)
    assert is_open(ledger, 5000 + PER * DRIFT, quota)


def test_a_slot_without_outcome_counts_for_a_grace_longer() -> None:
    ledger, quota = Ledger(), Quota(2, PER)
    ledger.take(2)
    ledger.settle(10, grace=30)
    ledger.settle(20)  # it stops counting before the other does
    assert ledger.used(20, quota) == 2
    assert ledger.used(20 + PER * DRIFT, quota) == 1
    assert ledger.used(40 + PER * DRIFT, quota) == 0


def test_a_slot_is_given_back_if_nothing_left() -> None:
    ledger, quota = Ledger(), Quota(1, PER)
    ledger.take()
    ledger.give_back()
    assert is_open(ledger, 0, quota)


def test_holds_join_to_the_later_one() -> None:
    ledger, quota = Ledger(), Quota(5, PER)
    ledger.hold(100)
    ledger.hold(50)
    assert not is_open(ledger, 99, quota)
    assert free_in(ledger, 40, quota) == 60
    assert is_open(ledger, 100, quota)


def test_free_in_counts_rounds() -> None:
    ledger, quota = Ledger(), Quota(2, 100.0)
    for now in (0, 10):
        ledger.take()
        ledger.settle(now)
    window = 100 * DRIFT
    waits = [free_in(ledger, 20, quota, count) for count in (1, 2, 3, 4, 5)]
    expected = [window - 20, window - 10, 2 * window - 20, 2 * window - 10, 3 * window - 20]
    assert waits == pytest.approx(expected)


def test_who_shares_a_ledger_counts_by_its_own_quota() -> None:
    ledger = Ledger()
    day, quarter, tighter = Quota(10, 86_400.0), Quota(3, 900.0), Quota(4, 86_400.0)
    for now in (0, 1000, 2000, 2500):
        ledger.take()
        ledger.settle(now)
    assert [ledger.used(2600, quota) for quota in (day, quarter, tighter)] == [4, 2, 4]
    assert ledger.room(2600, (day, quarter)) == 1
    assert ledger.room(2600, (tighter,)) == 0
    assert free_in(ledger, 2600, quarter, 2) == pytest.approx(2000 + 900 * DRIFT - 2600)


def test_the_server_s_count_can_only_tighten() -> None:
    ledger, quota = Ledger(), Quota(180, PER)
    ledger.take(10)
    ledger.tighten(0, quota, remaining=170, until=500)
    assert ledger.used(0, quota) == 10  # nobody else has spent any
    ledger.tighten(0, quota, remaining=150, until=500)
    assert ledger.used(0, quota) == 30
    ledger.tighten(0, quota, remaining=150, until=500)
    ledger.tighten(0, quota, remaining=179, until=500)  # an older reply, or a lie
    assert ledger.used(0, quota) == 30
    assert ledger.used(500, quota) == 10
    assert ledger.used(0, Quota(1000, per=86_400.0)) == 10  # of another window nothing was said


def test_what_others_spent_comes_free_at_its_time() -> None:
    ledger, quota = Ledger(), Quota(6, 100.0)
    for now in (0, 10, 90):
        ledger.take()
        ledger.settle(now)
    ledger.tighten(90, quota, remaining=0, until=120)  # three more
    assert ledger.used(95, quota) == 6
    waits = [free_in(ledger, 95, quota, count) for count in range(1, 7)]
    assert waits == pytest.approx([5.01, 15.01, 25, 25, 25, 95.01])


def test_without_a_documented_quota_only_a_hold_closes_it() -> None:
    ledger = Ledger()
    ledger.take(1000)
    for _ in range(1000):
        ledger.settle(0)
    assert is_open(ledger, 0, UNLIMITED)
    assert ledger.used(1, UNLIMITED) == 0
    ledger.hold(5)
    assert free_in(ledger, 0, UNLIMITED, 10_000) == 5


# ---- the promise, as the proof has it: any window, any latency ----

REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 40),  # seconds after the last wish that the next one comes
        st.floats(0, 5),  # until the server counts it
        st.floats(0, 25),  # after that, until its outcome is seen
        st.booleans(),  # whether it is seen at all
        st.booleans(),  # whether it leaves at all
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(REQUESTS, st.integers(1, 5), st.floats(1, 60))
def test_no_window_ever_holds_more_than_the_limit(
    requests: list[tuple[float, float, float, bool, bool]], limit: int, per: float
) -> None:
    grace = 5.0
    ledger, quota = Ledger(), Quota(limit, per)
    counted: list[float] = []
    under_way: list[tuple[float, bool, bool]] = []  # (when it is over, seen, left)
    now = 0.0

    def settle_until(moment: float) -> None:
        under_way.sort()
        while under_way and under_way[0][0] <= moment:
            over, seen, left = under_way.pop(0)
            if not left:
                ledger.give_back()
            else:
                ledger.settle(over, 0.0 if seen else grace)

    for gap, inward, outward, seen, leaves in requests:
        now += gap
        settle_until(now)
        if not is_open(ledger, now, quota):
            continue
        ledger.take()
        if not leaves:
            under_way.append((now + inward, False, False))
        elif seen:
            counted.append(now + inward)
            under_way.append((now + inward + outward, True, True))
        else:  # we stop looking, and the server counts it afterwards
            under_way.append((now + outward, False, True))
            counted.append(now + outward + min(inward, grace))
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
