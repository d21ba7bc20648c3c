"""`vgg diagnose`: what each layer sees of a content, a style and a result, and what pulls at the result.

Names gradients that vanish or explode, channels that are dead or saturated, and a network that was loaded with the
wrong normalisation or order of channels (`styler.vgg.conventions`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler.engine import losses
from styler.engine.objective import Objective
from styler.engine.targets import (
    SourceImage,
    StyleCache,
    compute_targets,
    compute_term_weights,
    resolve_content_layers,
    resolve_style_layers,
)
from styler.options import Options
from styler.resample import resize
from styler.vgg import conventions
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop import plots

VANISHING, EXPLODING = 1e-4, 1e4
"""A term's gradient below or above so many times the median of all terms is named."""
SATURATED = 20.0
"""A channel is saturated whose mean activation is so many times what it is over natural pictures."""
SHOWN_MAPS = 3
"""Activation maps of each layer in the sheet: of the channels that differ most between style and content."""
GRAM_SIDE = 64
"""Channels of a Gram matrix in the sheet, at most."""


@dataclass(frozen=True, slots=True)
class LayerDiagnosis:
    """What one layer sees."""

    name: str
    similarity: Mapping[str, float]
    """Cosine of the features of two pictures, by pair: `content/style`, `result/content`, …"""
    dead: int
    """Channels that fire nowhere in any of the pictures."""
    saturated: int
    channels: int


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """All that was found."""

    layers: tuple[LayerDiagnosis, ...]
    gradients: Mapping[str, float]
    """Norm of each weighted term's gradient to the picture, times the number of values."""
    problems: tuple[str, ...]
    """Sentences; empty when nothing is wrong."""
    convention: str
    sheet: Image.Image


def diagnose_network(
    weights: Weights,
    sure: Weights,
    content: Tensor,
    style: Tensor,
    result: Tensor | None = None,
    options: Options | None = None,
) -> Diagnosis:
    """Look at pictures through a network.

    Args:
        weights: the network.
        sure: the embedded one, which is beyond doubt.
        content: (1, 3, H, W); all pictures are brought to its size.
        style: likewise.
        result: a painted picture; the content where there is none.
        options: the objective; styler's own when not given.
    """
    options = options or Options()
    height, width = content.shape[-2:]
    pictures = {"content": content, "style": resize(style, width, height)}
    if result is not None:
        pictures["result"] = resize(result, width, height)
    features = Features(weights, weights.layers, weights.pooling or options.pooling)
    with torch.no_grad():
        seen = {name: features(picture) for name, picture in pictures.items()}
    layers = tuple(
        _diagnose_layer(layer, {name: maps[layer] for name, maps in seen.items()}) for layer in features.layers
    )
    gradients = _measure_gradients(weights, pictures, content, style, options.replace(pooling=features.pooling))
    verdict = conventions.check_convention(weights, sure, pictures.values())
    convention = "" if weights.sha256 == sure.sha256 else verdict.sentence
    problems = [*_find_layer_problems(layers), *_find_gradient_problems(gradients)]
    if verdict.mistakes or verdict.best < conventions.MIN_AGREEMENT:
        problems.insert(0, verdict.sentence)
    return Diagnosis(
        layers, gradients, tuple(problems), convention, _draw_sheet(pictures, seen, options, weights.network)
    )


def _diagnose_layer(name: str, maps: Mapping[str, Tensor]) -> LayerDiagnosis:
    names = list(maps)
    pairs = [(b, a) for i, a in enumerate(names) for b in names[i + 1 :]]
    similarity = {
        f"{b}/{a}": float(torch.cosine_similarity(maps[a].flatten(), maps[b].flatten(), dim=0)) for b, a in pairs
    }
    means = torch.stack([found.abs().mean(dim=(0, 2, 3)) for found in maps.values()])  # (pictures, C)
    dead = int((means.amax(dim=0) == 0).sum())
    saturated = int((means.amax(dim=0) > SATURATED).sum())
    return LayerDiagnosis(name, similarity, dead, saturated, means.shape[1])


def _measure_gradients(
    weights: Weights, pictures: Mapping[str, Tensor], content: Tensor, style: Tensor, options: Options
) -> dict[str, float]:
    """Norm of each term's gradient to the result, or to the content without one."""
    network = weights.network
    wanted = (*resolve_content_layers(options, network), *resolve_style_layers(options, network))
    features = Features(weights, wanted, options.pooling)
    size = (content.shape[-1], content.shape[-2])
    targets = compute_targets(features, SourceImage.of(content), [SourceImage.of(style)], size, options, StyleCache())
    objective = Objective(features, targets, compute_term_weights(options, network))
    image = pictures.get("result", pictures["content"]).detach().clone().requires_grad_()
    terms = objective.terms(image)
    return {
        name: float(torch.autograd.grad(term, image, retain_graph=True)[0].norm()) * image.numel() ** 0.5
        for name, term in terms.items()
    }


def _find_layer_problems(layers: Sequence[LayerDiagnosis]) -> list[str]:
    found = []
    for layer in layers:
        if layer.dead > layer.channels / 2:
            found.append(
                f"{layer.name} is dead: {layer.dead} of its {layer.channels} channels fire nowhere; the weights are "
                "damaged or the normalisation is wrong."
            )
        if layer.saturated > layer.channels / 4:
            found.append(
                f"{layer.name} is saturated: {layer.saturated} of its {layer.channels} channels are beyond "
                f"{SATURATED:g} times their usual mean; the normalisation is wrong or the network is not rescaled."
            )
    return found


def _find_gradient_problems(gradients: Mapping[str, float]) -> list[str]:
    alive = sorted(norm for norm in gradients.values() if norm > 0)
    if not alive:
        return ["No term pulls at the picture: content, style and picture are the same, or the network is dead."]
    median = alive[len(alive) // 2]
    found = []
    for name, norm in gradients.items():
        if not np.isfinite(norm) or norm > EXPLODING * median:
            found.append(f"The gradient of {name} explodes ({norm:.1e}, the median is {median:.1e}); lower its weight.")
        elif 0 < norm < VANISHING * median:
            found.append(f"The gradient of {name} vanishes ({norm:.1e}, the median is {median:.1e}); raise its weight.")
    return found


def _draw_sheet(
    pictures: Mapping[str, Tensor], seen: Mapping[str, Mapping[str, Tensor]], options: Options, network: str
) -> Image.Image:
    """The pictures; for each style layer the maps that tell content and style apart, and the Gram matrices."""
    rows: list[tuple[str, list[tuple[str, NDArray[np.uint8]]]]] = [
        ("pictures", [(name, _pixels(picture)) for name, picture in pictures.items()])
    ]
    for layer in resolve_style_layers(options, network):
        maps = {name: found[layer] for name, found in seen.items() if layer in found}
        if not maps:
            continue
        means = {name: found.mean(dim=(0, 2, 3)) for name, found in maps.items()}
        apart = (means["style"] - means["content"]).abs()
        cells = [
            (f"{name}, channel {channel}", plots.map_heat(found[0, channel].numpy()))
            for channel in apart.topk(min(SHOWN_MAPS, len(apart))).indices.tolist()
            for name, found in maps.items()
        ]
        for name, found in maps.items():
            gram = losses.compute_moments(found).second[:GRAM_SIDE, :GRAM_SIDE]
            cells.append((f"Gram, {name}", plots.map_heat(gram.abs().add(1e-6).log().numpy())))
        rows.append((layer, cells))
    return plots.draw_sheet(rows, 112)


def _pixels(picture: Tensor) -> NDArray[np.uint8]:
    return np.asarray((picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())


def diagnosis_to_json(found: Diagnosis) -> dict[str, object]:
    """Everything but the sheet, for JSON."""
    layers = [asdict(layer) for layer in found.layers]
    return {"layers": layers, "gradients": dict(found.gradients), "problems": list(found.problems)}
