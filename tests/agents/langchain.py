"""A graph of LangGraph that interrupts before each call; its checkpoints are in a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from tests.agents.driver import BATCH, CALLS, arguments, is_refused
from twdm_async.adapters.langchain import tool

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async import Desk


class _Scripted(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        done = sum(isinstance(message, ToolMessage) for message in messages)
        calls = [
            {"type": "tool_call", "id": f"call_{n}", "name": "send_message", "args": arguments(n)}
            for n in range(done, min(done + BATCH, CALLS))
        ]
        message = AIMessage("" if calls else "done", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])


async def _ask(request: Any, execute: Any) -> Any:
    call = request.tool_call
    if not interrupt({"id": call["id"]}):
        return ToolMessage("Anna said no.", name=call["name"], tool_call_id=call["id"], status="error")
    return await execute(request)


async def run(desk: Desk, folder: Path) -> dict[str, Any]:
    model = _Scripted()

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode([tool(desk, is_approved=True)], awrap_tool_call=_ask))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition)
    graph.add_edge("tools", "agent")
    config: Any = {"configurable": {"thread_id": "a"}}
    async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
        app = graph.compile(checkpointer=saver)
        state = await app.aget_state(config)
        if not state.values:
            await app.ainvoke({"messages": [HumanMessage("Write to everybody.")]}, config, durability="sync")
        while (state := await app.aget_state(config)).next:
            decided = {one.id: not is_refused(int(one.value["id"][5:])) for one in state.interrupts}
            await app.ainvoke(Command(resume=decided) if decided else None, config, durability="sync")
    told = [message for message in state.values["messages"] if isinstance(message, ToolMessage)]
    return {
        message.tool_call_id: json.loads(message.text) if message.status == "success" else message.text
        for message in told
    }
