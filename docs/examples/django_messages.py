"""Put messages into an outbox from a Django view, in one file: ``python django_messages.py runserver``."""

import json
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

from twdm_async import Client, InvalidInput, Outbox

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="change me", ALLOWED_HOSTS=["*"])


async def message(request: HttpRequest, recipient: str) -> JsonResponse:
    text, key = json.loads(request.body)["text"], request.headers["Idempotency-Key"]
    try:
        async with Client.from_env() as client, Outbox(client, "outbox.db") as outbox:
            entry = await outbox.put(recipient, text, key=key)
    except InvalidInput as error:
        return JsonResponse({"error": str(error)}, status=400)
    return JsonResponse({"state": entry.state}, status=202)


urlpatterns = [path("messages/<str:recipient>", message)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
