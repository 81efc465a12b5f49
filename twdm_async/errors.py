"""The error tree, and what each error says about the message that was sent.

::

    TwdmError
    ├── InvalidInput             (also ValueError) refused here, before anything was sent or spent
    ├── QuotaWaitTooLong         the quota frees a slot later than the caller is willing to wait
    ├── QuotaQueueFull           too many calls wait for the quota already
    ├── QuotaStoreFailed         the quota store cannot be read or written, so nothing was sent
    ├── ConnectFailed            no connection, or no answer to a call that may be repeated
    ├── ClientClosed             (also RuntimeError) the client was closed before the request was sent
    ├── WrongEventLoop           (also RuntimeError) the client belongs to another event loop or another process
    ├── IncompatibleAiohttp      (also RuntimeError) the installed aiohttp does not tell when a request leaves
    ├── InternalError            (also RuntimeError) a bug in this library
    ├── OutboxFailed             the outbox's file or database could not be read or written
    ├── DatabaseFailed           the tables in a PostgreSQL database could not be created, changed or checked
    ├── InboxFailed              the inbox's file or database could not be read or written
    ├── MediaFailed              the API could not process an uploaded file, or a download is too large
    ├── DeliveryUnknown          (also RuntimeError) the request was sent, and no readable answer came
    ├── MalformedResponse        an answer came, but not in the form that the endpoint answers in
    └── ResponseError            the API refused the request
        ├── BadRequest           400 and every other 4xx without a class of its own
        ├── Unauthorized         401, or codes 32, 89, 99, 135, 215
        ├── Forbidden            403
        │   ├── NotAllowlisted        the account may not use custom profiles
        │   ├── RecipientUnreachable  this person cannot be sent messages
        │   └── LooksAutomated        the spam filter stopped the message; pause, and change its text
        ├── NotFound             404 and 410
        ├── RateLimited          429 and 420, or code 88
        └── ServerError          5xx

Every error has its facts as fields, can be pickled and copied, and contains neither a secret nor the
text of a message. All of them have these two fields:

``delivered``
    ``"no"``: the server did not do what was asked. ``"yes"``: it did. ``"unknown"``: it may have done it.
``safe_to_retry``
    ``True`` if the same call can be repeated without the risk that the server does it twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from attrs import define, fields

__all__ = [
    "BadRequest",
    "ClientClosed",
    "ConnectFailed",
    "DatabaseFailed",
    "DeliveryUnknown",
    "Forbidden",
    "InboxFailed",
    "IncompatibleAiohttp",
    "InternalError",
    "InvalidInput",
    "LooksAutomated",
    "MalformedResponse",
    "MediaFailed",
    "NotAllowlisted",
    "NotFound",
    "OutboxFailed",
    "QuotaQueueFull",
    "QuotaStoreFailed",
    "QuotaWaitTooLong",
    "RateLimited",
    "RecipientUnreachable",
    "ResponseError",
    "ServerError",
    "TwdmError",
    "Unauthorized",
    "WrongEventLoop",
]

Delivered = Literal["no", "unknown", "yes"]

Subject = Literal["message", "account", "unclear", "intermediary"]
"""What a refusal is about; see :attr:`ResponseError.subject`."""

_ABOUT_THE_MESSAGE = frozenset(
    {17, 38, 44, 50, 63, 108, 120, 150, 151, 187, 195, 214, 226, 323, 324, 325, 349, 354, 386, 407, 476}
)
_ABOUT_THE_ACCOUNT = frozenset({32, 64, 68, 87, 89, 92, 93, 99, 135, 200, 215, 220, 251, 261, 416, 417, 453})
_LOCKED_OR_NOT_FOLLOWED = 326  # one code means both; the API's words tell which


def _restore(cls: type[TwdmError], facts: dict[str, Any]) -> TwdmError:
    return cls(**facts)


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class TwdmError(Exception):
    """The root of every error this library raises on purpose."""

    delivered: Delivered = "no"
    safe_to_retry: bool = False

    def __str__(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        facts = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(type(self)) if field.repr)
        return f"{type(self).__name__}({', '.join(facts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {field.name: getattr(self, field.name) for field in fields(type(self))}
        return _restore, (type(self), facts)


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class InvalidInput(TwdmError, ValueError):
    """An argument is wrong. Nothing was sent, and no quota was spent.

    Args:
        parameter: the name of the argument that is wrong.
        problem: what is wrong with it, without repeating its value.
    """

    parameter: str
    problem: str

    def __str__(self) -> str:
        return f"{self.parameter}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class QuotaWaitTooLong(TwdmError):
    """The call would have to wait longer for quota than ``max_wait`` allows. Nothing was sent.

    Args:
        endpoint: the endpoint's name, such as ``direct_messages.send``.
        scope: whose quota it is, ``"user"`` or ``"app"``.
        wait: seconds until a slot is free, at the earliest.
        retry_at: the time at which that is (UTC).
        limit: how many requests the quota allows in ``per`` seconds; infinity if no quota is documented and the wait is
            what the server asked for.
        per: the quota's window in seconds; 0 if no quota is documented.
    """

    endpoint: str
    scope: str
    wait: float
    retry_at: datetime
    limit: float
    per: float
    safe_to_retry: bool = True

    def __str__(self) -> str:
        quota = f"the {self.scope} quota ({self.limit:g} in {self.per:g} s) frees a slot in"
        if not self.per:
            quota = "the server asked to wait for"
        return (
            f"{self.endpoint}: {quota} {self.wait:{'.0f' if self.wait >= 100 else '.3g'}} s at the earliest; "
            f"try again at {self.retry_at.isoformat(timespec='seconds')}"
        )


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class QuotaQueueFull(TwdmError):
    """The wait queue of this quota is full (``max_waiting``). Nothing was sent.

    Args:
        endpoint: the endpoint's name.
        waiting: how many calls wait.
    """

    endpoint: str
    waiting: int
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.waiting} calls wait for quota already, and no more may (max_waiting)"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class QuotaStoreFailed(TwdmError):
    """The quota store could not be read or written, or its data cannot be trusted. Nothing was sent.

    Args:
        store: the store, such as ``sqlite:////var/lib/app/quota.db``; never with a password.
        problem: what is wrong, and what to do about it.
    """

    store: str
    problem: str
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"quota store {self.store}: {self.problem}; nothing was sent"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ConnectFailed(TwdmError):
    """No connection could be made, and nothing was sent; or no answer came to a call that can be repeated without harm.

    Args:
        endpoint: the endpoint's name.
        problem: what went wrong, such as ``"connection refused"``.
        host: scheme and host that the request was for.
    """

    endpoint: str
    problem: str
    host: str = ""
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"{self.endpoint}: {f'{self.host}: ' if self.host else ''}{self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ClientClosed(TwdmError, RuntimeError):
    """The client was closed before the request was sent, or before it was sent again; in that case, ``delivered`` tells
    what is known of the earlier attempt.
    """

    endpoint: str

    def __str__(self) -> str:
        sent = "nothing was sent" if self.delivered == "no" else "an earlier attempt left and was not answered"
        return f"{self.endpoint}: the client is closed; {sent}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class WrongEventLoop(TwdmError, RuntimeError):
    """The client was used outside the event loop, or the process, in which it was first used. Nothing was sent.

    Args:
        problem: where it was used instead.
    """

    problem: str

    def __str__(self) -> str:
        return f"{self.problem}; make a client for each event loop and each process"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class IncompatibleAiohttp(TwdmError, RuntimeError):
    """The installed aiohttp sends requests in a way that this library does not know. Nothing was sent, because
    the library could not tell whether a message has left.

    Args:
        problem: what is wrong, and with which version.
    """

    problem: str

    def __str__(self) -> str:
        return f"{self.problem}; install a version that twdm_async supports (pip install --upgrade twdm_async)"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class InternalError(TwdmError, RuntimeError):
    """A bug in this library. Please report it; the error contains no key and no message text.

    Args:
        problem: the class of the unexpected exception, and the line that raised it.
    """

    problem: str

    def __str__(self) -> str:
        return f"twdm_async made a mistake ({self.problem}); please report it"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class OutboxFailed(TwdmError):
    """The file or database of an outbox could not be read or written, or its data cannot be trusted. It is unchanged,
    unless `is_unsure` is true. Putting a message again under the same key does no harm.

    Args:
        path: the path of the file, or the address of the database.
        problem: what is wrong, and what to do about it.
        is_unsure: whether the change may have been made all the same.
    """

    path: str
    problem: str
    is_unsure: bool = False

    def __str__(self) -> str:
        return f"outbox {self.path}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class DatabaseFailed(TwdmError):
    """The tables in a PostgreSQL database could not be created, changed or checked. They are unchanged.

    Args:
        address: the address of the database, without user and password.
        problem: what is wrong, and what to do about it.
    """

    address: str
    problem: str

    def __str__(self) -> str:
        return f"database {self.address}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class InboxFailed(TwdmError):
    """The file or database in which received events are kept could not be read or written. Nothing was handled.

    Args:
        path: the path of the file, or the address of the database.
        problem: what is wrong, and what to do about it.
        is_unsure: whether the change may have been made all the same.
    """

    path: str
    problem: str
    is_unsure: bool = False

    def __str__(self) -> str:
        return f"inbox {self.path}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class MediaFailed(TwdmError):
    """The API could not process an uploaded file, or a file to be downloaded is larger than allowed.

    Args:
        endpoint: the endpoint's name.
        problem: what is wrong with the file, in the API's words if it gave any.
        media_id: the file's media id, if it has one.
    """

    endpoint: str
    problem: str
    media_id: str | None = None

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class DeliveryUnknown(TwdmError, RuntimeError):
    """The request was sent, and no readable answer came: the server may or may not have done what was asked.

    The library never repeats such a request by itself, since the API has no idempotency key and the message could
    arrive twice. ``client.direct_messages.reconcile(error)`` finds out whether a message arrived.

    Args:
        endpoint: the endpoint's name.
        problem: what happened instead of an answer.
        sent_at: when the attempt was made (UTC), as in its signature.
        ended_at: when the attempt was given up (UTC).
        status: the HTTP status, if a reply came.
        codes: the API's error codes, if it gave any.
        recipient_id: the recipient's user id, if the request sent a message.
        custom_profile_id: the profile the message was sent under.
        fingerprint: a keyed hash of the message's text (and of its attachments), made with the account's keys. It tells
            texts apart and does not reveal them.
    """

    endpoint: str
    problem: str
    sent_at: datetime
    ended_at: datetime | None = None
    status: int | None = None
    codes: tuple[int, ...] = ()
    recipient_id: str | None = None
    custom_profile_id: str | None = None
    fingerprint: str | None = None
    delivered: Delivered = "unknown"

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.problem}; it cannot be told whether the server acted on it"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class MalformedResponse(TwdmError):
    """The answer is not in the form that the endpoint answers in: broken JSON, HTML, a missing object.

    Args:
        endpoint: the endpoint's name.
        status: the HTTP status.
        problem: what is wrong with the answer, without quoting it.
        sent_at: when the attempt was made (UTC).
    """

    endpoint: str
    status: int
    problem: str
    sent_at: datetime | None = None
    delivered: Delivered = "unknown"
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"{self.endpoint}: HTTP {self.status}, {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ResponseError(TwdmError):
    """The API, or a proxy in between, refused the request.

    Args:
        endpoint: the endpoint's name.
        status: the HTTP status.
        codes: the API's error codes, in its order; empty if it gave none.
        messages: the API's error messages, in the same order.
        sent_at: when the attempt was made (UTC).
    """

    endpoint: str
    status: int
    codes: tuple[int, ...] = ()
    messages: tuple[str, ...] = ()
    sent_at: datetime | None = None

    @property
    def subject(self) -> Subject:
        """The subject of the refusal.

        ``"message"``: this recipient or this wording; other messages can be sent. ``"account"``: the account, its keys
        or the app; every message is refused. ``"unclear"``: the API's answer does not tell. ``"intermediary"``: the
        answer has no error code of the API, so it came from a proxy, a firewall or a login page in between, and the
        same request may succeed later.
        """
        if not self.codes:
            return "intermediary"
        codes, words = frozenset(self.codes), " ".join(self.messages).lower()
        if codes & _ABOUT_THE_ACCOUNT or (_LOCKED_OR_NOT_FOLLOWED in codes and "locked" in words):
            return "account"
        if codes & _ABOUT_THE_MESSAGE or (_LOCKED_OR_NOT_FOLLOWED in codes and "follow" in words):
            return "message"
        return "unclear"

    def __str__(self) -> str:
        codes = f", code {', '.join(map(str, self.codes))}" if self.codes else ""
        words = f": {'; '.join(self.messages)}" if self.messages else ""
        by = "" if self.codes else " (no error code of the API: something in between answered, such as a proxy)"
        return f"{self.endpoint}: HTTP {self.status}{codes}{words}{by}"


class BadRequest(ResponseError):
    """The API found the request invalid (HTTP 400 and other 4xx)."""


class Unauthorized(ResponseError):
    """The API did not accept the keys, the signature or the clock (HTTP 401; codes 32, 89, 99, 135, 215)."""


class Forbidden(ResponseError):
    """The account may not do this (HTTP 403)."""


class NotAllowlisted(Forbidden):
    """The account may not use custom profiles: it must be verified *and* on the allow-list."""

    def __str__(self) -> str:
        return (
            f"{super().__str__()} (custom profiles need a posting account that is verified and on the "
            "allow-list; ask X for access for this account and app)"
        )


class RecipientUnreachable(Forbidden):
    """This person cannot be sent messages: they have blocked the account, take no messages from it, or are suspended
    (codes 63, 150, 349, 476; 326 if its words say that the person does not follow).
    """


class LooksAutomated(Forbidden):
    """The API's spam filter stopped this message (code 226). It will stop it again; change its text."""


class NotFound(ResponseError):
    """The object or page does not exist (HTTP 404, 410)."""


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class RateLimited(ResponseError):
    """The quota is spent, by the server's count (HTTP 429, 420; code 88).

    Args:
        retry_at: when to try again (UTC), if the server said so.
    """

    retry_at: datetime | None = None
    safe_to_retry: bool = True


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ServerError(ResponseError):
    """The server failed (HTTP 5xx). Raised only for calls that can be repeated without harm."""

    delivered: Delivered = "unknown"
    safe_to_retry: bool = True
