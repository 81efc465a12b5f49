"""Every call, end to end, over real HTTP against the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.pictures import GIF, PNG
from twdm_async import (
    BadRequest,
    CallToAction,
    Client,
    CustomProfile,
    Forbidden,
    InvalidInput,
    Lane,
    Media,
    NotAllowlisted,
    NotFound,
    Priority,
    QuickReply,
    RecipientUnreachable,
    Unauthorized,
)

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async.sandbox import Sandbox


# ---- custom profiles ----


async def test_a_profile_is_made_shown_listed_and_deleted(client: Client, sandbox: Sandbox) -> None:
    made = await client.custom_profiles.create("Anna & Ben <3", PNG)
    assert made.name == "Anna & Ben <3"
    assert await client.custom_profiles.get(made.id) == await client.custom_profiles.get(int(made.id)) == made
    assert [profile async for profile in client.custom_profiles.list()] == [made]
    async with aiohttp.ClientSession() as session, session.get(str(made.avatar_url)) as picture:
        assert (picture.content_type, await picture.read()) == ("image/png", PNG)
    await client.custom_profiles.delete(made.id)
    await client.custom_profiles.delete(made.id)
    with pytest.raises(NotFound):
        await client.custom_profiles.get(made.id)
    assert not sandbox.profiles


async def test_an_avatar_is_an_id_an_upload_a_path_or_bytes(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "avatar.png"
    path.write_bytes(PNG)
    media = await client.media.upload(path)
    for avatar in (media, media.id, int(media.id), path, str(path), PNG):
        profile = await client.custom_profiles.create("Anna", avatar)
        assert isinstance(profile, CustomProfile)
    with pytest.raises(InvalidInput, match=r"avatar: .*missing\.png cannot be read"):
        await client.custom_profiles.create("Anna", str(tmp_path / "missing.png"))
    with pytest.raises(BadRequest) as caught:
        await client.custom_profiles.create("Anna", "12345")
    assert caught.value.codes == (324,)


async def test_lists_run_over_pages_and_end_where_the_cursor_ends(client: Client, sandbox: Sandbox) -> None:
    media = await client.media.upload(PNG)
    made = [(await client.custom_profiles.create(f"Agent {number}", media)).id for number in range(100)]
    assert [profile.id async for profile in client.custom_profiles.list()] == made
    pages = [request for request in sandbox.requests if "list.json" in request.path]
    assert len(pages) == 3, "two full pages, and an empty one that ends it"


async def test_an_account_that_may_not_use_profiles_is_told_so(sandbox: Sandbox) -> None:
    for verified, allowlisted in ((False, True), (True, False), (False, False)):
        keys = sandbox.add_account(verified=verified, allowlisted=allowlisted)
        async with Client(keys, api_url=sandbox.url, upload_url=sandbox.url) as client:
            with pytest.raises(NotAllowlisted, match="verified and on the allow-list"):
                await client.custom_profiles.create("Anna", PNG)
            with pytest.raises(NotAllowlisted):
                await client.direct_messages.send("5", "hello", custom_profile_id="1")
            assert (await client.direct_messages.send("5", "hello")).text == "hello"


@pytest.mark.parametrize("name", ["", " ", "a" * 49, "a\0", "\ud800"])
async def test_fault_40_a_bad_name_is_refused_before_anything_is_spent(
    client: Client, sandbox: Sandbox, name: str
) -> None:
    with pytest.raises(InvalidInput, match="name"):
        await client.custom_profiles.create(name, PNG)
    assert not sandbox.requests
    assert all(state.used == 0 for state in client.quota_state())


async def test_fault_40_what_may_be_too_long_is_the_server_s_to_decide(client: Client) -> None:
    families = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}\u200d\N{BOY}" * 12
    with pytest.raises(BadRequest, match=r"custom_profile\.name"):  # this server counts code points
        await client.custom_profiles.create(families, PNG)


# ---- ids ----


@pytest.mark.parametrize("bad", ["../direct_messages/events/new", "1?x=2", "1/../2", "٣", -1, 2**64, "", "1.json#"])
async def test_fault_42_a_bad_id_reaches_no_endpoint(client: Client, sandbox: Sandbox, bad: Any) -> None:
    for call in (
        client.custom_profiles.get(bad),
        client.custom_profiles.delete(bad),
        client.direct_messages.send(bad, "hello"),
        client.direct_messages.send("5", "hello", custom_profile_id=bad),
        client.direct_messages.send("5", attachment=bad),
        client.welcome_messages.create("hello", custom_profile_id=bad),
        client.custom_profiles.create("Anna", bad),
    ):
        with pytest.raises(InvalidInput):
            await call
    with pytest.raises(InvalidInput):
        client.agent(bad)
    assert not sandbox.requests


# ---- messages ----

NASTY = "5 < 6 & 7 > 2; &amp; &lt; \N{PILE OF POO} e\u0301 \u202eabc\u202c #tag $MSFT\nnew line\ttab %41 +"


async def test_a_message_arrives_as_it_was_written(client: Client, sandbox: Sandbox, profile_id: str) -> None:
    message = await client.direct_messages.send("844385345234", NASTY, custom_profile_id=profile_id)
    assert message.text == NASTY
    assert message.raw_text is not None
    assert "&amp;amp;" in message.raw_text
    assert message.entities is not None
    start, end = message.entities["hashtags"][0]["indices"]
    assert message.text[start:end] == "#tag"
    assert message.raw_entities is not None
    start, end = message.raw_entities["hashtags"][0]["indices"]
    assert message.raw_text[start:end] == "#tag"
    (stored,) = sandbox.messages
    assert (stored.text, stored.recipient_id, stored.custom_profile_id) == (NASTY, "844385345234", profile_id)
    assert stored.id == message.id
    assert stored.body["custom_profile_id"] == profile_id, "beside message_data, where the documents' examples have it"


async def test_an_agent_sends_under_its_profile(client: Client, sandbox: Sandbox, profile_id: str) -> None:
    profile = await client.custom_profiles.get(profile_id)
    for agent in (client.agent(profile), client.agent(profile_id, name="night", weight=2.5, priority=Priority.BULK)):
        message = await agent.send(5, "hello", priority=Priority.INTERACTIVE, max_wait=10, lane="other")
        assert message.custom_profile_id == profile_id
        with pytest.raises(InvalidInput, match="key"):
            await agent.send(5, "hello", lane=0)  # type: ignore[arg-type]
    assert {stored.custom_profile_id for stored in sandbox.messages} == {profile_id}


async def test_buttons_answers_and_a_picture(client: Client, sandbox: Sandbox) -> None:
    picture = await client.media.upload(PNG, category="dm_image")
    message = await client.direct_messages.send(
        "5",
        "Which?",
        quick_replies=[QuickReply("Red", "like a rose", "r"), QuickReply("Blue", "like the sea")],
        ctas=[CallToAction("Shop", "https://example.com/?a=b&c=d")],
        attachment=picture,
    )
    assert sandbox.messages[0].body["message_data"] == {
        "text": "Which?",
        "quick_reply": {
            "type": "options",
            "options": [
                {"label": "Red", "description": "like a rose", "metadata": "r"},
                {"label": "Blue", "description": "like the sea"},
            ],
        },
        "ctas": [{"type": "web_url", "label": "Shop", "url": "https://example.com/?a=b&c=d"}],
        "attachment": {"type": "media", "media": {"id": picture.id}},
    }
    assert message.extra["message_create"]["message_data"]["ctas"][0]["tco_url"]
    with pytest.raises(BadRequest):
        await client.direct_messages.send("5", attachment=picture.id)  # once used, and not shared
    with pytest.raises(BadRequest, match="TweetImage"):
        await client.direct_messages.send("5", attachment=await client.media.upload(PNG))
    shared = await client.media.upload(PNG, category="dm_image", shared=True)
    for _ in range(2):
        assert (await client.direct_messages.send("5", attachment=shared)).text == " https://t.co/0000000000"


REPLY = QuickReply("x")
CTA = CallToAction("x", "https://example.com")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"text": ""}, {"text": "  \n"}, {"text": "x" * 10_001}, {"text": "a\0"}, {"text": "\ud800"}, {"text": b"x"},
     {"text": "x", "quick_replies": [REPLY] * 21}, {"text": "x", "quick_replies": []}, {"text": "x", "ctas": [CTA] * 4},
     {"text": "x", "ctas": []}, {"text": "x", "quick_replies": [REPLY, QuickReply("y", "described")]},
     {"text": "x", "max_wait": -1}, {"text": "x", "max_wait": float("nan")}, {"text": "x", "quick_replies": ["x"]},
     {"text": "x", "quick_replies": "x"}, {"text": "x", "quick_replies": REPLY}, {"text": "x", "ctas": [None]},
     {"text": "x", "priority": "BULK"}, {"text": "x", "lane": 5}, {"text": "x", "lane": []}, {"text": "x", "max_wait": "1"}],
    ids=range(22),
)  # fmt: skip
async def test_faults_41_and_44_bad_content_spends_nothing(client: Client, sandbox: Sandbox, arguments: Any) -> None:
    with pytest.raises(InvalidInput):
        await client.direct_messages.send("5", **arguments)
    assert not sandbox.requests
    assert all(state.used == 0 for state in client.quota_state())


async def test_the_longest_text_passes(client: Client) -> None:
    assert (await client.direct_messages.send("5", "&" * 10_000)).text == "&" * 10_000


async def test_a_person_who_cannot_be_reached(client: Client, sandbox: Sandbox) -> None:
    sandbox.unreachable.add("7")
    with pytest.raises(RecipientUnreachable) as caught:
        await client.direct_messages.send("7", "hello")
    assert (caught.value.codes, caught.value.delivered) == ((349,), "no")


async def test_wrong_keys(sandbox: Sandbox) -> None:
    keys = sandbox.add_account()
    sandbox._gate.accounts.pop(keys.access_token)
    async with Client(keys, api_url=sandbox.url, upload_url=sandbox.url) as stranger:
        with pytest.raises(Unauthorized) as caught:
            await stranger.account.verify_credentials()
    assert caught.value.codes == (89,)
    assert len(sandbox.requests) == 1, "asked once, and no storm"


# ---- welcome messages ----


async def test_a_welcome_message_can_carry_a_profile(client: Client, profile_id: str) -> None:
    message = await client.welcome_messages.create(
        "Hi & welcome", name="first-time_01 #a@b", quick_replies=[REPLY], ctas=[CTA], custom_profile_id=profile_id
    )
    assert (message.text, message.name, message.custom_profile_id) == ("Hi & welcome", "first-time_01 #a@b", profile_id)
    assert message.source_app is not None
    assert message.source_app.name == "sandbox"
    assert (await client.welcome_messages.create("plain")).custom_profile_id is None


async def test_a_welcome_message_needs_a_shared_picture(client: Client) -> None:
    with pytest.raises(BadRequest, match="shared"):
        await client.welcome_messages.create("hi", attachment=await client.media.upload(PNG, category="dm_image"))
    shared = await client.media.upload(PNG, category="dm_image", shared=True)
    assert (await client.welcome_messages.create("hi", attachment=shared)).text == "hi https://t.co/0000000000"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"text": "x" * 9_991}, {"text": "x", "name": "a" * 101}, {"text": "x", "name": "é"}, {"text": "x", "name": 5}],
)
async def test_bad_welcome_messages(client: Client, sandbox: Sandbox, arguments: Any) -> None:
    with pytest.raises(InvalidInput):
        await client.welcome_messages.create(**arguments)
    assert not sandbox.requests


# ---- the account ----


async def test_the_account_s_profile_changes_where_it_is_told_to(client: Client) -> None:
    before = await client.account.verify_credentials()
    after = await client.account.update_profile(
        name="Brand & Co", url="example.com", location="Zürich", description="a*b ~ +%&="
    )
    assert (after.name, after.url, after.location, after.description) == (
        "Brand & Co", "http://example.com", "Zürich", "a*b ~ +%&="
    )  # fmt: skip
    assert after.id == before.id
    cleared = await client.account.update_profile(url="", description="", include_entities=False, skip_status=True)
    assert (cleared.name, cleared.url, cleared.description) == ("Brand & Co", None, "")
    assert "entities" not in cleared.extra
    assert "status" not in cleared.extra
    assert after.extra["statuses_count"] == 1
    assert "status" in (await client.account.verify_credentials(skip_status=False, include_entities=True)).extra


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"include_entities": True},
        {"skip_status": False},
        {"name": "a\0"},
        {"url": 5},
        {"name": "x", "skip_status": "false"},
    ],
)
async def test_nothing_to_change_is_refused(client: Client, sandbox: Sandbox, arguments: Any) -> None:
    with pytest.raises(InvalidInput):
        await client.account.update_profile(**arguments)
    assert not sandbox.requests


async def test_what_is_too_long_for_the_account_is_the_server_s_to_say(client: Client) -> None:
    with pytest.raises(Forbidden, match="description is too long") as caught:
        await client.account.update_profile(description="x" * 161)
    assert caught.value.codes == (120,)


# ---- files ----


async def test_files_are_uploaded(client: Client, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(GIF)
    media = await client.media.upload(path, category="dm_image", shared=True)
    assert isinstance(media, Media)
    assert (media.size, media.expires_after_secs) == (len(GIF), 86_400)
    stored = sandbox.media[media.id]
    assert (stored.content, stored.content_type, stored.category, stored.shared) == (GIF, "image/gif", "dm_image", True)


async def test_a_large_picture(client: Client, sandbox: Sandbox) -> None:
    picture = PNG + b"\0" * 3_000_000
    media = await client.media.upload(picture)
    assert sandbox.media[media.id].content == picture


@pytest.mark.parametrize(
    ("source", "category"),
    [(b"", None), (b"no picture", None), (b"%PDF-1.7", "dm_image"), (PNG, "dm_gif"), (PNG, "nonsense"),
     (PNG + b"\0" * 5 * 1024 * 1024, None), (GIF + b"\0" * 15 * 1024 * 1024, None), ("a path as str", None), (5, None)],
    ids=range(9),
)  # fmt: skip
async def test_fault_43_bad_files(client: Client, sandbox: Sandbox, source: Any, category: Any) -> None:
    with pytest.raises(InvalidInput):
        await client.media.upload(source, category=category)
    assert not sandbox.requests


async def test_fault_43_files_that_cannot_be_read_or_shrink(client: Client, tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be read"):
            await client.media.upload(missing)
    with pytest.raises(InvalidInput, match="is not a path"):
        await client.media.upload(tmp_path / "a\0b")
    with pytest.raises(InvalidInput, match=r"^avatar: .*none cannot be read"):
        await client.custom_profiles.create("Anna", tmp_path / "none")
    path = tmp_path / "shrinks.png"
    path.write_bytes(PNG * 10_000)
    with path.open("rb") as file, pytest.raises(InvalidInput, match="changed"):
        await client.media.upload(file, size=len(PNG) * 10_000 + 1)


# ---- quotas, as the client tells them ----


async def test_the_state_of_all_quotas(client: Client) -> None:
    await client.direct_messages.send("5", "hello")
    states = {(state.endpoint, state.scope.value): state for state in client.quota_state()}
    user, app = states["direct_messages.send", "user"], states["direct_messages.send", "app"]
    assert (user.limit, user.used, app.limit, app.used) == (1000, 1, 15_000, 1)
    assert (user.in_flight, user.waiting) == (0, 0)
    assert states["custom_profiles.get", "user"].per == 900.0


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"timeout": 10**400}, {"timeout": "5"}, {"max_wait": -1},
     {"max_wait": "5"}, {"quotas": {}}, {"quotas": 5}],
)  # fmt: skip
async def test_a_client_that_cannot_be_made(sandbox: Sandbox, options: Any) -> None:
    with pytest.raises(InvalidInput):
        Client(sandbox.credentials, **options)
    with pytest.raises(InvalidInput, match="credentials"):
        Client(None)  # type: ignore[arg-type]  # wrong on purpose


async def test_a_lane_of_another_name_keeps_the_agent_s_weight_and_priority(client: Client) -> None:
    seen: list[Lane] = []
    enter = client._limiter.enter

    def watching(family: str, lane: Lane, *more: Any) -> Any:
        seen.append(lane)
        return enter(family, lane, *more)

    client._limiter.enter = watching  # type: ignore[method-assign, assignment]  # it only looks on
    agent = client.agent("1", weight=2.0, priority=Priority.BULK)
    for options in ({"lane": "night"}, {"lane": Lane("own")}, {}, {"priority": Priority.INTERACTIVE}):
        with pytest.raises(BadRequest):  # there is no such profile
            await agent.send(5, "hello", **options)
    assert seen == [
        Lane("night", 2.0, Priority.BULK), Lane("own"), agent.lane, Lane(agent.lane.key, 2.0, Priority.INTERACTIVE)
    ]  # fmt: skip
