"""JSON, dry runs, verbosity, colors and suggestions."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, library
from styler.cli import main
from styler.engine.painter import Painter
from styler.options import Options

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--device", "cpu"]
RUN = ["run", "photo.png", "painting.png"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a working folder with a photo and a painting."""
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_answer(capsys: Capture) -> dict[str, Any]:
    """Parse the one object on stdout; NaN and infinity, which JSON does not have, are rejected."""

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert isinstance(document, dict)
    assert document["schema"] == 1
    return document


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_json_describes_the_whole_result(folder: Path, use_tiny: None, capsys: Capture) -> None:
    assert main([*RUN, *TINY, "--json", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert "iteration 1 of 2" in err, "progress is still shown"
    document = json.loads(out)
    assert (document["output"], document["content"], document["styles"]) == ("photo.painting.png", RUN[1], [RUN[2]])
    assert (document["width"], document["height"]) == (64, 48)
    assert document["options"] == Options(size=64, first_size=64, iterations=2, device="cpu", seed=3).to_dict()
    assert document["schedule"] == [
        {"width": 64, "height": 48, "iterations": 2, "optimizer": "adam", "sketch": False, "half_size_copies": 0}
    ]
    assert (document["iterations"], document["units"], document["stopped"]) == (2, 2, False)
    assert document["losses"]["total"] > 0
    assert document["seconds"] > 0
    assert (document["device"], document["precision"], document["weights_sha256"]) == ("cpu", "float32", "0" * 64)
    assert document["threads"] >= 1
    assert (document["notes"], document["warnings"]) == ([], [])


def test_json_has_warnings_and_null_for_nan(
    folder: Path, use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Painter.stream

    def stream_with_nan(self: Painter, *args: object) -> object:
        for progress in real(self, *args):  # type: ignore[arg-type]
            if progress.result:
                object.__setattr__(progress.result, "losses", {"total": float("nan")})
            yield progress

    monkeypatch.setattr(Painter, "stream", stream_with_nan)
    monkeypatch.setenv("STYLER_SIEZ", "64")
    assert main([*RUN, *TINY, "--json", "-q"]) == 0
    document = read_answer(capsys)
    assert document["losses"] == {"total": None}
    assert document["warnings"] == ["The variable STYLER_SIEZ is not a setting; did you mean STYLER_SIZE?"]


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="these systems have no such names")
def test_json_keeps_names_that_are_not_unicode(folder: Path, use_tiny: None, capsys: Capture) -> None:
    odd = os.fsdecode(b"two\nlines\xff.png")
    shutil.copy("photo.png", odd)
    assert main(["run", odd, "painting.png", *TINY, "--json", "-q"]) == 0
    assert os.fsencode(read_answer(capsys)["output"]) == b"two\nlines\xff.painting.png"


@pytest.mark.parametrize(
    ("tokens", "kind", "code", "message"),
    [
        (["run", "missing.png", "painting.png"], "ImageError", 1, "no such file"),
        ([*RUN, "--size", "12"], "OptionError", 2, "size is 12"),
        ([*RUN, "-o", "photo.png"], "UsageError", 2, "is one of the inputs"),
        ([*RUN, "--sise", "64"], "UsageError", 2, "Did you mean --size?"),
        ([*RUN, "-o", "a.xyz"], "OutputError", 1, "end the name in one of"),
        ([*RUN, "--device", "cuda:99"], "DeviceError", 1, "GPU"),
        ([*RUN, "--dry-run", "--device", "cuda:99"], "DeviceError", 1, "GPU"),
        (["runn"], "UsageError", 2, 'Did you mean "run"?'),
        (["config", "--size", "12"], "OptionError", 2, "size is 12"),
    ],
)
def test_errors_are_printed_as_json(tokens: list[str], kind: str, code: int, message: str, capsys: Capture) -> None:
    assert main([*tokens, "--json"]) == code
    error = read_answer(capsys)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert message in error["message"]


def test_json_after_two_dashes_is_a_name(capsys: Capture) -> None:
    assert main(["run", "photo.png", "--", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_bugs_are_printed_as_json(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def broken(_name: str) -> Path:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(library, "find_content", broken)
    assert main([*RUN, "--json"]) == 1
    assert read_answer(capsys)["error"]["kind"] == "Bug"


@pytest.mark.parametrize("iterations", [0, 1])
def test_a_stopped_run_is_printed_as_json(
    iterations: int, folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    real = painter.stream

    def stream(*args: Any) -> object:
        if not iterations:
            signal.raise_signal(signal.SIGTERM)
        for progress in real(*args):
            if progress.total_iterations == iterations and not progress.result:
                signal.raise_signal(signal.SIGTERM)
            yield progress

    monkeypatch.setattr(painter, "stream", stream)
    monkeypatch.setattr(Painter, "of", lambda _options: painter)
    assert main([*RUN, *TINY, "--json", "-q"]) == 143
    document = read_answer(capsys)
    assert document["stopped"] is True
    assert document["output"] == ("photo.painting.partial.png" if iterations else None)


def test_an_interruption_during_loading_is_printed_as_json(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(Painter, "of", lambda _options: signal.raise_signal(signal.SIGTERM))
    assert main([*RUN, *TINY, "--json", "-q"]) == 143
    assert read_answer(capsys)["error"] == {"kind": "Interrupted", "message": "Terminated.", "exit_code": 143}


def test_a_full_stdout_is_reported_once(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb") as full:
        tokens = [sys.executable, "-m", "styler", "presets", "--json"]
        root = Path(__file__).parent.parent.parent
        document = subprocess.run(
            tokens, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
    assert document.returncode == 1
    assert re.fullmatch(
        r"styler: error: Standard output cannot be written \(.*\); redirect it elsewhere.\n", document.stderr
    )


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder: Path, use_tiny: None, capsys: Capture) -> None:
    left = folder / ".styler-0123456789abcdef.tmp"
    left.write_bytes(b"half a picture")
    before = list_names(folder)
    assert main([*RUN, "--dry-run", "--device", "cpu", "-o", "new/a.jpg"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert list_names(folder) == before
    for message in (
        r"^Dry run: nothing is painted or written\.$",
        r"^Content +'photo\.png', 64×48$",
        r"^Style +'painting\.png', 64×48$",
        r"^Output +'new/a\.jpg', 512×384$",
        r"^Device +cpu, precision float32$",
        r"^Schedule +128×96, 18 iterations of L-BFGS with the slim network; 128×96, 56 iterations of L-BFGS; "
        r".*; 512×384, 25 iterations of Adam, with 1 half-size copy\. ",
        r"^Memory +about [\d.]+ GB of [\d.]+ GB free$",
        r"^Plan +\d+×\d+: as a whole, [\d.]+ GB, about [^,]+ on cpu$",
        r"^Time +about [\d.]+ (s|min \d+ s), estimated from one iteration at 256×192$",
    ):
        assert re.search(message, out, re.MULTILINE), message


def test_a_dry_run_says_what_memory_it_assumes(folder: Path, use_tiny: None, capsys: Capture) -> None:
    tokens = [*RUN, "--device", "cpu", "--memory", "900MB", "--size", "64"]
    assert main([*tokens, "--dry-run"]) == 0
    assert re.search(r"^Memory +about 0\.3 GB of 0\.9 GB allowed by --memory$", capsys.readouterr().out, re.MULTILINE)
    assert main([*tokens, "--dry-run", "--json"]) == 0
    assert read_answer(capsys)["free_memory_bytes"] == 900_000_000
    for dry_run in ([], ["--dry-run"]):
        assert main([*tokens[:-1], "4096", *dry_run]) == 1
        assert "but --memory allows 0.9 GB; use --size " in capsys.readouterr().err


def test_a_dry_run_predicts_the_run(folder: Path, use_tiny: None, capsys: Capture) -> None:
    tokens = [*RUN, *TINY[2:], "--size", "128", "--json", "-q"]
    assert main([*tokens, "--dry-run"]) == 0
    forecast = read_answer(capsys)
    assert main(tokens) == 0
    document = read_answer(capsys)
    for name in ("output", "content", "styles", "width", "height", "options", "device", "precision", "schedule"):
        assert forecast[name] == document[name], name
    assert (forecast["iterations"], forecast["units"]) == (document["iterations"], document["units"])
    assert forecast["dry_run"] is True
    iterations = forecast["units"] * forecast["estimated_seconds_per_iteration"]
    assert 0 < iterations < forecast["estimated_seconds"], "to begin a scale takes time, too"
    assert forecast["estimated_memory_bytes"] > 0


def test_a_dry_run_says_how_a_picture_is_divided(folder: Path, use_tiny: None, capsys: Capture) -> None:
    tokens = [*RUN, "--device", "cpu", "--size", "512", "--dry-run"]
    assert main([*tokens, "--json"]) == 0
    whole = read_answer(capsys)
    assert (whole["tile"], whole["tiles"], whole["margin"], whole["on_host"]) == (0, 1, 0, False)
    assert main([*tokens, "--tile", "128", "--json"]) == 0
    document = read_answer(capsys)
    assert (document["tile"], document["tiles"]) == (128, 12)
    assert document["margin"] % 16 == 0 < document["margin"]
    assert document["estimated_memory_bytes"] < whole["estimated_memory_bytes"]
    assert main([*tokens, "--tile", "128"]) == 0
    text = rf"^Plan +512×384: 12 tiles of 128 \(margin {document['margin']}\), [\d.]+ GB, about .* on cpu$"
    assert re.search(text, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", [["--strength", "0"], ["--size", "original"], ["--size", "64", "--checkpoint", "on"]], ids=" ".join
)
def test_a_dry_run_supports_all_options(arguments: list[str], folder: Path, use_tiny: None, capsys: Capture) -> None:
    assert main([*RUN, "--device", "cpu", "--dry-run", "--json", *arguments]) == 0
    document = read_answer(capsys)
    assert (document["iterations"] == 0) == ("--strength" in arguments)
    assert document["checkpoint"] == ("on" in arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--style-weights", "1,2"],
        ["--size", "8192", "--checkpoint", "off", "--tile", "off"],
        ["--style-layers", "relu9_9"],
    ],
)
def test_a_dry_run_fails_like_the_run(
    arguments: list[str], folder: Path, use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("styler.engine.memory.measure.measure_free_memory", lambda _device: 400_000_000)
    tokens = [*RUN, "--device", "cpu", "-q", "--layer-weights", "1", *arguments]
    code = main(tokens)
    message = capsys.readouterr().err
    assert code
    assert main([*tokens, "--dry-run"]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("flag", ["--no-progress", "-q"])
def test_no_progress_keeps_warnings(
    flag: str, folder: Path, use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLER_SIEZ", "1")
    assert main([*RUN, *TINY, flag]) == 0
    out, err = capsys.readouterr()
    assert out == "photo.painting.png\n"
    assert "iteration" not in err
    assert ("warning: The variable STYLER_SIEZ" in err) == (flag == "--no-progress")


@pytest.mark.parametrize(("flags", "timed"), [(["-v"], False), (["-vv"], True), (["-v", "-v"], True)], ids=str)
def test_verbose_logs_settings_and_twice_timings(
    flags: list[str], timed: bool, folder: Path, use_tiny: None, capsys: Capture
) -> None:
    assert main([*RUN, *TINY, *flags]) == 0
    err = capsys.readouterr().err
    assert "Settings: size 64 (flag)" in err
    assert "Device cpu" in err
    for what in (r"^Read the pictures in [\d.]+ s\.$", r"^Loaded PyTorch in", r"^Loaded the network in",
                 r"^64×48: 2 iterations in [\d.]+ s, [\d.]+ s each\.$", r"^Wrote the picture in"):  # fmt: skip
        assert bool(re.search(what, err, re.MULTILINE)) == timed, what


@pytest.mark.parametrize(
    ("environment", "is_colored"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1", "TERM": "xterm"}, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": ""}, True),
    ],
    ids=str,
)
def test_colors_follow_the_environment(
    environment: dict[str, str], is_colored: bool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["run"]) == 2
    err = capsys.readouterr().err
    assert ("\x1b[31merror:\x1b[0m" in err) == is_colored
    assert ("\x1b" in err) == is_colored


def test_no_color_removes_the_colors_of_the_bar(
    folder: Path, use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    color_code = re.compile(r"\x1b\[[\d;]*\b[34][0-8](;|m)")
    assert main([*RUN, *TINY]) == 0
    assert color_code.search(capsys.readouterr().err)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main([*RUN, *TINY]) == 0
    err = capsys.readouterr().err
    assert "iteration 1 of 2" in err
    assert not color_code.search(err)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("confg", 'Did you mean "config"?'),
        ("doktor", 'Did you mean "doctor"?'),
        ("run photo.png painting.png --dry-rn", "Did you mean --dry-run?"),
        ("run photo.png painting.png --strenght 3", "Did you mean --strength?"),
        ("run photo.png painting.png --optimizer adm", 'Did you mean "adam"?'),
        ("config --look gaty", 'Did you mean "gatys"?'),
        ("presets --jsn", "Did you mean --json?"),
        ("completion bsh", 'Did you mean "bash"?'),
        ("run cat stary-night", "did you mean 'starry-night'?"),
    ],
)
def test_misspellings_give_a_suggestion(tokens: str, message: str, capsys: Capture) -> None:
    assert main(tokens.split()) in {1, 2}
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
