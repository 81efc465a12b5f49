"""A double of the API that runs on this machine: a real HTTP server, as strict as the real one, that keeps the
records.
"""

from twdm_async.sandbox.faults import Fault
from twdm_async.sandbox.records import Breach, Received, StoredMedia, StoredMessage, StoredProfile, Window
from twdm_async.sandbox.server import Sandbox

__all__ = ["Breach", "Fault", "Received", "Sandbox", "StoredMedia", "StoredMessage", "StoredProfile", "Window"]
