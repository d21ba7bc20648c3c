"""Draw what is found in photos: each photo, its subject on a plain ground, and its faces, on one sheet; print seconds.

PYTHONPATH=.:tests/bench python tests/bench/masks.py OUT.png PHOTO [PHOTO ...]
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import images, library
from styler.batch.sheets import draw_grid
from styler.regions.find import MaskFinder
from styler.resample import resize

GROUND = (1.0, 0.0, 1.0)
"""Color of what is outside of a mask: one that photos rarely have."""
LONG_SIDE = 320
"""Of the pictures on the sheet."""


def load_photo(name: str) -> Tensor:
    """Load a photo, (1, 3, H, W)."""
    pixels = images.read_image(library.find_content(name)).pixels  # (H, W, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def cut_out(photo: Tensor, mask: Tensor | None) -> NDArray[np.float32]:
    """Return the part of a photo inside a mask, small, (H, W, 3); only the ground without a mask."""
    inside = torch.zeros_like(photo[:, :1]) if mask is None else mask
    shown = photo * inside + torch.tensor(GROUND)[:, None, None] * (1 - inside)  # (1, 3, H, W)
    ratio = LONG_SIDE / max(photo.shape[-2:])
    small = resize(shown, round(photo.shape[-1] * ratio), round(photo.shape[-2] * ratio))
    return small[0].permute(1, 2, 0).numpy()


def main(path: str, names: list[str]) -> None:
    """Draw the sheet and print a table."""
    finder = MaskFinder()
    warm = load_photo("astronaut")
    finder.subject(warm)
    finder.faces(warm)
    pictures: list[tuple[str, NDArray[np.float32]]] = []
    print("| photo | pixels | subject, s | covers | faces, s | faces |\n|---|---|---:|---:|---:|---:|")
    for name in names:
        photo, stem = load_photo(name), Path(name).stem
        start = time.perf_counter()
        subject = finder.subject(photo)
        middle = time.perf_counter()
        faces = finder.faces(photo)
        end = time.perf_counter()
        covered = "–" if subject is None else f"{float(subject.mean()):.0%}"
        pixels = f"{photo.shape[-1]}×{photo.shape[-2]}"
        count = len(finder.detect_faces(photo))
        print(f"| {stem} | {pixels} | {middle - start:.2f} | {covered} | {end - middle:.2f} | {count} |", flush=True)
        pictures += [
            (stem, cut_out(photo, torch.ones_like(photo[:, :1]))),
            ("subject", cut_out(photo, subject)),
            ("faces", cut_out(photo, faces)),
        ]
    images.write_file(path, images.encode_image(draw_grid(pictures)), overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
