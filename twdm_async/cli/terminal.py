"""What goes to the terminal. What strangers wrote may hold characters that a terminal obeys: these are escaped."""

from __future__ import annotations

import enum
import io
import json
import logging
import re
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import typer
from attrs import asdict
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

if TYPE_CHECKING:
    from twdm_async.models import DirectMessage, WelcomeMessage

# C0 and C1 controls, what changes the direction of a line or breaks it, and halves of characters.
_OBEYED: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return `text`, in one line, with the code in place of every character that a terminal obeys."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Printable(logging.Formatter):
    """Formats records so that a terminal obeys nothing in them."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def prepare() -> None:
    """Let everything that is written be shown: also what the terminal's encoding does not have, and warnings."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Printable("%(message)s"))
    logging.getLogger("twdm_async").addHandler(handler)


def plain(text: str) -> Text:
    """Return `text` for rich: printable, and without any markup."""
    return Text(printable(text))


def say(console: Console, text: str) -> None:
    """Print a line, as it is."""
    console.print(plain(text), highlight=False, soft_wrap=True)


def complain(problem: str) -> None:
    """Print an error."""
    typer.echo(f"error: {printable(problem)}", err=True)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Write `value` as JSON that a terminal can show."""
    is_ascii = "utf" not in (sys.stdout.encoding or "utf").lower()
    lines = json.dumps(value, default=_json_value, ensure_ascii=is_ascii, indent=indent).split("\n")
    return "\n".join(map(printable, lines))


def show(models: Any) -> None:
    """Print a model, or several, as JSON."""
    text = as_json(models if isinstance(models, (list, dict)) else shown(models), indent=2)
    Console(soft_wrap=True).print(JSONHighlighter()(Text(text)))


def shown(model: Any) -> dict[str, Any]:
    """What a model shows of itself."""
    shown: dict[str, Any] = asdict(model, filter=lambda field, value: field.repr and value is not None)
    return {name: value.name.lower() if isinstance(value, enum.IntEnum) else value for name, value in shown.items()}


def message_shown(message: DirectMessage | WelcomeMessage) -> dict[str, Any]:
    """What a message shows of itself, and its text, for somebody who asked for it."""
    choices = message.quick_replies
    labels = [one.label for one in choices] if isinstance(choices, tuple) else []
    buttons = [cta.label for cta in message.ctas]
    more = {"choices": labels, "buttons": buttons}
    return shown(message) | {"text": message.text} | {name: one for name, one in more.items() if one}


def _json_value(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
