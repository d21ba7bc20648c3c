"""The objective of one scale: targets and weights in, loss terms and the gradient with respect to the image out.

Knows the network and the losses; does not know where the targets come from or how the image is updated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from styler.objective import losses, wasserstein
from styler.objective.losses import CHROMA_CELL, Strip, chroma, coarse_chroma
from styler.objective.matching import Matching
from styler.objective.moments import Moments, compute_moments, gram_distance
from styler.objective.parts import Layout, gather_parts
from styler.objective.sums import StyleParts, StyleSlopes, StyleSums, list_tensors
from styler.objective.tiled_matching import TiledMatching
from styler.objective.tiles import Tile, Tiling, compute_tile, crop_maps, find_window
from styler.objective.wasserstein import RootTangent, WassersteinTarget
from styler.resample import Downsample
from styler.vgg.model import Check, Features

StyleTarget = Moments | WassersteinTarget
"""Moments are compared by the Gram distance, Wasserstein targets by the Wasserstein distance."""


class RegionTargets(NamedTuple):
    """The targets of a layer's regions."""

    layouts: tuple[Layout, ...]
    """The positions of each region, in each tile."""
    targets: tuple[StyleTarget, ...]
    shares: tuple[float, ...]
    """Each region's share of the picture, by which its distance is multiplied."""

    def count_positions(self, region: int) -> int:
        """Return the number of a region's positions in the whole picture."""
        return sum(len(layout.parts[region].positions) for layout in self.layouts)

    def get_weights(self, region: int) -> tuple[Tensor, float]:
        """Return the roots of the weights of a region's positions, tile by tile, (n, 1), and the sum of the weights."""
        parts = [layout.parts[region] for layout in self.layouts]
        return parts[0].roots if len(parts) == 1 else torch.cat([part.roots for part in parts]), parts[0].total


class Hold(NamedTuple):
    """How far pixels are held to the photo's: the image that counts is a mixture of the image and the photo."""

    photo: Tensor
    """(1, 3, H, W)."""
    amount: Tensor
    """Share of the photo, (1, 1, H, W) in [0, 1]."""

    def apply(self, image: Tensor) -> Tensor:
        """Return the mixture, (1, 3, H, W), in which a share of 1 gives the photo's own values."""
        return torch.lerp(image, self.photo.to(image), self.amount.to(image))


TOTAL, CONTENT, STYLE, STROKES, SMOOTHNESS, COLOR = "total", "content", "style", "strokes", "total variation", "color"
"""Names of the terms in reports; a layer follows `content`, `style` and `strokes`: `style relu4_1`."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What an image of one size is compared with."""

    content: Mapping[str, Tensor]
    """Features of the content by layer, each (1, C, H, W)."""
    style: Mapping[str, StyleTarget | RegionTargets]
    """Statistics of the style by layer."""
    color: Tensor | None = None
    """Coarse chroma to keep, (1, 2, h, w), or None to take the style's colors."""
    content_scale: Tensor | float = 1.0
    """Multiplies the content weights: how far the style's mean features are from the content's."""
    content_roots: Mapping[str, Tensor] = field(default_factory=dict)
    """Square roots of the content weights of every position by layer, each (1, 1, H, W), where positions differ; they
    replace the content weights and their scale."""
    is_content_summed: bool = False
    """Whether the content loss is the sum of the paper by Gatys et al. and not a mean."""
    matched: Mapping[str, Tensor] = field(default_factory=dict)
    """Features of the content in the layers whose features are matched with the style's."""
    roughness: float = 1.0
    """Divides the total variation: the root of the style's own, so that a soft style gives a soft picture."""
    hold: Hold | None = None
    """Holds pixels to the photo's; None if there are none to hold."""
    tiling: Tiling | None = None
    """None if the picture is one tile."""
    photo: Tensor | None = None
    """The content itself, (1, 3, H, W), with several tiles: `content` and `matched` may then be empty, and the features
    are computed again for each tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermWeights:
    """The weight of every term."""

    content: Mapping[str, float]
    """By layer."""
    style: Mapping[str, float]
    """By layer."""
    smoothness: float = 0.0
    chroma_smoothness: float = 0.0
    """Extra weight of the total variation of chroma, as a multiple of `smoothness`."""
    color: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class HalfSizeCopy:
    """The objective of the same image at half its size, added to that of the full size.

    The network's receptive field is some 200 pixels. In a large image that covers only a detail, and without this
    term the large scales would paint over the composition found at the small ones.
    """

    objective: "Objective"
    """Of the half-size image, with the same terms."""
    downsample: Downsample
    weight: float

    def add_gradient(self, image: Tensor, total: Tensor) -> dict[str, Tensor]:
        """Return the terms with their sum as `total`, and add its gradient to that of the full image.

        Args:
            image: at full size, (1, 3, H, W).
            total: the gradient so far, which is changed in place, (1, 3, H, W).
        """
        terms, gradient = self.objective.gradient(self.downsample(image))
        self.downsample.add_adjoint(total, gradient, self.weight)
        return {name: self.weight * term for name, term in terms.items()}


@dataclass(slots=True, eq=False)
class RegionRoots:
    """Tangents of the roots in the distances of regions: every evaluation computes those of one region anew.

    With several regions, their roots would take most of the time. The others have their last tangents, which serves an
    optimizer of small steps that does not compare values closely, such as Adam.
    """

    turn: int = -1
    """The number of the evaluation."""
    found: dict[tuple[str, int], RootTangent] = field(default_factory=dict)
    """By layer and region."""

    def get_tangent(
        self, place: tuple[str, int], count: int, ours: Moments, target: WassersteinTarget, *, newton_schulz: bool
    ) -> RootTangent:
        """Return the tangent of a layer's region, given their names in `place` and the number of regions."""
        if place not in self.found or self.turn % count == place[1]:
            self.found[place] = wasserstein.compute_root_tangent(ours, target, newton_schulz=newton_schulz)
        return self.found[place]


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The loss of an image of one size and its gradient."""

    features: Features
    """Must compute every layer that the targets name."""
    targets: Targets
    weights: TermWeights
    check: Check | None = None
    """Called between convolutions; stops the work by raising."""
    checkpoint: bool = False
    """Whether to trade time for memory in the backward pass."""
    newton_schulz: bool = False
    """Whether the Wasserstein distance takes its root by Newton-Schulz iteration."""
    half_size: HalfSizeCopy | None = None
    matching: Matching | TiledMatching | None = None
    """The matched features of the style; half-size copies have none, since strokes have one size."""
    roots: RegionRoots | None = None
    """None if every evaluation computes all roots."""

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """Return every weighted term of an image (1, 3, H, W), each (), without those of its half-size copy.

        Those of a picture of several tiles have no graph.
        """
        if self.targets.tiling is not None:
            return self._differentiate_tiles(image.detach(), self.targets.tiling)[0]
        return self.terms_from_features(self.features(image, self.check, checkpoint=self.checkpoint), image)

    def terms_from_features(self, features: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Return the same terms of a picture of one tile, given the features of the image by layer."""
        terms = self._compare_content(features, self.targets.content)
        terms |= self._compare_style(self._measure_style(features))
        if isinstance(self.matching, Matching):
            terms |= _name_strokes(self.matching.compute_distances(features))
        return terms | self._compare_pixels(image)

    def gradient(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the detached terms with their sum as `total`, and the gradient of the sum, (1, 3, H, W).

        The sum is multiplied by the number of values before the backward pass and the gradient divided by it after,
        in float32: the gradient of a mean over many pixels would underflow in float16. That of a summed content loss
        would overflow, so it is multiplied by less, as far as the sum is above 1. The half-size copy is evaluated
        after the backward pass of the full size, so that the two do not share memory. Where pixels are held to the
        photo's, the image that counts depends less on the given one, and so does the gradient.

        A picture of several tiles needs the memory of one tile's window, in two passes; see `tiles`.
        """
        hold = self.targets.hold
        if hold is None:
            return self._differentiate(image)
        terms, gradient = self._differentiate(hold.apply(image.detach()))
        return terms, gradient.mul_(1 - hold.amount.to(gradient))

    def _differentiate(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms and the gradient with respect to the image that counts."""
        if self.targets.tiling is None:
            terms, gradient = self._differentiate_whole(image.detach())
        else:
            terms, gradient = self._differentiate_tiles(image.detach(), self.targets.tiling)
        total = torch.stack(list(terms.values())).sum()
        terms[TOTAL] = total
        if self.half_size is None:
            return terms, gradient
        half_size_terms = self.half_size.add_gradient(image.detach(), gradient)
        return {name: term + half_size_terms.get(name, 0) for name, term in terms.items()}, gradient

    def _differentiate_whole(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms and the gradient of a picture of one tile, in one pass."""
        image.requires_grad_()
        terms = self.terms_from_features(self.features(image, self.check, checkpoint=self.checkpoint), image)
        total = torch.stack(list(terms.values())).sum()
        scale = self._scale_loss(image, total.detach())
        (gradient,) = torch.autograd.grad(total * scale, image)
        return {name: term.detach() for name, term in terms.items()}, gradient / scale

    def _scale_loss(self, image: Tensor, total: Tensor) -> Tensor | int:
        """Return by what the loss is multiplied before the backward pass; see `gradient`."""
        return image.numel() / total.clamp(min=1) if self.targets.is_content_summed else image.numel()

    def _differentiate_tiles(self, image: Tensor, tiling: Tiling) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms and the gradient of a picture of several tiles, in two passes."""
        if isinstance(self.matching, TiledMatching):
            self.matching.update(image)
        sums, content = self._sum_tiles(image, tiling)
        pixels, gradient = self._differentiate_pixels(image)
        whole = sums.join()
        style = self._compare_style(whole)
        known = [term.to(image.device) for term in (*content.values(), *style.values(), *pixels.values())]
        total = torch.stack([*known, image.new_zeros(())]).sum()
        scale = self._scale_loss(image, total.detach())
        tensors = [tensor for part in whole.values() for tensor in list_tensors(part)]
        slopes: Sequence[Tensor | None] = [None] * len(tensors)
        if total.requires_grad:
            slopes = torch.autograd.grad(total * scale, tensors, allow_unused=True)
        slopes_of_style, local = sums.divide(whole, slopes), dict[str, Tensor]()
        gradient.mul_(scale)
        for number, tile in enumerate(tiling.tiles):
            own = self._differentiate_tile(image, tile, number, slopes_of_style, scale, local)
            find_window(self.features, image, tile).cut(gradient).add_(own.to(gradient.device))
        strokes = {name: term for name, term in local.items() if name.startswith(STROKES)}
        terms = {name: term for name, term in local.items() if name not in strokes} | style | strokes | pixels
        return {name: term.detach().to(image.device) for name, term in terms.items()}, gradient.div_(scale)

    def _differentiate_pixels(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of the image itself, (1, 3, H, W), and their gradient, made strip by strip."""
        terms, gradient = dict[str, Tensor](), torch.zeros_like(image)
        for strip in losses.split_rows((image.shape[-2], image.shape[-1])):
            rows = slice(strip.top, strip.bottom + 1)  # and the row below
            part = image[..., rows, :].detach().requires_grad_()
            own = self._compare_pixels(part, strip)
            if own:
                gradient[..., rows, :] += torch.autograd.grad(torch.stack([*own.values()]).sum(), part)[0]
            _add_terms(terms, {name: term.detach() for name, term in own.items()})
        return terms, gradient

    @torch.no_grad()
    def _sum_tiles(self, image: Tensor, tiling: Tiling) -> tuple[StyleSums, dict[str, Tensor]]:
        """Return the statistics of the whole picture, and its content terms if the loss is scaled by them."""
        sums, content = StyleSums(), dict[str, Tensor]()
        for number, tile in enumerate(tiling.tiles):
            features = compute_tile(self.features, image, tile, self.check)
            sums.add(self._measure_style(features, number))
            if self.targets.is_content_summed:
                _add_terms(content, self._compare_content(features, self._compute_photo(tile), tile))
        return sums, content

    def _differentiate_tile(
        self, image: Tensor, tile: Tile, number: int, slopes: StyleSlopes, scale: Tensor | int, local: dict[str, Tensor]
    ) -> Tensor:
        """Return the gradient of a tile's parts of all sums with respect to its window, (1, 3, h, w), times `scale`.

        The terms that are sums over positions are added to `local`.
        """
        photo, window = self._compute_photo(tile), find_window(self.features, image, tile)
        part = window.cut(image).to(self.features.device).requires_grad_()
        maps = self.features(part, self.check, checkpoint=self.checkpoint)
        features = crop_maps(self.features, maps, tile, window)
        terms = self._compare_content(features, photo, tile)
        if isinstance(self.matching, TiledMatching):
            terms |= _name_strokes(self.matching.compute_distances(features, photo, tile))
        pairs = slopes.pair(self._measure_style(features, number, is_measured=False))
        pairs += [(term, torch.ones_like(term) * scale) for term in terms.values()]
        _add_terms(local, {name: term.detach() for name, term in terms.items()})
        if not pairs:
            return torch.zeros_like(part)
        (gradient,) = torch.autograd.grad([each for each, _ in pairs], part, [slope for _, slope in pairs])
        return gradient

    def _compute_photo(self, tile: Tile) -> dict[str, Tensor]:
        """Return the features of the photo in a tile that the image is compared with."""
        layers, targets = {*self._content_layers, *(self.matching.plan.weights if self.matching else ())}, self.targets
        kept = {**targets.matched, **targets.content}
        if layers <= kept.keys():
            strides = self.features.strides
            return {layer: tile.cut(kept[layer], strides[layer]) for layer in layers}
        assert targets.photo is not None, "a picture of several tiles needs the photo"
        return compute_tile(self.features.select(layers), targets.photo, tile, self.check)

    @property
    def _content_layers(self) -> tuple[str, ...]:
        """The layers whose content counts."""
        return tuple(self.targets.content_roots or self.weights.content)

    def _compare_content(
        self, features: Mapping[str, Tensor], content: Mapping[str, Tensor], tile: Tile | None = None
    ) -> dict[str, Tensor]:
        """Return the content terms of a picture, or what a tile adds to them.

        Args:
            features: of the picture or the tile, by layer.
            content: those of the photo.
            tile: None for the whole picture.
        """
        targets, weights, terms = self.targets, self.weights, dict[str, Tensor]()
        compare = losses.content_sum if targets.is_content_summed else losses.content_loss
        for layer in self._content_layers if tile else targets.content:
            roots, share = targets.content_roots.get(layer), 1.0
            if tile and targets.tiling:
                stride = self.features.strides[layer]
                roots = None if roots is None else tile.cut(roots, stride)
                if not targets.is_content_summed:
                    share = tile.count(stride) / targets.tiling.count(stride)
            distance = compare(features[layer], content[layer], roots)
            distance = distance if share == 1 else share * distance
            if roots is None:
                distance = weights.content[layer] * targets.content_scale * distance
            terms[f"{CONTENT} {layer}"] = distance
        return terms

    def _compare_pixels(self, image: Tensor, strip: Strip | None = None) -> dict[str, Tensor]:
        """Return the terms of the image itself, (1, 3, H, W), or what a strip of it and the row below adds to them."""
        targets, weights, terms = self.targets, self.weights, dict[str, Tensor]()
        if weights.smoothness:
            weight = weights.smoothness / targets.roughness
            terms[SMOOTHNESS] = weight * losses.total_variation(image, strip)
            if weights.chroma_smoothness:
                variation = losses.total_variation(chroma(image), strip)
                terms[SMOOTHNESS] = terms[SMOOTHNESS] + weights.chroma_smoothness * weight * variation
        if targets.color is not None:
            color = own = targets.color.to(image)
            if strip:
                image = image[..., : strip.rows, :]
                own = color[..., strip.top // CHROMA_CELL : math.ceil(strip.bottom / CHROMA_CELL), :]
            terms[COLOR] = weights.color * (coarse_chroma(image) - own).square().sum() / color.numel()
        return terms

    def _measure_style(self, features: Mapping[str, Tensor], tile: int = 0, *, is_measured: bool = True) -> StyleParts:
        """Return what the distances of style are computed from, or what a tile adds to it.

        Args:
            features: of the picture or the tile, by layer.
            tile: its number.
            is_measured: false if only the gradient is needed.
        """
        found: StyleParts = {}
        for layer, target in self.targets.style.items():
            maps = features[layer]
            if not isinstance(target, RegionTargets):
                total = self._count_positions(layer, maps)
                is_few = _takes_features(target, total, maps)
                found[layer, 0] = maps if is_few else compute_moments(maps, total, is_measured=is_measured)
                continue
            layout = target.layouts[tile]
            for region, own in enumerate(gather_parts(maps, layout)):
                if not own.shape[-1]:
                    continue  # the tile has no positions of the region
                if _takes_features(target.targets[region], target.count_positions(region), own):
                    found[layer, region] = own
                else:
                    found[layer, region] = layout.parts[region].compute_moments(own, is_measured=is_measured)
        return found

    def _count_positions(self, layer: str, maps: Tensor) -> int:
        """Return the number of positions of a layer in the whole picture, given its maps in one tile."""
        tiling = self.targets.tiling
        return tiling.count(self.features.strides[layer]) if tiling else maps.shape[-2] * maps.shape[-1]

    def _compare_style(self, parts: StyleParts) -> dict[str, Tensor]:
        """Return the terms of style, given the statistics of the whole picture."""
        if self.roots:
            self.roots.turn += 1
        terms: dict[str, Tensor] = {}
        for layer, target in self.targets.style.items():
            if isinstance(target, RegionTargets):
                distances = [
                    share * self._compare_region(layer, region, parts[layer, region], target)
                    for region, share in enumerate(target.shares)
                ]
                distance = torch.stack(distances).sum()
            else:
                distance = self._compare(parts[layer, 0], target)
            terms[f"{STYLE} {layer}"] = self.weights.style[layer] * distance
        return terms

    def _compare(
        self,
        ours: Moments | Tensor,
        target: StyleTarget,
        weights: tuple[Tensor, float] | None = None,
        tangent: RootTangent | None = None,
    ) -> Tensor:
        """Return the distance of statistics, or of the features of few positions with `weights`, to a target, ()."""
        if isinstance(target, Moments):
            assert isinstance(ours, Moments)
            return gram_distance(ours, target)
        if isinstance(ours, Moments):
            return wasserstein.wasserstein_distance(ours, target, newton_schulz=self.newton_schulz, tangent=tangent)
        return wasserstein.wasserstein_distance_of_few_positions(
            ours, target, weights, newton_schulz=self.newton_schulz
        )

    def _compare_region(self, layer: str, region: int, ours: Moments | Tensor, regions: RegionTargets) -> Tensor:
        """Return the distance of a region to its target, ()."""
        target, tangent = regions.targets[region], None
        if not isinstance(ours, Moments):
            return self._compare(ours, target, regions.get_weights(region))
        if self.roots is not None and not isinstance(target, Moments):
            place, count = (layer, region), len(regions.targets)
            tangent = self.roots.get_tangent(place, count, ours, target, newton_schulz=self.newton_schulz)
        return self._compare(ours, target, tangent=tangent)


def _takes_features(target: StyleTarget, total: int, maps: Tensor) -> bool:
    """Return whether a distance is computed from features: of `total` positions, fewer than the maps have channels."""
    return not isinstance(target, Moments) and total < maps.shape[1]


def _name_strokes(distances: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{STROKES} {layer}": distance for layer, distance in distances.items()}


def _add_terms(total: dict[str, Tensor], terms: Mapping[str, Tensor]) -> None:
    """Add terms to those of the tiles before."""
    for name, term in terms.items():
        total[name] = total[name] + term if name in total else term
