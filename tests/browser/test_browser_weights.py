"""The page with the weights that come with styler: everything as a visitor has it, but for the size."""

from pathlib import Path

import numpy as np
from made import Pixels
from pages import PATIENCE, choose, paint, said, served
from playwright.sync_api import Browser

from styler import images, provenance
from ui.server import ServerConfig


def test_the_real_network_paints_what_is_taken_home(browser: Browser, tmp_path: Path, pixels: Pixels) -> None:
    photo = images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(96, 128)))
    with served(ServerConfig()) as site:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(site.address)
        page.wait_for_selector("#paint")
        choose(page, photo)
        paint(page, iterations=4, size=128)
        said(page, "Done.")
        with page.expect_download() as download:
            page.click("#png")
        download.value.save_as(tmp_path / "painted.png")
        context.close()
    record = provenance.read_record(tmp_path / "painted.png")
    assert record["iterations"] == 4
    assert record["weights_sha256"] != "0" * 64  # the tiny network's
    painted = images.read_image(tmp_path / "painted.png").pixels
    assert np.abs(painted - images.read_image(photo).pixels).mean() > 0.02
