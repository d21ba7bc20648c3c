"""The detail that enlarging a picture cannot restore.

An enlarged picture has no detail but what the photo adds, and nothing where the photo is flat. There a few iterations
can only amplify what enlarging left: traces of the coarse pixels, in rows and columns. So each part of the picture gets
the detail of the part of a painting that looks most like it. Many iterations find detail by themselves.

Sources: A. Hertzmann et al., "Image Analogies", 2001, for detail by the match of what is coarse; V. Kwatra et al.,
"Texture Optimization for Example-based Synthesis", 2005, for overlapping patches.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.resample import resize

PATCH, STEP = 8, 2
"""Side of a patch, and distance of neighbors, in cells. A cell is a pixel of the picture before it is enlarged."""
CORE = slice(2, 6)
"""The cells of a patch that are compared, down and across."""
CANDIDATES = 1500
"""Patches of the paintings, about; each is also turned by 90°, 180° and 270°. Twice as many take twice the time, and a
draft at 512 px ends at 0.98 times the loss."""
CHUNK = 1024
"""Patches of the picture that are compared at once, which takes 50 MB."""
STRIP_VALUES = 1 << 24
"""Values of patches that are put into the picture at once, 64 MB. Strips are of nearly equal size, since the freed
memory of smaller blocks would be left between others."""
REACH = 17
"""Side of the squares, in pixels, in which present detail is measured."""
TINY = 1e-12


def fill_detail(present: Tensor, detail: Tensor) -> Tensor:
    """Return present detail with as much of another as it lacks of its energy around each pixel, all (1, 3, H, W)."""
    energy = present.square().mean(dim=1, keepdim=True)  # (1, 1, H, W)
    energy = F.avg_pool2d(energy, REACH, 1, REACH // 2, count_include_pad=False)
    share = (1 - energy / detail.square().mean().clamp(min=TINY)).clamp_(min=0).sqrt_()  # (1, 1, H, W)
    return (detail * share).add_(present)


def match_detail(
    image: Tensor, ratio: float, styles: Sequence[tuple[Tensor, float]], check: Callable[[], None] | None = None
) -> Tensor:
    """Return the detail of the paintings' patches that are nearest to those of an enlarged image, overlapping.

    Args:
        image: the enlarged image, (1, 3, H, W).
        ratio: of its size to that before.
        styles: the paintings at the sizes at which they are compared with it, each (1, 3, h, w), and their shares.
        check: called between the parts of the work; stops it by raising.

    Returns:
        The detail, (1, 3, H, W), with as much energy as the patches have.
    """
    cell = max(1, round(ratio))
    side, (height, width) = PATCH * cell, image.shape[-2:]
    parts = [_cut_patches(style, ratio, cell, round(share * CANDIDATES)) for style, share in styles]
    cores, patches = (torch.cat(kind) for kind in zip(*parts, strict=True))  # (N, 3, 4, 4), (N, 3, side, side)
    rows, columns = math.ceil(height / side) + 1, math.ceil(width / side) + 1
    pads = (side, columns * side - width, side, rows * side - height)
    padded = F.pad(image, pads, mode="replicate")[0]  # (3, (rows + 1) · side, (columns + 1) · side)
    cells, shape = _match_colors(F.avg_pool2d(padded, cell), cores), padded.shape
    del padded
    window = torch.hann_window(side, dtype=torch.float32)
    fade = window[:, None] * window  # (side, side)
    detail, energies = torch.zeros(shape, dtype=torch.float32), []
    count = math.ceil(rows / max(1, STRIP_VALUES // (3 * side * side * columns)))
    strip = math.ceil(rows / count)  # rows of patches
    for down, across in itertools.product(range(0, PATCH, STEP), repeat=2):  # sets of patches that do not overlap
        part = cells[:, down : down + rows * PATCH, across : across + columns * PATCH]
        queries = part.reshape(3, rows, PATCH, columns, PATCH)[:, :, CORE, :, CORE].permute(1, 3, 0, 2, 4)
        nearest = torch.cat([*_find_nearest(queries.reshape(rows * columns, -1), cores.flatten(1), check)])
        left, means = across * cell, []
        for part in torch.split(nearest.view(rows, columns), strip):
            chosen = patches[part]  # (r, columns, 3, side, side)
            means.append(chosen.square().mean() * len(part) / rows if len(part) < rows else chosen.square().mean())
            tiles = (chosen * fade).permute(2, 0, 3, 1, 4)
            top = down * cell + strip * side * (len(means) - 1)
            below = top + len(part) * side
            detail[:, top:below, left : left + columns * side] += tiles.reshape(3, len(part) * side, -1)
        energies.append(torch.stack(means).sum())
    detail = detail[None, :, side : side + height, side : side + width]
    energy = torch.stack(energies).mean()  # neighbors that agree add up, others cancel
    return detail.mul_((energy / detail.square().mean().clamp(min=TINY)).sqrt())


def _cut_patches(style: Tensor, ratio: float, cell: int, count: int) -> tuple[Tensor, Tensor]:
    """Cut patches from a painting (1, 3, h, w), and turn each.

    Returns:
        The cores of what is left of them at the size before, (N, 3, 4, 4), and their detail, (N, 3, side, side).
    """
    side = PATCH * cell
    height, width = style.shape[-2:]
    coarse = resize(resize(style, max(1, round(width / ratio)), max(1, round(height / ratio))), width, height)
    pads = (0, max(0, side - width), 0, max(0, side - height))
    coarse, detail = (F.pad(part, pads, mode="replicate") for part in (coarse, style - coarse))
    cells = F.avg_pool2d(coarse, cell)  # (1, 3, h / cell, w / cell)
    places = (cells.shape[-2] - PATCH + 1) * (cells.shape[-1] - PATCH + 1)
    step = math.ceil(math.sqrt(places / max(1, count)))
    cores = cells[0].unfold(1, PATCH, step).unfold(2, PATCH, step)[..., CORE, CORE]  # (3, rows, columns, 4, 4)
    patches = detail[0].unfold(1, side, step * cell).unfold(2, side, step * cell)  # (3, rows, columns, side, side)
    kinds = [
        kind.permute(1, 2, 0, 3, 4).flatten(0, 1) for kind in (cores, patches[:, : cores.shape[1], : cores.shape[2]])
    ]
    cores, patches = (torch.cat([kind.rot90(turns, (2, 3)) for turns in range(4)]) for kind in kinds)
    return cores, patches


def _match_colors(cells: Tensor, cores: Tensor) -> Tensor:
    """Give cells (3, H, W) the mean and deviation of `cores` (N, 3, 4, 4): shapes are compared rather than colors."""
    mean, deviation = cells.mean(dim=(1, 2)), cells.std(dim=(1, 2)).clamp(min=TINY)
    goal, spread = cores.mean(dim=(0, 2, 3)), cores.std(dim=(0, 2, 3))
    return (cells - mean[:, None, None]) * (spread / deviation)[:, None, None] + goal[:, None, None]


def _find_nearest(queries: Tensor, cores: Tensor, check: Callable[[], None] | None) -> Iterator[Tensor]:
    """Yield the index of the nearest of `cores` (N, C) for each of `queries` (M, C), chunk by chunk."""
    lengths = cores.square().sum(dim=1)  # (N,)
    for chunk in torch.split(queries, CHUNK):
        if check:
            check()
        yield torch.addmm(lengths, chunk, cores.T, alpha=-2).argmin(dim=1)
