"""Claims about the Paint tab in a real browser, from the upload to the picture that is taken home."""

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import Pixels
from pages import Site, Visitor, ask_for, choose, paint, said
from playwright.sync_api import expect

from styler import images
from styler.cli import main

LONG: dict[str, Any] = {"iterations": 20_000}
"""More than anybody waits for."""


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def downloaded(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    path = folder / str(download.value.suggested_filename)
    download.value.save_as(path)
    return path


def test_a_picture_is_watched_stopped_compared_and_taken_home(
    visitor: Visitor, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visitor()
    choose(page, photo)
    paint(page, **LONG, size=128)
    seen = {page.get_attribute("#stage img", "src")}
    for _ in range(2):
        page.wait_for_function("was => !was.includes(document.querySelector('#stage .working img').src)", arg=[*seen])
        seen.add(page.get_attribute("#stage img", "src"))
    said(page, "iteration")
    page.click("#keep")
    page.wait_for_selector("#slider img")
    said(page, "Stopped; this is the best of it.")
    assert page.locator("#slider img").count() == 2

    png = downloaded(page, "#png", tmp_path)
    assert png.name == "holiday.starry-night.png"
    assert main(["inspect", str(png), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["width"], record["height"], record["stopped"]) == (128, 96, True)
    assert images.read_image(downloaded(page, "#jpeg", tmp_path)).width == 128
    page.click("#deeper")
    for kind in ("png", "tiff"):
        deep = images.read_image(downloaded(page, f"#deep-{kind}", tmp_path))
        assert len(np.unique(deep.pixels)) > 256  # more tones than 8 bit has
        assert np.abs(deep.pixels - images.read_image(png).pixels).max() < 0.6 / 255


def test_losses_history_continue_and_another_seed(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    choose(page, photo)
    paint(page, is_long=False, iterations=30, size=128)
    said(page, "Done.")
    page.click("#chart > button")
    page.locator("#losses polyline").nth(6).wait_for(state="attached")  # content and every style layer
    page.click("#again")
    said(page, "seed 1", "#used")
    page.click("#onward")
    page.locator("#history button").nth(2).wait_for()
    page.locator("#history button").first.click()
    said(page, "seed 0", "#used")


def test_settings_come_back_from_a_picture(visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    page = visitor()
    choose(page, photo)
    paint(page, is_long=False, iterations=3, size=64, seed=77)
    said(page, "Done.")
    png = downloaded(page, "#png", tmp_path)
    page = visitor()
    ask_for(page)
    page.set_input_files("#source input[type=file]", png)
    said(page, "The settings of holiday.starry-night.png are set")
    expect(page.locator("#option-seed input")).to_have_value("77")
    expect(page.locator("#option-iterations input")).to_have_value("3")


def test_a_wrong_file_shows_its_sentence_and_names_it(visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "holiday.jpg"
    wrong.write_bytes(b"this is a text")
    page = visitor()
    page.set_input_files("#content input[type=file]", wrong)
    alert = page.locator("#status [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("Cannot read 'holiday.jpg': it is text, not a picture")
    choose(page, photo)  # and it goes on


def test_too_many_bytes_are_refused_in_the_browser(visitor: Visitor, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2_100_000))
    page = visitor()
    page.set_input_files("#content input[type=file]", big)
    page.get_by_text("maximum allowed size").first.wait_for()


def test_two_visitors_queue_and_both_finish_and_a_third_is_told(visitor: Visitor, photo: Path, site: Site) -> None:
    first, second, third = visitor(), visitor(), visitor()
    for page in (first, second, third):
        choose(page, photo)
        ask_for(page, iterations=20_000 if page is first else 3, size=128)
    first.click("#paint")
    first.wait_for_selector("#stage .working img")
    said(first, "of 20000")  # and not of the default number, which is soon done
    second.click("#paint")
    said(second, "You are next")
    third.click("#paint")
    said(third, "The queue is full; try again in a few minutes.")
    assert third.locator("#stage img[alt='Your photo, holiday.png']").is_visible()
    first.click("#keep")
    said(first, "Stopped; this is the best of it.")
    said(second, "Done.")
    third.click("#paint")
    said(third, "Done.")


@pytest.mark.parametrize("way", ["reload", "close", "discard"])
def test_leaving_frees_the_device_at_once(visitor: Visitor, photo: Path, site: Site, way: str) -> None:
    page = visitor()
    choose(page, photo)
    paint(page, **LONG)
    assert site.is_painting
    if way == "reload":
        page.reload()
    elif way == "close":
        page.close()
    else:
        page.click("#discard")
    site.wait_until_idle()
    again = visitor()
    choose(again, photo)
    paint(again, is_long=False, iterations=3, size=64)
    said(again, "Done.")


def test_what_a_visitor_had_is_gone_with_the_tab(visitor: Visitor, photo: Path, site: Site) -> None:
    page = visitor()
    choose(page, photo)
    paint(page, is_long=False, iterations=3, size=64)
    said(page, "Done.")
    assert list(site.studio.visits.root.rglob("holiday*"))
    page.close()
    due = time.monotonic() + 60
    while list(site.studio.visits.root.rglob("holiday*")):
        assert time.monotonic() < due
        time.sleep(0.05)


def test_keys_paint_and_stop_and_a_late_setting_says_so(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    choose(page, photo)
    ask_for(page, **LONG)
    page.locator("body").press("Enter")
    page.wait_for_selector("#stage .working img")
    page.fill("#option-seed input", "5")
    page.get_by_text("Applies to the next picture.").wait_for()
    page.locator("body").press("Escape")
    said(page, "Stopped; this is the best of it.")


def test_two_paintings_are_mixed_by_weight(visitor: Visitor, photo: Path, tmp_path: Path, pixels: Pixels) -> None:
    own = images.write_file(tmp_path / "mine.png", images.encode_image(pixels(80, 80, 5)))
    page = visitor()
    choose(page, photo)
    page.set_input_files("#own input[type=file]", own)
    page.wait_for_selector("#own-shown img[alt='mine.png']")
    page.click("#mix > button")
    page.locator("#also label").nth(1).click()
    page.get_by_label("How much of").first.wait_for()
    paint(page, is_long=False, iterations=3, size=64)
    said(page, "mine + ", "#used")


def test_many_pictures_fill_the_gallery_and_a_bad_one_fails_alone(
    visitor: Visitor, photo: Path, tmp_path: Path, pixels: Pixels
) -> None:
    other = images.write_file(tmp_path / "other.png", images.encode_image(pixels(70, 80, 3)))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    page = visitor()
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-contents input[type=file]", [photo, bad, other])
    page.locator("#batch-contents .file-preview tr").nth(2).wait_for()
    page.fill("#batch-size input", "64")
    page.press("#batch-size input", "Tab")
    page.click("#batch-paint")
    said(page, "2 of 3 done, 1 failed.", "#batch-status")
    assert page.locator("#batch-rows li.done").count() == 2
    assert "Cannot read 'bad.png'" in page.inner_text("#batch-rows li.failed")
    page.locator("#batch-gallery img").nth(1).wait_for()
    archive = downloaded(page, "#batch-zip", tmp_path)
    with zipfile.ZipFile(archive) as pack:
        assert sorted(pack.namelist()) == [
            "contact-sheet.jpg",
            "holiday.starry-night.png",
            "other.starry-night.png",
        ]
        assert images.read_image(pack.read("other.starry-night.png")).width == 64


def test_a_batch_stops_and_keeps_what_is_done(visitor: Visitor, photo: Path, site: Site) -> None:
    page = visitor()
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-contents input[type=file]", photo)
    page.locator("#batch-contents .file-preview tr").first.wait_for()
    for index in range(3):
        page.locator("#batch-style input").nth(index).check(force=True)
    page.fill("#batch-size input", "512")
    page.press("#batch-size input", "Tab")
    page.click("#batch-paint")
    page.wait_for_selector("#batch-rows li.painting")
    page.click("#batch-stop")
    said(page, "not painted", "#batch-status")
    site.wait_until_idle()
