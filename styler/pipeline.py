"""All scales of a painting, from two pictures to a `Result`.

Every front end iterates `Painter.stream`; nothing else knows how a picture is made. Prints nothing, writes nothing, and
keeps no state but the painter's network and its cache of style statistics.
"""

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from styler import devices, memory, optimise, plan, targets
from styler.errors import DeviceError, OutOfMemory, UsageError
from styler.job import Input, Job, Stopped, final_report, first_picture, refined, report, source_of, start_of
from styler.objective import Objective, Octave
from styler.options import Options
from styler.pace import Pace
from styler.plan import Repeat, Scale
from styler.progress import Clock, Progress, Result
from styler.resize import Reduction
from styler.targets import Source
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import SLIM, Weights

GENTLE = 0.5
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
        self.device = devices.choose(device)
        self.precision = devices.precision(self.device, precision)
        self._networks = {backbone: registry.load_backbone(backbone) if weights is None else weights}
        self._features: dict[tuple[str, tuple[str, ...], str], Features] = {}
        self._styles = targets.StyleCache()
        devices.prepare(self.device)

    @classmethod
    def of(cls, options: Options, weights: Weights | None = None) -> "Painter":
        """The painter that these options ask for."""
        return cls(options.backbone, options.device, options.precision, weights)

    def remember(self, shelf: targets.Shelf | None) -> None:
        """Look for statistics of styles on a shelf before they are computed, and put them there."""
        self._styles = targets.StyleCache(shelf)

    def ready(self, options: Options) -> None:
        """Read every network that these options need, so that what is missing is known before any work.

        Raises:
            StylerError: as `features` does.
        """
        self.features(options)
        if options.sketched:
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
        layers = (*targets.content_layers(options, weights.network), *targets.style_layers(options, weights.network))
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
        repeat: Repeat | None = None,
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
            repeat: the work of an earlier result (`Result.repeat`), in place of the plan that the options ask for. One
                that was stopped is repeated as far as it went.
            start: the picture that `options.init` names, for who has read it already.

        Raises:
            StylerError: a picture cannot be read, a setting does not fit, or memory is short; before any evaluation
                if it can be known.
        """
        options = options or Options()
        sources = [source_of(style) for style in _listed(styles)]
        job = self._job(source_of(content), sources, options, stop or threading.Event(), repeat)
        job.start = start_of(options, start)
        threads = torch.get_num_threads()
        try:
            if options.threads:
                torch.set_num_threads(options.threads)
            yield from self._scales(job)
        finally:
            torch.set_num_threads(threads)

    def _scales(self, job: Job) -> Iterator[Progress]:
        image: Tensor | None = None
        index = -1
        while (index := index + 1) < len(job.plan):  # which may change on the way
            scale, done, best = job.plan[index], 0, None
            began = job.clock.seconds()
            try:
                job.check()
                start = first_picture(job, scale) if image is None else refined(job, image, index)
                for step in self._steps(job, index, start.to(self.device)):
                    done, best = done + 1, step.best
                    job.losses, job.best_losses = step.losses, step.best_losses
                    job.clock.advance(scale.work)
                    job.replan(index, done)
                    yield report(job, index, done, step.image)
                    if done < job.plan[index].steps:
                        job.check()  # after the last step of a scale, the next one looks
            except Stopped:
                job.stopped = True
            image = image if best is None else best
            if done:
                job.clock.skip((job.plan[index].steps - done) * scale.work)
                job.realised.append(job.plan[index].after(done))
                job.seconds.append(job.clock.seconds() - began)
            if job.stopped:
                break
        yield final_report(job, self.features(job.options), image)

    def stylize(
        self,
        content: Input,
        styles: Input | list[Input] | tuple[Input, ...],
        options: Options | None = None,
        stop: threading.Event | None = None,
        repeat: Repeat | None = None,
    ) -> Result:
        """Paint and return the result: `stream`, drained."""
        result = None
        for progress in self.stream(content, styles, options, stop, repeat):
            result = progress.result
        assert result is not None
        return result

    def _job(
        self, content: Source, styles: list[Source], options: Options, stop: threading.Event, repeat: Repeat | None
    ) -> Job:
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
        if repeat is not None and scales:
            scales = plan.refit(repeat, *size, features.min_side, sketched=options.sketched > 0)
        checkpoint = bool(scales) and memory.needs_checkpoint(features, size, options.checkpoint, self.device)
        devices.keep_memory(self.device, not checkpoint and memory.is_plentiful(features, size, self.device))
        clock = Clock(scales)
        pace = Pace(options, scales, clock) if repeat is None and (options.time or options.patience) else None
        return Job(options, content, styles, scales, size, stop, clock, checkpoint, pace=pace)

    def _steps(self, job: Job, index: int, image: Tensor) -> Iterator[optimise.Step]:
        """The evaluations of one scale; when memory runs out, once more from the best so far with checkpointing."""
        done, recovered = 0, None
        while True:
            before, scale = done, job.plan[index]
            span = optimise.Span(scale.steps - before, scale.planned - before)
            try:
                for step in self._optimise(job, index, image, span):
                    done, image, recovered = done + 1, step.best, step.recovered
                    yield step
                    scale = job.plan[index]  # as it has become
                    span.steps, span.planned = scale.steps - before, scale.planned - before
                break
            except (RuntimeError, MemoryError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                if job.checkpoint:
                    raise OutOfMemory(memory.advice(self.features(job.options), job.size, self.device)) from error
            job.checkpoint = True
            devices.keep_memory(self.device, keep=False)
            devices.release(self.device)
            job.notes.append(f"Memory ran out at {scale.width}×{scale.height}; went on with checkpointing.")
        if recovered is not None and (lost := int(recovered)):
            if lost >= done:
                raise DeviceError("The loss was not a number at any step; try --precision fp32.")
            job.notes.append(f"{lost} of {done} steps at {scale.width}×{scale.height} were not finite and were undone.")

    def _optimise(self, job: Job, index: int, image: Tensor, span: optimise.Span) -> Iterator[optimise.Step]:
        options, scale = job.options, job.plan[index]
        objective = self._objective(job, scale)
        if scale.optimizer == "lbfgs":
            yield from optimise.lbfgs(objective, image, span)
        else:
            rate = options.learning_rate * (GENTLE if plan.ends_a_sketch(job.plan, index) else 1.0)
            yield from optimise.adam(objective, image, span, rate)

    def _objective(self, job: Job, scale: Scale) -> Objective:
        """What is minimised at a scale; its octaves are scales of their own."""
        options, size = job.options, (scale.width, scale.height)
        features = self.features(options, sketch=scale.sketch)
        key = (features.sha256, size)
        if key not in job.targets:
            job.targets[key] = targets.compute(
                features, job.content, job.styles, size, options, self._styles, job.check
            )
        octave = None
        if scale.octaves:
            half = scale.halved()
            reduction = Reduction(size, (half.width, half.height), self.device)
            octave = Octave(self._objective(job, half), reduction, options.octaves)
        return Objective(
            features,
            job.targets[key],
            targets.weighting(options, features.network),
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


def _listed(styles: Input | list[Input] | tuple[Input, ...]) -> list[Input]:
    return list(styles) if isinstance(styles, list | tuple) else [styles]
