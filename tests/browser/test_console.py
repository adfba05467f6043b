"""The console in a real Chromium: a person signs in, sends, cuts, reloads, leaves."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from tools import npm_packages, tool

pytestmark = pytest.mark.slow

# Nothing in it talks to anybody by itself.
QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-features=MediaRouter,OptimizationHints",
    "--disable-sync",
    "--no-first-run",
]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=tool("chromium"), args=QUIET)
        yield browser
        await browser.close()


class Desk:
    """A page of the console, and what it must never do."""

    def __init__(self, page: Page, url: str, led: Any) -> None:
        self.page = page
        self.url = url
        self.led = led
        self.trouble: list[str] = []
        self.restarts = False
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        # The browser's own complaints, while a server is away.
        own = self.restarts and message.text.startswith("WebSocket connection to ")
        if message.type == "error" and not own:
            self.trouble.append(message.text)

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.trouble.append(f"another host: {request.url}")

    async def enter(self, how: str = "Register", password: str = "correct horse") -> None:
        await self.page.goto(self.url)
        await self.page.fill("#name", "ann")
        await self.page.fill("#password", password)
        await self.page.click(f"#signin-form button:text-is('{how}')")

    async def send(self, method: str, times: int = 1, **fields: str) -> None:
        await self.page.select_option("#method", method)
        for name, text in fields.items():
            await self.page.fill("#raw" if name == "raw" else f"#field-{name}", text)
        await self.page.click(f"#composer button[value='{times}']")

    async def counts(self, text: str) -> None:
        await expect(self.page.locator("#counts")).to_have_text(text, timeout=20_000)

    async def connection(self, text: str) -> None:
        await expect(self.page.locator("#connection")).to_have_text(text, timeout=20_000)

    async def receipt(self) -> dict[str, int]:
        await self.page.click("#leave")
        await expect(self.page.locator("#receipt h3")).to_have_text("Verified", timeout=20_000)
        lines = await self.page.locator("#receipt dt").all_text_contents()
        return {word: int(count) for count, word in (line.split() for line in lines)}


@pytest.fixture
async def desk(chromium: Browser, stage) -> AsyncIterator[Desk]:
    led = await stage()
    url = led.proxy.url.replace("ws://", "http://").removesuffix("/ws")
    context = await chromium.new_context(reduced_motion="reduce")
    desk = Desk(await context.new_page(), url, led)
    yield desk
    assert desk.trouble == []
    await context.close()
    # What still runs is not waited for.
    await led.server.kill()


async def test_a_first_session(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("sleep", seconds="0.2")
    await desk.send("echo", raw='{"word": "hello"}')
    await desk.send("fail")
    await desk.counts("2 done · 1 failed")
    chips = desk.page.locator(".chip")
    shown = [re.sub(r", [\d.]+ m?s$", "", text) for text in await chips.all_text_contents()]
    assert shown == [
        "Request 1, sleep, done",
        "Request 2, echo, done",
        "Request 3, fail, failed",
    ]
    await desk.send("fail", raw="5")
    await desk.counts("2 done · 2 failed")
    await expect(chips.nth(3)).to_have_text(re.compile("^Request –, fail, not accepted, failed"))
    await chips.nth(1).click()
    await expect(desk.page.locator("#detail")).to_contain_text('"word": "hello"')
    await desk.page.keyboard.press("ArrowRight")
    await desk.page.keyboard.press("Enter")
    await expect(desk.page.locator("#detail")).to_contain_text("handler_failed")
    assert await desk.receipt() == {
        "accepted": 3,
        "done": 2,
        "failed": 1,
        "cancelled": 0,
        "pending": 0,
    }


async def test_errors_stand_where_they_belong(desk: Desk) -> None:
    await desk.enter("Sign in")
    await expect(desk.page.locator("#password-error")).to_have_text(re.compile("wrong"))
    await desk.page.click("text=Register")
    await desk.connection("Connected")
    await desk.send("strict", a="one")
    await expect(desk.page.locator("#composer-error")).to_have_text("a is a number")
    await expect(desk.page.locator("#field-a")).to_be_focused()
    await desk.page.check("#raw-mode")
    await desk.page.fill("#raw", "{")
    await desk.page.click("#composer button[value='1']")
    await expect(desk.page.locator("#composer-error")).to_have_text("This is not JSON")
    await desk.page.evaluate("sessionStorage.clear()")
    await desk.enter()
    await expect(desk.page.locator("#name-error")).to_have_text(re.compile("already"))
    await desk.page.fill("#name", "")
    await desk.page.click("text=Sign in")
    await expect(desk.page.locator("#name-error")).to_have_text("A name is needed")
    await expect(desk.page.locator("#name")).to_be_focused()


async def test_cut_and_resumed_nothing_lost_nothing_twice(desk: Desk) -> None:
    await desk.enter()
    await desk.send("sleep", times=100, seconds="0.01")
    await desk.page.click("#cut")
    await desk.connection("Connection lost, coming back…")
    await desk.send("echo", times=100)
    await desk.page.click("#resume")
    await desk.connection("Connected again")
    await desk.counts("200 done")
    assert (await desk.receipt())["done"] == 200


async def test_a_reloaded_tab_goes_on(desk: Desk) -> None:
    await desk.enter()
    await desk.send("echo")
    await desk.counts("1 done")
    await desk.send("sleep", seconds="600")
    await desk.send("echo")
    await desk.counts("1 running · 1 waiting · 1 done")
    # Before the acknowledgement, or after it: both are a matter of a second.
    await desk.page.click("#reload")
    await desk.connection("Connected")
    await desk.counts("1 running · 1 waiting")
    running = desk.page.locator(".chip[data-place=running]")
    await expect(running).to_have_text(re.compile("^Request 2, sleep, running"))
    await expect(desk.page.locator("#earlier")).to_contain_text("1 to 1 ended before")


async def test_a_request_that_runs_is_cancelled(desk: Desk) -> None:
    await desk.enter()
    await desk.send("sleep", seconds="600")
    await desk.page.click(".chip[data-place=running]")
    await desk.page.click("#detail button")
    await desk.counts("1 cancelled")
    assert (await desk.receipt())["cancelled"] == 1


async def test_the_server_restarts_under_the_page(desk: Desk) -> None:
    await desk.enter()
    await desk.send("echo", times=100)
    await desk.counts("100 done")
    desk.restarts = True
    for order in ("kill", "restart"):
        await desk.led.order(order)
    await desk.connection("Connected again")
    await desk.send("echo", times=100)
    await desk.counts("200 done")
    assert (await desk.receipt())["done"] == 200


async def test_five_thousand_without_a_long_task(desk: Desk) -> None:
    await desk.enter()
    await desk.page.evaluate(
        """() => {
            window.longest = 0;
            new PerformanceObserver((list) => {
                for (const { duration } of list.getEntries()) longest = Math.max(longest, duration);
            }).observe({ type: "longtask" });
        }"""
    )
    await desk.send("echo", times=100)
    for _ in range(49):
        await desk.page.click("#composer button[value='100']")
    await desk.counts("5000 done")
    assert await desk.page.locator(".chip").count() < 500
    assert await desk.page.evaluate("longest") < 200


async def test_a_foreign_page_is_kept_out(desk: Desk, chromium: Browser) -> None:
    await desk.enter()
    await desk.connection("Connected")
    page = await chromium.new_page()
    await page.route("http://evil.example/", lambda route: route.fulfill(body="<title>x</title>"))
    await page.goto("http://evil.example/")
    address = desk.url.replace("http://", "ws://") + "/ws"
    opened = await page.evaluate(
        """(url) => new Promise((resolve) => {
            const socket = new WebSocket(url, "inorder.v1");
            socket.onopen = () => resolve(true);
            socket.onclose = () => resolve(false);
        })""",
        address,
    )
    assert opened is False


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_axe_finds_nothing_serious(desk: Desk, scheme: Any, size: str) -> None:
    axe = npm_packages("axe-core@4") / "node_modules" / "axe-core" / "axe.min.js"
    width, height = SIZES[size]
    await desk.page.emulate_media(color_scheme=scheme)
    await desk.page.set_viewport_size({"width": width, "height": height})
    await desk.page.goto(desk.url)
    await serious(desk.page, axe)
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("echo", times=100)
    await desk.send("fail")
    await desk.send("sleep", seconds="600")
    await desk.send("echo")
    await desk.counts("1 running · 1 waiting · 100 done · 1 failed")
    await desk.page.click(".chip[data-place=running]")
    await expect(desk.page.locator("#detail button")).to_be_visible()
    await serious(desk.page, axe)
    await desk.page.click("#detail button")
    await desk.receipt()
    await serious(desk.page, axe)


async def serious(page: Page, axe: Path) -> None:
    """Fails for whatever axe calls serious or critical, with its words."""
    await page.evaluate(axe.read_text(encoding="utf-8"))
    found = await page.evaluate("axe.run().then(({ violations }) => violations)")
    bad = [
        f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']][:3]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert bad == []
