"""Tests of `styler ui`: its flags and errors, its health endpoints, its password, and that it is self-contained."""

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
    """Connect to the whole server, which asks for a password."""
    with TestClient(server.make_server(Studio(), ServerConfig(auth=("me", "secret"), queue=2))) as client:
        yield client


@pytest.fixture
def served_configs(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """Collect the configurations that would have been served; nothing is."""
    configs: list[ServerConfig] = []
    monkeypatch.setattr(server, "serve_page", configs.append)
    return configs


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_healthz_answers_at_once_and_readyz_after_loading_the_weights(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    for _ in range(100):
        answer = client.get("/readyz")
        if answer.status_code == 200:
            break
        assert answer.status_code == 503
        assert answer.json()["lacking"] == ["The weights are not loaded yet."]
        time.sleep(0.05)
    assert client.get("/readyz").json() == {"status": "ready", "lacking": []}


def test_a_full_disk_or_queue_means_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MIN_FREE_DISK", 10**30)
    assert "The disk is almost full." in client.get("/readyz").json()["lacking"]
    page: Any = type("Page", (), {"_queue": type("Queue", (), {"max_size": 2, "__len__": lambda _self: 2})()})()
    studio = Studio()
    try:
        assert "The queue is full." in server.list_unready(studio, page)
    finally:
        studio.close()


def test_the_page_requires_the_password(client: TestClient) -> None:
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    assert client.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["show_error"] is False
    assert client.get("/monitoring").status_code >= 400


def test_fonts_and_scripts_come_from_the_server_itself(client: TestClient) -> None:
    client.post("/login", data={"username": "me", "password": "secret"})
    page = client.get("/").text
    addresses = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?://[^"]+)"', page)
    assert [address for address in addresses if "testserver" not in address] == []
    assert "fonts.googleapis" not in client.get("/theme.css").text


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 1
    message = capsys.readouterr().err
    assert (
        message
        == f"styler: error: Cannot listen at 127.0.0.1:{port}: address already in use; give another --port or --host.\n"
    )


def test_serving_other_hosts_without_a_password_warns(
    capsys: pytest.CaptureFixture[str], served_configs: list[ServerConfig], free_port: int, tmp_path: Path
) -> None:
    password = tmp_path / "password.txt"
    password.write_text("secret:with colon\n", encoding="utf-8")
    assert main(["ui", "--host", "0.0.0.0", "--port", str(free_port)]) == 0
    assert "require a login with --auth" in capsys.readouterr().err
    assert main(["ui", "--host", "0.0.0.0", "--port", str(free_port), "--auth", f"me:{password}"]) == 0
    message = capsys.readouterr().err
    assert "warning" not in message
    assert f"The page is at http://127.0.0.1:{free_port}/" in message
    assert served_configs[1].auth == ("me", "secret:with colon")


def test_flags_set_the_configuration(served_configs: list[ServerConfig], free_port: int) -> None:
    flags = ["--port", str(free_port), "--root-path", "/art", "--max-upload", "3mb", "--queue", "5", "--no-open"]
    assert main(["ui", *flags]) == 0
    assert served_configs == [ServerConfig(port=free_port, root_path="/art", max_upload=3_000_000, queue=5)]


@pytest.mark.parametrize(
    ("flags", "message"),
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
def test_invalid_flags_are_reported(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], served_configs: list[ServerConfig]
) -> None:
    assert main(["ui", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not served_configs


def test_help_does_not_load_gradio() -> None:
    check = "assert not {'gradio', 'torch', 'ui'} & set(sys.modules)"
    script = f"import sys; from styler.cli import main; main(['ui', '--help']); {check}"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for flag in ("--host", "--port", "--root-path", "--auth", "--max-upload", "--queue", "--open", "--no-open"):
        assert flag in process.stdout
