"""The objective: its terms and its gradient, also in half precision."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from styler.engine import targets
from styler.engine.sources import SourceImage
from styler.engine.styles import StyleCache, prepare_blend
from styler.objective.losses import chroma, coarse_chroma, content_loss, total_variation
from styler.objective.moments import Moments, compute_moments, gram_distance
from styler.objective.terms import HalfSizeCopy, Objective, RegionTargets, Targets, TermWeights
from styler.options import Options
from styler.resample import Downsample
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Picture = Callable[..., Tensor]
Make = Callable[..., Objective]


@pytest.fixture
def make(tiny: Weights, picture: Picture) -> Make:
    """`make(size, options, precision)`: an objective on the tiny network, its targets in single precision."""

    def made(size: int, options: Options, precision: torch.dtype = torch.float32, **settings: Any) -> Objective:
        layers = targets.resolve_layers(options, "tiny")
        content, style = SourceImage.of(picture(size, size, 1)), SourceImage.of(picture(size, size, 2))
        blend = prepare_blend(content, [style], options)
        goal = targets.compute_targets(
            Features(tiny, layers, options.pooling), content, blend, (size, size), options, StyleCache()
        )
        features = Features(tiny, layers, options.pooling, precision)
        return Objective(features, goal, targets.compute_term_weights(options, "tiny"), **settings)

    return made


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def summed(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def test_terms_are_named_and_total_is_their_sum(make: Make, picture: Picture) -> None:
    actual, gradient = make(32, Options(keep_color=0.5)).gradient(picture(32, 32, 3))
    assert list(actual) == [
        "content relu4_2",
        *(f"style {layer}" for layer in Options().style_layers),
        "total variation",
        "color",
        "total",
    ]
    assert all(term.shape == () and not term.requires_grad and term >= 0 for term in actual.values())
    parts = summed({name: term for name, term in actual.items() if name != "total"})
    torch.testing.assert_close(actual["total"], parts)
    assert gradient.shape == (1, 3, 32, 32)
    assert gradient.dtype is torch.float32


def test_a_term_is_the_loss_times_the_weight(make: Make, picture: Picture) -> None:
    image = picture(32, 32, 3)
    objective = make(32, Options(distance="gram", brushwork=0, smoothness=3.0))
    assert objective.weights.smoothness == 3
    actual = objective.features(image)
    terms = objective.terms(image)
    weights, goal = objective.weights, objective.targets
    content = content_loss(actual["relu4_2"], goal.content["relu4_2"])
    torch.testing.assert_close(terms["content relu4_2"], weights.content["relu4_2"] * goal.content_scale * content)
    style = goal.style["relu3_1"]
    assert isinstance(style, Moments)
    distance = gram_distance(compute_moments(actual["relu3_1"]), style)
    torch.testing.assert_close(terms["style relu3_1"], weights.style["relu3_1"] * distance)
    grain = total_variation(image) + weights.chroma_smoothness * total_variation(chroma(image))
    assert weights.chroma_smoothness > 0
    torch.testing.assert_close(terms["total variation"], weights.smoothness / goal.roughness * grain)


def test_terms_without_weight_are_omitted(make: Make, picture: Picture) -> None:
    terms = make(32, Options(smoothness=0.0)).terms(picture(32, 32, 3))
    assert "total variation" not in terms
    assert "color" not in terms


@pytest.mark.parametrize(("distance", "tolerance"), [("gram", 0.0), ("wasserstein", 1e-4)])
def test_an_image_equal_to_content_and_style_has_loss_0(
    tiny: Weights, picture: Picture, distance: str, tolerance: float
) -> None:
    """Up to the rounding of eigenvalues in float32; the loss of another image is hundreds of times larger."""
    options = Options(distance=distance, smoothness=0.0, strength=50)
    features = Features(tiny, (*options.content_layers, *options.style_layers), options.pooling)
    source, other = SourceImage.of(picture(64, 64, 1)), picture(64, 64, 2)
    blend = prepare_blend(source, [source], options)
    goal = targets.compute_targets(features, source, blend, (64, 64), options, StyleCache())
    objective = Objective(features, goal, targets.compute_term_weights(options, "tiny"))
    assert abs(float(objective.gradient(source.image)[0]["total"])) <= tolerance
    assert float(objective.gradient(other)[0]["total"]) > 0.05


@pytest.mark.parametrize("distance", ["gram", "wasserstein"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_gradient_matches_finite_differences(make: Make, picture: Picture, distance: str, checkpoint: bool) -> None:
    """In float64, along seeded directions; average pooling has no ties."""
    objective = make(32, Options(distance=distance, keep_color=1.0), checkpoint=checkpoint)
    objective.features.double()
    goal, style = objective.targets, {}
    for layer, target in objective.targets.style.items():
        assert not isinstance(target, RegionTargets)
        style[layer] = type(target)(*(part.double() for part in target))
    objective = Objective(
        objective.features,
        Targets(
            {layer: maps.double() for layer, maps in goal.content.items()},
            style,
            None if goal.color is None else goal.color.double(),
        ),
        objective.weights,
        checkpoint=checkpoint,
    )
    image = picture(32, 32, 3).double()
    _, gradient = objective.gradient(image)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(image.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        ahead, behind = (summed(objective.terms(image + sign * step * direction)) for sign in (1, -1))
        slope = float(ahead - behind) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4)


def test_scaling_the_loss_does_not_change_the_gradient_in_float32(make: Make, picture: Picture) -> None:
    objective, image = make(32, Options()), picture(32, 32, 3)
    _, actual = objective.gradient(image)
    image.requires_grad_()
    (expected,) = torch.autograd.grad(summed(objective.terms(image)), image)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_half_size_copy_adds_its_terms_and_gradient(make: Make, picture: Picture) -> None:
    alone, smaller, image = make(48, Options()), make(24, Options()), picture(48, 48, 3)
    downsample = Downsample((48, 48), (24, 24), image.device)
    both = dataclasses.replace(alone, half_size=HalfSizeCopy(smaller, downsample, 0.7))
    terms, gradient = both.gradient(image)
    full, half = alone.gradient(image)[0], smaller.gradient(downsample(image))[0]
    for name, term in terms.items():
        torch.testing.assert_close(term, full[name] + 0.7 * half[name])
    image.requires_grad_()
    total = summed(alone.terms(image)) + 0.7 * summed(smaller.terms(downsample(image)))
    torch.testing.assert_close(total.detach(), terms["total"])
    (expected,) = torch.autograd.grad(total, image)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_image_is_not_modified(make: Make, picture: Picture) -> None:
    image = picture(32, 32, 3)
    make(32, Options()).gradient(image)
    torch.testing.assert_close(image, picture(32, 32, 3), rtol=0, atol=0)
    assert not image.requires_grad
    assert image.grad is None


def test_checkpointing_computes_everything_twice_and_gives_the_same_gradient(
    monkeypatch: pytest.MonkeyPatch, make: Make, picture: Picture
) -> None:
    image, made, conv2d = picture(48, 48, 3), [0], F.conv2d

    def counted(*args: Any, **settings: Any) -> Tensor:
        made[0] += args[1].shape[-1] == 3  # statistics may be convolutions, too, of 1×1
        actual: Tensor = conv2d(*args, **settings)
        return actual

    once, twice = make(48, Options()), make(48, Options(), checkpoint=True)
    monkeypatch.setattr(F, "conv2d", counted)
    _, plain = once.gradient(image)
    assert made == [9]
    _, saving = twice.gradient(image)
    assert made == [9 + 18]
    torch.testing.assert_close(saving, plain, rtol=1e-5, atol=1e-9)


def test_newton_schulz_gives_the_same_gradient_as_eigenvalues(make: Make, picture: Picture) -> None:
    image = picture(64, 64, 3)
    _, plain = make(64, Options()).gradient(image)
    _, products = make(64, Options(), newton_schulz=True).gradient(image)
    assert cosine(plain, products) > 0.999


@pytest.mark.parametrize("distance", ["gram", "wasserstein"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_gradient_of_float32_at_256_pixels(
    make: Make, picture: Picture, precision: torch.dtype, distance: str
) -> None:
    """On the tiny network: a CPU without such instructions takes half a minute for one evaluation of the real one.

    (Measured there once, bfloat16, a photo in the bundled painting: cosine .9996 for moments and .9995 for Gram.)
    """
    options, image = Options(distance=distance), picture(256, 256, 3)
    _, half = make(256, options, precision).gradient(image)
    _, single = make(256, options).gradient(image)
    assert half.dtype is torch.float32
    assert cosine(half, single) >= 0.999


def test_float16_loses_the_gradient_of_deep_layers_without_scaling(make: Make, picture: Picture) -> None:
    # by average, as in half precision another value may be the largest of four
    options = Options(style_layers=("relu5_1",), layer_weights=(1.0,), smoothness=0.0, pooling="average")
    half, single = make(512, options, torch.float16), make(512, options)
    image = picture(512, 512, 3)
    _, expected = single.gradient(image)
    _, scaled = half.gradient(image)
    image.requires_grad_()
    (unscaled,) = torch.autograd.grad(summed(half.terms(image)), image)
    assert cosine(scaled, expected) > 0.98
    assert cosine(unscaled, expected) < 0.7


def test_the_color_term_depends_on_areas_and_not_on_strokes() -> None:
    """An image whose cells have the mean chroma of the content has no color loss, whatever is inside a cell."""
    content = torch.full((1, 3, 32, 32), 0.5)
    checks = ((torch.arange(32)[:, None] + torch.arange(32)[None, :]) % 2 * 2 - 1) * 0.2
    strokes = content + checks * torch.tensor([1.0, -1.0, 1.0]).reshape(1, 3, 1, 1)
    tinted = content + torch.tensor([0.2, 0.0, 0.0]).reshape(1, 3, 1, 1)
    weights = TermWeights(content={}, style={}, color=1.0)
    objective = Objective(Nothing(), Targets({}, {}, coarse_chroma(content)), weights)  # type: ignore[arg-type]
    assert float(objective.terms(strokes)["color"]) < 1e-10
    assert float(objective.terms(tinted)["color"]) > 1e-3


class Nothing:
    """A network without layers."""

    def __call__(self, _image: Tensor, _check: None, *, checkpoint: bool) -> dict[str, Tensor]:
        return {}
