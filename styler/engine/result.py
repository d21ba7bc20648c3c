"""What a front end is told: `Progress` after every evaluation, and a `Result` at the end.

Nothing here waits for the device until somebody reads a loss or asks for a preview.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from styler import images, provenance, save
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
    content_sha256: str = ""
    """Of the content's file; empty if it was given as an array."""
    style_sha256: tuple[str, ...] = ()
    """Of each style's file; empty for an array."""
    start_sha256: str = ""
    """Of the file that `options.init` names; empty if it names none."""
    alpha: Pixels | None = None
    """The content's alpha at the size of `pixels`, (H, W) in [0, 1]; None if the content is opaque."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The content's metadata, as in `Picture.metadata`."""

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

    def encode(
        self,
        *,
        format: str = "png",  # noqa: A002 - as in `images.encode_image`
        bit_depth: int = 8,
        settings: bool = True,
        keep_metadata: bool = False,
    ) -> bytes:
        """Encode the painting with the content's alpha.

        Args:
            format: a key of `styler.images.FORMATS`.
            bit_depth: 8, or 16 where the format supports it.
            settings: whether to store the record of how it was made.
            keep_metadata: whether to store the content's metadata.

        Raises:
            StylerError: the format cannot hold the picture.
        """
        return save.encode_painting(
            self.pixels,
            alpha=self.alpha,
            record=provenance.make_record(self) if settings else None,
            format=format,
            bit_depth=bit_depth,
            metadata=self.metadata if keep_metadata else {},
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        bit_depth: int = 8,
        settings: bool = True,
        keep_metadata: bool = False,
    ) -> Path:
        """Encode the painting as `encode` does, in the format of the path's extension, and write it.

        The file is written whole or not at all; missing folders are created.

        Raises:
            StylerError: the extension is unknown, the file exists and `overwrite` is not set, or it cannot be written.
        """
        data = self.encode(
            format=images.find_format(path), bit_depth=bit_depth, settings=settings, keep_metadata=keep_metadata
        )
        return images.write_file(path, data, overwrite=overwrite)


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
