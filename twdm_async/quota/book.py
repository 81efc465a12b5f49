"""The book: the one decision whether a request may leave, and the only place in which its rules are applied.

A request leaves if a slot is free in every bucket it claims, of the account and of the app together
(:mod:`twdm_async.quota.ledger`); a bulk request only if the reserve stays free as well
(:mod:`twdm_async.quota.reserve`); and a reply that the server does not count (:mod:`twdm_async.quota.credit`) leaves
without a slot. While a bucket is held, nothing leaves.

The book is pure: operations come in (:mod:`twdm_async.quota.operations`), with the present moment by a clock that never
steps back, and answers come out. Stores load its pages, apply operations, and save what has changed.
"""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Final, assert_never

from twdm_async.quota.credit import Conversation
from twdm_async.quota.ledger import Ledger, Window
from twdm_async.quota.operations import (
    Answer,
    GiveBack,
    Granted,
    Heard,
    Hold,
    Look,
    Operation,
    Settle,
    Slot,
    Take,
    Tighten,
    Wait,
)
from twdm_async.quota.reserve import BulkShare, bulk_share
from twdm_async.quota.spec import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twdm_async.quota.operations import Claim, Terms
    from twdm_async.quota.spec import Quota, ReplyCredit

_log = logging.getLogger(__name__)

_SHORTEST_RECHECK: Final = 0.001  # seconds
_ANY: Final = 10**12


class Book:
    """The ledgers and conversations of one app, by the names of their pages.

    Args:
        since: seconds since 1970 by the server's clock; of messages that were sent before, nothing is known.
        assume_spent: the part of a quota that is taken as spent in a window of which not all is known.
    """

    def __init__(self, since: float, assume_spent: float = 0.0) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self.conversations: dict[str, Conversation] = {}  # the one touched last comes last
        self.loaded: set[str] = set()  # names of pages that were looked for, whether there were any or not
        self.since = since
        self._assume_spent = assume_spent

    def apply(self, operation: Operation, now: float) -> Answer:
        """Carry out `operation` at the moment `now`."""
        match operation:
            case Take():
                return self.take(operation, now)
            case Settle():
                self.settle(operation, now)
            case GiveBack():
                self._give_back(operation)
            case Hold():
                self._ledger(operation.bucket.name).hold(now + operation.seconds - operation.age)
            case Tighten(quota=quota):
                ledger = self._ledger(operation.bucket.name)
                self._count_by(ledger, operation.bucket.name, quota, now)
                ledger.tighten(now, quota, operation.remaining, now + operation.seconds - operation.age)
            case Heard():
                self._hear(operation)
            case Look(terms=terms):
                for claim in (*terms.claims, *terms.shares):
                    self._claimed(claim, terms, now)
            case _:
                assert_never(operation)
        return None

    def take(self, take: Take, now: float) -> Granted | Wait:
        """Take slots if there are any."""
        terms, count = take.terms, take.count
        ledgers = [self._claimed(claim, terms, now) for claim in terms.claims]
        for share in terms.shares:
            self._claimed(share, terms, now)
        if any(ledger.held_until > now for ledger in ledgers):
            return self._wait(terms, now)
        slot = Slot(terms, terms.pages, now + terms.lifetime.lease)
        if take.ticket is not None and terms.credit is not None and not self._begin_reply(take, slot):
            return Wait(Scope.USER, 0.0)
        if slot.buckets:
            room = self._room(terms, ledgers, now)
            count = min(count, room)
            if count <= 0:
                self._withdraw(slot)
                return self._wait(terms, now)
            for ledger in ledgers:
                ledger.take(slot.lease_end, count)
            for share in terms.shares:
                self._ledger(share.bucket.name).take(slot.lease_end, count)
        return Granted(slot, count)

    def take_one(self, terms: Terms, now: float) -> Slot | None:
        """Take one slot, as :meth:`take` does, if nothing but room in ledgers that are known has to be looked at. Else,
        and if there is no room, return None.
        """
        book, ledgers, limits = terms.plain
        if book is not self:
            _, ledgers, limits = self._plain_terms(terms)
        for kept, limit in limits:
            if now >= kept.next_end:
                kept.expire(now)
            if kept.total >= limit:
                return None
        for ledger in ledgers:
            if ledger.held_until > now:
                return None
        lifetime = terms.lifetime
        lease_end = now + lifetime.lease
        for ledger in ledgers:
            ledger.take(lease_end)
        return Slot(terms, terms.pages, lease_end, now + lifetime.to_send) if ledgers else None

    def _plain_terms(self, terms: Terms) -> tuple[object, list[Ledger], list[tuple[Window, int]]]:
        """Return the ledgers of `terms` and what limits them, if nothing else does and all of them are known."""
        ledgers = [self._ledger(claim.bucket.name) for claim in terms.claims]
        limits = [ledger.limits(claim.quotas) for ledger, claim in zip(ledgers, terms.claims, strict=True)]
        if terms.shares or None in limits or any(ledger.longest < terms.keep for ledger in ledgers):
            return self, [], []
        plain = terms.plain = (self, ledgers, [one for known in limits for one in known or ()])
        return plain

    def settle_slot(self, slot: Slot, seen: float) -> None:
        """Let `slot` count from the moment `seen`."""
        for name in slot.buckets:
            (self.ledgers.get(name) or self._ledger(name)).settle(slot.lease_end, seen)

    def settle(self, operation: Settle, now: float) -> None:
        """Let the slot count from now, or from the end of the grace."""
        slot = operation.slot
        self.settle_slot(slot, now + operation.grace - operation.age)
        if slot.ticket is not None:
            ticket, message_id = slot.ticket, operation.message_id
            conversation = self._conversation(ticket.conversant.page)
            if slot.is_open and message_id is not None:
                # From now on it has the name under which others hear of it, so that it counts once.
                conversation.end(_by_id(message_id), operation.made)
                conversation.withdraw(ticket.name)
            else:
                conversation.end(ticket.name, operation.made)

    def forget_conversations(self, now: float, credit: ReplyCredit) -> None:
        """Forget conversations of which nothing matters any more at `now`, by the server's clock."""
        while self.conversations:
            page = next(iter(self.conversations))
            if not self.conversations[page].is_over(now, credit):
                return
            del self.conversations[page]

    def load(self, pages: Mapping[str, str | None]) -> None:
        """Take in pages as :meth:`changes` returned them; ``None`` if there is none of that name."""
        self.loaded.update(pages)
        for name, text in pages.items():
            if text is not None and name.startswith("conversation "):
                self.conversations[name] = Conversation.from_json(json.loads(text))
            elif text is not None:
                self.ledgers[name] = Ledger.from_json(json.loads(text))

    def changes(self) -> dict[str, str]:
        """Return the pages that have changed since this was last called, as texts."""
        changed: dict[str, str] = {}
        for pages in (self.ledgers, self.conversations):
            for name, page in pages.items():
                if page.is_changed:
                    changed[name] = json.dumps(page.as_json(), separators=(",", ":"))
                    page.is_changed = False
        return changed

    def _give_back(self, operation: GiveBack) -> None:
        for name in operation.slot.buckets:
            for _ in range(operation.count):
                self._ledger(name).give_back(operation.slot.lease_end)
        self._withdraw(operation.slot)

    def _hear(self, operation: Heard) -> None:
        page, at = operation.conversant.page, operation.at
        if operation.message_id is not None:
            self._conversation(page).end(_by_id(operation.message_id), at)
        elif at >= self.since:
            self._conversation(page).hear(at)

    def _begin_reply(self, take: Take, slot: Slot) -> bool:
        """Note the message that is about to leave, and make `slot` that of a free reply if it is one. Return whether it
        may leave if there is room.
        """
        ticket, credit = take.ticket, take.terms.credit
        if ticket is None or credit is None:
            return True
        known = self.conversations.get(ticket.conversant.page)
        is_free = known is not None and known.freedom(ticket.now, credit).is_free
        if not is_free and not take.may_spend:
            return False
        slot.ticket = ticket
        slot.is_open = self._conversation(ticket.conversant.page).begin(ticket.name, ticket.now, credit).is_open
        if is_free:
            slot.buckets = ()
        return True

    def _withdraw(self, slot: Slot) -> None:
        if slot.ticket is not None:
            self._conversation(slot.ticket.conversant.page).withdraw(slot.ticket.name)

    def _room(self, terms: Terms, ledgers: list[Ledger], now: float) -> int:
        """Count the requests that may take a slot."""
        room = _ANY
        for number, claim in enumerate(terms.claims):
            for quota in claim.quotas:
                left = quota.limit - ledgers[number].used(now, quota)
                if terms.shares:
                    share, used = self._bulk_share(terms, number, quota, now)
                    left = min(left - share.kept, share.allowed - used)
                room = min(room, left)
        return room

    def _wait(self, terms: Terms, now: float) -> Wait:
        """Tell how long it takes, at the least, until there is room."""
        scope, longest = Scope.USER, 0.0
        for number, claim in enumerate(terms.claims):
            ledger = self._ledger(claim.bucket.name)
            seconds = max(0.0, ledger.held_until - now)
            for quota in claim.quotas:
                limit, recheck_in, by_bulk_in = quota.limit, math.inf, 0.0
                if terms.shares:
                    share, used = self._bulk_share(terms, number, quota, now)
                    limit -= share.kept
                    recheck_in = max(_SHORTEST_RECHECK, share.allowed_in(used + 1) or quota.per / 50)
                    by_bulk = self._ledger(terms.shares[number].bucket.name)
                    by_bulk_in = by_bulk.free_in(now, quota, share.allowed)
                seconds = max(seconds, min(max(by_bulk_in, ledger.free_in(now, quota, limit)), recheck_in))
            if seconds >= longest:
                scope, longest = claim.bucket.scope, seconds
        return Wait(scope, longest)

    def _bulk_share(self, terms: Terms, number: int, quota: Quota, now: float) -> tuple[BulkShare, int]:
        """Tell what bulk requests may use of `quota`, and how much they do."""
        everyone = self._ledger(terms.claims[number].bucket.name).usage(now, quota)
        bulk = self._ledger(terms.shares[number].bucket.name).usage(now, quota)
        return bulk_share(quota, terms.reserve, everyone, bulk), bulk.used

    def _claimed(self, claim: Claim, terms: Terms, now: float) -> Ledger:
        """Return the ledger of `claim`, in which all its quotas are counted."""
        name = claim.bucket.name
        ledger = self._ledger(name)
        if ledger.limits(claim.quotas) is None:
            for quota in claim.quotas:
                self._count_by(ledger, name, quota, now)
        if ledger.longest < terms.keep:
            ledger.keep(terms.keep, now)
        return ledger

    def _count_by(self, ledger: Ledger, name: str, quota: Quota, now: float) -> None:
        spent = math.ceil(quota.limit * self._assume_spent - 1e-9)
        unknown = ledger.count_by(quota, now, spent)
        if unknown:
            what = "%s: what was sent in the first %.0f of the last %.0f s is not known; shorter windows were kept"
            _log.warning(what, name, unknown, quota.per)

    def _ledger(self, name: str) -> Ledger:
        ledger = self.ledgers.get(name)
        if ledger is None:
            ledger = self.ledgers[name] = Ledger()
        return ledger

    def _conversation(self, page: str) -> Conversation:
        conversation = self.conversations.pop(page) if page in self.conversations else Conversation()
        self.conversations[page] = conversation
        return conversation


def _by_id(message_id: str) -> str:
    return f"id {message_id}"
