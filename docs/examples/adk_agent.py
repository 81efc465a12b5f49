"""An agent of Google's Agent Development Kit. A person confirms each message; the session survives a restart."""

from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from twdm_async import Desk

APP, USER = "shop", "brand"


def send_message_tool(desk: Desk) -> FunctionTool:
    async def send_message(who: str, recipient: str, text: str, tool_context: ToolContext) -> dict[str, str]:
        """Send a Direct Message to a person; the answer's `advice` says what to do next.

        Args:
            who: The name under which it is sent: billing or support.
            recipient: The person's user id: digits only.
            text: The text, at most 10 000 characters.
        """
        call = tool_context.function_call_id
        key = call and f"{tool_context.session.id} {call}"  # the same when the session is resumed
        return (await desk.say(who, recipient, text, key=key or None)).as_json()

    return FunctionTool(send_message, require_confirmation=True)


def make_runner(desk: Desk, model: BaseLlm | str, sessions: BaseSessionService) -> Runner:
    agent = LlmAgent(name="shop", model=model, tools=[send_message_tool(desk)])
    return Runner(app_name=APP, agent=agent, session_service=sessions)


async def ask(runner: Runner, question: str, session: str) -> list[Any]:
    """Run until the agent wants to send. Return the questions whether it may."""
    message = types.UserContent(question)
    asked = []
    async for event in runner.run_async(user_id=USER, session_id=session, new_message=message):
        asked += [call for call in event.get_function_calls() if call.name == "adk_request_confirmation"]
    return asked


async def decide(runner: Runner, decisions: dict[str, bool], session: str) -> None:
    """Go on with the run; perhaps in another process, and perhaps not for the first time."""
    parts = [
        types.Part(
            function_response=types.FunctionResponse(
                id=question, name="adk_request_confirmation", response={"confirmed": decision}
            )
        )
        for question, decision in decisions.items()
    ]
    async for _ in runner.run_async(user_id=USER, session_id=session, new_message=types.UserContent(parts)):
        pass
