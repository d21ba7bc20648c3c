"""A server for browser tests, and the actions of a visitor."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from ui import server
from ui.server import ServerConfig
from ui.studio import Studio

TIMEOUT = 60_000
"""Milliseconds to wait for anything on the page; the machine may be busy."""

MEASURE = """(selector) => [...document.querySelectorAll(selector)].map((image) => {
  const box = image.getBoundingClientRect();
  let [left, right, top, bottom] = [0, innerWidth, -scrollY, document.documentElement.scrollHeight - scrollY];
  for (let element = image.parentElement; element; element = element.parentElement) {
    if (getComputedStyle(element).overflow === "visible") continue;
    const clip = element.getBoundingClientRect();
    [left, right] = [Math.max(left, clip.left), Math.min(right, clip.right)];
    [top, bottom] = [Math.max(top, clip.top), Math.min(bottom, clip.bottom)];
  }
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const fit = getComputedStyle(image).objectFit;
  const [x, y] = [box.width / width, box.height / height];
  const scale = { contain: Math.min(x, y), "scale-down": Math.min(x, y, 1), cover: Math.max(x, y) }[fit];
  const drawn = [(scale ?? x) * width, (scale ?? y) * height];
  return {
    natural: width / height, drawn: drawn, spare: Math.min(box.width - drawn[0], box.height - drawn[1]),
    hidden: Math.max(left - box.left, box.right - right, top - box.top, box.bottom - bottom),
  };
})"""
"""Script that measures how images are drawn, and how much of each is hidden by the edges of what contains it."""

Visitor = Callable[..., Page]


@dataclass
class Site:
    """A running server."""

    address: str
    studio: Studio

    @property
    def is_painting(self) -> bool:
        return any(session.is_painting for session in [*self.studio.sessions._open.values()])

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until nothing is painted or queued; work that is not stopped would take far longer."""
        began = time.monotonic()
        while self.is_painting or self.studio.thread.is_busy:
            assert time.monotonic() - began < seconds, "a picture is still being painted"
            time.sleep(0.01)


@contextmanager
def serve(config: ServerConfig) -> Iterator[Site]:
    """Serve the page on a free port, in a thread, until the end of the block."""
    studio = Studio(config.options, has_previews=config.has_previews, max_seconds=config.max_seconds)
    app = server.make_server(studio, config)
    with server.open_listener("127.0.0.1", 0) as listener:
        uvicorn_server = server.PageServer(app)
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not studio.is_ready:
                assert thread.is_alive(), "the server ended"
                time.sleep(0.02)
            yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", studio)
        finally:
            uvicorn_server.should_exit = True
            thread.join()


def upload_photo(page: Page, photo: Path) -> None:
    """Upload a photo and wait until it is shown."""
    page.set_input_files("#content input[type=file]", photo)
    page.wait_for_selector(f'#stage img[alt="Your photo, {photo.name}"]')


def set_size(page: Page, size: int | str, prefix: str = "option") -> None:
    """Type a size in the field that the last of the sizes shows."""
    page.click(f"#{prefix}-sizes label:last-of-type")
    page.fill(f"#{prefix}-size input", str(size))
    page.press(f"#{prefix}-size input", "Tab")


def set_options(page: Page, **settings: Any) -> None:
    """Set the size, and options in the Advanced section."""
    if "size" in settings:
        set_size(page, settings.pop("size"))
    if not page.locator("#option-iterations").is_visible():
        page.click("#advanced summary")
    for name, value in settings.items():
        page.fill(f"#option-{name} input", str(value))
        page.press(f"#option-{name} input", "Tab")


def start_painting(page: Page, *, is_long: bool = True, **settings: Any) -> None:
    """Set options and click Paint; wait for the first live view if the work is long enough to show one."""
    if settings:
        set_options(page, **settings)
    page.click("#paint")
    if is_long:
        page.wait_for_selector("#stage .working img")


def wait_for_text(page: Page, text: str, selector: str = "#status") -> None:
    """Wait until an element contains a text; if it never does, fail with the text that it contains."""
    try:
        page.locator(selector, has_text=text).wait_for()
    except PlaywrightTimeout as problem:
        actual = page.locator(selector).inner_text(timeout=1000)
        raise AssertionError(f"{selector} never contained {text!r}, but {actual!r}") from problem


def check_whole(page: Page, selector: str, ratio: float, count: int = 1) -> None:
    """Check, on a desktop and on a phone, that images are drawn in their own proportions and can be seen whole."""
    page.locator(selector).last.scroll_into_view_if_needed()  # some are loaded only then
    page.wait_for_function(
        """([selector, count]) => {
          const found = [...document.querySelectorAll(selector)];
          return found.length === count && found.every((image) => image.naturalWidth);
        }""",
        arg=[selector, count],
    )
    for width, height in ((360, 740), (1280, 900)):
        page.set_viewport_size({"width": width, "height": height})
        for image in page.evaluate(MEASURE, selector):
            assert image["natural"] == pytest.approx(ratio, rel=0.04), (selector, image)
            assert image["drawn"][0] / image["drawn"][1] == pytest.approx(image["natural"], rel=0.02), (selector, image)
            assert image["spare"] > -1, (selector, image)
            assert image["hidden"] < 1, (selector, image)
            assert max(image["drawn"]) > 40, (selector, image)
