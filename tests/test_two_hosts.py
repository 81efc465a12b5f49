"""Two hosts in the sense of the network, each in a namespace of its own, 20 ms away from database and API, and cut off
from both for half a minute.

``python -m tests.test_two_hosts GATEWAY API-PORT ...`` is what runs on each: :mod:`tests.drainer`, which gets what
follows. It talks to the API over a port of its own machine, since requests are not signed for any other host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import asdict

from tests import drainer
from tests.drainer import LEASE, database, table
from tests.postgres_server import PostgresServer
from tests.test_outbox_crashes import EARLY, HOSTILE, SETTLE_AFTER, all_arrived_once, fill, states
from twdm_async.database import install
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

DELAY = 0.01  # seconds, each way
CUT = 30.0  # seconds
MESSAGES = 300
LIMIT = 40  # messages within the window of the quota


class Host:
    """A network namespace, which is connected to this one."""

    def __init__(self, number: int) -> None:
        self._name = f"twdm-{os.getpid()}-{number}"
        self._cable = f"twdm{os.getpid() % 100_000}-{number}"
        self.gateway = f"10.213.{number}.1"
        """The address of this namespace there."""
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0
        try:
            _ip("netns", "add", self._name)
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
            _ip("addr", "add", f"{self.gateway}/30", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
            for words in (f"addr add 10.213.{number}.2/30 dev eth0", "link set eth0 up", "link set lo up"):
                _ip("-n", self._name, *words.split())
        except BaseException:
            self.remove()
            raise

    async def keep_running(self, *words: str) -> None:
        """Start the process that sends, or start it again."""
        if self._process is None or self._process.returncode is not None:
            self.starts += 1
            inside = [
                "ip",
                "netns",
                "exec",
                self._name,
                sys.executable,
                "-m",
                "tests.test_two_hosts",
                self.gateway,
                *words,
            ]
            self._process = await asyncio.create_subprocess_exec(*inside, cwd=Path(__file__).parents[1])

    def cut(self) -> None:
        """What is sent gets lost, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def connect(self) -> None:
        _ip("link", "set", self._cable, "up")

    async def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self._name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S603, S607 - made up here, and wherever it is


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip`, which makes network namespaces")
    made: list[Host] = []
    try:
        made.extend(map(Host, (1, 2)))
    except subprocess.CalledProcessError:
        for host in made:
            host.remove()
        pytest.skip("network namespaces cannot be made here")
    yield made
    for host in made:
        host.remove()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def write() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                return
            writer.write(data)

    writing = asyncio.ensure_future(write())
    try:
        while data := await reader.read(65_536):
            queue.put_nowait((loop.time() + delay, data))
    except OSError:
        pass
    queue.put_nowait((loop.time() + delay, b""))
    await writing
    writer.close()


@contextlib.asynccontextmanager
async def leading(address: str, *, to: str, port: int, delay: float = DELAY) -> AsyncIterator[int]:
    """A port at `address` that leads to another one, which is so many seconds away."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(to, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, back, delay), _pass_on(there, writer, delay))

    server = await asyncio.start_server(serve, address, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def main(gateway: str, api: str, *words: str) -> None:
    async with leading("127.0.0.1", to=gateway, port=int(api), delay=0.0) as port:
        await drainer.main(f"http://127.0.0.1:{port}", *words)


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_two_hosts_that_are_cut_off_lose_and_double_nothing(hosts: list[Host], postgres_programs: Path) -> None:
    quotas = table(LIMIT, per=10.0)
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(PostgresServer(postgres_programs))
        await install(server.url)
        sandbox = await stack.enter_async_context(Sandbox(quotas=quotas, faults=[HOSTILE, EARLY], seed=1))
        await fill(sandbox, database(server.url), MESSAGES)
        words: dict[Host, list[str]] = {}
        for host in hosts:
            api = await stack.enter_async_context(
                leading(host.gateway, to="127.0.0.1", port=int(sandbox.url.rpartition(":")[2]))
            )
            place = await stack.enter_async_context(leading(host.gateway, to="127.0.0.1", port=server.port))
            words[host] = [
                str(api),
                server.url.replace(f"127.0.0.1:{server.port}", f"{host.gateway}:{place}"),
                str(SETTLE_AFTER + LEASE),
                json.dumps(asdict(sandbox.credentials)),
                str(LIMIT),
                "10.0",
            ]
            stack.push_async_callback(host.stop)

        async def keep_running() -> None:
            for host in hosts:
                await host.keep_running(*words[host])
                assert host.starts < 20, "it cannot run"

        arrived = 0
        for host in hosts:
            assert arrived < MESSAGES - LIMIT
            while len(sandbox.messages) <= arrived + LIMIT // 2:  # both are in the midst of it
                await keep_running()
                await asyncio.sleep(0.1)
            host.cut()
            before = len(sandbox.messages)
            until = asyncio.get_running_loop().time() + CUT
            while asyncio.get_running_loop().time() < until:
                await keep_running()
                await asyncio.sleep(0.1)
            assert len(sandbox.messages) > before, "the other one goes on"
            host.connect()
            arrived = len(sandbox.messages)
        while set(states(database(server.url))) != {"sent"}:
            await keep_running()
            await asyncio.sleep(0.2)
        assert all_arrived_once(sandbox, MESSAGES)
        assert sandbox.breaches == []


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
