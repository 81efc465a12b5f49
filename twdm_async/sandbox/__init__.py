"""A local double of the API: a real HTTP server, as strict as the API itself, that keeps a record of everything that
happens.
"""

from twdm_async.sandbox.faults import Fault
from twdm_async.sandbox.people import Person
from twdm_async.sandbox.records import (
    Breach,
    Delivery,
    Reading,
    Received,
    StoredMedia,
    StoredMessage,
    StoredProfile,
    Typing,
    Window,
)
from twdm_async.sandbox.server import Sandbox

__all__ = [
    "Breach",
    "Delivery",
    "Fault",
    "Person",
    "Reading",
    "Received",
    "Sandbox",
    "StoredMedia",
    "StoredMessage",
    "StoredProfile",
    "Typing",
    "Window",
]
