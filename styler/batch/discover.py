"""Find the inputs of a batch: files, folders, patterns and lists, at paths of this machine or at URLs.

URLs such as `file://` and `s3://` are opened by fsspec, which names the package that a store needs (s3fs, gcsfs) if it
is missing. Does not know what is in a file.
"""

import fnmatch
import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styler import config, library
from styler.errors import ImageError, NothingMatched, StylerError, UsageError, quote_name
from styler.images import PICTURE_SUFFIXES

MANIFEST_FOLDER, MANIFEST_FILE = ".styler", "manifest.jsonl"
"""Where the manifest of a batch is in its output folder."""
CONTACT_SHEET = "contact-sheet.jpg"
"""File in the output folder that shows all pictures, and is none of them."""
STDIN_LIST = "-"
"""Name of the list on standard input."""
MEMORY_SCHEME = "memory://"
"""Scheme of files that no other process can see."""
MAX_URL_BYTES = 2_000_000_000
"""Largest size of a picture at a URL."""
MAX_NAME_BYTES = 255
"""Longest name that file systems accept."""
WILDCARD = re.compile(r"[*?\[]")
SYSTEM_NAMES = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@transcode", "#recycle", "#snapshot", "~snapshot"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "lost+found"),
        *("__macosx", "network trash folder", "temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    }
)
"""Names, in lower case, that systems and network drives give to trash, snapshots and thumbnails."""
SYSTEM_PATTERN = re.compile(r".+\.(lrdata|lrlibrary)", re.IGNORECASE)
"""Catalogs of programs that contain previews of pictures (Lightroom)."""

FindBundled = Callable[[str], Path]
"""Returns the path of a bundled picture by its name.

Raises:
    ImageError: there is no such picture.
"""


def is_url(path: str) -> bool:
    """Return whether a string is a URL and not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def is_ignored(name: str) -> bool:
    """Return whether files and folders of this name are left out wherever a folder is searched."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES or SYSTEM_PATTERN.fullmatch(name) is not None


def make_absolute(path: str) -> str:
    """Return the path as stored in the manifest, which does not depend on the working folder."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - called for every pair


def stat_file(path: str) -> dict[str, Any]:
    """Return `size` and `mtime` of a file without opening it; empty if it cannot be accessed."""
    try:
        if is_url(path):
            info = _open_filesystem(path)[0].info(path)
            mtime = next((info[name] for name in ("mtime", "LastModified", "updated", "created") if name in info), "")
            return {"size": info["size"], "mtime": mtime if isinstance(mtime, int | float) else str(mtime)}
        status = os.stat(path)  # noqa: PTH116 - called for every input
    except (OSError, StylerError, ValueError, KeyError):  # reported when the file is read
        return {}
    return {"size": status.st_size, "mtime": status.st_mtime_ns}


def hash_file(path: str) -> str:
    """Return the SHA-256 of a file; empty if it cannot be read."""
    try:
        with _open_filesystem(path)[0].open(path) if is_url(path) else Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, StylerError):  # reported when the file is decoded
        return ""


def load_url(url: str) -> bytes:
    """Return all bytes of a file.

    Raises:
        ImageError: it cannot be read, or is too large.
    """
    system, _ = _open_filesystem(url)
    try:
        if (system.size(url) or 0) > MAX_URL_BYTES:
            raise ImageError(
                f"Cannot read {quote_name(url)}: it is larger than the limit of {MAX_URL_BYTES:,} bytes; use a smaller "
                "file."
            )
        return bytes(system.cat_file(url))
    except FileNotFoundError as problem:
        raise ImageError(f"Cannot read {quote_name(url)}: there is no such file; check the URL.") from problem
    except OSError as problem:
        raise ImageError(f"Cannot read {quote_name(url)}: {problem}; check the URL and your permissions.") from problem


def _open_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path of the URL in it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as problem:
        raise StylerError(
            f"Cannot open {quote_name(url)} ({problem}); install the package that fsspec needs for it, or use a path."
        ) from problem
    return system, str(path)


@dataclass(frozen=True, slots=True)
class BatchInput:
    """A content or a style."""

    path: str
    """Path or URL."""
    relative: str
    """Path relative to the folder or pattern that it was found by, with slashes; results mirror those of contents."""

    @property
    def name(self) -> str:
        """The file name."""
        return os.path.basename(self.path)  # noqa: PTH119 - called for every pair

    @property
    def stem(self) -> str:
        """The file name without its extension."""
        return os.path.splitext(self.name)[0]  # noqa: PTH122 - called for every pair

    @property
    def folder(self) -> str:
        """The folder of the relative path; empty at the top."""
        return self.relative.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRules:
    """Which files of folders and patterns are taken."""

    recursive: bool = False
    follow_symlinks: bool = False
    include: tuple[str, ...] = ()
    """Patterns of file names or relative paths, one of which has to match; empty for all pictures."""
    exclude: tuple[str, ...] = ()
    """Patterns of files, and of folders on the way, that are left out."""
    skip_folder: str = ""
    """Real path of a folder that is never listed: the output folder."""

    def select(self, relative: str) -> bool:
        """Return whether a file with this relative path is taken."""
        name = relative.rpartition("/")[2]
        if self.include:
            is_wanted = _matches(relative, self.include)
        else:
            is_wanted = os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 - called for every file
        return is_wanted and not _matches(relative, self.exclude)


def _matches(relative: str, patterns: tuple[str, ...]) -> bool:
    """Return whether any pattern matches a relative path or its last part, ignoring case."""
    texts = (relative.rpartition("/")[2].lower(), relative.lower())
    return any(fnmatch.fnmatchcase(text, pattern.lower().rstrip("/")) for pattern in patterns for text in texts)


@dataclass(slots=True)
class Listing:
    """The inputs that an argument stands for."""

    inputs: list[BatchInput] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Messages about folders that cannot be listed."""
    links: set[str] = field(default_factory=set)
    """Links that were not followed."""
    batches: set[str] = field(default_factory=set)
    """Folders that were left out because an earlier batch wrote them."""
    bundled: set[str] = field(default_factory=set)
    """Paths of the inputs that come with styler."""

    def add_file(self, path: str) -> None:
        """Add a file that was named explicitly; the rules do not apply to it."""
        self.inputs.append(BatchInput(path, os.path.basename(path)))  # noqa: PTH119 - keeps the text as given

    def add_selected(self, paths: Iterable[str], root: str, rules: SelectionRules) -> None:
        """Add those files below a folder that the rules select."""
        for path in paths:
            relative = path[len(root) :].strip("/") if is_url(root) else _make_relative(path, root)
            if rules.select(relative):
                self.inputs.append(BatchInput(path, relative))


def find_inputs(arguments: Sequence[str], rules: SelectionRules, find_bundled: FindBundled, label: str) -> Listing:
    """Return the pictures that arguments stand for, in natural order.

    Several arguments are treated like the entries of a list.

    Args:
        arguments: each a file, folder, pattern or URL, `@list.txt`, or the name of a bundled picture.
        rules: which files of folders and patterns are taken.
        find_bundled: finds a bundled picture by its name.
        label: `CONTENTS` or `STYLES`, for the error message.

    Raises:
        NothingMatched: there is no such picture.
        UsageError: it is the output folder.
    """
    listing = Listing()
    if len(arguments) == 1 and not _is_list(arguments[0]):
        _expand(arguments[0], rules, find_bundled, listing)
    else:
        entries = Listing(problems=listing.problems)
        for argument in arguments:
            if _is_list(argument):
                _expand_list(argument[1:], rules, find_bundled, entries)
                continue
            before = len(entries.inputs)
            _expand(argument, rules, find_bundled, entries)
            if len(entries.inputs) == before:
                entries.problems.append(
                    f"{quote_name(argument)} contains no picture to paint: {_suggest(argument, rules)}"
                )
        listing.links, listing.batches = entries.links, entries.batches
        listing.inputs = _mirror_common_folder(entries)
    unique = {make_absolute(item.path): item for item in reversed(listing.inputs)}
    listing.inputs = sorted(unique.values(), key=lambda item: make_natural_key(item.relative))
    if not listing.inputs:
        named = " ".join(map(quote_name, arguments))
        reason = " ".join(listing.problems) or _suggest(arguments[0], rules)
        raise NothingMatched(f"{label} {named} contains no picture to paint: {reason}")
    return listing


def _is_list(argument: str) -> bool:
    return argument.startswith("@") and not os.path.lexists(argument)


def make_natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sort key that puts `img2` before `img10`."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)), text


def fold_name(name: str) -> str:
    """Return a key that is equal for names that some file systems do not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def fit_name(stem: str, end: str = "") -> str:
    """Return a file name, with the end of its stem replaced by a hash of it if the name is too long."""
    room = MAX_NAME_BYTES - len(os.fsencode(end))
    data = os.fsencode(stem)
    if len(data) <= room:
        return stem + end
    cut = data[: room - 9]
    while cut and data[len(cut)] & 0xC0 == 0x80:  # in the middle of a character
        cut = cut[:-1]
    return f"{os.fsdecode(cut)}-{hashlib.sha256(data).hexdigest()[:8]}{end}"


def _suggest(argument: str, rules: SelectionRules) -> str:
    if rules.include or rules.exclude:
        return "--include and --exclude leave no picture; change them."
    if Path(argument).is_dir() and not rules.recursive:
        return "there is none in the folder itself; add -r to search its subfolders, or name another folder."
    return "no file matches this name or pattern; check it."


def _expand(argument: str, rules: SelectionRules, find_bundled: FindBundled, listing: Listing) -> None:
    """Add the files that an argument stands for; a file of that name precedes a pattern and a bundled picture."""
    if is_url(argument):
        _expand_url(argument, rules, listing)
    elif Path(argument).is_dir():
        if rules.skip_folder and _is_same_folder(argument, rules.skip_folder):
            raise UsageError(
                f"The pictures in {quote_name(argument)} would be painted into the same folder; use another with -o."
            )
        root = argument.rstrip("/" + os.sep) or argument
        listing.add_selected(_walk_folder(root, rules, listing), root, rules)
    elif os.path.lexists(argument):
        listing.add_file(argument)
    elif WILDCARD.search(argument):
        parts = Path(argument).parts
        first = next(index for index, part in enumerate(parts) if WILDCARD.search(part))
        root = str(Path(*parts[:first])) if first else "."
        listing.add_selected(_glob_folder(root, parts[first:], rules, listing), root, rules)
    else:
        try:
            path = str(find_bundled(argument))
        except ImageError as problem:
            raise NothingMatched(str(problem)) from problem
        listing.add_file(path)
        listing.bundled.add(path)


def _expand_url(url: str, rules: SelectionRules, listing: Listing) -> None:
    """Add the files that a URL stands for.

    Raises:
        StylerError: its scheme is unknown, or the folder cannot be listed.
    """
    system, path = _open_filesystem(url)
    try:
        if wildcard := WILDCARD.search(url):
            top = _open_filesystem(url[: wildcard.start()].rpartition("/")[0])[1]
            paths = [match for match in system.glob(path) if not system.isdir(match)]
        elif system.isdir(path):
            top = path
            paths = system.find(path, maxdepth=None if rules.recursive else 1)
        else:
            listing.inputs.append(BatchInput(url, url.rstrip("/").rpartition("/")[2]))
            return
    except OSError as problem:
        raise StylerError(f"Cannot list {quote_name(url)}: {problem}; check the URL and your permissions.") from problem
    root = str(system.unstrip_protocol(top)).rstrip("/")
    urls = (str(system.unstrip_protocol(path)) for path in paths)
    is_deep = rules.recursive or wildcard is not None  # some stores ignore `maxdepth`
    listing.add_selected((url for url in urls if _is_allowed_below(url[len(root) :], rules, is_deep)), root, rules)


def _is_allowed_below(relative: str, rules: SelectionRules, is_deep: bool) -> bool:
    """Return whether neither a file nor a folder on the way to it is ignored or excluded."""
    *folders, name = relative.strip("/").split("/")
    return (is_deep or not folders) and not any(
        is_ignored(part) or _matches("/".join(folders[: depth + 1]), rules.exclude)
        for depth, part in enumerate((*folders, name))
    )


def _expand_list(name: str, rules: SelectionRules, find_bundled: FindBundled, entries: Listing) -> None:
    """Add what the lines of a text file stand for; its entries are separated by null bytes if it has any.

    Args:
        name: the file; `-` for standard input.
        rules: which files of folders and patterns are taken.
        find_bundled: finds a bundled picture by its name.
        entries: receives the pictures.

    Raises:
        StylerError: the list cannot be read.
    """
    for line in _read_list(name):
        path = _find_entry(line, os.path.dirname(name))  # noqa: PTH120 - a str
        before = len(entries.inputs)
        try:
            _expand(path, rules, find_bundled, entries)
        except NothingMatched:  # this picture fails with its own message when it is read
            entries.add_file(path)
        if len(entries.inputs) == before:
            entries.problems.append(
                f"The entry {quote_name(line)} of the list {quote_name(name)} contains no picture to paint: "
                f"{_suggest(path, rules)}"
            )


def _read_list(name: str) -> list[str]:
    """Return the entries of a list, without empty lines and comments."""
    try:
        data = sys.stdin.buffer.read() if name == STDIN_LIST and sys.stdin else Path(name).read_bytes()
        text = config.decode_text(data, os.fsdecode)
    except OSError as problem:
        raise StylerError(f"Cannot read the list {quote_name(name)}: {problem.strerror}; check the name.") from problem
    except UnicodeError as problem:
        raise StylerError(f"Cannot read the list {quote_name(name)}: it is not UTF-8; save it as UTF-8.") from problem
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip() and not (line.startswith("#") and not os.path.lexists(line))]


def _find_entry(line: str, folder: str) -> str:
    """Return the path that a line of a list stands for.

    A relative path starts at the working folder, or at the folder of the list if the file is there.
    """
    spellings = library.list_spellings(line)
    paths = [path for name in spellings for path in (name, os.path.join(folder, name))]  # noqa: PTH118 - keeps the text
    fixed = {path: WILDCARD.split(path)[0].rpartition("/")[0] or "." for path in paths if WILDCARD.search(path)}
    exists = (path for path in paths if os.path.lexists(path) or os.path.isdir(fixed.get(path, "")))  # noqa: PTH112
    return next(exists, line if is_url(line) else spellings[:2][-1])


def _mirror_common_folder(entries: Listing) -> list[BatchInput]:
    """Return the inputs with relative paths that start at the deepest folder that contains all of their files."""
    local = [item.path for item in entries.inputs if not is_url(item.path) and item.path not in entries.bundled]
    folders = {os.path.dirname(os.path.abspath(path)) for path in local}  # noqa: PTH100, PTH120 - for every file
    try:
        top = os.path.commonpath(folders) if folders else ""
    except ValueError:  # several drives
        top = ""
    others = [item for item in entries.inputs if is_url(item.path) or item.path in entries.bundled]
    return [*others, *(BatchInput(path, _make_relative(path, top)) for path in local)]


def _make_relative(path: str, root: str) -> str:
    """Return a path relative to a folder, with slashes; without its drive if the folder is empty."""
    if not root:
        return os.path.splitdrive(os.path.abspath(path))[1].replace(os.sep, "/").strip("/")  # noqa: PTH100
    return os.path.relpath(path, root).replace(os.sep, "/")


def _walk_folder(root: str, rules: SelectionRules, listing: Listing) -> Iterator[str]:
    """Yield the files of a folder, and with `recursive` those of its subfolders."""
    waiting, seen = [root], {os.path.realpath(root)}
    while waiting:
        for entry in _list_entries(waiting.pop(), rules, listing):
            if not entry.is_dir():
                yield entry.path
            elif rules.recursive and not _matches(_make_relative(entry.path, root), rules.exclude):
                real = os.path.realpath(entry.path) if rules.follow_symlinks else entry.path
                if real not in seen:
                    seen.add(real)
                    waiting.append(entry.path)


def _glob_folder(folder: str, parts: tuple[str, ...], rules: SelectionRules, listing: Listing) -> Iterator[str]:
    """Yield the files below a folder that match a pattern, part by part; `**` matches any number of folders."""
    first, rest = parts[0], parts[1:]
    if first == "**" and rest:
        yield from _glob_folder(folder, rest, rules, listing)
    for entry in _list_entries(folder, rules, listing):
        is_folder = entry.is_dir()
        if first == "**" and is_folder:
            if not _is_loop(entry.path, rules):
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
    """Return whether a folder is one of the folders that lead to it, through a link that is followed."""
    if not rules.follow_symlinks:
        return False
    parent = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120 - called for every folder
    above = {
        place: None for start in (parent, os.path.realpath(parent)) for place in (Path(start), *Path(start).parents)
    }
    return any(_is_same_folder(path, str(place)) for place in above)


def _is_same_folder(one: str, other: str) -> bool:
    """Return whether two paths are one folder, whatever their links and, where the system ignores it, their case."""
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - called for every folder
    except (OSError, ValueError):  # one of them does not exist
        return False


def _is_batch_folder(path: str) -> bool:
    return os.path.lexists(os.path.join(path, MANIFEST_FOLDER, MANIFEST_FILE))  # noqa: PTH118 - called for every folder


def _is_link(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a symbolic link or, on Windows, a junction."""
    return entry.is_symlink() or bool(getattr(entry, "is_junction", bool)())  # since Python 3.12


def _list_entries(folder: str, rules: SelectionRules, listing: Listing) -> Iterator["os.DirEntry[str]"]:
    """Yield what a folder contains, except what is ignored, links that are not followed, and what batches wrote."""
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError as problem:
        listing.problems.append(
            f"Cannot list the folder {quote_name(folder)}: {problem.strerror}; change its permissions or exclude it."
        )
        return
    is_output = _is_batch_folder(folder)
    for entry in entries:
        if is_ignored(entry.name) or (is_output and entry.name == CONTACT_SHEET):
            continue
        if _is_link(entry) and not rules.follow_symlinks:
            listing.links.add(entry.path)
        elif not entry.is_dir():
            yield entry
        elif not (rules.skip_folder and _is_same_folder(entry.path, rules.skip_folder)):
            if _is_batch_folder(entry.path):
                listing.batches.add(entry.path)
            else:
                yield entry
