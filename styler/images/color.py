"""Samples as stored → sRGB floats: embedded profile, CMYK and grey, the EXIF turn, and alpha over a background.

Values are sRGB-encoded throughout; nothing here works in linear light.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styler.images.decode import Array, Raw, iter_strips

Floats = NDArray[np.float32]

_SPACES = {1: "gray", 3: "rgb", 4: "cmyk"}
_SIGNATURES = {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk"}  # bytes 16 to 20 of a profile: what it describes

# Half a step of 8 bit. Profiles that differ less from sRGB are sRGB, written by someone else; converting would only
# add rounding, and a picture of ours would not come back exactly.
_SAME = 128


def convert_to_srgb(raw: Raw) -> Floats:
    """Return (H, W, 3) sRGB in [0, 1], upright, and take the samples from `raw`, so that their memory comes free.

    A profile that cannot be used is ignored, and `raw.warnings` says so.
    """
    convert = _make_converter(raw.samples, raw.icc) if raw.icc else _convert_plain
    if convert is None:
        raw.warnings.append("its colour profile is broken or does not fit, and was ignored")
        convert = _convert_plain
    samples, raw.samples = rotate_upright(raw.samples, raw.orientation), raw.samples[:0].copy()
    height, width = samples.shape[:2]
    pixels = np.empty((height, width, 3), np.float32)
    for rows in iter_strips(height, width):
        pixels[rows] = convert(samples[rows])
    return pixels


def _convert_plain(samples: Array) -> Floats:
    """Convert (H, W, C) without a profile to (H, W, 3), or to (H, W, 1) where that is all there is."""
    pixels = normalize(samples)
    return (1 - pixels[..., :3]) * (1 - pixels[..., 3:]) if pixels.shape[-1] == 4 else pixels


def normalize(samples: Array) -> Floats:
    """Divide integers by their full scale; float32 is in [0, 1] already. In rows one after another, whatever was."""
    if samples.dtype.kind == "f":
        return np.ascontiguousarray(samples, dtype=np.float32)
    return np.divide(samples, np.iinfo(samples.dtype).max, dtype=np.float32, order="C")


def _make_converter(samples: Array, icc: bytes) -> Callable[[Array], Floats] | None:
    """Make what converts (H, W, C) with the profile `icc`; None if that cannot be done."""
    import imagecodecs

    space = _SPACES[samples.shape[-1]]
    described = _SIGNATURES.get(icc[16:20], "")
    if described != space and (space, described) != ("gray", "rgb"):
        return None

    def convert(samples: Array) -> Floats:
        if samples.dtype.kind == "f":
            samples = np.rint(samples * np.float32(65535)).astype(np.uint16)
        if space != described:
            samples = np.repeat(samples, 3, axis=-1)
        return normalize(_transform(samples, icc, described))

    try:
        if described == "rgb" and _is_srgb(icc):
            return _convert_plain
        convert(samples[:1, :1])
    except imagecodecs.CmsError:
        return None
    return convert


def _transform(samples: Array, icc: bytes, space: str) -> Array:
    import imagecodecs

    # lcms bakes a transform into a table. For 8-bit colour that is twenty times faster and as good; for 16 bit and for
    # grey the table is too coarse, and dark tones would move by up to 8 %.
    bakes_well = samples.dtype == np.uint8 and space != "gray"
    if space == "gray":
        samples = samples[..., 0]
    converted: Array = imagecodecs.cms_transform(
        np.ascontiguousarray(samples),
        icc,
        make_srgb_profile(),
        colorspace=space,
        outcolorspace="rgb",
        outdtype="uint16",
        flags=0 if bakes_well else imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )
    return converted  # (H, W, 3)


def _is_srgb(icc: bytes) -> bool:
    """Try the profile on a grid of colours: does anything change?"""
    levels = np.linspace(0, 65535, 9).astype(np.uint16)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    return bool(np.abs(_transform(grid, icc, "rgb").astype(int) - grid).max() <= _SAME)


def make_srgb_profile() -> bytes:
    """Return an sRGB profile, the same bytes at any time of day."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01, where lcms writes the time of its making
    return profile[:24] + made + profile[36:]


def rotate_upright(array: Array, orientation: Any) -> Array:
    """Turn (H, W, …) as EXIF's orientation 1 to 8 asks, so that row 0 is the top, as a view; others are ignored."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def composite(pixels: Floats, alpha: Floats, background: tuple[float, float, float]) -> None:
    """Lay `pixels` (H, W, 3), in place, over `background` by `alpha` (H, W); where that is 1 they stay, exactly."""
    for rows in iter_strips(*alpha.shape):
        share = alpha[rows][..., None]  # (h, W, 1)
        pixels[rows] *= share
        pixels[rows] += (1 - share) * np.asarray(background, np.float32)
