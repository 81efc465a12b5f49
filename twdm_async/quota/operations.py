"""The operations on the book (:mod:`twdm_async.quota.book`), and its answers. Plain data."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from zlib import crc32

from attrs import Factory, define, field, frozen

from twdm_async._forks import unique_name
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.quota.spec import Quota, ReplyCredit, Scope

if TYPE_CHECKING:
    from twdm_async.storage.contract import Cursor, Transaction

_CONVERSATION_PAGES: Final = 1024  # for each account

Subject = TypeVar("Subject", bound="Terms | Slot | Bucket | Conversant")


@frozen
class Bucket:
    """The requests that are counted together.

    Args:
        family: the endpoint family.
        scope: whose requests they are.
        owner: a name for the account or app; the name reveals no key.
        app: a name for the app that the bucket belongs to; it reveals no key either.
    """

    family: str
    scope: Scope
    owner: str
    app: str

    @property
    def name(self) -> str:
        """The name of its page in the book, which no other bucket of its app has."""
        return f"{self.family} {self.scope.value} {self.owner}"

    @property
    def pages(self) -> tuple[str, ...]:
        return (self.name,)


@frozen
class Claim:
    """A request's claim to a slot in `bucket`, which it gets only while fewer slots count than each quota's limit."""

    bucket: Bucket
    quotas: tuple[Quota, ...]


@define(eq=False)
class Terms:
    """The limits that bind the requests of one account, endpoint family and priority.

    Args:
        claims: the buckets in which a request takes a slot, in all or in none; the account's bucket comes first.
        lifetime: how long a request can take.
        keep: seconds for which slots are kept: the longest window of the client's table.
        reserve: the part of each quota that these requests leave to others. If it is not 0, these are bulk requests,
            which are also counted separately, in a second page for each bucket.
        credit: which replies are free; ``None`` if every message counts.
        server_time: returns the server's time in seconds since 1970, as far as it is known.
    """

    claims: tuple[Claim, ...]
    lifetime: RequestLifetime
    keep: float = 0.0
    reserve: float = 0.0
    credit: ReplyCredit | None = None
    server_time: Callable[[], float] = time.time
    app: str = field(init=False)
    family: str = field(init=False)
    account: str = field(init=False)
    pages: tuple[str, ...] = field(init=False)
    """The names of the pages: one for each bucket; then, for bulk requests, a second one for each bucket."""
    known: Any = field(default=(None, (), ()), init=False)
    """A cache of what a book in memory has found for these terms: the book, the ledgers, the limits."""

    def __attrs_post_init__(self) -> None:
        bucket = self.claims[0].bucket
        self.app, self.family, self.account = bucket.app, bucket.family, bucket.owner
        names = [claim.bucket.name for claim in self.claims]
        self.pages = (*names, *(f"{name} bulk" for name in names if self.reserve))

    def ticket(self, person: str) -> ReplyTicket:
        """Make a ticket for a message to the person with this user id, for one attempt to get a slot."""
        return ReplyTicket(_conversant(self.app, self.account, person), unique_name(), self.server_time())


class Intent(ABC):
    """A change of another table in the quota store's database, which is made in the transaction that takes a slot."""

    @abstractmethod
    def write(self, transaction: Transaction) -> Cursor:
        """Make the change, within the transaction. It has succeeded if the cursor tells that a row was changed."""

    @abstractmethod
    def withdraw(self, transaction: Transaction) -> None:
        """Undo the change, within a later transaction, because the slot was not used."""


def _page_of(conversant: Conversant) -> str:
    return f"conversations {conversant.owner} {crc32(conversant.person.encode()) % _CONVERSATION_PAGES}"


@frozen
class Conversant:
    """A person to whom an account writes.

    Args:
        app: a name for the app that the account belongs to; the name reveals no key.
        owner: a name for the account; it reveals no key either.
        person: the person's user id.
    """

    app: str
    owner: str
    person: str
    page: str = field(default=Factory(_page_of, takes_self=True), init=False)
    """The name of the page that has the conversation. Each account has a bounded number of these pages."""

    @property
    def pages(self) -> tuple[str, ...]:
        return (self.page,)


_conversant = lru_cache(maxsize=1024)(Conversant)  # for people who get several messages in a short time


@define
class ReplyTicket:
    """A message to a person that is about to leave.

    Args:
        conversant: the person.
        name: a name that no other message of the account has.
        now: the present time by the server's clock, in seconds since 1970.
    """

    conversant: Conversant
    name: str
    now: float


@define(eq=False)
class Slot:
    """The right to send one request. It must be settled or given back exactly once.

    Args:
        terms: the terms on which it was taken.
        buckets: the names of the pages in which it counts; empty if the request is free.
        lease_end: when it counts as settled if nobody settles it, by the book's clock.
        send_by: when the request's first byte must have left, by the machine's uptime.
        ticket: the ticket of its message, if free replies are accounted for.
        is_open: whether other messages to the same person may be free.
        intent: the intent that was written together with it.
    """

    terms: Terms
    buckets: tuple[str, ...]
    lease_end: float = 0.0
    send_by: float = math.inf
    ticket: ReplyTicket | None = None
    is_open: bool = False
    intent: Intent | None = None

    @property
    def app(self) -> str:
        return self.terms.app

    @property
    def pages(self) -> tuple[str, ...]:
        return self.buckets if self.ticket is None else (*self.buckets, self.ticket.conversant.page)


@define(eq=False)
class Operation(Generic[Subject]):
    """An operation on the book of one app.

    Args:
        about: the subject of the operation, which tells the app and the pages of the book that are needed.
    """

    about: Subject
    noted_at: float = field(default=0.0, init=False)
    """When the operation was noted, by the machine's uptime."""
    age: float = field(default=0.0, init=False)
    """Seconds from when the operation was noted until it is applied."""

    @property
    def app(self) -> str:
        return self.about.app

    @property
    def pages(self) -> tuple[str, ...]:
        """The names of the pages of the book that the operation needs."""
        return self.about.pages


@define(eq=False)
class Take(Operation[Terms]):
    """An order to take `count` slots, or as many as there is room for; each in every bucket of the terms.

    Args:
        about: the terms.
        count: how many slots are wanted; 1 if there is a `ticket` or an `intent`. 0 only loads the pages.
        ticket: the ticket of the message, if free replies are accounted for.
        may_spend: whether the message may use up quota; if not, it gets a slot only as a free reply.
        intent: what is written together with the slot.
    """

    count: int = 1
    ticket: ReplyTicket | None = None
    may_spend: bool = True
    intent: Intent | None = None

    @property
    def pages(self) -> tuple[str, ...]:
        return self.about.pages if self.ticket is None else (*self.about.pages, self.ticket.conversant.page)


@define(eq=False)
class Settle(Operation[Slot]):
    """A note that the outcome of the slot's request was seen; or, with a `grace` in seconds, that nobody waits for it
    any longer. `made` and `message_id` are the creation time and the id of the message that was sent, as far as known.
    """

    grace: float = 0.0
    made: float | None = None
    message_id: str | None = None


@define(eq=False)
class GiveBack(Operation[Slot]):
    """A note that for `count` slots like this one, no byte of the request left the machine."""

    count: int = 1


@define(eq=False)
class Hold(Operation[Bucket]):
    """A note that no request of the bucket may leave for so many seconds. Of several holds, the latest end is valid."""

    seconds: float


@define(eq=False)
class Tighten(Operation[Bucket]):
    """A note that the server has `remaining` requests of `quota` left in its window, which ends in so many seconds."""

    quota: Quota
    remaining: int
    seconds: float


@define(eq=False)
class Heard(Operation[Conversant]):
    """A note that a person has written to the account; or, with a `message_id`, that the account has written to the
    person, through whichever client. `at` is when, in seconds since 1970 by the server's clock; `credit` tells which
    replies are free.
    """

    at: float
    credit: ReplyCredit
    message_id: str | None = None


@define(eq=False)
class Granted:
    """The answer that `count` slots were taken, all like `slot`."""

    slot: Slot
    count: int


@frozen
class Wait:
    """The answer that there is no slot now.

    Args:
        scope: the scope of the bucket that will be free last.
        seconds: seconds until it is worth asking again.
        held_for: seconds for which not even a free reply may leave.
    """

    scope: Scope
    seconds: float
    held_for: float = 0.0


Note = Settle | GiveBack | Hold | Tighten | Heard
Answer = Granted | Wait | None
