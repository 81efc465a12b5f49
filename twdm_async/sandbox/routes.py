"""The routes of the API: the path of each call, the quota that it counts against, and its handler.

Paths, limits and messages are the API's own. They are repeated here on purpose: a double that took them from the
client's table would repeat the client's mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from twdm_async.sandbox import accounts, messages, uploads, welcome
from twdm_async.sandbox.call import Answer, Call
from twdm_async.sandbox.state import State

Handler = Callable[[State, Call], Answer]


@frozen
class Route:
    """One route: method and path, the endpoint family whose quota it counts against, its handler, and whether its reply
    reports the quota in headers.
    """

    method: str
    path: str
    family: str
    handler: Handler
    tells_limits: bool

    def family_of(self, command: str | None) -> str:
        """Return the endpoint family whose quota a request counts against. For an upload it depends on the command."""
        if self.family != "media.upload" or command is None:
            return self.family
        return {"INIT": "media.upload_init", "APPEND": "media.upload_append", "FINALIZE": "media.upload_finalize"}.get(
            command, self.family
        )


_DM: Final = "/1.1/direct_messages"
_WELCOME: Final = f"{_DM}/welcome_messages"

ROUTES: Final = (
    Route("POST", "/1.1/custom_profiles/new.json", "custom_profiles.create", accounts.create_profile, False),
    Route("GET", "/1.1/custom_profiles/list.json", "custom_profiles.list", accounts.list_profiles, True),
    Route("GET", r"/1.1/custom_profiles/{id:\d+}.json", "custom_profiles.get", accounts.get_profile, True),
    Route("DELETE", "/1.1/custom_profiles/destroy.json", "custom_profiles.delete", accounts.delete_profile, False),
    Route("POST", f"{_DM}/events/new.json", "direct_messages.send", messages.send_message, False),
    Route("GET", f"{_DM}/events/show.json", "direct_messages.get", messages.get_message, True),
    Route("GET", f"{_DM}/events/list.json", "direct_messages.list", messages.list_messages, True),
    Route("DELETE", f"{_DM}/events/destroy.json", "direct_messages.delete", messages.delete_message, False),
    Route("POST", f"{_DM}/indicate_typing.json", "direct_messages.indicate_typing", messages.indicate_typing, False),
    Route("POST", f"{_DM}/mark_read.json", "direct_messages.mark_read", messages.mark_read, False),
    Route(
        "GET", r"/1.1/ton/data/dm/{event:\d+}/{media:\d+}/file", "direct_messages.download", messages.serve_file, False
    ),
    Route("POST", f"{_WELCOME}/new.json", "welcome_messages.create", welcome.create_welcome_message, False),
    Route("GET", f"{_WELCOME}/show.json", "welcome_messages.get", welcome.get_welcome_message, True),
    Route("GET", f"{_WELCOME}/list.json", "welcome_messages.list", welcome.list_welcome_messages, True),
    Route("PUT", f"{_WELCOME}/update.json", "welcome_messages.update", welcome.update_welcome_message, False),
    Route("DELETE", f"{_WELCOME}/destroy.json", "welcome_messages.delete", welcome.delete_welcome_message, False),
    Route("POST", f"{_WELCOME}/rules/new.json", "welcome_message_rules.create", welcome.create_rule, False),
    Route("GET", f"{_WELCOME}/rules/show.json", "welcome_message_rules.get", welcome.get_rule, True),
    Route("GET", f"{_WELCOME}/rules/list.json", "welcome_message_rules.list", welcome.list_rules, True),
    Route("DELETE", f"{_WELCOME}/rules/destroy.json", "welcome_message_rules.delete", welcome.delete_rule, False),
    Route("POST", "/1.1/account/update_profile.json", "account.update_profile", accounts.update_profile, False),
    Route("GET", "/1.1/account/verify_credentials.json", "account.verify_credentials", accounts.show_account, True),
    Route(
        "GET", "/1.1/application/rate_limit_status.json", "application.rate_limit_status", accounts.show_limits, True
    ),
    Route("GET", "/1.1/users/show.json", "users.get", accounts.show_user, True),
    Route("POST", "/1.1/media/upload.json", "media.upload", uploads.upload, True),
    Route("GET", "/1.1/media/upload.json", "media.upload_status", uploads.upload_status, True),
    Route("POST", "/2/media/upload", "media_v2.upload", uploads.upload_v2, True),
    Route("GET", "/2/media/upload", "media_v2.status", uploads.upload_status_v2, True),
    Route("POST", "/2/media/upload/initialize", "media_v2.initialize", uploads.initialize_v2, True),
    Route("POST", r"/2/media/upload/{id:\d+}/append", "media_v2.append", uploads.append_v2, True),
    Route("POST", r"/2/media/upload/{id:\d+}/finalize", "media_v2.finalize", uploads.finalize_v2, True),
)
