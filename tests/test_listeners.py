"""Webhooks and applications of this process that listen to the sandbox, and how it says what they do wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support import HANGS
from twdm_async import Client, InvalidInput
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks import Event, MessageEvent, Webhook
from twdm_async.webhooks import webhook as webhook_module


def echo(client: Client) -> Webhook:
    async def handle(event: Event) -> None:
        if isinstance(event, MessageEvent):
            await client.direct_messages.send(event.person_id, f"You said: {event.message.text}")

    return Webhook(client.credentials, handle, clients=[client])


async def _talks(sandbox: Sandbox) -> bool:
    sandbox.person(5).writes("Hello")
    [answer] = await sandbox.person(5).receives(timeout=HANGS)
    return answer.text == "You said: Hello"


async def test_a_webhook_of_this_process_is_opened_and_closed() -> None:
    async with Sandbox() as sandbox, sandbox.client() as own:
        webhook = echo(own)
        states = [webhook.is_open]
        await sandbox.subscribe(webhook)
        states.append(webhook.is_open)
        assert await _talks(sandbox)
        sandbox.unsubscribe(webhook)
        sandbox.person(5).writes("Hello?")
        await sandbox.delivered()
        assert len(sandbox.messages) == 1
    states.append(webhook.is_open)
    assert states == [False, True, False]


async def test_a_webhook_that_is_open_is_left_to_its_owner(sandbox: Sandbox, client: Client) -> None:
    async with echo(client) as webhook:
        await sandbox.subscribe(webhook)
        assert await _talks(sandbox)
        await sandbox.close()
        assert webhook.is_open


async def test_an_aiohttp_application(sandbox: Sandbox, client: Client) -> None:
    webhook = echo(client)
    app = web.Application()
    app.router.add_route("*", "/hooks/x", webhook.serve)
    app.cleanup_ctx.append(webhook.lifespan)
    await sandbox.subscribe(app, path="/hooks/x")
    assert await _talks(sandbox)


async def test_two_wait_for_one_person_s_messages_and_each_gets_one(sandbox: Sandbox, client: Client) -> None:
    person = sandbox.person(5)
    waiting = [asyncio.create_task(person.receives(timeout=HANGS)) for _ in range(2)]
    await asyncio.sleep(0)
    for text in ("one", "two"):
        await client.direct_messages.send(5, text)
    assert sorted(one.text for [one] in await asyncio.gather(*waiting)) == ["one", "two"]
    waiting = [asyncio.create_task(person.receives(timeout=HANGS))]
    await asyncio.sleep(0)
    sandbox.clear()
    await client.direct_messages.send(5, "after")
    assert [one.text for [one] in await asyncio.gather(*waiting)] == ["after"]
    for number in (0, -1, 1.5):
        with pytest.raises(InvalidInput):
            await person.receives(number)  # type: ignore[arg-type]


async def test_half_a_character_is_refused_and_breaks_nothing(sandbox: Sandbox, client: Client) -> None:
    with pytest.raises(InvalidInput):
        sandbox.person(5).writes("\ud83d")
    async with aiohttp.ClientSession() as session:
        async with session.post(
            f"{sandbox.url}/_sandbox/people/5/write", data=b'{"text": "\\ud83d"}', headers={"X-Sandbox": "1"}
        ) as response:
            assert response.status == 400
        async with session.get(f"{sandbox.url}/_sandbox/messages") as response:
            assert (await response.json())["messages"] == []
    assert [one async for one in client.direct_messages.list()] == []


async def test_an_application_may_go_on_after_its_answer(client: Client) -> None:
    gone_on = asyncio.Event()
    failing = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        body = (await receive())["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        reply = await webhook.receive(scope["method"], scope["query_string"].decode(), headers, body)
        gone = asyncio.create_task(receive())  # as frameworks do, to learn that nobody waits any longer
        await asyncio.sleep(0)
        assert not gone.done()
        await send({"type": "http.response.start", "status": reply.status, "headers": []})
        await send({"type": "http.response.body", "body": reply.body})
        assert (await gone)["type"] == "http.disconnect"
        if scope["method"] == "POST":
            await gone_on.wait()
            assert not failing

    async with Sandbox(webhook_timeout=HANGS) as sandbox, echo(client) as webhook:
        await sandbox.subscribe(app)
        await sandbox.subscribe(app)  # once more, as after unsubscribe(): it is not started again
        sandbox.unsubscribe(app)
        await sandbox.subscribe(app)
        sandbox.person(5).writes("Hello")
        while not sandbox.deliveries:
            await asyncio.sleep(0.01)
        assert sandbox.deliveries[0].statuses == (200,)
        failing = True
        gone_on.set()
        await sandbox.delivered()
        assert "after its answer" in sandbox.problems[0]


async def test_a_handler_in_a_thread_may_be_a_person(sandbox: Sandbox) -> None:
    heard: list[str | None] = []

    def handle(event: Event) -> None:
        assert isinstance(event, MessageEvent)
        heard.append(event.message.text)
        if len(heard) == 1:
            sandbox.person(6).writes("and I")

    await sandbox.subscribe(Webhook(sandbox.credentials, handle))
    sandbox.person(5).writes("I")
    async with asyncio.timeout(HANGS):
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    assert heard == ["I", "and I"]


async def test_who_unsubscribes_is_not_asked_again(sandbox: Sandbox, client: Client) -> None:
    app = Asgi(echo(client))
    await sandbox.subscribe(app)
    app.problem = "raises"
    sandbox.person(5).writes("Hello")
    while not sandbox.problems:
        await asyncio.sleep(0.01)
    sandbox.unsubscribe(app)
    sandbox.time.advance("1h")
    await sandbox.delivered()
    assert sandbox.deliveries[0].statuses == (500,)


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1])
async def test_a_handler_that_is_called_again_has_not_failed(retries: int) -> None:
    told: list[str] = []
    calls, words = 0, "its-words"

    async def handle(_: Event) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LookupError(words)

    webhook_module.failure_observers.append(told.append)
    try:
        async with Sandbox() as sandbox:
            await sandbox.subscribe(Webhook(sandbox.credentials, handle, retries=retries))
            sandbox.person(5).writes("Hello")
            await sandbox.delivered()
    finally:
        webhook_module.failure_observers.remove(told.append)
    assert calls == 1 + retries
    assert len(told) == 1 - retries
    assert "its-words" not in "".join(told)


class Asgi:
    """An ASGI application as frameworks make it."""

    def __init__(self, webhook: Webhook | None, problem: str = "") -> None:
        self.webhook = webhook
        self.problem = problem
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["type"])
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self.problem == "raises":
            raise ZeroDivisionError
        message = await receive()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.webhook is None or self.problem == "silent":
            return
        reply = await self.webhook.receive(scope["method"], scope["query_string"].decode(), headers, message["body"])
        status = 404 if scope["path"] != "/webhook" else reply.status
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": reply.body[:10], "more_body": True})
        await send({"type": "http.response.body", "body": reply.body[10:]})

    async def _live(self, receive: Any, send: Any) -> None:
        if self.problem == "no lifespan":
            raise NotImplementedError
        assert (await receive())["type"] == "lifespan.startup"
        if self.problem == "hangs":
            await asyncio.Event().wait()
        if self.problem == "does not start":
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        if self.webhook is not None:
            await self.webhook.__aenter__()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        if self.webhook is not None:
            await self.webhook.close()
        self.seen.append("stopped")
        await send({"type": "lifespan.shutdown.complete"})


@pytest.mark.parametrize("problem", ["", "no lifespan"])
async def test_an_asgi_application_needs_no_server(sandbox: Sandbox, client: Client, problem: str) -> None:
    webhook = echo(client)
    app = Asgi(webhook, problem)
    await sandbox.subscribe(app)
    assert await _talks(sandbox)
    await sandbox.close()
    await webhook.close()
    assert app.seen[:3] == ["lifespan", "http", "http"]
    assert ("stopped" in app.seen) is (problem == "")


async def test_fastapi(sandbox: Sandbox, client: Client) -> None:
    fastapi = pytest.importorskip("fastapi")
    webhook = echo(client)
    app = fastapi.FastAPI()

    async def serve(request: Any) -> Any:
        reply = await webhook.receive(request.method, request.url.query, request.headers, await request.body())
        return fastapi.Response(reply.body, reply.status, media_type=reply.content_type)

    serve.__annotations__["request"] = fastapi.Request
    app.add_api_route("/webhook", serve, methods=["GET", "POST"])
    async with webhook:
        await sandbox.subscribe(app)
        assert await _talks(sandbox)


@pytest.mark.parametrize(
    ("problem", "path", "words"),
    [
        ("raises", "/webhook", "ZeroDivisionError"),
        ("silent", "/webhook", "without an answer"),
        ("does not start", "/webhook", "no database"),
        ("hangs", "/webhook", "did not start within"),
        ("", "/other", "HTTP 404"),
    ],
)
async def test_why_the_check_failed_is_said(client: Client, problem: str, path: str, words: str) -> None:
    async with Sandbox(webhook_timeout=0.2 if problem == "hangs" else HANGS) as sandbox:
        webhook = echo(client)
        with pytest.raises(InvalidInput, match=words):
            await sandbox.subscribe(Asgi(webhook, problem), path=path)
        await webhook.close()


async def test_why_the_check_of_a_url_failed_is_said(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInput, match=r"Connect call failed|refused"):
        await sandbox.subscribe("http://127.0.0.1:1/webhook")
    with pytest.raises(InvalidInput, match="HTTP 404"):
        await sandbox.subscribe(f"{sandbox.url}/nothing")
    other = sandbox.add_account()
    foreign = Webhook(
        type(other)(consumer_key="a", consumer_secret="b", access_token="1-c", access_token_secret="d"), print
    )
    with pytest.raises(InvalidInput, match="not signed with this app's consumer secret"):
        await sandbox.subscribe(foreign)
    with pytest.raises(InvalidInput, match="must be a URL"):
        await sandbox.subscribe(5)  # type: ignore[arg-type]


async def test_an_application_that_raises_is_a_problem_and_is_asked_again(sandbox: Sandbox, client: Client) -> None:
    app = Asgi(echo(client))
    await sandbox.subscribe(app)
    app.problem = "raises"
    sandbox.person(5).writes("Hello")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        await sandbox.person(5).receives(timeout=HANGS)
    app.problem = ""
    sandbox.problems.clear()
    sandbox.time.advance("3s")
    [answer] = await sandbox.person(5).receives(timeout=HANGS)
    assert answer.text == "You said: Hello"
    assert sandbox.deliveries[0].statuses == (500, 200)


async def test_a_message_is_received_once(sandbox: Sandbox, client: Client) -> None:
    for number in range(3):
        await client.direct_messages.send(5, f"{number}")
    await client.direct_messages.send(6, "other")
    assert [one.text for one in await sandbox.person(5).receives(2)] == ["0", "1"]
    assert [one.text for one in await sandbox.person("5").receives()] == ["2"]
    with pytest.raises(AssertionError, match=r"0 of 1 messages, within 0\.01 s"):
        await sandbox.person(5).receives(timeout=0.01)


async def test_a_listener_that_does_not_end_well_leaves_no_server_behind(client: Client) -> None:
    class Bad(Webhook):
        async def close(self, timeout: float = 5.0) -> None:
            await super().close(timeout)
            raise LookupError

    sandbox = Sandbox()
    await sandbox.start()
    await sandbox.subscribe(Bad(client.credentials, print))
    with pytest.raises(LookupError):
        await sandbox.close()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(sandbox.url)
