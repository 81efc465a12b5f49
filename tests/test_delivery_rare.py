"""Rare moments of delivery: an outcome that is written late, a list that breaks off, an outage, a clock that is set."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from tests.pictures import PNG
from tests.support import Place, keep_files_in_the_loop, place
from tests.test_http import TEXT
from tests.virtual_time import run
from twdm_async import Client, DeliveryUnknown, Forbidden, LoopClock, Quota, QuotaTable
from twdm_async.outbox import Outbox, State
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.storage import contract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SEND, LIST = "direct_messages.send", "direct_messages.list"
MANY = QuotaTable.default().replace(SEND, Quota(1_000_000, per=86_400.0))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keep_files_in_the_loop(monkeypatch)
    return tmp_path / "outbox.db"


@contextlib.asynccontextmanager
async def another(here: Place, path: Path) -> AsyncIterator[Outbox]:
    """An outbox on the same file, as of another process."""
    async with (
        Client(
            here.sandbox.credentials,
            api_url=here.sandbox.url,
            upload_url=here.sandbox.url,
            clock=here.clock,
            quotas=here.sandbox.quotas,
        ) as client,
        Outbox(client, path) as outbox,
    ):
        yield outbox


async def until_state(path: Path, state: str, every: float = 0.0003) -> None:
    while True:
        with contextlib.closing(sqlite3.connect(path)) as db:
            if db.execute("SELECT state FROM message").fetchone() == (state,):
                return
        await asyncio.sleep(every)


async def cancel_all(draining: asyncio.Task[Any]) -> None:
    for task in asyncio.all_tasks():
        if task.get_name() == "twdm_async attempt":
            task.cancel()
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(Fault("reset", endpoint=SEND, nth=1, processed=False), "unknown"), (Fault("proxy_403", endpoint=SEND, nth=1), "queued")],
)  # fmt: skip
def test_fault_73_an_outcome_that_is_written_once_more_later_changes_nothing(
    fault: Fault, outcome: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written; whoever wrote it is cancelled before that is known; meanwhile another process sends the message."""
    tell_all = contract._tell_all
    monkeypatch.setattr(
        contract, "_tell_all", lambda told: asyncio.get_running_loop().call_later(0.001, tell_all, told)
    )

    async def main() -> None:
        async with place(path, faults=[fault], latency=(0.05, 0.05)) as here, another(here, path) as other:
            await here.outbox.put("5", TEXT, key="k")
            draining = asyncio.create_task(here.outbox.drain())
            await until_state(path, "sending")
            await until_state(path, outcome)
            await cancel_all(draining)
            sending = asyncio.create_task(other.drain())
            if outcome == "queued":
                await until_state(path, "sending", every=0.02)  # by the other one
            else:
                await sending
            await here.outbox.close()
            async with another(here, path) as third:
                await third.drain()
            assert (await sending)[State.SENT] == len(here.sandbox.messages) == 1

    run(main())


def test_fault_73_what_was_cut_off_is_written_down_although_nobody_drains(path: Path) -> None:
    """The process lives on, its outbox is neither drained nor closed: others can look for the message."""

    async def main() -> None:
        async with place(path, faults=[Fault("silence", endpoint=SEND, nth=1)]) as here, another(here, path) as other:
            await here.outbox.put("5", TEXT, key="k")
            draining = asyncio.create_task(here.outbox.drain())
            await asyncio.sleep(5)
            await cancel_all(draining)
            assert (await other.drain())[State.SENT] == len(here.sandbox.messages) == 1
            assert here.clock.monotonic() < 200

    run(main())


@pytest.mark.soak
def test_a_poll_loses_nothing_when_the_list_breaks_off(path: Path) -> None:
    async def main() -> None:
        async with place(path) as here:
            got: list[str | None] = []

            async def read() -> None:
                async for message in here.client.direct_messages.poll(every=60):
                    got.append(message.text)  # noqa: PERF401 - it has no end

            reading = asyncio.create_task(read())
            await asyncio.sleep(5)
            person = here.sandbox.person(77)
            here.sandbox.faults.append(Fault("503", endpoint=LIST))
            for number in range(120):
                person.writes(f"m{number}")
                await asyncio.sleep(60)
            here.sandbox.faults[:] = [Fault("proxy_html", endpoint=LIST, nth=nth) for nth in (2, 3, 4)]
            await asyncio.sleep(3600)
            reading.cancel()
            assert sorted(got, key=str) == sorted(f"m{number}" for number in range(120))

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "probability", "hours"),
    [("502", 1.0, 1), *(pytest.param(kind, 0.8, 1, marks=pytest.mark.soak) for kind in ("proxy_403", "404_page"))],
)
def test_fault_67_an_outage_gives_no_good_message_up(kind: str, probability: float, hours: float, path: Path) -> None:
    async def main() -> None:
        async with place(path, quotas=MANY, seed=3) as here:
            for number in range(300):
                await here.outbox.put("6", f"{TEXT} before {number}")
            await here.outbox.drain()
            here.sandbox.faults.append(Fault(kind, endpoint=SEND, probability=probability, processed=False))
            async with here.outbox.running():
                for number in range(10):
                    await here.outbox.put("5", f"{TEXT} {number}")
                await asyncio.sleep(hours * 3600)
                here.sandbox.faults.clear()
                assert (await here.outbox.drain())[State.SENT] == 310

    run(main())


@pytest.mark.slow
def test_fault_66_one_message_that_is_refused_alone_ends_nothing(path: Path) -> None:
    async def main() -> None:
        fault = Fault("unknown_code", endpoint=SEND, recipient_id="13")
        async with place(path, faults=[fault], settle_after=150.0) as here, here.outbox.running():
            await here.outbox.put("5", TEXT)
            await asyncio.sleep(10)
            await here.outbox.put("13", TEXT, key="poisoned")
            assert (await here.outbox.outcome("poisoned")).state is State.FAILED
            assert here.sends <= 14

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["404_page", "unknown_code", "not_following", "proxy_403"])
def test_fault_66_a_list_that_is_refused_once_stops_nobody(kind: str, path: Path) -> None:
    async def main() -> None:
        faults = [Fault("reset", endpoint=SEND, nth=1), Fault(kind, endpoint=LIST, nth=1)]
        async with place(path, faults=faults) as here:
            for number in range(20):
                await here.outbox.put("5", f"{TEXT} {number}")
            assert (await here.outbox.drain())[State.SENT] == len(here.sandbox.messages) == 20

    run(main())


def test_fault_52_a_clock_that_is_set_forward_makes_nothing_absent() -> None:
    async def main() -> None:
        clock, wrong = LoopClock(), LoopClock()
        async with (
            Sandbox(clock=clock, list_lag=150.0, faults=[Fault("reset", endpoint=SEND)]) as sandbox,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=wrong) as client,
        ):
            with pytest.raises(DeliveryUnknown) as caught:
                await client.direct_messages.send("5", TEXT)
            wrong.wrong_by = 700.0
            (settled,) = await client.direct_messages.reconcile(caught.value)
            assert settled.delivered == "yes"

    run(main())


@pytest.mark.soak
def test_what_the_list_could_not_tell_is_taken_from_an_echo_and_from_a_list_that_has_recovered(path: Path) -> None:
    async def main() -> None:
        faults = [Fault("reset", endpoint=SEND, nth=number) for number in (1, 2)]
        faults.append(Fault("list_empty", endpoint=LIST))
        async with place(path, faults=faults, settle_after=150.0) as here:
            for key in ("a", "b"):
                await here.outbox.put("5", f"{TEXT} {key}", key=key)
            async with here.outbox.running():
                await asyncio.sleep(30)
                await here.client.direct_messages.send("6", "it is known, and never listed")
                await asyncio.sleep(2000)
                counts = await here.outbox.drain()
                assert counts[State.UNKNOWN] == 2, "a drain does not wait for ever"
                shown = await here.client.direct_messages.get(here.sandbox.messages[0].id)
                here.client.direct_messages.note_event(shown)
                await asyncio.sleep(200)
                assert (await here.outbox.counts())[State.SENT] == 1
                here.sandbox.faults.clear()
                await asyncio.sleep(1500)
                assert (await here.outbox.counts())[State.SENT] == len(here.sandbox.messages) - 1 == 2

    run(main())


def test_a_message_that_was_looked_up_can_still_be_found() -> None:
    """Else the unknown message could not be that one, and would be sent again."""

    async def main() -> None:
        clock = LoopClock()
        async with (
            Sandbox(clock=clock, faults=[Fault("reset", endpoint=SEND)]) as sandbox,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=clock) as client,
        ):
            with pytest.raises(DeliveryUnknown) as caught:
                await client.direct_messages.send("5", TEXT)
            await client.direct_messages.get(sandbox.messages[0].id)
            (settled,) = await client.direct_messages.reconcile(caught.value)
            assert settled.delivered == "yes"

    run(main())


def test_a_message_that_got_no_id_is_not_found_in_place_of_one_that_is_lost(path: Path) -> None:
    faults = [Fault("reset", endpoint=SEND, nth=1, processed=False), Fault("no_id", endpoint=SEND, nth=2)]

    async def main() -> None:
        async with place(path, faults=faults) as here:
            for key in "ab":
                await here.outbox.put("5", TEXT, key=key)
            assert (await here.outbox.drain(workers=1))[State.SENT] == len(here.sandbox.messages) == 2
            assert here.sends == 3

    run(main())


@pytest.mark.parametrize("arrives", [1, 2])
@pytest.mark.parametrize("together", [True, False])
def test_which_of_two_pictures_without_a_text_arrived_cannot_be_told(arrives: int, together: bool, path: Path) -> None:
    """Whoever asks for them one after the other is told the same."""
    faults = [Fault("reset", endpoint=SEND, nth=nth, processed=nth == arrives) for nth in (1, 2)]

    async def main() -> None:
        async with place(path, faults=faults) as here:
            unknowns: list[DeliveryUnknown] = []
            for _ in range(2):
                picture = await here.client.media.upload(PNG, category="dm_image")
                with pytest.raises(DeliveryUnknown) as caught:
                    await here.client.direct_messages.send("5", attachment=picture)
                unknowns.append(caught.value)
            questions = [unknowns] if together else [[one] for one in unknowns]
            said = [one.delivered for some in questions for one in await here.client.direct_messages.reconcile(*some)]
            assert said == ["unknown", "unknown"]
            assert len(here.sandbox.messages) == 1

    run(main())


@pytest.mark.parametrize(
    "texts",
    [("http://example.com/", "https://example.com"), ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\U000e0073\U000e007f")],
)  # fmt: skip
def test_two_texts_that_the_list_may_show_alike_are_not_taken_for_each_other(
    texts: tuple[str, str], path: Path
) -> None:
    async def main() -> None:
        faults = [Fault("reset", endpoint=SEND, nth=nth, processed=nth == 2) for nth in (1, 2)]
        async with place(path, faults=faults) as here:
            for text in texts:
                await here.outbox.put("5", text)
            assert (await here.outbox.drain(workers=1))[State.UNKNOWN] == 2
            assert len(here.sandbox.messages) == 1, "neither doubled nor called sent"

    run(main())


def test_an_id_is_a_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API tells it without leading zeros, so that is how the message is looked for."""
    monkeypatch.setattr("twdm_async.sandbox.messages.checked_long", lambda value, _: str(int(value)))

    async def main() -> None:
        async with place(path, faults=[Fault("reset", endpoint=SEND, nth=1)]) as here:
            await here.outbox.put("0844385345234", TEXT)
            await here.outbox.put("0844385345234", f"{TEXT} 2", custom_profile_id="007")
            await asyncio.wait_for(here.outbox.drain(), 3600)
            assert [message.recipient_id for message in here.sandbox.messages] == ["844385345234"]

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["404_page", "unknown_code", "proxy_403", "reset"])
@pytest.mark.parametrize(("messages", "workers"), [(3, 1), (40, 16)])
def test_faults_66_to_69_what_lies_side_by_side_stops_nobody(
    kind: str, messages: int, workers: int, path: Path
) -> None:
    """All messages to one person fail, and half of those to others; they stand before all that are good."""
    people = [*("7000" for _ in range(messages)), *(str(7001 + number) for number in range(messages // 2))]
    faults = [Fault(kind, endpoint=SEND, recipient_id=who, processed=False) for who in dict.fromkeys(people)]

    async def main() -> None:
        async with place(path, faults=faults, quotas=MANY) as here:
            for who in people:
                await here.outbox.put(who, TEXT)
            for number in range(20):
                await here.outbox.put(number % 3 + 1, TEXT)
            async with here.outbox.running(workers=workers):
                while len(here.sandbox.messages) < 20:
                    await asyncio.sleep(5.0)
            assert here.clock.monotonic() < 600.0

    run(main())


def test_the_first_message_to_anybody_goes_first_when_others_fail(path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("proxy_403", endpoint=SEND, nth=nth) for nth in range(1, 6)]) as here:
            for number in range(30):
                await here.outbox.put(number % 3 + 1, f"{TEXT} {number:02}")
            await here.outbox.drain(workers=1)
            for who in "123":
                texts = [message.text for message in here.sandbox.messages if message.recipient_id == who]
                assert texts == sorted(texts)

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["404_page", pytest.param("html_as_json", marks=pytest.mark.soak)])
def test_a_list_that_cannot_be_read_is_given_up_and_tried_again_by_who_asks_anew(kind: str, path: Path) -> None:
    async def main() -> None:
        fault = Fault(kind, endpoint=LIST)
        async with place(path, faults=[fault, Fault("reset", endpoint=SEND, nth=1)]) as here:
            await here.outbox.put("5", TEXT, key="k")
            assert (await here.outbox.drain())[State.UNKNOWN] == 1
            assert 5400.0 <= here.clock.monotonic() < 6000.0
            here.sandbox.faults.remove(fault)
            assert (await here.outbox.drain())[State.SENT] == 1

    run(main())


@pytest.mark.slow
def test_after_a_long_outage_one_bad_list_decides_nothing(path: Path) -> None:
    async def main() -> None:
        faults = [Fault("reset", endpoint=SEND, nth=2, processed=False), Fault("list_empty", endpoint=LIST, nth=2)]
        async with place(path, faults=faults) as here:
            await here.outbox.put("5", TEXT, key="k")
            await here.client.direct_messages.send("6", TEXT)
            async with here.outbox.running():
                await until_state(path, "unknown", every=1.0)
            await here.outbox.close()
            await asyncio.sleep(8 * 3600.0)
            began = here.clock.monotonic()
            async with another(here, path) as other:
                assert (await other.drain())[State.SENT] == 1
            assert here.clock.monotonic() - began < 600.0

    run(main())


def test_what_was_sent_with_other_keys_is_not_called_absent(path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("reset", endpoint=SEND, nth=1)]) as here:
            await here.outbox.put("5", TEXT, key="k")
            assert (await here.outbox.drain())[State.SENT] == 1
            await here.outbox.close()
            with contextlib.closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE message SET state = 'unknown', fingerprint = 'ffffffff-' || fingerprint")
            async with another(here, path) as other:
                assert (await other.drain())[State.UNKNOWN] == 1
            assert len(here.sandbox.messages) == 1

    run(main())


@pytest.mark.slow
def test_when_the_next_message_leaves_is_told(path: Path) -> None:
    async def main() -> None:
        fault = Fault("proxy_403", endpoint=SEND, recipient_id="6")
        async with place(path, faults=[fault]) as here:
            assert await here.outbox.next_try() is None, "there is none"
            await here.outbox.put("6", TEXT)
            assert await here.outbox.next_try() is None, "it may leave now"
            async with here.outbox.running():
                for number in range(30):
                    await here.outbox.put("5", f"{TEXT} {number}")
                    await asyncio.sleep(10.0)
                next_try = await here.outbox.next_try()
                assert next_try is not None
                assert 100.0 <= (next_try - here.clock.utc()).total_seconds() <= 1200.0, "it failed while others left"

    run(main())


def test_a_new_run_does_not_wait_for_the_pauses_of_the_last_one(path: Path) -> None:
    async def main() -> None:
        fault = Fault("unknown_code", endpoint=SEND)
        async with place(path, faults=[fault]) as here:
            for number in range(20):
                await here.outbox.put(number + 1, TEXT)
            with pytest.raises(Forbidden):
                await here.outbox.drain()
            here.sandbox.faults.remove(fault)
            began = here.clock.monotonic()
            assert (await here.outbox.drain())[State.SENT] == 20
            assert here.clock.monotonic() - began < 6.0

    run(main())


@pytest.mark.parametrize("others_follow", [False, True])
def test_who_did_not_arrive_is_to_blame_only_if_others_did_afterwards(others_follow: bool, path: Path) -> None:
    async def main() -> None:
        async with place(path, faults=[Fault("reset", endpoint=SEND, nth=2, processed=False)]) as here:
            for key in "abc" if others_follow else "ab":
                await here.outbox.put("5", f"{TEXT} {key}", key=key)
            await here.outbox.drain(workers=1)
            assert [message.text[-1] for message in here.sandbox.messages][-1] == "b"
            with contextlib.closing(sqlite3.connect(path)) as db:
                assert db.execute("SELECT tries FROM message WHERE key = 'b'").fetchone() == (int(others_follow),)

    run(main())


@pytest.mark.soak
def test_who_asks_anew_after_the_list_has_recovered_is_answered_at_once(path: Path) -> None:
    async def main() -> None:
        fault = Fault("list_empty", endpoint=LIST)
        async with place(path, faults=[fault, Fault("reset", endpoint=SEND, nth=2)]) as here:
            for key in "ab":
                await here.outbox.put("5", f"{TEXT} {key}", key=key)
            assert (await here.outbox.drain(workers=1))[State.UNKNOWN] == 1
            here.sandbox.faults.remove(fault)
            began = here.clock.monotonic()
            assert (await here.outbox.drain())[State.SENT] == 2
            assert here.clock.monotonic() - began <= 120.0

    run(main())


def test_what_is_known_to_be_absent_is_not_taken_for_one_that_may_be_there(path: Path) -> None:
    async def main() -> None:
        faults = [Fault("reset", endpoint=SEND, nth=nth, processed=nth == 2) for nth in (1, 2)]
        async with place(path, faults=faults) as here:
            for delivered in ("no", "yes"):
                picture = await here.client.media.upload(PNG, category="dm_image")
                with pytest.raises(DeliveryUnknown) as caught:
                    await here.client.direct_messages.send("5", attachment=picture)
                (settled,) = await here.client.direct_messages.reconcile(caught.value)
                assert settled.delivered == delivered

    run(main())
