"""Saving a file that hangs on a message."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from twdm_async._numbers import checked_count
from twdm_async.errors import InvalidInput, MalformedResponse
from twdm_async.transport.oauth1 import checked_files_host
from twdm_async.transport.wire import Sink

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.transport.call import Caller

# What signs alike however it is read: no query, and no character that could be escaped in two ways.
_PATH: Final = re.compile(r"/([A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~:-]+)*)")


async def download(
    caller: Caller, address: str | None, path: Path, most: int, max_wait: float | None, timeout: float | None
) -> int:
    """Save what is at `address`. Returns its size in bytes.

    Raises:
        InvalidInput: the address is not one that requests are signed for, or the file cannot be written.
        MediaFailed: it is larger than `most` bytes.
        MalformedResponse: the answer is no file.
    """
    host, file = _checked(address, caller)
    checked_count(most, "most")
    draft = _draft_of(path)
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as target:
            sink = Sink(target, most)
            await caller.call(
                "direct_messages.download",
                {},
                type(None),
                path_id=file,
                files_host=host,
                sink=sink,
                max_wait=max_wait,
                timeout=timeout,
            )
        if not sink.is_whole:
            raise MalformedResponse(
                endpoint="direct_messages.download", status=200, problem="an answer that is no file"
            )
        await asyncio.to_thread(draft.replace, path)
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
    else:
        return sink.size
    finally:
        draft.unlink(missing_ok=True)
    raise InvalidInput(parameter="path", problem=problem)


def _draft_of(path: Path) -> Path:
    """Return where the file is written first. Its own name may be as long as names may be."""
    if not path.name or "\0" in str(path):
        raise InvalidInput(parameter="path", problem="is not the path of a file")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # its name is too long, say, which is better known now than when all of it was read
        raise InvalidInput(parameter="path", problem=f"cannot be written: {error.strerror}") from None
    return path.with_name(f".{secrets.token_hex(12)}.part")


def _checked(address: str | None, caller: Caller) -> tuple[str, str]:
    """Host and path of an address that requests may be signed for."""
    if not isinstance(address, str):
        raise InvalidInput(parameter="media", problem="must be the attachment of a message, with an address")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise InvalidInput(parameter="media", problem="is no address") from None
    path = _PATH.fullmatch(parts.path)
    is_odd = bool(parts.query or parts.fragment) or path is None or ".." in parts.path.split("/")
    if path is None or is_odd:
        raise InvalidInput(parameter="media", problem="is no address of a message's file")
    return checked_files_host(f"{parts.scheme}://{parts.netloc}", caller.api_host), path[1]
