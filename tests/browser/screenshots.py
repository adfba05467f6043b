"""Pictures of every view of the console, at desktop and phone width, in light and dark.

    .venv/bin/python tests/browser/screenshots.py

writes them to ``tests/browser/screenshots/``, which git ignores.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from desk import QUIET, SIZES, Desk
from playwright.async_api import Browser, async_playwright, expect
from tools import tool
from vector_server import ServerProcess

FOLDER = Path(__file__).parent / "screenshots"


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=tool("chromium"), args=QUIET)
        for size in SIZES:
            for scheme in ("light", "dark"):
                with tempfile.TemporaryDirectory() as folder:
                    server = ServerProcess(Path(folder), {})
                    await server.start()
                    try:
                        await pictures(browser, server, size, scheme)
                    finally:
                        await server.kill()
        await browser.close()


async def pictures(browser: Browser, server: ServerProcess, size: str, scheme: Any) -> None:
    width, height = SIZES[size]
    context = await browser.new_context(
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": height},
    )
    url = server.url.replace("ws://", "http://").removesuffix("/ws")
    desk = Desk(await context.new_page(), url, None)

    async def picture(view: str) -> None:
        path = FOLDER / f"{view}-{size}-{scheme}.png"
        await desk.page.evaluate("scrollTo(0, 0)")
        await desk.page.screenshot(path=path, full_page=True)
        print(path)

    await desk.enter("Sign in")
    await desk.page.wait_for_selector("#password-error:not(:empty)")
    await picture("sign-in")
    await desk.page.click("text=Register")
    await desk.connection("Connected")
    await picture("empty")
    await desk.send("sleep", times=100, seconds="0.01")
    await desk.send("echo", times=100, raw='{"word": "hello"}')
    await desk.send("fail")
    await desk.send("sleep", seconds="600")
    await desk.page.click("#composer button[value='1']")
    await desk.counts("1 running · 1 waiting · 200 done · 1 failed")
    await desk.page.click(".chip[data-place=running]")
    # The figures are of each second that is over.
    await expect(desk.page.locator("figcaption").nth(1)).to_have_text("1 waiting")
    await picture("lane")
    await desk.page.check("#raw-mode")
    await desk.page.fill("#raw", '{"seconds": }')
    await desk.page.click("#composer button[value='1']")
    await desk.page.wait_for_selector("#composer-error:not(:empty)")
    await picture("composer")
    await desk.page.uncheck("#raw-mode")
    await desk.page.click("#cut")
    await desk.connection("Connection lost, coming back…")
    await picture("cut")
    await desk.page.click("#resume")
    await desk.connection("Connected again")
    for left in (1, 0):
        await desk.page.click(".chip[data-place=running]")
        await desk.page.click("#detail button")
        await expect(desk.page.locator(".chip[data-place=waiting]")).to_have_count(0)
        await expect(desk.page.locator(".chip[data-place=running]")).to_have_count(left)
    await desk.counts("200 done · 1 failed · 2 cancelled")
    await desk.receipt()
    await picture("receipt")
    await context.close()


asyncio.run(main())
