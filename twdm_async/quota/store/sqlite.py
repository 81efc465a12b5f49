"""Ledgers in a file: they survive a restart, and all processes of one machine may share them.

Time in the file never steps back, and never runs ahead of the machine's uptime: each step adds what has passed since
the last one, by the uptime or by the wall clock, whichever says less; or by the uptime alone, if the wall clock was set
back. So setting it, forward or back, frees no slot. After a reboot only the wall clock knows how long it took.

What was taken is written before its request leaves, so it survives the death of the process. It is forced to the disk
within a second, so a power cut may take with it what was spent in the last one; what was taken for a message of an
outbox in the same file is forced there at once, together with the message's new state.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from attrs import define

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput
from twdm_async.quota.credit import Conversation
from twdm_async.quota.ledger import Usage, usage_of, window
from twdm_async.quota.store.batched import BatchedQuotaStore, refused
from twdm_async.quota.store.contract import assumed
from twdm_async.quota.store.steps import (
    Answer,
    BeginReply,
    Begun,
    EndReply,
    GiveBack,
    Hear,
    Hold,
    Look,
    Looked,
    Settle,
    Step,
    Take,
    Taken,
    Tighten,
    WithdrawReply,
)
from twdm_async.state_file import FileTrouble, StateFile, checked_path

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from twdm_async.quota.spec import Quota
    from twdm_async.quota.store.contract import Bucket, Claim, Intent, Partner

_SYNC_WITHIN: Final = 1.0  # seconds
_IF_BAD: Final = (
    "move it away, and if you do not know what was spent in the last window, "
    "begin with a store that has assume_spent set"
)


class SQLiteQuotaStore(BatchedQuotaStore, schemes=("sqlite",)):
    """Serves the processes of one machine, and survives restarts. The file is readable by its owner alone.

    It must lie on a disk of this machine: locks do not hold on network file systems.

    Args:
        path: of the file. It is made if it is not there; its folder must be. An outbox may live in it, too.
        clock: where time comes from; the machine's own if not given.
        assume_spent: what to believe of a quota that the file does not know yet; see :class:`QuotaStore`.

    Raises:
        InvalidInput: `path` is no path.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None, assume_spent: float = 0.0) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self._path = checked_path(path)
        self._file = StateFile(self._path, "what was spent", _IF_BAD)
        self._sync_timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        return f"sqlite:///{self._path}"

    @classmethod
    def _at(cls, url: str, assume_spent: float) -> Self:
        parts = urlsplit(url)
        if parts.netloc or parts.query or parts.fragment or len(parts.path) <= 1:
            raise InvalidInput(
                parameter="url", problem="must be sqlite:///relative/path or sqlite:////absolute/path and nothing else"
            )
        return cls(unquote(parts.path.removeprefix("/")), assume_spent=assume_spent)

    def shares(self, path: Path) -> bool:
        return path.resolve() == self._path.resolve()

    async def close(self) -> None:
        await super().close()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        await self._file.close()

    def _move_in(self, *, was_forked: bool, is_new: bool) -> None:
        super()._move_in(was_forked=was_forked, is_new=is_new)
        self._sync_timer = None
        if was_forked:
            self._file.leave_behind()

    async def _run(self, steps: Sequence[Step]) -> list[Answer]:
        if self._sync_timer is None:
            self._sync_timer = asyncio.get_running_loop().call_later(_SYNC_WITHIN, self._sync_soon)
        return await self._file.run(lambda: self._work(steps))

    def _sync_soon(self) -> None:
        self._sync_timer = None
        self._file.sync_soon()

    def _work(self, steps: Sequence[Step]) -> list[Answer]:
        """Carry out `steps` in one transaction. Runs in the file's own thread."""

        def work(db: sqlite3.Connection) -> list[Answer]:
            page = _Page(db, self._clock, self.assume_spent)
            answers = [page.do(step) for step in steps]
            page.write()
            return answers

        is_durable = any(isinstance(step, Take) and step.intents for step in steps)
        try:
            return self._file.transact(work, is_durable=is_durable)
        except FileTrouble as trouble:
            raise refused(self, trouble.problem) from None


@define
class _Row:
    """One bucket, as the file has it and as it will."""

    id: int
    held_until: float
    longest: float  # the longest window that was ever asked for; older outcomes are forgotten
    slots: int
    spent_by_others: dict[float, tuple[int, float]]


class _Page:
    """The file within one transaction."""

    def __init__(self, db: sqlite3.Connection, clock: Clock, assume_spent: float) -> None:
        self._db = db
        self._assume_spent = assume_spent
        self._rows: dict[str, _Row] = {}
        self._uptime = clock.uptime()
        self._now = self._advance(self._uptime, clock.wall())

    def do(self, step: Step) -> Answer:  # noqa: C901 - a case for each kind of step
        match step:
            case Take():
                return self._take(step)
            case Look():
                return self._look(step.claims)
            case Settle():
                self._settle(step)
            case GiveBack():
                for bucket in step.buckets:
                    row = self._row(bucket)
                    names = [(row.id, name) for name in step.names]
                    row.slots -= self._db.executemany("DELETE FROM slot WHERE bucket = ? AND name = ?", names).rowcount
                back = "UPDATE message SET state = 'queued', slot = NULL WHERE slot = ? AND state = 'sending'"
                self._db.executemany(back, [(name,) for name in step.names])
            case Hold():
                row = self._row(step.bucket)
                row.held_until = max(row.held_until, self._now + step.seconds)
            case Tighten():
                self._tighten(step)
            case BeginReply():
                return self._begin_reply(step)
            case EndReply():
                with self._conversation(step.partner) as conversation:
                    conversation.end(step.name, step.made)
            case WithdrawReply():
                with self._conversation(step.partner) as conversation:
                    conversation.withdraw(step.name)
            case Hear():
                (since,) = self._db.execute("SELECT at FROM noted_since").fetchone()
                if step.at >= since:  # what was sent before is not known
                    with self._conversation(step.partner) as conversation:
                        conversation.hear(step.at)
        return None

    def write(self) -> None:
        """Put down what has changed in the buckets."""
        self._db.executemany(
            "UPDATE bucket SET held_until = ?, longest = ?, slots = ? WHERE id = ?",
            [(row.held_until, row.longest, row.slots, row.id) for row in self._rows.values()],
        )

    def _begin_reply(self, step: BeginReply) -> Begun:
        with self._conversation(step.partner) as conversation:
            freedom = conversation.begin(step.name, step.now, step.credit)
        # Each that is begun removes up to two that are over, so there are never many.
        oldest = "SELECT name, content FROM conversation ORDER BY touched LIMIT 2"
        for name, content in self._db.execute(oldest).fetchall():
            if Conversation.from_json(json.loads(content)).is_over(step.now, step.credit):
                self._db.execute("DELETE FROM conversation WHERE name = ?", (name,))
        return Begun(freedom.is_free, freedom.is_open)

    @contextlib.contextmanager
    def _conversation(self, partner: Partner) -> Generator[Conversation]:
        """What is known of `partner`, to be changed."""
        name = f"{partner.app} {partner.owner} {partner.person}"
        found = self._db.execute("SELECT content FROM conversation WHERE name = ?", (name,)).fetchone()
        conversation = Conversation.from_json(json.loads(found[0])) if found else Conversation()
        yield conversation
        row = (name, max(conversation.touched, 0.0), json.dumps(conversation.as_json()))
        self._db.execute("INSERT OR REPLACE INTO conversation (name, touched, content) VALUES (?, ?, ?)", row)

    def _advance(self, uptime: float, wall: float) -> float:
        found = self._db.execute("SELECT now, uptime, wall FROM clock").fetchone()
        if found is None:
            raise sqlite3.DatabaseError("the clock is missing")
        now, last_uptime, last_wall = found
        by_uptime, by_wall = uptime - last_uptime, wall - last_wall
        if by_uptime < 0:  # the machine was started anew
            now += max(0.0, by_wall)
        elif by_wall < 0:  # the wall clock was set back
            now += by_uptime
        else:
            now += min(by_uptime, by_wall)
        self._db.execute("UPDATE clock SET now = ?, uptime = ?, wall = ?", (now, uptime, wall))
        return float(now)

    def _take(self, step: Take) -> Looked | Taken:
        rows = [self._row(claim.bucket, claim.quotas) for claim in step.claims]
        count = len(step.names)
        used: list[int] = []
        for claim, row in zip(step.claims, rows, strict=True):
            for quota in claim.quotas:
                used.append(self._used(row, quota))
                count = min(count, 0 if row.held_until > self._now else quota.limit - used[-1])
        if count <= 0:
            return self._look(step.claims)
        for row in rows:
            self._db.executemany(
                "INSERT INTO slot VALUES (?, ?, ?, 1)",
                [(row.id, name, self._now + step.lifetime) for name in step.names[:count]],
            )
            row.slots += count
        intents = [(name, step.intents[name]) for name in step.names[:count] if name in step.intents]
        written = frozenset([name for name, intent in intents if self._write_down(intent, name)])
        then = self._look(step.claims) if count < len(step.names) else None
        return Taken(count, tuple([before + count for before in used]), then, written)

    def _write_down(self, intent: Intent, slot: str) -> bool:
        """Whether it could be: whoever gave up meanwhile does not own it any more."""
        return bool(
            self._db.execute(
                "UPDATE message SET state = 'sending', slot = ?, attempts = attempts + 1, sent_at = ?, sent_uptime = ? "
                "WHERE id = ? AND owner = ?",
                (slot, intent.server_time(), self._uptime, intent.row, intent.owner),
            ).rowcount
        )

    def _look(self, claims: tuple[Claim, ...]) -> Looked:
        return Looked(
            tuple(
                self._usage(self._row(claim.bucket, claim.quotas), quota) for claim in claims for quota in claim.quotas
            )
        )

    def _settle(self, step: Settle) -> None:
        for bucket in step.buckets:
            row = self._row(bucket)
            for name in step.names:
                # It is not there if it lived longer than was thought possible.
                known = self._db.execute(
                    "UPDATE slot SET seen = ?, in_flight = 0 WHERE bucket = ? AND name = ?",
                    (self._now + step.grace, row.id, name),
                ).rowcount
                if not known:
                    self._db.execute("INSERT INTO slot VALUES (?, ?, ?, 0)", (row.id, name, self._now + step.grace))
                    row.slots += 1

    def _tighten(self, step: Tighten) -> None:
        row = self._row(step.bucket, (step.quota,))
        missing = step.quota.limit - self._used(row, step.quota) - step.remaining
        if missing > 0:
            count, until = self._spent_by_others(row, step.quota)
            self._note_others(row, step.quota, count + missing, max(until, self._now + step.seconds))

    def _row(self, bucket: Bucket, quotas: tuple[Quota, ...] = ()) -> _Row:
        name = f"{bucket.app} {bucket.name}"
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._load(name) or self._begin(name)
        for quota in quotas:
            if window(quota) > row.longest:
                row.longest = window(quota)
                if spent := assumed(quota, self._assume_spent):  # nothing is known of a window that was never kept
                    self._note_others(row, quota, spent, self._now + window(quota))
        return row

    def _load(self, name: str) -> _Row | None:
        found = self._db.execute("SELECT id, held_until, longest, slots FROM bucket WHERE name = ?", (name,)).fetchone()
        if found is None:
            return None
        number, held_until, longest, slots = found
        others = self._db.execute("SELECT per, slots, until FROM spent_by_others WHERE bucket = ?", (number,))
        row = _Row(number, held_until, longest, slots, {per: (count, until) for per, count, until in others})
        old = self._db.execute("DELETE FROM slot WHERE bucket = ? AND seen <= ?", (row.id, self._now - row.longest))
        row.slots -= old.rowcount
        return row

    def _begin(self, name: str) -> _Row:
        never = -1e12
        new = self._db.execute(
            "INSERT INTO bucket (name, held_until, longest, slots) VALUES (?, ?, 0, 0)", (name, never)
        )
        return _Row(int(new.lastrowid or 0), never, 0.0, 0, {})

    def _used(self, row: _Row, quota: Quota) -> int:
        count = row.slots
        if window(quota) < row.longest:
            query = "SELECT count(*) FROM slot WHERE bucket = ? AND seen > ?"
            (count,) = self._db.execute(query, (row.id, self._now - window(quota))).fetchone()
        return count + self._spent_by_others(row, quota)[0]

    def _usage(self, row: _Row, quota: Quota) -> Usage:
        query = "SELECT seen, in_flight FROM slot WHERE bucket = ? AND seen > ? ORDER BY seen"
        slots = self._db.execute(query, (row.id, self._now - window(quota))).fetchall()
        seen = [moment for moment, in_flight in slots if not in_flight]
        return usage_of(
            quota,
            self._now,
            seen,
            in_flight=len(slots) - len(seen),
            foreign=self._spent_by_others(row, quota),
            held_until=row.held_until,
        )

    def _spent_by_others(self, row: _Row, quota: Quota) -> tuple[int, float]:
        count, until = row.spent_by_others.get(quota.per, (0, self._now))
        return (count, until) if until > self._now else (0, self._now)

    def _note_others(self, row: _Row, quota: Quota, count: int, until: float) -> None:
        row.spent_by_others[quota.per] = (count, until)
        self._db.execute(
            "INSERT OR REPLACE INTO spent_by_others VALUES (?, ?, ?, ?)", (row.id, quota.per, count, until)
        )
