"""The package's loggers; and showing the log on standard error: ``TWDM_LOG=debug``, and the command line.

Each module logs to the logger of its own name, so the loggers of the subsystems are ``twdm_async.quota``,
``twdm_async.transport``, ``twdm_async.outbox``, ``twdm_async.webhooks`` and so on.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# C0 and C1 controls, what changes the direction of a line or breaks it, and halves of characters.
_OBEYED: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LEVELS: Final = ("debug", "info", "warning", "error")


class _QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that does not raise if a filter or a handler of the application does."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        kwargs.setdefault("stacklevel", 2)  # the caller of this method
        with suppress(Exception):
            super().log(level, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


def quiet_logger(name: str) -> _QuietLogger:
    """Return the logger called `name`, for a module of this package: what the application does with the log must not
    disturb calls, nor what wakes them.
    """
    return _QuietLogger(logging.getLogger(name), {})


def printable(text: str) -> str:
    """Return `text`, in one line, with the code in place of every character that a terminal obeys."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Printable(logging.Formatter):
    """Formats records so that a terminal obeys nothing in them."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def show_log(level: str, style: str = "%(asctime)s %(levelname)s %(name)s: %(message)s") -> None:
    """Write what the package logs to standard error.

    Args:
        level: the lowest level to show: ``debug``, ``info``, ``warning`` or ``error``, in any case. Of anything else, a
            warning is shown.
        style: the format of a line.
    """
    is_known = level.lower() in _LEVELS
    logger, handler = logging.getLogger("twdm_async"), logging.StreamHandler()
    handler.setFormatter(_Printable(style))
    for earlier in [one for one in logger.handlers if isinstance(one.formatter, _Printable)]:
        logger.removeHandler(earlier)
    logger.addHandler(handler)
    logger.setLevel(level.upper() if is_known else logging.WARNING)
    if not is_known:
        logger.warning("TWDM_LOG must be one of %s", ", ".join(_LEVELS))
