"""Small copies of pictures, kept by the hash of what they show, for the index of a batch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.batch.ledger import FOLDER

SIDE = 240
"""Pixels of the long side."""


def path(out: Path, sha256: str) -> Path:
    """Where the small copy of what has that hash is."""
    return out / FOLDER / "thumbs" / sha256[:2] / f"{sha256}.jpg"


def keep(out: Path, sha256: str, pixels: NDArray[np.floating]) -> None:
    """Make a small copy, unless there is one.

    Args:
        out: the folder of the batch.
        sha256: of the file that it shows.
        pixels: (H, W, 3), sRGB in [0, 1].

    Raises:
        OutputError: it cannot be written.
    """
    place = path(out, sha256)
    if place.is_file():
        return
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    small = np.asarray(image, np.float32) / 255  # (h, w, 3)
    images.write(place, images.encode(small, format="jpeg", quality=85), overwrite=True)
