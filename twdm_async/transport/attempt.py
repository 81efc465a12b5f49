"""One request on its way: whether bytes of it left, and what has come back so far."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from twdm_async.transport.wire import Fault, Reply


class Connection(Protocol):
    """What a request went out over."""

    @property
    def protocol(self) -> Any:
        """aiohttp's; ``None`` if it is closed."""

    def release(self) -> object:
        """Let other requests follow over it."""

    def close(self) -> object:
        """Let nothing follow."""


class Repeated(aiohttp.ClientError):
    """aiohttp was about to send a request for the second time."""


class Late(aiohttp.ClientError):
    """The slot of a request may not count any more."""


class Attempt:
    """One request on its way. Whoever holds it can tell, also after a cancellation, whether bytes left.

    Args:
        timeout: seconds it may take once it is connected; to connect may take as long again.
        send_by: by the machine's uptime, when its first byte must have left, since its slot may not count any more
            afterwards.
        uptime: tells that.
    """

    __slots__ = (
        "_cancelling", "_connection", "_is_expired", "_send_by", "_task", "_uptime", "authorization", "chunks",
        "due", "is_late", "message", "payload", "sent", "timeout", "work",
    )  # fmt: skip

    def __init__(self, timeout: float, send_by: float = math.inf, uptime: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self.sent = False
        self.is_late = False
        self.authorization = ""  # its signature
        self.message: Any = None  # aiohttp's head of the reply
        self.payload: Any = None  # aiohttp's stream of its body
        self.chunks: list[bytes] = []  # of it, so far
        self.due = math.inf  # when its time is over, by the loop's clock
        self.work: asyncio.Task[Reply | Fault] | None = None  # that makes it, if it is not whoever waits for it
        self._send_by = send_by
        self._uptime = uptime
        self._connection: Connection | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._is_expired = False

    def begin(self, connection: Connection) -> None:
        """Note that the first byte is about to leave over `connection`.

        Raises:
            Repeated: bytes left before. Each request on the wire needs a slot, a nonce and a timestamp of its own; so
                the attempt ends here, and the next one is ours.
            Late: the process was suspended, or something answered late that had to be asked before.
        """
        if self.sent:
            raise Repeated("the connection was lost")
        if self._uptime() > self._send_by:
            self.is_late = True
            raise Late("its time was over before it left")
        self.sent = True
        self._connection = connection

    def run_in(self, task: asyncio.Task[Any] | None) -> None:
        """Note which task works on it."""
        self._task = task
        self._cancelling = task.cancelling() if task is not None else 0
        self._is_expired = False

    def expire(self) -> None:
        """End the work on it: its time is over."""
        if self._task is not None and not self._is_expired:
            self._is_expired = True
            self._task.cancel()

    def has_expired(self) -> bool:
        """Tell whether the task was cancelled because the time was over, and for nothing else."""
        return self._is_expired and self._task is not None and self._task.uncancel() <= self._cancelling

    def withdraw(self) -> None:
        """Forbid it to leave, if it has not."""
        self._send_by = -math.inf
        if self.work is not None and not self.sent:
            self.work.cancel()

    @property
    def protocol(self) -> Any:
        """The connection, by aiohttp's protocol.

        Raises:
            ClientConnectionError: it is closed.
        """
        protocol = self._connection.protocol if self._connection is not None else None
        if protocol is None:
            raise aiohttp.ClientConnectionError
        return protocol

    def trust(self) -> None:
        """Let other requests follow over the connection: what came over it is the answer to this one."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    def distrust(self) -> None:
        """Close the connection: what came over it may be the answer to another request. A refusal, for example, names
        neither person nor message, so nobody could tell that it is not an earlier one which a proxy repeats.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = None
