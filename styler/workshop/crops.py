"""Many looks at few pictures: seeded crops at many scales and in many colours, to teach and to measure networks with.

A painting in the making is no photo: some crops are therefore mixed with another, or made grainy.

Knows pictures as tensors; does not know networks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from styler import images, library
from styler.errors import NothingMatched
from styler.resample import resize

LONG_SIDE = 1024
"""Pictures are kept at most so long: a network sees no more of them."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")


def load_pictures(folder: Path | None, long_side: int = LONG_SIDE) -> list[Tensor]:
    """Every picture of a folder, or without one the photos and paintings that come with styler, each (1, 3, H, W).

    Raises:
        NothingMatched: there are none.
        ImageError: one cannot be read.
    """
    bundled = [*library.list_contents().values(), *library.list_styles().values()]
    return [load_picture(path, long_side) for path in (bundled if folder is None else find_pictures(folder))]


def find_pictures(folder: Path) -> list[Path]:
    """Every picture in a folder and in those in it, by name.

    Raises:
        NothingMatched: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise NothingMatched(f"There is no picture in '{folder}'; name a folder with some, photos and paintings.")
    return found


def load_picture(path: Path, long_side: int) -> Tensor:
    """A picture, at most so long, (1, 3, H, W) in [0, 1].

    Raises:
        ImageError: it cannot be read.
    """
    image = torch.from_numpy(images.read_image(path).pixels).permute(2, 0, 1)[None].contiguous()
    height, width = image.shape[-2:]
    ratio = min(1.0, long_side / max(height, width))
    return resize(image, max(1, round(width * ratio)), max(1, round(height * ratio)))


def sample_crop(sources: Sequence[Tensor], side: int, generator: torch.Generator) -> Tensor:
    """A random look at a random picture, (1, 3, side, side) in [0, 1].

    Of any scale between the whole picture and its pixels as they are, mirrored or not, at times in other colours,
    mixed with another look, or grainy.
    """
    found = _sample_view(sources, side, generator)
    if _random(generator) < 0.25:
        found = found.lerp(_sample_view(sources, side, generator), 0.15 + 0.7 * _random(generator))
    if _random(generator) < 0.2:
        found = found + 0.15 * _random(generator) * torch.randn(found.shape, generator=generator)
    return found.clamp(0, 1)


def _sample_view(sources: Sequence[Tensor], side: int, generator: torch.Generator) -> Tensor:
    source = sources[_random_index(len(sources), generator)]
    short = min(source.shape[-2:])
    reach = round(side * max(1.0, short / side) ** _random(generator))  # of the crop in the source, log-uniform
    reach = min(reach, short)
    top, left = (_random_index(length - reach + 1, generator) for length in source.shape[-2:])
    found = resize(source[..., top : top + reach, left : left + reach], side, side)
    if _random(generator) < 0.5:
        found = found.flip(-1)
    return _jitter_colors(found, generator) if _random(generator) < 0.5 else found


def _jitter_colors(image: Tensor, generator: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and tint; now and then other channels altogether."""
    if _random(generator) < 0.2:
        image = image[:, torch.randperm(3, generator=generator)]
    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * (1.8 * _random(generator))
    gain = 0.7 + 0.6 * torch.rand((1, 3, 1, 1), generator=generator)
    image = ((image - 0.5) * (0.6 + 0.8 * _random(generator)) + 0.5) * gain
    return (image + 0.3 * (_random(generator) - 0.5)).clamp(0, 1)


def _random(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _random_index(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
