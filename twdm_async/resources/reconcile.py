"""What became of messages that left and got no readable answer: the list of messages knows.

An event of the list can be an unknown message's if recipient and wording are the same, the profile is not another one,
and it was made at a time at which the message can have been. An event that is known to be another message's is nobody
else's; and each event is one message's at most. So among messages that say the same to the same person, as many are
found as there are events left over, and which of them is which makes no difference to anybody.

When can it have been made? A request carries the time of its signature, and the server refuses those that are off by
more than five minutes. So whatever the clocks here were set to, it was let in within five minutes of that time, and
done before anybody could still wait for its answer.

It is said to be absent if it was not in a list that was asked for long enough after the attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from twdm_async._json import is_array, is_object
from twdm_async.errors import Delivered, DeliveryUnknown, InvalidInput
from twdm_async.models.direct_messages import DirectMessage, unescaped
from twdm_async.quota.spec import checked_positive
from twdm_async.transport.sent import SentMessages, Sought

if TYPE_CHECKING:
    from twdm_async._clock import Clock
    from twdm_async.credentials import Credentials
    from twdm_async.transport.call import Caller

SETTLE_AFTER: Final = 60.0
"""Seconds until a message that is not in the list is believed not to have arrived."""

_OLDEST_STAMP: Final = timedelta(seconds=300 + 10)  # what the server lets in, and some seconds for its own clocks
_REMEMBERED: Final = timedelta(days=29)  # the list goes back 30

Listing = Callable[[], AsyncIterator[DirectMessage]]


@frozen
class Reconciled:
    """What became of a message that may or may not have arrived.

    Args:
        unknown: the error that said so.
        delivered: ``"yes"``: here it is. ``"no"``: it is not in the list, and will not be. ``"unknown"``: the list does
            not go back so far, or holds a message to this person that may be it and cannot be compared.
        message: the message, if it was found.
    """

    unknown: DeliveryUnknown
    delivered: Delivered
    message: DirectMessage | None = None


@frozen
class Listed:
    """A message from the list, and the fingerprint of its wording; ``None`` if it has a link that cannot be undone."""

    message: DirectMessage
    made_at: datetime
    fingerprint: str | None


def listed(message: DirectMessage, made_at: datetime, credentials: Credentials) -> Listed:
    """`message`, ready to be compared: with every ``t.co`` link made what it stands for."""
    text = message.raw_text or ""
    urls = (message.entities or {}).get("urls")
    for url in urls if is_array(urls) else []:
        if is_object(url) and isinstance(url.get("url"), str) and isinstance(url.get("expanded_url"), str):
            is_attachment = "/messages/media/" in url["expanded_url"]  # the API adds it to the text by itself
            text = text.replace(url["url"], "" if is_attachment else url["expanded_url"])
    if "//t.co/" in text:
        return Listed(message, made_at, None)
    return Listed(message, made_at, credentials.fingerprint(unescaped(text) or ""))


def span(sought: Sought, timeout: float) -> tuple[datetime, datetime]:
    """From when until when it can have been made, by the server's clock.

    Args:
        sought: the message.
        timeout: seconds an attempt may take, from the connection on.
    """
    return sought.sent_at - _OLDEST_STAMP, sought.sent_at + _OLDEST_STAMP + timedelta(seconds=4 * timeout)


def claim(
    sought: Sequence[Sought], events: Iterable[Listed], taken: Container[str | None], timeout: float
) -> list[DirectMessage | None]:
    """Each of `sought` among `events`, or ``None``.

    Args:
        sought: messages that may be there.
        events: what the list holds.
        taken: ids of messages that are known to be others.
        timeout: seconds an attempt may take, from the connection on.
    """
    left: dict[tuple[str | None, str | None], list[DirectMessage]] = {}
    for event in sorted(events, key=lambda event: event.made_at):
        if event.message.id not in taken:
            left.setdefault((event.message.recipient_id, event.fingerprint), []).append(event.message)
    found: list[DirectMessage | None] = [None] * len(sought)
    # All spans are equally long: so if each in turn takes the first event that is left in it, none is taken in vain.
    for place in sorted(range(len(sought)), key=lambda place: sought[place].sent_at):
        one = sought[place]
        earliest, latest = span(one, timeout)
        candidates = left.get((one.recipient_id, one.fingerprint), [])
        for message in candidates:
            is_same_profile = message.custom_profile_id in {None, one.custom_profile_id}
            if is_same_profile and message.created_at and earliest <= message.created_at <= latest:
                found[place] = message
                candidates.remove(message)
                break
    return found


def cannot_tell(
    sought: Sought, events: Iterable[Listed], taken: Container[str | None], timeout: float, now: datetime
) -> bool:
    """Whether it may be there although it was not found: one of `events` may be it, but cannot be compared; or the list
    does not go back so far.
    """
    earliest, latest = span(sought, timeout)
    return sought.sent_at < now - _REMEMBERED or any(
        event.fingerprint is None
        and event.message.recipient_id == sought.recipient_id
        and event.message.id not in taken
        and earliest <= event.made_at <= latest
        for event in events
    )


@define(eq=False)
class _Question:
    unknown: DeliveryUnknown
    sought: Sought
    ready_at: float  # by the monotonic clock: a list asked for then or later settles it
    answer: Reconciled | None = None


class Reconciler:
    """Looks for messages of one account.

    Args:
        caller: knows what was sent, and what is under way.
        credentials: make the fingerprints of texts.
        clock: where time comes from.
        timeout: seconds an attempt may take, from the connection on.
    """

    def __init__(self, caller: Caller, credentials: Credentials, clock: Clock, timeout: float) -> None:
        self._caller = caller
        self._clock = clock
        self.credentials = credentials
        self.timeout = timeout
        self._open: list[_Question] = []
        self._turn = asyncio.Lock()  # while one reads the list, the others wait: it may settle theirs, too

    async def reconcile(
        self, unknowns: Sequence[DeliveryUnknown], settle_after: float, listing: Listing
    ) -> tuple[Reconciled, ...]:
        """What became of each of `unknowns`."""
        if settle_after != 0:
            checked_positive(settle_after, "settle_after")
        questions = [
            _Question(unknown, _sought(unknown), self._ready_at(unknown, settle_after)) for unknown in unknowns
        ]
        self._open += questions
        try:
            while left := [question for question in questions if question.answer is None]:
                async with self._turn:
                    if all(question.answer for question in left):
                        break
                    ready_at = min(question.ready_at for question in left)
                    await self._clock.sleep(max(0.0, ready_at - self._clock.monotonic()))
                    await self._settle(listing)
        finally:
            for question in questions:
                self._open.remove(question)
        return tuple([question.answer for question in questions if question.answer is not None])

    @property
    def sent(self) -> SentMessages:
        """What this client knows to have been sent."""
        return self._caller.sent

    @property
    def wall_ahead(self) -> float:
        """Seconds by which the server's clock is ahead of this machine's, as far as the signatures follow it."""
        return self._caller.wall_ahead

    def settle_in(self) -> None:
        """To be called before each use.

        Raises:
            WrongEventLoop: the client belongs to another loop or process.
        """
        self._caller.settle_in()

    async def events(self, sought: Iterable[Sought], listing: Listing) -> list[Listed]:
        """What the list holds that could be one of `sought`. Whatever was under way to the same people when it was
        read has come to its end when this returns, so it is known whose those messages are.
        """
        sought = list(sought)
        since = min(span(one, self.timeout)[0] for one in sought)
        people = {one.recipient_id for one in sought}
        events: list[Listed] = []
        async for message in listing():
            if message.created_at is not None and message.created_at < since:
                break
            if message.recipient_id in people and message.id is not None and message.created_at is not None:
                events.append(listed(message, message.created_at, self.credentials))
        await self._caller.quiet(people)
        return events

    async def _settle(self, listing: Listing) -> None:
        asked_at = self._clock.monotonic()
        questions = [question for question in self._open if question.answer is None]
        sought = [question.sought for question in questions]
        events = await self.events(sought, listing)
        sent = self._caller.sent
        # Messages whose replies told no id have an event each, too, which is nobody else's.
        found = claim([*sent.nameless, *sought], events, sent.ids, self.timeout)[len(sent.nameless) :]
        for question, message in zip(questions, found, strict=True):
            if message is not None and message.id is not None:
                sent.note(message.id)
                question.answer = Reconciled(question.unknown, "yes", message)
            elif asked_at >= question.ready_at:
                is_unknown = cannot_tell(question.sought, events, sent.ids, self.timeout, self._clock.utc())
                question.answer = Reconciled(question.unknown, "unknown" if is_unknown else "no")

    def _ready_at(self, unknown: DeliveryUnknown, settle_after: float) -> float:
        now = self._clock.utc()
        passed = (now - (unknown.ended_at or now)).total_seconds()
        return self._clock.monotonic() + min(max(settle_after - passed, 0.0), settle_after)  # clocks may have been set


def _sought(unknown: DeliveryUnknown) -> Sought:
    if not isinstance(unknown, DeliveryUnknown) or unknown.endpoint != "direct_messages.send":
        raise InvalidInput(parameter="unknowns", problem="must be DeliveryUnknown errors of messages that were sent")
    if unknown.recipient_id is None or unknown.fingerprint is None:
        raise InvalidInput(parameter="unknowns", problem="do not tell whom and what they were about")
    return Sought(unknown.recipient_id, unknown.custom_profile_id, unknown.fingerprint, unknown.sent_at)
