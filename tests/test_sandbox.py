"""The double is as strict as the real one: what it lets pass should pass there, too."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.pictures import PNG
from tests.support import HANGS
from twdm_async import (
    CallToAction,
    Client,
    Credentials,
    DeliveryUnknown,
    InvalidInput,
    QuickReply,
    Quota,
    QuotaTable,
    QuotaWaitTooLong,
    ResponseError,
    Scope,
    SharedCoordinate,
)
from twdm_async._clock import Clock
from twdm_async.endpoints import ENDPOINTS, Host
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.sandbox.faults import KINDS, REPEATS
from twdm_async.transport import wire
from twdm_async.transport.oauth1 import OAuth1Signer

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE = {
    "event": {
        "type": "message_create",
        "message_create": {"target": {"recipient_id": "5"}, "message_data": {"text": "hello & goodbye"}},
    }
}


class Raw:
    """A client that sends whatever it is told to, so that the sandbox has something to refuse."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession, keys: Credentials | None = None) -> None:
        self.hosts = {Host.API: sandbox.url, Host.UPLOAD: sandbox.url}
        self.signer = OAuth1Signer(keys or sandbox.credentials, Clock())
        self.session = session

    def signed(self, name: str, arguments: Mapping[str, Any], path_id: str | None = None) -> tuple[wire.Request, str]:
        request = wire.encode(ENDPOINTS[name], self.hosts, arguments, path_id=path_id)
        return request, self.signer.sign(request)

    async def post(
        self, request: wire.Request, authorization: str | None, body: bytes | None = None
    ) -> tuple[Any, Any, Any]:
        headers = {"Authorization": authorization} if authorization else {}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        data = request.body if body is None else body
        assert isinstance(data, bytes)
        async with self.session.request(
            request.endpoint.method, request.target, data=data or None, headers=headers
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, response.headers

    async def call(self, name: str, arguments: Mapping[str, Any], path_id: str | None = None) -> tuple[Any, Any, Any]:
        return await self.post(*self.signed(name, arguments, path_id))


@pytest.fixture
async def session() -> Any:
    async with aiohttp.ClientSession() as session:
        yield session


def codes(body: Any) -> list[int]:
    return [error["code"] for error in body["errors"]]


async def test_a_nonce_is_good_for_one_request(sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
    raw = Raw(sandbox, session)
    request, authorization = raw.signed("direct_messages.send", MESSAGE)
    assert (await raw.post(request, authorization))[0] == 200
    status, body, _ = await raw.post(request, authorization)
    assert (status, codes(body), len(sandbox.messages)) == (401, [32], 1)


@pytest.mark.parametrize("skew", [-400, 400])
async def test_old_and_early_timestamps(sandbox: Sandbox, session: aiohttp.ClientSession, skew: float) -> None:
    raw = Raw(sandbox, session)
    raw.signer.skew = skew
    status, body, headers = await raw.call("direct_messages.send", MESSAGE)
    assert (status, codes(body)) == (401, [135])
    assert headers["Date"].endswith("GMT")


async def test_signatures_that_are_not_right(sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
    raw = Raw(sandbox, session)
    request, authorization = raw.signed("account.update_profile", {"name": "a"})
    assert (await raw.post(request, authorization, b"name=b"))[0] == 401
    assert codes((await raw.post(request, None))[1]) == [215]
    assert (await raw.post(request, 'OAuth oauth_token="x"'))[0] == 401
    assert (await raw.post(request, "Bearer x"))[0] == 400
    wrong = Raw(sandbox, session, Credentials(consumer_key="sandbox-consumer-key", consumer_secret="sandbox-consumer-secreT",
                access_token="2244994945-sandbox-access-token", access_token_secret="sandbox-access-token-secret"))  # fmt: skip
    assert codes((await wrong.call("account.update_profile", {"name": "a"}))[1]) == [32]
    assert {request.account for request in sandbox.requests} == {None}


async def test_replies_are_as_recordings_show_them(sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
    raw = Raw(sandbox, session)
    status, body, headers = await raw.call("direct_messages.send", MESSAGE)
    event = body["event"]
    assert status == 200
    assert event["message_create"]["message_data"]["text"] == "hello &amp; goodbye"
    assert event["message_create"]["message_data"]["entities"].keys() == {
        "hashtags",
        "symbols",
        "user_mentions",
        "urls",
    }
    assert isinstance(event["id"], str)
    assert event["created_timestamp"].isdigit()
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["x-access-level"] == "read-write-directmessages"
    assert not [name for name in headers if name.lower().startswith("x-rate-limit")], "posts tell no limits"
    status, body, headers = await raw.call("custom_profiles.delete", {"id": "5"})
    assert (status, body, headers["Content-Type"]) == (204, None, "text/html; charset=utf-8")
    status, _, headers = await raw.call("account.verify_credentials", {})
    assert (headers["x-rate-limit-limit"], headers["x-rate-limit-remaining"]) == ("75", "74")
    assert int(headers["x-rate-limit-reset"]) - time.time() == pytest.approx(900, abs=3)


class FastClock(Clock):
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


async def test_windows_are_fixed_and_begin_with_the_first_request(session: aiohttp.ClientSession) -> None:
    clock = FastClock()
    table = QuotaTable.default().replace(
        "direct_messages.send", Quota(2, per=900.0), Quota(3, per=900.0, scope=Scope.APP)
    )
    async with Sandbox(quotas=table, clock=clock) as sandbox:
        raw, other = Raw(sandbox, session), Raw(sandbox, session, sandbox.add_account())
        statuses = [(await one.call("direct_messages.send", MESSAGE))[0] for one in (raw, raw, raw, other, other)]
        assert statuses == [200, 200, 429, 200, 429]
        assert [breach.scope for breach in sandbox.breaches] == [Scope.USER, Scope.APP]
        status, body, _ = await raw.call("direct_messages.send", MESSAGE)
        assert (status, codes(body)) == (429, [88])
        clock.ahead = 900.0
        assert (await raw.call("direct_messages.send", MESSAGE))[0] == 200
        assert [window.count for window in sandbox.windows if window.scope is Scope.USER] == [2, 1, 1]
        assert len(sandbox.messages) == 4


async def test_a_spent_quota_of_a_read_is_told_in_headers(session: aiohttp.ClientSession) -> None:
    async with Sandbox(quotas=QuotaTable.default().replace("custom_profiles.get", Quota(1, per=900.0))) as sandbox:
        raw = Raw(sandbox, session)
        assert (await raw.call("custom_profiles.get", {}, "5"))[0] == 404
        status, _, headers = await raw.call("custom_profiles.get", {}, "5")
        assert (status, headers["x-rate-limit-remaining"]) == (429, "0")


def message(**changes: Any) -> dict[str, Any]:
    create: dict[str, Any] = {"target": {"recipient_id": "5"}, "message_data": {"text": "hello"}}
    create.update(changes)
    return {"event": {"type": "message_create", "message_create": create}}


def data(**changes: Any) -> dict[str, Any]:
    return message(message_data={"text": "hello", **changes})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, 214),
        ({"event": {"type": "other"}}, 400, 214),
        ({"event": {"type": "message_create"}}, 400, 214),
        (message(target={"recipient_id": "x"}), 400, 214),
        (message(message_data={}), 400, 214),
        (data(text=5), 400, 214),
        (data(text="x" * 10_001), 403, 354),
        (data(quick_reply={"type": "options", "options": [{"label": "x"}] * 21}), 400, 214),
        (data(quick_reply={"type": "options", "options": [5]}), 400, 214),
        (data(quick_reply={"type": "options", "options": [{"label": "x" * 37}]}), 403, 151),
        (
            data(quick_reply={"type": "options", "options": [{"label": "x"}, {"label": "y", "description": "z"}]}),
            403,
            151,
        ),
        (data(ctas=[{"type": "web_url", "label": "x", "url": "https://x.y"}] * 4), 400, 214),
        (data(ctas=[{"type": "web_url", "label": "x", "url": "ftp://x.y"}]), 400, 407),
        (data(ctas=[{"type": "web_url", "label": "", "url": "https://x.y"}]), 400, 214),
        (data(attachment={"type": "media", "media": {"id": "5"}}), 400, 324),
        (data(attachment={"type": "location"}), 400, 214),
        (message(custom_profile_id="5"), 400, 214),
    ],
)
async def test_messages_that_the_api_refuses(
    sandbox: Sandbox, session: aiohttp.ClientSession, body: Any, status: int, code: int
) -> None:
    answered, error, _ = await Raw(sandbox, session).call("direct_messages.send", body)
    assert (answered, codes(error)) == (status, [code])
    assert not sandbox.messages


async def test_other_refusals(sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
    raw = Raw(sandbox, session)
    avatar = {"media": {"id": "5"}}
    for name, arguments, expected in (
        ("custom_profiles.create", {"custom_profile": {"name": "x", "avatar": avatar}}, (400, [324])),
        ("custom_profiles.create", {"custom_profile": {"name": "x" * 49, "avatar": avatar}}, (400, [214])),
        ("custom_profiles.create", {"custom_profile": {"name": "x"}}, (400, [214])),
        ("custom_profiles.list", {"count": "51"}, (400, [214])),
        ("custom_profiles.list", {"cursor": "nonsense"}, (400, [214])),
        ("custom_profiles.delete", {"id": "x"}, (400, [214])),
        ("custom_profiles.delete", {}, (400, [214])),
        ("welcome_messages.create", {"welcome_message": {"name": "é", "message_data": {"text": "x"}}}, (400, [214])),
        ("welcome_messages.create", {"welcome_message": {"message_data": {"text": "x" * 9_991}}}, (403, [354])),
        ("account.update_profile", {}, (403, [38])),
        ("account.update_profile", {"name": "x" * 51}, (403, [120])),
        ("media.upload_init", {"command": "INIT"}, (400, [214])),
    ):
        status, body, _ = await raw.call(name, arguments)
        assert (status, codes(body)) == expected, (name, arguments)
    request, authorization = raw.signed("direct_messages.send", MESSAGE)
    assert codes((await raw.post(request, authorization, b"{"))[1]) == [214]
    async with session.get(f"{sandbox.url}/1.1/no/such/page.json") as response:
        assert (response.status, codes(await response.json())) == (404, [34])
    async with session.get(f"{sandbox.url}/media/5") as response:
        assert response.status == 404


async def test_profiles_and_files_belong_to_their_account(sandbox: Sandbox) -> None:
    one, other = sandbox.credentials, sandbox.add_account()
    async with (
        Client(one, api_url=sandbox.url, upload_url=sandbox.url) as first,
        Client(other, api_url=sandbox.url, upload_url=sandbox.url) as second,
    ):
        media = await first.media.upload(PNG)
        profile = await first.custom_profiles.create("Anna", media)
        assert [profile async for profile in second.custom_profiles.list()] == []
        with pytest.raises(Exception, match="does not exist"):
            await second.custom_profiles.get(profile.id)
        with pytest.raises(Exception, match="Invalid Media ID"):
            await second.custom_profiles.create("Ben", media)
        with pytest.raises(Exception, match="does not exist"):
            await second.custom_profiles.delete(profile.id)
        with pytest.raises(Exception, match="no such custom profile"):
            await second.direct_messages.send("5", "hello", custom_profile_id=profile.id)


async def test_time_can_pass_faster() -> None:
    async with Sandbox(time_scale=86_400) as sandbox:
        assert sandbox.quotas["direct_messages.send"].quotas[0] == Quota(1000, per=1.0)
    with pytest.raises(InvalidInput):
        Sandbox(time_scale=0)


# ---- faults ----


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
async def test_every_fault_goes_wrong_once_and_the_next_request_is_served(kind: str) -> None:
    fault = Fault(kind, endpoint="direct_messages.send", nth=1)
    patience = 1.0 if kind in {"silence", "drip"} else HANGS
    async with (
        Sandbox(faults=[fault]) as sandbox,
        Client(
            sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, timeout=patience, max_wait=0.1
        ) as client,
    ):
        try:
            await client.direct_messages.send("5", "SENTINELtext")
        except DeliveryUnknown:
            assert len(sandbox.messages) == 1, "it was carried out, and nobody was told"
        except ResponseError as error:
            assert (error.delivered, len(sandbox.messages)) == ("no", 0)
        else:
            assert len(sandbox.messages) == 1
        assert sandbox.requests[0].fault == kind
        if kind in REPEATS:
            await asyncio.sleep(0.05)  # it has come once more: else it could be read as the next answer
        before = len(sandbox.requests)
        if kind == "420":  # which closes the whole account
            with pytest.raises(QuotaWaitTooLong):
                await client.account.verify_credentials()
        else:
            await client.account.verify_credentials()
            assert len(sandbox.requests) == before + 1


async def test_faults_by_endpoint_number_and_chance() -> None:
    sandbox = Sandbox(faults=["close", Fault("reset", endpoint="custom_profiles.get", nth=2)], seed=1)
    rules = [
        Fault("close", endpoint="direct_messages.send", nth=3),
        Fault(["close", "reset"], probability=0.25),
        Fault("429", endpoint="direct_messages.send"),
    ]
    assert [fault.kinds for fault in sandbox.faults] == [("close",), ("reset",)]
    drawn = [[rule.draw("direct_messages.send", sandbox._random) for rule in rules] for _ in range(1000)]
    assert [place for place, (third, _, _) in enumerate(drawn) if third] == [2]
    assert 200 < sum(by_chance is not None for _, by_chance, _ in drawn) < 300
    assert {kind[0] for _, kind, _ in drawn if kind} == {"close", "reset"}
    assert {refusal for _, _, refusal in drawn} == {("429", False)}, "who refuses does not do it"
    assert rules[0].draw("direct_messages.list", sandbox._random) is None


@pytest.mark.parametrize(
    "options",
    [{"kinds": "nonsense"}, {"kinds": ()}, {"kinds": "close", "endpoint": "send"}, {"kinds": "close", "probability": 2},
     {"kinds": "close", "nth": 0}],
)  # fmt: skip
def test_faults_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Fault(**options)


async def test_the_list_of_messages_is_paged_and_shortens_addresses(sandbox: Sandbox, client: Client) -> None:
    for number in range(120):
        await client.direct_messages.send("5", f"SENTINELtext {number} https://example.com/{number} & more")
    listed = [message async for message in client.direct_messages.list()]
    assert [message.id for message in listed] == [message.id for message in reversed(sandbox.messages)]
    assert sum("list.json" in request.path for request in sandbox.requests) == 3
    assert listed[0].text == "SENTINELtext 119 https://t.co/0000000000 & more"
    (url,) = listed[0].entities["urls"]  # type: ignore[index]  # it has some
    assert url["expanded_url"] == "https://example.com/119"
    start, end = url["indices"]
    assert (listed[0].raw_text or "")[start:end] == url["url"]


async def test_what_a_message_offers_is_told(sandbox: Sandbox, client: Client) -> None:
    place = SharedCoordinate(longitude=13.4, latitude=52.5)
    choices, buttons = [QuickReply("Yes"), QuickReply("No")], [CallToAction("Shop", "https://example.com")]
    await client.direct_messages.send(5, "hello", quick_replies=choices, ctas=buttons)
    await client.direct_messages.send(5, "here", attachment=place)
    offering, placed = await sandbox.person(5).receives(2)
    assert (offering.choices, offering.buttons, offering.attachment) == (("Yes", "No"), ("Shop",), None)
    assert (placed.choices, placed.buttons) == ((), ())
    assert placed.attachment is not None
    assert placed.attachment["type"] == "location"
