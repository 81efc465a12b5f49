"""What was received: which events are known, so that none is handled twice; which are still to be handled; and which
could not be read or handled, until somebody decides what becomes of them.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from attrs import field, frozen

from twdm_async._clock import Clock
from twdm_async._forks import forks
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
_NAME_IN_MEMORY: Final = "this process"
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
        """
        ALTER TABLE event ADD COLUMN problem TEXT;
        ALTER TABLE event ADD COLUMN is_unread INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE event ADD COLUMN is_polled INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE polled ADD COLUMN since REAL NOT NULL DEFAULT 0;
        CREATE INDEX event_set_aside ON event (kept_at) WHERE problem IS NOT NULL;
        DROP INDEX event_to_handle;
        CREATE INDEX event_to_handle ON event (kept_at) WHERE body IS NOT NULL AND problem IS NULL;
        CREATE INDEX event_owned ON event (owner) WHERE owner IS NOT NULL;
        CREATE TABLE heard (kind TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
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
        body: as JSON, for a webhook to handle; ``None`` for a message that a poll hands out.
        unread: why it cannot be read, if it cannot: it is set aside, and nobody handles it.
    """

    account: str
    id: str
    body: str | None = field(default=None, repr=False)
    unread: str | None = None


@frozen(kw_only=True)
class SetAside:
    """An event that was not handled, and that waits for a decision: :meth:`Inbox.retry` or :meth:`Inbox.forget`.

    Args:
        account: the user id of the account that received it; an empty string if that could not be read.
        id: what names it.
        kept_at: when it came (UTC).
        problem: why it was set aside: the handler's error, which may repeat a text, or the names of the fields that
            could not be read.
        body: as JSON, for :func:`~twdm_async.webhooks.read_events`; it holds texts.
    """

    account: str
    id: str
    kept_at: datetime
    problem: str = field(repr=False)
    body: str = field(repr=False)


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
        self.clock = clock or Clock()
        """Where time comes from."""
        self._file = StateFile(self._path or Path(), SCHEMA, "what was received", _IF_BAD)
        self._memory = in_memory(SCHEMA) if self._path is None else None
        self._owner = None if self._path is None else Owner(self._path)
        self._is_closed = False
        self._forks = forks()
        self.polls: dict[str, object] = {}
        """By account, the poll that has messages in hand."""

    async def keep(self, events: Sequence[Received], *, heard: Iterable[str] = ()) -> list[Received]:
        """Keep those that were not known, for this process to handle, and return them. Then they are on the disk. What
        is in the hands of a process that has ended is kept anew.

        Args:
            events: what was received.
            heard: of what kinds it is that X has just been heard of, see :meth:`heard`.

        Raises:
            InboxFailed: none is kept.
        """
        now = self.clock.wall()

        def keep(db: sqlite3.Connection) -> list[Received]:
            dead = self._dead_owners(db)
            new = [event for event in events if self._keep(db, event, now, dead)]
            is_over = "owner IS NULL AND (body IS NULL OR is_unread)"
            db.execute(f"DELETE FROM event WHERE {is_over} AND kept_at < ?", (now - _REMEMBERED,))  # noqa: S608 - constant
            db.executemany("INSERT OR REPLACE INTO heard VALUES (?, ?)", [(kind, now) for kind in heard])
            return new

        return await self._do(keep, is_durable=True)

    def _keep(self, db: sqlite3.Connection, event: Received, now: float, dead: Sequence[str]) -> bool:
        """Keep `event`, and return whether it is new, or was in the hands of one who has ended."""
        is_unread, is_polled = event.unread is not None, event.body is None
        owner = None if is_unread else self._me
        row = (event.account, event.id, event.body, now, owner, event.unread, is_unread, is_polled, *dead)
        query = f"""
            INSERT INTO event (account, id, body, kept_at, owner, problem, is_unread, is_polled)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET
                owner = excluded.owner, is_polled = excluded.is_polled, body = coalesce(excluded.body, body)
            WHERE owner IN ({_marks(dead)})
        """  # noqa: S608 - only question marks
        if db.execute(query, row).rowcount:
            return True
        # A poll has it in hand. If that dies, a webhook can handle it all the same.
        query = "UPDATE event SET body = ? WHERE account = ? AND id = ? AND is_polled AND owner IS NOT NULL"
        if event.body is not None and not is_unread:
            db.execute(query, (event.body, event.account, event.id))
        return False

    async def known(self, account: str, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that `account` has received, and that were handled, set aside, or are in the hands of a
        process that lives.

        Raises:
            InboxFailed: it cannot be known.
        """
        wanted = list(ids)
        query = "SELECT owner FROM event WHERE account = ? AND id = ?"

        def look_up(db: sqlite3.Connection) -> set[str]:
            dead = set(self._dead_owners(db))
            found = ((one, db.execute(query, (account, one)).fetchone()) for one in wanted)
            return {one for one, row in found if row is not None and row[0] not in dead}

        return await self._do(look_up)

    async def begin(self, event: Received) -> int:
        """Note that `event` is about to be handled. Returns how often that was begun before, and came to no end.

        Raises:
            InboxFailed: it cannot be kept.
        """
        query = "UPDATE event SET tries = tries + 1 WHERE account = ? AND id = ? RETURNING tries"
        found = await self._do(lambda db: db.execute(query, (event.account, event.id)).fetchone())
        return int(found[0]) - 1 if found else 0

    async def not_begun(self, event: Received) -> None:
        """Note that `event` was not handled after all.

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
        for account in {message.recipient_id, message.sender_id} - {None}:  # whichever of them polls
            received = Received(str(account), message.id)
            await self.keep([received])
            await self.done(received)

    async def done(self, event: Received) -> None:
        """It was handled. It is known from now on, and its content is forgotten.

        Raises:
            InboxFailed: it cannot be kept.
        """
        query = """
            UPDATE event SET body = NULL, owner = NULL, is_polled = 0, problem = NULL, is_unread = 0
            WHERE account = ? AND id = ?
        """
        await self._do(lambda db: db.execute(query, (event.account, event.id)), is_durable=True)

    async def release(self, account: str) -> None:
        """Let go of the messages that a poll of `account` has in hand: it has ended, or the next one begins.

        Raises:
            InboxFailed: they stay in hand.
        """

        def release(db: sqlite3.Connection) -> None:
            mine = "account = ? AND is_polled AND owner = ?"
            db.execute(f"DELETE FROM event WHERE {mine} AND body IS NULL", (account, self._me))  # noqa: S608 - constant
            query = f"UPDATE event SET owner = NULL, is_polled = 0 WHERE {mine}"  # noqa: S608 - a webhook was told of these
            db.execute(query, (account, self._me))

        await self._do(release)

    async def give_back(self, events: Sequence[Received]) -> None:
        """Let go of events that a webhook has in hand and has not handled: it is closed.

        Raises:
            InboxFailed: they stay in hand until this process ends.
        """
        query = "UPDATE event SET owner = NULL WHERE account = ? AND id = ? AND owner = ? AND body IS NOT NULL"
        await self._do(lambda db: db.executemany(query, [(one.account, one.id, self._me) for one in events]))

    async def set_aside(self, event: Received, problem: str, *, is_unread: bool = False) -> None:
        """Keep an event that could not be handled, or not be read, until somebody decides what becomes of it.

        Raises:
            InboxFailed: it stays as it is.
        """
        query = "UPDATE event SET owner = NULL, tries = 0, problem = ?, is_unread = ? WHERE account = ? AND id = ?"
        values = (problem, is_unread, event.account, event.id)
        await self._do(lambda db: db.execute(query, values), is_durable=True)

    async def failed(self) -> tuple[SetAside, ...]:
        """Return the events whose handler has failed, the oldest first.

        Raises:
            InboxFailed: they cannot be read.
        """
        return await self._set_aside(is_unread=False)

    async def unread(self) -> tuple[SetAside, ...]:
        """Return what is about messages, was signed by X, and could not be read, the oldest first.

        Raises:
            InboxFailed: they cannot be read.
        """
        return await self._set_aside(is_unread=True)

    async def retry(self, *ids: str) -> int:
        """Let events that were set aside be handled by a webhook on this inbox, within half a minute or when the next
        one starts.

        Args:
            ids: what names them.

        Returns:
            How many there were.

        Raises:
            InboxFailed: they stay as they are.
        """
        return await self._decide(
            "UPDATE event SET problem = NULL, is_unread = 0 WHERE id = ? AND problem IS NOT NULL", ids
        )

    async def forget(self, *ids: str) -> int:
        """Let events that were set aside be. They are known from now on, and their content is forgotten.

        Args:
            ids: what names them.

        Returns:
            How many there were.

        Raises:
            InboxFailed: they stay as they are.
        """
        return await self._decide(
            "UPDATE event SET problem = NULL, is_unread = 0, body = NULL WHERE id = ? AND problem IS NOT NULL", ids
        )

    async def heard(self) -> dict[str, datetime]:
        """Return when X was last heard of (UTC), by kind: ``delivery`` of a webhook, ``check`` of one, and the types of
        events that cannot be read, such as ``chat.received``.

        Raises:
            InboxFailed: it cannot be known.
        """
        rows = await self._do(lambda db: db.execute("SELECT kind, at FROM heard").fetchall())
        return {kind: _moment(at) for kind, at in rows}

    async def take_over(self) -> list[Received]:
        """Return what is to be handled and in nobody's hands: what processes left that have ended, and what is retried.
        It is for this one now, the oldest first.

        Raises:
            InboxFailed: it cannot be known.
        """

        def take(db: sqlite3.Connection) -> list[Received]:
            dead = self._dead_owners(db)
            of_nobody = f"body IS NOT NULL AND problem IS NULL AND (owner IS NULL OR owner IN ({_marks(dead)}))"
            query = f"SELECT account, id, body FROM event WHERE {of_nobody} ORDER BY kept_at, length(id), id"  # noqa: S608 - as above
            taken = db.execute(query, dead).fetchall()
            db.execute(f"UPDATE event SET owner = ? WHERE {of_nobody}", (self._me, *dead))  # noqa: S608 - as above
            return [Received(*row) for row in taken]

        return await self._do(take)

    async def polled(self, account: str) -> tuple[float, float] | None:
        """Return until when, and since when, the list of `account` was read; ``None`` if it never was. Both in seconds
        since 1970 by the server's clock.

        Raises:
            InboxFailed: it cannot be known.
        """
        query = "SELECT until, since FROM polled WHERE account = ?"
        found = await self._do(lambda db: db.execute(query, (account,)).fetchone())
        return None if found is None else (float(found[0]), float(found[1]))

    async def set_polled(self, account: str, until: float, since: float) -> None:
        """Note that the list of `account` was read, but no further than to what is in the hands of a poll.

        Raises:
            InboxFailed: it cannot be kept.
        """

        def note(db: sqlite3.Connection) -> None:
            query = "SELECT min(kept_at) FROM event WHERE account = ? AND is_polled AND owner IS NOT NULL"
            (in_hand,) = db.execute(query, (account,)).fetchone()
            reached = until if in_hand is None else min(until, in_hand)
            db.execute("INSERT OR REPLACE INTO polled VALUES (?, ?, ?)", (account, reached, since))

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
        try:
            await self.heard()  # so that a file which cannot be used is known of first
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _set_aside(self, *, is_unread: bool) -> tuple[SetAside, ...]:
        query = """
            SELECT account, id, kept_at, problem, body FROM event WHERE problem IS NOT NULL AND is_unread = ?
            ORDER BY kept_at, length(id), id
        """
        rows = await self._do(lambda db: db.execute(query, (is_unread,)).fetchall())
        return tuple(
            SetAside(account=account, id=id_, kept_at=_moment(at), problem=problem, body=body or "")
            for account, id_, at, problem, body in rows
        )

    async def _decide(self, query: str, ids: Sequence[str]) -> int:
        if not all(isinstance(one, str) for one in ids):
            raise InvalidInput(parameter="ids", problem="must be the ids of events that were set aside")
        return await self._do(lambda db: sum(db.execute(query, (one,)).rowcount for one in ids), is_durable=True)

    def _dead_owners(self, db: sqlite3.Connection) -> list[str]:
        """Return those in whose hands something is, and who have ended."""
        query = "SELECT min(owner) FROM event WHERE owner >= ?"
        owners: list[str] = []
        while (owner := db.execute(query, (f"{owners[-1]}\0" if owners else "",)).fetchone()[0]) is not None:
            owners.append(owner)  # so that of each owner one row is looked at
        return [owner for owner in owners if owner != self._me and self._is_dead(owner)]

    @property
    def _me(self) -> str:
        return _NAME_IN_MEMORY if self._owner is None else self._owner.name

    def _is_dead(self, owner: str) -> bool:
        return self._owner is not None and self._owner.is_dead(owner)

    @quiet
    async def _do(self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = False) -> T:
        if self._is_closed:
            raise InboxFailed(path=str(self._path or "(memory)"), problem="it is closed")
        if self._memory is not None:
            return work(self._memory)
        if self._forks != forks():  # what was opened is the parent's
            self._forks = forks()
            self._file.leave_behind()
        file, owner = self._file, self._owner

        def job() -> T:
            if owner is not None:
                owner.acquire()  # which asks the disk, too
            return file.transact(lambda db: work(_lenient(db)), is_durable=is_durable)

        try:
            return await asyncio.shield(file.run(job))  # a caller who gives up does not undo it
        except FileTrouble as trouble:
            raise InboxFailed(path=str(self._path), problem=trouble.problem) from None


def _lenient(db: sqlite3.Connection) -> sqlite3.Connection:
    """Let `db` give out texts that are not UTF-8, with marks in them: one of these must not hide the others."""
    db.text_factory = _text
    return db


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _moment(at: Any) -> datetime:
    """Return when `at` was, or 1970 if it is not a time."""
    try:
        return datetime.fromtimestamp(at, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def checked_inbox(inbox: Inbox | None) -> Inbox | None:
    """`inbox`, if it is one.

    Raises:
        InvalidInput: it is not.
    """
    if inbox is not None and not isinstance(inbox, Inbox):
        raise InvalidInput(parameter="inbox", problem="must be an Inbox")
    return inbox
