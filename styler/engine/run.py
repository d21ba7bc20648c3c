"""Run one painting: from its first image to its result, scale by scale and iteration by iteration.

Scales that several paintings share are kept in a `ScaleCache`, so that none is painted twice.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from styler.detail import fill_detail, match_detail
from styler.engine import optimizers, targets
from styler.engine.budget import Budget, Clock
from styler.engine.device import CPU, isolate_steps, name_processor
from styler.engine.memory.estimate import Rung
from styler.engine.memory.host import HostObjective
from styler.engine.memory.ladder import Ladder
from styler.engine.memory.measure import is_out_of_memory, keep_freed_memory, release_memory
from styler.engine.optimizers import IterationLimit, OptimizerStep
from styler.engine.placement import Placement
from styler.engine.result import Pixels, Progress, Result, resize_alpha, to_pixels
from styler.engine.sources import SourceImage
from styler.engine.styles import Blend, StyleCache, fit_styles
from styler.errors import DeviceError
from styler.objective.terms import TOTAL, HalfSizeCopy, Hold, Objective, RegionRoots, Targets
from styler.options import INIT_CHOICES, Options, list_options
from styler.regions.areas import Areas
from styler.regions.resolve import MaskEntry
from styler.resample import Downsample, extract_detail, resize
from styler.schedule import Scale, Schedule, count_work, follows_sketch
from styler.vgg.model import Features

RELEASE_NOISE = 0.9
"""Share of noise in the first image at strength 100."""
START_NOISE = 0.02
"""Standard deviation of the seeded noise on the first image, in units of its range."""
REFINE_RATE = 0.5
"""Share of Adam's rate at which the full network finishes a sketch, measured on four pairs at 256 and at 512 px."""
OPENING_THREADS = 1
"""CPU threads of an opening, which is too small to keep more busy. Several previews are painted side by side."""
MAX_SCALES_BYTES = 32_000_000
"""Memory of the shared scales that a painter keeps: 200 of 128×96 pixels, two for each preview."""
_UNSHARED_OPTIONS = (
    *(
        "size",
        "paper",
        "dpi",
        "fit",
        "preset",
        "look",
        "style_weights",
        "init",
        "time",
        "patience",
        "iterations",
        "taper",
        "sketch",
    ),
    *("first_size", "optimizer", "keep_border", "multiscale", "backbone"),
    *("device", "precision", "checkpoint", "tile", "memory", "threads"),
    *("protect", "regions", "labels"),
)
"""Options that do not change how a shared scale is painted, or that its key has in another form."""


class StopRequested(Exception):
    """Raised between convolutions once `stop` is set; never leaves this module."""


@dataclass(frozen=True, slots=True, eq=False)
class PaintedScale:
    """The end of a scale that was painted to its last iteration."""

    image: Tensor
    """(1, 3, H, W) in [0, 1], on the CPU."""
    losses: dict[str, Tensor]
    """Terms of the image evaluated last, each (), on the CPU."""
    best_losses: dict[str, Tensor]
    """Terms of the image with the lowest total, each (), on the CPU."""

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return self.image.nbytes


class ScaleStore(Protocol):
    """Persistent storage of painted scales."""

    def get(self, key: str, device: torch.device) -> PaintedScale | None:
        """Return the scale stored under a key, or None if there is none."""

    def put(self, key: str, device: torch.device, scale: PaintedScale) -> None:
        """Store a scale under a key."""


class ScaleCache:
    """A cache of painted scales by everything that determines their pixels; the least recently used are dropped first.

    Threads may share it: every access to its dictionary is a single operation.

    Args:
        store: where scales are looked up that are not in memory, and stored.
        max_bytes: limit on the memory.
    """

    def __init__(self, store: ScaleStore | None = None, max_bytes: int = MAX_SCALES_BYTES) -> None:
        self._scales: dict[str, PaintedScale] = {}
        self._store = store
        self._max_bytes = max_bytes

    @property
    def bytes(self) -> int:
        """The memory that the scales take."""
        return sum(scale.bytes for scale in [*self._scales.values()])

    def get(self, key: str, device: torch.device) -> PaintedScale | None:
        """Return the scale with a key, or None if there is none."""
        scale = self._scales.pop(key, None)
        if scale is None and self._store:
            scale = self._store.get(key, device)
        if scale is not None:
            self._keep(key, scale)
        return scale

    def put(self, key: str, device: torch.device, scale: PaintedScale) -> None:
        """Keep a scale under a key, and store it."""
        self._keep(key, scale)
        if self._store:
            self._store.put(key, device, scale)

    def _keep(self, key: str, scale: PaintedScale) -> None:
        self._scales[key] = scale  # the last is the most recently used
        excess = self.bytes - self._max_bytes
        for oldest, dropped in [*self._scales.items()][:-1]:
            if excess > 0:
                excess -= dropped.bytes
                self._scales.pop(oldest, None)


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
    scales: ScaleCache
    is_preview: bool
    """Whether all of its scales are shared, not only the opening."""
    size: tuple[int, int]
    """Width and height of the result."""
    schedule: Schedule
    ladder: Ladder
    """How every scale is held in memory."""
    stop: threading.Event
    clock: Clock
    areas: Areas | None = None
    masks: tuple[MaskEntry, ...] = ()
    """Those of which the areas are made."""
    """Of the photo; None if all of it is painted in the same way."""
    budget: Budget | None = None
    """Changes the schedule during the run; None without a time budget or early stopping."""
    stopped: bool = field(default=False, init=False)
    executed: list[Scale] = field(default_factory=list, init=False)
    scale_seconds: list[float] = field(default_factory=list, init=False)
    targets: dict[tuple[str, tuple[int, int], int], Targets] = field(default_factory=dict, init=False)
    """By network, size and side of the tiles; half-size copies of larger scales reuse those of smaller scales."""
    holds: dict[tuple[int, int], Hold | None] = field(default_factory=dict, init=False)
    """By size; pixels that are shown are held as those that are compared."""
    losses: dict[str, Tensor] = field(default_factory=dict, init=False)
    best_losses: dict[str, Tensor] = field(default_factory=dict, init=False)
    notes: list[str] = field(default_factory=list)

    def paint(self) -> Iterator[Progress]:
        """Paint all scales, reporting after every iteration; the last report carries the `Result`."""
        image, index = None, 0
        while index < len(self.schedule) and not self.stopped:  # the budget may change the schedule
            steps = self._paint_scale(index, image)
            if self.features.device.type == "cpu" and self._continues_opening(index):
                steps = isolate_steps(steps, self.features.device, OPENING_THREADS)
            image = yield from steps
            index += 1
        final = (
            resize(self.content.image, *self.size) if image is None else self._enlarge(image, self.size, match=False)
        )
        self.targets.clear()  # the picture is copied now, and converted
        final = self._hold_photo(final)
        done = self.executed[-1].iterations if self.executed else 0
        yield self._make_progress(max(0, len(self.executed) - 1), done, final, self._make_result(final))

    @property
    def checkpoint(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return self.ladder.rung.checkpoint

    @property
    def tile(self) -> int:
        """Side of the tiles in which the current scale is painted, in pixels; 0 for none."""
        return self.ladder.rung.tile

    def check(self) -> None:
        """Raise `StopRequested` if `stop` is set; called between convolutions."""
        if self.stop.is_set():
            raise StopRequested

    def _continues_opening(self, index: int) -> bool:
        """Return whether a scale is an opening, or goes on with it at the same size with the same network."""
        first, scale = self.schedule[0], self.schedule[index]
        return first.opening and (first.size, first.sketch) == (scale.size, scale.sketch)

    def _paint_scale(self, index: int, image: Tensor | None) -> Generator[Progress, None, Tensor | None]:
        """Paint a scale, starting from the best image of the scale before, and return the best image so far."""
        scale, done, start_seconds = self.schedule[index], 0, self.clock.seconds
        key = self._make_key(index)
        if key and not self.stop.is_set() and (painted := self.scales.get(key, self.features.device)):
            return (yield from self._adopt_scale(index, painted))
        try:
            self.check()
            note = self.ladder.begin_scale(scale, is_shared=self._is_shared(scale))
            self.notes += [note] if note and note not in self.notes else []
            if note:
                keep_freed_memory(self.features.device, keep=False, is_scarce=True)
            for step in self._iterate(index, self._make_first_image(scale, image)):  # kept nowhere else
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
        if key and image is not None and done == scale.iterations:
            self._share_scale(key, image)
        return image

    def _adopt_scale(self, index: int, painted: PaintedScale) -> Generator[Progress, None, Tensor]:
        """Report a scale that was painted before as done, and return its image."""
        scale = self.schedule[index]
        self.losses, self.best_losses = painted.losses, painted.best_losses
        self.clock.skip(scale.iterations * scale.cost)
        self.executed.append(scale)
        self.scale_seconds.append(0.0)
        yield self._make_progress(index, scale.iterations, painted.image)
        return painted.image

    def _share_scale(self, key: str, image: Tensor) -> None:
        losses, best_losses = (
            {name: term.cpu() for name, term in terms.items()} for terms in (self.losses, self.best_losses)
        )
        self.scales.put(key, self.features.device, PaintedScale(image.cpu(), losses, best_losses))

    def _make_key(self, index: int) -> str:
        """Return what determines the pixels of a scale, or an empty text if it is not shared."""
        if not self._is_shared(self.schedule[index]):
            return ""
        options, painted = self.options, self.schedule[: index + 1]
        shaping = {name: getattr(options, name) for name in list_options() if name not in _UNSHARED_OPTIONS}
        networks = [(self.slim if scale.sketch else self.features).sha256 for scale in painted]
        images = [self.content, *self.blend.styles, *([] if options.init == "content" else [self.start])]
        start = options.init if options.init in INIT_CHOICES else ""
        floored = index > 0 and options.sketch > 0
        areas = self.areas and self.areas.digest
        parts = ([image.digest for image in images], self.blend.shares, areas, shaping, start, floored, painted)
        machine = (networks, self.features.precision, str(self.features.device), torch.get_num_threads())
        return repr((*parts, *machine))

    def _make_first_image(self, scale: Scale, before: Tensor | None) -> Tensor:
        """Return the first image of a scale, (1, 3, H, W), made on the CPU to be the same on every device.

        It is the best image of the scale before, enlarged, or else has seeded noise.
        """
        if before is not None:
            return self._enlarge(before, scale.size)
        generator = torch.Generator().manual_seed(self.options.seed)
        noise = torch.randn((1, 3, scale.height, scale.width), generator=generator, dtype=torch.float32)
        if self.options.init == "noise":
            return noise.mul_(0.25).add_(0.5).clamp_(0, 1)
        strength = self.options.strength
        starts = self.blend.styles if self.options.init == "style" else [self.start]
        images = [start.fit(*scale.size) for start in starts]
        first = self._mix_styles(images) if len(images) > 1 else images[0]
        first = (START_NOISE * targets.style_mix(strength) * noise).add_(first)
        release = targets.release_content(strength)
        if self.options.init == "content" and release:  # a chosen style or file to start from is kept as it is
            first.lerp_(noise.mul_(0.25).add_(0.5), RELEASE_NOISE * release)
        return first.clamp_(0, 1)

    def _enlarge(self, image: Tensor, size: tuple[int, int], *, match: bool = True) -> Tensor:
        """Enlarge an image (1, 3, h, w) to a size (width, height), with the content's detail, released above 50.

        In a sketch, whose iterations are too few to find detail, what is missing is the styles' if `match`.
        """
        before, strength = (image.shape[-1], image.shape[-2]), self.options.strength
        if before == size:
            return image
        image = resize(image.cpu(), *size)
        detail = extract_detail(self.content.image, before, size).mul_(1 - targets.release_content(strength))
        if match and self.options.sketch:
            matched = self._match_detail(image, max(size) / max(before))
            detail = fill_detail(detail, targets.style_mix(strength) * matched)
        return detail.add_(image).clamp_(0, 1)

    def _mix_styles(self, images: list[Tensor]) -> Tensor:
        """Return the weighted mean of images (1, 3, H, W), one for each style, in each region that of its styles."""
        if self.areas is None:
            return self.blend.average(images)
        placement = Placement.of(self.areas, self.blend, (images[0].shape[-1], images[0].shape[-2]))
        parts = [
            torch.stack([share * images[index] for index, share in styles.items()]).sum(dim=0)
            for styles in placement.styles
        ]
        return placement.compose(parts)

    def _match_detail(self, image: Tensor, ratio: float) -> Tensor:
        """Return the detail of the styles that an enlarged image (1, 3, H, W) lacks, in each region that of its own.

        What is protected lacks less.
        """
        size = (image.shape[-1], image.shape[-2])
        styles = fit_styles(self.blend, max(size), self.options, self.features.min_side)
        if self.areas is None:
            return match_detail(image, ratio, styles, self.check)
        placement = Placement.of(self.areas, self.blend, size)
        chosen = [[(styles[index][0], share) for index, share in own.items()] for own in placement.styles]
        return placement.released * placement.compose([match_detail(image, ratio, own, self.check) for own in chosen])

    def _hold_photo(self, image: Tensor) -> Tensor:
        """Return an image (1, 3, H, W) with the pixels of the photo where these are held."""
        if self.areas is None or self.areas.protection is None:
            return image
        size = (image.shape[-1], image.shape[-2])
        if size not in self.holds:
            known = [each.hold for key, each in self.targets.items() if key[1] == size]
            placed = [] if known else [Placement.of(self.areas, self.blend, size)]
            made = [each.make_hold(self.content.fit(*size).to(image)) for each in placed]
            self.holds = {size: (known + made)[0]}
        hold = self.holds[size]
        return image if hold is None else hold.apply(image)

    def _iterate(self, index: int, image: Tensor) -> Iterator[OptimizerStep]:
        """Yield the steps of a scale; whenever memory runs out, continue from the best image on the next rung."""
        done, recovered = 0, None
        while True:
            before, scale = done, self.schedule[index]
            limit = IterationLimit(scale.iterations - before, scale.planned - before)
            try:
                image = image.to(CPU if self.ladder.rung.on_host else self.features.device)
                for step in self._optimize(index, image, limit):
                    done, image, recovered = done + 1, step.best, step.recovered
                    yield step
                    scale = self.schedule[index]  # the budget may have changed it
                    limit.iterations, limit.planned = scale.iterations - before, scale.planned - before
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._step_down(scale, error)
            release_memory(self.features.device)  # what the error has kept is free by now
        if recovered is not None and (lost := int(recovered)):
            if lost >= done:
                raise DeviceError("The loss was not finite in any iteration; try --precision fp32.")
            self.notes.append(
                f"{lost} of {done} iterations at {scale.width}×{scale.height} were not finite and were undone."
            )

    def _step_down(self, scale: Scale, error: Exception) -> None:
        """Choose the next rung; see `Ladder.step_down`."""
        self.notes.append(self.ladder.step_down(scale, error, is_shared=self._is_shared(scale)))
        self.targets.clear()  # in tiles, they are stored in fewer bytes
        keep_freed_memory(self.features.device, keep=False, is_scarce=self.tile > 0)

    def _is_shared(self, scale: Scale) -> bool:
        """Return whether other paintings have the same scale."""
        return self.is_preview or scale.opening

    def _optimize(self, index: int, image: Tensor, limit: IterationLimit) -> Iterator[OptimizerStep]:
        scale = self.schedule[index]
        objective = self._build_objective(scale)
        if self.ladder.rung != Rung():
            release_memory(self.features.device)  # what the targets have left would add to the peak
        if self.ladder.rung.on_host:
            objective = HostObjective.of(objective)
        if scale.optimizer == "lbfgs":
            return optimizers.lbfgs(objective, image, limit)
        rate = self.options.learning_rate * (REFINE_RATE if follows_sketch(self.schedule, index) else 1.0)
        return optimizers.adam(objective, image, limit, rate, floored=self.options.sketch > 0)

    def _build_objective(self, scale: Scale, *, is_copy: bool = False) -> Objective:
        """Build the objective of a scale; its half-size copies are scales of their own, without strokes."""
        options, size, features = self.options, scale.size, self.slim if scale.sketch else self.features
        key = (features.sha256, size, self.tile)
        if key not in self.targets:
            self.targets[key] = targets.compute_targets(
                features, self.content, self.blend, size, options, self.cache, self.check, self.areas, self.tile
            )
        half_size = matching = None
        if scale.half_size_copies:
            half = scale.halve()
            downsample = Downsample(size, half.size, features.device)
            half_size = HalfSizeCopy(self._build_objective(half, is_copy=True), downsample, options.multiscale)
        plan = targets.plan_matching(options, features.network, self.size, scale)
        if plan and not is_copy:
            prepared = features, self.targets[key], self.blend
            matching = targets.prepare_matching(plan, *prepared, max(size), options, self.check, self.areas)
        return Objective(
            features,
            self.targets[key],
            targets.compute_term_weights(options, features.network),
            check=self.check,
            checkpoint=self.checkpoint,
            newton_schulz=features.device.type != "cpu",
            half_size=half_size,
            matching=matching,
            roots=RegionRoots() if self.areas is not None and scale.optimizer == "adam" else None,
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
            render=self._make_render(image, result),
            result=result,
        )

    def _make_render(self, image: Tensor, result: Result | None) -> Callable[[], Pixels]:
        """Return what renders an image (1, 3, H, W) when it is looked at; nothing else, once there is a result."""
        return (lambda: to_pixels(self._hold_photo(image))) if result is None else (lambda: result.pixels)

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
            masks=self.masks,
            background=next((source.background for source in sources if source.background), None),
            alpha=resize_alpha(self.content.alpha, *self.size),
            metadata=self.content.metadata,
        )
