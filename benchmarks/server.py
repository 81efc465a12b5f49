"""The server of the benchmarks. It runs in its own process, answers every message, and does nothing else.

Unless told otherwise, it never sleeps. The kernel charges the wake-up of a sleeping process to the process whose bytes
wake it. That is a good part of the cost of a request, and a slower client would find the server asleep more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
from typing import TYPE_CHECKING, ClassVar, Final

from twdm_async import Credentials, Quota, QuotaTable

if TYPE_CHECKING:
    from collections.abc import Generator
    from multiprocessing.connection import Connection

PERSON: Final = "844385345234"
PROFILE: Final = "100001"
TEXT: Final = "Hi, my name is Jon. How can I help you today?"
PATH: Final = "/1.1/direct_messages/events/new.json"
BODY: Final = (
    b'{"event":{"type":"message_create","message_create":{"target":{"recipient_id":"844385345234"},'
    b'"message_data":{"text":"' + TEXT.encode() + b'"},"custom_profile_id":"100001"}}}'
)
"""The body of every message, as :class:`~twdm_async.Client` encodes it."""

REPLY: Final = (
    b'{"event":{"type":"message_create","id":"%d","created_timestamp":"1561123456789","message_create":'
    b'{"target":{"recipient_id":"%b"},"sender_id":"1241124","message_data":{"text":"' + TEXT.encode() + b'",'
    b'"entities":{"hashtags":[],"symbols":[],"user_mentions":[],"urls":[]}},"custom_profile_id":"100001"}}}'
)
FIRST_ID: Final = 1_142_098_079_526_600_709

KEYS: Final = Credentials(
    consumer_key="xvz1evFS4wEEPTGEFPHBog",
    consumer_secret="kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw",  # noqa: S106 - the documents' example
    access_token="370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb",  # noqa: S106 - as above
    access_token_secret="LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE",  # noqa: S106 - as above
)

WIDE: Final = QuotaTable.default().replace(
    "direct_messages.send", Quota(10**9, per=86_400.0), Quota(10**9, per=86_400.0, scope="app")
)
"""Quotas so large that no call waits for them, so that only the cost of checking them is measured."""


class _Answering(asyncio.Protocol):
    """Answers every request as soon as its body has arrived, with just enough of HTTP for the measured clients."""

    _ids: ClassVar = itertools.count(FIRST_ID)  # no two answers have the same
    _HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\nContent-Length: %d\r\n\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found:
            length = int((head.lower() + b"\r\n").partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if len(body) >= length:
                self._received = body[length:]
                person = body.partition(b'"recipient_id":"')[2].partition(b'"')[0] or PERSON.encode()
                reply = REPLY % (next(self._ids), person)
                self._transport.write(self._HEAD % len(reply) + reply)


def _serve(ready: Connection, pause: float) -> None:
    parent = os.getppid()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        while os.getppid() == parent:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(pause)

    asyncio.run(main())


@contextlib.contextmanager
def answering(*, is_awake: bool = True) -> Generator[str]:
    """Run the server, and yield its URL.

    Args:
        is_awake: whether the server never sleeps, so that no client pays for waking it. It then occupies a processor.
    """
    context = multiprocessing.get_context("spawn")
    ready, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, 0.0 if is_awake else 0.2), daemon=True)
    server.start()
    theirs.close()  # so that the end of a server that cannot start is noticed
    try:
        yield f"http://127.0.0.1:{ready.recv()}"
    finally:
        server.terminate()
        server.join()
