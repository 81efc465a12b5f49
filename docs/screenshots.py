"""Make the pictures of the sandbox' page: ``python docs/screenshots.py``. Needs Chromium and the extra ``browser``."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twdm_async import CallToAction, QuickReply
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async import Agent, Client

HERE = Path(__file__).parent


async def conversation(
    client: Client, sandbox: Sandbox | None = None, names: Sequence[str] = ("Anna from Support", "Ben from Sales")
) -> list[Agent]:
    """Make two agents; and in the sandbox, if it is given, a conversation with both."""
    pictures = (HERE / "anna.png", HERE / "ben.png")
    agents = [
        client.agent(await client.custom_profiles.create(name, picture))
        for name, picture in zip(names, pictures, strict=True)
    ]
    if sandbox is not None:
        person = sandbox.person(844385345234)
        person.writes("Hello, where is my order?")
        topics = [QuickReply("Order"), QuickReply("Bill")]
        await agents[0].send(person.id, "Hi, this is Anna. What is it about?", quick_replies=topics)
        person.taps("Order")
        track = CallToAction("Track it", url="https://example.com/track")
        await agents[0].send(person.id, "It left this morning, and will be there tomorrow.", ctas=[track])
        person.writes("Great! Can I add something to it?")
        await agents[1].send(person.id, "Ben here, from sales. Of course: what would you like?", quick_replies=topics)
        sandbox.person(98120034).writes("Are you open on Sunday?")
        await agents[1].send(98120034, "From ten to four.")
        sandbox.unreachable.add("77")
        try:
            await agents[1].send(77, "Are you there?")
        except Exception as error:  # noqa: BLE001 - the picture shows why
            print(error)
    return agents


async def main() -> None:
    """Take the pictures: light, dark, and on a small screen."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - of the extra

    chromium = os.environ.get("TWDM_CHROMIUM") or shutil.which("chromium")
    async with Sandbox() as sandbox, sandbox.client() as client, async_playwright() as playwright:
        await conversation(client, sandbox)
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pictures: list[tuple[str, int, int, Any]] = [
            ("light", 1280, 800, "light"),
            ("dark", 1280, 800, "dark"),
            ("small", 380, 780, "light"),
        ]
        for name, width, height, scheme in pictures:
            page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            await page.goto(sandbox.url)
            await page.get_by_role("button", name="Person 844385345234").click()
            await page.locator("#messages li").nth(5).wait_for()
            await page.wait_for_load_state("load")
            await page.wait_for_timeout(500)
            await page.screenshot(path=HERE / f"sandbox_{name}.png")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
