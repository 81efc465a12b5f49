"""Sending that survives a crash: messages are kept in a file or a database until it is known what became of them."""

from twdm_async.outbox.entry import Entry, Process, State
from twdm_async.outbox.insertion import Insertion
from twdm_async.outbox.outbox import Outbox

__all__ = ["Entry", "Insertion", "Outbox", "Process", "State"]
