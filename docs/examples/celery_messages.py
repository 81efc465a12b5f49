"""Put messages into an outbox from a Celery task: ``celery --app celery_messages worker``."""

import asyncio
import os

from celery import Celery, Task

from twdm_async import Client, Outbox

app = Celery("messages", broker=os.environ.get("CELERY_BROKER", "redis://127.0.0.1"))


async def put(recipient: str, text: str, key: str) -> str:
    async with Client.from_env() as client, Outbox(client, "outbox.db") as outbox:
        return (await outbox.put(recipient, text, key=key)).state


@app.task(bind=True, acks_late=True, autoretry_for=(OSError,))
def send(self: Task, recipient: str, text: str) -> str:
    # Celery may run a task twice. Its id is the key, so the message is still sent once.
    return asyncio.run(put(recipient, text, key=self.request.id))
