"""When a message that the list does not show is absent: the rule, without a server."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twdm_async import DirectMessage, InvalidInput, MalformedResponse
from twdm_async.resources.evidence import Reading, Search, checked_settle_after, read_back
from twdm_async.resources.listing import Page

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
SETTLE = 600.0


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def message(age: float) -> DirectMessage:
    """One that was made so many seconds ago, which is also its id."""
    return DirectMessage(id=str(age), created_at=ago(age), recipient_id="5", raw_text="hello")


async def reading(
    shown: Sequence[Sequence[float]], *, known: Sequence[float] = (), since: float = 2000.0, ends: bool = True
) -> Reading:
    """Pages with messages of these ages, while those of `known` exist."""

    async def pages() -> AsyncGenerator[Page[DirectMessage]]:
        for page in shown:
            yield Page(tuple(map(message, page)))
        if not ends:
            raise MalformedResponse(endpoint="direct_messages.list", status=200, problem="a cursor that repeats")

    return await read_back(pages(), ago(since), {str(age): ago(age) for age in known})


async def speaks(shown: Sequence[Sequence[float]], age: float, **options: object) -> bool:
    """Whether such a list speaks for a message of this age."""
    return (await reading(shown, **options)).speaks_for(ago(age), age, SETTLE, NOW)  # type: ignore[arg-type]  # handed on


async def test_fault_57_an_empty_list_speaks_if_nothing_is_known_to_exist() -> None:
    assert await speaks([], 700.0)
    assert not await speaks([], 700.0, known=[650.0])
    assert not await speaks([[]], 700.0, known=[800.0])


async def test_fault_58_a_list_that_lacks_something_known_does_not_speak_for_what_was_sent_then() -> None:
    assert await speaks([[10.0, 900.0]], 700.0, known=[10.0, 900.0])
    assert not await speaks([[10.0]], 700.0, known=[10.0, 900.0]), "something older is missing"
    assert not await speaks([[900.0]], 700.0, known=[400.0, 900.0]), "something newer is, and has been for long"
    assert await speaks([[900.0]], 700.0, known=[300.0, 900.0]), "the latest always are, where many are sent"
    assert await speaks([[900.0]], 700.0, known=[5000.0, 900.0]), "the list was not read so far back"


async def test_what_was_deleted_is_not_missing_for_ever() -> None:
    assert not await speaks([[100.0]], 4000.0, known=[100.0, 3500.0], since=9000.0)
    assert await speaks([[100.0]], 4000.0, known=[100.0, 3700.0], since=9000.0), "for an hour: it was deleted"
    assert not await speaks([[3800.0]], 4000.0, known=[3800.0, 3700.0], since=9000.0), "nothing newer is shown: it lags"


async def test_fault_59_an_old_message_at_the_top_is_not_the_end() -> None:
    whole = await reading([[5000.0, 100.0, 200.0, *(2100.0 + number for number in range(10)), 150.0]])
    assert whole.is_whole
    assert {"100.0", "200.0"} <= whole.ids
    assert not (await reading([[5000.0, 100.0]], ends=False)).is_whole
    assert (await reading([[5000.0 + number for number in range(10)], [100.0]], ends=False)).is_whole, (
        "a page of old ones"
    )
    oldest_first = [6000.0 - number for number in range(20)]
    assert not (await reading([oldest_first, [100.0]], ends=False)).is_whole, "the newest may come last"
    assert (await reading([[200.0, 100.0, 300.0]])).ids == {"100.0", "200.0", "300.0"}


async def test_fault_60_pages_that_bring_nothing_new_are_not_the_end_and_are_not_read_for_ever() -> None:
    pages = 0

    async def circle() -> AsyncGenerator[Page[DirectMessage]]:
        nonlocal pages
        while True:
            pages += 1
            yield Page((message(100.0),), str(pages))

    found = await read_back(circle(), ago(2000.0))
    assert (found.is_whole, pages) == (False, 4)
    assert found.ids == {"100.0"}
    with pytest.raises(MalformedResponse):
        await reading([], ends=False)


@given(
    st.lists(st.floats(0, 3000), min_size=1, max_size=30, unique=True), st.floats(1, 3000), st.sets(st.integers(0, 29))
)
async def test_a_list_never_speaks_for_what_is_not_twice_as_old_as_all_that_is_missing(
    known: list[float], age: float, hidden: set[int]
) -> None:
    """Whatever it hides, and in whatever order."""
    shown = [one for place, one in enumerate(known) if place not in hidden]
    found = await reading([shown], known=known, since=10_000.0)
    oldest_missing = max(set(known) - set(shown), default=0.0)
    assert found.speaks_for(ago(age), age, SETTLE, NOW) == (ago(age) <= NOW - 2 * (NOW - ago(oldest_missing)))


def looks(settle_after: float, until: float) -> list[float]:
    """When a message is looked for that is never found, in seconds since it was given up."""
    search = Search(settle_after)
    times: list[float] = []
    while search.due <= until and not (times and search.look(times[-1], is_believed=True)):
        times.append(search.due)
    return times


def test_fault_56_it_is_looked_for_at_once_and_called_absent_late() -> None:
    assert looks(600.0, 10_000.0) == [0.0, 120.0, 300.0, 600.0, 690.0]


def test_a_list_that_cannot_be_believed_is_asked_ever_more_rarely() -> None:
    search = Search(600.0)
    times = [0.0]
    while not search.is_hopeless:
        assert not search.look(times[-1], is_believed=False)
        times.append(search.due)
    assert len(times) <= 25
    assert times[-2] >= 3600.0
    assert all(later - sooner >= 90.0 for sooner, later in itertools.pairwise(times))


def test_a_list_that_was_good_once_and_then_cannot_be_believed_is_given_up_as_well() -> None:
    search = Search(600.0)
    assert not search.look(600.0, is_believed=True)
    assert search.due == 690.0, "only to be sure"
    age = search.due
    while not search.is_hopeless:
        assert not search.look(age, is_believed=False)
        age = search.due
    assert 5400.0 <= search.looked_at - 600.0 <= 6500.0  # type: ignore[operator]  # it was looked at


def test_a_list_that_could_be_believed_lately_is_not_given_up() -> None:
    search = Search(600.0)
    search.look(0.0, is_believed=False)
    assert not search.look(5000.0, is_believed=True)
    assert not search.look(5500.0, is_believed=False)
    assert not search.is_hopeless


def test_after_an_outage_it_takes_no_longer_than_without_one() -> None:
    search = Search(600.0)
    eight_hours = 28_800.0
    assert not search.look(eight_hours, is_believed=False), "one bad list"
    assert not search.is_hopeless
    assert search.due == eight_hours + 90.0
    assert not search.look(search.due, is_believed=True)
    assert search.due == eight_hours + 180.0
    assert search.look(search.due, is_believed=True)


def test_who_asks_anew_is_answered_by_a_new_reading() -> None:
    search = Search(600.0)
    search.look(600.0, is_believed=False)
    search.is_renewed = True
    assert search.due == 0.0
    search.look(610.0, is_believed=False)
    assert search.due == 700.0


async def test_a_process_that_stood_still_does_not_take_a_message_for_younger_than_it_is() -> None:
    """Sent 1000 seconds ago, given up 600 seconds ago; something of 650 seconds ago is missing."""
    found = await reading([[900.0]], known=[900.0, 650.0])
    assert not found.speaks_for(ago(1000.0), 600.0, SETTLE, NOW)
    assert found.speaks_for(ago(1400.0), 1300.0, SETTLE, NOW)


def test_fault_61_a_time_in_which_a_message_may_still_be_on_its_way_is_refused() -> None:
    assert checked_settle_after(None, 30.0) == 600.0
    assert checked_settle_after(None, 300.0) == 1500.0, "with so long a timeout, ten minutes would be too short"
    assert checked_settle_after(150.0, 30.0) == 150.0
    for bad in (149.9, 0.0, -1.0, float("nan"), "x", True):
        with pytest.raises(InvalidInput, match="settle_after"):
            checked_settle_after(bad, 30.0)  # type: ignore[arg-type]  # that is what is tested
