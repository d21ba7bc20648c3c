"""Encoding of floats to the bytes of a PNG, JPEG, WebP, AVIF or TIFF: tagged as sRGB, rounded once.

Does not know where the bytes go, or what the texts in them mean.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler.errors import OptionError, OutputError
from styler.images import exif
from styler.images.color import make_srgb_profile
from styler.images.decode import Array, iter_strips, silence_decoders

FloatArray = NDArray[np.floating[Any]]

_TIFF_ASCII = 2  # type of a tag
_TILE_SIDE = 512
MAX_STRIPS_PIXELS = 4_000_000
"""Pixels above which a TIFF is stored in tiles, so that a program can show a part of it without reading all of it."""
BIG_TIFF_BYTES = 4_000_000_000
"""Bytes of the pixels, before they are compressed, from which a TIFF has offsets of 64 bits: the others end at 2³²."""


@dataclass(frozen=True, slots=True)
class _Details:
    """What is stored beside the pixels, and how well they are kept."""

    quality: int
    text: Mapping[str, str]
    metadata: Mapping[str, Any]
    dpi: int
    """Dots per inch; 0 to store none."""


_Encoder = Callable[[Array, _Details], bytes]
"""From integers (H, W), (H, W, 3) or (H, W, 4) to the bytes of a file."""


@dataclass(frozen=True, slots=True)
class Format:
    """Name, properties and encoder of a format."""

    name: str
    extensions: tuple[str, ...]  # the first is the usual one
    encode: _Encoder
    depths: tuple[int, ...] = (8,)
    has_alpha: bool = True
    max_side: int = 2**31 - 1


def encode_image(
    pixels: FloatArray,
    *,
    alpha: FloatArray | None = None,
    format: str = "png",  # noqa: A002 - the usual name
    bit_depth: int = 8,
    quality: int = 95,
    text: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    dpi: int = 0,
) -> bytes:
    """Encode a picture.

    Args:
        pixels: (H, W, 3) sRGB, or (H, W) gray; values outside [0, 1] are clipped.
        alpha: (H, W) in [0, 1], of a picture in color; dropped if the format has no alpha, because `pixels` are
            composited already.
        format: a key of `FORMATS`.
        bit_depth: 8, or 16 for PNG and TIFF.
        quality: 1 to 100, for JPEG (4:4:4), WebP and AVIF (4:4:4).
        text: stored as iTXt in a PNG, as JSON in the ImageDescription of a TIFF or the EXIF UserComment of others.
        metadata: stored as EXIF, as far as it is a field of `Picture.metadata`.
        dpi: dots per inch, by which programs print the picture; 0 to store none.

    Raises:
        OptionError: the format does not have this bit depth or quality.
        OutputError: the format is unknown, values are not finite, or the picture does not fit the format.
    """
    target = FORMATS.get(format)
    if target is None:
        raise OutputError(f"There is no format '{format}'; choose one of {', '.join(FORMATS)}.")
    _check(target, pixels, bit_depth, quality)
    silence_decoders()
    try:
        stored = _quantize(pixels, bit_depth, alpha if target.has_alpha else None)
        return target.encode(stored, _Details(quality, text or {}, metadata or {}, dpi))
    except (OSError, ValueError, RuntimeError, KeyError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise OutputError(f"Cannot encode the picture as {target.name} ({reason}); choose another format.") from error
    except MemoryError as error:
        raise OutputError(
            f"There is not enough memory to encode the picture as {target.name}; use a smaller size."
        ) from error


def _check(target: Format, pixels: FloatArray, bit_depth: int, quality: int) -> None:
    if bit_depth not in target.depths:
        depths = " or ".join(map(str, target.depths))
        raise OptionError(f"The bit depth is {bit_depth}; in {target.name} it can be {depths}.")
    if not 1 <= quality <= 100:
        raise OptionError(f"The quality is {quality}; it can be 1 to 100.")
    if (pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[-1] != 3)) or not pixels.size:
        raise OutputError(
            f"The shape of the picture is {pixels.shape}; it must be (height, width, 3), or (height, width) for gray."
        )
    if not all(np.isfinite(pixels[rows]).all() for rows in _split_rows(pixels)):
        raise OutputError("Some values of the picture are not finite numbers; use full precision or another seed.")
    _check_sides(target, pixels.shape[1], pixels.shape[0])


def check_sides(format: str, size: tuple[int, int]) -> None:  # noqa: A002 - as in `encode_image`
    """Check that a format, a key of `FORMATS`, can hold a picture of a width and height, before it is painted.

    Raises:
        OutputError: a side is too long.
    """
    _check_sides(FORMATS[format], *size)


def _check_sides(target: Format, width: int, height: int) -> None:
    if max(width, height) > target.max_side:
        raise OutputError(
            f"The picture would have {width}×{height} pixels, and {target.name} holds at most {target.max_side:,} on a "
            "side; write PNG or TIFF, with a name that ends in .png or .tif, or choose a smaller size."
        )


def to_uint8(pixels: FloatArray) -> NDArray[np.uint8]:
    """Convert floats in [0, 1] to the nearest 8-bit values; values outside are clipped."""
    return _quantize(pixels, 8)


def _quantize(pixels: FloatArray, bit_depth: int, alpha: FloatArray | None = None) -> Array:
    """Scale [0, 1] to [0, 2^depth − 1] and round to whole numbers, strip by strip.

    Args:
        pixels: (H, W), (H, W, C) or any other shape.
        bit_depth: 8 or 16.
        alpha: (H, W), which becomes the last channel of the result.
    """
    exact = pixels.dtype if alpha is None else np.result_type(pixels, alpha)
    shape = pixels.shape if alpha is None else (*pixels.shape[:2], pixels.shape[2] + 1)
    stored = np.empty(shape, np.uint8 if bit_depth == 8 else np.uint16)
    for rows in _split_rows(pixels):
        strip = pixels[rows] if alpha is None else np.concatenate([pixels[rows], alpha[rows][..., None]], axis=-1)
        scaled = np.clip(strip, 0, 1) * exact.type(2**bit_depth - 1)
        stored[rows] = np.rint(scaled, out=scaled)
    return stored


def _split_rows(pixels: FloatArray) -> Iterator[slice]:
    """Yield slices of the first axis that hold about a million values each."""
    return iter_strips(len(pixels), pixels.size // max(1, len(pixels)))


def _encode_png(stored: Array, details: _Details) -> bytes:
    import imagecodecs

    plain = memoryview(imagecodecs.png_encode(stored, level=6))
    chunks = [_build_chunk(b"sRGB", b"\0")]  # perceptual intent
    if details.dpi:
        per_meter = round(details.dpi / 0.0254)
        chunks.append(_build_chunk(b"pHYs", struct.pack(">IIB", per_meter, per_meter, 1)))
    if details.metadata and (block := exif.build_exif({}, details.metadata, details.dpi)):
        chunks.append(_build_chunk(b"eXIf", block.removeprefix(b"Exif\0\0")))
    for key, value in details.text.items():
        if not (1 <= len(key) <= 79 and key.isascii() and key.isprintable()):
            raise ValueError("the key of a text must be 1 to 79 ASCII characters")
        # Not compressed, because readers limit what they unpack; without a language or translated keyword.
        chunks.append(_build_chunk(b"iTXt", key.encode("ascii") + b"\0\0\0\0\0" + value.encode("utf-8")))
    after_header = 33  # signature 8, IHDR 25
    return b"".join([plain[:after_header], *chunks, plain[after_header:]])


def _build_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _encode_tiff(stored: Array, details: _Details) -> bytes:
    import tifffile

    text, pixels = details.text, stored.shape[0] * stored.shape[1]

    tags = [
        (exif.KEPT[name], _TIFF_ASCII, None, str(value).encode("utf-8") + b"\0", True)
        for name, value in details.metadata.items()
        if name in exif.KEPT
    ]
    stream = BytesIO()
    tifffile.imwrite(
        stream,
        stored,
        photometric="minisblack" if stored.ndim == 2 else "rgb",
        extrasamples=["unassalpha"] if stored.shape[2:] == (4,) else None,
        compression="zlib",
        predictor=True,
        bigtiff=stored.nbytes >= BIG_TIFF_BYTES,
        tile=(_TILE_SIDE, _TILE_SIDE) if pixels > MAX_STRIPS_PIXELS else None,
        resolution=(details.dpi, details.dpi) if details.dpi else None,
        resolutionunit="INCH" if details.dpi else None,
        iccprofile=None if stored.ndim == 2 else make_srgb_profile(),
        description=json.dumps(dict(text)) if text else None,
        software=False,
        metadata=None,
        extratags=tags,
    )
    return stream.getvalue()


def _use_pillow(name: str, **settings: Any) -> _Encoder:
    """Return an encoder that saves by Pillow with these settings."""

    def encode(stored: Array, details: _Details) -> bytes:
        block = exif.build_exif(details.text, details.metadata, details.dpi)
        if name == "JPEG" and len(block) > 65533:
            raise ValueError("its settings and metadata are too long for a JPEG")
        stream = BytesIO()
        profile = None if stored.ndim == 2 else make_srgb_profile()  # which is one for colors
        options = {"quality": details.quality, "icc_profile": profile, **settings}
        if name == "JPEG" and details.dpi:
            options["dpi"] = (details.dpi, details.dpi)
        if name == "AVIF" and stored.shape[2:] == (4,):
            options |= {
                "codec": "aom",
                "advanced": {"a:lossless": "1"},
            }  # alpha must be exact, as in every other format
        Image.fromarray(stored).save(stream, name, exif=block, **options)
        return stream.getvalue()

    return encode


# AVIF at speed 9 takes a seventh of the time of the default 6, with the same error and 10% more bytes.
FORMATS = {
    "png": Format("PNG", (".png",), _encode_png, depths=(8, 16)),
    "jpeg": Format(
        "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), _use_pillow("JPEG", subsampling=0), has_alpha=False, max_side=65500
    ),
    "webp": Format("WebP", (".webp",), _use_pillow("WEBP", exact=True), max_side=16383),
    "avif": Format("AVIF", (".avif",), _use_pillow("AVIF", subsampling="4:4:4", speed=9), max_side=65536),
    "tiff": Format("TIFF", (".tif", ".tiff"), _encode_tiff, depths=(8, 16)),
}
