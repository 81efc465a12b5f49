"""Authentication: checks OAuth 1.0a signatures with oauthlib's server side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from oauthlib.oauth1 import RequestValidator, ResourceEndpoint

from twdm_async.sandbox.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oauthlib.common import Request

    from twdm_async.sandbox.clock import SandboxClock
    from twdm_async.sandbox.records import StoredAccount

_OLDEST_TIMESTAMP: Final = 300.0  # seconds


class Gate:
    """Authenticates requests. It knows the accounts, and every nonce that they have used.

    Args:
        clock: the sandbox's clock, by which the age of timestamps is judged.
    """

    def __init__(self, clock: SandboxClock) -> None:
        self.clock = clock
        self.accounts: dict[str, StoredAccount] = {}  # by access token
        self.nonces: set[tuple[str | None, str, str]] = set()

    def admit(self, method: str, url: str, body: str, headers: Mapping[str, str]) -> StoredAccount:
        """Return the account that has signed this request.

        Args:
            method: the HTTP method.
            url: the URL as it was sent, query included.
            body: the body if it is a form; empty otherwise.
            headers: the headers, with ``Authorization`` and ``Content-Type``.

        Raises:
            Refusal: the request is not signed; or its signature, token, timestamp or nonce is not valid.
        """
        if not headers.get("Authorization", "").startswith("OAuth "):
            raise Refusal(400, 215, "Bad Authentication data.")
        judge = _Judge(self)
        endpoint: Any = ResourceEndpoint(judge)  # its stubs leave the types open
        valid, _ = endpoint.validate_protected_resource_request(url, method, body, dict(headers))
        if not valid:
            raise judge.refusal
        self.nonces.add(judge.nonce)
        return self.accounts[judge.nonce[0] or ""]


class _Judge(RequestValidator):
    """Answers oauthlib's questions about one request, from the accounts and nonces that the gate knows."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate
        self.refusal = Refusal(401, 32, "Could not authenticate you.", "The signature is wrong: are the secrets right?")
        self.nonce: tuple[str | None, str, str] = ("", "", "")

    def validate_timestamp_and_nonce(
        self,
        client_key: str,
        timestamp: str,
        nonce: str,
        request: Request,
        request_token: str | None = None,
        access_token: str | None = None,
    ) -> bool:
        age = self._gate.clock.wall() - int(timestamp)
        if not -_OLDEST_TIMESTAMP <= age <= _OLDEST_TIMESTAMP + self._gate.clock.moved_lately():
            self.refusal = Refusal(401, 135, "Timestamp out of bounds.", "It is more than five minutes off.")
            return False
        self.nonce = (access_token, timestamp, nonce)
        if self.nonce in self._gate.nonces:
            self.refusal = Refusal(401, 32, "Could not authenticate you.", "The nonce was used before.")
            return False
        return True

    def validate_client_key(self, client_key: str, request: Request) -> bool:
        return any(account.credentials.consumer_key == client_key for account in self._gate.accounts.values())

    def validate_access_token(self, client_key: str, token: str, request: Request) -> bool:
        account = self._gate.accounts.get(token)
        if account is None or account.credentials.consumer_key != client_key:
            self.refusal = Refusal(401, 89, "Invalid or expired token.", "The sandbox has no account with this token.")
            return False
        return True

    def validate_realms(
        self, client_key: str, token: str, request: Request, uri: str | None = None, realms: list[str] | None = None
    ) -> bool:
        return True

    def get_client_secret(self, client_key: str, request: Request) -> str:
        found = (a.credentials for a in self._gate.accounts.values() if a.credentials.consumer_key == client_key)
        credentials = next(found, None)
        return credentials.consumer_secret if credentials else "nobody's"

    def get_access_token_secret(self, client_key: str, token: str, request: Request) -> str:
        account = self._gate.accounts.get(token)
        return account.credentials.access_token_secret if account else "nobody's"

    # oauthlib checks these limits before it asks. They are wide enough for the keys and nonces of all known clients.

    @property
    def enforce_ssl(self) -> bool:
        return False

    @property
    def timestamp_lifetime(self) -> int:
        return 10**10  # seconds: no limit, since oauthlib reads the machine's clock; see the check above

    @property
    def nonce_length(self) -> tuple[int, int]:
        return 8, 64

    @property
    def client_key_length(self) -> tuple[int, int]:
        return 1, 200

    @property
    def access_token_length(self) -> tuple[int, int]:
        return 1, 200

    @property
    def safe_characters(self) -> set[str]:
        return {chr(code) for code in range(33, 127)}

    @property
    def dummy_client(self) -> str:
        return "nobody"

    @property
    def dummy_access_token(self) -> str:
        return "nobody"
