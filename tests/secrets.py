"""Whether anything shows what it must not: keys, or the texts of messages.

Every record that is logged in a test run, at any level, and every exception that a test expects is looked through: its
words, and what the frames of the package hold, as tools that report errors show them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import twdm_async

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

SECRETS: Final = ("SENTINEL", "sandbox-consumer-secret", "sandbox-access-token-secret")
"""What tests' keys and texts are marked with, and the sandbox' keys."""

_PACKAGE: Final = str(Path(twdm_async.__file__).parent)

found: list[str] = []
"""Where something was shown."""
scanned = {"records": 0, "exceptions": 0, "frames": 0}
"""How much was looked through."""


def look_at(error: BaseException) -> None:
    """Look through an exception, and those it came from."""
    scanned["exceptions"] += 1
    for one in _chain(error):
        _note(f"{type(one).__name__}", f"{one!s} {one!r}")
        traceback = one.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if frame.f_code.co_filename.startswith((_PACKAGE, "<attrs generated")):
                scanned["frames"] += 1
                for name, value in frame.f_locals.items():
                    _note(f"{frame.f_code.co_qualname}, local {name}, of {type(one).__name__}", _shown(value))
            traceback = traceback.tb_next


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__]


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - what cannot be shown shows nothing
        return ""


def _note(where: str, text: str) -> None:
    found.extend(f"{where}: {text[max(0, text.find(one) - 60) :][:160]}" for one in SECRETS if one in text)


class LookAtRecords(logging.Handler):
    """Looks through what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        scanned["records"] += 1
        _note(f"log {record.name}", f"{record.getMessage()} {record.__dict__!r}")
        if record.exc_info and record.exc_info[1] is not None:
            look_at(record.exc_info[1])


_raises = pytest.raises


class _Raises:
    """``pytest.raises``, that looks through what was raised."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._inner = _raises(*args, **kwargs)

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> bool | None:
        if error is not None:
            look_at(error)
        is_expected: bool | None = self._inner.__exit__(kind, error, traceback)
        return is_expected


def watch() -> None:
    """From now on, look through everything."""
    pytest.raises = _Raises  # type: ignore[assignment]  # it stands in for it
    handler = LookAtRecords(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    logging.getLogger("twdm_async").setLevel(logging.DEBUG)
