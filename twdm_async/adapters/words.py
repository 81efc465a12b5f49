"""What models are told of the tool that sends messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from twdm_async.desk import Desk

TOOL: Final = (
    "Send a Direct Message to a person. The answer tells what has become of it: `status` is sent, queued, held, "
    "refused or unknown, and `advice` says what to do next. Call this once for each message."
)
RECIPIENT: Final = "The person's user id: digits only."
TEXT: Final = "The text, at most 10 000 characters."
CHOICES: Final = "Up to 20 answers that the person can tap, each of at most 36 characters; none if empty."
KEY: Final = (
    "A name for this message, such as the number of the order that it is about. If you are not sure whether a call "
    "succeeded, repeat it with the same key: the message is still sent once."
)


def who(desk: Desk) -> str:
    """Return what the argument `who` is."""
    return f"The name under which the message is sent; one of: {', '.join(desk.names)}."
