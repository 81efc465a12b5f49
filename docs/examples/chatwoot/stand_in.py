"""A stand-in for the part of Chatwoot that the bridge uses, to try the bridge and to test it.

It has one API channel inbox, and agents who write in it. As Chatwoot does, it sends each webhook once, waits five
seconds, and marks a message as failed if the answer is not good; it also sends private notes, the person's own messages
and changes of state. `repeats` makes it send each webhook several times.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web
from chatwoot import SIGNATURE, TIMESTAMP, sign

ACCOUNT, INBOX, TOKEN, SECRET = 1, 7, "stand-in-token", "stand-in-secret"


@dataclass
class StandIn:
    """The stand-in. Use it as ``async with StandIn() as chatwoot``.

    Args:
        webhook_url: where webhooks are sent.
        repeats: how often each webhook is sent.
    """

    webhook_url: str = ""
    repeats: int = 1
    contacts: list[dict[str, Any]] = field(default_factory=list)
    conversations: dict[int, dict[str, Any]] = field(default_factory=dict)
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    agents: dict[int, dict[str, Any]] = field(default_factory=dict)
    is_down: bool = False
    refused: int = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._sending: set[asyncio.Task[None]] = set()
        app = web.Application(middlewares=[self._checked])
        api = f"/api/v1/accounts/{ACCOUNT}"
        app.router.add_get(f"{api}/contacts/search", self._search)
        app.router.add_post(f"{api}/contacts", self._add_contact)
        app.router.add_get(f"{api}/contacts/{{id}}/conversations", self._conversations_of)
        app.router.add_post(f"{api}/conversations", self._add_conversation)
        app.router.add_get(f"{api}/conversations/{{id}}/messages", self._messages_of)
        app.router.add_post(f"{api}/conversations/{{id}}/messages", self._add_message)
        app.router.add_patch(f"{api}/conversations/{{id}}/messages/{{message}}", self._set_status)
        app.router.add_get("/files/{name}", self._file)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.settled()
        await self._runner.cleanup()
        await self._session.close()

    async def settled(self) -> None:
        """Wait until every webhook was answered or given up."""
        while self._sending:
            await asyncio.wait(self._sending)

    # ---- what agents do ----

    def add_agent(self, name: str, picture: bytes | None = None) -> int:
        """Add an agent, and return the agent's number."""
        number = len(self.agents) + 1
        url = "" if picture is None else self.add_file(f"agent{number}.png", picture, "image/png")
        self.agents[number] = {"id": number, "name": name, "available_name": name, "avatar_url": url, "type": "user"}
        return number

    def add_file(self, name: str, content: bytes, content_type: str) -> str:
        """Add a file, and return its address."""
        self.files[name] = content, content_type
        return f"{self.url}/files/{name}"

    def say(
        self,
        agent: int,
        conversation: int,
        text: str,
        *,
        private: bool = False,
        items: list[dict[str, str]] | None = None,
        files: list[str] | None = None,
    ) -> int:
        """Write a message as an agent, or a private note; return its number."""
        attachments = [{"file_type": "file", "data_url": url} for url in files or []]
        attributes = {} if items is None else {"items": items}
        return self._new(conversation, text, "outgoing", self.agents[agent], attachments, attributes, private=private)

    def shown(self, conversation: int) -> list[dict[str, Any]]:
        """Return the messages of a conversation."""
        return [one for one in self.messages.values() if one["conversation"] == conversation]

    # ---- what the bridge asks ----

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.is_down:
            self.refused += 1
            return web.json_response({"error": "down"}, status=503)
        if not request.path.startswith("/files/") and request.headers.get("api_access_token") != TOKEN:
            return web.json_response({"error": "Invalid Access Token"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _search(self, request: web.Request) -> web.Response:
        word = request.query["q"].lower()
        found = [one for one in self.contacts if word in one["identifier"].lower() or word in one["name"].lower()]
        start = 15 * (int(request.query.get("page", "1")) - 1)
        return web.json_response({"payload": found[start : start + 15]})

    async def _add_contact(self, request: web.Request) -> web.Response:
        body = await request.json()
        if any(one["identifier"] == body["identifier"] for one in self.contacts):
            return web.json_response({"message": "Identifier has already been taken"}, status=422)
        contact = {"id": len(self.contacts) + 1, **body}
        self.contacts.append(contact)
        return web.json_response({"payload": {"contact": contact}})

    async def _conversations_of(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        found = [one for one in self.conversations.values() if one["contact_id"] == number]
        return web.json_response({"payload": found})

    async def _add_conversation(self, request: web.Request) -> web.Response:
        number = len(self.conversations) + 1
        self.conversations[number] = {"id": number, **await request.json()}
        return web.json_response(self.conversations[number])

    async def _messages_of(self, request: web.Request) -> web.Response:
        return web.json_response({"payload": self.shown(int(request.match_info["id"]))[-20:]})

    async def _add_message(self, request: web.Request) -> web.Response:
        form = await request.post()
        attachments = []
        for part in form.getall("attachments[]", []):
            if isinstance(part, web.FileField):
                url = self.add_file(f"{len(self.files)}-{part.filename}", part.file.read(), part.content_type)
                attachments.append({"file_type": "image", "data_url": url})
        conversation = int(request.match_info["id"])
        sender = {"id": 1, "type": "contact", "name": "a person"}
        number = self._new(
            conversation, str(form["content"]), str(form["message_type"]), sender, attachments, {},
            source_id=str(form["source_id"]),
        )  # fmt: skip
        return web.json_response(self.messages[number])

    async def _set_status(self, request: web.Request) -> web.Response:
        body = await request.json()
        message = self.messages.get(int(request.match_info["message"]))
        if message is None:
            return web.json_response({"error": "Resource could not be found"}, status=404)
        if message["status"] != "read" or body["status"] != "delivered":
            message["status"] = body["status"]
            message["external_error"] = body.get("external_error") if body["status"] == "failed" else None
            self._send("message_updated", message)
        return web.json_response(message)

    async def _file(self, request: web.Request) -> web.Response:
        content, content_type = self.files[request.match_info["name"]]
        return web.Response(body=content, content_type=content_type)

    # ---- webhooks ----

    def _new(
        self, conversation: int, text: str, kind: str, sender: dict[str, Any], attachments: list[Any],
        attributes: dict[str, Any], *, private: bool = False, source_id: str | None = None,
    ) -> int:  # fmt: skip
        number = len(self.messages) + 1
        self.messages[number] = {
            "id": number, "content": text, "message_type": kind, "private": private, "sender": sender, "status": "sent",
            "attachments": attachments, "content_attributes": attributes, "source_id": source_id,
            "conversation": conversation, "external_error": None,
        }  # fmt: skip
        self._send("message_created", self.messages[number])
        return number

    def _send(self, event: str, message: dict[str, Any]) -> None:
        conversation = self.conversations[message["conversation"]]
        sender = message["sender"]
        latest = {"id": message["id"], "content": message["content"], "message_type": 1, "sender": sender}
        body = {
            "event": event,
            **{name: value for name, value in message.items() if name not in {"status", "external_error"}},
            "account": {"id": ACCOUNT},
            "inbox": {"id": conversation["inbox_id"]},
            "sender": {name: sender[name] for name in ("id", "name", "type")},
            "conversation": {
                "id": conversation["id"],
                "contact_inbox": {"source_id": conversation["source_id"]},
                "messages": [] if message["private"] else [latest],
                "meta": {},
            },
        }
        if not body["attachments"]:
            del body["attachments"]
        for _ in range(self.repeats):
            task = asyncio.create_task(self._post(body, message))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _post(self, body: dict[str, Any], message: dict[str, Any]) -> None:
        content, moment = json.dumps(body).encode(), str(int(time.time()))
        headers = {SIGNATURE: sign(SECRET, moment, content), TIMESTAMP: moment, "Content-Type": "application/json"}
        error = None
        try:
            timeout = aiohttp.ClientTimeout(5)
            async with self._session.post(self.webhook_url, data=content, headers=headers, timeout=timeout) as answer:
                if answer.status >= 300:
                    error = f"{answer.status} {answer.reason}"
        except (aiohttp.ClientError, TimeoutError) as problem:
            error = type(problem).__name__
        if error is not None and body["event"] == "message_created":
            message["status"], message["external_error"] = "failed", error
