"""Tiles of a picture, whose features are computed one after another: exactly, and in memory that does not grow.

The tiles divide the picture. A tile's features are computed from its *window*: the tile and a margin, as far as the
picture reaches. The margin is what the network sees beyond a position, so that the features of the tile are those of
the whole picture; those of the margin are not, and are cut off. Tiles and windows begin at multiples of the network's
stride, so that poolings divide both alike. Where a window ends with the picture, its padding is the picture's own.

A loss that is a function of sums over positions is then computed in two passes. The first adds up the sums, tile by
tile and without a graph, and the loss is differentiated with respect to the sums. The second computes each tile's
part of the sums again, with a graph from its window on, and propagates these derivatives back through it; the gradients
of all windows, margins included, add up to that of the picture. As the features of a tile depend on no pixel outside
its window, this is exact with the margin of the forward pass. Keeping only the gradient of the tile's own pixels
would need twice that margin.

Source: B. Galerne, L. Raad, J. Lezama and J.-M. Morel, "Scaling Painting Style Transfer", 2024, whose two passes these
are, for means and second moments. Unlike there, the gradients of margins are added and not discarded.

Knows positions and features only: no losses, options or files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from styler.vgg.model import Check, Features

Size = tuple[int, int]
"""Height and width."""


class Tile(NamedTuple):
    """A rectangle of pixels, or of a layer's positions."""

    top: int
    bottom: int
    left: int
    right: int

    def grow(self, by: int, size: Size) -> "Tile":
        """Return the tile with more pixels on each side, as far as a picture of `size` has them."""
        height, width = size
        return Tile(
            max(0, self.top - by), min(height, self.bottom + by), max(0, self.left - by), min(width, self.right + by)
        )

    def reduce(self, stride: int) -> "Tile":
        """Return the positions of a layer with a stride that divides where the tile begins."""
        return Tile(*(side // stride for side in self))

    def within(self, window: "Tile") -> "Tile":
        """Return the tile in coordinates of a window."""
        return Tile(self.top - window.top, self.bottom - window.top, self.left - window.left, self.right - window.left)

    def count(self, stride: int = 1) -> int:
        """Return the number of a layer's positions."""
        top, bottom, left, right = self.reduce(stride)
        return (bottom - top) * (right - left)

    def cut(self, whole: Tensor, stride: int = 1) -> Tensor:
        """Return the part of a picture, or of maps of a stride, (…, H, W); a view."""
        top, bottom, left, right = self.reduce(stride)
        return whole[..., top:bottom, left:right]


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a picture."""

    size: Size
    side: int
    """The longest side of a tile, as it was asked for."""
    tiles: tuple[Tile, ...]
    """Row by row."""

    @classmethod
    def of(cls, size: Size, side: int, features: Features) -> "Tiling | None":
        """Divide a picture into tiles of nearly equal size; None if it is not divided.

        Args:
            size: of the picture.
            side: the longest side of a tile, in pixels, rounded up to a multiple of the stride; the last tiles may be
                longer by a remainder that is less than the stride. 0 for one tile.
            features: the network, which gives the stride.
        """
        tiles = split_picture(size, side, features)
        return cls(size, side, tuple(tiles)) if len(tiles) > 1 else None

    def count(self, stride: int = 1) -> int:
        """Return the number of a layer's positions in the whole picture."""
        return (self.size[0] // stride) * (self.size[1] // stride)


def split_picture(size: Size, side: int, features: Features) -> list[Tile]:
    """Return the tiles of a picture, row by row; see `Tiling.of`."""
    stride = max(features.strides.values(), default=1)
    rows, columns = (_split_side(each, side, stride) for each in size)
    return [Tile(*row, *column) for row in rows for column in columns]


def _split_side(side: int, longest: int, stride: int) -> list[tuple[int, int]]:
    """Split a side into nearly equal parts that begin at multiples of a stride, each with a position of every layer."""
    count = math.ceil(side / longest) if longest else 1
    step = math.ceil(side / count / stride) * stride
    starts = [*range(0, max(1, side - stride + 1), step)]
    return [*zip(starts, [*starts[1:], side], strict=True)]


def compute_tile(features: Features, image: Tensor, tile: Tile, check: Check | None = None) -> dict[str, Tensor]:
    """Return the features of one tile of an image, without a graph.

    Args:
        features: the network.
        image: the whole image, (1, 3, H, W), on any device.
        tile: begins at multiples of the network's stride.
        check: called between convolutions.
    """
    window = find_window(features, image, tile)
    with torch.no_grad():
        maps = features(window.cut(image).to(features.device), check)
    return crop_maps(features, maps, tile, window)


def find_window(features: Features, image: Tensor, tile: Tile) -> Tile:
    """Return the window of a tile of an image (1, 3, H, W)."""
    return tile.grow(features.margin, (image.shape[-2], image.shape[-1]))


def crop_maps(features: Features, maps: Mapping[str, Tensor], tile: Tile, window: Tile) -> dict[str, Tensor]:
    """Return the features of a tile, given those of its window."""
    strides, inside = features.strides, tile.within(window)
    return {layer: _crop(each, inside.reduce(strides[layer])) for layer, each in maps.items()}


def _crop(maps: Tensor, inside: Tile) -> Tensor:
    """Return a part of maps (1, C, H, W); a view if no gradient is needed."""
    if not (torch.is_grad_enabled() and maps.requires_grad):
        return inside.cut(maps)
    part: Tensor = _CropFunction.apply(maps, inside)
    return part


class _CropFunction(torch.autograd.Function):
    """A part of maps, whose gradient has the layout of the maps; that of a slice would have to be rearranged."""

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, inside: Tile) -> Tensor:
        ctx.shape, ctx.inside = maps.shape, inside  # type: ignore[attr-defined]
        return inside.cut(maps)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (part,), shape, inside = gradients, ctx.shape, ctx.inside  # type: ignore[attr-defined]
        whole = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last).zero_()
        inside.cut(whole).copy_(part)
        return whole, None


def assemble_maps(features: Features, image: Tensor, side: int, check: Check | None = None) -> dict[str, Tensor]:
    """Return the features of a whole image, (1, 3, H, W), computed tile by tile without a graph.

    The result is as large as that of the network; what is saved are the maps before it. Args: see `Tiling.of`.
    """
    size, strides, found = (image.shape[-2], image.shape[-1]), features.strides, dict[str, Tensor]()
    for tile in split_picture(size, side, features):
        for layer, maps in compute_tile(features, image, tile, check).items():
            stride = strides[layer]
            if layer not in found:
                shape = (1, maps.shape[1], size[0] // stride, size[1] // stride)
                form = torch.channels_last
                found[layer] = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=form)
            tile.cut(found[layer], stride).copy_(maps)
    return found
