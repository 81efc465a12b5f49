"""Go on with new keys: a client keeps its keys, so make another one on the same quota store."""

import asyncio
import os
from collections.abc import Mapping

from twdm_async import Client, SQLiteQuotaStore


def latest_keys() -> Mapping[str, str]:
    """Read the keys where you keep them: a vault, a file, the environment."""
    return os.environ


async def main() -> None:
    async with SQLiteQuotaStore("quota.db") as store:
        async with Client.from_env(latest_keys(), quota_store=store) as client:
            await client.direct_messages.send("844385345234", "Sent with the old keys.")
        # Closing waits for requests that are under way. A token that is issued anew begins with the same user id,
        # so the store knows the account, and what it has spent.
        async with Client.from_env(latest_keys(), quota_store=store) as client:
            await client.direct_messages.send("844385345234", "Sent with the new keys.")
            print(client.quota_state()[0])


asyncio.run(main())
