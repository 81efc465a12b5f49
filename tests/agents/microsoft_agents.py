"""An agent of the Microsoft 365 Agents SDK that answers each event twice; its answers are held until a person decides.
Which events are done is its saved state.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from microsoft_agents.activity import Activity, CardAction, SuggestedActions
from microsoft_agents.hosting.core import ActivityHandler, TurnContext

from tests.agents.driver import CALLS, arguments, is_refused
from twdm_async.adapters.microsoft_agents import DeskAdapter
from twdm_async.webhooks import MessageEvent, read_events

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async import Desk
    from twdm_async.outbox import Outbox

HOLD = True


class _Agent(ActivityHandler):
    async def on_message_activity(self, turn_context: TurnContext) -> None:
        first = 2 * int(turn_context.activity.text or "")
        for number in (first, first + 1):
            given = arguments(number)
            actions = [CardAction(type="imBack", title=label, value=label) for label in given["choices"]]
            await turn_context.send_activity(Activity(type="typing"))
            message = Activity(type="message", text=given["text"])
            if actions:
                message.suggested_actions = SuggestedActions(actions=actions)
            await turn_context.send_activity(message)


def event(number: int) -> MessageEvent:
    """A message from a person, with this number as its text."""
    body = {
        "for_user_id": "2244994945",
        "direct_message_events": [
            {
                "type": "message_create",
                "id": str(1000 + number),
                "created_timestamp": "1700000000000",
                "message_create": {
                    "sender_id": str(100 + number),
                    "target": {"recipient_id": "2244994945"},
                    "message_data": {"text": str(number)},
                },
            }
        ],
    }
    [found] = read_events(json.dumps(body))
    assert isinstance(found, MessageEvent)
    return found


async def _decide(outbox: Outbox) -> None:
    while True:
        for one in await outbox.held():
            if is_refused(int((one.message.text or "").rpartition(" ")[2])):
                await outbox.reject(one.entry.key, why="Anna said no.", by="anna")
            else:
                await outbox.approve(one.entry.key, by="anna")
        await asyncio.sleep(0.02)


async def run(desk: Desk, folder: Path) -> dict[str, Any]:
    adapter, agent = DeskAdapter(desk, "billing"), _Agent()
    deciding = asyncio.create_task(_decide(desk.outbox))
    for start in range(0, CALLS // 2, 10):
        numbers = [number for number in range(start, start + 10) if not (folder / f"done {number}").exists()]
        await asyncio.gather(*(_handle(adapter, agent, folder, number) for number in numbers))
    told: dict[str, Any] = {}
    for number in range(CALLS):
        key = f"desk:{1000 + number // 2} {number % 2}"
        await desk.outbox.outcome(key)
        receipt = await desk.receipt(key)
        assert receipt is not None
        told[f"call_{number}"] = (
            "Anna said no." if receipt.reason and "Anna said no." in receipt.reason else receipt.as_json()
        )
    deciding.cancel()
    return told


async def _handle(adapter: DeskAdapter, agent: _Agent, folder: Path, number: int) -> None:
    receipts = await adapter.process(event(number), agent)
    assert len(receipts) == 2
    (folder / f"done {number}").touch()
