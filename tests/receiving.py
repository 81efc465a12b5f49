"""What tests of receiving share: an app's keys, webhooks as X sends them, and a server that has one mounted."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests import samples_family as samples
from twdm_async import Credentials
from twdm_async.webhooks.signature import _signature

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    import pytest

    from twdm_async.webhooks import Event, Webhook

SECRET = "kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw"
KEYS = Credentials(consumer_key="a", consumer_secret=SECRET, access_token="1-b", access_token_secret="c")
HEADER = "X-Twitter-Webhooks-Signature"
ENVELOPES = [value for name, value in vars(samples).items() if name.startswith(("WEBHOOK_", "XAA_"))]
ACCOUNT, PERSON = "3306219874", "98120034"

FLAT: dict[str, Any] = {
    "data": {
        "event_uuid": "2089000000000000001",
        "event_type": "dm.received",
        "filter": {"user_id": int(ACCOUNT)},
        "payload": {
            "id": 2089000000000000001,
            "event_type": "MessageCreate",
            "sender_id": int(PERSON),
            "dm_conversation_id": f"{PERSON}-{ACCOUNT}",
            "text": "SENTINEL tea &amp; cups",
            "created_at": "2026-11-26T10:20:30.456Z",
        },
        "includes": {"users": [{"id": PERSON, "name": "Tea Drinker", "username": "tea_drinker"}]},
    }
}


async def nobody(_: Event) -> None:
    pass


@contextlib.asynccontextmanager
async def listening(webhook: Webhook) -> AsyncIterator[str]:
    """A server of our own that has the webhook mounted; its URL."""
    app = web.Application()
    app.router.add_route("*", "/webhook", webhook.serve)
    runner = web.AppRunner(app, lingering_time=0.1)  # seconds to read on what was refused
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with webhook:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/webhook"
    finally:
        await runner.cleanup()


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(document))
    node = copy
    *way, last = path.split(".")
    for step in way:
        node = node[step]
    node[last] = value
    return copy


async def post(webhook: Webhook, document: Any, secret: str = SECRET) -> int:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return (await webhook.receive("POST", "", {HEADER: _signature(secret, body)}, body)).status


def mutated(body: bytes, chance: random.Random) -> bytes:
    """`body` with something changed: bytes, or a value in its JSON."""
    if chance.random() < 0.5:
        changed = bytearray(body)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(changed))
            match chance.randrange(3):
                case 0:
                    changed[place] = chance.randrange(256)
                case 1:
                    del changed[place : place + chance.randrange(1, 30)]
                case _:
                    changed[place:place] = changed[chance.randrange(len(changed)) :][:20]
        return bytes(changed)
    document = json.loads(body)
    node: Any = document
    while True:
        key = chance.choice(list(node)) if isinstance(node, dict) and node else 0
        if (isinstance(node, list) and not node) or not isinstance(node, (dict, list)) or not node:
            break
        inner = node[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.8:
            node = inner
            continue
        node[key] = chance.choice([None, 5, -1, 2**70, 1e300, "", "\ud800", "x" * 50, [], {}, [[]], {"id": {}}, True])
        break
    return json.dumps(document).encode()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
