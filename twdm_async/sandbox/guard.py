"""Who may use the page and its API: this machine's user, and no web page of anybody else."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER: Final = "X-Sandbox"
"""Must be on every request that changes something: a web page elsewhere cannot set it without leave."""

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
"""For uploaded files, which may hold anything."""


def why_foreign(headers: Mapping[str, str], bound_to: str) -> str | None:
    """Return why a request comes from a page of another site; ``None`` if it does not.

    Args:
        headers: by name, in any case.
        bound_to: the address at which the sandbox listens.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if not _is_ours(host, bound_to):
        return "the Host header names another site; use the address that the sandbox prints"
    if origin is not None and origin != f"http://{host}":
        return "it comes from a page of another site"
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
        return "it comes from a page of another site"
    if method not in {"GET", "HEAD"} and HEADER not in headers:
        return f"what changes something needs the header {HEADER}, with any value"
    return None


def _is_ours(host: str, bound_to: str) -> bool:
    """Tell whether `host` can only mean the sandbox. A name that somebody else controls may be made to mean it."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in {"localhost", bound_to.lower()} and name:
        return True
    if not is_loopback(bound_to) and name and ("." not in name or name == socket.getfqdn().lower()) and ":" not in name:
        return True  # of a machine or a container: nobody can have it point elsewhere
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(bound_to)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach who listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
