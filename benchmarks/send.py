"""What a send costs beside a bare aiohttp POST of the same body: CPU time of this process, for each send.

Both talk to one server, which runs in a process of its own and does nothing but answer. They take turns, so that a
machine whose speed drifts drifts for both. Printed are the medians over the rounds, and the median of the rounds'
ratios.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, ClassVar, Final

import aiohttp

from twdm_async import Client, Credentials, Quota, QuotaTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

_CONCURRENCY: Final = 64
_SENDS: Final = 2000
_ROUNDS: Final = 15
_TEXT: Final = "Hi, my name is Jon. How can I help you today?"
_REPLY: Final = (
    b'{"event":{"type":"message_create","id":"%d","created_timestamp":"1561123456789","message_create":'
    b'{"target":{"recipient_id":"844385345234"},"sender_id":"1241124","message_data":{"text":"' + _TEXT.encode() + b'",'
    b'"entities":{"hashtags":[],"symbols":[],"user_mentions":[],"urls":[]}},"custom_profile_id":"100001"}}}'
)
_KEYS: Final = Credentials(
    consumer_key="xvz1evFS4wEEPTGEFPHBog",
    consumer_secret="kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw",  # noqa: S106 - the documents' example
    access_token="370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb",  # noqa: S106 - as above
    access_token_secret="LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE",  # noqa: S106 - as above
)


class _Answering(asyncio.Protocol):
    """Answers every request as soon as its body is there. Just enough of HTTP for the two clients below."""

    _ids: ClassVar = itertools.count(1_142_098_079_526_600_709)  # no two answers have the same
    _HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(
        _REPLY % next(_ids)
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                self._received = body[length:]
                self._transport.write(self._HEAD + _REPLY % next(self._ids))


def _serve(ready: Connection) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def _cpu_per_send(send: Callable[[], Awaitable[object]]) -> float:
    """Seconds of this process' CPU for each of many sends."""
    left = iter(range(_SENDS))

    async def worker() -> None:
        for _ in left:
            await send()

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(_CONCURRENCY)))
    return (time.process_time() - began) / _SENDS


async def _measure(url: str) -> list[tuple[float, float]]:
    # A quota so large that it never binds: what is measured is what passing it costs.
    quotas = QuotaTable.default().replace(
        "direct_messages.send", Quota(10**9, per=86_400.0), Quota(10**9, per=86_400.0, scope="app")
    )
    target = f"{url}/1.1/direct_messages/events/new.json"
    body = (
        b'{"event":{"type":"message_create","message_create":{"target":{"recipient_id":"844385345234"},'
        b'"message_data":{"text":"' + _TEXT.encode() + b'"},"custom_profile_id":"100001"}}}'
    )
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        Client(_KEYS, api_url=url, upload_url=url, quotas=quotas) as client,
    ):

        async def bare() -> None:
            async with session.post(target, data=body, headers={"Content-Type": "application/json"}) as response:
                await response.read()

        async def ours() -> None:
            await client.direct_messages.send("844385345234", _TEXT, custom_profile_id="100001")

        for send in (bare, ours):
            await _cpu_per_send(send)
        return [(await _cpu_per_send(bare), await _cpu_per_send(ours)) for _ in range(_ROUNDS)]


def main() -> None:
    """Measure and print."""
    context = multiprocessing.get_context("spawn")
    ready, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        rounds = asyncio.run(_measure(f"http://127.0.0.1:{ready.recv()}"))
    finally:
        server.terminate()
        server.join()
    bare, ours = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
    ratios = sorted(ours / bare for bare, ours in rounds)
    print(f"CPU per send at concurrency {_CONCURRENCY}, {_ROUNDS} rounds of {_SENDS} sends each")
    print(f"bare aiohttp POST   {bare:7.1f} µs")
    print(f"twdm_async          {ours:7.1f} µs")
    print(f"ratio               {statistics.median(ratios):7.2f}   (from {ratios[0]:.2f} to {ratios[-1]:.2f})")
