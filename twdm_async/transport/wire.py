"""Encoding of requests and reading of replies, without any I/O: from arguments to a request, and from a reply to a
model or an error.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, unquote

from attrs import define, evolve, field, frozen

from twdm_async import errors
from twdm_async._json import is_array, is_object
from twdm_async.endpoints import Encoding, Endpoint, Host
from twdm_async.models.convert import structure
from twdm_async.models.texts import unescaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from twdm_async.models.direct_messages import DirectMessage

try:
    import orjson as _orjson
except ImportError:
    _orjson = None  # type: ignore[assignment, unused-ignore]  # it is an extra

T = TypeVar("T")

JSON: Final = "application/json"

LARGEST_REPLY: Final = 8 * 1024 * 1024
"""Bytes. A longer reply is not read to its end."""


@frozen
class File:
    """One file in a multipart body."""

    content: bytes = field(repr=False)
    content_type: str


@frozen
class Message:
    """The message that a call sends: facts that its errors tell, and texts that its errors must not repeat.

    Args:
        recipient_id: the recipient's user id; ``None`` for a welcome message.
        custom_profile_id: the profile it is sent under; ``None`` for the account's own name and picture.
        text: its text.
        content: its attachment, quick replies and buttons, as JSON; empty if it has none.
    """

    recipient_id: str | None = None
    custom_profile_id: str | None = None
    text: str | None = field(default=None, repr=False)
    content: str = field(default="", repr=False)


@define(eq=False)
class Sink:
    """The target of a file that is read in pieces.

    Args:
        target: the file object to write to, from its beginning.
        most: how many bytes the file may have.
        size: how many bytes were written so far.
        is_whole: whether the whole file was written.
    """

    target: BinaryIO
    most: int
    size: int = 0
    is_whole: bool = False

    def begin(self) -> None:
        """Empty the target: the file is read from its beginning, perhaps once more."""
        self.target.seek(0)
        self.target.truncate()
        self.size, self.is_whole = 0, False

    def write(self, piece: bytes) -> None:
        """Write the next piece.

        Raises:
            MediaFailed: the file has more than `most` bytes.
            OSError: `target` cannot be written.
        """
        self.size += len(piece)
        if self.size > self.most:
            raise errors.MediaFailed(endpoint="direct_messages.download", problem=f"it has more than {self.most} bytes")
        self.target.write(piece)


@define(eq=False)
class Request:
    """A call, ready to be signed and sent any number of times.

    Args:
        endpoint: the endpoint's row in the table.
        host: scheme and host.
        path: the path, percent-encoded.
        query: the encoded query, without ``?``; empty if there is none.
        signed: the parameters, as they were before encoding, that are part of the signature.
        body: the encoded body, or the fields of a multipart body.
        content_type: the content type of `body`, unless it is multipart.
        message: the message that the request sends, if it sends one.
        sink: where the body of the answer is written, if it is a file.
    """

    endpoint: Endpoint
    host: str
    path: str
    query: str = field(default="", repr=False)
    signed: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | Mapping[str, str | File] = field(default=b"", repr=False)
    content_type: str | None = None
    message: Message | None = None
    sink: Sink | None = None

    @property
    def url(self) -> str:
        """Scheme, host and path."""
        return self.host + self.path

    @property
    def target(self) -> str:
        """The whole URL, query included."""
        return self.host + self.origin_form

    @property
    def origin_form(self) -> str:
        """Path and query, as the request line has them (RFC 9112)."""
        return f"{self.path}?{self.query}" if self.query else self.path


@define(eq=False)
class Reply:
    """An HTTP reply, whatever it contains."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Fault:
    """What happened instead of a reply.

    Args:
        problem: what happened, in words, without quoting anything that was sent.
        sent: whether a byte may have left the machine.
        lasting: whether another attempt would end in the same way.
    """

    problem: str
    sent: bool
    lasting: bool = False


def encode(
    endpoint: Endpoint,
    hosts: Mapping[Host, str],
    arguments: Mapping[str, Any] | bytes,
    path_id: str | None = None,
    message: Message | None = None,
) -> Request:
    """Return the request for a call.

    Args:
        endpoint: the endpoint's row in the table.
        hosts: scheme and host for each of the API's hosts.
        arguments: the JSON body, which may be encoded already; or the fields of a query, form or multipart body.
        path_id: a checked id for the path template.
        message: the message that the request sends, if it sends one.
    """
    host = hosts[endpoint.host]
    if isinstance(arguments, bytes):
        return Request(endpoint, host, endpoint.path, body=arguments, content_type=JSON, message=message)
    if endpoint.host is Host.FILES:  # the file's address came with a message, and was checked
        return Request(endpoint, host, f"/{path_id}")
    path, query = endpoint.path, ""
    signed: tuple[tuple[str, str], ...] = ()
    if path_id is not None:
        path, _, query = path.partition("?")  # only an id can stand in the query of a path
        signed = (("id", path_id),) if query else ()
        path, query = path.format(id=_escape(path_id)), query.format(id=_escape(path_id))
    match endpoint.encoding:
        case Encoding.JSON:
            body = encode_json(arguments).encode()
            return Request(endpoint, host, path, query, signed, body, JSON, message)
        case Encoding.QUERY:
            signed = tuple(arguments.items())
            return Request(endpoint, host, path, query=_urlencoded(signed), signed=signed)
        case Encoding.FORM:
            signed = tuple(arguments.items())
            content_type = "application/x-www-form-urlencoded"
            body = _urlencoded(signed).encode()
            return Request(endpoint, host, path, signed=signed, body=body, content_type=content_type)
        case Encoding.MULTIPART:
            return Request(endpoint, host, path, body=arguments)


# Made once: json.dumps with options makes a new encoder for each call.
_encoder: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


encode_text: Final[Callable[[str], str]] = json.encoder.encode_basestring
"""Return a text as JSON, as :func:`encode_json` does, in one call."""


def encode_json(value: Any) -> str:
    """Return `value` as JSON, without spaces between its parts."""
    return _encoder.encode(value)


def _escape(text: str) -> str:
    # RFC 3986: the signed form and the sent form must be escaped alike, a space as %20 and an asterisk as %2A.
    return quote(text, safe="~")


def _urlencoded(pairs: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{_escape(key)}={_escape(value)}" for key, value in pairs)


def read(endpoint: Endpoint, reply: Reply, into: type[T]) -> T:
    """Read a reply, and return the API's answer as a model.

    Args:
        endpoint: the endpoint that answered.
        reply: the reply.
        into: the model; ``None``'s type if the endpoint answers nothing.

    Raises:
        ResponseError: the API refused the request, by the status or by errors in the body.
        MalformedResponse: the reply does not have the form of this endpoint's answers.
    """
    if not 200 <= reply.status < 300:
        raise refusal(endpoint, reply)
    if endpoint.answer is None:
        if refusal(endpoint, reply).codes:
            raise refusal(endpoint, reply)
        return into()
    body = _parse(endpoint, reply)
    inner = body.get(endpoint.answer) if is_object(body) else None
    if not inner and any(code is not None for code, _ in _error_entries(body)):
        raise refusal(endpoint, reply)
    try:
        return structure(inner if inner and len(body) == 1 else _unwrapped(endpoint.answer, body), into)
    except (ValueError, TypeError, KeyError):
        problem = "the answer is not what this endpoint answers"
    raise errors.MalformedResponse(endpoint=endpoint.name, status=reply.status, problem=problem)


def _unwrapped(wrapper: str, body: Any) -> Any:
    """Return the object in `wrapper`, together with what stands beside it (such as ``apps``)."""
    if not wrapper or not is_object(body):
        return body
    inner = body.get(wrapper)
    if len(body) == 1:
        return inner
    beside = {key: value for key, value in body.items() if key != wrapper}
    return {**beside, **inner} if beside and is_object(inner) else inner


def _parse(endpoint: Endpoint, reply: Reply) -> Any:
    problem = "an empty answer"
    if reply.body:
        try:
            return load_json(_decompressed(reply))
        except (ValueError, RecursionError, zlib.error):
            problem = "an answer that is not JSON"
    raise errors.MalformedResponse(endpoint=endpoint.name, status=reply.status, problem=problem)


def _decompressed(reply: Reply) -> bytes:
    encoding = reply.headers.get("Content-Encoding")
    if encoding is None:
        return reply.body
    match encoding.lower():
        case "identity" | "":
            return reply.body
        case "gzip" | "x-gzip" | "deflate":  # not asked for, but a proxy may compress all the same
            inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            body = inflater.decompress(reply.body, LARGEST_REPLY)
            if not inflater.eof:
                raise ValueError("cut short, or larger than any reply may be")
            return body
        case _:
            raise ValueError("compressed in a way that was not asked for")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a key stands twice")
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
_scan: Callable[[str, int], tuple[Any, int]] = json.scanner.make_scanner(_decoder)  # type: ignore[attr-defined]  # no stub


def load_json(body: bytes) -> Any:
    """Parse JSON strictly.

    Raises:
        ValueError, RecursionError: `body` is not JSON, is nested too deep, or has a key twice in one object.
    """
    if _orjson is not None:
        with contextlib.suppress(ValueError):
            value = _orjson.loads(body)
            # orjson takes the last of two equal keys, and turns large integers into floats. The comparison shows both.
            if _orjson.dumps(value) == body:
                return value
    text = body.decode("utf-8")
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        value, end = None, -1
    return value if end == len(text) else _decoder.decode(text)  # there is space around it, or it is not JSON


# ---- refusals: every shape of error body, to one error of the tree ----

_UNAUTHORIZED = frozenset({32, 89, 99, 135, 215})
_UNREACHABLE = frozenset({63, 150, 349, 476})
_NOT_ALLOWLISTED = frozenset({87, 220})
_NO_ACCESS = frozenset({200, 453})
_SERVER_TROUBLE = frozenset({130, 131})
_ALREADY_SAID = 151  # this code has many other meanings, too
_DUPLICATE = 187
_DUPLICATE_WORDS = ("already said", "already sent", "duplicate")
_OF_A_FIELD = ("label", "description", "quick_reply", "ctas")  # named where a field is the duplicate
_CARRIES_PROFILE = ("custom_profiles.", "direct_messages.send", "welcome_messages.create")
_LONGEST_MESSAGE = 500
_RUN = 12  # so many letters of a text in a row are no coincidence
_KEY_RUN = 6  # the same for a key
_ESCAPED = re.compile(r"(?:\\u00|\\x|=)([0-9A-Fa-f]{2})")
_OAUTH_VALUE = re.compile(r'oauth_(?:consumer_key|token|nonce|signature)="([^"]+)"')
_LONG_WORD = re.compile(r"[A-Za-z0-9+/=%_-]{20,}")
_WRITTEN_BY_US = frozenset({"label", "description", "metadata", "url"})  # the texts of quick replies and buttons


def refusal(endpoint: Endpoint, reply: Reply) -> errors.ResponseError:
    """Return the error for a reply with a bad status, or with errors in its body."""
    try:
        body = load_json(_decompressed(reply))
    except (ValueError, RecursionError, zlib.error):
        body = None  # HTML, empty or broken: only the status counts
    entries = _error_entries(body)
    codes = tuple(code for code, _ in entries if code is not None)
    messages = tuple(message[:_LONGEST_MESSAGE] for _, message in entries if message)
    words = " ".join(messages).lower()
    cls = _class_of(endpoint, reply.status, frozenset(codes), words)
    error = cls(endpoint=endpoint.name, status=reply.status, codes=codes, messages=messages)
    return evolve(error, safe_to_retry=True) if error.subject == "intermediary" else error


def may_have_arrived(error: errors.TwdmError | None) -> bool:
    """Return whether the API refused a message because it has it already: that may be the one that was just sent."""
    if not isinstance(error, errors.ResponseError):
        return False
    words = " ".join(error.messages).lower()
    is_of_a_field = any(word in words for word in _OF_A_FIELD)
    is_said = any(word in words for word in _DUPLICATE_WORDS) and not is_of_a_field
    return _DUPLICATE in error.codes or (_ALREADY_SAID in error.codes and is_said)


def is_answer_to(message: Message, answer: DirectMessage) -> bool:
    """Return whether `answer` can be the answer to the sending of `message`: it has the same recipient and, as far as
    texts can be compared, the same text.
    """
    if answer.recipient_id != message.recipient_id:
        return False
    if answer.raw_text == message.text or not message.text or "//t.co/" in (answer.raw_text or ""):
        return True  # a text in which the API has shortened links cannot be compared
    theirs, ours = _letters(unescaped(answer.raw_text) or ""), _letters(message.text)
    return theirs == ours or not theirs or not ours


def _letters(text: str) -> str:
    """Return the letters and digits of `text`, folded: the API leaves these, whatever else it does to a text."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def without_secrets(error: errors.TwdmError, message: Message | None, authorization: str) -> errors.TwdmError:
    """Return `error` with its messages cut off where they repeat a part of the message that was sent, or of the
    request's signature.

    Args:
        error: the error.
        message: the message that the request sent, if it sent one.
        authorization: the request's ``Authorization`` header.
    """
    if not isinstance(error, errors.ResponseError) or not error.messages:
        return error
    if message is not None and error.subject == "intermediary":
        return evolve(error, messages=())  # a proxy may quote any part of what it inspects, in any form
    # The part of a token before the dash is the user id, which errors may name.
    values = [unquote(value) for value in _OAUTH_VALUE.findall(authorization)]
    secrets = [(_letters(value.rpartition("-")[2]), _KEY_RUN) for value in values]
    if message is not None:
        secrets += [(letters, _RUN) for text in _texts_of(message) if len(letters := _letters(text)) > 3]
    return evolve(error, messages=tuple(_harmless(words, secrets) for words in error.messages))


def without_long_words(words: str) -> str:
    """Return `words` without anything that may be a key. Use it where the request that they answer is not known."""
    return "…" if "oauth" in words.lower() else _LONG_WORD.sub("…", words)


def _texts_of(message: Message) -> list[str]:
    """Return the message's text, and the texts of its quick replies and buttons."""
    found = [message.text or ""]

    def look(value: Any) -> None:
        for name, inner in value.items() if is_object(value) else enumerate(value) if is_array(value) else ():
            if isinstance(inner, str) and name in _WRITTEN_BY_US:
                found.append(inner)
            look(inner)

    look(load_json(message.content.encode()) if message.content else None)
    return found


def _harmless(words: str, secrets: Sequence[tuple[str, int]]) -> str:
    """Return `words` up to where they repeat one of `secrets`, or a part of it that is no coincidence, in any form."""
    if "oauth" in words.lower() or any(_is_in(plain, secrets) for plain in _read_otherwise(words)):
        return "…"
    places = [place for place, character in enumerate(words) for _ in _letters(character)]
    starts = [_repeated_at("".join(map(_letters, words)), *secret) for secret in secrets]
    start = min((start for start in starts if start is not None), default=None)
    words = words if start is None else f"{words[: words.rfind(' ', 0, places[start]) + 1]}…"
    return without_long_words(words)


def _is_in(words: str, secrets: Sequence[tuple[str, int]]) -> bool:
    return any(_repeated_at(_letters(words), *secret) is not None for secret in secrets)


def _read_otherwise(words: str) -> list[str]:
    """Return `words` unescaped in each of the ways in which servers and proxies escape, where that makes a difference;
    and `words` backwards.
    """
    ways = [
        unquote(words),
        html.unescape(words),
        _ESCAPED.sub(lambda found: chr(int(found[1], 16)), words),
        words.replace("\\n", " "),
    ]
    return [way for way in ways if way != words] + [words[::-1]]


def _repeated_at(letters: str, secret: str, longest: int) -> int | None:
    """Return the place where `letters` repeat `secret`, or a part of it that is no coincidence; ``None`` if nowhere."""
    run = min(longest, len(secret))
    parts = {secret[place : place + run] for place in range(len(secret) - run + 1)}
    return next((place for place in range(len(letters) - run + 1) if letters[place : place + run] in parts), None)


def _error_entries(body: Any) -> list[tuple[int | None, str]]:
    """Return the (code, message) pairs of ``{"errors": [...]}``, ``{"error": ...}``, ``{"code": ...}`` or a problem
    document.
    """
    if not is_object(body):
        return []
    listed: Any = body.get("errors")
    if listed is None and "error" in body:
        listed = body["error"]
    if isinstance(listed, (str, dict)):
        entries = [_entry(listed)]
    else:
        entries = [_entry(item) for item in listed] if is_array(listed) else []
    if _code(body.get("code")) is not None and isinstance(body.get("message"), str):
        entries.append(_entry(body))
    if "detail" in body or "title" in body:  # application/problem+json
        words = ": ".join(value for value in (body.get("title"), body.get("detail")) if isinstance(value, str))
        is_problem = isinstance(body.get("type"), str) or isinstance(body.get("status"), int)
        if is_problem and words:
            entries.insert(0, (None, words))
    return entries


def _entry(item: Any) -> tuple[int | None, str]:
    if not is_object(item):
        return None, item if isinstance(item, str) else ""
    code, message = item.get("code"), item.get("message") or item.get("detail")
    return _code(code), message if isinstance(message, str) else ""


def _code(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _class_of(endpoint: Endpoint, status: int, codes: frozenset[int], words: str) -> type[errors.ResponseError]:
    # The API uses one code, and sometimes one status, for several things; so a plain code counts before the status.
    if status in {420, 429} or 88 in codes:
        return errors.RateLimited
    if status == 401 or codes & _UNAUTHORIZED:
        return errors.Unauthorized
    if status >= 500 or codes & _SERVER_TROUBLE:
        return errors.ServerError
    if status in {404, 410}:
        return errors.NotFound
    if status == 403 or (200 <= status < 300 and codes):
        return _forbidden(endpoint, codes, words)
    return errors.BadRequest if 400 <= status < 500 else errors.ResponseError


def _forbidden(endpoint: Endpoint, codes: frozenset[int], words: str) -> type[errors.ResponseError]:
    if 226 in codes:
        return errors.LooksAutomated
    about_people = "do not follow" in words or "have blocked" in words
    if codes & _UNREACHABLE or about_people:
        return errors.RecipientUnreachable
    is_profile_call = endpoint.name.startswith("custom_profiles.")
    may_carry_profile = endpoint.name.startswith(_CARRIES_PROFILE)
    if (codes & _NOT_ALLOWLISTED and may_carry_profile) or (is_profile_call and (not codes or codes & _NO_ACCESS)):
        return errors.NotAllowlisted
    return errors.Forbidden
