"""`vgg diagnose`: what each layer sees in a content, a style and a result, and which terms drive the result.

It reports gradients that vanish or explode, channels that are dead or saturated, and a network that was loaded with
the wrong normalization or channel order (`styler.vgg.conventions`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler.engine.targets import resolve_style_layers
from styler.objective.moments import compute_moments
from styler.options import Options
from styler.resample import resize
from styler.vgg import conventions
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop.objectives import build_features, build_objective

VANISHING, EXPLODING = 1e-4, 1e4
"""A term's gradient below or above these multiples of the median over terms is reported."""
SATURATED = 20.0
"""A channel is saturated if its mean activation exceeds this multiple of that over natural images."""
SHOWN_MAPS = 3
"""Activation maps of each layer in the sheet: those of the channels that differ most between style and content."""
GRAM_SIDE = 64
"""Maximum number of channels of a Gram matrix in the sheet."""

SheetRow = tuple[str, list[tuple[str, NDArray[np.float32]]]]
"""A label, and titled images: RGB (H, W, 3) in [0, 1], or values (H, W) to be drawn as a heat map."""


@dataclass(frozen=True, slots=True)
class LayerDiagnosis:
    """What one layer sees."""

    name: str
    similarity: Mapping[str, float]
    """Cosine of the features of two pictures, by pair: `style/content`, `result/content`, …"""
    dead: int
    """Channels that are zero everywhere in all pictures."""
    saturated: int
    channels: int


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """The results of a diagnosis."""

    layers: tuple[LayerDiagnosis, ...]
    gradients: Mapping[str, float]
    """Norm of each weighted term's gradient to the picture, times the square root of its number of values."""
    problems: tuple[str, ...]
    """Sentences; empty if there are no problems."""
    convention: str
    """The verdict on how the network receives its input; empty for the embedded network."""
    sheet: tuple[SheetRow, ...]
    """The pictures, and for each style layer activation maps and Gram matrices."""


def diagnose_network(
    weights: Weights,
    reference: Weights,
    content: Tensor,
    style: Tensor,
    result: Tensor | None = None,
    options: Options | None = None,
) -> Diagnosis:
    """Compute what a network sees in pictures.

    Args:
        reference: the embedded network.
        content: (1, 3, H, W); all pictures are resized to it.
        style: (1, 3, H, W).
        result: a painted picture; without one, gradients are those at the content.
        options: options of the objective.
    """
    options = options or Options()
    height, width = content.shape[-2:]
    pictures = {"content": content, "style": resize(style, width, height)}
    if result is not None:
        pictures["result"] = resize(result, width, height)
    features = Features(weights, weights.layers, weights.pooling or options.pooling)
    with torch.no_grad():
        maps = {name: features(picture) for name, picture in pictures.items()}
    layers = tuple(
        _diagnose_layer(layer, {name: outputs[layer] for name, outputs in maps.items()}) for layer in features.layers
    )
    gradients = _measure_gradients(weights, pictures, content, style, options.replace(pooling=features.pooling))
    verdict = conventions.check_convention(weights, reference, pictures.values())
    convention = "" if weights.sha256 == reference.sha256 else verdict.sentence
    problems = [*_find_layer_problems(layers), *_find_gradient_problems(gradients)]
    if verdict.mistakes or verdict.best < conventions.MIN_AGREEMENT:
        problems.insert(0, verdict.sentence)
    sheet = _build_sheet(pictures, maps, list(resolve_style_layers(options, weights.network)))
    return Diagnosis(layers, gradients, tuple(problems), convention, sheet)


def _diagnose_layer(name: str, maps: Mapping[str, Tensor]) -> LayerDiagnosis:
    names = list(maps)
    pairs = [(b, a) for i, a in enumerate(names) for b in names[i + 1 :]]
    similarity = {
        f"{b}/{a}": float(torch.cosine_similarity(maps[a].flatten(), maps[b].flatten(), dim=0)) for b, a in pairs
    }
    means = torch.stack([output.abs().mean(dim=(0, 2, 3)) for output in maps.values()])  # (pictures, C)
    dead = int((means.amax(dim=0) == 0).sum())
    saturated = int((means.amax(dim=0) > SATURATED).sum())
    return LayerDiagnosis(name, similarity, dead, saturated, means.shape[1])


def _measure_gradients(
    weights: Weights, pictures: Mapping[str, Tensor], content: Tensor, style: Tensor, options: Options
) -> dict[str, float]:
    """Return the norm of each term's gradient to the result, or to the content without one."""
    objective = build_objective(build_features(weights, options), options, content, style)
    image = pictures.get("result", pictures["content"]).detach().clone().requires_grad_()
    return {
        name: float(torch.autograd.grad(term, image, retain_graph=True)[0].norm()) * image.numel() ** 0.5
        for name, term in objective.terms(image).items()
    }


def _find_layer_problems(layers: Sequence[LayerDiagnosis]) -> list[str]:
    problems = []
    for layer in layers:
        if layer.dead > layer.channels / 2:
            problems.append(
                f"{layer.name} is dead: {layer.dead} of its {layer.channels} channels are always zero; the weights are "
                "damaged or the normalization is wrong."
            )
        if layer.saturated > layer.channels / 4:
            problems.append(
                f"{layer.name} is saturated: {layer.saturated} of its {layer.channels} channels exceed {SATURATED:g} "
                "times their usual mean; the normalization is wrong or the network is not rescaled."
            )
    return problems


def _find_gradient_problems(gradients: Mapping[str, float]) -> list[str]:
    nonzero = sorted(norm for norm in gradients.values() if norm > 0)
    if not nonzero:
        return ["No term has a gradient: content, style and picture are the same, or the network is dead."]
    median = nonzero[len(nonzero) // 2]
    problems = []
    for name, norm in gradients.items():
        comparison = f"({norm:.1e}, the median is {median:.1e})"
        if not np.isfinite(norm) or norm > EXPLODING * median:
            problems.append(f"The gradient of {name} explodes {comparison}; lower its weight.")
        elif 0 < norm < VANISHING * median:
            problems.append(f"The gradient of {name} vanishes {comparison}; raise its weight.")
    return problems


def _build_sheet(
    pictures: Mapping[str, Tensor], maps: Mapping[str, Mapping[str, Tensor]], style_layers: Sequence[str]
) -> tuple[SheetRow, ...]:
    """Return the pictures; for each style layer the maps that distinguish content and style, and Gram matrices."""
    rows: list[SheetRow] = [("pictures", [(name, x[0].permute(1, 2, 0).numpy()) for name, x in pictures.items()])]
    for layer in style_layers:
        outputs = {name: by_layer[layer] for name, by_layer in maps.items() if layer in by_layer}
        if not outputs:
            continue
        means = {name: output.mean(dim=(0, 2, 3)) for name, output in outputs.items()}
        difference = (means["style"] - means["content"]).abs()
        cells = [
            (f"{name}, channel {channel}", output[0, channel].numpy())
            for channel in difference.topk(min(SHOWN_MAPS, len(difference))).indices.tolist()
            for name, output in outputs.items()
        ]
        for name, output in outputs.items():
            gram = compute_moments(output).second[:GRAM_SIDE, :GRAM_SIDE]
            cells.append((f"Gram, {name}", gram.abs().add(1e-6).log().numpy()))
        rows.append((layer, cells))
    return tuple(rows)


def diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, object]:
    """Return everything but the sheet, for JSON."""
    layers = [asdict(layer) for layer in diagnosis.layers]
    return {"layers": layers, "gradients": dict(diagnosis.gradients), "problems": list(diagnosis.problems)}
