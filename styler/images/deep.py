"""Samples of more than 8 bit, which Pillow would flatten: 16-bit PNG by imagecodecs, deep and float TIFF by tifffile.

Both are imported only when such a picture comes.
"""

from io import BytesIO
from typing import Any

import numpy as np

from styler.images import exif
from styler.images.kinds import Refusal
from styler.images.raw import NOT_FINITE, SEVERAL, Array, Limits, Raw, strips

_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4}  # colour samples by PhotometricInterpretation: grey (0: inverted), RGB, CMYK
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples that are alpha; 0 is "unspecified"
_ICC_PROFILE = 34675

# None, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard: these unpack to no more than the space the header's size
# gives them. Pictures inside the TIFF (JPEG, PNG, JPEG XL…) have headers of their own, which would go unchecked.
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
_FULL = np.float32(65535)


def png(data: bytes) -> tuple[Array, Array | None]:
    """Decode a 16-bit PNG to samples (H, W, 1 or 3) and alpha (H, W) or None, uint16."""
    import imagecodecs

    pixels = imagecodecs.png_decode(_essential(data))  # (H, W) or (H, W, C)
    if pixels.ndim == 2:
        return pixels[..., None], None
    if pixels.shape[-1] in (2, 4):
        return pixels[..., :-1].copy(), pixels[..., -1].copy()  # apart, so that the memory of one comes free alone
    return pixels, None


def _essential(data: bytes) -> bytes:
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


def tiff(data: bytes, limits: Limits) -> Raw:
    """Decode the first page of a TIFF of more than 8 bit to a sample."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        _check(page, limits)
        stored = page.asarray(maxworkers=1)  # (H, W), (H, W, C) or, plane by plane, (C, H, W)
        stored = np.moveaxis(stored, 0, -1) if page.axes == "SYX" else stored
        stored = stored.reshape(page.imagelength, page.imagewidth, -1)  # (H, W, C)
        photometric, extras = int(page.photometric), [int(extra) for extra in page.extrasamples]
        bits = int(page.bitspersample)
        tags = {tag.code: tag.value for tag in page.tags}
        several = len(file.pages) > 1
    colours = _COLOURS[photometric]
    samples, top = _scaled(stored[..., :colours], bits)
    if photometric == 0:
        samples = (_FULL.astype(np.uint16) if samples.dtype == np.uint16 else np.float32(1)) - samples
    alpha = None
    if extras and extras[0] in (_PREMULTIPLIED, _STRAIGHT):
        alpha, _ = _scaled(stored[..., colours], bits)  # (H, W)
        if extras[0] == _PREMULTIPLIED:
            _unpremultiply(samples, alpha)
    icc = tags.get(_ICC_PROFILE)
    raw = Raw(samples, alpha, bytes(icc) if icc else None, tags.get(exif.ORIENTATION, 1))
    raw.metadata = exif.whitelisted(tags, {})
    raw.warnings += [f"its values reach {top:g}, which was taken as full scale"] * (top > 1) + [SEVERAL] * several
    return raw


def _check(page: Any, limits: Limits) -> None:
    """Refuse what cannot be decoded faithfully, or would be larger than its header admits."""
    limits.check(int(page.imagewidth), int(page.imagelength))
    if int(page.tilewidth) * int(page.tilelength) > limits.max_pixels:
        raise Refusal("its tiles are larger than the limit for whole pictures; save it again with smaller ones")
    if int(page.compression) not in _COMPRESSIONS:
        raise Refusal("its compression is not read here at this depth; save it with Deflate or LZW")
    photometric = int(page.photometric)
    if photometric not in _COLOURS or page.axes not in ("YX", "YXS", "SYX"):
        raise Refusal("its colours are stored in a way that is not read here; save it as 16-bit RGB")
    if page.dtype is None or page.dtype.kind not in "uf":
        raise Refusal("its values are signed or complex numbers; save it as 16-bit RGB or grey")
    samples = page.samplesperpixel
    limits.check_depth(int(page.imagewidth) * int(page.imagelength), page.dtype.itemsize * samples)
    if not _COLOURS[photometric] <= samples <= _COLOURS[photometric] + 4:
        raise Refusal(f"it has {samples} values to a pixel; save it as 16-bit RGB or grey")


def _scaled(samples: Array, bits: int) -> tuple[Array, float]:
    """Copy samples to uint16, or to float32 in [0, 1]; also return what float samples were divided by."""
    if bits == 16 and samples.dtype.kind == "u":
        return samples.astype(np.uint16), 1.0  # the file's byte order may not be ours
    if samples.dtype.kind == "u":
        top, full = 1.0, 2.0**bits - 1
    else:
        if not all(np.isfinite(samples[rows]).all() for rows in strips(*samples.shape[:2])):
            raise Refusal(NOT_FINITE)
        # Divided, not clipped: a scan kept as 0 to 255, or a highlight over 1, keeps its drawing.
        top = full = max(float(samples.max()), 1.0)
    scaled = np.empty(samples.shape, np.float32)
    for rows in strips(*samples.shape[:2]):
        scaled[rows] = np.clip(samples[rows] / full, 0, 1)
    return scaled, top


def _unpremultiply(samples: Array, alpha: Array) -> None:
    """Divide colours, in place, by the alpha that they were stored multiplied with; where that is 0 they are 0."""
    full = 65535 if samples.dtype == np.uint16 else 1
    for rows in strips(*alpha.shape):
        colours = samples[rows].astype(np.float32)  # (h, W, C)
        share = alpha[rows][..., None] / np.float32(full)  # (h, W, 1)
        divided = np.divide(colours, share, out=np.zeros_like(colours), where=share > 0)
        divided = np.minimum(divided, full)
        samples[rows] = np.rint(divided) if full > 1 else divided
