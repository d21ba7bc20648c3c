"""The columns of an image that is too large to have the features of all its places in memory at once.

What `candidates.compute_columns` does at once, this does tile by tile: in a first pass over the tiles, the means and
deviations of each layer; then the columns of one tile at a time, with as many of its neighbors as are asked for.

Knows features and positions only: no options or files.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.objective.candidates import STORED_TYPE, flatten_maps
from styler.objective.losses import SHORTEST
from styler.objective.moments import widen
from styler.objective.tiles import Tile, Tiling, crop_maps
from styler.vgg.model import Check, Features


class _Spread(NamedTuple):
    """Statistics of the features of each of R regions in one layer."""

    number: Tensor
    """Of places, (R, 1)."""
    mean: Tensor
    """(R, C)."""
    squares: Tensor
    """Sum of the squared distances from the mean, (R, 1)."""

    def merge(self, other: "_Spread") -> "_Spread":
        """Return the statistics of both together.

        Source: T. Chan, G. Golub and R. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances", 1979, equation 2.1.
        """
        count, shift = self.number + other.number, other.mean - self.mean
        share = other.number / count.clamp(min=1)
        between = shift.square().sum(dim=1, keepdim=True) * self.number * share
        return _Spread(count, self.mean + share * shift, self.squares + other.squares + between)


@dataclass(frozen=True, slots=True, eq=False)
class TiledColumns:
    """The columns of an image, tile by tile."""

    features: Features
    """Must compute the matched layers and no others."""
    image: Tensor
    """(1, 3, H, W), on any device."""
    tiling: Tiling
    base: str
    """The layer at whose positions the columns are."""
    labels: Tensor | None
    """The region of each place, (h, w), whose mean its column is centered by; None if there is one."""
    check: Check | None
    """Called between convolutions."""
    spreads: Mapping[str, tuple[Tensor, Tensor]]
    """For each layer the mean of every region, (R, C), and one divided by its deviation, (R, 1)."""

    @classmethod
    def of(
        cls,
        features: Features,
        image: Tensor,
        tiling: Tiling,
        base: str,
        check: Check | None = None,
        labels: Tensor | None = None,
        count: int = 1,
    ) -> "TiledColumns":
        """Measure the means and deviations of an image.

        Args:
            features, image, tiling, base, check: fields.
            labels: the region of each place, (h · w,); None if there is one.
            count: the number of regions.
        """
        if labels is not None:
            stride = features.strides[base]
            labels = labels.view(tiling.size[0] // stride, tiling.size[1] // stride)
        found: dict[str, _Spread] = {}
        unscaled = cls(features, image, tiling, base, labels, check, {})
        for tile in tiling.tiles:
            regions = unscaled.get_labels(tile)
            for layer, rows in unscaled._compute_rows(tile):
                own = _measure_spread(rows, regions, count)
                found[layer] = found[layer].merge(own) if layer in found else own
        spreads = {
            layer: (each.mean, 1 / (each.squares / each.number.clamp(min=1)).sqrt().clamp(min=SHORTEST))
            for layer, each in found.items()
        }
        return cls(features, image, tiling, base, labels, check, spreads)

    @property
    def stride(self) -> int:
        """Pixels per place."""
        return self.features.strides[self.base]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in places."""
        return (self.tiling.size[0] // self.stride, self.tiling.size[1] // self.stride)

    def get_labels(self, tile: Tile) -> Tensor | None:
        """Return the regions of the places of a tile, (n,)."""
        return None if self.labels is None else tile.cut(self.labels, self.stride).flatten()

    def compute(self, tile: Tile) -> Tensor:
        """Return the columns of a tile, (n, ΣC), in `STORED_TYPE`; it begins at multiples of the coarsest stride."""
        labels, parts = self.get_labels(tile), []
        for layer, rows in self._compute_rows(tile):
            mean, scale = self.spreads[layer]
            if labels is not None:
                mean, scale = mean.index_select(0, labels), scale.index_select(0, labels)  # (n, C), (n, 1)
            parts.append((rows - mean).mul_(scale).to(STORED_TYPE))
        return torch.cat(parts, dim=1)

    def sample(self, count: int) -> Tensor:
        """Return the columns of about as many places, evenly among all tiles, (n, ΣC)."""
        step = math.ceil(self.size[0] * self.size[1] / count)
        return torch.cat([self.compute(tile)[::step] for tile in self.tiling.tiles])

    def _compute_rows(self, tile: Tile) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer's features at the places of a tile, (n, C).

        Coarser layers are interpolated, for which one more of their positions is computed on each side.
        """
        size, strides = self.tiling.size, self.features.strides
        wide = tile.grow(max(strides.values()), size)
        window = wide.grow(self.features.margin, size)
        maps = self.features(window.cut(self.image).to(self.features.device), self.check)
        for layer, given in crop_maps(self.features, maps, wide, window).items():
            stride = strides[layer]
            if stride > self.stride:
                yield layer, flatten_maps(self._interpolate(given, tile, wide.reduce(stride), stride))
                continue
            own = tile.within(wide).cut(given, stride)
            yield layer, flatten_maps(own if stride == self.stride else F.avg_pool2d(own, self.stride // stride))

    def _interpolate(self, maps: Tensor, tile: Tile, given: Tile, stride: int) -> Tensor:
        """Return a coarser layer at the places of a tile, (1, C, h, w), as if the whole layer had been interpolated.

        Args:
            maps: (1, C, h', w').
            tile: in pixels.
            given: the positions that the maps are of.
            stride: of the layer.
        """
        places, whole = tile.reduce(self.stride), self.tiling.size
        sides = ((places.top, places.bottom, given.top), (places.left, places.right, given.left))
        (above, below, down), (before, after, across) = (
            _find_neighbors(start, end, side // stride / (side // self.stride), side // stride, first, maps.device)
            for (start, end, first), side in zip(sides, whole, strict=True)
        )
        wide = widen(maps)
        rows = torch.lerp(wide[..., above, :], wide[..., below, :], down.to(wide)[:, None])
        return torch.lerp(rows[..., before], rows[..., after], across.to(rows))


def _find_neighbors(
    start: int, end: int, ratio: float, side: int, first: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions before and after the places of a range in a coarser layer, and the second's weight.

    Args:
        start: the first of n places.
        end: the one after the last.
        ratio: of the coarser layer's side to the finer one's.
        side: of the coarser layer.
        first: the position that becomes 0.
        device: of the result, each (n,).
    """
    source = ((torch.arange(start, end, device=device) + 0.5) * ratio - 0.5).clamp(min=0)
    before = source.long().clamp(max=side - 1)
    return before - first, (before + 1).clamp(max=side - 1) - first, source - before


def _measure_spread(rows: Tensor, labels: Tensor | None, count: int) -> _Spread:
    """Return the statistics of features (n, C) of the regions that their labels name, (n,)."""
    wide = widen(rows)
    if labels is None:
        members = wide.new_ones((len(wide), 1))
        labels = torch.zeros(len(wide), dtype=torch.long, device=wide.device)
    else:
        members = (labels[:, None] == torch.arange(count, device=wide.device)).to(wide)  # (n, R)
    numbers = members.sum(dim=0)[:, None]  # (R, 1)
    mean = members.T @ wide / numbers.clamp(min=1)  # (R, C)
    squares = (wide - mean.index_select(0, labels)).square_().sum(dim=1, keepdim=True)  # (n, 1)
    return _Spread(numbers, mean, members.T @ squares)
