"""Tests of what can be done with a finished picture: compare, blend, magnify, copy, share, and use it as the photo.

One visitor has painted a portrait, a square and a panorama; most tests look at these.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made import Pixels
from pages import TIMEOUT, Site, Visitor, check_whole, set_options, upload_photo
from playwright.sync_api import Browser, Page, expect

from styler import images
from ui.session import FinishedPicture

SHAPES = {"portrait": (256, 64), "square": (96, 96), "panorama": (128, 512)}
"""Heights and widths; the panorama has more pixels than a phone is wide."""
NUMBERS = [*enumerate(SHAPES, start=1)]
VIEWPORTS = ((1280, 900), (360, 740))
SHARING = """
  navigator.canShare = (data) => data.files[0].type === "image/png";
  navigator.share = async (data) => { window.shared = data.files[0].name; };
"""
"""Script for a browser that can share files."""
BOX = """(selector) => {
  const box = document.querySelector(selector).getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
}"""


@pytest.fixture(scope="module")
def page(browser: Browser, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Open the page as a visitor who has painted a picture of each shape."""
    folder, errors = tmp_path_factory.mktemp("photos"), []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(SHARING)
    page.goto(site.address)
    page.wait_for_selector("#paint")
    set_options(page, iterations=2)
    for number, name in NUMBERS:
        height, width = SHAPES[name]
        grain = np.random.default_rng(number).random((height, width, 3), np.float32)
        photo = images.write_file(folder / f"{name}.png", images.encode_image(0.3 + 0.4 * grain))
        set_options(page, size=max(height, width))
        upload_photo(page, photo)
        page.click("#paint")
        page.wait_for_selector(f'.view[data-picture="{number}"]')
        page.wait_for_selector("#finished")
    yield page
    context.close()
    assert errors == []


def show(page: Page, number: int) -> None:
    """Show a picture of the session as it is when it comes onto the stage."""
    shown = page.get_attribute(".view", "data-picture")
    for each in (number % len(SHAPES) + 1, number) if shown == str(number) else (number,):
        page.locator("#history .thumbnail-item").nth(each - 1).click()
        page.wait_for_selector(f'.view[data-picture="{each}"]')
        page.wait_for_selector("#finished")
        page.wait_for_function("document.querySelector('#slider input').value === '50'")
    for image in ("before", "after"):
        page.wait_for_function("name => document.querySelector(`.view .${name}`).naturalWidth", arg=image)


def get_picture(site: Site, number: int) -> FinishedPicture:
    """Return a picture of the one session that has several."""
    (session,) = (each for each in site.studio.sessions._open.values() if len(each.pictures) >= number)
    return session.pictures[number - 1]


def get_box(page: Page, selector: str) -> list[float]:
    box: list[float] = page.evaluate(BOX, selector)
    return box


def check_width(page: Page) -> None:
    width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner


@pytest.mark.parametrize(("number", "name"), NUMBERS)
def test_both_pictures_are_whole_over_each_other_and_side_by_side(page: Page, number: int, name: str) -> None:
    height, width = SHAPES[name]
    show(page, number)
    check_whole(page, "#slider img", width / height, 2)
    page.click("#side")
    expect(page.locator("#side")).to_have_attribute("aria-pressed", "true")
    check_whole(page, "#slider img", width / height, 2)
    for size in VIEWPORTS:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        first, second = get_box(page, "#slider .before"), get_box(page, "#slider .after")
        assert first[2:] == pytest.approx(second[2:], abs=0.1)
        apart = second[0] - first[0] - first[2], second[1] - first[1] - first[3]
        assert max(apart) > 0, "one covers the other"
        button = get_box(page, ".screen")
        assert button[0] + button[2] <= second[0] + second[2], "the buttons are on a picture"
        check_width(page)
    page.click("#side")
    assert get_box(page, "#slider .before") == get_box(page, "#slider .after")


@pytest.mark.parametrize("size", VIEWPORTS, ids=lambda size: str(size[0]))
@pytest.mark.parametrize(("number", "name"), NUMBERS)
def test_a_blend_is_shown_at_once_and_moves_nothing(page: Page, number: int, name: str, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show(page, number)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    parts = ("#slider", "#png", "#blend", "#copy", "#summary")
    page.locator("#blend").scroll_into_view_if_needed()
    before = [get_box(page, part) for part in parts]
    expect(page.locator("#repaint-blend")).to_be_hidden()
    for percent, strength in ((63, 32), (0, 0), (99, 50)):
        page.fill("#blend", str(percent))
        opacity = page.eval_on_selector("#slider .after", "image => getComputedStyle(image).opacity")
        assert float(opacity) == pytest.approx(percent / 100)
        expect(page.locator("#repaint-blend")).to_have_text(f"Repaint at strength {strength}")
        expect(page.locator("#save-blend")).to_be_visible()
    assert page.input_value("#slider input") == "0", "the whole picture is blended"
    assert [get_box(page, part) for part in parts] == before
    assert [url for url in requests if "app_id" not in url and "file=" not in url] == []
    check_width(page)
    page.fill("#blend", "100")
    expect(page.locator("#side")).to_be_visible()
    assert page.input_value("#slider input") == "50", "the line is back"


@pytest.mark.parametrize(("number", "name"), NUMBERS)
def test_a_blend_is_downloaded_at_full_size(page: Page, site: Site, tmp_path: Path, number: int, name: str) -> None:
    show(page, number)
    page.fill("#blend", "63")
    with page.expect_download() as download:
        page.click("#save-blend")
    assert download.value.suggested_filename == f"{name}.starry-night.blend63.png"
    download.value.save_as(tmp_path / "blend.png")
    blend, picture = images.read_image(tmp_path / "blend.png"), get_picture(site, number)
    photo, painted = (images.read_image(path).pixels for path in (picture.photo, picture.png))
    assert blend.pixels.shape == (*SHAPES[name], 3)
    assert np.abs(blend.pixels - (0.37 * photo + 0.63 * painted)).max() < 4 / 255


def test_a_picture_is_compared_with_an_earlier_one(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    show(page, 2)
    assert page.locator("#compare-with option").all_inner_texts() == ["the photo", "picture 1", "picture 3"]
    photo = page.get_attribute("#slider .before", "src")
    page.select_option("#compare-with", "3")
    before = page.locator("#slider .before")
    expect(before).to_have_attribute("alt", "Picture 3")
    assert str(before.get_attribute("src")).endswith(get_picture(site, 3).jpeg.name)
    page.wait_for_function("document.querySelector('#slider .before').naturalWidth === 512")
    assert get_box(page, "#slider .before") == get_box(page, "#slider .after")
    page.fill("#blend", "40")  # a blend is one with the photo
    expect(before).to_have_attribute("src", str(photo))
    expect(page.locator("#compare-with")).to_have_value("")


@pytest.mark.parametrize("size", VIEWPORTS, ids=lambda size: str(size[0]))
@pytest.mark.parametrize(("number", "name"), NUMBERS)
def test_the_magnifier_shows_actual_pixels(page: Page, number: int, name: str, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show(page, number)
    page.click(".loupe")
    page.locator(".loupe").evaluate("() => scrollTo(0, 0)")
    left, top, width, height = get_box(page, "#slider .after")
    natural = SHAPES[name][1]
    for x, y in ((0.3, 0.8), (0.02, 0.98)):
        page.mouse.move(left + x * width, top + y * height)
        lens = get_box(page, ".lens")
        assert lens[0] + lens[2] / 2 == pytest.approx(left + x * width, abs=1)
        assert lens[1] + lens[3] / 2 == pytest.approx(top + y * height, abs=1)
        assert lens[2:] == pytest.approx([min(176, max(88, height))] * 2), "it does not cover what is around a panorama"
        style = page.eval_on_selector(".lens", "({ style }) => [style.backgroundSize, style.backgroundPosition]")
        drawn, place = ([float(part.removesuffix("px")) for part in text.split()] for text in style)
        zoom = drawn[0] / natural
        assert zoom == 1 if width < 0.6 * natural else zoom >= 2 * width / natural
        assert (lens[2] / 2 - place[0]) / drawn[0] == pytest.approx(x, abs=0.02)
        assert (lens[2] / 2 - place[1]) / drawn[1] == pytest.approx(y, abs=0.02)
    check_width(page)
    page.mouse.down()
    page.mouse.move(left + width / 4, top + height / 2)
    page.mouse.up()
    assert page.input_value("#slider input") == "50", "the line stays"
    page.mouse.move(2, 2)
    expect(page.locator(".lens")).to_be_hidden()


def test_the_magnifier_obeys_keys_and_fingers(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    show(page, 2)
    page.focus(".loupe")
    page.keyboard.press("Space")
    expect(page.locator(".loupe")).to_have_attribute("aria-pressed", "true")
    first = get_box(page, ".lens")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    second = get_box(page, ".lens")
    left, top, width, height = get_box(page, "#slider .after")
    assert [second[0] - first[0], second[1] - first[1]] == pytest.approx([width / 50, height / 50], abs=0.5)
    assert page.get_attribute(".view", "data-picture") == "2", "the keys do not walk through the pictures, too"
    x, y = left + width / 2, top + height * 0.9
    page.dispatch_event(
        "#slider", "pointermove", {"pointerType": "touch", "clientX": x, "clientY": y, "bubbles": True, "buttons": 1}
    )
    lens = get_box(page, ".lens")
    assert lens[0] + lens[2] / 2 == pytest.approx(x, abs=1)
    assert lens[1] + lens[3] < y, "the lens is above the finger"
    page.keyboard.press("Space")
    expect(page.locator(".lens")).to_be_hidden()


@pytest.mark.parametrize("height", [900, 720])
def test_the_end_of_the_column_is_reached_without_scrolling_past_the_options(page: Page, height: int) -> None:
    page.set_viewport_size({"width": 1280, "height": height})
    show(page, 2)
    if not page.locator("#option-iterations").is_visible():
        page.click("#advanced summary")
    column, whole = page.evaluate("[document.querySelector('#picture').offsetHeight, document.body.scrollHeight]")
    assert height < column < whole / 3
    page.wait_for_function("document.querySelector('#picture').style.getPropertyValue('--column-height')")
    for top in (column - height + 150, whole):
        page.evaluate("top => scrollTo(0, top)", top)
        assert sum(get_box(page, "#losses")[1::2]) <= height
    page.evaluate("() => scrollTo(0, 0)")


def test_fingers_and_the_tab_key_reach_everything(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    show(page, 2)
    for blend in ("100", "63"):
        page.fill("#blend", blend)
        heights = page.evaluate(
            """() => [...document.querySelectorAll("#finished :is(button, a, select, input), .corner button")]
                .filter((element) => element.checkVisibility({ visibilityProperty: true }))
                .map((element) => [element.id || element.className, element.getBoundingClientRect().height])"""
        )
        assert len(heights) > 10
        assert [name for name, height in heights if height < 44] == []
    reached = []
    page.focus("#png")
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    wanted = ["continue", "retry", "blend", "repaint-blend", "save-blend", "jpeg", "deep", "copy", "share", "reuse"]
    assert [name for name in reached if name in wanted] == wanted


def test_a_picture_is_copied_and_shared_or_a_sentence_says_why_not(page: Page) -> None:
    show(page, 3)
    said = page.locator(".said")
    page.click("#copy")
    expect(said).to_have_text("The picture is on the clipboard.")
    kinds = page.evaluate("async () => (await navigator.clipboard.read()).flatMap((item) => item.types)")
    assert kinds == ["image/png"]
    page.click("#share")
    page.wait_for_function("window.shared === 'panorama.starry-night.png'")
    page.evaluate(
        "() => { navigator.clipboard.write = () => Promise.reject(new DOMException('', 'NotAllowedError')); }"
    )
    page.click("#copy")
    expect(said).to_contain_text("The browser did not let the page copy the picture; allow it")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click("#copy")
    expect(said).to_have_text("The browser lets only pages with HTTPS copy a picture; download it instead.")
    page.evaluate("() => { window.OffscreenCanvas = undefined; }")
    page.fill("#blend", "50")
    page.click("#save-blend")
    expect(said).to_contain_text("The browser could not make the blend")


def test_a_blend_is_painted_and_the_picture_becomes_the_photo(
    visitor: Visitor, site: Site, tmp_path: Path, pixels: Pixels
) -> None:
    page = visitor()
    page.add_init_script("navigator.canShare = undefined")
    page.reload()
    upload_photo(page, images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(60, 80))))
    set_options(page, iterations=2, size=80, seed=5)
    page.fill("#option-strength input[type=number]", "40")
    page.press("#option-strength input[type=number]", "Tab")
    page.click("#paint")
    page.wait_for_selector("#finished")
    expect(page.locator("#share")).to_be_hidden()
    page.fill("#option-seed input", "9")  # only the settings of the picture count
    page.fill("#blend", "63")
    page.click("#repaint-blend")
    page.wait_for_selector('.view[data-picture="2"]')
    page.wait_for_selector("#finished")
    expect(page.locator("#option-strength input[type=number]")).to_have_value("25")
    (session,) = (each for each in site.studio.sessions._open.values() if len(each.pictures) == 2)
    first, second = (picture.request.options for picture in session.pictures)
    assert (first.strength, first.seed) == (40, 5)
    assert second == first.replace(strength=25)
    page.click("#reuse")
    page.wait_for_selector('#stage img[alt="Your photo, holiday.starry-night.png"]')
    assert session.pictures[1].png.read_bytes() in [path.read_bytes() for path in session.uploads if path.exists()]
