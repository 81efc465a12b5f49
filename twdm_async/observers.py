"""What can be watched: every attempt, told of the moment it is over, for metrics, traces and logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async import errors


@frozen(kw_only=True)
class AttemptReport:
    """One attempt of a call, after it ended.

    Args:
        endpoint: the endpoint's name.
        method: the HTTP method.
        url: scheme, host and path, without the query.
        number: which attempt of the call it was, from 1.
        waited: seconds that it waited for quota.
        began: when it was made (UTC), as its signature said.
        took: seconds from then until its outcome was known.
        left: whether a byte left the machine.
        status: the HTTP status; ``None`` if no reply came.
        headers: those of the reply, by any case of their names; empty if no reply came.
        problem: what happened instead of a reply.
        outcome: the answer, the error that the caller got, or the library's own sign that it is tried again.
        is_abandoned: whether the caller had given up meanwhile, so that only this report tells what became of it.
    """

    endpoint: str
    method: str
    url: str
    number: int
    waited: float
    began: datetime
    took: float
    left: bool
    status: int | None
    headers: Mapping[str, str] = field(repr=False)
    problem: str | None
    outcome: Any = field(repr=False)
    is_abandoned: bool

    @property
    def error(self) -> errors.TwdmError | None:
        """The error that the caller got."""
        return self.outcome if isinstance(self.outcome, errors.TwdmError) else None

    def __str__(self) -> str:
        what = (
            f"HTTP {self.status}"
            if self.status is not None
            else self.problem or ("no reply" if self.left else "not sent")
        )
        error = f", {type(self.error).__name__}" if self.error is not None else ""
        given_up = "; its caller had given up" if self.is_abandoned else ""
        return (
            f"{self.endpoint}: attempt {self.number} waited {self.waited:.3f} s, took {self.took:.3f} s: "
            f"{what}{error}{given_up}"
        )

    def as_extra(self) -> dict[str, object]:
        """The facts, as fields of a log record."""
        return {
            "twdm_endpoint": self.endpoint,
            "twdm_attempt": self.number,
            "twdm_waited": self.waited,
            "twdm_took": self.took,
            "twdm_left": self.left,
            "twdm_status": self.status,
            "twdm_error": type(self.error).__name__ if self.error is not None else None,
            "twdm_abandoned": self.is_abandoned,
        }


Observer = Callable[[AttemptReport], object]
