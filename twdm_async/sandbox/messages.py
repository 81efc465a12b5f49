"""The calls about messages: send, show, list and delete; typing indicators and read receipts; attached files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twdm_async.sandbox.call import Answer, Call, Json, checked_long, object_at, page_of
from twdm_async.sandbox.content import checked_data, shown_data
from twdm_async.sandbox.records import Reading, StoredMessage, Typing
from twdm_async.sandbox.refusal import Refusal, invalid, no_such_page
from twdm_async.sandbox.state import APPS, Event, State

if TYPE_CHECKING:
    from twdm_async.sandbox.records import StoredMedia

_OLDEST = 30 * 86_400.0  # seconds for which a message can be seen
_CREATE = "event.message_create"


def recipient_of(call: Call) -> str:
    """Return the user id of a message's recipient.

    Raises:
        Refusal: the call's body is not a message with a recipient.
    """
    event = object_at(call.json, "event")
    if event.get("type") != "message_create":
        raise invalid("event.type", "must be message_create")
    target = object_at(object_at(event, "message_create", "event."), "target", f"{_CREATE}.")
    return checked_long(target.get("recipient_id"), f"{_CREATE}.target.recipient_id")


def send_message(state: State, call: Call) -> Answer:
    recipient_id = recipient_of(call)
    create = call.json["event"]["message_create"]
    data = object_at(create, "message_data", f"{_CREATE}.")
    text, media = checked_data(state, call.account, data, f"{_CREATE}.message_data", most=10_000)
    if media is not None and not str(media.category).startswith("dm_"):
        raise Refusal(400, 324, f"Invalid Media ID of category {media.category or 'TweetImage'}.")
    if media is not None and media.uses and not media.shared:
        raise Refusal(400, 324, f"Invalid Media ID {media.id}: it was used already and is not shared.")
    if recipient_id in state.unreachable:
        raise Refusal(403, 349, "You cannot send messages to this user.")
    profile_id = create.get("custom_profile_id")
    if profile_id is not None:
        state.check_profile(call.account, profile_id, _CREATE)
    is_free = state.use_credit(call.account.id, recipient_id)
    message = StoredMessage(
        state.new_id(),
        state.clock.monotonic(),
        call.account.id,
        recipient_id,
        text,
        profile_id,
        create,
        is_counted=not is_free,
    )
    state.messages.append(message)
    if media is not None:
        media.uses += 1
    parties = (call.account.id, recipient_id)
    event = new_event(state, message.id, call.account.id, parties, (data, text, media), call.url)
    event.is_counted, shown = message.is_counted, event.shown
    if profile_id is not None:
        event.profile = state.profiles[profile_id]
        shown["message_create"]["custom_profile_id"] = profile_id
    answer = {"event": {**shown, "message_create": dict(shown["message_create"])}}
    shown["message_create"]["source_app_id"] = "1"  # the API shows it later, but not in this answer
    state.journal.add("message", event)
    state.on_event("message", shown)
    return Answer(answer)


def new_event(
    state: State,
    event_id: str,
    account_id: str,
    parties: tuple[str, str],
    content: tuple[Json, str, StoredMedia | None],
    url: str,
) -> Event:
    """Add a message, which sender and recipient can see from now on, and return it.

    Args:
        state: the sandbox's state.
        event_id: the id of the message.
        account_id: the user id of the account in whose conversation it is.
        parties: the user ids of sender and recipient.
        content: its ``message_data``, its text, and the attached file.
        url: the URL of the sandbox.
    """
    (sender_id, recipient_id), (data, text, media) = parties, content
    address = f"{url}/1.1/ton/data/dm/{event_id}/{media.id}/file" if media is not None else ""
    shown: Json = {
        "type": "message_create",
        "id": event_id,
        "created_timestamp": state.milliseconds(),
        "message_create": {
            "target": {"recipient_id": recipient_id},
            "sender_id": sender_id,
            "message_data": shown_data(data, text, media, address),
        },
    }
    event = Event(shown, account_id, data, media, listed_from=state.clock.monotonic() + state.list_lag())
    state.events[event_id] = event
    return event


def get_message(state: State, call: Call) -> Answer:
    shown = _event_of(state, call).shown
    has_app = "source_app_id" in shown["message_create"]
    return Answer({"event": shown, "apps": APPS} if has_app else {"event": shown})


def list_messages(state: State, call: Call) -> Answer:
    oldest, now = (state.clock.wall() - _OLDEST) * 1000, state.clock.monotonic()
    own = [
        (event_id, event.shown)
        for event_id, event in state.events.items()
        if event.concerns(call.account.id)
        and event.listed_from <= now
        and int(event.shown["created_timestamp"]) >= oldest
    ]
    page, cursor = page_of(call, own, newest_first=True)
    body: Json = {"events": page}
    if any("source_app_id" in shown["message_create"] for shown in page):
        body["apps"] = APPS
    return Answer(body if cursor is None else body | {"next_cursor": cursor})


def delete_message(state: State, call: Call) -> Answer:
    _event_of(state, call).hidden_from.add(call.account.id)
    return Answer(None, 204)


def _event_of(state: State, call: Call) -> Event:
    event = state.events.get(checked_long(call.fields.get("id"), "id"))
    if event is None or not event.concerns(call.account.id):
        raise no_such_page()
    if int(event.shown["created_timestamp"]) < (state.clock.wall() - _OLDEST) * 1000:
        raise no_such_page()
    return event


def indicate_typing(state: State, call: Call) -> Answer:
    recipient_id = checked_long(call.fields.get("recipient_id"), "recipient_id")
    state.typing.append(Typing(call.account.id, recipient_id))
    state.journal.add("typing", state.typing[-1])
    return Answer(None, 204)


def mark_read(state: State, call: Call) -> Answer:
    recipient_id = checked_long(call.fields.get("recipient_id"), "recipient_id")
    last = checked_long(call.fields.get("last_read_event_id"), "last_read_event_id")
    state.reading.append(Reading(call.account.id, recipient_id, last))
    state.journal.add("read", state.reading[-1])
    return Answer(None, 204)


def serve_file(state: State, call: Call) -> Answer:
    event, media = state.events.get(call.path["event"]), state.media.get(call.path["media"])
    if event is None or media is None or not event.concerns(call.account.id):
        raise no_such_page()
    return Answer(media.content, content_type=media.content_type)
