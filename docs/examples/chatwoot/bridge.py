"""A bridge between Chatwoot and Direct Messages: each human agent writes under a custom profile of their own.

A webhook from Chatwoot is written to a file before it is answered, and then worked on: the agent's profile is made at
first use, files are uploaded, and the message is put into the outbox under the number that it has in Chatwoot. So a
repeated webhook sends nothing twice, and neither does a crash. Outcomes go back to the agent's screen.

Run it with ``python bridge.py``; README.md says what it needs.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import os
import random
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from chatwoot import Chatwoot, ChatwootBusy, ChatwootRefused, is_signed
from store import Store

from twdm_async import (
    BadRequest,
    Client,
    ConnectFailed,
    Forbidden,
    Inbox,
    InvalidInput,
    MalformedResponse,
    MediaFailed,
    NotFound,
    Outbox,
    OutboxFailed,
    QuickReply,
    QuotaStoreFailed,
    QuotaWaitTooLong,
    RateLimited,
    ServerError,
    SQLiteQuotaStore,
    TwdmError,
    Unauthorized,
    Webhook,
)
from twdm_async.models import MessageMedia
from twdm_async.models.media import HEAD, MediaCategory, type_by_content
from twdm_async.outbox import State
from twdm_async.webhooks import Event, MessageEvent, ReadEvent

log = logging.getLogger("bridge")

KINDS: dict[str, MediaCategory] = {"image/gif": "dm_gif", "video/mp4": "dm_video", "video/quicktime": "dm_video"}
LARGEST_FILE, LARGEST_PICTURE = 15_000_000, 700_000  # bytes
LONGEST_NAME = 48  # characters
TEMPORARY = (
    ChatwootBusy,
    ConnectFailed,
    MalformedResponse,
    OutboxFailed,
    QuotaStoreFailed,
    QuotaWaitTooLong,
    RateLimited,
    ServerError,
    Unauthorized,
)
FAILED = {State.REJECTED, State.FAILED, State.EXPIRED}


class Bridge:
    """Carries messages between a Chatwoot inbox and an account.

    Args:
        client: the account's client.
        outbox: an outbox that runs.
        chatwoot: the Chatwoot inbox.
        store: what is remembered.
        secret: the inbox' secret, with which Chatwoot signs from version 4.13 on.
        token: for earlier versions, what ends the webhook's address: ``?token=`` and this.
    """

    def __init__(
        self,
        client: Client,
        outbox: Outbox,
        chatwoot: Chatwoot,
        store: Store,
        *,
        secret: str | None = None,
        token: str | None = None,
    ) -> None:
        if not secret and not token:
            raise ValueError("without a secret or a token, anybody could write as an agent")
        self._client = client
        self._outbox = outbox
        self._chatwoot = chatwoot
        self._store = store
        self._secret = secret
        self._token = token
        self._came = asyncio.Event()
        self._in_hand: set[int] = set()  # conversations
        self._making: dict[int, asyncio.Lock] = {}  # by agent

    # ---- from Chatwoot to the person ----

    async def receive(self, request: web.Request) -> web.Response:
        """Keep a webhook from Chatwoot. Everything is answered at once, since Chatwoot waits for five seconds, and
        marks the agent's message as failed if there is no good answer.
        """
        body = await request.read()
        if self._secret:
            is_good = is_signed(self._secret, request.headers, body)
        else:
            is_good = hmac.compare_digest(request.query.get("token", "").encode(), (self._token or "").encode())
        if not is_good:
            return web.Response(status=403)
        try:
            message = json.loads(body)
            is_new = message["event"] == "message_created" and message["message_type"] in {"outgoing", "template"}
            if is_new and not message["private"] and message["inbox"]["id"] == self._chatwoot.inbox_id:
                await self._store.add_webhook(int(message["id"]), int(message["conversation"]["id"]), message)
                self._came.set()
        except (ValueError, KeyError, TypeError):
            return web.Response(status=400)
        return web.Response()

    async def work(self) -> None:
        """Send what came from Chatwoot: messages of one conversation one after the other. Do not return."""
        async with asyncio.TaskGroup() as sending:
            while True:
                self._came.clear()
                for conversation, message in await self._store.next_webhooks(self._in_hand):
                    self._in_hand.add(conversation)
                    sending.create_task(self._send(conversation, message))
                await self._came.wait()

    async def _send(self, conversation: int, message: dict[str, Any]) -> None:
        number = message["id"]
        wait = 1.0
        while True:
            try:
                await self._put(message)
                break
            except TEMPORARY as error:
                log.warning("message %s waits: %s", number, type(error).__name__)
                await asyncio.sleep(wait * random.uniform(0.5, 1))
                wait = min(2 * wait, 300.0)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with this message, the next ones go on
                log.warning("message %s cannot be sent: %s", number, type(error).__name__)
                is_known = isinstance(error, (TwdmError, ChatwootRefused))
                await self._tell(conversation, number, "failed", str(error) if is_known else "it cannot be read")
                break
        await self._store.finish_webhook(number)
        self._in_hand.discard(conversation)
        self._came.set()

    async def _put(self, message: dict[str, Any]) -> None:
        """Put a message into the outbox: one Direct Message for each file, since each can carry one. Wait a minute for
        each outcome: the outbox sends the messages of different agents side by side, and they have an order.
        """
        conversation = message["conversation"]
        person = conversation["contact_inbox"]["source_id"]
        profile = await self._profile_of(message)
        items = (message.get("content_attributes") or {}).get("items") or []
        choices = [QuickReply(item["title"], metadata=str(item["value"])) for item in items if "value" in item]
        files = message.get("attachments") or [None]
        for place, file in enumerate(files, 1):
            key = f"chatwoot {conversation['id']} {message['id']} {place}/{len(files)}"
            if await self._outbox.get(key) is None:  # else it was put before a crash
                await self._outbox.put(
                    person,
                    (message.get("content") or None) if place == 1 else None,
                    custom_profile_id=profile,
                    key=key,
                    quick_replies=(choices or None) if place == len(files) else None,
                    attachment=None if file is None else await self._uploaded(file["data_url"]),
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await self._outbox.outcome(key)

    async def _uploaded(self, url: str) -> str:
        content = await self._chatwoot.fetch(url, LARGEST_FILE)
        category = KINDS.get(type_by_content(content[:HEAD]) or "", "dm_image")
        return (await self._client.media.upload(content, category=category)).id

    async def _profile_of(self, message: dict[str, Any]) -> str | None:
        """Return the custom profile of the agent who wrote, which is made if it is not there; automatic messages come
        from the account itself. An agent with a new name or picture gets a new profile.
        """
        sender = message.get("sender") or {}
        if sender.get("type") != "user":
            return None
        number, name = int(sender["id"]), str(sender["name"])[:LONGEST_NAME]
        picture = _picture_of(number, message["conversation"])
        async with self._making.setdefault(number, asyncio.Lock()):
            made = await self._store.profile(number)
            if made is not None and made[0] == name and picture in {None, made[1]}:
                return made[2]
            avatar = await self._avatar(name, picture)
            try:
                profile = await self._client.custom_profiles.create(name, avatar)
            except (InvalidInput, MediaFailed, BadRequest):  # a picture that cannot be used
                profile = await self._client.custom_profiles.create(name, _plain_picture(name))
            await self._store.set_profile(number, name, picture, profile.id)
            return profile.id

    async def _avatar(self, name: str, picture: str | None) -> bytes:
        if picture:
            try:
                return await self._chatwoot.fetch(picture, LARGEST_PICTURE)
            except (ChatwootRefused, ChatwootBusy) as error:
                log.warning("the picture of an agent cannot be had: %s", error)
        return _plain_picture(name)

    # ---- from the outbox to the agent's screen ----

    async def report(self) -> None:
        """Show agents what has become of their messages. Do not return."""
        async for entry in self._outbox.events(await self._store.progress()):
            if entry.key.startswith("chatwoot ") and entry.state.is_final:
                _, conversation, message, place = entry.key.split()
                count = int(place.partition("/")[2])
                keys = [f"chatwoot {conversation} {message} {number}/{count}" for number in range(1, count + 1)]
                entries = [await self._outbox.get(key) for key in keys]
                bad = next((one for one in entries if one is not None and one.state in FAILED), None)
                if bad is not None:
                    await self._tell(int(conversation), int(message), "failed", bad.error)
                elif all(one is not None and one.state is State.SENT for one in entries):
                    await self._tell(int(conversation), int(message), "delivered")
                    if entry.message_id:
                        person = entry.recipient_id
                        await self._store.add_sent(entry.message_id, person, int(conversation), int(message))
                        await self._show_read(person)  # who may have read it by now
            await self._store.set_progress(entry.number)

    async def _tell(self, conversation: int, message: int, status: str, error: str | None = None) -> None:
        wait = 1.0
        while True:
            try:
                await self._chatwoot.set_status(conversation, message, status, error)
            except ChatwootRefused as refused:  # the message was deleted, say
                log.warning("the state of message %s cannot be shown: %s", message, refused)
            except ChatwootBusy:
                await asyncio.sleep(wait)
                wait = min(2 * wait, 60.0)
                continue
            return

    async def _show_read(self, person: str) -> None:
        for conversation, message in await self._store.take_read(person):
            await self._tell(conversation, message, "read")

    # ---- from the person to Chatwoot ----

    async def handle(self, event: Event) -> None:
        """Show agents what a person writes, and what a person has read."""
        if isinstance(event, ReadEvent):
            await self._store.set_read(event.person_id, event.last_read_event_id)
            await self._show_read(event.person_id)
        if not isinstance(event, MessageEvent):
            return
        sender = event.sender
        name = (sender and (sender.name or sender.screen_name)) or f"Person {event.person_id}"
        picture = sender.profile_image_url if sender else None
        conversation = await self._chatwoot.conversation_with(event.person_id, name, picture)
        file = None
        text = event.message.text or ""
        if isinstance(event.message.attachment, MessageMedia):
            try:
                file = await self._downloaded(event.message.attachment)
            except (InvalidInput, MediaFailed, BadRequest, Forbidden, NotFound) as error:
                text = f"{text}\n(A file cannot be shown: {error})"
        await self._chatwoot.add_incoming(conversation, event.key, text, file)

    async def _downloaded(self, media: MessageMedia) -> tuple[str, bytes, str]:
        name = (media.url or "file").rpartition("/")[2].partition(":")[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            await self._client.direct_messages.download(media, path)
            content = await asyncio.to_thread(path.read_bytes)
            return name, content, type_by_content(content[:HEAD]) or "application/octet-stream"


def _picture_of(agent: int, conversation: dict[str, Any]) -> str | None:
    """Return the address of an agent's picture; an empty string if there is none, and ``None`` if it is not known."""
    seen = [one.get("sender") or {} for one in conversation.get("messages") or []]
    seen.append((conversation.get("meta") or {}).get("assignee") or {})
    known = next((one for one in seen if one.get("id") == agent and one.get("type") != "contact"), None)
    return None if known is None else str(known.get("avatar_url") or known.get("thumbnail") or "")


def _plain_picture(name: str) -> bytes:
    """Return a picture in one colour, which depends on the name."""
    side, colour = 200, struct.pack(">I", zlib.crc32(name.encode()))[:3]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + colour * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@contextlib.asynccontextmanager
async def running(
    client: Client,
    outbox: Outbox,
    inbox: Inbox,
    chatwoot: Chatwoot,
    store: Store,
    *,
    secret: str | None = None,
    token: str | None = None,
) -> AsyncIterator[tuple[Webhook, web.Application]]:
    """Run a bridge. Return the webhook that gets events, and the application that serves ``/twitter`` and
    ``/chatwoot``.
    """
    bridge = Bridge(client, outbox, chatwoot, store, secret=secret, token=token)
    webhook = Webhook(client.credentials, bridge.handle, inbox=inbox, clients=[client], retries=30)
    app = web.Application(client_max_size=5_000_000)
    app.router.add_route("*", "/twitter", webhook.serve)
    app.router.add_post("/chatwoot", bridge.receive)
    async with webhook, outbox.running(), asyncio.TaskGroup() as tasks:
        jobs = [tasks.create_task(bridge.work()), tasks.create_task(bridge.report())]
        yield webhook, app
        for job in jobs:
            job.cancel()


async def main() -> None:
    """Serve until Ctrl-C."""
    folder = Path(os.environ.get("BRIDGE_FOLDER", "."))
    with contextlib.closing(Store(folder / "bridge.db")) as store:
        await serve(folder, store)


async def serve(folder: Path, store: Store) -> None:
    """Serve until Ctrl-C."""
    secret, token = os.environ.get("CHATWOOT_SECRET"), os.environ.get("CHATWOOT_URL_TOKEN")
    async with (
        SQLiteQuotaStore(folder / "twdm.db") as quotas,
        Inbox(folder / "twdm.db") as inbox,
        Client.from_env(quota_store=quotas) as client,
        Outbox(client, folder / "twdm.db") as outbox,
        aiohttp.ClientSession() as session,
    ):
        chatwoot = Chatwoot(
            session,
            os.environ["CHATWOOT_URL"],
            int(os.environ["CHATWOOT_ACCOUNT_ID"]),
            int(os.environ["CHATWOOT_INBOX_ID"]),
            os.environ["CHATWOOT_TOKEN"],
        )
        async with running(client, outbox, inbox, chatwoot, store, secret=secret, token=token) as (_, app):
            runner = web.AppRunner(app, access_log=None)  # it would show the token
            try:
                await runner.setup()
                await web.TCPSite(runner, port=int(os.environ.get("PORT", "8080"))).start()
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
