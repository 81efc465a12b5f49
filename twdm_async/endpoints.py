"""The API as data: one row for each call.

A row says everything about a call that is not its arguments: where it goes, how its arguments are written, which
quota it spends, what its answer is wrapped in, and what repeating it would do. Nothing else in the package knows a
path.
"""

from __future__ import annotations

import enum
from typing import Literal, cast

from attrs import frozen

Method = Literal["GET", "POST", "PUT", "DELETE"]


class Host(enum.Enum):
    """Which of the API's two hosts serves the call."""

    API = "api"
    UPLOAD = "upload"


class Encoding(enum.Enum):
    """How the arguments travel. Query and form are part of the OAuth signature; JSON and multipart are not."""

    JSON = "json"
    FORM = "form"
    QUERY = "query"
    MULTIPART = "multipart"


class Safety(enum.Enum):
    """What happens if the server gets the same request twice."""

    SEND_ONCE = "send-once"
    """It is done twice. Never sent again once a byte has left."""
    IDEMPOTENT = "idempotent"
    """The second one changes nothing that matters."""
    READ = "read"
    """It only reads."""


@frozen(kw_only=True)
class Endpoint:
    """One call of the API.

    Args:
        name: ``resource.verb``, the name quotas and errors use.
        method: the HTTP method.
        host: which host.
        path: path template; ``{id}`` stands for an id.
        encoding: how the arguments are written.
        family: the row of the quota table whose slots it takes.
        safety: what repeating it would do.
        answer: the key the answer's object is wrapped in; ``""`` if it is not wrapped, ``None`` if there is no body.
        listed_as: what the API's own listing of quotas calls it; ``None`` if it is not listed.
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
        path=f"/1.1/{path}",
        encoding=encoding,
        family=name,
        safety=safety,
        answer=answer,
        listed_as=listed_as,
    )


_JSON, _FORM, _QUERY, _MULTIPART = Encoding.JSON, Encoding.FORM, Encoding.QUERY, Encoding.MULTIPART
_ONCE, _IDEMPOTENT, _READ = Safety.SEND_ONCE, Safety.IDEMPOTENT, Safety.READ
_UPLOAD = "media/upload.json"

ENDPOINTS: dict[str, Endpoint] = {
    row.name: row
    for row in (
        _row("custom_profiles.create", "POST custom_profiles/new.json", _JSON, _ONCE, "custom_profile"),
        _row(
            "custom_profiles.get",
            "GET custom_profiles/{id}.json",
            _QUERY,
            _READ,
            "custom_profile",
            listed_as="/custom_profiles/show",
        ),
        _row(
            "custom_profiles.list",
            "GET custom_profiles/list.json",
            _QUERY,
            _READ,
            "",
            listed_as="/custom_profiles/list",
        ),
        _row("custom_profiles.delete", "DELETE custom_profiles/destroy.json", _QUERY, _IDEMPOTENT, None),
        _row("direct_messages.send", "POST direct_messages/events/new.json", _JSON, _ONCE, "event"),
        _row(
            "direct_messages.list",
            "GET direct_messages/events/list.json",
            _QUERY,
            _READ,
            "",
            listed_as="/direct_messages/events/list",
        ),
        _row(
            "welcome_messages.create",
            "POST direct_messages/welcome_messages/new.json",
            _JSON,
            _ONCE,
            "welcome_message",
        ),
        _row(
            "account.update_profile",
            "POST account/update_profile.json",
            _FORM,
            _IDEMPOTENT,
            "",
            listed_as="/account/update_profile",
        ),
        _row(
            "account.verify_credentials",
            "GET account/verify_credentials.json",
            _QUERY,
            _READ,
            "",
            listed_as="/account/verify_credentials",
        ),
        _row(
            "application.rate_limit_status",
            "GET application/rate_limit_status.json",
            _QUERY,
            _READ,
            "",
            listed_as="/application/rate_limit_status",
        ),
        # An upload that is done twice leaves an unused file that the API forgets after a day.
        _row("media.upload", f"POST {_UPLOAD}", _MULTIPART, _IDEMPOTENT, "", host=Host.UPLOAD),
        _row("media.upload_init", f"POST {_UPLOAD}", _FORM, _IDEMPOTENT, "", host=Host.UPLOAD),
        _row("media.upload_append", f"POST {_UPLOAD}", _MULTIPART, _IDEMPOTENT, None, host=Host.UPLOAD),
        _row("media.upload_finalize", f"POST {_UPLOAD}", _FORM, _IDEMPOTENT, "", host=Host.UPLOAD),
        _row("media.upload_status", f"GET {_UPLOAD}", _QUERY, _READ, "", host=Host.UPLOAD),
    )
}
