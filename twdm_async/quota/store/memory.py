"""A quota store in this process' memory. When the process ends, what was spent is forgotten."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Self

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput
from twdm_async.quota.book import Book
from twdm_async.quota.operations import Granted
from twdm_async.quota.store.contract import QuotaStore

if TYPE_CHECKING:
    import asyncio

    from twdm_async.quota.operations import Answer, Note, Slot, Take, Terms
    from twdm_async.quota.standing import Standing


class MemoryQuotaStore(QuotaStore, schemes=("memory",)):
    """A quota store for the clients of one process. It remembers nothing after the process has ended.

    Args:
        clock: the source of time; the machine's clock by default.
        assume_spent: the part of each quota that counts as spent at first, in each new store; see :class:`QuotaStore`.

    Raises:
        InvalidInput: `assume_spent` is not a number from 0 to less than 1.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, *, clock: Clock | None = None, assume_spent: float = 0.0) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self._uptime = self.clock.uptime
        self._since = math.floor(self.clock.wall())
        self._books: dict[str, Book] = {}  # by app

    @property
    def address(self) -> str:
        return "memory://"

    @classmethod
    def _at(cls, url: str, assume_spent: float, clock: Clock | None) -> Self:
        if url != "memory://":
            raise InvalidInput(parameter="url", problem="must be memory:// and nothing else")
        return cls(assume_spent=assume_spent, clock=clock)

    def take_one(self, terms: Terms, recipient: str | None, loop: asyncio.AbstractEventLoop) -> Slot | None:
        if self._loop is not loop:
            self.bind_loop()
        book = self._books.get(terms.app)
        return None if book is None else book.take_one(terms, self._uptime(), recipient)

    def ask(self, take: Take) -> Answer:
        self.bind_loop()
        now = self._uptime()
        answer = self._book(take.app).take(take, now)
        if type(answer) is Granted:
            answer.slot.send_by = now + take.about.lifetime.to_send
        return answer

    def note(self, note: Note) -> None:
        self._book(note.app).apply(note, self._uptime())

    def settle(self, slot: Slot, grace: float, made: float | None = None, message_id: str | None = None) -> None:
        book = self._books.get(slot.terms.app) or self._book(slot.app)
        book.settle(slot, self._uptime() + grace, made, message_id)

    def standings(self, terms: Terms) -> list[Standing]:
        return self._book(terms.app).standings(terms, self._uptime())

    async def flush(self) -> None:
        pass

    def _book(self, app: str) -> Book:
        book = self._books.get(app)
        if book is None:
            book = self._books[app] = Book(self._since, self.assume_spent)
        return book
