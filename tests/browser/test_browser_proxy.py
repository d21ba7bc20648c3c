"""The page behind nginx, which ends TLS and serves it below a path, with as few settings as people give it."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from made import Pixels
from pages import Site, serve, set_options, start_painting, upload_photo, wait_for_text
from playwright.sync_api import Browser

from styler import images, provenance
from styler.vgg import registry
from styler.vgg.weights import Weights
from ui.server import ServerConfig

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        location /paint/ {{
            proxy_pass {upstream};
        }}
    }}
}}
"""
MAKE_CERTIFICATE = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
    *("-subj", "/CN=paint.test", "-addext", "subjectAltName=DNS:paint.test,IP:127.0.0.1"),
)


@pytest.fixture
def site(tiny: Weights) -> Iterator[Site]:
    """Serve the page as anybody does: nothing tells it that there is a proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load_backbone", lambda _name: tiny)
        with serve(ServerConfig()) as site:
            yield site


@pytest.fixture
def proxy(site: Site, tmp_path: Path) -> Iterator[str]:
    """Start nginx in front of the page, and return the address that it gives it."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        reason = "nginx or openssl is not installed (on Debian: apt-get install nginx-light openssl)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"Cannot test the page behind a proxy: {reason}.")
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*MAKE_CERTIFICATE, "-out", f"{tmp_path}/certificate.pem", "-keyout", f"{tmp_path}/key.pem"]
    subprocess.run(command, check=True, capture_output=True)
    text = CONFIGURATION.format(folder=tmp_path, port=port, upstream=site.address)
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "-p", str(tmp_path), "-c", f"{tmp_path}/nginx.conf"], stderr=log)
        try:
            while True:
                assert process.poll() is None, (tmp_path / "log").read_text()
                with socket.socket() as connection:
                    if connection.connect_ex(("127.0.0.1", port)) == 0:
                        break
            yield f"https://127.0.0.1:{port}/paint/"
        finally:
            process.terminate()
            process.wait()


def test_a_picture_is_painted_through_a_proxy_with_its_default_headers(
    browser: Browser, proxy: str, site: Site, tmp_path: Path, pixels: Pixels
) -> None:
    photo = images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))
    context, urls = browser.new_context(ignore_https_errors=True, accept_downloads=True), set()
    context.on("request", lambda request: urls.add(request.url))
    page = context.new_page()
    page.goto(proxy.rstrip("/"))  # nginx adds the slash
    upload_photo(page, photo)
    set_options(page, size=64, first_size=64)
    start_painting(page, is_long=False, iterations=3)
    wait_for_text(page, "Done.")
    page.wait_for_function("() => [...document.querySelectorAll('#slider img')].every((each) => each.naturalWidth)")
    with page.expect_download() as download:
        page.click("#png")
    assert provenance.read_record(download.value.path())["width"] == 64
    context.close()
    assert {url for url in urls if not url.startswith((proxy.rstrip("/"), "data:", "blob:"))} == set()
