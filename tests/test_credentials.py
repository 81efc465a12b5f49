"""Keys: where they come from, which are refused, and that they never show themselves."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest

from tests import secrets
from twdm_async import Client, Credentials, InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("consumer_key", "consumer_secret", "access_token", "access_token_secret")
SECRETS = ("SENTINELck", "SENTINELcs", "SENTINELat", "SENTINELas")
KEYS = Credentials(**dict(zip(NAMES, SECRETS, strict=True)))

TWURLRC = """\
---
profiles:
  brand:
    ckey:
      username: brand
      consumer_key: ckey
      consumer_secret: csecret
      token: 1-token
      secret: tsecret
  other:
    ckey2:
      username: other
      consumer_key: ckey2
      consumer_secret: csecret2
      token: 2-token
      secret: tsecret2
configuration:
  default_profile:
  - brand
  - ckey
"""


def twurlrc(folder: Path, content: str = TWURLRC, mode: int = 0o600) -> Path:
    path = folder / ".twurlrc"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_they_never_show_themselves() -> None:
    client = Client(KEYS)
    shown = f"{KEYS} {KEYS!r} {vars(client)!r} {KEYS.account} {KEYS.app} {client._caller._signer!r}"
    assert "SENTINEL" not in shown
    assert pickle.loads(pickle.dumps(KEYS)) == KEYS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", ["", "key\n", " key", "ke y", "k\u00e9y", "key\u200b", "\ufeffkey", "ключ", None, 5])
def test_fault_37_bad_keys_are_refused_at_once(name: str, bad: object) -> None:
    keys: dict[str, object] = {**dict(zip(NAMES, SECRETS, strict=True)), name: bad}
    with pytest.raises(InvalidInput) as caught:
        Credentials(**keys)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.parameter == name
    assert "SENTINEL" not in str(caught.value)
    if isinstance(bad, str) and bad:
        assert bad not in str(caught.value)


GROUPS = [
    ("TWDM_CONSUMER_KEY", "TWDM_CONSUMER_SECRET", "TWDM_ACCESS_TOKEN", "TWDM_ACCESS_TOKEN_SECRET"),
    ("X_API_KEY", "X_API_SECRET", "X_ACCESS_TOKEN", "X_ACCESS_TOKEN_SECRET"),
    ("TWITTER_CONSUMER_KEY", "TWITTER_CONSUMER_SECRET", "TWITTER_ACCESS_TOKEN", "TWITTER_ACCESS_TOKEN_SECRET"),
]


@pytest.mark.parametrize("names", GROUPS)
def test_from_the_environment(names: tuple[str, ...]) -> None:
    assert Credentials.from_env(dict(zip(names, SECRETS, strict=True))) == KEYS


def test_the_first_group_goes_before_the_others() -> None:
    everything = {name: f"{name}-{index}" for group in GROUPS for index, name in enumerate(group)}
    assert Credentials.from_env(everything).consumer_key == "TWDM_CONSUMER_KEY-0"


@pytest.mark.parametrize("names", GROUPS)
@pytest.mark.parametrize("missing", range(4))
def test_a_group_that_is_not_whole_is_never_mixed_with_another(names: tuple[str, str, str, str], missing: int) -> None:
    environ = {name: "x" for group in GROUPS[GROUPS.index(names) :] for name in group}
    del environ[names[missing]]
    with pytest.raises(InvalidInput, match=names[missing]):
        Credentials.from_env(environ)


def test_nothing_in_the_environment() -> None:
    with pytest.raises(InvalidInput, match="TWDM_CONSUMER_KEY"):
        Credentials.from_env({})


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(GROUPS[0], SECRETS, strict=True):
        monkeypatch.setenv(name, value)
    assert Credentials.from_env() == KEYS


def test_twurlrc_default_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = twurlrc(tmp_path)
    assert Credentials.from_twurlrc(path).access_token == "1-token"
    assert Credentials.from_twurlrc(path, username="other").access_token == "2-token"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Credentials.from_twurlrc().consumer_secret == "csecret"
    with pytest.raises(InvalidInput, match="does not contain this account"):
        Credentials.from_twurlrc(path, username="nobody")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_twurlrc_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidInput, match="chmod 600"):
        Credentials.from_twurlrc(twurlrc(tmp_path, mode=mode))


@pytest.mark.parametrize(
    "content",
    ["", "- a\n", "profiles: 5\n", "profiles: {brand: 5}\nconfiguration: {default_profile: [brand, ckey]}\n",
     "tsecret: [\n", "\tx: tsecret", "profiles: {brand: {ckey: tsecret}}\nconfiguration: {default_profile: [brand, ckey]}"],
)  # fmt: skip
def test_twurlrc_that_is_none(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Credentials.from_twurlrc(twurlrc(tmp_path, content))
    assert "tsecret" not in f"{caught.value!r}{caught.value.__context__!r}"


def test_twurlrc_without_default_profile(tmp_path: Path) -> None:
    path = twurlrc(tmp_path, TWURLRC.split("configuration", maxsplit=1)[0])
    with pytest.raises(InvalidInput, match="no default profile"):
        Credentials.from_twurlrc(path)
    assert Credentials.from_twurlrc(path, username="brand").access_token == "1-token"


def test_twurlrc_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=os.strerror(2)):
        Credentials.from_twurlrc(tmp_path / "none")


def test_errors_about_keys_show_none_of_the_others(tmp_path: Path) -> None:
    """Tracebacks that show what frames hold are looked through after every test; here there is something to find."""
    good = {"consumer_key": "SENTINELck", "consumer_secret": "SENTINELcs", "access_token": "SENTINELat"}
    before = secrets.scanned["exceptions"]
    with pytest.raises(InvalidInput):
        Credentials(**good, access_token_secret="SENTINELas\n")
    with pytest.raises(InvalidInput):
        Credentials.from_env({f"TWDM_{name.upper()}": value for name, value in good.items()})
    file = tmp_path / ".twurlrc"
    file.write_text("profiles: {a: {SENTINELck: {consumer_secret: SENTINELcs}}}\nconfiguration: {}\n")
    file.chmod(0o600)
    with pytest.raises(InvalidInput):
        Credentials.from_twurlrc(file, "a")
    assert secrets.scanned["exceptions"] == before + 3
