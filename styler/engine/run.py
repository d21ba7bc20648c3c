"""Run one painting: from its first image to its result, scale by scale and iteration by iteration.

Scales that several paintings share are kept in a `ScaleCache`, so that none is painted twice. After every iteration,
all that a run knows is in its fields, from which `resume.state` takes a snapshot.
"""

import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from styler.detail import fill_detail, match_detail
from styler.engine import optimizers, targets
from styler.engine.budget import Budget, Clock
from styler.engine.device import CPU, isolate_steps, name_processor, prepare_torch
from styler.engine.memory.estimate import Rung
from styler.engine.memory.host import HostObjective
from styler.engine.memory.ladder import Ladder
from styler.engine.memory.measure import is_out_of_memory, keep_freed_memory, release_memory
from styler.engine.optimizers import AdamState, IterationLimit, LbfgsState, OptimizerStep
from styler.engine.placement import Placement
from styler.engine.result import Pixels, Progress, Result, resize_alpha, to_pixels
from styler.engine.resume.scales import BegunScale, PaintedScale, ScaleCache
from styler.engine.resume.state import ScaleWork, Snapshot, capture, identify, refuse_late, restore, restore_objective
from styler.engine.sources import SourceImage
from styler.engine.styles import Blend, StyleCache, fit_styles
from styler.errors import DeviceError
from styler.objective.terms import TOTAL, HalfSizeCopy, Hold, Objective, RegionRoots, Targets
from styler.options import INIT_CHOICES, Options, list_options
from styler.regions.areas import Areas
from styler.regions.resolve import MaskEntry
from styler.resample import Downsample, extract_detail, resize
from styler.schedule import Scale, Schedule, follows_sketch
from styler.vgg.model import Features

RELEASE_NOISE = 0.9
"""Share of noise in the first image at strength 100."""
START_NOISE = 0.02
"""Standard deviation of the seeded noise on the first image, in units of its range."""
REFINE_RATE = 0.5
"""Share of Adam's rate at which the full network finishes a sketch, measured on four pairs at 256 and at 512 px."""
OPENING_THREADS = 1
"""CPU threads of an opening, which is too small to keep more busy. Several previews are painted side by side."""
_UNSHARED_OPTIONS = (
    *("size", "paper", "dpi", "fit", "preset", "look", "style_weights", "init", "time", "patience"),
    *("iterations", "taper", "sketch"),
    *("first_size", "optimizer", "keep_border", "multiscale", "backbone"),
    *("device", "precision", "checkpoint", "tile", "memory", "threads"),
    *("protect", "regions", "labels"),
)
"""Options that do not change how a shared scale is painted, or that its key has in another form."""


class StopRequested(Exception):
    """Raised between convolutions once `stop` is set; never leaves this module."""


@dataclass(slots=True, eq=False, kw_only=True, weakref_slot=True)
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
    """Of the photo; None if all of it is painted in the same way."""
    masks: tuple[MaskEntry, ...] = ()
    """Those of which the areas are made."""
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
    resume: Snapshot | None = None
    """Of an earlier run of the same painting, which this one continues."""
    identity: Mapping[str, Any] = field(default_factory=dict, init=False)
    """What determines the pixels, as a snapshot has it."""
    work: ScaleWork | None = field(default=None, init=False)
    """At the current scale."""
    adopted_scales: list[int] = field(default_factory=list, init=False)
    """Indices of the scales that were not painted, since they were shared."""

    def paint(self) -> Iterator[Progress]:
        """Paint all scales, reporting after every iteration; the last report carries the `Result`."""
        self.identity, image, index = identify(self), None, 0
        if self.resume:
            self.work, self.resume = restore(self, self.resume), None
            image, index = self.work.adopted, self.work.index + (self.work.adopted is not None)
        while index < len(self.schedule) and not self.stopped:  # the budget may change the schedule
            steps = self._paint_scale(index, image)
            if self.features.device.type == "cpu" and self._continues_opening(index):
                steps = isolate_steps(steps, self.features.device, OPENING_THREADS)
            image = yield from steps
            self.work, index = None, index + 1
        final = (
            resize(self.content.image, *self.size) if image is None else self._enlarge(image, self.size, match=False)
        )
        self.targets.clear()  # the picture is copied now, and converted
        final = self._hold_photo(final)
        done = self.executed[-1].iterations if self.executed else 0
        last = ScaleWork(max(0, len(self.executed) - 1), 0.0, done)
        yield self._make_progress(last, final, self._make_result(final))

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
        if self.work is None or self.work.index != index:  # it is not resumed
            self.work = ScaleWork(index, self.clock.seconds)
        work = self.work
        scale, key = self.schedule[index], self._make_key(index)
        if key and not work.done and not self.stop.is_set():
            if painted := self.scales.get(key, self.features.device):
                return (yield from self._adopt_scale(work, painted))
            if not self.budget and (begun := self.scales.get_begun(key)):
                yield from self._continue_scale(work, begun)
        try:
            image = image if work.optimizer is None else work.optimizer.best
            self.check()
            note = self.ladder.begin_scale(scale, is_shared=self.is_shared(scale))
            self.notes += [note] if note and note not in self.notes else []
            if note and self.ladder.is_scarce:
                keep_freed_memory(self.features.device, keep=False, is_scarce=True)
            for step in self._iterate(work, self._find_start(work, image)):  # kept nowhere else
                image = step.best
                self.losses, self.best_losses = step.losses, step.best_losses
                self.clock.advance(scale, work.done)
                self._update_schedule(index, work.done)
                yield self._make_progress(work, step.image)
                if work.done < self.schedule[index].iterations:
                    self.check()  # after the last iteration of a scale, the next scale checks
        except StopRequested:
            self.stopped = True
        if work.done:
            self.clock.skip(self.schedule[index], work.done)
            self.executed.append(self.schedule[index].truncate(work.done))
            self.scale_seconds.append(self.clock.seconds - work.start_seconds)
        if key:
            self._share_scale(key, scale, work, image)
        return image

    def _find_start(self, work: ScaleWork, before: Tensor | None) -> Tensor:
        """Return the image at which a scale begins or goes on, (1, 3, H, W); `before` is that of the scale before."""
        if work.optimizer is None:
            return self._make_first_image(self.schedule[work.index], before)
        self._repeat_openings(work.index)
        return work.optimizer.best

    def _repeat_openings(self, index: int) -> None:
        """Prepare the scales before a resumed one that were painted with other threads, on which the last bits depend.

        What is computed for them is used again at later scales.
        """
        if self.features.device.type == "cpu":
            with prepare_torch(self.features.device, OPENING_THREADS):
                for before in range(index):
                    if self._continues_opening(before) and before not in self.adopted_scales:
                        self._get_targets(self.schedule[before], 0)

    def _adopt_scale(self, work: ScaleWork, painted: PaintedScale) -> Generator[Progress, None, Tensor]:
        """Report a scale that was painted before as done, and return its image."""
        scale = self.schedule[work.index]
        work.done, work.adopted = scale.iterations, painted.image
        self.adopted_scales.append(work.index)
        self.losses, self.best_losses = painted.losses, painted.best_losses
        self.clock.skip(scale)
        self.executed.append(scale)
        self.scale_seconds.append(0.0)
        yield self._make_progress(work, painted.image)
        return painted.image

    def _continue_scale(self, work: ScaleWork, begun: BegunScale) -> Iterator[Progress]:
        """Resume a scale that was interrupted in another painting, and report the image that it had reached."""
        self.targets = {**begun.targets}
        if begun.optimizer is not None:
            work.done, work.optimizer = begun.done, replace(begun.optimizer)
            self.losses, self.best_losses = begun.losses, begun.best_losses
            self.clock.credit(self.schedule[work.index], begun.done, begun.seconds)
            yield self._make_progress(work, work.optimizer.image)

    def _share_scale(self, key: str, scale: Scale, work: ScaleWork, image: Tensor | None) -> None:
        """Share the image of a scale with other paintings, or if it was interrupted, what they need to resume it.

        The key is that of `scale`, which the budget may have changed since.
        """
        optimizer, losses = work.optimizer, (self.losses, self.best_losses)
        if image is not None and work.done == scale.iterations:
            self.scales.put(key, self.features.device, PaintedScale.of(image, *losses))
        elif self.stopped and self.targets and scale.optimizer == "lbfgs" and not work.before:
            state = replace(optimizer) if isinstance(optimizer, LbfgsState) else None
            seconds = self.clock.seconds - work.start_seconds
            self.scales.put_begun(key, BegunScale(work.done, seconds, state, {**self.targets}, *losses))

    def _make_key(self, index: int) -> str:
        """Return what determines the pixels of a scale, or an empty text if it is not shared."""
        if not self.is_shared(self.schedule[index]):
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
        hold = self._find_hold(image)
        return image if hold is None else hold.apply(image)

    def _find_hold(self, image: Tensor) -> Hold | None:
        """Return how the pixels of an image (1, 3, H, W) are held to the photo's, as in the targets if these exist."""
        if self.areas is None or self.areas.protection is None:
            return None
        size = (image.shape[-1], image.shape[-2])
        if size not in self.holds:
            known = [each.hold for key, each in self.targets.items() if key[1] == size]
            placed = [] if known else [Placement.of(self.areas, self.blend, size)]
            made = [each.make_hold(self.content.fit(*size).to(image)) for each in placed]
            self.holds = {size: (known + made)[0]}
        return self.holds[size]

    def _iterate(self, work: ScaleWork, image: Tensor) -> Iterator[OptimizerStep]:
        """Yield the steps of a scale; whenever memory runs out, continue from the best image on the next rung."""
        while work.done < self.schedule[work.index].iterations:
            scale = self.schedule[work.index]
            limit = IterationLimit(scale.iterations - work.before, scale.planned - work.before)
            try:
                image = image.to(CPU if self.ladder.rung.on_host else self.features.device)
                for step in self._optimize(work, image, limit):
                    work.done, work.optimizer, image = work.done + 1, step.state, step.best
                    yield step
                    scale = self.schedule[work.index]  # the budget may have changed it
                    limit.iterations, limit.planned = scale.iterations - work.before, scale.planned - work.before
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._step_down(scale, error)
            work.begin_again()
            release_memory(self.features.device)  # what the error has kept is free by now
        if work.optimizer is not None and (lost := int(work.optimizer.recovered)):
            if lost >= work.done:
                raise DeviceError("The loss was not finite in any iteration; try --precision fp32.")
            size = "×".join(map(str, self.schedule[work.index].size))
            self.notes.append(f"{lost} of {work.done} iterations at {size} were not finite and were undone.")

    def _step_down(self, scale: Scale, error: Exception) -> None:
        """Choose the next rung; see `Ladder.step_down`."""
        self.notes.append(self.ladder.step_down(scale, error, is_shared=self.is_shared(scale)))
        self.targets.clear()  # in tiles, they are stored in fewer bytes
        keep_freed_memory(self.features.device, keep=False, is_scarce=self.tile > 0)

    def is_shared(self, scale: Scale) -> bool:
        """Return whether other paintings have the same scale."""
        return self.is_preview or scale.opening

    def _optimize(self, work: ScaleWork, image: Tensor, limit: IterationLimit) -> Iterator[OptimizerStep]:
        """Begin at an image, or go on where the work at a scale was interrupted."""
        scale, begun = self.schedule[work.index], work.optimizer
        network = (self.slim if scale.sketch else self.features).sha256
        self.targets = {key: kept for key, kept in self.targets.items() if key[0] == network}
        objective = self._build_objective(scale)
        if self.ladder.rung != Rung():
            release_memory(self.features.device)  # what the targets have left would add to the peak
        if self.ladder.rung.on_host:
            objective = HostObjective.of(objective)
        work.objective = objective
        if work.restored is not None:
            restore_objective(objective, work.restored)
            work.restored = None
        if scale.optimizer == "lbfgs":
            return optimizers.lbfgs(objective, begun if isinstance(begun, LbfgsState) else image, limit)
        rate = self.options.learning_rate * (REFINE_RATE if follows_sketch(self.schedule, work.index) else 1.0)
        start = begun if isinstance(begun, AdamState) else image
        return optimizers.adam(objective, start, limit, rate, floored=self.options.sketch > 0)

    def _get_targets(self, scale: Scale, tile: int) -> Targets:
        """Return the targets of a scale in tiles of a side, computed unless an earlier scale needed them."""
        features, size = self.slim if scale.sketch else self.features, scale.size
        key = (features.sha256, size, tile if tile < max(size) else 0)
        if key not in self.targets:
            content, blend, options = self.content, self.blend, self.options
            self.targets[key] = targets.compute_targets(
                features, content, blend, size, options, self.cache, self.check, self.areas, tile
            )
        return self.targets[key]

    def _build_objective(self, scale: Scale, *, is_copy: bool = False) -> Objective:
        """Build the objective of a scale; its half-size copies are scales of their own, without strokes."""
        options, size, features = self.options, scale.size, self.slim if scale.sketch else self.features
        own = self._get_targets(scale, self.tile)
        half_size = matching = None
        if scale.half_size_copies:
            half = scale.halve()
            downsample = Downsample(size, half.size, features.device)
            half_size = HalfSizeCopy(self._build_objective(half, is_copy=True), downsample, options.multiscale)
        plan = targets.plan_matching(options, features.network, self.size, scale)
        if plan and not is_copy:
            prepared = features, own, self.blend
            matching = targets.prepare_matching(plan, *prepared, max(size), options, self.check, self.areas)
        return Objective(
            features,
            own,
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
            self.clock.replan(self.schedule[index:], done)

    def _estimate_remaining(self) -> float | None:
        remaining = self.budget.remaining if self.budget else None
        return self.clock.estimate_remaining() if remaining is None else remaining

    def _count_units(self, work: float) -> float:
        return work / (self.size[0] * self.size[1])

    def _make_progress(self, work: ScaleWork, image: Tensor, result: Result | None = None) -> Progress:
        """Return the report after an iteration, with the current image (1, 3, H, W)."""
        done, owner = work.done, weakref.ref(self)  # a report that is kept holds neither targets nor moments
        return Progress(
            schedule=self.schedule,
            scale=work.index,
            iteration=done,
            total_iterations=sum(scale.iterations for scale in self.executed[: work.index]) + done,
            units=self._count_units(self.clock.done),
            total_units=self._count_units(self.clock.total),
            seconds=self.clock.seconds,
            eta=0.0 if result else self._estimate_remaining(),
            terms=self.losses,
            render=self._make_render(image, result),
            capture=partial(_take_snapshot, owner, work.index, done),
            result=result,
        )

    def _make_render(self, image: Tensor, result: Result | None) -> Callable[[], Pixels]:
        """Return what renders an image (1, 3, H, W) when it is looked at; nothing else, once there is a result."""
        if result is not None:
            return lambda: result.pixels
        hold = self._find_hold(image)
        return lambda: to_pixels(image if hold is None else hold.apply(image))

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


def _take_snapshot(owner: "weakref.ref[Run]", index: int, done: int, *, copy: bool = True) -> Snapshot:
    """Return the state after `done` iterations of scale `index`, if that is still the state of the run."""
    run = owner()
    work = run.work if run is not None else None
    if run is None or work is None or (work.index, work.done) != (index, done) or not work.is_begun:
        return refuse_late()
    return Snapshot(run.identity, capture(run, copy=copy))
