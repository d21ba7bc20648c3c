"""Hand-made image files, and a check that an error message is one sentence."""

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
"""Makes a tensor (1, 3, H, W) from height, width and seed."""
Pixels = Callable[..., NDArray[np.float32]]
"""Makes an array (H, W, 3) from height, width and seed."""

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def save_image(form: str, image: Image.Image = NOISE, **settings: Any) -> bytes:
    """Encode `image` by Pillow."""
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def insert_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """Insert a chunk after the header of a PNG."""
    return data[:33] + chunk(name, content) + data[33:]


def png(width: int, height: int, *chunks: bytes, depth: int = 8) -> bytes:
    """Return a gray PNG of the given chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def refusal(source: Any, **settings: Any) -> str:
    """Return the message of the error that reading `source` raises, after checking that it is one sentence."""
    with pytest.raises(ImageError) as caught:
        images.read_image(source, **settings)
    sentence = str(caught.value)
    assert re.fullmatch(r"Cannot read (the picture|'.*'): [^\n]*[^.\s]\.", sentence), sentence
    assert "; " in sentence, f"does not say what to do: {sentence}"
    assert sentence.isprintable()
    assert "0x" not in sentence
    return sentence
