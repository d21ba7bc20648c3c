"""Small charts and sheets, drawn with Pillow alone: bars, points, and pictures in a grid with labels.

Knows numbers, labels and pixels; does not know networks.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from styler import images
from styler.errors import OptionError
from styler.workshop.compare import NetworkScore, mean_ratio
from styler.workshop.info import NetworkInfo

INK, PAPER, FAINT = "#222222", "#ffffff", "#dddddd"
COLOURS = ("#3b6fb6", "#d9822b", "#4a9e5c", "#b6453b", "#7b5aa6", "#8a6d3b", "#c95d9b", "#5b5b5b")
LABEL = 18
"""Pixels of height of a line of text."""


def load_font(size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own."""
    return ImageFont.load_default(size)


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], what: str, anchor: str = "la", size: int = 13
) -> None:
    """Write a line; Pillow's own font has no ×."""
    draw.text(at, what.replace("×", "x").replace("–", "-"), fill=INK, font=load_font(size), anchor=anchor)


def draw_bars(title: str, panels: Mapping[str, Sequence[float]], labels: Sequence[str]) -> Image.Image:
    """One row of bars for each label, one panel for each series, each in its own unit.

    Args:
        title: above all.
        panels: name with its unit, and one number for each label, at least 0.
        labels: of the rows.
    """
    left, wide, gap, top = 90, 210, 90, 3 * LABEL
    width = left + len(panels) * (wide + gap)
    page = Image.new("RGB", (width, top + len(labels) * LABEL + LABEL), PAPER)
    draw = ImageDraw.Draw(page)
    draw_text(draw, (8, 4), title, size=15)
    for row, label in enumerate(labels):
        draw_text(draw, (left - 8, top + row * LABEL + 1), label, "ra")
    for column, (name, values) in enumerate(panels.items()):
        start, most = left + column * (wide + gap), max([*values, 1e-30])
        draw_text(draw, (start, 4 + LABEL * 1.5), name)
        for row, value in enumerate(values):
            y = top + row * LABEL
            end = start + wide * value / most
            draw.rectangle((start, y + 2, max(start + 1, end), y + LABEL - 4), fill=COLOURS[column % len(COLOURS)])
            draw_text(draw, (end + 4, y + 1), format_short(value))
    return page


def draw_points(title: str, across: str, up: str, found: Mapping[str, tuple[float, float]]) -> Image.Image:
    """Labelled points in a plane, both axes from 0; points that are not finite are left out."""
    width, height, edge = 760, 520, 60
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    shown = {name: at for name, at in found.items() if all(map(math.isfinite, at))}
    right = 1.25 * max([at[0] for at in shown.values()] or [1.0]) or 1.0
    most = 1.15 * max([at[1] for at in shown.values()] or [1.0]) or 1.0
    draw_text(draw, (edge, 8), title, size=15)
    draw_text(draw, (width - 20, height - 22), across, "ra")
    draw_text(draw, (edge, 30), up)
    for part in range(5):
        x = edge + (width - 2 * edge) * part / 4
        y = height - edge - (height - 2 * edge) * part / 4
        draw.line((edge, y, width - edge, y), fill=FAINT)
        draw_text(draw, (edge - 6, y - 8), format_short(most * part / 4), "ra")
        draw_text(draw, (x, height - edge + 6), format_short(right * part / 4), "ma")
    for index, (name, (x, y)) in enumerate(shown.items()):
        left, top = edge + (width - 2 * edge) * x / right, height - edge - (height - 2 * edge) * y / most
        draw.ellipse((left - 5, top - 5, left + 5, top + 5), fill=COLOURS[index % len(COLOURS)])
        draw_text(draw, (left + 9, top - 8 + 14 * (index % 2)), name)
    return page


def draw_sheet(rows: Sequence[tuple[str, Sequence[tuple[str, NDArray[np.uint8]]]]], side: int) -> Image.Image:
    """Rows of pictures (H, W) or (H, W, 3), each within a square of that side, with a label above each."""
    columns = max(len(cells) for _, cells in rows)
    left = 80
    page = Image.new("RGB", (left + columns * (side + 6), len(rows) * (side + LABEL + 6)), PAPER)
    draw = ImageDraw.Draw(page)
    for row, (name, cells) in enumerate(rows):
        top = row * (side + LABEL + 6)
        draw_text(draw, (6, top + LABEL), name)
        for column, (label, pixels) in enumerate(cells):
            image = Image.fromarray(pixels).convert("RGB")
            ratio = side / max(image.size)
            way = Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.BOX
            image = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), way)
            x = left + column * (side + 6)
            draw_text(draw, (x, top + 2), label, size=11)
            page.paste(image, (x, top + LABEL))
    return page


def format_short(value: float) -> str:
    """A number in few characters."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def map_heat(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Numbers (H, W) as colours (H, W, 3): the least is dark blue, the greatest light yellow."""
    low, high = float(values.min()), float(values.max())
    t = (values - low) / (high - low) if high > low else np.zeros_like(values)
    stops = np.array([[13, 8, 60], [120, 28, 109], [225, 92, 60], [252, 253, 190]], dtype=np.float32)
    position = t * (len(stops) - 1)
    below = np.clip(position.astype(int), 0, len(stops) - 2)
    share = (position - below)[..., None]
    return np.asarray((stops[below] * (1 - share) + stops[below + 1] * share).round(), dtype=np.uint8)


def plot_info(found: NetworkInfo) -> Image.Image:
    """Parameters, FLOPs, memory and receptive field of every layer."""
    panels = {
        "parameters": [float(row.parameters) for row in found.rows],
        "FLOP, forward": [float(row.flops) for row in found.rows],
        "bytes of output": [float(row.bytes) for row in found.rows],
        "receptive field, pixels": [float(row.receptive_field) for row in found.rows],
    }
    title = f"{found.name} (configuration {found.letter}) at {found.size} x {found.size}"
    return draw_bars(title, panels, [row.name for row in found.rows])


def plot_comparison(rows: Sequence[NetworkScore]) -> Image.Image:
    """Seconds of an evaluation across, the first network's objective of what was painted up."""
    found = {Path(row.name).name: (row.evaluation, mean_ratio(row, rows[0], "objective")) for row in rows}
    return draw_points(
        "Which network to paint with", "seconds per evaluation", f"objective over that of {rows[0].name}", found
    )


def write_plot(image: Image.Image, path: Path, *, overwrite: bool) -> Path:
    """Write a drawing as PNG.

    Raises:
        OptionError: the name is of another format.
        OutputError: it cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise OptionError(f"'{path}' is to be a drawing, which is written as PNG; let its name end in .png.")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return images.write_file(path, stream.getvalue(), overwrite=overwrite)
