"""Each command of ``twdm``: JSON, wrong arguments, missing keys, a dead server, and a wait that may not be long."""

from __future__ import annotations

import asyncio
import getpass
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import click
import pytest
from attrs import asdict

import twdm_async
from tests.pictures import PNG
from tests.secrets import SECRETS
from twdm_async import Client, QuotaTable, SQLiteQuotaStore
from twdm_async.cli import root
from twdm_async.cli.root import EXIT_CODES
from twdm_async.quota.spec import Quota
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEAD: Final = "http://127.0.0.1:1"
FILE: Final = "{folder}/messages.jsonl"
# What each command is called with; none of them changes what another one needs.
CALLS: Final = {
    "account show": [],
    "account update": ["--name", "Anna"],
    "completion": ["bash"],
    "database check": ["postgresql://127.0.0.1:1/nowhere"],
    "database install": ["postgresql://127.0.0.1:1/nowhere"],
    "database resume": ["postgresql://127.0.0.1:1/nowhere", "--lost"],
    "database sql": [],
    "database upgrade": ["postgresql://127.0.0.1:1/nowhere"],
    "demo": [],
    "doctor": [],
    "inbox failed": ["--inbox", "{folder}/inbox.db"],
    "inbox forget": ["--inbox", "{folder}/inbox.db", "--all"],
    "inbox retry": ["--inbox", "{folder}/inbox.db", "--all"],
    "inbox unread": ["--inbox", "{folder}/inbox.db"],
    "media upload": ["{folder}/anna.png"],
    "mcp": ["--name", "billing=1"],
    "messages delete": ["{message}"],
    "messages get": ["{message}"],
    "messages list": ["--most", "1"],
    "messages listen": [],
    "outbox approve": ["held"],
    "outbox held": [],
    "outbox purge": [],
    "outbox put": ["5", "hello", "--choice", "Yes=1", "--button", "Shop=https://example.com", "--attach", "{media}"],
    "outbox reject": ["held", "--why", "no"],
    "outbox retry": ["--all"],
    "outbox run": [],
    "outbox status": [],
    "outbox withdraw": ["held"],
    "profiles create": ["Anna", "{folder}/anna.png"],
    "profiles delete": ["{profile}"],
    "profiles get": ["{profile}"],
    "profiles list": [],
    "quotas": ["--all"],
    "sandbox": ["--port", "0"],
    "sandbox clear": [],
    "sandbox env": ["--wait", "0"],
    "sandbox fault": ["--off"],
    "sandbox log": [],
    "sandbox quotas": [],
    "sandbox read": ["{person}"],
    "sandbox say": ["{person}", "hello"],
    "sandbox tap": ["{person}", "Order"],
    "sandbox time": [],
    "sandbox webhook": ["http://127.0.0.1:1/", "--off"],
    "send": ["5", "hello", "--choice", "Yes", "--button", "Shop=https://example.com", "--attach", "{folder}/anna.png"],
    "send-many": [FILE],
    "users get": ["@person_5"],
    "welcome clear": [],
    "welcome create": ["Hello", "--choice", "Order"],
    "welcome default": ["{welcome}"],
    "welcome delete": ["{welcome}"],
    "welcome get": ["{welcome}"],
    "welcome list": [],
    "welcome update": ["{welcome}", "Good day"],
}
PATIENT: Final = {"messages listen", "send-many"}  # they try again, and say so
UNENDING: Final = {"mcp", "messages listen", "sandbox"}  # until Ctrl-C
LONG: Final = {"demo"}
NO_DATABASE: Final = {name for name, arguments in CALLS.items() if "postgresql://127.0.0.1:1/nowhere" in arguments}
OFFLINE: Final = {name for name in CALLS if name.startswith("outbox ")} | {"mcp", "quotas"}


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its name."""
    context = click.Context(root.root)
    for name in root.root.list_commands(context):
        command = root.root.get_command(context, name)
        assert command is not None
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())


def talking() -> list[str]:
    """Those that talk to the API."""
    return [name for name, command in leaves() if "--max-wait" in {opt for one in command.params for opt in one.opts}]


class Double:
    """A sandbox in a thread of its own, and what there is in it."""

    def __init__(self, folder: Path) -> None:
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()])
        self.names: dict[str, str] = {"folder": str(folder), "person": "7"}
        self._thread.start()
        self._ready.wait()

    async def _run(self) -> None:
        async with Sandbox() as self.sandbox, self.sandbox.client() as client:
            profile = await client.custom_profiles.create("Anna", PNG)
            media = await client.media.upload(PNG, category="dm_image", shared=True)
            sent = await client.direct_messages.send(7, "hello", quick_replies=[twdm_async.QuickReply("Order")])
            made = await client.welcome_messages.create("hello")
            await client.welcome_message_rules.set_default(made)
            self.names |= {"profile": profile.id, "media": media.id, "message": sent.id or "", "welcome": made.id}
            self._ready.set()
            await self._stop.wait()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is home, with the files that the commands read."""
    for name in list(os.environ):
        if name.split("_")[0] in {"TWDM", "X", "TWITTER"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "anna.png").write_bytes(PNG)
    (tmp_path / "messages.jsonl").write_text('{"recipient": "5", "text": "hello"}\n')
    return tmp_path


@pytest.fixture
def double(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """A sandbox that the environment names, with its keys."""
    double = Double(folder)
    monkeypatch.setenv("TWDM_API_URL", double.sandbox.url)
    monkeypatch.setenv("TWDM_SANDBOX", double.sandbox.url)
    for name, value in asdict(double.sandbox.credentials).items():
        monkeypatch.setenv(f"TWDM_{name.upper()}", value)
    yield double
    double.end()


@pytest.fixture
def keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set the keys of a sandbox that does not run; return names for what could be in it."""
    for name, value in asdict(Sandbox().credentials).items():
        monkeypatch.setenv(f"TWDM_{name.upper()}", value)
    return {"folder": str(folder)} | dict.fromkeys(("person", "profile", "media", "message", "welcome"), "7")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Call a command in this process: its exit code, and what it prints."""
    logger = logging.getLogger("twdm_async")

    def called(command: str, *arguments: str, names: dict[str, str] | None = None) -> tuple[int, str, str]:
        given = [argument.format_map(names or {}) for argument in arguments]
        code = root.run([*command.split(), *given])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if command != "sandbox env":  # whose keys are known to everybody
            assert not [secret for secret in SECRETS if secret in out + err]
        return code, out, err

    yield called
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    for name in ("quota.dispatcher", "transport.call"):
        logging.getLogger(f"twdm_async.{name}").setLevel(logging.NOTSET)


def made_inbox(folder: Path) -> None:
    async def make() -> None:
        async with twdm_async.Inbox(folder / "inbox.db") as inbox:
            await inbox.failed()

    asyncio.run(make())


def test_every_command_is_called_here_and_has_what_all_have() -> None:
    found = dict(leaves())
    assert sorted(found) == sorted(CALLS)
    for name, command in found.items():
        options = {opt for one in command.params for opt in one.opts}
        assert {"--json", "--verbose", "-v"} <= options, name
        assert command.help, name
        assert command.help.split("\n\n")[0].rstrip().endswith("."), name
    summaries = root._COMMANDS
    for name, words in summaries.items():
        called = root.root.get_command(click.Context(root.root), name)
        assert called is not None
        assert called.help is not None
        first = called.help.split("\n\n")[0].replace("\n", " ")
        assert first.split()[0] == words.split()[0], f"{name}: the help of the root says something else"


@pytest.mark.parametrize("name", [name for name in CALLS if name not in UNENDING | LONG | NO_DATABASE])
def test_json_is_json(name: str, double: Double, folder: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    made_inbox(folder)
    assert call("outbox put", "5", "hello", "--key", "held", "--hold")[0] == 0
    code, out, err = call(name, *CALLS[name], "--json", names=double.names)
    assert code == 0, err
    json.loads(out)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("name", ["inbox forget", "inbox retry", "outbox retry", "outbox withdraw"])
def test_what_is_not_there_is_1(name: str, folder: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    made_inbox(folder)
    where = ["--inbox", str(folder / "inbox.db")] if name.startswith("inbox") else []
    code, out, err = call(name, *where, "nothing")
    assert (code, list(json.loads(out).values())) == (1, [0])
    assert err.startswith("1 of 1 ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_option_is_one_sentence_and_2(name: str, call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call(name, "--nonsense")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert f"`twdm {name} --help`" in err
    for word in ("-h", "--help"):
        code, out, err = call(name, word)
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: twdm {name} ")


@pytest.mark.parametrize("name", [name for name, arguments in CALLS.items() if arguments and "--" not in arguments[0]])
def test_a_missing_argument_is_one_sentence_and_2(
    name: str, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    if name in {"sandbox fault", "sandbox time", "messages list"}:
        pytest.skip("it needs none")
    monkeypatch.delenv("TWDM_DATABASE", raising=False)
    code, out, err = call(name)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "Missing argument" in err


@pytest.mark.parametrize("name", talking())
def test_missing_keys_are_one_sentence_and_2(
    name: str, folder: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    names = {"folder": str(folder), "profile": "1", "media": "1", "message": "1", "welcome": "1"}
    code, out, err = call(name, *CALLS[name], names=names)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: credentials: the environment has none (TWDM_CONSUMER_KEY, ...), and ")


@pytest.mark.parametrize("name", [name for name in CALLS if name in NO_DATABASE or name.startswith("sandbox ")
                                  or name in set(talking()) - OFFLINE - PATIENT - {"doctor"}])  # fmt: skip
@pytest.mark.timeout(60)
def test_a_dead_server_is_one_sentence_and_5(
    name: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.001)
    for variable in ("TWDM_API_URL", "TWDM_SANDBOX"):
        monkeypatch.setenv(variable, DEAD)
    monkeypatch.setattr("twdm_async.cli.connect._time_of_sandbox", no_sandbox)
    code, out, err = call(name, *CALLS[name], names=keys)
    assert (code, out, err.count("\n")) == (5, "", 1), err
    assert DEAD in err or "127.0.0.1:1" in err


async def no_sandbox(_: str) -> tuple[None, None]:
    return None, None


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in talking() if name not in OFFLINE | {"doctor", "messages listen"}])
def test_a_wait_that_may_not_be_long_is_one_sentence_and_3(
    name: str,
    keys: dict[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    """All quotas are spent, and each endpoint has one."""
    table = QuotaTable.default()
    for family in table:
        table = table.replace(family, Quota(10, per=86_400.0))
    store = folder / "spent.db"

    async def spend() -> None:
        async with (
            SQLiteQuotaStore(store, assume_spent=0.999) as spent,
            Client(Sandbox().credentials, api_url=DEAD, quota_store=spent, quotas=table),
        ):
            pass

    asyncio.run(spend())

    async def quotas(_: str) -> tuple[None, QuotaTable]:
        return None, table

    monkeypatch.setattr("twdm_async.cli.connect._time_of_sandbox", quotas)
    monkeypatch.setenv("TWDM_API_URL", DEAD)  # nothing is sent, so nobody finds out
    code, out, err = call(name, *CALLS[name], "--max-wait", "1", "--quota-store", f"sqlite:///{store}", names=keys)
    assert (code, out) == (3, ""), err
    assert re.search(r"quota", err)
    if name != "send-many":
        assert err.count("\n") == 1


@pytest.mark.soak
@pytest.mark.parametrize("arguments", [("outbox", "run"), ("send-many", FILE)])
def test_a_queue_that_may_not_wait_ends_with_3_and_keeps_the_messages(
    arguments: tuple[str, ...], double: Double, folder: Path, monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    table = QuotaTable.default().replace("direct_messages.send", Quota(2, per=86_400.0), reserve=0)
    (folder / "messages.jsonl").write_text("".join(f'{{"recipient": "5", "text": "{n}"}}\n' for n in range(5)))

    async def quotas(_: str) -> tuple[None, QuotaTable]:
        return None, table

    monkeypatch.setattr("twdm_async.cli.connect._time_of_sandbox", quotas)
    for number in range(5):
        assert call("outbox put", "5", f"put {number}")[0] == 0
    before = len(double.sandbox.messages)
    code, _, err = call(*arguments, "--max-wait", "1", names=double.names)
    assert code == 3, err
    assert "waiting for quota: 2 of 2 are spent; the next message leaves at " in err
    assert "later than --max-wait allows" in err
    assert len(double.sandbox.messages) == before + 2
    counts = json.loads(call("outbox status")[1])
    assert counts["sent"] == 2
    assert counts["unknown"] == counts["rejected"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_what_waits_says_so_and_until_when(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    table = QuotaTable.default().replace("direct_messages.send", Quota(1, per=1.5), reserve=0)

    async def quotas(_: str) -> tuple[None, QuotaTable]:
        return None, table

    monkeypatch.setattr("twdm_async.cli.connect._time_of_sandbox", quotas)
    assert call("send", "5", "hello")[2] == ""
    code, _, err = call("send", "5", "hello")
    assert code == 0
    assert re.fullmatch(
        r"direct_messages\.send: waits until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 or longer "
        r"for the user quota \(1 in 1\.5 s\)\n",
        err,
    )


def test_standard_input_is_a_dash(
    double: Double, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    def says(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    monkeypatch.chdir(folder)
    says("Grüße\nund mehr\n".encode())
    assert call("send", "5", "-")[0] == 0
    says(b"kept")
    assert call("outbox put", "5", "-")[0] == 0
    says(b'{"recipient": "5", "text": "from a pipe"}\n')
    assert call("send-many", "-")[0] == 0
    assert [message.text for message in double.sandbox.messages][1:] == ["Grüße\nund mehr", "kept", "from a pipe"]
    assert (folder / "standard_input.results.jsonl").exists()
    says(PNG)
    assert call("profiles create", "Ben", "-")[0] == 0
    says(PNG)
    assert call("media upload", "-")[0] == 0
    says(b"\xff")
    code, _, err = call("send", "5", "-")
    assert (code, err) == (2, "error: TEXT: standard input is not UTF-8\n")


def test_very_verbose_commands_log_every_attempt(double: Double, call: Callable[..., tuple[int, str, str]]) -> None:
    assert "custom_profiles.get: attempt 1 waited" in call("profiles get", "-vv", double.names["profile"])[2]


def test_a_handle_is_looked_up(double: Double, call: Callable[..., tuple[int, str, str]]) -> None:
    double.sandbox.handles["jane"] = "99"
    code, out, _ = call("send", "@jane", "hello")
    assert (code, json.loads(out)["recipient_id"]) == (0, "99")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("send", ["5", "hello", "--attach", "no/such.png"], "--attach: no/such.png cannot be read"),
        ("send", ["5", "hello", "--button", "Shop"], "--button: must be LABEL=URL"),
        ("media upload", ["no/such.png"], "FILE: no/such.png cannot be read"),
        ("profiles create", ["Anna", "no/such.png"], "AVATAR: no/such.png cannot be read"),
        ("send-many", ["no/such.jsonl"], "FILE: no/such.jsonl cannot be read"),
        ("send", ["5", "hello", "--quota-store", "quota.db"], "--quota-store: must be like"),
        ("outbox status", ["nothing"], "KEY: there is no message of this key"),
        ("inbox failed", ["--inbox", "/no/such/inbox.db"], "--inbox: there is no inbox at /no/such/inbox.db"),
        ("send", ["5", "hello", "--username", "jane"], ".twurlrc cannot be read"),
        ("users get", ["jane doe"], "HANDLE: must be a handle"),
        ("messages list", ["--most", "0"], "'--most'"),
        ("send", ["5", "hello", "--choice", "x" * 100], "--choice: "),
        ("send", ["x", "hello", "--attach", "anna.png"], "RECIPIENT: must be an id"),
        ("demo", ["--svg", "/no/folder/demo.svg"], "there is no folder /no/folder"),
        ("outbox run", ["--settle-after", "5"], "--settle-after: must be 150 seconds or more"),
        ("completion", ["tcsh"], "tcsh"),
        ("database resume", ["postgresql://h/d"], "give either --lost or --nothing-lost"),
        ("sandbox say", ["jane", "hello"], "sandbox: user_id: must be an id"),
    ],
)
@pytest.mark.usefixtures("double")
def test_what_is_wrong_is_named_as_it_was_typed(
    call: Callable[..., tuple[int, str, str]], command: str, arguments: list[str], words: str
) -> None:
    code, out, err = call(command, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


@pytest.mark.usefixtures("double")
def test_a_variable_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    for variable, value in (("TWDM_QUOTA_STORE", "?"), ("TWDM_UPLOAD_URL", "nowhere"), ("TWDM_MAX_WAIT", "soon")):
        monkeypatch.setenv(variable, value)
        code, _, err = call("send", "5", "hello")
        assert code == 2
        assert variable in err or "--max-wait" in err, err
        monkeypatch.delenv(variable)


def test_the_delivery_that_is_unknown_has_an_exit_code(
    double: Double, call: Callable[..., tuple[int, str, str]]
) -> None:
    double.sandbox.faults.append(twdm_async.sandbox.Fault("reset", endpoint="direct_messages.send"))
    code, out, err = call("send", "5", "hello")
    assert (code, out, err.count("\n")) == (4, "", 2), "a warning, and the error"


@pytest.mark.usefixtures("double")
def test_a_store_that_cannot_be_used_has_an_exit_code(
    folder: Path, double: Double, call: Callable[..., tuple[int, str, str]]
) -> None:
    (folder / "bad.db").write_bytes(b"no database")
    for arguments in (["--quota-store", f"sqlite:///{folder}/bad.db"], ["--quota-store", "redis://127.0.0.1:1"]):
        code, out, err = call("send", "5", "hello", *arguments)
        assert (code, out, err.count("\n")) == (5, "", 1), err
    code, out, err = call("outbox status", "--outbox", str(folder / "bad.db"))
    assert (code, out, err.count("\n")) == (5, "", 1), err
    assert double.sandbox.breaches == []


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="only Linux has a device that is always full")
def test_a_full_disk_is_one_sentence() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "twdm_async", "completion", "bash", "--json"],
        stdout=full, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(full)
    assert done.returncode == 6, done.stderr
    assert done.stderr == "error: done, but the output cannot be written: No space left on device\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere, no shell closes a stream")
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("completion bash --json >&-", 6, "error: done, but the output cannot be written: it is closed\n"),
        ("completion bash --json <&- >&- 2>&-", 6, ""),
        ("--help >&-", 6, "error: output cannot be written: it is closed\n"),
        ("send 5 - <&-", 2, "error: TEXT: must not be empty or blank\n"),
        ("send-many - <&-", 2, "error: FILE: - contains no message\n"),
        ("completion bash --json > /dev/null 2>&-", 0, ""),
    ],
)
def test_a_stream_that_is_closed(command: str, code: int, words: str, tmp_path: Path) -> None:
    environ = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(  # noqa: S603 - this Python
        ["/bin/sh", "-c", f'"$0" -m twdm_async {command}', sys.executable],
        capture_output=True, text=True, check=False, env=environ,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", words)


def test_a_text_that_is_not_in_the_encoding_of_the_command_line(call: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = call("send", "5", os.fsdecode(b"lat\xe9in"))
    assert (code, "TEXT: is not in the encoding of the command line" in err) == (2, True)


@pytest.mark.soak
def test_a_queue_of_bulk_messages_waits_until_when_these_may_leave(
    double: Double, folder: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    table = QuotaTable.default().replace("direct_messages.send", Quota(30, per=86_400.0), pace=None, credit=None)

    async def quotas(_: str) -> tuple[None, QuotaTable]:
        return None, table

    monkeypatch.setattr("twdm_async.cli.connect._time_of_sandbox", quotas)
    for number in range(25):
        assert call("outbox put", "5", f"put {number}", "--priority", "bulk")[0] == 0
    code, _, err = call("outbox run", "--max-wait", "1")
    assert code == 3, err
    assert "kept for interactive messages; the next message leaves at " in err
    assert len(double.sandbox.messages) < 25
    assert folder.exists()


@pytest.mark.usefixtures("double")
def test_a_terminal_gets_tables(monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]) -> None:
    monkeypatch.setattr("twdm_async.cli.terminal._is_terminal", lambda: True)
    assert "│" in call("profiles list")[1]
    assert "│" in call("account show")[1]
    assert call("outbox status", "--state", "failed")[1] == "none\n"
    json.loads(call("profiles list", "--json")[1])


@pytest.mark.slow
def test_a_table_that_does_not_fit_cuts_nothing_off(
    double: Double, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr("twdm_async.cli.terminal._is_terminal", lambda: True)
    for columns in ("60", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        for command in ("profiles list", "account show", "welcome list", "outbox status", "quotas --all"):
            out = call(command)[1]
            assert "\u2026" not in out, f"{command} at {columns} columns"
    assert double.names["profile"] in call("profiles list")[1]
    assert double.names["welcome"] in call("welcome list")[1]


def test_a_group_without_a_command_shows_its_help(call: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("", "outbox", "profiles"):
        code, out, err = call(name)
        assert (code, out) == (2, "")
        assert err.startswith("Usage: twdm ")
    assert call("nonsense") == (
        2,
        "",
        "error: No such command 'nonsense'. See `twdm --help`.\n",
    )


def test_version_and_exit_codes(call: Callable[..., tuple[int, str, str]]) -> None:
    for word in ("--version", "-V"):
        assert call(word)[1] == f"twdm_async {twdm_async.__version__}\n"
    _, out, _ = call("--help")
    for line in EXIT_CODES.splitlines()[1:]:
        assert line.strip() in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_a_shell(shell: str, call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("completion", shell)
    assert code == 0
    assert "_TWDM_COMPLETE" in out


@pytest.mark.usefixtures("double")
def test_quotas_are_shown(call: Callable[..., tuple[int, str, str]]) -> None:
    assert json.loads(call("quotas")[1]) == []
    assert call("send", "5", "hello")[0] == 0
    rows = json.loads(call("quotas")[1])
    assert [(row["endpoint"], row["scope"], row["used"], row["limit"]) for row in rows] == [
        ("direct_messages.send", "user", 1, 1000),
        ("direct_messages.send", "app", 1, 15_000),
    ]
    assert len(json.loads(call("quotas", "--all")[1])) > 20


def test_messages_wait_for_a_person(double: Double, call: Callable[..., tuple[int, str, str]]) -> None:
    for number in range(3):
        more = ["--button", "Pay=https://example.com/pay"]
        assert call("outbox put", "5", f"held {number}", "--key", str(number), "--hold", *more)[0] == 0
    found = json.loads(call("outbox held", "--json")[1])
    assert [(one["key"], one["text"], one["recipient_id"]) for one in found] == [
        (str(n), f"held {n}", "5") for n in range(3)
    ]
    assert found[0]["buttons"] == ["Pay: https://example.com/pay"]
    approved = json.loads(call("outbox approve", "0", "--by", "anna", "--json")[1])
    assert [(one["state"], one["reviewed_by"]) for one in approved] == [("queued", "anna")]
    rejected = json.loads(call("outbox reject", "1", "--why", "rude", "--json")[1])
    assert [(one["state"], one["error"]) for one in rejected] == [("rejected", "rude")]
    problem = f"error: KEY: the message was rejected already by {getpass.getuser()}\n"
    assert call("outbox approve", "1")[::2] == (2, problem)
    assert call("outbox run")[0] == 0
    assert [message.text for message in double.sandbox.messages if message.text.startswith("held")] == ["held 0"]


def test_a_message_whose_time_is_over_is_not_approved(
    double: Double, call: Callable[..., tuple[int, str, str]]
) -> None:
    assert call("outbox put", "5", "late", "--key", "a", "--hold", "--not-after", "2020-01-01")[0] == 0
    code, out, _ = call("outbox approve", "a", "--json")
    assert (code, json.loads(out)[0]["state"]) == (1, "expired")
    assert double.sandbox.messages[-1].text != "late"
