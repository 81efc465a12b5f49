"""What is known to have been sent lately, so that it is not mistaken for a message that may or may not have arrived."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Final, TypeVar

from attrs import define, field, frozen

T = TypeVar("T")

_MOST: Final = 20_000  # more than an app may send in a day


@frozen
class Sought:
    """What a message is looked for by.

    Args:
        recipient_id: whom it was for.
        custom_profile_id: the profile it was sent under.
        fingerprint: of its text; see :meth:`Credentials.fingerprint <twdm_async.Credentials.fingerprint>`.
        sent_at: when the attempt was made (UTC), as its signature said. No two of a client have the same.
        content: of everything that hangs on it, by a fingerprint as well.
    """

    recipient_id: str
    custom_profile_id: str | None
    fingerprint: str
    sent_at: datetime
    content: str = ""


@define
class SentMessages:
    """The latest of them: their ids, or what those without one can be found by. The oldest are forgotten."""

    ids: OrderedDict[str | None, None] = field(factory=OrderedDict[str | None, None], repr=False)
    nameless: OrderedDict[Sought, None] = field(factory=OrderedDict[Sought, None], repr=False)

    def note(self, message: str | Sought) -> None:
        """A message was sent: its id, or what is known of one whose reply did not tell it."""
        if isinstance(message, str):
            _add(self.ids, message)
        else:
            _add(self.nameless, message)


def _add(kept: OrderedDict[T, None], item: T) -> None:
    kept[item] = None
    if len(kept) > _MOST:
        kept.popitem(last=False)
