"""What was received: which events are known, so that none is handled twice, and which are still to be handled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from attrs import field, frozen

from twdm_async._clock import Clock
from twdm_async._quiet import quiet
from twdm_async.errors import InboxFailed, InvalidInput
from twdm_async.owners import Owner
from twdm_async.state_file import FileTrouble, Schema, StateFile, checked_path, in_memory

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from twdm_async.models.direct_messages import DirectMessage

T = TypeVar("T")

_REMEMBERED: Final = 400 * 86_400.0  # seconds; a webhook that somebody has kept could be sent again at any time
_IF_BAD: Final = "put it back, or move it away; some events may then be received once more"

SCHEMA: Final = Schema(
    "inbox",
    (
        """
        CREATE TABLE event (
            account TEXT NOT NULL, id TEXT NOT NULL, body TEXT, kept_at REAL NOT NULL,
            tries INTEGER NOT NULL DEFAULT 0, owner TEXT, PRIMARY KEY (account, id)
        ) WITHOUT ROWID;
        CREATE INDEX event_to_handle ON event (owner) WHERE body IS NOT NULL;
        CREATE INDEX event_by_age ON event (kept_at);
        CREATE TABLE polled (account TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
        """,
    ),
    earlier=(0, 0, 1, 1),
)
"""The tables of an inbox."""


@frozen
class Received:
    """One event.

    Args:
        account: the user id of the account that received it.
        id: what tells it from the account's other events.
        body: as JSON, for whoever handles it; ``None`` if it is only to be known.
    """

    account: str
    id: str
    body: str | None = field(default=None, repr=False)


class Inbox:
    """Remembers events, over restarts if it has a file. Processes may share one, and an outbox and a quota store may
    live in the same file.

    Args:
        path: of the file; it is made if it is not there, for its owner alone. It holds the texts of messages until they
            were handled. If not given, all is forgotten when the process ends.
        clock: where time comes from; the machine's own if not given.

    Raises:
        InvalidInput: `path` is no path.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, clock: Clock | None = None) -> None:
        self._path = None if path is None else checked_path(path)
        self._clock = clock or Clock()
        self._file = StateFile(self._path or Path(), SCHEMA, "what was received", _IF_BAD)
        self._memory = in_memory(SCHEMA) if self._path is None else None
        self._owner = None if self._path is None else Owner(self._path)
        self._is_closed = False

    async def keep(self, events: Sequence[Received]) -> list[Received]:
        """Keep those that were not known, to be handled by this process, and return them. Then they are on the disk.

        Raises:
            InboxFailed: none is kept.
        """
        owner = self._alive()
        now = self._clock.wall()

        def keep(db: sqlite3.Connection) -> list[Received]:
            new = [
                event
                for event in events
                if db.execute(
                    "INSERT OR IGNORE INTO event (account, id, body, kept_at, owner) VALUES (?, ?, ?, ?, ?)",
                    (event.account, event.id, event.body, now, owner if event.body is not None else None),
                ).rowcount
            ]
            db.execute("DELETE FROM event WHERE body IS NULL AND kept_at < ?", (now - _REMEMBERED,))
            return new

        return await self._do(keep, is_durable=True)

    async def known(self, account: str, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that `account` has received.

        Raises:
            InboxFailed: it cannot be known.
        """
        wanted = list(ids)
        query = "SELECT 1 FROM event WHERE account = ? AND id = ?"
        return await self._do(lambda db: {one for one in wanted if db.execute(query, (account, one)).fetchone()})

    async def begin(self, event: Received) -> int:
        """It is about to be handled. Returns how often that was begun before, and came to no end.

        Raises:
            InboxFailed: it cannot be kept.
        """
        query = "UPDATE event SET tries = tries + 1 WHERE account = ? AND id = ? RETURNING tries"
        found = await self._do(lambda db: db.execute(query, (event.account, event.id)).fetchone())
        return int(found[0]) - 1 if found else 0

    async def not_begun(self, event: Received) -> None:
        """It was not handled after all.

        Raises:
            InboxFailed: it cannot be kept.
        """
        query = "UPDATE event SET tries = tries - 1 WHERE account = ? AND id = ?"
        await self._do(lambda db: db.execute(query, (event.account, event.id)))

    async def handled(self, message: DirectMessage) -> None:
        """A message that :meth:`~twdm_async.resources.direct_messages.DirectMessages.poll` handed out was handled. It
        is known anyway when the next one is asked for; this is for who stops before.

        Raises:
            InvalidInput: it is no message that was received.
            InboxFailed: it cannot be kept.
        """
        if message.id is None or message.recipient_id is None:
            raise InvalidInput(parameter="message", problem="must be one that was received")
        await self.keep([Received(message.recipient_id, message.id)])

    async def done(self, event: Received) -> None:
        """It was handled. It is known from now on, and its content is forgotten.

        Raises:
            InboxFailed: it cannot be kept.
        """
        query = "UPDATE event SET body = NULL, owner = NULL WHERE account = ? AND id = ?"
        await self._do(lambda db: db.execute(query, (event.account, event.id)), is_durable=True)

    async def take_over(self) -> list[Received]:
        """What was kept by processes that have ended and was not handled; it is for this one now, the oldest first.

        Raises:
            InboxFailed: it cannot be known.
        """
        me = self._alive()

        def take(db: sqlite3.Connection) -> list[Received]:
            owners = [one for (one,) in db.execute("SELECT DISTINCT owner FROM event WHERE body IS NOT NULL")]
            dead = [one for one in owners if one != me and (one is None or self._is_dead(one))]
            taken: list[Any] = []
            for owner in dead:
                query = "SELECT kept_at, account, id, body FROM event WHERE owner IS ? AND body IS NOT NULL"
                taken += db.execute(query, (owner,)).fetchall()
                db.execute("UPDATE event SET owner = ? WHERE owner IS ? AND body IS NOT NULL", (me, owner))
            return [Received(*rest) for _, *rest in sorted(taken)]

        return await self._do(take)

    async def polled_until(self, account: str) -> float | None:
        """Until when the list of `account` was read, in seconds since 1970 by the server's clock; ``None`` if never.

        Raises:
            InboxFailed: it cannot be known.
        """
        query = "SELECT until FROM polled WHERE account = ?"
        found = await self._do(lambda db: db.execute(query, (account,)).fetchone())
        return None if found is None else float(found[0])

    async def set_polled_until(self, account: str, until: float, events: Sequence[Received] = ()) -> None:
        """The list of `account` was read until then, and `events` of it are known.

        Raises:
            InboxFailed: it cannot be kept.
        """
        now = self._clock.wall()

        def note(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR IGNORE INTO event (account, id, kept_at) VALUES (?, ?, ?)",
                [(event.account, event.id, now) for event in events],
            )
            db.execute("INSERT OR REPLACE INTO polled VALUES (?, ?)", (account, until))

        await self._do(note, is_durable=True)

    async def close(self) -> None:
        """Let go of the file. What was kept and not handled is for the next process. Doing it twice does no harm."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._file.close()
        if self._memory is not None:
            self._memory.close()
        if self._owner is not None:
            self._owner.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _alive(self) -> str | None:
        if self._owner is None:
            return None
        try:
            self._owner.bind_loop()
        except OSError as error:
            raise InboxFailed(path=str(self._path), problem=f"it cannot be had: {error.strerror}") from None
        return self._owner.name

    def _is_dead(self, owner: str) -> bool:
        return self._owner is not None and self._owner.is_dead(owner)

    @quiet
    async def _do(self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = False) -> T:
        if self._is_closed:
            raise InboxFailed(path=str(self._path or "(memory)"), problem="it is closed")
        if self._memory is not None:
            return work(self._memory)
        file = self._file
        try:
            # A caller who gives up does not undo it.
            return await asyncio.shield(file.run(lambda: file.transact(work, is_durable=is_durable)))
        except FileTrouble as trouble:
            raise InboxFailed(path=str(self._path), problem=trouble.problem) from None


def checked_inbox(inbox: Inbox | None) -> Inbox | None:
    """`inbox`, if it is one.

    Raises:
        InvalidInput: it is not.
    """
    if inbox is not None and not isinstance(inbox, Inbox):
        raise InvalidInput(parameter="inbox", problem="must be an Inbox")
    return inbox
