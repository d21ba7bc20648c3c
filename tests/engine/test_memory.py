"""Memory estimates, the rungs of a plan, and errors that name what fits."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from styler.engine import styles, targets
from styler.engine.memory import estimate as estimates
from styler.engine.memory import measure
from styler.engine.memory import plan as plans
from styler.engine.memory.estimate import (
    FIXED_BYTES,
    Demand,
    Need,
    Rung,
    count_tiles,
    count_window_pixels,
    estimate_memory,
    estimate_scale,
)
from styler.engine.memory.measure import USABLE_SHARE
from styler.engine.memory.plan import MemoryPlan, advise_smaller, find_largest_side, list_rungs, plan_memory, step_down
from styler.errors import OutOfMemory
from styler.objective.candidates import CODE_LENGTH
from styler.options import Options
from styler.schedule import Scale
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Picture = Callable[..., Tensor]
SIZE, STYLES = (1000, 800), [(900, 700)]
LAYERS = Options(content_layers=("relu4_2",), style_layers=("relu5_1",), layer_weights=(1.0,), brushwork=0)


@pytest.fixture
def features(vgg16: Weights) -> Features:
    return Features(vgg16, ["relu4_2", "relu5_1"], "average")


def free(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    """Make the device report a number of free bytes."""
    monkeypatch.setattr(measure, "measure_free_memory", lambda _device: int(amount))


def estimate(features: Features, size: tuple[int, int] = SIZE, *, checkpoint: bool = False, **settings: Any) -> float:
    return need(demand(features, size, **settings), checkpoint=checkpoint)


def demand(
    features: Features,
    size: tuple[int, int] = SIZE,
    styles: list[tuple[int, int]] = STYLES,
    photo: tuple[int, int] = (0, 0),
    **settings: Any,
) -> Demand:
    options = LAYERS.replace(**{"tile": "off", **settings})
    return Demand(features=features, size=size, styles=styles, options=options, photo=photo)


def need(given: Demand, *, checkpoint: bool = False, tile: int = 0) -> float:
    return estimate_memory(given, Rung(checkpoint, tile)).device


def plan(features: Features, size: tuple[int, int] = SIZE, **settings: Any) -> MemoryPlan:
    return plan_memory(demand(features, size, **settings), (Scale(*size, 1, "adam"),))


def between(features: Features) -> float:
    """Return an amount that suffices with checkpointing and not without."""
    low, high = (estimate(features, checkpoint=saving) for saving in (True, False))
    assert low < high
    return (low + high) / 2 / USABLE_SHARE


def test_the_estimate_grows_with_the_size_and_shrinks_with_checkpointing_and_half_precision(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = estimate(features)
    assert estimate(features, (2000, 1600)) - FIXED_BYTES == pytest.approx(4 * (plain - FIXED_BYTES))
    assert estimate(features, checkpoint=True) < plain
    monkeypatch.setattr(features, "precision", "half")
    assert estimate(features) < plain


def test_the_estimate_of_the_real_network_is_near_the_measured_peak(features: Features) -> None:
    """2.0 GB for a megapixel, forward and backward; 1.27 GB with checkpointing."""
    for checkpoint, measured in ((False, 2.0e9), (True, 1.27e9)):
        actual = estimate(features, (1000, 1000), checkpoint=checkpoint) - FIXED_BYTES
        assert actual == pytest.approx(measured, rel=0.25)


def test_the_history_of_lbfgs_counts(features: Features) -> None:
    history = estimate(features, optimizer="lbfgs") - estimate(features)
    assert history == pytest.approx((2 * 20 + 1) * 12 * 800_000)


def test_the_analysis_of_the_style_counts(features: Features) -> None:
    """Strokes of four times the size need sixteen times the pixels."""
    amounts = [estimate(features, (512, 400), stroke_size=stroke_size) for stroke_size in (0.25, 1, 2, 4)]
    assert amounts == sorted(amounts)
    assert amounts[0] == amounts[1]  # an iteration needs more
    assert amounts[3] - FIXED_BYTES > 1248**2 * 512  # two maps of the first block of a tile with its margins
    enlarged, never = (need(demand(features, (64, 64), [(side, side)], stroke_size=4)) for side in (64, 9000))
    assert enlarged == never  # a style is as long as the picture, whatever its own size


def test_an_untiled_pass_would_have_counted(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = estimate(features, stroke_size=4)
    for module in (styles, estimates):
        monkeypatch.setattr(module, "TILE_SIDE", 10_000)
    assert estimate(features, stroke_size=4) > tiled + 2e9


def test_matched_features_count(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conv2_1, conv3_1 and conv4_1 have 56 numbers for each pixel, of which 32 are conv2_1's.

    Maps and principal components are in float32 here, the styles' maps and all columns in float16.
    """
    for module in (styles, targets, estimates):
        monkeypatch.setattr(module, "compute_style_size", lambda size, *_: size)
    views, plain = 4 * 900 * 700, estimate(features)
    column = 2 * 896 + 4 * CODE_LENGTH
    picture = 4 * 3 * 56 * 800_000 + 2 * 2 * 896 * 800_000 / 16 + (4 + 4 + 2) * 32 * 800_000
    held = 2 * 56 * views + 65_536 * column + picture
    assert estimate(features, brushwork=1) - plain == pytest.approx(held)
    assert estimate(features, brushwork=100) == estimate(features, brushwork=1)
    monkeypatch.setattr(targets, "MAX_CANDIDATES", 10**9)
    more = (views / 16 - 65_536) * column
    assert estimate(features, brushwork=1) - plain == pytest.approx(held + more)
    two = need(demand(features, styles=[*STYLES, *STYLES], brushwork=1))
    assert two - estimate(features, brushwork=1) == pytest.approx(views * (2 * 56 + column / 16))


def test_the_estimate_with_matched_features_is_near_the_measured_peak(features: Features) -> None:
    """538 MB more in float32 for a picture of 512×512 and a style that is analyzed at 512×411 pixels."""
    with_, without = (need(demand(features, (512, 512), [(700, 562)], brushwork=work)) for work in (50, 0))
    assert with_ - without == pytest.approx(538e6, rel=0.1)


def test_views_of_an_enlarged_style_take_no_more_than_those_of_the_whole(features: Features) -> None:
    square = [(1000, 1000)]
    sizes = (
        need(demand(features, styles=square, stroke_size=size, brushwork=50))
        - need(demand(features, styles=square, stroke_size=size))
        for size in (1, 4)
    )
    usual, large = sizes
    assert 0 < large <= usual


def test_recolored_styles_count(features: Features) -> None:
    assert estimate(features, keep_color=0.5) - estimate(features) == 12 * 900 * 700


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_auto_does_not_checkpoint_with_enough_memory(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, 1e12)
    actual = plan(features, checkpoint=wanted)
    assert (actual.final.checkpoint, actual.is_ample) == (False, True)
    assert (actual.needed, actual.usable) == (estimate(features), USABLE_SHARE * 1e12)


def test_on_always_checkpoints(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e12)
    actual = plan(features, checkpoint="on")
    assert (actual.final.checkpoint, actual.is_ample) == (True, True)


def test_auto_checkpoints_when_memory_requires_it(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    actual = plan(features)
    assert actual.final.checkpoint
    assert actual.needed == estimate(features, checkpoint=True)


def test_freed_memory_is_not_kept_where_there_is_little(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1.5 * estimate(features) / USABLE_SHARE)
    actual = plan(features)
    assert (actual.final.checkpoint, actual.is_ample) == (False, False)


@pytest.mark.parametrize(("factor", "expected"), [(1.1, (False, True)), (1.7, (False, False)), (2.2, (True, False))])
def test_the_more_room_tiles_leave_the_more_freed_memory_is_kept(
    features: Features, factor: float, expected: tuple[bool, bool]
) -> None:
    needed = need(demand(features, (4096, 3072)), tile=1024)
    actual = plan(features, (4096, 3072), tile=1024, memory=round(factor * needed))
    assert (actual.is_ample, actual.is_scarce) == expected


def test_the_option_overrides_what_is_measured(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e6)
    assert not plan(features, memory="100gb").final.checkpoint
    free(monkeypatch, 1e12)
    assert plan(features, memory=int(between(features) * USABLE_SHARE)).final.checkpoint
    with pytest.raises(
        OutOfMemory, match=r"needs about \d\.\d GB, but --memory allows 0\.5 GB; use --size \d+.* or use --tile auto\."
    ) as caught:
        plan(features, memory="500mb")
    assert "give --memory" not in str(caught.value)


def test_the_message_suggests_checkpointing_if_it_is_off(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    with pytest.raises(OutOfMemory, match="use --checkpoint auto"):
        plan(features, checkpoint="off")


@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
def test_a_picture_that_cannot_fit_is_an_error_that_names_the_largest_size(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, (FIXED_BYTES + 300e6) / USABLE_SHARE)
    message = r"1000×800 needs about .* GB, but cpu has .* GB to spare; use --size \d+,.* or give --memory"
    with pytest.raises(OutOfMemory, match=message) as caught:
        plan(features, checkpoint=wanted)
    match = re.search(r"--size (\d+)", str(caught.value))
    assert match
    side = int(match[1])
    assert 64 <= side < 1000
    assert side % 32 == 0
    plan(features, (side, side * 4 // 5), checkpoint=wanted)  # fits
    with pytest.raises(OutOfMemory):
        plan(features, (side + 64, (side + 64) * 4 // 5), checkpoint=wanted)


def test_a_smaller_stroke_size_is_named_where_it_helps(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    usable = 1.01 * estimate(features, stroke_size=2)
    free(monkeypatch, usable / USABLE_SHARE)
    for module in (styles, estimates):
        monkeypatch.setattr(module, "TILE_SIDE", 10_000)
    free(monkeypatch, 1.01 * estimate(features, stroke_size=2) / USABLE_SHARE)
    with pytest.raises(OutOfMemory, match=r"or --stroke-size 2, or use --tile auto, or give") as caught:
        plan(features, stroke_size=4)
    assert plan(features, stroke_size=2)
    assert "\n" not in str(caught.value)


def test_no_size_is_named_if_none_fits(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e6)
    assert find_largest_side(demand(features), Need(1e6)) == 0
    with pytest.raises(OutOfMemory, match="close other programs") as caught:
        plan(features)
    assert "--size" not in str(caught.value)


@pytest.mark.parametrize("amount", [1e9, 1e10, 1e13])
def test_the_advised_size_is_smaller_than_the_failed_one_and_valid(
    monkeypatch: pytest.MonkeyPatch, features: Features, amount: float
) -> None:
    """The free memory may by then exceed the estimate by far."""
    free(monkeypatch, amount)
    match = re.search(r"--size (\d+)", advise_smaller(demand(features)))
    assert match
    assert 64 <= int(match[1]) < max(SIZE)


# Tiles


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_tiles_cover_the_picture_and_their_margins_end_at_its_border() -> None:
    assert count_tiles((8192, 6144), 1024) == 48
    assert count_tiles((1025, 1024), 1024) == 2
    assert count_tiles((500, 400), 0) == count_tiles((500, 400), 512) == 1
    assert count_window_pixels((1024, 512), 512, 80) == 2 * 592 * 512
    assert count_window_pixels((1536, 512), 512, 80) == (592 + 672 + 592) * 512
    assert count_window_pixels((500, 400), 512, 80) == count_window_pixels((500, 400), 0, 80) == 200_000


def test_smaller_tiles_need_less_memory_and_that_of_a_pass_does_not_depend_on_the_size(
    monkeypatch: pytest.MonkeyPatch, features: Features
) -> None:
    monkeypatch.setattr(targets, "MAX_KEPT_BYTES", 0)
    given = demand(features, (4096, 3072))
    amounts = [need(given), need(given, checkpoint=True), *(need(given, tile=side) for side in plans.TILE_SIDES)]
    assert amounts == sorted(amounts, reverse=True)
    twice = demand(features, (8192, 6144))
    images = 12 * estimates.OPTIMIZER_IMAGES["adam"]
    small, large = (need(each, tile=512) - images * math.prod(each.size) for each in (given, twice))
    more = 4 / 3 + 2 / 3 - 1  # the photo, and the copies with their gradients, but not the best image before the last
    assert small == pytest.approx(large - 12 * more * 3 * 4096 * 3072)


def test_features_of_the_content_that_are_kept_count(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    given = demand(features, (2048, 1536))
    kept = need(given, tile=512)
    monkeypatch.setattr(targets, "MAX_KEPT_BYTES", 0)
    assert kept - need(given, tile=512) == 4 * 512 * 256 * 192  # relu4_2 in float32


def test_a_picture_that_fits_into_one_tile_needs_what_it_needs_as_a_whole(features: Features) -> None:
    assert need(demand(features), tile=1024) == need(demand(features))


def test_a_photo_of_the_same_size_is_held_once(features: Features) -> None:
    given = demand(features, (4096, 3072))
    same, other = (need(replace(given, photo=size), tile=512) for size in ((4096, 3072), (3072, 4096)))
    assert other - same == 12 * 3072 * 4096


def test_the_photo_its_protection_and_masks_count(features: Features) -> None:
    given = demand(features)
    assert need(replace(given, photo=(4000, 3000))) - need(given) == 12 * 12_000_000
    assert need(replace(given, masks=2)) - need(given) == 2 * 12 * 800_000
    assert need(replace(given, is_protected=True)) > need(given) + 28 * 800_000


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["whole", "checkpointing", 1024, 768, 512, 384, 256]),
        ({"checkpoint": "off"}, ["whole", 1024, 768, 512, 384, 256]),
        ({"tile": "off"}, ["whole", "checkpointing"]),
        ({"tile": 0, "checkpoint": "off"}, ["whole"]),
        ({"tile": 320}, [320]),
    ],
)
def test_the_options_limit_the_rungs(settings: dict[str, Any], expected: list[str | int]) -> None:
    rungs = list_rungs(Options(**settings), CPU)
    assert [rung.tile or ("checkpointing" if rung.checkpoint else "whole") for rung in rungs] == expected
    assert not any(rung.on_host for rung in rungs)  # on a CPU there is no other memory
    on_gpu = list_rungs(Options(**settings), GPU)
    assert on_gpu[: len(rungs)] == rungs
    assert all(rung.on_host for rung in on_gpu[len(rungs) :])
    assert (len(on_gpu) > len(rungs)) == (settings.get("tile") not in ("off", 0))


def test_with_checkpointing_on_tiles_have_it_too() -> None:
    assert {rung.checkpoint for rung in list_rungs(Options(checkpoint="on"), GPU)} == {True}


def test_each_scale_is_painted_on_the_first_rung_on_which_it_fits(features: Features) -> None:
    """Small scales are painted as a whole, as ever."""
    sizes = [(512, 384), (1024, 768), (2048, 1536), (4096, 3072)]
    scales = tuple(Scale(*size, 1, "adam") for size in sizes)
    given = demand(features, sizes[-1], tile="auto", memory="3gb")
    actual = plan_memory(given, scales)
    chosen = [actual.choose(size) for size in sizes]
    assert chosen[:2] == [Rung(), Rung()]
    assert [rung.order for rung in chosen] == sorted(rung.order for rung in chosen)
    assert actual.final == chosen[-1]
    assert actual.final.tile
    assert not actual.is_ample
    for size, rung in zip(sizes, chosen, strict=True):
        needed = estimate_scale(given, size, "adam", rung).device
        assert needed <= actual.needed <= actual.usable == 3e9
        faster = [each for each in list_rungs(given.options, CPU) if each.order < rung.order]
        assert all(estimate_scale(given, size, "adam", each).device > 3e9 for each in faster if each.tile < max(size))


@pytest.mark.parametrize("photo", [(8192, 6144), (4000, 3000)])
def test_50_megapixels_fit_into_6_gb(features: Features, photo: tuple[int, int]) -> None:
    given = demand(features, (8192, 6144), tile="auto", memory="6gb", sketch=0.5, photo=photo)
    assert plan_memory(given, (Scale(8192, 6144, 1, "adam"),)).final.tile


def test_the_message_of_a_picture_that_does_not_fit_in_tiles_says_so(features: Features) -> None:
    given = demand(features, (16_384, 16_384), tile="auto", memory="3gb")
    message = r"16384×16384 needs about [\d.]+ GB even in tiles of 256 px, but --memory allows 3\.0 GB; use --size \d+"
    with pytest.raises(OutOfMemory, match=message) as caught:
        plan_memory(given, (Scale(16_384, 16_384, 1, "adam"),))
    assert "--tile" not in str(caught.value)


def test_the_plan_is_a_sentence(features: Features) -> None:
    given = demand(features, (8192, 6144))
    whole, tiled = (MemoryPlan(given, 3.94e9, 1e10, 80, {given.size: rung}) for rung in (Rung(), Rung(tile=1024)))
    assert tiled.describe(840, "cuda:0") == "8192×6144: 48 tiles of 1024 (margin 80), 3.9 GB, about 15 min on cuda:0"
    assert whole.describe(84, "cpu") == "8192×6144: as a whole, 3.9 GB, about 1 min on cpu"
    rung = Rung(checkpoint=True, tile=4096, on_host=True)
    text = MemoryPlan(given, 1e9, 1e10, 80, {given.size: rung}).describe(1, "cuda")
    assert "4 tiles of 4096 (margin 80), with checkpointing, picture in the host's memory, 1.0 GB" in text


def test_tiles_and_checkpointing_take_time(features: Features) -> None:
    given = demand(features, (1024, 1024))
    rungs = {(1024, 1024): Rung(tile=512), (512, 512): Rung(tile=512), (2048, 2048): Rung(checkpoint=True)}
    actual = MemoryPlan(given, 1e9, 1e10, 80, rungs)
    assert actual.slow_down((1024, 1024)) == pytest.approx(1.7 * (592 / 512) ** 2)
    assert (actual.slow_down((512, 512)), actual.slow_down((2048, 2048))) == (1, 1.5)


def test_expected_work_counts_what_begins_a_scale_and_the_matching(features: Features) -> None:
    size = (1024, 1024)
    scales = (Scale(512, 512, 6, "lbfgs"), Scale(*size, 7, "adam"))
    plain, tiled = ({size: Rung()}, {size: Rung(tile=512)})
    without = MemoryPlan(demand(features, size, brushwork=0.0), 1e9, 1e10, 80, plain)
    assert without.count_work(scales) == (6 + 1) * 512 * 512 + (7 + 1) * 1024 * 1024
    given = demand(features, size, brushwork=50.0)
    whole, in_tiles = (MemoryPlan(given, 1e9, 1e10, 80, rungs) for rungs in (plain, tiled))
    matching = plans.MATCHING_COST * 512 * 512 + 2 * plans.MATCHING_COST * 1024 * 1024
    assert whole.count_work(scales) == without.count_work(scales) + matching
    more = (7 + 1) * (in_tiles.slow_down(size) - 1) + 2 * (plans.TILED_MATCHING_COST - plans.MATCHING_COST)
    assert in_tiles.count_work(scales) == pytest.approx(whole.count_work(scales) + more * 1024 * 1024)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_out_of_memory_leads_down_every_rung(device: torch.device) -> None:
    rung: Rung | None = Rung()
    seen = []
    while rung is not None:
        seen.append(rung)
        rung = step_down(rung, (2048, 1536), device)
    tiles = [Rung(tile=side) for side in plans.TILE_SIDES]
    on_host = [Rung(tile=side, on_host=True) for side in plans.HOST_TILE_SIDES]
    assert seen == [Rung(), Rung(checkpoint=True), *tiles, *(on_host if device == GPU else [])]
    assert step_down(Rung(checkpoint=True), (256, 256), CPU) is None  # tiles that hold all of it do not help
    assert step_down(Rung(tile=320), (512, 512), CPU) == Rung(tile=256)
    assert step_down(Rung(checkpoint=True), (512, 512), CPU) == Rung(tile=384)
