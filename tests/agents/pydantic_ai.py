"""An agent of Pydantic AI that waits for approval of each call; its messages are its saved state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelMessagesTypeAdapter,
    ToolDenied,
)
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from tests.agents.driver import BATCH, CALLS, arguments, is_refused
from twdm_async.adapters.pydantic_ai import toolset

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async import Desk


def _model(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    done = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
    if done == CALLS:
        return ModelResponse(parts=[TextPart("done")])
    numbers = range(done, done + BATCH)
    return ModelResponse(parts=[ToolCallPart("send_message", arguments(n), tool_call_id=f"call_{n}") for n in numbers])


async def run(desk: Desk, folder: Path) -> dict[str, Any]:
    agent = Agent(
        FunctionModel(_model),
        toolsets=[toolset(desk, requires_approval=True)],
        output_type=[str, DeferredToolRequests],
    )
    saved = folder / "messages.json"
    if not saved.exists():
        result = await agent.run("Write to everybody.")
        saved.write_bytes(result.all_messages_json())
    while True:
        messages = ModelMessagesTypeAdapter.validate_json(saved.read_bytes())
        asked = [part for part in messages[-1].parts if isinstance(part, ToolCallPart)]
        if not asked:
            break
        decided: dict[str, bool | ToolDenied] = {
            call.tool_call_id: ToolDenied("Anna said no.") if is_refused(int(call.tool_call_id[5:])) else True
            for call in asked
        }
        result = await agent.run(
            message_history=messages, deferred_tool_results=DeferredToolResults(approvals=dict(decided))
        )
        new = folder / "new.json"
        new.write_bytes(result.all_messages_json())
        new.replace(saved)
    parts = [part for message in messages for part in message.parts]
    return {part.tool_call_id: part.content for part in parts if isinstance(part, ToolReturnPart)}
