"""Files and requests that are rejected, and unusual ones that are painted.

Rejected: one sentence on stderr, exit code 1 or 2, nothing on stdout, nothing written, changed or left behind.
"""

import io
import os
import pickle
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from styler import images, library
from styler.cli import main
from styler.engine.painter import Painter

TINY = ["--size", "64", "--first-size", "64", "--iterations", "1", "--device", "cpu"]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a working folder with a photo and a painting."""
    folder = tmp_path / "work"
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(folder / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    """Read every file in the folder of the test."""
    files = (path for path in folder.parent.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path): path.read_bytes() for path in files if os.access(path, os.R_OK)}


def reject(capfd: Capture, folder: Path, *tokens: str) -> str:
    """Run and return the error, after checking that it is one sentence and that nothing was changed."""
    before = read_files(folder)
    code = main(["run", *TINY, *tokens])
    out, err = capfd.readouterr()
    assert code in {1, 2}
    assert out == ""
    assert re.fullmatch(r"styler: error: [^\n]+[^.]\.\n", err), err
    assert "bug in styler" not in err
    assert err.rstrip("\n").isprintable()
    assert read_files(folder) == before
    return err


@pytest.fixture
def no_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading the network an error."""
    monkeypatch.setattr(Painter, "of", None)


def encode(form: str, image: Image.Image | None = None, **settings: Any) -> bytes:
    stream = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    (image or noise).save(stream, form, **settings)
    return stream.getvalue()


def make_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def make_png(side: int, data: bytes) -> bytes:
    """Return a gray PNG whose header claims the given size."""
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + make_chunk(b"IDAT", data) + make_chunk(b"IEND", b"")


def make_bomb() -> bytes:
    packer = zlib.compressobj(1)
    return make_png(20_000, b"".join(packer.compress(bytes(20_001)) for _ in range(20_000)) + packer.flush())


def make_text_bomb() -> bytes:
    data = encode("PNG")
    return data[:33] + make_chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(80_000_000), 1)) + data[33:]


def make_tiff(value: float) -> bytes:
    stored = np.zeros((48, 64, 3), np.float32)
    stored[1, 2] = value
    stream = io.BytesIO()
    tifffile.imwrite(stream, stored, photometric="rgb", metadata=None)
    return stream.getvalue()


FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "cut jpeg": ("a.jpg", lambda: encode("JPEG")[:900], "ends too early"),
    "cut png": ("a.png", lambda: encode("PNG")[:900], "ends too early"),
    "cut webp": ("a.webp", lambda: encode("WEBP")[:900], "ends too early"),
    "empty": ("a.png", lambda: b"", "it is empty"),
    "text": ("a.jpg", lambda: b"not a picture", "it is text"),
    "html": ("a.png", lambda: b"<!DOCTYPE html><title>404", "it is a web page"),
    "bomb": ("a.png", make_bomb, "20000 × 20000 px"),
    "liar": ("a.png", lambda: make_png(60_000, zlib.compress(b"\0")), "60000 × 60000 px"),
    "1 × 1": ("a.png", lambda: encode("PNG", Image.new("RGB", (1, 1))), "1 × 1 px"),
    "1 × 30000": ("a.png", lambda: encode("PNG", Image.new("RGB", (1, 30000))), "1 × 30000 px"),
    "svg": ("a.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": ("a.jpg", lambda: b"%PDF-1.7\n", "PDF"),
    "eps": ("a.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "PostScript"),
    "psd": ("a.png", lambda: b"8BPS\0\1" + bytes(99), "Photoshop"),
    "nan": ("a.tif", lambda: make_tiff(float("nan")), "not finite"),
    "inf": ("a.tif", lambda: make_tiff(float("inf")), "not finite"),
}


@pytest.mark.parametrize(("name", "make", "message"), FILES.values(), ids=FILES.keys())
def test_files_that_are_not_pictures_are_rejected(
    name: str, make: Callable[[], bytes], message: str, folder: Path, no_painting: None, capfd: Capture
) -> None:
    (folder / name).write_bytes(make())
    for tokens in ((name, "painting.png"), ("photo.png", name), ("photo.png", "painting.png", "--init", name)):
        sentence = reject(capfd, folder, *tokens, "-o", "out.png")
        assert f"Cannot read '{name}'" in sentence
        assert message in sentence


def make_dangling_link() -> None:
    Path("x.png").symlink_to("gone.png")


PLACES: dict[str, tuple[str, Callable[[], object], str]] = {
    "folder": ("x.png", lambda: Path("x.png").mkdir(), "it is a folder"),
    "pipe": ("x.png", lambda: os.mkfifo("x.png"), "it is a pipe, socket or device"),
    "endless": ("/dev/zero", lambda: None, "it is a pipe, socket or device"),
    "missing": ("x.png", lambda: None, "no such file"),
    "dangling": ("x.png", make_dangling_link, "it is a link to 'gone.png'"),
}


@POSIX
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "make", "message"), PLACES.values(), ids=PLACES.keys())
def test_paths_that_are_not_files_are_rejected(
    name: str, make: Callable[[], object], message: str, folder: Path, no_painting: None, capfd: Capture
) -> None:
    make()
    assert message in reject(capfd, folder, name, "painting.png")
    assert message in reject(capfd, folder, "photo.png", name)


@POSIX
def test_missing_permission_is_an_error(
    folder: Path, no_painting: None, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("photo.png", "secret.png")
    (folder / "secret.png").chmod(0)
    real = os.open

    def deny(path: Any, *args: Any, **kwargs: Any) -> int:
        if "secret" in str(path):  # the superuser may read anything, so let the system call say no
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", deny)
    assert "no permission" in reject(capfd, folder, "secret.png", "painting.png")


REQUESTS = [
    (["-o", "photo.png"], "is one of the inputs"),
    (["-o", "photo.png", "--overwrite"], "is one of the inputs"),
    (["-o", "link.png", "--overwrite"], "is one of the inputs"),
    (["--init", "other.png", "-o", "other.png", "--overwrite"], "is one of the inputs"),
    (["-o", "/proc/a.png"], "Cannot write '/proc/a.png'"),
    (["-o", "no\0name.png"], "a file cannot have this name"),
    (
        ["--style-layers", "relu1_1,relu9_1"],
        "style_layers has 'relu9_1', which is not a layer of vgg16; choose from relu1",
    ),
    (["--layer-weights", "1,2"], "layer_weights has 2 numbers for 6 style layers"),
    *(([flag, "nan"], "nan") for flag in ("--strength", "--stroke-size", "--seed", "--content-weight", "--keep-color")),
    *(([flag, "1e9"], "it can be") for flag in ("--strength", "--stroke-size", "--threads", "--keep-color", "--taper")),
    *(([flag, "inf"], "inf") for flag in ("--strength", "--smoothness", "--layer-weights", "--style-weights")),
]


@POSIX
@pytest.mark.parametrize(("flags", "message"), REQUESTS, ids=lambda value: " ".join(value).replace("\0", "0"))
def test_invalid_requests_are_rejected(
    flags: list[str], message: str, folder: Path, no_painting: None, capfd: Capture
) -> None:
    (folder / "link.png").symlink_to("painting.png")
    shutil.copy("photo.png", "other.png")
    assert message in reject(capfd, folder, "photo.png", "painting.png", *flags)


class Touching:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


SPOILT: dict[str, Callable[[bytes, Path], bytes]] = {
    "truncated": lambda data, _: data[: len(data) // 2],
    "altered": lambda data, _: data[:-1] + bytes([data[-1] ^ 1]),
    "pickle": lambda _, folder: pickle.dumps(Touching(folder / "run")),
    "empty": lambda _, _folder: b"",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_modified_weights_are_rejected(
    spoil: Callable[[bytes, Path], bytes], folder: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = library.find_assets()
    assets = folder.parent / "assets"
    for name in ("weights", "contents", "styles"):
        (assets / name).mkdir(parents=True)
    weights = spoil((good / "weights" / "vgg16.safetensors").read_bytes(), folder)
    (assets / "weights" / "vgg16.safetensors").write_bytes(weights)
    monkeypatch.setattr(library, "find_assets", lambda: assets)
    assert re.search("altered|truncated", reject(capfd, folder, "photo.png", "painting.png", "-q"))
    assert not (folder / "run").exists()


def paint(*tokens: str) -> images.Picture:
    """Paint and return the picture, after checking that it is finite."""
    assert main(["run", *TINY, *tokens, "-o", "out.png"]) == 0
    picture = images.read_image("out.png")
    assert np.isfinite(picture.pixels).all()
    return picture


def make_rotated(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encode("JPEG", exif=exif)


ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "garbage profile": (lambda: encode("JPEG", icc_profile=b"garbage" * 40), "its color profile is damaged"),
    "orientation 99": (lambda: make_rotated(99), ""),
    "much text": (make_text_bomb, ""),
    "black": (lambda: encode("PNG", Image.new("RGB", (64, 48))), ""),
    "one color": (lambda: encode("PNG", Image.new("RGB", (64, 48), (9, 200, 30))), ""),
    "one gray": (lambda: encode("PNG", Image.new("L", (64, 48), 77)), ""),
    "jpeg as png": (lambda: encode("JPEG"), ""),
    "trailing junk": (lambda: encode("JPEG") + b"junk" * 999, ""),
    "trailing junk in png": (lambda: encode("PNG") + b"junk" * 999, ""),
    "animation": (lambda: encode("GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))]), "more than one"),
}


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD.keys())
def test_unusual_pictures_are_painted(
    make: Callable[[], bytes], message: str, folder: Path, use_tiny: None, capfd: Capture
) -> None:
    (folder / "odd.png").write_bytes(make())
    for tokens in (("odd.png", "painting.png"), ("photo.png", "odd.png")):
        picture = paint(*tokens, "--overwrite")
        assert (picture.width, picture.height) == (64, 48)
        warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
        assert len(warnings) == bool(message)
        assert message in "".join(warnings)


def test_messages_of_libraries_about_damage_are_muted(
    folder: Path, use_tiny: None, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries written in C print on the file descriptor and not on `sys.stderr`."""
    read_image = images.read_image

    def print_and_read(*arguments: Any, **settings: Any) -> images.Picture:
        os.write(2, b"Fax4Decode: Bad code word")
        return read_image(*arguments, **settings)

    monkeypatch.setattr(images, "read_image", print_and_read)
    images.read_image("photo.png")
    assert "Bad code word" in capfd.readouterr().err
    assert paint("photo.png", "painting.png", "-q").width == 64
    assert capfd.readouterr() == ("out.png\n", "Fax4Decode: Bad code word")  # printed when the test reads the result


def test_rotated_photos_are_painted_upright(folder: Path, use_tiny: None) -> None:
    stored = Image.new("RGB", (64, 48), "black")
    stored.paste((255, 0, 0), (0, 0, 64, 12))  # of a photo that is turned right, its upper edge is the right side
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "phone.jpg").write_bytes(encode("JPEG", stored, exif=exif, quality=95))
    picture = paint("phone.jpg", "painting.png", "--strength", "0")
    assert (picture.width, picture.height) == (48, 64)
    assert picture.pixels[:, -6:, 0].min() > 0.8
    assert picture.pixels[:, :30, 0].max() < 0.2
    assert Image.open("out.png").getexif().get(0x0112, 1) == 1


def test_the_photo_can_be_the_style_and_a_style_can_be_tiny(folder: Path, use_tiny: None) -> None:
    assert paint("photo.png", "photo.png").width == 64
    images.write_file("small.png", images.encode_image(images.read_image("painting.png").pixels[:16, :16]))
    assert paint("photo.png", "small.png", "--overwrite").width == 64


@POSIX
@pytest.mark.parametrize("home", ["/proc/nobody", "file/in/the/way"])
def test_an_unwritable_home_is_ignored(
    home: str, folder: Path, use_tiny: None, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("HOME", home)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name)
    assert paint("photo.png", "painting.png", "-q").width == 64
    assert capfd.readouterr() == ("out.png\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf_8_are_printed_and_written(folder: Path, use_tiny: None, capfd: Capture) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert "'caf\\xe9.png': there is no such file" in reject(capfd, folder, name, "painting.png")
    shutil.copy("photo.png", name)
    assert paint(name, "painting.png").width == 64
    assert main(["run", *TINY, "-q", "photo.png", "painting.png", "-o", "{content}/" + name]) == 0
    assert [os.fsencode(path) for path in Path("photo").iterdir()] == [b"photo/caf\xe9.png"]
