"""Receiving without webhooks: the list of messages, read again and again (page *GET direct_messages/events/list*).

The list may be read 15 times in 15 minutes, and shows the newest first. Each round reads it back to a quarter of an
hour before the last one's newest message, since messages appear in it minutes late, and not in order; what was handed
out before is known by its id.

A message counts as handled when the next one is asked for. So a program that stops in the middle of one, by an
exception, a ``break`` or a ``kill``, gets that one again, and no other. If it handled the message before it stopped, it
calls :meth:`Inbox.handled <twdm_async.Inbox.handled>`.

A webhook and a poll on one inbox miss nothing: each leaves alone what the other has claimed, and the poll finds what X
did not send to the webhook. If people write and the webhook gets nothing for minutes, the poll logs a warning, since X
removes webhooks without notice.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from twdm_async._log import quiet_logger
from twdm_async._numbers import checked_number
from twdm_async.errors import InboxFailed, InvalidInput, RateLimited, TwdmError
from twdm_async.headers import server_time
from twdm_async.resources.evidence import Reading, read_back
from twdm_async.resources.inbox import Inbox, Received

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from twdm_async._clock import Clock
    from twdm_async.models.direct_messages import DirectMessage
    from twdm_async.observers import AttemptReport
    from twdm_async.resources.listing import Page

_LATE: Final = timedelta(minutes=15)
_SHORTEST: Final = 1.0  # seconds between two rounds
_INEXACT: Final = 1.5  # seconds: a reply tells the server's time without the fraction, and was on its way
_NOTICED: Final = 300.0  # seconds: the API refuses signatures of a time that is further off
_TOLD_WITHIN: Final = 360.0  # seconds within which a webhook gets a message, if it gets it at all

_log = quiet_logger(__name__)


class Poll:
    """Reads one account's list of messages again and again.

    Args:
        account: the account's user id.
        app: the name of the app.
        inbox: remembers which messages were received.
        pages: starts to read the list, newest first.
        note: called with every new message, whoever sent it.
        server_time: returns the server's time in seconds since 1970, as far as it is known; it may be wrong by less
            than the API notices.
        clock: the source of time.
    """

    def __init__(
        self,
        account: str,
        app: str,
        inbox: Inbox,
        pages: Callable[[], AsyncGenerator[Page[DirectMessage]]],
        note: Callable[[DirectMessage], None],
        server_time: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._account = account
        self._app = app
        self._inbox = inbox
        self._pages = pages
        self._note = note
        self._server_time = server_time
        self._clock = clock
        self._ahead: float | None = None  # seconds that the server's clock is ahead of this machine's, by its replies
        self._untold: datetime | None = None  # when the oldest message was written that no webhook has told of
        self._is_said = False
        self._echoes: set[str] = set()  # ids of the account's own messages in the last round; they are not handed out

    async def messages(self, every: float, since: datetime | None, *, sent: bool) -> AsyncGenerator[DirectMessage]:
        """Yield new messages, oldest first.

        Args:
            every: seconds between two rounds.
            since: where to begin if the account was never polled; now, if ``None``.
            sent: whether to yield the messages that the account itself sent, too.
        """
        await self._inbox.release(self._account)
        self._inbox.polls[self._account] = self
        try:
            async with contextlib.aclosing(self._messages(every, since, sent=sent)) as messages:
                async for message in messages:
                    yield message
        finally:
            if self._inbox.polls.get(self._account) is self:  # else another poll has begun, and has released them
                with contextlib.suppress(InboxFailed):
                    await self._inbox.release(self._account)

    async def _messages(self, every: float, since: datetime | None, *, sent: bool) -> AsyncGenerator[DirectMessage]:
        polled = await self._inbox.polled(self._account)
        reached: tuple[float, float] | None = None  # the end and the start of the time that was covered
        if polled is not None:
            reached = min(polled[0], self._now()), polled[1]
        elif since is not None:
            floor = int(since.timestamp() * 1000) / 1000  # the API's times are in milliseconds, here and below
            reached = floor, floor
        started = self._clock.monotonic()
        while True:
            began = self._clock.monotonic()
            reading = await self._read(self._now() if reached is None else reached[0])
            if reading is not None:
                if reached is None:
                    floor = int((self._now() - (self._clock.monotonic() - started)) * 1000) / 1000
                    reached = floor, floor
                    await self._inbox.set_polled(self._account, *reached)  # else a restart would begin anew
                until, floor = reached
                new, newest = await self._new(reading, until, floor, sent=sent)
                by_id = {message.id: message for message in new}
                for received in await self._inbox.keep(list(map(self._received, new))):
                    yield by_id[received.id]
                    await self._inbox.done(received)
                until = min(max(until, newest), self._now())  # a message's date may be wrong
                await self._inbox.set_polled(self._account, until, floor)
                reached = until, floor
            await self._clock.sleep(max(_SHORTEST, every - (self._clock.monotonic() - began)))

    def note_reply(self, report: AttemptReport) -> None:
        """Note the server's time, as the reply to a request tells it."""
        date = server_time(report.headers)
        if date is not None:
            self._ahead = date - self._clock.wall()

    def _now(self) -> float:
        """Return the server's time in seconds since 1970. A reply that tells one so far off that the API would have
        refused our signature is not believed.
        """
        known = self._server_time()
        told = known if self._ahead is None else self._clock.wall() + self._ahead
        return told if _INEXACT < abs(known - told) <= _NOTICED else known

    async def _read(self, until: float) -> Reading | None:
        """Read the list back to `until`, and further, since messages appear late; return ``None`` if the API refused
        the request for now.
        """
        try:
            return await read_back(self._pages(), datetime.fromtimestamp(until, UTC) - _LATE)
        except TwdmError as error:
            if not error.safe_to_retry and not isinstance(error, RateLimited):
                raise
            _log.warning("the list of messages could not be read; trying again: %s", error)
            return None

    async def _new(
        self, reading: Reading, until: float, floor: float, *, sent: bool
    ) -> tuple[list[DirectMessage], float]:
        """Return the new messages since `until` that are not older than `floor`, oldest first, and the newest
        message's time.
        """
        since = datetime.fromtimestamp(until, UTC) - _LATE
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
        if not sent:  # the account's own messages are left to a webhook, if that wants them
            self._echoes = {one.id for one in found.values() if one.sender_id == self._account and one.id is not None}
            new = [message for message in new if message.sender_id != self._account]
        # If the list was not read back far enough, the next round reads it again.
        return new, max(times, default=until) if reading.is_whole else until

    async def _compare(self, new: Sequence[DirectMessage]) -> None:
        """Log a warning, once, if people write and the webhook on the same inbox gets nothing."""
        written = [one.created_at for one in new if one.sender_id != self._account and one.created_at is not None]
        self._untold = min(filter(None, [self._untold, *written]), default=None)
        if self._untold is None:
            return
        told = (await self._inbox.heard(self._app)).get("delivery")
        if told is None or told > self._untold:
            self._untold, self._is_said = None, False
        elif not self._is_said and self._now() - self._untold.timestamp() > _TOLD_WITHIN:
            self._is_said = True
            _log.warning(
                "people write, and no webhook tells of it since %s; X may have dropped it: register it anew",
                f"{told:%Y-%m-%d %H:%M} UTC",
            )

    def _received(self, message: DirectMessage) -> Received:
        return Received(self._account, message.id or "")


def checked_times(every: float, since: datetime | None) -> None:
    """Check the arguments of a poll.

    Raises:
        InvalidInput: `every` is not a number of seconds from 1 to 86 400, or `since` is not an aware datetime.
    """
    checked_number(every, "every", _SHORTEST, 86_400, "number of seconds")
    if since is not None and (not isinstance(since, datetime) or since.tzinfo is None):
        raise InvalidInput(parameter="since", problem="must be an aware datetime, such as datetime.now(UTC)")
