"""What a slim network learns from: states of small paintings in the making, and what the full network makes of them.

A lesson is a picture, the full network's features of it, and how the objective pulls at them: the pull at the features
and the gradient it gives the picture. Paintings move along gradients, and two networks whose features are close can
still disagree about those: hence the pull is taught, not the features alone.

Knows the full network and the objective; does not know the slim network.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from styler.objective import Objective
from styler.options import Options
from styler.targets import Source, StyleCache, compute, content_layers, style_layers, weighting
from styler.vgg import crops
from styler.vgg.features import Features
from styler.vgg.weights import Weights

SIDE = 128
"""Of a small painting, in pixels: what one value of relu5_1 sees."""
STEPS = 16
"""Of Adam, in each painting."""
TAKEN = (0, 4, 9, 15)
"""The steps before which a lesson is taken."""
RATES = (0.06, 0.015)
"""Adam's first and last: so far down after these steps that it is nearly a painting."""
KEPT = 160
"""Paintings kept in memory, about 20 MB each."""


class Lesson(NamedTuple):
    """One state; everything but the picture is of half precision, on the CPU."""

    image: Tensor
    """(1, 3, H, W)."""
    features: Mapping[str, Tensor]
    """By layer, (1, C, H, W)."""
    pull: Mapping[str, Tensor]
    """The objective's gradient to the features, in units that give `gradient` a mean square of 1."""
    gradient: Tensor
    """What the pull at these layers gives the picture, (1, 3, H, W)."""


class Lessons:
    """Lessons by number, made when first asked for; the same ones for the same seed.

    Args:
        teacher: the full network.
        pictures: to crop contents and styles from, each (1, 3, H, W).
        pooling: of the network.
        layers: those to teach: the ones that the slim network does not have whole.
        seed: of the crops.
        device: where the teacher runs.
    """

    def __init__(
        self,
        teacher: Weights,
        pictures: Sequence[Tensor],
        pooling: str,
        layers: Sequence[str],
        seed: int,
        device: torch.device,
    ) -> None:
        self.options = Options(pooling=pooling)
        wanted = (
            *content_layers(self.options, teacher.network),
            *style_layers(self.options, teacher.network),
        )
        self.features = Features(teacher, wanted, pooling).to(device)
        self.layers = [layer for layer in self.features.layers if layer in layers]
        self.pictures, self.seed = pictures, seed
        self._kept: OrderedDict[int, list[Lesson]] = OrderedDict()

    def lesson(self, number: int) -> Lesson:
        """The lesson of that number, from 0; four come from each small painting."""
        painting, taken = divmod(number, len(TAKEN))
        if painting not in self._kept:
            self._kept[painting] = self._paint(painting)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[painting][taken]

    def _paint(self, number: int) -> list[Lesson]:
        """Paint for a few steps and take notes."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        content, style = (Source.of(crops.crop(self.pictures, SIDE, generator)) for _ in range(2))
        targets = compute(self.features, content, [style], (SIDE, SIDE), self.options, StyleCache())
        objective = Objective(self.features, targets, weighting(self.options, self.features.network))
        image = content.image.to(self.features.device)
        first, second = torch.zeros_like(image), torch.zeros_like(image)
        found = []
        for step in range(STEPS):
            gradient, lesson = self._look(objective, image)
            if step in TAKEN:
                found.append(lesson)
            first, second = first.lerp(gradient, 0.1), second.lerp(gradient.square(), 0.01)
            adam = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12)
            rate = RATES[0] * (RATES[1] / RATES[0]) ** (step / (STEPS - 1))
            image = (image - rate * adam).clamp(0, 1)
        return found

    def _look(self, objective: Objective, image: Tensor) -> tuple[Tensor, Lesson]:
        """The objective's gradient at a picture, and the lesson in it."""
        image = image.detach().requires_grad_()
        maps = self.features(image)
        total = torch.stack(list(objective.terms_of(maps, image).values())).sum()
        inner = torch.autograd.grad(total, [maps[layer] for layer in self.features.layers], retain_graph=True)
        pull = dict(zip(self.features.layers, inner, strict=True))
        pulls = [pull[layer] for layer in self.layers]
        (taught,) = torch.autograd.grad([maps[layer] for layer in self.layers], image, pulls, retain_graph=True)
        (whole,) = torch.autograd.grad(total, image)
        unit = 1 / taught.square().mean().sqrt().clamp(min=1e-20)
        return whole, Lesson(
            image.detach().cpu(),
            {layer: maps[layer].detach().half().cpu() for layer in self.layers},
            {layer: (unit * pull[layer]).half().cpu() for layer in self.layers},
            (unit * taught).half().cpu(),
        )
