"""Parsing of what files say beside their pixels: chunks, boxes, markers, and how many bytes are missing.

Every size in a file is a claim: nothing here reads outside of the bytes, or allocates what a header asks for.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from styler.images.detect import Refusal

_AGAIN = "download or copy it again"
_MAX_TEXT = 16 << 20  # bytes of all texts of a PNG, unpacked
_MAX_PROFILE = 16 << 20

Primaries = tuple[tuple[float, float], ...]
"""Chromaticities (x, y) of white, red, green and blue."""


D65 = (0.3127, 0.3290)


@dataclass(frozen=True, slots=True)
class Cicp:
    """How numbers stand for light: "coding-independent code points" (ITU-T H.273) of a PNG, AVIF, HEIC or profile."""

    primaries: int
    transfer: int
    narrow_depth: int = 0  # bits per sample, if black is 16/255 and white 235/255, as in video


@dataclass(frozen=True, slots=True)
class Calibration:
    """Chromaticities and curves in a PNG, BMP or TIFF; None where it does not say."""

    primaries: Primaries | None = None
    gamma: float | None = None  # exponent from samples to light
    curves: NDArray[np.uint16] | None = None  # (3, N), from samples to light


def are_primaries(primaries: tuple[tuple[float, ...], ...]) -> TypeGuard[Primaries]:
    """Return whether these chromaticities are a triangle with the white inside."""
    if not all(0 <= x <= 1 and 0 < y <= 1 for x, y in primaries):
        return False
    (wx, wy), *corners = primaries
    sides = zip(corners, [*corners[1:], corners[0]], strict=True)
    turns = [(bx - ax) * (wy - ay) - (by - ay) * (wx - ax) for (ax, ay), (bx, by) in sides]
    return min(turns) > 1e-4 or max(turns) < -1e-4


# PNG

_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_FIXED_SIZES = {
    **{b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"pHYs": 9, b"tIME": 7, b"acTL": 8},
    **{b"fcTL": 26, b"mDCV": 24, b"cLLI": 8},
}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(slots=True)
class Png:
    """The chunks of a PNG."""

    data: bytes = b""  # a PNG of the chunks that make pixels, and no others
    header: bytes = b""
    pixels: list[bytes] = field(default_factory=list)  # the contents of its IDAT chunks
    others: dict[bytes, bytes] = field(default_factory=dict)  # name to content, of undamaged chunks; the first counts
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)  # name and content of undamaged text chunks
    damaged: list[str] = field(default_factory=list)  # names of damaged chunks that are not needed
    images: int = 1
    has_end: bool = False


def iter_png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield name and content (with the checksum) of each chunk, and whether it is complete."""
    start = 8
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start + 8 : end], end <= len(data)
        start = end


def split_png(data: bytes) -> Png:
    """Sort the chunks into those that make pixels, which must be undamaged, and others.

    Raises:
        Refusal: a chunk that makes pixels is damaged or missing.
    """
    png, kept, pixels = Png(), list[bytes](), list[bytes]()
    header, has_frame = b"", False
    for name, stored, is_complete in iter_png_chunks(data):
        content = stored[:-4] if is_complete else stored
        is_intact = is_complete and zlib.crc32(name + content) == int.from_bytes(stored[-4:], "big")
        png.has_end = name == b"IEND"
        if png.has_end or (pixels and not name.isalpha()):
            break  # what follows is not part of the picture
        if name == b"IDAT":
            _check_chunk(name, is_intact or not is_complete, is_complete)
            pixels.append(content)
        elif name in _PIXEL_CHUNKS:
            is_needed = name != b"PLTE" or header[9:10] == b"\3"  # else a suggestion for displays with few colors
            _check_chunk(name, is_intact or not is_needed, is_complete)
            if is_intact and not (name == b"IHDR" and header):  # a second header would change the size
                kept.append(build_png_chunk(name, content))
                header = header or content
        else:
            has_frame |= name == b"fcTL" and not pixels
            _keep_other(png, name, content, is_intact)
    if len(header) != 13 or header[10:] not in (bytes(3), b"\0\0\1") or not kept[0].startswith(b"\0\0\0\rIHDR"):
        raise Refusal(f"its header (IHDR) is missing or damaged; {_AGAIN}")
    if header[9] == 3 and not any(chunk[4:8] == b"PLTE" for chunk in kept):
        raise Refusal(f"its palette (PLTE) is missing; {_AGAIN}")
    png.header, png.pixels = header, pixels
    idat = (build_png_chunk(b"IDAT", content) for content in pixels)
    png.data = b"".join([data[:8], *kept, *idat, build_png_chunk(b"IEND", b"")])
    if control := png.others.get(b"acTL"):
        png.images = int.from_bytes(control[:4], "big") + (not has_frame)
    return png


def _check_chunk(name: bytes, is_usable: bool, is_complete: bool) -> None:
    if not is_usable:
        reason = "has a wrong checksum" if is_complete else "is incomplete"
        raise Refusal(f"its {name.decode()} chunk {reason}, so its pixels are damaged; {_AGAIN}")


def collect_png_texts(data: bytes) -> Png:
    """Return only the undamaged texts, without a look at the pixels."""
    png = Png()
    for name, stored, _ in iter_png_chunks(data):
        if name in _TEXTS and zlib.crc32(name + stored[:-4]) == int.from_bytes(stored[-4:], "big"):
            png.texts.append((name, stored[:-4]))
    return png


def _keep_other(png: Png, name: bytes, content: bytes, is_intact: bool) -> None:
    if name == b"CgBI":
        raise Refusal("it is a PNG in a format of Apple's (CgBI) from an app; open it on a Mac and export it as PNG")
    if not name.isalpha():
        raise Refusal(f"its PNG chunks are damaged; {_AGAIN}")
    if not is_intact or len(content) != _FIXED_SIZES.get(name, len(content)):
        if name[:1].islower() and name.decode() not in png.damaged:
            png.damaged.append(name.decode())
    elif name in _TEXTS:
        png.texts.append((name, content))
    elif name in _FIXED_SIZES or name in (b"iCCP", b"eXIf"):
        png.others.setdefault(name, content)


def build_png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def check_png_pixels(png: Png) -> bool:
    """Return whether nothing follows the pixels; raise `Refusal` if they are damaged or, with their share, missing."""
    expected, got = count_png_bytes(png.header), 0
    if expected > 1100 * sum(map(len, png.pixels)):  # Deflate packs at most 1032 bytes into one
        raise Refusal(f"its PNG data ends too early: most of its pixels are missing; {_AGAIN}")
    packer = zlib.decompressobj()
    try:
        for content in png.pixels:
            rest = content
            while rest and got <= expected and not packer.eof:
                got += len(packer.decompress(rest, 1 << 20))
                rest = packer.unconsumed_tail
    except zlib.error as error:
        raise Refusal(f"its PNG data is damaged; {_AGAIN}") from error
    if got < expected:
        missing = describe_share(1 - got / expected)
        raise Refusal(f"its PNG data ends too early: {missing} of its pixels are missing; {_AGAIN}")
    return got == expected and not packer.unused_data and not rest


def count_png_bytes(header: bytes) -> int:
    """Return the number of bytes of the unpacked pixels, at least 1."""
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    bits = depth * {2: 3, 4: 2, 6: 4}.get(color, 1)
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    total = 0
    for left, top, across, down in adam7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return max(1, total)


def describe_share(share: float) -> str:
    """Return a share as text: `43 %`, `less than 1 %`."""
    return "less than 1 %" if share < 0.01 else f"{min(99, share * 100):.0f} %"


ORIENTATION_TEXTS = ("XML:com.adobe.xmp", "Raw profile type exif")
"""Texts in which programs store the orientation."""


def read_png_texts(png: Png, keys: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the texts by their keys, or only those of `keys`; the names of damaged ones are added to `png.damaged`."""
    texts: dict[str, str] = {}
    room = _MAX_TEXT
    for name, content in png.texts:
        if keys and not content.startswith(tuple(key.encode() + b"\0" for key in keys)):
            if b"\0" not in content:
                png.damaged.append(name.decode())
            continue
        try:
            key, value = _parse_text(name, content, room)
        except (ValueError, zlib.error):
            png.damaged.append(name.decode())
            continue
        room -= len(value)
        texts.setdefault(key, value)
    return texts


def _parse_text(name: bytes, content: bytes, room: int) -> tuple[str, str]:
    key, rest = content.split(b"\0", 1)  # ValueError if there is no separator
    is_packed, encoding = name == b"zTXt", "latin-1"
    if name == b"iTXt":
        is_packed, encoding = rest[:1] == b"\1", "utf-8"
        _language, _translation, rest = rest[2:].split(b"\0", 2)  # ValueError if incomplete
    elif is_packed:
        rest = rest[1:]  # the method
    value = unpack(rest, room) if is_packed else rest
    return key.decode("latin-1"), value.decode(encoding)


def unpack(packed: bytes, limit: int) -> bytes:
    """Decompress zlib data of at most `limit` bytes.

    Raises:
        ValueError: it is longer, or incomplete.
        zlib.error: it is damaged.
    """
    packer = zlib.decompressobj()
    content = packer.decompress(packed, limit + 1)
    if len(content) > limit or not packer.eof:
        raise ValueError("the packed data is too long or incomplete")
    return content


def read_png_profile(png: Png) -> bytes | None:
    """Return the ICC profile; None if there is none, or it is damaged, which is added to `png.damaged`."""
    content = png.others.get(b"iCCP")
    if content is None:
        return None
    try:
        return unpack(content.split(b"\0", 1)[1][1:], _MAX_PROFILE)
    except (IndexError, ValueError, zlib.error):
        png.damaged.append("iCCP")
        return None


# Boxes of ISO media files

_MAX_BOXES = 10_000


def iter_boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, beginning and end of the content of each box between `start` and `end`."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, name, content = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], start + 8
        if size == 1:
            size, content = int.from_bytes(data[start + 8 : start + 16], "big"), start + 16
        stop = end if size == 0 else start + size
        if stop < content:
            return
        yield name, content, stop
        start = stop


def find_box(data: bytes, path: tuple[bytes, ...], start: int, end: int) -> tuple[int, int] | None:
    """Return the content of the first box at `path`, between `start` and `end`."""
    for name, content, stop in iter_boxes(data, start, min(end, len(data))):
        if name == path[0]:
            place = content + 4 * (name == b"meta")  # after version and flags
            found = (place, stop) if len(path) == 1 else find_box(data, path[1:], place, stop)
            if found:
                return found
    return None


def read_nclx(data: bytes) -> Cicp | None:
    """Return the code points of the primary picture of an AVIF or HEIC, or of its track if it is a sequence."""
    if data[8:12] in (b"avis", b"hevc"):
        entry = find_box(data, (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"), 0, len(data))
        boxes = _list_sample_entry(data, *entry) if entry else []
    else:
        boxes = list_properties(data)
    for name, start, stop in boxes:
        if name == b"colr" and data[start : start + 4] == b"nclx" and stop - start >= 11:
            primaries, transfer = struct.unpack(">HH", data[start + 4 : start + 8])
            return Cicp(primaries, transfer)  # matrix and range have been applied by the decoder
    return None


def _list_sample_entry(data: bytes, start: int, end: int) -> list[tuple[bytes, int, int]]:
    entry = next(iter_boxes(data, start + 8, min(end, len(data))), None)
    return list(iter_boxes(data, entry[1] + 78, min(entry[2], len(data)))) if entry else []


def list_properties(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return the property boxes of the primary item, and of the first tile if it is a grid."""
    meta = find_box(data, (b"meta",), 0, len(data))
    if meta is None:
        return []
    places = {name: (start, stop) for name, start, stop in iter_boxes(data, meta[0], min(meta[1], len(data)))}
    primary = 0
    if b"pitm" in places:
        start = places[b"pitm"][0]
        primary = int.from_bytes(data[start + 4 : start + (6 if data[start : start + 1] == b"\0" else 8)], "big")
    container = find_box(data, (b"iprp", b"ipco"), *meta)
    association = find_box(data, (b"iprp", b"ipma"), *meta)
    if container is None or association is None:
        return []
    properties = list(iter_boxes(data, container[0], min(container[1], len(data))))
    items = _read_associations(data, *association)
    indices = list(items.get(primary, ()))
    if b"iref" in places and (tile := _find_first_tile(data, *places[b"iref"], primary)):
        indices += items.get(tile, ())
    return [properties[index - 1] for index in indices if 1 <= index <= len(properties)]


def _read_associations(data: bytes, start: int, end: int) -> dict[int, list[int]]:
    """Return the numbers of the properties of each item (ISO/IEC 23008-12, `ipma`)."""
    end = min(end, len(data))
    items: dict[int, list[int]] = {}
    if start + 8 > end:
        return items
    size = 4 if data[start] else 2
    at, step, mask = start + 8, 1, 0x7F
    if data[start + 3] & 1:
        step, mask = 2, 0x7FFF
    for _ in range(min(_MAX_BOXES, int.from_bytes(data[start + 4 : start + 8], "big"))):
        if at + size >= end:
            break
        item, count = int.from_bytes(data[at : at + size], "big"), data[at + size]
        at += size + 1
        values = (int.from_bytes(data[at + step * i : at + step * (i + 1)], "big") & mask for i in range(count))
        items[item] = list(values)
        at += step * count
    return items


def _find_first_tile(data: bytes, start: int, end: int, item: int) -> int:
    size = 4 if data[start : start + 1] == b"\1" else 2
    for name, content, stop in iter_boxes(data, start + 4, min(end, len(data))):
        if name == b"dimg" and int.from_bytes(data[content : content + size], "big") == item:
            first = content + size + 2
            return int.from_bytes(data[first : min(first + size, stop)], "big")
    return 0


def read_iso_depth(data: bytes) -> int:
    """Return the bits per sample of the primary picture of an AVIF or HEIC; 8 if it does not say."""
    for name, start, stop in list_properties(data):
        content = data[start : min(stop, start + 6)]
        if name == b"pixi" and len(content) == 6:
            return content[5]
        if name == b"av1C" and len(content) >= 3 and content[2] & 0x40:
            return 12 if content[2] & 0x20 else 10
    return 8


# JPEG


@dataclass(slots=True)
class Jpeg:
    """The headers of a JPEG."""

    precision: int = 8  # bits
    width: int = 0
    height: int = 0
    is_lossless: bool = False
    finest: dict[int, list[int]] = field(default_factory=dict)  # component to the bits of each coefficient not yet sent
    end: int = 0  # where the end marker is; 0 if it is missing
    height_at: int = 0  # where the height is
    is_height_late: bool = False  # it is 0 there, and follows the first scan (marker DNL)

    @property
    def has_all_scans(self) -> bool:
        """Whether the scans that have begun make the whole picture."""
        return bool(self.finest) and not any(any(missing) for missing in self.finest.values())


_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed zero nor a restart


def read_jpeg(data: bytes) -> Jpeg:
    """Read the frame header and the progress of the scans."""
    jpeg, at = Jpeg(), 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            jpeg.end = found.start()
            break
        if marker in (0x01, 0xD8):  # without a length
            continue
        content = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += 2 + len(content)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 6 and not jpeg.width:
            jpeg.precision, jpeg.height, jpeg.width, count = struct.unpack(">BHHB", content[:6])
            jpeg.height_at = at - len(content) + 1
            jpeg.is_lossless = marker in (0xC3, 0xC7, 0xCB, 0xCF)
            jpeg.finest = {component: [13] * 64 for component in content[6 : 6 + 3 * count : 3]}
        elif marker == 0xDA and content:
            _note_scan(jpeg, content)
        elif marker == 0xDC and len(content) >= 2 and not jpeg.height:
            jpeg.height, jpeg.is_height_late = int.from_bytes(content[:2], "big"), True
    return jpeg


def _note_scan(jpeg: Jpeg, content: bytes) -> None:
    count = content[0]
    first, last, bits = (*content[1 + 2 * count : 4 + 2 * count], 0, 63, 0)[:3]
    for component in content[1 : 1 + 2 * count : 2]:
        if missing := jpeg.finest.get(component):
            for index in range(64) if jpeg.is_lossless else range(first, min(last, 63) + 1):
                missing[index] = 0 if jpeg.is_lossless else bits & 15


# BMP


def read_bmp_colors(data: bytes) -> tuple[bytes | None, bool, Calibration | None]:
    """Return the profile in a BMP, whether it claims sRGB, and its calibration."""
    header = data[14 : 14 + 124]
    size = int.from_bytes(header[:4], "little")
    space = header[56:60]
    if size < 108 or len(header) < 108:
        return None, False, None
    if space == b"DEBM" and size >= 124:  # "MBED": embedded
        start, length = struct.unpack("<II", header[112:120])
        return data[14 + start : 14 + start + length] or None, False, None
    if space != bytes(4):
        return None, space == b"BGRs", None
    ends = np.array(struct.unpack("<9i", header[60:96]), np.float64).reshape(3, 3) / 2**30  # (RGB, XYZ)
    gammas = np.array(struct.unpack("<3I", header[96:108])) / 65536
    sums = ends.sum(axis=1)
    if not (sums > 0).all() or not (gammas > 0).all():
        return None, False, None  # most programs leave these zero
    # Some programs store chromaticities, which say nothing about white, and the exponent from light to samples.
    white = np.array([*D65, 0.0]) if np.allclose(sums, 1, atol=0.001) else ends.sum(axis=0) / sums.sum()
    primaries = tuple((float(x), float(y)) for x, y, _ in (white, *(ends / sums[:, None])))
    gamma = float(gammas.mean())
    gamma = 1 / gamma if gamma < 1 else gamma
    return None, False, Calibration(primaries, gamma) if are_primaries(primaries) and gamma < 10 else None


def read_png_calibration(png: Png) -> Calibration | None:
    """Return what the chunks gAMA and cHRM say; None without both, or if they make no sense."""
    gamma, place = png.others.get(b"gAMA"), png.others.get(b"cHRM")
    exponent, primaries = None, None
    if gamma:
        value = int.from_bytes(gamma, "big")
        if not 1_000 <= value <= 1_000_000:  # 1/100000; exponents of 100 to 0.1
            png.damaged.append("gAMA")
        else:
            exponent = 100_000 / value
    if place:
        numbers = [value / 100_000 for value in struct.unpack(">8I", place)]
        primaries = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        if not are_primaries(primaries):
            png.damaged.append("cHRM")
            primaries = None
    return Calibration(primaries, exponent) if exponent or primaries else None


# Size


def count_missing_bytes(data: bytes, kind: str) -> int:
    """Return how many bytes are missing at the end of a file that says how long it is; 0 if it does not."""
    end = 0
    if kind == "webp":
        end = 8 + int.from_bytes(data[4:8], "little")
    elif kind in ("avif", "heif") or (kind == "jxl" and data[:1] == b"\0"):
        end = max((stop for _, _, stop in iter_boxes(data, 0, len(data))), default=0)
    elif kind == "bmp":
        start = int.from_bytes(data[10:14], "little")
        width, height = struct.unpack("<ii", data[18:26].ljust(8, b"\0"))
        bits, method = struct.unpack("<HI", data[28:34].ljust(6, b"\0"))
        if int.from_bytes(data[14:18], "little") >= 40 and method in (0, 3):
            end = start + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return max(0, end - len(data))
