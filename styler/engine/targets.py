"""Targets of one scale: what the content and the styles look like to the network, computed once and shared.

Knows pictures as tensors and the network; does not know plans or optimisers.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from styler.engine import losses
from styler.engine.color import transfer_colors
from styler.engine.losses import Moments, coarse_chroma
from styler.engine.objective import Targets, TermWeights
from styler.options import Options
from styler.resample import resize
from styler.vgg import arch
from styler.vgg.model import Check, Features

COLOR_WEIGHT = 100.0
"""Weight of that term at `keep_color` 1."""
CHROMA_SMOOTHNESS = 1.5
"""How much more smoothness means for chroma: coloured speckle is what one sees first, and no painting has it."""
MIX_EXPONENT = 0.75
"""Exponent of the mixture below strength 50."""
MIN_CONTENT_SCALE = 0.25
"""Of a style that is nearly the content already."""
MIN_ROUGHNESS = 0.03
"""Roughness that even a flat style is taken to have. Paintings have 0.06 to 0.2 at 256 pixels."""
MAX_CACHED_STYLES = 32
"""Statistics of this many styles, sizes and settings are kept: at most 5 MB each."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """A picture to learn from, on the CPU, and what tells it from others."""

    image: Tensor
    """(1, 3, H, W), sRGB in [0, 1]."""
    digest: str
    """Identifies the image by its values and shape, as a key for its statistics."""
    sha256: str = ""
    """Of the file it was read from; empty if it came from an array."""
    alpha: NDArray[Any] | None = None
    """(H, W) in [0, 1], or None if it is opaque."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As in `Picture.metadata`."""

    @classmethod
    def of(cls, image: Tensor, **described: Any) -> "SourceImage":
        """Make a source whose digest is that of its values and shape."""
        digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest() + str(tuple(image.shape))
        return cls(image, digest, **described)


def resolve_style_layers(options: Options, network: str) -> dict[str, float]:
    """Style layers and their shares, which sum to 1.

    A default layer that the network is too shallow to have becomes the last of its block; one asked for by name is an
    error.

    Raises:
        OptionError: the network has no such layer.
    """
    default = options.style_layers == Options().style_layers
    weights = options.layer_weights * (len(options.style_layers) if len(options.layer_weights) == 1 else 1)
    total = math.fsum(weights) or 1.0
    shares: dict[str, float] = {}
    for layer, weight in zip(options.style_layers, weights, strict=True):
        name = arch.find_nearest_layer(layer, network) if default else arch.canonicalize_layer(layer, network)
        shares[name] = shares.get(name, 0.0) + weight / total
    return shares


def resolve_content_layers(options: Options, network: str) -> tuple[str, ...]:
    """Content layers by this project's names.

    Raises:
        OptionError: the network has no such layer.
    """
    return tuple(dict.fromkeys(arch.canonicalize_layer(layer, network) for layer in options.content_layers))


def style_mix(strength: float) -> float:
    """How far the statistics asked for lie from the content's own (0) to the style's (1), for a strength in 0…100.

    Up to 50 the style asked for is a mixture of both, so that 0 asks for nothing; from 50 on it is the style's, and
    the content lets go. The exponent makes the steps look even: half of a mixture is less than half of a manner.
    """
    return float(min(1.0, strength / 50) ** MIX_EXPONENT)


def content_release(strength: float) -> float:
    """How far the content has been let go, for a strength in 0…100: 0 up to 50, 1 at 100."""
    return max(0.0, strength / 50 - 1)


def content_falloff(strength: float) -> float:
    """How much the content's weight is multiplied by, for a strength in 0…100: 1 up to 50, then down to 1/30 at 100."""
    return math.exp(-math.log(30) * content_release(strength))


def compute_term_weights(options: Options, network: str) -> TermWeights:
    """The weight of every term."""
    layers = resolve_content_layers(options, network)
    content = options.content_weight * content_falloff(options.strength) / max(1, len(layers))
    return TermWeights(
        content=dict.fromkeys(layers, content),
        style=resolve_style_layers(options, network),
        smoothness=options.smoothness * style_mix(options.strength),
        chroma_smoothness=CHROMA_SMOOTHNESS,
        color=COLOR_WEIGHT * options.keep_color,
    )


class StatsStore(Protocol):
    """A place where statistics outlive the process."""

    def get(self, key: str, device: torch.device) -> Mapping[str, Moments] | None:
        """What was put there under a key, on a device; None if there is nothing."""

    def put(self, key: str, device: torch.device, found: Mapping[str, Moments]) -> None:
        """Keep statistics."""


class StyleCache:
    """Statistics of styles by network, picture, size and layers; the longest unused go first.

    Args:
        shelf: where they are looked for before they are computed, and put afterwards.
    """

    def __init__(self, shelf: StatsStore | None = None) -> None:
        self._kept: OrderedDict[Hashable, Mapping[str, Moments]] = OrderedDict()
        self._shelf = shelf

    def statistics(
        self,
        features: Features,
        source: SourceImage,
        size: tuple[int, int],
        check: Check | None,
        shelve: bool = True,
    ) -> Mapping[str, Moments]:
        """Moments of every layer of `features` for a style at a size (width, height).

        Args:
            features: the network.
            source: the style.
            size: width and height.
            check: called between convolutions.
            shelve: whether they may be wanted again by another process.
        """
        key = (features.sha256, source.digest, size, features.layers, features.pooling, features.precision)
        if key not in self._kept:
            shelf = self._shelf if shelve else None
            found = shelf.get(repr(key), features.device) if shelf else None
            if found is None:
                image = resize(source.image, *size).to(features.device)
                with torch.no_grad():
                    found = {layer: losses.compute_moments(maps) for layer, maps in features(image, check).items()}
                if shelf:
                    shelf.put(repr(key), features.device, found)
            self._kept[key] = found
            if len(self._kept) > MAX_CACHED_STYLES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def compute_style_size(source: SourceImage, long_side: int, stroke_size: float, min_side: int) -> tuple[int, int]:
    """Width and height at which a style is looked at, for a picture of that long side.

    As long as the picture, but never enlarged; then `stroke_size` times that, since a style seen twice as large is painted
    with strokes twice as large; never narrower than the network needs.
    """
    height, width = source.image.shape[-2:]
    ratio = min(1.0, long_side / max(width, height)) * stroke_size
    ratio = max(ratio, min_side / min(width, height))
    return round(width * ratio), round(height * ratio)


def measure_roughness(style: SourceImage, size: tuple[int, int]) -> float:
    """The root of the total variation of a style at a size (width, height), in units of the picture's range."""
    return max(MIN_ROUGHNESS, float(losses.total_variation(resize(style.image, *size)).sqrt()))


def _compute_color_target(image: Tensor, content: SourceImage, style: SourceImage, keep: float) -> Tensor:
    """Coarse chroma that is asked for: the content's own, in the style's colours as far as these are not given up.

    Args:
        image: the content at the size of the scale, (1, 3, H, W).
        content: at its own size.
        style: in its own colours.
        keep: share of the content's colours.
    """
    own = coarse_chroma(image)
    if keep == 1:
        return own
    repainted = resize(transfer_colors(content.image, style.image, 1.0), image.shape[-1], image.shape[-2])
    return torch.lerp(coarse_chroma(repainted.to(image.device)), own, keep)


def compute_targets(
    features: Features,
    content: SourceImage,
    styles: list[SourceImage],
    size: tuple[int, int],
    options: Options,
    cache: StyleCache,
    check: Check | None = None,
) -> Targets:
    """The targets of a scale of `size` (width, height)."""
    image = resize(content.image, *size).to(features.device)  # (1, 3, H, W)
    with torch.no_grad():
        ours = features(image, check)
    wanted = resolve_content_layers(options, features.network)
    layers = resolve_style_layers(options, features.network)
    painted = styles[0]
    if options.keep_color:
        styles = [SourceImage.of(transfer_colors(style.image, content.image, options.keep_color)) for style in styles]
    sizes = [compute_style_size(style, max(size), options.stroke_size, features.min_side) for style in styles]
    shelve = not options.keep_color  # or the styles are those of this content alone
    found = [cache.statistics(features, style, at, check, shelve) for style, at in zip(styles, sizes, strict=True)]
    shares = list(options.style_weights) or [1.0] * len(styles)
    share = style_mix(options.strength)
    content_scale = torch.zeros((), device=features.device)
    targets = {}
    for layer, weight in layers.items():
        mixed = losses.blend_moments([statistics[layer] for statistics in found], shares)
        mean = ours[layer].mean(dim=(0, 2, 3), dtype=mixed.mean.dtype)  # (C,)
        content_scale = content_scale + weight * (mean - mixed.mean).square().mean()
        if share < 1:
            mixed = losses.blend_moments([losses.compute_moments(ours[layer]), mixed], [1 - share, share])
        targets[layer] = losses.prepare_wasserstein_target(mixed) if options.distance == "wasserstein" else mixed
    color = _compute_color_target(image, content, painted, options.keep_color) if options.keep_color else None
    grains = [measure_roughness(style, at) for style, at in zip(styles, sizes, strict=True)]
    grain = sum(part * rough for part, rough in zip(shares, grains, strict=True)) / sum(shares)
    return Targets(
        {layer: ours[layer] for layer in wanted},
        targets,
        color,
        content_scale.clamp(min=MIN_CONTENT_SCALE).sqrt(),
        grain,
    )
