"""The calls around a message: show, list, delete, type, read, download; welcome messages and rules; the app; access."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING, Any

import pytest

from tests.pictures import PNG
from tests.scripted import http, serving
from twdm_async import (
    BadRequest,
    CallToAction,
    Client,
    DirectMessage,
    Forbidden,
    InvalidInput,
    LocationRequest,
    MalformedResponse,
    MediaFailed,
    MessageMedia,
    NotFound,
    QuickReply,
    ResponseError,
    ServerError,
    SharedCoordinate,
    SharedPlace,
    TextInput,
    TwdmError,
)
from twdm_async.endpoints import ENDPOINTS
from twdm_async.sandbox import Fault, Reading, Sandbox, Typing
from twdm_async.sandbox.routes import ROUTES
from twdm_async.transport.wire import Sink

if TYPE_CHECKING:
    from pathlib import Path


def test_the_sandbox_has_every_call() -> None:
    """A row without a handler fails here; the address is compared, as the client writes it."""
    served = {(route.method, route.path.replace(r":\d+", "")) for route in ROUTES}
    commands = {"media.upload_init", "media.upload_append", "media.upload_finalize"}  # one address, by the command
    for row in ENDPOINTS.values():
        if row.name == "direct_messages.download":
            assert "direct_messages.download" in {route.family for route in ROUTES}
            continue
        assert (row.method, row.path.partition("?")[0]) in served, row.name
        families = {route.family for route in ROUTES if route.method == row.method}
        assert row.family in families | commands, row.name


# ---- messages ----


async def test_a_message_is_shown_listed_and_deleted(client: Client, sandbox: Sandbox) -> None:
    sent = await client.direct_messages.send(5, "hello & goodbye")
    assert sent.id is not None
    assert sent.source_app is None, "the answer to sending does not tell"
    shown = await client.direct_messages.get(sent.id)
    assert (shown.text, shown.recipient_id) == ("hello & goodbye", "5")
    assert shown.source_app is not None
    assert shown.source_app.name == "sandbox"
    received_id = sandbox.person(5).writes("thanks <3")
    listed = [message async for message in client.direct_messages.list()]
    assert [message.id for message in listed] == [received_id, sent.id]
    assert [message.source_app is not None for message in listed] == [False, True]
    assert (await client.direct_messages.get(received_id)).text == "thanks <3"
    await client.direct_messages.delete(sent.id)
    with pytest.raises(NotFound):
        await client.direct_messages.get(sent.id)
    with pytest.raises(NotFound):
        await client.direct_messages.delete(sent.id)
    assert [message.id async for message in client.direct_messages.list()] == [received_id]


async def test_typing_and_reading(client: Client, sandbox: Sandbox) -> None:
    me = sandbox.credentials.user_id or ""
    event_id = sandbox.person(5).writes("hello")
    await client.direct_messages.indicate_typing(5)
    await client.direct_messages.mark_read(5, event_id)
    assert sandbox.typing == [Typing(me, "5")]
    assert sandbox.reading == [Reading(me, "5", event_id)]


@pytest.mark.parametrize("bad", ["x", "../1", "١", -1, 2**64, True, "", None])
async def test_ids_that_are_none(client: Client, sandbox: Sandbox, bad: Any) -> None:
    messages, welcome, rules = client.direct_messages, client.welcome_messages, client.welcome_message_rules
    for call in (
        messages.get(bad), messages.delete(bad), messages.indicate_typing(bad), messages.mark_read(bad, 1),
        messages.mark_read(1, bad), welcome.get(bad), welcome.delete(bad), welcome.update(bad, "x"), rules.get(bad),
        rules.delete(bad), rules.create(bad), rules.set_default(bad),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            await call
    assert not sandbox.requests


@pytest.mark.parametrize(
    ("attachment", "expected"),
    [(SharedCoordinate(longitude=-122.44, latitude=37.77), (-122.44, 37.77)), (SharedPlace(id="df51dec6f4ee2b2c"), "df51dec6f4ee2b2c")],
)  # fmt: skip
async def test_places_go_out_and_come_back(
    client: Client, sandbox: Sandbox, attachment: SharedCoordinate | SharedPlace, expected: Any
) -> None:
    sent = await client.direct_messages.send(5, attachment=attachment)
    assert sent.attachment == attachment
    body = sandbox.messages[0].body["message_data"]["attachment"]["location"]
    if isinstance(attachment, SharedCoordinate):
        assert body["shared_coordinate"]["coordinates"] == {"type": "Point", "coordinates": list(expected)}
    else:
        assert body["shared_place"]["place"]["id"] == expected


@pytest.mark.parametrize(
    "make",
    [lambda: SharedCoordinate(longitude=181, latitude=0), lambda: SharedCoordinate(longitude=0, latitude=91),
     lambda: SharedCoordinate(longitude=float("nan"), latitude=0), lambda: SharedCoordinate(longitude=True, latitude=0),
     lambda: SharedPlace(id=""), lambda: SharedPlace(id="a/b"), lambda: QuickReply("x" * 37), lambda: QuickReply("http://a.b"),
     lambda: QuickReply("a", "see https://a.b"), lambda: QuickReply("a", ""), lambda: QuickReply("a", metadata="x" * 1001),
     lambda: TextInput("x" * 37), lambda: TextInput(keyboard=""), lambda: LocationRequest("x" * 1001),
     lambda: CallToAction("a", "ftp://a.b"), lambda: CallToAction("x" * 37, "https://a.b")],
    ids=range(16),
)  # fmt: skip
def test_what_cannot_be_attached(make: Any) -> None:
    with pytest.raises(InvalidInput):
        make()


@pytest.mark.parametrize(
    "invitation", [TextInput("How many?", "number", "m"), TextInput(), LocationRequest("m"), LocationRequest()]
)
async def test_the_older_quick_replies(client: Client, invitation: TextInput | LocationRequest) -> None:
    sent = await client.direct_messages.send(5, "tell me", quick_replies=invitation)
    assert sent.quick_replies == invitation


async def test_quick_replies_and_buttons_are_read(client: Client, sandbox: Sandbox) -> None:
    options = [QuickReply("Yes", "really", "y"), QuickReply("No", "not at all", "n")]
    button = CallToAction("Look", "https://example.com/a?b=1&c=2")
    sent = await client.direct_messages.send(5, "well?", quick_replies=options, ctas=[button])
    assert sent.quick_replies == tuple(options)
    (shown,) = sent.ctas
    assert (shown.label, shown.url) == ("Look", button.url)
    assert shown.tco_url is not None
    answer = await client.direct_messages.get(sandbox.person(5).taps("No"))
    assert answer.text == "No"
    assert answer.quick_reply_response is not None
    assert (answer.quick_reply_response.type, answer.quick_reply_response.metadata) == ("options", "n")
    assert "not at all" not in repr(sent)


# ---- files of messages ----


@pytest.mark.slow
async def test_a_file_is_downloaded(client: Client, sandbox: Sandbox, tmp_path: Path) -> None:
    media = await client.media.upload(PNG * 1000, category="dm_image")
    sent = await client.direct_messages.send(5, "look", attachment=media)
    assert isinstance(sent.attachment, MessageMedia)
    assert sent.attachment.id == media.id
    path = tmp_path / "picture"
    assert await client.direct_messages.download(sent.attachment, path) == len(PNG) * 1000
    assert path.read_bytes() == PNG * 1000
    with pytest.raises(MediaFailed, match="more than 10 bytes"):
        await client.direct_messages.download(sent.attachment, path, most=10)
    assert path.read_bytes() == PNG * 1000, "what was there is still there"
    stranger = sandbox.add_account()
    async with Client(stranger, api_url=sandbox.url, upload_url=sandbox.url) as other:
        with pytest.raises(NotFound):
            await other.direct_messages.download(sent.attachment, tmp_path / "stolen")
    with pytest.raises(InvalidInput, match="cannot be written"):
        await client.direct_messages.download(sent.attachment, tmp_path / "none" / "x")
    for nothing in (".", "/", "a\0b"):
        with pytest.raises(InvalidInput, match="not the path of a file"):
            await client.direct_messages.download(sent.attachment, nothing)
    assert [one.name for one in tmp_path.iterdir()] == ["picture"]
    assert path.stat().st_mode & 0o777 == 0o600
    sandbox.faults.append(Fault("errors_with_200", endpoint="direct_messages.download"))
    with pytest.raises(ServerError):
        await client.direct_messages.download(sent.attachment, path)
    sandbox.faults[:] = [Fault("204", endpoint="direct_messages.download")]
    with pytest.raises(MalformedResponse):
        await client.direct_messages.download(sent.attachment, path)
    assert path.read_bytes() == PNG * 1000


@pytest.mark.parametrize("address", [None, 5, "", "x", "https://example.com/a", "http://ton.twitter.com/1.1/a",
    "https://ton.twitter.com:444/1.1/a", "https://ton.twitter.com@example.com/a", "https://ton.twitter.com/a?x=1",
    "https://ton.twitter.com/a/../b", "https://ton.twitter.com//a", "http://127.0.0.1:1/1.1/a", "https://[::1/a"])  # fmt: skip
async def test_requests_are_signed_for_no_other_host(client: Client, address: Any, tmp_path: Path) -> None:
    media: Any = MessageMedia(id="1", url=address) if address is None else address
    with pytest.raises(InvalidInput):
        await client.direct_messages.download(media, tmp_path / "x")


async def test_a_download_that_breaks_begins_anew(client: Client, sandbox: Sandbox, tmp_path: Path) -> None:
    media = await client.media.upload(PNG * 10_000, category="dm_image")
    sent = await client.direct_messages.send(5, "look", attachment=media)
    assert isinstance(sent.attachment, MessageMedia)
    sandbox.faults.append(Fault("cut", endpoint="direct_messages.download", nth=1))
    await client.direct_messages.download(sent.attachment, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == PNG * 10_000


def test_a_second_try_that_is_shorter_leaves_nothing_of_the_first() -> None:
    target = io.BytesIO()
    sink = Sink(target, 100)
    for content in (b"longer", b"short"):
        sink.begin()
        sink.write(content)
    assert (target.getvalue(), sink.size) == (b"short", 5)


# ---- welcome messages ----


async def test_welcome_messages_are_made_shown_changed_and_deleted(client: Client) -> None:
    welcome = client.welcome_messages
    made = await welcome.create("Hi & welcome", name="first", quick_replies=[QuickReply("Red")])
    assert (await welcome.get(made.id)).text == "Hi & welcome"
    assert made.quick_replies == (QuickReply("Red"),)
    changed = await welcome.update(made.id, "Good day")
    assert (changed.id, changed.text, changed.quick_replies, changed.name) == (made.id, "Good day", None, "first")
    others = [await welcome.create(f"number {number}") for number in range(51)]
    assert [one.id async for one in welcome.list()] == [made.id, *(one.id for one in others)]
    await welcome.delete(made.id)
    for call in (welcome.get(made.id), welcome.delete(made.id), welcome.update(made.id, "x")):
        with pytest.raises(NotFound):
            await call


async def standing(client: Client) -> list[str | None]:
    return [rule.welcome_message_id async for rule in client.welcome_message_rules.list()]


@pytest.mark.parametrize("one_rule_only", [True, False])
async def test_a_default_is_set_and_set_again(client: Client, sandbox: Sandbox, one_rule_only: bool) -> None:
    sandbox.one_rule_only = one_rule_only
    first, second = [await client.welcome_messages.create(text) for text in ("first", "second")]
    assert await standing(client) == []
    rule = await client.welcome_message_rules.set_default(first)
    assert (await client.welcome_message_rules.get(rule.id)).welcome_message_id == first.id
    assert await client.welcome_message_rules.set_default(first.id) == rule
    await client.welcome_message_rules.set_default(second)
    assert await standing(client) == [second.id]
    person = sandbox.person(5)
    assert person.welcome is not None
    assert person.welcome["message_data"]["text"] == "second"
    with pytest.raises(NotFound):
        await client.welcome_message_rules.delete(rule.id)


@pytest.mark.soak
@pytest.mark.parametrize("one_rule_only", [True, False])
@pytest.mark.parametrize(
    "endpoint", ["welcome_message_rules.create", "welcome_message_rules.delete", "welcome_message_rules.list"]
)
@pytest.mark.parametrize("kind", ["reset", "503", "500", "error_text"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_the_account_is_never_left_without_a_rule(
    client: Client, sandbox: Sandbox, one_rule_only: bool, endpoint: str, kind: str, nth: int
) -> None:
    first, second = [await client.welcome_messages.create(text) for text in ("first", "second")]
    await client.welcome_message_rules.set_default(first)
    sandbox.one_rule_only = one_rule_only
    for processed in (False, True) if kind != "error_text" else (False,):
        sandbox.faults[:] = [Fault(kind, endpoint=endpoint, nth=nth, processed=processed)]
        expected = {first.id, second.id}
        with contextlib.suppress(TwdmError):
            await client.welcome_message_rules.set_default(second)
            expected = {second.id}
        sandbox.faults.clear()
        left = await standing(client)
        assert left
        assert left[-1] in expected


async def test_who_gives_up_does_not_leave_half_of_it_undone(client: Client, sandbox: Sandbox) -> None:
    first, second = [await client.welcome_messages.create(text) for text in ("first", "second")]
    await client.welcome_message_rules.set_default(first)
    task = asyncio.ensure_future(client.welcome_message_rules.set_default(second))
    while not any("rules/destroy" in request.path for request in sandbox.requests):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await standing(client) == [second.id]


async def test_a_rule_for_a_message_that_is_none(client: Client) -> None:
    with pytest.raises(BadRequest):
        await client.welcome_message_rules.set_default(12345)
    first = await client.welcome_messages.create("first")
    rule = await client.welcome_message_rules.set_default(first)
    with pytest.raises(ResponseError):
        await client.welcome_message_rules.set_default(12345)
    assert (await client.welcome_message_rules.get(rule.id)).welcome_message_id == first.id, "nothing was deleted"


async def test_the_old_rule_is_made_again_while_the_quota_of_lists_is_spent(client: Client, sandbox: Sandbox) -> None:
    first, second = [await client.welcome_messages.create(text) for text in ("first", "second")]
    await client.welcome_message_rules.set_default(first)
    for _ in range(13):
        await standing(client)
    sandbox.faults.append(Fault("error_text", endpoint="welcome_message_rules.create", nth=2))
    with pytest.raises(BadRequest):
        await client.welcome_message_rules.set_default(second, max_wait=0.0)
    (owner_and_rule,) = sandbox._state.rules.values()
    assert owner_and_rule[1]["welcome_message_id"] == first.id


async def test_the_old_rule_is_made_again_though_it_is_refused_at_first(client: Client, sandbox: Sandbox) -> None:
    first, second = [await client.welcome_messages.create(text) for text in ("first", "second")]
    await client.welcome_message_rules.set_default(first)
    refused = [Fault("error_text", endpoint="welcome_message_rules.create", nth=nth) for nth in (2, 3)]
    sandbox.faults.extend(refused)
    with pytest.raises(BadRequest):
        await client.welcome_message_rules.set_default(second)
    assert await standing(client) == [first.id]


async def test_a_profile_that_the_reply_does_not_repeat_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    reply = http(b'{"welcome_message":{"id":"1","message_data":{"text":"hi"}}}')
    async with serving(reply) as server, Client(Sandbox().credentials, api_url=server.url) as client:
        await client.welcome_messages.create("hi", custom_profile_id=7)
    assert "did not say that it shows under the custom profile" in caplog.text


# ---- the app, and access ----


async def test_the_listing_of_quotas(client: Client, sandbox: Sandbox) -> None:
    await client.direct_messages.get(sandbox.person(5).writes("hi"))
    status = await client.application.rate_limit_status("direct_messages", "account")
    assert status.windows["/direct_messages/events/show"].remaining == 14
    assert status.windows["/direct_messages/mark_read"].limit == 1000
    assert set(status.resources) == {"direct_messages", "account"}
    assert "custom_profiles" in (await client.application.rate_limit_status()).resources
    with pytest.raises(InvalidInput):
        await client.application.rate_limit_status("a,b")


@pytest.mark.parametrize(
    ("account", "missing", "words"),
    [({}, set(), "allowed"), ({"permission": "read-write"}, {"direct messages"}, "Read, Write, and Direct Messages"),
     ({"allowlisted": False}, {"custom profiles"}, "allow-list"), ({"verified": False}, {"verified", "custom profiles"}, "badge"),
     ({"legacy_access": False}, {"keys"}, "access level")],
)  # fmt: skip
async def test_access_is_checked_in_words(sandbox: Sandbox, account: Any, missing: set[str], words: str) -> None:
    keys = sandbox.add_account(**account)
    async with Client(keys, api_url=sandbox.url, upload_url=sandbox.url) as client:
        findings = await client.account.check_access()
    assert {finding.what for finding in findings if not finding.ok} == missing
    assert words.lower() in " ".join(finding.words for finding in findings).lower()


@pytest.mark.slow
async def test_access_that_cannot_be_found_out(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.append(Fault("503", endpoint="direct_messages.list"))
    findings = {finding.what: finding.ok for finding in await client.account.check_access()}
    assert findings == {"keys": True, "verified": True, "direct messages": None, "custom profiles": True}
    sandbox.faults[:] = [Fault("401_signature")]
    (finding,) = await client.account.check_access()
    assert (finding.what, finding.ok) == ("keys", False)
    assert "copied wrongly" in finding.words


@pytest.mark.slow
async def test_a_failing_page_does_not_end_in_silence(client: Client, sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("503", endpoint="welcome_messages.list"))
    with pytest.raises(ServerError):
        _ = [message async for message in client.welcome_messages.list()]
    keys = sandbox.add_account(permission="read")
    async with Client(keys, api_url=sandbox.url) as other:
        with pytest.raises(Forbidden) as caught:
            await other.direct_messages.send(5, "hi")
        assert caught.value.codes == (93,)


def test_a_message_s_repr_shows_no_text() -> None:
    message = DirectMessage(id="1", raw_text="SENTINEL", attachment=SharedCoordinate(longitude=1.25, latitude=2.5))
    assert "SENTINEL" not in repr(message)
    assert "1.25" not in repr(message)
