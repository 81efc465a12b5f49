"""What the stores have in common that must talk to something: each batch of operations is one transaction on the book.

Everything of one turn of the loop makes up a batch, so a thousand calls that are admitted at once cost one transaction.
Batches go one after the other. A subclass loads the pages that the operations of a batch name, applies them, and saves
the pages that have changed, all or nothing.

If it is not known whether a batch was committed (its answer was lost, or whoever waited for it was cancelled), those
who asked get an error, and the next batch begins by finding out. If it was committed, its slots are given back; if not,
it is seen to that it never will be, and its notes are carried out again; if that cannot be found out, those notes that
may be carried out twice. A note counts from when it was made.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

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

_log = logging.getLogger(__name__)

_MOST_AT_ONCE: Final = 500  # takes
_MOST_NOTES_AT_ONCE, _MOST_PAGES_OF_NOTES = 20_000, 2000
_MOST_NOTES: Final = 100_000  # kept for a store that fails
_NOTE_DELAY: Final = 0.005  # seconds that a note waits for a take, to go along with it
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds after a batch that failed

_Asked = tuple[int, Take | None, asyncio.Future[Answer]]
"""How many notes were made before; what is asked, or None to only wait until these are kept; the answer."""


@define(eq=False)
class Batch:
    """Operations on the book of one app.

    Args:
        app: whose book.
        operations: notes, which can only free slots or close a bucket, and then takes.
        began: by the machine's uptime, a moment before the book is read and after the notes were made.
        answers: one for each operation, once they were applied.
        is_unsure: whether it may have been committed without our knowing.
        outcome: what the store keeps to find out its outcome.
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
    """The operations on the book of one app that are still to be carried out. Whatever is wrong with it is no other
    app's trouble.
    """

    def __init__(self, store: TransactionalQuotaStore, app: str) -> None:
        self._store = store
        self._app = app
        self.notes: deque[Note] = deque()
        self.noted = 0  # so far
        self.asked: deque[_Asked] = deque()
        self.unsure: Batch | None = None
        self.worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = 0.0  # seconds before the next batch, after one has failed
        self.shown = Book(0.0)  # with the ledgers as they last were
        self.shown_at = 0.0  # that moment by the book's clock, less by ours

    def in_new_loop(self) -> _Queue:
        """Return one for a new loop, with what was noted. Whoever asked is gone with the loop before, and whatever its
        worker still does, when it is collected, is done to this one.
        """
        queue = _Queue(self._store, self._app)
        queue.notes, queue.noted, queue.shown, queue.shown_at = self.notes.copy(), self.noted, self.shown, self.shown_at
        return queue

    def ask(self, take: Take | None) -> asyncio.Future[Answer]:
        """Carry out `take` after all that was noted; without one, do only that."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked.append((self.noted, take, answer))
        self._start()
        return answer

    def start_later(self) -> None:
        """Carry out what there is in a moment."""
        if self._timer is None and self.worker is None:
            self._timer = asyncio.get_running_loop().call_later(max(_NOTE_DELAY, self._pause), self._start)

    def stop_timer(self) -> None:
        """Begin nothing by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self.stop_timer()
        if self.worker is None:
            worker = asyncio.get_running_loop().create_task(self._work(), name="twdm_async quota store")
            self.worker = worker
            self._store.clock.begin_work(worker)
            worker.add_done_callback(self._ended)  # also of one that was cancelled before its first step

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
                self.notes.extendleft(reversed(notes))  # else whatever is wrong may be wrong with them
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
        """Let those who asked hear of `error`."""
        if not isinstance(error, Exception):
            error = QuotaStoreFailed(store=self._store.address, problem="the task that asked it was cancelled")
        for _, _, answer in asked:
            if not answer.done():
                answer.set_exception(error)

    async def _resolve(self) -> None:
        """Find out what became of a batch that was left unsure."""
        batch = self.unsure
        if batch is not None:
            was_committed = await self._store.was_committed(batch)
            self.unsure = None
            if was_committed:
                granted = [answer for answer in batch.answers if isinstance(answer, Granted)]
                self.notes.extendleft([GiveBack(answer.slot, answer.count) for answer in granted])
            else:
                # To do one twice does no harm, but for giving back.
                is_forgotten = was_committed is None
                for one in reversed(batch.operations):
                    if not isinstance(one, Take) and not (is_forgotten and isinstance(one, GiveBack)):
                        self.notes.appendleft(one)


class TransactionalQuotaStore(QuotaStore):
    """A store that carries out operations in transactions.

    Args:
        clock: where this process' time comes from.
        assume_spent: what to believe at the first start; see :class:`QuotaStore`.
    """

    def __init__(self, *, clock: Clock, assume_spent: float) -> None:
        super().__init__(clock=clock, assume_spent=assume_spent)
        self._queues: dict[str, _Queue] = {}  # by app

    @abstractmethod
    async def commit(self, batch: Batch) -> None:
        """Apply the operations of `batch` in one transaction, and set their answers. Set `is_unsure` for as long as it
        cannot be known whether that is committed.

        Raises:
            QuotaStoreFailed: it was not, or it is not known.
        """

    @abstractmethod
    async def was_committed(self, batch: Batch) -> bool | None:
        """Find out whether a batch that was left unsure was committed; return ``None`` if that cannot be known any
        more. If it was not, see to it that it never will be.

        Raises:
            QuotaStoreFailed: that cannot be known.
        """

    def _begin_in_loop(self, *, is_new_process: bool) -> None:
        if is_new_process:
            self._queues.clear()  # the process that this one was forked off keeps what it noted
        self._queues = {app: queue.in_new_loop() for app, queue in self._queues.items()}

    def ask(self, take: Take) -> asyncio.Future[Answer]:
        self.bind_loop()
        return self._queue(take.app).ask(take)

    def note(self, note: Note) -> None:
        if self.is_closed or not note.pages:
            return  # nobody can be told any more; the slot counts until its lease and a window are over
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
        """Take in what the ledgers of `book` are at the moment `now` of its clock."""
        queue = self._queue(app)
        queue.shown_at = now - self.clock.monotonic()
        queue.shown.ledgers.update(book.ledgers)
