"""The outbox: what is put is sent once, and what became of it can be known."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.drainer import table
from tests.support import HANGS
from tests.test_http import KEYS, TEXT, used
from tests.test_outbox_crashes import all_arrived_once, drainer, fill, opened, states, times_each_arrived
from twdm_async import (
    CallToAction,
    Client,
    ClientClosed,
    ConnectFailed,
    Credentials,
    InternalError,
    InvalidInput,
    MemoryQuotaStore,
    NotAllowlisted,
    OutboxFailed,
    Pace,
    PostgresDatabase,
    Priority,
    QuickReply,
    Quota,
    QuotaStoreFailed,
    SQLiteQuotaStore,
    Unauthorized,
)
from twdm_async._clock import Clock
from twdm_async.outbox import Entry, Outbox, State
from twdm_async.outbox.rows import SCHEMA, NewMessage, Rows, SlotIntent
from twdm_async.quota.operations import Granted, Take
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.storage.contract import StorageTrouble, Transaction, passed
from twdm_async.storage.owners import Owner
from twdm_async.storage.sqlite import _APPLICATION, StateFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.forked import ForkServer
    from twdm_async.quota.store.transactional import Batch
    from twdm_async.storage.places import Place


@contextlib.asynccontextmanager
async def box(
    sandbox: Sandbox,
    path: Place,
    *,
    settle_after: float | None = None,
    credentials: Credentials | None = None,
    url: str = "",
    **options: Any,
) -> AsyncIterator[Outbox]:
    options.setdefault("quotas", table())
    if isinstance(path, PostgresDatabase) and settle_after is not None:
        settle_after += path.lease
    async with (
        Client(credentials or sandbox.credentials, api_url=url or sandbox.url, **options) as client,
        Outbox(client, path, settle_after=settle_after) as outbox,
    ):
        yield outbox


QUICK: dict[str, Any] = {"settle_after": 2.0, "timeout": 0.4}
"""The shortest time in which an outbox believes that a message is absent."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


# ---- put and get ----


async def test_a_message_is_kept_sent_and_told(sandbox: Sandbox, path: Path) -> None:
    async with box(sandbox, path) as outbox:
        entry = await outbox.put("5", TEXT, key="a")
        assert (entry.key, entry.state, entry.attempts) == ("a", State.QUEUED, 0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await outbox.counts())[State.QUEUED] == 1
        counts = await outbox.drain()
        assert counts[State.SENT] == 1
        entry = await outbox.outcome("a")
        assert (entry.state, entry.message_id, entry.attempts) == (State.SENT, sandbox.messages[0].id, 1)
        assert await outbox.get("b") is None
        with pytest.raises(InvalidInput, match="no message of this key"):
            await outbox.outcome("b")
        assert "SENTINEL" not in repr(entry)


@pytest.mark.soak
async def test_many_wait_for_outcomes_and_one_task_looks(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as waiting, box(sandbox, place) as sending:
        for number in range(40):
            await waiting.put("5", f"{TEXT} {number}", key=str(number))
        tasks = [asyncio.create_task(waiting.outcome(str(number % 40))) for number in range(80)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        await sending.drain()
        entries = await asyncio.gather(*tasks[1:])
        assert [(entry.key, entry.state) for entry in entries] == [(str(n % 40), State.SENT) for n in range(1, 80)]
        assert sum(task.get_name() == "twdm_async outcomes" for task in asyncio.all_tasks()) <= 1
        await waiting.put("5", "withdrawn", key="withdrawn")
        gone, closed = asyncio.create_task(waiting.outcome("withdrawn")), asyncio.create_task(waiting.outcome("later"))
        with pytest.raises(InvalidInput, match="no message of this key"):
            await closed
        await waiting.put("5", "later", key="later")
        closed = asyncio.create_task(waiting.outcome("later"))
        await asyncio.sleep(0.1)
        await waiting.withdraw("withdrawn")
        with pytest.raises(InvalidInput, match="no message of this key"):
            await gone
        await waiting.close()
        with pytest.raises(OutboxFailed, match="closed"):
            await closed


async def test_the_same_key_is_the_same_message(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        for _ in range(2):
            await outbox.put("5", TEXT, key="a")
        await outbox.drain()
        assert (await outbox.put("5", TEXT, key="a")).state is State.SENT
        for other in (("5", "other"), ("6", TEXT)):
            with pytest.raises(InvalidInput, match="used for another message"):
                await outbox.put(*other, key="a")
        await outbox.drain()
        assert len(sandbox.messages) == 1
        first, second = await outbox.put("5", TEXT), await outbox.put("5", TEXT)
        assert first.key != second.key
        await outbox.drain()
        assert len(sandbox.messages) == 3


async def test_fault_55_the_same_key_twice_at_once(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox, box(sandbox, place) as elsewhere, outbox.running():
        entries = await asyncio.gather(*(one.put("5", TEXT, key="a") for one in (outbox, elsewhere, outbox, outbox)))
        assert {entry.key for entry in entries} == {"a"}
        outcomes = await asyncio.gather(outbox.outcome("a"), elsewhere.outcome("a"))
        assert {outcome.message_id for outcome in outcomes} == {message.id for message in sandbox.messages}
        assert len(sandbox.messages) == 1
        results = await asyncio.gather(
            outbox.put("5", "one", key="b"), elsewhere.put("5", "another", key="b"), return_exceptions=True
        )
        assert {type(result) for result in results} == {Entry, InvalidInput}


async def test_the_same_message_has_the_same_digest_in_every_version(sandbox: Sandbox, path: Path) -> None:
    """Else a key that an earlier version of this library has stored would be taken for that of another message."""
    text = 'Grüße \U0001f600 "x" / \\ \u2028\t'
    replies, buttons = [QuickReply("Yes", metadata="y")], [CallToAction("Shop", "https://example.com/ü?a=1")]
    async with box(sandbox, path) as outbox:
        await outbox.put(5, text, key="plain")
        await outbox.put("5", text, custom_profile_id="7", quick_replies=replies, ctas=buttons, key="all")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert dict(db.execute("SELECT key, digest FROM message")) == {
            "plain": "b6880ab7354f488044f370f806a454f000e1087c77a5e256b1d8620784e12f62",
            "all": "6072ace9c4e4b4b01577a0920bf4b974afb24f80f66452b675b0c602f4e02e01",
        }


@pytest.mark.soak
@pytest.mark.parametrize(
    "arguments",
    [{"recipient_id": "x"}, {"text": ""}, {"text": None}, {"key": ""}, {"key": "k" * 501}, {"key": 5},
     {"not_after": datetime(2027, 1, 1)}, {"not_after": 5}, {"priority": "urgent"}, {"text": "x" * 10_001},  # noqa: DTZ001
     {"custom_profile_id": "-1"}, {"quick_replies": []}],
)  # fmt: skip
async def test_bad_input_is_not_kept(arguments: dict[str, Any], sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        with pytest.raises(InvalidInput):
            await outbox.put(**({"recipient_id": "5", "text": TEXT} | arguments))
        assert sum((await outbox.counts()).values()) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"path": ""},
        {"path": 5},
        {"path": ":memory:"},
        {"settle_after": -1.0},
        {"settle_after": "x"},
        {"settle_after": 149.0},
    ],
)
async def test_an_outbox_that_cannot_be(options: dict[str, Any], client: Client, path: Path) -> None:
    with pytest.raises(InvalidInput):
        Outbox(client, **({"path": path} | options))
    outbox = Outbox(client, path)
    with pytest.raises(InvalidInput, match="workers"):
        await outbox.drain(workers=0)
    with pytest.raises(InvalidInput, match="older_than"):
        await outbox.purge(older_than=-1)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_thousands_are_put_and_come_back_in_order(sandbox: Sandbox, place: Place, count: int) -> None:
    """Fault 51, for the outbox: all that is put in one moment is one transaction."""
    async with box(sandbox, place) as outbox:
        transact, calls, asked = outbox._storage.transact, 0, threading.Event()

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return transact(*args, **kwargs)

        outbox._storage.transact = counted  # type: ignore[method-assign]
        outbox._storage.put(asked.wait)
        asyncio.get_running_loop().call_later(0.0, asyncio.get_running_loop().call_soon, asked.set)
        await asyncio.gather(*(outbox.put(number % 9, TEXT, key=str(number)) for number in range(count)))
        assert calls == 1
        assert [entry.key for entry in await outbox.select(State.QUEUED)] == list(map(str, range(count)))


# ---- sending ----


async def test_what_is_put_while_it_runs_is_sent(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox, outbox.running(workers=2):
        events = outbox.events()
        told = asyncio.ensure_future(anext(events))
        for number in range(20):
            await outbox.put("5", f"{TEXT} {number}", key=str(number))
        for number in range(20):
            assert (await outbox.outcome(str(number))).state is State.SENT
        assert (await told).state is State.SENT
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert len(sandbox.messages) == 20


async def test_events_tell_every_outcome_and_can_be_taken_up_again(sandbox: Sandbox, place: Place) -> None:
    sandbox.unreachable.add("6")
    async with box(sandbox, place) as outbox:
        for number in range(5):
            await outbox.put("5", TEXT, key=f"a{number}")
        await outbox.put("6", TEXT, key="b")
        await outbox.drain()
        seen: list[Entry] = []
        async for entry in outbox.events(after=0):
            seen.append(entry)
            if len(seen) == 6:
                break
        assert Counter(entry.state for entry in seen) == {State.SENT: 5, State.REJECTED: 1}
        assert [entry.number for entry in seen] == sorted(entry.number for entry in seen)
        async for entry in outbox.events(after=seen[3].number):
            assert entry == seen[4]
            break
        rejected = await outbox.get("b")
        assert rejected is not None
        assert "code 349" in (rejected.error or "")
        sandbox.unreachable.clear()
        assert await outbox.retry("b", "a0", "no such key") == 1
        await outbox.drain()
        assert len(sandbox.messages) == 6


async def test_interactive_messages_go_before_bulk_ones(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        for number in range(4):
            await outbox.put("1", f"bulk {number}", priority=Priority.BULK)
        await outbox.put("1", "interactive")
        await outbox.drain(workers=1)
    order = [message.text for message in sandbox.messages]
    assert order.index("interactive") <= 1, "at most one bulk message was on its way already"
    assert [text for text in order if text != "interactive"] == [f"bulk {number}" for number in range(4)]


async def test_lanes_take_turns_in_the_file(path: Path) -> None:
    file = StateFile(path, SCHEMA, Clock())
    order: list[str] = []

    def work(transaction: Transaction) -> None:
        rows = Rows(transaction, "account")
        for number, profile in enumerate(["1", "1", "1", "2", "2", None]):
            rows.put(NewMessage(f"{profile} {number}", "", "5", profile, "", "", "{}", Priority.BULK, None))
        lane = ""
        while taken := rows.take_up("me", Priority.BULK, lane, most=2):
            order.extend(one.key for one in taken)
            lane = taken[-1].lane

    file.transact(work)
    file.disconnect()
    assert order == ["1 0", "2 3", "None 5", "1 1", "2 4", "1 2"]


async def test_whom_to_avoid_comes_last_however_the_lanes_are_filled(path: Path) -> None:
    """One lane has less than its share of those who may be taken up: the others make up for it."""
    file = StateFile(path, SCHEMA, Clock())

    def work(transaction: Transaction) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
        rows = Rows(transaction, "account")
        people = [("a", "good")] + [("a", "suspect")] * 10 + [("b", "good")] * 20
        for number, (lane, person) in enumerate(people):
            rows.put(NewMessage(f"{lane} {number}", "", person, lane, "", "", "{}", Priority.BULK, None))
        first = rows.take_up("me", Priority.BULK, "", 16, avoided=("suspect",))
        second = rows.take_up("me", Priority.BULK, "", 16, avoided=("suspect",))
        return [(one.recipient_id, one.had_others) for one in first], [
            (one.recipient_id, one.had_others) for one in second
        ]

    first, second = file.transact(work)
    file.disconnect()
    assert first == [("good", True)] * 16
    assert second == [("good", True)] * 5 + [("suspect", False)] * 10


@pytest.mark.soak
async def test_what_is_tried_later_leaves_when_it_is_due_beside_others(place: Place) -> None:
    """Nobody looks every five seconds whether it is: those of the other priority keep the outbox busy."""
    async with Sandbox(quotas=table(), latency=(0.03, 0.03)) as sandbox, box(sandbox, place) as outbox:
        await asyncio.gather(*(outbox.put("5", f"bulk {number}", priority=Priority.BULK) for number in range(40)))
        await outbox.put("6", TEXT, key="later")

        def postpone(rows: Rows) -> None:
            query = "UPDATE message SET not_before = ? WHERE key = 'later'"
            rows.transaction.execute(query, (rows.transaction.wall + 0.3,))

        await outbox._do(postpone)
        await outbox.drain(workers=1)
    order = [message.recipient_id for message in sandbox.messages]
    assert order.index("6") < 30, "it comes last where nobody looks before the others are done"


async def test_what_a_dead_process_had_taken_up_is_sent_soon(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT, key="a")
        await outbox._do(lambda rows: rows.take_up("somebody", Priority.INTERACTIVE, ""))
        more = outbox._messages.more
        await outbox._sending._reclaim()
        assert more.is_set(), "whoever found nothing to send looks again"


async def test_closed_within_the_block_that_it_runs_in(sandbox: Sandbox, place: Place) -> None:
    is_reached = False
    async with box(sandbox, place) as outbox, outbox.running():
        await outbox.put("5", TEXT, key="a")
        await outbox.outcome("a")
        await outbox.close()
        await asyncio.sleep(0.1)
        is_reached = True
    assert is_reached


async def test_a_message_that_is_retried_has_no_outcome_yet(sandbox: Sandbox, place: Place) -> None:
    sandbox.unreachable.add("5")
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT, key="a")
        await outbox.put("6", TEXT, key="b")
        await outbox.drain()
        await outbox.retry("a")
        told = anext(outbox.events(after=0))
        assert (await told).key == "b"


async def test_messages_that_expire_together_are_told_one_by_one(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        for _ in range(3):
            await outbox.put("5", TEXT, not_after=datetime.now(UTC) - timedelta(seconds=1))
        await outbox.drain()
        numbers: list[int] = []
        async for entry in outbox.events(after=0):
            numbers.append(entry.number)
            if len(numbers) == 3:
                break
        assert numbers == [1, 2, 3]
        for bad in (-1, "x", True):
            with pytest.raises(InvalidInput, match="after"):
                await anext(outbox.events(after=bad))  # type: ignore[arg-type]  # that is what is tested


async def test_messages_whose_time_is_over_are_not_sent(sandbox: Sandbox, place: Place) -> None:
    quotas = table().replace("direct_messages.send", Quota(1, per=3600.0))
    async with box(sandbox, place, quotas=quotas) as outbox:
        now = datetime.now(UTC)
        await outbox.put("5", TEXT, key="late", not_after=now - timedelta(seconds=1))
        await outbox.put("5", TEXT, key="in time", not_after=now + timedelta(seconds=60))
        assert (await outbox.drain())[State.EXPIRED] == 1
        await outbox.put("5", TEXT, key="quota", not_after=now + timedelta(seconds=60))
        assert (await outbox.drain())[State.EXPIRED] == 2
        entry = await outbox.get("quota")
        assert entry is not None
        assert "quota" in (entry.error or "")
        assert len(sandbox.messages) == 1
        assert await outbox.retry("late") == 1, "who retries it wants it sent, whatever the hour"
        assert (await outbox.get("late")).not_after is None  # type: ignore[union-attr]  # it is there


@pytest.mark.soak
async def test_keys_that_are_refused_end_it_and_everything_stays(sandbox: Sandbox, place: Place) -> None:
    sandbox.faults.append(Fault("401_token", endpoint="direct_messages.send"))
    async with box(sandbox, place) as outbox:
        for number in range(50):
            await outbox.put("5", f"{TEXT} {number}")
        with pytest.raises(Unauthorized):
            await outbox.drain(workers=4)
        await outbox.idle()
        assert (await outbox.counts())[State.QUEUED] == 50
        assert len(sandbox.requests) <= 4
        with pytest.raises(Unauthorized):
            async with outbox.running():
                await asyncio.sleep(30)  # it is not left to wait in vain
        sandbox.faults.clear()
        assert (await outbox.drain())[State.SENT] == 50
    assert len(sandbox.messages) == 50


async def test_a_network_that_is_away_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)
    monkeypatch.setattr("twdm_async.outbox.sending._LONGEST_PAUSE", 0.1)
    held = socket.create_server(("127.0.0.1", 0), reuse_port=False)
    port = held.getsockname()[1]
    held.close()
    held = socket.socket()  # nobody listens there, and nobody else may
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    sandbox = Sandbox(port=port)
    async with box(sandbox, place) as outbox, outbox.running():
        await outbox.put("5", TEXT, key="a")
        await asyncio.sleep(0.3)
        counts = await outbox.counts()
        assert counts[State.QUEUED] + counts[State.SENDING] == 1, "it may just be trying"
        held.close()
        async with Sandbox(port=port) as again:
            assert (await outbox.outcome("a")).state is State.SENT
            assert len(again.messages) == 1


async def test_no_tls_where_it_is_spoken_ends_it(place: Place, sandbox: Sandbox) -> None:
    url = sandbox.url.replace("http:", "https:")
    async with Client(sandbox.credentials, api_url=url, upload_url=url) as client, Outbox(client, place) as outbox:
        await outbox.put("5", TEXT)
        with pytest.raises(ConnectFailed):
            await outbox.drain()
        assert (await outbox.counts())[State.QUEUED] == 1


@pytest.mark.soak
async def test_fault_46_a_drain_that_is_given_up_leaves_what_is_under_way_to_end(place: Place) -> None:
    async with Sandbox(latency=(0.2, 0.2)) as sandbox, box(sandbox, place) as outbox:
        for number in range(40):
            await outbox.put("5", f"{TEXT} {number}", key=str(number))
        draining = asyncio.create_task(outbox.drain(workers=4))
        while (await outbox.counts())[State.SENDING] == 0:
            await asyncio.sleep(0.01)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        await outbox.idle()
        counts = await outbox.counts()
        assert counts[State.SENT] == len(sandbox.messages)
        assert counts[State.SENT] + counts[State.QUEUED] == 40
        await outbox.drain()
        assert times_each_arrived(sandbox).most_common(1)[0][1] == 1
        assert len(sandbox.messages) == 40


async def test_fault_47_a_client_closed_under_an_outbox(place: Place) -> None:
    async with Sandbox(latency=(0.1, 0.1)) as sandbox:
        client = Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table())
        outbox = Outbox(client, place)
        for number in range(20):
            await outbox.put("5", f"{TEXT} {number}")
        draining = asyncio.create_task(outbox.drain(workers=4))
        while not sandbox.messages:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(ClientClosed):
            await draining
        counts = await outbox.counts()
        assert counts[State.SENT] == len(sandbox.messages)
        assert counts[State.QUEUED] == 20 - len(sandbox.messages)
        await outbox.close()
        await outbox.close()
        with pytest.raises(OutboxFailed, match="closed"):
            await outbox.put("5", TEXT)


# ---- one file with the quota ----


async def test_the_slot_and_the_state_are_written_together_where_both_live_in_one_file(path: Path) -> None:
    taken: list[bool] = []

    class Watched(SQLiteQuotaStore):
        def _transact(self, batch: Batch) -> Any:
            done = super()._transact(batch)
            for answer in batch.answers:
                if isinstance(answer, Granted):
                    with contextlib.closing(sqlite3.connect(path)) as db:  # before anybody hears of it
                        sending = {slot for (slot,) in db.execute("SELECT slot FROM message WHERE state = 'sending'")}
                    intent = answer.slot.intent
                    taken.append(isinstance(intent, SlotIntent) and intent._slot in sending)
            return done

    async with Sandbox() as sandbox, Watched(path) as store, box(sandbox, path, quota_store=store) as outbox:
        for number in range(10):
            await outbox.put("5", f"{TEXT} {number}")
        await outbox.drain()
        assert len(sandbox.messages) == 10
    assert taken == [True] * 10


@pytest.mark.soak
@pytest.mark.parametrize("pace", [None, Pace(burst=4, per=0.3)])
async def test_those_who_wait_are_written_down_together_with_their_slot_too(path: Path, pace: Pace | None) -> None:
    quotas = table().replace("direct_messages.send", Quota(1000 if pace else 3, per=1.0), pace=pace)
    async with (
        Sandbox(quotas=quotas) as sandbox,
        SQLiteQuotaStore(path) as store,
        box(sandbox, path, quota_store=store, quotas=quotas) as outbox,
    ):
        ask = store.ask
        granted: list[bool] = []

        def watched(take: Take) -> Any:
            answer = ask(take)
            if take.count:
                assert take.intent is not None
                answer.add_done_callback(lambda done: granted.append(isinstance(done.result(), Granted)))
            return answer

        store.ask = watched  # type: ignore[method-assign]
        for number in range(10):
            await outbox.put("5", f"{TEXT} {number}")
        await outbox.drain()
        assert len(sandbox.messages) == 10
        assert not sandbox.breaches
        assert sum(granted) == 10


async def test_a_slot_given_back_takes_the_state_back_with_it(path: Path) -> None:
    async with (
        Sandbox() as sandbox,
        SQLiteQuotaStore(path) as store,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as client,
        Outbox(client, path) as outbox,
    ):
        client._caller.places.free = 0  # nobody is there to send it
        await outbox.put("5", TEXT, key="a")
        draining = asyncio.create_task(outbox.drain())
        while (await outbox.counts())[State.SENDING] == 0 or used(client) == 0:  # the file is first to know
            await asyncio.sleep(0.01)
        assert used(client) == 1
        draining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining
        await store.flush()
        assert (await outbox.get("a")).state is State.QUEUED  # type: ignore[union-attr]  # it is there
        assert used(client) == 0
        client._caller.places.free = 10
        assert (await outbox.drain())[State.SENT] == 1


# ---- refusals, and what stops it ----


async def test_a_proxy_or_a_login_page_in_between_rejects_nothing(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twdm_async.outbox.sending._LONGEST_PAUSE", 0.1)
    sandbox.faults += [Fault("proxy_407", nth=1), Fault("redirect_elsewhere", nth=2)]
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT)
        assert (await outbox.drain())[State.SENT] == 1
        assert [request.fault for request in sandbox.requests] == ["proxy_407", "redirect_elsewhere", None]


async def test_an_account_that_may_not_send_ends_it(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT, custom_profile_id="1")
        sandbox._gate.accounts[sandbox.credentials.access_token].allowlisted = False
        with pytest.raises(NotAllowlisted):
            await outbox.drain()
        assert (await outbox.counts())[State.QUEUED] == 1


async def test_a_disk_that_is_full_in_the_last_moment_of_settling(
    sandbox: Sandbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found and could not be written down is found again."""
    sandbox.faults.append(Fault("reset", endpoint="direct_messages.send", nth=1))
    transact, is_full = StateFile.transact, True

    def full_at_commit(self: StateFile, work: Any, **options: Any) -> Any:
        def failing(db: Transaction) -> Any:
            result = work(db)
            is_settled = db.execute("SELECT 1 FROM message WHERE id = 1 AND state = 'sent'").fetchone()
            if is_full and is_settled and not options.get("only_reads"):
                raise sqlite3.OperationalError("database or disk is full")
            return result

        return transact(self, failing, **options)

    monkeypatch.setattr(StateFile, "transact", full_at_commit)
    async with box(sandbox, path) as outbox:
        await outbox.put("5", TEXT)
        with pytest.raises(OutboxFailed, match="full"):
            await outbox.drain()
        is_full = False
        assert (await outbox.drain())[State.SENT] == len(sandbox.messages) == 1


@pytest.mark.soak
async def test_two_that_drain_one_outbox_settle_once(sandbox: Sandbox, place: Place) -> None:
    sandbox.faults += [
        Fault("reset", endpoint="direct_messages.send", nth=1, processed=False),
        Fault("reset", endpoint="direct_messages.send", nth=2),
    ]
    async with box(sandbox, place, **QUICK) as outbox, outbox.running():
        await outbox.put("5", TEXT)
        await asyncio.gather(outbox.drain(), outbox.drain())
        assert len(sandbox.messages) == 1


@pytest.mark.soak
async def test_what_a_cancelled_drain_had_taken_up_can_be_taken_up_by_others(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox, box(sandbox, place) as another:
        for number in range(60):
            await outbox.put("5", f"{TEXT} {number}")
        for turns in range(20):
            draining = asyncio.create_task(outbox.drain(workers=3))
            await asyncio.sleep(turns / 1000)
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        assert (await another.drain())[State.SENT] == 60
        assert times_each_arrived(sandbox).most_common(1)[0][1] == 1


@pytest.mark.soak
async def test_closing_ends_the_drain_and_doubles_nothing(path: Path) -> None:
    async with Sandbox(quotas=table(), latency=(0.0, 0.02)) as sandbox:
        await fill(sandbox, path, 200)
        for number in range(8):
            async with opened(sandbox, path, timeout=10.0) as outbox:
                draining = asyncio.create_task(outbox.drain(workers=32))
                await asyncio.sleep(0.02 + number / 200)
                await outbox.close()
                await asyncio.gather(draining, return_exceptions=True)
        async with opened(sandbox, path, timeout=10.0) as outbox:
            assert (await outbox.drain())[State.SENT] == 200
        assert all_arrived_once(sandbox, 200)


def test_an_outbox_is_closed_when_all_tasks_are_cancelled(path: Path) -> None:
    async def main(url: str) -> None:
        async def service() -> None:
            async with (
                Client(KEYS, api_url=url, upload_url=url) as client,
                Outbox(client, path) as outbox,
                outbox.running(),
            ):
                await outbox.put("5", TEXT)
                await asyncio.sleep(30)

        task = asyncio.create_task(service())
        while not path.exists() or states(path) != {"sending": 1}:
            await asyncio.sleep(0.01)
        connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        with connection:
            await asyncio.get_running_loop().sock_recv(connection, 1)
        assert not task.done()

    with socket.socket() as silent:  # it takes what comes, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        asyncio.run(main(f"http://127.0.0.1:{silent.getsockname()[1]}"))  # it ends, that is the test
    assert states(path) == {"unknown": 1}, "who comes next looks for it"


async def test_a_mistake_of_ours_leaves_no_message_open(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT, key="a")
        monkeypatch.setattr("twdm_async.transport.wire.read", mistaken)
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            await outbox.drain()
        monkeypatch.undo()
        assert (await outbox.get("a")).state is State.UNKNOWN  # type: ignore[union-attr]  # it is there
        assert (await outbox.drain())[State.SENT] == len(sandbox.messages) == 1


def test_fault_52_how_long_ago_does_not_depend_on_what_the_clock_is_set_to() -> None:
    assert passed(1000.0, 50.0, wall=1010.0, uptime=60.0) == 10.0
    assert passed(1000.0, 50.0, wall=4610.0, uptime=60.0) == 10.0, "set forward: not sent again early"
    assert passed(1000.0, 50.0, wall=-2590.0, uptime=60.0) == 10.0, "set back: nor late"
    assert passed(1000.0, 50.0, wall=1030.0, uptime=5.0) == 30.0, "the machine was started anew"


# ---- files ----


def no_file(path: Path) -> None:
    path.write_bytes(b"this is no database, but long enough to be looked at" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE message (id)")


@pytest.mark.parametrize(
    ("harm", "words"),
    [(no_file, "no file of this library"), (empty, "it is empty"), (newer, "newer version"), (foreign, "no file of")],
)
async def test_fault_50_a_file_that_is_not_to_be_trusted(
    harm: Callable[[Path], None], words: str, sandbox: Sandbox, path: Path
) -> None:
    async with box(sandbox, path) as outbox:
        await outbox.put("5", TEXT)
    harm(path)
    before = path.read_bytes()
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        outbox = Outbox(client, path)
        for use in (outbox.put("5", TEXT), outbox.drain(), outbox.counts()):
            with pytest.raises(OutboxFailed, match=words):
                await use
    assert path.read_bytes() == before
    assert not sandbox.messages


async def test_fault_50_a_folder_that_is_not_there(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(OutboxFailed, match="folder"):
        async with box(sandbox, tmp_path / "nowhere" / "outbox.db"):
            pass


async def test_fault_50_a_disk_that_is_full(sandbox: Sandbox, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written down is not sent; what was sent and could not be written down is not sent again."""
    transact, is_full = StateFile.transact, False

    def full(self: StateFile, work: Any, **options: Any) -> Any:
        if is_full and options.get("is_durable"):
            raise StorageTrouble("the disk is full; make room")
        return transact(self, work, **options)

    monkeypatch.setattr(StateFile, "transact", full)
    async with box(sandbox, path) as outbox:
        await outbox.put("5", TEXT, key="a")
        is_full = True
        with pytest.raises(OutboxFailed, match="full"):
            await outbox.put("5", TEXT, key="b")
        with pytest.raises(OutboxFailed, match="full"):
            await outbox.drain()
        assert not sandbox.messages
        assert await outbox.get("b") is None
        is_full = False
        sandbox.faults.clear()

        async def fill_up_once_it_has_arrived() -> None:
            nonlocal is_full
            while not sandbox.messages:
                await asyncio.sleep(0)
            is_full = True

        filling = asyncio.create_task(fill_up_once_it_has_arrived())
        with pytest.raises(OutboxFailed, match="full"):
            await outbox.drain()
        await filling
        assert states(path) == {"sending": 1}, "so that it is known, if the process ends now, that it may have arrived"
        is_full = False
        counts = await outbox.drain()
        assert (counts[State.SENT], len(sandbox.messages)) == (1, 1)


def test_what_must_be_durable_is_forced_to_the_disk(path: Path) -> None:
    """No test can cut the power; so this one asks SQLite whether it waits for the disk."""
    file = StateFile(path, SCHEMA, Clock())
    for is_durable, waits in ((True, 2), (False, 1), (True, 2)):
        (synchronous,) = file.transact(lambda db: db.execute("PRAGMA synchronous").fetchone(), is_durable=is_durable)
        assert synchronous == waits
    (mode,) = file.transact(lambda db: db.execute("PRAGMA journal_mode").fetchone())
    assert mode == "wal"
    file.disconnect()


async def test_a_quota_store_that_fails_sends_nothing_and_loses_nothing(sandbox: Sandbox, path: Path) -> None:
    store = SQLiteQuotaStore(path.with_name("quota.db"))
    async with box(sandbox, path, quota_store=store) as outbox:
        await outbox.put("5", TEXT)
        path.with_name("quota.db").unlink()
        with pytest.raises(QuotaStoreFailed):
            await outbox.drain()
        assert (await outbox.counts())[State.QUEUED] == 1
        assert not sandbox.messages


async def test_who_works_on_what_is_told(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        assert await outbox.processes() == []
        before = datetime.now(UTC)
        async with box(sandbox, place) as other:
            await other.put("5", TEXT)
            await other._do(lambda rows: rows.take_up(other._storage.owner, Priority.INTERACTIVE, ""))
            (process,) = await outbox.processes()
        assert (process.host, process.pid, process.is_alive) == (socket.gethostname(), os.getpid(), True)
        assert abs(process.since - before) < timedelta(seconds=60)
        assert process.messages == 1
        assert await outbox.processes() == []


async def test_purge_forgets_what_is_done_and_keeps_what_is_needed(
    sandbox: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box(sandbox, place) as outbox:
        for number in range(5):
            await outbox.put("5", f"{TEXT} {number}", key=str(number))
        await outbox.drain()
        await outbox.put("5", TEXT, key="waits")
        assert await outbox.purge(older_than=timedelta(days=1)) == 0
        assert await outbox.purge(older_than=0) == 0, "what was just sent is needed to tell others from it"
        last = (await outbox.get("4")).number  # type: ignore[union-attr]  # it is there
        monkeypatch.setattr("twdm_async.outbox.rows._KEPT", 0.0)
        monkeypatch.setattr("twdm_async.outbox.rows._BATCH", 2)
        assert await outbox.purge(older_than=0) == 5, "in batches"
        assert (await outbox.counts())[State.QUEUED] == 1
        assert await outbox.withdraw("waits", "4") == 1
        assert await outbox.get("waits") is None
        await outbox.put("5", f"{TEXT} 0", key="0")
        await outbox.drain()
        assert len(sandbox.messages) == 6, "a key that was forgotten can be used again"
        assert (await outbox.get("0")).number > last  # type: ignore[union-attr]  # it is there


async def test_accounts_in_one_file_do_not_see_each_other(sandbox: Sandbox, place: Place) -> None:
    other = sandbox.add_account()
    async with (
        box(sandbox, place) as outbox,
        Client(other, api_url=sandbox.url, upload_url=sandbox.url) as client,
        Outbox(client, place) as others,
    ):
        await outbox.put("5", TEXT, key="a")
        await others.put("6", "another", key="a")
        await others.drain()
        assert [message.recipient_id for message in sandbox.messages] == ["6"]
        assert (await outbox.counts())[State.QUEUED] == 1


# ---- processes ----


@pytest.mark.soak
async def test_fault_53_a_process_that_is_stopped_and_goes_on(fork_server: ForkServer, path: Path) -> None:
    async with Sandbox(quotas=table(), latency=(0.0, 0.05), seed=1) as sandbox:
        await fill(sandbox, path, 150)
        process = await drainer(fork_server, sandbox, path)
        while len(sandbox.messages) < 20:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # for longer than an attempt may take
        await asyncio.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(process.wait(), HANGS) == 0
        assert all_arrived_once(sandbox, 150)
        assert states(path) == {"sent": 150}


def test_fault_49_locks_do_not_outlive_their_process_in_a_child(path: Path) -> None:
    """A child that was forked off keeps no lock: who died is known to be dead."""
    script = (
        "import os, sys, time; from pathlib import Path; from twdm_async.storage.owners import Owner\n"
        'owner = Owner(Path(sys.argv[1]), "outbox"); owner.acquire(); print(owner.name, flush=True)\n'
        "if os.fork() == 0:\n    time.sleep(30)\n"
        "time.sleep(30)"
    )
    with subprocess.Popen(  # noqa: S603 - this Python
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True,
        cwd=Path(__file__).parents[1],
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            time.sleep(0.3)
            me = Owner(path, "outbox")
            assert not me.is_dead(name)
            process.kill()
            process.wait(10)
            assert me.is_dead(name)
            assert me.is_dead(name), "also when its file is gone"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


async def test_memory_stores_work_too(sandbox: Sandbox, place: Place) -> None:
    async with MemoryQuotaStore() as store, box(sandbox, place, quota_store=store) as outbox:
        await outbox.put("5", TEXT)
        assert (await outbox.drain())[State.SENT] == 1


async def test_the_file_of_an_older_version_is_brought_up_to_date(sandbox: Sandbox, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.executescript("CREATE TABLE clock (now, uptime, wall); INSERT INTO clock VALUES (0, 0, 0)")
        db.execute("CREATE TABLE bucket (id, name, held_until, longest)")
        db.execute("PRAGMA user_version = 1")
    async with opened(sandbox, path) as outbox:
        await outbox.put("5", TEXT)
        assert (await outbox.drain())[State.SENT] == 1
