"""Settling the unknown messages of an outbox: one process at a time finds out, for all, what became of them."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import frozen

from twdm_async import errors
from twdm_async._log import quiet_logger
from twdm_async.outbox.entry import State
from twdm_async.outbox.messages import Messages, woken
from twdm_async.resources.evidence import Search, patience, pause
from twdm_async.resources.reconcile import Listed, relevant, settle
from twdm_async.transport.sent import Sought

if TYPE_CHECKING:
    from twdm_async._clock import Clock
    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.outbox.rows import Rows, UnknownMessage
    from twdm_async.resources.evidence import Reading
    from twdm_async.resources.reconcile import Reconciler

_log = quiet_logger(__name__)

_LOOK_EVERY: Final = 1.0  # seconds between two looks at whether messages are ready to be settled
_SHORTEST_REST: Final = 0.05  # seconds between two looks


_Attempt = tuple[int, datetime]  # a row, and when its attempt was made


def _is_final(error: errors.TwdmError) -> bool:
    """Return whether `error` means that the list cannot be read later, either."""
    if isinstance(error, errors.ResponseError):
        return error.subject == "account" and not isinstance(error, errors.RateLimited)
    return not error.safe_to_retry or isinstance(error, errors.QuotaStoreFailed)


@frozen
class _Known:
    """What was known after the list was read.

    Args:
        events: the messages in the list.
        ready: the attempts that are absent if the list does not show them.
        taken: ids in the list that this client knows to be those of other messages.
        nameless: other messages that this client sent, and whose replies told no id.
        doubtful: other messages that this client sent, and that may have arrived.
    """

    events: Sequence[Listed]
    ready: set[_Attempt]
    taken: set[str | None]
    nameless: Sequence[Sought]
    doubtful: Sequence[Sought]


class Settling:
    """Settles unknown messages: those that arrived, as soon as the list shows them; the others, when the list can be
    believed.

    Args:
        messages: the outbox's messages.
        reconciler: looks for messages in the API's list.
        clock: the source of time.
        settle_after: seconds until a message that is not in the list is believed not to have arrived.
    """

    def __init__(self, messages: Messages, reconciler: Reconciler, clock: Clock, settle_after: float) -> None:
        self._messages = messages
        self._turn = f"settling-{reconciler.credentials.account}"  # one process at a time settles, for each account
        self._may_have_turn = False
        self._reconciler = reconciler
        self._clock = clock
        self._settle_after = settle_after
        self._here = asyncio.Lock()  # one run at a time settles in this process
        self._runs = 0
        self._tried: tuple[int, frozenset[int]] = (0, frozenset())  # echoes heard, and rows they were compared with
        self._searches: defaultdict[_Attempt, Search] = defaultdict(partial(Search, settle_after))
        self._read_at = -math.inf  # by the monotonic clock: when the list was last asked for
        self._unreadable_since = math.inf  # likewise: since when it could not be read
        self.undecided: set[int] = set()
        """Rows for which the list cannot tell what became of them. They are still looked for now and then, but nobody
        waits for them.
        """

    def begin(self) -> None:
        """Start to look for all unknown messages anew, unless a run is going on already."""
        if not self._runs:
            self.undecided.clear()
            for search in self._searches.values():
                search.is_renewed = True

    async def run(self, stop: asyncio.Event) -> None:
        """Settle messages until `stop` is set."""
        self._runs += 1
        try:
            while not stop.is_set():
                news = self._messages.news
                async with self._here:
                    wait = await self._settle_if_ready()
                if wait > 0:
                    await woken(news, min(wait, _LOOK_EVERY))
                    await self._clock.sleep(_SHORTEST_REST)  # most news is of sent messages
        finally:
            self._runs -= 1
            if not self._runs:
                self._end_turn()

    def _end_turn(self) -> None:
        """Let another process settle. This one has nothing to settle, or cannot read the list."""
        if self._may_have_turn:
            self._may_have_turn = False
            self._messages.storage.end_turn(self._turn)

    async def _settle_if_ready(self) -> float:
        """Settle what can be settled now. Return the seconds until it is worth looking again."""
        unknown: list[UnknownMessage] = []
        for one in await self._messages.do(lambda rows: rows.unknown(), only_reads=True):
            if self._reconciler.credentials.made(one.sought.fingerprint):
                unknown.append(one)
            else:
                self._give_up(one.id, "it was sent with other keys, and cannot be compared")
        tried = (self._reconciler.echo_count, frozenset(one.id for one in unknown))
        if unknown and tried != self._tried:
            self._tried = tried
            if events := await self._reconciler.echoes([one.sought for one in unknown]):
                await self._apply(_Known(events, set(), *self._known_here(events, unknown)))
                return 0.0
        if not unknown:
            self._end_turn()
        wait = self._due_in(unknown)
        if wait > 0:
            return max(wait, 0.01)
        self._may_have_turn = True  # whatever becomes of the next line
        self._may_have_turn = await self._messages.take_turn(self._turn)
        return await self._settle(unknown) if self._may_have_turn else _LOOK_EVERY

    def _due_in(self, unknown: Sequence[UnknownMessage]) -> float:
        """Return the seconds until the list should be read for one of `unknown`."""
        due_in = min((self._search(one).due - one.age for one in unknown), default=math.inf)
        return max(due_in, self._read_at + pause(self._settle_after) - self._clock.monotonic())

    def _search(self, one: UnknownMessage) -> Search:
        return self._searches[one.id, one.sought.sent_at]

    async def _settle(self, unknown: Sequence[UnknownMessage]) -> float:
        sought = [one.sought for one in unknown]
        ages = {one.id: one.age for one in unknown}
        asked_at = self._clock.monotonic()
        try:
            reading = await self._read(sought)
        except errors.TwdmError as error:
            if _is_final(error):
                raise
            _log.warning("outbox: the list of messages could not be read: %s", error)
            self._note_unreadable(unknown, asked_at)
            self._end_turn()
            await self._clock.sleep(max(1.0, pause(self._settle_after)))
            return 0.0
        self._read_at, self._unreadable_since = asked_at, math.inf
        now = datetime.fromtimestamp(self._reconciler.server_time(), UTC)
        believed = {
            one.id for one in unknown if reading.speaks_for(one.sought.sent_at, ages[one.id], self._settle_after, now)
        }
        ready = {
            (one.id, one.sought.sent_at)
            for one in unknown
            if self._search(one).look(ages[one.id], is_believed=one.id in believed)
        }
        events = await self._reconciler.candidates(reading, sought)
        try:
            settled = await self._apply(_Known(events, ready, *self._known_here(events, unknown)))
        except errors.TwdmError:
            self._searches.clear()  # nothing was written down, so this reading must not count
            self._read_at = -math.inf
            raise
        left = [one for one in unknown if one.id not in settled]
        if doubtful := [one for one in left if one.id not in believed]:
            _log.info("outbox: the list of messages lags behind %d messages that are unknown", len(doubtful))
        for one in left:
            if self._search(one).is_hopeless:
                self._give_up(one.id, "the list of messages has lagged for so long that it cannot be believed")
        still = {(one.id, one.sought.sent_at) for one in left}
        for attempt in [attempt for attempt in self._searches if attempt not in still]:
            del self._searches[attempt]
        return 0.0

    async def _read(self, sought: Sequence[Sought]) -> Reading:
        oldest = min(one.sent_at for one in sought)
        nameless, known = await self._messages.do(
            lambda rows: (rows.nameless(), rows.listable(oldest)), only_reads=True
        )
        nameless = relevant([*nameless, *self._reconciler.sent.nameless], sought)
        return await self._reconciler.read(sought, nameless, known, max_wait=math.inf)  # it is in nobody's way

    def _note_unreadable(self, unknown: Sequence[UnknownMessage], asked_at: float) -> None:
        self._unreadable_since = min(self._unreadable_since, asked_at)
        if asked_at - self._unreadable_since >= patience(self._settle_after):
            for one in unknown:
                self._give_up(one.id, "the list of messages could not be read for too long")

    def _give_up(self, row: int, problem: str) -> None:
        if row not in self.undecided:
            self.undecided.add(row)
            _log.warning("outbox: what became of message %d is not known: %s", row, problem)
            self._messages.tell()

    def _known_here(
        self, events: Sequence[Listed], unknown: Sequence[UnknownMessage]
    ) -> tuple[set[str | None], Sequence[Sought], Sequence[Sought]]:
        """Return what this client knows besides the outbox: the ids in `events` that are those of other messages, the
        messages that it sent and whose replies told no id, and other messages that are unknown.
        """
        sent = self._reconciler.sent
        sought = [one.sought for one in unknown]
        taken = {event.message.id for event in events if event.message.id in sent}
        return taken, relevant(sent.nameless, sought), relevant(sent.unknown, sought)

    async def _apply(self, known: _Known) -> dict[int, DirectMessage | State | None]:
        """Write down what can be settled, and return it as :meth:`_match` does."""
        sent = self._reconciler.sent
        settled = await self._messages.do(lambda rows: self._match(rows, known), is_durable=True)
        for row, message in settled.items():
            if message is None:
                self._give_up(
                    row, "the list of messages holds one that may be this one or another, or does not go back so far"
                )
            elif not isinstance(message, State) and message.id is not None:
                sent.note(message.id)
        self._messages.tell()
        return settled

    def _match(self, rows: Rows, known: _Known) -> dict[int, DirectMessage | State | None]:
        """Settle what can be settled. Return, by row, the message that was found, or the new state of an absent one, or
        ``None`` if the list cannot tell.
        """
        # A message that is being sent may be the one that is found, so unknown ones with the same text must wait.
        unknown = [one for one in rows.unknown() if not rows.is_being_sent(one.sought)]
        sought = [one.sought for one in unknown]
        taken = {*known.taken, *(one.message.id for one in known.events if rows.is_known(one.message.id))}
        settlement = settle(
            sought,
            {place for place, one in enumerate(unknown) if (one.id, one.sought.sent_at) in known.ready},
            known.events,
            taken=taken,
            nameless=[*relevant(rows.nameless(), sought), *known.nameless],
            timeout=self._reconciler.timeout,
            now=self._clock.utc(),
            doubtful=known.doubtful,
        )
        settled: dict[int, DirectMessage | State | None] = dict.fromkeys(unknown[place].id for place in settlement.open)
        for place, message in settlement.found.items():
            rows.end(unknown[place].id, State.SENT, message_id=message.id)
            settled[unknown[place].id] = message
        for place in settlement.absent:
            settled[unknown[place].id] = rows.end_absent(unknown[place].id, self._settle_after)
        return settled
