"""What goes wrong around a request, or in this library: each call ends, in an error of ours, and settles what it began."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.drainer import table
from tests.pictures import PNG
from tests.scripted import http, serving
from tests.support import HANGS, keep_files_in_the_loop, place
from tests.test_http import SENT, TEXT, by_session, connected, in_flight, send, used
from tests.virtual_time import run
from twdm_async import (
    Client,
    ConnectFailed,
    DeliveryUnknown,
    DirectMessage,
    IncompatibleAiohttp,
    InternalError,
    InvalidInput,
    MemoryQuotaStore,
    Quota,
    QuotaTable,
    SQLiteQuotaStore,
    TwdmError,
)
from twdm_async._clock import Clock
from twdm_async.credentials import Credentials
from twdm_async.outbox import Outbox, State
from twdm_async.outbox.messages import Messages
from twdm_async.outbox.rows import Rows
from twdm_async.quota.book import Book
from twdm_async.quota.limiter import QuotaLimiter
from twdm_async.resources.reconcile import Reconciler
from twdm_async.sandbox import Fault, Sandbox
from twdm_async.transport import http as transport
from twdm_async.transport import retry, session, wire
from twdm_async.transport.direct import Direct
from twdm_async.transport.http import HttpTransport
from twdm_async.transport.oauth1 import OAuth1Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from twdm_async import AttemptReport

SEND = "direct_messages.send"


@contextlib.asynccontextmanager
async def box(sandbox: Sandbox, path: Path, **options: Any) -> AsyncIterator[Outbox]:
    async with (
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table(), **options) as client,
        Outbox(client, path, settle_after=2.0 if "timeout" in options else None) as outbox,
    ):
        yield outbox


def attempts() -> list[asyncio.Task[Any]]:
    """The tasks of clients in which attempts are made."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "twdm_async attempt"]


# ---- who is cancelled on the wire ----


def test_fault_73_an_attempt_that_is_cancelled_on_the_wire_leaves_no_row_and_no_slot_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_files_in_the_loop(monkeypatch)

    async def main() -> None:
        async with place(tmp_path / "outbox.db", latency=(2.0, 2.0)) as here:
            for number in range(10):
                await here.outbox.put("5", f"{TEXT} {number}")
            draining = asyncio.create_task(here.outbox.drain())
            while len(here.sandbox.messages) < 10:
                await asyncio.sleep(0.0 if here.sandbox.messages else 0.1)
            assert attempts(), "they have arrived, and answers are on their way"
            for task in attempts():
                task.cancel()
            assert (await draining)[State.SENT] == 10
            assert len(here.sandbox.messages) == 10
            assert here.clock.monotonic() < 200, "the list tells of them"
            assert (used(here.client), in_flight(here.client)) == (10, 0)

    run(main())


@pytest.mark.soak
@pytest.mark.parametrize("moment", [0, 1, 2, *(pytest.param(one, marks=pytest.mark.soak) for one in range(3, 30))])
async def test_fault_73_all_tasks_are_cancelled_and_the_next_drain_ends(
    moment: int, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Each message arrives once, whatever the moment; and of the slots, none is left under way."""
    chance = random.Random(moment)
    async with box(sandbox, tmp_path / "outbox.db", timeout=0.4) as outbox:
        for number in range(12):
            await outbox.put("5", f"{TEXT} {number}")
        sandbox._latency = (0.0, 0.03)
        draining = asyncio.create_task(outbox.drain(workers=4))
        await asyncio.sleep(chance.uniform(0.0, 0.08))
        here = {asyncio.current_task(), *(task for task in asyncio.all_tasks() if "twdm_async" not in task.get_name())}
        for task in asyncio.all_tasks() - (here - {draining}):
            task.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        async with asyncio.timeout(HANGS):
            assert (await outbox.drain())[State.SENT] == 12
        assert sorted(message.text for message in sandbox.messages) == sorted(
            f"{TEXT} {number}" for number in range(12)
        )
        client_used = [one for one in outbox._reconciler._caller._limiter.state() if one.endpoint == SEND]
        assert client_used[0].in_flight == 0


async def test_fault_73_an_attempt_that_was_left_to_the_client_is_cancelled_as_well() -> None:
    """First the callers, then the client's tasks: before their first step, and on the wire."""
    told: list[AttemptReport] = []
    go_on = asyncio.Event()

    async def when_told(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(SENT)

    async with serving(when_told) as server, connected(server.url, observers=[told.append]) as client:
        client._caller.places.free = 3
        sends = [asyncio.create_task(send(client)) for _ in range(9)]
        for turns in (0, 3):
            so_far = len(server.requests)
            while len(server.requests) < so_far + 3:
                await asyncio.sleep(0.01)
            for task in sends[:3]:
                task.cancel()
            del sends[:3]
            await asyncio.sleep(0)  # that makes them the client's
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in attempts():
                task.cancel()
        go_on.set()
        async with asyncio.timeout(HANGS):
            results = await asyncio.gather(*sends)
        assert {type(result) for result in results} == {DirectMessage}
        unknown = [report for report in told if isinstance(report.outcome, DeliveryUnknown)]
        assert [report.is_abandoned for report in unknown] == [True] * 6
        assert (len(server.requests), used(client), in_flight(client)) == (9, 9, 0)


# ---- connections ----


@pytest.mark.slow
async def test_fault_75_a_proxy_that_says_nothing_with_a_borrowed_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT is never answered: the attempt ends before anything left, and the next ones, too."""
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)

    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    told: list[AttemptReport] = []
    async with serving(silent) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with (
            aiohttp.ClientSession(trust_env=True) as session,
            connected("https://api.twitter.com", session=session, timeout=0.2, observers=[told.append]) as client,
        ):
            async with asyncio.timeout(HANGS):
                with pytest.raises(ConnectFailed, match="no connection in time") as caught:
                    await send(client)
            assert (caught.value.delivered, used(client)) == ("no", 0)
            assert [(report.number, report.left) for report in told] == [(1, False), (2, False), (3, False)]
            assert 1 <= proxy.connections <= 3  # it may be too slow to accept one in time


@pytest.mark.slow
async def test_fault_75_a_borrowed_pool_that_others_have_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.transport.retry._FIRST_BACKOFF", 0.01)

    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with (
        serving(silent) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        connected(server.url, session=session, timeout=0.2) as client,
    ):
        other = asyncio.create_task(session.get(server.url))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(HANGS):
            with pytest.raises(ConnectFailed, match="no connection in time"):
                await send(client)
        assert used(client) == 0
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_fault_76_netrc_signs_nothing(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login foreign password SENTINELforeign\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, session=session) as client,
    ):
        assert (await client.direct_messages.send("5", TEXT)).id == sandbox.messages[0].id
        assert [request.status for request in sandbox.requests] == [200]


async def test_fault_80_an_aiohttp_that_sends_by_another_method_is_refused_before_anything_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "TrackedRequest", aiohttp.ClientRequest)  # of which another method would be called
    async with serving(http(b"{}")) as server, connected(server.url) as client:
        for _ in range(2):
            with pytest.raises(IncompatibleAiohttp, match=f"aiohttp {aiohttp.__version__} does not tell") as caught:
                await send(client)
            assert (caught.value.delivered, used(client)) == ("no", 0)
        assert server.requests == []


async def test_fault_80_a_reply_without_a_request_is_never_taken_for_nothing_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check was passed, and then aiohttp does something else all the same."""
    monkeypatch.setattr(session.TrackedRequest, "send", aiohttp.ClientRequest.send)
    monkeypatch.setattr(transport, "learn", by_session)
    async with serving(http(b"{}")) as server, connected(server.url) as client:
        with pytest.raises(DeliveryUnknown, match="does not tell when a request leaves"):
            await send(client)
        assert (len(server.requests), used(client)) == (1, 1)
        with pytest.raises(ConnectFailed, match="does not tell when a request leaves"):
            await client.custom_profiles.get("1")
        assert len(server.requests) == 2


# ---- what nobody expected ----


async def test_fault_77_what_cannot_be_kept_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        bad: list[Callable[[], Any]] = [
            lambda: outbox.put("5", TEXT, key="\ud800"),
            lambda: outbox.get("\ud800"),
            lambda: outbox.get(5),  # type: ignore[arg-type]  # that is what is tested
            lambda: outbox.outcome("\ud800"),
            lambda: outbox.retry("\ud800"),
            lambda: outbox.withdraw("a", "\ud800"),
            lambda: outbox.select("nonsense"),  # type: ignore[arg-type]  # as above
            lambda: anext(outbox.events(after=10**30)),
            lambda: outbox.purge(older_than=float("nan")),
        ]
        for use in bad:
            with pytest.raises(InvalidInput):
                await use()
        assert sum((await outbox.counts()).values()) == 0
        entry = await outbox.put("5", TEXT, not_after=datetime.max.replace(tzinfo=UTC))
        assert entry.not_after is not None
        long_ago = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
        await asyncio.gather(*(outbox.put("5", TEXT, key=key, not_after=long_ago) for key in "ab"))
        counts = await outbox.drain()
        assert (counts[State.SENT], counts[State.EXPIRED]) == (1, 2)


async def test_fault_77_a_date_of_the_year_9999_with_a_zone(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults += [Fault("date_far", endpoint=SEND), Fault("401_clock", endpoint=SEND, nth=2)]
    async with box(sandbox, tmp_path / "outbox.db") as outbox:
        for number in range(3):
            await outbox.put("5", f"{TEXT} {number}")
        async with asyncio.timeout(HANGS):
            with contextlib.suppress(TwdmError):
                await outbox.drain(workers=1)
            sandbox.faults.clear()
            assert (await outbox.drain())[State.SENT] == 3


async def test_fault_77_a_clock_that_is_told_to_be_in_another_millennium_is_not_followed() -> None:
    refusal = http(
        b'{"errors":[{"code":135,"message":"Timestamp out of bounds."}]}', "401 Unauthorized",
        "Date: Fri, 31 Dec 9999 23:59:59 -0500",
    )  # fmt: skip
    async with serving(refusal) as server, connected(server.url) as client:
        with pytest.raises(TwdmError):
            await send(client)
        assert len(server.requests) == 1


SEAMS: list[tuple[Any, str]] = [
    (wire, "encode"), (wire, "read"), (retry, "decide"), (Credentials, "fingerprint"), (OAuth1Signer, "sign"),
    (OAuth1Signer, "next_stamp"), (Clock, "end_work"), (QuotaLimiter, "enter"), (MemoryQuotaStore, "take_one"),
    (QuotaLimiter, "admit"), (QuotaLimiter, "learn"), (QuotaLimiter, "settle"), (HttpTransport, "exchange"),
    (MemoryQuotaStore, "ask"), (Book, "take"), (Book, "take_one"), (Book, "apply"), (SQLiteQuotaStore, "_transact"), (Messages, "do"),
    (Rows, "put"), (Rows, "take_up"), (Rows, "leave"), (Rows, "end"), (Rows, "unknown"), (Rows, "counts"),
    (Reconciler, "read"), (Reconciler, "candidates"), (session, "_read"), (session, "_body"), (Direct, "start"), (transport, "finish"),
]  # fmt: skip


class Unexpected(Exception):
    """A mistake; its words repeat what no error may show."""


@pytest.mark.soak
@pytest.mark.parametrize(("owner", "name"), SEAMS, ids=[f"{owner.__name__}.{name}" for owner, name in SEAMS])
async def test_fault_79_an_unexpected_error_at_any_seam_comes_out_as_one_of_ours(
    owner: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every public call ends in an error of ours, or as it should; the next one does what it should; and no slot is left
    under way.
    """
    lost = Fault("reset", endpoint=SEND, nth=1)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(quotas=table(), faults=[lost]))
        store: Any = MemoryQuotaStore() if owner is not SQLiteQuotaStore else SQLiteQuotaStore(tmp_path / "quota.db")
        await stack.enter_async_context(store)
        client = await stack.enter_async_context(
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, quotas=table(), quota_store=store)
        )
        outbox = await stack.enter_async_context(Outbox(client, tmp_path / "outbox.db"))
        with pytest.raises(DeliveryUnknown) as unknown:
            await send(client)
        await outbox.put("5", TEXT, key="before")

        def mistaken(*_: Any, **__: Any) -> Any:
            raise Unexpected(TEXT)

        monkeypatch.setattr(owner, name, mistaken)
        uses: list[Callable[[], Any]] = [
            lambda: send(client),
            client.account.verify_credentials,
            lambda: client.custom_profiles.create("Anna", PNG),
            lambda: anext(client.direct_messages.list()),
            lambda: client.direct_messages.reconcile(unknown.value),
            lambda: outbox.put("5", TEXT, key="now"),
            lambda: outbox.get("before"),
            outbox.counts,
            lambda: outbox.select(State.QUEUED),
            lambda: outbox.retry("before"),
            lambda: outbox.withdraw("nothing"),
            lambda: outbox.purge(older_than=1e6),
            outbox.drain,
            lambda: asyncio.wait_for(anext(outbox.events(after=0)), 0.1),
        ]
        raised = 0
        for use in uses:
            try:
                async with asyncio.timeout(1.0):
                    await use()
            except TwdmError as error:
                raised += isinstance(error, InternalError)
                assert "SENTINEL" not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
            except (TimeoutError, StopAsyncIteration):
                pass  # there is nothing to tell
        monkeypatch.undo()
        if name not in {"settle", "apply", "_transact"}:  # without these, a slot counts until its time is over
            assert in_flight(client) == 0
        async with asyncio.timeout(HANGS):
            assert (await send(client)).id is not None
            await outbox.drain()
            assert (await outbox.counts())[State.SENDING] == 0


@pytest.mark.parametrize("name", ["encode", "read"])
async def test_fault_79_such_an_error_says_where_it_was_and_whether_anything_left(
    name: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(wire, name, mistaken)
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        if name == "encode":
            with pytest.raises(InternalError, match=r"ZeroDivisionError in transport/call.py:\d+\)") as caught:
                await send(client)
            assert caught.value.delivered == "no"
        else:
            with pytest.raises(DeliveryUnknown, match=r"ZeroDivisionError in transport/call.py:\d+\)") as unknown:
                await send(client)
            monkeypatch.undo()
            (settled,) = await client.direct_messages.reconcile(unknown.value)
            assert settled.delivered == "yes"


class Failing(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise ZeroDivisionError(record.name)


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_fault_79_a_log_that_fails_keeps_no_call_waiting(kind: str, tmp_path: Path) -> None:
    """Neither those that wait for quota, nor those that an observer fails for."""
    logger, failing = logging.getLogger("twdm_async"), Failing()
    handler = logging.NullHandler()
    handler.handle = failing.filter  # type: ignore[method-assign]  # so it raises
    quotas = QuotaTable.default().replace(
        "direct_messages.send", Quota(1, per=3600.0), reserve=0.0, credit=None, pace=None
    )

    def fail(_: object) -> None:
        raise ZeroDivisionError

    async with Sandbox(quotas=quotas, autojump=True) as sandbox:
        path = tmp_path / "quota.db"
        is_file, clock = kind == "file", sandbox.time
        store = SQLiteQuotaStore(path, clock=clock) if is_file else MemoryQuotaStore(clock=clock)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            async with store, sandbox.client(quota_store=store, observers=[fail]) as client, asyncio.timeout(HANGS):
                await asyncio.gather(*(send(client) for _ in range(4)))
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
        assert len(sandbox.messages) == 4


class Stuck(Clock):
    def end_work(self, _: object) -> None:
        raise ZeroDivisionError


async def test_fault_79_what_fails_after_the_answer_does_not_say_that_nothing_was_delivered(sandbox: Sandbox) -> None:
    logger, failing = logging.getLogger("twdm_async.transport.call"), Failing()
    async with sandbox.client() as client:
        logger.addFilter(failing)
        logger.setLevel(logging.DEBUG)
        try:
            assert (await send(client)).id == sandbox.messages[0].id
        finally:
            logger.removeFilter(failing)
            logger.setLevel(logging.NOTSET)
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, clock=Stuck()) as client:
        with pytest.raises(InternalError) as caught:
            await send(client)
        assert (caught.value.delivered, caught.value.safe_to_retry, len(sandbox.messages)) == ("unknown", False, 2)
