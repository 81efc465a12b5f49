"""A bot in FastAPI: ``uvicorn --factory fastapi_bot:app --port 8080``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from twdm_async import Client, Inbox, Webhook
from twdm_async.webhooks import Event, MessageEvent


def make_app(client: Client, inbox: Inbox | None = None) -> FastAPI:
    async def handle(event: Event) -> None:
        if isinstance(event, MessageEvent):
            await client.direct_messages.send(event.person_id, f"You said: {event.message.text}")

    webhook = Webhook(client.credentials, handle, inbox=inbox, clients=[client])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client, webhook:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/webhook", methods=["GET", "POST"])
    async def receive(request: Request) -> Response:
        body = await request.body()  # the raw bytes: the signature is over these
        reply = await webhook.receive(request.method, request.url.query, request.headers, body)
        return Response(reply.body, reply.status, media_type=reply.content_type)

    return app


def app() -> FastAPI:
    return make_app(Client.from_env(), Inbox("bot.db"))
