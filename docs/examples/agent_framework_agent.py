"""An agent of the Microsoft Agent Framework. A person approves each message; the session survives a restart."""

import json
from pathlib import Path
from typing import Any

from agent_framework import (
    Agent,
    AgentSession,
    Content,
    FunctionInvocationContext,
    InMemoryHistoryProvider,
    Message,
    function_middleware,
    tool,
)

from twdm_async import Desk


@function_middleware
async def with_call_id(_: FunctionInvocationContext, call_next: Any) -> None:
    """Do nothing: the framework tells a tool the id of its call only if there is a function middleware."""
    await call_next()


def make_agent(desk: Desk, client: Any) -> Agent[Any]:
    @tool(approval_mode="always_require")
    async def send_message(who: str, recipient: str, text: str, ctx: FunctionInvocationContext) -> str:
        """Send a Direct Message to a person; the answer's `advice` says what to do next.

        Args:
            who: The name under which it is sent: billing or support.
            recipient: The person's user id: digits only.
            text: The text, at most 10 000 characters.
        """
        call = ctx.metadata.get("function_call_occurrence_id") or ctx.metadata.get("call_id")
        key = f"{ctx.session.session_id} {call}" if ctx.session and call else None
        return json.dumps((await desk.say(who, recipient, text, key=key)).as_json())

    history = InMemoryHistoryProvider()
    return Agent(client, tools=[send_message], middleware=[with_call_id], context_providers=[history])


async def ask(desk: Desk, client: Any, question: str, saved: Path) -> list[Any]:
    """Run until the agent wants to send. Return the calls."""
    agent = make_agent(desk, client)
    session = agent.create_session()
    result = await agent.run(question, session=session)
    asked = [one.to_dict() for one in result.user_input_requests]
    saved.write_text(json.dumps({"session": session.to_dict(), "asked": asked}))
    return [one.function_call for one in result.user_input_requests]


async def decide(desk: Desk, client: Any, decisions: list[bool], saved: Path) -> str:
    """Go on with the run; perhaps in another process, and perhaps not for the first time."""
    kept = json.loads(saved.read_text())
    session = AgentSession.from_dict(kept["session"])
    asked = [Content.from_dict(one) for one in kept["asked"]]
    answers = [one.to_function_approval_response(yes) for one, yes in zip(asked, decisions, strict=True)]
    result = await make_agent(desk, client).run(Message("user", answers), session=session)
    return str(result.text)
