"""The console by keyboard and by screen reader alone, in a real Chromium."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from desk import Desk
from playwright.async_api import expect

pytestmark = pytest.mark.slow

FOCUS = """() => {
    const here = document.activeElement;
    const number = here.querySelector(".number");
    return number ? `chip ${number.textContent}` : here.id || here.textContent.trim();
}"""


async def focus(desk: Desk) -> str:
    """Which control has it, by its id or its words; of the lane's, by its number."""
    return str(await desk.page.evaluate(FOCUS))


async def press(desk: Desk, *keys: str) -> str:
    for key in keys:
        await desk.page.keyboard.press(key)
    return await focus(desk)


async def walk(desk: Desk, back: bool = False) -> list[str]:
    """Where the tabulator leads, up to the end of the page."""
    stops = [await focus(desk)]
    while (stop := await press(desk, "Shift+Tab" if back else "Tab")) not in stops and stop:
        stops.append(stop)
    return stops


async def test_from_the_password_to_the_receipt(desk: Desk) -> None:
    await desk.page.goto(desk.url)
    await desk.page.focus("#name")
    await desk.page.keyboard.type("ann")
    await press(desk, "Tab")
    await desk.page.keyboard.type("correct horse")
    assert await press(desk, "Tab", "Tab") == "Register"
    await press(desk, "Enter")
    await expect(desk.page.locator("#method")).to_be_focused()
    await desk.page.select_option("#method", "sleep")
    assert await press(desk, "Tab") == "field-seconds"
    await desk.page.keyboard.type("600")
    await press(desk, "Enter")
    await desk.counts("1 running")
    assert await press(desk, "Tab", "Tab") == "Send"
    await press(desk, "Space")
    await desk.counts("1 running · 1 waiting")
    assert await press(desk, "Tab", "Tab") == "follow"
    assert await press(desk, "Tab") == "chip 1"
    await press(desk, "Enter")
    await expect(desk.page.locator("#detail")).to_contain_text("running")
    stops = await walk(desk)
    assert stops[stops.index("chip 1") :][:6] == [
        "chip 1",
        '{\n "seconds": 600\n}',
        "Cancel",
        "cut",
        "reload",
        "leave",
    ]
    await desk.page.focus("#drop")
    await press(desk, "Enter")
    await expect(desk.page.locator("#receipt h3")).to_have_text("Verified")
    assert await focus(desk) == "Sign in again"
    await expect(desk.page.locator("#receipt")).to_contain_text("2 = 0 + 0 + 2 + 0")


async def test_every_key_of_the_lane(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    for _ in range(3):
        await desk.send("echo", times=100)
    await desk.counts("300 done")
    columns, rows = await desk.page.evaluate(
        """() => {
            const { clientWidth, clientHeight } = document.getElementById("lane");
            return [Math.floor(clientWidth / 64), Math.floor(clientHeight / 44)];
        }"""
    )
    page = columns * (rows - 1)
    await desk.page.focus("#follow")
    await press(desk, "Tab", "Home")
    for keys, number in (
        (["ArrowLeft"], 1),
        (["ArrowUp"], 1),
        (["ArrowRight"], 2),
        (["ArrowDown"], 2 + columns),
        (["ArrowLeft"], 1 + columns),
        (["ArrowUp"], 1),
        (["PageDown"], 1 + page),
        (["PageDown"], 1 + 2 * page),
        (["PageUp"], 1 + page),
        (["End"], 300),
        (["ArrowRight"], 300),
        (["ArrowDown"], 300),
        (["PageDown"], 300),
        (["Home"], 1),
        (["PageUp"], 1),
        # One stop of the tabulator, which finds the way back.
        (["ArrowRight", "Shift+Tab", "Tab"], 2),
        # The browser's own.
        (["Alt+ArrowDown"], 2),
    ):
        assert await press(desk, *keys) == f"chip {number}", keys
        await expect(desk.page.locator(":focus")).to_be_in_viewport()
    assert not await desk.page.is_checked("#follow")

    await press(desk, "Space")
    number = desk.page.locator("#detail dd").first
    await expect(number).to_have_text("2")
    chosen = desk.page.locator(".chip[aria-pressed=true]")
    await expect(chosen).to_have_text(re.compile("^Request 2, echo, done"))
    await press(desk, "ArrowRight")
    await expect(number).to_have_text("2")
    assert await press(desk, "Enter") == "chip 3"
    await expect(number).to_have_text("3")
    # Away, and back by Escape: from the request to its place, then from the place.
    assert await press(desk, "End", "Tab") == "null"
    assert await press(desk, "Escape") == "chip 3"
    await expect(desk.page.locator("#detail")).to_have_text("Choose one in the lane.")
    await expect(chosen).to_have_count(0)
    await press(desk, "Enter", "Escape")
    await expect(chosen).to_have_count(0)
    assert await press(desk, "Escape") == "chip 3"


async def test_the_tabulator_finds_the_lane_wherever_it_is(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    for _ in range(5):
        await desk.send("echo", times=100)
    await desk.counts("500 done")
    await desk.page.focus("#follow")
    stop = await press(desk, "Tab")
    assert stop.startswith("chip "), stop
    assert await desk.page.locator(".chip[tabindex='0']").count() == 1
    await desk.page.focus("#follow")
    await desk.page.evaluate("document.getElementById('lane').scrollTop = 0")
    await expect(desk.page.locator(".chip").first).to_have_text(re.compile("^Request 1,"))
    assert (await press(desk, "Tab")).startswith("chip ")
    await expect(desk.page.locator(":focus")).to_be_in_viewport()


async def test_the_focus_stays_while_a_request_runs_and_ends(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.send("sleep", seconds="600")
    await desk.page.click(".chip[data-place=running]")
    await desk.page.focus("#detail button")
    ran = desk.page.locator("#detail dt:text('Running for') + dd")
    before = await ran.text_content()
    await expect(ran).not_to_have_text(before or "")
    assert await focus(desk) == "Cancel"
    await press(desk, "Enter")
    await expect(desk.page.locator("#detail")).to_contain_text("cancelled")
    await expect(desk.page.locator("#detail button")).to_have_count(0)
    assert await focus(desk) == "detail"
    assert await press(desk, "Tab") == '{\n "seconds": 600\n}'


async def test_what_a_screen_reader_says(desk: Desk) -> None:
    await desk.enter()
    await desk.connection("Connected")
    await desk.page.evaluate(
        """() => {
            window.said = [];
            const place = document.getElementById("announcer");
            const told = () => said.push([performance.now() / 1000, place.textContent]);
            new MutationObserver(told).observe(place, { childList: true });
        }"""
    )
    announcer = desk.page.locator("#announcer")
    await expect(announcer).to_have_attribute("role", "status")
    await desk.send("echo")
    await expect(announcer).to_have_text("Request 1, echo, done.")
    await desk.send("fail")
    await expect(announcer).to_have_text("Request 2, fail, failed: handler failed.")
    await desk.page.select_option("#method", "echo")
    for _ in range(20):
        await desk.page.click("#composer button[value='100']")
    await expect(announcer).to_have_text(re.compile(r"done\. None is left\.$"), timeout=20_000)
    said = await desk.page.evaluate("said")
    assert sum(int(n) for _, text in said for n in re.findall(r"(\d+) done", text)) == 2000
    times = [at for at, _ in said]
    assert all(later - before > 2.9 for before, later in pairwise(times))
