"""Tests of parts of the photo in a browser: chips and masks, drawing by touch, another painting for a part."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made import Pixels
from pages import Site, Visitor, set_size, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Page, expect
from torch import Tensor

from styler import images
from styler.regions.find import MaskFinder

GET_SIZE = "(frame) => [frame.offsetLeft, frame.offsetWidth, frame.offsetHeight]"
"""Script that returns the place of a frame in its row and its size."""


@pytest.fixture(autouse=True)
def finder() -> Iterator[None]:
    """Make the left half of every photo its subject, without any face."""

    def find_subject(_self: MaskFinder, photo: Tensor, _digest: str = "") -> Tensor:
        mask = torch.zeros(1, 1, *photo.shape[-2:])
        mask[..., : photo.shape[-1] // 2] = 1
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskFinder, "subject", find_subject)
        patch.setattr(MaskFinder, "faces", lambda *_: None)
        yield


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(240, 320)))


def get_chips(page: Page, group: str = "#protect") -> list[str]:
    """Return the labels of the chips that are chosen."""
    texts = page.locator(f"{group} label:has(input:checked)").all_inner_texts()
    return [text.strip() for text in texts]


def test_a_chip_shows_its_mask_and_the_part_is_kept(visitor: Visitor, site: Site, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    assert get_chips(page) == []
    amount = page.locator("#protect-amount")
    expect(amount).to_be_hidden()
    tops = page.evaluate("() => ['#area-note', '#draw'].map(id => document.querySelector(id).getBoundingClientRect())")
    assert tops[1]["top"] - tops[0]["bottom"] == 16, "it leaves no gap"
    size = page.eval_on_selector("#stage .frame", GET_SIZE)
    page.locator("#protect input").nth(1).focus()
    page.keyboard.press("Space")  # Subject
    page.wait_for_selector('#stage .mask[alt="the subject, colored"]')
    expect(amount).to_be_visible()
    assert page.eval_on_selector("#stage .frame", GET_SIZE) == size, "nothing jumps"
    page.get_by_label("Faces", exact=True).check()
    wait_for_text(page, "No face was found in this photo.", "#area-note")
    page.get_by_label("Nothing", exact=True).check()
    page.wait_for_function("() => document.querySelectorAll('#protect input:checked').length === 1")
    assert get_chips(page) == ["Nothing"]
    expect(amount).to_be_hidden()
    page.wait_for_function("() => !document.querySelector('#stage .mask')")
    page.get_by_label("Subject", exact=True).check()
    page.wait_for_selector("#stage .mask")
    assert get_chips(page) == ["Subject"]
    for box in page.locator("#protect label").all():
        assert (box.bounding_box() or {"height": 0})["height"] >= 44
    set_size(page, 64)
    start_painting(page, is_long=False, iterations=3)
    wait_for_text(page, "Done.")
    wait_for_text(page, "the subject kept at 70", "#summary")


def drag(page: Page, points: list[tuple[float, float]]) -> None:
    """Draw with a finger from point to point, in shares of the board's photo."""
    box = page.locator("#board canvas").bounding_box()
    assert box is not None
    places = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": places[:1]})
    for place in places[1:]:
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_draws_what_is_kept_on_a_phone(visitor: Visitor, site: Site, photo: Path) -> None:
    page = visitor(width=360, height=740)
    upload_photo(page, photo)
    page.get_by_label("My drawing", exact=True).check()
    page.wait_for_selector("#board dialog[open] canvas")
    done, undo = page.locator("[data-pen=done]"), page.locator("[data-pen=undo]")
    assert done.is_disabled()
    page.click("[data-pen=cancel]")
    page.wait_for_function("() => !document.querySelector('#protect input:checked')")
    page.click("#draw")
    page.wait_for_selector("#board dialog[open] canvas")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for button in page.locator("#board button").all():
        assert (button.bounding_box() or {"height": 0})["height"] >= 44
    drag(page, [(0.2, 0.8), (0.8, 0.8)])
    drag(page, [(0.2, 0.2), (0.5, 0.2), (0.8, 0.2)])
    page.click("[data-pen=eraser]")
    drag(page, [(0.2, 0.2), (0.8, 0.2)])
    undo.click()
    undo.click()
    done.click()
    page.wait_for_selector("#area-note .small .mask")
    assert get_chips(page) == ["My drawing"]
    (session,) = [each for each in site.studio.sessions._open.values() if each.drawing]
    assert session.drawing is not None
    mask = site.studio.read_mask(session.drawing[1])[0, 0]
    assert mask.shape == (240, 320)
    assert mask[182:202, 70:250].min() > 0.9
    assert mask[:120].max() == 0, "the stroke and its erasure were undone"
    set_size(page, 64)
    start_painting(page, is_long=False, iterations=3)
    wait_for_text(page, "what was drawn kept at 70", "#summary")
    photo.write_bytes(photo.read_bytes()[:999])
    page.set_input_files("#content input[type=file]", photo)
    wait_for_text(page, "Cannot read 'holiday.png'")
    page.click("#draw")  # goes on from what was drawn
    page.wait_for_selector("#board dialog[open] canvas")
    assert done.is_enabled()
    page.keyboard.press("Escape")
    assert get_chips(page) == ["My drawing"]


def test_the_background_takes_another_painting(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    page.click("#other summary")
    others = page.locator("#region-style, #own-region-style")
    assert [each.is_visible() for each in others.all()] == [False, False]
    page.get_by_label("The background", exact=True).check()
    page.wait_for_selector('#stage .mask[alt="the background, colored"]')
    assert [each.is_visible() for each in others.all()] == [True, True]
    set_size(page, 64)
    start_painting(page, is_long=False, iterations=3)
    wait_for_text(page, "Choose the other painting for the background")
    page.locator("#region-style label").nth(2).click()
    page.click("#paint")
    wait_for_text(page, "for the background", "#summary")
