"""The targets of a scale: content features, style statistics and the weights of the objective's terms.

Knows images as tensors and the network; does not know schedules or optimizers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from styler.engine.color import blend_colors, measure_colors, transfer_colors
from styler.engine.placement import CONTENT_PROTECTION, PROTECTED_LAYERS, Placement
from styler.engine.sources import SourceImage
from styler.engine.styles import Blend, StyleCache, compute_style_size, fit_styles, measure_roughness
from styler.objective.candidates import PCA_SAMPLES, compute_columns, prepare_candidates
from styler.objective.losses import coarse_chroma
from styler.objective.matching import MatchedRegions, Matching, MatchingPlan
from styler.objective.moments import Moments, blend_moments, compute_moments
from styler.objective.parts import Layout, gather_parts
from styler.objective.sums import StyleSums
from styler.objective.terms import RegionTargets, StyleTarget, Targets, TermWeights
from styler.objective.tiled_columns import TiledColumns
from styler.objective.tiled_matching import TiledMatching, list_places
from styler.objective.tiles import Tile, Tiling, assemble_maps, compute_tile
from styler.objective.wasserstein import prepare_wasserstein_target
from styler.options import Options
from styler.regions.areas import Areas
from styler.resample import cut_view, resize
from styler.schedule import Scale, compute_sketch_share
from styler.vgg import arch
from styler.vgg.model import Check, Features

PAPER = "gatys"
"""The value of `distance` for the sums of the paper by Gatys et al."""
STRENGTH_PER_DECADE = 12.5
"""Change of the strength that changes α/β by a factor of 10."""
DEFAULT_STYLE_LAYERS = Options().style_layers
COLOR_WEIGHT = 100.0
"""Weight of the color term at `keep_color` 1."""
CHROMA_SMOOTHNESS = 1.5
"""Extra smoothness of chroma: colored speckle is the most visible noise, and no painting has it."""
MIX_EXPONENT = 0.75
"""Exponent of the style mix below strength 50."""
MIN_CONTENT_SCALE = 0.25
"""Floor of the squared content scale, for a style that is nearly the content."""
MATCHED_LAYERS = {"relu2_1": 0.35, "relu3_1": 1.15, "relu4_1": 1.15}
"""Layers whose features are matched, and their weights. All are style layers, so they need no further convolution."""
BASE_LAYER = "relu3_1"
"""The layer at whose positions features are matched."""
CONTENT_SHARE = 0.2
"""The content's share of the query up to strength 50 and brushwork 50; more of it keeps more of the photo."""
MAX_STROKES_FACTOR, STROKES_FADE = 2.0, 0.5
"""Factor of the matched layers' weights at brushwork 100, and what each octave below the finest scale takes away."""
WHOLE_STROKES_SIDE = 512
"""Long side, in pixels, from which on every scale counts as the finest: a large picture has the strokes of a small one,
and adds detail to them. If only its own finest scale counts, one of 2048 px is less like one of 512 px: 0.56 and, with
this, 0.44 of the distance from strength 40 to 60, where two seeds at 512 px are 0.41 apart."""
MIN_STROKES_SIDE = 192
"""Shortest long side, in pixels, of the coarser scales with strokes; the matches of smaller ones are too crude."""
STROKES_CONTENT, STROKES_SMOOTHNESS = 0.3, 2.5
"""Shares that brushwork adds to the content weight, to keep small faces, and to the smoothness, against grain."""
MATCHING_INTERVAL = 5
"""Iterations of Adam after which features are matched again."""
MIN_FINISHING_ITERATIONS = 3
"""With fewer iterations a sketch is finished without matching, which costs as much as several of them."""
MATCHED_VIEWS = 4
"""Quarter turns of a style whose features are candidates."""
MAX_CANDIDATES = 65_536
"""Places of all styles that can be matched."""
MAX_KEPT_BYTES = 1 << 30
"""Memory of the content's features that are kept for a picture in tiles: in single precision, and with strokes, those
of 2048 × 2048 pixels. Those of a larger picture are computed again for each tile where they are compared: at 256 bytes
per pixel, they would take several times as much as the optimizer, and the forward pass up to the layers that are
compared takes a fifth of the time of an iteration."""
MAX_VIEWED_PIXELS = 1 << 24
"""Pixels of all views of all styles together, at 112 bytes each for their features: 1.9 GB. Of a larger painting, each
view shows a part: one painting is seen whole up to 2048 pixels on each side, and each of four up to 1024."""


def resolve_style_layers(options: Options, network: str) -> dict[str, float]:
    """Return the canonical names of the style layers and their weights, normalized to a sum of 1.

    A default layer that a shallow network lacks is replaced by the last of its block; a layer chosen by
    the user is an error.

    Raises:
        OptionError: the network has no such layer.
    """
    is_default = options.style_layers == DEFAULT_STYLE_LAYERS
    weights = options.style_layer_weights
    total = math.fsum(weights)
    shares: dict[str, float] = {}
    for layer, weight in zip(options.style_layers, weights, strict=True):
        name = arch.find_nearest_layer(layer, network) if is_default else arch.canonicalize_layer(layer, network)
        shares[name] = shares.get(name, 0.0) + weight / total
    return shares


def resolve_content_layers(options: Options, network: str) -> tuple[str, ...]:
    """Return the canonical names of the content layers.

    Raises:
        OptionError: the network has no such layer.
    """
    return tuple(dict.fromkeys(arch.canonicalize_layer(layer, network) for layer in options.content_layers))


def resolve_layers(options: Options, network: str, *, is_protected: bool = False) -> tuple[str, ...]:
    """Return the canonical names of all layers that an objective needs: content, style, then matched ones.

    Args:
        options: layers and brushwork are read.
        network: its name.
        is_protected: whether parts of the photo are protected, which needs finer layers of the content.

    Raises:
        OptionError: the network has no such layer.
    """
    matched = resolve_matched_layers(options, network)
    finer = resolve_protected_layers(network) if is_protected else {}
    return (*resolve_content_layers(options, network), *resolve_style_layers(options, network), *matched, *finer)


def resolve_protected_layers(network: str) -> dict[str, float]:
    """Return the names of the finer layers that keep what is protected, and their weights at full protection."""
    return {arch.find_nearest_layer(layer, network): weight for layer, weight in PROTECTED_LAYERS.items()}


def resolve_matched_layers(options: Options, network: str) -> dict[str, float]:
    """Return the canonical names and the weights of the layers whose features are matched; none without brushwork."""
    layers = MATCHED_LAYERS if options.brushwork else {}
    return {arch.find_nearest_layer(layer, network): weight for layer, weight in layers.items()}


def style_mix(strength: float) -> float:
    """Return where the target statistics lie between the content's (0) and the style's (1), for a strength of 0 to 100.

    Up to 50 the target is a mixture of both, so that 0 changes nothing; from 50 on it is the style's alone, and the
    content is released. The exponent makes equal steps of strength look equal: half of the mixture looks like less
    than half of the style.
    """
    return float(min(1.0, strength / 50) ** MIX_EXPONENT)


def release_content(strength: float) -> float:
    """Return how far the content is released, for a strength of 0 to 100: 0 up to 50, 1 at 100."""
    return max(0.0, strength / 50 - 1)


def content_falloff(strength: float) -> float:
    """Return the factor of the content weight, for a strength of 0 to 100: 1 up to 50, then down to 1/30 at 100."""
    return math.exp(-math.log(30) * release_content(strength))


def release_strokes(brushwork: float) -> float:
    """Return how far strokes are released from the content, for a brushwork of 0 to 100: -1 at 0, 0 at 50, 1 at 100."""
    return brushwork / 50 - 1


def weigh_ratio(strength: float) -> float:
    """Return the factor of α/β, all that Gatys et al. vary, for a strength of 0 to 100: 1 at 50, a power of ten."""
    return float(10 ** ((50 - strength) / STRENGTH_PER_DECADE))


def compute_term_weights(options: Options, network: str) -> TermWeights:
    """Return the weight of every term of the objective.

    Raises:
        OptionError: the network lacks one of the layers.
    """
    layers = resolve_content_layers(options, network)
    falloff = weigh_ratio if options.distance == PAPER else content_falloff
    strokes = min(1.0, options.brushwork / 25)
    kept = 1 + STROKES_CONTENT * min(strokes, 1 - release_strokes(options.brushwork))
    content = options.content_weight * falloff(options.strength) * kept / max(1, len(layers))
    return TermWeights(
        content=dict.fromkeys(layers, content),
        style=resolve_style_layers(options, network),
        smoothness=options.smoothness * style_mix(options.strength) * (1 + STROKES_SMOOTHNESS * strokes),
        chroma_smoothness=CHROMA_SMOOTHNESS,
        color=COLOR_WEIGHT * options.keep_color,
    )


def compute_targets(
    features: Features,
    content: SourceImage,
    blend: Blend,
    size: tuple[int, int],
    options: Options,
    cache: StyleCache,
    check: Check | None = None,
    areas: Areas | None = None,
    tile: int = 0,
) -> Targets:
    """Return the targets of a scale.

    Args: `size` is width and height, `areas` are those at the photo's size, and `tile` is the longest side of the tiles
    into which the picture is divided, in pixels, 0 for one tile.
    """
    image = content.fit(*size).to(features.device)  # (1, 3, H, W)
    tiling, whole = Tiling.of((size[1], size[0]), tile, features), Tile(0, size[1], 0, size[0])
    maps = {} if tiling else cache.get_maps(features, content, size, check)
    weights, keep, styles = compute_term_weights(options, features.network), options.keep_color, blend.recolored
    style_features = features.select(weights.style)
    sizes, moments = measure_styles(features, styles, max(size), options, cache, check)
    placement, tiles = None if areas is None else Placement.of(areas, blend, size), tiling.tiles if tiling else (whole,)
    layouts = {} if placement is None else _make_layouts(placement, style_features, tiles)
    own = _measure_content(style_features, image, maps, tiles, layouts, check)
    style_targets, scales = _compute_style_targets(own, moments, weights, blend, options, placement, layouts)
    roughness = [measure_roughness(style, at) for style, at in zip(styles, sizes, strict=True)]
    shares = blend.shares if placement is None else placement.share_styles(len(styles))
    roots = {} if placement is None else _compute_content_roots(features, placement, scales, weights, options)
    matched = resolve_matched_layers(options, features.network)
    compared = features.select({*(roots or weights.content), *matched})
    if tiling and count_kept_bytes(compared, size):
        maps = assemble_maps(compared, image, tile, check)
    return Targets(
        content={layer: maps[layer] for layer in roots or weights.content if maps},
        style=style_targets,
        color=_compute_color_target(image, content.image, blend, keep, areas) if keep else None,
        content_scale=scales[0] if placement is None else 1.0,
        content_roots=roots,
        is_content_summed=options.distance == PAPER,
        matched={layer: maps[layer] for layer in matched if maps},
        roughness=math.fsum(share * each for share, each in zip(shares, roughness, strict=True)),
        hold=None if placement is None else placement.make_hold(image),
        tiling=tiling,
        photo=image if tiling else None,
    )


def measure_styles(
    features: Features,
    styles: Sequence[SourceImage],
    long_side: int,
    options: Options,
    cache: StyleCache,
    check: Check | None = None,
) -> tuple[list[tuple[int, int]], list[Mapping[str, Moments]]]:
    """Return the width and height at which each style is analyzed for a scale with a long side, and its moments.

    Args: as in `compute_targets`; `styles` are recolored if the options say so.
    """
    sizes = [compute_style_size(style.size, long_side, options.stroke_size, features.min_side) for style in styles]
    selected = features.select(resolve_style_layers(options, features.network))
    persist = not options.keep_color  # recolored styles fit one content only
    moments = [cache.get_moments(selected, *each, check, persist) for each in zip(styles, sizes, strict=True)]
    return sizes, moments


def count_kept_bytes(features: Features, size: tuple[int, int]) -> int:
    """Return the memory of the content's features that are kept for a picture in tiles.

    Args:
        features: computes the layers of the content that the image is compared with, and no others.
        size: width and height of the picture.
    """
    convs = [conv for conv in features.convs if conv.layer in features.layers]
    values = sum(conv.outputs * (size[0] // conv.stride) * (size[1] // conv.stride) for conv in convs)
    return values * features.precision.itemsize if values * features.precision.itemsize <= MAX_KEPT_BYTES else 0


def _make_layouts(placement: Placement, features: Features, tiles: Sequence[Tile]) -> dict[str, tuple[Layout, ...]]:
    """Return the parts of every layer of `features` in every tile."""
    convs = [conv for conv in features.convs if conv.layer in features.layers]
    return {conv.layer: placement.make_layouts(conv, tiles, features.device) for conv in convs}


class Measured(NamedTuple):
    """The content's statistics in a region of a layer."""

    moments: Moments
    positions: int
    """Their number."""


@torch.no_grad()
def _measure_content(
    features: Features,
    image: Tensor,
    whole: Mapping[str, Tensor],
    tiles: Sequence[Tile],
    layouts: Mapping[str, tuple[Layout, ...]],
    check: Check | None,
) -> dict[tuple[str, int], Measured]:
    """Return the content's statistics by layer of `features` and region.

    Args:
        features: the network.
        image: the content, (1, 3, H, W).
        whole: its features, if there is one tile.
        tiles: of the image.
        layouts: the parts of each layer in each tile; empty without regions.
        check: called between convolutions.
    """
    sums, strides, counts = StyleSums(), features.strides, dict[tuple[str, int], int]()
    for number, tile in enumerate(tiles):
        maps = whole or compute_tile(features, image, tile, check)
        for layer in features.layers:
            if layer not in layouts:
                counts[layer, 0] = (image.shape[-2] // strides[layer]) * (image.shape[-1] // strides[layer])
                sums.add({(layer, 0): compute_moments(maps[layer], counts[layer, 0])})
                continue
            layout = layouts[layer][number]
            for region, part in enumerate(gather_parts(maps[layer], layout)):
                counts[layer, region] = counts.get((layer, region), 0) + part.shape[-1]
                if part.shape[-1]:
                    sums.add({(layer, region): layout.parts[region].compute_moments(part)})
    return {key: Measured(moments, counts[key]) for key, moments in sums.moments.items()}


@torch.no_grad()
def _compute_style_targets(
    own: Mapping[tuple[str, int], Measured],
    moments: Sequence[Mapping[str, Moments]],
    weights: TermWeights,
    blend: Blend,
    options: Options,
    placement: Placement | None,
    layouts: Mapping[str, tuple[Layout, ...]],
) -> tuple[dict[str, StyleTarget | RegionTargets], list[Tensor]]:
    """Return the targets of the style layers, and the scale of the content weights in each region, each ().

    The scale is the distance of the style's mean features from the content's, whose statistics are `own`.
    """
    shares = [dict(enumerate(blend.shares))] if placement is None else placement.styles
    scales = [torch.zeros((), dtype=torch.float32, device=next(iter(own.values())).moments.mean.device) for _ in shares]
    found: dict[str, StyleTarget | RegionTargets] = {}
    for layer, weight in weights.style.items():
        targets = []
        for region, styles in enumerate(shares):
            target = blend_moments([moments[index][layer] for index in styles], [*styles.values()])
            content, count = own[layer, region]
            scales[region] = scales[region] + weight * (content.mean - target.mean).square().mean()
            targets.append(_mix_target(target, content, options, is_few=count < len(content.mean)))
        found[layer] = RegionTargets(layouts[layer], tuple(targets), placement.shares) if placement else targets[0]
    if options.distance == PAPER:
        return found, [torch.ones_like(scale) for scale in scales]
    return found, [scale.clamp(min=MIN_CONTENT_SCALE).sqrt() for scale in scales]


def _mix_target(style: Moments, content: Moments, options: Options, *, is_few: bool) -> StyleTarget:
    """Return the target between the statistics of the content and of the style, for a layer of few positions or not."""
    mix = 1.0 if options.distance == PAPER else style_mix(options.strength)
    target = blend_moments([content, style], [1 - mix, mix]) if mix < 1 else style
    return prepare_wasserstein_target(target, few_positions=is_few) if options.distance == "wasserstein" else target


def _compute_content_roots(
    features: Features, placement: Placement, scales: list[Tensor], weights: TermWeights, options: Options
) -> dict[str, Tensor]:
    """Return the square roots of the content weights of all positions, those of finer layers if any are protected."""
    protected = dict.fromkeys(weights.content, CONTENT_PROTECTION / max(1, len(weights.content)))
    for layer, share in resolve_protected_layers(features.network).items():
        protected[layer] = protected.get(layer, 0.0) + share
    if placement.protection is None:
        protected = dict.fromkeys(weights.content, 0.0)
    convs = {conv.layer: conv for conv in features.convs}
    return {
        layer: placement.weigh_content(
            convs[layer], scales, weights.content.get(layer, 0.0), options.content_weight * share
        )
        for layer, share in protected.items()
    }


def weigh_strokes(brushwork: float, long_side: int, scale_side: int) -> float:
    """Return the factor of the weights of the matched layers at one scale.

    At brushwork 50 it is 1 at the finest scale and at all large ones, less at coarser scales and 0 at small ones. It
    depends on the size of the result, not on the scales that are left, so that the first scales of a stopped painting
    are repeated exactly.

    Args:
        brushwork: 0 to 100.
        long_side: of the result, in pixels.
        scale_side: the long side of the scale, in pixels.
    """
    if scale_side < min(long_side, MIN_STROKES_SIDE):
        return 0.0
    fade = STROKES_FADE * max(0.0, math.log2(min(long_side, WHOLE_STROKES_SIDE) / scale_side))
    return math.pow(MAX_STROKES_FACTOR, release_strokes(brushwork)) * min(1.0, brushwork / 50) * max(0.0, 1 - fade)


def limit_view_side(long_side: int, styles: int) -> int:
    """Return the longest side of the views of each of some styles, in pixels, given the long side of the picture."""
    return min(long_side, math.isqrt(MAX_VIEWED_PIXELS // (MATCHED_VIEWS * styles)))


def plan_matching(options: Options, network: str, size: tuple[int, int], scale: Scale) -> MatchingPlan | None:
    """Plan the matching of a scale for a result of `size` (width, height); None if it has no matched features."""
    weight = 0.0 if scale.opening else weigh_strokes(options.brushwork, max(size), max(scale.size))
    finishes_sketch = compute_sketch_share(options) > 0 and not scale.sketch
    if not weight or (finishes_sketch and max(scale.iterations, scale.planned) < MIN_FINISHING_ITERATIONS):
        return None
    held, release = (1 - release_content(options.strength)) ** 2, release_strokes(options.brushwork)
    return MatchingPlan(
        weights={layer: share * weight for layer, share in resolve_matched_layers(options, network).items()},
        content_share=CONTENT_SHARE ** (1 + release) * held,
        held=held * (1 - release),
        style_mix=style_mix(options.strength),
        interval=MATCHING_INTERVAL if scale.optimizer == "adam" else 0,  # L-BFGS needs one and the same objective
    )


@torch.no_grad()
def prepare_matching(
    plan: MatchingPlan,
    features: Features,
    targets: Targets,
    blend: Blend,
    long_side: int,
    options: Options,
    check: Check | None = None,
    areas: Areas | None = None,
) -> Matching | TiledMatching:
    """Analyze the styles and their rotated copies for the matching of a scale.

    Args:
        plan: how to match.
        features: the network.
        targets: of the scale.
        blend: the styles.
        long_side: of the scale, in pixels.
        options: stroke_size is read.
        check: called between convolutions.
        areas: at the photo's size.
    """
    network, base = features.select(plan.weights), arch.find_nearest_layer(BASE_LAYER, features.network)
    tiling, photo, shares = targets.tiling, targets.photo, torch.tensor(blend.shares, dtype=torch.float32)
    limit = limit_view_side(long_side, len(blend.styles))
    side, stride = (tiling.side if tiling else 0), network.strides[base]
    cuts = [
        [cut_view(style, turn, limit) for turn in range(MATCHED_VIEWS)]
        for style, _ in fit_styles(blend, long_side, options, features.min_side)
    ]
    numbers = [[(view.shape[-2] // stride) * (view.shape[-1] // stride) for view in views] for views in cuts]
    styles = (_analyze_views(network, views, side, check) for views in cuts)
    if tiling is None or photo is None:
        height, width = targets.matched[base].shape[-2:]
        regions = _match_regions(areas, blend, (width, height), features.device)
        example = compute_columns(targets.matched, base)
        candidates = prepare_candidates(styles, example, base, MAX_CANDIDATES, numbers)
        return Matching(plan, candidates, shares.to(features.device), targets.matched, check, regions)
    height, width = tiling.size[0] // stride, tiling.size[1] // stride
    regions = _match_regions(areas, blend, (width, height), features.device)
    labels = None if regions is None else regions.label_places()
    columns = TiledColumns.of(network, photo, tiling, base, check, labels, len(regions.places) if regions else 1)
    candidates = prepare_candidates(styles, columns.sample(PCA_SAMPLES), base, MAX_CANDIDATES, numbers)
    places = list_places(columns, len(cuts), regions)
    return TiledMatching(plan, candidates, shares.to(features.device), columns, regions, places)


def _analyze_views(
    features: Features, views: Sequence[Tensor], side: int, check: Check | None
) -> Iterator[dict[str, Tensor]]:
    """Yield the features of the views of a style, each (1, 3, h, w), turned by quarters, in tiles of a side."""
    for turn, view in enumerate(views):
        yield assemble_maps(features, torch.rot90(view.to(features.device), turn, (-2, -1)), side, check)


def _match_regions(
    areas: Areas | None, blend: Blend, size: tuple[int, int], device: torch.device
) -> MatchedRegions | None:
    """Return what the places of the image, of a size (width, height), may take; None if they may take everything."""
    return None if areas is None else Placement.of(areas, blend, size).match_regions(len(blend.styles), device)


def _compute_color_target(
    image: Tensor, content: Tensor, blend: Blend, keep: float, areas: Areas | None = None
) -> Tensor:
    """Return the coarse chroma to keep: between the content recolored like the styles (0) and its own (1).

    `image` is the content at the size of the scale and `content` at its own size, each (1, 3, H, W).
    """
    own = coarse_chroma(image)
    if keep == 1:
        return own
    found = [measure_colors(style.image) for style in blend.styles]
    if areas is None:
        recolored = transfer_colors(content, blend_colors(found, blend.shares), 1.0)
    else:
        recolored = torch.zeros_like(content)
        for mask, styles in zip(areas.regions[0], blend.share_regions(areas), strict=True):
            colors = blend_colors([found[index] for index in styles], [*styles.values()])
            recolored += mask * transfer_colors(content, colors, 1.0)
    recolored = resize(recolored, image.shape[-1], image.shape[-2])
    return torch.lerp(coarse_chroma(recolored.to(image.device)), own, keep)
