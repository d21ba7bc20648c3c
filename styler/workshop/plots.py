"""Charts of costs and scores, and sheets of activation maps, drawn with matplotlib (the extra `plot`).

This module knows numbers, labels and pixels; it does not know networks.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from styler import images
from styler.errors import OptionError, StylerError
from styler.workshop.compare import NetworkScore, average_ratio
from styler.workshop.diagnose import SheetRow
from styler.workshop.info import NetworkInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {
    "parameters": "parameters",
    "flops": "FLOP, forward pass",
    "bytes": "bytes of output",
    "receptive_field": "receptive field, pixels",
}
"""Titles of the charts of `vgg info`, by field."""
DOTS_PER_INCH = 110


def make_figure(width: float, height: float) -> "Figure":
    """Make an empty figure of a size in inches, without any global state of pyplot.

    Raises:
        StylerError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise StylerError("Plots need matplotlib; run 'pip install matplotlib' first.") from error
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def plot_info(info: NetworkInfo) -> "Figure":
    """Draw parameters, FLOPs, memory and receptive field of every layer as bars."""
    figure = make_figure(11, 1.2 + 0.24 * len(info.rows))
    from matplotlib.ticker import EngFormatter

    figure.suptitle(f"{info.name} (configuration {info.letter}) at {info.size}×{info.size}")
    charts = figure.subplots(1, len(COSTS), sharey=True)
    for number, (chart, (field, title)) in enumerate(zip(charts, COSTS.items(), strict=True)):
        values = [getattr(row, field) for row in info.rows]
        bars = chart.barh([row.name for row in info.rows], values, color=f"C{number}")
        chart.bar_label(bars, [EngFormatter(sep="")(float(f"{value:.3g}")) for value in values], padding=3, fontsize=8)
        chart.set_title(title, fontsize=10)
        chart.margins(x=0.3, y=0.01)
        chart.xaxis.set_visible(False)
        chart.spines[["top", "right", "bottom"]].set_visible(False)
    charts[0].invert_yaxis()
    return figure


def plot_comparison(rows: Sequence[NetworkScore]) -> "Figure":
    """Draw each network's seconds per iteration and its objective relative to the first network's."""
    figure = make_figure(7.5, 5)
    chart = figure.subplots()
    for row in rows:
        x, y = row.iteration, average_ratio(row, rows[0], "objective")
        if math.isfinite(x) and math.isfinite(y):
            chart.scatter(x, y, s=60, label=Path(row.name).name)
    chart.set_title("Cost and quality of networks")
    chart.set_xlabel("seconds per iteration")
    chart.set_ylabel(f"objective, relative to {Path(rows[0].name).name}")
    chart.margins(0.25)
    chart.grid(alpha=0.3)
    chart.set_xlim(left=0)
    chart.legend()
    return figure


def plot_sheet(rows: Sequence[SheetRow]) -> "Figure":
    """Draw rows of titled images, those without colors as heat maps."""
    columns = max(len(cells) for _, cells in rows)
    figure = make_figure(1.3 * columns, 1.5 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for charts, (label, cells) in zip(grid, rows, strict=True):
        charts[0].set_ylabel(label)
        for chart in charts:
            chart.set(xticks=[], yticks=[])
            chart.spines[:].set_visible(False)
        for chart, (title, pixels) in zip(charts, cells, strict=False):
            chart.imshow(pixels.clip(0, 1) if pixels.ndim == 3 else pixels, cmap="magma")
            chart.set_title(title, fontsize=7)
    return figure


def check_plot(path: Path) -> None:
    """Check, before any work, that a plot can be drawn and is a PNG file.

    Raises:
        OptionError: the name has another extension.
        StylerError: matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise OptionError(f"Cannot write the plot '{path}': plots are PNG files; choose a name that ends in .png.")
    make_figure(1, 1)


def save_plot(figure: "Figure", path: Path, *, overwrite: bool) -> Path:
    """Write a figure as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return images.write_file(path, stream.getvalue(), overwrite=overwrite)
