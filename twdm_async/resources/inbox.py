"""The inbox: it remembers which events were received, so that none is handled twice; keeps those that are still to be
handled; and sets aside those that could not be read or handled, until a person decides about them.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from attrs import field, frozen

from twdm_async._clock import Clock
from twdm_async._forks import this_process
from twdm_async._quiet import quiet
from twdm_async.errors import InboxFailed, InvalidInput
from twdm_async.models.checks import checked_id
from twdm_async.storage.contract import Schema, StorageTrouble
from twdm_async.storage.places import checked_place, open_storage
from twdm_async.storage.sqlite import InMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.storage.contract import Storage, Transaction
    from twdm_async.storage.places import Place

T = TypeVar("T")

_REMEMBERED: Final = 400 * 86_400.0  # seconds; whoever has recorded a signed webhook could send it again at any time
_SURELY: Final = 86_400.0  # seconds for which a clock that is far ahead is not believed
_FORGET: Final = (
    "DELETE FROM event WHERE owner IS NULL AND (body IS NULL OR is_unread) AND kept_at < ? "
    "AND EXISTS (SELECT 1 FROM event WHERE kept_at BETWEEN ? AND ?)"
)
_HEARD: Final = "INSERT INTO heard VALUES (?, ?) ON CONFLICT (kind) DO UPDATE SET at = excluded.at"
_POLLED: Final = (
    "INSERT INTO polled VALUES (?, ?, ?) ON CONFLICT (account) DO UPDATE SET until = excluded.until, "
    "since = excluded.since"
)

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
        ALTER TABLE event ADD COLUMN is_unread BOOLEAN NOT NULL DEFAULT FALSE;
        ALTER TABLE event ADD COLUMN is_polled BOOLEAN NOT NULL DEFAULT FALSE;
        ALTER TABLE polled ADD COLUMN since REAL NOT NULL DEFAULT 0;
        CREATE INDEX event_set_aside ON event (kept_at) WHERE problem IS NOT NULL;
        DROP INDEX event_to_handle;
        CREATE INDEX event_to_handle ON event (kept_at) WHERE body IS NOT NULL AND problem IS NULL;
        CREATE INDEX event_owned ON event (owner) WHERE owner IS NOT NULL;
        CREATE TABLE heard (kind TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
        """,
        "ALTER TABLE event ADD COLUMN app TEXT NOT NULL DEFAULT ''",
    ),
    content="what was received",
    advice="put it back, or move it away; some events may then be received once more",
    earlier=(0, 0, 1, 1),
    is_lenient=True,
)
"""The tables of an inbox."""


@frozen
class Received:
    """One received event.

    Args:
        account: the user id of the account that received it.
        id: unique among the account's events.
        body: the event as JSON, for a webhook to handle; ``None`` for a message that a poll hands out.
        unread: why the event cannot be read; such an event is set aside and not handled. ``None`` if it can be read.
    """

    account: str
    id: str
    body: str | None = field(default=None, repr=False)
    unread: str | None = None


@frozen(kw_only=True)
class SetAside:
    """An event that was set aside instead of being handled. Call :meth:`Inbox.retry` or :meth:`Inbox.forget` with its
    id.

    Args:
        account: the user id of the account that received it; an empty string if the event does not tell.
        id: the id to call :meth:`Inbox.retry` or :meth:`Inbox.forget` with.
        kept_at: when it was received (UTC).
        problem: why it was set aside: the handler's error, which may quote a message's text, or the names of the
            event's fields.
        body: the event as JSON, message texts included, for :func:`~twdm_async.webhooks.read_events`.
    """

    account: str
    id: str
    kept_at: datetime
    problem: str = field(repr=False)
    body: str = field(repr=False)


class Inbox:
    """Remembers which events were received. With a file, it does so across restarts, and several processes may use one
    file; with a PostgreSQL database, processes on many hosts. An outbox and a quota store may be in the same place.
    Several apps may share an inbox: each webhook handles the events of its own app.

    Args:
        path: of the file. A missing file is created, readable by its owner alone. It holds each message's text until
            the message is handled. Or the URL of a database (``postgresql://...``), or a :class:`PostgresDatabase`.
            Without `path`, everything is forgotten when the process ends.
        clock: the source of time; the machine's clocks if not given.

    Raises:
        InvalidInput: `path` is not a path.
    """

    def __init__(self, path: Place | None = None, *, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or Clock()
        """The source of time."""
        self._storage: Storage = (
            InMemory(SCHEMA, self.clock) if path is None else open_storage(checked_place(path), SCHEMA, self.clock)
        )
        self._is_closed = False
        self._forks = this_process.forks
        self.polls: dict[str, object] = {}
        """By account, the poll that has messages in hand."""

    async def keep(self, events: Sequence[Received], *, app: str = "", heard: Iterable[str] = ()) -> list[Received]:
        """Write the new ones of `events` to the disk, for this process to handle, and return them. An event that a
        process held when it ended counts as new.

        Args:
            events: the received events.
            app: the name of the app whose webhook received them (``Credentials.app``); empty for a poll.
            heard: the kinds of traffic from X that were just seen, as :meth:`heard` returns them.

        Raises:
            InboxFailed: the file cannot be written; no event was kept.
        """

        def keep(db: Transaction) -> list[Received]:
            now = db.wall
            dead = self._dead_owners(db)
            new = [event for event in events if self._keep(db, event, app, now, dead)]
            old = now - _REMEMBERED
            db.execute(_FORGET, (old, old, now - _SURELY))
            db.executemany(_HEARD, [(f"{kind} {app}", now) for kind in heard])
            return new

        return await self._do(keep, is_durable=True)

    def _keep(self, db: Transaction, event: Received, app: str, now: float, dead: Sequence[str]) -> bool:
        """Keep `event`, and return whether it is new, or was held by a process that has ended."""
        is_unread, is_polled = event.unread is not None, event.body is None
        owner = None if is_unread else self._storage.owner
        row = (event.account, event.id, event.body, app, now, owner, event.unread, is_unread, is_polled, *dead)
        query = f"""
            INSERT INTO event (account, id, body, app, kept_at, owner, problem, is_unread, is_polled)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (account, id) DO UPDATE SET
                owner = excluded.owner, is_polled = excluded.is_polled, body = coalesce(excluded.body, event.body),
                app = CASE WHEN excluded.body IS NULL THEN event.app ELSE excluded.app END
            WHERE event.owner IN ({_marks(dead)})
        """  # noqa: S608 - only question marks
        if db.execute(query, row).rowcount:
            return True
        # A poll may have claimed the event. If its process dies, a webhook can handle the event all the same.
        query = "UPDATE event SET body = ?, app = ? WHERE account = ? AND id = ? AND is_polled AND owner IS NOT NULL"
        if event.body is not None and not is_unread:
            db.execute(query, (event.body, app, event.account, event.id))
        return False

    async def known(self, account: str, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that `account` has received and that were handled or set aside, or that a running
        process is handling.

        Raises:
            InboxFailed: the file cannot be read.
        """
        wanted = list(ids)
        query = "SELECT owner FROM event WHERE account = ? AND id = ?"

        def look_up(db: Transaction) -> set[str]:
            dead = set(self._dead_owners(db))
            found = ((one, db.execute(query, (account, one)).fetchone()) for one in wanted)
            return {one for one, row in found if row is not None and row[0] not in dead}

        return await self._do(look_up)

    async def begin(self, event: Received) -> int | None:
        """Record that handling `event` begins. Return how many times it began before without an end; ``None`` if this
        process no longer holds the event: it was suspended and looked dead, and another one took the event over.

        Raises:
            InboxFailed: the file cannot be written.
        """
        query = "UPDATE event SET tries = tries + 1 WHERE account = ? AND id = ? AND owner = ? RETURNING tries"
        found = await self._do(lambda db: db.execute(query, (event.account, event.id, self._storage.owner)).fetchone())
        return None if found is None else int(found[0]) - 1

    async def not_begun(self, event: Received) -> None:
        """Take back the last :meth:`begin` of `event`: its handler did not run, or was cancelled.

        Raises:
            InboxFailed: the file cannot be written.
        """
        query = "UPDATE event SET tries = tries - 1 WHERE account = ? AND id = ? AND owner = ?"
        await self._do(lambda db: db.execute(query, (event.account, event.id, self._storage.owner)))

    async def handled(self, message: DirectMessage) -> None:
        """Record that a message from :meth:`~twdm_async.resources.direct_messages.DirectMessages.poll` was handled.
        ``poll`` does this itself when the next message is asked for; call it before leaving the loop early. If both
        sender and recipient poll on this inbox, it is handled for both.

        Raises:
            InvalidInput: `message` has no id or no recipient, so it was not received.
            InboxFailed: the file cannot be written.
        """
        if message.id is None or message.recipient_id is None:
            raise InvalidInput(parameter="message", problem="must be one that was received")
        accounts = {message.recipient_id, message.sender_id} - {None}  # either may be the one that polls
        for account in accounts & self.polls.keys() or accounts:
            received = Received(str(account), message.id)
            await self.keep([received])
            await self.done(received)

    async def done(self, event: Received) -> None:
        """Record that `event` was handled: keep its id, delete its content.

        Raises:
            InboxFailed: the file cannot be written.
        """
        query = """
            UPDATE event SET body = NULL, owner = NULL, is_polled = FALSE, problem = NULL, is_unread = FALSE
            WHERE account = ? AND id = ?
        """
        await self._do(lambda db: db.execute(query, (event.account, event.id)), is_durable=True)

    async def release(self, account: str) -> None:
        """Release the messages that this process' poll of `account` has claimed and not handled.

        Raises:
            InboxFailed: the file cannot be written; the messages stay claimed until this process ends.
        """

        def release(db: Transaction) -> None:
            mine = "account = ? AND is_polled AND owner = ?"
            db.execute(f"DELETE FROM event WHERE {mine} AND body IS NULL", (account, self._storage.owner))  # noqa: S608 - constant
            query = f"UPDATE event SET owner = NULL, is_polled = FALSE WHERE {mine}"  # noqa: S608 - a webhook has got these, too
            db.execute(query, (account, self._storage.owner))

        await self._do(release)

    async def give_back(self, events: Sequence[Received]) -> None:
        """Release events that this process' webhook has claimed and not handled.

        Raises:
            InboxFailed: the file cannot be written; the events stay claimed until this process ends.
        """
        query = "UPDATE event SET owner = NULL WHERE account = ? AND id = ? AND owner = ? AND body IS NOT NULL"
        await self._do(lambda db: db.executemany(query, [(one.account, one.id, self._storage.owner) for one in events]))

    async def set_aside(self, event: Received, problem: str, *, is_unread: bool = False) -> None:
        """Keep an event that could not be handled or read until :meth:`retry` or :meth:`forget` is called for it.

        Args:
            event: the event.
            problem: why it could not be handled or read.
            is_unread: whether it could not be read.

        Raises:
            InboxFailed: the file cannot be written; the event is as it was.
        """
        query = (  # unless another process has taken it over
            "UPDATE event SET owner = NULL, tries = 0, problem = ?, is_unread = ? "
            "WHERE account = ? AND id = ? AND owner = ?"
        )
        values = (problem, is_unread, event.account, event.id)
        await self._do(lambda db: db.execute(query, (*values, self._storage.owner)), is_durable=True)

    async def failed(self) -> tuple[SetAside, ...]:
        """Return the events whose handler failed, oldest first.

        Raises:
            InboxFailed: the file cannot be read.
        """
        return await self._set_aside(is_unread=False)

    async def unread(self) -> tuple[SetAside, ...]:
        """Return the events about messages that X signed and that could not be read, oldest first.

        Raises:
            InboxFailed: the file cannot be read.
        """
        return await self._set_aside(is_unread=True)

    async def retry(self, *ids: str, account: str | int | None = None) -> int:
        """Hand events that were set aside back to a webhook on this inbox. It handles them within 30 seconds, or when
        it starts.

        Args:
            ids: of the events, see :class:`SetAside`.
            account: only the events of this account, since two accounts that write to each other both receive an event
                with the message's id.

        Returns:
            How many of them were set aside.

        Raises:
            InvalidInput: an id is not a string, or `account` is not a user id.
            InboxFailed: the file cannot be written; the events are as they were.
        """
        return await self._decide("problem = NULL, is_unread = FALSE", ids, account)

    async def forget(self, *ids: str, account: str | int | None = None) -> int:
        """Give up events that were set aside: keep their ids, delete their content.

        Args:
            ids: of the events, see :class:`SetAside`.
            account: only the events of this account, since two accounts that write to each other both receive an event
                with the message's id.

        Returns:
            How many of them were set aside.

        Raises:
            InvalidInput: an id is not a string, or `account` is not a user id.
            InboxFailed: the file cannot be written; the events are as they were.
        """
        return await self._decide("problem = NULL, is_unread = FALSE, body = NULL", ids, account)

    async def heard(self, app: str | None = None) -> dict[str, datetime]:
        """Return when X last sent something (UTC), by kind: ``delivery`` for a webhook's events, ``check`` for its
        checks, and the type of each kind of encrypted event, such as ``chat.received``.

        Args:
            app: the name of an app (``Credentials.app``), to leave out what the webhooks of other apps have received.

        Raises:
            InboxFailed: the file cannot be read.
        """
        rows = await self._do(lambda db: db.execute("SELECT kind, at FROM heard ORDER BY at").fetchall())
        heard = [(*name.partition(" "), at) for name, at in rows]  # an earlier version recorded no app
        return {kind: _moment(at) for kind, _, of_app, at in heard if app in {None, of_app} or not of_app}

    async def take_over(self, app: str | None = None, accounts: Collection[str] = ()) -> list[Received]:
        """Claim the events that no running process handles: those whose process has ended, and those to retry. Return
        them, oldest first.

        Args:
            app: the name of the app whose webhook takes them over (``Credentials.app``); ``None`` for those of any app.
            accounts: the user ids of accounts whose events it takes over whatever the app, since an app that gets new
                keys gets a new name.

        Raises:
            InboxFailed: the file cannot be read or written; no event was claimed.
        """

        def take(db: Transaction) -> list[Received]:
            dead = self._dead_owners(db)
            of_nobody = f"body IS NOT NULL AND problem IS NULL AND (owner IS NULL OR owner IN ({_marks(dead)}))"
            values = list(dead)
            if app is not None:  # of an event that an earlier version has kept, no app is known
                of_nobody += f" AND (app IN ('', ?) OR account IN ({_marks(accounts)}))"
                values += [app, *accounts]
            query = f"SELECT account, id, body FROM event WHERE {of_nobody} ORDER BY kept_at, length(id), id"  # noqa: S608 - as above
            taken = db.execute(query, values).fetchall()
            db.execute(f"UPDATE event SET owner = ? WHERE {of_nobody}", (self._storage.owner, *values))  # noqa: S608 - as above
            return [Received(*row) for row in taken]

        return await self._do(take)

    async def polled(self, account: str) -> tuple[float, float] | None:
        """Return the end and the start of the time that polls of `account` have covered, in seconds since 1970 by the
        server's clock; ``None`` if it was never polled.

        Raises:
            InboxFailed: the file cannot be read.
        """
        query = "SELECT until, since FROM polled WHERE account = ?"
        found = await self._do(lambda db: db.execute(query, (account,)).fetchone())
        return None if found is None else (float(found[0]), float(found[1]))

    async def set_polled(self, account: str, until: float, since: float) -> None:
        """Record what polls of `account` have covered. The end is moved back to the oldest message that a poll has
        claimed and not handled.

        Args:
            account: the user id.
            until: the end, in seconds since 1970 by the server's clock.
            since: the start, likewise.

        Raises:
            InboxFailed: the file cannot be written.
        """

        def note(db: Transaction) -> None:
            query = "SELECT min(kept_at) FROM event WHERE account = ? AND is_polled AND owner IS NOT NULL"
            (in_hand,) = db.execute(query, (account,)).fetchone()
            reached = until if in_hand is None else min(until, in_hand)
            db.execute(_POLLED, (account, reached, since))

        await self._do(note, is_durable=True)

    async def close(self) -> None:
        """Close the file. The next process handles what is not handled yet. Calling this twice does no harm."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._storage.close()
        self._storage.release()

    async def __aenter__(self) -> Self:
        try:
            await self.heard()  # a file that cannot be used must be noticed first
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

    async def _decide(self, change: str, ids: Sequence[str], account: str | int | None) -> int:
        if not all(isinstance(one, str) for one in ids):
            raise InvalidInput(parameter="ids", problem="must be the ids of events that were set aside")
        if account is not None and account != "":  # some events do not tell
            account = checked_id(account, "account")
        query = f"UPDATE event SET {change} WHERE problem IS NOT NULL AND account = coalesce(?, account) AND id = ?"  # noqa: S608 - constants
        return await self._do(
            lambda db: sum(db.execute(query, (account, one)).rowcount for one in ids), is_durable=True
        )

    def _dead_owners(self, db: Transaction) -> list[str]:
        """Return the owners of claimed events whose process has ended."""
        owners: list[str] = []
        (owner,) = db.execute("SELECT min(owner) FROM event WHERE owner IS NOT NULL").fetchone()
        while owner is not None:
            owners.append(owner)  # one by one, so that only one row of each owner is read
            (owner,) = db.execute("SELECT min(owner) FROM event WHERE owner > ?", (owner,)).fetchone()
        return [owner for owner in owners if owner != self._storage.owner and self._storage.is_dead(db, owner)]

    @quiet
    async def _do(self, work: Callable[[Transaction], T], *, is_durable: bool = False) -> T:
        if self._is_closed:
            raise InboxFailed(path=self._storage.address, problem="it is closed")
        if self._forks != this_process.forks:  # the open file is the parent process'
            self._forks = this_process.forks
            self._storage.leave_behind()

        def change(transaction: Transaction) -> T:
            self._storage.stay_alive(transaction)  # which reads the disk, too
            return work(transaction)

        try:
            return await asyncio.shield(
                self._storage.change(change, is_durable=is_durable)
            )  # a caller that is cancelled must not undo it
        except StorageTrouble as trouble:
            raise InboxFailed(
                path=self._storage.address, problem=trouble.problem, is_unsure=trouble.is_unsure
            ) from None


def _moment(at: Any) -> datetime:
    """Return when `at` was, or 1970 if it is not a time."""
    try:
        return datetime.fromtimestamp(at, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values)) or "NULL"


def checked_inbox(inbox: Inbox | None) -> Inbox | None:
    """Return `inbox` unchanged.

    Raises:
        InvalidInput: `inbox` is neither an Inbox nor ``None``.
    """
    if inbox is not None and not isinstance(inbox, Inbox):
        raise InvalidInput(parameter="inbox", problem="must be an Inbox")
    return inbox
