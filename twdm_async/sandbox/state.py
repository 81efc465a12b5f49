"""The state of the sandbox: messages, profiles, files, welcome messages, reply credits and the journal."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from twdm_async.sandbox.call import Json
from twdm_async.sandbox.journal import Journal
from twdm_async.sandbox.records import StoredMedia, StoredProfile
from twdm_async.sandbox.refusal import Refusal, invalid, no_such_page, not_permitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from twdm_async.quota.spec import ReplyCredit
    from twdm_async.sandbox.clock import SandboxClock
    from twdm_async.sandbox.records import Reading, StoredAccount, StoredMessage, Typing
    from twdm_async.sandbox.windows import Windows

_LONGEST_QUIET: Final = 1.0  # seconds
_CALM: Final = 20  # turns of the event loop; a client with another clock reads an answer on loopback within them

APPS = {"1": {"id": "1", "name": "sandbox", "url": "https://example.com"}}
"""The only app, as the API shows it."""


@define(eq=False)
class Event:
    """A message, and who can see it.

    Args:
        shown: the event, as the API shows it.
        account_id: the user id of the account in whose conversation with a person it is.
        data: its ``message_data``, as it was written.
        media: the attached file, if any.
        profile: the custom profile under which it was sent, if any.
        is_counted: whether it counts against the quota; ``None`` if it was not sent through the API.
        listed_from: when the list of messages begins to show it, in seconds on the sandbox's clock.
        hidden_from: the ids of the users who have deleted it.
    """

    shown: Json
    account_id: str
    data: Json
    media: StoredMedia | None = None
    profile: StoredProfile | None = None
    is_counted: bool | None = None
    listed_from: float = -math.inf
    hidden_from: set[str] = field(factory=set[str])

    def concerns(self, user_id: str) -> bool:
        """Tell whether this user is its sender or its recipient, and has not deleted it."""
        create = self.shown["message_create"]
        return user_id in {create["sender_id"], create["target"]["recipient_id"]} and user_id not in self.hidden_from


@define(eq=False)
class Credit:
    """The reply credit that an account gets when a person writes to it: `left` replies that are sent before `until` do
    not count against the quota.
    """

    left: int
    until: float


class State:
    """The state of one sandbox.

    Args:
        clock: the sandbox's clock.
        windows: the quota windows.
        credit: the rule for replies that do not count against the quota; ``None`` if all count.
        list_lag: draws the seconds after which a new message appears in the list of messages.
    """

    def __init__(
        self,
        clock: SandboxClock,
        windows: Windows,
        credit: ReplyCredit | None,
        list_lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.clock = clock
        self.windows = windows
        self._credit_rule = credit
        self.list_lag = list_lag
        self._ids = itertools.count(1_580_000_000_000_000_001)
        self.messages: list[StoredMessage] = []
        self.events: dict[str, Event] = {}
        self.welcome_messages: dict[str, tuple[str, Json]] = {}  # the owner's id, and the JSON
        self.rules: dict[str, tuple[str, Json]] = {}
        self.profiles: dict[str, StoredProfile] = {}
        self.media: dict[str, StoredMedia] = {}
        self.unreachable: set[str] = set()
        self.handles: dict[str, str] = {}
        self.one_rule_only = True
        self.typing: list[Typing] = []
        self.reading: list[Reading] = []
        self.credits: dict[tuple[str, str], Credit] = {}
        self.free_replies: dict[str, int] = defaultdict(int)
        self.received: dict[tuple[str, str], int] = defaultdict(int)
        """How many messages ``Person.receives`` has returned, by the user ids of account and person."""
        self.journal: Journal = Journal()
        self.problems: list[str] = []
        self.on_event: Callable[[str, Any], None] = lambda _kind, _event: None
        """Called with each event for webhooks: its kind, and the event."""

    def new_id(self) -> str:
        """Return a new id."""
        return str(next(self._ids))

    async def quiet(self) -> None:
        """Wait until the requests that are under way are answered, and the clients have read the answers. If the clock
        were moved between a request and its answer, the client would think that the answer was slow. If an answer does
        not come, wait no longer than a second.
        """
        awaited, calm = self.clock.under_way(), 0
        deadline = time.monotonic() + _LONGEST_QUIET  # real time: a virtual clock stands still meanwhile
        while calm < _CALM:
            await asyncio.sleep(0)
            is_answered = awaited.isdisjoint(self.clock.under_way()) or time.monotonic() > deadline
            calm = calm + 1 if is_answered else 0

    def complain(self, problem: str) -> None:
        """Record that a webhook, or the handler of its events, has failed."""
        self.problems.append(problem)
        self.journal.add("problem", problem)

    def clear(self) -> None:
        """Forget all messages, typing indicators, read receipts, reply credits and problems."""
        for kept in (self.messages, self.events, self.typing, self.reading, self.credits, self.free_replies):
            kept.clear()
        self.received.clear()
        self.problems.clear()

    def milliseconds(self) -> str:
        """Return the current time as the API writes it: milliseconds since 1970-01-01 UTC."""
        return str(int(self.clock.wall() * 1000))

    def profile_of(self, account: StoredAccount, profile_id: str) -> StoredProfile:
        """Return the custom profile of `account` with this id.

        Raises:
            Refusal: the account has no such custom profile.
        """
        profile = self.profiles.get(profile_id)
        if profile is None or profile.account != account.id:
            raise no_such_page()
        return profile

    def check_profile(self, account: StoredAccount, profile_id: Any, path: str) -> None:
        """Check that `account` can send messages under this custom profile.

        Raises:
            Refusal: the account may not use custom profiles, or has no such custom profile.
        """
        need_custom_profiles(account)
        profile = self.profiles.get(profile_id) if isinstance(profile_id, str) else None
        if profile is None or profile.account != account.id:
            raise invalid(f"{path}.custom_profile_id", "no such custom profile")

    def media_of(self, account: StoredAccount, media_id: Any) -> StoredMedia:
        """Return the uploaded file of `account` with this id.

        Raises:
            Refusal: the account has no such file, or the file is not yet uploaded and processed.
        """
        media = self.media.get(media_id) if isinstance(media_id, str) else None
        if media is None or media.account != account.id or not media.is_ready:
            raise Refusal(400, 324, f"Invalid Media ID {media_id}.")
        return media

    # ---- replies that do not count ----

    def open_credit(self, account_id: str, person_id: str) -> None:
        """Grant the account a reply credit, since this person has written to it."""
        if self._credit_rule is not None:
            until = self.clock.monotonic() + self._credit_rule.per
            self.credits[account_id, person_id] = Credit(self._credit_rule.replies, until)

    def has_credit(self, account_id: str, person_id: str) -> bool:
        """Tell whether a message of the account to this person would be a free reply."""
        credit = self.credits.get((account_id, person_id))
        return credit is not None and credit.left > 0 and self.clock.monotonic() < credit.until

    def use_credit(self, account_id: str, person_id: str) -> bool:
        """Use up a free reply for a message to this person, if there is one. Tell whether there was one."""
        is_free = self.has_credit(account_id, person_id)
        if is_free:
            self.credits[account_id, person_id].left -= 1
            self.free_replies[account_id] += 1
        return is_free


def need_custom_profiles(account: StoredAccount) -> None:
    """Check that `account` may use custom profiles.

    Raises:
        Refusal: it may not.
    """
    if not account.may_use_custom_profiles:
        raise not_permitted()
