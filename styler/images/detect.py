"""Detection of the image format from the first bytes, and a reason to refuse everything else.

This is the program's allow-list: no decoder is started for anything else, whatever a file's extension says.
"""

import codecs
import re

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
    *(".heic", ".heif", ".hif", ".jxl"),
)
"""Extensions of the formats that can be read, in lower case; used only to select files from a folder."""


class Refusal(Exception):
    """Why a picture cannot be read and what to do: the second half of a sentence, without the period."""


class Damage(Exception):
    """A decoder failed, for the reason in `__cause__`, because the data is damaged."""


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"GIF8[79]a", "gif"),
    (rb"RIFF....WEBP", "webp"),
    (rb"II\*\x00.{4}CR\x02", "camera"),
    (rb"II[*+]\x00|MM\x00[*+]", "tiff"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "bmp"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
    (rb".{0,1023}?%PDF-", "pdf"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "eps"),
    (rb"8BPS", "psd"),
    (rb"gimp xcf", "xcf"),
    (rb"FUJIFILMCCD-RAW|IIRO|IIRS|IIU\x00", "camera"),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "archive"),
    (rb"\x1aE\xdf\xa3|RIFF....AVI ", "video"),
    (rb"\x00\x00\x01\x00[^\x00]\x00", "icon"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "jpeg 2000"),
    (rb"P[1-7][\s#]", "netpbm"),
    (rb"v/1\x01|#\?RADIANCE", "hdr"),
)

# ISO media files list their brands; of several, the first in this table decides.
_BRANDS: tuple[tuple[frozenset[bytes], str], ...] = (
    (frozenset({b"avif", b"avis"}), "avif"),
    (frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}), "heif"),
    (frozenset({b"crx "}), "camera"),
)

ADVICE = {
    "html": "it is a web page, not a picture; download the picture itself",
    "svg": "it is an SVG drawing, which has no pixels; export it as PNG",
    "pdf": "it is a PDF document, not a picture; export the page as PNG",
    "eps": "it is a PostScript (EPS) document, not a picture; export it as PNG",
    "psd": "it is a Photoshop document (PSD); export it as PNG or TIFF",
    "xcf": "it is a GIMP document (XCF); export it as PNG or TIFF",
    "camera": "it is a raw camera file; develop it and save it as TIFF or JPEG",
    "archive": "it is an archive, not a picture; unpack it first",
    "video": "it is a video, not a picture; save a frame of it as PNG",
    "icon": "it is an icon (ICO); save it as PNG",
    "jpeg 2000": "it is JPEG 2000, which is not supported; convert it to PNG",
    "netpbm": "it is a Netpbm picture, which is not supported; convert it to PNG",
    "hdr": "it is a high-dynamic-range picture (EXR or HDR), which is not supported; convert it to 16-bit TIFF",
    "text": "it is text, not a picture; check that this is the file you mean",
    "empty": "it is empty; download or copy it again",
    "unknown": "it is in an unrecognized image format; use JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF",
}


def detect_kind(head: bytes) -> str:
    """Return the image format of a file that begins with `head`: "jpeg", "png", … "jxl". 4096 bytes are enough.

    Raises:
        Refusal: it is not an image that can be read; says what it is.
    """
    kind = _classify(head)
    if kind in ADVICE:
        raise Refusal(ADVICE[kind])
    return kind


def _classify(head: bytes) -> str:
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return _classify_iso_media(head)
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return _classify_text(head)


def _classify_iso_media(head: bytes) -> str:
    """Distinguish AVIF, HEIF, raw camera files and video by the brands in the first box of an ISO media file."""
    end = max(16, min(int.from_bytes(head[:4], "big"), len(head)))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    return next((kind for names, kind in _BRANDS if names & brands), "video")


def _classify_text(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "text"
    try:
        # Incremental, because the head may end inside a character.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).lower()
    except UnicodeDecodeError:
        return "unknown"
    if not all(c.isprintable() or c.isspace() for c in text):
        return "unknown"
    if "<svg" in text:
        return "svg"
    return "html" if re.search(r"<!doctype html|<(html|head|body)\b", text) else "text"
