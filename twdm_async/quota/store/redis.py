"""Ledgers in Redis or Valkey: all who use one server share them, on any number of hosts.

Time is the server's own, and it never steps back. If the server's clock is set forward, no slot comes free too early:
each client tells how much time can have passed at the most since it last asked. (Only one that has not asked before
cannot tell.) If it is set back, slots come free later.

The steps of one turn of the loop are one script call (``redis.lua``). The keys of an app share a hash tag, so that
they lie on one node of a cluster. They expire when nothing in them counts any longer.

What the server forgets cannot be known again. So each client remembers the server's epoch and time: if these are gone
or older, the data was flushed or evicted, or the server went on without it or with an old copy, and nothing is sent
any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import secrets
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import urlsplit

from twdm_async._clock import Clock
from twdm_async.errors import InvalidInput
from twdm_async.quota.ledger import Usage, window
from twdm_async.quota.store.batched import BatchedQuotaStore, refused
from twdm_async.quota.store.steps import (
    Answer,
    BeginReply,
    Begun,
    EndReply,
    GiveBack,
    Hear,
    Hold,
    Look,
    Looked,
    Settle,
    Step,
    Take,
    Taken,
    Tighten,
    WithdrawReply,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.quota.spec import Quota
    from twdm_async.quota.store.contract import Bucket, Claim, Partner

_log = logging.getLogger("twdm_async")

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_TIMEOUT: Final = 5.0  # seconds for one call
_FASTER: Final = 1.0001  # than ours, the server's clock may be
_SLACK: Final = 2.0  # seconds that a call may take longer than the one before, on its way


class RedisQuotaStore(BatchedQuotaStore, schemes=_SCHEMES):
    """Serves many hosts. Needs Redis 6.2 or later, or Valkey, and the extra ``redis``.

    The server must not evict keys (``maxmemory-policy noeviction``), and should persist them.

    Args:
        url: ``redis://[user:password@]host[:port][/db]``, ``rediss://...`` with TLS, ``unix://path``; or
            ``redis+cluster://host[:port]`` for one node of a cluster, by which the others are found.
        prefix: what all keys begin with.
        assume_spent: what to believe of a quota that the server does not know yet; see :class:`QuotaStore`.
        clock: this machine's clock; it is only used to doubt the server's.

    Raises:
        InvalidInput: the address is none, or the extra is not installed.
    """

    _script: ClassVar = Path(__file__).with_suffix(".lua").read_text(encoding="utf-8")

    def __init__(
        self, url: str, *, prefix: str = "twdm", assume_spent: float = 0.0, clock: Clock | None = None
    ) -> None:
        super().__init__(clock=clock or Clock(), assume_spent=assume_spent)
        self._library = _library()
        if not isinstance(url, str) or url.partition("://")[0] not in _SCHEMES:
            raise InvalidInput(parameter="url", problem=f"must begin with one of {', '.join(_SCHEMES)}")
        if not isinstance(prefix, str) or not re.fullmatch(r"[^{}\s]+", prefix):
            raise InvalidInput(parameter="prefix", problem="must be a word without braces")
        self._url = url
        self._prefix = prefix
        self._redis: Any = None
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._epochs: dict[str, tuple[str, float, float]] = {}  # app to epoch, the ledgers' time, and when we asked
        self._check_address()

    @property
    def address(self) -> str:
        parts = urlsplit(self._url)
        where = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{where}{parts.path}"

    @classmethod
    def _at(cls, url: str, assume_spent: float) -> Self:
        return cls(url, assume_spent=assume_spent)

    async def close(self) -> None:
        await super().close()
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None

    def _move_in(self, *, was_forked: bool, is_new: bool) -> None:
        super()._move_in(was_forked=was_forked, is_new=is_new)
        if self._redis is not None:  # its connections belong to another loop or process, and cannot be closed here
            self._redis.connection = None
            self._redis = None

    def _connect(self) -> Any:
        asyncio = self._library.asyncio
        timeouts = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        if self._url.partition("://")[0].endswith("+cluster"):
            return asyncio.RedisCluster.from_url(self._url.replace("+cluster", "", 1), **timeouts)
        # What is asked again, and when, is decided here.
        never = asyncio.retry.Retry(self._library.backoff.NoBackoff(), 0)
        return asyncio.Redis.from_url(self._url, retry=never, single_connection_client=True, **timeouts)

    def _check_address(self) -> None:
        """So that a bad address is known at once. Nothing is sent."""
        leads_nowhere = self._url.endswith("://")
        try:
            self._library.asyncio.ConnectionPool.from_url(self._url.replace("+cluster", "", 1)).make_connection()
        except (ValueError, TypeError):
            leads_nowhere = True
        if leads_nowhere:
            raise InvalidInput(parameter="url", problem="it is no address of a Redis server")

    async def _run(self, steps: Sequence[Step]) -> list[Answer]:
        answers: list[Answer] = [None] * len(steps)
        for app in dict.fromkeys(_app_of(step) for step in steps):
            places = [place for place, step in enumerate(steps) if _app_of(step) == app]
            for place, answer in zip(places, await self._run_for(app, [steps[p] for p in places]), strict=True):
                answers[place] = answer
        return answers

    async def _run_for(self, app: str, steps: Sequence[Step]) -> list[Answer]:
        errors = self._library.exceptions
        try:
            try:
                answer = await self._call_script(app, steps, again=False)
            except (errors.ConnectionError, OSError):  # it may only have closed a connection that nobody used for long
                answer = await self._call_script(app, steps, again=True)
        except (errors.RedisError, errors.RedisClusterException, OSError) as error:  # a TimeoutError is an OSError
            raise refused(self, f"it cannot be asked ({type(error).__name__}); {_advice(error)}") from None
        if not answer:
            problem = (
                "it has forgotten what was spent: it was flushed, restarted without its latest data, or evicts keys; "
                "begin anew with another process, and with assume_spent if what was spent in the last window matters"
            )
            raise refused(self, problem)
        return [_read(step, words) for step, words in zip(steps, answer, strict=True)]

    async def _call_script(self, app: str, steps: Sequence[Step], *, again: bool) -> list[Any]:
        """The answers of the script; none if the server has forgotten."""
        if self._redis is None:
            self._redis = self._connect()
            await self._warn_of_eviction()
        writer = _Writer(f"{self._prefix}:{{{app}}}", again=again)
        words = json.dumps([writer.words(step) for step in steps], separators=(",", ":"))
        sent_at = self._clock.uptime()
        epoch, told, not_after = "", 0.0, 0.0
        if app in self._epochs:
            epoch, told, then = self._epochs[app]
            not_after = told + (sent_at - then) * _FASTER + _SLACK
        arguments = (
            len(writer.all_keys),
            *writer.all_keys,
            words,
            epoch,
            secrets.token_hex(8),
            f"{told:.6f}",
            f"{not_after:.6f}",
            self.assume_spent,
            len(writer.keys),
        )
        try:
            text = await self._redis.evalsha(self._sha, *arguments)
        except self._library.exceptions.NoScriptError:
            text = await self._redis.eval(self._script, *arguments)
        answer = json.loads(text)
        if not answer:
            return []
        self._epochs[app] = (answer[0], float(answer[1]), sent_at)
        answers: list[Any] = answer[2]
        return answers

    async def _warn_of_eviction(self) -> None:
        if not isinstance(self._redis, self._library.asyncio.Redis):
            return  # of a cluster, each node would have to be asked
        with contextlib.suppress(self._library.exceptions.ResponseError):  # not every user may ask
            memory = await self._redis.info("memory")
            if memory.get("maxmemory") and memory.get("maxmemory_policy") != "noeviction":
                _log.warning("%s: it evicts keys when memory is short; set maxmemory-policy noeviction", self.address)


def _library() -> Any:
    """redis-py. It is an extra, and its versions do not agree on its types."""
    try:
        import_module("redis.asyncio")
        return import_module("redis")
    except ImportError:
        problem = "Redis needs an extra: pip install 'twdm_async[redis]'"
        raise InvalidInput(parameter="url", problem=problem) from None


class _Writer:
    """Puts steps into the words of the script."""

    def __init__(self, tag: str, *, again: bool) -> None:
        self.keys = [f"{tag}:clock"]
        self._tag = tag
        self._again = again
        self._indices: dict[Bucket, int] = {}
        self._conversations: dict[str, int] = {}

    @property
    def all_keys(self) -> list[str]:
        """The clock, three for each bucket, one for each conversation."""
        return [*self.keys, *self._conversations]

    def words(self, step: Step) -> list[Any]:  # noqa: C901 - a case for each kind of step
        match step:
            case Take():
                return ["take", self._claims(step.claims), step.names, step.lifetime, self._again]
            case Look():
                return ["look", self._claims(step.claims)]
            case Settle():
                return ["settle", [self._index(bucket) for bucket in step.buckets], step.names, step.grace]
            case GiveBack():
                return ["give_back", [self._index(bucket) for bucket in step.buckets], step.names]
            case Hold():
                return ["hold", self._index(step.bucket), step.seconds]
            case Tighten():
                return ["tighten", self._index(step.bucket), _words(step.quota), step.remaining, step.seconds]
            case BeginReply():
                credit = step.credit
                return ["begin_reply", self._place(step.partner), step.name, step.now, credit.replies, credit.per]
            case EndReply():
                return ["end_reply", self._place(step.partner), step.name, step.made]
            case WithdrawReply():
                return ["withdraw_reply", self._place(step.partner), step.name]
            case Hear():
                return ["hear", self._place(step.partner), step.at]

    def _claims(self, claims: tuple[Claim, ...]) -> list[Any]:
        return [[self._index(claim.bucket), [_words(quota) for quota in claim.quotas]] for claim in claims]

    def _place(self, partner: Partner) -> int:
        """The place of its key among the script's."""
        key = f"{self._tag}:conversation:{partner.owner}:{partner.person}"
        if key not in self._conversations:
            self._conversations[key] = len(self._conversations)
        return self._conversations[key]

    def _index(self, bucket: Bucket) -> int:
        index = self._indices.get(bucket)
        if index is None:
            index = self._indices[bucket] = len(self._indices) + 1
            name = f"{self._tag}:{bucket.name.replace(' ', ':')}"
            self.keys += (name, f"{name}:settled", f"{name}:in_flight")
        return index


def _words(quota: Quota) -> list[float]:
    return [quota.limit, window(quota)]


def _app_of(step: Step) -> str:
    match step:
        case Take() | Look():
            return step.claims[0].bucket.app
        case Settle() | GiveBack():
            return step.buckets[0].app
        case Hold() | Tighten():
            return step.bucket.app
        case BeginReply() | EndReply() | WithdrawReply() | Hear():
            return step.partner.app


def _read(step: Step, words: Any) -> Answer:
    if isinstance(step, BeginReply):
        return Begun(words == "free", words in {"free", "open"})
    if not isinstance(step, Take | Look):
        return None
    quotas = [quota for claim in step.claims for quota in claim.quotas]
    if words[0] == "looked":
        return _looked(quotas, words[1])
    return Taken(words[1], tuple(words[2]), _looked(quotas, words[3]) if words[3] else None)


def _looked(quotas: Sequence[Quota], usages: Any) -> Looked:
    return Looked(
        tuple(
            Usage(
                used=used,
                in_flight=in_flight,
                held_for=held_for,
                freeing=tuple((number, seconds) for number, seconds in freeing),
                per=window(quota),
            )
            for quota, (used, in_flight, held_for, freeing) in zip(quotas, usages, strict=True)
        )
    )


def _advice(error: BaseException) -> str:
    """What to do about it. The server's own words are not repeated: they may have parts of the script, or of keys."""
    words = f"{type(error).__name__} {error}".lower()
    if any(word in words for word in ("auth", "password", "nopermission", "noperm")):
        return "see that user and password are right, and that this user may run scripts"
    if "oom" in words or "maxmemory" in words:
        return "it is out of memory; give it more"
    if "db index" in words or "invalid db" in words:
        return "it has no database of this number"
    if "timeout" in words:
        return "it took too long; see that it is reachable, and whether it wants TLS (rediss://)"
    return "see that it runs and is reachable"
