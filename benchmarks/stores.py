"""The throughput of outbox and inbox, which keep each message or event in a file or a database."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import multiprocessing
import sqlite3
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import psycopg
from aiohttp import web

from benchmarks.report import Figure
from benchmarks.server import KEYS, PERSON, PROFILE, TEXT, WIDE, answering
from tests.postgres_server import PostgresServer, find
from twdm_async import Client, PostgresQuotaStore
from twdm_async.database import install
from twdm_async.outbox import Outbox
from twdm_async.resources.inbox import Inbox
from twdm_async.webhooks import Event, Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

_MESSAGES: Final = 2000
_EVENTS: Final = 3000


def _commits(folder: Path) -> float:
    """Return the durable commits a second of SQLite on this disk, one after the other."""
    db = sqlite3.connect(folder / "commits.db", isolation_level=None)
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE row (number)")
    began, commits = time.perf_counter(), 0
    while time.perf_counter() - began < 1.0:
        db.execute("INSERT INTO row VALUES (?)", (commits,))
        commits += 1
    db.close()
    return commits / (time.perf_counter() - began)


async def outbox() -> AsyncIterator[Figure]:
    """Measure an outbox in a file, in messages a second."""
    with answering() as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workers in (1, 16, 64):
            commits = _commits(Path(tempfile.mkdtemp(dir=folder)))
            async with (
                Client(KEYS, api_url=url, upload_url=url, quotas=WIDE) as client,
                Outbox(client, folder / f"{workers}.db") as box,
            ):
                await asyncio.gather(
                    *(box.put(PERSON, TEXT, key=str(key), custom_profile_id=PROFILE) for key in range(_MESSAGES))
                )
                began = time.perf_counter()
                await box.drain(workers=workers)
                rate = _MESSAGES / (time.perf_counter() - began)
            yield Figure(
                f"outbox, {workers} at work", f"{rate:.0f} messages/s, where the disk makes {commits:.0f} commits/s"
            )


def _commits_of_server(url: str) -> float:
    """Return the durable commits a second of the PostgreSQL server, one after the other."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE IF NOT EXISTS row (number integer)")
        began, commits = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            db.execute("INSERT INTO row VALUES (%s)", (commits,))
            commits += 1
        return commits / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def _box(url: str, database: str) -> AsyncGenerator[Outbox]:
    """Open an outbox that keeps its messages and the quotas in a PostgreSQL database."""
    async with (
        PostgresQuotaStore(database) as store,
        Client(KEYS, api_url=url, upload_url=url, quotas=WIDE, quota_store=store) as client,
        Outbox(client, database) as box,
    ):
        yield box


def _drain(url: str, database: str) -> float:
    """Send all messages of the outbox. Return when it was done, in seconds since 1970-01-01 UTC."""

    async def main() -> float:
        async with _box(url, database) as box:
            await box.drain()
            return time.time()

    return asyncio.run(main())


async def postgres() -> AsyncIterator[Figure]:
    """Measure several processes that send from an outbox in a PostgreSQL database, with the quotas in it too."""
    programs = find()
    if programs is None:
        return
    loop = asyncio.get_running_loop()
    with answering(is_awake=False) as url, PostgresServer(programs, fsync="on") as server:  # many share the processors
        for count in (1, 4):
            commits = _commits_of_server(server.url)
            database = f"{server.url}?twdm_schema=with_{count}"
            await install(database)
            with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
                await asyncio.gather(*(loop.run_in_executor(pool, _drain, url, database) for _ in range(count)))  # warm
                async with _box(url, database) as box:
                    await asyncio.gather(*(box.put(PERSON, TEXT, key=str(key)) for key in range(_MESSAGES)))
                began = time.time()
                ends = [loop.run_in_executor(pool, _drain, url, database) for _ in range(count)]
                rate = _MESSAGES / (max(await asyncio.gather(*ends)) - began)
            yield Figure(
                f"outbox in PostgreSQL, {count} processes with 16 at work each",
                f"{rate:.0f} messages/s, where the server makes {commits:.0f} commits/s",
            )


def _deliveries() -> list[tuple[bytes, dict[str, str]]]:
    deliveries: list[tuple[bytes, dict[str, str]]] = []
    for number in range(_EVENTS):
        created = {"target": {"recipient_id": "1"}, "sender_id": str(1000 + number), "message_data": {"text": TEXT}}
        event = {
            "type": "message_create",
            "id": str(10**9 + number),
            "created_timestamp": "1700000000000",
            "message_create": created,
        }
        body = json.dumps({"for_user_id": "370773112", "direct_message_events": [event]}).encode()
        digest = hmac.digest(KEYS.consumer_secret.encode(), body, "sha256")
        deliveries.append((body, {"x-twitter-webhooks-signature": f"sha256={base64.b64encode(digest).decode()}"}))
    return deliveries


def _deliver(url: str, at_once: int) -> float:
    """Deliver all events, `at_once` at a time. Return the seconds that it took."""

    async def main() -> float:
        left = iter(_deliveries())
        async with aiohttp.ClientSession() as session:

            async def worker() -> None:
                for body, headers in left:
                    async with session.post(url, data=body, headers=headers) as response:
                        assert response.status == 200, await response.text()

            began = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(at_once)))
            return time.perf_counter() - began

    return asyncio.run(main())


async def webhooks() -> AsyncIterator[Figure]:
    """Measure signed events over HTTP, each kept in the inbox before its acknowledgement, beside a bare handler."""

    async def bare(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def handle(_: Event) -> None:
        pass

    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for at_once in (1, 16, 64):
            async with (
                Inbox(Path(folder) / f"{at_once}.db") as inbox,
                Webhook(KEYS, handle, inbox=inbox) as webhook,
            ):
                app = web.Application()
                app.router.add_post("/bare", bare)
                app.router.add_route("*", "/webhook", webhook.serve)
                runner = web.AppRunner(app)
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                rates = [
                    _EVENTS / await loop.run_in_executor(pool, _deliver, f"{url}/{path}", at_once)
                    for path in ("bare", "webhook")
                ]
                await webhook.settled()
                await runner.cleanup()
            yield Figure(
                f"webhook and inbox, {at_once} at once",
                f"{rates[1]:.0f} events/s; a handler that does nothing gets {rates[0]:.0f} events/s",
            )
