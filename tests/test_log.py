"""What is logged, and where: nothing waits in silence."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys

import pytest

from twdm_async import Quota, QuotaTable
from twdm_async.sandbox import Fault, Sandbox


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
    seconds = sorted(record.__dict__["twdm_wait"] for record in told)
    assert seconds[0] == pytest.approx(3600, rel=0.01)
    assert seconds[-1] == pytest.approx(7200, rel=0.01), "the fifth waits for two windows"
    assert "direct_messages.send: waits until 20" in told[0].message
    assert "+00:00 or longer for the user quota (2 in 3600 s)" in told[0].message


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
