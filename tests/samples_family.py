"""Replies, events and bodies in the shapes that have been recorded; every id, name, text and link is made up."""

from __future__ import annotations

from typing import Any, Final

_NO_ENTITIES: Final[dict[str, Any]] = {"hashtags": [], "symbols": [], "user_mentions": [], "urls": []}

_OUR_APP: Final[dict[str, Any]] = {
    "id": "7301455",
    "name": "Harbour Tea Helpdesk",
    "url": "https://helpdesk.example.com",
}
_WEB_APP: Final[dict[str, Any]] = {"id": "9900112", "name": "A Web Client", "url": "http://web.example.com"}

_PHOTO_URL: Final = "https://ton.twitter.com/1.1/ton/data/dm/1145607177998696451/1145607176434221056/kP3vYw8Z.jpg"

# A picture's link is in the text, behind a space; there is no other text if none was written.
_PHOTO_DATA: Final[dict[str, Any]] = {
    "text": " https://t.co/Qq7aLmZ0xB",
    "entities": {
        "hashtags": [],
        "symbols": [],
        "user_mentions": [],
        "urls": [
            {
                "url": "https://t.co/Qq7aLmZ0xB",
                "expanded_url": "https://twitter.com/messages/media/1145607177998696451",
                "display_url": "pic.twitter.com/Qq7aLmZ0xB",
                "indices": [1, 24],
            }
        ],
    },
    "attachment": {
        "type": "media",
        "media": {
            "id": 1145607176434221056,
            "id_str": "1145607176434221056",
            "indices": [1, 24],
            "media_url": _PHOTO_URL,
            "media_url_https": _PHOTO_URL,
            "url": "https://t.co/Qq7aLmZ0xB",
            "display_url": "pic.twitter.com/Qq7aLmZ0xB",
            "expanded_url": "https://twitter.com/messages/media/1145607177998696451",
            "type": "photo",
            "sizes": {
                "small": {"w": 680, "h": 454, "resize": "fit"},
                "thumb": {"w": 150, "h": 150, "resize": "crop"},
                "large": {"w": 1280, "h": 854, "resize": "fit"},
                "medium": {"w": 1200, "h": 801, "resize": "fit"},
            },
        },
    },
}

DIRECT_MESSAGE_SHOWN: Final[dict[str, Any]] = {
    "event": {
        "type": "message_create",
        "id": "1082232931058974722",
        "created_timestamp": "1546859412337",
        "initiated_via": {"welcome_message_id": "1082227011998449667"},
        "message_create": {
            "target": {"recipient_id": "98120034"},
            "sender_id": "3306219874",
            "source_app_id": "7301455",
            "message_data": {"text": "Your parcel left us this morning.", "entities": _NO_ENTITIES},
        },
    },
    "apps": {"7301455": _OUR_APP},
}

# Has no users, unlike a webhook's; an event without source_app_id was received.
DIRECT_MESSAGE_LIST: Final[dict[str, Any]] = {
    "events": [
        # The text is escaped, and the indices count in the escaped one; mentions have numbers for ids.
        {
            "type": "message_create",
            "id": "1145618216878342148",
            "created_timestamp": "1561971642118",
            "message_create": {
                "target": {"recipient_id": "98120034"},
                "sender_id": "3306219874",
                "source_app_id": "7301455",
                "message_data": {
                    "text": "Tea &amp; biscuits &lt;3 for @mira_oxley and $TEA fans #harbour https://t.co/b1Xc9Rt2Uw",
                    "entities": {
                        "hashtags": [{"text": "harbour", "indices": [55, 63]}],
                        "symbols": [{"text": "TEA", "indices": [45, 49]}],
                        "user_mentions": [
                            {
                                "screen_name": "mira_oxley",
                                "name": "Mira Oxley",
                                "id": 98120034,
                                "id_str": "98120034",
                                "indices": [29, 40],
                            }
                        ],
                        "urls": [
                            {
                                "url": "https://t.co/b1Xc9Rt2Uw",
                                "expanded_url": "http://tea.example.com/a?b=1&c=2",
                                "display_url": "tea.example.com/a?b=1&c=2",
                                "indices": [64, 87],
                            }
                        ],
                    },
                },
            },
        },
        {
            "type": "message_create",
            "id": "1145617199273082881",
            "created_timestamp": "1561971399502",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {
                    "text": "Where is my order?",
                    "entities": _NO_ENTITIES,
                    "quick_reply_response": {"type": "options", "metadata": '{"goto": "orders"}'},
                },
            },
        },
        {
            "type": "message_create",
            "id": "1145615476374634502",
            "created_timestamp": "1561970988731",
            "message_create": {
                "target": {"recipient_id": "98120034"},
                "sender_id": "3306219874",
                "source_app_id": "7301455",
                "message_data": {
                    "text": "What is it about?",
                    "entities": _NO_ENTITIES,
                    "quick_reply": {
                        "type": "options",
                        "options": [
                            {
                                "label": "Where is my order?",
                                "description": "Look up a parcel",
                                "metadata": '{"goto": "orders"}',
                            },
                            {"label": "Something else", "description": "Talk to a person", "metadata": "people"},
                        ],
                    },
                },
            },
        },
        # The media id is a number, and the file is not public.
        {
            "type": "message_create",
            "id": "1145607177998696451",
            "created_timestamp": "1561969010244",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": _PHOTO_DATA,
            },
        },
        {
            "type": "message_create",
            "id": "1145601812250755077",
            "created_timestamp": "1561967730950",
            "message_create": {
                "target": {"recipient_id": "98120034"},
                "sender_id": "3306219874",
                "source_app_id": "9900112",
                "message_data": {
                    "text": "Here are two pages that may help.",
                    "entities": _NO_ENTITIES,
                    "ctas": [
                        {
                            "type": "web_url",
                            "label": "Opening hours",
                            "url": "https://tea.example.com/hours",
                            "tco_url": "https://t.co/d4Ye6Ns8Kf",
                        },
                        {
                            "type": "web_url",
                            "label": "Returns",
                            "url": "https://tea.example.com/returns",
                            "tco_url": "https://t.co/h2Vg5Pm3Jd",
                        },
                    ],
                },
            },
        },
        # A location has not been recorded; this is how it is sent, longitude first.
        {
            "type": "message_create",
            "id": "1145594604452577280",
            "created_timestamp": "1561966012477",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {
                    "text": "I am here",
                    "entities": _NO_ENTITIES,
                    "attachment": {
                        "type": "location",
                        "location": {
                            "type": "shared_coordinate",
                            "shared_coordinate": {
                                "coordinates": {"type": "Point", "coordinates": [-4.128251, 50.366042]}
                            },
                        },
                    },
                },
            },
        },
        {
            "type": "message_create",
            "id": "1145571486006771720",
            "created_timestamp": "1561960500610",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {
                    "text": "Or rather here",
                    "entities": _NO_ENTITIES,
                    "attachment": {
                        "type": "location",
                        "location": {"type": "shared_place", "shared_place": {"place": {"id": "3c91d07ae52b64f8"}}},
                    },
                },
            },
        },
        {
            "type": "message_create",
            "id": "1145562579121209351",
            "created_timestamp": "1561958377043",
            "initiated_via": {"tweet_id": "1145560997688246272"},
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {"text": "☕️", "entities": _NO_ENTITIES},
            },
        },
    ],
    "apps": {"9900112": _WEB_APP, "7301455": _OUR_APP},
    "next_cursor": "MTE0NTU2MjU3OTEyMTIwOTM1MQ",
}

# A page can be empty and not be the last; no apps then.
DIRECT_MESSAGE_LIST_EMPTY: Final[dict[str, Any]] = {"events": [], "next_cursor": "MTA4MjIzMjkzMTA1ODk3NDcyMg"}

# What is offered is one object here, no array.
QUICK_REPLY_TEXT_INPUT: Final[dict[str, Any]] = {
    "type": "message_create",
    "id": "927097806684946433",
    "created_timestamp": "1509872316415",
    "message_create": {
        "target": {"recipient_id": "98120034"},
        "sender_id": "3306219874",
        "source_app_id": "7301455",
        "message_data": {
            "text": "Which order is it?",
            "entities": _NO_ENTITIES,
            "quick_reply": {
                "type": "text_input",
                "text_input": {"keyboard": "number", "label": "The order's number", "metadata": "order_number"},
            },
        },
    },
}

# Only metadata: no label, no options.
QUICK_REPLY_LOCATION: Final[dict[str, Any]] = {
    "type": "message_create",
    "id": "927097810879250434",
    "created_timestamp": "1509872317415",
    "message_create": {
        "target": {"recipient_id": "98120034"},
        "sender_id": "3306219874",
        "source_app_id": "7301455",
        "message_data": {
            "text": "Where are you?",
            "entities": _NO_ENTITIES,
            "quick_reply": {"type": "location", "location": {"metadata": "nearest_shop"}},
        },
    },
}

# The name is inside, behind source_app_id; the page prints it outside.
WELCOME_MESSAGE_NAMED: Final[dict[str, Any]] = {
    "welcome_message": {
        "id": "1082227011998449667",
        "created_timestamp": "1546858001123",
        "message_data": {"text": "Good morning!", "entities": _NO_ENTITIES},
        "source_app_id": "7301455",
        "name": "harbour-morning 01",
    },
    "apps": {"7301455": _OUR_APP},
}

WELCOME_MESSAGE_WITH_ENTITIES: Final[dict[str, Any]] = {
    "welcome_message": {
        "id": "1091295416944689153",
        "created_timestamp": "1549020077345",
        "message_data": {
            "text": "See https://t.co/n8Lw3Bq7Ty or #askharbour or @harbourteahelp",
            "entities": {
                "hashtags": [{"text": "askharbour", "indices": [31, 42]}],
                "symbols": [],
                "user_mentions": [
                    {
                        "screen_name": "harbourteahelp",
                        "name": "Harbour Tea Help",
                        "id": 3306219875,
                        "id_str": "3306219875",
                        "indices": [46, 61],
                    }
                ],
                "urls": [
                    {
                        "url": "https://t.co/n8Lw3Bq7Ty",
                        "expanded_url": "http://tea.example.com/help",
                        "display_url": "tea.example.com/help",
                        "indices": [4, 27],
                    }
                ],
            },
        },
        "source_app_id": "7301455",
    },
    "apps": {"7301455": _OUR_APP},
}

# The cursor comes first.
WELCOME_MESSAGE_LIST: Final[dict[str, Any]] = {
    "next_cursor": "MTA5MTI5NTQxNjk0NDY4OTE1Mw",
    "welcome_messages": [WELCOME_MESSAGE_NAMED["welcome_message"], WELCOME_MESSAGE_WITH_ENTITIES["welcome_message"]],
    "apps": {"7301455": _OUR_APP},
}

WELCOME_MESSAGE_RULE: Final[dict[str, Any]] = {
    "welcome_message_rule": {
        "id": "1082227051143888905",
        "created_timestamp": "1546858010456",
        "welcome_message_id": "1082227011998449667",
    }
}

WELCOME_MESSAGE_RULE_LIST: Final[dict[str, Any]] = {
    "welcome_message_rules": [WELCOME_MESSAGE_RULE["welcome_message_rule"]]
}

# Not an empty array: no key at all.
WELCOME_MESSAGE_RULE_LIST_EMPTY: Final[dict[str, Any]] = {}

# No size yet.
MEDIA_INIT: Final[dict[str, Any]] = {
    "media_id": 1311455787733745664,
    "media_id_string": "1311455787733745664",
    "expires_after_secs": 86399,
}

# No processing_info: it can be used at once.
MEDIA_FINALIZED: Final[dict[str, Any]] = {
    "media_id": 1311455787733745664,
    "media_id_string": "1311455787733745664",
    "size": 48213,
    "expires_after_secs": 86400,
    "image": {"image_type": "image/png", "w": 640, "h": 480},
}

# What it is, is not told before it is done.
MEDIA_PENDING: Final[dict[str, Any]] = {
    "media_id": 1311497730773745664,
    "media_id_string": "1311497730773745664",
    "expires_after_secs": 86400,
    "size": 2097152,
    "processing_info": {"state": "pending", "check_after_secs": 2},
}

# No size any more.
MEDIA_IN_PROGRESS: Final[dict[str, Any]] = {
    "media_id": 1311497730773745664,
    "media_id_string": "1311497730773745664",
    "expires_after_secs": 3598,
    "processing_info": {"state": "in_progress", "check_after_secs": 5, "progress_percent": 31},
}

MEDIA_SUCCEEDED: Final[dict[str, Any]] = {
    "media_id": 1311497730773745664,
    "media_id_string": "1311497730773745664",
    "expires_after_secs": 3590,
    "video": {"video_type": "video/mp4"},
    "processing_info": {"state": "succeeded", "progress_percent": 100},
}

# Does not expire.
MEDIA_FAILED: Final[dict[str, Any]] = {
    "media_id": 1311497730773745664,
    "media_id_string": "1311497730773745664",
    "processing_info": {
        "state": "failed",
        "progress_percent": 44,
        "error": {"code": 1, "name": "InvalidMedia", "message": "The film cannot be read"},
    },
}

# The id is a string, and nothing is called media_id; some of these have no media_key.
MEDIA_V2_INITIALIZED: Final[dict[str, Any]] = {
    "data": {"id": "2081066950921814016", "media_key": "13_2081066950921814016", "expires_after_secs": 86399}
}

MEDIA_V2_FINALIZED: Final[dict[str, Any]] = {
    "data": {
        "id": "2081066950921814016",
        "media_key": "13_2081066950921814016",
        "size": 2097152,
        "expires_after_secs": 86400,
        "processing_info": {"state": "pending", "check_after_secs": 1},
    }
}

# Reading has keys, sending has none; a key is the path without the version and .json. Unused ones reset 900 s from now.
RATE_LIMIT_STATUS: Final[dict[str, Any]] = {
    "rate_limit_context": {"access_token": "3306219874-n0t4R34lT0k3n"},
    "resources": {
        "account": {
            "/account/login_verification_enrollment": {"limit": 15, "remaining": 15, "reset": 1561972900},
            "/account/settings": {"limit": 15, "remaining": 15, "reset": 1561972900},
            "/account/update_profile": {"limit": 15, "remaining": 15, "reset": 1561972900},
            "/account/verify_credentials": {"limit": 75, "remaining": 74, "reset": 1561972611},
        },
        "application": {"/application/rate_limit_status": {"limit": 180, "remaining": 176, "reset": 1561972540}},
        "custom_profiles": {
            "/custom_profiles/list": {"limit": 180, "remaining": 179, "reset": 1561972733},
            "/custom_profiles/show": {"limit": 180, "remaining": 180, "reset": 1561972900},
        },
        "direct_messages": {
            "/direct_messages": {"limit": 300, "remaining": 300, "reset": 1561972900},
            "/direct_messages/broadcasts/list": {"limit": 60, "remaining": 60, "reset": 1561972900},
            "/direct_messages/broadcasts/show": {"limit": 60, "remaining": 60, "reset": 1561972900},
            "/direct_messages/broadcasts/statuses/list": {"limit": 60, "remaining": 60, "reset": 1561972900},
            "/direct_messages/broadcasts/statuses/show": {"limit": 60, "remaining": 60, "reset": 1561972900},
            "/direct_messages/events/list": {"limit": 15, "remaining": 12, "reset": 1561972402},
            "/direct_messages/events/show": {"limit": 15, "remaining": 15, "reset": 1561972900},
            "/direct_messages/mark_read": {"limit": 1000, "remaining": 998, "reset": 1561972507},
            "/direct_messages/sent": {"limit": 300, "remaining": 300, "reset": 1561972900},
            "/direct_messages/sent_and_received": {"limit": 300, "remaining": 300, "reset": 1561972900},
            "/direct_messages/show": {"limit": 300, "remaining": 300, "reset": 1561972900},
            "/direct_messages/subscribers/ids": {"limit": 180, "remaining": 180, "reset": 1561972900},
            "/direct_messages/subscribers/lists/list": {"limit": 180, "remaining": 180, "reset": 1561972900},
            "/direct_messages/subscribers/lists/members/ids": {"limit": 180, "remaining": 180, "reset": 1561972900},
            "/direct_messages/subscribers/lists/members/show": {"limit": 1000, "remaining": 1000, "reset": 1561972900},
            "/direct_messages/subscribers/lists/show": {"limit": 180, "remaining": 180, "reset": 1561972900},
            "/direct_messages/subscribers/show": {"limit": 180, "remaining": 180, "reset": 1561972900},
        },
        "media": {"/media/upload": {"limit": 500, "remaining": 500, "reset": 1561972900}},
    },
}

# The time zone and the language are always null by now, and a background picture can be.
VERIFIED_USER: Final[dict[str, Any]] = {
    "id": 3306219874,
    "id_str": "3306219874",
    "name": "Harbour Tea",
    "screen_name": "harbourtea",
    "location": "Plymouth",
    "profile_location": None,
    "description": "Tea & biscuits by the sea. Write to @harbourteahelp.",
    "url": "https://t.co/w5Kc8Zr1Ge",
    "entities": {
        "url": {
            "urls": [
                {
                    "url": "https://t.co/w5Kc8Zr1Ge",
                    "expanded_url": "http://tea.example.com",
                    "display_url": "tea.example.com",
                    "indices": [0, 23],
                }
            ]
        },
        "description": {"urls": []},
    },
    "protected": False,
    "followers_count": 20417,
    "friends_count": 312,
    "listed_count": 96,
    "created_at": "Tue Jun 02 08:14:55 +0000 2015",
    "favourites_count": 1288,
    "utc_offset": None,
    "time_zone": None,
    "geo_enabled": True,
    "verified": True,
    "statuses_count": 5120,
    "lang": None,
    "status": {
        "created_at": "Wed Oct 16 14:02:47 +0000 2019",
        "id": 1184469739762614272,
        "id_str": "1184469739762614272",
        "text": "A new tin",
        "truncated": False,
        "entities": {"hashtags": [], "symbols": [], "user_mentions": [], "urls": []},
        "source": '<a href="http://web.example.com" rel="nofollow">A Web Client</a>',
        "in_reply_to_status_id": None,
        "in_reply_to_status_id_str": None,
        "in_reply_to_user_id": None,
        "in_reply_to_user_id_str": None,
        "in_reply_to_screen_name": None,
        "geo": None,
        "coordinates": None,
        "place": None,
        "contributors": None,
        "is_quote_status": False,
        "retweet_count": 3,
        "favorite_count": 41,
        "favorited": False,
        "retweeted": False,
        "lang": "en",
    },
    "contributors_enabled": False,
    "is_translator": False,
    "is_translation_enabled": False,
    "profile_background_color": "F5F8FA",
    "profile_background_image_url": None,
    "profile_background_image_url_https": None,
    "profile_background_tile": False,
    "profile_image_url": "http://pbs.twimg.com/profile_images/1090000000000000001/aB3dE5gH_normal.jpg",
    "profile_image_url_https": "https://pbs.twimg.com/profile_images/1090000000000000001/aB3dE5gH_normal.jpg",
    "profile_banner_url": "https://pbs.twimg.com/profile_banners/3306219874/1549020077",
    "profile_link_color": "1DA1F2",
    "profile_sidebar_border_color": "C0DEED",
    "profile_sidebar_fill_color": "DDEEF6",
    "profile_text_color": "333333",
    "profile_use_background_image": True,
    "has_extended_profile": False,
    "default_profile": True,
    "default_profile_image": False,
    "following": False,
    "follow_request_sent": False,
    "notifications": False,
    "translator_type": "none",
    "withheld_in_countries": [],
    "suspended": False,
    "needs_phone_verification": False,
}

# What an account left empty is left out, and the id is only a string.
_WEBHOOK_USERS: Final[dict[str, Any]] = {
    "98120034": {
        "id": "98120034",
        "created_timestamp": "1261311542000",
        "name": "Mira Oxley",
        "screen_name": "mira_oxley",
        "protected": True,
        "verified": False,
        "followers_count": 58,
        "friends_count": 141,
        "statuses_count": 903,
        "profile_image_url": "http://abs.twimg.com/sticky/default_profile_images/default_profile_normal.png",
        "profile_image_url_https": "https://abs.twimg.com/sticky/default_profile_images/default_profile_normal.png",
    },
    "3306219874": {
        "id": "3306219874",
        "created_timestamp": "1433232895127",
        "name": "Harbour Tea",
        "screen_name": "harbourtea",
        "location": "Plymouth",
        "description": "Tea & biscuits by the sea. Write to @harbourteahelp.",
        "url": "https://t.co/w5Kc8Zr1Ge",
        "protected": False,
        "verified": True,
        "followers_count": 20417,
        "friends_count": 312,
        "statuses_count": 5120,
        "profile_image_url": "http://pbs.twimg.com/profile_images/1090000000000000001/aB3dE5gH_normal.jpg",
        "profile_image_url_https": "https://pbs.twimg.com/profile_images/1090000000000000001/aB3dE5gH_normal.jpg",
    },
}

# No apps, as nothing in it was sent by the account.
WEBHOOK_MESSAGE_RECEIVED: Final[dict[str, Any]] = {
    "for_user_id": "3306219874",
    "direct_message_events": [
        {
            "type": "message_create",
            "id": "1247659212155125763",
            "created_timestamp": "1586300111222",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {"text": "one\ntwo &gt; three ✌️", "entities": _NO_ENTITIES},
            },
        }
    ],
    "users": _WEBHOOK_USERS,
}

WEBHOOK_MESSAGE_SENT: Final[dict[str, Any]] = {
    "for_user_id": "3306219874",
    "direct_message_events": [
        {
            "type": "message_create",
            "id": "1247659216349429764",
            "created_timestamp": "1586300112222",
            "message_create": {
                "target": {"recipient_id": "98120034"},
                "sender_id": "3306219874",
                "source_app_id": "7301455",
                "message_data": {"text": "We are on it.", "entities": _NO_ENTITIES},
            },
        }
    ],
    "apps": {"7301455": _OUR_APP},
    "users": _WEBHOOK_USERS,
}

# The text is the label that was tapped; metadata is whatever was sent, here JSON in a string.
WEBHOOK_QUICK_REPLY_ANSWER: Final[dict[str, Any]] = {
    "for_user_id": "3306219874",
    "direct_message_events": [
        {
            "type": "message_create",
            "id": "1247659678188437505",
            "created_timestamp": "1586300222333",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {
                    "text": "Where is my order?",
                    "entities": _NO_ENTITIES,
                    "quick_reply_response": {"type": "options", "metadata": '{"goto": "orders"}'},
                },
            },
        }
    ],
    "users": _WEBHOOK_USERS,
}

# Neither a type nor an id, and nothing is wrapped in message_create.
WEBHOOK_TYPING: Final[dict[str, Any]] = {
    "for_user_id": "3306219874",
    "direct_message_indicate_typing_events": [
        {"created_timestamp": "1586300220111", "sender_id": "98120034", "target": {"recipient_id": "3306219874"}}
    ],
    "users": _WEBHOOK_USERS,
}

# The sender is who read; the event that was read up to comes behind the target.
WEBHOOK_READ: Final[dict[str, Any]] = {
    "for_user_id": "3306219874",
    "direct_message_mark_read_events": [
        {
            "created_timestamp": "1586300333444",
            "sender_id": "98120034",
            "target": {"recipient_id": "3306219874"},
            "last_read_event_id": "1247659216349429764",
        }
    ],
    "users": _WEBHOOK_USERS,
}

# An animation's still picture is public, unlike a photo's.
WEBHOOK_WITH_MEDIA: Final[dict[str, Any]] = {
    "for_user_id": "3306219874",
    "direct_message_events": [
        {
            "type": "message_create",
            "id": "1217045508799856641",
            "created_timestamp": "1579001235567",
            "message_create": {
                "target": {"recipient_id": "3306219874"},
                "sender_id": "98120034",
                "message_data": {
                    "text": "Look https://t.co/z6Fh4Dc9Sv",
                    "entities": {
                        "hashtags": [],
                        "symbols": [],
                        "user_mentions": [],
                        "urls": [
                            {
                                "url": "https://t.co/z6Fh4Dc9Sv",
                                "expanded_url": "https://twitter.com/messages/media/1217045508799856641",
                                "display_url": "pic.twitter.com/z6Fh4Dc9Sv",
                                "indices": [5, 28],
                            }
                        ],
                    },
                    "attachment": {
                        "type": "media",
                        "media": {
                            "id": 1217045504605552640,
                            "id_str": "1217045504605552640",
                            "indices": [5, 28],
                            "media_url": "https://pbs.twimg.com/dm_gif_preview/1217045504605552640/tR5u-7xQ.jpg",
                            "media_url_https": "https://pbs.twimg.com/dm_gif_preview/1217045504605552640/tR5u-7xQ.jpg",
                            "url": "https://t.co/z6Fh4Dc9Sv",
                            "display_url": "pic.twitter.com/z6Fh4Dc9Sv",
                            "expanded_url": "https://twitter.com/messages/media/1217045508799856641",
                            "type": "animated_gif",
                            "sizes": {
                                "thumb": {"w": 150, "h": 150, "resize": "crop"},
                                "large": {"w": 320, "h": 240, "resize": "fit"},
                                "small": {"w": 320, "h": 240, "resize": "fit"},
                                "medium": {"w": 320, "h": 240, "resize": "fit"},
                            },
                            "video_info": {
                                "aspect_ratio": [4, 3],
                                "variants": [
                                    {
                                        "bitrate": 0,
                                        "content_type": "video/mp4",
                                        "url": "https://video.twimg.com/dm_gif/1217045504605552640/tR5u-7xQ.mp4",
                                    }
                                ],
                            },
                        },
                    },
                },
            },
        }
    ],
    "users": _WEBHOOK_USERS,
}

# Every user is below data, with a username; numbers come twice, and what is empty is "" or left out.
_XAA_USERS: Final[dict[str, Any]] = {
    "98120034": {
        "data": {
            "description": "",
            "profile_banner_url": "",
            "public_metrics": {
                "followers_count": 58,
                "followers_count_str": "58",
                "following_count": 141,
                "following_count_str": "141",
                "tweet_count": 903,
                "tweet_count_str": "903",
                "listed_count": 0,
                "listed_count_str": "0",
                "like_count": 77,
                "like_count_str": "77",
                "media_count": 4,
                "media_count_str": "4",
            },
            "protected": True,
            "url": "",
            "is_identity_verified": False,
            "id": "98120034",
            "profile_image_url": "https://pbs.twimg.com/profile_images/1700000000000000002/iJ6kL8mN_normal.jpg",
            "verified_type": "none",
            "created_at": "2009-12-20T12:19:02.000Z",
            "username": "mira_oxley",
            "verified": False,
            "name": "Mira Oxley",
        }
    },
    "3306219874": {
        "data": {
            "description": "Tea & biscuits by the sea. Write to @harbourteahelp.",
            "profile_banner_url": "https://pbs.twimg.com/profile_banners/3306219874/1549020077",
            "entities": {
                "url": {
                    "urls": [
                        {
                            "start": 0,
                            "start_str": "0",
                            "end": 23,
                            "end_str": "23",
                            "url": "https://t.co/w5Kc8Zr1Ge",
                            "expanded_url": "https://tea.example.com",
                            "display_url": "tea.example.com",
                        }
                    ]
                },
                "description": {
                    "mentions": [
                        {"start": 36, "start_str": "36", "end": 51, "end_str": "51", "username": "harbourteahelp"}
                    ]
                },
            },
            "public_metrics": {
                "followers_count": 20417,
                "followers_count_str": "20417",
                "following_count": 312,
                "following_count_str": "312",
                "tweet_count": 5120,
                "tweet_count_str": "5120",
                "listed_count": 96,
                "listed_count_str": "96",
                "like_count": 1288,
                "like_count_str": "1288",
                "media_count": 640,
                "media_count_str": "640",
            },
            "location": "Plymouth",
            "protected": False,
            "url": "https://t.co/w5Kc8Zr1Ge",
            "affiliation": {
                "description": "Harbour Group",
                "badge_url": "https://pbs.twimg.com/profile_images/1700000000000000003/oP9qR1sT_normal.jpg",
                "url": "https://twitter.com/harbourgroup",
            },
            "is_identity_verified": False,
            "id": "3306219874",
            "profile_image_url": "https://pbs.twimg.com/profile_images/1090000000000000001/aB3dE5gH_normal.jpg",
            "verified_type": "business",
            "created_at": "2015-06-02T08:14:55.000Z",
            "username": "harbourtea",
            "verified": True,
            "name": "Harbour Tea",
        }
    },
}

# Whose it is, is told by filter, not for_user_id; event_uuid may be negative.
XAA_RECEIVED: Final[dict[str, Any]] = {
    "data": {
        "event_uuid": "-4410927365518203377",
        "filter": {"user_id": "3306219874"},
        "event_type": "dm.received",
        "tag": "teapot-in",
        "payload": {
            "direct_message_events": [
                {
                    "type": "message_create",
                    "id": "2081067416955125764",
                    "created_timestamp": "1785000111222",
                    "message_create": {
                        "target": {"recipient_id": "3306219874"},
                        "sender_id": "98120034",
                        "message_data": {"text": "Do you have green tea &amp; cups?", "entities": _NO_ENTITIES},
                    },
                }
            ],
            "users": _XAA_USERS,
        },
    }
}

# Neither source_app_id nor apps, although the account sent it; without a tag if the subscription has none.
XAA_SENT: Final[dict[str, Any]] = {
    "data": {
        "event_uuid": "2081067882988437508",
        "filter": {"user_id": "3306219874"},
        "event_type": "dm.sent",
        "payload": {
            "direct_message_events": [
                {
                    "type": "message_create",
                    "id": "2081067882988437508",
                    "created_timestamp": "1785000222333",
                    "message_create": {
                        "target": {"recipient_id": "98120034"},
                        "sender_id": "3306219874",
                        "message_data": {"text": "We have both.", "entities": _NO_ENTITIES},
                    },
                }
            ],
            "users": _XAA_USERS,
        },
    }
}

# This payload is printed and recorded nowhere; it is taken to be the older webhooks', as a message's is.
XAA_TYPING: Final[dict[str, Any]] = {
    "data": {
        "event_uuid": "6120394857761203948",
        "filter": {"user_id": "3306219874"},
        "event_type": "dm.indicate_typing",
        "tag": "teapot-typing",
        "payload": {
            "direct_message_indicate_typing_events": [
                {
                    "created_timestamp": "1785000109000",
                    "sender_id": "98120034",
                    "target": {"recipient_id": "3306219874"},
                }
            ],
            "users": _XAA_USERS,
        },
    }
}

# A guess likewise.
XAA_READ: Final[dict[str, Any]] = {
    "data": {
        "event_uuid": "-7730481926650192837",
        "filter": {"user_id": "3306219874"},
        "event_type": "dm.read",
        "tag": "teapot-read",
        "payload": {
            "direct_message_mark_read_events": [
                {
                    "created_timestamp": "1785000230000",
                    "sender_id": "98120034",
                    "target": {"recipient_id": "3306219874"},
                    "last_read_event_id": "2081067882988437508",
                }
            ],
            "users": _XAA_USERS,
        },
    }
}

V2_PROBLEM: Final[dict[str, Any]] = {
    "title": "Forbidden",
    "detail": "This file may not be put into a message.",
    "type": "about:blank",
    "status": 403,
}

# One text, and no code.
ERROR_TEXT: Final[dict[str, Any]] = {"request": "/1.1/media/upload.json", "error": "No such type of media."}

# The keys come in either order, and there may be several.
ERRORS_LIST: Final[dict[str, Any]] = {
    "errors": [
        {"code": 214, "message": "event.message_create.target.recipient_id: 'mira' is no number"},
        {"message": "message_data has nothing in it", "code": 214},
    ]
}

REQUEST_WITH_PROFILE: Final[dict[str, Any]] = {
    "event": {
        "type": "message_create",
        "message_create": {
            "target": {"recipient_id": "98120034"},
            "message_data": {
                "text": "Hello, Tom here. What is it about?",
                "quick_reply": {
                    "type": "options",
                    "options": [
                        {"label": "An order", "description": "Look up a parcel", "metadata": "orders"},
                        {"label": "Something else", "description": "Talk to a person", "metadata": "people"},
                    ],
                },
                "ctas": [
                    {"type": "web_url", "label": "Opening hours", "url": "https://tea.example.com/hours"},
                    {"type": "web_url", "label": "Returns", "url": "https://tea.example.com/returns"},
                ],
                "attachment": {"type": "media", "media": {"id": "1311455787733745664"}},
            },
            "custom_profile_id": "700000000000000031",
        },
    }
}
