"""What webhooks tell, typed (pages *Account Activity data objects*, *X Activity event payloads*).

The two products wrap the same events in two ways. Both are brought to the older form first, which is also how an event
is kept until it was handled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import evolve, field, frozen

from twdm_async._json import Json, is_array, is_object
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import is_id
from twdm_async.models.convert import ID, MILLISECONDS, at, converter
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.models.users import Person
from twdm_async.transport.wire import load_json

_MESSAGES: Final = "direct_message_events"
_TYPING: Final = "direct_message_indicate_typing_events"
_READING: Final = "direct_message_mark_read_events"

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Event:
    """Something that happened in a conversation of an account.

    Args:
        for_user_id: the account's user id.
        users: the two whom it is about, by user id, as far as they were told.
    """

    for_user_id: str = field(metadata=at(ID, "for_user_id"))
    users: Mapping[str, Person] = field(factory=dict[str, Person], repr=False, hash=False)

    @property
    def key(self) -> str:
        """What tells it from the account's other events."""
        raise NotImplementedError

    @property
    def person_id(self) -> str:
        """The other one in the conversation."""
        raise NotImplementedError


@frozen(kw_only=True)
class MessageEvent(Event):
    """A message was sent to the account, or by it.

    Args:
        message: it, with its id.
    """

    message: DirectMessage

    @property
    def key(self) -> str:
        """The message's id."""
        return self.message.id or ""

    @property
    def is_echo(self) -> bool:
        """Whether the account itself sent it."""
        return self.message.sender_id == self.for_user_id

    @property
    def person_id(self) -> str:
        """The other one in the conversation."""
        return (self.message.recipient_id if self.is_echo else self.message.sender_id) or ""

    @property
    def sender(self) -> Person | None:
        """Who sent it, if that was told."""
        return self.users.get(self.message.sender_id or "")


@frozen(kw_only=True)
class TypingEvent(Event):
    """Somebody is typing.

    Args:
        created_at: when (UTC).
        sender_id: who types.
        recipient_id: to whom.
        extra: everything else the API said.
    """

    created_at: datetime = field(metadata=at(MILLISECONDS, "created_timestamp"))
    sender_id: str = field(metadata=at(ID, "sender_id"))
    recipient_id: str = field(metadata=at(ID, "target", "recipient_id"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def key(self) -> str:
        """Who and when."""
        return f"typing {self.sender_id} {self.created_at.timestamp():.3f}"

    @property
    def person_id(self) -> str:
        """The other one in the conversation."""
        return self.recipient_id if self.sender_id == self.for_user_id else self.sender_id


@frozen(kw_only=True)
class ReadEvent(Event):
    """Somebody has read what the other one wrote.

    Args:
        created_at: when (UTC).
        sender_id: who has read.
        recipient_id: whose messages.
        last_read_event_id: the last message that was read; those before it were, too.
        extra: everything else the API said.
    """

    created_at: datetime = field(metadata=at(MILLISECONDS, "created_timestamp"))
    sender_id: str = field(metadata=at(ID, "sender_id"))
    recipient_id: str = field(metadata=at(ID, "target", "recipient_id"))
    last_read_event_id: str = field(metadata=at(ID, "last_read_event_id"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def key(self) -> str:
        """Who and what."""
        return f"read {self.sender_id} {self.last_read_event_id}"

    @property
    def person_id(self) -> str:
        """The other one in the conversation."""
        return self.recipient_id if self.sender_id == self.for_user_id else self.sender_id


def read_events(body: bytes | str) -> tuple[Event, ...]:
    """The messages, typing and reading that a webhook tells of; whatever else it tells is left out.

    Check the signature first: :func:`is_signed`.

    Args:
        body: of the webhook, of either product.

    Raises:
        InvalidInput: it is no JSON object.
    """
    return tuple(event for event, _ in read_with_content(body))


def read_with_content(body: bytes | str) -> list[tuple[Event, str]]:
    """The same, each with what it can be read from again."""
    try:
        document = load_json(body.encode() if isinstance(body, str) else bytes(body))
    except (ValueError, TypeError, RecursionError):
        document = None
    if not is_object(document):
        raise InvalidInput(parameter="body", problem="is no JSON object")
    content = _as_account_activity(document)
    account = content.get("for_user_id")
    if not isinstance(account, str) or not is_id(account):
        return []
    events: list[tuple[Event, str]] = []
    for kind, cls in ((_MESSAGES, MessageEvent), (_TYPING, TypingEvent), (_READING, ReadEvent)):
        listed = content.get(kind)
        for item in listed if is_array(listed) else []:
            alone = _alone(content, kind, item)
            try:
                event = _read(cls, account, item, alone)
            except (ValueError, TypeError, KeyError, OverflowError):
                _log.warning("a webhook told of something in %s that cannot be read", kind)
                continue
            events.append((event, json.dumps(alone)))
    return events


def _read(cls: type[Event], account: str, item: Json, content: Json) -> Event:
    users = _people(content.get("users"))
    if cls is not MessageEvent:
        event: Event = converter.structure(item | {"for_user_id": account}, cls)
        return evolve(event, users=users)
    message: DirectMessage = converter.structure(item, DirectMessage)
    if message.id is None or message.sender_id is None or message.recipient_id is None:
        raise ValueError("no whole message")
    if "apps" in content:
        message = evolve(message, apps=content["apps"])
    return MessageEvent(for_user_id=account, users=users, message=message)


def _people(users: Json) -> dict[str, Person]:
    people: dict[str, Person] = {}
    for user_id, user in users.items() if is_object(users) else ():
        try:
            people[user_id] = converter.structure(user, Person)
        except (ValueError, TypeError):
            continue
    return people


def _alone(content: dict[str, Json], kind: str, item: Json) -> dict[str, Json]:
    """The event alone, wrapped as Account Activity would."""
    return {key: content[key] for key in ("for_user_id", "users", "apps") if key in content} | {kind: [item]}


def _as_account_activity(document: dict[str, Json]) -> dict[str, Json]:
    """What X Activity tells, in the form in which Account Activity does."""
    data = document.get("data")
    if not is_object(data):
        return document
    chosen, payload = data.get("filter"), data.get("payload")
    if not is_object(chosen) or not is_object(payload):
        return {}
    users = payload.get("users")
    flat: dict[str, Json] = {}
    for user_id, user in users.items() if is_object(users) else ():
        flat[user_id] = user["data"] if is_object(user) and is_object(user.get("data")) else user
    return payload | {"for_user_id": chosen.get("user_id"), "users": flat}
