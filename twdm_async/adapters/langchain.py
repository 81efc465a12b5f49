"""A tool for LangChain and LangGraph, which needs langchain-core alone; extra ``langchain``.

A message's key is made of the thread's id, if the run has one, and the id of the tool call, both of which are in the
checkpoints of a graph. So a graph that is resumed sends nothing twice, if the call was in a checkpoint before the tool
ran: call the graph with ``durability="sync"``, or ask a person (``interrupt``) before the tool.
"""

import json
from typing import Annotated

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool
from pydantic import Field

from twdm_async.adapters import words
from twdm_async.desk import Desk


def tool(desk: Desk, *, is_approved: bool = False) -> BaseTool:
    """Return the tool ``send_message``. It must be called asynchronously, with a whole tool call.

    Args:
        desk: the desk that sends the messages.
        is_approved: whether a person has approved each call before the tool runs. Then no message is held again.
    """

    async def send_message(
        who: Annotated[str, Field(description=words.who(desk))],
        recipient: Annotated[str, Field(description=words.RECIPIENT)],
        text: Annotated[str, Field(description=words.TEXT)],
        config: RunnableConfig,
        tool_call_id: Annotated[str, InjectedToolCallId],
        choices: Annotated[list[str] | None, Field(description=words.CHOICES)] = None,
    ) -> str:
        thread = config.get("configurable", {}).get("thread_id")
        key = tool_call_id and (tool_call_id if thread is None else f"{thread} {tool_call_id}")
        hold = False if is_approved else None
        receipt = await desk.say(who, recipient, text, key=key or None, hold=hold, quick_replies=choices)
        return json.dumps(receipt.as_json())

    return StructuredTool.from_function(coroutine=send_message, name="send_message", description=words.TOOL)
