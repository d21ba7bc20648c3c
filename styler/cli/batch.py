"""`styler batch`: whole folders of pictures, in any number of styles.

Every error that can be known in advance is raised before PyTorch and the network are loaded.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import config, provenance
from styler.cli import batch_report, files, flags, interrupts, report
from styler.cli.flags import FileName
from styler.cli.output import STREAM_NAME
from styler.errors import UsageError
from styler.options import Options, resolve_options

if TYPE_CHECKING:
    from styler.batch.manifest import ManifestHistory
    from styler.batch.plan import BatchPlan, BatchRequest
    from styler.batch.runner import BatchContext

Contents = Annotated[
    FileName | None, Parameter(help="photos: a file, a folder, 'a pattern', @list.txt, or a bundled photo's name")
]
Styles = Annotated[
    FileName | None, Parameter(help="paintings: a file, a folder, 'a pattern', @list.txt, or a bundled painting's name")
]
More = Annotated[FileName, Parameter(show=False)]
Folder = Annotated[
    FileName | None,
    Parameter(name=("-o", "--output"), group=flags.PICTURE_GROUP, metavar="FOLDER", help="folder for the pictures"),
]


def batch(
    contents: Contents = None,
    styles: Styles = None,
    /,
    *more: More,
    output: Folder = None,
    selection: flags.SelectionOptions = flags.DEFAULT_SELECTION,
    resume: flags.ResumeOptions = flags.DEFAULT_RESUME,
    engine: flags.EngineOptions = flags.DEFAULT_ENGINE,
    settings: flags.Settings = flags.NO_FLAGS,
    replay: flags.ReplayOptions = flags.DEFAULT_REPLAY,
    inputs: flags.InputOptions = flags.DEFAULT_INPUT,
    bit_depth: flags.BitDepth = "8",
    overwrite: flags.Overwrite = False,
    dry_run: flags.DryRun = False,
    reports: flags.ReportOptions = flags.DEFAULT_REPORT,
) -> int:
    """Paint many photos in many styles, and resume where an earlier run stopped."""
    reports.check()
    if resume.status is not None:
        return batch_report.print_status(Path(resume.status), json=reports.json)
    log = report.Logger(reports)
    with interrupts.watch_signals() as watch, ExitStack() as stack:
        configuration = config.load_config(command="batch", command_flags=flags.BATCH_FLAGS)
        flag_values = flags.read_flags(settings)
        engine.check(has_device="device" in flag_values)
        earlier = provenance.load_earlier(replay.source, flag_values)
        options = resolve_options(*configuration.layers, *earlier.layers, ("flag", flag_values)).options
        out = _check_arguments([contents, styles, *more], output, resume, options)
        read = files.make_url_reader(inputs)  # checks the limits, too
        if not dry_run:
            stack.enter_context(files.hold_output(out))
        request = _make_request(
            (selection, resume, replay, inputs),
            contents=str(contents),
            styles=str(styles),
            out=out,
            options=options,
            bit_depth=int(bit_depth),
            overwrite=overwrite,
            replay=earlier.replay,
        )
        history, plan = _plan(request)
        log.warn([*configuration.warnings, *_describe_links(plan.links)])
        for problem in plan.problems:
            report.print_error(f"error: {problem}")
        log.info([f"{report.format_count(len(plan.pairs), 'picture')}: {batch_report.format_state(plan)}."])
        if dry_run:
            return batch_report.print_plan(plan, read, engine, json=reports.json)
        return _paint(plan, history, _make_context(stack, inputs, engine), watch, resume, log)


def _check_arguments(
    names: Sequence[str | None], output: str | None, resume: flags.ResumeOptions, options: Options
) -> Path:
    """Check what does not depend on files, and return the folder for the pictures.

    Raises:
        UsageError: something is missing, superfluous or not possible in a batch.
    """
    from styler.batch import discover

    if None in names:
        raise UsageError("CONTENTS and STYLES are required, in this order; see 'styler batch --help'.")
    if len(names) > 2:
        raise UsageError(
            f"There are {len(names)} arguments instead of CONTENTS and STYLES; if the shell expanded a pattern, quote "
            "it, as in 'photos/*.jpg', or give the folder."
        )
    if output is None:
        raise UsageError("A folder for the pictures is required; give it with -o FOLDER.")
    if STREAM_NAME in (*names, output):
        raise UsageError("A batch cannot use standard input or output; paint a single picture with 'styler run'.")
    if resume.max_failures is not None and resume.max_failures < 1:
        raise UsageError(f"max_failures is {resume.max_failures}; it can be a whole number above 0.")
    if options.init == STREAM_NAME:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    return _parse_file_url(output) if discover.is_url(output) else Path(output)


def _parse_file_url(url: str) -> Path:
    """Return the path of a file:// URL.

    Raises:
        UsageError: the URL is not on this machine.
    """
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    raise UsageError(f"Pictures are written on this machine, not to {url!r}; give a local folder with -o.")


def _make_request(
    groups: tuple[flags.SelectionOptions, flags.ResumeOptions, flags.ReplayOptions, flags.InputOptions], **settings: Any
) -> "BatchRequest":
    """Combine groups of flags and further fields into a request."""
    from styler.batch.discover import SelectionRules
    from styler.batch.plan import BatchRequest

    selection, resume, replay, inputs = groups
    rules = SelectionRules(
        recursive=selection.recursive,
        follow_symlinks=selection.follow_symlinks,
        include=tuple(selection.include),
        exclude=tuple(selection.exclude),
    )
    return BatchRequest(
        rules=rules,
        zipped=selection.zip,
        blended=selection.blend,
        template=selection.name,
        format=selection.format,
        embed_record=not replay.no_metadata,
        keep_metadata=replay.keep_metadata,
        index=not resume.no_index,
        retry_failed=resume.retry_failed,
        other_settings={"background": inputs.background},
        **settings,
    )


def _plan(request: "BatchRequest") -> "tuple[ManifestHistory, BatchPlan]":
    from styler.batch import manifest
    from styler.batch.plan import plan_batch

    history = manifest.read_manifest(request.out)
    return history, plan_batch(request, history, files.locate_content, files.locate_style)


def _describe_links(links: int) -> list[str]:
    count = report.format_count(links, "symbolic link")
    return [f"{count} skipped; follow links with --follow-symlinks."] if links else []


def _make_context(stack: ExitStack, inputs: flags.InputOptions, engine: flags.EngineOptions) -> "BatchContext":
    """Return how pictures are read, painted and written; `stack` ends the process that decodes them."""
    from styler.batch.runner import BatchContext

    cluster = engine.make_cluster()
    if cluster:
        read, decode = files.make_reader(inputs), files.make_decoder(inputs)
    else:
        read, decode = files.start_decoder(inputs, stack)
    return BatchContext(
        read=read, decode=decode, write=files.write_or_keep, devices=engine.device_names, cluster=cluster
    )


def _paint(
    plan: "BatchPlan",
    history: "ManifestHistory",
    context: "BatchContext",
    watch: interrupts.SignalWatch,
    resume: flags.ResumeOptions,
    log: report.Logger,
) -> int:
    """Paint the pictures, print the summary, and return the exit code."""
    from styler.batch import manifest, runner
    from styler.batch.report import write_index

    tally = batch_report.Tally(plan)
    with manifest.Manifest(plan.out, history) as open_manifest:
        with batch_report.show_events(tally, log) as show:
            for event in runner.run_batch(plan, open_manifest, context, watch.stop, resume.limit):
                if not watch.is_painting:
                    watch.begin()
                tally.count(event)
                show(event)
                if event.kind == "done" and not log.options.json:
                    files.print_path(plan.out / event.pair.output)
        log.warn([] if resume.no_index else write_index(plan, open_manifest))
    is_stopped = watch.stop.is_set()
    code = watch.exit_code if is_stopped else 3 if tally.failures or plan.problems else 0
    batch_report.print_summary(tally, code, is_stopped=is_stopped, options=log.options)
    return code
