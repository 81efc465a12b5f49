"""A server of the Model Context Protocol (MCP) whose tools send messages; extra ``mcp``.

A call has no id that stays the same when a client repeats it, so the tool has an argument `key`. If a model leaves it
out, the same content to the same person within ten minutes counts as the same message.

If `asks` is true, the person in front of the client approves each message (*elicitation*). In protocols up to
2025-11-25, the server asks while the call waits. From 2026-07-28 on, the call ends with the question, and the client
repeats it with the answer. If a client cannot ask, the message is held in the outbox until somebody approves it there.
"""

import contextlib
import json
from functools import partial
from typing import Annotated, Final

from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from twdm_async import __version__
from twdm_async._log import printable
from twdm_async.adapters import words
from twdm_async.desk import Desk, Receipt, Status
from twdm_async.errors import InvalidInput, TwdmError

_SHOWN: Final = ("endpoint", "scope", "limit", "used", "waiting", "free_at")
"""What is shown of each quota."""


class Answer(BaseModel):
    """What has become of a message."""

    status: Status = Field(description="What has become of it.")
    advice: str = Field(description="What to do next.")
    key: str | None = Field(None, description="Pass this to message_state, to learn later what has become of it.")
    message_id: str | None = Field(None, description="The message's id, once it is sent.")
    until: str | None = Field(None, description="When a queued message leaves, at the earliest (ISO 8601).")
    reason: str | None = Field(None, description="Why it was refused, or what it waits for.")


class Approval(BaseModel):
    """A person's answer to the question whether a message may be sent."""

    approve: bool = Field(description="Send this message")


class _NotAsked(Approval):
    """There was no need, or no way, to ask a person."""


def server(desk: Desk, *, asks: bool = False) -> MCPServer:
    """Return a server with the tools ``send_message`` and ``message_state`` and the resources ``twdm://names`` and
    ``twdm://quotas``. Run it by its own methods, while the desk's outbox runs.

    Args:
        desk: the desk that sends the messages.
        asks: whether the person in front of the client must approve each message.
    """
    made = MCPServer("twdm_async", version=__version__, instructions=words.TOOL, log_level="WARNING")

    async def approval(
        who: str, recipient: str, text: str, choices: list[str] | None, key: str | None, ctx: Context
    ) -> Approval | Elicit[Approval]:
        known = await desk.check(who, recipient, text, key=key, quick_replies=choices) if asks else None
        if not asks or not _can_ask(ctx) or (known is not None and known.status is not Status.HELD):
            return _NotAsked(approve=False)
        return Elicit(_question(who, recipient, text, choices or []), Approval)

    @made.tool(
        title="Send a Direct Message",
        description=words.TOOL,
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True
        ),
        structured_output=True,
    )
    async def send_message(
        answer: Annotated[ElicitationResult[Approval], Resolve(approval)],
        who: Annotated[str, Field(description=words.who(desk))],
        recipient: Annotated[str, Field(description=words.RECIPIENT)],
        text: Annotated[str, Field(description=words.TEXT)],
        choices: Annotated[list[str] | None, Field(description=words.CHOICES)] = None,
        key: Annotated[str | None, Field(description=words.KEY)] = None,
    ) -> Answer:
        say = partial(desk.say, who, recipient, text, key=key, hold=asks or None, quick_replies=choices)
        receipt = await say()
        was_asked = not (isinstance(answer, AcceptedElicitation) and isinstance(answer.data, _NotAsked))
        if was_asked and receipt.status is Status.HELD and receipt.key:
            await _decide(desk, receipt.key, answer)
            receipt = await say()
        return _answer(receipt)

    @made.tool(
        title="Show what has become of a message",
        description="Tell what has become of a message by now. The answer is like that of send_message.",
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        structured_output=True,
    )
    async def message_state(key: Annotated[str, Field(description="The key in the answer of send_message.")]) -> Answer:
        try:
            receipt = await desk.receipt(key)
        except TwdmError as error:
            raise ToolError(str(error)) from None
        if receipt is None:
            raise ToolError("nothing is known of a message with this key; it may have been sent elsewhere")
        return _answer(receipt)

    @made.resource("twdm://names", title="The names under which messages can be sent", mime_type="application/json")
    async def names() -> str:
        return json.dumps(desk.names)

    @made.resource("twdm://quotas", title="How much of each quota is spent", mime_type="application/json")
    async def quotas() -> str:
        states = desk.client.quota_state()
        return json.dumps([{name: getattr(state, name) for name in _SHOWN} for state in states], default=str)

    return made


async def _decide(desk: Desk, key: str, answer: ElicitationResult[Approval]) -> None:
    """Let a held message be sent, or not, as the person has decided; if there was no decision, leave it held."""
    with contextlib.suppress(InvalidInput):  # somebody else has decided meanwhile
        if isinstance(answer, AcceptedElicitation) and answer.data.approve:
            await desk.outbox.approve(key, by="the person in front of the MCP client")
        elif answer.action != "cancel":
            await desk.outbox.reject(key, why="declined in the MCP client")


def _question(who: str, recipient: str, text: str, choices: list[str]) -> str:
    """Return the question to a person. The message is quoted, so that nothing in it can be taken for the question."""
    lines = "\n".join([text, *(f"[{choice}]" for choice in choices)]).splitlines()
    quoted = "\n".join(f"> {printable(line)}" for line in lines)
    return f"Send this message as {who} to person {recipient}?\n\n{quoted}"


def _can_ask(ctx: Context) -> bool:
    """Return whether the client can ask a person."""
    able = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    has_form = able is not None and (able.form is not None or able.url is None)
    return has_form and (ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or ctx.session.can_send_request)


def _answer(receipt: Receipt) -> Answer:
    return Answer.model_validate(receipt.as_json())
