"""The calls that upload files, in versions 1.1 and 2: in one request, or in segments with processing afterwards."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from twdm_async._json import is_object
from twdm_async.models.media import type_by_content
from twdm_async.sandbox.call import Answer, Call, Json, checked_long, whole_number
from twdm_async.sandbox.records import Segments, StoredMedia
from twdm_async.sandbox.refusal import Refusal, invalid

if TYPE_CHECKING:
    from twdm_async.sandbox.state import State

_MEGABYTE: Final = 1024 * 1024
_LIMITS: Final = {"image": 5 * _MEGABYTE, "gif": 15 * _MEGABYTE, "video": 512 * _MEGABYTE}
_CATEGORIES: Final = ("tweet_image", "tweet_gif", "tweet_video", "dm_image", "dm_gif", "dm_video")
_EXPIRES: Final = 86_400


# ---- version 1.1 ----


def upload(state: State, call: Call) -> Answer:
    command = call.fields.get("command")
    if command is None:
        return Answer(_described(_whole(state, call, call.fields)))
    match command:
        case "INIT":
            size = whole_number(call.fields.get("total_bytes", ""), "total_bytes", most=_LIMITS["video"])
            media = _begin(state, call, call.fields, size, shared=call.fields.get("shared") == "true")
            return Answer(_named(media), 202)
        case "APPEND":
            _append(state, call, call.fields.get("media_id", ""))
            return Answer(None, 204)
        case "FINALIZE":
            media = _finish(state, call, call.fields.get("media_id", ""))
            return Answer(_described(media), 201)
        case _:
            raise Refusal(400, 38, "command parameter is not valid.")


def upload_status(state: State, call: Call) -> Answer:
    if call.fields.get("command") != "STATUS":
        raise Refusal(400, 38, "command parameter is not valid.")
    return Answer(_described(_status(state, call, call.fields.get("media_id", "")), with_size=False))


def _named(media: StoredMedia) -> Json:
    return {"media_id": int(media.id), "media_id_string": media.id, "expires_after_secs": _EXPIRES}


def _described(media: StoredMedia, *, with_size: bool = True) -> Json:
    described: Json = _named(media)
    if with_size:
        described["size"] = media.size
    if media.processing is not None:
        described["processing_info"] = media.processing
    elif media.content_type.startswith("image/"):
        _, width, height = _kind(media.head)
        described["image"] = {"image_type": media.content_type, "w": width, "h": height}
    return described


# ---- version 2 ----


def upload_v2(state: State, call: Call) -> Answer:
    if "media_category" not in call.fields:
        raise invalid("media_category", "is missing")
    return Answer({"data": _described_v2(_whole(state, call, call.fields))})


def initialize_v2(state: State, call: Call) -> Answer:
    body = call.json if is_object(call.json) else {}
    size, shared = body.get("total_bytes"), body.get("shared", False)
    if type(size) is not int or not 1 <= size <= _LIMITS["video"]:
        raise invalid("total_bytes", "must be a number")
    if type(shared) is not bool:
        raise invalid("shared", "must be a boolean")
    media = _begin(state, call, body, size, shared=shared)
    return Answer({"data": {"id": media.id, "media_key": f"7_{media.id}", "expires_after_secs": _EXPIRES}})


def append_v2(state: State, call: Call) -> Answer:
    _append(state, call, call.path["id"])
    return Answer({"data": {"expires_at": int(state.clock.wall()) + _EXPIRES}})


def finalize_v2(state: State, call: Call) -> Answer:
    return Answer({"data": _described_v2(_finish(state, call, call.path["id"]))})


def upload_status_v2(state: State, call: Call) -> Answer:
    return Answer({"data": _described_v2(_status(state, call, call.fields.get("media_id", "")))})


def _described_v2(media: StoredMedia) -> Json:
    described: Json = {"id": media.id, "media_key": f"7_{media.id}", "size": media.size}
    described["expires_after_secs"] = _EXPIRES
    if media.processing is not None:
        described["processing_info"] = media.processing
    return described


# ---- both ----


def _whole(state: State, call: Call, fields: Any) -> StoredMedia:
    content = _uploaded(call)
    content_type, _, _ = _kind(content)
    _check_size(content_type, len(content))
    if content_type.startswith("video/"):
        raise Refusal(400, 324, "media type unrecognized.")
    category = _checked_category(fields.get("media_category"))
    media = StoredMedia(
        state.new_id(), call.account.id, content, content_type, category, call.fields.get("shared") == "true"
    )
    state.media[media.id] = media
    return media


def _begin(state: State, call: Call, fields: Any, size: int, *, shared: bool) -> StoredMedia:
    content_type = str(fields.get("media_type", ""))
    _check_size(content_type, size)
    category = _checked_category(fields.get("media_category"))
    media = StoredMedia(state.new_id(), call.account.id, Segments(size), content_type, category, shared)
    state.media[media.id] = media
    return media


def _append(state: State, call: Call, media_id: str) -> None:
    index = whole_number(call.fields.get("segment_index", ""), "segment_index", least=0, most=999)
    segments = _unfinished(state, call, media_id)
    segment = _uploaded(call)
    if len(segment) > 5 * _MEGABYTE:
        raise Refusal(400, 324, "Segment size exceeds the maximum.")
    segments.put(index, segment)


def _finish(state: State, call: Call, media_id: str) -> StoredMedia:
    segments = _unfinished(state, call, media_id)
    media = state.media[media_id]
    if not segments.is_whole:
        raise Refusal(400, 324, "Segments do not add up to provided total file size.")
    content_type, _, _ = _kind(media.head)
    if content_type.partition("/")[0] != media.content_type.partition("/")[0]:
        raise Refusal(400, 324, "Not valid media of the type that was announced.")
    segments.is_finished = True
    if media.category is not None and not media.category.endswith("_image"):
        media.processing = {"state": "pending", "check_after_secs": 1}
    return media


def _status(state: State, call: Call, media_id: str) -> StoredMedia:
    """Return the file. Each call advances its processing by a step."""
    media = _own(state, call, media_id)
    if media.processing is None:
        raise Refusal(404, 34, "Sorry, that page does not exist.")
    match media.processing["state"]:
        case "pending":
            media.processing = {"state": "in_progress", "check_after_secs": 1, "progress_percent": 50}
        case "in_progress" if media.head[8:12] == b"stuc":  # a file that begins so stays in progress, with an error
            error = {"code": 1, "name": "InternalError", "message": "Could not process the media"}
            media.processing = {"state": "in_progress", "check_after_secs": 1, "progress_percent": 99, "error": error}
        case "in_progress" if media.head[8:12] == b"fail":
            error = {"code": 1, "name": "InvalidMedia", "message": "Unsupported video format"}
            media.processing = {"state": "failed", "progress_percent": 50, "error": error}
        case "in_progress":
            media.processing = {"state": "succeeded", "progress_percent": 100}
        case _:
            pass
    return media


def _own(state: State, call: Call, media_id: str) -> StoredMedia:
    media = state.media.get(checked_long(media_id, "media_id"))
    if media is None or media.account != call.account.id:
        raise Refusal(400, 324, f"Invalid MediaId {media_id}.")
    return media


def _unfinished(state: State, call: Call, media_id: str) -> Segments:
    media = _own(state, call, media_id)
    if not isinstance(media.stored, Segments) or media.stored.is_finished:
        raise Refusal(400, 324, f"Invalid MediaId {media_id}: it is finished.")
    return media.stored


def _uploaded(call: Call) -> bytes:
    if "media" in call.files:
        return call.files["media"].content
    try:
        return base64.b64decode(call.fields["media_data"], validate=True)
    except (KeyError, binascii.Error):
        raise Refusal(400, 38, "media parameter is missing.") from None


def _checked_category(category: Any) -> str | None:
    if category is not None and category not in _CATEGORIES:
        raise Refusal(400, 324, "Unsupported raw media category")
    return str(category) if category is not None else None


def _check_size(content_type: str, size: int) -> None:
    kind = "gif" if content_type == "image/gif" else content_type.partition("/")[0]
    if kind not in _LIMITS:
        raise Refusal(400, 324, "media type unrecognized.")
    if size > _LIMITS[kind]:
        raise Refusal(400, 324, "File size exceeds the maximum.")


def _kind(content: bytes) -> tuple[str, int, int]:
    """Return content type, width and height. Width and height are 0 except for PNG and GIF, which have them at a fixed
    place; nothing here needs those of other types.
    """
    match type_by_content(content):
        case None:
            raise Refusal(400, 324, "media type unrecognized.")
        case "image/png" if len(content) >= 24:
            return "image/png", int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
        case "image/gif" if len(content) >= 10:
            return "image/gif", int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
        case content_type:
            return content_type, 0, 0
