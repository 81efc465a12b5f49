"""A tool for the OpenAI Agents SDK; extra ``openai-agents``.

A message's key is made of a thread's name and the id of the tool call. That id is in the saved state of a run, so a run
that is resumed from it sends nothing twice. The SDK saves a run where it waits for approval; if a run without approvals
is broken off, the model is asked anew, and its next call is another message.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from agents import FunctionTool, RunContextWrapper, function_tool
from agents.tool_context import ToolContext
from pydantic import Field

from twdm_async.adapters import words
from twdm_async.desk import Desk


def tool(
    desk: Desk,
    *,
    thread: str | Callable[[Any], str] | None,
    needs_approval: bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]] = False,
) -> FunctionTool:
    """Return the tool ``send_message``, for ``Agent(tools=[...])``.

    Args:
        desk: the desk that sends the messages. The tool holds it, so it is never in a saved state.
        thread: a name for the conversation that stays the same when a run is resumed; or a function of the run's
            context that returns it. Models may use an id again in another conversation; then ``None`` would let the
            second of two equal messages count as repeated.
        needs_approval: whether a run is interrupted before each call, so that a person can approve it; or a function
            that tells. What was approved so is not held again.
    """

    @function_tool(description_override=words.TOOL, needs_approval=needs_approval, failure_error_function=_explained)
    async def send_message(
        ctx: ToolContext[Any],
        who: Annotated[str, Field(description=words.who(desk))],
        recipient: Annotated[str, Field(description=words.RECIPIENT)],
        text: Annotated[str, Field(description=words.TEXT)],
        choices: Annotated[list[str], Field(description=words.CHOICES)],
    ) -> str:
        name = thread(ctx.context) if callable(thread) else thread
        key = ctx.tool_call_id and (ctx.tool_call_id if name is None else f"{name} {ctx.tool_call_id}")
        hold = False if ctx.is_tool_approved(ctx.tool_name, ctx.tool_call_id) else None
        receipt = await desk.say(who, recipient, text, key=key or None, hold=hold, quick_replies=choices)
        return json.dumps(receipt.as_json())

    return send_message


def _explained(_: RunContextWrapper[Any], error: Exception) -> str:
    """Return what the model is told if the tool failed. The SDK's own words are an invitation to send twice."""
    return f"The message may not have been sent ({type(error).__name__}). Do not send it again; tell the user."
