"""Paint: a `Painter` holds networks and cached statistics for many paintings, a `Run` is one painting in progress.

A run goes from its first image to its result, scale by scale and iteration by iteration. Every front end iterates
`Painter.stream`; nothing else knows how a painting is made.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from styler import schedule
from styler.detail import fill_detail, match_detail
from styler.engine import optimizers, targets
from styler.engine.budget import Budget, Clock
from styler.engine.device import (
    advise_smaller,
    check_device,
    choose_device,
    is_out_of_memory,
    isolate_steps,
    keep_freed_memory,
    name_processor,
    plan_memory,
    prepare_torch,
    release_memory,
)
from styler.engine.objective import TOTAL, HalfSizeCopy, Objective, Targets
from styler.engine.optimizers import IterationLimit, OptimizerStep
from styler.engine.precision import PrecisionChoice
from styler.engine.result import Progress, Result, resize_alpha, to_pixels
from styler.engine.sources import Input, Inputs, SourceImage, load_content, load_start, load_styles
from styler.engine.targets import Blend, StyleCache
from styler.errors import DeviceError, OutOfMemory
from styler.options import INIT_CHOICES, Options
from styler.provenance import FILE_VALUE
from styler.resample import Downsample, extract_detail, resize
from styler.schedule import Replay, Scale, Schedule, count_work, follows_sketch
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import SLIM, Weights

RELEASE_NOISE = 0.9
"""Share of noise in the first image at strength 100."""
START_NOISE = 0.02
"""Standard deviation of the seeded noise on the first image, in units of its range."""
MAX_OTHER_BACKBONES = 2
"""Networks that a painter keeps besides its first: the slim one and one more."""
REFINE_RATE = 0.5
"""Share of Adam's rate at which the full network finishes a sketch, measured on four pairs at 256 and at 512 px."""


class StopRequested(Exception):
    """Raised between convolutions once `stop` is set; never leaves this module."""


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One painting in progress. Only its own methods change it."""

    options: Options
    content: SourceImage
    styles: Sequence[SourceImage]
    blend: Blend
    """The styles that have a weight."""
    start: SourceImage
    """The image to start from; ignored by a start from the styles or noise."""
    features: Features
    slim: Features
    """The network of scales with `sketch`; the same as `features` if there are none."""
    cache: StyleCache
    size: tuple[int, int]
    """Width and height of the result."""
    schedule: Schedule
    checkpoint: bool
    """Whether activations are recomputed in the backward pass."""
    stop: threading.Event
    clock: Clock
    budget: Budget | None = None
    """Changes the schedule during the run; None without a time budget or early stopping."""
    stopped: bool = field(default=False, init=False)
    executed: list[Scale] = field(default_factory=list, init=False)
    scale_seconds: list[float] = field(default_factory=list, init=False)
    targets: dict[tuple[str, tuple[int, int]], Targets] = field(default_factory=dict, init=False)
    """By network and size; half-size copies of larger scales reuse those of smaller scales."""
    losses: dict[str, Tensor] = field(default_factory=dict, init=False)
    best_losses: dict[str, Tensor] = field(default_factory=dict, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def paint(self) -> Iterator[Progress]:
        """Paint all scales, reporting after every iteration; the last report carries the `Result`."""
        image, index = None, 0
        while index < len(self.schedule) and not self.stopped:  # the budget may change the schedule
            image = yield from self._paint_scale(index, image)
            index += 1
        final = (
            resize(self.content.image, *self.size) if image is None else self._enlarge(image, self.size, match=False)
        )
        done = self.executed[-1].iterations if self.executed else 0
        yield self._make_progress(max(0, len(self.executed) - 1), done, final, self._make_result(final))

    def check(self) -> None:
        """Raise `StopRequested` if `stop` is set; called between convolutions."""
        if self.stop.is_set():
            raise StopRequested

    def _paint_scale(self, index: int, image: Tensor | None) -> Generator[Progress, None, Tensor | None]:
        """Paint a scale, starting from the best image of the scale before, and return the best image so far."""
        scale, done, start_seconds = self.schedule[index], 0, self.clock.seconds
        try:
            self.check()
            first = self._make_first_image(scale) if image is None else self._enlarge(image, scale.size)
            for step in self._iterate(index, first.to(self.features.device)):
                done, image = done + 1, step.best
                self.losses, self.best_losses = step.losses, step.best_losses
                self.clock.advance(scale.cost)
                self._update_schedule(index, done)
                yield self._make_progress(index, done, step.image)
                if done < self.schedule[index].iterations:
                    self.check()  # after the last iteration of a scale, the next scale checks
        except StopRequested:
            self.stopped = True
        if done:
            self.clock.skip((self.schedule[index].iterations - done) * scale.cost)
            self.executed.append(self.schedule[index].truncate(done))
            self.scale_seconds.append(self.clock.seconds - start_seconds)
        return image

    def _make_first_image(self, scale: Scale) -> Tensor:
        """Return the first image, (1, 3, H, W), with seeded noise, made on the CPU to be the same on every device."""
        generator = torch.Generator().manual_seed(self.options.seed)
        noise = torch.randn((1, 3, scale.height, scale.width), generator=generator, dtype=torch.float32)
        if self.options.init == "noise":
            return (0.5 + 0.25 * noise).clamp(0, 1)
        strength = self.options.strength
        starts = self.blend.styles if self.options.init == "style" else [self.start]
        images = [resize(start.image, *scale.size) for start in starts]
        first = self.blend.average(images) if len(images) > 1 else images[0]
        first = first + START_NOISE * targets.style_mix(strength) * noise
        if self.options.init == "content":  # a style or a file that the user chose to start from is kept as it is
            first = torch.lerp(first, 0.5 + 0.25 * noise, RELEASE_NOISE * targets.release_content(strength))
        return first.clamp(0, 1)

    def _enlarge(self, image: Tensor, size: tuple[int, int], *, match: bool = True) -> Tensor:
        """Enlarge an image (1, 3, h, w) to a size (width, height), with the content's detail, released above 50.

        In a sketch, whose iterations are too few to find detail, what is missing is the styles' if `match`.
        """
        before, strength = (image.shape[-1], image.shape[-2]), self.options.strength
        if before == size:
            return image
        image = resize(image.cpu(), *size)
        detail = (1 - targets.release_content(strength)) * extract_detail(self.content.image, before, size)
        if match and self.options.sketch:
            styles = targets.fit_styles(self.blend, max(size), self.options, self.features.min_side)
            matched = match_detail(image, max(size) / max(before), styles, self.check)
            detail = fill_detail(detail, targets.style_mix(strength) * matched)
        return (image + detail).clamp(0, 1)

    def _iterate(self, index: int, image: Tensor) -> Iterator[OptimizerStep]:
        """Yield the steps of a scale; if memory runs out once, continue from the best image with checkpointing."""
        done, recovered = 0, None
        while True:
            before, scale = done, self.schedule[index]
            limit = IterationLimit(scale.iterations - before, scale.planned - before)
            try:
                for step in self._optimize(index, image, limit):
                    done, image, recovered = done + 1, step.best, step.recovered
                    yield step
                    scale = self.schedule[index]  # the budget may have changed it
                    limit.iterations, limit.planned = scale.iterations - before, scale.planned - before
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.checkpoint:
                    sizes = [style.size for style in self.blend.styles]
                    options = self.options.replace(checkpoint="on")
                    raise OutOfMemory(advise_smaller(self.features, self.size, sizes, options)) from error
            self._begin_checkpointing(scale)
        if recovered is not None and (lost := int(recovered)):
            if lost >= done:
                raise DeviceError("The loss was not finite in any iteration; try --precision fp32.")
            self.notes.append(
                f"{lost} of {done} iterations at {scale.width}×{scale.height} were not finite and were undone."
            )

    def _begin_checkpointing(self, scale: Scale) -> None:
        self.checkpoint = True
        keep_freed_memory(self.features.device, keep=False)
        release_memory(self.features.device)
        self.notes.append(f"Memory ran out at {scale.width}×{scale.height}; continued with checkpointing.")

    def _optimize(self, index: int, image: Tensor, limit: IterationLimit) -> Iterator[OptimizerStep]:
        scale = self.schedule[index]
        objective = self._build_objective(scale)
        if scale.optimizer == "lbfgs":
            return optimizers.lbfgs(objective, image, limit)
        rate = self.options.learning_rate * (REFINE_RATE if follows_sketch(self.schedule, index) else 1.0)
        return optimizers.adam(objective, image, limit, rate, floored=self.options.sketch > 0)

    def _build_objective(self, scale: Scale, *, is_copy: bool = False) -> Objective:
        """Build the objective of a scale; its half-size copies are scales of their own, without strokes."""
        options, size, features = self.options, scale.size, self.slim if scale.sketch else self.features
        key = (features.sha256, size)
        if key not in self.targets:
            self.targets[key] = targets.compute_targets(
                features, self.content, self.blend, size, options, self.cache, self.check
            )
        half_size = matching = None
        if scale.half_size_copies:
            half = scale.halve()
            downsample = Downsample(size, half.size, features.device)
            half_size = HalfSizeCopy(self._build_objective(half, is_copy=True), downsample, options.multiscale)
        plan = targets.plan_matching(options, features.network, self.size, scale)
        if plan and not is_copy:
            prepared = features, self.targets[key], self.blend
            matching = targets.prepare_matching(plan, *prepared, max(size), options, self.check)
        return Objective(
            features,
            self.targets[key],
            targets.compute_term_weights(options, features.network),
            check=self.check,
            checkpoint=self.checkpoint,
            newton_schulz=features.device.type != "cpu",
            half_size=half_size,
            matching=matching,
        )

    def _update_schedule(self, index: int, done: int) -> None:
        """Let the budget change the number of iterations left after `done` iterations of a scale."""
        if self.budget:
            self.schedule = self.budget.update_schedule(self.schedule, index, done, self.losses[TOTAL])
            remaining = count_work(self.schedule[index:]) - done * self.schedule[index].cost
            self.clock.total = self.clock.done + remaining

    def _estimate_remaining(self) -> float | None:
        remaining = self.budget.remaining if self.budget else None
        return self.clock.estimate_remaining() if remaining is None else remaining

    def _count_units(self, work: float) -> float:
        return work / (self.size[0] * self.size[1])

    def _make_progress(self, index: int, done: int, image: Tensor, result: Result | None = None) -> Progress:
        """Return the report after `done` iterations of scale `index`, with the current image (1, 3, H, W)."""
        return Progress(
            schedule=self.schedule,
            scale=index,
            iteration=done,
            total_iterations=sum(scale.iterations for scale in self.executed[:index]) + done,
            units=self._count_units(self.clock.done),
            total_units=self._count_units(self.clock.total),
            seconds=self.clock.seconds,
            eta=0.0 if result else self._estimate_remaining(),
            terms=self.losses,
            render=lambda: to_pixels(image),
            result=result,
        )

    def _make_result(self, image: Tensor) -> Result:
        """Return the result with the final image (1, 3, H, W)."""
        sources = (self.content, *self.styles, self.start)
        return Result(
            pixels=to_pixels(image),
            options=self.options,
            schedule=tuple(self.executed),
            losses={name: float(term) for name, term in self.best_losses.items()},
            units=self._count_units(self.clock.done),
            seconds=self.clock.seconds,
            scale_seconds=tuple(self.scale_seconds),
            stopped=self.stopped,
            device=str(self.features.device),
            precision=str(self.features.precision).removeprefix("torch."),
            threads=torch.get_num_threads(),
            weights_sha256=self.features.sha256,
            processor=name_processor(self.features.device),
            torch=torch.__version__,
            slim_sha256=self.slim.sha256 if any(scale.sketch for scale in self.executed) else "",
            notes=(*dict.fromkeys(warning for source in sources for warning in source.warnings), *self.notes),
            content_sha256=self.content.sha256,
            style_sha256=tuple(style.sha256 for style in self.styles),
            trims=tuple(style.trim for style in self.styles),
            start_sha256="" if self.options.init in INIT_CHOICES else self.start.sha256,
            background=next((source.background for source in sources if source.background), None),
            alpha=resize_alpha(self.content.alpha, *self.size),
            metadata=self.content.metadata,
        )


class Painter:
    """Networks on their device and the cache of style statistics, shared by many paintings.

    The options of each painting name its backbone; any other than the first is loaded on first use. Threads may share a
    painter; processes that are forked after it has worked may not use it, those started by `spawn` make their own.

    Args:
        backbone: loaded first: `vgg16`, which is part of styler, or another of `styler.vgg.registry.BACKBONES`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: of the convolutions: `auto`, `fp32`, `bf16` or `fp16`.
        weights: of the first backbone, if already loaded.

    Raises:
        OptionError: there is no such backbone or precision.
        WeightsError: the weights are missing or altered.
        DeviceError: the device is not available.
    """

    def __init__(
        self, backbone: str = "vgg16", device: str = "auto", precision: str = "auto", weights: Weights | None = None
    ) -> None:
        chosen = Options(backbone=backbone, device=device, precision=precision)  # validates them
        self.device = choose_device(chosen.device)
        self.precision_choice = PrecisionChoice(self.device, chosen.precision)
        self._first = backbone = chosen.backbone
        self._cache = StyleCache()
        self._networks: dict[str, Features] = {}
        self._weights: dict[str, Weights] = {} if weights is None else {backbone: weights}
        with prepare_torch(self.device):
            self._load_weights(backbone)

    @classmethod
    def of(cls, options: Options, weights: Weights | None = None) -> "Painter":
        """Make a painter with the backbone, device and precision of the options."""
        return cls(options.backbone, options.device, options.precision, weights)

    @property
    def precision(self) -> torch.dtype:
        """The precision of the convolutions; `auto` is decided when it is first needed."""
        return self.precision_choice.dtype

    def use_store(self, store: targets.StatsStore | None) -> None:
        """Look up style statistics in a persistent store before computing them, and store them there."""
        self._cache = StyleCache(store)

    def load_networks(self, options: Options) -> None:
        """Load every network that the options need, so that a missing one is reported before any work.

        Raises:
            StylerError: as `features` does.
        """
        self.features(options)
        if schedule.compute_sketch_share(options):
            self.features(options, sketch=True)

    def features(self, options: Options, *, sketch: bool = False) -> Features:
        """Return the network with the layers that the options need, loading it if necessary.

        All selections of layers share the kernels of one network for each backbone, which has the pooling of the
        last painting: a painter's memory does not grow with what it has painted.

        Args:
            options: backbone, pooling and layers are read.
            sketch: return the slim network that replaces the backbone in a sketch.

        Raises:
            StylerError: the backbone cannot be loaded, or lacks one of the layers or the pooling.
        """
        backbone = SLIM if sketch else options.backbone
        with prepare_torch(self.device, options.threads):
            weights = self._load_weights(backbone)
            layers = targets.resolve_layers(options, weights.network)
            network = self._networks.get(backbone)
            if network is None or network.pooling != options.pooling:
                self._networks.pop(backbone, None)
                network = Features(weights, weights.layers, options.pooling, self.precision).to(self.device)
                self._networks[backbone] = network
            return network.select(layers)

    def _load_weights(self, backbone: str) -> Weights:
        """Return the weights of a backbone; those least recently used are dropped, but never the first."""
        weights = self._weights.pop(backbone, None) or registry.load_backbone(backbone)
        self._weights[backbone] = weights  # the last is the most recently used
        others = [name for name in [*self._weights] if name != self._first]
        for name in others[:-MAX_OTHER_BACKBONES]:
            self._weights.pop(name, None)
            self._networks.pop(name, None)
        return weights

    def stream(
        self,
        content: Input,
        styles: Inputs,
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
        start: Input | None = None,
    ) -> Iterator[Progress]:
        """Paint, reporting after every iteration; the last report carries the `Result`.

        Setting `stop`, from any thread, ends with a complete result of the best picture so far; closing the generator
        discards it.

        Args:
            content: the photo.
            styles: one painting, or several to be blended by `options.style_weights`.
            options: all settings; `Options()` if not given.
            stop: checked between convolutions.
            replay: an executed schedule (`Result.replay`) to use in place of the one that the options give; that of a
                stopped painting is repeated as far as it went.
            start: the picture to start from, in place of what `options.init` names.

        Raises:
            StylerError: a picture cannot be read, a setting is invalid, or memory is insufficient; if possible, before
                the first iteration.
        """
        options = options or Options()
        steps = self._paint(content, styles, options, stop or threading.Event(), replay, start)
        yield from isolate_steps(steps, self.device, options.threads)

    def stylize(
        self,
        content: Input,
        styles: Inputs,
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
        start: Input | None = None,
    ) -> Result:
        """Paint as `stream` does and return the result."""
        result = None
        for progress in self.stream(content, styles, options, stop, replay, start):
            result = progress.result
        assert result is not None
        return result

    def _paint(self, *job: Any) -> Generator[Progress]:
        """Prepare a run with the arguments of `_prepare_run` and paint it."""
        try:
            yield from self._prepare_run(*job).paint()
        finally:
            keep_freed_memory(self.device, keep=False)

    def _prepare_run(
        self,
        content: Input,
        styles: Inputs,
        options: Options,
        stop: threading.Event,
        replay: Replay | None,
        start: Input | None,
    ) -> Run:
        check_device(options, self.device, self.precision)
        source, style_sources = load_content(content), targets.trim_styles(load_styles(styles), options)
        features = self.features(options)
        height, width = source.image.shape[-2:]
        size = schedule.compute_result_size(options, width, height)
        scales = schedule.build_schedule(options, width, height, features.min_side)
        if replay is not None and scales:
            allow_sketch = schedule.compute_sketch_share(options) > 0
            scales = schedule.refit_schedule(replay, *size, features.min_side, allow_sketch=allow_sketch)
        plan = plan_memory(features, size, [style.size for style in style_sources], options) if scales else None
        keep_freed_memory(self.device, keep=plan is not None and plan.is_ample)
        if start is not None and options.init in INIT_CHOICES:
            options = options.replace(init=FILE_VALUE)
        start_source = source
        if options.init not in INIT_CHOICES:
            start_source = load_start(options.init if start is None else start)
        clock = Clock(scales)
        has_budget = replay is None and (options.time or options.patience)
        return Run(
            options=options,
            content=source,
            styles=style_sources,
            blend=targets.prepare_blend(source, style_sources, options),
            start=start_source,
            features=features,
            slim=self.features(options, sketch=True) if any(scale.sketch for scale in scales) else features,
            cache=self._cache,
            size=size,
            schedule=scales,
            checkpoint=plan is not None and plan.checkpoint,
            stop=stop,
            clock=clock,
            budget=Budget(options, scales, clock) if has_budget else None,
        )


def stream(
    content: Input,
    styles: Inputs,
    options: Options | None = None,
    stop: threading.Event | None = None,
    start: Input | None = None,
) -> Iterator[Progress]:
    """Paint one picture as `Painter.stream` does, with a painter made from the options."""
    yield from Painter.of(options or Options()).stream(content, styles, options, stop, start=start)


def stylize(
    content: Input,
    styles: Inputs,
    options: Options | None = None,
    stop: threading.Event | None = None,
    start: Input | None = None,
) -> Result:
    """Paint one picture as `Painter.stylize` does, with a painter made from the options."""
    return Painter.of(options or Options()).stylize(content, styles, options, stop, start=start)
