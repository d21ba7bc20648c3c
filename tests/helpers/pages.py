"""A server for browser tests, and the actions of a visitor."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from ui import server
from ui.server import ServerConfig
from ui.studio import Studio

TIMEOUT = 60_000
"""Milliseconds to wait for anything on the page; the machine may be busy."""

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
    studio = Studio(config.options, has_previews=config.has_previews)
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
