"""What an outbox reports of a message."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Final

from attrs import frozen

from twdm_async.models.direct_messages import DirectMessage
from twdm_async.quota.spec import Priority

OF_DESK: Final = "desk:"
"""How the keys of messages from a :class:`twdm_async.Desk` begin."""
TOO_MANY: Final = "too many messages to this person lately; wait for an answer"
"""Why a message is refused when the limit for its recipient is reached."""
LOST: Final = (
    "the database went back to an earlier state while it waited, so it may have been sent; see whether it was, and let "
    "it be sent again if not"
)
"""The error of a message that was set aside because the database had lost what was written last."""


class State(enum.StrEnum):
    """The state of a message: queued → sending → sent, rejected or unknown; unknown → sent or absent; absent → sending
    again. A held message becomes queued or rejected. A message that waits can expire; a message that fails again and
    again becomes failed. Sent, rejected, failed and expired are final.
    """

    HELD = "held"
    """It waits for a person's approval."""

    QUEUED = "queued"
    """It waits to be sent, or to be tried again."""
    SENDING = "sending"
    """It may be on the wire. This state is on the disk before its first byte leaves."""
    SENT = "sent"
    """It arrived."""
    REJECTED = "rejected"
    """The API refused this message, or a person did. It is not sent again."""
    UNKNOWN = "unknown"
    """It left, and no readable answer came. The API's list of messages will tell whether it arrived."""
    ABSENT = "absent"
    """It left, and did not arrive. It is sent again."""
    FAILED = "failed"
    """It was tried again and again while others got through, and never arrived. It is not tried any more."""
    EXPIRED = "expired"
    """Its `not_after` passed before it could be sent."""

    @property
    def is_final(self) -> bool:
        """Whether the outbox does nothing more about a message in this state."""
        return self in {State.SENT, State.REJECTED, State.FAILED, State.EXPIRED}


class Review(enum.StrEnum):
    """What a person has decided on a message that was held."""

    WANTED = "wanted"
    """Nobody has decided yet."""
    APPROVED = "approved"
    """It may be sent."""
    REJECTED = "rejected"
    """It must not be sent."""


@frozen(kw_only=True)
class Entry:
    """A message in the outbox, without its text.

    Args:
        key: its name in the outbox.
        state: its state.
        recipient_id: the recipient's user id.
        custom_profile_id: the profile it is sent under; ``None`` for the account's own name and picture.
        priority: its priority while it waits.
        message_id: the API's id, once it is sent; ``None`` if the reply did not tell it.
        error: why it has not arrived, or why it still waits, in words; or why a person rejected it.
        attempts: how often it left, or was about to leave.
        put_at: when it was put into the outbox (UTC).
        changed_at: when it came into this state (UTC).
        not_after: when it expires (UTC); ``None`` if it never does.
        number: the number of its latest outcome. Every outcome of the account's messages gets the next number.
        review: what a person has decided on it; ``None`` if it was put without `hold`.
        reviewed_by: who has decided; ``None`` if nobody has, or if it was not said who.
        reviewed_at: when this was decided (UTC).
    """

    key: str
    state: State
    recipient_id: str
    custom_profile_id: str | None
    priority: Priority
    message_id: str | None
    error: str | None
    attempts: int
    put_at: datetime
    changed_at: datetime
    not_after: datetime | None
    number: int
    review: Review | None
    reviewed_by: str | None
    reviewed_at: datetime | None


@frozen
class HeldMessage:
    """A message that waits for a person's approval.

    Args:
        entry: its entry in the outbox.
        message: its recipient, profile and content.
    """

    entry: Entry
    message: DirectMessage


@frozen
class Process:
    """A process that uses the outbox, or another account's outbox in the same file or database.

    Args:
        host: the host on which it runs.
        pid: its process id there.
        since: when it began to use the outbox (UTC).
        is_alive: whether it is believed to be alive.
        messages: how many of the account's messages it works on.
    """

    host: str
    pid: int
    since: datetime
    is_alive: bool
    messages: int
