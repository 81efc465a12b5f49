"""Sending the messages of a file: read and check every line, then send, and write down what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import enum
import io
import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TextIO

from attrs import field, frozen
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from twdm_async import errors
from twdm_async._json import is_object
from twdm_async.models.checks import checked_id, checked_length
from twdm_async.quota.spec import Priority

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from twdm_async.client import Client

_LONGEST_TEXT: Final = 10_000
_AT_A_TIME: Final = 64
_COLUMNS: Final = frozenset({"recipient", "text", "profile"})


@frozen
class Message:
    """One message of the file. `line` is the number of the line it begins on."""

    line: int
    recipient: str
    text: str = field(repr=False)
    profile: str | None


class BadLines(Exception):
    """Lines that cannot be sent, each as a sentence that begins with its number."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines)
        self.lines = lines


def read_messages(file: Path, profile: str | None) -> list[Message]:
    """Every message of a JSONL or CSV file.

    Args:
        file: JSONL, or CSV with a header line, as its ending says; if that says nothing, JSONL if it begins with ``{``.
        profile: the custom profile of lines that name none.

    Raises:
        InvalidInput: it cannot be read or holds no message.
        BadLines: some of its lines are wrong. All of them are named.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise errors.InvalidInput(parameter="file", problem=f"{file} cannot be read: {error.strerror}") from None
    if profile is not None:
        checked_id(profile, "--profile")
    begins_as_json = content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    is_json = {".jsonl": True, ".ndjson": True, ".csv": False}.get(file.suffix.lower(), begins_as_json)
    rows = _json_rows(content) if is_json else _csv_rows(content)
    messages: list[Message] = []
    bad: list[str] = []
    for line, row in rows:
        try:
            messages.append(_message(line, row, profile))
        except errors.InvalidInput as error:
            bad.append(f"line {line}: {error}")
    if bad:
        raise BadLines(bad)
    if not messages:
        raise errors.InvalidInput(parameter="file", problem=f"{file} holds no message")
    return messages


def _json_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if text.strip():
            try:
                yield line, json.loads(text, object_pairs_hook=_once)
            except (ValueError, RecursionError):
                yield line, _bad("it is not JSON in UTF-8, or a name stands twice in it")


def _csv_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    text = content.decode("utf-8-sig", errors="surrogateescape")  # so that the lines which are not UTF-8 can be named
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield line, _bad(f"it is not CSV: {error}")
            continue
        if row is None:
            return
        if not row:
            continue
        if not all(map(_is_utf8, row)):
            yield line, _bad("it is not in UTF-8")
            continue
        if header is None:
            header = [name.strip() for name in row]
            if not {"recipient", "text"} <= set(header) <= _COLUMNS or len(set(header)) < len(header):
                yield line, _bad("the header must name recipient and text, may name profile, and each just once")
                return
        elif len(row) != len(header):
            yield line, _bad(f"it has {len(row)} columns where the header has {len(header)}")
        else:
            yield line, {name: value for name, value in zip(header, row, strict=True) if value or name == "text"}


def _bad(problem: str) -> errors.InvalidInput:
    return errors.InvalidInput(parameter="line", problem=problem)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice")
    return row


def _is_utf8(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _message(line: int, row: Any, profile: str | None) -> Message:
    if isinstance(row, errors.InvalidInput):
        raise row
    if not is_object(row):
        raise errors.InvalidInput(parameter="line", problem="must be an object")
    for name in ("recipient", "text"):
        if name not in row:
            raise errors.InvalidInput(parameter=name, problem="is missing")
    if unknown := row.keys() - _COLUMNS:
        raise errors.InvalidInput(parameter=min(unknown), problem="is not one of recipient, text, profile")
    own = row.get("profile")
    return Message(
        line,
        checked_id(row["recipient"], "recipient"),
        checked_length(row["text"], "text", _LONGEST_TEXT),
        checked_id(own, "profile") if own is not None else profile,
    )


_LOOK_EVERY: Final = 0.1  # seconds


class PriorityName(enum.StrEnum):
    """How a command names a priority."""

    INTERACTIVE = "interactive"
    BULK = "bulk"

    @property
    def priority(self) -> Priority:
        """The priority."""
        return Priority[self.name]


async def send_all(
    client: Client, messages: Sequence[Message], results: Path, console: Console, priority: Priority = Priority.BULK
) -> int:
    """Send `messages`, in order as far as the quotas let them, and write one outcome a line to `results`.

    Args:
        client: sends them.
        messages: what to send.
        results: a file that must not exist yet, since it would be the only record of an earlier run.
        console: where progress is shown.
        priority: of all of them.

    Returns:
        The command's exit code: 0 if all were sent, 130 if it was stopped, else 1.

    Raises:
        InvalidInput: the file is there already or cannot be written.
    """
    try:
        record = results.open("x", encoding="utf-8")
    except OSError as error:
        hint = "; move it away, or name another with --results" if isinstance(error, FileExistsError) else ""
        problem = f"{results} cannot be made: {error.strerror}{hint}"
        raise errors.InvalidInput(parameter="results", problem=problem) from None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_ctrl_c() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # a second one ends the command at once

    loop.add_signal_handler(signal.SIGINT, on_ctrl_c)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            kept = _Record(record, progress, len(messages))
            await _send_until(stop, client, messages, kept, priority)
    finally:
        with contextlib.suppress(OSError):  # a full disk; it was said
            record.close()
        loop.remove_signal_handler(signal.SIGINT)
    if kept.hopeless is not None:
        said_instead = "".join(f"\n{outcome}" for outcome in kept.unwritten)
        console.print(f"error: {kept.hopeless}{said_instead}", highlight=False, markup=False, soft_wrap=True)
    said = ", ".join(f"{count} {outcome}" for outcome, count in kept.counts.items())
    console.print(f"{said}. Every line's outcome is in {results}", highlight=False, markup=False, soft_wrap=True)
    if stop.is_set() and kept.hopeless is None:
        return 130
    return 0 if set(kept.counts) == {"sent"} else 1


class _Record:
    """Writes each outcome down the moment it is known, and counts."""

    def __init__(self, file: TextIO, progress: Progress, total: int) -> None:
        self._file = file
        self._progress = progress
        self._task = progress.add_task("sending", total=total)
        self._waited_for = 0
        self.counts: Counter[str] = Counter()
        self.hopeless: str | None = None  # why it makes no sense to go on
        self.unwritten: list[str] = []  # outcomes that the file could not take

    def show_wait(self, client: Client) -> None:
        """Say whether it is quota that the messages wait for, and when some will be free."""
        states = [state for state in client.quota_state() if state.endpoint == "direct_messages.send" and state.waiting]
        if states and states[0].waiting == self._waited_for:
            fullest = max(states, key=lambda state: state.used / state.limit)
            kept = f", {fullest.reserved} kept for interactive messages" if fullest.reserved else ""
            said = f"waits for quota: {fullest.used} of {fullest.limit} are spent{kept};"
            self._progress.update(self._task, description=said)
        else:
            self._progress.update(self._task, description="sending")
        self._waited_for = states[0].waiting if states else 0

    def write(self, message: Message, outcome: str, **facts: str | None) -> None:
        self.counts[outcome] += 1
        row = {"line": message.line, "recipient": message.recipient, "outcome": outcome, **facts}
        try:
            self._file.write(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
            self._file.flush()
        except OSError as error:  # nothing more may be sent, since it could not be written down
            self.hopeless = self.hopeless or f"the results cannot be written: {error.strerror}"
            if outcome != "stopped":
                self.unwritten.append(f"line {message.line}: {outcome}")
        if outcome != "stopped":
            self._progress.advance(self._task)


async def _send_until(
    stop: asyncio.Event, client: Client, messages: Sequence[Message], record: _Record, priority: Priority
) -> None:
    waiting = iter(messages)

    async def worker() -> None:
        for message in waiting:
            if stop.is_set():
                record.write(message, "stopped")
            else:
                await _send(client, message, record, priority)
            if record.hopeless is not None:
                stop.set()

    async def closer() -> None:
        # Those who wait for quota are let go at once; those under way are finished.
        await stop.wait()
        await client.close(timeout=30.0)

    async def watcher() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            record.show_wait(client)

    closing, watching = asyncio.create_task(closer()), asyncio.create_task(watcher())
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_A_TIME, len(messages))):
                group.create_task(worker())
    finally:
        watching.cancel()
        if not stop.is_set():
            closing.cancel()
        await asyncio.wait([closing, watching])


async def _send(client: Client, message: Message, record: _Record, priority: Priority) -> None:
    try:
        sent = await client.direct_messages.send(
            message.recipient, message.text, custom_profile_id=message.profile, priority=priority
        )
    except errors.ClientClosed:
        record.write(message, "stopped")
    except errors.TwdmError as error:
        outcome = {"unknown": "unknown", "yes": "sent"}.get(error.delivered, "not sent")
        record.write(message, outcome, error=str(error))
        if isinstance(error, (errors.Unauthorized, errors.NotAllowlisted, errors.QuotaStoreFailed)):
            record.hopeless = str(error)  # the next line would be refused for the same
    else:
        record.write(message, "sent", id=sent.id)
