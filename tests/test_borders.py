"""Borders of photographed paintings are cut, and nothing else: prints with drawn frames, grounds, skies, abstracts."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from styler import images, library, provenance
from styler.borders import Box, find_painting
from styler.engine.painter import Painter
from styler.engine.sources import SourceImage, load_source
from styler.engine.styles import StyleCache, trim_styles
from styler.options import Options

Array = NDArray[Any]
Color = float | tuple[float, float, float]
PAPER, INK = (0.93, 0.9, 0.82), (0.08, 0.08, 0.1)
FAST = Options(size=64, first_size=64, iterations=2, device="cpu")


def tensor(pixels: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).permute(2, 0, 1)[None]


def find(pixels: Array) -> Box | None:
    return find_painting(tensor(pixels))


def painting(height: int = 300, width: int = 400, seed: int = 0) -> Array:
    """Return areas of color with some grain."""
    random = np.random.default_rng(seed)
    areas = Image.fromarray((random.random((height // 12, width // 12, 3)) * 255).astype(np.uint8))
    wide = np.asarray(areas.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    return np.clip(wide + 0.05 * random.standard_normal(wide.shape), 0, 1).astype(np.float32)


def woodcut(seed: int) -> Array:
    return np.repeat((painting(seed=seed).mean(2, keepdims=True) > 0.5) * 0.85 + 0.08, 3, axis=2).astype(np.float32)


def surround(pixels: Array, left: int, top: int, right: int, bottom: int, color: Color) -> Array:
    height, width = pixels.shape[:2]
    whole = np.empty((height + top + bottom, width + left + right, 3), np.float32)
    whole[:] = color
    whole[top : top + height, left : left + width] = pixels
    return whole


def margin(pixels: Array, width: int, color: Color) -> Array:
    return surround(pixels, width, width, width, width, color)


def outside(pixels: Array, width: int) -> NDArray[np.bool_]:
    mask = np.ones(pixels.shape[:2], bool)
    mask[width:-width, width:-width] = False
    return mask


def shade(pixels: Array) -> Array:
    """Surround a painting by an unevenly lit gray."""
    whole = margin(pixels, 30, 0)
    height, width = whole.shape[:2]
    light = np.linspace(0.95, 0.8, height)[:, None] + np.linspace(0, 0.05, width)[None]
    mask = outside(whole, 30)
    whole[mask] = np.repeat(light[..., None], 3, axis=2)[mask]
    return whole


def compress(pixels: Array, quality: int = 50) -> Array:
    stream = io.BytesIO()
    Image.fromarray(images.to_uint8(pixels)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float32) / 255


def frame(pixels: Array, width: int) -> Array:
    """Put a painting into a wooden frame with a molding, lit from the upper left, with grain and a shadow."""
    whole = margin(pixels, width, 0)
    rows, columns = np.indices(whole.shape[:2])
    distances = np.stack([columns, rows, whole.shape[1] - 1 - columns, whole.shape[0] - 1 - rows])
    depth = distances.min(0) / width
    relief = 0.75 + 0.5 * np.sin(np.pi * depth.clip(0, 1)) * (1 - 0.6 * (depth > 0.8))
    light = np.array([1.1, 1.25, 0.85, 0.7])[distances.argmin(0)]
    grain = 1 + 0.06 * np.random.default_rng(0).standard_normal(depth.shape)
    mask = outside(whole, width)
    whole[mask] = (np.array([0.45, 0.28, 0.12]) * (relief * light * grain)[..., None]).clip(0, 1)[mask]
    return whole


BORDERS: dict[str, tuple[Callable[[Array], Array], tuple[int, int, int, int]]] = {
    "white": (lambda it: margin(it, 24, 1.0), (24, 24, 24, 24)),
    "a thin one": (lambda it: margin(it, 7, 1.0), (7, 7, 7, 7)),
    "black": (lambda it: margin(it, 24, 0.02), (24, 24, 24, 24)),
    "unevenly lit gray": (shade, (30, 30, 30, 30)),
    "noise and JPEG": (
        lambda it: compress(
            np.clip(
                margin(it, 20, PAPER) + np.random.default_rng(1).normal(0, 0.02, (len(it) + 40, it.shape[1] + 40, 3)),
                0,
                1,
            ),
            80,
        ),
        (20, 20, 20, 20),
    ),
    "passe-partout": (lambda it: surround(it, 40, 30, 40, 60, (0.95, 0.93, 0.86)), (40, 30, 40, 60)),
    "bars above and below": (lambda it: surround(it, 0, 40, 0, 40, 0.0), (0, 40, 0, 40)),
    "bars at the sides": (lambda it: surround(it, 50, 0, 50, 0, 1.0), (50, 0, 50, 0)),
    "wooden frame": (lambda it: frame(it, 30), (30, 30, 30, 30)),
    "wooden frame on a wall": (lambda it: margin(frame(it, 30), 25, (0.88, 0.87, 0.85)), (55, 55, 55, 55)),
}


@pytest.mark.parametrize("name", BORDERS)
def test_a_border_is_found(name: str) -> None:
    surrounded, widths = BORDERS[name]
    pixels = surrounded(painting())
    box = find(pixels)
    assert box is not None
    height, width = pixels.shape[:2]
    cut = (box.left, box.top, width - box.right, height - box.bottom)
    for actual, expected in zip(cut, widths, strict=True):
        assert expected <= actual <= expected + 3 * (expected > 0)


def test_a_border_of_a_large_scan_is_found() -> None:
    large = np.repeat(np.repeat(painting(), 3, axis=0), 3, axis=1)
    box = find(margin(large, 75, 1.0))
    assert box is not None
    assert 75 <= box.left <= 83
    assert 75 <= 1350 - box.right <= 83


def ornament(pixels: Array) -> Array:
    whole = margin(pixels, 30, PAPER)
    checks = ((np.indices(whole.shape[:2]).sum(0) // 8) % 2)[..., None] * np.array([0.6, 0.1, 0.1]) + 0.2
    mask = outside(whole, 30)
    whole[mask] = checks[mask]
    return whole


def dots(pixels: Array) -> Array:
    whole = margin(pixels, 36, PAPER)
    rows, columns = np.indices(whole.shape[:2])
    whole[outside(whole, 36) & ((columns % 18 - 9) ** 2 + (rows % 18 - 9) ** 2 < 36)] = (0.1, 0.2, 0.5)
    return whole


def vignette(reach: float) -> Array:
    rows, columns = np.mgrid[-1:1:300j, -1:1:400j]
    return np.asarray(painting() * np.clip(reach - np.hypot(rows, columns), 0, 1)[..., None] ** 1.5, np.float32)


def draw(ground: Color, *shapes: tuple[str, Any, Any]) -> Array:
    """Draw shapes on a ground: the name of a method of `ImageDraw`, its coordinates and a color."""
    picture = Image.fromarray(images.to_uint8(np.broadcast_to(np.asarray(ground, np.float32), (300, 400, 3))))
    pen = ImageDraw.Draw(picture)
    for name, place, color in shapes:
        getattr(pen, name)(place, fill=color)
    return np.asarray(picture, np.float32) / 255


def scribble() -> list[tuple[str, Any, Any]]:
    random = np.random.default_rng(2)
    ends = random.integers((40, 40), (360, 260), (60, 2, 2))
    return [("line", [tuple(map(int, end)) for end in pair], (20, 20, 20)) for pair in ends]


def bands(*grays: Color) -> Array:
    return np.repeat(np.stack([np.broadcast_to(np.asarray(gray, np.float32), (400, 3)) for gray in grays]), 75, axis=0)


KEPT: dict[str, Callable[[], Array]] = {
    "ukiyo-e print with a line": lambda: margin(margin(painting(), 2, INK), 24, PAPER),
    "ukiyo-e print with a thick line": lambda: margin(margin(painting(), 7, INK), 20, PAPER),
    "ukiyo-e print with two lines": lambda: margin(
        margin(margin(margin(painting(), 2, INK), 5, PAPER), 2, INK), 20, PAPER
    ),
    "ukiyo-e print with a colored band": lambda: margin(margin(painting(), 20, (0.2, 0.3, 0.5)), 22, PAPER),
    "woodcut with a line at the edge": lambda: margin(woodcut(1), 7, INK),
    "woodcut with a line and a margin": lambda: margin(margin(woodcut(2), 7, INK), 24, PAPER),
    "woodcut with a thin line on white": lambda: margin(margin(woodcut(3), 2, INK), 30, 1.0),
    "woodcut on white paper": lambda: margin(woodcut(4), 24, 0.93),
    "mosaic with an ornament": lambda: ornament(painting()),
    "mosaic with dots in a band": lambda: dots(painting()),
    "plain sky": lambda: np.concatenate(
        [
            np.broadcast_to(np.linspace(0.6, 0.8, 150)[:, None, None] * np.array([0.7, 0.85, 1]), (150, 400, 3)),
            painting(),
        ]
    ).astype(np.float32),
    "dark background": lambda: vignette(1.15),
    "very dark background": lambda: vignette(0.8),
    "uniform at one side": lambda: surround(painting(), 80, 0, 0, 0, (0.2, 0.2, 0.6)),
    "uniform at two sides": lambda: surround(painting(), 50, 50, 0, 0, (0.2, 0.2, 0.6)),
    "uniform at three sides": lambda: surround(painting(), 50, 50, 50, 0, 1.0),
    "gray bars": lambda: surround(painting(), 0, 40, 0, 40, 0.5),
    "bars of different widths": lambda: surround(painting(), 0, 60, 0, 30, 0.0),
    "bands": lambda: bands(INK, (0.8, 0.2, 0.1), (0.9, 0.8, 0.2), INK),
    "black and white bands": lambda: bands(0.0, 1.0, 0.5, 0.0),
    "uniform": lambda: np.full((300, 400, 3), 0.4, np.float32),
    "nested squares": lambda: margin(margin(draw((0.8, 0.3, 0.1)), 40, (0.85, 0.5, 0.1)), 40, (0.9, 0.7, 0.1)),
    "two fields": lambda: draw(
        (0.5, 0.1, 0.1),
        ("rectangle", (40, 40, 360, 140), (204, 76, 25)),
        ("rectangle", (40, 160, 360, 260), (51, 12, 12)),
    ),
    "black square": lambda: draw(PAPER, ("rectangle", (100, 60, 300, 240), (12, 12, 12))),
    "grid of lines": lambda: draw(
        PAPER,
        *(("rectangle", (x, 0, x + 10, 300), (10, 10, 10)) for x in (80, 200, 350)),
        *(("rectangle", (0, y, 400, y + 10), (10, 10, 10)) for y in (60, 190)),
    ),
    "drawing on white": lambda: draw(1.0, *scribble()),
    "logo": lambda: draw(
        1.0, ("ellipse", (120, 60, 280, 240), (200, 30, 30)), ("rectangle", (160, 110, 240, 190), (30, 30, 200))
    ),
    "logo in a rectangle": lambda: draw(
        1.0, ("rectangle", (60, 50, 340, 250), (200, 30, 30)), ("ellipse", (120, 60, 280, 240), (30, 30, 200))
    ),
    "comic panels": lambda: margin(
        np.concatenate(
            [
                margin(painting(150, 160, 1), 4, 0.0),
                np.ones((158, 8, 3), np.float32),
                margin(painting(150, 160, 2), 4, 0.0),
            ],
            axis=1,
        ),
        16,
        1.0,
    ),
    "a border of a third": lambda: surround(painting(), 200, 10, 10, 10, 1.0),
    "noise": lambda: np.random.default_rng(0).random((300, 300, 3)).astype(np.float32),
    "tiny": lambda: margin(painting(24, 24), 4, 1.0),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_picture_without_a_certain_border_is_left_whole(name: str) -> None:
    pixels = KEPT[name]()
    assert find(pixels) is None
    assert find(compress(pixels)) is None


@pytest.mark.parametrize("name", [*library.list_styles()])
def test_the_bundled_paintings_are_left_whole_and_found_in_a_border(name: str) -> None:
    pixels = images.read_image(library.list_styles()[name]).pixels
    assert find(pixels) is None
    height = len(pixels)
    box = find(margin(pixels, 60, 1.0))
    assert box is not None
    assert 60 <= box.left <= 66
    assert 60 <= height + 120 - box.bottom <= 66


def test_a_transparent_margin_is_a_border_and_a_transparent_ground_is_not() -> None:
    alpha = np.zeros((300, 400), np.float32)
    alpha[50:200, 150:350] = 1
    assert find_painting(tensor(painting()), alpha) == Box(150, 50, 350, 200)
    alpha[0, 0] = alpha[-1, -1] = 0.01
    assert find_painting(tensor(painting()), alpha) is None
    assert find_painting(tensor(painting()), np.zeros((300, 400), np.float32)) is None
    alpha[:] = 0
    alpha[100:110, 100:110] = 1
    assert find_painting(tensor(painting()), alpha) is None, "too small to be looked at alone"


def test_a_framed_painting_paints_like_the_painting_alone(painter: Painter) -> None:
    content, style, framed = painting(64, 64, 5), painting(), margin(painting(), 30, 1.0)
    box = find(framed)
    assert box is not None
    cut = framed[box.top : box.bottom, box.left : box.right]
    for options in (FAST, FAST.replace(keep_color=0.5, strength=80, init="style")):
        result = painter.stylize(content, framed, options)
        assert np.array_equal(result.pixels, painter.stylize(content, cut, options).pixels)
    assert result.trims == (box,)
    size = f"{box.right - box.left}×{box.bottom - box.top}"
    (note,) = result.notes
    assert note == f"Left out the border of the painting (trimmed from 460×360 to {size}); --keep-border keeps it."
    assert provenance.make_record(result)["trims"] == [[*box]]
    whole = painter.stylize(content, framed, FAST.replace(keep_border=True))
    assert (whole.trims, whole.notes) == ((None,), ())
    assert not np.array_equal(whole.pixels, painter.stylize(content, framed, FAST).pixels)
    plain = painter.stylize(content, style, FAST)
    assert (plain.trims, plain.notes) == ((None,), ())


def test_each_of_several_styles_is_trimmed_unless_it_has_no_weight() -> None:
    styles = [load_source(margin(painting(seed=seed), 30, 1.0)) for seed in (1, 2)]
    both = trim_styles(styles, FAST, StyleCache())
    assert all(style.trim for style in both)
    assert "of painting 2 (" in both[1].warnings[0]
    assert both[0].digest == SourceImage.of(both[0].image).digest
    one = trim_styles(styles, FAST.replace(style_weights=(0, 1)), StyleCache())
    assert [style.trim is None for style in one] == [True, False]
