"""What the sandbox keeps: accounts, messages, profiles, files, every request, and every breach of a quota."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from twdm_async.credentials import Credentials
from twdm_async.quota.spec import Scope


@define(eq=False)
class StoredAccount:
    """An account that may post.

    Args:
        credentials: its keys.
        user: the user object, as the API shows it.
        allowlisted: whether it may use custom profiles; it must also be verified.
    """

    credentials: Credentials
    user: dict[str, Any]
    allowlisted: bool

    @property
    def id(self) -> str:
        """The user id."""
        return str(self.user["id_str"])

    @property
    def may_use_custom_profiles(self) -> bool:
        """Whether it is verified and on the allow-list."""
        return self.allowlisted and bool(self.user["verified"])


@frozen
class StoredMessage:
    """A message that was accepted.

    Args:
        id: the event's id.
        received_at: seconds on the sandbox' clock (``Clock.monotonic``).
        sender_id: the account.
        recipient_id: the person.
        text: as it was sent; empty if there was only an attachment.
        custom_profile_id: the profile it shows under.
        body: the whole ``message_create`` object, as it was sent.
    """

    id: str
    received_at: float
    sender_id: str
    recipient_id: str
    text: str = field(repr=False)
    custom_profile_id: str | None
    body: Mapping[str, Any] = field(repr=False)


@frozen
class StoredProfile:
    """A custom profile that was made. `account` is the id of whose it is."""

    id: str
    account: str
    created_timestamp: str
    name: str
    media_id: str


@define(eq=False)
class StoredMedia:
    """An uploaded file. `account` is the id of whose it is; `uses` counts the messages it hangs on."""

    id: str
    account: str
    content: bytes = field(repr=False)
    content_type: str
    category: str | None
    shared: bool
    uses: int = 0


@frozen
class Received:
    """One request as it came, whatever became of it.

    Args:
        at: seconds on the sandbox' clock (``Clock.monotonic``).
        account: whose keys it was signed with; ``None`` if it was not let in.
        method: the HTTP method.
        path: path and query.
        status: what it was answered, or would have been; 0 if it was not carried out.
        fault: what went wrong with it, if anything did.
    """

    at: float
    account: str | None
    method: str
    path: str = field(repr=False)
    status: int
    fault: str | None = None


@define(eq=False)
class Window:
    """One window of a quota, from its first request on.

    Args:
        family: the endpoint family.
        scope: whose requests it counts.
        owner: the account's or the app's.
        limit: requests it allows.
        began: seconds on the sandbox' clock.
        ends: seconds on the sandbox' clock.
        count: requests it has counted.
    """

    family: str
    scope: Scope
    owner: str
    limit: int
    began: float
    ends: float
    count: int = 0


@frozen
class Breach:
    """A request that came although the quota was spent. It was refused with 429."""

    at: float
    family: str
    scope: Scope
    owner: str
