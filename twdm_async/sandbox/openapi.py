"""The operations of the API under ``/_sandbox/``, and their OpenAPI description."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from twdm_async.sandbox.call import Json
from twdm_async.sandbox.guard import HEADER


@frozen
class Operation:
    """One operation of the API.

    Args:
        method: the HTTP method.
        path: the path, with placeholders in braces.
        name: its operation id.
        summary: a sentence that says what it does.
        query: the descriptions of its query parameters, by name.
        body: the schemas of the members of its JSON body, by name.
        required: the names of the required members of the body.
    """

    method: str
    path: str
    name: str
    summary: str
    query: dict[str, str] = field(factory=dict[str, str])
    body: dict[str, Json] = field(factory=dict[str, "Json"])
    required: tuple[str, ...] = ()


_TEXT: Final = {"type": "string"}
_ACCOUNT: Final[dict[str, Json]] = {
    "account": {"type": "string", "description": "The account's user id; the first account if not given."}
}
_BY: Final = {"type": "string", "description": "Who decides; `the page` if not given."}
_WAIT: Final = {"wait": "Seconds to wait, up to 300, until there is something to return."}
_MOST: Final = {"most": "How many to return, the latest ones; up to 1000. 50 if not given."}
_FILTERS: Final = {
    "account": "Only of this account.",
    "person": "Only of the conversation with this person.",
    "from": "Only messages from `account` or from `person`.",
    "profile": "Only under this custom profile.",
    "text": "Only messages whose text contains this.",
    "after": "Only messages after the one of this id.",
    "before": "Only messages before the one of this id.",
}

OPERATIONS: Final = (
    Operation("GET", "/_sandbox/openapi.json", "describe", "This description."),
    Operation("GET", "/_sandbox/state", "show_state", "Accounts, quotas, faults, webhooks, time and counts."),
    Operation(
        "GET",
        "/_sandbox/environment",
        "show_environment",
        "The environment variables with which programs use this sandbox, its keys among them.",
    ),
    Operation(
        "GET", "/_sandbox/people", "list_people", "Every conversation with its latest message, the latest first."
    ),
    Operation(
        "GET",
        "/_sandbox/messages",
        "list_messages",
        "Messages in the order in which they were made.",
        {**_FILTERS, **_MOST, **_WAIT, "count": "With `wait`: how many messages to wait for; 1 if not given."},
    ),
    Operation(
        "GET",
        "/_sandbox/messages/latest",
        "latest_message",
        "The latest message. 404 if there is none.",
        _FILTERS | _WAIT,
    ),
    Operation(
        "POST",
        "/_sandbox/people/{id}/write",
        "write",
        "Write to an account as this person.",
        body={"text": _TEXT} | _ACCOUNT,
        required=("text",),
    ),
    Operation(
        "POST",
        "/_sandbox/people/{id}/tap",
        "tap",
        "Tap the quick reply of this label: of the latest message that offers it, or of the welcome message.",
        body={"label": _TEXT} | _ACCOUNT,
        required=("label",),
    ),
    Operation(
        "POST", "/_sandbox/people/{id}/type", "type", "Let the account see that this person types.", body=_ACCOUNT
    ),
    Operation(
        "POST", "/_sandbox/people/{id}/read", "read", "Let the account see that this person has read.", body=_ACCOUNT
    ),
    Operation(
        "GET",
        "/_sandbox/requests",
        "list_requests",
        "Requests to the Twitter API, what they were answered, and why they were refused.",
        {
            "after": "Only requests after the one of this number.",
            "refused": "`true`: only requests that were refused, or with which something went wrong on purpose.",
            **_MOST,
            **_WAIT,
        },
    ),
    Operation("GET", "/_sandbox/quotas", "show_quotas", "Every window of a quota that has begun and not ended."),
    Operation("GET", "/_sandbox/faults", "show_faults", "The faults that are switched on, and all kinds there are."),
    Operation(
        "POST",
        "/_sandbox/faults",
        "add_fault",
        "Let something go wrong.",
        body={
            "kinds": {
                "description": "A kind, or several, of which one is drawn each time.",
                "oneOf": [_TEXT, {"type": "array", "items": _TEXT}],
            },
            "endpoint": {"type": ["string", "null"], "description": "Whose requests; all if not given."},
            "nth": {"type": ["integer", "null"], "description": "Only the nth of them, from 1."},
            "probability": {"type": "number", "description": "With which it happens; 1 if not given."},
            "recipient_id": {"type": ["string", "null"], "description": "Only of messages to this person."},
            "processed": {"type": ["boolean", "null"], "description": "Whether the request is carried out first."},
        },
        required=("kinds",),
    ),
    Operation(
        "DELETE",
        "/_sandbox/faults",
        "remove_faults",
        "Switch faults off.",
        {"kind": "Only those of this kind; all if not given."},
    ),
    Operation(
        "GET",
        "/_sandbox/held",
        "list_held",
        "The messages that wait for approval in the outbox that the sandbox shows.",
    ),
    Operation(
        "POST",
        "/_sandbox/held/approve",
        "approve",
        "Let a message that waits for approval be sent.",
        body={"key": _TEXT, "by": _BY},
        required=("key",),
    ),
    Operation(
        "POST",
        "/_sandbox/held/reject",
        "reject",
        "Reject a message that waits for approval.",
        body={"key": _TEXT, "why": _TEXT, "by": _BY},
        required=("key", "why"),
    ),
    Operation("GET", "/_sandbox/time", "show_time", "What time it is in the sandbox."),
    Operation(
        "POST",
        "/_sandbox/time",
        "advance_time",
        "Move the sandbox's clock forward.",
        body={"advance": {"description": "Seconds, or text such as `15min` or `24h`.", "type": ["string", "number"]}},
        required=("advance",),
    ),
    Operation("GET", "/_sandbox/webhooks", "show_webhooks", "Who listens to events."),
    Operation(
        "POST",
        "/_sandbox/webhooks",
        "subscribe",
        "Send an account's events to a URL, after a check that whoever listens knows the consumer secret.",
        body={
            "url": _TEXT,
            "envelope": {"enum": ["account_activity", "x_activity", "x_activity_flat"]},
            **_ACCOUNT,
        },
        required=("url",),
    ),
    Operation("DELETE", "/_sandbox/webhooks", "unsubscribe", "Send no events to a URL any more.", {"url": "The URL."}),
    Operation("POST", "/_sandbox/clear", "clear", "Forget all messages, requests and what was spent."),
    Operation(
        "GET",
        "/_sandbox/events",
        "events",
        "What happens, as server-sent events: `message`, `request`, `typing`, `read`, `webhook`, `problem`, `faults`, "
        "`time`, `cleared`; and `reset` if too much was missed. The header `Last-Event-ID` says where to go on.",
        {"after": "The id of the event after which to begin, if there is no header `Last-Event-ID`."},
    ),
)


def described() -> Json:
    """Return the OpenAPI description of the API."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        parameters: list[Json] = [
            {"name": name, "in": "query", "description": text, "schema": _TEXT}
            for name, text in operation.query.items()
        ]
        if "{id}" in operation.path:
            parameters.append({"name": "id", "in": "path", "required": True, "schema": _TEXT})
        if operation.method != "GET":
            parameters.append({"name": HEADER, "in": "header", "required": True, "schema": _TEXT})
        content = "text/event-stream" if operation.name == "events" else "application/json"
        described: Json = {
            "operationId": operation.name,
            "summary": operation.summary,
            "parameters": parameters,
            "responses": {
                "200": {"description": "Done.", "content": {content: {}}},
                "400": {"description": "The request is wrong; `error` says how."},
                "403": {"description": "It comes from somewhere else; `error` says why that is thought."},
                "404": {"description": "There is no such thing."},
            },
        }
        if operation.body:
            schema = {"type": "object", "properties": operation.body, "required": list(operation.required)}
            described["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "The sandbox of twdm_async", "version": "1"},
        "paths": paths,
    }
