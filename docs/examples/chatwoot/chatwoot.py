"""The few calls of Chatwoot's Application API that the bridge needs."""

import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

SIGNATURE, TIMESTAMP = "X-Chatwoot-Signature", "X-Chatwoot-Timestamp"


class ChatwootRefused(Exception):
    """Chatwoot answered with an error; asking again would not help."""


class ChatwootBusy(Exception):
    """Chatwoot did not answer, is in trouble, or does not know the access token; it may help to ask again."""


class Chatwoot:
    """An account of a Chatwoot server, and one of its API channel inboxes.

    Args:
        session: makes the requests; it is not closed.
        url: the server's address.
        account_id: the account's number.
        inbox_id: the inbox' number.
        token: the access token of an agent or administrator who is a member of the inbox.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, account_id: int, inbox_id: int, token: str) -> None:
        self.session = session
        self.inbox_id = inbox_id
        self._url = f"{url.rstrip('/')}/api/v1/accounts/{account_id}"
        self._headers = {"api_access_token": token}

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """Make a request and return its JSON.

        Raises:
            ChatwootRefused, ChatwootBusy: there was no good answer.
        """
        content = await self._fetch(method, f"{self._url}/{path}", headers=self._headers, **options)
        try:
            return json.loads(content)
        except ValueError:
            raise ChatwootBusy(f"{method}: the answer is not JSON") from None

    async def _fetch(self, method: str, url: str, most: int = 10_000_000, **options: Any) -> bytes:
        try:
            async with self.session.request(method, url, timeout=aiohttp.ClientTimeout(60), **options) as answer:
                content = b""
                while len(content) <= most and (more := await answer.content.read(most + 1 - len(content))):
                    content += more
        except aiohttp.InvalidURL:
            raise ChatwootRefused("there is no such address") from None
        except (aiohttp.ClientError, TimeoutError) as error:  # whose text may have the token
            raise ChatwootBusy(f"{method}: {type(error).__name__}") from None
        if answer.status in {401, 408, 429} or answer.status >= 500:
            raise ChatwootBusy(f"{method}: {answer.status}")
        if answer.status >= 400:
            raise ChatwootRefused(f"{method}: {answer.status}")
        if len(content) > most:
            raise ChatwootRefused(f"a file has more than {most} bytes")
        return content

    async def conversation_with(self, person_id: str, name: str, picture: str | None) -> int:
        """Return the number of the conversation with a person; make contact and conversation if they are not there."""
        identifier = f"twitter:{person_id}"
        contact = None
        for page in itertools.count(1):  # other identifiers may begin with this one
            found = (await self.ask("GET", "contacts/search", params={"q": identifier, "page": page}))["payload"]
            contact = next((one for one in found if one["identifier"] == identifier), None)
            if contact is not None or not found:
                break
        if contact is None:
            body = {"inbox_id": self.inbox_id, "source_id": person_id, "name": name, "identifier": identifier}
            made = await self.ask("POST", "contacts", json=body | ({"avatar_url": picture} if picture else {}))
            contact = made["payload"]["contact"]
        conversations = (await self.ask("GET", f"contacts/{contact['id']}/conversations"))["payload"]
        ours = [int(one["id"]) for one in conversations if one["inbox_id"] == self.inbox_id]
        if ours:
            return max(ours)
        body = {"inbox_id": self.inbox_id, "contact_id": contact["id"], "source_id": person_id}
        return int((await self.ask("POST", "conversations", json=body))["id"])

    async def add_incoming(
        self, conversation: int, source_id: str, text: str, file: tuple[str, bytes, str] | None = None
    ) -> None:
        """Show a person's message with a file (its name, content and type), unless one of the latest messages has the
        same `source_id`.
        """
        path = f"conversations/{conversation}/messages"
        shown = (await self.ask("GET", path))["payload"]
        if any(message.get("source_id") == source_id for message in shown):
            return
        form = aiohttp.FormData({"content": text, "message_type": "incoming", "source_id": source_id})
        if file is not None:
            name, content, content_type = file
            form.add_field("attachments[]", content, filename=name, content_type=content_type)
        await self.ask("POST", path, data=form)

    async def set_status(self, conversation: int, message: int, status: str, error: str | None = None) -> None:
        """Show an agent what has become of a message: ``sent``, ``delivered``, ``read`` or ``failed``."""
        body = {"status": status} | ({} if error is None else {"external_error": error})
        await self.ask("PATCH", f"conversations/{conversation}/messages/{message}", json=body)

    async def fetch(self, url: str, most: int) -> bytes:
        """Return a file of this server, such as an agent's picture or attachment, of at most `most` bytes.

        Raises:
            ChatwootRefused: it is not a file of this server, is too large, or cannot be had.
            ChatwootBusy: as for :meth:`ask`.
        """
        if urlsplit(url)[:2] != urlsplit(self._url)[:2]:
            raise ChatwootRefused("a file is not on Chatwoot's server")
        return await self._fetch("GET", url, most)


def is_signed(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether a webhook was signed with the inbox' secret within the last five minutes."""
    moment, signature = headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 20):
        return False
    if abs(time.time() - int(moment)) > 300:
        return False
    return hmac.compare_digest(sign(secret, moment, body).encode(), signature.encode("utf-8", "replace"))


def sign(secret: str, moment: str, body: bytes) -> str:
    """Return the signature of a webhook."""
    return "sha256=" + hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
