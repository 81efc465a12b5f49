"""Uploaded files, and the checks of a file before it is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from attrs import field, frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.convert import ID, NUMBER, OBJECT, TEXT, at, nested

MediaCategory = Literal["tweet_image", "tweet_gif", "tweet_video", "dm_image", "dm_gif", "dm_video"]


@frozen(kw_only=True)
class Processing:
    """The API's progress in processing a film or an animation, as the page *GET media/upload (STATUS)* shows it.

    Args:
        state: ``"pending"``, ``"in_progress"``, ``"succeeded"`` or ``"failed"``.
        check_after_secs: seconds after which to ask again.
        progress_percent: how much is done, in percent.
        error: what went wrong, in the API's own shape.
        extra: everything else the API said, in its own shape.
    """

    state: str = field(metadata=at(TEXT, "state"))
    check_after_secs: int | None = field(default=None, metadata=at(NUMBER, "check_after_secs"))
    progress_percent: int | None = field(default=None, metadata=at(NUMBER, "progress_percent"))
    error: Mapping[str, Any] | None = field(default=None, hash=False, metadata=at(OBJECT, "error"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class Media:
    """An uploaded file, as the pages *POST media/upload* and *POST media/upload (FINALIZE)* show it.

    Args:
        id: the media id, by which a message or a profile refers to the file.
        size: the file's size in bytes.
        expires_after_secs: seconds within which the file must be used.
        processing: the progress of processing; ``None`` if the file can be used at once.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "media_id_string", also=("media_id",)))
    size: int | None = field(default=None, metadata=at(NUMBER, "size"))
    expires_after_secs: int | None = field(default=None, metadata=at(NUMBER, "expires_after_secs"))
    processing: Processing | None = field(default=None, metadata=at(nested(Processing), "processing_info"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class MediaV2(Media):
    """An uploaded file, as the page *POST /2/media/upload* shows it."""

    id: str = field(metadata=at(ID, "id"))


_MEGABYTE: Final = 1024 * 1024
_LIMITS: Final = {"image": 5 * _MEGABYTE, "gif": 15 * _MEGABYTE, "video": 512 * _MEGABYTE}
HEAD: Final = 16
"""How many bytes from the beginning of a file are needed to tell its type."""


_NO_FILMS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf"}
    | {b"avif", b"avis", b"M4A ", b"M4B ", b"M4P ", b"crx ", b"jp2 ", b"jpx ", b"jpm ", b"jxl "}
)
"""Brands of files that begin like films but are pictures or sound."""


def type_by_content(head: bytes) -> str | None:
    """Return the content type of a file that begins with `head`; ``None`` if it is not a type that the API accepts."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] not in _NO_FILMS:
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    return None


def checked_type(head: bytes, size: int, category: MediaCategory | None, parameter: str) -> str:
    """Return the content type of a file if it can be uploaded.

    Args:
        head: the file's first bytes.
        size: the file's size in bytes.
        category: what the file is for.
        parameter: the argument's name, for the error.

    Raises:
        InvalidInput: the file is empty, too large, or of a type that the API or `category` does not accept; `category`
            is not a known one; or it is missing for a film.
    """
    if category is not None and category not in get_args(MediaCategory):
        raise InvalidInput(parameter="category", problem=f"must be one of {', '.join(get_args(MediaCategory))}")
    if not size:
        raise InvalidInput(parameter=parameter, problem="is empty")
    content_type = type_by_content(head)
    if content_type is None:
        problem = "is not a PNG, JPEG, GIF or WEBP picture nor an MP4 or MOV film by its first bytes"
        raise InvalidInput(parameter=parameter, problem=problem)
    kind = "gif" if content_type == "image/gif" else content_type.partition("/")[0]
    if category is None and kind == "video":
        raise InvalidInput(parameter="category", problem="is needed for a film, such as dm_video")
    # A GIF that is not animated is accepted as an image, too.
    if category is not None and category.partition("_")[2] not in {kind, "image" if kind == "gif" else kind}:
        raise InvalidInput(parameter=parameter, problem=f"is {content_type}, which {category} does not take")
    if size > _LIMITS[kind]:
        raise InvalidInput(parameter=parameter, problem=f"has {size} bytes; {content_type} may have {_LIMITS[kind]}")
    return content_type
