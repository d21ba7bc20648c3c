"""`styler run`: one picture.

Everything that can be known to be wrong is found out before the network, and torch with it, is loaded.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import config, library, provenance, schedule
from styler.cli import files, flags, interrupts, report
from styler.cli.flags import (
    DEFAULT_INPUT,
    NO_FLAGS,
    NO_REPLAY,
    Debug,
    DryRun,
    FileName,
    InputOptions,
    Json,
    NoProgress,
    Quiet,
    ReplayOptions,
    Settings,
    Verbose,
    read_flags,
)
from styler.cli.output import STREAM_NAME, check_streams, print_document, print_lines, unmark_streams
from styler.errors import UsageError, quote_name
from styler.options import INIT_CHOICES, Options, resolve_options
from styler.schedule import Schedule

if TYPE_CHECKING:
    from styler.cli.files import OutputTarget
    from styler.engine.painter import Painter
    from styler.engine.result import Progress, Result
    from styler.images import Picture


Content = Annotated[
    FileName, Parameter(help="a photo, or the name of one that comes with styler, or - for standard input")
]
Style = Annotated[
    FileName, Parameter(help="a painting, or the name of one that comes with styler, or - for standard input")
]
MoreStyles = Annotated[FileName, Parameter(show=False)]
ReplayFlags = Annotated[ReplayOptions, Parameter(name="*")]
InputFlags = Annotated[InputOptions, Parameter(name="*")]
OutputFlags = Annotated[flags.OutputOptions, Parameter(name="*")]


@dataclass(frozen=True, slots=True, eq=False)
class _PreparedRun:
    """A painting whose inputs have been read and whose output has been checked."""

    options: Options
    content: "Picture"
    styles: "list[Picture]"
    target: "OutputTarget"
    bit_depth: int
    start: "Picture | None"
    """The picture that `init` names, if it names a file."""
    keeping: ReplayOptions
    before: provenance.EarlierPicture


def run(
    content: Content,
    style: Style,
    /,
    *styles: MoreStyles,
    place: OutputFlags = flags.DEFAULT_OUTPUT,
    flags: Settings = NO_FLAGS,
    keeping: ReplayFlags = NO_REPLAY,
    reading: InputFlags = DEFAULT_INPUT,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> int:
    """Paint one picture and return the exit code."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other; give one of them.")
    names = (content, style, *styles)
    check_streams(names, place.output, json=json)
    where = report.make_console()
    speak = partial(report.print_line, where)
    tell = _ignore if quiet else speak
    log, timing = speak if verbose or debug else _ignore, speak if verbose > 1 or debug else _ignore
    with interrupts.watch_signals() as watch, ExitStack() as ends:
        found = config.load_config()
        before = provenance.load_earlier(keeping.source, read_flags(flags))
        resolved = resolve_options(*found.layers, *before.layers, ("flag", read_flags(flags)))  # weakest first
        with report.log_time(timing, "Read the pictures"):
            job = _prepare(names, resolved.options, place, reading, keeping, before)
        warnings = [*found.warnings, *(each for picture in (job.content, *job.styles) for each in picture.warnings)]
        warnings += before.compare_inputs(job.content, job.styles, job.start)
        for warning in [] if quiet else warnings:
            report.print_warning(warning)
        for line in report.format_decisions(resolved, job.content, job.styles, job.target.shown):
            log(line)
        given_names = [unmark_streams(name) for name in names]
        told = {"content": given_names[0], "styles": given_names[1:], "warnings": warnings}
        if dry_run:
            return _print_forecast(job, told, json=json)
        ends.enter_context(files.hold_output(job.target.path if not job.target.made_up else None))
        with report.show_progress(where, quiet=quiet or no_progress) as show:
            last = _paint(job, watch, show, log, timing)
        written = _finish(job, last, tell, log, timing)
        assert last.result is not None
        _print_answer(written, last.result, told, json=json)
        return watch.exit_code if last.result.stopped else 0


def _print_forecast(job: _PreparedRun, told: Mapping[str, Any], *, json: bool) -> int:
    """Say what would be painted, and paint nothing."""
    forecast = make_forecast(job.options, job.content, job.styles, job.start)
    if json:
        print_document({"output": job.target.shown, **told, **forecast_to_json(forecast, job.options)})
    else:
        names = [told["content"], *told["styles"]]
        print_lines(format_forecast(forecast, names, [job.content, *job.styles], job.target.shown))
    return 0


def _prepare(
    names: Sequence[str],
    options: Options,
    place: flags.OutputOptions,
    reading: InputOptions,
    keeping: ReplayOptions,
    before: provenance.EarlierPicture,
) -> _PreparedRun:
    """Everything that is known before the network is loaded; `names` are the content's and the styles'."""
    from styler.cli import files

    if options.init == STREAM_NAME:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    read = files.make_reader(reading)
    photo = files.locate_input(names[0], library.find_content, library.list_contents(), "photos")
    paintings = [files.locate_input(name, library.find_style, library.list_styles(), "paintings") for name in names[1:]]
    start = None if options.init in INIT_CHOICES else Path(options.init)
    others = [path for path in (start, Path(keeping.source) if keeping.source else None) if path]
    bundled = photo != Path(names[0])
    target = files.choose_target(place, photo, paintings, others, options.seed, bundled=bundled)
    return _PreparedRun(
        options,
        read(photo),
        [read(path) for path in paintings],
        target,
        int(place.bit_depth),
        None if start is None else read(start),
        keeping,
        before,
    )


def _paint(
    job: _PreparedRun, watch: interrupts.SignalWatch, show: report.ShowProgress, log: report.Say, timing: report.Say
) -> "Progress":
    """Load the network and paint; the last report, which carries the result."""
    from styler import images

    images.remove_stale_files(job.target.beside.parent)
    with report.log_time(timing, "Loaded PyTorch"):
        from styler.engine.device import describe_device
        from styler.engine.painter import Painter
    with report.log_time(timing, "Loaded the network"):
        painter = Painter.of(job.options)
    log(f"Device {describe_device(painter.device)}, precision {str(painter.precision).removeprefix('torch.')}.")
    watch.begin()
    last = None
    for progress in painter.stream(job.content, [*job.styles], job.options, watch.stop, job.before.replay, job.start):
        if last is None:
            log(report.format_schedule(progress.schedule, None if job.before.replay else job.options))
        last = progress
        show(progress)
    assert last is not None
    return last


def _finish(job: _PreparedRun, last: "Progress", tell: report.Say, log: report.Say, timing: report.Say) -> Path | None:
    """Write the picture, or what there is of an interrupted one; where it is, or None if there is nothing to keep."""
    from styler.cli import files

    result = last.result
    assert result is not None
    for note in result.notes:
        tell(f"styler: note: {note}")
    for sentence in job.before.compare_machine(result):
        tell(f"styler: note: {sentence}")
    for line in report.format_timings(result):
        timing(line)
    for line in report.format_summary(result):
        log(line)
    if result.stopped and not result.iterations:
        report.print_error("Stopped before the first step; nothing was written.")
        return None

    def encode(kind: str) -> bytes:
        return result.encode(
            format=kind,
            bit_depth=job.bit_depth,
            settings=not job.keeping.no_metadata,
            keep_metadata=job.keeping.keep_metadata,
        )

    if result.stopped:
        kept = files.save_partial(job.target, encode)
        width, height = last.size
        step = f"step {last.iteration} of {last.iterations}"
        report.print_error(f"Stopped at {width}×{height}, {step}; kept as {quote_name(kept)}.")
        return kept
    with report.log_time(timing, "Wrote the picture"):
        return files.save_picture(job.target, encode)


def _print_answer(written: Path | None, result: "Result", told: Mapping[str, Any], *, json: bool) -> None:
    """Answer on stdout: with everything, or with the path of a picture that is done."""
    from styler.cli import files

    if json:
        print_document({"output": written and str(written), **told, **report.result_to_json(result)})
    elif written and not result.stopped:
        files.announce(written)


def _ignore(_text: str) -> None:
    """Say nothing."""


TIMED_SIDES = {"cpu": 256}
"""Long side of the picture that is timed; where the kind of device is not listed, `WIDE_SIDE`."""
GPU_TIMED_SIDE = 512
"""GPUs are not busy below that, and would be thought slower than they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a painting would be and cost."""

    size: tuple[int, int]
    device: str
    precision: str
    schedule: Schedule
    checkpoint: bool
    memory: float
    """Bytes at the peak, about."""
    free: float
    """Bytes there are."""
    timed: tuple[int, int] | None
    """Width and height of the evaluation that was timed; None when there is nothing to paint."""
    evaluation: float
    """Seconds of one evaluation at the final size, of that octave alone, about."""

    @property
    def seconds(self) -> float:
        """Of the whole plan, about."""
        return self.evaluation * schedule.count_units(self.schedule)


def make_forecast(options: Options, content: "Picture", styles: "list[Picture]", start: "Picture | None") -> Forecast:
    """Load the network, ask what `Painter.stream` would ask, and time one evaluation.

    Raises:
        StylerError: whatever would end the painting before its first evaluation.
    """
    from styler.engine import budget
    from styler.engine.device import describe_device, estimate_memory, free_memory, needs_checkpoint
    from styler.engine.painter import Painter

    painter = Painter.of(options)
    painter.ready(options)
    features = painter.features(options)
    scales = schedule.build_schedule(options, content.width, content.height, features.min_side)
    size = schedule.compute_result_size(options, content.width, content.height)
    checkpoint = bool(scales) and needs_checkpoint(features, size, options.checkpoint, painter.device)
    small = _shrink_options(options, size, features.min_side, painter.device.type, checkpoint=checkpoint)
    seconds, timed = _time_iteration(painter, small, content, styles, start)
    if timed and options.time:
        scales = budget.fit_schedule(scales, options.time, seconds / math.prod(timed))
    return Forecast(
        size=size,
        device=describe_device(painter.device),
        precision=str(painter.precision).removeprefix("torch."),
        schedule=scales,
        checkpoint=checkpoint,
        memory=estimate_memory(features, size, checkpoint=checkpoint) if scales else 0.0,
        free=free_memory(painter.device),
        timed=timed,
        evaluation=seconds * math.prod(size) / math.prod(timed) if timed else 0.0,
    )


def _shrink_options(
    options: Options, size: tuple[int, int], min_side: int, device: str, *, checkpoint: bool
) -> Options:
    """The same painting in one small scale of two evaluations: the second is timed, the first warms up."""
    needed = math.ceil(min_side * max(size) / min(size)) + 1
    side = max(TIMED_SIDES.get(device, GPU_TIMED_SIDE), needed)
    return options.replace(
        size=side if side < max(size) else options.size,
        first_size=8192,
        iterations=2,
        optimizer="adam",
        sketch=0.0,
        multiscale=0.0,
        time=0.0,
        checkpoint="on" if checkpoint else "off",
    )


def _time_iteration(
    painter: "Painter", options: Options, content: "Picture", styles: "list[Picture]", start: "Picture | None"
) -> tuple[float, tuple[int, int] | None]:
    """Seconds of an evaluation, and its size."""
    marks: list[float] = []
    size = None
    for progress in painter.stream(content, [*styles], options, start=start):
        if progress.result is None:
            _ = progress.loss  # reading it waits for the device
            marks.append(time.perf_counter())
            size = progress.size
    return (marks[1] - marks[0], size) if size else (0.0, None)


def format_forecast(found: Forecast, names: Sequence[str], pictures: "Sequence[Picture]", output: str) -> list[str]:
    """A forecast for a person; `names` and `pictures` are the content and the styles, in this order."""
    from styler.cli.output import format_columns
    from styler.errors import quote_name

    inputs = [f"{quote_name(name)}, {it.width}×{it.height}" for name, it in zip(names, pictures, strict=True)]
    rows = [
        ("Content", inputs[0]),
        *(("Style", style) for style in inputs[1:]),
        ("Output", f"{quote_name(output)}, {found.size[0]}×{found.size[1]}"),
        ("Device", f"{found.device}, precision {found.precision}"),
        ("Plan", report.format_schedule(found.schedule).removeprefix("Plan: ")),
    ]
    if found.timed:
        how = "with" if found.checkpoint else "without"
        needed, free = found.memory / 1e9, found.free / 1e9
        width, height = found.timed
        rows += [
            ("Memory", f"about {needed:.1f} GB of the {free:.1f} GB that are free, {how} checkpointing"),
            (
                "Time",
                f"about {report.format_clock(found.seconds)}: an estimate from one evaluation at {width}×{height}",
            ),
        ]
    return ["A dry run: nothing is painted or written.", *format_columns(rows)]


def forecast_to_json(found: Forecast, options: Options) -> Mapping[str, Any]:
    """A forecast for a program."""
    return {
        "dry_run": True,
        "width": found.size[0],
        "height": found.size[1],
        "options": options.to_dict(),
        "device": found.device,
        "precision": found.precision,
        "schedule": report.schedule_to_json(found.schedule),
        "iterations": sum(scale.iterations for scale in found.schedule),
        "units": schedule.count_units(found.schedule),
        "checkpoint": found.checkpoint,
        "estimated_memory_bytes": round(found.memory),
        "free_memory_bytes": round(found.free),
        "estimated_seconds": found.seconds,
        "estimated_seconds_per_evaluation": found.evaluation,
    }
