"""Sending the messages of a file: read and check every line, put them into the outbox, send, and write down what became
of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import enum
import hashlib
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
from twdm_async.outbox import State
from twdm_async.quota.spec import Priority

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from twdm_async.client import Client
    from twdm_async.outbox import Entry, Outbox

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
    client: Client,
    outbox: Outbox,
    messages: Sequence[Message],
    results: Path,
    console: Console,
    *,
    run: str = "",
    priority: Priority = Priority.BULK,
) -> int:
    """Send `messages` by way of `outbox`, in order as far as the quotas let them, and write one outcome a line to
    `results`. What was sent before under the same `run` is not sent again.

    Args:
        client: whose quotas are shown.
        outbox: sends them, and remembers.
        messages: what to send.
        results: a file that is not there yet, or that an earlier run made.
        console: where progress is shown.
        run: a name that tells this sending from others of the same messages.
        priority: of all of them.

    Returns:
        The command's exit code: 0 if all were sent, 130 if it was stopped, else 1.

    Raises:
        InvalidInput: the file of results cannot be written, or is something else.
        OutboxFailed: the messages cannot be kept.
    """
    record = _opened(results)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_ctrl_c() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # a second one ends the command at once

    loop.add_signal_handler(signal.SIGINT, on_ctrl_c)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            kept = _Record(record, progress, dict(zip(_keys(messages, run), messages, strict=True)))
            await _send_until(stop, client, outbox, kept, priority)
    finally:
        with contextlib.suppress(OSError):  # a full disk; it was said
            record.close()
        loop.remove_signal_handler(signal.SIGINT)
    if kept.hopeless is not None:
        said_instead = "".join(f"\n{outcome}" for outcome in kept.unwritten)
        console.print(f"error: {kept.hopeless}{said_instead}", highlight=False, markup=False, soft_wrap=True)
    said = ", ".join(f"{count} {outcome}" for outcome, count in kept.counts.items())
    earlier = f" ({kept.earlier} of them by an earlier run; --run NAME sends them again)" if kept.earlier else ""
    where = f"Every line's outcome is in {results}"
    console.print(f"{said}{earlier}. {where}", highlight=False, markup=False, soft_wrap=True)
    if stop.is_set() and kept.hopeless is None:
        return 130
    return 0 if set(kept.counts) == {"sent"} else 1


def _opened(results: Path) -> TextIO:
    try:
        if results.exists() and results.is_file() and results.stat().st_size:
            with results.open(encoding="utf-8") as file:
                first = json.loads(file.readline())
            if not is_object(first) or "outcome" not in first:
                raise ValueError("not ours")  # noqa: TRY301 - as what is no JSON
        return results.open("w", encoding="utf-8")
    except OSError as error:
        problem = f"{results} cannot be made: {error.strerror}"
    except ValueError:
        problem = f"{results} is there, and is no file of results; name another with --results"
    raise errors.InvalidInput(parameter="results", problem=problem)


def _keys(messages: Sequence[Message], run: str) -> list[str]:
    """A key for each message, by what it says, to whom and under which profile; the second of its kind has another."""
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for message in messages:
        content = json.dumps([run, message.recipient, message.profile, message.text])
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        seen[digest] += 1
        keys.append(f"send-many {digest} {seen[digest]}")
    return keys


_OUTCOMES: Final = {State.SENT: "sent", State.REJECTED: "not sent", State.EXPIRED: "not sent", State.UNKNOWN: "unknown"}


class _Record:
    """Writes each outcome down the moment it is known, and counts. `waiting` are the messages without one, by key."""

    def __init__(self, file: TextIO, progress: Progress, messages: dict[str, Message]) -> None:
        self._file = file
        self._progress = progress
        self._task = progress.add_task("sending", total=len(messages))
        self._waited_for = 0
        self.waiting = messages
        self.earlier = 0
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

    def take(self, entry: Entry, *, is_last: bool = False, is_earlier: bool = False) -> None:
        """Write down what became of a message, if it is known; as the last word, in any case."""
        if entry.key in self.waiting and (entry.state.is_final or is_last):
            message = self.waiting.pop(entry.key)
            outcome = _OUTCOMES.get(entry.state, "stopped")
            error = entry.error if outcome != "sent" else None
            self._write(message, outcome, id=entry.message_id, error=error, earlier=is_earlier or None)

    def give_up(self) -> None:
        """Write down that the others were not sent."""
        for message in self.waiting.values():
            self._write(message, "stopped")
        self.waiting.clear()

    def _write(self, message: Message, outcome: str, **facts: str | bool | None) -> None:
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


async def _send_until(stop: asyncio.Event, client: Client, outbox: Outbox, record: _Record, priority: Priority) -> None:
    messages = dict(record.waiting)
    entries = await asyncio.gather(
        *(
            outbox.put(m.recipient, m.text, custom_profile_id=m.profile, key=key, priority=priority)
            for key, m in messages.items()
        )
    )
    for entry in entries:
        record.take(entry, is_earlier=True)
    record.earlier = record.counts["sent"]
    last = max(entry.number for entry in entries)
    if record.hopeless is None:
        await _first_of(
            _drained(outbox, record), _recorded(outbox, record, last), _watched(client, record), stop.wait()
        )
    await outbox.withdraw(*record.waiting)
    await outbox.idle()
    for key in list(record.waiting):
        kept = await outbox.get(key)
        if kept is not None:
            record.take(kept, is_last=True)
    record.give_up()


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Do them until one ends, and end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drained(outbox: Outbox, record: _Record) -> None:
    try:
        await outbox.drain(workers=_AT_A_TIME)
    except errors.TwdmError as error:  # the next line would be refused for the same
        record.hopeless = str(error)


async def _recorded(outbox: Outbox, record: _Record, last: int) -> None:
    async for entry in outbox.events(after=last):
        record.take(entry)
        if record.hopeless is not None:
            return


async def _watched(client: Client, record: _Record) -> None:
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        record.show_wait(client)
