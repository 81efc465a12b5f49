"""Delivers webhooks as X does: signed, and sent again if they are not answered with 200."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlencode

from attrs import define, field

from twdm_async.errors import InvalidInput
from twdm_async.sandbox.listeners import Listener
from twdm_async.sandbox.records import Delivery, Reading, Typing
from twdm_async.sandbox.state import APPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from twdm_async.sandbox.call import Json
    from twdm_async.sandbox.clock import SandboxClock
    from twdm_async.sandbox.listeners import Response

Envelope = Literal["account_activity", "x_activity", "x_activity_flat"]

_AGAIN_AFTER: Final = (3.0, 27.0, 242.0)  # seconds
_KINDS: Final = {
    "message": ("direct_message_events", "dm.received", "dm.sent"),
    "typing": ("direct_message_indicate_typing_events", "dm.indicate_typing", "dm.indicate_typing"),
    "read": ("direct_message_mark_read_events", "dm.read", "dm.read"),
}


@define(eq=False)
class Subscription:
    """A subscription of a listener to the events of an account.

    Args:
        account_id: the account's user id.
        url: the URL, or another name for the listener.
        target: what was passed to ``Sandbox.subscribe``.
        listener: the listener.
        secret: the consumer secret, with which events are signed.
        envelope: the format of the events.
        last: the outcome of the latest attempt, as text for people.
    """

    account_id: str
    url: str
    target: object
    listener: Listener
    secret: str = field(repr=False)
    envelope: Envelope
    last: str = "checked"


class Deliveries:
    """Delivers events to the subscribed listeners.

    Args:
        clock: the sandbox's clock.
        complain: called with a text for people when a listener does something wrong.
        on_news: called after each attempt to deliver an event.
    """

    def __init__(self, clock: SandboxClock, complain: Callable[[str], None], on_news: Callable[[], None]) -> None:
        self._clock = clock
        self._complain = complain
        self._on_news = on_news
        self.subscriptions: list[Subscription] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop in which subscribe() was called
        self.trying: int = 0
        """The number of requests to listeners that are under way."""
        self.done: list[Delivery] = []

    async def subscribe(self, subscription: Subscription) -> None:
        """Send a challenge to check that the listener knows the secret; if it does, send it events from now on.

        Raises:
            InvalidInput: the listener answered the challenge wrongly. The error says how.
        """
        token = secrets.token_urlsafe(24)
        query = urlencode({"crc_token": token, "nonce": secrets.token_urlsafe(12)})
        headers = {"x-twitter-webhooks-signature": _signature(subscription.secret, query.encode())}
        expected = {"response_token": _signature(subscription.secret, token.encode())}
        response = await subscription.listener.request("GET", query, headers, b"")
        problem = _problem_of(response)
        if not problem:
            try:
                is_right = json.loads(response.body) == expected
            except ValueError:
                is_right = False
            problem = "" if is_right else "its answer is not signed with this app's consumer secret"
        if problem:
            raise InvalidInput(parameter="target", problem=f"did not pass the check: {subscription.url}: {problem}")
        self._loop = asyncio.get_running_loop()
        self.subscriptions.append(subscription)

    def unsubscribe(self, target: object) -> None:
        """Send no more events to `target`, which is what was subscribed, or its URL."""
        self.subscriptions = [one for one in self.subscriptions if one.target is not target and one.url != target]

    def tell_of_chat(self, sender_id: str, account_id: str) -> None:
        """Tell the subscriptions in a format of X Activity that a person wrote in an encrypted conversation."""
        for subscription in self.subscriptions:
            if subscription.account_id == account_id and subscription.envelope != "account_activity":
                payload: Json = {"conversation_id": f"{account_id}:{sender_id}", "encoded_event": "CwABAAAAEzE5"}
                self._send(subscription, _as_x_activity("chat.received", payload, subscription))

    def tell(self, kind: str, event: Any) -> None:
        """Send an event to the subscriptions of its sender and of its recipient."""
        shown = event if kind == "message" else _shown(event, str(int(self._clock.wall() * 1000)))
        create = shown.get("message_create", shown)
        concerned = (create["sender_id"], create["target"]["recipient_id"])
        for subscription in self.subscriptions:
            if subscription.account_id in concerned:
                self._send(subscription, _enveloped(kind, shown, concerned, subscription))

    def _send(self, subscription: Subscription, envelope: Json) -> None:
        body = json.dumps(envelope, ensure_ascii=False).encode()
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - a handler may run in a thread
            self._begin(subscription, body)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, subscription, body)

    def _begin(self, subscription: Subscription, body: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(subscription, body))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settled(self) -> None:
        """Wait until every event is delivered or given up."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def handled(self) -> None:
        """Wait until every event is delivered or given up, and listeners in this process have handled what they got."""
        await self.settled()
        for subscription in self.subscriptions:
            await subscription.listener.settled()

    async def close(self) -> None:
        """Cancel the deliveries that are under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _deliver(self, subscription: Subscription, body: bytes) -> None:
        headers = {
            "x-twitter-webhooks-signature": _signature(subscription.secret, body),
            "Content-Type": "application/json",
        }
        statuses: list[int] = []
        for pause in (*_AGAIN_AFTER, None):
            self.trying += 1
            try:
                response = await subscription.listener.request("POST", "", headers, body)
            finally:
                self.trying -= 1
            statuses.append(response.status)
            problem = _problem_of(response)
            subscription.last = problem or "delivered"
            if problem:
                self._complain(f"webhook {subscription.url}: {problem}")
            self._on_news()
            if not problem or pause is None:
                break
            await self._clock.sleep(pause / self._clock.scale)
            if subscription not in self.subscriptions:
                break
        self.done.append(Delivery(subscription.url, body, tuple(statuses)))


def _problem_of(response: Response) -> str:
    """Return a text that says what is wrong with a response; empty if nothing is."""
    if response.status == 200:
        return ""
    status = f"HTTP {response.status}" if response.status else ""
    return ": ".join(part for part in (status, response.problem) if part)


def _signature(secret: str, message: bytes) -> str:
    return "sha256=" + base64.b64encode(hmac.digest(secret.encode(), message, "sha256")).decode()


def _shown(event: Typing | Reading, timestamp: str) -> Json:
    shown: Json = {
        "created_timestamp": timestamp,
        "sender_id": event.sender_id,
        "target": {"recipient_id": event.recipient_id},
    }
    return shown | ({"last_read_event_id": event.last_read_event_id} if isinstance(event, Reading) else {})


def _enveloped(kind: str, shown: Json, concerned: tuple[str, str], subscription: Subscription) -> Json:
    key, received, sent = _KINDS[kind]
    content: Json = {key: [shown]}
    if subscription.envelope == "account_activity":
        if "source_app_id" in shown.get("message_create", {}):
            content["apps"] = APPS
        content["users"] = {
            user_id: {
                "id": user_id,
                "created_timestamp": "1560000000000",
                "name": f"Person {user_id}",
                "screen_name": f"person_{user_id}",
                "protected": False,
                "verified": False,
                "followers_count": 1,
                "friends_count": 1,
                "statuses_count": 0,
                "profile_image_url_https": "https://pbs.twimg.com/profile_images/1/person_normal.png",
            }
            for user_id in concerned
        }
        return {"for_user_id": subscription.account_id, **content}
    content["users"] = {
        user_id: {"data": {"id": user_id, "name": f"Person {user_id}", "username": f"person_{user_id}"}}
        for user_id in concerned
    }
    event_type = sent if concerned[0] == subscription.account_id else received
    if subscription.envelope == "x_activity_flat" and kind == "message":
        return _as_x_activity(event_type, _flattened(shown, concerned), subscription)
    return _as_x_activity(event_type, content, subscription)


def _as_x_activity(event_type: str, payload: Json, subscription: Subscription) -> Json:
    account: str | int = subscription.account_id
    data: Json = {"event_uuid": str(-secrets.randbelow(2**60)), "event_type": event_type, "tag": "sandbox"}
    data["filter"] = {"user_id": int(account) if subscription.envelope == "x_activity_flat" else account}
    return {"data": data | {"payload": payload}}


def _flattened(shown: Json, concerned: tuple[str, str]) -> Json:
    """Return the message in the form of version 2 of the API, in which `sender_id` is a number."""
    created = datetime.fromtimestamp(int(shown["created_timestamp"]) / 1000, UTC)
    return {
        "id": shown["id"],
        "event_type": "MessageCreate",
        "sender_id": int(concerned[0]),
        "dm_conversation_id": "-".join(sorted(concerned, key=int)),
        "text": shown["message_create"]["message_data"]["text"],
        "created_at": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
