"""Guards the page and its API: whoever can reach the sandbox may use them, but no web page of another site may."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER: Final = "X-Sandbox"
"""This header must be on every request that changes something: a page of another site cannot set it without
permission (CORS)."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FILE_HEADERS: Final = HEADERS | {"Content-Security-Policy": "default-src 'none'; sandbox"}
"""The headers of uploaded files, which may contain anything, scripts included."""


def why_foreign(headers: Mapping[str, str], bound_to: str) -> str | None:
    """Return why a request is taken to come from a page of another site; ``None`` if it is not.

    Args:
        headers: by name, in any case.
        bound_to: the address at which the sandbox listens.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if not _is_ours(host, bound_to):
        return "the Host header names another site; use the address that the sandbox prints"
    if origin is not None and origin != f"http://{host}":
        return "the request comes from a page of another site"
    return None


def why_refused(method: str, headers: Mapping[str, str], bound_to: str) -> str | None:
    """Return why a request to the page or its API is refused; ``None`` if it is not.

    Args:
        method: the HTTP method.
        headers: by name, in any case.
        bound_to: the address at which the sandbox listens.
    """
    problem = why_foreign(headers, bound_to)
    if problem is not None:
        return problem
    site = headers.get("Sec-Fetch-Site", "none")
    is_link = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    if site not in {"none", "same-origin"} and not (method == "GET" and is_link):
        return "the request comes from a page of another site"
    if method not in {"GET", "HEAD"} and HEADER not in headers:
        return f"a request that changes something needs the header {HEADER}, with any value"
    return None


def _is_ours(host: str, bound_to: str) -> bool:
    """Tell whether `host` can only mean the sandbox. Whoever controls any other name can make it point to this machine
    (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in {"localhost", bound_to.lower()} and name:
        return True
    if not is_loopback(bound_to) and name and ("." not in name or name == socket.getfqdn().lower()) and ":" not in name:
        return True  # the name of a machine or a container, which no outsider controls
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(bound_to)


def is_loopback(host: str) -> bool:
    """Tell whether a server that listens on `host` can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
