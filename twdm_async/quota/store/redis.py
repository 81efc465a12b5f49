"""A quota store in Redis or Valkey: the book of an app is on one server, which clients on any number of hosts share.

To carry out a batch, a client reads the book's version, the server's time and the pages that the batch needs, and
applies the operations. It then commits the changed pages if the version is still the same; else it starts over with
what is there now (``redis.lua``). The batch's number is committed with it, and kept for the most recent clients, so
that a client whose answer was lost can find out whether its batch was committed. The keys of an app share a hash tag,
so they lie on one node of a cluster.

If others commit first several times in a row, a client gets the book for itself for a moment.

Time never steps back. A client takes it from the server's clock when it first asks, and from then on adds the time that
passes by its own uptime. So a step of the server's clock, forward or back, frees no slot early. (Only a client that has
not asked before cannot notice such a step.)

What the server forgets cannot be restored; :mod:`twdm_async.quota.store.trust` detects that it has forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import secrets
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import urlsplit

from attrs import asdict

from twdm_async._clock import Clock
from twdm_async._log import quiet_logger
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.quota.book import Book
from twdm_async.quota.operations import Take
from twdm_async.quota.store.transactional import TransactionalQuotaStore
from twdm_async.quota.store.trust import Memory, Meta, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.quota.store.transactional import Batch

_log = quiet_logger(__name__)

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_TIMEOUT: Final = 5.0  # seconds for one call
_EXPIRE: Final = 90 * 86_400  # seconds
_MOST_TRIES: Final = 10  # to commit, before a client asks for a turn of its own
_TURN: Final = 300  # milliseconds
_LOST_FOR: Final = 2 * 3600.0  # seconds on top of the longest window, for requests in flight and for reply credit
_DAY: Final = 86_400.0
_ADVICE: Final = {
    "readonly": "it is a replica now; see that its address leads to the primary",
    "auth|password|noperm": "see that user and password are right, and that this user may run scripts",
    "oom|maxmemory": "it is out of memory; give it more",
    "db index|invalid db": "it has no database with this number",
    "timeout": "it took too long; see that it is reachable, and whether it wants TLS (rediss://)",
    "": "see that it runs and is reachable",
}


class RedisQuotaStore(TransactionalQuotaStore, schemes=_SCHEMES):
    """A quota store on a Redis or Valkey server, for many hosts. Needs Redis 6.2 or later, or Valkey, and the extra
    ``redis``.

    The server must not evict keys (``maxmemory-policy noeviction``), and should persist them.

    Args:
        url: ``redis://[user:password@]host[:port][/db]``, ``rediss://...`` with TLS, ``unix://path``; or
            ``redis+cluster://host[:port]``, one node of a cluster, through which the others are found.
        prefix: the prefix of all keys: without braces and white space.
        assume_spent: the part of a quota that counts as spent if the server does not know the quota yet; see
            :class:`QuotaStore`. If the server has forgotten what was spent, a process that starts with `assume_spent`
            above 0 begins a new book on this assumption.
        clock: this machine's clock, which measures durations so that a step of the server's clock frees no slot.

    Raises:
        InvalidInput: `url` is not the address of a Redis server, `prefix` has braces or white space, `assume_spent` is
            not a number from 0 to less than 1, or the extra is not installed.
    """

    _script: ClassVar = Path(__file__).with_suffix(".lua").read_text(encoding="utf-8")

    def __init__(
        self, url: str, *, prefix: str = "twdm", assume_spent: float = 0.0, clock: Clock | None = None
    ) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self._library = _library()
        self._url = _checked(url, self._library)
        if not isinstance(prefix, str) or not re.fullmatch(r"[^{}\s]+", prefix):
            raise InvalidInput(parameter="prefix", problem="must be a word without braces")
        self._prefix = prefix
        self._redis: Any = None
        self._closing: set[asyncio.Future[None]] = set()  # connections that are being closed
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._memories: dict[str, Memory] = {}  # by app
        self._client = ""
        self._longest = _DAY  # seconds: the longest window of any client

    @property
    def address(self) -> str:
        parts = urlsplit(self._url)
        where = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{where}{parts.path}"

    @classmethod
    def _at(cls, url: str, assume_spent: float, clock: Clock | None) -> Self:
        return cls(url, assume_spent=assume_spent, clock=clock)

    async def close(self) -> None:
        await super().close()
        if self._redis is not None:
            self._disconnect_soon()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _begin_in_loop(self, *, is_new_process: bool) -> None:
        super()._begin_in_loop(is_new_process=is_new_process)
        self._client = secrets.token_hex(6)  # a new name: batches in flight of another loop or process are not ours
        if is_new_process:
            self._memories.clear()
        if self._redis is not None:  # its connections belong to another loop or process, and cannot be closed here
            self._redis.connection = None
            self._redis = None
        self._closing.clear()

    def _connect(self) -> Any:
        client = self._library.asyncio
        timeouts = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        if self._url.partition("://")[0].endswith("+cluster"):
            return client.RedisCluster.from_url(self._url.replace("+cluster", "", 1), **timeouts)
        # This module alone decides what is retried, and when.
        never = client.retry.Retry(self._library.backoff.NoBackoff(), 0)
        return client.Redis.from_url(self._url, retry=never, single_connection_client=True, **timeouts)

    async def commit(self, batch: Batch) -> None:
        known = self._memories.setdefault(batch.app, Memory())
        state: State | None = await self._read(batch, known)
        while state is not None:
            meta = self._judged(known, state, batch)
            book, is_lost = Book(meta.since, self.assume_spent), meta.lost_until > meta.now
            if not is_lost:
                book.load(state.pages)
                batch.answers = [book.apply(operation, meta.now) for operation in batch.operations]
            state = await self._write(batch, known, state, meta, book.changes())
            if state is None and is_lost:
                raise self._forgotten()
            if state is None:
                self._show(batch.app, meta.now, book)
            elif known.tries > _MOST_TRIES:  # another client has its turn
                await asyncio.sleep(random.random() * 0.002)

    async def was_committed(self, batch: Batch) -> bool | None:
        known = self._memories.setdefault(batch.app, Memory())
        state: State | None = await self._read(batch, known)
        while state is not None:
            number = state.meta.of(self._client) if state.meta else None
            if number == known.batch + 1:
                known.batch += 1
                return True
            batch.outcome = batch.outcome or number is None  # the book has forgotten this client, after many others
            # The batch may still be on its way to the server. Changing the book prevents its commit.
            state = await self._write(batch, known, state, self._judged(known, state), {}, number=known.batch)
        return None if batch.outcome else False

    async def _read(self, batch: Batch, known: Memory) -> State:
        state = await self._call(batch, "read", "", known, (), is_again=False)
        assert state is not None  # noqa: S101 - only a commit returns no state
        return state

    def _judged(self, known: Memory, state: State, batch: Batch | None = None) -> Meta:
        """Return the `meta` that the book is to have after `batch`, or without one, after a commit of no operations."""
        if state.has_earlier and not self.assume_spent:
            problem = "an earlier version of this library counts here; stop it, and start with assume_spent"
            raise QuotaStoreFailed(store=self.address, problem=problem)
        takes = [one for one in batch.operations if isinstance(one, Take)] if batch else []
        self._longest = max([self._longest, *(take.about.keep for take in takes)])
        assumes = batch is not None and self.assume_spent > 0
        meta = known.judge(state, self._client, assumes=assumes, longest=self._longest + _LOST_FOR)
        if meta is None:
            raise self._forgotten()
        return meta

    async def _write(
        self, batch: Batch, known: Memory, state: State, meta: Meta, changes: dict[str, str], number: int | None = None
    ) -> State | None:
        """Commit `changes`, under the client's next batch number or under `number`. If the book has changed meanwhile,
        commit nothing, and return the present state.
        """
        is_begun, is_next = state.meta is None or state.meta.epoch != meta.epoch, number is None
        if number is None:
            number = 1 if is_begun else known.batch + 1
        meta = meta.with_batch(self._client, number)
        fields = {**changes, "meta": json.dumps(asdict(meta))}
        writes = [text for pair in fields.items() for text in pair]
        batch.is_unsure = True
        answer = await self._call(batch, "begin" if is_begun else "commit", state.text, known, writes)
        batch.is_unsure = False
        there = answer.meta if answer is not None and is_next else None
        if there and (there.epoch, there.of(self._client)) == (meta.epoch, number):
            answer = None  # it was committed before: redis-py has sent the command twice
        if answer is None:
            known.remember(meta, number, state.sent_at)
        else:
            known.tries += 1
        return answer

    # ---- the server ----

    def _forgotten(self) -> QuotaStoreFailed:
        problem = (
            "it has forgotten what was spent, or may have: it was flushed, evicts keys, was restarted, or went on with "
            "an older copy of its data; nothing is sent until the longest window is over, or until a process that was "
            "started with assume_spent begins a new book"
        )
        return QuotaStoreFailed(store=self.address, problem=problem)

    async def _call(
        self, batch: Batch, mode: str, text: str, known: Memory, writes: Sequence[str], *, is_again: bool = True
    ) -> State | None:
        """Run the script. Return the state that was read, or ``None`` if the changes were committed."""
        errors, pages = self._library.exceptions, batch.pages
        turn = _TURN if known.tries >= _MOST_TRIES else 0
        keys = [f"{self._prefix}:{{{batch.app}}}:{name}" for name in ("pages", "book", "clock")]
        arguments = (*keys, mode, text, _EXPIRE, self._client, turn, len(pages), *pages, *writes)
        try:
            if self._redis is None:
                self._redis = self._connect()
                await self._warn_of_eviction()
            sent_at = self.clock.uptime()
            answer = await self._ask_server(len(keys), *arguments)
        except (errors.ConnectionError, OSError) as error:  # a TimeoutError is an OSError
            if is_again or isinstance(error, errors.TimeoutError | TimeoutError):
                raise self._refused(error) from None
        except (errors.RedisError, errors.RedisClusterException) as error:
            raise self._refused(error) from None
        else:
            return None if answer == 1 else _state(answer, pages, sent_at)
        # The server may just have closed an idle connection.
        return await self._call(batch, mode, text, known, writes)

    async def _ask_server(self, keys: int, *arguments: Any) -> Any:
        """Run the script on the server. After any error, drop the connection: a late answer may still come over it, and
        its server may no longer be the primary.
        """
        connected = self._redis
        try:
            try:
                return await connected.evalsha(self._sha, keys, *arguments)
            except self._library.exceptions.NoScriptError:
                return await connected.eval(self._script, keys, *arguments)
        except BaseException:  # including a cancellation
            if self._redis is connected:
                self._disconnect_soon()
            raise

    def _disconnect_soon(self) -> None:
        closing = asyncio.ensure_future(self._redis.aclose())
        self._redis = None
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _refused(self, error: BaseException) -> QuotaStoreFailed:
        problem = f"it cannot be asked ({type(error).__name__}); {_advice(error)}"
        return QuotaStoreFailed(store=self.address, problem=problem)

    async def _warn_of_eviction(self) -> None:
        if not isinstance(self._redis, self._library.asyncio.Redis):
            return  # in a cluster, each node would have to be asked
        with suppress(self._library.exceptions.ResponseError):  # not every user has the right to ask
            memory = await self._redis.info("memory")
            if memory.get("maxmemory") and memory.get("maxmemory_policy") != "noeviction":
                _log.warning("%s: it evicts keys when memory is short; set maxmemory-policy noeviction", self.address)


def _state(answer: Any, pages: Sequence[str], sent_at: float) -> State:
    text, seconds, microseconds, identity, has_earlier, values = answer
    facts: dict[str, Any] | None = json.loads(text) if text else None
    return State(
        text=text.decode(),
        meta=Meta(before=tuple(facts.pop("before")), **facts) if facts else None,
        time=int(seconds) + int(microseconds) / 1e6,
        identity=identity.decode(),
        has_earlier=bool(has_earlier),
        sent_at=sent_at,
        pages={name: value.decode() for name, value in zip(pages, values, strict=True) if value is not None},
    )


def _checked(url: str, library: Any) -> str:
    try:
        if re.match(f"({'|'.join(map(re.escape, _SCHEMES))})://.", url):
            library.asyncio.ConnectionPool.from_url(url.replace("+cluster", "", 1)).make_connection()
            return url
    except (ValueError, TypeError):
        pass
    problem = f"is not the address of a Redis server; it begins with one of {', '.join(_SCHEMES)}"
    raise InvalidInput(parameter="url", problem=problem)


def _library() -> Any:
    """Import redis-py. It is an extra; its type annotations differ between versions, so it is an `Any` here."""
    try:
        import_module("redis.asyncio")
        return import_module("redis")
    except ImportError:
        problem = "Redis needs an extra: pip install 'twdm_async[redis]'"
        raise InvalidInput(parameter="url", problem=problem) from None


def _advice(error: BaseException) -> str:
    """Return advice on `error`. It does not quote the server, whose words may contain parts of keys."""
    words = f"{type(error).__name__} {error}"
    return next((advice for pattern, advice in _ADVICE.items() if re.search(pattern, words, re.IGNORECASE)))
