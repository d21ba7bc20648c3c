"""Batches with errors: unreadable files, too little memory, a full disk, signals, and what a second run does."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, provenance
from styler.batch import manifest
from styler.batch import report as batch_index
from styler.cli import main
from styler.engine.painter import Painter
from styler.engine.precision import Measurement
from styler.errors import DeviceError, OutOfMemory, OutputError
from styler.images import files
from styler.options import Options

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--device", "cpu", "-q"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with three photos and a painting; the network is tiny."""
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "photos/c.png", "x.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["batch", "photos", "x.png", "-o", "out", *TINY, *tokens])


def read_manifest_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.locate_manifest(Path("out")).read_text().splitlines()]


def read_states() -> dict[str, str]:
    return {line["output"]: line["state"] for line in read_manifest_lines() if "output" in line}


def read_errors() -> list[str]:
    return [line["error"] for line in read_manifest_lines() if line["state"] == "failed"]


def test_unreadable_inputs_fail_and_the_others_are_painted(folder: Path, capsys: Capture) -> None:
    (folder / "photos" / "b.png").write_bytes((folder / "photos" / "a.png").read_bytes()[:900])
    (folder / "photos" / "bomb.png").write_bytes(made.png(20_000, 15_000))
    (folder / "photos" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "photos" / "new\nline.png").write_bytes((folder / "photos" / "a.png").read_bytes())
    assert paint("--follow-symlinks") == 3
    out, err = capsys.readouterr()
    assert out.split("out/")[1:] == ["a.x.png\n", "c.x.png\n", "new\nline.x.png\n"]
    assert [sentence.split(": ", 1) for sentence in read_errors()] == [
        [
            "Cannot read 'photos/b.png'",
            "its PNG data ends too early: 89 % of its pixels are missing; download or copy it again.",
        ],
        ["Cannot read 'photos/bomb.png'", read_errors()[1].split(": ", 1)[1]],
        [
            "Cannot read 'photos/gone.png'",
            f"it is a link to '{folder}/nowhere.png', which does not exist; correct the link.",
        ],
    ]
    assert "20000 × 15000 px, more than the limit of 250 megapixels; make it smaller" in read_errors()[1]
    assert [line.removeprefix("styler: error: ") for line in err.splitlines()] == read_errors()


def test_failures_are_retried_only_on_request_or_after_a_change(folder: Path, capsys: Capture) -> None:
    whole = (folder / "photos" / "b.png").read_bytes()
    (folder / "photos" / "b.png").write_bytes(b"")
    args = ["batch", "photos", "x.png", "-o", "out", *TINY[:-1]]
    assert main(args) == 3
    err = capsys.readouterr().err
    assert re.search(r"^styler: 2 done, 1 failed, 0 skipped in [\d.]+ s \([\d.]+ s each\)\.$", err, re.MULTILINE)
    assert "styler: failed: b.x.png: Cannot read 'photos/b.png': it is empty; download or copy it again." in err
    lines = len(read_manifest_lines())
    assert main(args) == 3
    err = capsys.readouterr().err
    assert "0 done, 1 failed, 2 skipped" in err
    assert "1 failure is from an earlier run; retry with --retry-failed." in err
    assert len(read_manifest_lines()) == lines
    assert main([*args, "--retry-failed"]) == 3
    assert len(read_errors()) == 2
    (folder / "photos" / "b.png").write_bytes(whole)
    capsys.readouterr()
    assert main(args) == 0
    assert capsys.readouterr().out == "out/b.x.png\n"


@pytest.mark.parametrize(("flags", "tried"), [(["--fail-fast"], 1), (["--max-failures", "2"], 2)])
def test_the_limit_of_failures_ends_the_batch(flags: list[str], tried: int, folder: Path, capsys: Capture) -> None:
    for name in ("a", "b", "c"):
        (folder / "photos" / f"{name}.png").write_text("no picture")
    assert main(["batch", "photos", "x.png", "-o", "out", *TINY[:-1], *flags]) == 3
    assert len(read_errors()) == tried
    assert f"Stopped because of failures; {3 - tried} left. Run the same command again to resume." in (
        capsys.readouterr().err
    )


def make_paintings_fail(
    painter: Painter, monkeypatch: pytest.MonkeyPatch, fails: Callable[[Options], Exception | None]
) -> list[Options]:
    """Make paintings fail, and return the options of all attempts."""
    tried: list[Options] = []
    real = Painter.stream

    def stream(self: Painter, content: Any, styles: Any, options: Options, *more: Any) -> Iterator[Any]:
        tried.append(options)
        if problem := fails(options):
            raise problem
        yield from real(self, content, styles, options, *more)

    monkeypatch.setattr(Painter, "stream", stream)
    return tried


def test_out_of_memory_is_retried_with_checkpointing(
    folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = OutOfMemory("A picture of 64×48 needs more; take --size 32.")
    tried = make_paintings_fail(painter, monkeypatch, lambda options: short if options.checkpoint != "on" else None)
    assert paint() == 0
    assert [options.checkpoint for options in tried] == ["auto", "on"] * 3


def test_a_second_failure_is_recorded(folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_paintings_fail(painter, monkeypatch, lambda _options: OutOfMemory("It is too large; take --size 32."))
    assert paint() == 3
    assert read_errors() == ["It is too large; take --size 32."] * 3
    assert len(tried) == 6


def test_a_nan_loss_is_retried_in_full_precision(
    folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = DeviceError("The loss was not a number at any step; try --precision fp32.")
    tried = make_paintings_fail(painter, monkeypatch, lambda options: nan if options.precision == "bf16" else None)
    assert paint("--precision", "bf16") == 0
    assert [options.precision for options in tried] == ["bf16", "fp32"] * 3


def test_a_resumed_batch_keeps_the_precision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has chosen bfloat16; the one that resumes the batch would choose float32."""
    choice = Measurement({"fp32": 2.0, "bf16": 1.0}, {"bf16": 0.9999})
    monkeypatch.setattr("styler.engine.precision.measure_precision", lambda _device: choice)
    assert paint() == 0
    (line,) = (line for line in read_manifest_lines() if line["state"] == "precision")
    assert line["precision"] == "bf16"
    choice = Measurement({"fp32": 1.0})
    for name, flags, expected in (
        ("b", (), "bfloat16"),
        ("b", ("--precision", "fp32"), "float32"),
        ("c", ("--seed", "1", "--overwrite"), "float32"),  # other settings, so another batch
    ):
        (folder / "out" / f"{name}.x.png").unlink()
        assert paint(*flags) == 0
        assert provenance.read_record(folder / "out" / f"{name}.x.png")["precision"] == expected


def test_a_bug_fails_one_picture(folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [ValueError("odd"), None, None]
    make_paintings_fail(painter, monkeypatch, lambda _options: left.pop(0))
    assert paint() == 3
    assert read_errors() == [
        "ValueError: odd. This is a bug in styler; paint 'a.png' by itself with 'styler run --debug' to see where."
    ]
    assert read_states() == {"a.x.png": "failed", "b.x.png": "done", "c.x.png": "done"}


def test_on_a_full_disk_the_picture_is_saved_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spare, real = tmp_path_factory.mktemp("spare"), files._write_beside
    monkeypatch.setattr("tempfile.tempdir", str(spare))

    def write(target: Path, data: Sequence[bytes | memoryview], *, overwrite: bool) -> None:
        if target.name == "b.x.png" and "out" in target.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(target, data, overwrite=overwrite)

    monkeypatch.setattr(files, "_write_beside", write)
    assert paint() == 3
    assert read_errors() == [
        "Cannot write 'out/b.x.png': the disk is full; free up space or choose another folder; the picture was saved "
        f"as '{spare}/b.x.png'."
    ]
    assert images.read_image(spare / "b.x.png").width == 64
    assert read_states()["c.x.png"] == "done"
    monkeypatch.undo()
    monkeypatch.chdir(folder)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not tell which file is which")
def test_an_unwritable_manifest_ends_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    real, calls = os.fsync, []

    def fsync(file: int) -> None:
        calls.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        if sum(path.endswith("manifest.jsonl") for path in calls) > 4 and calls[-1].endswith("manifest.jsonl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert paint("--no-index") == 1
    err = capsys.readouterr().err
    assert "Cannot write the manifest 'out/.styler/manifest.jsonl' (No space left on device); free up space" in err
    assert read_states() == {"a.x.png": "done"}
    monkeypatch.undo()
    monkeypatch.chdir(folder)


def test_an_incomplete_last_line_is_ignored(folder: Path, capsys: Capture) -> None:
    assert paint("--no-index") == 0
    file = manifest.locate_manifest(Path("out"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])  # `done` of the last picture, whose bytes are known from the line before
    capsys.readouterr()
    assert paint("--no-index") == 0
    assert capsys.readouterr().out == ""
    assert read_states() == dict.fromkeys(("a.x.png", "b.x.png", "c.x.png"), "done")
    assert file.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1) + 1])


def test_an_unwritten_picture_is_painted_again(folder: Path, capsys: Capture) -> None:
    assert paint("--no-index") == 0
    file = manifest.locate_manifest(Path("out"))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    (folder / "out" / "c.x.png").unlink()
    capsys.readouterr()
    assert paint("--no-index") == 0
    assert capsys.readouterr().out == "out/c.x.png\n"
    file.write_bytes(b"".join(lines[:-1]))
    (folder / "out" / "c.x.png").write_bytes(b"somebody's own")
    assert paint("--no-index") == 2
    assert (folder / "out" / "c.x.png").read_bytes() == b"somebody's own"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"not json\n", "Line 2 of the manifest 'out/.styler/manifest.jsonl' is damaged; restore it"),
        (b'{"schema":1}\n', "Line 2 of the manifest"),
        (b'{"schema":9,"state":"done"}\n', "was written by a newer version of styler; update styler."),
    ],
)
def test_a_damaged_or_newer_manifest_is_not_changed(line: bytes, sentence: str, folder: Path, capsys: Capture) -> None:
    assert paint("--no-index") == 0
    file = manifest.locate_manifest(Path("out"))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], line, *lines[1:]]))
    before = file.read_bytes()
    assert paint() == 1
    assert sentence in capsys.readouterr().err
    assert file.read_bytes() == before


def signals_at(painter: Painter, monkeypatch: pytest.MonkeyPatch, numbers: list[int], picture: int = 2) -> None:
    """Send a signal at each of the first iterations of a picture, counted from 1."""
    real, pictures, left = painter.stream, [], [*numbers]

    def stream(content: Any, *others: Any) -> Iterator[Any]:
        pictures.append(content)
        for progress in real(content, *others):
            if left and len(pictures) == picture:
                os.kill(os.getpid(), left.pop(0))
            yield progress

    monkeypatch.setattr(painter, "stream", stream)
    monkeypatch.setattr(Painter, "of", lambda _options, _weights: painter)


@pytest.fixture
def restore_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_discards_the_picture_in_progress(
    number: int,
    code: int,
    folder: Path,
    painter: Painter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    restore_sigint: None,
) -> None:
    signals_at(painter, monkeypatch, [number])
    assert main(["batch", "photos", "x.png", "-o", "out", *TINY[:-1]]) == code
    out, err = capsys.readouterr()
    assert out == "out/a.x.png\n"
    assert "styler: 1 done, 0 failed, 0 skipped" in err
    assert "styler: Stopped; 2 left. Run the same command again to resume." in err
    assert read_states() == {"a.x.png": "done"}
    assert (folder / "out" / "index.html").is_file()
    assert paint() == 0
    assert capsys.readouterr().out == "out/b.x.png\nout/c.x.png\n"


def test_the_second_signal_stops_at_once(
    folder: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch, capsys: Capture, restore_sigint: None
) -> None:
    signals_at(painter, monkeypatch, [signal.SIGINT, signal.SIGINT], picture=3)  # the second one may be being written
    assert paint() == 130
    out, err = capsys.readouterr()
    assert out in ("out/a.x.png\n", "out/a.x.png\nout/b.x.png\n")
    assert err == "styler: Interrupted.\n"
    assert (
        {".styler", "a.x.png"}
        <= {path.name for path in (folder / "out").iterdir()}
        <= {".styler", "a.x.png", "b.x.png"}
    )
    assert paint() == 0
    assert set(read_states().values()) == {"done"}


def test_an_index_that_cannot_be_written_does_not_hide_the_summary(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_args: object) -> None:
        raise OutputError("Cannot write 'out/index.html': the disk is full.")

    monkeypatch.setattr(batch_index, "write_index", fail)
    loud = [token for token in TINY if token != "-q"]
    assert main(["batch", "photos/a.png", "x.png", "-o", "out", *loud, "--no-progress"]) == 1
    out, err = capsys.readouterr()
    assert out == "out/a.x.png\n"
    error, summary = err.splitlines()
    assert error == "styler: error: Cannot write 'out/index.html': the disk is full."
    assert summary.startswith("styler: 1 done, 0 failed, 0 skipped in ")


def test_the_index_has_as_many_pages_as_needed_and_replaces_nothing_foreign(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_index, "PAGE_ROWS", 1)
    (folder / "photos" / "c.png").write_text("no picture")
    assert paint() == 3
    out, names = folder / "out", ["index.html", "index-2.html", "index-3.html"]
    pages = [(out / name).read_text(encoding="utf-8") for name in names]
    for number, page in enumerate(pages, start=1):
        assert {*re.findall(r'<a href="(index[^"]*)">', page)} == {*names} - {names[number - 1]}
        assert f"<b>{number}</b>" in page
        assert "2 of 3 done, 1 failed." in page
    assert ["<figure>" in page for page in pages] == [True, True, False]
    assert "c.x.png: Cannot read" in pages[2]
    (out / "index-3.html").write_text("somebody's page")
    (out / "index-4.html").write_text("another page")
    monkeypatch.setattr(batch_index, "PAGE_ROWS", 5)
    assert paint() == 3
    assert {path.name for path in out.glob("*.html")} == {"index.html", "index-3.html", "index-4.html"}
    assert (out / "index-3.html").read_text() == "somebody's page"
    assert "<nav>" not in (out / "index.html").read_text(encoding="utf-8")
    monkeypatch.setattr(batch_index, "PAGE_ROWS", 1)
    assert paint() == 3
    assert (out / "index-3.html").read_text() == "somebody's page"
    assert (out / "index-2.html").read_text(encoding="utf-8") == pages[1]


def test_the_manifest_records_every_version_of_the_index(folder: Path, capsys: Capture) -> None:
    assert paint() == 0
    first = (folder / "out" / "index.html").read_bytes()
    shutil.copy(folder / "photos" / "a.png", folder / "photos" / "d.png")
    assert paint() == 0
    second = (folder / "out" / "index.html").read_bytes()
    assert first != second
    recorded = [line["files"]["index.html"] for line in read_manifest_lines() if "index.html" in line.get("files", {})]
    assert recorded[-1] == hashlib.sha256(second).hexdigest()
