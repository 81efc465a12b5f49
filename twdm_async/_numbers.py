"""Checks of numbers that a caller passes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from twdm_async.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrs import Attribute

# Between these limits, floating-point arithmetic is exact enough. A billion seconds are 31 years.
_LEAST: Final = 1e-6
MOST: Final = 1e9


def checked_number(
    value: float, parameter: str, least: float = _LEAST, most: float = MOST, kind: str = "number"
) -> float:
    """Return `value`, if it is a number from `least` to `most`.

    Raises:
        InvalidInput: `value` is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        limits = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise InvalidInput(parameter=parameter, problem=f"must be a {kind} {limits}")
    return value


def checked_count(value: int, parameter: str, least: int = 1, most: float = math.inf) -> int:
    """Return `value`, if it is a whole number from `least` to `most`.

    Raises:
        InvalidInput: `value` is anything else.
    """
    checked_number(value if isinstance(value, int) else math.nan, parameter, least, most, "whole number")
    return value


def checked_seconds(value: float, parameter: str, most: float = MOST) -> float:
    """Return `value`, if it is a number of seconds, 0 or more.

    Raises:
        InvalidInput: `value` is anything else.
    """
    return checked_number(value, parameter, 0, most, "number of seconds")


def checked_part(value: float, parameter: str) -> float:
    """Return `value`, if it is a part of a whole: 0 or more, and less than 1.

    Raises:
        InvalidInput: `value` is anything else.
    """
    return checked_number(value, parameter, 0, math.nextafter(1.0, 0.0), "number below 1,")


def valid(check: Callable[..., Any], *limits: float) -> Callable[[object, Attribute[Any], Any], None]:
    """Make a validator for an attrs field out of one of these checks."""

    def validate(_: object, attribute: Attribute[Any], value: Any) -> None:
        check(value, attribute.name, *limits)

    return validate
