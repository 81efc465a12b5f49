"""Send from two accounts of one app: each has its own quotas, and they share those of the app."""

import asyncio
import os

from twdm_async import Client, SQLiteQuotaStore


async def main() -> None:
    second = {
        **os.environ,
        "TWDM_ACCESS_TOKEN": os.environ["SECOND_ACCESS_TOKEN"],
        "TWDM_ACCESS_TOKEN_SECRET": os.environ["SECOND_ACCESS_TOKEN_SECRET"],
    }
    async with (
        SQLiteQuotaStore("quota.db") as store,
        Client.from_env(quota_store=store) as shop,
        Client.from_env(second, quota_store=store) as support,
    ):
        await asyncio.gather(
            shop.direct_messages.send("844385345234", "Your order is on its way."),
            support.direct_messages.send("844385345234", "How can we help?"),
        )


asyncio.run(main())
