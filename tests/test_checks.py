"""What is refused before anything is sent, and what is left for the server to decide."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twdm_async import CallToAction, InvalidInput, QuickReply, Quota
from twdm_async._numbers import checked_count, checked_part
from twdm_async.models.checks import checked_characters, checked_id, checked_length, fewest_characters

FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}\u200d\N{BOY}"  # seven code points that are read as one character


@pytest.mark.parametrize("good", ["1", "007", 5, 0, 2**64 - 1, str(2**64 - 1), "18446744073709551615"])
def test_fault_42_ids_that_pass(good: str | int) -> None:
    assert checked_id(good, "x") == str(good)


@pytest.mark.parametrize(
    "bad",
    ["", " 1", "1\n", "-1", -1, 2**64, str(2**64), "9" * 40, "٣", "１", "²", "../x", "1?x=2", "1/2", "1.json",
     "../direct_messages/events/new", "1%2F2", "1#", True, 1.0, None, b"1", ["1"]],
)  # fmt: skip
def test_fault_42_ids_that_do_not(bad: object) -> None:
    with pytest.raises(InvalidInput, match="ASCII digits") as caught:
        checked_id(bad, "recipient_id")  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.parameter == "recipient_id"


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a" * 48,
        "\N{GRINNING FACE}" * 48,
        FAMILY * 12,
        "e\u0301" * 48,
        "\N{REGIONAL INDICATOR SYMBOL LETTER D}" * 96,
    ],
)
def test_fault_40_names_that_some_way_of_counting_allows(name: str) -> None:
    assert checked_length(name, "name", 48) == name


@pytest.mark.parametrize(
    "name", ["", " ", "\n\t", "\u3000", "a" * 49, "\N{GRINNING FACE}" * 49, FAMILY * 49, "\u00e9" * 49, "e\u0301" * 49]
)
def test_fault_40_names_that_every_way_of_counting_refuses(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_length(name, "name", 48)
    assert caught.value.parameter == "name"


def test_twelve_families_are_as_long_as_the_documents_make_us_fear() -> None:
    twelve = FAMILY * 12
    assert (len(twelve), len(twelve.encode("utf-16-le")) // 2, len(twelve.encode())) == (84, 132, 300)
    assert fewest_characters(twelve) == 12


@pytest.mark.parametrize(
    ("text", "count"),
    [("abc", 3), ("", 0), ("e\u0301", 1), ("\u1112\u1161\u11ab", 1), ("👍🏽", 1), ("🇩🇪🇫🇷", 2), ("🇩🇪🇫", 2),
     ("🏴\U000e0067\U000e0062\U000e007f", 1), ("\r\n", 1), ("\n\n", 2), ("❤\ufe0f", 1),
     ("a\u200cb", 2), ("ก\u0e33", 1), ("ｶ\uff9e", 1), ("\u1100\u1100\u1161", 1), ("क\u094dष", 1)],
)  # fmt: skip
def test_the_most_generous_count(text: str, count: int) -> None:
    assert fewest_characters(text) == count


@given(st.text())
def test_no_way_of_counting_finds_fewer(text: str) -> None:
    assert fewest_characters(text) <= len(text) <= len(text.encode("utf-16-le", "surrogatepass")) // 2


def test_fault_41_the_longest_text() -> None:
    assert checked_length("x" * 10_000, "text", 10_000)
    with pytest.raises(InvalidInput, match="at most 10000"):
        checked_length("x" * 10_001, "text", 10_000)


@pytest.mark.parametrize("bad", ["a\0b", "\x1b[31m", "\x7f", "\x85", "a\ud83d", "\udc00", "\x0b"])
def test_fault_41_characters_that_no_request_can_carry(bad: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_length(bad, "text", 10)
    assert bad not in str(caught.value)


@pytest.mark.parametrize("good", ["a\u202eb\u202c", "\u2066x\u2069", "a\tb\r\nc", "\u200fשלום", "zero\u200bwidth"])
def test_fault_41_direction_marks_and_newlines_are_kept(good: str) -> None:
    assert checked_characters(good, "text") == good


@pytest.mark.parametrize("bad", [b"bytes", 5, None])
def test_text_that_is_no_text(bad: object) -> None:
    with pytest.raises(InvalidInput, match="must be a str"):
        checked_length(bad, "text", 10)  # type: ignore[arg-type]  # wrong on purpose


def test_fault_44_labels() -> None:
    assert QuickReply("x" * 36).label == "x" * 36
    assert QuickReply("x", description="x" * 72, metadata="x" * 1000).description == "x" * 72
    for arguments in ({"label": "x" * 37}, {"label": ""}, {"label": "x", "description": ""},
                      {"label": "x", "description": "x" * 73}, {"label": "x", "metadata": "x" * 1001}):  # fmt: skip
        with pytest.raises(InvalidInput):
            QuickReply(**arguments)


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "javascript:alert(1)", "https://", "https:///x",
                                 "http://a b", "https://a\nb", "//example.com", "http://[::1", "http://:80", "https://ex.com:99999"])  # fmt: skip
def test_fault_44_bad_addresses(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        CallToAction("go", url)
    assert caught.value.parameter == "url"


def test_fault_44_good_addresses() -> None:
    for url in ("http://example.com", "HTTPS://example.com/ü?a=b#c", "https://[::1]:8000/"):
        assert CallToAction("go", url).url == url
    with pytest.raises(InvalidInput, match="label"):
        CallToAction("x" * 37, "https://example.com")


def test_numbers() -> None:
    assert checked_count(10**18, "max_waiting") == 10**18, "who wants no bound may say so"
    assert Quota(10**9, per=1e9).limit == 10**9
    for bad in (0, True, 1.5, "3", None, math.nan, 10**9 + 1):
        with pytest.raises(InvalidInput, match="limit: must be a whole number from 1 to 1e"):
            Quota(bad, per=1)  # type: ignore[arg-type]  # wrong on purpose
    for bad in (-0.1, 1, True, math.nan, "0"):
        with pytest.raises(InvalidInput, match="assume_spent: must be a number below 1, from 0 to 1"):
            checked_part(bad, "assume_spent")  # type: ignore[arg-type]  # wrong on purpose
