"""The page's API: what it shows and does, and whom it refuses."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.pictures import PNG
from tests.receiving import listening
from tests.support import HANGS
from twdm_async import CallToAction, Client, QuickReply, Quota, QuotaTable, RateLimited, Scope
from twdm_async.sandbox import Sandbox
from twdm_async.sandbox.guard import HEADER, why_refused
from twdm_async.sandbox.openapi import OPERATIONS
from twdm_async.webhooks import Event, MessageEvent, Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASKS = {HEADER: "test"}


class Api:
    """What a page or a shell asks."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.url = f"{sandbox.url}/_sandbox"
        self.session = session

    async def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        headers = ASKS if headers is None else headers
        async with self.session.request(method, f"{self.url}/{path}", json=body, headers=headers) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> Any:
        status, answer = await self("GET", path, headers={})
        assert status == 200, answer
        return answer


@pytest.fixture
async def api(sandbox: Sandbox) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(sandbox, session)


async def test_a_message_is_shown_as_the_person_sees_it(api: Api, client: Client, sandbox: Sandbox) -> None:
    profile = await client.custom_profiles.create("Anna <b>", PNG)
    replies = [QuickReply("Order", description="Yours"), QuickReply("Bill", description="Ours")]
    buttons = [CallToAction("Look", url="https://example.com/a")]
    await client.direct_messages.send(
        5, "a < b & https://example.com/x", custom_profile_id=profile.id, quick_replies=replies, ctas=buttons
    )
    [message] = (await api.get("messages"))["messages"]
    assert message["text"] == "a < b & https://example.com/x", "neither escaped nor shortened"
    assert (message["from"], message["person"], message["counted"]) == ("account", "5", True)
    assert message["profile"]["name"] == "Anna <b>"
    assert message["choices"] == [{"label": "Order", "description": "Yours"}, {"label": "Bill", "description": "Ours"}]
    assert message["buttons"] == [{"label": "Look", "url": "https://example.com/a"}]
    async with api.session.get(f"{sandbox.url}{message['profile']['picture']}") as response:
        assert (response.status, await response.read()) == (200, PNG)
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    await client.custom_profiles.delete(profile.id)
    assert (await api.get("messages/latest"))["profile"]["name"] == "Anna <b>", "who has written stays who it was"


async def test_a_person_writes_taps_types_and_reads(api: Api, client: Client, sandbox: Sandbox) -> None:
    assert (await api("POST", "people/5/write", {"text": "hello <i>"}))[0] == 200
    await client.direct_messages.send(5, "what?", quick_replies=[QuickReply("Order", metadata="o")])
    assert (await api("POST", "people/5/tap", {"label": "Order"}))[0] == 200
    assert (await api("POST", "people/5/type", {}))[0] == 200
    assert (await api("POST", "people/5/read", {}))[0] == 200
    shown = (await api.get("messages"))["messages"]
    assert [(one["from"], one["text"], one["tapped"], one["counted"]) for one in shown] == [
        ("person", "hello <i>", False, None),
        ("account", "what?", False, False),
        ("person", "Order", True, None),
    ]
    [person] = (await api.get("people"))["people"]
    assert (person["id"], person["messages"], person["latest"]["text"]) == ("5", 3, "Order")
    listed = [message.text async for message in client.direct_messages.list()]
    assert listed == ["Order", "what?", "hello <i>"]
    assert len(sandbox.person(5).inbox) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "people/5/write", {}, 400, "1 to 10000 characters"),
        ("POST", "people/5/write", {"text": 5}, 400, "1 to 10000 characters"),
        ("POST", "people/x/write", {"text": "a"}, 400, "user_id"),
        ("POST", "people/5/write", {"text": "a", "account": "7"}, 404, "no such account"),
        ("POST", "people/5/tap", {"label": "No"}, 400, "no message offers"),
        ("POST", "people/5/read", {}, 400, "nothing to read"),
        ("POST", "people/5/write", [1], 400, "a JSON object"),
        ("POST", "people/5/write", {"text": "a", "more": "x" * 100_000}, 400, "at most 100000 bytes"),
        ("POST", "faults", {"kinds": "nonsense"}, 400, "kinds"),
        ("POST", "faults", {"nth": 1}, 400, "must have kinds"),
        ("POST", "faults", {"kinds": "reset", "_seen": 1}, 400, "must have kinds"),
        ("POST", "time", {}, 400, "90s, 15min, 24h"),
        ("POST", "time", {"advance": "soon"}, 400, "90s, 15min, 24h"),
        ("POST", "time", {"advance": -1}, 400, "seconds"),
        ("POST", "time", {"advance": True}, 400, "seconds"),
        ("POST", "webhooks", {"url": "file:///etc/passwd"}, 400, "http"),
        ("POST", "webhooks", {"url": "http://127.0.0.1:1/"}, 400, "did not pass the check"),
        ("POST", "webhooks", {"url": "http://127.0.0.1:1/", "envelope": "x"}, 400, "account_activity"),
        ("GET", "messages?most=9999", None, 400, "1000"),
        ("GET", "messages?most=-1", None, 400, "whole number"),
        ("GET", "messages?most=0", None, 400, "from 1 to 1000"),
        ("GET", f"messages?after={'9' * 5000}", None, 400, "whole number"),
        ("POST", "webhooks", {"url": "http://127.0.0.1:1/", "envelope": []}, 400, "account_activity"),
        ("POST", "webhooks", {"url": "http://"}, 400, "http"),
        ("POST", "people/5/write", {"text": "\ud83d"}, 400, "text"),
        ("POST", "faults", {"kinds": "503", "processed": "x"}, 400, "processed"),
        ("GET", "messages?wait=x", None, 400, "seconds"),
        ("GET", "messages?wait=301", None, 400, "300"),
        ("GET", "messages/latest", None, 404, "no such message"),
    ],
)
async def test_what_is_wrong_is_refused_with_a_reason(
    api: Api, method: str, path: str, body: Any, status: int, words: str
) -> None:
    answered, answer = await api(method, path, body)
    assert answered == status
    assert words in answer["error"]


async def test_messages_are_filtered_paged_and_waited_for(api: Api, sandbox: Sandbox) -> None:
    ids = [sandbox.person(5 + number % 2).writes(f"number {number}") for number in range(10)]
    assert [one["id"] for one in (await api.get("messages?person=6&most=2"))["messages"]] == [ids[7], ids[9]]
    assert [one["id"] for one in (await api.get(f"messages?after={ids[3]}&before={ids[6]}"))["messages"]] == ids[4:6]
    assert (await api.get("messages/latest?text=er+4"))["id"] == ids[4]
    assert (await api.get("messages?from=account"))["messages"] == []
    assert (await api.get("messages?account=7"))["messages"] == []
    assert (await api.get("messages?profile=7"))["messages"] == []
    assert [one["id"] for one in (await api.get("people"))["people"]] == ["6", "5"], "the latest first"
    waiting = asyncio.create_task(api.get(f"messages?after={ids[-1]}&count=2&wait=300"))
    for number in (10, 11):
        await asyncio.sleep(0.01)
        assert not waiting.done()
        sandbox.person(5).writes(f"number {number}")
    assert [one["text"] for one in (await waiting)["messages"]] == ["number 10", "number 11"]
    assert (await api.get("messages?person=99&wait=0.01"))["messages"] == []


async def test_requests_are_shown_with_the_reason_why_they_were_refused() -> None:
    table = QuotaTable.default().replace("direct_messages.send", Quota(2, per=900.0), credit=None)
    async with Sandbox(quotas=table) as sandbox, aiohttp.ClientSession() as session:
        api = Api(sandbox, session)
        generous = QuotaTable.default().replace("direct_messages.send", Quota(9, per=900.0))
        async with sandbox.client(quotas=generous, max_wait=0) as client:
            for _ in range(2):
                await client.direct_messages.send(5, "hello")
            with pytest.raises(RateLimited):
                await client.direct_messages.send(5, "hello")
        async with session.post(f"{sandbox.url}/1.1/direct_messages/events/new.json") as response:
            assert response.status == 400
        requests = (await api.get("requests"))["requests"]
        assert [one["status"] for one in requests] == [200, 200, 429, 400]
        assert [one["number"] for one in requests] == [1, 2, 3, 4]
        assert "Rate limit exceeded (code 88) 2 of 2 of this user are spent until" in requests[2]["reason"]
        assert "Bad Authentication data. (code 215)" in requests[3]["reason"]
        assert [one["status"] for one in (await api.get("requests?refused=true"))["requests"]] == [429, 400]
        assert (await api.get("requests?after=3"))["requests"] == requests[3:]
        [gauge] = (await api.get("quotas"))["quotas"]
        assert (gauge["endpoint"], gauge["used"], gauge["limit"]) == ("direct_messages.send", 2, 2)
        assert (await api("POST", "time", {"advance": "15min"}))[0] == 200
        assert (await api.get("quotas"))["quotas"] == []
        assert "consumer" not in json.dumps(await api.get("state")), "an app is called by its key, which is not shown"


async def test_faults_are_switched(api: Api, sandbox: Sandbox) -> None:
    assert (await api("POST", "faults", {"kinds": ["503", "504"], "probability": 0.5}))[0] == 200
    assert (await api("POST", "faults", {"kinds": "429", "endpoint": "direct_messages.send", "nth": 2}))[0] == 200
    shown = await api.get("faults")
    assert [one["kinds"] for one in shown["faults"]] == [["503", "504"], ["429"]]
    assert {"reset", "503"} <= set(shown["kinds"])
    assert [fault.kinds for fault in sandbox.faults] == [("503", "504"), ("429",)]
    assert (await api("DELETE", "faults?kind=503"))[1]["faults"][0]["kinds"] == ["429"]
    assert (await api("DELETE", "faults"))[1] == {"faults": []}


async def test_clear_forgets_what_happened_and_keeps_what_was_made(
    api: Api, client: Client, sandbox: Sandbox, profile_id: str
) -> None:
    await client.direct_messages.send(5, "hello", custom_profile_id=profile_id)
    assert (await api("POST", "clear", {}))[0] == 200
    counts = (await api.get("state"))["counts"]
    assert counts == {"messages": 0, "requests": 0, "breaches": 0}
    assert (await api.get("quotas"))["quotas"] == []
    assert list(sandbox.profiles) == [profile_id]
    await client.direct_messages.send(5, "again", custom_profile_id=profile_id)
    assert len(sandbox.messages) == 1


async def _read(stream: aiohttp.ClientResponse, kinds: int) -> list[tuple[str, int]]:
    """The next so many events of a stream: kind and id."""
    found: list[tuple[str, int]] = []
    number = 0
    async with asyncio.timeout(HANGS):
        while len(found) < kinds:
            line = (await stream.content.readline()).decode()
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("event: "):
                found.append((line[7:].strip(), number))
    return found


async def test_events_are_streamed_from_where_one_left_off(api: Api, client: Client, sandbox: Sandbox) -> None:
    async with api.session.get(f"{api.url}/events") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        sandbox.person(5).writes("one")
        await client.direct_messages.indicate_typing(5)
        first = await _read(stream, 3)
    assert [kind for kind, _ in first] == ["message", "typing", "request"]
    sandbox.person(5).writes("two")
    async with api.session.get(f"{api.url}/events", headers={"Last-Event-ID": str(first[0][1])}) as stream:
        again = await _read(stream, 3)
    assert again == [*first[1:], ("message", first[-1][1] + 1)]
    for number in range(2100):
        sandbox.person(5).writes(f"{number}")
    async with api.session.get(f"{api.url}/events", headers={"Last-Event-ID": "1"}) as stream:
        assert [kind for kind, _ in await _read(stream, 1)] == ["reset"], "too much was missed"


async def test_a_sandbox_that_is_closed_ends_what_waits() -> None:
    async with Sandbox() as other, aiohttp.ClientSession() as session:
        stream = await session.get(f"{other.url}/_sandbox/events")
        waiting = asyncio.create_task(session.get(f"{other.url}/_sandbox/messages?wait=300"))
        await asyncio.sleep(0.05)
        assert other._runner is not None
        other._runner._shutdown_timeout = 2 * HANGS  # so long, the server would let them go on
        async with asyncio.timeout(HANGS):
            await other.close()
            with pytest.raises(aiohttp.ClientError):
                await waiting
        stream.close()


async def test_the_description_names_every_call(api: Api) -> None:
    document = await api.get("openapi.json")
    assert document["openapi"] == "3.1.0"
    assert {(path, method.upper()) for path, calls in document["paths"].items() for method in calls} == {
        (operation.path, operation.method) for operation in OPERATIONS
    }
    for operation in OPERATIONS:
        if operation.method == "GET" and operation.name not in {"events", "latest_message"}:
            await api.get(operation.path.removeprefix("/_sandbox/"))


async def test_the_page_and_its_files_are_not_requests_to_the_api(api: Api, sandbox: Sandbox) -> None:
    for path in ("/", "/_sandbox/page.js", "/_sandbox/page.css", "/_sandbox/icon.svg", "/_sandbox/state"):
        async with api.session.get(f"{sandbox.url}{path}") as response:
            assert response.status == 200
            assert response.headers["Content-Security-Policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert "http:" not in (await response.text()).replace("http://www.w3.org/2000/svg", "").replace(
                "http://127.0.0.1:8080/webhook", ""
            )
    assert sandbox.requests == []


# ---- who may use it ----

OURS = "127.0.0.1:8765"


@pytest.mark.parametrize(
    ("method", "headers", "bound_to", "is_let_in"),
    [
        ("GET", {"Host": OURS}, "127.0.0.1", True),
        ("GET", {"Host": "localhost:8765"}, "127.0.0.1", True),
        ("GET", {"Host": "[::1]:8765"}, "::1", True),
        ("GET", {"Host": "evil.example:8765"}, "127.0.0.1", False),
        ("GET", {"Host": "127.0.0.1.evil.example"}, "127.0.0.1", False),
        ("GET", {"Host": "localhost.evil.example"}, "127.0.0.1", False),
        ("GET", {"Host": "192.168.1.5:8765"}, "127.0.0.1", False),
        ("GET", {"Host": "evil.example"}, "0.0.0.0", False),  # noqa: S104 - as above
        ("GET", {"Host": "sandbox:8765"}, "0.0.0.0", True),  # noqa: S104 - as above
        ("GET", {"Host": "sandbox:8765"}, "127.0.0.1", False),
        ("GET", {"Host": "192.168.1.5:8765"}, "0.0.0.0", True),  # noqa: S104 - as above
        ("GET", {"Host": "box.example"}, "box.example", True),
        ("GET", {"Host": ""}, "", False),
        ("GET", {"Host": "[::1"}, "127.0.0.1", False),
        ("GET", {}, "127.0.0.1", False),
        ("POST", {"Host": OURS}, "127.0.0.1", False),
        ("POST", {"Host": OURS, HEADER: "1"}, "127.0.0.1", True),
        ("POST", {"Host": OURS, HEADER: "1", "Origin": f"http://{OURS}"}, "127.0.0.1", True),
        ("POST", {"Host": OURS, HEADER: "1", "Origin": "http://127.0.0.1:3000"}, "127.0.0.1", False),
        ("POST", {"Host": OURS, HEADER: "1", "Origin": "null"}, "127.0.0.1", False),
        ("DELETE", {"Host": OURS}, "127.0.0.1", False),
        ("GET", {"Host": OURS, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "127.0.0.1", False),
        ("GET", {"Host": OURS, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, "127.0.0.1", False),
        (
            "GET",
            {
                "Host": OURS,
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            "127.0.0.1",
            True,
        ),
        (
            "GET",
            {"Host": OURS, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
            "127.0.0.1",
            False,
        ),
    ],
)
def test_who_is_let_in(method: str, headers: dict[str, str], bound_to: str, is_let_in: bool) -> None:
    assert (why_refused(method, headers, bound_to) is None) is is_let_in


async def test_another_site_can_do_nothing(api: Api, sandbox: Sandbox, client: Client) -> None:
    await client.direct_messages.send(5, "hello")
    text = {"text": "forged"}
    assert (await api("POST", "people/5/write", text, headers={}))[0] == 403
    assert (await api("POST", "people/5/write", text, headers=ASKS | {"Origin": "https://evil.example"}))[0] == 403
    assert (await api("POST", "people/5/write", text, headers=ASKS | {"Host": "evil.example"}))[0] == 403
    assert (await api("GET", "messages", headers={"Host": "evil.example"}))[0] == 403
    assert (await api("POST", "clear", {}, headers={}))[0] == 403
    # A browser asks first whether it may set the header, and is not told so.
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Headers": HEADER}
    async with api.session.options(f"{api.url}/clear", headers=headers) as response:
        assert response.status >= 400
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
    # Its keys are known to everybody, so a signature is no proof.
    for foreign in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        async with api.session.get(f"{sandbox.url}/1.1/direct_messages/events/list.json", headers=foreign) as response:
            assert response.status == 403
    for path in ("/", "/media/1"):
        async with api.session.get(f"{sandbox.url}{path}", headers={"Host": "evil.example"}) as response:
            assert response.status == 403
    assert [message.text for message in sandbox.messages] == ["hello"]
    assert len((await api.get("people"))["people"]) == 1


async def test_it_listens_on_this_machine_alone_unless_it_is_told_otherwise() -> None:
    async with Sandbox() as sandbox:
        assert sandbox._runner is not None
        assert [address[0] for address in sandbox._runner.addresses] == ["127.0.0.1"]
    async with Sandbox(host="0.0.0.0") as sandbox:  # noqa: S104 - that is what is tested
        assert sandbox._runner is not None
        assert [address[0] for address in sandbox._runner.addresses] == ["0.0.0.0"]  # noqa: S104 - as above
        async with sandbox.client() as client:
            await client.direct_messages.send(5, "hello")


async def test_it_listens_at_another_address_besides() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with Sandbox(host="::1") as sandbox, sandbox.client() as client:
        await client.direct_messages.send(5, "hello")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://[::1]:{sandbox.port}/_sandbox/messages/latest") as response,
        ):
            assert (await response.json())["text"] == "hello"


async def test_each_account_is_spoken_to_by_its_id(api: Api, sandbox: Sandbox) -> None:
    other = sandbox.add_account()
    heard: list[tuple[str, str | None]] = []

    async def handle(event: Event) -> None:
        assert isinstance(event, MessageEvent)
        heard.append((event.for_user_id, event.message.text))

    webhook = Webhook(sandbox.credentials, handle)
    async with listening(webhook) as url:
        assert (await api("POST", "webhooks", {"url": url, "account": other.user_id}))[0] == 200
        [shown] = (await api.get("webhooks"))["webhooks"]
        assert (shown["url"], shown["account"], shown["last"]) == (url, other.user_id, "checked")
        for account in ({}, {"account": other.user_id}):
            assert (await api("POST", "people/5/write", {"text": f"to {account}"} | account))[0] == 200
        await sandbox.delivered()
        await webhook.settled()
        assert heard == [(other.user_id, f"to {{'account': '{other.user_id}'}}")]
        assert (await api.get("webhooks"))["webhooks"][0]["last"] == "delivered"
        [own] = (await api.get(f"messages?account={other.user_id}"))["messages"]
        assert own["text"] == heard[0][1]
        assert (await api("DELETE", f"webhooks?url={url}"))[1] == {"webhooks": []}
        assert (await api("POST", "people/5/write", {"text": "unheard", "account": other.user_id}))[0] == 200
        await sandbox.delivered()
        await webhook.settled()
    assert len(heard) == 1


async def test_the_welcome_message_is_shown(api: Api, client: Client, profile_id: str) -> None:
    assert (await api.get("state"))["accounts"][0]["welcome"] is None
    made = await client.welcome_messages.create(
        "Hello & welcome", quick_replies=[QuickReply("Order")], custom_profile_id=profile_id
    )
    await client.welcome_message_rules.set_default(made)
    welcome = (await api.get("state"))["accounts"][0]["welcome"]
    assert (welcome["choices"][0]["label"], welcome["profile"]["id"]) == ("Order", profile_id)
    assert (await api("POST", "people/5/tap", {"label": "Order"}))[0] == 200


async def test_who_types_is_told(api: Api, client: Client, sandbox: Sandbox) -> None:
    async with api.session.get(f"{api.url}/events") as stream:
        sandbox.person(5).types()
        await client.direct_messages.indicate_typing(5)
        data: list[Any] = []
        async with asyncio.timeout(HANGS):
            while len(data) < 2:
                line = (await stream.content.readline()).decode()
                if line.startswith("data: "):
                    data.append(json.loads(line[6:]))
    assert [one["from"] for one in data] == ["person", "account"]
    assert {one["person"] for one in data} == {"5"}


async def test_an_account_can_be_a_person_of_another_one(api: Api, sandbox: Sandbox) -> None:
    other = sandbox.add_account()
    sandbox.person(sandbox.credentials.user_id or "", other).writes("from one to the other")
    [message] = (await api.get("messages"))["messages"]
    assert (message["from"], message["account"], message["person"]) == ("person", other.user_id, "2244994945")


async def test_a_page_that_is_closed_leaves_no_trace(
    api: Api, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        stream = await api.session.get(f"{api.url}/events")
        stream.close()
        for number in range(20):
            sandbox.person(5).writes(f"{number}")
            await asyncio.sleep(0.001)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_account_s_quota_and_the_app_s_are_told_apart(api: Api, client: Client) -> None:
    await client.direct_messages.send(5, "hello")
    scopes = {one["scope"]: one["owner"] for one in (await api.get("quotas"))["quotas"]}
    assert scopes == {str(Scope.USER): client.credentials.user_id, str(Scope.APP): None}
