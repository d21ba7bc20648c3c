"""One picture's bytes → its samples as stored, by Pillow; what Pillow would flatten to 8 bit goes to `deep`.

Decoders are named classes, never `Image.open`: nothing is guessed, no plugin beyond the allow-list can be reached (no
Ghostscript, no MPO), and Pillow's process-wide pixel limit, which is not ours to change, is not asked.
"""

import importlib
import logging
import struct
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from styler.images import exif
from styler.images.kinds import Refusal
from styler.images.raw import NOT_FINITE, SEVERAL, Array, Limits, Raw, strips

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

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
    hush()
    if kind == "tiff" and _is_deep(first_directory(data), limits):
        from styler.images import deep

        return deep.tiff(data, limits)
    image = open_image(data, kind, limits)
    limits.check(*image.size)
    if kind == "png" and data[24] == 16:  # the bit depth, in IHDR
        from styler.images import deep

        raw = Raw(*deep.png(data))
    else:
        image.load()
        raw = Raw(*_split(image))
    raw.icc = image.info.get("icc_profile") if image.mode != "LAB" else None  # Lab is converted already
    raw.orientation, raw.metadata, raw.warnings = exif.read(image)
    if kind == "jxl":
        raw.orientation = 1  # its decoder has turned the picture already, and left the EXIF data as they were
    if getattr(image, "is_animated", False):
        raw.warnings.append(SEVERAL)
    return raw


def hush() -> None:
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
        from styler.images import extras

        return extras.heif(data) if kind == "heif" else extras.jxl(data, limits)
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


def first_directory(data: bytes) -> "ImageFileDirectory_v2":
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


def _split(image: Image.Image) -> tuple[Array, Array | None]:
    """Convert any Pillow mode to samples (H, W, C) and alpha (H, W) or None, by strips."""
    width, height = image.size
    wide = image.mode[:1] in ("I", "F")
    wanted = image.mode if wide else _target(image.mode, "transparency" in image.info)
    has_alpha = wanted in ("LA", "RGBA")
    kind = np.uint8 if not wide else np.uint16 if image.mode.startswith("I;16") else np.float32
    samples = np.empty((height, width, 1 if wide else len(wanted) - has_alpha), kind)
    alpha = np.empty((height, width), kind) if has_alpha else None
    for rows in strips(height, width):
        strip = image._new(image.im.crop((0, rows.start, width, rows.stop)))  # `Image.crop` asks for Pillow's limit
        part = _from_wide(strip) if wide else np.asarray(_converted(strip, wanted))
        part = part.reshape(*part.shape[:2], -1)  # (h, W, C)
        samples[rows] = part[..., : samples.shape[-1]]
        if alpha is not None:
            alpha[rows] = part[..., -1]
    return samples, alpha


def _converted(image: Image.Image, wanted: str) -> Image.Image:
    if image.mode == "LAB":
        return _from_lab(image)
    return image if image.mode == wanted else image.convert(wanted)


def _target(mode: str, has_transparency: bool) -> str:
    """Choose the Pillow mode to convert `mode` to; a transparent colour or palette entry becomes alpha."""
    if has_transparency and mode in ("1", "L", "P", "RGB"):
        return "LA" if mode == "L" else "RGBA"
    plain = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    return mode if mode in ("L", "LA", "RGB", "RGBA", "CMYK") else plain.get(mode, "RGB")


def _from_wide(image: Image.Image) -> Array:
    if image.mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16)
    grey = np.asarray(image, dtype=np.float64) / (65535 if image.mode == "I" else 1)  # (h, W)
    if not np.isfinite(grey).all():
        raise Refusal(NOT_FINITE)
    return np.clip(grey, 0, 1)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only when done in place
    return converted
