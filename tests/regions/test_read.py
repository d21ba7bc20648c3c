"""Masks from pictures and arrays: brightness, opacity and labels; proportions, empty masks and missing colors."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from made import save_image
from PIL import Image

from styler import images
from styler.errors import ImageError
from styler.regions.read import read_array, read_label, read_mask

HALF = np.zeros((40, 60), dtype=np.uint8)
HALF[:, 30:] = 255


def load(data: bytes) -> images.Picture:
    return images.read_image(io.BytesIO(data))


def make_gray(values: np.ndarray[Any, Any], form: str = "PNG") -> images.Picture:
    return load(save_image(form, Image.fromarray(values)))


def make_labels(form: str = "PNG", **settings: Any) -> images.Picture:
    """Return a picture of a red half, a blue quarter and a white quarter."""
    pixels = np.full((40, 64, 3), 255, dtype=np.uint8)
    pixels[:, :32] = (255, 0, 0)
    pixels[20:, 32:] = (0, 0, 255)
    return load(save_image(form, Image.fromarray(pixels), **settings))


def test_white_is_inside() -> None:
    mask = read_mask(make_gray(HALF), "m.png", 60, 40)
    assert mask.shape == (1, 1, 40, 60)
    assert mask.dtype is torch.float32
    assert torch.equal(mask, torch.from_numpy(HALF / np.float32(255))[None, None])


def test_gray_is_half_inside() -> None:
    mask = read_mask(make_gray(np.full((40, 60), 102, dtype=np.uint8)), "m.png", 60, 40)
    assert torch.allclose(mask, torch.full((1, 1, 40, 60), 0.4), atol=1e-5)


@pytest.mark.parametrize("color", [0, 255, 128])
def test_opacity_is_the_mask_whatever_the_colors(color: int) -> None:
    pixels = np.full((40, 60, 4), color, dtype=np.uint8)
    pixels[..., 3] = HALF
    mask = read_mask(load(save_image("PNG", Image.fromarray(pixels))), "m.png", 60, 40)
    assert torch.equal(mask, torch.from_numpy(HALF / np.float32(255))[None, None])


@pytest.mark.parametrize(("width", "height"), [(120, 80), (30, 20), (601, 400), (16, 11)])
def test_a_mask_of_any_size_is_resized_to_the_photo(width: int, height: int) -> None:
    mask = read_mask(make_gray(HALF), "m.png", width, height)
    assert mask.shape == (1, 1, height, width)
    assert float(mask.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(mask[..., : width // 3].max()) < 1e-3
    assert float(mask[..., -width // 3 :].min()) > 0.999


def test_other_proportions_are_refused() -> None:
    with pytest.raises(ImageError, match=r"'m.png' has 60×40 pixels and the photo 40×40.*export it at the size"):
        read_mask(make_gray(HALF), "m.png", 40, 40)
    with pytest.raises(ImageError, match="turn it by 90 degrees"):
        read_mask(make_gray(HALF), "m.png", 40, 60)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ImageError, match=r"'m.png' is empty: it is black everywhere; paint white what is inside\."):
        read_mask(make_gray(np.zeros((40, 60), dtype=np.uint8)), "m.png", 60, 40)


@pytest.mark.parametrize(
    "array",
    [HALF, HALF > 0, HALF / 255, torch.from_numpy(HALF)[None, None], torch.from_numpy(HALF / np.float32(255))[None]],
    ids=["uint8", "bool", "float64", "tensor", "channel"],
)
def test_arrays_and_tensors_are_masks(array: Any) -> None:
    assert torch.equal(read_array(array, "own", 60, 40), torch.from_numpy(HALF / np.float32(255))[None, None])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), "is an array of 5; give one of height × width"),
        (np.ones((40, 60, 3)), "is an array of 40×60×3"),
        (np.full((40, 60), 2.0), "has values outside of 0 to 1"),
        (np.full((40, 60), np.nan), "has values outside of 0 to 1"),
        (np.zeros((40, 60)), "is empty"),
    ],
)
def test_other_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_array(array, "own", 60, 40)


@pytest.mark.parametrize("form", [("PNG", {}), ("JPEG", {"quality": 80})], ids=["png", "jpeg"])
def test_a_label_is_its_color_even_after_jpeg(form: tuple[str, dict[str, Any]]) -> None:
    mask = read_label(make_labels(form[0], **form[1]), "labels", "#0000ff", 64, 40)
    inside = torch.zeros(1, 1, 40, 64)
    inside[..., 20:, 32:] = 1
    assert float((mask - inside).abs().mean()) < 0.03
    assert float(mask[..., :16, :24].max()) == 0


def test_the_colors_of_a_label_picture_are_named() -> None:
    with pytest.raises(ImageError, match=r"'m.png' has no #00ff00; its colors are #ff0000, #0000ff, #ffffff[.]$"):
        read_label(make_labels(), "m.png", "#00ff00", 64, 40)
    with pytest.raises(ImageError, match=r"'m.jpg' has no #00ff00; its colors are #f[0-9a-f]{5}, "):
        read_label(make_labels("JPEG", quality=90, subsampling=0), "m.jpg", "#00ff00", 64, 40)
