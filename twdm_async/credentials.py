"""The four keys of OAuth 1.0a, which no repr and no error shows."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import Attribute, field, frozen

from twdm_async._json import Json, is_array, is_object
from twdm_async._quiet import quiet_call, quiet_class
from twdm_async.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping


def _checked_key(_: object, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidInput(parameter=attribute.name, problem="is missing or empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidInput(
            parameter=attribute.name,
            problem="holds a space, a newline or a character outside ASCII; was it copied with something around it?",
        )


ENVIRONMENTS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("TWDM_CONSUMER_KEY", "TWDM_CONSUMER_SECRET", "TWDM_ACCESS_TOKEN", "TWDM_ACCESS_TOKEN_SECRET"),
    ("X_API_KEY", "X_API_SECRET", "X_ACCESS_TOKEN", "X_ACCESS_TOKEN_SECRET"),
    ("TWITTER_CONSUMER_KEY", "TWITTER_CONSUMER_SECRET", "TWITTER_ACCESS_TOKEN", "TWITTER_ACCESS_TOKEN_SECRET"),
)
"""The environment variables of the four keys, in groups. The first group of which any variable is set is used."""


@quiet_class
@frozen(repr=False, kw_only=True)
class Credentials:
    """The keys of one app and one account (page *OAuth 1.0a: creating a signature*).

    Args:
        consumer_key: the app's API key.
        consumer_secret: the app's API secret.
        access_token: the account's token, issued with *Read, Write and Direct Messages*.
        access_token_secret: the token's secret.

    Raises:
        InvalidInput: a key is not a string, is empty, or contains white space, a control character or a character
            outside ASCII.
    """

    consumer_key: str = field(validator=_checked_key)
    consumer_secret: str = field(validator=_checked_key)
    access_token: str = field(validator=_checked_key)
    access_token_secret: str = field(validator=_checked_key)

    def __repr__(self) -> str:
        return "Credentials(<hidden>)"

    @property
    def app(self) -> str:
        """A name for the app, from which its key cannot be found."""
        return _fingerprint(self.consumer_key)

    @property
    def user_id(self) -> str | None:
        """The account's user id, which the API's tokens begin with; ``None`` if this token does not."""
        number, dash, _ = self.access_token.partition("-")
        return number if dash and number.isdigit() else None

    @property
    def account(self) -> str:
        """A name for the account in the app, from which no key can be found. It stays the same if the account gets a
        new token.
        """
        return _fingerprint(f"{self.consumer_key} {self.user_id or self.access_token}")

    def fingerprint(self, text: str) -> str:
        """Return a keyed hash of `text`, made with these keys.

        Texts that the API shows alike have the same fingerprint: see :func:`wording`.
        """
        mac = hmac.new(self.consumer_secret.encode(), wording(text).encode(), "sha256").hexdigest()
        return f"{self._maker}-{mac[:32]}"

    def fingerprints(self, text: str | None, content: str) -> tuple[str, str]:
        """Return two fingerprints of a message: of its wording, by which the message can be found, and of whatever else
        distinguishes it from others with the same wording. The second is empty if nothing does.

        Args:
            text: the message's text.
            content: what is attached to the message, as JSON; empty if nothing is.
        """
        text = text or ""
        if wording(text) != text:
            content += f" {text.encode('utf-8', 'surrogatepass').hex()}"
        return self.fingerprint(text), self.fingerprint(content) if content else ""

    def made(self, fingerprint: str) -> bool:
        """Return whether `fingerprint` was made with the keys of this app, for this account."""
        return fingerprint.startswith(f"{self._maker}-")

    @property
    def _maker(self) -> str:
        return hmac.new(self.consumer_secret.encode(), self.account.encode(), "sha256").hexdigest()[:8]

    @classmethod
    @quiet_call
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Credentials:
        """Take the keys from environment variables: ``TWDM_*``, else ``X_*``, else ``TWITTER_*``.

        The four variables are ``TWDM_CONSUMER_KEY``, ``TWDM_CONSUMER_SECRET``, ``TWDM_ACCESS_TOKEN`` and
        ``TWDM_ACCESS_TOKEN_SECRET``; or ``X_API_KEY``, ``X_API_SECRET``, ``X_ACCESS_TOKEN`` and
        ``X_ACCESS_TOKEN_SECRET``; or the first four with ``TWITTER_`` in place of ``TWDM_``. The first group of which
        any variable is set must be complete: keys of two groups are never mixed.

        Args:
            environ: the variables; those of the process if not given.

        Raises:
            InvalidInput: none of the variables is set, the group that is used lacks some, or a key is not in the form
                that :class:`Credentials` requires.
        """
        environ = os.environ if environ is None else environ
        for names in ENVIRONMENTS:
            missing = [name for name in names if not environ.get(name)]
            if not missing:
                return cls(
                    consumer_key=environ[names[0]],
                    consumer_secret=environ[names[1]],
                    access_token=environ[names[2]],
                    access_token_secret=environ[names[3]],
                )
            if len(missing) < len(names):
                raise InvalidInput(parameter="environment", problem=f"{', '.join(missing)} must be set too")
        raise InvalidInput(parameter="environment", problem=f"set {', '.join(ENVIRONMENTS[0])}")

    @classmethod
    @quiet_call
    def from_twurlrc(cls, path: str | os.PathLike[str] | None = None, username: str | None = None) -> Credentials:
        """Read the keys from the file of the tool ``twurl``. This needs the extra ``cli``, for YAML.

        Args:
            path: the path of the file; ``~/.twurlrc`` if not given.
            username: the handle of the account, as the file spells it; the file's default profile if not given.

        Raises:
            InvalidInput: the file cannot be read, can be read by other users, or is not in the form that ``twurl``
                writes; the account is not in the file, or has several apps there of which none is the default; the file
                has no default profile and `username` is not given; a key is not in the form that :class:`Credentials`
                requires; or PyYAML is not installed.
        """
        path = Path(path) if path is not None else Path.home() / ".twurlrc"
        profiles, default = _read_twurlrc(path)
        if username is None and default is None:
            raise InvalidInput(parameter="username", problem=f"{path} has no default profile; say which account")
        name, consumer_key = default if default and username in {None, default[0]} else (username or "", None)
        accounts = profiles.get(name)
        if not is_object(accounts) or not accounts:
            raise InvalidInput(parameter="username", problem=f"{path} does not contain this account")
        if consumer_key is None and len(accounts) > 1:
            raise InvalidInput(
                parameter="username", problem=f"{path} has several apps for this account; make one the default"
            )
        entry = accounts.get(consumer_key) if consumer_key is not None else next(iter(accounts.values()))
        if not is_object(entry):
            raise InvalidInput(parameter="path", problem=f"{path} is not a file that twurl writes")
        return cls(
            consumer_key=entry.get("consumer_key", ""),
            consumer_secret=entry.get("consumer_secret", ""),
            access_token=entry.get("token", ""),
            access_token_secret=entry.get("secret", ""),
        )


def wording(text: str) -> str:
    """Return `text` without what the API may change in it: invisible characters, the kind of white space, and the
    scheme and the final slash of a URL.
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(character for character in text if character.isspace() or unicodedata.category(character)[0] != "C")
    words = [_SCHEME.sub("", word).rstrip("/") for word in text.split()]
    return " ".join(words)


_SCHEME: Final = re.compile(r"https?://", re.IGNORECASE)


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_twurlrc(path: Path) -> tuple[Mapping[str, Json], tuple[str, str] | None]:
    """Return the profiles in the file, and the default one as account and consumer key; ``None`` if there is none."""
    try:
        import yaml  # noqa: PLC0415 - only this function needs it, and only the extra has it
    except ImportError:
        raise InvalidInput(parameter="path", problem="reading it needs YAML: pip install 'twdm_async[cli]'") from None
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise InvalidInput(parameter="path", problem=f"{path} can be read by others; run: chmod 600 {path}")
            content: Json = yaml.load(file, Loader=yaml.BaseLoader)  # noqa: S506 - it makes only str, list, dict
    except OSError as error:
        raise InvalidInput(parameter="path", problem=f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None  # the parser's own message would repeat a line of the file
    profiles = content.get("profiles") if is_object(content) else None
    if not is_object(content) or not is_object(profiles):
        raise InvalidInput(parameter="path", problem=f"{path} is not a file that twurl writes")
    configuration = content.get("configuration")
    default = configuration.get("default_profile") if is_object(configuration) else None
    if is_array(default) and len(default) == 2 and all(isinstance(part, str) for part in default):
        return profiles, (default[0], default[1])
    return profiles, None
