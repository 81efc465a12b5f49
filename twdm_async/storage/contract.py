"""What an outbox, an inbox and a quota store ask of the place where they keep their tables.

It is a transaction over rows (:meth:`Storage.change`, :meth:`Storage.read`), news that something has changed
(:meth:`Storage.version`), who is alive (:meth:`Storage.stay_alive`, :meth:`Storage.is_dead`), and what time it is
(:class:`Transaction`). All that waits for the disk or the network runs in a thread of its own.

Changes that are asked for while a transaction runs are made in the next one, all together: a disk makes some thousand
transactions a second at best, and each of them takes any number of changes. Each change succeeds or fails by itself: if
one of them fails, or the transaction does (the disk is full, say), none is kept, and each is made once more in a
transaction of its own, unless all would wait in vain again. Where a server is asked, all of them are sent before the
first outcome is waited for, as far as they do not depend on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakMethod

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from twdm_async._clock import Clock

T = TypeVar("T")


class StorageTrouble(Exception):
    """The place could not be read or written, or is not to be trusted.

    Args:
        problem: what is wrong, and what to do about it.
        is_unsure: whether the change may have been made all the same.
        is_general: whether it was waited for in vain, and any other change would wait for the same.
    """

    def __init__(self, problem: str, *, is_unsure: bool = False, is_general: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_unsure = is_unsure
        self.is_general = is_general


@frozen
class Schema:
    """The tables of one package. Several packages may share a place.

    Args:
        package: its name.
        steps: what makes each version of the tables out of the one before, the first of them out of nothing: statements
            of SQL as SQLite understands them, with a semicolon between two.
        earlier: which version of the tables the files of format 1, 2, 3 and 4 have.
        upgrades: by the number of a step, what is done in a file after it that was made by an earlier version of this
            library; it gets the database.
        latest: the query for the number of the latest row that an application's own transaction may have put.
        is_lenient: whether a text that is not UTF-8 is given out with marks in it, so that it does not hide the others.
    """

    package: str
    steps: tuple[str, ...]
    earlier: tuple[int, int, int, int] = (0, 0, 0, 0)
    upgrades: Mapping[int, Callable[[Any], None]] = field(factory=dict[int, Callable[[Any], None]])
    is_lenient: bool = False
    latest: str = "SELECT 0"


@frozen
class User:
    """A process that uses the tables of a package, or used them lately.

    Args:
        owner: the name under which it works on rows.
        host: on which it runs.
        pid: its process id there; 0 if that is not known.
        since: when it began, in seconds since 1970.
        is_alive: whether it is believed to live.
    """

    owner: str
    host: str
    pid: int
    since: float
    is_alive: bool


class Cursor(Protocol):
    """What a statement has found or done."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or ``None``."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(ABC):
    """One transaction, and the time in it, on which all who share the place agree."""

    @property
    @abstractmethod
    def wall(self) -> float:
        """Seconds since 1970."""

    @property
    @abstractmethod
    def uptime(self) -> float:
        """Seconds since some moment. Setting a clock does not change it; a new start of the machine may."""

    @abstractmethod
    def execute(self, query: str, values: Sequence[Any] = ()) -> Cursor:
        """Execute `query`, whose values are marked with ``?``."""

    def tell(self) -> None:  # noqa: B027 - a file tells nothing
        """Tell those who listen, once this is committed, that something was put."""

    def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute `query` for each of `rows`."""
        for values in rows:
            self.execute(query, values)


def passed(last_wall: float, last_uptime: float, wall: float, uptime: float) -> float:
    """Return how many seconds have passed since the clocks showed that last, whatever they were set to meanwhile: the
    least that can be said.
    """
    by_uptime, by_wall = uptime - last_uptime, wall - last_wall
    if by_uptime < 0:  # the machine was started anew
        return max(0.0, by_wall)
    return by_uptime if by_wall < 0 else min(by_uptime, by_wall)  # it was set back


class _Change(Generic[T]):
    """What is to be done in a transaction, and what came of it.

    Args:
        work: gets the transaction, and returns what tells the outcome. It may be done more than once, and counts once.
        is_durable: whether it must be on the disk then.
    """

    def __init__(self, work: Callable[[Transaction], Callable[[], T]], is_durable: bool) -> None:
        self.work = work
        self.is_durable = is_durable
        self.is_made = False
        self.result: Any = None
        self.error: BaseException | None = None


class Storage(ABC):
    """The tables of one package in some place.

    Args:
        schema: the tables.
        content: what these keep, in words.
        advice: what to do if it cannot be read any more.
        clock: this machine's.
    """

    def __init__(self, schema: Schema, content: str, advice: str, clock: Clock) -> None:
        self._schema = schema
        self._content = content
        self._if_bad = advice
        self._clock = clock
        self._thread: _Thread | None = None
        self._changes: deque[_Change[Any]] = deque()

    # ---- what each kind does in its own way; all of it in the storage's thread ----

    @property
    @abstractmethod
    def address(self) -> str:
        """Which place it is, for errors and logs; never with a password."""

    @abstractmethod
    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        """Do `work` in one transaction. To be called in the storage's thread.

        Args:
            work: gets the transaction. It may be done more than once, and counts once.
            is_durable: whether it must be on the disk when this returns, and not only safe from a crash of processes.
            only_reads: whether it changes nothing.

        Raises:
            StorageTrouble: nothing was changed, unless it says so.
        """

    @abstractmethod
    def version(self) -> int:
        """A number that differs from that of the last time if somebody else has changed something. To be called in
        the storage's thread.
        """

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002 - a file tells nothing
        """Call `heard` in the running loop as soon as somebody else puts something, where the place can tell.

        Returns:
            What ends it.
        """
        return lambda: None

    @property
    @abstractmethod
    def owner(self) -> str:
        """The name under which this process works on rows; another one after a fork."""

    @abstractmethod
    def stay_alive(self, transaction: Transaction, /) -> None:
        """See that the others know that this process lives, so that nobody takes over its work.

        Raises:
            StorageTrouble: they cannot know it.
        """

    @abstractmethod
    def is_dead(self, transaction: Transaction, /, owner: str) -> bool:
        """Tell whether the process of `owner` has ended. Do not ask it for the own name."""

    @abstractmethod
    def users(self, transaction: Transaction, /) -> list[User]:
        """Tell who uses these tables."""

    @abstractmethod
    def sweep(self, transaction: Transaction, /) -> None:
        """Remove what owners left behind that have ended."""

    @abstractmethod
    def take_turn(self, transaction: Transaction, /, name: str) -> bool:
        """Be the only one of all processes who does what is called `name`, if nobody else does it now."""

    @abstractmethod
    def end_turn(self, name: str) -> None:
        """Let another one do what is called `name`. May be called in the loop."""

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether the others believe that this process lives."""

    @abstractmethod
    def release(self) -> None:
        """Let others take over this process' work. May be called in the loop."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close the connection; the next use opens another one."""

    is_remote = False
    """Whether it takes time to hear from it, so that all work is sent before the first outcome is waited for."""

    beats_every: float | None = None
    """Seconds after which a sign of life is due."""

    def beat(self) -> None:  # noqa: B027 - a process of this machine is seen to live
        """Give a sign of life."""

    def sync(self) -> None:  # noqa: B027 - what is committed may be there already
        """Have what was written forced to the disk."""

    # ---- the same for all ----

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Do `work`, which changes nothing, in one transaction.

        Raises:
            StorageTrouble: it could not be read.
        """
        return await self.submit(partial(self.transact, work, only_reads=True))

    async def change(self, work: Callable[[Transaction], T], *, is_durable: bool = False) -> T:
        """Do `work` in a transaction that the changes of this moment share.

        Args:
            work: gets the transaction. It may be done more than once, and counts once.
            is_durable: whether it must be on the disk when this returns, and not only safe from a crash of processes.

        Raises:
            StorageTrouble: nothing was changed, unless it says so.
        """

        def done(transaction: Transaction) -> Callable[[], T]:
            outcome = work(transaction)
            return lambda: outcome

        return await self.change_together(done, is_durable=is_durable)

    async def change_together(self, work: Callable[[Transaction], Callable[[], T]], *, is_durable: bool = False) -> T:
        """Do `work` as :meth:`change` does, without waiting for a server after each of the changes of this moment.

        Args:
            work: gets the transaction, and returns what tells the outcome when all have done their work.
            is_durable: as of :meth:`change`.

        Raises:
            StorageTrouble: nothing was changed, unless it says so.
        """
        change = _Change(work, is_durable)
        self._changes.append(change)
        return await self.submit(partial(self._make, change))

    def _make(self, change: _Change[T]) -> T:
        """Make all changes that are to be made now, and return what came of this one."""
        if not change.is_made:
            together: list[_Change[Any]] = []
            with contextlib.suppress(IndexError):  # the loop goes on adding some
                while True:
                    together.append(self._changes.popleft())
            self._make_together(together)
        if change.error is not None:
            raise change.error
        result: T = change.result
        return result

    def _make_together(self, together: Sequence[_Change[Any]]) -> None:
        def make_all(transaction: Transaction) -> None:
            outcomes: Iterable[Callable[[], Any]] = (change.work(transaction) for change in together)
            if self.is_remote:
                outcomes = list(outcomes)
            for change, outcome in zip(together, outcomes, strict=True):
                change.result = outcome()

        problem: BaseException | None = None
        is_of_one = False
        try:
            self.transact(make_all, is_durable=any(change.is_durable for change in together))
        except StorageTrouble as trouble:
            problem, is_of_one = trouble, not (trouble.is_unsure or trouble.is_general)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            problem, is_of_one = error, True
        if is_of_one and len(together) > 1:
            for change in together:
                self._make_together([change])
            return
        for change in together:
            change.is_made, change.error = True, problem

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Do `job` in the storage's thread, after all that was asked for before; the future gets its outcome."""
        return self._worker.submit(job)

    def put(self, job: Callable[[], object]) -> None:
        """Do `job` in the storage's thread, some time; it must not raise."""
        self._worker.put(job)

    def sync_soon(self) -> None:
        """Have what was written forced to the disk."""
        if self._thread is not None:
            self._thread.put(self.sync)

    @property
    def _worker(self) -> _Thread:
        if self._thread is None:
            self._thread = _Thread(WeakMethod(self.beat), self.beats_every)
        return self._thread

    def leave_behind(self) -> None:
        """This process was forked off the one that opened it: begin anew, and leave what was opened to that one."""
        self._thread = None  # no thread comes along
        self._changes.clear()  # it makes these

    async def close(self) -> None:
        """Let go of it, after all that was asked for before."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await thread.submit(self.disconnect)
            thread.end()


class _Thread:
    """Does one thing after the other, off the loop. Ends with the process.

    Args:
        beat: what it does besides every `every` seconds; ends with its object.
        every: seconds.
    """

    def __init__(self, beat: WeakMethod[Callable[[], None]], every: float | None) -> None:
        self._beat = beat
        self._every = every
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="twdm_async storage", daemon=True).start()

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Do `job`; the future gets what it returns or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                outcome: Callable[[], None] = partial(answer.set_exception, error)
            else:
                outcome = partial(answer.set_result, result)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(lambda: None if answer.done() else outcome())

        self._jobs.put(work)
        return answer

    def put(self, job: Callable[[], object]) -> None:
        """Do `job` some time; it must not raise."""
        self._jobs.put(job)

    def end(self) -> None:
        """After what was put so far, do nothing more."""
        self._jobs.put(None)

    def _work(self) -> None:
        beat_at = math.inf if self._every is None else time.monotonic() + self._every
        while True:
            wait = beat_at - time.monotonic()
            try:
                job = self._jobs.get(timeout=None if wait == math.inf else max(0.0, wait))
            except queue.Empty:
                job = None
            else:
                if job is None:  # it was told to end
                    return
                job()
            del job
            if self._every is not None and time.monotonic() >= beat_at:
                beat_at = time.monotonic() + self._every
                beat = self._beat()
                if beat is None:  # nobody uses it any more
                    return
                beat()
                del beat
