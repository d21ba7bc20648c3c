"""Measure the speed of the page: live views, the load after work was stopped, blends, and the latency of `/healthz`.

`python tests/bench/page.py [walls] [first-run] [views] [load] [health] [blend]`, with the bundled weights, at 512 px;
OMP_NUM_THREADS=2 for two cores. Without a name, everything is measured.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from serving import Server, compute_percentile, find_chromium, start_server

from styler import library

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WATCH_TILES = """() => { window.tiles = new Promise(done => {
  let began;
  const times = [];
  const begin = () => { began ??= performance.now(); };
  document.querySelector('#content input[type=file]').addEventListener('change', begin, true);
  const look = () => {
    const turned = document.querySelectorAll('[id^=tile-] style').length;
    const note = document.querySelector('#wall-note').innerText, finished = parseInt(note.split(':')[1]);
    const areAll = turned === document.querySelectorAll('#style label').length && !note;
    const passed = [turned, finished || (turned && !note), areAll];
    while (times.length < 3 && passed[times.length]) times.push(performance.now() - began);
    if (times.length === 3) { watch.disconnect(); done(times); }
  };
  const watch = new MutationObserver(look);
  watch.observe(document.body, { childList: true, subtree: true, characterData: true });
}); }"""
"""Script that measures the milliseconds from the choice of a photo to the first tile, to the first preview that is
finished, and to the last. It works only when the page changes: looking at every frame would keep a processor busy."""
HAS_ALL_TILES = """() => !document.querySelector('#wall-note').innerText
  && document.querySelectorAll('[id^=tile-] style').length === document.querySelectorAll('#style label').length"""
"""Script that returns whether every painting has its preview."""
MEASURE_FIRST_VIEW = """() => new Promise(done => {
  const was = document.querySelector('#stage img').src, began = performance.now();
  const watch = new MutationObserver(() => {
    const now = document.querySelector('#stage .working img');
    if (!now || now.src === was) return;
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - began));
  });
  watch.observe(document.body, { childList: true, subtree: true, attributes: true });
  document.querySelector('#paint').click();
})"""
"""Script that returns the milliseconds from the click to the first live view, drawn; as above, it waits for changes."""

MEASURE_BLEND = """async (count) => {
  const slider = document.querySelector("#blend"), durations = [];
  for (let index = 0; index < count; index++) {
    slider.value = 99 - index % 100;
    const began = performance.now();
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    getComputedStyle(document.querySelector("#slider .after")).opacity;
    document.body.offsetHeight;
    durations.push(performance.now() - began);
    await new Promise(requestAnimationFrame);
  }
  return durations.sort((a, b) => a - b);
}"""
"""Script that returns the milliseconds of events of the blend slider, each with the style and layout that follow it."""


def open_page(browser: Browser, server: Server) -> Page:
    """Open the page as a new visitor."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(server.address)
    page.wait_for_selector("#paint")
    return page


def choose_pair(page: Page, photo: int, style: int | None = None) -> None:
    """Choose a sample photo and a bundled painting, by index."""
    page.locator("#sample label").nth(photo).click()
    page.wait_for_function("() => document.querySelector('#stage img').alt.startsWith('Your photo')")
    if style is not None:
        page.locator("#style label").nth(style).click()
    page.wait_for_timeout(1500)


def discard(page: Page) -> None:
    """Discard the work and wait until the page confirms it."""
    page.click("#discard")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('Discarded')")


def make_photo(folder: Path, long_side: int) -> Path:
    """Write a photo of 4:3 as a camera or a phone makes it, enlarged from a bundled one."""
    path = folder / f"photo-{long_side}.jpg"
    with Image.open(library.list_contents()["coffee"]) as picture:
        width, height = picture.height * 4 // 3, picture.height
        part = picture.convert("RGB").crop((0, 0, width, height))
        part.resize((long_side, long_side * 3 // 4), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def measure_walls(browser: Browser, server: Server) -> None:
    """Print the time from a photo that is given to the page to the first preview, and to all of them."""
    with tempfile.TemporaryDirectory() as folder:
        measure_walls_in(Path(folder), browser, server)


def measure_walls_in(folder: Path, browser: Browser, server: Server) -> None:
    """Print the same for photos that are written to a folder."""
    for long_side in (1024, 1024, 1023, 4000):  # the second is the same photo
        photo, page = make_photo(folder, long_side), open_page(browser, server)
        page.wait_for_timeout(1500)
        page.evaluate(WATCH_TILES)
        page.set_input_files("#content input[type=file]", photo)
        first, finished, last = page.evaluate("() => window.tiles")
        megabytes = photo.stat().st_size / 1e6
        print(
            f"previews, {long_side} px, {megabytes:.1f} MB  first tile {first / 1000:.2f} s, with strokes "
            f"{finished / 1000:.2f} s, all {last / 1000:.2f} s",
            flush=True,
        )
        page.close()


def measure_first_run(browser: Browser, server: Server) -> None:
    """Print how long it takes from the page's address to a finished draft, by the single click that it takes."""
    began = time.monotonic()
    page = open_page(browser, server)
    page.wait_for_selector("#paint-sample")
    opened = time.monotonic() - began
    milliseconds = page.evaluate(MEASURE_FIRST_VIEW.replace("#paint'", "#paint-sample'"))
    page.wait_for_selector("#stage .compare")
    total = time.monotonic() - began
    print(
        f"first run, one click    page {opened:.2f} s, live view {milliseconds / 1000:.2f} s after the click, ", end=""
    )
    print(f"finished draft {total:.2f} s after the address", flush=True)
    page.close()


def measure_first_views(browser: Browser, server: Server) -> None:
    """Print the time from the click to the first live view, for several pairs."""
    page = open_page(browser, server)
    for photo, style in ((3, None), (1, None), (2, None), (4, 1), (5, 6), (0, 9)):
        choose_pair(page, photo, style)
        milliseconds = page.evaluate(MEASURE_FIRST_VIEW)
        name = "The Starry Night" if style is None else f"another painting ({style})"
        print(
            f"first live view      {milliseconds / 1000:.2f} s after the click, {name}, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        discard(page)
        time.sleep(1)
    page.close()


def measure_load_after(action: str, server: Server, browser: Browser, delay: float) -> None:
    """Print the CPU load from 1 to 3 seconds after an action ended the work, which has reached 512 px after `delay`."""
    page = open_page(browser, server)
    choose_pair(page, 3)
    page.wait_for_function(HAS_ALL_TILES)  # else previews go on when the painting has ended
    if action == "a program cancels":
        client = Client(server.address, verbose=False)
        job = client.submit("cat", "woodcut", preset="draft", first_size=512, api_name="/stylize")
        time.sleep(delay)
    else:
        page.click("#advanced summary")
        page.locator("#option-pooling").wait_for()
        page.wait_for_timeout(500)  # Gradio sets the controls to their initial values once more after they appear
        page.fill("#option-first_size input", "512")
        page.press("#option-first_size input", "Tab")
        page.wait_for_timeout(500)
        page.click("#paint")
        page.wait_for_selector("#stage .working img")
        time.sleep(delay)
    load = server.measure_cpu(1)
    if action == "Discard":
        page.click("#discard")
    elif action == "Stop and keep":
        page.click("#stop")
    elif action == "the tab is closed":
        page.close()
    elif action == "reload":
        page.reload()
    else:
        job.cancel()
    time.sleep(1)
    rest = server.measure_cpu(2)
    print(f"CPU, {action:<20} {load:5.0f} % while painting, {rest:4.1f} % from 1 to 3 s after", flush=True)
    if not page.is_closed():
        page.close()
    time.sleep(1)


def measure_health(browser: Browser, server: Server, requests: int = 600) -> None:
    """Print the latency of `/healthz` while a picture is being painted and watched."""
    page = open_page(browser, server)
    choose_pair(page, 3)
    page.click("#paint")
    page.wait_for_selector("#stage .working img")
    latencies: list[float] = []

    def send_requests() -> None:
        with httpx.Client() as client:
            for _ in range(requests):
                began = time.perf_counter()
                client.get(f"{server.address}healthz").raise_for_status()
                latencies.append(1000 * (time.perf_counter() - began))
                time.sleep(0.05)

    thread = threading.Thread(target=send_requests)
    thread.start()
    thread.join()
    line = page.inner_text("#status .line")
    print(
        f"/healthz, {requests} times  p50 {compute_percentile(latencies, 0.5):.1f} ms, "
        f"p99 {compute_percentile(latencies, 0.99):.1f} ms, slowest {max(latencies):.1f} ms ({line})",
        flush=True,
    )
    page.close()


def measure_blend(browser: Browser, server: Server, count: int = 500) -> None:
    """Print how long an event of the blend slider occupies the page, for a finished picture."""
    page = open_page(browser, server)
    choose_pair(page, 3)
    page.click("#paint")
    page.wait_for_selector("#stage .working img")
    page.click("#stop")
    page.wait_for_selector("#finished")
    times = page.evaluate(MEASURE_BLEND, count)
    print(
        f"blend slider, {count} events  median {times[len(times) // 2]:.2f} ms, slowest {times[-1]:.2f} ms", flush=True
    )
    page.close()


def measure_loads(browser: Browser, server: Server) -> None:
    """Print the load after each way to end the work."""
    for action in ("Discard", "the tab is closed", "reload", "Stop and keep", "a program cancels"):
        measure_load_after(action, server, browser, 4)


PARTS: dict[str, Callable[[Browser, Server], None]] = {
    "walls": measure_walls,
    "first-run": measure_first_run,
    "views": measure_first_views,
    "load": measure_loads,
    "health": measure_health,
    "blend": measure_blend,
}


def main() -> None:
    """Run the measurements that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them by default")
    chosen = parser.parse_args().parts or [*PARTS]
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(f"load before {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=[*FLAGS])
        with start_server(Path(folder)) as server:
            time.sleep(3)
            print(f"CPU, idle, no visitor {server.measure_cpu(3):.1f} %")
            for name in chosen:
                PARTS[name](browser, server)
        browser.close()
    print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
