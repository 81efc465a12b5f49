"""An agent of the Microsoft 365 Agents SDK that answers Direct Messages with quick replies."""

import asyncio

from aiohttp import web
from microsoft_agents.activity import Activity, CardAction, SuggestedActions
from microsoft_agents.hosting.core import ActivityHandler, TurnContext

from twdm_async import Client, Desk, Inbox, Outbox, SQLiteQuotaStore, Webhook
from twdm_async.adapters.microsoft_agents import DeskAdapter
from twdm_async.webhooks import Event, MessageEvent


class Shop(ActivityHandler):
    async def on_message_activity(self, turn_context: TurnContext) -> None:
        if turn_context.activity.value == "order":
            await turn_context.send_activity("It left this morning.")
            return
        actions = [CardAction(type="imBack", title=word.capitalize(), value=word) for word in ("order", "bill")]
        question = Activity(
            type="message", text="What is it about?", suggested_actions=SuggestedActions(actions=actions)
        )
        await turn_context.send_activity(question)


def webhook_of(desk: Desk, inbox: Inbox) -> Webhook:
    """Return a webhook that lets the agent handle each event once. If that fails, it is handled again."""
    adapter, agent = DeskAdapter(desk, "shop"), Shop()

    async def handle(event: Event) -> None:
        if isinstance(event, MessageEvent):
            await adapter.process(event, agent)

    return Webhook(desk.client.credentials, handle, inbox=inbox, clients=[desk.client], retries=5)


async def main() -> None:
    async with (
        SQLiteQuotaStore("shop.db") as store,
        Inbox("shop.db") as inbox,
        Client.from_env(quota_store=store) as client,
        Outbox(client, "shop.db") as outbox,
        outbox.running(),
    ):
        webhook = webhook_of(Desk(client, outbox, {"shop": None}), inbox)
        app = web.Application()
        app.router.add_route("*", "/webhook", webhook.serve)
        app.cleanup_ctx.append(webhook.lifespan)
        runner = web.AppRunner(app)
        try:
            await runner.setup()
            await web.TCPSite(runner, port=8080).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
