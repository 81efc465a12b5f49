"""The book decides whether a request may leave. It is the only place in which the rules for that are applied.

A request leaves if a slot is free in every bucket that it claims, both the account's and the app's
(:mod:`twdm_async.quota.ledger`). A bulk request leaves only if the reserve stays free as well
(:mod:`twdm_async.quota.reserve`). A reply that the server does not count (:mod:`twdm_async.quota.credit`) leaves
without using up quota. While a bucket is held, no request that claims it leaves.

The book is pure: operations (:mod:`twdm_async.quota.operations`) come in together with the present moment, by a clock
that never steps back, and answers come out. A store loads the pages that the operations need, applies the operations,
and saves the pages that have changed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, assert_never

from attrs import evolve

from twdm_async._log import quiet_logger
from twdm_async.quota.credit import Conversation, Conversations
from twdm_async.quota.ledger import Ledger
from twdm_async.quota.operations import Answer, GiveBack, Granted, Heard, Hold, Note, Settle, Slot, Take, Tighten, Wait
from twdm_async.quota.spec import Scope
from twdm_async.quota.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from twdm_async.quota.operations import Conversant, ReplyTicket, Terms
    from twdm_async.quota.spec import Quota, ReplyCredit

_log = quiet_logger(__name__)

_CONVERSATIONS = "conversations "  # the prefix of the names of pages with conversations


class Book:
    """The ledgers and conversations of one app, by the names of their pages.

    Args:
        since: seconds since 1970 by the server's clock; what was sent before then is not known.
        assume_spent: the part of a quota that counts as spent in a window of which not everything is known.
    """

    def __init__(self, since: float, assume_spent: float = 0.0) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self.conversations: dict[str, Conversations] = {}
        self.since = since
        self._assume_spent = assume_spent

    def apply(self, operation: Take | Note, now: float) -> Answer:
        """Carry out `operation` at the moment `now`."""
        match operation:
            case Take():
                return self.take(operation, now)
            case Settle(about=slot):
                self.settle(slot, now + operation.grace - operation.age, operation.made, operation.message_id)
            case GiveBack(about=slot):
                for name in slot.buckets:
                    self._ledger(name).give_back(slot.lease_end, operation.count)
                self._withdraw(slot)
            case Hold(about=bucket):
                self._ledger(bucket.name).hold(now + operation.seconds - operation.age)
            case Tighten(about=bucket, quota=quota):
                ledger = self._counting(bucket.name, (quota,), now)
                ledger.tighten(now, quota, operation.remaining, now + operation.seconds - operation.age)
            case Heard(about=conversant, at=at):
                page = self._page(conversant)
                page.forget(at, operation.credit)
                if operation.message_id is not None:
                    self._conversation(conversant).end(_by_id(operation.message_id), at)
                elif at >= self.since and at > page.forgotten:
                    self._conversation(conversant).hear(at)
            case _:
                assert_never(operation)
        return None

    def take(self, take: Take, now: float) -> Answer:
        """Take as many slots as `take` wants and there is room for; tell how long to wait if there is none."""
        terms = take.about
        if terms.known[0] is not self:
            self._look_up(terms, now)
        _, ledgers, limits = terms.known
        if take.count == 0:
            return None
        held_for = max([ledger.held_until - now for ledger in ledgers])
        if held_for > 0:
            return evolve(_wait(self.standings(terms, now)), held_for=held_for)
        slot = Slot(terms, terms.pages, now + terms.lifetime.lease)
        if take.ticket is not None and terms.credit is not None:
            if not take.may_spend and not self._is_free(take.ticket, terms.credit):
                return Wait(Scope.USER, 0.0)
            self._begin(slot, take.ticket, terms.credit)
        if not slot.buckets:
            return Granted(slot, 1)
        rooms = [kept.room(limit, take.count, now) for kept, limit in limits]
        if terms.reserve:
            rooms = [standing.room() for standing in self.standings(terms, now)]
        count = min([take.count, *rooms])
        if count <= 0:
            self._withdraw(slot)
            return _wait(self.standings(terms, now))
        for ledger in ledgers:
            ledger.take(slot.lease_end, count, now)
        return Granted(slot, count)

    def take_one(self, terms: Terms, now: float, recipient: str | None = None) -> Slot | None:
        """Take one slot as :meth:`take` does, if no bucket is held, nothing is reserved and there is room. Else return
        None; also if :meth:`take` was never called for these terms.
        """
        book, ledgers, limits = terms.known
        if book is not self or terms.reserve:
            return None
        for ledger in ledgers:
            if ledger.held_until > now:
                return None
        for kept, limit in limits:
            if kept.total >= limit and kept.used(now) >= limit:
                return None
        lifetime = terms.lifetime
        slot = Slot(terms, terms.pages, now + lifetime.lease, now + lifetime.to_send)
        if recipient is not None and terms.credit is not None:
            self._begin(slot, terms.ticket(recipient), terms.credit)
        if slot.buckets:
            for ledger in ledgers:
                ledger.take(slot.lease_end, 1, now)
        return slot

    def settle(self, slot: Slot, seen: float, made: float | None = None, message_id: str | None = None) -> None:
        """Let `slot` count from the moment `seen`, and note the message that was sent with it, if there was one."""
        for name in slot.buckets:
            (self.ledgers.get(name) or self._ledger(name)).settle(slot.lease_end, seen)
        if slot.ticket is not None:
            conversant = slot.ticket.conversant
            page = self.conversations.get(conversant.page) or self._page(conversant)
            conversation = page.of(conversant.person)
            if slot.is_open and message_id is not None:
                # From now on the message is noted by its id, as others note it, so that it counts once.
                conversation.end(_by_id(message_id), made)
                conversation.withdraw(slot.ticket.name)
            else:
                conversation.end(slot.ticket.name, made)

    def standings(self, terms: Terms, now: float) -> list[Standing]:
        """Return how each quota stands for requests on these terms. A bucket without quotas, which can only be held,
        has a standing without a quota.
        """
        standings: list[Standing] = []
        for number, claim in enumerate(terms.claims):
            ledger = self._ledger(terms.pages[number])
            bulk = self._ledger(terms.pages[number + len(terms.claims)]) if terms.reserve else None
            standings += [
                Standing(claim.bucket, quota, ledger, bulk, terms.reserve, now) for quota in claim.quotas or (None,)
            ]
        return standings

    def _conversation(self, conversant: Conversant) -> Conversation:
        """Return the conversation of the person and the account, which the caller may change."""
        return self._page(conversant).of(conversant.person)

    def load(self, pages: Mapping[str, str]) -> None:
        """Load pages in the form in which :meth:`changes` returned them."""
        for name, text in pages.items():
            if name.startswith(_CONVERSATIONS):
                self.conversations[name] = Conversations.from_json(json.loads(text))
            else:
                self.ledgers[name] = Ledger.from_json(json.loads(text))

    def hold_unknown(self, names: Iterable[str], until: float) -> None:
        """Hold the ledgers of those pages that were not stored: what was spent there may have been lost."""
        for name in names:
            if not name.startswith(_CONVERSATIONS) and name not in self.ledgers:
                self.ledgers[name] = Ledger()
                self.ledgers[name].hold(until)

    def changes(self) -> dict[str, str]:
        """Return the pages that have changed since they were loaded, as JSON texts by name."""
        pages: dict[str, Ledger | Conversations] = {**self.ledgers, **self.conversations}
        return {
            name: json.dumps(page.as_json(), separators=(",", ":")) for name, page in pages.items() if page.is_changed
        }

    def _is_free(self, ticket: ReplyTicket, credit: ReplyCredit) -> bool:
        known = self._page(ticket.conversant).people.get(ticket.conversant.person)
        return known is not None and known.freedom(ticket.now, credit).is_free

    def _begin(self, slot: Slot, ticket: ReplyTicket, credit: ReplyCredit) -> None:
        """Note the message that is about to leave with `slot`; if it is a free reply, let the slot count nowhere."""
        conversant = ticket.conversant
        page = self.conversations.get(conversant.page) or self._page(conversant)
        freedom = page.begin(conversant.person, ticket.name, ticket.now, credit)
        slot.ticket, slot.is_open = ticket, freedom.is_open
        if freedom.is_free:
            slot.buckets = ()

    def _page(self, conversant: Conversant) -> Conversations:
        page = self.conversations.get(conversant.page)
        if page is None:
            page = self.conversations[conversant.page] = Conversations()
        return page

    def _withdraw(self, slot: Slot) -> None:
        if slot.ticket is not None:
            self._conversation(slot.ticket.conversant).withdraw(slot.ticket.name)

    def _look_up(self, terms: Terms, now: float) -> None:
        """Look up the ledgers that count by the quotas of `terms`, and the histograms that limit its requests."""
        pages = list(zip(terms.pages, 2 * terms.claims, strict=False))
        ledgers = [self._counting(name, claim.quotas, now) for name, claim in pages]
        for ledger in ledgers:
            if terms.keep:
                ledger.keep(terms.keep, now)
        limits = [
            ledger.window_of(quota) for ledger, (_, claim) in zip(ledgers, pages, strict=True) for quota in claim.quotas
        ]
        terms.known = self, ledgers, limits

    def _counting(self, name: str, quotas: tuple[Quota, ...], now: float) -> Ledger:
        """Return the ledger of this name, and make it count by all of `quotas`."""
        ledger = self._ledger(name)
        for quota in quotas:
            unknown = ledger.count_by(quota, now, self._assume_spent)
            if unknown:
                what = "%s: only shorter windows were kept, so the first %.0f of the last %.0f seconds are not known"
                _log.warning(what, name, unknown, quota.per)
        return ledger

    def _ledger(self, name: str) -> Ledger:
        ledger = self.ledgers.get(name)
        if ledger is None:
            ledger = self.ledgers[name] = Ledger()
        return ledger


def _wait(standings: list[Standing]) -> Wait:
    """Return the answer that tells how long it takes, at least, until there is room."""
    waits = [Wait(standing.bucket.scope, standing.wait()) for standing in reversed(standings)]
    return max(waits, key=lambda wait: wait.seconds)


def _by_id(message_id: str) -> str:
    return f"id {message_id}"
