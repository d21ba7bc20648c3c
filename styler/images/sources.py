"""Where bytes come from: paths, streams and bytes themselves, read without ever hanging, up to a limit.

Does not know what the bytes mean, except that the first of them must look like a picture before the rest is read.
"""

import errno
import os
import stat
from typing import BinaryIO, TypeAlias, cast

from styler.images.kinds import Refusal, kind_of

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

HEAD = 4096  # bytes: enough to tell every kind, and most things that are no picture
CHUNK = 1 << 20  # bytes: a stream is taken in pieces, since read(limit) would reserve the whole limit at once

_IRREGULAR = (
    (stat.S_ISDIR, "it is a folder; name a picture inside it"),
    (stat.S_ISFIFO, "it is a pipe, not a file; save the picture to a file first"),
    (stat.S_ISSOCK, "it is a socket, not a file; save the picture to a file first"),
    (stat.S_ISCHR, "it is a device, not a file; save the picture to a file first"),
    (stat.S_ISBLK, "it is a device, not a file; save the picture to a file first"),
)


def quoted(name: str | os.PathLike[str]) -> str:
    r"""Give `name` in quotes, safe to show: control characters, line breaks and undecodable bytes become `\x…`."""
    return "'" + "".join(c if c.isprintable() else _escaped(c) for c in os.fspath(name)) + "'"


def _escaped(character: str) -> str:
    # Bytes of a name that are not UTF-8 reach Python as lone surrogates U+DC80 to U+DCFF, which no terminal can print.
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


def shown(source: Source, name: str | None) -> str:
    """Say how to call `source` in a sentence: by `name`, else by its path, else by its stream's name."""
    if name is None and isinstance(source, str | os.PathLike):
        name = os.fspath(source)
    if name is None and isinstance(stream_name := getattr(source, "name", None), str):
        name = stream_name
    return "the picture" if name is None else quoted(name)


def fetch(source: Source, max_bytes: int) -> bytes:
    """Return all bytes of `source`.

    Raises:
        Refusal: it is missing, forbidden, no regular file, empty, over `max_bytes`, or begins like no known picture.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        kind_of(bytes(source[:HEAD]))
        _check_size(len(source), max_bytes)
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _fetch_file(os.fspath(source), max_bytes)
    return _drain(source, max_bytes)


def _fetch_file(path: str, max_bytes: int) -> bytes:
    try:
        # Asked before opening, for opening a device can act on it; and again after, for the name may change hands.
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 - Path would lose a trailing slash, and its meaning
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(path, flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            _check_regular(status.st_mode)
            _check_size(status.st_size, max_bytes)
            return _drain(stream, max_bytes)
    except (OSError, ValueError) as problem:
        raise Refusal(_why(problem, path)) from problem


def _check_regular(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    raise Refusal(next((why for test, why in _IRREGULAR if test(mode)), "it is no regular file; choose one"))


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise Refusal(f"it holds more than the limit of {max_bytes:,} bytes; use a smaller file")


def _why(problem: OSError | ValueError, path: str) -> str:
    """Say in words why the system would not open `path`."""
    if isinstance(problem, FileNotFoundError) and os.path.islink(path):  # noqa: PTH114 - as above
        return f"it is a link to {quoted(os.readlink(path))}, which does not exist; mend the link"  # noqa: PTH115
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return "there is no such file; check the name and the folder"
    if isinstance(problem, PermissionError):
        return "you have no permission to read it; change its permissions or use a copy"
    if isinstance(problem, OSError) and problem.errno == errno.ENAMETOOLONG:
        return "the name is too long to be a file's; check the name"
    if isinstance(problem, OSError):
        return f"the system says “{problem.strerror or problem}”; use a copy elsewhere"
    return "no file can have this name; check the name"  # ValueError: a null byte in it


def _drain(stream: BinaryIO, max_bytes: int) -> bytes:
    """Read `stream` to its end, but refuse as soon as the beginning is no picture's or the limit is passed."""
    data = bytearray()
    known = False
    while piece := stream.read(CHUNK if known else HEAD):
        if isinstance(cast("object", piece), str):
            raise Refusal("it was opened as text; open it in binary mode")
        data += piece
        _check_size(len(data), max_bytes)
        if not known and len(data) >= HEAD:
            kind_of(bytes(data[:HEAD]))
            known = True
    kind_of(bytes(data[:HEAD]))
    return bytes(data)
