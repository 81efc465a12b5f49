"""What is logged, and where: nothing waits in silence."""

from __future__ import annotations

import asyncio
import cProfile
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import HANGS
from twdm_async import Pace, Quota, QuotaTable, SQLiteQuotaStore
from twdm_async._log import show_log
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path


def waits(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "waits until" in record.message]


async def test_a_call_that_waits_for_more_than_a_second_says_until_when(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twdm_async")
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(2, per=3600.0), reserve=0, credit=None)
    async with Sandbox(quotas=quotas, autojump=True) as sandbox, sandbox.client() as client:
        await asyncio.gather(*(client.direct_messages.send(5, str(number)) for number in range(5)))
    told = waits(caplog)
    assert [record.levelname for record in told] == ["INFO"] * 3
    assert {record.name for record in told} == {"twdm_async.quota.dispatcher"}
    assert {round(record.__dict__["twdm_wait"], -2) for record in told} == {3600}, "at the earliest"
    assert "direct_messages.send: waits until 20" in told[0].message
    assert "+00:00 or longer for the user quota (2 in 3600 s)" in told[0].message


@pytest.mark.slow
async def test_a_short_wait_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twdm_async")
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(2, per=0.5), reserve=0, credit=None)
    async with Sandbox(quotas=quotas) as sandbox, sandbox.client() as client:
        await asyncio.gather(*(client.direct_messages.send(5, str(number)) for number in range(4)))
    assert waits(caplog) == []


async def test_a_server_that_asks_for_a_wait_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twdm_async")
    async with (
        Sandbox(faults=[Fault("420", nth=1)], autojump=True) as sandbox,
        sandbox.client() as client,
    ):
        await client.users.get("@person_5")
    assert len(waits(caplog)) == 1
    refused = [record for record in caplog.records if "refused for quota" in record.message]
    assert [record.levelname for record in refused] == ["WARNING"]


@pytest.mark.parametrize(
    ("level", "shown"), [("debug", True), ("INFO", False), ("nonsense", False), ("", False), (None, False)]
)
def test_a_variable_shows_the_log(level: str | None, shown: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "TWDM_LOG"}
    environ |= {} if level is None else {"TWDM_LOG": level}
    program = (
        "import logging, twdm_async; "
        "logging.getLogger('twdm_async.transport.call').debug('an attempt \\x1b[31m'); "
        "logging.getLogger('somebody.else').debug('not this')"
    )
    ran = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert ("DEBUG twdm_async.transport.call: an attempt \\u001b[31m" in ran.stderr) == shown
    assert "not this" not in ran.stderr
    assert ("TWDM_LOG must be one of debug, info, warning, error" in ran.stderr) == (level == "nonsense")


async def test_a_wait_that_the_store_finds_out_later_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Messages that wait for the pace at first, and for the quota then."""
    caplog.set_level(logging.INFO, "twdm_async")
    quotas = QuotaTable.default().replace(
        "direct_messages.send", Quota(5, per=3600.0), pace=Pace(20, per=1.0), reserve=0, credit=None
    )
    async with (
        Sandbox(quotas=quotas) as sandbox,
        SQLiteQuotaStore(tmp_path / "quota.db", clock=sandbox.time) as store,
        sandbox.client(quota_store=store) as client,
    ):
        sending = [asyncio.create_task(client.direct_messages.send(5, str(number))) for number in range(60)]
        async with asyncio.timeout(HANGS):
            while len(waits(caplog)) < 55:
                await asyncio.sleep(0.02)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def test_telling_of_many_that_wait_in_many_lanes_costs_little(caplog: pytest.LogCaptureFixture) -> None:
    """Counted in calls of functions, which do not depend on the machine."""
    caplog.set_level(logging.INFO, "twdm_async")
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(1, per=3600.0), reserve=0, credit=None)

    async def calls(lanes: int) -> int:
        async with Sandbox(quotas=quotas) as sandbox, sandbox.client() as client:
            agents = [client.agent("1") for _ in range(lanes)]
            profile = cProfile.Profile()
            sending = [asyncio.ensure_future(agent.send(5, "hello")) for agent in agents]
            profile.enable()
            await asyncio.sleep(0)
            profile.disable()
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        return sum(entry.callcount for entry in profile.getstats())

    few, many = await calls(100), await calls(800)
    assert many < 1.5 * 8 * few


def test_the_log_is_shown_once_however_often_it_is_asked_for() -> None:
    logger = logging.getLogger("twdm_async")
    before, level = list(logger.handlers), logger.level
    try:
        for _ in range(3):
            show_log("info")
        assert len(logger.handlers) == len(before) + 1
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
