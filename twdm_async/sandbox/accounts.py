"""The calls about the account, its custom profiles, and its rate limits."""

from __future__ import annotations

import math
from typing import Final

from twdm_async.sandbox.call import Answer, Call, Json, object_at, page_of
from twdm_async.sandbox.records import StoredProfile
from twdm_async.sandbox.refusal import Refusal, invalid
from twdm_async.sandbox.state import State, need_custom_profiles

# The endpoints that rate_limit_status lists. As in the API, those that send messages, or that create or delete custom
# profiles, are not among them.
_LISTED: Final = {
    "account": {
        "/account/update_profile": "account.update_profile",
        "/account/verify_credentials": "account.verify_credentials",
    },
    "application": {"/application/rate_limit_status": "application.rate_limit_status"},
    "custom_profiles": {
        "/custom_profiles/list": "custom_profiles.list",
        "/custom_profiles/show": "custom_profiles.get",
    },
    "direct_messages": {
        "/direct_messages/events/list": "direct_messages.list",
        "/direct_messages/events/show": "direct_messages.get",
        "/direct_messages/mark_read": "direct_messages.mark_read",
    },
    "users": {"/users/show/:id": "users.get"},
}


def show_limits(state: State, call: Call) -> Answer:
    wanted = call.fields["resources"].split(",") if "resources" in call.fields else list(_LISTED)
    now = state.clock.monotonic()
    resources: Json = {}
    for group in wanted:
        for path, family in _LISTED.get(group, {}).items():
            limit, remaining, ends_in = state.windows.left(family, call.account.id, now)
            reset = math.ceil(state.clock.wall() + ends_in)
            resources.setdefault(group, {})[path] = {"limit": limit, "remaining": remaining, "reset": reset}
    token = call.account.credentials.access_token
    return Answer({"rate_limit_context": {"access_token": token}, "resources": resources})


# ---- custom profiles ----


def create_profile(state: State, call: Call) -> Answer:
    need_custom_profiles(call.account)
    profile = object_at(call.json, "custom_profile")
    name = profile.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= 48:
        raise invalid("custom_profile.name", "must be a string of 1 to 48 characters")
    avatar = object_at(object_at(profile, "avatar", "custom_profile."), "media", "custom_profile.avatar.")
    media = state.media_of(call.account, avatar.get("id"))
    stored = StoredProfile(state.new_id(), call.account.id, state.milliseconds(), name, media.id)
    state.profiles[stored.id] = stored
    return Answer({"custom_profile": _profile_json(stored, call.url)})


def get_profile(state: State, call: Call) -> Answer:
    need_custom_profiles(call.account)
    return Answer({"custom_profile": _profile_json(state.profile_of(call.account, call.path["id"]), call.url)})


def list_profiles(state: State, call: Call) -> Answer:
    need_custom_profiles(call.account)
    own = [(one.id, one) for one in state.profiles.values() if one.account == call.account.id]
    page, cursor = page_of(call, own, newest_first=False)
    body: Json = {"custom_profiles": [_profile_json(profile, call.url) for profile in page]}
    return Answer(body if cursor is None else body | {"next_cursor": cursor})


def delete_profile(state: State, call: Call) -> Answer:
    need_custom_profiles(call.account)
    profile_id = call.fields.get("id", "")
    if profile_id in state.profiles:
        state.profile_of(call.account, profile_id)
        del state.profiles[profile_id]
    elif not profile_id.isascii() or not profile_id.isdigit():
        raise invalid("id", f"{profile_id} is not a valid Long")
    return Answer(None, 204)


def _profile_json(profile: StoredProfile, url: str) -> Json:
    return {
        "id": profile.id,
        "created_timestamp": profile.created_timestamp,
        "name": profile.name,
        "avatar": {"media": {"url": f"{url}/media/{profile.media_id}"}},
    }


# ---- the account ----


def update_profile(state: State, call: Call) -> Answer:
    most = {"name": 50, "url": 100, "location": 30, "description": 160}
    given = {key: call.fields[key] for key in most if key in call.fields}
    if not given:
        raise Refusal(403, 38, "At least one parameter is missing.")
    for key, value in given.items():
        if len(value) > most[key]:
            raise Refusal(403, 120, f"Account update failed: {key} is too long (maximum is {most[key]} characters).")
    if given.get("url") and "://" not in given["url"]:
        given["url"] = f"http://{given['url']}"
    for key, value in given.items():
        call.account.user[key] = (value or None) if key == "url" else value
    return show_account(state, call)


def account_json(user_id: str, *, name: str, screen_name: str, verified: bool) -> Json:
    """Return an account as the API shows it."""
    return {
        "id": int(user_id),
        "id_str": user_id,
        "name": name,
        "screen_name": screen_name,
        "location": "",
        "description": "",
        "url": None,
        "entities": {"description": {"urls": []}},
        "protected": False,
        "followers_count": 1000,
        "friends_count": 10,
        "created_at": "Mon Nov 29 21:18:15 +0000 2010",
        "utc_offset": None,
        "time_zone": None,
        "verified": verified,
        "statuses_count": 1,
        "lang": None,
        "profile_image_url_https": "https://pbs.twimg.com/profile_images/1/sandbox_normal.png",
    }


def show_account(_: State, call: Call) -> Answer:
    return Answer(_as_asked(call.account.user, call))


def show_user(state: State, call: Call) -> Answer:
    handle = call.fields.get("screen_name", "").lower()
    if handle == call.account.user["screen_name"].lower():
        return show_account(state, call)
    named = {name.lower(): user_id for name, user_id in state.handles.items()}
    user_id = named.get(handle, handle.removeprefix("person_"))
    if not user_id.isascii() or not user_id.isdigit():
        raise Refusal(404, 50, "User not found.", "People are called @person_ID here, or as Sandbox.handles says.")
    user = account_json(user_id, name=f"Person {user_id}", screen_name=handle, verified=False)
    return Answer(_as_asked(user, call))


def _as_asked(user: Json, call: Call) -> Json:
    """Return the account with as much as the request asks for."""
    shown = dict(user)
    if call.fields.get("skip_status", "false") not in {"true", "t", "1"}:
        shown["status"] = {"id": 1, "id_str": "1", "text": "hello"}
    if call.fields.get("include_entities", "true") not in {"true", "t", "1"}:
        shown.pop("entities")
    return shown
