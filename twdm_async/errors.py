"""The error tree, and what each error says about the message.

::

    TwdmError
    ├── InvalidInput             (also ValueError) refused here, before anything was sent or spent
    ├── QuotaWaitTooLong         the quota would free a slot later than the caller is willing to wait
    ├── QuotaQueueFull           too many calls wait for the quota already
    ├── QuotaStoreFailed         what was spent cannot be known or kept, so nothing is sent
    ├── ConnectFailed            no answer was had, and asking again can do no harm
    ├── ClientClosed             (also RuntimeError) the client was closed before the call could leave
    ├── WrongEventLoop           (also RuntimeError) the client belongs to another event loop, or another process
    ├── IncompatibleAiohttp      (also RuntimeError) the installed aiohttp does not tell when a request leaves
    ├── InternalError            (also RuntimeError) a mistake of this library
    ├── OutboxFailed             the outbox' file could not be read or written
    ├── InboxFailed              the inbox' file could not be read or written
    ├── MediaFailed              a file could not be processed by the API, or is larger than it may be
    ├── DeliveryUnknown          (also RuntimeError) bytes left, no readable answer came back
    ├── MalformedResponse        an answer came, and it is not what the endpoint answers
    └── ResponseError            the API answered, and the answer is no
        ├── BadRequest           400 and every other 4xx without a class of its own
        ├── Unauthorized         401, or codes 32, 89, 99, 135, 215
        ├── Forbidden            403
        │   ├── NotAllowlisted        the account may not use custom profiles
        │   ├── RecipientUnreachable  this person cannot be written to
        │   └── LooksAutomated        antispam stopped it; pause, and change what is sent
        ├── NotFound             404 and 410
        ├── RateLimited          429 and 420, or code 88
        └── ServerError          5xx

Every error carries its facts as fields, can be pickled and copied, and holds neither a secret nor the
text of a message. Two facts are on all of them:

``delivered``
    ``"no"``: nothing was done by the server. ``"yes"``: it was. ``"unknown"``: it cannot be told.
``safe_to_retry``
    ``True`` if the same call may be made again without the risk of doing it twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from attrs import define, fields

__all__ = [
    "BadRequest",
    "ClientClosed",
    "ConnectFailed",
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
_LOCKED_OR_NOT_FOLLOWED = 326  # one code for both; the words tell


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
    """What was given cannot be sent. Nothing left the machine and no quota was spent.

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
        wait: seconds until a slot is free, at the least.
        retry_at: when that is (UTC).
        limit: requests the quota allows in ``per`` seconds; infinity if none is documented, and the server said so.
        per: the quota's window in seconds; 0 if none is documented.
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
            f"{self.endpoint}: {quota} {self.wait:.3g} s at the earliest; "
            f"try again at {self.retry_at.isoformat(timespec='seconds')}"
        )


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class QuotaQueueFull(TwdmError):
    """So many calls wait for this quota that no more may. Nothing was sent.

    Args:
        endpoint: the endpoint's name.
        waiting: how many wait.
    """

    endpoint: str
    waiting: int
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.waiting} calls wait for quota already, and no more may (max_waiting)"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class QuotaStoreFailed(TwdmError):
    """The store that remembers what was spent could not be asked, or is not to be trusted. Nothing was sent.

    Args:
        store: which store, such as ``sqlite:////var/lib/app/quota.db``; never with a password.
        problem: what is wrong, and what to do about it.
    """

    store: str
    problem: str
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"quota store {self.store}: {self.problem}; nothing was sent"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ConnectFailed(TwdmError):
    """No answer was had. Either no byte left the machine, or the call may be repeated without harm.

    Args:
        endpoint: the endpoint's name.
        problem: what went wrong, such as ``"connection refused"``.
    """

    endpoint: str
    problem: str
    safe_to_retry: bool = True

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ClientClosed(TwdmError, RuntimeError):
    """The client was closed before the call could leave, or before it could leave again (then ``delivered`` says
    so).
    """

    endpoint: str

    def __str__(self) -> str:
        sent = "nothing was sent" if self.delivered == "no" else "an earlier attempt left and was not answered"
        return f"{self.endpoint}: the client is closed; {sent}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class WrongEventLoop(TwdmError, RuntimeError):
    """A client belongs to the event loop it is first used in, and to its process. Nothing was sent.

    Args:
        problem: where it was used instead.
    """

    problem: str

    def __str__(self) -> str:
        return f"{self.problem}; make a client for each event loop and each process"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class IncompatibleAiohttp(TwdmError, RuntimeError):
    """The installed aiohttp sends requests in a way that this library does not know. Nothing was sent, since it could
    not be told whether a message has left.

    Args:
        problem: what is wrong, and with which version.
    """

    problem: str

    def __str__(self) -> str:
        return f"{self.problem}; install a version that twdm_async supports (pip install --upgrade twdm_async)"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class InternalError(TwdmError, RuntimeError):
    """This library made a mistake. Please report it; the words hold no key and no text of a message.

    Args:
        problem: the class of the exception that was not expected, and the line that raised it.
    """

    problem: str

    def __str__(self) -> str:
        return f"twdm_async made a mistake ({self.problem}); please report it"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class OutboxFailed(TwdmError):
    """The file or database of an outbox could not be read or written, or is not to be trusted. What it holds is as it
    was, unless the error says that it may not be. To put a message again under the same key does no harm.

    Args:
        path: of the file, or the address of the database.
        problem: what is wrong, and what to do about it.
        is_unsure: whether what was asked for may have been done all the same.
    """

    path: str
    problem: str
    is_unsure: bool = False

    def __str__(self) -> str:
        return f"outbox {self.path}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False)
class DatabaseFailed(TwdmError):
    """The tables in a PostgreSQL database could not be made, changed or looked after. They are as they were.

    Args:
        address: of the database, without user and password.
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
        path: of the file, or the address of the database.
        problem: what is wrong with it, and what to do.
        is_unsure: whether what was asked for may have been done all the same.
    """

    path: str
    problem: str
    is_unsure: bool = False

    def __str__(self) -> str:
        return f"inbox {self.path}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class MediaFailed(TwdmError):
    """A file that was uploaded could not be processed by the API, or one that was to be had is larger than it may be.

    Args:
        endpoint: the endpoint's name.
        problem: what is wrong with the file, in the API's words if it said.
        media_id: of the file, if it has one.
    """

    endpoint: str
    problem: str
    media_id: str | None = None

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.problem}"


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class DeliveryUnknown(TwdmError, RuntimeError):
    """The request left, and no readable answer came back: it may have been done or not.

    It is never sent again by itself, since the API has no idempotency key and the message could arrive twice.
    ``client.direct_messages.reconcile(error)`` finds out whether a message arrived.

    Args:
        endpoint: the endpoint's name.
        problem: what happened instead of an answer.
        sent_at: when the attempt was made (UTC), as its signature said.
        ended_at: when it was given up (UTC).
        status: the HTTP status, if a reply came.
        codes: the API's error codes, if it gave some.
        recipient_id: whom the message was for, if it was a message.
        custom_profile_id: the profile it was sent under.
        fingerprint: of its text, made with the account's keys: it tells texts apart and gives none away.
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
    """The server answered with something the endpoint never answers: broken JSON, HTML, a missing object.

    Args:
        endpoint: the endpoint's name.
        status: the HTTP status.
        problem: what is wrong with the answer; the answer itself is not repeated.
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
    """The request was refused.

    Args:
        endpoint: the endpoint's name.
        status: the HTTP status.
        codes: the API's error codes, in its order; empty if it gave none.
        messages: the API's words, in the same order.
        sent_at: when the attempt was made (UTC).
    """

    endpoint: str
    status: int
    codes: tuple[int, ...] = ()
    messages: tuple[str, ...] = ()
    sent_at: datetime | None = None

    @property
    def subject(self) -> Subject:
        """What the refusal is about.

        ``"message"``: this recipient or this wording; others can be sent. ``"account"``: the account, its keys or the
        app; whatever is sent is refused. ``"unclear"``: the API's answer does not tell. ``"intermediary"``: the answer
        has no error code of the API, so it came from a proxy, a firewall or a login page in between, and the same
        request may succeed later.
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
    """The request was understood and found wrong (HTTP 400 and other 4xx)."""


class Unauthorized(ResponseError):
    """The keys, the signature or the clock were not accepted (HTTP 401; codes 32, 89, 99, 135, 215)."""


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
    """This person cannot be written to: blocked, closed to messages, suspended (codes 63, 150, 349, 476; 326 if it
    says that the person does not follow).
    """


class LooksAutomated(Forbidden):
    """The antispam guard stopped this message (code 226). It will stop it again; change what it says."""


class NotFound(ResponseError):
    """There is no such object or page (HTTP 404, 410)."""


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class RateLimited(ResponseError):
    """The server counts the quota as spent (HTTP 429, 420; code 88).

    Args:
        retry_at: when to try again (UTC), as far as the server said.
    """

    retry_at: datetime | None = None
    safe_to_retry: bool = True


@define(kw_only=True, slots=False, eq=False, str=False, repr=False)
class ServerError(ResponseError):
    """The server failed at it (HTTP 5xx). Raised only for calls that may be repeated without harm."""

    delivered: Delivered = "unknown"
    safe_to_retry: bool = True
