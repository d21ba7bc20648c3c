"""Tests of the wall in a browser: tiles turn into the photo in each painting, and one of them is shown large."""

import time
from pathlib import Path

import pytest
from made import Pixels
from pages import Site, Visitor, check_whole, set_options, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Page, Route

from styler import images, library

PAINTINGS = [*library.list_styles()]
TURNED = "[id^=tile-] style"
"""The style rules of tiles that show a preview."""
WATCH_SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""
"""Script that adds up the shifts of the layout that no input caused."""
GET_TILES = "() => [...document.querySelectorAll('#style label')].map((each) => getComputedStyle(each).backgroundImage)"
"""Script that returns what each tile shows."""


@pytest.fixture(scope="module")
def has_previews() -> bool:
    return True


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def answer_late(route: Route) -> None:
    """Let the server answer only when a shift of the layout counts as one that no input caused."""
    time.sleep(0.6)
    route.continue_()


def wait_for_tiles(page: Page, before: list[str]) -> list[str]:
    """Wait until every tile shows a finished preview that is not one of those before, and return what they show."""
    page.wait_for_function(
        f"""(before) => document.querySelectorAll('{TURNED}').length === before.length
            && ({GET_TILES})().every((image) => image.startsWith("url(") && !before.includes(image))
            && !document.querySelector('#wall-note').innerText""",
        arg=before,
    )
    tiles: list[str] = page.evaluate(GET_TILES)
    return tiles


@pytest.mark.parametrize("width", [1280, 360])
def test_the_tiles_turn_into_the_photo_and_a_click_shows_one_large(
    visitor: Visitor, tmp_path: Path, pixels: Pixels, width: int
) -> None:
    page = visitor(width=width, height=900)
    tiles = page.evaluate(GET_TILES)
    page.evaluate(WATCH_SHIFTS)
    page.route("**/upload*", answer_late)
    for height, across in ((120, 60), (60, 120)) if width == 360 else ((90, 90), (60, 180)):
        path = tmp_path / f"{across}.png"
        upload_photo(page, images.write_file(path, images.encode_image(pixels(height, across))))
        tiles = wait_for_tiles(page, tiles)
        assert len({*tiles}) == len(PAINTINGS)
        assert page.inner_text("#wall-note") == ""
        page.locator("#style label").nth(5).click()
        name = f"A preview in the style of {PAINTINGS[5]}"
        page.wait_for_selector(f'#stage .preview img[alt="{name}"]')
        wait_for_text(page, f"A small preview of {PAINTINGS[5]}")
        check_whole(page, "#stage .preview img", across / height)
        page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("() => window.shifts") < 0.05
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [1280, 360])
def test_a_sample_shifts_nothing(visitor: Visitor, width: int) -> None:
    page, samples = visitor(width=width, height=900), [*library.list_contents().values()]
    page.evaluate(WATCH_SHIFTS)
    page.route("**/run/predict", answer_late)
    for index in (0, 2):
        page.locator("#sample label").nth(index).click()
        page.wait_for_selector(f'#stage img[alt="Your photo, {samples[index].name}"]')
        page.wait_for_timeout(300)
    assert page.evaluate("() => window.shifts") < 0.05


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_has_its_place_before_the_head_is_there(visitor: Visitor, width: int) -> None:
    """Gradio mounts the head at any time, also after the rest."""
    page = visitor(width=width, height=900)
    page.wait_for_selector("#head .name")
    find_top = "() => document.querySelector('#paint-sheet').getBoundingClientRect().top"
    top = page.evaluate(find_top)
    page.evaluate("() => document.querySelector('#head').remove()")
    assert page.evaluate(find_top) == top > 0


def test_the_chosen_tile_is_in_sight_on_a_phone(visitor: Visitor) -> None:
    page = visitor(width=360, height=740)
    for name in ("starry-night", PAINTINGS[0], PAINTINGS[-1]):
        place = page.evaluate("() => scrollY")
        page.evaluate("name => document.querySelector(`#style [value=${name}]`).click()", name)
        page.wait_for_function(
            """() => {
              const box = document.querySelector("#style label:has(input:checked)").getBoundingClientRect();
              return box.left >= 0 && box.right <= innerWidth;
            }"""
        )
        assert page.evaluate("() => scrollY") == place, "the page stays where it is"


def test_previews_follow_the_settings_and_wait_while_somebody_paints(visitor: Visitor, site: Site, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    tiles = wait_for_tiles(page, page.evaluate(GET_TILES))
    wait_for_text(page, "draft about", "#times")
    start_painting(page, iterations=20_000, size=128)
    page.fill("#option-strength input[type=number]", "90")
    page.press("#option-strength input[type=number]", "Tab")
    page.wait_for_function(f"() => !document.querySelector('{TURNED}')")  # the paintings are shown again
    page.locator("#style label").nth(3).click()
    assert page.locator("#stage .working img").count() == 1, "a click does not take the live view away"
    assert page.locator(TURNED).count() == 0
    page.click("#discard")
    wait_for_tiles(page, tiles)
    painter = site.studio.load_painter()
    assert painter._scales.bytes <= 32_000_000


def test_a_painting_of_ones_own_is_previewed_and_shown(visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    page = visitor(width=360, height=740)
    upload_photo(page, photo)
    painting = tmp_path / "grandmother.png"
    painting.write_bytes(photo.read_bytes())
    page.set_input_files("#own-styles input[type=file]", painting)
    page.wait_for_selector("#own-thumbnails button")
    page.click("#own-thumbnails button")  # its preview comes before all others
    page.wait_for_selector('#stage .preview img[alt="A preview in the style of grandmother"]')
    box = page.locator("#own-thumbnails button").bounding_box()
    assert box
    assert min(box["width"], box["height"]) >= 44


def test_the_first_tile_that_was_clicked_appears_as_soon_as_it_is_painted(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    set_options(page, seed=7)
    upload_photo(page, photo)
    page.locator("#style label").nth(2).click()
    page.wait_for_selector(f'#stage .preview img[alt="A preview in the style of {PAINTINGS[2]}"]')
    page.locator("#content button").first.click()  # removes the photo
    page.wait_for_selector("#stage .invitation")
    page.wait_for_function(f"() => !document.querySelector('{TURNED}')")
