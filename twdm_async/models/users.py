"""The account that posts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async.models.convert import FLAG, ID, NUMBER, SPELLED_TIME, TEXT, at


@frozen(kw_only=True)
class User:
    """An account, as the page *POST account/update_profile* shows it.

    Args:
        id: the user id.
        name: the display name.
        screen_name: the handle, without ``@``.
        location: the location in the profile, a free text.
        description: the description in the profile.
        url: the web page in the profile, often shortened.
        verified: whether the account has a badge, which custom profiles need.
        protected: whether its posts are hidden from those who do not follow it.
        created_at: when it was created (UTC).
        followers_count: how many follow it.
        profile_image_url: its picture (https).
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id_str", also=("id",)))
    name: str | None = field(default=None, metadata=at(TEXT, "name"))
    screen_name: str | None = field(default=None, metadata=at(TEXT, "screen_name"))
    location: str | None = field(default=None, metadata=at(TEXT, "location"))
    description: str | None = field(default=None, metadata=at(TEXT, "description"))
    url: str | None = field(default=None, metadata=at(TEXT, "url"))
    verified: bool | None = field(default=None, metadata=at(FLAG, "verified"))
    protected: bool | None = field(default=None, metadata=at(FLAG, "protected"))
    created_at: datetime | None = field(default=None, metadata=at(SPELLED_TIME, "created_at"))
    followers_count: int | None = field(default=None, metadata=at(NUMBER, "followers_count"))
    profile_image_url: str | None = field(default=None, metadata=at(TEXT, "profile_image_url_https"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class Person:
    """A person in a conversation, as webhooks show it (page *Account Activity data objects*).

    Args:
        id: the user id.
        name: the display name.
        screen_name: the handle, without ``@``.
        verified: whether the account has a badge.
        protected: whether its posts are hidden from those who do not follow it.
        followers_count: how many follow it.
        profile_image_url: its picture (https).
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id"))
    name: str | None = field(default=None, metadata=at(TEXT, "name"))
    screen_name: str | None = field(default=None, metadata=at(TEXT, "screen_name", also=("username",)))
    verified: bool | None = field(default=None, metadata=at(FLAG, "verified"))
    protected: bool | None = field(default=None, metadata=at(FLAG, "protected"))
    followers_count: int | None = field(default=None, metadata=at(NUMBER, "followers_count"))
    profile_image_url: str | None = field(
        default=None, metadata=at(TEXT, "profile_image_url_https", also=("profile_image_url",))
    )
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)
