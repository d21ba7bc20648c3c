"""Standard streams that are closed, full or not read: no picture is lost."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images

if sys.platform == "win32":
    pytest.skip("Windows has no such streams", allow_module_level=True)

STYLER = [sys.executable, "-m", "styler"]
RUN = [*STYLER, "run", "photo.png", "painting.png", "--size", "64", "--first-size", "64", "--iterations", "1"]
RUN += ["--device", "cpu", "-v", "-o", "out.png"]
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_in_shell(command: list[str], redirected: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with its streams redirected by a shell."""
    line = ["sh", "-c", f'"$@" {redirected}', "sh", *command]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)


STDERR = ["2>&-", "<&- 2>&-", pytest.param("2>/dev/full", marks=FULL)]


@pytest.mark.parametrize("redirected", STDERR)
def test_an_unwritable_stderr_does_not_lose_the_picture(redirected: str, folder: Path) -> None:
    process = run_in_shell(RUN, redirected)
    assert (process.returncode, process.stdout, process.stderr) == (0, "out.png\n", "")
    assert images.read_image("out.png").width == 64
    assert {path.name for path in folder.iterdir()} == {"photo.png", "painting.png", "out.png"}


def test_a_closed_log_reader_does_not_lose_the_picture() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(RUN, stdout=subprocess.PIPE, stderr=writer, text=True, check=False, timeout=100)
    os.close(writer)
    assert (process.returncode, process.stdout) == (0, "out.png\n")
    assert images.read_image("out.png").width == 64


def test_a_closed_stdout_is_an_error_but_the_picture_is_saved() -> None:
    process = run_in_shell(["-q" if word == "-v" else word for word in RUN], ">&-")
    assert process.returncode == 1
    assert re.fullmatch(
        r"styler: error: The picture was saved as 'out\.png', but [^\n]* closed; [^\n]*\n", process.stderr
    )
    assert images.read_image("out.png").width == 64
    assert run_in_shell(RUN, ">&- 2>&- <&-").returncode == 2, "it already exists"


@pytest.mark.parametrize("redirected", [">&-", pytest.param(">/dev/full", marks=FULL)])
@pytest.mark.parametrize(
    "tokens", ["--help", "run --help", "--version", "styles", "styles --json", "config", "presets"]
)
def test_an_unwritable_stdout_is_one_sentence(tokens: str, redirected: str) -> None:
    process = run_in_shell([*STYLER, *tokens.split()], redirected)
    assert process.returncode == 1
    assert re.fullmatch(r"styler: error: Standard output [^\n]*[^.]\.\n", process.stderr), process.stderr
    assert "bug in styler" not in process.stderr


@pytest.mark.parametrize("tokens", ["--help", "run --help", "styles", "config"])
def test_a_reader_that_closes_the_pipe_is_not_an_error(tokens: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*STYLER, *tokens.split()]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=100)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, "")


def test_a_picture_for_a_closed_stdout_is_rejected_before_any_work(folder: Path) -> None:
    process = run_in_shell([*RUN[:-1], "-"], ">&-")
    assert process.returncode == 2
    assert "Standard output is closed; redirect it to a file" in process.stderr


def test_a_terminal_without_unicode_gets_escapes_and_the_unchanged_name(folder: Path) -> None:
    (folder / "photo.png").rename(folder / "café ☕.png")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*STYLER, "run", "café ☕.png", "painting.png", *RUN[6:-2]]
    for more in ([], ["--dry-run"]):
        process = subprocess.run([*command, *more], capture_output=True, check=False, timeout=100, env=plain)
        assert process.returncode == 0, process.stderr
        assert process.stderr.isascii()
        assert more or process.stdout == "café ☕.painting.png\n".encode()
