"""Put messages into an outbox from a Flask view: ``flask --app flask_messages run``."""

import asyncio

from flask import Flask, request
from flask.typing import ResponseReturnValue

from twdm_async import Client, InvalidInput, Outbox

app = Flask(__name__)


async def put(recipient: str, text: str, key: str) -> str:
    async with Client.from_env() as client, Outbox(client, "outbox.db") as outbox:
        return (await outbox.put(recipient, text, key=key)).state


@app.post("/messages/<recipient>")
def message(recipient: str) -> ResponseReturnValue:
    # Each request has an event loop of its own. The key makes a repeated request the same message.
    try:
        state = asyncio.run(put(recipient, request.json["text"], request.headers["Idempotency-Key"]))
    except InvalidInput as error:
        return {"error": str(error)}, 400
    return {"state": state}, 202
