"""Hostile bytes cannot exceed the limits of memory, time and threads, or raise anything but `ImageError`."""

import io
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from made import NOISE, chunk, png, refusal, save_image
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from styler import images
from styler.errors import ImageError


def test_a_false_header_is_refused_before_decoding() -> None:
    tiny = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    assert "60000 × 60000 px" in refusal(png(60000, 60000, tiny))
    jpeg = bytearray(save_image("JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60000, 60000)
    assert "60000 × 60000 px" in refusal(bytes(jpeg))
    gif = bytearray(save_image("GIF"))
    at = gif.index(b",\0\0\0\0") + 5  # its first frame may enlarge the canvas
    gif[at : at + 4] = struct.pack("<HH", 60000, 60000)
    assert "larger than the limit for whole pictures" in refusal(bytes(gif))
    assert "ends too early" in refusal(png(9000, 9000, tiny))  # within the limit, but without data
    assert refusal(png(9000, 9000, tiny, depth=16))


def bomb(side: int) -> bytes:
    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    return png(side, side, chunk(b"IDAT", b"".join(packer.compress(row) for _ in range(side)) + packer.flush()))


def test_a_bomb_is_refused_exactly_when_it_is_over_the_limit() -> None:
    data = bomb(2000)
    assert len(data) < 10_000
    assert images.read_image(data, max_pixels=4_000_000).pixels.shape == (2000, 2000, 3)
    assert "2000 × 2000 px" in refusal(data, max_pixels=3_999_999)
    assert "limit of 250 megapixels" in refusal(png(20000, 20000, chunk(b"IDAT", b"")))


@pytest.mark.parametrize(("first", "message"), [((64, 64), "ends too early"), ((128, 12_000_000), "128 × 12000000 px")])
def test_pillow_never_sees_an_animation_or_a_second_header(first: tuple[int, int], message: str) -> None:
    lie = chunk(b"IHDR", struct.pack(">IIBBBBB", 128, 12_000_000, 8, 6, 0, 0, 0))  # Pillow would allocate a frame
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 10, 1, 0))
    animation = chunk(b"acTL", struct.pack(">II", 2, 0)) + lie + frame
    data = png(*first, animation, chunk(b"IDAT", zlib.compress(b"\0")))
    opened: list[bytes] = []

    def open_recorded(stream: io.BytesIO) -> PngImageFile:
        opened.append(stream.getvalue())
        return PngImageFile(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.PngImagePlugin.PngImageFile", open_recorded)
        assert message in refusal(data)
    assert [b"acTL" in seen or seen.count(b"IHDR") > 1 for seen in opened] == [False]


def test_a_tiff_strip_that_unpacks_to_much_more_is_limited() -> None:
    honest = io.BytesIO()
    tifffile.imwrite(honest, np.zeros((16, 16), np.uint16), compression="zlib", metadata=None)
    with tifffile.TiffFile(io.BytesIO(honest.getvalue())) as file:
        at, length = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
        counts = file.pages.first.tags[279]
    strip = zlib.compress(bytes(200_000_000), 9)
    data = bytearray(honest.getvalue()[:at] + strip)
    assert length < 999
    data[counts.offset + 8 : counts.offset + 12] = struct.pack("<I", len(strip))
    tracemalloc.start()
    try:
        images.read_image(bytes(data))
    except ImageError:
        assert True  # either is fine: the picture, or a refusal
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_80_megabytes_of_text_are_not_unpacked(name: bytes) -> None:
    middle = b"comment\0\1\0\0\0" if name == b"iTXt" else b"comment\0\0"
    plain = save_image("PNG")
    data = plain[:33] + chunk(name, middle + zlib.compress(bytes(80_000_000), 9)) + plain[33:]
    tracemalloc.start()
    try:
        picture, texts = images.read_image(data), images.read_text(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(picture.pixels, images.read_image(plain).pixels)
    assert texts == {}
    assert peak < 70_000_000


@pytest.mark.parametrize("size", [(1, 1), (1, 30000), (30000, 1), (15, 16)])
def test_a_picture_that_is_too_small_is_refused(size: tuple[int, int]) -> None:
    data = save_image("PNG", Image.new("RGB", size))
    assert f"{size[0]} × {size[1]} px" in refusal(data)
    assert images.read_image(data, min_side=1).width == size[0]


def test_a_file_over_the_limit_is_refused_and_not_read(tmp_path: Path) -> None:
    data = save_image("PNG")
    path = tmp_path / "big.png"
    path.write_bytes(data)
    for source in (data, path):
        assert "limit of 1,000 bytes" in refusal(source, max_bytes=1000)
    assert images.read_image(path, max_bytes=len(data)).width == 64
    stream = Endless(data)
    assert "limit" in refusal(cast("BinaryIO", stream), max_bytes=5_000_000)
    assert stream.offset < 8_000_000


class Endless(io.RawIOBase):
    """A stream that begins like a picture and never ends."""

    def __init__(self, head: bytes) -> None:
        self.head, self.offset = head, 0

    def read(self, size: int = -1) -> bytes:
        assert 0 < size < 10_000_000
        piece = self.head[self.offset : self.offset + size] or bytes(size)
        self.offset += len(piece)
        return piece


def test_an_endless_stream_of_an_unknown_format_is_refused_early() -> None:
    stream = Endless(bytes(1))
    assert "unrecognized image format" in refusal(cast("BinaryIO", stream))
    assert stream.offset < 100_000


def test_a_stream_that_fails_or_is_text_is_refused() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    assert "reading it failed" in refusal(cast("BinaryIO", Broken()))
    assert "binary mode" in refusal(io.StringIO("text"))


def test_lack_of_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("styler.images.color.convert_to_srgb", out_of_memory)
    assert "not enough memory" in refusal(save_image("PNG"))


@pytest.fixture(scope="module")
def seeds() -> list[bytes]:
    floats = np.asarray(NOISE, np.float32) / 255
    small = NOISE.resize((17, 16))
    return [
        *(save_image(form) for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")),
        save_image("WEBP", lossless=True),
        save_image("TIFF", compression="tiff_lzw"),
        save_image("PNG", small.convert("P"), transparency=b"\0\x80"),
        save_image("JPEG", small.convert("CMYK")),
        images.encode_image(floats, bit_depth=16, text={"styler": "{}"}, metadata={"make": "x"}),
        images.encode_image(floats, format="tiff", bit_depth=16),
        images.encode_image(floats, format="jpeg", text={"styler": "{}"}, metadata={"date": "x"}),
    ]


@settings(max_examples=300, deadline=5000, derandomize=True)
@given(data=st.data())
def test_any_mutation_gives_a_picture_or_an_image_error(seeds: list[bytes], data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 8))):
        # Headers matter most, so half of the changes are in the first hundred bytes.
        at = data.draw(st.integers(0, min(99, len(mutated) - 1)) | st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    picture, sentence = None, "."
    try:
        picture = images.read_image(bytes(mutated), max_pixels=1_000_000)
    except ImageError as refused:
        sentence = str(refused)
    assert sentence.isprintable()
    assert sentence.endswith(".")
    if picture is not None:
        assert np.isfinite(picture.pixels).all()
        assert 0 <= picture.pixels.min() <= picture.pixels.max() <= 1


@pytest.fixture(autouse=True)
def no_thread_remains() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before
