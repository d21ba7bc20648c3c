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


def made(pixels: NDArray[np.floating]) -> bytes:
    """A small copy, JPEG.

    Args:
        pixels: (H, W, 3), sRGB in [0, 1].
    """
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    small = np.asarray(image, np.float32) / 255  # (h, w, 3)
    return images.encode_image(small, format="jpeg", quality=85)


def keep(out: Path, sha256: str, data: bytes) -> None:
    """Keep a small copy, unless there is one.

    Args:
        out: the folder of the batch.
        sha256: of the file that it shows.
        data: what `made` made.

    Raises:
        OutputError: it cannot be written.
    """
    place = path(out, sha256)
    if not place.is_file():
        images.write_file(place, data, overwrite=True)
