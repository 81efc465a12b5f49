"""Direct messages, as they are sent and received."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async.models.attachments import ATTACHMENT, Attachment
from twdm_async.models.convert import ID, MILLISECONDS, OBJECT, TEXT, at, converter, found, listed, nested
from twdm_async.models.quick_replies import (
    CallToAction,
    QuickReplies,
    QuickReplyResponse,
    read_ctas,
    read_quick_replies,
)
from twdm_async.models.texts import fitted, unescaped

_CREATE, _DATA = "message_create", "message_data"


@frozen(kw_only=True)
class InitiatedVia:
    """Where a person who wrote first came from.

    Args:
        tweet_id: the id of a post with a button *Send a private message*.
        welcome_message_id: the id of a welcome message.
        extra: everything else the API said, in its own shape.
    """

    tweet_id: str | None = field(default=None, metadata=at(ID, "tweet_id"))
    welcome_message_id: str | None = field(default=None, metadata=at(ID, "welcome_message_id"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class SourceApp:
    """The app that sent a message.

    Args:
        id: its id.
        name: its name.
        url: its web page.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id"))
    name: str | None = field(default=None, metadata=at(TEXT, "name"))
    url: str | None = field(default=None, metadata=at(TEXT, "url"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


def app_of(app_id: str | None, apps: Mapping[str, Any] | None) -> SourceApp | None:
    """Return the app with the id `app_id` from `apps`, the map that the API gives beside its answers; ``None`` if it is
    not there.
    """
    try:
        app: SourceApp = converter.structure((apps or {}).get(app_id or ""), SourceApp)
    except (ValueError, TypeError):
        return None
    return app


@frozen(kw_only=True)
class DirectMessage:
    """A message, sent or received, as the pages *Send a Direct Message with custom profile* and *GET
    direct_messages/events/show* show it.

    Args:
        id: the event's id. It may be ``None``, since the documented reply to a send has none.
        created_at: when it was created (UTC); it may be ``None`` for the same reason.
        sender_id: the sender's user id.
        recipient_id: the recipient's user id.
        raw_text: the text as it came, HTML-escaped.
        raw_entities: hashtags, symbols, mentions and links; their indices count in `raw_text`.
        custom_profile_id: the custom profile it was sent under.
        attachment: a file or a location.
        quick_reply_response: the person's answer to quick replies.
        initiated_via: where a person who wrote first came from.
        source_app_id: the id of the app that sent it; given only for the account's own messages.
        apps: what the API says of that app, by its id.
        extra: everything else the API said, in its own shape.
    """

    id: str | None = field(default=None, metadata=at(ID, "id"))
    created_at: datetime | None = field(default=None, metadata=at(MILLISECONDS, "created_timestamp"))
    sender_id: str | None = field(default=None, metadata=at(ID, _CREATE, "sender_id"))
    recipient_id: str | None = field(default=None, metadata=at(ID, _CREATE, "target", "recipient_id"))
    raw_text: str | None = field(default=None, repr=False, metadata=at(TEXT, _CREATE, _DATA, "text"))
    raw_entities: Mapping[str, Any] | None = field(
        default=None, repr=False, hash=False, metadata=at(OBJECT, _CREATE, _DATA, "entities")
    )
    custom_profile_id: str | None = field(
        default=None, metadata=at(ID, _CREATE, "custom_profile_id", also=("custom_profile_id",))
    )
    attachment: Attachment | None = field(
        default=None, repr=False, metadata=at(ATTACHMENT, _CREATE, _DATA, "attachment")
    )
    quick_reply_response: QuickReplyResponse | None = field(
        default=None, metadata=at(nested(QuickReplyResponse), _CREATE, _DATA, "quick_reply_response")
    )
    initiated_via: InitiatedVia | None = field(default=None, metadata=at(nested(InitiatedVia), "initiated_via"))
    source_app_id: str | None = field(default=None, metadata=at(ID, _CREATE, "source_app_id"))
    apps: Mapping[str, Any] | None = field(default=None, repr=False, hash=False, metadata=at(OBJECT, "apps"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def text(self) -> str | None:
        """The text as a person wrote it."""
        return unescaped(self.raw_text)

    @property
    def entities(self) -> Mapping[str, Any] | None:
        """Hashtags, symbols, mentions and links; their indices count in `text`."""
        return fitted(self.raw_entities, self.raw_text)

    @property
    def quick_replies(self) -> QuickReplies | None:
        """The quick replies that the message offers."""
        return read_quick_replies(found(self.extra, _CREATE, _DATA, "quick_reply"))

    @property
    def ctas(self) -> tuple[CallToAction, ...]:
        """The buttons below the message."""
        return read_ctas(found(self.extra, _CREATE, _DATA, "ctas"))

    @property
    def source_app(self) -> SourceApp | None:
        """The app that sent the message, if the API says so."""
        return app_of(self.source_app_id, self.apps)


@frozen(kw_only=True)
class DirectMessagePage:
    """One page of the list of messages, as the page *List messages* shows it.

    Args:
        events: the messages on this page, newest first; there may be none.
        next_cursor: the cursor of the next page; ``None`` on the last page.
        apps: what the API says of the apps that sent the messages, by their ids.
        extra: everything else the API said.
    """

    events: tuple[DirectMessage, ...] = field(metadata=at(listed(DirectMessage), "events"))
    next_cursor: str | None = field(default=None, metadata=at(TEXT, "next_cursor"))
    apps: Mapping[str, Any] | None = field(default=None, repr=False, hash=False, metadata=at(OBJECT, "apps"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)
