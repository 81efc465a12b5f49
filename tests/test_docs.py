"""What the documentation shows works, and every call of the family is in it."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from aiohttp import web

from tests.pictures import PNG
from tests.support import HANGS
from tests.test_media import film
from tests.test_wire import GOLDEN
from twdm_async import Client, Inbox, Quota, QuotaTable, Scope
from twdm_async.endpoints import ENDPOINTS, MediaApi
from twdm_async.resources.media import SEGMENT
from twdm_async.sandbox import Sandbox
from twdm_async.sandbox.routes import ROUTES

if TYPE_CHECKING:
    from types import ModuleType

DOCS: Final = Path(__file__).parent.parent / "docs"
PEOPLE: Final = 200
APIS: Final[tuple[MediaApi, ...]] = ("v1.1", "v2")


def module(name: str) -> ModuleType:
    """A program of the documentation."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


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


async def test_the_examples_run_and_make_every_call(tmp_path: Path) -> None:
    examples = module("examples")
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
    assert len((DOCS / "bot.py").read_text(encoding="utf-8").splitlines()) < 40


async def test_the_bot_answers_two_hundred_people_at_once(tmp_path: Path) -> None:
    """Each gets exactly the right answers, under the right profile, and none of them counts against the quota."""
    program = module("bot")
    table = QuotaTable.default().replace(
        "direct_messages.send", Quota(5, 86_400.0), Quota(5, 86_400.0, scope=Scope.APP)
    )
    async with (
        Sandbox(quotas=table, webhook_timeout=HANGS) as sandbox,
        Inbox(tmp_path / "bot.db") as inbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table, max_wait=0.0) as client,
    ):
        webhook = await program.bot(client, inbox)
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
                name, answer = program.ANSWERS[topic]
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
