"""A test of the page with the bundled weights, as a visitor has it, at a small size."""

from pathlib import Path

import numpy as np
from made import Pixels
from pages import TIMEOUT, serve, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Browser

from styler import images, provenance
from ui.server import ServerConfig


def test_the_bundled_network_paints_the_downloaded_picture(browser: Browser, tmp_path: Path, pixels: Pixels) -> None:
    photo = images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(96, 128)))
    with serve(ServerConfig()) as site:
        context = browser.new_context()
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        page.goto(site.address)
        page.wait_for_selector("#paint")
        upload_photo(page, photo)
        start_painting(page, iterations=4, size=128)
        wait_for_text(page, "Done.")
        with page.expect_download() as download:
            page.click("#png")
        download.value.save_as(tmp_path / "painted.png")
        context.close()
    record = provenance.read_record(tmp_path / "painted.png")
    assert record["iterations"] == 4
    assert record["weights_sha256"] != "0" * 64  # the tiny network's
    painted = images.read_image(tmp_path / "painted.png").pixels
    assert np.abs(painted - images.read_image(photo).pixels).mean() > 0.02
