"""What goes over the wire and what comes back, without any I/O: arguments to a request, a reply to a model or an
error.
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
    """What is known of the message that a call sends: for its errors to say, or to keep to themselves.

    Args:
        recipient_id: whom it is for; ``None`` for a welcome message.
        custom_profile_id: the profile it goes under; ``None`` for the account's own.
        text: what it says; no error repeats it.
        content: what hangs on it, as JSON; empty if nothing does.
    """

    recipient_id: str | None = None
    custom_profile_id: str | None = None
    text: str | None = field(default=None, repr=False)
    content: str = field(default="", repr=False)


@define(eq=False)
class Sink:
    """Where a file goes that is read in pieces.

    Args:
        target: is written to, from its beginning.
        most: bytes it may have.
        size: bytes it has so far.
        is_whole: whether that is all of it.
    """

    target: BinaryIO
    most: int
    size: int = 0
    is_whole: bool = False

    def begin(self) -> None:
        """It is read from the beginning, perhaps once more."""
        self.target.seek(0)
        self.target.truncate()
        self.size, self.is_whole = 0, False

    def write(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            MediaFailed: the file is too large.
            OSError: it cannot be written.
        """
        self.size += len(piece)
        if self.size > self.most:
            raise errors.MediaFailed(endpoint="direct_messages.download", problem=f"it has more than {self.most} bytes")
        self.target.write(piece)


@define(eq=False)
class Request:
    """A call, ready to be signed and sent any number of times.

    Args:
        endpoint: its row.
        host: scheme and host.
        path: percent-encoded.
        query: the encoded query, without ``?``; empty if there is none.
        signed: the parameters, as they were before encoding, that are part of the signature.
        body: encoded, or the fields of a multipart body.
        content_type: of `body`, unless it is multipart.
        message: that it sends, if it sends one.
        sink: where the body of the answer goes, if it is a file.
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
    """What came back, whatever it is."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Fault:
    """What happened instead of a reply.

    Args:
        problem: in words, without anything that was sent.
        sent: whether a byte may have left the machine.
        lasting: whether the same would only happen again.
    """

    problem: str
    sent: bool
    lasting: bool = False


def encode(
    endpoint: Endpoint,
    hosts: Mapping[Host, str],
    arguments: Mapping[str, Any] | bytes,
    *,
    path_id: str | None = None,
    message: Message | None = None,
) -> Request:
    """The request for a call.

    Args:
        endpoint: its row.
        hosts: scheme and host for each of the API's hosts.
        arguments: the JSON body, which may be encoded already; or the fields of a query, form or multipart body.
        path_id: a checked id for the path template.
        message: that it sends, if it sends one.
    """
    host = hosts[endpoint.host]
    if isinstance(arguments, bytes):
        return Request(endpoint, host, endpoint.path, body=arguments, content_type=JSON, message=message)
    if endpoint.host is Host.FILES:  # its address came with a message, and was checked
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


# Made once: json.dumps and json.loads make a new one for each call that has options.
_encoder: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode_json(value: Any) -> str:
    """`value` as JSON, with no space between its parts."""
    return _encoder.encode(value)


def _escape(text: str) -> str:
    # RFC 3986: what is signed is what is sent, so both must escape alike, a space as %20 and an asterisk as %2A.
    return quote(text, safe="~")


def _urlencoded(pairs: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{_escape(key)}={_escape(value)}" for key, value in pairs)


def read(endpoint: Endpoint, reply: Reply, into: type[T]) -> T:
    """What the API answered.

    Args:
        endpoint: whose answer it is.
        reply: as it came.
        into: the model; ``None``'s type where the endpoint answers nothing.

    Raises:
        ResponseError: the API says no, by its status or by an errors body.
        MalformedResponse: it is not an answer of this endpoint.
    """
    if not 200 <= reply.status < 300:
        raise refusal(endpoint, reply)
    if endpoint.answer is None:
        if refusal(endpoint, reply).codes:
            raise refusal(endpoint, reply)
        return into()
    body = _parse(endpoint, reply)
    is_answer = is_object(body) and bool(body.get(endpoint.answer))
    if not is_answer and any(code is not None for code, _ in _error_entries(body)):
        raise refusal(endpoint, reply)
    try:
        return structure(_unwrapped(endpoint.answer, body), into)
    except (ValueError, TypeError, KeyError):
        problem = "the answer is not what this endpoint answers"
    raise errors.MalformedResponse(endpoint=endpoint.name, status=reply.status, problem=problem)


def _unwrapped(wrapper: str, body: Any) -> Any:
    """The object in its wrapper, together with what stands beside it (such as ``apps``)."""
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
        case "gzip" | "x-gzip" | "deflate":  # we did not ask for it, but a proxy may do it all the same
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
    """What `body` says.

    Raises:
        ValueError, RecursionError: it is no JSON, or none that means one thing.
    """
    if _orjson is not None:
        with contextlib.suppress(ValueError):
            value = _orjson.loads(body)
            # It takes the last of two equal keys, and makes floats of large numbers; neither is written back alike.
            if _orjson.dumps(value) == body:
                return value
    text = body.decode("utf-8")
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        value, end = None, -1
    return value if end == len(text) else _decoder.decode(text)  # there is space around it, or it is no JSON


# ---- refusals: every shape of error body, to one error of the tree ----

_UNAUTHORIZED = frozenset({32, 89, 99, 135, 215})
_UNREACHABLE = frozenset({63, 150, 349, 476})
_NOT_ALLOWLISTED = frozenset({87, 220})
_NO_ACCESS = frozenset({200, 453})
_SERVER_TROUBLE = frozenset({130, 131})
_ALREADY_SAID = 151  # it stands for much else, too
_DUPLICATE = 187
_DUPLICATE_WORDS = ("already said", "already sent", "duplicate")
_OF_A_FIELD = ("label", "description", "quick_reply", "ctas")  # what it then says is a duplicate
_CARRIES_PROFILE = ("custom_profiles.", "direct_messages.send", "welcome_messages.create")
_LONGEST_MESSAGE = 500
_RUN = 12  # letters in a row of a text that are no chance
_KEY_RUN = 6  # of a key
_ESCAPED = re.compile(r"(?:\\u00|\\x|=)([0-9A-Fa-f]{2})")
_OAUTH_VALUE = re.compile(r'oauth_(?:consumer_key|token|nonce|signature)="([^"]+)"')
_LONG_WORD = re.compile(r"[A-Za-z0-9+/=%_-]{20,}")
_WRITTEN_BY_US = frozenset({"label", "description", "metadata", "url"})  # in what hangs on a message


def refusal(endpoint: Endpoint, reply: Reply) -> errors.ResponseError:
    """The error that a reply with a bad status, or with an errors body, stands for."""
    try:
        body = load_json(_decompressed(reply))
    except (ValueError, RecursionError, zlib.error):
        body = None  # HTML, nothing at all, or broken: the status says what there is to say
    entries = _error_entries(body)
    codes = tuple(code for code, _ in entries if code is not None)
    messages = tuple(message[:_LONGEST_MESSAGE] for _, message in entries if message)
    words = " ".join(messages).lower()
    cls = _class_of(endpoint, reply.status, frozenset(codes), words)
    error = cls(endpoint=endpoint.name, status=reply.status, codes=codes, messages=messages)
    return evolve(error, safe_to_retry=True) if error.subject == "intermediary" else error


def may_have_arrived(error: errors.TwdmError | None) -> bool:
    """Whether the API refused a message since it has it already: that may be the very one that was just sent."""
    if not isinstance(error, errors.ResponseError):
        return False
    words = " ".join(error.messages).lower()
    is_of_a_field = any(word in words for word in _OF_A_FIELD)
    is_said = any(word in words for word in _DUPLICATE_WORDS) and not is_of_a_field
    return _DUPLICATE in error.codes or (_ALREADY_SAID in error.codes and is_said)


def is_answer_to(message: Message, answer: DirectMessage) -> bool:
    """Whether `answer` can be the answer to the sending of `message`: it goes to the same person and, as far as that
    can be compared, says the same.
    """
    if answer.recipient_id != message.recipient_id:
        return False
    if answer.raw_text == message.text or not message.text or "//t.co/" in (answer.raw_text or ""):
        return True  # what became a link cannot be compared letter by letter
    theirs, ours = _letters(unescaped(answer.raw_text) or ""), _letters(message.text)
    return theirs == ours or not theirs or not ours


def _letters(text: str) -> str:
    """The letters and digits of `text`: whatever else the API may do to a text, these it leaves."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def without_secrets(error: errors.TwdmError, message: Message | None, authorization: str) -> errors.TwdmError:
    """`error`, cut off where its words repeat a part of the message that was sent, or of the request's signature.

    Args:
        error: what was answered.
        message: that the request sent, if it sent one.
        authorization: the request's header of that name.
    """
    if not isinstance(error, errors.ResponseError) or not error.messages:
        return error
    if message is not None and error.subject == "intermediary":
        return evolve(error, messages=())  # who inspects what passes may repeat any part of it, in any form
    # What stands before the dash of a token is the user id, which errors may name.
    values = [unquote(value) for value in _OAUTH_VALUE.findall(authorization)]
    secrets = [(_letters(value.rpartition("-")[2]), _KEY_RUN) for value in values]
    if message is not None:
        secrets += [(letters, _RUN) for text in _texts_of(message) if len(letters := _letters(text)) > 3]
    return evolve(error, messages=tuple(_harmless(words, secrets) for words in error.messages))


def without_long_words(words: str) -> str:
    """`words` without what may be a key: for where it is not known which request they answer."""
    return "…" if "oauth" in words.lower() else _LONG_WORD.sub("…", words)


def _texts_of(message: Message) -> list[str]:
    """What it says, and what is written on whatever hangs on it."""
    found = [message.text or ""]

    def look(value: Any) -> None:
        for name, inner in value.items() if is_object(value) else enumerate(value) if is_array(value) else ():
            if isinstance(inner, str) and name in _WRITTEN_BY_US:
                found.append(inner)
            look(inner)

    look(load_json(message.content.encode()) if message.content else None)
    return found


def _harmless(words: str, secrets: Sequence[tuple[str, int]]) -> str:
    """Return `words` up to where they repeat one of `secrets`, or a part of it that is no chance, however written."""
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
    """Return what `words` say if they are escaped, as servers and proxies do it, where that differs; and backwards."""
    ways = [
        unquote(words),
        html.unescape(words),
        _ESCAPED.sub(lambda found: chr(int(found[1], 16)), words),
        words.replace("\\n", " "),
    ]
    return [way for way in ways if way != words] + [words[::-1]]


def _repeated_at(letters: str, secret: str, longest: int) -> int | None:
    """Return where `letters` repeat `secret`, or so much of it that it is no chance; ``None`` if they do not."""
    run = min(longest, len(secret))
    parts = {secret[place : place + run] for place in range(len(secret) - run + 1)}
    return next((place for place in range(len(letters) - run + 1) if letters[place : place + run] in parts), None)


def _error_entries(body: Any) -> list[tuple[int | None, str]]:
    """(code, message) pairs of ``{"errors": [...]}``, ``{"error": ...}``, ``{"code": ...}`` or a problem document."""
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
    # The API overloads its codes and now and then its statuses; so what a code says plainly goes before the status.
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
