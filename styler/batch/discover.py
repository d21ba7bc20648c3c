"""Where inputs are: paths of this machine, and URLs that fsspec opens, such as `file://` and `s3://`.

S3, Google's and other stores need their own packages (s3fs, gcsfs), which fsspec names when one is missing. Does not
know what is in the bytes.
"""

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styler.errors import ImageError, NothingMatched, StylerError, UsageError, quote_name

MEMORY_SCHEME = "memory://"
"""Files that no other process sees."""
MAX_URL_BYTES = 2_000_000_000
"""Bytes of a picture at most."""


def is_url(path: str) -> bool:
    """Whether it is a URL and not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def absolute_path(path: str) -> str:
    """What the manifest calls it, wherever the next run is started."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - very many


def stat_file(path: str) -> dict[str, Any]:
    """Size and time of a file, without opening it; nothing if they cannot be had, which who reads it says."""
    try:
        if is_url(path):
            found = _open_filesystem(path)[0].info(path)
            when = next((found[name] for name in ("mtime", "LastModified", "updated", "created") if name in found), "")
            return {"size": found["size"], "mtime": when if isinstance(when, int | float) else str(when)}
        status = os.stat(path)  # noqa: PTH116 - very many
    except (OSError, StylerError, ValueError, KeyError):
        return {}
    return {"size": status.st_size, "mtime": status.st_mtime_ns}


def hash_file(path: str) -> str:
    """SHA-256 of a file; empty if it cannot be read, which who reads it says."""
    try:
        with _open_filesystem(path)[0].open(path) if is_url(path) else Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, StylerError):
        return ""


def load_url(path: str) -> bytes:
    """All bytes of a URL.

    Raises:
        ImageError: it cannot be read, or is too large.
    """
    system, _ = _open_filesystem(path)
    try:
        if (system.size(path) or 0) > MAX_URL_BYTES:
            raise ImageError(
                f"Cannot read {quote_name(path)}: it holds more than the limit of {MAX_URL_BYTES:,} bytes; use a smaller file."
            )
        return bytes(system.cat_file(path))
    except FileNotFoundError as problem:
        raise ImageError(f"Cannot read {quote_name(path)}: there is no such file; check the URL.") from problem
    except OSError as problem:
        raise ImageError(f"Cannot read {quote_name(path)}: {problem}; check the URL and your rights.") from problem


def normalize_url(url: str) -> str:
    """A URL as those of the files below it begin, without a slash at its end.

    Raises:
        StylerError: nothing here opens such URLs.
    """
    system, path = _open_filesystem(url)
    return str(system.unstrip_protocol(path)).rstrip("/")


def is_url_folder(url: str) -> bool:
    """Whether there is a folder of that URL.

    Raises:
        StylerError: nothing here opens such URLs.
    """
    system, path = _open_filesystem(url)
    return bool(system.isdir(path))


def walk_url(url: str, *, deep: bool) -> Iterator[str]:
    """The URLs of the files in a folder, and with `deep` of those in its folders, without hidden ones.

    Raises:
        StylerError: it cannot be listed.
    """
    system, top = _open_filesystem(url)
    try:
        found = system.find(top, maxdepth=None if deep else 1)
    except OSError as problem:
        raise StylerError(
            f"Cannot list the folder {quote_name(url)}: {problem}; check the URL and your rights."
        ) from problem
    for path in found:
        below = path[len(top) :].strip("/")
        if not any(part.startswith(".") for part in below.split("/")):
            yield str(system.unstrip_protocol(path))


def glob_url(pattern: str) -> list[str]:
    """The URLs of the files that a pattern fits.

    Raises:
        StylerError: they cannot be listed.
    """
    system, path = _open_filesystem(pattern)
    try:
        return [str(system.unstrip_protocol(found)) for found in system.glob(path) if not system.isdir(found)]
    except OSError as problem:
        raise StylerError(f"Cannot list {quote_name(pattern)}: {problem}; check the URL and your rights.") from problem


def _open_filesystem(url: str) -> tuple[Any, str]:
    """What opens a URL, and the path it has there."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as problem:
        raise StylerError(
            f"Cannot open {quote_name(url)} ({problem}); install what fsspec needs for it, or give a path."
        ) from problem
    return system, str(path)


PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
    *(".heic", ".heif", ".hif", ".jxl"),
)
"""Ends of the names that are taken from folders and by patterns, where `include` does not say otherwise."""

FindBundled = Callable[[str], Path]
"""From a name that is no file to a picture that comes with styler.

Raises:
    ImageError: there is none.
"""


@dataclass(frozen=True, slots=True)
class BatchInput:
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
class SelectionRules:
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

    inputs: list[BatchInput] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Sentences on folders that could not be listed."""
    links: int = 0
    """Links that were not followed."""


def find_inputs(given: str, rules: SelectionRules, named: FindBundled, what: str) -> Listing:
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
        _expand_list(given[1:], rules, named, listing)
    else:
        _expand(given, rules, named, listing)
    unique = {absolute_path(found.path): found for found in reversed(listing.inputs)}
    listing.inputs = sorted(unique.values(), key=lambda found: natural_key(found.relative))
    if not listing.inputs:
        why = " ".join(listing.problems) or _suggest(given, rules)
        raise NothingMatched(f"{what} {quote_name(given)} has no picture to paint: {why}")
    return listing


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A key to sort by, under which `img2` comes before `img10`."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)), text


def _suggest(given: str, rules: SelectionRules) -> str:
    if rules.include or rules.exclude:
        return "--include and --exclude leave nothing of it; change them."
    if Path(given).is_dir() and not rules.recursive:
        return "the folder itself holds none; walk its folders too with -r, or name another."
    return "nothing of that name or pattern is there; check it."


def _expand(given: str, rules: SelectionRules, named: FindBundled, listing: Listing) -> None:
    """A file, a folder, a pattern, a URL of these, or a name."""
    if is_url(given):
        _expand_url(given, rules, listing)
    elif Path(given).is_dir():
        if rules.without and os.path.realpath(given) == rules.without:
            raise UsageError(
                f"The pictures in {quote_name(given)} would be painted into that very folder; give another one with -o."
            )
        root = given.rstrip("/" + os.sep) or given
        for path in _walk_folder(root, rules, listing):
            _add_if_selected(path, os.path.relpath(path, root), rules, listing)
    elif os.path.lexists(given):
        listing.inputs.append(BatchInput(given, os.path.basename(given)))  # noqa: PTH119 - its text as it was given
    elif re.search(r"[*?\[]", given):
        parts = Path(given).parts
        first = next(index for index, part in enumerate(parts) if re.search(r"[*?\[]", part))
        root = str(Path(*parts[:first])) if first else "."
        for path in _glob_folder(root, parts[first:], rules, listing):
            _add_if_selected(path, os.path.relpath(path, root), rules, listing)
    else:
        try:
            path = str(named(given))
        except ImageError as problem:
            raise NothingMatched(str(problem)) from problem
        listing.inputs.append(BatchInput(path, os.path.basename(path)))  # noqa: PTH119


def _expand_url(url: str, rules: SelectionRules, listing: Listing) -> None:
    """What a URL stands for; links there are as the store has them."""
    if re.search(r"[*?\[]", url):
        top = normalize_url(re.split(r"[*?\[]", url)[0].rpartition("/")[0])
        found, deep = glob_url(url), True
    elif is_url_folder(url):
        top = normalize_url(url)
        found, deep = [*walk_url(url, deep=rules.recursive)], rules.recursive
    else:
        listing.inputs.append(BatchInput(url, url.rstrip("/").rpartition("/")[2]))
        return
    for path in found:
        relative = path[len(top) :].strip("/")
        folders = relative.split("/")[:-1]
        if (deep or not folders) and not any(
            _matches(folder, "/".join(folders[: depth + 1]), rules.exclude) for depth, folder in enumerate(folders)
        ):
            _add_if_selected(path, relative, rules, listing)


def _expand_list(name: str, rules: SelectionRules, named: FindBundled, listing: Listing) -> None:
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
                _expand(line, rules, named, whole)
            except NothingMatched:  # it fails by itself when it is read, with its own sentence
                whole.inputs.append(BatchInput(line, os.path.basename(line)))  # noqa: PTH119
    listing.links += whole.links
    listing.inputs += [found for found in whole.inputs if is_url(found.path)]
    near = [found for found in whole.inputs if not is_url(found.path)]
    paths = [os.path.abspath(found.path) for found in near]  # noqa: PTH100
    top = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120
    for found, path in zip(near, paths, strict=True):
        listing.inputs.append(BatchInput(found.path, os.path.relpath(path, top).replace(os.sep, "/")))


def _add_if_selected(path: str, relative: str, rules: SelectionRules, listing: Listing) -> None:
    relative = relative.replace(os.sep, "/")
    name = relative.rpartition("/")[2]
    wanted = _matches(name, relative, rules.include) if rules.include else _is_picture(name)
    if wanted and not _matches(name, relative, rules.exclude):
        listing.inputs.append(BatchInput(path, relative))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122


def _matches(name: str, relative: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch.fnmatchcase(text.lower(), pattern.lower().rstrip("/"))
        for pattern in patterns
        for text in (name, relative)
    )


def _walk_folder(root: str, rules: SelectionRules, listing: Listing) -> Iterator[str]:
    """Every file of a folder, and with `recursive` of those in it."""
    waiting, seen = [root], {os.path.realpath(root)}
    while waiting:
        for entry in _list_entries(waiting.pop(), rules, listing):
            if not entry.is_dir():
                yield entry.path
            elif rules.recursive and not _matches(entry.name, _relative_place(entry.path, root), rules.exclude):
                real = os.path.realpath(entry.path) if rules.follow else entry.path
                if real not in seen:
                    seen.add(real)
                    waiting.append(entry.path)


def _relative_place(path: str, root: str) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _glob_folder(folder: str, parts: tuple[str, ...], rules: SelectionRules, listing: Listing) -> Iterator[str]:
    """The files below a folder that a pattern fits, part by part; `**` is any number of folders."""
    first, rest = parts[0], parts[1:]
    if first == "**" and rest:
        yield from _glob_folder(folder, rest, rules, listing)
    for entry in _list_entries(folder, rules, listing):
        is_folder = entry.is_dir()
        if first == "**" and is_folder and not _is_loop(entry.path, rules):
            yield from _glob_folder(entry.path, parts, rules, listing)
        elif not fnmatch.fnmatchcase(entry.name, first):
            continue
        elif is_folder and rest:
            yield from _glob_folder(entry.path, rest, rules, listing)
        elif is_folder and rules.recursive:
            yield from _walk_folder(entry.path, rules, listing)
        elif not is_folder and not rest:
            yield entry.path


def _is_loop(path: str, rules: SelectionRules) -> bool:
    """Whether a folder that is reached by a link holds the way to it."""
    real = os.path.realpath(path)
    return rules.follow and os.path.islink(path) and os.path.realpath(os.path.dirname(path)).startswith(real)  # noqa: PTH114, PTH120


def _list_entries(folder: str, rules: SelectionRules, listing: Listing) -> Iterator["os.DirEntry[str]"]:
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
