"""Sending many messages with few tasks: what comes of each is told when it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, field, frozen

from twdm_async._quiet import quiet_class
from twdm_async.errors import ClientClosed, InvalidInput, QuotaStoreFailed, ResponseError, TwdmError, WrongEventLoop
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput
from twdm_async.quota.lanes import Lane
from twdm_async.quota.spec import Priority
from twdm_async.resources.message_data import Attachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable


_END: Final = object()


@quiet_class
@frozen
class Draft:
    """A message to be sent by :meth:`DirectMessages.send_many
    <twdm_async.resources.direct_messages.DirectMessages.send_many>`.

    Its fields are the arguments of :meth:`DirectMessages.send
    <twdm_async.resources.direct_messages.DirectMessages.send>`, and are checked when its turn comes.
    """

    recipient_id: str | int
    text: str | None = field(default=None, repr=False)
    custom_profile_id: str | int | None = field(default=None, kw_only=True)
    quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = field(
        default=None, kw_only=True, repr=False
    )
    ctas: Sequence[CallToAction] | None = field(default=None, kw_only=True, repr=False)
    attachment: Attachable | None = field(default=None, kw_only=True, repr=False)
    priority: Priority | None = field(default=None, kw_only=True)
    max_wait: float | None = field(default=None, kw_only=True)
    lane: str | Lane | None = field(default=None, kw_only=True)


@frozen
class SendOutcome:
    """What came of one draft.

    Args:
        draft: the draft.
        message: the message that was sent; ``None`` if it was not, or if that is not known.
        error: why it was not sent, as :meth:`DirectMessages.send
            <twdm_async.resources.direct_messages.DirectMessages.send>` raises it; ``None`` if it was.
    """

    draft: Draft
    message: DirectMessage | None = field(default=None, repr=False)
    error: TwdmError | None = None


async def send_many(
    send: Callable[..., Awaitable[DirectMessage]], drafts: Iterable[Draft], at_once: int
) -> AsyncGenerator[SendOutcome]:
    """Have `send` send `drafts`, `at_once` at a time, each by one of as many tasks."""
    left = iter(drafts)
    room = asyncio.Semaphore(at_once)  # for those under way, and those of which it was not told yet what came of them
    outcomes: asyncio.Queue[SendOutcome | asyncio.Task[None]] = asyncio.Queue()
    stopped_by: TwdmError | None = None

    async def work() -> None:
        nonlocal stopped_by
        while True:
            await room.acquire()
            draft = next(left, _END) if stopped_by is None else _END
            if draft is _END:
                room.release()
                return
            outcome = await _sent(send, draft)
            if stopped_by is None and _is_of_all(outcome.error):
                stopped_by = outcome.error
            outcomes.put_nowait(outcome)

    tasks = {asyncio.create_task(work(), name="twdm_async send_many") for _ in range(at_once)}
    for task in tasks:
        task.add_done_callback(outcomes.put_nowait)
    try:
        while tasks:
            outcome = await outcomes.get()
            if isinstance(outcome, SendOutcome):
                yield outcome
                room.release()
            else:
                tasks.discard(outcome)
                outcome.result()  # raises what the drafts' own source raised
        if stopped_by is not None:
            raise stopped_by
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sent(send: Callable[..., Awaitable[DirectMessage]], draft: Any) -> SendOutcome:
    try:
        if not isinstance(draft, Draft):
            raise InvalidInput(parameter="drafts", problem=f"must be Drafts; one is a {type(draft).__name__}")
        return SendOutcome(draft, await send(**asdict(draft, recurse=False)))
    except TwdmError as error:
        return SendOutcome(draft, error=error)


def _is_of_all(error: TwdmError | None) -> bool:
    """Tell whether all that follow would fail for the same."""
    if isinstance(error, ResponseError):
        return error.subject == "account"
    return isinstance(error, (ClientClosed, QuotaStoreFailed, WrongEventLoop))
