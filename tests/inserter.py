"""An application: it takes orders, and puts a message for each in the order's own transaction. Every second order is
broken off, and now and then the process dies. Started anew, it goes on with what it finds.

``python -m tests.inserter DRIVER DATABASE COUNT SEED KEYS-AS-JSON``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from tests.drainer import database
from twdm_async import Client, Credentials
from twdm_async.outbox import Outbox

if TYPE_CHECKING:
    from twdm_async.outbox import Insertion

DIES = 0.02  # of a moment at which it may
ORDERED = "CREATE TABLE ordered (driver text, number int, PRIMARY KEY (driver, number))"
_ORDER = "INSERT INTO ordered VALUES ('{}', {}) ON CONFLICT DO NOTHING"


_chance = random.Random()


def _live_or_die() -> None:
    if _chance.random() < DIES:
        os.kill(os.getpid(), signal.SIGKILL)


class BrokenOff(Exception):
    """Nothing comes of this order."""


async def by_psycopg(url: str, insertion: Insertion, order: str, *, is_good: bool) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(order.encode())
        _live_or_die()
        await connection.execute(*insertion.psycopg)
        _live_or_die()
        if not is_good:
            raise BrokenOff


async def by_asyncpg(url: str, insertion: Insertion, order: str, *, is_good: bool) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(order)
            _live_or_die()
            await connection.execute(*insertion.asyncpg)
            _live_or_die()
            if not is_good:
                raise BrokenOff
    finally:
        await connection.close()


async def by_sqlalchemy(url: str, insertion: Insertion, order: str, *, is_good: bool) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    statement, values = insertion.sqlalchemy
    try:
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text(order))
            _live_or_die()
            await connection.execute(sqlalchemy.text(statement), values)
            _live_or_die()
            if not is_good:
                raise BrokenOff
    finally:
        await engine.dispose()


DRIVERS = {"psycopg": by_psycopg, "asyncpg": by_asyncpg, "sqlalchemy": by_sqlalchemy}


async def main(driver: str, url: str, count: str, seed: str, keys: str) -> None:
    _chance.seed(int(seed))
    with contextlib.closing(psycopg.connect(url)) as db:
        query = "SELECT coalesce(max(number) + 1, 0) FROM ordered WHERE driver = %s"
        (first,) = db.execute(query, (driver,)).fetchone() or (0,)
    async with Client(Credentials(**json.loads(keys))) as client:
        outbox = Outbox(client, database(url))
        for number in range(first, int(count)):
            insertion = outbox.insertion(number % 50 + 1, f"SENTINELtext {driver} {number}", key=f"{driver} {number}")
            with contextlib.suppress(BrokenOff):
                order = _ORDER.format(driver, number)
                await DRIVERS[driver](url, insertion, order, is_good=number % 2 == 0)
            _live_or_die()
        await outbox.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
