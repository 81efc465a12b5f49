"""Unknown messages: found, or sent again; and whose turn it is to look for them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.drainer import table
from tests.support import HANGS
from tests.test_http import TEXT
from tests.test_outbox import QUICK, box
from twdm_async import Client, Priority
from twdm_async._clock import Clock
from twdm_async.outbox import Outbox, State
from twdm_async.outbox.messages import Messages
from twdm_async.outbox.rows import SCHEMA, Rows
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.storage.contract import Storage, StorageTrouble
from twdm_async.storage.owners import Owner
from twdm_async.storage.places import checked_place, open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.storage.places import Place

SEND = "direct_messages.send"


async def _become_unknown(sandbox: Sandbox, outbox: Outbox) -> None:
    """Put a message, and end when it is unknown. It has arrived, and the list will show it."""
    unreadable = Fault("503", endpoint="direct_messages.list")
    sandbox.faults += [Fault("reset", endpoint=SEND, nth=1), unreadable]
    await outbox.put("5", TEXT, key="a")
    async with outbox.running():
        while (await outbox.counts())[State.UNKNOWN] == 0:
            await asyncio.sleep(0.01)
    sandbox.faults.remove(unreadable)


async def _sent(outbox: Outbox, key: str) -> None:
    """Wait until a message is sent, also if it is unknown meanwhile."""
    async with asyncio.timeout(HANGS):
        while (entry := await outbox.get(key)) is None or entry.state is not State.SENT:
            await asyncio.sleep(0.01)


@pytest.mark.soak
async def test_what_is_unknown_is_settled_and_what_did_not_arrive_is_sent_again(sandbox: Sandbox, place: Place) -> None:
    sandbox.faults += [
        Fault("reset", endpoint=SEND, nth=1),
        Fault("reset", endpoint=SEND, nth=2, processed=False),
    ]
    async with box(sandbox, place, **QUICK) as outbox:
        for number in range(3):
            await outbox.put("5", TEXT, key=str(number))
        began = asyncio.get_running_loop().time()
        counts = await outbox.drain(workers=1)
        assert asyncio.get_running_loop().time() - began >= QUICK["settle_after"]
        assert counts[State.SENT] == len(sandbox.messages) == 3
        entries = [entry for number in range(3) if (entry := await outbox.get(str(number)))]
        assert {entry.message_id for entry in entries} == {message.id for message in sandbox.messages}
        assert sorted(entry.attempts for entry in entries) == [1, 1, 2]


@pytest.mark.slow
async def test_fault_116_each_account_settles_for_itself(sandbox: Sandbox, place: Place) -> None:
    """Two brands use one file or database. The first has settled a message, and goes on."""
    sandbox.faults += [Fault("reset", endpoint=SEND, nth=1), Fault("reset", endpoint=SEND, nth=2)]
    other = sandbox.add_account()
    async with box(sandbox, place, **QUICK) as first, first.running():
        await first.put("5", TEXT, key="a")
        await _sent(first, "a")
        async with box(sandbox, place, credentials=other, **QUICK) as second:
            await second.put("5", TEXT, key="a")
            assert (await asyncio.wait_for(second.drain(), HANGS))[State.SENT] == 1


@pytest.mark.slow
async def test_fault_116_who_has_settled_everything_lets_others_settle(sandbox: Sandbox, place: Place) -> None:
    sandbox.faults += [Fault("reset", endpoint=SEND, nth=1)]
    async with box(sandbox, place, **QUICK) as outbox, box(sandbox, place, **QUICK) as other, outbox.running():
        await outbox.put("5", TEXT, key="a")
        await _sent(outbox, "a")
        async with asyncio.timeout(HANGS):
            while not await other._messages.take_turn(other._sending._settling._turn):
                await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_fault_116_who_cannot_read_the_list_lets_others_settle(
    sandbox: Sandbox, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes serve one account; one of them has lost its way to the API, but not to the file or database."""
    async with box(sandbox, place, **QUICK) as able, box(sandbox, place, url="http://127.0.0.1:1", **QUICK) as cut_off:
        await _become_unknown(sandbox, able)
        caplog.clear()
        async with cut_off.running():
            while "could not be read" not in caplog.text:
                await asyncio.sleep(0.01)
            assert (await asyncio.wait_for(able.drain(), HANGS))[State.SENT] == 1


@pytest.mark.slow
async def test_fault_116_who_is_cancelled_while_it_takes_the_turn_gives_it_back(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_turn = Messages.take_turn

    async def take_turn_and_be_cancelled(self: Messages, name: str) -> bool:
        assert await take_turn(self, name)
        raise asyncio.CancelledError

    async with box(sandbox, place, **QUICK) as able, box(sandbox, place, **QUICK) as cancelled:
        await _become_unknown(sandbox, able)
        with monkeypatch.context() as patch, pytest.raises(asyncio.CancelledError):
            patch.setattr(Messages, "take_turn", take_turn_and_be_cancelled)
            await cancelled._sending._settling.run(asyncio.Event())
        assert (await asyncio.wait_for(able.drain(), HANGS))[State.SENT] == 1


@pytest.mark.parametrize("is_taken_last", [True, False])
async def test_a_turn_is_taken_and_ended_in_the_order_of_the_calls(place: Place, *, is_taken_last: bool) -> None:
    """While the storage's thread is busy."""
    one, other = (open_storage(checked_place(place), SCHEMA, Clock(), turn="5") for _ in range(2))
    go_on = threading.Event()

    async def take(storage: Storage) -> bool:
        return await storage.change(lambda transaction: storage.take_turn(transaction, "settling"))

    try:
        assert await take(one)
        one.put(go_on.wait)
        before = asyncio.ensure_future(one.change(lambda _: True))
        await asyncio.sleep(0)
        if is_taken_last:
            one.end_turn("settling")
        again = asyncio.ensure_future(take(one))
        await asyncio.sleep(0)
        if not is_taken_last:
            one.end_turn("settling")
        go_on.set()
        assert all(await asyncio.gather(before, again, one.change(lambda _: True)))
        assert await take(other) != is_taken_last
    finally:
        go_on.set()
        await one.close()
        await other.close()


async def test_a_turn_in_a_file_is_ended_also_if_the_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageTrouble("the disk is full")

    one, other = (open_storage(tmp_path / "outbox.db", SCHEMA, Clock(), turn="5") for _ in range(2))
    try:
        assert await one.change(lambda transaction: one.take_turn(transaction, "settling"))
        with monkeypatch.context() as patch:
            patch.setattr(one, "transact", fail)
            one.end_turn("settling")
            with pytest.raises(StorageTrouble):
                await one.change(lambda _: None)
        assert await other.change(lambda transaction: other.take_turn(transaction, "settling"))
    finally:
        await one.close()
        await other.close()


@pytest.mark.soak
async def test_a_message_that_cannot_be_told_stays_unknown(sandbox: Sandbox, place: Place) -> None:
    sandbox.faults.append(Fault("reset", endpoint=SEND, nth=1))
    sandbox.list_lag = (0.3, 0.3)
    async with box(sandbox, place, **QUICK) as outbox:
        await outbox.put("5", "see https://example.com/here", key="a")
        draining = asyncio.create_task(outbox.drain())
        while not sandbox._state.events:
            await asyncio.sleep(0.01)
        next(iter(sandbox._state.events.values())).shown["message_create"]["message_data"]["entities"][
            "urls"
        ] = []  # so the link says nothing
        counts = await draining
        assert counts[State.UNKNOWN] == 1
        assert await outbox.retry("a") == 0, "it may have arrived"
        assert len(sandbox.messages) == 1


@pytest.mark.slow
async def test_an_answer_counts_also_if_its_process_was_taken_for_dead(place: Place) -> None:
    """Else the list could not prove that it arrived: the client knows that id to be of a message that was sent."""
    async with (
        Sandbox(quotas=table(), latency=(0.3, 0.3)) as sandbox,
        box(sandbox, place, settle_after=10.0, timeout=2.0) as outbox,
    ):
        await outbox.put("5", TEXT, key="k")
        draining = asyncio.create_task(outbox.drain())
        while (await outbox.counts())[State.SENDING] == 0:
            await asyncio.sleep(0.01)
        assert await outbox._do(lambda rows: rows.reclaim(lambda *_: True, "another", set)) == (1, True)
        assert (await outbox.get("k")).state is State.UNKNOWN  # type: ignore[union-attr]  # it is there
        assert (await asyncio.wait_for(draining, HANGS))[State.SENT] == len(sandbox.messages) == 1


async def test_what_an_earlier_run_could_not_give_up_is_sent(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT)
        owner = outbox._storage.owner
        assert await outbox._do(lambda rows: rows.take_up(owner, Priority.INTERACTIVE, ""))
        assert (await asyncio.wait_for(outbox.drain(), HANGS))[State.SENT] == 1


@pytest.mark.soak
async def test_what_another_process_is_sending_may_be_what_is_found(sandbox: Sandbox, tmp_path: Path) -> None:
    """Two messages say the same to the same person. One is unknown and did not arrive, one is on its way and did."""
    path = tmp_path / "outbox.db"
    other = Owner(path, "outbox")
    other.acquire()
    now = time.time()

    def one_unknown_and_one_on_its_way(rows: Rows) -> None:
        for expected, owner in (("lost", None), ("on its way", other.name)):
            owner_now = owner or "somebody"
            (taken,) = rows.take_up(owner_now, Priority.INTERACTIVE, "")
            assert taken.key == expected
            assert rows.leave(taken.id, owner_now, now).rowcount
            if owner is None:
                rows.mark_unknown(taken.id, "silence")

    async with box(sandbox, path, **QUICK) as outbox:
        for key in ("lost", "on its way"):
            await outbox.put("5", TEXT, key=key)
        await outbox._do(one_unknown_and_one_on_its_way)
        async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as elsewhere:
            arrived = await elsewhere.direct_messages.send("5", TEXT)
        draining = asyncio.create_task(outbox.drain())
        while not any("list.json" in request.path for request in sandbox.requests):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert (await outbox.get("lost")).state is State.UNKNOWN  # type: ignore[union-attr]  # it is there
        await outbox._do(lambda rows: rows.end(2, State.SENT, message_id=arrived.id))
        assert (await draining)[State.SENT] == 2
        assert len(sandbox.messages) == 2
        other.release()
