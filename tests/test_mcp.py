"""The MCP server: what a client sees, in both generations of the protocol, over stdio and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import pytest

from tests.agents.driver import CALLS, arguments, is_refused
from tests.desks import office
from tests.drainer import table
from tests.support import HANGS
from tests.test_agents import ROOT, arrived, end, expected, profiles
from tests.test_documents import environment, need, run
from twdm_async.outbox import State
from twdm_async.sandbox import Sandbox

need("mcp")

from mcp import Client, MCPError, StdioServerParameters  # noqa: E402 - it may not be there
from mcp_types import ElicitResult  # noqa: E402 - as above

from twdm_async.adapters.mcp import server  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.soak
GENERATIONS: Final = ("legacy", "2026-07-28")
HELLO: Final = {"who": "billing", "recipient": "5", "text": "Hello"}


def answering(action: str, content: Any = None) -> Callable[..., Any]:
    asked: list[str] = []

    async def answer(_: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=action, content=content)  # type: ignore[arg-type]  # one of three words

    answer.asked = asked  # type: ignore[attr-defined]
    return answer


async def test_what_is_listed_can_be_read_by_a_person(sandbox: Sandbox, tmp_path: Path) -> None:
    async with office(sandbox, tmp_path / "a.db") as at, Client(server(at.desk)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"send_message", "message_state"}
        for tool in tools.values():
            assert tool.title
            assert tool.description
            assert tool.output_schema is not None
            for schema in (tool.input_schema, tool.output_schema):
                assert all(one.get("description") for one in schema["properties"].values()), schema
        sends = tools["send_message"].input_schema
        assert sends["required"] == ["who", "recipient", "text"]
        assert set(sends["properties"]) == {"who", "recipient", "text", "choices", "key"}
        assert "billing, support" in sends["properties"]["who"]["description"]
        assert tools["message_state"].annotations is not None
        assert tools["message_state"].annotations.read_only_hint
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["twdm://names", "twdm://quotas"]
        read = {uri: (await client.read_resource(f"twdm://{uri}")).contents[0] for uri in ("names", "quotas")}
        assert json.loads(read["names"].text) == ["billing", "support"]  # type: ignore[union-attr]
        assert all({"endpoint", "limit", "used"} <= one.keys() for one in json.loads(read["quotas"].text))  # type: ignore[union-attr]


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_call_is_one_message(sandbox: Sandbox, tmp_path: Path, generation: str) -> None:
    async with office(sandbox, tmp_path / "a.db") as at, Client(server(at.desk), mode=generation) as client:

        async def call(name: str, **given: Any) -> dict[str, Any]:
            result = await client.call_tool(name, given)
            assert not result.is_error, result
            assert result.structured_content is not None
            return {name: value for name, value in result.structured_content.items() if value is not None}

        sent = await call("send_message", **HELLO, choices=["Yes"], key="order 7")
        assert sent["status"] == "sent"
        assert await call("send_message", **HELLO, choices=["Yes"], key="order 7") == sent
        assert await call("message_state", key=sent["key"]) == sent
        unknown = await client.call_tool("message_state", {"key": "none"})
        assert (unknown.is_error, "nothing is known" in unknown.content[0].text) == (True, True)  # type: ignore[union-attr]
        other = await call("send_message", **HELLO | {"text": "other"}, key="order 7")
        assert (other["status"], "used for another message" in other["reason"]) == ("refused", True)
        first = await call("send_message", **HELLO)  # without a key, the content counts
        assert await call("send_message", **HELLO) == first
        assert (await call("send_message", **HELLO | {"who": "boss"}))["reason"].startswith(
            "who: 'boss' is not allowed"
        )
        assert (await call("send_message", **HELLO | {"recipient": "anna"}))["reason"].startswith("recipient: must be")
        wrong = await client.call_tool("send_message", {"who": "billing"})
        assert wrong.is_error
    assert len(sandbox.messages) == 2


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_the_person_in_front_of_the_client_decides(sandbox: Sandbox, tmp_path: Path, generation: str) -> None:
    async with office(sandbox, tmp_path / "a.db") as at:
        made = server(at.desk, asks=True)

        async def call(answer: Any, **given: Any) -> Any:
            async with Client(made, mode=generation, elicitation_callback=answer) as client:
                return (await client.call_tool("send_message", HELLO | given)).structured_content

        yes = answering("accept", {"approve": True})
        for action, content in (("decline", None), ("accept", {"approve": False})):
            for answer in (answering(action, content), yes):  # the first decision counts
                refused = await call(answer, key=action)
                why = "a person did not approve it: declined in the MCP client"
                assert (refused["status"], refused["reason"]) == ("refused", why)
        assert (await call(answering("cancel"), key="a"))["status"] == "held"  # and is asked about again
        assert yes.asked == []  # type: ignore[attr-defined]
        assert (await call(yes, key="a"))["status"] == "sent"
        assert yes.asked == ["Send this message as billing to person 5?\n\n> Hello"]  # type: ignore[attr-defined]
        wrong = await call(yes, who="boss")  # nobody is bothered with what cannot be sent
        assert (wrong["status"], len(yes.asked)) == ("refused", 1)  # type: ignore[attr-defined]
        assert (await call(answering("decline"), key="a"))["status"] == "sent"  # nobody is asked again
        text = "Hello\nSend this message as boss to person 6?\u202e"
        assert (await call(yes, key="c", text=text, choices=["Yes", "a\nOK?"]))["status"] == "sent"
        quoted = "> Hello\n> Send this message as boss to person 6?\\u202e\n> [Yes]\n> [a\n> OK?]"
        assert yes.asked[-1] == f"Send this message as billing to person 5?\n\n{quoted}"  # type: ignore[attr-defined]
        entry = await at.outbox.get("desk:a")
        assert entry is not None
        assert entry.reviewed_by == "the person in front of the MCP client"
        held = await call(None, key="b")  # this client cannot ask anybody
        assert held["status"] == "held"
        await at.outbox.approve(held["key"], by="anna")
        assert (await at.outbox.outcome(held["key"])).state is State.SENT
    assert len(sandbox.messages) == 3


async def test_an_answer_that_is_used_twice_sends_once(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        office(sandbox, tmp_path / "a.db") as at,
        Client(server(at.desk, asks=True), mode="2026-07-28", elicitation_callback=answering("accept")) as client,
    ):
        asked: Any = await client.session.call_tool("send_message", HELLO, allow_input_required=True)
        [name] = asked.input_requests
        answers: Any = {name: ElicitResult(action="accept", content={"approve": True})}
        for _ in range(3):
            again = await client.call_tool(
                "send_message", HELLO, input_responses=answers, request_state=asked.request_state
            )
            assert (again.structured_content or {})["status"] == "sent"
        with pytest.raises(MCPError):  # it was given for another text
            await client.call_tool(
                "send_message", HELLO | {"text": "other"}, input_responses=answers, request_state=asked.request_state
            )
    assert len(sandbox.messages) == 1


def command(tmp_path: Path, sandbox: Sandbox, profile: str, *more: str) -> StdioServerParameters:
    arguments = ["-m", "twdm_async", "mcp", "--name", f"billing={profile}", "--name", "brand=", *more]
    return StdioServerParameters(command=sys.executable, args=arguments, env=environment(tmp_path, sandbox), cwd=ROOT)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.timeout(2 * HANGS)
async def test_the_command_serves_stdio_and_goes_on_when_it_is_started_anew(
    sandbox: Sandbox, tmp_path: Path, generation: str
) -> None:
    profile = (await profiles(sandbox))["billing"]
    for _ in range(2):
        async with Client(command(tmp_path, sandbox, profile), mode=generation) as client:
            result = await client.call_tool("send_message", HELLO | {"key": "a"})
            assert (result.structured_content or {})["status"] == "sent"
            assert len((await client.list_resources()).resources) == 2
    async with Client(command(tmp_path, sandbox, profile, "--recipient", "6", "--hold"), mode=generation) as client:
        result = await client.call_tool("send_message", HELLO)
        assert "not allowed" in (result.structured_content or {})["reason"]
        result = await client.call_tool("send_message", HELLO | {"recipient": "6", "who": "brand"})
        assert (result.structured_content or {})["status"] == "held"
    assert len(sandbox.messages) == 1


@pytest.mark.timeout(2 * HANGS)
async def test_the_settings_in_the_documents_work(sandbox: Sandbox, tmp_path: Path) -> None:
    page = (ROOT / "docs/mcp.md").read_text()
    [text] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    [settings] = json.loads(text)["mcpServers"].values()
    made = await profiles(sandbox)
    arguments = [
        one.replace("=100002", f"={made['billing']}").replace("=100003", f"={made['support']}")
        for one in settings["args"]
    ]
    assert set(settings["env"]) <= set(sandbox.environment)
    program = str(Path(sys.executable).with_name(settings["command"]))
    parameters = StdioServerParameters(command=program, args=arguments, env=environment(tmp_path, sandbox))
    async with Client(parameters, elicitation_callback=answering("accept", {"approve": True})) as client:
        result = await client.call_tool("send_message", HELLO)
        assert (result.structured_content or {})["status"] == "sent"
    assert [message.custom_profile_id for message in sandbox.messages] == [made["billing"]]


@pytest.mark.timeout(2 * HANGS)
async def test_the_command_serves_http_to_this_machine_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    profile = (await profiles(sandbox))["billing"]
    parameters = command(tmp_path, sandbox, profile, "--http", "0", "--ask")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *parameters.args, env=parameters.env, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    url = (await process.stderr.readline()).decode().removeprefix("# ").strip()
    for generation in GENERATIONS:
        answer = answering("accept", {"approve": True})
        async with Client(url, mode=generation, elicitation_callback=answer) as client:
            result = await client.call_tool("send_message", HELLO | {"key": generation})
            assert (result.structured_content or {})["status"] == "sent"
            assert len(answer.asked) == 1  # type: ignore[attr-defined]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
    writer.write(
        b"POST /mcp HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert b" 421 " in await reader.readline()
    writer.close()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert len(sandbox.messages) == 2


@pytest.mark.timeout(2 * HANGS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_ends_on_a_signal_though_its_input_is_open(
    sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    profile = (await profiles(sandbox))["billing"]
    parameters = command(tmp_path, sandbox, profile)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *parameters.args, env=parameters.env, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    assert json.loads(await process.stdout.readline())["id"] == 1
    process.send_signal(number)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--name", "billing"], "--name: billing is not NAME=PROFILE"),
        (["--name", "=1"], "--name: =1 is not NAME=PROFILE"),
        (["--name", "a=1", "--name", "a=2"], "--name: a name is given twice"),
        (["--name", "a=1", "--ask", "--hold"], "--ask and --hold are two ways to ask a person; choose one"),
        (["--name", "a=anna"], "must be a CustomProfile or its id"),
    ],
)
async def test_what_is_typed_wrong_is_one_sentence(
    sandbox: Sandbox, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    code, said = await run("twdm", "mcp", *arguments, folder=tmp_path, environ=environment(tmp_path, sandbox))
    assert (code, problem in said, said.count("\n")) == (2, True, 1), said


@pytest.mark.timeout(280)
async def test_a_hundred_calls_and_ten_kills(tmp_path: Path) -> None:
    async with Sandbox(quotas=table(), list_lag=(0.0, 0.3)) as sandbox:
        (tmp_path / "profiles.json").write_text(json.dumps(await profiles(sandbox)))
        keys = json.dumps(attrs.asdict(sandbox.credentials))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.agents.driver", "mcp", str(tmp_path), sandbox.url, "1", "10", keys,
            cwd=ROOT, env=environment(tmp_path, PYTHONPATH=str(ROOT), TEST_PORT=str(port)), start_new_session=True,
        )  # fmt: skip
        try:
            workers = [call_all(f"http://127.0.0.1:{port}/mcp", first, GENERATIONS[first % 2]) for first in range(4)]
            answers = dict(pair for pairs in await asyncio.gather(*workers) for pair in pairs)
            (tmp_path / "done").touch()
            assert await process.wait() == 0
        finally:
            end(process)
        assert arrived(sandbox) == expected()
        for number in range(CALLS):
            assert answers[number] == ("refused" if is_refused(number) else "sent")


async def call_all(url: str, first: int, generation: str) -> list[tuple[int, str]]:
    """Make each fourth call, and repeat it until there is an answer."""

    async def decide(_: Any, params: Any) -> ElicitResult:
        number = int(re.findall(r"message (\d+)", params.message)[0])
        return (
            ElicitResult(action="decline")
            if is_refused(number)
            else ElicitResult(action="accept", content={"approve": True})
        )

    answers: list[tuple[int, str]] = []
    while len(answers) < CALLS // 4:
        with contextlib.suppress(Exception):  # the server was killed
            async with Client(
                url, mode=generation, elicitation_callback=cast("Any", decide), read_timeout_seconds=10
            ) as client:
                while len(answers) < CALLS // 4:
                    number = first + 4 * len(answers)
                    result = await client.call_tool("send_message", arguments(number) | {"key": f"call {number}"})
                    answers.append((number, (result.structured_content or {})["status"]))
        await asyncio.sleep(0.1)
    return answers
