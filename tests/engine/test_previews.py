"""Previews, and the openings that they share with paintings: the same pixels, with and without them."""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from made import Pixels
from numpy.typing import NDArray
from torch import Tensor

from styler import provenance, schedule
from styler.engine import run, targets
from styler.engine import styles as style_module
from styler.engine.painter import Painter, Preview
from styler.engine.result import Result
from styler.engine.resume.scales import MAX_BEGUN, PaintedScale, ScaleCache
from styler.engine.sources import Input
from styler.errors import ImageError, StylerError
from styler.objective.terms import Objective
from styler.objective.tiles import compute_tile
from styler.options import Options, list_options

Array = NDArray[Any]
OPTIONS = Options(size=256, iterations=16, taper=0.1, device="cpu")
ALONE = OPTIONS.replace(threads=1)
"""An opening at 128 pixels, then a few more iterations at 128 and at 256."""


@pytest.fixture(scope="module")
def content(pixels: Pixels) -> Array:
    return pixels(48, 64, 1)


@pytest.fixture(scope="module")
def styles(pixels: Pixels) -> list[Input]:
    return [pixels(48, 64, seed) for seed in (2, 3, 4)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten previews, for tests of many."""
    monkeypatch.setattr(schedule, "OPENING_SIDE", 64)
    monkeypatch.setattr(schedule, "OPENING_ITERATIONS", 3)
    monkeypatch.setattr(schedule, "STROKES_ITERATIONS", 1)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the width of every image whose loss is evaluated."""
    seen: list[int] = []
    gradient = Objective.gradient

    def noted(self: Objective, image: Tensor) -> Any:
        seen.append(image.shape[-1])
        return gradient(self, image)

    monkeypatch.setattr(Objective, "gradient", noted)
    return seen


def sort_by_style(previews: Iterable[Preview]) -> list[Preview]:
    return sorted(previews, key=lambda preview: preview.style)


def get_same(first: Result, second: Result) -> bool:
    return np.array_equal(first.pixels, second.pixels) and dict(first.losses) == dict(second.losses)


def test_what_previews_share_is_computed_once(
    short: None, painter: Painter, content: Array, styles: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paintings that were analyzed before are not analyzed again, nor is the photo for each of them."""
    alone = [preview.result for preview in sort_by_style(Painter(device="cpu").previews(content, styles, ALONE))]
    assert len([*painter.analyze_styles(styles, ALONE)]) == len(styles)
    computed: list[tuple[int, ...]] = []
    compute = compute_tile

    def noted(features: Any, image: Tensor, *given: Any) -> dict[str, Tensor]:
        computed.append(tuple(image.shape[-2:]))
        return compute(features, image, *given)

    monkeypatch.setattr(style_module, "compute_tile", noted)
    previews = sort_by_style(painter.previews(content, styles, ALONE))
    assert computed == [(48, 64)]
    assert all(get_same(preview.result, result) for preview, result in zip(previews, alone, strict=True))
    assert [*painter.analyze_styles([], ALONE)] == []


def test_each_preview_is_a_small_painting_of_one_style(painter: Painter, content: Array, styles: list[Input]) -> None:
    previews = sort_by_style(painter.previews(content, styles, OPTIONS))
    assert [preview.style for preview in previews] == [0, 1, 2]
    for preview in previews:
        assert preview.result.pixels.shape == (96, 128, 3)
        assert preview.result.schedule == schedule.plan_preview(OPTIONS, 64, 48, 16)
        assert [scale.opening for scale in preview.result.schedule] == [True, False]
        assert "strokes relu3_1" in preview.result.losses
    assert not np.array_equal(previews[0].result.pixels, previews[1].result.pixels)
    (plain,) = painter.previews(content, styles[0], OPTIONS.replace(brushwork=0.0))
    assert [scale.opening for scale in plain.result.schedule] == [True]
    (none,) = painter.previews(content, styles[0], OPTIONS.replace(strength=0.0))
    assert none.result.schedule == ()


def test_each_preview_can_be_seen_before_it_has_strokes(painter: Painter, content: Array, styles: list[Input]) -> None:
    early, *found = painter.previews(content, styles, ALONE, openings=True)
    assert (early.style, early.finished) == (0, None), "the first one is shown in the midst of its opening, too"
    assert early.pixels.shape == found[0].pixels.shape
    assert not np.array_equal(early.pixels, found[0].pixels)
    assert [(each.style, each.finished is None) for each in found] == [
        (style, is_opening) for style in range(3) for is_opening in (True, False)
    ]
    early, *plain = Painter(device="cpu").previews(content, styles, ALONE.replace(brushwork=0.0), openings=True)
    assert (early.style, early.finished) == (0, None)
    assert [(each.style, each.finished is None) for each in plain] == [(style, False) for style in range(3)]
    for opening, finished, style in zip(found[::2], found[1::2], styles, strict=True):
        first = next(iter(painter.stream(content, style, ALONE)))
        assert np.array_equal(opening.pixels, first.live_view())
        assert finished.pixels is finished.result.pixels
    again = [*painter.previews(content, styles, ALONE, openings=True)]
    assert [each.finished is None for each in again] == [False] * 3, "what is there at once is not announced"


@pytest.mark.parametrize("preset", ["draft", "standard"])
def test_a_painting_continues_from_its_preview_with_the_same_pixels(
    use_tiny: None, content: Array, styles: list[Input], evaluated: list[int], preset: str
) -> None:
    options = Options.of(preset=preset, size=256, iterations=16, taper=0.1, device="cpu")
    from_nothing = Painter(device="cpu").stylize(content, styles[1], options)
    painter = Painter(device="cpu")
    for _ in painter.previews(content, styles, options):
        pass
    evaluated.clear()
    reports = [*painter.stream(content, styles[1], options)]
    result = reports[-1].result
    assert result is not None
    assert get_same(result, from_nothing)
    assert result.schedule == from_nothing.schedule
    assert result.schedule[0].opening
    assert result.scale_seconds[0] == 0
    assert len(evaluated) == sum(scale.iterations for scale in result.schedule[1:])
    assert reports[0].live_view().shape == (96, 128, 3), "the opening is shown at once"
    assert reports[0].units == 0
    assert reports[-1].units == pytest.approx(reports[-1].total_units)


@pytest.mark.parametrize("evaluations", [0, 1, 2, 5])
def test_a_painting_goes_on_from_an_interrupted_preview_with_the_same_pixels(
    use_tiny: None,
    content: Array,
    styles: list[Input],
    evaluated: list[int],
    monkeypatch: pytest.MonkeyPatch,
    evaluations: int,
) -> None:
    """What was evaluated before the preview was stopped, in the midst of an evaluation, is not evaluated again."""
    from_nothing, painter = Painter(device="cpu").stylize(content, styles[1], ALONE), Painter(device="cpu")
    whole, stop, gradient = len(evaluated), threading.Event(), Objective.gradient
    evaluated.clear()

    def interrupt(self: Objective, image: Tensor) -> Any:
        if len(evaluated) == evaluations:
            stop.set()
        return gradient(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "gradient", interrupt)
        assert [*painter.previews(content, styles[1], ALONE, stop)] == []
    assert len(evaluated) == evaluations + 1
    evaluated.clear()
    sizes, compute = list[tuple[int, int]](), targets.compute_targets

    def note(features: Any, photo: Any, blend: Any, size: tuple[int, int], *given: Any) -> Any:
        sizes.append(size)
        return compute(features, photo, blend, size, *given)

    monkeypatch.setattr(targets, "compute_targets", note)
    first, *reports = painter.stream(content, styles[1], ALONE)
    assert len(evaluated) == whole - evaluations
    assert (128, 96) not in sizes, "targets are kept, too"
    assert (first.iteration, reports[0].iteration) == (max(1, evaluations), max(1, evaluations) + 1)
    assert first.live_view().shape == (96, 128, 3)
    assert first.units > 0
    result = reports[-1].result
    assert result is not None
    assert get_same(result, from_nothing)
    assert result.schedule == from_nothing.schedule
    assert result.units == pytest.approx(from_nothing.units)
    assert 0 < sum(result.scale_seconds) <= result.seconds


def test_what_was_interrupted_is_forgotten_when_it_is_painted_and_when_others_follow(
    use_tiny: None, content: Array, pixels: Pixels
) -> None:
    painter = Painter(device="cpu")
    paintings = [pixels(48, 64, seed) for seed in range(MAX_BEGUN + 1)]

    def begin(painting: Array) -> int:
        """Stop a painting after two iterations of its opening, and return where it began."""
        stop, iterations = threading.Event(), []
        for report in painter.stream(content, painting, ALONE, stop):
            iterations.append(report.iteration)
            if report.iteration == 2:
                stop.set()
        return iterations[0]

    assert [begin(painting) for painting in paintings] == [1] * len(paintings)
    assert begin(paintings[0]) == 1, "the oldest was forgotten"
    assert begin(paintings[-1]) == 2
    painter.stylize(content, paintings[-1], ALONE)
    report = next(iter(painter.stream(content, paintings[-1], ALONE)))
    assert report.iteration == report.schedule[0].iterations


def test_previews_do_not_depend_on_what_was_painted_before(
    use_tiny: None, content: Array, styles: list[Input], evaluated: list[int]
) -> None:
    first = sort_by_style(Painter(device="cpu").previews(content, styles, OPTIONS))
    painter = Painter(device="cpu")
    painter.stylize(content, styles[1], OPTIONS)
    evaluated.clear()
    second = sort_by_style(painter.previews(content, styles, OPTIONS.replace(size=512, iterations=90)))
    assert all(get_same(ours.result, theirs.result) for ours, theirs in zip(first, second, strict=True))
    per_opening, per_strokes = (scale.iterations for scale in schedule.plan_preview(OPTIONS, 64, 48, 16))
    assert len(evaluated) == 2 * per_opening + 3 * per_strokes, "the opening of one was there"
    evaluated.clear()
    third = sort_by_style(painter.previews(content, styles, OPTIONS))
    assert evaluated == []
    assert all(get_same(ours.result, theirs.result) for ours, theirs in zip(first, third, strict=True))


VARIED: dict[str, Any] = {
    **{"strength": 60.0, "stroke_size": 2.0, "brushwork": 20.0, "keep_color": 0.5, "init": "style", "seed": 7},
    **{"preset": "draft", "look": "oil", "iterations": 14, "taper": 0.2, "sketch": 0.5, "first_size": 65},
    **{"optimizer": "lbfgs", "learning_rate": 0.02, "distance": "gram", "content_layers": ("relu3_1",)},
    **{"content_weight": 0.1, "style_layers": ("relu2_1", "relu4_1"), "layer_weights": (1.0,), "keep_border": True},
    **{"smoothness": 0.5, "multiscale": 0.0, "pooling": "max", "size": 140, "threads": 1, "checkpoint": "on"},
    **{"tile": 96, "memory": 10**10, "time": 0.0, "patience": 0, "backbone": "vgg16", "device": "cpu"},
    **{"precision": "fp32", "paper": "1.2x1cm", "dpi": 150, "fit": "crop", "style_weights": (2.0,)},
    **{"protect": ("none",), "regions": (), "labels": "labels.png"},
}
"""Another value of every option, or the same where another would need other hardware, a clock, or more paintings."""


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", [*list_options()])
def test_an_opening_is_shared_only_if_it_would_be_the_same(
    use_tiny: None, content: Array, styles: list[Input], name: str
) -> None:
    options = OPTIONS.replace(taper=0.01, size=128, first_size=64)
    other = options.replace(**{name: VARIED[name]})
    painter = Painter(device="cpu")
    for _ in painter.previews(content, styles[0], options):
        pass
    shared, alone = painter.stylize(content, styles[0], other), Painter(device="cpu").stylize(content, styles[0], other)
    assert get_same(shared, alone)


def test_the_record_repeats_a_preview_and_a_painting_from_nothing(
    use_tiny: None, content: Array, styles: list[Input]
) -> None:
    painter = Painter(device="cpu")
    (preview,) = painter.previews(content, styles[0], OPTIONS)
    for result in (preview.result, painter.stylize(content, styles[0], OPTIONS)):
        record = provenance.make_record(result)
        assert record["schedule"][0]["opening"]
        options = Options(**record["options"])
        replay = provenance.replay_from_record(record)
        again = Painter(device="cpu").stylize(content, styles[0], options, replay=replay)
        assert get_same(again, result)


def test_previews_stop_at_once_and_lose_only_what_was_unfinished(
    painter: Painter, content: Array, styles: list[Input], monkeypatch: pytest.MonkeyPatch, evaluated: list[int]
) -> None:
    stop = threading.Event()
    seen = []
    for preview in painter.previews(content, styles, ALONE, stop):
        seen.append(preview.style)
        stop.set()
    assert seen == [0]
    paint = run.Run.check
    stop = threading.Event()

    def stop_in_the_second(self: run.Run) -> None:
        if len(evaluated) == 5:
            stop.set()
        paint(self)

    evaluated.clear()
    monkeypatch.setattr(run.Run, "check", stop_in_the_second)
    assert [preview.style for preview in painter.previews(content, styles, ALONE, stop)] == [0]
    assert len(evaluated) == 5, "of the second; the first was kept"
    stop = threading.Event()
    stop.set()
    assert [*painter.previews(content, styles, ALONE, stop)] == []


def test_a_style_is_read_when_its_turn_comes(painter: Painter, content: Array, styles: list[Input]) -> None:
    read: list[int] = []

    def give() -> Iterator[Input]:
        for index, style in enumerate(styles):
            read.append(index)
            yield style

    previews = painter.previews(content, give(), ALONE)
    next(previews)
    assert read in ([0], [0, 1]), "while the first is looked at, the second may be begun"
    previews.close()
    with pytest.raises(StylerError, match="Style 2"):
        [*painter.previews(content, [styles[0], np.zeros(3)], ALONE)]


@pytest.mark.parametrize("threads", [1, 3])
def test_previews_are_the_same_side_by_side(
    painter: Painter, content: Array, styles: list[Input], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is painted with one thread, and so is what a painting shares with them."""
    seen: set[tuple[int, int]] = set()
    paint = run.Run.check

    def watch(self: run.Run) -> None:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        paint(self)

    monkeypatch.setattr(run.Run, "check", watch)
    alone = sort_by_style(Painter(device="cpu").previews(content, styles, ALONE))
    assert len(seen) == 1
    seen.clear()
    before = torch.get_num_threads()
    together = sort_by_style(painter.previews(content, styles, OPTIONS.replace(threads=threads)))
    assert all(get_same(ours.result, theirs.result) for ours, theirs in zip(alone, together, strict=True))
    assert {count for _, count in seen} == {1}
    assert len(seen) <= threads
    assert torch.get_num_threads() == before


def test_closing_previews_ends_the_work_of_all_threads(painter: Painter, content: Array, styles: list[Input]) -> None:
    before = threading.active_count()
    previews = painter.previews(content, styles * 20, OPTIONS.replace(threads=3))
    next(previews)
    assert threading.active_count() == before + 3
    previews.close()
    assert threading.active_count() == before


def test_a_photo_that_is_too_narrow_is_refused(painter: Painter, pixels: Pixels, styles: list[Input]) -> None:
    with pytest.raises(ImageError, match="10×6000"):
        next(painter.previews(np.zeros((6000, 10, 3), np.float32), styles))


def make_scale(side: int) -> PaintedScale:
    return PaintedScale(torch.zeros(1, 3, side, side), {}, {})


def test_the_cache_is_bounded_and_drops_what_was_used_least_recently() -> None:
    device = torch.device("cpu")
    one = make_scale(10).bytes
    cache = ScaleCache(max_bytes=3 * one)
    for key in "abc":
        cache.put(key, device, make_scale(10))
    assert cache.get("a", device) is not None
    cache.put("d", device, make_scale(10))
    assert [key for key in "abcd" if cache.get(key, device)] == ["a", "c", "d"]
    assert cache.bytes == 3 * one
    cache.put("large", device, make_scale(100))
    assert [key for key in "acd" if cache.get(key, device)] == []
    assert cache.get("large", device) is not None


def test_threads_preview_and_paint_with_one_painter(use_tiny: None, content: Array, styles: list[Input]) -> None:
    painter = Painter(device="cpu")
    expected = Painter(device="cpu").stylize(content, styles[0], OPTIONS)
    results: list[Result] = []
    previews: list[Preview] = []
    threads = [
        threading.Thread(target=lambda: previews.extend(painter.previews(content, styles, OPTIONS))),
        threading.Thread(target=lambda: results.append(painter.stylize(content, styles[0], OPTIONS))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(previews) == 3
    assert get_same(results[0], expected)
