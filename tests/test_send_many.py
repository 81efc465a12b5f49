"""Sending many messages with few tasks: each has its outcome, none is lost or doubled, and what fails for all stops it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import traceback
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_http import connected
from tests.virtual_time import run
from twdm_async import Client, Draft, InvalidInput, LoopClock, Quota, QuotaTable, ResponseError, Unauthorized
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TEXT = "SENTINEL" + "text"
SEND = "direct_messages.send"


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        yield client


async def test_each_draft_has_its_outcome(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("reset", endpoint=SEND, nth=3))
    drafts = [Draft(str(10 + number), f"{TEXT} {number}") for number in range(20)]
    drafts[5] = Draft("5", "")
    told = [outcome async for outcome in client.direct_messages.send_many(iter(drafts), at_once=4)]
    assert sorted(drafts.index(outcome.draft) for outcome in told) == list(range(20))
    assert sorted(type(outcome.error).__name__ for outcome in told if outcome.error is not None) == [
        "DeliveryUnknown", "InvalidInput"
    ]  # fmt: skip
    for outcome in told:
        if outcome.error is None:
            assert outcome.message is not None
            assert outcome.message.text == outcome.draft.text
    assert len({message.id for message in sandbox.messages}) == len(sandbox.messages) == 19
    assert TEXT not in repr(told)


@pytest.mark.parametrize("wrong", [{"recipient_id": "5", "text": TEXT}, None])
async def test_what_is_no_draft_stops_it_and_shows_no_text(client: Client, wrong: Any) -> None:
    drafts = [Draft("5", TEXT), wrong, Draft("6", TEXT)]
    told = []
    with pytest.raises(InvalidInput, match=f"one is a {type(wrong).__name__}") as caught:
        async for outcome in client.direct_messages.send_many(drafts, at_once=4):
            told.append(outcome)  # noqa: PERF401 - it is raised in the middle
    assert [outcome.error for outcome in told] == [None]
    assert TEXT not in f"{told!r} {caught.value!r}"


async def test_a_text_in_the_place_of_the_recipient_is_not_shown(client: Client) -> None:
    (outcome,) = [outcome async for outcome in client.direct_messages.send_many([Draft(TEXT, "5")])]
    assert isinstance(outcome.error, InvalidInput)
    shown = "".join(traceback.TracebackException.from_exception(outcome.error, capture_locals=True).format())
    assert "which is no id" in shown
    assert TEXT not in f"{outcome!r} {shown}"
    assert repr(Draft("5")).startswith("Draft(recipient_id='5', ")


async def test_what_fails_for_all_stops_it(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("401_token", endpoint=SEND))
    taken = 0

    def drafts() -> Iterator[Draft]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield Draft("5", f"{TEXT} {number}")

    told = []
    with pytest.raises(Unauthorized):
        async for outcome in client.direct_messages.send_many(drafts(), at_once=4):
            told.append(outcome)  # noqa: PERF401 - it is raised in the middle
    assert len(told) == taken <= 8


async def test_what_concerns_one_message_does_not(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("no_such_user", endpoint=SEND, nth=1))
    told = [one async for one in client.direct_messages.send_many([Draft("5", f"{TEXT} {n}") for n in range(9)])]
    assert len(told) == 9
    assert [one.error.subject for one in told if isinstance(one.error, ResponseError)] == ["message"]


async def test_who_leaves_early_has_sent_what_was_under_way_and_nothing_else(client: Client, sandbox: Sandbox) -> None:
    taken: list[Draft] = []

    def drafts() -> Iterator[Draft]:
        for number in itertools.count():
            taken.append(Draft("5", f"{TEXT} {number}"))
            yield taken[-1]

    async with contextlib.aclosing(client.direct_messages.send_many(drafts(), at_once=4)) as told:
        async for outcome in told:
            assert outcome.message is not None
            break
    await client.close()
    assert 1 <= len(sandbox.messages) <= len(taken) <= 8
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "twdm_async send_many"]


@pytest.mark.parametrize("at_once", [1, 4])
async def test_an_error_of_the_source_comes_out_when_those_before_are_told(client: Client, at_once: int) -> None:
    def drafts() -> Iterator[Draft]:
        for number in range(3):
            yield Draft("5", f"{TEXT} {number}")
        raise LookupError

    told = []
    with pytest.raises(LookupError):
        async for outcome in client.direct_messages.send_many(drafts(), at_once=at_once):
            told.append(outcome)  # noqa: PERF401 - as above
    assert [outcome.error for outcome in told] == [None] * 3


@pytest.mark.parametrize("at_once", [0, -1, 1.5, 10**6, None])
async def test_numbers_that_are_none(client: Client, at_once: object) -> None:
    with pytest.raises(InvalidInput, match="at_once"):
        await anext(client.direct_messages.send_many([], at_once=at_once))  # type: ignore[arg-type]


def test_a_hundred_thousand_that_wait_weigh_nothing_but_what_their_source_holds() -> None:
    """With a quota of one message a day, and nothing but a number for each draft."""

    async def main() -> None:
        quotas = QuotaTable.default().replace(SEND, Quota(1, per=86_400.0))
        async with connected("http://127.0.0.1:1", quotas=quotas, clock=LoopClock()) as client:
            await client._limiter.admit(SEND, client.agent("1").lane)
            drafts = (Draft(str(number), TEXT, custom_profile_id=str(number)) for number in range(100_000))
            tracemalloc.start()
            try:
                sending = asyncio.ensure_future(anext(client.direct_messages.send_many(drafts)))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert next(one.waiting for one in client.quota_state() if one.endpoint == SEND) == 64
                assert tracemalloc.get_traced_memory()[0] < 2_000_000
                assert next(drafts).recipient_id == "64", "the others are not even made"
            finally:
                tracemalloc.stop()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    run(main())
