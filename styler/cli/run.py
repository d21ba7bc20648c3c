"""`styler run`: one picture.

Everything that can be known to be wrong is found out before the network, and torch with it, is loaded.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import config, library
from styler.cli import answers, dry_run, inputs, interrupts, locks, replay, report, streams, writing
from styler.cli.answers import Json
from styler.cli.dry_run import DryRun
from styler.cli.flags import NOT_GIVEN, OUTPUT, FileName, Settings, given
from styler.errors import UsageError, quote_name
from styler.options import INIT_CHOICES, Options, resolve_options

if TYPE_CHECKING:
    from styler.cli.outputs import Target
    from styler.engine.result import Progress, Result
    from styler.images import Picture

Content = Annotated[
    FileName, Parameter(help="a photo, or the name of one that comes with styler, or - for standard input")
]
Style = Annotated[
    FileName, Parameter(help="a painting, or the name of one that comes with styler, or - for standard input")
]
More = Annotated[FileName, Parameter(show=False)]
Keeping = Annotated[replay.Keeping, Parameter(name="*")]
Reading = Annotated[inputs.Reading, Parameter(name="*")]
Writing = Annotated[writing.Writing, Parameter(name="*")]
Quiet = Annotated[
    bool, Parameter(name=("-q", "--quiet"), group=OUTPUT, negative=(), help="show neither progress nor warnings")
]
Verbose = Annotated[
    int,
    Parameter(
        name=("-v", "--verbose"),
        group=OUTPUT,
        count=True,
        help="tell what is decided and how it went; -vv also how long each part took",
    ),
]
NoProgress = Annotated[bool, Parameter(name="--no-progress", group=OUTPUT, negative=(), help="show no progress")]
Debug = Annotated[
    bool, Parameter(group=OUTPUT, negative=(), help="as -vv, and show where in the program an error arose")
]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A painting whose inputs have been read and whose output has been checked."""

    options: Options
    content: "Picture"
    styles: "list[Picture]"
    target: "Target"
    bit_depth: int
    start: "Picture | None"
    """The picture that `init` names, if it names a file."""
    keeping: replay.Keeping
    before: replay.Before


def run(
    content: Content,
    style: Style,
    /,
    *styles: More,
    place: Writing = writing.WRITING,
    flags: Settings = NOT_GIVEN,
    keeping: Keeping = replay.NOTHING,
    reading: Reading = inputs.READING,
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
    streams.check(names, place.output, json=json)
    where = report.console()
    speak = partial(report.say, where)
    tell = _silent if quiet else speak
    log, timing = speak if verbose or debug else _silent, speak if verbose > 1 or debug else _silent
    with interrupts.watched() as watch, ExitStack() as ends:
        found = config.load_config()
        before = replay.before(keeping, given(flags))
        resolved = resolve_options(*found.layers, *before.layers, ("flag", given(flags)))  # weakest first
        with report.timed(timing, "Read the pictures"):
            job = _prepared(names, resolved.options, place, reading, keeping, before)
        warnings = [*found.warnings, *(each for picture in (job.content, *job.styles) for each in picture.warnings)]
        warnings += replay.inputs(before, job.content, job.styles, job.start)
        for warning in [] if quiet else warnings:
            report.warn(warning)
        for line in report.decisions(resolved, job.content, job.styles, job.target.shown):
            log(line)
        given_names = [streams.unmarked(name) for name in names]
        told = {"content": given_names[0], "styles": given_names[1:], "warnings": warnings}
        if dry_run:
            return _foretold(job, told, json=json)
        ends.enter_context(locks.held(job.target.path if not job.target.made_up else None))
        with report.shown(where, quiet=quiet or no_progress) as show:
            last = _painted(job, watch, show, log, timing)
        written = _finished(job, last, tell, log, timing)
        assert last.result is not None
        _answered(written, last.result, told, json=json)
        return watch.exit_code if last.result.stopped else 0


def _foretold(job: _Job, told: Mapping[str, Any], *, json: bool) -> int:
    """Say what would be painted, and paint nothing."""
    forecast = dry_run.forecast(job.options, job.content, job.styles, job.start)
    if json:
        answers.document({"output": job.target.shown, **told, **dry_run.document(forecast, job.options)})
    else:
        names = [told["content"], *told["styles"]]
        answers.lines(dry_run.lines(forecast, names, [job.content, *job.styles], job.target.shown))
    return 0


def _prepared(
    names: Sequence[str],
    options: Options,
    place: writing.Writing,
    reading: inputs.Reading,
    keeping: replay.Keeping,
    before: replay.Before,
) -> _Job:
    """Everything that is known before the network is loaded; `names` are the content's and the styles'."""
    from styler.cli import outputs

    if options.init == streams.STREAM:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    read = inputs.reader(reading)
    photo = inputs.located(names[0], library.find_content, library.list_contents(), "photos")
    paintings = [inputs.located(name, library.find_style, library.list_styles(), "paintings") for name in names[1:]]
    start = None if options.init in INIT_CHOICES else Path(options.init)
    others = [path for path in (start, Path(keeping.source) if keeping.source else None) if path]
    bundled = photo != Path(names[0])
    target = outputs.target(place, photo, paintings, others, options.seed, bundled=bundled)
    return _Job(
        options,
        read(photo),
        [read(path) for path in paintings],
        target,
        int(place.bit_depth),
        None if start is None else read(start),
        keeping,
        before,
    )


def _painted(job: _Job, watch: interrupts.Watch, show: report.Show, log: report.Say, timing: report.Say) -> "Progress":
    """Load the network and paint; the last report, which carries the result."""
    from styler import images

    images.remove_stale_files(job.target.beside.parent)
    with report.timed(timing, "Loaded PyTorch"):
        from styler.engine.device import describe_device
        from styler.engine.painter import Painter
    with report.timed(timing, "Loaded the network"):
        painter = Painter.of(job.options)
    log(f"Device {describe_device(painter.device)}, precision {str(painter.precision).removeprefix('torch.')}.")
    watch.begin()
    last = None
    for progress in painter.stream(job.content, [*job.styles], job.options, watch.stop, job.before.repeat, job.start):
        if last is None:
            log(report.plan(progress.plan, None if job.before.repeat else job.options))
        last = progress
        show(progress)
    assert last is not None
    return last


def _finished(job: _Job, last: "Progress", tell: report.Say, log: report.Say, timing: report.Say) -> Path | None:
    """Write the picture, or what there is of an interrupted one; where it is, or None if there is nothing to keep."""
    from styler.cli import outputs

    result = last.result
    assert result is not None
    for note in result.notes:
        tell(f"styler: note: {note}")
    for sentence in replay.machine(job.before, result):
        tell(f"styler: note: {sentence}")
    for line in report.timings(result):
        timing(line)
    for line in report.summary(result):
        log(line)
    if result.stopped and not result.evaluations:
        report.complain("Stopped before the first step; nothing was written.")
        return None
    if result.stopped:
        kept = outputs.save_partial(job.target, partial(_encoded, job, result))
        width, height = last.size
        step = f"step {last.step} of {last.steps}"
        report.complain(f"Stopped at {width}×{height}, {step}; kept as {quote_name(kept)}.")
        return kept
    with report.timed(timing, "Wrote the picture"):
        return outputs.save(job.target, partial(_encoded, job, result))


def _answered(written: Path | None, result: "Result", told: Mapping[str, Any], *, json: bool) -> None:
    """Answer on stdout: with everything, or with the path of a picture that is done."""
    from styler.cli import outputs

    if json:
        answers.document({"output": written and str(written), **told, **report.document(result)})
    elif written and not result.stopped:
        outputs.announce(written)


def _encoded(job: _Job, result: "Result", kind: str) -> bytes:
    """The picture in a format, as the flags want it."""
    from styler import save

    how = replay.inside(job.keeping)
    return save.encode_result(result, job.content, job.styles, job.start, kind=kind, bit_depth=job.bit_depth, **how)


def _silent(_text: str) -> None:
    """Say nothing."""
