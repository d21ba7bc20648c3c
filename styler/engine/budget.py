"""How long each scale goes on: for a given time, and only as long as it gains anything.

Both change nothing but how many evaluations a scale gets, and only where that leaves the ones that were made as they
are; so the plan as it was executed repeats the work exactly. Does not know pictures or the network.
"""

import dataclasses
import math

from torch import Tensor

from styler.engine import optimizers
from styler.engine.result import Clock
from styler.options import Options
from styler.schedule import Scale, Schedule

SETUP_ITERATIONS = 1.0
"""What it takes to begin a scale, in evaluations: its targets are two passes forward, and a decomposition."""
MIN_SCALE_ITERATIONS = 2
"""Evaluations for which a scale is begun; where the time gives fewer, the scale before is the last."""
FIRST_TIMED, TIMED_EVERY = 2, 8
"""The evaluation after which a scale's speed is first known, and how many come between two looks at it. Where the
device works on its own, a look has to wait for it."""
MAX_OVERRUN = 1.05
"""The share of the time after which no further evaluation is begun, whatever was planned."""

AVERAGE_DECAY = 0.9
"""Of the moving average of the loss."""
MIN_GAIN = 0.001
"""Share by which that average must fall to count as a gain."""
CHECK_EVERY = 5
"""Evaluations between two looks at it."""


class Budget:
    """Decides after every evaluation how many there will be.

    Args:
        options: `time` and `patience` are read.
        plan: what the other options ask for; a given time keeps its scales and, roughly, its proportions.
        clock: of the painting.
    """

    def __init__(self, options: Options, plan: Schedule, clock: Clock) -> None:
        self.time = options.time
        self.patience = options.patience
        self._asked, self._clock = plan, clock
        self._mark = 0.0
        self._watch, self._is_cut = _PlateauDetector(options.patience), False

    def left(self) -> float | None:
        """Seconds left of the given time; None without one."""
        return max(0.0, self.time - self._clock.seconds()) if self.time else None

    def update_schedule(self, plan: Schedule, index: int, done: int, loss: Tensor) -> Schedule:
        """The plan once `done` evaluations of scale `index` are made, the last of which gave `loss`, ()."""
        if done == 1:
            self._watch, self._is_cut = _PlateauDetector(self.patience), False
        if self.time and not self._is_cut:
            plan = self._timed(plan, index, done, loss)
        if self.patience and self._watch.gained_nothing(loss):
            self._is_cut = True
            plan = (*plan[:index], _shorten(plan[index], done), *plan[index + 1 :])
        return plan

    def _timed(self, plan: Schedule, index: int, done: int, loss: Tensor) -> Schedule:
        is_due = done in (1, FIRST_TIMED) or done % TIMED_EVERY == 0
        if is_due:
            float(loss)  # waits for the device, whose time it is
        now = self._clock.seconds()
        if done == 1:
            self._mark = now
        seconds = (now - self._mark) / max(1, done - 1)  # of an evaluation at this scale, 0 where it is not known yet
        if now + seconds > MAX_OVERRUN * self.time:
            return (*plan[:index], plan[index].truncate(done))
        if not is_due or done == 1:
            return plan
        left = self.time - now + done * seconds
        return fit_schedule(self._asked, left, seconds / plan[index].work, plan, index, done)


class _PlateauDetector:
    """Whether the moving average of a scale's loss still falls. Lives on the device but for a look now and then."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._count, self._gained_at, self._lowest = 0, 0, math.inf
        self._average: Tensor | None = None

    def gained_nothing(self, loss: Tensor) -> bool:
        """Take the next loss, (); True once it gained nothing for the whole patience, which then begins anew."""
        self._count += 1
        self._average = loss if self._average is None else self._average.lerp(loss, 1 - AVERAGE_DECAY)
        if self._count % CHECK_EVERY:
            return False
        if (average := float(self._average)) < self._lowest * (1 - MIN_GAIN):
            self._lowest, self._gained_at = average, self._count
        is_over = self._count - self._gained_at >= self._patience
        if is_over:
            self._gained_at = self._count
        return is_over


def fit_schedule(
    asked: Schedule, left: float, seconds_per_pixel: float, plan: Schedule | None = None, index: int = 0, done: int = 0
) -> Schedule:
    """The plan that takes as long as there is time, if an evaluation takes as long as its pixels say.

    Args:
        asked: the plan of the preset: its scales, of which the last may be left out, and its first number.
        left: seconds for scale `index`, the evaluations that are made included, and all later ones.
        seconds_per_pixel: of an evaluation.
        plan: as it stands; `asked` before the work begins.
        index: the scale in work.
        done: evaluations made there.
    """
    plan = plan or asked
    scales = (plan[index], *asked[index + 1 :])
    costs = [seconds_per_pixel * scale.work for scale in scales]
    for count in range(len(scales), 0, -1):
        first = _settle_iterations(plan[index], done, _first_iterations(asked, plan, index, costs[:count], left))
        later = _geometric_iterations(first, costs[1:count], left - first * costs[0])
        if not later or later[-1] >= MIN_SCALE_ITERATIONS:
            break
    steps = zip(scales, (first, *map(round, later)), strict=False)
    return (*plan[:index], *(dataclasses.replace(scale, iterations=number) for scale, number in steps))


def _first_iterations(asked: Schedule, plan: Schedule, index: int, costs: list[float], left: float) -> float:
    """Evaluations for scale `index`, if it and the later ones, which cost so much, have so many seconds left.

    At the first scale it is the root of what a proportional share would be: coarse scales are cheap and decide most,
    so a short time leaves them more of it.
    """
    if len(costs) == 1:
        return left / costs[0]
    if index:
        return _geometric_iterations(plan[index - 1].iterations, costs, left + SETUP_ITERATIONS * costs[0])[
            0
        ]  # it has begun already
    full = sum((scale.iterations + SETUP_ITERATIONS) * cost for scale, cost in zip(asked, costs, strict=False))
    return asked[0].iterations * math.sqrt(left / full)


def _geometric_iterations(before: float, costs: list[float], left: float) -> list[float]:
    """Evaluations of scales after one of `before`, each the same multiple of the one before, that take so long."""
    left -= SETUP_ITERATIONS * sum(costs)
    low, high = -20.0, 20.0  # of the logarithm to the base of 2
    for _ in range(60):
        middle = (low + high) / 2
        spent = sum(before * 2 ** (middle * k) * cost for k, cost in enumerate(costs, start=1))
        low, high = (middle, high) if spent < left else (low, middle)
    return [before * 2 ** (low * k) for k in range(1, len(costs) + 1)]


def _settle_iterations(scale: Scale, done: int, wanted: float) -> int:
    """As many evaluations as wanted, if those that were made stay what they are."""
    if scale.optimizer == "lbfgs":
        return max(1, done, round(wanted))
    fewest = optimizers.min_iterations(done)
    return scale.iterations if fewest > scale.iterations else max(1, fewest, round(wanted))


def _shorten(scale: Scale, done: int) -> Scale:
    """A scale that gains nothing any more: at its full rate Adam goes down with it at once; else it is over."""
    fewest = optimizers.min_iterations(done)
    if scale.optimizer == "adam" and fewest < scale.iterations:
        return dataclasses.replace(scale, iterations=fewest)
    return scale.truncate(done)
