"""What became of messages whose answer did not come."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.pictures import PNG
from tests.scripted import http, serving
from tests.test_http import KEYS, TEXT, connected
from tests.virtual_time import virtual_time
from twdm_async import (
    CallToAction,
    Client,
    DeliveryUnknown,
    DirectMessage,
    InvalidInput,
    LoopClock,
    MalformedResponse,
    Quota,
    QuotaTable,
    Reconciled,
    ResponseError,
    TwdmError,
    Unauthorized,
)
from twdm_async.resources.reconcile import claim, listed, relevant, settle
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.transport import sent
from twdm_async.transport.sent import SentMessages, Sought
from twdm_async.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
TIMEOUT = 30.0


def sought(text: str = "hello", *, to: str = "5", profile: str | None = None, ago: float = 0.0) -> Sought:
    return Sought(to, profile, KEYS.fingerprint(text), NOW - timedelta(seconds=ago))


def event(
    number: int, text: str = "hello", *, to: str = "5", profile: str | None = None, ago: float = 0.0, urls: Any = ()
) -> Any:
    made_at = NOW - timedelta(seconds=ago)
    message = DirectMessage(
        id=str(number), created_at=made_at, recipient_id=to, raw_text=text, custom_profile_id=profile,
        raw_entities={"urls": list(urls)},
    )  # fmt: skip
    return listed(message, KEYS)


def found(wanted: Sequence[Sought], events: Sequence[Any], taken: set[str] | None = None) -> list[str | None]:
    return [None if message is None else message.id for message in claim(wanted, events, taken or set(), TIMEOUT)]


def verdict(
    wanted: Sequence[Sought],
    events: Sequence[Any],
    *,
    ready: Sequence[int] | None = None,
    taken: set[str] | None = None,
    nameless: Sequence[Sought] = (),
    doubtful: Sequence[Sought] = (),
) -> list[str]:
    settlement = settle(
        wanted,
        range(len(wanted)) if ready is None else ready,
        events,
        taken=taken or set(),
        nameless=nameless,
        timeout=TIMEOUT,
        now=NOW,
        doubtful=doubtful,
    )
    names = {place: message.id or "" for place, message in settlement.found.items()}
    names |= dict.fromkeys(settlement.absent, "absent") | dict.fromkeys(settlement.open, "open")
    return [names.get(place, "waits") for place in range(len(wanted))]


def test_what_was_sent_and_not_named_has_an_event_of_its_own() -> None:
    assert verdict([sought(ago=5)], [event(1)], nameless=[sought(ago=10)]) == ["absent"]
    assert verdict([sought(ago=5)], [event(1), event(2)], nameless=[sought(ago=10)]) == ["2"]


def test_a_message_without_an_id_has_its_event_before_all_that_only_may_be_there() -> None:
    assert verdict([sought(ago=10)], [event(1)], nameless=[sought(ago=5)]) == ["absent"], "also if it is the later one"
    assert verdict([sought(ago=10)], [event(1), event(2)], nameless=[sought(ago=5)]) == ["2"]
    late, early = event(1, ago=100), event(2, ago=700)  # the first is both's, the second only the older one's
    assert verdict([sought(ago=600)], [late, early], nameless=[sought(ago=350)]) == ["2"], "it takes what is left"


def test_one_that_is_not_asked_for_may_be_the_one_that_is_there() -> None:
    picture = evolve(sought(ago=5), content="a picture")
    assert verdict([sought()], [event(1)], doubtful=[picture]) == ["open"]
    assert verdict([sought()], [event(1), event(2)], doubtful=[picture]) == ["1"], "both are there"
    assert verdict([sought()], [event(1)], doubtful=[sought(ago=5)]) == ["1"], "it makes no difference which one it is"
    assert verdict([sought()], [event(1)], doubtful=[picture], ready=()) == ["waits"]


def test_all_messages_without_an_id_count_however_far_apart_those_are_that_are_sought() -> None:
    then, now = sought(ago=3 * 86_400), sought()
    alike = sought(ago=3 * 86_400 + 5)
    assert relevant([alike], [then, now]) == relevant([alike], [now, then]) == [alike]
    assert relevant([alike], [now]) == []


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 900)), max_size=10), st.lists(st.floats(0, 900), max_size=6))
def test_nobody_who_may_be_there_takes_what_one_who_is_there_needs(
    wanted: list[tuple[int, float]], there: list[float]
) -> None:
    """As many of those that are certain have an event as if there were no others; and as many of all as can."""
    certain = [sought(ago=ago) for is_certain, ago in wanted if is_certain]
    others = [sought(ago=ago) for is_certain, ago in wanted if not is_certain]
    events = [event(number, ago=ago) for number, ago in enumerate(there)]
    both = claim(others, events, set(), TIMEOUT, certain=certain)
    alone = claim([], events, set(), TIMEOUT, certain=certain)
    assert sum(one is not None for one in both[: len(certain)]) == sum(one is not None for one in alone)
    together = claim([*certain, *others], events, set(), TIMEOUT)
    assert sum(one is not None for one in both) == sum(one is not None for one in together)


def test_among_messages_that_say_the_same_and_are_not_alike_it_cannot_be_told_which_one_is_missing() -> None:
    picture = evolve(sought(), content="a picture")
    assert verdict([sought(), picture], [event(1)]) == ["open", "open"]
    assert verdict([sought(), picture], [event(1), event(2)]) == ["1", "2"], "nothing is missing"
    assert verdict([sought(), picture], []) == ["absent", "absent"], "everything is"
    assert verdict([sought(), picture], [event(1)], ready=()) == ["waits", "waits"]
    under_profile = sought(profile="7")
    assert verdict([under_profile, sought()], [event(1)]) == ["open", "open"], "nobody knows if the list tells profiles"
    assert verdict([under_profile, sought()], [event(1, profile="7")]) == ["1", "absent"]


def test_the_same_words_to_the_same_person_at_that_time() -> None:
    assert found([sought()], [event(1)]) == ["1"]
    assert found([sought()], [event(1, to="6")]) == [None]
    assert found([sought()], [event(1, "Hello")]) == [None]
    assert found([sought()], [event(1, ago=3600)]) == [None]
    assert found([sought(ago=3600)], [event(1)]) == [None]
    assert found([sought(ago=299)], [event(1)]) == ["1"], "the server lets in what was signed five minutes ago"
    assert found([sought()], [event(1, ago=299)]) == ["1"], "or five minutes ahead"


def test_another_profile_is_another_message_and_none_told_may_be_any() -> None:
    assert found([sought(profile="7")], [event(1, profile="7")]) == ["1"]
    assert found([sought(profile="7")], [event(1, profile="8")]) == [None]
    assert found([sought()], [event(1, profile="8")]) == [None]
    assert found([sought(profile="7")], [event(1)]) == ["1"], "nobody has seen the API tell it in a list"
    tells = event(9, "x", profile="8")
    assert found([sought(profile="7")], [event(1), tells]) == [None], "but here it does"
    assert found([sought(profile="7"), sought()], [event(1), tells]) == [None, "1"]


def test_what_is_known_to_be_another_s_is_not_taken() -> None:
    assert found([sought()], [event(1)], {"1"}) == [None]
    assert found([sought()], [event(1), event(2)], {"1"}) == ["2"]


def test_of_two_that_say_the_same_one_event_is_one_s_only() -> None:
    both = [sought(ago=20), sought(ago=10)]
    assert found(both, [event(1, ago=15)]) == ["1", None]
    assert found(both, [event(1, ago=15), event(2, ago=5)]) == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "shown", "urls"),
    [
        ("Tom & Jerry <3", "Tom &amp; Jerry &lt;3", []),
        ("see https://example.com/a?b=c&d=e", "see https://t.co/x",
         [{"url": "https://t.co/x", "expanded_url": "https://example.com/a?b=c&d=e"}]),
        ("see example.com.", "see https://t.co/x.", [{"url": "https://t.co/x", "expanded_url": "http://example.com"}]),
        ("see http://example.com/", "see https://t.co/x", [{"url": "https://t.co/x", "expanded_url": "http://example.com"}]),
        ("look", "look https://t.co/x", [{"url": "https://t.co/x", "expanded_url": "https://twitter.com/messages/media/1"}]),
        ("", " https://t.co/x", [{"url": "https://t.co/x", "expanded_url": "https://twitter.com/messages/media/1"}]),
        ("see https://shop.example/messages/media/7", "see https://t.co/x",
         [{"url": "https://t.co/x", "expanded_url": "https://shop.example/messages/media/7"}]),
        ("https://x.com/messages/media/7 is it", "https://t.co/x is it",
         [{"url": "https://t.co/x", "expanded_url": "https://x.com/messages/media/7"}]),
        ("see example.com/?a&amp;b", "see https://t.co/x", [{"url": "https://t.co/x", "expanded_url": "http://example.com/?a&amp;b"}]),
        ("see example.com/?a&amp;b", "see https://t.co/x",
         [{"url": "https://t.co/x", "expanded_url": "http://example.com/?a&amp;amp;b"}]),
        ("a.example b.example", "https://t.co/x https://t.co/x1",
         [{"url": "https://t.co/x", "expanded_url": "http://a.example"}, {"url": "https://t.co/x1", "expanded_url": "http://b.example"}]),
        (" two  spaces\r\nand a line ", "two spaces\nand a line", []),
        ("e\u0301", "\u00e9", []),
        ("a\u202eb\u200b", "ab", []),
    ],
)  # fmt: skip
def test_what_the_api_changes_makes_no_difference(text: str, shown: str, urls: Any) -> None:
    assert found([sought(text)], [event(1, shown, urls=urls)]) == ["1"]


def test_a_link_that_cannot_be_undone_leaves_it_open() -> None:
    odd = event(1, "see https://t.co/x")
    assert verdict([sought("see https://example.com")], [odd]) == ["open"]
    assert verdict([sought()], [odd], taken={"1"}) == ["absent"]
    assert verdict([sought(to="6")], [odd]) == ["absent"]
    assert verdict([sought(ago=3600)], [odd]) == ["absent"]
    for unreadable in (
        DirectMessage(id="1"),
        DirectMessage(recipient_id="5", created_at=NOW),
        DirectMessage(id="1", recipient_id="5"),
    ):
        assert verdict([sought()], [listed(unreadable, KEYS)]) == ["open"]
        assert verdict([sought()], [listed(unreadable, KEYS)], ready=()) == ["waits"]


def test_what_is_older_than_the_list_stays_unknown() -> None:
    assert verdict([sought(ago=30 * 86_400)], []) == ["open"]
    assert verdict([sought(ago=28 * 86_400)], []) == ["absent"]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 900)), max_size=12),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 900)), max_size=12),
)
def test_as_many_are_found_as_can_be(wanted: list[tuple[str, float]], there: list[tuple[str, float]]) -> None:
    """By another way of counting: augmenting paths."""
    looked_for = [sought(text, ago=ago) for text, ago in wanted]
    events = [event(number, text, ago=ago) for number, (text, ago) in enumerate(there)]
    got = [number for number in found(looked_for, events) if number is not None]
    assert len(got) == len(set(got))

    def can_be(place: int, number: int) -> bool:
        return claim([looked_for[place]], [events[number]], set(), TIMEOUT) != [None]

    owner: dict[int, int] = {}

    def place_one(place: int, tried: set[int]) -> bool:
        for number in range(len(events)):
            if number not in tried and can_be(place, number):
                tried.add(number)
                if number not in owner or place_one(owner[number], tried):
                    owner[number] = place
                    return True
        return False

    assert len(got) == sum(place_one(place, set()) for place in range(len(looked_for)))


# ---- with a server ----

QUOTAS = QuotaTable.default().replace("direct_messages.send", Quota(1_000_000, per=86_400.0))
MANY_LISTS = QUOTAS.replace("direct_messages.list", Quota(100_000, per=900.0))


@contextlib.asynccontextmanager
async def api(**options: Any) -> AsyncIterator[tuple[Sandbox, Client, LoopClock]]:
    """A sandbox with these options and a client, in virtual time."""
    clock = LoopClock()
    async with (
        Sandbox(clock=clock, **options) as sandbox,
        Client(
            sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=clock, quotas=sandbox.quotas
        ) as client,
    ):
        yield sandbox, client, clock


def lists_read(sandbox: Sandbox) -> int:
    return sum("list.json" in request.path for request in sandbox.requests)


@virtual_time
async def test_a_message_that_arrived_and_one_that_did_not() -> None:
    faults = [
        Fault("reset", endpoint="direct_messages.send", nth=1),
        Fault("reset", endpoint="direct_messages.send", nth=2, processed=False),
    ]
    async with api(faults=faults) as (sandbox, client, _):
        unknowns: list[DeliveryUnknown] = []
        for _ in range(3):
            try:
                await client.direct_messages.send("5", TEXT)
            except DeliveryUnknown as error:
                unknowns.append(error)
        assert len(unknowns) == 2
        arrived, absent = await client.direct_messages.reconcile(*unknowns)
        assert (arrived.delivered, absent.delivered) == ("yes", "no")
        assert arrived.message is not None
        assert arrived.message.id == sandbox.messages[0].id
        assert await client.direct_messages.reconcile(absent.unknown) == (Reconciled(absent.unknown, "no"),)
        assert "SENTINEL" not in repr(unknowns) + repr(arrived)


@virtual_time
async def test_who_asks_again_gets_the_same_answer() -> None:
    faults = [
        Fault("reset", endpoint="direct_messages.send", nth=1),
        Fault("reset", endpoint="direct_messages.send", nth=2, processed=False),
        Fault("401_token", endpoint="direct_messages.list", nth=2),
    ]
    async with api(faults=faults) as (_, client, _):
        unknowns: list[DeliveryUnknown] = []
        for number in range(2):
            with pytest.raises(DeliveryUnknown) as caught:
                await client.direct_messages.send("5", f"{TEXT} {number}")
            unknowns.append(caught.value)
            await asyncio.sleep(0.4)
        with pytest.raises(Unauthorized):
            await client.direct_messages.reconcile(*unknowns)
        for _ in range(2):
            settled = await client.direct_messages.reconcile(*unknowns, unknowns[0])
            assert [one.delivered for one in settled] == ["yes", "no", "yes"]


@pytest.mark.parametrize("body", [{}, {"error": "no"}, {"errors": ["no"]}, {"events": None}, {"events": "no"}])
async def test_fault_24_a_list_that_is_none_does_not_say_that_a_message_is_absent(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)
    async with serving(http(json.dumps(body).encode())) as server, connected(server.url) as client:
        with pytest.raises(DeliveryUnknown) as caught:
            await client.direct_messages.send("5", TEXT)
        with pytest.raises((MalformedResponse, ResponseError)):
            await client.direct_messages.reconcile(caught.value)


@virtual_time
async def test_all_there_is_to_a_message_is_found_again() -> None:
    async with api(quotas=MANY_LISTS, faults=[Fault("cut", endpoint="direct_messages.send")]) as (sandbox, client, _):
        profile = (await client.custom_profiles.create("Anna", PNG)).id
        picture = await client.media.upload(PNG, category="dm_image", shared=True)
        for text, options in (
            ("Tom & Jerry <3 see https://example.com/?a=b&c=d and example.org", {}),
            ("hello", {"custom_profile_id": profile, "attachment": picture}),
            (None, {"attachment": picture}),
            ("buttons", {"ctas": [CallToAction("Shop", "https://example.com")]}),
        ):
            with pytest.raises(DeliveryUnknown) as caught:
                await client.direct_messages.send("5", text, **options)
            (settled,) = await client.direct_messages.reconcile(caught.value)
            assert settled.message is not None
            assert settled.message.id == sandbox.messages[-1].id


async def test_one_list_settles_all_who_ask_meanwhile() -> None:
    async with (
        Sandbox(faults=[Fault("reset", endpoint="direct_messages.send")]) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client,
    ):
        results = await asyncio.gather(
            *(client.direct_messages.send("5", f"{TEXT} {number}") for number in range(20)), return_exceptions=True
        )
        unknowns = [result for result in results if isinstance(result, DeliveryUnknown)]
        settled = await asyncio.gather(*(client.direct_messages.reconcile(one) for one in unknowns))
        assert [one.delivered for (one,) in settled] == ["yes"] * 20
        assert lists_read(sandbox) == 1


@virtual_time
async def test_absent_is_said_when_it_has_settled_and_no_sooner() -> None:
    fault = Fault("close", endpoint="direct_messages.send", processed=False)
    async with api(faults=[fault]) as (sandbox, client, clock):
        with pytest.raises(DeliveryUnknown) as caught:
            await client.direct_messages.send("5", TEXT)
        began = clock.monotonic()
        await asyncio.sleep(20)
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert settled.delivered == "no"
        assert 600 <= clock.monotonic() - began < 710
        assert lists_read(sandbox) == 5
        (again,) = await client.direct_messages.reconcile(caught.value)
        assert again.delivered == "no"
        assert clock.monotonic() - began < 910, "it has settled already, and is only looked for twice more"
        clock.wrong_by = -3600.0  # the clock is set back: it must not take an hour
        await client.direct_messages.reconcile(caught.value)
        assert clock.monotonic() - began < 910 + 710 + 90


@virtual_time
async def test_a_message_on_its_way_is_not_mistaken_for_one_that_is_sought() -> None:
    first = Fault("close", endpoint="direct_messages.send", nth=1, processed=False)
    async with api(faults=[first]) as (sandbox, client, _):
        with pytest.raises(DeliveryUnknown) as caught:
            await client.direct_messages.send("5", TEXT)
        ways = itertools.count(1)

        async def travel() -> None:
            if next(ways) == 2:  # the second message's answer takes longer than the whole list
                await asyncio.sleep(0.4)

        sandbox._travel = travel  # type: ignore[method-assign]
        second = asyncio.create_task(client.direct_messages.send("5", TEXT))
        while not sandbox.messages:
            await asyncio.sleep(0.01)
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert (await second).id == sandbox.messages[0].id
        assert settled.delivered == "no"


@virtual_time
async def test_a_message_whose_reply_told_no_id_keeps_its_event() -> None:
    faults = [
        Fault("no_id", endpoint="direct_messages.send", nth=1),
        Fault("close", endpoint="direct_messages.send", nth=2, processed=False),
    ]
    async with api(faults=faults) as (sandbox, client, _):
        assert (await client.direct_messages.send("5", TEXT)).id is None
        with pytest.raises(DeliveryUnknown) as caught:
            await client.direct_messages.send("5", TEXT)
        assert len(sandbox.messages) == 1
        (settled,) = await client.direct_messages.reconcile(caught.value)
        assert settled.delivered == "no"


@pytest.mark.parametrize(
    "unknown",
    [
        "an error",
        InvalidInput(parameter="a", problem="b"),
        DeliveryUnknown(endpoint="custom_profiles.create", problem="silence", sent_at=NOW),
        DeliveryUnknown(endpoint="direct_messages.send", problem="silence", sent_at=NOW, recipient_id="5"),
        DeliveryUnknown(
            endpoint="direct_messages.send",
            problem="silence",
            sent_at=NOW,
            recipient_id="5",
            fingerprint=KEYS.fingerprint("of another account"),
        ),
    ],
)
async def test_what_cannot_be_looked_for_is_refused(unknown: Any, client: Client, sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInput, match="unknowns"):
        await client.direct_messages.reconcile(unknown)
    assert not sandbox.requests
    assert await client.direct_messages.reconcile() == ()
    with pytest.raises(InvalidInput, match="settle_after"):
        await client.direct_messages.reconcile(settle_after=-1)
    with pytest.raises(InvalidInput, match="settle_after: must be 150 seconds or more"):
        await client.direct_messages.reconcile(settle_after=149.0)


@pytest.mark.soak
@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.soak)])
async def test_many_sends_to_a_hostile_server(count: int) -> None:
    hostile = Fault(("reset", "silence", "cut", "half_json", "503"), endpoint="direct_messages.send", probability=0.3)
    early = Fault(("reset", "503"), endpoint="direct_messages.send", probability=0.05, processed=False)
    async with (
        Sandbox(quotas=MANY_LISTS, faults=[hostile, early], seed=11) as sandbox,
        Client(
            sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=MANY_LISTS, timeout=0.5
        ) as client,
    ):
        sandbox.unreachable.add("13")
        texts = [f"{TEXT} {number // 2}" for number in range(count)]  # each twice, to people of their own or the same
        people = [str(number % 14) for number in range(count)]
        results = await asyncio.gather(
            *(client.direct_messages.send(to, text) for to, text in zip(people, texts, strict=True)),
            return_exceptions=True,
        )
        assert all(isinstance(result, (DirectMessage, TwdmError)) for result in results)
        unknowns = [result for result in results if isinstance(result, DeliveryUnknown)]
        refused = [result for result in results if isinstance(result, TwdmError) and result not in unknowns]
        assert len(unknowns) > count / 5
        assert len(refused) > count / 33
        arrived = Counter((message.recipient_id, message.text) for message in sandbox.messages)
        asked = Counter(zip(people, texts, strict=True))
        assert all(count <= asked[what] for what, count in arrived.items()), "some arrived twice"
        settled = await client.direct_messages.reconcile(*unknowns, settle_after=2.5)
        assert {one.delivered for one in settled} == {"yes", "no"}
        known = [result.id for result in results if isinstance(result, DirectMessage)]
        known += [one.message.id for one in settled if one.message]
        assert sorted(known, key=str) == sorted(message.id for message in sandbox.messages)
        for one in settled:
            assert one.message is None or one.message.recipient_id == one.unknown.recipient_id


def test_of_the_messages_that_were_answered_the_latest_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "_MOST", 100)
    known = SentMessages(KEYS)
    for number in range(1000):
        known.note_answer(Message("5"), DirectMessage(id=str(number), created_at=NOW), NOW)
        assert str(number) in known
        assert str(max(0, number - 99)) in known
        assert len(known.listable(NOW)) <= 200
    assert "1" not in known


def test_the_list_must_show_a_message_from_the_earliest_time_that_is_known_until_it_is_deleted() -> None:
    earlier, later = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    known = SentMessages(KEYS)
    known.note_answer(Message("5"), DirectMessage(id="1", created_at=later), NOW)
    assert known.listable(earlier) == {"1": NOW}
    known.note_listable("1", earlier)
    known.note_listable("1", later)
    known.note_listable("2", later)
    assert known.listable(earlier) == {"1": earlier, "2": later}
    assert known.listable(later) == {"2": later}
    known.note_deleted("1")
    known.note_listable("1", later)  # by a list that shows it still
    assert known.listable(earlier) == {"2": later}
    assert "1" in known
    assert "2" not in known
