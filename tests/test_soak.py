"""A day of twenty agents in virtual time: a hundred thousand messages to a server that fails at one in a hundred."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import random
from collections import Counter, deque
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.test_http import KEYS
from tests.virtual_time import run
from twdm_async import AttemptReport, Client, DeliveryUnknown, LoopClock, Quota, QuotaTable

AGENTS, SENDS, DAY = 20, 20_000, 86_400.0


class Hostile(asyncio.Protocol):
    """Just enough of the API, in one connection. What all of them know is in the class, so that nothing of it grows."""

    chance: ClassVar = random.Random(3)
    ids: ClassVar = itertools.count(1)
    accepted: ClassVar[Counter[str]] = Counter()  # by text; only those of the last minutes are kept
    recent: ClassVar[deque[dict[str, Any]]] = deque(maxlen=2500)
    clock: ClassVar = LoopClock()
    breaks = doubled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if found and len(body) >= length:
            self.received = b""
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            _, _, cursor = head.partition(b"\r")[0].partition(b"cursor=")
            last = int(cursor.partition(b"&")[0].partition(b" ")[0] or 10**9)
            older = (event for event in reversed(self.recent) if int(event["id"]) < last)
            page = list(itertools.islice(older, 200))
            self.write(json.dumps({"events": page, "next_cursor": page[-1]["id"]} if page else {"events": []}).encode())
            return
        is_broken = self.chance.random() < 0.01
        kind = self.chance.choice(["early", "close", "silence", "half", "503"]) if is_broken else None
        Hostile.breaks += is_broken
        if kind == "early":
            self.transport.abort()
            return
        event = json.loads(body)["event"]
        event["id"] = str(next(self.ids))
        event["created_timestamp"] = str(int(self.clock.wall() * 1000))
        self.recent.append(event)
        text = event["message_create"]["message_data"]["text"]
        Hostile.doubled += text in self.accepted
        self.accepted[text] += 1
        if len(self.accepted) > 5000:
            del self.accepted[next(iter(self.accepted))]
        answer = json.dumps({"event": event}).encode()
        match kind:
            case "close":
                self.transport.close()
            case "silence":
                pass
            case "half":
                self.write(answer[: len(answer) // 2])
            case "503":
                self.write(b"<html>", b"503 Service Unavailable")
            case _:
                self.write(answer)

    def write(self, body: bytes, status: bytes = b"200 OK") -> None:
        self.transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the memory of a process is read where Linux shows it"
)
def test_a_day_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "twdm_async")  # pytest would keep every record
    outcomes: Counter[str] = Counter()
    sizes: list[int] = []

    def count(report: AttemptReport) -> None:
        outcomes[type(report.outcome).__name__] += 1

    async def main() -> None:
        clock = Hostile.clock
        quotas = QuotaTable.default().replace("direct_messages.send", Quota(5_000, per=3600.0))
        quotas = quotas.replace("direct_messages.list", Quota(10_000, per=3600.0))
        server = await asyncio.get_running_loop().create_server(Hostile, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(KEYS, api_url=url, upload_url=url, quotas=quotas, clock=clock, observers=[count]) as client:

            async def agent(name: int) -> None:
                for number in range(SENDS // AGENTS):
                    due = DAY / (SENDS // AGENTS) * number
                    await asyncio.sleep(max(0.0, due - clock.monotonic()))
                    text = f"SENTINELtext {name} {number}"
                    try:
                        await client.direct_messages.send(1000 + name, text, lane=str(name))
                    except DeliveryUnknown as error:
                        (settled,) = await client.direct_messages.reconcile(error)
                        outcomes[settled.delivered] += 1

            async def measure() -> None:
                while True:
                    await asyncio.sleep(DAY / 8)
                    sizes.append(resident())

            measuring = asyncio.create_task(measure())
            await asyncio.gather(*(agent(name) for name in range(AGENTS)))
            measuring.cancel()
            assert clock.monotonic() >= 0.99 * DAY
            assert (
                len(
                    [
                        task
                        for task in asyncio.all_tasks()
                        if task.get_name() in {"twdm_async attempt", "twdm_async request"}
                    ]
                )
                <= AGENTS
            )
        server.close()
        await server.wait_closed()
        await asyncio.sleep(1)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []
        sockets = [one for one in gc.get_objects() if isinstance(one, asyncio.Transport) and not one.is_closing()]
        assert sockets == []

    run(main())
    sizes.append(resident())
    half, end = sizes[len(sizes) // 2 - 1], sizes[-1]
    print("outcomes:", dict(outcomes))  # noqa: T201 - what was measured
    print("MB in memory, each eighth of the day:", [size // 1_000_000 for size in sizes])  # noqa: T201 - as above
    assert outcomes["DirectMessage"] + outcomes["DeliveryUnknown"] == SENDS
    assert outcomes["DeliveryUnknown"] == Hostile.breaks
    assert 0.008 * SENDS < Hostile.breaks < 0.012 * SENDS
    assert outcomes["yes"] + outcomes["no"] == Hostile.breaks
    assert outcomes["unknown"] == Hostile.doubled == 0
    assert end < 1.05 * half, "it grows"
