"""How the console looks in a real Chromium: to axe, without motion, with large letters."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from desk import SIZES, Desk
from playwright.async_api import Page, expect
from tools import npm_packages

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
async def test_quiet_where_motion_is_not_wanted(desk: Desk, motion: Any) -> None:
    await desk.page.emulate_media(reduced_motion=motion)
    await desk.enter()
    await desk.send("echo")
    await desk.counts("1 done")
    moves = await desk.page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((one) =>
            ["", "::before", "::after"].some((part) => {
                const { transitionDuration, animationName } = getComputedStyle(one, part || null);
                return animationName !== "none" || /[1-9]/.test(transitionDuration);
            })).length"""
    )
    assert (moves == 0) is (motion == "reduce")


async def test_letters_twice_as_large(desk: Desk) -> None:
    """And the page of a phone: nothing lies on another, nothing sticks out."""
    await desk.page.set_viewport_size({"width": 320, "height": 640})
    await desk.page.add_init_script(
        """addEventListener("DOMContentLoaded", () => {
            document.documentElement.style.fontSize = "32px";
        });"""
    )
    await desk.enter(name="a" * 64)
    await desk.send("echo", times=100)
    await desk.counts("100 done")
    boxes = [await chip.bounding_box() for chip in await desk.page.locator(".chip").all()]
    rows = sorted({box["y"] for box in boxes if box is not None})
    height = next(box["height"] for box in boxes if box is not None)
    assert all(below - above > height for above, below in pairwise(rows))
    await desk.page.click(".chip >> nth=0")
    await desk.receipt()
    outside = await desk.page.evaluate(
        """() => [...document.querySelectorAll("*")]
            .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []
