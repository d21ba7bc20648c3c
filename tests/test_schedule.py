"""Schedules, checked by hand."""

import itertools
import re
from typing import Any

import pytest

from styler import schedule
from styler.errors import ImageError
from styler.geometry import fit_size
from styler.options import Options
from styler.schedule import Replay, Scale


def sizes(scales: schedule.Schedule) -> list[tuple[int, int]]:
    return [(scale.width, scale.height) for scale in scales]


def build(options: Options, width: int = 800, height: int = 600, min_side: int = 16) -> schedule.Schedule:
    """Build a schedule and leave out its opening."""
    scales = schedule.build_schedule(options, width, height, min_side)
    return tuple(scale for scale in scales if not scale.opening)


@pytest.mark.parametrize(
    ("size", "width", "height"),
    [(512, 4000, 3000), (513, 300, 900), (64, 64, 64), (8192, 100, 101), (333, 1000, 321), (1000, 640, 200)],
)
def test_scales_double_up_to_the_requested_size(size: int, width: int, height: int) -> None:
    scales = build(Options(size=size), width, height)
    sides = [max(scale.width, scale.height) for scale in scales]
    assert sides[-1] == size
    assert all(after // 2 == before for before, after in itertools.pairwise(sides))
    for scale in scales:
        assert scale.width / scale.height == pytest.approx(width / height, rel=1.0 / min(scale.width, scale.height))
        assert min(scale.width, scale.height) >= 16
    assert sides[0] < 256 or min(sizes(scales)[0]) < 64  # nothing smaller would have done


def test_the_schedule_of_a_common_picture() -> None:
    assert schedule.build_schedule(Options(iterations=100, taper=0.5, optimizer="mixed"), 800, 600, 16) == (
        Scale(128, 96, 18, "lbfgs", sketch=True, opening=True),
        Scale(128, 96, 92, "lbfgs"),
        Scale(256, 192, 50, "adam"),
        Scale(512, 384, 25, "adam", half_size_copies=1),
    )


@pytest.mark.parametrize(
    ("size", "half_size_copies"), [(256, 0), (511, 0), (512, 1), (1023, 1), (1024, 2), (2048, 3), (8192, 5)]
)
def test_half_size_copies_go_down_to_256_pixels(size: int, half_size_copies: int) -> None:
    last = schedule.build_schedule(Options(size=size, first_size=8192), 800, 600, 16)[-1]
    assert (
        last.half_size_copies,
        schedule.build_schedule(Options(size=size, multiscale=0.0), 800, 600, 16)[-1].half_size_copies,
    ) == (half_size_copies, 0)
    looks = sum(0.25**level for level in range(half_size_copies + 1))
    assert schedule.count_units((last,)) == pytest.approx(last.iterations * looks)
    for _ in range(half_size_copies):
        last = last.halve()
    assert max(last.width, last.height) == size >> half_size_copies
    assert last.half_size_copies == 0


@pytest.mark.parametrize(("size", "half_size_copies"), [(512, 0), (1023, 0), (1024, 1), (2048, 2), (8192, 4)])
def test_the_finish_of_a_sketch_has_half_size_copies_down_to_512_pixels(size: int, half_size_copies: int) -> None:
    scales = schedule.build_schedule(Options.of(preset="draft", size=size), 800, 600, 16)
    assert [scale.half_size_copies for scale in scales] == [0] * (len(scales) - 1) + [half_size_copies]
    plain = schedule.build_schedule(Options.of(preset="draft", size=size, multiscale=0.0), 800, 600, 16)
    assert plain[-1].half_size_copies == 0


def test_a_half_size_copy_is_not_narrower_than_the_network_needs() -> None:
    assert schedule.build_schedule(Options(size=1024, first_size=8192), 1024, 200, 16)[-1].half_size_copies == 2
    assert schedule.build_schedule(Options(size=1024, first_size=8192), 1024, 200, 64)[-1].half_size_copies == 1
    replay = Replay(schedule.build_schedule(Options(size=1024), 800, 600, 16), 1024, 768)
    assert [scale.half_size_copies for scale in schedule.refit_schedule(replay, 1024, 768, 16)] == [0, 0, 0, 1, 2]
    assert [scale.half_size_copies for scale in schedule.refit_schedule(replay, 64, 48, 16)] == [0, 1], (
        "at 32 and at 64 pixels"
    )


def test_the_full_network_finishes_a_sketch() -> None:
    options = Options(iterations=100, taper=0.5, sketch=0.6)
    scales = schedule.build_schedule(options, 800, 600, 16)
    assert scales == (
        Scale(128, 96, 18, "lbfgs", sketch=True, opening=True),
        Scale(128, 96, 204, "lbfgs", sketch=True),
        Scale(256, 192, 111, "adam", sketch=True),
        Scale(512, 384, 33, "adam", sketch=True),
        Scale(512, 384, 10, "adam"),
    )
    alone = schedule.build_schedule(options.replace(sketch=0.0, multiscale=0.0), 800, 600, 16)
    assert schedule.count_units(scales) == pytest.approx(schedule.count_units(alone), abs=0.2)
    assert [schedule.follows_sketch(scales, index) for index in range(5)] == [False, False, False, False, True]
    assert not schedule.follows_sketch((scales[2], scales[4]), 1)
    assert schedule.build_schedule(options.replace(iterations=1), 800, 600, 16)[-1].iterations == 1


@pytest.mark.parametrize("changed", [{"backbone": "vgg19"}, {"pooling": "max"}, {"time": 60.0}])
def test_no_sketch_if_the_slim_network_cannot_stand_in(changed: dict[str, Any]) -> None:
    options = Options(**changed)
    assert schedule.build_schedule(options.replace(sketch=0.6), 800, 600, 16) == schedule.build_schedule(
        options, 800, 600, 16
    )


def test_a_sketch_is_replayed_only_if_the_slim_network_can_stand_in() -> None:
    replay = Replay(schedule.build_schedule(Options(sketch=0.6), 800, 600, 16), 512, 384)
    assert schedule.refit_schedule(replay, 512, 384) == replay.schedule
    assert not any(scale.sketch for scale in schedule.refit_schedule(replay, 512, 384, allow_sketch=False))


def test_the_first_scale_is_at_least_first_size() -> None:
    assert sizes(schedule.build_schedule(Options(first_size=256), 100, 100, 16)) == [(256, 256), (512, 512)]
    assert sizes(schedule.build_schedule(Options(first_size=257), 100, 100, 16)) == [(512, 512)]
    assert sizes(schedule.build_schedule(Options(first_size=8192), 100, 100, 16)) == [(512, 512)]
    assert sizes(schedule.build_schedule(Options(first_size=32), 100, 100, 16))[0] == (32, 32)


OPENING = Scale(128, 96, 18, "lbfgs", sketch=True, opening=True)


@pytest.mark.parametrize(
    "changed",
    [
        *({}, {"size": 500}, {"size": 2048}, {"size": "original"}, {"preset": "draft"}, {"preset": "fine"}),
        *({"strength": 1}, {"brushwork": 0}, {"multiscale": 0.0}, {"optimizer": "lbfgs"}, {"init": "style"}),
        {"first_size": 100},
    ],
)
def test_paintings_of_every_size_and_preset_begin_as_their_previews(changed: dict[str, Any]) -> None:
    options = Options.of(**changed)
    scales = schedule.build_schedule(options, 800, 600, 16)
    assert scales[0] == schedule.plan_preview(options, 800, 600, 16)[0] == OPENING
    assert not any(scale.opening for scale in scales[1:])
    assert len(scales) > 2
    work = schedule.count_units(scales)
    alone = schedule.count_units(schedule.build_schedule(options.replace(patience=100_000), 800, 600, 16))
    assert work == pytest.approx(alone, rel=0.02), "the opening replaces as much work as it makes"


@pytest.mark.parametrize(
    "changed",
    [
        *({"time": 60}, {"patience": 5}, {"backbone": "vgg19"}, {"look": "ink"}, {"look": "gatys"}, {"size": 255}),
        *({"optimizer": "adam"}, {"first_size": 129}, {"first_size": 32}, {"iterations": 10}, {"init": "noise"}),
    ],
)
def test_other_paintings_have_no_opening_but_still_previews(changed: dict[str, Any]) -> None:
    options = Options.of(**changed)
    assert not any(scale.opening for scale in schedule.build_schedule(options, 800, 600, 16))
    preview = schedule.plan_preview(options, 800, 600, 16)
    assert preview[0].opening
    assert preview[0].size == (128, 96)
    assert preview[0].sketch == schedule.can_sketch(options)


def test_a_preview_has_strokes_only_with_brushwork_and_no_scale_at_strength_0() -> None:
    assert schedule.plan_preview(Options(), 800, 600, 16) == (OPENING, Scale(128, 96, 4, "adam", sketch=True))
    assert schedule.plan_preview(Options(brushwork=0), 800, 600, 16) == (OPENING,)
    assert schedule.plan_preview(Options(strength=0), 800, 600, 16) == ()
    options = schedule.make_preview_options(Options(size=4000, style_weights=(1.0, 2.0)), 600, 800, 16)
    assert (options.size, options.style_weights) == (128, ())


@pytest.mark.parametrize(("width", "height"), [(1024, 100), (100, 1024), (8000, 2000), (701, 333)])
def test_a_preview_is_wide_enough_for_the_network(width: int, height: int) -> None:
    (opening, _) = schedule.plan_preview(Options(), width, height, 16)
    assert min(opening.size) >= 32
    assert opening.width / opening.height == pytest.approx(width / height, rel=0.04)


def test_a_replay_at_the_same_size_repeats_every_scale_exactly() -> None:
    for width in range(300, 700, 13):
        scales = schedule.build_schedule(Options(size=501), width, 400, 16)
        replay = Replay(scales, *schedule.compute_result_size(Options(size=501), width, 400))
        assert schedule.refit_schedule(replay, *replay.size, 16) == scales


def test_a_narrow_picture_starts_at_a_scale_that_the_network_accepts() -> None:
    scales = schedule.build_schedule(Options(size=1024), 1024, 100, 16)
    assert sizes(scales) == [(328, 32), (512, 50), (1024, 100)]
    assert all(min(size) >= 2 * 16 for size in sizes(scales))


def test_the_original_size_is_kept() -> None:
    scales = schedule.build_schedule(Options(size="original"), 701, 333, 16)
    assert sizes(scales)[-1] == (701, 333)
    assert schedule.compute_result_size(Options(size="original"), 701, 333) == (701, 333)
    assert schedule.compute_result_size(Options(size=100), 701, 333) == (100, 48)


def test_a_result_that_is_too_narrow_is_an_error_that_names_a_size() -> None:
    with pytest.raises(ImageError, match=r"64×6 pixels.* needs 16 on the short side") as caught:
        schedule.build_schedule(Options(size=64), 1000, 100, 16)
    match = re.search(r"--size (\d+) or more", str(caught.value))
    assert match
    needed = int(match[1])
    assert min(sizes(schedule.build_schedule(Options(size=needed), 1000, 100, 16))[-1]) == 16
    with pytest.raises(ImageError):
        schedule.build_schedule(Options(size=needed - 10), 1000, 100, 16)


def test_the_advised_size_is_a_valid_option() -> None:
    with pytest.raises(ImageError) as caught:
        schedule.build_schedule(Options(size=8192), 10_000, 10, 16)
    scales = re.search(r"--size (\d+) or more", str(caught.value))
    assert scales is None or int(scales[1]) <= 16_384


@pytest.mark.parametrize(("width", "height"), [(16, 15), (3, 400)])
def test_an_original_that_is_too_narrow_is_an_error(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=f"{width}×{height}"):
        schedule.build_schedule(Options(size="original"), width, height, 16)


def test_strength_0_has_an_empty_schedule() -> None:
    assert schedule.build_schedule(Options(strength=0), 800, 600, 16) == ()
    assert schedule.count_units(()) == 0


@pytest.mark.parametrize(
    ("optimizer", "size", "expected"),
    [
        ("mixed", 512, ["lbfgs", "adam", "adam"]),
        ("mixed", 128, ["adam"]),
        ("adam", 512, ["adam"] * 3),
        ("lbfgs", 512, ["lbfgs"] * 3),
        ("lbfgs", 128, ["lbfgs"]),
    ],
)
def test_the_optimizer_of_each_scale(optimizer: str, size: int, expected: list[str]) -> None:
    scales = build(Options(optimizer=optimizer, size=size), 100, 100)
    assert [scale.optimizer for scale in scales] == expected


@pytest.mark.parametrize(("taper", "expected"), [(1.0, [10, 10, 10]), (0.01, [10, 1, 1]), (2.0, [10, 20, 40])])
def test_every_scale_gets_its_share_of_iterations_and_at_least_one(taper: float, expected: list[int]) -> None:
    scales = schedule.build_schedule(Options(iterations=10, taper=taper), 100, 100, 16)
    assert [scale.iterations for scale in scales] == expected


def test_a_unit_is_one_iteration_at_the_final_size() -> None:
    scales = (Scale(100, 50, 8, "lbfgs"), Scale(200, 100, 3, "adam"))
    assert scales[0].cost == 5000
    assert schedule.count_units(scales) == 8 / 4 + 3
    assert (
        schedule.count_units((Scale(200, 100, 10, "adam", sketch=True), *scales[1:])) == 10 * schedule.SKETCH_COST + 3
    )


def test_a_schedule_can_be_replayed_at_another_size() -> None:
    scales = build(Options(iterations=10))
    replay = Replay(scales, 512, 384)
    assert schedule.refit_schedule(replay, 512, 384) == scales
    assert sizes(schedule.refit_schedule(replay, 1024, 768)) == [(256, 192), (512, 384), (1024, 768)]
    assert sizes(schedule.refit_schedule(replay, 150, 300)) == [(38, 75), (75, 150), (150, 300)]
    for before, after in zip(scales, schedule.refit_schedule(replay, 150, 300), strict=True):
        assert (before.iterations, before.optimizer) == (after.iterations, after.optimizer)
    assert schedule.refit_schedule(Replay((), 512, 384), 512, 384) == ()


def test_a_schedule_that_ended_early_keeps_its_scales_at_another_size() -> None:
    ended = (Scale(128, 96, 10, "lbfgs"), Scale(256, 192, 3, "adam", planned=8))
    replay = Replay(ended, 512, 384)
    assert schedule.refit_schedule(replay, 512, 384) == ended
    assert schedule.refit_schedule(replay, 1024, 768) == (
        Scale(256, 192, 10, "lbfgs"),
        Scale(512, 384, 3, "adam", planned=8),
    )


def test_a_replay_leaves_out_scales_that_are_too_narrow() -> None:
    replay = Replay((Scale(128, 128, 10, "lbfgs"), Scale(256, 256, 8, "adam")), 256, 256)
    assert sizes(schedule.refit_schedule(replay, 256, 30, 16)) == [(256, 30)]
    with pytest.raises(ImageError, match=r"painted at 256×15 pixels"):
        schedule.refit_schedule(replay, 256, 15, 16)


def test_a_truncated_scale_keeps_its_planned_iterations() -> None:
    planned = Scale(64, 48, 8, "adam")
    assert planned.truncate(8) == planned
    cut = planned.truncate(5)
    assert (cut.iterations, cut.planned) == (5, 8)
    assert cut.truncate(5) == cut
    assert (cut.truncate(2).iterations, cut.truncate(2).planned) == (2, 8)
    assert Scale(64, 48, 8, "lbfgs").truncate(5) == Scale(64, 48, 5, "lbfgs")


@pytest.mark.parametrize(("width", "height", "side"), [(1, 100_000, 512), (100_000, 1, 64), (3, 2, 3)])
def test_fit_size_gives_the_long_side_and_no_side_of_0(width: int, height: int, side: int) -> None:
    scales = fit_size(width, height, side)
    assert max(scales) == side
    assert min(scales) >= 1
