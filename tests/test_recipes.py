"""The programs of the page *Recipes* work."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support import HANGS
from tests.test_documents import double, environment, folder, need, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from twdm_async import Client
    from twdm_async.sandbox import Sandbox

__all__ = ["double", "folder"]  # fixtures

pytestmark = pytest.mark.soak
EXAMPLES: Final = Path(__file__).parents[1] / "docs/examples"


@pytest.fixture
def recipe(folder: Path, double: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a program, in a folder and an environment where it works."""
    for name, value in environment(folder, double).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def imported(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    yield imported
    for name in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(name, None)


async def sent_by_the_outbox(folder: Path, sandbox: Sandbox) -> list[str]:
    """Send what was put into the outbox, as its page says, and return the texts."""
    environ = environment(folder, sandbox)
    code, said = await run("twdm", "outbox", "run", "--outbox", "outbox.db", folder=folder, environ=environ)
    assert code == 0, said
    return [message.text for message in sandbox.messages]


async def test_fastapi(folder: Path) -> None:
    need("fastapi")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "asyncio_default_fixture_loop_scope=function"]
    command = [sys.executable, "-m", "pytest", *options, "docs/examples/test_fastapi_bot.py"]
    code, said = await run(*command, folder=folder, environ=environment(folder))
    assert (code, "1 passed" in said) == (0, True), said


async def test_the_fastapi_bot_begins_from_the_environment(recipe: Any, double: Sandbox) -> None:
    need("fastapi")
    await double.subscribe(recipe("fastapi_bot").app())
    double.person(5).writes("Hello")
    [answer] = await double.person(5).receives(timeout=HANGS)
    assert answer.text == "You said: Hello"


async def test_flask(recipe: Any, folder: Path, double: Sandbox) -> None:
    need("flask")
    client = recipe("flask_messages").app.test_client()

    def post(text: str, key: str, recipient: str = "5") -> Any:
        return client.post(f"/messages/{recipient}", json={"text": text}, headers={"Idempotency-Key": key})

    for _ in range(2):
        answer = await asyncio.to_thread(post, "hello", "a")
        assert (answer.status_code, answer.json) == (202, {"state": "queued"})
    assert (await asyncio.to_thread(post, "", "b")).status_code == 400
    assert (await asyncio.to_thread(post, "another", "a")).status_code == 400
    assert await sent_by_the_outbox(folder, double) == ["hello"]
    assert (await asyncio.to_thread(post, "hello", "a")).json == {"state": "sent"}


async def test_django(folder: Path, double: Sandbox) -> None:
    need("django")
    program = """
import asyncio, json, django
import django_messages
django.setup()
from django.test import AsyncClient
async def main():
    client = AsyncClient(raise_request_exception=True)
    for text, key in (("hello", "a"), ("hello", "a"), ("", "b")):
        answer = await client.post("/messages/5", json.dumps({"text": text}), "application/json",
                                   headers={"Idempotency-Key": key})
        print(answer.status_code)
asyncio.run(main())
"""
    environ = environment(folder, double, PYTHONPATH=str(EXAMPLES))
    code, said = await run(sys.executable, "-c", program, folder=folder, environ=environ)
    assert code == 0, said
    assert re.findall(r"^\d+$", said, re.MULTILINE) == ["202", "202", "400"]
    assert await sent_by_the_outbox(folder, double) == ["hello"]


async def test_celery_may_run_a_task_twice(recipe: Any, folder: Path, double: Sandbox) -> None:
    need("celery")
    task = recipe("celery_messages").send
    for _ in range(2):
        result = await asyncio.to_thread(lambda: task.apply(args=("5", "hello"), task_id="one"))
        assert result.get() == "queued"
    assert await sent_by_the_outbox(folder, double) == ["hello"]


async def test_several_accounts(folder: Path, double: Sandbox) -> None:
    second = double.add_account()
    keys = {"SECOND_ACCESS_TOKEN": second.access_token, "SECOND_ACCESS_TOKEN_SECRET": second.access_token_secret}
    program = str(EXAMPLES / "several_accounts.py")
    code, said = await run(sys.executable, program, folder=folder, environ=environment(folder, double, **keys))
    assert code == 0, said
    assert {message.sender_id for message in double.messages} == {double.credentials.user_id, second.user_id}


async def test_new_keys_know_what_the_old_ones_spent(folder: Path, double: Sandbox) -> None:
    program = str(EXAMPLES / "rotate_keys.py")
    code, said = await run(sys.executable, program, folder=folder, environ=environment(folder, double))
    assert code == 0, said
    assert len(double.messages) == 2
    assert "custom_profiles.create" in said


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_program_is_tested_and_shown(name: str) -> None:
    pages = [path.read_text() for path in (EXAMPLES.parent).glob("*.md")]
    assert any(f"{{literalinclude}} examples/{name}.py" in page for page in pages)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf"\b{name}\b", tests)


@pytest.mark.timeout(2 * HANGS)
async def test_the_container_s_command_ends_when_docker_stops_it(folder: Path, double: Sandbox) -> None:
    lines = (EXAMPLES / "Dockerfile").read_text().splitlines()
    command = json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))
    environ = environment(folder, double)
    code, said = await run("twdm", "outbox", "put", "5", "hello", folder=folder, environ=environ)
    assert code == 0, said
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE)
    await double.person(5).receives(timeout=HANGS)
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)) == (0, {"sent": 1})


def test_what_other_libraries_calls_become_exists(double: Sandbox) -> None:
    page = (EXAMPLES.parent / "recipes.md").read_text()
    client: Client = double.client()
    names = re.findall(r"client\.(\w+)\.(\w+)\(", page[page.index("## Moving from") :])
    for resource, method in names:
        if resource != "v1":
            assert callable(getattr(getattr(client, resource), method))
    assert len(names) > 8
