"""Welcome messages: what a person sees on opening a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async.models.convert import ID, MILLISECONDS, OBJECT, TEXT, at
from twdm_async.models.direct_messages import unescaped


@frozen(kw_only=True)
class WelcomeMessage:
    """A welcome message, as the page *POST direct_messages/welcome_messages/new* shows it.

    Args:
        id: its id.
        created_at: when it was made (UTC).
        name: the name it is kept under.
        raw_text: the text as it came, HTML-escaped.
        entities: hashtags, symbols, mentions and links in the text.
        custom_profile_id: the custom profile it shows under, if the API says so.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id"))
    created_at: datetime | None = field(default=None, metadata=at(MILLISECONDS, "created_timestamp"))
    name: str | None = field(default=None, metadata=at(TEXT, "name"))
    raw_text: str | None = field(default=None, repr=False, metadata=at(TEXT, "message_data", "text"))
    entities: Mapping[str, Any] | None = field(
        default=None, repr=False, hash=False, metadata=at(OBJECT, "message_data", "entities")
    )
    custom_profile_id: str | None = field(default=None, metadata=at(ID, "custom_profile_id"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def text(self) -> str | None:
        """The text as a person wrote it."""
        return unescaped(self.raw_text)
