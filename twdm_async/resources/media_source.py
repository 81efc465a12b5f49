"""Reading a file that is to be uploaded, piece by piece, from a path, bytes, an open file or an async iterator."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import IO, Any

from attrs import define

from twdm_async._numbers import checked_count
from twdm_async.errors import InvalidInput
from twdm_async.models.media import HEAD

Source = Path | str | bytes | IO[bytes] | AsyncIterator[bytes]
"""The path of a file, its content, an open file, or an async iterator of its pieces."""


@define
class Opened:
    """A file that is being read.

    Args:
        head: the file's first bytes: at least :data:`HEAD` of them, or the whole file if it is shorter.
        size: the file's size in bytes.
    """

    head: bytes
    size: int
    _rest: AsyncIterator[bytes]

    async def pieces(self, length: int) -> AsyncIterator[bytes]:
        """Yield the file in pieces of `length` bytes, of which the last may be shorter.

        Raises:
            InvalidInput: the file has more or fewer bytes than `size`.
        """
        kept, read = bytearray(self.head), len(self.head)
        async for piece in self._rest:
            kept += piece
            read += len(piece)
            if read > self.size:
                break
            while len(kept) > length:  # the last piece is held back until it is known that nothing follows
                yield bytes(kept[:length])
                del kept[:length]
        if read != self.size:
            raise InvalidInput(parameter="source", problem="changed while it was read, or its size is not `size`")
        while kept:
            yield bytes(kept[:length])
            del kept[:length]


_PIECE = 256 * 1024  # bytes that are read at once


@contextlib.asynccontextmanager
async def opened(source: Source, size: int | None) -> AsyncGenerator[Opened]:
    """Open `source` for reading. An open file is read from its current position.

    Args:
        source: the file.
        size: the size in bytes; ``None`` if `source` itself tells it.

    Raises:
        InvalidInput: `source` cannot be read, or its size is not given and cannot be found out.
    """
    if size is not None:
        checked_count(size, "size")
    if isinstance(source, AsyncIterator):
        yield await _begin(_checked(source), size)
        return
    with contextlib.ExitStack() as stack:
        if isinstance(source, (Path, str)):
            file: Any = stack.enter_context(await asyncio.to_thread(_open, Path(source)))
        else:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
        if not callable(getattr(file, "read", None)) or isinstance(file, io.TextIOBase):
            raise InvalidInput(
                parameter="source",
                problem="must be a path, bytes, a file of bytes or an async iterator of bytes",
            )
        yield await _begin(_read(file), await asyncio.to_thread(_size_of, file) if size is None else size)


async def _begin(pieces: AsyncIterator[bytes], size: int | None) -> Opened:
    if size is None:
        raise InvalidInput(parameter="size", problem="is needed for an iterator, and for a file that cannot seek")
    head = b""
    async for piece in pieces:
        head += piece
        if len(head) >= HEAD:
            break
    return Opened(head, size, pieces)


def _open(path: Path) -> IO[bytes]:
    try:
        if not path.exists() or path.is_file() or path.is_dir():
            return path.open("rb")
        problem = f"{path} is not a regular file"  # opening a pipe may block for ever
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the path
        problem = "is not a path"
    raise InvalidInput(parameter="source", problem=problem)


def _size_of(file: IO[bytes]) -> int | None:
    """Return the bytes from the file's current position to its end; ``None`` if the file cannot seek."""
    try:
        here = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError, ValueError):
        return None
    return end - here


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            piece: Any = await asyncio.to_thread(file.read, _PIECE)
        except (OSError, ValueError) as error:  # a ValueError if it is closed
            words = error.strerror if isinstance(error, OSError) else "it is closed"
            raise InvalidInput(parameter="source", problem=f"cannot be read: {words}") from None
        if not isinstance(piece, bytes):
            raise InvalidInput(parameter="source", problem="yields something other than bytes")
        if not piece:
            return
        yield piece


async def _checked(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in source:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise InvalidInput(parameter="source", problem="yields something other than bytes")
        for start in range(0, len(piece), _PIECE):  # a huge piece is not copied as a whole
            yield bytes(piece[start : start + _PIECE])
