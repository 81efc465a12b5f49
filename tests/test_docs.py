"""What the documentation shows works, and every call of the family is in it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from attrs import asdict

from tests.pictures import PNG
from tests.support import HANGS, program
from tests.test_media import film
from tests.test_wire import GOLDEN
from twdm_async import Client, Inbox, InvalidInput, Quota, QuotaTable, Scope
from twdm_async.endpoints import ENDPOINTS, MediaApi
from twdm_async.resources.media import SEGMENT
from twdm_async.sandbox import Sandbox
from twdm_async.sandbox.routes import ROUTES
from twdm_async.webhooks import Event, Webhook

DOCS: Final = Path(__file__).parent.parent / "docs"
PEOPLE: Final = 120  # more than are handled at once, and than there are connections
APIS: Final[tuple[MediaApi, ...]] = ("v1.1", "v2")


@pytest.fixture(scope="module")
def listed() -> dict[str, tuple[str, str]]:
    """Of each row of the page: its request, and its method."""
    page = (DOCS / "endpoints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)`[^|]*\| \{meth\}`client\.([\w.]+) ", page, re.MULTILINE)
    return {name: (request, method) for name, request, method in rows}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_call_is_listed_has_a_method_a_golden_request_and_a_handler(
    name: str, listed: dict[str, tuple[str, str]]
) -> None:
    row = ENDPOINTS[name]
    request, method = listed[name]
    assert request == f"{row.method} {row.path}"
    resource, verb = method.split(".")
    client = Client(Sandbox().credentials)
    assert callable(getattr(getattr(client, resource), verb))
    assert name in GOLDEN
    families = {route.family_of(command) for route in ROUTES for command in (None, "INIT", "APPEND", "FINALIZE")}
    assert name in families


@pytest.mark.soak
async def test_the_examples_run_and_make_every_call(tmp_path: Path) -> None:
    examples = program("every_call")
    picture, video = tmp_path / "a.png", tmp_path / "a.mp4"
    picture.write_bytes(PNG)
    video.write_bytes(film(SEGMENT + 5))
    async with Sandbox() as sandbox:
        for media_api in APIS:
            sandbox.person(5).writes("hello")
            async with Client(
                sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, media_api=media_api
            ) as client:
                await examples.profiles(client)
                await examples.messages(client, "5", picture)
                if media_api == "v1.1":
                    await examples.welcome(client)
                    await examples.account(client)
                await examples.films(client, video)
        statuses = {
            request.status for request in sandbox.requests if request.endpoint != "welcome_message_rules.create"
        }
        assert statuses <= {200, 201, 202, 204}
        made = {request.endpoint for request in sandbox.requests}
    assert set(ENDPOINTS) - made == set()


def test_the_bot_is_short() -> None:
    assert len((DOCS / "examples/bot.py").read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.soak
async def test_the_bot_answers_many_people_at_once(tmp_path: Path) -> None:
    """Each gets exactly the right answers, under the right profile, and none of them counts against the quota."""
    bot_program = program("bot")
    table = QuotaTable.default().replace(
        "direct_messages.send", Quota(5, 86_400.0), Quota(5, 86_400.0, scope=Scope.APP)
    )
    async with (
        Sandbox(quotas=table, webhook_timeout=HANGS) as sandbox,
        Inbox(tmp_path / "bot.db") as inbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table, max_wait=0.0) as client,
    ):
        webhook = await bot_program.bot(client, inbox)
        app = web.Application()
        app.router.add_route("*", "/webhook", webhook.serve)
        app.cleanup_ctx.append(webhook.lifespan)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await sandbox.subscribe(f"http://127.0.0.1:{runner.addresses[0][1]}/webhook")
            people = [sandbox.person(1000 + number) for number in range(PEOPLE)]
            expected: dict[str, Counter[tuple[str, str | None]]] = {}
            profiles = {profile.name: profile.id for profile in sandbox.profiles.values()}
            for number, person in enumerate(people):
                assert person.welcome is not None
                topic = ("order", "bill")[number % 2]
                name, answer = bot_program.ANSWERS[topic]
                expected[person.id] = Counter([("Please choose.", None), (answer, profiles[name])])
                person.writes("hello there")
                person.taps(topic.capitalize())
            async with asyncio.timeout(HANGS):
                while len(sandbox.messages) < 2 * PEOPLE:
                    await asyncio.sleep(0.05)
                await sandbox.delivered()
        finally:
            await runner.cleanup()
        # In which order a person's two events come is the network's to decide.
        got = {person.id: Counter((one.text, one.custom_profile_id) for one in person.inbox) for person in people}
        assert got == expected
        assert sandbox.breaches == []
        assert Counter(one.is_counted for one in sandbox.messages) == {False: 2 * PEOPLE}
        assert Counter(one.recipient_id for one in sandbox.typing) == {person.id: 2 for person in people}
        assert len(sandbox.reading) == 2 * PEOPLE


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.MULTILINE), page.name


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


async def output_of(*arguments: str, folder: Path, environment: dict[str, str] | None = None) -> tuple[int | None, str]:
    """The exit code of a Python process, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.soak
async def test_the_blocks_about_testing_are_files_that_pass(tmp_path: Path) -> None:
    files = {block.split("\n")[0].removeprefix("# "): block for block in blocks("testing")}
    assert len(files) == len(blocks("testing")) == 8
    for name, block in files.items():
        (tmp_path / name).write_text(block)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "asyncio_default_fixture_loop_scope=function"]
    missing = [name for name in ("fastapi", "looptime") if importlib.util.find_spec(name) is None]
    ignored = {"fastapi": "test_web_bot.py", "looptime": "test_virtual_time.py"}
    code, out = await output_of(
        "-m", "pytest", *options, *(f"--ignore={ignored[one]}" for one in missing), folder=tmp_path
    )
    assert code == 0, out
    assert "8 passed" in out or missing, out


async def test_the_block_about_what_failed_retries_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    program = next(block for block in blocks("receiving") if "inbox.failed()" in block)
    exec(program.replace("asyncio.run(main())", ""), names)  # noqa: S102 - our own
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.key)
        if len(handled) == 1:
            raise LookupError

    async with Sandbox() as sandbox:
        for place in range(2):
            async with Inbox("bot.db") as inbox, Webhook(sandbox.credentials, handle, inbox=inbox) as webhook:
                if place == 0:
                    await sandbox.subscribe(webhook)
                    sandbox.person(5).writes("Hello")
                    await sandbox.delivered()
                await webhook.settled()
            if place == 0:
                await names["main"]()
    assert len(handled) == 2


async def test_the_bot_can_be_served_and_tried(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "examples").mkdir()
    for name in ("examples/bot.py", "examples/serve_bot.py", "anna.png"):
        (tmp_path / name).write_bytes((DOCS / name).read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    keys = {f"TWDM_{name.upper()}": value for name, value in asdict(sandbox.credentials).items()}
    environment = {**os.environ, **keys, "TWDM_API_URL": sandbox.url, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "examples/serve_bot.py", cwd=tmp_path, env=environment
    )
    try:
        async with asyncio.timeout(HANGS):
            while True:
                try:
                    await sandbox.subscribe(f"http://127.0.0.1:{port}/webhook")
                except InvalidInput:
                    await asyncio.sleep(0.1)
                else:
                    break
        person = sandbox.person(5)
        person.taps("Order")
        [answer] = await person.receives(timeout=HANGS)
        assert answer.text == "Your order is on its way."
    finally:
        process.terminate()
        await process.wait()
