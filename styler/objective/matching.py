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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from styler.objective.candidates import (
    PROJECTED_ROWS,
    Candidates,
    Maps,
    compute_columns,
    find_rows,
    gather_features,
    normalize_columns,
    resize_maps,
)
from styler.objective.losses import SHORTEST, cosine_distance, normalize_features
from styler.vgg.model import Check

FINALISTS = 12
"""Candidates for each query that are compared exactly; on MPS `topk` returns at most 16."""
MAX_SCORES = 1 << 22
"""Comparisons made at once, so that they take little memory."""
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


class MatchedRegions(NamedTuple):
    """What the places of the image may take, where styles have regions of their own."""

    places: tuple[Tensor, ...]
    """The places of each region on the grid of the base layer, row by row, (n,); each place is in one region."""
    styles: tuple[tuple[int, ...], ...]
    """The styles of each region."""
    shares: tuple[Tensor, ...]
    """Of these styles, with the sum 1, (S,)."""
    allowed: Tensor
    """Whether a place may take candidates of a style, (h · w, all styles)."""
    released: Tensor | None
    """How far a place may leave the content's features, (1, 1, h, w) in [0, 1]; None for everywhere entirely."""

    def label_places(self) -> Tensor:
        """Return the number of the region of each place, (h · w,)."""
        numbers = torch.cat([torch.full_like(places, number) for number, places in enumerate(self.places)])
        return numbers[torch.cat(self.places).argsort()]


def find_matches(
    queries: Tensor,
    candidates: Candidates,
    shares: Tensor | None = None,
    check: Check | None = None,
    styles: Sequence[int] | None = None,
) -> Tensor:
    """Return the index of the candidate most similar to each query, by the cosine of their columns, (N,).

    Args:
        queries: (N, ΣC).
        candidates: K of them.
        shares: of the places that each style gets, with the sum 1, (S,); not needed for one style.
        check: called between chunks; stops the work by raising.
        styles: those whose candidates may be taken; None for all.
    """
    chosen_from = range(len(candidates.counts)) if styles is None else styles
    found = [find_best(queries, candidates, style, check) for style in chosen_from]
    if len(found) == 1 or shares is None:
        return found[0][0]
    chosen = choose_styles(torch.stack([cosines for _, cosines in found], dim=1), shares)  # (N,)
    return torch.stack([matches for matches, _ in found], dim=1).gather(1, chosen[:, None])[:, 0]


def find_best(queries: Tensor, candidates: Candidates, style: int, check: Check | None = None) -> tuple[Tensor, Tensor]:
    """Return the best match of each query (N, ΣC) among the candidates of one style, and its cosine, each (N,)."""
    first, count = sum(candidates.counts[:style]), candidates.counts[style]
    columns, codes, basis = candidates.columns[first : first + count], candidates.codes[style], candidates.basis
    matches, cosines = [], []
    for part in torch.split(queries, max(1, MAX_SCORES // codes[..., 0].numel())):
        if check:
            check()
        chunk = normalize_columns(part)  # (n, ΣC)
        finalists = _find_finalists((chunk @ basis).to(codes), codes) % len(columns)  # (n, F)
        similarities = (columns[finalists].float() * chunk[:, None]).sum(dim=2)  # (n, F)
        cosine, winner = similarities.max(dim=1)
        matches.append(finalists.gather(1, winner[:, None])[:, 0])
        cosines.append(cosine)
    return torch.cat(matches) + first, torch.cat(cosines)


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
    index = candidates.indices[find_rows(torch.stack([view, y, x], dim=-1), grid)]
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
        (candidates.columns[part.clamp(min=0)].float() * normalize_columns(rows)).sum(dim=1)
        for rows, part in zip(torch.split(queries, PROJECTED_ROWS), torch.split(indices, PROJECTED_ROWS), strict=True)
    ]
    return torch.where(indices < 0, -math.inf, torch.cat(cosines))


def gather_targets(
    sizes: Mapping[str, tuple[int, int]], matches: Tensor, candidates: Candidates, allowed: Tensor | None = None
) -> dict[str, Tensor]:
    """Return each layer's features at the matched places of the styles, (1, C, H, W), in float32.

    Args:
        sizes: height and width of each matched layer in the image.
        matches: indices of candidates on the grid of the base layer, (h, w).
        candidates: the places of the styles.
        allowed: whether a place may take candidates of a style, (h · w, S); None if it may take all.
    """
    return average_features(sizes, overlap_matches(matches, candidates, allowed), candidates)


def overlap_matches(matches: Tensor, candidates: Candidates, allowed: Tensor | None = None) -> list[Tensor]:
    """Return the candidates that overlap at each place: its own match, and what continues its neighbors' matches.

    Where a neighbor has none, the own match counts again. Args: see `gather_targets`.

    Source: V. Kwatra et al., "Texture Optimization for Example-based Synthesis", 2005, section 3.
    """
    continued = [continue_matches(matches, candidates, *step) for step in NEIGHBORS]
    if allowed is not None:
        continued = [_drop_others(each, candidates, allowed) for each in continued]
    return [matches, *(torch.where(each < 0, matches, each) for each in continued)]


def average_features(
    sizes: Mapping[str, tuple[int, int]], overlapping: Sequence[Tensor], candidates: Candidates
) -> dict[str, Tensor]:
    """Return the mean features of candidates that overlap, each (h, w), by layer, (1, C, H, W), in float32."""
    targets = {}
    for layer, size in sizes.items():
        total = gather_features(layer, size, overlapping[0], candidates).float()
        for each in overlapping[1:]:
            total += gather_features(layer, size, each, candidates)
        targets[layer] = total.div_(len(overlapping))
    return targets


def _drop_others(matches: Tensor, candidates: Candidates, allowed: Tensor) -> Tensor:
    """Replace the indices of candidates (h, w) of styles that a place may not take, (h · w, S), by -1."""
    styles = candidates.styles[matches.clamp(min=0)].view(-1, 1)  # (h · w, 1)
    return torch.where(allowed.gather(1, styles).view(matches.shape), matches, -1)


def measure_detail(columns: Tensor) -> Tensor:
    """Return the lengths of an image's columns (N, ΣC) relative to their root mean square, (N, 1): large at an eye."""
    return relate_lengths(torch.linalg.vector_norm(columns, dim=1, keepdim=True, dtype=torch.float32))


def relate_lengths(lengths: Tensor) -> Tensor:
    """Return lengths relative to the root mean square of all of them."""
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

    def share_query(self, detail: Tensor) -> Tensor:
        """Return the content's share of the query, given the detail of each place; of the same shape."""
        return torch.pow(self.content_share, 1 / detail.clamp(min=LEAST_DETAIL).square())

    def mix_style(self, detail: Tensor, regions: MatchedRegions | None) -> Tensor:
        """Return the style's share of the target, given the detail of each place, (1, 1, h, w); of the same shape."""
        mix = self.style_mix * (MUCH_DETAIL / detail).clamp(max=1).pow(self.held)
        return mix if regions is None or regions.released is None else mix * regions.released


class Matches(NamedTuple):
    """What was found for all places."""

    indices: Tensor
    """Of candidates on the grid of the base layer, (h, w)."""
    mix: Tensor
    """The style's share of the target at each place, (1, 1, h, w)."""


def mix_target(style: Tensor, content: Tensor, mix: Tensor) -> Tensor:
    """Return the target of a layer, of length 1 at every position, in the type of the content's features.

    Args:
        style: features of the style at the matched places, (1, C, H, W), in float32; they are overwritten.
        content: those of the content.
        mix: the style's share, (1, 1, H, W).
    """
    target = normalize_features(style.lerp_(content.float(), 1 - mix)).to(content.dtype)
    return target.contiguous(memory_format=torch.channels_last)


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
    regions: MatchedRegions | None = None
    """None if all places may take candidates of all styles."""
    found: Matches | None = field(default=None, init=False)
    """Those of the last time."""
    evaluations: int = field(default=0, init=False)
    _targets: dict[str, Tensor] = field(default_factory=dict, init=False)

    def compute_distances(self, features: Maps) -> dict[str, Tensor]:
        """Return the weighted distance of each matched layer to its target, each ()."""
        interval = self.plan.interval
        if self.evaluations % interval == 0 if interval else not self._targets:
            self._targets = self._find_targets(features)
        self.evaluations += 1
        return {
            layer: weight * cosine_distance(features[layer], self._targets[layer])
            for layer, weight in self.plan.weights.items()
        }

    @torch.no_grad()
    def restore(self, evaluations: int, matches: Tensor) -> None:
        """Go on as after that many evaluations, the last of which to match had found `matches`, (h, w)."""
        detail = measure_detail(self._compute_columns(self.content)).view(1, 1, *matches.shape)
        self.evaluations, self.found = evaluations, Matches(matches, self.plan.mix_style(detail, self.regions))
        self._targets = self._make_targets(self.found)

    @torch.no_grad()
    def _find_targets(self, features: Maps) -> dict[str, Tensor]:
        """Return the features, of length 1, of the places matched with a mixture of the content and the image."""
        self.found = self._match(features)
        return self._make_targets(self.found)

    def _make_targets(self, found: Matches) -> dict[str, Tensor]:
        """Return the features of the matches, mixed with the content's."""
        sizes = {layer: (content.shape[-2], content.shape[-1]) for layer, content in self.content.items()}
        allowed = None if self.regions is None else self.regions.allowed
        targets = gather_targets(sizes, found.indices, self.candidates, allowed)
        for layer, content in self.content.items():
            targets[layer] = mix_target(targets[layer], content, resize_maps(found.mix, sizes[layer]))
        return targets

    def _match(self, features: Maps) -> Matches:
        """Match all places of the image."""
        size = features[self.candidates.base].shape[-2:]
        query = self._compute_columns(self.content)  # (N, ΣC)
        detail = measure_detail(query)
        if self.plan.interval:
            own = self._compute_columns({layer: features[layer] for layer in self.content})
            query = own.lerp_(query, self.plan.share_query(detail).to(query))
        matches = self._find_matches(query).view(size)
        matches = link_matches(query, matches, self.candidates, self.check)
        return Matches(matches, self.plan.mix_style(detail.view(1, 1, *size), self.regions))

    def _compute_columns(self, maps: Maps) -> Tensor:
        """Return the columns of an image, (N, ΣC), those of each region centered by its own mean."""
        if self.regions is None:
            return compute_columns(maps, self.candidates.base)
        parts = [compute_columns(maps, self.candidates.base, places) for places in self.regions.places]
        return torch.cat(parts)[torch.cat(self.regions.places).argsort()]

    def _find_matches(self, query: Tensor) -> Tensor:
        """Return the matches of all places, (N,), each with a style of its region."""
        if self.regions is None:
            return find_matches(query, self.candidates, self.shares, self.check)
        places, styles, shares, *_ = self.regions
        found = [
            find_matches(query[where], self.candidates, share, self.check, own)
            for where, own, share in zip(places, styles, shares, strict=True)
        ]
        return torch.cat(found)[torch.cat(places).argsort()]
