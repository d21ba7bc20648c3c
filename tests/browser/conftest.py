"""A server with the tiny network, and visitors in a real browser who ask nobody else for anything."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as Unseen

from styler.vgg import registry
from styler.vgg.weights import Weights
from ui import server
from ui.server import ServerConfig
from ui.studio import Studio

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 60_000
"""Milliseconds for anything on the page: this machine may be busy."""


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


@pytest.fixture(scope="module")
def site(tiny: Weights) -> Iterator[Site]:
    """The page with the tiny network; one may wait while another is painted for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load_backbone", lambda _name: tiny)
        with served(ServerConfig(queue=1, max_upload=2_000_000)) as site:
            yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium as the system has it: nothing is downloaded for the tests."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        why = "there is no chromium on this machine (on Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"Cannot test the page: {why}.")
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        yield browser
        browser.close()


Visitor = Callable[..., Page]


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Visitor]:
    """`visitor(width=…, scheme=…)`: somebody with a browser of their own on the page.

    In the end nothing has gone wrong in a script, and nobody but the server was asked for anything.
    """
    contexts, wrong, asked = [], [], set()

    def came(width: int = 1280, height: int = 900, scheme: Any = "light", address: str = "") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: asked.add(request.url))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address or site.address)
        page.wait_for_selector("#paint")
        return page

    yield came
    for context in contexts:
        context.close()
    site.wait_until_idle()
    elsewhere = {url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))}
    assert asked
    assert elsewhere == set()
    assert wrong == []


def choose(page: Page, photo: Path) -> None:
    """Upload a photo and see it in the frame."""
    page.set_input_files("#content input[type=file]", photo)
    page.wait_for_selector(f'#stage img[alt="Your photo, {photo.name}"]')


def ask_for(page: Page, **settings: Any) -> None:
    """Set options under Advanced."""
    if not page.locator("#option-steps").is_visible():
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
