"""Serve the bot at ``/webhook``, until Ctrl-C."""

import asyncio
import os

from aiohttp import web
from bot import bot

from twdm_async import Client, Inbox, SQLiteQuotaStore


async def main() -> None:
    async with (
        SQLiteQuotaStore("bot.db") as store,
        Inbox("bot.db") as inbox,
        Client.from_env(quota_store=store) as client,
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
