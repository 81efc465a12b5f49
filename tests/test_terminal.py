"""What reaches a terminal, a file of results, an error or a traceback: nothing that is obeyed, and nothing secret."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from tests import secrets
from tests.pictures import PNG
from tests.support import HANGS
from tests.test_cli import Twdm, outcomes, twdm
from twdm_async import (
    CallToAction,
    Client,
    Credentials,
    Inbox,
    InvalidInput,
    QuickReply,
    QuotaStore,
    TextInput,
    TwdmError,
)
from twdm_async._log import printable
from twdm_async.cli.terminal import as_json
from twdm_async.outbox import Outbox
from twdm_async.resources.inbox import Received
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.webhooks import crc_response, is_signed, read_events

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["twdm"]  # the fixture

OBEYED = "\x1b]0;owned\x07 \x1b[2J \x9b31m \x85 \u202e\u2066 \u200f \u2028 \x7f \x00"
"""A title, a screen that is wiped, colours, the same in one byte, other directions, ends of lines."""
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
MARKUP = "[/nope] [bold]x[/bold] [link=http://example.com]"


def test_fault_103_what_a_terminal_obeys_is_escaped() -> None:
    assert RAW.search(printable(OBEYED)) is None
    assert printable("a\nb\tc") == "a\\u000ab\\u0009c"
    assert printable("naïve 日本 🙂 \u200d") == "naïve 日本 🙂 \u200d"
    text = as_json({"text": OBEYED, "half": "\ud800", "emoji": "🙂"}, indent=2)
    assert RAW.search(text.replace("\n", "")) is None
    assert json.loads(text) == {"text": OBEYED, "half": "\ud800", "emoji": "🙂"}
    text.encode()


@pytest.mark.soak
async def test_fault_103_no_command_shows_what_strangers_wrote_raw(
    twdm: Twdm, sandbox: Sandbox, client: Client, tmp_path: Path
) -> None:
    hostile = f"{OBEYED.replace(chr(0), '')} {MARKUP}"
    event = sandbox.person(5).writes(hostile)
    profile = await client.custom_profiles.create("Anna", PNG)
    sandbox._state.profiles[profile.id] = evolve(sandbox._state.profiles[profile.id], name=hostile)
    film = tmp_path / f"{MARKUP[:8].replace('/', '')}\x1b[2J.mp4"
    film.write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    async with Inbox(tmp_path / "inbox.db") as inbox:
        await inbox.keep([Received("5", hostile, "{}", hostile), Received("5", "2", "{}")])
        await inbox.set_aside(Received("5", "2"), f"ValueError: {hostile}")
    commands = [
        ("messages", "list"), ("messages", "get", event), ("profiles", "list"), ("profiles", "get", profile.id),
        ("inbox", "failed", "--inbox", str(tmp_path / "inbox.db")),
        ("inbox", "unread", "--inbox", str(tmp_path / "inbox.db")),
        ("media", "upload", str(film), "--category", "dm_video"), ("media", "upload", f"{film}\x1b[2J"),
        ("doctor", "--inbox", str(tmp_path / "inbox.db")), ("send-many", f"none\x1b[2J{MARKUP[:8]}"),
    ]  # fmt: skip
    for command in commands:
        code, out, err = await twdm(*command)
        assert code in {0, 1, 2}
        assert RAW.search((out + err).replace("\n", "")) is None, command
    reads = len(sandbox.requests)
    listening = await twdm.start("messages", "listen", "--every", "1", "--inbox", str(tmp_path / "other.db"))
    while not any("list.json" in request.path for request in sandbox.requests[reads:]):
        await asyncio.sleep(0.01)
    sandbox.person(6).writes(OBEYED)
    async with asyncio.timeout(HANGS):
        line = (await listening.stdout.readline()).decode()
    assert RAW.search(line.rstrip("\n")) is None
    assert json.loads(line)["text"] == OBEYED
    listening.kill()
    await listening.communicate()


@pytest.mark.soak
async def test_fault_103_names_with_markup_are_shown_as_they_are(twdm: Twdm, sandbox: Sandbox) -> None:
    """The doctor shows the account's name."""
    for account in sandbox._gate.accounts.values():
        account.user["screen_name"] = account.user["name"] = MARKUP
    code, out, err = await twdm("doctor")
    assert code in {0, 1}, err
    assert "[/nope]" in out


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["headers_echoed", "unknown_code"])
async def test_fault_103_errors_of_the_api_are_one_line(twdm: Twdm, sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.append(Fault(kind))
    for command in (("send", "5", "hello"), ("doctor",), ("profiles", "list")):
        code, out, err = await twdm(*command)
        assert code == 1
        assert RAW.search((out + err).replace("\n", "")) is None


# ---- the inbox' commands ----


async def test_the_inbox(twdm: Twdm, tmp_path: Path) -> None:
    path = ("--inbox", str(tmp_path / "inbox.db"))
    code, _, err = await twdm("inbox", "failed", *path)
    assert (code, "there is no inbox" in err) == (2, True)
    async with Inbox(tmp_path / "inbox.db") as inbox:
        await inbox.keep(
            [Received("5", "1", '"SENTINEL"'), Received("5", "2", '"SENTINEL"', "a{b}")], heard=["delivery"]
        )
        await inbox.set_aside(Received("5", "1"), "ValueError: no")
    (failed,), (unread,) = [json.loads((await twdm("inbox", kind, *path))[1]) for kind in ("failed", "unread")]
    assert (failed["id"], failed["problem"], failed["account"]) == ("1", "ValueError: no", "5")
    assert (unread["id"], unread["problem"]) == ("2", "a{b}")
    code, out, _ = await twdm("doctor", *path)
    words = " ".join(out.replace("│", " ").split())
    assert code == 0
    assert "last delivery 0 minutes ago" in words
    assert "1 failed, 1 could not be read" in words
    assert (await twdm("inbox", "retry", *path))[0] == 2
    assert json.loads((await twdm("inbox", "retry", "1", *path))[1]) == {"to be handled": 1}
    assert json.loads((await twdm("inbox", "failed", *path))[1]) == []
    assert json.loads((await twdm("inbox", "forget", "--all", *path))[1]) == {"forgotten": 1}
    assert json.loads((await twdm("inbox", "unread", *path))[1]) == []


# ---- files of results ----


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    path = tmp_path / "messages.jsonl"
    path.write_text('{"recipient": "5", "text": "hello"}\n')
    return path


async def test_fault_104_results_are_for_their_owner_alone(twdm: Twdm, messages: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    for _ in range(2):
        code, _, err = await twdm("send-many", str(messages), "--results", str(results))
        assert code == 0, err
        assert [one["outcome"] for one in outcomes(results)] == ["sent"]
        assert stat.S_IMODE(results.stat().st_mode) == 0o600
        results.chmod(0o644)  # as an earlier version has made it


async def test_fault_104_results_follow_no_link(twdm: Twdm, messages: Path, tmp_path: Path, sandbox: Sandbox) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    for content in ("", '{"line": 1, "recipient": "5", "outcome": "sent"}\n'):
        target.write_text(content)
        target.chmod(0o644)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        code, _, err = await twdm("send-many", str(messages), "--results", str(link))
        assert (code, "it is a link to another file" in err) == (2, True)
        assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == (content, 0o644)
    assert sandbox.messages == []


@pytest.mark.parametrize(
    "content", [b"my letters\n", b'{"a": 1}\n', b"\xff\xfe", b"[]\n", b"[" * 100_000, b"SQLite format 3\0"]
)
async def test_fault_104_a_foreign_file_is_not_taken_for_results(
    twdm: Twdm, messages: Path, tmp_path: Path, sandbox: Sandbox, content: bytes
) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(content)
    foreign.chmod(0o644)
    code, _, err = await twdm("send-many", str(messages), "--results", str(foreign))
    assert (code, "is not a file of results" in err) == (2, True)
    assert (foreign.read_bytes(), stat.S_IMODE(foreign.stat().st_mode)) == (content, 0o644)
    assert sandbox.messages == []


# ---- secrets ----


async def test_fault_105_a_server_that_echoes_the_request_learns_nobody_a_key(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    signed: list[str] = []
    sign = client._caller._signer.sign

    def kept(request: Any, at: float | None = None) -> str:
        signed.append(sign(request, at))
        return signed[-1]

    client._caller._signer.sign = kept  # type: ignore[method-assign]  # what it says is wanted
    sandbox.faults.append(Fault("headers_echoed"))
    calls: list[Callable[[], Any]] = [
        lambda: client.direct_messages.send(5, "hello"),
        client.account.verify_credentials,
        lambda: client.custom_profiles.get("5"),
        lambda: client.media.upload(PNG),
    ]
    for call in calls:
        with pytest.raises(TwdmError) as caught:
            await call()
        said = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caplog.text}"
        for value in re.findall(r'oauth_(?:consumer_key|token|nonce|signature)="([^"]+)"', signed[-1]):
            assert value not in said
            assert value[:6] not in said
        assert "Something is wrong with" in said, "what is harmless is shown"


async def test_fault_105_a_wrong_keyword_shows_no_text_in_a_traceback(client: Client, tmp_path: Path) -> None:
    """Tools that report errors show what the frames of a traceback hold."""
    agent, text = client.agent("5"), "SENTINEL"
    async with Outbox(client, tmp_path / "outbox.db") as outbox:
        calls: list[Callable[[], Any]] = [
            lambda: client.direct_messages.send(5, text, wrong=1),  # type: ignore[call-arg]  # as all of these
            lambda: client.direct_messages.send(text=text),  # type: ignore[call-arg]
            lambda: agent.send(5, text=text, wrong=1),  # type: ignore[call-arg]
            lambda: outbox.put(5, text, wrong=1),  # type: ignore[call-arg]
            lambda: client.welcome_messages.create(text, wrong=1),  # type: ignore[call-arg]
            lambda: client.welcome_messages.update("5", text, wrong=1),  # type: ignore[call-arg]
            lambda: client.custom_profiles.create(text, PNG, wrong=1),  # type: ignore[call-arg]
            lambda: client.account.update_profile(name=text, wrong=1),  # type: ignore[call-arg]
            lambda: Credentials(consumer_key=text, wrong=1),  # type: ignore[call-arg]
            lambda: Credentials.from_env({"A": text}, wrong=1),  # type: ignore[call-arg]
            lambda: Client(text, wrong=1),  # type: ignore[call-arg,arg-type]
            lambda: QuickReply(text, wrong=1),  # type: ignore[call-arg]
            lambda: QuotaStore.from_url(f"redis://user:{text}@host", wrong=1),  # type: ignore[call-arg]
            lambda: crc_response(text, text, 1),  # type: ignore[call-arg]
            lambda: is_signed(text, b"", text, 1),  # type: ignore[call-arg]
            lambda: read_events(text, 1),  # type: ignore[call-arg]
        ]
        values: list[Callable[[], Any]] = [
            lambda: QuickReply([text]),  # type: ignore[arg-type]
            lambda: CallToAction(text, [text]),  # type: ignore[arg-type]
            lambda: TextInput(label=[text]),  # type: ignore[arg-type]
        ]
        for call in values:
            with pytest.raises(InvalidInput):
                call()
        for call in calls:
            before = secrets.scanned["exceptions"]
            with pytest.raises(TypeError, match=r"wrong|missing|positional") as caught:
                await call()
            assert secrets.scanned["exceptions"] > before
            assert text not in str(caught.value)
