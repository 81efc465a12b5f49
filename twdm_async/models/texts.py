"""Texts as the API gives them: escaped, with entities whose indices count in the escaped text."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from twdm_async._json import Json, is_array, is_object

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATTACHMENT: Final = re.compile(r"https?://(www\.|mobile\.)?(twitter|x)\.com/messages/media/\d+$")
_ESCAPES: Final = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def unescaped(text: str | None) -> str | None:
    """Return `text` as a person wrote it: the API escapes ``&``, ``<`` and ``>``, and nothing else."""
    return "".join(character for character, _ in _characters(text)) if text and "&" in text else text


def escaped(text: str) -> str:
    """Return `text` as the API gives it back."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def readings(raw_text: str | None, raw_entities: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the texts that may have been sent: `raw_text`, unescaped, with each ``t.co`` link replaced by its address.
    Return two texts if they depend on whether the API escapes the addresses, and none if the address of a link is
    missing.

    Args:
        raw_text: the text, as the API gave it.
        raw_entities: its entities, as the API gave them.
    """
    text = raw_text or ""
    listed = (raw_entities or {}).get("urls")
    links: dict[str, str] = {}
    for url in listed if is_array(listed) else []:
        if is_object(url) and isinstance(url.get("url"), str) and isinstance(url.get("expanded_url"), str):
            links[url["url"]] = url["expanded_url"]
    for short, address in links.items():
        if _ATTACHMENT.match(address):
            text = text.removesuffix(short)  # the API itself adds the attachment's link to the text
    found = {unescaped(_lengthened(text, links)) or "", _lengthened(unescaped(text) or "", links)}
    return frozenset(one for one in found if "//t.co/" not in one)


def _lengthened(text: str, links: Mapping[str, str]) -> str:
    for short in sorted(links, key=len, reverse=True):  # a link may be a prefix of another one
        text = text.replace(short, links[short])
    return text


def _characters(raw_text: str) -> list[tuple[str, int]]:
    """Return the characters that were written, each with the number of characters that stand for it in `raw_text`."""
    characters: list[tuple[str, int]] = []
    place = 0
    while place < len(raw_text):
        escape = next((one for one in _ESCAPES if raw_text.startswith(one, place)), None)
        characters.append((_ESCAPES[escape], len(escape)) if escape else (raw_text[place], 1))
        place += characters[-1][1]
    return characters


def fitted(entities: Mapping[str, Any] | None, raw_text: str | None) -> Mapping[str, Any] | None:
    """Return `entities` with indices that count in the text as a person wrote it.

    Args:
        entities: lists of objects with ``indices``, as the API gave them.
        raw_text: the text, as the API gave it.
    """
    if entities is None or raw_text is None or "&" not in raw_text:
        return entities
    starts = list(accumulate((length for _, length in _characters(raw_text)), initial=0))

    def moved(entity: Json) -> Json:
        indices = entity.get("indices") if is_object(entity) else None
        if not is_object(entity) or not is_array(indices) or not all(type(index) is int for index in indices):
            return entity
        return {**entity, "indices": [max(0, bisect_right(starts, index) - 1) for index in indices]}

    return {
        kind: [moved(entity) for entity in listed] if is_array(listed) else listed for kind, listed in entities.items()
    }
