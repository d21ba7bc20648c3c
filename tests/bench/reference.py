"""Reference A: the schedule of the best-looking peer, K. Crowson's style-transfer-pytorch, after its description.

Long sides of the scales round(end / 2^(i/2)) while ≥ 128; Adam with rate 0.02 and betas (0.9, 0.99), clamped to [0,
1] after each step; 1000 steps at the first scale and 500 at each next; moments resized and carried over; the moving
average of the picture (0.99, bias-corrected, restarted per scale) is what counts. Its objective J: content 0.015 at
relu4_2, Gaussian Wasserstein style at relu1_1 … relu5_1 weighing 256 : 64 : 16 : 4 : 1, total variation 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.engine import losses
from styler.engine.objective import TOTAL, Objective, Targets, TermWeights
from styler.vgg.model import Features

STYLE_WEIGHTS = {"relu1_1": 256.0, "relu2_1": 64.0, "relu3_1": 16.0, "relu4_1": 4.0, "relu5_1": 1.0}
CONTENT_WEIGHTS = {"relu4_2": 0.015}
LAYERS = (*STYLE_WEIGHTS, *CONTENT_WEIGHTS)
SMOOTHNESS = 2.0
FIRST_STEPS, NEXT_STEPS = 1000, 500


@dataclass(frozen=True)
class Report:
    """Where the reference stands: work so far in units, and the picture it would deliver, (1, 3, H, W)."""

    units: float
    image: Tensor
    at_end_scale: bool


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, antialiased."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def fitted(image: Tensor, long_side: int, *, upwards: bool = True) -> Tensor:
    """The image with the given long side."""
    height, width = image.shape[-2:]
    ratio = long_side / max(height, width)
    if ratio >= 1 and not upwards:
        return image
    return resize(image, (max(1, round(height * ratio)), max(1, round(width * ratio))))


def objective(features: Features, content: Tensor, style: Tensor) -> Objective:
    """J for a content of the picture's size and a style (1, 3, H, W)."""
    with torch.no_grad():
        statistics = {
            layer: losses.compute_moments(maps) for layer, maps in features(style).items() if layer in STYLE_WEIGHTS
        }
        targets = Targets(
            {layer: features(content)[layer] for layer in CONTENT_WEIGHTS},
            {layer: losses.prepare_wasserstein_target(statistics[layer]) for layer in STYLE_WEIGHTS},
        )
    total = sum(STYLE_WEIGHTS.values())
    shares = {layer: weight / total for layer, weight in STYLE_WEIGHTS.items()}
    return Objective(features, targets, TermWeights(content=CONTENT_WEIGHTS, style=shares, smoothness=SMOOTHNESS))


def scales(end: int) -> list[int]:
    """Long sides, first to last."""
    found: list[int] = []
    i = 0
    while (side := round(end / 2 ** (i / 2))) >= 128:
        found.insert(0, side)
        i += 1
    return found


def paint(features: Features, content: Tensor, style: Tensor, end: int, every: int = 25) -> Iterator[Report]:
    """Paint as Reference A does, reporting every so many steps.

    Args:
        features: the network, with at least `LAYERS`.
        content: (1, 3, H, W) at its own size, RGB in [0, 1].
        style: likewise.
        end: long side of the result.
        every: steps between reports.
    """
    image = first = second = None
    units, step_all = 0.0, 0
    end_area = fitted(content, end).shape[-2:].numel()
    for side in scales(end):
        target = fitted(content, side)
        size = (target.shape[-2], target.shape[-1])
        j = objective(features, target, fitted(style, side, upwards=False))
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


def value(j: Objective, image: Tensor) -> float:
    """J of a picture."""
    with torch.no_grad():
        return float(torch.stack(list(j.terms(image).values())).sum())


__all__ = ["LAYERS", "TOTAL", "Report", "fitted", "objective", "paint", "resize", "scales", "value"]
