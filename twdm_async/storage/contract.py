"""The contract of a storage, in which an outbox, an inbox and a quota store keep their tables.

A storage provides transactions over rows (:meth:`Storage.change`, :meth:`Storage.read`), detects changes made by others
(:meth:`Storage.version`), tells which processes are alive (:meth:`Storage.stay_alive`, :meth:`Storage.is_dead`), and
tells the time (:class:`Transaction`). Everything that waits for the disk or the network runs in a separate thread.

Changes that are requested while a transaction runs, or while it is another process' turn, are made together in the next
one: a disk makes a few thousand transactions a second at best, and a transaction can hold any number of changes. Yet
each change succeeds or fails by itself: if one change fails, or the transaction does (because the disk is full, say),
none of them is kept, and each is made again in a transaction of its own, unless all of them would only wait in vain
again. With a remote server, the statements of all changes are sent before the first outcome is awaited, unless a
statement depends on an outcome.
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
from itertools import groupby
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakMethod

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from twdm_async._clock import Clock

T = TypeVar("T")


class StorageTrouble(Exception):
    """The storage could not be read or written, or its data cannot be trusted.

    Args:
        problem: what is wrong, and what to do about it.
        is_unsure: whether the change may have been made all the same.
        is_general: whether the change timed out waiting for something for which any other change would wait, too.
    """

    def __init__(self, problem: str, *, is_unsure: bool = False, is_general: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_unsure = is_unsure
        self.is_general = is_general


@frozen
class Schema:
    """The tables of one package. Several packages may share a file or database.

    Args:
        package: the package's name.
        steps: the migrations: each makes one version of the tables out of the version before, the first one out of
            nothing. Each has SQL statements in SQLite's dialect, separated by semicolons.
        earlier: which version of the tables the files of format 1, 2, 3 and 4 have.
        upgrades: what is to be done after a step in a file that an earlier version of this library made, by the number
            of the step. Each gets the database connection.
        content: what the tables keep, in words, for error messages.
        advice: what to do if the tables can no longer be read, for error messages.
        latest: the query for the number of the latest row that an application's own transaction may have inserted.
        is_lenient: whether a text that is not UTF-8 is returned with replacement characters, so that it does not make
            the other rows unreadable.
    """

    package: str
    steps: tuple[str, ...]
    content: str = ""
    advice: str = ""
    earlier: tuple[int, int, int, int] = (0, 0, 0, 0)
    upgrades: Mapping[int, Callable[[Any], None]] = field(factory=dict[int, Callable[[Any], None]])
    is_lenient: bool = False
    latest: str = "SELECT 0"


@frozen
class User:
    """A process that uses the tables of a package, or has used them recently.

    Args:
        owner: the name under which it works on rows.
        host: the host on which it runs.
        pid: its process id on that host; 0 if that is not known.
        since: when it began, in seconds since 1970.
        is_alive: whether it is believed to be alive.
    """

    owner: str
    host: str
    pid: int
    since: float
    is_alive: bool


class Cursor(Protocol):
    """The outcome of a statement."""

    @property
    def rowcount(self) -> int:
        """The number of changed rows."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or ``None``."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(ABC):
    """One transaction, and its time, on which all processes that share the storage agree."""

    @property
    @abstractmethod
    def wall(self) -> float:
        """The present time, in seconds since 1970."""

    @property
    @abstractmethod
    def uptime(self) -> float:
        """Seconds since some arbitrary moment. Setting a clock does not change it; a restart of the machine may."""

    @abstractmethod
    def execute(self, query: str, values: Sequence[Any] = ()) -> Cursor:
        """Execute `query`, in which ``?`` stands for each of `values`."""

    def await_turn(self) -> None:  # noqa: B027 - a file's transaction begins when others have ended
        """Wait until no other process is in a transaction on the same rows."""

    def tell(self) -> None:  # noqa: B027 - a file cannot notify anybody
        """Notify listeners, once this transaction is committed, that a row was inserted."""

    def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute `query` for each of `rows`."""
        for values in rows:
            self.execute(query, values)


def passed(last_wall: float, last_uptime: float, wall: float, uptime: float) -> float:
    """Return how many seconds have passed, at least, since the clocks showed `last_wall` and `last_uptime`, even if a
    clock was set meanwhile.
    """
    by_uptime, by_wall = uptime - last_uptime, wall - last_wall
    if by_uptime < 0:  # the machine was restarted
        return max(0.0, by_wall)
    return by_uptime if by_wall < 0 else min(by_uptime, by_wall)  # below 0, the wall clock was set back


class _Change(Generic[T]):
    """A change that is to be made in a transaction, and its outcome, which is awaited in the running event loop.

    Args:
        work: makes the change in the transaction that it gets, and returns a function that returns the outcome. It may
            run more than once, but is committed only once.
        is_durable: whether the change must be on the disk when it counts as made.
    """

    def __init__(self, work: Callable[[Transaction], Callable[[], T]], is_durable: bool) -> None:
        self.work = work
        self.is_durable = is_durable
        self.result: Any = None
        self.error: BaseException | None = None
        self.made: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def tell(self) -> None:
        """Give the outcome to who awaits it. Call this in the event loop."""
        if self.made.done():
            return
        if self.error is not None:
            self.made.set_exception(self.error)
        else:
            self.made.set_result(self.result)


class Storage(ABC):
    """The tables of one package in a file or a database.

    Args:
        schema: the tables.
        clock: this machine's clock.
    """

    def __init__(self, schema: Schema, clock: Clock) -> None:
        self._schema = schema
        self._clock = clock
        self._thread: _Thread | None = None
        self._changes: deque[_Change[Any]] = deque()

    # ---- what each kind of storage implements; it runs in the storage's thread, unless it says otherwise ----

    @property
    @abstractmethod
    def address(self) -> str:
        """The address of the file or database, for errors and logs; never with a password."""

    @abstractmethod
    def transact(self, work: Callable[[Transaction], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        """Run `work` in one transaction. Call this in the storage's thread.

        Args:
            work: gets the transaction. It may run more than once, but is committed only once.
            is_durable: whether its changes must be on the disk when this returns, and not only safe from a crash of
                processes.
            only_reads: whether it changes nothing.

        Raises:
            StorageTrouble: the transaction failed. Nothing was changed, unless the error's `is_unsure` is true.
        """

    def version(self) -> int:
        """Return a number that differs from the last one returned if another process has changed something. Call this
        in the storage's thread.
        """
        return 0

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002 - a file cannot notify anybody
        """Call `heard` in the running event loop as soon as another process inserts a row, if the storage can tell.

        Returns:
            A function that ends the listening.
        """
        return lambda: None

    @property
    @abstractmethod
    def owner(self) -> str:
        """The name under which this process works on rows; after a fork, the child has a new name."""

    # ---- the other processes; by default, there are none ----

    def stay_alive(self, transaction: Transaction, /) -> None:  # noqa: B027 - as the heading says
        """Make sure that other processes see that this one is alive, so that none takes over its work.

        Raises:
            StorageTrouble: other processes could not see it.
        """

    def is_dead(self, transaction: Transaction, /, owner: str) -> bool:  # noqa: ARG002 - as above
        """Tell whether the process of `owner` has ended. Do not call this with this process' own name."""
        return False

    def users(self, transaction: Transaction, /) -> list[User]:  # noqa: ARG002 - as above
        """Return the other processes that use these tables."""
        return []

    def sweep(self, transaction: Transaction, /) -> None:  # noqa: B027 - as above
        """Remove what owners that have ended left behind."""

    def take_turn(self, transaction: Transaction, /, name: str) -> bool:  # noqa: ARG002 - as above
        """Reserve the job called `name` for this process, and return True; return False if another process has it."""
        return True

    def end_turn(self, name: str) -> None:  # noqa: B027 - as above
        """Let other processes take the job called `name`, after all changes that were requested before. Call this in
        the event loop.
        """

    @property
    def is_alive(self) -> bool:
        """Whether other processes can see that this one is alive."""
        return False

    def release(self) -> None:  # noqa: B027 - as above
        """Let other processes take over this one's work. May be called in the event loop."""

    def disconnect(self) -> None:  # noqa: B027 - as above
        """Close the connection; the next use opens another one."""

    def use_running_loop(self) -> None:  # noqa: B027 - only connections of an asynchronous pool belong to a loop
        """Note in which event loop this storage is used."""

    is_remote = False
    """Whether each answer takes a round trip, so that all statements are sent before the first outcome is awaited."""

    beats_every: float | None = None
    """Seconds between two calls of :meth:`beat`; ``None`` if it is never called."""

    def beat(self) -> None:  # noqa: B027 - a process of this machine shows its life by a lock
        """Give a sign of life."""

    def sync(self) -> None:  # noqa: B027 - what is committed may be on the disk already
        """Force what was written to the disk."""

    # ---- what all kinds of storage have in common ----

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, which changes nothing, in one transaction.

        Raises:
            StorageTrouble: the storage could not be read.
        """
        return await self.submit(partial(self.transact, work, only_reads=True))

    async def change(self, work: Callable[[Transaction], T], *, is_durable: bool = False) -> T:
        """Run `work` in a transaction that it shares with other changes requested until it begins.

        Args:
            work: gets the transaction. It may run more than once, but is committed only once.
            is_durable: whether its changes must be on the disk when this returns, and not only safe from a crash of
                processes.

        Raises:
            StorageTrouble: the transaction failed. Nothing was changed, unless the error's `is_unsure` is true.
        """
        return await self.change_together(_whole(work), is_durable=is_durable)

    async def change_together(self, work: Callable[[Transaction], Callable[[], T]], *, is_durable: bool = False) -> T:
        """Run `work` as :meth:`change` does, but without waiting for a server after each change of the transaction.

        Args:
            work: gets the transaction, and returns a function that returns the outcome. That function is called after
                all changes of the transaction have sent their statements.
            is_durable: as for :meth:`change`.

        Raises:
            StorageTrouble: the transaction failed. Nothing was changed, unless the error's `is_unsure` is true.
        """
        return await self._requested(work, is_durable=is_durable)

    def change_soon(
        self, work: Callable[[Transaction], object], *, if_it_fails: Callable[[], object] = lambda: None
    ) -> None:
        """Run `work` as :meth:`change` does, without waiting for it. If the transaction fails, call `if_it_fails`."""

        def ended(made: asyncio.Future[object]) -> None:
            if not made.cancelled() and made.exception() is not None:
                if_it_fails()

        self._requested(_whole(work), is_durable=False).add_done_callback(ended)

    def _requested(self, work: Callable[[Transaction], Callable[[], T]], *, is_durable: bool) -> asyncio.Future[T]:
        self.use_running_loop()
        change, worker = _Change(work, is_durable), self._worker  # which may fail to start
        self._changes.append(change)
        if len(self._changes) <= 1:  # else a job that will make it waits already
            worker.put(self._make_all)
        return change.made

    def _make_all(self) -> None:
        """Make all changes that are requested until it is this process' turn."""
        together: list[_Change[Any]] = []
        self._gather(together)
        if together:
            self._make_together(together, may_grow=True)
            for loop, changes in groupby(together, lambda change: change.made.get_loop()):
                with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits any longer
                    loop.call_soon_threadsafe(_tell_all, list(changes))

    def _gather(self, together: list[_Change[Any]]) -> None:
        """Add the changes that were requested meanwhile to `together`. In a file, add no durable one to changes that
        need not be durable; what a server commits is always durable.
        """
        may_be_durable = self.is_remote or not together or any(change.is_durable for change in together)
        while self._changes and (may_be_durable or not self._changes[0].is_durable):
            together.append(self._changes.popleft())

    def _make_together(self, together: list[_Change[Any]], *, may_grow: bool) -> None:
        """Make the changes `together` in one transaction; if they may grow, also those requested until its turn."""

        def make_all(transaction: Transaction) -> None:
            transaction.await_turn()
            if may_grow:
                self._gather(together)
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
        except BaseException as error:  # noqa: BLE001 - it is raised again where the change is awaited
            problem, is_of_one = error, True
        if is_of_one and len(together) > 1:
            for change in together:
                self._make_together([change], may_grow=False)
            return
        for change in together:
            change.error = problem

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run `job` in the storage's thread, after all earlier jobs; the future gets its outcome."""
        self.use_running_loop()
        return self._worker.submit(job)

    def put(self, job: Callable[[], object]) -> None:
        """Run `job` in the storage's thread, without waiting for it; it must not raise."""
        self._worker.put(job)

    def sync_soon(self) -> None:
        """Force what was written to the disk, without waiting for it."""
        if self._thread is not None:
            self._thread.put(self.sync)

    @property
    def _worker(self) -> _Thread:
        if self._thread is None:
            self._thread = _Thread(WeakMethod(self.beat), self.beats_every)
        return self._thread

    def leave_behind(self) -> None:
        """Begin anew in a process that was forked off, and leave to the parent process what it had opened."""
        self._thread = None  # a fork does not copy threads
        self._changes.clear()  # the parent makes these

    async def close(self) -> None:
        """Close the connection and end the thread, after all earlier jobs."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await thread.submit(self.disconnect)
            thread.end()


def _whole(work: Callable[[Transaction], T]) -> Callable[[Transaction], Callable[[], T]]:
    """Return `work` as a change whose outcome is known when it has run."""

    def done(transaction: Transaction) -> Callable[[], T]:
        outcome = work(transaction)
        return lambda: outcome

    return done


def _tell_all(changes: Sequence[_Change[Any]]) -> None:
    for change in changes:
        change.tell()


class _Thread:
    """A daemon thread that runs jobs one after the other, outside the event loop.

    Args:
        beat: a method that the thread also calls every `every` seconds. The thread ends when the method's object is
            gone.
        every: seconds between two calls of `beat`; ``None`` to never call it.
    """

    def __init__(self, beat: WeakMethod[Callable[[], None]], every: float | None) -> None:
        self._beat = beat
        self._every = every
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="twdm_async storage", daemon=True).start()

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run `job`; the future gets what it returns or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is raised again where the future is awaited
                outcome: Callable[[], None] = partial(answer.set_exception, error)
            else:
                outcome = partial(answer.set_result, result)
            with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits any longer
                loop.call_soon_threadsafe(lambda: None if answer.done() else outcome())

        self._jobs.put(work)
        return answer

    def put(self, job: Callable[[], object]) -> None:
        """Run `job`, without waiting for it; it must not raise."""
        self._jobs.put(job)

    def end(self) -> None:
        """End the thread after all earlier jobs."""
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
                if beat is None:  # the storage is gone
                    return
                beat()
                del beat
