"""Reference A: the schedule of K. Crowson's style-transfer-pytorch, the best-looking peer, after its description.

The scales have long sides round(end / 2^(i/2)) ≥ 128. Adam has rate 0.02 and betas (0.9, 0.99); the image is clamped to
[0, 1] after each step. There are 1000 steps at the first scale and 500 at each next one; Adam's moments are resized and
carried over. The result is the moving average of the image (0.99, bias-corrected, restarted per scale).

The objective J has content 0.015 at relu4_2, Gaussian Wasserstein style at relu1_1 … relu5_1 weighted
256 : 64 : 16 : 4 : 1, and total variation 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.objective.moments import compute_moments
from styler.objective.terms import Objective, Targets, TermWeights
from styler.objective.wasserstein import prepare_wasserstein_target
from styler.vgg.model import Features

STYLE_WEIGHTS = {"relu1_1": 256.0, "relu2_1": 64.0, "relu3_1": 16.0, "relu4_1": 4.0, "relu5_1": 1.0}
CONTENT_WEIGHTS = {"relu4_2": 0.015}
SMOOTHNESS = 2.0
FIRST_STEPS, NEXT_STEPS = 1000, 500


@dataclass(frozen=True)
class Report:
    """State of the reference: work so far in units, and its current result, (1, 3, H, W)."""

    units: float
    image: Tensor
    at_end_scale: bool


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to (height, width), bicubic and antialiased."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def fit_size(image: Tensor, long_side: int, *, upwards: bool = True) -> Tensor:
    """Resize an image to the given long side."""
    height, width = image.shape[-2:]
    ratio = long_side / max(height, width)
    if ratio >= 1 and not upwards:
        return image
    return resize(image, (max(1, round(height * ratio)), max(1, round(width * ratio))))


def build_objective(features: Features, content: Tensor, style: Tensor) -> Objective:
    """Build J for a content of the picture's size and a style, both (1, 3, H, W)."""
    with torch.no_grad():
        statistics = {layer: compute_moments(maps) for layer, maps in features(style).items() if layer in STYLE_WEIGHTS}
        targets = Targets(
            {layer: features(content)[layer] for layer in CONTENT_WEIGHTS},
            {layer: prepare_wasserstein_target(statistics[layer]) for layer in STYLE_WEIGHTS},
        )
    total = sum(STYLE_WEIGHTS.values())
    shares = {layer: weight / total for layer, weight in STYLE_WEIGHTS.items()}
    return Objective(features, targets, TermWeights(content=CONTENT_WEIGHTS, style=shares, smoothness=SMOOTHNESS))


def list_scales(end: int) -> list[int]:
    """Return the long sides of the scales, first to last."""
    sides: list[int] = []
    while (side := round(end / 2 ** (len(sides) / 2))) >= 128:
        sides.append(side)
    return sides[::-1]


def paint(features: Features, content: Tensor, style: Tensor, end: int, every: int = 25) -> Iterator[Report]:
    """Paint with the schedule of Reference A and report every so many steps.

    Args:
        features: the network, with at least the layers of `STYLE_WEIGHTS` and `CONTENT_WEIGHTS`.
        content: (1, 3, H, W) at its own size, RGB in [0, 1].
        style: the same.
        end: long side of the result.
        every: steps between reports.
    """
    image = first = second = None
    units, step_all = 0.0, 0
    end_area = fit_size(content, end).shape[-2:].numel()
    for side in list_scales(end):
        target = fit_size(content, side)
        size = (target.shape[-2], target.shape[-1])
        j = build_objective(features, target, fit_size(style, side, upwards=False))
        if image is None or first is None or second is None:
            image, first, second = target.clone(), torch.zeros_like(target), torch.zeros_like(target)
        else:
            image, first = resize(image, size), F.interpolate(first, size, mode="bicubic")
            second = F.interpolate(second, size, mode="bilinear").clamp(min=0)
        average, steps = torch.zeros_like(image), NEXT_STEPS if step_all else FIRST_STEPS
        for step in range(1, steps + 1):
            step_all += 1
            _, gradient = j.gradient(image)
            first, second = first.lerp(gradient, 0.1), second.lerp(gradient.square(), 0.01)
            direction = (first / (1 - 0.9**step_all)) / ((second / (1 - 0.99**step_all)).sqrt() + 1e-8)
            image = (image - 0.02 * direction).clamp(0, 1)
            average = average.lerp(image, 0.01)
            units += target.shape[-2:].numel() / end_area
            if step % every == 0 or step == steps:
                yield Report(units, average / (1 - 0.99**step), side == end)
        image = average / (1 - 0.99**steps)


def evaluate(j: Objective, image: Tensor) -> float:
    """Evaluate J at an image."""
    with torch.no_grad():
        return float(torch.stack(list(j.terms(image).values())).sum())
