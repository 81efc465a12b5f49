"""An agent of the OpenAI Agents SDK that waits for approval of each call; the state of its run is saved there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agents import Agent, RunConfig, Runner, RunState
from agents.testing import ScriptedModel, assistant_message, function_call

from tests.agents.driver import BATCH, CALLS, arguments, is_refused
from twdm_async.adapters.openai_agents import tool

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async import Desk


def _script(first: int) -> list[Any]:
    calls = [
        [function_call("send_message", arguments(n), call_id=f"call_{n}") for n in range(start, start + BATCH)]
        for start in range(first, CALLS, BATCH)
    ]
    return [*calls, [assistant_message("done")]]


async def run(desk: Desk, folder: Path) -> dict[str, Any]:
    config, saved = RunConfig(tracing_disabled=True), folder / "state.json"
    written = tool(desk, thread=lambda context: str(context["thread"]), needs_approval=True)

    def agent(first: int) -> Agent[Any]:
        return Agent(name="writer", model=ScriptedModel(_script(first)), tools=[written])

    if not saved.exists():
        result = await Runner.run(
            agent(0), "Write to everybody.", context={"thread": "a"}, run_config=config, max_turns=CALLS
        )
        saved.write_text(result.to_state().to_string())
    while True:
        state = await RunState.from_string(agent(CALLS), saved.read_text())
        asked = state.get_interruptions()
        first = 1 + max(int(str(one.call_id)[5:]) for one in asked)
        state = await RunState.from_string(agent(first), saved.read_text())
        for one in state.get_interruptions():
            if is_refused(int(str(one.call_id)[5:])):
                state.reject(one, rejection_message="Anna said no.")
            else:
                state.approve(one)
        result = await Runner.run(agent(first), state, run_config=config, max_turns=CALLS)
        if not result.interruptions:
            break
        new = folder / "new.json"
        new.write_text(result.to_state().to_string())
        new.replace(saved)
    items: list[Any] = list(result.to_input_list())
    outputs = [item for item in items if item.get("type") == "function_call_output"]
    return {str(item["call_id"]): _read(str(item["output"])) for item in outputs}


def _read(output: str) -> Any:
    return json.loads(output) if output.startswith("{") else output
