"""Time and early stopping: the clock of a painting, and how many iterations each scale gets.

A budget changes only the number of iterations, and only in ways that leave the iterations already made as they are;
so replaying the executed schedule repeats the work exactly. Does not know images or the network.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from styler.engine import optimizers
from styler.options import Options
from styler.schedule import SETUP_ITERATIONS, Scale, Schedule, count_work

MIN_SCALE_ITERATIONS = 2
"""A scale that would get fewer iterations is left out, with all later ones."""
FIRST_TIMED, TIMED_EVERY = 2, 8
"""The iteration after which the speed of a scale is first known, and the interval between later measurements. Each
waits for the device, which otherwise runs asynchronously."""
MAX_OVERRUN = 1.05
"""Multiple of the time budget after which no further iteration is started."""

AVERAGE_DECAY = 0.9
"""Decay of the moving average of the loss."""
MIN_GAIN = 0.001
"""Relative decrease of that average that counts as an improvement."""
CHECK_EVERY = 5
"""Iterations between two checks of the average; each waits for the device."""


SlowDown = Callable[[tuple[int, int]], float]
"""Returns the time of an iteration at a size (width, height) relative to one that is painted as a whole."""


def paint_as_a_whole(_size: tuple[int, int]) -> float:
    """Return 1: no scale has tiles."""
    return 1.0


class Clock:
    """Elapsed time, the work done, and an estimate of the time left.

    Args:
        schedule: of the painting.
        weigh: returns how long a scale takes, in any unit; by default its work.
    """

    def __init__(self, schedule: Schedule, weigh: Callable[[Scale], float] | None = None) -> None:
        self.start = time.perf_counter()
        self.total, self.done = count_work(schedule), 0.0
        self._weigh = weigh or (lambda scale: scale.iterations * scale.cost)
        self._left = sum(map(self._weigh, schedule))  # in the unit of `weigh`
        self._marks: list[tuple[float, float]] = [(self.start, 0.0)]  # seconds, and how much of that was done

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def advance(self, scale: Scale, done: int) -> None:
        """Count iteration `done` of a scale, the first being 1."""
        self.done += scale.cost
        passed = self._count(scale, done) - self._count(scale, done - 1)
        self._left -= passed
        self._marks = [*self._marks[-20:], (time.perf_counter(), self._marks[-1][1] + passed)]

    def skip(self, scale: Scale, done: int = 0) -> None:
        """Forget the iterations of a scale after `done`, which will not be made."""
        self.total -= (scale.iterations - done) * scale.cost
        self._left -= self._count(scale) - self._count(scale, done)

    def credit(self, scale: Scale, done: int, seconds: float) -> None:
        """Credit the first `done` iterations of a scale, which an earlier painting made in `seconds`."""
        self.start -= seconds
        self.done += done * scale.cost
        self._left -= self._count(scale, done)
        self._marks = [(time.perf_counter(), 0.0)]

    def replan(self, scales: Schedule, done: int) -> None:
        """Expect other iterations: the rest of the first scale after `done`, and all of the others."""
        self.total = self.done + count_work(scales) - done * scales[0].cost
        self._left = sum(map(self._count, scales)) - self._count(scales[0], done)

    def restore(self, seconds: float, done: float, total: float) -> None:
        """Go on as after that many seconds and that much work."""
        self.start, self.done, self.total = time.perf_counter() - seconds, done, total
        self._marks = [(time.perf_counter(), 0.0)]

    def estimate_remaining(self) -> float | None:
        """Return the seconds left at the speed of the last iterations; None before the first."""
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        return max(0.0, self._left) * (last - first) / (after - before) if after > before else None

    def _count(self, scale: Scale, iterations: int | None = None) -> float:
        """Return how long so many iterations of a scale take, all of them by default, in the unit of `weigh`."""
        count = scale.iterations if iterations is None else iterations
        return self._weigh(dataclasses.replace(scale, iterations=count)) if count else 0.0


class Budget:
    """The time budget and early stopping of a painting.

    Args:
        options: `time` and `patience` are read.
        schedule: built from the other options; a time budget keeps its scales and, roughly, its proportions.
        clock: of the painting.
        slow_down: how much longer the scales with tiles take.
    """

    def __init__(
        self, options: Options, schedule: Schedule, clock: Clock, slow_down: SlowDown = paint_as_a_whole
    ) -> None:
        self.time = options.time
        self.patience = options.patience
        self._original, self._clock, self._slow_down = schedule, clock, slow_down
        self._scale_start = 0.0  # seconds after the first iteration of the scale
        self._plateau, self._is_cut = _PlateauDetector(options.patience), False

    def export(self) -> dict[str, Any]:
        """Return all that changes during a painting, as numbers and tensors."""
        return {"scale_start": self._scale_start, "is_cut": self._is_cut, "plateau": vars(self._plateau).copy()}

    def restore(self, exported: Mapping[str, Any]) -> None:
        """Go on from what `export` returned."""
        self._scale_start, self._is_cut = exported["scale_start"], exported["is_cut"]
        vars(self._plateau).update(exported["plateau"])

    @property
    def remaining(self) -> float | None:
        """Seconds left of the time budget; None without one."""
        return max(0.0, self.time - self._clock.seconds) if self.time else None

    def update_schedule(self, schedule: Schedule, index: int, done: int, loss: Tensor) -> Schedule:
        """Return the schedule after `done` iterations of scale `index`, the last of which had `loss`, ()."""
        if done == 1:
            self._plateau, self._is_cut = _PlateauDetector(self.patience), False
        if self.time and not self._is_cut:
            schedule = self._fit_to_time(schedule, index, done, loss)
        if self.patience and self._plateau.update(loss):
            self._is_cut = True
            schedule = (*schedule[:index], _shorten(schedule[index], done), *schedule[index + 1 :])
        return schedule

    def _fit_to_time(self, schedule: Schedule, index: int, done: int, loss: Tensor) -> Schedule:
        is_due = done in (1, FIRST_TIMED) or done % TIMED_EVERY == 0
        if is_due:
            float(loss)  # waits for the device, whose time is measured
        now = self._clock.seconds
        if done == 1:
            self._scale_start = now
        seconds = (now - self._scale_start) / max(1, done - 1)  # of an iteration at this scale, 0 while unknown
        if now + seconds > MAX_OVERRUN * self.time:
            return (*schedule[:index], schedule[index].truncate(done))
        if not is_due or done == 1:
            return schedule
        remaining = self.time - now + done * seconds
        rate = seconds / schedule[index].cost / self._slow_down(schedule[index].size)
        return fit_schedule(self._original, remaining, rate, schedule, index, done, self._slow_down)


class _PlateauDetector:
    """Detects when the moving average of a scale's loss stops falling; reads it from the device only at checks."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._count, self._improved_at, self._lowest = 0, 0, math.inf
        self._average: Tensor | None = None

    def update(self, loss: Tensor) -> bool:
        """Add the next loss, (); return whether none of the last `patience` improved, and if so start over."""
        self._count += 1
        self._average = loss if self._average is None else self._average.lerp(loss, 1 - AVERAGE_DECAY)
        if self._count % CHECK_EVERY:
            return False
        if (average := float(self._average)) < self._lowest * (1 - MIN_GAIN):
            self._lowest, self._improved_at = average, self._count
        is_plateau = self._count - self._improved_at >= self._patience
        if is_plateau:
            self._improved_at = self._count
        return is_plateau


def fit_schedule(
    original: Schedule,
    seconds: float,
    seconds_per_pixel: float,
    current: Schedule | None = None,
    index: int = 0,
    done: int = 0,
    slow_down: SlowDown = paint_as_a_whole,
) -> Schedule:
    """Return the schedule that takes the given time, assuming that an iteration's time is proportional to its pixels.

    Args:
        original: the schedule of the preset: its scales, of which the last may be left out, and its first count.
        seconds: for scale `index`, including the iterations already made, and all later scales.
        seconds_per_pixel: of an iteration that is painted as a whole.
        current: the schedule so far; `original` before the work begins.
        index: the current scale.
        done: iterations made at that scale.
        slow_down: how much longer the scales with tiles take.
    """
    current = current or original
    scales = (current[index], *original[index + 1 :])
    costs = [seconds_per_pixel * scale.cost * slow_down(scale.size) for scale in scales]
    for count in range(len(scales), 0, -1):
        share = _choose_first_iterations(original, current, index, costs[:count], seconds)
        first = _keep_executed(current[index], done, share)
        later = _solve_geometric_iterations(first, costs[1:count], seconds - first * costs[0])
        if not later or later[-1] >= MIN_SCALE_ITERATIONS:
            break
    counts = zip(scales, (first, *map(round, later)), strict=False)
    return (*current[:index], *(dataclasses.replace(scale, iterations=count) for scale, count in counts))


def _choose_first_iterations(
    original: Schedule, current: Schedule, index: int, costs: list[float], seconds: float
) -> float:
    """Return the iterations of scale `index` if it and the later scales, with these costs, share the given time.

    At the first scale it is the root of the proportional share: coarse scales are cheap and matter most, so a short
    time leaves them more of it.
    """
    if len(costs) == 1:
        return seconds / costs[0]
    if index:  # this scale has already been set up
        return _solve_geometric_iterations(current[index - 1].iterations, costs, seconds + SETUP_ITERATIONS * costs[0])[
            0
        ]
    full = sum((scale.iterations + SETUP_ITERATIONS) * cost for scale, cost in zip(original, costs, strict=False))
    return original[0].iterations * math.sqrt(seconds / full)


def _solve_geometric_iterations(before: float, costs: list[float], seconds: float) -> list[float]:
    """Return iterations of scales that take the given time, each the same multiple of the previous, after `before`."""
    seconds -= SETUP_ITERATIONS * sum(costs)
    low, high = -20.0, 20.0  # log2 of the multiple, found by bisection
    for _ in range(60):
        middle = (low + high) / 2
        spent = sum(before * 2 ** (middle * k) * cost for k, cost in enumerate(costs, start=1))
        low, high = (middle, high) if spent < seconds else (low, middle)
    return [before * 2 ** (low * k) for k in range(1, len(costs) + 1)]


def _keep_executed(scale: Scale, done: int, count: float) -> int:
    """Round an iteration count so that the `done` iterations of a scale stay as they are."""
    if scale.optimizer == "lbfgs":
        return max(1, done, round(count))
    fewest = optimizers.min_iterations(done)
    return scale.iterations if fewest > scale.iterations else max(1, fewest, round(count))


def _shorten(scale: Scale, done: int) -> Scale:
    """End a scale early: Adam at its full rate begins its decay at once; otherwise the scale is over."""
    fewest = optimizers.min_iterations(done)
    if scale.optimizer == "adam" and fewest < scale.iterations:
        return dataclasses.replace(scale, iterations=fewest)
    return scale.truncate(done)
