"""Who goes next: fair shares, first in first out within a lane, and nothing kept of those who left."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.lined_up import Line
from twdm_async import InvalidInput, Lane, Priority

A, B = Lane("a"), Lane("b")
BULK = Lane("a", priority=Priority.BULK)


def drain(queue: Line[tuple[str, int]]) -> list[tuple[str, int]]:
    return [queue.pop() for _ in range(len(queue))]


def test_first_in_first_out_within_a_lane() -> None:
    queue = Line[tuple[str, int]]()
    for number in range(50):
        queue.push(("a", number), A)
    assert drain(queue) == [("a", number) for number in range(50)]


def test_a_late_lane_of_equal_weight_is_done_soon() -> None:
    queue = Line[tuple[str, int]]()
    for number in range(100):
        queue.push(("a", number), A)
    for number in range(5):
        queue.push(("b", number), B)
    granted = drain(queue)
    assert max(place for place, (lane, _) in enumerate(granted, 1) if lane == "b") <= 11


def test_shares_follow_weights() -> None:
    queue = Line[tuple[str, int]]()
    for number in range(400):
        queue.push(("a", number), Lane("a", weight=3.0))
        queue.push(("b", number), Lane("b", weight=1.0))
    shares = Counter(queue.pop()[0] for _ in range(400))
    assert shares["a"] / shares["b"] == pytest.approx(3, rel=0.05)


def test_many_equal_lanes_get_equal_shares() -> None:
    queue = Line[tuple[str, int]]()
    generator = random.Random(5)
    lanes = [Lane(str(number)) for number in range(200)]
    for lane in lanes:
        for number in range(generator.randint(10, 100)):
            queue.push((lane.key, number), lane)
    shares = Counter(queue.pop()[0] for _ in range(1000))
    jain = sum(shares.values()) ** 2 / (200 * sum(share**2 for share in shares.values()))
    assert jain >= 0.99


def test_a_lane_that_always_has_just_one_waiting_does_not_starve_the_others() -> None:
    queue = Line[tuple[str, int]]()
    for number in range(100):
        queue.push(("b", number), B)
    queue.push(("a", 0), A)
    granted: list[str] = []
    for number in range(1, 50):
        lane, _ = queue.pop()
        granted.append(lane)
        if lane == "a":
            queue.push(("a", number), A)
    assert abs(granted.count("a") - granted.count("b")) <= 1


def test_interactive_goes_before_bulk_whenever_it_comes() -> None:
    queue = Line[tuple[str, int]]()
    for number in range(10):
        queue.push(("bulk", number), BULK)
    assert queue.pop() == ("bulk", 0)
    queue.push(("live", 0), A)
    assert queue.pop() == ("live", 0)
    assert queue.pop() == ("bulk", 1)


def test_whoever_gives_up_is_passed_over_and_forgotten() -> None:
    queue = Line[tuple[str, int]]()
    for number in range(3):
        queue.push(("a", number), A)
    queue.discard(("a", 0))
    queue.discard(("a", 0))
    queue.discard(("b", 0))
    assert drain(queue) == [("a", 1), ("a", 2)]
    with pytest.raises(IndexError):
        queue.pop()


def test_an_idle_lane_costs_nothing() -> None:
    queue = Line[tuple[str, int]]()
    queue.push(("stays", 0), BULK)
    for number in range(10_000):
        lane = Lane(f"agent {number}", priority=Priority.BULK)
        queue.push(("goes", number), lane)
        queue.discard(("goes", number))
    assert len(queue) == sum(map(len, queue.queue._queues)) == 1
    assert len(queue.queue._heads) < 100
    for number in range(1000):
        queue.push(("a", number), Lane(f"lane {number}"))
    drain(queue)
    assert not any(queue.queue._queues)
    assert not any(queue.queue._finished)
    assert not queue.queue._heads


@pytest.mark.parametrize("key", [5, None, b"x", []])
def test_keys_that_are_none(key: object) -> None:
    with pytest.raises(InvalidInput):
        Lane(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "1", True, 1e-320, 10**400])
def test_weights_that_are_none(weight: object) -> None:
    with pytest.raises(InvalidInput):
        Lane("a", weight)  # type: ignore[arg-type]


STEPS = st.lists(st.tuples(st.sampled_from(["push", "push", "pop", "discard"]), st.integers(0, 4), st.integers(0, 5)))


@given(STEPS)
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, int, int]]) -> None:
    queue = Line[int]()
    waiting: dict[int, Lane] = {}
    served: list[int] = []
    for number, (step, which, other) in enumerate(steps):
        lane = Lane(str(which), 1.0 + which, Priority(which % 2))
        if step == "push":
            ahead = queue.ahead_of(lane)
            assert 0 <= ahead <= len(queue)
            queue.push(number, lane)
            waiting[number] = lane
        elif step == "pop" and queue:
            item = queue.pop()
            served.append(item)
            own = waiting.pop(item)
            assert all(item < later for later, lane in waiting.items() if lane == own), "overtook in its own lane"
            assert own.priority == min([own.priority, *(lane.priority for lane in waiting.values())])
        elif step == "discard" and waiting:
            item = list(waiting)[other % len(waiting)]
            del waiting[item]
            queue.discard(item)
        assert len(queue) == len(waiting)
    assert sorted(queue.pop() for _ in range(len(queue))) == sorted(waiting)
    assert len(set(served)) == len(served)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=40),
    st.integers(0, 20),
)
def test_the_place_in_line_is_at_least_what_was_said(pushes: list[tuple[int, float]], pops: int) -> None:
    queue = Line[int]()
    weights = dict(pushes)
    for number, (which, _) in enumerate(pushes):
        queue.push(number, Lane(str(which), weights[which]))
    for _ in range(min(pops, len(pushes) - 1)):
        queue.pop()
    newcomer = Lane("0", weights.get(0, 1.0))
    ahead = queue.ahead_of(newcomer)
    queue.push(-1, newcomer)
    order = [queue.pop() for _ in range(len(queue))]
    ties = len({which for which, _ in pushes})
    assert ahead <= order.index(-1) <= ahead + ties


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.001, 0.5, 1.0, 2.0, 1000.0])), min_size=1, max_size=40),
    st.integers(0, 20),
    st.sampled_from([0.001, 1.0, 1000.0]),
)
@example([(1, 1000.0), (1, 0.001), (1, 0.001), (0, 0.001)], 0, 1.0)
@example([(1, 1.0), (1, 1.0), (1, 1.0), (0, 1000.0), (0, 1000.0)], 0, 0.001)
def test_the_place_in_line_is_never_too_far_back_if_agents_share_lanes(
    pushes: list[tuple[int, float]], pops: int, weight: float
) -> None:
    """Each of them with a weight of its own. Else a call would be told that it must wait longer than it does."""
    queue = Line[int]()
    for number, (which, own) in enumerate(pushes):
        queue.push(number, Lane(str(which), own))
    for _ in range(min(pops, len(pushes) - 1)):
        queue.pop()
    newcomer = Lane("0", weight)
    ahead = queue.ahead_of(newcomer)
    queue.push(-1, newcomer)
    assert queue.ahead_of(newcomer, -1) <= (place := [queue.pop() for _ in range(len(queue))].index(-1))
    assert ahead <= place


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_who_pays_later_pays_the_same(steps: list[tuple[str, bool]]) -> None:
    """A store is asked for whoever's turn it is before it is known whether it grants anything."""
    lanes = {"a": A, "b": Lane("b", weight=2.0), "c": Lane("c", priority=Priority.BULK)}
    at_once, later = Line[int](), Line[int]()
    for number, (key, is_served) in enumerate(steps):
        for queue in (at_once, later):
            queue.push(number, lanes[key])
        if is_served:
            value, lane = later.take_first()
            assert at_once.pop() == value
            later.queue.charge(lane)
    assert [at_once.pop() for _ in range(len(at_once))] == [later.pop() for _ in range(len(later))]


def test_who_is_refused_keeps_its_turn_and_leaves_nothing_behind() -> None:
    queue = Line[str]()
    for key in "abcd":
        queue.push(key, Lane(key))
    for _ in range(100):  # the store refuses the one whose turn it is
        queue.push(*queue.take_first())
    for key in "abcd":
        queue.push(f"{key} again", Lane(key))
    assert sorted(queue.pop() for _ in range(4)) == list("abcd"), "none of them has paid"
    assert len(queue.queue._finishes) <= 4
