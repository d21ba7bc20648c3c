"""Tests of the form in a real browser: sizes, expected times, the Advanced section, and the picture in one click."""

from pathlib import Path

import pytest
from made import Pixels
from pages import Site, Visitor, set_options, set_size, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Page, expect

from styler import images
from ui import controls, render

SECOND_LINE = "label => getComputedStyle(label.querySelector('span'), '::after').content"


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def measure_boxes(page: Page, selector: str) -> list[list[float]]:
    """Return left, top, width and height of the elements that are shown."""
    boxes: list[list[float]] = page.evaluate(
        """selector => [...document.querySelectorAll(selector)].filter(each => each.checkVisibility()).map(each => {
          const box = each.getBoundingClientRect();
          return [box.left + scrollX, box.top + scrollY, box.width, box.height];
        })""",
        selector,
    )
    return boxes


def test_a_size_is_chosen_or_typed_and_painted(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    field, own = page.locator("#option-size input"), page.locator("#option-sizes label").last
    assert not field.is_visible()
    expect(page.get_by_role("radio", name="Small 512 px")).to_be_checked()
    page.get_by_role("radio", name="draft").check()
    page.get_by_role("radio", name="Screen 1024 px").check()  # before the server has answered
    expect(page.locator("#option-iterations input")).to_have_value("15")
    expect(page.get_by_role("radio", name="Screen 1024 px")).to_be_checked()
    expect(field).to_have_value("1024")
    own.click()
    field.fill("96")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        boxes = measure_boxes(page, "#option-preset label, #option-sizes label, #option-size input")
        assert [min(box[2:]) >= 44 for box in boxes] == [True] * 10
        assert [len({top for _, top, _, _ in boxes[row : row + 3]}) for row in (3, 6)] == [1, 1], "sizes in two rows"
    page.get_by_role("radio", name="Large 2048 px").check()
    expect(field).to_have_value("2048")
    assert not field.is_visible()
    own.click()
    expect(field).to_have_value("96")
    start_painting(page, is_long=False, iterations=2)
    wait_for_text(page, "96×72 px", "#summary")


def test_times_appear_below_the_presets_and_move_nothing(visitor: Visitor) -> None:
    page = visitor(width=360)
    watched = "#option-preset label, #option-preset span, #option-sizes, #option-strength"
    before = measure_boxes(page, watched)
    times = render.render_times({"draft": 6, "standard": 64, "fine": 4100}, {"512": 64, "A4": 8000, "A3": 90_000})
    page.eval_on_selector("#times", "(element, html) => { element.innerHTML = html; }", times)
    shown = [label.evaluate(SECOND_LINE) for label in page.locator("#option-preset label, #option-sizes label").all()]
    assert shown[:5] == ['"about 6 s"', '"about 1 min"', '"about 1 h 10 min"', '"about 1 min"', '"\xa0"']
    assert shown[6:8] == ['"about 2 h 10 min"', '"about 25 h"']
    after = measure_boxes(page, watched)
    assert [box[1::2] for box in after] == [box[1::2] for box in before]
    for label in page.locator("#option-preset label, #option-sizes label").all():
        assert label.evaluate("label => label.scrollWidth <= label.clientWidth"), "the time fits its button"
    line = page.get_by_text("Expected time: draft about 6 s, standard about 1 min, fine about 1 h 10 min, Small about")
    assert line.evaluate("line => line.closest('[aria-hidden=true], [hidden]') === null")


def test_prints_have_a_size_a_time_and_a_limit(visitor: Visitor, photo: Path, site: Site, tmp_path: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    button, note, field = page.locator("#paint"), page.locator("#limit-note"), page.locator("#option-size input")
    page.get_by_role("radio", name="Print A4 21 × 29.7 cm").check()
    expect(field).to_have_value("A4")
    tile = page.locator("#option-sizes label").nth(3).element_handle()
    page.wait_for_function(f"tile => ({SECOND_LINE})(tile).includes('about ')", arg=tile)
    expect(button).to_be_enabled()
    site.studio.max_seconds = 1
    try:
        page.get_by_role("radio", name="Print A3 29.7 × 42 cm").check()
        wait_for_text(page, "and this server paints at most 1.0 s; choose a smaller size", "#limit-note")
        expect(button).to_be_disabled()
        expect(button).to_have_text("Takes too long")
    finally:
        site.studio.max_seconds = 0
    set_options(page, size="3x2cm", dpi=100, iterations=2)
    expect(button).to_be_enabled()
    expect(note).to_have_text("")
    button.click()
    wait_for_text(page, "105×79 px", "#summary")
    with page.expect_download() as download:
        page.click("#png")
    download.value.save_as(tmp_path / "print.png")
    assert round(images.read_size(tmp_path / "print.png").dpi) == 100


def test_advanced_is_grouped_and_every_field_is_explained(visitor: Visitor) -> None:
    page = visitor()
    page.click("#advanced summary")
    assert page.locator("#advanced-controls h2").all_inner_texts() == ["Picture", "Print", "Effort", "Objective"]
    opacities = page.eval_on_selector_all(
        "#advanced-controls .option .info-text",
        "lines => lines.map(line => [line, line.querySelector('em')].map(each => getComputedStyle(each).opacity))",
    )
    assert opacities == [["1", "0"]] * len(controls.ADVANCED_OPTIONS)
    page.hover("#option-taper .info-text")
    flag = page.locator("#option-taper em")
    page.wait_for_function("code => getComputedStyle(code).opacity === '1'", arg=flag.element_handle())
    assert flag.inner_text() == "0.01 to 2; --taper."


def test_one_click_paints_the_invitation(visitor: Visitor) -> None:
    page = visitor()
    button = page.get_by_role("button", name="Paint this")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        (left, top, wide, high), frame = measure_boxes(page, "#paint-sample, #stage .frame")[::-1]
        assert high >= 44
        assert frame[0] <= left <= frame[0] + frame[2] - wide
        assert frame[1] <= top <= min(740, frame[1] + frame[3]) - high, "on the picture, and seen without scrolling"
    page.click("#style label:has([value=woodcut])")
    set_size(page, 64)
    status = measure_boxes(page, "#status")
    style = page.add_style_tag(content="#paint-sample { display: none !important; }")
    assert measure_boxes(page, "#status") == status, "the button takes no space"
    style.evaluate("style => style.remove()")
    assert button.is_visible()
    button.focus()
    button.press("Enter")
    wait_for_text(page, "Done.")
    assert not button.is_visible()
    wait_for_text(page, "starry-night · draft", "#summary")
    for shown in ("#sample [value=bridge]", "#style [value=starry-night]", "#option-preset [value=draft]"):
        assert page.is_checked(shown)
    assert page.input_value("#option-iterations input") == "15"
