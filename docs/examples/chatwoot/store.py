"""What the bridge remembers, in a file."""

import asyncio
import json
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS webhook (id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, body TEXT);
CREATE TABLE IF NOT EXISTS profile (agent TEXT PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sent (id INTEGER PRIMARY KEY, person TEXT NOT NULL, conversation INTEGER, message INTEGER);
CREATE TABLE IF NOT EXISTS progress (number INTEGER NOT NULL);
"""


class Store:
    """The webhooks that came, the agents' profiles, and how far outcomes were told.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.executescript(_TABLES)
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    async def _do(self, query: str, *values: Any) -> list[Any]:
        async with self._lock:
            return await asyncio.to_thread(lambda: self._db.execute(query, values).fetchall())

    async def add_webhook(self, message: int, conversation: int, body: dict[str, Any]) -> None:
        """Keep a webhook that is to be worked on; do nothing if the same message came before."""
        await self._do("INSERT OR IGNORE INTO webhook VALUES (?, ?, ?)", message, conversation, json.dumps(body))

    async def next_webhooks(self, but_not: Collection[int]) -> list[tuple[int, dict[str, Any]]]:
        """Return the oldest webhook of each conversation, except of some, with its conversation."""
        query = "SELECT conversation, body, min(id) FROM webhook WHERE body IS NOT NULL GROUP BY conversation"
        return [(number, json.loads(body)) for number, body, _ in await self._do(query) if number not in but_not]

    async def finish_webhook(self, message: int) -> None:
        """Forget all but the number of a webhook."""
        await self._do("UPDATE webhook SET body = NULL WHERE id = ?", message)

    async def profile(self, agent: str) -> str | None:
        """Return the id of the custom profile that was made for an agent."""
        found = await self._do("SELECT id FROM profile WHERE agent = ?", agent)
        return found[0][0] if found else None

    async def add_profile(self, agent: str, profile_id: str) -> None:
        """Keep the custom profile that was made for an agent."""
        await self._do("INSERT OR REPLACE INTO profile VALUES (?, ?)", agent, profile_id)

    async def add_sent(self, dm: str, person: str, conversation: int, message: int) -> None:
        """Keep which of the desk's messages a Direct Message is."""
        await self._do("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", int(dm), person, conversation, message)

    async def take_read(self, person: str, last_read: str) -> list[tuple[int, int]]:
        """Return conversation and message of what a person has read now, and forget them."""
        values = person, int(last_read)
        found = await self._do("SELECT conversation, message FROM sent WHERE person = ? AND id <= ?", *values)
        await self._do("DELETE FROM sent WHERE person = ? AND id <= ?", *values)
        return found

    async def progress(self) -> int:
        """Return the number of the last outcome that was told."""
        found = await self._do("SELECT max(number) FROM progress")
        return found[0][0] or 0

    async def set_progress(self, number: int) -> None:
        """Keep the number of the last outcome that was told."""
        await self._do("DELETE FROM progress")
        await self._do("INSERT INTO progress VALUES (?)", number)
