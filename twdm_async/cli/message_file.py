"""Reading the file of messages for ``twdm send-many``. Every line is checked before anything is sent."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from twdm_async import errors
from twdm_async._json import is_object
from twdm_async.cli.terminal import standard_input
from twdm_async.models.checks import checked_id, checked_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LONGEST_TEXT: Final = 10_000
_COLUMNS: Final = frozenset({"recipient", "text", "profile"})
_EXACT_DIGITS: Final = 15  # digits of a number that a spreadsheet keeps; it replaces the others by zeros
_BY_CHANCE: Final = 1e-5  # for each number of zeros, the greatest probability that a good file is refused


@frozen
class Message:
    """One message of the file. `line` is the number of its first line."""

    line: int
    recipient: str
    text: str = field(repr=False)
    profile: str | None


class BadLines(Exception):
    """The file has lines that cannot be sent. `lines` describes each in a sentence that begins with its number."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines)
        self.lines = lines


def read_messages(file: str, profile: str | None) -> list[Message]:
    """Read all messages of a JSONL file, or of a CSV file with a header line.

    Args:
        file: the path of the file; ``-`` is standard input. Its ending tells the format: ``.jsonl``, ``.ndjson`` or
            ``.csv``. With any other ending, it is JSONL if it begins with ``{`` or ``[``, else CSV.
        profile: the id of the custom profile for lines that name none.

    Raises:
        InvalidInput: the file cannot be read or contains no message, or `profile` is not a numeric id.
        BadLines: some lines are wrong. The error describes all of them.
    """
    try:
        content = standard_input() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise errors.InvalidInput(parameter="file", problem=f"{file} cannot be read: {error.strerror}") from None
    if profile is not None:
        checked_id(profile, "--profile")
    begins_as_json = content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    is_json = {".jsonl": True, ".ndjson": True, ".csv": False}.get(Path(file).suffix.lower(), begins_as_json)
    rows = _json_rows(content) if is_json else _csv_rows(content)
    messages: list[Message] = []
    bad: list[str] = []
    for line, row in rows:
        try:
            messages.append(_message(line, row, profile))
        except errors.InvalidInput as error:
            bad.append(f"line {line}: {error}")
    if bad := bad or _rounded(messages):
        raise BadLines(bad)
    if not messages:
        raise errors.InvalidInput(parameter="file", problem=f"{file} contains no message")
    return messages


def _rounded(messages: Sequence[Message]) -> list[str]:
    """Describe the lines whose ids a spreadsheet seems to have rounded: more ids end in zeros than chance explains."""
    ids = {one for message in messages for one in (message.recipient, message.profile) if one is not None}
    long = {one for one in ids if len(one) > _EXACT_DIGITS}
    rounded: set[str] = set()
    for zeros in (1, 2, 3, 4):  # of an id of 16, 17, 18, 19 digits
        ending = {one for one in long if one.endswith("0" * zeros)}
        expected = len(long) / 10.0**zeros
        # The probability that as many ids or more end in these zeros (Poisson) is at most expected ** count / count!.
        by_chance = len(ending) * math.log(expected) - math.lgamma(len(ending) + 1) if ending else 0.0
        if len(ending) > expected and by_chance < math.log(_BY_CHANCE):
            rounded |= ending
    problem = "ends in zeros, like an id that a spreadsheet has rounded to 15 digits; export the ids as text"
    return [
        f"line {message.line}: {name}: {problem}"
        for message in messages
        for name, one in (("recipient", message.recipient), ("profile", message.profile))
        if one in rounded
    ]


def _json_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if text.strip():
            try:
                yield line, json.loads(text, object_pairs_hook=_once)
            except (ValueError, RecursionError):
                yield line, _bad("it is not JSON in UTF-8, or contains a name twice")


def _csv_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    text = content.decode("utf-8-sig", errors="surrogateescape")  # so that the lines that are not UTF-8 can be named
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
                yield line, _bad("the header must name recipient and text, may name profile, and each only once")
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
        raise ValueError("it contains a name twice")
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
