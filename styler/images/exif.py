"""EXIF: the orientation, a few fields that reveal nothing private, and our texts in formats without iTXt.

Position, serial numbers, thumbnails and all other fields are dropped. Does not know what the texts mean.
"""

import contextlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

ORIENTATION, EXIF_IFD, USER_COMMENT, IMAGE_DESCRIPTION = 0x0112, 0x8769, 0x9286, 0x010E
INTEROP_IFD, INTEROP_INDEX, COLOR_SPACE = 0xA005, 0x0001, 0xA001
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
WIDTH, HEIGHT = 0x0100, 0x0101
_INCH, _CENTIMETER = 2, 3

# The only fields that may be copied from a photo to its painting, by their names in `Picture.metadata`.
KEPT = {"make": 0x010F, "model": 0x0110, "artist": 0x013B, "copyright": 0x8298}
KEPT_IN_EXIF_IFD = {"date": 0x9003, "lens": 0xA434}

_ASCII = b"ASCII\0\0\0"  # the encoding prefix of a UserComment
_MAX_FIELD_LENGTH = 1000  # characters

# Errors of Pillow's EXIF parser on broken data, found by fuzzing.
BROKEN = (OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, struct.error)


def read_exif(image: Image.Image) -> tuple[Any, dict[str, str], str, list[str]]:
    """Return the orientation as stored, the kept fields, the color space ("srgb", "adobe" or ""), and warnings."""
    try:
        exif = image.getexif()
        details = exif.get_ifd(EXIF_IFD)
        index = exif.get_ifd(INTEROP_IFD).get(INTEROP_INDEX) if INTEROP_IFD in details else None
        space = name_color_space(details.get(COLOR_SPACE), index)
        return exif.get(ORIENTATION, 1), select_tags(exif, details), space, []
    except BROKEN:
        return 1, {}, "", ["its EXIF data is damaged and was ignored"]


def name_color_space(space: Any, interoperability: Any) -> str:
    """Return "srgb", "adobe" or "" (unknown) for an EXIF ColorSpace and InteroperabilityIndex.

    EXIF defines 1 as sRGB and 65535 as anything else; a camera then adds the index R03 for Adobe RGB (DCF 2.0), or
    writes 2 as its ColorSpace.
    """
    if space == 1:
        return "srgb"
    index = interoperability.decode("latin-1") if isinstance(interoperability, bytes) else str(interoperability)
    return "adobe" if space == 2 or index.startswith("R03") else ""


def select_tags(tags: Mapping[int, Any], exif_tags: Mapping[int, Any]) -> dict[str, str]:
    """Return the kept fields as printable text."""
    values = {name: tags.get(code) for name, code in KEPT.items()}
    values |= {name: exif_tags.get(code) for name, code in KEPT_IN_EXIF_IFD.items()}
    return {name: text for name, value in values.items() if isinstance(value, str) and (text := _clean(value))}


def _clean(value: str) -> str:
    # EXIF specifies ASCII but most programs write UTF-8, which Pillow decodes as Latin-1.
    with contextlib.suppress(UnicodeError):
        value = value.encode("latin-1").decode("utf-8")
    return "".join(c for c in value if c.isprintable())[:_MAX_FIELD_LENGTH].strip()


def build_exif(text: Mapping[str, str], metadata: Mapping[str, Any], dpi: int = 0) -> bytes:
    """Build an EXIF block from the kept fields of `metadata`, with `text` as JSON in its UserComment.

    It has the resolution in dots per inch, unless that is 0.
    """
    exif = Image.Exif()
    if dpi:
        exif[X_RESOLUTION] = exif[Y_RESOLUTION] = float(dpi)
        exif[RESOLUTION_UNIT] = _INCH
    details = exif.get_ifd(EXIF_IFD)
    for name, value in metadata.items():
        if name in KEPT:
            exif[KEPT[name]] = str(value).encode("utf-8")
        elif name in KEPT_IN_EXIF_IFD:
            details[KEPT_IN_EXIF_IFD[name]] = str(value)
    if text:
        details[USER_COMMENT] = _ASCII + json.dumps(dict(text)).encode("ascii")
    return exif.tobytes() if text or metadata or dpi else b""


def read_resolution(tags: Mapping[int, Any]) -> float:
    """Return the dots per inch that the tags of EXIF or TIFF say, or 0."""
    try:
        resolution, unit = float(tags.get(X_RESOLUTION, 0)), tags.get(RESOLUTION_UNIT, _INCH)
    except BROKEN:
        return 0.0
    return resolution * {_INCH: 1.0, _CENTIMETER: 2.54}.get(unit, 0.0) if math.isfinite(resolution) else 0.0


def read_exif_text(image: Image.Image) -> dict[str, str]:
    """Return the `text` of `build_exif`, from the UserComment, or from the ImageDescription of a TIFF."""
    try:
        exif = image.getexif()
        comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
        stored = comment.removeprefix(_ASCII) if isinstance(comment, bytes) else exif.get(IMAGE_DESCRIPTION, "")
        return parse_text(stored)
    except BROKEN:
        return {}


def parse_text(stored: str | bytes) -> dict[str, str]:
    """Parse texts stored as JSON; a comment by another program has none."""
    try:
        values = json.loads(stored)
    except ValueError:
        return {}
    return {key: value for key, value in values.items() if isinstance(value, str)} if isinstance(values, dict) else {}
