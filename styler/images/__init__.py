"""Pictures: bytes ⇄ float arrays.

    read   ─► detect (which format?) ─► decode or tiff (samples as stored) ─► color (sRGB) ─► Picture
    encode ─► bytes, tagged as sRGB  ─► files (written whole or not at all)

`chunks` parses what files say beside their pixels; `exif` is used in both directions; `child` reads in a separate
process. Uses numpy and Pillow and never torch, so that a process that only decodes starts in a quarter of a second.
Knows nothing about options or networks.
"""

from styler.images.detect import PICTURE_SUFFIXES
from styler.images.encode import FORMATS, check_sides, encode_image, to_uint8
from styler.images.files import check_output, find_format, find_free_name, is_special, remove_stale_files, write_file
from styler.images.read import Picture, StoredSize, fetch_image_bytes, read_image, read_size, read_text

__all__ = [
    "FORMATS",
    "PICTURE_SUFFIXES",
    "Picture",
    "StoredSize",
    "check_output",
    "check_sides",
    "encode_image",
    "fetch_image_bytes",
    "find_format",
    "find_free_name",
    "is_special",
    "read_image",
    "read_size",
    "read_text",
    "remove_stale_files",
    "to_uint8",
    "write_file",
]
