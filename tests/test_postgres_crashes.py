"""Processes that send one outbox in a database, over connections that are cut, while they are killed and suspended and
the server crashes: each message arrives once, by the API's record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import psycopg
import pytest
from attrs import asdict

from tests import samples_family as samples
from tests.drainer import LEASE, database, table
from tests.inserter import DRIVERS, ORDERED
from tests.postgres_server import PostgresServer
from tests.receiving import HEADER, SECRET
from tests.test_outbox_crashes import (
    BAD_LIST,
    EARLY,
    HOSTILE,
    LIST_LAG,
    REPEATED,
    SETTLE_AFTER,
    all_arrived_once,
    fill,
    opened,
    states,
    times_each_arrived,
)
from twdm_async.database import install
from twdm_async.outbox import State
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks.signature import _signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.forked import Forked, ForkServer


class Wire:
    """Passes connections on to a server, and cuts them.

    Args:
        port: of the server.
        chance: what is cut.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port = port
        self._chance = chance
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts: Counter[str] = Counter()
        self.cut_at_next: bytes | None = None
        """Cut a connection as soon as this is said over it: before it is passed on, or after."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._pass_on(reader, back, writer), self._pass_on(there, writer, back))
        except OSError:
            pass
        finally:
            for one in (writer, back):
                self._open.discard(one)
                one.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            word = self.cut_at_next
            if word is not None and word in data:
                self.cut_at_next = None
                self.cuts[word.decode()] += 1
                if self._chance.random() < 0.5:
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                writer.close()
                other.close()
                return
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Cut one of the connections that are open."""
        if self._open:
            self.cuts["anywhere"] += 1
            self._chance.choice(sorted(self._open, key=id)).transport.abort()


@contextlib.asynccontextmanager
async def wire_to(server: PostgresServer, chance: random.Random) -> AsyncIterator[tuple[Wire, str]]:
    """Such a wire, and the server's URL over it."""
    wire = Wire(server.port, chance)
    listening = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield wire, server.url.replace(str(server.port), str(port))
    finally:
        listening.close()


class Crew:
    """Processes that send; one that has ended is replaced."""

    def __init__(self, fork_server: ForkServer, sandbox: Sandbox, url: str, count: int) -> None:
        self._fork_server = fork_server
        keys = json.dumps(asdict(sandbox.credentials))
        self._words = [sandbox.url, url, str(SETTLE_AFTER + LEASE), keys]
        self._count = count
        self.members: list[Forked] = []

    async def fill_up(self) -> None:
        self.members = [one for one in self.members if one.returncode is None]
        while len(self.members) < self._count:
            self.members.append(await self._fork_server.start("drainer", self._words, os.environ))

    async def end(self) -> None:
        for one in self.members:
            one.send_signal(signal.SIGCONT)
            one.kill()
            await one.wait()


async def disturb(
    server: PostgresServer, wire: Wire, crew: Crew, chance: random.Random, counts: dict[str, int], pause: float
) -> None:
    """Do each kind of harm so many times, in any order."""

    async def kill() -> None:
        chance.choice(crew.members).kill()

    async def suspend() -> None:
        victim = chance.choice(crew.members)
        victim.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(LEASE * chance.uniform(1.5, 4.0), victim.send_signal, signal.SIGCONT)

    async def terminate() -> None:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'twdm_async' "
            "ORDER BY random() LIMIT 1"
        )
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute(query)

    async def crash() -> None:
        server.crash()
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        await asyncio.to_thread(server.start)

    async def cut() -> None:
        wire.cut()

    async def cut_at_word() -> None:
        wire.cut_at_next = chance.choice([b"COMMIT", b"COMMIT", b"BEGIN"])

    harm: dict[str, Callable[[], Awaitable[None]]] = {
        "kill": kill, "suspend": suspend, "terminate": terminate, "crash": crash, "cut": cut, "cut at word": cut_at_word,
    }  # fmt: skip
    order = [kind for kind, count in counts.items() for _ in range(count)]
    chance.shuffle(order)
    for kind in order:
        await asyncio.sleep(chance.uniform(0.0, 2 * pause))
        await crew.fill_up()
        await harm[kind]()


async def harmed(
    fork_server: ForkServer, programs: Path, seed: int, messages: int, counts: dict[str, int], pause: float = 0.15
) -> None:
    chance = random.Random(seed)
    print("seed", seed)  # noqa: T201 - with it, the same is tried again
    faults = [HOSTILE, EARLY, REPEATED, BAD_LIST]
    with PostgresServer(programs) as server:
        place = database(server.url)
        await install(place)
        async with (
            Sandbox(quotas=table(), faults=faults, latency=(0.0, 0.1), list_lag=LIST_LAG, seed=seed) as sandbox,
            wire_to(server, chance) as (wire, url),
        ):
            await fill(sandbox, place, messages)
            crew = Crew(fork_server, sandbox, url, 4)
            try:
                await disturb(server, wire, crew, chance, counts, pause)
                wire.cut_at_next = None
                while not set(states(place)) <= {"sent"}:
                    await crew.fill_up()
                    await asyncio.sleep(0.2)
            finally:
                await crew.end()
            print("cuts:", dict(wire.cuts))  # noqa: T201 - what was done
            async with opened(sandbox, place) as outbox:
                found = await outbox.counts()
            assert found[State.SENT] == sum(found.values()) == messages
            assert all_arrived_once(sandbox, messages)
            assert not sandbox.breaches


@pytest.mark.soak
@pytest.mark.timeout(280)
async def test_fault_113_processes_are_harmed_in_every_way_and_nothing_is_lost_or_doubled(
    fork_server: ForkServer, postgres_programs: Path
) -> None:
    counts = {"kill": 30, "suspend": 6, "terminate": 6, "crash": 2, "cut": 8, "cut at word": 8}
    await harmed(fork_server, postgres_programs, 6, 300, counts)


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [7, 8, 9])
async def test_fault_113_a_thousand_messages_and_two_hundred_harms(
    fork_server: ForkServer, postgres_programs: Path, seed: int
) -> None:
    counts = {"kill": 100, "suspend": 20, "terminate": 20, "crash": 5, "cut": 25, "cut at word": 25}
    await harmed(fork_server, postgres_programs, seed, 1000, counts)


# ---- put in the application's own transactions ----


async def ordered(fork_server: ForkServer, programs: Path, count: int) -> None:
    """Applications take orders, each with a message, and every second one is broken off. Applications and senders die.
    What was ordered is sent once, and nothing else is.
    """
    chance = random.Random(1)
    with PostgresServer(programs) as server:
        await install(server.url)
        with psycopg.connect(server.url) as db:
            db.execute(ORDERED)
        async with Sandbox(quotas=table(), faults=[EARLY]) as sandbox:
            keys = json.dumps(asdict(sandbox.credentials))
            crew = Crew(fork_server, sandbox, server.url, 1)
            applications: dict[str, Forked] = {}
            deaths = -len(DRIVERS)  # they are started once

            async def keep_up() -> None:
                nonlocal deaths
                await crew.fill_up()
                for driver in DRIVERS:
                    application = applications.get(driver)
                    if application is None or application.returncode not in {None, 0}:
                        deaths += 1
                        words = [driver, server.url, str(count), str(deaths), keys]
                        applications[driver] = await fork_server.start("inserter", words, os.environ)

            try:
                await keep_up()
                while any(one.returncode != 0 for one in applications.values()):
                    await asyncio.sleep(0.1)
                    if chance.random() < 0.2:
                        chance.choice(crew.members).kill()
                    await keep_up()
                while set(states(database(server.url))) != {"sent"}:
                    await crew.fill_up()
                    await asyncio.sleep(0.2)
            finally:
                await crew.end()
            print("deaths:", deaths)  # noqa: T201 - what was done
            assert deaths > 0
            with psycopg.connect(server.url) as db:
                orders = db.execute("SELECT driver, number FROM ordered").fetchall()
            assert Counter(orders) == Counter((driver, number) for driver in DRIVERS for number in range(0, count, 2))
            assert times_each_arrived(sandbox) == Counter(
                f"SENTINELtext {driver} {number}" for driver, number in orders
            )


@pytest.mark.soak
@pytest.mark.timeout(280)
async def test_what_is_put_with_an_order_is_sent_if_that_is_committed(
    fork_server: ForkServer, postgres_programs: Path
) -> None:
    await ordered(fork_server, postgres_programs, 20)


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_of_four_hundred_orders_of_each_driver_half_are_broken_off(
    fork_server: ForkServer, postgres_programs: Path
) -> None:
    await ordered(fork_server, postgres_programs, 400)


# ---- received ----


async def received(fork_server: ForkServer, programs: Path, folder: Path, count: int) -> None:
    """X sends each event to two hosts, or again to the other one if one is gone; one of them is killed halfway."""
    with PostgresServer(programs) as server:
        await install(server.url)
        notes = [folder / "first", folder / "second"]
        hosts = [await fork_server.start("receiver", [server.url, str(one)], os.environ) for one in notes]
        urls = [(await host.stdout.readline()).decode().strip() for host in hosts]
        create = samples.WEBHOOK_MESSAGE_RECEIVED["direct_message_events"][0]["message_create"]
        async with aiohttp.ClientSession() as session:

            async def deliver(number: int, url: str) -> None:
                event = {"type": "message_create", "id": str(10**9 + number), "created_timestamp": "1700000000000"}
                event["message_create"] = create | {"sender_id": str(number % 50)}
                body = json.dumps(samples.WEBHOOK_MESSAGE_RECEIVED | {"direct_message_events": [event]}).encode()
                with contextlib.suppress(aiohttp.ClientError):  # it is dead
                    async with session.post(url, data=body, headers={HEADER: _signature(SECRET, body)}) as answer:
                        assert answer.status == 200

            async def deliver_all(numbers: range) -> None:
                for start in range(numbers.start, numbers.stop, 20):
                    some = range(start, min(start + 20, numbers.stop))
                    await asyncio.gather(*(deliver(number, url) for number in some for url in urls))

            await deliver_all(range(count // 2))
            before = notes[0].read_text()
            last = asyncio.create_task(deliver_all(range(count // 2, count)))
            while notes[0].read_text() == before and not last.done():
                await asyncio.sleep(0.001)
            hosts[0].kill()
            await hosts[0].wait()
            with psycopg.connect(server.url) as db:  # handled, and written down, or not
                query = (
                    "SELECT event.id FROM twdm.event JOIN twdm.lease ON lease.name = event.owner "
                    "WHERE lease.pid = %s AND event.body IS NOT NULL"
                )
                under_way = {event for (event,) in db.execute(query, (hosts[0].pid,)).fetchall()}
                assert db.execute("SELECT 1 FROM twdm.lease WHERE pid = %s", (hosts[0].pid,)).fetchone()
            await last

        def words(kind: str) -> list[list[str]]:
            return [
                [line.split()[1] for line in one.read_text().splitlines() if line.startswith(kind)] for one in notes
            ]

        while len({event for events in words("ended") for event in events}) < count:  # the other one takes over
            await asyncio.sleep(0.2)
        hosts[1].kill()
        began = words("began")
        times = Counter(began[0] + began[1])
        twice = {event for event, often in times.items() if often > 1}
        assert len(times) == count
        assert twice <= under_way, "only what was under way at the kill is handled again"


@pytest.mark.soak
@pytest.mark.timeout(280)
async def test_fault_114_of_two_hosts_that_receive_the_same_one_is_killed(
    fork_server: ForkServer, postgres_programs: Path, tmp_path: Path
) -> None:
    await received(fork_server, postgres_programs, tmp_path, 1000)
