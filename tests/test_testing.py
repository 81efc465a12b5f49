"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

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
import importlib.util
import re

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


LOOP_PER_TEST: Final = ("-o", "asyncio_default_fixture_loop_scope=function")
ASYNCIO: Final = "pytest.mark.asyncio"
ANYIO: Final = "[pytest.mark.anyio, pytest.mark.parametrize('anyio_backend', ['asyncio'])]"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("options", "marks"),
    [
        pytest.param(("-o", "asyncio_mode=strict", *LOOP_PER_TEST), (ASYNCIO, ANYIO), id="strict"),
        pytest.param(("-o", "asyncio_mode=auto", *LOOP_PER_TEST), ("[]",), id="auto"),
        pytest.param(("-p", "no:asyncio"), (ANYIO,), id="anyio alone"),
    ],
)
async def test_a_bot_s_test_of_five_lines(tmp_path: Path, options: Sequence[str], marks: Sequence[str]) -> None:
    if importlib.util.find_spec("anyio") is None:
        marks = [mark for mark in marks if mark != ANYIO] or pytest.skip("anyio is not installed")
    (tmp_path / "bot.py").write_text(BOT)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for number, mark in enumerate(marks):
        (tmp_path / f"test_{number}.py").write_text(TESTS.replace("MARKS", mark))
    code, out = await _pytest(tmp_path, *options)
    count = len(marks)
    assert code == 1
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", out.splitlines()[-1])}
    assert numbers == {"passed": 8 * count, "failed": 3 * count, "error": count}, out
    for number in range(count):
        assert f"ERROR test_{number}.py::test_fails_also_after_its_end" in out
    assert out.count("AssertionError: person 5 has received 0 of 1 messages, and a webhook has failed") >= count
    assert "LookupError" in out
    assert "bot.py" in out
    assert "A webhook failed:" in out
    assert "Nobody listens to webhooks" in out
    assert "the text of the message" not in out.replace('raise LookupError("the text of the message")', "")


@pytest.mark.soak
async def test_a_test_may_run_in_the_loop_of_a_larger_scope(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(BOT)
    test = TESTS[TESTS.index("async def test_five_lines") : TESTS.index("@pytest.mark.twdm")]
    for scope in ("class", "module", "session"):
        (tmp_path / f"test_{scope}.py").write_text(
            f"import pytest\nfrom bot import bot\nmark = pytest.mark.asyncio(loop_scope='{scope}')\n\n\n"
            "class TestIt:\n"
            + "".join(f"    {line}\n" for line in f"@mark\n{test}".replace("(twdm_", "(self, twdm_", 1).splitlines())
        )
    code, out = await _pytest(tmp_path, "-o", "asyncio_mode=strict", *LOOP_PER_TEST)
    assert (code, "3 passed" in out) == (0, True), out


@pytest.mark.slow
async def test_a_handler_that_is_slower_than_the_test_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""
import asyncio
import pytest
from twdm_async import testing
from twdm_async.webhooks import Webhook

testing._SETTLE_WITHIN = 0.1


@pytest.mark.asyncio
async def test_it(twdm_sandbox, twdm_client):
    await twdm_sandbox.subscribe(Webhook(twdm_client.credentials, lambda _: asyncio.sleep(1)))
    twdm_sandbox.person(5).writes("Hello")
""")
    code, out = await _pytest(
        tmp_path, "-o", "asyncio_mode=strict", "-W", "always::pytest.PytestWarning", *LOOP_PER_TEST
    )
    assert (code, "1 passed, 1 warning" in out) == (0, True), out
    assert "a webhook is still handling an event" in out


@pytest.mark.soak
async def test_options_of_the_marker_have_names(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.asyncio\n@pytest.mark.twdm({})\nasync def test_it(twdm_sandbox): ...\n"
    )
    code, out = await _pytest(tmp_path, "-o", "asyncio_mode=strict", *LOOP_PER_TEST)
    assert (code, "named options only" in out) == (1, True), out


@pytest.mark.soak
async def test_who_runs_no_async_tests_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(twdm_sandbox): ...")
    code, out = await _pytest(tmp_path, "-p", "no:asyncio", "-p", "no:anyio")
    assert code == 1
    assert "need pytest-asyncio, or anyio" in out


@pytest.mark.soak
async def test_the_plugin_imports_nothing_until_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    found = [name for name in sys.modules if name.split('.')[0] in {'twdm_async', 'aiohttp'}]\n"
        "    assert set(found) <= {'twdm_async', 'twdm_async._lazy', 'twdm_async.testing'}, found\n"
    )
    code, out = await _pytest(tmp_path, *LOOP_PER_TEST)
    assert code == 0, out
