"""The page in a real browser: Debian's Chromium, without a screen, driven by Playwright."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from tests.pictures import PNG
from tests.support import HANGS, program
from twdm_async import Outbox, QuickReply, Quota, QuotaTable
from twdm_async.sandbox import Sandbox
from twdm_async.webhooks import Event, MessageEvent, Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

CHROMIUM: Final = os.environ.get("TWDM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
INSTALLED: Final = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None
PATIENCE: Final = HANGS * 1000  # milliseconds

if os.environ.get("TWDM_BROWSER"):
    assert INSTALLED, "these tests may not be skipped here: install chromium and playwright"
pytestmark = pytest.mark.skipif(not INSTALLED, reason="there is no Chromium, or no Playwright")

conversation = program("screenshots").conversation

MARKUP: Final = "<script>document.title=1</script><img src=x onerror=document.title=1>"
METER: Final = '#quotas [data-endpoint="direct_messages.send"] meter'
NAME: Final = "Anna <img src=x onerror=document.title=1>"


@contextlib.asynccontextmanager
async def browser_page(sandbox: Sandbox, **options: Any) -> AsyncIterator[Any]:
    """A page of a browser that shows the sandbox. It may not ask anybody else for anything, nor complain."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - it may not be there

    asked, complaints = list[str](), list[str]()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(**options)
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        try:
            await page.goto(sandbox.url)
            await shows(page, "document.querySelector('#counts').textContent !== ''")
            yield page
        finally:
            await browser.close()
    assert [url for url in asked if not url.startswith(f"{sandbox.url}/")] == [], "no request leaves"
    assert [one for one in complaints if "ERR_INCOMPLETE_CHUNKED" not in one] == []


async def until(find: Callable[[], Any]) -> Any:
    """What `find` finds, as soon as it finds something."""
    async with asyncio.timeout(HANGS):
        while not (found := find()):
            await asyncio.sleep(0.02)
    return found


async def shows(page: Any, expression: str) -> None:
    """Wait until an expression is true in the page. (Playwright's own way to wait needs what the page forbids.)"""
    async with asyncio.timeout(HANGS):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.02)


async def test_a_conversation() -> None:  # noqa: PLR0915 - a whole conversation
    table = QuotaTable.default().replace("direct_messages.send", Quota(3, per=86_400.0), credit=None)
    texts: list[str | None] = []
    async with Sandbox(quotas=table) as sandbox, sandbox.client() as client:
        agents = await conversation(client, names=(NAME, "Ben"))

        async def handle(event: Event) -> None:
            assert isinstance(event, MessageEvent)
            texts.append(event.message.text)
            agent = agents[len(texts) % 2]
            await agent.send(
                event.person_id,
                f"{MARKUP} {event.message.text}",
                quick_replies=[QuickReply("Order"), QuickReply(NAME[5:])],
            )

        await sandbox.subscribe(Webhook(client.credentials, handle, clients=[client]))
        async with browser_page(sandbox) as page:
            await page.get_by_label("User id").fill("844385345234")
            await page.get_by_role("button", name="Open").click()
            await page.get_by_label("Write as this person").fill(f"Hello {MARKUP}")
            await page.get_by_role("button", name="Send", exact=True).click()
            await page.get_by_role("button", name="Order").click()
            bubbles = page.locator("#messages li")
            await shows(page, "document.querySelectorAll('#messages li').length === 4")
            assert texts == [f"Hello {MARKUP}", "Order"], "what was written and tapped reached the bot"

            # Two identities, each with its name and its picture; and all of it is text.
            names = [await bubbles.nth(place).locator("b").inner_text() for place in (1, 3)]
            pictures = [await bubbles.nth(place).locator("img.face").get_attribute("src") for place in (1, 3)]
            assert names == ["Ben", NAME]
            assert len(set(pictures)) == 2
            for place in (1, 3):
                assert await bubbles.nth(place).locator("img.face").evaluate("image => image.naturalWidth") > 0
            assert await bubbles.nth(0).locator("p").inner_text() == f"Hello {MARKUP}"
            assert (await bubbles.nth(1).locator("p").inner_text()).startswith(MARKUP)
            assert await page.title() == "Sandbox · twdm_async"
            assert await page.locator("#messages script, #conversations script, #messages img[onerror]").count() == 0

            # The gauge moves; who is refused sees why.
            gauge = page.locator(METER)
            await shows(page, f"document.querySelector('{METER}')?.value === 2")
            await client.direct_messages.send(7, "the third")
            await shows(page, f"document.querySelector('{METER}')?.value === 3")
            assert await gauge.get_attribute("aria-label") == "direct_messages.send, account Sandbox Brand: 3 of 3"
            async with sandbox.client(quotas=QuotaTable.default(), max_wait=0) as careless:
                with contextlib.suppress(Exception):
                    await careless.direct_messages.send(5, "one too many")
            reason = page.locator("#requests .bad", has_text="Rate limit exceeded (code 88)")
            await reason.first.wait_for()
            assert "3 of 3 of this user are spent" in await reason.first.inner_text()
            sandbox.unreachable.add("8")
            sandbox.time.advance("24h")
            with contextlib.suppress(Exception):
                await client.direct_messages.send(8, "to nobody")
            await page.locator("#requests .bad", has_text="code 349").first.wait_for()

            address = f"{sandbox.url}/1.1/<img src=x onerror=document.title=1>.json"  # it is text, too
            async with aiohttp.ClientSession() as session, session.get(address):
                pass
            await page.locator("#requests code", has_text="onerror").first.wait_for()
            assert await page.locator("#requests img, #choices img").count() == 0

            # A day later, the quota is free.
            for number in range(2):
                await client.direct_messages.send(5, f"{number}")
            waiting = asyncio.create_task(client.direct_messages.send(5, "tomorrow"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            before = await page.locator("#now").inner_text()
            await page.get_by_role("button", name="+24 h").click()
            assert (await waiting).text == "tomorrow"
            await shows(page, f"document.querySelector('#now').textContent.slice(0, 10) > '{before[:10]}'")

            # A fault is a switch.
            await page.get_by_text("Switch faults on and off").click()
            await page.get_by_label("404_page").check()
            assert (await until(lambda: sandbox.faults))[0].kinds == ("404_page",)
            await page.locator("#faults-on", has_text="404_page").wait_for()
            await page.get_by_label("404_page").uncheck()
            await until(lambda: not sandbox.faults)

            await page.get_by_role("button", name="Clear all").click()
            await shows(page, "document.querySelectorAll('#messages li').length === 0")
            assert not sandbox.messages


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280])
async def test_axe_finds_nothing(scheme: str, width: int, tmp_path: Path) -> None:
    from axe_playwright_python.async_playwright import Axe  # noqa: PLC0415 - it may not be there

    async with (
        Sandbox(faults=["429"]) as sandbox,
        sandbox.client() as client,
        Outbox(client, tmp_path / "outbox.db") as outbox,
    ):
        sandbox.faults.clear()
        await conversation(client, sandbox)
        sandbox.outbox = outbox
        await outbox.put("5", "May I?", hold=True)
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        async with browser_page(sandbox, **options) as page:
            for view in ("people", "chat", "inside"):
                if view == "chat":
                    await page.locator("#conversations button").first.click()
                    await page.locator("#messages li").first.wait_for()
                elif width < 960:
                    await page.get_by_role("button", name=view.capitalize(), exact=True).click()
                if view == "inside":
                    await page.get_by_text("Switch faults on and off").click()
                found = await Axe().run(page, options={"resultTypes": ["violations"]})
                assert found.violations_count == 0, found.generate_report()
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


async def test_the_keyboard_is_enough() -> None:
    async with Sandbox() as sandbox, sandbox.client() as client:
        sandbox.person(5).writes("Hello")
        await client.direct_messages.send(5, "What is it about?", quick_replies=[QuickReply("Order")])
        async with browser_page(sandbox) as page:

            async def go_to(selector: str) -> None:
                for _ in range(60):
                    await page.keyboard.press("Tab")
                    if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
                        return
                raise AssertionError(f"the keyboard does not reach {selector}")

            await go_to("#conversations button")
            await page.keyboard.press("Enter")
            await page.locator("#choices button").wait_for()
            await go_to("#choices button")
            await page.keyboard.press("Enter")
            await until(lambda: len(sandbox._state.events) == 3)
            await page.locator("#text").focus()
            await page.keyboard.type("Thanks")
            await page.keyboard.press("Enter")
            await until(lambda: len(sandbox._state.events) == 4)


async def test_a_page_finds_its_way_back_to_a_sandbox_that_was_started_again() -> None:
    first = Sandbox()
    await first.start()
    async with browser_page(first) as page:
        first.person(5).writes("Before")
        await page.locator("#conversations button").first.wait_for()
        await first.close()
        await page.locator("#connection", has_text="does not answer").wait_for()
        async with Sandbox(port=first.port) as second:
            second.person(6).writes("After")
            await page.locator("#conversations", has_text="After").wait_for()
            assert await page.locator("#conversations", has_text="Before").count() == 0
            await page.evaluate("window.stop()")


async def test_a_tab_that_nobody_sees_holds_no_connection_and_catches_up() -> None:
    async with Sandbox() as sandbox, browser_page(sandbox) as page:
        hidden = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        await page.evaluate(hidden % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
        sandbox.person(5).writes("meanwhile")
        await asyncio.sleep(0.3)
        assert await page.locator("#conversations li").count() == 0
        await page.evaluate(hidden % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
        await page.locator("#conversations", has_text="meanwhile").wait_for()


async def _busy(seconds: float) -> tuple[list[float], list[float]]:
    """Fifty conversations of 200 messages each, and 20 events a second for so many seconds: the milliseconds from a
    click to what it shows, and the megabytes of the page's heap.
    """
    table = QuotaTable.default().replace("direct_messages.send")
    async with Sandbox(quotas=table) as sandbox, sandbox.client() as client:
        people = [sandbox.person(1000 + number) for number in range(50)]
        agents = await conversation(client)
        for number in range(200):
            for person in people:
                person.writes(f"message {number}")
        stop = asyncio.Event()

        async def chatter() -> None:
            number = 0
            while not stop.is_set():
                people[number % 50].writes(f"more {number}")
                if number % 4 == 0:
                    await agents[number % 2].send(people[number % 50].id, f"answer {number}")
                number += 1
                await asyncio.sleep(0.05)

        clicks, heaps = list[float](), list[float]()
        async with browser_page(sandbox) as page:
            await page.locator("#conversations button").first.wait_for()
            talking = asyncio.create_task(chatter())
            session = await page.context.new_cdp_session(page)
            until = asyncio.get_running_loop().time() + seconds
            number = 0
            while asyncio.get_running_loop().time() < until:
                wanted = people[number % 50].id
                number += 1
                clicks.append(
                    await page.evaluate(
                        """async (wanted) => {
                          const button = [...document.querySelectorAll("#conversations button")].find((one) => one.dataset.key.endsWith(` ${wanted}`));
                          const began = performance.now();
                          button.click();
                          while (document.querySelector("#chat-title").textContent !== `Person ${wanted}` ||
                                 document.querySelectorAll("#messages li").length < 50)
                            await new Promise((go) => setTimeout(go, 2));
                          return performance.now() - began;
                        }""",
                        wanted,
                    )
                )
                await session.send("HeapProfiler.collectGarbage")
                heaps.append((await session.send("Runtime.getHeapUsage"))["usedSize"] / 1e6)
                assert await page.locator("#messages li").count() <= 200
                assert await page.locator("#requests li").count() <= 200
                await asyncio.sleep(1.0)
            stop.set()
            await talking
    return clicks, heaps


async def test_ten_thousand_messages_and_twenty_events_a_second() -> None:
    clicks, heaps = await _busy(3.0)
    assert len(clicks) >= 1, "it stays usable, however slow the machine is"
    assert max(heaps) < 50


@pytest.mark.soak
@pytest.mark.thorough
@pytest.mark.timeout(1200)
async def test_ten_minutes_of_twenty_events_a_second() -> None:
    clicks, heaps = await _busy(600.0)
    clicks.sort()
    print(  # noqa: T201 - what was measured
        f"{len(clicks)} clicks: median {clicks[len(clicks) // 2]:.0f} ms, 95 % within {clicks[len(clicks) * 95 // 100]:.0f} ms; "
        f"heap {heaps[1]:.1f} MB after a moment, {heaps[-1]:.1f} MB at the end, {max(heaps):.1f} MB at most"
    )
    assert heaps[-1] < 1.5 * heaps[1] + 1


async def test_a_person_approves_and_rejects(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, sandbox.client() as client, Outbox(client, tmp_path / "outbox.db") as outbox:
        sandbox.outbox = outbox
        profile = await client.custom_profiles.create(NAME, PNG)
        for key, text in (("a/1", MARKUP), ("b", "rude"), ("c", "later")):
            await outbox.put("5", text, key=key, hold=True, custom_profile_id=profile)
        async with browser_page(sandbox, viewport={"width": 1400, "height": 900}) as page, outbox.running():
            await shows(page, "document.querySelectorAll('#held li[data-key]').length === 3")
            item = page.locator('#held li[data-key="a/1"]')
            assert await item.locator("p").first.inner_text() == MARKUP
            assert await item.locator("b").inner_text() == NAME
            await item.locator("button", has_text="Approve").click()
            assert (await outbox.outcome("a/1")).reviewed_by == "the page"
            await page.locator('#held li[data-key="b"] input').fill("not in our words")
            await outbox.put("5", "new", key="d", hold=True)  # the list is drawn anew, and keeps what is typed
            await shows(page, "document.querySelector('#held li[data-key=\"d\"]') !== null")
            await page.locator('#held li[data-key="b"] button', has_text="Reject").click()
            assert (await outbox.outcome("b")).error == "not in our words"
            await shows(page, "document.querySelectorAll('#held li[data-key]').length === 2")
        assert [message.text for message in sandbox.messages] == [MARKUP]
