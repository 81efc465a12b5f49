"""An MCP server over streamable HTTP, whose clients repeat their calls; it ends when the file ``done`` is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import uvicorn

from twdm_async.adapters.mcp import server

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from twdm_async import Desk


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def run(desk: Desk, folder: Path) -> dict[str, Any]:
    made = server(desk, asks=True)
    config = uvicorn.Config(
        made.streamable_http_app(), port=int(os.environ["TEST_PORT"]), log_level="error", timeout_graceful_shutdown=1
    )
    serving = _Server(config)
    task = asyncio.create_task(serving.serve())
    while not (folder / "done").exists():
        await asyncio.sleep(0.05)
        assert not task.done()
    serving.should_exit = True
    await task
    return {}
