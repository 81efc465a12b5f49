"""Everything the sandbox remembers."""

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
_CALM: Final = 20  # turns of the loop in which a client of another clock reads an answer on loopback

APPS = {"1": {"id": "1", "name": "sandbox", "url": "https://example.com"}}
"""The one app there is."""


@define(eq=False)
class Event:
    """A message, and who sees it.

    Args:
        shown: how the API shows it.
        account_id: whose conversation it is in; the other one is a person.
        data: its ``message_data``, as it was written.
        media: the file that hangs on it.
        profile: the custom profile it was sent under.
        is_counted: whether it took a place in the quota; ``None`` if it did not come through the API.
        listed_from: when the list shows it.
        hidden_from: the users who have deleted it.
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
        """Whether this user is one of the two, and has not deleted it."""
        create = self.shown["message_create"]
        return user_id in {create["sender_id"], create["target"]["recipient_id"]} and user_id not in self.hidden_from


@define(eq=False)
class Credit:
    """What a person who wrote has given: so many replies until then do not count."""

    left: int
    until: float


class State:
    """What there is.

    Args:
        clock: where time comes from.
        windows: of the quotas.
        credit: the rule by which replies do not count.
        list_lag: draws the seconds after which a new message appears in the list.
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
        self.welcome_messages: dict[str, tuple[str, Json]] = {}  # whose it is, and how it is shown
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
        """How many messages of an account a test has seen a person receive."""
        self.journal = Journal()
        self.problems: list[str] = []
        self.on_event: Callable[[str, Any], None] = lambda _kind, _event: None
        """Is told of all that webhooks tell: a kind, and what it is about."""

    def new_id(self) -> str:
        """An id that was never given out before."""
        return str(next(self._ids))

    async def quiet(self) -> None:
        """Wait until the requests that are under way are answered, and clients have read the answers. Else time could
        be moved between a request and its answer, and a client would take it for a slow one. If an answer does not
        come, wait no longer than a second.
        """
        awaited, calm = self.clock.under_way(), 0
        deadline = time.monotonic() + _LONGEST_QUIET  # of real time: this takes none of a virtual one
        while calm < _CALM:
            await asyncio.sleep(0)
            is_answered = awaited.isdisjoint(self.clock.under_way()) or time.monotonic() > deadline
            calm = calm + 1 if is_answered else 0

    def complain(self, problem: str) -> None:
        """Record that a webhook, or whoever handles its events, has failed."""
        self.problems.append(problem)
        self.journal.add("problem", problem)

    def clear(self) -> None:
        """Forget all messages, and whose replies are free."""
        for kept in (self.messages, self.events, self.typing, self.reading, self.credits, self.free_replies):
            kept.clear()
        self.received.clear()
        self.problems.clear()

    def milliseconds(self) -> str:
        """The time, as the API writes it."""
        return str(int(self.clock.wall() * 1000))

    def profile_of(self, account: StoredAccount, profile_id: str) -> StoredProfile:
        """A custom profile of `account`.

        Raises:
            Refusal: it has none of this id.
        """
        profile = self.profiles.get(profile_id)
        if profile is None or profile.account != account.id:
            raise no_such_page()
        return profile

    def check_profile(self, account: StoredAccount, profile_id: Any, path: str) -> None:
        """Raise if a message of `account` cannot go under this profile."""
        need_custom_profiles(account)
        profile = self.profiles.get(profile_id) if isinstance(profile_id, str) else None
        if profile is None or profile.account != account.id:
            raise invalid(f"{path}.custom_profile_id", "no such custom profile")

    def media_of(self, account: StoredAccount, media_id: Any) -> StoredMedia:
        """An uploaded file of `account` that can be used.

        Raises:
            Refusal: it has none of this id, or it is still processed.
        """
        media = self.media.get(media_id) if isinstance(media_id, str) else None
        if media is None or media.account != account.id or not media.is_ready:
            raise Refusal(400, 324, f"Invalid Media ID {media_id}.")
        return media

    # ---- replies that do not count ----

    def open_credit(self, account_id: str, person_id: str) -> None:
        """This person has written to the account."""
        if self._credit_rule is not None:
            until = self.clock.monotonic() + self._credit_rule.per
            self.credits[account_id, person_id] = Credit(self._credit_rule.replies, until)

    def has_credit(self, account_id: str, person_id: str) -> bool:
        """Whether a message of the account to this person does not count."""
        credit = self.credits.get((account_id, person_id))
        return credit is not None and credit.left > 0 and self.clock.monotonic() < credit.until

    def use_credit(self, account_id: str, person_id: str) -> bool:
        """A message was sent; whether it does not count."""
        is_free = self.has_credit(account_id, person_id)
        if is_free:
            self.credits[account_id, person_id].left -= 1
            self.free_replies[account_id] += 1
        return is_free


def need_custom_profiles(account: StoredAccount) -> None:
    """Raise if `account` may not use custom profiles."""
    if not account.may_use_custom_profiles:
        raise not_permitted()
