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
from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field, frozen

from twdm_async.quota.book import Book

if TYPE_CHECKING:
    from twdm_async.quota.store.transactional import Batch


_MOST_PAGES: Final = 1000  # that stay loaded


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
        values: what was asked for; empty if the book has not changed.
        drawn: names of some pages, drawn at random.
    """

    text: str
    meta: Meta | None
    time: float
    identity: str
    has_earlier: bool
    sent_at: float
    values: dict[str, str | None]
    drawn: list[str]


@define(eq=False)
class Memory:
    """What this client remembers of the book of one app.

    Args:
        text: the `meta` of its last batch, as it is kept.
        meta: the same.
        batch: the number of that batch.
        seen_at: by this machine's uptime, when it was committed.
        ahead: of this machine's uptime, the book's time is; the shortest answer told best.
        tries: how often others were quicker to commit, in a row.
        book: the pages that are loaded.
        drawn: names of some pages, drawn at random.
    """

    text: str = ""
    meta: Meta | None = None
    batch: int = 0
    seen_at: float = 0.0
    ahead: float = math.inf
    tries: int = 0
    book: Book | None = None
    drawn: list[str] = field(factory=list[str])

    def has_loaded(self, batch: Batch) -> bool:
        """Tell whether all that `batch` needs is loaded."""
        book = self.book
        return book is not None and len(book.loaded) <= _MOST_PAGES and book.loaded.issuperset(batch.pages)

    def remember(self, text: str, meta: Meta, number: int, state: State) -> None:
        """Take in that a batch was committed as `number`, upon `state`."""
        if self.meta is None or self.meta.epoch != meta.epoch:
            self.ahead = math.inf
        self.ahead = min(self.ahead, meta.now - state.sent_at)
        self.text, self.meta, self.batch, self.drawn, self.seen_at = text, meta, number, state.drawn, state.sent_at

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
            client: the name of this client's field.
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
        meta, mine, own = state.meta, self.meta, batch_number(state.values.get(client))
        if meta is None or (meta.identity and state.identity and meta.identity != state.identity):
            return True
        if mine is None:
            return False
        if mine.epoch != meta.epoch:
            return mine.epoch not in meta.before
        return meta.number < mine.number or (own is not None and own < self.batch)


def _begun(state: State, now: float, longest: float, *, before: tuple[str, ...] = (), lost_until: float = 0.0) -> Meta:
    epoch, since = secrets.token_hex(8), float(math.floor(state.time))
    return Meta(epoch, 1, now, state.time, since, now, longest, state.identity, before, lost_until)


def batch_number(marker: str | None) -> int | None:
    """Return the number of a client's last batch."""
    return int(marker.split()[0]) if marker else None
