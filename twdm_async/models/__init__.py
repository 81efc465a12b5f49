"""Frozen models of what the API says, and of what can be attached to a message."""

from twdm_async.models.custom_profiles import CustomProfile
from twdm_async.models.direct_messages import CallToAction, DirectMessage, QuickReply
from twdm_async.models.media import Media, MediaCategory
from twdm_async.models.users import User
from twdm_async.models.welcome_messages import WelcomeMessage

__all__ = [
    "CallToAction",
    "CustomProfile",
    "DirectMessage",
    "Media",
    "MediaCategory",
    "QuickReply",
    "User",
    "WelcomeMessage",
]
