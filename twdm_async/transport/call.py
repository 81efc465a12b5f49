"""The one loop of attempts: admit, sign, exchange, read, decide.

A caller makes its attempts in its own task, where it may be cancelled as it likes. If it is when bytes have left, the
attempt becomes the client's: a task of the client's goes on with it from where it was, writes its outcome down and
tells the observers.
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
from twdm_async._forks import forks
from twdm_async._numbers import checked_number, checked_seconds
from twdm_async._quiet import mistake
from twdm_async.endpoints import ENDPOINTS, Host, Safety
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.observers import AttemptReport
from twdm_async.quota.lanes import Lane
from twdm_async.quota.operations import Intent, Recipient, Slot
from twdm_async.transport import retry, wire
from twdm_async.transport.attempt import Attempt
from twdm_async.transport.places import Places
from twdm_async.transport.retry import Answered, Failed, Outcome, Retry
from twdm_async.transport.sent import SentMessages
from twdm_async.transport.wire import Fault, Message, Reply, Request, Sink

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from twdm_async._clock import Clock
    from twdm_async.credentials import Credentials
    from twdm_async.observers import Observer
    from twdm_async.quota.limiter import QuotaLimiter
    from twdm_async.quota.line import Waiter
    from twdm_async.transport.http import HttpTransport
    from twdm_async.transport.oauth1 import OAuth1Signer

T = TypeVar("T")


_ANYONE = Lane()
_FOR_EVER: Final = 1e9  # seconds
_LONG_PAUSE: Final = 1.0  # seconds; a pause that is longer is logged

_log = logging.getLogger(__name__)


class Journal(ABC):
    """What somebody writes down of one call's attempts, so that a crash finds out how far they came.

    Its methods are awaited in a task of the client's, where no caller's cancellation reaches them.
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
    async def ended(self, outcome: Outcome[Any]) -> None:
        """What came of the attempt."""

    @abstractmethod
    def cut_off(self, outcome: Outcome[Any]) -> None:
        """The same, where the task that made the attempt was cancelled and can wait for nothing."""

    @abstractmethod
    def over(self) -> None:
        """Nothing of the attempt is under way any more, however it ended, and even if nobody could write that down."""


@define(eq=False)
class _Call(Generic[T]):
    """A call on its way.

    Args:
        into: the model of its answer.
        timeout: seconds that each of its attempts may take.
        slot: of the attempt to be made.
        attempt: that is being made.
        stamp: when it was, by the server's clock in seconds since 1970; no two attempts have the same.
        began: when it was, by the monotonic clock.
        number: which it is, from 1.
        waited: seconds that it waited for quota.
        is_abandoned: whether nobody waits for its outcome any more.
        watchers: set when the attempt that is under way has ended.
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
        """When the attempt was made (UTC), as its signature says."""
        return datetime.fromtimestamp(self.stamp, UTC)

    @property
    def may_go_on(self) -> bool:
        """Whether a task of the client's is to go on with the attempt when its caller is cancelled."""
        is_the_clients = self.journal is not None or self.is_abandoned
        return self.attempt is not None and self.attempt.sent and not is_the_clients


@define(eq=False)
class _Home:
    """The event loop and the process that a client is bound to."""

    loop: asyncio.AbstractEventLoop | None = None
    forks: int = 0


class Caller:
    """Makes calls, each of them one attempt or several.

    Args:
        hosts: scheme and host for each of the API's hosts.
        limiter: lets an attempt leave.
        signer: signs it, after the wait, anew for each.
        http: sends it.
        credentials: make the fingerprints of texts.
        clock: where time comes from.
        timeout: seconds one attempt may take. Leases of slots are as long as this one needs.
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
        self._tasks: set[asyncio.Task[Any]] = set()  # in which attempts are made that are the client's
        self.places = Places(http.most)
        self._server_time = signer.server_time  # one for all who wait, and not one each
        self.sent = SentMessages(credentials)

    def with_options(self, *, timeout: float | None, max_wait: float | None, observers: Sequence[Observer]) -> Self:
        """Return a caller that shares everything with this one, and whose calls have other defaults.

        Args:
            timeout: seconds one attempt may take; as before if ``None``.
            max_wait: seconds a call may wait for quota; as before if ``None``.
            observers: are told of its attempts, after those that are told of all.

        Raises:
            InvalidInput: `timeout` is longer than the leases of slots allow, or one of them is not a number of seconds.
        """
        other = copy.copy(self)
        other._timeout = self._checked_timeout(timeout)  # noqa: SLF001 - it is one of ours
        other._max_wait = self._max_wait if max_wait is None else checked_wait(max_wait)  # noqa: SLF001 - as above
        other._observers = (*self._observers, *observers)  # noqa: SLF001 - as above
        return other

    def _checked_timeout(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_number(timeout, "timeout", most=self._longest)

    @property
    def api_host(self) -> str:
        """Scheme and host of the API."""
        return self._hosts[Host.API]

    def bind_loop(self) -> asyncio.AbstractEventLoop:
        """To be called before each use: bind this to the running loop, if it is not bound yet, and return it.

        Raises:
            WrongEventLoop: it is bound to another one, or to the process that this one was forked off.
        """
        loop, home = asyncio.get_running_loop(), self._home
        if home.loop is None:
            home.loop, home.forks = loop, forks()
        elif home.forks != forks():
            raise errors.WrongEventLoop(problem="the client was used before this process was forked off")
        elif home.loop is not loop:
            gone = ", which is closed" if home.loop.is_closed() else ""
            raise errors.WrongEventLoop(problem=f"the client is in use in another event loop{gone}")
        return loop

    async def close(self, timeout: float) -> None:
        """Begin nothing any more, and wait for what is under way: up to `timeout` seconds, then it is ended."""
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

    def enter(self, name: str, lane: Lane, max_wait: float | None, recipient_id: str) -> Slot | Waiter:
        """Take the slot of a message's first attempt, or return a future of it. Call :meth:`leave` if awaiting that
        raises. Errors are those of :meth:`QuotaLimiter.admit <twdm_async.quota.limiter.QuotaLimiter.admit>`.
        """
        loop = self.bind_loop()
        patience = self._max_wait if max_wait is None else checked_wait(max_wait)
        return self._limiter.enter(ENDPOINTS[name].family, lane, patience, None, self._recipient(recipient_id), loop)

    def leave(self, waiter: Waiter) -> None:
        """Give up a place in the queue, and the slot if one came."""
        self._limiter.leave(waiter)

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | bytes,
        into: type[T],
        *,
        path_id: str | None = None,
        message: Message | None = None,
        lane: Lane = _ANYONE,
        max_wait: float | None = None,
        timeout: float | None = None,
        slot: Slot | None = None,
        waited: float = 0.0,
        journal: Journal | None = None,
        files_host: str | None = None,
        sink: Sink | None = None,
    ) -> T:
        """Call the endpoint `name` and structure what it answers.

        Args:
            name: a name from the table of endpoints.
            arguments: what to send, checked; a JSON body may be encoded already.
            into: the model of the answer; ``type(None)`` where there is none.
            path_id: a checked id for the path.
            message: what is known of the message that is sent.
            lane: where to wait.
            max_wait: seconds to wait for quota, over all attempts; the client's if not given.
            timeout: seconds one attempt may take; the client's if not given, and no more than that.
            slot: of the first attempt, if there is one already.
            waited: seconds that it took to have it.
            journal: where its attempts are written down.
            files_host: where a message's file is, checked.
            sink: where the body of the answer goes, if it is a file.

        Raises:
            TwdmError: any of the tree, as :mod:`twdm_async.transport.retry` decides.
        """
        if slot is None:
            self.bind_loop()
        call: _Call[T] | None = None
        try:
            hosts = self._hosts if files_host is None else {**self._hosts, Host.FILES: files_host}
            request = wire.encode(ENDPOINTS[name], hosts, arguments, path_id=path_id, message=message)
            request.sink = sink
            del arguments  # a traceback that shows what its frames hold is not to show a message
            call = _Call(request, into, journal, self._checked_timeout(timeout), slot, waited=waited)
            return await self._attempts(call, lane, max_wait)
        except errors.TwdmError:
            raise
        except Exception as error:  # noqa: BLE001 - nobody could have expected it
            problem = mistake(error)
        finally:
            unused = slot if call is None else call.slot if call.attempt is None else None
            if unused is not None:
                self._limiter.give_back(unused)
        raise problem

    async def _attempts(self, call: _Call[T], lane: Lane, max_wait: float | None) -> T:
        patience = self._max_wait if max_wait is None else checked_wait(max_wait)
        if patience is not None:
            patience = max(0.0, patience - call.waited)
        while True:
            if call.slot is None:
                patience = await self._admit(call, lane, patience)
            outcome = await (self._attempt(call) if call.journal is None else self._kept_attempt(call))
            match outcome:
                case Answered(answer):
                    return answer
                case Failed(error):
                    raise error
                case Retry():
                    call.story, call.attempt = outcome.story, None
                    if outcome.after:
                        if outcome.after > _LONG_PAUSE:
                            _log.info("%s: tries again in %.0f s", call.request.endpoint.name, outcome.after)
                        await self.clock.sleep(outcome.after)
                case _:
                    assert_never(outcome)

    async def _admit(self, call: _Call[Any], lane: Lane, patience: float | None) -> float | None:
        """Get `call` a slot. Returns how many seconds of waiting are left."""
        endpoint, story = call.request.endpoint, call.story
        intent = call.journal.intent if call.journal else None
        recipient = self._recipient(call.request.message.recipient_id if call.request.message else None)
        began = self.clock.monotonic()
        try:
            call.slot = await self._limiter.admit(endpoint.family, lane, patience, intent, recipient)
        except errors.TwdmError as error:
            problem = error
            if isinstance(error, errors.QuotaStoreFailed) and endpoint.safety is Safety.READ and self._uncounted_reads:
                call.slot = None  # it leaves uncounted
                return patience
        else:
            call.waited = self.clock.monotonic() - began
            return None if patience is None else max(0.0, patience - call.waited)
        if isinstance(problem, errors.QuotaWaitTooLong) and story.refusal is not None:
            # It was sent and the server refused it: that is what the caller should know.
            problem = evolve(story.refusal, retry_at=problem.retry_at)
        raise retry.told_whole(problem, call.request, story)

    def _recipient(self, person: str | None) -> Recipient | None:
        return Recipient(person, self._server_time) if person else None

    def server_time(self) -> float:
        """Seconds since 1970 by the server's clock, as far as it is known; in any thread."""
        return self._signer.server_time()

    async def _kept_attempt(self, call: _Call[T]) -> Outcome[T]:
        """Make an attempt that is written down, which must not be cut off by a caller, in a task of the client's."""
        task = self._begin(call)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            call.is_abandoned = True
            if call not in self._under_way:
                task.cancel()
                self._give_back(call)  # the task may not come to its first step
            raise

    def _begin(self, call: _Call[T]) -> asyncio.Task[Outcome[T]]:
        """Make the attempt, or go on with it, in a task of the client's, in the context of the caller."""

        def ended(task: asyncio.Task[Outcome[T]]) -> None:
            self._tasks.discard(task)
            if call in self._under_way and call.attempt is not None:  # it was cancelled before its first step
                self._cut_off(call, call.attempt)
                self._end(call)

        task = asyncio.create_task(self._attempt(call), name="twdm_async attempt")
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    async def _attempt(self, call: _Call[T]) -> Outcome[T]:
        """Make an attempt; or in a task of the client's, go on with one whose caller was cancelled."""
        attempt = call.attempt
        if attempt is None:
            if not self.places.take_now():
                try:
                    await self.places.take(call.request.endpoint.name)
                except BaseException:
                    self._give_back(call)
                    raise
            self._under_way.add(call)
            self.clock.begin_work(call)
        is_over = True
        try:
            attempt = attempt or self._attempt_for(call)
            if attempt is None:
                if call.journal is not None:
                    await call.journal.ended(Retry(call.story))
                return Retry(call.story)
            try:
                reply, outcome = await self._exchange(call, attempt)
            except asyncio.CancelledError:
                if call.may_go_on:
                    call.is_abandoned = True
                    self._begin(call)
                    is_over = False
                raise
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

    def _attempt_for(self, call: _Call[Any]) -> Attempt | None:
        """Return the attempt to be made now; ``None`` if it waited for its place for so long that it needs another
        slot.
        """
        slot = call.slot
        if slot is None:
            call.attempt = Attempt(call.timeout)
        elif self.clock.uptime() <= slot.send_by:
            call.attempt = Attempt(call.timeout, slot.send_by, self.clock.uptime)
        else:
            self._give_back(call)
            return None
        call.number += 1
        call.began, call.stamp = self.clock.monotonic(), self._signer.next_stamp()
        return call.attempt

    def _end(self, call: _Call[Any]) -> None:
        """Free what the attempt held."""
        self.places.give_back()
        self._under_way.discard(call)
        self.clock.end_work(call)
        if not self._under_way:
            self._idle.set()
        for watcher in call.watchers:
            watcher.set()
        if call.journal is not None:
            call.journal.over()

    async def _exchange(self, call: _Call[T], attempt: Attempt) -> tuple[Reply | Fault | None, Outcome[T]]:
        """Have the attempt made, and tell what came of it. However this ends, the slot is settled, or given back if no
        byte left; unless a task of the client's goes on with it.
        """
        reply: Reply | Fault | None = None
        outcome: Outcome[T] = _NOTHING_YET
        is_over = True
        try:
            try:
                if not attempt.authorization:
                    if call.journal is not None:
                        is_written = call.slot is not None and call.slot.intent is not None
                        await call.journal.leaving(call.stamp, is_written=is_written)
                    attempt.authorization = self._signer.sign(call.request, call.stamp)
                reply = await self._http.exchange(call.request, attempt)
                if isinstance(reply, Reply):
                    self._limiter.learn(call.request.endpoint.family, reply.status, reply.headers)
                # An attempt that came too late for its slot did not fail; it needs another slot.
                outcome = Retry(call.story) if attempt.is_late else self._decide(call, attempt, reply)
            except errors.TwdmError as error:  # the client was closed, or the journal could not be written
                outcome = Failed(error)
            except asyncio.CancelledError:
                is_over = not call.may_go_on
                raise
            finally:
                if is_over:
                    attempt.distrust()  # unless it was said before that it can be trusted
                    self._settle(call, attempt, reply, outcome)
            return reply, outcome
        except Exception as error:  # noqa: BLE001 - a mistake of ours is no reason to leave it open
            return None, Failed(self._failed(call, mistake(error), left=attempt.sent))
        except BaseException as cancelled:
            if is_over:
                self._cut_off(call, attempt)
            raise cancelled from None

    def _cut_off(self, call: _Call[Any], attempt: Attempt) -> None:
        """Tell of an attempt whose task was cancelled, so that nobody will know what came of it. Settle its slot, if it
        is not settled.
        """
        outcome: Outcome[Any] = Retry(call.story)
        if attempt.sent:
            outcome = Failed(self._failed(call, _CUT_OFF, left=True))
            self._report(call, attempt, None, outcome)
        attempt.distrust()
        self._settle(call, attempt, None, outcome)
        if call.journal is not None:  # whoever comes next will write it down
            call.journal.cut_off(outcome)

    def _note(self, call: _Call[Any], outcome: Outcome[Any]) -> None:
        """Note a message that was sent. Not if it was only looked up; and a journal keeps those without an id by
        itself, and longer.
        """
        message = call.request.message
        if message is not None and isinstance(outcome, Answered):
            answer = outcome.answer
            if isinstance(answer, DirectMessage) and (answer.id or call.journal is None):
                self.sent.note_answer(message, answer, call.sent_at)

    def _settle(self, call: _Call[T], attempt: Attempt, reply: Reply | Fault | None, outcome: Outcome[T]) -> None:
        if not attempt.sent:
            self._give_back(call)
        elif call.slot is not None:
            answer: Any = outcome.answer if isinstance(outcome, Answered) else None
            is_message = isinstance(answer, DirectMessage)
            self._limiter.settle(
                call.slot,
                seen=isinstance(reply, Reply),
                made=answer.created_at if is_message else None,
                message_id=answer.id if is_message else None,
            )
            call.slot = None

    def _give_back(self, call: _Call[Any]) -> None:
        if call.slot is not None:
            self._limiter.give_back(call.slot)
            call.slot = None

    def _decide(self, call: _Call[T], attempt: Attempt, reply: Reply | Fault) -> Outcome[T]:
        """What follows from `reply`."""
        request, error = call.request, None
        if isinstance(reply, Reply):
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
        """What is known of an attempt that `error` ended, and not what came of it."""
        request = call.request
        if not left or request.endpoint.safety is not Safety.SEND_ONCE:
            return evolve(error, delivered="unknown") if left else error
        unknown = retry.unknown(request, str(error), call.sent_at)
        try:
            return self._identified(unknown, call)
        except Exception:  # noqa: BLE001 - that may have been the mistake
            return unknown

    def _identified(self, unknown: errors.DeliveryUnknown, call: _Call[Any]) -> errors.DeliveryUnknown:
        """`unknown`, with what the message can be looked for by."""
        self.sent.note_given_up(unknown.sent_at, self.clock.monotonic())
        fingerprint = None
        if call.request.message is not None:
            is_kept = call.journal is not None  # the journal knows of it
            fingerprint = self.sent.note_doubtful(call.request.message, unknown.sent_at, is_kept=is_kept)
        return evolve(unknown, fingerprint=fingerprint, ended_at=self.clock.utc())

    def _mismatch(self, request: Request, answer: object) -> str | None:
        """What is wrong with `answer`, if it answers another request: anything may come over a kept connection."""
        if not isinstance(answer, DirectMessage) or request.message is None:
            return None
        if answer.id is not None and answer.id in self.sent.ids:
            return "the answer to an earlier request"
        return None if wire.is_answer_to(request.message, answer) else "no answer to this message"

    def _report(self, call: _Call[Any], attempt: Attempt, reply: Reply | Fault | None, outcome: Outcome[Any]) -> None:
        """Log the attempt, and tell the observers, in the context of the caller."""
        error = outcome.error if isinstance(outcome, Failed) else None
        is_unknown = isinstance(error, errors.DeliveryUnknown)
        if not (self._observers or is_unknown or _log.isEnabledFor(logging.DEBUG)):
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
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - whoever watches may not get in the way
                _log.exception("an observer failed")


_NOTHING_YET: Final = Retry(retry.BEGINNING)
_CUT_OFF: Final = errors.InternalError(problem="the task was cancelled that waited for the answer")


def checked_wait(max_wait: float | None) -> float | None:
    """`max_wait` in seconds; ``None`` if there is no bound.

    Raises:
        InvalidInput: it is negative or not a number.
    """
    if max_wait is None:
        return None
    return max_wait if checked_seconds(max_wait, "max_wait", math.inf) <= _FOR_EVER else None
