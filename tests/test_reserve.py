"""The reserve: what bulk calls leave alone, and that a day of live agents survives a bulk job."""

from __future__ import annotations

import cProfile
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import simulate
from twdm_async import Priority, Quota, QuotaTable
from twdm_async.quota.ledger import Ledger, Usage
from twdm_async.quota.reserve import bulk_share

DAY = 86_400.0
QUOTA = Quota(1000, per=DAY)
THIRD = 1 / 3


def usage(*seen: float, now: float = 0.0) -> Usage:
    ledger = Ledger()
    ledger.count_by(QUOTA, now - 2 * DAY, 0)
    ledger.take(now + 100.0, len(seen))
    for moment in sorted(seen):
        ledger.settle(now + 100.0, moment)
    return ledger.usage(now, QUOTA)


NOTHING = usage()


def test_with_nothing_spent_the_whole_reserve_is_kept_and_half_of_the_rest_may_go() -> None:
    share = bulk_share(QUOTA, THIRD, NOTHING, NOTHING)
    assert (share.kept, share.capacity, share.allowed) == (333, 667, 333)


def test_what_interactive_calls_have_used_need_not_be_kept_any_longer() -> None:
    share = bulk_share(QUOTA, THIRD, usage(*[-1.0] * 200), NOTHING)
    assert (share.kept, share.capacity) == (133, 667)
    share = bulk_share(QUOTA, THIRD, usage(*[-1.0] * 500), NOTHING)
    assert (share.kept, share.capacity) == (34, 466), "a tenth is always kept"


def test_the_reserve_shrinks_as_what_it_is_kept_for_becomes_impossible() -> None:
    for hours_left, kept in ((20, 333), (3, 201), (1, 90), (0.01, 35)):
        sent = -DAY * 1.0001 + hours_left * 3600
        assert bulk_share(QUOTA, THIRD, usage(*[sent] * 600), usage(*[sent] * 600)).kept == pytest.approx(kept, abs=6)


def test_bulk_is_spread_over_the_window() -> None:
    allowed = []
    for hours in (0.001, 6, 12, 18, 23.99):
        bulk = usage(*[-hours * 3600] * 300)
        allowed.append(bulk_share(QUOTA, THIRD, bulk, bulk).allowed)
    assert allowed == sorted(allowed)
    assert allowed[0] == pytest.approx(333, abs=2)
    assert allowed[2] == pytest.approx(500, abs=2)
    share = bulk_share(QUOTA, THIRD, NOTHING, NOTHING)
    assert share.allowed_in(333) == 0
    assert share.allowed_in(500) == pytest.approx(DAY / 2, rel=0.01)
    assert share.allowed_in(667) == share.allowed_in(10_000) == pytest.approx(DAY, rel=0.01)


def test_without_a_reserve_bulk_is_as_free_as_all_others() -> None:
    for reserve in (0.0, 0.0009):  # of a thousand, that is less than one
        share = bulk_share(QUOTA, reserve, NOTHING, NOTHING)
        assert (share.kept, share.allowed) == (0, 1000)


@given(
    st.integers(1, 2000),
    st.floats(0, 0.999),
    st.lists(st.floats(-DAY * 1.2, 0), max_size=60),
    st.lists(st.floats(-DAY * 1.2, 0), max_size=60),
)
def test_some_of_everything_is_left(limit: int, reserve: float, live: list[float], bulk: list[float]) -> None:
    share = bulk_share(Quota(limit, per=DAY), reserve, usage(*live, *bulk), usage(*bulk))
    assert 0 <= share.kept <= int(limit * reserve) < limit
    assert 1 <= share.allowed <= max(1, limit)
    assert 0 <= share.part <= 1
    assert share.allowed_in(share.allowed + 1) >= 0


# ---- the day that the design is for ----


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_live_messages_leave_in_time_and_bulk_is_not_starved(seed: int) -> None:
    report = simulate.day(QuotaTable.default()[simulate.SEND].reserve, priority=Priority.BULK, seed=seed)
    assert report.in_time >= 0.99 * report.live
    assert report.bulk >= 650


@pytest.mark.soak
def test_without_a_reserve_no_live_message_leaves() -> None:
    for priority in Priority:
        assert simulate.day(0.0, priority=priority).in_time == 0


# ---- the other tables of the simulation ----


@pytest.mark.soak
@pytest.mark.parametrize(("sends", "quota"), simulate.CASES)
@pytest.mark.parametrize("server", simulate.SERVERS)
def test_no_server_counts_too_many_and_hardly_any_time_is_lost(
    sends: int, quota: Quota, server: type[simulate.Server]
) -> None:
    result = simulate.send(simulate.ours, server, quota, sends, seed=sends)
    assert result.breaches == 0
    assert len(result.moments) == sends
    if server is not simulate.FixedWindows:  # its first window is short
        assert 1 <= result.over_ideal <= 1.01


def test_a_bare_limiter_sends_too_many() -> None:
    sends, quota = simulate.CASES[0]
    assert simulate.send(simulate.bare_limiter, simulate.FromTheFirstRequest, quota, sends).breaches > 5


@pytest.mark.soak
def test_what_an_admission_costs_does_not_grow_with_the_accounts(caplog: pytest.LogCaptureFixture) -> None:
    """Counted in calls of functions, which do not depend on the machine."""
    caplog.set_level(logging.ERROR, "twdm_async")  # pytest would keep every record

    def calls(accounts: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(simulate.admit_all, accounts, admits=10_000)
        return sum(entry.callcount for entry in profile.getstats())

    few, many = calls(10), calls(200)
    assert many < 1.5 * few, many / few
    assert simulate.waiting_kilobytes(200) < 2 * simulate.waiting_kilobytes(10)
