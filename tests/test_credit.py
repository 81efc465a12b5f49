"""Replies that do not count: no message leaves without a slot that the server would count."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pictures import PNG
from tests.stores import HandClock, ask, make, server_url
from tests.support import listening
from tests.virtual_time import run
from twdm_async import (
    Client,
    Lane,
    LoopClock,
    MemoryQuotaStore,
    Pace,
    Quota,
    QuotaTable,
    QuotaWaitTooLong,
    ReplyCredit,
    Scope,
    SQLiteQuotaStore,
)
from twdm_async.quota.credit import Conversation, Conversations
from twdm_async.quota.lifetime import RequestLifetime
from twdm_async.quota.limiter import QuotaLimiter
from twdm_async.quota.operations import (
    Bucket,
    Claim,
    Conversant,
    GiveBack,
    Granted,
    Heard,
    ReplyTicket,
    Settle,
    Take,
    Terms,
    Wait,
)
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

DAY = 86_400.0
CREDIT = ReplyCredit(5, per=DAY)


def server_counts(inbound: Sequence[float], sends: Sequence[float]) -> list[bool]:
    """The real rule: of each message, in order, whether it counts."""
    counts: list[bool] = []
    for at in sends:
        opened = max((one for one in inbound if one <= at), default=None)
        used = sum(opened is not None and opened <= other < at for other in sends[: len(counts)])
        counts.append(opened is None or at >= opened + DAY or used >= 5)
    return counts


def test_people_who_were_written_to_long_ago_are_forgotten() -> None:
    page = Conversations()
    for number in range(10_000):
        page.begin(str(number), "message", number * 60.0, CREDIT)
    assert "9999" in page.people
    assert len(page.people) < 2 * (DAY + 3600) / 60 + 100


@given(
    st.lists(st.integers(0, 3 * int(DAY)), max_size=6),
    st.lists(
        st.tuples(st.integers(0, 3 * int(DAY)), st.integers(-300, 300), st.booleans(), st.booleans()), max_size=40
    ),
    st.integers(0, 4 * 3600),
)
def test_what_is_believed_free_is_free(
    inbound: list[int], sends: list[tuple[int, int, bool, bool]], heard_late: int
) -> None:
    """Whatever comes when, however late it is heard of, with a clock that is wrong by up to five minutes, with answers
    that do not tell when a message was made, and with messages that others send as the same account.
    """
    sends = sorted({at: (at, wrong, told, foreign) for at, wrong, told, foreign in sends}.values())
    counts = server_counts([float(at) for at in inbound], [float(at) for at, *_ in sends])
    conversation = Conversation()
    happenings = sorted(
        [(at + heard_late, 0, number) for number, at in enumerate(inbound)]
        + [(at, 1, number) for number, (at, *_) in enumerate(sends)]
    )
    for _, kind, number in happenings:
        if kind == 0:
            conversation.hear(float(inbound[number]))
            continue
        at, wrong, is_told, is_foreign = sends[number]
        if is_foreign:
            for _ in range(2):  # a webhook may come twice
                conversation.end(f"id {number}", float(at))
            continue
        if conversation.begin(str(number), float(at + wrong), CREDIT).is_free:
            assert not counts[number]
        conversation.end(str(number), float(at) if is_told else None)
        conversation = Conversation.from_json(json.loads(json.dumps(conversation.as_json())))


def test_five_replies_are_free_and_a_new_message_opens_five_more() -> None:
    conversation = Conversation()
    assert not conversation.begin("a", 900.0, CREDIT).is_free
    conversation.end("a", 900.0)
    conversation.hear(1000.0)
    frees = []
    for number in range(7):
        frees.append(conversation.begin(f"b{number}", 1001.0 + number, CREDIT).is_free)
        conversation.end(f"b{number}", 1001.0 + number)
    assert frees == [True] * 5 + [False] * 2
    conversation.hear(2000.0)
    assert conversation.begin("c", 2001.0, CREDIT).is_free
    conversation.withdraw("c")
    assert conversation.begin("d", 1000.0 + DAY, CREDIT).is_free, "the later message counts"
    assert not conversation.begin("e", 2000.0 + DAY - 599, CREDIT).is_free, "the day is ten minutes shorter"
    assert not conversation.is_over(2000.0 + DAY, CREDIT)
    assert conversation.is_over(2000.0 + 3 * DAY, CREDIT)


def test_somebody_who_never_writes_is_not_remembered_for_ever() -> None:
    conversation = Conversation()
    for day in range(400):
        conversation.begin(str(day), day * DAY, CREDIT)
        conversation.end(str(day), day * DAY)
    assert len(conversation.sends) <= 20
    for number in range(1000):
        conversation.begin(f"b{number}", 400 * DAY, CREDIT)
        conversation.end(f"b{number}", None)
    assert len(conversation.sends) <= 30


def test_a_clock_that_is_set_forward_and_back_opens_nothing() -> None:
    conversation = Conversation()
    conversation.hear(1000.0)
    for number in range(5):
        assert conversation.begin(str(number), 1001.0, CREDIT).is_free
        conversation.end(str(number), 1001.0)
    assert not conversation.begin("in two days", 1000.0 + 2 * DAY, CREDIT).is_free
    conversation.withdraw("in two days")
    assert not conversation.begin("now", 1002.0, CREDIT).is_free


def test_what_was_sent_before_the_message_was_known_used_the_credit() -> None:
    conversation = Conversation()
    for number in range(5):
        conversation.begin(str(number), 1010.0, CREDIT)
        conversation.end(str(number), 1011.0)
    conversation.hear(1000.0)  # it came late: all five were replies to it
    assert not conversation.begin("x", 1020.0, CREDIT).is_free


# ---- at the gate ----

SEND = "direct_messages.send"


def at_the_gate(
    test: Callable[[QuotaLimiter, MemoryQuotaStore, LoopClock], Coroutine[Any, Any, None]], limit: int
) -> None:
    """Run `test` in virtual time, with so many messages in ten seconds."""

    async def main() -> None:
        clock = LoopClock()
        store = MemoryQuotaStore(clock=clock)
        table = QuotaTable.default().replace(SEND, Quota(limit, per=10.0))
        limiter = QuotaLimiter(table, store, account="anna", app="brand", clock=clock, timeout=30.0)
        await test(limiter, store, clock)
        limiter.close()

    run(main())


PAGE = Conversant("brand", "anna", "5").page


def noted(store: MemoryQuotaStore) -> int:
    """How many messages to the person are noted."""
    return len(store._books["brand"].conversations[PAGE].people["5"].sends)


def write(limiter: QuotaLimiter, clock: LoopClock) -> None:
    limiter.note_inbound("5", datetime.fromtimestamp(clock.wall(), UTC))


def test_what_waits_is_noted_when_it_leaves_and_not_before() -> None:
    async def main(limiter: QuotaLimiter, store: MemoryQuotaStore, clock: LoopClock) -> None:
        recipient = "5"
        first = await limiter.admit(SEND, Lane(), recipient=recipient)
        assert noted(store) == 1
        waiting = asyncio.ensure_future(limiter.admit(SEND, Lane(), recipient=recipient))
        given_up = asyncio.ensure_future(limiter.admit(SEND, Lane(), recipient=recipient))
        await asyncio.sleep(1)
        assert noted(store) == 1
        given_up.cancel()
        limiter.settle(first, seen=True, made=datetime.fromtimestamp(clock.wall(), UTC))
        second = await waiting
        assert noted(store) == 2
        limiter.give_back(second)
        assert noted(store) == 1
        with pytest.raises(QuotaWaitTooLong):
            _ = [await limiter.admit(SEND, Lane(), 1.0, recipient=recipient) for _ in range(2)]
        assert noted(store) == 2, "the one that was refused is not"

    at_the_gate(main, limit=1)


def test_a_free_reply_leaves_while_the_quota_is_spent_but_not_while_it_is_held() -> None:
    async def main(limiter: QuotaLimiter, store: MemoryQuotaStore, clock: LoopClock) -> None:
        recipient = "5"
        limiter.settle(await limiter.admit(SEND, Lane()), seen=True)
        write(limiter, clock)
        for _ in range(4):
            slot = await limiter.admit(SEND, Lane(), 0.0, recipient=recipient)
            assert slot.buckets == ()
            limiter.settle(slot, seen=True, made=datetime.fromtimestamp(clock.wall(), UTC))
        limiter.refused(SEND, {})
        with pytest.raises(QuotaWaitTooLong):
            await limiter.admit(SEND, Lane(), 5.0, recipient=recipient)
        assert noted(store) == 4
        await asyncio.sleep(100)
        assert (await limiter.admit(SEND, Lane(), 0.0, recipient=recipient)).buckets == ()
        assert (await limiter.admit(SEND, Lane(), 0.0, recipient=recipient)).buckets != (), "that was the fifth"

    at_the_gate(main, limit=1)


def test_nobody_is_noted_where_nothing_is_free() -> None:
    async def main() -> None:
        clock = LoopClock()
        store = MemoryQuotaStore(clock=clock)
        table = QuotaTable.default().replace(SEND, Quota(1, per=10.0), credit=None)
        limiter = QuotaLimiter(table, store, account="anna", app="brand", clock=clock, timeout=30.0)
        write(limiter, clock)
        slot = await limiter.admit(SEND, Lane(), recipient="5")
        assert slot.buckets
        assert not store._books["brand"].conversations

    run(main())


def test_a_reply_that_waits_becomes_free_when_its_person_writes() -> None:
    async def main(limiter: QuotaLimiter, _: MemoryQuotaStore, clock: LoopClock) -> None:
        limiter.settle(await limiter.admit(SEND, Lane()), seen=True)
        waiting = [asyncio.ensure_future(limiter.admit(SEND, Lane(), recipient=person)) for person in ("6", "5", "5")]
        await asyncio.sleep(1)
        write(limiter, clock)
        async with asyncio.timeout(0.1):
            slots = await asyncio.gather(*waiting[1:])
        assert {slot.buckets for slot in slots} == {()}
        assert not waiting[0].done()
        assert (await waiting[0]).buckets, "the other one's turn comes"
        assert not next(iter(limiter._lines.values()))[0].by_person

    at_the_gate(main, limit=1)


def test_a_slot_counts_as_long_as_a_free_one_could_have_come_later() -> None:
    """The fifth reply is slow; the sixth, with a slot, overtakes it and gets the fifth's place. The fifth is
    counted.
    """

    async def main(limiter: QuotaLimiter, _: MemoryQuotaStore, clock: LoopClock) -> None:
        recipient = "5"
        write(limiter, clock)
        slots = [await limiter.admit(SEND, Lane(), recipient=recipient) for _ in range(6)]
        limiter.settle(slots[5], seen=True, made=datetime.fromtimestamp(clock.wall(), UTC))
        began = clock.monotonic()
        await limiter.admit(SEND, Lane())
        assert clock.monotonic() - began >= 10.0 + 100.0

    at_the_gate(main, limit=1)


def test_what_a_person_wrote_before_anything_was_noted_opens_nothing() -> None:
    async def main(limiter: QuotaLimiter, _: MemoryQuotaStore, clock: LoopClock) -> None:
        limiter.note_inbound("5", datetime.fromtimestamp(clock.wall() - 10, UTC))
        assert (await limiter.admit(SEND, Lane(), recipient="5")).buckets

    at_the_gate(main, limit=1)


def test_who_waits_for_manners_looks_again_whether_it_is_free() -> None:
    """The server has refused meanwhile."""

    async def main() -> None:
        clock = LoopClock()
        table = QuotaTable.default().replace(SEND, Quota(1, per=1000.0), pace=Pace(1, per=10.0))
        store = MemoryQuotaStore(clock=clock)
        limiter = QuotaLimiter(table, store, account="anna", app="brand", clock=clock, timeout=30.0)
        write(limiter, clock)
        recipient = "5"
        first = await limiter.admit(SEND, Lane(), recipient=recipient)
        assert first.buckets == ()
        assert first.send_by < clock.monotonic() + 100
        second = asyncio.ensure_future(limiter.admit(SEND, Lane(), recipient=recipient))
        await asyncio.sleep(5)
        limiter.refused(SEND, {"Retry-After": "500"})
        await asyncio.sleep(400)
        assert not second.done()
        await second
        assert clock.monotonic() >= 505

    run(main())


def test_free_replies_have_manners() -> None:
    async def main() -> None:
        clock = LoopClock()
        table = QuotaTable.default()
        store = MemoryQuotaStore(clock=clock)
        limiter = QuotaLimiter(table, store, account="anna", app="brand", clock=clock, timeout=30.0)
        for person in range(100):
            limiter.note_inbound(str(person), datetime.fromtimestamp(clock.wall(), UTC))
        began = clock.monotonic()
        slots = await asyncio.gather(*(limiter.admit(SEND, Lane(), recipient=str(person)) for person in range(100)))
        assert {slot.buckets for slot in slots} == {()}
        assert clock.monotonic() - began == pytest.approx(4.0, abs=0.2), "twenty at once, then twenty a second"
        with pytest.raises(QuotaWaitTooLong):
            await limiter.admit(SEND, Lane(), 0.01, recipient="5")

    run(main())


async def test_what_was_sent_before_the_person_wrote_uses_no_credit(client: Client, sandbox: Sandbox) -> None:
    """The answers tell when the messages were made, by the same clock as the person's."""
    for _ in range(6):
        await client.direct_messages.send(5, "hello")
    await asyncio.sleep(0.01)
    event_id = sandbox.person(5).writes("thanks")
    client.direct_messages.note_event(await client.direct_messages.get(event_id))
    for _ in range(6):
        await client.direct_messages.send(5, "you are welcome")
    (used,) = {one.used for one in client.quota_state() if one.endpoint == SEND}
    assert used == 7
    assert [message.is_counted for message in sandbox.messages] == [True] * 6 + [False] * 5 + [True]


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "postgres"])
async def test_the_stores_agree(  # noqa: PLR0915 - all that can happen
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each does what the pure rule says, also after it was closed and opened again, where it can."""
    url = server_url(kind, request)
    generator, clock, model = random.Random(7), HandClock(), dict[str, Conversation]()
    claims = (Claim(Bucket(SEND, Scope.USER, "anna", "brand"), (Quota(10**6, per=DAY),)),)
    terms = Terms(claims, RequestLifetime.from_timeout(30.0), credit=CREDIT)
    store = make(kind, clock, tmp_path, url)
    await ask(store, Take(terms, ticket=ReplyTicket(Conversant("brand", "anna", "nobody"), "first", clock.wall())))
    clock.now += 10_000
    seen = set()
    try:
        for step in range(400):
            now = clock.wall()
            person = generator.choice("ab")
            conversant, conversation = Conversant("brand", "anna", person), model.setdefault(person, Conversation())
            clock.now += generator.choice([1.0, 50.0, 700.0, 700.0, 40_000.0])
            if generator.random() < 0.25:
                at = now - generator.choice([0.0, 100.0, 5000.0])
                store.note(Heard(conversant, at, CREDIT))
                conversation.hear(at)
                continue
            if generator.random() < 0.1:
                store.note(Heard(conversant, now, CREDIT, f"{step}"))  # by somebody else
                conversation.end(f"id {step}", now)
                continue
            ticket = ReplyTicket(conversant, str(step), now)
            if not conversation.freedom(now, CREDIT).is_free:
                assert isinstance(await ask(store, Take(terms, ticket=ticket, may_spend=False)), Wait)
            answer = await ask(store, Take(terms, ticket=ticket))
            freedom = conversation.begin(str(step), now, CREDIT)
            assert isinstance(answer, Granted)
            slot = answer.slot
            assert (not slot.buckets, slot.is_open) == (freedom.is_free, freedom.is_open)
            seen.add(freedom)
            match generator.randrange(4):
                case 0:
                    store.note(GiveBack(slot))
                    conversation.withdraw(str(step))
                case 1:
                    store.note(Settle(slot))
                    conversation.end(str(step), None)
                case 2:
                    store.note(Settle(slot, made=now))
                    conversation.end(str(step), now)
                case _:
                    pass  # its process has died
            if kind == "sqlite" and step % 100 == 99:
                await store.close()
                store = SQLiteQuotaStore(store._path, clock=clock)  # type: ignore[attr-defined]  # it is one
    finally:
        await store.close()
    assert seen == {(True, True), (False, True), (False, False)}


@pytest.mark.slow
async def test_a_reply_of_which_another_client_hears_the_echo_counts_once(sandbox: Sandbox) -> None:
    async with (
        MemoryQuotaStore() as store,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as client,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as hearing,
    ):
        await asyncio.sleep(1.0)  # what was sent in the store's first second is not known
        event_id = sandbox.person(5).writes("hello")
        hearing.direct_messages.note_event(await hearing.direct_messages.get(event_id))
        for _ in range(5):
            hearing.direct_messages.note_event(await client.direct_messages.send(5, "hello"))
        (used,) = {one.used for one in client.quota_state() if one.endpoint == SEND}
        assert used == 0


def test_a_message_of_somebody_else_is_remembered_as_long_as_our_own() -> None:
    conversation = Conversation()
    conversation.end("id 1", 1000.0)
    assert not conversation.is_over(1000.0 + DAY, CREDIT)


def test_fault_74_what_a_person_sends_in_the_app_uses_up_free_replies() -> None:
    """Five by hand, known by the webhook's echoes: our own reply is the sixth, and takes a slot. And echoes of our own
    messages count once, whether they come before or after the answers.
    """
    table = QuotaTable.default().replace(SEND, Quota(3, per=DAY))

    async def main() -> None:
        clock = LoopClock()
        async with (
            Sandbox(quotas=table, clock=clock) as sandbox,
            Client(
                sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table, clock=clock
            ) as client,
            listening(sandbox, client),
        ):
            person, other = sandbox.person(5), sandbox.person(6)
            await asyncio.sleep(1)  # what was sent in the store's first second is not known
            person.writes("hello")
            for number in range(5):
                person.gets(f"by hand {number}")
            await sandbox.delivered()
            other.writes("hello")
            await sandbox.delivered()
            for number in range(5):
                await client.direct_messages.send(6, f"free {number}", max_wait=60)
            await sandbox.delivered()
            for number in range(3):
                await client.direct_messages.send(5, f"counted {number}", max_wait=60)
            with pytest.raises(QuotaWaitTooLong):
                await client.direct_messages.send(5, "one too many", max_wait=60)
            assert not sandbox.breaches
            assert [message.is_counted for message in sandbox.messages] == [False] * 5 + [True] * 3
            await asyncio.sleep(1)
            person.writes("thanks")
            await sandbox.delivered()
            await client.direct_messages.send(5, "free again", max_wait=60)
            assert not sandbox.messages[-1].is_counted

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize(
    ("seed", "people"), [(0, 3), *(pytest.param(seed, 6, marks=pytest.mark.soak) for seed in (0, 1, 2))]
)
def test_in_the_simulation_the_quota_holds_under_the_real_rule(seed: int, people: int) -> None:
    """Three days of a bot that answers and newsletters, with people who write at random; each message of a person is
    heard of late, or never. The sandbox counts by the real rule.
    """
    table = QuotaTable.default().replace("direct_messages.send", Quota(12, DAY), Quota(1000, DAY, scope=Scope.APP))
    generator = random.Random(seed)

    async def main() -> Sandbox:
        clock = LoopClock()
        async with (
            Sandbox(quotas=table, latency=(0.02, 8.0), clock=clock, seed=seed) as sandbox,
            Client(
                sandbox.credentials,
                api_url=sandbox.url,
                upload_url=sandbox.url,
                quotas=table,
                quota_store=MemoryQuotaStore(clock=clock),
                clock=clock,
            ) as client,
        ):
            agent = client.agent(await client.custom_profiles.create("Anna", PNG))

            async def talk(number: int) -> None:
                person = sandbox.person(1000 + number)
                for _ in range(4):
                    await asyncio.sleep(generator.expovariate(1 / 30_000))
                    person.writes("hello")
                    written_at = datetime.fromtimestamp(clock.wall(), UTC)
                    await asyncio.sleep(generator.choice([0.1, 5.0, 4000.0]))
                    if generator.random() < 0.9:
                        client._limiter.note_inbound(person.id, written_at)
                    for count in range(generator.randrange(8)):
                        await agent.send(person.id, f"{number} {count}", max_wait=None)

            await asyncio.gather(*(talk(number) for number in range(people)))
        return sandbox

    sandbox = run(main())
    assert sandbox.breaches == []
    free = sum(not message.is_counted for message in sandbox.messages)
    windows = [window.count for window in sandbox.windows if window.family == "direct_messages.send"]
    assert free > 4 * people
    assert sum(windows) // 2 == len(sandbox.messages) - free
