"""A graph of LangGraph. A person approves each message; checkpoints survive a restart."""

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from twdm_async import Desk
from twdm_async.adapters.langchain import tool


async def approved(request: Any, execute: Any) -> Any:
    """Ask a person before the tool runs. The node begins anew when the answer is there."""
    call = request.tool_call
    if interrupt(call["args"]):
        return await execute(request)
    return ToolMessage("A person said no.", name=call["name"], tool_call_id=call["id"], status="error")


def make_graph(desk: Desk, model: BaseChatModel, saver: BaseCheckpointSaver[Any]) -> Any:
    send_message = tool(desk, is_approved=True)
    thinking = model.bind_tools([send_message])

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await thinking.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([send_message], awrap_tool_call=approved))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile(checkpointer=saver)


async def ask(graph: Any, question: str, thread: str) -> None:
    """Run until the agent wants to send."""
    config = {"configurable": {"thread_id": thread}}
    await graph.ainvoke({"messages": [HumanMessage(question)]}, config, durability="sync")


async def decide(graph: Any, decision: Callable[[dict[str, Any]], bool], thread: str) -> str:
    """Go on with the run, perhaps in another process. `decision` is asked for each call, with its arguments."""
    config = {"configurable": {"thread_id": thread}}
    while questions := (await graph.aget_state(config)).interrupts:
        answers = {one.id: decision(one.value) for one in questions}
        await graph.ainvoke(Command(resume=answers), config, durability="sync")
    return str((await graph.aget_state(config)).values["messages"][-1].content)
