"""One request that was let in, and what it is answered; and what all calls check alike."""

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
    """A request that was let in.

    Args:
        account: whose it is.
        url: of the sandbox, to make addresses from.
        path: what the path's placeholders matched.
        fields: of query and form together.
        json: the body, if it is JSON.
        files: of a multipart body.
    """

    account: StoredAccount
    url: str
    path: Mapping[str, str]
    fields: Mapping[str, str]
    json: Any
    files: Mapping[str, Upload]


@frozen
class Answer:
    """``None`` as the body is an empty one; bytes are a file."""

    body: Json | bytes | None
    status: int = 200
    content_type: str = "application/json"


def object_at(parent: Any, key: str, path: str = "") -> Json:
    """The object `key` of `parent`.

    Raises:
        Refusal: there is none.
    """
    value = parent.get(key) if is_object(parent) else None
    if not is_object(value):
        raise invalid(f"{path}{key}", "is missing or not an object")
    return value


def whole_number(text: str, name: str, *, most: int, least: int = 1) -> int:
    """The number that `text` spells.

    Raises:
        Refusal: it is none, or too large.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not least <= int(text) <= most:
        raise invalid(name, f"must be a number from {least} to {most}")
    return int(text)


def checked_long(value: Any, name: str) -> str:
    """An id, which may be a number.

    Raises:
        Refusal: it is none.
    """
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise invalid(name, f"{text} is not a valid Long")
    return text


def page_of(call: Call, items: Sequence[tuple[str, T]], *, newest_first: bool) -> tuple[list[T], str | None]:
    """One page of a list, and the cursor of the next one.

    Args:
        call: with ``count`` and ``cursor``.
        items: with their ids, the oldest first.
        newest_first: how the list runs.
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
