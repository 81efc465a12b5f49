"""Try the bridge without Chatwoot and without keys: a sandbox, a stand-in for Chatwoot, and the bridge between them.

A person writes; two agents answer, each under their own name; one of them also writes a private note. The address that
is printed shows what the person sees. It runs until Ctrl-C.
"""

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

import aiohttp
from aiohttp import web
from bridge import running
from chatwoot import Chatwoot
from stand_in import ACCOUNT, INBOX, SECRET, TOKEN, StandIn
from store import Store

from twdm_async import Inbox, Outbox, Sandbox

PICTURES = Path(__file__).parents[2]


async def main() -> None:
    """Run all three."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = await stack.enter_async_context(Sandbox(port=int(os.environ.get("TWDM_SANDBOX_PORT", "8765"))))
        chatwoot = await stack.enter_async_context(StandIn())
        client = await stack.enter_async_context(sandbox.client())
        outbox = await stack.enter_async_context(Outbox(client, folder / "twdm.db"))
        inbox = await stack.enter_async_context(Inbox(folder / "twdm.db"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        store = stack.enter_context(contextlib.closing(Store(folder / "bridge.db")))
        api = Chatwoot(session, chatwoot.url, ACCOUNT, INBOX, TOKEN)
        webhook, app = await stack.enter_async_context(running(client, outbox, inbox, api, store, secret=SECRET))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        chatwoot.webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/chatwoot"
        await sandbox.subscribe(webhook)

        anna = chatwoot.add_agent("Anna", (PICTURES / "anna.png").read_bytes())
        ben = chatwoot.add_agent("Ben", (PICTURES / "ben.png").read_bytes())
        person = sandbox.person(844385345234)
        person.writes("Where is my order?")
        await sandbox.delivered()
        conversation = next(iter(chatwoot.conversations))
        chatwoot.say(anna, conversation, "Let me look. Which one is it?", items=[{"title": "Shoes", "value": "1"}])
        chatwoot.say(anna, conversation, "@Ben, do you know this one?", private=True)
        await person.receives()
        person.taps("Shoes")
        chatwoot.say(ben, conversation, "They left this morning.")
        await person.receives()
        print(f"What the person sees: {sandbox.url}/", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
