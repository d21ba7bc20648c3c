"""Draw what is found in photos: each photo, its subject on a plain ground, and its faces, on one sheet; print seconds.

PYTHONPATH=.:tests/bench python tests/bench/masks.py OUT.png PHOTO [PHOTO ...]
"""

from styler import environment

environment.prepare_process()  # before torch is loaded

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import images, library
from styler.regions.find import MaskFinder
from styler.resample import resize

GROUND = (1.0, 0.0, 1.0)
"""Color of what is outside of a mask: one that photos rarely have."""
LONG_SIDE = 320
"""Of the pictures on the sheet."""
ATTEMPTS = 3


def load_photo(name: str) -> Tensor:
    """Load a photo, (1, 3, H, W)."""
    pixels = images.read_image(library.find_content(name)).pixels  # (H, W, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def cut_out(photo: Tensor, mask: Tensor | None) -> NDArray[np.float32]:
    """Return the part of a photo inside a mask on a white cell, (L, L, 3); only the ground without a mask."""
    inside = torch.zeros_like(photo[:, :1]) if mask is None else mask
    shown = photo * inside + torch.tensor(GROUND)[:, None, None] * (1 - inside)  # (1, 3, H, W)
    ratio = LONG_SIDE / max(photo.shape[-2:])
    small = resize(shown, round(photo.shape[-1] * ratio), round(photo.shape[-2] * ratio))
    cell = torch.ones(3, LONG_SIDE, LONG_SIDE)
    cell[:, : small.shape[-2], : small.shape[-1]] = small[0]
    return cell.permute(1, 2, 0).contiguous().numpy()


def measure(find: Callable[[Tensor], Tensor | None], photo: Tensor) -> tuple[float, Tensor | None]:
    """Return the seconds of the quickest of several attempts, and the mask."""
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        mask = find(photo)
        seconds.append(time.perf_counter() - start)
    return min(seconds), mask


def main(path: str, names: list[str]) -> None:
    """Draw the sheet and print a table."""
    finder = MaskFinder()
    warm = load_photo("astronaut")
    finder.subject(warm)
    finder.faces(warm)
    rows: list[NDArray[np.float32]] = []
    print("| photo | pixels | subject, s | covers | faces, s | faces |\n|---|---|---:|---:|---:|---:|")
    for name in names:
        photo, stem = load_photo(name), Path(name).stem
        subject_seconds, subject = measure(finder.subject, photo)
        face_seconds, faces = measure(finder.faces, photo)
        covered = "–" if subject is None else f"{float(subject.mean()):.0%}"
        pixels = f"{photo.shape[-1]}×{photo.shape[-2]}"
        count = len(finder.detect_faces(photo))
        print(f"| {stem} | {pixels} | {subject_seconds:.2f} | {covered} | {face_seconds:.2f} | {count} |", flush=True)
        cells = [cut_out(photo, mask) for mask in (torch.ones_like(photo[:, :1]), subject, faces)]
        rows.append(np.concatenate(cells, axis=1))  # (L, 3 L, 3)
    rows += [np.ones_like(rows[0])] * (len(rows) % 2)
    halves = [np.concatenate(rows[half::2]) for half in range(2)]  # two photos side by side
    images.write_file(path, images.encode_image(np.concatenate(halves, axis=1)), overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
