"""Webhook bodies as typed events (pages *Account Activity data objects*, *X Activity event payloads*).

Two products send the same events in three shapes: Account Activity's; X Activity's with the same events in its
``payload``; and X Activity's with one flat message as its ``payload``, which users have reported and X has not
documented. All are converted to the first shape, in which an event is also kept until it is handled. Ids may be
numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import define, evolve, field, frozen

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
_FLAT: Final = {"dm.received": _MESSAGES, "dm.sent": _MESSAGES, "dm.indicate_typing": _TYPING, "dm.read": _READING}

_EVENT_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,32}(\.[A-Za-z0-9_-]{1,32}){1,4}")
_OF_MESSAGES: Final = re.compile(r"(?:dm|direct_?messages?|messages?)(?:[._-]|$)", re.IGNORECASE)
"""How the names of fields and event types about messages begin."""
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_ELSEWHERE: Final = re.compile(
    r"(tweet|favorite|follow|unfollow|block|unblock|mute|unmute|user)_[a-z_]*events?|user_event", re.ASCII
)
"""Account Activity's fields that are not about messages."""
_MOST_FIELDS, _DEEPEST = 12, 4  # of a shape that is logged
_LARGEST_SHARED: Final = 4096  # characters; a larger user or app is not kept with its events


@frozen(kw_only=True)
class Event:
    """Something that happened in a conversation of an account.

    Args:
        for_user_id: the account's user id.
        users: the profiles of the conversation's two people, by user id, as far as the webhook had them.
    """

    for_user_id: str = field(metadata=at(ID, "for_user_id"))
    users: Mapping[str, Person] = field(factory=dict[str, Person], repr=False, hash=False)

    @property
    def key(self) -> str:
        """A string that is unique among the account's events."""
        raise NotImplementedError

    @property
    def person_id(self) -> str:
        """The user id of the other person in the conversation."""
        raise NotImplementedError


@frozen(kw_only=True)
class MessageEvent(Event):
    """A message was sent to the account, or by it.

    Args:
        message: the message, with its id.
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
        """The user id of the other person in the conversation."""
        return (self.message.recipient_id if self.is_echo else self.message.sender_id) or ""

    @property
    def sender(self) -> Person | None:
        """The sender's profile, if the webhook had it."""
        return self.users.get(self.message.sender_id or "")


@frozen(kw_only=True)
class _Indicator(Event):
    created_at: datetime = field(metadata=at(MILLISECONDS, "created_timestamp"))
    sender_id: str = field(metadata=at(ID, "sender_id"))
    recipient_id: str = field(metadata=at(ID, "target", "recipient_id"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def person_id(self) -> str:
        """The user id of the other person in the conversation."""
        return self.recipient_id if self.sender_id == self.for_user_id else self.sender_id


@frozen(kw_only=True)
class TypingEvent(_Indicator):
    """Somebody is typing.

    Args:
        created_at: when (UTC).
        sender_id: the user id of the person who types.
        recipient_id: the user id of the other person.
        extra: all other fields.
    """

    @property
    def key(self) -> str:
        """The typist and the time."""
        return f"typing {self.sender_id} {self.created_at.timestamp():.3f}"


@frozen(kw_only=True)
class ReadEvent(_Indicator):
    """Somebody has read the other person's messages.

    Args:
        created_at: when (UTC).
        sender_id: the user id of the person who has read.
        recipient_id: the user id of the person who wrote the messages.
        last_read_event_id: the id of the last message that was read; earlier ones were read, too.
        extra: all other fields.
    """

    last_read_event_id: str = field(metadata=at(ID, "last_read_event_id"))

    @property
    def key(self) -> str:
        """The reader and the last message."""
        return f"read {self.sender_id} {self.last_read_event_id}"


def read_events(body: bytes | str) -> tuple[Event, ...]:
    """Return a webhook body's events about messages, typing and reading; ignore all others.

    Check the signature first: :func:`is_signed`.

    Args:
        body: the request's body, of either product.

    Raises:
        InvalidInput: `body` is not a JSON object.
    """
    return tuple(event for event, _ in parse_delivery(body).events)


@frozen
class Unread:
    """Something about messages in a webhook body that cannot be read.

    Args:
        account: the user id of the account, or an empty string if that cannot be read, either.
        content: the unread part, as JSON.
        shape: the names of its fields, for a log.
    """

    account: str
    content: str = field(repr=False)
    shape: str


@define
class Delivery:
    """The content of one webhook body.

    Args:
        events: the events, each with the JSON from which it can be read again.
        unread: the parts that are about messages and cannot be read.
        encrypted: the type of an event of an encrypted conversation, such as ``chat.received``.
        unknown: the shape of a body of no known kind.
    """

    events: list[tuple[Event, str]] = field(factory=list[tuple[Event, str]], repr=False)
    unread: list[Unread] = field(factory=list[Unread])
    encrypted: str | None = None
    unknown: str | None = None


def parse_delivery(body: bytes | str) -> Delivery:
    """Read one webhook body, in time and memory proportional to its length.

    Raises:
        InvalidInput: `body` is not a JSON object.
    """
    document = _object(body)
    delivery = Delivery()
    event_type = _event_type(document)
    if event_type.lower().startswith("chat.") and not any(kind in _payload(document) for kind in _KINDS):
        delivery.encrypted = event_type.lower()
        return delivery
    content = _as_account_activity(document, event_type.lower())
    known = [kind for kind in _KINDS if kind in content]
    account = _id(content.get("for_user_id"))
    if account is not None:
        users = _People(content)
        for kind in known:
            _read_kind(kind, content, account, users, delivery)
    names = {*content} - {*known} if known else {event_type, *document, *content, *_payload(document)}
    if (known and account is None) or any(map(_OF_MESSAGES.match, names)):
        delivery.unread.append(Unread(account or "", _as_json(document), shape_of(document)))
    elif not known and not event_type and not any(map(_ELSEWHERE.fullmatch, content)):
        delivery.unknown = shape_of(document)
    return delivery


def shape_of(document: Json) -> str:
    """Return the names of the fields of `document`, without any value: ``data{event_type, payload{id, text}}``."""
    return _fields_of(document, _DEEPEST) or type(document).__name__


def _fields_of(value: Json, depth: int) -> str:
    if is_array(value):
        inner = _fields_of(value[0], depth) if value else ""
        return f"[{inner}]"
    if not is_object(value) or not depth:
        return ""
    names: dict[str, str] = {}
    for name, inner in value.items():
        if len(names) == _MOST_FIELDS:
            names["…"] = ""
            break
        is_name = _FIELD.fullmatch(name) is not None
        names.setdefault(name if is_name else "?", _fields_of(inner, depth - 1))  # ids are names, too, in "users"
    return f"{{{', '.join(f'{name}{inner}' for name, inner in names.items())}}}"


def _object(body: bytes | str) -> dict[str, Json]:
    try:
        document = load_json(body.encode() if isinstance(body, str) else bytes(body))
    except (ValueError, TypeError, RecursionError):
        document = None
    if not is_object(document):
        raise InvalidInput(parameter="body", problem="is not a JSON object")
    return document


def _event_type(document: dict[str, Json]) -> str:
    """Return the type that X Activity gives an event, or an empty string."""
    data = document.get("data")
    found = data.get("event_type") if is_object(data) else None
    return found if isinstance(found, str) and _EVENT_TYPE.fullmatch(found) else ""


def _read_kind(kind: str, content: dict[str, Json], account: str, people: _People, delivery: Delivery) -> None:
    """Read the events of one kind; those that cannot be read become one `Unread`."""
    listed = content[kind]
    bad: list[Json] = []
    for item in listed if is_array(listed) else [listed]:
        try:
            event = _read(_KINDS[kind], account, item)
            alone = {"for_user_id": account, **people.of(event), kind: [item]}
            # Python would write infinite numbers and deep nesting, and could not read them again.
            kept = json.dumps(alone, allow_nan=False)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            bad.append(item)
            continue
        delivery.events.append((people.added_to(event), kept))
    if bad:
        alone = {"for_user_id": account, "users": content.get("users"), kind: bad}
        delivery.unread.append(Unread(account, _as_json(alone), shape_of({kind: bad})))


def _read(cls: type[Event], account: str, item: Json) -> Event:
    if cls is not MessageEvent:
        event: Event = converter.structure(item | {"for_user_id": account}, cls)
        return event
    message: DirectMessage = converter.structure(item, DirectMessage)
    if message.id is None or message.sender_id is None or message.recipient_id is None:
        raise ValueError("no whole message")
    return MessageEvent(for_user_id=account, message=message)


class _People:
    """The users and apps in a webhook body, each read once, however many events they are in."""

    def __init__(self, content: dict[str, Json]) -> None:
        users, apps = content.get("users"), content.get("apps")
        self._users: dict[str, Json] = users if is_object(users) else {}
        self._apps: dict[str, Json] = apps if is_object(apps) else {}
        self._read: dict[str, Person | None] = {}
        self._sizes: dict[str, int] = {}

    def of(self, event: Event) -> dict[str, Json]:
        """Return the raw users and app of `event`, without large ones: many events may share these."""
        ids = (event.for_user_id, event.person_id)
        app = (event.message.source_app_id if isinstance(event, MessageEvent) else None) or ""
        users = {one: self._users[one] for one in ids if self._is_small(self._users, one)}
        return {"users": users} | ({"apps": {app: self._apps[app]}} if self._is_small(self._apps, app) else {})

    def added_to(self, event: Event) -> Event:
        """Return `event` with its people and its app."""
        read = ((one, self._person(one)) for one in {event.for_user_id, event.person_id} if one in self._users)
        event = evolve(event, users={one: person for one, person in read if person is not None})
        app = event.message.source_app_id if isinstance(event, MessageEvent) else None
        if isinstance(event, MessageEvent) and app is not None and app in self._apps:
            event = evolve(event, message=evolve(event.message, apps={app: self._apps[app]}))
        return event

    def _is_small(self, told: dict[str, Json], name: str) -> bool:
        if name not in told:
            return False
        if name not in self._sizes:
            self._sizes[name] = len(json.dumps(told[name]))
        return self._sizes[name] <= _LARGEST_SHARED

    def _person(self, user_id: str) -> Person | None:
        if user_id not in self._read:
            try:
                person: Person | None = converter.structure(self._users[user_id], Person)
            except (ValueError, TypeError, KeyError):
                person = None
            self._read[user_id] = person
        return self._read[user_id]


_KINDS: Final[dict[str, type[Event]]] = {_MESSAGES: MessageEvent, _TYPING: TypingEvent, _READING: ReadEvent}


def _as_json(document: Json) -> str:
    """Return `document` as JSON, or its shape if it is nested too deep."""
    try:
        return json.dumps(document)
    except RecursionError:
        return json.dumps({"nested too deep": shape_of(document)})


def _id(value: Json) -> str | None:
    """Return a numeric id as a string; ``None`` if `value` is not one."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and is_id(value) else None


def _as_account_activity(document: dict[str, Json], event_type: str) -> dict[str, Json]:
    """Convert a body of X Activity to the shape of Account Activity; return `document` if that is impossible."""
    data, payload = document.get("data"), _payload(document)
    if not is_object(data) or any(kind in document for kind in _KINDS):
        return document
    chosen = data.get("filter")
    account = chosen.get("user_id") if is_object(chosen) else None
    users: dict[str, Json] = {}
    for user_id, user in _told_users(data, payload):
        users[user_id] = user["data"] if is_object(user) and is_object(user.get("data")) else user
    content = {"for_user_id": account, "users": users}
    if event_type not in _FLAT or any(payload.get(kind) for kind in _KINDS):
        return payload | content
    try:
        return content | {_FLAT[event_type]: [_from_flat(payload, _id(account), _FLAT[event_type])]}
    except (ValueError, TypeError, OverflowError):
        return document


def _payload(document: dict[str, Json]) -> dict[str, Json]:
    """Return the payload of an X Activity event, or an empty one."""
    data = document.get("data")
    payload = data.get("payload") if is_object(data) else None
    return payload if is_object(payload) else {}


def _told_users(data: dict[str, Json], payload: dict[str, Json]) -> Iterator[tuple[str, Json]]:
    """Yield the users of an X Activity event by id: from the map beside the events and the list in ``includes``."""
    users = payload.get("users")
    if is_object(users):
        yield from users.items()
    includes = data.get("includes")
    listed = includes.get("users") if is_object(includes) else None
    for user in listed if is_array(listed) else []:
        user_id = _id(user.get("id")) if is_object(user) else None
        if user_id is not None:
            yield user_id, user


def _from_flat(payload: dict[str, Json], account: str | None, kind: str) -> dict[str, Json]:
    """Convert a flat event to the shape of the others; its remaining fields stay beside it."""
    rest = dict(payload)
    sender, conversation = _id(rest.pop("sender_id", None)), rest.pop("dm_conversation_id", None)
    people = conversation.split("-") if isinstance(conversation, str) else []
    if sender is None or len(people) != 2 or sender not in people or _id(people[0]) is None or _id(people[1]) is None:
        raise ValueError("no conversation of two")
    target = {"recipient_id": people[1] if people[0] == sender else people[0]}
    if account not in people:
        raise ValueError("a conversation of others")
    created = {"created_timestamp": _milliseconds(rest.pop("created_at", None))}
    if kind != _MESSAGES:
        return rest | created | {"sender_id": sender, "target": target}
    create = {"sender_id": sender, "target": target, "message_data": {"text": rest.pop("text", None)}}
    return rest | created | {"type": "message_create", "message_create": create}


def _milliseconds(created_at: Json) -> str | None:
    if not isinstance(created_at, str):
        return None
    moment = datetime.fromisoformat(created_at)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return str(int(moment.timestamp() * 1000))
