"""An agent of the OpenAI Agents SDK. A person approves each message; the saved state of the run survives a restart."""

from pathlib import Path
from typing import Any

from agents import Agent, Model, Runner, RunState

from twdm_async import Desk
from twdm_async.adapters.openai_agents import tool


def make_agent(desk: Desk, model: Model | str) -> Agent[Any]:
    send_message = tool(desk, thread=lambda context: str(context["thread"]), needs_approval=True)
    return Agent(name="shop", instructions="You answer customers of a shoe shop.", model=model, tools=[send_message])


async def ask(desk: Desk, model: Model | str, question: str, thread: str, saved: Path) -> list[tuple[str, str]]:
    """Run until the agent wants to send. Return the ids and arguments of its calls."""
    result = await Runner.run(make_agent(desk, model), question, context={"thread": thread})
    saved.write_text(result.to_state().to_string())
    return [(str(one.call_id), str(one.arguments)) for one in result.interruptions]


async def decide(desk: Desk, model: Model | str, decisions: dict[str, bool], saved: Path) -> str:
    """Go on with the run; perhaps in another process, and perhaps not for the first time."""
    agent = make_agent(desk, model)
    state = await RunState.from_string(agent, saved.read_text())
    for one in state.get_interruptions():
        if decisions[str(one.call_id)]:
            state.approve(one)
        else:
            state.reject(one, rejection_message="A person said no.")
    result = await Runner.run(agent, state)
    return str(result.final_output)
