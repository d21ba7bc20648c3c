"""Make the bundled style pictures that are not paintings: all but the scan.

    python -m assets.styles.build [NAME ...]

Run it at the top of a checkout; it needs NumPy and Pillow. Every picture has a seed of its own, so the same versions of
both write the same bytes. It prints the lines for `assets/CREDITS.md`.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from assets.styles import canvas, glass, lines, paper_works, strokes, tesserae

HERE = Path(__file__).parent
PICTURES: dict[str, tuple[int, Callable[[np.random.Generator], canvas.Array]]] = {
    "marbled-paper": (3, paper_works.marbled_paper),
    "paper-cut": (5, paper_works.paper_cut),
    "watercolour": (2, paper_works.watercolour),
    "mosaic": (4, tesserae.mosaic),
    "pointillism": (6, tesserae.pointillism),
    "woodcut": (8, lines.woodcut),
    "ink-hatching": (9, lines.ink_hatching),
    "stained-glass": (11, glass.stained_glass),
    "kintsugi": (12, glass.kintsugi),
    "wheat-field": (13, strokes.wheat_field),
}
"""The seed of every picture, and what makes it."""


def credit(name: str, path: Path) -> str:
    """One line of the table of credits."""
    seed, make = PICTURES[name]
    what = (make.__doc__ or "").strip().splitlines()[0].split(":")[0].rstrip(".").replace("|", "/")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    title = name.replace("-", " ")
    cells = (f"`styles/{path.name}`", f"{title}: {what}; seed {seed}", "the authors of styler",
             "made by `styles/build.py`", "CC0", f"`{sha}`")  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make the named pictures, or all."""
    for name in sys.argv[1:] or sorted(PICTURES):
        seed, make = PICTURES[name]
        path = HERE / f"{name}.jpg"
        canvas.store(make(np.random.default_rng(seed)), path)
        print(credit(name, path), flush=True)


if __name__ == "__main__":
    main()
