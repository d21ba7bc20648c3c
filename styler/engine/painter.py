"""Paint: a `Painter` holds networks, cached style statistics and shared scales for many paintings.

Every front end iterates `Painter.stream` or `Painter.previews`; nothing else knows how a painting is made.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import schedule
from styler.borders import Box
from styler.engine import targets
from styler.engine.budget import Budget, Clock
from styler.engine.device import check_device, choose_device, isolate_steps, prepare_torch
from styler.engine.memory.estimate import Demand
from styler.engine.memory.ladder import Ladder
from styler.engine.memory.measure import keep_freed_memory
from styler.engine.memory.plan import MemoryPlan, plan_memory
from styler.engine.precision import PrecisionChoice
from styler.engine.result import Pixels, Progress, Result
from styler.engine.resume.scales import ScaleCache, ScaleStore
from styler.engine.resume.state import Snapshot
from styler.engine.run import OPENING_THREADS, Run
from styler.engine.sources import Input, Inputs, SourceImage, iterate_styles, load_content, load_start, load_styles
from styler.engine.styles import StatsStore, StyleCache, prepare_blend, trim_styles
from styler.engine.threads import Halt, map_side_by_side
from styler.geometry import fit_size, scale_box
from styler.options import INIT_CHOICES, Options
from styler.provenance import FILE_VALUE
from styler.regions.areas import Areas
from styler.regions.find import MaskFinder
from styler.regions.read import MaskInput
from styler.regions.resolve import ResolvedAreas, resolve_areas
from styler.schedule import Replay, Schedule
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import SLIM, Weights

MAX_AREAS_SIDE = 2048
"""Longest side, in pixels, at which masks are kept; their borders are soft."""
EARLY_SHARE = 2 / 3
"""Share of an opening after which the first preview is shown: from there on it changes little."""
MAX_OTHER_BACKBONES = 2
"""Networks that a painter keeps besides its first: the slim one and one more."""


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A small trial picture of one style."""

    style: int
    """Index of the style among those given, from 0."""
    pixels: Pixels
    """The picture, (H, W, 3)."""
    finished: Result | None
    """None if strokes will be added, which gives another preview of the same style."""

    @property
    def result(self) -> Result:
        """The result of a preview that is finished."""
        assert self.finished is not None, "only `previews(openings=True)` yields previews that are not finished"
        return self.finished


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
        self._cache, self._scales = StyleCache(), ScaleCache()
        self._networks: dict[str, Features] = {}
        self._weights: dict[str, Weights] = {} if weights is None else {backbone: weights}
        self._finder = MaskFinder(self.device)
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

    def use_store(self, store: StatsStore | None) -> None:
        """Look up style statistics in a persistent store before computing them, and store them there."""
        self._cache = StyleCache(store)

    def use_scale_store(self, store: ScaleStore | None) -> None:
        """Look up the scales of previews in a persistent store before painting them, and store them there."""
        self._scales = ScaleCache(store)

    def load_networks(self, options: Options) -> None:
        """Load every network that the options need, so that a missing one is reported before any work.

        Raises:
            StylerError: as `features` does.
        """
        self.features(options)
        if schedule.can_sketch(options):
            self.features(options, sketch=True)

    def features(self, options: Options, *, sketch: bool = False, is_protected: bool = False) -> Features:
        """Return the network with the layers that the options need, loading it if necessary.

        All selections of layers share the kernels of one network for each backbone, which has the pooling of the
        last painting: a painter's memory does not grow with what it has painted.

        Args:
            options: backbone, pooling and layers are read.
            sketch: return the slim network that replaces the backbone in a sketch.
            is_protected: whether parts of the photo are protected.

        Raises:
            StylerError: the backbone cannot be loaded, or lacks one of the layers or the pooling.
        """
        backbone = SLIM if sketch else options.backbone
        with prepare_torch(self.device, options.threads):
            weights = self._load_weights(backbone)
            layers = targets.resolve_layers(options, weights.network, is_protected=is_protected)
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
        masks: Mapping[str, MaskInput] | None = None,
        areas: Areas | None = None,
        resume: Snapshot | None = None,
    ) -> Iterator[Progress]:
        """Paint, reporting after every iteration; the last report carries the `Result`.

        Setting `stop`, from any thread, ends with a complete result of the best picture so far; closing the generator
        discards it.

        Args:
            content: the photo.
            styles: one painting, or several to be blended by `options.style_weights`; the last are those of
                `options.regions`.
            options: all settings; `Options()` if not given.
            stop: checked between convolutions.
            replay: an executed schedule (`Result.replay`) to use in place of the one that the options give; that of a
                stopped painting is repeated as far as it went.
            start: the picture to start from, in place of what `options.init` names.
            masks: by the names under which `options.protect` and `options.regions` mention them: arrays or tensors
                (H, W) from 0, outside, to 1, of any size, or pictures that have been read; by `options.labels`, too.
            areas: where each painting is used and what is protected, in place of what the options say; of the part
                of the photo that is painted.
            resume: a snapshot (`Progress.snapshot`) of an earlier run of the same painting, which is continued: the
                pixels are those of an uninterrupted run, unless it had a time budget.

        Raises:
            StylerError: a picture cannot be read, a setting is invalid, or memory is insufficient; if possible, before
                the first iteration.
            ResumeError: the snapshot is damaged, or of other pictures, settings or machines; says which.
        """
        options = options or Options()
        begin = partial(self._begin_painting, replay=replay, start=start, masks=masks, areas=areas, resume=resume)
        steps = self._paint(content, styles, options, stop or threading.Event(), begin)
        del begin, resume  # the run copies the snapshot, which is as large as its images
        del content, styles  # a large photo that nobody else keeps is freed as soon as it has been converted
        yield from isolate_steps(steps, self.device, options.threads)

    def stylize(
        self,
        content: Input,
        styles: Inputs,
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
        start: Input | None = None,
        masks: Mapping[str, MaskInput] | None = None,
        areas: Areas | None = None,
        resume: Snapshot | None = None,
    ) -> Result:
        """Paint as `stream` does and return the result."""
        result = None
        for progress in self.stream(content, styles, options, stop, replay, start, masks, areas, resume):
            result = progress.result
        assert result is not None
        return result

    def previews(
        self,
        content: Input,
        styles: Inputs,
        options: Options | None = None,
        stop: threading.Event | None = None,
        masks: Mapping[str, MaskInput] | None = None,
        *,
        openings: bool = False,
    ) -> Generator[Preview]:
        """Paint a small trial picture of every style, and yield each as soon as it is finished.

        A preview is the opening of the painting, at about 128 pixels, and with brushwork a few iterations that add
        strokes. It is cached, even if interrupted: the painting resumes its opening, with the same pixels. Each style
        is read when its turn comes. On a CPU, as many are painted at once as it has threads: one keeps one busy.

        Args:
            content: the photo.
            styles: the paintings, each on its own.
            options: of the painting that is previewed; `size`, `preset` and `style_weights` do not matter.
            stop: checked between convolutions; once it is set, nothing more is yielded.
            masks: as in `stream`. Previews show what is protected; they have no regions.
            openings: also yield previews that are not cached before their strokes, and the first midway in its opening.

        Raises:
            StylerError: a picture cannot be read, a setting is invalid, or memory is insufficient.
        """
        options, halt = options or Options(), Halt(stop)
        with prepare_torch(self.device, options.threads):
            check_device(options, self.device, self.precision)
            whole = load_content(content)
            photo, part = _crop_to_paper(whole, options)
            min_side = self.features(options).min_side
            small = schedule.make_preview_options(options, *photo.size, min_side)
            scales = schedule.plan_preview(options, *photo.size, min_side)
            workers = torch.get_num_threads() if self.device.type == "cpu" else 1
            found = self._resolve_areas(whole, part, small, 1, masks)

        prepare = partial(self._prepare_run, options=small, stop=halt, scales=scales, found=found, is_preview=True)
        shares = [EARLY_SHARE, 1.0] if openings else []

        def paint(style: SourceImage) -> Iterator[tuple[Pixels, Result | None]]:
            steps = _paint_preview(partial(prepare, photo, [style]), shares)
            return filter(None, isolate_steps(steps, self.device, OPENING_THREADS))

        try:
            for index, (pixels, result) in map_side_by_side(paint, iterate_styles(styles), workers, halt):
                yield Preview(index, pixels, result)
        finally:
            keep_freed_memory(self.device, keep=False)

    def analyze_styles(self, styles: Inputs, options: Options | None = None) -> Iterator[None]:
        """Analyze paintings as their previews need them, so that the first one of each comes sooner.

        Args:
            styles: the paintings; one is analyzed whenever the next item is taken.
            options: of the paintings with them.

        Raises:
            StylerError: a picture cannot be read, or a setting is invalid.
        """
        options = options or Options()
        for style in iterate_styles(styles):
            with prepare_torch(self.device, OPENING_THREADS if self.device.type == "cpu" else options.threads):
                min_side = self.features(options).min_side
                opening = schedule.plan_opening(options, *style.size, min_side)
                small = schedule.make_preview_options(options, *style.size, min_side)
                features = self.features(options, sketch=opening.sketch)
                trimmed = trim_styles([style], small, self._cache)
                targets.measure_styles(features, trimmed, max(opening.size), small, self._cache)
            yield

    def find_mask(self, content: Input, name: str) -> NDArray[np.float32] | None:
        """Return a mask that is found in a photo, (H, W) in [0, 1]; None if there is nothing of the kind.

        Its size is the photo's, or that of a smaller copy; a painting of the same photo finds it in the cache.

        Args:
            content: the photo.
            name: one of `styler.regions.specs.BUILT_IN_MASKS`.

        Raises:
            StylerError: the photo cannot be read, or the network is missing or damaged.
        """
        with prepare_torch(self.device):
            photo = load_content(content)
            find = {"subject": self._finder.subject, "background": self._finder.background, "faces": self._finder.faces}
            mask = find[name](_fit_areas(photo), photo.digest)
        return None if mask is None else mask[0, 0].numpy()

    def _paint(
        self, content: Input, styles: Inputs, options: Options, stop: threading.Event, begin: Callable[..., Run]
    ) -> Generator[Progress]:
        """Prepare a run and paint it."""
        try:
            check_device(options, self.device, self.precision)
            run = begin(load_content(content), load_styles(styles), options, stop)
            del begin, content, styles
            yield from run.paint()
        finally:
            keep_freed_memory(self.device, keep=False)

    def _begin_painting(
        self,
        whole: SourceImage,
        paintings: list[SourceImage],
        options: Options,
        stop: threading.Event,
        *,
        replay: Replay | None,
        start: Input | None,
        masks: Mapping[str, MaskInput] | None,
        areas: Areas | None,
        resume: Snapshot | None,
    ) -> Run:
        photo, part = _crop_to_paper(whole, options)
        scales = self._plan_scales(photo, options, replay)
        found = ResolvedAreas(areas) if areas else self._resolve_areas(whole, part, options, len(paintings), masks)
        has_budget = replay is None
        run = self._prepare_run(photo, paintings, options, stop, scales, found, start, has_budget=has_budget)
        run.resume = resume
        return run

    def _resolve_areas(
        self, whole: SourceImage, part: Box, options: Options, style_count: int, masks: Mapping[str, MaskInput] | None
    ) -> ResolvedAreas:
        """Return the areas that the options describe of a part of the photo, at most of `MAX_AREAS_SIDE`.

        Masks are those of the whole photo.
        """
        small = _fit_areas(whole)
        part = Box(*scale_box(part, whole.size, (small.shape[-1], small.shape[-2])))
        return resolve_areas(options, small, whole.digest, style_count, masks, self._finder, part=part)

    def _plan_scales(self, content: SourceImage, options: Options, replay: Replay | None) -> Schedule:
        """Return the schedule that the options give, or that of an earlier painting."""
        min_side = self.features(options).min_side
        scales = schedule.build_schedule(options, *content.size, min_side)
        if replay is None or not scales:
            return scales
        size = schedule.compute_result_size(options, *content.size)
        return schedule.refit_schedule(replay, *size, min_side, allow_sketch=schedule.can_sketch(options))

    def _prepare_run(
        self,
        content: SourceImage,
        styles: list[SourceImage],
        options: Options,
        stop: threading.Event,
        scales: Schedule,
        found: ResolvedAreas,
        start: Input | None = None,
        *,
        has_budget: bool = False,
        is_preview: bool = False,
    ) -> Run:
        styles = trim_styles(styles, options, self._cache)
        is_protected = found.areas is not None and found.areas.protection is not None
        features = slim = self.features(options, is_protected=is_protected)
        if any(scale.sketch for scale in scales):
            slim = self.features(options, sketch=True, is_protected=is_protected)
        size = schedule.compute_result_size(options, *content.size)
        plan = _plan_memory(features, size, content, styles, options, scales, found) if scales else None
        keep_freed_memory(self.device, keep=plan is not None and plan.is_ample)
        if start is not None and options.init in INIT_CHOICES:
            options = options.replace(init=FILE_VALUE)
        start_source = content
        if options.init not in INIT_CHOICES:
            start_source, _ = _crop_to_paper(load_start(options.init if start is None else start), options)
        clock, budget = Clock(scales, plan.count_scale_work if plan else None), None
        if plan and has_budget and (options.time or options.patience):
            budget = Budget(options, scales, clock, plan.slow_down)
        return Run(
            options=options,
            content=content,
            styles=styles,
            blend=prepare_blend(content, styles, options),
            start=start_source,
            features=features,
            slim=slim,
            cache=self._cache,
            scales=self._scales,
            is_preview=is_preview,
            size=size,
            schedule=scales,
            ladder=Ladder(plan),
            stop=stop,
            clock=clock,
            areas=found.areas,
            masks=found.entries,
            notes=[*found.warnings],
            budget=budget,
        )


def _paint_preview(prepare: Callable[[], Run], shares: list[float]) -> Generator[tuple[Pixels, Result | None] | None]:
    """Paint a preview and yield its picture after shares of its opening and with its result; None in between.

    All but the last of the shares are for the first preview, which removes them.
    """
    own, run = [*shares], prepare()
    del shares[:-1]
    for progress in run.paint():
        is_due = own and progress.scale == 0 and progress.iteration >= own[0] * progress.iterations
        if (result := progress.result) is not None:
            yield None if result.stopped else (result.pixels, result)
        elif is_due and (own.pop(0) < 1 or len(progress.schedule) > 1) and 0 not in run.adopted_scales:
            yield progress.live_view(), None
        else:
            yield None


def stream(
    content: Input,
    styles: Inputs,
    options: Options | None = None,
    stop: threading.Event | None = None,
    start: Input | None = None,
    masks: Mapping[str, MaskInput] | None = None,
    resume: Snapshot | None = None,
) -> Iterator[Progress]:
    """Paint one picture as `Painter.stream` does, with a painter made from the options."""
    painter = Painter.of(options or Options())
    yield from painter.stream(content, styles, options, stop, start=start, masks=masks, resume=resume)


def stylize(
    content: Input,
    styles: Inputs,
    options: Options | None = None,
    stop: threading.Event | None = None,
    start: Input | None = None,
    masks: Mapping[str, MaskInput] | None = None,
) -> Result:
    """Paint one picture as `Painter.stylize` does, with a painter made from the options."""
    return Painter.of(options or Options()).stylize(content, styles, options, stop, start=start, masks=masks)


def _crop_to_paper(picture: SourceImage, options: Options) -> tuple[SourceImage, Box]:
    """Return the part of a photo that is painted, and where it is."""
    part = Box(*schedule.find_painted_part(options, *picture.size))
    return (picture if part == (0, 0, *picture.size) else picture.crop(part)), part


def _plan_memory(
    features: Features,
    size: tuple[int, int],
    content: SourceImage,
    styles: Sequence[SourceImage],
    options: Options,
    scales: Schedule,
    found: ResolvedAreas,
) -> MemoryPlan:
    """Plan how a result of `size` (width, height) fits into memory."""
    areas = found.areas
    is_protected = areas is not None and areas.protection is not None
    demand = Demand(
        features=features,
        size=size,
        styles=[style.size for style in styles],
        options=options,
        photo=content.size,
        masks=0 if areas is None else areas.regions.shape[1] + is_protected,
        is_protected=is_protected,
    )
    return plan_memory(demand, scales)


def _fit_areas(photo: SourceImage) -> Tensor:
    """Return a photo at the size at which its masks are kept, (1, 3, H, W)."""
    return photo.fit(*fit_size(*photo.size, min(MAX_AREAS_SIDE, max(photo.size))))
