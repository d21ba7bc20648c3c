"""One painting in work: its pictures, plan and clock; how it starts, grows from scale to scale, and is reported.

Does not evaluate anything: `pipeline` does.
"""

import os
import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from styler import images, targets
from styler.color import recolored
from styler.errors import UsageError
from styler.images import Picture
from styler.objective import TOTAL, Targets
from styler.options import STARTS, Options
from styler.pace import Pace
from styler.plan import Plan, Scale
from styler.progress import Clock, Pixels, Progress, Result
from styler.resize import resized
from styler.targets import Source
from styler.vgg.model import Features

Input = str | os.PathLike[str] | Picture | Pixels
"""A file, a decoded picture, or (H, W, 3) sRGB: floats in [0, 1] or bytes."""

LET_GO = 0.9
"""Share of noise in the first picture at strength 100."""
START_NOISE = 0.02
"""Standard deviation of the seeded noise on the first picture, in units of its range."""


class Stopped(Exception):
    """Raised between convolutions once `stop` is set: no error, somebody asked for it. Never leaves `pipeline`."""


@dataclass(slots=True, eq=False)
class Job:
    """One painting in work."""

    options: Options
    content: Source
    styles: list[Source]
    plan: Plan
    size: tuple[int, int]
    stop: threading.Event
    clock: Clock
    checkpoint: bool
    start: Source | None = None
    """The picture to start from, where `init` names a file."""
    pace: Pace | None = None
    """What changes the plan on the way, if anything does."""
    stopped: bool = False
    """Whether work was left out because somebody asked for it."""
    realised: list[Scale] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    targets: dict[tuple[str, tuple[int, int]], Targets] = field(default_factory=dict)
    """Of every size looked at so far, by the network that looks; larger scales look at smaller octaves again."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    best_losses: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Stop the work if somebody asked for it."""
        if self.stop.is_set():
            raise Stopped

    def replan(self, index: int, done: int) -> None:
        """Let the pace, if there is one, change how much is still to be done after `done` evaluations of a scale."""
        if self.pace:
            self.plan = self.pace.after(self.plan, index, done, self.losses[TOTAL])
            left = sum(scale.steps * scale.work for scale in self.plan[index:]) - done * self.plan[index].work
            self.clock.total = self.clock.done + left

    def eta(self) -> float | None:
        """Seconds left, as far as can be told."""
        left = self.pace.left() if self.pace else None
        return self.clock.eta() if left is None else left


def source_of(given: Input) -> Source:
    """A picture in any of the forms people have, as a tensor on the CPU."""
    if isinstance(given, str | os.PathLike):
        given = images.read_image(given)
    pixels = given.pixels if isinstance(given, Picture) else np.asarray(given)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UsageError(f"A picture has the shape (height, width, 3); this array has {pixels.shape}.")
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"A picture is floats in [0, 1] or bytes; this array has {pixels.dtype}: convert it first.")
    wide = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(wide).all():
        raise UsageError("The picture has values that are not finite; give sRGB in [0, 1].")
    return Source.of(torch.from_numpy(wide).permute(2, 0, 1)[None].clamp(0, 1).contiguous())  # (1, 3, H, W)


def start_of(options: Options, given: Input | None) -> Source | None:
    """The picture to start from: the one that is given, or else the file that `init` names; None if it names none."""
    if options.init in STARTS:
        return None
    return source_of(options.init if given is None else given)


def first_picture(job: Job, scale: Scale) -> Tensor:
    """The first picture, (1, 3, H, W): what `init` says, with a little seeded noise.

    It is made on the CPU, so that every device starts alike.
    """
    generator = torch.Generator().manual_seed(job.options.seed)
    noise = torch.randn((1, 3, scale.height, scale.width), generator=generator)
    if job.options.init == "noise":
        return (0.5 + 0.25 * noise).clamp(0, 1)
    first = job.start or (job.styles[0] if job.options.init == "style" else job.content)
    started = resized(first.image, scale.width, scale.height) + START_NOISE * targets.pull(job.options.strength) * noise
    if job.options.init == "content":  # what somebody chose to start from, or goes on with, is left as it is
        started = torch.lerp(started, 0.5 + 0.25 * noise, LET_GO * targets.abandon(job.options.strength))
    return started.clamp(0, 1)


def refined(job: Job, image: Tensor, index: int) -> Tensor:
    """The picture of the scale before, at the size of scale `index`."""
    before, after = job.plan[index - 1], job.plan[index]
    if (before.width, before.height) == (after.width, after.height):
        return image
    return _enlarged(job, image, (before.width, before.height), (after.width, after.height))


def _enlarged(job: Job, image: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """A picture at a larger size, with a band of detail added, which no enlargement can have.

    It is the content's own; above strength 50 more and more of it is the style's, all of it at 100.
    """

    def band(source: Tensor) -> Tensor:
        return resized(source, *after) - resized(resized(source, *before), *after)

    given = targets.abandon(job.options.strength)
    detail = band(job.content.image)
    if given:
        style = recolored(job.styles[0].image, job.content.image, job.options.keep_color)
        detail = torch.lerp(detail, band(style), given)
    return (resized(image.cpu(), *after) + detail).clamp(0, 1)


def _in_units(job: Job, work: float) -> float:
    """Work in units: evaluations by the backbone at the size of the result."""
    return work / (job.size[0] * job.size[1])


def _pixels(image: Tensor) -> Pixels:
    return np.ascontiguousarray(image[0].float().cpu().permute(1, 2, 0).numpy(), dtype=np.float32)


def report(job: Job, index: int, done: int, image: Tensor) -> Progress:
    """The report after `done` evaluations at scale `index`, with the picture they led to, (1, 3, H, W)."""
    return Progress(
        plan=job.plan,
        scale=index,
        step=done,
        evaluations=sum(scale.steps for scale in job.realised) + done,
        units=_in_units(job, job.clock.done),
        total_units=_in_units(job, job.clock.total),
        seconds=job.clock.seconds(),
        eta=job.eta(),
        terms=job.losses,
        view=lambda: _pixels(image),
    )


def final_report(job: Job, features: Features, image: Tensor | None) -> Progress:
    """The last report. A picture that was stopped at a smaller scale is brought to the size asked for."""
    if image is None:
        image, final = job.content.image, resized(job.content.image, *job.size)
    elif tuple(image.shape[-2:]) != (job.size[1], job.size[0]):
        final = _enlarged(job, image, (image.shape[-1], image.shape[-2]), job.size)
    else:
        final = image
    result = Result(
        pixels=_pixels(final),
        options=job.options,
        plan=tuple(job.realised),
        losses={name: float(term) for name, term in job.best_losses.items()},
        units=_in_units(job, job.clock.done),
        seconds=job.clock.seconds(),
        scale_seconds=tuple(job.seconds),
        stopped=job.stopped,
        device=str(features.device),
        precision=str(features.precision).removeprefix("torch."),
        threads=torch.get_num_threads(),
        weights_sha256=features.sha256,
        notes=tuple(job.notes),
    )
    last = max(0, len(job.realised) - 1)
    step = job.realised[-1].steps if job.realised else 0
    return Progress(
        plan=job.plan,
        scale=last,
        step=step,
        evaluations=result.evaluations,
        units=result.units,
        total_units=_in_units(job, job.clock.total),
        seconds=result.seconds,
        eta=0.0,
        terms=job.losses,
        view=lambda: result.pixels,
        result=result,
    )
