"""Plan a batch: pair contents with styles, find their masks, and compare the results with the manifest.

Does not open pictures or load PyTorch.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styler import images, library
from styler.batch import discover, manifest
from styler.batch.discover import BatchInput, FindBundled, SelectionRules, fold_name
from styler.batch.manifest import FileFacts, ManifestHistory
from styler.batch.names import Couple, CoupleKey, Pair, name_outputs
from styler.errors import ImageError, OptionError, UsageError, quote_name
from styler.images.files import fill_template
from styler.options import INIT_CHOICES, Options, format_value
from styler.provenance import MACHINE_OPTIONS
from styler.regions import specs
from styler.schedule import Replay, compute_result_size

EXTENSION_FORMATS = {
    **{"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp", "avif": "avif", "tif": "tiff", "tiff": "tiff"}
}
"""Extensions that `--format` accepts, and the keys of `images.FORMATS` that they stand for."""
IRRELEVANT_OPTIONS = (*MACHINE_OPTIONS, "precision", "threads")
"""Options that do not make a picture outdated."""
MAX_LISTED = 3
"""Number of names or changes that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What to paint, and how to store it."""

    contents: tuple[str, ...]
    """Names as `discover.find_inputs` takes them, like those of the styles."""
    styles: tuple[str, ...]
    out: Path
    options: Options = field(default_factory=Options)
    """Names of mask pictures can contain `{content}`, the name of the photo without its extension."""
    region_styles: tuple[str, ...] = ()
    """The paintings of `options.regions`, one for each, which all pictures have in common."""
    rules: SelectionRules = field(default_factory=SelectionRules)
    zipped: bool = False
    """Whether contents and styles are paired one to one."""
    blended: bool = False
    """Whether all styles are blended into one."""
    template: str | None = None
    """Template of the names; None for unique names."""
    format: str = "png"
    """A key of `EXTENSION_FORMATS`."""
    bit_depth: int = 8
    embed_record: bool = True
    """Whether the settings are stored in each picture."""
    keep_metadata: bool = False
    """Whether the metadata of the content are copied."""
    index: bool = True
    """Whether an index page and a contact sheet are written."""
    overwrite: bool = False
    retry_failed: bool = False
    other_settings: dict[str, Any] = field(default_factory=dict)
    """Settings besides the options that the pixels depend on."""
    replay: Replay | None = None
    """The executed schedule of an earlier picture, used in place of the one that the options give."""


@dataclass(slots=True)
class BatchState:
    """The pairs of a batch by what an earlier run did with them."""

    todo: list[Pair] = field(default_factory=list)
    done: list[Pair] = field(default_factory=list)
    failed: list[tuple[Pair, str]] = field(default_factory=list)
    """Pairs that failed and are not tried again, with their errors."""
    unrecorded: list[Pair] = field(default_factory=list)
    """Those of `done` whose run was killed after it wrote the picture and before it recorded that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """A batch that is ready to be painted."""

    request: BatchRequest
    pairs: list[Pair]
    state: BatchState
    files: FileFacts
    settings: dict[str, Any]
    problems: list[str]
    """Messages about folders that cannot be listed; the pictures in them are not painted."""
    links: int
    """Number of links that were not followed."""
    batches: int
    """Number of folders that were left out because an earlier batch wrote them."""
    picture_seconds: float | None
    """Median time of the pictures that were painted with these settings; None if there are none."""

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.request.out


def pair_inputs(
    contents: Sequence[BatchInput], styles: Sequence[BatchInput], *, zipped: bool = False, blended: bool = False
) -> list[Couple]:
    """Pair every content with every style.

    The order is style by style, so that the statistics of a style are reused while they are cached.

    Args:
        contents: at least one.
        styles: at least one.
        zipped: pair the first content with the first style, the second with the second, and so on.
        blended: pair every content with all styles at once.

    Raises:
        UsageError: both are set, or `zipped` with different numbers of contents and styles.
    """
    if zipped and blended:
        raise UsageError("--zip and --blend are mutually exclusive; use one of them.")
    if zipped:
        if len(contents) != len(styles):
            raise UsageError(
                f"--zip pairs each content with one style, but there are {len(contents)} contents and {len(styles)} "
                "styles; choose the same number of each."
            )
        return [(content, (style,)) for content, style in zip(contents, styles, strict=True)]
    if blended:
        return [(content, tuple(styles)) for content in contents]
    return [(content, (style,)) for style in styles for content in contents]


def find_masks(content: BatchInput, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the masks of a content that are pictures: their names in the options, and their paths or URLs.

    Raises:
        UsageError: a name has another field than `{content}`.
    """
    paths = (fill_template(name, {"content": content.stem}, "The name of a mask") for name in names)
    located = (path if discover.is_url(path) else library.find_file(path) for path in paths)
    return tuple(zip(names, located, strict=True))


def apply_masks(options: Options, masks: Iterable[tuple[str, str]]) -> Options:
    """Return the options of one picture, which name its masks by their paths."""
    renamed = specs.rename_masks(dict(masks), options.protect, options.regions, options.labels)
    return options.replace(**renamed) if masks else options


def _check_masks(names: Iterable[str]) -> None:
    """Check the masks that all pictures have in common.

    Raises:
        OptionError: there is no such mask.
        ImageError: there is no such file.
    """
    for name in names:
        anywhere, elsewhere = (find_masks(BatchInput(stem, stem), [name])[0][1] for stem in ("0", "1"))
        if anywhere != elsewhere or discover.stat_file(anywhere):
            continue
        if not discover.is_url(anywhere) and not specs.is_file_name(anywhere):
            raise OptionError(specs.explain_missing_mask(name, ()))
        raise ImageError(f"Cannot read the mask {quote_name(anywhere)}: there is no such file; check its name.")


def _find_region_styles(request: BatchRequest, find_style: FindBundled) -> tuple[BatchInput, ...]:
    """Return the paintings of the regions.

    Raises:
        UsageError: one is a folder or a pattern of several.
        NothingMatched: there is no such painting.
    """
    found: list[BatchInput] = []
    for name in request.region_styles:
        inputs = discover.find_inputs([name], request.rules, find_style, "The painting").inputs
        if len(inputs) > 1:
            raise UsageError(f"The region has {len(inputs)} paintings, {quote_name(name)}; name a single one.")
        found += inputs
    return tuple(found)


def collect_settings(request: BatchRequest, files: FileFacts) -> dict[str, Any]:
    """Return all settings that the pixels depend on; a file to start from is represented by its hash."""
    settings = {name: value for name, value in request.options.to_dict().items() if name not in IRRELEVANT_OPTIONS}
    if settings["init"] not in INIT_CHOICES:
        settings["init"] = f"file {files.hash(settings['init'])}"
    settings |= {"bit_depth": request.bit_depth, **request.other_settings}
    return settings | ({"replay": repr(request.replay)} if request.replay else {})


def hash_settings(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode("ascii")).hexdigest()


def _find_earlier_names(history: ManifestHistory, extension: str) -> dict[CoupleKey, str]:
    """Return the names with this extension that earlier runs gave."""
    return {
        (entry["content"]["path"], tuple(style["path"] for style in entry["styles"])): name
        for name, entry in history.entries.items()
        if "content" in entry and name.endswith(f".{extension}")
    }


def compare_with_manifest(
    pairs: Sequence[Pair],
    history: ManifestHistory,
    request: BatchRequest,
    settings: Mapping[str, Any],
    files: FileFacts,
) -> BatchState:
    """Sort the pairs into those that are to be painted and those that are not.

    Raises:
        UsageError: a file would be replaced without `overwrite`.
    """
    state, digest = BatchState(), hash_settings(settings)
    foreign: list[str] = []
    changed: list[tuple[str, str]] = []
    for pair in pairs:
        entry, path = history.entries.get(pair.output), request.out / pair.output
        recorded = entry["state"] if entry else None
        is_there = os.path.lexists(path)
        if recorded == manifest.WRITING and entry and is_there:
            recorded = manifest.DONE if files.hash(str(path)) == entry["sha256"] else None
        if not entry or recorded in (None, manifest.WRITING) or (recorded == manifest.DONE and not is_there):
            foreign += [pair.output] * is_there
            state.todo.append(pair)
            continue
        change = _find_change(pair, entry, digest, settings, history, files)
        if recorded == manifest.FAILED and not change and not request.retry_failed:
            state.failed.append((pair, str(entry["error"])))
        elif recorded == manifest.FAILED or change:
            if is_there:
                changed.append((pair.output, change or "it failed"))
            state.todo.append(pair)
        else:
            state.done.append(pair)
            state.unrecorded += [pair] * (entry["state"] == manifest.WRITING)
    if not request.overwrite:
        _refuse_overwrite(foreign, changed)
    return state


def _find_change(
    pair: Pair,
    entry: Mapping[str, Any],
    digest: str,
    settings: Mapping[str, Any],
    history: ManifestHistory,
    files: FileFacts,
) -> str:
    """Return what has changed since a picture was painted; empty if nothing has."""
    if entry["settings"] != digest:
        before = history.find_settings(entry["settings"])
        names = [name for name, value in settings.items() if before.get(name) != value] if before else []
        changes = [
            f"{name} was {format_value(before.get(name))} and is {format_value(settings[name])}"
            for name in names[:MAX_LISTED]
        ]
        return ", ".join(changes) or "the settings"
    if not files.is_same(pair.content.path, entry["content"]):
        return f"the content {quote_name(pair.content.path)}"
    if len(pair.styles) != len(entry["styles"]):
        return "the number of styles"
    inputs = [*(("style", style.path) for style in pair.styles), *(("mask", path) for _, path in pair.masks)]
    for (kind, path), recorded in zip(inputs, [*entry["styles"], *entry.get("masks", [])], strict=True):
        if not files.is_same(path, recorded):
            return f"the {kind} {quote_name(path)}"
    return ""


def _refuse_overwrite(foreign: Sequence[str], changed: Sequence[tuple[str, str]]) -> None:
    """Refuse to replace files.

    Args:
        foreign: names of files that this batch did not write.
        changed: names of pictures with other inputs or settings, and what has changed.

    Raises:
        UsageError: there are such files.
    """
    if changed:
        name, change = changed[0]
        subject = "1 picture was" if len(changed) == 1 else f"{len(changed)} pictures were"
        raise UsageError(
            f"{subject} painted from other inputs or settings, such as {quote_name(name)} (changed: {change}); "
            "paint them again with --overwrite, or use another folder with -o."
        )
    if foreign:
        names = ", ".join(map(quote_name, foreign[:MAX_LISTED])) + (" …" if len(foreign) > MAX_LISTED else "")
        subject = "1 output file exists" if len(foreign) == 1 else f"{len(foreign)} output files exist"
        raise UsageError(
            f"{subject} that this batch did not write ({names}); replace such files with --overwrite, or use another "
            "folder with -o."
        )


def _check_format(request: BatchRequest) -> None:
    """Check that the format holds the bit depth and, as far as it is known, the size of the pictures.

    Raises:
        OptionError: it has other bit depths.
        OutputError: every picture is too large for it.
    """
    file_format = images.FORMATS[EXTENSION_FORMATS[request.format]]
    if request.bit_depth not in file_format.depths:
        raise OptionError(f"{file_format.name} does not support {request.bit_depth} bits; use --format png or tiff.")
    if request.options.size != "original":  # the long side of no picture is shorter than that of a square photo
        images.check_sides(EXTENSION_FORMATS[request.format], compute_result_size(request.options, 1, 1))


def plan_batch(
    request: BatchRequest, history: ManifestHistory, find_content: FindBundled, find_style: FindBundled
) -> BatchPlan:
    """Find the inputs, pair them, name the outputs, and compare them with the manifest.

    Args:
        request: what to paint.
        history: the manifest of the output folder.
        find_content: finds a bundled content by its name.
        find_style: finds a bundled style by its name.

    Raises:
        NothingMatched: there is nothing to paint.
        UsageError: the request is invalid, or a file would be replaced.
        OutputError: the pictures cannot be written.
    """
    out = request.out
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(f"The output {quote_name(out)} is a file; a batch needs a folder: use another name with -o.")
    _check_format(request)
    rules = dataclasses.replace(request.rules, skip_folder=os.path.realpath(out))
    contents = discover.find_inputs(request.contents, rules, find_content, "CONTENTS")
    styles = discover.find_inputs(request.styles, rules, find_style, "STYLES")
    masks = _find_all_masks(contents.inputs, request.options)
    used = {discover.make_absolute(path) for own in masks.values() for _, path in own}
    photos = [item for item in contents.inputs if discover.make_absolute(item.path) not in used] or contents.inputs
    couples = pair_inputs(photos, styles.inputs, zipped=request.zipped, blended=request.blended)
    if regional := _find_region_styles(request, find_style):
        couples = [(content, (*own, *regional)) for content, own in couples]
    _check_styles(request.options, len(couples[0][1]))
    earlier = _find_earlier_names(history, request.format) if request.template is None else {}
    pairs = name_outputs(couples, request.template, request.format, request.options.seed, earlier)
    if used:
        pairs = [dataclasses.replace(pair, masks=masks[pair.content.path]) for pair in pairs]
    _check_outputs(pairs, request)
    files = FileFacts()
    settings = collect_settings(request, files)
    return BatchPlan(
        request=_keep_precision(request, history, settings),
        pairs=pairs,
        state=compare_with_manifest(pairs, history, request, settings, files),
        files=files,
        settings=settings,
        problems=contents.problems + styles.problems,
        links=len(contents.links | styles.links),
        batches=len(contents.batches | styles.batches),
        picture_seconds=history.measure_pictures(hash_settings(settings)),
    )


def _check_styles(options: Options, count: int) -> None:
    """Check that the number of styles of each picture fits the regions and the weights.

    Raises:
        UsageError: no style is left for the rest of the photo.
        OptionError: the weights do not fit the styles that share it.
    """
    specs.check_style_count(options.regions, count)
    weights, number = options.style_weights, count - len(options.regions)
    if weights and len(weights) != number:
        raise OptionError(
            f"style_weights has {len(weights)} numbers, but each picture has {number} styles; give one for each, and "
            "use --blend to blend several."
        )


def _find_all_masks(contents: Sequence[BatchInput], options: Options) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the masks of every content that are pictures, by its path; a photo can be the mask of another."""
    names = specs.list_mask_files(options.protect, options.regions, options.labels)
    _check_masks(names)
    return {content.path: find_masks(content, names) for content in contents} if names else {}


def _keep_precision(request: BatchRequest, history: ManifestHistory, settings: Mapping[str, Any]) -> BatchRequest:
    """Return the request with the precision that an earlier run with these settings has chosen, if any."""
    kept = history.precisions.get(hash_settings(settings))
    if kept is None or request.options.precision != "auto":
        return request
    return dataclasses.replace(request, options=request.options.replace(precision=kept))


def _check_outputs(pairs: Sequence[Pair], request: BatchRequest) -> None:
    """Check the name of every result.

    Raises:
        UsageError: it has the extension of another format, or is one of the inputs.
        OutputError: its folder cannot be written.
    """
    paths = {item.path for pair in pairs for item in (pair.content, *pair.styles)}
    inputs = _resolve_folders(paths | {path for pair in pairs for _, path in pair.masks})
    out, real = request.out, os.path.realpath(request.out)
    folders: set[str] = set()
    extensions: set[str] = set()
    for pair in pairs:
        folder, _, name = pair.output.rpartition("/")
        extension = name.rpartition(".")[2]
        if extension not in extensions and images.find_format(out / pair.output) != EXTENSION_FORMATS[request.format]:
            raise UsageError(
                f"--name gives {quote_name(pair.output)}, but --format is {request.format}; end the template with "
                "{ext}, or set the format of this extension."
            )
        if fold_name(os.path.join(real, pair.output)) in inputs:  # noqa: PTH118 - called for every pair
            raise UsageError(f"The output {quote_name(out / pair.output)} is one of the inputs; use another folder.")
        extensions.add(extension)
        if folder not in folders:
            folders.add(folder)
            images.check_output(out / pair.output, overwrite=True)


def _resolve_folders(paths: set[str]) -> set[str]:
    """Return the paths, folded, with links in their folders resolved, each folder once."""
    resolve = functools.cache(os.path.realpath)
    return {fold_name(f"{resolve(folder or '.')}{os.sep}{name}") for folder, name in map(os.path.split, paths)}
