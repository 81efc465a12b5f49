"""Faults between a server and its clients, which the sandbox injects on demand."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from attrs import Attribute, define, evolve, field, frozen, validators

from twdm_async._json import is_object
from twdm_async._numbers import checked_count, checked_number, valid
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_id
from twdm_async.quota.spec import QuotaTable

if TYPE_CHECKING:
    from collections.abc import Sequence


@frozen
class Reply:
    """An HTTP reply, either the true one or the one that a fault makes of it. `chance` is the random generator for
    faults that need one, and `asked` has the headers of the request.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    chance: random.Random = field(factory=random.Random, repr=False)
    asked: Mapping[str, str] = field(factory=dict[str, str], repr=False)

    def as_bytes(self, *more: str) -> bytes:
        """Return the bytes to send. `more` are further header lines."""
        headers = {"Content-Length": str(len(self.body)), "Connection": "close", **self.headers}
        lines = [f"HTTP/1.1 {self.status} Sandbox", *(f"{name}: {value}" for name, value in headers.items()), *more]
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body


_Change = Callable[[Reply], bytes]

_PROXY_STATUSES: Final = (101, 403, 407, 413, 418, 421, 425, 431, 451)
_REPEATED_AFTER: Final = 0.01  # seconds
_HTML: Final = b"<!DOCTYPE html><html><body><h1>Over capacity</h1></body></html>"
_LIMITED: Final = b'{"errors":[{"code":88,"message":"Rate limit exceeded"}]}'


def _instead(status: int, body: bytes = b"", **headers: str) -> _Change:
    """Return a change that sends another reply in place of the true one."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply: Reply(status, {"Date": reply.headers["Date"], **named}, body).as_bytes()


def _body(change: Callable[[bytes], bytes], **headers: str) -> _Change:
    """Return a change that sends the true reply with another body, and with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply: evolve(reply, headers={**reply.headers, **named}, body=change(reply.body)).as_bytes()


def _object(change: Callable[[dict[str, Any]], object]) -> _Change:
    """Return a change that sends the true reply with its JSON object changed: the first object within the document, or
    the document itself.
    """

    def changed(body: bytes) -> bytes:
        document: dict[str, Any] = json.loads(body or b"{}")
        change(next(filter(is_object, document.values()), document))
        return json.dumps(document).encode()

    return _body(changed)


def _head(**headers: str) -> _Change:
    """Return a change that sends the true reply with these headers added or replaced."""
    return _body(lambda body: body, **headers)


def _gzipped(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return packer.compress(content) + packer.flush()


def _chunked_then_garbage(reply: Reply) -> bytes:
    head = evolve(reply, body=b"", headers={**reply.headers, "Transfer-Encoding": "chunked"}).as_bytes()
    head = head.replace(b"Content-Length: 0\r\n", b"")
    return head + b"%x\r\n%s\r\n0\r\n\r\n\x00\xffgarbage" % (len(reply.body), reply.body)


def _without_date(reply: Reply) -> bytes:
    return evolve(reply, headers={name: value for name, value in reply.headers.items() if name != "Date"}).as_bytes()


def _with_date_ahead(reply: Reply) -> bytes:
    date = parsedate_to_datetime(reply.headers["Date"]) + timedelta(hours=1)
    return evolve(reply, headers={**reply.headers, "Date": format_datetime(date, usegmt=True)}).as_bytes()


def _listing(change: Callable[[list[Any]], list[Any]]) -> _Change:
    """Return a change that sends the true list with its messages changed."""

    def changed(body: bytes) -> bytes:
        document: dict[str, Any] = json.loads(body or b"{}")
        document["events"] = change(document.get("events", []))
        return json.dumps(document).encode()

    return _body(changed)


def _with_holes(reply: Reply) -> bytes:
    """Leave out about half of the messages, at random each time."""
    return _listing(lambda events: [event for event in events if reply.chance.random() < 0.5])(reply)


def _with_old_head(events: list[Any]) -> list[Any]:
    """Put a message a week older than the oldest one at the top."""
    if not events:
        return events
    old = {**events[-1], "id": "1", "created_timestamp": str(int(events[-1]["created_timestamp"]) - 7 * 86_400_000)}
    return [old, *events]


def _of_another(body: bytes) -> bytes:
    """Return the answer to a message to another person."""
    document: dict[str, Any] = json.loads(body or b"{}")
    create = document.get("event", {}).get("message_create")
    if is_object(create):
        create["target"] = {"recipient_id": "1"}
    return json.dumps(document).encode()


def _echoing(reply: Reply) -> bytes:
    """Return a refusal that repeats the headers of the request: each header whole, and each part of a value by
    itself.
    """
    told = [f"{name}: {value}" for name, value in reply.asked.items()]
    told += [part.strip(' "') for value in reply.asked.values() for part in value.replace("=", ",").split(",")]
    errors = [{"code": 9999, "message": f"Something is wrong with {words}."} for words in told]
    body = json.dumps({"errors": errors}).encode()
    return Reply(400, {"Date": reply.headers["Date"], "Content-Type": _JSON}, body).as_bytes()


def _refusing(status: int, code: int, message: str) -> _Change:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return _instead(status, body, Content_Type=_JSON)


_JSON: Final = "application/json;charset=utf-8"

_REPLIES: Final[dict[str, _Change]] = {
    "not_http": lambda _: b"\x15\x03\x01\x00\x02\x02\x28 this is not HTTP\r\n\r\n",
    "http_1_0": lambda reply: reply.as_bytes().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "large_header": lambda reply: reply.as_bytes(f"X-Large: {'x' * 20_000}"),
    "many_headers": lambda reply: reply.as_bytes(*(f"X-{number}: {number}" for number in range(1000))),
    "two_lengths": lambda reply: reply.as_bytes(f"Content-Length: {len(reply.body) + 1}"),
    "chunked_then_garbage": _chunked_then_garbage,
    "large_body": _body(lambda body: body + b" " * (9 * 1024 * 1024)),
    "gzip_bomb": _body(lambda body: _gzipped(body + b" " * (64 * 1024 * 1024)), Content_Encoding="gzip"),
    "broken_gzip": _body(lambda body: _gzipped(body)[:-9] + b"no gzip", Content_Encoding="gzip"),
    "proxy_html": _instead(200, _HTML, Content_Type="text/html"),
    "500": _refusing(500, 131, "Internal error"),
    "502": _instead(502, _HTML, Content_Type="text/html"),
    "503": _refusing(503, 130, "Over capacity"),
    "503_html": _instead(503, _HTML, Content_Type="text/html"),
    "504": _instead(504, b"", Content_Type="text/html"),
    "json_as_html": _head(Content_Type="text/html;charset=utf-8"),
    "html_as_json": _body(lambda _: _HTML),
    "empty": _body(lambda _: b""),
    "204": _instead(204),
    "204_with_body": lambda reply: evolve(reply, status=204).as_bytes(),
    "half_json": _body(lambda body: body[: len(body) // 2]),
    "bom": _body(lambda body: b"\xef\xbb\xbf" + body),
    "nan": _body(lambda body: body[:-1] + b',"x":NaN}'),
    "deep": _body(lambda body: body[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "long_number": _body(lambda body: body[:-1] + b',"x":' + b"9" * 5000 + b"}"),
    "duplicate_keys": _body(lambda body: body[:-1] + b',"x":1,"x":2}'),
    "no_id": _object(lambda inner: inner.pop("id", None)),
    "number_id": _object(lambda inner: inner.update(id=int(inner["id"])) if "id" in inner else None),
    "unknown_fields": _object(lambda inner: inner.update(a_field_of_tomorrow={"a": [1, None]})),
    "errors_with_200": _refusing(200, 131, "Internal error"),
    "remaining_negative": _head(x_rate_limit_remaining="-1", x_rate_limit_reset="99999999999"),
    "remaining_text": _head(x_rate_limit_remaining="abc", x_rate_limit_reset="soon"),
    "remaining_empty": _head(x_rate_limit_remaining="", x_rate_limit_reset=""),
    "remaining_list": _head(x_rate_limit_remaining="1, 2", x_rate_limit_reset="1, 2"),
    "remaining_high": _head(x_rate_limit_remaining="1000000", x_rate_limit_reset="99999999999"),
    "already_said": _refusing(403, 151, "There was an error sending your message: Whoops! You already said that."),
    "eventless": _instead(200, b'{"event":{}}', Content_Type=_JSON),
    "another_s_answer": _body(_of_another),
    "list_empty": _body(lambda _: b'{"events":[]}'),
    "list_holes": _with_holes,
    "list_old_head": _listing(_with_old_head),
    "list_reversed": _listing(lambda events: events[::-1]),
    "cursor_repeats": _body(lambda body: json.dumps(json.loads(body or b"{}") | {"next_cursor": "MTIz"}).encode()),
    "no_date": _without_date,
    "date_ahead": _with_date_ahead,
    "date_far": _head(Date="Fri, 31 Dec 9999 23:59:59 -0500"),
    "date_utc": lambda reply: evolve(
        reply, headers={**reply.headers, "Date": reply.headers["Date"].replace("GMT", "UTC")}
    ).as_bytes(),
}

_REFUSALS: Final[dict[str, _Change]] = {
    **{f"proxy_{status}": _instead(status, _HTML, Content_Type="text/html") for status in _PROXY_STATUSES},
    "proxy_policy": _instead(403, b'{"error":"blocked by policy"}', Content_Type=_JSON),
    "404_page": _refusing(404, 34, "Sorry, that page does not exist."),
    "420": _instead(420, b"", Content_Type="text/html"),
    "automated": _refusing(403, 226, "This request looks like it might be automated."),
    "locked": _refusing(403, 326, "To protect our users from spam, this account is temporarily locked."),
    "not_following": _refusing(403, 326, "You are sending a Direct Message to users that do not follow you."),
    "verified_only": _refusing(403, 476, "This person takes requests from verified accounts only."),
    "no_such_user": _refusing(404, 108, "Cannot find specified user."),
    "headers_echoed": _echoing,
    "unknown_code": _refusing(403, 9999, "Something new."),
    "no_errors": _instead(400, b'{"errors":[]}', Content_Type=_JSON),
    "two_codes": _instead(
        403, b'{"errors":[{"code":150,"message":"a"},{"code":349,"message":"b"}]}', Content_Type=_JSON
    ),
    "text_code": _instead(403, b'{"errors":[{"code":"349","message":"no"}]}', Content_Type=_JSON),
    "error_text": _instead(400, b'{"error":"media type unrecognized."}', Content_Type=_JSON),
    "errors_texts": _instead(400, b'{"errors":["something is wrong"]}', Content_Type=_JSON),
    "problem": _instead(
        403, b'{"title":"Forbidden","detail":"no","type":"about:blank","status":403}', Content_Type=_JSON
    ),
    "redirect": _instead(302, b"", Location="/1.1/elsewhere.json"),
    "redirect_elsewhere": _instead(301, b"", Location="https://example.com/"),
    "redirect_loop": _instead(307, b"", Location="/1.1/direct_messages/events/new.json"),
    "401_clock": _refusing(401, 135, "Timestamp out of bounds."),
    "401_signature": _refusing(401, 32, "Could not authenticate you."),
    "401_token": _refusing(401, 89, "Invalid or expired token."),
    "429": _instead(429, _LIMITED, Content_Type=_JSON),
    "429_past_reset": _instead(429, _LIMITED, x_rate_limit_remaining="0", x_rate_limit_reset="1000000000"),
    "429_far_reset": _instead(429, _LIMITED, x_rate_limit_remaining="0", x_rate_limit_reset="99999999999999"),
    "429_retry_after_date": _instead(429, _LIMITED, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
    "429_retry_after_negative": _instead(429, _LIMITED, Retry_After="-5"),
    "429_retry_after_inf": _instead(429, _LIMITED, Retry_After="inf"),
    "429_retry_after_huge": _instead(429, _LIMITED, Retry_After="1e400"),
}
"""Refusals: a real server that sends one of these has not carried out the request."""

REPEATS: Final = frozenset({"half_repeated", "repeated"})
_BREAKS: Final = REPEATS | {"close", "cut", "drip", "reset", "silence"}

KINDS: Final = (*sorted(_BREAKS), *_REPLIES, *_REFUSALS)
"""Every kind of fault. Faults of the connection come first: ``close``, ``cut`` (a reset within the body), ``drip`` (a
byte a second), ``half_repeated`` (half of the reply's head is sent again, after the reply was read), ``repeated`` (the
whole reply is sent again), ``reset``, ``silence``."""


def _kinds(kinds: str | Sequence[str]) -> tuple[str, ...]:
    return (kinds,) if isinstance(kinds, str) else tuple(kinds)


def _known(_: object, attribute: Attribute[tuple[str, ...]], kinds: tuple[str, ...]) -> None:
    if not kinds or not set(kinds) <= set(KINDS):
        raise InvalidInput(parameter=attribute.name, problem=f"must be one or more of {', '.join(KINDS)}")


def _an_endpoint(_: object, attribute: Attribute[str | None], endpoint: str | None) -> None:
    if endpoint is not None and endpoint not in QuotaTable.default():
        raise InvalidInput(parameter=attribute.name, problem="must be an endpoint's name, such as direct_messages.send")


def _yes_or_no(_: object, attribute: Attribute[bool | None], value: bool | None) -> None:
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(parameter=attribute.name, problem="must be a bool, or None")


def _an_id(value: str | int | None) -> str | None:
    return None if value is None else checked_id(value, "recipient_id")


@define
class Fault:
    """A fault to inject, and the requests that it affects. Give it to the sandbox:
    ``Sandbox(faults=[Fault("reset", nth=3)])``.

    Args:
        kinds: one of :data:`twdm_async.sandbox.faults.KINDS`, or several, of which one is drawn each time.
        endpoint: affect only requests to this endpoint; all endpoints if not given.
        nth: affect only the nth of the matching requests, counted from 1; all of them if not given.
        probability: the probability with which a matching request is affected, from 0 to 1.
        recipient_id: affect only requests that name this person as the recipient.
        processed: whether the request is carried out before the fault, so that the client cannot know the outcome. If
            not given, it is, unless the fault is a refusal.

    Raises:
        InvalidInput: a kind or the endpoint is unknown, `nth` is not a positive whole number, `probability` is not from
            0 to 1, `recipient_id` is not a numeric id, or `processed` is not a bool.
    """

    kinds: tuple[str, ...] = field(converter=_kinds, validator=_known)
    endpoint: str | None = field(default=None, validator=_an_endpoint, kw_only=True)
    nth: int | None = field(default=None, validator=validators.optional(valid(checked_count)), kw_only=True)
    probability: float = field(default=1.0, validator=valid(checked_number, 0, 1), kw_only=True)
    processed: bool | None = field(default=None, validator=_yes_or_no, kw_only=True)
    recipient_id: str | None = field(default=None, converter=_an_id, kw_only=True)
    _seen: int = field(default=0, init=False, repr=False)

    def draw(self, endpoint: str, chance: random.Random, recipient_id: str | None = None) -> tuple[str, bool] | None:
        """Draw whether this fault affects the next request to `endpoint`. Return the kind, and whether the request is
        carried out first; ``None`` if the request is not affected.
        """
        if self.endpoint not in {None, endpoint} or self.recipient_id not in {None, recipient_id}:
            return None
        self._seen += 1
        if self.nth not in {None, self._seen} or chance.random() >= self.probability:
            return None
        kind = chance.choice(self.kinds)
        return kind, kind not in _REFUSALS if self.processed is None else self.processed


def repeat_soon(kind: str, reply: Reply, transport: asyncio.Transport) -> None:
    """Send `reply`, or for ``half_repeated`` half of its head, over this connection once more, a moment after the true
    reply.
    """
    raw = reply.as_bytes().replace(b"Connection: close\r\n", b"", 1)
    if kind == "half_repeated":
        raw = raw[: raw.index(b"\r\n\r\n") // 2]
    asyncio.get_running_loop().call_later(_REPEATED_AFTER, transport.write, raw)


async def commit(kind: str, reply: Reply, transport: asyncio.Transport) -> None:
    """Inject a fault of this kind on this connection, and close the connection."""
    change = _REPLIES.get(kind) or _REFUSALS.get(kind)
    if change is not None:
        transport.write(change(reply))
        transport.close()
        return
    whole = reply.as_bytes()
    if kind == "cut":
        transport.write(whole[: -max(1, len(reply.body) // 2)])
        await asyncio.sleep(0.01)  # so that these bytes leave before the reset
    elif kind == "drip":
        for place in range(len(whole)):
            if not transport.is_closing():
                transport.write(whole[place : place + 1])
                await asyncio.sleep(1.0)
    elif kind == "silence":
        while not transport.is_closing():  # noqa: ASYNC110 - a transport has no event for its end
            await asyncio.sleep(0.5)
    if kind in {"reset", "cut"}:
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
