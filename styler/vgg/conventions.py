"""Does a network see pictures as it was trained to? Told by how it sees beside one that surely does.

A network loaded with its channels in the wrong order, or without the normalisation it was trained with, still gives
features and still paints, only badly: the commonest mistake in the field, and no error. Two networks that were trained
to tell the same pictures apart see them alike, however; so the picture is changed in every way that such a mistake
would change it, and the way in which the two agree best is the one that the network was trained for.

Agreement is linear centred kernel alignment: Kornblith et al., "Similarity of Neural Network Representations
Revisited", ICML 2019.

Knows networks and pictures; does not know files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from styler.resample import resize
from styler.vgg import arch
from styler.vgg.model import Features
from styler.vgg.weights import IMAGENET_MEAN_RGB, Weights, fold_convention

COMPARED_LAYERS = ("relu2_1", "relu3_1")
COMPARED_SIDE = 96
"""Short side at which pictures are compared, in pixels."""
MARGIN = 0.01
"""Another way must agree better by so much before a network is called misread."""
TIE = 0.004
"""Ways that agree so nearly alike are not told apart: the one with the fewest mistakes is meant."""
MIN_AGREEMENT = 0.25
"""Below this agreement a network is not one that was trained on photographs of things."""
WRONG_ORDER = "its channels are in the wrong order: RGB and BGR are swapped"
TOO_SMALL = "it wants pictures in 0 to 255 and is given 0 to 1"
TOO_LARGE = "it wants pictures in 0 to 1 and is given 0 to 255"
NO_MEAN = "the mean colour that it was trained without is not subtracted"
MEAN_TWICE = "the mean colour is subtracted twice"


@dataclass(frozen=True, slots=True)
class ConventionVerdict:
    """What a comparison found."""

    agreement: float
    """With the embedded network, as it was loaded, 0 to 1."""
    best: float
    """In the way that agrees best."""
    mistakes: tuple[str, ...]
    """What was done wrong, if anything."""

    @property
    def sentence(self) -> str:
        """For a person."""
        seen = f"It agrees to {self.agreement:.2f} with the embedded network"
        if self.best < MIN_AGREEMENT:
            return f"{seen}, whatever the convention: this is no network trained on photographs, or it is damaged."
        if not self.mistakes:
            return f"{seen}: order of channels and normalisation are right."
        return (
            f"{seen}, but would to {self.best:.2f} if it were loaded otherwise: {' and '.join(self.mistakes)}; "
            "import it with another --convention."
        )


def check_convention(weights: Weights, sure: Weights, pictures: Iterable[Tensor]) -> ConventionVerdict:
    """Look for mistakes in how a network was loaded.

    Args:
        weights: the network in doubt.
        sure: one that is beyond it: the embedded one.
        pictures: a few colourful ones, each (1, 3, H, W).
    """
    looked = [_shrink(picture) for picture in pictures]
    theirs = _collect_features(sure, looked)
    mean = torch.tensor(IMAGENET_MEAN_RGB).reshape(1, 3, 1, 1)
    found: dict[tuple[str, ...], float] = {}
    for swapped in (False, True):
        for scale, wrong_scale in ((1.0, ""), (255.0, TOO_SMALL), (1 / 255, TOO_LARGE)):
            for shift, wrong_mean in ((0.0, ""), (-1.0, NO_MEAN), (1.0, MEAN_TWICE)):
                changed = [(x + shift * mean) * scale for x in looked]
                changed = [x.flip(1) for x in changed] if swapped else changed
                mistakes = (WRONG_ORDER if swapped else "", wrong_scale, wrong_mean)
                found[tuple(filter(None, mistakes))] = measure_agreement(_collect_features(weights, changed), theirs)
    most = max(found.values())
    best = min((way for way in found if found[way] >= most - TIE), key=len)
    if found[best] < found[()] + MARGIN:
        best = ()
    return ConventionVerdict(found[()], found[best], best)


def guess_convention(network: str, kernels: Mapping[str, Tensor], sure: Weights, pictures: Iterable[Tensor]) -> str:
    """The convention, of those styler knows, in which a network agrees best with one that is surely right."""
    looked = [_shrink(picture) for picture in pictures]
    theirs = _collect_features(sure, looked)
    found = {}
    for convention in ("caffe", "torchvision", "rgb"):
        first = fold_convention(kernels["conv1_1.weight"], kernels["conv1_1.bias"], convention)
        read = {**kernels, "conv1_1.weight": first[0], "conv1_1.bias": first[1]}
        found[convention] = measure_agreement(_collect_features(Weights(network, "", read, {}, {}), looked), theirs)
    return max(found, key=lambda convention: found[convention])


def measure_agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Linear centred kernel alignment of two networks' layers, each (N, C), the mean over layers: 0 to 1."""
    found = []
    for a, b in zip(ours, theirs, strict=True):
        x, y = (t - t.mean(dim=0) for t in (a.double(), b.double()))
        together = (x.T @ y).square().sum()
        apart = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
        found.append(float(together / apart.clamp(min=1e-30)))
    return sum(found) / len(found)


@torch.no_grad()
def _collect_features(weights: Weights, pictures: Iterable[Tensor]) -> list[Tensor]:
    """Features of all positions of all pictures, by layer, each (N, C)."""
    layers = [arch.nearest_layer(layer, weights.network) for layer in COMPARED_LAYERS]
    features = Features(weights, layers, weights.pooling or "max")
    maps = [features(picture) for picture in pictures]
    return [torch.cat([found[layer][0].flatten(1).T for found in maps]) for layer in features.layers]


def _shrink(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    ratio = COMPARED_SIDE / min(height, width)
    return resize(picture, round(width * ratio), round(height * ratio))
