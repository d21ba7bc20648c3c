"""What stored numbers mean, and their conversion to sRGB floats: upright, composited over the background.

Everything in a file that says what its numbers mean is a claim; `PRECEDENCE` orders them. littleCMS converts by
profiles, of which one is made for claims of other kinds; only high dynamic range is computed here. Otherwise values are
sRGB-encoded, and nothing works in linear light.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styler.images.chunks import D65, Calibration, Cicp, Primaries
from styler.images.decode import Array, Raw, iter_strips

Floats = NDArray[np.float32]
_Converter = Callable[[Array], Floats]
"""From samples (H, W, C) to sRGB (H, W, 3), or (H, W, 1) if it is gray, in [0, 1]."""

PRECEDENCE: dict[str, tuple[str, ...]] = {
    "png": ("cicp", "icc", "srgb", "calibration", "exif"),  # PNG, third edition, section 13.13
    "avif": ("hdr", "icc", "cicp", "exif"),  # HEIF and MIAF: a profile supersedes the primaries and curve of nclx
    "heif": ("hdr", "icc", "cicp", "exif"),
    "tiff": ("icc", "calibration", "exif"),
    "bmp": ("icc", "srgb", "calibration"),
}
"""By format, the claims about color, strongest first. A claim that is missing or cannot be used passes on to the next.

    cicp         chunk cICP or box nclx: code points of ITU-T H.273 for primaries and curve
    hdr          the same, if it is PQ or HLG: no profile can describe tone mapping
    icc          a profile; if its tag `cicp` or its name says PQ or HLG, that counts
    srgb         chunk sRGB, or the color space of a BMP
    calibration  chunks gAMA and cHRM; a BMP's endpoints and gamma; a TIFF's TransferFunction, WhitePoint, Primaries
    exif         ColorSpace (1: sRGB, 2: Adobe RGB) and InteroperabilityIndex (R03: Adobe RGB)

Without any, the numbers are sRGB.
"""
_PRECEDENCE_OF_OTHERS = ("icc", "exif")  # JPEG, WebP, GIF, JPEG XL

_SPACES = {1: "gray", 3: "rgb", 4: "cmyk"}
_SIGNATURES = {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk"}  # bytes 16 to 20 of a profile: its color space

# Half a step of 8 bits, in 16. A profile that differs less from sRGB is sRGB by another vendor: converting would only
# add rounding, and a picture that styler wrote would not be read back exactly.
_SRGB_TOLERANCE = 128


SRGB_PRIMARIES: Primaries = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB_PRIMARIES: Primaries = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_RGB_GAMMA = 563 / 256

PRIMARIES: dict[int, Primaries] = {
    1: SRGB_PRIMARIES,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: ((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""ColourPrimaries. Not in it: 2 (unspecified) and 10 (XYZ)."""

REFERENCE_WHITE = 203.0  # cd/m² of diffuse white, by ITU-R BT.2408; it becomes the white of sRGB
_PQ_PEAK, _HLG_PEAK, _HLG_GAMMA = 10000.0, 1000.0, 1.2
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)

PQ, HLG = 16, 18
SRGB_LIKE = (1, 6, 11, 12, 13, 14, 15)
"""TransferCharacteristics for which nothing is converted. H.273 defines all but 13 by the camera's curve of BT.709, but
such pictures are made for displays whose curve is practically sRGB's, and shown like that."""


def convert_to_srgb(raw: Raw) -> Floats:
    """Return (H, W, 3) sRGB in [0, 1], upright, and drop the samples from `raw` to free their memory.

    A claim that cannot be used is ignored, with a warning in `raw.warnings`.
    """
    convert = choose_converter(raw)
    samples, raw.samples = rotate_upright(raw.samples, raw.orientation), raw.samples[:0].copy()
    height, width = samples.shape[:2]
    pixels = np.empty((height, width, 3), np.float32)
    for rows in iter_strips(height, width):
        pixels[rows] = convert(samples[rows])
    return pixels


def choose_converter(raw: Raw) -> _Converter:
    """Return how to convert the samples of `raw`, by the strongest claim that can be used."""
    for name in PRECEDENCE.get(raw.kind, _PRECEDENCE_OF_OTHERS):
        claim = raw.claims.get("cicp" if name == "hdr" else name)
        if not claim or (name == "hdr" and claim.transfer not in (PQ, HLG)):
            continue
        if convert := _CONVERTERS[name](raw, claim):
            return convert
        if name == "icc":
            raw.warnings.append("its color profile is damaged or does not fit, and was ignored")
    return _convert_plain


def _use_srgb(_raw: Raw, _claim: Any) -> _Converter:
    return _convert_plain


def _use_icc(raw: Raw, icc: bytes) -> _Converter | None:
    points = read_profile_cicp(icc)
    return _use_cicp(raw, points) if points and raw.samples.shape[-1] == 3 else make_converter(raw.samples, icc)


def _use_cicp(raw: Raw, points: Cicp) -> _Converter | None:
    if points.primaries not in PRIMARIES or raw.samples.shape[-1] == 4:
        return None  # unspecified, reserved, or inks
    if points.transfer in (PQ, HLG):
        raw.warnings.append(
            f"it has high dynamic range ({'PQ' if points.transfer == PQ else 'HLG'}) and was tone-mapped"
        )
        return _make_tone_mapper(raw, points)
    if points.transfer in SRGB_LIKE:
        curve: float | Array | None = None
    elif points.transfer in CURVES:
        decode = CURVES[points.transfer]
        curve = decode if isinstance(decode, float) else _tabulate(decode)
    else:
        return None
    convert = _make_calibrated(raw, PRIMARIES[points.primaries], curve)
    if convert is None or not points.narrow_depth:
        return convert
    return lambda samples: convert(expand_narrow(normalize(samples), points.narrow_depth))


def _use_calibration(raw: Raw, claim: Calibration) -> _Converter | None:
    if raw.samples.shape[-1] == 4:
        return None
    curve = claim.gamma if claim.curves is None else claim.curves
    if claim.primaries and isinstance(curve, float) and abs(curve - 2.2) < 0.05:
        distance = np.abs(np.subtract(claim.primaries, SRGB_PRIMARIES)).max()
        if distance < 0.005:  # by the PNG specification, how sRGB is written for readers that only know gamma
            return _convert_plain
    return _make_calibrated(raw, claim.primaries or SRGB_PRIMARIES, curve)


def _use_exif(raw: Raw, space: str) -> _Converter | None:
    is_adobe = space == "adobe" and raw.samples.shape[-1] != 4
    return _make_calibrated(raw, ADOBE_RGB_PRIMARIES, ADOBE_RGB_GAMMA) if is_adobe else _convert_plain


_CONVERTERS: dict[str, Callable[[Raw, Any], _Converter | None]] = {
    "cicp": _use_cicp,
    "hdr": _use_cicp,
    "icc": _use_icc,
    "srgb": _use_srgb,
    "calibration": _use_calibration,
    "exif": _use_exif,
}


def _make_calibrated(raw: Raw, primaries: Primaries, curve: float | Array | None) -> _Converter | None:
    """Return a converter from RGB with these primaries and this curve (sRGB's, if None)."""
    if curve is None and primaries == SRGB_PRIMARIES:
        return _convert_plain
    return make_converter(raw.samples, build_profile(primaries, curve))


def build_profile(primaries: Primaries, curve: float | Array | None) -> bytes:
    """Build an ICC profile; `curve` is an exponent or values (3, N) of linear light, and sRGB's by default."""
    import imagecodecs

    tones = _tabulate(decode_srgb) if curve is None else curve
    white, *colors = primaries
    return bytes(
        imagecodecs.cms_profile(
            "rgb",
            whitepoint=(*white, 1.0),
            primaries=[value for color in colors for value in (*color, 1.0)],
            gamma=tones if isinstance(tones, float) else None,
            transferfunction=None if isinstance(tones, float) else tones,
        )
    )


def _tabulate(decode: Callable[[Array], Array]) -> Array:
    values = np.rint(decode(np.linspace(0, 1, 4096)) * 65535).astype(np.uint16)
    return np.stack([values] * 3)  # (3, N)


_HDR_NAME = re.compile(rb"\b(?:(PQ|ST ?2084)|(HLG))\b")


def read_profile_cicp(icc: bytes) -> Cicp | None:
    """Return the code points of a profile for PQ or HLG: of its tag `cicp` (ICC.1:2022), or of its name."""
    count = min(int.from_bytes(icc[128:132], "big"), 100)
    tags = {icc[at : at + 4]: icc[at + 4 : at + 12] for at in range(132, 132 + 12 * count, 12)}
    contents = {}
    for name in (b"cicp", b"desc"):
        place = tags.get(name, bytes(8))
        start = int.from_bytes(place[:4], "big")
        contents[name] = icc[start : start + min(int.from_bytes(place[4:], "big"), 1000)] if start else b""
    if len(contents[b"cicp"]) >= 12 and contents[b"cicp"][9] in (PQ, HLG):
        return Cicp(contents[b"cicp"][8], contents[b"cicp"][9])
    found = _HDR_NAME.search(contents[b"desc"][8:].replace(b"\0", b""))
    if found is None:
        return None
    return Cicp(12 if b"P3" in contents[b"desc"].replace(b"\0", b"") else 9, PQ if found[1] else HLG)


def _convert_plain(samples: Array) -> Floats:
    """Convert (H, W, C) without a profile to (H, W, 3), or to (H, W, 1) if it is gray."""
    pixels = normalize(samples)
    return (1 - pixels[..., :3]) * (1 - pixels[..., 3:]) if pixels.shape[-1] == 4 else pixels


def normalize(samples: Array) -> Floats:
    """Convert integers to floats in [0, 1], contiguous in memory; floats are in [0, 1] already."""
    if samples.dtype.kind == "f":
        return np.ascontiguousarray(samples, dtype=np.float32)
    return np.divide(samples, np.iinfo(samples.dtype).max, dtype=np.float32, order="C")


def make_converter(samples: Array, icc: bytes) -> _Converter | None:
    """Return a function that converts (H, W, C) by the profile; None if the profile cannot be used."""
    import imagecodecs

    space, profile_space = _SPACES[samples.shape[-1]], _SIGNATURES.get(icc[16:20], "")
    if profile_space != space and (space, profile_space) != ("gray", "rgb"):
        return None

    def convert(samples: Array) -> Floats:
        if samples.dtype.kind == "f":
            samples = np.rint(samples * np.float32(65535)).astype(np.uint16)
        if space != profile_space:
            samples = np.repeat(samples, 3, axis=-1)
        return normalize(_transform(samples, icc, profile_space))

    try:
        if profile_space == "rgb" and _is_srgb(icc):
            return _convert_plain
        convert(samples[:1, :1])
    except imagecodecs.CmsError:
        return None
    return convert


def _transform(samples: Array, icc: bytes, space: str) -> Array:
    import imagecodecs

    # lcms can precompute a transform as a table. For 8-bit color that is 20 times faster and as accurate; for 16 bits
    # and for gray the table is too coarse, and dark tones would change by up to 8%.
    is_table_exact = samples.dtype == np.uint8 and space != "gray"
    converted: Array = imagecodecs.cms_transform(
        np.ascontiguousarray(samples[..., 0] if space == "gray" else samples),
        icc,
        make_srgb_profile(),
        colorspace=space,
        outcolorspace="rgb",
        outdtype="uint16",
        flags=0 if is_table_exact else imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )
    return converted  # (H, W, 3)


def _is_srgb(icc: bytes) -> bool:
    """Return whether the profile leaves a grid of colors unchanged."""
    levels = np.linspace(0, 65535, 9).astype(np.uint16)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    return bool(np.abs(_transform(grid, icc, "rgb").astype(int) - grid).max() <= _SRGB_TOLERANCE)


def make_srgb_profile() -> bytes:
    """Return an sRGB profile that consists of the same bytes every time."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    date = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01, in place of the time of creation
    return profile[:24] + date + profile[36:]


def rotate_upright(array: Array, orientation: Any) -> Array:
    """Return a view of (H, W, …) that is upright, given the EXIF orientation 1 to 8; other values are ignored."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def composite(pixels: Floats, alpha: Floats, background: tuple[float, float, float]) -> None:
    """Blend `pixels` (H, W, 3), in place, with `background` by `alpha` (H, W); opaque pixels stay exactly the same."""
    for rows in iter_strips(*alpha.shape):
        share = alpha[rows][..., None]  # (h, W, 1)
        pixels[rows] *= share
        pixels[rows] += (1 - share) * np.asarray(background, np.float32)


# Curves and primaries


def decode_srgb(values: NDArray[Any]) -> NDArray[Any]:
    """Return linear light in [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: NDArray[Any]) -> NDArray[Any]:
    """Return sRGB values of linear light; the inverse of `decode_srgb`."""
    curved = 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, curved)


def _decode_smpte240(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.where(values < 0.0912, values / 4, ((values + 0.1115) / 1.1115) ** (1 / 0.45)))


CURVES: dict[int, float | Callable[[NDArray[Any]], NDArray[Any]]] = {
    4: 2.2,
    5: 2.8,
    7: _decode_smpte240,
    8: 1.0,
    9: lambda values: np.where(values <= 0, 0, 10 ** (2 * (values - 1))),
    10: lambda values: np.where(values <= 0, 0, 10 ** (2.5 * (values - 1))),
    17: lambda values: np.minimum(values**2.6 * 52.37 / 48, 1),
}
"""TransferCharacteristics to linear light, as an exponent or a function; see also `SRGB_LIKE`, `PQ` and `HLG`."""


def expand_narrow(values: Floats, depth: int) -> Floats:
    """Stretch a narrow-range signal of `depth` bits, given in [0, 1], to full range (H.273, equation 20)."""
    scale = np.float32((2**depth - 1) / 2 ** (depth - 8))
    expanded: Floats = np.clip((values * scale - 16) / np.float32(219), 0, 1)
    return expanded


def convert_matrix(primaries: Primaries) -> NDArray[np.float64]:
    """Return the matrix from linear RGB of these primaries to linear sRGB; whites are adapted by Bradford's method."""
    return np.linalg.inv(_compute_xyz(SRGB_PRIMARIES)) @ _adapt_white(primaries[0], D65) @ _compute_xyz(primaries)


def _compute_xyz(primaries: Primaries) -> NDArray[np.float64]:
    white, *colors = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries)
    columns = np.stack(colors, axis=1)  # (3, 3)
    return columns * np.linalg.solve(columns, white)


def _adapt_white(source: tuple[float, float], target: tuple[float, float]) -> NDArray[np.float64]:
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    before, after = (cone @ np.array([x / y, 1, (1 - x - y) / y]) for x, y in (source, target))
    return np.asarray(np.linalg.inv(cone) @ np.diag(after / before) @ cone, np.float64)


def lab_to_srgb(lab: Floats) -> Floats:
    """Convert CIE L*a*b* with white D50 (L from 0 to 100) to sRGB in [0, 1]."""
    height = (lab[..., 0] + 16) / 116
    roots = np.stack([height + lab[..., 1] / 500, height, height - lab[..., 2] / 200], -1)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * (108 / 841))
    d50 = (0.34567, 0.35850)
    xyz *= [d50[0] / d50[1], 1, (1 - sum(d50)) / d50[1]]
    matrix = np.linalg.inv(_compute_xyz(SRGB_PRIMARIES)) @ _adapt_white(d50, D65)
    return np.asarray(np.clip(encode_srgb(xyz @ matrix.T), 0, 1), np.float32)


# Tone mapping


def decode_pq(values: NDArray[Any]) -> NDArray[Any]:
    """Return cd/m² by SMPTE ST 2084 (ITU-R BT.2100, table 4)."""
    power = np.maximum(values, 0) ** (1 / 78.84375)
    light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return np.asarray(_PQ_PEAK * light)


def encode_pq(light: NDArray[Any] | float) -> NDArray[Any]:
    """Return the signal of cd/m²; the inverse of `decode_pq`."""
    power = (np.maximum(light, 0) / _PQ_PEAK) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def decode_hlg(values: Floats) -> Floats:
    """Return cd/m² (H, W, 3) of hybrid log-gamma on a display of 1000 cd/m² (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    luminance = np.maximum(scene @ _LUMA_2020, 1e-9)[..., None]  # (H, W, 1)
    return np.asarray(_HLG_PEAK * luminance ** (_HLG_GAMMA - 1) * scene, np.float32)


def decode_hdr(values: Floats, transfer: int) -> Floats:
    """Return cd/m² (H, W, 3) of a PQ or HLG signal."""
    return decode_hlg(values) if transfer == HLG else decode_pq(values).astype(np.float32)


def _make_tone_mapper(raw: Raw, points: Cicp) -> _Converter:
    """Return a converter from PQ or HLG; the brightest thousandth of the pixels is white."""

    def decode(samples: Array) -> Floats:
        values = normalize(samples)
        if points.narrow_depth:
            values = expand_narrow(values, points.narrow_depth)
        return decode_hdr(np.broadcast_to(values, (*values.shape[:2], 3)), points.transfer)

    counts = np.zeros(1025, np.int64)
    for rows in iter_strips(*raw.samples.shape[:2]):
        signal = encode_pq(decode(raw.samples[rows]).max(axis=-1))
        counts += np.bincount(np.rint(signal * 1024).astype(int).ravel(), minlength=1025)
    peak = float(decode_pq(np.searchsorted(counts.cumsum(), 0.999 * counts.sum()) / 1024))
    return lambda samples: tone_map(decode(samples), PRIMARIES[points.primaries], peak)


def tone_map(light: Floats, primaries: Primaries, peak: float) -> Floats:
    """Convert cd/m² (H, W, 3) to sRGB in [0, 1].

    203 cd/m² become white. What is far below stays as it is; from a knee on, highlights up to `peak` are compressed by
    the Hermite spline of ITU-R BT.2390 (section 5.4.1, on the scale of PQ). It is applied to the largest of R, G and B,
    and to the others in proportion, which keeps hues. Colors outside sRGB are mixed with gray until they fit.
    """
    largest = light.max(axis=-1, keepdims=True)  # (H, W, 1)
    mapped = _compress(largest, max(peak, REFERENCE_WHITE))
    ratio = np.divide(mapped, largest, out=np.ones_like(largest), where=largest > 0)
    linear = (light * (ratio / np.float32(REFERENCE_WHITE))) @ convert_matrix(primaries).T.astype(np.float32)
    luma = np.clip(linear @ np.array([0.2126, 0.7152, 0.0722], np.float32), 0, 1)[..., None]  # (H, W, 1)
    room = np.where(linear < 0, luma / np.maximum(luma - linear, 1e-9), 1)
    room = np.minimum(room, np.where(linear > 1, (1 - luma) / np.maximum(linear - luma, 1e-9), 1))
    linear = luma + (linear - luma) * room.min(axis=-1, keepdims=True)
    return np.asarray(np.clip(encode_srgb(linear), 0, 1), np.float32)


def _compress(light: Floats, peak: float) -> Floats:
    """Map [0, peak] to [0, 203] cd/m² by the curve of BT.2390; values above `peak` become 203."""
    source, target = float(encode_pq(peak)), float(encode_pq(REFERENCE_WHITE))
    signal = np.minimum(encode_pq(light) / source, 1)  # (H, W, 1)
    top = target / source
    knee = 1.5 * top - 0.5
    if knee >= 1:
        return np.minimum(light, np.float32(REFERENCE_WHITE))
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * top
    return np.where(signal < knee, light, decode_pq(spline * source)).astype(np.float32)
