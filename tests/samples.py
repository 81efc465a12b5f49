"""Replies as the API's pages print them, with their missing braces put in and their trailing commas taken out."""

from __future__ import annotations

from typing import Any, Final

CUSTOM_PROFILE: Final[dict[str, Any]] = {
    "custom_profile": {
        "id": "100001",
        "created_timestamp": "1479767168196",
        "name": "Jon C, Partner Engineer",
        "avatar": {"media": {"url": "https://pbs.twimg.com/media/Cr7HZpvVYAAYZIX.jpg"}},
    }
}

CUSTOM_PROFILE_LIST: Final[dict[str, Any]] = {
    "custom_profiles": [
        CUSTOM_PROFILE["custom_profile"],
        {
            "id": "100002",
            "created_timestamp": "1479767168197",
            "name": "Ann",
            "avatar": {"media": {"url": "https://pbs.twimg.com/media/Cr7HZpvVYAAYZIX?format=jpg&name=normal"}},
        },
    ],
    "next_cursor": "NDUzNDUzNDY3Nzc3",
}

# Neither an id nor a time: this is how the page prints it.
SENT_WITH_PROFILE: Final[dict[str, Any]] = {
    "event": {
        "type": "message_create",
        "message_create": {
            "target": {"recipient_id": "844385345234"},
            "sender_id": "1241124",
            "message_data": {"text": "Hi, my name is Jon. How can I help?"},
            "custom_profile_id": "100001",
        },
    }
}

SENT_AS_RECORDED: Final[dict[str, Any]] = {
    "event": {
        "type": "message_create",
        "id": "1142098079526600709",
        "created_timestamp": "1561123456789",
        "message_create": {
            "target": {"recipient_id": "145336962"},
            "sender_id": "145336962",
            "message_data": {
                "text": "$MSFT &amp; $TSLA &lt;3",
                "entities": {
                    "hashtags": [],
                    "symbols": [{"text": "TSLA", "indices": [12, 17]}],
                    "user_mentions": [],
                    "urls": [],
                },
            },
        },
    }
}

WELCOME_MESSAGE: Final[dict[str, Any]] = {
    "welcome_message": {
        "id": "844385345234",
        "created_timestamp": "1470182274821",
        "message_data": {
            "text": "Welcome!",
            "quick_reply": {"type": "options", "options": [{"label": "Red", "metadata": "r"}]},
            "attachment": {"type": "media", "media": {"id": 1, "media_url": "https://ton.twitter.com/x"}},
        },
        "source_app_id": "258901",
    },
    "apps": {"258901": {"id": "258901", "name": "Twitter for iPhone", "url": "http://twitter.com"}},
    "name": "simple_welcome-message 01",
}

USER: Final[dict[str, Any]] = {
    "contributors_enabled": False,
    "created_at": "Sat May 09 17:58:22 +0000 2009",
    "default_profile": False,
    "description": "I taught your phone that thing you like.",
    "entities": {"description": {"urls": []}},
    "favourites_count": 595,
    "follow_request_sent": None,
    "followers_count": 10644,
    "geo_enabled": True,
    "id": 38895958,
    "id_str": "38895958",
    "is_translator": False,
    "lang": None,
    "location": "San Francisco",
    "name": "Sean Cook",
    "profile_image_url_https": "https://si0.twimg.com/profile_images/1751506047/dead_sexy_normal.JPG",
    "protected": False,
    "screen_name": "theSeanCook",
    "status": {"created_at": "Mon Apr 26 06:01:55 +0000 2010", "id": 4, "truncated": False, "text": "hello"},
    "statuses_count": 2609,
    "time_zone": "Pacific Time (US & Canada)",
    "url": None,
    "utc_offset": -28800,
    "verified": False,
}

MEDIA: Final[dict[str, Any]] = {
    "media_id": 710511363345354753,
    "media_id_string": "710511363345354753",
    "media_key": "3_710511363345354753",
    "size": 11065,
    "expires_after_secs": 86400,
    "image": {"image_type": "image/jpeg", "w": 800, "h": 320},
}
