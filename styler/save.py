"""The bytes of a finished painting's file: its pixels, with alpha, its record and metadata.

Does not know how the painting was made nor where the bytes go.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from styler import images, provenance
from styler.provenance import Record


def encode_painting(
    pixels: NDArray[Any],
    *,
    alpha: NDArray[Any] | None = None,
    record: Record | None = None,
    format: str = "png",  # noqa: A002 - as in `images.encode_image`
    bit_depth: int = 8,
    metadata: Mapping[str, Any] | None = None,
    dpi: int = 0,
) -> bytes:
    """Encode a painting in an image format.

    Args:
        pixels: (H, W, 3), sRGB in [0, 1].
        alpha: (H, W) in [0, 1].
        record: stored in the file, so that `styler inspect` and `--from` can read it.
        format: a key of `images.FORMATS`.
        bit_depth: 8, or 16 where the format supports it.
        metadata: of the content, as in `Picture.metadata`; stored as EXIF.
        dpi: dots per inch; 0 to store none.

    Raises:
        StylerError: the format cannot hold the picture.
    """
    text = provenance.record_to_text(record) if record else {}
    return images.encode_image(
        pixels, alpha=alpha, format=format, bit_depth=bit_depth, text=text, metadata=metadata, dpi=dpi
    )
