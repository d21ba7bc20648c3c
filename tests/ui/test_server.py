"""Claims about `styler ui`: its refusals, its health, its password, and that it asks nobody else for anything."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from styler.cli import main
from ui import server
from ui.server import ServerConfig
from ui.studio import Studio


@pytest.fixture
def client(use_tiny: None) -> Iterator[TestClient]:
    """The whole server, with a user and a password."""
    with TestClient(server.make_server(Studio(), ServerConfig(auth=("me", "secret"), queue=2))) as client:
        yield client


@pytest.fixture
def nothing_served(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """What would have been served."""
    served: list[ServerConfig] = []
    monkeypatch.setattr(server, "serve_page", served.append)
    return served


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_is_alive_at_once_and_ready_with_its_weights(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    for _ in range(100):
        answer = client.get("/readyz")
        if answer.status_code == 200:
            break
        assert answer.status_code == 503
        assert answer.json()["lacking"] == ["The weights are not loaded yet."]
        time.sleep(0.05)
    assert client.get("/readyz").json() == {"status": "ready", "lacking": []}


def test_it_is_not_ready_without_disk_or_with_a_full_queue(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MIN_FREE_DISK", 10**30)
    assert "The disk is almost full." in client.get("/readyz").json()["lacking"]
    page: Any = type("Page", (), {"_queue": type("Queue", (), {"max_size": 2, "__len__": lambda _self: 2})()})()
    studio = Studio()
    try:
        assert "The queue is full." in server.list_unready(studio, page)
    finally:
        studio.close()


def test_the_page_asks_for_the_password(client: TestClient) -> None:
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    assert client.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["show_error"] is False
    assert client.get("/monitoring").status_code >= 400


def test_the_page_names_no_font_or_script_of_another_host(client: TestClient) -> None:
    client.post("/login", data={"username": "me", "password": "secret"})
    page = client.get("/").text
    fetched = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?://[^"]+)"', page)
    assert [address for address in fetched if "testserver" not in address] == []
    assert "fonts.googleapis" not in client.get("/theme.css").text


def test_a_taken_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert (
        said
        == f"styler: error: Cannot listen at 127.0.0.1:{port}: address already in use; give another --port or --host.\n"
    )


def test_another_host_without_a_password_is_warned_of(
    capsys: pytest.CaptureFixture[str], nothing_served: list[ServerConfig], free_port: int, tmp_path: Path
) -> None:
    password = tmp_path / "password.txt"
    password.write_text("secret:with colon\n", encoding="utf-8")
    assert main(["ui", "--host", "0.0.0.0", "--port", str(free_port)]) == 0
    assert "ask for a password with --auth" in capsys.readouterr().err
    assert main(["ui", "--host", "0.0.0.0", "--port", str(free_port), "--auth", f"me:{password}"]) == 0
    said = capsys.readouterr().err
    assert "warning" not in said
    assert f"The page is at http://127.0.0.1:{free_port}/" in said
    assert nothing_served[1].auth == ("me", "secret:with colon")


def test_what_is_asked_for_is_what_is_served(nothing_served: list[ServerConfig], free_port: int) -> None:
    asked = ["--port", str(free_port), "--root-path", "/art", "--max-upload", "3mb", "--queue", "5", "--no-open"]
    assert main(["ui", *asked]) == 0
    assert nothing_served == [ServerConfig(port=free_port, root_path="/art", max_upload=3_000_000, queue=5)]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "0"], "--port is 0; it can be 1 to 65535."),
        (["--queue", "0"], "--queue is 0"),
        (["--root-path", "art"], "--root-path is 'art'"),
        (["--max-upload", "much"], "--max-upload is 'much'"),
        (["--auth", "me"], "it can be USER:FILE"),
        (["--auth", "me:not-there.txt"], "Cannot read the password in 'not-there.txt'"),
        (["--auth", "me:/dev/null"], "is empty"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str], nothing_served: list[ServerConfig]
) -> None:
    assert main(["ui", *flags]) == 2
    assert sentence in capsys.readouterr().err
    assert not nothing_served


def test_help_loads_no_gradio() -> None:
    claim = "assert not {'gradio', 'torch', 'ui'} & set(sys.modules)"
    script = f"import sys; from styler.cli import main; main(['ui', '--help']); {claim}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for flag in ("--host", "--port", "--root-path", "--auth", "--max-upload", "--queue", "--open", "--no-open"):
        assert flag in done.stdout
