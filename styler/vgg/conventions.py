"""Detect whether a network receives images as it was trained to, by comparing it with the embedded one.

A network loaded with its channels in the wrong order, or without the normalization it was trained with, still gives
features and still paints, but badly: it is the most common mistake in the field, and no error reveals it. But two
networks trained to classify the same images compute similar features of them; so the images are changed in every way in
which such a mistake would change them, and the way that agrees best is the one that the network was trained for.

Agreement is linear centered kernel alignment: Kornblith et al., "Similarity of Neural Network Representations
Revisited", ICML 2019.

This module knows networks and images; it does not know files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from styler.resample import resize
from styler.vgg import arch
from styler.vgg.model import Features
from styler.vgg.weights import IMAGENET_MEAN_RGB, Weights, fold_convention

CONVENTIONS = ("caffe", "torchvision", "rgb")
COMPARED_LAYERS = ("relu2_1", "relu3_1")
COMPARED_SIDE = 96
"""Short side, in pixels, at which images are compared."""
MARGIN = 0.01
"""Another convention must agree better by this much before the loaded one is considered wrong."""
TIE = 0.004
"""Of conventions whose agreements differ by less, the one with the fewest mistakes is chosen."""
MIN_AGREEMENT = 0.25
"""Below this agreement a network was not trained on photographs."""
WRONG_ORDER = "its channels are in the wrong order: RGB and BGR are swapped"
TOO_SMALL = "it expects values from 0 to 255 and receives 0 to 1"
TOO_LARGE = "it expects values from 0 to 1 and receives 0 to 255"
NO_MEAN = "the mean color of its training images is not subtracted"
MEAN_TWICE = "the mean color is subtracted twice"


@dataclass(frozen=True, slots=True)
class ConventionVerdict:
    """The result of a comparison."""

    agreement: float
    """Agreement with the embedded network as loaded, 0 to 1."""
    best: float
    """Agreement under the convention that agrees best."""
    mistakes: tuple[str, ...]
    """The mistakes made in loading it; empty if there are none."""

    @property
    def sentence(self) -> str:
        """The verdict as a sentence for the user."""
        agreement = f"Its agreement with the embedded network is {self.agreement:.2f}"
        if self.best < MIN_AGREEMENT:
            return f"{agreement} under any convention: it was not trained on photographs, or it is damaged."
        if not self.mistakes:
            return f"{agreement}: channel order and normalization are correct."
        return (
            f"{agreement}, and would be {self.best:.2f} under another convention: {' and '.join(self.mistakes)}; "
            "import it with another --convention."
        )


def check_convention(weights: Weights, reference: Weights, images: Iterable[Tensor]) -> ConventionVerdict:
    """Find mistakes in how a network was loaded.

    Args:
        reference: a network whose convention is known: the embedded one.
        images: a few colorful ones, each (1, 3, H, W).
    """
    shrunk = [_shrink(image) for image in images]
    theirs = _collect_features(reference, shrunk)
    mean = torch.tensor(IMAGENET_MEAN_RGB).reshape(1, 3, 1, 1)
    orders = ((False, ""), (True, WRONG_ORDER))
    scales = ((1.0, ""), (255.0, TOO_SMALL), (1 / 255, TOO_LARGE))
    shifts = ((0.0, ""), (-1.0, NO_MEAN), (1.0, MEAN_TWICE))
    agreements: dict[tuple[str, ...], float] = {}
    for (swapped, wrong_order), (scale, wrong_scale), (shift, wrong_mean) in product(orders, scales, shifts):
        changed = [(x + shift * mean) * scale for x in shrunk]
        changed = [x.flip(1) for x in changed] if swapped else changed
        mistakes = tuple(filter(None, (wrong_order, wrong_scale, wrong_mean)))
        agreements[mistakes] = measure_agreement(_collect_features(weights, changed), theirs)
    highest = max(agreements.values())
    best = min((mistakes for mistakes in agreements if agreements[mistakes] >= highest - TIE), key=len)
    if agreements[best] < agreements[()] + MARGIN:
        best = ()
    return ConventionVerdict(agreements[()], agreements[best], best)


def guess_convention(network: str, kernels: Mapping[str, Tensor], reference: Weights, images: Iterable[Tensor]) -> str:
    """Return the convention under which a network agrees best with the reference."""
    shrunk = [_shrink(image) for image in images]
    theirs = _collect_features(reference, shrunk)

    def measure(convention: str) -> float:
        weights = Weights(network, "", fold_convention(kernels, convention), {}, {})
        return measure_agreement(_collect_features(weights, shrunk), theirs)

    return max(CONVENTIONS, key=measure)


def measure_agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the linear centered kernel alignment of layers, each (N, C), averaged over layers: 0 to 1."""
    alignments = []
    for a, b in zip(ours, theirs, strict=True):
        x, y = (t - t.mean(dim=0) for t in (a.double(), b.double()))
        joint = (x.T @ y).square().sum()
        norms = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
        alignments.append(float(joint / norms.clamp(min=1e-30)))
    return sum(alignments) / len(alignments)


@torch.no_grad()
def _collect_features(weights: Weights, images: Iterable[Tensor]) -> list[Tensor]:
    """Return the features at all positions of all images, by layer, each (N, C)."""
    layers = [arch.find_nearest_layer(layer, weights.network) for layer in COMPARED_LAYERS]
    features = Features(weights, layers, weights.pooling or "max")
    outputs = [features(image) for image in images]
    return [torch.cat([maps[layer][0].flatten(1).T for maps in outputs]) for layer in features.layers]


def _shrink(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    ratio = COMPARED_SIDE / min(height, width)
    return resize(image, round(width * ratio), round(height * ratio))
