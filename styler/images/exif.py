"""EXIF: which way is up, the few private-free fields worth keeping, and our texts in formats that have no iTXt.

Does not know what the texts mean. Position, owner's serial numbers, thumbnails and everything else is left behind.
"""

import contextlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

ORIENTATION, EXIF_IFD, USER_COMMENT, IMAGE_DESCRIPTION = 0x0112, 0x8769, 0x9286, 0x010E

# The whole list of what may go from a photo into its painting, by the name in `Picture.metadata`.
KEPT = {"make": 0x010F, "model": 0x0110, "artist": 0x013B, "copyright": 0x8298}
KEPT_IN_EXIF_IFD = {"date": 0x9003, "lens": 0xA434}

_ASCII = b"ASCII\0\0\0"  # how a UserComment names its encoding
_LONGEST = 1000  # characters of one kept field

# What Pillow's EXIF parser raises on broken data; found by fuzzing.
BROKEN = (OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, struct.error)


def read_exif(image: Image.Image) -> tuple[Any, dict[str, str], list[str]]:
    """Return the orientation as stored, the kept fields, and what was wrong, if anything."""
    try:
        exif = image.getexif()
        return exif.get(ORIENTATION, 1), select_tags(exif, exif.get_ifd(EXIF_IFD)), []
    except BROKEN:
        return 1, {}, ["its EXIF data are broken and were ignored"]


def select_tags(tags: Mapping[int, Any], exif_tags: Mapping[int, Any]) -> dict[str, str]:
    """Pick the kept fields as printable text."""
    found = {name: tags.get(code) for name, code in KEPT.items()}
    found |= {name: exif_tags.get(code) for name, code in KEPT_IN_EXIF_IFD.items()}
    return {name: text for name, value in found.items() if isinstance(value, str) and (text := _clean(value))}


def _clean(value: str) -> str:
    # EXIF says ASCII and everybody writes UTF-8, which a parser that takes each byte for a letter garbles.
    with contextlib.suppress(UnicodeError):
        value = value.encode("latin-1").decode("utf-8")
    return "".join(c for c in value if c.isprintable())[:_LONGEST].strip()


def build_exif(text: Mapping[str, str], metadata: Mapping[str, Any]) -> bytes:
    """Make an EXIF block of the kept fields of `metadata`, with `text` as JSON in its UserComment."""
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
    """Find what `build` was given as `text`: in the UserComment, or in a TIFF's ImageDescription."""
    try:
        exif = image.getexif()
        comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
        stored = comment.removeprefix(_ASCII) if isinstance(comment, bytes) else exif.get(IMAGE_DESCRIPTION, "")
        return parse_text(stored)
    except BROKEN:
        return {}


def parse_text(stored: str | bytes) -> dict[str, str]:
    """Undo `json.dumps`; anyone else's comment, which is no such JSON, holds no text of ours."""
    try:
        found = json.loads(stored)
    except ValueError:
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}
