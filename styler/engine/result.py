"""What a front end is told: `Progress` after every evaluation, and a `Result` at the end.

Nothing here waits for the device until somebody reads a loss or asks for a preview.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from styler.options import Options
from styler.schedule import Replay, Scale, Schedule

Pixels = NDArray[Any]
"""(H, W, 3), sRGB; float32 in [0, 1] where this project makes them."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """A finished painting and how it came about."""

    pixels: Pixels
    """(H, W, 3), sRGB in [0, 1], at the size asked for."""
    options: Options
    schedule: Schedule
    """The plan as it was executed: evaluations that were made, scales that were reached."""
    losses: Mapping[str, float]
    """Terms of the picture that is returned, as far as it was evaluated; empty at strength 0."""
    units: float
    """Work done: one unit is one evaluation at the final size, of that octave alone."""
    seconds: float
    scale_seconds: tuple[float, ...]
    """Seconds spent at each scale of the plan."""
    stopped: bool
    """Whether it was stopped before the plan was done."""
    device: str
    precision: str
    threads: int
    """Threads of the CPU: the same seed gives the same pixels at the same number."""
    weights_sha256: str
    notes: tuple[str, ...] = ()
    """Sentences about what was done differently, such as a recovery."""

    @property
    def iterations(self) -> int:
        """Evaluations of the objective, over all scales."""
        return sum(scale.iterations for scale in self.schedule)

    @property
    def reached(self) -> Scale | None:
        """The last scale that was painted at; None if none was."""
        return self.schedule[-1] if self.schedule else None

    @property
    def replay(self) -> Replay:
        """What to give to `Painter.stream` for the same work once more."""
        return Replay(self.schedule, self.pixels.shape[1], self.pixels.shape[0])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Progress:
    """Where a painting stands after an evaluation. Reading `losses`, `loss` or `preview()` waits for the device."""

    schedule: Schedule
    scale: int
    """Index of the scale in work, from 0."""
    iteration: int
    """Evaluations made at this scale."""
    total_iterations: int
    """Evaluations made so far, over all scales."""
    units: float
    """Work done so far."""
    total_units: float
    """Work of the whole plan."""
    seconds: float
    """Since the painting began."""
    eta: float | None
    """Seconds left, as far as can be told; None before the first evaluation is timed."""
    terms: Mapping[str, Tensor]
    """Losses on their device; `losses` reads them."""
    view: Callable[[], Pixels]
    """Makes the preview."""
    result: Result | None = None
    """Set in the last report alone."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the scale in work."""
        return (self.schedule[self.scale].width, self.schedule[self.scale].height) if self.schedule else (0, 0)

    @property
    def iterations(self) -> int:
        """Evaluations planned at this scale."""
        return self.schedule[self.scale].iterations if self.schedule else 0

    @property
    def losses(self) -> dict[str, float]:
        """Every term of the picture that was evaluated last, with their sum as `total`."""
        return {name: float(term) for name, term in self.terms.items()}

    @property
    def loss(self) -> float:
        """The total alone; NaN before the first evaluation."""
        return float(self.terms["total"]) if self.terms else float("nan")

    def live_view(self) -> Pixels:
        """The picture as it is now, (H, W, 3) at the size of the scale in work."""
        return self.result.pixels if self.result else self.view()


class Clock:
    """Seconds since the start, and how long the rest of a plan will take."""

    def __init__(self, plan: Schedule) -> None:
        self.start = time.perf_counter()
        self.total = sum(scale.iterations * scale.work for scale in plan)
        self.done = 0.0
        self._marks: list[tuple[float, float]] = [(self.start, 0.0)]

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start

    def advance(self, work: float) -> None:
        """Count an evaluation of so much work."""
        self.done += work
        self._marks = [*self._marks[-20:], (time.perf_counter(), self.done)]

    def skip(self, work: float) -> None:
        """Leave out work that will not be done."""
        self.total -= work

    def eta(self) -> float | None:
        """Seconds left at the speed of the last evaluations."""
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        return (self.total - self.done) * (last - first) / (after - before) if after > before else None
