"""The state of one attempt: whether bytes of the request have left, and what has come back so far."""

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
    """The connection that a request went out over."""

    @property
    def protocol(self) -> Any:
        """The protocol object of aiohttp; ``None`` if the connection is closed."""

    def release(self) -> object:
        """Let other requests use the connection."""

    def close(self) -> object:
        """Close the connection, so that no other request uses it."""


class Repeated(aiohttp.ClientError):
    """aiohttp was about to send a request a second time."""


class Late(aiohttp.ClientError):
    """The request is too late for its slot, which may no longer be counted."""


class Attempt:
    """One attempt. It records, even if its task is cancelled, whether bytes of the request have left.

    Args:
        timeout: seconds that it may take once it is connected; connecting may take as long again.
        send_by: when its first byte must have left, by the machine's uptime. Later, its slot may no longer be counted.
        uptime: returns the machine's uptime in seconds.
    """

    sent: bool = False
    is_late: bool = False
    authorization: str = ""  # the Authorization header, which holds the signature
    message: Any = None  # the head of the reply, as aiohttp's object
    payload: Any = None  # the stream of the reply's body, as aiohttp's object
    due: float = math.inf  # when its timeout ends, by the loop's clock
    work: asyncio.Task[Reply | Fault] | None = None  # the task that makes it, if the waiting task does not
    _connection: Connection | None = None
    _task: asyncio.Task[Any] | None = None
    _cancelling = 0
    _is_expired = False

    def __init__(self, timeout: float, send_by: float = math.inf, uptime: Callable[[], float] = time.monotonic) -> None:
        self.timeout: float = timeout
        self.chunks: list[bytes] = []  # the reply's body, so far
        self.send_by: float = send_by
        self._uptime = uptime

    def begin(self, connection: Connection) -> None:
        """Note that the first byte is about to leave over `connection`.

        Raises:
            Repeated: bytes have left before. Each request on the wire needs a slot, a nonce and a timestamp of its own,
                so the attempt ends here, and the caller decides on the next one.
            Late: it is later than `send_by`, because the process was suspended or an earlier step took too long.
        """
        if self.sent:
            raise Repeated("the connection was lost")
        if self._uptime() > self.send_by:
            self.is_late = True
            raise Late("its time was over before it left")
        self.sent = True
        self._connection = connection

    def run_in(self, task: asyncio.Task[Any] | None) -> None:
        """Note which task works on the attempt."""
        self._task = task
        self._cancelling = task.cancelling() if task is not None else 0
        self._is_expired = False

    def expire(self) -> None:
        """Cancel the task that works on the attempt, because its timeout has ended."""
        if self._task is not None and not self._is_expired:
            self._is_expired = True
            self._task.cancel()

    def has_expired(self) -> bool:
        """Return whether :meth:`expire` is the only reason for which the task was cancelled."""
        return self._is_expired and self._task is not None and self._task.uncancel() <= self._cancelling

    def withdraw(self) -> None:
        """Keep the request from leaving, if it has not left."""
        self.send_by = -math.inf
        if self.work is not None and not self.sent:
            self.work.cancel()

    @property
    def protocol(self) -> Any:
        """The protocol object that aiohttp has for the connection.

        Raises:
            ClientConnectionError: the connection is closed.
        """
        protocol = self._connection.protocol if self._connection is not None else None
        if protocol is None:
            raise aiohttp.ClientConnectionError
        return protocol

    def trust(self) -> None:
        """Let other requests use the connection, because the reply that came over it answers this request."""
        if self._connection is not None:
            self._connection.release()
            self._connection = None

    def distrust(self) -> None:
        """Close the connection, because the reply that came over it may answer another request. A refusal, for example,
        names neither recipient nor message, so it may be an earlier one that a proxy repeats.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = None
