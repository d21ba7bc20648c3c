"""EXIF: the orientation, a few fields that reveal nothing private, and our texts in formats without iTXt.

Position, serial numbers, thumbnails and all other fields are dropped. Does not know what the texts mean.
"""

import contextlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

ORIENTATION, EXIF_IFD, USER_COMMENT, IMAGE_DESCRIPTION = 0x0112, 0x8769, 0x9286, 0x010E

# The only fields that may be copied from a photo to its painting, by their names in `Picture.metadata`.
KEPT = {"make": 0x010F, "model": 0x0110, "artist": 0x013B, "copyright": 0x8298}
KEPT_IN_EXIF_IFD = {"date": 0x9003, "lens": 0xA434}

_ASCII = b"ASCII\0\0\0"  # the encoding prefix of a UserComment
_MAX_FIELD_LENGTH = 1000  # characters

# Errors of Pillow's EXIF parser on broken data, found by fuzzing.
BROKEN = (OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, struct.error)


def read_exif(image: Image.Image) -> tuple[Any, dict[str, str], list[str]]:
    """Return the orientation as stored, the kept fields, and warnings."""
    try:
        exif = image.getexif()
        return exif.get(ORIENTATION, 1), select_tags(exif, exif.get_ifd(EXIF_IFD)), []
    except BROKEN:
        return 1, {}, ["its EXIF data is damaged and was ignored"]


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


def build_exif(text: Mapping[str, str], metadata: Mapping[str, Any]) -> bytes:
    """Build an EXIF block from the kept fields of `metadata`, with `text` as JSON in its UserComment."""
    exif = Image.Exif()
    details = exif.get_ifd(EXIF_IFD)
    for name, value in metadata.items():
        if name in KEPT:
            exif[KEPT[name]] = str(value).encode("utf-8")
        elif name in KEPT_IN_EXIF_IFD:
            details[KEPT_IN_EXIF_IFD[name]] = str(value)
    if text:
        details[USER_COMMENT] = _ASCII + json.dumps(dict(text)).encode("ascii")
    return exif.tobytes() if text or metadata else b""


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
