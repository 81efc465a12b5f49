"""A limit on how many requests are under way at once.

A request takes a place before it asks the connection pool for a connection, so that it does not wait in the pool while
its timeout runs; and before it is signed, so that it leaves as soon as it is signed.
"""

from __future__ import annotations

import asyncio
from collections import deque

from twdm_async.errors import ClientClosed


class Places:
    """A semaphore: at most `most` requests hold a place at once; the others wait in order."""

    def __init__(self, most: int) -> None:
        self.free: int = most
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._is_closed = False

    def take_now(self) -> bool:
        """Take a place if one is free, and return whether one was. It must be given back."""
        if self.free <= 0 or self._is_closed:
            return False
        self.free -= 1
        return True

    async def take(self, endpoint: str) -> None:
        """Wait for a place and take it. It must be given back.

        Raises:
            ClientClosed: `close` was called.
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
                self.give_back()  # the place came in the same moment as the cancellation
            raise
        if not has_place:
            raise ClientClosed(endpoint=endpoint)

    def give_back(self) -> None:
        """Give a place back, and pass it on to the request that has waited longest."""
        self.free += 1
        while self._waiting and self.free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                self.free -= 1
                turn.set_result(True)

    def close(self) -> None:
        """Give no more places. Whoever waits for a place gets ClientClosed."""
        self._is_closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)
