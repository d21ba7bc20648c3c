"""Paintings in tiles: the same picture as without, in the memory of one tile."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from made import Pixels
from torch import Tensor

from styler import schedule
from styler.engine import targets
from styler.engine.memory.estimate import Rung
from styler.engine.memory.ladder import Ladder
from styler.engine.painter import Painter
from styler.engine.result import Result
from styler.engine.sources import load_content, load_styles
from styler.engine.styles import StyleCache, prepare_blend
from styler.objective.parts import Part
from styler.objective.terms import RegionTargets, Targets
from styler.options import Options
from styler.regions.areas import Areas, normalize_regions
from styler.schedule import Scale
from styler.vgg.model import Features
from styler.vgg.weights import Weights

OPTIONS = Options(
    size=128, first_size=64, iterations=6, optimizer="adam", device="cpu", precision="fp32", threads=1, brushwork=0
)
CASES: dict[str, dict[str, Any]] = {
    "statistics": {},
    "strokes": {"brushwork": 50.0},
    "half-size copies and L-BFGS": {"multiscale": 1.0, "optimizer": "lbfgs"},
    "gatys": {"distance": "gatys"},
    "kept color and gram": {"distance": "gram", "keep_color": 0.5},
    "checkpointing": {"checkpoint": "on"},
}


def divide(height: int, width: int) -> Areas:
    """Return areas whose left half has the second style, with a soft border; the upper part is protected."""
    across, down = torch.linspace(2, -1, width), torch.linspace(1.5, -1, height)
    left = across.clamp(0, 1).expand(1, 1, height, width)
    return Areas.of(normalize_regions([left]), [(0,), (1,)], down.clamp(0, 1)[:, None].expand(1, 1, height, width))


def begin_in_tiles(ladder: Ladder, tile: int, _scale: Scale, *, is_shared: bool) -> str:
    """Paint every scale, shared or not, in tiles of a side, 0 for one tile."""
    assert ladder.plan is not None
    ladder.rung = Rung(ladder.plan.demand.options.checkpoint == "on", tile)
    return ""


@pytest.fixture
def paint(monkeypatch: pytest.MonkeyPatch, use_tiny: None, pixels: Pixels) -> Callable[..., Result]:
    """Paint a picture of 128×101 pixels in tiles of a side, 0 for one tile."""
    monkeypatch.setattr(schedule, "COARSEST_COPY", 32)
    monkeypatch.setattr(targets, "MIN_STROKES_SIDE", 32)

    def painted(options: Options, tile: int, *, has_areas: bool = False) -> Result:
        monkeypatch.setattr(Ladder, "begin_scale", functools.partialmethod(begin_in_tiles, tile))
        areas = divide(101, 128) if has_areas else None
        styles: list[Any] = [pixels(64, 80, 2), pixels(80, 64, 3)][: 2 if has_areas else 1]
        return Painter.of(options).stylize(pixels(101, 128, 1), styles, options, areas=areas)

    return painted


def check_same(whole: Result, tiled: Result) -> None:
    assert tiled.pixels.shape == whole.pixels.shape
    assert {*tiled.losses} == {*whole.losses}
    assert tiled.losses["total"] == pytest.approx(whole.losses["total"], rel=0.005)
    assert np.abs(tiled.pixels - whole.pixels).mean() <= 1 / 255


@pytest.mark.parametrize("name", CASES)
def test_tiles_paint_the_same_picture(paint: Callable[..., Result], name: str) -> None:
    options = OPTIONS.replace(**CASES[name])
    check_same(paint(options, 0), paint(options, 32))


def test_tiles_paint_the_same_regions(paint: Callable[..., Result]) -> None:
    options = OPTIONS.replace(brushwork=50)
    check_same(paint(options, 0, has_areas=True), paint(options, 48, has_areas=True))


def compute(tiny: Weights, pixels: Pixels, tile: int, areas: Areas | None) -> Targets:
    options = OPTIONS.replace(strength=30, brushwork=50)
    layers = targets.resolve_layers(options, "tiny", is_protected=areas is not None)
    content, styles = load_content(pixels(101, 128, 1)), load_styles([pixels(64, 80, 2), pixels(80, 64, 3)])
    blend = prepare_blend(content, styles, options)
    features = Features(tiny, layers, options.pooling).to(torch.float64)  # in float32, sums depend on the tile's shape
    return targets.compute_targets(features, content, blend, (128, 101), options, StyleCache(), None, areas, tile)


def list_values(targets: Targets) -> list[Tensor]:
    """Return all tensors of the style targets, and the scale or the roots of the content weights."""
    found = [torch.as_tensor(targets.content_scale), *targets.content_roots.values()]
    for target in targets.style.values():
        for own in target.targets if isinstance(target, RegionTargets) else [target]:
            found += [*own]
    return found


@pytest.mark.parametrize("has_areas", [False, True])
def test_targets_are_the_same_and_keep_no_features_of_a_large_photo(
    monkeypatch: pytest.MonkeyPatch, tiny: Weights, pixels: Pixels, has_areas: bool
) -> None:
    areas = divide(101, 128) if has_areas else None
    whole, kept = (compute(tiny, pixels, tile, areas) for tile in (0, 32))
    for layer, maps in {**kept.matched, **kept.content}.items():
        torch.testing.assert_close(maps, {**whole.matched, **whole.content}[layer])
    monkeypatch.setattr(targets, "MAX_KEPT_BYTES", 50_000)
    tiled = compute(tiny, pixels, 32, areas)
    assert len(list_values(tiled)) == len(list_values(whole)) > 20
    for ours, theirs in zip(list_values(tiled), list_values(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert whole.content
    assert whole.matched
    assert not tiled.content
    assert not tiled.matched
    assert tiled.photo is not None
    assert tiled.tiling is not None
    for layer, target in tiled.style.items():
        if isinstance(target, RegionTargets):
            before = whole.style[layer]
            assert isinstance(before, RegionTargets)
            assert len(target.layouts) == len(tiled.tiling.tiles)
            for region, part in enumerate(before.layouts[0].parts):
                own = [layout.parts[region] for layout in target.layouts]
                assert sum(len(each.positions) for each in own) == len(part.positions)
                assert sum(map(count_weights, own)) == pytest.approx(part.total)
                assert {each.total for each in own} == {part.total}


def count_weights(part: Part) -> float:
    return float(part.roots.double().square().sum())


def test_a_very_large_painting_is_seen_in_part(monkeypatch: pytest.MonkeyPatch, tiny: Weights, pixels: Pixels) -> None:
    """The features that are kept of all paintings have a limit."""
    options = OPTIONS.replace(brushwork=50)
    plan = targets.plan_matching(options, "tiny", (128, 128), schedule.build_schedule(options, 128, 128, 16)[-1])
    assert plan is not None
    content, kept = load_content(pixels(128, 128, 1)), []
    features = Features(tiny, targets.resolve_layers(options, "tiny"), options.pooling)
    for count in (1, 2):
        blend = prepare_blend(content, load_styles([pixels(128, 128, seed) for seed in range(count)]), options)
        goal = targets.compute_targets(features, content, blend, (128, 128), options, StyleCache())
        monkeypatch.setattr(targets, "MAX_VIEWED_PIXELS", 4 * 64 * 64)
        prepared = targets.prepare_matching(plan, features, goal, blend, 128, options)
        kept.append(len(prepared.candidates.rows["relu2_1"]))
    assert kept == [4 * 32 * 32, 8 * 22 * 22]
