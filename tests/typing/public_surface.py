"""How the public names are used, for the type checkers: this file is checked and never run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

from twdm_async import (
    AccessFinding,
    Agent,
    AttemptReport,
    CallToAction,
    Client,
    Credentials,
    CustomProfile,
    DeliveryUnknown,
    Desk,
    DirectMessage,
    Inbox,
    InvalidInput,
    Listing,
    LocationRequest,
    Media,
    MemoryQuotaStore,
    MessageMedia,
    Pace,
    Person,
    Priority,
    Processing,
    QuickReply,
    QuickReplyResponse,
    Quota,
    QuotaQueueFull,
    QuotaState,
    QuotaStore,
    QuotaStoreFailed,
    QuotaTable,
    QuotaWaitTooLong,
    RateLimited,
    RateLimitStatus,
    Receipt,
    Reconciled,
    RedisQuotaStore,
    ReplyCredit,
    Scope,
    SharedCoordinate,
    SharedPlace,
    SourceApp,
    SQLiteQuotaStore,
    TextInput,
    UploadProgress,
    User,
    WelcomeMessage,
    WelcomeMessageRule,
)
from twdm_async.desk import Status
from twdm_async.outbox import Entry, HeldMessage, Outbox, Review, State
from twdm_async.sandbox import Sandbox, StoredMessage
from twdm_async.webhooks import Event, MessageEvent, Webhook, WebhookReply, read_events

if TYPE_CHECKING:
    import aiohttp


async def every_call(session: aiohttp.ClientSession) -> None:
    keys = Credentials(consumer_key="a", consumer_secret="b", access_token="c", access_token_secret="d")
    assert_type(Credentials.from_env(), Credentials)
    assert_type(Credentials.from_twurlrc(path="x", username="y"), Credentials)
    table = QuotaTable.default().replace(
        "direct_messages.send", Quota(15, per=2.0, scope=Scope.USER), pace=Pace(burst=15, per=2.0)
    )
    store = MemoryQuotaStore()
    async with Client(
        keys,
        api_url="https://api.x.com",
        upload_url="https://upload.x.com",
        quotas=table,
        quota_store=store,
        session=session,
        timeout=30.0,
        max_wait=None,
    ) as client:
        assert_type(client, Client)
        profile = await client.custom_profiles.create("Anna", Path("anna.png"))
        assert_type(profile, CustomProfile)
        assert_type(await client.custom_profiles.create("Anna", b""), CustomProfile)
        assert_type(await client.custom_profiles.get(profile.id), CustomProfile)
        assert_type(client.custom_profiles.list(), Listing[CustomProfile])
        async for listed in client.custom_profiles.list():
            assert_type(listed, CustomProfile)
        await client.custom_profiles.delete(5)
        media = await client.media.upload(b"", category="dm_image", shared=True)
        assert_type(media, Media)
        message = await client.direct_messages.send(
            5,
            "hello",
            custom_profile_id=profile.id,
            quick_replies=[QuickReply("a")],
            ctas=[CallToAction("b", "https://example.com")],
            attachment=media,
            priority=Priority.BULK,
            max_wait=1.0,
            lane="night",
        )
        assert_type(message, DirectMessage)
        assert_type(message.id, str | None)
        assert_type(message.text, str | None)
        assert_type(message.created_at, datetime | None)
        agent = client.agent(profile, name="anna", weight=2.0, priority=Priority.INTERACTIVE)
        assert_type(agent, Agent)
        assert_type(await agent.send("5", "hello", max_wait=1.0), DirectMessage)
        assert_type(await client.welcome_messages.create("hi", custom_profile_id="5"), WelcomeMessage)
        assert_type(await client.account.update_profile(name="x", skip_status=True), User)
        assert_type(await client.account.verify_credentials(), User)
        assert_type(client.quota_state(), tuple[QuotaState, ...])
        await client.close(timeout=1.0)


async def every_store() -> None:
    async with SQLiteQuotaStore(Path("quota.db"), assume_spent=0.5) as store:
        assert_type(store, SQLiteQuotaStore)
    assert_type(QuotaStore.from_url("redis://localhost", assume_spent=0.1), QuotaStore)
    redis = RedisQuotaStore("redis://localhost", prefix="brand")
    keys = Credentials(consumer_key="a", consumer_secret="b", access_token="c", access_token_secret="d")
    client = Client(keys, quota_store=redis, max_waiting=10, uncounted_reads=True)
    await client.seed_quotas()
    assert_type(client.quota_state()[0].reserved, int)
    QuotaTable.default().replace("direct_messages.send", Quota(1, per=1.0), reserve=0.5)


def quota_errors(full: QuotaQueueFull, failed: QuotaStoreFailed) -> None:
    assert_type(full.waiting, int)
    assert_type(failed.store, str)


def errors(wait: QuotaWaitTooLong, limited: RateLimited, unknown: DeliveryUnknown, bad: InvalidInput) -> None:
    assert_type(wait.retry_at, datetime)
    assert_type(limited.retry_at, datetime | None)
    assert_type(limited.codes, tuple[int, ...])
    assert_type(unknown.recipient_id, str | None)
    assert_type(bad.parameter, str)


async def double() -> None:
    async with Sandbox(quotas=None, time_scale=1.0, port=0) as sandbox:
        assert_type(sandbox.credentials, Credentials)
        for message in sandbox.messages:
            assert_type(message, StoredMessage)


async def delivery(client: Client, unknown: DeliveryUnknown) -> None:
    (settled,) = await client.direct_messages.reconcile(unknown, settle_after=30.0)
    assert_type(settled, Reconciled)
    assert_type(settled.message, DirectMessage | None)
    async for message in client.direct_messages.list():
        assert_type(message, DirectMessage)
    async with Outbox(client, Path("outbox.db"), settle_after=60.0) as outbox:
        entry = await outbox.put("5", "hello", custom_profile_id="1", key="k", priority=Priority.BULK)
        assert_type(entry, Entry)
        assert_type(await outbox.get("k"), Entry | None)
        assert_type(await outbox.drain(), dict[State, int])
        async with outbox.running(workers=4) as running:
            assert_type(running, Outbox)
        async for outcome in outbox.events():
            assert_type(outcome.state, State)
        assert_type(await outbox.purge(older_than=60), int)
        held = await outbox.put("5", "hello", key="h", hold=True)
        assert_type(held.review, Review | None)
        assert_type(await outbox.held(), list[HeldMessage])
        assert_type(await outbox.approve("h", by="anna"), Entry)
        assert_type(await outbox.reject("h", why="no", by="anna"), Entry)
        desk = Desk(client, outbox, {"billing": "1", "brand": None}, limit=Quota(20, per=3600))
        receipt = await desk.say("billing", 5, "hello", key="call 1", quick_replies=["Yes", QuickReply("No")])
        assert_type(receipt, Receipt)
        assert_type(receipt.status, Status)
        assert_type(receipt.as_json(), dict[str, str])
        assert_type(await desk.receipt("k"), Receipt | None)


def watched(keys: Credentials) -> None:
    def observer(report: AttemptReport) -> None:
        assert_type(report.took, float)

    Client(keys, observers=[observer])


async def family(client: Client) -> None:
    message = await client.direct_messages.get("1")
    assert_type(message, DirectMessage)
    assert_type(message.source_app, SourceApp | None)
    assert_type(message.quick_reply_response, QuickReplyResponse | None)
    assert_type(message.attachment, MessageMedia | SharedCoordinate | SharedPlace | None)
    assert_type(message.quick_replies, tuple[QuickReply, ...] | TextInput | LocationRequest | None)
    assert_type(message.ctas, tuple[CallToAction, ...])
    await client.direct_messages.delete(1)
    await client.direct_messages.indicate_typing("5")
    await client.direct_messages.mark_read("5", "1")
    if isinstance(message.attachment, MessageMedia):
        assert_type(await client.direct_messages.download(message.attachment, Path("x"), most=5), int)
    await client.direct_messages.send(
        5, attachment=SharedCoordinate(longitude=1.0, latitude=2.0), quick_replies=TextInput("How many?")
    )
    welcome = await client.welcome_messages.update("1", "hello")
    assert_type(welcome, WelcomeMessage)
    assert_type(client.welcome_messages.list(), Listing[WelcomeMessage])
    assert_type(await client.welcome_message_rules.set_default(welcome), WelcomeMessageRule)
    assert_type(client.welcome_message_rules.list(), Listing[WelcomeMessageRule])
    assert_type(await client.application.rate_limit_status("account"), RateLimitStatus)
    assert_type(await client.account.check_access(), tuple[AccessFinding, ...])

    def progress(one: UploadProgress) -> None:
        assert_type(one.processed, int | None)

    media = await client.media.upload(Path("film.mp4").open("rb"), category="dm_video", progress=progress)  # noqa: ASYNC230, SIM115 - it is never run
    assert_type(media.processing, Processing | None)


async def receiving(client: Client, keys: Credentials) -> None:
    async with Inbox(Path("inbox.db")) as inbox:
        async for message in client.direct_messages.poll(inbox, every=60.0):
            assert_type(message, DirectMessage)

        async def handle(event: Event) -> None:
            if isinstance(event, MessageEvent):
                assert_type(event.message, DirectMessage)
                assert_type(event.sender, Person | None)

        async with Webhook(keys, handle, inbox=inbox, clients=[client]) as webhook:
            reply = await webhook.receive("POST", "", {}, b"")
            assert_type(reply, WebhookReply)
    assert_type(read_events(b"{}"), tuple[Event, ...])
    Client(keys, media_api="v2")
    QuotaTable.default().replace("direct_messages.send", Quota(1, per=1.0), credit=ReplyCredit(5, per=60.0))


async def other_side(sandbox: Sandbox, webhook: Webhook) -> None:
    await sandbox.subscribe(webhook)
    sandbox.unsubscribe(webhook)
    await sandbox.subscribe("http://127.0.0.1:1/", envelope="x_activity")
    assert_type(sandbox.person(5).writes("hello"), str)
