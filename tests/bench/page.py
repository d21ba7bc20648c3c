"""How quick the page is: the first live picture, what is left after a cancel or a closed tab, and `/healthz` meanwhile.

`python tests/bench/page.py`, with the real weights, at 512 px; OMP_NUM_THREADS=2 for two cores.
"""

import os
import tempfile
import threading
import time
from pathlib import Path

import httpx
from gradio_client import Client
from playwright.sync_api import Browser, Page, sync_playwright
from serving import Server, chromium, percentile, serving

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
FIRST = """() => new Promise(done => {
  const was = document.querySelector('#stage img').src, began = performance.now();
  const look = () => {
    const now = document.querySelector('#stage .working img');
    if (now && now.src !== was) done(performance.now() - began); else requestAnimationFrame(look);
  };
  document.querySelector('#paint').click();
  look();
})"""
"""Milliseconds from the click to the first picture that differs from the photo."""


def opened(browser: Browser, server: Server) -> Page:
    """A new visitor."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(server.address)
    page.wait_for_selector("#paint")
    return page


def chosen(page: Page, photo: int, style: int | None = None) -> None:
    """One of our photos, and one of our paintings."""
    page.locator("#sample label").nth(photo).click()
    page.wait_for_function("() => document.querySelector('#stage img').alt.startsWith('Your photo')")
    if style is not None:
        page.locator("#style label").nth(style).click()
    page.wait_for_timeout(1500)


def discarded(page: Page) -> None:
    page.click("#discard")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('Discarded')")


def first_pictures(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    for photo, style in ((3, None), (1, None), (2, None), (4, 1), (5, 6), (0, 9)):
        chosen(page, photo, style)
        took = page.evaluate(FIRST)
        name = "The Starry Night" if style is None else f"another painting ({style})"
        print(
            f"first live picture   {took / 1000:.2f} s after the click, {name}, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        discarded(page)
        time.sleep(1)
    page.close()


def after(what: str, server: Server, browser: Browser, size_passed: float) -> None:
    """What the server does in the second after the first one after the end of the work, which has reached 512 px."""
    page = opened(browser, server)
    chosen(page, 3)
    if what == "the program cancels":
        client = Client(server.address, verbose=False)
        job = client.submit("cat", "woodcut", preset="draft", first_size=512, api_name="/stylize")
        time.sleep(size_passed)
    else:
        page.click("#advanced > button")
        page.fill("#option-first_size input", "512")
        page.press("#option-first_size input", "Tab")
        page.wait_for_timeout(500)
        page.click("#paint")
        page.wait_for_selector("#stage .working img")
        time.sleep(size_passed)
    during = server.busy(1)
    if what == "Discard":
        page.click("#discard")
    elif what == "Stop and keep":
        page.click("#keep")
    elif what == "the tab is closed":
        page.close()
    elif what == "reload":
        page.reload()
    else:
        job.cancel()
    time.sleep(1)
    rest = server.busy(2)
    print(f"CPU, {what:<20} {during:5.0f} % while painting, {rest:4.1f} % from 1 to 3 s after", flush=True)
    if not page.is_closed():
        page.close()
    time.sleep(1)


def health(server: Server, browser: Browser, asked: int = 600) -> None:
    """How long `/healthz` takes while a picture is painted and watched."""
    page = opened(browser, server)
    chosen(page, 3)
    page.click("#paint")
    page.wait_for_selector("#stage .working img")
    took: list[float] = []

    def ask() -> None:
        with httpx.Client() as client:
            for _ in range(asked):
                began = time.perf_counter()
                client.get(f"{server.address}healthz").raise_for_status()
                took.append(1000 * (time.perf_counter() - began))
                time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    line = page.inner_text("#status .line")
    print(
        f"/healthz, {asked} times  p50 {percentile(took, 0.5):.1f} ms, p99 {percentile(took, 0.99):.1f} ms, "
        f"slowest {max(took):.1f} ms ({line})",
        flush=True,
    )
    page.close()


def main() -> None:
    print(f"load before {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS])
        with serving(Path(folder)) as server:
            time.sleep(3)
            print(f"CPU, idle, nobody there {server.busy(3):.1f} %")
            first_pictures(browser, server)
            for what in ("Discard", "the tab is closed", "reload", "Stop and keep", "the program cancels"):
                after(what, server, browser, 4)
            health(server, browser)
        browser.close()
    print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
