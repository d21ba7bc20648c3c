"""What is minimised at one scale: the targets, the weights, and the gradient to the picture.

Knows the network and the losses; does not know where targets come from or how the picture is moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from styler.engine import losses
from styler.engine.losses import Moments, WassersteinTarget, chroma, coarse_chroma
from styler.resample import Downsample
from styler.vgg.model import Check, Features

StyleTarget = Moments | WassersteinTarget
"""Moments are compared by the Gram distance, Wasserstein targets by theirs."""

TOTAL, CONTENT, STYLE, SMOOTHNESS, COLOR = "total", "content", "style", "total variation", "color"
"""Names of the terms in reports; a style term is followed by its layer, `style relu4_1`."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a picture of one size is compared with."""

    content: Mapping[str, Tensor]
    """Features of the content, by layer, each (1, C, H, W)."""
    style: Mapping[str, StyleTarget]
    """Statistics of the style, by layer."""
    color: Tensor | None = None
    """Coarse chroma of the content, (1, 2, h, w), or None when the style's colours are wanted."""
    content_scale: Tensor | float = 1.0
    """What the content's weight is multiplied by: how far the style's colours and textures are from the content's."""
    roughness: float = 1.0
    """What the total variation is divided by: the root of the style's own. A soft painting is painted softly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermWeights:
    """How much each term counts."""

    content: Mapping[str, float]
    style: Mapping[str, float]
    smoothness: float = 0.0
    chroma_smoothness: float = 0.0
    """How much more the total variation of chroma counts, beside that of all colours."""
    color: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class HalfSizeCopy:
    """The same picture made half as large, which is looked at too.

    The network sees some 200 pixels at a time. In a large picture that is a detail, and what was found at smaller
    scales would be painted over.
    """

    objective: "Objective"
    """Of the smaller picture, with the same terms."""
    reduction: Downsample
    weight: float

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """Every weighted term of the smaller picture."""
        return {name: self.weight * term for name, term in self.objective.terms(self.reduction(image)).items()}

    def gradient(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Terms and their sum as `total`, and its gradient to the larger picture, (1, 3, H, W)."""
        terms, gradient = self.objective.gradient(self.reduction(image))
        return {n: self.weight * term for n, term in terms.items()}, self.weight * self.reduction.adjoint(gradient)


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The loss of a picture and its gradient.

    Args:
        features: the network; it must give every layer the targets name.
        targets: what to compare with, of the picture's size.
        weighting: one weight per term.
        check: called between convolutions; stops the work by raising.
        checkpoint: trade time for memory in the backward pass.
        newton_schulz: how the Wasserstein distance takes its root.
        octave: the smaller picture whose terms are added, if any.
    """

    features: Features
    targets: Targets
    weighting: TermWeights
    check: Check | None = None
    checkpoint: bool = False
    newton_schulz: bool = False
    octave: HalfSizeCopy | None = None

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """Every weighted term of a picture (1, 3, H, W), each ()."""
        terms = self.terms_of(self.features(image, self.check, checkpoint=self.checkpoint), image)
        return _add_terms(terms, self.octave.terms(image)) if self.octave else terms

    def terms_of(self, found: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Every weighted term of a picture (1, 3, H, W) whose features were found already; of no other octave."""
        terms: dict[str, Tensor] = {}
        for layer, target in self.targets.content.items():
            weight = self.weighting.content[layer] * self.targets.content_scale
            terms[f"{CONTENT} {layer}"] = weight * losses.content_loss(found[layer], target)
        for layer, style in self.targets.style.items():
            terms[f"{STYLE} {layer}"] = self.weighting.style[layer] * self._style(found[layer], style)
        if self.weighting.smoothness:
            weight = self.weighting.smoothness / self.targets.roughness
            terms[SMOOTHNESS] = weight * losses.total_variation(image)
            if self.weighting.chroma_smoothness:
                grain = losses.total_variation(chroma(image))
                terms[SMOOTHNESS] = terms[SMOOTHNESS] + self.weighting.chroma_smoothness * weight * grain
        if self.targets.color is not None:
            apart = coarse_chroma(image) - self.targets.color
            terms[COLOR] = self.weighting.color * apart.square().mean()
        return terms

    def gradient(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of a picture, detached, with their sum as `total`; and the sum's gradient, (1, 3, H, W).

        The sum is multiplied by the number of values before the backward pass and the gradient divided by it after,
        in float32: the gradient of a mean over many pixels would underflow in float16. One octave is done before the
        next begins, so that they do not share the memory.
        """
        image = image.detach().requires_grad_()
        terms = self.terms_of(self.features(image, self.check, checkpoint=self.checkpoint), image)
        total = torch.stack(list(terms.values())).sum()
        (gradient,) = torch.autograd.grad(total * image.numel(), image)
        found, gradient = {name: term.detach() for name, term in terms.items()}, gradient / image.numel()
        found[TOTAL] = total.detach()
        if self.octave is None:
            return found, gradient
        coarser, pull = self.octave.gradient(image.detach())
        return _add_terms(found, coarser), gradient + pull

    def _style(self, features: Tensor, target: StyleTarget) -> Tensor:
        if isinstance(target, Moments):
            return losses.gram_distance(losses.compute_moments(features), target)
        _, channels, height, width = features.shape
        if height * width < channels:
            return losses.wasserstein_distance_of_few_positions(features, target, newton_schulz=self.newton_schulz)
        return losses.wasserstein_distance(losses.compute_moments(features), target, newton_schulz=self.newton_schulz)


def _add_terms(terms: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: term + others[name] for name, term in terms.items()}
