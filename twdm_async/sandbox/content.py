"""Checks the content of messages, and shows it as the API does: escaped, with shortened links."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from twdm_async._json import is_array, is_object
from twdm_async.models.texts import escaped
from twdm_async.sandbox.call import Json, object_at
from twdm_async.sandbox.links import links_in
from twdm_async.sandbox.refusal import Refusal, invalid

if TYPE_CHECKING:
    from twdm_async.sandbox.records import StoredAccount, StoredMedia
    from twdm_async.sandbox.state import State

_ERROR: Final = "There was an error sending your message"


def checked_data(
    state: State, account: StoredAccount, data: Json, path: str, *, most: int
) -> tuple[str, StoredMedia | None]:
    """Check the content of a message. Return its text, and the attached file, if any.

    Args:
        state: the sandbox's state.
        account: the account that sends the message.
        data: the ``message_data`` object.
        path: the path of `data` in the JSON, for refusals.
        most: the largest number of characters of the text.

    Raises:
        Refusal: the API would refuse this content.
    """
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
    kind = attachment.get("type") if is_object(attachment) else None
    if kind == "location":
        _check_location(object_at(attachment, "location", f"{path}.attachment."), f"{path}.attachment.location")
        return text or "", None
    if kind != "media":
        raise invalid(f"{path}.attachment.type", "must be media or location")
    return text or "", state.media_of(account, object_at(attachment, "media", f"{path}.attachment.").get("id"))


def _check_location(location: Json, path: str) -> None:
    if location.get("type") == "shared_place":
        place = object_at(object_at(location, "shared_place", f"{path}."), "place", f"{path}.shared_place.")
        if not isinstance(place.get("id"), str):
            raise invalid(f"{path}.shared_place.place.id", "must be a string")
        return
    if location.get("type") != "shared_coordinate":
        raise invalid(f"{path}.type", "must be shared_coordinate or shared_place")
    shared = object_at(location, "shared_coordinate", f"{path}.")
    point = object_at(shared, "coordinates", f"{path}.shared_coordinate.")
    numbers: Any = point.get("coordinates")
    is_point = is_array(numbers) and len(numbers) == 2 and all(isinstance(one, int | float) for one in numbers)
    if point.get("type") != "Point" or not is_point or abs(numbers[0]) > 180 or abs(numbers[1]) > 90:
        raise invalid(f"{path}.shared_coordinate.coordinates", "must be a Point of longitude and latitude")


def _check_quick_reply(quick_reply: Any, path: str) -> None:
    if quick_reply is None:
        return
    kind = quick_reply.get("type") if is_object(quick_reply) else None
    if kind in {"text_input", "location"}:
        inner = object_at(quick_reply, str(kind), f"{path}.quick_reply.")
        if "label" in inner:
            _check_label(inner["label"])
        return
    options = quick_reply.get("options") if is_object(quick_reply) and kind == "options" else None
    if not is_array(options) or not 1 <= len(options) <= 20 or not all(map(is_object, options)):
        raise invalid(f"{path}.quick_reply.options", "must be 1 to 20 options")
    described = ["description" in option for option in options]
    if any(described) and not all(described):
        raise Refusal(403, 151, f"{_ERROR}: description must be on all options or none.")
    for option in options:
        _check_label(option.get("label"))
        description = option.get("description")
        if description is not None and (not isinstance(description, str) or not 1 <= len(description) <= 72):
            raise Refusal(403, 151, f"{_ERROR}: Field description is empty or exceeds its display length.")
        if len(str(option.get("metadata", ""))) > 1000:
            raise Refusal(403, 151, f"{_ERROR}: Field metadata is too long.")


def _check_label(label: Any) -> None:
    if not isinstance(label, str) or not 1 <= len(label) <= 36:
        raise Refusal(403, 151, f"{_ERROR}: Field label exceeds its display length.")
    if "://" in label:
        raise Refusal(403, 151, f"{_ERROR}: Field label must not contain URLs.")


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


def shown_data(data: Json, text: str, media: StoredMedia | None, address: str) -> Json:
    """Return ``message_data`` as the API shows it.

    Args:
        data: the object as it was sent.
        text: its text.
        media: the attached file, if any.
        address: the URL of the attached file.
    """
    raw_text, urls = _shortened(text, with_media=media is not None)
    shown: Json = {"text": raw_text, "entities": _entities(raw_text) | {"urls": urls}}
    if "quick_reply" in data:
        shown["quick_reply"] = data["quick_reply"]
    if "quick_reply_response" in data:
        shown["quick_reply_response"] = data["quick_reply_response"]
    if "ctas" in data:
        shown["ctas"] = [cta | {"tco_url": f"https://t.co/{n:010}"} for n, cta in enumerate(data["ctas"])]
    if media is not None:
        shown["attachment"] = {"type": "media", "media": _media_json(media, urls[-1], address)}
    elif "attachment" in data:
        shown["attachment"] = data["attachment"]
    return shown


def _media_json(media: StoredMedia, link: Json, address: str) -> Json:
    kind = {"image/gif": "animated_gif"}.get(media.content_type, "photo" if "image/" in media.content_type else "video")
    return {
        "id": int(media.id),
        "id_str": media.id,
        "indices": link["indices"],
        "media_url": address,
        "media_url_https": address,
        "url": link["url"],
        "display_url": link["display_url"],
        "expanded_url": link["expanded_url"],
        "type": kind,
        "sizes": {"large": {"w": 64, "h": 64, "resize": "fit"}},
    }


def _entities(raw_text: str) -> Json:
    """Return the hashtags and symbols. Their indices refer to the escaped text, as the API's do."""
    return {
        "hashtags": [{"text": m[1], "indices": list(m.span())} for m in re.finditer(r"(?<!\S)#(\w+)", raw_text)],
        "symbols": [{"text": m[1], "indices": list(m.span())} for m in re.finditer(r"(?<!\S)\$([A-Za-z]+)", raw_text)],
        "user_mentions": [],
    }


def _shortened(text: str, *, with_media: bool) -> tuple[str, list[Json]]:
    """Escape `text`, and replace each link in it by a t.co link; if a file is attached, append a t.co link for it.

    Returns:
        The text, and the t.co links with the URLs that they stand for. Their indices refer to the escaped text.
    """
    urls: list[Json] = []
    shown = ""
    done = 0

    def link(expanded: str) -> str:
        short = f"https://t.co/{len(urls):010}"
        urls.append({"url": short, "expanded_url": expanded, "display_url": expanded.partition("://")[2][:27]})
        urls[-1]["indices"] = [len(shown), len(shown) + len(short)]
        return short

    for start, end in links_in(text):
        shown += escaped(text[done:start])
        address = text[start:end]
        shown += link(address if "://" in address else f"http://{address}")
        done = end
    shown += escaped(text[done:])
    if with_media:
        shown += " "
        shown += link("https://twitter.com/messages/media/1")
    return shown, urls
