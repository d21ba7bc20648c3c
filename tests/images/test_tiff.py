"""Every common kind of TIFF is read as its tags say; what is not supported is named."""

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from made import refusal, save_image
from numpy.typing import NDArray
from PIL import Image

from styler import images

H, W = 32, 48
Y, X = np.mgrid[0:H, 0:W]
COLORS = np.stack([X * 255 // (W - 1), Y * 255 // (H - 1), 255 - (X + Y) * 255 // (H + W - 2)], -1).astype(np.uint8)
GRAY = COLORS[..., 0].copy()
BILEVEL = (X + Y) % 7 < 3


def tiff(array: NDArray[Any], **settings: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"metadata": None, **settings})
    return stream.getvalue()


def read(data: bytes) -> NDArray[np.float32]:
    picture = images.read_image(data)
    assert picture.warnings == ()
    return picture.pixels


LOSSLESS = ["none", "lzw", "deflate", "adobe_deflate", "packbits", "lzma", "zstd", "webp", "jpegxl", "lerc"]


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_every_usual_compression_is_read(compression: str, tile: tuple[int, int] | None) -> None:
    arguments = {"webp": {"lossless": True}, "jpegxl": {"lossless": True}}.get(compression)
    data = tiff(COLORS, photometric="rgb", compression=compression, compressionargs=arguments, tile=tile)
    assert np.array_equal(read(data), COLORS / np.float32(255))


@pytest.mark.parametrize("compression", ["raw", "tiff_ccitt", "group3", "group4", "tiff_lzw", "packbits"])
def test_one_bit_is_read(compression: str) -> None:
    data = save_image("TIFF", Image.fromarray(BILEVEL), compression=compression)
    assert np.array_equal(read(data), np.repeat(BILEVEL[..., None], 3, -1))


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr", "minisblack", "separated"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_jpeg_in_tiff_is_read(photometric: str, tile: tuple[int, int] | None) -> None:
    inks = np.dstack([255 - COLORS, np.zeros((H, W), np.uint8)])
    luma = np.asarray(Image.fromarray(COLORS).convert("YCbCr"))
    stored = {"minisblack": GRAY, "separated": inks, "ycbcr": luma}.get(photometric, COLORS)
    expected = np.repeat(GRAY[..., None], 3, -1) if photometric == "minisblack" else COLORS
    data = tiff(stored, photometric=photometric, compression="jpeg", compressionargs={"level": 98}, tile=tile)
    assert np.abs(read(data) * 255 - expected).mean() < 4


def test_12_bit_jpeg_in_tiff_is_read() -> None:
    stored = (GRAY.astype(np.uint16) * 16).clip(0, 4095)
    strip = bytes(imagecodecs.jpeg8_encode(stored, level=100, bitspersample=12))
    entries = [
        (256, 3, W),
        (257, 3, H),
        (258, 3, 12),
        (259, 3, 7),
        (262, 3, 1),
        (273, 4, 150),
        (277, 3, 1),
        (279, 4, len(strip)),
    ]
    body = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    data = (b"II*\0\x08\0\0\0" + body + bytes(4)).ljust(150, b"\0") + strip
    assert np.abs(read(data)[..., 0] - stored / 4095).max() < 0.01


LAYOUTS: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
    "planes": (np.moveaxis(COLORS, -1, 0), {"photometric": "rgb", "planarconfig": "separate", "compression": "lzw"}),
    "predictor": (COLORS, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
    "float predictor": (
        (COLORS / 255).astype(np.float32),
        {"photometric": "rgb", "compression": "zlib", "predictor": 3},
    ),
    "half": ((COLORS / 255).astype(np.float16), {"photometric": "rgb"}),
    "BigTIFF": (COLORS, {"photometric": "rgb", "bigtiff": True}),
    "big-endian": (COLORS, {"photometric": "rgb", "byteorder": ">"}),
    "unspecified sample": (np.dstack([COLORS, GRAY]), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "CMYK": (np.dstack([255 - COLORS, np.zeros((H, W), np.uint8)]), {"photometric": "separated"}),
}


@pytest.mark.parametrize(("stored", "settings"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_rgb_is_read(stored: NDArray[Any], settings: dict[str, Any]) -> None:
    assert np.abs(read(tiff(stored, **settings)) - COLORS / 255).max() < 1e-3


def test_gray_of_every_kind_is_read() -> None:
    wanted = np.repeat(GRAY[..., None], 3, -1) / 255
    assert np.abs(read(tiff(255 - GRAY, photometric="miniswhite")) - wanted).max() < 1e-6
    for bits in (2, 4):
        stored = GRAY >> (8 - bits)
        assert np.abs(read(tiff(stored, bitspersample=bits)) - (stored / (2**bits - 1))[..., None]).max() < 1e-6
    assert np.array_equal(read(tiff(~BILEVEL, photometric="miniswhite")), np.repeat(BILEVEL[..., None], 3, -1))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("scale", [257, 256, 1])
def test_palettes_are_read(depth: int, scale: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, (3, 2**depth), np.uint16)
    data = tiff(
        GRAY.astype(np.uint8 if depth == 8 else np.uint16), photometric="palette", colormap=table * np.uint16(scale)
    )
    assert np.abs(read(data) - table.T[GRAY] / 255).max() < 0.005


@pytest.mark.parametrize("photometric", [8, 9])
@pytest.mark.parametrize("depth", [8, 16])
def test_lab_is_read(photometric: int, depth: int) -> None:
    known = {(1.0, 0.0, 0.0): (54.29, 80.81, 69.89), (0.0, 0.0, 1.0): (29.57, 68.30, -112.03), (1, 1, 1): (100, 0, 0)}
    for expected, (light, a, b) in known.items():  # sRGB to Lab with white D50
        full = 255 if depth == 8 else 65535 if photometric == 8 else 65280
        step = 1 if depth == 8 else 256
        offset = 0 if photometric == 8 else 128
        values = [light / 100 * full, (a + offset) * step, (b + offset) * step]
        stored = np.array([round(value) % 2**depth for value in values]).astype(np.uint8 if depth == 8 else np.uint16)
        data = tiff(np.broadcast_to(stored, (20, 20, 3)).copy(), photometric=photometric)
        assert np.abs(read(data)[0, 0] - expected).max() < (0.03 if depth == 8 else 0.01)


def test_ycbcr_without_jpeg_is_read() -> None:
    stored = np.asarray(Image.fromarray(COLORS).convert("YCbCr"))
    data = tiff(stored, photometric="ycbcr", subsampling=(1, 1), compression="lzw")
    assert np.abs(read(data) * 255 - COLORS).max() < 4


def test_premultiplied_8_bit_alpha_is_restored() -> None:
    half = np.full((32, 32, 4), 128, np.uint8)
    picture = images.read_image(tiff(half, photometric="rgb", extrasamples=["assocalpha"]))
    assert np.abs(picture.pixels - 1).max() < 1e-4  # half-transparent white over white


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_sample_without_a_meaning_is_alpha(dtype: type) -> None:
    top = np.iinfo(dtype).max
    stored = np.dstack([COLORS.astype(dtype) * dtype(top // 255), np.full((H, W), top // 2, dtype)])
    data = bytearray(tiff(stored, photometric="rgb", extrasamples=["unassalpha"]))
    at = bytes(data).index(struct.pack("<HHI", 338, 3, 1))
    data[at : at + 2] = struct.pack("<H", 65000)  # a tag that nobody knows
    picture = images.read_image(bytes(data))
    assert picture.alpha is not None
    assert abs(picture.alpha.mean() - 0.5) < 0.01


def test_8_bit_values_marked_as_signed_are_read_as_elsewhere() -> None:
    assert np.array_equal(read(tiff(COLORS.view(np.int8), photometric="rgb")), COLORS / np.float32(255))


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_byte_count_that_is_too_large_does_no_harm(compression: str | None) -> None:
    data = bytearray(tiff(COLORS, photometric="rgb", compression=compression))
    at = bytes(data).index(struct.pack("<H", 279))
    data[at : at + 12] = struct.pack("<HHII", 279, 4, 1, 35_711_440)
    assert np.array_equal(read(bytes(data)), COLORS / np.float32(255))


# Pages


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("where", ["page", "sub-page"])
@pytest.mark.parametrize("flag", [254, 255])
def test_the_page_of_full_resolution_is_used(dtype: type, where: str, flag: int) -> None:
    full, stream = COLORS.astype(dtype) * dtype(1 if dtype == np.uint8 else 257), io.BytesIO()
    flags: dict[str, Any] = {"subfiletype": 1} if flag == 254 else {"extratags": [(255, 3, 1, 2, True)]}
    with tifffile.TiffWriter(stream) as writer:
        subs: dict[str, Any] = {"subifds": 1} if where == "sub-page" else {}
        writer.write(full[::2, ::2], photometric="rgb", metadata=None, **flags, **subs)
        writer.write(full, photometric="rgb", metadata=None)
    picture = images.read_image(stream.getvalue(), name="scan")
    assert np.array_equal(np.rint(picture.pixels * 255), COLORS)
    assert picture.warnings == ("About 'scan': its first page is a thumbnail; the page of full resolution is used.",)


def test_a_pyramid_is_one_picture() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(COLORS, photometric="rgb", metadata=None)
        writer.write(COLORS[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    assert np.array_equal(read(stream.getvalue()), COLORS / np.float32(255))


def test_pages_that_refer_to_each_other_end() -> None:
    data = bytearray(tiff(COLORS, photometric="rgb"))
    place = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[place : place + 2], "little")
    at = place + 2 + 12 * count
    data[at : at + 4] = data[4:8]  # the next page is the first
    assert np.array_equal(read(bytes(data)), COLORS / np.float32(255))


# Refusals


@pytest.mark.parametrize("code", [4660, 32908, 34712, 34676])
def test_an_unsupported_compression_is_named(code: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(tiff(COLORS, photometric="rgb"))
    at = bytes(data).index(struct.pack("<HHI", 259, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", code)
    sentence = refusal(bytes(data))
    assert str(code) in sentence
    assert "is not supported; save it with LZW or Deflate" in sentence
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "jpeg", "webp", "jpegxl", "zstd", "lzma", "lerc"])
def test_damage_is_reported_and_nothing_is_printed(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(tiff(COLORS, photometric="rgb", compression=compression))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start, size = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    data[start : start + size // 2 + 4] = b"\xa5" * (size // 2 + 4)
    assert "download" in refusal(bytes(data)) or "save it" in refusal(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpegxl", "lerc"])
def test_a_strip_that_claims_to_be_larger_than_the_page_is_refused(compression: str) -> None:
    big = np.zeros((1200, 1200, 3), np.uint8)
    settings = {"jpegxl": {"effort": 1}}.get(compression, {})
    strip = bytes(getattr(imagecodecs, f"{compression}_encode")(big, **settings))
    small = tiff(COLORS, photometric="rgb", compression=compression)
    at = small.index(struct.pack("<HHI", 273, 4, 1)) + 8
    size_at = small.index(struct.pack("<HH", 279, 4)) + 8 if struct.pack("<HH", 279, 4) in small else -1
    data = bytearray(small + strip)
    data[at : at + 4] = struct.pack("<I", len(small))
    if size_at < 0:
        size_at = small.index(struct.pack("<HH", 279, 3)) + 8
        data[size_at - 6 : size_at - 4] = struct.pack("<H", 4)
    data[size_at : size_at + 4] = struct.pack("<I", len(strip))
    assert "larger than the whole picture" in refusal(bytes(data))
