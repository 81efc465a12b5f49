"""The queue that survives: put a message, and it is sent once, whatever happens to the process.

Before a message's first byte leaves, it is on the disk that it is being sent; and when its answer is there, what that
was. So after a crash it is known which messages may or may not have arrived. These are looked for in the API's list of
messages, and only what is not there after a settling time is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import warnings
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from twdm_async import errors
from twdm_async._numbers import checked_count, checked_seconds
from twdm_async._quiet import quiet, quiet_call
from twdm_async.client import Client
from twdm_async.models.checks import checked_characters
from twdm_async.outbox.entry import Process, State
from twdm_async.outbox.insertion import insertion_of
from twdm_async.outbox.messages import Messages, woken
from twdm_async.outbox.rows import SCHEMA, NewMessage, Rows
from twdm_async.outbox.sending import Sending
from twdm_async.outbox.settling import Settling
from twdm_async.quota.lanes import Lane
from twdm_async.quota.spec import Priority
from twdm_async.resources.direct_messages import outgoing
from twdm_async.resources.evidence import checked_settle_after
from twdm_async.storage.places import checked_place, open_storage
from twdm_async.storage.postgres.database import PostgresDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput
    from twdm_async.outbox.entry import Entry
    from twdm_async.outbox.insertion import Insertion
    from twdm_async.resources.message_data import Attachable
    from twdm_async.storage.places import Place

T = TypeVar("T")

_LOOK_EVERY: Final = 0.25  # seconds, for what other processes do
_IF_BAD: Final = "put it back, or move it away and put the messages again"
_LONGEST_KEY: Final = 500
_LARGEST_NUMBER: Final = 2**63 - 1
_LATEST: Final = 253_402_300_799.0  # seconds since 1970: the end of the year 9999


class Outbox:
    """Messages of one account in a file or a PostgreSQL database, and whoever sends them.

    Several processes may use one file, and processes on many hosts one database. Use it as ``async with Outbox(client,
    path) as outbox``, within the client's own block.

    Args:
        client: sends them.
        path: of the file; it is made if it is not there, for its owner alone. Or the URL of a database
            (``postgresql://...``), or a :class:`PostgresDatabase`. If the client's quota store is in the same file or
            database, a message and the slot it is sent with are written down together.
        settle_after: seconds after which a message that may have arrived, and is not in the API's list of messages, may
            be sent again: ten minutes, or five times the client's timeout, and the database's lease, if that is more.
            The list has been seen to lag by three minutes; see :mod:`twdm_async.resources.evidence`. Pauses after a
            message failed are a multiple of it.

    Raises:
        InvalidInput: `path` is not a path, or `settle_after` is so short that a message may still be on its way.
    """

    def __init__(self, client: Client, path: Place, *, settle_after: float | None = None) -> None:
        if not isinstance(client, Client):
            raise errors.InvalidInput(parameter="client", problem="must be a Client")
        self._reconciler = client.direct_messages.reconciler
        place = checked_place(path)
        self._place = place
        lease = place.lease if isinstance(place, PostgresDatabase) else 0.0
        settle_after = checked_settle_after(settle_after, self._reconciler.timeout, lease)
        self._clock = client.clock
        account = self._reconciler.credentials.account
        self._storage = open_storage(place, SCHEMA, "what is to be sent", _IF_BAD, self._clock, turn=account)
        self._messages = Messages(self._storage, account, self._clock)
        self._sending = Sending(
            self._messages,
            client.direct_messages,
            Settling(self._messages, client.direct_messages, self._clock, settle_after),
            self._clock,
            settle_after=settle_after,
            has_slots=client.quota_store.place == place,
        )
        self._is_closed = False

    @quiet
    async def put(
        self,
        recipient_id: str | int,
        text: str | None = None,
        *,
        custom_profile_id: CustomProfile | str | int | None = None,
        key: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
        not_after: datetime | None = None,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
    ) -> Entry:
        """Keep a message, to be sent. When this returns, it is on the disk.

        Args:
            recipient_id: the person's user id.
            text: at most 10 000 characters; may be left out if there is an attachment.
            custom_profile_id: the custom profile it shows under, or its id; the account's own name and picture if not
                given.
            key: a name for the message, of at most 500 characters. The same message (to the same person, under the same
                profile, with the same content) under the same key is kept, and sent, once; `priority` and `not_after`
                stay as they were first. A name of its own if not given.
            priority: which waiting messages go first.
            not_after: when it is too late to send it (an aware ``datetime``).
            quick_replies: 1 to 20 answers to tap; or a :class:`TextInput` or :class:`LocationRequest`.
            ctas: 1 to 3 buttons.
            attachment: a file that was uploaded with a category such as ``"dm_image"``, or its media id (the API
                forgets files after a day); or a :class:`SharedCoordinate` or :class:`SharedPlace`.

        Returns:
            What became of the message of this key so far.

        Raises:
            InvalidInput: something is wrong with the arguments, or `key` was used for another message.
            OutboxFailed: it could not be kept.
        """
        new = self._new(
            recipient_id,
            text,
            custom_profile_id=custom_profile_id,
            key=key,
            priority=priority,
            not_after=not_after,
            quick_replies=quick_replies,
            ctas=ctas,
            attachment=attachment,
        )
        entry = await self._keep(new)
        if isinstance(entry, errors.InvalidInput):
            raise entry
        return entry

    @quiet_call
    def insertion(
        self,
        recipient_id: str | int,
        text: str | None = None,
        *,
        key: str,
        custom_profile_id: CustomProfile | str | int | None = None,
        priority: Priority = Priority.INTERACTIVE,
        not_after: datetime | None = None,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
    ) -> Insertion:
        """Return the statement that puts a message in a transaction of your own, in the outbox' PostgreSQL database:
        the message is sent if that transaction is committed, and only then.

        Args:
            recipient_id: as of :meth:`put`, and so are all the others.
            text: as of :meth:`put`.
            key: a name for the message; see :meth:`put`.
            custom_profile_id: as of :meth:`put`.
            priority: as of :meth:`put`.
            not_after: as of :meth:`put`.
            quick_replies: as of :meth:`put`.
            ctas: as of :meth:`put`.
            attachment: as of :meth:`put`.

        Raises:
            InvalidInput: something is wrong with the arguments, or the outbox is in a file.
        """
        if not isinstance(self._place, PostgresDatabase):
            raise errors.InvalidInput(
                parameter="outbox", problem="must be in a PostgreSQL database; this one is in a file"
            )
        new = self._new(
            recipient_id,
            text,
            custom_profile_id=custom_profile_id,
            key=key,
            priority=priority,
            not_after=not_after,
            quick_replies=quick_replies,
            ctas=ctas,
            attachment=attachment,
        )
        return insertion_of(new, self._reconciler.credentials.account, self._place.schema)

    def _new(
        self,
        recipient_id: str | int,
        text: str | None,
        *,
        key: str | None,
        priority: Priority,
        not_after: datetime | None,
        **content: Any,
    ) -> NewMessage:
        """Check a message that is to be put, and encode it."""
        message = outgoing(recipient_id, text, **content)
        fingerprint, content_fingerprint = self._reconciler.credentials.fingerprints(
            message.message.text, message.message.content
        )
        payload = json.dumps(message.create, ensure_ascii=False, sort_keys=True)
        return NewMessage(
            key=secrets.token_hex(16) if key is None else _checked_key(key),
            digest=hashlib.sha256(payload.encode()).hexdigest(),
            recipient_id=message.message.recipient_id or "",
            custom_profile_id=message.message.custom_profile_id,
            fingerprint=fingerprint,
            content=content_fingerprint,
            payload=payload,
            priority=Lane(priority=priority).priority,
            not_after=None if not_after is None else _checked_time(not_after, "not_after"),
        )

    async def get(self, key: str) -> Entry | None:
        """Tell what became of the message called `key`; ``None`` if there is none.

        Raises:
            InvalidInput: `key` is not a text that a key can be.
        """
        checked_characters(key, "key")
        return await self._do(lambda rows: rows.get(key), only_reads=True)

    async def counts(self) -> dict[State, int]:
        """How many messages are in each state. A :class:`State` is also its own name: ``counts["sent"]``."""
        return await self._do(lambda rows: rows.counts(), only_reads=True)

    async def processes(self) -> list[Process]:
        """Tell who else uses the file's or the database's outboxes, on whichever hosts, and on how many messages of
        this account each of them works.

        Raises:
            OutboxFailed: it cannot be read.
        """

        def look(rows: Rows) -> list[Process]:
            messages = rows.owned()
            return [
                Process(
                    host=user.host,
                    pid=user.pid,
                    since=datetime.fromtimestamp(user.since, UTC),
                    is_alive=user.is_alive,
                    messages=messages.get(user.owner, 0),
                )
                for user in self._storage.users(rows.transaction)
            ]

        return await self._do(look, only_reads=True)

    async def select(self, *states: State) -> list[Entry]:
        """Tell all messages in these states, in the order in which they were put.

        Raises:
            InvalidInput: one of them is not a state.
        """
        try:
            wanted = [State(state) for state in states]
        except ValueError:
            raise errors.InvalidInput(parameter="states", problem=f"must be of {', '.join(State)}") from None
        return await self._do(lambda rows: rows.select(wanted), only_reads=True)

    async def events(self, after: int | None = None) -> AsyncIterator[Entry]:
        """Tell every outcome as it comes, whichever process had it: sent, rejected, unknown, absent, failed, expired.

        It does not end by itself. Of a message that has two outcomes in quick succession, only the later may be told.

        Args:
            after: begin behind the outcome of this number (:attr:`Entry.number`); 0 begins with the oldest that is
                still kept. If not given, it begins now.
        """
        if after is not None:
            checked_count(after, "after", 0, _LARGEST_NUMBER)
        number = await self._do(lambda rows: rows.last_number(), only_reads=True) if after is None else after
        while not self._is_closed:
            news = self._messages.news
            for entry in await self._do(partial(Rows.outcomes, after=number), only_reads=True):
                number = entry.number
                yield entry
            await woken(news, _LOOK_EVERY)

    async def outcome(self, key: str) -> Entry:
        """Wait until it is known what became of the message called `key`: sent, rejected, failed or expired. Somebody
        must be sending.

        Raises:
            InvalidInput: there is no such message.
        """
        while True:
            news = self._messages.news
            entry = await self.get(key)
            if entry is None:
                raise errors.InvalidInput(parameter="key", problem="there is no message of this key")
            if entry.state.is_final:
                return entry
            await woken(news, _LOOK_EVERY)

    async def retry(self, *keys: str) -> int:
        """Let messages that were rejected, have failed or have expired be sent again. Return how many there were.

        What is unknown cannot be retried: it may have arrived.
        """
        _check_keys(keys)
        self._sending.judge.forget()
        count = await self._do(lambda rows: sum(map(rows.retry, keys)))
        self._messages.tell()
        return count

    async def withdraw(self, *keys: str) -> int:
        """Take messages back that have not left, and that nobody is about to send. Return how many there were."""
        _check_keys(keys)
        return await self._do(lambda rows: sum(map(rows.withdraw, keys)), is_durable=True)

    async def purge(self, *, older_than: timedelta | float) -> int:
        """Forget messages that were sent or rejected, have failed or expired, and their keys, so that these can be used
        again.

        Args:
            older_than: how long ago, in seconds or as a ``timedelta``. What was sent in the last half hour, or later
                than two hours before a message that is unknown now, is kept, since it is needed to tell messages apart
                that say the same.

        Returns:
            How many were forgotten.
        """
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        checked_seconds(seconds, "older_than")
        forgotten = 0
        last: int | None = 0
        while last is not None:
            count, last = await self._do(partial(Rows.purge, older_than=seconds, after=last), is_durable=True)
            forgotten += count
        return forgotten

    async def drain(self, *, workers: int = 16) -> dict[State, int]:
        """Send everything, and return when it is known what became of every message.

        A message of which the API's list cannot tell whether it arrived stays unknown.

        Args:
            workers: how many messages of each priority may wait for quota, or be under way, at a time.

        Returns:
            How many messages are in each state.

        If it raises, some messages may still be on the wire: :meth:`idle` waits for them.

        Raises:
            Unauthorized, NotAllowlisted, ResponseError, QuotaStoreFailed: the next message would be refused for the
                same. The messages are still there.
            ConnectFailed: there will never be a connection, such as where a certificate is wrong.
            OutboxFailed: the file could not be read or written.
            ClientClosed: the client was closed.
        """
        await self._send(workers, asyncio.Event(), is_draining=True)
        return await self.counts()

    @contextlib.asynccontextmanager
    async def running(self, *, workers: int = 16) -> AsyncGenerator[Self]:
        """Send whatever is put, as long as the block lasts. At its end, what is under way is finished; what still waits
        stays in the file. If sending ends by an error, so does the block.

        Args:
            workers: as of :meth:`drain`.

        Raises:
            TwdmError: those of :meth:`drain`.
        """
        stop = asyncio.Event()
        sending = asyncio.create_task(self._send(workers, stop, is_draining=False), name="twdm_async outbox")
        block = asyncio.current_task()
        is_open = is_broken_off = False

        def break_off(ended: asyncio.Task[None]) -> None:
            nonlocal is_broken_off
            if is_open and block is not None and not ended.cancelled() and ended.exception() is not None:
                is_broken_off = True
                block.cancel()  # as a TaskGroup does: what is in the block would wait in vain

        sending.add_done_callback(break_off)
        try:
            is_open = True
            yield self
        except asyncio.CancelledError:
            if not is_broken_off or (block is not None and block.uncancel() > 0):
                raise
        finally:
            is_open = False
            stop.set()
            self._messages.tell()
            await sending

    async def next_try(self) -> datetime | None:
        """Tell when the next message may leave (UTC) if failures hold all of them up: this process pauses, since
        nothing gets through, or those that are left have failed and are tried again later. ``None`` if one may leave
        now, and if there is none to send. Quotas are another matter; see :meth:`Client.quota_state`.

        Raises:
            OutboxFailed: it cannot be read.
        """
        wait = await self._do(lambda rows: rows.next_try(), only_reads=True)
        if wait is None:
            return None
        wait = max(wait, self._sending.wait())
        return self._clock.utc() + timedelta(seconds=wait) if wait else None

    async def idle(self) -> None:
        """Wait until nothing of this outbox is on the wire. Whatever was is written down then."""
        while self._sending.under_way:
            await woken(self._messages.news, _LOOK_EVERY)

    async def close(self) -> None:
        """End all sending, wait for what is under way, and let go of the file. Doing it twice does no harm.

        Raises:
            WrongEventLoop: the client was used in another event loop or another process.
        """
        if self._is_closed:
            return
        self._reconciler.bind_loop()
        await self._sending.end()
        with contextlib.suppress(errors.OutboxFailed):
            await self._sending.write_what_is_left()
            await self._do(lambda rows: rows.give_up(self._storage.owner))
        await self._let_go()

    async def _let_go(self) -> None:
        self._is_closed = True
        await self._messages.close()
        self._storage.release()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        storage = getattr(self, "_storage", None)  # absent if the arguments were refused
        if storage is not None and storage.is_alive:
            storage.release()
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    async def __aenter__(self) -> Self:
        try:
            await self._do(lambda _: None, only_reads=True)
            await self._messages.stay_alive()
        except BaseException:
            await self._let_go()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @quiet
    async def _keep(self, new: NewMessage) -> Entry | errors.InvalidInput:
        self._reconciler.bind_loop()
        return await self._messages.put(new)

    @quiet
    async def _do(self, work: Callable[[Rows], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        self._reconciler.bind_loop()
        return await self._messages.do(work, is_durable=is_durable, only_reads=only_reads)

    @quiet
    async def _send(self, workers: int, stop: asyncio.Event, *, is_draining: bool) -> None:
        checked_count(workers, "workers")
        await self._do(lambda _: None, only_reads=True)  # so that a file which is closed or bad is known of first
        await self._sending.run(workers, stop, is_draining=is_draining)


def _check_keys(keys: Sequence[str]) -> None:
    for key in keys:
        checked_characters(key, "keys")


def _checked_key(key: str) -> str:
    checked_characters(key, "key")
    if not 1 <= len(key) <= _LONGEST_KEY:
        raise errors.InvalidInput(parameter="key", problem=f"must have 1 to {_LONGEST_KEY} characters")
    return key


def _checked_time(time: datetime, parameter: str) -> float:
    """`time` in seconds since 1970, within what can be told as a time again."""
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise errors.InvalidInput(parameter=parameter, problem="must be an aware datetime, such as datetime.now(UTC)")
    return min(max(time.timestamp(), 0.0), _LATEST)
