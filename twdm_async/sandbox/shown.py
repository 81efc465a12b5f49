"""The JSON in which the sandbox's page and its API show what is in the sandbox. Times are milliseconds since 1970-01-01
UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.sandbox.call import Json
    from twdm_async.sandbox.clock import SandboxClock
    from twdm_async.sandbox.deliveries import Subscription
    from twdm_async.sandbox.faults import Fault
    from twdm_async.sandbox.records import Reading, Received, StoredAccount, StoredProfile, Typing, Window
    from twdm_async.sandbox.state import Event, State


class HeldLike(Protocol):
    """The part of :class:`twdm_async.outbox.HeldMessage` that the inspector uses."""

    @property
    def entry(self) -> Any: ...

    @property
    def message(self) -> DirectMessage: ...


def message(event: Event) -> Json:
    """Return a message as the person sees it."""
    create = event.shown["message_create"]
    sender, recipient = create["sender_id"], create["target"]["recipient_id"]
    is_from_account = sender == event.account_id
    media = event.media
    return {
        "id": event.shown["id"],
        "at": int(event.shown["created_timestamp"]),
        "from": "account" if is_from_account else "person",
        "account": event.account_id,
        "person": recipient if is_from_account else sender,
        **_content(event.data),
        "profile": event.profile and profile(event.profile),
        "media": media and {"url": f"/media/{media.id}", "content_type": media.content_type},
        "tapped": "quick_reply_response" in event.data,
        "counted": event.is_counted,
    }


def _content(data: Json) -> Json:
    nothing: Json = {}
    quick_reply: Json = data.get("quick_reply") or nothing
    attachment: Json = data.get("attachment") or nothing
    options: list[Json] = quick_reply.get("options", [])
    buttons: list[Json] = data.get("ctas") or []
    return {
        "text": data.get("text") or "",
        "choices": [{"label": option["label"], "description": option.get("description")} for option in options],
        "buttons": [{"label": button["label"], "url": button["url"]} for button in buttons],
        "location": attachment.get("location"),
    }


def profile(stored: StoredProfile) -> Json:
    """Return a custom profile."""
    return {"id": stored.id, "name": stored.name, "picture": f"/media/{stored.media_id}"}


def held(one: HeldLike, profiles: Mapping[str, StoredProfile]) -> Json:
    """Return a message that waits for approval."""
    stored = profiles.get(one.message.custom_profile_id or "")
    choices = one.message.quick_replies
    return {
        "key": one.entry.key,
        "person": one.entry.recipient_id,
        "profile": one.message.custom_profile_id,
        "name": stored and stored.name,
        "text": one.message.text or "",
        "choices": [choice.label for choice in choices] if isinstance(choices, tuple) else [],
        "buttons": [{"label": cta.label, "url": cta.url} for cta in one.message.ctas],
        "has_attachment": one.message.attachment is not None,
        "put_at": int(one.entry.put_at.timestamp() * 1000),
        "not_after": one.entry.not_after and int(one.entry.not_after.timestamp() * 1000),
    }


def reviewed(entry: Any) -> Json:
    """Return what has become of a message after a decision."""
    return {"key": entry.key, "state": str(entry.state), "by": entry.reviewed_by}


def request(received: Received, clock: SandboxClock) -> Json:
    """Return a request and its outcome."""
    return {
        "number": received.number,
        "at": int((clock.wall() + received.at - clock.monotonic()) * 1000),
        "account": received.account,
        "method": received.method,
        "path": received.path,
        "endpoint": received.endpoint,
        "status": received.status,
        "fault": received.fault,
        "reason": received.reason,
    }


def account(stored: StoredAccount, state: State) -> Json:
    """Return an account, with the welcome message that people see."""
    welcome = None
    for owner, rule in state.rules.values():
        if owner == stored.id:
            shown = state.welcome_messages[rule["welcome_message_id"]][1]
            under = state.profiles.get(shown.get("custom_profile_id", ""))
            welcome = _content(shown["message_data"]) | {"profile": under and profile(under)}
    return {
        "id": stored.id,
        "name": stored.user["name"],
        "free_replies": state.free_replies.get(stored.id, 0),
        "welcome": welcome,
    }


def quota(window: Window, clock: SandboxClock) -> Json:
    """Return a quota window that has not ended."""
    return {
        "endpoint": window.family,
        "scope": str(window.scope),
        "owner": window.owner if window.scope == "user" else None,  # an app's is a fingerprint of its key
        "limit": window.limit,
        "used": window.count,
        "ends": int((clock.wall() + window.ends - clock.monotonic()) * 1000),
    }


def fault(number: int, one: Fault) -> Json:
    """Return a fault that is switched on, with its number in the list of faults."""
    return {
        "number": number,
        "kinds": list(one.kinds),
        "endpoint": one.endpoint,
        "nth": one.nth,
        "probability": one.probability,
        "recipient_id": one.recipient_id,
        "processed": one.processed,
    }


def time(clock: SandboxClock) -> Json:
    """Return the time in the sandbox, by how many seconds its clock is ahead, and its scale."""
    return {"now": int(clock.wall() * 1000), "ahead": clock.ahead, "scale": clock.scale}


def webhook(subscription: Subscription) -> Json:
    """Return a webhook subscription, with the outcome of the latest attempt."""
    return {
        "url": subscription.url,
        "account": subscription.account_id,
        "envelope": subscription.envelope,
        "last": subscription.last,
    }


def sign(what: Typing | Reading, accounts: Mapping[str, StoredAccount]) -> Json:
    """Return a typing indicator or a read receipt."""
    is_from_account = what.sender_id in accounts
    return {
        "from": "account" if is_from_account else "person",
        "account": what.sender_id if is_from_account else what.recipient_id,
        "person": what.recipient_id if is_from_account else what.sender_id,
    }
