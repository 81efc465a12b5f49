"""The journal of what happens in the sandbox, in order. The page, the command line and waiting tests read it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST: Final = 2000  # entries that are kept


@frozen
class Entry:
    """An entry of the journal.

    Args:
        id: its place in the order, counted from 1.
        kind: what happened, such as ``message`` or ``request``.
        what: the object that it is about, such as the message.
    """

    id: int
    kind: str
    what: Any


class Journal:
    """A log of the latest entries. Tasks can wait for the next entry."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_MOST)
        self._news, self._is_awaited = asyncio.Event(), False
        self.last: int = 0
        """The id of the latest entry; 0 if there is none."""

    def add(self, kind: str, what: Any = None) -> None:
        """Add an entry, and wake the tasks that wait for one."""
        self.last += 1
        self._entries.append(Entry(self.last, kind, what))
        if self._is_awaited:
            self._is_awaited, news, self._news = False, self._news, asyncio.Event()
            news.set()

    def since(self, entry_id: int) -> Sequence[Entry] | None:
        """Return the entries after the one with this id; ``None`` if not all of them are kept any more, or there was
        never an entry with this id.
        """
        missed = self.last - entry_id
        if not 0 <= missed <= len(self._entries):
            return None
        return [self._entries[place] for place in range(len(self._entries) - missed, len(self._entries))]

    async def wait(self, entry_id: int, within: float | None = None) -> bool:
        """Wait until there is an entry after the one with this id.

        Args:
            entry_id: the id of the latest entry that the caller knows.
            within: the longest wait, in seconds; no limit if not given.

        Returns:
            Whether there is such an entry.
        """
        try:
            async with asyncio.timeout(within):
                while self.last <= entry_id:
                    self._is_awaited = True
                    await self._news.wait()
        except TimeoutError:
            return False
        return True
