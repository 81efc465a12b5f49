"""Uploading files (pages *Uploading media*, *POST media/upload (INIT)*, *(APPEND)*, *(FINALIZE)*, *GET media/upload
(STATUS)*, *POST /2/media/upload*).

A picture is uploaded in one request; a film or an animation in segments, of which only one is in memory at a time. Each
segment is a call of its own, so if a connection breaks, only the segment that was under way is sent again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import evolve, frozen

from twdm_async._clock import Clock
from twdm_async._numbers import checked_seconds
from twdm_async.endpoints import MediaApi
from twdm_async.errors import MediaFailed, ResponseError
from twdm_async.models.media import HEAD, Media, MediaCategory, MediaV2, checked_type
from twdm_async.resources.media_source import Opened, Source, opened
from twdm_async.transport.call import Caller
from twdm_async.transport.wire import File, without_long_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SEGMENT: Final = 1024 * 1024
"""The size of a segment in bytes. The API takes up to a thousand segments of up to 5 MB each."""

_SHORTEST_CHECK, _USUAL_CHECK, _LONGEST_CHECK = 1.0, 5.0, 60.0  # seconds between two questions about the processing
_DONE: Final = frozenset({"succeeded", "failed"})

T = TypeVar("T")


@frozen
class UploadProgress:
    """The progress of an upload.

    Args:
        sent: how many bytes the API has received.
        total: the file's size in bytes.
        processed: how much of the file the API has processed, in percent; ``None`` while the file is being sent, or if
            the API does not say.
    """

    sent: int
    total: int
    processed: int | None = None


@frozen
class MediaUploads:
    """Calls about media.

    Args:
        media_api: which of the API's two ways to upload is used. X has announced the end of ``"v1.1"`` several times;
            media ids from ``"v2"`` are believed to work in messages just as well.
    """

    _caller: Caller
    _clock: Clock
    media_api: MediaApi = "v1.1"

    async def upload(
        self,
        source: Source,
        *,
        category: MediaCategory | None = None,
        shared: bool = False,
        size: int | None = None,
        progress: Callable[[UploadProgress], None] | None = None,
        processing_timeout: float = 600.0,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> Media:
        """Upload a picture, an animation or a film (page *Uploading media*). When this returns, the file can be used.

        Args:
            source: a path (``pathlib.Path`` or ``str``), ``bytes``, a file opened for reading bytes, or an async
                iterator of ``bytes``. It must be a PNG, JPEG or WEBP of at most 5 MB, a GIF of at most 15 MB, or an MP4
                or MOV of at most 512 MB.
            category: what the file is for: ``"dm_image"``, ``"dm_gif"`` or ``"dm_video"`` for messages; not given for
                avatars. A film needs a category. Films, and GIFs with a category for animations, are uploaded in
                segments; with ``media_api="v2"``, shared files, too.
            shared: whether the file may be used in several messages, or in a welcome message. Whoever has its URL can
                then see it.
            size: the file's size in bytes; needed for an iterator, and for an open file that cannot seek.
            progress: a function that is called with an :class:`UploadProgress` after every segment, and while the API
                processes the file.
            processing_timeout: seconds to wait for the API to process the file.
            max_wait: seconds to wait for quota, for each request; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: the file cannot be read, is empty, too large, of no type that the API takes, not of the type
                that `category` is for, or changed while it was read; or another argument has the wrong type or range.
                Nothing was sent, unless the file changed or could not be read to its end.
            QuotaWaitTooLong: a request would wait for quota longer than `max_wait`.
            MediaFailed: the API could not process the file, or had not within `processing_timeout`.
            ResponseError: the API refused a request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: an answer cannot be read.
            Exception: any exception that `progress` or an iterator raises.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        checked_seconds(processing_timeout, "processing_timeout")
        tell = progress or _nobody
        async with opened(source, size) as file:
            content_type = checked_type(file.head[:HEAD], file.size, category, "source")
            back: _BackEnd = {"v1.1": _V1, "v2": _V2}[self.media_api](self._caller, max_wait, timeout)
            in_segments = content_type.startswith("video/") or (category or "").endswith("_gif")
            if not in_segments and not (shared and self.media_api == "v2"):
                content = b"".join([piece async for piece in file.pieces(file.size)])
                media = await back.whole(File(content, content_type), category, shared=shared)
            else:
                media = await self._in_segments(back, file, content_type, category, shared, tell)
        tell(UploadProgress(file.size, file.size))
        return await self._processed(back, media, file.size, tell, processing_timeout)

    async def _in_segments(
        self,
        back: _BackEnd,
        file: Opened,
        content_type: str,
        category: MediaCategory | None,
        shared: bool,
        tell: Callable[[UploadProgress], None],
    ) -> Media:
        media_id = await back.begin(content_type, file.size, category, shared=shared)
        sent = index = 0
        async for piece in file.pieces(SEGMENT):
            await back.append(media_id, index, File(piece, "application/octet-stream"))
            sent, index = sent + len(piece), index + 1
            if sent < file.size:
                tell(UploadProgress(sent, file.size))
        try:
            return await back.finish(media_id)
        except ResponseError as error:
            if error.delivered != "unknown":
                raise
            # An earlier answer was lost, and an upload cannot be finished twice: ask for its status instead.
            return evolve(await back.status(media_id), size=file.size)

    async def _processed(
        self, back: _BackEnd, media: Media, size: int, tell: Callable[[UploadProgress], None], timeout: float
    ) -> Media:
        deadline = self._clock.monotonic() + timeout
        last = media
        # The API has been seen to report "in progress" for ever, together with an error.
        while last.processing is not None and last.processing.state not in _DONE and not last.processing.error:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                problem = f"the API had not processed it after {timeout:g} s"
                raise MediaFailed(endpoint=back.status_name, problem=problem, media_id=media.id)
            await self._clock.sleep(min(_check_after(last.processing.check_after_secs), left))
            last = await back.status(media.id)
            if last.processing is not None and last.processing.progress_percent is not None:
                tell(UploadProgress(size, size, last.processing.progress_percent))
        if last.processing is not None and (last.processing.state == "failed" or last.processing.error):
            error = last.processing.error or {}
            words = [without_long_words(error[key]) for key in ("name", "message") if isinstance(error.get(key), str)]
            problem = f"the API could not process it{': ' if words else ''}{': '.join(words)}"
            raise MediaFailed(endpoint=back.status_name, problem=problem, media_id=media.id)
        return evolve(media, processing=last.processing)  # the answers about the status do not repeat the rest


def _check_after(said: int | None) -> float:
    """Return the seconds until the next question about the processing, if the API asked to wait for `said` seconds."""
    return min(max(_USUAL_CHECK if said is None else said, _SHORTEST_CHECK), _LONGEST_CHECK)


def _nobody(_: UploadProgress) -> None:
    pass


class _BackEnd(ABC):
    """One of the API's two ways to upload."""

    status_name: str

    def __init__(self, caller: Caller, max_wait: float | None, timeout: float | None) -> None:
        self._caller = caller
        self._max_wait = max_wait
        self._timeout = timeout

    async def _call(self, name: str, arguments: Mapping[str, Any], into: type[T], path_id: str | None = None) -> T:
        return await self._caller.call(
            name, arguments, into, path_id=path_id, max_wait=self._max_wait, timeout=self._timeout
        )

    @abstractmethod
    async def whole(self, file: File, category: MediaCategory | None, *, shared: bool) -> Media:
        """Upload the file in one request."""

    @abstractmethod
    async def begin(self, content_type: str, size: int, category: MediaCategory | None, *, shared: bool) -> str:
        """Announce an upload in segments, and return its media id."""

    @abstractmethod
    async def append(self, media_id: str, index: int, segment: File) -> None:
        """Send one segment. Sending it twice does no harm."""

    @abstractmethod
    async def finish(self, media_id: str) -> Media:
        """Tell the API that all segments were sent."""

    @abstractmethod
    async def status(self, media_id: str) -> Media:
        """Ask how far the API has processed the file."""


class _V1(_BackEnd):
    status_name = "media.upload_status"

    async def whole(self, file: File, category: MediaCategory | None, *, shared: bool) -> Media:
        return await self._call("media.upload", _use(category, shared=shared) | {"media": file}, Media)

    async def begin(self, content_type: str, size: int, category: MediaCategory | None, *, shared: bool) -> str:
        fields = {"command": "INIT", "total_bytes": str(size), "media_type": content_type}
        media: Media = await self._call("media.upload_init", fields | _use(category, shared=shared), Media)
        return media.id

    async def append(self, media_id: str, index: int, segment: File) -> None:
        fields = {"command": "APPEND", "media_id": media_id, "segment_index": str(index), "media": segment}
        await self._call("media.upload_append", fields, type(None))

    async def finish(self, media_id: str) -> Media:
        fields = {"command": "FINALIZE", "media_id": media_id}
        return await self._call("media.upload_finalize", fields, Media)

    async def status(self, media_id: str) -> Media:
        fields = {"command": "STATUS", "media_id": media_id}
        return await self._call("media.upload_status", fields, Media)


def _use(category: MediaCategory | None, *, shared: bool) -> dict[str, Any]:
    return ({"media_category": category} if category else {}) | ({"shared": "true"} if shared else {})


class _V2(_BackEnd):
    status_name = "media_v2.status"

    async def whole(self, file: File, category: MediaCategory | None, *, shared: bool) -> Media:  # noqa: ARG002 - only uploads in segments can be shared
        fields = {"media_category": category or "tweet_image", "media": file}
        return await self._call("media_v2.upload", fields, MediaV2)

    async def begin(self, content_type: str, size: int, category: MediaCategory | None, *, shared: bool) -> str:
        body: dict[str, Any] = {"media_type": content_type, "total_bytes": size}
        body["media_category"] = category or "tweet_image"
        if shared:
            body["shared"] = True
        media: Media = await self._call("media_v2.initialize", body, MediaV2)
        return media.id

    async def append(self, media_id: str, index: int, segment: File) -> None:
        fields = {"segment_index": str(index), "media": segment}
        await self._call("media_v2.append", fields, type(None), media_id)

    async def finish(self, media_id: str) -> Media:
        return await self._call("media_v2.finalize", {}, MediaV2, media_id)

    async def status(self, media_id: str) -> Media:
        fields = {"command": "STATUS", "media_id": media_id}
        return await self._call("media_v2.status", fields, MediaV2)
