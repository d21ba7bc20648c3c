"""Decoding of an image to its samples as stored: Pillow for 8 bits, imagecodecs for more. `tiff` decodes TIFF.

Decoders are named classes instead of `Image.open`, so that no other plugin can be reached (Ghostscript, MPO) and
Pillow's process-wide pixel limit does not apply. Decoders that are optional or rarely needed are imported on demand.
Each call of a decoder is inside `decoding`, which names the exceptions that damaged data causes there; any other is a
bug. An image at the limit is large, so per-pixel computations go through `iter_strips`, without a full copy.
"""

import importlib
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from styler.images import chunks, exif
from styler.images.detect import Damage, Refusal

Array = NDArray[Any]

_STRIP_PIXELS = 1_000_000
_MAX_PIXEL_BYTES = 8  # 16-bit RGBA
SEVERAL_IMAGES = "it contains more than one image; only the first is used"
NOT_FINITE = "some of its values are not finite numbers (NaN or Inf); repair it first"

_PLUGINS = {
    "jpeg": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "png": ("PIL.PngImagePlugin", "PngImageFile"),
    "webp": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "gif": ("PIL.GifImagePlugin", "GifImageFile"),
    "bmp": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "avif": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "heif": ("pillow_heif", "HeifImageFile"),  # turns the picture upright by itself
    "jxl": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),  # does so, too; used for its profile and EXIF data
}
_MISSING_PLUGINS = {
    "heif": "it is HEIC, which needs an extra package; run 'pip install pillow-heif', save it as JPEG, or let the "
    "phone send JPEG (on iPhones: Settings, Camera, Formats, Most Compatible)",
    "jxl": "it is JPEG XL, which needs an extra package; run 'pip install pillow-jxl-plugin' or save it as PNG",
}

# What decoders raise on damaged data, as found by fuzzing. Errors of imagecodecs are RuntimeErrors.
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, LookupError, TypeError, ArithmeticError),
    *(AttributeError, struct.error, zlib.error, Image.DecompressionBombError),
)
_IMAGECODECS_ERRORS = (RuntimeError, ValueError, TypeError, OverflowError)


@dataclass(slots=True)
class Raw:
    """An image as stored: not yet upright, not yet sRGB, with separate alpha."""

    samples: Array  # (H, W, C) uint8, uint16 or float32 in [0, 1]; C: 1 gray, 3 RGB, 4 CMYK (full scale is full ink)
    alpha: Array | None = None  # (H, W), one of the same types
    claims: dict[str, Any] = field(default_factory=dict)  # what says what the numbers mean: see `color.PRECEDENCE`
    kind: str = ""  # the format
    orientation: Any = 1  # as in the file; EXIF defines 1 to 8
    warnings: list[str] = field(default_factory=list)  # clauses whose subject is the picture
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the size in an image's header: the maximum of width × height, and the minimum of each side."""

    max_pixels: int
    min_side: int

    def check(self, width: int, height: int) -> None:
        """Raise `Refusal` if an image of this size must not be decoded."""
        size = f"it is {width} × {height} px"
        if width * height > self.max_pixels:
            limit = f"{self.max_pixels / 1e6:g} megapixels"
            raise Refusal(f"{size}, more than the limit of {limit}; make it smaller or raise the limit")
        if min(width, height) < self.min_side:
            raise Refusal(f"{size} and must be at least {self.min_side} px on each side; use a larger one")

    def check_depth(self, pixels: int, pixel_bytes: int) -> None:
        """Raise `Refusal` if an image with this many bytes per pixel must not be decoded."""
        if pixels * pixel_bytes > self.max_pixels * _MAX_PIXEL_BYTES:
            raise Refusal(
                f"its {pixel_bytes} bytes per pixel are {pixels * pixel_bytes / 1e6:.0f} MB in all, more than the "
                f"limit of {self.max_pixels * _MAX_PIXEL_BYTES / 1e6:g} MB; save it with 16 bits or make it smaller"
            )


def iter_strips(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that hold about a million pixels each."""
    rows = max(1, _STRIP_PIXELS // max(1, width))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


@contextmanager
def decoding(*damage: type[Exception]) -> Iterator[None]:
    """Convert the exceptions that a decoder raises on damaged data to `Damage`; all others are bugs and pass."""
    try:
        yield
    except (Refusal, MemoryError, ImportError):
        raise
    except damage as error:
        raise Damage(str(error)) from error


def silence_decoders() -> None:
    """Suppress the warnings of Pillow and tifffile; what matters to the user becomes `Picture.warnings`.

    Installs permanent filters for their modules, because `warnings.catch_warnings` is not thread-safe.
    """
    modules = r"(PIL|tifffile|pillow_heif|pillow_jxl)\b"
    if not any(getattr(entry[3], "pattern", entry[3]) == modules for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=modules)
    for name in ("PIL", "tifffile"):
        if not (logger := logging.getLogger(name)).handlers:
            logger.addHandler(logging.NullHandler())


def decode(data: bytes, kind: str, limits: Limits) -> Raw:
    """Decode the first image in `data`, of any format but TIFF.

    Raises:
        Refusal: it exceeds the limits, or is stored in a way that is not supported.
        Damage: the data is damaged.
    """
    silence_decoders()
    decoders = {"png": _decode_png, "jpeg": _decode_jpeg}
    raw = decoders[kind](data, limits) if kind in decoders else _decode_other(data, kind, limits)
    raw.kind = kind
    return raw


def open_image(data: bytes, kind: str, limits: Limits) -> ImageFile.ImageFile:
    """Parse the header with the decoder of `kind`; `load` decodes the pixels."""
    module, plugin = _PLUGINS[kind]
    try:
        decoder = getattr(importlib.import_module(module), plugin)
    except ImportError as error:
        if kind not in _MISSING_PLUGINS:
            raise
        raise Refusal(_MISSING_PLUGINS[kind]) from error
    if kind == "jxl":
        with decoding(ValueError):
            header = read_jxl_header(data)
        limits.check(header.width, header.height)
    with decoding(*PILLOW_ERRORS):
        image: ImageFile.ImageFile = decoder(BytesIO(data))
    limits.check(*image.size)
    return image


def _load(image: ImageFile.ImageFile) -> Raw:
    """Decode the pixels by Pillow."""
    with decoding(*PILLOW_ERRORS):
        image.load()
    return Raw(*_split_alpha(image))


def _describe(raw: Raw, image: Image.Image) -> None:
    """Add what Pillow knows beside the pixels."""
    raw.claims["icc"] = image.info.get("icc_profile")
    raw.orientation, raw.metadata, raw.claims["exif"], found = exif.read_exif(image)
    raw.warnings += found


def _decode_other(data: bytes, kind: str, limits: Limits) -> Raw:
    """Decode a WebP, GIF, BMP, AVIF, HEIC or JPEG XL."""
    image = open_image(data, kind, limits)
    if kind == "jxl":
        raw = _decode_jxl(data)
    elif kind in ("avif", "heif") and chunks.read_iso_depth(data) > 8:
        raw = _decode_deep_iso(data, kind)
    else:
        area = image.tile[0].extents if kind == "gif" and image.tile else None
        raw = _load(image)
        if area and area != (0, 0, *image.size):
            _clear_outside(raw, area)
    _describe(raw, image)
    if kind in ("avif", "heif"):
        raw.claims["cicp"] = chunks.read_nclx(data)
    elif kind == "bmp":
        raw.claims["icc"], raw.claims["srgb"], raw.claims["calibration"] = chunks.read_bmp_colors(data)
        ignore_empty_alpha(raw)
    elif kind == "jxl":
        raw.orientation = 1  # its decoder turns the picture upright but leaves the EXIF data unchanged
    if _has_more_images(image) or (kind == "jxl" and read_jxl_header(data).is_animated):
        raw.warnings.append(SEVERAL_IMAGES)
    return raw


def _clear_outside(raw: Raw, area: tuple[int, int, int, int]) -> None:
    """Make transparent what the first frame of a GIF leaves uncovered, which Pillow fills with a color."""
    left, top, right, bottom = area
    covered = np.zeros(raw.samples.shape[:2], np.uint8)  # (H, W)
    covered[top:bottom, left:right] = 255 if raw.alpha is None else raw.alpha[top:bottom, left:right]
    raw.alpha = covered


def _has_more_images(image: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))  # a GIF is read to its end
    except PILLOW_ERRORS:
        return True  # there are, but they are damaged


def ignore_empty_alpha(raw: Raw) -> None:
    """Make a picture opaque whose alpha is 0 everywhere; for formats in which programs leave it 0."""
    if raw.alpha is not None and not raw.alpha.any():
        raw.alpha = None
        raw.warnings.append("its alpha is 0 everywhere and was ignored, so it is opaque")


def _decode_deep_iso(data: bytes, kind: str) -> Raw:
    """Decode an AVIF or HEIC of 10 or 12 bits, whose size has been checked."""
    if kind == "avif":
        import imagecodecs

        with decoding(*_IMAGECODECS_ERRORS):
            stored = imagecodecs.avif_decode(data, index=0, numthreads=1)  # (H, W), (H, W, C)
        depth = chunks.read_iso_depth(data)
    else:
        import pillow_heif

        with decoding(*PILLOW_ERRORS):
            stored = np.asarray(pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False))  # (H, W, C)
        depth = 16
    return Raw(*split_last(stored, 8 if stored.dtype == np.uint8 else depth))


def _decode_jxl(data: bytes) -> Raw:
    """Decode the first frame of a JPEG XL with all its bits; its decoder turns it upright."""
    import imagecodecs

    with decoding(*_IMAGECODECS_ERRORS):
        stored = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)  # (H, W), (H, W, C)
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise Refusal(NOT_FINITE)
        stored = np.clip(stored, 0, 1, dtype=np.float32)
    return Raw(*split_last(stored, read_jxl_header(data).bits if stored.dtype == np.uint16 else 16))


def split_last(stored: Array, bits: int) -> tuple[Array, Array | None]:
    """Split (H, W) or (H, W, C) into samples and alpha; integers of more than 8 bits are scaled to 16."""
    stored = stored[..., None] if stored.ndim == 2 else stored
    if stored.dtype != np.uint8 and bits < 16:
        top = 2**bits - 1
        for rows in iter_strips(*stored.shape[:2]):
            stored[rows] = (np.minimum(stored[rows], top).astype(np.uint32) * 65535 + top // 2) // top
    if stored.shape[-1] in (2, 4):
        return stored[..., :-1].copy(), stored[..., -1].copy()  # copies, so that each can be freed alone
    return stored, None


def _decode_jpeg(data: bytes, limits: Limits) -> Raw:
    """Decode a JPEG, also of more than 8 bits or without its end marker."""
    header = chunks.read_jpeg(data)
    if header.precision > 8:
        limits.check(header.width, header.height)
        return _decode_deep_jpeg(data, header.precision)
    if header.is_height_late:
        at = header.height_at
        data = data[:at] + struct.pack(">H", header.height) + data[at + 2 :]
    image = open_image(data, "jpeg", limits)
    raw = _load(image) if header.end else _load_jpeg_without_end(data, header, limits)
    _describe(raw, image)
    return raw


def _decode_deep_jpeg(data: bytes, precision: int) -> Raw:
    """Decode a JPEG of 9 to 16 bits: gray or YCbCr, which becomes RGB."""
    import imagecodecs

    with decoding(*_IMAGECODECS_ERRORS):
        stored = imagecodecs.jpeg8_decode(data)  # (H, W) or (H, W, 3)
    if stored.ndim == 3 and stored.shape[-1] != 3:
        raise Refusal(
            f"it is a JPEG of {precision} bits with {stored.shape[-1]} values per pixel; save it as 16-bit TIFF"
        )
    return Raw(split_last(stored, precision)[0])


def _load_jpeg_without_end(data: bytes, header: chunks.Jpeg, limits: Limits) -> Raw:
    """Decode a JPEG whose data ends without a marker, if nothing but the marker is missing.

    libjpeg invents what is missing. So it is decoded with two different continuations: pixels that differ are invented.

    Raises:
        Refusal: pixels are missing; says how many.
    """
    data = data.rstrip(b"\0") if data.endswith(bytes(16)) else data  # a download that reserved the space
    again = "download or copy it again"
    if not header.has_all_scans:
        raise Refusal(f"its JPEG data ends too early: passes of a progressive picture are missing; {again}")
    raw = _load(open_image(data + b"\xff\xd9", "jpeg", limits))
    noise = bytes((i * 89 + i // 7) % 255 for i in range(1 << 12)) * 4
    other = _load(open_image(data + noise + b"\xff\xd9", "jpeg", limits))
    invented = np.flatnonzero((raw.samples != other.samples).any(axis=(1, 2)))
    if invented.size:
        share = chunks.describe_share(1 - invented[0] / len(raw.samples))
        raise Refusal(f"its JPEG data ends too early: the lower {share} of the picture are missing; {again}")
    raw.warnings.append("its end marker is missing, but its pixels are complete")
    return raw


def _split_alpha(image: Image.Image) -> tuple[Array, Array | None]:
    """Convert any Pillow mode to samples (H, W, C) and alpha (H, W) or None, strip by strip."""
    width, height = image.size
    is_deep = image.mode[:1] in ("I", "F")
    mode = image.mode if is_deep else _choose_mode(image.mode, "transparency" in image.info)
    has_alpha = mode in ("LA", "RGBA")
    dtype = np.uint8 if not is_deep else np.uint16 if mode.startswith("I;16") else np.float32
    samples = np.empty((height, width, 1 if is_deep else len(mode) - has_alpha), dtype)
    alpha = np.empty((height, width), dtype) if has_alpha else None
    for rows in iter_strips(height, width):
        strip = image._new(image.im.crop((0, rows.start, width, rows.stop)))  # `Image.crop` applies Pillow's limit
        part = _convert_strip(strip, mode).reshape(rows.stop - rows.start, width, -1)  # (h, W, C)
        samples[rows] = part[..., : samples.shape[-1]]
        if alpha is not None:
            alpha[rows] = part[..., -1]
    return samples, alpha


def _choose_mode(mode: str, has_transparency: bool) -> str:
    """Choose the 8-bit Pillow mode to convert `mode` to; a transparent color or palette entry becomes alpha."""
    if has_transparency and mode in ("1", "L", "P", "RGB"):
        return "LA" if mode == "L" else "RGBA"
    plain = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    return mode if mode in ("L", "LA", "RGB", "RGBA", "CMYK") else plain.get(mode, "RGB")


def _convert_strip(image: Image.Image, mode: str) -> Array:
    if mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16)
    if mode in ("I", "F"):
        gray = np.asarray(image, dtype=np.float64) / (65535 if mode == "I" else 1)  # (h, W)
        if not np.isfinite(gray).all():
            raise Refusal(NOT_FINITE)
        return np.clip(gray, 0, 1)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # None only if converted in place
        return np.asarray(converted)
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _decode_png(data: bytes, limits: Limits) -> Raw:
    """Decode a PNG from the chunks that make pixels; what others say is added if they are undamaged."""
    png = chunks.split_png(data)
    image = open_image(png.data, "png", limits)
    if not chunks.check_png_pixels(png):
        png.data = _trim_png(png)  # else libpng would print a warning
    png.pixels.clear()
    if data[24] == 16:  # the bit depth, in IHDR
        import imagecodecs

        with decoding(*_IMAGECODECS_ERRORS):
            stored = imagecodecs.png_decode(png.data)  # (H, W) or (H, W, C)
        raw = Raw(*split_last(stored, 16))
    else:
        raw = _load(image)
    block = png.others.get(b"eXIf")
    image.info["exif"] = block and b"Exif\0\0" + block  # even None: else Pillow decodes the pixels to look for it
    image.info.update(chunks.read_png_texts(png, chunks.ORIENTATION_TEXTS).items())
    _describe(raw, image)
    raw.claims["icc"] = chunks.read_png_profile(png)
    raw.claims["srgb"] = b"sRGB" in png.others
    raw.claims["calibration"] = chunks.read_png_calibration(png)
    if content := png.others.get(b"cICP"):
        raw.claims["cicp"] = chunks.Cicp(content[0], content[1], 0 if content[3] else max(8, data[24]))
    if png.damaged:
        names = ", ".join(dict.fromkeys(png.damaged))
        raw.warnings.append(f"parts of it that are not needed for its pixels are damaged and were ignored ({names})")
    if not png.has_end:
        raw.warnings.append("its end marker is missing, but its pixels are complete")
    if png.images > 1:
        raw.warnings.append(SEVERAL_IMAGES)
    return raw


def _trim_png(png: chunks.Png) -> bytes:
    """Return the PNG without the data that follows its pixels."""
    rows = zlib.decompressobj().decompress(b"".join(png.pixels), chunks.count_png_bytes(png.header))
    start = len(png.data) - 12 - sum(12 + len(content) for content in png.pixels)
    return png.data[:start] + chunks.build_png_chunk(b"IDAT", zlib.compress(rows, 1)) + png.data[-12:]


@dataclass(frozen=True, slots=True)
class JxlHeader:
    """What the codestream of a JPEG XL says first."""

    width: int
    height: int
    bits: int = 8
    is_animated: bool = False


def read_jxl_header(data: bytes) -> JxlHeader:
    """Parse SizeHeader and the beginning of ImageMetadata (ISO/IEC 18181-1)."""
    bits = int.from_bytes(_find_jxl_codestream(data)[2:], "little")  # fields are packed from the lowest bit up

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def choose(*sizes: tuple[int, int]) -> int:
        """Take a number that is stored in one of four ways: a base, and bits added to it."""
        base, count = sizes[take(2)]
        return base + take(count)

    def take_size(small: tuple[tuple[int, int], ...], large: tuple[tuple[int, int], ...]) -> tuple[int, int]:
        is_small = take(1)
        height = 8 * choose_of(small) if is_small else choose_of(large)
        ratios = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
        numerator, denominator = ratios[take(3)]
        if numerator:
            return height * numerator // denominator, height
        return 8 * choose_of(small) if is_small else choose_of(large), height

    def choose_of(sizes: tuple[tuple[int, int], ...]) -> int:
        return choose(*sizes) if len(sizes) > 1 else sizes[0][0] + take(sizes[0][1])

    picture = (((1, 5),), ((1, 9), (1, 13), (1, 18), (1, 30)))
    width, height = take_size(*picture)
    if take(1):  # everything else has its default
        return JxlHeader(width, height)
    is_animated = False
    if take(1):
        take(3)  # orientation
        if take(1):
            take_size(*picture)  # of display
        if take(1):
            take_size(((16, 0), (32, 0), (1, 5), (33, 9)), ((1, 6), (65, 8), (321, 10), (1345, 12)))  # of a preview
        if is_animated := bool(take(1)):
            choose((100, 0), (1000, 0), (1, 10), (1, 30))
            choose((1, 0), (1001, 0), (1, 8), (1, 10))
            choose((0, 0), (0, 3), (0, 16), (0, 32))
            take(1)
    is_float = take(1)
    depth = choose((32, 0), (16, 0), (24, 0), (1, 6)) if is_float else choose((8, 0), (10, 0), (12, 0), (1, 6))
    return JxlHeader(width, height, depth, is_animated)


def _find_jxl_codestream(data: bytes) -> bytes:
    """Return the beginning of the codestream, which may be inside the boxes of a container."""
    at = 0
    while data[at : at + 2] != b"\xff\x0a":
        length, box = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = at + (16 if length == 1 else 8)
        if box in (b"jxlc", b"jxlp"):
            start += 4 * (box == b"jxlp")  # a partial codestream begins with its number
            return data[start : start + 64]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < 8:  # 0: the last box; anything else is damage
            raise ValueError("no codestream in the JPEG XL container")
        at += length
    return data[at : at + 64]
