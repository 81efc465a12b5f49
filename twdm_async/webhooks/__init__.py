"""Receiving what people write: webhooks of the Account Activity API and of the newer X Activity API."""

from twdm_async.webhooks.events import Event, MessageEvent, ReadEvent, TypingEvent, read_events
from twdm_async.webhooks.signature import crc_response, is_signed
from twdm_async.webhooks.webhook import Webhook, WebhookReply

__all__ = [
    "Event",
    "MessageEvent",
    "ReadEvent",
    "TypingEvent",
    "Webhook",
    "WebhookReply",
    "crc_response",
    "is_signed",
    "read_events",
]
