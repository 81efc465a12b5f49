"""Uploaded files, and what can be told of a file before it is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from attrs import field, frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.convert import ID, NUMBER, at

MediaCategory = Literal["tweet_image", "tweet_gif", "dm_image", "dm_gif"]


@frozen(kw_only=True)
class Media:
    """An uploaded file, as the page *POST media/upload* shows it.

    Args:
        id: what a message or a profile refers to.
        size: bytes.
        expires_after_secs: seconds within which it must be used.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "media_id_string", also=("media_id",)))
    size: int | None = field(default=None, metadata=at(NUMBER, "size"))
    expires_after_secs: int | None = field(default=None, metadata=at(NUMBER, "expires_after_secs"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


_MEGABYTE = 1024 * 1024
_IMAGE_LIMIT = 5 * _MEGABYTE
_GIF_LIMIT = 15 * _MEGABYTE
LARGEST_FILE = _GIF_LIMIT
"""Bytes; no file that the simple upload takes is larger."""


def _type_by_content(content: bytes) -> str | None:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return None


def checked_image(content: bytes, category: MediaCategory | None, parameter: str) -> str:
    """The content type of a picture that the simple upload takes.

    Raises:
        InvalidInput: it is empty, too large, not a picture by its first bytes, or not what `category` says.
    """
    if category is not None and category not in get_args(MediaCategory):
        raise InvalidInput(parameter="category", problem=f"must be one of {', '.join(get_args(MediaCategory))}")
    if not content:
        raise InvalidInput(parameter=parameter, problem="is empty")
    content_type = _type_by_content(content)
    if content_type is None:
        raise InvalidInput(parameter=parameter, problem="is not a PNG, JPEG, GIF or WEBP picture by its first bytes")
    is_gif = content_type == "image/gif"
    if category is not None and category.endswith("_gif") and not is_gif:
        raise InvalidInput(parameter=parameter, problem=f"is {content_type}, which {category} does not take")
    limit = _GIF_LIMIT if is_gif else _IMAGE_LIMIT
    if len(content) > limit:
        raise InvalidInput(parameter=parameter, problem=f"has {len(content)} bytes; {content_type} may have {limit}")
    return content_type
