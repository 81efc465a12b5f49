"""A toolset for agents of Pydantic AI; extra ``pydantic-ai``.

A message's key is made of the conversation's id and the id of the tool call, both of which are in the saved messages of
a run. So a run that is resumed from them sends nothing twice.
"""

from typing import Annotated, Any

from pydantic import Field
from pydantic_ai import FunctionToolset, RunContext

from twdm_async.adapters import words
from twdm_async.desk import Desk


def toolset(desk: Desk, *, requires_approval: bool = False) -> FunctionToolset[Any]:
    """Return a toolset with the tool ``send_message``, for ``Agent(toolsets=[...])``.

    Args:
        desk: the desk that sends the messages.
        requires_approval: whether a run ends with ``DeferredToolRequests`` before each call, so that a person can
            approve it. Then the agent's ``output_type`` must have that type. What was approved so is not held again.
    """
    tools = FunctionToolset[Any](id="twdm_async", requires_approval=requires_approval)

    @tools.tool(description=words.TOOL)
    async def send_message(
        ctx: RunContext[Any],
        who: Annotated[str, Field(description=words.who(desk))],
        recipient: Annotated[str, Field(description=words.RECIPIENT)],
        text: Annotated[str, Field(description=words.TEXT)],
        choices: Annotated[list[str] | None, Field(description=words.CHOICES)] = None,
    ) -> dict[str, str]:
        key = f"{ctx.conversation_id} {ctx.tool_call_id}" if ctx.tool_call_id else None
        hold = False if ctx.tool_call_approved else None
        receipt = await desk.say(who, recipient, text, key=key, hold=hold, quick_replies=choices)
        return receipt.as_json()

    return tools
