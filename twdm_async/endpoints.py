"""The API as data: a table with one row for each endpoint.

A row says everything about a call except its arguments: where the request goes, how the arguments are encoded, which
quota it spends, which key of the answer holds the object, and whether the request may be repeated. No other module
knows a path of the API.
"""

from __future__ import annotations

import enum
from typing import Literal, cast

from attrs import frozen

Method = Literal["GET", "POST", "PUT", "DELETE"]
MediaApi = Literal["v1.1", "v2"]
"""Which of the API's two ways to upload is used."""


class Host(enum.StrEnum):
    """The API's hosts."""

    API = "api"
    UPLOAD = "upload"
    FILES = "files"
    """The host of files that are attached to messages. The messages contain the files' URLs."""


class Encoding(enum.Enum):
    """How the arguments are encoded. Query and form are part of the OAuth signature; JSON and multipart are not."""

    JSON = "json"
    FORM = "form"
    QUERY = "query"
    MULTIPART = "multipart"


class Safety(enum.Enum):
    """What happens if the server gets the same request twice."""

    SEND_ONCE = "send-once"
    """The server acts twice. The request is never repeated once a byte of it has left."""
    IDEMPOTENT = "idempotent"
    """The second request changes nothing that matters."""
    READ = "read"
    """The request only reads."""


@frozen(kw_only=True)
class Endpoint:
    """One endpoint of the API.

    Args:
        name: ``resource.verb``, the name that quotas and errors use.
        method: the HTTP method.
        host: the host that serves it.
        path: the path template; ``{id}`` stands for an id, or for the path of a message's file.
        encoding: how the arguments are encoded.
        family: the row of the quota table whose slots its requests take.
        safety: what repeating a request would do.
        answer: the key of the answer that holds the object; ``""`` if the object is the answer itself, ``None`` if the
            answer has no body.
        listed_as: its name in the API's own list of quotas; ``None`` if it is not listed.
    """

    name: str
    method: Method
    host: Host
    path: str
    encoding: Encoding
    family: str
    safety: Safety
    answer: str | None
    listed_as: str | None


def _row(
    name: str,
    request: str,
    encoding: Encoding,
    safety: Safety,
    answer: str | None,
    *,
    host: Host = Host.API,
    listed_as: str | None = None,
) -> Endpoint:
    method, path = request.split()
    return Endpoint(
        name=name,
        method=cast("Method", method),
        host=host,
        path=path if path.startswith("/") else f"/1.1/{path}",
        encoding=encoding,
        family=name,
        safety=safety,
        answer=answer,
        listed_as=listed_as,
    )


_JSON, _FORM, _QUERY, _MULTIPART = Encoding.JSON, Encoding.FORM, Encoding.QUERY, Encoding.MULTIPART
_ONCE, _IDEMPOTENT, _READ = Safety.SEND_ONCE, Safety.IDEMPOTENT, Safety.READ
_UPLOAD = Host.UPLOAD
_PROFILES, _EVENTS = "custom_profiles", "direct_messages/events"
_WELCOME, _RULES = "direct_messages/welcome_messages", "direct_messages/welcome_messages/rules"
_MEDIA, _MEDIA_V2 = "media/upload.json", "/2/media/upload"

# fmt: off
ENDPOINTS: dict[str, Endpoint] = {
    row.name: row
    for row in (
        _row("custom_profiles.create", f"POST {_PROFILES}/new.json", _JSON, _ONCE, "custom_profile"),
        _row("custom_profiles.get", f"GET {_PROFILES}/{{id}}.json", _QUERY, _READ, "custom_profile", listed_as="/custom_profiles/show"),
        _row("custom_profiles.list", f"GET {_PROFILES}/list.json", _QUERY, _READ, "", listed_as="/custom_profiles/list"),
        _row("custom_profiles.delete", f"DELETE {_PROFILES}/destroy.json", _QUERY, _IDEMPOTENT, None),
        _row("direct_messages.send", f"POST {_EVENTS}/new.json", _JSON, _ONCE, "event"),
        _row("direct_messages.get", f"GET {_EVENTS}/show.json", _QUERY, _READ, "event", listed_as="/direct_messages/events/show"),
        _row("direct_messages.list", f"GET {_EVENTS}/list.json", _QUERY, _READ, "", listed_as="/direct_messages/events/list"),
        _row("direct_messages.delete", f"DELETE {_EVENTS}/destroy.json", _QUERY, _IDEMPOTENT, None),
        _row("direct_messages.indicate_typing", "POST direct_messages/indicate_typing.json", _FORM, _IDEMPOTENT, None),
        _row("direct_messages.mark_read", "POST direct_messages/mark_read.json", _FORM, _IDEMPOTENT, None, listed_as="/direct_messages/mark_read"),
        _row("direct_messages.download", "GET /{id}", _QUERY, _READ, None, host=Host.FILES),
        _row("welcome_messages.create", f"POST {_WELCOME}/new.json", _JSON, _ONCE, "welcome_message"),
        _row("welcome_messages.get", f"GET {_WELCOME}/show.json", _QUERY, _READ, "welcome_message"),
        _row("welcome_messages.list", f"GET {_WELCOME}/list.json", _QUERY, _READ, ""),
        _row("welcome_messages.update", f"PUT {_WELCOME}/update.json?id={{id}}", _JSON, _IDEMPOTENT, "welcome_message"),
        _row("welcome_messages.delete", f"DELETE {_WELCOME}/destroy.json", _QUERY, _IDEMPOTENT, None),
        _row("welcome_message_rules.create", f"POST {_RULES}/new.json", _JSON, _ONCE, "welcome_message_rule"),
        _row("welcome_message_rules.get", f"GET {_RULES}/show.json", _QUERY, _READ, "welcome_message_rule"),
        _row("welcome_message_rules.list", f"GET {_RULES}/list.json", _QUERY, _READ, ""),
        _row("welcome_message_rules.delete", f"DELETE {_RULES}/destroy.json", _QUERY, _IDEMPOTENT, None),
        _row("account.update_profile", "POST account/update_profile.json", _FORM, _IDEMPOTENT, "", listed_as="/account/update_profile"),
        _row("account.verify_credentials", "GET account/verify_credentials.json", _QUERY, _READ, "", listed_as="/account/verify_credentials"),
        _row("application.rate_limit_status", "GET application/rate_limit_status.json", _QUERY, _READ, "", listed_as="/application/rate_limit_status"),
        _row("users.get", "GET users/show.json", _QUERY, _READ, "", listed_as="/users/show/:id"),
        # A repeated upload leaves an unused file, which the API forgets after a day. A repeated segment replaces
        # itself.
        _row("media.upload", f"POST {_MEDIA}", _MULTIPART, _IDEMPOTENT, "", host=_UPLOAD),
        _row("media.upload_init", f"POST {_MEDIA}", _FORM, _IDEMPOTENT, "", host=_UPLOAD),
        _row("media.upload_append", f"POST {_MEDIA}", _MULTIPART, _IDEMPOTENT, None, host=_UPLOAD),
        _row("media.upload_finalize", f"POST {_MEDIA}", _FORM, _IDEMPOTENT, "", host=_UPLOAD),
        _row("media.upload_status", f"GET {_MEDIA}", _QUERY, _READ, "", host=_UPLOAD),
        _row("media_v2.upload", f"POST {_MEDIA_V2}", _MULTIPART, _IDEMPOTENT, "data"),
        _row("media_v2.initialize", f"POST {_MEDIA_V2}/initialize", _JSON, _IDEMPOTENT, "data"),
        _row("media_v2.append", f"POST {_MEDIA_V2}/{{id}}/append", _MULTIPART, _IDEMPOTENT, None),
        _row("media_v2.finalize", f"POST {_MEDIA_V2}/{{id}}/finalize", _JSON, _IDEMPOTENT, "data"),
        _row("media_v2.status", f"GET {_MEDIA_V2}", _QUERY, _READ, "data"),
    )
}
# fmt: on
