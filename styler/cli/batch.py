"""`styler batch`: whole folders, any number of styles.

Everything that can be known to be wrong is found out before the network, and torch with it, is loaded.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import config, library, provenance
from styler.cli import files, interrupts, report
from styler.cli.flags import (
    BATCH_FLAGS,
    DEFAULT_INPUT,
    NO_FLAGS,
    NO_REPLAY,
    PICTURE_GROUP,
    BitDepth,
    Debug,
    DryRun,
    EngineOptions,
    FileName,
    InputOptions,
    Json,
    NoProgress,
    Overwrite,
    Quiet,
    ResumeOptions,
    SelectionOptions,
    Settings,
    Verbose,
    read_flags,
)
from styler.cli.output import STREAM_NAME
from styler.cli.run import InputFlags, ReplayFlags
from styler.errors import UsageError
from styler.options import resolve_options

if TYPE_CHECKING:
    from styler.batch.manifest import ManifestHistory
    from styler.batch.plan import BatchPlan, BatchRequest
    from styler.batch.runner import BatchContext

Contents = Annotated[FileName | None, Parameter(help="photos: a file, a folder, 'a pattern', @list.txt, or a name")]
Styles = Annotated[FileName | None, Parameter(help="paintings, likewise")]
More = Annotated[FileName, Parameter(show=False)]
Folder = Annotated[
    FileName | None,
    Parameter(name=("-o", "--output"), group=PICTURE_GROUP, metavar="FOLDER", help="the folder for the pictures"),
]

CHOOSING, GOING, WHERE = SelectionOptions(), ResumeOptions(), EngineOptions()


def batch(
    contents: Contents = None,
    styles: Styles = None,
    /,
    *more: More,
    output: Folder = None,
    choosing: Annotated[SelectionOptions, Parameter(name="*")] = CHOOSING,
    going: Annotated[ResumeOptions, Parameter(name="*")] = GOING,
    where: Annotated[EngineOptions, Parameter(name="*")] = WHERE,
    flags: Settings = NO_FLAGS,
    keeping: ReplayFlags = NO_REPLAY,
    reading: InputFlags = DEFAULT_INPUT,
    bit_depth: BitDepth = "8",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> int:
    """Paint many pictures: every content in every style, one after another, and go on where it stopped."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other; give one of them.")
    if going.status is not None:
        from styler.cli import batch_report

        return batch_report.print_status(Path(going.status), json=json)
    console = report.make_console()
    log = partial(report.print_line, console) if verbose or debug else _silent
    with interrupts.watch_signals() as watch, ExitStack() as ends:
        found = config.load_config(command="batch", command_flags=BATCH_FLAGS)
        where.check(device="device" in read_flags(flags))
        before = provenance.load_earlier(keeping.source, read_flags(flags))
        resolved = resolve_options(*found.layers, *before.layers, ("flag", read_flags(flags)))
        out = _checked(contents, styles, more, output, going)
        files.make_reader(reading)  # is there such a colour?
        if not dry_run:
            ends.enter_context(files.hold_output(out))
        request = _request(str(contents), str(styles), out, resolved.options, choosing, reading, before, int(bit_depth))
        past, prepared = _prepared(
            request,
            overwrite=overwrite,
            retry_failed=going.retry_failed,
            index=not going.no_index,
            embed_record=not keeping.no_metadata,
            keep_metadata=keeping.keep_metadata,
        )
        for warning in [] if quiet else [*found.warnings, *_left_out(prepared)]:
            report.print_warning(warning)
        for problem in prepared.problems:
            report.print_error(f"error: {problem}")
        for line in _decisions(prepared):
            log(line)
        if dry_run:
            from styler.cli import batch_report

            return batch_report.print_plan(prepared, files.make_url_reader(reading), where, json=json)
        show = not (quiet or no_progress)
        tools = _tools(ends, reading, where)
        return _worked(prepared, past, tools, watch, going, json=json, quiet=quiet, show=show)


def _decisions(prepared: "BatchPlan") -> list[str]:
    """What is known before the network is loaded."""
    now = prepared.state
    return [
        f"{len(prepared.pairs)} pictures: {len(now.todo)} to paint, {len(now.done)} done, {len(now.failed)} failed "
        "before."
    ]


def _checked(
    contents: str | None, styles: str | None, more: Sequence[str], output: str | None, going: ResumeOptions
) -> Path:
    """Refuse what no batch can be made of; return the folder for the pictures.

    Raises:
        UsageError: something is missing, or there is too much of it.
    """
    from styler.batch import discover

    if contents is None or styles is None:
        raise UsageError("CONTENTS and STYLES are needed, in this order; see 'styler batch --help'.")
    if more:
        raise UsageError(
            f"There are {2 + len(more)} names where CONTENTS and STYLES are wanted; if the shell has made them of a "
            "pattern, put it in quotes, as in 'photos/*.jpg', or give the folder."
        )
    if output is None:
        raise UsageError("The folder for the pictures is needed; give it with -o FOLDER.")
    if STREAM_NAME in (contents, styles, output):
        raise UsageError("A batch reads and writes files, and no -; for one picture take 'styler run'.")
    if going.max_failures is not None and going.max_failures < 1:
        raise UsageError(f"max_failures is {going.max_failures}; it can be a whole number above 0.")
    if discover.is_url(output):
        return _near(output)
    return Path(output)


def _near(url: str) -> Path:
    """The folder on this machine that a URL means.

    Raises:
        UsageError: it means another place.
    """
    from urllib.parse import unquote, urlsplit

    found = urlsplit(url)
    if found.scheme == "file" and found.netloc in ("", "localhost"):
        return Path(unquote(found.path))
    raise UsageError(f"The pictures come back to this machine, not to {url!r}; give a folder of it with -o.")


def _request(
    contents: str,
    styles: str,
    out: Path,
    options: Any,
    choosing: SelectionOptions,
    reading: InputOptions,
    before: provenance.EarlierPicture,
    bit_depth: int,
) -> "BatchRequest":
    from styler.batch.discover import SelectionRules
    from styler.batch.plan import BatchRequest

    if options.init == STREAM_NAME:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    return BatchRequest(
        contents=contents,
        styles=styles,
        out=out,
        options=options,
        rules=SelectionRules(
            recursive=choosing.recursive,
            follow_symlinks=choosing.follow_symlinks,
            include=tuple(choosing.include),
            exclude=tuple(choosing.exclude),
        ),
        zipped=choosing.zip,
        blended=choosing.blend,
        template=choosing.name,
        format=choosing.format,
        bit_depth=bit_depth,
        other_settings={"background": reading.background},
        replay=before.replay,
    )


def _prepared(request: "BatchRequest", **more: Any) -> "tuple[ManifestHistory, BatchPlan]":
    import dataclasses

    from styler.batch import manifest
    from styler.batch.plan import plan_batch

    past = manifest.read_manifest(request.out)
    request = dataclasses.replace(request, **more)
    return past, plan_batch(
        request,
        past,
        lambda name: files.locate_input(name, library.find_content, library.list_contents(), "photos"),
        lambda name: files.locate_input(name, library.find_style, library.list_styles(), "paintings"),
    )


def _left_out(prepared: "BatchPlan") -> list[str]:
    if not prepared.links:
        return []
    links = "1 link was" if prepared.links == 1 else f"{prepared.links} links were"
    return [f"{links} not followed; --follow-symlinks does."]


def _tools(ends: ExitStack, reading: InputOptions, where: EngineOptions) -> "BatchContext":
    """What the pictures are read and written with; `ends` closes what has to be."""
    from styler.batch.runner import BatchContext
    from styler.cli import files

    cluster = where.cluster()
    if cluster:
        read, decode = files.make_reader(reading), files.make_decoder(reading)
    else:
        read, decode = files.start_decoder(reading, ends)
    return BatchContext(
        read=read,
        decode=decode,
        write=files.write_or_keep,
        devices=where.listed,
        cluster=cluster,
    )


def _worked(
    prepared: "BatchPlan",
    past: "ManifestHistory",
    tools: "BatchContext",
    watch: interrupts.SignalWatch,
    going: ResumeOptions,
    *,
    json: bool,
    quiet: bool,
    show: bool,
) -> int:
    """Paint, tell, and return the exit code."""
    from styler.batch import manifest, runner
    from styler.batch.report import write_index
    from styler.cli import batch_report, files

    tally = batch_report.Tally(prepared)
    with manifest.Manifest(prepared.out, past) as book:
        with batch_report.show_batch(tally, progress=show, json=json) as tell:
            for event in runner.run_batch(prepared, book, tools, watch.stop, going.limit):
                if not watch.painting:
                    watch.begin()
                tally.count(event)
                tell(event)
                if event.kind == "done" and not json:
                    files.announce(prepared.out / event.pair.output)
        notes = [] if going.no_index else write_index(prepared, book)
    for note in [] if quiet else notes:
        report.print_warning(note)
    code = watch.exit_code if watch.stop.is_set() else 3 if tally.failures or prepared.problems else 0
    batch_report.print_summary(tally, code, stopped=watch.stop.is_set(), json=json, quiet=quiet)
    return code


def _silent(_text: str) -> None:
    """Say nothing."""
