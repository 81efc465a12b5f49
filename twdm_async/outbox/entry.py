"""What an outbox tells of a message."""

from __future__ import annotations

import enum
from datetime import datetime

from attrs import frozen

from twdm_async.quota.spec import Priority


class State(enum.StrEnum):
    """How far a message has come: queued → sending → sent, rejected or unknown; unknown → sent or absent; absent →
    sending again. What waits may expire; what fails again and again becomes failed. Sent, rejected, failed and expired
    are final.
    """

    QUEUED = "queued"
    """It waits to be sent, or to be tried again."""
    SENDING = "sending"
    """It may be on the wire. That was on the disk before its first byte left."""
    SENT = "sent"
    """It arrived."""
    REJECTED = "rejected"
    """The API refused this message, for good."""
    UNKNOWN = "unknown"
    """It left, and no readable answer came. The list of messages will tell."""
    ABSENT = "absent"
    """It left, and did not arrive. It is sent again."""
    FAILED = "failed"
    """It was tried again and again while others got through, and never arrived. It is not tried any more."""
    EXPIRED = "expired"
    """Its time was over before it could be sent."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be done about it."""
        return self in {State.SENT, State.REJECTED, State.FAILED, State.EXPIRED}


@frozen(kw_only=True)
class Entry:
    """A message in the outbox, without its text.

    Args:
        key: its name in the outbox.
        state: how far it has come.
        recipient_id: whom it is for.
        custom_profile_id: the profile it goes under; ``None`` for the account's own.
        priority: what it waits with.
        message_id: the API's id, once it is sent; some replies do not tell it.
        error: why it has not arrived, in words; of one that waits, why it does.
        attempts: how often it left, or was about to.
        put_at: when it was put here (UTC).
        changed_at: when it came into this state (UTC).
        not_after: when it expires (UTC); ``None`` if it never does.
        number: grows with every outcome, over all messages of the account.
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


@frozen
class Process:
    """A process that uses the outbox, or one of another account in the same place.

    Args:
        host: on which it runs.
        pid: its process id there.
        since: when it began to (UTC).
        is_alive: whether it is believed to live.
        messages: on how many of the account's messages it works.
    """

    host: str
    pid: int
    since: datetime
    is_alive: bool
    messages: int
