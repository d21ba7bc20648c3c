"""`styler run`: one picture.

Every error that can be known in advance is raised before PyTorch and the network are loaded.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import config, environment, library, schedule
from styler.cli import files, flags, output, report
from styler.cli.flags import FileName, InputOptions, OutputOptions, ReplayOptions
from styler.errors import OutputError, ResumeError, StylerError, UsageError, quote_name
from styler.options import INIT_CHOICES, Options, ResolvedOptions, format_estimate, resolve_options
from styler.regions import specs

if TYPE_CHECKING:
    from styler.batch.states import StateKeeper
    from styler.engine.memory.plan import MemoryPlan
    from styler.engine.painter import Painter
    from styler.engine.result import Progress
    from styler.images import Picture
    from styler.provenance import EarlierPicture
    from styler.regions.resolve import MaskEntry


Content = Annotated[
    FileName, Parameter(help="a photo, or the name of one that comes with styler, or - for standard input")
]
Style = Annotated[
    FileName, Parameter(help="a painting, or the name of one that comes with styler, or - for standard input")
]
MoreStyles = Annotated[FileName, Parameter(show=False)]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Inputs:
    """The pictures of a run."""

    content: "Picture"
    styles: "list[Picture]"
    """Those of the regions come last."""
    masks: "Mapping[str, Picture]"
    """The mask and label pictures, by the names that the options have."""
    start: "Picture | None"
    """The picture that `init` names, if it names a file."""

    def list_warnings(self) -> list[str]:
        """Return what there is to say about the pictures."""
        pictures = (self.content, *self.styles, *self.masks.values())
        return [warning for picture in pictures for warning in picture.warnings]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _PreparedRun:
    """A run whose inputs have been read and whose output has been checked."""

    options: Options
    inputs: list[_Inputs]
    """One, which `_paint` takes out: a large photo has no room for a second copy beside that of the painter."""
    earlier: "EarlierPicture"
    names: dict[str, str]
    """Of the files, by what `ResumeError.subject` calls them."""
    target: files.OutputTarget
    encoding: Mapping[str, Any]
    """Arguments of `Result.encode` besides the format."""


def run(
    content: Content,
    style: Style,
    /,
    *styles: MoreStyles,
    target: OutputOptions = flags.DEFAULT_OUTPUT,
    settings: flags.Settings = flags.NO_FLAGS,
    replay: ReplayOptions = flags.DEFAULT_REPLAY,
    inputs: InputOptions = flags.DEFAULT_INPUT,
    resume: flags.Resume = False,
    dry_run: flags.DryRun = False,
    reports: flags.ReportOptions = flags.DEFAULT_REPORT,
) -> int:
    """Paint one picture and return the exit code."""
    from styler import provenance

    reports.check()
    names = [*map(library.find_file, (content, style, *styles, *flags.read_region_styles(settings)))]
    output.check_streams(names, target.output, json=reports.json)
    log = report.Logger(reports)
    with environment.watch_signals() as watch, ExitStack() as stack:
        configuration, flag_values = config.load_config(), flags.read_flags(settings)
        earlier = provenance.load_earlier(replay.source, flag_values)
        resolved = resolve_options(*configuration.layers, *earlier.layers, ("flag", flag_values))  # weakest first
        with log.time("Read the pictures"):
            prepared = _prepare(names, resolved, target, inputs, replay, earlier)
        warnings = [*configuration.warnings, *_describe_inputs(prepared.inputs[0], earlier)]
        log.warn(warnings)
        log.info(_format_settings(resolved, prepared))
        labels = [output.unmark_streams(name) for name in names]
        facts = {"content": labels[0], "styles": labels[1:], "warnings": warnings}
        if dry_run:
            return _print_forecast(prepared, facts, json=reports.json)
        stack.enter_context(files.hold_output(prepared.target.path if not prepared.target.default else None))
        keeper = _open_state(prepared, stack, log, resume=resume)
        with report.show_progress(log.console, is_shown=reports.shows_progress) as show:
            last = _paint(prepared, watch, show, log, keeper, resume=resume)
        path = _save(prepared, last, log)
        assert last.result is not None
        if keeper and (path or not last.result.stopped):
            keeper.remove()
        if reports.json:
            output.print_document({"output": path and str(path), **facts, **report.result_to_json(last.result)})
        elif path and not last.result.stopped:
            files.print_path(path)
        return watch.exit_code if last.result.stopped else 0


def _describe_inputs(inputs: _Inputs, earlier: "EarlierPicture") -> list[str]:
    """Return the warnings about the pictures."""
    return [*inputs.list_warnings(), *earlier.compare_inputs(inputs.content, inputs.styles, inputs.start)]


def _format_settings(resolved: ResolvedOptions, prepared: _PreparedRun) -> list[str]:
    (inputs,) = prepared.inputs
    return report.format_settings(resolved, inputs.content, inputs.styles, prepared.target.label)


def _prepare(
    names: Sequence[str],
    resolved: ResolvedOptions,
    target: OutputOptions,
    inputs: InputOptions,
    replay: ReplayOptions,
    earlier: "EarlierPicture",
) -> _PreparedRun:
    """Check the output and read the pictures; `names` are those of the content and the styles."""
    from styler import images

    options = resolved.options
    specs.check_style_count(options.regions, len(names) - 1)
    if options.init == output.STREAM_NAME:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    read = files.make_reader(inputs)
    content, first = files.locate_content(names[0]), files.locate_style(names[1])
    last = names[-1] if not options.regions else None
    styles = [first, *(files.locate_style(name, is_last=name is last) for name in names[2:])]
    masks = files.locate_masks(resolved, content, replay.source)
    start = None if options.init in INIT_CHOICES else Path(options.init)
    others = [path for path in (start, Path(replay.source) if replay.source else None, *masks.values()) if path]
    is_bundled = content != Path(names[0])
    checked = files.choose_target(target, content, styles, others, options.seed, is_bundled=is_bundled)
    photo = read(content)
    images.check_sides(checked.format, schedule.compute_result_size(options, photo.width, photo.height))
    subjects = [f"style {number + 1}" for number in range(len(styles))] if len(styles) > 1 else ["the style"]
    return _PreparedRun(
        options=options,
        inputs=[
            _Inputs(
                content=photo,
                styles=[read(path) for path in styles],
                masks={name: read(path) for name, path in masks.items()},
                start=None if start is None else read(start),
            )
        ],
        earlier=earlier,
        names={
            "the photo": str(content),
            **dict(zip(subjects, map(str, styles), strict=True)),
            "the picture to start from": str(start),
        },
        target=checked,
        encoding={
            "bit_depth": int(target.bit_depth),
            "settings": not replay.no_metadata,
            "keep_metadata": replay.keep_metadata,
        },
    )


def _open_state(
    prepared: _PreparedRun, stack: ExitStack, log: report.Logger, *, resume: bool, interval: float | None = None
) -> "StateKeeper | None":
    """Lock the state of the picture and return its keeper; None if another run without `resume` has it.

    It saves after every `interval` seconds, None for the usual ones; `stack` ends the lock.

    Raises:
        OutputError: another run has the state that is to be continued.
    """
    with log.time("Loaded PyTorch"):
        from styler.batch.states import SAVE_SECONDS, StateKeeper

    keeper = StateKeeper(prepared.target.fallback, SAVE_SECONDS if interval is None else interval)
    try:
        stack.enter_context(files.hold_output(keeper.path))
    except OutputError as error:
        if resume:
            raise
        log.note([f"The state of this painting is not saved. {error}"])
        return None
    label, exists = quote_name(keeper.path), os.path.lexists(keeper.path) and (resume or not keeper.is_foreign)
    if resume and not exists:
        log.note([f"There is no state {label} to resume from; the painting begins."])
    if exists and not resume:
        log.note([f"An earlier run left its state in {label}; this one begins anew. --resume would continue it."])
    return keeper


def _paint(
    prepared: _PreparedRun,
    watch: environment.SignalWatch,
    show: "Callable[[Progress], None]",
    log: report.Logger,
    keeper: "StateKeeper | None",
    *,
    resume: bool,
) -> "Progress":
    """Paint, saving the state now and then, and return the last progress, which carries the result.

    Raises:
        ResumeError: the state of an earlier run cannot be continued.
    """
    last = None
    try:
        for progress in _stream(prepared, watch, log, keeper if resume else None):
            last = progress
            show(progress)
            if keeper and not watch.stop.is_set() and (problem := keeper.update(progress)):
                log.warn([problem])
    except ResumeError as error:
        assert keeper is not None
        raise StylerError(f"{keeper.explain(error, prepared.names)[:-1]}, without --resume.") from error
    except BaseException:
        if keeper and keeper.count:
            report.print_error(f"The painting is kept in {quote_name(keeper.path)}; --resume continues it.")
        raise
    assert last is not None
    if keeper and keeper.count:
        log.debug([f"Saved the state {report.format_count(keeper.count, 'time')} in {keeper.seconds:.2f} s."])
    return last


def _stream(
    prepared: _PreparedRun, watch: environment.SignalWatch, log: report.Logger, earlier: "StateKeeper | None"
) -> "Iterator[Progress]":
    """Load the network and paint, from the state of an earlier run if it has left one."""
    from styler import images

    images.remove_stale_files(prepared.target.fallback.parent)
    from styler.engine.device import describe_device
    from styler.engine.painter import Painter

    options, replay = prepared.options, prepared.earlier.replay
    with log.time("Loaded the network"):
        painter = Painter.of(options)
        painter.features(options)  # with the threads of the options, for which the precision is chosen
    log.info([f"Device {describe_device(painter.device)}, precision {_name_precision(painter)}."])
    if measurement := painter.precision_choice.measurement:
        log.info([f"Measured on this machine: {measurement.describe()}."])
    watch.begin()
    inputs, is_first = prepared.inputs.pop(), True
    start, masks = inputs.start, inputs.masks
    begin = partial(painter.stream, inputs.content, [*inputs.styles], options, watch.stop, replay, start, masks)
    steps = begin(None, earlier.load()) if earlier else begin()
    del inputs, begin
    for progress in steps:
        if is_first:
            log.info([f"Schedule: {report.format_schedule(progress.schedule, None if replay else options)}"])
        is_first = False
        yield progress


def _save(prepared: _PreparedRun, last: "Progress", log: report.Logger) -> Path | None:
    """Log the result and write the picture; return its path, or None if there is no file."""
    result = last.result
    assert result is not None
    log.note([*result.notes, *prepared.earlier.compare_masks(result), *prepared.earlier.compare_machine(result)])
    log.info(report.format_masks(report.masks_to_json(result.masks), result.options, len(result.style_sha256)))
    log.debug(report.format_timings(result))
    log.info(report.format_summary(result))
    if result.stopped and not result.iterations:
        report.print_error("Stopped before the first iteration; nothing was written.")
        return None

    def encode(name: str) -> bytes:
        return result.encode(format=name, **prepared.encoding)

    if result.stopped:
        path = files.save_partial(prepared.target, encode)
        width, height = last.size
        position = f"iteration {last.iteration} of {last.iterations} at {width}×{height}"
        report.print_error(f"Stopped at {position}; saved as {quote_name(path)}.")
        return path
    with log.time("Wrote the picture"):
        return files.save_picture(prepared.target, encode)


def _name_precision(painter: "Painter") -> str:
    return str(painter.precision).removeprefix("torch.")


TIMED_SIDES = {"cpu": 256}
"""Long side of the picture that is timed, by type of device; `GPU_TIMED_SIDE` for the others."""
GPU_TIMED_SIDE = 512
"""Smaller pictures do not keep a GPU busy, so that it would seem slower than it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would paint, and an estimate of its cost."""

    size: tuple[int, int]
    """Width and height of the result."""
    device: str
    precision: str
    schedule: schedule.Schedule
    plan: "MemoryPlan | None"
    """How it fits into memory; None if there is nothing to paint."""
    free: float
    """What `memory` of the options allows, or else the free memory of the device; in bytes."""
    is_limit_given: bool
    """Whether the options say how much memory may be used."""
    timed: tuple[int, int] | None
    """Width and height of the iteration that was timed; None if there is nothing to paint."""
    masks: "tuple[MaskEntry, ...]"
    """The masks of protected parts and regions."""
    pixel_seconds: float
    """Estimated time of one iteration for each pixel of a picture that is painted as a whole."""

    @property
    def iteration_seconds(self) -> float:
        """Estimated time of one iteration at the final size, without half-size copies."""
        slowdown = self.plan.slow_down(self.size) if self.plan else 1.0
        return self.pixel_seconds * slowdown * math.prod(self.size)

    @property
    def seconds(self) -> float:
        """Estimated time of the whole schedule."""
        return self.pixel_seconds * self.plan.count_work(self.schedule) if self.plan else 0.0


def make_forecast(
    options: Options,
    content: "Picture",
    styles: "list[Picture]",
    start: "Picture | None",
    replay: "schedule.Replay | None" = None,
    masks: "Mapping[str, Picture] | None" = None,
) -> Forecast:
    """Load the network, make the same checks as `Painter.stream`, and time one iteration of a small picture.

    A run with `replay` repeats that schedule; `masks` are the mask and label pictures.

    Raises `StylerError` if the run would fail before its first iteration.
    """
    from styler.engine import budget
    from styler.engine.device import describe_device
    from styler.engine.memory import estimate, measure
    from styler.engine.memory.plan import plan_memory
    from styler.engine.painter import Painter

    painter = Painter.of(options)
    painter.load_networks(options)
    features = painter.features(options)
    scales = schedule.build_schedule(options, content.width, content.height, features.min_side)
    size = schedule.compute_result_size(options, content.width, content.height)
    if replay and scales:
        scales = schedule.refit_schedule(replay, *size, features.min_side, allow_sketch=schedule.can_sketch(options))
    free = options.memory or measure.measure_free_memory(painter.device)
    sizes, photo = [(it.width, it.height) for it in styles], (content.width, content.height)
    demand = estimate.Demand(features=features, size=size, styles=sizes, options=options, photo=photo)
    plan = plan_memory(demand, scales) if scales else None
    small = _shrink_options(options, size, features.min_side, painter.device.type)
    seconds, timed, found = _time_iteration(painter.stream(content, [*styles], small, start=start, masks=masks))
    if plan and found:  # what is protected needs finer layers
        protected = painter.features(options, is_protected=True)
        plan = plan_memory(replace(demand, features=protected, masks=len(found) + 1, is_protected=True), scales)
    if plan and timed and options.time and not replay:
        scales = budget.fit_schedule(scales, options.time, seconds / math.prod(timed), slow_down=plan.slow_down)
    return Forecast(
        size=size,
        device=describe_device(painter.device),
        precision=_name_precision(painter),
        schedule=scales,
        plan=plan,
        free=free,
        is_limit_given=options.memory > 0,
        timed=timed,
        masks=found,
        pixel_seconds=seconds / math.prod(timed) if timed else 0.0,
    )


def _shrink_options(options: Options, size: tuple[int, int], min_side: int, device: str) -> Options:
    """Return options for one small scale of two iterations: the first warms up, the second is timed."""
    minimum = math.ceil(min_side * max(size) / min(size)) + 1
    side = max(TIMED_SIDES.get(device, GPU_TIMED_SIDE), minimum)
    options = options.replace(size=side) if side < max(size) else options
    return options.replace(
        first_size=16_384,
        iterations=2,
        optimizer="adam",
        sketch=0.0,
        multiscale=0.0,
        time=0.0,
        checkpoint="off",
        tile="off",
    )


def _time_iteration(stream: "Iterator[Progress]") -> "tuple[float, tuple[int, int] | None, tuple[MaskEntry, ...]]":
    """Return the seconds of one iteration, the size of its picture, and the masks."""
    times: list[float] = []
    size: tuple[int, int] | None = None
    masks: tuple[MaskEntry, ...] = ()
    for progress in stream:
        if progress.result:
            masks = progress.result.masks
        else:
            _ = progress.loss  # reading it waits for the device
            times.append(time.perf_counter())
            size = progress.size
    return (times[1] - times[0], size, masks) if size else (0.0, None, masks)


def _print_forecast(prepared: _PreparedRun, facts: Mapping[str, Any], *, json: bool) -> int:
    """Print what would be painted and its estimated cost; return the exit code."""
    replay = prepared.earlier.replay
    (inputs,) = prepared.inputs
    forecast = make_forecast(prepared.options, inputs.content, inputs.styles, inputs.start, replay, inputs.masks)
    label = prepared.target.label
    if json:
        output.print_document({"output": label, **facts, **forecast_to_json(forecast, prepared.options)})
        return 0
    names, pictures = [facts["content"], *facts["styles"]], [inputs.content, *inputs.styles]
    lines = [f"{quote_name(name)}, {it.width}×{it.height}" for name, it in zip(names, pictures, strict=True)]
    masks = report.format_masks(report.masks_to_json(forecast.masks), prepared.options, len(inputs.styles))
    rows = [
        ("Content", lines[0]),
        *(("Style", style) for style in lines[1:]),
        *(("Mask", mask) for mask in masks),
        ("Output", f"{quote_name(label)}, {forecast.size[0]}×{forecast.size[1]}"),
        ("Device", f"{forecast.device}, precision {forecast.precision}"),
        ("Schedule", report.format_schedule(forecast.schedule)),
    ]
    if forecast.timed and forecast.plan:
        width, height = forecast.timed
        rows += [
            ("Plan", forecast.plan.describe(forecast.seconds, forecast.device.partition(" ")[0])),
            ("Memory", format_memory(forecast, forecast.plan)),
            ("Time", f"{format_estimate(forecast.seconds)}, estimated from one iteration at {width}×{height}"),
        ]
    output.print_lines(["Dry run: nothing is painted or written.", *output.format_columns(rows)])
    return 0


def format_memory(forecast: Forecast, plan: "MemoryPlan") -> str:
    """Format the estimated memory and the free memory."""
    limit = "allowed by --memory" if forecast.is_limit_given else "free"
    return f"about {plan.needed / 1e9:.1f} GB of {forecast.free / 1e9:.1f} GB {limit}"


def forecast_to_json(forecast: Forecast, options: Options) -> Mapping[str, Any]:
    """Convert a forecast for JSON."""
    plan = forecast.plan
    rung = plan.final if plan else None
    is_tiled = rung is not None and rung.splits(forecast.size)
    return {
        "dry_run": True,
        "width": forecast.size[0],
        "height": forecast.size[1],
        "options": options.to_dict(),
        "device": forecast.device,
        "precision": forecast.precision,
        "schedule": report.schedule_to_json(forecast.schedule),
        "iterations": sum(scale.iterations for scale in forecast.schedule),
        "units": schedule.count_units(forecast.schedule),
        "plan": plan.describe(forecast.seconds, forecast.device.partition(" ")[0]) if plan else None,
        "checkpoint": rung is not None and rung.checkpoint,
        "tile": rung.tile if rung and is_tiled else 0,
        "tiles": plan.count_tiles() if plan else 0,
        "margin": plan.margin if plan and is_tiled else 0,
        "on_host": rung is not None and rung.on_host,
        "estimated_memory_bytes": round(plan.needed) if plan else 0,
        "free_memory_bytes": round(forecast.free),
        "masks": report.masks_to_json(forecast.masks),
        "estimated_seconds": forecast.seconds,
        "estimated_seconds_per_iteration": forecast.iteration_seconds,
    }
