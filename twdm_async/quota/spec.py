"""What a quota is, and which ones the API documents."""

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
    """Those signed with one access token."""
    APP = "app"
    """Those of every account that uses one consumer key."""


class Priority(enum.IntEnum):
    """Who goes first where calls wait for the same quota: every waiting interactive call before any bulk one."""

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
        InvalidInput: one of them is not that.
    """

    limit: int = field(validator=valid(checked_count, 1, MOST))
    per: float = field(validator=valid(checked_number))
    scope: Scope = field(default=Scope.USER, converter=_scope)


@frozen
class Pace:
    """How fast a burst leaves: `burst` at once, then `burst` in `per` seconds. It smooths; it is not a quota.

    Args:
        burst: requests that may leave at once, at least 1.
        per: seconds in which as many again may leave.

    Raises:
        InvalidInput: `burst` or `per` is not a positive number.
    """

    burst: int = field(validator=valid(checked_count, 1, MOST))
    per: float = field(validator=valid(checked_number))


@frozen
class ReplyCredit:
    """What a person who writes gives: so many messages to that person do not count against the quota of messages.

    Each message that a person sends opens this anew (page *Send a Direct Message*, *Rate limits*). It is used only for
    messages of which this client has heard; see :doc:`receiving`.

    Args:
        replies: messages that do not count, at least 1.
        per: seconds from the person's message on in which they must be sent.

    Raises:
        InvalidInput: `replies` or `per` is not a positive number.
    """

    replies: int = field(validator=valid(checked_count, 1, MOST))
    per: float = field(validator=valid(checked_number))


RESERVE = 1 / 3
"""The part of each quota that bulk calls leave to interactive ones, unless a table says otherwise."""


@frozen
class QuotaRow:
    """What one endpoint family has to respect.

    Args:
        quotas: all of them bind; empty if none is documented.
        pace: ``None`` leaves bursts as the quotas allow them.
        reserve: the part of each quota that bulk calls leave to interactive ones; see
            :mod:`twdm_async.quota.reserve`.
        credit: what a person who writes gives; ``None`` if everything counts.
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
    # Documented as limited, without a figure: the server's 429 is what is known about it.
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
    # Nothing is known of these; what the server's headers say is held.
    "media.upload_status": QuotaRow(),
    **{f"media_v2.{step}": QuotaRow() for step in ("upload", "initialize", "append", "finalize", "status")},
}


def _copied(rows: Mapping[str, QuotaRow]) -> Mapping[str, QuotaRow]:
    return dict(rows)


@define
class QuotaTable:
    """The quotas of every endpoint family. A table is a value: changing it makes another one.

    Args:
        rows: family name to row.
    """

    _rows: Mapping[str, QuotaRow] = field(converter=_copied)

    @classmethod
    def default(cls) -> QuotaTable:
        """The documented quotas, per account and per app (page *Rate limits* of each endpoint)."""
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
            quotas: what binds it from now on; none at all means that it is not counted.
            pace: how bursts leave; ``None`` means as fast as the quotas allow.
            reserve: the part of each quota, 0 to less than 1, that bulk calls leave to interactive ones. With 0, bulk
                calls are neither held back nor spread over the window.
            credit: what a person who writes gives; ``None`` if everything counts.

        Raises:
            InvalidInput: `family` is not a family of the table, or another argument is not of its type.
        """
        row = self[family]
        if not all(isinstance(quota, Quota) for quota in quotas):
            raise InvalidInput(parameter="quotas", problem="must be Quota, each of them")
        if pace is not None and not isinstance(pace, Pace):
            raise InvalidInput(parameter="pace", problem="must be a Pace")
        if credit == "as it is":
            credit = row.credit
        elif credit is not None and not isinstance(credit, ReplyCredit):
            raise InvalidInput(parameter="credit", problem="must be a ReplyCredit")
        return QuotaTable({**self._rows, family: QuotaRow(quotas, pace, reserve, credit)})

    def scaled(self, time_scale: float) -> QuotaTable:
        """Return a table whose windows and paces are `time_scale` times as short, for tests and demonstrations.

        Raises:
            InvalidInput: `time_scale` is not a positive number.
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
                parameter="family", problem=f"there is no endpoint family of this name; there are {', '.join(self)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)
