"""Name the results of a batch; no two of them share a name, on any file system. Opens no file."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from styler.batch import discover
from styler.batch.discover import BatchInput, fit_name, fold_name
from styler.errors import UsageError, quote_name
from styler.images.files import fill_template

MAX_LABEL = 80
"""Longest label of blended styles in the name of a picture, in characters."""
DEVICE_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
"""Names that Windows reserves, with any extension."""

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
    masks: tuple[tuple[str, str], ...] = ()
    """The masks that are pictures: their names in the options, and their paths or URLs."""


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
