"""Matched features: each place of the image is compared with the place of a style that looks most like it.

Statistics describe the textures of a painting and average its strokes; matched features keep the strokes. The *column*
of a place joins the features of several layers there. Each column of the query, a mixture of content and image, finds
the most similar column of the style and of its rotated copies. Neighbors then agree on larger pieces of the style, as
far as these are hardly less similar, and the features at the matched places, at each layer's own stride, become the
target. Where the content has detail, such as an eye, it gets a larger share of the query and a share of the target.

Sources: N. Kolkin, M. Kucera, S. Paris, D. Sýkora, E. Shechtman and G. Shakhnarovich, "Neural Neighbor Style Transfer",
2022, sections 3.2 and 3.3. Unlike there, layers are compared at their own strides, so that no features are enlarged in
an iteration, and the content's share of the query is a mixture of columns. M. Ashikhmin, "Synthesizing Natural
Textures", 2001, for matches that continue those of neighbors.

Knows features only: no images, options or files.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.engine.losses import SHORTEST, cosine_distance, find_principal_components, normalize_features
from styler.vgg.model import Check

Maps = Mapping[str, Tensor]
"""Features by layer, each (1, C, H, W)."""

STORED_TYPE = torch.float16
"""The type of the columns and of the styles' features: far below its limit, and half the memory of float32."""
CODE_LENGTH = 96
"""Principal components by which candidates are compared first."""
FINALISTS = 12
"""Candidates for each query that are compared exactly; on MPS `topk` returns at most 16."""
GROUP_SIZE = 64
"""Candidates whose maximum is taken before the finalists are selected."""
MAX_SCORES = 1 << 22
"""Comparisons made at once, so that they take little memory."""
PROJECTED_ROWS = 1024
"""Columns converted to float32 at once."""
PCA_SAMPLES = 4096
"""Columns of the style, and as many of the content, from which the principal components are computed. With those of the
style alone, twice as many components would be needed: they miss what makes a query more similar to one than another."""
NEIGHBORS = (0, 1), (0, -1), (1, 0), (-1, 0)
"""Steps down and across from a neighbor to the place itself."""
COHERENCE = 0.03
"""Similarity that a match is worth for each of the four neighbors whose match it continues."""
LINKING_ROUNDS = 2
"""How often every place may take another match for that; afterwards, fewer than 1 % would."""
LEAST_DETAIL, MUCH_DETAIL = 0.75, 0.8
"""Detail of the content below which its share of the query falls no further; above which it shares in the target."""
SHARE_TEMPERATURES = 0.02, 0.0005
"""Differences of similarity that decide little between two styles, while their shares are balanced: first and last."""
SHARE_ROUNDS = 60
"""Rounds in which the shares of several styles are balanced."""


def compute_columns(maps: Maps, base: str) -> Tensor:
    """Return the centered columns of an image, (N, ΣC), in `STORED_TYPE`.

    Every layer is centered by its own mean and divided by its own standard deviation, so that all count equally.

    Args:
        maps: the features of all matched layers.
        base: the layer at whose N positions the columns are.
    """
    size = (maps[base].shape[-2], maps[base].shape[-1])
    width = sum(each.shape[1] for each in maps.values())
    columns = torch.empty((size[0] * size[1], width), dtype=STORED_TYPE, device=maps[base].device)
    parts = torch.split(columns, [each.shape[1] for each in maps.values()], dim=1)
    for part, maps_of_layer in zip(parts, maps.values(), strict=True):
        rows = _flatten(_resize_maps(maps_of_layer, size))  # (N, C)
        mean, chunks = rows.mean(dim=0, dtype=torch.float32), torch.split(rows, PROJECTED_ROWS)
        squares = torch.stack([(chunk - mean).square_().sum() for chunk in chunks]).sum()
        scale = 1 / (squares / len(rows)).sqrt().clamp(min=SHORTEST)
        for target, chunk in zip(torch.split(part, PROJECTED_ROWS), chunks, strict=True):
            target.copy_((chunk - mean).mul_(scale))
    return columns


def _flatten(maps: Tensor) -> Tensor:
    """Return the channels of every position of (1, C, H, W), (H · W, C)."""
    return maps[0].permute(1, 2, 0).reshape(-1, maps.shape[1])


def _resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a layer to the height and width of another: averaged if it is larger, interpolated if it is smaller."""
    if maps.shape[-2] > size[0] and maps.shape[-1] > size[1]:
        maps = F.avg_pool2d(maps, _compute_stride(maps.shape[-2], size[0]))[..., : size[0], : size[1]]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _compute_stride(fine: int, coarse: int) -> int:
    """Return the power of two by which a side was divided and rounded down."""
    return 1 << (fine.bit_length() - coarse.bit_length())


def _normalize(columns: Tensor) -> Tensor:
    """Return columns (N, C) divided by their lengths, in float32."""
    return F.normalize(columns.float(), dim=1, eps=SHORTEST)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The places of all styles, in all their views, that can be matched."""

    base: str
    """The layer at whose positions the columns are."""
    counts: tuple[int, ...]
    """Number of candidates of each style; they follow one another."""
    styles: Tensor
    """The style of each candidate, (K,)."""
    columns: Tensor
    """Columns of length 1, (K, ΣC), in `STORED_TYPE`."""
    codes: tuple[Tensor, ...]
    """Their principal components for each style, (`GROUP_SIZE`, G, D); the last of the groups' members begin again
    with the first candidates."""
    basis: Tensor
    """The directions of the principal components, (ΣC, D), in float32."""
    places: Tensor
    """View, row and column of each candidate, at the stride of the base layer, (K, 3)."""
    indices: Tensor
    """The candidate at each of the base layer's rows, or -1 where it was left out, (R,)."""
    rows: Maps
    """Features of all positions of all views by layer, each (R, C), in `STORED_TYPE`."""
    grids: Maps
    """For every view the first of its rows, its height and its width in each layer, (V, 3)."""


def prepare_candidates(styles: Sequence[Sequence[Maps]], content: Maps, base: str, limit: int) -> Candidates:
    """Prepare the candidates of one or more styles.

    Args:
        styles: for each style the features of the style and of its rotated copies.
        content: features of the content, whose columns are similar to the queries.
        base: the layer at whose positions the columns are.
        limit: the largest number of candidates; if there are more, some are left out, evenly among all views.
    """
    views = [maps for style in styles for maps in style]
    numbers = [maps[base].shape[-2] * maps[base].shape[-1] for maps in views]
    if (total := sum(numbers)) > limit:
        numbers = [max(1, number * limit // total) for number in numbers]
    ends = itertools.accumulate(map(len, styles))
    counts = [sum(numbers[end - len(style) : end]) for style, end in zip(styles, ends, strict=True)]
    example = compute_columns(content, base)
    columns = example.new_empty(sum(numbers), example.shape[1])  # (K, ΣC)
    places = []
    for view, (maps, kept) in enumerate(zip(views, torch.split(columns, numbers), strict=True)):
        own, own_places = compute_columns(maps, base), _list_places(view, maps[base])
        chosen = _choose_some(len(own), len(kept)).to(own.device)
        for target, part in zip(torch.split(kept, PROJECTED_ROWS), torch.split(chosen, PROJECTED_ROWS), strict=True):
            target.copy_(_normalize(own[part]))
        places.append(own_places[chosen])
    grids = {layer: _list_grids([maps[layer] for maps in views]).to(columns.device) for layer in views[0]}
    rows = {layer: torch.cat([_store_rows(maps[layer]) for maps in views]) for layer in views[0]}
    all_places = torch.cat(places)  # (K, 3)
    indices = torch.full((len(rows[base]),), -1, device=columns.device)
    indices[_find_rows(all_places, grids[base])] = torch.arange(len(columns), device=columns.device)
    samples = [_normalize(each[:: math.ceil(len(each) / PCA_SAMPLES)]) for each in (columns, example)]
    basis = find_principal_components(samples, CODE_LENGTH)
    codes = torch.cat([(part.float() @ basis).to(content[base]) for part in torch.split(columns, PROJECTED_ROWS)])
    return Candidates(
        base,
        tuple(counts),
        torch.cat([torch.full((count,), style, device=columns.device) for style, count in enumerate(counts)]),
        columns,
        tuple(_split_groups(own) for own in torch.split(codes, counts)),
        basis,
        all_places,
        indices,
        rows,
        grids,
    )


def _store_rows(maps: Tensor) -> Tensor:
    """Return the channels of every position of (1, C, H, W) in `STORED_TYPE`, (H · W, C)."""
    return _flatten(maps).clamp(max=torch.finfo(STORED_TYPE).max).to(STORED_TYPE)


def _choose_some(total: int, count: int) -> Tensor:
    """Return some of `total` indices in order, on the CPU: always the same ones, but without a regular pattern."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values


def _split_groups(codes: Tensor) -> Tensor:
    """Return codes (K, D) in groups of members G apart, (`GROUP_SIZE`, G, D)."""
    missing = -len(codes) % GROUP_SIZE
    again = codes.repeat(math.ceil(missing / len(codes)), 1)[:missing]
    return torch.cat([codes, again]).view(GROUP_SIZE, -1, codes.shape[1])


def _list_places(view: int, maps: Tensor) -> Tensor:
    """Return view, row and column of every position of (1, C, H, W), (H · W, 3)."""
    height, width = maps.shape[-2:]
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    return torch.cartesian_prod(torch.full((1,), view, device=maps.device), rows, columns)


def _list_grids(maps: Sequence[Tensor]) -> Tensor:
    """Return where each view begins in the rows of all, its height and its width, (V, 3), on the CPU."""
    grids, first = [], 0
    for height, width in (view.shape[-2:] for view in maps):
        grids.append((first, height, width))
        first += height * width
    return torch.tensor(grids)


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
    first, found = 0, []
    for count, codes in zip(candidates.counts, candidates.codes, strict=True):
        columns = candidates.columns[first : first + count]
        matches, cosines = _find_best(queries, columns, codes, candidates.basis, check)
        found.append((matches + first, cosines))
        first += count
    if len(found) == 1 or shares is None:
        return found[0][0]
    styles = choose_styles(torch.stack([cosines for _, cosines in found], dim=1), shares)  # (N,)
    return torch.stack([matches for matches, _ in found], dim=1).gather(1, styles[:, None])[:, 0]


def _find_best(
    queries: Tensor, columns: Tensor, codes: Tensor, basis: Tensor, check: Check | None
) -> tuple[Tensor, Tensor]:
    """Return the best match of each query (N, ΣC) among columns (K, ΣC), and its cosine, each (N,)."""
    matches, cosines = [], []
    for part in torch.split(queries, max(1, MAX_SCORES // codes[..., 0].numel())):
        if check:
            check()
        chunk = _normalize(part)  # (n, ΣC)
        finalists = _find_finalists((chunk @ basis).to(codes), codes) % len(columns)  # (n, F)
        similarities = (columns[finalists].float() * chunk[:, None]).sum(dim=2)  # (n, F)
        cosine, winner = similarities.max(dim=1)
        matches.append(finalists.gather(1, winner[:, None])[:, 0])
        cosines.append(cosine)
    return torch.cat(matches), torch.cat(cosines)


def _find_finalists(queries: Tensor, codes: Tensor) -> Tensor:
    """Return the indices of the codes (`GROUP_SIZE`, G, D) most similar to each query (n, D), (n, F).

    The best codes are in the groups with the best maxima, so only those groups are searched.
    """
    members, total = codes.shape[:2]
    count = min(FINALISTS, total)
    scores = (queries @ codes.flatten(0, 1).T).view(len(queries), members, total)
    groups = scores.amax(dim=1).topk(count).indices  # (n, count)
    among = scores.gather(2, groups[:, None, :].expand(-1, members, -1)).flatten(1)  # (n, members · count)
    best = among.topk(FINALISTS).indices  # (n, F)
    return best // count * total + groups.gather(1, best % count)


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
    (first, last), offsets = SHARE_TEMPERATURES, torch.zeros_like(shares)
    for step in range(SHARE_ROUNDS):
        temperature = first * math.pow(last / first, step / (SHARE_ROUNDS - 1))
        found = ((cosines + offsets) / temperature).softmax(dim=1).mean(dim=0)  # (S,)
        offsets = offsets + temperature * (shares.log() - found.clamp(min=SHORTEST).log())
    return (cosines + offsets).argmax(dim=1)


def continue_matches(matches: Tensor, candidates: Candidates, down: int, across: int) -> Tensor:
    """Return for each place the candidate that continues a neighbor's match: as far from it as the place itself.

    Args:
        matches: indices of candidates, (h, w).
        candidates: the places of the styles.
        down: from the neighbor to the place, in places.
        across: the same.

    Returns:
        Indices, (h, w), or -1 where there is no such candidate or no such neighbor.
    """
    (height, width), found = matches.shape, torch.full_like(matches, -1)
    from_rows, from_columns = (
        slice(max(0, -step), side - max(0, step)) for step, side in ((down, height), (across, width))
    )
    to_rows, to_columns = (
        slice(max(0, step), side - max(0, -step)) for step, side in ((down, height), (across, width))
    )
    view, y, x = candidates.places[matches[from_rows, from_columns]].unbind(dim=-1)
    y, x = y + down, x + across
    grid = candidates.grids[candidates.base]
    _, rows, columns = grid[view].unbind(dim=-1)
    inside = (y >= 0) & (x >= 0) & (y < rows) & (x < columns)
    index = candidates.indices[_find_rows(torch.stack([view, y, x], dim=-1), grid)]
    found[to_rows, to_columns] = torch.where(inside, index, -1)
    return found


def link_matches(queries: Tensor, matches: Tensor, candidates: Candidates, check: Check | None = None) -> Tensor:
    """Let neighbors agree on larger pieces of the style, so that its strokes stay whole.

    Each place may take a candidate of the same style that continues the match of a neighbor: the one with the highest
    similarity, to which every neighbor whose match it continues adds `COHERENCE`. The two colors of a checkerboard
    take turns.

    Source: J. Besag, "On the Statistical Analysis of Dirty Pictures", 1986, section 2.5.

    Args:
        queries: (h · w, ΣC).
        matches: indices of candidates, (h, w).
        candidates: the places of the styles.
        check: called between the turns; stops the work by raising.

    Returns:
        Indices of candidates, (h, w).
    """
    height, width = matches.shape
    down, across = torch.arange(height, device=matches.device), torch.arange(width, device=matches.device)
    order = ((down[:, None] + across) % 2).flatten().argsort(stable=True)  # the places of one color, then the other's
    turns, back = torch.tensor_split(order, [(order.numel() + 1) // 2]), order.argsort()
    found = [matches.flatten()[places] for places in turns]
    cosines = [_compare(queries[places], own, candidates) for places, own in zip(turns, found, strict=True)]
    for turn in [0, 1] * LINKING_ROUNDS:
        if check:
            check()
        places, whole = turns[turn], torch.cat(found)[back].view(height, width)
        continued = [continue_matches(whole, candidates, *step).flatten()[places] for step in NEIGHBORS]
        styles = candidates.styles[found[turn]]  # (n,)
        others = [torch.where(candidates.styles[each.clamp(min=0)] == styles, each, -1) for each in continued]
        choices = torch.stack([found[turn], *others])  # (5, n)
        own = queries[places]
        similarities = [cosines[turn], *(_compare(own, other, candidates) for other in others)]
        agreeing = (choices[:, None] == choices[None, 1:]).sum(dim=1)  # (5, n)
        winner = (torch.stack(similarities) + COHERENCE * agreeing).argmax(dim=0, keepdim=True)  # (1, n)
        found[turn] = choices.gather(0, winner)[0]
        cosines[turn] = torch.stack(similarities).gather(0, winner)[0]
    return torch.cat(found)[back].view(height, width)


def _compare(queries: Tensor, indices: Tensor, candidates: Candidates) -> Tensor:
    """Return the cosine of each query (N, ΣC) with the candidate of its index, (N,); -inf for the index -1."""
    cosines = [
        (candidates.columns[part.clamp(min=0)].float() * _normalize(rows)).sum(dim=1)
        for rows, part in zip(torch.split(queries, PROJECTED_ROWS), torch.split(indices, PROJECTED_ROWS), strict=True)
    ]
    return torch.where(indices < 0, -math.inf, torch.cat(cosines))


def gather_targets(sizes: Mapping[str, tuple[int, int]], matches: Tensor, candidates: Candidates) -> dict[str, Tensor]:
    """Return each layer's features at the matched places of the styles, (1, C, H, W), in float32.

    Pieces of the style overlap: a place gets the mean of its own match and of what continues its neighbors' matches.

    Source: V. Kwatra et al., "Texture Optimization for Example-based Synthesis", 2005, section 3.

    Args:
        sizes: height and width of each matched layer in the image.
        matches: indices of candidates on the grid of the base layer, (h, w).
        candidates: the places of the styles.
    """
    continued = [continue_matches(matches, candidates, *step) for step in NEIGHBORS]
    overlapping = [matches, *(torch.where(each < 0, matches, each) for each in continued)]
    targets = {}
    for layer, size in sizes.items():
        total = gather_features(layer, size, overlapping[0], candidates).float()
        for each in overlapping[1:]:
            total += gather_features(layer, size, each, candidates)
        targets[layer] = total.div_(len(overlapping))
    return targets


def gather_features(layer: str, size: tuple[int, int], matches: Tensor, candidates: Candidates) -> Tensor:
    """Return a layer's features at the matched places of the style, (1, C, H, W), in `STORED_TYPE`.

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
        factor = _compute_stride(height, base_height)
        down, across = torch.arange(height, device=matches.device), torch.arange(width, device=matches.device)
        base_down, base_across = (
            (down // factor).clamp(max=base_height - 1),
            (across // factor).clamp(max=base_width - 1),
        )
        places = places[base_down][:, base_across]  # (H, W, 3)
        y = places[..., 1] * factor + (down - base_down * factor)[:, None]
        x = places[..., 2] * factor + (across - base_across * factor)
        return _look_up(layer, places[..., 0], y, x, candidates)
    factor = _compute_stride(base_height, height)
    target = _look_up(layer, places[..., 0], places[..., 1] // factor, places[..., 2] // factor, candidates)
    return target if factor == 1 else F.avg_pool2d(target, factor)[..., :height, :width]


def _look_up(layer: str, view: Tensor, y: Tensor, x: Tensor, candidates: Candidates) -> Tensor:
    """Return the features of a layer, (1, C, H, W), at positions of views, each (H, W)."""
    index = _find_rows(torch.stack([view, y, x], dim=-1), candidates.grids[layer])  # (H, W)
    return candidates.rows[layer][index.flatten()].view(1, *index.shape, -1).permute(0, 3, 1, 2)


def _find_rows(places: Tensor, grids: Tensor) -> Tensor:
    """Return the row of each of `places`, view, row and column, (..., 3); those outside are the nearest inside."""
    first, rows, columns = grids[places[..., 0]].unbind(dim=-1)
    y, x = places[..., 1].clamp(min=0), places[..., 2].clamp(min=0)
    return first + torch.minimum(y, rows - 1) * columns + torch.minimum(x, columns - 1)


def measure_detail(columns: Tensor) -> Tensor:
    """Return the lengths of an image's columns (N, ΣC) relative to their root mean square, (N, 1): large at an eye."""
    lengths: Tensor = torch.linalg.vector_norm(columns, dim=1, keepdim=True, dtype=torch.float32)
    return lengths / lengths.square().mean().sqrt().clamp(min=SHORTEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingPlan:
    """How one scale matches."""

    weights: Mapping[str, float]
    """Of the distance to the matched features, by layer."""
    content_share: float
    """Share of the content in the query where it has the usual detail; the image has the rest."""
    style_mix: float
    """Where the targets lie between the content's features (0) and the style's (1)."""
    held: float
    """How strongly the targets keep the content's features where it has detail, 0 to 2."""
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
        """Return the features, of length 1, of the places matched with a mixture of the content and the image."""
        base, size = self.candidates.base, features[self.candidates.base].shape[-2:]
        query = compute_columns(self.content, base)  # (N, ΣC)
        detail = measure_detail(query)
        if self.plan.interval:
            own = compute_columns({layer: features[layer] for layer in self.content}, base)
            share = torch.pow(self.plan.content_share, 1 / detail.clamp(min=LEAST_DETAIL).square())
            query = own.lerp_(query, share.to(query))
        matches = find_matches(query, self.candidates, self.shares, self.check).view(size)
        matches = link_matches(query, matches, self.candidates, self.check)
        sizes = {layer: (content.shape[-2], content.shape[-1]) for layer, content in self.content.items()}
        targets = gather_targets(sizes, matches, self.candidates)
        mix = self.plan.style_mix * (MUCH_DETAIL / detail).clamp(max=1).pow(self.plan.held).view(1, 1, *size)
        for layer, content in self.content.items():
            target = targets[layer].lerp_(content.float(), 1 - _resize_maps(mix, sizes[layer]))
            target = normalize_features(target).to(content.dtype)
            targets[layer] = target.contiguous(memory_format=torch.channels_last)
        return targets
