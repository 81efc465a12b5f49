"""Signing with OAuth 1.0a, HMAC-SHA1 (RFC 5849; page *OAuth 1.0a: creating a signature*).

Query and form parameters are signed; JSON and multipart bodies are not, and there is no body hash. oauthlib makes the
base string. The parts that never change are prepared once, since most requests differ only in nonce and timestamp.
"""

from __future__ import annotations

import binascii
import hashlib
import ipaddress
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from twdm_async.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async._clock import Clock
    from twdm_async.credentials import Credentials
    from twdm_async.endpoints import Method
    from twdm_async.transport.wire import Request

_BLOCK: Final = 64  # bytes, of SHA-1
_MOST_BEGUN: Final = 256  # URLs; some have an id in their path
_DISTINCT: Final = 2e-6  # seconds by which two stamps differ at least

_KNOWN_HOSTS: Final = frozenset({"api.twitter.com", "api.x.com", "upload.twitter.com", "upload.x.com"})


_FILES_HOSTS: Final = frozenset({"https://ton.twitter.com", "https://ton.x.com"})


def checked_files_host(url: str, api_host: str) -> str:
    """Return `url` if it is a host of messages' files. A local double serves the files on the host of its API.

    Args:
        url: scheme and host of a file's URL.
        api_host: scheme and host of the API in use.

    Raises:
        InvalidInput: `url` is another host.
    """
    is_double = url == api_host and _is_loopback(urlsplit(api_host).hostname or "")
    if url not in _FILES_HOSTS and not is_double:
        problem = f"is not on {' or '.join(sorted(_FILES_HOSTS))}; requests are signed for no other host"
        raise InvalidInput(parameter="media", problem=problem)
    return url


def checked_host(url: str, parameter: str) -> str:
    """Return `url`, without a final slash, if requests may be signed for it.

    Raises:
        InvalidInput: `url` is neither one of the API's hosts over https nor this machine, or has more than scheme, host
            and port.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput(parameter=parameter, problem="is not a URL") from None
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(
            parameter=parameter, problem="must be scheme and host alone, such as https://api.twitter.com"
        )
    if _is_loopback(host):
        if parts.scheme not in {"http", "https"}:
            raise InvalidInput(parameter=parameter, problem="must begin with http:// or https://")
    elif host not in _KNOWN_HOSTS or port not in {None, 443}:
        hosts = ", ".join(sorted(_KNOWN_HOSTS))
        raise InvalidInput(parameter=parameter, problem=f"requests are signed for {hosts} and this machine only")
    elif parts.scheme != "https":
        raise InvalidInput(parameter=parameter, problem="must begin with https://")
    return f"{parts.scheme}://{parts.netloc}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _escape(text: str) -> str:
    return quote(text, safe="~")


class OAuth1Signer:
    """Makes the Authorization header of a request, a new one for every attempt.

    Args:
        credentials: the keys.
        clock: the source of time, for the timestamp.
    """

    def __init__(self, credentials: Credentials, clock: Clock) -> None:
        self._clock = clock
        self._consumer_key = credentials.consumer_key
        self._token = credentials.access_token
        key = "&".join(
            _escape(secret) for secret in (credentials.consumer_secret, credentials.access_token_secret)
        ).encode()
        # HMAC (RFC 2104) with the key hashed once. The kept states can sign, as the key can, but do not reveal it.
        key = (hashlib.sha1(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")  # noqa: S324
        self._inner = hashlib.sha1(bytes(byte ^ 0x36 for byte in key))  # noqa: S324 - what the API asks for
        self._outer = hashlib.sha1(bytes(byte ^ 0x5C for byte in key))  # noqa: S324 - as above
        self.skew: float = 0.0
        """How many seconds the server's clock is ahead of this machine's."""
        self._last_stamp = 0.0
        consumer_key, token = _escape(self._consumer_key), _escape(self._token)
        self._begun: dict[tuple[str, str], Any] = {}  # by method and URL
        # The OAuth parameters, sorted and escaped, before, between and after the nonce and the timestamp.
        self._base_parts = (
            _escape(f"oauth_consumer_key={consumer_key}&oauth_nonce="),
            _escape("&oauth_signature_method=HMAC-SHA1&oauth_timestamp="),
            _escape(f"&oauth_token={token}&oauth_version=1.0"),
        )
        self._header_start = f'OAuth oauth_consumer_key="{consumer_key}", oauth_token="{token}", oauth_version="1.0"'

    def __repr__(self) -> str:
        return "OAuth1Signer(<hidden>)"

    def server_time(self) -> float:
        """Return the seconds since 1970 by the server's clock, as far as it is known. Any thread may call this."""
        return self._clock.wall() + self.skew

    def next_stamp(self) -> float:
        """Return the server's time as :meth:`server_time` does, but not the same time twice in a row."""
        now = self.server_time()
        if abs(now - self._last_stamp) < _DISTINCT:
            now = self._last_stamp + _DISTINCT
        self._last_stamp = now
        return now

    def sign(self, request: Request, at: float | None = None) -> str:
        """Return the value of the Authorization header, with a new random nonce.

        Args:
            request: the request.
            at: the timestamp, in seconds since 1970 by the server's clock; the present time if not given.
        """
        timestamp = str(int(self.server_time() if at is None else at))
        return self.authorization(request.endpoint.method, request.url, request.signed, os.urandom(16).hex(), timestamp)

    def authorization(
        self, method: Method, url: str, parameters: Sequence[tuple[str, str]], nonce: str, timestamp: str
    ) -> str:
        """Return the value of the Authorization header for a given nonce and timestamp.

        Args:
            method: the HTTP method, in capitals.
            url: scheme, host and path.
            parameters: the parameters of query and form, not encoded.
            nonce: the nonce, of letters and digits.
            timestamp: the timestamp, in seconds since 1970, as digits.
        """
        if parameters:
            inner = self._inner.copy()
            inner.update(self._base_string(method, url, parameters, nonce, timestamp).encode())
        else:
            _, middle, end = self._base_parts
            inner = (self._begun.get((method, url)) or self._begin(method, url)).copy()
            inner.update(f"{nonce}{middle}{timestamp}{end}".encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        mac = binascii.b2a_base64(outer.digest(), newline=False).decode()
        mac = mac.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")  # the only characters of base64 to escape
        return (
            f'{self._header_start}, oauth_nonce="{nonce}", oauth_signature="{mac}", '
            f'oauth_signature_method="HMAC-SHA1", oauth_timestamp="{timestamp}"'
        )

    def _begin(self, method: Method, url: str) -> Any:  # a hash object; its type has no public name
        """Hash the base string of a request without parameters, up to its nonce, and keep the state of the hash."""
        from oauthlib.oauth1.rfc5849 import signature  # noqa: PLC0415 - imported only if a request is signed

        inner = self._inner.copy()
        inner.update(f"{method}&{_escape(signature.base_string_uri(url))}&{self._base_parts[0]}".encode())
        if len(self._begun) >= _MOST_BEGUN:
            self._begun.clear()
        self._begun[method, url] = inner
        return inner

    def _base_string(
        self, method: Method, url: str, parameters: Sequence[tuple[str, str]], nonce: str, timestamp: str
    ) -> str:
        from oauthlib.oauth1.rfc5849 import signature  # noqa: PLC0415 - as above

        # oauthlib takes pairs, since a parameter may occur twice; its type stubs allow only dicts.
        pairs: Any = [
            *parameters,
            ("oauth_consumer_key", self._consumer_key),
            ("oauth_nonce", nonce),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", timestamp),
            ("oauth_token", self._token),
            ("oauth_version", "1.0"),
        ]
        normalized = signature.normalize_parameters(pairs)
        return signature.signature_base_string(method, signature.base_string_uri(url), normalized)
