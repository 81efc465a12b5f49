"""Serve the bot at ``/webhook``."""

import asyncio
import os

from aiohttp import web
from bot import bot

from twdm_async import Client, Credentials, Inbox, SQLiteQuotaStore

API_URL = os.environ.get("TWDM_API_URL", "https://api.twitter.com")  # or the sandbox's


async def main() -> None:
    async with (
        SQLiteQuotaStore("bot.db") as store,
        Inbox("bot.db") as inbox,
        Client(
            Credentials.from_env(),
            api_url=API_URL,
            upload_url=API_URL.replace("//api.", "//upload."),
            quota_store=store,
        ) as client,
    ):
        webhook = await bot(client, inbox)
        app = web.Application()
        app.router.add_route("*", "/webhook", webhook.serve)
        app.cleanup_ctx.append(webhook.lifespan)
        runner = web.AppRunner(app)
        try:
            await runner.setup()
            await web.TCPSite(runner, port=int(os.environ.get("PORT", "8080"))).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


asyncio.run(main())
