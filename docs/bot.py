"""A bot: it greets, asks, and answers under two profiles; and people see that it reads and types."""

from pathlib import Path

from aiohttp import web

from twdm_async import Client, Inbox, QuickReply
from twdm_async.webhooks import Event, MessageEvent, Webhook

ANSWERS = {"order": ("Olga, Orders", "Your order is on its way."), "bill": ("Ben, Billing", "Your bill is paid.")}
CHOICES = [QuickReply(topic.capitalize(), metadata=topic) for topic in ANSWERS]


async def bot(client: Client, inbox: Inbox) -> web.Application:
    picture = Path(__file__).parent / "anna.png"
    profiles = {topic: await client.custom_profiles.create(name, picture) for topic, (name, _) in ANSWERS.items()}
    agents = {topic: client.agent(profile) for topic, profile in profiles.items()}
    greeting = await client.welcome_messages.create("Hello! What is it about?", quick_replies=CHOICES)
    await client.welcome_message_rules.set_default(greeting)

    async def handle(event: Event) -> None:
        if isinstance(event, MessageEvent):
            await client.direct_messages.mark_read(event.person_id, event.key)
            await client.direct_messages.indicate_typing(event.person_id)
            tapped = event.message.quick_reply_response
            if tapped and tapped.metadata in ANSWERS:
                await agents[tapped.metadata].send(event.person_id, ANSWERS[tapped.metadata][1])
            else:
                await client.direct_messages.send(event.person_id, "Please choose.", quick_replies=CHOICES)

    webhook = Webhook(client.credentials, handle, inbox=inbox, clients=[client])
    app = web.Application()
    app.router.add_route("*", "/webhook", webhook.serve)
    app.cleanup_ctx.append(webhook.lifespan)
    return app
