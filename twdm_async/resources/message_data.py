"""The content that direct messages and welcome messages share: text, quick replies, buttons, an attachment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twdm_async.errors import InvalidInput
from twdm_async.models.attachments import SharedCoordinate, SharedPlace, attachment_json
from twdm_async.models.checks import checked_id, checked_length
from twdm_async.models.media import Media
from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput, quick_replies_json

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_QUICK_REPLIES: Final = 20
_MOST_CTAS: Final = 3

Attachable = Media | SharedCoordinate | SharedPlace | str | int
"""What a message can have attached: an uploaded file or its media id, or a place."""


def message_data(
    text: str | None,
    *,
    limit: int,
    quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None,
    ctas: Sequence[CallToAction] | None,
    attachment: Attachable | None,
) -> dict[str, Any]:
    """Check the content of a message, and return its ``message_data`` object (page *Send a Direct Message*).

    Args:
        text: the text; needed unless there is an attachment.
        limit: how many characters the text may have.
        quick_replies: 1 to 20 answers to tap, which all have a description or none; or a request for a text or a
            location.
        ctas: 1 to 3 buttons.
        attachment: an uploaded file or its media id, or a place.

    Raises:
        InvalidInput: text and attachment are missing; the text is blank, too long or contains a character that cannot
            be sent; there are no or too many quick replies or buttons; some quick replies have a description and others
            do not; or an argument has the wrong type.
    """
    data: dict[str, Any] = {}
    if text is not None:
        data["text"] = checked_length(text, "text", limit)
    elif attachment is None:
        raise InvalidInput(parameter="text", problem="is needed where there is no attachment")
    if isinstance(quick_replies, TextInput | LocationRequest):
        data["quick_reply"] = quick_replies_json(quick_replies)
    elif quick_replies is not None:
        data["quick_reply"] = quick_replies_json(_checked_options(quick_replies))
    if ctas is not None:
        _check_sequence(ctas, CallToAction, "ctas", _MOST_CTAS)
        data["ctas"] = [{"type": "web_url", "label": cta.label, "url": cta.url} for cta in ctas]
    if isinstance(attachment, SharedCoordinate | SharedPlace):
        data["attachment"] = attachment_json(attachment)
    elif attachment is not None:
        data["attachment"] = {"type": "media", "media": {"id": media_id(attachment, "attachment")}}
    return data


def media_id(media: Media | str | int, parameter: str) -> str:
    """Return the media id of an uploaded file, which is given as a `Media` or as its id.

    Raises:
        InvalidInput: `media` is neither.
    """
    if isinstance(media, Media):
        return media.id
    try:
        return checked_id(media, parameter)
    except InvalidInput:
        problem = "must be an uploaded file or its media id; client.media.upload(...) makes one of a file"
    raise InvalidInput(parameter=parameter, problem=problem)


def _check_sequence(items: Sequence[Any], of: type, parameter: str, most: int) -> None:
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, of) for item in items):
        raise InvalidInput(parameter=parameter, problem=f"must be a list of {of.__name__}")
    if not 1 <= len(items) <= most:
        raise InvalidInput(parameter=parameter, problem=f"must be 1 to {most}")


def _checked_options(quick_replies: Sequence[QuickReply]) -> tuple[QuickReply, ...]:
    _check_sequence(quick_replies, QuickReply, "quick_replies", _MOST_QUICK_REPLIES)
    if len({reply.description is None for reply in quick_replies}) > 1:
        raise InvalidInput(parameter="quick_replies", problem="must all have a description, or none")
    return tuple(quick_replies)
