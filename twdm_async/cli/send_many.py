"""``twdm send-many``: put the messages of a file into the outbox, send them, and record the outcome of each."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click
from attrs import frozen
from rich.console import Console

from twdm_async import errors
from twdm_async._json import is_object
from twdm_async.cli.connect import open_client_and_outbox
from twdm_async.cli.failure import Failure
from twdm_async.cli.message_file import BadLines, Message, read_messages
from twdm_async.cli.options import ACCOUNT, OUTBOX, PRIORITY, Options, command
from twdm_async.cli.progress import Progress, show_waits
from twdm_async.cli.signals import told_to_stop
from twdm_async.cli.terminal import note, say, show
from twdm_async.outbox import State
from twdm_async.quota.spec import Priority

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from twdm_async.client import Client
    from twdm_async.outbox import Entry, Outbox

_AT_A_TIME: Final = 64
_MOST_REASONS: Final = 10  # in the summary


@frozen
class Summary:
    """What became of the messages of a file.

    Args:
        outcomes: how many messages have each outcome.
        sent_earlier: how many messages an earlier run sent.
        reasons: how many messages were not sent, by reason.
        results: the path of the file with the outcome of each line.
        exit_code: the exit code of the command.
    """

    outcomes: dict[str, int]
    sent_earlier: int
    reasons: dict[str, int]
    results: Path
    exit_code: int


@command(None, "send-many", ACCOUNT, OUTBOX)
@click.argument("file")
@click.option("--profile", metavar="ID", help="The custom profile's id for lines that have none.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="The file for the outcomes; FILE.results.jsonl if not given."
)
@PRIORITY(
    "bulk", "Bulk messages leave a part of the quota to interactive ones, and are spread over the quota's window."
)
@click.option(
    "--run",
    "run_name",
    default="",
    metavar="NAME",
    help="A name for this run; the file's path if not given. Under another name, all messages are sent again.",
)
async def send_many(
    options: Options, file: str, profile: str | None, results: Path | None, priority: str, run_name: str
) -> int:
    """Send every message in a FILE, through the outbox.

    FILE is JSONL, or CSV with a header; its names are recipient, text and, optionally, profile; - reads standard input.
    All lines are checked first; if one is wrong, nothing is sent. If you send the same file again, messages that were
    sent before are not sent again. While the command runs, it also sends what else waits in the outbox, such as the
    rest of a file whose command was killed. After Ctrl-C, no more messages leave, requests under way are finished, and
    the results say what became of each line.
    """
    try:
        messages = read_messages(file, profile)
        outcomes = results or Path(f"{'standard_input' if file == '-' else file}.results.jsonl")
        async with open_client_and_outbox(options) as (client, outbox):
            summary = await send_all(
                client,
                outbox,
                messages,
                outcomes,
                Console(stderr=True),
                run=run_name or _where(file),
                priority=Priority[priority.upper()],
                max_wait=options.max_wait,
            )
    except BadLines as error:
        for line in error.lines:
            note(f"{file}: {line}")
        raise Failure(f"{len(error.lines)} bad line(s); nothing was sent", 2) from None
    if options.as_json:
        show(options, summary)
    return summary.exit_code


async def send_all(
    client: Client,
    outbox: Outbox,
    messages: Sequence[Message],
    results: Path,
    console: Console,
    *,
    run: str = "",
    priority: Priority = Priority.BULK,
    max_wait: float | None = None,
) -> Summary:
    """Send `messages` through `outbox`, in order as far as the quotas allow, and write one outcome on each line of
    `results`. Messages that were sent before under the same `run` are not sent again.

    Args:
        client: the client whose quotas are shown.
        outbox: the outbox that sends the messages.
        messages: the messages.
        results: the path of a file that does not exist yet, or that an earlier run wrote.
        console: where progress is shown.
        run: a name that distinguishes this run from other runs with the same messages.
        priority: the priority of all messages.
        max_wait: seconds that the messages may wait for quota; ``None`` waits as long as it takes.

    Raises:
        InvalidInput: the file of results cannot be written, or is not a file of results.
        BadLines: a profile does not exist, or an earlier run sent a message under another profile. Nothing was sent.
        OutboxFailed: the outbox cannot be read or written.
        TwdmError: a profile could not be looked up.
    """
    await _check_profiles(client, messages)
    keyed = await _keyed(outbox, messages, run)
    record = _opened(results)
    try:
        with (
            told_to_stop("stopping: what is under way is finished; a second Ctrl-C ends it at once") as stop,
            Progress(console, len(keyed)) as progress,
        ):
            kept = _Record(record, progress, keyed)
            await _send_until(stop, client, outbox, kept, priority, max_wait)
    finally:
        with contextlib.suppress(OSError):  # a full disk, which was reported before
            record.close()
    if kept.hopeless is not None:
        for line in (f"error: {kept.hopeless}", *kept.unwritten):
            say(console, line)
    said = ", ".join(f"{count} {outcome}" for outcome, count in kept.counts.items())
    earlier = f" ({kept.earlier} of them by an earlier run; --run NAME sends them again)" if kept.earlier else ""
    if kept.failed_earlier:
        earlier += f" ({kept.failed_earlier} were not sent by an earlier run; `twdm outbox retry` lets them be sent)"
    where = "" if kept.unwritten else f" Every line's outcome is in {results}"
    say(console, f"{said}{earlier}.{where}")
    for reason, count in kept.reasons.most_common(_MOST_REASONS):
        say(console, f"  {count} times: {reason}")
    if (others := len(kept.reasons) - _MOST_REASONS) > 0:
        say(console, f"  and {others} other reasons, each in {results}")
    if kept.too_late is not None:
        say(console, f"error: {kept.too_late.message}")
    code = 0 if set(kept.counts) == {"sent"} and kept.hopeless is None else 1
    if kept.hopeless is None and (stop.is_set() or kept.too_late is not None):
        code = 130 if stop.is_set() else 3
    return Summary(dict(kept.counts), kept.earlier, dict(kept.reasons), results, code)


def _where(file: str) -> str:
    """Return a name for the file that does not depend on the folder in which the command is called."""
    return file if file == "-" else str(Path(file).resolve())


def _opened(results: Path) -> TextIO:
    """Open the file of results, readable by its owner alone. An earlier file of results is emptied.

    Raises:
        InvalidInput: the file cannot be opened, or is not a file of results. It is unchanged.
    """
    try:
        descriptor = os.open(results, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with contextlib.ExitStack() as stack:
            mode = os.fstat(descriptor).st_mode
            is_file = stat.S_ISREG(mode)
            if not is_file and not stat.S_ISCHR(mode):  # of a pipe, for example, nobody may read
                raise OSError(errno.EINVAL, "it is neither a file nor a device")  # noqa: TRY301 - as what cannot be opened
            file = stack.enter_context(os.fdopen(descriptor, "r+" if is_file else "w", encoding="utf-8"))
            if is_file:
                first = file.readline()
                if first and not _object(first).keys() >= {"line", "recipient", "outcome"}:
                    raise ValueError("not ours")  # noqa: TRY301 - as what is no JSON
                file.seek(0)
                file.truncate()
                if hasattr(os, "fchmod"):
                    os.fchmod(descriptor, 0o600)
            stack.pop_all()
            return file
    except OSError as error:
        words = "it is a link to another file" if error.errno == errno.ELOOP else error.strerror
        problem = f"{results} cannot be written: {words}"
    except (ValueError, RecursionError):
        problem = f"{results} exists, and is not a file of results; name another with --results"
    raise errors.InvalidInput(parameter="results", problem=problem)


def _object(line: str) -> dict[str, Any]:
    found = json.loads(line)
    return found if is_object(found) else {}


def _keys(messages: Sequence[Message], run: str, *, with_profile: bool = False) -> list[str]:
    """Return a key for each message, made from its recipient, its text and the number of equal messages before it.

    Args:
        messages: the messages.
        run: the name of the run.
        with_profile: whether the profile is part of the key, as in earlier versions. Without it, the same message under
            another profile has the same key, so that this is noticed.
    """
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for message in messages:
        profile = message.profile if with_profile else None
        content = json.dumps([run, message.recipient, profile, message.text])
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        seen[digest] += 1
        keys.append(f"send-many {digest} {seen[digest]}")
    return keys


async def _check_profiles(client: Client, messages: Sequence[Message]) -> None:
    """Look up every custom profile once, before anything is sent.

    Raises:
        BadLines: a profile does not exist.
    """
    lines: dict[str, list[int]] = {}
    for message in messages:
        if message.profile is not None:
            lines.setdefault(message.profile, []).append(message.line)
    bad: list[str] = []
    for profile, named_by in lines.items():
        try:
            await client.custom_profiles.get(profile)
        except errors.NotFound as error:
            if error.subject == "intermediary":
                raise
            more = f", which {len(named_by) - 1} more lines name" if len(named_by) > 1 else ""
            bad.append(f"line {named_by[0]}: profile: this account has no custom profile {profile}{more}")
    if bad:
        raise BadLines(bad)


async def _keyed(outbox: Outbox, messages: Sequence[Message], run: str) -> dict[str, Message]:
    """Return the messages by key.

    Raises:
        BadLines: an earlier run put a message under another profile; it would arrive twice.
    """
    keyed: dict[str, Message] = {}
    bad: list[str] = []
    first = _keys(messages, run, with_profile=True)
    for new, former, message in zip(_keys(messages, run), first, messages, strict=True):
        is_there = former != new and await outbox.get(former) is not None
        key = former if is_there else new
        keyed[key] = message
        entry = await outbox.get(key)
        if entry is not None and entry.custom_profile_id != message.profile:
            before = f"under profile {entry.custom_profile_id}" if entry.custom_profile_id else "without a profile"
            bad.append(
                f"line {message.line}: an earlier run sent this text to this person {before}; "
                "--run NAME makes it another run"
            )
    if bad:
        raise BadLines(bad)
    return keyed


_OUTCOMES: Final = {
    State.SENT: "sent",
    State.REJECTED: "not sent",
    State.FAILED: "not sent",
    State.EXPIRED: "not sent",
    State.UNKNOWN: "unknown",
}


class _Record:
    """Writes each outcome to the file as soon as it is known, and counts outcomes. `waiting` has the other messages, by
    key.
    """

    def __init__(self, file: TextIO, progress: Progress, messages: dict[str, Message]) -> None:
        self._file = file
        self.progress = progress
        self.waiting = messages
        self.earlier = self.failed_earlier = 0
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  # why messages were not sent
        self.hopeless: str | None = None  # why it makes no sense to continue
        self.too_late: Failure | None = None  # why the command stops waiting for quota
        self.unwritten: list[str] = []  # outcomes that could not be written to the file

    def take(self, entry: Entry, *, is_last: bool = False, is_earlier: bool = False) -> None:
        """Write the outcome of a message to the file, if it is known; if `is_last`, write it in any case."""
        if entry.key in self.waiting and (entry.state.is_final or is_last):
            message = self.waiting.pop(entry.key)
            outcome = _OUTCOMES.get(entry.state, "waiting")  # in the outbox, since another process sends it
            error = entry.error if outcome != "sent" else None
            self._write(message, outcome, id=entry.message_id, error=error, earlier=is_earlier or None)

    def give_up(self) -> None:
        """Write that the messages without an outcome were not sent."""
        for message in self.waiting.values():
            self._write(message, "stopped")
        self.waiting.clear()

    def _write(self, message: Message, outcome: str, **facts: str | bool | None) -> None:
        self.counts[outcome] += 1
        if isinstance(facts.get("error"), str):
            self.reasons[str(facts["error"])] += 1
        row = {"line": message.line, "recipient": message.recipient, "outcome": outcome, **facts}
        try:
            self._file.write(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
            self._file.flush()
        except OSError as error:  # no more messages may be sent, since their outcomes could not be written
            self.hopeless = self.hopeless or f"the results cannot be written: {error.strerror}"
            if outcome != "stopped":
                self.unwritten.append(f"line {message.line}: {outcome}")
        if outcome != "stopped":
            self.progress.advance()


async def _send_until(
    stop: asyncio.Event,
    client: Client,
    outbox: Outbox,
    record: _Record,
    priority: Priority,
    max_wait: float | None,
) -> None:
    messages = dict(record.waiting)
    entries = await asyncio.gather(
        *(
            outbox.put(m.recipient, m.text, custom_profile_id=m.profile, key=key, priority=priority)
            for key, m in messages.items()
        )
    )
    for entry in entries:
        record.take(entry, is_earlier=True)
    record.earlier, record.failed_earlier = record.counts["sent"], record.counts["not sent"]
    last = max(entry.number for entry in entries)
    if record.hopeless is None and record.waiting:
        counts = await outbox.counts()
        own = sum(entry.state in {State.QUEUED, State.ABSENT} for entry in entries)
        if (others := counts[State.QUEUED] + counts[State.ABSENT] - own) > 0:
            note(f"messages in the outbox that are not from this file: {others}; meanwhile they are sent, too")
        await _first_of(
            _drained(outbox, record),
            _recorded(outbox, record, last),
            _shown(client, outbox, record, max_wait),
            stop.wait(),
        )
    await outbox.withdraw(*record.waiting)
    await outbox.idle()
    await outbox.withdraw(*record.waiting)  # those that were under way, and wait again
    for key in list(record.waiting):
        kept = await outbox.get(key)
        if kept is not None:
            record.take(kept, is_last=True)
    record.give_up()


async def _shown(client: Client, outbox: Outbox, record: _Record, max_wait: float | None) -> None:
    try:
        await show_waits(record.progress, client, outbox, max_wait=max_wait)
    except Failure as failure:
        record.too_late = failure


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Run the coroutines until one of them ends, then cancel the others."""
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
    except errors.TwdmError as error:  # the next message would fail for the same reason
        record.hopeless = str(error)


async def _recorded(outbox: Outbox, record: _Record, last: int) -> None:
    async for entry in outbox.events(after=last):
        record.take(entry)
        if record.hopeless is not None or not record.waiting:
            return
