"""Sending that survives a crash: messages are kept in a file until it is known what became of them."""

from twdm_async.outbox.entry import Entry, State
from twdm_async.outbox.outbox import Outbox

__all__ = ["Entry", "Outbox", "State"]
