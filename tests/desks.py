"""A desk on a sandbox, for tests of desks and adapters."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from tests.drainer import table
from tests.pictures import PNG
from twdm_async import Client, Desk
from twdm_async.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twdm_async.sandbox import Sandbox
    from twdm_async.storage.places import Place

NAMES: Final = ("billing", "support")


@frozen
class Office:
    """A desk, and what it works with."""

    desk: Desk
    outbox: Outbox
    client: Client
    profiles: dict[str, str | None]


@contextlib.asynccontextmanager
async def office(
    sandbox: Sandbox, place: Place, *, is_running: bool = True, client_options: Any = None, **options: Any
) -> AsyncIterator[Office]:
    """Open a desk whose outbox runs, with two names."""
    settings = {"api_url": sandbox.url, "upload_url": sandbox.url, "quotas": table(), **(client_options or {})}
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(sandbox.credentials, **settings))
        known = {profile.name: profile.id for profile in sandbox.profiles.values()}
        profiles: dict[str, str | None] = {}
        for name in NAMES:
            profiles[name] = known.get(name) or (await client.custom_profiles.create(name, PNG)).id
        outbox = await stack.enter_async_context(Outbox(client, place))
        if is_running:
            await stack.enter_async_context(outbox.running())
        yield Office(Desk(client, outbox, profiles, **options), outbox, client, profiles)
