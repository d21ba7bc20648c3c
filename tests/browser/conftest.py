"""A server with the tiny network, and visitors in a real browser who ask nobody else for anything."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from pages import PATIENCE, Site, Visitor, served
from playwright.sync_api import Browser, Page, sync_playwright

from styler.vgg import registry
from styler.vgg.weights import Weights
from ui.server import ServerConfig

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


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
