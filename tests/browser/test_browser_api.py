"""Tests of `/stylize` as programs call it, of the painter's thread and queue, and of refused requests."""

import asyncio
import re
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import readme
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError, Status
from made import Pixels
from pages import Site

from styler import images, provenance
from styler.errors import UsageError
from styler.options import Options
from ui import api
from ui.middleware import RequestGuard
from ui.queue import PainterThread, WaitEstimate
from ui.session import Upload

LONG = {"content": "cat", "style": "woodcut", "iterations": 20_000, "api_name": "/stylize"}
SHORT = {"iterations": 2, "size": 64, "first_size": 64, "api_name": "/stylize"}


@pytest.fixture
def client(site: Site, tmp_path: Path) -> Iterator[Client]:
    client = Client(site.address, verbose=False, download_files=tmp_path / "downloads", httpx_kwargs={"timeout": 60})
    yield client
    client.close()


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def wait_for(job: Any, code: Status) -> None:
    due = time.monotonic() + 60
    while job.status().code is not code:
        assert time.monotonic() < due, job.status()
        time.sleep(0.02)


def test_a_program_receives_a_png_with_its_settings(client: Client, photo: Path) -> None:
    path = client.predict(handle_file(photo), "woodcut", strength=70, seed=4, **SHORT)
    record = provenance.read_record(path)
    assert (record["width"], record["height"]) == (64, 48)
    assert record["options"] == Options.of(strength=70, seed=4, iterations=2, size=64, first_size=64).to_dict()
    mixed = client.predict("cat", handle_file(photo), styles=["mosaic"], style_weights="1, 3", preset="draft", **SHORT)
    assert provenance.read_record(mixed)["options"]["style_weights"] == [1, 3]
    assert provenance.read_record(mixed)["options"]["taper"] == Options.of(preset="draft").taper


def test_every_parameter_is_a_documented_option(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/stylize"]  # the events of the page are private
    names = [each["parameter_name"] for each in endpoints["/stylize"]["parameters"]]
    assert names == ["content", "style", "styles", *api.API_OPTIONS]
    for name in names:
        assert re.search(rf"^{name}: ", api.describe_endpoint(), re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content": "dog"}, "content is neither an uploaded file nor one of astronaut, "),
        ({"style": "/etc/passwd"}, "style is neither an uploaded file"),
        ({"size": 12}, "size is 12; it can be 64 to 8192"),
        ({"init": "/etc/passwd"}, "init is '/etc/passwd'; it can be content, style, noise"),
        ({"styles": ["woodcut"] * 4}, "styles is not a list of up to 3 more paintings"),
        ({"strength": "much"}, "strength"),
    ],
)
def test_an_invalid_argument_is_reported(client: Client, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(**({"content": "cat", "style": "woodcut"} | SHORT | arguments))


def test_the_example_in_the_readme_runs(site: Site, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in readme.blocks("python", readme.UI_README) if readme.SERVED in block]
    monkeypatch.chdir(photo.parent)
    for name in ("photo.jpg", "painting.jpg"):
        photo.with_name(name).write_bytes(photo.read_bytes())
    names: dict[str, Any] = {}
    short = code.replace("http://127.0.0.1:7860/", site.address).replace(
        "strength=70", "strength=70, size=64, iterations=2"
    )
    exec(compile(short, "README.md", "exec"), names)
    assert provenance.read_record(names["picture"])["options"]["strength"] == 70
    names["client"].close()


def test_no_other_file_of_the_server_is_read(site: Site, photo: Path) -> None:
    for path in (str(photo), f"{site.studio.sessions.uploads}/../../{photo.name}", "x\0y", None, 3):
        with pytest.raises(UsageError, match="content is neither an uploaded file"):
            api.parse_request(site.studio, {"path": path}, "woodcut", None, *[None] * len(api.API_OPTIONS))


def test_a_damaged_upload_is_reported_by_name(client: Client, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(AppError, match=r"Cannot read 'bad\.png': ") as caught:
        client.predict(handle_file(tmp_path / "bad.png"), "woodcut", **SHORT)
    assert "styler-ui" not in str(caught.value)


def test_canceled_work_stops_at_once_and_the_next_begins(client: Client, site: Site) -> None:
    job = client.submit(**LONG)
    wait_for(job, Status.ITERATING)
    waiting = client.submit("cat", "woodcut", **SHORT)
    wait_for(waiting, Status.IN_QUEUE)
    assert waiting.status().rank == 0
    job.cancel()
    assert Path(waiting.result(timeout=60)).exists()
    site.wait_until_idle()


def test_a_full_queue_refuses_calls(client: Client, site: Site) -> None:
    running = client.submit(**LONG)
    wait_for(running, Status.ITERATING)
    waiting = client.submit(**LONG)
    wait_for(waiting, Status.IN_QUEUE)
    refused = client.submit(**LONG)
    with pytest.raises(QueueError, match="Queue is full"):
        refused.result(timeout=60)
    assert httpx.get(f"{site.address}readyz").status_code == 503
    for job in (waiting, running):
        job.cancel()
    site.wait_until_idle()
    assert httpx.get(f"{site.address}readyz").status_code == 200


def test_a_lost_connection_stops_the_work(site: Site) -> None:
    """A program that is killed sends no message: its event stream is cut off."""
    join = {
        "data": ["cat", "woodcut", *[None] * (1 + len(api.API_OPTIONS))],
        "fn_index": _find_endpoint(site),
        "session_hash": "gone",
    }
    assert httpx.post(f"{site.address}gradio_api/queue/join", json=join).status_code == 200
    with httpx.stream("GET", f"{site.address}gradio_api/queue/data?session_hash=gone", timeout=60) as stream:
        next(line for line in stream.iter_lines() if "process_generating" in line)
        assert site.is_painting
    site.wait_until_idle()


def _find_endpoint(site: Site) -> int:
    dependencies = httpx.get(f"{site.address}config").json()["dependencies"]
    return int(next(each["id"] for each in dependencies if each["api_name"] == "stylize"))


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (("GET", "gradio_api/file=http://example.org/x.png", {}), 404, "files from other hosts"),
        (("GET", "gradio_api/proxy=http://example.org/x.png", {}), 404, "files from other hosts"),
        (("POST", "gradio_api/queue/join", {"content": b" " * 1_100_000}), 413, "too large"),
        (("POST", "gradio_api/queue/join", {"content": b"[" * 100_000}), 400, "nested too deeply"),
        (
            ("POST", "gradio_api/queue/join", {"json": {"data": [{"path": " HTTPS://example.org/x"}]}}),
            400,
            "another host",
        ),
        (("POST", "gradio_api/upload", {"content": iter([b"x"])}), 411, "Content-Length"),
    ],
)
def test_the_request_guard_refuses(site: Site, request_: Any, code: int, message: str) -> None:
    method, path, settings = request_
    response = httpx.request(method, site.address + path, **settings)
    assert (response.status_code, message in response.text) == (code, True)


def test_too_many_files_at_once_are_refused(site: Site) -> None:
    guard = RequestGuard(site.studio, site.studio.sessions, lambda *_: "", max_upload=1000)  # type: ignore[arg-type] # nothing is passed on
    scope = {"headers": [(b"content-length", b"999999999999")]}
    assert asyncio.run(guard._check_upload(scope)) == (413, "The upload is too large; send 200 files at most.")


def test_an_upload_that_does_not_fit_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.studio.sessions, "max_bytes", 1000)
    response = httpx.post(f"{site.address}gradio_api/upload", files={"files": ("x.png", bytes(5000))})
    assert response.status_code == 503
    assert "no room for more pictures now" in response.text


def test_closing_slow_work_does_not_wait_for_it_but_the_next_work_does() -> None:
    stop, release, order = threading.Event(), threading.Event(), []

    def work() -> Generator[int, None, None]:
        try:
            yield 1
            release.wait(60)  # a step that does not look at `stop`
            yield 2
        finally:
            order.append(threading.current_thread().name)

    def next_work() -> Generator[int, None, None]:
        order.append("next")
        yield 3

    async def run_and_close() -> list[int | None]:
        thread = PainterThread()
        items = thread.run(work(), stop.set)
        seen: list[int | None] = []
        while len(seen) < 3:
            seen.append(await anext(items))
        await items.aclose()
        assert (stop.is_set(), order) == (True, [])  # although the step has not ended
        release.set()
        return [*seen, *[each async for each in thread.run(next_work(), stop.set) if each]]

    assert asyncio.run(run_and_close()) == [1, None, None, 3]
    assert order == ["painter_0", "next"]


def test_the_wait_is_estimated_from_earlier_work() -> None:
    estimate = WaitEstimate()
    assert estimate.compute_wait(0) is None
    estimate.set_remaining(10)
    assert 9 < (estimate.compute_wait(0) or 0) <= 10
    assert estimate.compute_wait(2) is None  # the duration of the others is unknown yet
    estimate.add_duration(30)
    assert 69 < (estimate.compute_wait(2) or 0) <= 70


def test_an_upload_keeps_the_name_its_owner_gave_it(site: Site) -> None:
    place = site.studio.sessions.uploads / "some" / "x.png"
    upload = api._resolve_upload(site.studio, {"path": str(place), "orig_name": "mine.png"}, {}, "content")
    assert upload == Upload(place.resolve(), "mine.png")
