"""Signatures: the documents' own example, and oauthlib's server side as the judge of everything else."""

from __future__ import annotations

import base64
import hmac
import multiprocessing
import re
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twdm_async import Client, Credentials, InvalidInput
from twdm_async._clock import Clock
from twdm_async.endpoints import ENDPOINTS, Host
from twdm_async.sandbox.clock import SandboxClock
from twdm_async.sandbox.gate import Gate
from twdm_async.sandbox.records import StoredAccount
from twdm_async.sandbox.refusal import Refusal
from twdm_async.transport import wire
from twdm_async.transport.oauth1 import OAuth1Signer, checked_host

WORKED_EXAMPLE = Credentials(
    consumer_key="xvz1evFS4wEEPTGEFPHBog",
    consumer_secret="kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw",
    access_token="370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb",
    access_token_secret="LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE",
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.twitter.com/1/statuses/update.json", "tnnArxj06cWHq44gCs1OSKk/jLY="),
        ("https://api.twitter.com/1.1/statuses/update.json", "hCtSmYh+iHYCEqBWrE7C7hYmtUk="),
        ("https://api.x.com/1.1/statuses/update.json", "Ls93hJiZbQ3akF3HF3x1Bz8/zU4="),
    ],
)
def test_the_worked_example_of_the_documents(url: str, expected: str) -> None:
    header = OAuth1Signer(WORKED_EXAMPLE, Clock()).authorization(
        "POST",
        url,
        [("include_entities", "true"), ("status", "Hello Ladies + Gentlemen, a signed OAuth request!")],
        nonce="kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg",
        timestamp="1318622958",
    )
    found = re.search(r'oauth_signature="([^"]+)"', header)
    assert found
    assert unquote(found[1]) == expected
    assert header.startswith("OAuth ")
    assert header.count('="') == 7


@pytest.mark.parametrize(
    ("plain", "encoded"),
    [
        ("Ladies + Gentlemen", "Ladies%20%2B%20Gentlemen"),
        ("An encoded string!", "An%20encoded%20string%21"),
        ("Dogs, Cats & Mice", "Dogs%2C%20Cats%20%26%20Mice"),
        ("☃", "%E2%98%83"),
        ("!*'()~ +%&=", "%21%2A%27%28%29~%20%2B%25%26%3D"),
    ],
)
def test_percent_encoding(plain: str, encoded: str) -> None:
    assert wire._escape(plain) == encoded


# ---- oauthlib's server side judges what would be sent ----

KEYS = Credentials(
    consumer_key="c+k/=", consumer_secret="c&s%", access_token="1-t", access_token_secret="t s".replace(" ", "+")
)
HOSTS = {Host.API: "http://127.0.0.1:8765", Host.UPLOAD: "http://127.0.0.1:8765"}


def judge(keys: Credentials = KEYS) -> Gate:
    gate = Gate(SandboxClock(Clock(), 1.0))
    gate.accounts[keys.access_token] = StoredAccount(keys, {"id_str": "1", "verified": True}, allowlisted=True)
    return gate


def verdict(gate: Gate, name: str, arguments: dict[str, Any], *, tamper: bool = False) -> bool:
    request = wire.encode(ENDPOINTS[name], HOSTS, arguments)
    header = OAuth1Signer(KEYS, Clock()).sign(request)
    body = request.body.decode() if isinstance(request.body, bytes) else ""
    if tamper:
        body += "x"
    headers = {"Authorization": header, "Content-Type": request.content_type or "multipart/form-data"}
    try:
        gate.admit(request.endpoint.method, request.target, body, headers)
    except Refusal:
        return False
    return True


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(TEXTS, TEXTS)
def test_fault_38_any_strings_in_form_and_query(first: str, second: str) -> None:
    gate = judge()
    assert verdict(gate, "account.update_profile", {"name": first, "description": second})
    assert verdict(gate, "custom_profiles.list", {"cursor": first, "count": second})
    assert verdict(gate, "direct_messages.send", {"event": {"text": first}})
    assert not verdict(gate, "account.update_profile", {"name": first, "description": second}, tamper=True)


@pytest.mark.parametrize(
    "text", ["!*'()~ +%&=", "\N{PILE OF POO}", "é", "e\u0301", "\0", "\u200f\u202e", "a=b&c=d", "%41", ""]
)
def test_fault_38_the_strings_that_break_signers(text: str) -> None:
    assert verdict(judge(), "account.update_profile", {"name": text})
    assert verdict(judge(), "custom_profiles.list", {"cursor": text})


def test_the_short_cut_is_what_oauthlib_makes() -> None:
    signer = OAuth1Signer(KEYS, Clock())
    key = "&".join(quote(one, safe="") for one in (KEYS.consumer_secret, KEYS.access_token_secret)).encode()
    for number in range(1000):  # more than there is room for
        url = f"http://127.0.0.1:8765/1.1/direct_messages/events/{number % 300}.json"
        base = signer._base_string("POST", url, (), str(number), "1700000000")  # oauthlib's
        signature = quote(base64.b64encode(hmac.digest(key, base.encode(), "sha1")), safe="")
        header = signer.authorization("POST", url, (), str(number), "1700000000")
        assert f'oauth_signature="{signature}"' in header
    assert len(signer._begun) <= 256


@given(*[st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)] * 4)
def test_any_keys_sign_well(consumer_key: str, consumer_secret: str, token: str, secret: str) -> None:
    keys = Credentials(
        consumer_key=consumer_key, consumer_secret=consumer_secret, access_token=token, access_token_secret=secret
    )
    request = wire.encode(ENDPOINTS["direct_messages.send"], HOSTS, {})
    headers = {"Authorization": OAuth1Signer(keys, Clock()).sign(request), "Content-Type": "application/json"}
    assert judge(keys).admit("POST", request.target, "", headers).credentials == keys


def nonces(count: int) -> list[str]:
    signer = OAuth1Signer(KEYS, Clock())
    request = wire.encode(ENDPOINTS["direct_messages.send"], HOSTS, {})
    found = (re.search(r'oauth_nonce="(\w+)"', signer.sign(request)) for _ in range(count))
    return [match[1] for match in found if match]


@pytest.mark.soak
def test_fault_39_nonces_are_unique_over_many_requests_and_over_processes() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        elsewhere = pool.map(nonces, [1000, 1000], chunksize=1)
    here = nonces(20_000)
    assert len({*here, *elsewhere[0], *elsewhere[1]}) == 22_000


# ---- whom we sign for ----


@pytest.mark.parametrize(
    "url",
    ["https://api.twitter.com", "https://api.x.com/", "https://upload.x.com:443", "http://127.0.0.1:80", "http://localhost:1",
     "http://[::1]:8080", "https://127.3.2.1"],
)  # fmt: skip
def test_hosts_we_know(url: str) -> None:
    assert checked_host(url, "api_url") == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["http://api.twitter.com", "https://evil.com", "https://api.twitter.com.evil.com", "https://api.twitter.com@evil.com",
     "https://evil.com/api.twitter.com", "https://api.twitter.com/1.1", "https://api.twitter.com?x", "api.twitter.com", "",
     "ftp://localhost", "https://api.twitter.com:8443", "http://127.0.0.1.evil.com", "http://user:pass@localhost", "http://[",
     "http://10.0.0.1", "http://localhost:99999", "https://api.twitter.com#x"],
)  # fmt: skip
def test_hosts_we_do_not_sign_for(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Client(KEYS, api_url=url)
    assert caught.value.parameter == "api_url"
    with pytest.raises(InvalidInput):
        Client(KEYS, upload_url=url)
