"""Saving a file that is attached to a message."""

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

# Paths that have the same signature however they are encoded: no query, no character that can be escaped in two ways.
_PATH: Final = re.compile(r"/([A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~:-]+)*)")


async def download(
    caller: Caller, address: str | None, path: Path, most: int, max_wait: float | None, timeout: float | None
) -> int:
    """Save the file at the URL `address` to `path`, and return its size in bytes.

    Raises:
        InvalidInput: requests are not signed for the URL, or the file cannot be written.
        MediaFailed: the file is larger than `most` bytes.
        MalformedResponse: the answer is not a file.
        TwdmError: see :meth:`DirectMessages.download
            <twdm_async.resources.direct_messages.DirectMessages.download>`.
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
                endpoint="direct_messages.download", status=200, problem="an answer that is not a file"
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
    """Return the path that the file is first written to. Its name is short even if that of `path` has the greatest
    length allowed.

    Raises:
        InvalidInput: no file can be at `path`.
    """
    if not path.name or "\0" in str(path):
        raise InvalidInput(parameter="path", problem="is not the path of a file")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long, for example; better to find out before the download
        raise InvalidInput(parameter="path", problem=f"cannot be written: {error.strerror}") from None
    return path.with_name(f".{secrets.token_hex(12)}.part")


def _checked(address: str | None, caller: Caller) -> tuple[str, str]:
    """Return host and path of a URL that requests may be signed for.

    Raises:
        InvalidInput: `address` is not such a URL.
    """
    if not isinstance(address, str):
        raise InvalidInput(parameter="media", problem="must be the attachment of a message, with a URL")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise InvalidInput(parameter="media", problem="is not a URL") from None
    path = _PATH.fullmatch(parts.path)
    is_odd = bool(parts.query or parts.fragment) or path is None or ".." in parts.path.split("/")
    if path is None or is_odd:
        raise InvalidInput(parameter="media", problem="is not the URL of a message's file")
    return checked_files_host(f"{parts.scheme}://{parts.netloc}", caller.api_host), path[1]
