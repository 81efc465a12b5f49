"""What each call does and answers.

Paths, limits and words are the API's own, written down here a second time on purpose: a double that took them from the
client's table would agree with its mistakes.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from twdm_async.sandbox.records import StoredAccount, StoredMedia, StoredMessage, StoredProfile
from twdm_async.sandbox.refusal import Refusal, invalid, no_such_page, not_permitted

if TYPE_CHECKING:
    from twdm_async._clock import Clock
    from twdm_async.sandbox.windows import Windows
from twdm_async._json import is_array, is_object

Json = dict[str, Any]


@frozen
class Upload:
    """A file in a multipart body."""

    content: bytes = field(repr=False)
    content_type: str


@frozen
class Call:
    """A request that was let in.

    Args:
        account: whose it is.
        url: of the sandbox, to make addresses from.
        path: what the path's placeholders matched.
        fields: of query and form together.
        json: the body, if it is JSON.
        files: of a multipart body.
    """

    account: StoredAccount
    url: str
    path: Mapping[str, str]
    fields: Mapping[str, str]
    json: Any
    files: Mapping[str, Upload]


@frozen
class Answer:
    """``None`` as the body is an empty one."""

    body: Json | None
    status: int = 200


class Api:
    """Everything the sandbox remembers, and the calls that change it."""

    def __init__(self, clock: Clock, windows: Windows) -> None:
        self._clock = clock
        self._windows = windows
        self._ids = itertools.count(1_580_000_000_000_000_001)
        self.messages: list[StoredMessage] = []
        self._events: list[Json] = []  # the same, as the API shows them
        self.welcome_messages: list[Json] = []
        self.profiles: dict[str, StoredProfile] = {}
        self.media: dict[str, StoredMedia] = {}
        self.unreachable: set[str] = set()

    def new_id(self) -> str:
        """An id that was never given out before."""
        return str(next(self._ids))

    # ---- quotas ----

    def show_limits(self, call: Call) -> Answer:
        wanted = call.fields["resources"].split(",") if "resources" in call.fields else list(_LISTED)
        now = self._clock.monotonic()
        resources: Json = {}
        for group in wanted:
            for path, family in _LISTED.get(group, {}).items():
                limit, remaining, ends_in = self._windows.left(family, call.account.id, now)
                reset = math.ceil(self._clock.wall() + ends_in)
                resources.setdefault(group, {})[path] = {"limit": limit, "remaining": remaining, "reset": reset}
        token = call.account.credentials.access_token
        return Answer({"rate_limit_context": {"access_token": token}, "resources": resources})

    # ---- custom profiles ----

    def create_profile(self, call: Call) -> Answer:
        _need_custom_profiles(call.account)
        profile = _object(call.json, "custom_profile")
        name = profile.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 48:
            raise invalid("custom_profile.name", "must be a string of 1 to 48 characters")
        avatar = _object(_object(profile, "avatar", "custom_profile."), "media", "custom_profile.avatar.")
        media = self._media_of(call.account, avatar.get("id"))
        stored = StoredProfile(self.new_id(), call.account.id, self._milliseconds(), name, media.id)
        self.profiles[stored.id] = stored
        return Answer({"custom_profile": _profile_json(stored, call.url)})

    def get_profile(self, call: Call) -> Answer:
        _need_custom_profiles(call.account)
        return Answer({"custom_profile": _profile_json(self._profile_of(call.account, call.path["id"]), call.url)})

    def list_profiles(self, call: Call) -> Answer:
        _need_custom_profiles(call.account)
        count = _whole_number(call.fields.get("count", "20"), "count", most=50)
        after = _decode_cursor(call.fields["cursor"]) if "cursor" in call.fields else 0
        own = [profile for profile in self.profiles.values() if profile.account == call.account.id]
        page = [profile for profile in own if int(profile.id) > after][:count]
        body: Json = {"custom_profiles": [_profile_json(profile, call.url) for profile in page]}
        # A full page has a cursor even if nothing follows, so the last page may be empty.
        if len(page) == count:
            body["next_cursor"] = _encode_cursor(page[-1].id)
        return Answer(body)

    def delete_profile(self, call: Call) -> Answer:
        _need_custom_profiles(call.account)
        profile_id = call.fields.get("id", "")
        if profile_id in self.profiles:
            self._profile_of(call.account, profile_id)
            del self.profiles[profile_id]
        elif not profile_id.isascii() or not profile_id.isdigit():
            raise invalid("id", f"{profile_id} is not a valid Long")
        return Answer(None, 204)

    # ---- messages ----

    def send_message(self, call: Call) -> Answer:
        event = _object(call.json, "event")
        if event.get("type") != "message_create":
            raise invalid("event.type", "must be message_create")
        create = _object(event, "message_create", "event.")
        recipient_id = str(_object(create, "target", "event.message_create.").get("recipient_id"))
        if not recipient_id.isascii() or not recipient_id.isdigit():
            raise invalid("event.message_create.target.recipient_id", f"{recipient_id} is not a valid Long")
        data = _object(create, "message_data", "event.message_create.")
        text, media = self._checked_data(call.account, data, "event.message_create.message_data", most=10_000)
        if media is not None and not str(media.category).startswith("dm_"):
            raise Refusal(400, 324, f"Invalid Media ID of category {media.category or 'TweetImage'}.")
        if media is not None and media.uses and not media.shared:
            raise Refusal(400, 324, f"Invalid Media ID {media.id}: it was used already and is not shared.")
        if recipient_id in self.unreachable:
            raise Refusal(403, 349, "You cannot send messages to this user.")
        profile_id = create.get("custom_profile_id")
        if profile_id is not None:
            self._check_profile(call.account, profile_id, "event.message_create")
        message = StoredMessage(
            self.new_id(), self._clock.monotonic(), call.account.id, recipient_id, text, profile_id, create
        )
        self.messages.append(message)
        if media is not None:
            media.uses += 1
        shown: Json = {
            "type": "message_create",
            "id": message.id,
            "created_timestamp": self._milliseconds(),
            "message_create": {
                "target": {"recipient_id": recipient_id},
                "sender_id": call.account.id,
                "message_data": _shown_data(data, text),
            },
        }
        if profile_id is not None:
            shown["message_create"]["custom_profile_id"] = profile_id
        self._events.append(shown)
        return Answer({"event": shown})

    def list_messages(self, call: Call) -> Answer:
        count = _whole_number(call.fields.get("count", "20"), "count", most=50)
        before = _decode_cursor(call.fields["cursor"]) if "cursor" in call.fields else math.inf
        own = [shown for shown in reversed(self._events) if int(shown["id"]) < before]
        own = [shown for shown in own if shown["message_create"]["sender_id"] == call.account.id]
        page = own[:count]
        body: Json = {"events": page}
        # A full page has a cursor even if nothing follows, so the last page may be empty.
        if len(page) == count:
            body["next_cursor"] = _encode_cursor(page[-1]["id"])
        return Answer(body)

    def create_welcome_message(self, call: Call) -> Answer:
        message = _object(call.json, "welcome_message")
        data = _object(message, "message_data", "welcome_message.")
        text, media = self._checked_data(call.account, data, "welcome_message.message_data", most=9_990)
        if media is not None and not media.shared:
            raise Refusal(400, 324, f"Invalid Media ID {media.id}: a welcome message needs one that is shared.")
        shown: Json = {
            "id": self.new_id(),
            "created_timestamp": self._milliseconds(),
            "message_data": _shown_data(data, text),
            "source_app_id": "1",
        }
        if "name" in message:
            if not re.fullmatch(r"[A-Za-z0-9\-_ #@]{1,100}", str(message["name"])):
                raise invalid("welcome_message.name", "has characters that are not allowed")
            shown["name"] = message["name"]
        if "custom_profile_id" in message:
            self._check_profile(call.account, message["custom_profile_id"], "welcome_message")
            shown["custom_profile_id"] = message["custom_profile_id"]
        self.welcome_messages.append(shown)
        app = {"id": "1", "name": "sandbox", "url": "https://example.com"}
        return Answer({"welcome_message": shown, "apps": {"1": app}})

    def _checked_data(
        self, account: StoredAccount, data: Json, path: str, *, most: int
    ) -> tuple[str, StoredMedia | None]:
        text, attachment = data.get("text"), data.get("attachment")
        if not text and not attachment:
            raise Refusal(400, 214, f"Neither text or attachment defined on {path}")
        if text is not None and not isinstance(text, str):
            raise invalid(f"{path}.text", "must be a string")
        if text and len(text) > most:
            raise Refusal(403, 354, "The text of your direct message is over the max character limit.")
        _check_quick_reply(data.get("quick_reply"), path)
        _check_ctas(data.get("ctas"), path)
        if attachment is None:
            return text or "", None
        if not is_object(attachment) or attachment.get("type") != "media":
            raise invalid(f"{path}.attachment.type", "must be media")
        return text or "", self._media_of(account, _object(attachment, "media", f"{path}.attachment.").get("id"))

    # ---- the account ----

    def update_profile(self, call: Call) -> Answer:
        most = {"name": 50, "url": 100, "location": 30, "description": 160}
        given = {key: call.fields[key] for key in most if key in call.fields}
        if not given:
            raise Refusal(403, 38, "At least one parameter is missing.")
        for key, value in given.items():
            if len(value) > most[key]:
                raise Refusal(
                    403, 120, f"Account update failed: {key} is too long (maximum is {most[key]} characters)."
                )
        if given.get("url") and "://" not in given["url"]:
            given["url"] = f"http://{given['url']}"
        for key, value in given.items():
            call.account.user[key] = (value or None) if key == "url" else value
        return self.show_account(call)

    def show_account(self, call: Call) -> Answer:
        user = dict(call.account.user)
        if call.fields.get("skip_status", "false") not in {"true", "t", "1"}:
            user["status"] = {"id": 1, "id_str": "1", "text": "hello"}
        if call.fields.get("include_entities", "true") not in {"true", "t", "1"}:
            user.pop("entities")
        return Answer(user)

    # ---- files ----

    def upload(self, call: Call) -> Answer:
        if "command" in call.fields:
            raise Refusal(400, 38, "command parameter is not known to the sandbox: it takes simple uploads.")
        content = self._uploaded(call)
        content_type, width, height = _picture(content)
        if len(content) > (15 if content_type == "image/gif" else 5) * 1024 * 1024:
            raise Refusal(400, 324, "File size exceeds the maximum.")
        category = call.fields.get("media_category")
        if category not in {None, "tweet_image", "tweet_gif", "dm_image", "dm_gif"}:
            raise Refusal(400, 324, "Unsupported raw media category")
        media = StoredMedia(
            self.new_id(), call.account.id, content, content_type, category, call.fields.get("shared") == "true"
        )
        self.media[media.id] = media
        return Answer(
            {
                "media_id": int(media.id),
                "media_id_string": media.id,
                "size": len(content),
                "expires_after_secs": 86_400,
                "image": {"image_type": content_type, "w": width, "h": height},
            }
        )

    @staticmethod
    def _uploaded(call: Call) -> bytes:
        if "media" in call.files:
            return call.files["media"].content
        try:
            return base64.b64decode(call.fields["media_data"], validate=True)
        except (KeyError, binascii.Error):
            raise Refusal(400, 38, "media parameter is missing.") from None

    # ---- shared ----

    def _milliseconds(self) -> str:
        return str(int(self._clock.wall() * 1000))

    def _profile_of(self, account: StoredAccount, profile_id: str) -> StoredProfile:
        profile = self.profiles.get(profile_id)
        if profile is None or profile.account != account.id:
            raise no_such_page()
        return profile

    def _check_profile(self, account: StoredAccount, profile_id: Any, path: str) -> None:
        _need_custom_profiles(account)
        profile = self.profiles.get(profile_id) if isinstance(profile_id, str) else None
        if profile is None or profile.account != account.id:
            raise invalid(f"{path}.custom_profile_id", "no such custom profile")

    def _media_of(self, account: StoredAccount, media_id: Any) -> StoredMedia:
        media = self.media.get(media_id) if isinstance(media_id, str) else None
        if media is None or media.account != account.id:
            raise Refusal(400, 324, f"Invalid Media ID {media_id}.")
        return media


Handler = Callable[[Api, Call], Answer]


@frozen
class Route:
    """One call: where it is, which quota it spends, what it does, and whether its reply tells the quota in headers."""

    method: str
    path: str
    family: str
    handler: Handler
    tells_limits: bool


ROUTES: Final = (
    Route("POST", "/1.1/custom_profiles/new.json", "custom_profiles.create", Api.create_profile, False),
    Route("GET", "/1.1/custom_profiles/list.json", "custom_profiles.list", Api.list_profiles, True),
    Route("GET", r"/1.1/custom_profiles/{id:\d+}.json", "custom_profiles.get", Api.get_profile, True),
    Route("DELETE", "/1.1/custom_profiles/destroy.json", "custom_profiles.delete", Api.delete_profile, False),
    Route("POST", "/1.1/direct_messages/events/new.json", "direct_messages.send", Api.send_message, False),
    Route("GET", "/1.1/direct_messages/events/list.json", "direct_messages.list", Api.list_messages, True),
    Route(
        "POST",
        "/1.1/direct_messages/welcome_messages/new.json",
        "welcome_messages.create",
        Api.create_welcome_message,
        False,
    ),
    Route("POST", "/1.1/account/update_profile.json", "account.update_profile", Api.update_profile, False),
    Route("GET", "/1.1/account/verify_credentials.json", "account.verify_credentials", Api.show_account, True),
    Route("GET", "/1.1/application/rate_limit_status.json", "application.rate_limit_status", Api.show_limits, True),
    Route("POST", "/1.1/media/upload.json", "media.upload", Api.upload, True),
)

# What is listed; the calls that send messages, or make or delete custom profiles, are not.
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
    "direct_messages": {"/direct_messages/events/list": "direct_messages.list"},
}


def _need_custom_profiles(account: StoredAccount) -> None:
    if not account.may_use_custom_profiles:
        raise not_permitted()


def _object(parent: Any, key: str, path: str = "") -> Json:
    value = parent.get(key) if is_object(parent) else None
    if not is_object(value):
        raise invalid(f"{path}{key}", "is missing or not an object")
    return value


def _whole_number(text: str, name: str, *, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise invalid(name, f"must be a number from 1 to {most}")
    return int(text)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _shown_data(data: Json, text: str) -> Json:
    escaped, urls = _shortened(_escaped(text), with_media="attachment" in data)
    shown: Json = {"text": escaped, "entities": _entities(escaped) | {"urls": urls}}
    if "quick_reply" in data:
        shown["quick_reply"] = data["quick_reply"]
    if "ctas" in data:
        shown["ctas"] = [cta | {"tco_url": f"https://t.co/{n:010}"} for n, cta in enumerate(data["ctas"])]
    if "attachment" in data:
        media_id = data["attachment"]["media"]["id"]
        shown["attachment"] = {"type": "media", "media": {"id": int(media_id), "id_str": media_id}}
    return shown


def _entities(escaped: str) -> Json:
    """Hashtags and symbols; their indices count the escaped text, as the API's do."""
    return {
        "hashtags": [{"text": m[1], "indices": list(m.span())} for m in re.finditer(r"(?<!\S)#(\w+)", escaped)],
        "symbols": [{"text": m[1], "indices": list(m.span())} for m in re.finditer(r"(?<!\S)\$([A-Za-z]+)", escaped)],
        "user_mentions": [],
    }


_ADDRESS: Final = re.compile(r"(?<![\w@./])(?:https?://[^\s]+|(?:[A-Za-z0-9-]+\.)+(?:com|org|net|io)\b(?:/[^\s]*)?)")


def _shortened(escaped: str, *, with_media: bool) -> tuple[str, list[Json]]:
    """The text with a t.co link for each address, and one more for a file that hangs on it; and what they stand for."""
    urls: list[Json] = []
    parts: list[str] = []
    done = length = 0

    def link(expanded: str) -> str:
        short = f"https://t.co/{len(urls):010}"
        urls.append({"url": short, "expanded_url": expanded, "display_url": expanded.partition("://")[2][:27]})
        urls[-1]["indices"] = [length, length + len(short)]
        return short

    for match in _ADDRESS.finditer(escaped):
        before = escaped[done : match.start()]
        length += len(before)
        address = match[0] if "://" in match[0] else f"http://{match[0]}"
        parts += [before, link(address)]
        length += len(parts[-1])
        done = match.end()
    parts.append(escaped[done:])
    length += len(parts[-1])
    if with_media:
        length += 1
        parts += [" ", link("https://twitter.com/messages/media/1")]
    return "".join(parts), urls


def _check_quick_reply(quick_reply: Any, path: str) -> None:
    if quick_reply is None:
        return
    options = quick_reply.get("options") if is_object(quick_reply) else None
    if not is_array(options) or not 1 <= len(options) <= 20 or not all(map(is_object, options)):
        raise invalid(f"{path}.quick_reply.options", "must be 1 to 20 options")
    described = [option.get("description") for option in options]
    if any(described) and not all(described):
        raise Refusal(403, 151, "There was an error sending your message: description must be on all options or none.")
    for option in options:
        label = option.get("label")
        if not isinstance(label, str) or not 1 <= len(label) <= 36:
            raise Refusal(403, 151, "There was an error sending your message: Field label exceeds its display length.")


def _check_ctas(ctas: Any, path: str) -> None:
    if ctas is None:
        return
    if not is_array(ctas) or not 1 <= len(ctas) <= 3 or not all(map(is_object, ctas)):
        raise invalid(f"{path}.ctas", "must be 1 to 3")
    for cta in ctas:
        label, url = cta.get("label"), cta.get("url")
        if not isinstance(label, str) or not 1 <= len(label) <= 36:
            raise invalid(f"{path}.ctas.label", "must be 1 to 36 characters")
        if not isinstance(url, str) or not re.fullmatch(r"https?://\S+", url):
            raise Refusal(400, 407, "The given URL is invalid.")


def _picture(content: bytes) -> tuple[str, int, int]:
    """Type, width and height; only PNG and GIF tell their size in a fixed place, and nobody here needs the others'."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) >= 24:
        return "image/png", int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content.startswith((b"GIF87a", b"GIF89a")) and len(content) >= 10:
        return "image/gif", int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg", 0, 0
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp", 0, 0
    raise Refusal(400, 324, "media type unrecognized.")


def _profile_json(profile: StoredProfile, url: str) -> Json:
    return {
        "id": profile.id,
        "created_timestamp": profile.created_timestamp,
        "name": profile.name,
        "avatar": {"media": {"url": f"{url}/media/{profile.media_id}"}},
    }


def _encode_cursor(last_id: str) -> str:
    return base64.b64encode(last_id.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor + "=" * (-len(cursor) % 4), validate=True))
    except ValueError:
        raise invalid("cursor", "is not valid") from None
