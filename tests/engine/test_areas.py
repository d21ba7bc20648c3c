"""Paintings with areas: each region has its own paintings, and what is protected stays the photo's."""

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from made import Picture, Pixels
from numpy.typing import NDArray
from torch import Tensor

from styler import schedule
from styler.engine import optimizers, targets
from styler.engine.painter import Painter
from styler.engine.placement import Placement
from styler.engine.run import Run
from styler.engine.sources import SourceImage, load_content, load_styles
from styler.engine.styles import StyleCache, prepare_blend
from styler.errors import UsageError
from styler.objective import matching
from styler.objective.candidates import Candidates
from styler.objective.moments import Moments, compute_moments
from styler.objective.parts import gather_parts
from styler.objective.terms import Objective, RegionTargets, Targets
from styler.options import Options
from styler.regions.areas import Areas, normalize_regions
from styler.regions.resolve import ResolvedAreas
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Array = NDArray[Any]
OPTIONS = Options(size=64, first_size=64, iterations=4, optimizer="adam", device="cpu", precision="fp32", threads=1)


def make_left(height: int = 64, width: int = 64) -> Tensor:
    """Return a mask of the left half, (1, 1, H, W)."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., : width // 2] = 1
    return mask


def divide(protection: Tensor | None = None) -> Areas:
    """Return the areas of a photo whose left half has the second style."""
    return Areas.of(normalize_regions([make_left()]), [(0,), (1,)], protection)


def protect(amount: float) -> Areas:
    """Return the areas of a photo whose left half is protected."""
    return Areas.of(torch.ones(1, 1, 64, 64), [(0,)], amount * make_left())


def source(image: Tensor) -> SourceImage:
    return SourceImage.of(image)


@pytest.fixture
def features(tiny: Weights) -> Features:
    return Features(tiny, tiny.layers, "average")


@pytest.fixture
def styles(pixels: Pixels) -> list[Any]:
    return [pixels(48, 64, 2), pixels(64, 48, 3)]


def compute(features: Features, pictures: list[Tensor], options: Options, areas: Areas | None) -> Targets:
    content, *styles = map(source, pictures)
    blend = prepare_blend(content, styles, options)
    return targets.compute_targets(features, content, blend, (64, 64), options, StyleCache(), None, areas)


@pytest.mark.parametrize("strength", [20.0, 50.0])
@pytest.mark.parametrize("distance", ["gram", "wasserstein"])
def test_each_region_has_the_statistics_of_its_own_style(
    features: Features, picture: Picture, distance: str, strength: float
) -> None:
    pictures = [picture(64, 64, 1), picture(64, 64, 2), picture(64, 64, 3)]
    options = Options(distance=distance, strength=strength)
    actual = compute(features, pictures, options, divide())
    for layer, target in actual.style.items():
        assert isinstance(target, RegionTargets)
        assert sum(target.shares) == pytest.approx(1)
        assert target.shares == pytest.approx((0.5, 0.5), abs=0.02)
        means = [compute_moments(features(image)[layer]).mean for image in pictures]
        mix = targets.style_mix(strength)
        own = [
            part.compute_moments(maps).mean
            for maps, part in zip(
                gather_parts(features(pictures[0])[layer], target.layouts[0]), target.layouts[0].parts, strict=True
            )
        ]
        for found, style, content in zip(target.targets, means[1:], own, strict=True):
            torch.testing.assert_close(found.mean, torch.lerp(content, style, mix), rtol=1e-4, atol=1e-4)


def test_a_single_region_equals_none(features: Features, picture: Picture) -> None:
    pictures = [picture(64, 64, 1), picture(64, 64, 2), picture(64, 64, 3)]
    options = Options(distance="gram", keep_color=0.5)
    whole = Areas.of(torch.ones(1, 1, 64, 64), [(0, 1)])
    actual, expected = (compute(features, pictures, options, areas) for areas in (whole, None))
    for layer, target in expected.style.items():
        own = actual.style[layer]
        assert isinstance(own, RegionTargets)
        assert isinstance(target, Moments)
        torch.testing.assert_close(own.targets[0], target)
        assert own.shares == pytest.approx((1.0,))
    assert actual.roughness == pytest.approx(expected.roughness)
    torch.testing.assert_close(actual.color, expected.color, rtol=1e-4, atol=1e-5)
    weight = targets.compute_term_weights(options, "tiny").content["relu4_2"]
    torch.testing.assert_close(
        actual.content_roots["relu4_2"].square(),
        (weight * torch.as_tensor(expected.content_scale)).expand(1, 1, 8, 8),
        rtol=1e-4,
        atol=1e-6,
    )
    assert actual.hold is None


def test_a_single_region_paints_the_same_picture(painter: Painter, content: Array, style: Array) -> None:
    whole = Areas.of(torch.ones(1, 1, 64, 64), [(0,)])
    for options in (OPTIONS.replace(brushwork=0), OPTIONS.replace(brushwork=50)):
        first, second = (painter.stylize(content, style, options, areas=areas).pixels for areas in (None, whole))
        assert np.abs(first - second).mean() < 0.002


@pytest.mark.parametrize("distance", ["gram", "wasserstein"])
def test_the_gradient_of_a_region_does_not_depend_on_the_paintings_of_others(
    tiny: Weights, picture: Picture, distance: str
) -> None:
    """Apart from the border, of which the second layer sees five pixels, and its mask four."""
    options = Options(distance=distance, style_layers=("relu1_1", "relu2_1"), content_weight=0, smoothness=0)
    layers = targets.resolve_layers(options.replace(brushwork=0), "tiny")
    features, image = Features(tiny, layers, "average"), picture(64, 64, 9)
    found = []
    for other in (3, 4):
        pictures = [picture(64, 64, 1), picture(64, 64, 2), picture(64, 64, other)]
        goal = compute(features, pictures, options.replace(brushwork=0), divide())
        weights = targets.compute_term_weights(options, "tiny")
        found.append(Objective(features, goal, weights).gradient(image)[1])
    first, second = found
    torch.testing.assert_close(first[..., 40:], second[..., 40:], rtol=1e-4, atol=1e-4 * float(first.abs().max()))
    assert float((first - second)[..., :24].abs().mean()) > 0.1 * float(first[..., :24].abs().mean())


CASES: dict[str, dict[str, Any]] = {
    "several scales": {"size": 128, "optimizer": "mixed"},
    "half-size copies": {"size": 128, "first_size": 128, "multiscale": 1.0},
    "strokes": {"brushwork": 100.0},
    "gram": {"distance": "gram"},
    "gatys": {"distance": "gatys"},
    "kept color": {"keep_color": 0.5},
    "bfloat16": {"precision": "bf16"},
    "float16": {"precision": "fp16"},
    "from the styles": {"init": "style"},
    "from noise": {"init": "noise"},
    "checkpointing": {"checkpoint": "on"},
    "strength 20": {"strength": 20.0},
    "strength 90": {"strength": 90.0},
}


@pytest.mark.parametrize("name", CASES)
def test_areas_work_with_every_option(
    monkeypatch: pytest.MonkeyPatch, use_tiny: None, content: Array, styles: list[Any], name: str
) -> None:
    monkeypatch.setattr(schedule, "COARSEST_COPY", 32)
    options = OPTIONS.replace(**CASES[name])
    areas = divide(make_left().transpose(-1, -2))  # the upper half
    result = Painter.of(options).stylize(content, styles, options, areas=areas)
    side = result.pixels.shape[0]
    photo = load_content(content).fit(side, side)[0].permute(1, 2, 0).numpy()
    assert np.abs(result.pixels - photo)[: side // 2 - side // 16].max() <= 2 / 255
    assert np.abs(result.pixels - photo)[side // 2 + side // 16 :].mean() > 0.01
    assert all(np.isfinite(value) for value in result.losses.values())
    assert "content relu3_1" in result.losses


def test_a_sketch_has_areas_of_its_own(painter: Painter, content: Array, styles: list[Any]) -> None:
    options = OPTIONS.replace(size=128, sketch=0.6, iterations=8, optimizer="mixed", threads=1)
    result = painter.stylize(content, styles, options, areas=divide(make_left()))
    photo = load_content(content).fit(128, 128)[0].permute(1, 2, 0).numpy()
    assert np.abs(result.pixels - photo)[:, :56].max() <= 2 / 255


def test_the_live_view_and_the_result_are_mixed_with_the_photo_once(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array
) -> None:
    steps: list[optimizers.OptimizerStep] = []
    adam = optimizers.adam

    def noted(*given: Any, **settings: Any) -> Iterator[optimizers.OptimizerStep]:
        for step in adam(*given, **settings):
            steps.append(step)
            yield step

    monkeypatch.setattr(optimizers, "adam", noted)
    *_, last, done = painter.stream(content, style, OPTIONS, areas=protect(0.925))
    assert done.result is not None
    for image, shown in ((steps[-1].image, last.render()), (steps[-1].best, done.result.pixels)):
        painted = image[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(shown[:, :28], (painted + content)[:, :28] / 2, atol=1e-5)
        assert np.array_equal(shown[:, 36:], painted[:, 36:])


def test_more_protection_keeps_more(painter: Painter, content: Array, style: Array) -> None:
    options = OPTIONS.replace(iterations=12)
    pictures = [painter.stylize(content, style, options, areas=protect(amount)).pixels for amount in (0, 0.5, 0.8, 1)]
    apart = [float(np.abs(each - content)[:, :28].mean()) for each in pictures]
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 1e-6


def test_a_fully_protected_photo_stays(painter: Painter, content: Array, style: Array) -> None:
    areas = Areas.of(torch.ones(1, 1, 64, 64), [(0,)], torch.ones(1, 1, 64, 64))
    result = painter.stylize(content, style, OPTIONS, areas=areas)
    assert np.abs(result.pixels - content).max() <= 2 / 255


def test_protected_positions_leave_the_statistics_of_style(features: Features, picture: Picture) -> None:
    actual = compute(features, [picture(64, 64, 1), picture(64, 64, 2)], Options(distance="gram"), protect(1.0))
    target = actual.style["relu1_1"]
    assert isinstance(target, RegionTargets)
    (part,) = target.layouts[0].parts
    assert 0.5 * 64 * 64 < part.total < 0.62 * 64 * 64
    assert target.shares == pytest.approx((part.total / 64**2,), rel=0.01)
    assert actual.hold is not None


def test_a_style_that_takes_no_part_is_not_needed(features: Features, picture: Picture) -> None:
    """Styles of weight 0 are left out, and regions still have theirs."""
    pictures = [picture(64, 64, seed) for seed in (1, 2, 3, 4)]
    areas = Areas.of(normalize_regions([make_left()]), [(0, 1), (2,)])
    options = Options(distance="gram", style_weights=(0.0, 1.0, 2.0))
    target = compute(features, pictures, options, areas).style["relu1_1"]
    assert isinstance(target, RegionTargets)
    for found, image in zip(target.targets, pictures[2:], strict=True):
        torch.testing.assert_close(found.mean, compute_moments(features(image)["relu1_1"]).mean)
    with pytest.raises(UsageError, match="All styles of region 1 have the weight 0"):
        compute(features, pictures, options.replace(style_weights=(1.0, 1.0, 0.0)), areas)


def test_a_region_that_is_too_small_to_see_is_left_out(features: Features, picture: Picture) -> None:
    dot = torch.zeros(1, 1, 640, 640)
    dot[..., 0, 0] = 1
    areas = Areas.of(normalize_regions([dot]), [(0,), (1,)])
    pictures = [picture(64, 64, seed) for seed in (1, 2, 3)]
    target = compute(features, pictures, Options(distance="gram"), areas).style["relu5_1"]
    assert isinstance(target, RegionTargets)
    assert len(target.targets) == 1


def test_matches_are_candidates_of_the_region(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, styles: list[Any], pixels: Pixels
) -> None:
    """The rest has the first and the third style, the left half the second; neighbors do not cross the border."""
    seen: list[tuple[Tensor, Candidates]] = []
    link, drop = matching.link_matches, matching._drop_others
    dropped: list[tuple[Tensor, Tensor]] = []

    def noted(queries: Tensor, matches: Tensor, candidates: Candidates, *rest: Any) -> Tensor:
        linked = link(queries, matches, candidates, *rest)
        seen.append((linked, candidates))
        return linked

    def noted_drop(matches: Tensor, candidates: Candidates, allowed: Tensor) -> Tensor:
        dropped.append((matches, drop(matches, candidates, allowed)))
        return dropped[-1][1]

    monkeypatch.setattr(matching, "link_matches", noted)
    monkeypatch.setattr(matching, "_drop_others", noted_drop)
    areas = Areas.of(normalize_regions([make_left()]), [(0, 2), (1,)])
    options = OPTIONS.replace(brushwork=50)
    painter.stylize(content, [*styles, pixels(48, 48, 4)], options, areas=areas)
    for linked, candidates in seen:
        found = candidates.styles[linked]  # (16, 16)
        assert (found[:, :7] == 1).all()
        assert {*found[:, 9:].flatten().tolist()} == {0, 2}
        assert float((found[:, 9:] == 0).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert seen
    assert any(bool((before != after).any()) for before, after in dropped)
    for _, after in dropped:
        kept = candidates.styles[after.clamp(min=0)]
        assert (kept[:, :7] == 1)[after[:, :7] >= 0].all()
        assert (kept[:, 9:] != 1)[after[:, 9:] >= 0].all()


def prepare(painter: Painter, content: Array, styles: list[Any], options: Options, areas: Areas | None) -> Run:
    photo = load_content(content)
    scales = schedule.plan_preview(options, *photo.size, painter.features(options).min_side)
    return painter._prepare_run(
        photo, load_styles(styles), options, Event(), scales, ResolvedAreas(areas), is_preview=True
    )


def test_areas_are_part_of_the_key_of_a_shared_scale(painter: Painter, content: Array, style: Array) -> None:
    options = Options(device="cpu")
    chosen: Mapping[str, Areas | None] = {"none": None, "half": protect(0.5), "whole": protect(1.0)}
    keys = {name: prepare(painter, content, [style], options, areas)._make_key(0) for name, areas in chosen.items()}
    assert len({*keys.values()}) == 3
    assert prepare(painter, content, [style], options, protect(0.5))._make_key(0) == keys["half"]


def test_previews_show_what_is_protected(painter: Painter, content: Array, style: Array) -> None:
    photo = load_content(content).fit(128, 128)[0].permute(1, 2, 0).numpy()
    kept = protect(1.0).protection
    assert kept is not None
    options = Options(device="cpu", protect=("left=100",))
    (preview,) = painter.previews(content, style, options, masks={"left": kept[0, 0]})
    assert np.abs(preview.result.pixels - photo)[:, :60].max() <= 2 / 255


def test_placement_composes_images_by_region(picture: Picture) -> None:
    content, styles = source(picture(64, 64, 1)), [source(picture(64, 64, seed)) for seed in (2, 3)]
    placement = Placement.of(divide(), prepare_blend(content, styles, Options()), (64, 64))
    composed = placement.compose([style.image for style in styles])
    torch.testing.assert_close(composed[..., 40:], styles[0].image[..., 40:])
    torch.testing.assert_close(composed[..., :24], styles[1].image[..., :24])
