"""The search in the list of messages for messages that left and got no readable answer.

A listed message can be the unknown one if sender, recipient and wording are the same, the profile is not another one,
and it was created at a time at which the unknown message can have been. A listed message that is known to be another
one of ours is excluded, and each listed message can settle only one unknown message. So among unknown messages that are
alike, as many are found as there are listed ones left, and which of them is which makes no difference. Among messages
that have the same wording and are not alike (they have different pictures, say), it makes a difference: unless all of
them are found, the list cannot tell which of them arrived.

When can the message have been created? A request carries the time of its signature, and the server refuses requests
whose time is off by more than five minutes. So whatever the clocks here were set to, the server let the request in
within five minutes of that time, and created the message no later than the client could still wait for the answer.

:mod:`twdm_async.resources.evidence` says when a message that the list does not show is called absent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from twdm_async.errors import Delivered, DeliveryUnknown, InvalidInput
from twdm_async.models.direct_messages import DirectMessage, DirectMessagePage
from twdm_async.models.texts import readings
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.resources.evidence import Reading, Search, checked_settle_after, pause, read_back
from twdm_async.resources.listing import Listing
from twdm_async.transport.sent import SentMessages, Sought

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from twdm_async.credentials import Credentials
    from twdm_async.transport.call import Caller

_OLDEST_STAMP: Final = timedelta(seconds=300 + 10)  # the server's tolerance, and some seconds for its own clocks
_REMEMBERED: Final = timedelta(days=29)  # the list goes back 30
_MOST_FOUND: Final = 10_000
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@frozen
class Reconciled:
    """What became of a message that may or may not have arrived.

    Args:
        unknown: the error of the call that sent the message.
        delivered: ``"yes"``: it arrived. ``"no"``: it is not in the list, and will not be. ``"unknown"``: the list does
            not go back so far, contains a message to this person that may be it and cannot be compared, or has lagged
            for so long that it cannot be believed.
        message: the message, if it was found.
    """

    unknown: DeliveryUnknown
    delivered: Delivered
    message: DirectMessage | None = None


@frozen
class Listed:
    """A message from the list, and the fingerprints of its possible texts; none if it cannot be compared."""

    message: DirectMessage
    fingerprints: frozenset[str]


def listed(message: DirectMessage, credentials: Credentials) -> Listed:
    """Return `message` with its fingerprints, ready to be compared."""
    is_odd = None in {message.id, message.created_at, message.recipient_id}
    texts = () if is_odd else readings(message.raw_text, message.raw_entities)
    return Listed(message, frozenset(map(credentials.fingerprint, texts)))


def span(sought: Sought, timeout: float) -> tuple[datetime, datetime]:
    """Return the earliest and the latest time at which a message can have been created, by the server's clock.

    Args:
        sought: the message.
        timeout: seconds an attempt may take, from the connection on.
    """
    return sought.sent_at - _OLDEST_STAMP, sought.sent_at + _OLDEST_STAMP + timedelta(
        seconds=RequestLifetime.from_timeout(timeout).lease
    )


def claim(
    sought: Sequence[Sought],
    events: Sequence[Listed],
    taken: Container[str | None],
    timeout: float,
    *,
    certain: Sequence[Sought] = (),
    doubtful: Sequence[Sought] = (),
) -> list[DirectMessage | None]:
    """Assign events to messages. Return, for each of `certain`, `sought` and `doubtful` in this order, one of `events`
    or ``None``.

    As many messages as possible get an event, each event goes to one message only, and `certain` go before `sought`.

    Args:
        sought: messages that may be in the list.
        events: the messages in the list.
        taken: ids of events that are known to be other messages.
        timeout: seconds an attempt may take, from the connection on.
        certain: messages that are in the list, but it is not known which events they are.
        doubtful: other messages that may be in the list; `sought` go before them.
    """
    everybody = [*certain, *sought, *doubtful]
    tells_profiles = any(event.message.custom_profile_id is not None for event in events)
    left = sorted((event for event in events if event.fingerprints and event.message.id not in taken), key=_age)
    alike: dict[tuple[str | None, str], list[int]] = {}
    for number, event in enumerate(left):
        for fingerprint in event.fingerprints:
            alike.setdefault((event.message.recipient_id, fingerprint), []).append(number)

    def fitting(place: int) -> list[int]:
        """Return the events that the message at `place` can be."""
        one = everybody[place]
        earliest, latest = span(one, timeout)
        profiles = {one.custom_profile_id} if tells_profiles else {one.custom_profile_id, None}
        return [
            number
            for number in alike.get((one.recipient_id, one.fingerprint), ())
            if left[number].message.custom_profile_id in profiles
            and earliest <= (left[number].message.created_at or _NEVER) <= latest
        ]

    ranks = [0] * len(certain) + [1] * len(sought) + [2] * len(doubtful)
    order = sorted(range(len(everybody)), key=lambda place: (ranks[place], everybody[place].sent_at))
    held = _matched(order, fitting)
    return [left[held[place]].message if place in held else None for place in range(len(everybody))]


def _matched(order: Iterable[int], fitting: Callable[[int], Sequence[int]]) -> dict[int, int]:
    """Match the places in `order` to events, as many as possible, by augmenting paths: a place that has an event keeps
    one when later places get theirs.
    """
    held: dict[int, int] = {}
    holder: dict[int, int] = {}
    hopeless: set[int] = set()  # events from which no path leads to a free event
    for first in order:
        wanted_by: dict[int, int] = {}
        wanting = deque([first])
        free: int | None = None
        while wanting and free is None:
            place = wanting.popleft()
            for event in fitting(place):
                if event in wanted_by or event in hopeless:
                    continue
                wanted_by[event] = place
                if event not in holder:
                    free = event
                    break
                wanting.append(holder[event])
        if free is None:
            hopeless.update(wanted_by)
        while free is not None:
            place = wanted_by[free]
            holder[free], held[place], free = place, free, held.get(place)
    return held


def _age(event: Listed) -> tuple[datetime, str]:
    return event.message.created_at or _NEVER, event.message.id or ""


@frozen
class Settlement:
    """What became of the messages that were sought, by their places: those that were `found`, those that are `absent`,
    and those that are `open`, since the list cannot tell.
    """

    found: dict[int, DirectMessage]
    absent: set[int]
    open: set[int]


def settle(
    sought: Sequence[Sought],
    ready: Container[int],
    events: Sequence[Listed],
    *,
    taken: Container[str | None],
    nameless: Sequence[Sought],
    timeout: float,
    now: datetime,
    doubtful: Sequence[Sought] = (),
) -> Settlement:
    """Settle what can be settled.

    Args:
        sought: messages that may have arrived.
        ready: the places of those that are absent if they are not in the list.
        events: the messages in the list.
        taken: ids of events that are known to be other messages.
        nameless: messages that were sent and whose replies told no id. Each has an event, which is no other message's.
        timeout: seconds an attempt may take, from the connection on.
        now: the time (UTC).
        doubtful: other messages that may have arrived, and are not to be settled now.
    """
    claimed = claim(sought, events, taken, timeout, certain=nameless, doubtful=doubtful)
    mixed = _mixed([*nameless, *sought, *doubtful], claimed)
    settlement = Settlement({}, set(), set())
    own = claimed[len(nameless) : len(nameless) + len(sought)]
    for place, (one, message) in enumerate(zip(sought, own, strict=True)):
        if (one.recipient_id, one.fingerprint) in mixed:
            if place in ready:
                settlement.open.add(place)
        elif message is not None:
            settlement.found[place] = message
        elif place in ready and _cannot_tell(one, events, taken, timeout, now):
            settlement.open.add(place)
        elif place in ready:
            settlement.absent.add(place)
    return settlement


def _mixed(sought: Sequence[Sought], claimed: Sequence[DirectMessage | None]) -> set[tuple[str, str]]:
    """Return the (recipient, fingerprint) pairs whose messages are not all alike and were found only in part."""
    kinds: dict[tuple[str, str], set[tuple[str | None, str, bool]]] = {}
    for one, message in zip(sought, claimed, strict=True):
        certain = message is not None and message.custom_profile_id is not None
        kind = (None if certain else one.custom_profile_id, one.content, message is not None)
        kinds.setdefault((one.recipient_id, one.fingerprint), set()).add(kind)
    return {
        what
        for what, found in kinds.items()
        if len({(profile, content) for profile, content, _ in found}) > 1 and len({was for *_, was in found}) > 1
    }


def _cannot_tell(
    sought: Sought, events: Iterable[Listed], taken: Container[str | None], timeout: float, now: datetime
) -> bool:
    """Return whether a message may be there although it was not found: one of `events` may be it, but cannot be
    compared; or the list does not go back so far.
    """
    earliest, latest = span(sought, timeout)
    return sought.sent_at < now - _REMEMBERED or any(
        not event.fingerprints
        and event.message.recipient_id in {None, sought.recipient_id}
        and event.message.id not in taken
        and (event.message.created_at is None or earliest <= event.message.created_at <= latest)
        for event in events
    )


@define(eq=False)
class _Question:
    sought: Sought
    ended_at: float  # when its attempt was given up, by the monotonic clock
    search: Search
    delivered: Delivered | None = None
    message: DirectMessage | None = None


class Reconciler:
    """Looks for messages of one account.

    Args:
        caller: knows what was sent, and what is under way.
        credentials: make the fingerprints of texts.
        timeout: seconds an attempt may take, from the connection on.
    """

    def __init__(self, caller: Caller, credentials: Credentials, timeout: float) -> None:
        self._caller = caller
        self._clock = caller.clock
        self.credentials = credentials
        self.timeout = timeout
        self._open: list[_Question] = []
        self._found: OrderedDict[Sought, DirectMessage] = OrderedDict()  # so that asking again gives the same answer
        self._turn = asyncio.Lock()  # while one call reads the list, others wait: the reading may settle theirs, too
        self._read_at: float | None = None  # when the list was last asked for
        self._echoes: OrderedDict[str, Listed] = OrderedDict()  # messages of this account from webhooks and polls
        self._news = asyncio.Event()
        self.echo_count: int = 0
        """How many echoes were ever heard of."""

    def hear(self, message: DirectMessage) -> None:
        """Take in an echo: a message of this account that became known otherwise than by the answer to its sending."""
        if message.id is None or message.id in self.sent or message.id in self._echoes:
            return
        self._echoes[message.id] = listed(message, self.credentials)
        if len(self._echoes) > _MOST_FOUND:
            self._echoes.popitem(last=False)
        self.echo_count += 1
        self._news.set()
        self._news = asyncio.Event()

    async def echoes(self, sought: Sequence[Sought]) -> list[Listed]:
        """Return the echoes that can be one of `sought`. As in :meth:`candidates`, sends to the same people that were
        under way have ended when this returns.
        """
        people = {one.recipient_id for one in sought}
        echoes = [echo for echo in self._echoes.values() if echo.message.recipient_id in people]
        if echoes:
            await self._caller.quiet(people)
        return echoes

    async def reconcile(
        self, unknowns: Sequence[DeliveryUnknown], settle_after: float | None
    ) -> tuple[Reconciled, ...]:
        """Find out what became of each of `unknowns`.

        Args:
            unknowns: the errors.
            settle_after: seconds until a list is believed; ``None`` for the default.

        Raises:
            InvalidInput: an error is not about a message, or was raised under other keys; or `settle_after` is too
                short.
            TwdmError: the list could not be read.
        """
        settle_after = checked_settle_after(settle_after, self.timeout)
        sought = [self._sought(unknown) for unknown in unknowns]
        questions: dict[Sought, _Question] = {}
        for unknown, one in zip(unknowns, sought, strict=True):
            questions.setdefault(one, _Question(one, self._ended_at(unknown, settle_after), Search(settle_after)))
        for question in self._left(questions.values()):
            self.sent.note_unknown(question.sought)
        self._open += questions.values()
        try:
            while self._left(questions.values()):
                news = self._news
                async with self._turn:
                    await self._settle_by_echoes()
                    wait = self._due_in(self._left(questions.values()))
                    if wait is not None and wait <= 0:
                        await self._settle()
                        continue
                if wait is not None:
                    await self._clock.wait(news, wait)
        finally:
            for question in questions.values():
                self._open.remove(question)
        answers = [questions[one] for one in sought]
        return tuple(
            [
                Reconciled(unknown, answer.delivered or "unknown", answer.message)
                for unknown, answer in zip(unknowns, answers, strict=True)
            ]
        )

    @property
    def sent(self) -> SentMessages:
        """What this client knows to have been sent."""
        return self._caller.sent

    def server_time(self) -> float:
        """Return the seconds since 1970 by the server's clock, as far as it is known. Any thread may call this."""
        return self._caller.server_time()

    def bind_loop(self) -> None:
        """Check that this is the client's event loop. It must be called before each use.

        Raises:
            WrongEventLoop: the client belongs to another event loop or process.
        """
        self._caller.bind_loop()

    async def read(
        self,
        sought: Sequence[Sought],
        nameless: Sequence[Sought],
        known: Mapping[str, datetime] | None = None,
        max_wait: float | None = None,
    ) -> Reading:
        """Read the list back to the oldest of `sought` and `nameless`.

        Args:
            sought: messages that are looked for.
            nameless: messages that were sent and whose replies told no id.
            known: ids of messages that exist, besides those of which this client knows, and when they left.
            max_wait: seconds to wait for quota, for each page; the client's ``max_wait`` if not given.

        Raises:
            TwdmError: the list could not be read.
        """
        since = min(span(one, self.timeout)[0] for one in [*sought, *nameless])
        others = {key: at for key, at in (known or {}).items() if key not in self.sent.deleted}
        known = {key: at for key, at in others.items() if at >= since} | self.sent.listable(since)
        listing = Listing(
            self._caller,
            "direct_messages.list",
            DirectMessagePage,
            lambda page: page.events,
            max_wait=max_wait,
            timeout=None,
        )
        reading = await read_back(listing.pages(), since, known)
        for message in reading.messages:
            if message.id is not None and message.created_at is not None:
                self.sent.note_listable(message.id, message.created_at)
        return reading

    async def candidates(self, reading: Reading, sought: Sequence[Sought]) -> list[Listed]:
        """Return the messages in `reading` that can be one of `sought`. Sends to the same people that were under way
        when the list was read have ended when this returns, so it is known which messages are theirs.
        """
        people = {None, *(one.recipient_id for one in sought)}
        await self._caller.quiet(people)
        me = self.credentials.user_id
        return [
            listed(message, self.credentials)
            for message in reading.messages
            # The list also has what others sent to this account; a message to itself must not be found among those.
            if not (me is not None and message.recipient_id == me and message.sender_id not in {None, me})
            and message.recipient_id in people
        ]

    async def _settle(self) -> None:
        asked_at = self._read_at = self._clock.monotonic()
        first = [question.sought for question in self._left(self._open)]
        reading = await self.read(first, relevant(self.sent.nameless, first))
        # Calls that have begun meanwhile share the reading, if it goes back far enough for them.
        questions = {
            question.sought: question
            for question in self._left(self._open)
            if question.ended_at <= asked_at and span(question.sought, self.timeout)[0] >= reading.since
        }
        sought = list(questions)
        ready: set[int] = set()
        now = datetime.fromtimestamp(self.server_time(), UTC)
        for place, question in enumerate(questions.values()):
            age, search = asked_at - question.ended_at, question.search
            is_believed = reading.speaks_for(question.sought.sent_at, age, search.settle_after, now)
            if search.look(age, is_believed=is_believed):
                ready.add(place)
        self._match(questions, ready, await self.candidates(reading, sought))
        for question in questions.values():
            if question.search.is_hopeless:
                question.delivered = question.delivered or "unknown"

    async def _settle_by_echoes(self) -> None:
        """Find messages among the echoes. A message without an echo is not absent for that reason."""
        questions = {question.sought: question for question in self._left(self._open)}
        if events := await self.echoes(list(questions)):
            self._match(questions, (), events)

    def _match(self, questions: Mapping[Sought, _Question], ready: Container[int], events: Sequence[Listed]) -> None:
        sought, sent = list(questions), self.sent
        settlement = settle(
            sought,
            ready,
            events,
            taken=sent,
            nameless=relevant(sent.nameless, sought),
            timeout=self.timeout,
            now=self._clock.utc(),
            doubtful=[one for one in relevant(sent.unknown, sought) if one not in questions],
        )
        for place, message in settlement.found.items():
            sent.note(message.id or "")
            sent.note_settled(sought[place])
            self._found[sought[place]] = message
            if len(self._found) > _MOST_FOUND:
                self._found.popitem(last=False)
        for place in settlement.absent:
            sent.note_settled(sought[place])
            questions[sought[place]].delivered = "no"
        for place in settlement.open:
            questions[sought[place]].delivered = "unknown"

    def _left(self, questions: Iterable[_Question]) -> list[_Question]:
        """Return the questions without an answer, and answer those whose message was found before."""
        left: list[_Question] = []
        for question in questions:
            if question.delivered is None and question.sought in self._found:
                question.delivered, question.message = "yes", self._found[question.sought]
            if question.delivered is None:
                left.append(question)
        return left

    def _due_in(self, questions: Sequence[_Question]) -> float | None:
        """Return the seconds until the list should be read for one of `questions`; ``None`` if there are none."""
        if not questions:
            return None
        now = self._clock.monotonic()
        due_in = min(question.search.due - (now - question.ended_at) for question in questions)
        if self._read_at is not None:
            shortest = min(question.search.settle_after for question in questions)
            due_in = max(due_in, self._read_at + pause(shortest) - now)
        return due_in

    def _ended_at(self, unknown: DeliveryUnknown, settle_after: float) -> float:
        if unknown.sent_at in self.sent.given_up:
            return self.sent.given_up[unknown.sent_at]
        now = self._clock.utc()  # another process gave it up
        passed = (now - (unknown.ended_at or now)).total_seconds()
        return self._clock.monotonic() - min(max(passed, 0.0), settle_after)  # clocks may have been set

    def _sought(self, unknown: DeliveryUnknown) -> Sought:
        if not isinstance(unknown, DeliveryUnknown) or unknown.endpoint != "direct_messages.send":
            raise InvalidInput(
                parameter="unknowns", problem="must be DeliveryUnknown errors of messages that were sent"
            )
        if not isinstance(unknown.recipient_id, str) or not isinstance(unknown.fingerprint, str):
            raise InvalidInput(parameter="unknowns", problem="do not tell a recipient and a fingerprint")
        fingerprint, _, content = unknown.fingerprint.partition(" ")
        if not self.credentials.made(fingerprint):
            raise InvalidInput(parameter="unknowns", problem="are of another account, or of keys that have changed")
        return Sought(unknown.recipient_id, unknown.custom_profile_id, fingerprint, unknown.sent_at, content)


def relevant(nameless: Iterable[Sought], sought: Iterable[Sought]) -> list[Sought]:
    """Return those of `nameless` that have the recipient and the wording of one of `sought`, and left within a day of
    it.
    """
    alike: dict[tuple[str, str], list[datetime]] = {}
    for one in sought:
        alike.setdefault((one.recipient_id, one.fingerprint), []).append(one.sent_at)
    return [
        one
        for one in nameless
        if any(
            abs(one.sent_at - sent_at) < timedelta(days=1)
            for sent_at in alike.get((one.recipient_id, one.fingerprint), ())
        )
    ]
