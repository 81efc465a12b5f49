"""Receiving without webhooks: the list of messages, read again and again (page *GET direct_messages/events/list*).

The list may be read 15 times in 15 minutes, and shows the newest first. Each round reads it back to a quarter of an
hour before the last one's newest message, since messages appear in it minutes late, and not in order; what was handed
out before is known by its id.

A message is known when the next one is asked for. So who stops in the middle of one, by an exception, a ``break`` or a
``kill``, gets that one again, and no other; who has handled it before stopping says so to the inbox:
:meth:`Inbox.handled <twdm_async.Inbox.handled>`.

A webhook and a poll on one inbox miss nothing: what one of them has in its hands, the other leaves alone, and what the
webhook was not told of, the poll finds. If the webhook is told of nothing for minutes although people write, the poll
says so in the log, since X drops webhooks without a word.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from twdm_async._numbers import checked_number
from twdm_async.errors import InboxFailed, InvalidInput, RateLimited, TwdmError
from twdm_async.resources.evidence import read_back
from twdm_async.resources.inbox import Inbox, Received

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from twdm_async._clock import Clock
    from twdm_async.models.direct_messages import DirectMessage, DirectMessagePage

_LATE: Final = timedelta(minutes=15)
_SHORTEST: Final = 1.0  # seconds between two rounds
_TOLD_WITHIN: Final = 360.0  # seconds in which a webhook was told of a message, if it is told at all

_log = logging.getLogger(__name__)


class Poll:
    """One reader of an account's list.

    Args:
        account: its user id.
        inbox: what is known.
        pages: begins to read the list.
        note: is told of every message that was not known, whoever sent it.
        server_time: tells the server's time in seconds since 1970.
        clock: where time comes from.
    """

    def __init__(
        self,
        account: str,
        inbox: Inbox,
        pages: Callable[[], AsyncGenerator[DirectMessagePage]],
        note: Callable[[DirectMessage], None],
        server_time: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._account = account
        self._inbox = inbox
        self._pages = pages
        self._note = note
        self._server_time = server_time
        self._clock = clock
        self._untold: datetime | None = None  # when the first message was written since a webhook told of any
        self._is_said = False
        self._echoes: set[str] = set()  # which the account itself sent, of the last round; they are not handed out

    async def messages(self, every: float, since: datetime | None, *, sent: bool) -> AsyncGenerator[DirectMessage]:
        """Hand out messages as they come, the oldest first.

        Args:
            every: seconds between two rounds.
            since: where to begin if nothing was read before; now, if not given.
            sent: whether those are handed out, too, that the account itself sent.
        """
        await self._inbox.release(self._account)
        self._inbox.polls[self._account] = self
        try:
            async with contextlib.aclosing(self._messages(every, since, sent=sent)) as messages:
                async for message in messages:
                    yield message
        finally:
            if self._inbox.polls.get(self._account) is self:  # else another one has begun, and released this one's
                with contextlib.suppress(InboxFailed):
                    await self._inbox.release(self._account)

    async def _messages(self, every: float, since: datetime | None, *, sent: bool) -> AsyncGenerator[DirectMessage]:
        polled = await self._inbox.polled(self._account)
        if polled is None:
            # The API tells milliseconds.
            floor = int((self._server_time() if since is None else since.timestamp()) * 1000) / 1000
            until = floor
        else:
            until, floor = min(polled[0], self._server_time()), polled[1]
        while True:
            began = self._clock.monotonic()
            found = await self._round(until, floor, sent=sent)
            if found is not None:
                new, newest = found
                by_id = {message.id: message for message in new}
                for received in await self._inbox.keep(list(map(self._received, new))):
                    yield by_id[received.id]
                    await self._inbox.done(received)
                until = min(max(until, newest), self._server_time())  # a date may be wrong
                await self._inbox.set_polled(self._account, until, floor)
            await self._clock.sleep(max(_SHORTEST, every - (self._clock.monotonic() - began)))

    async def _round(self, until: float, floor: float, *, sent: bool) -> tuple[list[DirectMessage], float] | None:
        """Return what is new since `until` and not older than `floor`, the oldest first; and when the newest was made.
        ``None`` if the list cannot be had now.
        """
        since = datetime.fromtimestamp(until, UTC) - _LATE
        try:
            reading = await read_back(self._pages(), since)
        except TwdmError as error:
            if not error.safe_to_retry and not isinstance(error, RateLimited):
                raise
            _log.warning("the list of messages could not be had, and is asked for again: %s", error)
            return None
        earliest = max(since.timestamp(), floor)
        found = {
            message.id: message
            for message in reading.messages
            if message.id is not None and not (message.created_at and message.created_at.timestamp() < earliest)
        }
        known = await self._inbox.known(self._account, found) | self._echoes
        new = [message for message_id, message in found.items() if message_id not in known]
        new.sort(key=lambda message: (message.created_at or since, message.id or ""))
        for message in new:
            self._note(message)
        await self._compare(new)
        times = [message.created_at.timestamp() for message in found.values() if message.created_at is not None]
        if not sent:  # they are for a webhook, if that wants them
            self._echoes = {one.id for one in found.values() if one.sender_id == self._account and one.id is not None}
            new = [message for message in new if message.sender_id != self._account]
        # What was not read to its end is read again.
        return new, max(times, default=until) if reading.is_whole else until

    async def _compare(self, new: Sequence[DirectMessage]) -> None:
        """Say, once, that a webhook on the same inbox is told of nothing although people write."""
        written = [one.created_at for one in new if one.sender_id != self._account and one.created_at is not None]
        self._untold = min(filter(None, [self._untold, *written]), default=None)
        if self._untold is None:
            return
        told = (await self._inbox.heard()).get("delivery")
        if told is None or told > self._untold:
            self._untold, self._is_said = None, False
        elif not self._is_said and self._server_time() - self._untold.timestamp() > _TOLD_WITHIN:
            self._is_said = True
            _log.warning(
                "people write, and no webhook tells of it since %s; X may have dropped it: register it anew",
                f"{told:%Y-%m-%d %H:%M} UTC",
            )

    def _received(self, message: DirectMessage) -> Received:
        return Received(self._account, message.id or "")


def checked_times(every: float, since: datetime | None) -> None:
    """Raise if a poll cannot be made with these.

    Raises:
        InvalidInput: `every` is no time that 15 reads in 15 minutes allow, or `since` is not aware.
    """
    checked_number(every, "every", _SHORTEST, 86_400, "number of seconds")
    if since is not None and (not isinstance(since, datetime) or since.tzinfo is None):
        raise InvalidInput(parameter="since", problem="must be an aware datetime, such as datetime.now(UTC)")
