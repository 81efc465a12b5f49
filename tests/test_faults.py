"""Faults that touch the whole client: each test is called after its number on the page *What it survives*."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from tests.scripted import http, serving
from tests.support import HANGS
from tests.test_http import KEYS, PROFILE, SENT, TEXT, close_at_once, connected, in_flight, saying, send, silence, used
from tests.virtual_time import run
from twdm_async import (
    AttemptReport,
    Client,
    ClientClosed,
    ConnectFailed,
    DeliveryUnknown,
    DirectMessage,
    InvalidInput,
    LoopClock,
    Quota,
    QuotaTable,
    ServerError,
    Unauthorized,
    WrongEventLoop,
)
from twdm_async._clock import Clock
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twdm_async.transport import wire

TESTS = Path(__file__).parent
LARGE = QuotaTable.default().replace("direct_messages.send", Quota(1_000_000, per=86_400.0))


def test_every_fault_has_a_test() -> None:
    """Those on the page, by the names of tests and of their parameters."""
    listed = {
        int(number)
        for number in re.findall(r"^\| (\d+) \|", (TESTS.parent / "docs/faults.md").read_text(), re.MULTILINE)
    }
    assert listed == set(range(1, 118))
    tested: set[int] = set()
    for path in TESTS.glob("test_*.py"):
        for numbers in re.findall(r"faults?_(\d+(?:_and_\d+|_to_\d+)*)", path.read_text()):
            first, *others = map(int, re.findall(r"\d+", numbers))
            tested |= set(range(first, others[-1] + 1)) if "_to_" in numbers else {first, *others}
    assert listed - tested == set()


# ---- connections ----


@contextlib.asynccontextmanager
async def speaking_tls(*, expired: bool) -> AsyncIterator[tuple[int, aiohttp.ClientSession, list[None]]]:
    """A port where TLS is spoken with a certificate for 127.0.0.1, a session that trusts who signed it, and a list that
    grows with every connection that came about.
    """
    authority = trustme.CA()
    ends = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
    certificate = authority.issue_cert("127.0.0.1", not_after=ends)
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    certificate.configure_cert(theirs)
    authority.configure_trust(ours)
    came: list[None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(None)
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SENT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0, ssl=theirs) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ours)) as session,
    ):
        yield server.sockets[0].getsockname()[1], session, came


@pytest.mark.parametrize(("host", "expired"), [("localhost", False), ("127.0.0.1", True)])
async def test_fault_3_a_certificate_for_another_host_or_an_old_one(host: str, expired: bool) -> None:
    async with (
        speaking_tls(expired=expired) as (port, session, came),
        connected(f"https://{host}:{port}", session=session) as client,
    ):
        with pytest.raises(ConnectFailed, match="certificate") as caught:
            await send(client)
        assert (caught.value.delivered, caught.value.safe_to_retry) == ("no", False)
        assert (used(client), came) == (0, [])


async def test_fault_3_a_good_certificate_is_accepted() -> None:
    async with (
        speaking_tls(expired=False) as (port, session, came),
        connected(f"https://127.0.0.1:{port}", session=session) as client,
    ):
        assert (await send(client)).custom_profile_id == "100001"
        assert came == [None]


async def test_fault_4_no_connection_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)

    async def never(*_: object, **__: object) -> Any:  # as a firewall that drops what comes
        await asyncio.sleep(30)

    monkeypatch.setattr("asyncio.BaseEventLoop.create_connection", never)
    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", never)
    async with connected("http://127.0.0.1:9", timeout=0.1) as client:
        with pytest.raises(ConnectFailed, match="no connection in time") as caught:
            await send(client)
        assert (caught.value.delivered, caught.value.safe_to_retry, used(client)) == ("no", True, 0)


class SleepingClock(Clock):
    """Of a machine that sleeps for an hour when it is told to."""

    slept = 0.0

    def uptime(self) -> float:
        return super().uptime() + self.slept

    def sleep_now(self) -> None:
        self.slept += 3600.0


async def test_fault_84_a_machine_that_sleeps_between_the_slot_and_the_first_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had a slot; others may have it since. So nothing leaves on it."""
    clock = SleepingClock()
    async with serving(SENT) as server, connected(server.url, clock=clock) as client:
        signed: list[None] = []
        sign = client._caller._signer.sign

        def sleepy(request: wire.Request, at: float) -> str:
            signed.append(None)
            if len(signed) == 1:
                clock.sleep_now()
            return sign(request, at)

        monkeypatch.setattr(client._caller._signer, "sign", sleepy)
        await send(client)
        assert (len(signed), len(server.requests), used(client)) == (2, 1, 1)


async def test_fault_85_a_proxy_that_answers_connect_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SleepingClock()
    connects: list[bytes] = []
    relays: set[asyncio.Task[Any] | None] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        there, back = await asyncio.open_connection("127.0.0.1", int(head.split()[1].rpartition(b":")[2]))
        connects.append(head)
        if len(connects) == 1:
            clock.sleep_now()
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)

    async with (
        speaking_tls(expired=False) as (port, trusting, came),
        await asyncio.start_server(relay, "127.0.0.1", 0) as proxy,
    ):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with (
            aiohttp.ClientSession(connector=trusting.connector, connector_owner=False, trust_env=True) as session,
            connected(f"https://127.0.0.1:{port}", session=session, clock=clock) as client,
        ):
            assert (await send(client)).custom_profile_id == "100001"
            assert used(client) == 1
        assert len(connects) == 2
        assert len(came) == 2, "one of them only to be closed"
    await asyncio.wait([task for task in relays if task is not None], timeout=HANGS)


async def test_fault_16_garbage_behind_the_last_chunk_harms_nobody_else() -> None:
    async with (
        Sandbox(faults=[Fault("chunked_then_garbage", nth=1)]) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client,
    ):
        with contextlib.suppress(DeliveryUnknown):  # it depends on how the bytes fall into packets
            await client.direct_messages.send("5", TEXT)
        assert (await client.direct_messages.send("5", TEXT)).id == sandbox.messages[1].id
        assert len(sandbox.messages) == 2


async def test_fault_33_a_storm_of_503_empties_the_budget_and_then_fails_fast() -> None:
    async with serving(http(b"", "503 Service Unavailable")) as server, connected(server.url) as client:
        results = await asyncio.gather(*(client.custom_profiles.get("1") for _ in range(100)), return_exceptions=True)
        assert all(isinstance(result, ServerError) for result in results)
        assert len(server.requests) == 150, "fifty more than were asked for, and not two hundred"
        with pytest.raises(ServerError):
            await client.custom_profiles.get("1")
        assert len(server.requests) == 151


async def test_fault_33_answers_fill_the_budget_again() -> None:
    down = saying(http(b"", "503 Service Unavailable"))
    async with serving(down) as server, connected(server.url) as client:
        await asyncio.gather(*(client.custom_profiles.get("1") for _ in range(60)), return_exceptions=True)
        assert not client._caller._budget.has_some
        client._caller._budget.earn()
        assert not client._caller._budget.has_some, "one answer does not pay for another try"
        for _ in range(4):
            client._caller._budget.earn()
        assert client._caller._budget.has_some


def test_fault_33_a_server_that_asks_for_a_pause_gets_it() -> None:
    async def main() -> None:
        clock = LoopClock()
        later = saying(http(b"", "503 Service Unavailable", "Retry-After: 20"))
        async with serving(later, PROFILE) as server, connected(server.url, clock=clock) as client:
            before = clock.monotonic()
            assert (await client.custom_profiles.get("1")).id == "100001"
            assert 20 <= clock.monotonic() - before < 21
        async with (
            serving(http(b"", "503 Service Unavailable", "Retry-After: 3600")) as server,
            connected(server.url, clock=clock) as client,
        ):
            with pytest.raises(ServerError):
                await client.custom_profiles.get("1")
            assert len(server.requests) == 1, "nobody waits an hour for that"

    run(main())


# ---- keys and clocks ----


@pytest.mark.parametrize("code", [32, 89])
async def test_fault_36_keys_that_are_refused_are_not_tried_again(code: int) -> None:
    body = b'{"errors":[{"code":%d,"message":"no"}]}' % code
    async with serving(http(body, "401 Unauthorized")) as server, connected(server.url) as client:
        for call in (send(client), client.custom_profiles.get("1")):
            with pytest.raises(Unauthorized) as caught:
                await call
            assert caught.value.codes == (code,)
            assert caught.value.sent_at is not None
        assert len(server.requests) == 2


@pytest.mark.parametrize("wrong_by", [360.0, 3600.0, -3600.0])
def test_fault_34_a_clock_that_is_wrong_or_steps_while_messages_are_sent(wrong_by: float) -> None:
    async def main() -> None:
        right, wrong = LoopClock(), LoopClock(wrong_by=wrong_by)
        async with (
            Sandbox(clock=right) as sandbox,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=wrong) as client,
        ):
            await client.direct_messages.send("5", TEXT)
            assert [request.status for request in sandbox.requests] == [401, 200]
            wrong.wrong_by = 0.0  # somebody sets it right
            await client.direct_messages.send("5", TEXT)
            assert [request.status for request in sandbox.requests] == [401, 200, 401, 200]
            await client.direct_messages.send("5", TEXT)
            assert [request.status for request in sandbox.requests] == [401, 200, 401, 200, 200]
            assert len(sandbox.messages) == 3

    run(main())


# ---- callers who give up, clients that are closed ----


async def later(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.3)
    writer.write(SENT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    await writer.drain()


async def test_fault_46_a_timeout_around_a_send_leaves_it_to_end_and_its_outcome_is_told() -> None:
    reports: list[AttemptReport] = []
    async with serving(later) as server, connected(server.url, observers=[reports.append]) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await send(client)
        assert (used(client), in_flight(client), reports) == (1, 1, [])
        while not reports:
            await asyncio.sleep(0.01)
        assert reports[0].is_abandoned
        assert isinstance(reports[0].outcome, DirectMessage)
        assert (used(client), in_flight(client), len(server.requests)) == (1, 0, 1)
        await send(client)
        assert not reports[1].is_abandoned


async def test_fault_46_a_timeout_around_a_send_that_waits_for_quota_sends_nothing() -> None:
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(1, per=60.0))
    async with serving(SENT) as server, connected(server.url, quotas=quotas) as client:
        await send(client)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await send(client)
        assert (used(client), len(server.requests)) == (1, 1)


async def test_fault_45_cancelled_after_any_number_of_turns_of_the_loop() -> None:
    async with serving(later) as server, connected(server.url, quotas=LARGE) as client:
        turns = sends = 0
        while len(server.requests) < 3:  # a connection takes its time, however many turns that is
            sending = asyncio.create_task(send(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            sends += 1
            turns += 1 + turns // 10
        await client.close()
        assert 3 <= len(server.requests) < sends
        assert (used(client), in_flight(client)) == (len(server.requests), 0)


async def test_fault_45_cancelled_while_all_places_are_taken_it_never_leaves() -> None:
    async with serving(later) as server, connected(server.url) as client:
        client._caller.places.free = 1
        first, second, third = (asyncio.create_task(send(client)) for _ in range(3))
        while not server.requests:
            await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.gather(first, third)
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (used(client), in_flight(client), len(server.requests)) == (2, 0, 2)


async def test_fault_47_closing_waits_for_those_whose_caller_has_given_up() -> None:
    reports: list[AttemptReport] = []
    async with serving(later) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, observers=[reports.append])
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        sending.cancel()
        await client.close()
        assert not [task for task in asyncio.all_tasks() if "twdm_async" in task.get_name()]
        assert [type(report.outcome) for report in reports] == [DirectMessage]
        await client.close()
        with pytest.raises(ClientClosed):
            await send(client)


async def test_fault_47_what_nobody_waits_for_any_more_is_unknown_when_time_is_up() -> None:
    reports: list[AttemptReport] = []
    async with serving(silence) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, observers=[reports.append])
        sending = asyncio.create_task(send(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        sending.cancel()
        await client.close(timeout=0.1)
        assert isinstance(reports[0].error, DeliveryUnknown)
        assert reports[0].is_abandoned


def test_fault_48_a_client_serves_one_loop() -> None:
    client = Client(KEYS, api_url="http://127.0.0.1:9", upload_url="http://127.0.0.1:9")

    async def first() -> None:
        async with client:
            pass

    async def second() -> None:
        for use in (send(client), client.close(), client.direct_messages.list().__anext__(), client.__aenter__()):
            with pytest.raises(WrongEventLoop, match="another event loop"):
                await use

    asyncio.run(first())
    asyncio.run(second())


async def test_fault_48_a_client_in_two_loops_at_once() -> None:
    async with serving(SENT) as server, connected(server.url) as client:
        await send(client)
        with pytest.raises(WrongEventLoop, match="make a client for each event loop"):
            await asyncio.to_thread(lambda: asyncio.run(send(client)))
        await send(client)


def _child(client: Client, results: Any) -> None:
    try:
        asyncio.run(send(client))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        results.send(f"{type(error).__name__}: {error}")


async def test_fault_49_a_client_that_was_used_before_a_fork() -> None:
    async with serving(SENT) as server, connected(server.url) as client:
        await send(client)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(client, theirs))
        process.start()
        await asyncio.to_thread(process.join, 20)
        assert ours.recv().startswith("WrongEventLoop: the client was used before this process was forked off")
        await send(client)
        assert (len(server.requests), server.connections) == (2, 1), "our connection is as it was"


def test_fault_39_nonces_differ_after_a_fork() -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        found = pool.map(_nonces, [500, 500])
    assert len({*found[0], *found[1], *_nonces(500)}) == 1500


def _nonces(count: int) -> list[str]:
    from tests.test_oauth1 import nonces  # noqa: PLC0415 - in the child, too

    return nonces(count)


@pytest.mark.soak
@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_fault_51_many_sends_at_once(count: int) -> None:
    async with serving(SENT) as server, connected(server.url, quotas=LARGE) as client:
        assert len(await asyncio.gather(*(send(client) for _ in range(count)))) == count
        assert len(server.requests) == used(client) == count
        assert server.connections <= 100
        assert client._caller.places.free == client._http.most


@pytest.mark.soak
async def test_fault_51_ten_thousand_that_wait_end_when_the_client_is_closed() -> None:
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(10, per=3600.0))
    async with serving(SENT) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url, quotas=quotas)
        sending = [asyncio.create_task(send(client)) for _ in range(10_000)]
        while len(server.requests) < 10:
            await asyncio.sleep(0.01)
        await client.close()
        results = await asyncio.gather(*sending, return_exceptions=True)
        assert sum(isinstance(result, DirectMessage) for result in results) == 10
        assert sum(isinstance(result, ClientClosed) for result in results) == 9_990


async def test_fault_54_a_client_that_nobody_holds_any_more_leaves_no_task() -> None:
    async with serving(SENT) as server:
        client = Client(KEYS, api_url=server.url, upload_url=server.url)
        await send(client)
        session = client._http._session
        assert session is not None
        with pytest.warns(ResourceWarning, match="unclosed <twdm_async"):
            del client
        gc.collect()
        await asyncio.sleep(0.05)
        assert not [task for task in asyncio.all_tasks() if "twdm_async" in task.get_name()]
        await session.close()


# ---- what the sandbox can let go wrong ----


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["429_past_reset", "429_retry_after_date"])
async def test_fault_27_a_reset_in_the_past_is_waited_for_a_second_and_sent_again(kind: str) -> None:
    async with (
        Sandbox(faults=[Fault(kind, endpoint="direct_messages.send", nth=1)]) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, max_wait=10) as client,
    ):
        began = asyncio.get_running_loop().time()
        await client.direct_messages.send("5", TEXT)
        assert asyncio.get_running_loop().time() - began >= 1.0
        assert (len(sandbox.messages), len(sandbox.requests)) == (1, 2)


@pytest.mark.parametrize(
    "kind", ["remaining_negative", "remaining_text", "remaining_empty", "remaining_list", "remaining_high"]
)
async def test_fault_29_and_30_absurd_headers_change_nothing(kind: str) -> None:
    async with (
        Sandbox(faults=[kind]) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client,
    ):
        await client.account.verify_credentials()
        assert used(client, "account.verify_credentials") == 1


async def test_users_trace_configs_are_used() -> None:
    seen: list[object] = []

    async def on_end(_: object, context: Any, __: object) -> None:
        seen.append(context.trace_request_ctx)

    config = aiohttp.TraceConfig()
    config.on_request_end.append(on_end)
    async with serving(SENT) as server, connected(server.url, trace_configs=[config]) as client:
        await send(client)
    assert seen == ["direct_messages.send"]


async def test_an_observer_that_fails_is_in_nobody_s_way(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> None:
        raise ValueError("a bug of somebody else's")

    async with serving(SENT) as server, connected(server.url, observers=[broken]) as client:
        await send(client)
    assert "an observer failed" in caplog.text


@pytest.mark.parametrize("observer", [None, asyncio.sleep])
def test_an_observer_that_is_none(observer: Any) -> None:
    with pytest.raises(InvalidInput, match="observers"):
        Client(KEYS, observers=[observer])


async def test_an_attempt_on_a_dead_server_is_told_of_too() -> None:
    reports: list[AttemptReport] = []
    async with serving(close_at_once) as server, connected(server.url, observers=[reports.append]) as client:
        with pytest.raises(DeliveryUnknown):
            await send(client)
    assert [(report.left, report.status, type(report.error)) for report in reports] == [(True, None, DeliveryUnknown)]
    assert "DeliveryUnknown" in str(reports[0])
