"""What a quota is, and which quotas the API documents."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from attrs import define, evolve, field, frozen

from twdm_async._numbers import MOST, checked_count, checked_number, checked_part, valid
from twdm_async.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scope(enum.StrEnum):
    """Whose requests a quota counts."""

    USER = "user"
    """Requests signed with one access token."""
    APP = "app"
    """Requests of all accounts that use one consumer key."""


class Priority(enum.IntEnum):
    """Which calls go first when several wait for the same quota: every interactive call before any bulk call."""

    INTERACTIVE = 0
    BULK = 1


def _scope(value: Scope | str) -> Scope:
    try:
        return Scope(value)
    except ValueError:
        raise InvalidInput(parameter="scope", problem="must be a Scope: user or app") from None


@frozen
class Quota:
    """At most `limit` requests in any window of `per` seconds.

    Args:
        limit: requests, from 1 to a billion.
        per: the window in seconds, from a millionth to a billion.
        scope: whose requests are counted together: a :class:`Scope`, ``"user"`` or ``"app"``.

    Raises:
        InvalidInput: `limit` or `per` is not a number in its range, or `scope` is not a scope.
    """

    limit: int = field(validator=valid(checked_count, 1, MOST))
    per: float = field(validator=valid(checked_number))
    scope: Scope = field(default=Scope.USER, converter=_scope)


@frozen
class Pace:
    """The speed at which a burst leaves: `burst` requests at once, then `burst` more in every `per` seconds. A pace
    smooths traffic; it is not a quota.

    Args:
        burst: requests that may leave at once, from 1 to a billion.
        per: seconds in which as many again may leave, from a millionth to a billion.

    Raises:
        InvalidInput: `burst` is not a whole number in its range, or `per` is not a number in its range.
    """

    burst: int = field(validator=valid(checked_count, 1, MOST))
    per: float = field(validator=valid(checked_number))


@frozen
class ReplyCredit:
    """The free replies to a person who has written: so many messages to that person do not count against the quota of
    messages.

    Each message that a person sends renews the credit (page *Send a Direct Message*, *Rate limits*). This client uses
    the credit only after it has heard of the person's message; see :doc:`receiving`.

    Args:
        replies: messages that do not count, from 1 to a billion.
        per: seconds after the person's message in which the replies must be sent, from a millionth to a billion.

    Raises:
        InvalidInput: `replies` is not a whole number in its range, or `per` is not a number in its range.
    """

    replies: int = field(validator=valid(checked_count, 1, MOST))
    per: float = field(validator=valid(checked_number))


RESERVE = 1 / 3
"""The part of each quota that bulk calls leave to interactive ones, unless a table says otherwise."""


@frozen
class QuotaRow:
    """The limits of one endpoint family.

    Args:
        quotas: the quotas, which all bind; empty if none is documented.
        pace: how fast bursts leave; ``None`` means as fast as the quotas allow.
        reserve: the part of each quota that bulk calls leave to interactive ones, 0 to less than 1; see
            :mod:`twdm_async.quota.reserve`.
        credit: which replies are free; ``None`` if every message counts.

    Raises:
        InvalidInput: `reserve` is not a number from 0 to less than 1.
    """

    quotas: tuple[Quota, ...] = ()
    pace: Pace | None = None
    reserve: float = field(default=RESERVE, validator=valid(checked_part))
    credit: ReplyCredit | None = None


_QUARTER_HOUR, _HOUR, _DAY = 900.0, 3600.0, 86_400.0
_SMOOTH = Pace(burst=20, per=1.0)

_FIFTEEN = QuotaRow((Quota(15, per=_QUARTER_HOUR),))
_HUNDRED_EIGHTY = QuotaRow((Quota(180, per=_QUARTER_HOUR),))

_DOCUMENTED: dict[str, QuotaRow] = {
    "custom_profiles.create": QuotaRow((Quota(1000, per=_DAY),), _SMOOTH),
    "custom_profiles.get": _HUNDRED_EIGHTY,
    "custom_profiles.list": _HUNDRED_EIGHTY,
    "custom_profiles.delete": QuotaRow((Quota(1000, per=_DAY),), _SMOOTH),
    "direct_messages.send": QuotaRow(
        (Quota(1000, per=_DAY), Quota(15_000, per=_DAY, scope=Scope.APP)), _SMOOTH, credit=ReplyCredit(5, per=_DAY)
    ),
    **dict.fromkeys(("direct_messages.get", "direct_messages.list"), _FIFTEEN),
    **dict.fromkeys(
        ("direct_messages.indicate_typing", "direct_messages.mark_read"), QuotaRow((Quota(1000, per=_QUARTER_HOUR),))
    ),
    # Documented as limited, but without a figure: only the server's 429 tells when the limit is reached.
    "direct_messages.delete": QuotaRow((), _SMOOTH),
    # Not documented. Users of other clients were refused after about 50 files in 15 minutes, over all users of an app.
    "direct_messages.download": QuotaRow((Quota(50, per=_QUARTER_HOUR, scope=Scope.APP),)),
    **{f"welcome_messages.{action}": QuotaRow((), _SMOOTH) for action in ("create", "update", "delete")},
    **{f"welcome_message_rules.{action}": QuotaRow((), _SMOOTH) for action in ("create", "delete")},
    **{f"welcome_message{kind}.{action}": _FIFTEEN for kind in ("s", "_rules") for action in ("get", "list")},
    "account.update_profile": _FIFTEEN,
    "account.verify_credentials": QuotaRow((Quota(75, per=_QUARTER_HOUR),)),
    "application.rate_limit_status": _HUNDRED_EIGHTY,
    "users.get": QuotaRow((Quota(900, per=_QUARTER_HOUR),)),
    # Upload limits are not documented. These were seen in recorded replies, with windows of up to an hour.
    "media.upload": QuotaRow((Quota(415, per=_HOUR),)),
    "media.upload_init": QuotaRow((Quota(200, per=_HOUR),)),
    "media.upload_append": QuotaRow((Quota(20_000, per=_HOUR),)),
    "media.upload_finalize": QuotaRow((Quota(615, per=_HOUR),)),
    # No limits are known for these. If the server refuses a request for quota, they are held for as long as it says.
    "media.upload_status": QuotaRow(),
    **{f"media_v2.{step}": QuotaRow() for step in ("upload", "initialize", "append", "finalize", "status")},
}


def _copied(rows: Mapping[str, QuotaRow]) -> Mapping[str, QuotaRow]:
    return dict(rows)


@define
class QuotaTable:
    """The quotas of every endpoint family. A table is immutable: its methods return a changed copy.

    Args:
        rows: the row of each endpoint family, by the family's name.
    """

    _rows: Mapping[str, QuotaRow] = field(converter=_copied)

    @classmethod
    def default(cls) -> QuotaTable:
        """Return the documented quotas, per account and per app (page *Rate limits* of each endpoint)."""
        return cls(_DOCUMENTED)

    def replace(
        self,
        family: str,
        *quotas: Quota,
        pace: Pace | None = None,
        reserve: float = RESERVE,
        credit: ReplyCredit | Literal["as it is"] | None = "as it is",
    ) -> QuotaTable:
        """Return a table in which `family` has exactly these quotas and this pace.

        Args:
            family: an endpoint's name, such as ``direct_messages.send``.
            quotas: the quotas of the family in the new table; with none, its requests are not counted.
            pace: how fast bursts leave; ``None`` means as fast as the quotas allow.
            reserve: the part of each quota, 0 to less than 1, that bulk calls leave to interactive ones. With 0, bulk
                calls are neither held back nor spread over the window.
            credit: which replies are free; ``None`` if every message counts. If omitted, it stays as in this table.

        Raises:
            InvalidInput: the table has no such `family`, or another argument has the wrong type or value.
        """
        row = self[family]
        if not all(isinstance(quota, Quota) for quota in quotas):
            raise InvalidInput(parameter="quotas", problem="each must be a Quota")
        if pace is not None and not isinstance(pace, Pace):
            raise InvalidInput(parameter="pace", problem="must be a Pace")
        if credit == "as it is":
            credit = row.credit
        elif credit is not None and not isinstance(credit, ReplyCredit):
            raise InvalidInput(parameter="credit", problem="must be a ReplyCredit")
        return QuotaTable({**self._rows, family: QuotaRow(quotas, pace, reserve, credit)})

    def scaled(self, time_scale: float) -> QuotaTable:
        """Return a table whose durations (windows, paces, credits) are divided by `time_scale`, for tests and
        demonstrations.

        Raises:
            InvalidInput: `time_scale` is not a number from a millionth to a billion, or a resulting duration is not.
        """
        checked_number(time_scale, "time_scale")
        return QuotaTable(
            {
                family: QuotaRow(
                    tuple(evolve(quota, per=quota.per / time_scale) for quota in row.quotas),
                    row.pace and evolve(row.pace, per=row.pace.per / time_scale),
                    row.reserve,
                    row.credit and evolve(row.credit, per=row.credit.per / time_scale),
                )
                for family, row in self._rows.items()
            }
        )

    def __getitem__(self, family: str) -> QuotaRow:
        try:
            return self._rows[family]
        except KeyError:
            raise InvalidInput(
                parameter="family", problem=f"no endpoint family has this name; the families are {', '.join(self)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)
