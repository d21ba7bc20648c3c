"""`styler batch`: whole folders of pictures, in any number of styles.

Every error that can be known in advance is raised before PyTorch and the network are loaded.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import config, environment, library
from styler.cli import batch_report, files, flags, report
from styler.cli.flags import FileName
from styler.cli.output import STREAM_NAME
from styler.errors import OutputError, UsageError, quote_name
from styler.options import Options, resolve_options

if TYPE_CHECKING:
    from styler.batch.manifest import Manifest, ManifestHistory
    from styler.batch.plan import BatchPlan, BatchRequest
    from styler.batch.runner import BatchContext
    from styler.provenance import EarlierPicture

Contents = Annotated[
    FileName | None,
    Parameter(help="photos: files, a folder, 'a pattern', @list.txt, or names of photos that come with styler"),
]
Styles = Annotated[FileName | None, Parameter(help="paintings, named in the same ways")]
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
    with environment.watch_signals() as watch, ExitStack() as stack:
        flag_values = flags.read_flags(settings)
        engine.check(has_device="device" in flag_values)
        configuration, earlier, options = _resolve_options(flag_values, replay)
        names, out = _check_arguments([contents, styles, *more], output, resume, options)
        log.note(_describe_names(*names))
        read = files.make_url_reader(inputs)  # checks the limits, too
        if not dry_run:
            stack.enter_context(files.hold_output(out))
        request = _make_request(
            (selection, resume, replay, inputs),
            contents=names[0],
            styles=names[1],
            out=out,
            options=options,
            region_styles=tuple(flags.read_region_styles(settings)),
            bit_depth=int(bit_depth),
            overwrite=overwrite,
            replay=earlier.replay,
        )
        history, plan = _plan(request)
        log.warn([*configuration.warnings, *_describe_skipped(plan)])
        _report_plan(plan, log)
        if dry_run:
            return batch_report.print_plan(plan, read, engine, json=reports.json)
        return _paint(plan, history, _make_context(stack, inputs, engine), watch, resume, log)


def _resolve_options(
    flag_values: Mapping[str, Any], replay: flags.ReplayOptions
) -> "tuple[config.Config, EarlierPicture, Options]":
    """Merge flags with the settings outside the program and those of an earlier picture."""
    from styler import provenance

    configuration = config.load_config(command="batch", command_flags=flags.BATCH_FLAGS)
    earlier = provenance.load_earlier(replay.source, flag_values)
    resolved = resolve_options(*configuration.layers, *earlier.layers, ("flag", flag_values))
    files.locate_masks(resolved, None, replay.source)
    return configuration, earlier, resolved.options


def _check_arguments(
    names: Sequence[str | None], output: str | None, resume: flags.ResumeOptions, options: Options
) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], Path]:
    """Check what does not depend on pictures, and return the contents, the styles, and the folder for the pictures.

    Raises:
        UsageError: something is missing, unclear or not possible in a batch.
    """
    from styler.batch import discover

    given = [name if discover.is_url(name) else library.find_file(name) for name in names if name is not None]
    if len(given) < 2:
        raise UsageError("CONTENTS and STYLES are required, in this order; see 'styler batch --help'.")
    if output is None:
        raise UsageError("A folder for the pictures is required; give it with -o FOLDER.")
    if STREAM_NAME in (*given, output):
        raise UsageError(
            "A batch cannot use standard input or output as a picture; paint a single picture with 'styler run', or "
            "read a list of names with @-."
        )
    if resume.max_failures is not None and resume.max_failures < 1:
        raise UsageError(f"max_failures is {resume.max_failures}; it can be a whole number above 0.")
    if options.init == STREAM_NAME:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    return split_names(given), _parse_file_url(output) if discover.is_url(output) else Path(output)


MANY, BUNDLED_PHOTO, BUNDLED_PAINTING = "many", "a photo that comes with styler", "a painting that comes with styler"
"""Kinds of names besides files, whose kind is their folder."""


def split_names(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which names are contents and which are styles.

    Two names are one of each. More names are split where their kind changes, if that is a single place: after a folder,
    pattern or list that comes first, before one that comes last, before the first bundled painting, or where the folder
    of the files changes, as in `photos/*.jpg paintings/*.jpg` once a shell has expanded it.

    Raises:
        UsageError: there is no such place, or more than one.
    """
    last = len(names) - 1
    kinds = [_find_kind(name) for name in names]
    folders = [index for index, kind in enumerate(kinds) if kind == MANY]
    first = max((index + 1 for index, kind in enumerate(kinds) if kind == BUNDLED_PHOTO), default=1)
    end = min((index for index, kind in enumerate(kinds) if kind == BUNDLED_PAINTING), default=last)
    if last == 1:
        places = [1]
    elif len(folders) == 1 and folders[0] in (0, last):
        places = [place for place in (1 if folders == [0] else last,) if first <= place <= end]
    else:
        changes = [index for index in range(first, end + 1) if first == end or kinds[index] != kinds[index - 1]]
        places = changes if len(folders) < 2 else []
    if len(places) != 1:
        raise UsageError(
            f"It is not clear which of these {len(names)} names are photos and which are paintings; give a folder, a "
            "pattern in quotes or @list.txt for one of them, as in 'styler batch @photos.txt one.jpg two.jpg'."
        )
    return tuple(names[: places[0]]), tuple(names[places[0] :])


def _find_kind(name: str) -> str:
    """Return `MANY`, `BUNDLED_PHOTO` or `BUNDLED_PAINTING`, or the folder of a file."""
    from styler.batch import discover

    if os.path.isfile(name):  # noqa: PTH113 - False where `Path.is_file` raises
        return os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120 - a str
    if os.path.isdir(name) or name.startswith("@") or discover.WILDCARD.search(name):  # noqa: PTH112
        return MANY
    bundled = {
        **dict.fromkeys(library.list_styles(), BUNDLED_PAINTING),
        **dict.fromkeys(library.list_contents(), BUNDLED_PHOTO),
    }
    return bundled.get(name) or os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120 - a str


def _describe_names(contents: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Return a note on how more than two names were understood."""
    if len(contents) + len(styles) == 2:
        return []
    one, other = (
        f"{quote_name(names[0])} and {len(names) - 1} more" if len(names) > 1 else quote_name(names[0])
        for names in (contents, styles)
    )
    return [f"photos: {one}; paintings: {other}."]


def _parse_file_url(url: str) -> Path:
    """Return the path of a file:// URL.

    Raises:
        UsageError: the URL is not on this machine.
    """
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))  # which is C:\x for /C:/x on Windows
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


def _report_plan(plan: "BatchPlan", log: report.Logger) -> None:
    """Print what could not be planned, and how many pictures there are."""
    for problem in plan.problems:
        report.print_error(f"error: {problem}")
    log.info([f"{report.format_count(len(plan.pairs), 'picture')}: {batch_report.format_state(plan)}."])


def _describe_skipped(plan: "BatchPlan") -> list[str]:
    """Return warnings about what was left out."""
    links = report.format_count(plan.links, "symbolic link")
    batches = report.format_count(
        plan.batches, "folder with the pictures of an earlier batch", "folders with the pictures of earlier batches"
    )
    return [
        *([f"{links} skipped; follow links with --follow-symlinks."] if plan.links else []),
        *([f"{batches} skipped; name such a folder to paint what is in it."] if plan.batches else []),
    ]


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
    watch: environment.SignalWatch,
    resume: flags.ResumeOptions,
    log: report.Logger,
) -> int:
    """Paint the pictures, print the summary, and return the exit code."""
    from styler.batch import manifest, runner

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
        is_indexed = resume.no_index or _write_index(plan, open_manifest, log)
    is_stopped = watch.stop.is_set()
    code = watch.exit_code if is_stopped else 3 if tally.failures or plan.problems else 0 if is_indexed else 1
    batch_report.print_summary(tally, code, is_stopped=is_stopped, options=log.options)
    return code


def _write_index(plan: "BatchPlan", open_manifest: "Manifest", log: report.Logger) -> bool:
    """Write the index and return whether that worked; the summary is printed in any case."""
    from styler.batch.report import write_index

    try:
        log.warn(write_index(plan, open_manifest))
    except OutputError as error:
        report.print_error(f"error: {error}")
        return False
    return True
