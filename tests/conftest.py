"""What most tests need: a sandbox, and a client that talks to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pictures import PNG
from twdm_async import Client
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client:
        yield client


@pytest.fixture
async def profile_id(client: Client) -> str:
    return (await client.custom_profiles.create("Anna", PNG)).id
