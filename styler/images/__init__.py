"""Pictures: bytes ⇄ float arrays. One way in, one way out, for every front end.

    read    ─► sources (bytes, safely) ─► kinds (what is it?) ─► decode · deep · extras ─► colour ─► Picture
    encode  ─► bytes, sRGB-tagged      ─► write (all or nothing)

Works with numpy and Pillow and never imports torch, so that a process which only decodes starts in a quarter of a
second. Knows nothing about options, networks or the meaning of the texts it stores in a picture.
"""

from styler.images.encode import FORMATS, encode
from styler.images.files import check_output, format_of, free_name, is_special, sweep, write
from styler.images.picture import Picture, fetched, read, read_text
from styler.images.sources import quoted

__all__ = [
    "FORMATS",
    "Picture",
    "check_output",
    "encode",
    "fetched",
    "format_of",
    "free_name",
    "is_special",
    "quoted",
    "read",
    "read_text",
    "sweep",
    "write",
]
