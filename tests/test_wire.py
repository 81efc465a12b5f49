"""What goes over the wire, to the byte, and every shape of what comes back."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import samples
from twdm_async import errors
from twdm_async.endpoints import ENDPOINTS, Encoding, Host
from twdm_async.models import CustomProfile, DirectMessage, User, WelcomeMessage
from twdm_async.transport import wire
from twdm_async.transport.wire import File, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

HOSTS = {
    Host.API: "https://api.twitter.com",
    Host.UPLOAD: "https://upload.twitter.com",
    Host.FILES: "https://ton.twitter.com",
}
SEND = ENDPOINTS["direct_messages.send"]
GET = ENDPOINTS["custom_profiles.get"]

# name, arguments, path id -> method, whole URL, body
GOLDEN: dict[str, tuple[dict[str, Any], str | None, str, str, Any]] = {
    "custom_profiles.create": (
        {"custom_profile": {"name": "Jön", "avatar": {"media": {"id": "1234"}}}},
        None,
        "POST",
        "https://api.twitter.com/1.1/custom_profiles/new.json",
        '{"custom_profile":{"name":"Jön","avatar":{"media":{"id":"1234"}}}}'.encode(),
    ),
    "custom_profiles.get": ({}, "100001", "GET", "https://api.twitter.com/1.1/custom_profiles/100001.json", b""),
    "custom_profiles.list": (
        {"count": "50", "cursor": "a+b/c=="},
        None,
        "GET",
        "https://api.twitter.com/1.1/custom_profiles/list.json?count=50&cursor=a%2Bb%2Fc%3D%3D",
        b"",
    ),
    "custom_profiles.delete": (
        {"id": "5"},
        None,
        "DELETE",
        "https://api.twitter.com/1.1/custom_profiles/destroy.json?id=5",
        b"",
    ),
    "direct_messages.send": (
        {"event": {"type": "message_create"}},
        None,
        "POST",
        "https://api.twitter.com/1.1/direct_messages/events/new.json",
        b'{"event":{"type":"message_create"}}',
    ),
    "direct_messages.list": (
        {"count": "50", "cursor": "MTE0MjA5ODA3OTUyNjYwMDcwOA"},
        None,
        "GET",
        "https://api.twitter.com/1.1/direct_messages/events/list.json?count=50&cursor=MTE0MjA5ODA3OTUyNjYwMDcwOA",
        b"",
    ),
    "welcome_messages.create": (
        {"welcome_message": {"message_data": {"text": "hi"}}},
        None,
        "POST",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/new.json",
        b'{"welcome_message":{"message_data":{"text":"hi"}}}',
    ),
    "account.update_profile": (
        {"name": "A & B", "description": "", "url": "é*~!'()"},
        None,
        "POST",
        "https://api.twitter.com/1.1/account/update_profile.json",
        b"name=A%20%26%20B&description=&url=%C3%A9%2A~%21%27%28%29",
    ),
    "account.verify_credentials": (
        {"skip_status": "true"},
        None,
        "GET",
        "https://api.twitter.com/1.1/account/verify_credentials.json?skip_status=true",
        b"",
    ),
    "users.get": (
        {"screen_name": "jane_doe"},
        None,
        "GET",
        "https://api.twitter.com/1.1/users/show.json?screen_name=jane_doe",
        b"",
    ),
    "application.rate_limit_status": (
        {"resources": "account,custom_profiles"},
        None,
        "GET",
        "https://api.twitter.com/1.1/application/rate_limit_status.json?resources=account%2Ccustom_profiles",
        b"",
    ),
    "media.upload": (
        {"media": File(b"x", "image/png")},
        None,
        "POST",
        "https://upload.twitter.com/1.1/media/upload.json",
        {"media": File(b"x", "image/png")},
    ),
    "media.upload_init": (
        {"command": "INIT"},
        None,
        "POST",
        "https://upload.twitter.com/1.1/media/upload.json",
        b"command=INIT",
    ),
    "media.upload_append": (
        {"command": "APPEND"},
        None,
        "POST",
        "https://upload.twitter.com/1.1/media/upload.json",
        {"command": "APPEND"},
    ),
    "media.upload_finalize": (
        {"command": "FINALIZE"},
        None,
        "POST",
        "https://upload.twitter.com/1.1/media/upload.json",
        b"command=FINALIZE",
    ),
    "media.upload_status": (
        {"command": "STATUS", "media_id": "1"},
        None,
        "GET",
        "https://upload.twitter.com/1.1/media/upload.json?command=STATUS&media_id=1",
        b"",
    ),
    "direct_messages.get": (
        {"id": "7"},
        None,
        "GET",
        "https://api.twitter.com/1.1/direct_messages/events/show.json?id=7",
        b"",
    ),
    "direct_messages.delete": (
        {"id": "7"},
        None,
        "DELETE",
        "https://api.twitter.com/1.1/direct_messages/events/destroy.json?id=7",
        b"",
    ),
    "direct_messages.indicate_typing": (
        {"recipient_id": "5"},
        None,
        "POST",
        "https://api.twitter.com/1.1/direct_messages/indicate_typing.json",
        b"recipient_id=5",
    ),
    "direct_messages.mark_read": (
        {"last_read_event_id": "7", "recipient_id": "5"},
        None,
        "POST",
        "https://api.twitter.com/1.1/direct_messages/mark_read.json",
        b"last_read_event_id=7&recipient_id=5",
    ),
    "direct_messages.download": (
        {},
        "1.1/ton/data/dm/7/8/a.jpg",
        "GET",
        "https://ton.twitter.com/1.1/ton/data/dm/7/8/a.jpg",
        b"",
    ),
    "welcome_messages.get": (
        {"id": "7"},
        None,
        "GET",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/show.json?id=7",
        b"",
    ),
    "welcome_messages.list": (
        {"count": "50"},
        None,
        "GET",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/list.json?count=50",
        b"",
    ),
    "welcome_messages.update": (
        {"message_data": {"text": "hi"}},
        "7",
        "PUT",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/update.json?id=7",
        b'{"message_data":{"text":"hi"}}',
    ),
    "welcome_messages.delete": (
        {"id": "7"},
        None,
        "DELETE",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/destroy.json?id=7",
        b"",
    ),
    "welcome_message_rules.create": (
        {"welcome_message_rule": {"welcome_message_id": "7"}},
        None,
        "POST",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/rules/new.json",
        b'{"welcome_message_rule":{"welcome_message_id":"7"}}',
    ),
    "welcome_message_rules.get": (
        {"id": "7"},
        None,
        "GET",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/rules/show.json?id=7",
        b"",
    ),
    "welcome_message_rules.list": (
        {"count": "50"},
        None,
        "GET",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/rules/list.json?count=50",
        b"",
    ),
    "welcome_message_rules.delete": (
        {"id": "7"},
        None,
        "DELETE",
        "https://api.twitter.com/1.1/direct_messages/welcome_messages/rules/destroy.json?id=7",
        b"",
    ),
    "media_v2.upload": (
        {"media_category": "dm_image", "media": File(b"x", "image/png")},
        None,
        "POST",
        "https://api.twitter.com/2/media/upload",
        {"media_category": "dm_image", "media": File(b"x", "image/png")},
    ),
    "media_v2.initialize": (
        {"total_bytes": 5, "shared": True},
        None,
        "POST",
        "https://api.twitter.com/2/media/upload/initialize",
        b'{"total_bytes":5,"shared":true}',
    ),
    "media_v2.append": (
        {"segment_index": "0"},
        "9",
        "POST",
        "https://api.twitter.com/2/media/upload/9/append",
        {"segment_index": "0"},
    ),
    "media_v2.finalize": ({}, "9", "POST", "https://api.twitter.com/2/media/upload/9/finalize", b"{}"),
    "media_v2.status": (
        {"command": "STATUS", "media_id": "9"},
        None,
        "GET",
        "https://api.twitter.com/2/media/upload?command=STATUS&media_id=9",
        b"",
    ),
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_endpoint_has_a_golden_request(name: str) -> None:
    arguments, path_id, method, target, body = GOLDEN[name]
    request = wire.encode(ENDPOINTS[name], HOSTS, arguments, path_id=path_id)
    assert (request.endpoint.method, request.target, request.body) == (method, target, body)
    is_signed = request.endpoint.encoding in {Encoding.QUERY, Encoding.FORM}
    in_query = (("id", path_id),) if "?id=" in request.endpoint.path else ()
    assert request.signed == (tuple(arguments.items()) if is_signed else in_query)
    assert "x" not in repr(request.body) or "Jön" not in repr(request)


def test_an_id_never_leads_to_another_path() -> None:
    request = wire.encode(GET, HOSTS, {}, path_id="../direct_messages/events/new")
    assert request.target == "https://api.twitter.com/1.1/custom_profiles/..%2Fdirect_messages%2Fevents%2Fnew.json"


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_the_printed_replies_are_read() -> None:
    profile = wire.read(ENDPOINTS["custom_profiles.create"], reply(samples.CUSTOM_PROFILE, 201), CustomProfile)
    assert profile.id == "100001"
    assert wire.read(SEND, reply(samples.SENT_WITH_PROFILE), DirectMessage).custom_profile_id == "100001"
    welcome = wire.read(ENDPOINTS["welcome_messages.create"], reply(samples.WELCOME_MESSAGE), WelcomeMessage)
    assert welcome.name == "simple_welcome-message 01"
    assert welcome.apps == samples.WELCOME_MESSAGE["apps"]
    assert wire.read(ENDPOINTS["account.update_profile"], reply(samples.USER), User).screen_name == "theSeanCook"


@pytest.mark.parametrize("body", [b"", b"<html>surprise</html>"])
def test_fault_21_an_endpoint_without_answer(body: bytes) -> None:
    assert wire.read(ENDPOINTS["custom_profiles.delete"], reply(body, 204), type(None)) is None


def test_fault_18_the_content_type_is_not_believed() -> None:
    body = reply(samples.CUSTOM_PROFILE, headers={"Content-Type": "text/html"})
    assert wire.read(GET, body, CustomProfile).id == "100001"


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"<html></html>", b'{"custom_profile":{"id":"1"}', b"\xef\xbb\xbf{}", b'{"custom_profile":{"id":NaN}}',
     b'{"a":1,"a":2}', b"[" * 100_000 + b"]" * 100_000, b'{"custom_profile":{"id":' + b"1" * 5000 + b"}}", b"\xff\xfe",
     b"null", b"[]", b"5", b'"x"', b"{}", b'{"custom_profile":[]}', b'{"custom_profile":{}}', b'{"errors":[]}',
     b'{"custom_profile":null}'],
    ids=range(19),
)  # fmt: skip
def test_fault_22_what_is_no_answer_at_all(body: bytes) -> None:
    with pytest.raises(errors.MalformedResponse) as caught:
        wire.read(GET, reply(body), CustomProfile)
    assert caught.value.__context__ is None
    assert caught.value.status == 200


def test_a_reply_that_was_compressed_unasked() -> None:
    body = json.dumps(samples.CUSTOM_PROFILE).encode()
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        assert wire.read(GET, reply(packed, headers={"Content-Encoding": encoding}), CustomProfile).id == "100001"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b"no gzip"), ("gzip", gzip.compress(b"{}")[:-9]), ("br", b"{}"), ("gzip", gzip.compress(b" " * 10**8))],
    ids=["broken", "short", "unknown", "bomb"],
)
def test_faults_13_and_14_bad_compression(encoding: str, body: bytes) -> None:
    with pytest.raises(errors.MalformedResponse):
        wire.read(GET, reply(body, headers={"Content-Encoding": encoding}), CustomProfile)


def refusal(status: int, body: Any, name: str = "direct_messages.send") -> errors.ResponseError:
    with pytest.raises(errors.ResponseError) as caught:
        wire.read(ENDPOINTS[name], reply(body, status), DirectMessage)
    return caught.value


def coded(code: int, message: str = "No.") -> dict[str, Any]:
    return {"errors": [{"message": message, "code": code}]}


@pytest.mark.parametrize(
    ("status", "body", "cls"),
    [
        (400, coded(214), errors.BadRequest),
        (400, coded(215), errors.Unauthorized),
        (401, coded(32), errors.Unauthorized),
        (401, coded(135), errors.Unauthorized),
        (403, coded(89), errors.Unauthorized),
        (403, coded(87), errors.NotAllowlisted),
        (403, coded(220), errors.NotAllowlisted),
        (403, coded(93), errors.Forbidden),
        (403, coded(453), errors.Forbidden),
        (403, coded(63), errors.RecipientUnreachable),
        (403, coded(150), errors.RecipientUnreachable),
        (403, coded(349), errors.RecipientUnreachable),
        (
            403,
            coded(326, "You are sending a Direct Message to users that do not follow you."),
            errors.RecipientUnreachable,
        ),
        (403, coded(326, "To protect our users, this account is locked."), errors.Forbidden),
        (
            403,
            {"errors": [{"message": "You cannot send messages to users you have blocked."}]},
            errors.RecipientUnreachable,
        ),
        (403, coded(226), errors.LooksAutomated),
        (403, coded(354), errors.Forbidden),
        (403, b"", errors.Forbidden),
        (404, coded(34), errors.NotFound),
        (404, coded(108), errors.NotFound),
        (410, coded(68), errors.NotFound),
        (420, b"Enhance Your Calm", errors.RateLimited),
        (429, coded(88), errors.RateLimited),
        (429, b"", errors.RateLimited),
        (403, coded(88), errors.RateLimited),
        (407, b"<html>proxy</html>", errors.BadRequest),
        (409, coded(355), errors.BadRequest),
        (500, coded(131), errors.ServerError),
        (503, b"<html>over capacity</html>", errors.ServerError),
        (302, b"", errors.ResponseError),
        (304, b"", errors.ResponseError),
        (200, coded(349), errors.RecipientUnreachable),
        (200, coded(32), errors.Unauthorized),
    ],
)
def test_every_refusal_has_its_class(status: int, body: Any, cls: type[errors.ResponseError]) -> None:
    error = refusal(status, body)
    assert type(error) is cls
    assert (error.status, error.endpoint, error.delivered) == (
        status, "direct_messages.send", "unknown" if cls is errors.ServerError else "no"
    )  # fmt: skip


@pytest.mark.parametrize("body", [coded(87), coded(200), coded(220), coded(453), b"", b"<html>", {"errors": []}])
def test_custom_profiles_for_those_who_may_not(body: Any) -> None:
    error = refusal(403, body, "custom_profiles.create")
    assert type(error) is errors.NotAllowlisted
    assert "allow-list" in str(error)


@pytest.mark.parametrize(
    ("body", "codes", "messages"),
    [
        ({"errors": [{"code": 1, "message": "a"}, {"message": "b", "code": "2"}]}, (1, 2), ("a", "b")),
        ({"errors": [{"code": "x", "message": None}, 5, None]}, (), ()),
        ({"errors": ["media type unrecognized."]}, (), ("media type unrecognized.",)),
        ({"errors": "plain"}, (), ("plain",)),
        ({"errors": {"code": 44, "message": "one"}}, (44,), ("one",)),
        ({"request": "/1.1/media/upload.json", "error": "media type unrecognized."}, (), ("media type unrecognized.",)),
        ({"error": {"code": 3, "message": "x"}}, (3,), ("x",)),
        (
            {"title": "Forbidden", "detail": "Not yours.", "type": "about:blank", "status": 403},
            (),
            ("Forbidden: Not yours.",),
        ),
        ({"title": "T", "type": "u", "errors": [{"message": "m", "parameters": {}}]}, (), ("T", "m")),
        ({"code": 5, "message": "bare"}, (5,), ("bare",)),
        ({"errors": [{"code": True, "message": "m" * 10_000}]}, (), ("m" * 500,)),
        ([], (), ()),
        ("x", (), ()),
    ],
)
def test_fault_24_every_shape_of_error_body(body: Any, codes: tuple[int, ...], messages: tuple[str, ...]) -> None:
    error = refusal(400, body)
    assert (error.codes, error.messages) == (codes, messages)


@given(st.binary(max_size=200), st.integers(100, 599))
def test_no_reply_raises_anything_else(body: bytes, status: int) -> None:
    try:
        wire.read(GET, Reply(status, {}, body), CustomProfile)
    except errors.TwdmError as error:
        assert error.__cause__ is None


@pytest.mark.parametrize("with_orjson", [True, False])
@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":1}', {"a": 1}), (b' {"a" : [1.50, "\\u00e9", null]} ', {"a": [1.5, "\u00e9", None]}),
        (b'{"id":123456789012345678901234567890}', {"id": 123456789012345678901234567890}),
        (b'{"a":-0,"b":1e400}', {"a": 0, "b": float("inf")}), (b'"\\ud800"', "\ud800"),
        (b'{"a":1,"a":2}', None), (b'{"a":{"b":1,"b":1}}', None), (b"NaN", None), (b"[Infinity]", None), (b"{", None),
        (b"", None), (b"{} {}", None), (b"\xff", None), (b"\xef\xbb\xbf{}", None), (b"[" * 100_000, None),
    ],
)  # fmt: skip
def test_json_means_the_same_with_and_without_orjson(
    monkeypatch: pytest.MonkeyPatch, with_orjson: bool, body: bytes, value: Any
) -> None:
    if not with_orjson:
        monkeypatch.setattr(wire, "_orjson", None)
    if value is None:
        with pytest.raises((ValueError, RecursionError)):
            wire.load_json(body)
    else:
        assert wire.load_json(body) == value
