"""A float picture → the bytes of a PNG, JPEG, WebP, AVIF or TIFF: tagged sRGB, rounded once, upright.

Does not know where the bytes go, nor what the texts in them mean.
"""

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styler.errors import OptionError, OutputError
from styler.images import exif
from styler.images.decode import Array, silence_decoders

Floats = NDArray[np.floating[Any]]

_ASCII = 2  # a TIFF tag's type


@dataclass(frozen=True, slots=True)
class _Extras:
    quality: int
    text: Mapping[str, str]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """What a format is called, can hold, and is written by."""

    shown: str
    extensions: tuple[str, ...]  # the first is the one to suggest
    write: Callable[[Array, _Extras], bytes]
    depths: tuple[int, ...] = (8,)
    has_alpha: bool = True
    max_side: int = 2**31 - 1


def encode_image(
    pixels: Floats,
    *,
    alpha: Floats | None = None,
    format: str = "png",  # noqa: A002 - the word everybody uses
    bit_depth: int = 8,
    quality: int = 95,
    text: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Encode a picture.

    Args:
        pixels: (H, W, 3) sRGB; values outside [0, 1] are clipped.
        alpha: (H, W) in [0, 1]; left out where the format has none, for `pixels` are composited already.
        format: a key of `FORMATS`.
        bit_depth: 8, or 16 for PNG and TIFF.
        quality: 1 to 100, for JPEG (4:4:4), WebP and AVIF (4:4:4).
        text: stored as iTXt in a PNG; as JSON in the ImageDescription of a TIFF and in the EXIF UserComment of others.
        metadata: of these the fields that `Picture.metadata` can hold are stored as EXIF.

    Raises:
        OptionError: a bit depth or quality that the format does not have.
        OutputError: an unknown format, values that are not finite, or more than the format can hold.
    """
    chosen = FORMATS.get(format)
    if chosen is None:
        raise OutputError(f"There is no format '{format}'; choose one of {', '.join(FORMATS)}.")
    _check(chosen, pixels, bit_depth, quality)
    if not chosen.has_alpha:
        alpha = None
    silence_decoders()
    try:
        if alpha is not None:
            pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)  # (H, W, 4)
        stored = _quantize(pixels, bit_depth).astype(np.uint8 if bit_depth == 8 else np.uint16)  # (H, W, 3 or 4)
        return chosen.write(stored, _Extras(quality, text or {}, metadata or {}))
    except (OSError, ValueError, RuntimeError, KeyError, struct.error) as problem:
        said = " ".join(str(problem).split())
        raise OutputError(f"Cannot encode the picture as {chosen.shown} ({said}); choose another format.") from problem
    except MemoryError as problem:
        raise OutputError(
            f"Encoding the picture as {chosen.shown} takes more memory than there is; use a smaller size."
        ) from problem


def _check(chosen: Format, pixels: Floats, bit_depth: int, quality: int) -> None:
    if bit_depth not in chosen.depths:
        depths = " or ".join(map(str, chosen.depths))
        raise OptionError(f"The bit depth is {bit_depth}; in {chosen.shown} it can be {depths}.")
    if not 1 <= quality <= 100:
        raise OptionError(f"The quality is {quality}; it can be 1 to 100.")
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise OutputError(f"A picture to encode has shape (height, width, 3); this one has {pixels.shape}.")
    if not np.isfinite(pixels).all():
        raise OutputError("Some values of the picture are not finite numbers; use full precision or another seed.")
    if max(pixels.shape) > chosen.max_side:
        raise OutputError(
            f"A {chosen.shown} picture has at most {chosen.max_side} px on a side, and this one {max(pixels.shape)}; "
            "choose PNG or TIFF."
        )


def to_uint8(pixels: Floats) -> NDArray[np.uint8]:
    """Convert floats in [0, 1] to the nearest 8-bit values; values outside are clipped."""
    return _quantize(pixels, 8).astype(np.uint8)


def _quantize(pixels: Floats, bit_depth: int) -> Floats:
    """Scale [0, 1] to [0, 2^depth − 1] and round to whole numbers, in the type of `pixels`."""
    scaled = np.clip(pixels, 0, 1) * pixels.dtype.type(2**bit_depth - 1)
    return np.rint(scaled, out=scaled)


def _png(stored: Array, extras: _Extras) -> bytes:
    import imagecodecs

    plain = bytes(imagecodecs.png_encode(stored, level=6))
    chunks = [_chunk(b"sRGB", b"\0")]  # perceptual intent
    if block := exif.build_exif({}, extras.metadata):
        chunks.append(_chunk(b"eXIf", block.removeprefix(b"Exif\0\0")))
    for key, value in extras.text.items():
        if not (1 <= len(key) <= 79 and key.isascii() and key.isprintable()):
            raise ValueError("a text's name must be 1 to 79 plain characters")
        # Not compressed: no language, no translated name, and readers limit what they unpack.
        chunks.append(_chunk(b"iTXt", key.encode("ascii") + b"\0\0\0\0\0" + value.encode("utf-8")))
    after_header = 33  # signature 8, IHDR 25
    return plain[:after_header] + b"".join(chunks) + plain[after_header:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff(stored: Array, extras: _Extras) -> bytes:
    import tifffile

    from styler.images.color import make_srgb_profile

    kept = [
        (exif.KEPT[k], _ASCII, None, str(v).encode("utf-8") + b"\0", True)
        for k, v in extras.metadata.items()
        if k in exif.KEPT
    ]
    stream = BytesIO()
    tifffile.imwrite(
        stream,
        stored,
        photometric="rgb",
        extrasamples=["unassalpha"] if stored.shape[-1] == 4 else None,
        compression="zlib",
        predictor=True,
        iccprofile=make_srgb_profile(),
        description=json.dumps(dict(extras.text)) if extras.text else None,
        software=False,
        metadata=None,
        extratags=kept,
    )
    return stream.getvalue()


def _with_pillow(name: str, **settings: Any) -> Callable[[Array, _Extras], bytes]:
    """Make a writer of one of Pillow's formats."""

    def write(stored: Array, extras: _Extras) -> bytes:
        from PIL import Image

        from styler.images.color import make_srgb_profile

        block = exif.build_exif(extras.text, extras.metadata)
        if name == "JPEG" and len(block) > 65533:
            raise ValueError("its settings and metadata are longer than a JPEG can hold")
        stream = BytesIO()
        options = {"quality": extras.quality, "icc_profile": make_srgb_profile(), **settings}
        if name == "AVIF" and stored.shape[-1] == 4:
            options |= {"codec": "aom", "advanced": {"a:lossless": "1"}}  # alpha exactly, as every other format has it
        Image.fromarray(stored).save(stream, name, exif=block, **options)
        return stream.getvalue()

    return write


# AVIF's speed of 9 takes a seventh of the time of the usual 6, for the same error and a tenth more bytes.
FORMATS = {
    "png": Format("PNG", (".png",), _png, depths=(8, 16)),
    "jpeg": Format(
        "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), _with_pillow("JPEG", subsampling=0), has_alpha=False, max_side=65500
    ),
    "webp": Format("WebP", (".webp",), _with_pillow("WEBP", exact=True), max_side=16383),
    "avif": Format("AVIF", (".avif",), _with_pillow("AVIF", subsampling="4:4:4", speed=9), max_side=65536),
    "tiff": Format("TIFF", (".tif", ".tiff"), _tiff, depths=(8, 16)),
}
