"""Frozen models of the API's answers, and of what can be attached to a message."""

from typing import TYPE_CHECKING

from twdm_async._lazy import lazily

if TYPE_CHECKING:
    from twdm_async.models.attachments import MessageMedia, SharedCoordinate, SharedPlace
    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.models.direct_messages import DirectMessage, InitiatedVia, SourceApp
    from twdm_async.models.media import Media, MediaCategory, Processing
    from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, QuickReplyResponse, TextInput
    from twdm_async.models.rate_limits import RateLimitStatus, RateLimitWindow
    from twdm_async.models.users import Person, User
    from twdm_async.models.welcome_messages import WelcomeMessage, WelcomeMessageRule
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "attachments": ["MessageMedia", "SharedCoordinate", "SharedPlace"],
            "custom_profiles": ["CustomProfile"],
            "direct_messages": ["DirectMessage", "InitiatedVia", "SourceApp"],
            "media": ["Media", "MediaCategory", "Processing"],
            "quick_replies": ["CallToAction", "LocationRequest", "QuickReply", "QuickReplyResponse", "TextInput"],
            "rate_limits": ["RateLimitStatus", "RateLimitWindow"],
            "users": ["Person", "User"],
            "welcome_messages": ["WelcomeMessage", "WelcomeMessageRule"],
        },
    )

__all__ = [
    "CallToAction",
    "CustomProfile",
    "DirectMessage",
    "InitiatedVia",
    "LocationRequest",
    "Media",
    "MediaCategory",
    "MessageMedia",
    "Person",
    "Processing",
    "QuickReply",
    "QuickReplyResponse",
    "RateLimitStatus",
    "RateLimitWindow",
    "SharedCoordinate",
    "SharedPlace",
    "SourceApp",
    "TextInput",
    "User",
    "WelcomeMessage",
    "WelcomeMessageRule",
]
