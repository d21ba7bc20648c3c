"""Tests of what a visitor sees and loses: whole pictures, values typed at once, refused files, and leaving."""

from pathlib import Path

import pytest
from made import Pixels
from pages import Site, Visitor, check_whole, set_options, set_size, start_painting, upload_photo, wait_for_text
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page

from styler import images


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def test_every_picture_is_shown_whole(visitor: Visitor, tmp_path: Path, pixels: Pixels) -> None:
    page = visitor()
    set_options(page, iterations=20_000, size=128)
    for number, (height, width) in enumerate(((128, 32), (64, 64), (32, 128)), start=1):
        ratio = width / height
        name = tmp_path / f"{number}.png"
        upload_photo(page, images.write_file(name, images.encode_image(pixels(height, width))))
        check_whole(page, "#content img", ratio)
        check_whole(page, "#stage img", ratio)
        page.click("#paint")
        page.wait_for_selector("#stage .working img")
        check_whole(page, "#stage .working img", ratio)
        page.click("#stop")
        page.wait_for_selector("#slider img")
        check_whole(page, "#slider img", ratio, 2)
        if number > 1:
            check_whole(page, "#history .grid-container > :last-child img", ratio)


def test_a_value_typed_at_once_is_kept(visitor: Visitor) -> None:
    page = visitor()
    page.click("#advanced summary")
    page.fill("#option-iterations input", "9")
    page.fill("#option-taper input[type=number]", "0.5")
    page.get_by_role("tab", name="Batch").click()
    page.fill("#batch-strength input[type=number]", "33")
    page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 100))")
    assert page.input_value("#batch-strength input[type=number]") == "33"
    page.get_by_role("tab", name="Paint").click()
    assert page.input_value("#option-iterations input") == "9"
    assert page.input_value("#option-taper input[type=number]") == "0.5"


DROP = """([selector, files, text]) => {
  const data = new DataTransfer();
  for (const [name, size, type] of files) data.items.add(new File([new Uint8Array(size)], name, { type }));
  if (text) data.setData("text/uri-list", text);
  const target = document.querySelector(selector);
  const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  target.dispatchEvent(event);
  return event.defaultPrevented;
}"""
"""Script that drops files, each given by its name, size and type, or a text; it returns whether the page took them."""


def test_a_refused_photo_is_named_and_the_one_before_it_stays_and_is_painted(
    visitor: Visitor, photo: Path, tmp_path: Path, pixels: Pixels
) -> None:
    page = visitor()
    frame = "() => document.querySelector('#stage .frame').style.getPropertyValue('--ratio')"
    Image.fromarray((pixels(300, 60) * 255).astype("uint8")).save(tmp_path / "tall.jpg")
    cut = images.write_file(tmp_path / "cut.jpg", (tmp_path / "tall.jpg").read_bytes()[:-2000])
    page.locator("#sample label").nth(2).click()
    page.wait_for_selector('#stage img[alt="Your photo, bridge.jpg"]')
    ratio = page.evaluate(frame)
    page.set_input_files("#content input[type=file]", cut)  # browsers show it, and know its proportions
    wait_for_text(page, "Cannot read 'cut.jpg'", "#status [role=alert]")
    page.wait_for_function("ratio => (" + frame + ")() === ratio", arg=ratio)
    assert page.is_checked("#sample [value=bridge]")
    upload_photo(page, photo)
    for selector, files, text, message in (
        ("#content", [["notes.heic", 9, ""]], "", "Cannot read 'notes.heic'"),  # a type that browsers do not know
        ("#stage", [["huge.png", 2_100_000, "image/png"]], "", "'huge.png' has 2.10 MB, more than the limit"),
        ("body", [["a.png", 9, "image/png"], ["b.png", 9, "image/png"]], "", "One photo is painted at a time"),
        ("#content", [], "https://example.org/cat.jpg", "That is text or a link, not a file"),
    ):
        assert page.evaluate(DROP, [selector, files, text])
        wait_for_text(page, message, "#status [role=alert]")
        assert page.locator('#stage img[alt="Your photo, holiday.png"]').is_visible()
        page.wait_for_selector('#content img[src*="holiday"]')
    set_size(page, 64)
    start_painting(page, is_long=False, iterations=2)
    wait_for_text(page, "64×48 px", "#summary")
    assert page.evaluate(DROP, ["#own-styles", [["huge.png", 2_100_000, "image/png"]], ""])
    wait_for_text(page, "'huge.png' has 2.10 MB", ".alert")


def test_a_photo_is_pasted_anywhere(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    page.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
          document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        [*photo.read_bytes()],
    )
    page.wait_for_selector('#stage img[alt="Your photo, image.png"]')


RELOAD = "setTimeout(() => location.reload(), 0)"


def check_asks(page: Page) -> None:
    """Check that the browser asks before it leaves the page, which then stays."""
    with page.expect_event("dialog") as dialog:
        page.evaluate(RELOAD)
    assert dialog.value.type == "beforeunload"


def test_the_browser_asks_only_before_something_is_lost(visitor: Visitor, photo: Path) -> None:
    page = visitor()
    dialogs: list[Dialog] = []

    def stay(dialog: Dialog) -> None:
        dialogs.append(dialog)
        dialog.dismiss()

    page.on("dialog", stay)
    upload_photo(page, photo)
    with page.expect_navigation():
        page.evaluate(RELOAD)
    assert dialogs == []  # the photo is still where it came from
    page.wait_for_selector("#paint")
    upload_photo(page, photo)
    start_painting(page, iterations=20_000, size=128)
    check_asks(page)
    page.click("#stop")
    wait_for_text(page, "Stopped")
    check_asks(page)
    with page.expect_download():
        page.click("#png")
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-contents input[type=file]", photo)
    page.locator("#batch-contents .file-preview tr").first.wait_for()
    set_size(page, 64, "batch")
    page.click("#batch-paint")
    wait_for_text(page, "1 of 1 done.", "#batch-status")
    page.get_by_role("tab", name="Paint").click()
    check_asks(page)
    page.get_by_role("tab", name="Batch").click()
    with page.expect_download():
        page.click("#batch-zip")
    assert len(dialogs) == 3
    with page.expect_navigation():
        page.evaluate(RELOAD)
    assert len(dialogs) == 3


def test_a_server_that_was_restarted_or_has_removed_the_files_is_reported(
    visitor: Visitor, photo: Path, site: Site
) -> None:
    page = visitor()
    upload_photo(page, photo)
    start_painting(page, is_long=False, iterations=2, size=64)
    page.wait_for_selector("#slider img")
    (picture,) = site.studio.sessions.root.rglob("holiday*.jpg")
    picture.unlink()
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for_text(page, "The connection was interrupted", ".alert")
    page.evaluate("window.gradio_config.app_id = 1; dispatchEvent(new Event('online'))")
    wait_for_text(page, "The server was restarted", ".alert[data-kind=restart]")


def test_the_page_speaks_one_language_and_takes_a_comma(browser: Browser, site: Site) -> None:
    context = browser.new_context(locale="de-DE")
    page = context.new_page()
    page.goto(site.address)
    page.click("#advanced summary")
    assert page.evaluate("document.documentElement.lang") == "en"
    page.focus("#option-learning_rate input")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.setData("text", "0,05");
          document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }"""
    )
    assert page.input_value("#option-learning_rate input") == "0.05"
    context.close()
