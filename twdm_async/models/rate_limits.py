"""The quotas, as the API itself lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from twdm_async._json import Json, is_object
from twdm_async.models.convert import OBJECT, at


@frozen
class RateLimitWindow:
    """The state of one of the API's rate limit windows.

    Args:
        limit: how many requests the window allows.
        remaining: how many requests are left.
        reset: when the window ends, in seconds since 1970.
    """

    limit: int
    remaining: int
    reset: int


@frozen(kw_only=True)
class RateLimitStatus:
    """The windows of an account, as the page *GET application/rate_limit_status* shows them.

    Args:
        resources: the windows by group, then by path without ``/1.1`` and ``.json``, in the API's own shape.
        extra: everything else the API said.
    """

    resources: Mapping[str, Any] = field(metadata=at(OBJECT, "resources"), hash=False)
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)

    @property
    def windows(self) -> dict[str, RateLimitWindow]:
        """The windows by path; a window that cannot be read is left out."""
        listed = [group for group in self.resources.values() if is_object(group)]
        read = {path: _read(window) for group in listed for path, window in group.items()}
        return {path: window for path, window in read.items() if window is not None}


def _read(window: Json) -> RateLimitWindow | None:
    if not is_object(window):
        return None
    numbers = [window.get(key) for key in ("limit", "remaining", "reset")]
    whole = [number for number in numbers if type(number) is int and number >= 0]
    return RateLimitWindow(*whole) if len(whole) == 3 else None
