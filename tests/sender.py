"""A process that sends as much as the quota lets it, until it is told to stop or killed.

``python -m tests.sender URL STORE LIMIT PER KEYS-AS-JSON``
"""

from __future__ import annotations

import asyncio
import json
import sys

from twdm_async import Client, Credentials, Quota, QuotaStore, QuotaTable, TwdmError

AGENTS = 8
TIMEOUT = 0.5  # seconds


def table(limit: int, per: float) -> QuotaTable:
    return QuotaTable.default().replace("direct_messages.send", Quota(limit, per=per))


async def main(url: str, store_url: str, limit: str, per: str, keys: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_closed() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    loop.add_reader(sys.stdin, on_closed)  # whoever started it closes the other end
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


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
