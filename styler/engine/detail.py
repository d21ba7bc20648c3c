"""The detail of an enlarged picture, copied from the paintings.

Enlarging a picture leaves it without its finest detail. Where the photo is flat, it has none to give either, and few
iterations can only amplify what is there: the rests of the coarse pixels, in rows and columns. So each part of the
picture gets the detail of the part of a painting that looks most like it.

Sources: A. Hertzmann et al., "Image Analogies", 2001, for detail by the match of what is coarse; V. Kwatra et al.,
"Texture Optimization for Example-based Synthesis", 2005, for overlapping patches.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.resample import resize
from styler.vgg.model import Check

PATCH, CORE, STEP = 8, slice(2, 6), 2
"""Cells along the side of a patch, those of them that are compared, and cells between two patches. A cell is a pixel of
the picture before it was enlarged."""
CANDIDATES = 3000
"""Patches of the paintings that are compared, at most; each is also turned by 90°, 180° and 270°."""
REACH = 17
"""Side in pixels of the squares in which present detail is measured."""
CHUNK = 1024
"""Patches of the picture that are compared at once: 50 MB."""


def match_detail(
    image: Tensor, ratio: float, styles: Sequence[tuple[Tensor, float]], check: Check | None = None
) -> Tensor:
    """Return detail for an enlarged image: that of the paintings' nearest patches, overlapping.

    Args:
        image: the enlarged image, (1, 3, H, W).
        ratio: of its size to that before.
        styles: the paintings at the sizes at which they are compared with it, each (1, 3, h, w), and their shares.
        check: called between the parts of the work; stops it by raising.

    Returns:
        The detail, (1, 3, H, W), with as much energy as the patches.
    """
    height, width = image.shape[-2:]
    cell = max(1, round(ratio))
    side, step = PATCH * cell, STEP * cell
    parts = [_list_patches(style, ratio, cell, round(share * CANDIDATES)) for style, share in styles]
    cores, patches = (torch.cat(kind) for kind in zip(*parts, strict=True))  # (N, 48), (N, 3, side, side)
    lengths = cores.square().sum(dim=1)
    means = cores.view(len(cores), 3, -1).mean(dim=(0, 2)).view(3, 1, 1)
    deviations = cores.view(len(cores), 3, -1).std(dim=(0, 2)).view(3, 1, 1)
    rows, columns = math.ceil(height / side) + 1, math.ceil(width / side) + 1
    pads = (side, (columns + 1) * side - width - side, side, (rows + 1) * side - height - side)
    whole = F.pad(image, pads, mode="replicate")[0]  # (3, (rows + 1) · side, (columns + 1) · side)
    cells = F.avg_pool2d(whole, cell)
    cells = (cells - image.mean(dim=(2, 3)).view(3, 1, 1)) / image.std(dim=(2, 3)).clamp(min=1e-6).view(3, 1, 1)
    cells = cells * deviations + means  # patterns are compared, not how far the colors are from the painting's
    window = torch.hann_window(side, dtype=torch.float32)
    fade = window[:, None] * window  # (side, side)
    detail, energy = torch.zeros_like(whole), torch.zeros(())
    for down, across in itertools.product(range(0, PATCH, STEP), repeat=2):  # each set of patches covers the plane once
        part = cells[:, down : down + rows * PATCH, across : across + columns * PATCH]
        queries = part.reshape(3, rows, PATCH, columns, PATCH)[:, :, CORE, :, CORE]
        queries = queries.permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)  # (rows · columns, 48)
        nearest = torch.cat(list(_find_nearest(queries, cores, lengths, check)))
        chosen = patches[nearest]  # (rows · columns, 3, side, side)
        energy = energy + chosen.square().mean()
        tiles = (chosen * fade).view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4)
        top, left = down // STEP * step, across // STEP * step
        detail[:, top : top + rows * side, left : left + columns * side] += tiles.reshape(3, rows * side, -1)
    detail = detail[None, :, side : side + height, side : side + width]
    gain = (energy / (PATCH // STEP) ** 2 / detail.square().mean().clamp(min=1e-12)).sqrt()
    return detail * gain


def fill_detail(detail: Tensor, present: Tensor) -> Tensor:
    """Return as much of `detail` as `present` detail leaves missing around each pixel, both (1, 3, H, W)."""
    energy = F.avg_pool2d(present.square().mean(dim=1, keepdim=True), REACH, 1, REACH // 2, count_include_pad=False)
    return detail * (1 - energy / detail.square().mean().clamp(min=1e-12)).clamp(min=0).sqrt()


def _find_nearest(queries: Tensor, cores: Tensor, lengths: Tensor, check: Check | None) -> Iterator[Tensor]:
    """Yield the index of the nearest of `cores` (N, C) for each of `queries` (M, C), chunk by chunk."""
    for chunk in queries.split(CHUNK):
        if check:
            check()
        yield torch.addmm(lengths, chunk, cores.T, alpha=-2).argmin(dim=1)


def _list_patches(style: Tensor, ratio: float, cell: int, count: int) -> tuple[Tensor, Tensor]:
    """Return the cores, (N, 48), and the detail, (N, 3, side, side), of patches of a painting (1, 3, h, w)."""
    height, width = style.shape[-2:]
    small = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    coarse = resize(resize(style, *small), width, height)
    side = PATCH * cell
    pads = (0, max(0, side - width), 0, max(0, side - height))
    coarse, detail = (F.pad(part, pads, mode="replicate") for part in (coarse, style - coarse))
    cells = F.avg_pool2d(coarse, cell)  # (1, 3, h / cell, w / cell)
    places = (cells.shape[-2] - PATCH + 1) * (cells.shape[-1] - PATCH + 1)
    step = max(1, math.ceil(math.sqrt(places / max(1, count))))
    cores = cells.unfold(2, PATCH, step).unfold(3, PATCH, step)[..., CORE, CORE]  # (1, 3, rows, columns, 4, 4)
    patches = detail.unfold(2, side, step * cell).unfold(3, side, step * cell)
    rows, columns = cores.shape[2:4]
    patches = patches[:, :, :rows, :columns]
    pairs = [kind[0].permute(1, 2, 0, 3, 4).flatten(0, 1) for kind in (cores, patches)]
    turned = [torch.cat([kind.rot90(turns, (2, 3)) for turns in range(4)]) for kind in pairs]
    return turned[0].flatten(1), turned[1]
