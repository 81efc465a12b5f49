"""What goes to standard output: tables for people, JSON for programs.

What strangers wrote may hold characters that a terminal obeys: these are escaped.
"""

from __future__ import annotations

import enum
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict

from twdm_async._json import is_array, is_object
from twdm_async._log import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

    from twdm_async.cli.options import Options
    from twdm_async.models import DirectMessage, WelcomeMessage


def note(words: str) -> None:
    """Print a line for people on standard error."""
    click.echo(printable(words), err=True)


def show(options: Options, value: Any) -> None:
    """Print a model, a dict, or a list of either: as a table on a terminal, else as JSON."""
    rows = [_fields(one) for one in value] if is_array(value) else _fields(value)
    if options.as_json or not _is_terminal():
        click.echo(as_json(rows, indent=2))
    else:
        _print_table(rows)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def standard_input() -> bytes:
    """Read standard input to its end."""
    return sys.stdin.buffer.read()


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Write `value` as JSON that a terminal can show."""
    is_ascii = "utf" not in (sys.stdout.encoding or "utf").lower()
    lines = json.dumps(value, default=text_of, ensure_ascii=is_ascii, indent=indent).split("\n")
    return "\n".join(map(printable, lines))


def text_of(value: object) -> str:
    """Return a value of a model as text: a time in ISO 8601, in UTC as all times here."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def say(console: Console, text: str) -> None:
    """Print a line, as it is."""
    console.print(plain(text), highlight=False, soft_wrap=True)


def plain(text: str) -> Text:
    """Return `text` for rich: printable, and without any markup."""
    from rich.text import Text  # noqa: PLC0415 - as above

    return Text(printable(text))


def _fields(value: Any) -> Mapping[str, Any]:
    return value if is_object(value) else fields(value)


def fields(model: Any) -> dict[str, Any]:
    """Return what a model shows of itself."""
    shown: dict[str, Any] = asdict(model, filter=lambda attribute, value: attribute.repr and value is not None)
    return {name: value.name.lower() if isinstance(value, enum.IntEnum) else value for name, value in shown.items()}


def message_fields(message: DirectMessage | WelcomeMessage) -> dict[str, Any]:
    """Return what a message shows of itself, and its text, for somebody who asked for it."""
    choices = message.quick_replies
    labels: Sequence[str] = [one.label for one in choices] if isinstance(choices, tuple) else []
    buttons = [cta.label for cta in message.ctas]
    more = {"choices": labels, "buttons": buttons}
    return fields(message) | {"text": message.text} | {name: one for name, one in more.items() if one}


def _print_table(rows: Mapping[str, Any] | list[Mapping[str, Any]]) -> None:
    """Print a table: of one thing with a row for each field, of several with a row for each thing."""
    from rich.console import Console  # noqa: PLC0415 - paid for by who looks at a table
    from rich.table import Table  # noqa: PLC0415 - as above

    console = Console()
    if isinstance(rows, list):
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names:
            console.print("[dim]none")
            return
        table = Table(*names)
        for row in rows:
            table.add_row(*(plain(_cell(row.get(name))) for name in names))
    else:
        table = Table(show_header=False)
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(plain(name), plain(_cell(value)))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return as_json(value) if isinstance(value, (dict, list, tuple)) else text_of(value)
