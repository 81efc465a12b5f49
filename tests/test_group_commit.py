"""What is changed in an outbox' file at the same time shares a transaction, and each change has an outcome of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import HANGS
from tests.test_outbox import box
from twdm_async import InternalError, OutboxFailed
from twdm_async._clock import Clock
from twdm_async.outbox import State
from twdm_async.outbox.messages import Messages
from twdm_async.outbox.rows import SCHEMA, NewMessage, Rows
from twdm_async.quota.spec import Priority
from twdm_async.storage.sqlite import StateFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from twdm_async.sandbox import Sandbox
    from twdm_async.storage.contract import Transaction


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Messages]:
    storage = Messages(StateFile(tmp_path / "outbox.db", SCHEMA, Clock()), "account", Clock())
    await storage.do(lambda _: None)  # the file is there
    yield storage
    await storage.close()


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each transaction that changes something."""
    seen: list[dict[str, Any]] = []
    transact = StateFile.transact

    def watching(self: StateFile, work: Any, **options: Any) -> Any:
        if not options.get("only_reads"):
            seen.append(options)
        return transact(self, work, **options)

    monkeypatch.setattr(StateFile, "transact", watching)
    return seen


def new(key: str) -> NewMessage:
    return NewMessage(key, "", "5", None, "", "", "{}", Priority.INTERACTIVE, None)


async def test_what_comes_together_is_one_transaction(storage: Messages, transactions: list[dict[str, Any]]) -> None:
    async def put(number: int) -> None:
        await storage.do(lambda rows: rows.put(new(str(number))), is_durable=number == 50)

    await asyncio.gather(*(put(number) for number in range(100)))
    assert (await storage.do(lambda rows: rows.counts(), only_reads=True))[State.QUEUED] == 100
    assert len(transactions) <= 20, "some may have begun while others were still to come"
    assert any(options["is_durable"] for options in transactions), "one of them had to be on the disk"


@pytest.mark.parametrize("is_durable", [False, True])
async def test_what_comes_while_another_process_has_the_file_joins_the_transaction(
    storage: Messages, transactions: list[dict[str, Any]], tmp_path: Path, *, is_durable: bool
) -> None:
    """Only a change that must be on the disk does not join one that need not."""
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(storage.do(lambda rows: rows.put(new("first"))))
        while not transactions:
            await asyncio.sleep(0.001)
        later = [
            asyncio.create_task(storage.do(lambda rows: rows.put(new("second")))),
            asyncio.create_task(storage.do(lambda rows: rows.put(new("third")), is_durable=is_durable)),
        ]
        await asyncio.sleep(0)  # they are requested
        other.execute("COMMIT")
        await asyncio.gather(first, *later)
    assert [options["is_durable"] for options in transactions] == ([False, True] if is_durable else [False])
    kept = await storage.do(lambda rows: rows.select([State.QUEUED]), only_reads=True)
    assert [entry.key for entry in kept] == ["first", "second", "third"]


async def test_a_thread_that_cannot_start_keeps_no_later_change_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    storage = Messages(StateFile(tmp_path / "outbox.db", SCHEMA, Clock()), "account", Clock())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        with pytest.raises(InternalError):
            await storage.do(lambda rows: rows.put(new("first")))
    await storage.do(lambda rows: rows.put(new("second")))
    kept = await storage.do(lambda rows: rows.select([State.QUEUED]), only_reads=True)
    assert [entry.key for entry in kept] == ["second"]
    await storage.close()


async def test_fault_78_a_change_that_fails_takes_no_other_along(storage: Messages) -> None:
    def mistaken(rows: Rows) -> None:
        rows.put(new("mistaken"))
        raise ValueError

    results = await asyncio.gather(
        storage.do(lambda rows: rows.put(new("before"))),
        storage.do(mistaken),
        storage.do(lambda rows: rows.put(new("after"))),
        return_exceptions=True,
    )
    assert isinstance(results[1], InternalError)
    kept = await storage.do(lambda rows: rows.select([State.QUEUED]), only_reads=True)
    assert [entry.key for entry in kept] == ["before", "after"]


async def test_a_full_disk_refuses_those_for_whom_there_is_no_room(
    storage: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that all share fails when it is committed. Each is tried once more, and only the large one hears
    of it.
    """
    transact = StateFile.transact

    def full_at_commit(self: StateFile, work: Any, **options: Any) -> Any:
        def failing(db: Transaction) -> Any:
            result = work(db)
            if db.execute("SELECT 1 FROM message WHERE key = 'large'").fetchone():
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return result

        return transact(self, failing, **options)

    monkeypatch.setattr(StateFile, "transact", full_at_commit)
    results = await asyncio.gather(
        *(storage.do(lambda rows, key=key: rows.put(new(key))) for key in ("a", "large", "b")),  # type: ignore[misc]
        return_exceptions=True,
    )
    assert isinstance(results[1], OutboxFailed)
    assert "full" in results[1].problem
    kept = await storage.do(lambda rows: rows.select([State.QUEUED]), only_reads=True)
    assert [entry.key for entry in kept] == ["a", "b"]


@pytest.mark.soak
async def test_the_cost_of_a_message_is_few_transactions(
    sandbox: Sandbox, tmp_path: Path, transactions: list[dict[str, Any]]
) -> None:
    """One durable one before it leaves, one when its outcome is known, and those that several share."""
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        await asyncio.gather(*(outbox.put("5", f"hello {number}") for number in range(200)))
        transactions.clear()
        assert (await outbox.drain())[State.SENT] == 200
    assert len(transactions) < 700, "and 800 if each change were a transaction, and one were written after the outcome"


async def test_a_transaction_that_fails_otherwise_fails_all_of_its_changes(
    storage: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is at its end in the moment of the commit: nobody is told that it was kept."""
    transact = StateFile.transact

    def out_of_memory(self: StateFile, work: Any, **options: Any) -> Any:
        def failing(db: Transaction) -> Any:
            work(db)
            raise MemoryError

        return transact(self, work if options.get("only_reads") else failing, **options)

    monkeypatch.setattr(StateFile, "transact", out_of_memory)
    results = await asyncio.gather(
        *(storage.do(lambda rows, key=key: rows.put(new(key)), is_durable=True) for key in "abc"),  # type: ignore[misc]
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [InternalError] * 3
    assert await storage.do(lambda rows: rows.select([State.QUEUED]), only_reads=True) == []


@pytest.mark.soak
@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_what_a_cancelled_drain_was_about_to_take_up_is_sent_by_another(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancels: int
) -> None:
    """Cancelled while the file's thread takes messages up, once or more often."""
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        await asyncio.gather(*(outbox.put(str(number % 20 + 1), f"hello {number}") for number in range(60)))
        first = asyncio.create_task(outbox.drain())
        take_up, loop = Rows.take_up, asyncio.get_running_loop()

        def watching(self: Rows, *arguments: Any, **options: Any) -> Any:
            for _ in range(cancels):
                loop.call_soon_threadsafe(first.cancel)
            return take_up(self, *arguments, **options)

        monkeypatch.setattr(Rows, "take_up", watching)
        second = asyncio.create_task(outbox.drain())
        await asyncio.gather(first, return_exceptions=True)
        monkeypatch.undo()
        async with asyncio.timeout(HANGS):
            assert (await second)[State.SENT] == len(sandbox.messages) == 60


async def test_what_was_taken_up_and_not_begun_is_sent_by_the_next_drain(sandbox: Sandbox, tmp_path: Path) -> None:
    """The drain is cancelled in the turn of the loop in which messages are taken up."""
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        await asyncio.gather(*(outbox.put(str(number + 1), f"hello {number}") for number in range(20)))
        draining = asyncio.create_task(outbox.drain())
        put_to_work = outbox._sending._put_to_work

        def and_cancel(*arguments: Any) -> None:
            put_to_work(*arguments)
            draining.cancel()

        outbox._sending._put_to_work = and_cancel  # type: ignore[assignment, method-assign]  # it only looks on
        await asyncio.gather(draining, return_exceptions=True)
        outbox._sending._put_to_work = put_to_work  # type: ignore[method-assign]  # as above
        await outbox.idle()
        async with asyncio.timeout(HANGS):
            assert (await outbox.drain())[State.SENT] == len(sandbox.messages) == 20
        assert outbox._sending._in_hand == {}
