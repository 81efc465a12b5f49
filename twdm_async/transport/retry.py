"""What to do after an attempt that brought no answer: a pure decision.

==========================================  =======================================  ===============================
what happened                               a send, or what must be done just once   a read, or what may be repeated
==========================================  =======================================  ===============================
no byte left: refused, DNS, timeout         again, up to three tries                 the same
no byte left, and none ever will: TLS       ``ConnectFailed``                        the same
429, 420                                    again, when the quota's hold has ended   the same
401 with code 135: clock                    again once, with the server's time       the same
any other refusal                           its error                                the same
5xx, reset, timeout, unreadable answer      ``DeliveryUnknown``, never sent again    again, up to three tries
==========================================  =======================================  ===============================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

from twdm_async import errors
from twdm_async.endpoints import Safety
from twdm_async.quota.headers import server_time
from twdm_async.transport.wire import Fault, Reply

if TYPE_CHECKING:
    from datetime import datetime

    from twdm_async.transport.wire import Request

_TRIES: Final = 3
_FIRST_BACKOFF: Final = 0.5  # seconds; doubled with every try
_CLOCK_REFUSED: Final = 135
_UNANSWERED: Final = frozenset({408, 499})  # a proxy gave up waiting; the server may have acted all the same


@frozen
class Story:
    """What happened in a call so far.

    Args:
        failures: attempts that failed, not counting those that the quota refused.
        left: whether one of them left and got no readable answer.
        resynchronised: whether the server's clock was followed already.
        refusal: the answer of the last attempt, if it was that the quota is spent.
    """

    failures: int = 0
    left: bool = False
    resynchronised: bool = False
    refusal: errors.RateLimited | None = None


BEGINNING: Final = Story()


@frozen
class Again:
    """Make another attempt.

    Args:
        story: what happened so far.
        after: seconds to wait first.
        server_time: seconds since 1970 by the server's clock, if signing must follow it.
    """

    story: Story
    after: float = 0.0
    server_time: float | None = None


def decide(
    request: Request,
    outcome: Reply | Fault,
    error: errors.TwdmError | None,
    story: Story,
    *,
    sent_at: datetime,
    jitter: float,
) -> Again | errors.TwdmError:
    """Another attempt, or the error that the caller gets.

    Args:
        request: what was asked.
        outcome: what came of it.
        error: what reading the outcome raised, if it is a reply.
        story: what happened before.
        sent_at: when this attempt was made (UTC).
        jitter: a random number from 0 up to 1, which spreads those who failed together.
    """
    if isinstance(error, errors.RateLimited):
        return Again(evolve(story, refusal=error))
    story = evolve(story, failures=story.failures + 1, refusal=None)
    backoff = jitter * _FIRST_BACKOFF * 2.0 ** (story.failures - 1)
    if isinstance(outcome, Fault) and not outcome.sent:
        if not outcome.lasting and story.failures < _TRIES:
            return Again(story, backoff)
        failed = errors.ConnectFailed(
            endpoint=request.endpoint.name, problem=outcome.problem, safe_to_retry=not outcome.lasting
        )
        return told_whole(failed, request, story)
    if isinstance(error, errors.Unauthorized) and isinstance(outcome, Reply) and _CLOCK_REFUSED in error.codes:
        theirs = server_time(outcome.headers)
        if theirs is not None and not story.resynchronised:
            return Again(evolve(story, resynchronised=True), server_time=theirs)
    if error is not None and _is_answer(error):
        return told_whole(error, request, story)
    return _without_answer(request, outcome, error, evolve(story, left=True), sent_at, backoff)


def told_whole(error: errors.TwdmError, request: Request, story: Story) -> errors.TwdmError:
    """`error`, which speaks of the last attempt, in the light of those before it."""
    if request.endpoint.safety is Safety.READ:
        return evolve(error, delivered="no")  # there is nothing that could have been delivered
    return evolve(error, delivered="unknown") if story.left else error


def _is_answer(error: errors.TwdmError) -> bool:
    """Whether the API said no, plainly, so that nothing was done."""
    if not isinstance(error, errors.ResponseError) or isinstance(error, errors.ServerError):
        return False
    return error.status not in _UNANSWERED or bool(error.codes)


def _without_answer(
    request: Request,
    outcome: Reply | Fault,
    error: errors.TwdmError | None,
    story: Story,
    sent_at: datetime,
    backoff: float,
) -> Again | errors.TwdmError:
    name = request.endpoint.name
    problem = outcome.problem if isinstance(outcome, Fault) else _said(outcome, error)
    if request.endpoint.safety is Safety.SEND_ONCE:
        return errors.DeliveryUnknown(
            endpoint=name, problem=problem, sent_at=sent_at, recipient_id=request.recipient_id
        )
    if story.failures < _TRIES and not (isinstance(outcome, Fault) and outcome.lasting):
        return Again(story, backoff)
    return told_whole(error or errors.ConnectFailed(endpoint=name, problem=problem), request, story)


def _said(reply: Reply, error: errors.TwdmError | None) -> str:
    if isinstance(error, errors.MalformedResponse):
        return f"HTTP {reply.status}, {error.problem}"
    if isinstance(error, errors.ResponseError) and error.codes:
        return f"HTTP {reply.status}, code {', '.join(map(str, error.codes))}"
    return f"HTTP {reply.status}"
