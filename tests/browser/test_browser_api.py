"""Tests of `/stylize` as programs call it, of the painter's thread and queue, and of refused requests."""

import json
import logging
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import readme
from coroutines import run_coroutine
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import Status
from made import Pixels
from pages import Site
from starlette.responses import FileResponse

from styler import images, provenance
from styler.errors import UsageError
from styler.options import Options
from ui import api, queue
from ui.middleware import RequestGuard
from ui.queue import INVALID_VALUES, QUEUE_FULL
from ui.session import Upload

LONG = {"content": "cat", "style": "woodcut", "iterations": 20_000, "api_name": "/stylize"}
SHORT = {"iterations": 2, "size": 64, "first_size": 64, "api_name": "/stylize"}


@pytest.fixture(scope="module")
def has_previews() -> bool:
    return True


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
    assert list(endpoints) == ["/stylize", "/preview"]  # the events of the page are private
    for endpoint, first, lines in (
        ("/stylize", ["content", "style", "styles"], api.STYLIZE_HELP),
        ("/preview", ["content", "styles"], api.PREVIEW_HELP),
    ):
        names = [each["parameter_name"] for each in endpoints[endpoint]["parameters"]]
        assert names == [*first, *api.API_OPTIONS, "masks"]
        for name in names:
            assert re.search(rf"^{name}: ", api.describe_endpoint(lines), re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content": "dog"}, "content is neither an uploaded file nor one of astronaut, "),
        ({"style": "/etc/passwd"}, "style is neither an uploaded file"),
        ({"size": 12}, "size is 12; it can be 64 to 16384"),
        ({"init": "/etc/passwd"}, "init is '/etc/passwd'; it can be content, style, noise"),
        ({"styles": ["woodcut"] * 4}, "styles is not a list of up to 3 more paintings"),
        ({"strength": "much"}, "strength"),
        ({"protect": ["faces", "/etc/passwd=50"]}, "There is no mask '/etc/passwd'; a mask is subject, background"),
        ({"regions": "/etc/passwd", "styles": ["mosaic"]}, "There is no mask '/etc/passwd'"),
        ({"masks": ["/etc/passwd"]}, "masks has something else than an uploaded file"),
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
    assert [provenance.read_record(path)["width"] for path in names["previews"]] == [64, 64]
    names["client"].close()


def test_the_commands_of_the_readme_paint(site: Site, photo: Path) -> None:
    (commands,) = [block for block in readme.blocks("sh", readme.UI_README) if "curl" in block]
    photo.with_name("photo.jpg").write_bytes(photo.read_bytes())
    short = commands.replace("http://127.0.0.1:7860/", site.address).replace(
        '\\"draft\\"', '\\"draft\\", \\"size\\": 64'
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", short], cwd=photo.parent, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout.rpartition("data: ")[2])
    picture = httpx.get(answer[0]["url"]).content
    assert provenance.read_record(picture)["options"]["preset"] == "draft"


def test_no_other_file_of_the_server_is_read(site: Site, photo: Path) -> None:
    for path in (str(photo), f"{site.studio.sessions.uploads}/../../{photo.name}", "x\0y", None, 3):
        with pytest.raises(UsageError, match="content is neither an uploaded file"):
            api.parse_request(site.studio, {"path": path}, "woodcut", None, *[None] * len(api.API_OPTIONS), None)


def test_a_damaged_upload_is_reported_by_name(client: Client, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(AppError, match=r"Cannot read 'bad\.png': ") as caught:
        client.predict(handle_file(tmp_path / "bad.png"), "woodcut", **SHORT)
    assert "styler-ui" not in str(caught.value)


def test_canceled_work_stops_at_once_and_the_next_begins(client: Client, site: Site) -> None:
    job = client.submit(**LONG)
    wait_for(job, Status.ITERATING)
    waiting = client.submit("cat", "woodcut", **SHORT)
    wait_for(waiting, Status.ITERATING)
    assert len(site.studio.thread._waiting) == 1
    job.cancel()
    assert Path(waiting.result(timeout=60)).exists()
    site.wait_until_idle()


def test_canceling_a_call_that_waits_leaves_the_running_one(client: Client, site: Site) -> None:
    running = client.submit(**LONG)
    wait_for(running, Status.ITERATING)
    waiting = client.submit(**LONG)
    wait_for(waiting, Status.ITERATING)
    waiting.cancel()
    due = time.monotonic() + 60
    while site.studio.thread.is_full:
        assert time.monotonic() < due
        time.sleep(0.01)
    assert site.is_painting
    assert not running.done()
    running.cancel()
    site.wait_until_idle()


def test_a_full_queue_refuses_calls(client: Client, site: Site) -> None:
    running = client.submit(**LONG)
    wait_for(running, Status.ITERATING)
    waiting = client.submit(**LONG)
    wait_for(waiting, Status.ITERATING)
    refused = client.submit(**LONG)
    with pytest.raises(AppError, match=QUEUE_FULL):
        refused.result(timeout=60)
    assert httpx.get(f"{site.address}readyz").status_code == 503
    for job in (waiting, running):
        job.cancel()
    site.wait_until_idle()
    assert httpx.get(f"{site.address}readyz").status_code == 200


def test_a_lost_connection_stops_the_work(site: Site) -> None:
    """A program that is killed sends no message: its event stream is cut off."""
    join_queue(site, "gone")
    with httpx.stream("GET", f"{site.address}gradio_api/queue/data?session_hash=gone", timeout=60) as stream:
        next(line for line in stream.iter_lines() if "process_generating" in line)
        assert site.is_painting
    site.wait_until_idle()


def join_queue(site: Site, session: str, **options: Any) -> None:
    """Request a picture as a program without Gradio's client would."""
    dependencies = httpx.get(f"{site.address}config").json()["dependencies"]
    endpoint = int(next(each["id"] for each in dependencies if each["api_name"] == "stylize"))
    values = ["cat", "woodcut", None, *(options.get(name) for name in (*api.API_OPTIONS, "masks"))]
    join = {"data": values, "fn_index": endpoint, "session_hash": session}
    assert httpx.post(f"{site.address}gradio_api/queue/join", json=join).status_code == 200


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


@pytest.fixture
def server_log(site: Site) -> Iterator[list[str]]:
    """Collect what the server logs: nothing, unless there is a bug."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def send_and_leave(site: Site, request: str, body: bytes = b"", read: int = 0) -> None:
    """Send a request, or only its beginning; read the beginning of the answer; and reset the connection."""
    address = httpx.URL(site.address)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(f"{request}\r\nHost: {address.host}\r\n".encode() + body)
        while read > 0:
            read -= len(connection.recv(read))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def upload(site: Site, name: str, data: bytes) -> str:
    return str(httpx.post(f"{site.address}gradio_api/upload", files={"files": (name, data)}).json()[0])


def test_a_visitor_who_leaves_leaves_no_traceback(
    site: Site, server_log: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = upload(site, "large.png", bytes(1_900_000))
    multipart = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99999\r\n\r\n--x\r\nContent-Dis"
    send_and_leave(site, "POST /gradio_api/upload HTTP/1.1", multipart)
    send_and_leave(site, "POST /gradio_api/queue/join HTTP/1.1", b"Content-Length: 99\r\n\r\n{")
    send_and_leave(site, f"GET /gradio_api/file={path} HTTP/1.1", b"\r\n", 1000)
    send_and_leave(site, f"GET /gradio_api/file={path} HTTP/1.1", b"Range: bytes=5-1000000\r\n\r\n", 1000)
    join_queue(site, "leaver", iterations=20_000)
    send_and_leave(site, "GET /gradio_api/queue/data?session_hash=leaver HTTP/1.1", b"\r\n", 1000)
    send_and_leave(site, "GET /gradio_api/heartbeat/leaver HTTP/1.1", b"\r\n", 100)
    assert "session_not_found" in httpx.get(f"{site.address}gradio_api/queue/data?session_hash=nobody").text
    site.wait_until_idle()
    assert (server_log, capfd.readouterr().err) == ([], "")


def test_a_file_that_vanishes_while_it_is_sent_leaves_no_traceback(
    site: Site, server_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = upload(site, "gone.png", b"x" * 100)
    answer = FileResponse.__call__

    async def answer_after_removal(self: FileResponse, *arguments: Any) -> None:
        Path(path).unlink(missing_ok=True)
        await answer(self, *arguments)

    monkeypatch.setattr(FileResponse, "__call__", answer_after_removal)
    response = httpx.get(f"{site.address}gradio_api/file={path}")
    assert (response.status_code, response.text) == (404, "This file is no longer on the server.")
    assert server_log == []


@pytest.mark.parametrize(
    ("ranges", "code", "length"),
    [
        ("bytes=0-9", 206, 10),
        ("bytes=90-5000", 206, 10),
        ("bytes=-5", 206, 5),
        ("bytes=40-", 206, 60),
        ("bytes=5-2", 400, None),
        ("bytes=1-2-3", 400, None),
        ("bytes=200-300", 416, 0),
    ],
)
def test_parts_of_a_file(site: Site, server_log: list[str], ranges: str, code: int, length: int | None) -> None:
    path = upload(site, "part.png", bytes(100))
    response = httpx.get(f"{site.address}gradio_api/file={path}", headers={"Range": ranges})
    assert response.status_code == code
    assert length is None or len(response.content) == length
    assert server_log == []


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("gradio_api/queue/join", b"{", "is not JSON"),
        ("gradio_api/queue/join", b"null", "has no list 'data'"),
        ("gradio_api/queue/join", b'{"data": [NaN]}', "is not JSON"),
        ("gradio_api/queue/join", b'{"data": [1e999]}', "is not JSON"),
        ("gradio_api/cancel", b'{"session_hash": NaN}', "is not JSON"),
        ("gradio_api/cancel", b'{"session_hash": ["\\ud800"]}', "is not JSON"),
        ("gradio_api/queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "x"}', "no such event"),
        ("gradio_api/queue/join", b'{"data": [], "fn_index": [], "session_hash": "x"}', "no such event"),
        ("gradio_api/queue/join", b'{"data": [], "fn_index": 1}', "no valid 'session_hash'"),
        ("gradio_api/queue/join", b'{"data": [], "fn_index": 1, "session_hash": "../x"}', "no valid 'session_hash'"),
        ("gradio_api/queue/join", b'{"data": [1], "fn_index": 1, "session_hash": "x"}', "values, not 1"),
        ("gradio_api/run/predict", b'{"data": [], "fn_index": 1, "session_hash": "x", "batched": true}', "no batched"),
        ("gradio_api/call/stylize", b'{"data": []}', "values, not 0"),
        ("gradio_api/call/v2/stylize", b"[]", "not a JSON object"),
        ("gradio_api/call/v2/stylize", b'{"content": "cat"}', "has no 'style'"),
        ("gradio_api/call/v2/preview", b'{"content": "cat", "paint": 1}', "no parameter 'paint'"),
        ("gradio_api/call/v2/nothing", b"{}", "nothing at this address"),
        ("gradio_api/call/nothing", b'{"data": []}', "nothing at this address"),
        ("gradio_api/component_server", b"{}", "nothing at this address"),
        ("gradio_api/vibe-edit", b"{}", "nothing at this address"),
    ],
)
def test_an_invalid_request_is_answered_with_a_sentence(
    site: Site, server_log: list[str], path: str, content: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    response = httpx.post(site.address + path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in {400, 404}
    assert message in response.text
    assert (server_log, capfd.readouterr().err) == ([], "")


def test_a_call_may_have_a_number_of_an_event_of_any_type(site: Site) -> None:
    events = httpx.get(f"{site.address}config").json()["dependencies"]
    stylize = next(event for event in events if event["api_name"] == "stylize")
    numbers: list[Any] = [[0], {}, "x", 10**30, None]
    for number in numbers:
        body = {"data": [None] * len(stylize["inputs"]), "fn_index": number}
        assert httpx.post(f"{site.address}gradio_api/call/stylize", json=body).status_code == 200


def test_values_that_do_not_fit_their_controls_are_not_a_bug(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    events = httpx.get(f"{site.address}config").json()["dependencies"]
    event = next(each for each in events if each["inputs"] and not each["queue"])
    values = [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}] * len(event["inputs"])
    request = {"data": values, "fn_index": event["id"], "session_hash": "odd"}
    response = httpx.post(f"{site.address}gradio_api/run/predict", json=request)
    assert response.json()["error"] == INVALID_VALUES
    assert capfd.readouterr().err == ""


def test_other_web_sites_cannot_use_the_page(site: Site) -> None:
    url = f"{site.address}gradio_api/reset"

    def post(**headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(url, json={"event_id": "x"}, headers=names)

    assert post().status_code == 200
    assert post(Origin="https://paint.example.org", Sec_Fetch_Site="same-origin").status_code == 200  # behind a proxy
    assert post(Origin="http://paint.lan", Host="paint.lan").status_code == 200
    for site_ in ("cross-site", "same-site"):
        assert post(Origin="https://evil.example.org", Sec_Fetch_Site=site_).status_code == 403
    rebound = post(Origin="http://evil.example.org:7860", Host="evil.example.org:7860")
    assert (rebound.status_code, "start it with --root-path" in rebound.text) == (403, True)
    page = httpx.get(site.address, headers={"Origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in page.headers


def test_an_event_ends_if_its_visitor_reads_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_UNREAD", 3)
    join_queue(site, "silent", iterations=20_000)
    while not site.is_painting:
        time.sleep(0.01)
    site.wait_until_idle()


def test_too_many_files_at_once_are_refused(site: Site) -> None:
    guard = RequestGuard(site.studio, site.studio.sessions, lambda *_: "", max_upload=1000)  # type: ignore[arg-type] # nothing is passed on
    scope = {"headers": [(b"content-length", b"999999999999")]}
    assert run_coroutine(guard._check_upload(scope)) == (413, "The upload is too large; send 200 files at most.")


def test_an_upload_that_does_not_fit_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.studio.sessions, "max_bytes", 1000)
    response = httpx.post(f"{site.address}gradio_api/upload", files={"files": ("x.png", bytes(5000))})
    assert response.status_code == 503
    assert "no room for more pictures now" in response.text


def test_an_upload_keeps_the_name_its_owner_gave_it(site: Site) -> None:
    place = site.studio.sessions.uploads / "some" / "x.png"
    upload = api._resolve_upload(site.studio, {"path": str(place), "orig_name": "mine.png"}, {}, "content")
    assert upload == Upload(place.resolve(), "mine.png")
