"""Let several visitors paint drafts at the same time, and print how long they wait and how the server bears it.

Half of them use the page in a browser, half call `/stylize`. Each paints a draft at 256 px, pauses briefly, and paints
again.

`python tests/bench/crowd.py --minutes 10 --visitors 8`, with the bundled weights.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.async_api import Browser, async_playwright
from serving import Server, compute_percentile, find_chromium, start_server

from styler import images, provenance
from ui.queue import QUEUE_FULL
from ui.session import MAX_TOTAL_BYTES

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PAINT = """() => new Promise(done => {
  const seen = {told: null, wait: null, seconds: null, error: ''};
  let toldAt = null, startedAt = null;
  const look = () => {
    const status = document.querySelector('#status'), text = status.innerText, now = performance.now() / 1000;
    const told = /painting starts in (?:about (.+)|a moment)\\./.exec(text);
    if (told && toldAt === null) { seen.told = told[1] ?? '0 s'; toldAt = now; }
    if (startedAt === null && /Reading|iteration/.test(text)) {
      startedAt = now;
      if (toldAt !== null) seen.wait = now - toldAt;
    }
    const isDone = startedAt !== null && text.includes('Done.');
    if (isDone) seen.seconds = now - startedAt;
    if (hasBegun && status.querySelector('.failed')) seen.error = text;
    hasBegun ||= status.querySelector('.bar') !== null;
    if (isDone || seen.error) done(seen); else setTimeout(look, 50);
  };
  let hasBegun = false;
  document.querySelector('#paint').click();
  look();
})"""
"""Script that clicks Paint and returns the first wait that is told, the real one, and the seconds of painting."""
SAMPLES = ("astronaut", "cat", "coffee", "bridge")
"""Bundled photos."""
STYLES = ("starry-night", "woodcut", "mosaic")
HEALTH_SCRIPT = str(Path(__file__).with_name("health.py"))
PAUSES = (1.0, 4.0)
"""Shortest and longest pause between two pictures, in seconds."""


@dataclass
class Guest:
    """What one visitor has seen."""

    name: str
    pictures: int = 0
    seconds: float = 0.0
    """Spent painting, by the page or by the record in the picture."""
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    """The wait told first and the real one, in seconds."""


def make_photo(folder: Path, seed: int) -> Path:
    """Write a generated photo: areas of color with grain, in other proportions each time."""
    random_ = np.random.default_rng(seed)
    height, width = (int(side) for side in random_.integers(500, 900, 2))
    areas = np.kron(random_.random((5, 5, 3)), np.ones((height // 5 + 1, width // 5 + 1, 1)))[:height, :width]
    pixels = (0.8 * areas + 0.2 * random_.random((height, width, 3))).astype(np.float32)
    return images.write_file(folder / f"photo-{seed}.jpg", images.encode_image(pixels, format="jpeg"))


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as the page writes it, such as `3 min 5 s`."""
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (s|min|h)", text))


async def pause() -> None:
    """Wait as a visitor does who looks at the picture."""
    await asyncio.sleep(random.uniform(*PAUSES))


async def browse(browser: Browser, server: Server, guest: Guest, photo: Path, number: int, end: float) -> None:
    """Paint on the page until the end: every other visitor a photo of their own, the others samples."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(600_000)
    await page.goto(server.address)
    await page.wait_for_selector("#paint")
    if number % 2:
        await page.set_input_files("#content input[type=file]", photo)
    else:
        await page.locator("#sample label").nth(number).click()
    await page.wait_for_selector('#stage img[alt^="Your photo"]')
    while time.monotonic() < end:
        try:
            async with asyncio.timeout(max(0.1, end - time.monotonic())):
                seen: dict[str, Any] = await page.evaluate(PAINT)
        except TimeoutError:
            break  # it was not finished in time, so it does not count
        if seen["wait"] is not None:
            guest.waits.append((parse_duration(seen["told"]), seen["wait"]))
        if not seen["error"]:
            guest.pictures, guest.seconds = guest.pictures + 1, guest.seconds + seen["seconds"]
        elif QUEUE_FULL in seen["error"]:
            guest.refused += 1
        else:
            guest.errors.append(seen["error"])
        await pause()
    await context.close()


async def call(server: Server, folder: Path, guest: Guest, photo: Path, number: int, end: float) -> None:
    """Call `/stylize` until the end: every other visitor with a file, the others with bundled photos."""
    make_client = {"verbose": False, "download_files": folder / guest.name, "httpx_kwargs": {"timeout": 120}}
    client = await asyncio.to_thread(lambda: Client(server.address, **make_client))
    content = handle_file(photo) if number % 2 else SAMPLES[number % len(SAMPLES)]
    while time.monotonic() < end:
        job = client.submit(content, STYLES[guest.pictures % len(STYLES)], api_name="/stylize")
        while not job.done() and time.monotonic() < end:
            await asyncio.sleep(0.1)
        if not job.done():
            await asyncio.to_thread(job.cancel)
            break
        try:
            record = provenance.read_record(job.result())
            guest.pictures, guest.seconds = guest.pictures + 1, guest.seconds + record["seconds"]
        except AppError as error:
            if QUEUE_FULL in str(error):
                guest.refused += 1
            else:
                guest.errors.append(str(error))
        await pause()
    await asyncio.to_thread(client.close)


async def probe_health(server: Server, latencies: list[float], seconds: float) -> None:
    """Request `/healthz` twenty times a second from another process and collect the milliseconds that it takes."""
    command: list[str] = [sys.executable, HEALTH_SCRIPT, server.address, str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    latencies += map(float, output.split())
    if process.returncode:
        raise RuntimeError(f"The probe of /healthz ended with exit code {process.returncode}.")


async def watch_memory(server: Server, end: float) -> None:
    """Print the server's least memory in every minute, between two paintings, and its files after each minute."""
    began, lows = time.monotonic(), list[float]()
    print(f"start    {server.measure_memory() / 1e6:6.0f} MB, before the first picture", flush=True)
    while time.monotonic() < end:
        minute, low = min(end, time.monotonic() + 60), float("inf")
        while time.monotonic() < minute:
            low = min(low, server.measure_memory())
            await asyncio.sleep(1)
        lows.append(low)  # the first is from before the first picture
        growth = f"{(low - lows[min(1, len(lows) - 1)]) / 1e6:+.0f} MB since the second minute"
        share = f"files {server.measure_files() / 1e6:.1f} of {MAX_TOTAL_BYTES / 1e6:.0f} MB"
        print(f"{time.monotonic() - began:4.0f} s   {low / 1e6:6.0f} MB at least, {growth}, {share}", flush=True)


async def visit(server: Server, folder: Path, visitors: int, minutes: float) -> tuple[list[Guest], list[float]]:
    """Let all visitors paint, and return what they have seen and the latencies of `/healthz` in milliseconds."""
    guests, latencies, end = [], list[float](), time.monotonic() + 60 * minutes
    async with async_playwright() as playwright, asyncio.TaskGroup() as group:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=[*FLAGS])
        for number in range(visitors):
            photo, is_browser = make_photo(folder, number), number < visitors // 2
            guests.append(Guest(f"{'browser' if is_browser else 'program'} {number + 1}"))
            work = browse(browser, server, guests[-1], photo, number, end) if is_browser else None
            group.create_task(work or call(server, folder, guests[-1], photo, number, end))
        group.create_task(probe_health(server, latencies, 60 * minutes))
        await watch_memory(server, end)
    return guests, latencies


def report(guests: list[Guest], latencies: list[float], log: str) -> None:
    """Print what the visitors have seen, the fairness, and the latencies."""
    for guest in guests:
        ratios = sorted(wait / max(told, 1.0) for told, wait in guest.waits)
        line = f"{guest.name:<10} {guest.pictures:3} pictures, {guest.seconds:6.1f} s of painting"
        if ratios:
            line += f", real wait / told wait: median {ratios[len(ratios) // 2]:.2f}, most {ratios[-1]:.2f}"
        print(f"{line}, {guest.refused} refused" + "".join(f"\n    {error}" for error in guest.errors))
        longest = max(guest.waits, key=lambda pair: pair[1] / max(pair[0], 1.0), default=None)
        if longest:
            print(f"           at most {longest[1]:.1f} s, told {longest[0]:.0f} s; {len(ratios)} waits")
    counts = [guest.pictures for guest in guests]
    ratio = f"{max(counts) / min(counts):.2f}" if min(counts) else "not measured"
    print(f"fairness   {max(counts)} pictures at most, {min(counts)} at least: {ratio}")
    waits = [(told, wait) for guest in guests for told, wait in guest.waits]
    late = sum(wait > 1.3 * max(told, 1.0) for told, wait in waits)
    print(f"waits      {late} of {len(waits)} were longer than 1.3 times what was told")
    print(f"refused    {sum(guest.refused for guest in guests)}")
    middle, last = compute_percentile(latencies, 0.5), compute_percentile(latencies, 0.99)
    slowest, count = max(latencies), len(latencies)
    print(f"/healthz   p50 {middle:.1f} ms, p99 {last:.1f} ms, slowest {slowest:.1f} ms, {count} requests")
    print(f"tracebacks {log.count('Traceback')}")


def main() -> None:
    """Serve the page to a crowd and print what happened."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--queue", type=int, default=32)
    arguments = parser.parse_args()
    os.environ |= {"STYLER_SIZE": "256", "STYLER_PRESET": "draft"}  # the defaults of the page and of /stylize
    print(f"load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), Path(name) / "server"
        files.mkdir()
        with start_server(files, "--queue", str(arguments.queue), log=folder / "log") as server:
            guests, latencies = asyncio.run(visit(server, folder, arguments.visitors, arguments.minutes))
        report(guests, latencies, (folder / "log").read_text())
    print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
