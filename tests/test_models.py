"""Samples structure into models, and nothing of them is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import samples
from twdm_async import CustomProfile, DirectMessage, Media, User, WelcomeMessage
from twdm_async.models.convert import converter
from twdm_async.models.custom_profiles import CustomProfilePage

ROUND_TRIPS = [
    (CustomProfile, samples.CUSTOM_PROFILE["custom_profile"]),
    (CustomProfilePage, samples.CUSTOM_PROFILE_LIST),
    (CustomProfilePage, {"custom_profiles": []}),
    (CustomProfilePage, {"custom_profiles": [], "next_cursor": "MTE0MjA5ODA3OTUyNjYwMDcwOA"}),
    (DirectMessage, samples.SENT_WITH_PROFILE["event"]),
    (DirectMessage, samples.SENT_AS_RECORDED["event"]),
    (WelcomeMessage, samples.WELCOME_MESSAGE["welcome_message"]),
    (User, samples.USER),
    (Media, samples.MEDIA),
]


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
