"""The calls about welcome messages and their rules."""

from __future__ import annotations

import re

from twdm_async.sandbox.call import Answer, Call, Json, checked_long, object_at, page_of
from twdm_async.sandbox.content import checked_data, shown_data
from twdm_async.sandbox.refusal import Refusal, invalid, no_such_page
from twdm_async.sandbox.state import APPS, State


def create_welcome_message(state: State, call: Call) -> Answer:
    message = object_at(call.json, "welcome_message")
    shown: Json = {"id": state.new_id(), "created_timestamp": state.milliseconds()}
    shown["message_data"] = _shown_data(state, call, message, "welcome_message.message_data")
    shown["source_app_id"] = "1"
    if "name" in message:
        if not re.fullmatch(r"[A-Za-z0-9\-_ #@]{1,100}", str(message["name"])):
            raise invalid("welcome_message.name", "has characters that are not allowed")
        shown["name"] = message["name"]
    if "custom_profile_id" in message:
        state.check_profile(call.account, message["custom_profile_id"], "welcome_message")
        shown["custom_profile_id"] = message["custom_profile_id"]
    state.welcome_messages[shown["id"]] = (call.account.id, shown)
    return Answer({"welcome_message": shown, "apps": APPS})


def get_welcome_message(state: State, call: Call) -> Answer:
    return Answer({"welcome_message": _message_of(state, call), "apps": APPS})


def list_welcome_messages(state: State, call: Call) -> Answer:
    own = [(key, shown) for key, (owner, shown) in state.welcome_messages.items() if owner == call.account.id]
    page, cursor = page_of(call, own, newest_first=False)
    body: Json = {"welcome_messages": page, "apps": APPS} if page else {"welcome_messages": page}
    return Answer(body if cursor is None else body | {"next_cursor": cursor})


def update_welcome_message(state: State, call: Call) -> Answer:
    shown = _message_of(state, call)
    if "welcome_message" in (call.json or {}):
        raise invalid("message_data", "is missing or not an object")
    shown["message_data"] = _shown_data(state, call, call.json, "message_data")
    return Answer({"welcome_message": shown, "apps": APPS})


def delete_welcome_message(state: State, call: Call) -> Answer:
    shown = _message_of(state, call)
    del state.welcome_messages[shown["id"]]
    for key, (_, rule) in list(state.rules.items()):
        if rule["welcome_message_id"] == shown["id"]:
            del state.rules[key]
    return Answer(None, 204)


def _shown_data(state: State, call: Call, message: Json, path: str) -> Json:
    data = object_at(message, "message_data", path.removesuffix("message_data"))
    text, media = checked_data(state, call.account, data, path, most=9_990)
    if media is not None and not media.shared:
        raise Refusal(400, 324, f"Invalid Media ID {media.id}: a welcome message needs one that is shared.")
    address = f"{call.url}/media/{media.id}" if media is not None else ""
    return shown_data(data, text, media, address)


def _message_of(state: State, call: Call) -> Json:
    found = state.welcome_messages.get(checked_long(call.fields.get("id"), "id"))
    if found is None or found[0] != call.account.id:
        raise no_such_page()
    return found[1]


# ---- rules ----


def create_rule(state: State, call: Call) -> Answer:
    rule = object_at(call.json, "welcome_message_rule")
    message_id = checked_long(rule.get("welcome_message_id"), "welcome_message_rule.welcome_message_id")
    if state.welcome_messages.get(message_id, ("", {}))[0] != call.account.id:
        raise invalid("welcome_message_rule.welcome_message_id", "no such welcome message")
    if state.one_rule_only and any(owner == call.account.id for owner, _ in state.rules.values()):
        raise Refusal(403, 151, "There was an error: a welcome message rule exists already.")
    shown = {"id": state.new_id(), "created_timestamp": state.milliseconds(), "welcome_message_id": message_id}
    state.rules[shown["id"]] = (call.account.id, shown)
    return Answer({"welcome_message_rule": shown})


def get_rule(state: State, call: Call) -> Answer:
    return Answer({"welcome_message_rule": _rule_of(state, call)})


def list_rules(state: State, call: Call) -> Answer:
    own = [(key, shown) for key, (owner, shown) in state.rules.items() if owner == call.account.id]
    page, cursor = page_of(call, own, newest_first=False)
    body: Json = {"welcome_message_rules": page} if page else {}  # the API leaves the list out if there are no rules
    return Answer(body if cursor is None else body | {"next_cursor": cursor})


def delete_rule(state: State, call: Call) -> Answer:
    del state.rules[_rule_of(state, call)["id"]]
    return Answer(None, 204)


def _rule_of(state: State, call: Call) -> Json:
    found = state.rules.get(checked_long(call.fields.get("id"), "id"))
    if found is None or found[0] != call.account.id:
        raise no_such_page()
    return found[1]
