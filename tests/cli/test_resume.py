"""`styler run --resume` after a crash: the same picture, or a sentence that says why not."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, provenance
from styler.batch.states import StateKeeper, locate_state
from styler.cli import files, main
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.engine.resume.state import Snapshot
from styler.errors import OutputError
from styler.options import Options

RUN = [
    *("run", "photo.png", "painting.png", "--size", "64", "--first-size", "32", "--iterations", "4", "--taper", "1"),
    *("--device", "cpu", "--precision", "fp32", "--threads", "1", "--protect", "none"),
]
INPUTS = {"photo.png", "painting.png"}
OUT, STATE = "out.png", "out.png.resume"
Capture = pytest.CaptureFixture[str]

PROGRAM = """
import os, signal, sys
from functools import partial
import styler.cli.app
from styler.batch.states import StateKeeper
from styler.cli import main
run, update = sys.modules["styler.cli.run"], StateKeeper.update
run._open_state = partial(run._open_state, interval=0.0)
def struck(keeper, progress):
    update(keeper, progress)
    if progress.total_iterations == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
StateKeeper.update = struck
sys.exit(main(sys.argv[2:]))
"""
"""Runs styler, saves the state after every iteration, and dies after a given one."""


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    for seed, name in enumerate(sorted(INPUTS)):
        images.write_file(folder / name, images.encode_image(pixels(64, 64, seed)))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch, use_tiny: None) -> None:
    """Save the state after every iteration."""
    run = importlib.import_module("styler.cli.run")
    monkeypatch.setattr(run, "_open_state", partial(run._open_state, interval=0.0))


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, *numbers: int) -> None:
    """Send signals after an iteration, before its state is saved."""
    update = StateKeeper.update

    def struck(self: StateKeeper, progress: Progress) -> str | None:
        if progress.total_iterations == at and progress.result is None:
            for number in numbers:
                signal.raise_signal(number)
        return update(self, progress)

    monkeypatch.setattr(StateKeeper, "update", struck)


def list_names() -> set[str]:
    return {path.name for path in Path().iterdir()}


def read_painting(name: str = OUT) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return the pixels and the record of a picture, without the seconds."""
    record = {**provenance.read_record(name), "seconds": 0, "scale_seconds": 0}
    return images.read_image(name).pixels, record


def check_same(name: str) -> None:
    """Check that the output is the same as another picture."""
    ours, theirs = read_painting(), read_painting(name)
    assert np.array_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_killed_run_is_resumed_to_the_same_picture(folder: Path, capsys: Capture) -> None:
    command = [sys.executable, "-c", PROGRAM, "6", *RUN, "-q", "-o", OUT]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert list_names() == INPUTS | {STATE}
    assert main([*RUN, "-q", "-o", OUT, "--resume"]) == 0
    assert list_names() == INPUTS | {OUT}
    assert main([*RUN, "-q", "-o", "whole.png"]) == 0
    check_same("whole.png")
    assert read_painting()[1]["iterations"] == 8


@pytest.fixture
def interrupted(folder: Path, eager: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> str:
    """Interrupt a run twice, and return what it said."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        interrupt(patch, 6, signal.SIGINT, signal.SIGINT)
        assert main([*RUN, "-q", "-o", OUT]) == 130
    signal.signal(signal.SIGINT, before)
    assert list_names() == INPUTS | {STATE}
    return capsys.readouterr().err


def test_the_second_signal_names_the_state(interrupted: str, capsys: Capture) -> None:
    assert interrupted == (f"styler: The painting is kept in '{STATE}'; --resume continues it.\nstyler: Interrupted.\n")
    assert main([*RUN, "-o", OUT, "--resume", "-vv"]) == 0
    err = capsys.readouterr().err
    assert "note" not in err
    assert "Saved the state 3 times" in err
    assert list_names() == INPUTS | {OUT}
    assert main([*RUN, "-q", "-o", "whole.png"]) == 0
    check_same("whole.png")


def test_a_stopped_run_keeps_its_picture_and_no_state(
    folder: Path, eager: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt(monkeypatch, 6, signal.SIGINT)
    assert main([*RUN, "-q", "-o", OUT]) == 130
    signal.signal(signal.SIGINT, before)
    assert list_names() == INPUTS | {"out.partial.png"}


def test_without_a_state_the_painting_begins(folder: Path, use_tiny: None, capsys: Capture) -> None:
    assert main([*RUN, "-o", OUT, "--resume", "--no-progress"]) == 0
    note = f"styler: note: There is no state '{STATE}' to resume from; the painting begins.\n"
    assert capsys.readouterr() == (f"{OUT}\n", note)
    assert list_names() == INPUTS | {OUT}


def test_a_state_that_is_not_wanted_is_named_and_replaced(interrupted: str, capsys: Capture) -> None:
    assert main([*RUN, "-o", OUT, "--no-progress", "--seed", "3"]) == 0
    err = capsys.readouterr().err
    assert f"An earlier run left its state in '{STATE}'; this one begins anew. --resume would continue it." in err
    assert list_names() == INPUTS | {OUT}


def test_a_changed_photo_is_named(interrupted: str, capsys: Capture) -> None:
    images.write_file("photo.png", Path("painting.png").read_bytes(), overwrite=True)
    assert main([*RUN, "-q", "-o", OUT, "--resume"]) == 1
    assert capsys.readouterr().err == (
        f"styler: error: Cannot resume from '{STATE}': the photo ('photo.png') has changed; give what was given "
        "before, or begin again, without --resume.\n"
    )
    assert list_names() == INPUTS | {STATE}


def test_a_changed_setting_is_named(interrupted: str, capsys: Capture) -> None:
    assert main([*RUN, "-q", "-o", OUT, "--resume", "--strength", "70"]) == 1
    assert f"Cannot resume from '{STATE}': the option strength is 70 and was 50; " in capsys.readouterr().err


def test_a_damaged_state_is_named(interrupted: str, capsys: Capture) -> None:
    Path(STATE).write_bytes(Path(STATE).read_bytes()[:-100])
    assert main([*RUN, "-q", "-o", OUT, "--resume"]) == 1
    assert f"'{STATE}' is damaged; remove it, and begin again, without --resume." in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OutputError("Cannot write 'x': the disk is full."), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_a_state_that_cannot_be_written_does_not_end_the_run(
    error: Exception, folder: Path, eager: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(_self: Snapshot, _path: Path) -> Path:
        raise error

    monkeypatch.setattr(Snapshot, "save", fail)
    assert main([*RUN, "-o", OUT, "--no-progress"]) == 0
    reason = str(error) if isinstance(error, OutputError) else "There is not enough memory for a copy."
    assert capsys.readouterr().err.count(f"The state of the painting is not saved. {reason}") == 1


def test_two_runs_do_not_share_a_state(folder: Path, eager: None, capsys: Capture) -> None:
    state = locate_state(folder / "photo.painting.png")
    with files.hold_output(state):
        assert main([*RUN, "--no-progress"]) == 0
        assert "note: The state of this painting is not saved. Another run of styler" in capsys.readouterr().err
        assert main([*RUN, "--no-progress", "-o", "photo.painting.png", "--overwrite", "--resume"]) == 1
        assert "Another run of styler" in capsys.readouterr().err
    assert list_names() == INPUTS | {"photo.painting.png"}


def test_a_run_of_less_than_a_minute_saves_nothing(
    folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Snapshot, "save", lambda *_: pytest.fail("saved"))
    assert main([*RUN, "-q", "-o", OUT]) == 0


def test_saving_is_due_before_a_minute_is_over_and_at_the_end_of_a_scale(
    painter: Painter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("styler.batch.states.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(Snapshot, "save", lambda _self, path: path)
    keeper, saved = StateKeeper(folder / OUT, interval=60.0), []
    options = Options(size=64, first_size=32, iterations=5, taper=1.0, device="cpu", brushwork=0.0)
    for progress in painter.stream("photo.png", "painting.png", options):
        now[0] += 25.0
        before = keeper.count
        assert keeper.update(progress) is None
        saved += [progress.total_iterations] * (keeper.count - before)
    assert saved == [2, 4, 5, 7, 9, 10]
    assert os.fspath(keeper.path) == os.fspath(folder / STATE)
