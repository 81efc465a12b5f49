"""Test the bot in FastAPI; it needs no server."""

import pytest
from fastapi_bot import make_app

from twdm_async import Client, Sandbox


@pytest.mark.asyncio
async def test_the_bot_answers(twdm_sandbox: Sandbox, twdm_client: Client) -> None:
    await twdm_sandbox.subscribe(make_app(twdm_client))
    anna = twdm_sandbox.person(844385345234)
    anna.writes("Hello")
    [answer] = await anna.receives()
    assert answer.text == "You said: Hello"
