"""Reading of a picture from a path, a stream or bytes into a `Picture`, or an error that says why it failed.

Files are read without ever blocking, up to a limit. Only here do refusals and damage become `ImageError`; any other
exception is a bug and passes. Keeps no state, so it works in any thread, or in a child process with its own limits.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler.errors import ImageError, quote_name
from styler.images import chunks, color, exif
from styler.images.decode import Limits, Raw, decode, open_image, silence_decoders
from styler.images.detect import Damage, Refusal, detect_kind
from styler.images.tiff import decode_tiff, read_first_directory

Readable: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

DEFAULT_MAX_PIXELS = 250_000_000
"""Pixels of the largest picture, unless a caller sets another limit."""
_HEAD = 4096  # bytes, enough to detect every format
_CHUNK = 1 << 20  # bytes; a stream is read in chunks, because read(limit) would allocate the whole limit at once

_KIND_NAMES = {"webp": "WebP", "jxl": "JPEG XL", "heif": "HEIC"}  # other formats are written in capitals


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Picture:
    """A decoded picture: upright, sRGB, ready to paint."""

    pixels: NDArray[np.float32]  # (H, W, 3) sRGB in [0, 1], composited over the background if there is alpha
    alpha: NDArray[np.float32] | None = None  # (H, W) in [0, 1]; None if opaque
    sha256: str = ""  # of the bytes as read
    warnings: tuple[str, ...] = ()  # sentences for the user
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the fields of `exif.KEPT` that the file has
    background: tuple[float, float, float] | None = None  # sRGB in [0, 1] behind transparent parts; None if opaque

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])


def read_image(
    source: Readable,
    *,
    name: str | None = None,
    background: tuple[float, float, float] = (1, 1, 1),
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_bytes: int = 2_000_000_000,
    min_side: int = 16,
) -> Picture:
    """Decode the first image in `source`; the format is detected from the content, not the name.

    Args:
        source: a path, the bytes themselves, or a binary stream, which is read to its end.
        name: its name in messages; by default its path, or the name of the stream.
        background: sRGB in [0, 1], visible through transparent pixels.
        max_pixels: maximum of width × height, checked in the header before decoding.
        max_bytes: maximum size of the file.
        min_side: minimum of width and height, in pixels.

    Raises:
        ImageError: it cannot be read; says which file, why, and what to do.
    """
    data = fetch_image_bytes(source, name=name, max_bytes=max_bytes)
    label = describe_source(source, name)
    with _as_image_error(label, data):
        kind, limits = detect_kind(data[:_HEAD]), Limits(max_pixels, min_side)
        raw = decode_tiff(data, limits) if kind == "tiff" else decode(data, kind, limits)
        return _finish_picture(raw, background, label, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class StoredSize:
    """What a file says about its size, before its picture is turned upright."""

    kind: str  # the format, as in `detect_kind`
    width: int  # pixels
    height: int  # pixels
    dpi: float  # dots per inch; 0 if the file has no resolution


def read_size(source: Readable, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> StoredSize:
    """Return the size of a picture and its resolution, without decoding the pixels.

    Raises:
        ImageError: as `read_image`.
    """
    data = fetch_image_bytes(source, name=name, max_bytes=max_bytes)
    with _as_image_error(describe_source(source, name), data):
        kind = detect_kind(data[:_HEAD])
        if kind == "tiff":
            tags = read_first_directory(data)
            width, height = (int(tags.get(tag, 0)) for tag in (exif.WIDTH, exif.HEIGHT))
            return StoredSize(kind, width, height, exif.read_resolution(tags))
        image = open_image(data, kind, Limits(max_pixels=DEFAULT_MAX_PIXELS, min_side=1))
        stored = image.info.get("dpi", (0, 0))[0]
        if kind == "jpeg" and not image.info.get("jfif_unit"):
            stored = 0  # Pillow then says 72, which is not in the file
        return StoredSize(kind, *image.size, float(stored) or exif.read_resolution(image.getexif()))


def read_text(source: Readable, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> dict[str, str]:
    """Return the texts that `encode_image` stored in a picture (for a PNG, all texts) without decoding the pixels.

    Raises:
        ImageError: as `read_image`.
    """
    data = fetch_image_bytes(source, name=name, max_bytes=max_bytes)
    with _as_image_error(describe_source(source, name), data):
        return _extract_texts(data, detect_kind(data[:_HEAD]))


def fetch_image_bytes(source: Readable, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> bytes:
    """Return the bytes that `read_image` would decode, for decoding them elsewhere.

    Raises:
        ImageError: it is missing, forbidden, not a regular file, too large, or not in a known format.
    """
    with _as_image_error(describe_source(source, name)):
        if isinstance(source, bytes | bytearray | memoryview):
            detect_kind(bytes(source[:_HEAD]))
            _check_size(len(source), max_bytes)
            return bytes(source)
        if isinstance(source, str | os.PathLike):
            return _load_file(os.fspath(source), max_bytes)
        try:
            return _read_stream(source, max_bytes)
        except (OSError, ValueError, EOFError) as error:  # ValueError: it is closed; EOFError: it unpacks a cut file
            raise Refusal("reading it failed; try again") from error


def describe_source(source: Readable, name: str | None) -> str:
    """Return the name of `source` in messages: `name`, else its path, else its stream's name."""
    if name is None:
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return quote_name(name) if isinstance(name, str) else "the picture"


def _load_file(path: str, max_bytes: int) -> bytes:
    try:
        # Checked before opening, because opening a device can have effects, and after, because the name may change.
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 - Path would drop a trailing slash, and its meaning
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(path, flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            _check_regular(status.st_mode)
            _check_size(status.st_size, max_bytes)
            return _read_stream(stream, max_bytes)
    except (OSError, ValueError) as error:
        raise Refusal(_explain_os_error(error, path)) from error


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Refusal("it is a folder; name a picture inside it")
    if not stat.S_ISREG(mode):
        raise Refusal("it is a pipe, socket or device, not a file; save the picture to a file first")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise Refusal(f"it is larger than the limit of {max_bytes:,} bytes; use a smaller file")


def _explain_os_error(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):  # noqa: PTH114 - as above
        return f"it is a link to {quote_name(os.readlink(path))}, which does not exist; correct the link"  # noqa: PTH115
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file; check the name and the folder"
    if isinstance(error, PermissionError):
        return "you have no permission to read it; change its permissions or use a copy"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "the name is too long for a file; check the name"
    if isinstance(error, OSError):
        return f"the system reports “{error.strerror or error}”; use a copy elsewhere"
    return "a file cannot have this name; check the name"  # ValueError: it contains a null byte


def _read_stream(stream: BinaryIO, max_bytes: int) -> bytes:
    """Read `stream` to its end, but stop as soon as its beginning is not a known format or the limit is exceeded."""
    data = bytearray()
    is_known = False
    while chunk := stream.read(_CHUNK if is_known else _HEAD):
        if isinstance(cast("object", chunk), str):
            raise Refusal("it was opened as text; open it in binary mode")
        data += chunk
        _check_size(len(data), max_bytes)
        if not is_known and len(data) >= _HEAD:
            detect_kind(bytes(data[:_HEAD]))
            is_known = True
    detect_kind(bytes(data[:_HEAD]))
    return bytes(data)


def _finish_picture(raw: Raw, background: tuple[float, float, float], label: str, sha256: str) -> Picture:
    pixels = color.convert_to_srgb(raw)  # (H, W, 3)
    alpha = None if raw.alpha is None else color.normalize(color.rotate_upright(raw.alpha, raw.orientation))  # (H, W)
    if alpha is not None and (alpha == 1).all():
        alpha = None
    if alpha is not None:
        color.composite(pixels, alpha, background)
        if not alpha.any():
            raw.warnings.append("it is fully transparent, so only the background is painted")
    warnings = tuple(f"About {label}: {warning}." for warning in raw.warnings)
    return Picture(pixels, alpha, sha256, warnings, raw.metadata, None if alpha is None else background)


def _extract_texts(data: bytes, kind: str) -> dict[str, str]:
    silence_decoders()
    if kind == "tiff":
        return exif.parse_text(read_first_directory(data).get(exif.IMAGE_DESCRIPTION, ""))
    if kind == "png":
        return chunks.read_png_texts(chunks.collect_png_texts(data))
    if kind not in ("jpeg", "webp", "avif"):
        return {}  # not a format that styler writes
    return exif.read_exif_text(open_image(data, kind, Limits(max_pixels=DEFAULT_MAX_PIXELS, min_side=1)))


@contextmanager
def _as_image_error(label: str, data: bytes = b"") -> Iterator[None]:
    """Convert what is wrong with the file to `ImageError`; `data` is what was decoded."""
    try:
        yield
    except (Refusal, Damage, MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and (error.name or "styler").partition(".")[0] == "styler":
            raise
        cause: BaseException = error
        while isinstance(cause, Refusal | Damage) and cause.__cause__:
            cause = cause.__cause__
        raise ImageError(f"Cannot read {label}: {_explain_failure(error, data)}.") from cause


def _explain_failure(error: Exception, data: bytes) -> str:
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it; make it smaller"
    if isinstance(error, ImportError):
        module = (error.name or "").partition(".")[0]
        return f"the package {module} is missing or damaged; run pip install {'pillow' if module == 'PIL' else module}"
    if isinstance(error.__cause__, Image.DecompressionBombError):
        return "one of its parts is larger than the limit for whole pictures; save it again or make it smaller"
    return _explain_damage(error, data)


def _explain_damage(error: Exception, data: bytes) -> str:
    """Find the reason in the bytes and the decoder's message."""
    kind = detect_kind(data[:_HEAD])
    subject = f"its {_KIND_NAMES.get(kind, kind.upper())} data"
    if missing := chunks.count_missing_bytes(data, kind):
        size = f"{missing:,} of {missing + len(data):,} bytes are missing"
        return f"{subject} ends too early: {size}; download or copy it again"
    if isinstance(error.__cause__, EOFError) or "truncated" in str(error).lower() or not _has_end(data, kind):
        return f"{subject} ends too early; download or copy it again"
    return f"{subject} is damaged; download or export it again"


def _has_end(data: bytes, kind: str) -> bool:
    """Return whether the marker at the end of this format is there; True for formats without one."""
    return {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b"\0;"}.get(kind, b"") in data
