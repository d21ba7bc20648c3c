"""Common files are read upright, in sRGB, and with all their tones."""

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from made import insert_chunk, save_image
from numpy.typing import NDArray
from PIL import Image, ImageCms

from styler import images
from styler.errors import ImageError

H, W = 40, 60
STEP = 1 / 255


def colors() -> NDArray[np.uint8]:
    """Return smooth colors that differ everywhere: red grows to the right, green downward, blue against both."""
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([x * 255 // (W - 1), y * 255 // (H - 1), 255 - (x + y) * 255 // (H + W - 2)], -1).astype(np.uint8)


def build_exif(**tags: Any) -> bytes:
    block = Image.Exif()
    for code, value in tags.items():
        block[int(code[1:])] = value
    return block.tobytes()


RGB = Image.fromarray(colors())
PNG = save_image("PNG", RGB)


@pytest.mark.parametrize(
    ("form", "settings", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 0.05),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 0.08),
        ("AVIF", {"quality": 95}, 0.05),
        ("JPEG", {"quality": 95, "subsampling": 0}, 0.03),
        ("JPEG", {"quality": 95, "progressive": True}, 0.06),
        ("MPO", {"save_all": True, "append_images": [RGB.rotate(180)], "quality": 95}, 0.06),
    ],
)
def test_common_formats_keep_their_colors(form: str, settings: dict[str, Any], tolerance: float) -> None:
    picture = images.read_image(save_image(form, RGB, **settings))
    assert picture.pixels.dtype == np.float32
    assert (picture.height, picture.width) == (H, W)
    assert np.abs(picture.pixels - colors() / 255).max() <= tolerance + 1e-6
    assert picture.alpha is None
    assert picture.warnings == ()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGBX", "CMYK"])
def test_every_pillow_mode_is_converted(mode: str) -> None:
    source = RGB.convert(mode)
    picture = images.read_image(save_image("PNG" if mode in ("1", "P") else "TIFF", source))
    assert np.abs(picture.pixels - np.asarray(source.convert("RGB")) / 255).max() <= STEP + 1e-6


def test_lab_is_converted() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    stored = ImageCms.profileToProfile(RGB, srgb, lab, outputMode="LAB")
    assert stored is not None
    picture = images.read_image(save_image("TIFF", stored))
    assert np.abs(picture.pixels - colors() / 255).mean() < 0.02  # 8-bit Lab is coarse where colors are strong
    assert picture.warnings == ()


def test_the_format_is_detected_from_the_content_and_trailing_bytes_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "really a jpeg.png"
    path.write_bytes(save_image("JPEG", RGB, quality=95, subsampling=0) + b"trailing junk" * 99)
    assert np.abs(images.read_image(path).pixels - colors() / 255).max() < 0.03
    path.write_bytes(PNG + b"junk")
    assert np.array_equal(images.read_image(str(path)).pixels, images.read_image(PNG).pixels)


def test_path_stream_and_bytes_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\udcff.png"
    path.write_bytes(PNG)
    with path.open("rb") as stream:
        sources = [
            images.read_image(path),
            images.read_image(stream),
            images.read_image(bytearray(PNG)),
            images.read_image(io.BytesIO(PNG)),
        ]
    assert len({picture.sha256 for picture in sources}) == 1
    assert len({picture.pixels.tobytes() for picture in sources}) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored_as = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each of EXIF's
    stored = RGB if orientation == 1 else RGB.transpose(Image.Transpose(stored_as[orientation]))
    block = build_exif(_274=orientation)
    for data in (save_image("PNG", stored, exif=block), save_image("TIFF", stored, exif=block)):
        assert np.array_equal(images.read_image(data).pixels, images.read_image(PNG).pixels)
    alpha = Image.fromarray(colors()[..., 0])
    turned = alpha if orientation == 1 else alpha.transpose(Image.Transpose(stored_as[orientation]))
    stored = stored.copy()
    stored.putalpha(turned)
    picture = images.read_image(save_image("PNG", stored, exif=block))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha * 255, colors()[..., 0])


def test_a_phone_photo_is_upright() -> None:
    lying = RGB.transpose(Image.Transpose.ROTATE_90)  # as an upright sensor stores it; EXIF 6: rotate clockwise
    picture = images.read_image(save_image("JPEG", lying, quality=95, subsampling=0, exif=build_exif(_274=6)))
    assert (picture.height, picture.width) == (H, W)
    assert np.abs(picture.pixels - colors() / 255).max() < 0.03


@pytest.mark.parametrize("value", [0, 9, 99, 65535])
def test_unknown_orientation_is_ignored(value: int) -> None:
    assert np.array_equal(
        images.read_image(save_image("PNG", RGB, exif=build_exif(_274=value))).pixels, images.read_image(PNG).pixels
    )


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", build_exif(_274=6)[:-9]]
)
def test_damaged_exif_does_not_prevent_reading(block: bytes) -> None:
    for data in (save_image("JPEG", RGB, exif=block), insert_chunk(PNG, b"eXIf", block[6:])):
        assert images.read_image(data, name="p").height in (H, W)


def test_only_listed_exif_fields_are_kept() -> None:
    block = Image.Exif()
    block[0x010F], block[0x0110], block[0x8298], block[0x0131] = "Leica\0", "M 11", "© Zoë".encode(), "software"
    block.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    block.get_ifd(0x8825)[1] = "N"
    metadata = images.read_image(save_image("JPEG", RGB, exif=block.tobytes())).metadata
    expected = {"make": "Leica", "model": "M 11", "copyright": "© Zoë", "date": "2024:05:06 07:08:09"}
    assert dict(metadata) == expected


def test_alpha_is_composited_and_kept() -> None:
    alpha = colors()[..., 1]
    rgba = Image.fromarray(np.dstack([colors(), alpha]))
    for form, settings in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        picture = images.read_image(save_image(form, rgba, **settings), background=(1, 0, 0.5))
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, alpha / np.float32(255))
        share = alpha[..., None] / 255
        expected = colors() / 255 * share + np.array([1, 0, 0.5]) * (1 - share)
        assert np.abs(picture.pixels - expected).max() < 1e-6


def test_opaque_alpha_is_dropped_and_full_transparency_is_reported() -> None:
    opaque = Image.fromarray(np.dstack([colors(), np.full((H, W), 255, np.uint8)]))
    picture = images.read_image(save_image("PNG", opaque))
    assert picture.alpha is None
    assert np.array_equal(picture.pixels, images.read_image(PNG).pixels)
    clear = Image.fromarray(np.dstack([colors(), np.zeros((H, W), np.uint8)]))
    picture = images.read_image(save_image("PNG", clear), name="clear.png")
    assert (picture.pixels == 1).all()
    assert "clear.png" in picture.warnings[0]
    assert "transparent" in picture.warnings[0]


@pytest.mark.parametrize("kind", ["palette bytes", "palette index", "gray color", "rgb color", "one bit"])
def test_transparent_colors_of_png_become_alpha(kind: str) -> None:
    gray = np.zeros((20, 20), np.uint8)
    gray[:, 10:] = 1
    image = Image.fromarray(gray)
    if kind.startswith("palette"):
        image = Image.fromarray(gray)
        image.putpalette([255, 0, 0, 0, 0, 255])
        data = save_image("PNG", image, transparency=b"\0\xff" if kind == "palette bytes" else 0)
    elif kind == "rgb color":
        data = save_image("PNG", image.convert("RGB"), transparency=(0, 0, 0))
    elif kind == "one bit":
        data = save_image("PNG", Image.fromarray(gray.astype(bool)), transparency=0)
    else:
        data = save_image("PNG", image, transparency=0)
    picture = images.read_image(data)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, gray)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_first_of_several_images_is_used_and_reported(form: str) -> None:
    second = Image.new("RGB", RGB.size, "red")
    settings: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    data = save_image(form, RGB, save_all=True, append_images=[second], **settings)
    picture = images.read_image(data, name="moving")
    tolerance = {"GIF": 0.2, "AVIF": 0.2}.get(form, 0)
    assert np.abs(picture.pixels - colors() / 255).max() <= tolerance + 1e-6
    assert picture.warnings == ("About 'moving': it contains more than one image; only the first is used.",)


@pytest.mark.parametrize(
    ("module", "package", "data"),
    [
        ("pillow_heif", "pillow-heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
        ("pillow_jxl", "pillow-jxl-plugin", b"\xff\x0a" + bytes(99)),
        ("pillow_jxl", "pillow-jxl-plugin", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99)),
    ],
)
def test_a_missing_extra_is_named(module: str, package: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # it may be installed and loaded already
    with pytest.raises(ImageError, match=f"run 'pip install {package}'"):
        images.read_image(data, name="phone.bin")


def test_heic_with_the_extra_installed() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    stream = io.BytesIO()
    heif.from_pillow(RGB).save(stream, quality=95)
    assert np.abs(images.read_image(stream.getvalue()).pixels - colors() / 255).max() < 0.08


def test_heic_of_a_rotated_phone_is_turned_only_once() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the encoder also adds HEIF's own rotation, as phones do
    photo = heif.from_pillow(RGB)
    photo.info["exif"] = exif.tobytes()
    photo.save(stream, quality=95)
    assert b"irot" in stream.getvalue()
    pixels = images.read_image(stream.getvalue()).pixels
    upright = np.rot90(colors() / 255, -1)
    assert pixels.shape == upright.shape
    assert np.abs(pixels - upright).max() < 0.08


@pytest.mark.parametrize("size", [(60, 40), (64, 64), (40, 520), (300, 200), (1024, 16)])
def test_jpeg_xl_with_the_extra_installed(size: tuple[int, int]) -> None:
    pytest.importorskip("pillow_jxl", reason="the extra jxl is not installed")
    image = RGB.resize(size)
    data = bytes(imagecodecs.jpegxl_encode(np.asarray(image), lossless=True))
    assert np.array_equal(images.read_image(data).pixels, np.asarray(image) / np.float32(255))
    with pytest.raises(ImageError, match=f"{size[0]} × {size[1]} px"):
        images.read_image(data, max_pixels=256)


@pytest.mark.parametrize("size", [(60, 40), (64, 64), (16, 24), (40, 520), (300, 200), (1024, 16), (3000, 20)])
def test_jpeg_xl_size_is_read_before_decoding(size: tuple[int, int]) -> None:
    from styler.images import decode

    plain = bytes(imagecodecs.jpegxl_encode(np.zeros((size[1], size[0], 3), np.uint8)))
    boxed = bytes(imagecodecs.jpegxl_encode(np.zeros((size[1], size[0], 3), np.uint8), usecontainer=True))
    for data in (plain, boxed):
        header = decode.read_jxl_header(data)
        assert (header.width, header.height) == size
        assert header.bits == 8


@pytest.mark.parametrize("bits", [8, 10, 12, 16, 32])
def test_jpeg_xl_depth_is_known_and_the_first_frame_is_used(bits: int) -> None:
    from styler.images import decode

    top = 2**bits - 1 if bits < 32 else 1
    ramp = np.linspace(0, top, 1024).reshape(32, 32)
    dtype: Any = np.float32 if bits == 32 else np.uint8 if bits == 8 else np.uint16
    stored = (ramp if bits == 32 else np.rint(ramp)).astype(dtype)
    frames = np.stack([np.stack([stored] * 3, -1), np.stack([stored.T] * 3, -1)])
    depth = None if bits == 32 else bits
    data = bytes(imagecodecs.jpegxl_encode(frames, lossless=True, bitspersample=depth))
    assert decode.read_jxl_header(data) == decode.JxlHeader(32, 32, bits, True)
    samples = decode._decode_jxl(data).samples
    white = 1 if bits == 32 else np.iinfo(samples.dtype).max
    assert np.abs(samples[..., 0] / white - stored / top).max() < 1e-4


def test_warnings_of_libraries_are_not_shown() -> None:
    big = insert_chunk(PNG, b"acTL", b"\0" * 8)  # Pillow warns: invalid APNG
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images.read_image(big)
        images.read_image(save_image("PNG", RGB.convert("P"), transparency=b"\x80" * 200))
    assert caught == []


def test_the_pixel_limit_of_pillow_is_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert images.read_image(PNG).width == W
    assert Image.MAX_IMAGE_PIXELS == 100


def test_reading_is_thread_safe() -> None:
    from concurrent.futures import ThreadPoolExecutor

    sources: list[bytes] = [PNG, save_image("WEBP", RGB, lossless=True), save_image("TIFF", RGB)] * 8
    with ThreadPoolExecutor(4) as pool:
        pixels = list(pool.map(lambda data: images.read_image(data).pixels.tobytes(), sources))
    assert set(pixels) == {images.read_image(PNG).pixels.tobytes()}
