"""Damage that does not touch the pixels is reported and read; damage that does is named; a bug of ours is neither."""

import io
import struct
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from made import NOISE, chunk, insert_chunk, png, refusal, save_image
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.errors import ImageError
from styler.images.child import Decoder

Y, X = np.mgrid[0:64, 0:96]
SMOOTH = Image.fromarray(np.stack([X * 2, Y * 4, 255 - X * 2], -1).astype(np.uint8))
PNG = save_image("PNG", SMOOTH)
JPEG = save_image("JPEG", SMOOTH, quality=90)
PROGRESSIVE = save_image("JPEG", SMOOTH, quality=90, progressive=True)


def pixels_of(data: bytes) -> NDArray[np.float32]:
    return images.read_image(data).pixels


def break_checksum(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


UNNEEDED = {
    "eXIf": break_checksum(chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")),
    "tEXt": break_checksum(chunk(b"tEXt", b"a\0b")),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1"),
    "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0damaged"),
    "tIME": chunk(b"tIME", b"\0"),
    "pHYs": chunk(b"pHYs", b"\0\1\2"),
    "bKGD": break_checksum(chunk(b"bKGD", bytes(6))),
    "iCCP": chunk(b"iCCP", b"name\0\0damaged"),
    "gAMA": chunk(b"gAMA", b"\1"),
    "cHRM": break_checksum(chunk(b"cHRM", bytes(32))),
    "cICP": chunk(b"cICP", b"\x0c\x0d"),
    "sRGB": chunk(b"sRGB", b""),
    "acTL": chunk(b"acTL", b"\0"),
    "fcTL": break_checksum(chunk(b"fcTL", bytes(26))),
    "vpAg": break_checksum(chunk(b"vpAg", b"x")),
}


@pytest.mark.parametrize(("name", "damaged"), UNNEEDED.items(), ids=UNNEEDED.keys())
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_damaged_chunk_that_is_not_needed_is_ignored(name: str, damaged: bytes, where: str, *, deep: bool) -> None:
    data = bytes(imagecodecs.png_encode(np.asarray(SMOOTH, np.uint16) * 257)) if deep else PNG
    at = 33 if where == "before" else len(data) - 12
    picture = images.read_image(data[:at] + damaged + data[at:], name="x.png")
    assert np.array_equal(picture.pixels, pixels_of(data))
    assert picture.warnings == (
        f"About 'x.png': parts of it that are not needed for its pixels are damaged and were ignored ({name}).",
    )


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_damaged_chunk_that_makes_pixels_is_named(name: bytes) -> None:
    data = bytearray(save_image("PNG", SMOOTH.quantize(16), transparency=b"\0\x80"))
    at = data.index(name)
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 1  # the checksum
    assert f"its {name.decode()} chunk has a wrong checksum" in refusal(bytes(data))


def test_a_suggested_palette_is_not_needed() -> None:
    damaged = insert_chunk(PNG, b"PLTE", bytes(6)).replace(
        chunk(b"PLTE", bytes(6)), break_checksum(chunk(b"PLTE", bytes(6)))
    )
    assert np.array_equal(pixels_of(damaged), pixels_of(PNG))


@pytest.mark.parametrize(
    "data",
    [
        PNG[:33] + chunk(b"IDAT", b"") + PNG[33:],
        PNG[:-12] + chunk(b"IDAT", b"") + PNG[-12:],
        PNG[:-12] + chunk(b"tEXt", b"a\0b") + PNG[-12:],
        PNG + PNG,
        PNG[:33] + chunk(b"prVt", b"private") + PNG[33:],
    ],
    ids=["empty IDAT", "empty IDAT at the end", "text after the pixels", "two pictures", "private chunk"],
)
def test_an_unusual_order_of_chunks_is_read(data: bytes) -> None:
    picture = images.read_image(data)
    assert np.array_equal(picture.pixels, pixels_of(PNG))
    assert picture.warnings == ()


def test_texts_are_read_without_the_pixels_and_from_a_damaged_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images.encode_image(np.zeros((20, 20, 3), np.float32), bit_depth=16, text={"a": "b"})
    at = data.index(b"IDAT")
    monkeypatch.setattr("styler.images.chunks.split_png", fail)
    assert images.read_text(data) == {"a": "b"}
    assert images.read_text(data[: at + 9] + b"?" + data[at + 10 :]) == {"a": "b"}
    assert images.read_text(data[: at + 9]) == {"a": "b"}


@pytest.mark.parametrize("cut", [12, 10, 8, 14, 16])
def test_a_png_whose_pixels_are_complete_needs_no_end(cut: int) -> None:
    picture = images.read_image(PNG[:-cut], name="x")
    assert np.array_equal(picture.pixels, pixels_of(PNG))
    assert "its end marker is missing" in picture.warnings[0]


@pytest.mark.parametrize("interlace", [False, True])
def test_a_cut_png_says_how_much_is_missing(*, interlace: bool) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (64, 64 * 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in raw)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, interlace))
    stored = zlib.compress(rows, 0)  # not compressed: half of the bytes are half of the pixels
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", stored)
    assert "50 % of its pixels are missing" in refusal(data[: len(data) - 12 - len(stored) // 2])
    assert "less than 1 % of its pixels" in refusal(data[: len(data) - 20])


@pytest.mark.parametrize("depth", [8, 16])
def test_a_wrong_checksum_of_the_packed_pixels_is_damage_and_nothing_is_printed(
    depth: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytes(imagecodecs.png_encode(np.asarray(SMOOTH, np.uint8 if depth == 8 else np.uint16)))
    at = data.index(b"IDAT")
    packed = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
    bad = packed[:-1] + bytes([packed[-1] ^ 1])
    assert "its PNG data is damaged" in refusal(data[: at - 4] + chunk(b"IDAT", bad) + chunk(b"IEND", b""))
    header = data[16:28] + b"\2"  # an unknown method of interlacing
    assert "IHDR" in refusal(data[:8] + chunk(b"IHDR", header) + data[33:])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("extra", ["bytes", "chunk", "rows"])
@pytest.mark.parametrize("depth", [8, 16])
def test_data_after_the_pixels_is_ignored_and_nothing_is_printed(
    depth: int, extra: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytes(imagecodecs.png_encode(np.asarray(SMOOTH, np.uint8 if depth == 8 else np.uint16)))
    at = data.index(b"IDAT")
    packed = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
    longer = {
        "bytes": chunk(b"IDAT", packed + b"more"),
        "chunk": chunk(b"IDAT", packed) + chunk(b"IDAT", b"more"),
        "rows": chunk(b"IDAT", zlib.compress(zlib.decompress(packed) + bytes(5000))),
    }
    assert np.array_equal(pixels_of(data[: at - 4] + longer[extra] + chunk(b"IEND", b"")), pixels_of(data))
    assert capfd.readouterr() == ("", "")


def test_the_pixels_of_a_deep_png_are_decoded_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("Pillow decodes them, too"))
    images.read_image(bytes(imagecodecs.png_encode(np.asarray(SMOOTH, np.uint16))))


def test_a_palette_that_is_missing_is_named() -> None:
    data = save_image("PNG", SMOOTH.quantize(16))
    at = data.index(b"PLTE") - 4
    assert "PLTE" in refusal(data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :])


@pytest.mark.parametrize("rows", [1, 32])
def test_missing_rows_in_well_formed_data_are_missed(rows: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (rows, 64), np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise))
    share = "98" if rows == 1 else "50"
    assert f"{share} % of its pixels are missing" in refusal(png(64, 64, chunk(b"IDAT", packed)))


def test_a_png_of_an_iphone_app_is_named() -> None:
    assert "CgBI" in refusal(PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:])


# JPEG


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, save_image("JPEG", SMOOTH.convert("L")), save_image("JPEG")])
@pytest.mark.parametrize("tail", [b"", bytes(40), b"\xff"])
def test_a_jpeg_without_its_end_marker_is_read(data: bytes, tail: bytes) -> None:
    assert data.endswith(b"\xff\xd9")
    picture = images.read_image(data[:-2] + tail, name="x")
    assert np.array_equal(picture.pixels, pixels_of(data))
    assert picture.warnings == ("About 'x': its end marker is missing, but its pixels are complete.",)


@pytest.mark.parametrize("padding", [0, 5000])
def test_a_cut_jpeg_says_how_much_is_missing(padding: int) -> None:
    data = save_image("JPEG", NOISE, quality=95)
    begin = data.index(b"\xff\xda")
    cut = data[: begin + (len(data) - begin) * 3 // 4] + bytes(padding)  # noise: the bytes are spread evenly
    sentence = refusal(cut)
    assert "the lower 2" in sentence or "the lower 3" in sentence
    assert "ends too early" in sentence


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_progressive_jpeg_is_refused(share: float) -> None:
    data = save_image("JPEG", NOISE, quality=95, progressive=True)
    assert "ends too early" in refusal(data[: int(len(data) * share)])


def test_a_jpeg_with_its_height_at_the_end_is_read() -> None:
    at = JPEG.index(b"\xff\xc0") + 5
    data = JPEG[:at] + b"\0\0" + JPEG[at + 2 : -2] + b"\xff\xdc\0\4" + JPEG[at : at + 2] + b"\xff\xd9"
    assert np.array_equal(pixels_of(data), pixels_of(JPEG))


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 3)])
def test_a_jpeg_of_more_than_8_bits_keeps_its_tones(bits: int, shape: tuple[int, ...]) -> None:
    if bits == 10:
        pytest.skip("the encoder writes 8, 12 and 16 bits")
    top = 2**bits - 1
    stored = np.broadcast_to((X * top // 95)[..., None], (64, 96, 3))[..., : shape[-1] if len(shape) == 3 else 1]
    stored = np.ascontiguousarray(stored.reshape(shape), np.uint16)
    data = bytes(imagecodecs.jpeg8_encode(stored, level=100, bitspersample=bits, lossless=bits == 16))
    assert np.abs(pixels_of(data) - (X * top // 95 / top)[..., None]).max() < 0.01
    assert "px" in refusal(data, max_pixels=1000)


# Other formats


def make_cuts() -> dict[str, tuple[bytes, int]]:
    cuts = {form: (save_image(form), 1000) for form in ("WEBP", "BMP", "AVIF")}
    for name, settings in {"TIFF": {}, "TIFF at the end": {"compression": "tiff_lzw"}}.items():
        cuts[name] = (save_image("TIFF", NOISE, **settings), 300)
    return cuts


@pytest.mark.parametrize(("data", "cut"), make_cuts().values(), ids=make_cuts().keys())
def test_truncation_is_reported_with_what_is_missing(data: bytes, cut: int) -> None:
    sentence = refusal(data[:-cut])
    assert "ends too early" in sentence
    assert "missing" in sentence
    if not data.startswith(b"II"):
        assert f"{cut:,} of {len(data):,} bytes are missing" in sentence


@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_alpha_that_is_0_everywhere_is_ignored(form: str) -> None:
    clear = SMOOTH.copy()
    clear.putalpha(0)
    if form == "TIFF":
        data = save_image("TIFF", clear)
    else:  # Pillow writes no alpha into a BMP
        rows = np.asarray(clear)[::-1, :, [2, 1, 0, 3]].tobytes()
        masks = struct.pack("<4I4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
        header = struct.pack("<IiiHHIIiiII", 124, 96, 64, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(64)
        data = struct.pack("<2sIHHI", b"BM", 138 + len(rows), 0, 0, 138) + header + rows
    picture = images.read_image(data, name="x")
    assert picture.alpha is None
    assert np.array_equal(picture.pixels, pixels_of(save_image("PNG", SMOOTH)))
    assert picture.warnings == ("About 'x': its alpha is 0 everywhere and was ignored, so it is opaque.",)


def test_a_gif_whose_second_image_is_damaged_is_read() -> None:
    second = SMOOTH.rotate(180)
    data = save_image("GIF", SMOOTH, save_all=True, append_images=[second], duration=100)
    at = data.rindex(b"!\xf9")  # before the second image
    picture = images.read_image(data[:at] + b"!\xf9\1\0\0;", name="x")
    assert np.abs(picture.pixels - pixels_of(PNG)).mean() < 0.1
    assert "more than one image" in picture.warnings[0]


@pytest.mark.parametrize("transparent", [False, True])
def test_what_the_first_frame_of_a_gif_leaves_uncovered_is_transparent(*, transparent: bool) -> None:
    settings = {"transparency": 3} if transparent else {}
    frame = SMOOTH.quantize(16)
    data = bytearray(save_image("GIF", frame, **settings))
    data[6:10] = struct.pack("<HH", 120, 100)  # the canvas
    at = data.index(b",\0\0\0\0") + 1
    data[at : at + 4] = struct.pack("<HH", 10, 20)
    picture = images.read_image(bytes(data))
    assert picture.alpha is not None
    covered = np.zeros((100, 120), bool)
    covered[20:84, 10:106] = np.asarray(frame) != 3 if transparent else True
    assert np.array_equal(picture.alpha, covered)
    assert (picture.pixels[~covered] == 1).all()


def test_the_base_of_an_ultra_hdr_jpeg_is_read() -> None:
    gain = imagecodecs.ultrahdr_encode(np.full((64, 96, 4), 0.5, np.float16))
    base = Image.open(io.BytesIO(gain))
    picture = images.read_image(bytes(gain))
    assert picture.pixels.shape == (64, 96, 3)
    assert np.abs(picture.pixels - np.asarray(base.convert("RGB")) / 255).mean() < 0.02
    assert picture.warnings == ()


# Bugs


class Bug(Exception):
    pass


def fail(*args: Any, **kwargs: Any) -> None:
    raise Bug("found a bug")


@pytest.mark.parametrize(
    "place",
    [
        "styler.images.color.convert_to_srgb",
        "styler.images.color.choose_converter",
        "styler.images.decode._split_alpha",
        "styler.images.exif.select_tags",
        "styler.images.read.decode",
    ],
)
def test_a_bug_of_ours_is_not_called_damage(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, fail)
    with pytest.raises(Bug):
        images.read_image(PNG)


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, OSError, RuntimeError, IndexError])
def test_even_an_exception_that_decoders_raise_is_a_bug_in_our_code(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_likewise(*args: Any) -> None:
        raise error("ours")

    monkeypatch.setattr("styler.images.color.convert_to_srgb", fail_likewise)
    with pytest.raises(error, match="ours"):
        images.read_image(PNG)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = images.encode_image(np.zeros((20, 20, 3), np.float32), bit_depth=16)
    deep_tiff = images.encode_image(np.zeros((20, 20, 3), np.float32), format="tiff")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert "pip install imagecodecs" in refusal(deep)
    assert "pip install tifffile" in refusal(deep_tiff)


def test_an_import_error_of_our_own_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "styler.images.exif", None)

    def import_it(*args: Any) -> None:
        import styler.images.exif  # noqa: F401

    monkeypatch.setattr("styler.images.color.convert_to_srgb", import_it)
    with pytest.raises(ImportError):
        images.read_image(PNG)


def test_a_bug_in_the_child_process_is_reported_with_its_traceback(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import styler.images.read as read\n"
        "def fail(*args, **kwargs): raise LookupError('a bug in the child')\n"
        "read.color.convert_to_srgb = fail\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Decoder() as decoder:
        pid = decoder.pid
        for _ in range(2):  # it answers again
            with pytest.raises(RuntimeError, match=r"(?s)Traceback.*LookupError: a bug in the child") as caught:
                decoder.read(PNG)
            assert not isinstance(caught.value, ImageError)
        with pytest.raises(ImageError, match="checksum"):
            decoder.read(break_checksum(PNG[:33]) + PNG[33:])
        assert decoder.pid == pid


def test_damage_is_still_reported_as_damage() -> None:
    stream = io.BytesIO()
    NOISE.save(stream, "GIF")
    data = bytearray(stream.getvalue())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    assert "GIF data" in refusal(bytes(data))
