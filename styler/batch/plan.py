"""Plan a batch: pair contents with styles, name the results, and compare them with the manifest.

No two results share a name, on any file system. Does not open pictures or load PyTorch.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from styler import images
from styler.batch import discover, manifest
from styler.batch.discover import BatchInput, FindBundled, SelectionRules, fit_name, fold_name
from styler.batch.manifest import FileFacts, ManifestHistory
from styler.errors import OptionError, UsageError, quote_name
from styler.images.files import fill_template
from styler.options import INIT_CHOICES, Options, format_value
from styler.provenance import MACHINE_OPTIONS
from styler.schedule import Replay

EXTENSION_FORMATS = {
    **{"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp", "avif": "avif", "tif": "tiff", "tiff": "tiff"}
}
"""Extensions that `--format` accepts, and the keys of `images.FORMATS` that they stand for."""
IRRELEVANT_OPTIONS = (*MACHINE_OPTIONS, "precision", "threads")
"""Options that do not make a picture outdated."""
MAX_LABEL = 80
"""Longest label of blended styles in the name of a picture, in characters."""
DEVICE_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
"""Names that Windows reserves, with any extension."""
MAX_LISTED = 3
"""Number of names or changes that a message lists."""

Couple = tuple[BatchInput, tuple[BatchInput, ...]]
"""A content and its styles: several if they are blended."""
CoupleKey = tuple[str, tuple[str, ...]]
"""The absolute paths of a couple."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A content, its styles and the name of the result."""

    content: BatchInput
    styles: tuple[BatchInput, ...]
    output: str
    """Path in the output folder, with slashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What to paint, and how to store it."""

    contents: tuple[str, ...]
    """Names as `discover.find_inputs` takes them, like those of the styles."""
    styles: tuple[str, ...]
    out: Path
    options: Options = field(default_factory=Options)
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


def make_couple_key(couple: Couple) -> CoupleKey:
    """Return what identifies a couple in the manifest."""
    content, styles = couple
    return discover.make_absolute(content.path), tuple(discover.make_absolute(style.path) for style in styles)


def name_outputs(
    couples: Sequence[Couple],
    template: str | None,
    extension: str,
    seed: int,
    earlier: Mapping[CoupleKey, str] | None = None,
) -> list[Pair]:
    """Give every couple the name of its picture.

    Args:
        couples: contents and styles.
        template: with the fields `{content}`, `{style}`, `{seed}` and `{ext}`; None for unique names.
        extension: value of `{ext}`.
        seed: value of `{seed}`.
        earlier: names that earlier runs gave, which are kept.

    Raises:
        UsageError: two couples get the same name, or a name is not in the output folder.
    """
    if template is None:
        names = _make_unique_names(couples, extension, earlier or {})
    else:
        names = [_mirror_folder(couple, _fill_name(couple, template, extension, seed)) for couple in couples]
        _refuse_collisions(couples, names)
    return [Pair(content, styles, name) for (content, styles), name in zip(couples, names, strict=True)]


def _fill_name(couple: Couple, template: str, extension: str, seed: int) -> str:
    content, styles = couple
    values = {
        "content": content.stem,
        "style": _label_styles([style.stem for style in styles]),
        "seed": str(seed),
        "ext": extension,
    }
    name = fill_template(template, values, "--name")
    if not name or name.endswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise UsageError(
            f"--name gives {quote_name(name)}, which is not a name in the output folder; omit '..' and empty parts."
        )
    folder, _, last = name.rpartition("/")
    stem, suffix = os.path.splitext(last)  # noqa: PTH122 - called for every pair
    return f"{folder}/{fit_name(stem, suffix)}" if folder else fit_name(stem, suffix)


def _label_styles(names: Sequence[str]) -> str:
    label = "+".join(names)
    return label if len(label) <= MAX_LABEL or len(names) == 1 else f"{names[0]}+{len(names) - 1}-more"


def _mirror_folder(couple: Couple, name: str) -> str:
    """Return the name in the folder of the content."""
    folder = couple[0].folder
    return f"{folder}/{name}" if folder else name


def _make_unique_names(couples: Sequence[Couple], extension: str, earlier: Mapping[CoupleKey, str]) -> list[str]:
    """Return names of stems where they are unique, otherwise of unique labels, which may need a number at the end."""
    names: list[str | None] = [earlier.get(make_couple_key(couple)) if earlier else None for couple in couples]
    taken = {fold_name(name) for name in names if name is not None}
    labels = Labels(
        _label_inputs(content for content, _ in couples), _label_inputs(it for _, styles in couples for it in styles)
    )
    for level in (Labels(), labels):
        candidates: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for index, couple in enumerate(couples):
            name = level.name_picture(couple, f".{extension}")
            candidates[fold_name(name)].append((index, name))
        for folded, items in candidates.items():
            if len(items) == 1 and folded not in taken and names[items[0][0]] is None:
                taken.add(folded)
                names[items[0][0]] = items[0][1]
    for index, couple in enumerate(couples):
        if names[index] is None:
            numbered = (labels.name_picture(couple, f"-{number}.{extension}") for number in count(2))
            names[index] = name = next(name for name in numbered if fold_name(name) not in taken)
            taken.add(fold_name(name))
    return [name for name in names if name is not None]


@dataclass(frozen=True, slots=True)
class Labels:
    """What the inputs are called in the names of pictures, by their paths; those that are absent by their stems."""

    contents: Mapping[str, str] = field(default_factory=dict)
    styles: Mapping[str, str] = field(default_factory=dict)

    def name_picture(self, couple: Couple, end: str) -> str:
        """Return the path of a picture, in the folder of its content; its name is one that file systems accept."""
        content, styles = couple
        label = self.contents.get(content.path, content.stem)
        if label.partition(".")[0].upper() in DEVICE_NAMES:
            label = f"_{label}"
        style = _label_styles([self.styles.get(item.path, item.stem) for item in styles])
        return _mirror_folder(couple, fit_name(f"{label}.{style}", end))


def _label_inputs(inputs: Iterable[BatchInput]) -> dict[str, str]:
    """Return a label for every input that has no stem of its own in its folder, whatever the file system.

    The label is the name, with a number after its stem where several differ only in case or in Unicode form: `a.jpg`,
    `A.PNG`, `a-2.png`.
    """
    groups: dict[tuple[str, str], dict[str, BatchInput]] = defaultdict(dict)
    for item in inputs:
        groups[fold_name(item.folder), fold_name(item.stem)][item.path] = item
    labels: dict[str, str] = {}
    taken = {key for key, items in groups.items() if len(items) == 1}
    for (folder, _), items in groups.items():
        for item in items.values() if len(items) > 1 else ():
            suffix = item.name[len(item.stem) :]
            choices = (item.name if number == 1 else f"{item.stem}-{number}{suffix}" for number in count(1))
            labels[item.path] = label = next(it for it in choices if (folder, fold_name(it)) not in taken)
            taken.add((folder, fold_name(label)))
    return labels


def _refuse_collisions(couples: Sequence[Couple], names: Iterable[str]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        other = first.setdefault(fold_name(name), index)
        if other != index:
            one, two = (_format_couple(*couples[number]) for number in (other, index))
            raise UsageError(
                f"--name gives {one} and {two} the same name {quote_name(name)}, or names that differ only in case; "
                "put {content} and {style} in it, or omit it for unique names."
            )


def _format_couple(content: BatchInput, styles: Sequence[BatchInput]) -> str:
    return " × ".join(quote_name(item.path) for item in (content, *styles))


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
    for style, recorded in zip(pair.styles, entry["styles"], strict=True):
        if not files.is_same(style.path, recorded):
            return f"the style {quote_name(style.path)}"
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
    file_format = images.FORMATS[EXTENSION_FORMATS[request.format]]
    if request.bit_depth not in file_format.depths:
        raise OptionError(f"{file_format.name} does not support {request.bit_depth} bits; use --format png or tiff.")
    rules = dataclasses.replace(request.rules, skip_folder=os.path.realpath(out))
    contents = discover.find_inputs(request.contents, rules, find_content, "CONTENTS")
    styles = discover.find_inputs(request.styles, rules, find_style, "STYLES")
    couples = pair_inputs(contents.inputs, styles.inputs, zipped=request.zipped, blended=request.blended)
    weights, number = request.options.style_weights, len(couples[0][1])
    if weights and len(weights) != number:
        raise OptionError(
            f"style_weights has {len(weights)} numbers, but each picture has {number} styles; give one for each, and "
            "use --blend to blend several."
        )
    earlier = _find_earlier_names(history, request.format) if request.template is None else {}
    pairs = name_outputs(couples, request.template, request.format, request.options.seed, earlier)
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
    inputs = _resolve_folders({item.path for pair in pairs for item in (pair.content, *pair.styles)})
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
