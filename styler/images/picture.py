"""`read`: from a file, a stream or bytes to a `Picture`, or to one sentence that says why not.

The only place where what decoders raise becomes an `ImageError`. Keeps no state, so it can run in any thread, or in a
child process with limits of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler.errors import ImageError
from styler.images import colour, exif
from styler.images.decode import decode, first_directory, hush, open_image
from styler.images.kinds import Refusal, kind_of
from styler.images.raw import Limits, Raw
from styler.images.sources import HEAD, Source, fetch, shown

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


def read(
    source: Source,
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
    called = shown(source, name)
    data = b""
    try:
        data = fetch(source, max_bytes)
        raw = decode(data, kind_of(data[:HEAD]), Limits(max_pixels, min_side))
        return _finished(raw, background, called, hashlib.sha256(data).hexdigest())
    except Exception as problem:
        raise ImageError(f"Cannot read {called}: {_why(problem, data)}.") from problem


def read_text(source: Source, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> dict[str, str]:
    """Return the texts that `encode` put into this picture (of a PNG, every text) without decoding its pixels.

    Raises:
        ImageError: as `read` does.
    """
    called = shown(source, name)
    data = b""
    try:
        data = fetch(source, max_bytes)
        return _texts(data, kind_of(data[:HEAD]))
    except Exception as problem:
        raise ImageError(f"Cannot read {called}: {_why(problem, data)}.") from problem


def fetched(source: Source, *, name: str | None = None, max_bytes: int = 2_000_000_000) -> bytes:
    """Return the bytes that `read` would decode, for who decodes them elsewhere.

    Raises:
        ImageError: as `read` does for what is no file, or begins like no picture.
    """
    try:
        return fetch(source, max_bytes)
    except Refusal as problem:
        raise ImageError(f"Cannot read {shown(source, name)}: {problem}.") from problem


def _finished(raw: Raw, background: tuple[float, float, float], called: str, sha256: str) -> Picture:
    pixels = colour.to_srgb(raw)  # (H, W, 3)
    alpha = None if raw.alpha is None else colour.normalised(colour.upright(raw.alpha, raw.orientation))  # (H, W)
    if alpha is not None and (alpha == 1).all():
        alpha = None
    if alpha is not None:
        colour.composite(pixels, alpha, background)
        if not alpha.any():
            raw.warnings.append("it is wholly transparent, so only the background is painted")
    warnings = tuple(f"About {called}: {found}." for found in raw.warnings)
    return Picture(pixels, alpha, sha256, warnings, raw.metadata)


def _texts(data: bytes, kind: str) -> dict[str, str]:
    hush()
    if kind == "tiff":
        return exif.parsed(first_directory(data).get(exif.IMAGE_DESCRIPTION, ""))
    if kind not in ("png", "jpeg", "webp", "avif"):
        return {}  # no format of ours
    image = open_image(data, kind, Limits(max_pixels=250_000_000, min_side=1))
    if kind == "png":
        return {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    return exif.read_text(image)


def _why(problem: Exception, data: bytes) -> str:
    """Say why reading failed and what to do."""
    if isinstance(problem, Refusal):
        return str(problem)
    if isinstance(problem, MemoryError):
        return "decoding it takes more memory than there is; make it smaller"
    if isinstance(problem, Image.DecompressionBombError):
        return "one of its parts is larger than a whole picture may be; save it again or make it smaller"
    return _damage(problem, data) if data else "its bytes stopped coming; try again"


def _damage(problem: Exception, data: bytes) -> str:
    """Say what is wrong with `data`: decoders raise anything at all, so it is told from their words and the bytes."""
    if "MAX_TEXT" in str(problem) or "text chunks" in str(problem):
        return "it carries more text than a picture should; save it again without metadata"
    kind = kind_of(data[:HEAD])
    named = f"its {_KIND_NAMES.get(kind, kind.upper())} data"
    if isinstance(problem, EOFError) or "truncated" in str(problem).lower() or not _has_end(data, kind):
        return f"{named} end too early; download or copy it again"
    return f"{named} are damaged; download or export it again"


def _has_end(data: bytes, kind: str) -> bool:
    """Tell whether the mark that ends a picture of this kind is there; True where there is none."""
    if kind == "webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return {"jpeg": b"\xff\xd9", "png": b"IEND"}.get(kind, b"") in data
