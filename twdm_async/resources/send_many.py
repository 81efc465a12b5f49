"""Sending many messages with few tasks, and yielding the outcome of each as soon as it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import asdict, field, frozen

from twdm_async._quiet import quiet_class
from twdm_async.errors import (
    ClientClosed,
    IncompatibleAiohttp,
    InvalidInput,
    QuotaStoreFailed,
    ResponseError,
    TwdmError,
    WrongEventLoop,
)
from twdm_async.models.checks import is_id
from twdm_async.models.custom_profiles import CustomProfile
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput
from twdm_async.quota.lanes import Lane
from twdm_async.quota.spec import Priority
from twdm_async.resources.message_data import Attachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable


def _shown(recipient_id: object) -> str:
    """Return the ``repr`` of an id, but of nothing else: drafts are not checked yet, and this may be a text."""
    return repr(recipient_id) if is_id(str(recipient_id)) else f"<{type(recipient_id).__name__}, which is no id>"


@quiet_class
@frozen
class Draft:
    """A message to be sent by :meth:`DirectMessages.send_many
    <twdm_async.resources.direct_messages.DirectMessages.send_many>`.

    Its fields are the arguments of :meth:`DirectMessages.send
    <twdm_async.resources.direct_messages.DirectMessages.send>`. They are checked when the draft's turn comes.
    """

    recipient_id: str | int = field(repr=_shown)
    text: str | None = field(default=None, repr=False)
    custom_profile_id: CustomProfile | str | int | None = field(default=None, kw_only=True)
    quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = field(
        default=None, kw_only=True, repr=False
    )
    ctas: Sequence[CallToAction] | None = field(default=None, kw_only=True, repr=False)
    attachment: Attachable | None = field(default=None, kw_only=True, repr=False)
    priority: Priority | None = field(default=None, kw_only=True)
    max_wait: float | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    lane: str | Lane | None = field(default=None, kw_only=True)


@frozen
class SendOutcome:
    """The outcome of one draft.

    Args:
        draft: the draft.
        message: the message that was sent; ``None`` if no message was sent, or if it is not known whether one was.
        error: the error that :meth:`DirectMessages.send
            <twdm_async.resources.direct_messages.DirectMessages.send>` raised; ``None`` if the message was sent.
    """

    draft: Draft
    message: DirectMessage | None = field(default=None, repr=False)
    error: TwdmError | None = None


class Sending:
    """Sends drafts, with a bounded number of tasks.

    Args:
        send: the function that sends one message.
        drafts: the messages.
        at_once: how many tasks to use.
    """

    def __init__(self, send: Callable[..., Awaitable[DirectMessage]], drafts: Iterable[Draft], at_once: int) -> None:
        self._send = send
        self._left = iter(drafts)
        self._at_once = at_once
        self._room = asyncio.Semaphore(at_once)  # for drafts that are being sent, and for outcomes not yet yielded
        self._outcomes: asyncio.Queue[SendOutcome | asyncio.Task[None]] = asyncio.Queue()
        self._stopped_by: Exception | None = None

    async def outcomes(self) -> AsyncGenerator[SendOutcome]:
        """Yield the outcome of each draft as soon as it is known; then raise the error that stopped the sending, if
        there is one.
        """
        tasks = {asyncio.create_task(self._work(), name="twdm_async send_many") for _ in range(self._at_once)}
        for task in tasks:
            task.add_done_callback(self._outcomes.put_nowait)
        try:
            while tasks:
                outcome = await self._outcomes.get()
                if isinstance(outcome, SendOutcome):
                    yield outcome
                    self._room.release()
                else:
                    tasks.discard(outcome)
                    outcome.result()  # if somebody cancelled the task, everything ends
            if self._stopped_by is not None:
                raise self._stopped_by
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self._room.acquire()
            draft = self._next()
            if draft is None:
                self._room.release()
                return
            outcome = await _sent(self._send, draft)
            if self._stopped_by is None and _stops_all(outcome.error):
                self._stopped_by = outcome.error
            self._outcomes.put_nowait(outcome)

    def _next(self) -> Draft | None:
        """Return the next draft; ``None`` if there is none, or if an error stopped the sending."""
        if self._stopped_by is not None:
            return None
        try:
            draft: Any = next(self._left)
        except StopIteration:
            return None
        except Exception as error:  # noqa: BLE001 - the caller's iterator may raise anything
            self._stopped_by = error
            return None
        if not isinstance(draft, Draft):
            problem = f"must be Drafts; one is a {type(draft).__name__}"
            self._stopped_by = InvalidInput(parameter="drafts", problem=problem)
            return None
        return draft


async def _sent(send: Callable[..., Awaitable[DirectMessage]], draft: Draft) -> SendOutcome:
    try:
        return SendOutcome(draft, await send(**asdict(draft, recurse=False)))
    except TwdmError as error:
        return SendOutcome(draft, error=error)


def _stops_all(error: TwdmError | None) -> bool:
    """Tell whether every later message would fail for the same reason."""
    if isinstance(error, ResponseError):
        return error.subject == "account"
    return isinstance(error, (ClientClosed, IncompatibleAiohttp, QuotaStoreFailed, WrongEventLoop))
