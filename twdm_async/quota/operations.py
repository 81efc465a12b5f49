"""What is asked of the book (:mod:`twdm_async.quota.book`), and what it answers. Plain data."""

from __future__ import annotations

import math
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
    """What is counted together.

    Args:
        family: the endpoint family.
        scope: whose requests.
        owner: which account or app, by a name that gives no key away.
        app: the app it belongs to, by such a name.
    """

    family: str
    scope: Scope
    owner: str
    app: str

    @property
    def name(self) -> str:
        """What tells it from other buckets of its app: the name of its page in the book."""
        return f"{self.family} {self.scope.value} {self.owner}"

    @property
    def pages(self) -> tuple[str, ...]:
        return (self.name,)


@frozen
class Claim:
    """That a request needs a slot in `bucket`, in which fewer than each quota's limit may count."""

    bucket: Bucket
    quotas: tuple[Quota, ...]


@define(eq=False)
class Terms:
    """What a request of one account, endpoint family and priority has to respect.

    Args:
        claims: the buckets it takes a slot in, all or none; that of the account comes first.
        lifetime: how long a request can take.
        keep: seconds for which slots are kept: the longest window of the client's table.
        reserve: the part of each quota that these requests leave to the others. If it is not 0, these are bulk
            requests, which are counted by themselves once more, in a second page for each bucket.
        credit: which replies are free.
    """

    claims: tuple[Claim, ...]
    lifetime: RequestLifetime
    keep: float = 0.0
    reserve: float = 0.0
    credit: ReplyCredit | None = None
    app: str = field(init=False)
    family: str = field(init=False)
    account: str = field(init=False)
    pages: tuple[str, ...] = field(init=False)
    """The names of the pages: of all the buckets, and then for bulk requests, of all of them once more."""
    known: Any = field(default=(None, (), ()), init=False)
    """What a book in memory found for them, so that it need not look again: the book, ledgers, limits."""

    def __attrs_post_init__(self) -> None:
        bucket = self.claims[0].bucket
        self.app, self.family, self.account = bucket.app, bucket.family, bucket.owner
        names = [claim.bucket.name for claim in self.claims]
        self.pages = (*names, *(f"{name} bulk" for name in names if self.reserve))


class Intent(ABC):
    """What the owner of another table beside a quota store's writes in the transaction in which a slot is taken."""

    @abstractmethod
    def write(self, transaction: Transaction) -> Cursor:
        """Write it, within the transaction. It could be done if a row was changed."""

    @abstractmethod
    def withdraw(self, transaction: Transaction) -> None:
        """Undo it, within a later transaction: the slot was not used."""


def _page_of(conversant: Conversant) -> str:
    return f"conversations {conversant.owner} {crc32(conversant.person.encode()) % _CONVERSATION_PAGES}"


@frozen
class Conversant:
    """A person an account writes to.

    Args:
        app: the app the account belongs to, by a name that gives no key away.
        owner: the account, by such a name.
        person: the user id.
    """

    app: str
    owner: str
    person: str
    page: str = field(default=Factory(_page_of, takes_self=True), init=False)
    """The name of the page that the conversation is on. There is a bounded number of them for each account."""

    @property
    def pages(self) -> tuple[str, ...]:
        return (self.page,)


_conversant = lru_cache(maxsize=1024)(Conversant)  # of those who are written to now, more than once


@define
class ReplyTicket:
    """A message to a person that is about to leave.

    Args:
        conversant: the person.
        name: what tells it from the account's other messages.
        now: seconds since 1970 by the server's clock.
    """

    conversant: Conversant
    name: str
    now: float


@define(eq=False)
class Recipient:
    """The recipient of a message, for the accounting of free replies.

    Args:
        person: the user id.
        server_time: tells the server's time in seconds since 1970, as far as it is known.
    """

    person: str
    server_time: Callable[[], float]

    def ticket(self, terms: Terms) -> ReplyTicket:
        """Make a ticket of the message, for one attempt to get a slot on these terms."""
        return ReplyTicket(_conversant(terms.app, terms.account, self.person), unique_name(), self.server_time())


@define(eq=False)
class Slot:
    """The right to send one request. It must be settled or given back exactly once.

    Args:
        terms: what it was taken on.
        buckets: the names of the buckets in which it counts; none if the request is free.
        lease_end: by the book's clock, when it counts as settled if nobody settles it.
        send_by: by the machine's uptime, when its first byte must have left.
        ticket: the message it is for, if free replies are accounted for.
        is_open: whether other messages to the same person may be free.
        intent: what was written together with it.
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
    """Something that is done to the book of one app.

    Args:
        about: what it is about; this tells the app, and the pages of the book that are needed.
    """

    about: Subject
    noted_at: float = field(default=0.0, init=False)
    """When it was noted, by the machine's uptime."""
    age: float = field(default=0.0, init=False)
    """Seconds since it was noted, in the moment in which it is applied."""

    @property
    def app(self) -> str:
        return self.about.app

    @property
    def pages(self) -> tuple[str, ...]:
        """The names of the pages of the book that it needs."""
        return self.about.pages


@define(eq=False)
class Take(Operation[Terms]):
    """Take a slot in every bucket of the terms, or in none; so many times, or as often as there is room.

    Args:
        about: what is to be respected.
        count: how many slots are wanted; one if there is a `ticket` or an `intent`. 0 only loads their pages.
        ticket: the message it is for.
        may_spend: whether it may take a slot, or only be let through as a free reply.
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
    """Note that the outcome of the slot's request was seen; or, with a `grace` in seconds, that nobody looks for it any
    longer. `made` and `message_id` are what the server says of the message, if it was one.
    """

    grace: float = 0.0
    made: float | None = None
    message_id: str | None = None


@define(eq=False)
class GiveBack(Operation[Slot]):
    """Note that of `count` slots like this one, no byte of the request left the machine."""

    count: int = 1


@define(eq=False)
class Hold(Operation[Bucket]):
    """Let nothing leave through the bucket for so many seconds. Holds join to the later end."""

    seconds: float


@define(eq=False)
class Tighten(Operation[Bucket]):
    """Note that the server has `remaining` of `quota` left in its window, which ends in so many seconds."""

    quota: Quota
    remaining: int
    seconds: float


@define(eq=False)
class Heard(Operation[Conversant]):
    """Note that a person has written to the account; or, with a `message_id`, that the account has written to the
    person, whoever did it. `at` is when, in seconds since 1970 by the server's clock; `credit` is what that may give.
    """

    at: float
    credit: ReplyCredit
    message_id: str | None = None


@define(eq=False)
class Granted:
    """So many slots were taken, all alike."""

    slot: Slot
    count: int


@frozen
class Wait:
    """There is no slot now.

    Args:
        scope: of the bucket that will be free last.
        seconds: until it is worth asking again.
        held_for: seconds for which not even a free reply may leave.
    """

    scope: Scope
    seconds: float
    held_for: float = 0.0


Note = Settle | GiveBack | Hold | Tighten | Heard
Answer = Granted | Wait | None
