"""Pictures made by hand, and the claim that a refusal is one sentence, for the tests of reading."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler import images
from styler.errors import ImageError

Picture = Callable[..., Tensor]
"""From height, width and seed to a tensor (1, 3, H, W)."""
Pixels = Callable[..., NDArray[np.float32]]
"""From height, width and seed to an array (H, W, 3)."""

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def saved(form: str, image: Image.Image = NOISE, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def refusal(source: Any, **settings: Any) -> str:
    """Read, and return the sentence of the refusal after checking that it is one."""
    with pytest.raises(ImageError) as caught:
        images.read_image(source, **settings)
    sentence = str(caught.value)
    assert re.fullmatch(r"Cannot read (the picture|'.*'): [^\n]*[^.\s]\.", sentence), sentence
    assert "; " in sentence, f"says what to do: {sentence}"
    assert sentence.isprintable()
    assert "0x" not in sentence
    return sentence
