"""Uploading files (page *Uploading media*)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from attrs import frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.media import LARGEST_FILE, Media, MediaCategory, checked_image
from twdm_async.transport.call import Caller
from twdm_async.transport.wire import File


@frozen
class MediaUploads:
    """Calls on media."""

    _caller: Caller

    async def upload(
        self,
        source: Path | bytes,
        *,
        category: MediaCategory | None = None,
        shared: bool = False,
        max_wait: float | None = None,
    ) -> Media:
        """Upload a picture in one request (page *POST media/upload*).

        Args:
            source: the file, or its content: PNG, JPEG or WEBP of at most 5 MB, or GIF of at most 15 MB.
            category: what it is for, such as ``"dm_image"``; none suits avatars.
            shared: whether it may be used in several messages, or in a welcome message. Whoever has its address can
                then see it.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.

        Raises:
            InvalidInput: it cannot be read, is empty, too large, no picture, or not what `category` says.
            ResponseError: the API refused it.
            ConnectFailed: no answer was had.
        """
        content = await asyncio.to_thread(_content, source) if isinstance(source, Path) else source
        if not isinstance(content, bytes):
            raise InvalidInput(parameter="source", problem="must be a pathlib.Path or bytes")
        content_type = checked_image(content, category, "source")
        fields: dict[str, str | File] = {}
        if category is not None:
            fields["media_category"] = category
        if shared:
            fields["shared"] = "true"
        fields["media"] = File(content, content_type)
        return await self._caller.call("media.upload", fields, Media, max_wait=max_wait)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InvalidInput(parameter="source", problem=f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise InvalidInput(parameter="source", problem="is not a path") from None
    if size <= LARGEST_FILE and len(content) != size:
        raise InvalidInput(parameter="source", problem="changed while it was read")
    return content
