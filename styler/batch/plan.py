"""Which content is painted in which style, and under which name: no two under one, whatever the file system.

Does not look at files.
"""

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from styler import images
from styler.batch import discover, manifest
from styler.batch.discover import BatchInput, FindBundled, SelectionRules
from styler.batch.manifest import FileFacts, ManifestHistory
from styler.errors import OptionError, UsageError, quote_name
from styler.images.files import fill_template
from styler.options import INIT_CHOICES, Options
from styler.provenance import MACHINE_OPTIONS
from styler.schedule import Replay

Couple = tuple[BatchInput, tuple[BatchInput, ...]]
"""A content and its styles, which are more than one where they are blended."""
Key = tuple[str, tuple[str, ...]]
"""The paths of a couple."""

MAX_LABEL = 80
"""Characters of the names of styles that are blended, in the name of a picture."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture to be painted."""

    content: BatchInput
    styles: tuple[BatchInput, ...]
    output: str
    """Below the folder of the results, with slashes."""


def pair_inputs(
    contents: Sequence[BatchInput], styles: Sequence[BatchInput], *, zipped: bool = False, blended: bool = False
) -> list[Couple]:
    """Every content with every style, style by style, so that what is known of a style is used while it is kept.

    Args:
        contents: at least one.
        styles: likewise.
        zipped: the first content with the first style, the second with the second …
        blended: every content with all styles at once.

    Raises:
        UsageError: both are asked for, or the numbers do not fit.
    """
    if zipped and blended:
        raise UsageError("--zip and --blend exclude each other; give one of them.")
    if zipped:
        if len(contents) != len(styles):
            raise UsageError(
                f"--zip pairs one content with one style, but there are {len(contents)} contents and {len(styles)} "
                "styles; choose as many of each."
            )
        return [(content, (style,)) for content, style in zip(contents, styles, strict=True)]
    if blended:
        return [(content, tuple(styles)) for content in contents]
    return [(content, (style,)) for style in styles for content in contents]


def pair_key(couple: Couple) -> Key:
    """What tells a couple from others."""
    content, styles = couple
    return discover.absolute_path(content.path), tuple(discover.absolute_path(style.path) for style in styles)


def name_outputs(
    found: Sequence[Couple], template: str | None, ending: str, seed: int, kept: Mapping[Key, str] | None = None
) -> list[Pair]:
    """Give every couple the name of its picture.

    Args:
        found: the couples.
        template: with `{content}`, `{style}`, `{seed}` and `{ext}`; when not given, a name is made that is unique.
        ending: what `{ext}` is.
        seed: what `{seed}` is.
        kept: names that were made before, which stay.

    Raises:
        UsageError: two couples meet under one name, or a name leads out of the folder.
    """
    if template is None:
        names = _make_names(found, ending, kept or {})
    else:
        names = [_place_in_folder(couple, _fill_name(couple, template, ending, seed)) for couple in found]
        _refuse_collisions(found, names)
    return [Pair(content, styles, name) for (content, styles), name in zip(found, names, strict=True)]


def _fill_name(couple: Couple, template: str, ending: str, seed: int) -> str:
    content, styles = couple
    values = {
        "content": content.stem,
        "style": _label_styles([it.stem for it in styles]),
        "seed": str(seed),
        "ext": ending,
    }
    name = fill_template(template, values, "--name")
    if not name or name.endswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise UsageError(
            f"--name makes {quote_name(name)}, which is no name in the folder; use no '..' and no empty part."
        )
    return name


def _label_styles(names: Sequence[str]) -> str:
    whole = "+".join(names)
    return whole if len(whole) <= MAX_LABEL or len(names) == 1 else f"{names[0]}+{len(names) - 1}-more"


def _place_in_folder(couple: Couple, name: str) -> str:
    """The name in the content's own folder."""
    folder = couple[0].folder
    return f"{folder}/{name}" if folder else name


def fold_name(name: str) -> str:
    """What two names share that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _make_names(found: Sequence[Couple], ending: str, kept: Mapping[Key, str]) -> list[str]:
    """Short names where they are unique, else with the extensions of the content, of the style, or a number."""
    names: list[str | None] = [kept.get(pair_key(couple)) if kept else None for couple in found]
    taken = {fold_name(name) for name in names if name is not None}
    open_ones = [index for index, name in enumerate(names) if name is None]
    for level in range(4):
        wanted: dict[str, list[int]] = defaultdict(list)
        for index in open_ones:
            wanted[fold_name(_place_in_folder(found[index], _candidate_name(found[index], level, ending)))].append(
                index
            )
        for name, indices in wanted.items():
            if len(indices) == 1 and name not in taken:
                taken.add(name)
                names[indices[0]] = _place_in_folder(
                    found[indices[0]], _candidate_name(found[indices[0]], level, ending)
                )
        open_ones = [index for index in open_ones if names[index] is None]
    for index in open_ones:
        stem = _place_in_folder(found[index], _candidate_name(found[index], 3, "")).removesuffix(".")
        name = next(it for n in count(2) if fold_name(it := f"{stem}-{n}.{ending}") not in taken)
        taken.add(fold_name(name))
        names[index] = name
    return [name for name in names if name is not None]


def _candidate_name(couple: Couple, level: int, ending: str) -> str:
    """The more levels, the more extensions: none, the content's, the style's, both."""
    content, styles = couple
    ours = content.name if level & 1 else content.stem
    theirs = _label_styles([style.name if level & 2 else style.stem for style in styles])
    return f"{ours}.{theirs}.{ending}"


def _refuse_collisions(found: Sequence[Couple], names: Iterable[str]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        other = first.setdefault(fold_name(name), index)
        if other != index:
            one, two = (" × ".join(quote_name(it.path) for it in (found[i][0], *found[i][1])) for i in (other, index))
            raise UsageError(
                f"--name gives {one} and {two} the same name {quote_name(name)}, or one that differs by case alone; put "
                "{content} and {style} in it, or leave it out for names that are unique."
            )


IRRELEVANT_OPTIONS = (*MACHINE_OPTIONS, "threads")
"""Settings that ask for no other picture."""
MAX_LISTED = 3
"""Names in a sentence on many."""


@dataclass(slots=True)
class BatchState:
    """Where every pair stands before a run."""

    todo: list[Pair] = field(default_factory=list)
    done: list[Pair] = field(default_factory=list)
    failed: list[tuple[Pair, str]] = field(default_factory=list)
    """Those that failed before and are not tried again, with their sentences."""
    found: list[Pair] = field(default_factory=list)
    """Of `done`, those that were written whole by a run that was killed before it could say so."""


def collect_settings(
    options: Mapping[str, Any], files: FileFacts, starts: Iterable[str], **more: Any
) -> dict[str, Any]:
    """All settings that the pixels depend on; a picture to start from stands there by its hash.

    Args:
        options: every field of `Options`.
        files: what is known of files.
        starts: what `init` can be besides a file.
        more: settings beside the options.
    """
    kept = {name: value for name, value in options.items() if name not in IRRELEVANT_OPTIONS}
    if kept["init"] not in starts:
        kept["init"] = f"file {files.digest(kept['init'])}"
    return kept | more


def hash_settings(settings: Mapping[str, Any]) -> str:
    """The hash of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode("ascii")).hexdigest()


def names_from_manifest(past: ManifestHistory) -> dict[Key, str]:
    """The names that pairs had in earlier runs."""
    return {
        (entry["content"]["path"], tuple(style["path"] for style in entry["styles"])): name
        for name, entry in past.entries.items()
        if "content" in entry
    }


def compare_with_manifest(
    pairs: Sequence[Pair],
    past: ManifestHistory,
    out: Path,
    settings: Mapping[str, Any],
    files: FileFacts,
    *,
    overwrite: bool = False,
    retry: bool = False,
) -> BatchState:
    """Sort the pairs into what is to be done and what is not.

    Args:
        pairs: all of them.
        past: what the manifest says.
        out: the folder of the results.
        settings: of this run.
        files: what is known of files.
        overwrite: whether pictures that are there and are others than would be made now may be replaced.
        retry: whether what failed is tried again.

    Raises:
        UsageError: something is in the way and may not be replaced.
    """
    found, wanted = BatchState(), hash_settings(settings)
    foreign: list[str] = []
    changed: list[tuple[str, str]] = []
    for pair in pairs:
        entry, place = past.entries.get(pair.output), out / pair.output
        state = entry["state"] if entry else None
        is_there = os.path.lexists(place)
        if state == manifest.WRITING and entry and is_there:
            state = manifest.DONE if files.digest(str(place)) == entry["sha256"] else None
        if not entry or state in (None, manifest.WRITING) or (state == manifest.DONE and not is_there):
            foreign += [pair.output] * is_there
            found.todo.append(pair)
            continue
        why = _find_change(pair, entry, wanted, settings, past, files)
        if state == manifest.FAILED and not why and not retry:
            found.failed.append((pair, str(entry["error"])))
        elif state == manifest.FAILED or why:
            if is_there:
                changed.append((pair.output, why or "it failed"))
            found.todo.append(pair)
        else:
            found.done.append(pair)
            found.found += [pair] * (entry["state"] == manifest.WRITING)
    if not overwrite:
        _refuse_overwrite(foreign, changed)
    return found


def _find_change(
    pair: Pair,
    entry: Mapping[str, Any],
    wanted: str,
    settings: Mapping[str, Any],
    past: ManifestHistory,
    files: FileFacts,
) -> str:
    """What is different from when a picture was made; empty if nothing is."""
    if entry["settings"] != wanted:
        before = past.settings(entry["settings"])
        names = [name for name, value in settings.items() if before.get(name) != value] if before else []
        told = [
            f"{name} was {_format_setting(before.get(name))} and is {_format_setting(settings[name])}"
            for name in names[:MAX_LISTED]
        ]
        return ", ".join(told) or "the settings"
    if not files.is_same(pair.content.path, entry["content"]):
        return f"the content {quote_name(pair.content.path)}"
    if len(pair.styles) != len(entry["styles"]):
        return "the number of styles"
    for style, recorded in zip(pair.styles, entry["styles"], strict=True):
        if not files.is_same(style.path, recorded):
            return f"the style {quote_name(style.path)}"
    return ""


def _format_setting(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _refuse_overwrite(foreign: Sequence[str], changed: Sequence[tuple[str, str]]) -> None:
    """Say what may not be replaced.

    Raises:
        UsageError: something may not.
    """
    if changed:
        name, why = changed[0]
        what = "1 picture was" if len(changed) == 1 else f"{len(changed)} pictures were"
        raise UsageError(
            f"{what} made from other inputs or settings than these, such as {quote_name(name)} (changed: {why}); "
            "have them made anew with --overwrite, or give another folder with -o."
        )
    if foreign:
        names = ", ".join(map(quote_name, foreign[:MAX_LISTED])) + (" …" if len(foreign) > MAX_LISTED else "")
        what = "1 file that this batch did not make is" if len(foreign) == 1 else f"{len(foreign)} files are"
        raise UsageError(
            f"{what} where pictures would go ({names}); replace them with --overwrite, or give another folder with -o."
        )


EXTENSION_FORMATS = {"png": "png", "jpg": "jpeg", "webp": "webp", "avif": "avif", "tiff": "tiff"}
"""Ends of names, and the formats that they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What somebody wants painted."""

    contents: str
    styles: str
    out: Path
    options: Options = field(default_factory=Options)
    rules: SelectionRules = field(default_factory=SelectionRules)
    zipped: bool = False
    blended: bool = False
    template: str | None = None
    format: str = "png"
    bit_depth: int = 8
    overwrite: bool = False
    retry: bool = False
    """Whether what failed before is tried again."""
    more: dict[str, Any] = field(default_factory=dict)
    """Settings beside the options that the pixels depend on."""
    replay: Replay | None = None
    """The work of an earlier picture, in place of the plan that the options ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """A batch that can be painted."""

    request: BatchRequest
    pairs: list[Pair]
    standing: BatchState
    files: FileFacts
    settings: dict[str, Any]
    problems: list[str]
    """Sentences on folders that could not be listed: what is in them is not painted."""
    links: int
    """Links that were not followed."""

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.request.out


def plan_batch(
    request: BatchRequest, past: ManifestHistory, find_content: FindBundled, find_style: FindBundled
) -> BatchPlan:
    """Find everything that is to be painted.

    Args:
        request: what is wanted.
        past: what the manifest in the folder says.
        find_content: finds a content that is no file.
        find_style: finds a style that is no file.

    Raises:
        NothingMatched: there is nothing to paint.
        UsageError: it makes no sense, or something may not be replaced.
        OutputError: nothing can be written there.
    """
    out = request.out
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(f"The output {quote_name(out)} is a file; a batch needs a folder: give another name with -o.")
    _check_depth(request)
    rules = _exclude_output(request.rules, out)
    contents = discover.find_inputs(request.contents, rules, find_content, "CONTENTS")
    styles = discover.find_inputs(request.styles, rules, find_style, "STYLES")
    couples = pair_inputs(contents.inputs, styles.inputs, zipped=request.zipped, blended=request.blended)
    weights = request.options.style_weights
    if weights and len(weights) != len(couples[0][1]):
        raise OptionError(
            f"style_weights has {len(weights)} numbers, but each picture has {len(couples[0][1])} styles; give one for "
            "each, with --blend where several are blended."
        )
    kept = names_from_manifest(past) if request.template is None else {}
    ending = f".{request.format}"
    kept = {key: name for key, name in kept.items() if name.endswith(ending)}
    found = name_outputs(couples, request.template, request.format, request.options.seed, kept)
    _check_outputs(found, request)
    files = FileFacts()
    settings = collect_settings(
        request.options.to_dict(),
        files,
        INIT_CHOICES,
        bit_depth=request.bit_depth,
        **request.more,
        **_replay_setting(request.replay),
    )
    standing = compare_with_manifest(
        found, past, out, settings, files, overwrite=request.overwrite, retry=request.retry
    )
    return BatchPlan(
        request=request,
        pairs=found,
        standing=standing,
        files=files,
        settings=settings,
        problems=contents.problems + styles.problems,
        links=contents.links + styles.links,
    )


def _replay_setting(replay: Replay | None) -> dict[str, Any]:
    return {"repeat": repr(replay)} if replay else {}


def _exclude_output(rules: SelectionRules, out: Path) -> SelectionRules:
    return SelectionRules(
        recursive=rules.recursive,
        follow=rules.follow,
        include=rules.include,
        exclude=rules.exclude,
        without=os.path.realpath(out),
    )


def _check_depth(request: BatchRequest) -> None:
    kind = EXTENSION_FORMATS[request.format]
    if request.bit_depth not in images.FORMATS[kind].depths:
        raise OptionError(f"{images.FORMATS[kind].shown} has no {request.bit_depth} bit; take --format png or tiff.")


def _check_outputs(found: list[Pair], request: BatchRequest) -> None:
    """Refuse names of another format, pictures over their own inputs, and folders that cannot be written.

    Raises:
        UsageError: a name has another format, or is an input.
        OutputError: a folder cannot be written.
    """
    inputs = _resolve_paths({it.path for pair in found for it in (pair.content, *pair.styles)})
    out, real = request.out, os.path.realpath(request.out)
    folders: set[str] = set()
    endings: set[str] = set()
    for pair in found:
        folder, _, name = pair.output.rpartition("/")
        ending = name.rpartition(".")[2]
        if ending not in endings and images.find_format(out / pair.output) != EXTENSION_FORMATS[request.format]:
            raise UsageError(
                f"--name makes {quote_name(pair.output)}, but --format is {request.format}; end the template in {{ext}}, "
                "or give the format it names."
            )
        if os.path.join(real, pair.output) in inputs:  # noqa: PTH118 - very many
            raise UsageError(
                f"The output {quote_name(out / pair.output)} is one of the inputs; give another folder with -o."
            )
        endings.add(ending)
        if folder not in folders:
            folders.add(folder)
            images.check_output(out / pair.output, overwrite=True)


def _resolve_paths(paths: set[str]) -> set[str]:
    """Paths with the links among their folders followed, each folder once."""
    folders: dict[str, str] = {}
    found = set()
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or ".")
        found.add(f"{folders[folder]}{os.sep}{name}")
    return found
