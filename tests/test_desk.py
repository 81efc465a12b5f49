"""A desk: allowed names, one message a call, and answers that a model understands."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.desks import office
from tests.drainer import table
from tests.test_http import TEXT
from twdm_async import (
    CustomProfile,
    Desk,
    InvalidInput,
    PostgresDatabase,
    Priority,
    QuickReply,
    Quota,
    Receipt,
    TextInput,
)
from twdm_async.database import resume
from twdm_async.desk import Status
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.storage.places import Place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


async def test_a_message_is_sent_under_the_profile_of_its_name(sandbox: Sandbox, place: Place) -> None:
    async with office(sandbox, place) as at:
        receipt = await at.desk.say("billing", 5, TEXT, key="call 1", quick_replies=["Yes", QuickReply("No")])
        assert (receipt.status, receipt.message_id) == (Status.SENT, sandbox.messages[0].id)
        assert await at.desk.say("billing", "5", TEXT, key="call 1", quick_replies=["Yes", "No"]) == receipt
        assert await at.desk.receipt(receipt.key or "") == receipt
        assert await at.desk.receipt("call 1") == receipt
        again = await at.desk.say("billing", 5, TEXT, key=receipt.key, quick_replies=["Yes", "No"])
        assert again == await at.desk.check("billing", 5, TEXT, key=receipt.key, quick_replies=["Yes", "No"]) == receipt
        assert await at.desk.receipt("none") is None
        assert await at.desk.check("billing", 5, TEXT, key="call 2") is None
        await at.outbox.put(6, "of another program", key="payroll")
        assert await at.desk.receipt("payroll") is None
    message = sandbox.messages[0]
    assert len([one for one in sandbox.messages if one.recipient_id == "5"]) == 1
    assert (message.custom_profile_id, message.recipient_id) == (at.profiles["billing"], "5")
    assert list(message.choices) == ["Yes", "No"]
    assert receipt.as_json() == {
        "status": "sent",
        "advice": "The message arrived. Do not send it again.",
        "key": receipt.key,
        "message_id": message.id,
    }
    assert "SENTINEL" not in repr(receipt)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"who": "boss"}, "who: 'boss' is not allowed; use one of: billing, support"),
        ({"who": ["billing"]}, "who: .* is not allowed"),
        ({"recipient": "@anna"}, "recipient: must be an id"),
        ({"recipient": None}, "recipient: must be an id"),
        ({"recipient": "6"}, "recipient: messages to this person are not allowed"),
        ({"text": "x" * 10_001}, "text: must have at most 10000 characters"),
        ({"text": ""}, "text: must not be empty or blank"),
        ({"text": None}, "text: is needed"),
        ({"quick_replies": ["x" * 37]}, "label: must have at most 36 characters"),
        ({"quick_replies": [5]}, "quick_replies: must be a list of QuickReply"),
        ({"quick_replies": "Yes"}, "quick_replies: must be a list"),
        ({"key": " "}, "key: must not be empty or blank"),
        ({"key": ""}, "key: must not be empty"),
        ({"key": "\0"}, "key: holds a control character"),
        ({"key": None, "within": 1e-300}, "within: must be a number of seconds from 1 to"),
        ({"not_after": datetime(2020, 1, 1)}, "not_after: must be an aware datetime"),  # noqa: DTZ001 - that is the point
    ],
)
async def test_what_a_model_gets_wrong_is_an_answer(
    sandbox: Sandbox, path: Path, said: dict[str, Any], reason: str
) -> None:
    async with office(sandbox, path, recipients=[5]) as at:
        given = {"who": "billing", "recipient": "5", "text": TEXT, "key": "a"} | said
        receipt = await at.desk.say(**given)
        if "not_after" not in said:
            assert await at.desk.check(**given) == receipt
        assert receipt.status is Status.REFUSED
        assert receipt.reason is not None
        assert re.match(reason, receipt.reason), receipt.reason
        assert sum((await at.outbox.counts()).values()) == 0
    assert sandbox.messages == []


async def test_a_key_stands_for_one_message(sandbox: Sandbox, place: Place) -> None:
    async with office(sandbox, place) as at:
        first = await at.desk.say("billing", 5, TEXT, key="a")
        for other in (("billing", 5, "other"), ("support", 5, TEXT), ("billing", 6, TEXT)):
            refused = await at.desk.say(*other, key="a")
            assert (refused.status, "used for another message" in (refused.reason or "")) == (Status.REFUSED, True)
        long = [await at.desk.say("billing", 5, TEXT, key="x" * 500 + end) for end in ("a", "b", "a")]
        assert long[0] == long[2] != long[1]
        assert first.status is Status.SENT
    assert len(sandbox.messages) == 3


async def test_without_a_key_the_same_content_counts_as_repeated_for_a_while(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, office(sandbox, tmp_path / "a.db", client_options={"clock": sandbox.time}) as at:

        async def say(text: str = TEXT) -> Receipt:
            return await at.desk.say("billing", 5, text, within=timedelta(minutes=10))

        first = await say()
        assert await say() == first
        sandbox.time.advance("9min")  # whether or not another period has begun
        assert await say() == first
        assert (await say("other")).message_id != first.message_id
        sandbox.time.advance("2min")
        assert (await say()).key != first.key
        sandbox.time.ahead -= 660.0  # the clock is set back, to before the first one
        assert (await say()).key == first.key
        assert len(sandbox.messages) == 3


@pytest.mark.soak
async def test_many_repeats_at_once_are_one_message(sandbox: Sandbox, place: Place) -> None:
    async with office(sandbox, place, wait=60.0) as at:
        receipts = await asyncio.gather(*(at.desk.say("billing", 5, TEXT) for _ in range(100)))
    assert {receipt.status for receipt in receipts} == {Status.SENT}
    assert len(sandbox.messages) == 1


async def test_a_model_that_repeats_itself_is_stopped_and_heard_again_later(tmp_path: Path) -> None:
    limit = Quota(3, per=3600.0)
    async with Sandbox() as sandbox:
        for place in ("a.db", "a.db"):  # as after a restart
            async with office(sandbox, tmp_path / place, client_options={"clock": sandbox.time}, limit=limit) as at:
                receipts = [await at.desk.say("billing", 5, f"again {n}", key=f"{n}") for n in range(10)]
                assert await at.desk.check("billing", 5, "again 9", key="9") == receipts[-1]
                assert [receipt.status for receipt in receipts] == [Status.SENT] * 3 + [Status.REFUSED] * 7
                assert receipts[-1].reason == "too many messages to this person lately; wait for an answer"
        async with office(sandbox, tmp_path / "a.db", client_options={"clock": sandbox.time}, limit=limit) as at:
            assert (await at.desk.say("billing", 6, "to another person", key="x")).status is Status.SENT
            many = await asyncio.gather(*(at.desk.say("billing", 7, str(n), key=f"seven {n}") for n in range(20)))
            assert sum(receipt.status is Status.SENT for receipt in many) == 3
            sandbox.time.advance("1h")
            assert (await at.desk.say("billing", 5, "later", key="y")).status is Status.SENT


async def test_a_limit_holds_for_all_desks_of_all_processes(sandbox: Sandbox, place: Place) -> None:
    options: Any = {"limit": Quota(3, per=3600.0), "wait": 0.0, "is_running": False}
    async with office(sandbox, place, **options) as here, office(sandbox, place, **options) as there:
        desks = [
            Desk(at.client, at.outbox, {"A": None}, limit=Quota(3, per=3600.0), wait=0.0) for at in (here, there) * 5
        ]
        receipts = await asyncio.gather(*(desk.say("A", 5, f"{n}", key=f"{n}") for n, desk in enumerate(desks)))
        assert sorted(receipt.status for receipt in receipts) == [Status.QUEUED] * 3 + [Status.REFUSED] * 7
        await here.outbox.put(5, "of no desk")
        wrong: Any
        for wrong, problem in ((3, "must be a Quota"), (Quota(1, per=60.0), "only for messages whose keys begin with")):
            with pytest.raises(InvalidInput, match=problem):
                await here.outbox.put(5, "hello", limit=wrong)


async def test_who_must_wait_is_told_until_when(path: Path) -> None:
    quotas = table(1, per=86_400.0)
    options: Any = {"client_options": {"quotas": quotas}, "wait": 0.2}
    async with Sandbox(quotas=quotas) as sandbox, office(sandbox, path, **options) as at:
        assert (await at.desk.say("billing", 5, "now", key="a")).status is Status.SENT
        receipt = await at.desk.say("billing", 5, "later", key="b")
        assert receipt.status is Status.QUEUED
        assert receipt.until is not None
        hours = (receipt.until - datetime.now(UTC)).total_seconds() / 3600
        assert 22 < hours < 25
        assert "sent later, by itself" in json.dumps(receipt.as_json())
        soon = datetime.now(UTC) + timedelta(seconds=60)
        at.desk._wait = 60.0
        expired = await at.desk.say("billing", 5, "in time or never", key="c", not_after=soon)
        assert (expired.status, expired.reason) == (Status.REFUSED, "its quota is free too late")
        bulk = await at.desk.say("billing", 5, "bulk", key="d", priority=Priority.BULK, not_after=soon)
        assert bulk.status is Status.REFUSED


async def test_nobody_knows_is_not_send_again(path: Path) -> None:
    async with (
        Sandbox(faults=[Fault("reset", endpoint="direct_messages.send")], list_lag=300.0) as sandbox,
        office(sandbox, path) as at,
    ):
        at.desk._wait = 0.5
        receipt = await at.desk.say("billing", 5, TEXT, key="a")
        assert receipt.status is Status.UNKNOWN
        assert "Do not send it again" in receipt.as_json()["advice"]


async def test_what_the_api_refuses_is_told_with_its_reason(sandbox: Sandbox, path: Path) -> None:
    sandbox.unreachable.add("5")
    async with office(sandbox, path) as at:
        receipt = await at.desk.say("billing", 5, TEXT, key="a")
        assert (receipt.status, "349" in (receipt.reason or "")) == (Status.REFUSED, True)


async def test_a_person_decides(sandbox: Sandbox, place: Place) -> None:
    async with office(sandbox, place, hold=lambda who, _, text: who == "billing" or "refund" in text) as at:
        held = await at.desk.say("billing", 5, TEXT, key="a")
        assert (held.status, sandbox.messages) == (Status.HELD, [])
        assert (await at.desk.say("support", 5, "hello", key="b")).status is Status.SENT
        assert (await at.desk.say("support", 5, "a refund", key="c")).status is Status.HELD
        assert (await at.desk.say("billing", 5, "approved elsewhere", key="d", hold=False)).status is Status.SENT
        await at.outbox.approve(held.key or "", by="anna")
        assert (await at.desk.say("billing", 5, TEXT, key="a")).status is Status.SENT
        await at.outbox.reject("desk:c", why="no refunds by a bot")
        receipt = await at.desk.say("support", 5, "a refund", key="c")
        assert (receipt.status, receipt.reason) == (Status.REFUSED, "a person did not approve it: no refunds by a bot")
    assert len(sandbox.messages) == 3


async def test_if_nobody_can_tell_whether_to_hold_a_message_it_is_held(sandbox: Sandbox, path: Path) -> None:
    async with office(sandbox, path, hold=lambda *_: 1 / 0 > 1) as at:
        assert (await at.desk.say("billing", 5, TEXT, key="a")).status is Status.HELD


async def test_a_call_that_is_cancelled_is_not_lost_and_not_doubled(sandbox: Sandbox, place: Place) -> None:
    async with office(sandbox, place, limit=None, wait=60.0) as at:
        for moment in range(30):
            call = asyncio.create_task(at.desk.say("billing", 5, f"{moment}", key=f"{moment}"))
            for _ in range(moment):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert (await at.desk.say("billing", 5, f"{moment}", key=f"{moment}")).status is Status.SENT
    assert sorted(int(message.text) for message in sandbox.messages) == list(range(30))


@pytest.mark.slow
async def test_a_message_that_is_withdrawn_meanwhile_is_refused(sandbox: Sandbox, path: Path) -> None:
    async with office(sandbox, path, is_running=False, wait=60.0) as at:
        call = asyncio.create_task(at.desk.say("billing", 5, TEXT, key="a"))
        while not await at.outbox.withdraw("desk:a"):
            await asyncio.sleep(0.01)
        receipt = await call
        assert (receipt.status, receipt.reason) == (Status.REFUSED, "it was withdrawn")


async def test_what_an_earlier_state_of_the_database_may_have_lost_is_unknown(
    sandbox: Sandbox, database: PostgresDatabase
) -> None:
    async with office(sandbox, database, is_running=False, wait=0) as at:
        for key, hold in (("a", False), ("b", True)):
            await at.desk.say("billing", 5, TEXT, key=key, hold=hold)
    await resume(database, is_complete=False)
    async with office(sandbox, database, is_running=False, wait=0) as at:
        for key in ("a", "b"):
            assert (await at.desk.say("billing", 5, TEXT, key=key)).status is Status.UNKNOWN


async def test_an_outbox_that_cannot_be_written_is_an_answer(sandbox: Sandbox, path: Path) -> None:
    async with office(sandbox, path, is_running=False) as at:
        await at.outbox.close()
        receipt = await at.desk.say("billing", 5, TEXT, key="a")
        assert (receipt.status, receipt.reason) == (Status.REFUSED, "the outbox cannot be written just now")


async def test_a_desk_that_cannot_work_is_refused(sandbox: Sandbox, path: Path) -> None:
    async with office(sandbox, path, is_running=False) as at:
        profile = CustomProfile(id="7", name="Anna")
        assert Desk(at.client, at.outbox, {"anna": profile, "brand": None}).names == ("anna", "brand")
        for arguments, options in (
            ((at.client, at.outbox, {}), {}),
            ((at.client, at.outbox, {"anna": "@anna"}), {}),
            ((None, at.outbox, {"anna": "1"}), {}),
            ((at.client, None, {"anna": "1"}), {}),
            ((at.client, at.outbox, {"anna": "1"}), {"wait": -1}),
            ((at.client, at.outbox, {"anna": "1"}), {"recipients": ["anna"]}),
            ((at.client, at.outbox, {"anna": "1"}), {"recipients": "12345"}),
            ((at.client, at.outbox, {"anna": "1"}), {"limit": 5}),
            ((at.client, at.outbox, {"anna": "1"}), {"hold": 5}),
            ((at.client, at.outbox, {"anna": "1"}), {"hold": asyncio.sleep}),
            ((at.client, at.outbox, {"": "1"}), {}),
            ((at.client, at.outbox, {"a\nb": "1"}), {}),
            ((sandbox.client(sandbox.add_account()), at.outbox, {"anna": "1"}), {}),
        ):
            with pytest.raises(InvalidInput):
                Desk(*arguments, **options)


async def test_a_text_input_can_be_asked_for(sandbox: Sandbox, path: Path) -> None:
    async with office(sandbox, path) as at:
        assert (
            await at.desk.say("billing", 5, TEXT, quick_replies=TextInput(label="Your order"))
        ).status is Status.SENT
        assert (await at.desk.say("billing", 5, "no answers", quick_replies=[])).status is Status.SENT
