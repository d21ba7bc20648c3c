"""Turn the bytes of one image into its samples as stored: Pillow for 8 bits, imagecodecs and tifffile for more.

Decoders are named classes, never `Image.open`: nothing is guessed, no plugin beyond the allow-list can be reached (no
Ghostscript, no MPO), and Pillow's process-wide pixel limit, which is not ours to change, is not asked. Decoders that
are optional or rarely needed are imported when such an image arrives. An image at the limit is large, so whatever is
computed for every pixel is computed by `iter_strips`, without copies of the whole.
"""

import importlib
import logging
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from styler.images import exif
from styler.images.detect import Refusal

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2


Array = NDArray[Any]

SEVERAL = "it holds more than one picture, of which the first was taken"
_STRIP = 1_000_000  # pixels
_DEEPEST = 8  # bytes of a pixel of 16-bit RGBA

NOT_FINITE = "some of its values are not finite numbers (NaN or Inf); repair it first"


def iter_strips(height: int, width: int) -> Iterator[slice]:
    """Cut the rows of a picture into strips of about a million pixels."""
    rows = max(1, _STRIP // max(1, width))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


@dataclass(slots=True)
class Raw:
    """A picture as stored: not yet turned, not yet sRGB, alpha still apart."""

    samples: Array  # (H, W, C) uint8, uint16 or float32 in [0, 1]; C: 1 grey, 3 RGB, 4 CMYK (full scale is full ink)
    alpha: Array | None = None  # (H, W), one of the same types
    icc: bytes | None = None
    orientation: Any = 1  # as the file says; EXIF knows 1 to 8
    warnings: list[str] = field(default_factory=list)  # sentences without their beginning and full stop
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture's header may claim: width × height at most, and each side at least."""

    max_pixels: int
    min_side: int

    def check(self, width: int, height: int) -> None:
        """Raise `Refusal` if a picture of this size may not be decoded."""
        size = f"it is {width} × {height} px"
        if width * height > self.max_pixels:
            limit = f"{self.max_pixels / 1e6:g} megapixels"
            raise Refusal(f"{size}, more than the limit of {limit}; make it smaller or raise the limit")
        if min(width, height) < self.min_side:
            raise Refusal(f"{size} and must be at least {self.min_side} px on each side; use a larger one")

    def check_depth(self, pixels: int, bytes_each: int) -> None:
        """Raise `Refusal` if so many pixels may be decoded, but not at so many bytes each."""
        if pixels * bytes_each > self.max_pixels * _DEEPEST:
            raise Refusal(
                f"its {bytes_each} bytes a pixel are {pixels * bytes_each / 1e6:.0f} MB in all, more than the limit of "
                f"{self.max_pixels * _DEEPEST / 1e6:g} MB; save it with 16 bit or make it smaller"
            )


def open_heif(data: bytes) -> ImageFile.ImageFile:
    """Open HEIC or HEIF; its decoder turns the picture upright by itself."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as problem:
        raise Refusal(
            "it is HEIC, which needs an extra package; run pip install 'styler[heif]', save it as JPEG, or let "
            "the phone send JPEG (on iPhones: Settings, Camera, Formats, Most Compatible)"
        ) from problem
    return cast("ImageFile.ImageFile", HeifImageFile(BytesIO(data)))


def open_jxl(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Open JPEG XL. Its plugin decodes at once, so the size is read from the header and checked before."""
    try:
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile
    except ImportError as problem:
        raise Refusal(
            "it is JPEG XL, which needs an extra package; run pip install 'styler[jxl]' or save it as PNG"
        ) from problem
    limits.check(*read_jxl_size(data))
    return cast("ImageFile.ImageFile", JXLImageFile(BytesIO(data)))


def read_jxl_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) as the codestream's SizeHeader tells them (ISO/IEC 18181-1)."""
    stream = _codestream(data)[2:18]
    bits = int.from_bytes(stream, "little")  # fields lie in it from the lowest bit up

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratios = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    numerator, denominator = ratios[take(3)]
    width = height * numerator // denominator if numerator else side()
    return width, height


def _codestream(data: bytes) -> bytes:
    """Skip the boxes of a JPEG XL container up to its codestream."""
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


_COLOR_SAMPLES = {0: 1, 1: 1, 2: 3, 5: 4}  # colour samples by PhotometricInterpretation: grey (0: inverted), RGB, CMYK
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples that are alpha; 0 is "unspecified"
_ICC_PROFILE = 34675

# None, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard: these unpack to no more than the space the header's size
# gives them. Pictures inside the TIFF (JPEG, PNG, JPEG XL…) have headers of their own, which would go unchecked.
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
_FULL = np.float32(65535)


def decode_deep_png(data: bytes) -> tuple[Array, Array | None]:
    """Decode a 16-bit PNG to samples (H, W, 1 or 3) and alpha (H, W) or None, uint16."""
    import imagecodecs

    pixels = imagecodecs.png_decode(_keep_essential_chunks(data))  # (H, W) or (H, W, C)
    if pixels.ndim == 2:
        return pixels[..., None], None
    if pixels.shape[-1] in (2, 4):
        return pixels[..., :-1].copy(), pixels[..., -1].copy()  # apart, so that the memory of one comes free alone
    return pixels, None


def _keep_essential_chunks(data: bytes) -> bytes:
    """Keep the chunks of a PNG that make pixels: libpng would unpack the others too, and print its opinion of them."""
    kept = [data[:8]]
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if name in (b"IHDR", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[at:end])
        if name == b"IEND":
            break
        at = end
    return b"".join(kept)


def decode_deep_tiff(data: bytes, limits: Limits) -> Raw:
    """Decode the first page of a TIFF of more than 8 bit to a sample."""
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
        several = len(file.pages) > 1
    colours = _COLOR_SAMPLES[photometric]
    samples, top = _scale_samples(stored[..., :colours], bits)
    if photometric == 0:
        samples = (_FULL.astype(np.uint16) if samples.dtype == np.uint16 else np.float32(1)) - samples
    alpha = None
    if extras and extras[0] in (_PREMULTIPLIED, _STRAIGHT):
        alpha, _ = _scale_samples(stored[..., colours], bits)  # (H, W)
        if extras[0] == _PREMULTIPLIED:
            _unpremultiply(samples, alpha)
    icc = tags.get(_ICC_PROFILE)
    raw = Raw(samples, alpha, bytes(icc) if icc else None, tags.get(exif.ORIENTATION, 1))
    raw.metadata = exif.select_tags(tags, {})
    raw.warnings += [f"its values reach {top:g}, which was taken as full scale"] * (top > 1) + [SEVERAL] * several
    return raw


def _check_tiff_page(page: Any, limits: Limits) -> None:
    """Refuse what cannot be decoded faithfully, or would be larger than its header admits."""
    limits.check(int(page.imagewidth), int(page.imagelength))
    if int(page.tilewidth) * int(page.tilelength) > limits.max_pixels:
        raise Refusal("its tiles are larger than the limit for whole pictures; save it again with smaller ones")
    if int(page.compression) not in _COMPRESSIONS:
        raise Refusal("its compression is not read here at this depth; save it with Deflate or LZW")
    photometric = int(page.photometric)
    if photometric not in _COLOR_SAMPLES or page.axes not in ("YX", "YXS", "SYX"):
        raise Refusal("its colours are stored in a way that is not read here; save it as 16-bit RGB")
    if page.dtype is None or page.dtype.kind not in "uf":
        raise Refusal("its values are signed or complex numbers; save it as 16-bit RGB or grey")
    samples = page.samplesperpixel
    limits.check_depth(int(page.imagewidth) * int(page.imagelength), page.dtype.itemsize * samples)
    if not _COLOR_SAMPLES[photometric] <= samples <= _COLOR_SAMPLES[photometric] + 4:
        raise Refusal(f"it has {samples} values to a pixel; save it as 16-bit RGB or grey")


def _scale_samples(samples: Array, bits: int) -> tuple[Array, float]:
    """Copy samples to uint16, or to float32 in [0, 1]; also return what float samples were divided by."""
    if bits == 16 and samples.dtype.kind == "u":
        return samples.astype(np.uint16), 1.0  # the file's byte order may not be ours
    if samples.dtype.kind == "u":
        top, full = 1.0, 2.0**bits - 1
    else:
        if not all(np.isfinite(samples[rows]).all() for rows in iter_strips(*samples.shape[:2])):
            raise Refusal(NOT_FINITE)
        # Divided, not clipped: a scan kept as 0 to 255, or a highlight over 1, keeps its drawing.
        top = full = max(float(samples.max()), 1.0)
    scaled = np.empty(samples.shape, np.float32)
    for rows in iter_strips(*samples.shape[:2]):
        scaled[rows] = np.clip(samples[rows] / full, 0, 1)
    return scaled, top


def _unpremultiply(samples: Array, alpha: Array) -> None:
    """Divide colours, in place, by the alpha that they were stored multiplied with; where that is 0 they are 0."""
    full = 65535 if samples.dtype == np.uint16 else 1
    for rows in iter_strips(*alpha.shape):
        colours = samples[rows].astype(np.float32)  # (h, W, C)
        share = alpha[rows][..., None] / np.float32(full)  # (h, W, 1)
        divided = np.divide(colours, share, out=np.zeros_like(colours), where=share > 0)
        divided = np.minimum(divided, full)
        samples[rows] = np.rint(divided) if full > 1 else divided


_PLUGINS = {
    "jpeg": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "png": ("PIL.PngImagePlugin", "PngImageFile"),
    "webp": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "tiff": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "gif": ("PIL.GifImagePlugin", "GifImageFile"),
    "bmp": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "avif": ("PIL.AvifImagePlugin", "AvifImageFile"),
}

# TIFF tags
_SUBFILE_TYPE, _WIDTH, _LENGTH, _BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 254, 256, 257, 258, 277
_SUB_IFDS, _DNG_VERSION = 330, 50706


def decode(data: bytes, kind: str, limits: Limits) -> Raw:
    """Decode the first picture in `data`.

    Raises:
        Refusal: for a reason known here.
        Exception: whatever a decoder raises on damaged data.
    """
    silence_decoders()
    if kind == "tiff" and _is_deep(read_first_directory(data), limits):
        return decode_deep_tiff(data, limits)
    image = open_image(data, kind, limits)
    limits.check(*image.size)
    if kind == "png" and data[24] == 16:  # the bit depth, in IHDR
        raw = Raw(*decode_deep_png(data))
    else:
        image.load()
        raw = Raw(*_split_alpha(image))
    raw.icc = image.info.get("icc_profile") if image.mode != "LAB" else None  # Lab is converted already
    raw.orientation, raw.metadata, raw.warnings = exif.read_exif(image)
    if kind == "jxl":
        raw.orientation = 1  # its decoder has turned the picture already, and left the EXIF data as they were
    if getattr(image, "is_animated", False):
        raw.warnings.append(SEVERAL)
    return raw


def silence_decoders() -> None:
    """Keep Pillow's and tifffile's warnings off the terminal: what matters to a person becomes `Picture.warnings`.

    By filters for their modules alone, which may stay: `warnings.catch_warnings` is not safe among threads.
    """
    modules = r"(PIL|tifffile|pillow_heif|pillow_jxl)\b"
    if not any(getattr(entry[3], "pattern", entry[3]) == modules for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=modules)
    for name in ("PIL", "tifffile"):
        if not (logger := logging.getLogger(name)).handlers:
            logger.addHandler(logging.NullHandler())


def open_image(data: bytes, kind: str, limits: Limits) -> ImageFile.ImageFile:
    """Parse the header of `data` with the decoder of `kind`; pixels come with `load`."""
    if kind in ("heif", "jxl"):
        return open_heif(data) if kind == "heif" else open_jxl(data, limits)
    if kind == "png":
        _check_animation(data, limits)
    module, plugin = _PLUGINS[kind]
    image = getattr(importlib.import_module(module), plugin)(BytesIO(data))
    assert isinstance(image, ImageFile.ImageFile)
    return image


def _check_animation(data: bytes, limits: Limits) -> None:
    """Refuse an animated PNG that is too large before Pillow sees it, which fills a whole frame as it opens one."""
    at, sizes, is_animated = 8, [], False
    while at + 16 <= len(data) and (name := data[at + 4 : at + 8]) != b"IDAT":
        if name == b"IHDR":  # there should be one, first; Pillow believes the last
            sizes.append(struct.unpack(">II", data[at + 8 : at + 16]))
        is_animated |= name == b"acTL"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    for width, height in sizes if is_animated else ():
        limits.check(width, height)


def read_first_directory(data: bytes) -> "ImageFileDirectory_v2":
    """Parse the tags of a TIFF's first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    is_big = 43 in (data[2], data[3])  # BigTIFF, whose header is longer
    directory = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    stream = BytesIO(data)
    stream.seek(directory.next)
    directory.load(stream)
    return directory


def _is_deep(directory: "ImageFileDirectory_v2", limits: Limits) -> bool:
    """Are there more than 8 bits to a sample?

    Raises:
        Refusal: it is larger than `limits`, or a camera's raw file dressed as TIFF, whose first page is a thumbnail.
        TypeError: a size is no number. tifffile would multiply even words by their lengths, and so fill the memory.
    """
    width, length, samples = directory.get(_WIDTH), directory.get(_LENGTH), directory.get(_SAMPLES_PER_PIXEL, 1)
    if not (isinstance(width, int) and isinstance(length, int) and isinstance(samples, int)):
        raise TypeError("a TIFF's width, height or number of samples is no whole number")
    limits.check(width, length)
    is_thumbnail = directory.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in directory
    if is_thumbnail or _DNG_VERSION in directory:
        raise Refusal("it holds raw camera data; develop it and save it as TIFF or JPEG")
    return bool(max(directory.get(_BITS_PER_SAMPLE, (1,))) > 8)


def _split_alpha(image: Image.Image) -> tuple[Array, Array | None]:
    """Convert any Pillow mode to samples (H, W, C) and alpha (H, W) or None, by strips."""
    width, height = image.size
    wide = image.mode[:1] in ("I", "F")
    wanted = image.mode if wide else _choose_mode(image.mode, "transparency" in image.info)
    has_alpha = wanted in ("LA", "RGBA")
    kind = np.uint8 if not wide else np.uint16 if image.mode.startswith("I;16") else np.float32
    samples = np.empty((height, width, 1 if wide else len(wanted) - has_alpha), kind)
    alpha = np.empty((height, width), kind) if has_alpha else None
    for rows in iter_strips(height, width):
        strip = image._new(image.im.crop((0, rows.start, width, rows.stop)))  # `Image.crop` asks for Pillow's limit
        part = _read_wide(strip) if wide else np.asarray(_convert_mode(strip, wanted))
        part = part.reshape(*part.shape[:2], -1)  # (h, W, C)
        samples[rows] = part[..., : samples.shape[-1]]
        if alpha is not None:
            alpha[rows] = part[..., -1]
    return samples, alpha


def _convert_mode(image: Image.Image, wanted: str) -> Image.Image:
    if image.mode == "LAB":
        return _convert_lab(image)
    return image if image.mode == wanted else image.convert(wanted)


def _choose_mode(mode: str, has_transparency: bool) -> str:
    """Choose the Pillow mode to convert `mode` to; a transparent colour or palette entry becomes alpha."""
    if has_transparency and mode in ("1", "L", "P", "RGB"):
        return "LA" if mode == "L" else "RGBA"
    plain = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    return mode if mode in ("L", "LA", "RGB", "RGBA", "CMYK") else plain.get(mode, "RGB")


def _read_wide(image: Image.Image) -> Array:
    if image.mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16)
    grey = np.asarray(image, dtype=np.float64) / (65535 if image.mode == "I" else 1)  # (h, W)
    if not np.isfinite(grey).all():
        raise Refusal(NOT_FINITE)
    return np.clip(grey, 0, 1)


def _convert_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only when done in place
    return converted
