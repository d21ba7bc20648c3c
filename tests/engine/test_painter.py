"""Whole paintings on the tiny network: results, progress, stopping, inputs, caching and errors."""

import dataclasses
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import styler
from styler import images, provenance, schedule
from styler.engine import optimizers, targets
from styler.engine.color import measure_colors, transfer_colors
from styler.engine.memory import measure
from styler.engine.painter import Painter
from styler.engine.result import Progress, Result
from styler.errors import DeviceError, ImageError, OptionError, OutOfMemory, OutputError, UsageError
from styler.objective.losses import coarse_chroma
from styler.objective.terms import Objective
from styler.options import Options
from styler.resample import resize
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Array = NDArray[Any]
Pixels = Callable[..., NDArray[np.float32]]
Gradient = tuple[dict[str, Tensor], Tensor]
Watch = Callable[[Callable[[int], None]], list[Objective]]
FAST = Options(size=64, first_size=32, iterations=6, taper=0.5, device="cpu")
"""Six iterations at 32 pixels by L-BFGS, three at 64 by Adam."""
STILL = FAST.replace(optimizer="adam", iterations=1, learning_rate=1e-4, first_size=64)
"""One iteration that hardly changes the first image."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record width and height of every image that passes through the network."""
    seen: list[tuple[int, int]] = []
    forward = Features.forward

    def counted(self: Features, image: Tensor, *rest: Any, **settings: Any) -> dict[str, Tensor]:
        seen.append((image.shape[-1], image.shape[-2]))
        return forward(self, image, *rest, **settings)

    monkeypatch.setattr(Features, "forward", counted)
    return seen


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return `watch(before)`, which calls `before(n)` before the n-th evaluation and records all objectives."""
    gradient = Objective.gradient

    def watch(before: Callable[[int], None]) -> list[Objective]:
        seen: list[Objective] = []

        def watched(self: Objective, image: Tensor) -> Gradient:
            seen.append(self)
            before(len(seen) - 1)
            return gradient(self, image)

        monkeypatch.setattr(Objective, "gradient", watched)
        return seen

    return watch


@pytest.fixture
def threads() -> Iterator[int]:
    """Return the number of threads, which the test may change."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def chroma(actual: Array) -> Tensor:
    return coarse_chroma(torch.from_numpy(actual).permute(2, 0, 1)[None])


def complete(result: Result | None, options: Options = FAST) -> Result:
    """Check that a result is a complete picture and return it."""
    assert result is not None
    assert result.pixels.shape == (options.size, options.size, 3)
    assert result.pixels.dtype == np.float32
    assert np.isfinite(result.pixels).all()
    assert result.pixels.min() >= 0
    assert result.pixels.max() <= 1
    return result


# Results


def test_a_seed_determines_the_pixels(painter: Painter, content: Array, style: Array) -> None:
    first, again, other = (painter.stylize(content, style, FAST.replace(seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.abs(first.pixels - other.pixels).max() > 1e-3
    assert dict(first.losses) == dict(again.losses)


def test_the_global_random_state_is_neither_read_nor_changed(painter: Painter, content: Array, style: Array) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = painter.stylize(content, style, FAST)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert np.array_equal(painter.stylize(content, style, FAST).pixels, first.pixels)


def test_the_result_records_how_it_was_made(painter: Painter, content: Array, style: Array) -> None:
    result = complete(painter.stylize(content, style, FAST))
    assert result.options == FAST
    assert [(scale.width, scale.height, scale.optimizer) for scale in result.schedule] == [
        (32, 32, "lbfgs"),
        (64, 64, "adam"),
    ]
    assert result.iterations == sum(scale.iterations for scale in result.schedule) == 9
    assert result.units == pytest.approx(6 / 4 + 3)
    assert (result.device, result.precision, result.threads) == ("cpu", "float32", torch.get_num_threads())
    assert result.weights_sha256 == "0" * 64
    assert not result.stopped
    assert result.notes == ()
    assert len(result.scale_seconds) == 2
    assert 0 < sum(result.scale_seconds) <= result.seconds


def test_a_result_is_saved_with_its_record_and_the_alpha_and_metadata_of_the_content(
    painter: Painter, content: Array, style: Array, tmp_path: Path
) -> None:
    alpha = np.linspace(0, 1, 32, dtype=np.float32).repeat(32).reshape(32, 32)
    alpha.setflags(write=False)  # as those that a decoder keeps
    photo = images.Picture(content[:32, :32], alpha, sha256="a" * 64, metadata={"artist": "somebody"})
    result = painter.stylize(photo, [images.Picture(style, sha256="b" * 64), style], FAST)
    assert (result.content_sha256, result.style_sha256, result.start_sha256) == ("a" * 64, ("b" * 64, ""), "")
    path = result.save(tmp_path / "new" / "painted.png", keep_metadata=True)
    record = provenance.read_record(path)
    assert (record["content"], record["styles"], record["init"]) == ("a" * 64, ["b" * 64, ""], "")
    saved = images.read_image(path)
    assert saved.metadata == {"artist": "somebody"}
    assert saved.alpha is not None
    expected = resize(torch.tensor(alpha)[None, None], 64, 64)[0, 0].numpy()
    assert np.abs(saved.alpha - expected).max() <= 0.5 / 255 + 1e-6
    assert images.read_image(result.encode()).metadata == {}
    assert images.read_text(result.encode(settings=False)) == {}
    with pytest.raises(OutputError, match="exists"):
        result.save(path)
    result.save(path, overwrite=True, bit_depth=16)
    with pytest.raises(OutputError, match=r"\.xyz"):
        result.save(tmp_path / "painted.xyz")


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("distance", ["wasserstein", "gram"])
def test_the_loss_falls_at_every_scale(
    painter: Painter, content: Array, style: Array, optimizer: str, distance: str
) -> None:
    options = FAST.replace(optimizer=optimizer, distance=distance, iterations=20, taper=1)
    losses: dict[int, list[float]] = {0: [], 1: []}
    for progress in painter.stream(content, style, options):
        if progress.result is None:
            losses[progress.scale].append(progress.loss)
    for actual in losses.values():
        assert min(actual) < 0.8 * actual[0]


def test_the_losses_of_a_result_are_those_of_its_pixels(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array
) -> None:
    """With L-BFGS, whose last evaluation may be a rejected trial."""
    seen: dict[bytes, dict[str, float]] = {}
    gradient = Objective.gradient

    def watched(self: Objective, image: Tensor) -> Gradient:
        terms, slope = gradient(self, image)
        seen[image[0].permute(1, 2, 0).contiguous().numpy().tobytes()] = {name: float(x) for name, x in terms.items()}
        return terms, slope

    monkeypatch.setattr(Objective, "gradient", watched)
    for steps in range(2, 14):
        result = painter.stylize(
            content, style, FAST.replace(optimizer="lbfgs", iterations=steps, taper=1, first_size=64)
        )
        assert dict(result.losses) == seen[result.pixels.tobytes()]


def test_the_result_is_the_best_image_and_not_the_last(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array
) -> None:
    """With Adam and steps so large that the first image is the best."""
    seen: list[tuple[float, Array]] = []
    gradient = Objective.gradient

    def watched(self: Objective, image: Tensor) -> Gradient:
        terms, slope = gradient(self, image)
        seen.append((float(terms["total"]), image[0].permute(1, 2, 0).numpy().copy()))
        return terms, slope

    monkeypatch.setattr(Objective, "gradient", watched)
    result = painter.stylize(content, style, STILL.replace(iterations=5, learning_rate=1.0))
    best = min(seen, key=lambda pair: pair[0])
    assert best is not seen[-1]
    assert np.array_equal(result.pixels, best[1])


def test_a_replay_gives_the_same_pixels(painter: Painter, content: Array, style: Array) -> None:
    first = painter.stylize(content, style, FAST)
    again = painter.stylize(content, style, FAST.replace(iterations=99, optimizer="adam"), replay=first.replay)
    assert again.schedule == first.schedule
    assert np.array_equal(again.pixels, first.pixels)


@pytest.mark.parametrize("made", [1, 4, 6, 7, 10, 13, 14])
@pytest.mark.parametrize("optimizer", ["mixed", "adam"])
def test_a_stopped_painting_is_replayed_as_far_as_it_went(
    painter: Painter, content: Array, style: Array, made: int, optimizer: str
) -> None:
    """In the middle of each of three scales, and between them."""
    options = Options(size=128, first_size=32, iterations=6, taper=1, device="cpu", optimizer=optimizer)
    stop = threading.Event()
    for progress in painter.stream(content, style, options, stop):
        if progress.total_iterations == made:
            stop.set()
    first = complete(progress.result, options)
    assert first.stopped
    again = painter.stylize(content, style, options, replay=first.replay)
    assert not again.stopped
    assert (again.schedule, again.iterations, again.units) == (first.schedule, made, first.units)
    assert np.array_equal(again.pixels, first.pixels)
    assert np.array_equal(painter.stylize(content, style, options, replay=again.replay).pixels, first.pixels)


def test_a_stop_in_the_first_iteration_of_a_scale_keeps_the_image_of_the_scale_before(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array
) -> None:
    stop, conv2d, armed, options = threading.Event(), F.conv2d, [False], FAST.replace(size=128)

    def stopping(*args: Any, **settings: Any) -> Tensor:
        if armed[0]:
            stop.set()
        return conv2d(*args, **settings)

    monkeypatch.setattr(F, "conv2d", stopping)
    for progress in painter.stream(content, style, options, stop):
        armed[0] = progress.total_iterations == 6
    first = complete(progress.result, options)
    assert [scale.iterations for scale in first.schedule] == [6]
    monkeypatch.undo()
    again = painter.stylize(content, style, options, replay=first.replay)
    assert np.array_equal(again.pixels, first.pixels)


def test_any_size_and_proportion_can_be_painted(painter: Painter, pixels: Pixels, style: Array) -> None:
    result = painter.stylize(pixels(50, 71, 5), style, FAST.replace(size=67))
    assert result.pixels.shape == (47, 67, 3)
    result = painter.stylize(pixels(33, 70, 5), style, FAST.replace(size="original"))
    assert result.pixels.shape == (33, 70, 3)


def test_at_low_strength_the_content_keeps_its_detail_through_all_scales(
    painter: Painter, content: Array, style: Array
) -> None:
    result = painter.stylize(content, style, STILL.replace(strength=0.1, first_size=32))
    assert len(result.schedule) == 2
    assert np.abs(result.pixels - content).max() < 6e-3


def test_above_strength_50_the_first_image_and_the_detail_depart_from_the_content(
    painter: Painter, content: Array, style: Array
) -> None:
    def likeness(strength: float) -> float:
        actual = painter.stylize(content, style, STILL.replace(strength=strength)).pixels
        return float(np.corrcoef(actual.ravel(), content.ravel())[0, 1])

    likenesses = [likeness(strength) for strength in (50, 60, 75, 90, 100)]
    assert likenesses == sorted(likenesses, reverse=True)
    assert likenesses[0] > 0.95
    assert likenesses[-1] < 0.4

    for strength in (50, 100):  # but a start that was chosen is left as it is
        actual = painter.stylize(content, style, STILL.replace(strength=strength, init="style")).pixels
        start = resize(torch.from_numpy(style).permute(2, 0, 1)[None], 64, 64)[0].permute(1, 2, 0).numpy()
        assert np.corrcoef(actual.ravel(), start.ravel())[0, 1] > 0.95

    still = STILL.replace(first_size=32, init="noise")
    large = {
        strength: painter.stylize(content, style, still.replace(strength=strength)).pixels for strength in (50, 100)
    }
    whole = torch.from_numpy(content).permute(2, 0, 1)[None]
    band = (resize(whole, 64, 64) - resize(resize(whole, 32, 32), 64, 64))[0].permute(1, 2, 0).numpy()
    missing = large[50] - large[100]  # what both were enlarged from is the same but for one small step
    assert float((missing * band).sum() / (band**2).sum()) == pytest.approx(1, abs=0.05)


def test_more_strength_departs_further_from_the_content(painter: Painter, content: Array, style: Array) -> None:
    near = FAST.replace(iterations=30, optimizer="lbfgs")  # which gets close enough to what is asked for
    moved = [
        float(np.abs(painter.stylize(content, style, near.replace(strength=strength)).pixels - content).mean())
        for strength in (0, 10, 50, 100)
    ]
    assert moved[0] == 0
    assert moved == sorted(set(moved))


def test_strength_0_returns_the_content(
    painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    reports = list(painter.stream(content, style, FAST.replace(strength=0)))
    assert len(reports) == 1
    result = complete(reports[0].result)
    assert np.array_equal(result.pixels, content)
    assert (result.schedule, result.iterations, result.units) == ((), 0, 0)
    assert dict(result.losses) == {}
    assert not result.stopped
    assert np.isnan(reports[0].loss)
    assert (reports[0].size, reports[0].iterations) == ((0, 0), 0)
    small = painter.stylize(np.repeat(np.repeat(content, 2, 0), 2, 1), style, FAST.replace(strength=0))
    assert np.abs(complete(small).pixels - content).mean() < 0.02
    assert passes == []


def test_strength_0_at_the_original_size_changes_no_byte(painter: Painter, style: Array) -> None:
    original = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    result = painter.stylize(original, style, Options(size="original", strength=0))
    assert np.array_equal(np.rint(result.pixels * 255).astype(np.uint8), original)


# Progress


def test_only_the_last_report_has_the_result(painter: Painter, content: Array, style: Array) -> None:
    reports = list(painter.stream(content, style, FAST))
    assert [report.result is None for report in reports] == [True] * 9 + [False]
    last = reports[-1]
    assert last.result is not None
    assert last.live_view() is last.result.pixels
    assert last.total_iterations == last.result.iterations == 9
    assert last.eta == 0
    assert dict(last.result.losses) == reports[-2].losses == last.losses


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "mixed"])
def test_reported_numbers_never_decrease(painter: Painter, content: Array, style: Array, optimizer: str) -> None:
    reports = list(painter.stream(content, style, FAST.replace(optimizer=optimizer)))
    steps = reports[:-1]
    assert [report.total_iterations for report in steps] == list(range(1, len(steps) + 1))
    for before, after in itertools.pairwise(reports):
        assert before.units <= after.units
        assert before.seconds <= after.seconds
        assert (before.scale, before.iteration) <= (after.scale, after.iteration)
    for report in reports:
        assert report.schedule == schedule.build_schedule(FAST.replace(optimizer=optimizer), 64, 64, 16)
        assert report.iteration <= report.iterations
        assert report.units <= report.total_units + 1e-9
        assert report.eta is not None
        assert report.eta >= 0
        assert set(report.losses) == set(report.terms)
        assert report.loss == report.losses["total"]
    assert reports[-1].units == pytest.approx(reports[-1].total_units)


def test_a_scale_that_ends_early_is_recorded_as_executed(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array
) -> None:
    lbfgs = optimizers.lbfgs
    monkeypatch.setattr(optimizers, "lbfgs", lambda *args: itertools.islice(lbfgs(*args), 2))
    reports = list(painter.stream(content, style, FAST.replace(optimizer="mixed")))
    result = complete(reports[-1].result)
    assert [scale.iterations for scale in result.schedule] == [2, 3]
    assert not result.stopped
    assert [report.total_iterations for report in reports] == [1, 2, 3, 4, 5, 5]
    assert reports[-1].units == pytest.approx(2 / 4 + 3)
    assert reports[-1].total_units == pytest.approx(2 / 4 + 3)


def test_a_live_view_shows_the_image_of_its_report(painter: Painter, content: Array, style: Array) -> None:
    reports = list(painter.stream(content, style, FAST))
    previews = [report.live_view() for report in reports]  # all of them made at the end
    assert [preview.shape[:2] for preview in previews] == [report.size[::-1] for report in reports]
    early = next(painter.stream(content, style, FAST))
    assert np.array_equal(early.live_view(), previews[0])
    assert np.abs(previews[1] - previews[5]).max() > 1e-3


def test_the_module_functions_paint_like_the_painter(
    use_tiny: None, painter: Painter, content: Array, style: Array
) -> None:
    expected = painter.stylize(content, style, FAST).pixels
    assert np.array_equal(styler.stylize(content, style, FAST).pixels, expected)
    last = list(styler.stream(content, style, FAST))[-1]
    assert last.result is not None
    assert np.array_equal(last.result.pixels, expected)


def test_options_default_to_the_defaults(painter: Painter, content: Array, style: Array) -> None:
    first = next(painter.stream(content, style))
    assert first.schedule == schedule.build_schedule(Options(), 64, 64, 16)


# Stopping and sharing


def test_stop_from_another_thread_gives_the_best_image_at_full_size(
    painter: Painter, content: Array, style: Array
) -> None:
    stop, reports = threading.Event(), []
    started = threading.Event()

    def paint() -> None:
        for progress in painter.stream(content, style, FAST.replace(optimizer="adam", iterations=100_000), stop):
            reports.append(progress)
            if len(reports) == 3:
                started.set()

    thread = threading.Thread(target=paint)
    thread.start()
    assert started.wait(60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    result = complete(reports[-1].result)
    assert result.stopped
    (scale,) = result.schedule
    assert (scale.width, scale.height) == (32, 32)
    assert 3 <= result.iterations == scale.iterations < 100_000
    assert reports[-1].total_iterations == result.iterations
    assert result.units == pytest.approx(result.iterations / 4)
    assert reports[-1].eta == 0


def test_a_painting_stopped_at_a_small_scale_has_the_detail_of_the_content(
    painter: Painter, content: Array, style: Array
) -> None:
    stop = threading.Event()
    reports = []
    for progress in painter.stream(content, style, STILL.replace(strength=0.1, first_size=32), stop):
        reports.append(progress)
        stop.set()
    result = complete(reports[-1].result)
    assert result.stopped
    assert result.iterations == 1
    assert np.abs(result.pixels - content).max() < 6e-3


@pytest.mark.parametrize("at", [1, 5, 14, 20, 30, 100])
def test_stop_takes_effect_between_convolutions(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array, at: int
) -> None:
    """Of the content, of the style and of the image."""
    stop, made, conv2d = threading.Event(), [0], F.conv2d

    def counted(*args: Any, **settings: Any) -> Tensor:
        made[0] += "padding" in settings  # other convolutions are products of the statistics
        if made[0] == at:
            stop.set()
        return conv2d(*args, **settings)

    monkeypatch.setattr(F, "conv2d", counted)
    result = complete(painter.stylize(content, style, FAST.replace(iterations=50), stop))
    assert result.stopped
    assert made[0] == at


def test_stop_before_the_first_iteration_gives_the_content(
    painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    stop = threading.Event()
    stop.set()
    reports = list(painter.stream(content, style, FAST, stop))
    assert len(reports) == 1
    result = complete(reports[0].result)
    assert result.stopped
    assert (result.schedule, result.iterations, dict(result.losses)) == ((), 0, {})
    assert np.array_equal(result.pixels, content)
    assert passes == []


def test_stop_after_the_last_iteration_has_no_effect(painter: Painter, content: Array, style: Array) -> None:
    stop = threading.Event()
    for progress in painter.stream(content, style, FAST, stop):
        if progress.total_iterations == 9:
            stop.set()
    result = complete(progress.result)
    assert result.iterations == 9
    assert not result.stopped


def test_closing_the_generator_discards_the_painting(
    painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    generator = painter.stream(content, style, FAST)
    next(generator)
    next(generator)
    done = len(passes)
    generator.close()  # type: ignore[attr-defined]
    assert len(passes) == done
    assert list(generator) == []
    complete(painter.stylize(content, style, FAST))


def test_the_generator_can_be_advanced_from_several_threads(painter: Painter, content: Array, style: Array) -> None:
    expected = painter.stylize(content, style, FAST).pixels
    generator, reports = painter.stream(content, style, FAST), []
    for _ in range(10):
        thread = threading.Thread(target=lambda: reports.append(next(generator)))
        thread.start()
        thread.join(60)
    assert len(reports) == 10
    assert np.array_equal(complete(reports[-1].result).pixels, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_setting_of_torch_stays_changed_between_reports(
    use_tiny: None, content: Array, style: Array, precision: str
) -> None:
    painter = Painter(device="cpu", precision=precision)
    reports = []
    for progress in painter.stream(content, style, FAST):
        reports.append(progress)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
    result = complete(reports[-1].result)
    assert result.precision == {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]


def test_the_options_of_each_painting_choose_its_backbone(
    monkeypatch: pytest.MonkeyPatch, tiny: Weights, content: Array, style: Array
) -> None:
    other = dataclasses.replace(
        tiny, sha256="1" * 64, kernels={name: 1.5 * tensor for name, tensor in tiny.kernels.items()}
    )
    read: list[str] = []

    def load(name: str) -> Weights:
        read.append(name)
        return {"vgg16": tiny, "other": other}[name]

    monkeypatch.setattr(registry, "load_backbone", load)
    painter = Painter(device="cpu")
    actual = [painter.stylize(content, style, FAST.replace(backbone=name)) for name in ("other", "vgg16", "other")]
    assert [result.weights_sha256 for result in actual] == [other.sha256, tiny.sha256, other.sha256]
    assert np.array_equal(actual[0].pixels, actual[2].pixels)
    assert np.array_equal(actual[1].pixels, Painter(device="cpu").stylize(content, style, FAST).pixels)
    assert not np.array_equal(actual[0].pixels, actual[1].pixels)
    assert read == ["vgg16", "other", "vgg16"]


def test_a_sketch_uses_the_slim_network(
    monkeypatch: pytest.MonkeyPatch, tiny: Weights, content: Array, style: Array
) -> None:
    slim = dataclasses.replace(tiny, sha256="1" * 64, kernels={name: 1.5 * part for name, part in tiny.kernels.items()})
    monkeypatch.setattr(registry, "load_backbone", {"vgg16": tiny, "vgg16-slim": slim}.__getitem__)
    looked: list[str] = []
    forward = Features.forward

    def noted(self: Features, *given: Any, **settings: Any) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            looked.append(self.sha256[0])
        return forward(self, *given, **settings)

    monkeypatch.setattr(Features, "forward", noted)
    options = FAST.replace(sketch=0.5, iterations=4, taper=1.0)
    result = Painter(device="cpu").stylize(content, style, options)
    assert [(scale.width, scale.iterations, scale.sketch) for scale in result.schedule] == [
        (32, 9, True),
        (64, 4, True),
        (64, 2, False),
    ]
    assert "".join(looked) == 13 * "1" + 2 * "0"
    assert (result.slim_sha256, result.torch) == (slim.sha256, torch.__version__)
    assert Painter(device="cpu").stylize(content, style, FAST).slim_sha256 == ""
    monkeypatch.setattr(registry, "load_backbone", {"vgg16": tiny}.__getitem__)
    Painter(device="cpu").load_networks(FAST.replace(pooling="max"))  # the slim network cannot stand in
    with pytest.raises(KeyError, match="vgg16-slim"):
        Painter(device="cpu").load_networks(options)
    monkeypatch.setattr(registry, "load_backbone", {"vgg16": tiny, "vgg16-slim": slim}.__getitem__)
    assert result.weights_sha256 == tiny.sha256
    again = Painter(device="cpu").stylize(content, style, options, replay=result.replay)
    assert np.array_equal(again.pixels, result.pixels)
    other = Painter(device="cpu").stylize(content, style, options.replace(pooling="max"), replay=result.replay)
    assert not any(scale.sketch for scale in other.schedule)


def test_a_large_scale_includes_half_size_copies(
    monkeypatch: pytest.MonkeyPatch, tiny: Weights, content: Array, style: Array
) -> None:
    monkeypatch.setattr(schedule, "COARSEST_COPY", 32)
    made, looked = [], []
    compute, forward = targets.compute_targets, Features.forward

    def computed(*given: Any) -> Any:
        made.append(given[3])
        return compute(*given)

    def noted(self: Features, image: Tensor, *given: Any, **settings: Any) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            looked.append(image.shape[-1])
        return forward(self, image, *given, **settings)

    monkeypatch.setattr(targets, "compute_targets", computed)
    monkeypatch.setattr(Features, "forward", noted)
    painter = Painter(device="cpu", weights=tiny)
    options = FAST.replace(optimizer="adam", iterations=8, taper=1.0)
    result = painter.stylize(content, style, options)
    assert [(scale.width, scale.half_size_copies) for scale in result.schedule] == [(32, 0), (64, 1)]
    assert looked == 8 * [32] + 8 * [64, 32]
    assert made == [(32, 32), (64, 64)], "no target is computed twice"
    assert result.units == 8 * 0.25 + 8 * 1.25
    again = painter.stylize(content, style, options, replay=result.replay)
    assert np.array_equal(again.pixels, result.pixels)
    alone = painter.stylize(content, style, options.replace(multiscale=0.0))
    assert [scale.half_size_copies for scale in alone.schedule] == [0, 0]
    assert not np.array_equal(alone.pixels, result.pixels)
    one = painter.stylize(content, style, options.replace(first_size=64))
    assert [(scale.width, scale.half_size_copies) for scale in one.schedule] == [(64, 1)], (
        "also where no smaller one was painted"
    )


def test_concurrent_paintings_are_independent(painter: Painter, pixels: Pixels, style: Array) -> None:
    contents = [pixels(64, 64, seed) for seed in (1, 5, 6)]
    expected = [painter.stylize(content, style, FAST).pixels for content in contents]
    actual: dict[int, Array] = {}

    def paint(index: int) -> None:
        actual[index] = painter.stylize(contents[index], style, FAST).pixels

    workers = [threading.Thread(target=paint, args=(index,)) for index in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert all(np.array_equal(actual[index], expected[index]) for index in range(3))


# Inputs


def test_inputs_are_not_modified(painter: Painter, pixels: Pixels) -> None:
    content, style = pixels(64, 64, 1), pixels(48, 64, 2)
    result = painter.stylize(content, style, FAST.replace(strength=0))
    result.pixels[:] = 0
    painter.stylize(content, style, FAST.replace(keep_color=1))
    assert np.array_equal(content, pixels(64, 64, 1))
    assert np.array_equal(style, pixels(48, 64, 2))


def test_a_missing_file_is_an_error_that_names_it(painter: Painter, content: Array, tmp_path: Path) -> None:
    absent = tmp_path / "absent.png"
    pairs: list[tuple[Any, Any]] = [(absent, content), (content, absent)]
    for photo, painting in pairs:
        with pytest.raises(ImageError, match=r"absent\.png"):
            painter.stylize(photo, painting, FAST)


def test_a_content_that_is_too_small_is_an_error(painter: Painter, content: Array, style: Array) -> None:
    with pytest.raises(ImageError, match="needs 16 on the short side"):
        painter.stylize(content[:8], style, FAST.replace(size="original"))
    complete(painter.stylize(content[:8, :8], style[:2], FAST))  # enlarged, it does; a style always does


def test_styles_are_blended_by_their_weights(painter: Painter, pixels: Pixels, content: Array) -> None:
    first, second = pixels(48, 64, 2), pixels(64, 48, 3)
    alone = painter.stylize(content, first, FAST).pixels
    both = painter.stylize(content, [first, second], FAST).pixels
    chosen = painter.stylize(content, [first, second], FAST.replace(style_weights=(2, 0))).pixels
    assert np.array_equal(chosen, alone)
    assert np.abs(both - alone).max() > 1e-2


@pytest.mark.parametrize(
    ("count", "weights", "message"),
    [
        (2, (1.0,), "1 number for 2 styles"),
        (1, (1.0, 2.0), "2 numbers for 1 style;"),
        (2, (0.0, 0.0), "All style weights are 0"),
        (0, (), "No style"),
    ],
)
def test_style_weights_that_do_not_fit_the_styles_are_an_error(
    painter: Painter, content: Array, style: Array, count: int, weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        painter.stylize(content, [style] * count, FAST.replace(style_weights=weights))


def test_an_unknown_layer_is_an_error_before_any_work(
    painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    with pytest.raises(OptionError, match="relu1_2"):
        painter.stylize(content, style, FAST.replace(content_layers=("relu1_2",)))
    assert passes == []


def test_init_chooses_the_first_image(
    painter: Painter, pixels: Pixels, content: Array, style: Array, tmp_path: Path
) -> None:
    square = pixels(64, 64, 8)
    path = tmp_path / "start.png"
    Image.fromarray(np.rint(square * 255).astype(np.uint8)).save(path)
    quiet = STILL.replace(strength=0.1)  # the seeded noise at the start goes with the strength
    for init, expected in (("content", content), ("style", style), (str(path), square)):
        actual = painter.stylize(content, style, quiet.replace(init=init)).pixels
        if expected.shape == actual.shape:
            assert np.abs(actual - expected).max() < 1e-2, init
        else:
            assert np.abs(actual.mean((0, 1)) - expected.mean((0, 1))).max() < 5e-3, init
    noise = painter.stylize(content, style, quiet.replace(init="noise")).pixels
    assert noise.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.std() == pytest.approx(0.25, abs=0.02)
    assert abs(np.corrcoef(noise.ravel(), content.ravel())[0, 1]) < 0.05
    with pytest.raises(ImageError, match=r"absent\.png"):
        painter.stylize(content, style, quiet.replace(init="absent.png"))


def test_a_loaded_start_replaces_the_file_that_init_names(painter: Painter, content: Array, style: Array) -> None:
    options = STILL.replace(init="absent.png")
    actual = list(painter.stream(content, style, options, start=style))[-1].result
    assert actual is not None
    wanted = painter.stylize(content, style, STILL.replace(init="style"))
    assert np.array_equal(actual.pixels, wanted.pixels)


def test_the_seed_varies_the_first_image_a_little(painter: Painter, content: Array, style: Array) -> None:
    moved = painter.stylize(content, style, STILL.replace(strength=50, seed=1)).pixels - content
    assert 0.01 < moved.std() < 0.03


def test_keep_color_keeps_the_colors_of_the_content(painter: Painter, content: Array, style: Array) -> None:
    orange = style * np.array([1.0, 0.5, 0.1], np.float32)
    away = []
    for keep in (0.0, 0.5, 1.0):
        actual = painter.stylize(content, orange, FAST.replace(keep_color=keep, iterations=40, strength=100)).pixels
        away.append(float((chroma(actual) - chroma(content)).abs().mean()))
    ours, theirs = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in (content, orange))
    repainted = (coarse_chroma(transfer_colors(ours, measure_colors(theirs), 1.0)) - chroma(content)).abs().mean()
    assert away[1] == pytest.approx(float(repainted) / 2, rel=0.1)
    assert away[2] < 0.2 * away[0]


# Caching, memory and errors


def test_a_style_is_analyzed_once_for_all_its_paintings(
    painter: Painter, pixels: Pixels, style: Array, passes: list[tuple[int, int]]
) -> None:
    one_by_one = []
    for seed in (1, 5):
        passes.clear()
        painter.stylize(pixels(64, 64, seed), style, FAST.replace(brushwork=0))  # matched features are not kept
        one_by_one.append(list(passes))
    wide = [size for size in one_by_one[0] if size[0] != size[1]]
    assert wide == [(32, 24), (64, 48)]
    assert one_by_one[1] == [size for size in one_by_one[0] if size[0] == size[1]]


def test_the_first_report_does_not_wait_for_targets_of_later_scales(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(targets, "MIN_STROKES_SIDE", 32)
    next(painter.stream(content, style, FAST.replace(brushwork=0)))
    assert passes == [(32, 32), (32, 24), (32, 32)]
    passes.clear()
    next(painter.stream(content, style, FAST.replace(brushwork=100)))
    assert passes == [  # not of the photo, whose features are kept
        *[(32, 24), (24, 32)] * 2,
        (32, 32),
    ]  # the statistics are kept, the turned views are not


def test_stroke_size_scales_the_style(
    painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    next(painter.stream(content, style, FAST.replace(stroke_size=2.0)))
    assert (64, 48) in passes
    assert (32, 24) not in passes


def test_a_network_is_built_once_for_the_same_layers(painter: Painter) -> None:
    first = painter.features(FAST)
    others = (FAST.replace(size=128, strength=3, distance="gram"), FAST.replace(content_layers=("relu3_1",)))
    for conv in first.convs:
        assert all(first.get_kernel(conv)[0] is painter.features(other).get_kernel(conv)[0] for other in others)
    assert painter.features(FAST.replace(pooling="max")).get_kernel(conv)[0] is not first.get_kernel(conv)[0]


def test_a_picture_that_cannot_fit_is_an_error_before_any_work(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array, passes: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(measure, "measure_free_memory", lambda _device: 400_000_000)
    with pytest.raises(OutOfMemory, match=r"8192×8192.*--size \d+"):
        painter.stylize(content, style, FAST.replace(size=8192, tile="off"))
    assert passes == []


OUT: dict[str, tuple[type[Exception], str]] = {
    "cuda": (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
    "python": (MemoryError, ""),
}


@pytest.mark.parametrize("kind", OUT)
@pytest.mark.parametrize("at", [0, 4, 7])
def test_running_out_of_memory_once_continues_with_checkpointing(
    painter: Painter, content: Array, style: Array, evaluations: Watch, kind: str, at: int
) -> None:
    def fail(count: int) -> None:
        if count == at:
            error, message = OUT[kind]
            raise error(message)

    seen = evaluations(fail)
    reports = list(painter.stream(content, style, FAST, None))
    result = complete(reports[-1].result)
    assert [objective.checkpoint for objective in seen] == [False] * (at + 1) + [True] * (len(seen) - at - 1)
    assert len(result.notes) == 1
    assert "checkpointing" in result.notes[0]
    assert ("32×32" if at < 6 else "64×64") in result.notes[0]
    assert result.iterations == len(reports) - 1 == 9
    assert not result.stopped


@pytest.mark.parametrize("checkpoint", ["auto", "on"])
def test_running_out_of_memory_with_checkpointing_is_an_error_that_names_a_smaller_size(
    painter: Painter, content: Array, style: Array, evaluations: Watch, checkpoint: str
) -> None:
    def fail(_count: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    seen = evaluations(fail)
    with pytest.raises(OutOfMemory, match=r"256×256") as caught:
        painter.stylize(content, style, FAST.replace(size=256, checkpoint=checkpoint))
    assert len(seen) == (2 if checkpoint == "auto" else 1)
    assert "\n" not in str(caught.value)
    match = re.search(r"--size (\d+)", str(caught.value))
    assert match
    assert 64 <= int(match[1]) < 256


def test_other_runtime_errors_are_not_caught(
    painter: Painter, content: Array, style: Array, evaluations: Watch
) -> None:
    def fail(_count: int) -> None:
        raise RuntimeError("a bug of ours")

    evaluations(fail)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        painter.stylize(content, style, FAST)


def spoil(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Make the loss NaN at some evaluations, counted from 0."""
    gradient, count = Objective.gradient, [0]

    def spoiled(self: Objective, image: Tensor) -> Gradient:
        terms, slope = gradient(self, image)
        count[0] += 1
        share = float("nan") if bad(count[0] - 1) else 1.0
        return {name: share * term for name, term in terms.items()}, share * slope

    monkeypatch.setattr(Objective, "gradient", spoiled)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "mixed"])
def test_a_loss_that_is_never_finite_is_an_error(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array, optimizer: str
) -> None:
    spoil(monkeypatch, lambda _count: True)
    with pytest.raises(DeviceError, match="--precision fp32"):
        painter.stylize(content, style, FAST.replace(optimizer=optimizer))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_an_iteration_that_is_not_finite_is_undone_and_noted(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array, optimizer: str
) -> None:
    spoil(monkeypatch, lambda count: count == 4)
    result = complete(painter.stylize(content, style, FAST.replace(optimizer=optimizer)))
    assert result.notes == ("1 of 6 iterations at 32×32 were not finite and were undone.",)
    assert all(np.isfinite(list(result.losses.values())))


def test_losses_of_a_last_iteration_that_is_not_finite_are_not_recorded(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, content: Array, style: Array
) -> None:
    spoil(monkeypatch, lambda count: count == 8)
    result = complete(painter.stylize(content, style, FAST.replace(optimizer="adam")))
    assert all(np.isfinite(list(result.losses.values())))


def test_the_number_of_threads_is_set_and_recorded(
    painter: Painter, content: Array, style: Array, threads: int
) -> None:
    assert painter.stylize(content, style, FAST.replace(threads=threads + 1)).threads == threads + 1
    assert painter.stylize(content, style, FAST.replace(threads=threads)).threads == threads


def test_the_number_of_threads_is_restored(painter: Painter, content: Array, style: Array, threads: int) -> None:
    """0 leaves the choice to PyTorch, not to an earlier painting."""
    painter.stylize(content, style, FAST.replace(threads=threads + 1))
    assert painter.stylize(content, style, FAST).threads == threads


def test_the_real_network_paints(vgg16: Weights, content: Array, style: Array) -> None:
    options = Options(size=64, iterations=8, optimizer="adam", device="cpu")
    reports: list[Progress] = list(Painter.of(options).stream(content, style, options))
    result = complete(reports[-1].result, options)
    assert result.weights_sha256 == vgg16.sha256
    assert min(report.loss for report in reports) < 0.8 * reports[0].loss
