"""The loop of attempts that every call goes through: get a slot, sign, exchange, read the reply, decide what follows.

A call makes its attempts in its caller's task, which may be cancelled at any time. If it is cancelled after bytes of an
attempt have left, a task of the client takes the attempt over: it continues where the caller's task stopped, records
the outcome and calls the observers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import logging
import math
import random
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, assert_never

from attrs import define, evolve

from twdm_async import errors
from twdm_async._forks import this_process
from twdm_async._log import quiet_logger
from twdm_async._numbers import checked_number, checked_seconds
from twdm_async._quiet import mistake
from twdm_async.endpoints import ENDPOINTS, Host, Safety
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.observers import AttemptReport
from twdm_async.quota.lanes import Lane
from twdm_async.quota.operations import Intent, Slot
from twdm_async.transport import retry, wire
from twdm_async.transport.attempt import Attempt
from twdm_async.transport.places import Places
from twdm_async.transport.retry import Answered, Failed, Outcome, Retry
from twdm_async.transport.sent import SentMessages
from twdm_async.transport.wire import Fault, Message, Reply, Request, Sink

if TYPE_CHECKING:
    from collections.abc import Container, Coroutine, Mapping, Sequence

    from twdm_async._clock import Clock
    from twdm_async.credentials import Credentials
    from twdm_async.observers import Observer
    from twdm_async.quota.limiter import QuotaLimiter
    from twdm_async.quota.line import Waiter
    from twdm_async.transport.http import HttpTransport
    from twdm_async.transport.oauth1 import OAuth1Signer

T = TypeVar("T")


_End = Reply | Fault | Exception | None
"""How an attempt ended; ``None`` if it was too late for its slot."""

_ANYONE = Lane()
_FOR_EVER: Final = 1e9  # seconds
_LONG_PAUSE: Final = 1.0  # seconds; a pause that is longer is logged

_log = quiet_logger(__name__)


class Journal(ABC):
    """The record of one call's attempts, which shows after a crash how far they came.

    Its methods are awaited in a task of the client, which is not cancelled together with the caller.
    """

    @property
    def intent(self) -> Intent | None:
        """The intent that the quota store writes together with the slot, if it is in the same file or database as this
        journal; else ``None``.
        """
        return None

    @abstractmethod
    async def leaving(self, signed_at: float, *, is_written: bool) -> None:
        """Record that the first byte is about to leave. It leaves when this returns; if this raises, nothing leaves.

        Args:
            signed_at: the timestamp that the signature will have, in seconds since 1970.
            is_written: whether the quota store wrote the intent.
        """

    @abstractmethod
    async def ended(self, outcome: Outcome[Any]) -> None:
        """Record the outcome of the attempt."""

    @abstractmethod
    def cut_off(self, outcome: Outcome[Any]) -> None:
        """Record the outcome of an attempt whose task was cancelled, without waiting for anything."""

    @abstractmethod
    def over(self) -> None:
        """Note that the attempt is over, however it ended, even if its outcome could not be recorded."""


@define(eq=False)
class _Call(Generic[T]):
    """The state of a call.

    Args:
        request: the request.
        into: the model of the answer.
        journal: where the attempts are recorded.
        timeout: seconds that each attempt may take.
        slot: the slot of the next or present attempt; ``None`` if it is settled or given back.
        attempt: the present attempt.
        story: what happened in the attempts so far.
        stamp: when the attempt began, by the server's clock in seconds since 1970. No two attempts have the same stamp.
        began: when the attempt began, by the monotonic clock.
        number: the number of the attempt, from 1.
        waited: seconds that the call waited for the slot.
        is_abandoned: whether the caller was cancelled, so that nobody waits for the outcome.
        watchers: events to set when the present attempt has ended.
    """

    request: Request
    into: type[T]
    journal: Journal | None
    timeout: float
    slot: Slot | None = None
    attempt: Attempt | None = None
    story: retry.Story = retry.BEGINNING
    stamp: float = 0.0
    began: float = 0.0
    number: int = 0
    waited: float = 0.0
    is_abandoned: bool = False
    watchers: tuple[asyncio.Event, ...] = ()

    @property
    def sent_at(self) -> datetime:
        """When the attempt began (UTC), as in its signature."""
        return datetime.fromtimestamp(self.stamp, UTC)

    @property
    def may_go_on(self) -> bool:
        """Whether a task of the client takes the attempt over when its caller is cancelled."""
        is_the_clients = self.journal is not None or self.is_abandoned
        return self.attempt is not None and self.attempt.sent and not is_the_clients


@define(eq=False)
class _Home:
    """The event loop and the process that a client is bound to."""

    loop: asyncio.AbstractEventLoop | None = None
    forks: int = 0


class Caller:
    """Makes calls, each in one attempt or several.

    Args:
        hosts: scheme and host for each of the API's hosts.
        limiter: grants the slots that attempts need.
        signer: signs each attempt, after the wait for its slot.
        http: sends the requests.
        credentials: make the fingerprints of texts.
        clock: the source of time.
        timeout: seconds that one attempt may take. The leases of slots are computed from it.
        max_wait: seconds that a call may wait for quota, unless the call has its own limit.
        uncounted_reads: whether calls that only read may leave while the quota store fails.
        observers: called after every attempt.
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
        timeout: float,
        max_wait: float | None = None,
        uncounted_reads: bool = False,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._hosts = hosts
        self._limiter = limiter
        self._signer = signer
        self._http = http
        self.clock = clock
        self._longest = self._timeout = timeout
        self._max_wait = checked_wait(max_wait)
        self._uncounted_reads = uncounted_reads
        self._observers = observers
        self._budget = retry.RetryBudget()
        self._home = _Home()
        self._under_way: set[_Call[Any]] = set()
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()  # tasks of the client, which make attempts
        self.places: Places = Places(http.most)
        self.sent: SentMessages = SentMessages(credentials)

    def with_options(self, *, timeout: float | None, max_wait: float | None, observers: Sequence[Observer]) -> Self:
        """Return a caller that shares everything with this one, but has other defaults for its calls.

        Args:
            timeout: seconds that one attempt may take; as here if ``None``.
            max_wait: seconds that a call may wait for quota; as here if ``None``.
            observers: called after every attempt of the returned caller, after this caller's own observers.

        Raises:
            InvalidInput: `timeout` is longer than the leases of slots allow, or an argument is not a number of seconds.
        """
        other = copy.copy(self)
        other._timeout = self._timeout if timeout is None else self._checked_timeout(timeout)  # noqa: SLF001 - it is an object of this class
        other._max_wait = self._max_wait if max_wait is None else checked_wait(max_wait)  # noqa: SLF001 - as above
        other._observers = (*self._observers, *observers)  # noqa: SLF001 - as above
        return other

    def _checked_timeout(self, timeout: float) -> float:
        return checked_number(timeout, "timeout", most=self._longest)

    @property
    def api_host(self) -> str:
        """Scheme and host of the API."""
        return self._hosts[Host.API]

    def bind_loop(self) -> asyncio.AbstractEventLoop:
        """Bind the client to the running event loop, unless it is bound already, and return the loop. This must be
        called before each use.

        Raises:
            WrongEventLoop: the client is bound to another event loop, or to the process that this one was forked from.
        """
        loop, home = asyncio.get_running_loop(), self._home
        if home.loop is None:
            home.loop, home.forks = loop, this_process.forks
        elif home.forks != this_process.forks:
            raise errors.WrongEventLoop(problem="the client was used before this process was forked off")
        elif home.loop is not loop:
            gone = ", which is closed" if home.loop.is_closed() else ""
            raise errors.WrongEventLoop(problem=f"the client is in use in another event loop{gone}")
        return loop

    async def close(self, timeout: float | None) -> None:
        """Begin no more attempts. Wait up to `timeout` seconds for those under way, then end them; ``None`` sets no
        limit.
        """
        self._limiter.close()
        self.places.close()
        if self._under_way:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
        await self._http.close()
        while tasks := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(tasks)

    def note_inbound(self, person: str, at: datetime) -> None:
        """Note that a person has written to the account, at that time by the server's clock."""
        self._limiter.note_inbound(person, at)

    def note_outbound(self, person: str, message_id: str, at: datetime) -> None:
        """Note that the account has written to a person, at that time by the server's clock, unless this client sent
        the message.
        """
        if message_id not in self.sent:
            self._limiter.note_outbound(person, message_id, at)

    async def quiet(self, recipient_ids: Container[str | None]) -> None:
        """Wait until all attempts to send a message to one of these recipients that are under way now have ended."""
        over: list[asyncio.Event] = []
        for call in self._under_way:
            if call.request.message is not None and call.request.message.recipient_id in recipient_ids:
                over.append(asyncio.Event())
                call.watchers = (*call.watchers, over[-1])
        for event in over:
            await event.wait()

    def enter(self, name: str, lane: Lane, max_wait: float | None, recipient_id: str | None) -> Slot | Waiter:
        """Take the slot for a message's first attempt if one is free now; else return a future of it. If awaiting the
        future raises, call :meth:`leave`. Errors are those of :meth:`QuotaLimiter.admit
        <twdm_async.quota.limiter.QuotaLimiter.admit>`, and of :meth:`bind_loop`.
        """
        loop = self.bind_loop()
        patience = self._max_wait if max_wait is None else checked_wait(max_wait)
        return self._limiter.enter(ENDPOINTS[name].family, lane, patience, None, recipient_id, loop)

    def leave(self, waiter: Waiter) -> None:
        """Give up the place of `waiter` in the wait queue, and its slot if it was granted one."""
        self._limiter.leave(waiter)

    def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | bytes,
        into: type[T],
        message: Message | None = None,
        lane: Lane = _ANYONE,
        max_wait: float | None = None,
        timeout: float | None = None,
        slot: Slot | None = None,
        waited: float = 0.0,
        *,
        path_id: str | None = None,
        journal: Journal | None = None,
        files_host: str | None = None,
        sink: Sink | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Call the endpoint `name`, and return its answer as a model.

        Args:
            name: a name from the table of endpoints.
            arguments: the checked arguments; a JSON body may be encoded already.
            into: the model of the answer; ``type(None)`` if the endpoint answers nothing.
            message: the message that the request sends, if it sends one.
            lane: the lane to wait in.
            max_wait: seconds to wait for quota, over all attempts; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.
            slot: the slot of the first attempt, if the caller has it already.
            waited: seconds that the caller waited for that slot.
            path_id: a checked id for the path.
            journal: where the attempts are recorded.
            files_host: scheme and host of a message's file, checked.
            sink: where the body of the answer is written, if it is a file.

        Raises:
            InvalidInput: `max_wait` or `timeout` is out of range.
            TwdmError: any other error; :mod:`twdm_async.transport.retry` says when the API's answers raise which.
        """
        try:
            if slot is None:
                self.bind_loop()
            hosts = self._hosts if files_host is None else {**self._hosts, Host.FILES: files_host}
            request = wire.encode(ENDPOINTS[name], hosts, arguments, path_id, message)
            request.sink = sink
            own_timeout = self._timeout if timeout is None else self._checked_timeout(timeout)
            patience = self._max_wait if max_wait is None else checked_wait(max_wait)
            call = _Call(request, into, journal, own_timeout, slot, waited=waited)
            return self._attempts(call, lane, None if patience is None else max(0.0, patience - waited))
        except Exception as error:  # noqa: BLE001 - any exception but a TwdmError is a mistake of this library
            problem = mistake(error)
        del arguments  # so that a traceback that shows local variables does not show a message
        if slot is not None:
            self._limiter.give_back(slot)
        raise problem

    async def _attempts(self, call: _Call[T], lane: Lane, patience: float | None) -> T:
        """Make attempts until the call is over. It may wait `patience` seconds for quota; ``None`` sets no limit."""
        try:
            while True:
                if call.slot is None:
                    patience = await self._admit(call, lane, patience)
                outcome = await (self._attempt(call) if call.journal is None else self._kept_attempt(call))
                match outcome:
                    case Answered(answer):
                        return answer
                    case Failed(problem):
                        break
                    case Retry():
                        call.story, call.attempt = outcome.story, None
                        if outcome.after:
                            if outcome.after > _LONG_PAUSE:
                                _log.info("%s: trying again in %.0f s", call.request.endpoint.name, outcome.after)
                            await self.clock.sleep(outcome.after)
                    case _:
                        assert_never(outcome)
        except Exception as error:  # noqa: BLE001 - as above
            left = call.attempt is not None and call.attempt.sent and not isinstance(error, errors.TwdmError)
            problem = evolve(mistake(error), delivered="unknown") if left else mistake(error)
        finally:
            if call.slot is not None and call.attempt is None:
                self._limiter.give_back(call.slot)
        raise problem

    async def _admit(self, call: _Call[Any], lane: Lane, patience: float | None) -> float | None:
        """Wait for a slot for `call`. Return how many seconds the call may still wait; ``None`` for no limit."""
        endpoint, story = call.request.endpoint, call.story
        intent = call.journal.intent if call.journal else None
        recipient = call.request.message.recipient_id if call.request.message else None
        began = self.clock.monotonic()
        try:
            call.slot = await self._limiter.admit(endpoint.family, lane, patience, intent, recipient)
        except errors.TwdmError as error:
            problem = error
            if isinstance(error, errors.QuotaStoreFailed) and endpoint.safety is Safety.READ and self._uncounted_reads:
                call.slot = None  # the request leaves uncounted
                return patience
        else:
            call.waited = self.clock.monotonic() - began
            return None if patience is None else max(0.0, patience - call.waited)
        if isinstance(problem, errors.QuotaWaitTooLong) and story.refusal is not None:
            # The server refused the request for quota, and the caller should know that rather than the long wait.
            problem = evolve(story.refusal, retry_at=problem.retry_at)
        raise retry.told_whole(problem, call.request, story)

    def server_time(self) -> float:
        """Return the seconds since 1970 by the server's clock, as far as it is known. Any thread may call this."""
        return self._signer.server_time()

    async def _kept_attempt(self, call: _Call[T]) -> Outcome[T]:
        """Make an attempt that the journal records. It runs in a task of the client, so that cancelling the caller does
        not cut it off.
        """
        task = self._begin(call)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            call.is_abandoned = True
            if call not in self._under_way:
                task.cancel()
                self._give_back(call)  # the task may be cancelled before its first step
            raise

    def _begin(self, call: _Call[T]) -> asyncio.Task[Outcome[T]]:
        """Make the attempt, or continue it, in a task of the client, in the context of the caller."""

        def ended(task: asyncio.Task[Outcome[T]]) -> None:
            self._tasks.discard(task)
            if call in self._under_way and call.attempt is not None:  # the task was cancelled before its first step
                self._cut_off(call, call.attempt)
                self._end(call)

        task = asyncio.create_task(self._attempt(call), name="twdm_async attempt")
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    async def _attempt(self, call: _Call[T]) -> Outcome[T]:
        """Make an attempt; or, in a task of the client, continue one whose caller was cancelled. However this ends, the
        slot is settled, or given back if no byte left; unless a task of the client takes the attempt over.
        """
        if call.attempt is None:
            if not self.places.take_now():
                await self._take_place_later(call)
            self._under_way.add(call)
            self.clock.begin_work(call)
        is_over = True
        try:
            attempt = call.attempt or self._new_attempt(call)
            try:
                if not (attempt.authorization or attempt.is_late):
                    if call.journal is not None:
                        is_written = call.slot is not None and call.slot.intent is not None
                        await call.journal.leaving(call.stamp, is_written=is_written)
                    attempt.authorization = self._signer.sign(call.request, call.stamp)
                reply: _End = None if attempt.is_late else await self._http.exchange(call.request, attempt)
            except Exception as error:  # noqa: BLE001 - a mistake must not leave the call unsettled
                reply = error
            except BaseException as cancelled:
                if isinstance(cancelled, asyncio.CancelledError) and call.may_go_on:
                    call.is_abandoned = True
                    self._begin(call)
                    is_over = False
                else:
                    self._cut_off(call, attempt)
                raise cancelled from None
            outcome = self._conclude(call, attempt, reply)
            try:
                self._note(call, outcome)
                if call.journal is not None:
                    await call.journal.ended(outcome)
            finally:
                self._report(call, attempt, reply, outcome)
            return outcome
        finally:
            if is_over:
                self._end(call)

    async def _take_place_later(self, call: _Call[Any]) -> None:
        """Wait for a place among the requests under way."""
        try:
            await self.places.take(call.request.endpoint.name)
        except BaseException:
            self._give_back(call)
            raise

    def _new_attempt(self, call: _Call[Any]) -> Attempt:
        """Return a new attempt. It may be late already, if the wait for a place among the requests under way took so
        long.
        """
        attempt = Attempt(call.timeout, call.slot.send_by if call.slot else math.inf, self.clock.uptime)
        attempt.is_late = self.clock.uptime() > attempt.send_by
        call.began, call.stamp = self.clock.monotonic(), self._signer.next_stamp()
        call.number += 1
        call.attempt = attempt
        return attempt

    def _end(self, call: _Call[Any]) -> None:
        """Give back the place of an attempt that has ended, and notify everything that waits for its end."""
        self.places.give_back()
        self._under_way.discard(call)
        if not self._under_way:
            self._idle.set()
        for watcher in call.watchers:
            watcher.set()
        if call.journal is not None:
            call.journal.over()
        self.clock.end_work(call)

    def _conclude(self, call: _Call[T], attempt: Attempt, reply: _End) -> Outcome[T]:
        """Return the outcome of an attempt that ended with `reply`, and settle its slot, or give it back."""
        outcome: Outcome[T] = _NOTHING_YET
        try:
            try:
                if isinstance(reply, errors.TwdmError):  # the client was closed, for example
                    outcome = Failed(reply)
                elif isinstance(reply, Exception):
                    outcome = Failed(self._failed(call, mistake(reply), left=attempt.sent))
                elif attempt.is_late or reply is None:  # it did not fail, and does not count; it needs another slot
                    outcome = Retry(call.story)
                    call.number -= 1
                else:
                    outcome = self._decide(call, attempt, reply)
            finally:
                self._settle(call, attempt, reply, outcome)
                attempt.distrust()  # no effect if _decide() has trusted the connection
        except Exception as error:  # noqa: BLE001 - as above
            outcome = Failed(self._failed(call, mistake(error), left=attempt.sent))
        except BaseException:
            self._cut_off(call, attempt)
            raise
        return outcome

    def _cut_off(self, call: _Call[Any], attempt: Attempt) -> None:
        """Settle the slot of an attempt whose task was cancelled, so that its outcome will never be known, unless it is
        settled already. Report the attempt, if it left.
        """
        outcome: Outcome[Any] = Retry(call.story)
        if attempt.sent:
            outcome = Failed(self._failed(call, _CUT_OFF, left=True))
        self._settle(call, attempt, None, outcome)
        if call.journal is not None:  # nothing can be awaited here; the journal records this later
            call.journal.cut_off(outcome)
        if attempt.sent:
            self._report(call, attempt, None, outcome)
        attempt.distrust()

    def _note(self, call: _Call[Any], outcome: Outcome[Any]) -> None:
        """Note a message that the request has sent, but not one that it only looked up. A message without an id is not
        noted if there is a journal, which keeps it longer.
        """
        message = call.request.message
        if message is not None and isinstance(outcome, Answered):
            answer = outcome.answer
            if isinstance(answer, DirectMessage) and (answer.id or call.journal is None):
                self.sent.note_answer(message, answer, call.sent_at)

    def _settle(self, call: _Call[T], attempt: Attempt, reply: object, outcome: Outcome[T]) -> None:
        if not attempt.sent:
            self._give_back(call)
        elif call.slot is not None:
            answer: Any = outcome.answer if isinstance(outcome, Answered) else None
            is_message = isinstance(answer, DirectMessage)
            self._limiter.settle(
                call.slot,
                isinstance(reply, Reply),
                answer.created_at if is_message else None,
                answer.id if is_message else None,
            )
            call.slot = None

    def _give_back(self, call: _Call[Any]) -> None:
        if call.slot is not None:
            self._limiter.give_back(call.slot)
            call.slot = None

    def _decide(self, call: _Call[T], attempt: Attempt, reply: Reply | Fault) -> Outcome[T]:
        """Return what follows from `reply`: an answer, an error or another attempt."""
        request, error = call.request, None
        if isinstance(reply, Reply):
            self._limiter.learn(request.endpoint.family, reply.status, reply.headers)
            try:
                answer = wire.read(request.endpoint, reply, call.into)
                if problem := self._mismatch(request, answer):
                    raise errors.MalformedResponse(endpoint=request.endpoint.name, status=reply.status, problem=problem)
            except errors.TwdmError as refusal:
                attempt.distrust()
                error = wire.without_secrets(refusal, request.message, attempt.authorization)
            else:
                attempt.trust()
                self._budget.earn()
                return Answered(answer)
            if isinstance(error, errors.RateLimited) and reply.status not in {420, 429}:
                self._limiter.refused(request.endpoint.family, reply.headers)  # only the code says so
        decision = retry.decide(
            request,
            reply,
            error,
            call.story,
            sent_at=call.sent_at,
            jitter=random.random(),
            may_retry=self._budget.has_some,
        )
        if isinstance(decision, Failed):
            error = decision.error
            return Failed(self._identified(error, call)) if isinstance(error, errors.DeliveryUnknown) else decision
        if decision.server_time is not None:
            self._signer.skew = decision.server_time - self.clock.wall()
        if decision.story.failures > call.story.failures:
            self._budget.spend()
        return decision

    def _failed(self, call: _Call[Any], error: errors.TwdmError, *, left: bool) -> errors.TwdmError:
        """Return the error for the caller if `error` ended an attempt before its outcome was known.

        Args:
            call: the call.
            error: what ended the attempt.
            left: whether a byte of the request left.
        """
        request = call.request
        if not left or request.endpoint.safety is not Safety.SEND_ONCE:
            return evolve(error, delivered="unknown") if left else error
        unknown = retry.unknown(request, str(error), call.sent_at)
        try:
            return self._identified(unknown, call)
        except Exception:  # noqa: BLE001 - this may be the very mistake that ended the attempt
            return unknown

    def _identified(self, unknown: errors.DeliveryUnknown, call: _Call[Any]) -> errors.DeliveryUnknown:
        """Return `unknown` with the fingerprint by which the message can be looked for, and note the message."""
        self.sent.note_given_up(unknown.sent_at, self.clock.monotonic())
        fingerprint = None
        if call.request.message is not None:
            is_kept = call.journal is not None  # the journal keeps the message
            fingerprint = self.sent.note_doubtful(call.request.message, unknown.sent_at, is_kept=is_kept)
        return evolve(unknown, fingerprint=fingerprint, ended_at=self.clock.utc())

    def _mismatch(self, request: Request, answer: object) -> str | None:
        """Return what is wrong with `answer` if it answers another request, as may happen on a kept connection; else
        ``None``.
        """
        if not isinstance(answer, DirectMessage) or request.message is None:
            return None
        if answer.id is not None and answer.id in self.sent:
            return "the answer to an earlier request"
        return None if wire.is_answer_to(request.message, answer) else "no answer to this message"

    def _report(self, call: _Call[Any], attempt: Attempt, reply: object, outcome: Outcome[Any]) -> None:
        """Log the attempt, and call the observers, in the context of the caller; unless it was too late to leave."""
        error = outcome.error if isinstance(outcome, Failed) else None
        is_unknown = isinstance(error, errors.DeliveryUnknown)
        if attempt.is_late or not (self._observers or is_unknown or _log.isEnabledFor(logging.DEBUG)):
            return
        report = AttemptReport(
            endpoint=call.request.endpoint.name,
            method=call.request.endpoint.method,
            url=call.request.url,
            number=call.number,
            waited=call.waited,
            began=call.sent_at,
            took=self.clock.monotonic() - call.began,
            left=attempt.sent,
            status=reply.status if isinstance(reply, Reply) else None,
            headers=reply.headers if isinstance(reply, Reply) else {},
            problem=reply.problem if isinstance(reply, Fault) else None,
            outcome=outcome.answer if isinstance(outcome, Answered) else error or outcome,
            is_abandoned=call.is_abandoned,
        )
        _log.log(logging.WARNING if is_unknown else logging.DEBUG, "%s", report, extra=report.as_extra())
        for observer in self._observers:
            try:
                contextvars.copy_context().run(observer, report)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - an observer must not disturb the call
                _log.exception("an observer failed")


_NOTHING_YET: Final = Retry(retry.BEGINNING)
_CUT_OFF: Final = errors.InternalError(problem="the task that waited for the answer was cancelled")


def checked_wait(seconds: float | None, parameter: str = "max_wait") -> float | None:
    """Return `seconds`; ``None`` if they set no limit.

    Raises:
        InvalidInput: `seconds` is negative or not a number.
    """
    if seconds is None:
        return None
    return seconds if checked_seconds(seconds, parameter, math.inf) <= _FOR_EVER else None
