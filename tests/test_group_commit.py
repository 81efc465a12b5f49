"""What is changed in an outbox' file at the same time shares a transaction, and each change has an outcome of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_outbox import box
from twdm_async import InternalError, OutboxFailed
from twdm_async._clock import Clock
from twdm_async.outbox import State
from twdm_async.outbox.rows import NewMessage, Rows
from twdm_async.outbox.storage import Storage
from twdm_async.quota.spec import Priority
from twdm_async.state_file import StateFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from twdm_async.sandbox import Sandbox


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = Storage(tmp_path / "outbox.db", "account", Clock())
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


async def test_what_comes_together_is_one_transaction(storage: Storage, transactions: list[dict[str, Any]]) -> None:
    async def put(number: int) -> None:
        await storage.do(lambda rows: rows.put(new(str(number))), is_durable=number == 50)

    await asyncio.gather(*(put(number) for number in range(100)))
    assert (await storage.do(lambda rows: rows.counts(), only_reads=True))[State.QUEUED] == 100
    assert 1 <= len(transactions) <= 3, "the first one may have begun alone"
    assert any(options["is_durable"] for options in transactions), "one of them had to be on the disk"


async def test_a_change_that_fails_takes_no_other_along(storage: Storage) -> None:
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
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that all share fails when it is committed. Each is tried once more, and only the large one hears
    of it.
    """
    transact = StateFile.transact

    def full_at_commit(self: StateFile, work: Any, **options: Any) -> Any:
        def failing(db: sqlite3.Connection) -> Any:
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


async def test_the_cost_of_a_message_is_few_transactions(
    sandbox: Sandbox, tmp_path: Path, transactions: list[dict[str, Any]]
) -> None:
    """One durable one before it leaves, one when its outcome is known, and those that several share."""
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        await asyncio.gather(*(outbox.put("5", f"hello {number}") for number in range(200)))
        transactions.clear()
        assert (await outbox.drain())[State.SENT] == 200
    assert len(transactions) < 300, "and 800 if each change were a transaction"
