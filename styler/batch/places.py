"""Where inputs are: paths of this machine, and URLs that fsspec opens, such as `file://` and `s3://`.

S3, Google's and other stores need their own packages (s3fs, gcsfs), which fsspec names when one is missing. Does not
know what is in the bytes.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from styler.errors import ImageError, StylerError, quote_name

IN_PROCESS = "memory://"
"""Files that no other process sees."""
LARGEST = 2_000_000_000
"""Bytes of a picture at most."""


def is_url(path: str) -> bool:
    """Whether it is a URL and not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def absolute(path: str) -> str:
    """What the manifest calls it, wherever the next run is started."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - very many


def state(path: str) -> dict[str, Any]:
    """Size and time of a file, without opening it; nothing if they cannot be had, which who reads it says."""
    try:
        if is_url(path):
            found = _system(path)[0].info(path)
            when = next((found[name] for name in ("mtime", "LastModified", "updated", "created") if name in found), "")
            return {"size": found["size"], "mtime": when if isinstance(when, int | float) else str(when)}
        status = os.stat(path)  # noqa: PTH116 - very many
    except (OSError, StylerError, ValueError, KeyError):
        return {}
    return {"size": status.st_size, "mtime": status.st_mtime_ns}


def digest(path: str) -> str:
    """SHA-256 of a file; empty if it cannot be read, which who reads it says."""
    try:
        with _system(path)[0].open(path) if is_url(path) else Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, StylerError):
        return ""


def load(path: str) -> bytes:
    """All bytes of a URL.

    Raises:
        ImageError: it cannot be read, or is too large.
    """
    system, _ = _system(path)
    try:
        if (system.size(path) or 0) > LARGEST:
            raise ImageError(
                f"Cannot read {quote_name(path)}: it holds more than the limit of {LARGEST:,} bytes; use a smaller file."
            )
        return bytes(system.cat_file(path))
    except FileNotFoundError as problem:
        raise ImageError(f"Cannot read {quote_name(path)}: there is no such file; check the URL.") from problem
    except OSError as problem:
        raise ImageError(f"Cannot read {quote_name(path)}: {problem}; check the URL and your rights.") from problem


def spelt(url: str) -> str:
    """A URL as those of the files below it begin, without a slash at its end.

    Raises:
        StylerError: nothing here opens such URLs.
    """
    system, path = _system(url)
    return str(system.unstrip_protocol(path)).rstrip("/")


def is_folder(url: str) -> bool:
    """Whether there is a folder of that URL.

    Raises:
        StylerError: nothing here opens such URLs.
    """
    system, path = _system(url)
    return bool(system.isdir(path))


def walked(url: str, *, deep: bool) -> Iterator[str]:
    """The URLs of the files in a folder, and with `deep` of those in its folders, without hidden ones.

    Raises:
        StylerError: it cannot be listed.
    """
    system, top = _system(url)
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


def matching(pattern: str) -> list[str]:
    """The URLs of the files that a pattern fits.

    Raises:
        StylerError: they cannot be listed.
    """
    system, path = _system(pattern)
    try:
        return [str(system.unstrip_protocol(found)) for found in system.glob(path) if not system.isdir(found)]
    except OSError as problem:
        raise StylerError(f"Cannot list {quote_name(pattern)}: {problem}; check the URL and your rights.") from problem


def _system(url: str) -> tuple[Any, str]:
    """What opens a URL, and the path it has there."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as problem:
        raise StylerError(
            f"Cannot open {quote_name(url)} ({problem}); install what fsspec needs for it, or give a path."
        ) from problem
    return system, str(path)
