"""The console in a real Chromium: a person signs in, sends, cuts, reloads, leaves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from desk import Desk
from playwright.async_api import Browser, expect

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


async def test_a_first_session(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("sleep", seconds="0.2")
    await desk.send("echo", raw='{"word": "hello"}')
    await desk.send("fail")
    await desk.counts("2 done · 1 failed")
    chips = desk.page.locator(".chip")
    shown = [re.sub(r", [<\d.]+ m?s$", "", text) for text in await chips.all_text_contents()]
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


async def test_the_lane_runs_in_order(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.page.evaluate(
        """() => {
            window.ran = [];
            new MutationObserver(() => {
                const running = document.querySelectorAll(".chip[data-place=running] .number");
                if (running.length) ran.push([...running].map((one) => Number(one.textContent)));
            }).observe(document.getElementById("chips"), {
                subtree: true, childList: true, attributes: true, attributeFilter: ["data-place"],
            });
        }"""
    )
    await desk.send("sleep", times=100, seconds="0.02")
    await desk.counts("100 done")
    ran = await desk.page.evaluate("ran")
    assert all(len(at_once) == 1 for at_once in ran)
    numbers = [number for [number] in ran]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 20, "it was seen running"


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
    await expect(desk.page.locator("#earlier")).to_contain_text("Request 1 ended before")


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


async def test_a_form_goes_on_as_json(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.page.select_option("#method", "sleep")
    await expect(desk.page.locator("#doc")).to_contain_text("Sleeps so many seconds")
    await desk.page.fill("#field-seconds", "0.01")
    await desk.page.check("#raw-mode")
    await expect(desk.page.locator("#raw")).to_have_value('{"seconds":0.01}')
    await expect(desk.page.locator("#field-seconds")).to_be_hidden()
    await desk.page.click("#composer button[value='1']")
    await desk.counts("1 done")


async def test_progress_and_figures(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("sleep", seconds="2")
    chip = desk.page.locator(".chip[data-place=running]")
    await expect(chip).to_have_attribute("style", re.compile(r"--progress: 0\.[1-9]"))
    await chip.click()
    await expect(desk.page.locator("#detail dt:text('Progress') + dd")).to_contain_text('"slept"')
    await desk.counts("1 done")
    await expect(desk.page.locator("#detail dt:text('Progress')")).to_have_count(0)
    charts = desk.page.locator("#figures svg")
    for at, said in enumerate(
        (
            "accepted in a second: now 0, at most 1 in the last minute",
            "waiting: now 0, at most ",
            r"mean time from submitted to ended: now (–|2\.\d s), at most 2\.\d s in the last min",
        )
    ):
        await expect(charts.nth(at)).to_have_attribute("aria-label", re.compile(f"^{said}"))


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


async def test_a_duplicated_tab_has_a_session_of_its_own(desk: Desk) -> None:
    await desk.enter()
    await desk.send("echo")
    await desk.counts("1 done")
    kept = await desk.page.evaluate("({ ...sessionStorage })")
    other = await desk.page.context.new_page()
    await other.goto(desk.url)
    await other.evaluate("(kept) => Object.assign(sessionStorage, kept)", kept)
    await other.reload()
    await expect(other.locator("#connection")).to_have_text("Connected", timeout=20_000)
    first, second = [await page.text_content("#who") for page in (desk.page, other)]
    assert first != second
    await desk.send("echo")
    await desk.counts("2 done")
    await desk.connection("Connected")
    await other.reload()
    await expect(other.locator("#connection")).to_have_text("Connected", timeout=20_000)
    assert (await desk.receipt())["done"] == 2


async def test_taken_over_by_another_connection(desk: Desk) -> None:
    await desk.enter()
    await desk.send("echo")
    await desk.counts("1 done")
    await desk.page.evaluate(
        """async () => {
            const { state, token } = JSON.parse(sessionStorage["inorder:console"]);
            const { connect } = await import("/inorder.js");
            const url = document.querySelector("code").textContent.split(" ").at(-1);
            await connect(url, { auth: token, resume: state });
        }"""
    )
    await expect(desk.page.locator("#signin-error")).to_contain_text("taken the session over")
    await desk.enter("Sign in")
    await desk.connection("Connected")


async def test_a_user_who_is_revoked_meanwhile(desk: Desk) -> None:
    await desk.enter()
    await desk.send("echo")
    await desk.counts("1 done")
    await desk.led.order("revoke", "ann")
    error = desk.page.locator("#signin-error")
    await expect(error).to_contain_text("was revoked, deleted or given", timeout=20_000)
    await expect(desk.page.locator("#who")).to_be_hidden()
    await desk.enter("Sign in")
    await desk.connection("Connected")


async def test_where_nobody_may_register(chromium: Browser, stage: Any) -> None:
    led = await stage({"auth": {"registration": "closed"}})
    url = led.proxy.url.replace("ws://", "http://").removesuffix("/ws")
    desk = Desk(await chromium.new_page(), url, led)
    await desk.enter()
    error = desk.page.locator("#signin-error")
    await expect(error).to_have_text(re.compile("^Registering is not allowed here"))
    desk.restarts = True
    await led.order("kill")
    await desk.page.click("#signin-form button:text-is('Sign in')")
    await expect(error).to_have_text(re.compile("^The server can't be reached"))
    assert desk.trouble == []


@asynccontextmanager
async def served(text: str) -> AsyncIterator[str]:
    """The address of a page, on another port of this machine."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
        writer.write((head + text).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_the_pages_of_the_documents(desk: Desk) -> None:
    """README's, from another origin of this machine; SPEC.md's, with a person at it."""
    host = urlsplit(desk.url).netloc
    pages = {
        name: re.findall(r"```html\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)[0]
        for name in ("README.md", "protocol/SPEC.md")
    }
    page = await desk.page.context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    async with (
        served(pages["README.md"].replace("127.0.0.1:3000", host)) as address,
        page.expect_console_message(lambda said: "accepted: 4, done: 4" in said.text),
    ):
        await page.goto(address)
    assert said[:2] == ["{word: hello}", "2"]

    await desk.enter()
    await desk.connection("Connected")
    raw = pages["protocol/SPEC.md"].replace('location.host || "127.0.0.1:3000"', f'"{host}"')
    async with served(raw) as address:
        await page.goto(address)
    await page.fill("input[name=password]", "correct horse")
    await page.click("button")
    await expect(page.locator("#out")).to_contain_text('"type":"welcome"')
    await page.fill("#line", '{"method": "echo", "params": "hi"}')
    await page.keyboard.press("Enter")
    await expect(page.locator("#out")).to_contain_text('"result":"hi"')


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
