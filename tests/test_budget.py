"""What a send costs, as a number that no machine can change: the steps of Python that our own code takes for it.

A change that makes a send dearer has to say so here, in the same commit.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import twdm_async
from tests.scripted import http, read_request, serving
from tests.test_http import CREATE, TEXT, connected
from twdm_async import AttemptReport, Quota, QuotaTable, Scope, telemetry
from twdm_async.transport import wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from types import FrameType

# Steps of the interpreter (bytecode instructions) in our own files, for a send with quotas of account and app, free
# replies, signing, a model, an observer and delivery tracking; with the standard library's json.
BUDGET: Final = {(3, 11): 3539, (3, 13): 3109}  # 3.12 does not tell them
SENDS: Final = 20


async def steps(send: Callable[[], Awaitable[object]]) -> float:
    """Count the steps that our own code takes for each of some sends."""
    ours = (str(Path(twdm_async.__file__).parent), "<twdm_async")
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(ours):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # what other tests left behind may take steps of ours when it is collected
    sys.settrace(trace)
    try:
        for _ in range(SENDS):
            await send()
    finally:
        sys.settrace(before)
        gc.enable()
    return count / SENDS


@pytest.mark.skipif(sys.version_info[:2] not in BUDGET, reason="each version of Python takes its own steps")
async def test_a_send_takes_as_many_steps_as_it_is_said_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "twdm_async")  # as in a program; what is logged takes steps of ours, too
    monkeypatch.setattr(wire, "_orjson", None)
    monkeypatch.setattr(telemetry, "observers", tuple)  # another test may have imported OpenTelemetry
    told: list[AttemptReport] = []
    quotas = QuotaTable.default().replace(
        "direct_messages.send", Quota(10**6, per=86_400.0), Quota(10**6, per=86_400.0, scope=Scope.APP)
    )

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            event = {"type": "message_create", "id": str(10**18 + len(server.requests)), "message_create": CREATE}
            event["created_timestamp"] = "1800000000000"
            writer.write(http(json.dumps({"event": event}, separators=(",", ":")).encode()))
            server.requests.append(await read_request(reader))

    async with serving(answering) as server, connected(server.url, quotas=quotas, observers=[told.append]) as client:
        agent = client.agent("100001")

        async def send() -> None:
            await agent.send("5", TEXT)

        for _ in range(3):
            await send()
        taken = await steps(send)
    budget = BUDGET[sys.version_info[:2]]
    assert 0.97 * budget <= taken <= 1.03 * budget, f"it takes {taken:.0f} steps, and was said to take {budget}"
