"""Several apps, and several accounts, on one inbox: each has its own events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from tests import samples_family as samples
from tests.receiving import post
from tests.support import HANGS
from tests.test_http import KEYS
from twdm_async import Client, Inbox, InvalidInput
from twdm_async.resources.inbox import Received
from twdm_async.webhooks import Event, MessageEvent, Webhook

if TYPE_CHECKING:
    from twdm_async.sandbox import Sandbox
    from twdm_async.storage.places import Place

OTHERS = evolve(KEYS, consumer_key="another-app", consumer_secret="another-secret", access_token="99-token")


async def test_fault_115_a_webhook_leaves_the_events_of_another_app_alone(place: Place) -> None:
    """One brand's bot ends with an event in hand. The other brand's bot, which looks around, must not answer it."""
    begun = asyncio.Event()
    seen: list[str] = []

    async def hang(_: Event) -> None:
        begun.set()
        await asyncio.sleep(HANGS)

    async def note(event: Event) -> None:
        seen.append(event.for_user_id)

    body = samples.WEBHOOK_MESSAGE_RECEIVED
    async with Inbox(place) as here, Inbox(place) as there, Webhook(OTHERS, note, inbox=there) as other:
        async with Webhook(KEYS, hang, inbox=here) as webhook:
            assert await post(webhook, body, KEYS.consumer_secret) == 200
            await begun.wait()
            await webhook.close(timeout=0.01)
        await other._take_over()
        assert await post(other, body | {"for_user_id": "99"}, OTHERS.consumer_secret) == 200
        await other.settled()
        assert seen == ["99"]
        async with Webhook(KEYS, note, inbox=here) as webhook:
            await webhook.settled()
        assert seen == ["99", body["for_user_id"]]


async def test_what_a_poll_had_in_hand_is_handled_by_the_app_whose_webhook_was_told_of_it(place: Place) -> None:
    event = Received("5", "1", "{}")
    async with Inbox(place) as inbox:
        async with Inbox(place) as poll:
            await poll.keep([Received("5", "1")])
            assert await inbox.keep([event], app="a") == []
        assert await inbox.take_over("b") == []
        assert await inbox.take_over("a") == [event]


async def test_what_a_poll_had_in_hand_and_is_told_of_after_its_end_is_of_that_app(place: Place) -> None:
    event = Received("5", "1", "{}")
    async with Inbox(place) as later:
        async with Inbox(place) as poll:
            await poll.keep([Received("5", "1")])
        async with Inbox(place) as webhook:
            assert await webhook.keep([event], app="a") == [event]
        assert await later.take_over("b") == []
        assert await later.take_over("a") == [event]


async def test_what_an_earlier_version_kept_is_handled_by_whoever_comes(place: Place) -> None:
    event = Received("5", "1", "{}")
    async with Inbox(place) as earlier:
        await earlier.keep([event], heard=["check"])
    async with Inbox(place) as inbox:
        assert await inbox.take_over("a") == [event]
        assert set(await inbox.heard("a")) == {"check"}


async def test_an_app_that_got_new_keys_handles_what_it_received_before(place: Place) -> None:
    seen: list[str] = []

    async def note(event: Event) -> None:
        seen.append(event.key)

    body = samples.WEBHOOK_MESSAGE_RECEIVED
    account = body["for_user_id"]
    renewed = evolve(OTHERS, access_token=f"{account}-token")
    async with Inbox(place) as before:
        await before.keep([Received(account, "1", "{}"), Received(account, "2", "{}")], app=KEYS.app)
        await before.set_aside(Received(account, "2"), "it failed")
    async with Inbox(place) as inbox:
        async with Webhook(renewed, note, inbox=inbox) as webhook:
            assert await post(webhook, body, renewed.consumer_secret) == 200
            await webhook.settled()
            assert len(seen) == 1
            await webhook._take_over()  # now it knows the account
            await webhook.settled()
            assert [one.id for one in await inbox.unread()] == ["1"], "it is taken over"
        await inbox.retry("2", account=account)
        async with Client(renewed) as client, Webhook(renewed, note, inbox=inbox, clients=[client]) as webhook:
            await webhook.settled()
            assert {one.id for one in await inbox.unread()} == {"1", "2"}


async def test_whether_x_was_heard_of_is_told_for_each_app(place: Place) -> None:
    async with Inbox(place) as inbox:
        await inbox.keep((), app="a", heard=["delivery", "chat.received"])
        await inbox.keep((), app="b", heard=["check"])
        assert set(await inbox.heard("a")) == {"delivery", "chat.received"}
        assert set(await inbox.heard("b")) == {"check"}
        assert set(await inbox.heard()) == {"delivery", "chat.received", "check"}


async def test_an_event_that_two_accounts_have_received_is_decided_for_one_of_them(place: Place) -> None:
    both = [Received("5", "1", "{}"), Received("6", "1", "{}")]
    async with Inbox(place) as inbox:
        await inbox.keep(both)
        for one in both:
            await inbox.set_aside(one, "it failed")
        assert await inbox.forget("1", account="5") == 1
        assert [one.account for one in await inbox.failed()] == ["6"]
        assert await inbox.retry("1", account="5") == 0
        for wrong in ("six", "\ud800", -1):
            with pytest.raises(InvalidInput, match="account"):
                await inbox.retry("1", account=wrong)
        assert await inbox.retry("1", account=0) == await inbox.retry("1", account="") == 0
        assert await inbox.retry("1", account=6) == 1
        assert await inbox.take_over() == [both[1]]


async def test_a_message_that_one_account_has_handled_is_still_an_event_of_its_sender(sandbox: Sandbox) -> None:
    """Two accounts of a brand use one inbox, and one writes to the other."""
    support = sandbox.add_account()
    seen: list[str] = []

    async def note(event: Event) -> None:
        assert isinstance(event, MessageEvent)
        seen.append(event.message.text or "")

    async with (
        Inbox() as inbox,
        Client(sandbox.credentials, api_url=sandbox.url) as shop,
        Client(support, api_url=sandbox.url) as other,
        Webhook(sandbox.credentials, note, inbox=inbox, with_echoes=True) as webhook,
    ):
        polling = other.direct_messages.poll(inbox, every=1.0, since=shop.clock.utc())
        sent = await shop.direct_messages.send(support.user_id or "", "a customer waits")
        async with contextlib.aclosing(polling) as messages, asyncio.timeout(HANGS):  # type: ignore[type-var]
            async for message in messages:
                await inbox.handled(message)
                break
        told = {"for_user_id": sandbox.credentials.user_id, "direct_message_events": [_shown(sandbox, sent.id)]}
        assert await post(webhook, told, sandbox.credentials.consumer_secret) == 200
        await webhook.settled()
    assert seen == ["a customer waits"]


def _shown(sandbox: Sandbox, event: str | None) -> object:
    return json.loads(json.dumps(sandbox._state.events[event or ""].shown))
