"""A server with the tiny network, and visitors in a real browser that contacts no other server."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from pages import TIMEOUT, Site, Visitor, serve
from playwright.sync_api import Browser, Page, sync_playwright

from styler import schedule
from styler.vgg import registry
from styler.vgg.weights import Weights
from ui.server import ServerConfig

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def has_previews() -> bool:
    """Return whether visitors see previews; a module whose tests need them says so."""
    return False


@pytest.fixture(scope="module")
def site(tiny: Weights, has_previews: bool) -> Iterator[Site]:
    """Serve the page with the tiny network and room for one in the queue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load_backbone", lambda _name: tiny)
        patch.setattr(schedule, "OPENING_SIDE", 64)  # small and short previews
        patch.setattr(schedule, "OPENING_ITERATIONS", 2)
        patch.setattr(schedule, "STROKES_ITERATIONS", 1)
        with serve(ServerConfig(queue=1, max_upload=2_000_000, has_previews=has_previews)) as site:
            yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the installed Chromium; nothing is downloaded for the tests."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        reason = "chromium is not installed (on Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"Cannot test the page: {reason}.")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Visitor]:
    """`visitor(width=…, scheme=…)`: a new visitor with a browser profile of their own.

    At the end of the test, no script has failed and no request has gone to another server.
    """
    contexts, errors, urls = [], [], set()

    def visit(width: int = 1280, height: int = 900, scheme: Any = "light", address: str = "") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(TIMEOUT)
        context.on("request", lambda request: urls.add(request.url))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address or site.address)
        page.wait_for_selector("#paint")
        return page

    yield visit
    for context in contexts:
        context.close()
    site.wait_until_idle()
    remote = {url for url in urls if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))}
    assert urls
    assert remote == set()
    assert errors == []
