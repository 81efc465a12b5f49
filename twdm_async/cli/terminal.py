"""Output of commands: tables for people, JSON for programs.

Texts from strangers may contain control characters that a terminal obeys; these are escaped.
"""

from __future__ import annotations

import enum
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
from attrs import asdict

from twdm_async._json import is_array, is_object
from twdm_async._log import printable
from twdm_async.cli.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

    from twdm_async.cli.options import Options
    from twdm_async.models import DirectMessage, WelcomeMessage


_WIDEST: Final = 10_000  # columns of no terminal


def note(words: str) -> None:
    """Print a line for people on standard error."""
    click.echo(printable(words), err=True)


def code_for(count: int, named: Sequence[str], problem: str) -> int:
    """Return the exit code of a command that did something to `count` of the things that were named; if that is not all
    of them, say what is the problem with the others.
    """
    total = len(set(named))
    if count >= total:
        return 0
    note(f"{total - count} of {total} {problem}")
    return 1


def show(options: Options, value: Any) -> None:
    """Print a model, a dict, or a list of either, on standard output: as a table on a terminal, else as JSON."""
    rows = [_fields(one) for one in value] if is_array(value) else _fields(value)
    try:
        if options.as_json or not _is_terminal():
            click.echo(as_json(rows, indent=2))
        else:
            _print_table(rows)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"done, but the output cannot be written: {error.strerror}", 6) from None


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def standard_input() -> bytes:
    """Read standard input to its end."""
    return sys.stdin.buffer.read()


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON that a terminal can show."""
    is_ascii = "utf" not in (sys.stdout.encoding or "utf").lower()
    lines = json.dumps(value, default=text_of, ensure_ascii=is_ascii, indent=indent).split("\n")
    return "\n".join(map(printable, lines))


def text_of(value: object) -> str:
    """Return a value of a model as text; a time in the form of ISO 8601."""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)


def say(console: Console, text: str) -> None:
    """Print a line without markup, highlighting or line breaks."""
    console.print(plain(text), highlight=False, soft_wrap=True)


def plain(text: str) -> Text:
    """Return `text` for rich: printable, and without any markup."""
    from rich.text import Text  # noqa: PLC0415 - imported only if it is used

    return Text(printable(text))


def _fields(value: Any) -> Mapping[str, Any]:
    return value if is_object(value) else fields(value)


def fields(model: Any) -> dict[str, Any]:
    """Return the fields of a model that its repr shows and that have a value."""
    shown: dict[str, Any] = asdict(model, filter=lambda attribute, value: attribute.repr and value is not None)
    return {name: value.name.lower() if isinstance(value, enum.IntEnum) else value for name, value in shown.items()}


def message_fields(message: DirectMessage | WelcomeMessage) -> dict[str, Any]:
    """Return the fields of a message as :func:`fields` does, and its text, choices and buttons. Use this only for a
    caller who asked to see the text.
    """
    choices = message.quick_replies
    labels: Sequence[str] = [one.label for one in choices] if isinstance(choices, tuple) else []
    buttons = [f"{cta.label}: {cta.url}" for cta in message.ctas]
    more = {"choices": labels, "buttons": buttons}
    return fields(message) | {"text": message.text} | {name: one for name, one in more.items() if one}


def _print_table(rows: Mapping[str, Any] | list[Mapping[str, Any]]) -> None:
    """Print a table: a row for each thing if they fit, else a table for each thing, so that nothing is cut off."""
    from rich.console import Console  # noqa: PLC0415 - imported only where a table is printed
    from rich.table import Table  # noqa: PLC0415 - as above

    console = Console()
    if not isinstance(rows, list):
        lists = {name: value for name, value in rows.items() if is_array(value) and all(map(is_object, value))}
        for name, value in lists.items():
            say(console, f"{name}:")
            _print_table(value)
        table = Table(show_header=False)
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, value in rows.items():
            if name not in lists:
                table.add_row(plain(name), plain(_cell(value)))
        if table.row_count:
            console.print(table)
        return
    if not rows:
        console.print("[dim]none")
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*names)
    for row in rows:
        table.add_row(*(plain(_cell(row.get(name))) for name in names))
    if console.measure(table, options=console.options.update(width=_WIDEST)).maximum <= console.width:
        console.print(table)
    else:
        for row in rows:
            _print_table(row)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return as_json(value) if isinstance(value, (dict, list, tuple)) else text_of(value)
