"""Read an image from a path, a stream or bytes into a `Picture`, or explain in one sentence why not.

Files are read without ever hanging, up to a limit. This is the only place where what decoders raise becomes an
`ImageError`. Keeps no state, so it can run in any thread, or in a child process with limits of its own.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler.errors import ImageError, quote_name
from styler.images import color, exif
from styler.images.decode import Limits, Raw, decode, open_image, read_first_directory, silence_decoders
from styler.images.detect import Refusal, detect_kind

Readable: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

HEAD = 4096  # bytes: enough to tell every kind, and most things that are no picture
CHUNK = 1 << 20  # bytes: a stream is taken in pieces, since read(limit) would reserve the whole limit at once

_IRREGULAR = (
    (stat.S_ISDIR, "it is a folder; name a picture inside it"),
    (stat.S_ISFIFO, "it is a pipe, not a file; save the picture to a file first"),
    (stat.S_ISSOCK, "it is a socket, not a file; save the picture to a file first"),
    (stat.S_ISCHR, "it is a device, not a file; save the picture to a file first"),
    (stat.S_ISBLK, "it is a device, not a file; save the picture to a file first"),
)


def describe_source(source: Readable, name: str | None) -> str:
    """Say how to call `source` in a sentence: by `name`, else by its path, else by its stream's name."""
    if name is None and isinstance(source, str | os.PathLike):
        name = os.fspath(source)
    if name is None and isinstance(stream_name := getattr(source, "name", None), str):
        name = stream_name
    return "the picture" if name is None else quote_name(name)


def load_bytes(source: Readable, max_bytes: int) -> bytes:
    """Return all bytes of `source`.

    Raises:
        Refusal: it is missing, forbidden, no regular file, empty, over `max_bytes`, or begins like no known picture.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        detect_kind(bytes(source[:HEAD]))
        _check_size(len(source), max_bytes)
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _load_file(os.fspath(source), max_bytes)
    return _read_stream(source, max_bytes)


def _load_file(path: str, max_bytes: int) -> bytes:
    try:
        # Asked before opening, for opening a device can act on it; and again after, for the name may change hands.
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 - Path would lose a trailing slash, and its meaning
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(path, flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            _check_regular(status.st_mode)
            _check_size(status.st_size, max_bytes)
            return _read_stream(stream, max_bytes)
    except (OSError, ValueError) as problem:
        raise Refusal(_explain_os_error(problem, path)) from problem


def _check_regular(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    raise Refusal(next((why for test, why in _IRREGULAR if test(mode)), "it is no regular file; choose one"))


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise Refusal(f"it holds more than the limit of {max_bytes:,} bytes; use a smaller file")


def _explain_os_error(problem: OSError | ValueError, path: str) -> str:
    """Say in words why the system would not open `path`."""
    if isinstance(problem, FileNotFoundError) and os.path.islink(path):  # noqa: PTH114 - as above
        return f"it is a link to {quote_name(os.readlink(path))}, which does not exist; mend the link"  # noqa: PTH115
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return "there is no such file; check the name and the folder"
    if isinstance(problem, PermissionError):
        return "you have no permission to read it; change its permissions or use a copy"
    if isinstance(problem, OSError) and problem.errno == errno.ENAMETOOLONG:
        return "the name is too long to be a file's; check the name"
    if isinstance(problem, OSError):
        return f"the system says “{problem.strerror or problem}”; use a copy elsewhere"
    return "no file can have this name; check the name"  # ValueError: a null byte in it


def _read_stream(stream: BinaryIO, max_bytes: int) -> bytes:
    """Read `stream` to its end, but refuse as soon as the beginning is no picture's or the limit is passed."""
    data = bytearray()
    known = False
    while piece := stream.read(CHUNK if known else HEAD):
        if isinstance(cast("object", piece), str):
            raise Refusal("it was opened as text; open it in binary mode")
        data += piece
        _check_size(len(data), max_bytes)
        if not known and len(data) >= HEAD:
            detect_kind(bytes(data[:HEAD]))
            known = True
    detect_kind(bytes(data[:HEAD]))
    return bytes(data)


_KIND_NAMES = {"webp": "WebP", "jxl": "JPEG XL", "heif": "HEIC"}  # others are written in capitals


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture: upright, sRGB, ready to paint."""

    pixels: NDArray[np.float32]  # (H, W, 3) sRGB in [0, 1], composited over the background where there is alpha
    alpha: NDArray[np.float32] | None = None  # (H, W) in [0, 1], or None when opaque
    sha256: str = ""  # of the bytes as read
    warnings: tuple[str, ...] = ()  # sentences a front end may show
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what `exif.KEPT` lists, where the file has it

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])


def read_image(
    source: Readable,
    *,
    name: str | None = None,
    background: tuple[float, float, float] = (1, 1, 1),
    max_pixels: int = 250_000_000,
    max_bytes: int = 2_000_000_000,
    min_side: int = 16,
) -> Picture:
    """Decode the first picture of `source`, by its content and not by its name.

    Args:
        source: a path, the bytes themselves, or a binary stream, which is read to its end.
        name: what to call it in messages; a path or a stream names itself.
        background: sRGB in [0, 1], seen through transparent pixels.
        max_pixels: width × height at most, known from the header before anything is decoded.
        max_bytes: the size of the file at most.
        min_side: width and height at least, in pixels.

    Raises:
        ImageError: one sentence: which file, why, and what to do.
    """
    called = describe_source(source, name)
    data = b""
    try:
        data = load_bytes(source, max_bytes)
        raw = decode(data, detect_kind(data[:HEAD]), Limits(max_pixels, min_side))
        return _finish_picture(raw, background, called, hashlib.sha256(data).hexdigest())
    except Exception as problem:
        raise ImageError(f"Cannot read {called}: {_explain_failure(problem, data)}.") from problem


def read_text(source: Readable, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> dict[str, str]:
    """Return the texts that `encode` put into this picture (of a PNG, every text) without decoding its pixels.

    Raises:
        ImageError: as `read` does.
    """
    called = describe_source(source, name)
    data = b""
    try:
        data = load_bytes(source, max_bytes)
        return _extract_texts(data, detect_kind(data[:HEAD]))
    except Exception as problem:
        raise ImageError(f"Cannot read {called}: {_explain_failure(problem, data)}.") from problem


def fetch_image_bytes(source: Readable, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> bytes:
    """Return the bytes that `read` would decode, for who decodes them elsewhere.

    Raises:
        ImageError: as `read` does for what is no file, or begins like no picture.
    """
    try:
        return load_bytes(source, max_bytes)
    except Refusal as problem:
        raise ImageError(f"Cannot read {describe_source(source, name)}: {problem}.") from problem


def _finish_picture(raw: Raw, background: tuple[float, float, float], called: str, sha256: str) -> Picture:
    pixels = color.convert_to_srgb(raw)  # (H, W, 3)
    alpha = None if raw.alpha is None else color.normalize(color.rotate_upright(raw.alpha, raw.orientation))  # (H, W)
    if alpha is not None and (alpha == 1).all():
        alpha = None
    if alpha is not None:
        color.composite(pixels, alpha, background)
        if not alpha.any():
            raw.warnings.append("it is wholly transparent, so only the background is painted")
    warnings = tuple(f"About {called}: {found}." for found in raw.warnings)
    return Picture(pixels, alpha, sha256, warnings, raw.metadata)


def _extract_texts(data: bytes, kind: str) -> dict[str, str]:
    silence_decoders()
    if kind == "tiff":
        return exif.parse_text(read_first_directory(data).get(exif.IMAGE_DESCRIPTION, ""))
    if kind not in ("png", "jpeg", "webp", "avif"):
        return {}  # no format of ours
    image = open_image(data, kind, Limits(max_pixels=250_000_000, min_side=1))
    if kind == "png":
        return {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    return exif.read_exif_text(image)


def _explain_failure(problem: Exception, data: bytes) -> str:
    """Say why reading failed and what to do."""
    if isinstance(problem, Refusal):
        return str(problem)
    if isinstance(problem, MemoryError):
        return "decoding it takes more memory than there is; make it smaller"
    if isinstance(problem, Image.DecompressionBombError):
        return "one of its parts is larger than a whole picture may be; save it again or make it smaller"
    return _explain_damage(problem, data) if data else "its bytes stopped coming; try again"


def _explain_damage(problem: Exception, data: bytes) -> str:
    """Say what is wrong with `data`: decoders raise anything at all, so it is told from their words and the bytes."""
    if "MAX_TEXT" in str(problem) or "text chunks" in str(problem):
        return "it carries more text than a picture should; save it again without metadata"
    kind = detect_kind(data[:HEAD])
    named = f"its {_KIND_NAMES.get(kind, kind.upper())} data"
    if isinstance(problem, EOFError) or "truncated" in str(problem).lower() or not _has_end(data, kind):
        return f"{named} end too early; download or copy it again"
    return f"{named} are damaged; download or export it again"


def _has_end(data: bytes, kind: str) -> bool:
    """Tell whether the mark that ends a picture of this kind is there; True where there is none."""
    if kind == "webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return {"jpeg": b"\xff\xd9", "png": b"IEND"}.get(kind, b"") in data
