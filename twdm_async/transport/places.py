"""How many requests may be under way at once.

The bound stands before the connection pool, so that no request waits in the pool while its time runs, and before
signing: what is signed then leaves at once.
"""

from __future__ import annotations

import asyncio
from collections import deque

from twdm_async.errors import ClientClosed


class Places:
    """At most `most` requests are under way; the others wait for their turn."""

    def __init__(self, most: int) -> None:
        self.free = most
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._is_closed = False

    def take_now(self) -> bool:
        """Take a place if there is one. It must be given back."""
        if self.free <= 0 or self._is_closed:
            return False
        self.free -= 1
        return True

    async def take(self, endpoint: str) -> None:
        """Wait for a place. It must be given back.

        Raises:
            ClientClosed: no more are given.
        """
        if self._is_closed:
            raise ClientClosed(endpoint=endpoint)
        if self.take_now():
            return
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            has_place = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()  # it came in the same moment
            raise
        if not has_place:
            raise ClientClosed(endpoint=endpoint)

    def give_back(self) -> None:
        """Let the next one have a place."""
        self.free += 1
        while self._waiting and self.free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                self.free -= 1
                turn.set_result(True)

    def close(self) -> None:
        """Give no more. Who waits for one gets an error."""
        self._is_closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)
