"""The sandbox finds links in texts as twitter-text does: cases in the manner of its conformance tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from twdm_async.sandbox.links import links_in

if TYPE_CHECKING:
    from twdm_async import Client
    from twdm_async.sandbox import Sandbox

CASES: dict[str, list[str]] = {
    # what stands behind a link
    "see http://example.com.": ["http://example.com"],
    "see http://example.com/path/.": ["http://example.com/path/"],
    "is it http://example.com/path? yes": ["http://example.com/path"],
    "wow http://example.com/path!!!": ["http://example.com/path"],
    "this (http://example.com/path) and that": ["http://example.com/path"],
    "http://example.com/a, http://example.com/b; http://example.com/c": ["http://example.com/a", "http://example.com/b", "http://example.com/c"],
    "a film: http://en.example.org/wiki/Primer_(film)": ["http://en.example.org/wiki/Primer_(film)"],
    "(a film: http://en.example.org/wiki/Primer_(film))": ["http://en.example.org/wiki/Primer_(film)"],
    "http://example.com/path.........": ["http://example.com/path"],
    "http://www.example.com/path-with-period./": ["http://www.example.com/path-with-period./"],
    "http://example.com:8080/?a=1&b=2#there, and": ["http://example.com:8080/?a=1&b=2#there"],
    # without a protocol
    "example.com and www.bbc.co.uk and x.ai and go.dev": ["example.com", "www.bbc.co.uk", "x.ai", "go.dev"],
    "example.com/path too": ["example.com/path"],
    "t.co/abcde bit.ly/abcde": ["t.co/abcde", "bit.ly/abcde"],
    "made.up1 nothing.nowhere file.tar.bz2 v1.2.3 3.14": [],
    "-example.com _example.com /example.com .example.com": [],
    # what is no link
    "#example.com @example.com $example.com #http://example.com @http://example.com": [],
    "write to john.doe.gov@mail.com": [],
    "http://twitter-.com http://-twitter.com http://twitter_under.com http://a.b_c": [],
    "no dots at all": [],
    # domains
    "http://a_b.c-d.com http://sub-domain.example.com http://a.b.cd": ["http://a_b.c-d.com", "http://sub-domain.example.com", "http://a.b.cd"],
    "http://foobar.みんな/ http://foobar.中国/": ["http://foobar.みんな/", "http://foobar.中国/"],
    "http://xn--ls8h.XN--ls8h.la/": ["http://xn--ls8h.XN--ls8h.la/"],
    "ELPAÍS.com HTTP://EXAMPLE.COM/PATH": ["ELPAÍS.com", "HTTP://EXAMPLE.COM/PATH"],
    "twitter.comこれは。example.com中国語t.co/abcde한국": ["twitter.com", "example.com", "t.co/abcde"],
    "http://twitter.com/これは日本語です。example.com": ["http://twitter.com/", "example.com"],
    # links that are short already
    "http://t.co/pbY2NfTZ's http://t.co/8MkmHU0k+c http://t.co/FNkPfmii-": ["http://t.co/pbY2NfTZ", "http://t.co/8MkmHU0k", "http://t.co/FNkPfmii"],
}  # fmt: skip


@pytest.mark.parametrize("text", CASES)
def test_fault_102_links_are_found_as_twitter_text_finds_them(text: str) -> None:
    assert [text[start:end] for start, end in links_in(text)] == CASES[text]


async def test_fault_102_only_the_link_is_shortened(sandbox: Sandbox, client: Client) -> None:
    message = await client.direct_messages.send(5, "tea & cups (example.com/a?x=1&y=2). http://b.dev!")
    assert message.text == "tea & cups (https://t.co/0000000000). https://t.co/0000000001!"
    assert message.entities is not None
    urls = message.entities["urls"]
    assert [url["expanded_url"] for url in urls] == ["http://example.com/a?x=1&y=2", "http://b.dev"]
    assert [message.text[slice(*url["indices"])] for url in urls] == [url["url"] for url in urls]
    assert sandbox.messages[0].text == "tea & cups (example.com/a?x=1&y=2). http://b.dev!"


@pytest.mark.soak
@pytest.mark.parametrize(
    "text", ["a." * 5000, "こ" * 9999 + ".", "中国." * 3000, "http://a.com/" + "(" * 9000, "." * 10_000]
)
def test_fault_102_no_text_takes_for_ever(text: str) -> None:
    before = time.process_time()
    list(links_in(text))
    assert time.process_time() - before < 60, "with the rules as they are written down it takes minutes"
