"""A process that sends what an outbox holds, until it is done or killed.

``python -m tests.drainer URL FILE SETTLE_AFTER KEYS-AS-JSON``
"""

from __future__ import annotations

import asyncio
import json
import sys

from twdm_async import Client, Credentials, Quota, QuotaTable, SQLiteQuotaStore
from twdm_async.outbox import Outbox

TIMEOUT = 0.4  # seconds


def table() -> QuotaTable:
    """Quotas that do not bind: others have tests of their own."""
    table = QuotaTable.default()
    for family in ("direct_messages.send", "direct_messages.list"):
        table = table.replace(family, Quota(1_000_000, per=60.0))
    return table


async def main(url: str, path: str, settle_after: str, keys: str) -> None:
    async with (
        SQLiteQuotaStore(path) as store,
        Client(
            Credentials(**json.loads(keys)),
            api_url=url,
            upload_url=url,
            quotas=table(),
            quota_store=store,
            timeout=TIMEOUT,
        ) as client,
        Outbox(client, path, settle_after=float(settle_after)) as outbox,
    ):
        await outbox.drain(workers=8)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
