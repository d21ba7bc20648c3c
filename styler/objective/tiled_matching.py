"""Matched features of a picture in tiles: the same matches and targets as `matching` finds for a whole one.

What is kept of the whole picture are numbers for each place of the base layer: the match, the detail and shares. All
features are those of one tile at a time: its columns when matches are found, and its target when it is painted. Linking
reaches no further than one place in each of its turns, so a tile's matches are linked exactly if those of so many
places around it are known.

Knows features and positions only: no options or files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from styler.objective.candidates import Candidates, Maps, resize_maps
from styler.objective.losses import cosine_distance
from styler.objective.matching import (
    LINKING_ROUNDS,
    MatchedRegions,
    Matches,
    MatchingPlan,
    average_features,
    choose_styles,
    find_best,
    find_matches,
    link_matches,
    mix_target,
    overlap_matches,
    relate_lengths,
)
from styler.objective.tiled_columns import TiledColumns
from styler.objective.tiles import Tile

LINKED_PLACES = 2 * LINKING_ROUNDS
"""Places around a tile on which its linked matches depend: one for each turn of both colors. It is even, so that places
keep their color in a tile."""


class Places(NamedTuple):
    """The places of a tile that may take candidates of a style."""

    style: int
    inside: Tensor
    """Among those of the tile, row by row, (n,)."""
    whole: Tensor
    """Among those of the picture, (n,)."""


@dataclass(slots=True, eq=False)
class TiledMatching:
    """The matched features of one scale, found again from time to time while the image changes."""

    plan: MatchingPlan
    candidates: Candidates
    shares: Tensor | None
    """Of the styles, (S,); None for one style."""
    content: TiledColumns
    """Of the photo."""
    regions: MatchedRegions | None = None
    """None if all places may take candidates of all styles."""
    places: Sequence[Sequence[Places]] = ()
    """Of each tile, what it may take, where there are several styles; see `list_places`."""
    found: Matches | None = field(default=None, init=False)
    """Those of the last time."""
    evaluations: int = field(default=0, init=False)
    _detail: Tensor | None = field(default=None, init=False)
    _mixes: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def stride(self) -> int:
        """Pixels per place."""
        return self.content.stride

    def update(self, image: Tensor) -> None:
        """Find the matches of an image (1, 3, H, W) again, if it is time; to be called once for each evaluation."""
        interval = self.plan.interval
        if self.evaluations % interval == 0 if interval else self.found is None:
            self.keep(self._match(image))
        self.evaluations += 1

    @torch.no_grad()
    def restore(self, evaluations: int, matches: Tensor) -> None:
        """Go on as after that many evaluations, the last of which to match had found `matches`, (h, w)."""
        self.evaluations, self._detail = evaluations, self._measure_detail()
        self.keep(Matches(matches, self.plan.mix_style(self._detail[None, None], self.regions)))

    def keep(self, found: Matches) -> None:
        """Keep matches until they are found again."""
        self.found = found
        (height, width), strides = self.content.tiling.size, self.content.features.strides
        self._mixes = {
            layer: resize_maps(found.mix, (height // strides[layer], width // strides[layer]))
            for layer in self.plan.weights
        }

    def compute_distances(self, features: Maps, content: Maps, tile: Tile) -> dict[str, Tensor]:
        """Return what a tile adds to the weighted distance of each matched layer to its target, each ().

        Args:
            features: of the image in the tile.
            content: of the photo in the tile.
            tile: one of the tiling's.
        """
        targets, tiling, strides = self._make_targets(content, tile), self.content.tiling, self.content.features.strides
        return {
            layer: weight
            * (tile.count(strides[layer]) / tiling.count(strides[layer]))
            * cosine_distance(features[layer], targets[layer])
            for layer, weight in self.plan.weights.items()
        }

    @torch.no_grad()
    def _make_targets(self, content: Maps, tile: Tile) -> dict[str, Tensor]:
        """Return the features, of length 1, of the matched places of a tile, by layer."""
        assert self.found is not None, "`update` comes first"
        stride, strides = self.stride, self.content.features.strides
        outer = tile.grow(stride, self.content.tiling.size)  # the neighbors, whose matches are continued
        allowed = None
        if self.regions is not None:
            grid = self.regions.allowed.T.view(-1, *self.content.size)  # (S, h, w)
            allowed = outer.cut(grid, stride).flatten(1).T
        overlapping = overlap_matches(outer.cut(self.found.indices, stride), self.candidates, allowed)
        own = [tile.within(outer).cut(each, stride) for each in overlapping]
        sizes = {layer: (content[layer].shape[-2], content[layer].shape[-1]) for layer in self.plan.weights}
        return {
            layer: mix_target(style, content[layer], tile.cut(self._mixes[layer], strides[layer]))
            for layer, style in average_features(sizes, own, self.candidates).items()
        }

    @torch.no_grad()
    def _match(self, image: Tensor) -> Matches:
        """Match all places of an image."""
        known, (height, width) = self.content, self.content.size
        if self._detail is None:
            self._detail = self._measure_detail()
        own = None
        if self.plan.interval:
            count = 1 if self.regions is None else len(self.regions.places)
            own = TiledColumns.of(known.features, image, known.tiling, known.base, known.check, known.labels, count)
        chosen = self._choose(own) if self.places else None
        linked = torch.empty((height, width), dtype=torch.long, device=self._detail.device)
        for tile in known.tiling.tiles:
            outer = tile.grow(LINKED_PLACES * self.stride, known.tiling.size)
            queries, places = self._mix_queries(own, outer), outer.reduce(self.stride)
            if chosen is None:
                shape = (places.bottom - places.top, places.right - places.left)
                matches = find_matches(queries, self.candidates, None, known.check).view(shape)
            else:
                matches = outer.cut(chosen, self.stride)
            matches = link_matches(queries, matches, self.candidates, known.check)
            tile.cut(linked, self.stride).copy_(tile.within(outer).cut(matches, self.stride))
        return Matches(linked, self.plan.mix_style(self._detail[None, None], self.regions))

    def _measure_detail(self) -> Tensor:
        """Return the detail of the photo at each place, (h, w)."""
        lengths = torch.empty(self.content.size, dtype=torch.float32, device=self.content.features.device)
        for tile in self.content.tiling.tiles:
            part = tile.cut(lengths, self.stride)
            columns = self.content.compute(tile)
            part.copy_(torch.linalg.vector_norm(columns, dim=1, dtype=torch.float32).view(part.shape))
        return relate_lengths(lengths)

    def _mix_queries(self, own: TiledColumns | None, tile: Tile) -> Tensor:
        """Return the queries of a tile, (n, ΣC): mixtures of its columns in the photo and in the image, if given."""
        assert self._detail is not None
        query = self.content.compute(tile)
        if own is None:
            return query
        detail = tile.cut(self._detail, self.stride).flatten()[:, None]
        return own.compute(tile).lerp_(query, self.plan.share_query(detail).to(query))

    def _choose(self, own: TiledColumns | None) -> Tensor:
        """Return the best match of each place in one of the styles that it may take, chosen by their shares, (h, w)."""
        shape = (len(self.candidates.counts), math.prod(self.content.size))
        matches = torch.zeros(shape, dtype=torch.long, device=self.content.features.device)
        cosines = torch.zeros(shape, dtype=torch.float32, device=self.content.features.device)
        for tile, styles in zip(self.content.tiling.tiles, self.places, strict=True):
            queries = self._mix_queries(own, tile)
            for style, inside, places in styles:
                query = queries.index_select(0, inside)
                best, cosine = find_best(query, self.candidates, style, self.content.check)
                matches[style].index_copy_(0, places, best)
                cosines[style].index_copy_(0, places, cosine)
        chosen = self._choose_styles(cosines.T)  # (N,)
        return matches.gather(0, chosen[None])[0].view(self.content.size)

    def _choose_styles(self, cosines: Tensor) -> Tensor:
        """Return the style of each place, (N,), given the cosine of its best match in each, (N, S)."""
        if self.regions is None:
            assert self.shares is not None
            return choose_styles(cosines, self.shares)
        chosen = torch.zeros_like(cosines[:, 0], dtype=torch.long)
        for places, styles, shares in zip(*self.regions[:3], strict=True):
            among = choose_styles(
                torch.stack([cosines[:, style].index_select(0, places) for style in styles], dim=1), shares
            )
            numbers = torch.full_like(among, styles[0])
            for index, style in enumerate(styles):
                numbers = torch.where(among == index, style, numbers)
            chosen.index_copy_(0, places, numbers)
        return chosen


def list_places(content: TiledColumns, count: int, regions: MatchedRegions | None) -> list[list[Places]]:
    """Return for each tile the styles, of `count`, of which its places may take candidates, and these places.

    Empty for one style that all places may take.
    """
    if count == 1 and regions is None:
        return []
    device, size, found = content.features.device, content.size, list[list[Places]]()
    grid = torch.arange(math.prod(size), device=device).view(size)
    for tile in content.tiling.tiles:
        places = tile.cut(grid, content.stride).flatten()
        found.append([])
        for style in range(count):
            inside = torch.arange(len(places), device=device)
            if regions is not None:
                inside = inside[regions.allowed[places, style]]
            if len(inside):
                found[-1].append(Places(style, inside, places[inside]))
    return found
