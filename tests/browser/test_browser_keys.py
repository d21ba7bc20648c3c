"""Tests of the keys, of what is noticed from another tab, and of the list of keys."""

import re
from pathlib import Path

import pytest
from made import Pixels
from pages import Site, Visitor, set_options, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Page, expect
from readme import UI_README

from styler import images
from ui import render

NOTIFICATIONS = """
  window.sent = [];
  window.questions = 0;
  window.answer = "granted";
  window.Notification = class {
    static permission = "default";
    static async requestPermission() { questions += 1; return (Notification.permission = answer); }
    constructor(title, { body }) { sent.push(`${title}: ${body}`); }
  };
  window.later = 0;
  const now = performance.now.bind(performance);
  performance.now = () => now() + later;
"""
"""Script that records notifications, answers the browser's question, and can move the clock forward."""
HIDE = """(isHidden) => {
  Object.defineProperty(document, "hidden", { get: () => isHidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def page(visitor: Visitor, tmp_path: Path, pixels: Pixels) -> Page:
    """Open the page as a visitor who has chosen a photo and whose notifications are recorded."""
    page = visitor()
    page.add_init_script(NOTIFICATIONS)
    page.reload()
    page.wait_for_selector("#paint")
    upload_photo(page, images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(60, 80))))
    return page


def read_list() -> list[tuple[str, str]]:
    """Return the rows of the list of keys in the documentation."""
    table = UI_README.read_text(encoding="utf-8").partition("| key |")[2].partition("\n\n")[0]
    return [(key.strip(), text.strip()) for key, text in re.findall(r"^\| ([^|]+)\|([^|]+)\|$", table, re.MULTILINE)]


def test_the_list_of_keys_is_reached_by_key_and_button_and_is_documented(page: Page) -> None:
    dialog = page.locator("#keys")
    expect(dialog).to_be_hidden()
    page.locator("body").press("?")
    expect(dialog).to_be_visible()
    rows = page.eval_on_selector_all(
        "#keys tr", "rows => rows.map(row => [...row.children].map(cell => cell.innerText))"
    )
    assert [tuple(row) for row in rows] == [*render.KEYS] == read_list()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.click("#list-keys")
    expect(dialog).to_be_visible()
    page.click("#keys button")
    expect(dialog).to_be_hidden()
    page.locator("body").press("Control+?")
    set_options(page)
    page.focus("#option-seed input")
    page.keyboard.press("?")
    expect(dialog).to_be_hidden()


def test_ctrl_enter_paints_from_a_field_and_escape_stops_only_when_it_closes_nothing(page: Page, site: Site) -> None:
    set_options(page, iterations=20_000, size=96)
    page.fill("#option-seed input", "5")
    page.press("#option-seed input", "Control+Enter")
    page.wait_for_selector("#stage .working img")
    page.click("#stage")  # out of the field; full screen needs a click, too
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.evaluate("() => document.documentElement.requestFullscreen()")
    page.wait_for_function("document.fullscreenElement")
    page.keyboard.press("Escape")
    page.wait_for_function("!document.fullscreenElement")
    assert site.is_painting
    expect(page.locator("#stop")).to_be_enabled()
    page.evaluate("later = 1000")  # this is another press of the key
    page.keyboard.press("Escape")
    wait_for_text(page, "Stopped; this is the best picture so far.")
    wait_for_text(page, "seed 5", "#summary")


def test_keys_walk_flip_and_fill_the_screen_but_not_while_one_types(page: Page) -> None:
    start_painting(page, is_long=False, iterations=2, size=96)
    for number in (2, 3):
        page.wait_for_selector("#finished")
        page.click("#retry")
        page.wait_for_selector(f'.view[data-picture="{number}"]')
    page.wait_for_selector("#finished")
    page.locator("#history .thumbnail-item").nth(2).wait_for()
    page.locator("body").press("ArrowLeft")
    page.locator("body").press("ArrowLeft")
    page.wait_for_selector('.view[data-picture="1"]')
    page.locator("body").press("ArrowLeft")  # there is none before the first
    page.locator("body").press("ArrowRight")
    page.wait_for_selector('.view[data-picture="2"]')
    wait_for_text(page, "seed 1", "#summary")

    line = page.locator("#slider input")
    for key, value in (("b", "100"), ("B", "0"), ("b", "100"), ("Control+b", "100"), ("Alt+b", "100"), ("b", "0")):
        page.locator("body").press(key)
        expect(line).to_have_value(value)
    line.fill("30")
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.down("b")
    expect(line).to_have_value("100")
    page.wait_for_function("was => performance.now() - was > 400", arg=page.evaluate("performance.now()"))
    page.keyboard.up("b")
    expect(line).to_have_value("30")

    for field in ("#option-seed input", "#option-size input", "#compare-with"):
        page.focus(field)
        for key in ("b", "f", "ArrowLeft"):
            page.keyboard.press(key)
    line.press("ArrowRight")
    expect(line).to_have_value("31")
    assert page.get_attribute(".view", "data-picture") == "2"
    assert not page.evaluate("Boolean(document.fullscreenElement)")
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement === document.querySelector('.view')")
    page.keyboard.press("f")
    page.wait_for_function("!document.fullscreenElement")


def test_the_title_shows_progress_and_the_end_until_one_looks(page: Page) -> None:
    assert page.title() == "styler"
    start_painting(page, iterations=20_000, size=96)
    page.wait_for_function(r"/^\d+ % · styler$/.test(document.title)")
    page.evaluate(HIDE, True)
    page.click("#stop")
    page.wait_for_function("document.title === 'Done · styler'")
    page.evaluate(HIDE, False)
    assert page.title() == "styler"
    page.click("#retry")
    page.wait_for_selector("#stage .working img")
    page.click("#discard")
    page.wait_for_function("document.title === 'styler'")
    assert page.evaluate("[questions, sent.length]") == [0, 0]


def test_a_long_picture_is_told_only_to_who_asked_and_looks_elsewhere(page: Page) -> None:
    set_options(page, iterations=20_000, size=96)
    for number, (milliseconds, is_hidden, count) in enumerate(
        ((0, True, 0), (30_000, False, 0), (30_000, True, 1)), start=1
    ):
        page.click("#paint")
        page.wait_for_selector("#stage .working img")
        if number == 1:
            expect(page.locator("#tell")).not_to_be_checked()
            page.check("#tell")
            page.wait_for_function("Notification.permission === 'granted'")
        expect(page.locator("#tell")).to_be_checked()
        page.evaluate("milliseconds => { later += milliseconds; }", milliseconds)
        page.evaluate(HIDE, is_hidden)
        page.click("#stop")
        page.wait_for_selector(f'.view[data-picture="{number}"]')
        page.wait_for_selector("#finished")
        assert page.evaluate("sent.length") == count
    assert page.evaluate("sent[0]") == "Done · styler: holiday.starry-night is painted."
    assert page.evaluate("questions") == 1


def test_a_browser_that_forbids_notifications_is_explained(page: Page) -> None:
    page.evaluate("() => { answer = 'denied'; }")
    start_painting(page, iterations=20_000, size=96)
    page.click("#tell")
    wait_for_text(page, "The browser does not let this page send notifications; allow them", ".alert")
    expect(page.locator("#tell")).not_to_be_checked()
    assert page.evaluate("localStorage.getItem('styler-tell')") == "no"
    page.click("#discard")
