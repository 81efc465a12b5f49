"""The pytest plugin, in runs of pytest of its own; and what it stands on: listeners in this process, and time to move."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from aiohttp import web

from tests.support import HANGS
from tests.virtual_time import virtual_time
from twdm_async import Client, InvalidInput, LoopClock, Quota, QuotaTable, QuotaWaitTooLong, Scope, SQLiteQuotaStore
from twdm_async.outbox import Outbox
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks import Event, MessageEvent, Webhook
from twdm_async.webhooks import webhook as webhook_module

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parent.parent

BOT: Final = """
from twdm_async.webhooks import MessageEvent, Webhook


def bot(client, *, broken=False):
    async def handle(event):
        if isinstance(event, MessageEvent):
            if broken:
                raise LookupError("the text of the message")
            await client.direct_messages.send(event.person_id, f"You said: {event.message.text}")

    return Webhook(client.credentials, handle, clients=[client])
"""

TESTS: Final = """
import asyncio

import pytest

from bot import bot

pytestmark = MARKS


async def test_five_lines(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(bot(twdm_client))
    anna = twdm_sandbox.person(844385345234)
    anna.writes("Hello")
    [answer] = await anna.receives()
    assert answer.text == "You said: Hello"


@pytest.mark.twdm(quotas={"direct_messages.send": "3/24h"}, autojump=True)
async def test_two_days(twdm_sandbox, twdm_client):
    for number in range(7):
        await twdm_client.direct_messages.send(5, f"{number}")
    assert len(twdm_sandbox.messages) == 7
    assert 2 * 86_400 < twdm_sandbox.time.ahead < 3 * 86_400
    assert not twdm_sandbox.breaches


@pytest.mark.twdm(quotas={"direct_messages.send": "3/24h"})
async def test_two_days_by_hand(twdm_sandbox, twdm_client):
    sending = [asyncio.ensure_future(twdm_client.direct_messages.send(5, f"{n}")) for n in range(7)]
    for count in (3, 3, 1):
        assert len(await twdm_sandbox.person(5).receives(count)) == count
        twdm_sandbox.time.advance("24h")
    await asyncio.gather(*sending)
    assert not twdm_sandbox.breaches


async def test_the_options(twdm_sandbox, twdm_client):
    assert twdm_sandbox.list_lag == (0.5, 0.5)


async def test_fails_and_says_why(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(bot(twdm_client, broken=True))
    twdm_sandbox.person(5).writes("Hello")
    await twdm_sandbox.person(5).receives()


async def test_fails_also_if_nobody_looks(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(bot(twdm_client, broken=True))
    twdm_sandbox.person(5).writes("Hello")
    await twdm_sandbox.delivered()


async def test_fails_also_after_its_end(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(bot(twdm_client, broken=True))
    twdm_sandbox.person(5).writes("Hello")


@pytest.mark.twdm(list_lag=1.0, time_scale=2.0)
class TestMarkers:
    @pytest.mark.twdm(list_lag=2.0)
    async def test_the_nearest_counts(self, twdm_sandbox):
        assert (twdm_sandbox.list_lag, twdm_sandbox.time.scale) == ((2.0, 2.0), 2.0)
        twdm_sandbox.time.advance("24h")
        assert 43_200 <= twdm_sandbox.time.ahead < 43_500


async def test_may_fail_on_purpose(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(bot(twdm_client, broken=True))
    twdm_sandbox.person(5).writes("Hello")
    await twdm_sandbox.delivered()
    assert "LookupError" in twdm_sandbox.problems[0]
    twdm_sandbox.problems.clear()


async def test_may_fail_on_purpose_and_be_waited_for(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(bot(twdm_client, broken=True))
    twdm_sandbox.person(5).writes("Hello")
    with pytest.raises(AssertionError, match="LookupError"):
        await twdm_sandbox.person(5).receives()
    twdm_sandbox.problems.clear()


@pytest.mark.twdm(faults=["404_page"])
async def test_a_refusal_is_told(twdm_sandbox, twdm_client):
    await twdm_sandbox.person(5).receives(timeout=0.01)
"""

CONFTEST: Final = """
import pytest


@pytest.fixture
def twdm_options():
    return {"list_lag": 0.5}
"""


async def _pytest(folder: Path, *options: str) -> tuple[int | None, str]:
    """A run of pytest in `folder`: its exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:looptime_plugin", "-p", "no:xdist",
        "-W", "error", "--strict-markers", *options,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


MODES: Final[dict[str, tuple[str, Sequence[str]]]] = {
    "strict": (
        "pytest.mark.asyncio",
        ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"],
    ),
    "auto": ("[]", ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]),
    "anyio": (
        "[pytest.mark.anyio, pytest.mark.parametrize('anyio_backend', ['asyncio'])]",
        ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"],
    ),
    "anyio alone": (
        "[pytest.mark.anyio, pytest.mark.parametrize('anyio_backend', ['asyncio'])]",
        ["-p", "no:asyncio"],
    ),
}


@pytest.mark.parametrize("mode", MODES)
async def test_a_bot_s_test_of_five_lines(tmp_path: Path, mode: str) -> None:
    if mode.startswith("anyio"):
        pytest.importorskip("anyio")
    marks, options = MODES[mode]
    (tmp_path / "bot.py").write_text(BOT)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS.replace("MARKS", marks))
    code, out = await _pytest(tmp_path, *options)
    assert code == 1
    assert "8 passed" in out, out
    assert "3 failed" in out, out
    assert "1 error" in out.splitlines()[-1], "what fails after the test, and each other failure once"
    assert "ERROR test_it.py::test_fails_also_after_its_end" in out
    assert "person 5 has received 0 of 1 messages, and a webhook has failed" in out
    assert "LookupError" in out
    assert "bot.py" in out
    assert "A webhook failed:" in out
    assert "Nobody listens to webhooks" in out
    assert "the text of the message" not in out.replace('raise LookupError("the text of the message")', "")


@pytest.mark.parametrize("scope", ["class", "module", "session"])
async def test_a_test_may_run_in_the_loop_of_a_larger_scope(tmp_path: Path, scope: str) -> None:
    (tmp_path / "bot.py").write_text(BOT)
    test = TESTS[TESTS.index("async def test_five_lines") : TESTS.index("@pytest.mark.twdm")]
    (tmp_path / "test_it.py").write_text(
        f"import pytest\nfrom bot import bot\nmark = pytest.mark.asyncio(loop_scope='{scope}')\n\n\n"
        "class TestIt:\n"
        + "".join(f"    {line}\n" for line in f"@mark\n{test}".replace("(twdm_", "(self, twdm_", 1).splitlines())
    )
    code, out = await _pytest(tmp_path, *MODES["strict"][1])
    assert (code, "1 passed" in out) == (0, True), out


async def test_options_of_the_marker_have_names(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.asyncio\n@pytest.mark.twdm({})\nasync def test_it(twdm_sandbox): ...\n"
    )
    code, out = await _pytest(tmp_path, *MODES["strict"][1])
    assert (code, "named options only" in out) == (1, True), out


async def test_who_runs_no_async_tests_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(twdm_sandbox): ...")
    code, out = await _pytest(tmp_path, "-p", "no:asyncio", "-p", "no:anyio")
    assert code == 1
    assert "need pytest-asyncio, or anyio" in out


async def test_the_plugin_imports_nothing_until_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    found = [name for name in sys.modules if name.split('.')[0] in {'twdm_async', 'aiohttp'}]\n"
        "    assert set(found) <= {'twdm_async', 'twdm_async._lazy', 'twdm_async.testing'}, found\n"
    )
    code, out = await _pytest(tmp_path, "-o", "asyncio_default_fixture_loop_scope=function")
    assert code == 0, out


# ---- listeners in this process ----


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


# ---- time ----


def _three_a_day(**options: Any) -> QuotaTable:
    return QuotaTable.default().replace("direct_messages.send", Quota(3, per=86_400.0), **options)


async def test_time_that_is_moved_frees_the_quota_of_an_outbox(tmp_path: Path) -> None:
    async with Sandbox(quotas=_three_a_day(reserve=0.0)) as sandbox:
        store = SQLiteQuotaStore(tmp_path / "quota.db", clock=sandbox.time)
        async with store, sandbox.client(quota_store=store) as client, Outbox(client, tmp_path / "outbox.db") as outbox:
            for number in range(7):
                await outbox.put(5, f"{number}", key=f"{number}")
            running = asyncio.create_task(outbox.drain(workers=4))
            for count in (3, 3, 1):
                await sandbox.person(5).receives(count, timeout=HANGS)
                sandbox.time.advance("24h")
            await running
        assert not sandbox.breaches


async def test_time_jumps_also_for_who_waits_for_a_file_s_store(tmp_path: Path) -> None:
    async with Sandbox(quotas=_three_a_day(), autojump=True) as sandbox:
        store = SQLiteQuotaStore(tmp_path / "quota.db", clock=sandbox.time)
        moves = 0

        def count() -> None:
            nonlocal moves
            moves += 1

        sandbox.time.on_move = count
        async with store, sandbox.client(quota_store=store) as client:
            for number in range(7):
                await client.direct_messages.send(5, f"{number}")
        assert moves < 50, "it does not creep"
        assert not sandbox.breaches


async def test_time_does_not_jump_while_a_store_works(tmp_path: Path) -> None:
    async with Sandbox(quotas=_three_a_day(), autojump=True) as sandbox:
        store = SQLiteQuotaStore(tmp_path / "quota.db", clock=sandbox.time)
        async with store, sandbox.client(quota_store=store, max_wait=200_000.0) as client:
            for number in range(4):
                await client.direct_messages.send(5, f"{number}")
        assert sandbox.time.ahead < 100_000, "only as far as the quota, not to the end of anybody's patience"


async def test_time_does_not_jump_to_what_nobody_waits_for() -> None:
    async with Sandbox(quotas=_three_a_day(), autojump=True) as sandbox, sandbox.client(max_wait=500_000.0) as client:
        for number in range(4):
            await client.direct_messages.send(5, f"{number}")
        await asyncio.sleep(0.1)
        assert sandbox.time.ahead < 100_000
        assert not sandbox.time.timers


async def test_a_timer_of_a_loop_that_is_closed_holds_nobody_up(sandbox: Sandbox) -> None:
    async def leave_one_behind() -> None:
        sandbox.time.call_at(sandbox.time.monotonic() + 5, print)

    await asyncio.to_thread(asyncio.run, leave_one_behind())
    sandbox.time.advance("1s")
    assert not sandbox.time.timers


async def test_nobody_gets_beyond_a_thousand_years(sandbox: Sandbox, client: Client) -> None:
    with pytest.raises(InvalidInput):
        for _ in range(100):
            sandbox.time.advance("10000d")
            sandbox.time.advance(1e9)
    await client.direct_messages.send(5, "hello")


async def test_time_that_is_moved_again_and_again_refuses_nobody() -> None:
    table = QuotaTable.default().replace("direct_messages.send")
    async with Sandbox(quotas=table, latency=(0.0, 0.02)) as sandbox, sandbox.client() as client:
        sending = [asyncio.create_task(client.direct_messages.send(5, f"{number}")) for number in range(50)]
        for _ in range(20):
            sandbox.time.advance("10min")
            await asyncio.sleep(0.005)
        await asyncio.gather(*sending)
        assert {request.status for request in sandbox.requests} == {200}


async def test_who_does_not_want_to_wait_so_long_is_told_at_once_when_time_is_moved() -> None:
    async with Sandbox(quotas=_three_a_day()) as sandbox, sandbox.client(max_wait=50_000.0) as client:
        for number in range(3):
            await client.direct_messages.send(5, f"{number}")
        with pytest.raises(QuotaWaitTooLong):
            await client.direct_messages.send(5, "too soon")
        sandbox.time.advance("12h")
        sending = asyncio.create_task(client.direct_messages.send(5, "soon enough"))
        await asyncio.sleep(0.05)
        assert not sending.done()
        sandbox.time.advance("12h")
        assert (await sending).text == "soon enough"


async def test_the_scale_reaches_the_client_by_itself() -> None:
    async with Sandbox(quotas=_three_a_day(), time_scale=864_000.0) as sandbox, sandbox.client() as client:
        async with asyncio.timeout(HANGS):
            for number in range(7):
                await client.direct_messages.send(5, f"{number}")
        assert not sandbox.breaches
        windows = [one for one in sandbox.windows if one.scope is Scope.USER and one.family == "direct_messages.send"]
        assert len(windows) >= 3


@pytest.mark.parametrize("duration", ["soon", "", "1y", "-5s", -1, True, float("nan"), None])
async def test_a_duration_that_is_none(sandbox: Sandbox, duration: Any) -> None:
    with pytest.raises(InvalidInput):
        sandbox.time.advance(duration)
    assert sandbox.time.ahead == 0


async def test_durations(sandbox: Sandbox) -> None:
    durations: dict[float | str, float] = {"90s": 90, "+15 min": 900, "2m": 120, "24h": 86_400, "1.5d": 129_600, 5: 5}
    for duration, seconds in durations.items():
        before = sandbox.time.ahead
        sandbox.time.advance(duration)
        assert sandbox.time.ahead - before == pytest.approx(seconds, rel=0.006)


async def test_sleep_and_wait_end_when_time_is_moved(sandbox: Sandbox) -> None:
    event = asyncio.Event()
    waiting = [
        asyncio.create_task(sandbox.time.sleep(3600)),
        asyncio.create_task(sandbox.time.wait(event, 3600)),
        asyncio.create_task(sandbox.time.sleep(7200)),
    ]
    await asyncio.sleep(0)
    sandbox.time.advance("1h")
    async with asyncio.timeout(HANGS):
        await asyncio.gather(*waiting[:2])
    assert not waiting[2].done()
    waiting[2].cancel()
    await asyncio.gather(waiting[2], return_exceptions=True)
    assert not sandbox.time.timers, "nothing is left behind"
    event.set()
    await sandbox.time.wait(event, 3600)
    await sandbox.time.sleep(0)


@virtual_time
async def test_a_clock_of_a_loop_whose_time_is_virtual() -> None:
    clock = LoopClock()
    async with (
        Sandbox(quotas=_three_a_day(), clock=clock) as sandbox,
        Client(
            sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=sandbox.quotas, clock=clock
        ) as client,
    ):
        for number in range(7):
            await client.direct_messages.send(5, f"{number}")
        assert 2 * 86_400 < clock.monotonic() < 2.1 * 86_400


async def test_a_client_without_the_sandbox_s_clock_still_gets_in(sandbox: Sandbox) -> None:
    sandbox.time.ahead = 86_400.0  # long ago
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        await client.direct_messages.send(5, "hello")
    assert [request.status for request in sandbox.requests] == [401, 200], "it learns how much its clock is wrong"
    async with aiohttp.ClientSession() as session, session.get(f"{sandbox.url}/_sandbox/time") as response:
        assert (await response.json())["ahead"] == pytest.approx(86_400, rel=0.006)
