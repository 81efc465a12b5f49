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

from attrs import frozen

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


@frozen
class Again:
    """Make another attempt.

    Args:
        after: seconds to wait first.
        server_time: seconds since 1970 by the server's clock, if signing must follow it.
    """

    after: float = 0.0
    server_time: float | None = None


def decide(
    request: Request,
    outcome: Reply | Fault,
    error: errors.TwdmError | None,
    *,
    tries: int,
    resynchronised: bool,
    sent_at: datetime,
    jitter: float,
) -> Again | errors.TwdmError:
    """Another attempt, or the error that the caller gets.

    Args:
        request: what was asked.
        outcome: what came of it.
        error: what reading the outcome raised, if it is a reply.
        tries: attempts made so far, this one included.
        resynchronised: whether the server's clock was already followed once in this call.
        sent_at: when this attempt left (UTC).
        jitter: a random number from 0 up to 1, which spreads those who failed together.
    """
    name, safety = request.endpoint.name, request.endpoint.safety
    backoff = Again(jitter * _FIRST_BACKOFF * 2.0 ** (tries - 1))
    if isinstance(outcome, Fault) and not outcome.sent:
        if outcome.lasting or tries >= _TRIES:
            return errors.ConnectFailed(endpoint=name, problem=outcome.problem, safe_to_retry=not outcome.lasting)
        return backoff
    if isinstance(outcome, Reply) and outcome.status in {420, 429}:
        return Again()
    if isinstance(error, errors.Unauthorized) and isinstance(outcome, Reply) and _CLOCK_REFUSED in error.codes:
        theirs = server_time(outcome.headers)
        return error if resynchronised or theirs is None else Again(server_time=theirs)
    is_final = isinstance(error, errors.ResponseError) and not isinstance(error, errors.ServerError)
    if error is not None and is_final:
        return error
    problem = outcome.problem if isinstance(outcome, Fault) else _said(outcome, error)
    if safety is Safety.SEND_ONCE:
        return errors.DeliveryUnknown(
            endpoint=name, problem=problem, sent_at=sent_at, recipient_id=request.recipient_id
        )
    if tries < _TRIES and not (isinstance(outcome, Fault) and outcome.lasting):
        return backoff
    if error is not None:
        return error
    delivered: errors.Delivered = "no" if safety is Safety.READ else "unknown"
    return errors.ConnectFailed(endpoint=name, problem=problem, delivered=delivered)


def _said(reply: Reply, error: errors.TwdmError | None) -> str:
    if isinstance(error, errors.MalformedResponse):
        return f"HTTP {reply.status}, {error.problem}"
    return f"HTTP {reply.status}"
