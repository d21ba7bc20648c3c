"""Input images in every form that callers have: files, pictures, arrays. Each becomes a tensor on the CPU.

Knows images and tensors; does not know options, networks or schedules.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import images
from styler.errors import UsageError
from styler.images import Picture

Input = str | os.PathLike[str] | Picture | NDArray[Any]
"""A file, a decoded picture, or an array (H, W, 3) of sRGB: floats in [0, 1] or bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """An input image as a tensor on the CPU, with what a result records of its file."""

    image: Tensor
    """(1, 3, H, W), sRGB in [0, 1]."""
    digest: str
    """Identifies the image by its values and shape, as a key of the statistics cache."""
    sha256: str = ""
    """Of the file it was read from; empty if it came from an array."""
    alpha: NDArray[Any] | None = None
    """(H, W) in [0, 1], or None if it is opaque."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As in `Picture.metadata`."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return (self.image.shape[-1], self.image.shape[-2])

    @classmethod
    def of(cls, image: Tensor, **described: Any) -> "SourceImage":
        """Make a source image with the digest of its values and shape."""
        values = image.contiguous().numpy().data
        digest = hashlib.blake2b(values, digest_size=16).hexdigest() + str(tuple(image.shape))
        return cls(image, digest, **described)


def load_source(source: Input) -> SourceImage:
    """Load a picture in any of its forms as a tensor on the CPU.

    Raises:
        ImageError: the file cannot be read.
        UsageError: the array has the wrong shape, type or values.
    """
    if isinstance(source, str | os.PathLike):
        source = images.read_image(source)
    picture = source if isinstance(source, Picture) else Picture(np.asarray(source))
    pixels: NDArray[Any] = picture.pixels
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UsageError(f"The array has the shape {pixels.shape}; a picture has the shape (height, width, 3).")
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"The array has the type {pixels.dtype}; convert it to floats in [0, 1] or to uint8.")
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise UsageError("The array has values that are not finite; a picture is sRGB in [0, 1].")
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].clamp(0, 1).contiguous()  # (1, 3, H, W)
    return SourceImage.of(image, sha256=picture.sha256, alpha=picture.alpha, metadata=picture.metadata)
