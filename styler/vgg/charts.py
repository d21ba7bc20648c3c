"""What the workshop draws, and how it is written: the table of a network, and a comparison."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from styler import images
from styler.errors import OptionError
from styler.vgg import chart
from styler.vgg.info import Info
from styler.vgg.rows import Row, ratio


def of_info(found: Info) -> Image.Image:
    """Parameters, FLOPs, memory and receptive field of every layer."""
    panels = {
        "parameters": [float(row.parameters) for row in found.rows],
        "FLOP, forward": [float(row.flops) for row in found.rows],
        "bytes of output": [float(row.bytes) for row in found.rows],
        "receptive field, pixels": [float(row.receptive_field) for row in found.rows],
    }
    title = f"{found.name} (configuration {found.letter}) at {found.size} x {found.size}"
    return chart.bars(title, panels, [row.name for row in found.rows])


def of_comparison(rows: Sequence[Row]) -> Image.Image:
    """Seconds of an evaluation across, the first network's objective of what was painted up."""
    found = {Path(row.name).name: (row.evaluation, ratio(row, rows[0], "objective")) for row in rows}
    return chart.points(
        "Which network to paint with", "seconds per evaluation", f"objective over that of {rows[0].name}", found
    )


def write(image: Image.Image, path: Path, *, overwrite: bool) -> Path:
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
