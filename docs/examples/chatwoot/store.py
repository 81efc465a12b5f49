"""What the bridge remembers, in a file."""

import asyncio
import json
import sqlite3
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS webhook (id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, body TEXT);
CREATE INDEX IF NOT EXISTS waiting ON webhook (conversation, id) WHERE body IS NOT NULL;
CREATE TABLE IF NOT EXISTS profile (agent INTEGER PRIMARY KEY, name TEXT NOT NULL, picture TEXT, id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sent (id INTEGER PRIMARY KEY, person TEXT NOT NULL, conversation INTEGER, message INTEGER);
CREATE TABLE IF NOT EXISTS reading (person TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY, number INTEGER NOT NULL);
"""


class Store:
    """The webhooks that came, the agents' profiles, and how far outcomes were told.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # it holds texts of messages, for a while
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA secure_delete = on")
        self._db.executescript(_TABLES)
        self._thread = ThreadPoolExecutor(1)  # one thread, so that one statement runs at a time

    def close(self) -> None:
        """Close the file."""
        self._thread.shutdown()
        self._db.close()

    async def _do(self, query: str, *values: Any) -> list[Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self._db.execute(query, values).fetchall())

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

    async def profile(self, agent: int) -> tuple[str, str | None, str] | None:
        """Return the custom profile that was made for an agent: name, address of the picture, and id."""
        found = await self._do("SELECT name, picture, id FROM profile WHERE agent = ?", agent)
        return found[0] if found else None

    async def set_profile(self, agent: int, name: str, picture: str | None, profile_id: str) -> None:
        """Keep the custom profile that was made for an agent."""
        await self._do("INSERT OR REPLACE INTO profile VALUES (?, ?, ?, ?)", agent, name, picture, profile_id)

    async def add_sent(self, dm: str, person: str, conversation: int, message: int) -> None:
        """Keep which of the desk's messages a Direct Message is."""
        await self._do("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", int(dm), person, conversation, message)

    async def set_read(self, person: str, last_read: str) -> None:
        """Keep up to which Direct Message a person has read."""
        query = "INSERT INTO reading VALUES (?, ?) ON CONFLICT DO UPDATE SET last = max(last, excluded.last)"
        await self._do(query, person, int(last_read))

    async def take_read(self, person: str) -> list[tuple[int, int]]:
        """Return conversation and message of what a person has read meanwhile, and forget them."""
        query = (
            "DELETE FROM sent WHERE person = ? AND id <= (SELECT last FROM reading WHERE reading.person = sent.person)"
        )
        return await self._do(f"{query} RETURNING conversation, message", person)

    async def progress(self) -> int:
        """Return the number of the last outcome that was told."""
        found = await self._do("SELECT max(number) FROM progress")
        return found[0][0] or 0

    async def set_progress(self, number: int) -> None:
        """Keep the number of the last outcome that was told."""
        await self._do("INSERT OR REPLACE INTO progress VALUES (1, ?)", number)
