"""Welcome messages, which a person sees on opening a conversation, and the rule that says which message that is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async.models.attachments import ATTACHMENT, Attachment
from twdm_async.models.convert import ID, MILLISECONDS, OBJECT, TEXT, at, found, listed
from twdm_async.models.direct_messages import SourceApp, app_of
from twdm_async.models.quick_replies import CallToAction, QuickReplies, read_ctas, read_quick_replies
from twdm_async.models.texts import fitted, unescaped

_DATA = "message_data"


@frozen(kw_only=True)
class WelcomeMessage:
    """A welcome message, as the pages *POST* and *GET direct_messages/welcome_messages* show it.

    Args:
        id: its id.
        created_at: when it was created (UTC).
        name: the name it is stored under.
        raw_text: the text as it came, HTML-escaped.
        raw_entities: hashtags, symbols, mentions and links; their indices count in `raw_text`.
        custom_profile_id: the custom profile it shows under, if the API says so.
        attachment: a file or a location.
        source_app_id: the id of the app that created it.
        apps: what the API says of that app, by its id.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id"))
    created_at: datetime | None = field(default=None, metadata=at(MILLISECONDS, "created_timestamp"))
    name: str | None = field(default=None, metadata=at(TEXT, "name"))
    raw_text: str | None = field(default=None, repr=False, metadata=at(TEXT, _DATA, "text"))
    raw_entities: Mapping[str, Any] | None = field(
        default=None, repr=False, hash=False, metadata=at(OBJECT, _DATA, "entities")
    )
    custom_profile_id: str | None = field(default=None, metadata=at(ID, "custom_profile_id"))
    attachment: Attachment | None = field(default=None, repr=False, metadata=at(ATTACHMENT, _DATA, "attachment"))
    source_app_id: str | None = field(default=None, metadata=at(ID, "source_app_id"))
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
        return read_quick_replies(found(self.extra, _DATA, "quick_reply"))

    @property
    def ctas(self) -> tuple[CallToAction, ...]:
        """The buttons below the message."""
        return read_ctas(found(self.extra, _DATA, "ctas"))

    @property
    def source_app(self) -> SourceApp | None:
        """The app that created the message, if the API says so."""
        return app_of(self.source_app_id, self.apps)


@frozen(kw_only=True)
class WelcomeMessagePage:
    """One page of the list of welcome messages, as the page *GET direct_messages/welcome_messages/list* shows it.

    Args:
        welcome_messages: the messages on this page; ``None`` if the API left the list out, since there are none.
        next_cursor: the cursor of the next page; ``None`` on the last page.
        apps: what the API says of the apps that created the messages, by their ids.
        extra: everything else the API said.
    """

    welcome_messages: tuple[WelcomeMessage, ...] | None = field(
        default=None, metadata=at(listed(WelcomeMessage), "welcome_messages")
    )
    next_cursor: str | None = field(default=None, metadata=at(TEXT, "next_cursor"))
    apps: Mapping[str, Any] | None = field(default=None, repr=False, hash=False, metadata=at(OBJECT, "apps"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class WelcomeMessageRule:
    """The rule that says which welcome message everybody sees, as the page *POST
    direct_messages/welcome_messages/rules/new* shows it.

    Args:
        id: its id.
        created_at: when it was created (UTC).
        welcome_message_id: the message's id.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id"))
    created_at: datetime | None = field(default=None, metadata=at(MILLISECONDS, "created_timestamp"))
    welcome_message_id: str | None = field(default=None, metadata=at(ID, "welcome_message_id"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class WelcomeMessageRulePage:
    """One page of the list of rules, as the page *GET direct_messages/welcome_messages/rules/list* shows it.

    Args:
        welcome_message_rules: the rules on this page; ``None`` if the API left the list out, since there are none.
        next_cursor: the cursor of the next page; ``None`` on the last page.
        extra: everything else the API said.
    """

    welcome_message_rules: tuple[WelcomeMessageRule, ...] | None = field(
        default=None, metadata=at(listed(WelcomeMessageRule), "welcome_message_rules")
    )
    next_cursor: str | None = field(default=None, metadata=at(TEXT, "next_cursor"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)
