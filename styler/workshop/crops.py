"""Seeded random crops of a few pictures, at many scales and in many colors, for training and measuring networks.

An unfinished painting is not a photo: some crops are therefore blended with another, or made noisy.

This module knows pictures as tensors; it does not know networks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from styler import images, library
from styler.errors import NothingMatched
from styler.geometry import fit_size
from styler.resample import resize

LONG_SIDE = 1024
"""Maximum long side of the pictures, in pixels; larger ones are shrunk."""


def load_pictures(folder: Path | None, long_side: int = LONG_SIDE) -> list[Tensor]:
    """Load every picture of a folder, or the photos and paintings that come with styler, each (1, 3, H, W).

    Raises:
        NothingMatched: the folder has none.
        ImageError: one cannot be read.
    """
    bundled = [*library.list_contents().values(), *library.list_styles().values()]
    return [load_picture(path, long_side) for path in (bundled if folder is None else find_pictures(folder))]


def find_pictures(folder: Path) -> list[Path]:
    """Return every picture in a folder and its subfolders, sorted by name.

    Raises:
        NothingMatched: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.PICTURE_SUFFIXES)
    if not paths:
        raise NothingMatched(f"There are no pictures in '{folder}'; name a folder with photos and paintings.")
    return paths


def load_picture(path: Path, long_side: int) -> Tensor:
    """Load a picture, shrunk to the long side if it is larger: (1, 3, H, W) in [0, 1].

    Raises:
        ImageError: it cannot be read.
    """
    image = torch.from_numpy(images.read_image(path).pixels).permute(2, 0, 1)[None].contiguous()
    height, width = image.shape[-2:]
    return resize(image, *fit_size(width, height, min(long_side, max(width, height))))


def sample_crop(sources: Sequence[Tensor], side: int, generator: torch.Generator) -> Tensor:
    """Sample a random crop of a random picture, (1, 3, side, side) in [0, 1].

    Its scale lies between the whole picture and single pixels. It may be mirrored, recolored, blended with another
    crop, or noisy.
    """
    crop = _sample_view(sources, side, generator)
    if _draw_random(generator) < 0.25:
        crop = crop.lerp(_sample_view(sources, side, generator), 0.15 + 0.7 * _draw_random(generator))
    if _draw_random(generator) < 0.2:
        crop = crop + 0.15 * _draw_random(generator) * torch.randn(crop.shape, generator=generator)
    return crop.clamp(0, 1)


def _sample_view(sources: Sequence[Tensor], side: int, generator: torch.Generator) -> Tensor:
    source = sources[_draw_index(len(sources), generator)]
    short = min(source.shape[-2:])
    extent = round(side * max(1.0, short / side) ** _draw_random(generator))  # of the crop in the source, log-uniform
    extent = min(extent, short)
    top, left = (_draw_index(length - extent + 1, generator) for length in source.shape[-2:])
    crop = resize(source[..., top : top + extent, left : left + extent], side, side)
    if _draw_random(generator) < 0.5:
        crop = crop.flip(-1)
    return _jitter_colors(crop, generator) if _draw_random(generator) < 0.5 else crop


def _jitter_colors(image: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and tint, and sometimes permute the channels."""
    if _draw_random(generator) < 0.2:
        image = image[:, torch.randperm(3, generator=generator)]
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * (1.8 * _draw_random(generator))
    gain = 0.7 + 0.6 * torch.rand((1, 3, 1, 1), generator=generator)
    image = ((image - 0.5) * (0.6 + 0.8 * _draw_random(generator)) + 0.5) * gain
    return (image + 0.3 * (_draw_random(generator) - 0.5)).clamp(0, 1)


def _draw_random(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _draw_index(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
