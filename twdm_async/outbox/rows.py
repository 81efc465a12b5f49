"""The table of an outbox: each method is one step of a message's way, done within a transaction.

A message that a process works on has an owner. If the owner dies, a message that it was sending becomes unknown, and a
message that it had only taken up can be taken up by others.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from attrs import evolve, field, frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.convert import converter
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.models.texts import escaped
from twdm_async.outbox.entry import OF_DESK, TOO_MANY, Entry, HeldMessage, Review, State
from twdm_async.outbox.verdicts import TryLater, backoff, most_tries
from twdm_async.quota.operations import Intent
from twdm_async.quota.spec import Priority, Quota
from twdm_async.storage.contract import Schema, passed
from twdm_async.transport.sent import Sought

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from twdm_async.storage.contract import Cursor, Transaction

_ENTRY: Final = (
    "key, state, recipient_id, custom_profile_id, priority, message_id, error, attempts, put_at, changed_at, "
    "not_after, change, review, reviewed_by, reviewed_at"
)
_INSERT: Final = """
    INSERT INTO message (account, key, digest, recipient_id, custom_profile_id, fingerprint, content, payload, priority,
        lane, put_at, not_after, state, review, changed_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account, key) DO NOTHING
"""
_OUTCOME: Final = "state NOT IN ('held', 'queued', 'sending')"
_TAKEN_UP: Final = "id, key, recipient_id, custom_profile_id, payload, lane, not_after, tries"
_KEPT: Final = 1800.0  # seconds
_BATCH: Final = 1000  # rows
_LARGEST: Final = 2**63 - 1  # number of a row
_TO_SEND: Final = "owner IS NULL AND state IN ('queued', 'absent')"
_WAITS: Final = "owner IS NULL AND state IN ('held', 'queued', 'absent')"
_OF_DESK: Final = f"substr(key, 1, {len(OF_DESK)}) = '{OF_DESK}'"
_LONGEST_WAIT: Final = 86_400.0  # seconds; a longer wait can only mean that the clock was set back
_FINAL: Final = ", ".join(f"'{state}'" for state in State if state.is_final)

SCHEMA: Final = Schema(
    "outbox",
    (
        """
        CREATE TABLE message (
            id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL,
            recipient_id TEXT NOT NULL, custom_profile_id TEXT, fingerprint TEXT NOT NULL, payload TEXT NOT NULL,
            priority INTEGER NOT NULL, lane TEXT NOT NULL, put_at REAL NOT NULL, not_after REAL,
            state TEXT NOT NULL, owner TEXT, slot TEXT, attempts INTEGER NOT NULL DEFAULT 0,
            sent_at REAL, sent_uptime REAL, ended_at REAL, ended_uptime REAL, content TEXT NOT NULL DEFAULT '',
            message_id TEXT, error TEXT, change INTEGER NOT NULL DEFAULT 0, changed_at REAL NOT NULL,
            UNIQUE (account, key)
        );
        CREATE INDEX message_to_send ON message (account, priority, lane, id)
            WHERE owner IS NULL AND state IN ('queued', 'absent');
        CREATE INDEX message_by_state ON message (account, state);
        CREATE TABLE outcome (account TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
        CREATE INDEX message_by_slot ON message (slot) WHERE slot IS NOT NULL;
        CREATE INDEX message_by_owner ON message (owner) WHERE owner IS NOT NULL;
        CREATE INDEX message_by_change ON message (account, change);
        CREATE INDEX message_by_message_id ON message (account, message_id) WHERE message_id IS NOT NULL;
        """,
        """
        ALTER TABLE message ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE message ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
        """,
        # Indexes, so that no query for a message gets slower with the number of messages that are done.
        """
        CREATE INDEX message_by_sending ON message (account, sent_at) WHERE sent_at IS NOT NULL;
        CREATE INDEX message_nameless ON message (account) WHERE state = 'sent' AND message_id IS NULL;
        CREATE INDEX message_to_expire ON message (account, not_after)
            WHERE not_after IS NOT NULL AND owner IS NULL AND state IN ('queued', 'absent');
        CREATE INDEX message_by_next_try ON message (account, not_before)
            WHERE owner IS NULL AND state IN ('queued', 'absent');
        """,
        f"""
        ALTER TABLE message ADD COLUMN review TEXT;
        ALTER TABLE message ADD COLUMN reviewed_by TEXT;
        ALTER TABLE message ADD COLUMN reviewed_at REAL;
        DROP INDEX message_to_expire;
        CREATE INDEX message_to_expire ON message (account, not_after)
            WHERE not_after IS NOT NULL AND owner IS NULL AND state IN ('held', 'queued', 'absent');
        CREATE INDEX message_of_desk ON message (account, recipient_id, put_at) WHERE {_OF_DESK};
        """,
    ),
    content="what is to be sent",
    advice="put it back, or move it away and put the messages again",
    earlier=(0, 1, 1, 2),
    latest="SELECT coalesce(max(id), 0) FROM message",
)
"""The tables of an outbox. The `slot` of a message names the quota slot that was written in the same transaction."""


@frozen
class NewMessage:
    """A message that is to be put into the outbox."""

    key: str
    digest: str
    recipient_id: str
    custom_profile_id: str | None
    fingerprint: str
    content: str
    payload: str = field(repr=False)
    priority: Priority
    not_after: float | None
    hold: bool = False


@frozen
class TakenUp:
    """A message that a process is about to send. `had_others`: there were recipients to be avoided, and its own is not
    among them.
    """

    id: int
    key: str
    recipient_id: str
    custom_profile_id: str | None
    payload: str = field(repr=False)
    lane: str
    not_after: float | None
    tries: int
    had_others: bool = False


@frozen
class UnknownMessage:
    """A message that may or may not have arrived.

    Args:
        id: the number of its row.
        sought: the facts by which it is looked for.
        age: seconds since its attempt was given up, at least, whatever a clock was set to meanwhile.
    """

    id: int
    sought: Sought
    age: float


class _Condition(NamedTuple):
    """An SQL condition on rows, and the values in it."""

    where: str
    facts: tuple[Any, ...]


_ANY_ROW: Final = _Condition("TRUE", ())


class _Ready:
    """The SQL condition for messages that may be taken up.

    Args:
        account: the account that sends them.
        priority: their priority.
        wall: the time, in seconds since 1970.
        avoided: recipients whose messages are left out.
    """

    def __init__(self, account: str, priority: Priority, wall: float, avoided: Collection[str] = ()) -> None:
        self.where = (
            f"account = ? AND priority = ? AND {_TO_SEND} AND not_before NOT BETWEEN ? AND ? "
            "AND (not_after IS NULL OR not_after > ?)"
        )
        self.facts = (account, int(priority), wall + 1e-6, wall + _LONGEST_WAIT, wall, *avoided)
        if avoided:
            self.where += f" AND recipient_id NOT IN ({', '.join('?' * len(avoided))})"

    def lanes(self, where: str, after: str, most: int) -> tuple[str, tuple[Any, ...]]:
        """Return a query, and its values, for the lanes of these messages in order. In each lane, the query reads rows
        up to the first one that is ready.

        Args:
            where: the condition on lanes, a comparison with `after`.
            after: a lane.
            most: how many lanes, at most.
        """
        first = f"SELECT lane FROM message WHERE {self.where} AND {where} {{}} ORDER BY lane, id LIMIT 1"  # noqa: S608 - constants
        query = (
            f"WITH RECURSIVE lanes (name, place) AS (SELECT ({first.format('')}), 1 UNION ALL "  # noqa: S608 - as above
            f"SELECT ({first.format('AND lane > lanes.name')}), place + 1 FROM lanes "
            "WHERE name IS NOT NULL AND place < ?) SELECT name FROM lanes WHERE name IS NOT NULL"
        )
        return query, (*self.facts, after, *self.facts, after, most)


class SlotIntent(Intent):
    """Marks a row as being sent, in the transaction in which a slot is taken for it.

    Args:
        row: the row's number.
        owner: the owner that works on it; if the row has another owner, nothing is written.
        server_time: returns the server's time in seconds since 1970, as far as it is known.
    """

    def __init__(self, row: int, owner: str, server_time: Callable[[], float]) -> None:
        self._row, self._owner, self._server_time = row, owner, server_time
        self._slot = secrets.token_hex(8)

    def write(self, transaction: Transaction) -> Cursor:
        query = (
            "UPDATE message SET state = 'sending', slot = ?, attempts = attempts + 1, sent_at = ?, sent_uptime = ? "
            "WHERE id = ? AND owner = ?"
        )
        facts = (self._slot, self._server_time(), transaction.uptime, self._row, self._owner)
        return transaction.execute(query, facts)

    def withdraw(self, transaction: Transaction) -> None:
        query = "UPDATE message SET state = 'queued', slot = NULL WHERE slot = ? AND state = 'sending'"
        transaction.execute(query, (self._slot,))


class Rows:
    """The messages of one account, within one transaction.

    Args:
        transaction: the transaction.
        account: the account.
    """

    def __init__(self, transaction: Transaction, account: str) -> None:
        self.transaction = transaction
        self._account = account
        self._wall = transaction.wall

    def put(self, new: NewMessage, limit: Quota | None = None) -> Callable[[], Entry | InvalidInput]:
        """Insert a message, unless its key exists. Return a function that returns the message's entry, or an error if
        another message has the key, or if desks have put as many messages for its recipient as `limit` allows. Call
        that function after all statements of this moment were sent to the database.
        """
        if limit is not None and self.get(new.key) is None and self.is_limit_reached(new.recipient_id, limit):
            return lambda: InvalidInput(parameter="limit", problem=TOO_MANY)
        self.transaction.tell()
        self.transaction.execute(_INSERT, self._values_of(new))
        query = f"SELECT digest, {_ENTRY} FROM message WHERE account = ? AND key = ?"  # noqa: S608 - constant
        found = self.transaction.execute(query, (self._account, new.key))

        def kept() -> Entry | InvalidInput:
            ((digest, *entry),) = found.fetchall()
            if digest != new.digest:
                return InvalidInput(
                    parameter="key", problem="was used for another message (another recipient, profile or content)"
                )
            return _entry(entry)

        return kept

    def _values_of(self, new: NewMessage) -> tuple[Any, ...]:
        return (self._account, new.key, new.digest, new.recipient_id, new.custom_profile_id, new.fingerprint,
                new.content, new.payload, int(new.priority), new.custom_profile_id or "", self._wall, new.not_after,
                State.HELD if new.hold else State.QUEUED, Review.WANTED if new.hold else None, self._wall)  # fmt: skip

    def get(self, key: str) -> Entry | None:
        """Return the entry of the message with this key; ``None`` if there is none."""
        query = f"SELECT {_ENTRY} FROM message WHERE account = ? AND key = ?"  # noqa: S608 - constant
        found = self.transaction.execute(query, (self._account, key)).fetchone()
        return None if found is None else _entry(found)

    def existing(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that are keys of messages."""
        query = f"SELECT key FROM message WHERE account = ? AND key IN ({', '.join('?' * len(keys))})"  # noqa: S608 - question marks
        return {key for (key,) in self.transaction.execute(query, (self._account, *keys))}

    def select(self, states: Sequence[State]) -> list[Entry]:
        """Return all messages in these states, in the order in which they were put."""
        places = ", ".join("?" * len(states))
        query = f"SELECT {_ENTRY} FROM message WHERE account = ? AND state IN ({places}) ORDER BY id"  # noqa: S608 - as above
        return [_entry(row) for row in self.transaction.execute(query, (self._account, *states))]

    def held(self) -> list[HeldMessage]:
        """Return the messages that wait for approval, in the order in which they were put."""
        query = (
            f"SELECT payload, {_ENTRY} FROM message WHERE account = ? AND state = 'held' "  # noqa: S608 - as above
            "AND (not_after IS NULL OR not_after > ?) ORDER BY id"
        )
        found = self.transaction.execute(query, (self._account, self._wall))
        return [HeldMessage(_entry(entry), _message(payload)) for payload, *entry in found]

    def review(self, key: str, decision: Review, by: str | None, why: str | None) -> Entry | None:
        """Write down what a person has decided on a message, if it is held; if its time is over, it expires instead.
        Return its entry; ``None`` if there is no message with this key.
        """
        query = "SELECT id, not_after FROM message WHERE account = ? AND key = ? AND state = 'held'"
        found = self.transaction.execute(query, (self._account, key)).fetchone()
        if found is not None:
            row, not_after = found
            if not_after is not None and not_after <= self._wall:
                self.end(row, State.EXPIRED)
            else:
                query = (
                    "UPDATE message SET review = ?, reviewed_by = ?, reviewed_at = ?, changed_at = ?, "
                    "state = CASE WHEN ? = 'approved' THEN 'queued' ELSE state END WHERE id = ?"
                )
                self.transaction.execute(query, (decision, by, self._wall, self._wall, decision, row))
                self.transaction.tell()
                if decision is Review.REJECTED:
                    self.end(row, State.REJECTED, error=why)
        return self.get(key)

    def is_limit_reached(self, recipient_id: str, limit: Quota) -> bool:
        """Return whether desks have put as many messages for a recipient as `limit` allows."""
        query = f"SELECT count(*) FROM message WHERE account = ? AND recipient_id = ? AND put_at > ? AND {_OF_DESK}"  # noqa: S608 - as above
        values = (self._account, recipient_id, self._wall - limit.per)
        return int(self.transaction.execute(query, values).fetchone()[0]) >= limit.limit

    def counts(self) -> dict[State, int]:
        """Return how many messages are in each state."""
        query = "SELECT state, count(*) FROM message WHERE account = ? GROUP BY state"
        counted = dict(self.transaction.execute(query, (self._account,)).fetchall())
        return {state: counted.get(state.value, 0) for state in State}

    def owned(self) -> dict[str, int]:
        """Return how many messages each owner works on."""
        query = "SELECT owner, count(*) FROM message WHERE +account = ? AND owner IS NOT NULL GROUP BY owner"
        return dict(self.transaction.execute(query, (self._account,)).fetchall())

    def left_to_send(self) -> bool:
        """Return whether any message is queued, being sent or absent."""
        query = "SELECT 1 FROM message WHERE account = ? AND state IN ('queued', 'sending', 'absent') LIMIT 1"
        return self.transaction.execute(query, (self._account,)).fetchone() is not None

    def outcomes(self, after: int) -> list[Entry]:
        """Return messages whose outcomes have higher numbers than `after`, in the order of these; 1000 at most."""
        query = (
            f"SELECT {_ENTRY} FROM message WHERE account = ? AND change > ? AND {_OUTCOME} ORDER BY change LIMIT 1000"  # noqa: S608 - as above
        )
        return [_entry(row) for row in self.transaction.execute(query, (self._account, after))]

    def last_number(self) -> int:
        """Return the number of the latest outcome; 0 if there is none."""
        found = self.transaction.execute("SELECT last FROM outcome WHERE account = ?", (self._account,)).fetchone()
        return 0 if found is None else int(found[0])

    def take_up(
        self,
        owner: str,
        priority: Priority,
        after: str,
        most: int = 1,
        *,
        avoided: Collection[str] = (),
        is_probe: bool = False,
    ) -> list[TakenUp]:
        """Make `owner` the owner of the next messages, if there are any, and return them.

        Args:
            owner: the owner that sends them.
            priority: their priority.
            after: a lane; lanes take turns, beginning with the one after it.
            most: how many messages, at most.
            avoided: recipients whose messages are taken up last.
            is_probe: whether a message is sent to find out if anything gets through. Then a message is drawn at random,
                and the first one to its recipient is taken up, since adjacent messages may fail for the same reason.
        """
        query = f"SELECT id FROM message WHERE account = ? AND {_WAITS} AND not_after <= ?"  # noqa: S608 - as above
        expired = self.transaction.execute(query, (self._account, self._wall))
        find = self._first_of_anybody if is_probe else self._first_of_lanes
        taken: list[TakenUp] = []
        if avoided:
            found = find(_Ready(self._account, priority, self._wall, avoided), after, most)
            taken = [_taken_up(row, had_others=True) for row in found]
        if len(taken) < most:
            known = [one.id for one in taken]
            found = find(_Ready(self._account, priority, self._wall), taken[-1].lane if taken else after, most)
            others = [_taken_up(row, had_others=False) for row in found if row[0] not in known]
            taken += others[: most - len(taken)]
        if taken:
            query = f"UPDATE message SET owner = ? WHERE id IN ({', '.join('?' * len(taken))})"  # noqa: S608 - question marks
            self.transaction.execute(query, (owner, *(one.id for one in taken)))
        for (row,) in expired.fetchall():
            self.end(row, State.EXPIRED)
        return taken

    def _first_of_lanes(self, ready: _Ready, after: str, most: int) -> list[Any]:
        """Return the first messages that are ready; lanes take turns, beginning with the one after `after`."""
        behind = self.transaction.execute(*ready.lanes("lane > ?", after, most))
        others = self.transaction.execute(*ready.lanes("lane <= ?", after, most))
        lanes = [lane for (lane,) in (*behind.fetchall(), *others.fetchall())][:most]
        if not lanes:
            return []
        query = f"SELECT {_TAKEN_UP} FROM message WHERE {ready.where} AND lane = ? ORDER BY id LIMIT ?"  # noqa: S608 - constants
        share = -(-most // len(lanes))
        while True:
            asked = [self.transaction.execute(query, (*ready.facts, lane, share)) for lane in lanes]
            found = [rows.fetchall() for rows in asked]
            if sum(map(len, found)) >= most or all(len(rows) < share for rows in found):
                return [row for turn in zip_longest(*found) for row in turn if row is not None][:most]
            share *= 2  # some lanes have fewer messages than their share

    def _first_of_anybody(self, ready: _Ready, _: str, most: int) -> list[Any]:
        """Return the first messages to a recipient who is drawn at random."""
        anybody = f"SELECT recipient_id FROM message WHERE {ready.where} ORDER BY random() LIMIT 1"  # noqa: S608 - constants
        query = (
            f"SELECT {_TAKEN_UP} FROM message WHERE {ready.where} AND recipient_id = ({anybody}) ORDER BY id LIMIT ?"  # noqa: S608 - as above
        )
        return self.transaction.execute(query, (*ready.facts, *ready.facts, most)).fetchall()

    def next_due(self, priority: Priority) -> float | None:
        """Return the seconds until the next retry of this priority is due; ``None`` if no message waits for a retry."""
        query = (
            f"SELECT min(not_before) FROM message WHERE account = ? AND {_TO_SEND} AND priority = ? AND not_before > ?"  # noqa: S608 - as above
        )
        (earliest,) = self.transaction.execute(query, (self._account, int(priority), self._wall)).fetchone()
        return None if earliest is None else float(earliest - self._wall)

    def next_try(self) -> float | None:
        """Return the seconds until a message without an owner may be taken up; ``None`` if there is none."""
        query = f"SELECT min(not_before) FROM message WHERE account = ? AND {_TO_SEND}"  # noqa: S608 - as above
        (earliest,) = self.transaction.execute(query, (self._account,)).fetchone()
        if earliest is None:
            return None
        wait = earliest - self._wall
        return wait if 0.0 < wait <= _LONGEST_WAIT else 0.0

    def leave(self, row: int, owner: str, signed_at: float) -> Cursor:
        """Mark a message as being sent, just before it leaves. If it is not `owner`'s any more, change no row."""
        query = (
            "UPDATE message SET state = 'sending', attempts = attempts + 1, sent_at = ?, sent_uptime = ? "
            "WHERE id = ? AND owner = ? AND state IN ('queued', 'absent', 'sending')"
        )
        return self.transaction.execute(query, (signed_at, self.transaction.uptime, row, owner))

    def end(self, row: int, state: State, *, message_id: str | None = None, error: str | None = None) -> None:
        """Write an outcome down."""
        self._count_outcome()
        self._end(row, state, _ANY_ROW, message_id=message_id, error=error)

    def arrived(self, row: int, owner: str, message_id: str | None, signed_at: float) -> None:
        """Write down that `owner` got the answer that the message arrived. This holds even if others took `owner` for
        dead meanwhile, unless another owner sends the message already. If another message has the same id, the answer
        was a repeated one to that message, and this one becomes unknown.
        """
        held = (
            "(owner = ? AND state IN ('queued', 'absent', 'sending') "
            "OR owner IS NULL AND state IN ('queued', 'absent', 'unknown'))"
        )
        new = "NOT EXISTS (SELECT 1 FROM message AS other WHERE other.account = ? AND other.message_id = ?)"
        self._count_outcome()
        # If the first statement changes the row, the second finds nothing to change; so both are sent without a wait.
        only = _Condition(f"{held} AND {new}", (owner, self._account, message_id))
        self._end(row, State.SENT, only, message_id=message_id, error=None)
        error = "the answer was that to an earlier message"
        self._mark_unknown(row, error, signed_at, _Condition(held, (owner,)))

    def _count_outcome(self) -> None:
        query = "INSERT INTO outcome VALUES (?, 1) ON CONFLICT (account) DO UPDATE SET last = outcome.last + 1"
        self.transaction.execute(query, (self._account,))

    def _end(self, row: int, state: State, only: _Condition, **columns: Any) -> None:
        """Write an outcome and `columns` to the row, with the latest outcome number, if the row meets `only`."""
        others = "".join(f", {name} = ?" for name in columns)
        self.transaction.execute(
            f"UPDATE message SET state = ?, owner = NULL, slot = NULL, changed_at = ?{others}, "  # noqa: S608 - constants
            "change = (SELECT last FROM outcome WHERE outcome.account = message.account) "
            f"WHERE id = ? AND {only.where}",
            (state, self._wall, *columns.values(), row, *only.facts),
        )

    def is_owned(self, row: int, owner: str) -> bool:
        """Return whether `owner` still works on the row. If not, another process has written its outcome already."""
        query = "SELECT 1 FROM message WHERE id = ? AND owner = ? AND state IN ('queued', 'absent', 'sending')"
        return self.transaction.execute(query, (row, owner)).fetchone() is not None

    def mark_unknown(self, row: int, error: str, signed_at: float | None = None) -> None:
        """Write down that a message may or may not have arrived. `signed_at` is the time in its signature, if known."""
        self._count_outcome()
        self._mark_unknown(row, error, signed_at, _ANY_ROW)

    def _mark_unknown(self, row: int, error: str, signed_at: float | None, only: _Condition) -> None:
        known = {} if signed_at is None else {"sent_at": signed_at}
        ended = {"ended_at": self._wall, "ended_uptime": self.transaction.uptime}
        self._end(row, State.UNKNOWN, only, message_id=None, error=error, **known, **ended)

    def put_back(self, row: int, owner: str | None, later: TryLater) -> None:
        """Write down that a message did not arrive and is to be tried again, by `owner` or, if ``None``, by anyone."""
        self.transaction.execute(
            "UPDATE message SET state = CASE state WHEN 'sending' THEN 'queued' ELSE state END, slot = NULL, "
            "owner = ?, tries = ?, not_before = ?, error = coalesce(?, error) "
            "WHERE id = ? AND state IN ('sending', 'queued', 'absent')",
            (owner, later.tries, self._wall + later.after, later.error, row),
        )

    def end_absent(self, row: int, settle_after: float) -> State:
        """Write down that a message did not arrive, according to the list. Return its new state: absent, to be sent
        again; or failed, if it is given up.
        """
        # It is to blame if others got through meanwhile, or if it was before and no other message has failed since.
        query = (
            "SELECT message.tries, count(*) FILTER (WHERE other.state = 'sent'), "
            "count(*) FILTER (WHERE other.state != 'sent' AND other.tries = 0) "
            "FROM message LEFT JOIN message AS other ON other.account = message.account "
            "AND other.sent_at > message.sent_at WHERE message.id = ? GROUP BY message.id"
        )
        tries, got_through, have_failed = self.transaction.execute(query, (row,)).fetchone()
        tries += bool(got_through or (tries and not have_failed))
        self.transaction.execute(
            "UPDATE message SET tries = ?, not_before = ? WHERE id = ?",
            (tries, self._wall + backoff(tries, settle_after), row),
        )
        if self.is_given_up(row, tries):
            (said,) = self.transaction.execute("SELECT error FROM message WHERE id = ?", (row,)).fetchone()
            self.end(row, State.FAILED, error=f"it did not arrive in {tries} attempts; the last one ended so: {said}")
            return State.FAILED
        self.end(row, State.ABSENT, error="it did not arrive")
        return State.ABSENT

    def is_given_up(self, row: int, tries: int) -> bool:
        """Return whether a message that has failed `tries` times is given up. It is compared with the messages that
        were tried since it was put, under the same conditions.
        """
        if tries < 1:
            return False
        query = (
            "SELECT count(*), count(*) FILTER (WHERE tries > 0) FROM message WHERE account = ? AND attempts > 0 "
            "AND sent_at >= (SELECT put_at FROM message WHERE id = ?)"
        )
        tried, failed = self.transaction.execute(query, (self._account, row)).fetchone()
        return tries >= most_tries(failed, tried)

    def let_go(self, row: int, owner: str) -> None:
        """Release a message that `owner` holds and of which nothing has left."""
        query = "UPDATE message SET state = 'queued', slot = NULL WHERE id = ? AND owner = ? AND state = 'sending'"
        self.transaction.execute(query, (row, owner))
        query = "UPDATE message SET owner = NULL WHERE id = ? AND owner = ? AND state IN ('queued', 'absent')"
        self.transaction.execute(query, (row, owner))

    def give_up(self, owner: str) -> None:
        """Release all messages that `owner` holds, except those that it is sending."""
        query = "UPDATE message SET owner = NULL WHERE +account = ? AND owner = ? AND state != 'sending'"  # by owner
        self.transaction.execute(query, (self._account, owner))

    def reclaim(
        self, is_dead: Callable[[Transaction, str], bool], own: str, in_hand: Callable[[], Collection[int]]
    ) -> tuple[int, bool]:
        """Release the messages of owners that have ended. Mark as unknown those that they were sending, and those that
        `own` was sending and no longer has in hand. Return how many became unknown, and whether any owner has ended.

        Args:
            is_dead: returns whether an owner has ended.
            own: this process' owner name.
            in_hand: returns the rows that this process works on; called within the transaction.
        """
        lost: list[tuple[int, str]] = []
        held = in_hand()
        query = "SELECT id, owner FROM message WHERE account = ? AND state = 'sending'"
        sending = self.transaction.execute(query, (self._account,)).fetchall()
        query = "SELECT DISTINCT owner FROM message WHERE +account = ? AND owner IS NOT NULL AND owner != ?"
        owners = [owner for (owner,) in self.transaction.execute(query, (self._account, own))]
        dead = {owner for owner in owners if is_dead(self.transaction, owner)}
        lost += [(row, "its process ended before the answer came") for row, owner in sending if owner in dead]
        lost += [(row, "nobody knows who was sending it") for row, owner in sending if owner is None]
        lost += [
            (row, "it was broken off before the answer came")
            for row, owner in sending
            if owner == own and row not in held
        ]
        for row, error in lost:
            self.mark_unknown(row, error)
        for owner in dead:
            self.give_up(owner)
        return len(lost), bool(dead)

    def unknown(self) -> list[UnknownMessage]:
        """Return all messages that may or may not have arrived."""
        query = (
            "SELECT id, ended_at, ended_uptime, recipient_id, custom_profile_id, fingerprint, sent_at, content "
            "FROM message WHERE account = ? AND state = 'unknown' ORDER BY sent_at"
        )
        return [
            UnknownMessage(row, _sought(sought), passed(ended_at, ended_uptime, self._wall, self.transaction.uptime))
            for row, ended_at, ended_uptime, *sought in self.transaction.execute(query, (self._account,))
        ]

    def is_being_sent(self, sought: Sought) -> bool:
        """Return whether a message with the same text to the same person is being sent."""
        query = "SELECT 1 FROM message WHERE account = ? AND state = 'sending' AND recipient_id = ? AND fingerprint = ?"
        return (
            self.transaction.execute(query, (self._account, sought.recipient_id, sought.fingerprint)).fetchone()
            is not None
        )

    def nameless(self) -> list[Sought]:
        """Return the messages that were sent and whose replies told no id."""
        query = (
            "SELECT recipient_id, custom_profile_id, fingerprint, sent_at, content FROM message "
            "INDEXED BY message_nameless WHERE account = ? AND state = 'sent' AND message_id IS NULL"
        )
        return [_sought(row) for row in self.transaction.execute(query, (self._account,))]

    def is_known(self, message_id: str | None) -> bool:
        """Return whether one of the account's messages has this id."""
        query = "SELECT 1 FROM message WHERE account = ? AND message_id = ?"
        return self.transaction.execute(query, (self._account, message_id)).fetchone() is not None

    def listable(self, since: datetime) -> dict[str, datetime]:
        """Return the ids of messages that arrived and left at `since` or later, with the times at which they left: the
        list must show them.
        """
        query = (
            "SELECT message_id, sent_at FROM message WHERE account = ? AND state = 'sent' AND message_id IS NOT NULL "
            "AND sent_at >= ?"
        )
        return {row[0]: _utc(row[1]) for row in self.transaction.execute(query, (self._account, since.timestamp()))}

    def retry(self, key: str) -> bool:
        """Queue a message again that was rejected, has failed or has expired; return whether it was. If it still needs
        approval, hold it again; if a person has rejected it, leave it.
        """
        return bool(
            self.transaction.execute(
                "UPDATE message SET state = CASE review WHEN 'wanted' THEN 'held' ELSE 'queued' END, error = NULL, "
                "not_after = NULL, tries = 0, not_before = 0, changed_at = ? WHERE account = ? AND key = ? "
                "AND state IN ('rejected', 'failed', 'expired') AND coalesce(review, '') != 'rejected'",
                (self._wall, self._account, key),
            ).rowcount
        )

    def withdraw(self, key: str) -> bool:
        """Delete a message that is held, queued or absent and has no owner; return whether it was."""
        query = f"DELETE FROM message WHERE account = ? AND key = ? AND {_WAITS}"  # noqa: S608 - as above
        return bool(self.transaction.execute(query, (self._account, key)).rowcount)

    def purge(self, older_than: float, after: int) -> tuple[int, int | None]:
        """Delete messages of one batch of rows that came into a final state long enough ago. Batches are small, so that
        other transactions do not wait long.

        Args:
            older_than: seconds since a message came into its state, at least; half an hour if that is more.
            after: the last row of the batch before; 0 for the first batch.

        Returns:
            How many messages were deleted, and the last row of the batch; ``None`` if it was the last batch.
        """
        query = "SELECT id FROM message WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
        found = self.transaction.execute(query, (after, _BATCH - 1)).fetchone()
        last = None if found is None else int(found[0])
        # Messages that were sent at about the time of an unknown one must stay known, so that it is not mistaken for
        # them; the same holds for a message with the same text that is still to come.
        query = (
            "DELETE FROM message WHERE id > ? AND id <= ? AND +account = ? "  # noqa: S608 - as above; by its number
            f"AND state IN ({_FINAL}) AND changed_at <= ? "
            "AND changed_at <= (SELECT coalesce(min(sent_at) - 7200, 1e12) FROM message WHERE account = ? "
            "AND state IN ('unknown', 'sending'))"
        )
        facts = (after, _LARGEST if last is None else last, self._account, self._wall - max(older_than, _KEPT))
        return self.transaction.execute(query, (*facts, self._account)).rowcount, last


def _taken_up(row: Sequence[Any], *, had_others: bool) -> TakenUp:
    number, key, recipient_id, custom_profile_id, payload, lane, not_after, tries = row
    return TakenUp(number, key, recipient_id, custom_profile_id, payload, lane, not_after, tries, had_others)


def _entry(row: Sequence[Any]) -> Entry:
    (key, state, recipient_id, custom_profile_id, priority, message_id, error, attempts, put_at, changed_at, not_after,
     number, review, reviewed_by, reviewed_at) = row  # fmt: skip
    return Entry(
        key=key,
        state=State(state),
        recipient_id=recipient_id,
        custom_profile_id=custom_profile_id,
        priority=Priority(priority),
        message_id=message_id,
        error=error,
        attempts=attempts,
        put_at=_utc(put_at),
        changed_at=_utc(changed_at),
        not_after=None if not_after is None else _utc(not_after),
        number=number,
        review=None if review is None else Review(review),
        reviewed_by=reviewed_by,
        reviewed_at=None if reviewed_at is None else _utc(reviewed_at),
    )


def _message(payload: str) -> DirectMessage:
    message: DirectMessage = converter.structure({"message_create": json.loads(payload)}, DirectMessage)
    return message if message.raw_text is None else evolve(message, raw_text=escaped(message.raw_text))


def _sought(row: Sequence[Any]) -> Sought:
    recipient_id, custom_profile_id, fingerprint, sent_at, content = row
    return Sought(recipient_id, custom_profile_id, fingerprint, _utc(sent_at), content)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
