"""A channel adapter for the Microsoft 365 Agents SDK; extra ``microsoft-agents``.

A person's message becomes an inbound activity; the messages that the agent sends in its turn become Direct Messages. A
message's key is made of the inbound activity's id and the message's place in the turn. So if a turn fails and the
event is handled again, what was sent before is not sent again. Do not send messages from error handlers: these would
take places in the turn, too. Suggested actions become quick replies, and a tap becomes the value of its action.
"""

# pyright: basic
import contextlib
import json
import mimetypes
from collections.abc import Awaitable, Callable
from typing import Any, Final

from microsoft_agents.activity import Activity, CardAction, ConversationReference, ResourceResponse
from microsoft_agents.hosting.core import Agent, ChannelAdapter, TurnContext

from twdm_async._log import quiet_logger
from twdm_async.desk import Desk, Receipt, Status
from twdm_async.errors import TwdmError
from twdm_async.models.attachments import MessageMedia
from twdm_async.models.quick_replies import QuickReply
from twdm_async.webhooks import MessageEvent

_log = quiet_logger(__name__)
_TAPPED: Final = ("imBack", "messageBack", "postBack")
_RECEIPTS: Final = "twdm_async receipts"
Callback = Callable[[TurnContext], Awaitable[None]]


class DeskAdapter(ChannelAdapter):
    """Connects an agent (an ``AgentApplication``, an ``ActivityHandler``) with a desk.

    Args:
        desk: the desk that sends the messages.
        who: the name under which the agent writes, one of the desk's.
    """

    def __init__(self, desk: Desk, who: str) -> None:
        super().__init__()
        self._desk, self._who = desk, who

    async def process(self, event: MessageEvent, agent: Agent) -> list[Receipt]:
        """Let the agent handle a person's message, and return what has become of its answers.

        Raises:
            Exception: what the agent raises, unless it or the adapter has an error handler.
        """
        return await self._turn(TurnContext(self, activity(event)), agent.on_turn)

    async def begin(self, reference: ConversationReference, key: str, callback: Callback) -> list[Receipt]:
        """Let the agent write without being written to.

        Args:
            reference: the conversation, from an earlier activity.
            key: what identifies this occasion; the keys of the messages begin with it.
            callback: writes the messages with the ``TurnContext`` that it gets.
        """
        continuation = reference.get_continuation_activity()
        continuation.id = key  # its own is random
        return await self._turn(TurnContext(self, continuation), callback)

    async def continue_conversation_with_claims(
        self, claims_identity: Any, continuation_activity: Activity, callback: Callback, *_: object
    ) -> None:
        await self._turn(TurnContext(self, continuation_activity, claims_identity), callback)

    async def _turn(self, context: TurnContext, callback: Callback) -> list[Receipt]:
        receipts: list[Receipt | None] = []
        context.turn_state[_RECEIPTS] = receipts
        await self.run_pipeline(context, callback)
        return [receipt for receipt in receipts if receipt is not None]

    async def send_activities(self, context: TurnContext, activities: list[Activity]) -> list[ResourceResponse]:
        receipts: Any = context.turn_state[_RECEIPTS]
        responses: list[ResourceResponse] = []
        for one in activities:
            message_id = None
            if one.type == "message":
                receipts.append(None)  # the message's place in the turn, though others are sent meanwhile
                place = len(receipts) - 1
                key = f"{context.activity.id} {place}" if context.activity.id else None
                receipt = receipts[place] = await self._say(one, key)
                message_id = receipt.message_id
                if receipt.status is Status.REFUSED:
                    _log.warning("a message was not sent: %s", receipt.reason)
            elif one.type == "typing":
                with contextlib.suppress(TwdmError):  # nobody misses it
                    await self._desk.client.direct_messages.indicate_typing(_recipient(one), max_wait=0)
            responses.append(ResourceResponse(id=message_id) if message_id else ResourceResponse())
        return responses

    async def _say(self, message: Activity, key: str | None) -> Receipt:
        offered = getattr(message.suggested_actions, "actions", None) or []
        if message.attachments or any(action.type not in _TAPPED for action in offered):
            return Receipt(status=Status.REFUSED, reason="only texts and quick replies can be sent")
        try:
            replies = [QuickReply(action.title or "", metadata=_packed(action)) for action in offered]
        except TwdmError as error:
            return Receipt(status=Status.REFUSED, reason=f"suggested actions: {error}")
        return await self._desk.say(self._who, _recipient(message), message.text, key=key, quick_replies=replies)

    async def update_activity(self, *_: object) -> None:
        raise NotImplementedError("a Direct Message cannot be changed")

    async def delete_activity(self, *_: object) -> None:
        raise NotImplementedError("a Direct Message cannot be taken back")


def activity(event: MessageEvent) -> Activity:
    """Return a person's message as an activity. If it is a tapped quick reply, its ``value`` is the action's."""
    message, account, person = event.message, event.for_user_id, event.person_id
    made: dict[str, Any] = {
        "type": "message",
        "id": event.key,
        "channelId": "twitter",
        "serviceUrl": "https://twitter.invalid",  # a label, which the SDK wants
        "text": message.text or "",
        "from": {"id": person, "name": (event.sender and event.sender.name) or "", "role": "user"},
        "recipient": {"id": account, "role": "bot"},
        "conversation": {"id": f"{account}-{person}", "isGroup": False},
    }
    if message.created_at is not None:
        made["timestamp"] = message.created_at
    if isinstance(message.attachment, MessageMedia) and (url := message.attachment.url):
        made["attachments"] = [{"contentType": mimetypes.guess_type(url)[0] or "image/*", "contentUrl": url}]
    if message.quick_reply_response is not None and message.quick_reply_response.metadata is not None:
        made |= _unpacked(message.quick_reply_response.metadata)
    return Activity.model_validate(made)


def _recipient(activity: Activity) -> str:
    return getattr(activity.recipient, "id", None) or ""


def _packed(action: CardAction) -> str:
    kind = getattr(action.type, "value", action.type)
    return json.dumps({"type": kind, "value": action.value, "text": action.text}, separators=(",", ":"))


def _unpacked(metadata: str) -> dict[str, Any]:
    """Return what a tapped quick reply stands for, as fields of an activity."""
    try:
        packed = json.loads(metadata)
        kind, value, text = packed["type"], packed["value"], packed["text"]
    except (ValueError, TypeError, KeyError):
        return {"value": metadata}  # others made this quick reply
    text = {"imBack": str(value), "messageBack": text}.get(kind)
    return {"value": value} | ({"text": text} if text else {})
