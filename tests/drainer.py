"""A process that sends what an outbox holds, until it is done or killed.

``python -m tests.drainer URL FILE-OR-DATABASE SETTLE_AFTER KEYS-AS-JSON``
"""

from __future__ import annotations

import asyncio
import json
import sys

from twdm_async import (
    Client,
    Credentials,
    PostgresDatabase,
    PostgresQuotaStore,
    Quota,
    QuotaTable,
    SQLiteQuotaStore,
)
from twdm_async.outbox import Outbox

TIMEOUT = 0.4  # seconds
LEASE = 1.0  # seconds


def table() -> QuotaTable:
    """Quotas that do not bind: others have tests of their own."""
    table = QuotaTable.default()
    for family in ("direct_messages.send", "direct_messages.list"):
        table = table.replace(family, Quota(1_000_000, per=60.0))
    return table


def database(url: str) -> PostgresDatabase:
    return PostgresDatabase(url, lease=LEASE)


async def main(url: str, path: str, settle_after: str, keys: str) -> None:
    place = database(path) if path.startswith("postgresql:") else path
    async with (
        PostgresQuotaStore(place) if isinstance(place, PostgresDatabase) else SQLiteQuotaStore(place) as store,
        Client(
            Credentials(**json.loads(keys)),
            api_url=url,
            upload_url=url,
            quotas=table(),
            quota_store=store,
            timeout=TIMEOUT,
        ) as client,
        Outbox(client, place, settle_after=float(settle_after)) as outbox,
    ):
        await outbox.drain(workers=8)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
