"""What the stores have in common that must talk to something: each batch of operations is one transaction on the book.

Everything of one turn of the loop makes up a batch, so a thousand calls that are admitted at once cost one transaction.
Batches go one after the other. A subclass loads the pages that the operations of a batch name, applies them, and saves
the pages that have changed, all or nothing.

If it is not known whether a batch was committed (its answer was lost, or whoever waited for it was cancelled), those
who asked get an error, and the next batch begins by finding out. If it was committed, its slots are given back; if not,
its notes are carried out again. Nothing is done twice.
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
from twdm_async.quota.operations import Answer, GiveBack, Granted, Look, Operation, Question, Take
from twdm_async.quota.store.contract import QuotaStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twdm_async._clock import Clock
    from twdm_async.quota.ledger import Ledger, Usage
    from twdm_async.quota.operations import Bucket, Note
    from twdm_async.quota.spec import Quota

_log = logging.getLogger(__name__)

_LARGEST_BATCH: Final = 500  # operations
_MOST_NOTES: Final = 100_000  # kept for a store that fails
_NOTE_DELAY: Final = 0.005  # seconds that a note waits for a question, to go along with it
_MOST_RARELY, _MOST_OFTEN = 30.0, 0.02  # seconds between two looks at whether others gave something back


@define(eq=False)
class Batch:
    """Operations on the book of one app.

    Args:
        app: whose book.
        operations: in order.
        began: by the machine's uptime, a moment before the book is read and after the notes were made.
        answers: one for each operation, once they were applied.
        is_unsure: whether it may have been committed without our knowing.
        outcome: where its outcome can be found, if that is known.
    """

    app: str
    operations: list[Operation]
    began: float
    answers: list[Answer] = field(factory=list[Answer])
    is_unsure: bool = False
    outcome: Any = None

    @property
    def pages(self) -> list[str]:
        """The names of the pages that the operations are about."""
        return list(dict.fromkeys([name for operation in self.operations for name in operation.pages]))


@define(eq=False)
class _Asked:
    question: Question
    answer: asyncio.Future[Answer]


class TransactionalQuotaStore(QuotaStore):
    """A store that carries out operations in transactions.

    Args:
        clock: where this process' time comes from.
        assume_spent: what to believe at the first start; see :class:`QuotaStore`.
    """

    def __init__(self, *, clock: Clock, assume_spent: float) -> None:
        super().__init__(assume_spent=assume_spent)
        self._clock = clock
        self._notes: deque[Note] = deque()
        self._asked: deque[_Asked] = deque()
        self._noted = 0  # notes so far
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []  # up to which of the notes somebody waits for
        self._unsure: dict[str, Batch] = {}  # by app
        self._worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shown: dict[tuple[str, str], str | Ledger] = {}  # app and page to what it last was
        self._shown_at: dict[str, tuple[float, float]] = {}  # app to a moment by the book's and by our clock

    @abstractmethod
    async def _commit(self, batch: Batch) -> None:
        """Apply the operations of `batch` in one transaction, and set their answers. Set `is_unsure` for as long as it
        cannot be known whether that is committed.

        Raises:
            QuotaStoreFailed: it was not, or it is not known.
        """

    @abstractmethod
    async def _was_committed(self, batch: Batch) -> bool:
        """Find out whether a batch that was left unsure was committed.

        Raises:
            QuotaStoreFailed: that cannot be known.
        """

    def _begin_in_loop(self, *, was_forked: bool, is_new: bool) -> None:
        self._asked.clear()  # whoever asked is gone with the loop
        self._flushes.clear()
        self._unsure.clear()
        if was_forked or is_new:
            self._notes.clear()  # the process that this one was forked off keeps them
        self._worker, self._timer = None, None

    def ask(self, question: Question) -> asyncio.Future[Answer]:
        self.bind_loop()
        asked = _Asked(question, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._start()
        return asked.answer

    def note(self, note: Note) -> None:
        if self._is_closed or not note.pages:
            return  # nobody can be told any more; the slot counts until its lease and a window are over
        self.bind_loop()
        self._noted += 1
        self._notes.append(note)
        if len(self._notes) > _MOST_NOTES:
            self._notes.popleft()
        if self._worker is None:
            self._start_later()

    def usage(self, bucket: Bucket, quota: Quota) -> Usage:
        shown = self._shown.get((bucket.app, bucket.name), "[null]")
        if isinstance(shown, str):
            book = Book(0.0)
            book.load({bucket.name: shown})
            shown = self._shown[bucket.app, bucket.name] = book.ledgers[bucket.name]
        by_book, by_clock = self._shown_at.get(bucket.app, (0.0, 0.0))
        return shown.usage(by_book + self._clock.monotonic() - by_clock, quota)

    async def flush(self) -> None:
        if self._is_closed or not (self._notes or self._unsure or self._worker):
            return
        self.bind_loop()
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append((self._noted, flushed))
        self._start()
        await flushed

    async def close(self) -> None:
        await super().close()
        self._stop_timer()

    def _show(self, app: str, now: float, pages: Mapping[str, str | None]) -> None:
        """Take in what pages are at the moment `now` of the book."""
        self._shown_at[app] = (now, self._clock.monotonic())
        self._shown.update({(app, name): text for name, text in pages.items() if text is not None})

    def _start(self) -> None:
        self._stop_timer()
        if self._worker is None:
            worker = asyncio.get_running_loop().create_task(self._work(), name="twdm_async quota store")
            self._worker = worker
            worker.add_done_callback(self._ended)  # also of one that was cancelled before its first step

    def _ended(self, worker: asyncio.Task[None]) -> None:
        error = None if worker.cancelled() else worker.exception()
        if isinstance(error, Exception):
            _log.error("%s: %s", self.address, mistake(error))
        if self._worker is worker:
            self._worker = None
            if self._asked or self._notes or self._flushes:
                self._start_later()

    def _start_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_NOTE_DELAY, self._start)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _work(self) -> None:
        try:
            while self._asked or self._notes or self._flushes:
                await self._resolve()
                await self._run(*self._next())
                self._flushed(self._noted - len(self._notes))
        except QuotaStoreFailed:  # those who asked were told, and notes are kept for the next batch
            self._flushed(self._noted)

    def _flushed(self, done: int) -> None:
        waiting, self._flushes = self._flushes, []
        for noted, flushed in waiting:
            if noted > done:
                self._flushes.append((noted, flushed))
            elif not flushed.done():
                flushed.set_result(None)

    def _next(self) -> tuple[list[Note], list[_Asked]]:
        """Take the next operations of one app. Notes go first: they can only free slots, or close a bucket."""
        first = self._notes[0] if self._notes else self._asked[0].question if self._asked else None
        notes: list[Note] = []
        asked: list[_Asked] = []
        if first is not None:
            while self._notes and self._notes[0].app == first.app and len(notes) < _LARGEST_BATCH:
                notes.append(self._notes.popleft())
            while self._asked and self._asked[0].question.app == first.app and len(asked) < _LARGEST_BATCH:
                asked.append(self._asked.popleft())
        return notes, asked

    async def _run(self, notes: Sequence[Note], asked: Sequence[_Asked]) -> None:
        operations = [*notes, *(one.question for one in asked)]
        if not operations:
            return
        batch = Batch(operations[0].app, operations, self._clock.uptime())
        try:
            await self._commit(batch)
        except BaseException as error:
            if batch.is_unsure:
                self._unsure[batch.app] = batch
            elif isinstance(error, QuotaStoreFailed | asyncio.CancelledError):
                self._notes.extendleft(reversed(notes))  # else whatever is wrong may be wrong with them
            self._fail(asked, error)
            raise
        for one, answer in zip(asked, batch.answers[len(notes) :], strict=True):
            if isinstance(answer, Granted) and isinstance(one.question, Take):
                answer.slot.send_by = batch.began + one.question.terms.lifetime.to_send
            if not one.answer.done():
                one.answer.set_result(answer)
            elif isinstance(answer, Granted):
                self.note(GiveBack(answer.slot, answer.count))

    def _fail(self, asked: Sequence[_Asked], error: BaseException) -> None:
        """Nobody gets a slot."""
        unanswered = [*asked, *self._asked]
        self._asked.clear()
        if not isinstance(error, Exception):
            error = QuotaStoreFailed(store=self.address, problem="the task that asked it was cancelled")
        for one in unanswered:
            if not one.answer.done():
                one.answer.set_exception(error)

    async def _resolve(self) -> None:
        """Find out what became of batches that were left unsure."""
        for app, batch in list(self._unsure.items()):
            try:
                was_committed = await self._was_committed(batch)
            except QuotaStoreFailed as error:
                self._fail((), error)
                raise
            del self._unsure[app]
            if was_committed:
                granted = [answer for answer in batch.answers if isinstance(answer, Granted)]
                self._noted += len(granted)
                self._notes.extendleft([GiveBack(answer.slot, answer.count) for answer in granted])
            else:
                notes = [one for one in batch.operations if not isinstance(one, Take | Look)]
                self._notes.extendleft(reversed(notes))
