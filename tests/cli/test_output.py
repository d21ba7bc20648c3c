"""Where `styler run` writes the picture, and what is preserved in it."""

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.cli import files, main
from styler.engine.painter import Painter
from styler.options import Options

TINY = ["--size", "64", "--first-size", "64", "--iterations", "1", "--device", "cpu", "-q"]
SAME = ["--strength", "0", "--size", "original", "--device", "cpu", "-q"]
Capture = pytest.CaptureFixture[str]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with a photo and a painting; temporary files and locks are beside it."""
    folder = tmp_path / "work"
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(folder / name, images.encode_image(pixels(48, 64, seed)))
    for variable, name in (("XDG_CACHE_HOME", "cache"), ("TMPDIR", "temporary")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(folder)
    return folder


class Stream(io.StringIO):
    """A text stream on top of bytes."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__()
        self.bytes = io.BytesIO(data)
        self.terminal = terminal

    @property
    def buffer(self) -> io.BytesIO:
        return self.bytes

    def isatty(self) -> bool:
        return self.terminal


def paint(*tokens: str, with_: list[str] = TINY) -> int:
    return main(["run", *with_, *tokens])


def list_names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_format(source: str | io.BytesIO) -> str | None:
    with Image.open(source) as image:
        return image.format


def list_leftovers(folder: Path) -> set[str]:
    """Files outside the working folder."""
    return {path.name for path in folder.parent.rglob("*") if path.is_file() and folder not in path.parents}


def error(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"styler: error: [^\n]*\n", err), err
    return err


def test_standard_output_gets_only_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list_names(folder)
    for flag in (["-o", "-"], ["--output", "-"], ["--output=-"]):
        out = Stream()
        monkeypatch.setattr(sys, "stdout", out)
        assert paint("photo.png", "painting.png", *flag) == 0
        assert out.getvalue() == ""
        assert images.read_image(out.bytes.getvalue()).width == 64
        assert Image.open(io.BytesIO(out.bytes.getvalue())).format == "PNG"
    assert list_names(folder) == before


def test_a_picture_is_read_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    data = (folder / "photo.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", Stream(data))
    assert paint("-", "painting.png") == 0
    assert capsys.readouterr().out == "stdin.painting.png\n"
    monkeypatch.setattr(sys, "stdin", Stream(data))
    assert paint("photo.png", "-", "-o", "a.png") == 0
    monkeypatch.setattr(sys, "stdin", Stream(b"<html>"))
    assert paint("-", "painting.png") == 1
    assert "Cannot read 'standard input': it is a web page" in capsys.readouterr().err
    assert list_names(folder) == {"photo.png", "painting.png", "a.png", "stdin.painting.png"}


STREAMS = [
    ("- -", "Only one picture can come from standard input"),
    ("- painting.png", "Standard input is a terminal"),
    ("photo.png painting.png -o -", "Standard output is a terminal"),
    ("photo.png painting.png --init -", "cannot come from standard input"),
    ("photo.png painting.png --from -", "Cannot read '-'"),
    ("photo.png painting.png --seed -", "seed is -"),
]


@pytest.mark.parametrize(("arguments", "message"), STREAMS)
def test_invalid_uses_of_streams_give_one_sentence(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "stdin", Stream(terminal=True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert paint(*arguments.split()) in {1, 2}
    assert message in error(capsys)


def test_picture_and_json_cannot_share_a_stream(capsys: Capture) -> None:
    assert main(["run", "photo.png", "painting.png", "-o", "-", "--json"]) == 2
    assert "-o - and --json both need standard output" in capsys.readouterr().err


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert paint("-", "painting.png") == 1
    assert "it is closed" in error(capsys)


@pytest.mark.parametrize("destination", ["album", "album/", "new/deep/"])
def test_a_folder_as_output_gets_the_default_name(destination: str, folder: Path, capsys: Capture) -> None:
    (folder / "album").mkdir()
    for name in ("photo.painting.png", "photo.painting-2.png"):
        assert paint("photo.png", "painting.png", "-o", destination) == 0
        assert capsys.readouterr().out == f"{Path(destination) / name}\n"
        assert (folder / destination / name).is_file()


def test_a_name_can_have_fields(folder: Path, capsys: Capture) -> None:
    destination = "made/{style}/{content}-{seed}{{}}.{ext}"
    assert paint("photo.png", "painting.png", "photo.png", "--seed", "7", "-o", destination) == 0
    assert capsys.readouterr().out == "made/painting+photo/photo-7{}.png\n"
    assert paint("photo.png", "painting.png", "--format", "jpg", "-o", "{content}.{ext}") == 0
    assert capsys.readouterr().out == "photo.jpg\n"
    assert read_format("photo.jpg") == "JPEG"
    for wrong in ("{contents}.png", "{}.png", "{seed:03}.png"):
        assert paint("photo.png", "painting.png", "-o", wrong) == 2
        assert f"no field {wrong.removesuffix('.png')}; it can have {{content}}, {{style}}, {{seed}}, {{ext}}" in (
            error(capsys)
        )


KINDS = [("png", "PNG"), ("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF"), ("tif", "TIFF")]


@pytest.mark.parametrize(("extension", "kind"), KINDS)
def test_format_applies_to_outputs_without_a_name(
    extension: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (folder / "album").mkdir()
    for destination, name in (([], "photo.painting"), (["-o", "album"], "album/photo.painting")):
        assert paint("photo.png", "painting.png", "--format", extension, *destination) == 0
        assert capsys.readouterr().out == f"{Path(name)}.{extension}\n"
        assert read_format(f"{name}.{extension}") == kind
    out = Stream()
    monkeypatch.setattr(sys, "stdout", out)
    assert paint("photo.png", "painting.png", "--format", extension, "-o", "-") == 0
    assert read_format(out.bytes) == kind


def test_jpg_and_jpeg_are_the_same_format() -> None:
    assert paint("photo.png", "painting.png", "--format", "jpeg", "-o", "a.jpg") == 0


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_keep_every_tone_at_strength_0(name: str, folder: Path) -> None:
    gray = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    colors = np.dstack([gray, gray[::-1], gray.T])
    for stored in (gray, colors):
        (folder / "deep.png").write_bytes(imagecodecs.png_encode(stored))
        assert paint("deep.png", "painting.png", "-o", name, "--bit-depth", "16", "--overwrite", with_=SAME) == 0
        data = (folder / name).read_bytes()
        result = imagecodecs.png_decode(data) if name == "a.png" else imagecodecs.imread(folder / name)
        assert result.dtype == np.uint16
        assert np.array_equal(result, stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, -1))
        assert paint("deep.png", "painting.png", "-o", "b.png", "--overwrite", with_=SAME) == 0
        eight = np.asarray(Image.open("b.png"), np.float64) / 255
        assert np.abs(eight - result / 65535).max() <= 0.5 / 255 + 1e-9


def test_strength_0_returns_the_photo_bit_for_bit(painter: Painter) -> None:
    photo, style = images.read_image("photo.png"), images.read_image("painting.png")
    assert np.array_equal(painter.stylize(photo, style, Options(strength=0, size="original")).pixels, photo.pixels)


@pytest.mark.parametrize(("name", "depth"), [("a.png", 8), ("a.png", 16), ("a.tif", 16), ("a.webp", 8), ("a.avif", 8)])
def test_alpha_is_kept_exactly_at_the_same_size(name: str, depth: int, folder: Path) -> None:
    top = 2**depth - 1
    stored = np.random.default_rng(0).integers(0, top + 1, (48, 64, 4)).astype(np.uint8 if depth == 8 else np.uint16)
    (folder / "cut.png").write_bytes(imagecodecs.png_encode(stored))
    assert paint("cut.png", "painting.png", "-o", name, "--bit-depth", str(depth)) == 0
    alpha = images.read_image(name).alpha
    assert alpha is not None
    assert np.array_equal(np.rint(alpha * top), stored[..., 3])


COLORS = [("red", (1, 0, 0)), ("#0080ff", (0, 128 / 255, 1)), ("hsl(0,0%,0%)", (0, 0, 0))]


@pytest.mark.parametrize(("color", "seen"), COLORS)
def test_background_is_the_color_behind_transparency(color: str, seen: tuple[float, ...], folder: Path) -> None:
    images.write_file("clear.png", images.encode_image(np.ones((48, 64, 3)), alpha=np.zeros((48, 64))))
    assert paint("clear.png", "painting.png", "--background", color, "-o", "a.jpg", with_=SAME) == 0
    assert np.abs(images.read_image("a.jpg").pixels - np.array(seen)).max() < 0.02


WRONG = [
    ("--background nocolor", 2, "background is nocolor; it can be a name such as white, or #rrggbb."),
    ("--max-pixels many", 2, "max_pixels is many; it can be a whole number above 0"),
    ("--max-pixels 0", 2, "max_pixels is 0;"),
    ("--max-pixels 3071", 1, "'photo.png': it is 64 × 48 px, more than the limit"),
    ("--bit-depth 12", 2, "bit-depth"),
    ("--bit-depth 16 -o a.jpg", 2, "'a.jpg' is JPEG, which does not support 16 bits; choose PNG or TIFF"),
    (
        "--bit-depth 16 --format webp -o -",
        2,
        "'standard output' is WebP, which does not support 16 bits; choose PNG or TIFF",
    ),
    ("--format gif", 2, '--format. Choose from: "png"'),
    ("--format jpg -o a.png", 2, "The name 'a.png' contradicts --format jpg"),
    ("--format=", 2, "--format"),
    ("--output=", 2, "The name of the output is empty"),
]


@pytest.mark.parametrize(("flags", "code", "message"), WRONG)
def test_flags_about_pictures_are_checked_before_any_work(
    flags: str, code: int, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(Painter, "of", None)
    before = list_names(folder)
    assert paint("photo.png", "painting.png", *flags.split()) == code
    assert message in error(capsys)
    assert list_names(folder) == before


def test_the_limit_of_pixels_is_inclusive() -> None:
    assert paint("photo.png", "painting.png", "--max-pixels", "3072") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_on_a_full_disk_the_picture_is_saved_in_the_temporary_folder(folder: Path, capsys: Capture) -> None:
    assert paint("photo.png", "painting.png", "-o", "/dev/full") == 1
    message = error(capsys)
    result = re.search(
        r"the disk is full; .*; the picture was saved as '(.*/temporary/photo\.painting\.png)'\.$", message
    )
    assert result, message
    assert images.read_image(result[1]).width == 64
    assert Path("/dev/full").is_char_device()
    assert list_names(folder) == {"photo.png", "painting.png"}


def test_an_output_created_meanwhile_does_not_lose_the_picture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    stream = Painter.stream

    def create_output(*args: object) -> object:
        for progress in stream(*args):  # type: ignore[arg-type]
            (folder / "a.png").write_bytes(b"somebody was faster")
            yield progress

    monkeypatch.setattr(Painter, "stream", create_output)
    assert paint("photo.png", "painting.png", "-o", "a.png") == 1
    message = error(capsys)
    assert "it already exists" in message
    assert "the picture was saved as" in message
    assert (folder / "a.png").read_bytes() == b"somebody was faster"
    assert list_leftovers(folder) == {"a.png"}


def test_an_unwritable_temporary_folder_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_given: object) -> int:
        raise OSError(28, "No space left on device")

    stream = Painter.stream

    def fill_disk(*args: object) -> object:
        yield from stream(*args)  # type: ignore[arg-type]
        monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all\0")
        monkeypatch.setattr(os, "fsync", fail)

    monkeypatch.setattr(Painter, "stream", fill_disk)
    assert paint("photo.png", "painting.png", "-o", "a.png") == 1
    message = error(capsys)
    assert "the disk is full" in message
    assert "saving it in the temporary folder failed too" in message


@POSIX
def test_a_picture_can_be_written_to_a_pipe(folder: Path) -> None:
    os.mkfifo("pipe.png")
    reader = os.open("pipe.png", os.O_RDONLY | os.O_NONBLOCK)
    assert paint("photo.png", "painting.png", "-o", "pipe.png") == 0
    assert images.read_image(os.read(reader, 1 << 20)).width == 64
    os.close(reader)
    assert Path("pipe.png").is_fifo()


def test_a_second_run_with_the_same_output_is_rejected(folder: Path, capsys: Capture) -> None:
    with files.hold_output(folder / "a.png"):
        assert paint("photo.png", "painting.png", "-o", "./a.png") == 1
        pattern = (
            rf"Another run of styler \(process {os.getpid()} on .*, since [\d:]+\) is writing 'a\.png'; wait for it"
        )
        assert re.search(pattern, error(capsys))
        assert paint("photo.png", "painting.png", "-o", "b.png") == 0
        assert list_names(folder) == {"photo.png", "painting.png", "b.png"}
    assert paint("photo.png", "painting.png", "-o", "a.png") == 0
    assert list_leftovers(folder) == set(), "no lock is left"


def test_locks_of_dead_runs_are_ignored(folder: Path) -> None:
    with files.hold_output(folder / "a.png"):
        (lock,) = (folder.parent / "cache" / "styler" / "locks").glob("*.lock")
    lock.touch()
    lock.with_suffix(".txt").write_text("process 1")
    assert paint("photo.png", "painting.png", "-o", "a.png") == 0
    assert list_leftovers(folder) == set()


@POSIX
@pytest.mark.parametrize(
    "problem", [PermissionError(13, "Permission denied"), OSError(38, "Not there"), NotImplementedError()]
)
def test_unavailable_locks_are_ignored(problem: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_lock: object) -> None:
        raise problem

    monkeypatch.setattr("filelock.FileLock._acquire", refuse)
    assert paint("photo.png", "painting.png", "-o", "a.png") == 0
    assert list_leftovers(folder) == set()


@POSIX
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can make files of another user")
def test_lock_folders_of_other_users_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    theirs = folder.parent / "temporary" / f"styler-{os.getuid()}"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, 65534, 65534)
    with files.hold_output(folder / "a.png"):
        assert [*theirs.iterdir()] == []
    os.chown(theirs, os.getuid(), os.getgid())
    with files.hold_output(folder / "a.png"):
        assert len([*theirs.iterdir()]) == 2


def test_locks_are_not_put_into_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python uses it for temporary files if nothing else can be written."""
    (folder.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before = list_names(folder)
    with files.hold_output(folder / "a.png"):
        assert list_names(folder) == before


def test_painting_works_without_a_lock_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    assert paint("photo.png", "painting.png", "-o", "a.png") == 0
    monkeypatch.setattr("styler.cli.files._find_lock_folder", lambda: None)
    assert paint("photo.png", "painting.png", "-o", "b.png") == 0
    assert list_leftovers(folder) == {"file"}
