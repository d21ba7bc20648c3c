"""`styler run` while it paints: names, streams, formats, seeds."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, provenance
from styler.cli import files, main
from styler.engine.painter import Painter
from styler.engine.precision import Measurement

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--device", "cpu"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with a photo and two paintings; the network is tiny."""
    for seed, name in enumerate(("photo.png", "painting.png", "other.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["run", *TINY, *tokens])


def test_the_program_paints_and_prints_only_the_path(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]]
) -> None:
    script = shutil.which("styler", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert script, "install the package first: pip install -e ."
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    tokens = [script, "run", "photo.png", "painting.png", *TINY]
    process = subprocess.run(tokens, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200)
    assert (process.returncode, process.stdout) == (0, "photo.painting.png\n")
    assert re.fullmatch(r"Scale 1 of 1: 64×48, iteration 1 of 2, loss [\d.e-]+, [\d.]+ s left\n", process.stderr)
    painted = images.read_image(tmp_path / "photo.painting.png")
    assert (painted.width, painted.height) == (64, 48)


def test_the_default_name_never_replaces_a_file(folder: Path, capsys: Capture) -> None:
    for name in ("photo.painting.png", "photo.painting-2.png", "photo.painting-3.png"):
        assert paint("photo.png", "painting.png", "-q") == 0
        assert capsys.readouterr() == (f"{name}\n", "")
    assert paint(str(folder / "photo.png"), "painting.png", "other.png", "-q") == 0
    assert capsys.readouterr().out == f"{folder / 'photo.painting+other.png'}\n"


def test_a_bundled_photo_is_painted_into_the_working_folder(folder: Path, capsys: Capture) -> None:
    assert paint("cat", "starry-night", "-q") == 0
    assert capsys.readouterr().out == "cat.starry-night.png\n"
    assert (folder / "cat.starry-night.png").is_file()


def test_every_picture_is_read_once_with_the_given_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = images.read_image, []

    def record(source: object, **args: object) -> images.Picture:
        seen.append((str(source), args["max_pixels"], args["background"]))
        return read(source, **args)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "read_image", record)
    limits = (5000, (1, 0, 0))
    flags = ["--init", "start.png", "--max-pixels", "5000", "--background", "red"]
    shutil.copy("photo.png", "start.png")
    for more in (["-o", "a.png"], ["--dry-run"]):
        seen.clear()
        assert main(["run", *TINY, "photo.png", "painting.png", *flags, *more]) == 0
        assert seen == [(name, *limits) for name in ("photo.png", "painting.png", "start.png")]


def test_an_existing_output_is_replaced_only_with_overwrite(folder: Path, capsys: Capture) -> None:
    out = folder / "out.png"
    out.write_bytes(b"old")
    assert paint("photo.png", "painting.png", "-o", "out.png") == 2
    assert out.read_bytes() == b"old"
    assert paint("photo.png", "painting.png", "-o", "out.png", "--overwrite") == 0
    assert capsys.readouterr().out == "out.png\n"
    assert images.read_image(out).width == 64


@pytest.mark.parametrize(("terminal", "drawn"), [("xterm", True), ("dumb", False)])
def test_terminals_get_a_bar_and_dumb_terminals_lines(
    terminal: str, drawn: bool, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert paint("photo.png", "painting.png") == 0
    out, err = capsys.readouterr()
    assert out == "photo.painting.png\n"
    assert ("\x1b[" in err) == drawn
    assert re.search(r"Scale 1 of 1: 64×48.*iteration 1 of 2, loss [\d.e-]+, [\d.]+ s left", err, re.DOTALL)


def test_the_log_contains_settings_and_results(folder: Path, capsys: Capture) -> None:
    assert paint("photo.png", "painting.png", "-vv", "--preset", "draft") == 0
    out, err = capsys.readouterr()
    assert out == "photo.painting.png\n"
    assert "Content 64×48, style 64×48; output 'photo.painting.png'." in err
    assert "preset draft (flag), iterations 2 (flag), taper 0.33 (flag (preset draft))" in err
    assert "Device cpu, precision float32." in err
    assert "Schedule: 64×48, 3 iterations of Adam with the slim network; 64×48, 1 iteration of Adam. In total 4 " in err
    assert re.search(r"^64×48: 3 iterations in [\d.]+ s", err, re.MULTILINE)
    assert re.search(r"^Losses: .*total [\d.e-]+\.$", err, re.MULTILINE)


def test_the_log_says_what_the_precision_was_chosen_by(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Measurement({"fp32": 0.0281, "bf16": 0.0146}, {"bf16": 0.99987})
    monkeypatch.setattr("styler.engine.precision.measure_precision", lambda _device: measured)
    assert paint("photo.png", "painting.png", "-v", "-o", "a.png") == 0
    err = capsys.readouterr().err
    assert "Device cpu, precision bfloat16." in err
    figures = "convolutions take 28.1 ms in fp32, 14.6 ms in bf16 (cosine 0.99987)"
    assert f"Measured on this machine: {figures}." in err
    assert paint("photo.png", "painting.png", "-v", "-o", "b.png", "--precision", "fp32") == 0
    err = capsys.readouterr().err
    assert "Device cpu, precision float32." in err
    assert "Measured" not in err


def test_warnings_are_lines_on_stderr_unless_quiet(folder: Path, capsys: Capture) -> None:
    clear = np.zeros((48, 64), np.float32)
    images.write_file("clear.png", images.encode_image(np.ones((48, 64, 3), np.float32), alpha=clear))
    assert paint("clear.png", "painting.png") == 0
    assert "styler: warning: About 'clear.png': it is fully transparent" in capsys.readouterr().err
    assert paint("clear.png", "painting.png", "-q") == 0
    assert capsys.readouterr().err == ""


def test_notes_are_lines_on_stderr(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Painter.stream

    def stream_with_note(self: Painter, *args: object) -> object:
        for progress in real(self, *args):  # type: ignore[arg-type]
            if progress.result:
                object.__setattr__(progress.result, "notes", ("Something was done differently.",))
            yield progress

    monkeypatch.setattr(Painter, "stream", stream_with_note)
    assert paint("photo.png", "painting.png") == 0
    assert "styler: note: Something was done differently.\n" in capsys.readouterr().err


def test_alpha_is_resized_to_the_picture(folder: Path, pixels: Callable[..., NDArray[np.float32]]) -> None:
    alpha = np.zeros((96, 128), np.float32)
    alpha[:, 64:] = 1
    images.write_file("cut.png", images.encode_image(pixels(96, 128), alpha=alpha))
    assert paint("cut.png", "painting.png", "-q", "-o", "cut-out.png") == 0
    result = images.read_image("cut-out.png").alpha
    assert result is not None
    assert result.shape == (48, 64)
    assert (result[:, :30] == 0).all()
    assert (result[:, 34:] == 1).all()
    assert paint("cut.png", "painting.png", "-q", "-o", "cut-out.jpg") == 0
    assert images.read_image("cut-out.jpg").alpha is None


@pytest.mark.parametrize(("name", "magic"), [("a.jpg", b"\xff\xd8"), ("a.webp", b"RIFF"), ("a.tiff", b"II*")])
def test_the_extension_selects_the_format(name: str, magic: bytes, folder: Path) -> None:
    assert paint("photo.png", "painting.png", "-q", "-o", name) == 0
    assert (folder / name).read_bytes().startswith(magic)


def test_the_same_seed_gives_the_same_bytes(folder: Path) -> None:
    for name, seed in (("a.png", "3"), ("b.png", "3"), ("c.png", "4")):
        assert paint("photo.png", "painting.png", "-q", "--no-metadata", "--seed", seed, "-o", name) == 0
    a, b, c = ((folder / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b
    assert a != c


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_unusual_names_are_printed_unchanged(folder: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    odd = os.fsdecode(b"two\nlines\xff.png")
    shutil.copy("photo.png", odd)
    shutil.copy("photo.png", "-dash.png")
    assert paint(odd, "painting.png", "-q") == 0
    assert capsysbinary.readouterr().out == b"two\nlines\xff.painting.png\n"
    assert paint("-q", "--", "-dash.png", "painting.png") == 0
    assert capsysbinary.readouterr().out == b"-dash.painting.png\n"
    assert (folder / "-dash.painting.png").is_file()
    assert paint("-dash.png", "painting.png") == 2, "without -- it is an unknown flag"


def test_runs_that_choose_the_same_name_both_keep_their_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = iter([Path("a.png"), Path("a-2.png")])
    (folder / "a.png").write_bytes(b"the other run was faster")
    monkeypatch.setattr(images, "find_free_name", lambda _path: next(offered))
    assert files.write_free(Path("a.png"), b"ours") == Path("a-2.png")
    assert (folder / "a.png").read_bytes() == b"the other run was faster"
    assert (folder / "a-2.png").read_bytes() == b"ours"


def test_temporary_files_of_killed_runs_are_removed(folder: Path) -> None:
    left = folder / ".styler-0123456789abcdef.tmp"
    left.write_bytes(b"half a picture")
    assert paint("photo.png", "painting.png", "-q") == 0
    assert not left.exists()


def test_the_border_of_a_painting_is_left_out_and_kept_on_request(
    folder: Path, pixels: Callable[..., NDArray[np.float32]], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    framed = np.ones((160, 200, 3), np.float32)
    framed[20:140, 20:180] = pixels(120, 160, 4)
    images.write_file("framed.png", images.encode_image(framed))

    def find_trims(*flags: str) -> tuple[list[list[int] | None], str]:
        assert (
            paint("photo.png", "painting.png", "framed.png", "--no-progress", "-o", "a.png", "--overwrite", *flags) == 0
        )
        return provenance.read_record("a.png")["trims"], capsys.readouterr().err

    trims, message = find_trims()
    assert trims == [None, [21, 21, 179, 139]]
    sentence = "Left out the border of painting 2 (trimmed from 200×160 to 158×118); --keep-border keeps it."
    assert sentence in " ".join(message.split())
    assert find_trims("--keep-border") == ([None, None], "")
    assert find_trims("--style-weights", "1,0")[0] == [None, None]
    monkeypatch.setenv("STYLER_KEEP_BORDER", "yes")
    assert find_trims() == ([None, None], "")
    assert find_trims("--no-keep-border")[0] == trims
    monkeypatch.delenv("STYLER_KEEP_BORDER")
    Path("styler.toml").write_text("keep_border = true\n")
    assert find_trims()[0] == [None, None]
    assert find_trims("--no-keep-border")[0] == trims
