"""Uploads: from anywhere, in segments, by both back ends; and what goes wrong with files."""

from __future__ import annotations

import asyncio
import io
import os
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.pictures import PNG
from twdm_async import (
    BadRequest,
    Client,
    InvalidInput,
    MediaFailed,
    MessageMedia,
    NotFound,
    QuotaTable,
    Scope,
    UploadProgress,
)
from twdm_async.resources.media import SEGMENT, _check_after
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
GIF = b"GIF89a\x01\0\x01\0\0\0\0;"


def film(size: int) -> bytes:
    """Something that looks like a film, in which no two segments are alike."""
    return MP4[:size] + random.Random(7).randbytes(max(0, size - len(MP4)))


def quickly(test: Callable[[Client, Sandbox], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run `test` without the seconds that the API asks to wait. (Not in virtual time: files are read in threads.)"""

    async def main() -> None:
        async with (
            Sandbox() as sandbox,
            Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url, **options) as client,
        ):
            await test(client, sandbox)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twdm_async.resources.media._LONGEST_CHECK", 0.01)
        asyncio.run(main())


async def pieces(content: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), length):
        yield content[start : start + length]


@pytest.mark.parametrize("media_api", ["v1.1", "v2"])
@pytest.mark.parametrize("kind", ["path", "bytes", "file", "iterator", "large pieces"])
def test_a_film_from_anywhere(tmp_path: Path, media_api: str, kind: str) -> None:
    content = film(2 * SEGMENT + 12_345)
    path = tmp_path / "film"
    path.write_bytes(content)
    told: list[UploadProgress] = []

    async def main(client: Client, sandbox: Sandbox) -> None:
        with path.open("rb") as file:
            source: Any = {
                "path": path,
                "bytes": content,
                "file": file,
                "iterator": pieces(content, 77_777),
                "large pieces": pieces(content, len(content)),
            }[kind]
            size = len(content) if kind in {"iterator", "large pieces"} else None
            media = await client.media.upload(source, category="dm_video", size=size, shared=True, progress=told.append)
        stored = sandbox.media[media.id]
        assert stored.content == content
        assert (stored.category, stored.shared, stored.is_ready) == ("dm_video", True, True)
        assert media.processing is not None
        assert media.processing.state == "succeeded"
        assert media.size == len(content)
        sent = await client.direct_messages.send(5, "look", attachment=media)
        assert sent.attachment is not None

    quickly(main, media_api=media_api)
    sent = [SEGMENT, 2 * SEGMENT, len(content)]
    assert [one.sent for one in told] == [*sent, len(content), len(content)]
    assert [one.processed for one in told][-2:] == [50, 100]


@pytest.mark.parametrize("media_api", ["v1.1", "v2"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_picture_and_an_animation(media_api: str, shared: bool) -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        for content, category in ((PNG, "dm_image"), (GIF, "dm_gif"), (PNG, None)):
            media = await client.media.upload(content, category=category, shared=shared)  # type: ignore[arg-type]
            stored = sandbox.media[media.id]
            assert (stored.content, stored.shared) == (content, shared)

    quickly(main, media_api=media_api)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reset", "close", "503", "cut"])
def test_a_connection_cut_in_the_middle_goes_on_at_the_segment(kind: str) -> None:
    content = film(5 * SEGMENT)

    async def main(client: Client, sandbox: Sandbox) -> None:
        sandbox.faults.append(Fault(kind, endpoint="media.upload_append", nth=3, processed=kind == "cut"))
        media = await client.media.upload(content, category="dm_video")
        assert sandbox.media[media.id].content == content
        uploads = [one for one in sandbox.requests if one.path == "/1.1/media/upload.json" and one.method == "POST"]
        assert len(uploads) == 1 + 5 + 1 + 1, "one segment was sent twice"

    quickly(main)


def test_fault_43_processing_that_fails_or_takes_too_long() -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        with pytest.raises(MediaFailed, match="InvalidMedia: Unsupported video format") as caught:
            await client.media.upload(MP4.replace(b"mp42", b"fail", 1), category="dm_video")
        assert caught.value.media_id in sandbox.media
        with pytest.raises(MediaFailed, match=r"not processed it after 0\.005 s"):
            await client.media.upload(MP4, category="dm_video", processing_timeout=0.005)

    quickly(main)


@pytest.mark.parametrize("media_api", ["v1.1", "v2"])
def test_fault_101_processing_that_stays_in_progress_with_an_error_is_a_failure(media_api: str) -> None:
    """It has been seen to stay at 99 % for ever."""

    async def main(client: Client, sandbox: Sandbox) -> None:
        with pytest.raises(MediaFailed, match="InternalError: Could not process the media"):
            await client.media.upload(MP4.replace(b"mp42", b"stuc", 1), category="dm_video", processing_timeout=10**6)
        assert len([one for one in sandbox.requests if one.method == "GET"]) == 2

    quickly(main, media_api=media_api)


@pytest.mark.parametrize(
    "brand", [b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"M4A ", b"M4B ", b"crx ", b"jp2 "]
)
async def test_fault_101_pictures_and_sound_in_a_film_s_box_are_no_films(
    brand: bytes, client: Client, sandbox: Sandbox
) -> None:
    with pytest.raises(InvalidInput, match="nor an MP4 or MOV film"):
        await client.media.upload(b"\0\0\0\x18ftyp" + brand + b"\0" * 100, category="dm_video")
    assert not sandbox.requests


async def test_fault_101_the_sandbox_takes_no_picture_for_a_film(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twdm_async.resources.media.checked_type", lambda *_: "video/mp4")
    with pytest.raises(BadRequest, match="media type unrecognized"):
        await client.media.upload(b"\0\0\0\x18ftypheic" + b"\0" * 100, category="dm_video")


def test_fault_101_downloads_keep_to_what_users_of_an_app_were_let_have() -> None:
    """Fifty in a quarter of an hour, over all accounts of the app."""
    (quota,) = QuotaTable.default()["direct_messages.download"].quotas
    assert (quota.limit, quota.per, quota.scope) == (50, 900.0, Scope.APP)


@pytest.mark.parametrize("length", [250, 300])
async def test_fault_101_a_name_that_is_too_long_is_bad_input(client: Client, tmp_path: Path, length: int) -> None:
    path = tmp_path / ("x" * length)
    with pytest.raises(InvalidInput, match=r"source: .* cannot be read|source: .* is not"):
        await client.media.upload(path)
    media = await client.media.upload(PNG, category="dm_image")
    sent = await client.direct_messages.send(5, "here", attachment=media)
    received = await client.direct_messages.get(str(sent.id))
    assert isinstance(received.attachment, MessageMedia)
    if length < 256:  # a name may be as long as that
        assert await client.direct_messages.download(received.attachment, path) == len(PNG)
        assert path.read_bytes() == PNG
        return
    with pytest.raises(InvalidInput, match="path: cannot be written: File name too long"):
        await client.direct_messages.download(received.attachment, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("said", "seconds"), [(0, 1.0), (-5, 1.0), (None, 5.0), (7, 7), (10**9, 60.0)])
def test_fault_43_an_odd_time_to_check_after(said: int | None, seconds: float) -> None:
    assert _check_after(said) == seconds


@pytest.mark.parametrize(
    ("source", "options", "problem"),
    [(b"", {}, "empty"), (b"text, not a film, by its bytes", {}, "first bytes"), (MP4, {}, "category: is needed"),
     (MP4, {"category": "dm_image"}, "does not take"), (PNG, {"category": "dm_video"}, "does not take"),
     (PNG, {"category": "dm_gif"}, "does not take"), (PNG, {"category": "DmImage"}, "must be one of"),
     (PNG + b"\0" * 5_300_000, {}, "may have"), (GIF + b"\0" * 16_000_000, {"category": "dm_gif"}, "may have"),
     ("a.png", {}, "cannot be read: No such file"), (io.StringIO("x"), {}, "file of bytes"), (5, {}, "must be a path"),
     (PNG, {"size": -1}, "size"), (PNG, {"processing_timeout": -1}, "processing_timeout")],
    ids=range(14),
)  # fmt: skip
async def test_fault_43_bad_files(client: Client, sandbox: Sandbox, source: Any, options: Any, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        await client.media.upload(source, **options)
    assert not sandbox.requests


async def test_an_iterator_must_say_how_long_it_is_and_be_right(client: Client, sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInput, match="size"):
        await client.media.upload(pieces(PNG, 5))
    with pytest.raises(InvalidInput, match="bytes"):
        await client.media.upload(strings(), size=5)
    assert not sandbox.requests
    for size in (len(PNG) - 1, len(PNG) + 1):
        with pytest.raises(InvalidInput, match="changed"):
            await client.media.upload(pieces(PNG, 5), size=size)
    assert not sandbox.requests


async def test_an_iterator_without_end_is_not_read_to_its_end(client: Client) -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 1000:
            given += 1
            yield PNG

    with pytest.raises(InvalidInput, match="changed"):
        await client.media.upload(endless(), size=3 * len(PNG))
    assert given < 10


async def strings() -> AsyncIterator[Any]:
    yield "text"


async def test_fault_43_a_film_that_shrinks_while_it_is_read(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(film(3 * SEGMENT))

    def shrink(_: UploadProgress) -> None:
        with path.open("r+b") as file:
            file.truncate(SEGMENT + 5)

    with pytest.raises(InvalidInput, match="changed"):
        await client.media.upload(path, category="dm_video", progress=shrink)


@pytest.mark.slow
async def test_cancel_leaves_no_task(client: Client, sandbox: Sandbox) -> None:
    before = asyncio.all_tasks()
    sandbox.faults.append(Fault("silence", endpoint="media.upload_append", nth=2))
    sent = asyncio.Event()
    task = asyncio.ensure_future(
        client.media.upload(film(4 * SEGMENT), category="dm_video", progress=lambda _: sent.set())
    )
    await sent.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.close(timeout=0.1)
    left = [one for one in asyncio.all_tasks() - before if "sandbox" not in repr(one) and "web" not in repr(one)]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("media_api", ["v1.1", "v2"])
@pytest.mark.parametrize("kind", ["reset", "503", "half_json"])
def test_a_lost_answer_to_the_last_step_is_asked_for(media_api: str, kind: str) -> None:
    async def main(client: Client, sandbox: Sandbox) -> None:
        name = "media.upload_finalize" if media_api == "v1.1" else "media_v2.finalize"
        sandbox.faults.append(Fault(kind, endpoint=name, nth=1, processed=True))
        media = await client.media.upload(film(SEGMENT), category="dm_video")
        assert sandbox.media[media.id].is_ready
        assert media.size == SEGMENT

    quickly(main, media_api=media_api)


async def test_a_pipe_is_not_opened(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="pipe is not a regular file"):
        await client.media.upload(tmp_path / "pipe")


async def test_an_unknown_back_end(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInput, match="media_api"):
        Client(sandbox.credentials, media_api="v3")  # type: ignore[arg-type]  # that is what is tested


async def test_segments_that_are_refused(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("errors_texts", endpoint="media.upload_finalize"))
    with pytest.raises(Exception, match="something is wrong"):
        await client.media.upload(MP4, category="dm_video")
    with pytest.raises(NotFound):
        await client._caller.call(
            "media.upload_status", {"command": "STATUS", "media_id": (await client.media.upload(PNG)).id}, type(None)
        )


_UPLOAD = """
import asyncio, re, resource, sys
from pathlib import Path
from twdm_async import Client, Credentials

def most():
    # Bytes of memory this process ever had; on Linux, getrusage also knows of what its parent had.
    if sys.platform == "linux":
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main():
    keys = Credentials(consumer_key=sys.argv[3], consumer_secret=sys.argv[4], access_token=sys.argv[5], access_token_secret=sys.argv[6])
    async with Client(keys, api_url=sys.argv[1], upload_url=sys.argv[1]) as client:
        await client.account.verify_credentials()  # all is loaded now
        before = most()
        media = await client.media.upload(Path(sys.argv[2]), category="dm_video")
        print(media.id, most() - before)

asyncio.run(main())
"""


@pytest.mark.soak
@pytest.mark.parametrize("size", [pytest.param(200 * 1024 * 1024, marks=pytest.mark.soak), 40 * 1024 * 1024])
async def test_a_large_film_takes_little_memory(tmp_path: Path, sandbox: Sandbox, size: int) -> None:
    """A process of its own uploads it, and says by how much its memory grew at the most."""
    path = tmp_path / "film"
    with path.open("wb") as file:
        file.write(film(3_000_000))
        file.truncate(size)
    sandbox.faults.append(Fault("reset", endpoint="media.upload_append", nth=12, processed=False))
    keys = sandbox.credentials
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _UPLOAD, sandbox.url, str(path), keys.consumer_key, keys.consumer_secret,
        keys.access_token, keys.access_token_secret, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    media_id, grown = out.decode().split()
    print(f"{size / 2**20:.0f} MB in segments took {int(grown) / 2**20:.1f} MB of memory")  # noqa: T201 - a measurement
    assert int(grown) < 30 * 2**20
    stored = sandbox.media[media_id]
    assert stored.size == size
    assert len([one for one in sandbox.requests if one.fault]) == 1
