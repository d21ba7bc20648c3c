"""All scales of a painting, from two pictures to a `Result`.

Every front end iterates `Painter.stream`; nothing else knows how a picture is made.

Prints nothing, writes nothing, and keeps no state but the painter's network and its cache of style statistics.
"""

import dataclasses
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from styler import devices, images, memory, optimise, plan, targets
from styler.errors import DeviceError, OutOfMemory, StylerError, UsageError
from styler.images import Picture
from styler.objective import TOTAL, Objective
from styler.options import Options
from styler.plan import Plan, Scale
from styler.progress import Clock, Pixels, Progress, Result
from styler.targets import Source, resized
from styler.vgg import backbones
from styler.vgg.features import Features

Input = str | os.PathLike[str] | Picture | Pixels
"""A file, a decoded picture, or (H, W, 3) sRGB: floats in [0, 1] or bytes."""

START_NOISE = 0.02
"""Standard deviation of the seeded noise on the first picture, in units of its range."""


class Stopped(Exception):
    """Raised between convolutions once `stop` is set: no error, somebody asked for it. Never leaves this module."""


@dataclass(slots=True, eq=False)
class _Job:
    """One painting in work."""

    options: Options
    content: Source
    styles: list[Source]
    plan: Plan
    size: tuple[int, int]
    stop: threading.Event
    clock: Clock
    checkpoint: bool
    realised: list[Scale] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Stop the work if somebody asked for it."""
        if self.stop.is_set():
            raise Stopped


class Painter:
    """What is expensive and shared by many paintings: a network on its device and the statistics of styles it has seen.

    Args:
        backbone: `vgg16`, which comes with styler, or another of `styler.vgg.backbones`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: of the convolutions: `auto`, `fp32`, `bf16` or `fp16`.

    Raises:
        WeightsError: the weights are missing or altered.
        DeviceError: the device is absent.
    """

    def __init__(self, backbone: str = "vgg16", device: str = "auto", precision: str = "auto") -> None:
        self.device = devices.choose(device)
        self.precision = devices.precision(self.device, precision)
        self.weights = backbones.load(backbone)
        self._features: dict[tuple[tuple[str, ...], str], Features] = {}
        self._styles = targets.StyleCache()
        devices.prepare(self.device)

    @classmethod
    def of(cls, options: Options) -> "Painter":
        """The painter that these options ask for."""
        return cls(options.backbone, options.device, options.precision)

    def features(self, options: Options) -> Features:
        """The network, up to the layers these options need; made once for each set of layers and pooling."""
        network = self.weights.network
        layers = (*targets.content_layers(options, network), *targets.style_layers(options, network))
        key = (layers, options.pooling)
        if key not in self._features:
            self._features[key] = Features(self.weights, layers, options.pooling, self.precision).to(self.device)
        return self._features[key]

    def stream(
        self,
        content: Input,
        styles: Input | list[Input] | tuple[Input, ...],
        options: Options | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Progress]:
        """Paint, reporting after every evaluation; the last report carries the `Result`.

        Setting `stop`, from any thread, ends with a full result of the best picture so far; closing the generator
        discards it.

        Args:
            content: the photo.
            styles: one painting, or several to be blended with `options.style_weights`.
            options: all settings; `Options()` when not given.
            stop: checked between convolutions.

        Raises:
            StylerError: a picture cannot be read, a setting does not fit, or memory is short; before any evaluation
                if it can be known.
        """
        options = options or Options()
        job = self._job(
            _source(content), [_source(style) for style in _listed(styles)], options, stop or threading.Event()
        )
        image = None
        for index, scale in enumerate(job.plan):
            done, best = 0, None
            began = job.clock.seconds()
            try:
                job.check()
                image = _start(job, scale) if image is None else _refined(job, image, index)
                image = image.to(self.device)
                for step in self._steps(job, scale, image):
                    done, best, job.losses = done + 1, step.best, step.losses
                    job.clock.advance(scale.pixels)
                    yield _progress(job, index, done, step.image)
                    job.check()
            except Stopped:
                pass
            image = image if best is None else best
            if done:
                job.clock.skip((scale.steps - done) * scale.pixels)
                job.realised.append(dataclasses.replace(scale, steps=done))
                job.seconds.append(job.clock.seconds() - began)
            if job.stop.is_set():
                break
        yield _finished(self, job, image)

    def stylize(
        self,
        content: Input,
        styles: Input | list[Input] | tuple[Input, ...],
        options: Options | None = None,
        stop: threading.Event | None = None,
    ) -> Result:
        """Paint and return the result: `stream`, drained."""
        result = None
        for progress in self.stream(content, styles, options, stop):
            result = progress.result
        assert result is not None
        return result

    def _job(self, content: Source, styles: list[Source], options: Options, stop: threading.Event) -> _Job:
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
        scales = plan.make(options, width, height, features.min_side)
        size = plan.final_size(options, width, height)
        checkpoint = bool(scales) and memory.needs_checkpoint(features, size, options.checkpoint, self.device)
        return _Job(options, content, styles, scales, size, stop, Clock(scales), checkpoint)

    def _steps(self, job: _Job, scale: Scale, image: Tensor) -> Iterator[optimise.Step]:
        """The evaluations of one scale; when memory runs out, once more from the best so far with checkpointing."""
        done, recovered = 0, None
        while True:
            try:
                for step in self._optimise(job, scale, image, scale.steps - done):
                    done, image, recovered = done + 1, step.best, step.recovered
                    yield step
                break
            except RuntimeError as error:
                if not devices.is_out_of_memory(error):
                    raise
                if job.checkpoint:
                    raise OutOfMemory(memory.advice(self.features(job.options), job.size, self.device)) from error
            job.checkpoint = True
            devices.release(self.device)
            job.notes.append(f"Memory ran out at {scale.width}×{scale.height}; went on with checkpointing.")
        if recovered is not None and (lost := int(recovered)):
            if lost >= done:
                raise DeviceError("The loss was not a number at any step; try --precision fp32.")
            job.notes.append(f"{lost} of {done} steps at {scale.width}×{scale.height} were not finite and were undone.")

    def _optimise(self, job: _Job, scale: Scale, image: Tensor, steps: int) -> Iterator[optimise.Step]:
        options, features = job.options, self.features(job.options)
        if options.threads:
            torch.set_num_threads(options.threads)
        size = (scale.width, scale.height)
        objective = Objective(
            features,
            targets.compute(features, job.content, job.styles, size, options, self._styles, job.check),
            targets.weighting(options, features.network),
            check=job.check,
            checkpoint=job.checkpoint,
            newton_schulz=self.device.type != "cpu",
        )
        if scale.optimizer == "lbfgs":
            yield from optimise.lbfgs(objective, image, steps)
        else:
            yield from optimise.adam(objective, image, steps, options.learning_rate)


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


def _listed(styles: Input | list[Input] | tuple[Input, ...]) -> list[Input]:
    return list(styles) if isinstance(styles, list | tuple) else [styles]


def _source(given: Input) -> Source:
    """A picture in any of the forms people have, as a tensor on the CPU."""
    if isinstance(given, str | os.PathLike):
        given = images.read(given)
    pixels = given.pixels if isinstance(given, Picture) else np.asarray(given)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError(f"A picture has the shape (height, width, 3); this array has {pixels.shape}.")
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    wide = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(wide).all():
        raise UsageError("The picture has values that are not finite; give sRGB in [0, 1].")
    return Source.of(torch.from_numpy(wide).permute(2, 0, 1)[None].clamp(0, 1).contiguous())  # (1, 3, H, W)


def _start(job: _Job, scale: Scale) -> Tensor:
    """The first picture, (1, 3, H, W): what `init` says, with a little seeded noise.

    It is made on the CPU, so that every device starts alike.
    """
    generator = torch.Generator().manual_seed(job.options.seed)
    noise = torch.randn((1, 3, scale.height, scale.width), generator=generator)
    if job.options.init == "noise":
        return (0.5 + 0.25 * noise).clamp(0, 1)
    if job.options.init == "content":
        first = job.content
    elif job.options.init == "style":
        first = job.styles[0]
    else:
        first = _source(job.options.init)
    share = targets.pull(job.options.strength)
    return (resized(first.image, scale.width, scale.height) + START_NOISE * share * noise).clamp(0, 1)


def _refined(job: _Job, image: Tensor, index: int) -> Tensor:
    """The picture of the scale before, at the size of scale `index`."""
    before, after = job.plan[index - 1], job.plan[index]
    return _enlarged(job, image, (before.width, before.height), (after.width, after.height))


def _enlarged(job: _Job, image: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """A picture at a larger size, with the content's own band of detail, which no enlargement can have, added.

    Above strength 50 the band is added in part only, down to nothing at 100.
    """
    share = min(1.0, (100 - job.options.strength) / 50)
    sharp = resized(job.content.image, *after)
    band = sharp - resized(resized(job.content.image, *before), *after)
    return (resized(image.cpu(), *after) + share * band).clamp(0, 1)


def _pixels(image: Tensor) -> Pixels:
    return np.ascontiguousarray(image[0].float().cpu().permute(1, 2, 0).numpy(), dtype=np.float32)


def _progress(job: _Job, index: int, done: int, image: Tensor) -> Progress:
    total = sum(scale.steps * scale.pixels for scale in job.plan)
    left_out = (total - job.clock.total) / job.plan[-1].pixels
    return Progress(
        plan=job.plan,
        scale=index,
        step=done,
        evaluations=sum(scale.steps for scale in job.realised) + done,
        units=job.clock.done / job.plan[-1].pixels,
        total_units=plan.units(job.plan) - left_out,
        seconds=job.clock.seconds(),
        eta=job.clock.eta(),
        terms=job.losses,
        view=lambda: _pixels(image),
    )


def _finished(painter: Painter, job: _Job, image: Tensor | None) -> Progress:
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
        losses={name: float(term) for name, term in job.losses.items()},
        units=job.clock.done / job.plan[-1].pixels if job.plan else 0.0,
        seconds=job.clock.seconds(),
        scale_seconds=tuple(job.seconds),
        stopped=job.stop.is_set(),
        device=str(painter.device),
        precision=str(painter.precision).removeprefix("torch."),
        threads=torch.get_num_threads(),
        weights_sha256=painter.weights.sha256,
        notes=tuple(job.notes),
    )
    last = max(0, len(job.realised) - 1)
    step = job.realised[-1].steps if job.realised else 0
    report = _progress(job, last, 0, final) if job.plan else None
    return Progress(
        plan=job.plan,
        scale=last,
        step=step,
        evaluations=result.evaluations,
        units=result.units,
        total_units=report.total_units if report else 0.0,
        seconds=result.seconds,
        eta=0.0,
        terms=job.losses,
        view=lambda: result.pixels,
        result=result,
    )


__all__ = ["TOTAL", "Input", "Painter", "StylerError", "stream", "stylize"]
