"""A process that sends what an outbox holds, until it is done or killed.

``python -m tests.drainer URL FILE-OR-DATABASE SETTLE_AFTER KEYS-AS-JSON [LIMIT PER]``
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


def table(limit: int = 1_000_000, per: float = 60.0) -> QuotaTable:
    """Quotas that do not bind, unless a limit is given for messages."""
    table = QuotaTable.default().replace("direct_messages.list", Quota(1_000_000, per=60.0))
    return table.replace("direct_messages.send", Quota(limit, per=per))


def database(url: str) -> PostgresDatabase:
    return PostgresDatabase(url, lease=LEASE)


async def main(url: str, path: str, settle_after: str, keys: str, limit: str = "1000000", per: str = "60.0") -> None:
    place = database(path) if path.startswith("postgresql:") else path
    async with (
        PostgresQuotaStore(place) if isinstance(place, PostgresDatabase) else SQLiteQuotaStore(place) as store,
        Client(
            Credentials(**json.loads(keys)),
            api_url=url,
            upload_url=url,
            quotas=table(int(limit), float(per)),
            quota_store=store,
            timeout=TIMEOUT,
        ) as client,
        Outbox(client, place, settle_after=float(settle_after)) as outbox,
    ):
        await outbox.drain(workers=8)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
