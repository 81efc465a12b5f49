"""Servers that do one wrong thing each, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from attrs import define, field

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@define
class Scripted:
    """A server that is running. `requests` holds what it was sent, head and body, in order."""

    url: str
    requests: list[bytes] = field(factory=list[bytes])
    connections: int = 0


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request; raises IncompleteReadError at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


@contextlib.asynccontextmanager
async def serving(*scripts: Script | bytes) -> AsyncIterator[Scripted]:
    """A server on loopback.

    Args:
        scripts: for each connection in turn, the last one for all that follow: what is done with it, or the reply to
            every request.
    """
    scripted = Scripted("")

    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        script = scripts[min(scripted.connections, len(scripts) - 1)]
        scripted.connections += 1
        try:
            if callable(script):
                scripted.requests.append(await read_request(reader))
                await script(reader, writer)
            else:
                while True:
                    scripted.requests.append(await read_request(reader))
                    writer.write(script)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await asyncio.sleep(0)  # their sockets close in the next turn of the loop
