"""Draw sheets: pictures on a light ground, with their names below. Knows pixels and names, and nothing of paintings."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from styler import images
from styler.errors import quote_name
from styler.geometry import fit_size

GROUND, INK, EDGE, MISSING = "#faf9f7", "#333333", "#dedbd5", "#dddddd"
"""Colors of the ground, the names, the hairline around a picture, and the cell of a picture that is missing."""
CELL_SIDE, MAX_CELL_SIDE, MIN_CELL_WIDTH = 256, 480, 128
"""Long side of the pictures of a grid, of the longest panoramas, and the least width of a cell, in which names fit."""
PLAIN_ASPECT = 16 / 9
"""Pictures longer than this are larger, so that their short side can be made out."""
GRID_ASPECT = 1.5
"""Width of a grid relative to its height, about."""
GRID_MARGIN, GRID_GAP = 28, 20
"""Pixels around a grid, and between its cells."""
GRID_TEXT = 15
"""Size of the names in a grid."""


class Sheet:
    """A sheet to which pictures and names are added.

    Args:
        width: in pixels.
        height: in pixels.
        text_size: of the names.
    """

    def __init__(self, width: int, height: int, text_size: int) -> None:
        self.image = Image.new("RGB", (width, height), GROUND)
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(size=text_size)

    def paste_picture(self, picture: Image.Image, left: int, top: int) -> None:
        """Paste a picture, with a hairline around it that shows where a light one ends."""
        self._draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=EDGE)
        self.image.paste(picture, (left, top))

    def paste_thumbnail(self, path: Path, left: int, top: int, side: int) -> None:
        """Paste a JPEG into the middle of a square cell; a missing one leaves the cell gray."""
        if not path.is_file():
            self.image.paste(MISSING, (left, top, left + side, top + side))
            return
        with Image.open(path, formats=("JPEG",)) as image:
            image.thumbnail((side, side))
            self.paste_picture(image.convert("RGB"), left + (side - image.width) // 2, top + (side - image.height) // 2)

    def write_name(self, name: str, left: int, top: int, width: int) -> None:
        """Write a name in a line of a width, in pixels; the middle of one that is too long is left out."""
        self._draw.text((left, top), self._shorten(quote_name(name)[1:-1], width), INK, self._font)

    def _shorten(self, text: str, width: int) -> str:
        kept = len(text)
        shortened = text
        while kept and self._font.getlength(shortened) > width:
            kept -= 1
            shortened = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        return shortened


def draw_grid(pictures: Sequence[tuple[str, NDArray[np.floating]]]) -> NDArray[np.float32]:
    """Return a sheet of pictures of one shape, row by row, enlarged or reduced to one size.

    Args:
        pictures: names, and pixels (H, W, 3), sRGB in [0, 1].

    Returns:
        The sheet, (H, W, 3), sRGB in [0, 1].
    """
    height, width, _ = pictures[0][1].shape
    size = choose_cell_size(width, height)
    inset = max(0, MIN_CELL_WIDTH - size[0]) // 2  # keeps the margins of narrow pictures alike
    step_x = max(size[0], MIN_CELL_WIDTH) + GRID_GAP
    step_y = size[1] + 2 * GRID_TEXT + GRID_GAP
    columns = count_columns(len(pictures), step_x, step_y)
    rows = math.ceil(len(pictures) / columns)
    sheet = Sheet(columns * step_x - GRID_GAP + 2 * GRID_MARGIN, rows * step_y - GRID_GAP + 2 * GRID_MARGIN, GRID_TEXT)
    for index, (name, pixels) in enumerate(pictures):
        left, top = GRID_MARGIN + inset + index % columns * step_x, GRID_MARGIN + index // columns * step_y
        picture = Image.fromarray(images.to_uint8(pixels)).resize(size, Image.Resampling.LANCZOS)
        sheet.paste_picture(picture, left, top)
        sheet.write_name(name, left, top + size[1] + GRID_TEXT // 2, step_x - GRID_GAP - inset)
    return np.asarray(sheet.image, np.float32) / np.float32(255)


def choose_cell_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height at which a picture of a shape is shown in a grid."""
    excess = max(1.0, max(width, height) / min(width, height) / PLAIN_ASPECT)
    return fit_size(width, height, min(MAX_CELL_SIDE, round(CELL_SIDE * math.sqrt(excess))))


def count_columns(number: int, cell_width: int, cell_height: int) -> int:
    """Return how many columns make a grid of about `GRID_ASPECT`, filling its last row best among similar ones."""
    ideal = math.sqrt(number * GRID_ASPECT * cell_height / cell_width)
    candidates = {min(number, max(1, round(ideal) + shift)) for shift in (-1, 0, 1)}
    return min(candidates, key=lambda columns: (-number % columns / columns + abs(math.log(columns / ideal)), columns))
