"""The console and the module where the network is not what it should be, in a real Chromium."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import pytest
from desk import Desk
from playwright.async_api import Page, expect

pytestmark = pytest.mark.slow

EVERY, PATIENCE = 20_000, 10_000
"""Milliseconds of silence until a ping, and from there until the server counts as gone."""


class Wire:
    """What goes over the WebSockets of a page: how many messages of each type."""

    def __init__(self, page: Page) -> None:
        self.sockets = 0
        self.seen: Counter[str] = Counter()
        self._news = asyncio.Event()
        page.on("websocket", self._opened)

    def _opened(self, socket: Any) -> None:
        self.sockets += 1
        socket.on("framesent", self._frame)
        socket.on("framereceived", self._frame)

    def _frame(self, frame: str) -> None:
        messages = json.loads(frame)
        for message in messages if isinstance(messages, list) else [messages]:
            self.seen[message["type"]] += 1
        self._news.set()

    async def until(self, type: str, count: int) -> None:
        """Until there were so many."""
        async with asyncio.timeout(10):
            while self.seen[type] < count:
                self._news.clear()
                await self._news.wait()
        assert self.seen[type] == count


async def test_a_network_that_drops_everything_in_silence(desk: Desk) -> None:
    """No close, no reset: only the ping that nobody answers tells."""
    wire = Wire(desk.page)
    await desk.page.clock.install()
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("echo", times=100)
    await desk.counts("100 done")
    await desk.led.order("freeze")
    await desk.send("echo", times=100)
    await desk.page.clock.run_for(EVERY - 1000)
    assert wire.seen["ping"] == 0
    await desk.page.clock.run_for(2000)
    assert wire.seen["ping"] == 1
    await desk.page.clock.run_for(PATIENCE - 2000)
    await desk.connection("Connected")
    assert wire.sockets == 1
    desk.restarts = True
    await desk.page.clock.run_for(2000)
    await desk.connection("Connection lost, coming back…")
    for order in ("drop", "thaw"):
        await desk.led.order(order)
    await desk.connection("Connected again")
    await desk.counts("200 done")
    assert (await desk.receipt())["done"] == 200


async def test_a_silent_server_that_lives_is_left_alone(desk: Desk) -> None:
    wire = Wire(desk.page)
    await desk.page.clock.install()
    await desk.enter()
    await desk.connection("Connected")
    for turn in range(1, 4):
        await desk.page.clock.run_for(EVERY + 1000)
        for type in ("ping", "pong"):
            await wire.until(type, turn)
    assert wire.sockets == 1
    await desk.connection("Connected")


async def test_a_ping_at_once_when_there_is_a_reason(desk: Desk) -> None:
    wire = Wire(desk.page)
    await desk.enter()
    await desk.connection("Connected")
    await desk.page.context.set_offline(True)
    assert await desk.page.evaluate("navigator.onLine") is False
    assert wire.seen["ping"] == 0
    await desk.page.context.set_offline(False)
    await wire.until("pong", 1)
    await desk.page.evaluate(
        """() => {
            let state = "hidden";
            Object.defineProperty(document, "visibilityState", { get: () => state });
            document.dispatchEvent(new Event("visibilitychange"));
            state = "visible";
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    await wire.until("pong", 2)


async def test_a_tab_that_the_browser_duplicates(desk: Desk) -> None:
    """A window that a page opens has a copy of its `sessionStorage`, as a duplicate has."""
    await desk.enter()
    await desk.send("echo")
    await desk.counts("1 done")
    for _ in range(2):
        async with desk.page.expect_popup() as opened:
            await desk.page.evaluate("void open(location.href)")
        other = await opened.value
        await expect(other.locator("#connection")).to_have_text("Connected", timeout=20_000)
        mine, copied = [await page.text_content("#who") for page in (desk.page, other)]
        assert mine != copied
        await other.close()
    await desk.send("echo")
    await desk.counts("2 done")
    await desk.connection("Connected")


async def test_a_page_without_storage(desk: Desk) -> None:
    """As with cookies blocked: to look at it throws."""
    await desk.page.add_init_script(
        """Object.defineProperty(window, "sessionStorage", {
            get() { throw new DOMException("The operation is insecure.", "SecurityError"); },
        });"""
    )
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("echo")
    await desk.counts("1 done")
    assert (await desk.receipt())["done"] == 1


async def test_leaving_while_it_is_cut(desk: Desk) -> None:
    await desk.enter()
    await desk.send("echo", times=100)
    await desk.page.click("#cut")
    await desk.connection("Connection lost, coming back…")
    await desk.send("echo", times=100)
    assert (await desk.receipt())["done"] == 200


async def test_leaving_waits_for_what_runs_and_says_so(desk: Desk) -> None:
    await desk.enter()
    await desk.send("sleep", seconds="600")
    await desk.counts("1 running")
    await desk.page.click(".chip[data-place=running]")
    await desk.page.click("#leave")
    await expect(desk.page.locator("#receipt")).to_contain_text("when the last request has ended")
    await expect(desk.page.locator("#composer button").first).to_be_disabled()
    await desk.page.click("#detail button")
    await expect(desk.page.locator("#receipt h3")).to_have_text("Verified", timeout=20_000)
    await desk.page.click("#receipt button")
    await expect(desk.page.locator("#name")).to_be_visible()


async def test_the_server_goes_down_and_says_so(desk: Desk) -> None:
    await desk.enter()
    await desk.send("sleep", seconds="600")
    await desk.counts("1 running")
    desk.restarts = True
    await desk.led.order("stop")
    await desk.connection("The server is going down…")
    await desk.page.click(".chip[data-place=running]")
    await desk.page.click("#detail button")
    await desk.connection("Connection lost, coming back…")
    await desk.led.order("restart")
    await desk.connection("Connected again")
    await desk.counts("1 cancelled")
    await expect(desk.page.locator("#announcer")).to_have_text(re.compile("cancelled"))
