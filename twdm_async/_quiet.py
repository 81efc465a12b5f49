"""Wrappers that keep secrets and texts of messages out of errors, even out of a traceback that prints the variables of
its frames. They also turn unexpected exceptions, which are mistakes of this library, into ``InternalError``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from twdm_async.errors import InternalError, TwdmError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_PACKAGE: Final = f"{Path(__file__).parent}{os.sep}"

P = ParamSpec("P")
T = TypeVar("T")


def quiet_call(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap `function`, whose arguments are secret, so that no frame of it is in the traceback of what it raises on
    purpose.
    """

    @functools.wraps(function)
    def without_frames(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TwdmError as error:
            problem: Exception = error.with_traceback(None)
        except TypeError as error:  # most likely, an argument is missing or unknown
            problem = error.with_traceback(None)
        del args, kwargs
        raise problem from None

    return without_frames


def quiet_class(cls: type[T]) -> type[T]:
    """Wrap the ``__init__`` of `cls`, whose fields are secret, by :func:`quiet_call`; return `cls`."""
    type.__setattr__(cls, "__init__", quiet_call(cls.__init__))
    return cls


def quiet(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Wrap a coroutine function whose arguments hold texts of messages, so that no frame of it is in the traceback of
    what it raises on purpose or when cancelled. Any other exception becomes an ``InternalError``.
    """

    @functools.wraps(function)
    async def without_frames(*args: P.args, **kwargs: P.kwargs) -> T:
        running: Coroutine[Any, Any, T] | None = None
        problem: BaseException | None = None
        try:
            running = function(*args, **kwargs)
        except (TwdmError, TypeError) as error:  # an argument is wrong, missing or unknown
            problem = error.with_traceback(None)
        del args, kwargs
        try:
            if running is not None:
                return await running
        except (TwdmError, asyncio.CancelledError) as error:
            problem = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - any other exception is a mistake of this library
            problem = mistake(error)
        try:
            raise (problem or InternalError(problem="nothing was done")) from None
        finally:
            del problem

    return without_frames


def mistake(error: Exception) -> TwdmError:
    """Return `error` if it was raised on purpose; else an ``InternalError`` that names its type and place, but not its
    text.

    Raise the result outside the ``except`` block of `error`: else a traceback would show `error` as its context.
    """
    if isinstance(error, TwdmError):
        return error
    place = "an unknown place"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(_PACKAGE):
            place = f"{frame.filename.removeprefix(_PACKAGE)}:{frame.lineno}"
    return InternalError(problem=f"{type(error).__name__} in {place}")
