"""A persistent queue: each message that is put is sent once, whatever happens to the process.

Before a message's first byte leaves, the outbox writes to the disk that it is being sent; when the answer comes, it
writes what that was. So after a crash it is known which messages may have arrived. The outbox looks for these in the
API's list of messages, and sends again only those that are not there after a settling time.
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
from twdm_async.outbox.entry import OF_DESK, Process, Review, State
from twdm_async.outbox.insertion import insertion_of
from twdm_async.outbox.messages import Messages, woken
from twdm_async.outbox.outcomes import Outcomes
from twdm_async.outbox.rows import SCHEMA, NewMessage, Rows
from twdm_async.outbox.sending import Sending
from twdm_async.outbox.settling import Settling
from twdm_async.quota.lanes import Lane
from twdm_async.quota.spec import Priority, Quota
from twdm_async.resources.direct_messages import outgoing
from twdm_async.resources.evidence import checked_settle_after
from twdm_async.storage.places import checked_place, open_storage
from twdm_async.storage.postgres.database import PostgresDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput
    from twdm_async.outbox.entry import Entry, HeldMessage
    from twdm_async.outbox.insertion import Insertion
    from twdm_async.resources.message_data import Attachable
    from twdm_async.storage.places import Place

T = TypeVar("T")

_LOOK_EVERY: Final = 0.25  # seconds between two looks at what other processes do
_LONGEST_KEY: Final = 500
_LONGEST_NAME: Final = 200
_LONGEST_REASON: Final = 1000
_LARGEST_NUMBER: Final = 2**63 - 1
_LATEST: Final = 253_402_300_799.0  # seconds since 1970: the end of the year 9999


class Outbox:
    """A persistent queue of one account's messages, in a file or a PostgreSQL database.

    Several processes may use one file, and processes on many hosts one database. Use it as ``async with Outbox(client,
    path) as outbox``, within the client's own block.

    Args:
        client: sends the messages.
        path: the path of the file. A missing file is created, readable by its owner alone. Or the URL of a database
            (``postgresql://...``), or a :class:`PostgresDatabase`. If the client's quota store is in the same file or
            database, a message and the slot that it takes are written in one transaction.
        settle_after: seconds after which a message that may have arrived, and is not in the API's list of messages, may
            be sent again. The default is ten minutes, or five times the client's timeout plus the database's lease if
            that is longer. The list has been seen to lag by three minutes; see :mod:`twdm_async.resources.evidence`.
            The pauses before a failed message is tried again are in proportion to it.

    Raises:
        InvalidInput: `client` is not a Client, `path` is not a path, or `settle_after` is so short that a message may
            still be on its way.
    """

    def __init__(self, client: Client, path: Place, *, settle_after: float | None = None) -> None:
        if not isinstance(client, Client):
            raise errors.InvalidInput(parameter="client", problem="must be a Client")
        self.account: str = client.credentials.account
        """The account whose messages it keeps."""
        self._reconciler = client.direct_messages.reconciler
        place = checked_place(path)
        self._place = place
        lease = place.lease if isinstance(place, PostgresDatabase) else 0.0
        settle_after = checked_settle_after(settle_after, self._reconciler.timeout, lease)
        self._clock = client.clock
        self._storage = open_storage(place, SCHEMA, self._clock, turn=self.account)
        self._messages = Messages(self._storage, self.account, self._clock)
        self._outcomes = Outcomes(self._messages, _LOOK_EVERY)
        self._sending = Sending(
            self._messages,
            client.direct_messages,
            Settling(self._messages, self._reconciler, self._clock, settle_after),
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
        hold: bool = False,
        limit: Quota | None = None,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
    ) -> Entry:
        """Put a message into the outbox, to be sent. When this returns, it is on the disk.

        Args:
            recipient_id: the person's user id.
            text: at most 10 000 characters; may be left out if there is an attachment.
            custom_profile_id: the custom profile it is sent under, or its id; the account's own name and picture if not
                given.
            key: a name for the message, of at most 500 characters; a random one if not given. (Keys that begin with
                ``desk:`` are those of a :class:`twdm_async.Desk`.) If the same message (to
                the same person, under the same profile, with the same content) is put again under the same key, it is
                still sent once, and the first `priority`, `not_after` and `hold` count.
            priority: which waiting messages are sent first.
            not_after: the time after which the message is not sent (an aware ``datetime``).
            hold: whether the message waits until a person approves it; see :meth:`approve`.
            limit: only for a `key` that begins with ``desk:``: how many messages with such keys may be put for this
                person within a time, by all processes together.
            quick_replies: 1 to 20 answers to tap; or a :class:`TextInput` or :class:`LocationRequest`.
            ctas: 1 to 3 buttons.
            attachment: a file that was uploaded with a category such as ``"dm_image"``, or its media id (the API
                forgets files after a day); or a :class:`SharedCoordinate` or :class:`SharedPlace`.

        Returns:
            The message's entry, with its state so far.

        Raises:
            InvalidInput: an argument is wrong, `key` was used for another message, or `limit` is reached.
            OutboxFailed: the message could not be written to the disk.
        """
        new = self._new(
            recipient_id,
            text,
            custom_profile_id=custom_profile_id,
            key=key,
            priority=priority,
            not_after=not_after,
            hold=hold,
            quick_replies=quick_replies,
            ctas=ctas,
            attachment=attachment,
        )
        self._reconciler.bind_loop()
        if checked_limit(limit) is not None and not new.key.startswith(OF_DESK):
            raise errors.InvalidInput(parameter="limit", problem="is only for messages whose keys begin with desk:")
        entry = await self._messages.put(new, limit)
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
        hold: bool = False,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
    ) -> Insertion:
        """Return the statement that puts a message in a transaction of your own, in the outbox's PostgreSQL database:
        the message is sent if that transaction is committed, and only then.

        Args:
            recipient_id: see :meth:`put`.
            text: see :meth:`put`.
            key: a name for the message; see :meth:`put`.
            custom_profile_id: see :meth:`put`.
            priority: see :meth:`put`.
            not_after: see :meth:`put`.
            hold: see :meth:`put`.
            quick_replies: see :meth:`put`.
            ctas: see :meth:`put`.
            attachment: see :meth:`put`.

        Raises:
            InvalidInput: an argument is wrong, or the outbox is in a file.
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
            hold=hold,
            quick_replies=quick_replies,
            ctas=ctas,
            attachment=attachment,
        )
        return insertion_of(new, self.account, self._place.schema)

    def _new(
        self,
        recipient_id: str | int,
        text: str | None,
        *,
        key: str | None,
        priority: Priority,
        not_after: datetime | None,
        hold: bool,
        **content: Any,
    ) -> NewMessage:
        """Check the arguments of :meth:`put`, and encode the message."""
        message = outgoing(recipient_id, text, **content)
        fingerprint, content_fingerprint = self._reconciler.credentials.fingerprints(
            message.message.text, message.message.content
        )
        payload = json.dumps(message.create, ensure_ascii=False, sort_keys=True)
        return NewMessage(
            key=secrets.token_hex(16) if key is None else _checked_length(key, "key", _LONGEST_KEY),
            digest=hashlib.sha256(payload.encode()).hexdigest(),
            recipient_id=message.message.recipient_id or "",
            custom_profile_id=message.message.custom_profile_id,
            fingerprint=fingerprint,
            content=content_fingerprint,
            payload=payload,
            priority=Lane(priority=priority).priority,
            not_after=None if not_after is None else _checked_time(not_after, "not_after"),
            hold=hold,
        )

    async def get(self, key: str) -> Entry | None:
        """Return the entry of the message with this key; ``None`` if there is none.

        Raises:
            InvalidInput: `key` is not a string, or contains a control character other than tab and newline, or half of
                a surrogate pair.
            OutboxFailed: the file or database cannot be read.
        """
        checked_characters(key, "key")
        return await self._do(lambda rows: rows.get(key), only_reads=True)

    async def counts(self) -> dict[State, int]:
        """Return how many messages are in each state. A :class:`State` equals its name: ``counts["sent"]`` works.

        Raises:
            OutboxFailed: the file or database cannot be read.
        """
        return await self._do(lambda rows: rows.counts(), only_reads=True)

    async def processes(self) -> list[Process]:
        """Return the processes that use outboxes in this file or database, on all hosts, and how many messages of this
        account each of them works on.

        Raises:
            OutboxFailed: the file or database cannot be read.
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
        """Return the entries of all messages in these states, in the order in which they were put.

        Raises:
            InvalidInput: one of `states` is not a state.
            OutboxFailed: the file or database cannot be read.
        """
        try:
            wanted = [State(state) for state in states]
        except ValueError:
            raise errors.InvalidInput(parameter="states", problem=f"must be among {', '.join(State)}") from None
        return await self._do(lambda rows: rows.select(wanted), only_reads=True)

    async def held(self) -> list[HeldMessage]:
        """Return the messages that wait for approval, with their content, in the order in which they were put.

        Raises:
            OutboxFailed: the file or database cannot be read.
        """
        return await self._do(lambda rows: rows.held(), only_reads=True)

    async def approve(self, key: str, *, by: str) -> Entry:
        """Let a held message be sent. When this returns, the decision is on the disk. If the message's `not_after` has
        passed, it expires instead. Approving it twice does no harm; the first approval counts.

        Args:
            key: the message's key.
            by: who approves it, 1 to 200 characters.

        Returns:
            The message's entry.

        Raises:
            InvalidInput: there is no message with this key, it was not put with `hold`, it was rejected already, or
                `by` is empty or too long.
            OutboxFailed: the decision could not be written to the disk.
        """
        return await self._review(key, Review.APPROVED, _checked_length(by, "by", _LONGEST_NAME), None)

    @quiet
    async def reject(self, key: str, *, why: str, by: str | None = None) -> Entry:
        """Reject a held message: it is never sent. When this returns, the decision is on the disk. Rejecting it twice
        does no harm; the first reason counts.

        Args:
            key: the message's key.
            why: the reason, in at most 1000 characters; it becomes :attr:`Entry.error`.
            by: who rejects it, 1 to 200 characters.

        Returns:
            The message's entry.

        Raises:
            InvalidInput: there is no message with this key, it was not put with `hold`, it was approved already, or
                `why` or `by` is too long.
            OutboxFailed: the decision could not be written to the disk.
        """
        checked_characters(why, "why")
        if len(why) > _LONGEST_REASON:
            raise errors.InvalidInput(parameter="why", problem=f"must have at most {_LONGEST_REASON} characters")
        by = None if by is None else _checked_length(by, "by", _LONGEST_NAME)
        return await self._review(key, Review.REJECTED, by, why)

    async def _review(self, key: str, decision: Review, by: str | None, why: str | None) -> Entry:
        checked_characters(key, "key")
        entry = await self._do(lambda rows: rows.review(key, decision, by, why), is_durable=True)
        if entry is None:
            raise errors.InvalidInput(parameter="key", problem="there is no message of this key")
        if entry.review is None:
            raise errors.InvalidInput(parameter="key", problem=f"the message was not held; it is {entry.state}")
        if entry.review not in {decision, Review.WANTED}:
            problem = f"the message was {entry.review} already by {entry.reviewed_by or 'somebody'}"
            raise errors.InvalidInput(parameter="key", problem=problem)
        self._messages.tell()
        return entry

    async def is_limit_reached(self, recipient_id: str, limit: Quota) -> bool:
        """Return whether :meth:`put` would refuse a new message to a person because of this limit.

        Args:
            recipient_id: the person's user id.
            limit: see :meth:`put`.

        Raises:
            OutboxFailed: the file or database cannot be read.
        """
        return await self._do(lambda rows: rows.is_limit_reached(recipient_id, limit), only_reads=True)

    async def events(self, after: int | None = None) -> AsyncIterator[Entry]:
        """Yield every outcome as it comes, from all processes: sent, rejected, unknown, absent, failed, expired.

        The iterator does not end by itself. If a message has two outcomes in quick succession, the first may be left
        out.

        Args:
            after: begin after the outcome with this number (:attr:`Entry.number`); 0 begins with the oldest outcome
                that is still kept. If not given, begin now.

        Raises:
            InvalidInput: `after` is not a whole number from 0 up.
            OutboxFailed: the file or database cannot be read.
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

    @quiet
    async def outcome(self, key: str) -> Entry:
        """Wait until the message with this key is sent, rejected, failed or expired, and return its entry. This process
        or another one must be sending meanwhile.

        Raises:
            InvalidInput: there is no message with this key.
            OutboxFailed: the file or database cannot be read.
        """
        checked_characters(key, "key")
        self._reconciler.bind_loop()
        return await self._outcomes.of(key)

    async def retry(self, *keys: str) -> int:
        """Queue messages again that were rejected, have failed or have expired. Return how many of `keys` those were.

        A message that is unknown cannot be retried: it may have arrived; nor can one that a person has rejected. A
        message that nobody has approved yet is held again.

        Raises:
            InvalidInput: a key is not a string, or contains a control character other than tab and newline, or half of
                a surrogate pair.
            OutboxFailed: the file or database could not be written.
        """
        _check_keys(keys)
        self._sending.judge.forget()
        count = await self._do(lambda rows: sum(map(rows.retry, keys)))
        self._messages.tell()
        return count

    async def withdraw(self, *keys: str) -> int:
        """Delete messages that are held, queued or absent and that no process is about to send. Return how many of
        `keys` those were.

        Raises:
            InvalidInput: a key is not a string, or contains a control character other than tab and newline, or half of
                a surrogate pair.
            OutboxFailed: the file or database could not be written.
        """
        _check_keys(keys)
        return await self._do(lambda rows: sum(map(rows.withdraw, keys)), is_durable=True)

    async def purge(self, *, older_than: timedelta | float) -> int:
        """Delete messages that were sent or rejected, have failed or have expired, and their keys, so that these can be
        used again.

        Args:
            older_than: how long ago a message must have come into its state, in seconds or as a ``timedelta``. At least
                half an hour is kept; and, while messages are unknown or being sent, everything from two hours before
                the oldest of them left, since it is needed to tell messages with the same text apart.

        Returns:
            How many messages were deleted.

        Raises:
            InvalidInput: `older_than` is not a length of time.
            OutboxFailed: the file or database could not be written.
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

        A message stays unknown if the API's list cannot tell whether it arrived. If this method raises, some messages
        may still be on the wire: :meth:`idle` waits for them.

        Args:
            workers: how many messages of each priority may wait for quota, or be under way, at once.

        Returns:
            How many messages are in each state.

        Raises:
            Unauthorized, NotAllowlisted, ResponseError, QuotaStoreFailed: the next message would fail for the same
                reason. The messages stay in the outbox.
            ConnectFailed: no connection can ever be made, for example since a certificate is wrong.
            OutboxFailed: the file or database could not be read or written.
            ClientClosed: the client was closed.
        """
        await self._send(workers, asyncio.Event(), is_draining=True)
        return await self.counts()

    @contextlib.asynccontextmanager
    async def running(self, *, workers: int = 16) -> AsyncGenerator[Self]:
        """Send whatever is put, as long as the block lasts. At its end, messages that are under way are finished, and
        messages that wait stay in the outbox. If sending fails, the block is cancelled and the error is raised.

        Args:
            workers: see :meth:`drain`.

        Raises:
            TwdmError: see :meth:`drain`.
        """
        stop = asyncio.Event()
        sending = asyncio.create_task(self._send(workers, stop, is_draining=False), name="twdm_async outbox")
        block = asyncio.current_task()
        is_open = is_broken_off = False

        def break_off(ended: asyncio.Task[None]) -> None:
            nonlocal is_broken_off
            if is_open and block is not None and not ended.cancelled() and ended.exception() is not None:
                is_broken_off = True
                block.cancel()  # as a TaskGroup does: code in the block would wait in vain

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
        """Return when the next message may leave (UTC) if failures hold all messages up: this process pauses because
        nothing gets through, or all messages that are left have failed and are tried again later. Return ``None`` if a
        message may leave now, and if there is none to send. Quotas are not considered; see :meth:`Client.quota_state`.

        Raises:
            OutboxFailed: the file or database cannot be read.
        """
        wait = await self._do(lambda rows: rows.next_try(), only_reads=True)
        if wait is None:
            return None
        wait = max(wait, self._sending.wait())
        return self._clock.utc() + timedelta(seconds=wait) if wait else None

    async def idle(self) -> None:
        """Wait until no message of this outbox is on the wire. By then, the outcomes are written down, unless the file
        or database cannot be written.
        """
        while self._sending.under_way:
            await woken(self._messages.news, _LOOK_EVERY)

    async def close(self) -> None:
        """End all sending, wait for messages that are under way, and close the file or the database connection. Calling
        this twice does no harm.

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
        await self._outcomes.close()
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
    async def _do(self, work: Callable[[Rows], T], *, is_durable: bool = False, only_reads: bool = False) -> T:
        self._reconciler.bind_loop()
        return await self._messages.do(work, is_durable=is_durable, only_reads=only_reads)

    @quiet
    async def _send(self, workers: int, stop: asyncio.Event, *, is_draining: bool) -> None:
        checked_count(workers, "workers")
        await self._do(lambda _: None, only_reads=True)  # a file that is closed or bad must be noticed first
        await self._sending.run(workers, stop, is_draining=is_draining)


def _check_keys(keys: Sequence[str]) -> None:
    for key in keys:
        checked_characters(key, "keys")


def checked_limit(limit: Quota | None) -> Quota | None:
    """Return `limit` unchanged.

    Raises:
        InvalidInput: `limit` is neither a Quota nor ``None``.
    """
    if limit is not None and not isinstance(limit, Quota):
        raise errors.InvalidInput(parameter="limit", problem="must be a Quota or None")
    return limit


def _checked_length(text: str, parameter: str, most: int) -> str:
    checked_characters(text, parameter)
    if not 1 <= len(text) <= most:
        raise errors.InvalidInput(parameter=parameter, problem=f"must have 1 to {most} characters")
    return text


def _checked_time(time: datetime, parameter: str) -> float:
    """Return `time` in seconds since 1970, limited to what can be converted back to a ``datetime``."""
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise errors.InvalidInput(parameter=parameter, problem="must be an aware datetime, such as datetime.now(UTC)")
    return min(max(time.timestamp(), 0.0), _LATEST)
