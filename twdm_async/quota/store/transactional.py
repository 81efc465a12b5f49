"""The common base of stores that talk to a disk or a server: each batch of operations is one transaction on the book.

Batches run one after the other. All operations that come in while a batch runs form the next one, so admitting a
thousand calls at once costs only a few transactions. A subclass loads the pages that the operations of a batch name,
applies the operations, and saves the pages that have changed, all or nothing.

Sometimes it is not known whether a batch was committed: its answer was lost, or the task that waited for it was
cancelled. The callers then get an error, and the next batch begins by finding out. If the batch was committed, its
slots are given back. If it was not, the store makes sure that it never will be, and carries out its notes again. If
that cannot be found out, the store carries out again only the notes that do no harm when carried out twice. A note
counts from the moment in which it was made.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from twdm_async._log import quiet_logger
from twdm_async._quiet import mistake
from twdm_async.errors import QuotaStoreFailed
from twdm_async.quota.book import Book
from twdm_async.quota.operations import Answer, GiveBack, Granted, Note, Take
from twdm_async.quota.store.contract import QuotaStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twdm_async._clock import Clock
    from twdm_async.quota.operations import Terms
    from twdm_async.quota.standing import Standing

_log = quiet_logger(__name__)

_MOST_AT_ONCE: Final = 500  # takes
_MOST_NOTES_AT_ONCE, _MOST_PAGES_OF_NOTES = 20_000, 2000
_MOST_NOTES: Final = 100_000  # kept for a store that fails
_NOTE_DELAY: Final = 0.005  # seconds that a note waits for a take to share a batch with
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds after a batch that failed

_Asked = tuple[int, Take | None, asyncio.Future[Answer]]
"""How many notes were made before; the take, or None to only wait until these notes are recorded; the answer."""


@define(eq=False)
class Batch:
    """Operations on the book of one app.

    Args:
        app: the app whose book it is.
        operations: first the notes, which can only free slots or close a bucket; then the takes.
        began: by the machine's uptime, a moment before the book is read and after the notes were made.
        answers: an answer for each operation, once the operations were applied.
        is_unsure: whether the batch may have been committed without our knowledge.
        outcome: whatever the store needs to find out whether the batch was committed.
    """

    app: str
    operations: list[Take | Note]
    began: float
    answers: list[Answer] = field(factory=list[Answer])
    is_unsure: bool = False
    outcome: Any = None

    @property
    def pages(self) -> list[str]:
        """The names of the pages that the operations are about."""
        return list(dict.fromkeys([name for operation in self.operations for name in operation.pages]))


class _Queue:
    """The operations on the book of one app that are still to be carried out. Each app has its own queue, so that a
    failure with one book does not affect other apps.
    """

    def __init__(self, store: TransactionalQuotaStore, app: str) -> None:
        self._store = store
        self._app = app
        self.notes: deque[Note] = deque()
        self.noted = 0  # how many notes were ever made
        self.asked: deque[_Asked] = deque()
        self.unsure: Batch | None = None
        self.worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = 0.0  # seconds before the next batch, after one has failed
        self.shown = Book(0.0)  # the ledgers as this process last saw them
        self.shown_at = 0.0  # seconds by which the book's clock is ahead of ours

    def in_new_loop(self) -> _Queue:
        """Return a queue for a new event loop, which takes over the notes. Callers of the old loop ended with it. If
        the old loop's worker still does something, when it is garbage-collected, it does so to this object.
        """
        queue = _Queue(self._store, self._app)
        queue.notes, queue.noted, queue.shown, queue.shown_at = self.notes.copy(), self.noted, self.shown, self.shown_at
        return queue

    def ask(self, take: Take | None) -> asyncio.Future[Answer]:
        """Carry out all notes made so far, and then `take` if it is not None."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked.append((self.noted, take, answer))
        self._start()
        return answer

    def start_later(self) -> None:
        """Start the worker in a moment, unless it runs already."""
        if self._timer is None and self.worker is None:
            self._timer = asyncio.get_running_loop().call_later(max(_NOTE_DELAY, self._pause), self._start)

    def stop_timer(self) -> None:
        """Cancel a start that :meth:`start_later` has planned."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self.stop_timer()
        if self.worker is None:
            worker = asyncio.get_running_loop().create_task(self._work(), name="twdm_async quota store")
            self.worker = worker
            self._store.clock.begin_work(worker)
            worker.add_done_callback(self._ended)  # called even if the task is cancelled before its first step

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._store.clock.end_work(worker)
        error = None if worker.cancelled() else worker.exception()
        if isinstance(error, Exception):
            _log.error("%s: %s", self._store.address, mistake(error))
        if self.worker is worker:
            self.worker = None
            if self.asked or (self.notes and not self._store.is_closed):
                self.start_later()

    async def _work(self) -> None:
        try:
            while self.asked or self.notes:
                await self._resolve()
                notes, pages = list[Note](), set[str]()
                while self.notes and len(notes) < _MOST_NOTES_AT_ONCE and len(pages) < _MOST_PAGES_OF_NOTES:
                    notes.append(self.notes.popleft())
                    pages.update(notes[-1].pages)
                carried_out, asked = self.noted - len(self.notes), list[_Asked]()
                while self.asked and len(asked) < _MOST_AT_ONCE and self.asked[0][0] <= carried_out:
                    asked.append(self.asked.popleft())
                await self._run(notes, asked)
                self._pause = 0.0
        except BaseException as error:
            self._pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, 2 * self._pause))
            self._fail(self.asked, error)
            self.asked.clear()
            if not isinstance(error, QuotaStoreFailed):
                raise

    async def _run(self, notes: list[Note], asked: list[_Asked]) -> None:
        batch = Batch(self._app, [*notes, *(take for _, take, _ in asked if take)], self._store.clock.uptime())
        for note in notes:
            note.age = batch.began - note.noted_at
        try:
            if batch.operations:
                await self._store.commit(batch)
        except BaseException as error:
            if batch.is_unsure:
                self.unsure = batch
            elif isinstance(error, QuotaStoreFailed | asyncio.CancelledError):
                self.notes.extendleft(reversed(notes))  # after any other error, the notes themselves may be the cause
            self._fail(asked, error)
            raise
        answers = iter(batch.answers[len(notes) :])
        for _, take, waiting in asked:
            answer = next(answers) if take else None
            if take and isinstance(answer, Granted):
                answer.slot.send_by = batch.began + take.about.lifetime.to_send
            if not waiting.done():
                waiting.set_result(answer)
            elif isinstance(answer, Granted):
                self._store.note(GiveBack(answer.slot, answer.count))

    def _fail(self, asked: Iterable[_Asked], error: BaseException) -> None:
        """Raise `error` in the callers that wait for an answer."""
        if not isinstance(error, Exception):
            error = QuotaStoreFailed(store=self._store.address, problem="the task that used it was cancelled")
        for _, _, answer in asked:
            if not answer.done():
                answer.set_exception(error)

    async def _resolve(self) -> None:
        """Find out whether a batch was committed of which that is not known, and act on it."""
        batch = self.unsure
        if batch is not None:
            was_committed = await self._store.was_committed(batch)
            self.unsure = None
            if was_committed:
                granted = [answer for answer in batch.answers if isinstance(answer, Granted)]
                self.notes.extendleft([GiveBack(answer.slot, answer.count) for answer in granted])
            else:
                # Carrying out a note twice does no harm, except for giving a slot back.
                is_forgotten = was_committed is None
                for one in reversed(batch.operations):
                    if not isinstance(one, Take) and not (is_forgotten and isinstance(one, GiveBack)):
                        self.notes.appendleft(one)


class TransactionalQuotaStore(QuotaStore):
    """A quota store that carries out operations in transactions.

    Args:
        clock: the source of this process' time.
        assume_spent: the part of each quota that counts as spent at the first use; see :class:`QuotaStore`.
    """

    def __init__(self, *, clock: Clock, assume_spent: float) -> None:
        super().__init__(clock=clock, assume_spent=assume_spent)
        self._queues: dict[str, _Queue] = {}  # by app

    @abstractmethod
    async def commit(self, batch: Batch) -> None:
        """Apply the operations of `batch` in one transaction, and set their answers. Keep the batch's `is_unsure` true
        for as long as it is not known whether the transaction was committed.

        Raises:
            QuotaStoreFailed: the transaction was not committed, or it is not known whether it was.
        """

    @abstractmethod
    async def was_committed(self, batch: Batch) -> bool | None:
        """Find out whether a batch was committed whose `is_unsure` is true; return ``None`` if that can no longer be
        known. If it was not committed, make sure that it never will be.

        Raises:
            QuotaStoreFailed: the store could not be asked.
        """

    def _begin_in_loop(self, *, is_new_process: bool) -> None:
        if is_new_process:
            self._queues.clear()  # the parent process carries out its notes itself
        self._queues = {app: queue.in_new_loop() for app, queue in self._queues.items()}

    def ask(self, take: Take) -> asyncio.Future[Answer]:
        self.bind_loop()
        return self._queue(take.app).ask(take)

    def note(self, note: Note) -> None:
        if self.is_closed or not note.pages:
            return  # a closed store cannot record it: the slot counts until its lease and a window are over
        self.bind_loop()
        note.noted_at = self.clock.uptime()
        queue = self._queue(note.app)
        queue.notes.append(note)
        queue.noted += 1
        if len(queue.notes) > _MOST_NOTES:
            queue.notes.popleft()
        queue.start_later()

    def standings(self, terms: Terms) -> list[Standing]:
        queue = self._queue(terms.app)
        return queue.shown.standings(terms, queue.shown_at + self.clock.monotonic())

    async def flush(self) -> None:
        if not self.is_closed and self._queues:
            self.bind_loop()
            busy = [queue for queue in self._queues.values() if queue.notes or queue.unsure or queue.worker]
            await asyncio.gather(*(queue.ask(None) for queue in busy), return_exceptions=True)

    async def close(self) -> None:
        await super().close()
        for queue in self._queues.values():
            queue.stop_timer()
            if queue.worker is not None:
                await asyncio.wait([queue.worker])

    def _queue(self, app: str) -> _Queue:
        if app not in self._queues:
            self._queues[app] = _Queue(self, app)
        return self._queues[app]

    def _show(self, app: str, now: float, book: Book) -> None:
        """Show the ledgers of `book` from now on. `now` is the present moment by the book's clock."""
        queue = self._queue(app)
        queue.shown_at = now - self.clock.monotonic()
        queue.shown.ledgers.update(book.ledgers)
