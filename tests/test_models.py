"""Samples structure into models, and nothing of them is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import samples
from tests import samples_family as family
from twdm_async import (
    CustomProfile,
    DirectMessage,
    LocationRequest,
    Media,
    MessageMedia,
    Person,
    RateLimitStatus,
    SharedCoordinate,
    SharedPlace,
    TextInput,
    User,
    WelcomeMessage,
    WelcomeMessageRule,
)
from twdm_async.models.convert import converter
from twdm_async.models.custom_profiles import CustomProfilePage
from twdm_async.models.direct_messages import DirectMessagePage
from twdm_async.models.media import MediaV2
from twdm_async.models.welcome_messages import WelcomeMessagePage, WelcomeMessageRulePage

ROUND_TRIPS = [
    (CustomProfile, samples.CUSTOM_PROFILE["custom_profile"]),
    (CustomProfilePage, samples.CUSTOM_PROFILE_LIST),
    (CustomProfilePage, {"custom_profiles": []}),
    (CustomProfilePage, {"custom_profiles": [], "next_cursor": "MTE0MjA5ODA3OTUyNjYwMDcwOA"}),
    (DirectMessage, samples.SENT_WITH_PROFILE["event"]),
    (DirectMessage, samples.SENT_AS_RECORDED["event"]),
    (DirectMessage, {"id": None, "apps": None, "message_create": {"target": None, "message_data": {"text": None}}}),
    (WelcomeMessage, samples.WELCOME_MESSAGE["welcome_message"]),
    (User, samples.USER),
    (Media, samples.MEDIA),
]


ROUND_TRIPS += [
    (DirectMessage, {**family.DIRECT_MESSAGE_SHOWN["event"], "apps": family.DIRECT_MESSAGE_SHOWN["apps"]}),
    (DirectMessagePage, family.DIRECT_MESSAGE_LIST),
    (DirectMessagePage, family.DIRECT_MESSAGE_LIST_EMPTY),
    *((DirectMessage, event) for event in family.DIRECT_MESSAGE_LIST["events"]),
    (DirectMessage, family.QUICK_REPLY_TEXT_INPUT),
    (DirectMessage, family.QUICK_REPLY_LOCATION),
    (DirectMessage, family.REQUEST_WITH_PROFILE["event"]),
    *((WelcomeMessage, one) for one in family.WELCOME_MESSAGE_LIST["welcome_messages"]),
    (WelcomeMessage, family.WELCOME_MESSAGE_NAMED["welcome_message"]),
    (WelcomeMessage, family.WELCOME_MESSAGE_WITH_ENTITIES["welcome_message"]),
    (WelcomeMessagePage, family.WELCOME_MESSAGE_LIST),
    (WelcomeMessageRule, family.WELCOME_MESSAGE_RULE["welcome_message_rule"]),
    (WelcomeMessageRulePage, family.WELCOME_MESSAGE_RULE_LIST),
    (WelcomeMessageRulePage, family.WELCOME_MESSAGE_RULE_LIST_EMPTY),
    (Media, family.MEDIA_INIT),
    (Media, family.MEDIA_FINALIZED),
    (Media, family.MEDIA_PENDING),
    (Media, family.MEDIA_IN_PROGRESS),
    (Media, family.MEDIA_SUCCEEDED),
    (Media, family.MEDIA_FAILED),
    (MediaV2, family.MEDIA_V2_INITIALIZED["data"]),
    (MediaV2, family.MEDIA_V2_FINALIZED["data"]),
    (RateLimitStatus, family.RATE_LIMIT_STATUS),
    (User, family.VERIFIED_USER),
    *(
        (DirectMessage, event)
        for name, sample in vars(family).items()
        if name.startswith(("WEBHOOK_", "XAA_"))
        for event in sample.get("data", {}).get("payload", sample).get("direct_message_events", [])
    ),
    *(
        (Person, user.get("data", user))
        for name, sample in vars(family).items()
        if name.startswith(("WEBHOOK_", "XAA_"))
        for user in sample.get("data", {}).get("payload", sample)["users"].values()
    ),
]


def test_a_page_of_null_is_an_empty_page() -> None:
    page = converter.structure({"custom_profiles": None, "next_cursor": None}, CustomProfilePage)
    assert page == CustomProfilePage(extra={"custom_profiles": None, "next_cursor": None})


@pytest.mark.parametrize(("model", "sample"), ROUND_TRIPS)
def test_nothing_is_lost(model: type[Any], sample: dict[str, Any]) -> None:
    assert converter.unstructure(converter.structure(sample, model)) == sample


def test_custom_profile() -> None:
    assert converter.structure(samples.CUSTOM_PROFILE["custom_profile"], CustomProfile) == CustomProfile(
        id="100001",
        name="Jon C, Partner Engineer",
        created_at=datetime(2016, 11, 21, 22, 26, 8, 196_000, tzinfo=UTC),
        avatar_url="https://pbs.twimg.com/media/Cr7HZpvVYAAYZIX.jpg",
    )


def test_the_documented_reply_has_neither_id_nor_time() -> None:
    message = converter.structure(samples.SENT_WITH_PROFILE["event"], DirectMessage)
    assert (message.id, message.created_at) == (None, None)
    assert (message.sender_id, message.recipient_id) == ("1241124", "844385345234")
    assert message.custom_profile_id == "100001"
    assert message.text == "Hi, my name is Jon. How can I help?"


def test_the_real_text_the_raw_one_and_the_entities() -> None:
    message = converter.structure(samples.SENT_AS_RECORDED["event"], DirectMessage)
    assert message.text == "$MSFT & $TSLA <3"
    assert message.raw_text == "$MSFT &amp; $TSLA &lt;3"
    assert message.entities is not None
    start, end = message.entities["symbols"][0]["indices"]
    assert message.text[start:end] == "$TSLA"
    assert message.raw_entities is not None
    start, end = message.raw_entities["symbols"][0]["indices"]
    assert message.raw_text[start:end] == "$TSLA"
    assert message.created_at == datetime(2019, 6, 21, 13, 24, 16, 789_000, tzinfo=UTC)


@given(st.text())
def test_whatever_the_api_escapes_comes_back(text: str) -> None:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert DirectMessage(raw_text=escaped).text == text


def test_texts_are_not_shown() -> None:
    event = {"message_create": {"message_data": {"text": "SENTINEL", "quick_reply": {"x": "SENTINEL"}}}}
    message = converter.structure(event, DirectMessage)
    assert message.text == "SENTINEL"
    assert "SENTINEL" not in repr(message)


def test_the_profile_id_is_read_from_either_place_and_stays_where_it_was() -> None:
    event = {"custom_profile_id": "7", "message_create": {"sender_id": "1"}}
    message = converter.structure(event, DirectMessage)
    assert message.custom_profile_id == "7"
    assert converter.unstructure(message) == event
    both = {"custom_profile_id": "7", "message_create": {"custom_profile_id": "8"}}
    assert converter.structure(both, DirectMessage).custom_profile_id == "8"


def test_fault_23_ids_as_numbers_and_unknown_fields() -> None:
    message = converter.structure({"id": 12, "new": [1], "message_create": {"newer": {"a": None}}}, DirectMessage)
    assert message.id == "12"
    assert message.extra == {"new": [1], "message_create": {"newer": {"a": None}}}
    assert converter.structure({"id": 12}, User).id == "12"
    assert converter.structure({"id_str": "13", "id": 12}, User).id == "13"


@pytest.mark.parametrize(
    ("model", "body"),
    [(DirectMessage, []), (DirectMessage, "x"), (DirectMessage, None), (CustomProfile, {}), (CustomProfile, {"id": None}),
     (CustomProfile, {"id": ["1"]}), (CustomProfile, {"id": True}),
     (CustomProfilePage, {"custom_profiles": {}}), (CustomProfilePage, {"custom_profiles": [5]}), (Media, {"size": 1})],
)  # fmt: skip
def test_what_is_no_such_object(model: type[Any], body: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        converter.structure(body, model)


@pytest.mark.parametrize(
    ("model", "body", "name"),
    [(CustomProfile, {"id": "1", "name": 5}, "name"), (CustomProfile, {"id": "1", "created_timestamp": "soon"}, "created_at"),
     (CustomProfile, {"id": "1", "created_timestamp": "9" * 18}, "created_at"), (User, {"id": 1, "verified": "yes"}, "verified"),
     (User, {"id": 1, "created_at": "yesterday"}, "created_at"), (DirectMessage, {"id": {}}, "id"),
     (User, {"id": 1, "created_at": "Mon Jan 01 00:00:00 +2300 0001"}, "created_at"),
     (User, {"id": 1, "created_at": "Mon Foo 01 00:00:00 +0000 2001"}, "created_at")],
)  # fmt: skip
def test_one_odd_field_does_not_cost_the_whole_answer(model: type[Any], body: dict[str, Any], name: str) -> None:
    structured = converter.structure(body, model)
    assert getattr(structured, name) is None
    assert converter.unstructure(structured) == body


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "target", "message_data", "type"]), json))
def test_unknown_json_comes_back_as_it_was(extra: dict[str, Any]) -> None:
    event = {"id": "1", "message_create": {**extra, "sender_id": "2"}, **{f"x_{key}": v for key, v in extra.items()}}
    try:
        message = converter.structure(event, DirectMessage)
    except ValueError:
        return  # it made something up for a field that we do know
    assert converter.unstructure(message) == event


def test_what_hangs_on_received_messages_is_typed() -> None:
    page = converter.structure(family.DIRECT_MESSAGE_LIST, DirectMessagePage)
    kinds = {type(message.attachment) for message in page.events}
    assert kinds >= {MessageMedia, SharedCoordinate, SharedPlace}
    assert any(message.quick_reply_response for message in page.events)
    assert any(message.initiated_via for message in page.events)
    assert any(message.quick_replies for message in page.events)
    assert any(message.ctas and message.ctas[0].tco_url for message in page.events)
    text_input = converter.structure(family.QUICK_REPLY_TEXT_INPUT, DirectMessage).quick_replies
    assert isinstance(text_input, TextInput)
    assert text_input.keyboard
    location = converter.structure(family.QUICK_REPLY_LOCATION, DirectMessage).quick_replies
    assert isinstance(location, LocationRequest)


def test_indices_of_entities_fit_the_text_that_is_returned() -> None:
    seen = 0
    for event in family.DIRECT_MESSAGE_LIST["events"]:
        message = converter.structure(event, DirectMessage)
        assert message.text is not None
        for kind, mark in (("hashtags", "#"), ("symbols", "$")):
            for entity in (message.entities or {}).get(kind, []):
                start, end = entity["indices"]
                assert message.text[start:end] == mark + entity["text"]
                seen += 1
        for url in (message.entities or {}).get("urls", []):
            start, end = url["indices"]
            assert message.text[start:end] == url["url"]
            seen += 1
    assert seen > 1


@given(st.lists(st.tuples(st.text("ab &<>;é😀", max_size=5), st.booleans()), max_size=8))
def test_indices_are_moved_as_the_text_is(parts: list[tuple[str, bool]]) -> None:
    escape = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    raw, entities, expected = "", [], []
    text = ""
    for part, is_entity in parts:
        if is_entity:
            entities.append({"indices": [len(raw), len(raw) + len(part.translate(escape))], "text": part})
            expected.append(part)
        raw, text = raw + part.translate(escape), text + part
    message = DirectMessage(raw_text=raw, raw_entities={"hashtags": entities, "odd": 5})
    assert message.text == text
    moved = (message.entities or {})["hashtags"]
    assert [text[one["indices"][0] : one["indices"][1]] for one in moved] == expected


@pytest.mark.parametrize("indices", [None, [], ["x"], [5, "y"], 7, [True, 1], [-5, 10**9]])
def test_odd_indices_do_no_harm(indices: Any) -> None:
    message = DirectMessage(raw_text="a &amp; b", raw_entities={"urls": [{"indices": indices}, 5], "x": None})
    assert message.entities is not None
