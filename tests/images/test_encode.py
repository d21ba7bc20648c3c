"""Encoded pictures are read back rounded once, tagged as sRGB, with alpha, texts and metadata."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from styler import images
from styler.errors import OptionError, OutputError
from styler.images import decode as decode_module

RAMP = np.linspace(0, 1, 256 * 256, dtype=np.float32).reshape(256, 256)
PIXELS = np.stack([RAMP, RAMP.T, RAMP[::-1]], -1)
SMALL = PIXELS[::4, ::4]
ALPHA = (np.arange(64 * 64).reshape(64, 64) % 256 / 255).astype(np.float32)
FORMATS = ("png", "jpeg", "webp", "avif", "tiff")
TEXT = {"styler": '{"size": 512, "name": "Grüße"}', "Software": "styler"}
METADATA = {"make": "Leica", "model": "M ñ", "artist": "Ünal", "copyright": "© Zoë", "date": "2024:05:06 07:08:09"}


@pytest.mark.parametrize("format_", ["png", "tiff"])
def test_16_bits_are_exact_and_rounded_once(format_: str) -> None:
    back = images.read_image(images.encode_image(PIXELS, format=format_, bit_depth=16)).pixels
    assert np.array_equal(back, np.rint(PIXELS.astype(np.float64) * 65535).astype(np.float32) / np.float32(65535))
    tones = np.arange(65536, dtype=np.float32).reshape(256, 256, 1).repeat(3, -1) / np.float32(65535)
    assert np.array_equal(images.read_image(images.encode_image(tones, format=format_, bit_depth=16)).pixels, tones)


@pytest.mark.parametrize("format_", ["png", "tiff"])
def test_8_bits_are_rounded_to_the_nearest_value(format_: str) -> None:
    back = images.read_image(images.encode_image(PIXELS, format=format_)).pixels
    assert np.abs(back - PIXELS).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(images.encode_image(back, format=format_), images.encode_image(PIXELS, format=format_))


@pytest.mark.parametrize(("format_", "tolerance"), [("jpeg", 0.02), ("webp", 0.1), ("avif", 0.03)])
def test_lossy_formats_are_close(format_: str, tolerance: float) -> None:
    assert np.abs(images.read_image(images.encode_image(SMALL, format=format_)).pixels - SMALL).max() < tolerance


def test_jpeg_keeps_color_at_full_resolution() -> None:
    checks = np.indices((32, 32)).sum(0) % 2
    red_blue = np.stack([checks, checks * 0, 1 - checks], -1).astype(np.float32)
    assert (
        np.abs(images.read_image(images.encode_image(red_blue, format="jpeg", quality=100)).pixels - red_blue).max()
        < 0.05
    )


def test_values_outside_the_range_are_clipped_and_nan_is_refused() -> None:
    wild = SMALL * 3 - 1
    assert np.array_equal(images.encode_image(wild), images.encode_image(np.clip(wild, 0, 1)))
    wild[3, 4, 1] = np.nan
    with pytest.raises(OutputError, match="not finite"):
        images.encode_image(wild)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("format_", FORMATS)
def test_alpha_is_exact_in_formats_that_have_it(format_: str, depth: int) -> None:
    if depth == 16 and format_ not in ("png", "tiff"):
        with pytest.raises(OptionError, match=r"^The bit depth is 16; in \w+ it can be 8\.$"):
            images.encode_image(SMALL, format=format_, bit_depth=16)
        return
    picture = images.read_image(images.encode_image(SMALL, alpha=ALPHA, format=format_, bit_depth=depth))
    if format_ == "jpeg":
        assert picture.alpha is None
        assert np.abs(picture.pixels - SMALL).max() < 0.02
    else:
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, ALPHA)


@pytest.mark.parametrize("format_", ["png", "webp", "tiff"])
def test_colors_under_full_transparency_survive(format_: str) -> None:
    data = images.encode_image(SMALL, alpha=np.zeros_like(ALPHA), format=format_, quality=100)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., :3]
    assert np.abs(stored / 255 - SMALL).max() < 0.1


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_tagged_as_srgb_with_the_same_bytes_each_time(format_: str) -> None:
    data = images.encode_image(SMALL, format=format_)
    assert images.encode_image(SMALL.copy(), format=format_) == data
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        if format_ == "png":
            assert image.info["srgb"] == 0
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            assert "sRGB" in ImageCms.getProfileDescription(profile)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("format_", FORMATS)
def test_texts_and_metadata_are_written_and_nothing_else(format_: str, depth: int) -> None:
    if depth == 16 and format_ not in ("png", "tiff"):
        return
    private = {"gps": "52.5 N", "serial": "12345"}
    data = images.encode_image(SMALL, format=format_, bit_depth=depth, text=TEXT, metadata=METADATA | private)
    assert images.read_text(data) == TEXT
    kept = dict(images.read_image(data).metadata)
    assert kept == {k: v for k, v in METADATA.items() if format_ != "tiff" or k != "date"}
    assert b"12345" not in data
    assert b"52.5" not in data
    assert images.read_text(images.encode_image(SMALL, format=format_, bit_depth=depth)) == {}


def test_texts_of_other_programs_are_ignored() -> None:
    block = Image.Exif()
    block.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a nice day"
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, "JPEG", exif=block.tobytes())
    assert images.read_text(stream.getvalue()) == {}


def test_text_that_is_too_long_for_a_jpeg_is_refused() -> None:
    text = {"styler": "x" * 100_000}
    with pytest.raises(OutputError, match=r"too long for a JPEG.*\.$"):
        images.encode_image(SMALL, format="jpeg", text=text)
    assert images.read_text(images.encode_image(SMALL, text=text)) == text


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"format": "bmp"}, OutputError, "There is no format 'bmp'; choose one of png, jpeg, webp, avif, tiff."),
        ({"bit_depth": 12}, OptionError, "The bit depth is 12; in PNG it can be 8 or 16."),
        ({"quality": 0}, OptionError, "The quality is 0; it can be 1 to 100."),
        ({"quality": 101, "format": "jpeg"}, OptionError, "The quality is 101; it can be 1 to 100."),
    ],
)
def test_unknown_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        images.encode_image(SMALL, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("form", images.FORMATS)
def test_a_gray_array_is_a_gray_picture(form: str) -> None:
    gray = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)
    picture = images.read_image(images.encode_image(gray, format=form))
    assert picture.pixels.shape == (20, 30, 3)
    assert np.abs(picture.pixels - gray[..., None]).max() < (0.003 if form in ("png", "tiff") else 0.05)


@pytest.mark.parametrize("shape", [(20,), (20, 20, 4), (0, 20, 3), (1, 3, 20, 20)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutputError, match="shape"):
        images.encode_image(np.zeros(shape, np.float32))


def test_a_side_too_long_for_the_format_is_refused() -> None:
    long: NDArray[np.float32] = np.zeros((16, 16384, 3), np.float32)
    with pytest.raises(OutputError, match="WebP holds at most 16,383 on a side; write PNG or TIFF"):
        images.encode_image(long, format="webp")
    assert images.read_image(images.encode_image(long)).width == 16384


def test_imports_are_light_and_never_include_torch() -> None:
    heavy = ("torch", "tifffile", "imagecodecs", "PIL.ImageCms", "PIL.EpsImagePlugin", "pillow_heif")
    program = (
        "import sys, styler.errors, styler.images as images\n"
        f"assert not [m for m in {heavy} if m in sys.modules], 'at import'\n"
        "data = images.encode_image(__import__('numpy').zeros((20, 20, 3)), text={'a': 'b'})\n"
        "images.read_image(data)\n"
        "try: images.read_image(b'%!PS-Adobe-3.0 EPSF-3.0')\n"
        "except styler.errors.ImageError: pass\n"
        "assert not [m for m in ('torch', 'PIL.EpsImagePlugin') if m in sys.modules], 'in use'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_to_uint8_rounds_to_the_nearest_value_and_clips() -> None:
    floats = np.array([-1, 0, 0.4 / 255, 0.6 / 255, 1, 2])
    for dtype in (np.float32, np.float64):
        assert images.to_uint8(floats.astype(dtype)).tolist() == [0, 0, 0, 1, 255, 255]
    assert images.to_uint8(floats).dtype == np.uint8


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_large_picture_is_rounded_strip_by_strip(
    monkeypatch: pytest.MonkeyPatch, kind: type, channels: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    pixels: NDArray[Any] = random.random((50, 40, *channels)).astype(kind)
    alpha = random.random((50, 40))
    given: dict[str, Any] = {"alpha": alpha if channels else None, "bit_depth": 16}
    whole, small = images.encode_image(pixels, **given), images.to_uint8(pixels)
    monkeypatch.setattr(decode_module, "_STRIP_PIXELS", 100)
    assert images.encode_image(pixels, **given) == whole
    assert np.array_equal(images.to_uint8(pixels), small)
    pixels[-1, -1] = np.nan
    with pytest.raises(OutputError, match="not finite"):
        images.encode_image(pixels)
