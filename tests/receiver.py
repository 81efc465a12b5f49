"""A host that receives events: a webhook on an inbox in a database. It notes what it handles in a file.

``python -m tests.receiver DATABASE NOTES``
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from tests.receiving import KEYS, listening
from twdm_async import Inbox, PostgresDatabase
from twdm_async.webhooks import Webhook, webhook

if TYPE_CHECKING:
    from twdm_async.webhooks import Event

LEASE = 15.0  # seconds; a host that lives is not taken for dead, however busy its machine is


async def main(database: str, notes: str) -> None:
    setattr(webhook, "_TAKE_OVER_EVERY", 1.0)  # noqa: B010 - seconds; it is not for others to set
    noted = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handle(event: Event) -> None:
        os.write(noted, f"began {event.key}\n".encode())
        await asyncio.sleep(0.002)
        os.write(noted, f"ended {event.key}\n".encode())

    async with (
        Inbox(PostgresDatabase(database, lease=LEASE)) as inbox,
        listening(Webhook(KEYS, handle, inbox=inbox)) as url,
    ):
        print(url, flush=True)  # noqa: T201 - whoever started it needs it
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
