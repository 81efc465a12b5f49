"""A program that sends as much as the quota lets it, until it is told to stop, by SIGTERM, or killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from twdm_async import Client, Credentials, Quota, QuotaStore, QuotaTable, TwdmError

AGENTS = 8
TIMEOUT = 0.5  # seconds


def table(limit: int, per: float) -> QuotaTable:
    return QuotaTable.default().replace("direct_messages.send", Quota(limit, per=per))


async def main(url: str, store_url: str, limit: str, per: str, keys: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    quotas = table(int(limit), float(per))
    async with (
        QuotaStore.from_url(store_url) as store,
        Client(
            Credentials(**json.loads(keys)),
            api_url=url,
            upload_url=url,
            quotas=quotas,
            quota_store=store,
            timeout=TIMEOUT,
        ) as client,
    ):

        async def agent(name: int) -> None:
            while not stop.is_set():
                try:
                    await client.direct_messages.send(1000 + name, "hello", max_wait=3 * float(per), lane=str(name))
                except TwdmError as error:
                    print(error, file=sys.stderr, flush=True)  # noqa: T201 - for whoever looks why a test failed

        await asyncio.gather(*(agent(name) for name in range(AGENTS)))
