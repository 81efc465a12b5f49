"""A call (a request that was authenticated), its answer, and checks that several calls share."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from attrs import field, frozen

from twdm_async._json import is_object
from twdm_async.sandbox.records import StoredAccount
from twdm_async.sandbox.refusal import invalid

Json = dict[str, Any]
T = TypeVar("T")


@frozen
class Upload:
    """A file in a multipart body."""

    content: bytes = field(repr=False)
    content_type: str


@frozen
class Call:
    """An authenticated request.

    Args:
        account: the account that signed it.
        url: the URL of the sandbox, from which links are made.
        path: the values of the path's placeholders.
        fields: the fields of query and form together; a form field wins over a query parameter of the same name.
        json: the body, if it is JSON.
        files: the files of a multipart body, by field name.
    """

    account: StoredAccount
    url: str
    path: Mapping[str, str]
    fields: Mapping[str, str]
    json: Any
    files: Mapping[str, Upload]


@frozen
class Answer:
    """The answer to a call. A `body` of ``None`` means an empty body; bytes are the content of a file."""

    body: Json | bytes | None
    status: int = 200
    content_type: str = "application/json"


def object_at(parent: Any, key: str, path: str = "") -> Json:
    """Return the JSON object `key` of `parent`. `path` is the path of `parent`, for the refusal.

    Raises:
        Refusal: `key` is missing or not an object.
    """
    value = parent.get(key) if is_object(parent) else None
    if not is_object(value):
        raise invalid(f"{path}{key}", "is missing or not an object")
    return value


def whole_number(text: str, name: str, *, most: int, least: int = 1) -> int:
    """Return `text` as a whole number.

    Raises:
        Refusal: `text` is not a whole number from `least` to `most`.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not least <= int(text) <= most:
        raise invalid(name, f"must be a number from {least} to {most}")
    return int(text)


def checked_long(value: Any, name: str) -> str:
    """Return an id as a string. `value` may be a number.

    Raises:
        Refusal: `value` is not a 64-bit numeric id.
    """
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise invalid(name, f"{text} is not a valid Long")
    return text


def page_of(call: Call, items: Sequence[tuple[str, T]], *, newest_first: bool) -> tuple[list[T], str | None]:
    """Return one page of a list, and the cursor of the next page (``None`` if there is none).

    Args:
        call: the call, whose fields ``count`` and ``cursor`` select the page.
        items: the items with their ids, oldest first.
        newest_first: whether the list begins with the newest item.

    Raises:
        Refusal: ``count`` is not a number from 1 to 50, or ``cursor`` is not valid.
    """
    count = whole_number(call.fields.get("count", "20"), "count", most=50)
    after = _decode_cursor(call.fields["cursor"]) if "cursor" in call.fields else None
    if newest_first:
        left = [item for item in reversed(items) if after is None or int(item[0]) < after]
    else:
        left = [item for item in items if after is None or int(item[0]) > after]
    page = left[:count]
    # A full page has a cursor even if nothing follows, so the last page may be empty.
    cursor = _encode_cursor(page[-1][0]) if len(page) == count else None
    return [item for _, item in page], cursor


def _encode_cursor(last_id: str) -> str:
    return base64.b64encode(last_id.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor + "=" * (-len(cursor) % 4), validate=True))
    except ValueError:
        raise invalid("cursor", "is not valid") from None
