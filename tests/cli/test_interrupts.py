"""Ctrl-C, SIGTERM and a closed terminal: what is saved and printed, and that nothing else is left."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images
from styler.cli import main
from styler.engine.painter import Painter
from styler.environment import EVENTS, Interrupted, watch_signals
from styler.options import Options
from styler.schedule import Replay

RUN = ["run", "photo.png", "painting.png", "--size", "64", "--first-size", "64", "--device", "cpu", "--iterations", "5"]
INPUTS = {"photo.png", "painting.png"}
SignalsAt = Callable[[Mapping[int, list[int]]], None]


@pytest.fixture(autouse=True)
def restore_sigint() -> Iterator[None]:
    """Restore SIGINT, which a shell ignores in background jobs and their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(sorted(INPUTS)):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def signals_at(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> SignalsAt:
    """Send signals right after certain iterations; 0 is before the first."""

    def arrange(arrivals: Mapping[int, list[int]]) -> None:
        real = painter.stream

        def stream(
            content: images.Picture,
            styles: list[object],
            options: Options,
            stop: threading.Event,
            *rest: Replay | images.Picture | None,
        ) -> object:
            for number in arrivals.get(0, []):
                signal.raise_signal(number)
            for progress in real(content, styles, options, stop, *rest):  # type: ignore[arg-type]
                for number in [] if progress.result else arrivals.get(progress.total_iterations, []):
                    signal.raise_signal(number)
                yield progress

        monkeypatch.setattr(painter, "stream", stream)
        monkeypatch.setattr(Painter, "of", lambda _options: painter)

    return arrange


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_best_picture_so_far(number: signal.Signals, code: int, folder: Path) -> None:
    script = shutil.which("styler", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert script, "install the package first: pip install -e ."
    program = subprocess.Popen(
        [script, *RUN[:-1], "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )
    assert program.stderr is not None
    assert "iteration 1 of 100000" in program.stderr.readline(), "it paints"
    program.send_signal(number)
    out, err = program.communicate(timeout=100)
    assert (program.returncode, out) == (code, "")
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"styler: Stopped at iteration \d+ of 100000 at 64×48; saved as 'photo.painting.partial.png'\.", last
    )
    assert list_names(folder) == {*INPUTS, "photo.painting.partial.png"}
    assert images.read_image(folder / "photo.painting.partial.png").width == 64


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Return the two ends of a terminal."""
    import pty

    ends = pty.openpty()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test has closed it
            os.close(end)


CONTROL_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "styler", *sys.argv[1:]])
"""
"""Runs styler as the first process of the terminal on standard input, which gets SIGHUP when that is closed."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_a_closed_terminal_saves_the_best_picture_so_far(folder: Path, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    program = subprocess.Popen(
        [sys.executable, "-c", CONTROL_TERMINAL, *RUN[:-1], "100000", "--json"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=os.environ | {"TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b"iteration 1 of 100000" not in shown:
        shown += os.read(ours, 1000)
    os.close(ours)  # from now on nothing can be written there
    assert program.wait(timeout=100) == 129
    assert list_names(folder) == {*INPUTS, "photo.painting.partial.png"}
    assert images.read_image(folder / "photo.painting.partial.png").width == 64


def test_a_closed_terminal_while_loading_ends_with_its_exit_code(
    folder: Path, painter: Painter, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = terminal

    def loading(_options: Options) -> Painter:
        os.close(ours)
        signal.raise_signal(signal.SIGHUP)
        return painter

    monkeypatch.setattr(Painter, "of", loading)
    with os.fdopen(theirs, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", closed)
        assert main([*RUN, "--json"]) == 129
    assert list_names(folder) == INPUTS


def test_the_first_signal_saves_the_picture_beside_the_output(
    folder: Path, signals_at: SignalsAt, capsys: pytest.CaptureFixture[str]
) -> None:
    signals_at({3: [signal.SIGINT]})
    (folder / "out.partial.png").write_bytes(b"of an earlier run")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main([*RUN, "-q", "-o", "out.jpg"]) == 130
    assert capsys.readouterr() == ("", "styler: Stopped at iteration 3 of 5 at 64×48; saved as 'out.partial-2.png'.\n")
    assert list_names(folder) == {*INPUTS, "out.partial.png", "out.partial-2.png"}
    assert (folder / "out.partial.png").read_bytes() == b"of an earlier run"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


HANGUP = signal.SIGHUP if sys.platform != "win32" else 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([HANGUP], 129),
        ([HANGUP, HANGUP], 129),  # from the terminal and from the shell
        ([signal.SIGTERM, HANGUP], 143),  # from a service manager
        ([HANGUP, signal.SIGTERM], 143),
        ([HANGUP, signal.SIGINT, HANGUP], 130),
        ([signal.SIGXCPU, signal.SIGXCPU] if sys.platform != "win32" else [], 152),  # every second
    ],
)
def test_signals_that_one_event_sends_save_the_picture(
    numbers: list[int], code: int, folder: Path, signals_at: SignalsAt, capsys: pytest.CaptureFixture[str]
) -> None:
    signals_at({2: numbers})
    assert main([*RUN, "-q"]) == code
    assert "saved as 'photo.painting.partial.png'" in capsys.readouterr().err
    assert list_names(folder) == {*INPUTS, "photo.painting.partial.png"}


@pytest.mark.parametrize(
    "arrivals",
    [
        {2: [signal.SIGINT, signal.SIGINT]},
        {1: [signal.SIGTERM, signal.SIGINT]},
        {1: [HANGUP, signal.SIGTERM, HANGUP, signal.SIGINT] if HANGUP else [signal.SIGINT, signal.SIGINT]},
    ],
)
def test_the_second_signal_stops_at_once(
    arrivals: dict[int, list[int]], folder: Path, signals_at: SignalsAt, capsys: pytest.CaptureFixture[str]
) -> None:
    signals_at(arrivals)
    assert main([*RUN, "-q"]) == 130
    assert capsys.readouterr() == ("", "styler: Interrupted.\n")
    assert list_names(folder) == INPUTS


def test_a_second_signal_during_writing_leaves_no_incomplete_file(
    folder: Path, signals_at: SignalsAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals_at({2: [signal.SIGINT]})
    monkeypatch.setattr(os, "fsync", lambda _file: signal.raise_signal(signal.SIGTERM))
    assert main([*RUN, "-q"]) == 143
    assert list_names(folder) == INPUTS


def test_a_signal_after_the_last_iteration_keeps_the_picture(
    folder: Path, signals_at: SignalsAt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signals_at({})
    arriving = [signal.SIGINT]

    def flush(_file: int) -> None:
        while arriving:
            signal.raise_signal(arriving.pop())

    monkeypatch.setattr(os, "fsync", flush)
    assert main([*RUN, "-q"]) == 0
    assert capsys.readouterr().out == "photo.painting.png\n"
    assert images.read_image("photo.painting.png").width == 64


def test_a_signal_before_the_first_iteration_writes_nothing(
    folder: Path, signals_at: SignalsAt, capsys: pytest.CaptureFixture[str]
) -> None:
    signals_at({0: [signal.SIGINT]})
    assert main([*RUN, "-q"]) == 130
    assert capsys.readouterr() == ("", "styler: Stopped before the first iteration; nothing was written.\n")
    assert list_names(folder) == INPUTS


@pytest.mark.parametrize("fate", ["raised", "replaced", "swallowed"])
def test_a_signal_during_loading_ends_at_once(
    fate: str, folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loading(_options: Options) -> Painter:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted as interruption:
            if fate == "raised":
                raise
            if fate == "replaced":
                raise ImportError("as extension modules say when they are interrupted") from interruption
        return painter

    monkeypatch.setattr(Painter, "of", loading)
    assert main([*RUN, "-q"]) == 143
    assert capsys.readouterr() == ("", "styler: Terminated.\n")
    assert list_names(folder) == INPUTS


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_ignored_signals_stay_ignored(name: str) -> None:
    """As in a background job, and under nohup."""
    number = getattr(signal, name, signal.SIGINT)
    before = signal.signal(number, signal.SIG_IGN)
    with watch_signals():
        assert signal.getsignal(number) is signal.SIG_IGN
    signal.signal(number, before)


def test_systems_without_these_signals_watch_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EVENTS:
        monkeypatch.delattr(signal, name, raising=False)
    with watch_signals():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has it")
def test_ctrl_break_of_windows_saves_the_picture_too(
    folder: Path, signals_at: SignalsAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR2, raising=False)
    signals_at({2: [signal.SIGUSR2]})
    assert main([*RUN, "-q"]) == 128 + signal.SIGUSR2
    assert list_names(folder) == {*INPUTS, "photo.painting.partial.png"}


def test_handlers_are_unchanged_outside_the_main_thread() -> None:
    seen: list[object] = []

    def elsewhere() -> None:
        with watch_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


class Dying:
    """Calls a function when it is deleted, where Python can only report an exception."""

    def __init__(self, last: Callable[[], object]) -> None:
        self.last = last

    def __del__(self) -> None:
        self.last()


def test_an_unraisable_interruption_is_raised_later_and_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: seen.append(lost.exc_type))
    hook = sys.unraisablehook
    with watch_signals() as watch:
        Dying(lambda: signal.raise_signal(signal.SIGINT))
        Dying(lambda: int("no number"))
        assert seen == [ValueError], "what is no interruption is reported as ever"
        with pytest.raises(Interrupted):
            watch.begin()
    assert sys.unraisablehook is hook


def test_a_lost_interruption_is_raised_before_painting() -> None:
    with watch_signals() as watch:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="Terminated"):
            watch.begin()
