"""What the sandbox keeps: accounts, messages, profiles, files, every request, and every breach of a quota."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import IO, Any

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
        permission: what its token was issued with; messages need ``"read-write-directmessages"``.
        legacy_access: whether its app may use version 1.1 of the API for more than uploads.
    """

    credentials: Credentials
    user: dict[str, Any]
    allowlisted: bool
    permission: str = "read-write-directmessages"
    legacy_access: bool = True

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
        is_counted: whether it took a place in the quota; a reply to somebody who wrote may not.
    """

    id: str
    received_at: float
    sender_id: str
    recipient_id: str
    text: str = field(repr=False)
    custom_profile_id: str | None
    body: Mapping[str, Any] = field(repr=False)
    is_counted: bool = True


@frozen
class StoredProfile:
    """A custom profile that was made. `account` is the id of whose it is."""

    id: str
    account: str
    created_timestamp: str
    name: str
    media_id: str


@define(eq=False)
class Segments:
    """A file that comes in segments.

    Args:
        size: bytes it will have.
        file: where they are kept.
        places: where each segment lies in `file`, and how long it is. One that comes again replaces the first.
        is_finished: whether all are there.
    """

    size: int
    file: IO[bytes] = field(factory=tempfile.TemporaryFile, repr=False)
    places: dict[int, tuple[int, int]] = field(factory=dict[int, tuple[int, int]])
    is_finished: bool = False

    def __del__(self) -> None:
        self.file.close()

    def put(self, index: int, segment: bytes) -> None:
        """Keep a segment."""
        start = self.file.seek(0, 2)
        self.file.write(segment)
        self.places[index] = (start, len(segment))

    def read(self, length: int | None = None) -> bytes:
        """The first `length` bytes, or all of them, in order."""
        parts: list[bytes] = []
        for _, (start, size) in sorted(self.places.items()):
            if length is None or sum(map(len, parts)) < length:
                self.file.seek(start)
                parts.append(self.file.read(size))
        return b"".join(parts)[:length]

    @property
    def is_whole(self) -> bool:
        """Whether the segments are all there, and add up."""
        lengths = [length for _, length in self.places.values()]
        return sorted(self.places) == list(range(len(self.places))) and sum(lengths) == self.size


@define(eq=False)
class StoredMedia:
    """An uploaded file. `account` is the id of whose it is; `uses` counts the messages it hangs on; `processing` is how
    far the API is with it, as it says itself.
    """

    id: str
    account: str
    stored: bytes | Segments = field(repr=False)
    content_type: str
    category: str | None
    shared: bool
    uses: int = 0
    processing: dict[str, Any] | None = None

    @property
    def content(self) -> bytes:
        """The whole file."""
        return self.stored if isinstance(self.stored, bytes) else self.stored.read()

    @property
    def head(self) -> bytes:
        """Its first bytes."""
        return self.stored[:64] if isinstance(self.stored, bytes) else self.stored.read(64)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.stored) if isinstance(self.stored, bytes) else self.stored.size

    @property
    def is_ready(self) -> bool:
        """Whether it can be used."""
        is_there = isinstance(self.stored, bytes) or self.stored.is_finished
        return is_there and (self.processing is None or self.processing["state"] == "succeeded")


@frozen
class Typing:
    """That an account, or a person, let the other one see that it types."""

    sender_id: str
    recipient_id: str


@frozen
class Reading:
    """That an account, or a person, has read what the other one wrote, up to an event."""

    sender_id: str
    recipient_id: str
    last_read_event_id: str


@frozen
class Delivery:
    """What became of a webhook.

    Args:
        url: where it went.
        body: what it said.
        statuses: what it was answered, try by try; 0 if nothing was.
    """

    url: str
    body: bytes = field(repr=False)
    statuses: tuple[int, ...]


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
        endpoint: its name, such as ``direct_messages.send``; empty if there is no such call.
        reason: why it was refused, for people; empty if it was not.
        number: its place among all requests, from 1.
    """

    at: float
    account: str | None
    method: str
    path: str = field(repr=False)
    status: int
    fault: str | None = None
    endpoint: str = ""
    reason: str = ""
    number: int = 0


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
