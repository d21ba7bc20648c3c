"""Decoding of TIFF by tifffile and imagecodecs, which, unlike libtiff, report damage instead of printing it.

Pillow parses the tags first: what a header claims is checked before tifffile sees it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from styler.images import chunks, color, exif
from styler.images.decode import (
    NOT_FINITE,
    PILLOW_ERRORS,
    SEVERAL_IMAGES,
    Array,
    Limits,
    Raw,
    decoding,
    ignore_empty_alpha,
    iter_strips,
    open_image,
    read_jxl_header,
    silence_decoders,
)
from styler.images.detect import ADVICE, Refusal

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

_MAX_PAGES = 64  # that are looked at
_ERRORS = (*PILLOW_ERRORS, AssertionError)

# Tags and their values
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _WIDTH, _LENGTH, _SAMPLES_PER_PIXEL = 254, 255, 256, 257, 277
_TRANSFER_FUNCTION, _WHITE_POINT, _PRIMARIES, _COLOR_MAP, _SUB_IFDS = 301, 318, 319, 320, 330
_PHOTOMETRIC, _YCBCR_COEFFICIENTS, _REFERENCE_BLACK_WHITE, _ICC_PROFILE, _DNG_VERSION = 262, 529, 532, 34675, 50706
_SENSOR_DATA = (32803, 34892)  # values of PhotometricInterpretation in raw camera files
_INVERTED, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 0, 2, 3, 5, 6, 8, 9
_COLOR_SAMPLES = {_INVERTED: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}
"""Samples per pixel without extra ones, by PhotometricInterpretation."""
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples that are alpha; 0 is "unspecified"
_JPEG, _LERC, _WEBP = (6, 7, 33007, 34892), 34887, 50001
_SIZED = (*_JPEG, _LERC, _WEBP, 50002, 52546)  # with a size of their own in each strip or tile; the last two: JPEG XL
_COMPRESSIONS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000, *_SIZED)
"""None, CCITT, LZW, Deflate, PackBits, LZMA, Zstandard, and the sized ones."""


@dataclass(slots=True)
class _Page:
    """One page as tifffile has decoded it."""

    stored: Array  # (H, W, C)
    photometric: int
    bits: int
    extras: list[int]  # what the samples beyond the colors are
    is_rgb: bool  # the codec has converted YCbCr


def decode_tiff(data: bytes, limits: Limits) -> Raw:
    """Decode the first page of full resolution.

    Raises:
        Refusal: it exceeds the limits, or is stored in a way that is not supported.
        Damage: the data is damaged.
    """
    silence_decoders()
    with decoding(*PILLOW_ERRORS):
        pages = _list_directories(data)
    tags, index, is_alone = _choose_page(pages)
    for directory in {0: pages[0][1], index: tags}.values():  # tifffile parses the first one, too
        _check_header(directory, limits)
    page = _decode_page(data, pages[index][0], limits)
    raw, scale = _convert_page(page, tags)
    raw.kind = "tiff"
    with decoding(*PILLOW_ERRORS):
        _describe(raw, data, tags, page)
    if scale > 1:
        raw.warnings.append(f"its values reach {scale:g}, which is used as white")
    if index:
        raw.warnings.append("its first page is a thumbnail; the page of full resolution is used")
    elif not is_alone:
        raw.warnings.append(SEVERAL_IMAGES)
    ignore_empty_alpha(raw)
    return raw


def read_first_directory(data: bytes) -> "ImageFileDirectory_v2":
    """Parse the tags of the first page.

    Raises:
        Damage: they are damaged.
    """
    with decoding(*PILLOW_ERRORS):
        return _load_directory(data)


def _load_directory(data: bytes, offset: int = 0) -> "ImageFileDirectory_v2":
    """Parse the tags at `offset`, or of the first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    is_big = 43 in (data[2], data[3])  # BigTIFF, whose header is longer
    directory = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    stream = BytesIO(data)
    stream.seek(offset or directory.next)
    directory.load(stream)
    return directory


def _list_directories(data: bytes) -> list[tuple[int, "ImageFileDirectory_v2"]]:
    """Return offset and tags of the pages, and after them of the first page's SubIFDs."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    is_big = 43 in (data[2], data[3])
    offset = ImageFileDirectory_v2(data[: 16 if is_big else 8]).next
    if offset >= len(data):
        size = f"at least {offset - len(data):,} bytes are missing"
        raise Refusal(f"its TIFF data ends too early: {size}; download or copy it again")
    pages: list[tuple[int, ImageFileDirectory_v2]] = []
    while offset and len(pages) < _MAX_PAGES and offset not in [place for place, _ in pages]:
        try:
            directory = _load_directory(data, offset)
        except PILLOW_ERRORS:
            if not pages:
                raise
            break  # a page that is not needed
        pages.append((offset, directory))
        offset = directory.next
    places = [
        place for place in _as_tuple(pages[0][1].get(_SUB_IFDS)) if isinstance(place, int) and 0 < place < len(data)
    ]
    return pages + [(place, _load_directory(data, place)) for place in places[:_MAX_PAGES]]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _choose_page(pages: list[tuple[int, "ImageFileDirectory_v2"]]) -> tuple["ImageFileDirectory_v2", int, bool]:
    """Return tags and index of the page of full resolution, and whether it is the only one.

    Raises:
        Refusal: it is a raw camera file in TIFF format, whose first page is a thumbnail.
    """
    tags = [directory for _, directory in pages]
    if _DNG_VERSION in tags[0] or any(directory.get(_PHOTOMETRIC) in _SENSOR_DATA for directory in tags):
        raise Refusal(ADVICE["camera"])
    full = [index for index, directory in enumerate(tags) if not _is_reduced(directory)]
    index = full[0] if full else 0
    return tags[index], index, len(full) < 2


def _is_reduced(directory: "ImageFileDirectory_v2") -> bool:
    """Return whether a page is a smaller copy of another, or a mask."""
    kind = directory.get(_SUBFILE_TYPE, 0)
    return bool(isinstance(kind, int) and kind & 5) or directory.get(_OLD_SUBFILE_TYPE) == 2


def _check_header(directory: "ImageFileDirectory_v2", limits: Limits) -> None:
    """Check the sizes, because tifffile would repeat even text that many times, and fill the memory."""
    sizes = [directory.get(_WIDTH), directory.get(_LENGTH), directory.get(_SAMPLES_PER_PIXEL, 1)]
    width, length, samples = (size if isinstance(size, int) else -1 for size in sizes)
    if min(width, length, samples) < 0:
        raise Refusal("its width, height or number of samples is not a number; export it again")
    limits.check(width, length)


def _decode_page(data: bytes, offset: int, limits: Limits) -> _Page:
    """Decode the page at `offset`."""
    import tifffile

    errors = (*_ERRORS, tifffile.TiffFileError)
    with decoding(*errors), tifffile.TiffFile(BytesIO(data)) as file:
        file.filehandle.seek(offset)
        page = tifffile.TiffPage(file, 0)
        _check_page(page, limits)
        try:
            _check_segments(page, data, limits)
            stored = page.asarray(maxworkers=1)  # (H, W), (H, W, C) or, plane by plane, (C, H, W)
        except errors as error:
            if missing := _describe_missing(page, data):
                again = "download or copy it again"
                raise Refusal(f"its TIFF data ends too early: {missing} of its pixels are missing; {again}") from error
            raise
        stored = np.moveaxis(stored, 0, -1) if page.axes == "SYX" else stored
        stored = stored.reshape(page.imagelength, page.imagewidth, -1)  # (H, W, C)
        is_rgb = int(page.compression) in _JPEG and int(page.planarconfig) == 1
        extras = [int(extra) for extra in page.extrasamples]
        photometric, bits = int(page.photometric), int(page.bitspersample)
    stored = stored.view(np.uint8) if stored.dtype == np.int8 else stored  # as other programs read it
    if not extras and photometric in (_INVERTED, 1, _RGB) and stored.shape[-1] == _COLOR_SAMPLES[photometric] + 1:
        extras = [_STRAIGHT]  # as some programs write it
    return _Page(stored, photometric, bits, extras, is_rgb)


def _check_page(page: Any, limits: Limits) -> None:
    """Reject a page that cannot be decoded faithfully, or is larger than its header says."""
    limits.check(int(page.imagewidth), int(page.imagelength))
    if int(page.tilewidth) * int(page.tilelength) > limits.max_pixels:
        raise Refusal("its tiles are larger than the limit for whole pictures; save it again with smaller ones")
    if int(page.compression) not in _COMPRESSIONS:
        raise Refusal(f"its compression ({_name_compression(page)}) is not supported; save it with LZW or Deflate")
    photometric = int(page.photometric)
    if photometric not in _COLOR_SAMPLES or page.axes not in ("YX", "YXS", "SYX"):
        raise Refusal("its color layout is not supported; save it as 16-bit RGB")
    if page.dtype is None or (page.dtype.kind not in "ufb" and page.dtype != np.int8):
        raise Refusal("its values are signed or complex numbers; save it as 16-bit RGB or gray")
    if page.is_subsampled and int(page.compression) not in _JPEG:
        raise Refusal(
            "its colors have less resolution than its luminance, which is only supported with JPEG "
            "compression; save it as RGB"
        )
    samples = page.samplesperpixel
    limits.check_depth(int(page.imagewidth) * int(page.imagelength), page.dtype.itemsize * samples)
    if not _COLOR_SAMPLES[photometric] <= samples <= _COLOR_SAMPLES[photometric] + 4:
        raise Refusal(f"it has {samples} values per pixel; save it as 16-bit RGB or gray")


def _name_compression(page: Any) -> str:
    name = getattr(page.compression, "name", "")
    return f"{name} {int(page.compression)}".strip()


def _check_segments(page: Any, data: bytes, limits: Limits) -> None:
    """Check that strips or tiles which a decoder would complete are there, and are not larger than the page."""
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=False):
        if size and int(page.compression) in _SIZED:
            _check_segment(data[start : start + size], page, limits)
            if start + size > len(data):
                raise EOFError


def _describe_missing(page: Any, data: bytes) -> str:
    """Return which share of the strips or tiles is behind the end of the file; empty if none is."""
    sizes = [(start, size) for start, size in zip(page.dataoffsets, page.databytecounts, strict=False) if size]
    missing = sum(size - len(data[start : start + size]) for start, size in sizes)
    return chunks.describe_share(missing / sum(size for _, size in sizes)) if missing else ""


def _check_segment(data: bytes, page: Any, limits: Limits) -> None:
    """Raise if a strip or tile, compressed as a picture of its own, claims more pixels than the page has room for."""
    room = max(int(page.imagewidth), int(page.tilewidth)) * max(int(page.imagelength), int(page.tilelength))
    width, height = _read_segment_size(data, int(page.compression), limits)
    if width * height > room + (1 << 20):
        raise Refusal("one of its parts is larger than the whole picture; save it again")


def _read_segment_size(data: bytes, compression: int, limits: Limits) -> tuple[int, int]:
    if compression in _JPEG:
        header = chunks.read_jpeg(data)
        return header.width, header.height
    if compression == _WEBP:
        width, height = open_image(data, "webp", replace(limits, min_side=1)).size
        return width, height
    if compression != _LERC:
        jxl = read_jxl_header(data)
        return jxl.width, jxl.height
    if data[:6] != b"Lerc2 ":
        raise Refusal("its compression (LERC with another inside) is not supported; save it with LZW or Deflate")
    start = 14 if int.from_bytes(data[6:10], "little") >= 3 else 10  # later versions have a checksum
    return int.from_bytes(data[start : start + 4], "little"), int.from_bytes(data[start + 4 : start + 8], "little")


def _convert_page(page: _Page, tags: Mapping[int, Any]) -> tuple[Raw, float]:
    """Convert samples to gray, RGB or CMYK with separate alpha; also return the divisor of float samples."""
    count = _COLOR_SAMPLES[page.photometric]
    scale = 1.0
    if page.photometric == _PALETTE:
        samples = _apply_palette(page.stored[..., 0], tags.get(_COLOR_MAP), page.bits)
    elif page.photometric in (_CIELAB, _ICCLAB):
        samples = _convert_lab(page.stored[..., :3], is_signed=page.photometric == _CIELAB)
    else:
        samples, scale = _scale_samples(page.stored[..., :count], page.bits)
    white = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1
    if page.photometric == _INVERTED:
        samples = samples.dtype.type(white) - samples
    elif page.photometric == _YCBCR and not page.is_rgb:
        samples = _convert_ycbcr(samples, tags)
    alpha = None
    if page.extras and page.extras[0] in (_PREMULTIPLIED, _STRAIGHT) and page.stored.shape[-1] > count:
        alpha, _ = _scale_samples(page.stored[..., count], page.bits)  # (H, W)
        if page.extras[0] == _PREMULTIPLIED and alpha.any():
            _unpremultiply(samples, alpha)
    return Raw(samples, alpha), scale


def _apply_palette(indices: Array, color_map: Any, bits: int) -> Array:
    """Return the colors (H, W, 3), uint16 or, if they have no more, 8 bits."""
    table = np.asarray(_as_tuple(color_map))
    if table.dtype.kind != "i" or table.size != 3 << bits:
        raise Refusal("its color table is missing or damaged; save it as RGB")
    table = np.clip(table, 0, 65535).reshape(3, -1).T  # (N, 3)
    if table.max() < 256:
        table = table * 257  # as some programs write them
    high = (table >> 8).astype(np.uint8)
    is_eight = bool((high.astype(int) * 257 == table).all() or (high.astype(int) * 256 == table).all())
    colors: Array = high if is_eight else table.astype(np.uint16)
    return np.take(colors, indices, axis=0, mode="clip")


def _convert_lab(stored: Array, *, is_signed: bool) -> NDArray[np.float32]:
    """Return sRGB (H, W, 3) of CIE L*a*b* with 8 or 16 bits (TIFF 6, section 23; ICC Lab: Adobe's technical notes)."""
    if stored.dtype not in (np.uint8, np.uint16):
        raise Refusal("its color layout is not supported; save it as 16-bit RGB")
    eight = stored.dtype == np.uint8
    pixels = np.empty(stored.shape, np.float32)
    for rows in iter_strips(*stored.shape[:2]):
        lab = stored[rows].astype(np.float32)  # (h, W, 3)
        full = 255 if eight else 65535 if is_signed else 65280
        lab[..., 0] *= 100 / full
        if is_signed:
            lab[..., 1:] = stored[rows][..., 1:].view(np.int8 if eight else np.int16)
            lab[..., 1:] /= 1 if eight else 256
        else:
            lab[..., 1:] = lab[..., 1:] / (1 if eight else 256) - 128
        pixels[rows] = color.lab_to_srgb(lab)
    return pixels


def _convert_ycbcr(samples: Array, tags: Mapping[int, Any]) -> NDArray[np.float32]:
    """Return RGB (H, W, 3) in [0, 1] of YCbCr, by the coefficients and ranges in the tags (TIFF 6, section 21)."""
    red, green, blue = _read_floats(tags.get(_YCBCR_COEFFICIENTS), 3) or (0.299, 0.587, 0.114)
    black, white, *ranges = _read_floats(tags.get(_REFERENCE_BLACK_WHITE), 6) or (0, 255, 128, 255, 128, 255)
    spans = (white - black, ranges[1] - ranges[0], ranges[3] - ranges[2])
    if not green or min(spans) <= 0:
        raise Refusal("its YCbCr coefficients are damaged; save it as RGB")
    pixels = np.empty(samples.shape, np.float32)
    for rows in iter_strips(*samples.shape[:2]):
        stored = color.normalize(samples[rows]) * np.float32(255)  # (h, W, 3)
        luma = (stored[..., 0] - black) / spans[0]
        cb, cr = (stored[..., 1] - ranges[0]) / spans[1] / 2, (stored[..., 2] - ranges[2]) / spans[2] / 2
        r, b = luma + cr * (2 - 2 * red), luma + cb * (2 - 2 * blue)
        pixels[rows] = np.clip(np.stack([r, (luma - red * r - blue * b) / green, b], -1), 0, 1)
    return pixels


def _read_floats(value: Any, count: int) -> tuple[float, ...]:
    """Return rational numbers of a tag; empty if there are not `count` finite ones."""
    try:
        numbers = tuple(float(number) for number in _as_tuple(value))
    except (TypeError, ValueError, ZeroDivisionError):
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def _describe(raw: Raw, data: bytes, tags: "ImageFileDirectory_v2", page: _Page) -> None:
    """Add the tags that are not about single pixels."""
    if page.photometric not in (_CIELAB, _ICCLAB):  # which have been converted to sRGB
        icc = tags.get(_ICC_PROFILE)
        raw.claims["icc"] = icc if isinstance(icc, bytes) else None
        raw.claims["calibration"] = _read_calibration(tags, page.bits)
    raw.orientation = tags.get(exif.ORIENTATION, 1)
    details: Mapping[int, Any] = {}
    try:
        if isinstance(place := tags.get(exif.EXIF_IFD), int):
            details = _load_directory(data, place)
        inner = details.get(exif.INTEROP_IFD)
        index = _load_directory(data, inner).get(exif.INTEROP_INDEX) if isinstance(inner, int) else None
        raw.claims["exif"] = exif.name_color_space(details.get(exif.COLOR_SPACE), index)
    except exif.BROKEN:
        raw.warnings.append("its EXIF data is damaged and was ignored")
    raw.metadata = exif.select_tags(tags, details)


def _read_calibration(tags: "ImageFileDirectory_v2", bits: int) -> chunks.Calibration | None:
    """Return what WhitePoint, PrimaryChromaticities and TransferFunction say; None without all of them."""
    numbers = _read_floats(tags.get(_WHITE_POINT), 2) + _read_floats(tags.get(_PRIMARIES), 6)
    places = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    primaries = places if len(places) == 4 and chunks.are_primaries(places) else None
    curves = None
    values = _as_tuple(tags.get(_TRANSFER_FUNCTION))
    if bits <= 16 and len(values) in (1 << bits, 3 << bits) and all(isinstance(value, int) for value in values):
        curves = np.clip(np.array(values).reshape(-1, 1 << bits), 0, 65535).astype(np.uint16)
        curves = np.broadcast_to(curves, (3, 1 << bits))
    return chunks.Calibration(primaries, None, curves) if primaries or curves is not None else None


def _scale_samples(samples: Array, bits: int) -> tuple[Array, float]:
    """Copy samples to uint8, uint16, or float32 in [0, 1]; also return the divisor of float samples."""
    if samples.dtype.kind == "b":
        return samples.astype(np.uint8) * np.uint8(255), 1.0
    if bits in (8, 16) and samples.dtype.kind == "u":
        return samples.astype(np.uint8 if bits == 8 else np.uint16), 1.0  # also converts the byte order
    if bits in (2, 4) and samples.dtype == np.uint8:
        return samples * np.uint8(255 // (2**bits - 1)), 1.0
    if samples.dtype.kind == "u":
        scale, divisor = 1.0, 2.0**bits - 1
    else:
        if not all(np.isfinite(samples[rows]).all() for rows in iter_strips(*samples.shape[:2])):
            raise Refusal(NOT_FINITE)
        # Divided, not clipped, so that a scan stored as 0 to 255, or a highlight above 1, keeps its detail.
        scale = divisor = max(float(samples.max()), 1.0)
    scaled = np.empty(samples.shape, np.float32)
    for rows in iter_strips(*samples.shape[:2]):
        scaled[rows] = np.clip(samples[rows] / divisor, 0, 1)
    return scaled, scale


def _unpremultiply(samples: Array, alpha: Array) -> None:
    """Divide samples by alpha in place; they become 0 where alpha is 0."""
    white = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1
    for rows in iter_strips(*alpha.shape):
        colors = samples[rows].astype(np.float32)  # (h, W, C)
        share = alpha[rows][..., None] / np.float32(white)  # (h, W, 1)
        divided = np.divide(colors, share, out=np.zeros_like(colors), where=share > 0)
        divided = np.minimum(divided, white)
        samples[rows] = np.rint(divided) if white > 1 else divided
