"""Tests of the appearance: the width of a phone, and accessibility in every state, light and dark."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from made import Pixels
from pages import Visitor, set_size, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Page

from styler import images

GRADIO_MARKUP = {
    ("nested-interactive", 'button[aria-label="Add files"]'): "the button that adds files contains their input"
}
"""Violations in markup that Gradio generates: the axe rule, the element, and the reason."""

AXE_OPTIONS: dict[str, dict[str, Any]] = {
    "light": {"resultTypes": ["violations"]},
    "dark": {
        "resultTypes": ["violations"],
        "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
    },
}
"""The markup is the same in both; only colors differ."""


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def settle(page: Page) -> None:
    """Wait until what has changed is drawn and its transitions, but not the spinners, have ended."""
    page.evaluate(
        """async () => {
            for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
            const ending = document.getAnimations().filter(a => isFinite(a.effect.getComputedTiming().endTime));
            await Promise.allSettled(ending.map(a => a.finished));
        }"""
    )


def set_scheme(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("isDark => document.body.classList.contains('dark') === isDark", arg=scheme == "dark")
    settle(page)


def visit_states(page: Page, photo: Path) -> Any:
    """Put the page into one state after another and yield their names."""
    yield "empty"
    upload_photo(page, photo)
    assert not page.locator("#paint-sample").is_visible()
    yield "photo"
    page.click("#other summary")
    page.get_by_label("Subject", exact=True).check()
    page.wait_for_selector("#area-note .kept p:not(:empty)")
    yield "protect"
    page.click("#draw")
    page.wait_for_selector("#board dialog[open]")
    yield "board"
    page.click("[data-pen=cancel]")
    page.get_by_label("Subject", exact=True).uncheck()
    page.click("#other summary")
    start_painting(page, iterations=20_000, size=128)
    yield "painting"
    page.click("#stop")
    wait_for_text(page, "Stopped")
    page.wait_for_selector("#slider img")
    yield "done"
    page.click("#retry")
    page.wait_for_selector("#stage .working img")
    page.click("#stop")
    page.wait_for_selector("#history img")
    yield "history"
    page.fill("#blend", "63")
    yield "blend"
    page.click("#list-keys")
    yield "keys"
    page.keyboard.press("Escape")
    page.click("#losses > button")
    page.wait_for_selector("#losses-plot svg.marks")
    yield "losses"
    page.get_by_role("tab", name="Batch").click()
    yield "batch"
    page.set_input_files("#batch-contents input[type=file]", photo)
    page.locator("#batch-contents .file-preview tr").first.wait_for()
    set_size(page, 64, "batch")
    page.click("#batch-paint")
    wait_for_text(page, "1 of 1 done.", "#batch-status")
    yield "batch done"
    page.get_by_role("tab", name="About").click()
    yield "about"


def list_small_controls(page: Page) -> list[str]:
    """Return the visible controls that are too small for a finger; of a radio button or a box, its label counts."""
    small: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(
          ".gradio-container :is(button, a, select, summary, textarea, input:not([type=hidden], [type=file]))"
        )].filter((each) => each.checkVisibility({ visibilityProperty: true })
          && !each.closest("[aria-hidden=true], .compare input, button button")
        ).map((each) => {
          const target = each.matches("[type=radio], [type=checkbox]") ? each.closest("label") : each;
          const box = target.getBoundingClientRect();
          const around = Math.max(0, -parseFloat(getComputedStyle(each, "::after").inset) || 0); // takes clicks, too
          return [each, Math.min(box.width, box.height) + 2 * around];
        }).filter(([each, side]) => side < 44).map(([each, side]) => `${side} ${each.outerHTML.slice(0, 200)}`)"""
    )
    return small


def test_a_phone_never_scrolls_sideways_and_has_room_for_fingers(visitor: Visitor, photo: Path) -> None:
    page = visitor(width=360, height=740)
    for state in visit_states(page, photo):
        settle(page)
        widths = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(widths) <= 360, f"{state}: {widths}"
        assert list_small_controls(page) == [], state
        if state == "painting":  # the Paint button is far below the picture
            assert page.evaluate("document.querySelector('#stage').getBoundingClientRect().top") >= 0
        if state in {"empty", "photo", "done"}:
            box = page.locator("#paint").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= 740, f"{state}: Paint is not visible"
            assert box["height"] >= 44


def test_axe_finds_no_serious_violation(visitor: Visitor, photo: Path) -> None:
    """Every state is seen as it appears in the dark, and then in the light, where all rules are checked."""
    page = visitor(scheme="dark")
    violations: dict[tuple[str, ...], str] = {}
    for state in visit_states(page, photo):
        for scheme in ("dark", "light"):
            set_scheme(page, scheme)
            if state == "done":  # axe does not look at icons
                stroke = page.eval_on_selector("#slider .screen path", "path => getComputedStyle(path).stroke")
                assert stroke == "rgb(255, 255, 255)"
            for violation in Axe().run(page, options=AXE_OPTIONS[scheme]).response["violations"]:
                if violation["impact"] in {"serious", "critical"}:
                    nodes = {(violation["id"], node["target"][0]): node["html"][:160] for node in violation["nodes"]}
                    violations |= {
                        (state, scheme, *key): html for key, html in nodes.items() if key not in GRADIO_MARKUP
                    }
        set_scheme(page, "dark")
    assert violations == {}


IS_HIDDEN = """() => {
  const focused = document.activeElement;
  if (focused === document.body || focused.closest("#paint")) return false;
  const box = (focused.closest("label") ?? focused).getBoundingClientRect();
  const button = document.querySelector("#paint").getBoundingClientRect();
  const isBeside = box.left >= button.right || box.right <= button.left;
  return box.top > innerHeight || (!isBeside && box.top < button.bottom && box.bottom > button.top);
}"""
"""Script that returns whether what has the focus is below the window or behind the button that paints."""


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_images_have_alt_texts_and_controls_are_reached_by_tab(
    visitor: Visitor, photo: Path, width: int, height: int
) -> None:
    page = visitor(width=width, height=height)
    upload_photo(page, photo)
    missing = page.evaluate(
        "[...document.images].filter(i => i.getAttribute('alt') === null).map(i => i.outerHTML.slice(0, 200))"
    )
    assert missing == []
    reached, hidden = set(), []
    page.locator("body").press("Tab")
    for _ in range(60):
        reached.add(page.evaluate("document.activeElement.closest('[id]')?.id"))
        if page.evaluate(IS_HIDDEN):
            hidden.append(page.evaluate("document.activeElement.outerHTML"))
        page.keyboard.press("Tab")
    assert hidden == []
    for name in ("content", "sample", "style", "own-styles", "paint"):
        inside = page.evaluate(
            "([name, ids]) => ids.some(id => document.getElementById(id)?.closest(`#${name}`))",
            [name, [*reached - {None}]],
        )
        assert inside, f"{name} is not reached: {reached}"
