"""Which content is painted in which style, and under which name: no two under one, whatever the file system.

Does not look at files.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from styler.batch import places
from styler.batch.discover import Input
from styler.errors import UsageError, quote_name
from styler.images.files import fill_template

Couple = tuple[Input, tuple[Input, ...]]
"""A content and its styles, which are more than one where they are blended."""
Key = tuple[str, tuple[str, ...]]
"""The paths of a couple."""

LONGEST_LABEL = 80
"""Characters of the names of styles that are blended, in the name of a picture."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture to be painted."""

    content: Input
    styles: tuple[Input, ...]
    output: str
    """Below the folder of the results, with slashes."""


def couples(
    contents: Sequence[Input], styles: Sequence[Input], *, zipped: bool = False, blended: bool = False
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


def key(couple: Couple) -> Key:
    """What tells a couple from others."""
    content, styles = couple
    return places.absolute(content.path), tuple(places.absolute(style.path) for style in styles)


def named(
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
        names = _made(found, ending, kept or {})
    else:
        names = [_placed(couple, _filled(couple, template, ending, seed)) for couple in found]
        _refuse_meetings(found, names)
    return [Pair(content, styles, name) for (content, styles), name in zip(found, names, strict=True)]


def _filled(couple: Couple, template: str, ending: str, seed: int) -> str:
    content, styles = couple
    values = {"content": content.stem, "style": _label([it.stem for it in styles]), "seed": str(seed), "ext": ending}
    name = fill_template(template, values, "--name")
    if not name or name.endswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise UsageError(
            f"--name makes {quote_name(name)}, which is no name in the folder; use no '..' and no empty part."
        )
    return name


def _label(names: Sequence[str]) -> str:
    whole = "+".join(names)
    return whole if len(whole) <= LONGEST_LABEL or len(names) == 1 else f"{names[0]}+{len(names) - 1}-more"


def _placed(couple: Couple, name: str) -> str:
    """The name in the content's own folder."""
    folder = couple[0].folder
    return f"{folder}/{name}" if folder else name


def folded(name: str) -> str:
    """What two names share that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _made(found: Sequence[Couple], ending: str, kept: Mapping[Key, str]) -> list[str]:
    """Short names where they are unique, else with the extensions of the content, of the style, or a number."""
    names: list[str | None] = [kept.get(key(couple)) if kept else None for couple in found]
    taken = {folded(name) for name in names if name is not None}
    open_ones = [index for index, name in enumerate(names) if name is None]
    for level in range(4):
        wanted: dict[str, list[int]] = defaultdict(list)
        for index in open_ones:
            wanted[folded(_placed(found[index], _candidate(found[index], level, ending)))].append(index)
        for name, indices in wanted.items():
            if len(indices) == 1 and name not in taken:
                taken.add(name)
                names[indices[0]] = _placed(found[indices[0]], _candidate(found[indices[0]], level, ending))
        open_ones = [index for index in open_ones if names[index] is None]
    for index in open_ones:
        stem = _placed(found[index], _candidate(found[index], 3, "")).removesuffix(".")
        name = next(it for n in count(2) if folded(it := f"{stem}-{n}.{ending}") not in taken)
        taken.add(folded(name))
        names[index] = name
    return [name for name in names if name is not None]


def _candidate(couple: Couple, level: int, ending: str) -> str:
    """The more levels, the more extensions: none, the content's, the style's, both."""
    content, styles = couple
    ours = content.name if level & 1 else content.stem
    theirs = _label([style.name if level & 2 else style.stem for style in styles])
    return f"{ours}.{theirs}.{ending}"


def _refuse_meetings(found: Sequence[Couple], names: Iterable[str]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        other = first.setdefault(folded(name), index)
        if other != index:
            one, two = (" × ".join(quote_name(it.path) for it in (found[i][0], *found[i][1])) for i in (other, index))
            raise UsageError(
                f"--name gives {one} and {two} the same name {quote_name(name)}, or one that differs by case alone; put "
                "{content} and {style} in it, or leave it out for names that are unique."
            )
