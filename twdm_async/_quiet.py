"""Errors that show nothing of what was sent or signed, not even in a traceback that prints what its frames hold; and
mistakes of this library, which come out as errors of its own.
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
    """`function`, whose arguments are secret: what it raises on purpose has no frames of it."""

    @functools.wraps(function)
    def without_frames(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TwdmError as error:
            problem: Exception = error.with_traceback(None)
        except TypeError as error:  # an argument is missing or not known, most likely
            problem = error.with_traceback(None)
        del args, kwargs
        raise problem from None

    return without_frames


def quiet_class(cls: type[T]) -> type[T]:
    """`cls`, whose fields are secret: what it raises on purpose when one is made has no frames of it."""
    type.__setattr__(cls, "__init__", quiet_call(cls.__init__))
    return cls


def quiet(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """`function`, whose arguments hold texts: what it raises on purpose, or when cancelled, has no frames of it."""

    @functools.wraps(function)
    async def without_frames(*args: P.args, **kwargs: P.kwargs) -> T:
        running: Coroutine[Any, Any, T] | None = None
        problem: BaseException | None = None
        try:
            running = function(*args, **kwargs)
        except (TwdmError, TypeError) as error:  # one of the arguments is wrong, is missing, or is not known
            problem = error.with_traceback(None)
        del args, kwargs
        try:
            if running is not None:
                return await running
        except (TwdmError, asyncio.CancelledError) as error:
            problem = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody could have expected it
            problem = mistake(error)
        try:
            raise (problem or InternalError(problem="nothing was done")) from None
        finally:
            del problem

    return without_frames


def mistake(error: Exception) -> TwdmError:
    """`error`, if it was raised on purpose; else one of ours that says which and where, and not what it holds.

    To be raised where the other one is handled no longer: whoever shows the one would show the other, too.
    """
    if isinstance(error, TwdmError):
        return error
    place = "an unknown place"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(_PACKAGE):
            place = f"{frame.filename.removeprefix(_PACKAGE)}:{frame.lineno}"
    return InternalError(problem=f"{type(error).__name__} in {place}")
