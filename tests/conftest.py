"""What most tests need: a sandbox, and a client that talks to it."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets as secrets_module
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from tests import postgres_server, redis_server, secrets
from tests.forked import ForkServer
from tests.pictures import PNG
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from twdm_async import Client, PostgresDatabase, QuotaTable
from twdm_async.database import install
from twdm_async.sandbox import Sandbox
from twdm_async.storage.sqlite import StateFile

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from twdm_async.storage.places import Place


secrets.watch()
# No test may depend on how fast the machine is. `pytest -m hypothesis --hypothesis-profile=many` takes its time.
ANY_MACHINE: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", ANY_MACHINE, max_examples=30)
settings.register_profile("many", ANY_MACHINE, max_examples=300)
settings.load_profile("few")
if os.environ.get("TWDM_TEST_LOOP") == "uvloop":
    warnings.simplefilter("ignore", DeprecationWarning)  # of policies, from Python 3.14 on
    asyncio.set_event_loop_policy(import_module("uvloop").EventLoopPolicy())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """More workers than processors: tests wait for processes of their own and for timers, the long ones often."""
    processors = os.cpu_count() or 1
    return processors + 1 if "not soak" in config.option.markexpr else 2 * processors + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that may take long come first, so that no worker begins with them when the others have done all else."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def pytest_collection_finish() -> None:
    """What was imported stays: it need not be looked through each time that garbage is collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_secret_is_shown() -> Iterator[None]:
    """No test may make anything show a key or the text of a message."""
    yield
    shown = list(dict.fromkeys(secrets.found))
    secrets.found.clear()
    assert shown == []


@pytest.fixture(autouse=True)
def files_are_closed() -> Iterator[None]:
    """A store that a test leaves as it is, as a process does that dies, is closed with it: Python 3.13 warns of those."""
    opened: list[sqlite3.Connection] = []
    open_file = StateFile._open

    def opening(file: StateFile) -> sqlite3.Connection:
        opened.append(open_file(file))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateFile, "_open", opening)
        yield
    for db in opened:
        db.close()


@pytest.fixture(scope="session")
def redis_program() -> str:
    """A Redis server's program. Without one, what needs it is skipped; unless it must not be."""
    program = redis_server.find()
    if program is None:
        assert not os.environ.get("CI"), "these tests may not be skipped here: install redis-server or valkey-server"
        pytest.skip("there is no redis-server or valkey-server on PATH")
    return program


@pytest.fixture(scope="session")
def redis_url(redis_program: str) -> Iterator[str]:
    """The address of a Redis server of this test run."""
    with RedisServer(redis_program) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The folder of a PostgreSQL server's programs. Without one, what needs it is skipped; unless it must not be."""
    programs = postgres_server.find()
    if programs is None:
        assert not os.environ.get("CI"), "these tests may not be skipped here: install postgresql"
        pytest.skip("there is no PostgreSQL server on PATH, and not Debian's either")
    return programs


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run."""
    with PostgresServer(postgres_programs) as server:
        yield server


@pytest.fixture
async def database(postgres: PostgresServer) -> PostgresDatabase:
    """A database of its own, with the tables made."""
    database = PostgresDatabase(postgres.url, schema=f"test_{secrets_module.token_hex(6)}", lease=3.0)
    await install(database)
    return database


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an outbox or an inbox may live: what is tested with it holds in all of these."""
    if request.param == "file":
        return tmp_path / "state.db"
    database: PostgresDatabase = request.getfixturevalue("database")
    return database


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """What starts processes quickly."""
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    """A client with the documented quotas and without manners, so that no test waits for these."""
    table = QuotaTable.default()
    for family in ("direct_messages.send", "custom_profiles.create", "welcome_messages.create"):
        table = table.replace(family, *table[family].quotas)
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table) as client:
        yield client


@pytest.fixture
async def profile_id(client: Client) -> str:
    return (await client.custom_profiles.create("Anna", PNG)).id
