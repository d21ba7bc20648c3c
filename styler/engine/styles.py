"""The styles of a painting: their borders, colors, sizes and statistics, computed once and shared.

The cache also keeps the features of small photos, which all previews of a photo share. Knows images as tensors and the
network; does not know the photo's targets, schedules or optimizers.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from styler.borders import Box, find_painting
from styler.engine.color import measure_colors, transfer_colors
from styler.engine.sources import SourceImage
from styler.errors import UsageError
from styler.objective.losses import total_variation
from styler.objective.moments import Moments, compute_moments
from styler.objective.sums import StyleSums
from styler.objective.tiles import Tile, compute_tile, split_picture
from styler.options import Options
from styler.regions.areas import Areas
from styler.resample import resize
from styler.vgg.model import Check, Features

MIN_ROUGHNESS = 0.03
"""Floor of the roughness, for a flat style. Paintings have 0.06 to 0.2 at 256 pixels."""
MAX_CACHE_BYTES = 24_000_000
"""Memory of the cached statistics. One style at one size takes 3.4 MB with the default layers, 8 MB with all."""
MAX_BOXES = 1000
"""Number of the styles whose borders are remembered."""
MAPS_PIXELS, MAX_MAPS = 128 * 128, 4
"""Pixels of the largest photo whose features are kept, and their number: those of previews, at 5 MB each."""
TILE_SIDE = 1024
"""Longest side, in pixels, of what is analyzed of a style at once, without its margin."""


class StatsStore(Protocol):
    """Persistent storage of style statistics."""

    def get(self, key: str, device: torch.device) -> Mapping[str, Moments] | None:
        """Return the statistics stored under a key, on a device, or None if there are none."""

    def put(self, key: str, device: torch.device, moments: Mapping[str, Moments]) -> None:
        """Store statistics under a key."""


class StyleCache:
    """A cache of style statistics by network, image, size and layers; the least recently used are dropped first.

    It also keeps the features of the last small photos.

    Threads may share it: every access to its dictionary is a single operation.

    Args:
        store: where statistics are looked up before they are computed, and stored afterwards.
    """

    def __init__(self, store: StatsStore | None = None) -> None:
        self._moments: dict[Hashable, Mapping[str, Moments]] = {}
        self._boxes: dict[str, tuple[Box | None, ...]] = {}  # one each, or none
        self._maps: dict[Hashable, dict[str, Tensor]] = {}
        self._store = store

    @property
    def bytes(self) -> int:
        """The memory that the statistics take."""
        return sum(map(_count_bytes, [*self._moments.values()]))

    def find_painting(self, source: SourceImage) -> Box | None:
        """Return the part of a style that is inside its border, as `borders.find_painting` does."""
        if source.alpha is not None:  # the digest is that of the colors alone
            return find_painting(source.image, source.alpha)
        found = self._boxes.pop(source.digest, ()) or (find_painting(source.image),)
        self._boxes[source.digest] = found  # the last is the most recently used
        for digest in [*self._boxes][:-MAX_BOXES]:
            self._boxes.pop(digest, None)
        return found[0]

    def get_moments(
        self, features: Features, source: SourceImage, size: tuple[int, int], check: Check | None, persist: bool = True
    ) -> Mapping[str, Moments]:
        """Return the moments of every layer of `features` for a style at a size.

        Args:
            features: the network.
            source: the style.
            size: width and height.
            check: called between convolutions.
            persist: whether to use the store; false for images that no other process will see.
        """
        key = (features.sha256, source.digest, size, features.layers, features.pooling, features.precision)
        moments = self._moments.pop(key, None)
        if moments is None:
            store = self._store if persist else None
            moments = store.get(repr(key), features.device) if store else None
            if moments is None:
                moments = analyze_style(features, resize(source.image, *size), check)
                if store:
                    store.put(repr(key), features.device, moments)
        self._moments[key] = moments  # the last is the most recently used
        self._drop_oldest()
        return moments

    def get_maps(
        self, features: Features, photo: SourceImage, size: tuple[int, int], check: Check | None
    ) -> dict[str, Tensor]:
        """Return the features of every layer of `features` for a photo at a size; small ones are kept for previews.

        Args: as in `get_moments`.
        """
        key = (features.sha256, photo.digest, size, features.layers, features.pooling, features.precision)
        maps = self._maps.pop(key, None)
        if maps is None:
            image = photo.fit(*size).to(features.device)
            maps = compute_tile(features, image, Tile(0, size[1], 0, size[0]), check)
        if size[0] * size[1] <= MAPS_PIXELS:
            self._maps[key] = maps  # the last is the most recently used
            for oldest in [*self._maps][:-MAX_MAPS]:
                self._maps.pop(oldest, None)
        return maps

    def _drop_oldest(self) -> None:
        excess = self.bytes - MAX_CACHE_BYTES
        for key, moments in [*self._moments.items()][:-1]:
            if excess > 0:
                excess -= _count_bytes(moments)
                self._moments.pop(key, None)


def _count_bytes(moments: Mapping[str, Moments]) -> int:
    return sum(tensor.nbytes for statistics in moments.values() for tensor in statistics)


@torch.no_grad()
def analyze_style(features: Features, image: Tensor, check: Check | None = None) -> dict[str, Moments]:
    """Return the moments of every layer of an image (1, 3, H, W) on the CPU.

    A large image is analyzed tile by tile, in bounded memory; the moments of the tiles add up to those of the whole.
    """
    size, strides, sums = (image.shape[-2], image.shape[-1]), features.strides, StyleSums()
    for tile in split_picture(size, TILE_SIDE, features):
        for layer, maps in compute_tile(features, image, tile, check).items():
            total = (size[0] // strides[layer]) * (size[1] // strides[layer])
            sums.add({(layer, 0): compute_moments(maps, total)})
    return {layer: moments for (layer, _), moments in sums.moments.items()}


def compute_style_size(style: tuple[int, int], long_side: int, stroke_size: float, min_side: int) -> tuple[int, int]:
    """Return the width and height at which a style is analyzed for a picture with the given long side.

    It is as long as the picture but never enlarged, times `stroke_size`, since an enlarged style gives larger
    strokes; and never narrower than the network needs.

    Args:
        style: width and height of the style.
        long_side: of the picture, in pixels.
        stroke_size: as in `Options`.
        min_side: shortest side that the network accepts.
    """
    width, height = style
    ratio = min(1.0, long_side / max(width, height)) * stroke_size
    ratio = max(ratio, min_side / min(width, height))
    return round(width * ratio), round(height * ratio)


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """The styles of a painting that have a weight; prepared once for all scales."""

    styles: tuple[SourceImage, ...]
    """With their own colors."""
    recolored: tuple[SourceImage, ...]
    """With the photo's colors, as far as they are kept; the same images if they are not."""
    shares: tuple[float, ...]
    """The weights, as shares of 1."""
    indices: tuple[int, ...] = ()
    """Of these styles among all that were given."""

    def share_regions(self, areas: Areas) -> tuple[dict[int, float], ...]:
        """Return the shares of each region's styles, with the sum 1, by their index in this blend.

        Raises:
            UsageError: the styles of a region have no weight.
        """
        found = []
        for number, styles in enumerate(areas.styles):
            own = {index: self.shares[index] for index, given in enumerate(self.indices) if given in styles}
            if not own:
                where = f"region {number}" if number else "the rest of the photo"
                raise UsageError(f"All styles of {where} have the weight 0; give one of them a positive weight.")
            total = math.fsum(own.values())
            found.append({index: share / total for index, share in own.items()})
        return tuple(found)

    def average(self, images: Iterable[Tensor]) -> Tensor:
        """Return the weighted mean of images (1, 3, H, W), one for each style."""
        parts = [share * image for share, image in zip(self.shares, images, strict=True)]
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]


def fit_styles(blend: Blend, long_side: int, options: Options, min_side: int) -> list[tuple[Tensor, float]]:
    """Return the styles at sizes that fit a long side, each (1, 3, h, w), and their shares.

    Args:
        blend: the styles; with the photo's colors, as far as they are kept.
        long_side: of the picture, in pixels.
        options: stroke_size is read.
        min_side: shortest side that the network accepts.
    """
    sizes = (compute_style_size(style.size, long_side, options.stroke_size, min_side) for style in blend.recolored)
    images = (resize(style.image, *size) for style, size in zip(blend.recolored, sizes, strict=True))
    return [*zip(images, blend.shares, strict=True)]


def measure_roughness(style: SourceImage, size: tuple[int, int]) -> float:
    """Return the root of the total variation of a style at a size (width, height), in units of the image's range."""
    return max(MIN_ROUGHNESS, float(total_variation(resize(style.image, *size)).sqrt()))


def list_style_weights(options: Options, count: int) -> tuple[float, ...]:
    """Return a weight for each style.

    Those of the options belong to the styles that share the rest of the photo. The one style of a region has their
    mean, which counts where all styles are mixed, as in an initial picture.

    Args:
        options: style_weights and regions are read.
        count: number of styles, those of the regions included.

    Raises:
        UsageError: the weights do not fit the styles.
    """
    if not count:
        raise UsageError("No style is given; give at least one.")
    weights, shared = options.style_weights, count - len(options.regions)
    if not weights:
        return (1.0,) * count
    if len(weights) != shared:
        besides = "; the style of a region has none" if options.regions else ""
        numbers = f"{len(weights)} {'number' if len(weights) == 1 else 'numbers'}"
        styles = "1 style" if shared == 1 else f"{shared} styles"
        raise UsageError(f"style_weights has {numbers} for {styles}; give one for each{besides}.")
    if not sum(weights):
        raise UsageError("All style weights are 0; give at least one style a positive weight.")
    return weights + (math.fsum(weights) / shared,) * len(options.regions)


def trim_styles(styles: Sequence[SourceImage], options: Options, cache: StyleCache) -> list[SourceImage]:
    """Return the styles without the borders of photographed paintings.

    Args:
        styles: all styles; those of weight 0 are not looked at.
        options: keep_border and those of `list_style_weights` are read.
        cache: remembers the borders.

    Raises:
        UsageError: the weights do not fit the styles.
    """
    trimmed = list(styles)
    for index, (style, weight) in enumerate(zip(styles, list_style_weights(options, len(styles)), strict=True)):
        box = None if options.keep_border or not weight else cache.find_painting(style)
        if box is not None:
            name = f"painting {index + 1}" if len(styles) > 1 else "the painting"
            sizes = "{}×{} to {}×{}".format(*style.size, box.right - box.left, box.bottom - box.top)
            note = f"Left out the border of {name} (trimmed from {sizes}); --keep-border keeps it."
            trimmed[index] = style.crop(box, note)
    return trimmed


def prepare_blend(content: SourceImage, styles: Sequence[SourceImage], options: Options) -> Blend:
    """Prepare the styles for `compute_targets`; those of weight 0 are left out.

    Args:
        content: the photo, whose colors are kept.
        styles: all styles.
        options: keep_color and those of `list_style_weights` are read; the weights must fit the styles.
    """
    weights = list_style_weights(options, len(styles))
    used = [(style, weight) for style, weight in zip(styles, weights, strict=True) if weight]
    total = math.fsum(weight for _, weight in used)
    chosen = recolored = tuple(style for style, _ in used)
    if options.keep_color:
        colors = measure_colors(content.image)
        recolored = tuple(SourceImage.of(transfer_colors(style.image, colors, options.keep_color)) for style in chosen)
    indices = tuple(index for index, weight in enumerate(weights) if weight)
    return Blend(chosen, recolored, tuple(weight / total for _, weight in used), indices)
