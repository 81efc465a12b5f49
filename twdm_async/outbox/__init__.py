"""Sending that survives a crash: a file or a database keeps each message until it is known what became of it."""

from twdm_async.outbox.entry import Entry, HeldMessage, Process, Review, State
from twdm_async.outbox.insertion import Insertion
from twdm_async.outbox.outbox import Outbox

__all__ = ["Entry", "HeldMessage", "Insertion", "Outbox", "Process", "Review", "State"]
