"""Where it runs: on Windows as far as that goes, and under other loops than asyncio's own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import HANGS
from twdm_async import Clock
from twdm_async.quota.alarms import Alarms

if TYPE_CHECKING:
    from contextvars import Context

# What Windows does not have, and what is looked for when the package is imported and used.
LIKE_WINDOWS = """
import asyncio, importlib.abc, os, select, signal, sys, time
import aiohttp.web, aiolimiter, cattrs, oauthlib.oauth1, click, platformdirs, redis, rich, yaml  # as they are here

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "resource", "termios", "pwd", "grp"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
for module, names in {
    os: ("fork", "register_at_fork", "geteuid", "getuid", "fchmod", "O_NOFOLLOW", "O_CLOEXEC", "killpg"),
    time: ("clock_gettime", "CLOCK_MONOTONIC", "CLOCK_BOOTTIME", "CLOCK_REALTIME", "tzset"),
    select: ("poll", "epoll"),
    signal: ("SIGSTOP", "SIGCONT", "SIGKILL"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

import pkgutil
import twdm_async
for module in pkgutil.walk_packages(twdm_async.__path__, "twdm_async."):
    if not module.name.startswith("twdm_async.adapters."):  # whose frameworks have their own platforms
        __import__(module.name)

from twdm_async import Client, Inbox, InboxFailed, OutboxFailed, SQLiteQuotaStore
from twdm_async.outbox import Outbox
from twdm_async.sandbox import Sandbox

async def main(folder):
    async with (
        SQLiteQuotaStore(folder + "/quota.db") as store,
        Sandbox() as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quota_store=store) as client,
    ):
        for number in range(3):
            await client.direct_messages.send(5, f"hello {number}")
        for failed, opened in ((InboxFailed, Inbox(folder + "/a.db")), (OutboxFailed, Outbox(client, folder + "/b.db"))):
            try:
                async with opened:
                    print("it cannot be")
            except failed as error:
                print("need flock()" in str(error))
        print(len(sandbox.messages))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.soak
def test_fault_100_on_windows_it_is_imported_and_what_cannot_work_says_so(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", LIKE_WINDOWS, str(tmp_path)], capture_output=True, text=True, timeout=HANGS, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True", "3"]), done.stderr


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
@pytest.mark.skipif(os.environ.get("TWDM_TEST_LOOP") == "uvloop", reason="all tests run under it")
def test_fault_100_under_uvloop_the_sandbox_s_faults_happen() -> None:
    tests = ["tests/test_sandbox.py", "tests/test_platforms.py::test_the_loop_is_the_one_that_was_asked_for"]
    done = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=os.environ | {"TWDM_TEST_LOOP": "uvloop"}, capture_output=True, text=True, timeout=2 * HANGS, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(os.environ.get("TWDM_TEST_LOOP") != "uvloop", reason="that is what is asked for")
async def test_the_loop_is_the_one_that_was_asked_for() -> None:
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"


class _SaysLittle(asyncio.SelectorEventLoop):
    """As uvloop: what is due already comes at once, and its handle does not tell its moment."""

    def call_at(  # type: ignore[override]  # mypy wants its types of callbacks
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        if when <= self.time():
            return self.call_soon(callback, *args, context=context)
        return super().call_at(when, callback, *args, context=context)


def test_fault_100_a_timer_need_not_tell_its_moment() -> None:
    rang: list[str] = []

    async def main() -> None:
        clock = Clock()
        alarms = Alarms[str](clock, lambda _, due: rang.extend(item for _, item in due), lambda _: False)
        alarms.set(clock.monotonic() - 1, "a")
        alarms.arm()
        alarms.set(clock.monotonic() - 2, "b")
        alarms.arm()
        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=_SaysLittle) as runner:
        runner.run(main())
    assert rang == ["b", "a"]
