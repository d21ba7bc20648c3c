"""Masks from pictures: gray ones, transparent ones, and label pictures, whose colors are masks.

A picture with transparent parts is a mask by its opacity, whatever its colors; any other by its brightness: white is
inside. Masks of any size are resized to the photo's, which must have about the same proportions.
"""

from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from styler.errors import ImageError, quote_name
from styler.images import Picture, to_uint8
from styler.regions.specs import parse_color

MaskArray: TypeAlias = "Tensor | NDArray[np.generic]"
MaskInput: TypeAlias = "MaskArray | Picture"
"""A mask as an array, or a picture that has been read."""

MAX_DISTORTION = 0.03
"""Largest difference of proportions, width to height, between a mask and its photo, beside a pixel for rounding."""
MIN_VALUE = 0.02
"""A mask that is nowhere larger is empty."""
MAX_COLOR_NOISE = 24
"""Largest difference of a channel, from 0 to 255, between a label and its color: JPEG changes colors a little."""
LISTED_COLORS = 8
"""The colors of a label picture that a message names, at most."""
SAMPLED_PIXELS = 250_000
"""Pixels of a label picture among which they are counted, about."""
LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Of red, green and blue, ITU-R BT.709."""


def read_mask(picture: Picture, name: str, width: int, height: int) -> Tensor:
    """Return the mask that a picture holds, (1, 1, H, W) in [0, 1] on the CPU.

    Args:
        picture: gray or with transparent parts.
        name: of the picture in messages.
        width: of the photo.
        height: of the photo.

    Raises:
        ImageError: it is empty, or its proportions are not the photo's.
    """
    values = picture.alpha if picture.alpha is not None else picture.pixels @ np.array(LUMINANCE, dtype=np.float32)
    return fit_mask(torch.tensor(values)[None, None], name, width, height)


def read_array(array: MaskArray, name: str, width: int, height: int) -> Tensor:
    """Return the mask that an array or a tensor holds, like `read_mask`.

    Args:
        array: (H, W), (1, H, W) or (1, 1, H, W); boolean, in [0, 1], or 8-bit in 0 to 255.

    Raises:
        ImageError: it has another shape or values outside of its range, or as for `read_mask`.
    """
    tensor = torch.as_tensor(array).detach().cpu()
    if tensor.dim() < 2 or any(length != 1 for length in tensor.shape[:-2]) or 0 in tensor.shape:
        shape = "×".join(map(str, tensor.shape))
        raise ImageError(f"The mask {quote_name(name)} is an array of {shape}; give one of height × width.")
    values = tensor.reshape(1, 1, *tensor.shape[-2:])  # (1, 1, H, W)
    values = values.float() / 255 if values.dtype is torch.uint8 else values.float()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ImageError(f"The mask {quote_name(name)} has values outside of 0 to 1; divide them by the largest.")
    return fit_mask(values, name, width, height)


def read_label(picture: Picture, name: str, color: str, width: int, height: int) -> Tensor:
    """Return the mask of one color of a label picture, like `read_mask`.

    Args:
        color: `#rrggbb`; pixels that differ from it by at most `MAX_COLOR_NOISE` in each channel belong to it.

    Raises:
        ImageError: the color is not in the picture; names those that are. Or as for `read_mask`.
    """
    pixels = to_uint8(picture.pixels)  # (H, W, 3)
    is_inside = _is_near(pixels, parse_color(color))  # (H, W)
    if not is_inside.any():
        raise ImageError(
            f"The label picture {quote_name(name)} has no {color}; its colors are {', '.join(list_colors(pixels))}."
        )
    return fit_mask(torch.from_numpy(is_inside.astype(np.float32))[None, None], name, width, height)


def list_colors(pixels: NDArray[np.uint8]) -> list[str]:
    """Return the most frequent colors of a picture (H, W, 3) as `#rrggbb`, without those that differ by noise only."""
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / SAMPLED_PIXELS) ** 0.5))
    colors, counts = np.unique(pixels[::step, ::step].reshape(-1, 3), axis=0, return_counts=True)  # (N, 3), (N,)
    named: list[str] = []
    while len(colors) and len(named) < LISTED_COLORS:
        red, green, blue = (int(value) for value in colors[counts.argmax()])
        named.append(f"#{red:02x}{green:02x}{blue:02x}")
        is_other = ~_is_near(colors, (red, green, blue))  # (N,)
        colors, counts = colors[is_other], counts[is_other]
    return named


def fit_mask(values: Tensor, name: str, width: int, height: int) -> Tensor:
    """Return a mask (1, 1, h, w) at the photo's size, (1, 1, H, W), after checking its proportions and values.

    Raises:
        ImageError: it is empty, or its proportions are not the photo's.
    """
    own_height, own_width = values.shape[-2:]
    if not _is_proportional(own_width, own_height, width, height):
        is_turned = _is_proportional(own_height, own_width, width, height)
        advice = "turn it by 90 degrees" if is_turned else "export it at the size of the photo"
        raise ImageError(
            f"The mask {quote_name(name)} has {own_width}×{own_height} pixels and the photo {width}×{height}, which "
            f"are other proportions; {advice}."
        )
    if float(values.max()) < MIN_VALUE:
        raise ImageError(f"The mask {quote_name(name)} is empty: it is black everywhere; paint white what is inside.")
    if (own_width, own_height) == (width, height):
        return values
    return F.interpolate(values, (height, width), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _is_proportional(own_width: int, own_height: int, width: int, height: int) -> bool:
    """Return whether two sizes have the same proportions, apart from a few percent and a pixel for rounding."""
    excess = abs(own_width * height - own_height * width)
    return excess <= MAX_DISTORTION * own_height * width + max(width, height)


def _is_near(colors: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return which colors (…, 3) are that of a label or differ from it by noise."""
    differences = np.abs(colors.astype(np.int16) - np.array(color, dtype=np.int16))
    return np.asarray((differences <= MAX_COLOR_NOISE).all(axis=-1))
