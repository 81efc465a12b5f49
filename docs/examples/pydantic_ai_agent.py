"""An agent of Pydantic AI. A person approves each message; the saved messages of the run survive a restart."""

from pathlib import Path

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ModelMessagesTypeAdapter, ToolDenied
from pydantic_ai.models import Model

from twdm_async import Desk
from twdm_async.adapters.pydantic_ai import toolset


def make_agent(desk: Desk, model: Model | str) -> Agent[None, str | DeferredToolRequests]:
    return Agent(
        model,
        instructions="You answer customers of a shoe shop.",
        toolsets=[toolset(desk, requires_approval=True)],
        output_type=[str, DeferredToolRequests],
    )


async def ask(desk: Desk, model: Model | str, question: str, saved: Path) -> list[tuple[str, object]]:
    """Run until the agent wants to send. Return the ids and arguments of its calls."""
    result = await make_agent(desk, model).run(question)
    saved.write_bytes(result.all_messages_json())
    calls = result.output.approvals if isinstance(result.output, DeferredToolRequests) else []
    return [(call.tool_call_id, call.args) for call in calls]


async def decide(desk: Desk, model: Model | str, decisions: dict[str, bool], saved: Path) -> str:
    """Go on with the run; perhaps in another process, and perhaps not for the first time."""
    messages = ModelMessagesTypeAdapter.validate_json(saved.read_bytes())
    approvals = {call: True if decision else ToolDenied("A person said no.") for call, decision in decisions.items()}
    results = DeferredToolResults(approvals=dict(approvals))
    result = await make_agent(desk, model).run(message_history=messages, deferred_tool_results=results)
    return str(result.output)
