"""The stores, with time in the test's hand."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import redis

from twdm_async import (
    MemoryQuotaStore,
    PostgresDatabase,
    PostgresQuotaStore,
    Quota,
    RedisQuotaStore,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async._clock import Clock
from twdm_async.database import _in_transaction, _install
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.quota.operations import Bucket, Claim, GiveBack, Granted, Settle, Take, Terms, Wait

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.postgres_server import PostgresServer
    from twdm_async import QuotaStore
    from twdm_async.quota.ledger import Usage
    from twdm_async.quota.operations import Answer, Slot
    from twdm_async.quota.store.transactional import Batch

EPOCH = 1_800_000_000.0
SEND = "direct_messages.send"
BUCKET = Bucket(SEND, Scope.USER, "anna", "brand")
QUOTA = Quota(3, per=100.0)
CLAIMS = (Claim(BUCKET, (QUOTA,)),)
LIFETIME = RequestLifetime(to_send=30.0, lease=90.0, grace=60.0, whole=120.0)
_prefixes = itertools.count()


class HandClock(Clock):
    """Stands still until it is moved. The wall clock can be set wrong by `wrong_by` seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.wrong_by = 0.0

    def monotonic(self) -> float:
        return self.now

    def uptime(self) -> float:
        return self.now

    def wall(self) -> float:
        return EPOCH + self.now + self.wrong_by


class TimedRedisStore(RedisQuotaStore):
    """A Redis store for which the server's clock shows what `clock` does: the script reads it from a key."""

    _script: ClassVar = RedisQuotaStore._script.replace(
        "redis.call('TIME')", "cjson.decode(redis.call('GET', 'test:now'))"
    )

    def __init__(self, url: str, clock: Clock, **options: Any) -> None:
        super().__init__(url, clock=clock, **options)
        self.hand = clock
        self.server = redis.Redis.from_url(url)

    async def close(self) -> None:
        await super().close()
        self.server.close()

    async def _call(self, *arguments: Any, **options: Any) -> Any:
        seconds, fraction = divmod(self.hand.wall(), 1)
        self.server.set("test:now", json.dumps([int(seconds), int(fraction * 1e6)]))
        return await super()._call(*arguments, **options)


class TimedDatabase(PostgresDatabase):
    """A database in which it is the time that the table `hand` says."""

    now: ClassVar = "(SELECT at FROM hand)"

    def make(self, url: str) -> TimedDatabase:
        """Make the tables."""
        _in_transaction(self, _install)
        with psycopg.connect(url) as db:
            db.execute(f"CREATE TABLE {self.schema}.hand AS SELECT 0::float8 AS at")
        return self


class TimedPostgresStore(PostgresQuotaStore):
    """A PostgreSQL store for which the database's clock shows what `clock` does."""

    def __init__(self, url: str, schema: str, clock: Clock, **options: Any) -> None:
        self.url, self.schema = url, schema
        super().__init__(TimedDatabase(url, schema=schema), clock=clock, **options)
        self.hand = psycopg.connect(url, autocommit=True)

    async def close(self) -> None:
        await super().close()
        self.hand.close()

    def _transact(self, batch: Batch) -> Any:
        self.hand.execute(f"UPDATE {self.schema}.hand SET at = %s", (self.clock.wall(),))  # noqa: S608 - of the test
        return super()._transact(batch)


def server_url(kind: str | None, request: pytest.FixtureRequest) -> str | None:
    """The address of the server that a store of this kind needs."""
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.url
    url: str | None = request.getfixturevalue("redis_url") if kind == "redis" else None
    return url


def address_of(kind: str, folder: Path, url: str | None, database: int = 0) -> str:
    """The address of a store that is empty."""
    if kind == "postgres":
        assert url is not None
        database_there = PostgresDatabase(url, schema=f"test_{os.getpid()}_{next(_prefixes)}")
        _in_transaction(database_there, _install)
        return f"{url}?twdm_schema={database_there.schema}"
    return {"memory": "memory://", "sqlite": f"sqlite:///{folder}/quota.db", "redis": f"{url}/{database}"}[kind]


def make(kind: str, clock: HandClock, folder: Path, url: str | None, **options: Any) -> QuotaStore:
    if kind == "memory":
        return MemoryQuotaStore(clock=clock, **options)
    if kind == "sqlite":
        return SQLiteQuotaStore(folder / f"{next(_prefixes)}.db", clock=clock, **options)
    assert url is not None
    if kind == "postgres":
        schema = f"test_{os.getpid()}_{next(_prefixes)}"
        TimedDatabase(url, schema=schema).make(url)
        return TimedPostgresStore(url, schema, clock, **options)
    return TimedRedisStore(url, clock, prefix=f"test{next(_prefixes)}", **options)


async def ask(store: QuotaStore, wanted: Take) -> Answer:
    answer = store.ask(wanted)
    return await answer if isinstance(answer, asyncio.Future) else answer


async def take(
    store: QuotaStore, claims: tuple[Claim, ...], lifetime: RequestLifetime, most: int = 1
) -> list[Slot] | Wait:
    """Take up to so many slots."""
    answer = await ask(store, Take(Terms(claims, lifetime), most))
    if isinstance(answer, Wait):
        return answer
    assert isinstance(answer, Granted)
    return [answer.slot] * answer.count


async def look(store: QuotaStore, claims: tuple[Claim, ...], lifetime: RequestLifetime) -> None:
    await ask(store, Take(Terms(claims, lifetime), 0))


def usage(store: QuotaStore, bucket: Bucket, quota: Quota) -> Usage:
    """How far the quota is used, as the process last knew."""
    (standing,) = store.standings(Terms((Claim(bucket, (quota,)),), RequestLifetime.from_timeout(1.0)))
    return standing.usage


def settle(store: QuotaStore, slot: Slot, grace: float = 0.0) -> None:
    store.note(Settle(slot, grace))


def give_back(store: QuotaStore, slot: Slot) -> None:
    store.note(GiveBack(slot))


def again(store: QuotaStore, clock: HandClock) -> QuotaStore:
    """The same store as another process would open it."""
    if isinstance(store, TimedRedisStore):
        return TimedRedisStore(store._url, clock, prefix=store._prefix)
    if isinstance(store, TimedPostgresStore):
        return TimedPostgresStore(store.url, store.schema, clock)
    assert isinstance(store, SQLiteQuotaStore)
    return SQLiteQuotaStore(store._path, clock=clock)


async def taken(store: QuotaStore, count: int = 1) -> list[Slot]:
    slots = await take(store, CLAIMS, LIFETIME, count)
    return [] if isinstance(slots, Wait) else slots


async def spend(store: QuotaStore, count: int) -> None:
    for slot in await taken(store, count):
        settle(store, slot)
    await store.flush()
