"""A sandbox, a client and an outbox in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web
from attrs import define

from twdm_async import Client, LoopClock
from twdm_async.outbox import Outbox, sending, settling
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import ModuleType

    import pytest

T = TypeVar("T")

DOCS: Final = Path(__file__).parent.parent / "docs"

HANGS: Final = 120.0
"""Seconds after which what has not ended is taken to hang, however slow the machine is."""


class _NoThread:
    """Does the work of a storage's thread in the loop: virtual time would run away from a thread."""

    def __init__(self, *_: object) -> None: ...

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(job())
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)
        return done

    def put(self, job: Callable[[], None]) -> None:
        job()

    def end(self) -> None: ...


def program(name: str) -> ModuleType:
    """A program of the documentation."""
    spec = importlib.util.spec_from_file_location(name, next(DOCS.rglob(f"{name}.py")))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def keep_files_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let outboxes live in virtual time, and look around seldom, so that a day passes quickly."""
    monkeypatch.setattr("twdm_async.storage.contract._Thread", _NoThread)
    monkeypatch.setattr(sending, "_LOOK_EVERY", 30.0)
    monkeypatch.setattr(sending, "_WAKE_EVERY", 30.0)
    monkeypatch.setattr(sending, "_RECLAIM_EVERY", 60.0)
    monkeypatch.setattr(settling, "_LOOK_EVERY", 60.0)
    monkeypatch.setattr("twdm_async.outbox.outbox._LOOK_EVERY", 30.0)


@contextlib.asynccontextmanager
async def listening(sandbox: Sandbox, client: Client) -> AsyncIterator[None]:
    """A webhook that tells `client` of the messages that its account gets and sends."""

    async def nobody(_: object) -> None: ...

    webhook = Webhook(sandbox.credentials, nobody, clients=[client])
    app = web.Application()
    app.router.add_route("*", "/", webhook.serve)
    app.cleanup_ctx.append(webhook.lifespan)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        await sandbox.subscribe(f"http://{host}:{port}/")
        yield
    finally:
        await runner.cleanup()


@define
class Place:
    """What a test plays with."""

    sandbox: Sandbox
    client: Client
    outbox: Outbox
    clock: LoopClock

    @property
    def sends(self) -> int:
        """Requests to send a message, whatever became of them."""
        return sum(request.endpoint == "direct_messages.send" for request in self.sandbox.requests)

    @property
    def readings(self) -> int:
        """Requests to read the list."""
        return sum(request.endpoint == "direct_messages.list" for request in self.sandbox.requests)


@contextlib.asynccontextmanager
async def place(
    path: Path,
    *,
    settle_after: float | None = None,
    timeout: float = 30.0,
    max_wait: float | None = None,
    **options: Any,
) -> AsyncIterator[Place]:
    """All of it; `options` are the sandbox'. To be used after :func:`keep_files_in_the_loop`."""
    clock = LoopClock()
    async with (
        Sandbox(clock=clock, **options) as sandbox,
        Client(
            sandbox.credentials,
            api_url=sandbox.url,
            upload_url=sandbox.url,
            clock=clock,
            quotas=sandbox.quotas,
            timeout=timeout,
            max_wait=max_wait,
        ) as client,
        Outbox(client, path, settle_after=settle_after) as outbox,
    ):
        yield Place(sandbox, client, outbox, clock)
