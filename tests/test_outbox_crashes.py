"""Processes that send one outbox, and are killed: each message arrives once, by the server's record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from attrs import asdict

from tests.drainer import LEASE, TIMEOUT, table
from tests.support import HANGS
from twdm_async import Client, PostgresDatabase, PostgresQuotaStore, SQLiteQuotaStore
from twdm_async.outbox import Outbox, State
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.forked import Forked, ForkServer
    from twdm_async.storage.places import Place

SETTLE_AFTER = 2.4  # seconds
HOSTILE = Fault(("reset", "silence", "cut", "503"), endpoint="direct_messages.send", probability=0.3)
EARLY = Fault(("reset", "close"), endpoint="direct_messages.send", probability=0.2, processed=False)
REPEATED = Fault("repeated", endpoint="direct_messages.send", probability=0.1)
BAD_LIST = Fault(("list_reversed", "list_old_head", "list_holes"), endpoint="direct_messages.list", probability=0.3)
LIST_LAG = (0.0, 2.0)  # seconds


@contextlib.asynccontextmanager
async def opened(sandbox: Sandbox, path: Place, timeout: float = TIMEOUT) -> AsyncIterator[Outbox]:
    async with (
        PostgresQuotaStore(path) if isinstance(path, PostgresDatabase) else SQLiteQuotaStore(path) as store,
        Client(
            sandbox.credentials,
            api_url=sandbox.url,
            upload_url=sandbox.url,
            quotas=table(),
            quota_store=store,
            timeout=timeout,
        ) as client,
        Outbox(client, path, settle_after=max(SETTLE_AFTER, 5 * timeout) + LEASE) as outbox,
    ):
        yield outbox


async def fill(sandbox: Sandbox, path: Place, count: int) -> None:
    async with opened(sandbox, path) as outbox:
        await asyncio.gather(
            # Two and two say the same to the same person.
            *(
                outbox.put(number // 2 % 50 + 1, f"SENTINELtext {number // 2}", key=str(number))
                for number in range(count)
            )
        )


async def drainer(fork_server: ForkServer, sandbox: Sandbox, path: Path) -> Forked:
    keys = json.dumps(asdict(sandbox.credentials))
    return await fork_server.start("drainer", [sandbox.url, str(path), str(SETTLE_AFTER), keys], os.environ)


def states(path: Place, patience: float = 5.0) -> dict[str, int]:
    """How many messages are in each state."""
    if isinstance(path, PostgresDatabase):
        with contextlib.closing(path.connect()) as server:
            query = f"SELECT state, count(*) FROM {path.schema}.message GROUP BY state"  # noqa: S608 - of the test
            return dict(server.execute(query).fetchall())
    with contextlib.closing(sqlite3.connect(path, timeout=patience)) as db:
        return dict(db.execute("SELECT state, count(*) FROM message GROUP BY state").fetchall())


def times_each_arrived(sandbox: Sandbox) -> Counter[str]:
    return Counter(message.text for message in sandbox.messages)


def all_arrived_once(sandbox: Sandbox, count: int) -> bool:
    """Whether all that :func:`fill` has put arrived, each as often as it was put."""
    return times_each_arrived(sandbox) == Counter(f"SENTINELtext {number // 2}" for number in range(count))


async def catch(process: Forked, path: Path, state: str) -> None:
    """Stop the process in a moment in which a message is in this state, if there is one within four seconds."""
    for _ in range(400):
        if process.returncode is not None:
            return
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(sqlite3.OperationalError):  # it may have stopped with the file in its hands
            if state in states(path, patience=0.1):
                return
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.01)


async def kill_again_and_again(
    fork_server: ForkServer, path: Path, messages: int, kills: int, latency: float
) -> Counter[str]:
    """How often there was a message in each state when the process was killed."""
    seen: Counter[str] = Counter()
    chance = random.Random(7)
    faults = [HOSTILE, EARLY, REPEATED, BAD_LIST]
    async with Sandbox(quotas=table(), faults=faults, latency=(0.0, latency), list_lag=LIST_LAG, seed=7) as sandbox:
        await fill(sandbox, path, messages)
        killed = 0
        while killed < kills:
            process = await drainer(fork_server, sandbox, path)
            accepted = len(sandbox.messages)
            while process.returncode is None and len(sandbox.messages) == accepted:
                await asyncio.sleep(0.01)  # until it works; or until all is sent, and it only settles
                if not states(path).keys() & {"queued", "absent"}:
                    break
            if killed % 5 == 4:
                await catch(process, path, "absent")  # which lasts for some milliseconds only
            else:
                await asyncio.sleep(chance.uniform(0.0, 0.3))
            if process.returncode is None:
                process.kill()
                await process.wait()
                killed += 1
                seen.update(states(path).keys())
            if set(states(path)) <= {"sent"}:  # done too early: some more
                messages += 50
                await fill(sandbox, path, messages)
        last = await drainer(fork_server, sandbox, path)
        await asyncio.wait_for(last.wait(), 240)  # who was unlucky is tried again after ever longer pauses
        async with opened(sandbox, path) as outbox:
            counts = await outbox.counts()
        with contextlib.closing(sqlite3.connect(path)) as db:
            tries = dict(db.execute("SELECT tries, count(*) FROM message GROUP BY tries").fetchall())
        print("messages by how often they did not arrive:", tries)  # noqa: T201 - what was measured
        assert counts[State.SENT] == sum(counts.values()) == messages
        assert all_arrived_once(sandbox, messages)
    return seen


async def test_fault_50_an_outbox_whose_process_is_killed_loses_and_doubles_nothing(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    await kill_again_and_again(fork_server, tmp_path / "state.db", messages=20, kills=2, latency=0.05)


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_fault_50_a_thousand_messages_and_a_hundred_kills_in_every_state(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    seen = await kill_again_and_again(fork_server, tmp_path / "state.db", messages=1000, kills=100, latency=0.1)
    print("states at the kills:", dict(seen))  # noqa: T201 - what was measured
    assert all(seen[state] >= 10 for state in ("queued", "sending", "unknown", "absent", "sent")), seen


async def test_two_processes_on_one_outbox_send_each_message_once(fork_server: ForkServer, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with Sandbox(quotas=table(), faults=[HOSTILE], latency=(0.0, 0.02), seed=3) as sandbox:
        await fill(sandbox, path, 100)
        processes = [await drainer(fork_server, sandbox, path) for _ in range(2)]
        for process in processes:
            assert await asyncio.wait_for(process.wait(), HANGS) == 0
        assert all_arrived_once(sandbox, 100)
        assert states(path) == {"sent": 100}
