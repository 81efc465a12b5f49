"""A bot: it greets, asks, and answers under two profiles; and people see that it reads and types."""

from contextlib import suppress
from pathlib import Path

from twdm_async import Client, Inbox, QuickReply, TwdmError
from twdm_async.webhooks import Event, MessageEvent, Webhook

ANSWERS = {"order": ("Olga, Orders", "Your order is on its way."), "bill": ("Ben, Billing", "Your bill is paid.")}
CHOICES = [QuickReply(topic.capitalize(), metadata=topic) for topic in ANSWERS]


async def bot(client: Client, inbox: Inbox) -> Webhook:
    picture = Path(__file__).parents[1] / "anna.png"
    profiles = {profile.name: profile async for profile in client.custom_profiles.list()}  # of an earlier start
    agents = {}
    for topic, (name, _) in ANSWERS.items():
        agents[topic] = client.agent(profiles.get(name) or await client.custom_profiles.create(name, picture))
    if not [rule async for rule in client.welcome_message_rules.list()]:
        greeting = await client.welcome_messages.create("Hello! What is it about?", quick_replies=CHOICES)
        await client.welcome_message_rules.set_default(greeting)

    async def handle(event: Event) -> None:
        if isinstance(event, MessageEvent):
            with suppress(TwdmError):  # it answers, whatever becomes of these
                await client.direct_messages.mark_read(event.person_id, event.key, max_wait=0)
                await client.direct_messages.indicate_typing(event.person_id, max_wait=0)
            tapped = event.message.quick_reply_response
            if tapped and tapped.metadata in ANSWERS:
                await agents[tapped.metadata].send(event.person_id, ANSWERS[tapped.metadata][1])
            else:
                await client.direct_messages.send(event.person_id, "Please choose.", quick_replies=CHOICES)

    return Webhook(client.credentials, handle, inbox=inbox, clients=[client])
