"""Tests of `styler ui`: its flags and errors, its health endpoints, its password, and that it is self-contained."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from styler import library
from styler.cli import main
from styler.options import Options
from ui import api, controls, server
from ui.middleware import RequestGuard
from ui.server import ServerConfig
from ui.session import FinishedPicture, PaintRequest, Upload
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

    def keep(config: ServerConfig, listener: socket.socket) -> None:
        listener.close()
        configs.append(config)

    monkeypatch.setattr(server, "serve_page", keep)
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
    studio = Studio()
    studio.thread.max_waiting = 0
    try:
        assert "The queue is full." in server.list_unready(studio)
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


def test_files_and_variables_set_the_defaults(
    served_configs: list[ServerConfig], free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "styler").mkdir()
    (tmp_path / "styler" / "styler.toml").write_text('seed = 3\n[ui]\nqueue = 7\nmax_upload = "3mb"\nstrength = 20\n')
    (tmp_path / "styler.toml").write_text(
        f'size = 300\nprecision = "bf16"\n[batch]\nsize = 99\n[ui]\nport = {free_port}\nqueue = 5\npreset = "draft"\n'
    )
    monkeypatch.setenv("STYLER_STRENGTH", "70")
    monkeypatch.setenv("STYLER_THREADS", "2")
    assert main(["ui", "--device", "cpu", "--precision", "fp32", "--checkpoint", "on", "--queue", "6"]) == 0
    machine: dict[str, Any] = {"device": "cpu", "precision": "fp32", "checkpoint": "on", "threads": 2}
    options = Options.of(preset="draft", size=300, seed=3, strength=70, **machine)
    assert served_configs == [ServerConfig(port=free_port, max_upload=3_000_000, queue=6, options=options)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ui]\nport = 0", "In 'styler.toml': port is 0; it can be 1 to 65535."),
        ('[ui]\nport = "7860"', "In 'styler.toml': port is '7860'; it can be 1 to 65535."),
        ("[ui]\nqueue = true", "In 'styler.toml': queue is True; it can be 1 or more."),
        ("[ui]\nhost = 5", "In 'styler.toml': host is 5; it can be an address of this machine, such as 127.0.0.1."),
        ('[ui]\nopen = "yes"', "In 'styler.toml': open is 'yes'; it can be true or false."),
        (
            "[ui]\nmax_upload = 5",
            "In 'styler.toml': max_upload is 5; it can be a number with kb, mb or gb, such as 25mb.",
        ),
        ("[ui]\nauth = 5", "In 'styler.toml': auth is 5; it can be USER:FILE, where FILE contains the password."),
        ("[ui]\nroot_path = 5", "In 'styler.toml': root_path is 5; it can be a path such as /paint, or an address"),
        ("[ui]\nprot = 5", "In 'styler.toml': There is no setting 'prot'; "),
        ("[ui]\nsize = 5", "In 'styler.toml': size is 5; it can be 64 to 16384"),
        ("ui = 5", "In 'styler.toml': ui is not a table; "),
        (
            'init = "other.png"',
            "init is 'other.png', which the page cannot start from; it can be content, style, noise",
        ),
        ("", "In the variable STYLER_SEED: seed is "),
    ],
)
def test_invalid_settings_are_reported_with_their_place(
    text: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    served_configs: list[ServerConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "styler.toml").write_text(text)
    if not text:
        monkeypatch.setenv("STYLER_SEED", "-5")
    assert main(["ui"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"styler: error: {message}")
    assert error.count("\n") == 1
    assert not served_configs


def test_a_missing_device_is_reported_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], served_configs: list[ServerConfig]
) -> None:
    assert main(["ui", "--device", "cuda:99"]) == 1
    assert "GPU" in capsys.readouterr().err
    assert not served_configs


def test_the_defaults_are_those_of_the_page_and_of_the_api(use_tiny: None) -> None:
    defaults = Options.of(
        preset="draft", seed=4, strength=20, iterations=50, layer_weights=(3,), device="cpu", threads=1
    )
    studio = Studio(defaults)
    try:
        app = server.make_server(studio, ServerConfig(options=defaults))
        components = {
            each["props"].get("elem_id"): each["props"].get("value") for each in app.state.page.config["components"]
        }
        shown = [components[f"option-{name}"] for name in controls.PAGE_OPTIONS]
        assert controls.options_from_values(shown) == defaults.replace(device="auto", threads=0)
        assert components["batch-preset"] == "draft"
        batch = [components[f"batch-{name}"] for name in controls.BATCH_OPTIONS]
        assert controls.options_from_batch_values(batch, defaults) == defaults
        with TestClient(app) as client:
            endpoint = client.get("/gradio_api/info").json()["named_endpoints"]["/stylize"]["parameters"]
        given = {
            each["parameter_name"]: each["parameter_default"] for each in endpoint if each["parameter_has_default"]
        }
        assert (given["seed"], given["preset"], given["iterations"]) == (4, "draft", None)
        call = [given[name] for name in (*api.API_OPTIONS, "masks")]
        assert api.parse_request(studio, "cat", "woodcut", None, *call).options == defaults
        call[api.API_OPTIONS.index("preset")] = "standard"
        other = api.parse_request(studio, "cat", "woodcut", None, *call).options
        assert (other.iterations, other.seed) == (Options().iterations, 4)
    finally:
        studio.close()


def test_a_preset_chosen_again_returns_to_the_defaults_of_the_server() -> None:
    defaults = Options.of(preset="draft", iterations=50)
    values = controls.values_from_options(Options.of(preset="fine"))
    values[controls.PAGE_OPTIONS.index("preset")] = "draft"
    changed = zip(
        controls.list_bundle_options("preset"), controls.apply_bundle("preset", *values, defaults=defaults), strict=True
    )
    back = dict(zip(controls.PAGE_OPTIONS, values, strict=True)) | dict(changed)
    assert controls.options_from_values(back.values()) == defaults


def test_a_visitor_cannot_change_the_machine(use_tiny: None, tmp_path: Path) -> None:
    studio = Studio(Options(device="cpu", precision="fp32", threads=1))
    try:
        upload = [Upload.from_path(each) for each in (library.list_contents()["cat"], library.list_styles()["woodcut"])]
        wishes = Options(
            size=64, first_size=64, iterations=1, device="cuda:7", precision="bf16", threads=64, backbone="vgg19"
        )
        request = PaintRequest(content=upload[0], styles=(upload[1],), options=wishes)
        *_, picture = studio.paint(studio.sessions.get("visitor"), request)
        assert isinstance(picture, FinishedPicture)
        used = picture.record["options"]
        assert [used[name] for name in ("device", "precision", "threads", "backbone")] == ["cpu", "fp32", 1, "vgg16"]
    finally:
        studio.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "0"], "--port is 0; it can be 1 to 65535."),
        (["--queue", "0"], "--queue is 0"),
        (["--root-path", "art"], "--root-path is 'art'"),
        (["--root-path", "//art"], "--root-path is '//art'"),
        (["--root-path", "https://"], "--root-path is 'https://'"),
        (["--root-path", "ftp://example.org/art"], "it can be a path such as /paint, or an address such as https://"),
        (["--root-path", "/art?x=1"], "--root-path is '/art?x=1'"),
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


@pytest.mark.parametrize(
    ("root_path", "headers", "address"),
    [
        ("", {}, "http://testserver"),
        ("/paint", {}, "http://testserver/paint"),
        ("/paint", {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}, "https://example.org/paint"),
        ("https://example.org/paint", {"X-Forwarded-Host": "other"}, "https://example.org/paint"),
        ("/paint", {"Referer": "https://example.org/paint/"}, "."),
        ("", {"Origin": "https://example.org", "X-Forwarded-Host": "other"}, "."),
    ],
)
def test_programs_get_whole_addresses_and_browsers_relative_ones(
    root_path: str, headers: dict[str, str], address: str
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        root = Headers(scope=scope)["x-gradio-server"]  # which Gradio puts before the paths of files
        await PlainTextResponse(f"{root} {scope['path']}")(scope, receive, send)

    client = TestClient(RequestGuard(answer, None, lambda *_: "", 1, root_path))  # type: ignore[arg-type] # nothing is uploaded
    assert client.get("/config", headers=headers).text == f"{address} /config"
    if path := root_path.removeprefix("https://example.org"):
        assert client.get(f"{path}/config", headers=headers).text == f"{address} /config"  # the proxy kept the path
        redirect = client.get(path, follow_redirects=False)
        assert (redirect.status_code, redirect.headers["location"]) == (307, f"{path}/")


def test_the_address_is_that_of_the_proxy_if_it_is_known() -> None:
    assert ServerConfig(root_path="/paint").address == "http://127.0.0.1:7860/paint/"
    assert ServerConfig(root_path="https://example.org/paint").address == "https://example.org/paint/"
    assert ServerConfig(host="::").address == "http://[::1]:7860/"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_it_starts_with_any_proxy_and_no_variables_and_ends_at_once_with_visitors(free_port: int) -> None:
    """A SOCKS proxy would need another package, and the page of an open browser never closes its connection."""
    proxies = {"ALL_PROXY": "socks5://127.0.0.1:1080", "https_proxy": "http://x@127.0.0.1:1", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "styler", "ui", "--port", str(free_port), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=proxies, text=True)
    try:
        address = f"http://127.0.0.1:{free_port}/"
        with httpx.Client(trust_env=False, timeout=120) as client:
            assert process.stderr is not None
            assert process.stderr.readline() == f"styler: The page is at {address} (Ctrl-C stops it).\n"
            with client.stream("GET", f"{address}gradio_api/heartbeat/visitor") as stream:
                assert "ALIVE" in next(stream.iter_lines())
                process.send_signal(signal.SIGTERM)
                assert process.wait() == -signal.SIGTERM
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]


def test_help_does_not_load_gradio() -> None:
    check = "assert not {'gradio', 'torch', 'ui'} & set(sys.modules)"
    script = f"import sys; from styler.cli import main; main(['ui', '--help']); {check}"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for flag in ("--host", "--port", "--root-path", "--auth", "--max-upload", "--queue", "--open", "--no-open"):
        assert flag in process.stdout
