"""What a limiter asks of the place where the ledgers live.

A store may be shared by several clients, processes or hosts; what they share is then one quota. Each step is all or
nothing. Only :meth:`QuotaStore.take` may wait for I/O. The other steps are told and not awaited: a store that has to
talk to something keeps them in order behind the scenes, and if one is lost, the slot it was about goes on counting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import define, frozen

from twdm_async.quota.spec import Quota, Scope

if TYPE_CHECKING:
    from collections.abc import Callable


@frozen(cache_hash=True)
class Bucket:
    """One quota of one owner.

    Args:
        family: the endpoint family.
        scope: whose requests it counts.
        owner: which account or app, by a name that gives no key away.
        quota: ``None`` if none is documented: then only a hold can close it.
    """

    family: str
    scope: Scope
    owner: str
    quota: Quota | None


@define(eq=False)
class Slot:
    """The right to send one request. It must be settled or given back exactly once."""

    buckets: tuple[Bucket, ...]


@frozen
class Wait:
    """There is no slot now.

    Args:
        bucket: the one that will be free last.
        seconds: until it is worth asking again, at the least.
    """

    bucket: Bucket
    seconds: float


@frozen
class Usage:
    """How far a bucket is used, as this process last knew.

    Args:
        used: slots that count, those under way included.
        in_flight: slots of requests under way.
        free_in: seconds until a slot is free.
    """

    used: int
    in_flight: int
    free_in: float


class QuotaStore(Protocol):
    """Keeps the ledgers of any number of buckets."""

    async def take(self, buckets: tuple[Bucket, ...]) -> Slot | Wait:
        """Take a slot in all of `buckets`, or in none."""
        ...

    def settle(self, slot: Slot, grace: float = 0.0) -> None:
        """The outcome of the slot's request was seen; or, with a `grace` in seconds, nobody looks for it any longer."""
        ...

    def give_back(self, slot: Slot) -> None:
        """No byte of the slot's request left the machine. Whoever waits for it is told."""
        ...

    def hold(self, bucket: Bucket, seconds: float) -> None:
        """Nothing leaves through `bucket` for so long. Holds join to the later end."""
        ...

    def tighten(self, bucket: Bucket, remaining: int, seconds: float) -> None:
        """The server said that `remaining` are left in its window, which ends in `seconds`."""
        ...

    def free_in(self, bucket: Bucket, count: int) -> float:
        """Seconds until `count` requests can have had a slot, one after the other; at least that."""
        ...

    def usage(self, bucket: Bucket) -> Usage:
        """How far `bucket` is used."""
        ...

    def on_freed(self, listener: Callable[[Bucket], None]) -> Callable[[], None]:
        """Call `listener` when a slot was given back early. Returns what ends it."""
        ...
