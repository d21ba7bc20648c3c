"""Conversion of stored samples to sRGB floats: embedded profile, CMYK and gray, EXIF orientation, and background.

All values are sRGB-encoded; nothing here works in linear light.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styler.images.decode import Array, Raw, iter_strips

Floats = NDArray[np.float32]

_SPACES = {1: "gray", 3: "rgb", 4: "cmyk"}
_SIGNATURES = {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk"}  # bytes 16 to 20 of a profile: its color space

# Half a step of 8 bits, in 16. A profile that differs less from sRGB is sRGB by another vendor: converting would only
# add rounding, and a picture that styler wrote would not be read back exactly.
_SRGB_TOLERANCE = 128


def convert_to_srgb(raw: Raw) -> Floats:
    """Return (H, W, 3) sRGB in [0, 1], upright, and drop the samples from `raw` to free their memory.

    A profile that cannot be used is ignored, with a warning in `raw.warnings`.
    """
    convert = _make_converter(raw.samples, raw.icc) if raw.icc else _convert_plain
    if convert is None:
        raw.warnings.append("its color profile is damaged or does not fit, and was ignored")
        convert = _convert_plain
    samples, raw.samples = rotate_upright(raw.samples, raw.orientation), raw.samples[:0].copy()
    height, width = samples.shape[:2]
    pixels = np.empty((height, width, 3), np.float32)
    for rows in iter_strips(height, width):
        pixels[rows] = convert(samples[rows])
    return pixels


def _convert_plain(samples: Array) -> Floats:
    """Convert (H, W, C) without a profile to (H, W, 3), or to (H, W, 1) if it is gray."""
    pixels = normalize(samples)
    return (1 - pixels[..., :3]) * (1 - pixels[..., 3:]) if pixels.shape[-1] == 4 else pixels


def normalize(samples: Array) -> Floats:
    """Convert integers to floats in [0, 1], contiguous in memory; floats are in [0, 1] already."""
    if samples.dtype.kind == "f":
        return np.ascontiguousarray(samples, dtype=np.float32)
    return np.divide(samples, np.iinfo(samples.dtype).max, dtype=np.float32, order="C")


def _make_converter(samples: Array, icc: bytes) -> Callable[[Array], Floats] | None:
    """Return a function that converts (H, W, C) by the profile; None if the profile cannot be used."""
    import imagecodecs

    space, profile_space = _SPACES[samples.shape[-1]], _SIGNATURES.get(icc[16:20], "")
    if profile_space != space and (space, profile_space) != ("gray", "rgb"):
        return None

    def convert(samples: Array) -> Floats:
        if samples.dtype.kind == "f":
            samples = np.rint(samples * np.float32(65535)).astype(np.uint16)
        if space != profile_space:
            samples = np.repeat(samples, 3, axis=-1)
        return normalize(_transform(samples, icc, profile_space))

    try:
        if profile_space == "rgb" and _is_srgb(icc):
            return _convert_plain
        convert(samples[:1, :1])
    except imagecodecs.CmsError:
        return None
    return convert


def _transform(samples: Array, icc: bytes, space: str) -> Array:
    import imagecodecs

    # lcms can precompute a transform as a table. For 8-bit color that is 20 times faster and as accurate; for 16 bits
    # and for gray the table is too coarse, and dark tones would change by up to 8%.
    is_table_exact = samples.dtype == np.uint8 and space != "gray"
    converted: Array = imagecodecs.cms_transform(
        np.ascontiguousarray(samples[..., 0] if space == "gray" else samples),
        icc,
        make_srgb_profile(),
        colorspace=space,
        outcolorspace="rgb",
        outdtype="uint16",
        flags=0 if is_table_exact else imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )
    return converted  # (H, W, 3)


def _is_srgb(icc: bytes) -> bool:
    """Return whether the profile leaves a grid of colors unchanged."""
    levels = np.linspace(0, 65535, 9).astype(np.uint16)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    return bool(np.abs(_transform(grid, icc, "rgb").astype(int) - grid).max() <= _SRGB_TOLERANCE)


def make_srgb_profile() -> bytes:
    """Return an sRGB profile that consists of the same bytes every time."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    date = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01, in place of the time of creation
    return profile[:24] + date + profile[36:]


def rotate_upright(array: Array, orientation: Any) -> Array:
    """Return a view of (H, W, …) that is upright, given the EXIF orientation 1 to 8; other values are ignored."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def composite(pixels: Floats, alpha: Floats, background: tuple[float, float, float]) -> None:
    """Blend `pixels` (H, W, 3), in place, with `background` by `alpha` (H, W); opaque pixels stay exactly the same."""
    for rows in iter_strips(*alpha.shape):
        share = alpha[rows][..., None]  # (h, W, 1)
        pixels[rows] *= share
        pixels[rows] += (1 - share) * np.asarray(background, np.float32)
