"""JSON values, for type checkers. The type of a value is not known until it is checked."""

from __future__ import annotations

from typing import Any, TypeGuard

Json = Any


def is_object(value: Json) -> TypeGuard[dict[str, Json]]:
    """Return whether `value` is a JSON object."""
    return isinstance(value, dict)


def is_array(value: Json) -> TypeGuard[list[Json]]:
    """Return whether `value` is a JSON array."""
    return isinstance(value, list)
