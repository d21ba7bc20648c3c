"""`styler mask`: the picture it writes, its answers, and what it refuses."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler import images
from styler.cli import main
from styler.regions.find import MaskFinder

Capture = pytest.CaptureFixture[str]


def find_ramp(_finder: MaskFinder, photo: Tensor, _digest: str = "") -> Tensor:
    """Return a mask whose value, from 0 to 255, is the number of the column."""
    return (torch.arange(photo.shape[-1]) / 255).expand(1, 1, photo.shape[-2], -1)


def load(name: str) -> Image.Image:
    with Image.open(name) as image:
        image.load()
        return image


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with a photo, and finders that find a ramp as the subject and no face."""
    images.write_file(tmp_path / "photo.png", images.encode_image(pixels(48, 64)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MaskFinder, "subject", find_ramp)
    monkeypatch.setattr(MaskFinder, "faces", lambda _self, _photo, _digest="": None)
    return tmp_path


def find(*tokens: str) -> int:
    return main(["mask", *tokens, "--device", "cpu"])


def test_the_mask_is_a_gray_picture_of_the_photos_size(folder: Path, capsys: Capture) -> None:
    assert find("photo.png", "subject", "-o", "mask.png") == 0
    assert capsys.readouterr().out == "mask.png\n"
    mask = load("mask.png")
    assert (mask.mode, mask.size) == ("L", (64, 48))
    assert np.array_equal(np.asarray(mask)[7], np.arange(64))
    assert np.array_equal(images.to_uint8(images.read_image("mask.png").pixels)[7, :, 0], np.arange(64))


def test_a_turned_photo_has_an_upright_mask(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save("turned.jpg", exif=exif)
    assert find("turned.jpg", "background", "-q") == 0
    assert load("turned.background.png").size == (48, 64)


def test_nothing_is_overwritten_unless_it_is_asked_for(folder: Path, capsys: Capture) -> None:
    for _ in range(2):
        assert find("photo.png", "subject") == 0
    assert capsys.readouterr().out == "photo.subject.png\nphoto.subject-2.png\n"
    assert find("photo.png", "subject", "-o", "photo.subject.png") == 2
    assert "already exists" in capsys.readouterr().err
    assert find("photo.png", "subject", "-o", "photo.subject.png", "--overwrite") == 0
    assert find("photo.png", "subject", "-o", "photo.png", "--overwrite") == 2


@pytest.mark.parametrize("name", ["mask.jpg", "mask.webp", "mask.tif", "mask.avif"])
def test_other_formats_hold_the_same_mask(name: str, folder: Path) -> None:
    assert find("photo.png", "subject", "-q", "-o", name) == 0
    values = images.to_uint8(images.read_image(name).pixels).astype(int)
    assert np.abs(values[..., 0] - np.arange(64)).max() <= 8
    assert np.abs(values[..., 0] - values[..., 2]).max() <= 4


def test_streams(folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    class Stdin:
        buffer = io.BytesIO(Path("photo.png").read_bytes())

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", Stdin())
    assert find("-", "subject", "-q", "-o", "-") == 0
    assert Image.open(io.BytesIO(capfdbinary.readouterr().out)).mode == "L"


def test_json_says_what_was_found(folder: Path, capsys: Capture) -> None:
    assert find("photo.png", "background", "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["output"] == "photo.background.png"
    assert (answer["mask"], answer["width"], answer["height"]) == ("background", 64, 48)
    assert answer["coverage"] == pytest.approx(1 - 63 / 2 / 255)
    assert answer["network"]["name"] == "u2netp"
    assert len(answer["network"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        (("photo.png", "faces"), 4, "No face was found in the photo"),
        (("photo.png", "face"), 2, "NAME is 'face' (did you mean 'faces'?); it can be subject, background, faces."),
        (("photo.png",), 2, "NAME is required; see 'styler mask --help'."),
        (("missing.png", "subject"), 1, "Cannot read 'missing.png': there is no such file"),
        (("photo.png", "subject", "--max-pixels", "100"), 1, "Cannot read 'photo.png'"),
        (("photo.png", "subject", "-o", "mask"), 2, "has no extension"),
        (("photo.png", "subject", "-o", "-", "--json"), 2, "both need standard output"),
    ],
)
def test_refusals(tokens: tuple[str, ...], code: int, message: str, folder: Path, capsys: Capture) -> None:
    assert find(*tokens) == code
    assert message in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"photo.png"}
