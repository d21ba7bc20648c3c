"""What containers and services are like: nothing can be written but one folder, the user is unknown, nothing is set."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images

ROOT = Path(__file__).resolve().parent.parent
INPUTS = {"photo.png", "painting.png"}
RUN = ["run", "photo.png", "painting.png", "--size", "64", "--first-size", "64", "--iterations", "1"]

CONTAINER = """
set -eu
folder=$1; shift
mount --bind "$folder" "$folder"
while read -r _ mounted _; do
    case "$mounted" in "$folder" | /proc | /proc/*) continue ;; esac
    mount -o remount,bind,ro "$mounted" 2>/dev/null || true
done < /proc/mounts
cd "$folder"
if touch /tmp/a /var/tmp/a /dev/shm/a "$HOME/a" 2>/dev/null; then echo "the root can be written"; exit 99; fi
exec unshare --user --map-user=12345 --map-group=12345 env -i "$@"
"""
"""Runs a command that can write to one folder alone, as a user without an account, and without any variable."""


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]]) -> Path:
    for seed, name in enumerate(sorted(INPUTS)):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    return tmp_path


def contain(folder: Path, *command: str) -> list[str]:
    """Return the command that runs another one in a container; skips the test where that is not possible."""
    start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINER, "sh", str(folder)]
    if os.geteuid() != 0:
        start[1:1] = ["--user", "--map-root-user"]
    reason = "unshare is not installed"
    if shutil.which("unshare"):
        trial = subprocess.run([*start, "true"], capture_output=True, text=True, check=False)
        reason = f"namespaces cannot be made here: {trial.stderr.strip()}" if trial.returncode else ""
    if reason and os.environ.get("CI") == "true":
        raise AssertionError(reason)
    if reason:
        pytest.skip(reason)
    return [*start, *command]


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="needs the namespaces of Linux")
@pytest.mark.parametrize("verb", ["run", "ui"])
def test_a_container_with_one_writable_folder(verb: str, folder: Path) -> None:
    """Painting needs nothing but the folder of the output; the page needs a folder for uploads, and says so."""
    words = [*RUN, "-o", "größer.png"] if verb == "run" else ["ui", "--port", "7999"]
    variables = ["LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"]  # as ASCII as it gets
    work = "" if verb == "run" else "cd /; "
    shell = ["sh", "-c", f'{work}exec "$@"', "sh", sys.executable, "-m", "styler", *words]
    command = contain(folder, *variables, f"PYTHONPATH={ROOT}", *shell)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=200)
    err = done.stderr.decode()
    if verb == "run":
        assert (done.returncode, done.stdout) == (0, "größer.png\n".encode()), err
        assert list_names(folder) == {*INPUTS, "größer.png"}
        assert images.read_image(folder / "größer.png").width == 64
    else:
        assert done.returncode == 1
        assert err == (
            "styler: error: There is no folder for temporary files: /tmp and the working folder cannot be written; "
            "set TMPDIR to a writable folder.\n"
        )


def read_health_check() -> list[str]:
    """Return the command of the health check in the Dockerfile of ui/README.md."""
    text = (ROOT / "ui" / "README.md").read_text(encoding="utf-8")
    match = re.search(r"^HEALTHCHECK .*\\\n  CMD (.+)$", text, re.MULTILINE)
    assert match
    return shlex.split(match[1])


@pytest.mark.skipif(sys.platform != "linux", reason="needs the namespaces of Linux")
def test_the_page_in_a_container_is_healthy_and_ends_without_a_trace(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    check = [sys.executable, *(word.replace("7860", port) for word in read_health_check()[1:])]
    variables = [f"TMPDIR={folder}", f"PYTHONPATH={ROOT}"]
    command = contain(folder, *variables, sys.executable, "-m", "styler", "ui", "--host", "0.0.0.0", "--port", port)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            while server.poll() is None and subprocess.run(check, capture_output=True, check=False).returncode:
                time.sleep(0.2)  # as Docker does
            assert any(name.startswith("styler-ui-") for name in list_names(folder))
        finally:
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=100)
    assert server.returncode == -signal.SIGTERM
    assert re.fullmatch(r"styler: warning: everyone who can reach 0\.0\.0\.0 .*\nstyler: The page is at .*\n", err)
    assert list_names(folder) == INPUTS
