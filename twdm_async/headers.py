"""The quotas and the server's time from the headers of a reply, without trust in them and without I/O.

The headers are documented on the page *Rate limits*: ``x-rate-limit-remaining`` and ``x-rate-limit-reset`` (seconds
since 1970, by the server's clock). Replies to calls that post do not have them. ``Retry-After`` is not documented, but
is used if it is there.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_WAIT = 25 * 3600.0
"""Seconds. No window of this API is longer than a day; a longer wait is not believed."""

_EARLIEST, _LATEST = 1.1e9, 4.2e9  # seconds since 1970: before the API existed, and the year 2103

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@frozen
class Limits:
    """The quota headers of a reply. A value that is absent or unreadable is ``None``.

    Args:
        remaining: how many requests are left in the server's window.
        reset_in: seconds until that window ends; 0 if it has ended.
        retry_after: seconds that the server asks the client to wait.
    """

    remaining: int | None
    reset_in: float | None
    retry_after: float | None


_NOTHING_SAID = Limits(None, None, None)


def server_time(headers: Mapping[str, str]) -> float | None:
    """Return the server's time (header ``Date``) in seconds since 1970; ``None`` if it is absent or not plausible."""
    text = headers.get("Date")
    seconds = None if text is None else _moment(text)
    return seconds if seconds is not None and _EARLIEST <= seconds <= _LATEST else None


def _moment(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def read_limits(headers: Mapping[str, str], now: float) -> Limits:
    """Read the quota headers.

    Args:
        headers: the reply's headers, with names in any case.
        now: seconds since 1970, used if the reply does not have the server's time.
    """
    remaining = headers.get("x-rate-limit-remaining")
    reset = headers.get("x-rate-limit-reset")
    retry_after = headers.get("Retry-After")
    if remaining is None and reset is None and retry_after is None:
        return _NOTHING_SAID  # as for most replies
    here = server_time(headers)
    here = now if here is None else here
    reset_at, asked = _number(reset), _seconds(retry_after, here)
    return Limits(
        remaining=_number(remaining),
        reset_in=None if reset_at is None else max(0.0, reset_at - here),
        retry_after=None if asked is None else max(0.0, asked),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _seconds(text: str | None, now: float) -> float | None:
    number = _number(text)
    if number is not None or text is None:
        return number
    date = _moment(text)
    return None if date is None else date - now
