"""The bridge to Chatwoot, against a stand-in for the few calls of Chatwoot that it uses."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import re
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from aiohttp import web
from attrs import frozen

from tests.pictures import PNG
from tests.support import HANGS
from tests.test_documents import environment
from tests.test_recipes import EXAMPLES
from twdm_async import Inbox, InvalidInput, Outbox
from twdm_async.outbox import State
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

FOLDER: Final = EXAMPLES / "chatwoot"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the example."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("chatwoot", "store", "stand_in", "bridge")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@frozen
class Office:
    """A person, a bridge, and agents at their screens."""

    sandbox: Sandbox
    chatwoot: Any
    outbox: Outbox

    async def conversation(self, text: str = "Where is my order?", person: int = 5) -> int:
        """Write as the person, and return the conversation's number in Chatwoot."""
        self.sandbox.person(person).writes(text)
        await self.sandbox.delivered()
        source = {one["id"]: one["source_id"] for one in self.chatwoot.conversations.values()}
        return next(int(number) for number, of in source.items() if of == str(person))

    async def until(self, find: Callable[[], Any]) -> Any:
        """Wait until `find` finds something."""
        async with asyncio.timeout(HANGS):
            while not (found := find()):
                await asyncio.sleep(0.02)
        return found

    async def state(self, message: int, *states: str) -> str:
        """Wait until the agent sees a message in one of these states."""
        return str(await self.until(lambda: (at := self.chatwoot.messages[message]["status"]) in states and at))


@contextlib.asynccontextmanager
async def opened(modules: Any, folder: Path, sandbox: Sandbox, chatwoot: Any) -> AsyncIterator[Office]:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(sandbox.client())
        outbox = await stack.enter_async_context(Outbox(client, folder / "twdm.db"))
        inbox = await stack.enter_async_context(Inbox(folder / "twdm.db"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        store = stack.enter_context(contextlib.closing(modules["store"].Store(folder / "bridge.db")))
        stand_in = modules["stand_in"]
        api = modules["chatwoot"].Chatwoot(session, chatwoot.url, stand_in.ACCOUNT, stand_in.INBOX, stand_in.TOKEN)
        running = modules["bridge"].running(client, outbox, inbox, api, store, secret=stand_in.SECRET)
        webhook, app = await stack.enter_async_context(running)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        chatwoot.webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/chatwoot"
        await sandbox.subscribe(webhook)
        yield Office(sandbox, chatwoot, outbox)
        await chatwoot.settled()
        sandbox.unsubscribe(webhook)


@pytest.fixture
async def office(modules: Any, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Office]:
    async with modules["stand_in"].StandIn(repeats=2) as chatwoot, opened(modules, tmp_path, sandbox, chatwoot) as at:
        yield at


async def test_two_agents_answer_one_person_under_two_names(office: Office) -> None:
    anna, ben = office.chatwoot.add_agent("Anna", PNG), office.chatwoot.add_agent("Ben")
    conversation = await office.conversation()
    assert [one["content"] for one in office.chatwoot.shown(conversation)] == ["Where is my order?"]
    said = [
        office.chatwoot.say(anna, conversation, "Let me look."),
        office.chatwoot.say(anna, conversation, "Ben, do you know?", private=True),
        office.chatwoot.say(ben, conversation, "It left this morning."),
        office.chatwoot.say(anna, conversation, "Anything else?"),
    ]
    for number in (said[0], said[2], said[3]):
        assert await office.state(number, "delivered", "failed") == "delivered"
    messages = office.sandbox.messages
    assert [message.text for message in messages] == ["Let me look.", "It left this morning.", "Anything else?"]
    names = [office.sandbox.profiles[message.custom_profile_id or ""].name for message in messages]
    assert names == ["Anna", "Ben", "Anna"]
    assert len(office.sandbox.profiles) == 2
    assert office.sandbox.media[office.sandbox.profiles[messages[0].custom_profile_id or ""].media_id].content == PNG
    assert office.chatwoot.messages[said[1]]["status"] == "sent"  # a note has no other state
    assert len(office.chatwoot.contacts) == len(office.chatwoot.conversations) == 1


async def test_a_person_taps_and_reads(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna", PNG)
    conversation = await office.conversation()
    items = [{"title": "Shoes", "value": "1"}, {"title": "Hat", "value": "2"}]
    number = office.chatwoot.say(anna, conversation, "Which one?", items=items)
    assert await office.state(number, "delivered", "failed") == "delivered"
    office.sandbox.person(5).taps("Hat")
    office.sandbox.person(5).reads()
    await office.sandbox.delivered()
    assert await office.state(number, "read") == "read"
    assert [one["content"] for one in office.chatwoot.shown(conversation)] == [
        "Where is my order?",
        "Which one?",
        "Hat",
    ]


async def test_a_file_that_was_put_before_a_crash_is_not_put_again(office: Office, modules: Any) -> None:
    """It would be uploaded again, and be another message under the same key."""
    url = office.chatwoot.add_file("a.png", PNG, "image/png")
    conversation = {"id": 1, "contact_inbox": {"source_id": "5"}}
    message = {"id": 1, "content": "Hello", "attachments": [{"data_url": url}], "conversation": conversation}
    async with aiohttp.ClientSession() as session, office.sandbox.client() as client:
        api = modules["chatwoot"].Chatwoot(session, office.chatwoot.url, 1, 7, "stand-in-token")
        bridge = modules["bridge"].Bridge(client, office.outbox, api, None, secret="a")
        for _ in range(2):
            await bridge._put(message)
    assert [message.text for message in office.sandbox.messages] == ["Hello"]


@pytest.mark.slow
async def test_who_reads_before_the_bridge_knows_what_was_delivered_is_seen_all_the_same(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna", PNG)
    conversation = await office.conversation()
    office.chatwoot.is_down = True  # so that the outcome cannot be told yet
    office.chatwoot.agents[anna]["avatar_url"] = ""
    number = office.chatwoot.say(anna, conversation, "Hello")
    await office.until(lambda: office.sandbox.messages)
    office.sandbox.person(5).reads()
    await office.sandbox.delivered()
    office.chatwoot.is_down = False
    assert await office.state(number, "read") == "read"


async def test_files_go_both_ways(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna", PNG)
    conversation = await office.conversation()
    urls = [office.chatwoot.add_file(f"{number}.png", PNG, "image/png") for number in range(2)]
    number = office.chatwoot.say(anna, conversation, "Two pictures", files=urls)
    assert await office.state(number, "delivered", "failed") == "delivered"
    first, second = office.sandbox.messages
    assert (first.text, second.text) == ("Two pictures", "")
    for message in (first, second):
        assert message.attachment is not None
    office.sandbox.person(5).writes("Mine", file=PNG)
    await office.sandbox.delivered()
    [shown] = [one for one in office.chatwoot.shown(conversation) if one["content"].startswith("Mine")]
    [file] = shown["attachments"]
    assert office.chatwoot.files[file["data_url"].rpartition("/")[2]][0] == PNG
    bad = office.chatwoot.add_file("a.pdf", b"%PDF-1.7", "application/pdf")
    number = office.chatwoot.say(anna, conversation, "A paper", files=[bad])
    assert await office.state(number, "delivered", "failed") == "failed"
    assert "is not a PNG" in office.chatwoot.messages[number]["external_error"]


async def test_what_fails_is_shown_with_its_reason(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna", b"no picture")
    conversation = await office.conversation()
    office.sandbox.unreachable.add("5")
    number = office.chatwoot.say(anna, conversation, "Hello")
    assert await office.state(number, "delivered", "failed") == "failed"
    assert "349" in office.chatwoot.messages[number]["external_error"]
    number = office.chatwoot.say(anna, conversation, "x" * 10_001)
    assert await office.state(number, "delivered", "failed") == "failed"
    assert "at most 10000 characters" in office.chatwoot.messages[number]["external_error"]
    [profile] = office.sandbox.profiles.values()  # with a plain picture
    assert profile.name == "Anna"


async def test_strangers_are_refused_and_other_webhooks_are_ignored(office: Office, modules: Any) -> None:
    url, sign = office.chatwoot.webhook_url, modules["chatwoot"].sign

    def signed(body: bytes, moment: str | None = None) -> dict[str, str]:
        moment = moment or str(int(time.time()))
        return {"X-Chatwoot-Signature": sign("stand-in-secret", moment, body), "X-Chatwoot-Timestamp": moment}

    good = json.dumps({"event": "conversation_typing_on", "conversation": {}}).encode()
    async with aiohttp.ClientSession() as session:

        async def post(body: bytes, headers: dict[str, str], query: str = "") -> int:
            async with session.post(f"{url}{query}", data=body, headers=headers) as answer:
                return answer.status

        assert await post(good, signed(good)) == 200
        assert await post(good, {}) == 403
        assert await post(good, {}, "?token=stand-in-secret") == 403
        assert await post(good, signed(good, "1")) == 403  # long ago
        assert await post(good, signed(good) | {"X-Chatwoot-Signature": "sha256=00"}) == 403
        for body in (b"[]", b"{", b"5", b'{"event":"message_created","message_type":"outgoing","private":false}'):
            assert await post(body, signed(body)) == 400
    assert office.sandbox.messages == []


async def test_a_bridge_that_anybody_could_use_does_not_start(office: Office, modules: Any) -> None:
    with pytest.raises(ValueError, match="anybody"):
        modules["bridge"].Bridge(None, office.outbox, None, None, secret="", token=None)


async def test_a_message_that_cannot_be_read_does_not_stop_the_next_one(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna", PNG)
    conversation = await office.conversation()
    elsewhere = office.chatwoot.say(anna, conversation, "A file", files=["http://127.0.0.1:22/secret"])
    odd = office.chatwoot.say(anna, conversation, "A place")
    office.chatwoot.messages[odd]["attachments"].append({"file_type": "location"})
    office.chatwoot._send("message_created", office.chatwoot.messages[odd] | {"id": 99})
    office.chatwoot.messages[99] = office.chatwoot.messages[odd] | {"id": 99}
    fine = office.chatwoot.say(anna, conversation, "Hello")
    assert await office.state(fine, "delivered", "failed") == "delivered"
    assert await office.state(elsewhere, "delivered", "failed") == "failed"
    assert office.chatwoot.messages[elsewhere]["external_error"] == "a file is not on Chatwoot's server"
    assert await office.state(99, "failed") == "failed"
    assert office.chatwoot.messages[99]["external_error"] == "it cannot be read"


async def test_an_agent_has_one_profile_until_name_or_picture_changes(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna", PNG)
    conversations = [await office.conversation(person=person) for person in (5, 6, 7)]
    for conversation in conversations:  # at once
        office.chatwoot.say(anna, conversation, "Hello")
    await office.until(lambda: len(office.sandbox.messages) == 3)
    assert len(office.sandbox.profiles) == 1
    office.chatwoot.agents[anna]["name"] = "Anne"
    await office.state(office.chatwoot.say(anna, conversations[0], "Hello again"), "delivered")
    assert [profile.name for profile in office.sandbox.profiles.values()] == ["Anna", "Anne"]


@pytest.mark.soak
async def test_nothing_is_lost_while_chatwoot_is_down(office: Office) -> None:
    anna = office.chatwoot.add_agent("Anna")
    conversation = await office.conversation()
    office.chatwoot.is_down = True
    office.sandbox.person(6).writes("Hello?")
    number = office.chatwoot.say(anna, conversation, "Hello")
    await office.until(lambda: office.chatwoot.refused > 2 and office.sandbox.messages)
    office.chatwoot.is_down = False
    assert await office.state(number, "delivered", "failed") == "delivered"
    await office.until(lambda: [one for one in office.chatwoot.messages.values() if one["content"] == "Hello?"])


def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process that is still there, so that it does not outlive a test that fails."""
    if process.returncode is None:
        process.kill()


async def until_settled(chatwoot: Any, outbox: Outbox, messages: Iterable[int]) -> None:
    """Wait until agents know what became of each of these messages. Do not wait for one that was being sent at a kill
    and is not in the list after half a minute, nor for the later ones: the outbox takes ten minutes to be sure.
    """
    now = asyncio.get_running_loop().time
    patience = now() + HANGS / 4
    async with asyncio.timeout(HANGS):
        for number in messages:
            seen = chatwoot.messages[number]
            while seen["status"] != "delivered" and not seen["external_error"]:
                entry = await outbox.get(f"chatwoot 1 {number} 1/1")
                if entry is not None and entry.state is State.UNKNOWN and now() > patience:
                    return
                await asyncio.sleep(0.05)


@pytest.mark.soak
@pytest.mark.timeout(2 * HANGS)
async def test_a_bridge_that_is_killed_sends_each_message_once(modules: Any, tmp_path: Path) -> None:
    """The bridge runs as README says, and is killed again and again while agents and the person write."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stand_in = modules["stand_in"]
    async with (
        Sandbox(faults=[Fault("reset", endpoint="custom_profiles.create", nth=1)]) as sandbox,
        stand_in.StandIn(f"http://127.0.0.1:{port}/chatwoot", repeats=3) as chatwoot,
        contextlib.AsyncExitStack() as stack,
    ):
        names = {
            "URL": chatwoot.url,
            "ACCOUNT_ID": "1",
            "INBOX_ID": "7",
            "TOKEN": stand_in.TOKEN,
            "SECRET": stand_in.SECRET,
        }
        environ = environment(tmp_path, sandbox, PORT=str(port), BRIDGE_FOLDER=str(tmp_path),
                              **{f"CHATWOOT_{name}": value for name, value in names.items()})  # fmt: skip
        anna, ben = chatwoot.add_agent("Anna", PNG), chatwoot.add_agent("Ben", PNG)
        picture = chatwoot.add_file("a.png", PNG, "image/png")
        said: dict[int, str] = {}
        for kills in range(6):
            process = await asyncio.create_subprocess_exec(sys.executable, FOLDER / "bridge.py", env=environ)
            stack.callback(end, process)
            while not chatwoot.conversations or len(said) < 5 * kills:
                with contextlib.suppress(InvalidInput):
                    await sandbox.subscribe(f"http://127.0.0.1:{port}/twitter")
                    if not chatwoot.conversations:
                        sandbox.person(5).writes("Hello")
                    while not chatwoot.conversations:
                        await asyncio.sleep(0.02)
                    for number in range(5):
                        text = f"{kills} {number}"
                        said[chatwoot.say((anna, ben)[number % 2], 1, text, files=[picture])] = text
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.1 * kills)
            if kills < 5:
                process.kill()
                await process.wait()
        async with sandbox.client() as client, Outbox(client, tmp_path / "twdm.db") as outbox:
            await until_settled(chatwoot, outbox, said)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        errors = {chatwoot.messages[number]["external_error"] for number in said} - {None}
        assert not [error for error in errors if "key" in error]
        texts = [message.text for message in sandbox.messages]
        assert len(texts) == len(set(texts))
        delivered = {text for number, text in said.items() if chatwoot.messages[number]["status"] == "delivered"}
        assert delivered
        assert delivered <= set(texts)
        assert [one["content"] for one in chatwoot.shown(1)].count("Hello") == 1


@pytest.mark.soak
@pytest.mark.timeout(2 * HANGS)
async def test_try_it(tmp_path: Path) -> None:
    """The README's command shows two agents who answer one person under two names."""
    readme = (FOLDER / "README.md").read_text()
    [path] = re.findall(r"\.venv/bin/python (docs/\S+)", readme)
    program = EXAMPLES.parents[1] / path
    environ = environment(tmp_path, TWDM_SANDBOX_PORT="0")
    process = await asyncio.create_subprocess_exec(sys.executable, program, env=environ, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(HANGS):
            url = (await process.stdout.readline()).decode().removeprefix("What the person sees: ").strip()
        async with aiohttp.ClientSession() as session, session.get(f"{url}_sandbox/messages") as answer:
            messages = (await answer.json())["messages"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        await process.wait()
    assert process.returncode == 0
    said = [(one["from"] == "account" and one["profile"]["name"], one["text"]) for one in messages]
    assert said == [
        (False, "Where is my order?"),
        ("Anna", "Let me look. Which one is it?"),
        (False, "Shoes"),
        ("Ben", "They left this morning."),
    ]
