"""An application: it takes orders, and puts a message for each in the order's own transaction. Every second order is
broken off. Started anew after a crash, it goes on with what it finds.

``python -m tests.inserter DRIVER DATABASE COUNT KEYS-AS-JSON``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
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

ORDERED = "CREATE TABLE ordered (driver text, number int, PRIMARY KEY (driver, number))"
_ORDER = "INSERT INTO ordered VALUES ('{}', {}) ON CONFLICT DO NOTHING"


class BrokenOff(Exception):
    """Nothing comes of this order."""


async def by_psycopg(url: str, insertion: Insertion, order: str, *, is_good: bool) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(order.encode())
        await connection.execute(*insertion.psycopg)
        if not is_good:
            raise BrokenOff


async def by_asyncpg(url: str, insertion: Insertion, order: str, *, is_good: bool) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(order)
            await connection.execute(*insertion.asyncpg)
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
            await connection.execute(sqlalchemy.text(statement), values)
            if not is_good:
                raise BrokenOff
    finally:
        await engine.dispose()


DRIVERS = {"psycopg": by_psycopg, "asyncpg": by_asyncpg, "sqlalchemy": by_sqlalchemy}


async def main(driver: str, url: str, count: str, keys: str) -> None:
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
        await outbox.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
