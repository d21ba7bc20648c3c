"""Claims about the page that is looked at: a phone's width, accessibility, and every state in light and dark."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from made import Pixels
from pages import Visitor, choose, paint, said
from playwright.sync_api import Page

from styler import images

GRADIOS_OWN = {
    ("nested-interactive", 'button[aria-label="common.upload"]'): "the button that adds files holds the field for them",
}
"""What axe says of markup that Gradio makes and we cannot change: the rule, where, and why it is so."""


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def states(page: Page, photo: Path) -> Any:
    """The page in one state after another."""
    yield "empty"
    choose(page, photo)
    yield "photo"
    paint(page, iterations=20_000, size=128)
    yield "painting"
    page.click("#keep")
    said(page, "Stopped")
    page.wait_for_selector("#slider img")
    yield "done"
    page.click("#again")
    page.wait_for_selector("#stage .working img")
    page.click("#keep")
    page.wait_for_selector("#history img")
    yield "history"
    page.get_by_role("tab", name="Batch").click()
    yield "batch"
    page.set_input_files("#batch-contents input[type=file]", photo)
    page.locator("#batch-contents .file-preview tr").first.wait_for()
    page.fill("#batch-size input", "64")
    page.press("#batch-size input", "Tab")
    page.click("#batch-paint")
    said(page, "1 of 1 done.", "#batch-status")
    yield "batch done"
    page.get_by_role("tab", name="About").click()
    yield "about"


def test_a_phone_never_scrolls_sideways(visitor: Visitor, photo: Path) -> None:
    page = visitor(width=360, height=740)
    for state in states(page, photo):
        page.wait_for_timeout(200)
        wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(wide) <= 360, f"{state}: {wide}"
        if state == "painting":  # Paint was clicked far below the picture
            assert page.evaluate("document.querySelector('#stage').getBoundingClientRect().top") >= 0
        if state in {"empty", "photo", "done"}:
            box = page.locator("#paint").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= 740, f"{state}: Paint is not in view"
            assert box["height"] >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visitor: Visitor, photo: Path, scheme: str) -> None:
    page = visitor(scheme=scheme)
    found: dict[tuple[str, ...], str] = {}
    for state in states(page, photo):
        page.wait_for_timeout(400)  # until everything has faded in
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in {"serious", "critical"}:
                places = {(violation["id"], node["target"][0]): node["html"][:160] for node in violation["nodes"]}
                found |= {(state, *where): html for where, html in places.items() if where not in GRADIOS_OWN}
    assert found == {}


def test_every_picture_has_a_text_and_every_control_is_reached_by_tab(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    choose(page, photo)
    without = page.evaluate(
        "[...document.images].filter(i => i.getAttribute('alt') === null).map(i => i.outerHTML.slice(0, 200))"
    )
    assert without == []
    reached = set()
    page.locator("body").press("Tab")
    for _ in range(60):
        reached.add(page.evaluate("document.activeElement.closest('[id]')?.id"))
        page.keyboard.press("Tab")
    for name in ("content", "sample", "style", "own", "paint"):
        inside = page.evaluate(
            "([name, ids]) => ids.some(id => document.getElementById(id)?.closest(`#${name}`))",
            [name, [*reached - {None}]],
        )
        assert inside, f"{name} is not reached: {reached}"
