"""The decision on what to do after an attempt that brought no answer, as a pure function.

==========================================  =======================================  ===============================
what happened                               a send, or what must be done just once   a read, or what may be repeated
==========================================  =======================================  ===============================
no byte left: refused, DNS, timeout         again, up to three tries                 the same
no byte left, and none ever can: TLS        ``ConnectFailed``                        the same
429, 420                                    again, when the quota's hold has ended   the same
401 with code 135: clock                    again once, with the server's time       the same
"you already said that" (151, 187)          ``DeliveryUnknown``: it may be there     the refusal's error
any other refusal                           the refusal's error                      the same
5xx, reset, timeout, unreadable answer      ``DeliveryUnknown``, never sent again    again, up to three tries
the answer to another request               ``DeliveryUnknown``, never sent again    again, up to three tries
==========================================  =======================================  ===============================

Between two tries, the call waits for a random time up to a bound that doubles (*full jitter*), or for as long as
``Retry-After`` asks; if that is more than 30 seconds, there is no other try. All calls of a client share a
:class:`RetryBudget`: when the API is down, there are no more tries once it is used up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from attrs import define, evolve, frozen

from twdm_async import errors
from twdm_async.endpoints import Safety
from twdm_async.headers import read_limits, server_time
from twdm_async.transport.wire import Fault, Reply, may_have_arrived

if TYPE_CHECKING:
    from datetime import datetime

    from twdm_async.transport.wire import Request

T = TypeVar("T")

_TRIES: Final = 3
_FIRST_BACKOFF: Final = 0.5  # seconds; doubled with every try
_LONGEST_BACKOFF: Final = 30.0  # seconds; if the server asks for more, there is no other try
_CLOCK_REFUSED: Final = 135
_MOST_SET: Final = 3  # times that one call sets the clock, if the clock is changed meanwhile
_WAS_CHANGED: Final = 60.0  # seconds by which the clock is wrong again
_UNANSWERED: Final = frozenset({408, 499})  # a proxy gave up waiting; the server may have acted all the same


@frozen
class Story:
    """What happened in a call so far.

    Args:
        failures: how many attempts failed, not counting those that were refused for quota.
        left: whether one of the attempts left and got no readable answer.
        resynchronised: how many times the clock was set to the server's time.
        refusal: the answer to the last attempt, if it said that the quota is spent.
    """

    failures: int = 0
    left: bool = False
    resynchronised: int = 0
    refusal: errors.RateLimited | None = None


BEGINNING: Final = Story()


@define(eq=False)
class Answered(Generic[T]):
    """The call is over: the API answered."""

    answer: T


@frozen
class Failed:
    """The call is over: its caller gets `error`."""

    error: errors.TwdmError


@frozen
class Retry:
    """Make another attempt.

    Args:
        story: what happened so far.
        after: seconds to wait first.
        server_time: seconds since 1970 by the server's clock, if signing must follow it.
    """

    story: Story
    after: float = 0.0
    server_time: float | None = None


Outcome = Answered[T] | Failed | Retry
"""The outcome of an attempt."""


class RetryBudget:
    """The number of further tries after failures that all calls of a client have left together. Five answers earn one
    try.
    """

    _MOST: Final = 50.0
    _EARNED: Final = 0.2

    def __init__(self) -> None:
        self._left = self._MOST

    @property
    def has_some(self) -> bool:
        """Whether another try may be made."""
        return self._left >= 1.0

    def earn(self) -> None:
        """Count an answer."""
        self._left = min(self._MOST, self._left + self._EARNED)

    def spend(self) -> None:
        """Count another try."""
        self._left -= 1.0


def decide(
    request: Request,
    outcome: Reply | Fault,
    error: errors.TwdmError | None,
    story: Story,
    *,
    sent_at: datetime,
    jitter: float,
    may_retry: bool = True,
) -> Retry | Failed:
    """Decide on another attempt, or on the error that the caller gets.

    Args:
        request: the request.
        outcome: the reply, or what happened instead.
        error: the error that reading the reply raised.
        story: what happened in the call before this attempt.
        sent_at: when this attempt was made (UTC).
        jitter: a random number from 0 up to 1, which spreads the tries of calls that failed together.
        may_retry: whether the retry budget allows another try after a failure.
    """
    if isinstance(error, (errors.ResponseError, errors.MalformedResponse)):
        error = evolve(error, sent_at=sent_at)
    if isinstance(error, errors.RateLimited):
        return Retry(evolve(story, refusal=error))
    story = evolve(story, failures=story.failures + 1, refusal=None)
    backoff = _backoff(outcome, story.failures, jitter)
    may_retry = may_retry and story.failures < _TRIES and backoff <= _LONGEST_BACKOFF
    if isinstance(outcome, Fault) and not outcome.sent:
        if not outcome.lasting and may_retry:
            return Retry(story, backoff)
        no_connection = errors.ConnectFailed(
            endpoint=request.endpoint.name,
            host=request.host,
            problem=outcome.problem,
            safe_to_retry=not outcome.lasting,
        )
        return Failed(told_whole(no_connection, request, story))
    if isinstance(error, errors.Unauthorized) and isinstance(outcome, Reply) and _CLOCK_REFUSED in error.codes:
        theirs = server_time(outcome.headers)
        was_set = theirs is not None and abs(theirs - sent_at.timestamp()) > _WAS_CHANGED
        if theirs is not None and story.resynchronised < (_MOST_SET if was_set else 1):
            return Retry(evolve(story, resynchronised=story.resynchronised + 1), server_time=theirs)
    is_send = request.endpoint.safety is Safety.SEND_ONCE
    may_be_done = is_send and (may_have_arrived(error) or (error is not None and _says_both(error)))
    if error is not None and _is_answer(error) and not may_be_done:
        return Failed(told_whole(error, request, story))
    story = evolve(story, left=True)
    if is_send:
        status = outcome.status if isinstance(outcome, Reply) else None
        codes = error.codes if isinstance(error, errors.ResponseError) else ()
        return Failed(unknown(request, _said(outcome, error), sent_at, status, codes))
    if may_retry and not (isinstance(outcome, Fault) and outcome.lasting):
        return Retry(story, backoff)
    failed = error or errors.ConnectFailed(
        endpoint=request.endpoint.name, host=request.host, problem=_said(outcome, error)
    )
    return Failed(told_whole(failed, request, story))


def _backoff(outcome: Reply | Fault, failures: int, jitter: float) -> float:
    """Return the seconds until the next try."""
    seconds = jitter * _FIRST_BACKOFF * 2.0 ** (failures - 1)
    if isinstance(outcome, Reply) and outcome.status >= 500:
        # A date in Retry-After is useless if the server does not tell its own time.
        return max(seconds, read_limits(outcome.headers, math.inf).retry_after or 0.0)
    return seconds


def told_whole(error: errors.TwdmError, request: Request, story: Story) -> errors.TwdmError:
    """Return `error`, which is about the last attempt, with a `delivered` that is true for all attempts of the call."""
    if request.endpoint.safety is Safety.READ:
        return evolve(error, delivered="no")  # there is nothing that could have been delivered
    return evolve(error, delivered="unknown") if story.left else error


def _is_answer(error: errors.TwdmError) -> bool:
    """Return whether `error` is a plain refusal, so that the server has done nothing."""
    if not isinstance(error, errors.ResponseError) or isinstance(error, errors.ServerError):
        return False
    return error.status not in _UNANSWERED or bool(error.codes)


def _says_both(error: errors.TwdmError) -> bool:
    """Return whether the status says that the request was done, but the body has an error that may not be a refusal."""
    return (
        isinstance(error, errors.ResponseError)
        and 200 <= error.status < 300
        and error.subject in {"unclear", "intermediary"}
    )


def unknown(
    request: Request, problem: str, sent_at: datetime, status: int | None = None, codes: tuple[int, ...] = ()
) -> errors.DeliveryUnknown:
    """Return the error for a request that left, and of which it is not known what came of it.

    Args:
        request: the request.
        problem: what happened instead of an answer.
        sent_at: when the attempt was made (UTC).
        status: the HTTP status, if a reply came.
        codes: the API's error codes, if it gave any.
    """
    return errors.DeliveryUnknown(
        endpoint=request.endpoint.name,
        problem=problem,
        sent_at=sent_at,
        status=status,
        codes=codes,
        recipient_id=request.message.recipient_id if request.message else None,
        custom_profile_id=request.message.custom_profile_id if request.message else None,
    )


def _said(outcome: Reply | Fault, error: errors.TwdmError | None) -> str:
    if isinstance(outcome, Fault):
        return outcome.problem
    if isinstance(error, errors.MalformedResponse):
        return f"HTTP {outcome.status}, {error.problem}"
    if may_have_arrived(error):
        return f"HTTP {outcome.status}, the API says that it has this message already"
    if isinstance(error, errors.ResponseError) and error.codes:
        return f"HTTP {outcome.status}, code {', '.join(map(str, error.codes))}"
    return f"HTTP {outcome.status}"
