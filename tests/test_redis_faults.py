"""What the Redis store survives: servers that are not there, die, forget, or go on with an older copy of their data."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
import redis

from tests.redis_server import RedisServer, free_port
from tests.stores import (
    CLAIMS,
    LIFETIME,
    QUOTA,
    SEND,
    HandClock,
    TimedRedisStore,
    again,
    make,
    settle,
    spend,
    take,
    taken,
    usage,
)
from tests.support import HANGS
from twdm_async import (
    Lane,
    Quota,
    QuotaStore,
    QuotaStoreFailed,
    QuotaTable,
    RedisQuotaStore,
    Scope,
)
from twdm_async._clock import Clock
from twdm_async.quota.limiter import QuotaLimiter
from twdm_async.quota.operations import Bucket, Claim, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


async def test_redis_that_is_not_there_at_the_start() -> None:
    store = RedisQuotaStore(f"redis://user:s3cret@127.0.0.1:{free_port()}/2")
    async with asyncio.timeout(HANGS):
        with pytest.raises(QuotaStoreFailed, match="see that it runs") as caught:
            await taken(store)
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1" in caught.value.store
    await store.close()


async def test_redis_that_is_killed_and_comes_back_empty(redis_program: str) -> None:
    with RedisServer(redis_program) as server:
        store = RedisQuotaStore(server.url)
        await spend(store, 2)
        server.kill()
        with pytest.raises(QuotaStoreFailed, match="see that it runs"):
            await taken(store)
        server.start()
        for _ in range(2):
            with pytest.raises(QuotaStoreFailed, match="forgotten"):
                await taken(store)
        await store.close()
        async with RedisQuotaStore(server.url, assume_spent=0.6) as second:  # as its advice says
            assert len(await taken(second, 3)) == 1


async def test_redis_that_is_flushed(redis_program: str) -> None:
    with RedisServer(redis_program) as server, redis.Redis(port=server.port) as client:
        store = RedisQuotaStore(server.url)
        await spend(store, 2)
        client.flushall()
        with pytest.raises(QuotaStoreFailed, match="forgotten"):
            await taken(store)
        await store.close()


async def test_redis_that_goes_on_with_an_old_copy_of_its_data(redis_program: str, tmp_path: Path) -> None:
    options = ["--dir", str(tmp_path), "--dbfilename", "copy.rdb"]
    with RedisServer(redis_program, *options) as server, redis.Redis(port=server.port) as client:
        store = RedisQuotaStore(server.url)
        await spend(store, 1)
        client.save()
        await asyncio.sleep(0.01)
        assert len(await taken(store, 3)) == 2
        server.kill()
        server.start()
        with pytest.raises(QuotaStoreFailed, match="forgotten"):
            await taken(store)
        await store.close()


@contextlib.contextmanager
def losing(loss: str, server: RedisServer, gate: Gate, program: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Yield what lets the server lose what was written since now, or since then."""
    with redis.Redis(port=server.port) as client, contextlib.ExitStack() as stack:
        client.save()
        if loss == "fail-over":
            replica = stack.enter_context(RedisServer(program, "--dir", str(folder), "--dbfilename", "replica.rdb"))
            with redis.Redis(port=replica.port) as other:
                other.replicaof("127.0.0.1", server.port)
                while other.info("replication").get("master_link_status") != "up":
                    time.sleep(0.05)
                other.replicaof("no", "one")  # it lags from here on, and takes over then

        def lose() -> None:
            if loss == "fail-over":
                server.kill()
                gate.target = replica.port
                gate.drop()
            elif loss == "flush":
                client.flushall()
            else:
                if loss == "restart":
                    client.save()
                server.kill()
                server.start()

        yield lose


@pytest.mark.slow
@pytest.mark.parametrize("first", ["idle", pytest.param("busy", marks=pytest.mark.soak)])
@pytest.mark.parametrize("loss", ["flush", "restart", "old copy", "fail-over"])
async def test_fault_86_what_one_client_finds_out_holds_for_all(
    loss: str, first: str, redis_program: str, tmp_path: Path
) -> None:
    """A client that was idle meanwhile knows nothing of what is lost, and may not send either, whoever asks first."""
    options = ["--dir", str(tmp_path), "--dbfilename", "copy.rdb"]
    with RedisServer(redis_program, *options) as server, Gate(server.port) as gate:
        address = f"redis://127.0.0.1:{gate.port}"
        stores = {name: RedisQuotaStore(address) for name in ("busy", "idle")}
        await spend(stores["idle"], 1)
        with losing(loss, server, gate, redis_program, tmp_path) as lose:
            assert len(await taken(stores["busy"], 3)) == 2
            lose()
            await nobody_may_send(stores, first)
            async with RedisQuotaStore(address) as new:
                with pytest.raises(QuotaStoreFailed, match="forgotten"):  # nor whoever comes later
                    await taken(new)
            async with RedisQuotaStore(address, assume_spent=0.6) as new:
                assert len(await taken(new, 3)) == 1
                await nobody_may_send(stores, first)
            for store in stores.values():
                await store.close()


async def nobody_may_send(stores: dict[str, RedisQuotaStore], first: str) -> None:
    for name in sorted(stores, key=lambda name: name != first) * 2:
        with pytest.raises(QuotaStoreFailed, match="forgotten"):
            await taken(stores[name])


class Gate:
    """Passes connections on to the server that is in office."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.is_stalled = False
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._pairs.clear()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                here.close()
                continue
            self._pairs += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                while self.is_stalled:
                    time.sleep(0.01)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
async def test_a_book_that_was_lost_is_begun_anew_when_nothing_of_it_counts_any_more(redis_url: str) -> None:
    clock = HandClock()
    store = make("redis", clock, Path(), redis_url)
    assert isinstance(store, TimedRedisStore)
    await spend(store, 3)
    store.server.delete(f"{store._prefix}:{{brand}}:pages")
    for hours in (0, 20, 5.5):
        clock.now += hours * 3600
        with pytest.raises(QuotaStoreFailed, match="forgotten"):
            await taken(store)
    clock.now += 3600
    assert len(await taken(store, 5)) == 3
    await store.close()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
async def test_fault_87_a_server_s_clock_that_is_stepped_frees_no_slot_early(seed: int, redis_url: str) -> None:
    """One busy client, one idle one; steps of seconds and of hours, forward, back, to and fro. No window of real time
    holds more than the limit.
    """
    generator, clock = random.Random(seed), HandClock()
    busy = make("redis", clock, Path(), redis_url)
    idle = again(busy, clock)
    await taken(idle)
    await taken(busy)  # who asks for the first time believes the server
    clock.now += 200
    granted: list[float] = []
    for _ in range(150):
        clock.now += generator.choice([0.1, 1.0, 5.0, 30.0])
        clock.wrong_by += generator.choice([0.0, 0.0, 1.9, -1.9, 3600.0, -3600.0])
        store = idle if generator.random() < 0.05 else busy
        slots = await taken(store, 5)
        granted += [clock.now] * len(slots)
        clock.now += 0.05
        for slot in slots:
            settle(store, slot)
        await store.flush()
    assert len(granted) > 20
    for first, last in zip(granted, granted[QUOTA.limit :], strict=False):
        assert last - first >= QUOTA.per
    await idle.close()
    await busy.close()


async def test_fault_90_a_book_of_an_earlier_version_is_not_taken_for_none(redis_url: str) -> None:
    clock = HandClock()
    store = make("redis", clock, Path(), redis_url)
    assert isinstance(store, TimedRedisStore)
    store.server.hset(f"{store._prefix}:{{brand}}:clock", mapping={"now": "1", "time": "1", "epoch": "a"})
    with pytest.raises(QuotaStoreFailed, match="earlier version"):
        await taken(store)
    async with TimedRedisStore(redis_url, clock, prefix=store._prefix, assume_spent=0.6) as new:
        assert len(await taken(new, 3)) == 1
    assert not store.server.exists(f"{store._prefix}:{{brand}}:clock"), "so the earlier one finds that it is gone"
    await store.close()


async def test_redis_that_closes_an_idle_connection_is_asked_again(redis_program: str) -> None:
    with RedisServer(redis_program) as server, redis.Redis(port=server.port) as client:
        async with RedisQuotaStore(server.url) as store:
            await spend(store, 1)
            client.client_kill_filter(_type="normal", skipme=True)
            assert len(await taken(store, 3)) == 2


@pytest.mark.soak
async def test_redis_that_does_not_answer(redis_program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twdm_async.quota.store.redis._TIMEOUT", 0.3)
    with RedisServer(redis_program) as server, redis.Redis(port=server.port) as client:
        clock = Clock()
        async with RedisQuotaStore(server.url) as store:
            table = QuotaTable.default().replace(SEND, Quota(3, per=100.0))
            limiter = QuotaLimiter(table, store, account="a", app="b", clock=clock, timeout=5.0)
            limiter.settle(await limiter.admit(SEND, Lane()), seen=True)
            client.execute_command("CLIENT", "PAUSE", "1500", "ALL")
            with pytest.raises(QuotaStoreFailed):
                await limiter.admit(SEND, Lane(), max_wait=60.0)  # it is told at once, not when the pause is over
            await asyncio.sleep(1.5)
            slots = [await limiter.admit(SEND, Lane(), max_wait=1.0) for _ in range(2)]
            assert len(slots) == 2, "what may have been taken while it did not answer was given back"


@pytest.mark.slow
async def test_fault_91_a_primary_that_became_a_replica_is_left(redis_program: str) -> None:
    """Its connections stay open, and refuse what writes; whoever connects anew gets the new primary."""
    with (
        RedisServer(redis_program) as server,
        RedisServer(redis_program) as other,
        Gate(server.port) as gate,
        redis.Redis(port=server.port) as old,
        redis.Redis(port=other.port) as new,
    ):
        async with RedisQuotaStore(f"redis://127.0.0.1:{gate.port}") as store:
            await spend(store, 1)
            new.replicaof("127.0.0.1", server.port)
            while new.info("replication").get("master_link_status") != "up":
                await asyncio.sleep(0.05)
            new.replicaof("no", "one")
            old.replicaof("127.0.0.1", other.port)
            gate.target = other.port
            with pytest.raises(QuotaStoreFailed, match="it is a replica now"):
                await taken(store)
            with pytest.raises(QuotaStoreFailed, match="forgotten"):  # the new one may not have everything
                await taken(store)


async def test_fault_91_cancelled_in_the_middle_of_a_command_answers_are_not_mixed(redis_program: str) -> None:
    """All tasks are cancelled, at any moment of a command: the next one gets its own answer, and no slot is lost."""
    chance, granted, rounds = random.Random(5), 0, 80
    bucket, quota = Bucket(SEND, Scope.USER, "a", "brand"), Quota(1000, per=100.0)
    claims = (Claim(bucket, (quota,)),)
    with RedisServer(redis_program) as server:
        async with RedisQuotaStore(server.url) as store:
            await spend(store, 1)
            me = {asyncio.current_task()}
            began = asyncio.get_running_loop().time()
            await take(store, claims, LIFETIME, 1)
            usual = asyncio.get_running_loop().time() - began  # on this machine, and beside whatever else it does
            for _ in range(rounds):
                asking = asyncio.ensure_future(take(store, claims, LIFETIME, 1))
                await asyncio.sleep(chance.uniform(0.0, 2 * usual))
                others = asyncio.all_tasks() - me
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                if not asking.cancelled() and asking.exception() is None:
                    granted += 1
            for _ in range(3):
                slots = await take(store, claims, LIFETIME, 1)
                assert not isinstance(slots, Wait)
                assert len(slots) == 1
            used = usage(store, bucket, quota)
    assert granted + 4 <= used.used <= rounds + 4


@pytest.mark.slow
async def test_fault_91_a_connection_that_stalls_is_left(redis_program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes over it later is the answer to nothing."""
    monkeypatch.setattr("twdm_async.quota.store.redis._TIMEOUT", 0.3)
    with RedisServer(redis_program) as server, Gate(server.port) as gate:
        async with RedisQuotaStore(f"redis://127.0.0.1:{gate.port}") as store:
            await spend(store, 1)
            gate.is_stalled = True
            with pytest.raises(QuotaStoreFailed, match="took too long"):
                await taken(store)
            gate.is_stalled = False
            assert len(await taken(store, 3)) == 2


@pytest.mark.soak
@pytest.mark.parametrize("cluster", [False, True])
async def test_the_keys_of_an_app_lie_on_one_node_of_a_cluster(
    redis_program: str, cluster: bool, tmp_path: Path
) -> None:
    options = ["--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf")]
    with RedisServer(redis_program, *options) as server, redis.Redis(port=server.port) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            await asyncio.sleep(0.05)
        address = server.url.replace("redis://", "redis+cluster://") if cluster else server.url
        async with QuotaStore.from_url(address) as store:
            app = Claim(Bucket(SEND, Scope.APP, "brand", "brand"), (Quota(9, per=100.0),))
            slots = await take(store, (*CLAIMS, app), LIFETIME, 2)
            assert isinstance(slots, list)
            for slot in slots:
                settle(store, slot)
            await store.flush()
        keys: Sequence[bytes] = client.keys("*")
        assert keys
        assert all(b":{brand}:" in key for key in keys)
        assert all(client.ttl(key) > 100 for key in keys), "keys that nobody uses expire"


async def test_redis_that_evicts_is_warned_of(redis_program: str, caplog: pytest.LogCaptureFixture) -> None:
    options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]
    with RedisServer(redis_program, *options) as server:
        async with RedisQuotaStore(server.url) as store:
            await taken(store)
    assert "noeviction" in caplog.text
