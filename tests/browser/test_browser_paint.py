"""Tests of the page in a real browser, from the upload to the downloaded picture."""

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import Pixels
from pages import Site, Visitor, set_options, set_size, start_painting, upload_photo, wait_for_text
from playwright.sync_api import expect

from styler import images
from styler.cli import main
from ui.session import Session

LONG: dict[str, Any] = {"iterations": 20_000}
"""More iterations than any test waits for."""


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def download_file(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    path = folder / str(download.value.suggested_filename)
    download.value.save_as(path)
    return path


def test_a_picture_is_painted_stopped_compared_and_downloaded(
    visitor: Visitor, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visitor()
    upload_photo(page, photo)
    start_painting(page, **LONG, size=128)
    seen = {page.get_attribute("#stage img", "src")}
    for _ in range(2):
        page.wait_for_function("was => !was.includes(document.querySelector('#stage .working img').src)", arg=[*seen])
        seen.add(page.get_attribute("#stage img", "src"))
    wait_for_text(page, "iteration")
    page.click("#stop")
    page.wait_for_selector("#slider img")
    wait_for_text(page, "Stopped; this is the best picture so far.")
    assert page.locator("#slider img").count() == 2

    png = download_file(page, "#png", tmp_path)
    assert png.name == "holiday.starry-night.png"
    assert main(["inspect", str(png), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["width"], record["height"], record["stopped"]) == (128, 96, True)
    assert images.read_image(download_file(page, "#jpeg", tmp_path)).width == 128
    page.click("#deep")
    for kind in ("png", "tiff"):
        deep = images.read_image(download_file(page, f"#deep-{kind}", tmp_path))
        assert len(np.unique(deep.pixels)) > 256  # more tones than 8 bit has
        assert np.abs(deep.pixels - images.read_image(png).pixels).max() < 0.6 / 255


def test_losses_history_continue_and_retry(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    start_painting(page, is_long=False, iterations=30, size=128)
    wait_for_text(page, "Done.")
    page.click("#losses > button")
    page.wait_for_selector("#losses-plot svg.marks")
    page.locator("#losses-legend li").nth(6).wait_for()  # content and every style layer
    page.click("#retry")
    wait_for_text(page, "seed 1", "#summary")
    page.click("#continue")
    page.locator("#history button").nth(2).wait_for()
    page.locator("#history button").first.click()
    wait_for_text(page, "seed 0", "#summary")


def test_settings_are_loaded_from_a_picture(visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    start_painting(page, is_long=False, iterations=3, size=64, seed=77)
    wait_for_text(page, "Done.")
    png = download_file(page, "#png", tmp_path)
    page = visitor()
    set_options(page)
    page.set_input_files("#settings-file input[type=file]", png)
    wait_for_text(page, "The settings of holiday.starry-night.png are set")
    expect(page.locator("#option-seed input")).to_have_value("77")
    expect(page.locator("#option-iterations input")).to_have_value("3")


def test_an_unreadable_file_is_reported_by_name(visitor: Visitor, photo: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "holiday.jpg"
    wrong.write_bytes(b"this is text")
    page = visitor()
    page.set_input_files("#content input[type=file]", wrong)
    alert = page.locator("#stage [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("Cannot read 'holiday.jpg': it is text, not a picture")
    upload_photo(page, photo)  # and the page goes on working


def test_a_file_beyond_the_limit_is_refused_in_the_browser(visitor: Visitor, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2_100_000))
    page = visitor()
    page.set_input_files("#content input[type=file]", big)
    wait_for_text(page, "'big.png' has 2.10 MB, more than the limit of 2.00 MB", "#stage")


def test_the_end_is_shown_even_if_the_answer_to_stop_comes_after_it(
    visitor: Visitor, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, stop_work = visitor(), Session.stop_work

    def stop_slowly(session: Session) -> None:
        stop_work(session)
        while session.is_painting:
            time.sleep(0.01)
        time.sleep(0.5)  # the finished picture is shown meanwhile

    upload_photo(page, photo)
    start_painting(page, **LONG)
    expect(page.locator("#paint")).to_be_hidden()
    with monkeypatch.context() as patch, page.expect_response(lambda each: "/run/" in each.url) as answer:
        patch.setattr(Session, "stop_work", stop_slowly)
        page.click("#stop")
        wait_for_text(page, "Stopped; this is the best picture so far.")
    assert answer.value.ok
    page.wait_for_timeout(200)
    wait_for_text(page, "Stopped; this is the best picture so far.")
    expect(page.locator("#paint")).to_be_visible()


def test_a_second_visitor_waits_and_a_third_is_refused(visitor: Visitor, photo: Path, site: Site) -> None:
    first, second, third = visitor(), visitor(), visitor()
    for page in (first, second, third):
        upload_photo(page, photo)
        set_options(page, iterations=20_000 if page is first else 3, size=128)
    first.click("#paint")
    first.wait_for_selector("#stage .working img")
    wait_for_text(first, "of 20000")  # not the default number, which would be done soon
    second.click("#paint")
    wait_for_text(second, "You are next")
    third.click("#paint")
    wait_for_text(third, "The queue is full; try again in a few minutes.")
    assert third.locator("#stage img[alt='Your photo, holiday.png']").is_visible()
    first.click("#stop")
    wait_for_text(first, "Stopped; this is the best picture so far.")
    wait_for_text(second, "Done.")
    third.click("#paint")
    wait_for_text(third, "Done.")


@pytest.mark.parametrize("way", ["reload", "close", "discard"])
def test_leaving_stops_the_work_at_once(visitor: Visitor, photo: Path, site: Site, way: str) -> None:
    page = visitor()
    upload_photo(page, photo)
    start_painting(page, **LONG)
    assert site.is_painting
    if way == "reload":
        page.reload()
    elif way == "close":
        page.close()
    else:
        page.click("#discard")
    site.wait_until_idle()
    again = visitor()
    upload_photo(again, photo)
    start_painting(again, is_long=False, iterations=3, size=64)
    wait_for_text(again, "Done.")


@pytest.mark.parametrize("way", ["reload", "close", "discard"])
def test_who_leaves_while_waiting_makes_room_for_another(visitor: Visitor, photo: Path, site: Site, way: str) -> None:
    first, second, third = visitor(), visitor(), visitor()
    for page in (first, second, third):
        upload_photo(page, photo)
        set_options(page, iterations=20_000 if page is first else 3, size=64)
    first.click("#paint")
    first.wait_for_selector("#stage .working img")
    second.click("#paint")
    wait_for_text(second, "You are next; painting starts in about ")
    if way == "reload":
        second.reload()
    elif way == "close":
        second.close()
    else:
        second.click("#discard")
        wait_for_text(second, "Discarded.")
    due = time.monotonic() + 60
    while site.studio.thread.is_full:
        assert time.monotonic() < due
        time.sleep(0.01)
    third.click("#paint")
    wait_for_text(third, "You are next")
    first.click("#discard")
    wait_for_text(third, "Done.")
    if way == "discard":
        wait_for_text(second, "Discarded.")
        second.click("#paint")
        wait_for_text(second, "Done.")


def test_files_are_removed_with_the_tab(visitor: Visitor, photo: Path, site: Site) -> None:
    page = visitor()
    upload_photo(page, photo)
    start_painting(page, is_long=False, iterations=3, size=64)
    wait_for_text(page, "Done.")
    assert list(site.studio.sessions.root.rglob("holiday*"))
    page.close()
    due = time.monotonic() + 60
    while list(site.studio.sessions.root.rglob("holiday*")):
        assert time.monotonic() < due
        time.sleep(0.05)


def test_keys_paint_and_stop_and_a_late_setting_shows_a_notice(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    upload_photo(page, photo)
    set_options(page, **LONG)
    page.locator("body").press("Enter")
    page.wait_for_selector("#stage .working img")
    page.fill("#option-seed input", "5")
    page.get_by_text("Applies to the next picture.").wait_for()
    page.locator("body").press("Escape")
    wait_for_text(page, "Stopped; this is the best picture so far.")


def test_two_paintings_are_mixed(visitor: Visitor, photo: Path, tmp_path: Path, pixels: Pixels) -> None:
    own = images.write_file(tmp_path / "mine.png", images.encode_image(pixels(80, 80, 5)))
    page = visitor()
    upload_photo(page, photo)
    page.set_input_files("#own-styles input[type=file]", own)
    page.wait_for_selector("#own-thumbnails button[title='mine.png']")
    page.click("#mix summary")
    page.locator("#mixed-styles label").nth(1).click()
    page.get_by_label("Weight of").first.wait_for()
    start_painting(page, is_long=False, iterations=3, size=64)
    wait_for_text(page, "mine + ", "#summary")


def test_a_batch_fills_the_gallery_and_reports_an_unreadable_photo(
    visitor: Visitor, photo: Path, tmp_path: Path, pixels: Pixels
) -> None:
    other = images.write_file(tmp_path / "other.png", images.encode_image(pixels(70, 80, 3)))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    page = visitor()
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-contents input[type=file]", [photo, bad, other])
    page.locator("#batch-contents .file-preview tr").nth(2).wait_for()
    set_size(page, 64, "batch")
    page.click("#batch-paint")
    wait_for_text(page, "2 of 3 done, 1 failed.", "#batch-status")
    assert page.locator("#batch-rows li.done").count() == 2
    assert "Cannot read 'bad.png'" in page.inner_text("#batch-rows li.failed")
    page.locator("#batch-gallery img").nth(1).wait_for()
    archive = download_file(page, "#batch-zip", tmp_path)
    with zipfile.ZipFile(archive) as pack:
        assert sorted(pack.namelist()) == ["contact-sheet.jpg", "holiday.starry-night.png", "other.starry-night.png"]
        assert images.read_image(pack.read("other.starry-night.png")).width == 64


def test_a_batch_that_waits_can_be_stopped(visitor: Visitor, photo: Path, site: Site) -> None:
    first, page = visitor(), visitor()
    upload_photo(first, photo)
    start_painting(first, **LONG)
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-contents input[type=file]", photo)
    page.locator("#batch-contents .file-preview tr").first.wait_for()
    page.click("#batch-paint")
    wait_for_text(page, "You are next", "#batch-status")
    page.click("#batch-stop")
    wait_for_text(page, "Stopped before it began.", "#batch-status")
    page.locator("#batch-stop").wait_for(state="hidden")
    assert site.is_painting
    assert not site.studio.thread.is_full


def test_a_batch_can_be_stopped(visitor: Visitor, photo: Path, site: Site) -> None:
    page = visitor()
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-contents input[type=file]", photo)
    page.locator("#batch-contents .file-preview tr").first.wait_for()
    for index in range(3):
        page.locator("#batch-styles input").nth(index).check(force=True)
    set_size(page, 512, "batch")
    page.click("#batch-paint")
    page.wait_for_selector("#batch-rows li.painting")
    page.click("#batch-stop")
    wait_for_text(page, "not painted", "#batch-status")
    site.wait_until_idle()
