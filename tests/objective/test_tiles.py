"""A picture in tiles has the gradient of the whole one: for every term, in any size, in the memory of one tile."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from made import Picture
from torch import Tensor

from styler.engine import optimizers, targets
from styler.engine.optimizers import IterationLimit
from styler.engine.sources import SourceImage
from styler.engine.styles import StyleCache, prepare_blend
from styler.objective import losses
from styler.objective.candidates import compute_columns
from styler.objective.matching import Matching
from styler.objective.terms import HalfSizeCopy, Objective, RegionRoots
from styler.objective.tiled_columns import TiledColumns
from styler.objective.tiled_matching import TiledMatching
from styler.objective.tiles import Tile, Tiling, assemble_maps, compute_tile, split_picture
from styler.options import Options
from styler.regions.areas import Areas, normalize_regions
from styler.resample import Downsample
from styler.schedule import build_schedule
from styler.vgg import arch
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Make = Callable[..., Objective]
EXACT = 1e-12
"""Largest difference of gradients in float64, in terms of their length."""
NEARLY = 1e-8
"""The same for roots by eigenvalues: a filter of the tiny network that never fires has one at their floor, where the
derivative is infinite but for the floor, and rounding errors of 1e-16 grow."""
OPTIONS = Options(optimizer="lbfgs", brushwork=0)
STROKES = OPTIONS.replace(brushwork=50)
"""With L-BFGS, matches are found once."""
SIZE = (150, 117)
"""Width and height: neither is a multiple of the stride, and no tile divides it."""


def divide(size: tuple[int, int], *, is_protected: bool = False) -> Areas:
    """Return areas of a photo: a disk with the second style and a soft edge, and the lower half protected."""
    down, across = torch.linspace(-1, 1, size[1])[:, None], torch.linspace(-1, 1, size[0])
    disk = ((0.7 - (down.square() + across.square()).sqrt()) * 4).clamp(0, 1)[None, None]
    protection = (down.clamp(0, 1) * torch.ones_like(across))[None, None] if is_protected else None
    return Areas.of(normalize_regions([disk]), [(0,), (1,)], protection)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tiny: Weights, picture: Picture) -> Make:
    """`make(options, size, tile)`: an objective on the tiny network in float64, with several strips of pixels."""
    monkeypatch.setattr(losses, "STRIP_PIXELS", 32 * SIZE[0])

    def made(
        options: Options,
        size: tuple[int, int] = SIZE,
        tile: int = 0,
        *,
        areas: Areas | None = None,
        styles: int = 1,
        dtype: torch.dtype = torch.float64,
        **settings: Any,
    ) -> Objective:
        layers = targets.resolve_layers(options, "tiny", is_protected=areas is not None)
        features = Features(tiny, layers, options.pooling).to(dtype)
        content = SourceImage.of(picture(size[1], size[0], 1))
        paintings = [SourceImage.of(picture(80, 90, seed)) for seed in range(2, 2 + styles)]
        blend = prepare_blend(content, paintings, options)
        goal = targets.compute_targets(features, content, blend, size, options, StyleCache(), None, areas, tile)
        plan = targets.plan_matching(options, "tiny", size, build_schedule(options, *size, 16)[-1])
        matching = None
        if plan is not None:
            matching = targets.prepare_matching(plan, features, goal, blend, max(size), options, None, areas)
        weights = targets.compute_term_weights(options, "tiny")
        return Objective(features, goal, weights, matching=matching, **{"newton_schulz": True} | settings)

    return made


def share_matches(whole: Objective, tiled: Objective) -> Objective:
    """Return the tiled objective with the candidates and the last matches of the whole one."""
    if whole.matching is None:
        return tiled
    assert isinstance(whole.matching, Matching)
    assert isinstance(tiled.matching, TiledMatching)
    assert whole.matching.found is not None
    own = tiled.matching
    matching = TiledMatching(own.plan, whole.matching.candidates, own.shares, own.content, own.regions, own.places)
    matching.keep(whole.matching.found)
    return dataclasses.replace(tiled, matching=matching)


def differ(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def check_equal(whole: Objective, tiled: Objective, image: Tensor) -> None:
    """Check the terms and the gradient of a tiled objective against those of the whole one."""
    assert whole.targets.tiling is None
    assert tiled.targets.tiling is not None
    terms, gradient = whole.gradient(image)
    own_terms, own = share_matches(whole, tiled).gradient(image)
    assert [*own_terms] == [*terms]
    for name, term in terms.items():
        torch.testing.assert_close(own_terms[name], term, rtol=1e-9, atol=1e-12, check_dtype=False, msg=name)
    assert own.dtype == gradient.dtype
    assert differ(own, gradient) < (EXACT if whole.newton_schulz else NEARLY)


CASES: Mapping[str, Mapping[str, Any]] = {
    "statistics": {},
    "strokes": {"brushwork": 50},
    "gram": {"distance": "gram"},
    "gatys": {"distance": "gatys"},
    "kept color": {"keep_color": 0.5},
    "max pooling": {"pooling": "max", "brushwork": 50},
    "strength 20": {"strength": 20.0, "brushwork": 50},
    "strength 80": {"strength": 80.0, "brushwork": 80},
    "shallow layers": {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_1",), "layer_weights": (1.0,)},
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_tiles_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, make: Make, picture: Picture, name: str
) -> None:
    """Whether the features of the photo are kept, or computed again for each tile."""
    options, image = OPTIONS.replace(**CASES[name]), picture(SIZE[1], SIZE[0], 9).double()
    whole, kept = make(options), make(options, tile=48)
    monkeypatch.setattr(targets, "MAX_KEPT_BYTES", 0)
    again = make(options, tile=48)
    assert bool(kept.targets.content)
    assert not again.targets.content
    for tiled in (kept, again):
        check_equal(whole, tiled, image)


@pytest.mark.parametrize(
    ("size", "tile"), [((100, 70), 16), ((117, 33), 32), ((17, 130), 40), ((129, 65), 64), ((40, 40), 16)]
)
def test_any_size_can_be_divided(make: Make, picture: Picture, size: tuple[int, int], tile: int) -> None:
    """The last has fewer positions than channels in its deepest layer."""
    image = picture(size[1], size[0], 9).double()
    check_equal(make(STROKES, size), make(STROKES, size, tile), image)


@pytest.mark.parametrize("is_protected", [False, True])
@pytest.mark.parametrize("distance", ["wasserstein", "gram", "gatys"])
def test_regions_and_protected_areas_in_tiles(
    monkeypatch: pytest.MonkeyPatch, make: Make, picture: Picture, distance: str, is_protected: bool
) -> None:
    monkeypatch.setattr(targets, "MAX_KEPT_BYTES", 0)
    options, areas = STROKES.replace(distance=distance), divide(SIZE, is_protected=is_protected)
    whole, tiled = (make(options, tile=tile, areas=areas, styles=2) for tile in (0, 48))
    assert bool(whole.targets.content_roots)
    assert (whole.targets.hold is not None) is is_protected
    check_equal(whole, tiled, picture(SIZE[1], SIZE[0], 9).double())


def test_a_region_of_few_positions_in_tiles(make: Make, picture: Picture) -> None:
    size = (64, 40)
    areas = divide(size)
    whole, tiled = (make(OPTIONS, size, tile=tile, areas=areas, styles=2) for tile in (0, 16))
    deepest = whole.targets.style["relu5_1"]
    assert min(deepest.count_positions(region) for region in range(2)) < 8  # type: ignore[union-attr]
    check_equal(whole, tiled, picture(size[1], size[0], 9).double())


def test_half_size_copies_have_tiles_of_their_own(make: Make, picture: Picture) -> None:
    """Or are one tile."""
    image, half = picture(128, 160, 9).double(), (80, 64)
    found = []
    for tile, small_tile in ((0, 0), (48, 48), (48, 0)):
        downsample = Downsample((160, 128), half, image.device)
        copy = HalfSizeCopy(make(OPTIONS, half, small_tile), downsample, 0.7)
        found.append(dataclasses.replace(make(OPTIONS, (160, 128), tile), half_size=copy))
    for tiled in found[1:]:
        check_equal(found[0], tiled, image)


def test_checkpointing_and_other_roots_in_tiles(make: Make, picture: Picture) -> None:
    image = picture(SIZE[1], SIZE[0], 9).double()
    check_equal(make(OPTIONS), make(OPTIONS, tile=48, checkpoint=True), image)
    check_equal(make(OPTIONS, newton_schulz=False), make(OPTIONS, tile=48, newton_schulz=False), image)
    settings: dict[str, Any] = {"areas": divide(SIZE), "styles": 2}
    whole, tiled = (make(OPTIONS, tile=tile, roots=RegionRoots(), **settings) for tile in (0, 48))
    for seed in (9, 10, 11):  # after the first, one region's roots are computed for each
        check_equal(whole, tiled, picture(SIZE[1], SIZE[0], seed).double())


def test_a_picture_that_is_smaller_than_a_tile_is_not_divided(make: Make, picture: Picture) -> None:
    whole, same = make(STROKES, dtype=torch.float32), make(STROKES, tile=150, dtype=torch.float32)
    assert same.targets.tiling is None
    image = picture(SIZE[1], SIZE[0], 9)
    assert torch.equal(whole.gradient(image)[1], same.gradient(image)[1])


def test_the_margin_is_enough_and_no_larger(monkeypatch: pytest.MonkeyPatch, make: Make, picture: Picture) -> None:
    image, compute = picture(SIZE[1], SIZE[0], 9).double(), arch.compute_margin
    for options in (OPTIONS, OPTIONS.replace(style_layers=("relu3_1",), layer_weights=(1.0,), content_layers=())):
        whole, tiled = make(options), make(options, tile=32)
        _, expected = whole.gradient(image)
        assert differ(tiled.gradient(image)[1], expected) < EXACT
        stride = max(tiled.features.strides.values())
        monkeypatch.setattr(arch, "compute_margin", lambda convs, less=stride: compute(convs) - less)
        assert differ(tiled.gradient(image)[1], expected) > 1e-6
        monkeypatch.undo()


def test_five_steps_of_adam_paint_the_same_pixels(make: Make, picture: Picture) -> None:
    """In float32, with the same matches; by average, as where two of four values are equal, rounding chooses one.

    (With max pooling, one pixel in 50,000 differed by 2/255; by as much as in float64 without tiles.)
    """
    image, images, options = picture(SIZE[1], SIZE[0], 9), [], STROKES.replace(pooling="average")
    whole, tiled = (make(options, tile=tile, dtype=torch.float32) for tile in (0, 48))
    whole.gradient(image)
    for objective in (whole, share_matches(whole, tiled)):
        *_, last = optimizers.adam(objective, image, IterationLimit(5), options.learning_rate)
        images.append(last.image)
    assert float((images[0] - images[1]).abs().max()) <= 1 / 255
    assert float((images[0] - image).abs().max()) > 10 / 255


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_in_tiles(tiny: Weights, make: Make, picture: Picture, precision: torch.dtype) -> None:
    for options in (OPTIONS.replace(pooling="average"), OPTIONS.replace(pooling="average", distance="gatys")):
        found = []
        for tile in (0, 48):
            single = make(options, tile=tile, dtype=torch.float32)
            half = Features(tiny, single.features.layers, options.pooling, precision)
            found.append(dataclasses.replace(single, features=half).gradient(picture(SIZE[1], SIZE[0], 9))[1])
        assert bool(found[1].isfinite().all())
        assert found[1].dtype is torch.float32
        assert differ(found[1], found[0]) < 0.05


def test_no_pass_sees_more_than_a_window(monkeypatch: pytest.MonkeyPatch, make: Make, picture: Picture) -> None:
    """Neither when the targets are prepared, nor when matches are found, nor in an evaluation."""
    options, size = STROKES.replace(optimizer="adam"), (300, 260)
    seen: list[int] = []
    forward = Features.forward

    def noted(self: Features, image: Tensor, *given: Any, **settings: Any) -> dict[str, Tensor]:
        seen.append(max(image.shape[-2:]))
        return forward(self, image, *given, **settings)

    monkeypatch.setattr(Features, "forward", noted)
    monkeypatch.setattr(targets, "MAX_VIEWED_PIXELS", 4 * 64 * 64)
    objective = make(options, size, 48, dtype=torch.float32)
    objective.gradient(picture(size[1], size[0], 9))
    tile = -(-300 // 7 // 16) * 16 + 15
    assert max(seen[1:]) <= tile + 2 * objective.features.margin < min(size)
    assert seen.count(max(seen)) > 1


def test_tiles_stop_between_convolutions(make: Make, picture: Picture) -> None:
    class Stopped(Exception):
        pass

    left = [200]  # in the second pass

    def check() -> None:
        left[0] -= 1
        if not left[0]:
            raise Stopped

    objective, image = make(OPTIONS, tile=48, check=check), picture(SIZE[1], SIZE[0], 9).double()
    with pytest.raises(Stopped):
        objective.gradient(image)
    objective.gradient(image)
    assert left[0] < -200


# Matching


@pytest.mark.parametrize(("styles", "has_areas"), [(1, False), (2, False), (2, True)])
def test_tiles_find_the_same_matches(make: Make, picture: Picture, styles: int, has_areas: bool) -> None:
    """But for rounding, where two places are as similar."""
    options, areas = STROKES.replace(optimizer="adam"), divide(SIZE, is_protected=True) if has_areas else None
    image = picture(SIZE[1], SIZE[0], 9).double()
    whole, tiled = (make(options, tile=tile, areas=areas, styles=styles) for tile in (0, 32))
    found = []
    for objective in (whole, tiled):
        objective.gradient(image)
        assert objective.matching is not None
        assert objective.matching.found is not None
        found.append(objective.matching.found)
    assert float((found[0].indices == found[1].indices).double().mean()) > 0.98
    torch.testing.assert_close(found[0].mix, found[1].mix, rtol=5e-3, atol=0)
    assert len({*found[0].indices.flatten().tolist()}) > 50
    candidates = tiled.matching.candidates  # type: ignore[union-attr]
    assert len({*candidates.styles[found[1].indices].flatten().tolist()}) == styles


def test_tiled_columns_are_those_of_the_whole(tiny: Weights, picture: Picture) -> None:
    """For odd sizes, too, where a coarser layer has not quite half the positions."""
    features, base = Features(tiny, targets.MATCHED_LAYERS, "average").double(), targets.BASE_LAYER
    for height, width in ((117, 150), (63, 109)):
        image = picture(height, width, 1).double()
        tiling = Tiling.of((height, width), 32, features)
        assert tiling is not None
        whole = compute_columns(features(image), base).float()
        columns = TiledColumns.of(features, image, tiling, base, None)
        found = torch.empty(height // 4, width // 4, whole.shape[1])
        for tile in tiling.tiles:
            outer = tile.grow(16, tiling.size)
            places = outer.reduce(4)
            own = columns.compute(outer).float().view(places.bottom - places.top, places.right - places.left, -1)
            inside = tile.within(outer).cut(own.permute(2, 0, 1), 4)
            tile.cut(found.permute(2, 0, 1), 4).copy_(inside)
        torch.testing.assert_close(found.flatten(0, 1), whole, rtol=2e-3, atol=2e-3)


# Tiles


@pytest.mark.parametrize("size", [(117, 150), (15, 300), (64, 64), (1000, 33)])
@pytest.mark.parametrize("side", [0, 16, 40, 64])
def test_tiles_divide_a_picture(tiny: Weights, size: tuple[int, int], side: int) -> None:
    features = Features(tiny, ["relu5_1"])
    tiles, seen = split_picture(size, side, features), torch.zeros(size)
    for tile in tiles:
        tile.cut(seen).add_(1)
        assert tile.top % 16 == tile.left % 16 == 0
        assert len(tiles) == 1 or max(tile.bottom - tile.top, tile.right - tile.left) <= side + 31
        assert tile.count(16) >= 1 or min(size) < 16
    assert bool((seen == 1).all())
    assert (Tiling.of(size, side, features) is None) is (len(tiles) == 1)


def test_features_are_assembled_of_tiles(tiny: Weights, picture: Picture) -> None:
    features, image = Features(tiny, ["relu1_1", "relu4_1"]).double(), picture(83, 70).double()
    whole = features(image)
    for layer, maps in assemble_maps(features, image, 32).items():
        torch.testing.assert_close(maps, whole[layer], rtol=1e-12, atol=1e-12)
    tile = Tile(16, 48, 32, 70)
    part = compute_tile(features, image, tile)["relu4_1"]
    torch.testing.assert_close(part, tile.cut(whole["relu4_1"], 8), rtol=1e-12, atol=1e-12)
