"""16-bit and float samples, embedded profiles, CMYK and gray keep their tones and colors."""

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from made import insert_chunk, save_image
from numpy.typing import NDArray
from PIL import Image, ImageCms

from styler import images
from styler.errors import ImageError

TONES = np.arange(65536, dtype=np.uint16).reshape(256, 256)  # every 16-bit tone
COLORS = np.stack([TONES, TONES.T, TONES[::-1]], -1)


def tiff(array: NDArray[Any], **settings: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"metadata": None, **settings})
    return stream.getvalue()


DEEP_GRAY = {
    "PNG": bytes(imagecodecs.png_encode(TONES)),
    "TIFF": tiff(TONES),
    "big-endian": tiff(TONES, byteorder=">"),
    "BigTIFF": tiff(TONES, bigtiff=True),
    "tiled": tiff(TONES, tile=(64, 64), compression="zlib", predictor=True),
    "inverted": tiff(65535 - TONES, photometric="miniswhite"),
}
DEEP_COLOR = {
    "PNG": bytes(imagecodecs.png_encode(COLORS)),
    "TIFF": tiff(COLORS, photometric="rgb"),
    "tiled": tiff(COLORS, photometric="rgb", tile=(32, 32), compression="lzw"),
    "planes": tiff(np.moveaxis(COLORS, -1, 0), photometric="rgb", planarconfig="separate"),
    "float": tiff((COLORS / 65535).astype(np.float32), photometric="rgb"),
    "double": tiff(COLORS / 65535, photometric="rgb"),
    "32 bit": tiff(COLORS.astype(np.uint32) * 65537, photometric="rgb"),
}


@pytest.mark.parametrize("data", DEEP_GRAY.values(), ids=DEEP_GRAY.keys())
def test_every_tone_of_16_bit_gray_is_kept(data: bytes) -> None:
    picture = images.read_image(data)
    assert np.array_equal(picture.pixels * 65535, np.repeat(TONES[..., None], 3, -1).astype(np.float32))
    assert picture.warnings == ()


@pytest.mark.parametrize("data", DEEP_COLOR.values(), ids=DEEP_COLOR.keys())
def test_every_tone_of_16_bit_rgb_is_kept(data: bytes) -> None:
    assert np.array_equal(np.rint(images.read_image(data).pixels * 65535), COLORS)


def test_16_bit_alpha_is_kept_and_premultiplied_colors_are_restored() -> None:
    alpha = np.maximum(TONES.T, 1)
    straight = np.dstack([COLORS, alpha])
    for data in (
        bytes(imagecodecs.png_encode(straight)),
        tiff(straight, photometric="rgb", extrasamples=["unassalpha"]),
    ):
        picture = images.read_image(data, background=(0, 0, 0))
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha * 65535, alpha.astype(np.float32))
        assert np.abs(picture.pixels - COLORS / 65535 * (alpha / 65535)[..., None]).max() < 1e-6
    half = np.full((32, 32, 4), 32768, np.uint16)
    picture = images.read_image(tiff(half, photometric="rgb", extrasamples=["assocalpha"]), background=(1, 1, 1))
    assert np.abs(picture.pixels - 1).max() < 1e-4  # half-transparent white over white
    gray_alpha = images.read_image(bytes(imagecodecs.png_encode(np.dstack([TONES, alpha]))))
    assert gray_alpha.alpha is not None


def test_a_transparent_16_bit_color_becomes_alpha() -> None:
    picture = images.read_image(insert_chunk(DEEP_GRAY["PNG"], b"tRNS", struct.pack(">H", 1000)))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, TONES != 1000)


def test_a_12_bit_tiff_is_scaled_to_white() -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    packed = tiff(stored, bitspersample=12)
    assert np.abs(images.read_image(packed).pixels[..., 0] - stored / 4095).max() < 1e-6


def test_the_first_page_of_a_16_bit_tiff_is_upright() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(COLORS[:100], photometric="rgb", extratags=[(274, 3, 1, 6, True)], metadata=None)
        writer.write(COLORS[:50], photometric="rgb", metadata=None)
    picture = images.read_image(stream.getvalue(), name="scan")
    assert np.array_equal(np.rint(picture.pixels * 65535), np.rot90(COLORS[:100], -1))
    assert picture.warnings == ("About 'scan': it contains more than one image; only the first is used.",)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    stored = np.zeros((20, 20, 3), np.float32)
    stored[3, 4, 1] = bad
    with pytest.raises(ImageError, match=r"^Cannot read 'x\.tif': some of its values are not finite .*\.$"):
        images.read_image(tiff(stored, photometric="rgb"), name="x.tif")


def test_float_values_above_1_are_scaled_and_reported() -> None:
    stored = np.linspace(-5, 255, 400, dtype=np.float32).reshape(20, 20)
    picture = images.read_image(tiff(stored))
    assert np.abs(picture.pixels[..., 0] - np.maximum(stored, 0) / 255).max() < 1e-6
    assert "255" in picture.warnings[0]


@pytest.mark.parametrize("dtype", [np.int16, np.complex64])
def test_signed_and_complex_values_are_refused(dtype: type) -> None:
    with pytest.raises(ImageError, match="signed or complex"):
        images.read_image(tiff(np.zeros((20, 20), dtype)))


@pytest.mark.parametrize("extra", [{50706: b"\1\4\0\0"}, {}])
def test_raw_camera_files_in_tiff_format_are_refused(extra: dict[int, bytes]) -> None:
    tags: list[Any] = [(code, 1, len(value), value, True) for code, value in extra.items()]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        thumbnail = np.zeros((20, 20, 3), np.uint8)
        writer.write(thumbnail, photometric="rgb", subfiletype=1, subifds=0 if extra else 1, extratags=tags)
        if not extra:
            writer.write(np.zeros((40, 40), np.uint16), photometric="cfa")
    with pytest.raises(ImageError, match="raw camera file"):
        images.read_image(stream.getvalue())


# Profiles


def wide_gamut() -> bytes:
    primaries = [0.64, 0.33, 1.0, 0.21, 0.71, 1.0, 0.15, 0.06, 1.0]  # Adobe RGB's
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=(0.3127, 0.329, 1.0), primaries=primaries, gamma=2.2))


def odd_inks() -> bytes:
    """Make a CMYK profile in which no ink is white, cyan is blue, and any other ink is black."""
    white, blue, black = (255, 128, 128), (75, 196, 16), (0, 128, 128)  # Lab, 8 bit
    corners = [white if i == 0 else blue if i == 8 else black for i in range(16)]  # C is the highest bit
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(sum(corners, ())) + ramp * 3
    header = struct.pack(">I4xI4s4s4s12s4s28x", 144 + len(table), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp")
    white_point = struct.pack(">3i", 63190, 65536, 54061)
    header = header + white_point + bytes(128 - len(header) - 12)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def as_srgb(pixels: NDArray[Any]) -> NDArray[Any]:
    """Convert `wide_gamut` values to sRGB by the definition."""
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    to_rgb = np.array([[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]])
    return encode_srgb(np.clip(pixels**2.2 @ to_xyz.T @ to_rgb.T, 0, 1))


def encode_srgb(linear: NDArray[Any]) -> NDArray[Any]:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_an_embedded_rgb_profile_is_applied_to_8_and_16_bits() -> None:
    eight = (COLORS[::4, ::4] >> 8).astype(np.uint8)
    icc = wide_gamut()
    expected = as_srgb(eight / 255)
    assert np.abs(expected - eight / 255).max() > 0.1  # the profile does something
    deep = eight.astype(np.uint16) * 257
    flat = (eight / 255).astype(np.float32)
    for data in (
        save_image("PNG", Image.fromarray(eight), icc_profile=icc),
        save_image("WEBP", Image.fromarray(eight), icc_profile=icc, lossless=True),
        save_image("TIFF", Image.fromarray(eight), icc_profile=icc),
        insert_chunk(bytes(imagecodecs.png_encode(deep)), b"iCCP", b"wide\0\0" + zlib.compress(icc)),
        tiff(deep, photometric="rgb", iccprofile=icc),
        tiff(flat, photometric="rgb", iccprofile=icc),
    ):
        picture = images.read_image(data)
        assert np.abs(picture.pixels - expected).max() < 0.5 / 255
        assert picture.warnings == ()


@pytest.mark.parametrize("icc", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_an_srgb_profile_changes_nothing(icc: bytes) -> None:
    picture = images.read_image(tiff(COLORS, photometric="rgb", iccprofile=icc))
    assert np.array_equal(np.rint(picture.pixels * 65535), COLORS)


@pytest.mark.parametrize("icc", [b"garbage", bytes(128), wide_gamut()[:200], odd_inks()])
def test_a_damaged_or_unsuitable_profile_is_ignored_and_reported(icc: bytes) -> None:
    eight = Image.fromarray((COLORS >> 8).astype(np.uint8))
    plain = images.read_image(save_image("PNG", eight))
    picture = images.read_image(save_image("PNG", eight, icc_profile=icc), name="odd.png")
    assert np.array_equal(picture.pixels, plain.pixels)
    assert picture.warnings == ("About 'odd.png': its color profile is damaged or does not fit, and was ignored.",)


def test_gray_profiles_and_rgb_profiles_apply_to_gray() -> None:
    gray = Image.fromarray((TONES >> 8).astype(np.uint8).T.copy())
    linear = bytes(imagecodecs.cms_profile("gray", gamma=1.0))
    picture = images.read_image(save_image("PNG", gray, icc_profile=linear))
    assert np.abs(picture.pixels - encode_srgb(np.asarray(gray) / 255)[..., None]).max() < 1e-4
    rgb_on_gray = images.read_image(save_image("PNG", gray, icc_profile=wide_gamut()))
    assert rgb_on_gray.warnings == ()
    assert np.ptp(rgb_on_gray.pixels, axis=-1).max() < 0.01


# CMYK

INKS = {"white": (0, 0, 0, 0), "cyan": (255, 0, 0, 0), "yellow": (0, 0, 255, 0), "black": (0, 0, 0, 255)}
EXPECTED = {"white": (1, 1, 1), "cyan": (0, 1, 1), "yellow": (1, 1, 0), "black": (0, 0, 0)}


@pytest.mark.parametrize("ink", INKS)
def test_cmyk_is_converted(ink: str) -> None:
    image = Image.new("CMYK", (32, 32), INKS[ink])
    deep = np.full((32, 32, 4), INKS[ink], np.uint16) * 257
    adobe = save_image("JPEG", image, quality=100)  # inverted, as Adobe stores it
    assert b"Adobe" in adobe
    for data in (adobe, save_image("TIFF", image), tiff(deep, photometric="separated")):
        assert np.abs(images.read_image(data).pixels - EXPECTED[ink]).max() < 0.02


def test_a_cmyk_jpeg_without_its_adobe_marker_is_read_the_same() -> None:
    adobe = save_image("JPEG", Image.new("CMYK", (32, 32), INKS["cyan"]), quality=100)
    at = adobe.index(b"\xff\xee")
    length = int.from_bytes(adobe[at + 2 : at + 4], "big")
    stripped = adobe[:at] + adobe[at + 2 + length :]  # as programs that strip metadata leave it
    assert np.array_equal(images.read_image(stripped).pixels, images.read_image(adobe).pixels)


@pytest.mark.parametrize(("ink", "expected"), [("white", (1, 1, 1)), ("cyan", (0, 0, 1)), ("yellow", (0, 0, 0))])
def test_a_cmyk_profile_is_applied(ink: str, expected: tuple[int, int, int]) -> None:
    image = Image.new("CMYK", (32, 32), INKS[ink])
    deep = np.full((32, 32, 4), INKS[ink], np.uint16) * 257
    for data in (
        save_image("JPEG", image, quality=100, icc_profile=odd_inks()),
        save_image("TIFF", image, icc_profile=odd_inks()),
        tiff(deep, photometric="separated", iccprofile=odd_inks()),
    ):
        picture = images.read_image(data)
        assert picture.warnings == ()
        assert np.abs(picture.pixels - expected).max() < 0.06
