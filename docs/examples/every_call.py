"""Every call of the family once. The tests run it against the sandbox."""

from pathlib import Path

from twdm_async import CallToAction, Client, MessageMedia, QuickReply, SharedCoordinate


async def profiles(client: Client) -> None:
    profile = await client.custom_profiles.create("Anna from Support", Path(__file__).parents[1] / "anna.png")
    same = await client.custom_profiles.get(profile.id)
    print(same.name, same.avatar_url)
    async for one in client.custom_profiles.list():
        print(one.id, one.name)
    await client.custom_profiles.delete(profile.id)


async def messages(client: Client, person: str, picture: Path) -> None:
    media = await client.media.upload(picture, category="dm_image")
    sent = await client.direct_messages.send(
        person,
        "Here it is. Do you like it?",
        attachment=media,
        quick_replies=[QuickReply("Yes", metadata="yes"), QuickReply("No", metadata="no")],
        ctas=[CallToAction("Our shop", "https://example.com/shop")],
    )
    await client.direct_messages.send(
        person, "And here we are.", attachment=SharedCoordinate(longitude=13.4, latitude=52.5)
    )
    async for message in client.direct_messages.list():  # sent and received, the newest first
        print(message.created_at, message.sender_id, message.text, message.entities)
        if message.sender_id == person and message.id:
            await client.direct_messages.mark_read(person, message.id)
            await client.direct_messages.indicate_typing(person)
    same = await client.direct_messages.get(sent.id or "")
    if isinstance(same.attachment, MessageMedia):
        await client.direct_messages.download(same.attachment, picture.with_name("copy.png"))
    await client.direct_messages.delete(sent.id or "")


async def welcome(client: Client) -> None:
    choices = [QuickReply("Order", metadata="order"), QuickReply("Bill", metadata="bill")]
    made = await client.welcome_messages.create("Hello! What is it about?", name="first", quick_replies=choices)
    rule = await client.welcome_message_rules.set_default(made)  # everybody sees it from now on
    await client.welcome_messages.update(made.id, "Good day!", quick_replies=choices)  # all of it is replaced
    print((await client.welcome_messages.get(made.id)).text)
    print([one.name async for one in client.welcome_messages.list()])
    print((await client.welcome_message_rules.get(rule.id)).welcome_message_id)
    print([one.id async for one in client.welcome_message_rules.list()])
    await client.welcome_message_rules.delete(rule.id)
    await client.welcome_messages.delete(made.id)


async def films(client: Client, film: Path) -> None:
    await client.media.upload(
        film,
        category="dm_video",
        shared=True,  # so that it can be used in several messages
        progress=lambda progress: print(f"{progress.sent} of {progress.total} bytes"),
    )


async def account(client: Client) -> None:
    print(await client.users.id_of("@person_844385345234"))  # messages are sent to ids, not to handles
    print((await client.account.verify_credentials()).screen_name)
    await client.account.update_profile(description="We answer within the hour.")
    for finding in await client.account.check_access():
        print(finding.what, finding.ok, finding.words)
    status = await client.application.rate_limit_status("direct_messages", "custom_profiles")
    print(status.windows["/direct_messages/events/list"].remaining)
