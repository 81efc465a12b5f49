"""Custom profiles: the name and the picture under which an agent writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_id
from twdm_async.models.convert import ID, MILLISECONDS, TEXT, at, listed


@frozen(kw_only=True)
class CustomProfile:
    """A custom profile, as the pages *POST custom_profiles/new* and *GET custom_profiles/:id* show it.

    Args:
        id: the profile's id, with which messages are sent under it.
        name: the name that people see.
        created_at: when it was created (UTC).
        avatar_url: the URL of its picture.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "id"))
    name: str | None = field(default=None, metadata=at(TEXT, "name"))
    created_at: datetime | None = field(default=None, metadata=at(MILLISECONDS, "created_timestamp"))
    avatar_url: str | None = field(default=None, metadata=at(TEXT, "avatar", "media", "url"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


@frozen(kw_only=True)
class CustomProfilePage:
    """One page of the list of custom profiles, as the page *GET custom_profiles/list* shows it.

    Args:
        custom_profiles: the profiles on this page; there may be none.
        next_cursor: the cursor of the next page; ``None`` on the last page.
        extra: everything else the API said.
    """

    custom_profiles: tuple[CustomProfile, ...] = field(
        default=(), metadata=at(listed(CustomProfile), "custom_profiles")
    )
    next_cursor: str | None = field(default=None, metadata=at(TEXT, "next_cursor"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


def checked_profile_id(profile: CustomProfile | str | int, parameter: str) -> str:
    """Return the id of a custom profile that is given as itself or as its id.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(profile, CustomProfile):
        return profile.id
    try:
        return checked_id(profile, parameter)
    except InvalidInput as error:
        problem = error.problem.replace("must be an id", "must be a CustomProfile or its id")
    raise InvalidInput(parameter=parameter, problem=problem)
