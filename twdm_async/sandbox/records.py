"""The sandbox's records: accounts, messages, profiles, files, requests, quota windows, and breaches of quotas."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import IO, Any

from attrs import define, field, frozen

from twdm_async.credentials import Credentials
from twdm_async.quota.spec import Scope


@define(eq=False)
class StoredAccount:
    """An account that can use the API.

    Args:
        credentials: its keys.
        user: the user object, as the API shows it.
        allowlisted: whether it is on the allow-list for custom profiles; it must also be verified.
        permission: the permission of its access token; messages need ``"read-write-directmessages"``.
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
        """Whether the account is verified and on the allow-list."""
        return self.allowlisted and bool(self.user["verified"])


@frozen
class StoredMessage:
    """A message of an account that the sandbox has accepted.

    Args:
        id: the event's id.
        received_at: seconds on the sandbox's clock (``Clock.monotonic``).
        sender_id: the account's user id.
        recipient_id: the person's user id.
        text: the text, as it was sent; empty if there was only an attachment.
        custom_profile_id: the custom profile under which it is shown, if any.
        body: the whole ``message_create`` object, as it was sent.
        is_counted: whether it counts against the quota; free replies to a person who wrote do not.
    """

    id: str
    received_at: float
    sender_id: str
    recipient_id: str
    text: str = field(repr=False)
    custom_profile_id: str | None
    body: Mapping[str, Any] = field(repr=False)
    is_counted: bool = True

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels of the quick replies that it offers."""
        offered: Any = self.body["message_data"].get("quick_reply", {}).get("options", ())
        return tuple([one["label"] for one in offered])

    @property
    def buttons(self) -> tuple[str, ...]:
        """The labels of its buttons."""
        return tuple([one["label"] for one in self.body["message_data"].get("ctas", ())])

    @property
    def attachment(self) -> Mapping[str, Any] | None:
        """Its attachment, as it was sent."""
        attachment: Mapping[str, Any] | None = self.body["message_data"].get("attachment")
        return attachment


@frozen
class StoredProfile:
    """A custom profile. `account` is the user id of the account that owns it."""

    id: str
    account: str
    created_timestamp: str
    name: str
    media_id: str


@define(eq=False)
class Segments:
    """A file that is uploaded in segments.

    Args:
        size: the announced size of the whole file, in bytes.
        file: the temporary file that holds the segments.
        places: offset and length of each segment in `file`, by index. A segment that comes again replaces the first.
        is_finished: whether the upload was finalized.
    """

    size: int
    file: IO[bytes] = field(factory=tempfile.TemporaryFile, repr=False)
    places: dict[int, tuple[int, int]] = field(factory=dict[int, tuple[int, int]])
    is_finished: bool = False

    def __del__(self) -> None:
        self.file.close()

    def put(self, index: int, segment: bytes) -> None:
        """Store a segment."""
        start = self.file.seek(0, 2)
        self.file.write(segment)
        self.places[index] = (start, len(segment))

    def read(self, length: int | None = None) -> bytes:
        """Return the first `length` bytes of the whole file; all of them if `length` is not given."""
        parts: list[bytes] = []
        for _, (start, size) in sorted(self.places.items()):
            if length is None or sum(map(len, parts)) < length:
                self.file.seek(start)
                parts.append(self.file.read(size))
        return b"".join(parts)[:length]

    @property
    def is_whole(self) -> bool:
        """Whether no segment is missing, and their lengths add up to `size`."""
        lengths = [length for _, length in self.places.values()]
        return sorted(self.places) == list(range(len(self.places))) and sum(lengths) == self.size


@define(eq=False)
class StoredMedia:
    """An uploaded file. `account` is the user id of the account that owns it; `uses` counts the messages to which it is
    attached; `processing` is the state of its processing, as the API shows it (``None`` if it needs none).
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
        """The first 64 bytes, from which the type can be told."""
        return self.stored[:64] if isinstance(self.stored, bytes) else self.stored.read(64)

    @property
    def size(self) -> int:
        """The size of the whole file, in bytes."""
        return len(self.stored) if isinstance(self.stored, bytes) else self.stored.size

    @property
    def is_ready(self) -> bool:
        """Whether the file is uploaded and processed, so that it can be used."""
        is_there = isinstance(self.stored, bytes) or self.stored.is_finished
        return is_there and (self.processing is None or self.processing["state"] == "succeeded")


@frozen
class Typing:
    """A typing indicator, from an account to a person or the other way round."""

    sender_id: str
    recipient_id: str


@frozen
class Reading:
    """A read receipt, from an account to a person or the other way round: the sender has read everything up to the
    event `last_read_event_id`.
    """

    sender_id: str
    recipient_id: str
    last_read_event_id: str


@frozen
class Delivery:
    """A webhook delivery that has ended.

    Args:
        url: the URL, or another name for the target.
        body: the body that was sent.
        statuses: the HTTP status of the answer to each attempt, in order; 0 if there was no answer.
    """

    url: str
    body: bytes = field(repr=False)
    statuses: tuple[int, ...]


@frozen
class Received:
    """A request that the sandbox has received, whatever its outcome.

    Args:
        at: seconds on the sandbox's clock (``Clock.monotonic``).
        account: the user id of the account that signed it; ``None`` if the request was not authenticated.
        method: the HTTP method.
        path: path and query.
        status: the HTTP status of the answer, before a fault changed it; 0 if a fault kept the request from being
            carried out.
        fault: the kind of the fault that was injected, if any.
        endpoint: the name of the endpoint, such as ``direct_messages.send``; empty if there is no such endpoint.
        reason: why it was refused, as text for people; empty if it was not refused.
        number: its place among all requests since the start or the last ``clear()``, from 1.
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
    """A window of a quota, which begins with its first request.

    Args:
        family: the endpoint family.
        scope: whether it counts the requests of an account or of an app.
        owner: the account's user id, or the app's name (``Credentials.app``).
        limit: the number of requests that it allows.
        began: when it began, in seconds on the sandbox's clock (``Clock.monotonic``).
        ends: when it ends, in seconds on the sandbox's clock (``Clock.monotonic``).
        count: the number of requests that it has counted.
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
    """A request that was refused with 429 because its quota was spent. `at` is in seconds on the sandbox's clock
    (``Clock.monotonic``); `family`, `scope` and `owner` are those of the quota's window.
    """

    at: float
    family: str
    scope: Scope
    owner: str
