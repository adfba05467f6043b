"""A person at the console, in a real Chromium."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Page, expect

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

    async def enter(
        self, how: str = "Register", password: str = "correct horse", name: str = "ann"
    ) -> None:
        await self.page.goto(self.url)
        await self.page.fill("#name", name)
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
