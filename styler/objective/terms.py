"""The objective of one scale: targets and weights in, loss terms and the gradient with respect to the image out.

Knows the network and the losses; does not know where the targets come from or how the image is updated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from styler.objective import losses, wasserstein
from styler.objective.losses import chroma, coarse_chroma
from styler.objective.matching import Matching
from styler.objective.moments import Moments, compute_moments, gram_distance
from styler.objective.parts import Layout, gather_parts
from styler.objective.wasserstein import RootTangent, WassersteinTarget
from styler.resample import Downsample
from styler.vgg.model import Check, Features

StyleTarget = Moments | WassersteinTarget
"""Moments are compared by the Gram distance, Wasserstein targets by the Wasserstein distance."""


class RegionTargets(NamedTuple):
    """The targets of a layer's regions."""

    layout: Layout
    """The positions of each region."""
    targets: tuple[StyleTarget, ...]
    shares: tuple[float, ...]
    """Each region's share of the picture, by which its distance is multiplied."""


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

    def gradient(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms with their sum as `total`, and its gradient with respect to the full image, (1, 3, H, W)."""
        terms, gradient = self.objective.gradient(self.downsample(image))
        terms = {name: self.weight * term for name, term in terms.items()}
        return terms, self.weight * self.downsample.adjoint(gradient)


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
    matching: Matching | None = None
    """The matched features of the style; half-size copies have none, since strokes have one size."""
    roots: RegionRoots | None = None
    """None if every evaluation computes all roots."""

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """Return every weighted term of an image (1, 3, H, W), each (), without those of its half-size copy."""
        return self.terms_from_features(self.features(image, self.check, checkpoint=self.checkpoint), image)

    def terms_from_features(self, features: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Return the same terms, given the features of the image by layer."""
        targets, weights = self.targets, self.weights
        if self.roots:
            self.roots.turn += 1
        content_loss = losses.content_sum if targets.is_content_summed else losses.content_loss
        terms: dict[str, Tensor] = {}
        for layer, content in targets.content.items():
            if (roots := targets.content_roots.get(layer)) is not None:
                terms[f"{CONTENT} {layer}"] = content_loss(features[layer], content, roots)
            else:
                weight = weights.content[layer] * targets.content_scale
                terms[f"{CONTENT} {layer}"] = weight * content_loss(features[layer], content)
        for layer, style in targets.style.items():
            terms[f"{STYLE} {layer}"] = weights.style[layer] * self._compute_style_distance(
                layer, features[layer], style
            )
        if self.matching is not None:
            distances = self.matching.compute_distances(features)
            terms |= {f"{STROKES} {layer}": distance for layer, distance in distances.items()}
        if weights.smoothness:
            weight = weights.smoothness / targets.roughness
            terms[SMOOTHNESS] = weight * losses.total_variation(image)
            if weights.chroma_smoothness:
                variation = losses.total_variation(chroma(image))
                terms[SMOOTHNESS] = terms[SMOOTHNESS] + weights.chroma_smoothness * weight * variation
        if targets.color is not None:
            terms[COLOR] = weights.color * (coarse_chroma(image) - targets.color).square().mean()
        return terms

    def gradient(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the detached terms with their sum as `total`, and the gradient of the sum, (1, 3, H, W).

        The sum is multiplied by the number of values before the backward pass and the gradient divided by it after,
        in float32: the gradient of a mean over many pixels would underflow in float16. That of a summed content loss
        would overflow, so it is multiplied by less, as far as the sum is above 1. The half-size copy is evaluated
        after the backward pass of the full size, so that the two do not share memory. Where pixels are held to the
        photo's, the image that counts depends less on the given one, and so does the gradient.
        """
        hold = self.targets.hold
        if hold is None:
            return self._differentiate(image)
        terms, gradient = self._differentiate(hold.apply(image.detach()))
        return terms, gradient * (1 - hold.amount)

    def _differentiate(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms and the gradient with respect to the image that counts."""
        image = image.detach().requires_grad_()
        terms = self.terms(image)
        total = torch.stack(list(terms.values())).sum()
        scale: Tensor | int = image.numel()
        if self.targets.is_content_summed:
            scale = image.numel() / total.detach().clamp(min=1)
        (gradient,) = torch.autograd.grad(total * scale, image)
        terms, gradient = {name: term.detach() for name, term in terms.items()}, gradient / scale
        terms[TOTAL] = total.detach()
        if self.half_size is None:
            return terms, gradient
        half_size_terms, half_size_gradient = self.half_size.gradient(image.detach())
        terms = {name: term + half_size_terms.get(name, 0) for name, term in terms.items()}
        return terms, gradient + half_size_gradient

    def _compute_style_distance(self, layer: str, features: Tensor, target: StyleTarget | RegionTargets) -> Tensor:
        if isinstance(target, RegionTargets):
            parts = gather_parts(features, target.layout)
            distances = [
                share * self._compare(layer, region, parts, target) for region, share in enumerate(target.shares)
            ]
            return torch.stack(distances).sum()
        if isinstance(target, Moments):
            return gram_distance(compute_moments(features), target)
        if wasserstein.has_few_positions(features):
            return wasserstein.wasserstein_distance_of_few_positions(features, target, newton_schulz=self.newton_schulz)
        return wasserstein.wasserstein_distance(compute_moments(features), target, newton_schulz=self.newton_schulz)

    def _compare(self, layer: str, region: int, parts: Sequence[Tensor], regions: RegionTargets) -> Tensor:
        """Return the distance of the features of a region, one of `parts`, to their target, ()."""
        features, part, target = parts[region], regions.layout.parts[region], regions.targets[region]
        newton_schulz, tangent = self.newton_schulz, None
        if not isinstance(target, Moments) and wasserstein.has_few_positions(features):
            weights = (part.roots, part.total)
            return wasserstein.wasserstein_distance_of_few_positions(
                features, target, weights, newton_schulz=newton_schulz
            )
        ours = part.compute_moments(features)
        if isinstance(target, Moments):
            return gram_distance(ours, target)
        if self.roots is not None:
            place = (layer, region)
            tangent = self.roots.get_tangent(place, len(parts), ours, target, newton_schulz=newton_schulz)
        return wasserstein.wasserstein_distance(ours, target, newton_schulz=newton_schulz, tangent=tangent)
