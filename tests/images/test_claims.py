"""Everything that says what the numbers of a file mean is honored, in the order of the specifications."""

import io
import struct
import zlib
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from made import chunk, insert_chunk, save_image
from numpy.typing import NDArray
from PIL import Image, ImageCms

from styler import images
from styler.images import chunks, color

H, W = 32, 48
Y, X = np.mgrid[0:H, 0:W]
COLORS = np.stack([X * 255 // (W - 1), Y * 255 // (H - 1), 255 - (X + Y) * 255 // (H + W - 2)], -1).astype(np.uint8)
RGB = Image.fromarray(COLORS)
PNG = save_image("PNG", RGB)

D65 = (0.3127, 0.329)
P3 = (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
BT2020 = (D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046))
PROPHOTO = ((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
SRGB = (D65, (0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
ADOBE_RGB = (ADOBE, 563 / 256)


def linearize(values: NDArray[Any]) -> Any:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def make_profile(primaries: Any, gamma: float | None) -> bytes:
    """Make a profile by littleCMS; a gamma of None is sRGB's curve."""
    flat = [value for place in primaries[1:] for value in (*place, 1.0)]
    curve = np.rint(linearize(np.linspace(0, 1, 4096)) * 65535).astype(np.uint16)
    settings: dict[str, Any] = {"gamma": gamma} if gamma else {"transferfunction": np.stack([curve] * 3)}
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=(*primaries[0], 1.0), primaries=flat, **settings))


def convert(pixels: NDArray[Any], primaries: Any, gamma: float | None) -> NDArray[Any]:
    """Convert 8-bit values to sRGB in [0, 1] by littleCMS, through Pillow."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(make_profile(primaries, gamma)))
    done = ImageCms.profileToProfile(
        Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    assert done is not None
    return np.asarray(done) / 255


def gama(exponent: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 / exponent)))


def chrm(primaries: Any) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for place in primaries for value in place)))


def iccp(primaries: Any, gamma: float | None) -> bytes:
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(make_profile(primaries, gamma)))


def cicp(primaries: int, transfer: int, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, full]))


def exif_chunk(space: int, index: str = "") -> bytes:
    return chunk(b"eXIf", exif(space, index).removeprefix(b"Exif\0\0"))


def exif(space: int, index: str = "") -> bytes:
    block = Image.Exif()
    details = block.get_ifd(0x8769)
    details[0xA001] = space
    if index:
        details[0xA005] = {1: index}
    return block.tobytes()


SRGB_CHUNK = chunk(b"sRGB", b"\0")
P3_CICP, ADOBE_ICC, LINEAR = cicp(12, 13), iccp(*ADOBE_RGB), gama(1)

PNG_CLAIMS = {
    "gamma": (LINEAR, (SRGB, 1.0)),
    "gamma of a display": (gama(2.2), (SRGB, 2.2)),
    "gamma and primaries": (gama(1.8) + chrm(PROPHOTO), (PROPHOTO, 1.8)),
    "gamma 2.2 and other primaries": (gama(2.2) + chrm(ADOBE), (ADOBE, 2.2)),
    "primaries alone": (chrm(P3), (P3, None)),
    "cICP": (P3_CICP, (P3, None)),
    "cICP with gamma": (cicp(9, 4), (BT2020, 2.2)),
    "linear cICP": (cicp(1, 8), (SRGB, 1.0)),
    "uncalibrated, R03": (exif_chunk(65535, "R03"), ADOBE_RGB),
    "Adobe RGB by number": (exif_chunk(2), ADOBE_RGB),
    # What is stronger, by the PNG specification
    "cICP before iCCP": (P3_CICP + ADOBE_ICC, (P3, None)),
    "iCCP before sRGB": (SRGB_CHUNK + ADOBE_ICC, ADOBE_RGB),
    "sRGB before gAMA": (LINEAR + SRGB_CHUNK, None),
    "gAMA before EXIF": (LINEAR + exif_chunk(1), (SRGB, 1.0)),
    "unspecified cICP": (cicp(2, 2) + ADOBE_ICC, ADOBE_RGB),
    # What changes nothing
    "sRGB": (SRGB_CHUNK, None),
    "sRGB by its gamma and primaries": (gama(2.2) + chrm(SRGB), None),
    "sRGB in cICP": (cicp(1, 13), None),
    "video in cICP": (cicp(1, 1), None),
    "sRGB in EXIF": (exif_chunk(1), None),
    "sRGB with R98": (exif_chunk(1, "R98"), None),
    "uncalibrated": (exif_chunk(65535), None),
}


@pytest.mark.parametrize(("claim", "meaning"), PNG_CLAIMS.values(), ids=PNG_CLAIMS.keys())
def test_a_png_means_what_its_chunks_say(claim: bytes, meaning: tuple[Any, float | None] | None) -> None:
    picture = images.read_image(PNG[:33] + claim + PNG[33:])
    expected = COLORS / 255 if meaning is None else convert(COLORS, *meaning)
    assert np.abs(picture.pixels - expected).max() <= 1.01 / 255
    assert picture.warnings == ()
    if meaning is None:
        assert np.array_equal(picture.pixels, images.read_image(PNG).pixels)


@pytest.mark.parametrize("kind", ["gray", "palette", "16 bit", "16 bit gray", "alpha"])
def test_gamma_is_applied_to_every_kind_of_png(kind: str) -> None:
    gray, deep = RGB.convert("L"), COLORS.astype(np.uint16) * 257
    alpha = RGB.copy()
    alpha.putalpha(128)
    palette = RGB.quantize(64)
    data, stored = {
        "gray": (save_image("PNG", gray), np.stack([np.asarray(gray)] * 3, -1)),
        "palette": (save_image("PNG", palette), np.asarray(palette.convert("RGB"))),
        "16 bit": (bytes(imagecodecs.png_encode(deep)), COLORS),
        "16 bit gray": (bytes(imagecodecs.png_encode(deep[..., 0].copy())), np.stack([COLORS[..., 0]] * 3, -1)),
        "alpha": (save_image("PNG", alpha), COLORS),
    }[kind]
    picture = images.read_image(insert_chunk(data, b"gAMA", struct.pack(">I", 100_000)), background=(0, 0, 0))
    expected = convert(stored, SRGB, 1.0)
    if kind == "alpha":
        assert picture.alpha is not None
        assert np.ptp(picture.alpha) == 0
        expected = expected * 128 / 255
    assert np.abs(picture.pixels - expected).max() <= 1.01 / 255


@pytest.mark.parametrize("claim", [chunk(b"gAMA", bytes(4)), chunk(b"cHRM", bytes(32)), chrm((D65, *P3[1:3], P3[1]))])
def test_a_calibration_that_makes_no_sense_is_ignored_and_reported(claim: bytes) -> None:
    picture = images.read_image(PNG[:33] + claim + PNG[33:], name="odd.png")
    assert np.array_equal(picture.pixels, images.read_image(PNG).pixels)
    assert claim[4:8].decode() in picture.warnings[0]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_narrow_range_png_is_stretched(depth: int) -> None:
    full = COLORS.astype(float) / 255
    stored = np.rint((16 + 219 * full) * 2 ** (depth - 8)).astype(np.uint8 if depth == 8 else np.uint16)
    data = bytes(imagecodecs.png_encode(stored))
    picture = images.read_image(data[:33] + cicp(1, 13, full=0) + data[33:])
    assert np.abs(picture.pixels - full).max() < (0.6 / 219 if depth == 8 else 1e-4)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("space", "index", "meaning"), [(65535, "R03", ADOBE_RGB), (2, "", ADOBE_RGB), (1, "", None)])
def test_exif_says_which_color_space(form: str, space: int, index: str, meaning: tuple[Any, float] | None) -> None:
    every: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    settings = every.get(form, {})
    data = save_image(form, RGB, exif=exif(space, index), **settings)
    if form == "TIFF" and index:
        data = append_interoperability(data)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = stored / 255 if meaning is None else convert(stored, *meaning)
    assert np.abs(images.read_image(data).pixels - expected).max() <= 1.01 / 255


def append_interoperability(data: bytes) -> bytes:
    """Correct the offset of the index in a TIFF, which Pillow writes as in a JPEG."""
    place = struct.pack("<HHI", 0xA005, 4, 1)
    at = data.index(place) + len(place)
    entry = struct.pack("<HHHI4sI", 1, 1, 2, 4, b"R03\0", 0)
    return data[:at] + struct.pack("<I", len(data)) + data[at + 4 :] + entry


def make_avif(primaries: int, transfer: int, **settings: Any) -> bytes:
    data = bytearray(save_image("AVIF", RGB, quality=100, subsampling="4:4:4", **settings))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


@pytest.mark.parametrize(
    ("points", "meaning"),
    [((12, 13), (P3, None)), ((9, 4), (BT2020, 2.2)), ((1, 13), None), ((2, 2), None), ((1, 1), None)],
)
def test_nclx_of_avif_is_applied(points: tuple[int, int], meaning: tuple[Any, float | None] | None) -> None:
    data = make_avif(*points)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    expected = stored / 255 if meaning is None else convert(stored, *meaning)
    assert np.abs(images.read_image(data).pixels - expected).max() <= 1.01 / 255


def test_a_profile_of_an_avif_supersedes_its_nclx_unless_that_is_hdr() -> None:
    data = make_avif(12, 13, icc_profile=make_profile(*ADOBE_RGB))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(images.read_image(data).pixels - convert(stored, *ADOBE_RGB)).max() <= 1.01 / 255
    assert "tone-mapped" in images.read_image(make_avif(9, 16, icc_profile=make_profile(*ADOBE_RGB))).warnings[0]


def test_a_deep_avif_keeps_its_tones() -> None:
    ramp = np.stack([np.arange(1024, dtype=np.uint16).reshape(32, 32)] * 3, -1)
    data = bytes(imagecodecs.avif_encode(ramp, level=100, bitspersample=10, speed=9, numthreads=1))
    assert chunks.read_iso_depth(data) == 10
    assert np.abs(images.read_image(data).pixels - ramp / 1023).max() < 1e-4


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


@pytest.mark.parametrize("primary", [1, 2])
@pytest.mark.parametrize("is_grid", [False, True])
def test_the_color_of_the_primary_picture_counts(primary: int, *, is_grid: bool) -> None:
    """Not that of the HDR rendition or the gain map beside it; that of a tile counts for a grid."""
    colors = [b"nclx" + struct.pack(">HHHB", *points, 0, 128) for points in ((12, 13), (9, 16))]
    properties = box(b"ipco", b"".join(box(b"colr", color) for color in colors) + box(b"free", b""))
    items = {1: 1, 2: 2} if not is_grid else {1: 3, 2: 3, 11: 1, 12: 2}
    entries = b"".join(struct.pack(">HBB", item, 1, 0x80 | index) for item, index in items.items())
    association = box(b"ipma", bytes(4) + struct.pack(">I", len(items)) + entries)
    tiles = b"".join(box(b"dimg", struct.pack(">HHH", item, 1, 10 + item)) for item in (1, 2))
    meta = box(b"pitm", bytes(4) + struct.pack(">H", primary)) + box(b"iprp", properties + association)
    meta += box(b"iref", bytes(4) + tiles) if is_grid else b""
    data = box(b"ftyp", b"heic" + bytes(4)) + box(b"meta", bytes(4) + meta)
    assert chunks.read_nclx(data) == (chunks.Cicp(12, 13) if primary == 1 else chunks.Cicp(9, 16))


def test_the_color_of_a_sequence_is_that_of_its_track() -> None:
    data = bytearray(save_image("AVIF", RGB, save_all=True, append_images=[RGB.rotate(180)]))
    assert data[8:12] == b"avis"
    at = data.index(b"stsd")
    at = data.index(b"colrnclx", at) + 8
    data[at : at + 4] = struct.pack(">HH", 12, 13)
    assert chunks.read_nclx(bytes(data)) == chunks.Cicp(12, 13)


def test_nclx_of_heic_is_applied_to_8_and_10_bits() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    for mode, pixels in (("RGB", COLORS), ("RGB;16", COLORS.astype(np.uint16) * 257)):
        stream = io.BytesIO()
        photo = heif.from_bytes(mode, (W, H), pixels.tobytes())
        settings = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 1}
        photo.save(stream, quality=100, chroma=444, **settings)
        assert np.abs(images.read_image(stream.getvalue()).pixels - convert(COLORS, P3, None)).mean() < 1.5 / 255


def make_bmp(space: bytes, extra: bytes = b"", gamma: float = 1.0, profile: bytes = b"") -> bytes:
    """Return a BMP with a V5 header."""
    rows = COLORS[::-1, :, ::-1].tobytes()
    ends = np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    header = struct.pack("<IiiHHIIiiII", 124, W, H, 1, 24, 0, len(rows), 0, 0, 0, 0) + bytes(16) + space
    header += struct.pack("<9i", *np.rint(ends * 2**30).astype(int).ravel()) + struct.pack(
        "<3I", *[int(gamma * 65536)] * 3
    )
    header += struct.pack("<4I", 4, 124 + len(rows), len(profile), 0)
    return struct.pack("<2sIHHI", b"BM", 14 + 124 + len(rows), 0, 0, 138) + header + rows + profile + extra


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (make_bmp(bytes(4)), (SRGB, 1.0)),
        (make_bmp(bytes(4), gamma=1.8), (SRGB, 1.8)),
        (make_bmp(bytes(4), gamma=1 / 1.8), (SRGB, 1.8)),
        (make_bmp(bytes(4), gamma=2.2), None),
        (make_bmp(bytes(4), gamma=0), None),
        (make_bmp(b"BGRs"), None),
        (make_bmp(b" niW"), None),
        (make_bmp(b"DEBM", profile=make_profile(*ADOBE_RGB)), ADOBE_RGB),
    ],
    ids=["linear", "gamma", "inverse gamma", "nearly sRGB", "zeros", "sRGB", "Windows", "embedded"],
)
def test_a_bmp_means_what_its_header_says(data: bytes, meaning: tuple[Any, float | None] | None) -> None:
    picture = images.read_image(data)
    expected = COLORS / 255 if meaning is None else convert(COLORS, *meaning)
    assert np.abs(picture.pixels - expected).max() <= 1.01 / 255
    assert picture.warnings == ()


def test_a_tiff_means_what_its_tags_say() -> None:
    curve = np.rint(np.linspace(0, 1, 256) ** 1.8 * 65535).astype(np.uint16)
    places = [round(value * 10_000) for place in PROPHOTO for value in place]
    rationals = [part for value in places for part in (value, 10_000)]
    tags: list[Any] = [(301, "H", 256, curve, True)]
    tags += [(318, "2I", 2, rationals[:4], True), (319, "2I", 6, rationals[4:], True)]
    stream = io.BytesIO()
    tifffile.imwrite(stream, COLORS, photometric="rgb", metadata=None, extratags=tags)
    assert np.abs(images.read_image(stream.getvalue()).pixels - convert(COLORS, PROPHOTO, 1.8)).max() <= 1.01 / 255


# High dynamic range


def encode_pq(light: NDArray[Any]) -> Any:
    """Return the PQ signal of cd/m² (SMPTE ST 2084)."""
    power = (light / 10_000) ** (2610 / 16384)
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    return ((c1 + c2 * power) / (1 + c3 * power)) ** (2523 / 32)


def encode_hlg(light: NDArray[Any]) -> Any:
    """Return the HLG signal of cd/m² on a display of 1000 cd/m² (ITU-R BT.2100)."""
    display = light / 1000
    luminance = display @ np.array([0.2627, 0.678, 0.0593])
    scene = display * (np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1))[..., None]
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def to_2020(linear: NDArray[Any]) -> Any:
    matrix = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # ITU-R BT.2087
    return linear @ matrix.T


SIGNALS = {16: encode_pq, 18: encode_hlg}


def make_hdr_png(light: NDArray[Any], transfer: int, primaries: int = 9) -> bytes:
    """Store cd/m² (H, W, 3) in the given primaries as a 16-bit PNG."""
    stored = np.rint(np.clip(SIGNALS[transfer](light), 0, 1) * 65535).astype(np.uint16)
    data = bytes(imagecodecs.png_encode(stored))
    return data[:33] + cicp(primaries, transfer) + data[33:]


@pytest.mark.parametrize("transfer", [16, 18])
def test_an_hdr_picture_without_highlights_becomes_the_same_as_in_srgb(transfer: int) -> None:
    light = 203 * to_2020(linearize(COLORS / 255))
    picture = images.read_image(make_hdr_png(light, transfer), name="x")
    assert np.abs(picture.pixels - COLORS / 255).mean() < 1.5 / 255
    assert picture.warnings == (
        f"About 'x': it has high dynamic range ({'PQ' if transfer == 16 else 'HLG'}) and was tone-mapped.",
    )


@pytest.mark.parametrize("transfer", [16, 18])
def test_highlights_are_compressed_and_everything_else_is_kept(transfer: int) -> None:
    stops = 1000 * 2.0 ** np.linspace(-12, 0, 1024).reshape(32, 32)  # cd/m², growing
    pixels = images.read_image(make_hdr_png(np.stack([stops] * 3, -1), transfer)).pixels
    tones = pixels[..., 1].ravel()
    assert np.ptp(pixels, axis=-1).max() < 0.01  # gray stays gray
    assert (np.diff(tones) >= -1e-4).all()
    assert tones[-1] > 0.99
    assert tones[stops.ravel() > 203].min() < 0.95  # highlights are not clipped
    dark = stops.ravel() < 70
    wanted = np.where(stops / 203 <= 0.0031308, stops / 203 * 12.92, 1.055 * (stops / 203) ** (1 / 2.4) - 0.055)
    assert np.abs(tones - wanted.ravel())[dark].max() < 0.01


def test_hues_are_kept_and_colors_outside_srgb_fit() -> None:
    pure = np.zeros((32, 32, 3))
    pure[:, :11, 0] = pure[:, 11:22, 1] = pure[:, 22:, 2] = 500.0  # the primaries of BT.2020, bright
    pixels = images.read_image(make_hdr_png(pure, 16)).pixels
    for column, channel in ((0, 0), (15, 1), (30, 2)):
        assert pixels[0, column].argmax() == channel
        assert np.ptp(pixels[0, column]) > 0.5


def test_hdr_in_avif_is_tone_mapped_at_8_and_10_bits() -> None:
    light = 203 * to_2020(linearize(COLORS / 255))
    ten = np.rint(encode_pq(light) * 1023).astype(np.uint16)
    data = bytearray(imagecodecs.avif_encode(ten, level=100, bitspersample=10, speed=9, numthreads=1))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", 9, 16)
    picture = images.read_image(bytes(data))
    assert np.abs(picture.pixels - COLORS / 255).mean() < 1.5 / 255
    assert "PQ" in picture.warnings[0]
    assert "HLG" in images.read_image(make_avif(9, 18)).warnings[0]


@pytest.mark.parametrize("name", ["tag", "Rec2020 Gamut with PQ Transfer", "Rec. ITU-R BT.2100 HLG"])
def test_a_profile_that_says_pq_or_hlg_is_tone_mapped(name: str) -> None:
    icc = bytearray(make_profile(BT2020, 2.2))
    content = b"cicp\0\0\0\0\x09\x10\0\1" if name == "tag" else b"desc" + bytes(8) + name.encode() + bytes(40)
    entry = struct.pack(">4sII", b"cicp" if name == "tag" else b"desc", len(icc), len(content))
    icc[132:144] = entry  # in place of the first tag
    light = 203 * to_2020(linearize(COLORS / 255))
    transfer = 18 if "HLG" in name else 16
    stored = np.rint(np.clip(SIGNALS[transfer](light), 0, 1) * 255).astype(np.uint8)
    picture = images.read_image(
        save_image("WEBP", Image.fromarray(stored), lossless=True, icc_profile=bytes(icc + content))
    )
    assert "tone-mapped" in picture.warnings[0]
    assert np.abs(picture.pixels - COLORS / 255).mean() < 5 / 255  # 8 bits are few for PQ


def test_the_table_of_precedence_is_that_of_the_specifications() -> None:
    assert color.PRECEDENCE["png"][:4] == ("cicp", "icc", "srgb", "calibration")
    assert color.PRECEDENCE["avif"] == color.PRECEDENCE["heif"] == ("hdr", "icc", "cicp", "exif")
    for order in color.PRECEDENCE.values():
        assert all(first != second for first, second in pairwise(order))
