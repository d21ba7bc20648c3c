"""Files that cannot be read are refused in one sentence, without blocking or starting another program."""

import io
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import NOISE, refusal, save_image

from styler import images
from styler.errors import ImageError

OTHER_FILES = {
    "empty": (b"", "empty"),
    "text": ("Grüße, this is not a picture\n".encode() * 300, "text"),
    "utf-16 text": ("text".encode("utf-16"), "text"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "html later": (b"\n\n<!-- x --><HTML><head>", "web page"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "PDF"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "EPS"),
    "dos eps": (b"\xc5\xd0\xd3\xc6" + bytes(99), "EPS"),
    "psd": (b"8BPS\0\1" + bytes(99), "Photoshop"),
    "gimp": (b"gimp xcf v011\0", "GIMP"),
    "zip": (b"PK\3\4" + bytes(99), "archive"),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video"),
    "cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "camera"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "netpbm": (b"P6\n64 64\n255\n" + bytes(64 * 64 * 3), "Netpbm"),
    "exr": (b"v/1\1" + bytes(99), "high-dynamic-range"),
    "noise": (bytes(range(256)), "unrecognized image format"),
    "zeros": (bytes(10000), "unrecognized image format"),
}


@pytest.mark.parametrize(("data", "message"), OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_other_kinds_of_files_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    sentence = refusal(path)
    assert message in sentence
    assert "holiday.jpg" in sentence
    assert message in refusal(data)
    assert message in refusal(io.BytesIO(data), name="upload")


def test_postscript_never_reaches_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    refusal(OTHER_FILES["eps"][0])
    refusal(OTHER_FILES["pdf"][0])


TRUNCATED = {
    "JPEG": save_image("JPEG"),
    "PNG": save_image("PNG"),
    "16-bit PNG": images.encode_image(np.asarray(NOISE, np.float32) / 255, bit_depth=16),
    "WEBP": save_image("WEBP", quality=95),
    "lossless WEBP": save_image("WEBP", lossless=True),
    "GIF": save_image("GIF"),
    "AVIF": save_image("AVIF"),
    "BMP": save_image("BMP"),
    "TIFF": save_image("TIFF", compression="tiff_lzw"),
    "16-bit TIFF": images.encode_image(np.asarray(NOISE, np.float32) / 255, format="tiff", bit_depth=16),
}


@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED.keys())
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused(data: bytes, share: float) -> None:
    sentence = refusal(data[: int(len(data) * share)], name="cut.bin")
    assert "cut.bin" in sentence
    assert "download" in sentence or "unrecognized image format" in sentence


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_truncation_is_reported_as_such(form: str) -> None:
    data = TRUNCATED[form]
    assert "ends too early" in refusal(data[: len(data) // 2])


def missing(folder: Path) -> Path:
    return folder / "missing.jpg"


def directory(folder: Path) -> Path:
    (folder / "folder.jpg").mkdir()
    return folder / "folder.jpg"


def dangling(folder: Path) -> Path:
    (folder / "link.jpg").symlink_to("gone.jpg")
    return folder / "link.jpg"


def circular(folder: Path) -> Path:
    (folder / "circle.jpg").symlink_to("circle.jpg")
    return folder / "circle.jpg"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jpg")
    return folder / "pipe.jpg"


def endpoint(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))
    return folder / "socket.jpg"


def under_a_file(folder: Path) -> Path:
    (folder / "file.txt").write_text("x")
    return folder / "file.txt" / "photo.jpg"


IRREGULAR_FILES: list[tuple[Callable[[Path], Path], str]] = [
    (missing, "no such file"),
    (directory, "folder"),
    (dangling, "link to 'gone.jpg'"),
    (circular, "circle.jpg"),
    (fifo, "pipe"),
    (endpoint, "socket"),
    (under_a_file, "no such file"),
    (lambda _: Path("/dev/zero"), "device"),
    (lambda _: Path("/dev/null"), "device"),
    (lambda folder: folder / ("long" * 99), "too long"),
    (lambda folder: folder / "null\0byte.jpg", "a file cannot have this name"),
    (lambda folder: folder / "line\nbreak\x1b[31m\udcff.jpg", r"line\nbreak\x1b[31m\xff.jpg"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="these kinds of files exist on POSIX only")
@pytest.mark.timeout(20)
@pytest.mark.parametrize(("make", "message"), IRREGULAR_FILES)
def test_a_path_that_is_not_a_regular_file_is_refused_without_blocking(
    make: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(make(tmp_path))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(save_image("JPEG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read anything, so the system call is replaced
        monkeypatch.setattr(os, "open", deny)
    assert "no permission" in refusal(path)


def deny(*args: Any, **kwargs: Any) -> int:
    raise PermissionError(13, "Permission denied")


def test_an_interrupt_is_not_reported_as_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("styler.images.color.convert_to_srgb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        images.read_image(save_image("PNG"))


def test_the_cause_is_kept() -> None:
    with pytest.raises(ImageError) as caught:
        images.read_image(TRUNCATED["GIF"][:900])
    assert isinstance(caught.value.__cause__, OSError)
