"""Whether a server that may forget can be believed, and what time it is there. Pure.

What a server forgets cannot be known again. That it has forgotten is found out by what each client remembers of the
book (its epoch, its number, the client's own last batch), and by what the book remembers of the server: one that was
restarted, or took over from another, has another identity, and may have lost what was written last. Whoever finds it
out begins an epoch that says so. From then on nobody sends, until what may be forgotten does not count any more, or
until a client begins anew that is told what to believe.
"""

from __future__ import annotations

import math
import secrets
from typing import Final

from attrs import Factory, define, evolve, frozen

_DAY: Final = 86_400.0
_MOST_CLIENTS: Final = 64  # whose last batches are known


@frozen
class Meta:
    """What a book says of itself.

    Args:
        epoch: when it was begun, by a name of its own.
        number: of its latest batch.
        now: the book's time then, in seconds.
        time: the server's, in seconds since 1970.
        since: when the book was begun, likewise.
        begun: the same by the book's time.
        longest: seconds for which anything in it may count.
        identity: of the server.
        before: epochs that ended since their book was lost.
        lost_until: by the book's time, when nothing counts any more that was forgotten.
        batches: by client, the number of its last batch, and when that was, by the book's time.
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
        """Return the number of the client's last batch."""
        return self.batches[client][0] if client in self.batches else None

    def with_batch(self, client: str, number: int) -> Meta:
        """Note that batch of the client. Clients of which nothing was heard for long are forgotten."""
        recent = [(name, one) for name, one in self.batches.items() if name != client and one[1] > self.now - _DAY]
        return evolve(self, batches={**dict(recent[-_MOST_CLIENTS:]), client: (number, self.now)})


@define(eq=False)
class State:
    """What was read.

    Args:
        text: the book's `meta`, as it is kept.
        meta: the same, if there is a book.
        time: the server's, in seconds since 1970.
        identity: of the server; empty if it does not tell.
        has_earlier: whether there is no book, but one of an earlier version of this library.
        sent_at: by this machine's uptime, when it was asked.
        pages: that were asked for and are there.
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
        meta: what the book said of itself after this client's last batch.
        batch: the number of that batch.
        seen_at: by this machine's uptime, when it was committed.
        ahead: of this machine's uptime, the book's time is; the shortest answer told best.
        tries: how often others were quicker to commit, in a row.
    """

    meta: Meta | None = None
    batch: int = 0
    seen_at: float = 0.0
    ahead: float = math.inf
    tries: int = 0

    def remember(self, meta: Meta, number: int, sent_at: float) -> None:
        """Take in that a batch was committed as `number`, which was asked for at that moment."""
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
        """Return what the book is to say after this batch. If it is found to be lost, it says so from then on.

        Args:
            state: what was read.
            client: the name of this client.
            assumes: whether this client knows what to believe of a book that is begun anew.
            longest: seconds for which what was forgotten may count.

        Returns:
            ``None`` if nothing may be counted, and the book says why.
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
            return None  # another client has begun anew, and was told what to believe; this one was not
        if meta is None or self.is_older(state, client):
            before = (*((*meta.before, meta.epoch) if meta else ()), *((mine.epoch,) if mine else ()))
            return _begun(state, now, longest, before=tuple(dict.fromkeys(before)), lost_until=now + longest)
        identity = state.identity or meta.identity
        return evolve(meta, number=meta.number + 1, now=now, time=state.time, identity=identity, longest=longest)

    def is_older(self, state: State, client: str) -> bool:
        """Tell whether `state` may have less than what this client, or the book itself, knows of."""
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
