"""The two kinds whose decoders are extras: HEIC (what iPhones send) and JPEG XL."""

from io import BytesIO
from typing import cast

from PIL import ImageFile

from styler.images.kinds import Refusal
from styler.images.raw import Limits


def heif(data: bytes) -> ImageFile.ImageFile:
    """Open HEIC or HEIF; its decoder turns the picture upright by itself."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as problem:
        raise Refusal(
            "it is HEIC, which needs an extra package; run pip install 'styler[heif]', save it as JPEG, or let "
            "the phone send JPEG (on iPhones: Settings, Camera, Formats, Most Compatible)"
        ) from problem
    return cast("ImageFile.ImageFile", HeifImageFile(BytesIO(data)))


def jxl(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Open JPEG XL. Its plugin decodes at once, so the size is read from the header and checked before."""
    try:
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile
    except ImportError as problem:
        raise Refusal(
            "it is JPEG XL, which needs an extra package; run pip install 'styler[jxl]' or save it as PNG"
        ) from problem
    limits.check(*jxl_size(data))
    return cast("ImageFile.ImageFile", JXLImageFile(BytesIO(data)))


def jxl_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) as the codestream's SizeHeader tells them (ISO/IEC 18181-1)."""
    stream = _codestream(data)[2:18]
    bits = int.from_bytes(stream, "little")  # fields lie in it from the lowest bit up

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratios = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    numerator, denominator = ratios[take(3)]
    width = height * numerator // denominator if numerator else side()
    return width, height


def _codestream(data: bytes) -> bytes:
    """Skip the boxes of a JPEG XL container up to its codestream."""
    at = 0
    while data[at : at + 2] != b"\xff\x0a":
        length, box = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = at + (16 if length == 1 else 8)
        if box in (b"jxlc", b"jxlp"):
            start += 4 * (box == b"jxlp")  # a partial codestream begins with its number
            return data[start : start + 18]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < 8:  # 0: the last box; anything else is damage
            raise ValueError("no codestream in the JPEG XL container")
        at += length
    return data[at : at + 18]
