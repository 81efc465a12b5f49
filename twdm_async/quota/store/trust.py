"""Whether a server that may lose data can be trusted, and what time the book has. Pure functions.

What a server forgets cannot be restored. That it has forgotten something shows in what each client remembers of the
book (its epoch, its number, the client's own last batch), and in what the book remembers of the server: a server that
was restarted, or took over from another, has a different identity, and may have lost the last writes. A client that
detects a loss begins a new epoch, which is marked as lost. From then on no client sends, until what may be forgotten
no longer counts, or until a new client that was given `assume_spent` begins a new book.
"""

from __future__ import annotations

import math
import secrets
from typing import Final

from attrs import Factory, define, evolve, frozen

_DAY: Final = 86_400.0
_MOST_CLIENTS: Final = 64  # whose last batches the book remembers


@frozen
class Meta:
    """The facts that a book holds about itself.

    Args:
        epoch: a name for this book, drawn when it was begun.
        number: the number of its latest batch.
        now: the book's time at that batch, in seconds.
        time: the server's time at that batch, in seconds since 1970.
        since: when the book was begun, in seconds since 1970 by the server's clock.
        begun: when the book was begun, by the book's time.
        longest: seconds for which anything in it may count.
        identity: the server's identity.
        before: the epochs of earlier books that were lost or replaced.
        lost_until: when, by the book's time, nothing that was forgotten counts any more; 0 if nothing was.
        batches: for each client, the number of its last batch, and when that was, by the book's time.
    """

    epoch: str
    number: int
    now: float
    time: float
    since: float
    begun: float
    longest: float
    identity: str
    before: tuple[str, ...] = ()
    lost_until: float = 0.0
    batches: dict[str, tuple[int, float]] = Factory(dict[str, tuple[int, float]])

    def of(self, client: str) -> int | None:
        """Return the number of the client's last batch; ``None`` if the book does not know the client."""
        return self.batches[client][0] if client in self.batches else None

    def with_batch(self, client: str, number: int) -> Meta:
        """Return a copy that has this batch of the client, and without clients that have been silent for long."""
        recent = [(name, one) for name, one in self.batches.items() if name != client and one[1] > self.now - _DAY]
        return evolve(self, batches={**dict(recent[-_MOST_CLIENTS:]), client: (number, self.now)})


@define(eq=False)
class State:
    """The state of a book, as it was read.

    Args:
        text: the book's `meta`, as it is stored; empty if there is no book.
        meta: the parsed `meta`; ``None`` if there is no book.
        time: the server's time, in seconds since 1970.
        identity: the server's identity; empty if the server does not tell it.
        has_earlier: whether there is no book, but a book of an earlier version of this library.
        sent_at: when the request to read it was sent, by this machine's uptime.
        pages: those of the requested pages that exist.
    """

    text: str
    meta: Meta | None
    time: float
    identity: str
    has_earlier: bool
    sent_at: float
    pages: dict[str, str]


@define(eq=False)
class Memory:
    """What this client remembers of the book of one app.

    Args:
        meta: the book's `meta` after this client's last batch.
        batch: the number of that batch.
        seen_at: when the book was read for that batch, by this machine's uptime.
        ahead: seconds by which the book's time is ahead of this machine's uptime: the least of all estimates.
        tries: how many times in a row others committed first.
    """

    meta: Meta | None = None
    batch: int = 0
    seen_at: float = 0.0
    ahead: float = math.inf
    tries: int = 0

    def remember(self, meta: Meta, number: int, sent_at: float) -> None:
        """Take in that this client's batch `number` was committed with `meta`; its state was read at `sent_at`."""
        if self.meta is None or self.meta.epoch != meta.epoch:
            self.ahead = math.inf
        self.ahead = min(self.ahead, meta.now - sent_at)
        self.meta, self.batch, self.seen_at, self.tries = meta, number, sent_at, 0

    def time_of(self, state: State) -> float:
        """Return the book's time at the moment in which `state` was read."""
        meta = state.meta
        if meta is None:
            return state.time
        if self.meta is None or self.meta.epoch != meta.epoch:
            return meta.now + max(0.0, state.time - meta.time)
        return max(meta.now, self.ahead + state.sent_at)

    def judge(self, state: State, client: str, *, assumes: bool, longest: float) -> Meta | None:
        """Return the `meta` that the book is to have after this batch. If the book was lost, its `lost_until` says so.

        Args:
            state: the state that was read.
            client: the name of this client.
            assumes: whether this client was given `assume_spent`, for a book that is begun anew.
            longest: seconds for which what was forgotten may count.

        Returns:
            ``None`` if this client may not send, because what was forgotten may still count.
        """
        now, meta, mine = self.time_of(state), state.meta, self.meta
        longest = max(longest, *(one.longest for one in (meta, mine) if one is not None), 0.0)
        if meta is None and (mine is None or state.sent_at > self.seen_at + longest):
            return _begun(state, now, longest)
        if meta is not None and meta.lost_until > now:
            is_news = mine is None and assumes
            return _begun(state, now, longest, before=(*meta.before, meta.epoch)) if is_news else None
        is_given_up = meta is not None and mine is not None and mine.epoch in meta.before
        if meta is not None and is_given_up and not meta.lost_until and now < meta.begun + longest:
            return None  # another client, which was given assume_spent, has begun a new book; this one was not
        if meta is None or self.is_older(state, client):
            before = (*((*meta.before, meta.epoch) if meta else ()), *((mine.epoch,) if mine else ()))
            return _begun(state, now, longest, before=tuple(dict.fromkeys(before)), lost_until=now + longest)
        identity = state.identity or meta.identity
        return evolve(meta, number=meta.number + 1, now=now, time=state.time, identity=identity, longest=longest)

    def is_older(self, state: State, client: str) -> bool:
        """Tell whether `state` may lack something that this client or the book itself knows of."""
        meta, mine = state.meta, self.meta
        if meta is None or (meta.identity and state.identity and meta.identity != state.identity):
            return True
        if mine is None:
            return False
        if mine.epoch != meta.epoch:
            return mine.epoch not in meta.before
        own = meta.of(client)
        return meta.number < mine.number or (own is not None and own < self.batch)


def _begun(state: State, now: float, longest: float, *, before: tuple[str, ...] = (), lost_until: float = 0.0) -> Meta:
    epoch, since = secrets.token_hex(8), float(math.floor(state.time))
    return Meta(epoch, 1, now, state.time, since, now, longest, state.identity, before, lost_until)
