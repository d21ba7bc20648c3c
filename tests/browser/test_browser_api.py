"""Claims about `/stylize` as programs call it, about work in steps, and about requests that are refused at the gate."""

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
from ui.queue import PainterThread
from ui.session import Upload
from ui.studio import WaitEstimate

LONG = {"content": "cat", "style": "woodcut", "iterations": 20_000, "api_name": "/stylize"}
SHORT = {"iterations": 2, "size": 64, "first_size": 64, "api_name": "/stylize"}


@pytest.fixture
def client(site: Site, tmp_path: Path) -> Iterator[Client]:
    made = Client(site.address, verbose=False, download_files=tmp_path / "got", httpx_kwargs={"timeout": 60})
    yield made
    made.close()


@pytest.fixture
def photo(tmp_path: Path, pixels: Pixels) -> Path:
    return images.write_file(tmp_path / "holiday.png", images.encode_image(pixels(90, 120)))


def wait_for(job: Any, code: Status) -> None:
    due = time.monotonic() + 60
    while job.status().code is not code:
        assert time.monotonic() < due, job.status()
        time.sleep(0.02)


def test_a_program_gets_the_png_with_its_settings(client: Client, photo: Path) -> None:
    got = client.predict(handle_file(photo), "woodcut", strength=70, seed=4, **SHORT)
    record = provenance.read_record(got)
    assert (record["width"], record["height"]) == (64, 48)
    assert record["options"] == Options.of(strength=70, seed=4, iterations=2, size=64, first_size=64).to_dict()
    two = client.predict("cat", handle_file(photo), styles=["mosaic"], style_weights="1, 3", preset="draft", **SHORT)
    assert provenance.read_record(two)["options"]["style_weights"] == [1, 3]
    assert provenance.read_record(two)["options"]["taper"] == Options.of(preset="draft").taper


def test_every_parameter_is_an_option_and_is_documented(client: Client) -> None:
    found = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(found) == ["/stylize"]  # what the page does inside is private
    names = [it["parameter_name"] for it in found["/stylize"]["parameters"]]
    assert names == ["content", "style", "styles", *api.API_OPTIONS]
    for name in names:
        assert re.search(rf"^{name}: ", api.describe_endpoint(), re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"content": "dog"}, "content is no uploaded file, and none of astronaut, "),
        ({"style": "/etc/passwd"}, "style is no uploaded file"),
        ({"size": 12}, "size is 12; it can be 64 to 8192"),
        ({"init": "/etc/passwd"}, "init is '/etc/passwd'; it can be content, style, noise"),
        ({"styles": ["woodcut"] * 4}, "styles is no list of up to 3 further paintings"),
        ({"strength": "much"}, "strength"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(client: Client, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(**({"content": "cat", "style": "woodcut"} | SHORT | given))


def test_the_readmes_lines_run(site: Site, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in readme.blocks("python", readme.UI_README) if readme.SERVED in block]
    monkeypatch.chdir(photo.parent)
    for name in ("photo.jpg", "painting.jpg"):
        photo.with_name(name).write_bytes(photo.read_bytes())
    names: dict[str, Any] = {}
    small = code.replace("http://127.0.0.1:7860/", site.address).replace(
        "strength=70", "strength=70, size=64, iterations=2"
    )
    exec(compile(small, "README.md", "exec"), names)
    assert provenance.read_record(names["picture"])["options"]["strength"] == 70
    names["client"].close()


def test_no_file_of_the_server_but_an_upload_is_read(site: Site, photo: Path) -> None:
    for path in (str(photo), f"{site.studio.visits.uploads}/../../{photo.name}", "x\0y", None, 3):
        with pytest.raises(UsageError, match="content is no uploaded file"):
            api.parse_request(site.studio, {"path": path}, "woodcut", None, *[None] * len(api.API_OPTIONS))


def test_a_damaged_upload_is_a_sentence_that_names_it(client: Client, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(AppError, match=r"Cannot read 'bad\.png': ") as caught:
        client.predict(handle_file(tmp_path / "bad.png"), "woodcut", **SHORT)
    assert "styler-ui" not in str(caught.value)


def test_cancelled_work_ends_at_once_and_the_next_begins(client: Client, site: Site) -> None:
    job = client.submit(**LONG)
    wait_for(job, Status.ITERATING)
    waiting = client.submit("cat", "woodcut", **SHORT)
    wait_for(waiting, Status.IN_QUEUE)
    assert waiting.status().rank == 0
    job.cancel()
    assert Path(waiting.result(timeout=60)).exists()
    site.wait_until_idle()


def test_a_full_queue_says_so(client: Client, site: Site) -> None:
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


def test_a_lost_connection_ends_the_work(site: Site) -> None:
    """A program that is killed says nothing: its stream of news is cut off."""
    join = {
        "data": ["cat", "woodcut", *[None] * (1 + len(api.API_OPTIONS))],
        "fn_index": _endpoint(site),
        "session_hash": "gone",
    }
    assert httpx.post(f"{site.address}gradio_api/queue/join", json=join).status_code == 200
    with httpx.stream("GET", f"{site.address}gradio_api/queue/data?session_hash=gone", timeout=60) as stream:
        next(line for line in stream.iter_lines() if "process_generating" in line)
        assert site.is_painting
    site.wait_until_idle()


def _endpoint(site: Site) -> int:
    dependencies = httpx.get(f"{site.address}config").json()["dependencies"]
    return int(next(it["id"] for it in dependencies if it["api_name"] == "stylize"))


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (("GET", "gradio_api/file=http://example.org/x.png", {}), 404, "no files of other hosts"),
        (("GET", "gradio_api/proxy=http://example.org/x.png", {}), 404, "no files of other hosts"),
        (("POST", "gradio_api/queue/join", {"content": b" " * 1_100_000}), 413, "too large"),
        (("POST", "gradio_api/queue/join", {"content": b"[" * 100_000}), 400, "another host"),
        (
            ("POST", "gradio_api/queue/join", {"json": {"data": [{"path": " HTTPS://example.org/x"}]}}),
            400,
            "another host",
        ),
        (("POST", "gradio_api/upload", {"content": iter([b"x"])}), 411, "how long"),
    ],
)
def test_what_is_refused_at_the_gate(site: Site, request_: Any, code: int, said: str) -> None:
    method, path, more = request_
    answer = httpx.request(method, site.address + path, **more)
    assert (answer.status_code, said in answer.text) == (code, True)


def test_too_many_files_at_once_are_refused(site: Site) -> None:
    gate = RequestGuard(site.studio, site.studio.visits, max_upload=1000)  # type: ignore[arg-type] # nothing is handed over
    scope = {"headers": [(b"content-length", b"999999999999")]}
    assert asyncio.run(gate._upload(scope)) == (413, "That is too much at once; send 200 files at most.")


def test_an_upload_that_does_not_fit_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.studio.visits, "largest", 1000)
    answer = httpx.post(f"{site.address}gradio_api/upload", files={"files": ("x.png", bytes(5000))})
    assert answer.status_code == 503
    assert "no room for more pictures now" in answer.text


def test_work_goes_on_without_news_and_ends_when_it_is_left() -> None:
    stop, ended = threading.Event(), []

    def work() -> Generator[int, None, None]:
        try:
            yield 1
            stop.wait(10)
            yield 2
        finally:
            ended.append(threading.current_thread().name)

    async def visit() -> list[int | None]:
        seen = []
        steps = PainterThread().steps(work(), stop.set)
        async for news in steps:
            seen.append(news)
            if len(seen) == 3:
                break
        began = time.monotonic()
        await steps.aclose()
        assert time.monotonic() - began < 1
        return seen

    assert asyncio.run(visit()) == [1, None, None]
    assert stop.is_set()
    assert ended[0].startswith("painter")


def test_who_waits_is_told_how_long() -> None:
    pace = WaitEstimate()
    assert pace.wait(0) is None
    pace.expect(10)
    assert 9 < (pace.wait(0) or 0) <= 10
    assert pace.wait(2) is None  # nobody knows yet how long others take
    pace.took(30)
    assert 69 < (pace.wait(2) or 0) <= 70


def test_uploads_of_the_page_are_read_by_name(site: Site) -> None:
    place = site.studio.visits.uploads / "some" / "x.png"
    found = api._resolve_upload(site.studio, {"path": str(place), "orig_name": "mine.png"}, {}, "content")
    assert found == Upload(place.resolve(), "mine.png")
