"""Time budget and early stopping: both end in time and can be replayed."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import schedule
from styler.engine import budget
from styler.engine.budget import Budget, Clock
from styler.engine.painter import Painter
from styler.engine.result import Result
from styler.errors import OptionError
from styler.objective.terms import Objective
from styler.options import Options
from styler.schedule import Scale, Schedule

Array = NDArray[Any]
ORIGINAL = schedule.build_schedule(Options(size=512, time=60), 512, 384, 16)
"""Three scales."""
SPEED = 5e-6
"""Seconds of an iteration for each pixel: 0.06 s, 0.25 s and 0.98 s."""


def total_seconds(scales: Schedule) -> float:
    """Return the seconds of a schedule, including the setup of every scale but the first."""
    begun = sum(scale.cost for scale in scales[1:]) * schedule.SETUP_ITERATIONS
    return SPEED * (begun + sum(scale.iterations * scale.cost for scale in scales))


@pytest.mark.parametrize("seconds", [5.0, 30.0, 60.0, 1000.0])
def test_fitted_schedule_takes_the_given_time(seconds: float) -> None:
    fitted = budget.fit_schedule(ORIGINAL, seconds, SPEED)
    assert total_seconds(fitted) == pytest.approx(seconds, abs=SPEED * sum(scale.cost for scale in fitted) / 2)


def test_more_time_gives_every_scale_more_iterations() -> None:
    plans = [budget.fit_schedule(ORIGINAL, seconds, SPEED) for seconds in (30.0, 60.0, 120.0)]
    for shorter, longer in itertools.pairwise(plans):
        assert all(less.iterations < more.iterations for less, more in zip(shorter, longer, strict=True))


def test_the_time_of_the_preset_gives_its_schedule() -> None:
    fitted = budget.fit_schedule(ORIGINAL, total_seconds(ORIGINAL) + SPEED * ORIGINAL[0].cost, SPEED)
    for ours, preset in zip(fitted, ORIGINAL, strict=True):
        assert ours.iterations == pytest.approx(preset.iterations, rel=0.03)


def test_scales_with_too_few_iterations_are_left_out() -> None:
    assert [scale.width for scale in budget.fit_schedule(ORIGINAL, 4.0, SPEED)] == [128, 256]
    assert [scale.width for scale in budget.fit_schedule(ORIGINAL, 0.001, SPEED)] == [128]
    assert budget.fit_schedule(ORIGINAL, 0.001, SPEED)[0].iterations == 1


@pytest.mark.parametrize("seconds", [0.5, 10.0, 50.0])
def test_fitting_leaves_the_steps_of_adam_unchanged(seconds: float) -> None:
    done = 21
    (fitted, *_) = budget.fit_schedule(ORIGINAL[1:], seconds, SPEED, index=0, done=done)
    assert fitted.iterations >= 2 * (done - 1)
    late = (Scale(64, 64, 30, "adam"),)
    assert budget.fit_schedule(late, seconds, SPEED, index=0, done=20) == late


class Machine:
    """A simulated clock: each iteration takes a time proportional to its pixels; the speed can change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speed: Callable[[int], float]) -> None:
        self.now, self.evaluations = 100.0, 0
        gradient = Objective.gradient

        def timed(objective: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            self.evaluations += 1
            self.now += speed(self.evaluations) * image.shape[-1] * image.shape[-2]
            return gradient(objective, image)

        monkeypatch.setattr(Objective, "gradient", timed)
        monkeypatch.setattr("styler.engine.budget.time.perf_counter", lambda: self.now)


def test_the_time_left_counts_that_later_scales_are_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales with tiles take longer for the same pixels, and what begins a scale takes as long as an iteration."""
    now = 100.0
    monkeypatch.setattr("styler.engine.budget.time.perf_counter", lambda: now)
    scales = (Scale(100, 100, 4, "adam"), Scale(200, 200, 5, "adam"), Scale(400, 400, 2, "adam"))

    def weigh(scale: Scale) -> float:
        return (scale.iterations + 1) * scale.cost * (3.0 if scale.width == 400 else 1.0)

    clock = Clock(scales, weigh)
    assert clock.estimate_remaining() is None
    left = sum(map(weigh, scales))
    for scale in scales[:2]:
        for done in range(1, scale.iterations + 1):
            passed = scale.cost * (2 if done == 1 else 1)
            now, left = now + 1e-4 * passed, left - passed
            clock.advance(scale, done)
            assert clock.estimate_remaining() == pytest.approx(1e-4 * left)
    assert left == 3 * 3 * 400 * 400
    clock.replan((dataclasses.replace(scales[1], iterations=8), scales[2]), 5)
    assert clock.estimate_remaining() == pytest.approx(1e-4 * (left + 3 * 200 * 200))
    clock.skip(dataclasses.replace(scales[1], iterations=8), 5)
    clock.skip(scales[2])
    assert clock.estimate_remaining() == pytest.approx(0)
    assert clock.done == clock.total == sum(scale.iterations * scale.cost for scale in scales[:2])


@pytest.mark.parametrize("optimizer", ["mixed", "adam", "lbfgs"])
@pytest.mark.parametrize(
    "speed",
    [lambda _: 1e-5, lambda number: 1e-5 if number < 30 else 2e-5, lambda number: 3e-5 if number < 12 else 1e-5],
    ids=["steady", "slower", "faster"],
)
def test_a_painting_ends_within_its_time_budget_and_can_be_replayed(
    monkeypatch: pytest.MonkeyPatch,
    painter: Painter,
    pixels: Callable[..., Array],
    speed: Callable[[int], float],
    optimizer: str,
) -> None:
    Machine(monkeypatch, speed)
    content, style = pixels(128, 128, 1), pixels(96, 96, 2)
    options = Options(size=128, first_size=32, time=6.0, device="cpu", optimizer=optimizer)
    result = painter.stylize(content, style, options)
    assert result.seconds == pytest.approx(6.0, rel=0.1)
    assert [scale.width for scale in result.schedule] == [32, 64, 128]
    assert not result.stopped
    again = painter.stylize(content, style, options.replace(time=1.0), replay=result.replay)
    assert again.schedule == result.schedule
    assert np.array_equal(again.pixels, result.pixels)


def test_scales_with_tiles_get_fewer_iterations_in_the_same_time() -> None:
    def slow_down(size: tuple[int, int]) -> float:
        return 2.0 if size == ORIGINAL[-1].size else 1.0

    whole = budget.fit_schedule(ORIGINAL, 60.0, SPEED)
    tiled = budget.fit_schedule(ORIGINAL, 60.0, SPEED, slow_down=slow_down)
    assert [scale.size for scale in tiled] == [scale.size for scale in whole]
    assert tiled[-1].iterations < 0.8 * whole[-1].iterations
    begun = schedule.SETUP_ITERATIONS
    costs = [SPEED * scale.cost * slow_down(scale.size) for scale in tiled]
    seconds = sum(
        (scale.iterations + begun * (index > 0)) * cost
        for index, (scale, cost) in enumerate(zip(tiled, costs, strict=True))
    )
    assert seconds == pytest.approx(60.0, abs=sum(costs) / 2)


def test_too_little_time_still_gives_the_requested_size(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, pixels: Callable[..., Array]
) -> None:
    Machine(monkeypatch, lambda _: 1.0)
    result = painter.stylize(
        pixels(64, 64, 1), pixels(48, 48, 2), Options(size=64, first_size=32, time=1.0, device="cpu")
    )
    assert result.pixels.shape == (64, 64, 3)
    assert [(scale.width, scale.iterations) for scale in result.schedule] == [(32, 1)]


def run_scale(losses: Callable[[int], float], scale: Scale, patience: int) -> tuple[Schedule, int]:
    """Return the schedule of one scale at its end and the iterations made, given the loss of each."""
    scales: Schedule = (scale,)
    budget_ = Budget(Options(patience=patience), scales, Clock(scales))
    done = 0
    while done < scales[0].iterations:
        done += 1
        scales = budget_.update_schedule(scales, 0, done, torch.tensor(losses(done)))
    return scales, done


def flat_from_50(number: int) -> float:
    return max(1.0, 2.0 - number / 50)


def test_a_falling_loss_is_not_stopped_early() -> None:
    scale = Scale(64, 64, 200, "adam")
    assert run_scale(lambda number: math.exp(-number / 50), scale, 20) == ((scale,), 200)


def test_early_stopping_ends_lbfgs_at_a_plateau() -> None:
    (actual,), done = run_scale(flat_from_50, Scale(64, 64, 500, "lbfgs"), 20)
    assert actual == Scale(64, 64, done, "lbfgs")
    assert 70 <= done <= 150


def test_early_stopping_makes_adam_decay_at_a_plateau() -> None:
    (actual,), done = run_scale(flat_from_50, Scale(64, 64, 500, "adam"), 60)
    assert done == actual.iterations < 500
    assert actual.planned == 0 or actual.planned > actual.iterations


def test_noise_does_not_count_as_improvement() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = 0.05 * torch.rand(1000, generator=generator)
    _, done = run_scale(lambda number: 1.0 + float(noise[number]), Scale(64, 64, 900, "lbfgs"), 100)
    assert done < 400


def test_early_stopping_returns_the_best_picture(painter: Painter, pixels: Callable[..., Array]) -> None:
    content, style = pixels(64, 64, 1), pixels(48, 48, 2)
    options = Options(size=64, first_size=64, iterations=2000, patience=15, device="cpu", optimizer="adam")
    reports = list(painter.stream(content, style, options))
    result = reports[-1].result
    assert isinstance(result, Result)
    assert result.iterations < 2000
    assert result.losses["total"] == min(report.loss for report in reports)
    again = painter.stylize(content, style, options, replay=result.replay)
    assert np.array_equal(again.pixels, result.pixels)


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60.0), ("2m", 120.0), ("1.5h", 5400.0), ("0.5 m", 30.0)])
def test_time_accepts_units(text: str, seconds: float) -> None:
    assert Options.of(time=text).time == seconds


@pytest.mark.parametrize("text", ["s", "-1s", "60 sec", "1m30s", "200h", ""])
def test_time_rejects_other_text(text: str) -> None:
    with pytest.raises(OptionError, match=r"^time is .*; it can be 0 to 604800, or a time such as 60s, 2m or 1h\.$"):
        Options.of(time=text)
