"""Agents of each framework: every call is one message, whatever is repeated and whenever the process is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from tests.agents.driver import CALLS, arguments, is_refused
from tests.drainer import table
from tests.pictures import PNG
from tests.test_documents import environment, need

if TYPE_CHECKING:
    from twdm_async.sandbox import StoredMessage

from twdm_async.sandbox import Sandbox

pytestmark = pytest.mark.soak
NEEDS: Final = {
    "pydantic_ai": "pydantic_ai",
    "openai_agents": "agents",
    "langchain": "langgraph",
    "microsoft_agents": "microsoft_agents",
}
ROOT: Final = Path(__file__).parents[1]


def expected(framework: str = "") -> list[tuple[Any, ...]]:
    """The messages that must arrive, once each."""
    calls = {number: arguments(number) for number in range(CALLS) if not is_refused(number)}
    if framework == "microsoft_agents":  # one agent answers each person
        for number, call in calls.items():
            call |= {"who": "billing", "recipient": str(100 + number // 2)}
    return sorted((call["who"], call["recipient"], call["text"], tuple(call["choices"])) for call in calls.values())


def arrived(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    def shown(message: StoredMessage) -> tuple[Any, ...]:
        name = sandbox.profiles[message.custom_profile_id or ""].name
        return name, message.recipient_id, message.text, tuple(message.choices)

    return sorted(map(shown, sandbox.messages))


async def profiles(sandbox: Sandbox) -> dict[str, str]:
    async with sandbox.client() as client:
        return {name: (await client.custom_profiles.create(name, PNG)).id for name in ("billing", "support")}


def end(process: asyncio.subprocess.Process) -> None:
    """End a process and those that it has forked, if they have not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("framework", NEEDS)
async def test_a_hundred_calls_and_ten_kills(framework: str, tmp_path: Path) -> None:
    need(NEEDS[framework])
    async with Sandbox(quotas=table(), list_lag=(0.0, 0.3)) as sandbox:
        (tmp_path / "profiles.json").write_text(json.dumps(await profiles(sandbox)))
        seed, kills = str(len(framework)), "10"
        keys = json.dumps(attrs.asdict(sandbox.credentials))
        command = [
            sys.executable,
            "-m",
            "tests.agents.driver",
            framework,
            str(tmp_path),
            sandbox.url,
            seed,
            kills,
            keys,
        ]
        environ = environment(tmp_path, PYTHONPATH=str(ROOT), LANGSMITH_TRACING="false")
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environ, start_new_session=True)
        try:
            assert await process.wait() == 0
        finally:
            end(process)
        assert arrived(sandbox) == expected(framework)
        assert sandbox.breaches == []
    told = json.loads((tmp_path / "told.json").read_text())
    assert len(told) == CALLS
    for number in range(CALLS):
        answer = told[f"call_{number}"]
        assert answer == "Anna said no." if is_refused(number) else answer["status"] == "sent", answer
