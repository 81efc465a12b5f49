"""What replies say about quotas is read with distrust."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twdm_async.headers import read_limits, server_time

NOW = 1_800_000_000.0
DATE = "Fri, 15 Jan 2027 08:00:00"  # NOW, spelled


@pytest.mark.parametrize("zone", ["GMT", "UTC", "+0000"])
def test_fault_35_the_server_s_time_with_any_zone(zone: str) -> None:
    assert server_time({"Date": f"{DATE} {zone}"}) == NOW


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 99 Jan 2027 08:00:00 GMT", "Fri, 15 Jan 99999 08:00:00 GMT"])
def test_fault_35_no_time_at_all(date: str) -> None:
    assert server_time({"Date": date}) is None
    assert server_time({}) is None


def test_fault_35_a_time_without_zone_is_not_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert server_time({"Date": DATE}) == server_time({"Date": f"{DATE} -0000"}) == NOW
    finally:
        monkeypatch.undo()
        time.tzset()


def test_reset_counts_by_the_server_s_clock() -> None:
    headers = {"Date": f"{DATE} GMT", "x-rate-limit-reset": "1800000900", "x-rate-limit-remaining": "3"}
    limits = read_limits(headers, now=NOW + 3600)  # our clock is an hour fast
    assert (limits.remaining, limits.reset_in) == (3, 900.0)


@pytest.mark.parametrize("value", ["-1", "abc", "", "1, 2", "٣", "1.5", "+1", " 1", "1e3", "9" * 30])
def test_fault_29_absurd_numbers_are_ignored(value: str) -> None:
    limits = read_limits({"x-rate-limit-remaining": value, "x-rate-limit-reset": value}, NOW)
    assert (limits.remaining, limits.reset_in) == (None, None)


def test_fault_27_a_reset_that_has_passed_is_now() -> None:
    assert read_limits({"x-rate-limit-reset": "1799999000"}, NOW).reset_in == 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("Fri, 15 Jan 2027 08:02:00 GMT", 120), ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
     ("-5", None), ("inf", None), ("1e400", None), ("soon", None)],
)  # fmt: skip
def test_fault_32_retry_after(value: str, seconds: float | None) -> None:
    assert read_limits({"Retry-After": value}, NOW).retry_after == seconds


@given(
    st.dictionaries(st.sampled_from(["Date", "Retry-After", "x-rate-limit-remaining", "x-rate-limit-reset"]), st.text())
)
def test_no_header_does_harm(headers: dict[str, str]) -> None:
    limits = read_limits(headers, NOW)
    assert limits.reset_in is None or limits.reset_in >= 0
    assert limits.remaining is None or limits.remaining >= 0
