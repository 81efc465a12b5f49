"""Messages that are held are sent when a person has approved them, and never otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.test_http import TEXT
from tests.test_inspector import Api
from tests.test_outbox import box
from twdm_async import InvalidInput, PostgresDatabase, QuickReply
from twdm_async.outbox import Review, State

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.sandbox import Sandbox
    from twdm_async.storage.places import Place


async def test_a_held_message_is_sent_once_it_is_approved(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        before = datetime.now(UTC)
        entry = await outbox.put("5", TEXT, key="a", hold=True)
        assert (entry.state, entry.review, entry.reviewed_by) == (State.HELD, Review.WANTED, None)
        assert (await outbox.drain())[State.HELD] == 1
        assert sandbox.messages == []
    async with box(sandbox, place) as outbox:  # another process
        entry = await outbox.approve("a", by="anna")
        assert (entry.state, entry.review, entry.reviewed_by) == (State.QUEUED, Review.APPROVED, "anna")
        assert entry.reviewed_at is not None
        assert before - timedelta(seconds=2) <= entry.reviewed_at <= datetime.now(UTC) + timedelta(seconds=2)
        assert (await outbox.approve("a", by="ben")).reviewed_by == "anna"
        await outbox.drain()
        entry = await outbox.approve("a", by="ben")
        assert (entry.state, entry.reviewed_by) == (State.SENT, "anna")
        with pytest.raises(InvalidInput, match="approved already by anna"):
            await outbox.reject("a", why="too late")
        await outbox.drain()
    assert [message.text for message in sandbox.messages] == [TEXT]


async def test_a_rejected_message_never_leaves(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT, key="a", hold=True)
        outcome = asyncio.create_task(outbox.outcome("a"))
        entry = await outbox.reject("a", why="not in our words", by="ben")
        assert (entry.state, entry.review, entry.error) == (State.REJECTED, Review.REJECTED, "not in our words")
        assert (entry.reviewed_by, (await outcome).key) == ("ben", "a")
        assert (await outbox.reject("a", why="again")).error == "not in our words"
        with pytest.raises(InvalidInput, match="rejected already by ben"):
            await outbox.approve("a", by="anna")
        assert await outbox.retry("a") == 0
        assert (await outbox.put("5", TEXT, key="a")).state is State.REJECTED
        await outbox.drain()
        events = outbox.events(after=0)
        assert (await anext(events)).state is State.REJECTED
        await events.aclose()  # type: ignore[attr-defined]
    assert sandbox.messages == []


async def test_the_first_hold_counts(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as outbox:
        await outbox.put("5", TEXT, key="held", hold=True)
        assert (await outbox.put("5", TEXT, key="held")).state is State.HELD
        await outbox.put("6", TEXT, key="free")
        assert (await outbox.put("6", TEXT, key="free", hold=True)).state is State.QUEUED
        for decide in (outbox.approve("free", by="anna"), outbox.reject("free", why="no")):
            with pytest.raises(InvalidInput, match="was not held; it is queued"):
                await decide
        await outbox.drain()
    assert [message.recipient_id for message in sandbox.messages] == ["6"]


async def test_what_is_held_is_shown_with_its_content(sandbox: Sandbox, place: Place) -> None:
    words = "a &amp; b <c> & d"
    async with box(sandbox, place) as outbox:
        await outbox.put("5", words, key="a", hold=True, quick_replies=[QuickReply("Yes")])
        await outbox.put("6", attachment="77", key="b", hold=True, custom_profile_id="9")
        await outbox.put("7", "said", key="c")
        first, second = await outbox.held()
        assert (first.entry.key, first.message.recipient_id, first.message.text) == ("a", "5", words)
        assert first.message.quick_replies == (QuickReply("Yes"),)
        assert (second.message.custom_profile_id, second.message.text) == ("9", None)
        assert words not in repr(first)


async def test_a_held_message_expires(sandbox: Sandbox, place: Place) -> None:
    passed = datetime.now(UTC) - timedelta(seconds=5)
    async with box(sandbox, place) as outbox:
        for key in ("approved late", "forgotten"):
            await outbox.put("5", TEXT, key=key, hold=True, not_after=passed)
        assert await outbox.held() == []
        assert (await outbox.approve("approved late", by="anna")).state is State.EXPIRED
        async with outbox.running():
            entry = await outbox.outcome("forgotten")
        assert (entry.state, entry.review) == (State.EXPIRED, Review.WANTED)
        assert await outbox.retry("approved late", "forgotten") == 2
        assert [one.entry.key for one in await outbox.held()] == ["approved late", "forgotten"]
        assert await outbox.withdraw("forgotten") == 1
        await outbox.drain()
        assert [one.entry.key for one in await outbox.held()] == ["approved late"]
    assert sandbox.messages == []


async def test_of_two_people_who_decide_at_once_one_is_heard(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as one, box(sandbox, place) as other:
        for number in range(10):
            await one.put("5", f"{TEXT} {number}", key=str(number), hold=True)
        deciding = [
            decide
            for number in map(str, range(10))
            for decide in (one.approve(number, by="anna"), other.reject(number, why="no", by="ben"))
        ]
        decided = await asyncio.gather(*deciding, return_exceptions=True)
        assert sum(isinstance(decision, InvalidInput) for decision in decided) == 10
        assert not [
            decision
            for decision in decided
            if isinstance(decision, Exception) and not isinstance(decision, InvalidInput)
        ]
        await one.drain()
        counts = await one.counts()
        assert counts[State.SENT] + counts[State.REJECTED] == 10
        assert len(sandbox.messages) == counts[State.SENT]


async def test_approving_wakes_a_process_that_sends(sandbox: Sandbox, place: Place) -> None:
    async with box(sandbox, place) as sending, box(sandbox, place) as deciding, sending.running():
        await sending.put("5", TEXT, key="a", hold=True)
        await deciding.approve("a", by="anna")
        assert (await deciding.outcome("a")).state is State.SENT


@pytest.mark.parametrize(
    ("decide", "problem"),
    [
        (lambda outbox: outbox.approve("none", by="anna"), "no message of this key"),
        (lambda outbox: outbox.reject("none", why=f"it says {TEXT}"), "no message of this key"),
        (lambda outbox: outbox.approve("a", by=""), "by: must have 1 to 200"),
        (lambda outbox: outbox.approve("a", by="x" * 201), "by: must have 1 to 200"),
        (lambda outbox: outbox.approve("a", by=None), "by: must be a str"),
        (lambda outbox: outbox.reject("a", why="x" * 1001), "why: must have at most 1000"),
        (lambda outbox: outbox.reject("a", why=None), "why: must be a str"),
    ],
)
async def test_a_wrong_decision_changes_nothing(sandbox: Sandbox, tmp_path: Path, decide: Any, problem: str) -> None:
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        await outbox.put("5", TEXT, key="a", hold=True)
        with pytest.raises(InvalidInput, match=problem) as caught:
            await decide(outbox)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert TEXT not in "".join(shown.format()), "the reason may quote the message"
        assert [one.entry.key for one in await outbox.held()] == ["a"]


async def test_a_message_of_another_transaction_can_be_held(sandbox: Sandbox, database: PostgresDatabase) -> None:
    async with box(sandbox, database) as outbox:
        statement, values = outbox.insertion("5", TEXT, key="a", hold=True).psycopg
        await asyncio.to_thread(_executed, database, statement, values)
        assert (await outbox.drain())[State.HELD] == 1
        await outbox.approve("a", by="anna")
        assert (await outbox.drain())[State.SENT] == 1


def _executed(database: PostgresDatabase, statement: str, values: Any) -> None:
    with contextlib.closing(database.connect()) as db:
        db.execute(statement, values)
        db.commit()


async def test_the_sandbox_shows_what_is_held(sandbox: Sandbox, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session, box(sandbox, tmp_path / "outbox.db") as outbox:
        api = Api(sandbox, session)
        assert (await api.get("state"))["shows_held"] is False
        assert (await api("POST", "held/approve", {"key": "a"}))[0] == 404
        sandbox.outbox = outbox
        assert (await api.get("state"))["shows_held"] is True
        for key in ("a", "b"):
            await outbox.put("5", f"<b>{TEXT}", key=key, hold=True, quick_replies=[QuickReply("Yes")])
        first, second = (await api.get("held"))["held"]
        assert (first["key"], first["person"], first["text"], first["choices"]) == ("a", "5", f"<b>{TEXT}", ["Yes"])
        assert await api("POST", "held/approve", {"key": "a", "by": "anna"}) == (
            200,
            {"key": "a", "state": "queued", "by": "anna"},
        )
        assert (await api("POST", "held/reject", {"key": "b"}))[0] == 400
        assert (await api("POST", "held/reject", {"key": "b", "why": "no"}))[1]["state"] == "rejected"
        status, answer = await api("POST", "held/approve", {"key": second["key"]})
        assert (status, "rejected already by the page" in answer["error"]) == (400, True)
        assert (await api("POST", "held/approve", {"key": 5}))[0] == 400
        await outbox.drain()
        assert len(sandbox.messages) == 1
        await outbox.close()
        assert (await api("GET", "held"))[0] == 503


async def test_a_file_of_an_earlier_version_is_brought_up_to_date(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with box(sandbox, path) as outbox:
        await outbox.put("5", TEXT, key="before")
    with contextlib.closing(sqlite3.connect(path)) as db:  # what the earlier version had made
        db.executescript(
            "DROP INDEX message_of_desk; DROP INDEX message_to_expire;"
            "ALTER TABLE message DROP COLUMN review; ALTER TABLE message DROP COLUMN reviewed_by;"
            "ALTER TABLE message DROP COLUMN reviewed_at;"
            "CREATE INDEX message_to_expire ON message (account, not_after) WHERE not_after IS NOT NULL;"
            "UPDATE schema SET version = 3 WHERE package = 'outbox';"
        )
    async with box(sandbox, path) as outbox:
        await outbox.put("5", "held", key="a", hold=True)
        assert (await outbox.drain())[State.SENT] == 1
        assert [one.entry.key for one in await outbox.held()] == ["a"]


async def test_statements_of_an_earlier_version_still_put_messages(
    sandbox: Sandbox, database: PostgresDatabase
) -> None:
    async with box(sandbox, database) as outbox:
        statement, values = outbox.insertion("5", TEXT, key="a").psycopg
        before = statement.replace(", hold => CAST(%(hold)s AS boolean)", "")
        assert before != statement
        del values["hold"]
        await asyncio.to_thread(_executed, database, before, values)
        assert (await outbox.drain())[State.SENT] == 1
