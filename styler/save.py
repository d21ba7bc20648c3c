"""From a result to a picture's bytes: with the content's alpha, what made it, and what the content says of itself.

Does not know where the bytes go.
"""

from collections.abc import Sequence

import torch

from styler import images, provenance
from styler.engine.result import Result
from styler.images import Picture
from styler.resample import resize


def encode_result(
    result: Result,
    content: Picture,
    styles: Sequence[Picture],
    start: Picture | None = None,
    *,
    kind: str = "png",
    bit_depth: int = 8,
    settings: bool = True,
    keep_metadata: bool = False,
) -> bytes:
    """The painting in a format.

    Args:
        result: the painting.
        content: the photo, whose alpha is put back at the picture's size.
        styles: the paintings.
        start: the picture that `init` names, if it names a file.
        kind: a key of `images.FORMATS`.
        bit_depth: 8, or 16 where the format has it.
        settings: whether what made it is written into it.
        keep_metadata: whether the content's metadata are.

    Raises:
        StylerError: the format cannot hold it.
    """
    alpha = None
    if content.alpha is not None:
        whole = torch.from_numpy(content.alpha)[None, None]  # (1, 1, H, W)
        alpha = resize(whole, result.pixels.shape[1], result.pixels.shape[0])[0, 0].numpy()  # (H, W)
    return images.encode_image(
        result.pixels,
        alpha=alpha,
        format=kind,
        bit_depth=bit_depth,
        text=provenance.record_to_text(provenance.make_record(result, content, styles, start)) if settings else {},
        metadata=content.metadata if keep_metadata else {},
    )
