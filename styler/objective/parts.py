"""The parts of a layer: the positions that belong to each region, with weights.

Each region's statistics are computed from its own positions alone, so that several regions take hardly longer than one.
Features see beyond the border of their region, so masks are eroded by a share of what a layer sees, as far as enough
of the region is left.

Source: L. Gatys, A. Ecker, M. Bethge, A. Hertzmann and E. Shechtman, "Controlling Perceptual Factors in Neural Style
Transfer", 2017, section 4 (guided sums, and guidance that is eroded to keep regions apart).

Knows tensors only: no network, no options, no files.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from styler.objective.moments import Moments, compute_weighted_moments, flatten_positions
from styler.objective.tiles import Tile

EROSION = 0.25
"""How far masks are eroded, as a share of half the receptive field; 0 to 0.5 hardly differ. Beyond that, wide borders
would have no style."""
MIN_LEFT = 0.3
"""Share of a region that erosion leaves at least; otherwise it is eroded less."""
LEAST_WEIGHT, FULL_WEIGHT = 0.02, 0.995
"""Weights below the first count as 0, above the second as 1."""


class Part(NamedTuple):
    """The positions of one region in a layer. Weights are relative to the largest."""

    positions: Tensor
    """Indices of the positions, row by row, (n,); those of weight 1 come first."""
    roots: Tensor
    """Square roots of their weights, (n, 1), in float32."""
    full: int
    """How many have the weight 1."""
    total: float
    """The sum of the weights of the whole region, of which a tile has only some positions."""

    def compute_moments(self, features: Tensor, *, is_measured: bool = True) -> Moments:
        """Return the weighted statistics of features that `gather_parts` gathered for this part, (1, C, 1, n).

        Those of all tiles of a picture add up. Args: see `compute_moments`.
        """
        return compute_weighted_moments(features, self.roots, self.full, self.total, is_measured=is_measured)


class Layout(NamedTuple):
    """The parts of a layer, or of a tile of it, and where each position's gradients are among those of all parts."""

    parts: tuple[Part, ...]
    first: Tensor
    """For each position of the layer, the index of its first gradient, (N,); a row of zeros follows the last."""
    more: tuple[tuple[Tensor, Tensor], ...]
    """Positions with a second gradient and the indices of those, each (n,); then those with a third, and so on."""


def reduce_masks(masks: Tensor, stride: int, size: tuple[int, int], radius: float = 0.0) -> Tensor:
    """Return masks (1, R, H, W) averaged over what the positions of a layer cover, and eroded, (1, R, h, w).

    Args:
        masks: in [0, 1], at the size of the image.
        stride: of the layer, in pixels.
        size: height and width of the layer.
        radius: of the erosion, in positions; less where too little of a mask would be left.
    """
    small = F.avg_pool2d(masks, stride)[..., : size[0], : size[1]]
    return torch.cat([_erode(mask[:, None], round(radius)) for mask in small.unbind(dim=1)], dim=1)


def _erode(mask: Tensor, radius: int) -> Tensor:
    """Return the minimum of a mask (1, 1, h, w) over squares; of a smaller radius if too little would be left."""
    for each in range(radius, 0, -1):
        eroded = -F.max_pool2d(-mask, 2 * each + 1, 1, each)
        if eroded.sum() >= MIN_LEFT * mask.sum():
            return eroded
    return mask


def make_layouts(weights: Tensor, tiles: Iterable[Tile], device: torch.device) -> tuple[Layout, ...]:
    """Return the parts of each tile of a layer.

    Args:
        weights: of all positions for each region, (R, h, w), on the CPU.
        tiles: in positions of the layer. A tile may have no positions of a region.
        device: of the result.

    Raises:
        ValueError: all weights of a region are 0.
    """
    relative = torch.stack([_relate_weights(each) for each in weights])  # (R, h, w)
    totals = [_sum_weights(each.flatten()) for each in relative]
    return tuple(_make_layout(tile.cut(relative), totals, device) for tile in tiles)


def _make_layout(weights: Tensor, totals: Sequence[float], device: torch.device) -> Layout:
    """Return the parts of a tile, given the relative weights (R, h, w) of its positions and the sums of all tiles."""
    parts = [_make_part(each.flatten(), total) for each, total in zip(weights, totals, strict=True)]
    count, places = weights[0].numel(), torch.cat([part.positions for part in parts])
    order = places.argsort(stable=True)  # the gradients of each position, in the order of the parts
    sorted_places = places[order]
    rank = torch.arange(len(places)) - torch.searchsorted(sorted_places, sorted_places)
    first = torch.full((count,), len(places))
    first[sorted_places[rank == 0]] = order[rank == 0]
    more = [(sorted_places[rank == k], order[rank == k]) for k in range(1, len(parts)) if bool((rank == k).any())]
    return Layout(
        tuple(Part(part.positions.to(device), part.roots.to(device), part.full, part.total) for part in parts),
        first.to(device),
        tuple((place.to(device), index.to(device)) for place, index in more),
    )


def _relate_weights(weights: Tensor) -> Tensor:
    """Return the weights of all positions relative to the largest of them, 1 for those close to it."""
    highest = float(weights.max())
    if highest <= 0:
        raise ValueError("A region has no positions.")
    relative = weights / highest
    return torch.where(relative > FULL_WEIGHT, 1, relative)


def _find_positions(relative: Tensor) -> tuple[Tensor, int]:
    """Return the positions whose relative weights, (N,), count, those of weight 1 first, and the number of these."""
    is_full = relative == 1
    full, partial = is_full.nonzero()[:, 0], ((relative >= LEAST_WEIGHT) & ~is_full).nonzero()[:, 0]
    return torch.cat([full, partial]), len(full)


def _sum_weights(relative: Tensor) -> float:
    """Return the sum of the relative weights, (N,), that count."""
    return float(relative[_find_positions(relative)[0]].double().sum())


def _make_part(relative: Tensor, total: float) -> Part:
    """Return the part of a tile with these relative weights of its positions, (N,), given the sum of all tiles."""
    positions, full = _find_positions(relative)
    return Part(positions, relative[positions].double().sqrt().float()[:, None], full, total)


class _GatherFunction(torch.autograd.Function):
    """The weighted features of each part, with a gradient that adds up in a fixed order on every device."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.layout, ctx.shape = layout, features.shape  # type: ignore[attr-defined]
        rows, found = flatten_positions(features), []
        for part in layout.parts:
            own = rows.index_select(0, part.positions)  # (n, C)
            own[part.full :] *= part.roots[part.full :].to(own)
            found.append(own.T[None, :, None])  # (1, C, 1, n)
        return tuple(found)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout  # type: ignore[attr-defined]
        shape: torch.Size = ctx.shape  # type: ignore[attr-defined]
        pieces: list[Tensor] = []
        for gradient, part in zip(gradients, layout.parts, strict=True):
            rows = flatten_positions(gradient)  # (n, C)
            pieces += [rows[: part.full], rows[part.full :] * part.roots[part.full :].to(rows)]
        total = torch.cat([*pieces, pieces[0].new_zeros((1, shape[1]))])
        result = total.index_select(0, layout.first)  # (N, C)
        for places, indices in layout.more:
            result.index_copy_(0, places, result.index_select(0, places) + total.index_select(0, indices))
        return result.view(1, *shape[-2:], shape[1]).permute(0, 3, 1, 2), None


def gather_parts(features: Tensor, layout: Layout) -> Sequence[Tensor]:
    """Return the features of each part, (1, C, 1, n), times the square roots of their weights.

    Args:
        features: (1, C, H, W).
        layout: of this layer.
    """
    parts: tuple[Tensor, ...] = _GatherFunction.apply(features, layout)
    return parts
