"""Reports on every attempt when it has ended, for metrics, traces and logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from twdm_async import errors


@frozen(kw_only=True)
class AttemptReport:
    """A report on one attempt of a call, made when the attempt has ended.

    Args:
        endpoint: the endpoint's name.
        method: the HTTP method.
        url: scheme, host and path, without the query.
        number: the number of the attempt in its call, from 1.
        waited: seconds that the call waited for the quota slot of this attempt.
        began: when the attempt began (UTC), as in its signature.
        took: seconds from then until the outcome was known.
        left: whether a byte of the request left the machine.
        status: the HTTP status; ``None`` if no reply came.
        headers: the headers of the reply, whose names match in any case; empty if no reply came.
        problem: what happened instead of a reply, if that is known.
        outcome: the answer, the error that the caller got, or an internal mark that the call is tried again.
        is_abandoned: whether the caller was cancelled before the attempt ended, so that no one else gets its outcome.
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
        """The error that the caller got; ``None`` if it got an answer or the call is tried again."""
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
        """Return the report as extra fields of a log record."""
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
