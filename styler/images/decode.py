"""Decoding of an image to its samples as stored: Pillow for 8 bits, imagecodecs and tifffile for more.

Decoders are named classes instead of `Image.open`, so that no other plugin can be reached (Ghostscript, MPO) and
Pillow's process-wide pixel limit does not apply. Decoders that are optional or rarely needed are imported on demand.
An image at the limit is large, so per-pixel computations go through `iter_strips`, without a full copy.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from styler.images import exif
from styler.images.detect import ADVICE, Refusal

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2


Array = NDArray[Any]

_STRIP_PIXELS = 1_000_000
_MAX_PIXEL_BYTES = 8  # 16-bit RGBA
_SEVERAL_IMAGES = "it contains more than one image; only the first is used"
_NOT_FINITE = "some of its values are not finite numbers (NaN or Inf); repair it first"

_PLUGINS = {
    "jpeg": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "png": ("PIL.PngImagePlugin", "PngImageFile"),
    "webp": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "tiff": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "gif": ("PIL.GifImagePlugin", "GifImageFile"),
    "bmp": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "avif": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "heif": ("pillow_heif", "HeifImageFile"),  # turns the picture upright by itself
    "jxl": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),  # does so, too, and decodes when it is opened
}
_MISSING_PLUGINS = {
    "heif": "it is HEIC, which needs an extra package; run 'pip install pillow-heif', save it as JPEG, or let the "
    "phone send JPEG (on iPhones: Settings, Camera, Formats, Most Compatible)",
    "jxl": "it is JPEG XL, which needs an extra package; run 'pip install pillow-jxl-plugin' or save it as PNG",
}

# TIFF tags and their values
_SUBFILE_TYPE, _WIDTH, _LENGTH, _BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 254, 256, 257, 258, 277
_SUB_IFDS, _ICC_PROFILE, _DNG_VERSION = 330, 34675, 50706
_COLOR_SAMPLES = {0: 1, 1: 1, 2: 3, 5: 4}  # by PhotometricInterpretation: gray (0: inverted), RGB, CMYK
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples that are alpha; 0 is "unspecified"
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)


@dataclass(slots=True)
class Raw:
    """An image as stored: not yet upright, not yet sRGB, with separate alpha."""

    samples: Array  # (H, W, C) uint8, uint16 or float32 in [0, 1]; C: 1 gray, 3 RGB, 4 CMYK (full scale is full ink)
    alpha: Array | None = None  # (H, W), one of the same types
    icc: bytes | None = None
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
    """Decode the first image in `data`.

    Raises:
        Refusal: it exceeds the limits, or is stored in a way that is not supported.
        Exception: any other error that a decoder raises on damaged data.
    """
    silence_decoders()
    if kind == "tiff" and _is_deep_tiff(read_first_directory(data), limits):
        return _decode_deep_tiff(data, limits)
    image = open_image(data, kind, limits)
    limits.check(*image.size)
    if kind == "png" and data[24] == 16:  # the bit depth, in IHDR
        raw = Raw(*_decode_deep_png(data))
    else:
        image.load()
        raw = Raw(*_split_alpha(image))
    raw.icc = image.info.get("icc_profile") if image.mode != "LAB" else None  # Lab has been converted
    raw.orientation, raw.metadata, raw.warnings = exif.read_exif(image)
    if kind == "jxl":
        raw.orientation = 1  # its decoder turns the picture upright but leaves the EXIF data unchanged
    if getattr(image, "is_animated", False):
        raw.warnings.append(_SEVERAL_IMAGES)
    return raw


def open_image(data: bytes, kind: str, limits: Limits) -> ImageFile.ImageFile:
    """Parse the header with the decoder of `kind`; `load` decodes the pixels."""
    module, plugin = _PLUGINS[kind]
    try:
        decoder = getattr(importlib.import_module(module), plugin)
    except ImportError as error:
        raise Refusal(_MISSING_PLUGINS[kind]) from error
    if kind == "png":
        _check_animation(data, limits)
    if kind == "jxl":
        limits.check(*read_jxl_size(data))
    image: ImageFile.ImageFile = decoder(BytesIO(data))
    return image


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
            raise Refusal(_NOT_FINITE)
        return np.clip(gray, 0, 1)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # None only if converted in place
        return np.asarray(converted)
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _iter_png_chunks(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Yield the name of each chunk and where it is."""
    start = 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], slice(start, end)
        start = end


def _check_animation(data: bytes, limits: Limits) -> None:
    """Check the size of an animated PNG before Pillow opens it, because Pillow then allocates a whole frame."""
    sizes, is_animated = [], False
    for name, place in _iter_png_chunks(data):
        if name == b"IDAT":
            break
        if name == b"IHDR":  # there should be only one, but Pillow uses the last
            content = data[place][8:]
            sizes.append((int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")))
        is_animated |= name == b"acTL"
    for width, height in sizes if is_animated else ():
        limits.check(width, height)


def _decode_deep_png(data: bytes) -> tuple[Array, Array | None]:
    """Decode a 16-bit PNG to samples (H, W, 1 or 3) and alpha (H, W) or None, uint16."""
    import imagecodecs

    # Only the chunks that make pixels: libpng would unpack the others, too, and print warnings about them.
    kept = [data[:8]]
    for name, place in _iter_png_chunks(data):
        if name in (b"IHDR", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[place])
        if name == b"IEND":
            break
    pixels = imagecodecs.png_decode(b"".join(kept))  # (H, W) or (H, W, C)
    if pixels.ndim == 2:
        return pixels[..., None], None
    if pixels.shape[-1] in (2, 4):
        return pixels[..., :-1].copy(), pixels[..., -1].copy()  # copies, so that each can be freed alone
    return pixels, None


def read_first_directory(data: bytes) -> "ImageFileDirectory_v2":
    """Parse the tags of a TIFF's first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    is_big = 43 in (data[2], data[3])  # BigTIFF, whose header is longer
    directory = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    stream = BytesIO(data)
    stream.seek(directory.next)
    directory.load(stream)
    return directory


def _is_deep_tiff(directory: "ImageFileDirectory_v2", limits: Limits) -> bool:
    """Return whether samples have more than 8 bits.

    Raises:
        Refusal: it exceeds the limits, or is a raw camera file in TIFF format, whose first page is a thumbnail.
        TypeError: a size is not a number; tifffile would repeat even text that many times, and fill the memory.
    """
    width, length, samples = directory.get(_WIDTH), directory.get(_LENGTH), directory.get(_SAMPLES_PER_PIXEL, 1)
    if not (isinstance(width, int) and isinstance(length, int) and isinstance(samples, int)):
        raise TypeError("a TIFF's width, height or number of samples is not an integer")
    limits.check(width, length)
    is_thumbnail = directory.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in directory
    if is_thumbnail or _DNG_VERSION in directory:
        raise Refusal(ADVICE["camera"])
    return bool(max(directory.get(_BITS_PER_SAMPLE, (1,))) > 8)


def _decode_deep_tiff(data: bytes, limits: Limits) -> Raw:
    """Decode the first page of a TIFF with more than 8 bits per sample."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        _check_tiff_page(page, limits)
        stored = page.asarray(maxworkers=1)  # (H, W), (H, W, C) or, plane by plane, (C, H, W)
        stored = np.moveaxis(stored, 0, -1) if page.axes == "SYX" else stored
        stored = stored.reshape(page.imagelength, page.imagewidth, -1)  # (H, W, C)
        photometric, extras = int(page.photometric), [int(extra) for extra in page.extrasamples]
        bits = int(page.bitspersample)
        tags = {tag.code: tag.value for tag in page.tags}
        has_more_pages = len(file.pages) > 1
    colors = _COLOR_SAMPLES[photometric]
    samples, scale = _scale_samples(stored[..., :colors], bits)
    if photometric == 0:
        samples = (np.uint16(65535) if samples.dtype == np.uint16 else np.float32(1)) - samples
    alpha = None
    if extras and extras[0] in (_PREMULTIPLIED, _STRAIGHT):
        alpha, _ = _scale_samples(stored[..., colors], bits)  # (H, W)
        if extras[0] == _PREMULTIPLIED:
            _unpremultiply(samples, alpha)
    icc = tags.get(_ICC_PROFILE)
    raw = Raw(samples, alpha, bytes(icc) if icc else None, tags.get(exif.ORIENTATION, 1))
    raw.metadata = exif.select_tags(tags, {})
    if scale > 1:
        raw.warnings.append(f"its values reach {scale:g}, which is used as white")
    if has_more_pages:
        raw.warnings.append(_SEVERAL_IMAGES)
    return raw


def _check_tiff_page(page: Any, limits: Limits) -> None:
    """Reject a page that cannot be decoded faithfully, or is larger than its header says."""
    limits.check(int(page.imagewidth), int(page.imagelength))
    if int(page.tilewidth) * int(page.tilelength) > limits.max_pixels:
        raise Refusal("its tiles are larger than the limit for whole pictures; save it again with smaller ones")
    if int(page.compression) not in _COMPRESSIONS:
        raise Refusal("its compression is not supported at this bit depth; save it with Deflate or LZW")
    photometric = int(page.photometric)
    if photometric not in _COLOR_SAMPLES or page.axes not in ("YX", "YXS", "SYX"):
        raise Refusal("its color layout is not supported; save it as 16-bit RGB")
    if page.dtype is None or page.dtype.kind not in "uf":
        raise Refusal("its values are signed or complex numbers; save it as 16-bit RGB or gray")
    samples = page.samplesperpixel
    limits.check_depth(int(page.imagewidth) * int(page.imagelength), page.dtype.itemsize * samples)
    if not _COLOR_SAMPLES[photometric] <= samples <= _COLOR_SAMPLES[photometric] + 4:
        raise Refusal(f"it has {samples} values per pixel; save it as 16-bit RGB or gray")


def _scale_samples(samples: Array, bits: int) -> tuple[Array, float]:
    """Copy samples to uint16, or to float32 in [0, 1]; also return the divisor of float samples."""
    if bits == 16 and samples.dtype.kind == "u":
        return samples.astype(np.uint16), 1.0  # also converts the byte order
    if samples.dtype.kind == "u":
        scale, divisor = 1.0, 2.0**bits - 1
    else:
        if not all(np.isfinite(samples[rows]).all() for rows in iter_strips(*samples.shape[:2])):
            raise Refusal(_NOT_FINITE)
        # Divided, not clipped, so that a scan stored as 0 to 255, or a highlight above 1, keeps its detail.
        scale = divisor = max(float(samples.max()), 1.0)
    scaled = np.empty(samples.shape, np.float32)
    for rows in iter_strips(*samples.shape[:2]):
        scaled[rows] = np.clip(samples[rows] / divisor, 0, 1)
    return scaled, scale


def _unpremultiply(samples: Array, alpha: Array) -> None:
    """Divide samples by alpha in place; they become 0 where alpha is 0."""
    white = 65535 if samples.dtype == np.uint16 else 1
    for rows in iter_strips(*alpha.shape):
        colors = samples[rows].astype(np.float32)  # (h, W, C)
        share = alpha[rows][..., None] / np.float32(white)  # (h, W, 1)
        divided = np.divide(colors, share, out=np.zeros_like(colors), where=share > 0)
        divided = np.minimum(divided, white)
        samples[rows] = np.rint(divided) if white > 1 else divided


def read_jxl_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from the SizeHeader of the codestream (ISO/IEC 18181-1)."""
    bits = int.from_bytes(_find_jxl_codestream(data)[2:18], "little")  # fields are packed from the lowest bit up

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    is_small = take(1)

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = take_side()
    ratios = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    numerator, denominator = ratios[take(3)]
    width = height * numerator // denominator if numerator else take_side()
    return width, height


def _find_jxl_codestream(data: bytes) -> bytes:
    """Return the beginning of the codestream, which may be inside the boxes of a container."""
    at = 0
    while data[at : at + 2] != b"\xff\x0a":
        length, box = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = at + (16 if length == 1 else 8)
        if box in (b"jxlc", b"jxlp"):
            start += 4 * (box == b"jxlp")  # a partial codestream begins with its number
            return data[start : start + 18]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < 8:  # 0: the last box; anything else is damage
            raise ValueError("no codestream in the JPEG XL container")
        at += length
    return data[at : at + 18]
