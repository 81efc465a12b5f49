"""What a limiter asks of the place where the ledgers live.

A store may be shared by several clients, processes or hosts; what they share is then one count. Each step is all or
nothing. Only :meth:`QuotaStore.take` and :meth:`QuotaStore.look` wait for I/O. The other steps are told and not
awaited: a store that has to talk to something keeps them in order behind the scenes, and if one is lost, the slot it
was about goes on counting.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, Self

from attrs import define, frozen

from twdm_async._forks import forks
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.parking import Parking
from twdm_async.quota.spec import Priority, Quota, ReplyCredit, Scope, checked_part

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from twdm_async.quota.ledger import Usage


@frozen(cache_hash=True)
class Bucket:
    """What is counted together.

    Args:
        family: the endpoint family.
        scope: whose requests.
        owner: which account or app, by a name that gives no key away.
        app: the app it belongs to, by such a name.
        share: ``None`` for all requests, or the priority of those that are counted here once more.
    """

    family: str
    scope: Scope
    owner: str
    app: str
    share: Priority | None = None

    @property
    def name(self) -> str:
        """What tells it from other buckets of its app, in any store."""
        share = "" if self.share is None else f" {self.share.name.lower()}"
        return f"{self.family} {self.scope.value} {self.owner}{share}"


@frozen(cache_hash=True)
class Claim:
    """That a request needs a slot in `bucket`, in which fewer than each quota's limit may count."""

    bucket: Bucket
    quotas: tuple[Quota, ...]


UNLIMITED: Final = Quota(1_000_000_000, per=1e-6)
"""Stands where no quota is documented: it never binds, and only a hold can close its bucket."""


@frozen
class Intent:
    """A row of an outbox that goes from waiting to sending in the moment in which a slot is taken for it. Only a store
    that :meth:`~QuotaStore.shares` the outbox' file can do that.

    Args:
        row: its number.
        owner: who works on it; it is not for anybody else.
        server_time: tells the server's time in seconds since 1970, as far as it is known.
    """

    row: int
    owner: str
    server_time: Callable[[], float]


@frozen(cache_hash=True)
class Partner:
    """Somebody an account writes to.

    Args:
        app: the app it belongs to, by a name that gives no key away.
        owner: the account, by such a name.
        person: the user id.
    """

    app: str
    owner: str
    person: str


@frozen
class Answering:
    """Whom a message is for that waits to leave.

    Args:
        person: the user id.
        server_time: tells the server's time in seconds since 1970, as far as it is known.
    """

    person: str
    server_time: Callable[[], float]


@frozen
class Reply:
    """A message to a person that is about to leave. It must be told as sent or unsent exactly once.

    Args:
        partner: who gets it.
        name: what the store knows it by.
        is_free: whether the server is certain not to count it.
        is_open: whether others to the same person may be free.
    """

    partner: Partner
    name: str = ""
    is_free: bool = False
    is_open: bool = False


@define(eq=False)
class Slot:
    """The right to send one request. It must be settled or given back exactly once.

    Args:
        claims: what it counts in.
        name: what the store knows it by.
        send_by: by the monotonic clock, when the request must have left, or else the slot must be given back.
        intended: whether an intent was written down with it.
        reply: what was noted of the message that it is for.
    """

    claims: tuple[Claim, ...]
    name: str = ""
    send_by: float = math.inf
    intended: bool = False
    reply: Reply | None = None


@frozen
class Wait:
    """There is no slot now.

    Args:
        bucket: the one that will be free last.
        seconds: until it is worth asking again.
    """

    bucket: Bucket
    seconds: float


@frozen
class Lifetime:
    """How long a request can take, in seconds.

    A request leaves within `to_send` of its slot, or not at all. Then a connection is had within the timeout of an
    attempt, the reply comes within another one, and whoever waited for it says so at once. Where no reply was seen, the
    server acts within `grace` of the moment in which it was given up, or never: what was on its way by then has arrived
    or is lost.

    Args:
        to_send: from its slot to the beginning of its attempt.
        to_settle: from then until its outcome is known, or the server can no longer count it.
        grace: from the moment in which nobody waits for a reply any longer until the server can no longer count it.
        whole: all of it, with another timeout for a process that notices late: what has not been done by then never
            will be.
    """

    to_send: float
    to_settle: float
    grace: float = 0.0
    whole: float = 0.0

    @classmethod
    def from_timeout(cls, timeout: float) -> Lifetime:
        """The lifetime of requests of which an attempt may take `timeout` seconds from the connection on."""
        return cls(to_send=timeout, to_settle=3 * timeout, grace=2 * timeout, whole=5 * timeout)


class QuotaStore(ABC):
    """Keeps the ledgers of any number of buckets.

    Share one among all clients that spend the same quotas: :class:`MemoryQuotaStore` serves one process,
    :class:`SQLiteQuotaStore` one host, :class:`RedisQuotaStore` many. To write another, subclass this one.

    A store belongs to one event loop at a time. Loops that run side by side, in threads, need one each.

    Args:
        assume_spent: at the first start nothing is known of what was spent before, by whomever. This part of each
            quota, 0 to less than 1, is then taken as spent until its window is over, rounded up. 0 trusts that nothing
            was.

    Raises:
        InvalidInput: `assume_spent` is no such part.
    """

    _schemes: ClassVar[dict[str, type[QuotaStore]]] = {}

    def __init_subclass__(cls, *, schemes: tuple[str, ...] = ()) -> None:
        super().__init_subclass__()
        QuotaStore._schemes |= dict.fromkeys(schemes, cls)

    def __init__(self, *, assume_spent: float = 0.0) -> None:
        self.assume_spent = checked_part(assume_spent, "assume_spent")
        self.parking = Parking()
        """Who waits in this process."""
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that uses it
        self._forks: int | None = None  # None until it is used
        self._is_closed = False

    def _settle_in(self) -> None:
        """To be called before each use: the running loop, or this process, may be another one than before.

        Raises:
            QuotaStoreFailed: it cannot be used here.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._forks == forks():
            return
        if self._is_closed:
            raise QuotaStoreFailed(store=self.address, problem="it is closed; close it after the clients that use it")
        was_forked = self._forks not in {None, forks()}
        if self._loop is not None and self._loop is not loop and self._loop.is_running() and not was_forked:
            problem = (
                "it is in use in another event loop; make one for each loop (those of one SQLite file or one Redis "
                "still count together)"
            )
            raise QuotaStoreFailed(store=self.address, problem=problem)
        is_new = self._forks is None
        self._move_in(was_forked=was_forked, is_new=is_new)
        self._loop, self._forks = loop, forks()

    @abstractmethod
    def _move_in(self, *, was_forked: bool, is_new: bool) -> None:
        """From now on it is another loop that uses this, and another process if `was_forked`."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Which store it is, for errors and logs; never with a password."""

    @staticmethod
    def from_url(url: str, *, assume_spent: float = 0.0) -> QuotaStore:
        """The store at `url`.

        Args:
            url: ``memory://``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``, ``redis://host:port/db``,
                ``rediss://...``, ``unix://...``, ``redis+cluster://...`` or ``rediss+cluster://...``.
            assume_spent: what to believe at the first start; see :class:`QuotaStore`.

        Raises:
            InvalidInput: there is no such kind of store, or it cannot be had without an extra.
        """
        scheme = url.partition("://")[0] if isinstance(url, str) else ""
        store = QuotaStore._schemes.get(scheme)
        if store is None:
            kinds = ", ".join(QuotaStore._schemes)
            problem = f"must be like sqlite:///quota.db, and begin with one of {kinds}"
            raise InvalidInput(parameter="url", problem=problem)
        return store._at(url, assume_spent)  # noqa: SLF001 - of its own kind

    @classmethod
    def _at(cls, url: str, assume_spent: float) -> Self:
        """The store at `url`, whose scheme is one of its own."""
        raise NotImplementedError

    def shares(self, path: Path) -> bool:  # noqa: ARG002 - most have no file
        """Whether the outbox at `path` lives in this store's own file, so that it can write intents down."""
        return False

    @abstractmethod
    async def take(
        self, claims: tuple[Claim, ...], lifetime: Lifetime, most: int = 1, intent: Intent | None = None
    ) -> list[Slot] | Wait:
        """Take a slot in every bucket of `claims`, or in none; up to `most` times; just once for an `intent`.

        Raises:
            QuotaStoreFailed: it cannot be known what is spent, or not be kept.
        """

    @abstractmethod
    def settle(self, slot: Slot, grace: float = 0.0) -> None:
        """The outcome of the slot's request was seen; or, with a `grace` in seconds, nobody looks for it any longer."""

    @abstractmethod
    def give_back(self, slot: Slot) -> None:
        """No byte of the slot's request left the machine. Whoever waits for it in this process is told."""

    @abstractmethod
    def hold(self, bucket: Bucket, seconds: float) -> None:
        """Nothing leaves through `bucket` for so long. Holds join to the later end."""

    @abstractmethod
    def tighten(self, bucket: Bucket, quota: Quota, remaining: int, seconds: float) -> None:
        """The server said that `remaining` are left in its window, which ends in `seconds`."""

    async def reply(self, partner: Partner, now: float, credit: ReplyCredit) -> Reply:  # noqa: ARG002 - see below
        """Note a message to `partner` that is about to leave, and tell whether it is free; see
        :mod:`twdm_async.quota.credit`. A store that does not keep what it hears of people has none that are.

        Args:
            partner: who gets it.
            now: seconds since 1970 by the server's clock, as far as it is known.
            credit: the rule.

        Raises:
            QuotaStoreFailed: it cannot be known or kept.
        """
        return Reply(partner)

    def sent(self, reply: Reply, made: float | None) -> None:  # noqa: B027 - as above
        """The message may have arrived. `made` is when, by the server's clock, if it said so."""

    def unsent(self, reply: Reply) -> None:  # noqa: B027 - as above
        """No byte of the message left the machine."""

    def heard(self, partner: Partner, at: float) -> None:  # noqa: B027 - as above
        """`partner` has written to the account, at that time by the server's clock."""

    @abstractmethod
    def usage(self, bucket: Bucket, quota: Quota) -> Usage:
        """How far `quota` is used, as this process last knew."""

    @abstractmethod
    async def look(self, claims: Iterable[Claim]) -> None:
        """Find out how far the quotas of `claims` are used.

        Raises:
            QuotaStoreFailed: it cannot be known.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Wait until everything that was told is kept, or cannot be."""

    async def close(self) -> None:
        """Let go of files and connections. What was told is kept first. A closed store cannot be used again."""
        await self.flush()
        self._is_closed, self._loop = True, None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def assumed(quota: Quota, part: float) -> int:
    """How many slots `part` of a quota is, rounded up."""
    return math.ceil(quota.limit * part - 1e-9)
