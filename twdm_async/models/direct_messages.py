"""Direct messages, and what can hang on one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_length
from twdm_async.models.convert import ID, MILLISECONDS, OBJECT, TEXT, at, listed


def unescaped(text: str | None) -> str | None:
    """`text` as a person wrote it: the API escapes ``&``, ``<`` and ``>``, and nothing else."""
    return text and text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@frozen(kw_only=True)
class DirectMessage:
    """A message, as the page *Send a Direct Message with custom profile* shows it.

    Args:
        id: the event's id. The documented reply has none, so it may be ``None``.
        created_at: when it was made (UTC), or ``None`` likewise.
        sender_id: whose account it came from.
        recipient_id: whom it is for.
        raw_text: the text as it came, HTML-escaped. It is what the indices of `entities` count in.
        entities: hashtags, symbols, mentions and links in the text.
        custom_profile_id: the custom profile it was sent under.
        extra: everything else the API said, in its own shape.
    """

    id: str | None = field(default=None, metadata=at(ID, "id"))
    created_at: datetime | None = field(default=None, metadata=at(MILLISECONDS, "created_timestamp"))
    sender_id: str | None = field(default=None, metadata=at(ID, "message_create", "sender_id"))
    recipient_id: str | None = field(default=None, metadata=at(ID, "message_create", "target", "recipient_id"))
    raw_text: str | None = field(default=None, repr=False, metadata=at(TEXT, "message_create", "message_data", "text"))
    entities: Mapping[str, Any] | None = field(
        default=None, repr=False, hash=False, metadata=at(OBJECT, "message_create", "message_data", "entities")
    )
    custom_profile_id: str | None = field(
        default=None, metadata=at(ID, "message_create", "custom_profile_id", also=("custom_profile_id",))
    )
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def text(self) -> str | None:
        """The text as a person wrote it."""
        return unescaped(self.raw_text)


@frozen
class QuickReply:
    """One answer a person can tap instead of typing.

    Args:
        label: what the person sees, at most 36 characters.
        description: a line below it, at most 72 characters; either all the options of a message have one or none.
        metadata: comes back with the answer and is not shown, at most 1000 characters.

    Raises:
        InvalidInput: something is empty or too long.
    """

    label: str
    description: str | None = None
    metadata: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        checked_length(self.label, "label", 36)
        if self.description is not None:
            checked_length(self.description, "description", 72)
        if self.metadata is not None:
            checked_length(self.metadata, "metadata", 1000)


@frozen
class CallToAction:
    """A button that opens a web page.

    Args:
        label: what the person sees, at most 36 characters.
        url: an http or https address.

    Raises:
        InvalidInput: the label is empty or too long, or the address is not one.
    """

    label: str
    url: str

    def __attrs_post_init__(self) -> None:
        checked_length(self.label, "label", 36)
        checked_length(self.url, "url", 4096)
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or an IPv6 address that is none
            is_address = False
        if not is_address or any(map(str.isspace, self.url)):
            raise InvalidInput(parameter="url", problem="must be an http:// or https:// address without spaces")


@frozen(kw_only=True)
class DirectMessagePage:
    """One page of the list of messages, as the page *List messages* shows it.

    Args:
        events: those on this page, the newest first; there may be none.
        next_cursor: what the next page is asked for with; ``None`` on the last one.
        extra: everything else the API said.
    """

    events: tuple[DirectMessage, ...] = field(metadata=at(listed(DirectMessage), "events"))
    next_cursor: str | None = field(default=None, metadata=at(TEXT, "next_cursor"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)
