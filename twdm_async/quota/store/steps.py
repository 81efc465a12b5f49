"""What is asked of a store that must talk to something, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from twdm_async.quota.ledger import Usage
from twdm_async.quota.spec import Quota, ReplyCredit
from twdm_async.quota.store.contract import Bucket, Claim, Intent, Partner


@frozen
class Take:
    """Take a slot in every bucket of `claims`, for each of `names`, or for as many of them as there is room for.

    Args:
        claims: what is claimed.
        names: of the slots.
        lifetime: seconds after which a slot is treated as if its outcome had been seen, if it never is.
        intents: what must be written down together with some of the slots, by their names.
    """

    claims: tuple[Claim, ...]
    names: tuple[str, ...]
    lifetime: float
    intents: Mapping[str, Intent] = field(factory=dict[str, Intent], hash=False)


@frozen
class Look:
    """Tell how far the quotas of `claims` are used."""

    claims: tuple[Claim, ...]


@frozen
class Settle:
    """The outcomes of the slots called `names` were seen, or will have been in `grace` seconds."""

    buckets: tuple[Bucket, ...]
    names: tuple[str, ...]
    grace: float


@frozen
class GiveBack:
    """The slots called `names` were not used."""

    buckets: tuple[Bucket, ...]
    names: tuple[str, ...]


@frozen
class Hold:
    """Nothing leaves through `bucket` for so many seconds."""

    bucket: Bucket
    seconds: float


@frozen
class Tighten:
    """The server said that `remaining` of `quota` are left for so many seconds."""

    bucket: Bucket
    quota: Quota
    remaining: int
    seconds: float


@frozen
class BeginReply:
    """A message called `name` is about to leave to `partner`. `now` is the server's time."""

    partner: Partner
    name: str
    now: float
    credit: ReplyCredit


@frozen
class EndReply:
    """It may have arrived. `made` is when, by the server's clock, if that is known."""

    partner: Partner
    name: str
    made: float | None


@frozen
class WithdrawReply:
    """It never left."""

    partner: Partner
    name: str


@frozen
class Hear:
    """`partner` has written, at that time by the server's clock."""

    partner: Partner
    at: float


Asked = Take | Look | BeginReply
Told = Settle | GiveBack | Hold | Tighten | EndReply | WithdrawReply | Hear
Step = Asked | Told


@frozen
class Looked:
    """How far each quota of each claim is used, in their order."""

    usages: tuple[Usage, ...]


@frozen
class Taken:
    """Slots were taken.

    Args:
        count: how many, at least one.
        used: how many count now for each quota of each claim, in their order.
        then: how far the quotas are used, if there was room for fewer than were asked for.
        written: the names of those slots together with which an intent was written down.
    """

    count: int
    used: tuple[int, ...]
    then: Looked | None = None
    written: frozenset[str] = frozenset()


@frozen
class Begun:
    """Whether a message that is about to leave is free, and whether others to the same person may be."""

    is_free: bool
    is_open: bool


Answer = Looked | Taken | Begun | None
