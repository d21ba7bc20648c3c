"""Tests of the form in a real browser: sizes, expected times, the Advanced section, and the picture in one click."""

from pathlib import Path

import pytest
from made import Pixels
from pages import Site, Visitor, set_options, set_size, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Page, expect

from styler import images
from ui import render

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


@pytest.mark.parametrize("width", [1280, 360])
def test_a_size_is_chosen_or_typed_and_painted(visitor: Visitor, photo: Path, width: int) -> None:
    page = visitor(width=width)
    field, sizes = page.locator("#option-size input"), page.locator("#option-sizes label")
    assert not field.is_visible()
    expect(page.get_by_role("radio", name="Small 512 px")).to_be_checked()
    for _, _, wide, high in measure_boxes(page, "#option-preset label, #option-sizes label"):
        assert min(wide, high) >= 44
    assert len({top for _, top, _, _ in measure_boxes(page, "#option-sizes label")}) == 1, "one row"
    page.get_by_role("radio", name="Screen 1024 px").check()
    expect(field).to_have_value("1024")
    sizes.last.click()
    field.fill("96")
    assert measure_boxes(page, "#option-size input")[0][3] >= 44
    page.get_by_role("radio", name="Large 2048 px").check()
    expect(field).to_have_value("2048")
    assert not field.is_visible()
    sizes.last.click()
    expect(field).to_have_value("96")
    upload_photo(page, photo)
    start_painting(page, is_long=False, iterations=2)
    wait_for_text(page, "96×72 px", "#summary")


def test_a_size_that_cannot_be_painted_is_reported(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    for size, message in (("12", "size is 12; it can be 64 to 8192"), ("", "The field 'Size' is empty")):
        set_size(page, size)
        page.click("#paint")
        wait_for_text(page, message)


def test_a_preset_does_not_undo_a_size_chosen_at_once(visitor: Visitor, site: Site) -> None:
    page = visitor()
    set_options(page)
    page.get_by_role("radio", name="draft").check()
    page.get_by_role("radio", name="Screen 1024 px").check()
    expect(page.locator("#option-iterations input")).to_have_value("15")
    expect(page.locator("#option-size input")).to_have_value("1024")
    expect(page.get_by_role("radio", name="Screen 1024 px")).to_be_checked()


def test_times_appear_below_the_presets_and_move_nothing(visitor: Visitor) -> None:
    page = visitor(width=360)
    watched = "#option-preset label, #option-preset span, #option-sizes, #option-strength"
    before = measure_boxes(page, watched)
    times = render.render_times({"draft": 6, "standard": 64, "fine": 4100})
    page.eval_on_selector("#times", "(element, html) => { element.innerHTML = html; }", times)
    shown = [label.evaluate(SECOND_LINE) for label in page.locator("#option-preset label").all()]
    assert shown == ['"about 6 s"', '"about 1 min"', '"about 1 h 10 min"']
    after = measure_boxes(page, watched)
    assert [box[1::2] for box in after] == [box[1::2] for box in before]
    for label in page.locator("#option-preset label").all():
        assert label.evaluate("label => label.scrollWidth <= label.clientWidth"), "the time fits its button"
    line = page.get_by_text("Expected time: draft about 6 s, standard about 1 min, fine about 1 h 10 min")
    assert line.evaluate("line => line.closest('[aria-hidden=true], [hidden]') === null")


def test_advanced_is_grouped_and_every_field_is_explained(visitor: Visitor) -> None:
    page = visitor()
    page.click("#advanced summary")
    assert page.locator("#advanced-controls h2").all_inner_texts() == ["Picture", "Effort", "Objective"]
    fields = page.locator("#advanced-controls .option")
    assert fields.count() > 15
    for field in fields.all():
        line = field.locator(".info-text")
        assert line.evaluate("line => getComputedStyle(line).opacity") == "1"
        assert line.evaluate("line => getComputedStyle(line).position") == "static"
        assert line.locator("code").evaluate("code => getComputedStyle(code).opacity") == "0"
    page.hover("#option-taper .info-text")
    flag = page.locator("#option-taper code")
    page.wait_for_function("code => getComputedStyle(code).opacity === '1'", arg=flag.element_handle())
    assert flag.inner_text() == "0.01 to 2; --taper."


@pytest.mark.parametrize("width", [1280, 360])
def test_one_click_paints_the_invitation(visitor: Visitor, photo: Path, width: int) -> None:
    page = visitor(width=width, height=740)
    button = page.get_by_role("button", name="Paint this")
    ((left, top, wide, high),) = measure_boxes(page, "#paint-sample")
    ((_, picture_top, _, picture_high),) = measure_boxes(page, "#stage .frame")
    assert high >= 44
    assert 0 <= left <= width - wide
    assert picture_top <= top <= min(740, picture_top + picture_high) - high
    page.get_by_role("radio", name="woodcut").first.check(force=True)
    set_size(page, 64)
    page.evaluate("scrollTo(0, 0)")
    below = measure_boxes(page, "#status")
    upload_photo(page, photo)
    assert not button.is_visible()
    page.click("#content button[aria-label=Clear], #content button[aria-label='Remove Image']")
    button.wait_for()
    assert measure_boxes(page, "#status") == below, "the button takes no space"
    button.focus()
    button.press("Enter")
    wait_for_text(page, "Done.")
    assert not button.is_visible()
    wait_for_text(page, "starry-night · draft", "#summary")
    expect(page.locator("#sample input[value=bridge]")).to_be_checked()
    expect(page.locator("#style input[value=starry-night]")).to_be_checked()
    expect(page.get_by_role("radio", name="draft")).to_be_checked()
    expect(page.locator("#option-iterations input")).to_have_value("15")
