"""Quick replies, with which a person can answer by a tap, and the buttons below a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import field, frozen

from twdm_async._json import Json, is_array, is_object
from twdm_async._quiet import quiet_class
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_length
from twdm_async.models.convert import TEXT, at

_LONGEST_METADATA: Final = 1000


@quiet_class
@frozen
class QuickReply:
    """One answer that a person can tap instead of typing (page *Quick replies*, type ``options``).

    Args:
        label: what the person sees, at most 36 characters.
        description: a line below the label, at most 72 characters; all options of a message have one, or none has.
        metadata: a text that comes back with the answer and is not shown, at most 1000 characters.

    Raises:
        InvalidInput: an argument is empty or too long, or `label` or `description` contains an address (``://``).
    """

    label: str = field(repr=False)
    description: str | None = field(default=None, repr=False)
    metadata: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        _check_label(self.label)
        if self.description is not None:
            checked_length(self.description, "description", 72)
            if "://" in self.description:
                raise InvalidInput(parameter="description", problem="must not hold an address")
        if self.metadata is not None:
            checked_length(self.metadata, "metadata", _LONGEST_METADATA)


@quiet_class
@frozen
class TextInput:
    """An invitation to type (page *Quick replies*, the older type ``text_input``).

    Args:
        label: what the person sees, at most 36 characters; ``None`` for nothing.
        keyboard: the keyboard that is shown, such as ``"default"`` or ``"number"``.
        metadata: a text that comes back with the answer and is not shown, at most 1000 characters.

    Raises:
        InvalidInput: an argument is empty or too long, or `label` contains an address (``://``).
    """

    label: str | None = field(default=None, repr=False)
    keyboard: str | None = None
    metadata: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.label is not None:
            _check_label(self.label)
        if self.keyboard is not None:
            checked_length(self.keyboard, "keyboard", 36)
        if self.metadata is not None:
            checked_length(self.metadata, "metadata", _LONGEST_METADATA)


@quiet_class
@frozen
class LocationRequest:
    """An invitation to share a location (page *Quick replies*, the older type ``location``).

    Args:
        metadata: a text that comes back with the answer and is not shown, at most 1000 characters.

    Raises:
        InvalidInput: `metadata` is empty or too long.
    """

    metadata: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.metadata is not None:
            checked_length(self.metadata, "metadata", _LONGEST_METADATA)


QuickReplies = tuple[QuickReply, ...] | TextInput | LocationRequest


@quiet_class
@frozen
class CallToAction:
    """A button that opens a web page (page *Buttons*).

    Args:
        label: what the person sees, at most 36 characters.
        url: an http or https address.
        tco_url: the address as the API shortened it, in a message that the API shows. It is not sent.

    Raises:
        InvalidInput: `label` is empty or too long, or `url` is not an http or https address.
    """

    label: str = field(repr=False)
    url: str = field(repr=False)
    tco_url: str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        checked_length(self.label, "label", 36)
        checked_length(self.url, "url", 4096)
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port or the IPv6 address is not valid
            is_address = False
        if not is_address or any(map(str.isspace, self.url)):
            raise InvalidInput(parameter="url", problem="must be an http:// or https:// address without spaces")


@frozen(kw_only=True)
class QuickReplyResponse:
    """A person's answer to quick replies: the option that was tapped, or an answer to an invitation (page *Quick
    replies*).

    Args:
        type: ``"options"``, ``"text_input"`` or ``"location"``.
        metadata: the metadata of the option or the invitation.
        extra: everything else the API said, in its own shape.
    """

    type: str | None = field(default=None, metadata=at(TEXT, "type"))
    metadata: str | None = field(default=None, repr=False, metadata=at(TEXT, "metadata"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


def _check_label(label: str) -> None:
    checked_length(label, "label", 36)
    if "://" in label:
        raise InvalidInput(parameter="label", problem="must not hold an address")


def read_quick_replies(quick_reply: Json) -> QuickReplies | None:
    """Read what the API shows as ``quick_reply``; return ``None`` if it is not valid quick replies of a known type."""
    if not is_object(quick_reply):
        return None
    kind = quick_reply.get("type")
    inner = quick_reply.get(kind) if isinstance(kind, str) else None
    try:
        if kind == "options" and is_array(inner):
            options = [option for option in inner if is_object(option)]
            return tuple(
                QuickReply(option["label"], option.get("description"), option.get("metadata")) for option in options
            )
        if kind == "text_input" and is_object(inner):
            return TextInput(inner.get("label"), inner.get("keyboard"), inner.get("metadata"))
        if kind == "location" and is_object(inner):
            return LocationRequest(inner.get("metadata"))
    except (KeyError, InvalidInput):
        return None
    return None


def quick_replies_json(quick_replies: QuickReplies) -> Json:
    """Return `quick_replies` as the API writes them."""
    match quick_replies:
        case TextInput():
            inner = {"keyboard": quick_replies.keyboard, "label": quick_replies.label}
            return {"type": "text_input", "text_input": _given(inner | {"metadata": quick_replies.metadata})}
        case LocationRequest():
            return {"type": "location", "location": _given({"metadata": quick_replies.metadata})}
        case _:
            options = [
                {"label": one.label, "description": one.description, "metadata": one.metadata} for one in quick_replies
            ]
            return {"type": "options", "options": [_given(option) for option in options]}


def _given(fields: dict[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in fields.items() if value is not None}


def read_ctas(ctas: Json) -> tuple[CallToAction, ...]:
    """Read what the API shows as ``ctas``; leave out buttons that are not valid."""
    buttons: list[CallToAction] = []
    for cta in ctas if is_array(ctas) else []:
        try:
            buttons.append(CallToAction(cta["label"], cta["url"], tco_url=cta.get("tco_url")))
        except (KeyError, TypeError, AttributeError, InvalidInput):
            continue
    return tuple(buttons)
