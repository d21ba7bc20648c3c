"""One painting in work: its pictures, plan and clock; how it starts, grows from scale to scale, and is reported.

Does not evaluate anything: `pipeline` does.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from styler import images, schedule
from styler.engine import optimizers, targets
from styler.engine.budget import Budget
from styler.engine.color import transfer_colors
from styler.engine.device import (
    advise_smaller,
    choose_device,
    choose_precision,
    has_ample_memory,
    is_out_of_memory,
    keep_freed_memory,
    needs_checkpoint,
    prepare_device,
    release_memory,
)
from styler.engine.objective import TOTAL, HalfSizeCopy, Objective, Targets
from styler.engine.result import Clock, Pixels, Progress, Result
from styler.engine.targets import SourceImage
from styler.errors import DeviceError, OutOfMemory, UsageError
from styler.images import Picture
from styler.options import INIT_CHOICES, Options
from styler.resample import Downsample, resize
from styler.schedule import Replay, Scale, Schedule
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import SLIM, Weights

Input = str | os.PathLike[str] | Picture | Pixels
"""A file, a decoded picture, or (H, W, 3) sRGB: floats in [0, 1] or bytes."""

RELEASE_NOISE = 0.9
"""Share of noise in the first picture at strength 100."""
START_NOISE = 0.02
"""Standard deviation of the seeded noise on the first picture, in units of its range."""


class StopRequested(Exception):
    """Raised between convolutions once `stop` is set: no error, somebody asked for it. Never leaves `pipeline`."""


@dataclass(slots=True, eq=False)
class Run:
    """One painting in work."""

    options: Options
    content: SourceImage
    styles: list[SourceImage]
    schedule: Schedule
    size: tuple[int, int]
    stop: threading.Event
    clock: Clock
    checkpoint: bool
    start: SourceImage | None = None
    """The picture to start from, where `init` names a file."""
    pace: Budget | None = None
    """What changes the plan on the way, if anything does."""
    stopped: bool = False
    """Whether work was left out because somebody asked for it."""
    executed: list[Scale] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    targets: dict[tuple[str, tuple[int, int]], Targets] = field(default_factory=dict)
    """Of every size looked at so far, by the network that looks; larger scales look at smaller octaves again."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    best_losses: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Stop the work if somebody asked for it."""
        if self.stop.is_set():
            raise StopRequested

    def replan(self, index: int, done: int) -> None:
        """Let the pace, if there is one, change how much is still to be done after `done` evaluations of a scale."""
        if self.pace:
            self.schedule = self.pace.update_schedule(self.schedule, index, done, self.losses[TOTAL])
            left = (
                sum(scale.iterations * scale.work for scale in self.schedule[index:]) - done * self.schedule[index].work
            )
            self.clock.total = self.clock.done + left

    def eta(self) -> float | None:
        """Seconds left, as far as can be told."""
        left = self.pace.left() if self.pace else None
        return self.clock.eta() if left is None else left


def load_source(given: Input) -> SourceImage:
    """A picture in any of the forms people have, as a tensor on the CPU."""
    if isinstance(given, str | os.PathLike):
        given = images.read_image(given)
    picture = given if isinstance(given, Picture) else Picture(np.asarray(given))
    pixels: Pixels = picture.pixels
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UsageError(f"A picture has the shape (height, width, 3); this array has {pixels.shape}.")
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"A picture is floats in [0, 1] or bytes; this array has {pixels.dtype}: convert it first.")
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise UsageError("The picture has values that are not finite; give sRGB in [0, 1].")
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].clamp(0, 1).contiguous()  # (1, 3, H, W)
    return SourceImage.of(image, sha256=picture.sha256, alpha=picture.alpha, metadata=picture.metadata)


def load_start(options: Options, given: Input | None) -> SourceImage | None:
    """The picture to start from: the one that is given, or else the file that `init` names; None if it names none."""
    if options.init in INIT_CHOICES:
        return None
    return load_source(options.init if given is None else given)


def make_first_image(job: Run, scale: Scale) -> Tensor:
    """The first picture, (1, 3, H, W): what `init` says, with a little seeded noise.

    It is made on the CPU, so that every device starts alike.
    """
    generator = torch.Generator().manual_seed(job.options.seed)
    noise = torch.randn((1, 3, scale.height, scale.width), generator=generator)
    if job.options.init == "noise":
        return (0.5 + 0.25 * noise).clamp(0, 1)
    first = job.start or (job.styles[0] if job.options.init == "style" else job.content)
    started = (
        resize(first.image, scale.width, scale.height) + START_NOISE * targets.style_mix(job.options.strength) * noise
    )
    if job.options.init == "content":  # what somebody chose to start from, or goes on with, is left as it is
        started = torch.lerp(started, 0.5 + 0.25 * noise, RELEASE_NOISE * targets.content_release(job.options.strength))
    return started.clamp(0, 1)


def enlarge_to_scale(job: Run, image: Tensor, index: int) -> Tensor:
    """The picture of the scale before, at the size of scale `index`."""
    before, after = job.schedule[index - 1], job.schedule[index]
    if (before.width, before.height) == (after.width, after.height):
        return image
    return _enlarge(job, image, (before.width, before.height), (after.width, after.height))


def _enlarge(job: Run, image: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """A picture at a larger size, with a band of detail added, which no enlargement can have.

    It is the content's own; above strength 50 more and more of it is the style's, all of it at 100.
    """

    def band(source: Tensor) -> Tensor:
        return resize(source, *after) - resize(resize(source, *before), *after)

    given = targets.content_release(job.options.strength)
    detail = band(job.content.image)
    if given:
        style = transfer_colors(job.styles[0].image, job.content.image, job.options.keep_color)
        detail = torch.lerp(detail, band(style), given)
    return (resize(image.cpu(), *after) + detail).clamp(0, 1)


def _in_units(job: Run, work: float) -> float:
    """Work in units: evaluations by the backbone at the size of the result."""
    return work / (job.size[0] * job.size[1])


def _to_pixels(image: Tensor) -> Pixels:
    return np.ascontiguousarray(image[0].float().cpu().permute(1, 2, 0).numpy(), dtype=np.float32)


def _resize_alpha(alpha: Pixels | None, width: int, height: int) -> Pixels | None:
    """Return the alpha channel (H, W) at another size."""
    return None if alpha is None else resize(torch.from_numpy(alpha)[None, None], width, height)[0, 0].numpy()


def make_progress(job: Run, index: int, done: int, image: Tensor) -> Progress:
    """The report after `done` evaluations at scale `index`, with the picture they led to, (1, 3, H, W)."""
    return Progress(
        schedule=job.schedule,
        scale=index,
        iteration=done,
        total_iterations=sum(scale.iterations for scale in job.executed) + done,
        units=_in_units(job, job.clock.done),
        total_units=_in_units(job, job.clock.total),
        seconds=job.clock.seconds(),
        eta=job.eta(),
        terms=job.losses,
        view=lambda: _to_pixels(image),
    )


def make_final_progress(job: Run, features: Features, image: Tensor | None) -> Progress:
    """The last report. A picture that was stopped at a smaller scale is brought to the size asked for."""
    if image is None:
        image, final = job.content.image, resize(job.content.image, *job.size)
    elif tuple(image.shape[-2:]) != (job.size[1], job.size[0]):
        final = _enlarge(job, image, (image.shape[-1], image.shape[-2]), job.size)
    else:
        final = image
    result = Result(
        pixels=_to_pixels(final),
        options=job.options,
        schedule=tuple(job.executed),
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
        content_sha256=job.content.sha256,
        style_sha256=tuple(style.sha256 for style in job.styles),
        start_sha256=job.start.sha256 if job.start else "",
        alpha=_resize_alpha(job.content.alpha, final.shape[-1], final.shape[-2]),
        metadata=job.content.metadata,
    )
    last = max(0, len(job.executed) - 1)
    step = job.executed[-1].iterations if job.executed else 0
    return Progress(
        schedule=job.schedule,
        scale=last,
        iteration=step,
        total_iterations=result.iterations,
        units=result.units,
        total_units=_in_units(job, job.clock.total),
        seconds=result.seconds,
        eta=0.0,
        terms=job.losses,
        view=lambda: result.pixels,
        result=result,
    )


REFINE_RATE = 0.5
"""Share of Adam's rate with which the full network ends a sketch: little is left to do, and Adam's first steps are
long, however small the gradient. Measured on four pairs: at 256 px of 1/3, 1/2, 2/3 and 1, at 512 px of 1/3, 1/2
and 1."""


class Painter:
    """What is expensive and shared by many paintings: networks on their device and the statistics of styles.

    Which network looks, the options of each painting say; another than the first is read when it is first asked for.

    Args:
        backbone: the first: `vgg16`, which comes with styler, or another of `styler.vgg.backbones`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: of the convolutions: `auto`, `fp32`, `bf16` or `fp16`.
        weights: those of the first, for who has read them already.

    Raises:
        WeightsError: the weights are missing or altered.
        DeviceError: the device is absent.
    """

    def __init__(
        self,
        backbone: str = "vgg16",
        device: str = "auto",
        precision: str = "auto",
        weights: Weights | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(self.device, precision)
        self._networks = {backbone: registry.load_backbone(backbone) if weights is None else weights}
        self._features: dict[tuple[str, tuple[str, ...], str], Features] = {}
        self._styles = targets.StyleCache()
        prepare_device(self.device)

    @classmethod
    def of(cls, options: Options, weights: Weights | None = None) -> "Painter":
        """The painter that these options ask for."""
        return cls(options.backbone, options.device, options.precision, weights)

    def remember(self, shelf: targets.StatsStore | None) -> None:
        """Look for statistics of styles on a shelf before they are computed, and put them there."""
        self._styles = targets.StyleCache(shelf)

    def ready(self, options: Options) -> None:
        """Read every network that these options need, so that what is missing is known before any work.

        Raises:
            StylerError: as `features` does.
        """
        self.features(options)
        if options.effective_sketch:
            self.features(options, sketch=True)

    def features(self, options: Options, *, sketch: bool = False) -> Features:
        """The network, up to the layers these options need; made once for each set of layers and pooling.

        Args:
            options: backbone, pooling and layers are read.
            sketch: whether the slim network is wanted, which stands in for the backbone.

        Raises:
            StylerError: the backbone cannot be read, or has no such layers or pooling.
        """
        backbone = SLIM if sketch else options.backbone
        if backbone not in self._networks:
            self._networks[backbone] = registry.load_backbone(backbone)
        weights = self._networks[backbone]
        layers = (
            *targets.resolve_content_layers(options, weights.network),
            *targets.resolve_style_layers(options, weights.network),
        )
        key = (backbone, layers, options.pooling)
        if key not in self._features:
            self._features[key] = Features(weights, layers, options.pooling, self.precision).to(self.device)
        return self._features[key]

    def stream(
        self,
        content: Input,
        styles: Input | list[Input] | tuple[Input, ...],
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
        start: Input | None = None,
    ) -> Iterator[Progress]:
        """Paint, reporting after every evaluation; the last report carries the `Result`.

        Setting `stop`, from any thread, ends with a full result of the best picture so far; closing the generator
        discards it.

        Args:
            content: the photo.
            styles: one painting, or several to be blended with `options.style_weights`.
            options: all settings; `Options()` when not given.
            stop: checked between convolutions.
            replay: the work of an earlier result (`Result.replay`), in place of the plan that the options ask for. One
                that was stopped is repeated as far as it went.
            start: the picture that `options.init` names, for who has read it already.

        Raises:
            StylerError: a picture cannot be read, a setting does not fit, or memory is short; before any evaluation
                if it can be known.
        """
        options = options or Options()
        sources = [load_source(style) for style in _as_list(styles)]
        job = self._job(load_source(content), sources, options, stop or threading.Event(), replay)
        job.start = load_start(options, start)
        threads = torch.get_num_threads()
        try:
            if options.threads:
                torch.set_num_threads(options.threads)
            yield from self._scales(job)
        finally:
            torch.set_num_threads(threads)

    def _scales(self, job: Run) -> Iterator[Progress]:
        image: Tensor | None = None
        index = -1
        while (index := index + 1) < len(job.schedule):  # which may change on the way
            scale, done, best = job.schedule[index], 0, None
            began = job.clock.seconds()
            try:
                job.check()
                start = make_first_image(job, scale) if image is None else enlarge_to_scale(job, image, index)
                for step in self._steps(job, index, start.to(self.device)):
                    done, best = done + 1, step.best
                    job.losses, job.best_losses = step.losses, step.best_losses
                    job.clock.advance(scale.work)
                    job.replan(index, done)
                    yield make_progress(job, index, done, step.image)
                    if done < job.schedule[index].iterations:
                        job.check()  # after the last step of a scale, the next one looks
            except StopRequested:
                job.stopped = True
            image = image if best is None else best
            if done:
                job.clock.skip((job.schedule[index].iterations - done) * scale.work)
                job.executed.append(job.schedule[index].truncate(done))
                job.seconds.append(job.clock.seconds() - began)
            if job.stopped:
                break
        yield make_final_progress(job, self.features(job.options), image)

    def stylize(
        self,
        content: Input,
        styles: Input | list[Input] | tuple[Input, ...],
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
    ) -> Result:
        """Paint and return the result: `stream`, drained."""
        result = None
        for progress in self.stream(content, styles, options, stop, replay):
            result = progress.result
        assert result is not None
        return result

    def _job(
        self,
        content: SourceImage,
        styles: list[SourceImage],
        options: Options,
        stop: threading.Event,
        replay: Replay | None,
    ) -> Run:
        if not styles:
            raise UsageError("There is no style to paint in; give at least one.")
        if options.style_weights and len(options.style_weights) != len(styles):
            raise UsageError(
                f"style_weights has {len(options.style_weights)} numbers for {len(styles)} styles; give one for each."
            )
        if options.style_weights and not sum(options.style_weights):
            raise UsageError("Every style weight is 0; give at least one style some weight.")
        height, width = content.image.shape[-2:]
        features = self.features(options)
        scales = schedule.build_schedule(options, width, height, features.min_side)
        size = schedule.compute_result_size(options, width, height)
        if replay is not None and scales:
            scales = schedule.refit_schedule(replay, *size, features.min_side, sketched=options.effective_sketch > 0)
        checkpoint = bool(scales) and needs_checkpoint(features, size, options.checkpoint, self.device)
        keep_freed_memory(self.device, not checkpoint and has_ample_memory(features, size, self.device))
        clock = Clock(scales)
        pace = Budget(options, scales, clock) if replay is None and (options.time or options.patience) else None
        return Run(options, content, styles, scales, size, stop, clock, checkpoint, pace=pace)

    def _steps(self, job: Run, index: int, image: Tensor) -> Iterator[optimizers.OptimizerStep]:
        """The evaluations of one scale; when memory runs out, once more from the best so far with checkpointing."""
        done, recovered = 0, None
        while True:
            before, scale = done, job.schedule[index]
            span = optimizers.IterationSpan(scale.iterations - before, scale.planned - before)
            try:
                for step in self._optimise(job, index, image, span):
                    done, image, recovered = done + 1, step.best, step.recovered
                    yield step
                    scale = job.schedule[index]  # as it has become
                    span.iterations, span.planned = scale.iterations - before, scale.planned - before
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if job.checkpoint:
                    raise OutOfMemory(advise_smaller(self.features(job.options), job.size, self.device)) from error
            job.checkpoint = True
            keep_freed_memory(self.device, keep=False)
            release_memory(self.device)
            job.notes.append(f"Memory ran out at {scale.width}×{scale.height}; went on with checkpointing.")
        if recovered is not None and (lost := int(recovered)):
            if lost >= done:
                raise DeviceError("The loss was not a number at any step; try --precision fp32.")
            job.notes.append(f"{lost} of {done} steps at {scale.width}×{scale.height} were not finite and were undone.")

    def _optimise(
        self, job: Run, index: int, image: Tensor, span: optimizers.IterationSpan
    ) -> Iterator[optimizers.OptimizerStep]:
        options, scale = job.options, job.schedule[index]
        objective = self._objective(job, scale)
        if scale.optimizer == "lbfgs":
            yield from optimizers.lbfgs(objective, image, span)
        else:
            rate = options.learning_rate * (REFINE_RATE if schedule.follows_sketch(job.schedule, index) else 1.0)
            yield from optimizers.adam(objective, image, span, rate)

    def _objective(self, job: Run, scale: Scale) -> Objective:
        """What is minimised at a scale; its octaves are scales of their own."""
        options, size = job.options, (scale.width, scale.height)
        features = self.features(options, sketch=scale.sketch)
        key = (features.sha256, size)
        if key not in job.targets:
            job.targets[key] = targets.compute_targets(
                features, job.content, job.styles, size, options, self._styles, job.check
            )
        octave = None
        if scale.half_size_copies:
            half = scale.halve()
            reduction = Downsample(size, (half.width, half.height), self.device)
            octave = HalfSizeCopy(self._objective(job, half), reduction, options.multiscale)
        return Objective(
            features,
            job.targets[key],
            targets.compute_term_weights(options, features.network),
            check=job.check,
            checkpoint=job.checkpoint,
            newton_schulz=self.device.type != "cpu",
            octave=octave,
        )


def stream(
    content: Input,
    styles: Input | list[Input] | tuple[Input, ...],
    options: Options | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Progress]:
    """`Painter.stream` for one picture, with the painter that the options ask for."""
    yield from Painter.of(options or Options()).stream(content, styles, options, stop)


def stylize(
    content: Input,
    styles: Input | list[Input] | tuple[Input, ...],
    options: Options | None = None,
    stop: threading.Event | None = None,
) -> Result:
    """`Painter.stylize` for one picture, with the painter that the options ask for."""
    return Painter.of(options or Options()).stylize(content, styles, options, stop)


def _as_list(styles: Input | list[Input] | tuple[Input, ...]) -> list[Input]:
    return list(styles) if isinstance(styles, list | tuple) else [styles]
