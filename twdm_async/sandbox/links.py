"""Finds the parts of a text that become links, by the rules of twitter-text, which the API follows."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST: Final = 4096  # characters of an address
_LONGEST_SLUG: Final = 40  # characters of the path of a t.co link

_DIRECTIONS: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_NO_CHARACTERS: Final = r"\ufffe\ufeff\uffff"
_SPACES: Final = r"\t-\r \x85\xa0\u1680\u180e\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_PUNCTUATION: Final = r"!'#%&()*+,\\\-./:;<=>?@\[\]^_{|}~$"
_LATIN: Final = (
    r"\xc0-\xd6\xd8-\xf6\xf8-\u024f\u0253\u0254\u0256\u0257\u0259\u025b\u0263\u0268\u026f\u0272\u0289\u028b"
    r"\u02bb\u0300-\u036f\u1e00-\u1eff"
)
_CYRILLIC: Final = r"\u0400-\u04ff"

# Labels of a domain have at most 63 characters. Without that bound, and a bound on their number, the time to search a
# text would grow with the square of its length.
_LETTER: Final = f"[^{_PUNCTUATION}{_SPACES}{_NO_CHARACTERS}{_DIRECTIONS}]"
_SUBDOMAIN: Final = rf"{_LETTER}(?:[_-]|{_LETTER}){{0,62}}(?<![_-])\."
_DOMAIN_NAME: Final = rf"{_LETTER}(?:-|{_LETTER}){{0,62}}(?<![_-])\."
_MOST_SUBDOMAINS: Final = 10

_IN_PATH: Final = rf"[a-z{_CYRILLIC}0-9!*';:=+,.$/%#\[\]\-\u2013_~@|&{_LATIN}]"
_IN_PARENTHESES: Final = rf"\((?:{_IN_PATH}+|{_IN_PATH}*\({_IN_PATH}+\){_IN_PATH}*)\)"
_END_OF_PATH: Final = rf"(?:[+\-a-z{_CYRILLIC}0-9=_#/{_LATIN}]|{_IN_PARENTHESES})"
_PATH: Final = rf"(?:{_IN_PATH}*(?:{_IN_PARENTHESES}{_IN_PATH}*)*{_END_OF_PATH}|@{_IN_PATH}+/)"
_QUERY: Final = r"\?[a-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]*[a-z0-9\-_&=#/]"
_TCO: Final = re.compile(rf"https?://t\.co/([a-z0-9]+)(?:{_QUERY})?", re.IGNORECASE)


def links_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each link in `text`, in order."""
    if "." not in text:
        return
    for found in _address().finditer(text):
        if not _is_address(found):
            continue
        start, end = found.span("address")
        if found["protocol"]:
            tco = _TCO.match(text, start, end)
            if tco is None:
                yield start, end
            elif len(tco[1]) <= _LONGEST_SLUG:
                yield start, tco.end()
            continue
        if text[max(0, start - 1) : start] in {"-", "_", ".", "/"}:
            continue
        parts = [part.span() for part in _ascii_domain().finditer(text, start, found.end("domain"))]
        yield from parts[:-1]
        if parts:
            yield parts[-1][0], end if found["path"] else parts[-1][1]


def _is_address(found: re.Match[str]) -> bool:
    try:
        domain = found["domain"].encode("idna")
    except UnicodeError:
        return False
    length = len(found["protocol"] or "https://") + len(found["address"]) - len(found["domain"]) + len(domain)
    return length <= _LONGEST


@functools.cache
def _top_level() -> str:
    names = Path(__file__).with_name("tlds.txt").read_text(encoding="utf-8").split()
    known = "|".join(sorted(names, key=len, reverse=True))
    return rf"(?:(?:{known})(?=[^0-9a-zA-Z@+-]|$)|xn--[\-0-9a-z]+)"


@functools.cache
def _address() -> re.Pattern[str]:
    before = rf"(?:[^A-Za-z0-9@＠$#＃{_NO_CHARACTERS}]|[{_DIRECTIONS}]|^)"  # noqa: RUF001 - the fullwidth signs are meant
    domain = f"(?:{_SUBDOMAIN}){{0,{_MOST_SUBDOMAINS}}}{_DOMAIN_NAME}{_top_level()}"
    rest = f"(?::[0-9]+)?(?P<path>/{_PATH}*)?(?:{_QUERY})?"
    return re.compile(f"{before}(?P<address>(?P<protocol>https?://)?(?P<domain>{domain}){rest})", re.IGNORECASE)


@functools.cache
def _ascii_domain() -> re.Pattern[str]:
    return re.compile(rf"(?:[\-a-z0-9{_LATIN}]+\.)+{_top_level()}", re.IGNORECASE)
