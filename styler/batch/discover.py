"""What goes in: files, folders, patterns and lists become pictures with the place that each has in its tree.

Looks at names and never into a file. Links are not followed unless asked, loops end, and the folder that the results
go to is never walked.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from styler.batch import places
from styler.errors import ImageError, NothingMatched, StylerError, UsageError, quote_name

PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
    *(".heic", ".heif", ".hif", ".jxl"),
)
"""Ends of the names that are taken from folders and by patterns, where `include` does not say otherwise."""

Find = Callable[[str], Path]
"""From a name that is no file to a picture that comes with styler.

Raises:
    ImageError: there is none.
"""


@dataclass(frozen=True, slots=True)
class Input:
    """A picture that goes in."""

    path: str
    relative: str
    """Its place in the tree that is mirrored, with slashes."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)  # noqa: PTH119 - there may be very many, and a Path is large

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return os.path.splitext(self.name)[0]  # noqa: PTH122 - likewise

    @property
    def folder(self) -> str:
        """The folder in the tree; empty at the top."""
        return self.relative.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is taken from folders and patterns."""

    recursive: bool = False
    follow: bool = False
    """Whether links are followed."""
    include: tuple[str, ...] = ()
    """Patterns of names or places; one must fit."""
    exclude: tuple[str, ...] = ()
    """Likewise; none may fit, nor fit a folder on the way."""
    without: str = ""
    """A folder that is never walked: its real path."""


@dataclass(slots=True)
class Listing:
    """What was found."""

    inputs: list[Input] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Sentences on folders that could not be listed."""
    links: int = 0
    """Links that were not followed."""


def find(given: str, rules: Rules, named: Find, what: str) -> Listing:
    """The pictures that an argument stands for, in natural order.

    Args:
        given: a file, a folder, a pattern, `@list.txt`, or a name that `named` knows.
        rules: what is taken.
        named: finds what is no file.
        what: `CONTENTS` or `STYLES`, for the sentence.

    Raises:
        NothingMatched: it stands for no picture.
        UsageError: it is the folder that the results go to.
    """
    listing = Listing()
    if given.startswith("@") and not os.path.lexists(given):
        _listed(given[1:], rules, named, listing)
    else:
        _spread(given, rules, named, listing)
    unique = {places.absolute(found.path): found for found in reversed(listing.inputs)}
    listing.inputs = sorted(unique.values(), key=lambda found: natural(found.relative))
    if not listing.inputs:
        why = " ".join(listing.problems) or _advice(given, rules)
        raise NothingMatched(f"{what} {quote_name(given)} has no picture to paint: {why}")
    return listing


def natural(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A key to sort by, under which `img2` comes before `img10`."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)), text


def _advice(given: str, rules: Rules) -> str:
    if rules.include or rules.exclude:
        return "--include and --exclude leave nothing of it; change them."
    if Path(given).is_dir() and not rules.recursive:
        return "the folder itself holds none; walk its folders too with -r, or name another."
    return "nothing of that name or pattern is there; check it."


def _spread(given: str, rules: Rules, named: Find, listing: Listing) -> None:
    """A file, a folder, a pattern, a URL of these, or a name."""
    if places.is_url(given):
        _far(given, rules, listing)
    elif Path(given).is_dir():
        if rules.without and os.path.realpath(given) == rules.without:
            raise UsageError(
                f"The pictures in {quote_name(given)} would be painted into that very folder; give another one with -o."
            )
        root = given.rstrip("/" + os.sep) or given
        for path in _walk(root, rules, listing):
            _take(path, os.path.relpath(path, root), rules, listing)
    elif os.path.lexists(given):
        listing.inputs.append(Input(given, os.path.basename(given)))  # noqa: PTH119 - its text as it was given
    elif re.search(r"[*?\[]", given):
        parts = Path(given).parts
        first = next(index for index, part in enumerate(parts) if re.search(r"[*?\[]", part))
        root = str(Path(*parts[:first])) if first else "."
        for path in _matching(root, parts[first:], rules, listing):
            _take(path, os.path.relpath(path, root), rules, listing)
    else:
        try:
            path = str(named(given))
        except ImageError as problem:
            raise NothingMatched(str(problem)) from problem
        listing.inputs.append(Input(path, os.path.basename(path)))  # noqa: PTH119


def _far(url: str, rules: Rules, listing: Listing) -> None:
    """What a URL stands for; links there are as the store has them."""
    if re.search(r"[*?\[]", url):
        top = places.spelt(re.split(r"[*?\[]", url)[0].rpartition("/")[0])
        found, deep = places.matching(url), True
    elif places.is_folder(url):
        top = places.spelt(url)
        found, deep = [*places.walked(url, deep=rules.recursive)], rules.recursive
    else:
        listing.inputs.append(Input(url, url.rstrip("/").rpartition("/")[2]))
        return
    for path in found:
        relative = path[len(top) :].strip("/")
        folders = relative.split("/")[:-1]
        if (deep or not folders) and not any(
            _fits(folder, "/".join(folders[: depth + 1]), rules.exclude) for depth, folder in enumerate(folders)
        ):
            _take(path, relative, rules, listing)


def _listed(name: str, rules: Rules, named: Find, listing: Listing) -> None:
    """Everything that a text file names, one a line or with null bytes between; places are below what all share."""
    try:
        text = Path(name).read_bytes()
    except OSError as problem:
        raise StylerError(f"Cannot read the list {quote_name(name)}: {problem.strerror}; check the name.") from problem
    lines = text.split(b"\0") if b"\0" in text else [line.rstrip(b"\r") for line in text.split(b"\n")]
    whole = Listing(problems=listing.problems)
    for line in map(os.fsdecode, lines):
        if line.strip() and not line.startswith("#"):
            try:
                _spread(line, rules, named, whole)
            except NothingMatched:  # it fails by itself when it is read, with its own sentence
                whole.inputs.append(Input(line, os.path.basename(line)))  # noqa: PTH119
    listing.links += whole.links
    listing.inputs += [found for found in whole.inputs if places.is_url(found.path)]
    near = [found for found in whole.inputs if not places.is_url(found.path)]
    paths = [os.path.abspath(found.path) for found in near]  # noqa: PTH100
    top = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120
    for found, path in zip(near, paths, strict=True):
        listing.inputs.append(Input(found.path, os.path.relpath(path, top).replace(os.sep, "/")))


def _take(path: str, relative: str, rules: Rules, listing: Listing) -> None:
    relative = relative.replace(os.sep, "/")
    name = relative.rpartition("/")[2]
    wanted = _fits(name, relative, rules.include) if rules.include else _is_picture(name)
    if wanted and not _fits(name, relative, rules.exclude):
        listing.inputs.append(Input(path, relative))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURES  # noqa: PTH122


def _fits(name: str, relative: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch.fnmatchcase(text.lower(), pattern.lower().rstrip("/"))
        for pattern in patterns
        for text in (name, relative)
    )


def _walk(root: str, rules: Rules, listing: Listing) -> Iterator[str]:
    """Every file of a folder, and with `recursive` of those in it."""
    waiting, seen = [root], {os.path.realpath(root)}
    while waiting:
        for entry in _entries(waiting.pop(), rules, listing):
            if not entry.is_dir():
                yield entry.path
            elif rules.recursive and not _fits(entry.name, _place(entry.path, root), rules.exclude):
                real = os.path.realpath(entry.path) if rules.follow else entry.path
                if real not in seen:
                    seen.add(real)
                    waiting.append(entry.path)


def _place(path: str, root: str) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _matching(folder: str, parts: tuple[str, ...], rules: Rules, listing: Listing) -> Iterator[str]:
    """The files below a folder that a pattern fits, part by part; `**` is any number of folders."""
    first, rest = parts[0], parts[1:]
    if first == "**" and rest:
        yield from _matching(folder, rest, rules, listing)
    for entry in _entries(folder, rules, listing):
        is_folder = entry.is_dir()
        if first == "**" and is_folder and not _is_loop(entry.path, rules):
            yield from _matching(entry.path, parts, rules, listing)
        elif not fnmatch.fnmatchcase(entry.name, first):
            continue
        elif is_folder and rest:
            yield from _matching(entry.path, rest, rules, listing)
        elif is_folder and rules.recursive:
            yield from _walk(entry.path, rules, listing)
        elif not is_folder and not rest:
            yield entry.path


def _is_loop(path: str, rules: Rules) -> bool:
    """Whether a folder that is reached by a link holds the way to it."""
    real = os.path.realpath(path)
    return rules.follow and os.path.islink(path) and os.path.realpath(os.path.dirname(path)).startswith(real)  # noqa: PTH114, PTH120


def _entries(folder: str, rules: Rules, listing: Listing) -> Iterator["os.DirEntry[str]"]:
    """What a folder holds, without hidden things, links that are not followed, and the folder of the results."""
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError as problem:
        listing.problems.append(
            f"Cannot list the folder {quote_name(folder)}: {problem.strerror}; change its permissions or leave it out."
        )
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and not rules.follow:
            listing.links += 1
        elif not (rules.without and entry.is_dir() and os.path.realpath(entry.path) == rules.without):
            yield entry
