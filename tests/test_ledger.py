"""The ledger: arithmetic of slots, and the promise itself against every window there can be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twdm_async import InvalidInput, Pace, Quota, QuotaTable, Scope
from twdm_async.quota.ledger import Ledger

PER = 900.0
DRIFT = 1.0001


def test_a_slot_counts_until_its_outcome_and_a_window_on_top() -> None:
    ledger = Ledger(1, PER)
    assert ledger.is_open(0)
    ledger.take()
    assert not ledger.is_open(5000)  # under way for ever so long
    ledger.settle(5000)
    assert not ledger.is_open(5000 + PER)
    assert ledger.free_in(5000) == pytest.approx(PER * DRIFT)
    assert ledger.is_open(5000 + PER * DRIFT)


def test_a_slot_without_outcome_counts_for_a_grace_longer() -> None:
    ledger = Ledger(2, PER)
    ledger.take()
    ledger.take()
    ledger.settle(10, grace=30)
    ledger.settle(20)  # its expiry comes before the other's
    assert ledger.used(20) == 2
    assert ledger.used(20 + PER * DRIFT) == 1
    assert ledger.used(40 + PER * DRIFT) == 0


def test_a_slot_is_given_back_if_nothing_left() -> None:
    ledger = Ledger(1, PER)
    ledger.take()
    ledger.give_back()
    assert ledger.is_open(0)


def test_holds_join_to_the_later_one() -> None:
    ledger = Ledger(5, PER)
    ledger.hold(100)
    ledger.hold(50)
    assert not ledger.is_open(99)
    assert ledger.free_in(40) == 60
    assert ledger.is_open(100)


def test_free_in_counts_rounds() -> None:
    ledger = Ledger(2, 100.0)
    for now in (0, 10):
        ledger.take()
        ledger.settle(now)
    window = 100 * DRIFT
    waits = [ledger.free_in(20, count) for count in (1, 2, 3, 4, 5)]
    expected = [window - 20, window - 10, 2 * window - 20, 2 * window - 10, 3 * window - 20]
    assert waits == pytest.approx(expected)


def test_the_server_s_count_can_only_tighten() -> None:
    ledger = Ledger(180, PER)
    for _ in range(10):
        ledger.take()
    ledger.tighten(0, remaining=170, until=500)
    assert ledger.used(0) == 10  # nobody else has spent any
    ledger.tighten(0, remaining=150, until=500)
    assert ledger.used(0) == 30
    ledger.tighten(0, remaining=150, until=500)
    ledger.tighten(0, remaining=179, until=500)  # an older reply, or a lie
    assert ledger.used(0) == 30
    assert ledger.used(500) == 10


def test_without_a_documented_quota_only_a_hold_closes_it() -> None:
    ledger = Ledger(math.inf, 0.0)
    for _ in range(1000):
        ledger.take()
    for _ in range(1000):
        ledger.settle(0)
    ledger.tighten(0, 0, 100)
    assert ledger.is_open(0)
    ledger.hold(5)
    assert ledger.free_in(0, 10_000) == 5


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
    ledger = Ledger(limit, per)
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
        if not ledger.is_open(now):
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
