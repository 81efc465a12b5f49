"""The one loop of attempts: admit, sign, exchange, read, decide."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import evolve

from twdm_async import errors
from twdm_async.endpoints import ENDPOINTS, Host, Safety
from twdm_async.quota.lanes import Lane
from twdm_async.quota.store.contract import Slot
from twdm_async.transport import retry, wire
from twdm_async.transport.http import Attempt
from twdm_async.transport.wire import Fault, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twdm_async._clock import Clock
    from twdm_async.quota.limiter import QuotaLimiter
    from twdm_async.transport.http import HttpTransport
    from twdm_async.transport.oauth1 import OAuth1Signer

T = TypeVar("T")

_ANYONE = Lane()
_FOR_EVER: Final = 1e9  # seconds


class Caller:
    """Makes calls, each of them one attempt or several.

    Args:
        hosts: scheme and host for each of the API's hosts.
        limiter: lets an attempt leave.
        signer: signs it, after the wait, anew for each.
        http: sends it.
        clock: where time comes from.
        max_wait: seconds a call may wait for quota if it does not say itself.
        uncounted_reads: whether calls that only read may leave while the quota store fails.
    """

    def __init__(
        self,
        hosts: Mapping[Host, str],
        limiter: QuotaLimiter,
        signer: OAuth1Signer,
        http: HttpTransport,
        clock: Clock,
        max_wait: float | None,
        *,
        uncounted_reads: bool = False,
    ) -> None:
        self._hosts = hosts
        self._limiter = limiter
        self._signer = signer
        self._http = http
        self._clock = clock
        self._max_wait = checked_wait(max_wait)
        self._uncounted_reads = uncounted_reads

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        into: type[T],
        *,
        path_id: str | None = None,
        recipient_id: str | None = None,
        text: str | None = None,
        lane: Lane = _ANYONE,
        max_wait: float | None = None,
    ) -> T:
        """Call the endpoint `name` and structure what it answers.

        Args:
            name: a name from the table of endpoints.
            arguments: what to send, checked.
            into: the model of the answer; ``type(None)`` where there is none.
            path_id: a checked id for the path.
            recipient_id: whom a message is for.
            text: of a message; no error will repeat it.
            lane: where to wait.
            max_wait: seconds to wait for quota, over all attempts; the client's if not given.

        Raises:
            TwdmError: any of the tree, as :mod:`twdm_async.transport.retry` decides.
        """
        request = wire.encode(
            ENDPOINTS[name], self._hosts, arguments, path_id=path_id, recipient_id=recipient_id, text=text
        )
        patience = checked_wait(max_wait) if max_wait is not None else self._max_wait
        story = retry.BEGINNING
        while True:
            slot, patience = await self._admit(request, lane, patience, story)
            sent_at = self._clock.utc()
            outcome = await self._attempt(request, slot)
            if outcome is None:
                continue
            error = None
            if isinstance(outcome, Reply):
                try:
                    return wire.read(request.endpoint, outcome, into)
                except errors.TwdmError as problem:
                    error = wire.without_text(problem, text)
                if isinstance(error, errors.RateLimited) and outcome.status not in {420, 429}:
                    self._limiter.refused(
                        request.endpoint.family, outcome.headers
                    )  # only the code says so, and that was just read
            decision = retry.decide(request, outcome, error, story, sent_at=sent_at, jitter=random.random())
            if isinstance(decision, errors.TwdmError):
                raise decision
            if decision.server_time is not None:
                self._signer.skew = decision.server_time - self._clock.wall()
            story = decision.story
            if decision.after:
                await self._clock.sleep(decision.after)

    async def _admit(
        self, request: Request, lane: Lane, patience: float | None, story: retry.Story
    ) -> tuple[Slot, float | None]:
        """A slot, and how many seconds of waiting are left."""
        family = request.endpoint.family
        began = self._clock.monotonic()
        try:
            slot = await self._limiter.admit(family, lane, patience)
        except errors.TwdmError as error:
            problem = error
            is_read = request.endpoint.safety is Safety.READ
            if isinstance(error, errors.QuotaStoreFailed) and is_read and self._uncounted_reads:
                return Slot(()), patience
        else:
            return slot, None if patience is None else max(0.0, patience - (self._clock.monotonic() - began))
        if isinstance(problem, errors.QuotaWaitTooLong) and story.refusal is not None:
            # It was sent and the server refused it: that is what the caller should know.
            problem = evolve(story.refusal, retry_at=problem.retry_at)
        raise retry.told_whole(problem, request, story)

    async def _attempt(self, request: Request, slot: Slot) -> Reply | Fault | None:
        """Sign and send. However this ends, the slot is settled, or given back if no byte left. ``None``: the slot was
        given back since the request had to wait for a connection for longer than a slot is good for.
        """
        attempt = Attempt()
        outcome: Reply | Fault | None = None
        try:
            async with self._http.places:
                if self._clock.monotonic() > slot.send_by:
                    return None
                authorization = self._signer.sign(request)
                outcome = await self._http.exchange(request, authorization, attempt)
            if isinstance(outcome, Reply):
                self._limiter.learn(request.endpoint.family, outcome.status, outcome.headers)
            return outcome
        finally:
            if attempt.sent:
                self._limiter.settle(slot, seen=isinstance(outcome, Reply))
            else:
                self._limiter.give_back(slot)


def checked_wait(max_wait: float | None) -> float | None:
    """`max_wait` in seconds; ``None`` if there is no bound.

    Raises:
        InvalidInput: it is negative or not a number.
    """
    if max_wait is None:
        return None
    if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not max_wait >= 0:
        raise errors.InvalidInput(parameter="max_wait", problem="must be a number of seconds, 0 or more")
    return max_wait if max_wait <= _FOR_EVER else None
