"""What became of the unknown messages of an outbox, settled for all its processes by one of them at a time."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from twdm_async import errors
from twdm_async.outbox.entry import State
from twdm_async.outbox.owners import Lock
from twdm_async.outbox.storage import Storage, woken
from twdm_async.resources.reconcile import Listed, cannot_tell, claim

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from twdm_async._clock import Clock
    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.outbox.rows import Rows, UnknownMessage
    from twdm_async.resources.direct_messages import DirectMessages

_log = logging.getLogger("twdm_async")

_LOOK_EVERY: Final = 1.0  # seconds, at whether some are ready to be settled
_LONGEST_PAUSE: Final = 60.0  # seconds between two lists, since few may be asked for


class Settling:
    """Settles unknown messages, `settle_after` seconds after they were given up.

    Args:
        storage: where they are.
        direct_messages: has the API's list of messages.
        clock: where time comes from.
        settle_after: seconds until a message that is not in the list is believed not to have arrived.
    """

    def __init__(self, storage: Storage, direct_messages: DirectMessages, clock: Clock, settle_after: float) -> None:
        self._storage = storage
        self._direct_messages = direct_messages
        self._reconciler = direct_messages.reconciler
        self._clock = clock
        self._settle_after = settle_after
        self._turn = Lock(storage.path.with_name(f"{storage.path.name}.settling.lock"))
        self.undecided: set[int] = set()
        """Rows of which the list cannot tell what became of them. They are left as they are."""

    async def run(self, stop: asyncio.Event) -> None:
        """Settle, until `stop`."""
        self.undecided.clear()
        try:
            while not stop.is_set():
                news = self._storage.news
                unknown = await self._storage.do(lambda rows: rows.unknown(), only_reads=True)
                unknown = [one for one in unknown if one.id not in self.undecided]
                wait = min(map(self._settles_in, unknown), default=math.inf)
                if wait <= 0 and self._turn.take():
                    await self._settle(unknown)
                else:
                    await woken(news, min(max(wait, 0.01), _LOOK_EVERY))
        finally:
            self._turn.release(remove=False)

    def _settles_in(self, one: UnknownMessage) -> float:
        return self._settle_after - one.age(self._clock.wall(), self._clock.uptime())

    async def _settle(self, unknown: Sequence[UnknownMessage]) -> None:
        ready = {one.id for one in unknown if self._settles_in(one) <= 0}
        pause = min(_LONGEST_PAUSE, self._settle_after)
        try:
            events = await self._direct_messages.candidates([one.sought for one in unknown])
        except (errors.ConnectFailed, errors.ServerError, errors.MalformedResponse, errors.RateLimited) as error:
            if not error.safe_to_retry:
                raise
            _log.warning("outbox: the list of messages could not be had: %s", error)
            await self._clock.sleep(max(1.0, pause))
            return
        except errors.QuotaWaitTooLong as error:
            await self._clock.sleep(error.wait)
            return
        settled = await self._storage.do(lambda rows: self._match(rows, events, ready), is_durable=True)
        for row, message in settled.items():
            if message is None:
                self.undecided.add(row)
                _log.warning("outbox: the list of messages cannot tell what became of message %d", row)
        self._storage.tell()
        if any(one.id not in settled for one in unknown):
            await self._clock.sleep(pause)

    def _match(self, rows: Rows, events: Sequence[Listed], ready: set[int]) -> dict[int, DirectMessage | State | None]:
        """Settle what can be settled, and tell how; with ``None`` what cannot be decided."""
        unknown = rows.unknown()
        sent, timeout, now = self._reconciler.sent, self._reconciler.timeout, self._clock.utc()
        ids = [event.message.id for event in events]
        taken = {one for one in ids if one is not None and (one in sent.ids or rows.is_known(one))}
        nameless = list({**dict.fromkeys(rows.nameless()), **sent.nameless})
        found = claim([*nameless, *(one.sought for one in unknown)], events, taken, timeout)[len(nameless) :]
        settled: dict[int, DirectMessage | State | None] = {}
        for one, message in zip(unknown, found, strict=True):
            if rows.is_being_sent(one.sought):
                continue  # what was found could be that one's
            if message is not None and message.id is not None:
                rows.end(one.id, State.SENT, message_id=message.id)
                sent.note(message.id)
                settled[one.id] = message
            elif one.id in ready and cannot_tell(one.sought, events, taken, timeout, now):
                settled[one.id] = None
            elif one.id in ready:
                rows.end(one.id, State.ABSENT, error="it did not arrive")
                settled[one.id] = State.ABSENT
        return settled
