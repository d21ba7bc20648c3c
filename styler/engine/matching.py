"""Matched features: each place of the image is compared with the place of a style that looks most like it.

Statistics describe the textures of a painting and average its strokes; matched features keep the strokes. The *column*
of a place joins the features of several layers there. Each column of the query, a mixture of content and image, finds
the most similar column of the style and of its rotated copies, and the features at that place of the style, at each
layer's own stride, become the target.

Source: N. Kolkin, M. Kucera, S. Paris, D. Sýkora, E. Shechtman and G. Shakhnarovich, "Neural Neighbor Style Transfer",
2022, sections 3.2 and 3.3. Unlike there, layers are compared at their own strides, so that no features are enlarged in
an iteration, and the content's share of the query is a mixture of columns.

Knows features only: no images, options or files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.engine.losses import SHORTEST, cosine_distance
from styler.vgg.model import Check

Maps = Mapping[str, Tensor]
"""Features by layer, each (1, C, H, W)."""

CODE_LENGTH = 128
"""Principal components by which candidates are compared first."""
FINALISTS = 8
"""Candidates for each query that are compared exactly: the best of as many equal parts."""
QUERY_CHUNK = 1024
"""Queries compared at once, so that their similarities take little memory."""
PCA_SAMPLES = 8192
"""Candidates from which the principal components are computed."""
SHARE_TEMPERATURE = 0.02
"""Differences of similarity that decide little between two styles."""
SHARE_ROUNDS = 50
"""Rounds in which the shares of several styles are balanced."""


def compute_columns(maps: Maps, base: str) -> Tensor:
    """Return the centered columns of an image, (N, ΣC), in float32.

    Every layer is centered by its own mean and divided by its own standard deviation, so that all count equally.

    Args:
        maps: the features of all matched layers.
        base: the layer at whose N positions the columns are.
    """
    size = (maps[base].shape[-2], maps[base].shape[-1])
    parts = []
    for maps_of_layer in maps.values():
        rows = _flatten(_resize_maps(maps_of_layer, size)).float()  # (N, C)
        rows = rows - rows.mean(dim=0)
        parts.append(rows / rows.square().sum(dim=1).mean().sqrt().clamp(min=SHORTEST))
    return torch.cat(parts, dim=1)


def _flatten(maps: Tensor) -> Tensor:
    """Return the channels of every position of (1, C, H, W), (H · W, C)."""
    return maps[0].permute(1, 2, 0).reshape(-1, maps.shape[1])


def _resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a layer to the height and width of another: averaged if it is larger, interpolated if it is smaller."""
    if maps.shape[-2] > size[0] and maps.shape[-1] > size[1]:
        maps = F.avg_pool2d(maps, max(maps.shape[-2] // size[0], 1))[..., : size[0], : size[1]]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)


def _normalize(columns: Tensor) -> Tensor:
    """Divide columns (N, C) by their lengths."""
    lengths: Tensor = columns.norm(dim=1, keepdim=True)
    return columns / lengths.clamp(min=SHORTEST)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The places of all styles, in all their views, that can be matched."""

    base: str
    """The layer at whose positions the columns are."""
    counts: tuple[int, ...]
    """Number of candidates of each style; they follow one another."""
    columns: Tensor
    """Columns of length 1, (K, ΣC), in the precision of the features."""
    codes: Tensor
    """Their principal components, (K, D)."""
    basis: Tensor
    """The directions of the principal components, (ΣC, D)."""
    places: Tensor
    """View, row and column of each candidate, at the stride of the base layer, (K, 3)."""
    rows: Maps
    """Features of all positions of all views by layer, each (R, C)."""
    grids: Maps
    """For every view the first of its rows, its height and its width in each layer, (V, 3)."""


def prepare_candidates(styles: Sequence[Sequence[Maps]], base: str, limit: int) -> Candidates:
    """Prepare the candidates of one or more styles.

    Args:
        styles: for each style the features of the style and of its rotated copies.
        base: the layer at whose positions the columns are.
        limit: the largest number of candidates; if there are more, evenly spaced ones are taken of each style.
    """
    views = [maps for style in styles for maps in style]
    total = sum(maps[base].shape[-2] * maps[base].shape[-1] for maps in views)
    columns, places, counts = [], [], []
    for index, style in enumerate(styles):
        first_view = sum(map(len, styles[:index]))
        own_columns = torch.cat([_normalize(compute_columns(maps, base)) for maps in style])  # (K, ΣC)
        own_places = torch.cat([_list_places(first_view + view, maps[base]) for view, maps in enumerate(style)])
        count = max(1, len(own_columns) * min(limit, total) // total)
        kept = torch.linspace(0, len(own_columns) - 1, count, dtype=torch.float64).long()
        columns.append(own_columns if count == len(own_columns) else own_columns[kept.to(own_columns.device)])
        places.append(own_places[kept])
        counts.append(count)
    joined = torch.cat(columns)
    basis, precision = _find_principal_components(joined), views[0][base].dtype
    return Candidates(
        base,
        tuple(counts),
        joined.to(precision),
        (joined @ basis).to(precision),
        basis,
        torch.cat(places).to(joined.device),
        {layer: torch.cat([_flatten(maps[layer]) for maps in views]) for layer in views[0]},
        {layer: _list_grids([maps[layer] for maps in views]).to(joined.device) for layer in views[0]},
    )


def _list_places(view: int, maps: Tensor) -> Tensor:
    """Return view, row and column of every position of (1, C, H, W), (H · W, 3), on the CPU."""
    height, width = maps.shape[-2:]
    axes = torch.tensor([view]), torch.arange(height), torch.arange(width)
    return torch.cartesian_prod(*axes)


def _list_grids(maps: Sequence[Tensor]) -> Tensor:
    """Return where each view begins in the rows of all, its height and its width, (V, 3), on the CPU."""
    grids, first = [], 0
    for height, width in (view.shape[-2:] for view in maps):
        grids.append((first, height, width))
        first += height * width
    return torch.tensor(grids)


def _find_principal_components(columns: Tensor) -> Tensor:
    """Return the directions in which columns (K, C) vary most, (C, D)."""
    sample = columns[:: max(1, len(columns) // PCA_SAMPLES)]
    _, vectors = torch.linalg.eigh((sample.T @ sample).double().cpu())  # MPS supports neither
    basis: Tensor = vectors[:, -CODE_LENGTH:].to(columns)
    return basis


def find_matches(
    queries: Tensor, candidates: Candidates, shares: Tensor | None = None, check: Check | None = None
) -> Tensor:
    """Return the index of the candidate most similar to each query, by the cosine of their columns, (N,).

    Args:
        queries: (N, ΣC).
        candidates: K of them.
        shares: of the places that each style gets, with the sum 1, (S,); not needed for one style.
        check: called between chunks; stops the work by raising.
    """
    queries, first = _normalize(queries), 0
    found = []
    for count in candidates.counts:
        matches, cosines = _find_best(queries, candidates, slice(first, first + count), check)
        found.append((matches + first, cosines))
        first += count
    if len(found) == 1 or shares is None:
        return found[0][0]
    styles = choose_styles(torch.stack([cosines for _, cosines in found], dim=1), shares)  # (N,)
    return torch.stack([matches for matches, _ in found], dim=1).gather(1, styles[:, None])[:, 0]


def _find_best(queries: Tensor, candidates: Candidates, among: slice, check: Check | None) -> tuple[Tensor, Tensor]:
    """Return the best match of each query among some candidates, counted from the first of them, and its cosine, (N,).

    The candidates are compared by their principal components, and the best of each of `FINALISTS` parts exactly.
    """
    columns, codes = candidates.columns[among], candidates.codes[among]
    parts = torch.split(codes, math.ceil(len(codes) / FINALISTS))
    matches, cosines = [], []
    for chunk in torch.split(queries, QUERY_CHUNK):
        if check:
            check()
        query_codes = (chunk @ candidates.basis).to(codes)  # (n, D)
        best = [(query_codes @ part.T).argmax(dim=1) + index * len(parts[0]) for index, part in enumerate(parts)]
        finalists = torch.stack(best, dim=1)  # (n, F)
        similarities = (columns[finalists] @ chunk.to(columns)[:, :, None])[..., 0].float()  # (n, F)
        cosine, winner = similarities.max(dim=1)
        matches.append(finalists.gather(1, winner[:, None])[:, 0])
        cosines.append(cosine)
    return torch.cat(matches), torch.cat(cosines)


def choose_styles(cosines: Tensor, shares: Tensor) -> Tensor:
    """Choose a style for every place, so that each style gets its share of the places where it is most similar.

    Offsets are added to the similarities of each style until the shares are met: the dual of entropic optimal
    transport between places and styles, solved as in M. Cuturi, "Sinkhorn Distances", 2013.

    Args:
        cosines: of the best match in each style, (N, S).
        shares: of the styles, with the sum 1, (S,).

    Returns:
        The index of a style for each place, (N,).
    """
    scaled, offsets = cosines / SHARE_TEMPERATURE, torch.zeros_like(shares)
    for _ in range(SHARE_ROUNDS):
        found = (scaled + offsets).softmax(dim=1).mean(dim=0)  # (S,)
        offsets = offsets + shares.log() - found.clamp(min=SHORTEST).log()
    return (scaled + offsets).argmax(dim=1)


def gather_features(layer: str, size: tuple[int, int], matches: Tensor, candidates: Candidates) -> Tensor:
    """Return a layer's features at the matched places of the style, (1, C, H, W).

    A layer finer than the base has several positions for each match, which are taken together; for a coarser one the
    features of several matches are averaged.

    Args:
        layer: one of the matched layers.
        size: height and width of the layer in the image.
        matches: indices of candidates on the grid of the base layer, (h, w).
        candidates: the places of the style.
    """
    places = candidates.places[matches]  # (h, w, 3)
    (height, width), (base_height, base_width) = size, matches.shape
    if height > base_height:
        factor = height // base_height
        down, across = torch.arange(height, device=matches.device), torch.arange(width, device=matches.device)
        base_down, base_across = (
            (down // factor).clamp(max=base_height - 1),
            (across // factor).clamp(max=base_width - 1),
        )
        places = places[base_down][:, base_across]  # (H, W, 3)
        y = places[..., 1] * factor + (down - base_down * factor)[:, None]
        x = places[..., 2] * factor + (across - base_across * factor)
        return _look_up(layer, places[..., 0], y, x, candidates)
    factor = max(1, base_height // height)
    target = _look_up(layer, places[..., 0], places[..., 1] // factor, places[..., 2] // factor, candidates)
    return target if factor == 1 else F.avg_pool2d(target, factor)[..., :height, :width]


def _look_up(layer: str, view: Tensor, y: Tensor, x: Tensor, candidates: Candidates) -> Tensor:
    """Return the features of a layer, (1, C, H, W), at positions of views, each (H, W)."""
    first, rows, columns = candidates.grids[layer][view].unbind(dim=-1)
    index = first + torch.minimum(y, rows - 1) * columns + torch.minimum(x, columns - 1)  # (H, W)
    return candidates.rows[layer][index.flatten()].view(1, *index.shape, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingPlan:
    """How one scale matches."""

    weights: Mapping[str, float]
    """Of the distance to the matched features, by layer."""
    content_share: float
    """Share of the content in the query; the image has the rest."""
    style_mix: float
    """Where the targets lie between the content's features (0) and the style's (1)."""
    interval: int
    """Evaluations after which the matches are found again; 0 for never, with the content alone as the query."""


@dataclass(slots=True, eq=False)
class Matching:
    """The matched features of one scale, found again from time to time while the image changes."""

    plan: MatchingPlan
    candidates: Candidates
    shares: Tensor | None
    """Of the styles, (S,); None for one style."""
    content: Maps
    """Features of the content in the matched layers."""
    check: Check | None = None
    _evaluations: int = field(default=0, init=False)
    _query: Tensor | None = field(default=None, init=False)
    _targets: dict[str, Tensor] = field(default_factory=dict, init=False)

    def compute_distances(self, features: Maps) -> dict[str, Tensor]:
        """Return the weighted distance of each matched layer to its target, each ()."""
        interval = self.plan.interval
        if self._evaluations % interval == 0 if interval else not self._targets:
            self._targets = self._find_targets(features)
        self._evaluations += 1
        return {
            layer: weight * cosine_distance(features[layer], self._targets[layer])
            for layer, weight in self.plan.weights.items()
        }

    @torch.no_grad()
    def _find_targets(self, features: Maps) -> dict[str, Tensor]:
        """Return the features of the places matched with a mixture of the content and the image's own features."""
        base, mix = self.candidates.base, self.plan.style_mix
        if self._query is None:
            self._query = compute_columns(self.content, base)  # (N, ΣC)
        query = self._query
        if self.plan.interval:
            own = compute_columns({layer: features[layer] for layer in self.content}, base)
            query = torch.lerp(own, query, self.plan.content_share)
        matches = find_matches(query, self.candidates, self.shares, self.check).view(features[base].shape[-2:])
        targets = {}
        for layer, content in self.content.items():
            target = gather_features(layer, (content.shape[-2], content.shape[-1]), matches, self.candidates)
            target = target if mix == 1 else torch.lerp(content, target, mix)
            targets[layer] = target.contiguous(memory_format=torch.channels_last)
        return targets
