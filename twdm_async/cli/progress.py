"""Showing on standard error how far a command that sends many messages is, and what it waits for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, Self

from rich import progress as bars

from twdm_async.cli.failure import Failure
from twdm_async.cli.options import hush_waits
from twdm_async.cli.terminal import say
from twdm_async.errors import OutboxFailed
from twdm_async.outbox import State

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from twdm_async.client import Client
    from twdm_async.outbox import Outbox
    from twdm_async.quota.limiter import QuotaState

_LOOK_EVERY: Final = 0.2  # seconds
_SAY_EVERY: Final = 60.0  # seconds between two lines where there is no terminal
_TO_SEND: Final = (State.QUEUED, State.SENDING, State.ABSENT)
_SENDING: Final = "sending"
_SURELY_STUCK: Final = 3  # looks in a row in which as many messages waited


class Progress:
    """Shows a progress bar on a terminal; elsewhere, a line whenever the command begins to wait.

    Args:
        console: where the progress is shown.
        total: how many messages there are; ``None`` if that is not known.
    """

    def __init__(self, console: Console, total: int | None) -> None:
        self._console = console
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )
        self._bars = bars.Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bars.add_task(_SENDING, total=total)
        self._said, self._said_at = _SENDING, -_SAY_EVERY
        hush_waits()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def advance(self) -> None:
        """Count one more message as done."""
        self._bars.advance(self._task)

    def describe(self, words: str, *, done: int | None = None, total: int | None = None) -> None:
        """Show what the command is doing, and how many of how many messages are done, if these are given."""
        self._bars.update(self._task, description=words, completed=done, total=total)
        now = time.monotonic()
        if words not in {self._said, _SENDING} and now >= self._said_at + _SAY_EVERY and not self._console.is_terminal:
            say(self._console, words)
            self._said, self._said_at = words, now


async def show_waits(
    progress: Progress,
    client: Client,
    outbox: Outbox,
    *,
    max_wait: float | None = None,
    counted: bool = False,
) -> None:
    """Show, until cancelled, what the messages in the outbox wait for, and until when.

    Args:
        progress: where this is shown.
        client: the client whose quotas they wait for.
        outbox: the outbox.
        max_wait: seconds that the messages may wait for quota; ``None`` for no limit.
        counted: whether to show how many messages in the outbox are done.

    Raises:
        Failure: the messages would wait for quota longer than `max_wait`.
    """
    waited_for = stuck = 0
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        states = [one for one in client.quota_state() if one.endpoint == "direct_messages.send" and one.waiting]
        stuck = stuck + 1 if states and states[0].waiting == waited_for else 0
        waited_for = states[0].waiting if states else 0
        with contextlib.suppress(OutboxFailed):  # the task that sends will raise it
            counts = await outbox.counts() if counted or not stuck else {}
            if stuck:
                words, seconds = _for_quota(client, states)
            else:
                words, seconds = await _otherwise(outbox), 0.0
            left = sum(counts.get(state, 0) for state in (*_TO_SEND, State.UNKNOWN))
            total = sum(counts.values()) if counted else None
            if max_wait is not None and seconds > max_wait:
                if stuck >= _SURELY_STUCK:
                    raise Failure(f"{words}; that is later than --max-wait allows", 3)
                words = _SENDING  # it is said once
            progress.describe(words, done=None if total is None else total - left, total=total)


def _for_quota(client: Client, states: list[QuotaState]) -> tuple[str, float]:
    """Return what the messages wait for, in words, and for how many seconds. If a slot is free now and nothing leaves,
    they are bulk messages.
    """
    now = client.clock.utc()
    fullest = max(states, key=lambda state: state.used / state.limit)
    free_at = max(state.free_at if state.free_at > now else state.bulk_free_at for state in states)
    seconds = (free_at - now).total_seconds()
    if seconds <= 0:  # only the pace keeps them
        return _SENDING, 0.0
    is_kept = fullest.free_at <= now and fullest.reserved
    kept = f", {fullest.reserved} kept for interactive messages" if is_kept else ""
    spent = f"waiting for quota: {fullest.used} of {fullest.limit} are spent{kept}"
    return f"{spent}; the next message leaves at {_time(free_at)}", seconds


async def _otherwise(outbox: Outbox) -> str:
    if next_try := await outbox.next_try():
        return f"waiting after failures; the next message leaves at {_time(next_try)}"
    counts = await outbox.counts()
    if counts[State.UNKNOWN] and not sum(counts[state] for state in _TO_SEND):
        return f"looking for {counts[State.UNKNOWN]} messages that may have arrived; this takes ten minutes or more"
    return _SENDING


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
