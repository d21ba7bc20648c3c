"""Signals at the worst moments: a file is the old or the new one, and a killed run leaves one temporary file."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images
from styler.cli import main

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

RUN = [
    *("run", "photo.png", "painting.png", "--size", "64", "--first-size", "64", "--device", "cpu"),
    *("--precision", "fp32"),  # so that nothing is measured and stored
    *("--iterations", "2"),
]
INPUTS = {"photo.png", "painting.png"}

PROGRAM = """
import os, signal, sys
from styler.cli import main
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in background jobs of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
where, numbers, tokens = sys.argv[1], [int(number) for number in sys.argv[2].split(",")], sys.argv[3:]
module, name = where.rsplit(".", 1)
owner = __import__(module, fromlist=["x"])
real = getattr(owner, name)
def struck(*given, **named):
    while numbers:
        os.kill(os.getpid(), numbers.pop(0))
    return real(*given, **named)
setattr(owner, name, struck)
sys.exit(main(tokens))
"""
"""Runs styler and sends signals when a given function is called."""

READING, LOADING, STEPPING = (
    "styler.images.read_image",
    "styler.vgg.registry.load_backbone",
    "styler.engine.optimizers.adam",
)
ENCODING, FLUSHING, RENAMING = "styler.images.encode_image", "os.fsync", "os.replace"
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    for seed, name in enumerate(sorted(INPUTS)):
        images.write_file(folder / name, images.encode_image(pixels(48, 64, seed)))
    images.write_file(folder / "old.png", images.encode_image(pixels(20, 20, 9)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def list_locks(folder: Path) -> list[Path]:
    return [path for path in (folder.parent / "cache").rglob("*") if path.is_file()]


MOMENTS = [
    (READING, [TERM], 143, ()),
    (LOADING, [INT], 130, ()),
    (STEPPING, [INT], 130, ()),  # before the first iteration
    (ENCODING, [TERM, TERM], 143, ()),
    (FLUSHING, [INT], 0, ("new",)),  # the picture is already complete
    (FLUSHING, [INT, TERM], 143, ()),
    (RENAMING, [TERM], 0, ("new",)),
    (FLUSHING, [KILL], -KILL, ("temporary", "lock")),
    (RENAMING, [KILL], -KILL, ("temporary", "lock")),
]


@pytest.mark.parametrize(("moment", "numbers", "code", "after"), MOMENTS, ids=str)
def test_files_are_old_or_new_whenever_a_signal_arrives(
    moment: str, numbers: list[signal.Signals], code: int, after: tuple[str, ...], folder: Path, use_tiny: None
) -> None:
    old = (folder / "old.png").read_bytes()
    listed = ",".join(str(int(number)) for number in numbers)
    command = [sys.executable, "-c", PROGRAM, moment, listed, *RUN, "-q", "-o", "old.png", "--overwrite"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert process.returncode == code, process.stderr
    data = (folder / "old.png").read_bytes()
    assert (images.read_image(data).width == 64) if "new" in after else (data == old)
    temporary = list_names(folder) - INPUTS - {"old.png"}
    assert len(temporary) == ("temporary" in after)
    assert all(re.fullmatch(r"\.styler-[0-9a-f]+\.tmp", name) for name in temporary)
    assert bool(list_locks(folder)) == ("lock" in after)
    if code == -KILL:  # the next run in that folder removes it
        assert main([*RUN, "-q", "-o", "old.png", "--overwrite"]) == 0
        assert list_names(folder) == {*INPUTS, "old.png"}
        assert list_locks(folder) == []


def test_a_second_run_names_the_process_that_is_writing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "styler", *RUN[:-1], "100000", "-o", "out.png"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert "iteration 1 of 100000" in first.stderr.readline(), "it paints"
        assert main([*RUN, "-o", "out.png"]) == 1
        assert f"Another run of styler (process {first.pid} on " in capsys.readouterr().err
        first.terminate()
        first.communicate(timeout=100)
        assert first.returncode == 143
    assert list_names(folder) == {*INPUTS, "old.png", "out.partial.png"}
    assert list_locks(folder) == []
