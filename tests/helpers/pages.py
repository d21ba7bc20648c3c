"""The page as it is served for tests, and what a visitor does on it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as Unseen

from ui import server
from ui.server import ServerConfig
from ui.studio import Studio

PATIENCE = 60_000
"""Milliseconds for anything on the page: this machine may be busy."""


Visitor = Callable[..., Page]


@dataclass
class Site:
    """A page that is being served."""

    address: str
    studio: Studio
    queue: Any

    @property
    def is_painting(self) -> bool:
        return any(visit.is_painting for visit in [*self.studio.visits._open.values()])

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Until nothing is painted and nobody waits; the work of these tests would take far longer by itself."""
        began = time.monotonic()
        while self.is_painting or len(self.queue):
            assert time.monotonic() - began < seconds, "somebody is still being painted for"
            time.sleep(0.01)


@contextmanager
def served(serving: ServerConfig) -> Iterator[Site]:
    """Serve the page at a free port, in a thread, until the end of the block."""
    studio = Studio()
    app = server.make_server(studio, serving)
    with server.open_listener("127.0.0.1", 0) as listener:
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not studio.is_ready:
                assert thread.is_alive(), "the server ended"
                time.sleep(0.02)
            yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", studio, app.state.page._queue)
        finally:
            running.should_exit = True
            thread.join()


def choose(page: Page, photo: Path) -> None:
    """Upload a photo and see it in the frame."""
    page.set_input_files("#content input[type=file]", photo)
    page.wait_for_selector(f'#stage img[alt="Your photo, {photo.name}"]')


def ask_for(page: Page, **settings: Any) -> None:
    """Set options under Advanced."""
    if not page.locator("#option-iterations").is_visible():
        page.click("#advanced > button")
        page.locator("#option-pooling").wait_for()  # the last one: controls appear one after another
    for name, value in settings.items():
        page.fill(f"#option-{name} input", str(value))
        page.press(f"#option-{name} input", "Tab")


def paint(page: Page, *, is_long: bool = True, **settings: Any) -> None:
    """Click Paint, and see the first live picture, if it is there for long enough."""
    if settings:
        ask_for(page, **settings)
    page.click("#paint")
    if is_long:
        page.wait_for_selector("#stage .working img")


def said(page: Page, text: str, where: str = "#status") -> None:
    """Wait until the page says so; if it never does, tell what it says instead."""
    try:
        page.locator(where, has_text=text).wait_for()
    except Unseen as problem:
        instead = page.locator(where).inner_text(timeout=1000)
        raise AssertionError(f"the page never said {text!r}, but {instead!r}") from problem
