"""The tasks in which attempts are made. They belong to the client, so an attempt outlives a caller who gives up.

There are as many as ever were needed at once, up to a bound, and each makes one attempt after the other: no send makes
a task of its own. The bound stands before the connection pool, so that no request waits in the pool while its time
runs, and before signing: what is signed then leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from attrs import define

from twdm_async.errors import ClientClosed

T = TypeVar("T")


@define(eq=False)
class Job(Generic[T]):
    """An attempt to be made.

    Args:
        work: makes it.
        outcome: what `work` returned or raised; cancelled if the caller gave up.
        has_begun: whether it can no longer be withdrawn.
    """

    work: Callable[[Job[T]], Awaitable[T]]
    endpoint: str
    outcome: asyncio.Future[T]
    has_begun: bool = False

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for the outcome any more."""
        return self.outcome.cancelled()


class Senders:
    """At most `most` tasks that make attempts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: list[asyncio.Future[Job[Any] | None]] = []
        self._queue: deque[Job[Any]] = deque()
        self._is_closed = False

    async def run(self, job: Job[T]) -> T:
        """Have `job` done. Who is cancelled here leaves it to go on, unless it has not begun: then it never will.

        Raises:
            ClientClosed: it was closed before the job began.
        """
        if self._is_closed:
            raise ClientClosed(endpoint=job.endpoint)
        while self._resting:
            sender = self._resting.pop()
            if not sender.done():
                sender.set_result(job)
                break
        else:
            if len(self._tasks) < self._most:
                self._begin(job)
            else:
                self._queue.append(job)
        return await job.outcome

    def _begin(self, job: Job[Any]) -> None:
        """Have a task of its own begin with `job`."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                return
            if not job.has_begun:  # a task that is cancelled before its first step does nothing at all
                job.outcome.cancel()
            while self._queue and len(self._tasks) < self._most:
                waiting = self._queue.popleft()
                if not waiting.outcome.done():
                    self._begin(waiting)

        # Not in the caller's context: the task will work for others.
        task = asyncio.create_task(self._work(job), name="twdm_async sender", context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(ended)

    def end_waiting(self) -> None:
        """Begin nothing any more: who waits for a sender gets :class:`ClientClosed`."""
        self._is_closed = True
        while self._queue:
            job = self._queue.popleft()
            if not job.outcome.done():
                job.outcome.set_exception(ClientClosed(endpoint=job.endpoint))
        self.dismiss()

    def dismiss(self) -> None:
        """Let those senders go that have nothing to do."""
        while self._resting:
            sender = self._resting.pop()
            if not sender.done():
                sender.set_result(None)

    async def join(self) -> None:
        """Wait until all have ended."""
        while tasks := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(tasks)

    async def _work(self, first: Job[Any]) -> None:
        job: Job[Any] | None = first
        del first
        while job is not None:
            if not job.outcome.done():
                job.has_begun = True
                await _do(job)
            job = self._queue.popleft() if self._queue else None
            if job is None and not self._is_closed:
                job = await self._rest()

    async def _rest(self) -> Job[Any] | None:
        turn: asyncio.Future[Job[Any] | None] = asyncio.get_running_loop().create_future()
        self._resting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and (job := turn.result()) is not None:
                job.outcome.cancel()  # it was given in the same moment
            raise


async def _do(job: Job[Any]) -> None:
    try:
        result = await job.work(job)
    except asyncio.CancelledError:
        job.outcome.cancel()
        raise
    except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
        if not job.outcome.done():
            job.outcome.set_exception(error)
    else:
        with contextlib.suppress(asyncio.InvalidStateError):  # the caller gave up
            job.outcome.set_result(result)
