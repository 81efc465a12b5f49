"""What has happened in the sandbox, in order, for whoever looks on: the page, the shell and waiting tests."""

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
    """Something that has happened.

    Args:
        id: its place in the order; counts from 1.
        kind: such as ``message`` or ``request``.
        what: what it is about.
    """

    id: int
    kind: str
    what: Any


class Journal:
    """Keeps the latest entries, and wakes whoever waits for the next one."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_MOST)
        self._news, self._is_awaited = asyncio.Event(), False
        self.last = 0
        """The id of the latest entry; 0 if there is none."""

    def add(self, kind: str, what: Any = None) -> None:
        """Record that something has happened."""
        self.last += 1
        self._entries.append(Entry(self.last, kind, what))
        if self._is_awaited:
            self._is_awaited, news, self._news = False, self._news, asyncio.Event()
            news.set()

    def since(self, entry_id: int) -> Sequence[Entry] | None:
        """Return what has happened after the entry of this id; ``None`` if that is not known any more."""
        missed = self.last - entry_id
        if not 0 <= missed <= len(self._entries):
            return None
        return [self._entries[place] for place in range(len(self._entries) - missed, len(self._entries))]

    async def wait(self, entry_id: int, within: float | None = None) -> bool:
        """Wait until something has happened after the entry of this id.

        Args:
            entry_id: the latest one that is known.
            within: seconds, at the most.

        Returns:
            Whether something has.
        """
        try:
            async with asyncio.timeout(within):
                while self.last <= entry_id:
                    self._is_awaited = True
                    await self._news.wait()
        except TimeoutError:
            return False
        return True
