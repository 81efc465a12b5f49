"""Reads the body of a request: a form, files, or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web

from twdm_async.sandbox.call import Call, Upload
from twdm_async.sandbox.refusal import Refusal

if TYPE_CHECKING:
    from twdm_async.sandbox.records import StoredAccount

LARGEST_BODY: Final = 20 * 1024 * 1024
_FORM: Final = "application/x-www-form-urlencoded"


class Body:
    """A request's body. `form` is the encoded form that the signature covers; `raw` has the bytes of a body that is not
    multipart; `fields` and `files` are the decoded parts.
    """

    def __init__(self) -> None:
        self.form = ""
        self.raw = b""
        self.fields: dict[str, str] = {}
        self.files: dict[str, Upload] = {}


async def read_body(request: web.Request) -> Body:
    try:
        return await _parts_of(request)
    except ValueError:  # no boundary between the parts, or bytes that are not UTF-8
        raise Refusal(400, 214, "Could not parse the request.") from None


async def _parts_of(request: web.Request) -> Body:
    body = Body()
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise Refusal(400, 214, "Could not parse the request.")
            content = bytes(await part.read())
            if len(content) > LARGEST_BODY:
                raise Refusal(413, 324, "File size exceeds the maximum.")
            text = None if part.filename is not None else _text(content)
            if text is not None:
                body.fields[part.name] = text
            else:
                content_type = part.headers.get("Content-Type", "application/octet-stream")
                body.files[part.name] = Upload(content, content_type)
        return body
    body.raw = await request.read()
    if request.content_type == _FORM:
        body.form = body.raw.decode("latin-1")
        body.fields = dict(parse_qsl(body.raw.decode(), keep_blank_values=True))
    return body


def recipient_named(body: Body) -> str | None:
    """Return the user id of the recipient that a request names, if it names one."""
    if body.raw and not body.form:
        try:
            return str(json.loads(body.raw)["event"]["message_create"]["target"]["recipient_id"])
        except (ValueError, RecursionError, TypeError, KeyError):
            return None
    return body.fields.get("recipient_id")


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:  # a binary part without a file name counts as a file
        return None


def call_of(request: web.Request, body: Body, account: StoredAccount, url: str) -> Call:
    document: Any = None
    if body.raw and not body.form:
        try:
            document = json.loads(body.raw)
            if b"\\u" in body.raw:
                json.dumps(document, ensure_ascii=False).encode()  # raises if there is a lone surrogate
        except (ValueError, RecursionError):
            raise Refusal(400, 214, "Could not parse the request as JSON.") from None
    fields = {**request.query, **body.fields}
    return Call(account, url, request.match_info, fields, document, body.files)
