"""What a painting needs: the peak of each of its scales, by the rung on which it is painted.

A *rung* is a way to hold a scale in memory; each needs less than the one before and takes more time. The figures follow
from the table of activations, and were checked by `tests/bench/rungs.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from styler.engine import optimizers, targets
from styler.engine.styles import TILE_SIDE, compute_style_size
from styler.objective.candidates import CODE_LENGTH, STORED_TYPE
from styler.options import Options
from styler.vgg import arch
from styler.vgg.model import Features

ACTIVATION_OVERHEAD = 1.15
"""Measured peak divided by the estimate of the activations: convolutions need workspaces, allocators round up."""
FIXED_BYTES = 300e6
"""Network, statistics, eigenvalues and the rest, whatever the size of the picture."""
IMAGE_BYTES = 12
"""Bytes of a pixel of an image, (1, 3, H, W) in float32."""
OPTIMIZER_IMAGES = {"adam": 6, "lbfgs": 2 * optimizers.LBFGS_HISTORY + 7}
"""Images of a scale that its optimizer holds after an evaluation. Of Adam: the image, its gradient, whose memory the
next image takes, two moments, the best image so far, and the one before it, which is not held during an evaluation."""
EVALUATION_IMAGES = 6
"""Temporary images of an evaluation besides, whose parts are as large as the picture. In tiles, there are none."""
COPY_IMAGES = 2 / 3
"""Images of the half-size copies of a picture in tiles, and of their gradients."""
HOST_RUNG_IMAGES = 2
"""Images on the device while those of the optimizer are on the host: the picture and its gradient."""
HELD_IMAGES = 7 / 3
"""Images of a protected picture: the photo, how far it is held, and the mixture."""
ENLARGING_IMAGES, MATCHED_DETAIL_IMAGES = 4, 8
"""Images of a scale while a picture is enlarged to it on the host, and when detail of the styles is added."""
MASK_BYTES = 3 * 4
"""Bytes of a pixel of every mask while it is placed."""
STYLE_IMAGES = 5
"""Images of the size of an analyzed style that are held while it is resized and its roughness is measured."""
PHOTO_IMAGES = 4 / 3
"""Images of a tiled scale besides: the photo at its size and at those of its half-size copies, from which features of
the content are computed again for each tile. On a CPU, a photo of the same size is itself the first of them."""
MATCH_BYTES = 3
"""Bytes of a pixel of a tiled scale for its matches, and for how far they count."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to hold a scale in memory."""

    checkpoint: bool = False
    """Whether activations are recomputed in the backward pass."""
    tile: int = 0
    """Side of the tiles, in pixels, without their margins; 0 for none. A picture that fits into one tile has none."""
    on_host: bool = False
    """Whether picture and optimizer are in the memory of the host, and only tiles on the device."""

    @property
    def order(self) -> tuple[bool, bool, int, bool]:
        """A key by which rungs that need less memory come later."""
        return self.on_host, self.tile > 0, -self.tile, self.checkpoint

    def describe(self) -> str:
        """Return what it does, as a part of a sentence: `in tiles of 512 px`."""
        parts = [f"in tiles of {self.tile} px"] if self.tile else []
        parts += ["with checkpointing"] if self.checkpoint else []
        parts += ["with the picture in the host's memory"] if self.on_host else []
        return " and ".join(parts) or "as a whole"

    def splits(self, size: tuple[int, int]) -> bool:
        """Return whether a picture of a size (width, height) has several tiles."""
        return 0 < self.tile < max(size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demand:
    """What the memory of a painting depends on."""

    features: Features
    """The network, on its device."""
    size: tuple[int, int]
    """Width and height of the result."""
    styles: Sequence[tuple[int, int]]
    """Width and height of each style."""
    options: Options
    """Layers, stroke size, brushwork, optimizer, sketch, kept color, and what the plan reads."""
    photo: tuple[int, int] = (0, 0)
    """Width and height of the photo."""
    masks: int = 0
    """Masks of the regions and of what is protected."""
    is_protected: bool = False
    """Whether parts of the photo are protected."""

    def resize(self, size: tuple[int, int]) -> "Demand":
        """Return the same for a result of another size."""
        return replace(self, size=size)


@dataclass(frozen=True, slots=True)
class Need:
    """Peak memory in bytes."""

    device: float
    """Of the device; on a CPU all of it."""
    host: float = field(default=0.0)
    """Of the host besides; none on a CPU."""


def count_tiles(size: tuple[int, int], tile: int) -> int:
    """Return the number of tiles of a picture of a size (width, height); 1 if `tile` is 0."""
    return math.prod(math.ceil(side / tile) for side in size) if tile else 1


def count_window_pixels(size: tuple[int, int], tile: int, margin: int) -> int:
    """Return the pixels of all tiles of a picture with their margins, which end at its border.

    Args:
        size: width and height of the picture.
        tile: side of a tile; 0 for none.
        margin: around each tile, in pixels.
    """

    def sum_windows(side: int) -> int:
        starts = range(0, side, tile)
        return sum(min(side, start + tile + margin) - max(0, start - margin) for start in starts)

    return math.prod(map(sum_windows, size)) if 0 < tile < max(size) else math.prod(size)


def estimate_memory(demand: Demand, rung: Rung) -> Need:
    """Return the peak memory of a painting of the final size on a rung, whatever its smaller scales need."""
    return estimate_scale(demand, demand.size, "lbfgs" if demand.options.optimizer == "lbfgs" else "adam", rung)


def estimate_scale(demand: Demand, size: tuple[int, int], optimizer: str, rung: Rung) -> Need:
    """Return the peak memory of a scale: the largest of an iteration, of the styles' analysis and of enlarging.

    Half-size copies are evaluated after the full size, in less memory; only their content targets stay, and in tiles,
    where images are most of what is held, the copies themselves count. While a style is analyzed, the content's
    features at the same scale are held. The styles are analyzed once more for matching.

    Args:
        demand: what it depends on.
        size: width and height of the scale.
        optimizer: of the scale, `adam` or `lbfgs`.
        rung: how it is painted.
    """
    pixels, options = math.prod(size), demand.options
    analyzed = [
        compute_style_size(one, max(size), options.stroke_size, demand.features.min_side) for one in demand.styles
    ]
    window = _count_largest_window(demand.features, size, rung)
    limit = targets.limit_view_side(max(size), max(1, len(analyzed)))
    views = [math.prod(min(side, limit) for side in sides) for sides in analyzed]
    matching = _estimate_matching(demand.features, pixels, window, views, options)
    iteration = _estimate_iteration(demand, size, optimizer, rung) + matching.held
    analysis = max(matching.preparation, _estimate_analysis(demand.features, analyzed))
    recolored = sum(IMAGE_BYTES * math.prod(style) for style in demand.styles) if options.keep_color else 0
    enlarging = IMAGE_BYTES * (MATCHED_DETAIL_IMAGES if options.sketch else ENLARGING_IMAGES) * pixels
    inputs = IMAGE_BYTES * math.prod(demand.photo) + recolored + MASK_BYTES * demand.masks * pixels
    if demand.features.device.type == "cpu":
        return Need(FIXED_BYTES + max(iteration, analysis, enlarging) + inputs)
    on_host = max(enlarging, IMAGE_BYTES * OPTIMIZER_IMAGES[optimizer] * pixels if rung.on_host else 0)
    return Need(FIXED_BYTES + max(iteration, analysis), on_host + inputs)


def _estimate_iteration(demand: Demand, size: tuple[int, int], optimizer: str, rung: Rung) -> float:
    """Return the memory of an iteration on the device, without that of matched features, in bytes.

    In tiles, it is that of an evaluation or of the optimizer's step after it, whichever is more.
    """
    passes = _estimate_passes(demand, size, _count_largest_window(demand.features, size, rung), rung)
    images = 0 if rung.on_host else OPTIMIZER_IMAGES[optimizer]
    evaluated, kept = float(images + EVALUATION_IMAGES), HELD_IMAGES if demand.is_protected else 0.0
    if rung.splits(size):
        evaluated = HOST_RUNG_IMAGES if rung.on_host else images - 1
        evaluated += COPY_IMAGES if demand.options.multiscale else 0
        kept += PHOTO_IMAGES - (demand.features.device.type == "cpu" and demand.photo == size)
    image = IMAGE_BYTES * math.prod(size)
    return max(passes + image * evaluated, image * images) + image * kept


def _count_largest_window(features: Features, size: tuple[int, int], rung: Rung) -> int:
    """Return the pixels of the largest tile with its margins, or of the whole picture."""
    if not rung.splits(size):
        return math.prod(size)
    return math.prod(min(side, rung.tile + 2 * features.margin) for side in size)


def _estimate_passes(demand: Demand, size: tuple[int, int], window: int, rung: Rung) -> float:
    """Return the memory of the forward and backward pass of a picture and of its content's features, in bytes.

    Args:
        demand: what it depends on.
        size: width and height of the picture.
        window: pixels that are passed at once; with fewer than the picture has, those of the content are, too, unless
            their features are kept.
        rung: whether activations are recomputed.
    """
    features = demand.features
    network, widths = features.network, features.widths
    half = 1.0 if features.precision is torch.float32 else 0.6  # maps of two bytes, statistics in float32
    finer = targets.resolve_protected_layers(network) if demand.is_protected else {}
    layers = {*targets.resolve_content_layers(demand.options, network), *finer}
    content = arch.estimate_map_bytes(network, layers, window, widths)
    activations = arch.estimate_activation_bytes(
        network, features.layers, window, checkpoint=rung.checkpoint, widths=widths
    )
    copies, kept = 4 / 3, 0
    if window < math.prod(size):
        compared = features.select({*layers, *targets.resolve_matched_layers(demand.options, network)})
        copies, kept = 1.0, targets.count_kept_bytes(compared, size)
    return half * ACTIVATION_OVERHEAD * (activations + copies * content) + kept


def _estimate_analysis(features: Features, analyzed: Sequence[tuple[int, int]]) -> float:
    """Return the memory of the analysis of the styles at these sizes, one after another, tile by tile."""
    half = 1.0 if features.precision is torch.float32 else 0.6
    longest, found = TILE_SIDE + 2 * features.margin, 0.0
    for size in analyzed:
        tile = math.prod(min(side, longest) for side in size)
        maps = arch.estimate_map_bytes(features.network, features.layers, math.prod(size), features.widths)
        maps += arch.estimate_forward_bytes(features.network, features.layers, tile, features.widths)
        found = max(found, half * ACTIVATION_OVERHEAD * maps + IMAGE_BYTES * STYLE_IMAGES * math.prod(size))
    return found


@dataclass(frozen=True, slots=True)
class _MatchingMemory:
    """The memory of matched features, in bytes."""

    preparation: float = 0.0
    """Needed when a scale begins."""
    held: float = 0.0
    """Needed by an iteration besides what it needs without them."""


def _estimate_matching(
    features: Features, pixels: int, window: int, styles: Sequence[int], options: Options
) -> _MatchingMemory:
    """Estimate the memory of matched features.

    Held are the maps and the columns of the styles' views, and of the picture the maps of the content, the targets and
    their gradients, two sets of columns, and what is gathered of the largest layer, twice in float32. In tiles, the
    latter are those of a tile, and the matches are held of the whole picture; and the styles' maps are stored at once.

    Args:
        features: the network.
        pixels: of the picture.
        window: pixels that are passed at once.
        styles: pixels of each style that its views show.
        options: brushwork is read.
    """
    network, widths = features.network, features.widths
    layers = targets.resolve_matched_layers(options, network)
    if not layers or not styles:
        return _MatchingMemory()
    value_bytes = 4 if features.precision is torch.float32 else 2
    convs = [conv for conv in arch.list_convolutions_until(network, layers, widths) if conv.layer in layers]
    base = arch.find_nearest_layer(targets.BASE_LAYER, network)
    density = next(1 / conv.stride**2 for conv in convs if conv.layer == base)  # columns per pixel
    viewed, width = targets.MATCHED_VIEWS * sum(styles), sum(conv.outputs for conv in convs)
    candidates = min(targets.MAX_CANDIDATES, density * viewed)
    maps = value_bytes / 4 * arch.estimate_map_bytes(network, layers, 1, widths)  # per pixel
    stored = maps * STORED_TYPE.itemsize / value_bytes
    largest = max(conv.outputs / conv.stride**2 for conv in convs)  # values per pixel
    columns = candidates * (STORED_TYPE.itemsize * width + value_bytes * CODE_LENGTH)
    is_tiled = window < pixels
    passed = min(max(styles), window) if is_tiled else max(styles)
    forward = value_bytes / 4 * arch.estimate_forward_bytes(network, layers, passed, widths)
    picture = 3 * maps + 2 * STORED_TYPE.itemsize * width * density + (8 + STORED_TYPE.itemsize) * largest
    indices = MATCH_BYTES * pixels if is_tiled else 0.0
    return _MatchingMemory(
        preparation=(stored if is_tiled else maps + stored) * viewed
        + ACTIVATION_OVERHEAD * forward
        + columns
        + 8 * width * density * max(styles),
        held=picture * window + indices + stored * viewed + columns,
    )
