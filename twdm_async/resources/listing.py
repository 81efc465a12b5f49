"""Lists that the API returns in pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from attrs import frozen

from twdm_async._numbers import checked_count
from twdm_async.errors import InvalidInput, MalformedResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from twdm_async.transport.call import Caller

T = TypeVar("T")

_LARGEST_PAGE: Final = 50
_LONGEST_CURSOR: Final = 4096  # characters


class _Answer(Protocol):
    """A page as the API sends it."""

    @property
    def next_cursor(self) -> str | None:
        """The cursor that asks for the next page; ``None`` on the last page."""


A = TypeVar("A", bound=_Answer)


@frozen
class Page(Generic[T]):
    """One page of a list.

    Args:
        items: the items on the page, in the API's order. A page may be empty and still not be the last.
        next_cursor: the cursor that asks for the next page; ``None`` on the last page.
    """

    items: tuple[T, ...]
    next_cursor: str | None = None


class Listing(AsyncIterator[T]):
    """A list that is read page by page, as far as it is needed: ``async for item in listing``. Nothing is sent before.

    A listing can be iterated once; make another one to begin again.

    Raises:
        InvalidInput: `max_wait` or `timeout` is out of range.
        QuotaWaitTooLong: a page would wait for quota longer than `max_wait`.
        ResponseError: the API refused the request.
        ConnectFailed: no connection could be made, or no answer came.
        MalformedResponse: a page cannot be read, or names a cursor for the second time.
        TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
    """

    def __init__(
        self,
        caller: Caller,
        name: str,
        into: type[A],
        items: Callable[[A], Sequence[T]],
        *,
        max_wait: float | None,
        timeout: float | None,
    ) -> None:
        self._caller = caller
        self._name = name
        self._into: type[Any] = into
        self._items: Callable[[Any], Sequence[T]] = items
        self._max_wait = max_wait
        self._timeout = timeout
        self._items_left: deque[T] = deque()
        self._next_cursor: str | None = None
        self._seen: set[str] = set()
        self._is_over = False
        self._reading = asyncio.Lock()

    async def page(self, cursor: str | None = None) -> Page[T]:
        """Read one page, with one request.

        Args:
            cursor: the :attr:`Page.next_cursor` of the page before; if not given, the first page is read.

        Raises:
            InvalidInput: `cursor` is not a string that the API can have sent.
            QuotaWaitTooLong, ResponseError, ConnectFailed, MalformedResponse, TwdmError: see :class:`Listing`.
        """
        arguments = {"count": str(_LARGEST_PAGE)}
        if cursor is not None:
            is_cursor = isinstance(cursor, str) and cursor.isprintable() and 0 < len(cursor) <= _LONGEST_CURSOR
            if not is_cursor:
                raise InvalidInput(parameter="cursor", problem="must be the next_cursor of a page")
            arguments["cursor"] = cursor
        answer = await self._caller.call(
            self._name, arguments, self._into, max_wait=self._max_wait, timeout=self._timeout
        )
        return Page(tuple(self._items(answer)), answer.next_cursor or None)

    async def pages(self) -> AsyncGenerator[Page[T]]:
        """Go through all pages, from the first one. Errors are those of :meth:`page`."""
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            page = await self.page(cursor)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return
            self._check_new(cursor, seen)

    def _check_new(self, cursor: str, seen: set[str]) -> None:
        if cursor in seen:
            raise MalformedResponse(endpoint=self._name, status=200, problem="a cursor for the second time")
        seen.add(cursor)

    async def first(self, n: int) -> list[T]:
        """Return the first `n` items, or all if there are fewer. Only as many pages are read as that needs.

        Args:
            n: how many items, at least 1.

        Raises:
            InvalidInput: `n` is not a positive whole number.
            QuotaWaitTooLong, ResponseError, ConnectFailed, MalformedResponse, TwdmError: see :class:`Listing`.
        """
        checked_count(n, "n")
        found: list[T] = []
        async with contextlib.aclosing(self.pages()) as pages:
            async for page in pages:
                found += page.items
                if len(found) >= n:
                    break
        return found[:n]

    async def __anext__(self) -> T:
        # What ends a call early, a cancellation or an error, does not end the listing: the next call reads the page.
        async with self._reading:
            while not self._items_left and not self._is_over:
                page = await self.page(self._next_cursor)
                self._items_left.extend(page.items)
                self._next_cursor, self._is_over = page.next_cursor, page.next_cursor is None
                if page.next_cursor is not None:
                    self._check_new(page.next_cursor, self._seen)
            if not self._items_left:
                raise StopAsyncIteration
            return self._items_left.popleft()

    async def aclose(self) -> None:
        """End the iteration, for ``contextlib.aclosing``."""
        self._items_left.clear()
        self._is_over = True
