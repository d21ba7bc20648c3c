"""The values that pass from a decoder to `colour`: samples as stored, and what a header may claim.

A picture at the limit is large, so whatever is computed for every pixel is computed by `strips`, without copies of the
whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from styler.images.kinds import Refusal

Array = NDArray[Any]

SEVERAL = "it holds more than one picture, of which the first was taken"
_STRIP = 1_000_000  # pixels
_DEEPEST = 8  # bytes of a pixel of 16-bit RGBA

NOT_FINITE = "some of its values are not finite numbers (NaN or Inf); repair it first"


def strips(height: int, width: int) -> Iterator[slice]:
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
