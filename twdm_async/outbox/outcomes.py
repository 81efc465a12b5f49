"""Waiting for the outcomes of messages: one task looks for all that wait, so that thousands can."""

from __future__ import annotations

import asyncio
import contextlib
import math
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Final

from twdm_async.errors import InvalidInput, TwdmError
from twdm_async.outbox.messages import Messages, woken
from twdm_async.outbox.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.outbox.entry import Entry

_CHECK_EVERY: Final = 4  # looks
_CHECKED: Final = 100  # messages, of which it is then checked that nobody has withdrawn them


class Outcomes:
    """The tasks that wait for outcomes.

    Args:
        messages: the outbox's messages.
        look_every: seconds between two looks at what other processes do.
    """

    def __init__(self, messages: Messages, look_every: float) -> None:
        self._messages = messages
        self._look_every = look_every
        self._waiting: dict[str, set[asyncio.Future[Entry]]] = {}
        self._after: float = math.inf  # the number of the last outcome that was seen
        self._looking: asyncio.Task[None] | None = None

    async def of(self, key: str) -> Entry:
        """Wait until the message with this key is in a final state, and return its entry.

        Raises:
            InvalidInput: there is no message with this key.
            OutboxFailed: the file or database cannot be read.
        """
        told: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(told)  # before the entry is read, so that no outcome is missed
        try:
            entry, last = await self._messages.do(lambda rows: (rows.get(key), rows.last_number()), only_reads=True)
            if entry is None:
                raise _missing()
            if entry.state.is_final:
                return entry
            self._after = min(self._after, last)
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look(), name="twdm_async outcomes")
            return await told
        finally:
            if not told.cancel() and not told.cancelled():
                told.exception()  # whoever is cancelled at the moment of an error does not need it
            self._waiting[key].discard(told)
            if not self._waiting[key]:
                del self._waiting[key]

    async def close(self) -> None:
        """End the looking. What still waits fails, since the outbox is closed."""
        if self._looking is not None:
            await asyncio.wait([self._looking])

    async def _look(self) -> None:
        try:
            for look in count():
                if not self._waiting:
                    break
                news, after = self._messages.news, int(self._after)
                entries = await self._messages.do(partial(Rows.outcomes, after=after), only_reads=True)
                if entries and self._after == after:  # else somebody waits for an earlier one
                    self._after = entries[-1].number
                for entry in entries:
                    if entry.state.is_final:
                        self._tell(entry.key, entry)
                if look % _CHECK_EVERY == 0:
                    await self._check()
                if not entries:
                    await woken(news, self._look_every)
        except TwdmError as error:
            for key in self._waiting:
                self._tell(key, error)
        finally:
            self._after = math.inf

    async def _check(self) -> None:
        """Let fail what waits for messages that are gone."""
        keys = list(islice(self._waiting, _CHECKED))
        if not keys:
            return

        def missing(rows: Rows) -> Sequence[str]:
            return sorted(set(keys) - rows.existing(keys))

        for key in await self._messages.do(missing, only_reads=True):
            self._tell(key, _missing())
        for key in keys:  # others are checked the next time
            if key in self._waiting:
                self._waiting[key] = self._waiting.pop(key)

    def _tell(self, key: str, outcome: Entry | TwdmError) -> None:
        for told in self._waiting.get(key, ()):
            with contextlib.suppress(asyncio.InvalidStateError):
                told.set_exception(outcome) if isinstance(outcome, TwdmError) else told.set_result(outcome)


def _missing() -> InvalidInput:
    return InvalidInput(parameter="key", problem="there is no message of this key")
