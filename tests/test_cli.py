"""The command line, as processes of their own, against a sandbox."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import signal
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from aiohttp import web
from rich.console import Console

from tests.pictures import PNG
from tests.secrets import SECRETS
from tests.support import HANGS
from twdm_async import Client, PostgresQuotaStore, Priority, QuickReply, Quota, QuotaTable, SQLiteQuotaStore
from twdm_async.cli import progress, send_many
from twdm_async.cli.message_file import BadLines, Message, read_messages
from twdm_async.outbox import Outbox, State
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.webhooks import Webhook

if TYPE_CHECKING:
    from tests.forked import Forked, ForkServer
    from tests.postgres_server import PostgresServer


def environment(home: Path, sandbox: Sandbox | None = None) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key.split("_")[0] not in {"TWDM", "X", "TWITTER"}}
    kept |= {"HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    if sandbox is not None:
        keys = sandbox.credentials
        kept |= {
            "TWDM_API_URL": sandbox.url,
            "TWDM_CONSUMER_KEY": keys.consumer_key,
            "TWDM_CONSUMER_SECRET": keys.consumer_secret,
            "TWDM_ACCESS_TOKEN": keys.access_token,
            "TWDM_ACCESS_TOKEN_SECRET": keys.access_token_secret,
        }
    return kept


class Twdm:
    """``twdm`` with a home of its own and the sandbox' keys."""

    def __init__(self, fork_server: ForkServer, home: Path, sandbox: Sandbox | None) -> None:
        self._fork_server = fork_server
        self.environ = environment(home, sandbox)

    async def start(self, *arguments: str) -> Forked:
        return await self._fork_server.start("cli", arguments, self.environ)

    async def __call__(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        assert not [secret for secret in SECRETS if secret.encode() in err + out]
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def twdm(fork_server: ForkServer, tmp_path: Path, sandbox: Sandbox) -> Twdm:
    return Twdm(fork_server, tmp_path, sandbox)


async def test_profiles_and_a_message(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    picture = tmp_path / "anna.png"
    picture.write_bytes(PNG)
    code, out, _ = await twdm("profiles", "create", "Anna & Co", str(picture))
    assert code == 0
    profile = json.loads(out)
    assert profile["name"] == "Anna & Co"
    assert json.loads((await twdm("profiles", "get", profile["id"]))[1]) == profile
    assert json.loads((await twdm("profiles", "list"))[1]) == [profile]
    code, out, _ = await twdm("send", "5", "hello & goodbye", "--profile", profile["id"])
    assert code == 0
    assert json.loads(out)["custom_profile_id"] == profile["id"]
    assert "goodbye" not in out
    assert sandbox.messages[0].text == "hello & goodbye"
    assert (await twdm("profiles", "delete", profile["id"]))[0] == 0
    code, _, err = await twdm("profiles", "get", profile["id"])
    assert (code, err.count("\n")) == (1, 1)
    assert "HTTP 404, code 34" in err


async def test_the_account_is_updated(twdm: Twdm) -> None:
    code, out, _ = await twdm("account", "update", "--name", "New & Better", "--description", "")
    assert (code, json.loads(out)["name"]) == (0, "New & Better")
    code, _, err = await twdm("account", "update")
    assert code == 2
    assert "at least one of" in err


async def test_the_address_can_be_an_option(twdm: Twdm, sandbox: Sandbox) -> None:
    del twdm.environ["TWDM_API_URL"]
    assert (await twdm("send", "5", "hello", "--api-url", sandbox.url))[0] == 0
    assert (await twdm("profiles", "list", "--api-url", sandbox.url))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("send", "nobody", "hello"), "RECIPIENT: must be an id"),
        (("send", "5", ""), "TEXT: must not be empty"),
        (("send", "5", "hello", "--profile", "../x"), "--profile: must be"),
        (("send", "5", "hello", "--max-wait", "-1"), "--max-wait: must be"),
        (("profiles", "create", "Anna", "no/such/file.png"), "cannot be read"),
        (("profiles", "create", "", "5"), "NAME: must not be empty"),
        (("send-many", "no/such/file"), "cannot be read"),
        (("send", "5", "hello", "--api-url", "https://evil.example"), "--api-url: requests are signed for"),
    ],
)
async def test_bad_input_is_one_line_and_exit_code_2(
    twdm: Twdm, sandbox: Sandbox, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = await twdm(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert not sandbox.requests


async def test_without_keys(fork_server: ForkServer, tmp_path: Path) -> None:
    code, _, err = await Twdm(fork_server, tmp_path, None)("send", "5", "hello")
    assert code == 2
    assert "TWDM_CONSUMER_KEY" in err
    assert ".twurlrc" in err


async def test_keys_from_twurlrc(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    keys = sandbox.credentials
    entry = (
        f"{{consumer_key: {keys.consumer_key}, consumer_secret: {keys.consumer_secret}, "
        f"token: {keys.access_token}, secret: {keys.access_token_secret}}}"
    )
    file = tmp_path / ".twurlrc"
    file.write_text(
        f"profiles: {{brand: {{k: {entry}}}, other: {{k: {entry}}}}}\nconfiguration: {{default_profile: [brand, k]}}\n"
    )
    file.chmod(0o600)
    assert (await twdm("send", "5", "hello", "--username", "other"))[0] == 0
    for name in [name for name in twdm.environ if name.startswith("TWDM_") and name != "TWDM_API_URL"]:
        del twdm.environ[name]
    assert (await twdm("send", "5", "hello"))[0] == 0
    twdm.environ["X_API_KEY"] = "alone"
    code, _, err = await twdm("send", "5", "hello")
    assert code == 2
    assert "X_API_SECRET" in err


# ---- many messages ----


def outcomes(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.soak
async def test_a_file_of_sixty_messages(twdm: Twdm, sandbox: Sandbox, tmp_path: Path, profile_id: str) -> None:
    file = tmp_path / "messages.jsonl"
    rows = [{"recipient": str(1000 + number), "text": f"Nr. {number} & more"} for number in range(60)]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    code, _, err = await twdm("send-many", str(file), "--profile", profile_id)
    assert code == 0, err
    assert "60 sent" in err
    assert {(m.recipient_id, m.text) for m in sandbox.messages} == {(row["recipient"], row["text"]) for row in rows}
    assert {m.custom_profile_id for m in sandbox.messages} == {profile_id}
    results = outcomes(tmp_path / "messages.jsonl.results.jsonl")
    assert sorted(result["line"] for result in results) == list(range(1, 61))
    assert {result["id"] for result in results} == {message.id for message in sandbox.messages}
    assert not sandbox.breaches
    code, _, err = await twdm("send-many", str(file), "--profile", profile_id)
    assert (code, len(sandbox.messages)) == (0, 60), "the same file sent again sends nothing"
    assert "60 sent (60 of them by an earlier run; --run NAME sends them again)" in err
    assert all(result["earlier"] for result in outcomes(tmp_path / "messages.jsonl.results.jsonl"))
    assert sorted(result["line"] for result in outcomes(tmp_path / "messages.jsonl.results.jsonl")) == list(
        range(1, 61)
    )
    with file.open("a") as added:
        added.write(json.dumps(rows[0]) + "\n" + json.dumps(rows[0] | {"text": "new"}))
    code, _, err = await twdm("send-many", str(file), "--profile", profile_id)
    assert (code, len(sandbox.messages)) == (0, 62), "what was added is sent, also a line that stands there twice now"
    file.write_text(json.dumps(rows[0]))
    code, _, err = await twdm("send-many", str(file), "--profile", profile_id, "--run", "second")
    assert (code, len(sandbox.messages)) == (0, 63)
    another = tmp_path / "another.jsonl"
    another.write_text(file.read_text())
    code, _, err = await twdm("send-many", str(another), "--profile", profile_id)
    assert (code, len(sandbox.messages)) == (0, 64), "another file is another sending"
    file.with_name("messages.jsonl.results.jsonl").write_text("my diary")
    code, _, err = await twdm("send-many", str(file), "--run", "third")
    assert (code, len(sandbox.messages)) == (2, 64)
    assert "not a file of results" in err


async def test_a_csv_file_with_profiles_and_line_breaks(
    twdm: Twdm, sandbox: Sandbox, tmp_path: Path, profile_id: str
) -> None:
    file = tmp_path / "messages.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        writer = csv.writer(opened)
        writer.writerows([["text", "recipient", "profile"], ["two\nlines, é", "5", profile_id], ["plain", "6", ""]])
    code, _, err = await twdm("send-many", str(file), "--results", str(tmp_path / "out"))
    assert code == 0, err
    assert {(m.text, m.custom_profile_id) for m in sandbox.messages} == {("two\nlines, é", profile_id), ("plain", None)}
    assert {(result["line"], result["outcome"]) for result in outcomes(tmp_path / "out")} == {(2, "sent"), (4, "sent")}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (
            b'{"recipient":"5","text":"ok"}\n{"recipient":"x","text":"a"}\nnonsense\n\n{"recipient":"5"}\n',
            ["2", "3", "5"],
        ),
        (b'{"recipient":"5","text":"a","colour":"red"}\n[]\n{"recipient":5,"text":"\\ud800"}\n', ["1", "2", "3"]),
        (
            b'{"recipient":"5","text":""}\n{"recipient":"5","text":7}\n{"recipient":"5","text":"a","profile":"x"}',
            ["1", "2", "3"],
        ),
        (b"recipient,text\n5,ok\nx,a\n5\n5,a,b\n", ["3", "4", "5"]),
        (b'recipient,text\n5,"two\nlines"\nx,a\n', ["4"]),
        (b"recipient,text\n5,ok\n5,\xff\n", ["3"]),
        (b"who,what\n5,ok\n", ["1"]),
        (b"recipient,text,text\n5,a,b\n", ["1"]),
        (b'{"recipient":"5","text":"a"}\n"SENTINEL"\n{"recipient":"5","recipient":"6","text":"a"}\n', ["2", "3"]),
        (b'recipient,text\n5,"open\n', ["2"]),
        (b'recipient,text\n5,"a"b\nx,a\n5,\xff\ny,b\n5,' + b"z" * 200_000, ["2", "3", "4", "5", "6"]),
    ],
)
async def test_bad_lines_are_all_named_and_nothing_is_sent(
    twdm: Twdm, sandbox: Sandbox, tmp_path: Path, content: bytes, lines: list[str]
) -> None:
    file = tmp_path / "messages"
    file.write_bytes(content)
    code, _, err = await twdm("send-many", str(file))
    assert code == 2
    assert re.findall(r": line (\d+): ", err) == lines
    assert f"{len(lines)} bad line(s); nothing was sent" in err
    assert "SENTINEL" not in err
    assert not sandbox.requests
    assert list(tmp_path.glob("*.results.jsonl")) == []


async def test_the_ending_says_what_the_file_is(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    file.write_text(
        'nonsense\n{"recipient":"x","text":"a"}\n{"recipient":"5"}\n["5","a"]\n{"recipient":"5","text":"ok"}\n'
    )
    code, _, err = await twdm("send-many", str(file))
    assert (code, re.findall(r": line (\d+): ", err)) == (2, ["1", "2", "3", "4"])
    assert not sandbox.requests


async def test_wrong_keys_end_it_at_once(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    twdm.environ["TWDM_ACCESS_TOKEN_SECRET"] = "wrong"
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n" + "".join(f"{number},hello\n" for number in range(1, 301)))
    code, _, err = await twdm("send-many", str(file))
    assert code == 1
    assert "code 32" in err
    assert "300 stopped" in err
    assert len(sandbox.requests) <= 64
    assert len(outcomes(tmp_path / "messages.csv.results.jsonl")) == 300


async def test_a_full_disk_ends_it_and_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a disk that is always full")

    messages = [Message(line, "5", f"hello {line}", None) for line in range(1, 301)]
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    async with (
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client,
        Outbox(client, tmp_path / "outbox.db") as outbox,
    ):
        assert (await send_many.send_all(client, outbox, messages, Path("/dev/full"), console)).exit_code == 1
    said = printed.getvalue()
    assert "cannot be written: No space left on device" in said
    assert len(re.findall(r"^line \d+: sent$", said, re.MULTILINE)) == len(sandbox.messages), (
        "the terminal tells instead"
    )
    assert 1 <= len(sandbox.messages) <= 64
    assert f"{len(sandbox.messages)} sent" in said


async def test_an_empty_file(twdm: Twdm, tmp_path: Path) -> None:
    for content in ("", "recipient,text\n"):
        (tmp_path / "empty").write_text(content)
        code, _, err = await twdm("send-many", str(tmp_path / "empty"))
        assert code == 2
        assert "no message" in err


async def test_what_cannot_be_sent_is_written_down_and_the_rest_is_sent(
    twdm: Twdm, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.unreachable.add("7")
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n5,a\n7,b\n6,c\n")
    code, _, err = await twdm("send-many", str(file))
    assert code == 1
    assert "2 sent, 1 not sent" in err or "1 not sent" in err
    results = {result["line"]: result for result in outcomes(tmp_path / "messages.csv.results.jsonl")}
    assert [results[line]["outcome"] for line in (2, 3, 4)] == ["sent", "not sent", "sent"]
    assert "code 349" in results[3]["error"]


async def test_fault_81_the_same_under_another_profile_is_refused(
    twdm: Twdm, sandbox: Sandbox, tmp_path: Path, profile_id: str
) -> None:
    """Sent once without a profile, the file is sent under one: nobody gets it twice, and the reason is told."""
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n5,a\n6,b\n")
    assert (await twdm("send-many", str(file)))[0] == 0
    code, _, err = await twdm("send-many", str(file), "--profile", profile_id)
    assert (code, len(sandbox.messages)) == (2, 2)
    assert "line 2: an earlier run sent this text to this person without a profile; --run NAME makes it another" in err
    assert "2 bad line(s); nothing was sent" in err
    code, _, err = await twdm("send-many", str(file), "--profile", profile_id, "--run", "again")
    assert (code, len(sandbox.messages)) == (0, 4)
    code, _, err = await twdm("send-many", str(file), "--run", "again")
    assert (code, len(sandbox.messages)) == (2, 4)
    assert f"under profile {profile_id}" in err


@pytest.mark.parametrize(
    ("recipients", "bad"),
    [
        (["1580000000000000000", "1580000000000010000", "2"], ["2", "3"]),
        (["1580000000000000000", "1580000000000000001", "2"], []),  # one of them may be true
        ([f"15800000000000{number:05}" for number in range(1, 20_000, 7)], []),  # and so may one in ten thousand
        (["1234567890120000", "1234567890130000"], ["2", "3"]),
        (["158000000000001000", "158000000000002000", "158000000000003000"], ["2", "3", "4"]),
        (["120000", "130000", "140000"], []),  # so short a number is not rounded
    ],
)
def test_fault_82_ids_that_a_spreadsheet_has_rounded_are_refused(
    recipients: list[str], bad: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n" + "".join(f"{one},hello\n" for one in recipients))
    if not bad:
        assert len(read_messages(str(file), None)) == len(recipients)
        return
    with pytest.raises(BadLines) as caught:
        read_messages(str(file), None)
    assert [line.split(":")[0] for line in caught.value.lines] == [f"line {number}" for number in bad]
    assert "rounded to 15 digits" in caught.value.lines[0]


async def test_fault_83_a_profile_that_does_not_exist_is_found_before_anything_is_sent(
    twdm: Twdm, sandbox: Sandbox, tmp_path: Path, profile_id: str
) -> None:
    file = tmp_path / "messages.csv"
    file.write_text(f"recipient,text,profile\n5,a,{profile_id}\n5,b,999\n6,c,999\n7,d,999\n")
    code, _, err = await twdm("send-many", str(file))
    assert (code, len(sandbox.messages)) == (2, 0)
    assert "line 3: profile: this account has no custom profile 999, which 2 more lines name" in err
    assert sum(request.endpoint == "custom_profiles.get" for request in sandbox.requests) == 2


async def test_fault_83_reasons_are_told_together(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.unreachable.update({"7", "8"})
    sandbox.faults.append(Fault("automated", endpoint="direct_messages.send", recipient_id="9"))
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n" + "".join(f"{number},hello\n" for number in range(5, 10)))
    code, _, err = await twdm("send-many", str(file))
    assert code == 1
    assert "2 times: direct_messages.send: HTTP 403, code 349: You cannot send messages to this user." in err
    assert "1 times: direct_messages.send: HTTP 403, code 226" in err


async def test_what_else_is_in_the_outbox_is_said_and_nobody_waits_for_it(
    twdm: Twdm, sandbox: Sandbox, client: Client, tmp_path: Path
) -> None:
    """As after a command that was killed. One of its messages is unknown, and the list will not show it for long."""
    sandbox.list_lag = (600.0, 600.0)
    sandbox.faults.append(Fault("reset", endpoint="direct_messages.send", recipient_id="9"))
    async with Outbox(client, tmp_path / "outbox.db") as outbox:
        await outbox.put(9, "unknown", key="unknown")
        async with outbox.running():
            while (await outbox.counts())[State.UNKNOWN] == 0:
                await asyncio.sleep(0.01)
        await outbox.put(8, "queued", key="queued")
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n5,hello\n")
    code, _, err = await twdm("send-many", str(file), "--outbox", str(tmp_path / "outbox.db"))
    assert (code, err.splitlines()[0]) == (
        0, "messages in the outbox that are not from this file: 1; meanwhile they are sent, too"
    )  # fmt: skip
    assert "1 sent" in err
    code, _, err = await twdm("send-many", str(file), "--outbox", str(tmp_path / "outbox.db"))
    assert (code, "1 sent (1 of them by an earlier run" in err) == (0, True)


@pytest.mark.parametrize("is_silent", [True, False])
async def test_ctrl_c_while_a_message_is_on_its_way_says_what_became_of_it(
    fork_server: ForkServer, tmp_path: Path, *, is_silent: bool
) -> None:
    faults = [Fault("silence", endpoint="direct_messages.send")] if is_silent else []
    async with Sandbox(latency=(0.2, 0.2), faults=faults) as sandbox:
        process = await Twdm(fork_server, tmp_path, sandbox).start("send", "5", "hello")
        while not sandbox.messages:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert b"Traceback" not in err
    if is_silent:
        assert process.returncode == 4
        assert b"the client was closed before a reply came; it cannot be told whether the server acted on it" in err
    else:
        assert (process.returncode, json.loads(out)["recipient_id"]) == (0, "5")


async def test_ctrl_c_stops_cleanly_and_says_what_went_out(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "messages.csv"
    file.write_text("recipient,text\n" + "".join(f"{number},hello {number}\n" for number in range(1, 501)))
    process = await twdm.start("send-many", str(file))
    while len(sandbox.messages) < 30:
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    results = outcomes(tmp_path / "messages.csv.results.jsonl")
    sent = {result["id"] for result in results if result["outcome"] == "sent"}
    assert sent == {message.id for message in sandbox.messages}
    assert 30 <= len(sent) < 500
    assert len(results) == 500
    assert {result["outcome"] for result in results} == {"sent", "stopped"}
    assert f"{len(sent)} sent" in err.decode()
    _, counted, _ = await twdm("outbox", "status")
    assert {state: count for state, count in json.loads(counted).items() if count} == {"sent": len(sent)}


# ---- PostgreSQL ----


@pytest.mark.slow
async def test_the_tables_in_a_database(twdm: Twdm, sandbox: Sandbox, postgres: PostgresServer) -> None:
    address = f"{postgres.url}?twdm_schema=by_command"
    code, _, err = await twdm("database", "check", address)
    assert (code, "twdm database install" in err) == (5, True)
    for word in ("install", "install", "upgrade"):
        assert (await twdm("database", word, address))[0] == 0
    twdm.environ |= {"TWDM_DATABASE": address, "TWDM_QUOTA_STORE": address}
    assert (await twdm("outbox", "put", "5", "hello", "--key", "a"))[0] == 0
    assert (await twdm("outbox", "run"))[0] == 0
    assert [message.text for message in sandbox.messages] == ["hello"]
    assert json.loads((await twdm("outbox", "status"))[1])["sent"] == 1
    code, out, _ = await twdm("inbox", "failed")
    assert (code, json.loads(out)) == (0, [])
    async with (
        PostgresQuotaStore(address) as store,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as client,
        Outbox(client, address) as outbox,
    ):
        await outbox.put("5", "SENTINEL")
        code, out, _ = await twdm("database", "check")
        assert {"outbox"} <= {user["package"] for user in json.loads(out)}
    code, out, _ = await twdm("database", "sql", "--schema", "mine")
    assert (code, 'CREATE SCHEMA "mine"' in out) == (0, True)
    assert (await twdm("database", "resume"))[0] == 2
    assert (await twdm("database", "resume", "--lost", "--nothing-lost"))[0] == 2
    assert (await twdm("database", "resume", "--nothing-lost"))[0] == 0
    for bad, words in (("mysql://x", "postgresql://"), ("postgresql://127.0.0.1:1/x", "reachable")):
        code, _, err = await twdm("database", "check", bad)
        assert code in {2, 5}
        assert words in err


# ---- the sandbox and the demonstration ----


async def test_the_sandbox_as_a_process(fork_server: ForkServer, tmp_path: Path) -> None:
    twdm = Twdm(fork_server, tmp_path, None)
    server = await twdm.start("sandbox", "--port", "0")
    exported: dict[str, str] = {}
    while len(exported) < 7:
        line = (await server.stdout.readline()).decode()
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            exported[name] = value
    twdm.environ |= exported
    assert (await twdm("send", "5", "hello"))[0] == 0
    memory = Path(exported["TWDM_QUOTA_STORE"].removeprefix("sqlite:///"))
    assert memory.exists(), "what is spent in a sandbox is remembered as long as it runs"
    port = exported["TWDM_API_URL"].rpartition(":")[2]
    code, _, err = await twdm("sandbox", "--port", port)
    assert code == 1
    assert f"a sandbox runs at http://127.0.0.1:{port} already" in err
    server.send_signal(signal.SIGINT)
    _, err_bytes = await server.communicate()
    assert b"1 messages, 0 requests over a quota" in err_bytes
    assert b"Traceback" not in err_bytes
    assert not memory.parent.exists()


async def test_what_was_spent_is_remembered_in_the_state_folder(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    twdm.environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    code, _, err = await twdm("account", "update", "--name", "first")
    assert code == 0, err
    async with (
        SQLiteQuotaStore(tmp_path / "state/twdm_async/quota.db") as store,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as client,
    ):
        for _ in range(14):  # of 15 that may leave in 15 minutes
            await client.account.update_profile(name="next")
    code, _, err = await twdm("account", "update", "--name", "last", "--max-wait", "1")
    assert code == 3
    assert "the user quota (15 in 900 s) frees a slot in" in err
    assert not sandbox.breaches
    [file] = [path for path in (tmp_path / "state").rglob("*") if path.name == "quota.db"]
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    code, _, err = await twdm("profiles", "list", "--quota-store", "memory://")
    assert code == 0, err
    file.write_bytes(b"")
    code, _, err = await twdm("account", "update", "--name", "x")
    assert code == 5
    assert "it is empty" in err
    code, _, err = await twdm("account", "update", "--name", "x", "--quota-store", "mysql://x")
    assert code == 2


async def test_the_priority_of_a_file_can_be_chosen(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    file.write_text("".join(json.dumps({"recipient": "5", "text": str(number)}) + "\n" for number in range(5)))
    code, _, err = await twdm("send-many", str(file), "--priority", "interactive")
    assert code == 0, err
    assert len(sandbox.messages) == 5
    code, _, err = await twdm("send-many", str(file), "--results", str(tmp_path / "second"), "--priority", "urgent")
    assert code == 2


@pytest.mark.soak
@pytest.mark.parametrize(("priority", "seconds"), [(Priority.INTERACTIVE, 0), (Priority.BULK, 1)])
async def test_a_file_of_bulk_messages_says_that_it_waits_for_its_share(
    tmp_path: Path, priority: Priority, seconds: float
) -> None:
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(30, per=6.0))
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=200)
    messages = [Message(number, "5", str(number), None) for number in range(15)]
    async with (
        Sandbox(quotas=quotas) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=quotas) as client,
        Outbox(client, tmp_path / "outbox.db") as outbox,
    ):
        began = time.monotonic()
        results = tmp_path / "results"
        summary = await send_many.send_all(client, outbox, messages, results, console, priority=priority)
        assert summary.exit_code == 0
        assert time.monotonic() - began >= seconds
        assert not sandbox.breaches
    told = re.search(r"waiting for quota: \d+ of 30 are spent, \d+ kept", said.getvalue())
    assert (told is not None) == (priority is Priority.BULK)
    assert bool(re.search(r"the next message leaves at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", said.getvalue())) == (
        priority is Priority.BULK
    )


@pytest.mark.slow
async def test_a_pause_after_failures_is_shown(tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=200)
    messages = [Message(number, "5", str(number), None) for number in range(10)]
    async with (
        Sandbox(faults=[Fault("proxy_403", endpoint="direct_messages.send")]) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=sandbox.quotas) as client,
        Outbox(client, tmp_path / "outbox.db") as outbox,
    ):
        results, priority = tmp_path / "results", Priority.INTERACTIVE
        sending = asyncio.create_task(send_many.send_all(client, outbox, messages, results, console, priority=priority))
        while "waiting after failures" not in said.getvalue():
            await asyncio.sleep(0.01)
        sandbox.faults.clear()
        assert (await sending).exit_code == 0
        assert await outbox.next_try() is None
    assert re.search(
        r"waiting after failures; the next message leaves at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", said.getvalue()
    )


async def test_a_short_time_to_settle_is_refused_by_the_name_of_its_option(twdm: Twdm, tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    file.write_text('{"recipient": "5", "text": "hi"}\n')
    for command in (("send-many", str(file)), ("outbox", "run")):
        code, _, err = await twdm(*command, "--settle-after", "5")
        assert code == 2
        assert "--settle-after: must be 150 seconds or more" in err


@pytest.mark.soak
async def test_the_demonstration(fork_server: ForkServer, tmp_path: Path) -> None:
    code, out, err = await Twdm(fork_server, tmp_path, None)("demo", "--svg", str(tmp_path / "demo.svg"))
    assert code == 0, err
    assert re.search(r"600 │\s+0 │\s+0 │\s+0 │\s+0 │ 125( \d+){3,} │", out)
    assert "Nothing lost, nothing doubled, no quota breached" in out
    assert (tmp_path / "demo.svg").read_text().startswith("<svg")


async def test_help_names_every_command(twdm: Twdm) -> None:
    code, out, _ = await twdm("--help")
    assert code == 0
    for command in (
        "demo",
        "sandbox",
        "send",
        "send-many",
        "profiles",
        "account",
        "messages",
        "welcome",
        "media",
        "doctor",
    ):
        assert command in out


# ---- the rest of the family ----


async def test_messages_are_shown_saved_and_deleted(
    twdm: Twdm, sandbox: Sandbox, client: Client, tmp_path: Path
) -> None:
    media = await client.media.upload(PNG, category="dm_image")
    sent = await client.direct_messages.send(5, "here & there", attachment=media)
    received = sandbox.person(5).writes("thanks <3")
    code, out, _ = await twdm("messages", "list")
    listed = json.loads(out)
    assert code == 0
    assert [(one["id"], one["sender_id"]) for one in listed] == [(received, "5"), (sent.id, "2244994945")]
    assert listed[0]["text"] == "thanks <3"
    path = tmp_path / "saved"
    code, out, _ = await twdm("messages", "get", str(sent.id), "--save", str(path))
    assert (code, json.loads(out)["text"].split(" https")[0], path.read_bytes()) == (0, "here & there", PNG)
    code, _, err = await twdm("messages", "get", received, "--save", str(path))
    assert (code, "no file" in err) == (1, True)
    assert (await twdm("messages", "delete", received))[0] == 0
    assert [message.id async for message in client.direct_messages.list()] == [sent.id]


@pytest.mark.soak
async def test_listening_shows_each_message_once_over_restarts(twdm: Twdm, sandbox: Sandbox) -> None:
    sandbox.person(5).writes("before")
    for number in range(2):
        process = await twdm.start("messages", "listen", "--every", "1")
        reads = len(sandbox.requests)
        while number == 0 and len(sandbox.requests) == reads:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        sandbox.person(5).writes(f"hello {number}")
        async with asyncio.timeout(HANGS):
            line = await process.stdout.readline()
        assert json.loads(line)["text"] == f"hello {number}"
        process.send_signal(signal.SIGINT)
        rest, err = await process.communicate()
        assert (process.returncode, rest, err) == (0, b"", b"")


async def test_welcome_messages(twdm: Twdm, sandbox: Sandbox, client: Client) -> None:
    code, out, err = await twdm(
        "welcome",
        "create",
        "Hello & welcome",
        "--name",
        "first",
        "--choice",
        "Order=o",
        "--choice",
        "Bill",
        "--default",
    )
    assert code == 0, err
    made = json.loads(out)
    assert made["text"] == "Hello & welcome"
    person = sandbox.person(5)
    assert person.welcome is not None
    assert person.welcome["message_data"]["quick_reply"]["options"] == [
        {"label": "Order", "metadata": "o"},
        {"label": "Bill"},
    ]
    assert json.loads((await twdm("welcome", "update", made["id"], "Good day"))[1])["text"] == "Good day"
    other = (await client.welcome_messages.create("Other")).id
    await client.welcome_message_rules.set_default(other)
    listed = json.loads((await twdm("welcome", "list"))[1])
    assert [one["text"] for one in listed["welcome_messages"]] == ["Good day", "Other"]
    assert [one["welcome_message_id"] for one in listed["rules"]] == [other]
    assert (await twdm("welcome", "clear"))[0] == 0
    assert sandbox.person(5).welcome is None


@pytest.mark.soak
async def test_a_film_is_uploaded(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + b"x" * 3_000_000)
    for version in ("v1.1", "v2"):
        code, out, err = await twdm("media", "upload", str(path), "--category", "dm_video", "--media-api", version)
        assert code == 0, err
        assert sandbox.media[json.loads(out)["id"]].content == path.read_bytes()


async def test_the_doctor_says_what_is_missing(twdm: Twdm, sandbox: Sandbox) -> None:
    code, out, _ = await twdm("doctor")
    assert (code, [row["allowed"] for row in json.loads(out)]) == (0, [True] * 4 + [None])
    assert "0 of 1000 (user)" in out
    keys = sandbox.add_account(permission="read-write", allowlisted=False)
    twdm.environ |= {"TWDM_ACCESS_TOKEN": keys.access_token, "TWDM_ACCESS_TOKEN_SECRET": keys.access_token_secret}
    code, out, _ = await twdm("doctor")
    assert (code, "Read, Write, and Direct Messages" in out, "allow-list" in out) == (1, True, True)


# ---- the outbox ----


async def test_the_outbox(twdm: Twdm, sandbox: Sandbox) -> None:
    code, out, err = await twdm("outbox", "put", "5", "hello & welcome", "--key", "a")
    assert (code, json.loads(out)["state"]) == (0, "queued"), err
    assert "hello" not in out
    assert json.loads(out)["priority"] == "interactive"
    code, _, err = await twdm("outbox", "put", "5", "hello & welcome", "--key", "a")
    assert code == 0, "the same again changes nothing"
    code, _, err = await twdm("outbox", "put", "5", "something else", "--key", "a")
    assert (code, "key: was used for another message" in err) == (2, True)
    sandbox.unreachable.add("6")
    assert (await twdm("outbox", "put", "6", "hello", "--key", "b"))[0] == 0
    assert (await twdm("outbox", "put", "7", "too late", "--key", "c", "--not-after", "2020-01-01T00:00:00"))[0] == 0
    code, out, err = await twdm("outbox", "run")
    assert (code, json.loads(out)) == (1, {"sent": 1, "rejected": 1, "expired": 1}), err
    assert [message.text for message in sandbox.messages] == ["hello & welcome"]
    code, out, _ = await twdm("outbox", "status", "a")
    assert json.loads(out)["message_id"] == sandbox.messages[0].id
    assert json.loads((await twdm("outbox", "status"))[1])["rejected"] == 1
    assert json.loads((await twdm("outbox", "status", "--processes"))[1]) == []
    assert [entry["key"] for entry in json.loads((await twdm("outbox", "status", "--state", "rejected"))[1])] == ["b"]
    assert (await twdm("outbox", "status", "nothing"))[0] == 2
    sandbox.unreachable.clear()
    assert (await twdm("outbox", "retry"))[0] == 2
    code, out, _ = await twdm("outbox", "retry", "b", "nothing")
    assert (code, json.loads(out)) == (1, {"queued": 1})
    code, out, _ = await twdm("outbox", "run")
    assert (code, json.loads(out)) == (0, {"sent": 2, "expired": 1}), "what expired, expired before"
    assert len(sandbox.messages) == 2
    assert json.loads((await twdm("outbox", "purge"))[1]) == {"forgotten": 0}
    assert json.loads((await twdm("outbox", "purge", "--older-than", "0"))[1]) == {"forgotten": 0}


async def test_an_outbox_that_runs_forever_ends_cleanly(twdm: Twdm, sandbox: Sandbox) -> None:
    process = await twdm.start("outbox", "run", "--forever")
    assert (await twdm("outbox", "put", "5", "hello"))[0] == 0
    while not sandbox.messages:
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    assert (process.returncode, json.loads(out)) == (0, {"sent": 1}), err


@pytest.mark.slow
async def test_ctrl_c_ends_an_outbox_that_waits(twdm: Twdm, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("silence", endpoint="direct_messages.send", nth=2, processed=False))
    for number in range(2):
        assert (await twdm("outbox", "put", "5", f"hello {number}"))[0] == 0
    running = await twdm.start("outbox", "run", "--workers", "1")
    async with asyncio.timeout(HANGS):
        while len(sandbox.requests) < 1 or not sandbox.messages:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
    running.send_signal(signal.SIGINT)
    await asyncio.sleep(0.2)
    running.send_signal(signal.SIGINT)  # at once: what is under way would take half a minute
    _, err = await running.communicate()
    assert running.returncode == 130, err
    assert b"stopping: what is under way is finished; a second Ctrl-C ends it at once" in err
    assert b"Traceback" not in err


@pytest.mark.slow
async def test_an_outbox_that_is_stopped_while_it_waits_for_quota(twdm: Twdm, sandbox: Sandbox, tmp_path: Path) -> None:
    store = SQLiteQuotaStore(tmp_path / "spent.db", assume_spent=0.9999)
    async with store, sandbox.client(quota_store=store, clock=None):
        pass
    assert (await twdm("outbox", "put", "5", "hello"))[0] == 0
    running = await twdm.start("outbox", "run", "--quota-store", f"sqlite:///{tmp_path}/spent.db",
                               "--outbox", str(tmp_path / ".local/state/twdm_async/quota.db"))  # fmt: skip
    async with asyncio.timeout(HANGS):
        while b"waiting for quota" not in (line := await running.stderr.readline()):
            assert line, "it has ended"
    running.send_signal(signal.SIGTERM)
    await running.communicate()
    assert running.returncode == 130
    assert sandbox.messages == []


async def test_only_a_wait_for_quota_is_called_so(client: Client) -> None:
    (free,) = [
        state for state in client.quota_state() if state.endpoint == "direct_messages.send" and state.scope == "user"
    ]
    waiting = attrs.evolve(free, used=35, reserved=298, waiting=3)
    assert progress._for_quota(client, [waiting]) == (progress._SENDING, 0.0), "the pace keeps them"
    words, seconds = progress._for_quota(
        client, [attrs.evolve(waiting, bulk_free_at=free.free_at + timedelta(hours=1))]
    )
    assert "35 of 1000 are spent, 298 kept for interactive messages; the next message leaves at" in words
    assert 3500 < seconds <= 3600
    later = free.free_at + timedelta(hours=2)
    spent = attrs.evolve(waiting, used=1000, reserved=34, free_at=later, bulk_free_at=later)
    assert "1000 of 1000 are spent; the next message" in progress._for_quota(client, [spent])[0], (
        "nothing is kept of it"
    )


@pytest.mark.soak
async def test_messages_that_another_process_sends_are_not_called_stopped(
    twdm: Twdm, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Whatever a line's outcome says, the server knows better."""
    sandbox.faults.append(Fault("silence", endpoint="direct_messages.send", nth=3))
    file = tmp_path / "messages.jsonl"
    file.write_text("".join(f'{{"recipient": "{n}", "text": "hello {n}"}}\n' for n in range(40)))
    other = await twdm.start("outbox", "run", "--forever", "--workers", "4")
    sending = await twdm.start("send-many", str(file), "--priority", "interactive")
    async with asyncio.timeout(HANGS):
        while len(sandbox.messages) < 5:
            await asyncio.sleep(0.01)
    sending.send_signal(signal.SIGTERM)
    _, err = await sending.communicate()
    outcomes = {row["recipient"]: row["outcome"] for row in
                map(json.loads, (tmp_path / "messages.jsonl.results.jsonl").read_text().splitlines())}  # fmt: skip
    assert len(outcomes) == 40, err
    async with asyncio.timeout(HANGS):
        while True:
            counts = json.loads((await twdm("outbox", "status"))[1])
            if not counts["queued"] and counts["sending"] <= 1:
                break
            await asyncio.sleep(0.1)
    other.send_signal(signal.SIGKILL)
    await other.communicate()
    arrived = {message.recipient_id for message in sandbox.messages}
    assert not arrived & {recipient for recipient, outcome in outcomes.items() if outcome == "stopped"}


async def test_wrong_keys_leave_the_outbox_as_it_is(twdm: Twdm, sandbox: Sandbox) -> None:
    twdm.environ["TWDM_ACCESS_TOKEN_SECRET"] = "wrong"
    assert (await twdm("outbox", "put", "5", "hello", "--key", "a"))[0] == 0
    for options in ((), ("--forever",)):
        code, _, err = await twdm("outbox", "run", *options)
        assert (code, "code 32" in err) == (1, True)
    assert json.loads((await twdm("outbox", "status", "a"))[1])["state"] == "queued"
    assert len(sandbox.requests) == 2


@pytest.mark.slow
async def test_being_a_person_in_the_sandbox_from_a_second_shell(twdm: Twdm, sandbox: Sandbox, client: Client) -> None:
    twdm.environ["TWDM_SANDBOX"] = sandbox.url
    listening = await twdm.start("messages", "listen", "--every", "1")
    while not sandbox.requests:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    code, out, _ = await twdm("sandbox", "say", "5", "Hello & \u202e")
    assert code == 0
    async with asyncio.timeout(HANGS):
        heard = json.loads(await listening.stdout.readline())
    listening.send_signal(signal.SIGINT)
    await listening.communicate()
    assert (heard["id"], heard["text"]) == (json.loads(out)["id"], "Hello & \u202e")

    await client.direct_messages.send(5, "What is it about?", quick_replies=[QuickReply("Order")])
    assert (await twdm("sandbox", "tap", "5", "Order"))[0] == 0
    assert (await twdm("sandbox", "read", "5"))[0] == 0
    code, out, _ = await twdm("sandbox", "log", "--messages", "--most", "2")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["What is it about?", "Order"]
    code, out, _ = await twdm("sandbox", "log", "--refused")
    assert (code, out) == (0, "")
    code, out, _ = await twdm("sandbox", "log")
    assert [json.loads(line)["status"] for line in out.splitlines()] == [200] * len(sandbox.requests)
    moments = [datetime.fromisoformat(json.loads(line)["at"]) for line in out.splitlines()]
    assert all(abs(moment - datetime.now(UTC)) < timedelta(hours=1) for moment in moments)
    assert json.loads((await twdm("sandbox", "fault", "503", "--probability", "0.5"))[1])["kinds"] == ["503"]
    assert json.loads((await twdm("sandbox", "fault"))[1])[0]["probability"] == 0.5
    assert json.loads((await twdm("sandbox", "fault", "--off"))[1]) == []
    assert (await twdm("sandbox", "clear"))[0] == 0
    assert (sandbox.messages, sandbox.requests) == ([], [])


async def test_a_day_that_a_shell_lets_pass_frees_the_quota_of_the_next_command(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    table = QuotaTable.default().replace("direct_messages.send", Quota(1000, per=86_400.0), credit=None)
    async with Sandbox(quotas=table, time_scale=2.0) as sandbox:
        twdm = Twdm(fork_server, tmp_path, sandbox)
        twdm.environ |= {"TWDM_SANDBOX": sandbox.url, "TWDM_QUOTA_STORE": f"sqlite:///{tmp_path}/quota.db"}
        # All of it was spent, for all that is known.
        path = tmp_path / "quota.db"
        async with (
            SQLiteQuotaStore(path, clock=sandbox.time, assume_spent=0.9999) as store,
            sandbox.client(quota_store=store),
        ):
            pass
        code, _, err = await twdm("send", "5", "too much", "--max-wait", "0")
        assert (code, "quota" in err) == (3, True)
        code, out, _ = await twdm("sandbox", "time", "+24h")
        assert (code, json.loads(out)["scale"]) == (0, 2.0)
        assert (await twdm("send", "5", "a day later", "--max-wait", "0"))[0] == 0
        assert [message.text for message in sandbox.messages] == ["a day later"]
        assert json.loads((await twdm("sandbox", "quotas"))[1])[0]["used"] == 1
        assert not sandbox.breaches


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("time", "tomorrow"), "90s, 15min, 24h or 2d"),
        (("tap", "5", "No"), "no message offers this answer"),
        (("say", "x", "Hello"), "user_id"),
        (("fault", "nonsense"), "must be one or more of"),
        (("webhook", "http://127.0.0.1:1/"), "did not pass the check"),
        (("--fault", "nope"), "--fault: must be one or more of"),
        (("--time-scale", "0"), "--time-scale: must be"),
        (("--webhook", "nonsense"), "--webhook: nonsense is not an http or https URL"),
        (("--port", "18911", "say", "5", "Hello"), "--port is for starting a sandbox"),
    ],
)
async def test_what_a_shell_cannot_do_in_the_sandbox_is_said(
    twdm: Twdm, sandbox: Sandbox, arguments: tuple[str, ...], words: str
) -> None:
    twdm.environ["TWDM_SANDBOX"] = sandbox.url
    code, out, err = await twdm("sandbox", *arguments)
    assert (code, out, err.startswith("error: ")) == (2, "", True), err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.slow
async def test_a_sandbox_in_a_shell_shows_a_page_and_waits_for_a_webhook(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    twdm = Twdm(fork_server, tmp_path, None)
    with socket.create_server(("127.0.0.1", 0)) as found:
        webhook_url = f"http://127.0.0.1:{found.getsockname()[1]}/webhook"
    process = await twdm.start("sandbox", "--port", "0", "--webhook", webhook_url)
    async with asyncio.timeout(HANGS):
        page = (await process.stdout.readline()).decode().split(": ")[1].strip()
        exported = [(await process.stdout.readline()).decode() for _ in range(8)]
        assert b"trying again every second" in await process.stderr.readline()
        names = {line.split("=")[0].removeprefix("export ") for line in exported if line.startswith("export")}
        assert {"TWDM_API_URL", "TWDM_SANDBOX", "TWDM_QUOTA_STORE"} <= names
        heard = asyncio.Event()
        credentials = Sandbox().credentials
        app = web.Application()
        webhook = Webhook(credentials, lambda _: heard.set())
        app.router.add_route("*", "/webhook", webhook.serve)
        app.cleanup_ctx.append(webhook.lifespan)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", int(webhook_url.split(":")[2].split("/", maxsplit=1)[0])).start()
            assert b"events are sent there" in await process.stderr.readline()
            assert (await twdm("sandbox", "say", "5", "Hello", "--url", page.rstrip("/")))[0] == 0
            await heard.wait()
        finally:
            await runner.cleanup()
            process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0
