"""The one loop of attempts: admit, sign, exchange, read, decide.

A caller waits for quota in its own task, where it may be cancelled as it likes. From then on the attempt is the
client's: a sender makes it to its end, writes its outcome down and tells the observers, whoever still waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from attrs import define, evolve

from twdm_async import errors
from twdm_async._forks import forks
from twdm_async._numbers import checked_seconds
from twdm_async._quiet import mistake
from twdm_async.endpoints import ENDPOINTS, Host, Safety
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.observers import AttemptReport
from twdm_async.quota.lanes import Lane
from twdm_async.quota.operations import Intent, Recipient, Slot
from twdm_async.transport import retry, wire
from twdm_async.transport.http import Attempt
from twdm_async.transport.senders import Job, Senders
from twdm_async.transport.sent import SentMessages, Sought
from twdm_async.transport.wire import Fault, Message, Reply, Request, Sink

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Container, Mapping, Sequence

    from twdm_async._clock import Clock
    from twdm_async.credentials import Credentials
    from twdm_async.observers import Observer
    from twdm_async.quota.limiter import QuotaLimiter
    from twdm_async.transport.http import HttpTransport
    from twdm_async.transport.oauth1 import OAuth1Signer

T = TypeVar("T")


class Page(Protocol):
    """One page of a list."""

    @property
    def next_cursor(self) -> str | None:
        """What the next page is asked for with; ``None`` on the last one."""


P = TypeVar("P", bound=Page)

_ANYONE = Lane()
_FOR_EVER: Final = 1e9  # seconds
_DISTINCT: Final = 2e-6  # seconds

_log = logging.getLogger(__name__)


class Journal(ABC):
    """What somebody writes down of one call's attempts, so that a crash finds out how far they came.

    Its methods are awaited by the client's own senders, where no caller's cancellation reaches them.
    """

    @property
    def intent(self) -> Intent | None:
        """What a quota store in the same file writes down when it gives a slot; ``None`` if it is another file."""
        return None

    @abstractmethod
    async def leaving(self, signed_at: float, *, is_written: bool) -> None:
        """The first byte is about to leave. It leaves when this returns, and not at all if it raises.

        Args:
            signed_at: seconds since 1970, as the signature will say.
            is_written: whether the quota store wrote the intent down.
        """

    @abstractmethod
    async def ended(self, outcome: Any) -> None:
        """What came of the attempt: an answer, an error, or :class:`~twdm_async.transport.retry.Again`."""

    @abstractmethod
    def cut_off(self, outcome: Any) -> None:
        """The same, where the task that made the attempt was cancelled and can wait for nothing."""

    @abstractmethod
    def over(self) -> None:
        """Nothing of the attempt is under way any more, however it ended, and even if nobody could write that down."""


@define(eq=False)
class _Call:
    """A call on its way.

    Args:
        into: the model of its answer.
        context: the caller's, in which observers are told.
        slot: of the attempt to be made.
        number: of that attempt, from 1.
        waited: seconds that it waited for quota.
        watchers: set when the attempt that is under way has ended.
    """

    request: Request
    into: type[Any]
    journal: Journal | None
    context: contextvars.Context | None
    slot: Slot | None = None
    story: retry.Story = retry.BEGINNING
    number: int = 0
    waited: float = 0.0
    watchers: tuple[asyncio.Event, ...] = ()


class Caller:
    """Makes calls, each of them one attempt or several.

    Args:
        hosts: scheme and host for each of the API's hosts.
        limiter: lets an attempt leave.
        signer: signs it, after the wait, anew for each.
        http: sends it.
        credentials: make the fingerprints of texts.
        clock: where time comes from.
        max_wait: seconds a call may wait for quota if it does not say itself.
        uncounted_reads: whether calls that only read may leave while the quota store fails.
        observers: are told of every attempt.
    """

    def __init__(
        self,
        hosts: Mapping[Host, str],
        limiter: QuotaLimiter,
        signer: OAuth1Signer,
        http: HttpTransport,
        *,
        credentials: Credentials,
        clock: Clock,
        max_wait: float | None = None,
        uncounted_reads: bool = False,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._hosts = hosts
        self._limiter = limiter
        self._signer = signer
        self._http = http
        self._credentials = credentials
        self.clock = self._clock = clock
        self._max_wait = checked_wait(max_wait)
        self._uncounted_reads = uncounted_reads
        self._observers = observers
        self._budget = retry.RetryBudget()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = 0
        self._under_way: set[_Call] = set()
        self._last_stamp = 0.0
        self.senders = Senders(http.most)
        self.sent = SentMessages()

    @property
    def api_host(self) -> str:
        """Scheme and host of the API."""
        return self._hosts[Host.API]

    def bind_loop(self) -> None:
        """To be called before each use: bind this to the running loop, if it is not bound yet.

        Raises:
            WrongEventLoop: it is bound to another one, or to the process that this one was forked off.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._forks = loop, forks()
        elif self._forks != forks():
            raise errors.WrongEventLoop(problem="the client was used before this process was forked off")
        elif self._loop is not loop:
            gone = ", which is closed" if self._loop.is_closed() else ""
            raise errors.WrongEventLoop(problem=f"the client is in use in another event loop{gone}")

    def abandon(self) -> None:
        """Nobody holds the client any more, and it was not closed: let its senders end. May come from any thread."""
        if self._loop is not None and not self._loop.is_closed() and self._forks == forks():
            self._loop.call_soon_threadsafe(self.senders.end_waiting)

    def note_inbound(self, person: str, at: datetime) -> None:
        """A person has written to the account, at that time by the server's clock."""
        self._limiter.note_inbound(person, at)

    def note_outbound(self, person: str, message_id: str, at: datetime) -> None:
        """The account has written to a person, at that time by the server's clock."""
        if message_id not in self.sent.ids:
            self._limiter.note_outbound(person, message_id, at)

    async def quiet(self, recipient_ids: Container[str | None]) -> None:
        """Wait until no attempt is under way that was when this was called, and sends a message to one of them."""
        over: list[asyncio.Event] = []
        for call in self._under_way:
            if call.request.message is not None and call.request.message.recipient_id in recipient_ids:
                over.append(asyncio.Event())
                call.watchers = (*call.watchers, over[-1])
        for event in over:
            await event.wait()

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        into: type[T],
        *,
        path_id: str | None = None,
        message: Message | None = None,
        lane: Lane = _ANYONE,
        max_wait: float | None = None,
        journal: Journal | None = None,
        files_host: str | None = None,
        sink: Sink | None = None,
    ) -> T:
        """Call the endpoint `name` and structure what it answers.

        Args:
            name: a name from the table of endpoints.
            arguments: what to send, checked.
            into: the model of the answer; ``type(None)`` where there is none.
            path_id: a checked id for the path.
            message: what is known of the message that is sent.
            lane: where to wait.
            max_wait: seconds to wait for quota, over all attempts; the client's if not given.
            journal: where its attempts are written down.
            files_host: where a message's file is, checked.
            sink: where the body of the answer goes, if it is a file.

        Raises:
            TwdmError: any of the tree, as :mod:`twdm_async.transport.retry` decides.
        """
        self.bind_loop()
        try:
            hosts = self._hosts if files_host is None else {**self._hosts, Host.FILES: files_host}
            request = wire.encode(ENDPOINTS[name], hosts, arguments, path_id=path_id, message=message)
            request.sink = sink
            del arguments  # a traceback that shows what its frames hold is not to show a message
            context = contextvars.copy_context() if self._observers else None
            answer: T = await self._attempts(_Call(request, into, journal, context), lane, max_wait)
            return answer
        except errors.TwdmError:
            raise
        except Exception as error:  # noqa: BLE001 - nobody could have expected it
            problem = mistake(error)
        raise problem

    async def _attempts(self, call: _Call, lane: Lane, max_wait: float | None) -> Any:
        patience = checked_wait(max_wait) if max_wait is not None else self._max_wait
        while True:
            patience = await self._admit(call, lane, patience)
            decision = await self._send(call)
            if isinstance(decision, errors.TwdmError):
                raise decision
            if not isinstance(decision, retry.Again):
                return decision
            call.story = decision.story
            if decision.after:
                await self._clock.sleep(decision.after)

    async def pages(self, name: str, into: type[P], *, count: int, max_wait: float | None) -> AsyncGenerator[P]:
        """Go through the pages of a list. A page may be empty and still not be the last.

        Args:
            name: a name from the table of endpoints.
            into: the model of a page.
            count: how much there is on a page.
            max_wait: seconds to wait for quota, for each page; the client's if not given.

        Raises:
            TwdmError: as :meth:`call`.
        """
        arguments = {"count": str(count)}
        cursors: set[str] = set()
        while True:
            page = await self.call(name, arguments, into, max_wait=max_wait)
            yield page
            if not page.next_cursor:
                return
            if page.next_cursor in cursors:
                raise errors.MalformedResponse(endpoint=name, status=200, problem="a cursor that was told before")
            cursors.add(page.next_cursor)
            arguments["cursor"] = page.next_cursor

    async def _admit(self, call: _Call, lane: Lane, patience: float | None) -> float | None:
        """Get `call` a slot. Returns how many seconds of waiting are left."""
        endpoint, story = call.request.endpoint, call.story
        intent = call.journal.intent if call.journal else None
        began = self._clock.monotonic()
        try:
            call.slot = await self._limiter.admit(endpoint.family, lane, patience, intent, self._recipient(call))
        except errors.TwdmError as error:
            problem = error
            if isinstance(error, errors.QuotaStoreFailed) and endpoint.safety is Safety.READ and self._uncounted_reads:
                call.slot = None  # it leaves uncounted
                return patience
        else:
            call.waited = self._clock.monotonic() - began
            return None if patience is None else max(0.0, patience - call.waited)
        if isinstance(problem, errors.QuotaWaitTooLong) and story.refusal is not None:
            # It was sent and the server refused it: that is what the caller should know.
            problem = evolve(story.refusal, retry_at=problem.retry_at)
        raise retry.told_whole(problem, call.request, story)

    def _recipient(self, call: _Call) -> Recipient | None:
        """Return the recipient of the message that the call sends."""
        message = call.request.message
        return Recipient(message.recipient_id, self.server_time) if message and message.recipient_id else None

    def server_time(self) -> float:
        """Seconds since 1970 by the server's clock, as far as it is known; in any thread."""
        return self._clock.wall() + self._signer.skew

    async def _send(self, call: _Call) -> Any:
        """Have one attempt made by a sender. Who is cancelled here leaves it to go on, once it has begun."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        job = Job(lambda job: self._make_attempt(call, job), call.request.endpoint.name, outcome)
        try:
            return await self.senders.run(job)
        except BaseException:
            if not job.has_begun:
                outcome.cancel()
                self._give_back(call)
            raise

    async def _make_attempt(self, call: _Call, job: Job[Any]) -> Any:
        self._under_way.add(call)
        try:
            return await self._attempt(call, job)
        finally:
            self._under_way.discard(call)
            for watcher in call.watchers:
                watcher.set()
            if call.journal is not None:
                call.journal.over()

    async def _attempt(self, call: _Call, job: Job[Any]) -> Any:
        """One attempt, and what follows from it: the answer, the error, or that there must be another one."""
        if call.slot is not None and self._clock.uptime() > call.slot.send_by:
            # It had to wait for a sender for too long.
            self._give_back(call)
            again = retry.Again(call.story)
            if call.journal is not None:
                await call.journal.ended(again)
            return again
        call.number += 1
        began, stamp = self._clock.monotonic(), self._next_stamp()
        attempt = Attempt() if call.slot is None else Attempt(call.slot.send_by, self._clock.uptime)
        try:
            outcome, decision = await self._exchange(call, attempt, stamp)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is no reason to leave it open
            outcome, decision = None, self._failed(call, stamp, mistake(error), left=attempt.sent)
        except BaseException as cancelled:
            if call.journal is not None:  # whoever comes next will write it down
                left = self._failed(call, stamp, _CUT_OFF, left=True) if attempt.sent else None
                call.journal.cut_off(left or retry.Again(call.story))
            raise cancelled from None
        try:
            # Not if it was only looked up; and a journal keeps those without an id by itself, and longer.
            message = call.request.message
            if message is not None and isinstance(decision, DirectMessage) and (decision.id or call.journal is None):
                self._note_sent(message, decision, stamp)
            if call.journal is not None:
                await call.journal.ended(decision)
        finally:
            if self._observers or isinstance(decision, errors.DeliveryUnknown) or _log.isEnabledFor(logging.DEBUG):
                self._report(
                    call,
                    AttemptReport(
                        endpoint=call.request.endpoint.name,
                        method=call.request.endpoint.method,
                        url=call.request.url,
                        number=call.number,
                        waited=call.waited,
                        began=datetime.fromtimestamp(stamp, UTC),
                        took=self._clock.monotonic() - began,
                        left=attempt.sent,
                        status=outcome.status if isinstance(outcome, Reply) else None,
                        problem=outcome.problem if isinstance(outcome, Fault) else None,
                        outcome=decision,
                        is_abandoned=job.is_abandoned,
                    ),
                )
        return decision

    def _give_back(self, call: _Call) -> None:
        if call.slot is not None:
            self._limiter.give_back(call.slot)
            call.slot = None

    def _next_stamp(self) -> float:
        """The time by the server's clock, as far as it is known; no two attempts have the same, to the microsecond."""
        now = self._clock.wall() + self._signer.skew
        if abs(now - self._last_stamp) < _DISTINCT:
            now = self._last_stamp + _DISTINCT
        self._last_stamp = now
        return now

    async def _exchange(self, call: _Call, attempt: Attempt, stamp: float) -> tuple[Reply | Fault | None, Any]:
        """What came of the attempt, and what follows from it. However this ends, the slot is settled, or given back if
        no byte left.
        """
        outcome: Reply | Fault | None = None
        decision: Any = None
        try:
            if call.journal is not None:
                await call.journal.leaving(stamp, is_written=call.slot is not None and call.slot.intent is not None)
            outcome = await self._http.exchange(call.request, self._signer.sign(call.request), attempt)
            if isinstance(outcome, Reply):
                self._limiter.learn(call.request.endpoint.family, outcome.status, outcome.headers)
            # An attempt that came too late for its slot did not fail; it needs another slot.
            decision = retry.Again(call.story) if attempt.is_late else self._decide(call, outcome, stamp, attempt)
            return outcome, decision
        except errors.TwdmError as error:  # the client was closed, or the journal could not be written
            return outcome, error
        finally:
            if not attempt.sent:
                self._give_back(call)
            elif call.slot is not None:
                answer = decision if isinstance(decision, DirectMessage) else None
                self._limiter.settle(
                    call.slot,
                    seen=isinstance(outcome, Reply),
                    made=answer.created_at if answer else None,
                    message_id=answer.id if answer else None,
                )

    def _decide(self, call: _Call, outcome: Reply | Fault, stamp: float, attempt: Attempt) -> Any:
        """What follows from `outcome`: the answer, the error, or that there must be another attempt."""
        request, error = call.request, None
        if isinstance(outcome, Reply):
            try:
                answer = wire.read(request.endpoint, outcome, call.into)
                if problem := self._mismatch(request, answer):
                    raise errors.MalformedResponse(
                        endpoint=request.endpoint.name, status=outcome.status, problem=problem
                    )
            except errors.TwdmError as refusal:
                attempt.distrust()
                error = wire.without_secrets(refusal, request.message, attempt.authorization)
            else:
                attempt.trust()
                self._budget.earn()
                return answer
            if isinstance(error, errors.RateLimited) and outcome.status not in {420, 429}:
                self._limiter.refused(request.endpoint.family, outcome.headers)  # only the code says so
        decision = retry.decide(
            request,
            outcome,
            error,
            call.story,
            sent_at=datetime.fromtimestamp(stamp, UTC),
            jitter=random.random(),
            may_retry=self._budget.has_some,
        )
        if isinstance(decision, errors.DeliveryUnknown):
            return self._identified(decision, call)
        if isinstance(decision, retry.Again):
            if decision.server_time is not None:
                self._signer.skew = decision.server_time - self._clock.wall()
            if decision.story.failures > call.story.failures:
                self._budget.spend()
        return decision

    def _failed(self, call: _Call, stamp: float, error: errors.TwdmError, *, left: bool) -> errors.TwdmError:
        """What is known of an attempt that `error` ended, and not what came of it."""
        request = call.request
        if not left or request.endpoint.safety is not Safety.SEND_ONCE:
            return evolve(error, delivered="unknown") if left else error
        unknown = retry.unknown(request, str(error), datetime.fromtimestamp(stamp, UTC))
        try:
            return self._identified(unknown, call)
        except Exception:  # noqa: BLE001 - that may have been the mistake
            return unknown

    def _identified(self, unknown: errors.DeliveryUnknown, call: _Call) -> errors.DeliveryUnknown:
        """`unknown`, with what the message can be looked for by."""
        message, fingerprint = call.request.message, None
        self.sent.note_given_up(unknown.sent_at, self._clock.monotonic())
        if message is not None:
            text, content = self._credentials.fingerprints(message.text, message.content)
            fingerprint = f"{text} {content}" if content else text
            if call.journal is None and message.recipient_id is not None:  # else the journal knows of it
                self.sent.note_unknown(
                    Sought(message.recipient_id, message.custom_profile_id, text, unknown.sent_at, content)
                )
        return evolve(unknown, fingerprint=fingerprint, ended_at=self._clock.utc())

    def _mismatch(self, request: Request, answer: Any) -> str | None:
        """What is wrong with `answer`, if it answers another request: anything may come over a kept connection."""
        if not isinstance(answer, DirectMessage) or request.message is None:
            return None
        if answer.id is not None and answer.id in self.sent.ids:
            return "the answer to an earlier request"
        return None if wire.is_answer_to(request.message, answer) else "no answer to this message"

    def _note_sent(self, message: Message, answer: DirectMessage, stamp: float) -> None:
        if answer.id is not None:
            self.sent.note(answer.id)
            sent_at = datetime.fromtimestamp(stamp, UTC)
            self.sent.note_listable(answer.id, min(answer.created_at or sent_at, sent_at))
        elif message.recipient_id is not None:
            fingerprint, content = self._credentials.fingerprints(message.text, message.content)
            sent_at = datetime.fromtimestamp(stamp, UTC)
            self.sent.note(Sought(message.recipient_id, message.custom_profile_id, fingerprint, sent_at, content))

    def _report(self, call: _Call, report: AttemptReport) -> None:
        level = logging.WARNING if isinstance(report.outcome, errors.DeliveryUnknown) else logging.DEBUG
        _log.log(level, "%s", report, extra=report.as_extra())
        for observer in self._observers:
            try:
                (call.context or contextvars.Context()).run(observer, report)
            except Exception:  # noqa: BLE001 - whoever watches may not get in the way
                _log.exception("an observer failed")


_CUT_OFF: Final = errors.InternalError(problem="the task was cancelled that waited for the answer")


def checked_wait(max_wait: float | None) -> float | None:
    """`max_wait` in seconds; ``None`` if there is no bound.

    Raises:
        InvalidInput: it is negative or not a number.
    """
    if max_wait is None:
        return None
    return max_wait if checked_seconds(max_wait, "max_wait", math.inf) <= _FOR_EVER else None
