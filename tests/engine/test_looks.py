"""The looks `gatys` and `gram`: their losses against the formulas of the paper, computed here from the images alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made import Picture, Pixels
from numpy.typing import NDArray
from torch import Tensor

from styler.engine import targets
from styler.engine.painter import Painter
from styler.engine.sources import SourceImage
from styler.engine.styles import StyleCache, prepare_blend
from styler.objective.moments import Moments
from styler.objective.terms import Objective, Targets
from styler.options import Options
from styler.vgg.model import Features
from styler.vgg.weights import Weights

PAPER_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
Losses = tuple[dict[str, Tensor], Tensor]


@pytest.fixture
def build(tiny: Weights) -> Callable[..., Objective]:
    """Return `build(options, content, style)`: the objective of an image of the content's size."""

    def made(options: Options, content: Tensor, style: Tensor, precision: torch.dtype = torch.float32) -> Objective:
        features = Features(tiny, targets.resolve_layers(options, "tiny"), options.pooling, precision)
        sources = SourceImage.of(content), [SourceImage.of(style)]
        blend, size = prepare_blend(*sources, options), (content.shape[-1], content.shape[-2])
        goal: Targets = targets.compute_targets(features, sources[0], blend, size, options, StyleCache())
        return Objective(features, goal, targets.compute_term_weights(options, "tiny"))

    return made


def compute_maps(features: Features, image: Tensor) -> dict[str, Tensor]:
    """Return the rectified map of every layer in float64, with average pooling throughout."""
    x, maps = F.pad(image.double(), (1, 1, 1, 1), mode="replicate"), {}
    for conv in features.convs:
        kernel, bias = (part.double() for part in features.get_kernel(conv))
        x = F.avg_pool2d(x, 2) if conv.follows_pooling else x
        x = F.conv2d(x, kernel, bias, padding=0 if conv.is_first else 1).relu()
        maps[conv.layer] = x
    return maps


def compute_paper_losses(features: Features, image: Tensor, content: Tensor, style: Tensor) -> Losses:
    """Return α ½ Σ (F − P)² and β w Σ (G − A)² / (4 N² M²), and the gradient of their sum: α/β = 1e-3, w = 1/5."""
    x = image.double().requires_grad_()
    ours, photo, painting = (compute_maps(features, each) for each in (x, content, style))
    terms = {"content relu4_2": 1e-3 * ((ours["relu4_2"] - photo["relu4_2"]) ** 2).sum() / 2}
    for layer in PAPER_LAYERS:
        (_, n, height, width), m_style = ours[layer].shape, painting[layer][0, 0].numel()
        m = height * width
        gram = torch.einsum("bihw,bjhw->ij", ours[layer], ours[layer])
        goal = torch.einsum("bihw,bjhw->ij", painting[layer], painting[layer]) * (m / m_style)
        terms[f"style {layer}"] = ((gram - goal) ** 2).sum() / (4 * n**2 * m**2) / 5
    (gradient,) = torch.autograd.grad(torch.stack([*terms.values()]).sum(), x)
    return {name: term.detach() for name, term in terms.items()}, gradient


@pytest.mark.parametrize("style_size", [(48, 64), (64, 40)], ids=["of the same size", "of another size"])
def test_the_gatys_look_has_the_losses_of_the_paper(
    build: Callable[..., Objective], picture: Picture, style_size: tuple[int, int]
) -> None:
    content, style, image = picture(48, 64, 1), picture(*style_size, 2), picture(48, 64, 3)
    objective = build(Options.of(look="gatys"), content, style)
    terms, gradient = objective.gradient(image)
    expected, slope = compute_paper_losses(objective.features, image, content, style)
    assert {*terms} == {*expected, "total"}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].double(), value, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["total"].double(), torch.stack([*expected.values()]).sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))


def test_the_gram_look_compares_gram_matrices_of_six_layers(build: Callable[..., Objective], picture: Picture) -> None:
    content, style, image = picture(48, 64, 1), picture(48, 64, 2), picture(48, 64, 3)
    options = Options.of(look="gram", pooling="average", content_weight=0.5, smoothness=0)
    objective = build(options, content, style)
    terms = objective.terms(image)
    ours, photo, painting = (compute_maps(objective.features, each) for each in (image, content, style))
    layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1")
    assert {*terms} == {"content relu4_2", *(f"style {layer}" for layer in layers)}
    apart = ((ours["relu4_2"] - photo["relu4_2"]) ** 2).mean()
    expected = 0.5 * apart * objective.targets.content_scale
    torch.testing.assert_close(terms["content relu4_2"].double(), expected, rtol=1e-4, atol=0)
    weights = options.layer_weights * (len(layers) if len(options.layer_weights) == 1 else 1)
    for layer, weight in zip(layers, weights, strict=True):
        n, m = ours[layer].shape[1], ours[layer][0, 0].numel()
        gram, goal = (torch.einsum("bihw,bjhw->ij", maps[layer], maps[layer]) for maps in (ours, painting))
        distance = ((gram - goal) ** 2).sum() / (4 * n**2 * m**2)
        actual = terms[f"style {layer}"].double()
        torch.testing.assert_close(actual, distance * weight / sum(weights), rtol=1e-4, atol=0)


def test_every_field_of_the_gatys_look() -> None:
    expected = Options(
        look="gatys",
        distance="gatys",
        brushwork=0.0,
        content_layers=("relu4_2",),
        content_weight=1e-3,
        style_layers=PAPER_LAYERS,
        layer_weights=(1.0,),
        smoothness=0.0,
        multiscale=0.0,
        pooling="average",
        init="noise",
        optimizer="lbfgs",
        first_size=16_384,
        iterations=400,
    )
    assert Options.of(look="gatys") == expected
    counts = [Options.of(look="gatys", preset=preset).iterations for preset in ("draft", "standard", "fine")]
    assert counts == [100, 400, 1000]


@pytest.mark.parametrize("preset", ["draft", "standard", "fine"])
def test_the_gatys_look_paints_one_scale_by_lbfgs_from_noise(painter: Painter, pixels: Pixels, preset: str) -> None:
    options = Options.of(look="gatys", preset=preset, size=64, device="cpu", seed=3)
    reports = list(zip(painter.stream(pixels(64, 64, 1), pixels(48, 64, 2), options), range(3), strict=False))
    first = reports[0][0]
    (scale,) = first.schedule
    assert (scale.size, scale.optimizer, scale.sketch, scale.half_size_copies) == ((64, 64), "lbfgs", False, 0)
    assert scale.iterations == options.iterations
    noise = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    expected: NDArray[Any] = (0.5 + 0.25 * noise).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(first.live_view(), expected)


def test_the_gatys_look_reduces_its_loss(painter: Painter, pixels: Pixels) -> None:
    options = Options.of(look="gatys", size=64, iterations=12, device="cpu")
    result = painter.stylize(pixels(64, 64, 1), pixels(48, 64, 2), options)
    start = painter.stylize(pixels(64, 64, 1), pixels(48, 64, 2), options.replace(iterations=1))
    assert result.losses["total"] < 0.2 * start.losses["total"]


@pytest.mark.parametrize(("strength", "factor"), [(25, 100), (37.5, 10), (50, 1), (62.5, 0.1), (100, 1e-4)])
def test_strength_changes_only_the_ratio_of_the_gatys_look(
    build: Callable[..., Objective], picture: Picture, strength: float, factor: float
) -> None:
    content, style = picture(32, 32, 1), picture(32, 32, 2)
    paper = build(Options.of(look="gatys"), content, style)
    actual = build(Options.of(look="gatys", strength=strength), content, style)
    assert actual.weights.content["relu4_2"] == pytest.approx(1e-3 * factor)
    assert actual.weights.style == paper.weights.style
    assert actual.weights.smoothness == 0
    for layer, target in actual.targets.style.items():
        same = paper.targets.style[layer]
        assert isinstance(target, Moments)
        assert isinstance(same, Moments)
        torch.testing.assert_close(target.second, same.second, rtol=0, atol=0)


@pytest.mark.parametrize("strength", [1, 50, 100])
def test_the_sums_neither_overflow_nor_underflow_in_half_precision(
    build: Callable[..., Objective], picture: Picture, strength: float
) -> None:
    pictures = picture(128, 160, 1), picture(128, 160, 2)
    options = Options.of(look="gatys", strength=strength)
    _, expected = build(options, *pictures).gradient(picture(128, 160, 3))
    _, actual = build(options, *pictures, torch.float16).gradient(picture(128, 160, 3))
    assert actual.isfinite().all()
    assert torch.cosine_similarity(actual.flatten(), expected.flatten(), dim=0) > 0.99
