"""Time in the sandbox, which can be moved, and jumps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support import HANGS
from tests.virtual_time import virtual_time
from twdm_async import Client, InvalidInput, LoopClock, Quota, QuotaTable, QuotaWaitTooLong, Scope, SQLiteQuotaStore
from twdm_async.outbox import Outbox
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path


MANY = QuotaTable.default().replace("direct_messages.send", Quota(10**6, per=86_400.0))


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


async def test_who_has_received_knows_that_the_answer_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its way back the answer is held up, as by a busy machine: time may be moved when the client has read it."""
    monkeypatch.setattr("twdm_async.sandbox.state._LONGEST_QUIET", HANGS)
    ports = list[int]()

    async def hold_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter, after: float) -> None:
            while data := await source.read(65_536):
                await asyncio.sleep(after)
                to.write(data)
            to.close()

        there, back = await asyncio.open_connection("127.0.0.1", ports[0])
        await asyncio.gather(pass_on(reader, back, 0.0), pass_on(there, writer, 0.1))

    async with await asyncio.start_server(hold_up, "127.0.0.1", 0) as server, Sandbox() as sandbox:
        ports.append(sandbox.port)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(sandbox.credentials, api_url=url, upload_url=url, clock=sandbox.time) as client:
            sending = asyncio.create_task(client.direct_messages.send(5, "Hello"))
            await sandbox.person(5).receives()
            assert sending.done()


async def test_who_receives_does_not_wait_for_what_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.sandbox.state._LONGEST_QUIET", 2 * HANGS)
    async with Sandbox(quotas=MANY) as sandbox, sandbox.client() as client:

        async def send_for_ever() -> None:
            while True:
                await client.direct_messages.send(99, "Hello")

        sending = asyncio.create_task(send_for_ever())
        async with asyncio.timeout(HANGS):
            await sandbox.person(99).receives(3)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.soak
async def test_who_is_cancelled_while_answers_are_awaited_receives_it_again() -> None:
    silence = Fault("silence", endpoint="direct_messages.send", nth=1)
    async with Sandbox(faults=[silence]) as sandbox, sandbox.client(timeout=HANGS) as client:
        sending = asyncio.create_task(client.direct_messages.send(5, "Hello"))
        receiving = asyncio.create_task(sandbox.person(5).receives())
        while not any(sandbox._state.received.values()):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        assert len(await sandbox.person(5).receives()) == 1
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 30])
async def test_nothing_is_under_way_for_the_clock_when_the_client_is_closed(turns: int) -> None:
    """Whatever was cancelled, repeated, refused or left to the client before."""
    faults = [
        Fault(kind, endpoint="direct_messages.send", nth=nth) for nth, kind in enumerate(("reset", "503", "429"), 1)
    ]
    async with Sandbox(quotas=MANY, faults=faults, autojump=True) as sandbox:  # whom the 429 hits, waits for a minute
        async with sandbox.client() as client:
            sending = [asyncio.create_task(client.direct_messages.send(5, "Hello")) for _ in range(9)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in sending[::2]:
                task.cancel()
            await asyncio.gather(*sending[:4], return_exceptions=True)
        await asyncio.gather(*sending, return_exceptions=True)
        async with asyncio.timeout(HANGS):
            while sandbox.time.under_way():
                await asyncio.sleep(0.01)  # the sandbox notices that a client has hung up


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


@pytest.mark.slow
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


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_store_with_another_clock_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_same: bool
) -> None:
    async with Sandbox() as sandbox:
        clock = sandbox.time if is_same else None
        async with SQLiteQuotaStore(tmp_path / "quota.db", clock=clock) as store, sandbox.client(quota_store=store):
            assert ("the quota store has another clock" in caplog.text) != is_same
