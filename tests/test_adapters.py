"""Each adapter with its real framework, without a model: what the model sees and is told, and the documents' programs."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.desks import office
from tests.test_documents import ROOT, environment, need, run
from tests.test_recipes import EXAMPLES
from twdm_async.desk import Status
from twdm_async.outbox import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twdm_async.sandbox import Sandbox
    from twdm_async.webhooks import MessageEvent

pytestmark = pytest.mark.soak
CALL: dict[str, Any] = {"who": "billing", "recipient": "5", "text": "Hello", "choices": ["Yes"]}
PLAIN: dict[str, Any] = {name: value for name, value in CALL.items() if name != "choices"}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a program of the documents."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    yield __import__
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def check_schema(schema: dict[str, Any], *, required: set[str]) -> None:
    """A model sees the arguments, each with a description, and nothing else."""
    assert set(schema["properties"]) == {"who", "recipient", "text", "choices"}
    assert set(schema["required"]) == required
    assert all(one["description"] for one in schema["properties"].values())
    assert "billing, support" in schema["properties"]["who"]["description"]


# ---- Pydantic AI ----


def pydantic_model(*calls: tuple[str, dict[str, Any]]) -> Any:
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart  # noqa: PLC0415 - it may not be there
    from pydantic_ai.models.function import FunctionModel  # noqa: PLC0415 - it may not be there

    def think(messages: Any, _: Any) -> Any:
        told = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if told:
            return ModelResponse(parts=[TextPart("; ".join(part.model_response_str() for part in told))])
        return ModelResponse(parts=[ToolCallPart("send_message", given, tool_call_id=id_) for id_, given in calls])

    return FunctionModel(think)


async def test_pydantic_ai(sandbox: Sandbox, tmp_path: Path, example: Any) -> None:
    need("pydantic_ai")
    from pydantic_ai import Agent  # noqa: PLC0415 - it may not be there
    from pydantic_ai.models.test import TestModel  # noqa: PLC0415 - as above

    from twdm_async.adapters.pydantic_ai import toolset  # noqa: PLC0415 - as above

    async with office(sandbox, tmp_path / "a.db") as at:
        looking = TestModel(call_tools=[])
        await Agent(looking, toolsets=[toolset(at.desk)]).run("look")
        assert looking.last_model_request_parameters is not None
        [tool] = looking.last_model_request_parameters.function_tools
        check_schema(tool.parameters_json_schema, required={"who", "recipient", "text"})

        wrong = pydantic_model(("a", CALL | {"who": "boss"}), ("b", CALL | {"text": "x" * 10_001}), ("c", CALL))
        said = str((await Agent(wrong, toolsets=[toolset(at.desk)]).run("go")).output)
        assert "'boss' is not allowed" in said
        assert "at most 10000" in said
        assert '"status":"sent"' in said

        model, program = (
            pydantic_model(("d", CALL | {"text": "approved"}), ("e", CALL | {"text": "refused"})),
            example("pydantic_ai_agent"),
        )
        asked = await program.ask(at.desk, model, "go", tmp_path / "saved.json")
        assert [call for call, _ in asked] == ["d", "e"]
        for _ in range(2):  # the second time from the same saved state
            said = await program.decide(at.desk, model, {"d": True, "e": False}, tmp_path / "saved.json")
            assert "A person said no." in said
            assert '"status":"sent"' in said
    assert [message.text for message in sandbox.messages] == ["Hello", "approved"]


async def test_pydantic_ai_runs_that_are_cancelled_between_call_and_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    need("pydantic_ai")
    from pydantic_ai import Agent, capture_run_messages  # noqa: PLC0415 - it may not be there

    from twdm_async.adapters.pydantic_ai import toolset  # noqa: PLC0415 - as above

    async with office(sandbox, tmp_path / "a.db") as at:
        for moment in range(20):
            agent = Agent(pydantic_model((f"call {moment}", CALL | {"text": f"{moment}"})), toolsets=[toolset(at.desk)])
            with capture_run_messages() as messages:
                running = asyncio.create_task(agent.run("go"))
                while len(messages) < 2 and not running.done():
                    await asyncio.sleep(0)
                for _ in range(moment):
                    await asyncio.sleep(0)
                running.cancel()
                await asyncio.wait([running])
            history = [message for message in messages if getattr(message, "state", None) != "interrupted"]
            if not running.done() or running.cancelled():
                await agent.run(message_history=history)
    texts = [message.text for message in sandbox.messages]
    assert sorted(texts, key=int) == [str(number) for number in range(20)]


# ---- OpenAI Agents SDK ----


async def test_openai_agents(sandbox: Sandbox, tmp_path: Path, example: Any) -> None:
    need("agents")
    from agents import Agent, Runner, set_tracing_disabled  # noqa: PLC0415 - it may not be there
    from agents.testing import ScriptedModel, assistant_message, function_call  # noqa: PLC0415 - as above

    from twdm_async.adapters.openai_agents import tool  # noqa: PLC0415 - as above

    set_tracing_disabled(True)
    async with office(sandbox, tmp_path / "a.db") as at:
        check_schema(tool(at.desk, thread=None).params_json_schema, required={"who", "recipient", "text", "choices"})
        calls = [
            function_call("send_message", CALL | {"who": "boss"}, call_id="a"),
            function_call("send_message", CALL, call_id="b"),
        ]
        model = ScriptedModel([calls, [assistant_message("done")]])
        result: Any = await Runner.run(Agent(name="a", model=model, tools=[tool(at.desk, thread="t")]), "go")
        told = [
            json.loads(item["output"]) for item in result.to_input_list() if item.get("type") == "function_call_output"
        ]
        assert [one["status"] for one in told] == ["refused", "sent"]

        await at.outbox.close()  # whatever fails, a model is not told to try again
        model = ScriptedModel(
            [[function_call("send_message", {"who": "billing"}, call_id="c")], [assistant_message("done")]]
        )
        result = await Runner.run(Agent(name="a", model=model, tools=[tool(at.desk, thread=None)]), "go")
        [output] = [item["output"] for item in result.to_input_list() if item.get("type") == "function_call_output"]
        assert "Do not send it again" in output
    async with office(sandbox, tmp_path / "a.db") as at:
        program = example("openai_agent")
        calls = [function_call("send_message", CALL | {"text": text}, call_id=text) for text in ("approved", "refused")]
        asked = await program.ask(at.desk, ScriptedModel([calls]), "go", "thread 1", tmp_path / "saved.json")
        assert [call for call, _ in asked] == ["approved", "refused"]
        for _ in range(2):
            model = ScriptedModel([[assistant_message("done")]])
            said = await program.decide(at.desk, model, {"approved": True, "refused": False}, tmp_path / "saved.json")
            assert said == "done"
    assert [message.text for message in sandbox.messages] == ["Hello", "approved"]


# ---- LangChain ----


async def test_langchain(sandbox: Sandbox, tmp_path: Path, example: Any) -> None:
    need("langgraph", "langchain_core")
    from langchain_core.messages import AIMessage  # noqa: PLC0415 - it may not be there
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - as above

    from tests.agents.langchain import _Scripted  # noqa: PLC0415 - as above
    from twdm_async.adapters.langchain import tool  # noqa: PLC0415 - as above

    class Model(_Scripted):
        def bind_tools(self, *_: Any, **__: Any) -> Any:
            return self

        def _generate(self, messages: Any, *args: Any, **more: Any) -> Any:
            result = super()._generate(messages, *args, **more)
            told = [message for message in messages if message.type == "tool"]
            texts = ("approved", "refused")
            calls = [
                {"type": "tool_call", "id": text, "name": "send_message", "args": CALL | {"text": text}}
                for text in texts
            ]
            said = "; ".join(message.text for message in told)
            result.generations[0].message = AIMessage(said, tool_calls=[] if told else calls)
            return result

    async with office(sandbox, tmp_path / "a.db") as at:
        made = tool(at.desk)
        schema: Any = made.tool_call_schema
        check_schema(schema.model_json_schema(), required={"who", "recipient", "text"})
        config: Any = {"configurable": {"thread_id": "a"}}

        async def call(id_: str, **given: Any) -> Any:
            answer = await made.ainvoke(
                {"type": "tool_call", "id": id_, "name": "send_message", "args": CALL | given}, config
            )
            return json.loads(answer.text)

        assert (await call("1", who="boss"))["status"] == "refused"
        sent = await call("1")
        assert await call("1") == sent
        assert (await call("1", text="other"))["reason"].startswith("key: was used for another message")
        assert (await call("", text="without an id"))["status"] == "sent"
        assert (await call("", text="without an id"))["status"] == "sent"
        with pytest.raises(NotImplementedError):
            made.invoke({"type": "tool_call", "id": "2", "name": "send_message", "args": CALL})

        program = example("langchain_agent")
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
            await program.ask(program.make_graph(at.desk, Model(), saver), "go", "thread 1")
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:  # another process
            graph = program.make_graph(at.desk, Model(), saver)
            said = await program.decide(graph, lambda given: given["text"] == "approved", "thread 1")
        assert "A person said no." in said
        assert '"status": "sent"' in said
    assert [message.text for message in sandbox.messages] == ["Hello", "without an id", "approved"]


# ---- Microsoft 365 Agents SDK ----


async def test_microsoft_agents(sandbox: Sandbox, tmp_path: Path, example: Any) -> None:
    need("microsoft_agents")
    from twdm_async import Inbox  # noqa: PLC0415 - it is needed here alone

    program = example("microsoft_agent")
    async with office(sandbox, tmp_path / "a.db", wait=60.0) as at, Inbox(tmp_path / "inbox.db") as inbox:
        at.desk._profiles["shop"] = None
        webhook = program.webhook_of(at.desk, inbox)
        await sandbox.subscribe(webhook)
        person = sandbox.person(5)
        person.writes("Hello")
        [question] = await person.receives()
        assert (question.text, list(question.choices)) == ("What is it about?", ["Order", "Bill"])
        person.taps("Order")
        [answer] = await person.receives()
        assert answer.text == "It left this morning."
        await sandbox.delivered()
        sandbox.unsubscribe(webhook)


async def test_microsoft_agents_turns_that_fail_are_repeated(sandbox: Sandbox, tmp_path: Path) -> None:
    need("microsoft_agents")
    from microsoft_agents.activity import Activity, Attachment, CardAction, SuggestedActions  # noqa: PLC0415 - it may not be there
    from microsoft_agents.hosting.core import ActivityHandler, TurnContext  # noqa: PLC0415 - it may not be there

    from tests.agents.microsoft_agents import event  # noqa: PLC0415 - it may not be there
    from twdm_async.adapters.microsoft_agents import DeskAdapter, activity  # noqa: PLC0415 - as above

    class Agent(ActivityHandler):
        is_broken = True

        async def on_message_activity(self, turn_context: TurnContext) -> None:
            await turn_context.send_activity(Activity(type="typing"))
            await asyncio.gather(turn_context.send_activity("first"), turn_context.send_activity("second"))
            if self.is_broken:
                raise LookupError("broken")
            await turn_context.send_activity("third")
            await turn_context.send_activity(
                Activity(type="message", attachments=[Attachment(content_type="image/png")])
            )
            link = SuggestedActions(actions=[CardAction(type="openUrl", title="Shop", value="https://example.com")])
            await turn_context.send_activity(Activity(type="message", text="link", suggested_actions=link))
            long = SuggestedActions(actions=[CardAction(type="imBack", title="x" * 37, value="x")])
            await turn_context.send_activity(Activity(type="message", text="long", suggested_actions=long))
            await turn_context.send_activity(Activity(type="event", name="other"))

    async with office(sandbox, tmp_path / "a.db") as at:
        adapter, agent = DeskAdapter(at.desk, "support"), Agent()
        for _ in range(2):
            with pytest.raises(LookupError):
                await adapter.process(event(1), agent)
        assert len(sandbox.messages) == 2
        agent.is_broken = False
        for _ in range(2):
            receipts = await adapter.process(event(1), agent)
            assert [receipt.status for receipt in receipts] == [Status.SENT] * 3 + [Status.REFUSED] * 3
        reference = activity(event(1)).get_conversation_reference()

        async def news(context: Any) -> None:
            await context.send_activity("Your order has left.")

        for _ in range(2):
            [receipt] = await adapter.begin(reference, "order 7", news)
            assert receipt.key == "desk:order 7 0"
        with pytest.raises(NotImplementedError):
            await adapter.delete_activity(None, None)
    assert sorted(message.text for message in sandbox.messages) == sorted(
        ["first", "second", "third", "Your order has left."]
    )
    assert len(sandbox.typing) == 4


@pytest.mark.parametrize(
    ("metadata", "text", "value"),
    [
        ('{"type":"imBack","value":"red","text":null}', "red", "red"),
        ('{"type":"messageBack","value":{"c":1},"text":"Blue, please"}', "Blue, please", {"c": 1}),
        ('{"type":"messageBack","value":1,"text":null}', "Label", 1),
        ('{"type":"postBack","value":"green","text":null}', "Label", "green"),
        ("of another program", "Label", "of another program"),
        ("[]", "Label", "[]"),
    ],
)
def test_microsoft_agents_a_tap_has_its_action_s_value(metadata: str, text: str, value: Any) -> None:
    need("microsoft_agents")
    from attrs import evolve  # noqa: PLC0415 - as below

    from tests.agents.microsoft_agents import event  # noqa: PLC0415 - it may not be there
    from twdm_async import QuickReplyResponse  # noqa: PLC0415 - as above
    from twdm_async.adapters.microsoft_agents import activity  # noqa: PLC0415 - as above

    tapped: MessageEvent = event(1)
    response = QuickReplyResponse(metadata=metadata)
    message = evolve(tapped.message, raw_text="Label", quick_reply_response=response)
    made = activity(evolve(tapped, message=message))
    assert (made.text, made.value) == (text, value)


# ---- documents only ----


async def test_google_adk(sandbox: Sandbox, tmp_path: Path, example: Any) -> None:
    need("google.adk")
    from google.adk.models.base_llm import BaseLlm  # noqa: PLC0415 - it may not be there
    from google.adk.models.llm_response import LlmResponse  # noqa: PLC0415 - as above
    from google.adk.sessions.sqlite_session_service import SqliteSessionService  # noqa: PLC0415 - as above
    from google.genai import types  # noqa: PLC0415 - as above

    told: list[Any] = []

    class Model(BaseLlm):
        async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:  # noqa: ARG002 - the framework's signature
            answers = [
                part.function_response.response for part in llm_request.contents[-1].parts if part.function_response
            ]
            told.extend(answers)
            texts = ("approved", "refused")
            calls = [
                types.Part(function_call=types.FunctionCall(name="send_message", args=PLAIN | {"text": text}))
                for text in texts
            ]
            yield LlmResponse(
                content=types.Content(role="model", parts=[types.Part(text="done")] if answers else calls)
            )

    program = example("adk_agent")
    async with office(sandbox, tmp_path / "a.db") as at:
        sessions = SqliteSessionService(str(tmp_path / "sessions.db"))
        await sessions.create_session(app_name=program.APP, user_id=program.USER, session_id="s")
        async with program.make_runner(at.desk, Model(model="scripted"), sessions) as runner:
            asked = await program.ask(runner, "go", "s")
        decisions = {one.id: one.args["originalFunctionCall"]["args"]["text"] == "approved" for one in asked}
        for _ in range(2):  # other processes
            sessions = SqliteSessionService(str(tmp_path / "sessions.db"))
            async with program.make_runner(at.desk, Model(model="scripted"), sessions) as runner:
                await program.decide(runner, decisions, "s")
        assert [one.get("status") for one in told[:2]] == ["sent", None]
    assert [message.text for message in sandbox.messages] == ["approved"]


async def test_agent_framework(sandbox: Sandbox, tmp_path: Path, example: Any) -> None:
    need("agent_framework")
    from agent_framework import (  # noqa: PLC0415 - it may not be there
        BaseChatClient,
        ChatResponse,
        Content,
        FunctionInvocationLayer,
        Message,
    )

    told: list[Any] = []

    class Scripted(FunctionInvocationLayer, BaseChatClient):
        def _inner_get_response(self, *, messages: Any, **_: Any) -> Any:
            async def answer() -> Any:
                results = [one.result for one in messages[-1].contents if one.type == "function_result"]
                told.extend(results)
                calls = [
                    Content.from_function_call(call_id=text, name="send_message", arguments=PLAIN | {"text": text})
                    for text in ("approved", "refused")
                ]
                contents = [Content.from_text("done")] if results else calls
                return ChatResponse(messages=[Message("assistant", contents)])

            return answer()

    program = example("agent_framework_agent")
    async with office(sandbox, tmp_path / "a.db") as at:
        asked = await program.ask(at.desk, Scripted(), "go", tmp_path / "saved.json")
        decisions = [call.call_id == "approved" for call in asked]
        for _ in range(2):
            assert await program.decide(at.desk, Scripted(), decisions, tmp_path / "saved.json") == "done"
        assert any('"status": "sent"' in str(one) for one in told)
        assert any("rejected" in str(one) for one in told)
    assert [message.text for message in sandbox.messages] == ["approved"]


# ---- what an adapter needs ----

FRAMEWORKS = {
    "langchain": "langchain_core",
    "mcp": "mcp",
    "microsoft_agents": "microsoft_agents",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
}
BROUGHT = {"openai_agents": {"mcp"}}
"""Frameworks that another one needs."""


@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_an_adapter_needs_its_own_framework_alone(name: str, tmp_path: Path) -> None:
    need(FRAMEWORKS[name])
    others = {module for other, module in FRAMEWORKS.items() if other != name} - BROUGHT.get(name, set())
    program = f"import sys\nfor other in {others}: sys.modules[other] = None\nimport twdm_async.adapters.{name}"
    code, said = await run(sys.executable, "-W", "error", "-c", program, folder=tmp_path, environ=environment(tmp_path))
    assert code == 0, said
    lines = (ROOT / f"twdm_async/adapters/{name}.py").read_text().splitlines()
    assert len(lines) <= 150


# ---- what is held ----


async def test_what_a_framework_has_approved_is_not_held_again(sandbox: Sandbox, tmp_path: Path) -> None:
    need("langchain_core")
    from twdm_async.adapters.langchain import tool  # noqa: PLC0415 - it may not be there

    async with office(sandbox, tmp_path / "a.db", hold=True) as at:
        for is_approved, state in ((False, State.HELD), (True, State.SENT)):
            made = tool(at.desk, is_approved=is_approved)
            call = {"type": "tool_call", "id": str(is_approved), "name": "send_message", "args": CALL}
            answer: Any = await made.ainvoke(call)
            assert json.loads(answer.text)["status"] == state
    assert len(sandbox.messages) == 1
